"""Leaky integrate-and-fire neurons: pure steps with hand-written derivatives, and their modules.

One step takes the input current and the state before, and gives the state after. In all forms the
state is what the neuron had *before its reset*; the reset is part of the next step::

    form A   m[t] = α (m[t-1] − θ s[t-1]) + i[t]        s[t] = [m[t] ≥ θ]   SLTT Eqs 2, 3
    form B   m[t] = α m[t-1] − θ s[t-1] + i[t]          s[t] = [m[t] ≥ θ]   TT-LBP Eq 1
    chip     m[t] = clip(⌊α m[t-1] (1 − s[t-1])⌉₀ + i[t])   s[t] = [m[t] > θ]   Lava's LIF
    soft     m[t] = clip(⌊α (m[t-1] − θ s[t-1])⌉₀ + i[t])   s[t] = [m[t] > θ]   form A on the grid
    hard     the chip's without clip and rounding: what the grid costs is the difference

with α the part of the membrane that is kept, θ the threshold, ⌊·⌉₀ rounding towards zero. Between
α = 1 and 0 lie the chip's decays: α = (4096 − d) / 4096. The chip's m, i and θ are in register
units (64 a weight unit: the 6 bits by which the chip shifts input and threshold), integers of 24
bits, which float32 holds exactly; rounding and clip are straight-through.

Backwards, with δ[t] = ∂E/∂m[t] in total and φ the surrogate's slope::

    δ[t]        = (∂E/∂m[t] through the state) + φ[t] ∂E/∂s[t]
    ∂E/∂i[t]    = δ[t]
    ∂E/∂θ      += −φ[t] ∂E/∂s[t]       and, through the reset of A and B, as below

which :class:`_Step` computes in one go and with three saved tensors: what autograd would do to the
equations above term by term, several times as fast; for the chip's neurons on the CPU in one pass
over memory (:mod:`trainer.kernels`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from loihi import formats
from loihi.errors import PumiceError
from trainer import grid, kernels
from trainer.memory import is_dense
from trainer.surrogates import Surrogate

REGISTER = float(1 << formats.STATE_SHIFT)
"""Register units a weight unit: synaptic input, thresholds and biases are shifted by 6 bits."""
LEAST = 1e-3
"""No threshold in real numbers falls below."""


class State(NamedTuple):
    """What a neuron carries from step to step.

    m: membrane before the reset, in the current's unit, ``[N, *shape]``.
    s: spikes, 0 or 1, ``[N, *shape]``.
    theta: the threshold that a soft reset will subtract for those spikes: one a layer or a neuron.
    u: the synaptic current, ``[N, *shape]``; None where it has no memory.
    gone: the spikes as the reset sees them; None: as everybody does.
    """

    m: Tensor
    s: Tensor
    theta: Tensor
    u: Tensor | None = None
    gone: Tensor | None = None

    def detach(self) -> State:
        """sg(·) of everything: no gradient goes to earlier steps."""
        u = None if self.u is None else self.u.detach()
        return State(self.m.detach(), self.s.detach(), self.theta.detach(), u)

    def leaf(self) -> State:
        """The same numbers, as leaves that take gradients."""

        def fresh(x: Tensor) -> Tensor:
            return x.detach().requires_grad_()

        u = None if self.u is None else fresh(self.u)
        return State(fresh(self.m), fresh(self.s), fresh(self.theta), u)

    def detach_reset(self) -> State:
        """sg(s) in the reset: it happens, but is no path for the gradient."""
        return self._replace(gone=self.s.detach())


class Grads(NamedTuple):
    """What a form's part of the backward pass gives; None where it is not needed."""

    m: Tensor | None
    s: Tensor | None
    theta: Tensor | None
    alpha: Tensor | None


Needs = tuple[bool, bool, bool, bool]


class FormA:
    """``m = α (m − θ s) + i``, ``s = [m ≥ θ]``: soft reset inside the leak (SLTT Eq 2)."""

    name = "A"
    on_grid = False

    @staticmethod
    def integrate(i: Tensor, m: Tensor, s: Tensor, theta: Tensor, alpha: Tensor) -> Tensor:
        return alpha * (m - theta * s) + i

    @staticmethod
    def fires(m: Tensor, theta: Tensor) -> Tensor:
        return m >= theta

    @staticmethod
    def gradients(
        delta: Tensor, m: Tensor, s: Tensor, theta: Tensor, alpha: Tensor, needs: Needs
    ) -> Grads:
        need_m, need_s, need_theta, need_alpha = needs
        back = alpha * delta
        return Grads(
            back if need_m else None,
            -theta * back if need_s else None,
            -(back * s).sum_to_size(theta.shape) if need_theta else None,
            (delta * (m - theta * s)).sum_to_size(alpha.shape) if need_alpha else None,
        )


class FormB(FormA):
    """``m = α m − θ s + i``, ``s = [m ≥ θ]``: soft reset beside the leak (TT-LBP Eq 1)."""

    name = "B"

    @staticmethod
    def integrate(i: Tensor, m: Tensor, s: Tensor, theta: Tensor, alpha: Tensor) -> Tensor:
        return alpha * m - theta * s + i

    @staticmethod
    def gradients(
        delta: Tensor, m: Tensor, s: Tensor, theta: Tensor, alpha: Tensor, needs: Needs
    ) -> Grads:
        need_m, need_s, need_theta, need_alpha = needs
        return Grads(
            alpha * delta if need_m else None,
            -theta * delta if need_s else None,
            -(delta * s).sum_to_size(theta.shape) if need_theta else None,
            (delta * m).sum_to_size(alpha.shape) if need_alpha else None,
        )


class Soft(FormA):
    """``m = clip(⌊α (m − θ s)⌉₀ + i)``, ``s = [m > θ]``: form A in the chip's integers."""

    name = "soft"
    on_grid = True

    @staticmethod
    def integrate(i: Tensor, m: Tensor, s: Tensor, theta: Tensor, alpha: Tensor) -> Tensor:
        limit = formats.STATE_MAX - 1
        return truncated(torch.addcmul(m, theta, s, value=-1), alpha).add_(i).clamp_(-limit, limit)

    @staticmethod
    def fires(m: Tensor, theta: Tensor) -> Tensor:
        return m > theta


class Chip:
    """``m = clip(⌊α m (1 − s)⌉₀ + i)``, ``s = [m > θ]``: hard reset, Lava's integers.

    The product of 24 bits and a 12-bit decay needs float64; what is stored fits float32 again.
    """

    name = "chip"
    on_grid = True

    @staticmethod
    def integrate(i: Tensor, m: Tensor, s: Tensor, theta: Tensor, alpha: Tensor) -> Tensor:
        limit = formats.STATE_MAX - 1
        return truncated(torch.addcmul(m, m, s, value=-1), alpha).add_(i).clamp_(-limit, limit)

    @staticmethod
    def fires(m: Tensor, theta: Tensor) -> Tensor:
        return m > theta

    @staticmethod
    def gradients(
        delta: Tensor, m: Tensor, s: Tensor, theta: Tensor, alpha: Tensor, needs: Needs
    ) -> Grads:
        need_m, need_s, _, need_alpha = needs
        back = alpha * delta if need_m or need_s else delta
        return Grads(
            torch.addcmul(back, back, s, value=-1) if need_m else None,
            (back * m).neg_() if need_s else None,
            None,
            (delta * torch.addcmul(m, m, s, value=-1)).sum_to_size(alpha.shape)
            if need_alpha
            else None,
        )


class Hard(Chip):
    """``m = α m (1 − s) + i``, ``s = [m > θ]``: the chip's neuron in real numbers."""

    name = "hard"
    on_grid = False

    @staticmethod
    def integrate(i: Tensor, m: Tensor, s: Tensor, theta: Tensor, alpha: Tensor) -> Tensor:
        return alpha * torch.addcmul(m, m, s, value=-1) + i


Form = FormA | FormB | Chip
FORMS: dict[str, Form] = {form.name: form for form in (Chip(), Soft(), Hard(), FormA(), FormB())}


def truncated(x: Tensor, alpha: Tensor) -> Tensor:
    """``⌊α x⌉₀``: the chip's decay of integers ``x`` of at most 32 bits, α a multiple of 1/4096."""
    product = x.to(torch.float64, copy=True).mul_(alpha.double())
    return product.int().to(x.dtype)  # rounds towards zero, and four times as fast as torch.trunc


class _Step(torch.autograd.Function):
    """One step of any form; the derivatives are those at the top of this file."""

    @staticmethod
    def forward(
        ctx: Any,
        i: Tensor,
        m: Tensor,
        s: Tensor,
        theta_before: Tensor,
        alpha: Tensor,
        theta: Tensor,
        form: Form,
        surrogate: Surrogate,
    ) -> tuple[Tensor, Tensor]:
        ctx.fused = form.name == "chip" and can_fuse(i, m, s, alpha, theta)
        if ctx.fused:
            after, spikes = torch.empty_like(i), torch.empty_like(i)
            limit = float(formats.STATE_MAX - 1)
            at_i, at_m, at_s, at_after, at_spikes = flat(i, m, s, after, spikes)
            kept, level = float(alpha), float(theta)
            kernels.chip_step(at_i, at_m, at_s, kept, level, limit, at_after, at_spikes)
        else:
            after = form.integrate(i, m, s, theta_before, alpha)
            spikes = form.fires(after, theta).to(after.dtype)
        ctx.form, ctx.surrogate = form, surrogate
        ctx.save_for_backward(after, m, s, theta_before, alpha, theta)
        ctx.set_materialize_grads(False)
        return after, spikes

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        of_m, of_s = grads
        if of_m is None and of_s is None:
            return (None,) * 8
        after, m, s, theta_before, alpha, theta = ctx.saved_tensors
        # One order of axes, else sums would be taken in another order from time to time.
        of_m, of_s = (None if g is None else like(g, after) for g in (of_m, of_s))
        if ctx.fused:
            return _fused_errors(ctx, of_m, of_s)
        delta, theta_grad = of_m, None
        if of_s is not None:
            through_spike = ctx.surrogate.slope(after, theta).mul_(of_s)
            if ctx.needs_input_grad[5]:
                theta_grad = -through_spike.sum_to_size(theta.shape)
            delta = through_spike if of_m is None else through_spike.add_(of_m)
        before = ctx.form.gradients(delta, m, s, theta_before, alpha, ctx.needs_input_grad[1:5])
        return (delta, *before, theta_grad, None, None)


def can_fuse(*tensors: Tensor) -> bool:
    """Whether the compiled step takes these: states, then α and θ, which must be one a layer."""
    *states, alpha, theta = tensors
    shape = states[0].shape
    return (
        alpha.dim() == theta.dim() == 0
        and all(
            x.dtype == torch.float32
            and x.device.type == "cpu"
            and x.shape == shape
            and x.stride() == states[0].stride()
            for x in states
        )
        and is_dense(states[0])
    )


def flat(*tensors: Tensor) -> list[Any]:
    """Dense tensors in the order of their memory."""
    return [x.detach().as_strided((x.numel(),), (1,)).numpy() for x in tensors]


def fits(x: Tensor, limit: float) -> bool:
    """Whether all numbers are known to be below ``limit`` in magnitude: on the CPU they are looked
    at, elsewhere it would take longer than it saves."""
    known = x.device.type == "cpu" and x.dtype == torch.float32 and is_dense(x)
    return known and bool(kernels.within(flat(x)[0], limit))


def like(x: Tensor, other: Tensor) -> Tensor:
    """The same numbers in the other's order of axes."""
    return x if x.stride() == other.stride() else torch.empty_like(other).copy_(x)


_NOTHING = np.empty(0, dtype=np.float32)


def _fused_errors(ctx: Any, of_m: Tensor | None, of_s: Tensor | None) -> tuple[Any, ...]:
    after, m, s, _, alpha, theta = ctx.saved_tensors
    _, needs_m, needs_s, _, needs_alpha, needs_theta = ctx.needs_input_grad[:6]
    surrogate = ctx.surrogate
    delta = torch.empty_like(after)
    to_m = torch.empty_like(after) if needs_m else None
    to_s = torch.empty_like(after) if needs_s else None
    blocks = -(-after.numel() // kernels.BLOCK)
    sums = np.empty((blocks, 2))
    given = [_NOTHING if g is None else flat(g)[0] for g in (of_m, of_s)]
    wanted = [_NOTHING if g is None else flat(g)[0] for g in (to_m, to_s)]
    unit = float(theta) if surrogate.unit is None else float(surrogate.unit)
    at, before, spiked, out = flat(after, m, s, delta)
    kept, level = float(alpha), float(theta)
    width = float(surrogate.width)
    kernels.chip_errors(
        surrogate.shape, at, before, spiked, given[0], given[1], kept, level, unit, width,
        out, wanted[0], wanted[1], sums,
    )  # fmt: skip
    of_theta, of_alpha = sums.sum(axis=0)
    return (
        delta,
        to_m,
        to_s,
        None,
        torch.tensor(of_alpha, dtype=alpha.dtype) if needs_alpha else None,
        torch.tensor(of_theta, dtype=theta.dtype) if needs_theta and of_s is not None else None,
        None,
        None,
    )


def step(
    i: Tensor,
    before: State,
    alpha: Tensor,
    theta: Tensor,
    form: Form,
    surrogate: Surrogate,
) -> tuple[Tensor, Tensor]:
    """Membrane (before its reset) and spikes after one step with the current ``i``.

    i, before: ``[N, *shape]``; on the grid integers in register units.
    alpha, theta: the kept part of the membrane and the threshold, in i's unit; scalars, or one a
        neuron, ``shape``.
    """
    gone = before.s if before.gone is None else before.gone
    after, spikes = _Step.apply(i, before.m, gone, before.theta, alpha, theta, form, surrogate)
    return after, spikes


class _Current(torch.autograd.Function):
    """Lava's synaptic current: ``u = wrap(⌊β u⌉₀ + a)``, one turn by 2^24 after int32's;
    straight-through."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, u: Tensor | None, beta: Tensor | None) -> Tensor:
        if u is None or beta is None:
            return _wrap24(_wrap32(a))
        ctx.save_for_backward(u, beta)
        return _wrap24(_wrap32(truncated(u, beta).add_(_wrap32(a))))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (delta,) = grads
        _, needs_u, needs_beta = ctx.needs_input_grad
        if not (needs_u or needs_beta):
            return delta, None, None
        u, beta = ctx.saved_tensors
        delta = like(delta, u)
        return delta, beta * delta if needs_u else None, (delta * u).sum() if needs_beta else None


def current(a: Tensor, u: Tensor | None = None, beta: Tensor | None = None) -> Tensor:
    """The synaptic current after input ``a``, from ``u`` before of which ``beta`` is kept.

    All in register units ``[N, *shape]``; beta a scalar. Without ``u`` the current has no memory
    (du = 4096), and only the register's wrap remains.
    """
    result: Tensor = _Current.apply(a, u, beta)
    return result


def _wrap32(x: Tensor) -> Tensor:
    """What is left after Lava's store to int32."""
    return x - torch.floor((x + 2.0**31) / 2.0**32) * 2.0**32


def _wrap24(u: Tensor) -> Tensor:
    turn, limit = 2.0 * formats.STATE_MAX, float(formats.STATE_MAX)
    return torch.where(u > limit, u - turn, torch.where(u <= -limit, u + turn, u))


class Neurons(nn.Module):
    """A layer's neurons: their parameters, and the step with these.

    form ``chip``, ``soft``: parameters are in the chip's units, on its grid in the forward pass:
        ``vth`` threshold mantissa (1..131071), ``dv`` membrane decay and ``du`` current decay
        (0..4096), ``bias`` mantissas (−4096..4095), one a channel or feature.
    form ``hard``, ``A``, ``B``: ``vth`` is θ, ``dv`` is 4096 (1 − α), ``bias`` is added to the
        current; real numbers all of them.

    vth and dv are learnable, as is du below 4096; at 4096 the current has no memory, and du is
    fixed. With ``learns`` False nothing here learns.

    shape: None: one threshold and one leak for the layer, which is what Loihi's and Lava's LIF
        hold; a layer's output shape: one for every neuron, for targets that can.
    """

    def __init__(
        self,
        channels: int,
        *,
        form: str = "chip",
        surrogate: Surrogate | None = None,
        vth: float = 64.0,
        dv: float = 0.0,
        du: float = float(formats.DECAY_ONE),
        bias: bool = False,
        learns: bool = True,
        shape: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__()
        if form not in FORMS:
            raise PumiceError(f"neuron form {form!r} is unknown: use one of {', '.join(FORMS)}")
        self.form = FORMS[form]
        self.surrogate = surrogate or Surrogate()
        self.vth = nn.Parameter(torch.full(shape or (), float(vth)))
        self.dv = nn.Parameter(torch.full(shape or (), float(dv)))
        self.du = nn.Parameter(torch.tensor(float(du))) if du < formats.DECAY_ONE else None
        self.bias = nn.Parameter(torch.zeros(channels)) if bias else None
        self.requires_grad_(learns)
        self._learns = learns

    def hold_surrogate(self, threshold: float) -> None:
        """The surrogate's unit is ``threshold``, whatever the threshold learns from here on."""
        unit = threshold * (REGISTER if self.on_grid else 1.0)
        self.surrogate = replace(self.surrogate, unit=unit)

    def learn(self, threshold: bool, leak: bool) -> None:
        """Which of the neurons' own parameters learn; none of those made with ``learns`` False."""
        if self._learns:
            self.vth.requires_grad_(threshold)
            self.dv.requires_grad_(leak)
            if self.du is not None:
                self.du.requires_grad_(leak)

    @property
    def on_grid(self) -> bool:
        """Whether the neurons compute the chip's integers."""
        return self.form.on_grid

    def thresholds(self) -> Tensor:
        """θ in the current's unit."""
        return grid.threshold(self.vth) * REGISTER if self.on_grid else self.vth

    def kept(self, decay: Tensor) -> Tensor:
        """α of a decay d: (4096 − d) / 4096."""
        return 1 - (grid.decay(decay) if self.on_grid else decay) / formats.DECAY_ONE

    def biases(self) -> Tensor | None:
        """The bias in the current's unit, ``[channels]``."""
        if self.bias is None or not self.on_grid:
            return self.bias
        return grid.bias(self.bias) * REGISTER

    @torch.no_grad()
    def project(self) -> None:
        """Parameters back into the chip's ranges; in real numbers, thresholds above 0 and leaks of
        0 to 1."""
        if self.on_grid:
            self.vth.clamp_(grid.VTH_MIN, formats.VTH_MAX)
        else:
            self.vth.clamp_(min=LEAST)
        self.dv.clamp_(0, formats.DECAY_ONE)
        if self.du is not None:
            self.du.clamp_(0, formats.DECAY_ONE)
        if self.bias is not None and self.on_grid:
            self.bias.clamp_(formats.BIAS_MIN, formats.BIAS_MAX)
