"""What a rule is: it takes a stepped network and one batch, and leaves gradients.

A rule knows nothing of models, of optimizers or of the chip. It decides which paths through time
and through the layers the gradient takes, and when it is computed; the loop does the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from loihi.errors import PumiceError
from trainer.traces import Tracing

Loss = Callable[[Tensor, Tensor], Tensor]
"""ℓ(o, y): outputs ``[N, classes]`` and labels ``[N]`` to a scalar."""


class Stepped(Protocol):
    """A network that a rule can train: one that goes step by step and shows where to cut.

    Any network of persistent state will do; :class:`trainer.models.SpikingNetwork` is ours.
    """

    def reset(self, x: Tensor) -> None:
        """To rest, with a batch of payloads ``[T, N, ...]``."""

    def step(self, t: int) -> Tensor:
        """One step, t from 0: outputs o[t] ``[N, classes]``."""

    def skip(self, first: int, last: int) -> None:
        """Steps ``first`` to ``last`` − 1 without outputs or gradients."""

    def detach(self) -> None:
        """No gradient from later steps to earlier ones, from here."""

    def detach_reset(self) -> None:
        """No gradient through the reset by the spikes so far."""

    def gather(self) -> None:
        """Sends what the steps' gradients added up to, on to the parameters."""

    def read(self) -> Tensor:
        """Scores ``[N, classes]``, no gradient: what decides after the steps so far."""

    def mean(self, steps: int) -> Tensor:
        """The mean of the outputs o ``[N, classes]`` of all steps so far, ``steps`` of them, no
        gradient."""


class Traced(Stepped, Protocol):
    """A network that can carry traces forwards."""

    def trace(self, tracing: Tracing) -> None:
        """After :meth:`reset`: keeps traces, with which all gradients are taken."""


class Local(Stepped, Protocol):
    """A network with local classifiers, to be trained block by block."""

    locals: list[Tensor]
    """The local classifiers' outputs ``[N, classes]`` in the last step."""

    def divide(self, n: int) -> None:
        """After :meth:`reset`: no gradient between blocks of n layers."""

    def refresh(self) -> None:
        """Takes up parameters that an optimizer changed; states go on."""


class Restorable(Stepped, Protocol):
    """A network that can be put back to where it was."""

    def snapshot(self) -> Any:
        """Where the batch stands, without gradient."""

    def restore(self, snapshot: Any) -> list[Tensor]:
        """Back there; the state's tensors, as leaves that take gradients."""

    def state_tensors(self) -> list[Tensor]:
        """The tensors through which later steps depend on earlier ones."""

    def replay(self) -> AbstractContextManager[None]:
        """Within, steps are done for a second time."""


class Result(NamedTuple):
    """What a rule reports of a batch, without gradient.

    loss: scalar.
    scores: ``[N, classes]``.
    """

    loss: Tensor
    scores: Tensor


class Rule(Protocol):
    """``rule(network, x, y, loss)`` adds the batch's gradients to the parameters' ``.grad``."""

    def __call__(
        self,
        network: Any,
        x: Tensor,
        y: Tensor,
        loss: Loss,
        *,
        generator: torch.Generator | None = None,
        update: Callable[[], None] | None = None,
    ) -> Result:
        """x: payloads ``[T, N, ...]``; y: labels ``[N]``.

        network: a :class:`Stepped` network, or of the kind that the rule names.
        generator: for what the rule draws at random.
        update: for rules that update weights within a batch: an optimizer's step, after which
            gradients are zero. None: gradients add up over the batch.
        """


def by_mean(loss_of: str) -> bool:
    """Whether the loss is that of the ``mean`` output, rather than the mean of the ``steps``'.

    Raises :class:`PumiceError` for any other name.
    """
    if loss_of not in ("steps", "mean"):
        raise PumiceError(f"loss_of {loss_of!r} is unknown: use steps or mean")
    return loss_of == "mean"


def at(value: Tensor, o: Tensor) -> Tensor:
    """``value``, whose gradient is that of ``o``."""
    return value.detach() + (o - o.detach())
