"""BPTT: backpropagation through time, the reference.

The loss is SLTT's (Meng et al. 2023, arXiv:2302.14311, Eq 14), so that rules can be compared, or
that of the mean output (``loss_of``; both in Deng et al. 2022, arXiv:2202.11946)::

    L = 1/T Σ_t ℓ(o[t], y)    or    L = ℓ(1/T Σ_t o[t], y)

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

from trainer.rules.base import Loss, Restorable, Result, Stepped, at, by_mean


@dataclass(frozen=True)
class BPTT:
    """Autograd over the whole unrolled graph.

    loss_of: ``steps``, or the outputs' ``mean``.
    """

    detach_reset: bool = False
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
        mean_loss = by_mean(self.loss_of)
        network.reset(x)
        outputs = []
        for t in range(len(x)):
            if self.detach_reset:
                network.detach_reset()
            outputs.append(network.step(t))
        if mean_loss:
            mean = torch.stack(outputs).mean(0)
            total = loss(at(network.mean(len(x)), mean), y)
        else:
            total = torch.stack([loss(o, y) for o in outputs]).mean()
        total.backward()  # type: ignore[no-untyped-call]
        network.gather()
        return Result(total.detach(), network.read())


@dataclass(frozen=True)
class CheckpointedBPTT:
    """BPTT in √T memory: each segment's graph is made when its error comes.

    segment: steps a segment; 0: ⌈√T⌉.
    loss_of: ``steps``, or the outputs' ``mean``.
    """

    detach_reset: bool = False
    segment: int = 0
    loss_of: str = "steps"

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
        mean_loss = by_mean(self.loss_of)
        steps = len(x)
        length = self.segment or math.ceil(math.sqrt(steps))
        starts = list(range(0, steps, length))
        network.reset(x)
        snapshots = []
        of_steps: list[Tensor] = []
        for start in starts[:-1]:  # the last is done only once, with its graph
            snapshots.append(network.snapshot())
            network.skip(start, start + length)
        snapshots.append(network.snapshot())
        errors: list[Tensor | None] = []
        of_mean = of_output = torch.zeros((), dtype=x.dtype, device=x.device)
        scores: Tensor | None = None
        for start, snapshot in zip(reversed(starts), reversed(snapshots), strict=True):
            leaves = network.restore(snapshot)
            last = scores is None
            with contextlib.nullcontext() if last else network.replay():
                outputs = []
                for t in range(start, min(start + length, steps)):
                    if self.detach_reset:
                        network.detach_reset()
                    outputs.append(network.step(t))
            if scores is None:
                scores = network.read()
                if mean_loss:
                    of_mean, of_output = _loss_and_error(loss, network.mean(steps), y)
            # As the mean over all steps would have it: each step's loss, or output, gets 1/T.
            if mean_loss:
                part = torch.stack(outputs)
                grad = (of_output / steps).expand_as(part)
            else:
                part = torch.stack([loss(o, y) for o in outputs])
                grad = torch.full_like(part, 1 / steps)
                of_steps.append(part.detach())
            roots, grads = [part], [grad]
            for tensor, error in zip(network.state_tensors(), errors, strict=False):
                if error is not None and tensor.requires_grad:
                    roots.append(tensor)
                    grads.append(error)
            torch.autograd.backward(roots, grads)
            errors = [leaf.grad for leaf in leaves]
        network.gather()
        assert scores is not None
        if mean_loss:
            return Result(of_mean, scores)
        return Result(torch.cat(of_steps[::-1]).mean(), scores)


def _loss_and_error(loss: Loss, o: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """ℓ(o, y) and its gradient by o."""
    o.requires_grad_()
    total = loss(o, y)
    (error,) = torch.autograd.grad(total, o)
    return total.detach(), error
