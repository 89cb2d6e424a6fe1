"""Synapses: dense, convolution, average pooling, and the readout's global average.

On the grid everything is in register units, 64 a weight unit, so that synaptic input needs no shift
of its own.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import loihi
from loihi.errors import PumiceError
from trainer import grid
from trainer.neurons import REGISTER
from trainer.norms import NORMS, BatchNorm, WeightNorm, per_channel
from trainer.products import linear, times
from trainer.shared import Shared

Shape = tuple[int, ...]
Pair = tuple[int, int]

POOL_WEIGHT = 64
"""Every weight of an average pooling: a power of two, so that a sum of spikes scales exactly."""


class ModelError(PumiceError):
    """A model that cannot be built, or data that do not fit it."""


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
        return weight * per_channel(scale, weight.dim()), offset

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
        return loihi.Dense(grid.integers(grid.weight(self.folded()[0])))


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
        weight = grid.integers(grid.weight(self.folded()[0]))
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
        return loihi.Conv(grid.integers(weight), stride=self.kernel, groups=self.channels)

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
        return loihi.Dense(grid.integers(weight.repeat_interleave(self.pixels, dim=1)))

    def reach(self) -> float:
        return super().reach() * self.pixels
