"""What a network costs: operations counted on data, NeuroBench's metrics, and a model of Loihi.

Counted are the operations of a chip that works by events (Davies et al. 2018, IEEE Micro 38(1)):

- a spike is a message other than 0, a neuron's or the input's;
- a synaptic operation is a spike through one synapse, weights of 0 included, as a core stores them;
- a neuron is updated in each step, actively where a spike has come to it (or, through an input
  layer, a current), idly else.

Energy and time are *modelled from counted operations*: counts times the published figures of single
operations (:class:`loihi.boards.Cost`; Loihi 1 alone has any). The chip's static power, its x86
cores, input and output, and a spike's hops between tiles are not among them: a lower bound.

NeuroBench's metrics (J. Yik et al., arXiv:2304.04640) are counted by the definitions of its package
2.3.0, on integers. They know nothing of cores: a synapse is there once, whatever carries its input
further, and weights of 0 cost nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loihi import formats
from loihi.engine import Engine
from loihi.network import INPUT, ComplexDense, Conv, Dense, Inject, Network, Shape
from loihi.neurons import Delta, Neuron, Resonator, Sigma, SigmaDelta
from loihi.partition import Connection, Grid, Partition, axes, connections

VALUES_MAX = 2**22
"""Values, over all layers, steps and samples of a batch, that are looked at together."""

_Ints = NDArray[np.int64]
_Synapse = Dense | Conv | ComplexDense


# --- the network alone --------------------------------------------------------------------------


STATE_BYTES = {Neuron: 6, Resonator: 6, Delta: 8, SigmaDelta: 12, Sigma: 4}
"""Of a neuron: two registers of 24 bits; x and r; σ, x and r; σ, of 32 bits."""


@dataclass(frozen=True)
class Footprint:
    """Bytes of what a network keeps.

    weights: one byte each, a convolution's kernel once. delays: one byte each. biases: two bytes of
    mantissa, four in a sigma-delta layer; one a layer, a channel or a neuron, as the layer has
    them. states: the neurons' (:data:`STATE_BYTES`), of one sample.
    """

    weights: int
    delays: int
    biases: int
    states: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.delays + self.biases + self.states


def footprint(network: Network) -> Footprint:
    """The bytes that ``network`` needs, but for a few a layer: decays, threshold, exponents."""
    weights = delays = biases = states = 0
    for synapse in _synapses(network):
        weights += synapse.weight.size
        if isinstance(synapse, Dense) and synapse.delay is not None:
            delays += synapse.delay.size
    for layer, shape in zip(network.layers, network.shapes, strict=True):
        if layer.neuron.has_bias:
            size = 4 if isinstance(layer.neuron, SigmaDelta) else 2
            biases += size * np.asarray(layer.neuron.bias).size
        states += STATE_BYTES[type(layer.neuron)] * math.prod(shape)
    return Footprint(weights, delays, biases, states)


def connection_sparsity(network: Network) -> float:
    """The fraction of weights that are 0; each synapse once, as its weights are stored."""
    weights = [synapse.weight for synapse in _synapses(network)]
    count = sum(weight.size for weight in weights)
    return sum(int((weight == 0).sum()) for weight in weights) / count if count else 0.0


# --- counts -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LayerCounts:
    """What a layer did on all samples together.

    neurons: how many. spikes: messages other than 0. activations: of those, what there could have
    been: neurons times steps times samples, 0 of a layer that sends none (``vth`` None).
    synaptic_ops: spikes through synapses that end here, as a chip has them. updates, active: neuron
    updates, and those in a step in which a spike came. effective_acs, effective_macs, dense:
    NeuroBench's synaptic operations: inputs other than 0 times weights other than 0, of steps whose
    inputs are all −1, 0 or 1, and of the others; and as many as if nothing were 0.
    """

    name: str
    neurons: int
    spikes: int
    activations: int
    synaptic_ops: int
    updates: int
    active: int
    effective_acs: int
    effective_macs: int
    dense: int


@dataclass(frozen=True)
class Model:
    """Energy and time of a sample on a chip, *modelled from counted operations*.

    synaptic_pj, active_pj, idle_pj, spikes_pj: of synaptic operations, active and idle updates, and
    spikes on their way to each core that hears them; the input's too. busy_ns: what the busiest
    core of each step takes, added up; barrier_ns: the ends of the steps; both None where one chip
    does not hold the network. steps: of a sample until it is through all layers: T and the largest
    of their arrivals.
    """

    chip: str
    synaptic_pj: float
    active_pj: float
    idle_pj: float
    spikes_pj: float
    busy_ns: float | None
    barrier_ns: float | None
    steps: int

    @property
    def energy_pj(self) -> float:
        """All energies together."""
        return self.synaptic_pj + self.active_pj + self.idle_pj + self.spikes_pj

    @property
    def latency_ns(self) -> float | None:
        """From a sample's first step until it is through."""
        if self.busy_ns is None or self.barrier_ns is None:
            return None
        return self.busy_ns + self.barrier_ns


@dataclass(frozen=True)
class Counts:
    """What a network did on some data. input_spikes: payloads other than 0, of all samples.

    model: energy and time a sample, None of a chip without public figures.
    """

    samples: int
    time_steps: int
    input_spikes: int
    layers: tuple[LayerCounts, ...]
    model: Model | None = None

    @property
    def activation_sparsity(self) -> float:
        """NeuroBench's: the fraction of activations that are 0, over all layers that send any."""
        possible = sum(layer.activations for layer in self.layers)
        spikes = sum(layer.spikes for layer in self.layers if layer.activations)
        return (possible - spikes) / possible if possible else 0.0

    @property
    def effective_acs(self) -> float:
        """NeuroBench's effective accumulates, a sample."""
        return sum(layer.effective_acs for layer in self.layers) / self.samples

    @property
    def effective_macs(self) -> float:
        """NeuroBench's effective multiply-accumulates, a sample."""
        return sum(layer.effective_macs for layer in self.layers) / self.samples

    @property
    def dense(self) -> float:
        """NeuroBench's dense synaptic operations, a sample."""
        return sum(layer.dense for layer in self.layers) / self.samples

    @property
    def neurobench(self) -> dict[str, float]:
        """NeuroBench's metrics of the workload, by the names that its package gives them."""
        return {
            "ActivationSparsity": self.activation_sparsity,
            "Effective_ACs": self.effective_acs,
            "Effective_MACs": self.effective_macs,
            "Dense": self.dense,
        }

    def as_dict(self) -> dict[str, Any]:
        """All of it, ready for JSON."""
        model = None
        if self.model is not None:
            model = {
                "what": "modelled from counted operations",
                **asdict(self.model),
                "energy_pj": self.model.energy_pj,
                "latency_ns": self.model.latency_ns,
            }
        return {
            "samples": self.samples,
            "time_steps": self.time_steps,
            "input_spikes": self.input_spikes,
            "layers": [asdict(layer) for layer in self.layers],
            "neurobench": self.neurobench,
            "model": model,
        }


def count(network: Network, x: NDArray[Any], part: Partition | None = None) -> Counts:
    """Runs payloads ``x [T, N, *input_shape]`` and counts; with ``part`` on a chip whose operations
    have public figures, energy and time are modelled too.

    Samples are taken through a few at a time, so that what is looked at stays small.
    """
    x = network.check_payloads(x)
    steps, samples = x.shape[:2]
    if not steps or not samples:
        raise formats.FormatError(f"nothing to count in {samples} samples of {steps} steps")
    cost = None if part is None else part.chip.cost
    tally = _Tally(network, part if cost is not None else None)
    engine = Engine(network)
    values = sum(math.prod(shape) for shape in (network.input_shape, *network.shapes))
    if part is not None:
        values += part.cores
    batch = max(1, VALUES_MAX // (steps * values))
    for first in range(0, samples, batch):
        some = x[:, first : first + batch]
        tally.add([np.asarray(some), *engine.run(some, ("spikes",)).spikes])
    return tally.counts(samples, steps)


class _Tally:
    """Counts that grow batch by batch."""

    def __init__(self, network: Network, part: Partition | None) -> None:
        self.network, self.part = network, part
        size = len(network.layers)
        self.fan_outs = {
            (id(synapse), source): _fan_out(synapse, network.shape_of(source))
            for index in range(size)
            for synapse, source, _ in connections(network, index)
        }
        self.spikes, self.ops, self.active = (np.zeros(size, dtype=np.int64) for _ in range(3))
        self.acs, self.macs = np.zeros(size, dtype=np.int64), np.zeros(size, dtype=np.int64)
        self.input_spikes = self.sent = 0
        self.busy_ns = 0.0

    def add(self, messages: Sequence[NDArray[Any]]) -> None:
        """What was sent, ``[T, n, *shape]`` each: by the input, then by each layer."""
        sent = {source: np.asarray(m) for source, m in enumerate(messages, start=INPUT)}
        fired = {source: m != 0 for source, m in sent.items()}
        # Of each neuron, over steps and samples: synaptic operations need no more.
        often = {source: f.sum(axis=(0, 1), dtype=np.int64) for source, f in fired.items()}
        self.input_spikes += int(often[INPUT].sum())
        busy = _Busy(self.part, messages[0].shape[:2]) if self._timed else None
        for index in range(len(self.network.layers)):
            self.spikes[index] += often[index].sum()
            for synapse, source, late in connections(self.network, index):
                heard = often[source]
                if late:
                    heard = heard - fired[source][-1].sum(axis=0)
                self.ops[index] += (heard * self.fan_outs[id(synapse), source]).sum()
            active, events = self._driven(index, fired)
            self.active[index] += active.sum()
            if busy is not None:
                busy.add(index, active, events)
            for carrying, sources in self.network.synapses(index):
                if not isinstance(carrying, Inject):
                    self._effective(index, carrying, sources, sent)
        if self.part is not None:
            for source, fan_out in self.part.fan_outs.items():
                self.sent += int((often[source] * fan_out).sum())
        if busy is not None:
            self.busy_ns += busy.total()

    @property
    def _timed(self) -> bool:
        return self.part is not None and self.part.cores <= self.part.chip.cores

    def _driven(
        self, index: int, fired: dict[int, NDArray[np.bool_]]
    ) -> tuple[NDArray[np.bool_], Iterator[tuple[Connection, _Ints]]]:
        """Which neurons a spike came to, ``[T, n, *shape]``; and for each connection how many came:
        ``[T, n]`` to every neuron alike, or ``[T, n, groups, H, W]``."""
        shape = self.network.shapes[index]
        active = np.zeros((*fired[INPUT].shape[:2], *shape), dtype=np.bool_)
        if isinstance(self.network.layers[index].synapse, Inject):
            active |= fired[INPUT]
        events = []
        for connection in connections(self.network, index):
            spikes = _late(fired[connection.source], connection.late)
            came = _events(connection.synapse, spikes)
            events.append((connection, came))
            if isinstance(connection.synapse, Conv):
                per_group = shape[0] // connection.synapse.groups
                active |= np.repeat(came > 0, per_group, axis=2)
            elif isinstance(connection.synapse, Dense) and connection.synapse.delay is not None:
                active |= _delayed(connection.synapse.delay, spikes)
            else:
                active |= (came > 0)[..., None]
        return active, iter(events)

    def _effective(
        self, index: int, synapse: _Synapse, sources: Sequence[int], sent: dict[int, NDArray[Any]]
    ) -> None:
        """NeuroBench's synaptic operations: it sees the sum of what a synapse carries."""
        x = np.sum([_late(sent[s].astype(np.int64), int(s >= index)) for s in sources], axis=0)
        weights = _fan_out(synapse, x.shape[2:], zeros=False)
        inside = tuple(range(2, x.ndim))
        spiking = (np.abs(x) <= 1).all(axis=inside)  # of each step of each sample
        ops = ((x != 0) * weights).sum(axis=inside)
        self.acs[index] += ops[spiking].sum()
        self.macs[index] += ops[~spiking].sum()

    def counts(self, samples: int, steps: int) -> Counts:
        """All that was added, of ``samples`` samples."""
        network = self.network
        layers = []
        for index, (name, shape) in enumerate(zip(network.names, network.shapes, strict=True)):
            neurons = math.prod(shape)
            updates = neurons * steps * samples
            dense = sum(
                int(_fan_out(synapse, network.shape_of(sources[0])).sum())
                for synapse, sources in network.synapses(index)
                if not isinstance(synapse, Inject)
            )
            neuron = network.layers[index].neuron
            silent = neuron.vth is None and not neuron.graded
            layers.append(
                LayerCounts(
                    name,
                    neurons,
                    int(self.spikes[index]),
                    0 if silent else updates,
                    int(self.ops[index]),
                    updates,
                    int(self.active[index]),
                    int(self.acs[index]),
                    int(self.macs[index]),
                    dense * steps * samples,
                )
            )
        return Counts(
            samples, steps, self.input_spikes, tuple(layers), self._model(layers, samples, steps)
        )

    def _model(self, layers: Sequence[LayerCounts], samples: int, steps: int) -> Model | None:
        if self.part is None or self.part.chip.cost is None:
            return None
        cost, on = self.part.chip.cost, self.part.chip
        ops, updates, active = (
            sum(getattr(layer, what) for layer in layers) / samples
            for what in ("synaptic_ops", "updates", "active")
        )
        through = steps + max(self.network.arrivals)
        busy = barrier = None
        if self._timed:
            busy = self.busy_ns / samples
            # Published for one tile and for all of them: between these, in proportion.
            tiles = math.ceil(self.part.cores / math.ceil(on.cores / cost.tiles))
            share = (tiles - 1) / max(1, cost.tiles - 1)
            step = cost.barrier_first_ns + share * (cost.barrier_last_ns - cost.barrier_first_ns)
            barrier = through * step
        return Model(
            on.name,
            ops * cost.synaptic_op_pj,
            active * cost.active_update_pj,
            (updates - active) * cost.idle_update_pj,
            self.sent / samples * cost.spike_pj,
            busy,
            barrier,
            through,
        )


class _Busy:
    """What each core does in each step, in ns: the busiest says how long the step takes.

    A layer's step t is the chip's step t + arrival; before and after its window a neuron idles.
    """

    def __init__(self, part: Partition | None, size: tuple[int, int]) -> None:
        assert part is not None
        assert part.chip.cost is not None
        self.part, self.cost, self.steps = part, part.chip.cost, size[0]
        through = size[0] + max(part.network.arrivals)
        idle = part.usage[:, 0] * self.cost.idle_update_ns
        self.ns = np.broadcast_to(idle, (through, size[1], part.cores)).copy()
        # [pieces, cores]: several pieces of a layer may be on one core.
        self.on_core = [
            np.eye(part.cores)[[piece.core for piece in part.of(index)]]
            for index in range(len(part.grids))
        ]

    def add(
        self,
        index: int,
        active: NDArray[np.bool_],
        events: Iterator[tuple[Connection, _Ints]],
    ) -> None:
        """A layer's active updates and synaptic operations."""
        grid = self.part.grids[index]
        more = self.cost.active_update_ns - self.cost.idle_update_ns
        took = more * grid.sums(active.astype(np.int64))
        for connection, came in events:
            took = took + self.cost.synaptic_op_ns * _operations(connection, came, grid)
        arrival = self.part.network.arrivals[index]
        window = self.ns[arrival : arrival + self.steps]
        window += took.reshape(*took.shape[:2], -1) @ self.on_core[index]

    def total(self) -> float:
        """Over all steps and samples, of the busiest core of each."""
        return float(self.ns.max(axis=2).sum())


# --- how spikes spread --------------------------------------------------------------------------


def _synapses(network: Network) -> Iterator[_Synapse]:
    for index in range(len(network.layers)):
        for synapse, _ in network.synapses(index):
            if not isinstance(synapse, Inject):
                yield synapse


def _late(messages: NDArray[Any], late: int) -> NDArray[Any]:
    """``[T, …]`` of ``late`` steps before; nothing before the first."""
    if not late:
        return messages
    return np.concatenate([np.zeros_like(messages[:late]), messages[:-late]])


def _fan_out(synapse: _Synapse, shape: Shape, zeros: bool = True) -> _Ints:
    """Synapses of each input, ``[*shape]``; without those whose weight is 0 if not ``zeros``."""
    there = np.ones_like(synapse.weight) if zeros else synapse.weight != 0
    if not isinstance(synapse, Conv):
        return there.sum(axis=0, dtype=np.int64).reshape(shape)
    groups = there.reshape(synapse.groups, -1, *there.shape[1:])
    taps = groups.sum(axis=1, dtype=np.int64).reshape(shape[0], *there.shape[2:])
    # hits[k, i]: whether an output hears input i through tap k of the kernel.
    hits = []
    for axis in axes(synapse, shape):
        at = axis.at(0, axis.outputs)
        inside = (at >= 0) & (at < axis.inputs)
        hits.append(
            [np.bincount(a[i], minlength=axis.inputs) for a, i in zip(at.T, inside.T, strict=True)]
        )
    return np.einsum("cij,iy,jx->cyx", taps, *hits)


def _events(synapse: _Synapse, spikes: NDArray[np.bool_]) -> _Ints:
    """Spikes ``[T, n, …]`` that come to a neuron through its synapses, weights of 0 included."""
    if not isinstance(synapse, Conv):
        came = spikes.reshape(*spikes.shape[:2], -1).sum(axis=2, dtype=np.int64)
        return came * (2 if isinstance(synapse, ComplexDense) else 1)
    steps, samples, channels, height, width = spikes.shape
    per_group = spikes.reshape(steps, samples, synapse.groups, -1, height, width).sum(axis=3)
    vertical, horizontal = axes(synapse, (channels, height, width))
    for axis, dimension in ((vertical, 3), (horizontal, 4)):
        at = axis.at(0, axis.outputs)
        inside = (at >= 0) & (at < axis.inputs)
        heard = np.take(per_group, np.where(inside, at, 0), axis=dimension)
        heard *= inside.reshape(*inside.shape, *(1,) * (4 - dimension))
        per_group = heard.sum(axis=dimension + 1)
    return per_group


def _delayed(delay: NDArray[np.int32], spikes: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which neurons spikes reach in each step, ``[T, n, out]``, each after its synapse's delay."""
    flat = spikes.reshape(*spikes.shape[:2], -1)
    reached = np.zeros((*flat.shape[:2], len(delay)), dtype=np.bool_)
    for late in np.unique(delay):
        if late < len(flat):
            hits = flat[: len(flat) - late].astype(np.float32) @ (delay == late).T.astype(
                np.float32
            )
            reached[late:] |= hits > 0
    return reached


def _operations(connection: Connection, came: _Ints, grid: Grid) -> _Ints:
    """Synaptic operations of each piece of a layer, ``[T, n, *blocks]``."""
    if not isinstance(connection.synapse, Conv):
        return came[..., None] * grid.lengths(0)
    groups = connection.synapse.groups
    size = grid.shape[0] // groups
    # How many channels of each group a block has.
    shares = np.array(
        [
            [max(0, min(stop, (g + 1) * size) - max(start, g * size)) for g in range(groups)]
            for start, stop in grid.ranges(0)
        ]
    )
    images = Grid((groups, *grid.shape[1:]), (np.arange(groups), *grid.starts[1:]))
    return np.einsum("tngyx,cg->tncyx", images.sums(came), shares)
