"""BPTT: backpropagation through time, the reference.

The loss is SLTT's (Meng et al. 2023, arXiv:2302.14311, Eq 14), so that rules can be compared::

    L = 1/T Σ_t ℓ(o[t], y)

and the gradient is all of it: SLTT's Eqs 7, 9 and 10, which in recursive form are, with δ the error
at the membrane u, φ = ∂s/∂u the surrogate, and ε the sensitivity of Eq 8::

    δ^l[t] = (W^{l+1}ᵀ δ^{l+1}[t]) ⊙ φ^l[t] + ε^l[t] ⊙ δ^l[t+1]
    ε^l[t] = ∂u[t+1]/∂u[t] + ∂u[t+1]/∂s[t] · φ[t]            ∇W^l = Σ_t δ^l[t] s^{l−1}[t]ᵀ

``detach_reset`` leaves out the second term of ε: the reset is no path for the gradient. Memory
grows in proportion to T; ``checkpoint`` makes it √T: the steps are done once without a graph, the
state kept at every ⌈√T⌉th, and once more with one, a segment at a time from the last to the first,
the error passed on through the state (Chen et al. 2016, arXiv:1604.06174). The gradient is the same
to the last bit.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.rules.base import Loss, Restorable, Result, Stepped


@dataclass(frozen=True)
class BPTT:
    """Autograd over the whole unrolled graph."""

    detach_reset: bool = False

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
        losses = []
        for t in range(len(x)):
            if self.detach_reset:
                network.detach_reset()
            losses.append(loss(network.step(t), y))
        total = torch.stack(losses).mean()
        total.backward()  # type: ignore[no-untyped-call]
        network.gather()
        return Result(total.detach(), network.read())


@dataclass(frozen=True)
class CheckpointedBPTT:
    """BPTT in √T memory: each segment's graph is made when its error comes.

    segment: steps a segment; 0: ⌈√T⌉.
    """

    detach_reset: bool = False
    segment: int = 0

    def __call__(
        self,
        network: Restorable,
        x: Tensor,
        y: Tensor,
        loss: Loss,
        *,
        generator: torch.Generator | None = None,
        update: Callable[[], None] | None = None,
    ) -> Result:
        steps = len(x)
        length = self.segment or math.ceil(math.sqrt(steps))
        starts = list(range(0, steps, length))
        network.reset(x)
        snapshots = []
        losses = torch.zeros(steps, dtype=x.dtype, device=x.device)
        for start in starts[:-1]:  # the last is done only once, with its graph
            snapshots.append(network.snapshot())
            network.skip(start, start + length)
        snapshots.append(network.snapshot())
        errors: list[Tensor | None] = []
        scores: Tensor | None = None
        for start, snapshot in zip(reversed(starts), reversed(snapshots), strict=True):
            leaves = network.restore(snapshot)
            last = scores is None
            with contextlib.nullcontext() if last else network.replay():
                parts = []
                for t in range(start, min(start + length, steps)):
                    if self.detach_reset:
                        network.detach_reset()
                    parts.append(loss(network.step(t), y))
            if scores is None:
                scores = network.read()
            stacked = torch.stack(parts)
            losses[start : start + length] = stacked.detach()
            # As the mean over all steps would have it: each step's loss gets the error 1/T.
            roots: list[Tensor] = [stacked]
            grads: list[Tensor] = [torch.full_like(stacked, 1 / steps)]
            for tensor, error in zip(network.state_tensors(), errors, strict=False):
                if error is not None and tensor.requires_grad:
                    roots.append(tensor)
                    grads.append(error)
            torch.autograd.backward(roots, grads)
            errors = [leaf.grad for leaf in leaves]
        network.gather()
        assert scores is not None
        return Result(losses.mean(), scores)
