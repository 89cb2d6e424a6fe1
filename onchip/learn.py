"""Labelled samples in, a new frozen network out; in the compiled engine or in Lava's simulator."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from loihi import Network, decide
from loihi import engine as fast
from onchip.draws import Rounding
from onchip.engine import Learner
from onchip.plan import MANTISSA_MAX, MANTISSA_MIN, Plan, build
from onchip.samples import PIECE, Samples, check, learn_all, order, take
from onchip.simulate import simulate
from onchip.spec import LearningError, Mode, Rule, Spec, check_seed

EngineName = Literal["fast", "lava"]
ENGINES: tuple[str, ...] = get_args(EngineName)


@dataclass(frozen=True)
class LearnResult:
    """What was learned.

    network: the frozen network with the learned weights, number for number those of the simulator.
    samples, steps, seconds: learned from, simulated, and what the engine took for them (of a run
        that was taken up again, its last part).
    changed: how many weights differ from before, for each layer and classifier that learned, by
        its name.
    saturated: how many weights ended at the limit of the chip's 8 bits, likewise.
    learned: the mantissas ``[out, in]`` of each plastic place (:class:`onchip.plan.Plan`).
    """

    network: Network
    samples: int
    steps: int
    seconds: float
    changed: dict[str, int]
    saturated: dict[str, int]
    learned: dict[int, NDArray[np.int32]]


def learn(
    network: Network,
    x: NDArray[Any] | Samples,
    labels: NDArray[Any],
    *,
    mode: Mode | None = None,
    rule: Rule | None = None,
    spec: Spec | None = None,
    epochs: int = 1,
    seed: int = 1,
    engine: EngineName = "fast",
    rounding: Rounding = "lava",
    saved: Path | None = None,
    deadline: float = 600.0,
    on_progress: Callable[[int, int], None] | None = None,
    on_piece: Callable[[Learner], None] | None = None,
) -> LearnResult:
    """Let ``network`` learn the payloads ``x`` ``[T, N, *input_shape]``, or samples that will be
    encoded.

    labels: the class of each sample, ``[N]``, 0..classes − 1.
    mode: what is plastic: the hidden layer (the one before the last; the default), the readout
        (the last layer), or both. Layers further in front stay as they are.
    rule: its numbers. spec: several blocks, in place of mode and rule.
    epochs: how often every sample is seen, each time in another order, drawn from ``seed``.
    engine: ``fast``, compiled, or ``lava``, Lava's CPU simulator in a supervised child process.
        Both come to the same weights.
    rounding: see :mod:`onchip.engine`; Lava has its own alone.
    saved: a checkpoint of the fast engine's, written every 20 seconds and at the end. Where it is
        there already, learning goes on from it, to the same weights.
    deadline: seconds after which Lava is ended and an error raised.
    on_progress: called with samples learned and samples in all.
    on_piece: called with the fast engine's learner, as it is, after every 500 samples and at the
        end: to look at, not to change.

    Raises a :class:`PumiceError` for a network that cannot learn, for data or labels that do not
    fit it, for another run's checkpoint, and where Lava is asked for and absent, or fails.
    """
    if engine not in ENGINES:
        raise LearningError(f"engine {engine!r} is unknown: use {' or '.join(ENGINES)}")
    if engine == "lava" and (rounding != "lava" or saved is not None):
        what = "rounds in its own way alone" if saved is None else "can keep no checkpoint"
        raise LearningError(f"Lava {what}: use the fast engine")
    plan, x, when, labels = _plan(network, x, labels, _spec(spec, mode, rule), epochs, seed)
    if engine == "lava":
        outcome = simulate(
            plan,
            take(x, when),
            labels,
            deadline=deadline,
            seed=seed,
            on_progress=on_progress,
        )
        return _result(plan, outcome.learned, len(when), outcome.steps, outcome.seconds)
    learner = Learner(plan, labels, seed=seed, rounding=rounding, threads=None)
    look = None if on_piece is None else partial(on_piece, learner)
    steps, seconds = learn_all(learner, plan, x, when, saved, on_progress, look)
    return _result(plan, learner.learned, len(when), steps, seconds)


def _spec(spec: Spec | None, mode: Mode | None, rule: Rule | None) -> Spec:
    if spec is None:
        return Spec.of_mode(mode or "hidden", rule)
    if mode is not None or rule is not None:
        raise LearningError("a spec says what learns, and by which rule: leave mode and rule out")
    return spec


def _plan(
    network: Network,
    x: NDArray[Any] | Samples,
    labels: NDArray[Any],
    spec: Spec,
    epochs: int,
    seed: int,
) -> tuple[Plan, NDArray[Any] | Samples, NDArray[np.intp], NDArray[np.int64]]:
    """The plan, the data, which of them come in which order, and the labels in that order."""
    check_seed(seed)
    x, labels = check_data(network, x, labels)
    when = order(len(labels), epochs, seed)
    return build(network, take(x, slice(200)), spec), x, when, labels[when]


def _result(
    plan: Plan, learned: dict[int, NDArray[Any]], samples: int, steps: int, seconds: float
) -> LearnResult:
    changed, saturated = {}, {}
    for place, values in learned.items():
        name = plan.name(place)
        changed[name] = int((values != plan.plastic[place].values).sum())
        at_limit = (values == MANTISSA_MIN) | (values == MANTISSA_MAX)
        saturated[name] = int(at_limit.sum())
    network = plan.freeze(learned)
    return LearnResult(network, samples, steps, seconds, changed, saturated, learned)


@dataclass(frozen=True)
class Proof:
    """The first samples of a run in the engine and in Lava.

    samples, steps: learned from, simulated. weights: compared. mismatches: those that differ.
    seconds: of Lava and of the engine.
    """

    samples: int
    steps: int
    weights: int
    mismatches: int
    lava_seconds: float
    fast_seconds: float


def verify(
    network: Network,
    x: NDArray[Any] | Samples,
    labels: NDArray[Any],
    samples: int,
    *,
    mode: Mode | None = None,
    rule: Rule | None = None,
    spec: Spec | None = None,
    epochs: int = 1,
    seed: int = 1,
    deadline: float = 600.0,
    on_progress: Callable[[int, int], None] | None = None,
) -> Proof:
    """The first ``samples`` of what :func:`learn` would do with the rest, in both engines, and a
    comparison of all learned weights as they are then."""
    plan, x, when, labels = _plan(network, x, labels, _spec(spec, mode, rule), epochs, seed)
    if not 1 <= samples <= len(when):
        raise LearningError(f"{samples} samples to verify: the run has 1 to {len(when)}")
    some = take(x, when[:samples])
    learner = Learner(plan, labels, seed=seed)
    begin = time.perf_counter()
    learner.learn(some)
    if samples == len(when):
        learner.finish()
    seconds = time.perf_counter() - begin
    theirs = simulate(plan, some, labels, deadline=deadline, seed=seed, on_progress=on_progress)
    pairs = [(values, theirs.learned[place]) for place, values in learner.learned.items()]
    return Proof(
        samples,
        theirs.steps,
        sum(a.size for a, _ in pairs),
        sum(int((a != b).sum()) for a, b in pairs),
        theirs.seconds,
        seconds,
    )


def accuracy(network: Network, x: NDArray[Any] | Samples, labels: NDArray[Any]) -> float:
    """The fraction of samples that the frozen network itself classifies as ``labels``."""
    x, labels = check_data(network, x, labels)
    engine, pieces = fast.Engine(network), range(0, len(labels), 2 * PIECE)
    scores = [engine.predict(take(x, slice(i, i + 2 * PIECE))) for i in pieces]
    return float((decide(np.concatenate(scores)) == labels).mean())


def check_data(
    network: Network, x: NDArray[Any] | Samples, labels: NDArray[Any]
) -> tuple[NDArray[Any] | Samples, NDArray[np.int64]]:
    """Payloads and labels as they are used, or a :class:`PumiceError` that says what is wrong."""
    labels = np.asarray(labels)
    x, samples = check(network, x)
    if labels.ndim != 1 or len(labels) != samples:
        raise LearningError(
            f"{samples} samples need labels [{samples}], found {list(labels.shape)}"
        )
    if labels.dtype.kind not in "iu":
        raise LearningError(f"labels are class numbers, found dtype {labels.dtype}")
    wrong = (labels < 0) | (labels >= network.classes)
    if wrong.any():
        at = int(np.argmax(wrong))
        raise LearningError(
            f"label {int(labels[at])} of sample {at}: the network has classes "
            f"0..{network.classes - 1}"
        )
    return x, labels.astype(np.int64)
