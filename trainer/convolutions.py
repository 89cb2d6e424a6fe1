"""Convolutions of messages: int8 forwards on the CPU, where oneDNN has them right.

As :mod:`trainer.products`: weights are even integers of eight bits, messages spikes or payloads of
a few bits, sums of 32 bits hold all of it. Images lie pixel by pixel, all channels of one beside
each other (``channels_last``). Where int8 is not for a geometry, or not in this build of torch, it
is the plain convolution that runs, with the same integers.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from trainer import gathered, kernels
from trainer.shared import Shared

FEW = 0.3
"""Below this part of errors that are not 0, gradients are gathered error by error."""


class Geometry(NamedTuple):
    """Where a convolution's kernels stand: (vertical, horizontal) each."""

    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int


@functools.cache
def int8_convolution() -> Any:
    """oneDNN's int8 convolution and what lays weights out for it, if this build has them."""
    try:
        return torch.ops.onednn.qconv_prepack, torch.ops.onednn.qconv2d_pointwise
    except AttributeError:
        return None


def suits_int8(shape: torch.Size, weight: Tensor, geometry: Geometry) -> bool:
    """Whether :func:`int8_convolution` is there, and right, for images of this shape.

    oneDNN's is not for every geometry: one kernel padded as wide as itself, dilated, ended the
    process; strides of (1, 2) onto one column of outputs gave wrong sums. So only what thousands of
    random cases have shown to hold is tried at all, and each case is compared with the plain
    convolution before its first use.
    """
    even = geometry.stride in {(1, 1), (2, 2)} and geometry.dilation == (1, 1)
    within = all(p < k for p, k in zip(geometry.padding, weight.shape[2:], strict=True))
    there = int8_convolution() is not None
    return there and even and within and _is_exact(shape, weight.shape, geometry)


@functools.cache
def _is_exact(shape: torch.Size, kernels: torch.Size, geometry: Geometry) -> bool:
    if math.prod(kernels[1:]) * 128 >= 2**24:  # beyond float32's integers
        return False
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 2, shape, generator=generator).float()
    weight = torch.randint(-128, 128, kernels, generator=generator).float()
    operators = int8_convolution()
    try:
        sums = _int8_sums(x, _pack(weight, 1.0, geometry, shape, operators), operators)
    except (RuntimeError, TypeError):
        return False
    return torch.equal(sums, F.conv2d(x, weight, None, *geometry))


class _Packed(NamedTuple):
    """A convolution's weights as oneDNN wants them, and what its sums are multiplied by."""

    weight: Tensor
    scale: Tensor
    zeros: Tensor
    geometry: Geometry


def _pack(
    weight: Tensor, step: float, geometry: Geometry, shape: torch.Size, operators: Any
) -> _Packed:
    """shape: the images'."""
    scale, zeros = torch.full((len(weight),), step), torch.zeros(len(weight), dtype=torch.int64)
    integers = (weight.detach() / step).to(torch.int8)
    return _Packed(operators[0](integers, scale, 1.0, 0, *geometry, shape), scale, zeros, geometry)


def _int8_sums(x: Tensor, packed: _Packed, operators: Any) -> Tensor:
    result: Tensor = operators[1](
        x.to(torch.uint8), 1.0, 0, packed.weight, packed.scale, packed.zeros, None,
        *packed.geometry, 1.0, 0, torch.float32, "none", [], "",
    )  # fmt: skip
    return result


def _pack_once(shared: Shared, step: float, geometry: Geometry, shape: torch.Size) -> _Packed:
    operators = int8_convolution()
    packed: _Packed = shared.once("int8", lambda w: _pack(w, step, geometry, shape, operators))
    return packed


def int8_convolve(x: Tensor, weight: Shared, geometry: Geometry, step: float) -> Tensor:
    """:func:`convolve` of int8 messages, where :func:`suits_int8`."""
    packed = _pack_once(weight, step, geometry, x.shape)
    return _int8_sums(x.view(torch.uint8), packed, int8_convolution())


class _Convolve(torch.autograd.Function):
    """A convolution whose forward pass may be int8."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        geometry: Geometry,
        packed: _Packed | None,
        shared: Shared | None,
    ) -> Tensor:
        ctx.geometry, ctx.shared = geometry, shared
        ctx.save_for_backward(x, weight)
        return _convolved(x, weight, geometry, packed)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        of_x, of_weight = ctx.needs_input_grad[:2]
        found = gradients(grads[0], x, weight, ctx.geometry, of_x, of_weight, ctx.shared)
        return (*found, None, None, None)


def gradients(
    delta: Tensor,
    x: Tensor,
    weight: Tensor,
    geometry: Geometry,
    of_x: bool,
    of_weight: bool,
    shared: Shared | None = None,
) -> tuple[Tensor | None, Tensor | None]:
    """∂E/∂x and ∂E/∂w of errors ``delta`` ``[N, out, H', W']``; None if not wanted.

    Gathered error by error where few are not 0 (:mod:`trainer.gathered`), else torch's.
    shared: what the weights were taken from, if all steps of a batch share them.
    """
    if _can_gather(delta, x, weight, geometry):
        x_grad = weight_grad = None
        if of_weight:
            weight_grad = _of_weight(delta, x, weight, geometry)
        if of_x:
            strips = _strips(weight) if shared is None else shared.once("strips", _strips)
            x_grad = _of_messages(delta, x.shape, strips, geometry)
        return x_grad, weight_grad
    stride, padding, dilation, groups = geometry
    found = torch.ops.aten.convolution_backward(
        delta, x, weight, None, stride, padding, dilation, False, [0, 0], groups,
        [of_x, of_weight, False],
    )  # fmt: skip
    return found[0], found[1]


def _can_gather(delta: Tensor, x: Tensor, weight: Tensor, geometry: Geometry) -> bool:
    here = all(t.device.type == "cpu" and t.dtype == torch.float32 for t in (delta, x, weight))
    channels, lines, columns = weight.shape[1:]
    plain = geometry.groups == 1 and geometry.dilation == (1, 1)
    if not here or not plain or lines * columns == 1 or channels * columns % gathered.LANES:
        return False
    errors = _pixels(delta).numpy().reshape(len(delta), -1)
    return bool(kernels.active(errors) < FEW * errors.size)


@functools.cache
def _corners(positions: torch.Size, stride: tuple[int, int], line: int, channels: int) -> Any:
    """Where in an image's memory each window begins; ``line`` numbers lie from line to line."""
    y, x = torch.arange(positions[0]) * stride[0], torch.arange(positions[1]) * stride[1]
    return (y[:, None] * line + x * channels).flatten().numpy()


def _strips(weight: Tensor) -> Tensor:
    """The weights as :func:`trainer.gathered.message_gradient` reads them."""
    rows = _pixels(weight).flatten(2)
    parts: Tensor = rows.unflatten(2, (-1, gathered.strip(rows.shape[2])))
    return parts.permute(1, 2, 0, 3).contiguous()


def _pixels(x: Tensor) -> Tensor:
    """``[N, C, H, W]`` as it lies in memory, ``[N, H, W, C]``."""
    return x.detach().permute(0, 2, 3, 1).contiguous()


def _of_weight(delta: Tensor, x: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    """∂E/∂w, gathered."""
    (above, beside), channels = geometry.padding, x.shape[1]
    out, _, lines, columns = weight.shape
    images = _pixels(x)
    if any(geometry.padding):
        images = F.pad(images, (0, 0, beside, beside, above, above))
    line = images.shape[2] * channels
    corners = _corners(delta.shape[2:], geometry.stride, line, channels)
    sums = torch.zeros((out, lines, columns * channels))
    errors = _pixels(delta).flatten(1, 2).numpy()
    gathered.weight_gradient(images.flatten(1).numpy(), errors, corners, line, sums.numpy())
    return sums.view(out, lines, columns, channels).permute(0, 3, 1, 2)


def _of_messages(delta: Tensor, shape: torch.Size, strips: Tensor, geometry: Geometry) -> Tensor:
    """∂E/∂x, gathered, for images of this shape; strips: the weights, see :func:`_strips`."""
    n, channels, height, width = shape
    above, beside = geometry.padding
    line = (width + 2 * beside) * channels
    corners = _corners(delta.shape[2:], geometry.stride, line, channels)
    whole = torch.zeros((n, height + 2 * above, line))
    errors = _pixels(delta).flatten(1, 2).numpy()
    into = whole.flatten(1).numpy()
    gathered.message_gradient(errors, strips.numpy(), corners, line, into)
    inner = whole.unflatten(2, (-1, channels))[:, above : above + height]
    return inner[:, :, beside : beside + width].permute(0, 3, 1, 2)


def _convolved(x: Tensor, weight: Tensor, geometry: Geometry, packed: _Packed | None) -> Tensor:
    if packed is not None:
        return _int8_sums(x, packed, int8_convolution())
    if x.device.type == "cpu" and _is_a_column(x.shape[3], weight.shape[3], geometry):
        # torch 2.13: wrong sums from oneDNN's float32 convolution, of one channel.
        return F.conv2d(x.double(), weight.double(), None, *geometry).to(x.dtype)
    return F.conv2d(x, weight, None, *geometry)


def _is_a_column(width: int, kernel: int, geometry: Geometry) -> bool:
    """Whether kernels that step further across than down find place for one step across."""
    down, across = geometry.stride
    room = width + 2 * geometry.padding[1] - geometry.dilation[1] * (kernel - 1) - 1
    return room < across and down < across


def convolve(
    x: Tensor, weight: Tensor, geometry: Geometry, step: float = 0.0, shared: Shared | None = None
) -> Tensor:
    """Images ``[N, C, H, W]`` with kernels ``[out, C / groups, kH, kW]``.

    step: where not 0, all weights are multiples of it, at most 127 times it and at least −128
        times, and the messages integers from 0 to 127: the product is then exact in int8.
    shared: what the weights were taken from, if all steps of a batch share them.
    """
    packed: _Packed | None = None
    on_cpu = x.device.type == "cpu" and x.dtype == torch.float32
    if step and on_cpu and suits_int8(x.shape, weight, geometry):
        packed = (
            _pack(weight, step, geometry, x.shape, int8_convolution())
            if shared is None
            else _pack_once(shared, step, geometry, x.shape)
        )
    if not torch.is_grad_enabled():
        return _convolved(x, weight, geometry, packed)
    result: Tensor = _Convolve.apply(x, weight, geometry, packed, shared)
    return result
