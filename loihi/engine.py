"""The fast engine: the reference's numbers for a batch of samples, thousands of times faster.

It computes each layer over all T steps before the next, in local time, where phased resets have
taken all latency out (see :attr:`loihi.network.Network.arrivals`): first the synapses, event-driven
and exact in the narrowest integers that hold their largest possible sum, then a compiled scan over
time. A static input meets the first synapse once, not T times. Layers that feed each other in a
loop are computed together, step by step. Samples are shared out to threads.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loihi import formats, kernels
from loihi.network import INPUT, Conv, Inject, Network, Shape, Synapse
from loihi.reference import STATES, Trace

CHUNK = 32
"""Samples that a thread takes through all layers at a time: enough to keep it busy, few enough to
stay in the cache."""
CHUNK_SIZE = 2**24
"""Values, of all steps of a layer, beyond which a chunk has fewer samples."""


@dataclass(frozen=True)
class Activity:
    """What a layer did on some data.

    rate: spikes per neuron and step, 0..1.
    silent, saturated: the fraction of neurons that never spiked, and that spiked at every step of
        every sample.
    peak_u: the largest |u| before its wrap at 2^23. peak_v: the largest |v| before its clip there.
    """

    rate: float
    silent: float
    saturated: float
    peak_u: int
    peak_v: int


class Engine:
    """A network made ready to run. ``threads``: how many, by default one a processor."""

    def __init__(self, network: Network, threads: int | None = None) -> None:
        self.network = network
        self.threads = threads or _processors()
        # Before a sample's window reaches a layer, its bias may make it spike. Without delays those
        # spikes arrive before the next layer's reset and are forgotten; a delay can carry them
        # past it. Then, and only then, the steps before the window have to be computed as well.
        # A graph is defined in local time, which has no steps before the window.
        biased = any(np.any(np.asarray(layer.neuron.bias) > 0) for layer in network.layers)
        early = network.is_chain and network.has_delays and biased
        self._lead = network.arrivals[-1] if early else 0
        self._layers: list[_Layer] = []
        for index in range(len(network.layers)):
            self._layers.append(_Layer(network, index, self._layers))
        self._order = _components(network)
        carried = {layer.carry for layer in network.layers}
        self._carried = [index in carried for index in range(len(network.layers))]
        # What no layer after this place in the order needs any more, is dropped there.
        last: dict[tuple[str, int], int] = {}
        for place, members in enumerate(self._order):
            for index in members:
                last["input", index] = last["spikes", index] = place
                for _, sources in network.synapses(index):
                    last |= {("spikes", source): place for source in sources}
                if (carry := network.layers[index].carry) is not None:
                    last["input", carry] = place
        self._done: list[list[tuple[str, int]]] = [[] for _ in self._order]
        for what, place in last.items():
            self._done[place].append(what)

    def run(self, x: NDArray[Any], record: Iterable[str] = ("spikes",)) -> Trace:
        """What :func:`loihi.reference.run` returns, for payloads ``[T, N, *input_shape]``."""
        wanted = set(record)
        if unknown := wanted - set(STATES):
            raise ValueError(f"cannot record {sorted(unknown)}: choose from {STATES}")
        return self._simulate(x, wanted)[0]

    def predict(self, x: NDArray[Any]) -> NDArray[np.int64]:
        """The readout's scores ``[N, classes]``, as :func:`loihi.reference.predict`."""
        return self._simulate(x, set())[1]

    def activity(self, x: NDArray[Any]) -> list[Activity]:
        """What every layer does on ``x``: its rate, its idle neurons, its largest states."""
        _, _, done = self._simulate(x, set(), count=True)
        at_rest, chances = np.zeros(2, np.int32), max(1, int(np.prod(np.shape(x)[:2])))
        found = []
        for index in range(len(self._layers)):
            rate = np.sum([chunk.counts[index] for chunk in done], axis=0) / chances
            peak_u, peak_v = np.max([at_rest, *(chunk.peaks[index] for chunk in done)], 0).tolist()
            found.append(
                Activity(
                    float(rate.mean()),
                    float((rate == 0).mean()),
                    float((rate == 1).mean()),
                    peak_u,
                    peak_v,
                )
            )
        return found

    def _simulate(
        self, x: NDArray[Any], wanted: set[str], count: bool = False
    ) -> tuple[Trace, NDArray[np.int64], list[_Chunk]]:
        x = self.network.check_payloads(x)
        steps, samples = x.shape[:2]
        static = steps > 1 and x.strides[0] == 0 and not self._lead
        x = np.moveaxis(x[:1] if static else x, 0, 1)  # [N, T, ...]: a chunk is contiguous
        if x.ndim == 5:
            x = np.moveaxis(x, 2, -1)
        kept: dict[str, list[NDArray[Any]]] = {
            state: [
                np.empty(
                    (samples, steps, layer.units), dtype=np.uint8 if state == "spikes" else np.int32
                )
                for layer in self._layers
                if state in wanted
            ]
            for state in STATES
        }
        scores = np.empty((samples, self.network.classes), dtype=np.int64)
        largest = max(1, steps) * max(layer.units for layer in self._layers)
        size = min(CHUNK, max(1, CHUNK_SIZE // largest))
        slices = [slice(i, min(i + size, samples)) for i in range(0, samples, size)]

        def work(samples: slice) -> _Chunk:
            mine = {state: [array[samples] for array in arrays] for state, arrays in kept.items()}
            chunk = _Chunk(np.ascontiguousarray(x[samples]), steps, self._lead, mine, count)
            scores[samples] = self._take(chunk)
            return chunk

        if self.threads == 1 or len(slices) == 1:
            done = [work(samples) for samples in slices]
        else:
            with ThreadPoolExecutor(self.threads) as pool:
                done = list(pool.map(work, slices))
        states = {
            state: [
                np.moveaxis(layer.channels_first(array), 0, 1)
                for layer, array in zip(self._layers, arrays, strict=False)
            ]
            for state, arrays in kept.items()
        }
        return Trace(**states), scores, done

    def _take(self, chunk: _Chunk) -> NDArray[np.int64]:
        """A chunk through all layers: its scores."""
        answers = len(self._layers) - 1
        for members, done in zip(self._order, self._done, strict=True):
            if len(members) > 1 or self._layers[members[0]].feeds_itself:
                last = self._take_loop(chunk, members)
            else:
                last = self._take_layer(chunk, members[0])
            if answers in members:
                if self.network.readout == "spikes":
                    last = chunk.sent[answers][:, chunk.lead :].sum(axis=1, dtype=np.int64)
                scores = self._layers[answers].channels_first(last).reshape(chunk.size, -1)
            for what, index in done:
                (chunk.inputs if what == "input" else chunk.sent).pop(index, None)
        return scores

    def _take_layer(self, chunk: _Chunk, index: int) -> NDArray[np.int32]:
        """All steps of a layer: its last v ``[n, units]``."""
        layer, lead = self._layers[index], chunk.lead
        carried = None if layer.carry is None else chunk.inputs[layer.carry]
        a = layer.currents(chunk, layer.synapses, carried)
        if self._carried[index]:
            chunk.inputs[index] = a
        spikes = chunk.spikes(index, layer.units)
        rest = layer.at_rest(chunk.size)
        all_u, all_v = chunk.states(index)
        if not lead:
            layer.scan(a, *rest, spikes, all_u, all_v, chunk.peaks[index])
        else:
            # Ahead of the window the neurons are at work from where the layer's own time begins.
            before = slice(lead - self.network.arrivals[index], lead)
            early = np.ascontiguousarray(spikes[:, before])
            window = np.ascontiguousarray(spikes[:, lead:])
            layer.scan(np.ascontiguousarray(a[:, before]), *layer.at_rest(chunk.size), early)
            a = np.ascontiguousarray(a[:, lead:])
            layer.scan(a, *rest, window, all_u, all_v, chunk.peaks[index])
            spikes[:, before], spikes[:, lead:] = early, window
        chunk.send(index, spikes)
        return rest[1]

    def _take_loop(self, chunk: _Chunk, members: Sequence[int]) -> NDArray[np.int32]:
        """All steps of the layers of a loop: the last v of the last of them.

        What comes from outside the loop is added up over all steps first.
        """
        currents, states, inside = {}, {}, {}
        for index in members:
            layer = self._layers[index]
            looped = [s for s in layer.synapses if not set(members).isdisjoint(s.sources)]
            inside[index] = looped
            outside = [synapse for synapse in layer.synapses if synapse not in looped]
            carried = None
            if layer.carry is not None and layer.carry not in members:
                carried = chunk.inputs[layer.carry]
            a = layer.currents(chunk, outside, carried)
            currents[index] = np.repeat(a, chunk.steps, axis=1) if a.shape[1] < chunk.steps else a
            states[index] = layer.at_rest(chunk.size)
            chunk.sent[index] = chunk.spikes(index, layer.units)
        for t in range(chunk.steps):
            for index in members:
                layer, (all_u, all_v) = self._layers[index], chunk.states(index)
                a = np.ascontiguousarray(currents[index][:, t : t + 1])
                for synapse in inside[index]:
                    synapse.add_step(chunk.sent, t, a)
                carry = layer.carry
                if carry is not None and carry in members:
                    layer.add_carried(currents[carry][:, t : t + 1], a)
                currents[index][:, t : t + 1] = a
                spikes = np.empty(a.shape, dtype=np.uint8)
                u, v = states[index]
                layer.scan(a, u, v, spikes, peak=chunk.peaks[index])
                chunk.sent[index][:, t : t + 1] = spikes
                if all_u.size:
                    all_u[:, t] = u
                if all_v.size:
                    all_v[:, t] = v
        for index in members:
            if self._carried[index]:
                chunk.inputs[index] = currents[index]
            chunk.send(index, chunk.sent[index])
        return states[members[-1]][1]


def predict(network: Network, x: NDArray[Any]) -> NDArray[np.int64]:
    """The scores ``[N, classes]`` of payloads ``[T, N, *input_shape]``."""
    return Engine(network).predict(x)


_NOTHING = np.empty((0, 0, 0), dtype=np.int32)


class _Chunk:
    """Some samples on their way through the layers.

    sent: the spikes ``[n, T, units]`` of each layer while another needs them, and the payloads
        ``[n, T or 1, units]`` of the input. inputs: the same of synaptic inputs, where carried.
    peaks, counts: what is found on the way: each layer's largest u and v, its neurons' spikes.
    """

    def __init__(
        self,
        x: NDArray[Any],
        steps: int,
        lead: int,
        kept: Mapping[str, Sequence[NDArray[Any]]],
        count: bool,
    ) -> None:
        self.size, self.lead, self.steps = len(x), lead, lead + steps
        x = x.reshape(*x.shape[:2], int(np.prod(x.shape[2:])))
        self.sent = {INPUT: np.pad(x, [(0, 0), (lead, 0), (0, 0)]) if lead else x}
        self.inputs: dict[int, NDArray[Any]] = {}
        self.peaks: dict[int, NDArray[np.int32]] = defaultdict(lambda: np.zeros(2, dtype=np.int32))
        self.counts: dict[int, NDArray[np.int64]] = {}
        self._kept, self._count = kept, count

    def spikes(self, index: int, units: int) -> NDArray[np.uint8]:
        """Where a layer's spikes are to be put."""
        if self._kept["spikes"] and not self.lead:
            return self._kept["spikes"][index]
        return np.zeros((self.size, self.steps, units), dtype=np.uint8)

    def states(self, index: int) -> list[NDArray[np.int32]]:
        """Where a layer's u and v of all steps are to be put, empty where not wanted."""
        return [self._kept[state][index] if self._kept[state] else _NOTHING for state in "uv"]

    def send(self, index: int, spikes: NDArray[np.uint8]) -> None:
        """A layer is done."""
        self.sent[index] = spikes
        if self.lead and self._kept["spikes"]:
            self._kept["spikes"][index][:] = spikes[:, self.lead :]
        if self._count:
            self.counts[index] = spikes[:, self.lead :].sum(axis=(0, 1), dtype=np.int64)


class _Layer:
    """A layer's numbers, laid out for the kernels."""

    def __init__(self, network: Network, index: int, before: Sequence[_Layer]) -> None:
        layer = network.layers[index]
        self.neuron, self.shape, self.carry = layer.neuron, network.shapes[index], layer.carry
        self.shift: int = formats.STATE_SHIFT
        self.units = int(np.prod(self.shape))
        bias = self.neuron.effective_bias(self.shape)
        if len(self.shape) == 3:
            bias = np.moveaxis(bias, 0, -1)
        self.bias = np.ascontiguousarray(bias, dtype=np.int32).reshape(-1)
        vth = self.neuron.vth
        # A clipped v stops at 2^23 − 1: no spike can pass this threshold.
        self.threshold = formats.STATE_MAX if vth is None else vth << formats.STATE_SHIFT
        self.synapses = [
            _Synapse(
                synapse,
                index,
                sources,
                network.shape_of(sources[0]),
                self.shape,
                network.payload_of(sources),
            )
            for synapse, sources in network.synapses(index)
        ]
        self.feeds_itself = any(index in synapse.sources for synapse in self.synapses)
        self._carried = None if self.carry is None else before[self.carry]
        # Common factors of two move from the weights into the shift, so that even 8-bit weights
        # fit int8.
        factor = min(synapse.factor for synapse in self.synapses)
        self.largest = sum(synapse.largest for synapse in self.synapses)
        if self._carried is not None:
            factor = min(factor, self._carried.shift - formats.STATE_SHIFT)
            self.largest += self._carried.largest
        for synapse in self.synapses:
            synapse.lay_out(factor)
        self.shift += factor
        injected = isinstance(layer.synapse, Inject)
        narrow = self.largest >> factor < 2**15 and not injected
        self.sums: type[np.signedinteger[Any]] = np.int16 if narrow else np.int32

    def channels_first(self, array: NDArray[Any]) -> NDArray[Any]:
        """``[..., units]`` as the kernels have them → ``[..., *shape]`` as everybody else has."""
        if len(self.shape) == 1:
            return array
        channels, height, width = self.shape
        return np.moveaxis(array.reshape(*array.shape[:-1], height, width, channels), -1, -3)

    def currents(
        self, chunk: _Chunk, synapses: Sequence[_Synapse], carried: NDArray[Any] | None
    ) -> NDArray[Any]:
        """What synapses and the layer ``carry`` add up to, ``[n, T or 1, units]``, unshifted."""
        messages = [synapse.message(chunk.sent) for synapse in synapses]
        parts = messages if carried is None else [*messages, carried]
        moves = any(part.shape[1] != 1 for part in parts) or any(s.delays for s in synapses)
        a = np.zeros((chunk.size, chunk.steps if moves else 1, self.units), dtype=self.sums)
        for synapse, message in zip(synapses, messages, strict=True):
            synapse.add(message, a)
        if carried is not None:
            self.add_carried(carried, a)
        return a

    def add_carried(self, carried: NDArray[Any], a: NDArray[Any]) -> None:
        """Another layer's input, in its own units, into this one's."""
        assert self._carried is not None
        a += carried.astype(a.dtype) << (self._carried.shift - self.shift)

    def at_rest(self, samples: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """u and v before the first step, ``[n, units]``."""
        u, v = (np.zeros((samples, self.units), dtype=np.int32) for _ in "uv")
        return u, v

    def scan(
        self,
        a: NDArray[Any],
        u: NDArray[np.int32],
        v: NDArray[np.int32],
        spikes: NDArray[np.uint8],
        all_u: NDArray[np.int32] = _NOTHING,
        all_v: NDArray[np.int32] = _NOTHING,
        peak: NDArray[np.int32] | None = None,
    ) -> None:
        """``spikes`` and the states from ``a``; u and v go on from where they are."""
        kernels.scan(
            a,
            spikes.shape[1],
            self.shift,
            self.neuron.du,
            self.neuron.dv,
            self.threshold,
            self.bias,
            u,
            v,
            spikes,
            all_u,
            all_v,
            np.zeros(2, dtype=np.int32) if peak is None else peak,
        )


class _Synapse:
    """A synapse's weights, laid out for the kernels, and what it hears.

    largest: a bound on its sums. factor: how many factors of two all its weights share.
    weights: (delay, weight), after :meth:`lay_out`. delays: those that are not 0.
    """

    def __init__(
        self,
        synapse: Synapse,
        target: int,
        sources: tuple[int, ...],
        input_shape: Shape,
        shape: Shape,
        payload: tuple[int, int],
    ) -> None:
        self.synapse, self.target, self.sources = synapse, target, sources
        self.input_shape, self.shape = input_shape, shape
        self.binary = payload == (0, 1)
        self.payloads = _narrowest(payload)
        self.weights: list[tuple[int, NDArray[Any]]] = []
        self.delays: list[int] = []
        self.wraps, self.factor = False, 0
        if isinstance(synapse, Inject):
            self.largest = max(map(abs, payload))
            return
        self.largest = largest_sum(synapse.weight, payload)
        # Lava's 24-bit wrap of a convolution needs the plain sum.
        self.wraps = isinstance(synapse, Conv) and self.largest >= formats.STATE_MAX
        if not self.wraps:
            self.factor = _common_shift(synapse.weight)

    def lay_out(self, factor: int) -> None:
        """Divide the weights by 2^factor, and turn them to how the kernels read them."""
        if isinstance(self.synapse, Inject):
            return
        weight = self.synapse.weight >> factor
        narrow = np.int8 if weight.min() >= -128 and weight.max() <= 127 else np.int16
        weight = weight.astype(narrow)
        if isinstance(self.synapse, Conv):
            out, per_group, height, width = weight.shape
            groups = self.synapse.groups
            # [O, I/g, kH, kW] → [C, kH, kW reversed, O/g]
            rows = weight.reshape(groups, out // groups, per_group, height, width)[..., ::-1]
            rows = rows.transpose(0, 2, 3, 4, 1).reshape(groups * per_group, height, -1)
            self.weights = [(0, np.ascontiguousarray(rows))]
            return
        rows = self._columns(weight)
        if self.synapse.delay is None:
            self.weights = [(0, rows)]
            return
        delays = self._columns(self.synapse.delay)
        self.weights = [
            (int(d), np.where(delays == d, rows, 0).astype(narrow)) for d in np.unique(delays)
        ]
        self.delays = [delay for delay, _ in self.weights if delay]

    def _columns(self, matrix: NDArray[Any]) -> NDArray[Any]:
        """``[out, in]`` → ``[in, out]``, for images that arrive channels-last."""
        if len(self.input_shape) == 3:
            matrix = np.moveaxis(matrix.reshape(len(matrix), *self.input_shape), 1, -1)
        return np.ascontiguousarray(matrix.reshape(len(matrix), -1).T)

    def message(self, sent: Mapping[int, NDArray[Any]]) -> NDArray[Any]:
        """The payloads ``[n, T or 1, units]`` of all sources, added up, at every step."""
        parts = []
        for source in self.sources:
            part = sent[source]
            if source >= self.target:  # recurrent, though not in a loop: of the step before
                part = np.zeros_like(part)
                part[:, 1:] = sent[source][:, :-1]
            parts.append(part)
        if len(parts) == 1:
            return parts[0]
        total = parts[0].astype(self.payloads)
        for part in parts[1:]:
            total = total + part.astype(self.payloads, copy=False)
        return total

    def add_step(self, sent: Mapping[int, NDArray[Any]], step: int, a: NDArray[Any]) -> None:
        """What reaches the neurons at one step, into ``a [n, 1, units]``, of what was sent yet."""
        for delay, weight in self.weights:
            heard = [(s, step - delay - (s >= self.target)) for s in self.sources]
            parts = [sent[s][:, t if sent[s].shape[1] > 1 else 0] for s, t in heard if t >= 0]
            if parts:
                message = np.zeros((len(a), 1, parts[0].shape[1]), dtype=self.payloads)
                for part in parts:
                    message[:, 0] += part.astype(self.payloads, copy=False)
                self._add(message, weight, a)

    def add(self, x: NDArray[Any], a: NDArray[Any]) -> None:
        """Payloads ``[n, T or 1, units]`` into the neurons' input ``[n, T or 1, units]``."""
        if x.shape[1] < a.shape[1]:
            if not self.delays:
                once = np.zeros((len(a), 1, a.shape[2]), dtype=a.dtype)
                self.add(x, once)
                a += once
                return
            x = np.repeat(x, a.shape[1], axis=1)  # a delayed static input is not static
        if isinstance(self.synapse, Inject):
            a += x.astype(a.dtype)
        for delay, weight in self.weights:
            if not delay:
                self._add(x, weight, a)
            elif delay < x.shape[1]:
                later = np.zeros_like(a[:, delay:])
                self._add(np.ascontiguousarray(x[:, :-delay]), weight, later)
                a[:, delay:] += later

    def _add(self, x: NDArray[Any], weight: NDArray[Any], a: NDArray[Any]) -> None:
        if not isinstance(self.synapse, Conv):
            kernel = kernels.dense_binary if self.binary else kernels.dense_graded
            kernel(x, weight, a)
            return
        (channels, *size), (out, *out_size) = self.input_shape, self.shape
        plain = np.zeros_like(a) if self.wraps else a
        kernels.conv(
            x.reshape(*x.shape[:2], *size, channels),
            weight,
            plain.reshape(*a.shape[:2], *out_size, out),
            self.synapse.strides,
            self.synapse.paddings,
            self.synapse.dilations,
            self.synapse.groups,
        )
        if self.wraps:
            a += formats.wrap24(plain).astype(a.dtype)


def _components(network: Network) -> list[list[int]]:
    """The layers in an order in which each comes after all that feed it; loops together."""
    count = len(network.layers)
    if network.is_chain:
        return [[index] for index in range(count)]
    reach = np.eye(count, dtype=np.float32)  # [from, to]: a matrix product follows paths
    for index, layer in enumerate(network.layers):
        feeding = [s for _, sources in network.synapses(index) for s in sources if s != INPUT]
        reach[feeding + ([] if layer.carry is None else [layer.carry]), index] = 1
    for _ in range(count.bit_length()):
        reach = (reach @ reach > 0).astype(np.float32)
    together = reach * reach.T
    # What comes later is reached from more layers, those of one loop from the same.
    place = reach.sum(axis=0)
    order = sorted(range(count), key=lambda index: (place[index], int(together[index].argmax())))
    components: list[list[int]] = []
    for index in order:
        if components and together[index, components[-1][0]]:
            components[-1].append(index)
        else:
            components.append([index])
    return components


def _narrowest(payload: tuple[int, int]) -> type[np.integer[Any]]:
    """The dtype for sums of payloads."""
    if payload[0] >= 0 and payload[1] < 2**8:
        return np.uint8
    return np.int16 if max(map(abs, payload)) < 2**15 else np.int32


def largest_sum(weight: NDArray[np.int32], payload: tuple[int, int]) -> int:
    """A bound on |Σ w · x| of any neuron, and of any partial sum on the way to it."""
    per_neuron = np.abs(weight.astype(np.int64)).reshape(len(weight), -1).sum(axis=1)
    return int(per_neuron.max()) * max(abs(payload[0]), abs(payload[1]))


def _common_shift(weight: NDArray[np.int32]) -> int:
    """How many factors of two all weights share (0..7)."""
    bits = int(np.bitwise_or.reduce(np.abs(weight), axis=None))
    return min((bits & -bits).bit_length() - 1, 7) if bits else 0


def _processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
