"""A network set up to learn by its own spikes: which layer, under which rule, read out how."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loihi import INTEGRATOR, Dense, Network, Neuron
from onchip.hebbian.rule import MODES, Hebbian, Mode
from onchip.plan import Mantissas
from onchip.rules import Compiled
from onchip.spec import LOOP, LearningError


@dataclass(frozen=True)
class HebbianBlock:
    """A network set up to learn; build it with :func:`build`.

    index: the plastic layer. plastic: its weights at the start. compiled: the rule.
    """

    network: Network
    rule: Hebbian
    mode: Mode
    index: int
    plastic: Mantissas
    compiled: Compiled

    @property
    def interval(self) -> int:
        """Steps from a sample to the next."""
        return self.network.time_steps + self.rule.gap

    @property
    def judged(self) -> int:
        """The step before the first in which a sample can be seen where it is decided."""
        return self.network.arrivals[-1 if self.mode == "reward" else self.index]

    @property
    def graded(self) -> bool:
        """Whether payloads, not spikes, come into the plastic layer."""
        return self.index == 0 and not self.network.encoding.binary

    def steps(self, samples: int) -> int:
        """Steps until the last of ``samples`` has been learned: whole epochs."""
        steps = samples * self.interval + self.judged + LOOP
        return steps + -steps % self.rule.epoch

    def freeze(self, learned: NDArray[Any]) -> Network:
        """The network with the learned mantissas of its plastic layer: exactly these numbers."""
        layer = self.network.layers[self.index]
        assert isinstance(layer.synapse, Dense)
        weight = replace(self.plastic, values=learned.astype(np.int32)).weight
        synapse = replace(layer.synapse, weight=weight)
        return self.network.with_layer(self.index, replace(layer, synapse=synapse))

    @cached_property
    def trace(self) -> tuple[int, int]:
        """Of the neurons' own trace, which they send as y1 if they are rewarded: what stays of 4096
        in a step, and its impulse."""
        trace = self.compiled.kept.get("y1")
        if trace is None:
            return 0, 0
        return round(4096 * float(np.exp(-1 / trace.tau))), int(trace.impulse)


def build(
    network: Network, mode: Mode, rule: Hebbian | None = None, *, layer: int | None = None
) -> HebbianBlock:
    """The block for ``network``. layer: which learns; None: the last that spikes."""
    if mode not in MODES:
        raise LearningError(f"mode {mode!r} is unknown: use {' or '.join(MODES)}")
    rule = rule or Hebbian.default(mode)
    last = len(network.layers) - 1
    if not network.is_chain or network.has_delays:
        raise LearningError(
            "a network with branches, recurrence or delays cannot learn on the chip"
        )
    if layer is None:
        index = last if network.layers[last].neuron != INTEGRATOR else last - 1
    elif -last - 1 <= layer <= last:
        index = layer % (last + 1)
    else:
        raise LearningError(f"layer {layer}: the network has {last + 1}")
    if index < 0:
        raise LearningError(
            f"layer {network.names[last]}: what learns by its spikes needs a threshold"
        )
    for name, of in zip(network.names[: index + 1], network.layers, strict=False):
        if not isinstance(of.neuron, Neuron) or of.neuron.reset != "hard":
            raise LearningError(f"layer {name}: learning needs Lava's LIF neurons (hard reset)")
    synapse, name = network.layers[index].synapse, network.names[index]
    if not isinstance(synapse, Dense):
        raise LearningError(f"layer {name}: learning on the chip needs a dense layer here")
    if not network.layers[index].neuron.vth:
        raise LearningError(f"layer {name}: what learns by its spikes needs a threshold above 0")
    if index == 0 and network.encoding.payload[0] < 0:
        raise LearningError(
            f"payloads {network.encoding.payload[0]}..{network.encoding.payload[1]} go straight "
            "into a learning layer: they must not be negative (Lava's traces would wrap)"
        )
    if index == 0 and network.encoding.payload[1] > 255:
        raise LearningError("payloads above 255 go straight into a learning layer: Lava wraps them")
    if mode == "reward":
        _check_readout(network, index)
    return HebbianBlock(
        network, rule, mode, index, Mantissas.of(synapse.weight, name), rule.compile(mode)
    )


def _check_readout(network: Network, index: int) -> None:
    last = len(network.layers) - 1
    if index == last and network.readout == "spikes":
        return
    behind = network.layers[last]
    if index != last - 1 or not isinstance(behind.synapse, Dense) or behind.neuron != INTEGRATOR:
        raise LearningError(
            f"layer {network.names[index]}: to be rewarded it must be the last, read by its spikes "
            "(readout 'spikes'), or the one before a dense readout that adds up its input and "
            "never spikes (loihi.INTEGRATOR)"
        )


def payloads(network: Network, x: NDArray[Any]) -> NDArray[Any]:
    """Payloads ``[T, n, …]``, with the network's T."""
    x = network.check_payloads(x)
    if len(x) != network.time_steps:
        raise LearningError(
            f"samples of {len(x)} steps, the network's encoding has {network.time_steps}"
        )
    return x
