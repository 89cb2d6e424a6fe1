"""TT-LBP: temporally truncated local BPTT (Guo et al. 2023, Front. Neurosci. 17:1047008).

Time is cut into intervals of k steps and the network into blocks of n layers (Algorithm 1). States
carry across intervals and spikes across blocks; gradients do neither. Each block has a classifier
(the output layer is the last one's), and each interval its losses, of mean outputs::

    L = Σ_blocks ℓ(1/k Σ_t o_c[t], y),   ℓ the mean over classes of (one-hot − rate)²    Eq 3
    δ^{t,n} = Σ γ^{t,n+1} W^n − θ γ^{t+1,n}                                              Eq 4
    γ^{t,n} = δ^{t,n} φ^{t,n} + γ^{t+1,n} α                                              Eq 5
    ∂L/∂w^n = Σ_t γ^{t,n} s^{t,n−1},   t over the interval                                Eq 7

Weights are updated after every interval, T/k times a batch, where the loop gives ``update``;
without it the intervals' gradients add up, each times k/T. (k = T, n = L) is BPTT on the mean
output; (1, 1) is local in time and space; (1, L), not updating, is SLTT.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from loihi.errors import PumiceError
from trainer.rules.base import Local, Loss, Result


@dataclass(frozen=True)
class TTLBP:
    """Intervals of ``k`` steps (0: all T), blocks of ``n`` layers with weights (0: all of them)."""

    k: int = 1
    n: int = 1

    def check(self, steps: int) -> None:
        """Raises :class:`PumiceError` where k does not divide T."""
        if self.k and steps % self.k:
            divisors = [d for d in range(1, steps + 1) if steps % d == 0]
            raise PumiceError(f"tt_lbp: k is {self.k}, T is {steps}: use one of {divisors}")

    def __call__(
        self,
        network: Local,
        x: Tensor,
        y: Tensor,
        loss: Loss,
        *,
        generator: torch.Generator | None = None,
        update: Callable[[], None] | None = None,
    ) -> Result:
        steps = len(x)
        self.check(steps)
        k = self.k or steps
        network.reset(x)
        if self.n:
            network.divide(self.n)
        total = torch.zeros((), device=x.device)
        for start in range(0, steps, k):
            network.detach()
            sums: list[Tensor] = []
            for t in range(start, start + k):
                outputs = [network.step(t)]
                if self.n:
                    outputs += network.locals
                sums = [a + b for a, b in zip(sums, outputs, strict=True)] if sums else outputs
            parts = [loss(one / k, y) for one in sums]
            scale = 1.0 if update is not None else k / steps
            (torch.stack(parts).sum() * scale).backward()
            if update is not None:
                network.gather()
                update()
                if start + k < steps:
                    network.refresh()
            total += parts[0].detach() * (k / steps)
        if update is None:
            network.gather()
        return Result(total, network.read())
