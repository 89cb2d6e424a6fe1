"""SLTT-K: SLTT with a backward pass at K of the T steps (Meng et al. 2023, Section 4.3).

K steps are drawn without replacement for each batch; the others go forwards only::

    L = 1/T Σ_{t ∈ D} ℓ(o[t], y),    D = randperm(T)[:K]

As the paper divides by T, the expected gradient is K/T of SLTT's; ``unbiased`` multiplies by T/K,
which makes it SLTT's. The paper's own scale is the default: an optimizer such as Adam, which
divides by the gradient's size, does not see the difference.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from loihi.errors import PumiceError
from trainer.rules.base import Loss, Result, Stepped
from trainer.rules.sltt import spatial


@dataclass(frozen=True)
class SLTTK:
    """Backward at ``k`` random steps of a batch.

    unbiased: gradients times T/k, so that their mean over all draws is SLTT's.
    loss_of: ``steps``, or the outputs' ``mean`` (over all steps).
    """

    k: int = 1
    unbiased: bool = False
    loss_of: str = "steps"

    def check(self, steps: int) -> None:
        """Raises :class:`PumiceError` where there are not k of T steps."""
        if not 1 <= self.k <= steps:
            raise PumiceError(f"sltt_k: k is {self.k}, of {steps} steps: use 1..{steps}")

    def __call__(
        self,
        network: Stepped,
        x: Tensor,
        y: Tensor,
        loss: Loss,
        *,
        generator: torch.Generator | None = None,
        update: Callable[[], None] | None = None,
    ) -> Result:
        steps = len(x)
        self.check(steps)
        drawn = set(torch.randperm(steps, generator=generator)[: self.k].tolist())
        scale = steps / self.k if self.unbiased else 1.0
        network.reset(x)
        total = spatial(network, x, y, loss, self.loss_of, drawn, scale)
        return Result(total, network.read())
