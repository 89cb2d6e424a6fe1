"""The specification: what the chip computes, one step after another, in plain integer numpy.

No cleverness here. Whoever doubts a spike reads this file beside Lava's models (lava-nc 0.10.0,
fixed point: LIF, LIFReset, Dense, DelayDense, Conv, Delta, SigmaDelta, Sigma, RF, RF_IZ), to which
it is equal, overflow included.
"""

from __future__ import annotations

from collections.abc import Iterable
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


@dataclass
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
    x = network.check_payloads(x)
    if not network.is_chain:
        return _run_graph(network, x, record)
    steps = len(x)
    lag = network.arrivals[-1]
    padding = np.zeros((lag, *x.shape[1:]), dtype=x.dtype)
    trace = stream(network, np.concatenate([x, padding]), steps + lag, record=record)

    def local(states: list[NDArray[Any]]) -> list[NDArray[Any]]:
        return [s[a : a + steps] for s, a in zip(states, network.arrivals, strict=False)]

    return Trace(local(trace.spikes), local(trace.u), local(trace.v))


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
    wanted = _wanted(record)
    if not network.is_chain:
        raise NetworkError("a network with branches has no hardware time yet: use reference.run")
    x = network.check_payloads(x)
    samples = x.shape[1]
    layers = [_State(layer, shape, samples) for layer, shape in _with_input_shapes(network)]
    history: dict[str, list[list[NDArray[Any]]]] = {s: [[] for _ in layers] for s in STATES}
    for t in range(1, len(x) + 1):
        message = x[t - 1].astype(np.int64)
        for index, (layer, arrival) in enumerate(zip(layers, network.arrivals, strict=True)):
            if reset_interval and (t - arrival - 1) % reset_interval == 0:
                layer.reset()
            message = layer.step(message)
            if "spikes" in wanted:
                history["spikes"][index].append(message.astype(layer.sends))
            if "u" in wanted:
                history["u"][index].append(layer.u.astype(np.int32))
            if "v" in wanted:
                history["v"][index].append(layer.v.astype(np.int32))
    stacked = {
        state: [np.stack(steps) for steps in rows] if state in wanted else []
        for state, rows in history.items()
    }
    return Trace(**stacked)


def _run_graph(network: Network, x: NDArray[Any], record: Iterable[str]) -> Trace:
    """Local time, step after step, layer after layer: the equations of a layer as they stand."""
    wanted, samples = _wanted(record), x.shape[1]
    rest = [np.zeros((samples, *shape), dtype=np.int64) for shape in network.shapes]
    u, v = list(rest), list(rest)
    history: dict[str, list[list[NDArray[Any]]]] = {s: [[] for _ in rest] for s in STATES}
    spikes = history["spikes"]  # [layer][step], steps from 0

    def sent(source: int, target: int, step: int) -> NDArray[np.int64]:
        """What a synapse of ``target`` hears of ``source``; nothing before the first step."""
        if source >= target:  # recurrent: of the step before
            step -= 1
        if source == INPUT:
            return (x[step] if step >= 0 else 0 * x[0]).astype(np.int64)
        return spikes[source][step].astype(np.int64) if step >= 0 else rest[source]

    for t in range(len(x)):
        inputs: list[NDArray[Any]] = []
        for index, (layer, shape) in enumerate(zip(network.layers, network.shapes, strict=True)):
            a = rest[index]
            for synapse, sources in network.synapses(index):
                for delay in range(1 + _longest_delay(synapse)):
                    message = np.sum([sent(s, index, t - delay) for s in sources], axis=0)
                    a = formats.wrap32(a + _transmit(synapse, message, delay))
            if layer.carry is not None:
                a = formats.wrap32(a + inputs[layer.carry])
            inputs.append(a)
            bias = layer.neuron.effective_bias(shape)
            assert isinstance(layer.neuron, Neuron)  # Network has checked it
            u[index], v[index], fired = step_neuron(layer.neuron, a, u[index], v[index], bias)
            spikes[index].append(fired.astype(np.uint8))
            for state, now in (("u", u[index]), ("v", v[index])):
                if state in wanted:
                    history[state][index].append(now.astype(np.int32))
    found: dict[str, Any] = {
        state: [
            np.array(steps, np.uint8 if state == "spikes" else np.int32).reshape(
                len(x), samples, *shape
            )
            for steps, shape in zip(rows, network.shapes, strict=True)
            if state in wanted
        ]
        for state, rows in history.items()
    }
    return Trace(**found)


def _wanted(record: Iterable[str]) -> set[str]:
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
        self.sends = np.int32 if layer.neuron.graded else np.uint8
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
