"""Samples to learn from, and a learner that goes through them: in pieces, with a checkpoint."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from loihi import Encoding, Network
from onchip import checkpoint
from onchip.spec import LearningError

PIECE = 500
"""Samples between two words of progress."""
SAVE_AFTER = 20.0
"""Seconds between two checkpoints."""


@dataclass(frozen=True)
class Samples:
    """Values ``[N, …]`` that become payloads when they are needed: all of those of a large data set
    would fill the memory."""

    values: NDArray[Any]
    encoding: Encoding

    def take(self, which: NDArray[Any] | slice) -> NDArray[Any]:
        """The payloads ``[T, n, …]`` of some samples."""
        return self.encoding.encode(self.values[which])


def take(x: NDArray[Any] | Samples, which: NDArray[Any] | slice) -> NDArray[Any]:
    """The payloads ``[T, n, …]`` of some samples; a static input stays one step seen T times."""
    if isinstance(x, Samples):
        return x.take(which)
    static = x.strides[0] == 0
    some = x[:1, which] if static else x[:, which]
    return np.broadcast_to(some, (len(x), *some.shape[1:])) if static else some


def check(network: Network, x: NDArray[Any] | Samples) -> tuple[NDArray[Any] | Samples, int]:
    """Samples in the network's own shape, and how many they are. Raises a :class:`PumiceError`
    where they do not fit the network, and where there is none."""
    some = network.check_payloads(take(x, slice(1)) if isinstance(x, Samples) else x)
    if len(some) != network.time_steps:
        raise LearningError(
            f"the data have {len(some)} steps a sample, the network's encoding {network.time_steps}"
        )
    samples = len(x.values) if isinstance(x, Samples) else some.shape[1]
    if not samples:
        raise LearningError("there is no sample to learn from")
    if not isinstance(x, Samples):
        return some, samples
    values = x.values
    if x.encoding.kind != "events":
        values = values.reshape(samples, *network.input_shape)
    return Samples(values, x.encoding), samples


def order(samples: int, epochs: int, seed: int) -> NDArray[np.intp]:
    """Which sample comes when: each once an epoch, each epoch in another order."""
    if epochs < 1:
        raise LearningError(f"epochs is {epochs}: at least one is needed")
    rng = np.random.Generator(np.random.PCG64(seed))
    return np.concatenate([rng.permutation(samples) for _ in range(epochs)])


class Learner(checkpoint.Learner, Protocol):
    """A learner that takes samples."""

    def learn(self, x: NDArray[Any]) -> object:
        """The next samples, as payloads ``[T, n, …]``."""

    def finish(self) -> object:
        """What is left to do after the last one."""


def learn_all(
    learner: Learner,
    about: Any,
    x: NDArray[Any] | Samples,
    when: NDArray[np.intp],
    saved: Path | None,
    on_progress: Callable[[int, int], None] | None,
    on_piece: Callable[[], None] | None = None,
) -> tuple[int, float]:
    """All samples: the steps that were taken, and the seconds that they took.

    about: what learns, for the digest of a checkpoint. when: their :func:`order`. saved: the
    checkpoint, written every 20 seconds and at the end; where it is, learning goes on from it.
    """
    run = ""
    if saved is not None:
        run = checkpoint.digest(learner, about, x.values if isinstance(x, Samples) else x)
        if saved.exists():
            checkpoint.restore(saved, learner, run)
    begin = last = time.perf_counter()
    first = learner.step
    while learner.samples < len(when):
        learner.learn(take(x, when[learner.samples : learner.samples + PIECE]))
        if on_progress is not None:
            on_progress(learner.samples, len(when))
        if on_piece is not None:
            on_piece()
        if saved is not None and time.perf_counter() - last > SAVE_AFTER:
            checkpoint.write(saved, learner, run)
            last = time.perf_counter()
    learner.finish()
    if on_piece is not None:
        on_piece()
    seconds = time.perf_counter() - begin
    if saved is not None:
        checkpoint.write(saved, learner, run)
    return learner.step - first, seconds
