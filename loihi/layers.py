"""A layer made ready for the fast engine: its synapses laid out, its neurons' loop chosen."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loihi import formats, kernels
from loihi.network import Inject, Network
from loihi.neurons import AnyNeuron, Delta, Neuron, Resonator, Sigma
from loihi.synapses import Connection, Messages

States = tuple[NDArray[np.int32], ...]
"""Of a layer's neurons, ``[n, units]`` each: u, v, and the residue of sigma-delta ones."""


class FastLayer:
    """A layer's numbers, as the kernels want them.

    units: its neurons. width: the numbers of their input, two a neuron where it is complex.
    sends: the dtype of what it sends. shift: the input is ``a << shift``, a what synapses add to.
    """

    def __init__(self, network: Network, index: int, before: Sequence[FastLayer]) -> None:
        layer = network.layers[index]
        self.index, self.carry = index, layer.carry
        self.neuron, self.shape = layer.neuron, network.shapes[index]
        self.units = int(np.prod(self.shape))
        self.sends: type[np.generic] = np.int32 if self.neuron.graded else np.uint8
        self.connections = [
            Connection(network, index, number) for number in range(len(network.synapses(index)))
        ]
        self.width = self.connections[0].width
        self.hears_itself = any(index in connection.sources for connection in self.connections)
        self._carried = None if self.carry is None else before[self.carry]
        # Common factors of two move from the weights into the shift, so that even 8-bit weights
        # fit int8.
        self.shift = min(connection.factor for connection in self.connections)
        self.largest = sum(connection.largest for connection in self.connections)
        if self._carried is not None:
            self.shift = min(self.shift, self._carried.shift)
            self.largest += self._carried.largest
        injected = isinstance(layer.synapse, Inject)
        narrow = self.largest >> self.shift < 2**15 and not injected
        self._sums: type[np.signedinteger[Any]] = np.int16 if narrow else np.int32
        for connection in self.connections:
            connection.lay_out(self.shift, self._sums)
        bias = self.neuron.effective_bias(self.shape)
        if len(self.shape) == 3:
            bias = np.moveaxis(bias, 0, -1)
        self._scan, self._constants = _neurons(self.neuron, self.shift, bias)

    def channels_first(self, array: NDArray[Any]) -> NDArray[Any]:
        """``[..., units]`` as the kernels have them → ``[..., *shape]`` as everybody else has."""
        if len(self.shape) == 1:
            return array
        channels, height, width = self.shape
        return np.moveaxis(array.reshape(*array.shape[:-1], height, width, channels), -1, -3)

    def states(self, samples: int) -> States:
        """The neurons at rest."""
        count = 2 if isinstance(self.neuron, Neuron | Resonator) else 3
        return tuple(np.zeros((samples, self.units), dtype=np.int32) for _ in range(count))

    def currents(
        self,
        connections: Sequence[Connection],
        sent: Mapping[int, Messages],
        samples: int,
        steps: int,
        carried: NDArray[Any] | None,
        constant: dict[int, NDArray[Any]],
    ) -> NDArray[Any]:
        """What connections and the input of the layer ``carry`` add up to: ``[n, T, width]``, or
        ``[n, 1, width]`` where it is the same at every step.

        constant: what has been found to be so, a layer; kept there for the next slice.
        """
        moving = [connection for connection in connections if not connection.is_static(sent)]
        once = None
        if len(moving) < len(connections):
            once = constant.get(self.index)
            if once is None:
                once = constant[self.index] = np.zeros((samples, 1, self.width), dtype=self._sums)
                for connection in connections:
                    if connection not in moving:
                        connection.add(sent, once, 0, 1)
            if not moving and carried is None:
                return once
        if not moving and (carried is None or carried.shape[1] == 1):
            steps = 1
        a = np.zeros((samples, steps, self.width), dtype=self._sums)
        for connection in moving:
            connection.add(sent, a, 0, steps)
        if once is not None:
            a += once
        if carried is not None:
            self.add_carried(carried, a)
        return a

    def add_carried(self, carried: NDArray[Any], a: NDArray[Any]) -> None:
        """Another layer's input, in its own units, into this one's."""
        assert self._carried is not None
        a += carried.astype(a.dtype) << (self._carried.shift - self.shift)

    def scan(
        self,
        a: NDArray[Any],
        at: int,
        steps: int,
        sent: Messages,
        states: States,
        all_u: NDArray[np.int32] | None = None,
        all_v: NDArray[np.int32] | None = None,
        peak: NDArray[np.int32] | None = None,
    ) -> int:
        """``steps`` steps from ``at`` on: what is sent and the states go on from where they are.

        all_u, all_v: ``[n, T, units]``, for the states after each step, empty where not wanted.
        peak: for the largest |u| and |v| of integrate-and-fire neurons. All three or none.
        Returns how many of the messages are not 0.
        """
        first = sent.memory + at
        return self._scan(
            a, at, steps, sent.values, first, all_u, all_v, peak, *self._constants, *states
        )


def _neurons(
    neuron: AnyNeuron, shift: int, bias: NDArray[np.int64]
) -> tuple[Callable[..., int], tuple[Any, ...]]:
    """The loop of a kind of neurons, and its constants."""
    # Where a bias has more than 32 bits, Lava's sum has not.
    biases = np.ascontiguousarray(bias).astype(np.int32).reshape(-1)
    if isinstance(neuron, Neuron):
        # A clipped v stops at 2^23 − 1: no spike can pass this threshold.
        vth = formats.STATE_MAX if neuron.vth is None else neuron.vth << formats.STATE_SHIFT
        soft = neuron.reset == "soft"
        shift += formats.STATE_SHIFT
        return kernels.leaky, (shift, neuron.du, neuron.dv, vth, soft, biases)
    if isinstance(neuron, Resonator):
        vth = neuron.vth << formats.STATE_SHIFT
        phase = neuron.spikes == "phase"
        return kernels.resonator, (shift, neuron.sin, neuron.cos, vth, phase)
    if isinstance(neuron, Sigma):
        numbers = True, False, kernels.SENDS_ALL, 0
    elif isinstance(neuron, Delta):
        shift += neuron.spike_exp + neuron.state_exp
        numbers = False, False, neuron.threshold, neuron.state_exp
    else:
        numbers = True, neuron.activation == "relu", neuron.threshold, neuron.state_exp
    return kernels.sigma_delta, (shift, *numbers, biases)
