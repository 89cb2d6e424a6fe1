"""BPTT: backpropagation through time, the reference.

The loss is SLTT's (Meng et al. 2023, arXiv:2302.14311, Eq 14), so that rules can be compared::

    L = 1/T Σ_t ℓ(o[t], y)

and the gradient is all of it: SLTT's Eqs 7, 9 and 10, which in recursive form are, with δ the error
at the membrane u, φ = ∂s/∂u the surrogate, and ε the sensitivity of Eq 8::

    δ^l[t] = (W^{l+1}ᵀ δ^{l+1}[t]) ⊙ φ^l[t] + ε^l[t] ⊙ δ^l[t+1]
    ε^l[t] = ∂u[t+1]/∂u[t] + ∂u[t+1]/∂s[t] · φ[t]            ∇W^l = Σ_t δ^l[t] s^{l−1}[t]ᵀ

``detach_reset`` leaves out the second term of ε: the reset is no path for the gradient. Memory
grows in proportion to T.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.rules.base import Loss, Result, Stepped


@dataclass(frozen=True)
class BPTT:
    """Autograd over the whole unrolled graph."""

    detach_reset: bool = False

    def __call__(self, network: Stepped, x: Tensor, y: Tensor, loss: Loss) -> Result:
        network.reset(x)
        losses = []
        for t in range(len(x)):
            if self.detach_reset:
                network.detach_reset()
            losses.append(loss(network.step(t), y))
        total = torch.stack(losses).mean()
        total.backward()  # type: ignore[no-untyped-call]
        return Result(total.detach(), network.read())
