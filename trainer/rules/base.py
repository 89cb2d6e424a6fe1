"""What a rule is: it takes a stepped network and one batch, and leaves gradients.

A rule knows nothing of models, of optimizers or of the chip. It decides which paths through time
the gradient takes, and when it is computed; the loop does the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from torch import Tensor

Loss = Callable[[Tensor, Tensor], Tensor]
"""ℓ(o, y): outputs ``[N, classes]`` and labels ``[N]`` to a scalar."""


class Stepped(Protocol):
    """A network that a rule can train: one that goes step by step and shows where to cut.

    Any network of persistent state will do; :class:`trainer.models.SpikingNetwork` is ours.
    """

    def reset(self, x: Tensor, cut: bool = False) -> None:
        """To rest, with a batch of payloads ``[T, N, ...]``. cut: what all steps share (quantised
        weights) gathers gradients on leaves, so that a step's graph can be freed at once."""

    def step(self, t: int) -> Tensor:
        """One step, t from 0: outputs o[t] ``[N, classes]``."""

    def detach(self) -> None:
        """No gradient from later steps to earlier ones, from here."""

    def detach_reset(self) -> None:
        """No gradient through the reset by the spikes so far."""

    def gather(self) -> None:
        """Sends the gradients that a ``cut`` batch gathered to the parameters."""

    def read(self) -> Tensor:
        """Scores ``[N, classes]``, no gradient: what decides after the steps so far."""


class Result(NamedTuple):
    """What a rule reports of a batch, without gradient.

    loss: scalar.
    scores: ``[N, classes]``.
    """

    loss: Tensor
    scores: Tensor


class Rule(Protocol):
    """``rule(network, x, y, loss)`` adds the batch's gradients to the parameters' ``.grad``."""

    def __call__(self, network: Stepped, x: Tensor, y: Tensor, loss: Loss) -> Result:
        """x: payloads ``[T, N, ...]``; y: labels ``[N]``."""
