"""The learning block compiled: what Lava's simulator does with it, number for number, and thousands
of times faster.

    learner = Learner(build(network, x, "hidden", Rule()), labels)
    learner.learn(x)                 # the next samples, in their order
    learner.finish()                 # until the last of them has been learned
    learner.block.freeze(learner.learned)

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
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from loihi import Dense, Network, Neuron, reference
from loihi.engine import Engine
from loihi.formats import STATE_SHIFT
from onchip import kernels
from onchip.block import Block, LearningError

Rounding = Literal["lava", "chip-like"]
ROUNDINGS: tuple[str, ...] = get_args(Rounding)

CHUNK_SIZE = 2**21
"""Messages that are made ready at a time."""
FACTOR_TAU = 2**16 - 1
"""The decay of third factors in Lava, in steps: hardly any, and not quite none."""
WEIGHT_SEED = 2
"""Of the draws for weights: Lava leaves no choice."""


class Learner:
    """A block at work, from its first step on.

    labels: the classes of all samples that will come, ``[samples]``, in their order (the error is
        halved towards their end). seed: of the random numbers; under ``lava`` of those of the
        traces. rounding: see the module. threads: of what is in front; None: one a processor.
    """

    def __init__(
        self,
        block: Block,
        labels: NDArray[Any],
        *,
        seed: int = 1,
        rounding: Rounding = "lava",
        threads: int | None = 1,
    ) -> None:
        if rounding not in ROUNDINGS:
            raise LearningError(f"rounding {rounding!r} is unknown: use {' or '.join(ROUNDINGS)}")
        self.block, self.seed, self.rounding = block, seed, rounding
        self.labels = np.array(labels, dtype=np.int64)
        self.step = 0
        self.samples = 0
        network, rule = block.network, block.rule
        last = len(network.layers) - 1
        self._first = min(block.plastic)
        self._front = _Front(block, self._first, threads)
        self._hidden: kernels.Synapses | None = None
        self._cells: kernels.Cells | None = None
        if self._first < last:
            self._hidden = _synapses(block, last - 1, self._first == 0)
            self._cells = _cells(block, last - 1)
        self._readout = _synapses(block, last, self._first == last == 0)
        classes = network.classes
        self._reader = kernels.Reader(
            np.zeros(classes, dtype=np.int64),
            np.zeros(classes, dtype=np.int32),
            np.zeros(classes, dtype=np.int64),
            rule.amplitude,
            rule.leak,
            block.readout_shift,
            rule.halvings,
            network.arrivals[last],
        )

    def learn(self, x: NDArray[Any], record: bool = False) -> list[Record]:
        """The next samples, payloads ``[T, n, *input_shape]``. record: what happens in each step,
        for small blocks, in the order of time; else nothing."""
        x = self.block.network.check_payloads(x)
        if len(x) != self.block.network.time_steps:
            raise LearningError(
                f"samples of {len(x)} steps, the network's encoding has "
                f"{self.block.network.time_steps}"
            )
        if self.samples + x.shape[1] > len(self.labels):
            raise LearningError(
                f"{self.samples + x.shape[1]} samples, labels for {len(self.labels)}"
            )
        records = []
        at_once = max(1, CHUNK_SIZE // (self.block.interval * self._front.size))
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
        missing = self.block.steps(len(self.labels)) - self.step
        if self.samples < len(self.labels):
            raise LearningError(f"{self.samples} of {len(self.labels)} samples have been learned")
        silence = self._front.silence(missing)
        return [self._run(silence, record)] if missing else []

    @property
    def learned(self) -> dict[int, NDArray[np.int32]]:
        """The mantissas ``[out, in]`` of each plastic layer as they are now, by its index."""
        last = len(self.block.network.layers) - 1
        found = {last: self._readout.weight}
        if self._hidden is not None:
            found[last - 1] = self._hidden.weight.T
        return {index: found[index].astype(np.int32) for index in self.block.plastic}

    @property
    def network(self) -> Network:
        """The frozen network as it is now."""
        return self.block.freeze(self.learned)

    def state(self) -> dict[str, NDArray[Any]]:
        """All that changes, but for ``step`` and ``samples``: arrays by their names, not copied.
        Random numbers are drawn by the step, and need nothing beside it."""
        parts = {
            "hidden": (self._hidden, ("weight", "x1", "tx", "y")),
            "cells": (self._cells, ("u", "v", "a", "third")),
            "readout": (self._readout, ("weight", "x1", "tx", "y")),
            "reader": (self._reader, ("r", "a")),
        }
        return {
            f"{part}.{name}": getattr(values, name)
            for part, (values, names) in parts.items()
            if values is not None
            for name in names
        }

    def _run(self, messages: NDArray[Any], record: bool) -> Record:
        steps, rule = len(messages), self.block.rule
        clock = kernels.Clock(
            self.step, self.block.network.time_steps, self.block.interval, rule.epoch
        )
        seen = self._seen(steps if record else 0)
        kernels.run(
            messages,
            self.labels,
            self._hidden,
            self._cells,
            self._readout,
            self._reader,
            clock,
            self._draws(steps),
            seen,
        )
        self.step += steps
        return Record(self, messages, seen)

    def _draws(self, steps: int) -> kernels.Draws:
        none = np.zeros(0)
        if self.rounding == "chip-like":
            # Not 0, which says that there is none.
            key = int(np.random.SeedSequence(self.seed).generate_state(1)[0]) | 1
            return kernels.Draws(key, none.astype(np.int32), none, none)
        epoch = self.block.rule.epoch
        # At rest Lava draws once, then twice a step for traces and once a learning phase.
        x, y = (_stream(self.seed + k, 1 + 2 * self.step, 2 * steps)[1::2] for k in (0, 2))
        phases = np.arange(self.step + 1, self.step + steps + 1) // epoch
        drawn = _stream(WEIGHT_SEED, int(phases[0]), int(phases[-1] - phases[0]) + 1)
        weight = 127 - np.floor(drawn * 128).astype(np.int32)
        x, y = np.ascontiguousarray(x), np.ascontiguousarray(y)  # of one type with those above
        return kernels.Draws(0, weight[phases - phases[0]], x, y)

    def _seen(self, steps: int) -> kernels.Seen:
        def room(array: NDArray[Any]) -> NDArray[Any]:
            return np.zeros((steps, *array.shape), dtype=array.dtype)

        nothing = self._readout._replace(
            weight=np.zeros((0, 0), np.int8), x1=np.zeros(0, np.int16), y=np.zeros(0, np.int16)
        )
        hidden = self._hidden or nothing
        spikes = self._cells.spikes if self._cells else np.zeros(0, np.uint8)
        readout = self._readout
        return kernels.Seen(
            room(hidden.weight),
            room(hidden.x1),
            room(hidden.y),
            room(spikes),
            room(readout.weight),
            room(readout.x1),
            room(readout.y),
        )


class Record:
    """What happened in some steps; each property an array with a row a step.

    weights ``[steps, out, in]``, traces ``[steps, in]`` and factors ``[steps, out]`` (y1 − y2) are
    by plastic layer, spikes ``[steps, size]`` by layer: of the last in front and of the hidden one.
    """

    def __init__(self, learner: Learner, messages: NDArray[Any], seen: kernels.Seen) -> None:
        plastic = learner.block.plastic
        last = len(learner.block.network.layers) - 1
        self.weights: dict[int, NDArray[Any]] = {}
        self.traces: dict[int, NDArray[Any]] = {}
        self.factors: dict[int, NDArray[Any]] = {}
        self.spikes: dict[int, NDArray[Any]] = {}
        if last in plastic:
            self.weights[last] = seen.readout_weight
            self.traces[last], self.factors[last] = seen.readout_x1, seen.readout_y
        if last - 1 in plastic:
            self.weights[last - 1] = seen.hidden_weight.swapaxes(1, 2)
            self.traces[last - 1], self.factors[last - 1] = seen.hidden_x1, seen.hidden_y
            self.spikes[last - 1] = seen.spikes
        if len(seen.readout_y) and learner._first > 0:
            self.spikes[learner._first - 1] = messages


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


class _Front:
    """The layers before the first that learns: what they send, step after step of the chip."""

    def __init__(self, block: Block, first: int, threads: int | None) -> None:
        network = block.network
        self._block, self._network, self._engine = block, None, None
        shape, self._lag = network.input_shape, 0
        if first:
            self._network = Network(network.input_shape, network.layers[:first], network.encoding)
            self._engine = Engine(self._network, threads)
            shape, self._lag = network.shapes[first - 1], network.arrivals[first - 1]
        self.size = int(np.prod(shape))

    def messages(self, x: NDArray[Any]) -> NDArray[np.uint8]:
        """Of payloads ``[T, n, …]``: ``[n · interval, size]``, each sample followed by its gap."""
        interval = self._block.interval
        padded = np.zeros((interval, *x.shape[1:]), dtype=x.dtype)
        padded[: len(x)] = x
        if self._engine is not None:
            padded = self._engine.run(padded).spikes[-1]
        return np.ascontiguousarray(
            padded.reshape(interval, -1, self.size).swapaxes(0, 1), dtype=np.uint8
        ).reshape(-1, self.size)

    def lead(self) -> NDArray[np.uint8]:
        """What they send before the first sample has come through them."""
        return self._stream(self._lag)

    def silence(self, steps: int) -> NDArray[np.uint8]:
        """What they send when no sample follows, from where the last one's steps end."""
        return self._stream(self._lag + steps)[self._lag :]

    def _stream(self, steps: int) -> NDArray[np.uint8]:
        if self._network is None or not steps:
            return np.zeros((steps, self.size), dtype=np.uint8)
        silent = np.zeros((steps, 1, *self._network.input_shape), dtype=np.uint8)
        trace = reference.stream(self._network, silent, reset_interval=self._block.interval)
        return trace.spikes[-1].reshape(steps, self.size).astype(np.uint8)


def _synapses(block: Block, index: int, from_input: bool) -> kernels.Synapses:
    network, rule = block.network, block.rule
    last = len(network.layers) - 1
    synapse, plastic = network.layers[index].synapse, block.plastic.get(index)
    assert isinstance(synapse, Dense)
    weight = synapse.weight if plastic is None else plastic.values
    out, inputs = weight.shape
    # One type for each place: every other is compiled anew.
    weight = weight.astype(np.int16) if index == last else weight.T.astype(np.int8)
    graded = from_input and not network.encoding.binary
    tau, impulse = (
        (rule.readout_tau, rule.readout_impulse)
        if index == last
        else (rule.hidden_tau, rule.hidden_impulse)
    )
    base, fraction = _fade(tau)
    _, fading = _fade(FACTOR_TAU)
    return kernels.Synapses(
        np.array(weight, order="C"),
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
        7 + block.rates.get(index, -7),
        plastic is not None,
    )


def _fade(tau: int) -> tuple[NDArray[np.int16], NDArray[np.float64]]:
    """What a step leaves of traces 0..128: the whole part and the fraction, as Lava computes it."""
    left: NDArray[np.float64] = np.exp(-1 / np.array([tau])) * np.arange(129)
    return np.floor(left).astype(np.int16), np.mod(left, 1.0)


def _cells(block: Block, index: int) -> kernels.Cells:
    network = block.network
    neuron, size = network.layers[index].neuron, int(np.prod(network.shapes[index]))
    assert isinstance(neuron, Neuron) and neuron.vth is not None  # the block has been checked
    bias = neuron.effective_bias(network.shapes[index]).reshape(-1)
    u, v, a, third = np.zeros((4, size), dtype=np.int32)
    return kernels.Cells(
        u,
        v,
        a,
        third,
        np.zeros(size, dtype=np.uint8),
        bias.astype(np.int32),
        np.ascontiguousarray(block.feedback.T, dtype=np.int32),
        neuron.du,
        neuron.dv,
        neuron.vth << STATE_SHIFT,
        block.window,
        block.error_shift,
        network.arrivals[index],
    )


def _stream(seed: int, skip: int, count: int) -> NDArray[np.float64]:
    """``count`` numbers of a stream as Lava seeds it, after the first ``skip``."""
    bits = np.random.PCG64(seed)
    bits.advance(skip)
    return np.random.Generator(bits).random(count)
