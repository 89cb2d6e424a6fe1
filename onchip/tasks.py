"""What a network is to learn on the chip, and by what it is judged: one way to all of it.

    task = whole(network, digits)                          # from scratch, or the last layer
    task = new_classes(network, digits, (8, 9), replay=0.1)
    task = drifted(network, digits, Drift(dead=0.2))       # simulated
    task = new_sensor(network, digits, second)             # a user's own second data set
    report = run(task, mode="readout", epochs=4)
    report.after["old"].accuracy, report.forgetting

What is plastic is ``learn``'s mode, in every task. Tests are of samples that were not learned, and
all outputs compete in all of them: a class-incremental answer, never told which task it is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from loihi import Dense, Encoding, Network, Neuron, decide
from loihi.engine import Engine
from onchip.draws import Rounding
from onchip.drift import Drift
from onchip.history import Change, History, compare
from onchip.learn import EngineName, LearnResult, check_data, learn
from onchip.samples import Samples
from onchip.spec import LearningError, Mode, Rule, Spec

AT_ONCE = 1000
"""Samples whose payloads are in memory at a time."""
POINTS = 200
"""Of a history, some more at most."""
WATCHED = 200
"""Samples of each test that a history follows."""


class Labelled(Protocol):
    """What a data set must have; ``trainer.data.Dataset`` does. ``x [N, …]``, ``y [N]``."""

    @property
    def name(self) -> str: ...
    @property
    def x_train(self) -> NDArray[Any]: ...
    @property
    def y_train(self) -> NDArray[np.int64]: ...
    @property
    def x_test(self) -> NDArray[Any]: ...
    @property
    def y_test(self) -> NDArray[np.int64]: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...


@dataclass(frozen=True)
class Part:
    """Samples that will be encoded, and their classes ``[N]``."""

    samples: Samples
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, which: NDArray[Any] | slice) -> Part:
        """Some of them."""
        return Part(replace(self.samples, values=self.samples.values[which]), self.labels[which])


@dataclass(frozen=True)
class Task:
    """A network, what it is to learn, and tests by name.

    replayed: how many old samples are among those to learn. notes: what whoever reports its
    numbers must say.
    """

    name: str
    network: Network
    learn: Part
    tests: Mapping[str, Part]
    replayed: int = 0
    notes: tuple[str, ...] = ()

    def limited(self, samples: int | None) -> Task:
        """The same with the first ``samples`` to learn; all if None."""
        if samples is None:
            return self
        if not 1 <= samples <= len(self.learn):
            raise LearningError(
                f"{self.name}: {samples} samples asked for, use 1..{len(self.learn)}"
            )
        return replace(self, learn=self.learn.take(slice(samples)))


@dataclass(frozen=True)
class Score:
    """How many test samples of each class there are, and how many are right: ``[classes]``."""

    right: NDArray[np.int64]
    total: NDArray[np.int64]

    @property
    def accuracy(self) -> float:
        """Of all samples, 0..1."""
        return float(self.right.sum() / self.total.sum())

    @property
    def by_class(self) -> NDArray[np.float64]:
        """Of each class; NaN where there is no sample."""
        return np.where(self.total > 0, self.right / np.maximum(self.total, 1), np.nan)


@dataclass(frozen=True)
class Report:
    """What came of a task.

    mode: what was plastic. before, after: scores of each test. learned: what ``learn`` returned.
    changes: of every layer. history: where one was kept.
    """

    task: Task
    mode: str
    before: dict[str, Score]
    after: dict[str, Score]
    learned: LearnResult
    changes: list[Change]
    history: History | None = field(default=None)

    @property
    def network(self) -> Network:
        """As it is after learning."""
        return self.learned.network

    @property
    def forgetting(self) -> float | None:
        """Accuracy on what was known, before less after; None where the task has no ``old``."""
        if "old" not in self.before:
            return None
        return self.before["old"].accuracy - self.after["old"].accuracy

    @property
    def data(self) -> dict[str, Any]:
        """For JSON."""

        def told(scores: dict[str, Score]) -> dict[str, Any]:
            return {
                name: {
                    "accuracy": s.accuracy,
                    "right": s.right.tolist(),
                    "total": s.total.tolist(),
                }
                for name, s in scores.items()
            }

        return {
            "task": self.task.name,
            "mode": self.mode,
            "notes": list(self.task.notes),
            "samples": self.learned.samples,
            "replayed": self.task.replayed,
            "before": told(self.before),
            "after": told(self.after),
            "forgetting": self.forgetting,
            "changes": [change.data for change in self.changes],
        }


# --- tasks --------------------------------------------------------------------------------------


def whole(network: Network, data: Labelled) -> Task:
    """All of a data set, by a network trained or random; with mode ``readout`` its last layer.

    Tests: ``test``.
    """
    encoding = _encoding(network, data)
    return Task(
        data.name,
        network,
        Part(Samples(data.x_train, encoding), data.y_train),
        {"test": Part(Samples(data.x_test, encoding), data.y_test)},
    )


def new_classes(
    network: Network,
    data: Labelled,
    classes: Sequence[int],
    *,
    replay: float | int = 0,
    balance: bool = True,
    old: Sequence[int] | None = None,
    seed: int = 0,
) -> Task:
    """Further classes for a network that knows others; outputs that it lacks are added.

    replay: old samples that are learned again among the new ones: a part of them (a float, 0..1),
        or how many (an int); every class gives its share.
    balance: replayed samples come again and again, until an old class is seen as often as a new
        one; else each comes once an epoch.
    old: the classes known; by default all others that the network has outputs for.
    seed: which are replayed, the order, and new outputs.

    Tests: ``old``, ``new``, and ``all``, both together.
    """
    new = _classes(data, classes)
    if old is None:
        known = set(range(network.classes)) & set(map(int, data.y_train)) - set(new)
    else:
        known = set(_classes(data, old))
        if both := sorted(known & set(new)):
            raise LearningError(f"class {both[0]} cannot be both old and new")
    if not known:
        raise LearningError(f"{data.name}: no old class is left beside the new {list(new)}")
    rng = _rng(seed, 0)
    is_new, is_old = (np.isin(data.y_train, list(some)) for some in (new, known))
    again = _some(np.flatnonzero(is_old), data.y_train, replay, rng)
    wanted = len(again)
    if balance and len(again):
        wanted = max(wanted, round(is_new.sum() / len(new) * len(known)))
    chosen = rng.permutation(
        np.concatenate([np.flatnonzero(is_new), np.resize(rng.permutation(again), wanted)])
    )
    if max(new) >= network.classes:
        network = grown(network, max(new) + 1, seed=seed)
    encoding = _encoding(network, data)
    part = Part(Samples(data.x_train[chosen], encoding), data.y_train[chosen])
    tests = {}
    for name, some in (("old", known), ("new", set(new)), ("all", known | set(new))):
        these = np.isin(data.y_test, list(some))
        if not these.any():
            raise LearningError(f"{data.name}: no test sample of the {name} classes {sorted(some)}")
        tests[name] = Part(Samples(data.x_test[these], encoding), data.y_test[these])
    name = f"{data.name}, new classes {', '.join(map(str, new))}"
    return Task(name, network, part, tests, len(again))


def new_sensor(
    network: Network,
    data: Labelled,
    second: Labelled,
    *,
    replay: float | int = 0,
    rescale: bool = False,
    seed: int = 0,
) -> Task:
    """The same classes as another sensor gives them: a second data set, learned from.

    replay: as in :func:`new_classes`, of the first set's training samples.
    rescale: the second set's own range becomes the first one's; else its values go through the
        network's encoding as they are, as they would in front of the chip.

    Tests: ``old``, of the first data set, and ``new``, of the second.
    """
    encoding = _encoding(network, data)
    if data.x_train[0].size != second.x_train[0].size:
        raise LearningError(
            f"{second.name} has samples of {list(second.x_train.shape[1:])}, "
            f"{data.name} of {list(data.x_train.shape[1:])}"
        )
    rng = _rng(seed, 0)
    again = _some(np.arange(len(data.y_train)), data.y_train, replay, rng)

    rescale = rescale and (second.low, second.high) != (data.low, data.high)
    if rescale and not second.high > second.low:
        raise LearningError(
            f"{second.name} goes from {second.low:g} to {second.high:g}: no range to rescale"
        )

    def like(x: NDArray[Any]) -> NDArray[Any]:
        if rescale:
            part = (x.astype(np.float64) - second.low) / (second.high - second.low)
            x = part * (data.high - data.low) + data.low
        return x.reshape(len(x), *data.x_train.shape[1:])

    x, y = like(second.x_train), second.y_train
    if len(again):
        order = rng.permutation(len(y) + len(again))
        x = np.concatenate([x, data.x_train[again]])[order]
        y = np.concatenate([y, data.y_train[again]])[order]
    return Task(
        f"{data.name}, then {second.name}",
        network,
        Part(Samples(x, encoding), y),
        {
            "old": Part(Samples(data.x_test, encoding), data.y_test),
            "new": Part(Samples(like(second.x_test), encoding), second.y_test),
        },
        len(again),
    )


def drifted(
    network: Network, data: Labelled, drift: Drift, *, replay: float | int = 0, seed: int = 0
) -> Task:
    """A sensor that has drifted: ``data`` as it would see them, learned from. Simulated.

    Tests: ``old``, the sensor as it was, and ``new``, as it is.
    """
    in_time = network.encoding.kind == "events"

    def seen(x: NDArray[Any], part: int) -> NDArray[Any]:
        return drift.apply(x, data.low, data.high, in_time=in_time, part=part)

    name = f"{data.name} drifted ({drift})"
    second = _Copy(
        name,
        seen(data.x_train, 0),
        data.y_train,
        seen(data.x_test, 1),
        data.y_test,
        data.low,
        data.high,
    )
    task = new_sensor(network, data, second, replay=replay, seed=seed)
    return replace(task, name=name, notes=("the drift is simulated: no sensor was there",))


def grown(network: Network, classes: int, *, spread: float = 1.0, seed: int = 0) -> Network:
    """``network`` with outputs added to its last layer, to ``classes`` of them; no other changes.

    spread: standard deviation of the new weights, in that of the layer's own; 0: all 0. They are
    uniform, of the layer's signs, and on its grid (even where its weights must be): what its
    synapses can hold. New outputs have no bias and no delays.
    """
    last = network.layers[-1]
    synapse, neuron = last.synapse, last.neuron
    name = network.names[-1]
    if not isinstance(synapse, Dense) or not isinstance(neuron, Neuron) or not network.is_chain:
        raise LearningError(
            f"layer {name}: outputs can be added to a chain that ends in a dense layer of "
            "integrate-and-fire neurons"
        )
    weight = synapse.weight
    more = classes - len(weight)
    if more < 0:
        raise LearningError(f"layer {name} has {len(weight)} outputs, {classes} would be fewer")
    if not 0 <= spread < np.inf:
        raise LearningError(f"spread is {spread}: use 0 or more, and a number")
    low, high = int(weight.min()), int(weight.max())
    mixed = low < 0 < high
    # The standard deviation of uniform numbers is their range's width by √12.
    bound = round(min(max(-low, high), spread * float(weight.std()) * (3 if mixed else 12) ** 0.5))
    grid = 2 if mixed and not (low >= -128 and high <= 127) else 1
    rng = _rng(seed, 1)
    rows = grid * rng.integers(
        -(bound // grid) if low < 0 else 0,
        bound // grid if low >= 0 or high > 0 else 0,
        (more, weight.shape[1]),
        endpoint=True,
    )
    delay = synapse.delay
    if delay is not None:
        delay = np.concatenate([delay, np.zeros_like(rows)])
    bias = np.asarray(neuron.bias)
    if bias.ndim or bias.any():
        bias = np.concatenate([np.broadcast_to(bias, len(weight)), np.zeros(more, bias.dtype)])
        neuron = replace(neuron, bias=bias)
    wider = Dense(np.concatenate([weight, rows]), delay)
    return network.with_layer(-1, replace(last, synapse=wider, neuron=neuron))


# --- the run ------------------------------------------------------------------------------------


def run(
    task: Task,
    *,
    mode: Mode | None = None,
    rule: Rule | None = None,
    spec: Spec | None = None,
    epochs: int = 1,
    seed: int = 1,
    engine: EngineName = "fast",
    rounding: Rounding = "lava",
    saved: Path | None = None,
    history: bool | Path = False,
    deadline: float = 600.0,
    on_progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Learn a task, and test before and after. What is not said here is as in ``learn``.

    history: whether one is kept, or the JSONL file that it goes to; it follows the first
        ``WATCHED`` samples of each test, and goes on where ``saved`` does. In the fast engine.
    """
    if history and engine != "fast":
        raise LearningError("a history is kept of the fast engine alone: Lava is not looked into")
    before = tested(task.network, task.tests)
    kept = None
    if history:
        watch = {name: part.take(slice(WATCHED)) for name, part in task.tests.items()}
        kept = History(
            {name: (part.samples, part.labels) for name, part in watch.items()},
            history if isinstance(history, Path) else None,
            resume=saved is not None and saved.exists(),
            every=len(task.learn) * epochs // POINTS + 1,
        )
    learned = learn(
        task.network,
        task.learn.samples,
        task.learn.labels,
        mode=mode,
        rule=rule,
        spec=spec,
        epochs=epochs,
        seed=seed,
        engine=engine,
        rounding=rounding,
        saved=saved,
        deadline=deadline,
        on_progress=on_progress,
        on_piece=kept,
    )
    after = tested(learned.network, task.tests)
    changes = compare(task.network, learned.network)
    name = (mode or "hidden") if spec is None else spec.name
    return Report(task, name, before, after, learned, changes, kept)


def tested(network: Network, tests: Mapping[str, Part]) -> dict[str, Score]:
    """What the frozen network itself has right of each part, by class."""
    engine = Engine(network)
    scores = {}
    for name, part in tests.items():
        samples, labels = check_data(network, part.samples, part.labels)
        assert isinstance(samples, Samples)
        pieces = range(0, len(labels), AT_ONCE)
        found = [engine.predict(samples.take(slice(i, i + AT_ONCE))) for i in pieces]
        right = decide(np.concatenate(found)) == labels
        scores[name] = Score(
            np.bincount(labels[right], minlength=network.classes),
            np.bincount(labels, minlength=network.classes),
        )
    return scores


# --- what tasks are made with -------------------------------------------------------------------


@dataclass(frozen=True)
class _Copy:
    """A data set made of another."""

    name: str
    x_train: NDArray[Any]
    y_train: NDArray[np.int64]
    x_test: NDArray[Any]
    y_test: NDArray[np.int64]
    low: float
    high: float


def _rng(seed: int, stream: int) -> np.random.Generator:
    if seed < 0:
        raise LearningError(f"seed is {seed}: use 0 or more")
    return np.random.Generator(np.random.PCG64([seed, stream]))


def _encoding(network: Network, data: Labelled) -> Encoding:
    """The network's own; with the data's range where it has none."""
    encoding = network.encoding
    if encoding.low is None and encoding.kind != "events":
        encoding = replace(encoding, low=float(data.low), high=float(data.high))
    return encoding


def _classes(data: Labelled, classes: Sequence[int]) -> tuple[int, ...]:
    named = tuple(sorted(set(map(int, classes))))
    there = set(map(int, np.unique(data.y_train)))
    if not named:
        raise LearningError("name at least one class")
    if missing := [c for c in named if c not in there]:
        raise LearningError(
            f"{data.name} has no training sample of class {missing[0]}: it has {sorted(there)}"
        )
    return named


def _some(
    among: NDArray[np.intp],
    labels: NDArray[np.int64],
    share: float | int,
    rng: np.random.Generator,
) -> NDArray[np.intp]:
    """A part of the samples, or so many of them, drawn at random, every class by its share."""
    is_part = isinstance(share, float)
    if not 0 <= share <= (1 if is_part else len(among)):
        most = "a part is 0.0..1.0" if is_part else f"there are {len(among)} old samples"
        raise LearningError(f"replay is {share}: {most}")
    count = round(share * len(among)) if is_part else int(share)
    order = among[np.lexsort((rng.random(len(among)), labels[among]))]
    # Evenly spaced in the order of classes.
    return order[np.arange(count) * len(order) // max(count, 1)]
