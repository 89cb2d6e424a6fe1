"""Averages over squares of pixels: with neurons of their own, or part of the synapse behind them.

A chip has no averages, only synapses of equal weights: onto neurons that spike for half of their
inputs (:class:`AvgPool`), or, with each weight of the next synapse repeated over a square, straight
onto the next neurons (:class:`PooledConv`, :class:`PooledDense`), which lose nothing.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

import loihi
from trainer import grid
from trainer.memory import order
from trainer.neurons import REGISTER
from trainer.shared import Shared
from trainer.synapses import Conv, Dense, ModelError, Pair, Shape, Synapse

POOL_WEIGHT = 64
"""Every weight of an average pooling: a power of two, so that a sum of spikes scales exactly."""


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


class Pooled(Synapse):
    """A synapse behind a mean over squares of ``pool`` x ``pool`` pixels, which have no neurons.

    Its messages are the squares' sums, and the chip's weights its own, each repeated over a square.
    To stand in front of a synapse of those sums among a class's bases.
    """

    pool: int | None
    """None: one square of all pixels."""
    squares: Shape
    """Channels, and how many squares there are down and across."""

    def sums(self, x: Tensor) -> Tensor:
        """Messages added up over each square."""
        if self.pool is None:
            return x.sum((2, 3), dtype=x.dtype)
        total: Tensor = _SumPool.apply(x, self.pool, None)
        return total

    def _pixels_of(
        self,
        sums: Tensor,
        shape: torch.Size,
        order: torch.memory_format = torch.contiguous_format,
    ) -> Tensor:
        """A number for each sum, at all the pixels that are added up in it."""
        if self.pool is None:
            return sums.view(*sums.shape[:2], 1, 1).expand(shape)
        return over_squares(sums, self.pool, shape, order)

    def forward(self, x: Tensor, weight: Shared, step: float = 0.0) -> Tensor:
        return super().forward(self.sums(x), weight, step)

    def plain(self, x: Tensor, weight: Tensor, step: float = 0.0) -> Tensor:
        return super().plain(self.sums(x), weight, step)

    def patches(self, x: Tensor) -> Tensor:
        return super().patches(self.sums(x))

    def traced(self, x: Tensor) -> Tensor:
        return self.sums(x)

    def of_messages(self, x: Tensor, weight: Shared, delta: Tensor) -> Tensor:
        shape, form = (len(x), *self.squares), order(x)
        sums = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=form)
        return self._pixels_of(super().of_messages(sums, weight, delta), x.shape, form)


class PooledConv(Pooled, Conv):
    """A convolution of means over squares of pixels."""

    pool: int

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
        squares = _squares(shape, pool)
        super().__init__(squares, out, kernel, padding, stride, 1, groups)
        if max(self.padding) and (shape[1] % pool or shape[2] % pool):
            size = f"{shape[1]}x{shape[2]}"
            raise ModelError(
                f"{size} pixels do not divide into {pool}x{pool}, and the rest would stand where "
                "the convolution has its padding: use no padding, or another size"
            )
        self.squares, self.pool, self.pixels = squares, pool, pool**2
        self.fan_in *= self.pixels

    def freeze(self) -> loihi.Conv:
        weight = grid.weight(self.folded()[0])
        for axis in (2, 3):
            weight = weight.repeat_interleave(self.pool, dim=axis)
        k, (sy, sx), (py, px) = self.pool, self.stride, self.padding
        return loihi.Conv(
            grid.integers(weight), (k * sy, k * sx), (k * py, k * px), groups=self.groups
        )


class PooledDense(Pooled, Dense):
    """All to all behind a mean over squares of pixels, or over all of them."""

    def __init__(self, shape: Shape, out: int, pool: int | None = None) -> None:
        squares = _squares(shape, pool)
        super().__init__(squares, out)
        self._image, self.squares, self.pool = shape, squares, pool
        self.pixels = math.prod(shape[1:]) if pool is None else pool**2
        self.fan_in *= self.pixels

    def freeze(self) -> loihi.Dense:
        weight = grid.weight(self.folded()[0])
        sums = weight if self.pool is None else weight.unflatten(1, self.squares)
        whole = self._pixels_of(sums, torch.Size((len(weight), *self._image)))
        return loihi.Dense(grid.integers(whole.flatten(1)))
