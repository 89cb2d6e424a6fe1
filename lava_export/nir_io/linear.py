"""Linear maps in a row, as graphs of other frameworks have them, merged into one synapse.

On the chip every synapse ends in neurons: an average pooling before a convolution, a scale after a
dense layer, a delay in between have to become one matrix or one convolution. The merged map is the
same map, at the borders too; where no synapse of the chip is, a :class:`LinearError` says which
nodes cannot be merged.

Maps take and give arrays of the shapes of :mod:`loihi.network`, ``(features,)`` or ``(C, H, W)``;
a matrix takes an image flattened in C, H, W order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np
from numpy.typing import NDArray

from loihi.errors import PumiceError
from loihi.network import Shape

Real = NDArray[np.float64]
Pair = tuple[int, int]

LARGEST = 2**27
"""No matrix of more numbers than this is built (a gigabyte in float64)."""


class LinearError(PumiceError):
    """Linear maps that are no one synapse of the chip."""


@dataclass(frozen=True, eq=False)
class Matrix:
    """y = W x, W ``[out, in]``."""

    name: str
    weight: Real

    def output_shape(self, shape: Shape) -> Shape:
        """``(out,)``."""
        out, features = self.weight.shape
        if features != prod(shape):
            raise LinearError(f"{self.name} takes {features} numbers, it is fed {sized(shape)}")
        return (out,)

    def apply(self, x: Real) -> Real:
        """y of one x."""
        return self.weight @ x.reshape(-1)


@dataclass(frozen=True, eq=False)
class Kernel:
    """Convolution (correlation, as in torch) with ``weight [out, in / groups, kH, kW]``."""

    name: str
    weight: Real
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1

    def output_shape(self, shape: Shape) -> Shape:
        """``(out, H', W')``."""
        out, per_group, *kernel = self.weight.shape
        if len(shape) != 3 or shape[0] != per_group * self.groups:
            raise LinearError(
                f"{self.name} takes images of {per_group * self.groups} channels, it is fed "
                f"{sized(shape)}"
            )
        height, width = (
            (n + 2 * p - d * (k - 1) - 1) // s + 1
            for n, k, s, p, d in zip(
                shape[1:], kernel, self.stride, self.padding, self.dilation, strict=True
            )
        )
        if min(height, width) < 1:
            raise LinearError(f"the kernel of {self.name} does not fit {sized(shape)}")
        padded = prod(n + 2 * p for n, p in zip(shape[1:], self.padding, strict=True))
        if max(shape[0], out) * max(padded, height * width) > LARGEST:
            raise LinearError(f"{self.name} pads {sized(shape)} by {self.padding}: too large")
        return out, height, width

    @property
    def reach(self) -> Pair:
        """Height and width of what an output sees, holes of the dilation included."""
        (kh, kw), (dh, dw) = self.weight.shape[2:], self.dilation
        return dh * (kh - 1) + 1, dw * (kw - 1) + 1

    def full(self) -> Real:
        """The weight of the same convolution without groups, ``[out, in, kH, kW]``."""
        out, per_group, *kernel = self.weight.shape
        full = np.zeros((out, per_group * self.groups, *kernel))
        for group, rows in enumerate(np.split(np.arange(out), self.groups)):
            columns = slice(group * per_group, (group + 1) * per_group)
            full[rows, columns] = self.weight[rows]
        return full

    def windows(self, shape: Shape) -> list[tuple[int, int, slice, slice]]:
        """For each place (i, j) of the kernel the rows and columns that it meets in the padded
        input, one for each output row and column."""
        _, height, width = self.output_shape(shape)
        (sy, sx), (dy, dx) = self.stride, self.dilation
        kh, kw = self.weight.shape[2:]
        return [
            (
                i,
                j,
                slice(i * dy, i * dy + sy * (height - 1) + 1, sy),
                slice(j * dx, j * dx + sx * (width - 1) + 1, sx),
            )
            for i in range(kh)
            for j in range(kw)
        ]

    def apply(self, x: Real) -> Real:
        """y of one x."""
        py, px = self.padding
        padded = np.pad(x, ((0, 0), (py, py), (px, px)))
        out, per_group = self.weight.shape[:2]
        y = np.zeros(self.output_shape(x.shape))
        for i, j, rows, columns in self.windows(x.shape):
            seen = padded[:, rows, columns].reshape(self.groups, per_group, *y.shape[1:])
            taps = self.weight[:, :, i, j].reshape(self.groups, out // self.groups, per_group)
            y += np.einsum("goc,gchw->gohw", taps, seen).reshape(y.shape)
        return y

    def adjoint(self, rows: Real, shape: Shape) -> Real:
        """Rows over this map's output ``[n, out · H' · W']`` as rows over its input of ``shape``:
        ``rows @ K``, K the matrix of the convolution."""
        out, height, width = self.output_shape(shape)
        _bounded(self.name, len(rows), prod(shape))
        given = rows.reshape(len(rows), self.groups, out // self.groups, height, width)
        channels, per_group = shape[0], self.weight.shape[1]
        py, px = self.padding
        found = np.zeros((len(rows), channels, shape[1] + 2 * py, shape[2] + 2 * px))
        for i, j, down, across in self.windows(shape):
            taps = self.weight[:, :, i, j].reshape(self.groups, out // self.groups, per_group)
            part = np.einsum("ngohw,goc->ngchw", given, taps)
            found[:, :, down, across] += part.reshape(len(rows), channels, height, width)
        return found[:, :, py : py + shape[1], px : px + shape[2]].reshape(len(rows), -1)


@dataclass(frozen=True, eq=False)
class Diagonal:
    """y = factor ⊙ x; the factor has the shape of x."""

    name: str
    factor: Real

    def output_shape(self, shape: Shape) -> Shape:
        """The same."""
        if shape != self.factor.shape:
            raise LinearError(
                f"{self.name} scales {sized(self.factor.shape)}, it is fed {sized(shape)}"
            )
        return shape

    def apply(self, x: Real) -> Real:
        """y of one x."""
        return self.factor * x

    def channels(self) -> Real | None:
        """One factor a channel, ``(C,)``, if that is all it is."""
        if self.factor.ndim != 3:
            return None
        first = self.factor[:, :1, :1]
        return first[:, 0, 0] if (self.factor == first).all() else None


@dataclass(frozen=True, eq=False)
class Delayed:
    """y[t] = x[t − steps], silence before; one number of steps for each x."""

    name: str
    steps: NDArray[np.int64]

    def output_shape(self, shape: Shape) -> Shape:
        """The same."""
        if shape != self.steps.shape:
            raise LinearError(
                f"{self.name} delays {sized(self.steps.shape)}, it is fed {sized(shape)}"
            )
        return shape

    def apply(self, x: Real) -> Real:
        """What a constant x has become when the delay is over; for a delay that lets through
        another number in the steps before, there is no constant."""
        if self.steps.any() and x.any():
            raise LinearError(
                f"{self.name} delays a bias: on the chip a bias is there from the first step on"
            )
        return x


Map = Matrix | Kernel | Diagonal | Delayed


def apply(maps: Sequence[Map], x: Real) -> Real:
    """What ``maps``, one after the other, make of a constant x."""
    for one in maps:
        one.output_shape(x.shape)
        x = one.apply(x)
    return x


def merge(maps: Sequence[Map], shape: Shape) -> tuple[Matrix | Kernel, NDArray[np.int64] | None]:
    """``maps`` on an input of ``shape``, one after the other, as one; and its delays.

    The delays are ``[out, in]`` in steps, None for none. No map at all is the identity: a diagonal
    matrix, or a convolution of one weight a channel. Raises :class:`LinearError` with the names.
    """
    shapes = [shape]
    for one in maps:
        shapes.append(one.output_shape(shapes[-1]))
    before, after, steps = _delays(maps)
    kept = [(one, s) for one, s in zip(maps, shapes, strict=False) if not isinstance(one, Delayed)]
    merged: Matrix | Kernel | Diagonal = Diagonal("identity", np.ones(shapes[-1]))
    for one, fed in reversed(kept):  # a matrix at the end takes in all that comes before it
        merged = _after(merged, one, fed)  # type: ignore[arg-type]
    merged = _synapse(merged)
    delay = None
    if before is not None or after is not None or steps:
        if isinstance(merged, Kernel):
            names = " and ".join(one.name for one in maps if isinstance(one, Delayed))
            raise LinearError(f"{names}: a convolution has no delays on the chip")
        delay = np.full(merged.weight.shape, steps, dtype=np.int64)
        delay += 0 if before is None else before.reshape(-1)
        delay += 0 if after is None else after.reshape(-1, 1)
    return merged, delay


def _delays(
    maps: Sequence[Map],
) -> tuple[NDArray[np.int64] | None, NDArray[np.int64] | None, int]:
    """Delays of single inputs, of single outputs, and of all alike (which can stand anywhere)."""
    before = after = None
    total = 0
    for index, one in enumerate(maps):
        if not isinstance(one, Delayed):
            continue
        if (one.steps == one.steps.flat[0]).all():
            total += int(one.steps.flat[0])
        elif all(isinstance(other, Delayed | Diagonal) for other in maps[:index]):
            before = one.steps if before is None else before + one.steps
        elif all(isinstance(other, Delayed | Diagonal) for other in maps[index:]):
            after = one.steps if after is None else after + one.steps
        else:
            raise LinearError(
                f"{one.name} stands between two linear maps with different delays: no synapse of "
                "the chip does that"
            )
    return before, after, total


def _after(
    second: Matrix | Kernel | Diagonal, first: Matrix | Kernel | Diagonal, fed: Shape
) -> Matrix | Kernel | Diagonal:
    """second ∘ first, ``first`` being fed ``fed``."""
    name = first.name if second.name == "identity" else f"{first.name}, {second.name}"
    if isinstance(second, Matrix):
        if isinstance(first, Matrix):
            _bounded(name, len(second.weight), first.weight.shape[1])
            return Matrix(name, second.weight @ first.weight)
        if isinstance(first, Diagonal):
            return Matrix(name, second.weight * first.factor.reshape(-1))
        return Matrix(name, first.adjoint(second.weight, fed))
    if isinstance(second, Diagonal):
        if isinstance(first, Matrix):
            return Matrix(name, first.weight * second.factor.reshape(-1, 1))
        if isinstance(first, Diagonal):
            return Diagonal(name, second.factor * first.factor)
        channels = second.channels()
        if channels is None:
            raise LinearError(f"{name}: after a convolution, only a scale for each channel")
        return replace(first, name=name, weight=first.weight * channels[:, None, None, None])
    if isinstance(first, Matrix):
        raise LinearError(f"{name}: a convolution after a matrix, without neurons between them")
    if isinstance(first, Diagonal):
        channels = first.channels()
        if channels is None:
            raise LinearError(f"{name}: before a convolution, only a scale for each channel")
        columns = channels.reshape(second.groups, -1)
        rows = np.repeat(columns, len(second.weight) // second.groups, axis=0)
        return replace(second, name=name, weight=second.weight * rows[:, :, None, None])
    return _convolutions(second, first, fed, name)


def _convolutions(second: Kernel, first: Kernel, fed: Shape, name: str) -> Kernel:
    """Two convolutions in one: an output of the second sees ``first.stride`` steps further on.

    The second's zero padding is not what the first would have given there, unless nothing of the
    input reaches the first's outputs beyond its borders.
    """
    down, across = (_strays(first, second, fed, axis) for axis in (0, 1))
    if (down[0] and across[1]) or (across[0] and down[1]):
        raise LinearError(
            f"{name}: their padding and overlap cannot be merged into one convolution; put "
            "neurons between them, or a padding of 0 in the second"
        )
    (s1y, s1x), (d1y, d1x), (d2y, d2x) = first.stride, first.dilation, second.dilation
    height = (second.reach[0] - 1) * s1y + first.reach[0]
    width = (second.reach[1] - 1) * s1x + first.reach[1]
    _bounded(name, len(second.weight) * fed[0], height * width)
    _bounded(name, len(second.weight) * len(first.weight), max(prod(first.reach), height * width))
    k1, k2 = first.full(), second.full()
    weight = np.zeros((len(k2), k1.shape[1], height, width))
    for i in range(k2.shape[2]):
        for j in range(k2.shape[3]):
            y, x = i * d2y * s1y, j * d2x * s1x
            weight[:, :, y : y + first.reach[0] : d1y, x : x + first.reach[1] : d1x] += np.einsum(
                "om,mihw->oihw", k2[:, :, i, j], k1
            )
    merged = Kernel(
        name,
        weight,
        (s1y * second.stride[0], s1x * second.stride[1]),
        (
            first.padding[0] + second.padding[0] * s1y,
            first.padding[1] + second.padding[1] * s1x,
        ),
    )
    return _grouped(merged, int(np.gcd(first.groups, second.groups)))


def _strays(first: Kernel, second: Kernel, fed: Shape, axis: int) -> tuple[bool, bool]:
    """Along an axis: whether the second sees places beyond the first's borders where the first
    would meet the input, and whether it sees any place where it does."""
    size, out = fed[1 + axis], first.output_shape(fed)[1 + axis]
    middle = second.output_shape(first.output_shape(fed))[1 + axis]
    taps = np.arange(second.weight.shape[2 + axis]) * second.dilation[axis]
    seen = np.unique(np.add.outer(np.arange(middle) * second.stride[axis], taps))
    seen -= second.padding[axis]
    start = seen * first.stride[axis] - first.padding[axis]
    reached = np.add.outer(start, np.arange(first.weight.shape[2 + axis]) * first.dilation[axis])
    meets = ((reached >= 0) & (reached < size)).any(1)
    return bool((meets & ((seen < 0) | (seen >= out))).any()), bool(meets.any())


def _grouped(kernel: Kernel, groups: int) -> Kernel:
    """The same, with the blocks off its diagonal, which are 0, left out."""
    out, channels, *size = kernel.weight.shape
    blocks = kernel.weight.reshape(groups, out // groups, groups, channels // groups, *size)
    weight = np.concatenate([blocks[g, :, g] for g in range(groups)])
    return replace(kernel, weight=weight, groups=groups)


def _synapse(merged: Matrix | Kernel | Diagonal) -> Matrix | Kernel:
    if not isinstance(merged, Diagonal):
        return merged
    if merged.factor.ndim == 1:
        _bounded(merged.name, merged.factor.size, merged.factor.size)
        return Matrix(merged.name, np.diag(merged.factor))
    channels = merged.channels()
    if channels is None:
        raise LinearError(f"{merged.name}: on an image, only a scale for each channel")
    return Kernel(merged.name, channels[:, None, None, None], groups=len(channels))


def _bounded(name: str, rows: int, columns: int) -> None:
    if rows * columns > LARGEST:
        raise LinearError(f"{name}: merged they are a matrix of {rows} x {columns}: too large")


def sized(shape: Shape) -> str:
    """``3x32x32``, for an error."""
    return "x".join(str(n) for n in shape)
