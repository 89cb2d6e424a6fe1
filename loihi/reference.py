"""The specification: what the chip computes, one step after another, in plain integer numpy.

No cleverness here. Whoever doubts a spike reads this file beside Lava's models (lava-nc 0.10.0,
fixed point: LIF, LIFReset, Dense, DelayDense, Conv, Delta, SigmaDelta, Sigma, RF, RF_IZ), to which
it is equal, overflow included.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loihi import formats
from loihi.network import (
    INPUT,
    ComplexDense,
    Conv,
    Dense,
    Inject,
    Layer,
    Network,
    NetworkError,
    Shape,
    Synapse,
)
from loihi.neurons import AnyNeuron, Delta, Neuron, Resonator, Sigma, SigmaDelta

STATES = ("spikes", "u", "v")


@dataclass(frozen=True)
class Trace:
    """What every layer did: for each of ``spikes``, ``u``, ``v`` that was asked for, one array a
    layer, ``[T, N, *shape]`` (spikes uint8, u and v int32; u and v after the step, reset done).

    Of sigma-delta layers spikes are the numbers that they send (int32), u is σ and v the activation
    x (:class:`loihi.neurons.SigmaDelta`; of a Delta both are x, of a Sigma both are σ). Of
    resonators u and v are the real and the imaginary part."""

    spikes: list[NDArray[Any]]
    u: list[NDArray[np.int32]]
    v: list[NDArray[np.int32]]


def run(network: Network, x: NDArray[Any], record: Iterable[str] = ("spikes",)) -> Trace:
    """Each sample on its own, from rest: ``x`` are payloads ``[T, N, *input_shape]``.

    A chain runs in hardware time, with each layer's reset at the step in which the sample's first
    input can reach it, and of every layer the T steps that belong to the sample are cut out. A
    graph runs in local time, as :class:`loihi.network.Layer` says it: there is nothing before a
    sample's first step, not even the spikes that a bias causes before a reset.
    """
    (trace,) = parts(network, [x], record)
    return trace


def parts(
    network: Network, x: Iterable[NDArray[Any]], record: Iterable[str] = ("spikes",)
) -> Iterator[Trace]:
    """:func:`run` of samples whose time comes in parts ``[t, N, *input_shape]``: of each part the
    trace, by which memory need not hold more than one."""
    kept = _Record(network, wanted_states(record), network.arrivals if network.is_chain else None)
    chip: _Chain | _Graph | None = None
    lengths: deque[int] = deque()
    for part in x:
        part = network.check_payloads(part)
        chip = chip or _at_rest(network, part.shape[1])
        lengths.append(len(part))
        for message in part:
            kept.add(chip.step(message.astype(np.int64)))
        while lengths and kept.has(lengths[0]):
            yield kept.take(lengths.popleft(), chip.samples)
    while lengths and chip is not None:  # the last layer of a chain is not as far yet
        while not kept.has(lengths[0]):
            kept.add(chip.step(np.zeros((chip.samples, *network.input_shape), dtype=np.int64)))
        yield kept.take(lengths.popleft(), chip.samples)


def _at_rest(network: Network, samples: int) -> _Chain | _Graph:
    if network.is_chain:
        return _Chain(network, samples, lambda since: since == 0)
    return _Graph(network, samples)


def stream(
    network: Network,
    x: NDArray[Any],
    reset_interval: int | None = None,
    record: Iterable[str] = ("spikes",),
) -> Trace:
    """Hardware time: step 1 of ``x`` ``[steps, N, *input_shape]`` is step 1 of the chip.

    Every synapse takes a step (plus its delay). With ``reset_interval`` each layer clears u and v,
    before its update, at the steps t (from 1) with ``t ≡ arrival + 1  (mod interval)``: the
    phased reset of netx, so that samples of that many steps follow each other without mixing.
    Without it, nothing is ever reset but v at a spike. A :class:`~loihi.network.NetworkError` where
    the network is no chain: graphs have local time only.
    """
    kept = _Record(network, wanted_states(record))
    if not network.is_chain:
        raise NetworkError("a network with branches has no hardware time yet: use reference.run")
    x = network.check_payloads(x)
    again = reset_interval or 0
    chip = _Chain(network, x.shape[1], lambda since: again > 0 and since % again == 0)
    for message in x:
        kept.add(chip.step(message.astype(np.int64)))
    return kept.take(len(x), x.shape[1])


_Step = list[tuple[NDArray[Any], NDArray[Any], NDArray[Any]]]
"""What each layer sends in a step, and its u and v after it."""


class _Record:
    """Steps of every layer, until they are taken. late: how many of a layer's first ones are not
    the sample's."""

    def __init__(
        self, network: Network, wanted: set[str], late: Sequence[int] | None = None
    ) -> None:
        self.shapes, self.wanted = network.shapes, wanted
        self.sends = [np.int32 if k.neuron.graded else np.uint8 for k in network.layers]
        self.there = [-n for n in late or [0] * len(network.layers)]
        self.rows: dict[str, list[list[NDArray[Any]]]] = {
            state: [[] for _ in network.layers] for state in STATES
        }

    def add(self, step: _Step) -> None:
        for index, states in enumerate(step):
            self.there[index] += 1
            if self.there[index] <= 0:
                continue
            for state, now in zip(STATES, states, strict=True):
                if state in self.wanted:
                    dtype = self.sends[index] if state == "spikes" else np.int32
                    self.rows[state][index].append(now.astype(dtype))

    def has(self, steps: int) -> bool:
        """Whether of every layer so many are there."""
        return min(self.there) >= steps

    def take(self, steps: int, samples: int) -> Trace:
        """So many steps of every layer, the first that are there."""
        found: dict[str, list[NDArray[Any]]] = {state: [] for state in STATES}
        for state in self.wanted:
            for index, (rows, shape) in enumerate(zip(self.rows[state], self.shapes, strict=True)):
                dtype = self.sends[index] if state == "spikes" else np.int32
                stacked = np.array(rows[:steps], dtype).reshape(steps, samples, *shape)
                found[state].append(stacked)
                del rows[:steps]
        self.there = [n - steps for n in self.there]
        return Trace(**found)


class _Chain:
    """A chain in hardware time. resets: whether a layer clears its state so many steps after the
    first input can have reached it."""

    def __init__(self, network: Network, samples: int, resets: Callable[[int], bool]) -> None:
        self.samples, self.resets, self.t = samples, resets, 0
        self.arrivals = network.arrivals
        self.layers = [
            _State(layer, shape, samples) for layer, shape in _with_input_shapes(network)
        ]

    def step(self, message: NDArray[np.int64]) -> _Step:
        """One step of the chip, from 1."""
        self.t += 1
        done: _Step = []
        for layer, arrival in zip(self.layers, self.arrivals, strict=True):
            if self.resets(self.t - arrival - 1):
                layer.reset()
            message = layer.step(message)
            done.append((message, layer.u, layer.v))
        return done


class _Graph:
    """A graph in local time, layer after layer: the equations of a layer as they stand."""

    def __init__(self, network: Network, samples: int) -> None:
        self.network, self.samples = network, samples
        self.rest = [np.zeros((samples, *shape), dtype=np.int64) for shape in network.shapes]
        self.u, self.v = list(self.rest), list(self.rest)
        indices = range(len(network.layers))
        longest = max(_longest_delay(s) for index in indices for s, _ in network.synapses(index))
        # What each source has sent, the last step's at the end: as far back as delays reach.
        self.sent: dict[int, deque[NDArray[np.int64]]] = {
            source: deque(maxlen=1 + longest) for source in (INPUT, *indices)
        }

    def step(self, message: NDArray[np.int64]) -> _Step:
        """One step of all layers, each after those before it."""
        network, u, v = self.network, self.u, self.v
        self.sent[INPUT].append(message)
        inputs: list[NDArray[Any]] = []
        done: _Step = []
        for index, (layer, shape) in enumerate(zip(network.layers, network.shapes, strict=True)):
            a = self.rest[index]
            for synapse, sources in network.synapses(index):
                for delay in range(1 + _longest_delay(synapse)):
                    # An earlier layer has sent in this step, a recurrent synapse hears the one
                    # before: the last that there is, either way. Before the first there is nothing.
                    heard = [self.sent[s][-1 - delay] for s in sources if len(self.sent[s]) > delay]
                    if heard:
                        total = np.sum(heard, axis=0)
                        a = formats.wrap32(a + _transmit(synapse, total, delay))
            if layer.carry is not None:
                a = formats.wrap32(a + inputs[layer.carry])
            inputs.append(a)
            bias = layer.neuron.effective_bias(shape)
            assert isinstance(layer.neuron, Neuron)  # Network has checked it
            u[index], v[index], fired = step_neuron(layer.neuron, a, u[index], v[index], bias)
            self.sent[index].append(fired.astype(np.int64))
            done.append((self.sent[index][-1], u[index], v[index]))
        return done


def wanted_states(record: Iterable[str]) -> set[str]:
    """Some of :data:`STATES`, or a :class:`ValueError`."""
    wanted = set(record)
    if unknown := wanted - set(STATES):
        raise ValueError(f"cannot record {sorted(unknown)}: choose from {STATES}")
    return wanted


def _longest_delay(synapse: Synapse) -> int:
    if isinstance(synapse, Dense) and synapse.delay is not None:
        return int(synapse.delay.max())
    return 0


def _transmit(synapse: Synapse, message: NDArray[np.int64], delay: int) -> NDArray[np.int64]:
    """What ``message`` adds to the neurons' input through the synapses of this delay.

    ``[N, *shape]``; through complex ones ``[2, N, out]``, the real and the imaginary part.
    """
    if isinstance(synapse, Inject):
        return message
    if isinstance(synapse, ComplexDense):
        parts = (Dense(synapse.real), Dense(synapse.imag))
        return np.stack([_transmit(part, message, delay) for part in parts])
    if isinstance(synapse, Conv):
        return formats.wrap24(convolve(synapse, message))
    weight = synapse.weight.astype(np.int64)
    if synapse.delay is not None:
        weight = np.where(synapse.delay == delay, weight, 0)
    total = message.reshape(len(message), -1) @ weight.T
    if total.size and np.abs(total).max() >= 2**23:
        # Lava adds up mantissas in 32 bits, and then applies the exponent.
        shift = -formats.weight_format(synapse.weight).exponent
        total = formats.wrap32(total << shift) >> shift
    return total


def scores(network: Network, trace: Trace) -> NDArray[np.int64]:
    """What the readout says of each sample, ``[N, classes]``; needs the state that it reads."""
    if network.readout == "spikes":
        counts = trace.spikes[-1].sum(axis=0, dtype=np.int64)
        return counts.reshape(len(counts), network.classes)
    last = trace.v[-1][-1].astype(np.int64)
    return last.reshape(len(last), network.classes)


def predict(network: Network, x: NDArray[Any]) -> NDArray[np.int64]:
    """The scores ``[N, classes]`` of payloads ``[T, N, *input_shape]``."""
    state = "v" if network.readout == "membrane" else "spikes"
    return scores(network, run(network, x, record=(state,)))


def step_neuron(
    neuron: Neuron, a: NDArray[Any], u: NDArray[Any], v: NDArray[Any], bias: NDArray[Any]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """One step of Lava's fixed-point LIF: (u, v, spikes) from input ``a`` and the state before.

    ``bias`` is the effective one, exponent applied. Where Lava stores int32, 32 bits remain.
    """
    current = formats.decay(u, neuron.du) + formats.wrap32(a << formats.STATE_SHIFT)
    u = formats.wrap_current(formats.wrap32(current))
    voltage = formats.wrap32(formats.decay(v, neuron.dv) + u + bias)
    v = formats.clip_voltage(voltage)
    if neuron.vth is None:
        return u, v, np.zeros(v.shape, dtype=np.bool_)
    threshold = neuron.vth << formats.STATE_SHIFT
    spikes = v > threshold
    return u, np.where(spikes, v - threshold if neuron.reset == "soft" else 0, v), spikes


def step_delta(
    neuron: Delta | SigmaDelta, x: NDArray[Any], before: NDArray[Any], residue: NDArray[Any]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """What is sent of the activation ``x``, given the one ``before``; and the residue after."""
    delta = formats.wrap32(x - before + residue)
    sent = np.where(np.abs(delta) >= neuron.threshold, delta, 0)
    return sent >> neuron.state_exp, delta - sent


def step_resonator(
    neuron: Resonator, a: NDArray[Any], real: NDArray[Any], imag: NDArray[Any]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """One step of Lava's fixed-point RF or RF_IZ: (real, imag, spikes); ``a`` is ``[2, …]``."""

    def part(factor: int, x: NDArray[Any]) -> NDArray[np.int64]:
        product = factor * x
        return np.sign(product) * (np.abs(product) >> 12)

    new_real = part(neuron.cos, real) - part(neuron.sin, imag) + (a[0] << formats.STATE_SHIFT)
    new_imag = part(neuron.sin, real) + part(neuron.cos, imag) + (a[1] << formats.STATE_SHIFT)
    new_real, new_imag = formats.clip_voltage(new_real), formats.clip_voltage(new_imag)
    threshold = neuron.vth << formats.STATE_SHIFT
    if neuron.spikes == "phase":
        return new_real, new_imag, (new_real >= threshold) & (new_imag >= 0) & (imag < 0)
    spikes = new_imag >= threshold
    return np.where(spikes, 0, new_real), np.where(spikes, threshold - 1, new_imag), spikes


class _State:
    """A layer at work: the messages under way in its synapse, and the state of its neurons."""

    def __init__(self, layer: Layer, input_shape: Shape, samples: int) -> None:
        self.synapse, self.neuron = layer.synapse, layer.neuron
        shape = layer.synapse.output_shape(input_shape)
        self.bias = layer.neuron.effective_bias(shape)
        self.u = np.zeros((samples, *shape), dtype=np.int64)
        self.v = np.zeros((samples, *shape), dtype=np.int64)
        self.residue = np.zeros((samples, *shape), dtype=np.int64)  # of sigma-delta neurons
        # What arrives 1, 2, … steps from now; a synapse without latency has nothing under way.
        parts = (2,) if isinstance(layer.synapse, ComplexDense) else ()
        self.silence = np.zeros((*parts, samples, *shape), dtype=np.int64)
        self.arriving = [self.silence.copy() for _ in range(1 + _longest_delay(self.synapse))]

    def reset(self) -> None:
        if self.neuron.resets:
            self.u[:] = 0
            self.v[:] = 0

    def step(self, message: NDArray[np.int64]) -> NDArray[np.int64]:
        if isinstance(self.synapse, Inject):
            return self._neurons(self.neuron, message)
        a = self.arriving.pop(0)
        self.arriving.append(self.silence.copy())
        for delay, later in enumerate(self.arriving):
            later += _transmit(self.synapse, message, delay)
        return self._neurons(self.neuron, a)

    def _neurons(self, neuron: AnyNeuron, a: NDArray[np.int64]) -> NDArray[np.int64]:
        if isinstance(neuron, Neuron):
            self.u, self.v, spikes = step_neuron(neuron, a, self.u, self.v, self.bias)
            return spikes.astype(np.int64)
        if isinstance(neuron, Resonator):
            self.u, self.v, spikes = step_resonator(neuron, a, self.u, self.v)
            return spikes.astype(np.int64)
        if isinstance(neuron, Delta):
            x = formats.wrap32(a << (neuron.spike_exp + neuron.state_exp))
            sent, self.residue = step_delta(neuron, x, self.v, self.residue)
            self.u = self.v = x
            return sent
        self.u = formats.wrap32(self.u + a)
        if isinstance(neuron, Sigma):
            self.v = self.u
            return self.u
        x = formats.wrap32(self.u + self.bias)
        x = np.maximum(x, 0) if neuron.activation == "relu" else x
        sent, self.residue = step_delta(neuron, x, self.v, self.residue)
        self.v = x
        return sent


def convolve(synapse: Conv, x: NDArray[np.int64]) -> NDArray[np.int64]:
    """Integer convolution of ``[N, C, H, W]``, written out: ``[N, out, H', W']``."""
    out, height, width = synapse.output_shape(x.shape[1:])
    (sy, sx), (py, px), (dy, dx) = synapse.strides, synapse.paddings, synapse.dilations
    padded = np.pad(x, ((0, 0), (0, 0), (py, py), (px, px)))
    weight = synapse.weight.astype(np.int64)
    _, per_group, kernel_h, kernel_w = weight.shape
    out_per_group = out // synapse.groups
    result = np.zeros((len(x), out, height, width), dtype=np.int64)
    for group in range(synapse.groups):
        rows = slice(group * out_per_group, (group + 1) * out_per_group)
        channels = slice(group * per_group, (group + 1) * per_group)
        for i in range(kernel_h):
            for j in range(kernel_w):
                seen = padded[
                    :,
                    channels,
                    i * dy : i * dy + sy * (height - 1) + 1 : sy,
                    j * dx : j * dx + sx * (width - 1) + 1 : sx,
                ]
                result[:, rows] += np.einsum("oc,nchw->nohw", weight[rows, :, i, j], seen)
    return result


def _with_input_shapes(network: Network) -> Iterable[tuple[Layer, Shape]]:
    return zip(network.layers, (network.input_shape, *network.shapes[:-1]), strict=True)
