"""What all steps of a batch share: computed once, differentiated once.

Quantised weights, thresholds and decays are the same in every step. Each is put on a leaf of its
own, where the gradients of the steps add up in place, in the order in which the steps are
differentiated; a step's graph ends there and can go. :meth:`Shared.gather` then sends the sum on to
the parameters, once a batch. So a step costs no quantisation, memory need not grow with T, and a
batch that is differentiated in pieces gives the same sums to the last bit as one that is not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class _Use(torch.autograd.Function):
    """The shared tensor in one step; its gradient, times ``scale`` if given, goes to the sum."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, shared: Shared, scale: Tensor | None) -> Tensor:
        ctx.shared, ctx.scale = shared, scale
        ctx.set_materialize_grads(False)
        return value.detach()  # strides and all, which view_as() changes of a single channel

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[None, None, None]:
        (grad,) = grads
        if grad is not None:
            ctx.shared.add(grad if ctx.scale is None else grad * ctx.scale)
        return None, None, None


class Shared:
    """One tensor for all steps of a batch.

    source: the tensor as computed from parameters (or from other shared tensors).
    value: the same numbers as a leaf: what the steps see.
    """

    def __init__(self, source: Tensor) -> None:
        self.source = source
        self.value = source.detach().requires_grad_(source.requires_grad)
        self._sum: Tensor | None = None
        self._row_sum: Tensor | None = None
        self._factors: Tensor | None = None
        self._made: dict[str, Any] = {}

    def now(self, scale: Tensor | None = None) -> Tensor:
        """The tensor for one step. scale: what this step's gradient is multiplied by."""
        if not (self.value.requires_grad and torch.is_grad_enabled()):
            return self.value
        used: Tensor = _Use.apply(self.value, self, scale)
        return used

    @property
    def matrix(self) -> Tensor:
        """The numbers as a matrix ``[out, in]``, without gradient."""
        return self.value.detach().flatten(1)

    def once(self, kind: str, make: Callable[[Tensor], Any]) -> Any:
        """The numbers as a product wants them: what ``make`` makes of them, the first time."""
        if kind not in self._made:
            self._made[kind] = make(self.value.detach())
        return self._made[kind]

    def int8(self, step: float) -> Tensor:
        """The matrix as multiples of ``step``, in int8."""
        made: Tensor = self.once("int8", lambda value: (value.flatten(1) / step).to(torch.int8))
        return made

    @property
    def row_sum(self) -> Tensor:
        """Where a matrix's gradients add up transposed, ``[in, out]``: a row for every input."""
        if self._row_sum is None:
            self._row_sum = torch.zeros(self.matrix.T.shape, dtype=self.value.dtype)
        return self._row_sum

    def add(self, grad: Tensor) -> None:
        """Adds a step's gradient."""
        if self._sum is None:
            self._sum = grad.clone()
        else:
            self._sum += grad

    def add_along(self, factors: Tensor) -> None:
        """Adds a step's gradient that is the tensor itself, row ``k`` times ``factors[k]``."""
        self._factors = factors if self._factors is None else self._factors + factors

    @property
    def row_squares(self) -> Tensor:
        """What the squares of each row add up to."""
        made: Tensor = self.once("squares", lambda value: value.flatten(1).square().sum(1))
        return made

    def total(self) -> Tensor | None:
        """The sum of the gradients, which starts again from 0; None: there were none."""
        total = self._sum
        if self._row_sum is not None:
            rows = self._row_sum.T.reshape(self.value.shape)
            total = rows if total is None else total + rows
        if self._factors is not None:
            along = (self._factors[:, None] * self.matrix).view_as(self.value)
            total = along if total is None else total + along
        self._sum = self._row_sum = self._factors = None
        return total

    def gather(self) -> None:
        """Sends the sum to where :attr:`source` came from, and starts again from 0."""
        total = self.total()
        if total is not None and self.source.requires_grad:
            self.source.backward(total)
