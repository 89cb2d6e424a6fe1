"""DECOLLE: deep continuous local learning (Kaiser et al. 2020, Front. Neurosci. 14:424).

Every layer has a readout of fixed random weights and a loss of its own in every step; no error
passes from layer to layer, and the past enters by the presynaptic neurons' traces alone::

    E[t] = 1/T Σ_l ℓ(o^l[t], y),    o^l = G^l s^l[t],  G^l random and fixed
    ΔW^l = Σ_t δ^l[t] w̃^l[t]ᵀ,     δ^l = (G^lᵀ ∂ℓ/∂o^l) ⊙ φ

It is TT-LBP's (1, 1) with traces in place of the single step. The network's output layer is the
last hidden layer's readout: fixed too where it was built so, else it learns by the same local loss.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.rules.base import Local, Loss, Result, Traced
from trainer.traces import Tracing


class TracedLocal(Traced, Local):
    """A network with both traces and local classifiers."""


@dataclass(frozen=True)
class DECOLLE:
    """Local losses at every layer and step, weights by traces."""

    def __call__(
        self,
        network: TracedLocal,
        x: Tensor,
        y: Tensor,
        loss: Loss,
        *,
        generator: torch.Generator | None = None,
        update: Callable[[], None] | None = None,
    ) -> Result:
        network.reset(x)
        network.trace(Tracing(neurons=False))
        network.divide(1)
        total = torch.zeros((), device=x.device)
        for t in range(len(x)):
            network.detach()
            parts = [loss(o, y) for o in (network.step(t), *network.locals)]
            (torch.stack(parts).sum() / len(x)).backward()
            total += parts[0].detach() / len(x)
        network.gather()
        return Result(total, network.read())
