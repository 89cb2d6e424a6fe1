"""Layers: synapses and the neurons that they feed.

What a layer needs in every step of a batch (weights and thresholds on the grid, decays) is computed
once a batch: :meth:`Layer.prepare`. On the grid everything is in register units, as in
:mod:`trainer.synapses`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import loihi
from loihi import formats
from trainer import grid
from trainer.neurons import REGISTER, Neurons, State, current, fits, step
from trainer.norms import BatchNorm, Moments, per_channel
from trainer.pools import POOL_WEIGHT, AvgPool
from trainer.shared import Shared
from trainer.synapses import Conv, ModelError, Synapse
from trainer.traces import TINY, LayerTraces, MessageTrace, traced_spike


class Link(nn.Module):
    """A further synapse onto a layer's neurons, and the layers whose spikes it carries, added up.

    sources: indices of layers, −1 for the input. Of a layer before, the spikes are the same
    step's; of the layer itself or a later one (recurrence), the step's before.
    """

    def __init__(self, synapse: Synapse, sources: Sequence[int]) -> None:
        super().__init__()
        self.synapse, self.sources = synapse, tuple(sources)


class Ready(NamedTuple):
    """A layer's numbers for one batch: θ, α and β (kept of m and u), bias; weights of each link."""

    weights: list[Shared]
    theta: Shared | None = None
    alpha: Shared | None = None
    beta: Shared | None = None
    bias: Shared | None = None


class Layer(nn.Module):
    """Synapses and the neurons that they feed; without neurons, the readout integrator.

    peak: the largest payload or spike that can come in through the first synapse, in magnitude.
    sources: the layers whose spikes the first synapse carries; None: the layer before.
    more: further synapses. carry: an earlier layer whose synaptic input is added to this one's
    (the identity shortcut of pre-activation networks). See :class:`loihi.network.Layer`.
    signed: whether payloads below 0 can come in.
    """

    def __init__(
        self,
        synapse: Synapse,
        neurons: Neurons | None,
        peak: int,
        on_grid: bool = True,
        *,
        sources: Sequence[int] | None = None,
        more: Sequence[Link] = (),
        carry: int | None = None,
        signed: bool = False,
    ) -> None:
        super().__init__()
        self.synapse, self.neurons, self.peak, self.on_grid = synapse, neurons, peak, on_grid
        self.signed = signed
        self.sources = None if sources is None else tuple(sources)
        self.more, self.carry = nn.ModuleList(more), carry
        # Steps are short: what does not change is looked up once.
        self._links = list(more)
        self._synapses = [synapse, *(link.synapse for link in more)]
        bound = synapse.fan_in * max(grid.WEIGHT_MAX, POOL_WEIGHT) * peak
        if isinstance(synapse, Conv) and bound >= formats.STATE_MAX:
            raise ModelError(
                f"{synapse.fan_in} inputs of up to {peak} can overflow the chip's 24-bit "
                "convolution: use smaller payloads"
            )

    @property
    def links(self) -> list[Link]:
        """The further synapses, typed."""
        return self._links

    @property
    def synapses(self) -> list[Synapse]:
        """All synapses, the first one first."""
        return self._synapses

    @property
    def remembers_current(self) -> bool:
        """Whether the synaptic current outlives a step (du < 4096)."""
        return self.neurons is not None and self.neurons.du is not None

    @property
    def batch_norms(self) -> bool:
        """Whether batch norm is at work on its synapses."""
        return any(isinstance(s.norm, BatchNorm) for s in self.synapses)

    def offset(self) -> Tensor | None:
        """What the running statistics of batch norms on its synapses add to the bias,
        ``[channels]`` in weight units."""
        total: Tensor | None = None
        for synapse in self.synapses:
            total = plus(total, synapse.folded()[1])
        return total

    def prepare(
        self,
        share: Callable[[Tensor], Shared],
        per_step: bool = False,
        offset: Tensor | None = None,
    ) -> Ready:
        """This batch's numbers, each through ``share``.

        per_step: weights under batch norm are left as they are, to be folded in every step.
        offset: what else is added to the bias: :meth:`offset`, and that of a carried layer.
        """

        def weights(synapse: Synapse) -> Tensor:
            if per_step and isinstance(synapse.norm, BatchNorm):
                return synapse.real_weights()
            return synapse.weights(self.on_grid)

        ready = Ready([share(s.laid_out(weights(s).to(self._device))) for s in self.synapses])
        n = self.neurons
        if n is None:
            return ready
        bias = plus(n.bias, offset)
        return ready._replace(
            theta=share(n.thresholds()),
            alpha=share(n.kept(n.dv)),
            beta=None if n.du is None else share(n.kept(n.du)),
            bias=None if bias is None else share(bias),
        )

    @property
    def _device(self) -> torch.device:
        parameter = next(self.parameters(), None)
        return torch.device("cpu") if parameter is None else parameter.device

    def receive(
        self, number: int, x: Tensor, ready: Ready, per_step: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """What messages through one of the synapses add to the current, and to the bias.

        number: which synapse. x: ``[N, *shape]``.
        Returns ``[N, *output_shape]``, and if ``per_step`` the batch norm's part of the bias,
        ``[channels]`` in weight units.
        """
        synapse, weight = self.synapses[number], ready.weights[number]
        norm = synapse.norm
        if not per_step or not isinstance(norm, BatchNorm):
            return self._whole(synapse(x, weight, self._step(synapse)), synapse), None
        fold, moments = self.fold(number, x, ready)
        norm.follow(moments)
        return self.receive_folded(number, x, ready, fold[0]), fold[1]

    def fold(self, number: int, x: Tensor, ready: Ready) -> tuple[Tensor, Moments]:
        """What batch norm makes of messages ``x`` by their own statistics: factors of the weights
        and biases, ``[2, channels]``; and mean and variance, without gradient."""
        synapse = self.synapses[number]
        norm = synapse.norm
        assert isinstance(norm, BatchNorm)
        return norm.fold_of(synapse.plain(x, ready.weights[number].now()))

    def receive_folded(self, number: int, x: Tensor, ready: Ready, scale: Tensor) -> Tensor:
        """Messages through weights times batch norm's factors."""
        synapse = self.synapses[number]
        folded = self._folded(ready.weights[number].now(), scale)
        return self._whole(synapse.plain(x, folded, self._step(synapse)), synapse)

    def _folded(self, weight: Tensor, scale: Tensor) -> Tensor:
        folded = weight * per_channel(scale, weight.dim())
        return grid.weight(folded) * REGISTER if self.on_grid else folded

    def _step(self, synapse: Synapse) -> float:
        """What all weights are multiples of, where messages fit int8 too; else 0."""
        small = self.peak * synapse.pixels <= 127
        unsigned = not (self.signed and isinstance(synapse, Conv))
        return grid.WEIGHT_STEP * REGISTER if self.on_grid and small and unsigned else 0.0

    def _whole(self, a: Tensor, synapse: Synapse) -> Tensor:
        if a.is_cuda and self.on_grid and isinstance(synapse, Conv):
            # cuDNN may go by Winograd or FFT, which hit the integers only nearly.
            return grid.whole(a, REGISTER)
        return a

    def receive_traced(
        self,
        number: int,
        x: Tensor,
        ready: Ready,
        traces: LayerTraces,
        trace: MessageTrace,
        per_step: bool = False,
        carried: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """:meth:`receive`, the weights' gradient taken with the messages' trace.

        carried: for another layer, after this one's own: running statistics stay as they are.
        """
        synapse, weight = self.synapses[number], ready.weights[number]
        normalised = per_step and isinstance(synapse.norm, BatchNorm)
        if not weight.value.requires_grad and not normalised:
            return self.receive(number, x, ready)
        with torch.no_grad():
            keep = traces.keep
            if traces.per_synapse:
                if keep.dim() == len(synapse.output_shape):  # before the first spike: α a neuron
                    keep = keep[None]
                kept = synapse.spread(keep) if keep.dim() > 0 else keep
                trace.follow(synapse.patches(x), kept, traces.decay)
            else:
                trace.follow(synapse.traced(x), keep, traces.decay)
        if normalised:
            return self._normalised(number, x, ready, traces, trace, carried)
        a = _TracedProduct.apply(
            x, weight.value, weight, synapse, trace, traces, self._step(synapse)
        )
        return self._whole(a, synapse), None

    def _normalised(
        self,
        number: int,
        x: Tensor,
        ready: Ready,
        traces: LayerTraces,
        trace: MessageTrace,
        carried: bool,
    ) -> tuple[Tensor, Tensor]:
        """Messages through batch norm by their own statistics.

        What weights, γ and β did to earlier steps goes through this step's statistics, as if all
        had the same: exact where they do, as a static input's. The messages' error is this step's
        alone: it goes through the statistics by a way of its own, on which nothing is added.
        """
        synapse, weight = self.synapses[number], ready.weights[number]
        norm = synapse.norm
        assert isinstance(norm, BatchNorm)
        product = synapse.plain(x.detach(), weight.now())
        (scale, offset), moments = norm.fold_of(product)
        if not carried:
            norm.follow(moments)
        folded = self._folded(weight.now(), scale)
        a = _TracedProduct.apply(x, folded, None, synapse, trace, traces, self._step(synapse))
        a = self._whole(a, synapse)
        if x.requires_grad:
            own = _OfMessages.apply(x, product, synapse, weight)
            fold, _ = norm.fold_of(own, fixed=True)
            factor, added = (self._channels(part) for part in fold)
            through = (product.detach() * factor + added) * (REGISTER if self.on_grid else 1)
            a = a + (through - through.detach())
        return a, offset

    @torch.no_grad()
    def input_bound(self, ready: Ready) -> float:
        """What no synaptic input of this batch exceeds in magnitude, in register units."""
        bound = 0.0
        for synapse, weight in zip(self.synapses, ready.weights, strict=True):
            if isinstance(synapse, AvgPool):
                bound += synapse.reach() * REGISTER
                continue
            if isinstance(synapse.norm, BatchNorm):  # the folded weights are known within a step
                total = weight.value[0].numel() * grid.WEIGHT_MAX * REGISTER
            else:
                total = float(weight.value.flatten(1).abs().sum(1).max())
            bound += total * synapse.pixels
        return bound * self.peak

    def wrap(self, a: Tensor) -> Tensor:
        """The register's wrap, of a current that has no memory."""
        if self.remembers_current or not self.on_grid or fits(a, formats.STATE_MAX):
            return a
        return current(a)

    def with_bias(self, a: Tensor, ready: Ready, offset: Tensor | None) -> Tensor:
        """Synaptic input ``a`` that has no memory and cannot wrap, and the bias."""
        bias = self._bias(ready, offset, None)
        return a if bias is None else a + bias

    def rest(self, a: Tensor, ready: Ready) -> State:
        """The state at rest, for synaptic input like ``a``."""
        assert ready.theta is not None
        zero = torch.zeros_like(a)
        u = zero if self.remembers_current else None
        return State(zero, zero, ready.theta.value.detach(), u)

    def advance(
        self,
        a: Tensor,
        before: State | None,
        ready: Ready,
        offset: Tensor | None = None,
        traces: LayerTraces | None = None,
    ) -> State:
        """The state after a step that received ``a``; ``before`` None: from rest.

        offset: what batch norms add to the bias in this step, ``[channels]`` in weight units.
        traces: already those of this step.
        """
        neurons = self.neurons
        assert neurons is not None and ready.theta is not None and ready.alpha is not None
        before = self.rest(a, ready) if before is None else before
        theta, alpha = ready.theta.now(), ready.alpha.now()
        beta = None if ready.beta is None else ready.beta.now()
        bias = self._bias(ready, offset, traces)
        if traces is not None:
            with torch.no_grad():
                u = self._current(a, before.u, beta)
                i = a if u is None else u
                i = i if bias is None else i + bias
                m, s = step(i, before, alpha, theta, neurons.form, neurons.surrogate)
            i = a if bias is None else a + bias  # errors reach both alike, whatever the current
            s = traced_spike(i, theta, alpha, beta, m, s, traces)
            return State(m, s, theta.detach(), u)
        u = self._current(a, before.u, beta)
        i = a if u is None else u
        if bias is not None:
            i = i + bias
        m, s = step(i, before, alpha, theta, neurons.form, neurons.surrogate)
        return State(m, s, theta, u)

    def _current(self, a: Tensor, u: Tensor | None, beta: Tensor | None) -> Tensor | None:
        """The synaptic current with memory, ``u`` being the step's before; None: it has none."""
        if u is None or beta is None:
            return None
        return current(a, u, beta) if self.on_grid else a + beta * u

    def _bias(
        self, ready: Ready, offset: Tensor | None, traces: LayerTraces | None
    ) -> Tensor | None:
        """The bias in the current's unit, shaped for the layer."""
        bias = plus(None if ready.bias is None else ready.bias.now(), offset)
        if bias is None:
            return None
        bias = self._channels(grid.bias(bias) * REGISTER if self.on_grid else bias)
        if traces is not None:  # a bias is a weight on an input that is always 1
            bias = _TracedBias.apply(bias, traces.bias.value)
        return bias

    def _channels(self, x: Tensor) -> Tensor:
        return x[:, None, None] if len(self.synapse.output_shape) == 3 else x

    def freeze(self, offset: Tensor | None = None) -> loihi.Layer:
        """The layer in integers. offset: what batch norms add to the bias, in weight units."""
        if not self.on_grid:
            raise ModelError("only neurons on the chip's grid (chip, soft) can be frozen")
        more = tuple(loihi.Edge(link.synapse.freeze(), link.sources) for link in self.links)
        synapse = self.synapse.freeze()
        n = self.neurons
        if n is None:
            return loihi.Layer(synapse, loihi.INTEGRATOR, self.sources, more, self.carry)
        if n.vth.dim() or n.dv.dim():
            raise ModelError("Loihi's and Lava's LIF hold one threshold and one leak a layer")
        bias = plus(n.bias, offset)
        neuron = loihi.Neuron(
            du=formats.DECAY_ONE if n.du is None else int(grid.decay(n.du)),
            dv=int(grid.decay(n.dv)),
            vth=int(grid.threshold(n.vth)),
            bias=0 if bias is None else grid.integers(grid.bias(bias)),
            bias_exp=grid.BIAS_EXP,
            reset="soft" if n.form.name == "soft" else "hard",
        )
        return loihi.Layer(synapse, neuron, self.sources, more, self.carry)


class _TracedProduct(torch.autograd.Function):
    """A synapse whose weights' gradient is taken with a trace of its messages.

    shared: what all steps of a batch share the weights as, and add their gradients up in; None:
    they are of this step.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        shared: Shared | None,
        synapse: Synapse,
        trace: MessageTrace,
        traces: LayerTraces,
        step: float,
    ) -> Tensor:
        ctx.shared, ctx.synapse, ctx.per_synapse = shared, synapse, traces.per_synapse
        ctx.x = torch.empty_like(x, device="meta")
        # A synapse's own fast product, without its gradient.
        a = synapse.plain(x, weight, step) if shared is None else synapse(x, shared, step)
        a = a.detach()
        own = weight if shared is None else None
        missing, ctx.keep = trace.missing(a, traces), traces.keep
        now, before = trace.take()
        if missing is None:
            ctx.save_for_backward(own, trace.value, None, None, None)
        else:  # of earlier steps each receiver has a part of its own left
            ctx.save_for_backward(own, now, before, traces.left, missing)
        return a

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        own, now, before, left, missing = ctx.saved_tensors
        synapse: Synapse = ctx.synapse
        (delta,) = grads
        weight: Shared = ctx.shared if own is None else Shared(own.detach())
        if ctx.per_synapse:
            weight.add(synapse.of_weights(now, True, weight.value.detach(), delta))
        else:
            synapse.add_gradient(now, delta, weight)
        if before is not None:
            synapse.add_gradient(before, delta * left * ctx.keep, weight)
            along = (delta * missing).sum([0, *range(2, delta.dim())])
            weight.add_along(along / weight.row_squares.clamp(min=TINY))
        of_x = synapse.of_messages(ctx.x, weight, delta) if ctx.needs_input_grad[0] else None
        return of_x, None if own is None else weight.total(), *(None,) * 5


class _OfMessages(torch.autograd.Function):
    """A synapse's product, as it is known, whose error goes to the messages alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, product: Tensor, synapse: Synapse, weight: Shared) -> Tensor:
        ctx.x = torch.empty_like(x, device="meta")
        ctx.synapse, ctx.weight = synapse, weight
        return product.detach()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.synapse.of_messages(ctx.x, ctx.weight, grads[0]), None, None, None


class _TracedBias(torch.autograd.Function):
    """A bias whose gradient is taken with the trace of an input that is always 1."""

    @staticmethod
    def forward(ctx: Any, bias: Tensor, trace: Tensor) -> Tensor:
        ctx.save_for_backward(trace)
        ctx.shape = bias.shape
        return bias.expand_as(trace).clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (trace,) = ctx.saved_tensors
        return (grads[0] * trace).sum_to_size(ctx.shape), None


def plus(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    """The sum of what there is."""
    return b if a is None else a if b is None else a + b
