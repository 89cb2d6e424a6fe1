"""SLTT: spatial learning through time (Meng et al. 2023, arXiv:2302.14311, Algorithm 1).

The membrane is detached between steps, v = sg(u[t−1] − θ s[t−1]) (for a hard reset
v = sg(u[t−1] (1 − s[t−1]))), so that the temporal parts of BPTT's Eqs 9 and 10 drop out::

    ∇W^l = Σ_t e_u^l[t]ᵀ s^{l−1}[t]ᵀ                                           Eq 12
    e_u^L[t] = ∂L/∂s^L[t] φ^L[t],   e_u^l[t] = e_u^{l+1}[t] W^{l+1} φ^l[t]      Eq 13
    L = 1/T Σ_t ℓ(o[t], y)                                                      Eq 14

Each step's loss, divided by T, is backpropagated at that step and the step's graph freed: memory
does not depend on T. ``loss_of = "mean"`` is the other loss in use, that of the mean output ō, by
which the network decides (both in Deng et al. 2022, arXiv:2202.11946). Its gradient at each step
wants ō_T, which is known at the end; what is known is the mean so far (ours)::

    L = ℓ(ō_T, y)    ∂L/∂o[t] = 1/T ∇ℓ(ō_T) ≈ 1/T ∇ℓ(ō_t),   ō_t = 1/t Σ_{i ≤ t} o[i]

Threshold and leak learn by the same detached graph:
∂E/∂θ = −Σ_t φ[t] ∂E/∂s[t], ∂E/∂α = Σ_t e_u[t] v.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.rules.base import Loss, Result, Stepped, at, by_mean


@dataclass(frozen=True)
class SLTT:
    """Backward at every step, nothing through time.

    loss_of: ``steps``, or the outputs' ``mean``.
    """

    loss_of: str = "steps"

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
        network.reset(x)
        total = spatial(network, x, y, loss, self.loss_of, range(len(x)))
        return Result(total, network.read())


def spatial(
    network: Stepped,
    x: Tensor,
    y: Tensor,
    loss: Loss,
    loss_of: str,
    steps: range | set[int],
    scale: float = 1.0,
) -> Tensor:
    """All steps of a batch that was reset, and of ``steps`` each step's gradient.

    scale: the losses', times 1/T. Returns the mean loss of those steps, or that of the mean output.
    """
    mean_loss = by_mean(loss_of)
    total = torch.zeros((), device=x.device)
    done = 0
    for t in sorted(steps):
        network.skip(done, t)
        network.detach()
        o = network.step(t)
        part = loss(at(network.mean(t + 1), o) if mean_loss else o, y)
        (part * (scale / len(x))).backward()
        total += part.detach()
        done = t + 1
    network.skip(done, len(x))
    network.gather()
    if mean_loss:
        return loss(network.mean(len(x)), y).detach()
    return total / len(steps)
