"""The fast engine: the reference's numbers for a batch of samples, thousands of times faster.

It works in local time, where phased resets have taken all latency out (see
:attr:`loihi.network.Network.arrivals`), and takes a slice of time through one layer after the other
(:mod:`loihi.layers`): first the synapses, in the narrowest integers that hold their largest sum and
by the cheaper of two exact paths (:mod:`loihi.synapses`), then a compiled scan over time
(:mod:`loihi.kernels`). From slice to slice only the neurons' states are kept, and what delays still
need: memory does not grow with T. A static input meets the first synapse once, not T times. Layers
that feed each other in a loop are computed together, step by step. Samples are shared out to
threads.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loihi.layers import FastLayer, States
from loihi.network import INPUT, Network, NetworkError
from loihi.reference import STATES, Trace, wanted_states
from loihi.synapses import Connection, Messages

Seen = tuple[NDArray[np.int32] | None, NDArray[np.int32] | None, NDArray[np.int32] | None]
"""Where a layer puts u and v of every step, and its peaks."""

CHUNK = 1024
"""Messages of a layer, samples times steps, that a thread computes together."""
CHUNK_SIZE = 2**21
"""Their numbers, beyond which they are fewer: they should stay in the core's cache."""
LOOP_CHUNK = 256
"""Samples together where layers form a loop: every step of it costs the interpreter the same."""


@dataclass(frozen=True)
class Activity:
    """What a layer did on some data.

    rate: spikes (messages other than 0) per neuron and step, 0..1.
    silent, saturated: the fraction of neurons that never spiked, and that spiked at every step of
        every sample.
    peak_u: the largest |u| before its wrap at 2^23. peak_v: the largest |v| before its clip there.
        Both are 0 for neurons that are not integrate-and-fire.
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
        self._pool, self._process = ThreadPoolExecutor(self.threads), os.getpid()
        self._layers: list[FastLayer] = []
        for index in range(len(network.layers)):
            self._layers.append(FastLayer(network, index, self._layers))
        self._order = _components(network)
        self._loops = [
            len(members) > 1 or self._layers[members[0]].hears_itself for members in self._order
        ]
        carried = {layer.carry for layer in network.layers}
        self._carried = [index in carried for index in range(len(network.layers))]
        # How many steps back a source is heard; and where in the order what is needed for the last
        # time, to be dropped there.
        self._memory = dict.fromkeys(range(INPUT, len(network.layers)), 0)
        last: dict[tuple[str, int], int] = {("sent", INPUT): 0}
        for place, members in enumerate(self._order):
            for index in members:
                last["input", index] = last["sent", index] = place
                for connection in self._layers[index].connections:
                    for source in connection.sources:
                        last["sent", source] = place
                        memory = connection.memory(source)
                        self._memory[source] = max(memory, self._memory[source])
                if (carry := network.layers[index].carry) is not None:
                    last["input", carry] = place
        self._done: list[list[tuple[str, int]]] = [[] for _ in self._order]
        for what, place in last.items():
            self._done[place].append(what)
        # Whether a static input need be heard only once: by synapses of its own, without delays.
        self._once = self._memory[INPUT] == 0 and all(
            INPUT not in connection.sources or len(connection.sources) == 1
            for layer in self._layers
            for connection in layer.connections
        )
        self._rest = self._at_rest()

    def run(self, x: NDArray[Any], record: Iterable[str] = ("spikes",)) -> Trace:
        """What :func:`loihi.reference.run` returns, for payloads ``[T, N, *input_shape]``."""
        wanted = wanted_states(record)
        x = self.network.check_payloads(x)
        kept = self._room(wanted, x)
        self._simulate([x], lambda samples: _Keep(kept, samples))
        return self._trace(kept)

    def parts(
        self, x: Iterable[NDArray[Any]], record: Iterable[str] = ("spikes",)
    ) -> Iterator[Trace]:
        """:meth:`run` of samples whose time comes in parts ``[t, N, *input_shape]``: of each part
        the trace, as :func:`loihi.reference.parts`."""
        wanted = wanted_states(record)
        chunks: list[_Chunk] | None = None
        for part in x:
            part = self.network.check_payloads(part)
            kept = self._room(wanted, part)
            if chunks is None:
                chunks = self._chunks(len(part), part.shape[1], lambda samples: _Watch())
            for chunk in chunks:
                chunk.watch = _Keep(kept, chunk.samples)
            self._together(part, False, chunks)
            yield self._trace(kept)

    def _room(self, wanted: set[str], x: NDArray[Any]) -> dict[str, list[NDArray[Any]]]:
        """Arrays ``[N, T, units]`` of the states wanted, for payloads ``x``."""
        return {
            state: [
                np.empty(
                    (x.shape[1], len(x), layer.units),
                    dtype=layer.sends if state == "spikes" else np.int32,
                )
                for layer in self._layers
                if state in wanted
            ]
            for state in STATES
        }

    def _trace(self, kept: Mapping[str, Sequence[NDArray[Any]]]) -> Trace:
        states = {
            state: [
                np.moveaxis(layer.channels_first(array), 0, 1)
                for layer, array in zip(self._layers, arrays, strict=False)
            ]
            for state, arrays in kept.items()
        }
        return Trace(**states)

    def predict(self, x: NDArray[Any] | Iterable[NDArray[Any]]) -> NDArray[np.int64]:
        """The readout's scores ``[N, classes]``, as :func:`loihi.reference.predict`.

        x: payloads ``[T, N, *input_shape]``; or an iterable of such arrays, which follow each other
        in time, where not all of them are in memory.
        """
        nobody = np.zeros((0, self.network.classes), dtype=np.int64)
        return np.concatenate([nobody, *self._simulate(x, lambda samples: _Watch())])

    def activity(self, x: NDArray[Any] | Iterable[NDArray[Any]]) -> list[Activity]:
        """What every layer does on ``x``, which is as in :meth:`predict`."""
        counts: list[_Count] = []

        def counting(samples: slice) -> _Watch:
            counts.append(_Count(samples.stop - samples.start))
            return counts[-1]

        self._simulate(x, counting)
        chances = max(1, sum(count.chances for count in counts))
        found = []
        for index, layer in enumerate(self._layers):
            rate = sum((count.sent[index] for count in counts), np.zeros(layer.units)) / chances
            peak_u, peak_v = (
                max((int(count.peaks[index][k]) for count in counts), default=0) for k in (0, 1)
            )
            rates = float(rate.mean()), float((rate == 0).mean()), float((rate == 1).mean())
            found.append(Activity(*rates, peak_u, peak_v))
        return found

    def live(self, samples: int = 1) -> Live:
        """Streams that are fed a step at a time."""
        return Live(self, samples)

    # --- samples, and slices of their time ------------------------------------------------------

    def _simulate(
        self, x: NDArray[Any] | Iterable[NDArray[Any]], watch: Callable[[slice], _Watch]
    ) -> list[NDArray[np.int64]]:
        """All samples through all of their time: the scores, chunk by chunk, each with a watch."""
        whole = isinstance(x, np.ndarray)
        chunks: list[_Chunk] | None = None
        samples = 0
        for part in [x] if isinstance(x, np.ndarray) else x:
            part = self.network.check_payloads(part)
            if chunks is None:
                samples = part.shape[1]
                chunks = self._chunks(len(part), samples, watch)
            if part.shape[1] != samples:
                raise NetworkError(
                    f"a part of the stream holds {part.shape[1]} samples, the first {samples}"
                )
            scores = self._together(part, whole, chunks)
        if chunks is None:
            raise NetworkError("the stream is empty: not even one step says how many samples")
        return scores

    def _together(
        self, part: NDArray[Any], whole: bool, chunks: Sequence[_Chunk]
    ) -> list[NDArray[np.int64]]:
        """All chunks through a part of time: their scores."""
        alone = self.threads == 1 or len(chunks) == 1
        together = map if alone else self._workers().map
        return list(together(partial(self._take, part, whole), chunks))

    def _workers(self) -> ThreadPoolExecutor:
        """The threads, which begin with their first work; a forked process has to begin anew."""
        if self._process != os.getpid():
            self._pool, self._process = ThreadPoolExecutor(self.threads), os.getpid()
        return self._pool

    def _chunks(self, steps: int, samples: int, watch: Callable[[slice], _Watch]) -> list[_Chunk]:
        """The samples as many at a time, and the slices of time as long, as is fastest."""
        rows = max(1, CHUNK_SIZE // max(layer.width for layer in self._layers))
        if any(self._loops):
            size = min(LOOP_CHUNK, rows)
        else:
            rows = min(rows, CHUNK)
            size = rows // max(1, min(steps, rows))
        size = max(1, min(size, -(-samples // self.threads)))
        slices = [slice(i, min(i + size, samples)) for i in range(0, samples, size)]
        return [_Chunk(mine, rows // size or 1, watch(mine)) for mine in slices]

    def _take(self, part: NDArray[Any], whole: bool, chunk: _Chunk) -> NDArray[np.int64]:
        """A chunk through a part of time, slice by slice: its scores. whole: no part follows."""
        now = chunk.now or self._begin(chunk.samples.stop - chunk.samples.start)
        static = len(part) > 1 and part.strides[0] == 0 and self._once
        constant: dict[int, NDArray[Any]] = {}
        once = self._payloads(part[:1, chunk.samples]) if static else None
        for begin in range(0, len(part), chunk.length):
            end = min(begin + chunk.length, len(part))
            x = self._payloads(part[begin:end, chunk.samples]) if once is None else once
            last = whole and end == len(part)
            self._advance(_Slice(now, end - begin, chunk.watch, constant, last), x, static)
        chunk.now = None if whole else now
        return self._scores(now)

    def _begin(self, samples: int) -> _State:
        """Samples at rest."""
        rest = self._rest
        tails = {source: np.repeat(tail, samples, axis=0) for source, tail in rest.tails.items()}
        return _State(samples, {}, tails, np.repeat(rest.sent, samples, axis=0))

    def _states(self, now: _State, index: int) -> States:
        """A layer's states; from rest, if it has not worked yet."""
        if index not in now.neurons:
            rest = self._rest.neurons[index]
            now.neurons[index] = tuple(np.repeat(state, now.size, axis=0) for state in rest)
        return now.neurons[index]

    def _payloads(self, x: NDArray[Any]) -> NDArray[Any]:
        """``[T, n, *input_shape]`` as the kernels have it: ``[n, T, units]``, channels last."""
        x = x.transpose(1, 0, 3, 4, 2) if x.ndim == 5 else x.swapaxes(0, 1)
        x = np.ascontiguousarray(x, dtype=self.network.encoding.dtype)
        return x.reshape(*x.shape[:2], int(np.prod(x.shape[2:])))

    def _scores(self, now: _State) -> NDArray[np.int64]:
        """What the readout says of samples at the end of their time."""
        layer = self._layers[-1]
        by_spikes = self.network.readout == "spikes"
        read = now.sent if by_spikes else self._states(now, layer.index)[1]
        return layer.channels_first(read.astype(np.int64)).reshape(now.size, -1)

    # --- one slice ------------------------------------------------------------------------------

    def _advance(self, piece: _Slice, x: NDArray[Any], static: bool = False) -> NDArray[Any]:
        """Payloads ``[n, T, units]`` (T = 1 where static) through all layers: what the last sends,
        ``[n, T, units]``."""
        now, last = piece.now, len(self._layers) - 1
        if memory := self._memory[INPUT]:
            x = np.concatenate([now.tails[INPUT], x], axis=1)
        piece.sent[INPUT] = Messages(x, memory, static)
        for members, loops, done in zip(self._order, self._loops, self._done, strict=True):
            if loops:
                self._loop(piece, members)
            else:
                self._layer(piece, members[0])
            if last in members:
                answer = piece.sent[last].values[:, self._memory[last] :]
                if self.network.readout == "spikes":
                    now.sent += answer.sum(axis=1, dtype=np.int64)
            if piece.last:  # no slice will ask for their states
                for index in members:
                    if index != last:
                        del now.neurons[index]
            for what, index in done:
                if what == "input":
                    piece.inputs.pop(index, None)
                    continue
                values = piece.sent.pop(index).values
                if memory := self._memory[index]:
                    now.tails[index] = values[:, -memory:].copy()
        piece.watch.end(piece.steps)
        return answer

    def _layer(self, piece: _Slice, index: int) -> None:
        """A layer that does not hear itself."""
        layer, begin = self._layers[index], piece.begins(index)
        a = self._currents(piece, layer, layer.connections)
        sent = self._messages(piece, layer)
        seen = piece.watch.arrays(layer, piece)
        states = self._states(piece.now, index)
        sent.events = layer.scan(a, begin, piece.steps - begin, sent, states, *seen)
        if self._carried[index]:
            piece.inputs[index] = a
        piece.watch.see(layer, sent, *seen)

    def _loop(self, piece: _Slice, members: Sequence[int]) -> None:
        """Layers that feed each other. What comes from outside is added up over all steps first."""
        currents, inside, seen, events = {}, {}, {}, dict.fromkeys(members, 0)
        for index in members:
            layer = self._layers[index]
            inside[index] = [
                connection
                for connection in layer.connections
                if not set(members).isdisjoint(connection.sources)
            ]
            outside = [c for c in layer.connections if c not in inside[index]]
            a = self._currents(piece, layer, outside, members)
            currents[index] = np.repeat(a, piece.steps, axis=1) if a.shape[1] == 1 else a
            self._messages(piece, layer)
            seen[index] = piece.watch.arrays(layer, piece)
        for t in range(piece.steps):
            for index in members:
                layer, a = self._layers[index], currents[index]
                for connection in inside[index]:
                    connection.add(piece.sent, a, t, 1)
                if (carry := layer.carry) is not None and carry in members:
                    layer.add_carried(currents[carry][:, t : t + 1], a[:, t : t + 1])
                states = self._states(piece.now, index)
                events[index] += layer.scan(a, t, 1, piece.sent[index], states, *seen[index])
        for index in members:
            piece.sent[index].events = events[index]
            if self._carried[index]:
                piece.inputs[index] = currents[index]
            piece.watch.see(self._layers[index], piece.sent[index], *seen[index])

    def _currents(
        self,
        piece: _Slice,
        layer: FastLayer,
        connections: Sequence[Connection],
        loop: Sequence[int] = (),
    ) -> NDArray[Any]:
        """What comes from outside a loop, over all steps (see :meth:`FastLayer.currents`)."""
        carried = None
        if layer.carry is not None and layer.carry not in loop:
            carried = piece.inputs[layer.carry]
        size, steps = piece.now.size, piece.steps
        return layer.currents(connections, piece.sent, size, steps, carried, piece.constant)

    def _messages(self, piece: _Slice, layer: FastLayer) -> Messages:
        """Where a layer's messages are to be put; before them, what is still heard of the last."""
        memory, begin = self._memory[layer.index], piece.begins(layer.index)
        values = np.empty((piece.now.size, memory + piece.steps, layer.units), dtype=layer.sends)
        if memory:
            values[:, :memory] = piece.now.tails[layer.index]
        values[:, memory : memory + begin] = 0
        piece.sent[layer.index] = Messages(values, memory)
        return piece.sent[layer.index]

    def _at_rest(self) -> _State:
        """One sample before its first step."""
        network = self.network
        shapes = {INPUT: network.input_shape, **dict(enumerate(network.shapes))}
        dtypes = {INPUT: network.encoding.dtype, **{k.index: k.sends for k in self._layers}}
        tails = {
            source: np.zeros((1, memory, int(np.prod(shapes[source]))), dtype=dtypes[source])
            for source, memory in self._memory.items()
            if memory
        }
        neurons = {layer.index: layer.states(1) for layer in self._layers}
        rest = _State(1, neurons, tails, np.zeros((1, self._layers[-1].units), dtype=np.int64))
        if network.is_chain and (network.has_delays or not network.resets):
            # A chip is at work before a sample's first input reaches a layer: a bias may make it
            # send, though its window has not begun. What is still under way when the next layer's
            # begins, in a delay, and what a layer without a reset has added up, counts. A graph is
            # defined in local time, where nothing comes before the window.
            lead = network.arrivals[-1]
            silence = np.zeros((1, lead, int(np.prod(network.input_shape))), dtype=dtypes[INPUT])
            piece = _Slice(rest, lead, _Watch(), {}, arrivals=network.arrivals)
            self._advance(piece, silence)
            rest.sent[:] = 0
            for layer in self._layers:
                if layer.neuron.resets:
                    rest.neurons[layer.index] = layer.states(1)
        return rest


class Live:
    """Streams of ``samples`` that are fed one step at a time, each from rest.

    After each step it is where :func:`loihi.reference.run` is after it. steps: since the last
    reset.
    """

    def __init__(self, engine: Engine, samples: int = 1) -> None:
        self._engine, self._samples = engine, samples
        self.reset()

    def reset(self) -> None:
        """Back to rest, before the first step."""
        self._now, self.steps = self._engine._begin(self._samples), 0

    def step(self, x: NDArray[Any]) -> NDArray[Any]:
        """One step's payloads ``[samples, *input_shape]``: what the last layer sends in the same
        local step, ``[samples, *shape]``."""
        engine = self._engine
        x = engine.network.check_payloads(np.asarray(x)[None])
        if x.shape[1] != self._samples:
            raise NetworkError(f"a step of {x.shape[1]} samples for {self._samples} streams")
        piece = _Slice(self._now, 1, _Watch(), {})
        self.steps += 1
        return self._shaped(engine._advance(piece, engine._payloads(x))[:, 0])

    @property
    def u(self) -> NDArray[np.int32]:
        """The last layer's u after the step, ``[samples, *shape]``."""
        return self._state(0)

    @property
    def v(self) -> NDArray[np.int32]:
        """The last layer's v after the step, reset done, ``[samples, *shape]``."""
        return self._state(1)

    def scores(self) -> NDArray[np.int64]:
        """The readout's scores, ``[samples, classes]``, if the sample ended here."""
        return self._engine._scores(self._now)

    def _state(self, which: int) -> NDArray[np.int32]:
        last = len(self._engine.network.layers) - 1
        return self._shaped(self._engine._states(self._now, last)[which].copy())

    def _shaped(self, array: NDArray[Any]) -> NDArray[Any]:
        return self._engine._layers[-1].channels_first(array)


def predict(network: Network, x: NDArray[Any]) -> NDArray[np.int64]:
    """The scores ``[N, classes]`` of payloads ``[T, N, *input_shape]``."""
    return Engine(network).predict(x)


@dataclass
class _State:
    """Samples between two slices of time.

    size: how many. neurons: the states of each layer that has worked. tails: the last messages
    ``[n, memory, units]`` of sources that are heard later. sent: what the last layer has sent so
    far, added up, where that is read.
    """

    size: int
    neurons: dict[int, States]
    tails: dict[int, NDArray[Any]]
    sent: NDArray[np.int64]


class _Watch:
    """What is to be seen of samples on their way: here nothing."""

    def arrays(self, layer: FastLayer, piece: _Slice) -> Seen:
        """Where a layer is to put u, v and their peaks."""
        return None, None, None

    def see(self, layer: FastLayer, sent: Messages, *found: Any) -> None:
        """What a layer has sent, and put there."""

    def end(self, steps: int) -> None:
        """A slice has ended."""


class _Keep(_Watch):
    """Everything of some samples, into arrays ``[N, T, units]`` of each state and layer."""

    def __init__(self, kept: Mapping[str, Sequence[NDArray[Any]]], samples: slice) -> None:
        self._kept, self._samples, self._at = kept, samples, 0

    def arrays(self, layer: FastLayer, piece: _Slice) -> Seen:
        full, none = (piece.now.size, piece.steps, layer.units), (0, 0, 0)
        u, v = (np.empty(full if self._kept[s] else none, dtype=np.int32) for s in "uv")
        return u, v, np.zeros(2, dtype=np.int32)

    def see(self, layer: FastLayer, sent: Messages, *found: Any) -> None:
        values = sent.values[:, sent.memory :]
        steps = slice(self._at, self._at + values.shape[1])
        for state, array in zip(STATES, (values, *found), strict=False):
            if self._kept[state]:
                self._kept[state][layer.index][self._samples, steps] = array

    def end(self, steps: int) -> None:
        self._at += steps


class _Count(_Watch):
    """How often each neuron sends, and the largest u and v."""

    def __init__(self, samples: int) -> None:
        self.samples, self.chances = samples, 0
        self.sent: dict[int, Any] = defaultdict(int)
        self.peaks: dict[int, NDArray[np.int32]] = defaultdict(lambda: np.zeros(2, dtype=np.int32))

    def arrays(self, layer: FastLayer, piece: _Slice) -> Seen:
        none = np.empty((0, 0, 0), dtype=np.int32)
        return none, none, self.peaks[layer.index]

    def see(self, layer: FastLayer, sent: Messages, *found: Any) -> None:
        self.sent[layer.index] += np.count_nonzero(sent.values[:, sent.memory :], axis=(0, 1))

    def end(self, steps: int) -> None:
        self.chances += self.samples * steps


@dataclass
class _Chunk:
    """Some of the samples, which a thread takes through time in slices of ``length`` steps. now:
    where they are, if more is to come."""

    samples: slice
    length: int
    watch: _Watch
    now: _State | None = None


@dataclass
class _Slice:
    """A slice of time on its way through the layers.

    now: the samples' state, before and after. constant: what layers hear at every step, if it has
    been found. last: no other slice follows. arrivals: of a chip that starts with this slice, the
    steps by which each layer lags. sent, inputs: of each layer, what it sends and its synaptic
    input, while another needs them.
    """

    now: _State
    steps: int
    watch: _Watch
    constant: dict[int, NDArray[Any]]
    last: bool = False
    arrivals: Sequence[int] | None = None
    sent: dict[int, Messages] = field(default_factory=dict)
    inputs: dict[int, NDArray[Any]] = field(default_factory=dict)

    def begins(self, index: int) -> int:
        """The first step in which a layer is at work."""
        return 0 if self.arrivals is None else self.steps - self.arrivals[index]


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


def _processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
