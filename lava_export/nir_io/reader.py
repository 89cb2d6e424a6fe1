"""NIR graphs of other frameworks as layers of real neurons (:mod:`loihi.quantise`).

Every layer is a node of neurons, or an output without any. What feeds it are the ways from other
neurons, or the input, through linear nodes: each becomes one synapse
(:mod:`lava_export.nir_io.linear`), and their biases the bias of the neurons. A convolution in one
dimension is one over images of one row, and ``(C, L)`` is ``(C, 1, L)``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from lava_export.nir_io import linear
from lava_export.nir_io.hdf5 import NirError, bounded, mapping, pairs
from lava_export.nir_io.linear import Delayed, Diagonal, Kernel, Map, Matrix, Real, sized
from lava_export.nir_io.neurons import Decays, RealNeurons, neurons_of
from lava_export.nir_io.nodes import (
    NEURONS,
    Node,
    at,
    check_neurons,
    flattened,
    padding_of,
    pair,
    shape_of,
    spread,
)
from loihi import Encoding, formats
from loihi.network import INPUT, Shape
from loihi.neurons import Reset
from loihi.quantise import RealLayer, RealSynapse

CurrentBias = Literal["exact", "settled"]
LINEAR: tuple[str, ...] = (
    "Affine",
    "Linear",
    "Conv1d",
    "Conv2d",
    "SumPool2d",
    "AvgPool2d",
    "Flatten",
    "Delay",
    "Scale",
    "Identity",  # ours: the ends of a graph within a graph
)
NODES = 4096
"""No more nodes than this in a graph."""
ROW = 64
"""No more linear nodes than this in a row, and no more ways between two layers of neurons."""
Term = tuple[tuple[str, ...], tuple[str, ...]]
"""A way into neurons: the nodes it comes from, and the linear nodes that it goes through."""
CLOCK = "spikes in every step, to bring the bias that flows into u in NIR"
SETTLED = (
    "its bias flows into u in NIR, and into v here, as large as it is when u has settled: the "
    "first steps differ"
)
_ONE = (np.ones(1), np.ones(1))
SUMS = "an output without neurons: an integrator, which adds up its input"


class Reader:
    """A graph of another's on its way to layers."""

    def __init__(
        self,
        graph: Mapping[str, Any],
        dt: float,
        encoding: Encoding,
        values: tuple[float, float] | None,
        reset: Reset,
        decays: Decays,
        bias: CurrentBias,
    ) -> None:
        self.dt, self.reset, self.decays, self.bias = dt, reset, decays, bias
        self.unit, self.offset = _units(encoding, values)
        self.nodes: dict[str, Node] = {}
        edges = self._flatten(graph, "", 0)
        self.before: dict[str, list[str]] = {name: [] for name in self.nodes}
        self.after: dict[str, list[str]] = {name: [] for name in self.nodes}
        seen: set[tuple[str, str]] = set()
        for a, b in edges:
            if (a, b) in seen:
                raise NirError(f"the edge from {a} to {b} is there twice")
            seen.add((a, b))
            self.after[a].append(b)
            self.before[b].append(a)
        self.input = self._only_input()
        self.outputs = [name for name, node in self.nodes.items() if node.kind == "Output"]
        self._check_ends()
        self._made: dict[tuple[str, Shape, Shape], tuple[Map, ...]] = {}
        self._constants: dict[str, Real | None] = {}
        self.rounded: dict[str, float] = {}  # of delays: by how many steps
        self.shapes: dict[str, Shape] = {}  # of what a node gives, as NIR says it
        self.kept: dict[str, Shape] = {}  # as layers have it, where nothing is ever flattened
        self._infer_shapes()

    # -- what is there

    def _flatten(self, graph: Mapping[str, Any], prefix: str, depth: int) -> list[tuple[str, str]]:
        """Adds the nodes, those of graphs within graphs too; all edges."""
        where = f"graph {prefix[:-1]}: " if prefix else ""
        if depth > 8:
            raise NirError(f"{where}more than 8 graphs in each other")
        nodes = graph.get("nodes")
        if not isinstance(nodes, Mapping) or not nodes:
            raise NirError(f"{where}not a graph: it has no nodes")
        ways: dict[str, tuple[str, str]] = {}  # of each node: where edges to it and from it go
        edges: list[tuple[str, str]] = []
        for key, fields in nodes.items():
            name = prefix + str(key)
            kind = str(mapping(fields).get("type"))
            if kind == "NIRGraph":
                edges += self._flatten(fields, f"{name}/", depth + 1)
                inner = mapping(fields["nodes"])
                ends = []
                for end in ("Input", "Output"):
                    found = [k for k, n in inner.items() if mapping(n).get("type") == end]
                    if len(found) != 1:
                        raise NirError(f"graph {name}: {len(found)} nodes of type {end}, not one")
                    ends.append(f"{name}/{found[0]}")
                ways[str(key)] = ends[0], ends[1]
                continue
            if depth and kind in ("Input", "Output"):
                kind = "Identity"
            if kind not in (*LINEAR, *NEURONS, "Input", "Output"):
                raise NirError(f"node {name}: type {kind!r} is nothing that pumice knows of NIR")
            if len(self.nodes) == NODES:
                raise NirError(f"more than {NODES} nodes")
            self.nodes[name] = Node(name, kind, fields)
            ways[str(key)] = name, name
        for a, b in pairs(graph.get("edges")):
            for end in (a, b):
                if end not in ways:
                    raise NirError(f"{where}the edge from {a} to {b}: there is no node {end}")
            edges.append((ways[a][1], ways[b][0]))
        return edges

    def _only_input(self) -> str:
        inputs = [name for name, node in self.nodes.items() if node.kind == "Input"]
        if len(inputs) != 1:
            names = f" ({', '.join(inputs)})" if inputs else ""
            raise NirError(f"a network has one Input node, this graph {len(inputs)}{names}")
        return inputs[0]

    def _check_ends(self) -> None:
        if not self.outputs:
            raise NirError("the graph has no Output node")
        if self.before[self.input]:
            raise NirError(f"{self.before[self.input][0]} feeds the Input node {self.input}")
        for name in self.outputs:
            if self.after[name]:
                raise NirError(f"the Output node {name} feeds {self.after[name][0]}")
        for ends, ways, what in (
            ([self.input], self.after, "is reached from the Input node"),
            (self.outputs, self.before, "leads to an Output node"),
        ):
            seen, todo = set(ends), list(ends)
            while todo:
                new = [n for n in ways[todo.pop()] if n not in seen]
                seen.update(new)
                todo += new
            if left := [name for name in self.nodes if name not in seen]:
                raise NirError(f"node {left[0]} ({self.nodes[left[0]].kind}): no way {what}")

    # -- shapes

    def _infer_shapes(self) -> None:
        """Of everything that a node gives, from the input on; a loop is fed from its outside."""
        shape = shape_of(self.nodes[self.input], "shape")
        self.shapes[self.input] = self.kept[self.input] = shape
        todo = [self.input]
        while todo:
            feeding = todo.pop()
            for name in self.after[feeding]:
                node = self.nodes[name]
                with at(name):
                    shapes = self._given(node, self.shapes[feeding], self.kept[feeding])
                if name not in self.shapes:
                    self.shapes[name], self.kept[name] = shapes
                    todo.append(name)
                elif shapes[0] != self.shapes[name]:
                    raise node.error(
                        f"it is fed {sized(self.shapes[feeding])} by {feeding}, which does not fit "
                        "what else feeds it"
                    )

    def _given(self, node: Node, shape: Shape, kept: Shape) -> tuple[Shape, Shape]:
        """What a node gives when it is fed ``shape``, which layers have as ``kept``."""
        if node.kind == "Flatten":
            return flattened(node, shape), kept
        if node.kind in NEURONS:
            check_neurons(node, kept)
        maps = self._maps(node, shape, kept) if node.kind in LINEAR else ()
        out = kept
        for one in maps:
            out = one.output_shape(out)
        moved = any(isinstance(one, Matrix | Kernel) for one in maps)
        return (out if moved else shape), out

    def _maps(self, node: Node, shape: Shape, kept: Shape) -> tuple[Map, ...]:
        """A linear node as maps, without its bias."""
        key = (node.name, shape, kept)
        if key not in self._made:
            self._made[key] = self._make(node, shape, kept)
        return self._made[key]

    def _make(self, node: Node, shape: Shape, kept: Shape) -> tuple[Map, ...]:
        name = node.name
        if node.kind in ("Flatten", "Identity"):
            return ()
        if node.kind in ("Affine", "Linear"):
            return (Matrix(name, node.weight(2)),)
        if node.kind in ("Scale", "Delay"):
            key = node.kind.lower()
            array = spread(node, key, node.array(key), kept)
            if node.kind == "Scale":
                return (Diagonal(name, array),)
            return (Delayed(name, self._steps(node, array)),)
        if shape != kept:
            raise node.error(f"it is fed what was {sized(kept)} before it was flattened")
        if len(shape) != 3:
            raise node.error(f"it takes images (C, H, W), it is fed {sized(shape)}")
        if node.kind in ("SumPool2d", "AvgPool2d"):
            kernel = node.integers("kernel_size", 1, 2)
            stride, padding = node.integers("stride", 1, 2), node.integers("padding", 0, 2)
            part = 1.0 if node.kind == "SumPool2d" else 1 / prod(kernel)
            bounded(name, shape[0] * prod(kernel))
            weight = np.full((shape[0], 1, *kernel), part)
            return (Kernel(name, weight, pair(stride), pair(padding), groups=shape[0]),)
        axes = 1 if node.kind == "Conv1d" else 2
        weight = node.weight(2 + axes)
        stride, dilation = node.integers("stride", 1, axes), node.integers("dilation", 1, axes)
        padding = padding_of(node, weight.shape[2:], stride, dilation)
        if axes == 1:  # an image of one row
            weight = weight[:, :, None]
            stride, padding, dilation = (1, *stride), (0, *padding), (1, *dilation)
        (groups,) = node.integers("groups", 1, 1)
        if weight.shape[0] % groups:
            raise node.error(f"{weight.shape[0]} channels do not divide into {groups} groups")
        return (Kernel(name, weight, pair(stride), pair(padding), pair(dilation), groups),)

    def _steps(self, node: Node, seconds: Real) -> NDArray[np.int64]:
        steps = np.rint(seconds / self.dt)
        if steps.min() < 0 or steps.max() > formats.DELAY_MAX:
            worst = steps.max() if steps.min() >= 0 else steps.min()
            raise node.error(
                f"a delay of {worst:g} steps of {self.dt:g} s: the chip has 0..{formats.DELAY_MAX} "
                "(is dt right?)"
            )
        if (off := float(np.abs(seconds / self.dt - steps).max())) > 0.01:
            self.rounded[node.name] = off
        return steps.astype(np.int64)

    # -- ways and constants

    def _terms(self, name: str, row: int = 0) -> list[Term]:
        """All ways into a node: those of the same linear nodes share a synapse."""
        if row > ROW:
            raise NirError(f"node {name}: more than {ROW} linear nodes in a row, or a loop of them")
        sources = tuple(
            sorted(p for p in self.before[name] if self.nodes[p].kind in (*NEURONS, "Input"))
        )
        found: list[Term] = [(sources, ())] if sources else []
        for before in self.before[name]:
            if self.nodes[before].kind in LINEAR:
                found += [
                    (its, (*through, before)) for its, through in self._terms(before, row + 1)
                ]
        if len(found) > ROW:
            raise NirError(f"node {name}: more than {ROW} ways lead into it")
        return found

    def _constant(self, name: str) -> Real | None:
        """What the biases of linear nodes, and an input's 0 that is not 0, add to what enters a
        node; None for nothing. In the kept shape."""
        total: Real | None = None
        for before in self.before[name]:
            node = self.nodes[before]
            given: Real | None = None
            if node.kind == "Input" and self.offset:
                given = np.full(self.kept[before], self.offset)
            elif node.kind in LINEAR:
                if before not in self._constants:
                    self._constants[before] = self._given_constant(node)
                given = self._constants[before]
            if given is not None:
                total = given if total is None else total + given
        return total

    def _given_constant(self, node: Node) -> Real | None:
        constant, name = self._constant(node.name), node.name
        feeding = self.before[name][0]
        if constant is not None:
            maps = self._maps(node, self.shapes[feeding], self.kept[feeding])
            with at(name):
                constant = linear.apply(maps, constant)
        if node.kind not in ("Affine", "Conv1d", "Conv2d") or node.fields.get("bias") is None:
            return constant
        bias, out = node.array("bias"), self.kept[name]
        if bias.size not in (1, out[0]):
            raise node.error(f"bias has shape {list(bias.shape)}, its weight gives {out[0]}")
        bias = bias.reshape(-1, *([1] * (len(out) - 1)))
        if not bias.any():
            return constant
        return np.broadcast_to(bias, out) + (0.0 if constant is None else constant)

    # -- layers

    def layers(self, output: str | None) -> tuple[list[RealLayer], Shape]:
        """The layers, the answer last, and the input's shape."""
        answer = self._answer(output)
        neurons = [name for name, node in self.nodes.items() if node.kind in NEURONS]
        for name in self.outputs:  # a sum of what an output is fed, unless that is one layer
            fed = self._terms(name)
            if not self._is_layer(fed):
                neurons.append(name)
        ways = {name: self._terms(name) for name in neurons}
        order = self._order(ways, answer)
        reals = {name: self._real(name) for name in order}
        index = {self.input: INPUT}
        for name in order:  # neurons that do for a bias come right before those they feed
            index[name] = max(index.values()) + 1 + self._clocked(*reals[name])
        made: list[RealLayer] = []
        for name in order:
            with at(name):
                made += self._layer(name, ways[name], index, *reals[name])
        return made, self.kept[self.input]

    def _is_layer(self, terms: Sequence[Term]) -> bool:
        """Whether an output is a layer as it is: no linear map, nothing added."""
        if len(terms) != 1 or len(terms[0][0]) != 1 or terms[0][0][0] == self.input:
            return False
        return all(self.nodes[n].kind in ("Flatten", "Identity") for n in terms[0][1])

    def _answer(self, output: str | None) -> str:
        """The node, neurons or an output that sums, that is the last layer."""
        if output is None:
            if len(self.outputs) > 1:
                names = ", ".join(self.outputs)
                raise NirError(f"{len(self.outputs)} outputs ({names}): say which is the answer")
            output = self.outputs[0]
        elif output not in self.outputs:
            raise NirError(f"there is no Output node {output}: there is {', '.join(self.outputs)}")
        terms = self._terms(output)
        return terms[0][0][0] if self._is_layer(terms) else output

    def _order(self, ways: Mapping[str, Sequence[Term]], answer: str) -> list[str]:
        """Each layer after those that feed it, and the answer last; a loop is entered where it is
        nearest to the input."""
        feeding = {
            name: {s for sources, _ in terms for s in sources} - {name, self.input}
            for name, terms in ways.items()
        }
        distance = self._distances()
        left = sorted(set(ways) - {answer}, key=lambda name: (distance[name], name))
        order: list[str] = []
        while left:
            waiting = {*left, answer}
            ready = (name for name in left if feeding[name].isdisjoint(waiting))
            order.append(next(ready, left[0]))
            left.remove(order[-1])
        order.append(answer)
        loop = _loops(feeding, order)
        for i, name in enumerate(order):
            for later in feeding[name].intersection(order[i + 1 :]):
                if loop[name] != loop[later]:
                    raise NirError(
                        f"{later} is the answer, and feeds {name} as well: the answer of a "
                        "network is its last layer"
                    )
        return order

    def _distances(self) -> dict[str, int]:
        found, todo = {self.input: 0}, [self.input]
        for name in todo:
            for after in self.after[name]:
                if after not in found:
                    found[after] = found[name] + 1
                    todo.append(after)
        return found

    def _real(self, name: str) -> tuple[RealNeurons, Real | None]:
        """A layer's neurons, and the constant that flows into them."""
        node = self.nodes[name]
        with at(name):
            constant = self._constant(name)
            if node.kind == "Output":
                return RealNeurons(1.0, 0.0, None, *_ONE, np.zeros(1), (SUMS,)), constant
            return neurons_of(node, self.kept[name], self.dt, self.reset, self.decays), constant

    def _clocked(self, real: RealNeurons, constant: Real | None) -> bool:
        """Whether a constant has to come by a synapse: the chip adds biases to v, past the current
        that it flows into here."""
        filtered = np.rint(formats.DECAY_ONE * real.du) < formats.DECAY_ONE
        return self.bias == "exact" and constant is not None and bool(filtered)

    def _layer(
        self,
        name: str,
        terms: Sequence[Term],
        index: Mapping[str, int],
        real: RealNeurons,
        constant: Real | None,
    ) -> list[RealLayer]:
        """The layer; before it, where it is needed, one that spikes in every step."""
        node, shape = self.nodes[name], self.kept[name]
        synapses = [
            self._scaled(node, synapse, real.gain) for synapse in self._synapses(node, terms, index)
        ]
        bias, notes = real.bias, real.notes
        for one in sorted({one for _, through in terms for one in through} & self.rounded.keys()):
            notes += (f"{one}: delays rounded by up to {self.rounded[one]:.2g} steps",)
        before: list[RealLayer] = []
        if self._clocked(real, constant):
            assert constant is not None
            flowing = np.broadcast_to(constant * _over(real.gain, constant.shape), shape)
            clock, synapse = _clock(node, flowing, synapses[0], index[name] - 1)
            before.append(clock)
            synapses.append(synapse)
        elif constant is not None:
            if not np.isfinite(real.settle).all():
                raise node.error("a bias flows into a current that never decays")
            bias = bias + constant * _over(real.settle, constant.shape)
            if real.du < 1:
                notes += (SETTLED,)
        layer = RealLayer(
            name,
            tuple(synapses),
            real.du,
            real.dv,
            real.threshold,
            _narrow(bias, shape),
            self.reset if real.threshold is not None else "hard",
            notes,
        )
        return [*before, layer]

    def _synapses(
        self, node: Node, terms: Sequence[Term], index: Mapping[str, int]
    ) -> list[RealSynapse]:
        """One for each way, those of the same sources in one where they are matrices."""
        found: list[RealSynapse] = []
        split: list[Term] = []
        for sources, through in terms:
            inside = tuple(s for s in sources if s != self.input)
            if inside != sources and inside and self.unit != 1:  # payloads of another unit
                split += [((self.input,), through), (inside, through)]
            else:
                split.append((sources, through))
        # What comes first says the layer's shape: rather not a loop.
        split.sort(key=lambda term: (max(index[s] for s in term[0]) >= index[node.name], term[1]))
        for sources, through in split:
            for source in sources:
                kind = self.nodes[source].kind
                if kind in ("CubaLI", "LI", "I"):
                    raise node.error(
                        f"{source} ({kind}) feeds it a membrane: the chip sends spikes"
                    )
            shapes = {self.kept[source] for source in sources}
            if len(shapes) > 1:
                raise node.error(f"{' and '.join(sources)} are added, and have different shapes")
            (shape,) = shapes
            maps: list[Map] = []
            given, kept = self.shapes[sources[0]], shape
            for one in through:
                its = self.nodes[one]
                new = self._maps(its, given, kept)
                given, kept = self._given(its, given, kept)
                maps += new
            merged, delay = linear.merge(maps, shape)
            if prod(kept) != prod(self.kept[node.name]):
                raise node.error(f"it is fed {sized(kept)}, and has {sized(self.kept[node.name])}")
            found.append(self._synapse(merged, delay, tuple(index[s] for s in sources)))
        return _joined(found)

    def _synapse(
        self, merged: Matrix | Kernel, delay: NDArray[np.int64] | None, sources: tuple[int, ...]
    ) -> RealSynapse:
        weight = merged.weight * self.unit if sources == (INPUT,) else merged.weight
        if isinstance(merged, Matrix):
            if delay is not None and delay.max() > formats.DELAY_MAX:
                raise NirError(
                    f"{merged.name}: {delay.max()} steps of delay, {formats.DELAY_MAX} at most"
                )
            return RealSynapse(weight, sources, delay)
        return RealSynapse(
            weight, sources, None, merged.stride, merged.padding, merged.dilation, merged.groups
        )

    def _scaled(self, node: Node, synapse: RealSynapse, gain: Real) -> RealSynapse:
        """With a factor for each neuron, or one for all."""
        if gain.size == 1:
            return replace(synapse, weight=synapse.weight * gain.reshape(()))
        if synapse.weight.ndim == 2:
            return replace(synapse, weight=synapse.weight * gain.reshape(-1, 1))
        channels = gain.reshape(len(synapse.weight), -1)
        if (np.ptp(channels, axis=1) > 1e-9 * np.abs(channels).max(axis=1)).any():
            raise node.error(
                "its threshold or resistance differs within a channel: a convolution has one "
                "weight for all of a channel"
            )
        return replace(synapse, weight=synapse.weight * channels[:, :1, None, None])


def _clock(
    node: Node, flowing: Real, fed_as: RealSynapse, index: int
) -> tuple[RealLayer, RealSynapse]:
    """Neurons that spike in every step, whatever they are fed, and the synapse by which they bring
    ``flowing``: as many as it takes to keep that among the other weights."""
    largest = float(np.abs(flowing).max())
    count = int(np.clip(np.ceil(largest / (np.abs(fed_as.weight).max() or largest)), 1, 64))
    quiet = replace(
        fed_as, weight=np.zeros((count, *fed_as.weight.shape[1:])), delay=None, groups=1
    )
    if fed_as.weight.ndim == 4:
        channels = fed_as.weight.shape[1] * fed_as.groups
        quiet = replace(quiet, weight=np.zeros((count, channels, *fed_as.weight.shape[2:])))
        if (flowing != flowing[:, :1, :1]).any():
            raise node.error(
                "the bias that flows into its current differs within a channel: no convolution "
                "brings that (bias=settled adds it to v instead)"
            )
        flowing = flowing[:, 0, 0]
    each = np.repeat(flowing.reshape(-1, 1) / count, count, axis=1)
    weight = each[:, :, None, None] if fed_as.weight.ndim == 4 else each
    clock = RealLayer(f"{node.name} bias", (quiet,), 1.0, 1.0, 0.0, 1.0, notes=(CLOCK,))
    return clock, RealSynapse(weight, (index,))


def _units(encoding: Encoding, values: tuple[float, float] | None) -> tuple[float, float]:
    """A payload p stands for p · unit + offset."""
    if values is None:
        return 1.0, 0.0
    low, high = (float(v) for v in values)
    if not (np.isfinite(low) and np.isfinite(high) and low < high):
        raise NirError(f"values {low:g}..{high:g} are not a range")
    first, last = encoding.payload
    unit = (high - low) / (last - first)
    return unit, low - first * unit


def _over(factor: Real, shape: Shape) -> Real:
    return factor if factor.size == 1 else factor.reshape(shape)


def _narrow(bias: Real, shape: Shape) -> Real | float:
    """One number where all are the same, else one a neuron."""
    if (bias == bias.flat[0]).all():
        return float(bias.flat[0])
    return np.broadcast_to(bias, shape)


def _joined(synapses: Sequence[RealSynapse]) -> list[RealSynapse]:
    """Matrices of the same sources in one, where no synapse would need two delays."""
    found: list[RealSynapse] = []
    for new in synapses:
        for place, old in enumerate(found):
            if new.sources != old.sources or new.weight.ndim != 2 or old.weight.ndim != 2:
                continue
            delays = [
                np.zeros(s.weight.shape, np.int64) if s.delay is None else s.delay
                for s in (old, new)
            ]
            both = (old.weight != 0) & (new.weight != 0)
            if (delays[0] == delays[1])[both].all():
                delay = np.where(new.weight != 0, delays[1], delays[0])
                found[place] = replace(
                    old, weight=old.weight + new.weight, delay=delay if delay.any() else None
                )
                break
        else:
            found.append(new)
    return found


def _loops(feeding: Mapping[str, set[str]], names: Sequence[str]) -> dict[str, int]:
    """The same number for those that feed each other, whatever the way."""
    index = {name: i for i, name in enumerate(names)}
    pairs = [(index[before], i) for i, name in enumerate(names) for before in feeding[name]]
    rows, columns = zip(*pairs, strict=True) if pairs else ((), ())
    edges = sparse.coo_matrix((np.ones(len(pairs)), (rows, columns)), (len(names), len(names)))
    _, loop = sparse.csgraph.connected_components(edges, connection="strong")
    return dict(zip(names, loop.tolist(), strict=True))
