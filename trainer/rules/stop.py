"""STOP: spatiotemporal orthogonal propagation (Gao et al.), and OTTT, its part for weights alone.

Errors go backwards through the layers of one step; what they need of the past comes with traces,
forwards in time (derived: only STOP's abstract is public)::

    δ^L[t] = ∂E[t]/∂s^L[t] ⊙ φ          δ^l[t] = (W^{l+1}ᵀ δ^{l+1}[t]) ⊙ φ
    ΔW = Σ_t δ[t] w̃[t]ᵀ     Δθ_j = Σ_t δ_j[t] (θ̃_j[t] − 1)     Δα = Σ_t Σ_j δ_j[t] α̃_j[t]

with the traces of :mod:`trainer.traces`, one set for each form of neuron, and E = 1/T Σ_t ℓ(o[t],
y). Memory does not depend on T. Ignored, by design: the derivative of the reset's spikes, and the
error of a step that reaches lower layers' spikes of earlier steps; α is the receiving layer's.
Batch norms have each step's statistics, and what W, γ and β did to earlier steps goes through the
present one's, as if all had the same: exact where they have, as a static input's.

OTTT (Xiao et al. 2022, arXiv:2210.04195) has the weights' traces, one a presynaptic neuron
(its accumulated spikes â[t] = λ â[t−1] + s[t]); threshold and leak do not learn.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.rules.base import Loss, Result, Traced
from trainer.rules.sltt import spatial
from trainer.traces import Tracing


@dataclass(frozen=True)
class STOP:
    """Weight, threshold and leak learned together, by traces.

    per_synapse: the exact traces of hard-reset neurons, one a synapse and sample; without, one a
        presynaptic neuron and a few numbers a receiver (:mod:`trainer.traces`). Soft resets, what a
        static input or a bias brings, and the part along the weights are exact either way.
    mean: gradients of threshold and leak are means over a layer's neurons, not sums.
    loss_of: ``steps``, or the outputs' ``mean``, as in :mod:`trainer.rules.sltt`.
    """

    per_synapse: bool = False
    mean: bool = False
    loss_of: str = "steps"

    def __call__(
        self,
        network: Traced,
        x: Tensor,
        y: Tensor,
        loss: Loss,
        *,
        generator: torch.Generator | None = None,
        update: Callable[[], None] | None = None,
    ) -> Result:
        network.reset(x)
        network.trace(Tracing(True, self.per_synapse, self.mean))
        total = spatial(network, x, y, loss, self.loss_of, range(len(x)))
        return Result(total, network.read())


@dataclass(frozen=True)
class OTTT:
    """Online training through time: weights by their presynaptic neurons' traces.

    loss_of: ``steps``, or the outputs' ``mean``, as in :mod:`trainer.rules.sltt`.
    """

    loss_of: str = "steps"

    def __call__(
        self,
        network: Traced,
        x: Tensor,
        y: Tensor,
        loss: Loss,
        *,
        generator: torch.Generator | None = None,
        update: Callable[[], None] | None = None,
    ) -> Result:
        network.reset(x)
        network.trace(Tracing(neurons=False))
        total = spatial(network, x, y, loss, self.loss_of, range(len(x)))
        return Result(total, network.read())
