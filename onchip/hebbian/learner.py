"""A block at work in the compiled engine."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from loihi import Dense, Network, Neuron
from loihi.formats import STATE_SHIFT
from onchip.connection import Record, Synapses
from onchip.draws import Rounding
from onchip.front import Front
from onchip.hebbian.block import HebbianBlock, payloads
from onchip.hebbian.rule import REWARD
from onchip.rules import kernels
from onchip.spec import LearningError

CHUNK_SIZE = 2**22
"""Messages that are made ready at a time."""


class HebbianLearner:
    """A block at work in the compiled engine, from its first step on.

    answers: in mode ``reward`` of all samples that will come their classes, ``[samples]``, or with
        ``given`` their rewards, −127..127. seed, rounding: see :class:`onchip.connection.Synapses`.
    threads: of what is in front; None: one a processor.
    """

    def __init__(
        self,
        block: HebbianBlock,
        answers: NDArray[Any],
        *,
        given: bool = False,
        seed: int = 1,
        rounding: Rounding = "lava",
        threads: int | None = 1,
    ) -> None:
        self.block, self.given, self.seed, self.rounding = block, given, seed, rounding
        self.labels = np.array(answers, dtype=np.int64)
        self.samples = 0
        self.synapses = Synapses(
            block.plastic.values,
            block.compiled.rule,
            exponent=block.plastic.exponent,
            graded="overwrite" if block.graded else None,
            seed=seed,
            rounding=rounding,
        )
        self._front = Front(block.network, block.index, block.interval, threads)
        self._layer = layer_of(block, given)

    @property
    def step(self) -> int:
        """Steps taken."""
        return self.synapses.step

    @step.setter
    def step(self, step: int) -> None:
        self.synapses.step = step

    @property
    def learned(self) -> NDArray[np.int32]:
        """The mantissas ``[out, in]`` of the plastic layer as they are now."""
        return self.synapses.weight

    @property
    def network(self) -> Network:
        """The frozen network as it is now."""
        return self.block.freeze(self.learned)

    def learn(self, x: NDArray[Any], record: bool = False) -> list[tuple[Record, NDArray[Any]]]:
        """The next samples, payloads ``[T, n, *input_shape]``. record: of each step what
        :class:`Record` says and the neurons' spikes ``[steps, out]``; else nothing."""
        x = payloads(self.block.network, x)
        if self.samples + x.shape[1] > len(self.labels):
            raise LearningError(
                f"{self.samples + x.shape[1]} samples, {len(self.labels)} were announced"
            )
        found = []
        at_once = max(1, CHUNK_SIZE // (self.block.interval * self._front.size))
        for begin in range(0, x.shape[1], at_once):
            some = x[:, begin : begin + at_once]
            messages = self._front.messages(some)
            if self.samples == 0:
                messages = np.concatenate([self._front.lead(), messages])
            self.samples += some.shape[1]
            found += self._run(messages, record)
        return found

    def finish(self, record: bool = False) -> list[tuple[Record, NDArray[Any]]]:
        """The steps after the last sample, in which the last reward arrives."""
        missing = self.block.steps(len(self.labels)) - self.step
        if self.samples < len(self.labels):
            raise LearningError(f"{self.samples} of {len(self.labels)} samples have been learned")
        return self._run(self._front.silence(missing), record) if missing else []

    def state(self) -> dict[str, NDArray[Any]]:
        """All that changes, but for ``samples`` and the steps: arrays by name, not copied."""
        names = ("u", "v", "trace", "spikes", "r", "coming", "pending")
        layer = {f"layer.{name}": getattr(self._layer, name) for name in names}
        return {f"synapses.{k}": v for k, v in self.synapses.state().items()} | layer

    def _run(self, messages: NDArray[Any], record: bool) -> list[tuple[Record, NDArray[Any]]]:
        synapses = self.synapses
        seen = synapses.seen(len(messages) if record else 0, spikes=record)
        program, state, work = synapses.parts
        kernels.run(
            messages,
            np.zeros((0, 0), dtype=np.uint8),
            np.zeros((0, 0, 0), dtype=np.int16),
            self.labels,
            program,
            state,
            work,
            self._layer,
            synapses.draws(len(messages)),
            seen,
            synapses.step,
        )
        synapses.step += len(messages)
        return [(synapses.recorded(seen), seen.spikes)] if record else []


def layer_of(block: HebbianBlock, given: bool) -> kernels.Layer:
    network, index = block.network, block.index
    neuron, size = network.layers[index].neuron, int(np.prod(network.shapes[index]))
    assert isinstance(neuron, Neuron) and neuron.vth is not None  # the block has been checked
    readout = np.zeros((0, 0), dtype=np.int32)
    if block.mode == "reward" and index < len(network.layers) - 1:
        synapse = network.layers[-1].synapse
        assert isinstance(synapse, Dense)
        readout = np.array(synapse.weight, dtype=np.int32, order="C")
    classes = len(readout) or size
    keep, impulse = block.trace
    rewarded = 0 if block.mode == "stdp" else 2 if given else 1
    return kernels.Layer(
        u=np.zeros(size, dtype=np.int32),
        v=np.zeros(size, dtype=np.int32),
        trace=np.zeros(size, dtype=np.int16),
        bias=neuron.effective_bias(network.shapes[index]).reshape(-1).astype(np.int32),
        spikes=np.zeros(size, dtype=np.uint8),
        readout=readout,
        back=way_back(readout, size),
        r=np.zeros(classes, dtype=np.int64),
        coming=np.zeros(classes, dtype=np.int64),
        pending=np.zeros(5, dtype=np.int64),
        du=neuron.du,
        dv=neuron.dv,
        threshold=neuron.vth << STATE_SHIFT,
        keep=keep,
        jump=impulse,
        rewarded=rewarded,
        reward=REWARD,
        baseline=block.rule.baseline,
        time_steps=network.time_steps,
        interval=block.interval,
        arrival=network.arrivals[index],
        judged=block.judged,
    )


def way_back(readout: NDArray[np.int32], size: int) -> NDArray[np.int32]:
    """How the reward of a decision comes back to the neurons, ``[classes, out]``: to the neuron
    that stands for it, or to all that spoke for it, and reversed to those against it."""
    return np.sign(readout) if len(readout) else np.eye(size, dtype=np.int32)
