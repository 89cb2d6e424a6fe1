"""Learning blocks compiled: what Lava's simulator does with them, number for number, and thousands
of times faster.

    learner = Learner(build(network, x, "hidden", Rule()), labels)
    learner.learn(x)                 # the next samples, in their order
    learner.finish()                 # until the last of them has been learned
    learner.plan.freeze(learner.learned)

Learning goes on sample after sample, so only what is in front of the learning layers runs for many
samples at a time (:mod:`loihi.engine`); the rest is :mod:`onchip.kernels`, a step after the other.

Two roundings:

- ``lava``: with the random numbers of Lava's fixed-point learning model (lava-nc 0.10.0), of which
  it draws one for all weights of a layer at a learning phase, and one for all traces. Equal to Lava
  in every weight, trace, third factor and spike at every step.
- ``chip-like``: one for each weight and each trace, as chips round. The rest of the arithmetic is
  Lava's. Not equal to a chip: what those draw nobody has published.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loihi import Dense, Network, Neuron
from loihi.formats import STATE_SHIFT
from onchip import kernels
from onchip.draws import ROUNDINGS, WEIGHT_SEED, Rounding, stream
from onchip.front import Front
from onchip.plan import Head, Plan
from onchip.spec import LearningError

CHUNK_SIZE = 2**21
"""Messages that are made ready at a time."""
FACTOR_TAU = 2**16 - 1
"""The decay of third factors in Lava, in steps: hardly any, and not quite none."""


class Learner:
    """A plan at work, from its first step on.

    labels: the classes of all samples that will come, ``[samples]``, in their order (the error is
        halved towards their end). seed: of the random numbers; under ``lava`` of those of the
        traces. rounding: see the module. threads: of what is in front; None: one a processor.
    """

    def __init__(
        self,
        plan: Plan,
        labels: NDArray[Any],
        *,
        seed: int = 1,
        rounding: Rounding = "lava",
        threads: int | None = 1,
    ) -> None:
        if rounding not in ROUNDINGS:
            raise LearningError(f"rounding {rounding!r} is unknown: use {' or '.join(ROUNDINGS)}")
        self.plan, self.seed, self.rounding = plan, seed, rounding
        self.labels = np.array(labels, dtype=np.int64)
        self.step = 0
        self.samples = 0
        self._front = Front(plan.network, plan.first, plan.interval, threads)
        self._ranks = plan.ranks(len(self.labels))
        first, layers = plan.first, range(plan.first, plan.top + 1)
        self._heads = tuple(
            kernels.Head(
                _synapses(plan, head.place, len(layers) + n + 1, head.weight),
                _reader(plan, head),
                head.layer - first if head.layer >= first else -1,
            )
            for n, head in enumerate(plan.heads)
        )
        self._stages = tuple(
            kernels.Stage(_synapses(plan, layer, n + 1), _cells(plan, layer, self._heads))
            for n, layer in enumerate(layers)
        )
        small = np.int8 if all(_fits(s.synapses.weight) for s in self._stages) else np.int16
        self._stages = tuple(  # one type for all: what is compiled takes them one after the other
            s._replace(synapses=s.synapses._replace(weight=s.synapses.weight.astype(small)))
            for s in self._stages
        )
        self._places = {
            **{layer: s.synapses for layer, s in zip(layers, self._stages, strict=True)},
            **{h.place: k.synapses for h, k in zip(plan.heads, self._heads, strict=True)},
        }

    def learn(self, x: NDArray[Any], record: bool = False) -> list[Record]:
        """The next samples, payloads ``[T, n, *input_shape]``. record: what happens in each step,
        for small blocks, in the order of time; else nothing."""
        x = self.plan.network.check_payloads(x)
        if len(x) != self.plan.network.time_steps:
            raise LearningError(
                f"samples of {len(x)} steps, the network's encoding has "
                f"{self.plan.network.time_steps}"
            )
        if self.samples + x.shape[1] > len(self.labels):
            raise LearningError(
                f"{self.samples + x.shape[1]} samples, labels for {len(self.labels)}"
            )
        records = []
        at_once = max(1, CHUNK_SIZE // (self.plan.interval * self._front.size))
        for begin in range(0, x.shape[1], at_once):
            some = x[:, begin : begin + at_once]
            messages = self._front.messages(some)
            if self.samples == 0:
                messages = np.concatenate([self._front.lead(), messages])
            self.samples += some.shape[1]
            records.append(self._run(messages, record))
        return records

    def finish(self, record: bool = False) -> list[Record]:
        """The steps after the last sample, in which the last errors are learned."""
        missing = self.plan.steps(len(self.labels)) - self.step
        if self.samples < len(self.labels):
            raise LearningError(f"{self.samples} of {len(self.labels)} samples have been learned")
        silence = self._front.silence(missing)
        return [self._run(silence, record)] if missing else []

    @property
    def learned(self) -> dict[int, NDArray[np.int32]]:
        """The mantissas ``[out, in]`` of each plastic place as they are now."""
        return {
            place: self._mantissas(place, self._places[place].weight).astype(np.int32)
            for place in self.plan.plastic
        }

    def _mantissas(self, place: int, weight: NDArray[Any]) -> NDArray[Any]:
        """Of a place ``[…, out, in]``, as its kernel has them."""
        return weight if any(h.place == place for h in self.plan.heads) else weight.swapaxes(-1, -2)

    @property
    def network(self) -> Network:
        """The frozen network as it is now."""
        return self.plan.freeze(self.learned)

    def state(self) -> dict[str, NDArray[Any]]:
        """All that changes, but for ``step`` and ``samples``: arrays by their names, not copied.
        Random numbers are drawn by the step, and need nothing beside it."""
        parts: list[tuple[str, Any, tuple[str, ...]]] = []
        for n, stage in enumerate(self._stages):
            parts.append((f"stage{n}", stage.synapses, ("weight", "x1", "tx", "y")))
            parts.append((f"cells{n}", stage.cells, ("u", "v", "a", "third")))
        for n, head in enumerate(self._heads):
            parts.append((f"head{n}", head.synapses, ("weight", "x1", "tx", "y")))
            parts.append((f"reader{n}", head.reader, ("r", "a")))
        return {
            f"{part}.{name}": getattr(values, name)
            for part, values, names in parts
            for name in names
        }

    def _run(self, messages: NDArray[Any], record: bool) -> Record:
        steps, rule = len(messages), self.plan.rule
        clock = kernels.Clock(
            self.step, self.plan.network.time_steps, self.plan.interval, rule.epoch
        )
        seen_stages = tuple(
            _seen(s.synapses, s.cells.spikes, steps if record else 0) for s in self._stages
        )
        nothing = np.zeros(0, dtype=np.uint8)
        seen_heads = tuple(_seen(h.synapses, nothing, steps if record else 0) for h in self._heads)
        kernels.run(
            messages,
            self.labels,
            self._ranks,
            self._stages or None,
            self._heads,
            clock,
            self._draws(steps),
            seen_stages or None,
            seen_heads,
        )
        self.step += steps
        return Record(self, messages, seen_stages, seen_heads)

    def _draws(self, steps: int) -> kernels.Draws:
        none = np.zeros(0)
        if self.rounding == "chip-like":
            # Not 0, which says that there is none.
            key = int(np.random.SeedSequence(self.seed).generate_state(1)[0]) | 1
            return kernels.Draws(key, none.astype(np.int32), none, none)
        epoch = self.plan.rule.epoch
        # At rest Lava draws once, then twice a step for traces and once a learning phase.
        x, y = (stream(self.seed + k, 1 + 2 * self.step, 2 * steps)[1::2] for k in (0, 2))
        phases = np.arange(self.step + 1, self.step + steps + 1) // epoch
        drawn = stream(WEIGHT_SEED, int(phases[0]), int(phases[-1] - phases[0]) + 1)
        weight = 127 - np.floor(drawn * 128).astype(np.int32)
        x, y = np.ascontiguousarray(x), np.ascontiguousarray(y)  # of one type with those above
        return kernels.Draws(0, weight[phases - phases[0]], x, y)


class Record:
    """What happened in some steps; each property an array with a row a step.

    weights ``[steps, out, in]``, traces ``[steps, in]`` and factors ``[steps, out]`` (y1 − y2) are
    by plastic place, spikes ``[steps, size]`` by layer: the last in front, and all behind.
    """

    def __init__(
        self,
        learner: Learner,
        messages: NDArray[Any],
        stages: Sequence[kernels.Seen],
        heads: Sequence[kernels.Seen],
    ) -> None:
        plan = learner.plan
        first = plan.first
        seen = {first + n: s for n, s in enumerate(stages)}
        seen |= {head.place: s for head, s in zip(plan.heads, heads, strict=True)}
        self.weights = {p: learner._mantissas(p, seen[p].weight) for p in plan.plastic}
        self.traces = {p: seen[p].x1 for p in plan.plastic}
        self.factors = {p: seen[p].y for p in plan.plastic}
        self.spikes = {first + n: s.spikes for n, s in enumerate(stages)}
        if first > 0:
            self.spikes[first - 1] = messages


def side_by_side(
    learners: Sequence[Learner], x: NDArray[Any], threads: int | None = None
) -> list[dict[int, NDArray[np.int32]]]:
    """All of ``x`` in each of several learners at once, to its end, a thread for each of as many as
    the machine has processors: what each has learned. For searches over rules and seeds."""

    def whole(learner: Learner) -> dict[int, NDArray[np.int32]]:
        learner.learn(x)
        learner.finish()
        return learner.learned

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(whole, learners))


def _synapses(
    plan: Plan, place: int, number: int, classifier: NDArray[Any] | None = None
) -> kernels.Synapses:
    """Of a place, with what learns in it; a fixed layer's weights as they are."""
    weight, plastic = classifier, plan.plastic.get(place)
    if weight is None:
        synapse = plan.network.layers[place].synapse
        assert isinstance(synapse, Dense)  # the network has been checked
        weight = synapse.weight
    weight = weight if plastic is None else plastic.values
    out, inputs = weight.shape
    graded = place == 0 and not plan.network.encoding.binary
    rule = plan.numbers.get(place, plan.rule)
    tau, impulse = (
        (rule.hidden_tau, rule.hidden_impulse)
        if classifier is None
        else (rule.readout_tau, rule.readout_impulse)
    )
    base, fraction = _fade(tau)
    _, fading = _fade(FACTOR_TAU)
    return kernels.Synapses(
        np.array(weight.T if classifier is None else weight, dtype=np.int16, order="C"),
        0 if plastic is None else plastic.exponent,
        np.zeros(inputs, dtype=np.int16),
        np.zeros(inputs, dtype=np.uint8),
        np.zeros(out, dtype=np.int16),
        base,
        fraction,
        fading,
        np.round(np.arange(256) / 2).astype(np.uint8).astype(np.int16),
        0 if graded else impulse,  # Lava takes it from graded synapses
        graded,
        7 + plan.rates.get(place, -7),
        plastic is not None,
        number,
    )


def _fade(tau: int) -> tuple[NDArray[np.int16], NDArray[np.float64]]:
    """What a step leaves of traces 0..128: the whole part and the fraction, as Lava computes it."""
    left: NDArray[np.float64] = np.exp(-1 / np.array([tau])) * np.arange(129)
    return np.floor(left).astype(np.int16), np.mod(left, 1.0)


def _fits(weight: NDArray[Any]) -> bool:
    return bool(weight.min() >= -128 and weight.max() <= 127)


def _reader(plan: Plan, head: Head) -> kernels.Reader:
    classes = plan.network.classes
    return kernels.Reader(
        np.zeros(classes, dtype=np.int64),
        np.zeros(classes, dtype=np.int32),
        np.zeros(classes, dtype=np.int64),
        head.rule.amplitude,
        head.rule.leak,
        head.readout_shift,
        plan.rule.halvings,
        head.arrival,
        head.steps,
    )


def _cells(plan: Plan, layer: int, heads: Sequence[kernels.Head]) -> kernels.Cells:
    network = plan.network
    neuron, size = network.layers[layer].neuron, int(np.prod(network.shapes[layer]))
    assert isinstance(neuron, Neuron)  # the network has been checked
    bias = neuron.effective_bias(network.shapes[layer]).reshape(-1)
    stage = next((s for s in plan.stages if s.layer == layer), None)
    above, back = kernels.NOWHERE, np.zeros((0, 0), dtype=np.int16)
    if stage is not None:
        numbers = [n for n, head in enumerate(plan.heads) if head.place == stage.above]
        if numbers:
            above = numbers[0]
            if stage.feedback is None:
                back = heads[above].synapses.weight  # the same array: it learns
        else:
            above = kernels.MIRROR - (stage.feedback is not None)
        if stage.feedback is not None:
            back = np.array(stage.feedback.T, dtype=np.int16, order="C")
    u, v, a, third = np.zeros((4, size), dtype=np.int32)
    return kernels.Cells(
        u,
        v,
        a,
        third,
        np.zeros(size, dtype=np.uint8),
        bias.astype(np.int32),
        back,
        above,
        neuron.du,
        neuron.dv,
        # None never spikes: v stays below 2^23
        (1 << 17 if neuron.vth is None else neuron.vth) << STATE_SHIFT,
        0 if stage is None else stage.window,
        0 if stage is None else stage.error_shift,
        network.arrivals[layer],
    )


def _seen(synapses: kernels.Synapses, spikes: NDArray[Any], steps: int) -> kernels.Seen:
    """Room for what happens in some steps."""

    def room(array: NDArray[Any]) -> NDArray[Any]:
        return np.zeros((steps, *array.shape), dtype=array.dtype)

    return kernels.Seen(room(synapses.weight), room(synapses.x1), room(synapses.y), room(spikes))
