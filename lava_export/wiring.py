"""Any network as Lava processes, branches, additions and loops included, without netx.

:func:`build` is for scripts of your own, that have Lava at hand::

    from loihi import lava_compat
    lava_compat.install()  # before anything of Lava's: makes it importable past its own pins

    from lava.magma.core.run_conditions import RunSteps
    from lava.magma.core.run_configs import Loihi2SimCfg
    from lava_export import netx, wiring

    wired = wiring.build(netx.read("model.net"))
    wired.feed(source.s_out)  # a process of yours, that sends a payload in each step
    wired.layers[-1].neuron.s_out.connect(sink.a_in)
    source.run(condition=RunSteps(num_steps=100), run_cfg=Loihi2SimCfg(select_tag="fixed_pt"))

Synapses and neurons are Lava's own; ours are neurons with a soft reset, for which Lava has none
(:mod:`lava_export.processes.soft_lif`), and what makes spikes wait
(:mod:`lava_export.processes.hold`).

What comes when: :mod:`loihi.schedule`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lava_export.netx import CONV_MAX, NEVER
from loihi import (
    ComplexDense,
    Conv,
    Delta,
    Dense,
    Inject,
    Network,
    Neuron,
    Resonator,
    Sigma,
    Synapse,
    formats,
)
from loihi.network import INPUT, Shape
from loihi.neurons import AnyNeuron
from loihi.schedule import arrivals, delays, heard


@dataclass(frozen=True)
class WiredLayer:
    """The Lava processes of one layer. Images are in Lava's order, ``(W, H, C)``.

    neuron: LIFReset, SoftLIF, Delta, SigmaDelta, Sigma, RF or RF_IZ; ``neuron.s_out`` sends, and
        ``neuron.u``, ``neuron.v`` (``sigma``, ``act``, ``real``, ``imag``) are its states.
    synapses: Dense, DelayDense or Conv, in the order of :meth:`loihi.network.Network.synapses`, of
        a complex one the real and the imaginary part; an input layer's has none. Where a layer's
        input is carried on, they feed the neurons of those that carry it as well.
    """

    neuron: Any
    synapses: tuple[Any, ...]


@dataclass(frozen=True)
class Wired:
    """A network's Lava processes.

    layers: as the network's.
    holds: processes between them, in which spikes wait for those of a longer way, and a carried
        input for the layer that carries it.
    arrivals: the sample's first step reaches layer l in step ``arrivals[l] + 1``.
    interval: steps from the start of one sample to the start of the next.
    inputs: the ports that hear the network's input; see :meth:`feed`.
    """

    layers: tuple[WiredLayer, ...]
    holds: tuple[Any, ...]
    arrivals: tuple[int, ...]
    interval: int
    inputs: tuple[Any, ...]

    def feed(self, port: Any) -> None:
        """Connect the network's input to an OutPort of your own.

        port: of the shape of the network's input, an image in Lava's order ``(W, H, C)``. In each
            step it has to send a payload: the T of a sample, then zeros up to ``interval``.
        """
        for target in self.inputs:
            _connect(port, target)


def build(network: Network) -> Wired:
    """``network`` as Lava processes, connected with each other; where Lava is imported.

    Samples can follow each other, one each ``interval`` steps, unless :func:`apart`: then each
    needs processes of its own.

    Raises :class:`loihi.schedule.ScheduleError`, with the layers, for a loop that is not in time.
    """
    wiring = _Wiring(network)
    return Wired(
        wiring.layers(),
        tuple(wiring.holds.values()),
        wiring.arrivals,
        interval(network),
        tuple(wiring.inputs),
    )


# --- when things arrive -------------------------------------------------------------------------


def apart(network: Network) -> bool:
    """Whether samples that follow each other would mix, so that each needs a run of its own.

    Nothing clears the spikes under way in a chain's delays, nor the state of neurons that know no
    reset. (In a graph, whose time begins with the sample, holds keep out what is not of it.)
    """
    return not network.resets or (network.is_chain and network.has_delays)


def interval(network: Network) -> int:
    """Steps from a sample to the next, and between two resets: T, and in a graph a pause as long as
    its longest delay. In a chain with delays, whose samples are :func:`apart`, at least so many
    that no layer is reset before the sample reaches it: what it sent till then is still to come.
    """
    steps = network.time_steps
    if network.is_chain:
        return max(steps, 1 + max(arrivals(network))) if network.has_delays else steps
    longest = 0
    for index in range(len(network.layers)):
        for _, synapse, _ in heard(network, index):
            longest = max(longest, *delays(synapse))
    return steps + longest


def processes(network: Network) -> int:
    """How many neuron and synapse processes Lava runs for it; holds not counted."""
    return sum(1 + len(list(network.synapses(index))) for index in range(len(network.layers)))


# --- processes ----------------------------------------------------------------------------------


class _Wiring:
    """Processes of a network while they are being connected."""

    def __init__(self, network: Network) -> None:
        self.network, self.arrivals, self.interval = network, arrivals(network), interval(network)
        self.inputs: list[Any] = []
        self.holds: dict[tuple[Any, ...], Any] = {}
        self.neurons = [
            _neuron(layer.neuron, shape, self.interval, arrival + 1)
            for layer, shape, arrival in zip(
                network.layers, network.shapes, self.arrivals, strict=True
            )
        ]
        # Of each layer the ports that its synaptic input goes to: complex ones have two of these.
        self.onto: list[list[tuple[Any, ...]]] = [
            [(n.a_real_in, n.a_imag_in) if isinstance(layer.neuron, Resonator) else (n.a_in,)]
            for n, layer in zip(self.neurons, network.layers, strict=True)
        ]

    def layers(self) -> tuple[WiredLayer, ...]:
        """Connect everything."""
        for index, layer in reversed(list(enumerate(self.network.layers))):
            if layer.carry is not None:  # all that carry this one's input on are later layers
                self._carry(layer.carry, index)
        synapses: list[list[Any]] = [[] for _ in self.neurons]
        for index in range(len(self.neurons)):
            for synapse, sources in self.network.synapses(index):
                synapses[index] += self._synapse(index, synapse, sources)
        for index in self._silent():
            synapses[index].append(self._silence(index))
        return tuple(
            WiredLayer(neuron, tuple(its))
            for neuron, its in zip(self.neurons, synapses, strict=True)
        )

    def _carry(self, carried: int, index: int) -> None:
        """An earlier layer's input goes where that of ``index`` goes, when that layer is as far."""
        from lava_export.processes.hold import Hold

        wait = self.arrivals[index] - self.arrivals[carried]
        hold = Hold(shape=self.network.shapes[index][::-1], steps=wait)
        for (port,) in self.onto[index]:
            hold.s_out.connect(port)
        self.onto[carried].append((hold.s_in,))
        self.holds["carry", index] = hold

    def _synapse(self, index: int, synapse: Synapse, sources: tuple[int, ...]) -> list[Any]:
        """The processes of a synapse between its sources and a layer's neurons."""
        network, starts = self.network, {INPUT: 0, **dict(enumerate(self.arrivals))}
        waits = {
            source: self.arrivals[index] - starts[source] + (source >= index) - synapse.latency
            for source in sources
        }
        longest = delays(synapse)[1]
        if (early := min(waits.values())) < 0:  # its delays are long enough: see arrivals()
            assert isinstance(synapse, Dense) and synapse.delay is not None
            synapse = replace(synapse, delay=synapse.delay + early)
        message = network.payload_of(sources)
        processes = _synapses(synapse, network.shape_of(sources[0]), message)
        if isinstance(synapse, Inject):
            into = [port for (port,) in self.onto[index]]
        else:
            into = [process.s_in for process in processes]
            for ports in self.onto[index]:
                for process, port in zip(processes, ports, strict=True):
                    process.a_out.connect(port)
        for source in sources:
            late = source >= index
            # What comes late or by delay would reach the next sample; and, before the first has
            # begun, a bias makes spikes that belong to none. A chain is in the chip's own time.
            keep_out = not network.is_chain and source != INPUT and (late or longest > 0)
            length = network.time_steps - late if keep_out else None
            for port in into:
                self._hear(source, waits[source] - min(early, 0), length, port)
        return processes

    def _hear(self, source: int, wait: int, length: int | None, port: Any) -> None:
        """Connect a source, after so many steps, its first ``length`` of a sample or all, with a
        port."""
        if not wait and length is None:
            if source == INPUT:
                self.inputs.append(port)
            else:
                _connect(self.neurons[source].s_out, port)
            return
        key = (source, wait, length)
        if key not in self.holds:
            from lava_export.processes.hold import Hold

            shape = self.network.shape_of(source)[::-1]
            window = None if length is None else (self.arrivals[source] + 1, length, self.interval)
            self.holds[key] = Hold(shape=shape, steps=wait, window=window)
            self._hear(source, 0, None, self.holds[key].s_in)
        _connect(self.holds[key].s_out, port)

    def _silent(self) -> list[int]:
        """One layer of each part of the network that is not connected with the input.

        Lava finds processes by following connections, and runs those that it finds.
        """
        parts = {node: {node} for node in range(INPUT, len(self.neurons))}
        for index in range(len(self.neurons)):
            for _, _, sources in heard(self.network, index):
                for source in sources:
                    joined = parts[index] | parts[source]
                    parts.update(dict.fromkeys(joined, joined))
        return sorted({min(part) for part in parts.values() if INPUT not in part})

    def _silence(self, index: int) -> Any:
        """A synapse of zeros from the input, heard by the neurons of a layer."""
        network = self.network
        shapes = network.shapes[index], network.input_shape
        zeros = np.zeros([int(np.prod(shape)) for shape in shapes], dtype=np.int32)
        process = _dense(Dense(zeros), 0)
        process.a_out.reshape(network.shapes[index][::-1]).connect(self.neurons[index].a_in)
        self.inputs.append(process.s_in)
        return process


def _connect(out: Any, into: Any) -> None:
    """Connect two ports; an image to a dense synapse in the order C, H, W."""
    if len(out.shape) > len(into.shape):
        out = out.transpose([2, 1, 0]).flatten()
    out.connect(into)


def _synapses(synapse: Synapse, shape: Shape, payload: tuple[int, int]) -> list[Any]:
    """Lava's processes for a synapse that hears messages of ``shape`` and payload."""
    # To Lava any number of bits above 0 means that messages have payloads.
    bits = 0 if payload in ((0, 0), (0, 1)) else formats.WEIGHT_BITS
    if isinstance(synapse, Inject):
        return []
    if isinstance(synapse, Conv):
        return [_conv(synapse, shape, bits)]
    if isinstance(synapse, ComplexDense):
        return [_dense(Dense(weight), bits) for weight in (synapse.real, synapse.imag)]
    return [_dense(synapse, bits)]


def _dense(synapse: Dense, bits: int) -> Any:
    """With mantissas, exponent and bits as they are stored; netx would work them out otherwise."""
    from lava.proc.dense import process

    form = formats.weight_format(synapse.weight)
    options = {
        "weights": synapse.weight << -form.exponent,
        "weight_exp": form.exponent,
        "num_weight_bits": form.bits,
        "num_message_bits": bits,
    }
    if synapse.delay is None:
        return process.Dense(**options)
    return process.DelayDense(**options, delays=synapse.delay.astype(int))


def _conv(synapse: Conv, shape: Shape, bits: int) -> Any:
    """Lava convolves where torch and we correlate: the kernel is turned round, in (W, H)."""
    from lava.proc.conv.process import Conv as Process

    from lava_export.processes.wide_conv import WideConv

    window = (*synapse.weight.shape[2:], *synapse.strides, *synapse.paddings, *synapse.dilations)
    kind = WideConv if max(*window, synapse.groups) > CONV_MAX else Process
    return kind(
        weight=synapse.weight[:, :, ::-1, ::-1].transpose(0, 3, 2, 1),
        input_shape=shape[::-1],
        stride=synapse.strides[::-1],
        padding=synapse.paddings[::-1],
        dilation=synapse.dilations[::-1],
        groups=synapse.groups,
        num_message_bits=bits,
    )


def _neuron(neuron: AnyNeuron, shape: Shape, interval: int, offset: int) -> Any:
    """Neurons that are cleared in the steps ``offset``, ``offset + interval``, …"""
    if isinstance(neuron, Neuron):
        return _lif(neuron, shape, interval, offset)
    if isinstance(neuron, Resonator):
        return _resonator(neuron, shape)
    from lava.proc.sdn import process

    if isinstance(neuron, Sigma):
        return process.Sigma(shape=shape[::-1])
    exponents = {"spike_exp": neuron.spike_exp, "state_exp": neuron.state_exp}
    if isinstance(neuron, Delta):
        return process.Delta(shape=shape[::-1], vth=neuron.vth, **exponents)
    return process.SigmaDelta(
        shape=shape[::-1],
        vth=neuron.vth,
        bias=_turned(neuron.bias, shape),
        act_mode=process.ActivationMode[neuron.activation.upper()],
        **exponents,
    )


def _lif(neuron: Neuron, shape: Shape, interval: int, offset: int) -> Any:
    from lava.proc.lif.process import LIFReset

    from lava_export.processes.soft_lif import SoftLIF

    kind = SoftLIF if neuron.reset == "soft" else LIFReset
    return kind(
        shape=shape[::-1],
        du=neuron.du - 1,  # the chip adds 1
        dv=neuron.dv,
        vth=NEVER if neuron.vth is None else neuron.vth,
        bias_mant=_turned(neuron.bias, shape),
        bias_exp=neuron.bias_exp,
        reset_interval=interval,
        reset_offset=offset,
    )


def _resonator(neuron: Resonator, shape: Shape) -> Any:
    """Lava's constructors take a period and a decay, and round; here are the numbers themselves."""
    from lava.proc.rf.process import RF
    from lava.proc.rf_iz.process import RF_IZ

    kind = RF if neuron.spikes == "phase" else RF_IZ
    process = kind(
        shape=shape[::-1], period=4.0, alpha=0.0, state_exp=6, decay_bits=12, vth=neuron.vth
    )
    process.sin_decay.init, process.cos_decay.init = neuron.sin, neuron.cos
    return process


def _turned(bias: NDArray[Any] | int, shape: Shape) -> NDArray[Any]:
    """One number a neuron, an image in Lava's order."""
    array = np.asarray(bias)
    if array.ndim == 1 and len(shape) == 3:
        array = array[:, None, None]
    return np.broadcast_to(array, shape).transpose(range(len(shape))[::-1]).copy()
