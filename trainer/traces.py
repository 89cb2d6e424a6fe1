"""Traces: what a gradient needs of the past, carried forwards, so that nothing of it is stored.

STOP's derivation (see :mod:`trainer.rules.stop`): with δ[t] = φ ∂E[t]/∂s[t] the error at the
membrane, which comes from the layers above in the same step,

    ΔW = Σ_t δ[t] w̃[t]ᵀ     Δθ_j = Σ_t δ_j[t] (θ̃_j[t] − 1)     Δα = Σ_t Σ_j δ_j[t] α̃_j[t]

    form A     w̃ = α w̃ + x[t]       θ̃ = α (θ̃ − s[t-1])    α̃ = α α̃ + (u[t-1] − θ s[t-1])
    form B     w̃ = α w̃ + x[t]       θ̃ = α θ̃ − s[t-1]      α̃ = α α̃ + u[t-1]
    hard reset w̃ = α (1 − s[t-1]) w̃ + x[t]    θ̃ = 0       α̃ = α (1 − s[t-1]) α̃ + u[t-1] (1 − s[t-1])

with α, θ, u and s those of the *receiving* neurons. On the chip w̃ is then one trace a synapse, as
the receivers reset at different times. What fits into a chip's or a GPU's memory is one a
presynaptic neuron, as if nothing were reset, and of what it holds of earlier steps the part that a
receiver's resets have left::

    w̃_ji ≈ x_i[t] + ρ_j α x̃_i[t-1]        x̃ = α x̃ + x[t]
    ρ_j = (c_j − 1) / (c − 1)             c_j = α (1 − s_j[t-1]) c_j + 1        c = α c + 1

It is exact after a reset, before the first, and for what is the same in every step, as a static
input or a bias is. And what a receiver's exact traces come to is known without any: Σ_i w_ji w̃_ji
is what the synapse brought since the last reset, e_j. So the approximate ones are moved to where
that holds, by the shortest way, after which a receiver's are together no further from the exact
ones than before (a convolution's inside the border)::

    … + w_ji (e_j[t-1] (1 − s_j[t-1]) − ρ_j f_j[t-1]) α / Σ_i w_ji²
    e_j = α (1 − s_j[t-1]) e_j + Σ_i w_ji x_i[t]        f_j = α f_j + Σ_i w_ji x_i[t]

A gradient's part along the weights, by which alone weight standardisation's gain learns, is exact
then (of a convolution's kernel, that along the kernel). A current that outlives its step (du <
4096, β kept of it) puts a trace of its own before each: ũ = β ũ + x[t], w̃ = … + ũ[t], and the same
with u[t-1] of the current for β.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainer import kernels
from trainer.neurons import Chip, Neurons, State, can_fuse, flat, like

TINY = 1e-30
"""For nothing, where it is divided by."""


@dataclass(frozen=True)
class Tracing:
    """Which traces a batch is to keep.

    neurons: for threshold and leak too (STOP); without, they get no gradient (OTTT).
    per_synapse: a trace a synapse where the neurons' resets need it (exact); else one a presynaptic
        neuron, and for STOP a number a receiver. Soft-reset neurons with one leak a layer need no
        more than a presynaptic trace to be exact.
    mean: θ's and α's gradients are averaged over a layer's neurons, not summed.
    """

    neurons: bool = True
    per_synapse: bool = False
    mean: bool = False


class Trace:
    """One trace and, where the current outlives its step, the one before it."""

    def __init__(self) -> None:
        self.value: Tensor | None = None
        self._current: Tensor | None = None

    def update(self, x: Tensor, keep: Tensor, beta: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """``keep · trace + x``. Returns what the step brought, and the trace as it was; None: 0."""
        if beta is not None:
            self._current = x if self._current is None else _plus(x, beta, self._current)
            x = self._current
        before = self.value
        self.value = x if before is None else _plus(x, keep, before)
        return x, before


def _plus(x: Tensor, keep: Tensor, past: Tensor) -> Tensor:
    if keep.dim() == 0 and x.device.type == "cpu":
        return torch.add(x, past, alpha=float(keep))  # one pass over memory
    return keep * past + x


class MessageTrace(Trace):
    """The trace of one synapse's messages, and what of the receivers' current it falls short of."""

    def __init__(self) -> None:
        super().__init__()
        self._brought, self._unreset = Trace(), Trace()
        self._step: tuple[Tensor, Tensor | None] | None = None

    def follow(self, x: Tensor, keep: Tensor, beta: Tensor | None) -> None:
        """:meth:`update`, what it returns being kept until it is taken."""
        self._step = self.update(x, keep, beta)

    def take(self) -> tuple[Tensor, Tensor | None]:
        """What this step brought, and the trace before it: not held here any longer."""
        assert self._step is not None
        step, self._step = self._step, None
        return step

    def missing(self, a: Tensor, traces: LayerTraces) -> Tensor | None:
        """What the traces fall short of, times Σ_i w_ji², as at the top of this file; None for
        the first messages, and where all of them is left.

        a: what the messages brought, ``[N, *shape]``.
        """
        if traces.kept is None:
            return None
        brought, unreset, left = self._brought, self._unreset, traces.left
        e, f, plain = brought.value, unreset.value, traces.decay is None
        if e is not None and f is not None and left is not None and plain:
            states = a, e, f, traces.kept, left
            if can_fuse(*states, traces.keep, traces.keep):
                brought.value, unreset.value, missing = (torch.empty_like(a) for _ in range(3))
                found = flat(brought.value, unreset.value, missing)
                kernels.missing(float(traces.keep), *flat(*states), *found)
                return missing
        brought.update(a, traces.kept, traces.decay)
        unreset.update(a, traces.keep, traces.decay)
        if e is None or f is None or left is None:
            return None
        return torch.addcmul(traces.kept * e, left, traces.keep * f, value=-1)


class LayerTraces:
    """The traces of a layer's neurons, and of the messages that its synapses bring."""

    def __init__(self, tracing: Tracing, neurons: Neurons, links: int) -> None:
        self.tracing, self.neurons = tracing, neurons
        # One leak a neuron makes the trace one a synapse, whatever the reset.
        self.per_synapse = neurons.dv.dim() > 0 or (
            tracing.per_synapse and isinstance(neurons.form, Chip)
        )
        self.messages = [MessageTrace() for _ in range(links)]
        self.constant, self.bias, self._unreset = Trace(), Trace(), Trace()
        self.left: Tensor | None = None
        """What a receiver's resets have left of earlier steps' traces; None: all, or there is no
        earlier step."""
        self.kept: Tensor | None = None
        """What a receiver keeps of its membrane in this step, where its resets leave a part."""
        self.theta: Tensor | None = None
        self.alpha, self.beta = Trace(), Trace()
        self.keep: Tensor = torch.zeros(())
        self.decay: Tensor | None = None

    @torch.no_grad()
    def advance(self, before: State, alpha: Tensor, beta: Tensor | None) -> None:
        """The neurons' own traces, and what is kept of the synapses', at a step's beginning.

        alpha, beta: what is kept of membrane and current.
        """
        m, s, theta = before.m, before.s, before.theta
        name, hard = self.neurons.form.name, isinstance(self.neurons.form, Chip)
        plain = hard and self.tracing.neurons and beta is None and not self.per_synapse
        if plain and can_fuse(m, s, alpha, theta):
            self._advance_in_one_pass(m, s, alpha)
            return
        gate = 1 - s if hard else None
        kept = alpha if gate is None else alpha * gate
        self.decay = beta
        self.keep = kept if self.per_synapse else alpha
        one = torch.ones_like(m)
        if not self.tracing.neurons:
            self.constant.update(one, self.keep, beta)
            self.bias.update(one, self.keep, None)
            return
        _, c = self.constant.update(one, kept, beta)
        self.bias.update(one, kept, None)
        if gate is not None and not self.per_synapse:
            self.kept = kept
            _, whole = self._unreset.update(one.new_ones(()), alpha, beta)
            if c is not None and whole is not None:
                self.left = kept * c / (alpha * whole).clamp(min=TINY)
        if name in ("A", "soft"):
            past = torch.zeros_like(m) if self.theta is None else self.theta
            self.theta, drive = alpha * (past - s), m - theta * s
        elif name == "B":
            self.theta = -s if self.theta is None else alpha * self.theta - s
            drive = m
        else:
            assert gate is not None
            self.theta, drive = None, m * gate
        self.alpha.update(drive, kept, None)
        if beta is not None and before.u is not None:
            self.beta.update(before.u, kept, beta)

    def _advance_in_one_pass(self, m: Tensor, s: Tensor, alpha: Tensor) -> None:
        """:meth:`advance` of hard-reset neurons without a current, compiled."""
        traces, self.keep = (self.constant, self.alpha), alpha
        past = [torch.zeros_like(m) if t.value is None else like(t.value, m) for t in traces]
        c, a, left, kept = (torch.empty_like(m) for _ in range(4))
        _, before = self._unreset.update(m.new_ones(()), alpha, None)
        whole = TINY if before is None else max(float(alpha * before), TINY)
        kernels.hard_traces(float(alpha), whole, *flat(m, s, *past, c, a, left, kept))
        self.constant.value = self.bias.value = c
        self.alpha.value, self.kept, self.left = a, kept, None if before is None else left


class _TracedSpike(torch.autograd.Function):
    """Spikes whose errors go to the current of the same step, and to θ, α, β by their traces."""

    @staticmethod
    def forward(
        ctx: Any,
        i: Tensor,
        theta: Tensor,
        alpha: Tensor,
        beta: Tensor | None,
        after: Tensor,
        spikes: Tensor,
        traces: LayerTraces,
    ) -> Tensor:
        ctx.save_for_backward(after, theta, alpha, beta)
        ctx.traces = traces
        # As of this step: the traces go on before the error comes only if a rule lets them.
        ctx.then = traces.theta, traces.alpha.value, traces.beta.value
        return spikes.view_as(spikes)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        after, theta, alpha, beta = ctx.saved_tensors
        traces: LayerTraces = ctx.traces
        neurons, of_s = traces.neurons, like(grads[0], after)
        of_theta, of_alpha, of_beta = ctx.then
        scale = 1.0 if not traces.tracing.mean else theta.numel() * len(after) / after.numel()
        _, needs_theta, needs_alpha, needs_beta = ctx.needs_input_grad[:4]
        if of_alpha is not None and of_theta is None and of_beta is None:
            trace = like(of_alpha, after)
            if can_fuse(after, of_s, trace, alpha, theta):
                delta, to_theta, to_alpha = _in_one_pass(neurons, after, of_s, trace, theta)
                return (
                    delta,
                    theta.new_tensor(to_theta * scale) if needs_theta else None,
                    alpha.new_tensor(to_alpha * scale) if needs_alpha else None,
                    *(None,) * 4,
                )
        delta = neurons.surrogate.slope(after, theta).mul_(of_s)
        if not traces.tracing.neurons:
            return (delta, *(None,) * 6)

        def total(trace: Tensor, of: Tensor) -> Tensor:
            return (delta * trace).sum_to_size(of.shape) * scale

        one = torch.ones((), dtype=delta.dtype, device=delta.device)
        return (
            delta,
            total(-one if of_theta is None else of_theta - 1, theta) if needs_theta else None,
            total(of_alpha, alpha) if needs_alpha else None,
            total(of_beta, beta) if needs_beta else None,
            None,
            None,
            None,
        )


def _in_one_pass(
    neurons: Neurons, after: Tensor, of_s: Tensor, trace: Tensor, theta: Tensor
) -> tuple[Tensor, float, float]:
    """δ, −Σ δ and Σ δ · trace, compiled."""
    delta, phi = torch.empty_like(after), neurons.surrogate
    sums = np.empty((-(-after.numel() // kernels.BLOCK), 2))
    level = float(theta)
    unit, width = level if phi.unit is None else float(phi.unit), float(phi.width)  # type: ignore
    at, error, past, out = flat(after, of_s, trace, delta)
    kernels.traced_errors(phi.shape, at, error, past, level, unit, width, out, sums)
    of_theta, of_alpha = sums.sum(axis=0)
    return delta, of_theta, of_alpha


def traced_spike(
    i: Tensor,
    theta: Tensor,
    alpha: Tensor,
    beta: Tensor | None,
    after: Tensor,
    spikes: Tensor,
    traces: LayerTraces,
) -> Tensor:
    """``spikes`` ``[N, *shape]`` with the gradients at the top of this file.

    i: the step's current, which gets δ. after: the membrane before its reset.
    """
    result: Tensor = _TracedSpike.apply(i, theta, alpha, beta, after, spikes, traces)
    return result
