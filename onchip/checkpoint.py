"""Where learning on the chip is, on disk (:mod:`loihi.checkpoint`).

Of random numbers there is nothing to keep but the step, from which they are drawn. A digest says
what is learned from what, so that another run's checkpoint is noticed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from loihi import checkpoint
from onchip.simulate import pack
from onchip.spec import LearningError

KIND = "pumice-learning-3"


class Learner(Protocol):
    """Who learns: :class:`onchip.engine.Learner`, :class:`onchip.hebbian.HebbianLearner`."""

    labels: NDArray[Any]
    seed: int
    rounding: Any
    step: int
    samples: int

    def state(self) -> dict[str, NDArray[Any]]:
        """All that changes but the numbers of steps and samples: arrays by name, not copied."""


def digest(learner: Learner, what: Any, x: NDArray[Any]) -> str:
    """What a run is: what learns, its labels in their order, its random numbers, and its data.

    what: dataclasses, arrays, tuples, numbers and texts."""
    arrays: dict[str, NDArray[Any]] = {"labels": learner.labels, "x": x}
    about = [pack(what, arrays), learner.seed, learner.rounding]
    return checkpoint.digest(json.dumps(about, sort_keys=True), arrays)


def write(path: Path, learner: Learner, run: str) -> None:
    """All that a learner needs to go on. run: its digest."""
    place = {"run": run, "step": learner.step, "samples": learner.samples}
    checkpoint.write(path, KIND, learner.state(), place)


def restore(path: Path, learner: Learner, run: str) -> None:
    """Put a learner where the one was that wrote ``path``. Raises a :class:`PumiceError` for a
    damaged file and for another run's, and then the learner is untouched."""
    found, place = checkpoint.read(path, KIND)
    state = learner.state()
    if place.get("run") != run:
        raise LearningError(
            f"{path} is of another run: another network, data, order, rule or seed; name another "
            "file, or take this one away"
        )
    if found.keys() != state.keys() or any(
        found[k].shape != v.shape or found[k].dtype != v.dtype for k, v in state.items()
    ):
        raise LearningError(f"{path} is not the state of this run")
    for name, values in state.items():
        values[...] = found[name]
    learner.step, learner.samples = int(place["step"]), int(place["samples"])
