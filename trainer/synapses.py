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
from trainer.memory import order, pixel_by_pixel
from trainer.neurons import REGISTER
from trainer.norms import NORMS, BatchNorm, WeightNorm, per_channel
from trainer.products import Geometry, convolve, linear, times
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
    pixels: int = 1
    """Over how many pixels the chip repeats each weight."""

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

    def laid_out(self, weight: Tensor) -> Tensor:
        """The weights in the memory order in which this machine multiplies them fastest."""
        return weight

    def forward(self, x: Tensor, weight: Shared, step: float = 0.0) -> Tensor:
        """Synaptic input ``[N, *output_shape]`` from messages ``[N, *shape]``.

        step: see :func:`trainer.products.linear`.
        """
        return self.plain(x, weight.now())

    def plain(self, x: Tensor, weight: Tensor, step: float = 0.0) -> Tensor:
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
        return float(grid.weight(weight).detach().flatten(1).abs().sum(1).max()) * self.pixels


class Dense(Synapse):
    """All to all; an image is flattened in C, H, W order."""

    def __init__(self, shape: Shape, out: int) -> None:
        super().__init__()
        self.fan_in = math.prod(shape)
        self.output_shape = (out,)
        self.weight = nn.Parameter(torch.empty(out, self.fan_in))

    def forward(self, x: Tensor, weight: Shared, step: float = 0.0) -> Tensor:
        return linear(x.flatten(1), weight, step)

    def plain(self, x: Tensor, weight: Tensor, step: float = 0.0) -> Tensor:
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
        self.groups, self._shape = groups, shape
        self.geometry = Geometry(self.stride, self.padding, self.dilation, groups)
        reach = [d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilation, strict=True)]
        padded = [n + 2 * p for n, p in zip(size, self.padding, strict=True)]
        if any(n < r for n, r in zip(padded, reach, strict=True)):
            words = "x".join(map(str, reach))
            raise ModelError(f"a {words} kernel does not fit {size[0]}x{size[1]} pixels")
        image = ((n - r) // s + 1 for n, r, s in zip(padded, reach, self.stride, strict=True))
        self.output_shape = (out, *image)
        self.fan_in = channels // groups * math.prod(self.kernel)
        self.weight = nn.Parameter(torch.empty(out, channels // groups, *self.kernel))

    @property
    def is_dense(self) -> bool:
        """Whether one position of the kernel covers the whole image."""
        return self.groups == 1 and self._shape == (len(self.weight[0]), *self.kernel)

    def laid_out(self, weight: Tensor) -> Tensor:
        # oneDNN: up to eight times as fast where the input has few channels; and what comes out
        # has the same order, in which pooling adds whole rows.
        if weight.device.type != "cpu" or weight.dtype != torch.float32 or self.is_dense:
            return weight
        return pixel_by_pixel(weight)

    def forward(self, x: Tensor, weight: Shared, step: float = 0.0) -> Tensor:
        if self.is_dense:
            return linear(x.flatten(1), weight, step)[..., None, None]
        return convolve(x, weight.now(), self.geometry, step, weight)

    def plain(self, x: Tensor, weight: Tensor, step: float = 0.0) -> Tensor:
        return convolve(x, weight, self.geometry, step)

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


def square_sums(x: Tensor, k: int) -> Tensor:
    """Sums over squares of k x k pixels: as many added slices, several times as fast on a CPU as
    torch's pooling."""
    height, width = x.shape[2] // k * k, x.shape[3] // k * k
    parts = [x[..., i:height:k, j:width:k] for i in range(k) for j in range(k)]
    total = parts[0].clone() if k == 1 else parts[0] + parts[1]
    for part in parts[2:]:
        total += part
    return total


class _SumPool(torch.autograd.Function):
    """:func:`square_sums` times a weight that does not learn."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, k: int, weight: Tensor | None) -> Tensor:
        ctx.shape, ctx.k, ctx.weight = x.shape, k, weight
        ctx.order = order(x)
        total = square_sums(x, k)
        return total if weight is None else total.mul_(weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        delta = grads[0] if ctx.weight is None else grads[0] * ctx.weight
        return over_squares(delta, ctx.k, ctx.shape, ctx.order), None, None


def over_squares(
    delta: Tensor, k: int, shape: torch.Size, order: torch.memory_format = torch.contiguous_format
) -> Tensor:
    """Each number at all the k x k pixels of its square, of images of this shape; 0 where no square
    reaches."""
    height, width = delta.shape[2] * k, delta.shape[3] * k
    whole = torch.empty(shape, dtype=delta.dtype, device=delta.device, memory_format=order)
    if (height, width) != shape[2:]:
        whole.zero_()
    for i in range(k):
        for j in range(k):
            whole[..., i:height:k, j:width:k] = delta
    return whole


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

    def plain(self, x: Tensor, weight: Tensor, step: float = 0.0) -> Tensor:
        total: Tensor = _SumPool.apply(x, self.kernel, weight)
        return total

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


def _squares(shape: Shape, k: int | None) -> Shape:
    """How many squares of k x k pixels an image holds; None: one of all pixels."""
    if len(shape) != 3:
        raise ModelError(f"a mean over pixels needs images (C, H, W), what it gets is {shape}")
    channels, height, width = shape
    if k is None:
        return channels, 1, 1
    if min(height, width) < k:
        raise ModelError(f"a mean over {k}x{k} pixels does not fit {height}x{width} pixels")
    return channels, height // k, width // k


class PooledConv(Conv):
    """A convolution of means over squares of ``pool`` x ``pool`` pixels, which have no neurons.

    The chip holds it as a convolution with each weight repeated over a square.
    """

    def __init__(
        self,
        shape: Shape,
        pool: int,
        out: int,
        kernel: int | Pair,
        padding: int | Pair = 0,
        stride: int | Pair = 1,
        groups: int = 1,
    ) -> None:
        super().__init__(_squares(shape, pool), out, kernel, padding, stride, 1, groups)
        if max(self.padding) and (shape[1] % pool or shape[2] % pool):
            size = f"{shape[1]}x{shape[2]}"
            raise ModelError(
                f"{size} pixels do not divide into {pool}x{pool}, and the rest would stand where "
                "the convolution has its padding: use no padding, or another size"
            )
        self.pool, self.pixels = pool, pool**2
        self.fan_in *= self.pixels

    def sums(self, x: Tensor) -> Tensor:
        """Messages added up over each square."""
        total: Tensor = _SumPool.apply(x, self.pool, None)
        return total

    def forward(self, x: Tensor, weight: Shared, step: float = 0.0) -> Tensor:
        return super().forward(self.sums(x), weight, step)

    def plain(self, x: Tensor, weight: Tensor, step: float = 0.0) -> Tensor:
        return super().plain(self.sums(x), weight, step)

    def patches(self, x: Tensor) -> Tensor:
        return super().patches(self.sums(x))

    def gradients(
        self, x: Tensor, trace: Tensor, per_synapse: bool, weight: Tensor, delta: Tensor
    ) -> tuple[Tensor, Tensor]:
        trace = trace if per_synapse else self.sums(trace)
        of_sums, of_w = super().gradients(self.sums(x), trace, per_synapse, weight, delta)
        return over_squares(of_sums, self.pool, x.shape), of_w

    def freeze(self) -> loihi.Conv:
        weight = grid.weight(self.folded()[0])
        for axis in (2, 3):
            weight = weight.repeat_interleave(self.pool, dim=axis)
        k, (sy, sx), (py, px) = self.pool, self.stride, self.padding
        return loihi.Conv(
            grid.integers(weight), (k * sy, k * sx), (k * py, k * px), groups=self.groups
        )


class PooledDense(Dense):
    """All to all behind a mean over squares of ``pool`` x ``pool`` pixels, or over all of them.

    The chip holds it as a dense synapse with each weight repeated over the pixels of a square.
    """

    def __init__(self, shape: Shape, out: int, pool: int | None = None) -> None:
        squares = _squares(shape, pool)
        super().__init__(squares, out)
        self._image, self._grid, self.pool = shape, squares, pool
        self.pixels = math.prod(shape[1:]) if pool is None else pool**2
        self.fan_in *= self.pixels

    def sums(self, x: Tensor) -> Tensor:
        """Messages added up over each square, or over the image."""
        if self.pool is None:
            return x.sum((2, 3), dtype=x.dtype)
        total: Tensor = _SumPool.apply(x, self.pool, None)
        return total

    def forward(self, x: Tensor, weight: Shared, step: float = 0.0) -> Tensor:
        return super().forward(self.sums(x), weight, step)

    def plain(self, x: Tensor, weight: Tensor, step: float = 0.0) -> Tensor:
        return super().plain(self.sums(x), weight)

    def patches(self, x: Tensor) -> Tensor:
        return super().patches(self.sums(x))

    def gradients(
        self, x: Tensor, trace: Tensor, per_synapse: bool, weight: Tensor, delta: Tensor
    ) -> tuple[Tensor, Tensor]:
        trace = trace if per_synapse else self.sums(trace)
        of_sums, of_w = super().gradients(self.sums(x), trace, per_synapse, weight, delta)
        return self._back(of_sums, x.shape), of_w

    def _back(self, delta: Tensor, shape: torch.Size) -> Tensor:
        if self.pool is None:
            return delta[..., None, None].expand(shape)
        return over_squares(delta, self.pool, shape)

    def freeze(self) -> loihi.Dense:
        weight = grid.weight(self.folded()[0]).unflatten(1, self._grid)
        _, height, width = self._image
        k = self.pool
        if k is None:
            whole = weight.expand(-1, -1, height, width)
        else:
            shape = torch.Size((len(weight), *self._image))
            whole = over_squares(weight, k, shape)
        return loihi.Dense(grid.integers(whole.flatten(1)))
