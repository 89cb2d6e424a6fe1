"""Which neurons go on which core: a partition that keeps a chip's limits, and a picture of it.

What a core holds is what Davies et al. 2018 (IEEE Micro 38(1), p. 89) say of Loihi: its neurons,
the synapses that end at them, an input axon for each neuron that it hears, and an output axon for
each way from one of its neurons to a core that hears it. Of each there is so much. The rule here is
plain: layers are cut into pieces as large as an empty core takes, and each piece goes to the first
core that has room for it.

- A dense layer is cut by neurons. Every piece hears all of its inputs.
- A layer of images is cut into bands of rows, of all channels or some, whichever makes fewer pieces
  and then fewer axons; rows are cut too where one is too long. Neurons that lie close hear the same
  inputs, and the channels of a grouped convolution only their own.
- Convolutions are counted unrolled, each neuron with a copy of its kernel, but for taps in the
  padding. Chips can share kernels; no public source says at what cost.
- Each source that a synapse adds up has axons and synapses of its own, and so has carried input
  (:attr:`loihi.network.Layer.carry`): its spikes come from other neurons, or at another step.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from loihi import formats
from loihi.boards import Chip
from loihi.errors import PumiceError
from loihi.network import INPUT, ComplexDense, Conv, Dense, Inject, Network, Shape

RESOURCES = ("neurons", "synapses", "axons in", "axons out")
"""What a core has so much of."""
OUT = RESOURCES[3]
PIECES_MAX = 2**16
"""More pieces than that are no chip's, but figures gone wrong."""
NEURONS_MAX = 2**26
"""A layer of more is not looked at."""
SWEEPS = 100
LINES_MAX = 64

_Counts = NDArray[np.int64]


class PartitionError(PumiceError):
    """A network and figures of a chip that no partition could be written down for."""


class Connection(NamedTuple):
    """A synapse, one of the sources that it carries, and the steps by which that is late."""

    synapse: Dense | Conv | ComplexDense
    source: int
    late: int


def connections(network: Network, index: int) -> Iterator[Connection]:
    """What a layer needs on a chip: its synapses, once for each source, and those it carries."""
    by: int | None = index
    while by is not None:
        for synapse, sources in network.synapses(by):
            if not isinstance(synapse, Inject):
                yield from (Connection(synapse, source, int(source >= by)) for source in sources)
        by = network.layers[by].carry


def synapse_bits(synapse: Dense | Conv | ComplexDense, on: Chip) -> int:
    """Bits that a pair of neurons takes in a core: weight and delay, two weights if complex."""
    weights = (synapse.weight,)
    if isinstance(synapse, ComplexDense):
        weights = (synapse.real, synapse.imag)  # type: ignore[assignment]
    bits = 0
    for weight in weights:
        found = formats.weight_format(weight).bits
        bits += on.stored_bits(found) or found
    if isinstance(synapse, Dense) and synapse.delay is not None:
        bits += int(synapse.delay.max()).bit_length()
    return bits


# --- geometry of a convolution ------------------------------------------------------------------


@dataclass(frozen=True)
class Axis:
    """One dimension of a convolution: output o hears inputs o · stride − padding + dilation · k."""

    inputs: int
    outputs: int
    kernel: int
    stride: int
    padding: int
    dilation: int

    def taps(self, start: int, stop: int) -> NDArray[np.intp]:
        """The inputs that outputs ``start`` to ``stop`` hear, one for each tap within the image."""
        at = self.at(start, stop)
        return at[(at >= 0) & (at < self.inputs)]

    def at(self, start: int, stop: int) -> NDArray[np.intp]:
        """Where the taps of outputs ``start`` to ``stop`` lie, ``[stop − start, kernel]``."""
        first = np.arange(start, stop)[:, None] * self.stride - self.padding
        return first + self.dilation * np.arange(self.kernel)

    def fan_in(self) -> _Counts:
        """How many inputs each output hears: taps within the image."""
        at = self.at(0, self.outputs)
        return ((at >= 0) & (at < self.inputs)).sum(axis=1)

    def fan_out(self) -> _Counts:
        """How many outputs hear each input."""
        return np.bincount(self.taps(0, self.outputs), minlength=self.inputs)


def axes(synapse: Conv, shape: Shape) -> tuple[Axis, Axis]:
    """Rows and columns of a convolution of images ``(C, H, W)``."""
    out, kernel = synapse.output_shape(shape), synapse.weight.shape[2:]
    vertical, horizontal = (
        Axis(n, o, k, s, p, d)
        for n, o, k, s, p, d in zip(
            shape[1:],
            out[1:],
            kernel,
            synapse.strides,
            synapse.paddings,
            synapse.dilations,
            strict=True,
        )
    )
    return vertical, horizontal


# --- a layer in pieces --------------------------------------------------------------------------


@dataclass(frozen=True)
class Grid:
    """Where a layer is cut: in each dimension of its shape, where the blocks start."""

    shape: Shape
    starts: tuple[_Counts, ...]

    @property
    def blocks(self) -> tuple[int, ...]:
        """How many there are along each dimension."""
        return tuple(len(starts) for starts in self.starts)

    def ranges(self, dimension: int) -> list[tuple[int, int]]:
        """Start and stop of each block along a dimension."""
        edges = [*self.starts[dimension].tolist(), self.shape[dimension]]
        return list(itertools.pairwise(edges))

    def lengths(self, dimension: int) -> _Counts:
        """How long each block is along a dimension."""
        return np.diff([*self.starts[dimension], self.shape[dimension]])

    @property
    def ranges_of_all(self) -> list[list[tuple[int, int]]]:
        """The ranges of every dimension: grids are the same where these are."""
        return [self.ranges(dimension) for dimension in range(len(self.shape))]

    def sums(self, per_neuron: NDArray[Any]) -> NDArray[Any]:
        """Sums of values ``[..., *shape]`` over each block: ``[..., *blocks]``."""
        first = per_neuron.ndim - len(self.shape)
        for dimension, starts in enumerate(self.starts):
            if len(starts) == self.shape[dimension]:
                continue
            per_neuron = np.add.reduceat(per_neuron, starts, axis=first + dimension)
        return per_neuron


@dataclass(frozen=True)
class Load:
    """What the pieces of a layer take of a core, ``[*blocks]`` each."""

    neurons: _Counts
    bits: _Counts
    axons_in: _Counts
    axons_out: _Counts

    @property
    def of_resources(self) -> tuple[_Counts, _Counts, _Counts, _Counts]:
        """One of each of :data:`RESOURCES`."""
        return self.neurons, self.bits, self.axons_in, self.axons_out


@dataclass(frozen=True)
class Broken:
    """A limit that already one neuron of a layer breaks: it is left out of account there.

    resource: one of :data:`RESOURCES`. used, allowed: of one neuron, in bits for synapses; where
    only a layer in a loop breaks it, with any cut, of its largest piece.
    """

    layer: int
    resource: str
    used: int
    allowed: int


@dataclass(frozen=True)
class Piece:
    """Neurons of a layer that share a core.

    start, stop: the first and one past the last, in each dimension of the layer's shape.
    """

    layer: int
    core: int
    start: tuple[int, ...]
    stop: tuple[int, ...]
    neurons: int
    synapse_bits: int
    axons_in: int
    axons_out: int

    @property
    def load(self) -> tuple[int, int, int, int]:
        """What it takes of :data:`RESOURCES`."""
        return self.neurons, self.synapse_bits, self.axons_in, self.axons_out


@dataclass(frozen=True, eq=False)
class Partition:
    """A network on the cores of a chip.

    pieces: in the order of layers. broken: limits that no partition can keep. apart: whether no
    two layers share a core. cores, cores_apart: how many are taken, and would be if apart.
    grids, fan_outs: where each layer is cut, and how many input axons each of its neurons feeds
    (of the input too, for :data:`loihi.network.INPUT`).
    """

    network: Network
    chip: Chip
    apart: bool
    pieces: tuple[Piece, ...]
    broken: tuple[Broken, ...]
    cores: int
    cores_apart: int
    grids: tuple[Grid, ...] = field(repr=False)
    fan_outs: dict[int, _Counts] = field(repr=False)

    @property
    def chips(self) -> int:
        """Chips that the cores take."""
        return math.ceil(self.cores / self.chip.cores)

    @property
    def fits(self) -> bool:
        """Whether the board has as many cores, and no limit is broken."""
        return self.cores <= self.chip.cores * self.chip.chips and not self.broken

    @cached_property
    def usage(self) -> _Counts:
        """What is taken of each core, ``[cores, resources]``."""
        used = np.zeros((self.cores, len(RESOURCES)), dtype=np.int64)
        for piece in self.pieces:
            used[piece.core] += piece.load
        return used

    def of(self, layer: int) -> list[Piece]:
        """The pieces of a layer."""
        return [piece for piece in self.pieces if piece.layer == layer]

    def as_dict(self) -> dict[str, Any]:
        """The partition, ready for JSON."""
        return {
            "cores": self.cores,
            "cores_apart": self.cores_apart,
            "chips": self.chips,
            "apart": self.apart,
            "fits": self.fits,
            "broken": [asdict(found) for found in self.broken],
            "pieces": [asdict(piece) for piece in self.pieces],
        }

    def picture(self, width: int = 80) -> str:
        """The cores in plain text: whose neurons each holds, and how full it is."""
        return "\n".join([*self._map(width), "", *self._legend()])

    def _map(self, width: int) -> Iterator[str]:
        limits = _limits(self.chip)
        residents: list[set[int]] = [set() for _ in range(self.cores)]
        for piece in self.pieces:
            residents[piece.core].add(piece.layer)
        digits = len(str(len(self.network.layers) - 1))
        total = self.chip.cores * max(self.chips, 1)
        head = len(f"core {total - 1}")
        in_a_line = max(4, (width - head - 2) // (digits + 3) // 4 * 4)
        way = "layers apart" if self.apart else "first fit"
        there = self.chip.cores * self.chip.chips
        yield f"{self.cores} of {there} cores of {self.chip.name}, {way}"
        yield ""
        lines = 0
        for chip in range(max(self.chips, 1)):
            if self.chips > 1:
                yield f"chip {chip}"
            for first in range(chip * self.chip.cores, (chip + 1) * self.chip.cores, in_a_line):
                if lines == LINES_MAX:
                    taken = "free" if first >= self.cores else "taken, --json has them"
                    yield f"… cores from {first} on: {taken}"
                    return
                lines += 1
                cells = []
                for core in range(first, min(first + in_a_line, (chip + 1) * self.chip.cores)):
                    if core >= self.cores:
                        cells.append(f"{'·':>{digits}}")
                        continue
                    share = max(
                        used / limit
                        for used, limit in zip(self.usage[core].tolist(), limits, strict=True)
                        if limit is not None
                    )
                    more = "+" if len(residents[core]) > 1 else ""
                    cells.append(f"{min(residents[core]):>{digits}}{_bar(share)}{more}")
                line = " ".join(f"{cell:<{digits + 2}}" for cell in cells)
                yield f"{f'core {first}':<{head}}  {line}".rstrip()

    def _legend(self) -> Iterator[str]:
        """The layers, and how full each one's fullest piece makes a core."""
        limits = _limits(self.chip)
        rows = [("layer", "neurons", "cores", *(f"{name} %" for name in RESOURCES))]
        for index, name in enumerate(self.network.names):
            pieces = self.of(index)
            most = np.max([piece.load for piece in pieces], axis=0).tolist()
            shares = (
                "–" if limit is None else f"{100 * used / limit:.0f}"
                for used, limit in zip(most, limits, strict=True)
            )
            neurons, cores = sum(p.neurons for p in pieces), len({p.core for p in pieces})
            rows.append((name, str(neurons), str(cores), *shares))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            cells = [
                f"{cell:<{width}}" if place == 0 else f"{cell:>{width}}"
                for place, (cell, width) in enumerate(zip(row, widths, strict=True))
            ]
            yield "  ".join(cells)
        yield ""
        yield "A cell: the core's layer, how full it is of what is scarcest there, + where further"
        yield "layers share it. %: the most that a piece of the layer takes of a core."


def partition(network: Network, on: Chip, apart: bool = False) -> Partition:
    """``network`` on the cores of ``on``, first fit; ``apart``: no core holds two layers.

    A limit that one neuron alone breaks is noted (:attr:`Partition.broken`) and passed over. Raises
    :class:`PartitionError` where there would be more than :data:`PIECES_MAX` pieces.
    """
    cutter = _Cutter(network, on)
    cutter.cut()
    loads = [cutter.load(index, grid) for index, grid in enumerate(cutter.grids)]
    placed = {way: _place(loads, on, way) for way in (False, True)}
    pieces = []
    for index, (grid, load) in enumerate(zip(cutter.grids, loads, strict=True)):
        corners = grid.ranges_of_all
        for place, core in zip(np.ndindex(grid.blocks), placed[apart][index], strict=True):
            start, stop = zip(*(c[p] for c, p in zip(corners, place, strict=True)), strict=True)
            pieces.append(
                Piece(
                    index,
                    core,
                    start,
                    stop,
                    int(load.neurons[place]),
                    int(load.bits[place]),
                    int(load.axons_in[place]),
                    int(load.axons_out[place]),
                )
            )
    shared, separate = (1 + max(map(max, placed[way])) for way in (False, True))
    return Partition(
        network,
        on,
        apart,
        tuple(pieces),
        tuple(sorted(cutter.broken.values(), key=lambda b: (b.layer, RESOURCES.index(b.resource)))),
        separate if apart else shared,
        separate,
        tuple(cutter.grids),
        {source: cutter.fan_out(source) for source in range(INPUT, len(network.layers))},
    )


def _limits(on: Chip) -> tuple[int, int, int | None, int | None]:
    """What a core has of :data:`RESOURCES`, None where not known."""
    return on.neurons, 8 * on.synapse_bytes, on.axons, on.axons_out


def _bar(share: float) -> str:
    return "!" if share > 1 else "▁▂▃▄▅▆▇█"[min(7, max(0, math.ceil(8 * share) - 1))]


def _place(loads: Sequence[Load], on: Chip, apart: bool) -> list[list[int]]:
    """The core of every piece of every layer: the first that has room."""
    limits = [2**62 if limit is None else limit for limit in _limits(on)]
    count = sum(load.neurons.size for load in loads)
    free = np.tile(np.array(limits, dtype=np.int64), (count, 1))
    used = first = 0
    found = []
    for load in loads:
        needs = np.stack([array.reshape(-1) for array in load.of_resources], axis=1)
        cores: list[int] = []
        if apart:
            first = used
        for place, need in enumerate(needs):
            # Where a piece as small as this one has found no room, this one finds none either.
            start = cores[-1] if place and (need >= needs[place - 1]).all() else first
            room = (free[start:used] >= need).all(axis=1)
            core = start + int(room.argmax()) if room.any() else used
            used = max(used, core + 1)
            free[core] -= need
            cores.append(core)
        found.append(cores)
    return found


class _Cutter:
    """Cuts the layers of a network into pieces.

    How many output axons a neuron takes depends on how the layers that it feeds are cut: so the
    last is cut first. Loops are gone round until nothing changes any more.
    """

    def __init__(self, network: Network, on: Chip) -> None:
        self.network, self.limits = network, _limits(on)
        self.wires: list[list[_Wire]] = []
        bits: dict[int, int] = {}
        for index in range(len(network.layers)):
            wires = []
            for synapse, source, _ in connections(network, index):
                if id(synapse) not in bits:
                    bits[id(synapse)] = synapse_bits(synapse, on)
                wires.append(_Wire(synapse, source, network.shape_of(source), bits[id(synapse)]))
            self.wires.append(wires)
        self.grids: list[Grid] = []
        self.broken: dict[tuple[int, str], Broken] = {}
        # What was broken once stays out of account: a loop would go to and fro else.
        self.lost: set[tuple[int, str]] = set()

    def cut(self) -> None:
        shapes = self.network.shapes
        largest = max(math.prod(shape) for shape in (self.network.input_shape, *shapes))
        if largest > NEURONS_MAX:
            raise PartitionError(f"a layer of {largest:,} neurons is past all chips")
        self.grids = [_cut_evenly(shape, shape) for shape in shapes]
        for _ in range(SWEEPS):
            before = [grid.ranges_of_all for grid in self.grids]
            self.broken.clear()
            for index in reversed(range(len(shapes))):
                self.grids[index] = self._cut(index)
            if sum(math.prod(grid.blocks) for grid in self.grids) > PIECES_MAX:
                raise PartitionError(
                    f"the network falls into over {PIECES_MAX:,} pieces: the figures of the chip "
                    "are too small for it"
                )
            if before == [grid.ranges_of_all for grid in self.grids]:
                break
        # Of loops, where cutting adds output axons: what the cut that stands does not keep.
        for index, grid in enumerate(self.grids):
            used, limit = int(self.load(index, grid).axons_out.max()), self.limits[3]
            if limit is not None and used > limit and (index, OUT) not in self.broken:
                self.broken[index, OUT] = Broken(index, OUT, used, limit)

    def fan_out(self, source: int) -> _Counts:
        """How many input axons each neuron of ``source`` feeds, ``[*shape]``."""
        total = np.zeros(self.network.shape_of(source), dtype=np.int64)
        for grid, wires in zip(self.grids, self.wires, strict=True):
            for wire in wires:
                if wire.source == source:
                    total += wire.pieces_that_hear(grid)
        return total

    def load(self, index: int, grid: Grid) -> Load:
        """What the pieces of a layer take."""
        return Load(*self._inward(index, grid), grid.sums(self.fan_out(index)))

    def _inward(self, index: int, grid: Grid) -> tuple[_Counts, _Counts, _Counts]:
        """Neurons, bits of synapses and input axons of each piece."""
        neurons = np.ones((), dtype=np.int64)
        for dimension in range(len(grid.shape)):
            neurons = neurons[..., None] * grid.lengths(dimension)
        bits, axons = np.zeros_like(neurons), np.zeros_like(neurons)
        for wire in self.wires[index]:
            synapses, heard = wire.load(grid)
            bits, axons = bits + wire.bits * synapses, axons + heard
        return neurons, bits, axons

    def _cut(self, index: int) -> Grid:
        shape, fan_out = self.network.shapes[index], self.fan_out(index)
        # What the neuron that needs most cannot keep, no piece can. All channels need the same.
        one = (1, *shape[1:]) if len(shape) == 3 else (1,)
        _, bits, axons = self._inward(index, _cut_evenly(one, (1,) * len(one)))
        most = (1, int(bits.max()), int(axons.max()), int(fan_out.max()))
        limits: list[int] = []
        for resource, used, limit in zip(RESOURCES, most, self.limits, strict=True):
            if limit is not None and used > limit:
                self.broken[index, resource] = Broken(index, resource, used, limit)
                self.lost.add((index, resource))
            lost = limit is None or (index, resource) in self.lost
            limits.append(2**62 if lost or limit is None else limit)
        if len(shape) == 1:
            # All neurons of a dense layer are alike, and each piece hears all inputs.
            fit = min(limits[which] // most[which] for which in (0, 1, 3) if most[which])
            return _cut_evenly(shape, (min(shape[0], fit),))
        return self._cut_image(index, shape, fan_out, limits)

    def _cut_image(self, index: int, shape: Shape, fan_out: _Counts, limits: Sequence[int]) -> Grid:
        channels, rows, columns = map(_lengths, shape)
        for blocks in (
            [(c, r, shape[2]) for c in channels for r in rows],
            [(c, 1, w) for c in channels for w in columns],
        ):
            best: tuple[tuple[int, int], Grid] | None = None
            grids = [_cut_evenly(shape, b) for b in blocks if math.prod(b) <= limits[0]]
            for grid in sorted(grids, key=lambda grid: math.prod(grid.blocks)):
                pieces = math.prod(grid.blocks)
                if best is not None and pieces > best[0][0]:
                    break
                _, bits, axons = self._inward(index, grid)
                if bits.max() > limits[1] or axons.max() > limits[2]:
                    continue
                if grid.sums(fan_out).max() > limits[3]:
                    continue
                score = (pieces, int(axons.sum()))
                if best is None or score < best[0]:
                    best = score, grid
            if best is not None:
                return best[1]
        raise AssertionError("a block of one neuron keeps every limit that is left")


class _Wire:
    """A connection, as its geometry: what the pieces of a layer hear of a source."""

    def __init__(
        self, synapse: Dense | Conv | ComplexDense, source: int, shape: Shape, bits: int
    ) -> None:
        self.source, self.shape, self.bits = source, shape, bits
        self.conv: Conv | None = None
        if isinstance(synapse, Conv):
            self.conv = synapse
            self.axes = axes(synapse, shape)
            self.channels_in = synapse.weight.shape[1]  # of a group
            self.channels_out = synapse.weight.shape[0] // synapse.groups
        self._seen: dict[tuple[int, int], tuple[_Counts, _Counts, _Counts]] = {}

    def load(self, grid: Grid) -> tuple[_Counts, _Counts]:
        """Synapses and input axons of each piece, ``[*blocks]``."""
        lengths = grid.lengths(0)
        if self.conv is None:
            inputs = math.prod(self.shape)
            return inputs * lengths, np.full_like(lengths, inputs)
        groups = np.array([stop - start for start, stop in self._groups(grid)])
        (row_taps, rows, _), (column_taps, columns, _) = self._along(grid, 0), self._along(grid, 1)
        synapses = _outer(lengths * self.channels_in, row_taps, column_taps)
        return synapses, _outer(groups * self.channels_in, rows, columns)

    def pieces_that_hear(self, grid: Grid) -> _Counts:
        """How many pieces hear each neuron of the source, ``[*shape]``."""
        if self.conv is None:
            return np.full(self.shape, grid.blocks[0], dtype=np.int64)
        channels = np.zeros(self.conv.groups, dtype=np.int64)
        for start, stop in self._groups(grid):
            channels[start:stop] += 1
        rows, columns = self._along(grid, 0)[2], self._along(grid, 1)[2]
        return _outer(np.repeat(channels, self.channels_in), rows, columns)

    def _groups(self, grid: Grid) -> list[tuple[int, int]]:
        """First and one past the last group of each block of channels."""
        size = self.channels_out
        return [(start // size, (stop - 1) // size + 1) for start, stop in grid.ranges(0)]

    def _along(self, grid: Grid, which: int) -> tuple[_Counts, _Counts, _Counts]:
        """Of blocks of rows (0) or columns (1): taps and inputs of each; who hears each input."""
        # Blocks are of equal length but for the last: their first length says all.
        key = which, grid.ranges(1 + which)[0][1]
        if key not in self._seen:
            axis = self.axes[which]
            taps = [axis.taps(start, stop) for start, stop in grid.ranges(1 + which)]
            unique = [np.unique(found) for found in taps]
            self._seen[key] = (
                np.array([found.size for found in taps]),
                np.array([found.size for found in unique]),
                np.bincount(np.concatenate(unique), minlength=axis.inputs),
            )
        return self._seen[key]


def _outer(channels: _Counts, rows: _Counts, columns: _Counts) -> _Counts:
    return channels[:, None, None] * rows[:, None] * columns


def _cut_evenly(shape: Shape, block: Sequence[int]) -> Grid:
    """Blocks of one size, the last in each dimension what is left."""
    starts = (np.arange(0, n, max(1, size)) for n, size in zip(shape, block, strict=True))
    return Grid(shape, tuple(starts))


def _lengths(total: int) -> list[int]:
    """Lengths that divide ``total`` into 1, 2, 3, … blocks as equal as can be, longest first."""
    return sorted({math.ceil(total / parts) for parts in range(1, total + 1)}, reverse=True)
