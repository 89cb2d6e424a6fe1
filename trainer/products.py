"""Products of messages and weights: the trainer's largest part of a step, made to fit it.

What is multiplied is known here: weights are even integers of eight bits, messages are spikes (or
payloads of a few bits), most of them 0. So, on the CPU in float32:

- forwards, an int8 product with 32-bit sums, exact whatever the fan-in;
- the weights' gradient, event-driven where few inputs spike (:mod:`trainer.kernels`);
- everything else through oneDNN, which unlike MKL uses the whole vector width of AMD's processors.

Each has torch's plain product beside it, used where the fast one does not apply. The integers are
the same either way; gradients differ by float32's rounding. :mod:`trainer.convolutions` has images.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from trainer import kernels
from trainer.shared import Shared

SPARSE = 0.25
"""Below this part of inputs that are not 0, a gradient is gathered event by event."""
SMALL = 64
"""A product of fewer outputs is not worth the trouble."""
FEW = 16
"""Of fewer samples, most of a gradient's time is the way through the sums."""


@functools.cache
def int8_product() -> Callable[[Tensor, Tensor], Tensor] | None:
    """``x yᵀ`` of int8 in int32, if this build of torch has one that works here; else None."""
    try:
        x = torch.tensor([[1, -2, 127], [0, 5, -128]], dtype=torch.int8)
        if torch.equal(torch._int_mm(x, x.T), x.int() @ x.int().T):
            return _int8_times
    except (AttributeError, RuntimeError):
        pass
    return None


def _int8_times(x: Tensor, y: Tensor) -> Tensor:
    if x.shape[1] == 1:  # torch 2.13 leaves these sums as it found the memory
        return x.int() * y.int().T
    return torch._int_mm(x, y.T)


@functools.cache
def _onednn() -> Any:
    """oneDNN's ``x Wᵀ``, if this build has it; else None."""
    try:
        operator = torch.ops.mkldnn._linear_pointwise
        x = torch.arange(6.0).reshape(2, 3)
        if torch.equal(operator(x, x, None, "none", [], ""), x @ x.T):
            return operator
    except (AttributeError, RuntimeError):
        pass
    return None


def times(x: Tensor, y: Tensor) -> Tensor:
    """``x yᵀ``, in the fastest float product there is."""
    if x.device.type == "cpu" and x.dtype == torch.float32 and min(len(x), len(y)) >= SMALL:
        operator = _onednn()
        if operator is not None:
            result: Tensor = operator(x, y, None, "none", [], "")
            return result
    return F.linear(x, y)


def _forward(x: Tensor, weight: Shared, step: float) -> Tensor:
    on_cpu = x.device.type == "cpu" and x.dtype == torch.float32
    product = int8_product() if step and on_cpu and len(weight.value) >= SMALL else None
    if product is None:
        return times(x, weight.matrix)
    return product(x.to(torch.int8), weight.int8(step)).float().mul_(step)


def add_gradient(x: Tensor, delta: Tensor, weight: Shared) -> None:
    """Adds ``deltaᵀ x``, of messages (or traces) ``[N, in]`` and errors ``[N, out]``, to the
    gradient of the weights ``[out, in]``."""
    if x.device.type != "cpu" or x.dtype != torch.float32 or delta.shape[1] < SMALL:
        weight.add((delta.T @ x).view_as(weight.value))
        return
    if len(x) < FEW:
        weight.row_sum.addmm_(x.T, delta)
        return
    x, delta = x.contiguous(), delta.contiguous()
    messages = x.numpy()
    events = kernels.active(messages)
    if events < SPARSE * x.numel():
        kernels.weight_gradient(messages, delta.numpy(), weight.row_sum.numpy(), events)
    else:
        weight.row_sum.add_(times(x.T, delta.T))


class _Linear(torch.autograd.Function):
    """``x Wᵀ``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor, weight: Shared, step: float) -> Tensor:
        ctx.weight = weight
        ctx.save_for_backward(x)
        return _forward(x, weight, step)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (delta,) = grads
        weight: Shared = ctx.weight
        if ctx.needs_input_grad[1]:
            add_gradient(ctx.saved_tensors[0], delta, weight)
        of_x = times(delta, weight.matrix.T) if ctx.needs_input_grad[0] else None
        return of_x, None, None, None


def linear(x: Tensor, weight: Shared, step: float = 0.0) -> Tensor:
    """``x Wᵀ`` ``[N, out]`` of messages ``[N, in]`` and shared weights ``[out, in]``.

    step: where not 0, all weights are multiples of it, at most 127 times it, and the messages
        integers of at most 127: the product is then exact in int8.
    """
    if not torch.is_grad_enabled():
        return _forward(x, weight, step)
    result: Tensor = _Linear.apply(x, weight.value, weight, step)
    return result
