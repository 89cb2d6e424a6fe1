"""Samples in, a network out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loihi import Network
from onchip.draws import ROUNDINGS, Rounding
from onchip.hebbian.block import HebbianBlock, build
from onchip.hebbian.lava import simulate
from onchip.hebbian.learner import HebbianLearner
from onchip.hebbian.rule import REWARD, Hebbian, Mode
from onchip.samples import Samples, check, learn_all, order, take
from onchip.spec import LearningError

ENGINES = ("fast", "lava")


@dataclass(frozen=True)
class HebbianResult:
    """What was learned: as :class:`onchip.learn.LearnResult`.

    network: with the learned weights. samples, steps, seconds: learned from, simulated, taken.
    changed, saturated: weights that differ from before, and that ended at the limit of 8 bits, of
    the plastic layer by its name.
    """

    network: Network
    samples: int
    steps: int
    seconds: float
    changed: dict[str, int]
    saturated: dict[str, int]


def learn(
    network: Network,
    x: NDArray[Any] | Samples,
    labels: NDArray[Any] | None = None,
    *,
    mode: Mode = "stdp",
    rule: Hebbian | None = None,
    layer: int | None = None,
    rewards: NDArray[Any] | None = None,
    epochs: int = 1,
    seed: int = 1,
    engine: str = "fast",
    rounding: Rounding = "lava",
    saved: Path | None = None,
    deadline: float = 600.0,
    on_progress: Callable[[int, int], None] | None = None,
) -> HebbianResult:
    """Let a layer of ``network`` learn the payloads ``x`` ``[T, N, *input_shape]``, or
    :class:`onchip.samples.Samples`, by its spikes.

    mode: ``stdp``, or ``reward`` with labels ``[N]`` or rewards ``[N]`` (−1.0..1.0 each).
    rule: its numbers. layer: which learns; None: the last that spikes.
    epochs: how often every sample is seen, each time in another order, drawn from ``seed``.
    engine: ``fast``, compiled, or ``lava``: Lava's CPU simulator in a supervised child process,
        which ends with an error after ``deadline`` seconds. Both come to the same weights.
    rounding: ``lava`` or ``chip-like``.
    saved: a checkpoint of the fast engine's, as in :func:`onchip.learn.learn`.
    on_progress: called with samples learned and their number.

    Raises a :class:`PumiceError` for a network, data or numbers that cannot learn.
    """
    if engine not in ENGINES:
        raise LearningError(f"engine {engine!r} is unknown: use {' or '.join(ENGINES)}")
    if rounding not in ROUNDINGS:
        raise LearningError(f"rounding {rounding!r} is unknown: use {' or '.join(ROUNDINGS)}")
    if engine == "lava" and (rounding != "lava" or saved is not None):
        what = "rounds in its own way alone" if saved is None else "can keep no checkpoint"
        raise LearningError(f"Lava {what}: use the fast engine")
    block = build(network, mode, rule, layer=layer)
    x, samples = check(network, x)
    answers = _answers(network, mode, labels, rewards, samples)
    when = order(samples, epochs, seed)
    given = rewards is not None
    if engine == "lava":
        outcome = simulate(
            block, take(x, when), answers[when], given=given, seed=seed, deadline=deadline
        )
        if on_progress is not None:
            on_progress(len(when), len(when))
        return _result(block, outcome.learned, len(when), outcome.steps, outcome.seconds)
    learner = HebbianLearner(
        block, answers[when], given=given, seed=seed, rounding=rounding, threads=None
    )
    about = (network, block.index, block.mode, block.rule, given)
    steps, seconds = learn_all(learner, about, x, when, saved, on_progress)
    return _result(block, learner.learned, len(when), steps, seconds)


def _result(
    block: HebbianBlock, learned: NDArray[Any], samples: int, steps: int, seconds: float
) -> HebbianResult:
    name = block.network.names[block.index]
    changed = int((learned != block.plastic.values).sum())
    saturated = int(((learned == -128) | (learned == 127)).sum())
    return HebbianResult(
        block.freeze(learned), samples, steps, seconds, {name: changed}, {name: saturated}
    )


def _answers(
    network: Network,
    mode: Mode,
    labels: NDArray[Any] | None,
    rewards: NDArray[Any] | None,
    samples: int,
) -> NDArray[np.int64]:
    """What the judge is told of each sample."""
    if mode == "stdp":
        if rewards is not None:
            raise LearningError("mode 'stdp' learns from no rewards: use mode 'reward'")
        return np.zeros(samples, dtype=np.int64)
    if (labels is None) == (rewards is None):
        raise LearningError("mode 'reward' needs labels or rewards, one of the two")
    said = np.asarray(labels if rewards is None else rewards)
    what = "labels" if rewards is None else "rewards"
    if said.shape != (samples,):
        raise LearningError(f"{samples} samples need {what} [{samples}], found {list(said.shape)}")
    if rewards is not None:
        if said.dtype.kind not in "iuf" or not (np.abs(said) <= 1).all():
            raise LearningError("rewards are numbers −1.0..1.0")
        return np.round(said * REWARD).astype(np.int64)
    if said.dtype.kind not in "iu":
        raise LearningError(f"labels are class numbers, found dtype {said.dtype}")
    if said.min() < 0 or said.max() >= network.classes:
        raise LearningError(
            f"labels {said.min()}..{said.max()}: the network has classes 0..{network.classes - 1}"
        )
    return said.astype(np.int64)
