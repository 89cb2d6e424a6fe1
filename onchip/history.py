"""What happens while a network learns: a point for each piece of samples, and before and after.

    history = History({"test": (samples, labels)})
    learn(network, x, y, on_piece=history)
    history.arrays()["accuracy.test"]

A point looks at a learner from outside, and leaves it as it is: the frozen network as it is then
answers the watched samples (accuracy and firing rates), and a twin with the same weights learns a
few of them with everything recorded (traces and third factors).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loihi import Inject, Layer, Network, PumiceError, decide, files
from loihi.census import Histogram
from loihi.engine import Engine
from onchip.engine import Learner
from onchip.plan import MANTISSA_MAX, MANTISSA_MIN, Mantissas
from onchip.samples import Samples
from onchip.spec import LearningError

BINS, WIDTH = 64, 4
"""Of a histogram of mantissas −128..127."""
LOOKED_AT = 4
"""Samples whose traces and factors are looked at."""
RECORD_SIZE = 2**28
"""Bytes of weights that a record may take, step by step."""

Point = dict[str, Any]
Weights = Mapping[int, NDArray[np.int32]]
"""Mantissas ``[out, in]`` by place (:class:`onchip.plan.Plan`)."""


class HistoryError(PumiceError):
    """A file that holds no history, or another run's."""


class History:
    """Points of a run, from before its first sample to after its last; give it to ``learn`` as
    on_piece.

    watch: samples and their classes ``[N]`` by a name, whose accuracy is followed. The first of the
        first are those whose traces, factors and rates are taken.
    path: a JSONL file that holds a line a point, whole after each. resume: what it holds already
        is gone on from, if it is of the same run; else it begins afresh.
    every: samples between two points, at least; and at least as many as ``learn`` takes at a time.

    A point is ``samples`` and ``steps`` so far; ``accuracy`` by name, 0..1; ``rates``, spikes a
    neuron and step, and ``silent``, the part of neurons that sent none, by layer; and for each
    plastic layer and classifier in ``layers``:

    - changed, saturated: weights that differ from the start; that are at the limit of 8 bits;
    - moved, mean_change: weights that differ from the point before, and the mean |Δ| over all, in
      mantissas; None where the point before was another process's, and its weights are gone;
    - histogram: of mantissas, ``BINS`` bins over −128..127;
    - trace, factor: mean, largest, and ``busy``, the part that is not 0, over the steps and
      neurons of a few samples: of the presynaptic traces, and of the third factors' sizes
      (``top``: the part at their 7 bits' limit).
    """

    def __init__(
        self,
        watch: Mapping[str, tuple[Samples, NDArray[Any]]],
        path: Path | None = None,
        *,
        resume: bool = False,
        every: int = 1,
    ) -> None:
        if not watch:
            raise LearningError("history: name samples to watch")
        for name, (samples, labels) in watch.items():
            if not len(labels) or len(samples.values) != len(labels):
                raise LearningError(
                    f"history: {len(samples.values)} samples {name!r} to watch, "
                    f"{len(labels)} labels: as many of each, at least one"
                )
        if every < 1:
            raise LearningError(f"history: every is {every}, use 1 or more")
        self.watch, self.path, self.every, self._resume = dict(watch), path, every, resume
        self.points: list[Point] = []
        # The weights at the last point and the one before it; None: not known.
        self._last: Weights | None = None
        self._second: Weights | None = None

    def __call__(self, learner: Learner) -> None:
        """A point of what has been learned so far, if it is time; first, one of the beginning."""
        begun = {place: m.values for place, m in learner.plan.plastic.items()}
        if not self.points:
            self.points = [_point(learner, begun, begun, begun, self.watch, samples=0, steps=0)]
            self._last = begun
            if self._resume and self.path is not None and self.path.exists():
                self._go_on(self.path, learner)
        now, last = learner.learned, self.points[-1]
        at, end = learner.samples, learner.samples == len(learner.labels)
        if at == last["samples"] and self._last is None:
            self._last = now  # gone on from: the weights are those of its point
        if end and at == last["samples"] and learner.step > last["steps"]:
            self.points.pop()  # what was under way has been learned since
            self._last = self._second
        elif at <= last["samples"] or (at - last["samples"] < self.every and not end):
            return
        point = _point(learner, now, begun, self._last, self.watch, at, learner.step)
        self.points.append(point)
        self._second, self._last = self._last, now
        if self.path is not None:
            write(self.path, self.points)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Every number as an array with a row a point: ``samples``, ``accuracy.test``,
        ``layers.0 dense 64-100.histogram`` …; NaN for None."""
        return arrays(self.points)

    def _go_on(self, path: Path, learner: Learner) -> None:
        found = read(path)
        if found[:1] != self.points:
            raise HistoryError(
                f"{path} is the history of another run: name another file, or take this one away"
            )
        # Points from behind the checkpoint are this run's too. The last sample's is looked at
        # again, but where there is nothing left to learn.
        if found[-1]["samples"] == len(learner.labels) and found[-1]["steps"] != learner.step:
            found.pop()
        if len(found) > 1:
            self.points, self._last = found, None


def arrays(points: Sequence[Point]) -> dict[str, NDArray[Any]]:
    """A row a point of every number in them, by its names with dots between."""
    rows = [_flat(point) for point in points]
    return {
        name: np.array([math.nan if row[name] is None else row[name] for row in rows])
        for name in (rows[0] if rows else ())
    }


def write(path: Path, points: Sequence[Point]) -> None:
    """A JSONL file, a line a point, there whole or not at all."""
    files.write(path, "".join(json.dumps(point) + "\n" for point in points).encode())


def read(path: Path) -> list[Point]:
    """The points of a file that :func:`write` wrote; :class:`HistoryError` for any other."""
    try:
        points = [json.loads(line) for line in path.read_text().splitlines()]
        names = [list(_flat(point)) for point in points]
    except OSError as error:
        raise HistoryError(f"{path}: {error.strerror or error}") from None
    except (ValueError, AttributeError, RecursionError):
        raise HistoryError(f"{path} is no history: not a JSON object in every line") from None
    whole = [
        isinstance(p.get("samples"), int) and isinstance(p.get("layers"), dict) for p in points
    ]
    if not points or not all(whole) or any(found != names[0] for found in names):
        raise HistoryError(f"{path} is no history of pumice's learning")
    return points


# --- before and after ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Change:
    """A layer's weights before and after learning.

    weights: how many. changed: that differ. norm, relative: ‖Δw‖₂, and that of ‖w‖₂ before (NaN
    where it was 0). mean, largest: of |Δw| over all weights. odd, saturated: how many are odd, and
    at the limit of the layer's format, and a histogram over all that it can hold: before and after.
    In weight units.
    """

    name: str
    weights: int
    changed: int
    norm: float
    relative: float
    mean: float
    largest: int
    odd: tuple[int, int]
    saturated: tuple[int, int]
    histogram: tuple[Histogram, Histogram]

    @property
    def data(self) -> dict[str, Any]:
        """For JSON."""
        relative = None if math.isnan(self.relative) else self.relative
        counts = [found.counts.tolist() for found in self.histogram]
        first = self.histogram[0]
        about = {"low": first.low, "width": first.width, "counts": counts}
        return {**vars(self), "relative": relative, "histogram": about}


def compare(before: Network, after: Network) -> list[Change]:
    """Every layer that has weights, those that did not learn too, in the network's order."""
    ours, theirs = (list(map(_weight, network.layers)) for network in (before, after))
    shapes = [[None if w is None else w.shape for w in weights] for weights in (ours, theirs)]
    if shapes[0] != shapes[1]:
        raise LearningError(f"two networks: weights of {shapes[0]} before, of {shapes[1]} after")
    return [
        _change(name, a, b)
        for name, a, b in zip(before.names, ours, theirs, strict=True)
        if a is not None and b is not None
    ]


def _weight(layer: Layer) -> NDArray[np.int64] | None:
    return None if isinstance(layer.synapse, Inject) else layer.synapse.weight.astype(np.int64)


def _change(name: str, a: NDArray[np.int64], b: NDArray[np.int64]) -> Change:
    try:
        step = 1 << Mantissas.of(a, name).exponent
        low, high = MANTISSA_MIN * step, MANTISSA_MAX * step
    except LearningError:  # of one sign, up to 255: it cannot learn, but it can be looked at
        step, low, high = 2, -255, 255
    delta = np.abs(b - a)
    norm, size = float(np.linalg.norm(b - a)), float(np.linalg.norm(a))
    return Change(
        name,
        a.size,
        int((delta > 0).sum()),
        norm,
        norm / size if size else math.nan,
        float(delta.mean()),
        int(delta.max()),
        (int((a & 1).sum()), int((b & 1).sum())),
        (_limit(a, low, high), _limit(b, low, high)),
        (_histogram(a, step), _histogram(b, step)),
    )


def _histogram(weight: NDArray[np.int64], step: int) -> Histogram:
    """step: what a mantissa of 1 weighs."""
    zeros = int((weight == 0).sum())
    return Histogram(histogram(weight // step), MANTISSA_MIN * step, WIDTH * step, zeros)


def histogram(values: NDArray[Any]) -> NDArray[np.int64]:
    """How many mantissas are in each of ``BINS`` bins over −128..127."""
    return np.bincount((values.reshape(-1) - MANTISSA_MIN) // WIDTH, minlength=BINS)


def _limit(values: NDArray[Any], low: int, high: int) -> int:
    return int(((values <= low) | (values >= high)).sum())


# --- a point ------------------------------------------------------------------------------------


def _point(
    learner: Learner,
    now: Weights,
    begun: Weights,
    last: Weights | None,
    watch: Mapping[str, tuple[Samples, NDArray[Any]]],
    samples: int,
    steps: int,
) -> Point:
    plan = learner.plan
    network = plan.freeze(dict(now))
    engine = Engine(network, 1)
    accuracy = {
        name: float((decide(engine.predict(some.take(slice(None)))) == labels).mean())
        for name, (some, labels) in watch.items()
    }
    first, labels = next(iter(watch.values()))
    activity = engine.activity(first.take(slice(None)))
    traces, factors = _recorded(learner, now, first.take(slice(LOOKED_AT)), labels[:LOOKED_AT])
    layers = {}
    for place, values in now.items():
        moved = None if last is None else np.abs(values - last[place])
        size = np.abs(factors[place])
        layers[plan.name(place)] = {
            "changed": int((values != begun[place]).sum()),
            "moved": None if moved is None else int((moved > 0).sum()),
            "mean_change": None if moved is None else float(moved.mean()),
            "saturated": _limit(values, MANTISSA_MIN, MANTISSA_MAX),
            "histogram": histogram(values).tolist(),
            "trace": _spread(traces[place]),
            "factor": {**_spread(size), "top": float((size >= MANTISSA_MAX).mean())},
        }
    names = network.names
    spiking = [i for i, layer in enumerate(network.layers) if layer.neuron.vth is not None]
    return {
        "samples": samples,
        "steps": steps,
        "accuracy": accuracy,
        "rates": {names[i]: activity[i].rate for i in spiking},
        "silent": {names[i]: activity[i].silent for i in spiking},
        "layers": layers,
    }


def _recorded(
    learner: Learner, now: Weights, x: NDArray[Any], labels: NDArray[Any]
) -> tuple[dict[int, NDArray[Any]], dict[int, NDArray[Any]]]:
    """Traces and factors of each plastic place ``[steps, …]`` while a twin, at rest before, learns
    ``x`` with the error whole."""
    plan = learner.plan
    plastic = {place: replace(m, values=np.array(now[place])) for place, m in plan.plastic.items()}
    size = sum(m.values.nbytes for m in plastic.values()) * plan.interval
    some = max(1, min(len(labels), RECORD_SIZE // size))
    # Of a run so long that it is in its first half: the error is halved only later.
    twin = Learner(
        replace(plan, plastic=plastic),
        np.resize(labels[:some], 4 * some),
        seed=learner.seed,
        rounding=learner.rounding,
    )
    # One sample at a time: a record holds the weights of every step.
    records = [record for i in range(some) for record in twin.learn(x[:, i : i + 1], record=True)]
    return (
        {place: np.concatenate([r.traces[place] for r in records]) for place in plastic},
        {place: np.concatenate([r.factors[place] for r in records]) for place in plastic},
    )


def _spread(values: NDArray[Any]) -> dict[str, float]:
    return {
        "mean": float(values.mean()),
        "largest": int(values.max()),
        "busy": float((values != 0).mean()),
    }


def _flat(point: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in point.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{before}{name}.")
        else:
            found[before + name] = value
    return found
