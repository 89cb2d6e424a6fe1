"""Layers: synapses (dense, convolution, average pooling) and the neurons that they feed.

What a layer needs in every step of a batch (weights and thresholds on the grid, decays) is computed
once a batch: :meth:`Layer.prepare`. On the grid everything is in register units, 64 a weight unit,
so that synaptic input needs no shift of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

import loihi
from loihi import formats
from loihi.errors import PumiceError
from trainer import grid
from trainer.neurons import REGISTER, Neurons, State, current, step
from trainer.products import linear, times
from trainer.shared import Shared
from trainer.traces import LayerTraces, Trace, traced_spike

Shape = tuple[int, ...]
Pair = tuple[int, int]

POOL_WEIGHT = 64
"""Every weight of an average pooling: a power of two, so that a sum of spikes scales exactly."""
WEIGHT_STD = 16.0
"""Standard deviation of new weights: fine enough for the grid of even integers, far from ±254."""
NORMS = ("none", "ws", "bn")


class ModelError(PumiceError):
    """A model that cannot be built, or data that do not fit it."""


class WeightNorm(nn.Module):
    """Weight standardisation (Qiao et al. 2019, arXiv:1903.10520): a function of weights alone.

    Each output channel's weights get mean 0 and standard deviation ``gain`` · 16 weight units; what
    the chip holds is the result, on the grid.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(channels))

    def forward(self, weight: Tensor) -> Tensor:
        rows = weight.flatten(1)
        spread = rows.var(1, unbiased=False, keepdim=True)
        rows = (rows - rows.mean(1, keepdim=True)) * torch.rsqrt(spread + 1e-8)
        return (rows * self.gain[:, None] * WEIGHT_STD).view_as(weight)


Moments = tuple[Tensor, Tensor]
"""Mean and variance of each channel."""


class _Moments(torch.autograd.Function):
    """Mean and variance of each channel of ``[N, C, ...]``, ``[C]`` each: in two passes, a tenth of
    the time of ``torch.var_mean`` over these dimensions on a CPU."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        rows = x.reshape(*x.shape[:2], -1)
        ctx.count = x.numel() // x.shape[1]
        mean = rows.sum((0, 2)) / ctx.count
        off = rows - mean[:, None]
        var = off.mul_(off).sum((0, 2)) / ctx.count
        ctx.save_for_backward(x, mean)
        return mean, var

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        to_mean, to_var = grads
        x, mean = ctx.saved_tensors
        # dmean/dx = 1/n, dvar/dx = 2 (x − mean) / n
        slope = 2 * to_var / ctx.count
        start = to_mean / ctx.count - slope * mean
        shape = (-1, *[1] * (x.dim() - 2))
        return torch.addcmul(start.reshape(shape), x, slope.reshape(shape))


class BatchNorm(nn.Module):
    """Batch normalisation of synaptic input, per step, folded into integers wherever it is used::

        γ (a − μ) / σ + β  =  (w γ / σ) x + (β − μ γ / σ)

    so that weights γ w / σ and a bias remain. In training μ and σ are those of the step's batch,
    and the folded weights are rounded with them; else the running ones, whose folding the chip
    holds. Everything is in weight units: γ is the standard deviation that comes out.
    """

    running_mean: Tensor
    running_var: Tensor
    momentum, eps = 0.1, 1e-3

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels))
        self.beta = nn.Parameter(torch.zeros(channels))
        self.frozen = False
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def fold(self, gamma: Tensor, beta: Tensor, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
        """Factors of the weights and biases, ``[channels]`` each."""
        scale = gamma * torch.rsqrt(var + self.eps)
        return scale, beta - mean * scale

    @torch.no_grad()
    def follow(self, mean: Tensor, var: Tensor) -> None:
        """The running statistics go a little towards a step's."""
        if self.frozen:
            return
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(var, self.momentum)


class Synapse(nn.Module):
    """A linear map of messages to neurons; ``weight`` in weight units, on the grid when used."""

    output_shape: Shape
    fan_in: int
    norm: WeightNorm | BatchNorm | None

    def __init__(self) -> None:
        super().__init__()
        self.norm = None

    def normalise(self, kind: str) -> None:
        """``none``, weight standardisation ``ws``, or batch norm ``bn``."""
        if kind not in NORMS:
            raise ModelError(f"norm {kind!r} is unknown: use one of {', '.join(NORMS)}")
        kinds: dict[str, type[WeightNorm | BatchNorm]] = {"ws": WeightNorm, "bn": BatchNorm}
        self.norm = None
        if kind in kinds:
            self.norm = kinds[kind](self.output_shape[0])

    def real_weights(self) -> Tensor:
        """The weights before the grid, what is a function of weights alone folded in."""
        assert isinstance(self.weight, Tensor)
        return self.norm(self.weight) if isinstance(self.norm, WeightNorm) else self.weight

    def folded(self) -> tuple[Tensor, Tensor | None]:
        """Weights and biases ``[channels]`` with all norms in, running statistics; not rounded."""
        weight = self.real_weights()
        if not isinstance(self.norm, BatchNorm):
            return weight, None
        n = self.norm
        scale, offset = n.fold(n.gamma, n.beta, n.running_mean, n.running_var)
        return weight * _per_channel(scale, weight.dim()), offset

    def weights(self, on_grid: bool) -> Tensor:
        """The weights that the forward pass uses: register units on the grid, else real."""
        weight, _ = self.folded()
        return grid.weight(weight) * REGISTER if on_grid else weight

    def forward(self, x: Tensor, weight: Shared, step: float = 0.0) -> Tensor:
        """Synaptic input ``[N, *output_shape]`` from messages ``[N, *shape]``.

        step: see :func:`trainer.products.linear`.
        """
        return self.plain(x, weight.now())

    def plain(self, x: Tensor, weight: Tensor) -> Tensor:
        """The same by one weight tensor."""
        raise NotImplementedError

    def patches(self, x: Tensor) -> Tensor:
        """The messages as each neuron sees them, ``[N, 1 or positions, …]``: see per_synapse."""
        raise NotImplementedError

    def spread(self, keep: Tensor) -> Tensor:
        """A number a neuron ``[N, *output_shape]`` in the layout of per-synapse traces."""
        raise NotImplementedError

    def gradients(
        self, x: Tensor, trace: Tensor, per_synapse: bool, weight: Tensor, delta: Tensor
    ) -> tuple[Tensor, Tensor]:
        """∂E/∂x with the messages x, and ∂E/∂w with their trace, of an error ``delta``."""
        raise NotImplementedError

    def freeze(self) -> loihi.Dense | loihi.Conv:
        """The chip's synapse."""
        raise NotImplementedError

    def reach(self) -> float:
        """The largest sum of |weight| that a neuron has, in weight units: its input's bound."""
        weight, _ = self.folded()
        return float(grid.weight(weight).detach().flatten(1).abs().sum(1).max())


class Dense(Synapse):
    """All to all; an image is flattened in C, H, W order."""

    def __init__(self, shape: Shape, out: int) -> None:
        super().__init__()
        self.fan_in = math.prod(shape)
        self.output_shape = (out,)
        self.weight = nn.Parameter(torch.empty(out, self.fan_in))

    def forward(self, x: Tensor, weight: Shared, step: float = 0.0) -> Tensor:
        return linear(x.flatten(1), weight, step)

    def plain(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.linear(x.flatten(1), weight)

    def patches(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, None]

    def spread(self, keep: Tensor) -> Tensor:
        return keep[..., None]

    def gradients(
        self, x: Tensor, trace: Tensor, per_synapse: bool, weight: Tensor, delta: Tensor
    ) -> tuple[Tensor, Tensor]:
        of_x = times(delta, weight.T).view_as(x)
        if per_synapse:
            return of_x, torch.einsum("no,noi->oi", delta, trace.expand(*delta.shape, -1))
        return of_x, times(delta.T, trace.flatten(1).T)

    def freeze(self) -> loihi.Dense:
        return loihi.Dense(_integers(grid.weight(self.folded()[0])))


class Conv(Synapse):
    """Convolution, zero padded.

    kernel, padding, stride, dilation: one number, or (vertical, horizontal). groups: channels in
    as many parts, each with its own kernels.
    """

    def __init__(
        self,
        shape: Shape,
        out: int,
        kernel: int | Pair,
        padding: int | Pair = 0,
        stride: int | Pair = 1,
        dilation: int | Pair = 1,
        groups: int = 1,
    ) -> None:
        super().__init__()
        if len(shape) != 3:
            raise ModelError(f"a convolution needs images (C, H, W), what it gets is {shape}")
        channels, *size = shape
        if channels % groups or out % groups:
            raise ModelError(f"{channels} channels to {out} do not divide into {groups} groups")
        self.kernel, self.padding, self.stride, self.dilation = (
            (x, x) if isinstance(x, int) else x for x in (kernel, padding, stride, dilation)
        )
        self.groups = groups
        reach = [d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilation, strict=True)]
        padded = [n + 2 * p for n, p in zip(size, self.padding, strict=True)]
        if any(n < r for n, r in zip(padded, reach, strict=True)):
            words = "x".join(map(str, reach))
            raise ModelError(f"a {words} kernel does not fit {size[0]}x{size[1]} pixels")
        image = ((n - r) // s + 1 for n, r, s in zip(padded, reach, self.stride, strict=True))
        self.output_shape = (out, *image)
        self.fan_in = channels // groups * math.prod(self.kernel)
        self.weight = nn.Parameter(torch.empty(out, channels // groups, *self.kernel))

    def plain(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.conv2d(x, weight, None, self.stride, self.padding, self.dilation, self.groups)

    def patches(self, x: Tensor) -> Tensor:
        columns = F.unfold(x, self.kernel, self.dilation, self.padding, self.stride)
        if self.groups == 1:
            return columns.transpose(1, 2)[:, None]
        # Each output channel sees its own group's.
        parts = columns.unflatten(1, (self.groups, -1)).transpose(2, 3)
        return parts.repeat_interleave(self.output_shape[0] // self.groups, dim=1)

    def spread(self, keep: Tensor) -> Tensor:
        return keep.flatten(2)[..., None]

    def gradients(
        self, x: Tensor, trace: Tensor, per_synapse: bool, weight: Tensor, delta: Tensor
    ) -> tuple[Tensor, Tensor]:
        def backward(message: Tensor, mask: tuple[bool, bool]) -> tuple[Tensor, Tensor]:
            of_x, of_w, _ = torch.ops.aten.convolution_backward(
                delta, message, weight, None, self.stride, self.padding, self.dilation,
                False, [0, 0], self.groups, [*mask, False],
            )  # fmt: skip
            return of_x, of_w

        of_x, _ = backward(x, (True, False))
        if not per_synapse:
            return of_x, backward(trace, (False, True))[1]
        errors = delta.flatten(2)
        trace = trace.expand(*errors.shape, -1)
        return of_x, torch.einsum("nol,nolk->ok", errors, trace).view_as(weight)

    def freeze(self) -> loihi.Conv:
        weight = _integers(grid.weight(self.folded()[0]))
        return loihi.Conv(weight, self.stride, self.padding, self.dilation, self.groups)


class _SumPool(torch.autograd.Function):
    """Sums over squares of k x k pixels: as many added slices, several times as fast on a CPU as
    torch's pooling."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, k: int) -> Tensor:
        ctx.shape, ctx.k = x.shape, k
        height, width = x.shape[2] // k * k, x.shape[3] // k * k
        parts = [x[..., i:height:k, j:width:k] for i in range(k) for j in range(k)]
        total = parts[0].contiguous() if k == 1 else parts[0] + parts[1]
        for part in parts[2:]:
            total += part
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (delta,), k = grads, ctx.k
        n, c, height, width = delta.shape
        spread = delta[:, :, :, None, :, None].expand(n, c, height, k, width, k)
        whole = spread.reshape(n, c, height * k, width * k)
        if whole.shape == ctx.shape:
            return whole, None
        return F.pad(whole, (0, ctx.shape[3] - width * k, 0, ctx.shape[2] - height * k)), None


class AvgPool(Synapse):
    """Average pooling: each channel on its own, all weights equal and fixed."""

    def __init__(self, shape: Shape, kernel: int) -> None:
        super().__init__()
        if len(shape) != 3:
            raise ModelError(f"pooling needs images (C, H, W), what it gets is {shape}")
        channels, height, width = shape
        if min(height, width) < kernel:
            raise ModelError(f"{kernel}x{kernel} pooling does not fit {height}x{width} pixels")
        self.kernel, self.channels = kernel, channels
        self.output_shape = (channels, height // kernel, width // kernel)
        self.fan_in = kernel**2

    def weights(self, on_grid: bool) -> Tensor:
        return torch.tensor(POOL_WEIGHT * REGISTER if on_grid else 1 / self.kernel**2)

    def folded(self) -> tuple[Tensor, Tensor | None]:
        return self.weights(True) / REGISTER, None

    def plain(self, x: Tensor, weight: Tensor) -> Tensor:
        total: Tensor = _SumPool.apply(x, self.kernel)
        return total * weight

    def averaging(self, on_grid: bool) -> dict[str, Any]:
        """What makes neurons pass the mean rate of their inputs on: settings that do not learn.

        They spike for half of their inputs, at once or one after the other: no leak, no current
        memory. The threshold lies between two counts of spikes. Left to learn, it settles on a
        count, where rounding makes it spike for one input more or less from batch to batch.
        """
        weight = float(self.weights(on_grid)) / (REGISTER if on_grid else 1.0)
        return {"vth": weight * (self.fan_in - 1) / 2, "dv": 0.0, "learns": False}

    def freeze(self) -> loihi.Conv:
        weight = torch.full((self.channels, 1, self.kernel, self.kernel), POOL_WEIGHT)
        return loihi.Conv(_integers(weight), stride=self.kernel, groups=self.channels)

    def reach(self) -> float:
        return POOL_WEIGHT * self.fan_in


class PooledDense(Dense):
    """All to all after a global average: a weight a channel, the same at every pixel.

    The chip holds it as a dense synapse with each weight repeated over its channel's pixels.
    """

    def __init__(self, shape: Shape, out: int) -> None:
        if len(shape) != 3:
            raise ModelError(f"a global average needs images (C, H, W), what it gets is {shape}")
        super().__init__(shape[:1], out)
        self.pixels = math.prod(shape[1:])
        self.fan_in *= self.pixels

    def forward(self, x: Tensor, weight: Shared, step: float = 0.0) -> Tensor:
        return super().forward(x.sum((2, 3)), weight)  # sums exceed int8

    def plain(self, x: Tensor, weight: Tensor) -> Tensor:
        return super().plain(x.sum((2, 3)), weight)

    def patches(self, x: Tensor) -> Tensor:
        return super().patches(x.sum((2, 3)))

    def gradients(
        self, x: Tensor, trace: Tensor, per_synapse: bool, weight: Tensor, delta: Tensor
    ) -> tuple[Tensor, Tensor]:
        if not per_synapse:
            trace = trace.sum((2, 3))
        of_sum, of_w = super().gradients(x.sum((2, 3)), trace, per_synapse, weight, delta)
        return of_sum[..., None, None].expand_as(x), of_w

    def freeze(self) -> loihi.Dense:
        weight = grid.weight(self.folded()[0])
        return loihi.Dense(_integers(weight.repeat_interleave(self.pixels, dim=1)))

    def reach(self) -> float:
        return super().reach() * self.pixels


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
    ) -> None:
        super().__init__()
        self.synapse, self.neurons, self.peak, self.on_grid = synapse, neurons, peak, on_grid
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

        ready = Ready([share(weights(s).to(self._device)) for s in self.synapses])
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
            return self._whole(synapse(x, weight, self._step), synapse), None
        fold, moments = self.fold(number, x, ready)
        norm.follow(*moments)
        return self.receive_folded(number, x, ready, fold[0]), fold[1]

    def fold(self, number: int, x: Tensor, ready: Ready) -> tuple[Tensor, Moments]:
        """What batch norm makes of messages ``x`` by their own statistics: factors of the weights
        and biases, ``[2, channels]``; and mean and variance, without gradient."""
        synapse = self.synapses[number]
        norm = synapse.norm
        assert isinstance(norm, BatchNorm)
        mean, var = _Moments.apply(synapse.plain(x, ready.weights[number].now()))
        fold = torch.stack(norm.fold(norm.gamma, norm.beta, mean, var))
        return fold, (mean.detach(), var.detach())

    def receive_folded(self, number: int, x: Tensor, ready: Ready, scale: Tensor) -> Tensor:
        """Messages through weights times batch norm's factors."""
        synapse, real = self.synapses[number], ready.weights[number].now()
        folded = real * _per_channel(scale, real.dim())
        if self.on_grid:
            folded = grid.weight(folded) * REGISTER
        return self._whole(synapse.plain(x, folded), synapse)

    @property
    def _step(self) -> float:
        """All weights are multiples of it, and messages fit int8; 0 where that is not so."""
        return grid.WEIGHT_STEP * REGISTER if self.on_grid and self.peak <= 127 else 0.0

    def _whole(self, a: Tensor, synapse: Synapse) -> Tensor:
        if a.is_cuda and self.on_grid and isinstance(synapse, Conv):
            # cuDNN may go by Winograd or FFT, which hit the integers only nearly.
            return grid.whole(a, REGISTER)
        return a

    def receive_traced(
        self, number: int, x: Tensor, ready: Ready, traces: LayerTraces, trace: Trace
    ) -> Tensor:
        """:meth:`receive`, the weights' gradient taken with the messages' trace."""
        synapse, weight = self.synapses[number], ready.weights[number]
        if not weight.value.requires_grad:
            return self.receive(number, x, ready)[0]
        with torch.no_grad():
            keep = traces.keep
            if traces.per_synapse:
                if keep.dim() == len(synapse.output_shape):  # before the first spike: α a neuron
                    keep = keep[None]
                kept = synapse.spread(keep) if keep.dim() > 0 else keep
                past = trace.update(synapse.patches(x), kept, traces.decay)
            else:
                past = trace.update(x, keep, traces.decay)
        a = _TracedProduct.apply(
            x, weight.value, weight, synapse, past, traces.per_synapse, self._step
        )
        return self._whole(a, synapse)

    @torch.no_grad()
    def input_bound(self, ready: Ready) -> float:
        """What no synaptic input of this batch exceeds in magnitude, in register units."""
        bound = 0.0
        for synapse, weight in zip(self.synapses, ready.weights, strict=True):
            if isinstance(synapse, AvgPool):
                bound += synapse.reach() * REGISTER
                continue
            pixels = synapse.pixels if isinstance(synapse, PooledDense) else 1
            if isinstance(synapse.norm, BatchNorm):  # the folded weights are known within a step
                total = weight.value[0].numel() * grid.WEIGHT_MAX * REGISTER
            else:
                total = float(weight.value.flatten(1).abs().sum(1).max())
            bound += total * pixels
        return bound * self.peak

    def wrap(self, a: Tensor) -> Tensor:
        """The register's wrap, of a current that has no memory."""
        return a if self.remembers_current or not self.on_grid else current(a)

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
        if ready.bias is not None and traces is not None:
            # A bias is a weight on an input that is always 1.
            value, trace = ready.bias.value, traces.bias.value
            assert trace is not None
            own: Tensor = _TracedBias.apply(value, ready.bias, trace, self._channels(value))
            return self._on_grid_bias(own)
        bias = plus(None if ready.bias is None else ready.bias.now(), offset)
        return None if bias is None else self._channels(self._on_grid_bias(bias))

    def _on_grid_bias(self, bias: Tensor) -> Tensor:
        return grid.bias(bias) * REGISTER if self.on_grid else bias

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
            bias=0 if bias is None else _integers(grid.bias(bias)),
            bias_exp=grid.BIAS_EXP,
            reset="soft" if n.form.name == "soft" else "hard",
        )
        return loihi.Layer(synapse, neuron, self.sources, more, self.carry)


class _TracedProduct(torch.autograd.Function):
    """A synapse whose weights' gradient is taken with a trace of its messages."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        value: Tensor,
        weight: Shared,
        synapse: Synapse,
        trace: Tensor,
        per_synapse: bool,
        step: float,
    ) -> Tensor:
        ctx.save_for_backward(x, trace)
        ctx.weight, ctx.synapse, ctx.per_synapse = weight, synapse, per_synapse
        # A synapse's own fast product, without its gradient.
        return synapse(x, weight, step).detach()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, trace = ctx.saved_tensors
        weight: Shared = ctx.weight
        of_x, of_w = ctx.synapse.gradients(
            x, trace, ctx.per_synapse, weight.value.detach(), grads[0]
        )
        weight.add(of_w)
        return (of_x if ctx.needs_input_grad[0] else None, *(None,) * 6)


class _TracedBias(torch.autograd.Function):
    """A bias whose gradient is taken with the trace of an input that is always 1."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, bias: Shared, trace: Tensor, shaped: Tensor) -> Tensor:
        ctx.save_for_backward(trace)
        ctx.bias, ctx.shape = bias, shaped.shape
        return shaped.expand_as(trace).clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, ...]:
        (trace,) = ctx.saved_tensors
        total = (grads[0] * trace).sum_to_size(ctx.shape)
        ctx.bias.add(total.reshape(-1))
        return (None,) * 4


def plus(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    """The sum of what there is."""
    return b if a is None else a if b is None else a + b


def _per_channel(x: Tensor, dims: int) -> Tensor:
    """``[out]`` against weights of ``dims`` axes, outputs first."""
    return x.view(-1, *[1] * (dims - 1))


def _integers(x: Tensor) -> NDArray[np.int32]:
    return x.detach().cpu().numpy().astype(np.int32)
