"""The proof: the same samples in several simulators, from the trainer's floats to Lava.

Every layer's spikes, and on demand u and v, are compared number by number, and so is the readout
of every sample. If anything differs, the first divergence is named: the first in the order in
which things happen, so that what it caused does not hide it; and its likely cause
(:mod:`lava_export.causes`).

Samples are taken in slices, and where a single one is too large for :data:`LIMIT`, its time in
parts: what is held at a time is two simulators' numbers of one slice or part, of which counts
remain. Memory grows neither with the samples nor with T.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lava_export import causes, netx, run
from lava_export.causes import Cause, Evidence
from loihi import Encoding, Network, PumiceError, decide, reference
from loihi.engine import Engine
from loihi.network import INPUT
from loihi.reference import Trace

LIMIT = 2**28
"""Bytes that a slice of the samples, or a part of one's time, may take; a step is always taken."""
HELD = 8
"""How many times a slice's numbers are in memory: those of two simulators, and what a simulator
needs to make and to hand over its own (the reference most, as measured)."""

ORDER = ("u", "v", "spikes")
"""In each step of a neuron: first its current, then its membrane, then its spike."""
FLOAT, GRID, LAVA = "float", "grid", "lava"
SIMULATORS = (FLOAT, GRID, "reference", "engine", LAVA)
"""The chain from the trained parameters to Lava. ``float`` is the one that need not be equal."""
DEFAULT = ("reference", "engine", LAVA)
_AS_GROUND = ("reference", GRID, "engine", LAVA)  # what the others are held against: the first

Wanted = Mapping[str, Sequence[int]]
"""State (``spikes``, ``u``, ``v``) to layer indices."""
Observed = Mapping[tuple[str, int], NDArray[Any]]
"""For (state, layer index) an array ``[T, N, *shape]``."""
Simulator = Callable[[NDArray[Any], Wanted], Observed]
"""What it observes of payloads ``[T, N, *input_shape]``. One that is :class:`InParts` as well is
given the time of a large sample in parts; any other computes all of it, and holds it."""


class InParts(Protocol):
    """A simulator for which time need not fit into memory."""

    def parts(
        self, x: Iterable[NDArray[Any]], size: tuple[int, int], wanted: Wanted
    ) -> Iterator[Observed]:
        """What it observes of each of the parts ``[t, N, *input_shape]``; size: (T, N) of all."""


@dataclass(frozen=True)
class Divergence:
    """One number that is not the same everywhere.

    layer: its name, as in :attr:`loihi.Network.names`. neuron: index, or (channel, row, column).
    step: the sample's own, from 1. sample: from 0. state: ``spikes``, ``u``, ``v`` or ``score``.
    values: what each simulator found.
    """

    layer: str
    neuron: tuple[int, ...]
    step: int
    sample: int
    state: str
    values: dict[str, int]

    def __str__(self) -> str:
        neuron = self.neuron[0] if len(self.neuron) == 1 else self.neuron
        values = ", ".join(f"{name} {value}" for name, value in self.values.items())
        return (
            f"layer {self.layer}, neuron {neuron}, step {self.step} of sample {self.sample}, "
            f"{self.state}: {values}"
        )


@dataclass(frozen=True)
class LayerResult:
    """Of one layer: how many numbers were compared, and how many were not the same everywhere."""

    name: str
    compared: int
    mismatches: int


@dataclass(frozen=True)
class Agreement:
    """What the grid costs: the network in real numbers (``float``) against one in integers.

    against: which one. spikes: for each layer that can spike (name, how often a neuron spiked or
    did not in both alike, how often it could).
    decisions, samples: how many samples get the same answer, of how many.
    """

    against: str
    spikes: tuple[tuple[str, int, int], ...]
    decisions: int
    samples: int


@dataclass(frozen=True)
class Neighbourhood:
    """The neuron at which numbers first differ, over the whole sample, u and v observed too.

    states: for each simulator ``u``, ``v`` and ``spikes``, ``[T]`` each.
    """

    divergence: Divergence
    states: dict[str, dict[str, NDArray[Any]]]


@dataclass(frozen=True)
class VerifyResult:
    """What :func:`verify` found.

    compared, mismatches: numbers, those of all layers and the scores together.
    layers: the same for each layer, without the scores.
    first_divergence: None if there is none.
    scores: ``[N, classes]`` as Lava has them, or the last of the simulators compared.
    between: what was compared. causes: why they differ, one for each simulator that does not do
    what the chip does. neighbourhood: of the first divergence. agreement: of ``float``.
    """

    compared: int
    mismatches: int
    first_divergence: Divergence | None
    layers: tuple[LayerResult, ...]
    scores: NDArray[np.int64]
    between: tuple[str, ...] = ()
    causes: tuple[Cause, ...] = ()
    neighbourhood: Neighbourhood | None = None
    agreement: Agreement | None = None


def verify(
    path: str | Path,
    x: NDArray[Any],
    *,
    states: bool = False,
    deadline: float | None = None,
    between: Sequence[str] = DEFAULT,
    others: Mapping[str, Simulator] | None = None,
    networks: Mapping[str, Network] | None = None,
    encoding: Encoding | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> VerifyResult:
    """Run the file ``path`` on payloads ``x`` ``[T, N, *input_shape]`` everywhere, and compare.

    states: u and v of every layer as well, not only spikes.
    deadline: Lava's, in seconds, for each of its runs.
    between: two or more of :data:`SIMULATORS`. others: those that are not made here (``grid``,
        ``float``), from :mod:`trainer.observe`. networks: what these compute, where it may not be
        the file's.
    encoding: makes payloads of ``x``, which then are samples ``[N, …]``, slice by slice.
    progress: is told how many samples are done.

    Raises what :func:`lava_export.run.run` raises if Lava is one of them, and
    :class:`PumiceError` for simulators that are not there.
    """
    network = netx.read(path)
    names = _known(between, others or {})
    if LAVA in names:  # what Lava cannot do, or is not there for, is said before anything starts
        run.observe(network, Path(path), _nothing(network), {}, deadline)
    simulators: dict[str, Simulator] = {
        "reference": _Ours(partial(reference.parts, network)),
        "engine": _Ours(Engine(network).parts) if "engine" in names else _nobody,
        LAVA: _Lava(network, Path(path), deadline),
        **(others or {}),
    }
    used = {name: simulators[name] for name in names}
    samples = _Samples(x, encoding)
    if not len(samples):
        raise PumiceError("there are no samples to compare")
    tally = _Tally(network, names, len(samples))
    size, length = _sizes(network, states, samples.steps)
    wanted = _wanted(network, range(len(network.layers)), states)
    for start in range(0, len(samples), size):
        of = _Slice(samples, slice(start, start + size), samples.steps, length)
        seen = {name: of.observed(simulator, wanted) for name, simulator in used.items()}
        for begin in range(0, samples.steps, length):
            at = (start, begin)
            ground = next(seen[tally.ground])
            for name in names:
                if name != tally.ground:
                    tally.add(at, name, ground, next(seen[name]))
            tally.close(at, ground)
        progress(min(start + size, len(samples)))
    result = tally.result()
    if result.first_divergence is None:
        return result
    return _explained(network, result, used, samples, size, length, networks or {})


def compare(network: Network, found: Mapping[str, Observed]) -> VerifyResult:
    """What several simulators observed of the same samples; ``found`` is by their names.

    All of them must have observed the same states of the same layers.
    """
    first = next(iter(found.values()))
    tally = _Tally(network, tuple(found), next(iter(first.values())).shape[1])
    for name, observed in found.items():
        if name != tally.ground:
            tally.add((0, 0), name, found[tally.ground], observed)
    tally.close((0, 0), found[tally.ground])
    return tally.result()


# --- the simulators -----------------------------------------------------------------------------


def _known(between: Sequence[str], others: Mapping[str, Simulator]) -> tuple[str, ...]:
    for name in between:
        if name not in SIMULATORS:
            raise PumiceError(f"{name!r} is no simulator: use some of {', '.join(SIMULATORS)}")
        if name in (FLOAT, GRID) and name not in others:
            raise PumiceError(f"{name} is the trained module: name its run folder with --run")
    names = tuple(name for name in SIMULATORS if name in between)
    if len(names) < 2:
        raise PumiceError(f"two simulators at least are compared, of {', '.join(SIMULATORS)}")
    return names


class _Ours:
    """A simulator of ours, whose traces have all layers."""

    def __init__(
        self, parts: Callable[[Iterable[NDArray[Any]], Iterable[str]], Iterator[Trace]]
    ) -> None:
        self.traces = parts

    def __call__(self, x: NDArray[Any], wanted: Wanted) -> Observed:
        (observed,) = self.parts([x], (len(x), x.shape[1]), wanted)
        return observed

    def parts(
        self, x: Iterable[NDArray[Any]], size: tuple[int, int], wanted: Wanted
    ) -> Iterator[Observed]:
        for trace in self.traces(x, [state for state in wanted if wanted[state]]):
            yield {
                (state, index): getattr(trace, state)[index]
                for state, indices in wanted.items()
                for index in indices
            }


class _Lava:
    """The file in Lava."""

    def __init__(self, network: Network, path: Path, deadline: float | None) -> None:
        self.network, self.path, self.deadline = network, path, deadline

    def __call__(self, x: NDArray[Any], wanted: Wanted) -> Observed:
        return run.observe(self.network, self.path, x, wanted, self.deadline)

    def parts(
        self, x: Iterable[NDArray[Any]], size: tuple[int, int], wanted: Wanted
    ) -> Iterator[Observed]:
        return run.parts(self.network, self.path, x, size, wanted, self.deadline)


def _nobody(x: NDArray[Any], wanted: Wanted) -> Observed:
    raise RuntimeError("not asked for")


def _nothing(network: Network) -> NDArray[Any]:
    """The payloads of no sample."""
    return np.zeros((network.time_steps, 0, *network.input_shape), dtype=np.uint8)


# --- slices -------------------------------------------------------------------------------------


class _Samples:
    """Payloads by slices of samples and parts of their time, encoded when they are needed."""

    def __init__(self, x: NDArray[Any], encoding: Encoding | None) -> None:
        self.x, self.encoding = x, encoding
        self.steps = len(x) if encoding is None else encoding.time_steps

    def __len__(self) -> int:
        return self.x.shape[1] if self.encoding is None else len(self.x)

    def payloads(self, some: slice, steps: slice) -> NDArray[Any]:
        """``[t, n, *input_shape]``."""
        if self.encoding is None:
            return self.x[steps, some]
        return self.encoding.encode(self.x[some], steps)


@dataclass
class _Slice:
    """Some of the samples, up to step ``stop``, in parts of ``length`` steps."""

    samples: _Samples
    some: slice
    stop: int
    length: int

    @cached_property
    def whole(self) -> NDArray[Any]:
        """Its payloads ``[T, n, *input_shape]``."""
        return self.samples.payloads(self.some, slice(self.stop))

    def observed(self, simulator: Simulator, wanted: Wanted) -> Iterator[Observed]:
        """What a simulator observes, part by part."""
        if self.length < self.stop and hasattr(simulator, "parts"):
            ends = range(0, self.stop, self.length)
            parts = (
                self.samples.payloads(self.some, slice(t, min(t + self.length, self.stop)))
                for t in ends
            )
            count = len(range(len(self.samples))[self.some])
            yield from simulator.parts(parts, (self.stop, count), wanted)
            return
        found = simulator(self.whole, wanted)
        for begin in range(0, self.stop, self.length):
            yield {key: a[begin : begin + self.length] for key, a in found.items()}


def _wanted(network: Network, layers: Sequence[int], states: bool) -> dict[str, list[int]]:
    """What is compared of these layers; the state that the readout reads is always among it."""
    wanted = {state: list(layers) for state in (ORDER if states else ("spikes",))}
    last = len(network.layers) - 1
    if not states and network.readout == "membrane" and last in layers:
        wanted["v"] = [last]
    return wanted


def _bytes(network: Network, index: int, states: bool) -> int:
    """What the numbers of a step of one sample of a layer take while they are compared."""
    spikes = 4 if network.layers[index].neuron.graded else 1
    last = index == len(network.layers) - 1
    numbers = spikes + (8 if states else 4 if last else 0)
    return HELD * int(np.prod(network.shapes[index])) * numbers


def _sizes(network: Network, states: bool, steps: int) -> tuple[int, int]:
    """How many samples are taken at a time, and how many of their steps."""
    step = sum(_bytes(network, index, states) for index in range(len(network.layers)))
    if step * steps <= LIMIT:
        return LIMIT // (step * steps), steps
    return 1, max(1, LIMIT // step)


# --- counting -----------------------------------------------------------------------------------


class _Tally:
    """What remains of the slices: counts, the first divergence, the scores."""

    def __init__(self, network: Network, names: Sequence[str], samples: int) -> None:
        self.network, self.names = network, tuple(names)
        self.exact = tuple(name for name in names if name != FLOAT)
        self.ground = min(
            self.exact,
            key=lambda name: _AS_GROUND.index(name) if name in _AS_GROUND else -1,
        )
        self.counts = np.zeros((len(network.layers), 2), dtype=np.int64)
        self.alike = np.zeros((len(network.layers), 2), dtype=np.int64)  # of float: same, of
        shape = (samples, network.classes)
        self.scores: dict[str, NDArray[Any]] = {
            name: np.zeros(shape, dtype=np.float64 if name == FLOAT else np.int64) for name in names
        }
        self.first: dict[str, tuple[tuple[int, ...], Divergence]] = {}
        self._differs: dict[tuple[str, int], NDArray[np.bool_]] = {}

    def add(self, at: tuple[int, int], name: str, ground: Observed, found: Observed) -> None:
        """What a simulator observed of the samples, and of their steps, from ``at``."""
        for key, numbers in ground.items():
            if name == FLOAT:
                if key[0] == "spikes" and self.network.layers[key[1]].neuron.vth is not None:
                    same = int(np.count_nonzero(found[key] == numbers))
                    self.alike[key[1]] += same, numbers.size
                continue
            differs = found[key] != numbers
            if key in self._differs:
                self._differs[key] |= differs
            else:
                self._differs[key] = differs
            if differs.any():
                self._note(at, name, key, differs, numbers, found[key])
        self._read(at[0], name, found)

    def close(self, at: tuple[int, int], ground: Observed) -> None:
        """All simulators have been added for these samples and steps."""
        self._read(at[0], self.ground, ground)
        for (_, index), differs in self._differs.items():
            self.counts[index] += differs.size, np.count_nonzero(differs)
        self._differs = {}

    def _note(
        self,
        start: tuple[int, int],
        name: str,
        key: tuple[str, int],
        differs: NDArray[np.bool_],
        ground: NDArray[Any],
        found: NDArray[Any],
    ) -> None:
        state, index = key
        # Of a sample's numbers the earliest step comes first, then the layer, then the state.
        flat = differs.reshape(*differs.shape[:2], -1)
        sample = int(flat.any(axis=(0, 2)).argmax())
        step = int(flat[:, sample].any(axis=1).argmax())
        neuron = tuple(np.argwhere(differs[step, sample])[0].tolist())
        first_sample, first_step = start
        order = (first_sample + sample, first_step + step, index, ORDER.index(state), *neuron)
        if name in self.first and self.first[name][0] <= order:
            return
        at = (step, sample, *neuron)
        values = {self.ground: int(ground[at]), name: int(found[at])}
        layer = self.network.names[index]
        there = Divergence(layer, neuron, order[1] + 1, order[0], state, values)
        self.first[name] = (order, there)

    def _read(self, start: int, name: str, observed: Observed) -> None:
        last = len(self.network.layers) - 1
        state = "v" if self.network.readout == "membrane" else "spikes"
        if (state, last) not in observed:
            return
        found = observed[state, last]
        trace = Trace([], [], [])
        getattr(trace, state).append(found)
        if name == FLOAT:
            read = found[-1] if state == "v" else found.sum(axis=0)
            scores = read.reshape(found.shape[1], -1)
        else:
            read = reference.scores(self.network, trace)
        scores = self.scores[name][start : start + found.shape[1]]
        scores[:] = read if state == "v" else scores + read  # spikes of the parts before, too

    def result(self) -> VerifyResult:
        """All of it."""
        ground = self.scores[self.ground]
        exact = [self.scores[name] for name in self.exact]
        wrong = np.any([s != ground for s in exact], axis=0)
        divergence = self._first_of_all()
        if divergence is None and wrong.any():
            at = tuple(np.argwhere(wrong)[0].tolist())
            values = {name: int(self.scores[name][at]) for name in self.exact}
            divergence = Divergence(
                self.network.names[-1], at[1:], self.network.time_steps, at[0], "score", values
            )
        return VerifyResult(
            compared=int(self.counts[:, 0].sum()) + (wrong.size if len(self.exact) > 1 else 0),
            mismatches=int(self.counts[:, 1].sum() + np.count_nonzero(wrong)),
            first_divergence=divergence,
            layers=tuple(
                LayerResult(name, *pair)
                for name, pair in zip(self.network.names, self.counts.tolist(), strict=True)
            ),
            scores=self.scores[self.exact[-1]],
            between=self.names,
            agreement=self._agreement(),
        )

    def _first_of_all(self) -> Divergence | None:
        """The first, with what everybody has there: ground's, if not what was noted."""
        if not self.first:
            return None
        least, first = min(self.first.values(), key=lambda noted: noted[0])
        values = dict.fromkeys(self.exact, first.values[self.ground])
        for name, (order, there) in self.first.items():
            if order == least:
                values[name] = there.values[name]
        return replace(first, values=values)

    def _agreement(self) -> Agreement | None:
        if FLOAT not in self.names:
            return None
        counts = zip(self.network.names, self.alike.tolist(), strict=True)
        spikes = tuple((name, same, of) for name, (same, of) in counts if of)
        alike = decide(self.scores[FLOAT]) == decide(self.scores[self.ground])
        return Agreement(self.ground, spikes, int(alike.sum()), len(alike))


# --- why ----------------------------------------------------------------------------------------


def _explained(
    network: Network,
    result: VerifyResult,
    simulators: Mapping[str, Simulator],
    samples: _Samples,
    size: int,
    length: int,
    networks: Mapping[str, Network],
) -> VerifyResult:
    """The sample of the first divergence once more, with all its states, and what they say."""
    first = result.first_divergence
    assert first is not None
    last = len(network.layers) - 1
    index = network.names.index(first.layer)
    # All of its time; or of a sample that is too large as much as there was when it was found.
    stop = min(samples.steps, -(-first.step // length) * length)
    total = stop * sum(_bytes(network, i, True) for i in range(last + 1))
    if total <= LIMIT:
        layers = list(range(last + 1))
    else:  # those that have a part in it
        layers = sorted((causes.needed(network, index) | {index}) - {INPUT})
    # Those before it in its slice go with it: what is carried over comes from them.
    begin = max(first.sample // size * size, first.sample + 1 - max(1, LIMIT // total))
    of = _Slice(samples, slice(begin, first.sample + 1), stop, min(length, stop))
    wanted = dict.fromkeys(ORDER, layers)
    found = {name: _joined(of.observed(simulate, wanted)) for name, simulate in simulators.items()}
    its = {name: {key: a[:, -1:] for key, a in seen.items()} for name, seen in found.items()}
    exact = {name: seen for name, seen in its.items() if name != FLOAT}
    again = compare(network, exact).first_divergence
    if again is None:
        text = (
            f"samples {begin} to {first.sample} run again without those before are the same "
            "everywhere: something is carried over between samples, or changes from run to run"
        )
        unknown = Cause("not seen again", text, " and ".join(exact), first.layer)
        return replace(result, causes=(unknown,))
    origin = replace(again, sample=first.sample)
    index = network.names.index(origin.layer)
    reasons: list[Cause] = []
    for name in exact:
        theirs = networks.get(name, network)
        reason = None if theirs is network else causes.another_network(network, theirs, name)
        if reason is None and origin.state != "score":
            evidence = _evidence(network, index, origin, of.whole, found[name])
            reason = None if evidence is None else causes.explain(evidence, name)
        if reason is not None:
            reasons.append(reason)
    if not reasons:
        text = "each does what the chip does with what it gets there: they do not get the same"
        reasons.append(Cause("unknown", text, " and ".join(exact), origin.layer))
    place: tuple[Any, ...] = (slice(None), 0, *origin.neuron)
    if origin.state == "score":
        place = (slice(None), 0, *np.unravel_index(origin.neuron[0], network.shapes[index]))
    states = {
        name: {state: seen[state, index][place] for state in ORDER} for name, seen in its.items()
    }
    return replace(result, causes=tuple(reasons), neighbourhood=Neighbourhood(origin, states))


def _joined(parts: Iterator[Observed]) -> Observed:
    """One after the other in time."""
    first, *more = parts
    if not more:
        return first
    return {key: np.concatenate([a, *(part[key] for part in more)]) for key, a in first.items()}


def _evidence(
    network: Network, index: int, at: Divergence, payloads: NDArray[Any], found: Observed
) -> Evidence | None:
    """Around a divergence in the last of the samples observed; None if a source was not."""
    needed = causes.needed(network, index)
    if any(("spikes", source) not in found for source in needed - {INPUT}):
        return None
    shape = network.input_shape
    sent: dict[int, NDArray[Any]] = {
        source: payloads[:, -1].reshape(len(payloads), *shape)
        if source == INPUT
        else found["spikes", source][:, -1]
        for source in needed
    }
    before = None
    if payloads.shape[1] > 1:
        before = found["u", index][-1, -2], found["v", index][-1, -2]
    numbers = {state: found[state, index][:, -1] for state in ORDER}
    return Evidence(network, index, sent, numbers, (at.step - 1, *at.neuron), before)


def rows(result: VerifyResult) -> Iterator[tuple[str, str]]:
    """The result in words, a line each: what, and how much of it."""
    yield "mismatches", f"{result.mismatches:,} of {result.compared:,} numbers compared"
    for layer in result.layers:
        if layer.compared:
            yield f"  layer {layer.name}", f"{layer.mismatches:,} of {layer.compared:,}"
    yield "first", str(result.first_divergence) if result.first_divergence else "none"
    if (near := result.neighbourhood) is not None and near.divergence != result.first_divergence:
        yield "  with u and v", str(near.divergence)
    for cause in result.causes:
        yield "  likely cause", str(cause)
    if (agreed := result.agreement) is not None:
        yield "float", f"against {agreed.against}: what the grid costs, no errors"
        for name, same, of in agreed.spikes:
            share = f"{same:,} of {of:,} spikes the same, {same / of:.2%}"
            yield f"  layer {name}", share
        share = f"{agreed.decisions / agreed.samples:.2%}"
        yield "  answers", f"{agreed.decisions:,} of {agreed.samples:,} the same, {share}"
