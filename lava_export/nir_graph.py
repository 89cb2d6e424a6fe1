"""NIR in and out: networks as graphs of the Neuromorphic Intermediate Representation (nir 1.0).

NIR's neurons are differential equations in seconds. A step of the chip is their Euler step of dt,
the current first, then the membrane with the new current; S being what the node is fed in a step::

    CubaLIF    I = (1 − dt/τ_syn) I + (dt/τ_syn) w_in S
               v = (1 − dt/τ_mem) v + (dt/τ_mem) (v_leak + r I)
    LIF        v = (1 − dt/τ) v + (dt/τ) (v_leak + r S)
    IF         v = v + dt r S
    spike where v > v_threshold, then v = v_reset;     CubaLI, LI, I: the same without spikes

**Out** (:func:`write`): weights and thresholds are the chip's integers, so that v is in units of a
weight of 1; time constants are dt · 4096 / decay. A reader that simulates the graph gets the chip's
network in real numbers: without its rounding to zero, wrapping and clipping. What NIR cannot say
stands in ``metadata`` under ``pumice``, so that :func:`read` gives the very network again.

**In** (:func:`read`, :func:`from_graph`): graphs of others are put on the chip's grid
(:mod:`loihi.quantise`). Linear nodes in a row are merged (:mod:`lava_export.linear`); thresholds
and resistances of single neurons become factors of their weights, a reset to another value than 0 a
shift of v. What has no counterpart is a :class:`NirError` with the nodes' names.

Graphs are handled as the dictionaries of ``NIRGraph.to_dict()``; the package nir is needed for
:func:`write` and :func:`to_graph` alone.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lava_export import nir_file
from lava_export.linear import Real
from lava_export.nir_file import NirError, bounded, mapping, pairs
from lava_export.nir_reader import CurrentBias, Decays, Reader
from loihi import Conv, Dense, Edge, Encoding, Inject, Layer, Network, Neuron, files, formats
from loihi.errors import PumiceError
from loihi.formats import require_integer, require_integers
from loihi.network import INPUT, Readout, Shape, Synapse
from loihi.neurons import Reset
from loihi.quantise import LayerReport, quantise

if TYPE_CHECKING:
    import nir

DT = 1e-4
"""Seconds a step, as in most frameworks that write NIR."""
FOREVER = 2.0**60
"""Steps of a time constant that stands for none, where NIR has no node without it: so many that
nothing of it is left in the floating point of its Euler steps."""
VERSION = 1
"""Of the metadata under ``pumice``."""


@dataclass(frozen=True)
class Converted:
    """A network from a graph.

    layers: what quantisation did; empty for a graph of our own, which is the network as it was.
    """

    network: Network
    layers: tuple[LayerReport, ...] = ()


# --- files --------------------------------------------------------------------------------------


def write(network: Network, path: str | Path, dt: float = DT) -> tuple[str, ...]:
    """Write ``network`` as a NIR file, whole or not at all; its :func:`losses`.

    Raises :class:`NirError` for neurons that NIR does not have, and where nir is not installed.
    """
    path = Path(path)
    graph = to_graph(network, dt)
    image = io.BytesIO()
    _nir().write(image, graph)
    if _own(nir_file.loads(image)) != network:  # nothing leaves that does not come back the same
        raise NirError(f"{path}: the network does not survive being written; please report it")
    files.write(path, image.getbuffer())
    return losses(network)


def read(path: str | Path, **options: Any) -> Converted:
    """The network in a NIR file; options and errors are those of :func:`from_graph`."""
    path = Path(path)
    node = nir_file.load(path)
    try:
        return from_graph(node, **options)
    except PumiceError as error:
        raise NirError(f"{path}: {error}") from None


def from_graph(
    graph: nir.NIRGraph | Mapping[str, Any],
    *,
    dt: float = DT,
    encoding: Encoding | None = None,
    values: tuple[float, float] | None = None,
    reset: Reset = "hard",
    readout: Readout | None = None,
    output: str | None = None,
    decays: Decays = "same",
    bias: CurrentBias = "exact",
    bias_exp: int | None = 6,
    metadata: bool = True,
) -> Converted:
    """The network of a graph: of one that pumice wrote the very same, of others on the chip's grid.

    graph: nir's, or the dictionary of its ``to_dict()``. All that follows is for graphs of others.
    dt: seconds a step. Where time constants are counted in steps, 1.
    encoding: how data become payloads; by default ``events`` of 0 and 1 in 16 steps.
    values: what the smallest and the largest payload stand for in the graph's input, as (0, 1) for
        images divided by 255. None: payloads are the values.
    reset: NIR knows ``hard`` only, so that neurons of ``soft`` reset are written as hard ones too.
    readout: see :func:`loihi.quantise.quantise`.
    output: the Output node that is the answer, where there are several.
    decays: ``mean``: neurons of one layer with different decays get their mean.
    bias: of neurons with a current (CubaLIF), where NIR adds it to the current and the chip to v.
        ``exact``: a layer of neurons that spike in every step brings it, which makes a chain a
        graph; ``settled``: it is added to v, as large as it is when the current has settled.
    bias_exp: the exponent of biases, see :func:`loihi.quantise.quantise`.
    metadata: False: what pumice wrote is read as if it were another's.

    Raises :class:`NirError` with the node, :class:`PumiceError` of another kind where its layers
    make no network.
    """
    if not isinstance(graph, Mapping):
        graph = _as_dict(graph)
    if metadata and (own := _own(graph)) is not None:
        return Converted(own)
    if not 0 < dt < np.inf:
        raise NirError(f"dt is {dt}: a step lasts longer than 0 seconds")
    encoding = encoding or Encoding("events", 16)
    found = Reader(graph, dt, encoding, values, reset, decays, bias).layers(output)
    network, reports = quantise(*found, encoding, readout, bias_exp)
    return Converted(network, reports)


def _as_dict(graph: Any) -> dict[str, Any]:
    try:
        return dict(graph.to_dict())
    except (AttributeError, TypeError, ValueError, RuntimeError) as error:
        raise NirError(f"not a graph of NIR: {error}") from None


def _nir() -> Any:
    try:
        import nir
    except ImportError:
        raise NirError("writing NIR needs the package nir: pip install 'nir>=1.0.8,<2'") from None
    return nir


# --- out ----------------------------------------------------------------------------------------


def to_graph(network: Network, dt: float = DT) -> nir.NIRGraph:
    """``network`` as a graph of nir's nodes, with a step of ``dt`` seconds.

    Its types are not checked: nir 1.0.8 takes grouped convolutions and kernels that are not square
    for wrong (see :func:`losses`).
    """
    if not 0 < dt < np.inf:
        raise NirError(f"dt is {dt}: a step lasts longer than 0 seconds")
    nodes = _Writer(network, dt).graph()
    return _nir().dict2NIRNode({**nodes, "type_check": False})


def losses(network: Network) -> tuple[str, ...]:
    """What a reader of the NIR graph without pumice's metadata will not get, in a line each."""
    found = ["rounding to zero, 24 bits of u and v, input encoding and readout: pumice's own"]
    for name, layer in zip(network.names, network.layers, strict=True):
        if isinstance(layer.neuron, Neuron) and layer.neuron.reset == "soft":
            found.append(f"layer {name}: NIR has no soft reset; others reset v to 0")
    kernels = [
        (name, synapse)
        for index, name in enumerate(network.names)
        for synapse, _ in network.synapses(index)
        if isinstance(synapse, Conv) and _pool(network, index) is None
    ]
    for name, conv in kernels:
        height, width = conv.weight.shape[2:]
        if conv.groups > 1 or height != width:
            found.append(
                f"layer {name}: nir 1.0.8 infers wrong types for groups and kernels that are not "
                "square; others have to read with nir.read(path, type_check=False)"
            )
    return tuple(dict.fromkeys(found))


class _End(NamedTuple):
    """A node that feeds neurons, and the synapse that it ends: its sources and its layer."""

    node: str
    sources: tuple[int, ...] = ()
    layer: int = 0


class _Writer:
    """A network as a graph in dictionaries, as ``NIRGraph.to_dict()`` has them."""

    def __init__(self, network: Network, dt: float) -> None:
        self.network, self.dt = network, dt
        self.nodes: dict[str, dict[str, Any]] = {}
        self.edges: list[tuple[str, str]] = []
        self.ends: list[list[_End]] = []  # of each layer: the nodes that feed its neurons
        self.carried = {layer.carry for layer in network.layers}

    def graph(self) -> dict[str, Any]:
        network = self.network
        self.nodes["input"] = {"type": "Input", "shape": np.array(network.input_shape)}
        own = [self._layer(index) for index in range(len(network.layers))]
        last = len(network.layers) - 1
        for index in network.outputs:
            name = "output" if index == last else f"output_{index}"
            self.nodes[name] = {"type": "Output", "shape": np.array(network.shapes[index])}
            self.edges.append((_neurons(index), name))
        about = {
            "encoding": asdict(network.encoding),
            "readout": network.readout,
            "layers": own,
        }
        said = {
            "version": VERSION,
            "dt": self.dt,
            "network": json.dumps(about, default=lambda n: n.item()),
        }
        return {
            "type": "NIRGraph",
            "nodes": self.nodes,
            "edges": self.edges,
            "metadata": {"pumice": said},
        }

    def _layer(self, index: int) -> dict[str, Any]:
        layer, name = self.network.layers[index], self.network.names[index]
        neuron = layer.neuron
        if not isinstance(neuron, Neuron):
            raise NirError(f"layer {name}: NIR has no {type(neuron).__name__} neurons")
        pool = _pool(self.network, index)
        in_affine = pool is None and self._bias_in_affine(index, layer, neuron)
        ends: list[_End] = []
        synapses = []
        for number, (synapse, sources) in enumerate(self.network.synapses(index)):
            for source in sources:
                if source != INPUT and self.network.layers[source].neuron.vth is None:
                    raise NirError(
                        f"layer {name} is fed by layer {self.network.names[source]}, which never "
                        "spikes: NIR would send its membrane; leave that synapse out"
                    )
            bias = None
            if in_affine and not number:
                bias = neuron.effective_bias(self.network.shapes[index]) / 2.0**formats.STATE_SHIFT
            part = self._synapse(index, number, synapse, sources, bias, pool is not None)
            ends += [_End(node, sources, index) for node in part.pop("ends")]
            synapses.append(part)
        if layer.carry is not None:
            ends += [self._carried(end, index) for end in self.ends[layer.carry]]
        self.ends.append(ends)
        self._neuron(index, neuron, pool or 1.0, in_affine)
        self.edges += [(end.node, _neurons(index)) for end in ends]
        single = not np.ndim(neuron.bias)
        if not single:
            self.nodes[_neurons(index)]["metadata"] = {"pumice": {"bias": np.array(neuron.bias)}}
        return {
            "du": neuron.du,
            "dv": neuron.dv,
            "vth": neuron.vth,
            "bias": int(neuron.bias) if single else None,
            "bias_exp": neuron.bias_exp,
            "reset": neuron.reset,
            "carry": layer.carry,
            "synapses": synapses,
        }

    def _carried(self, end: _End, index: int) -> _End:
        """What ends an earlier layer's synapse, for the neurons of layer ``index``.

        Where it is recurrent it carries spikes of the step before, which layer ``index``, later
        than their source, would hear at once.
        """
        late = [end.layer <= source < index for source in end.sources]
        if not any(late):
            return end
        if not all(late):
            raise NirError(
                f"layer {self.network.names[index]} carries a synapse that adds spikes of this "
                "step and of the one before: NIR has no such edges"
            )
        delay = np.full(self.network.shapes[index], self.dt)
        return _End(self._add(f"wait_{index}_{end.node}", [end.node], "Delay", delay=delay))

    def _bias_in_affine(self, index: int, layer: Layer, neuron: Neuron) -> bool:
        """Whether the bias can be that of the synapse: only without a filter between it and v."""
        synapse = layer.synapse
        if neuron.du != formats.DECAY_ONE or index in self.carried or not neuron.has_bias:
            return False
        if isinstance(synapse, Conv):
            return np.ndim(neuron.bias) < 2
        return isinstance(synapse, Dense) and (synapse.delay is None or _by_column(synapse.delay))

    def _neuron(self, index: int, neuron: Neuron, unit: float, in_affine: bool) -> None:
        """``unit``: weights of the chip in NIR's unit of v."""
        shape, dt = self.network.shapes[index], self.dt

        def full(value: Any) -> Real:
            return np.broadcast_to(np.asarray(value, dtype=np.float64), shape).copy()

        bias = neuron.effective_bias(shape) / 2.0**formats.STATE_SHIFT / unit
        biased = neuron.has_bias and not in_affine
        filtered = neuron.du != formats.DECAY_ONE
        leaky = neuron.dv > 0 or biased or filtered
        in_steps = formats.DECAY_ONE / neuron.dv if neuron.dv else FOREVER
        fields: dict[str, Any]
        if not leaky:
            kind, fields = "I", {"r": full(1 / dt)}
        else:
            kind = "LI"
            tau = "tau_mem" if filtered else "tau"
            fields = {tau: full(in_steps * dt), "r": full(in_steps)}
            fields["v_leak"] = full(bias * in_steps if biased else 0)
        if filtered:
            kind = "CubaLI"
            current = formats.DECAY_ONE / neuron.du if neuron.du else FOREVER
            fields |= {"tau_syn": full(current * dt), "w_in": full(current)}
        if neuron.vth is not None:
            kind += "F"
            fields |= {"v_threshold": full(neuron.vth / unit), "v_reset": full(0)}
        self.nodes[_neurons(index)] = {"type": kind, **fields}

    def _add(self, name: str, fed_by: Sequence[str], kind: str, **fields: Any) -> str:
        self.nodes[name] = {"type": kind, **fields}
        self.edges.extend((source, name) for source in fed_by)
        return name

    def _synapse(
        self,
        index: int,
        number: int,
        synapse: Synapse,
        sources: tuple[int, ...],
        bias: Real | None,
        pooled: bool,
    ) -> dict[str, Any]:
        """Its nodes; what the metadata say of it, and under ``ends`` the nodes that end it."""
        tag = f"{index}_{number}" if number else f"{index}"
        feeding = ["input" if s == INPUT else _neurons(s) for s in sources]
        shape = self.network.shape_of(sources[0])
        if isinstance(synapse, Inject):
            about: dict[str, Any] = {"type": "input", "ends": feeding}
        elif isinstance(synapse, Conv):
            about = (
                self._pool(tag, feeding, synapse)
                if pooled
                else self._conv(tag, feeding, synapse, shape, bias)
            )
        elif isinstance(synapse, Dense):
            if len(shape) == 3:
                feeding = [
                    self._add(
                        f"flatten_{tag}",
                        feeding,
                        "Flatten",
                        input_type=np.array(shape),
                        start_dim=0,
                        end_dim=-1,
                    )
                ]
            about = self._dense(tag, feeding, synapse, bias)
        else:
            kind = type(synapse).__name__
            raise NirError(f"layer {self.network.names[index]}: NIR has no {kind}")
        return {"sources": list(sources), "ends": about.get("nodes"), **about}

    def _pool(self, tag: str, feeding: Sequence[str], synapse: Conv) -> dict[str, Any]:
        name = self._add(
            f"pool_{tag}",
            feeding,
            "AvgPool2d",
            kernel_size=np.array(synapse.weight.shape[2:]),
            stride=np.array(synapse.strides),
            padding=np.array(synapse.paddings),
        )
        size = {"channels": synapse.groups, "weight": int(synapse.weight.flat[0])}
        return {"type": "pool", "nodes": [name], **size}

    def _conv(
        self, tag: str, feeding: Sequence[str], synapse: Conv, shape: Shape, bias: Real | None
    ) -> dict[str, Any]:
        name = self._add(
            f"conv_{tag}",
            feeding,
            "Conv2d",
            input_shape=shape[1:],
            weight=synapse.weight.astype(np.float32),
            stride=synapse.strides,
            padding=synapse.paddings,
            dilation=synapse.dilations,
            groups=synapse.groups,
            bias=np.zeros(len(synapse.weight)) if bias is None else bias[:, 0, 0].copy(),
        )
        return {"type": "conv", "nodes": [name]}

    def _dense(
        self, tag: str, feeding: Sequence[str], synapse: Dense, bias: Real | None
    ) -> dict[str, Any]:
        """One node; with delays that differ between outputs too, one for each delay."""
        weight, delay = synapse.weight.astype(np.float32), synapse.delay
        parts: list[tuple[str, Real | None, NDArray[np.float32]]] = [("", None, weight)]
        if delay is not None:
            parts = [("", delay[0] * self.dt, weight)]
            if not _by_column(delay):
                parts = [
                    (
                        f"_delay{d}",
                        np.full(weight.shape[1], d * self.dt) if d else None,
                        np.where(delay == d, weight, np.float32(0)),
                    )
                    for d in np.unique(delay).tolist()
                ]
        names = []
        for suffix, seconds, matrix in parts:
            fed = feeding
            if seconds is not None:
                fed = [self._add(f"delay_{tag}{suffix}", feeding, "Delay", delay=seconds)]
            kind, fields = "Linear", dict[str, Any](weight=matrix)
            if bias is not None:
                kind, fields = "Affine", {**fields, "bias": bias.reshape(-1)}
            names.append(self._add(f"dense_{tag}{suffix}", fed, kind, **fields))
        if delay is not None:
            self.nodes[names[0]]["metadata"] = {"pumice": {"delay": delay}}
        return {"type": "dense", "nodes": names, "delay": delay is not None}


def _neurons(index: int) -> str:
    return f"neurons_{index}"


def _by_column(delay: NDArray[np.int32]) -> bool:
    return bool((delay == delay[0]).all())


def _pool(network: Network, index: int) -> float | None:
    """k² w of a layer that only averages (k x k, weight w in all channels): one AvgPool2d in NIR,
    with thresholds in units of k² w. None of any other layer."""
    layer = network.layers[index]
    synapse, shape = layer.synapse, network.shape_of(network.sources(index)[0])
    if not isinstance(synapse, Conv) or layer.more or layer.carry is not None:
        return None
    if any(other.carry == index for other in network.layers):
        return None
    weight = synapse.weight
    alone = synapse.groups == len(weight) == shape[0] and synapse.dilations == (1, 1)
    if not alone or synapse.paddings != (0, 0) or weight.size == len(weight):
        return None
    value = int(weight.flat[0])
    return float(value * prod(weight.shape[2:])) if value > 0 and (weight == value).all() else None


# --- our own graphs, read back ------------------------------------------------------------------


def _own(graph: Mapping[str, Any]) -> Network | None:
    """The network that a graph of ours was, None of others; changed ones are an error."""
    said = mapping(graph.get("metadata")).get("pumice")
    if not isinstance(said, Mapping):
        return None
    if said.get("version") != VERSION:
        raise NirError(f"its metadata are of version {said.get('version')}: pumice knows {VERSION}")
    nodes = mapping(graph.get("nodes"))
    try:
        dt = float(said["dt"])
        about = json.loads(said["network"])
        encoding = _encoding(about["encoding"])
        layers = tuple(
            _own_layer(index, layer, nodes) for index, layer in enumerate(about["layers"])
        )
        shape = tuple(int(n) for n in np.atleast_1d(nodes["input"]["shape"]))
        network = Network(shape, layers, encoding, about["readout"])
    except PumiceError as error:
        raise NirError(f"its metadata under pumice do not fit it: {error}{_INSTEAD}") from None
    except (KeyError, ValueError, TypeError, AttributeError, IndexError, RecursionError) as error:
        words = " ".join(str(error).split())
        raise NirError(f"its metadata under pumice cannot be read: {words}") from None
    if (changed := _difference(_Writer(network, dt).graph(), graph)) is not None:
        raise NirError(
            f"{changed} is not what pumice wrote there, so that its metadata do not fit{_INSTEAD}"
        )
    return network


_INSTEAD = "; read it without them (--ignore-metadata), as a graph of others"


def _encoding(said: Mapping[str, Any]) -> Encoding:
    numbers = [require_integer(key, said[key], 0, 2**31 - 1) for key in ("time_steps", "seed")]
    first, last = (require_integer("payload", n, -256, 255) for n in said["payload"])
    low, high = (None if said[key] is None else float(said[key]) for key in ("low", "high"))
    return Encoding(said["kind"], numbers[0], (first, last), low, high, numbers[1])


def _own_layer(index: int, said: Mapping[str, Any], nodes: Mapping[str, Any]) -> Layer:
    bias = said["bias"]
    if bias is None:
        bias = nodes[_neurons(index)]["metadata"]["pumice"]["bias"]
    neuron = Neuron(said["du"], said["dv"], said["vth"], bias, said["bias_exp"], said["reset"])
    (synapse, sources), *more = (_own_synapse(part, nodes) for part in said["synapses"])
    edges = []
    for further, its_sources in more:
        if isinstance(further, Inject):
            raise NirError("only the first synapse of a layer can be its input")
        edges.append(Edge(further, its_sources))
    return Layer(synapse, neuron, sources, tuple(edges), said["carry"])


def _own_synapse(
    said: Mapping[str, Any], nodes: Mapping[str, Any]
) -> tuple[Inject | Dense | Conv, tuple[int, ...]]:
    sources = tuple(require_integer("a source", s, INPUT, 2**31 - 1) for s in said["sources"])
    if said["type"] == "input":
        return Inject(), sources
    parts = [nodes[name] for name in said["nodes"]]
    first = parts[0]
    if said["type"] == "pool":
        height, width = (int(n) for n in first["kernel_size"])
        channels = require_integer("channels", said["channels"], 1, 2**15)
        bounded("a pool", channels * height * width)
        weight = np.full((channels, 1, height, width), said["weight"])
        return Conv(weight, first["stride"], first["padding"], groups=channels), sources
    if said["type"] == "conv":
        geometry = (first["stride"], first["padding"], first["dilation"], int(first["groups"]))
        return Conv(first["weight"], *geometry), sources
    if said["type"] != "dense":
        raise NirError(f"a synapse of type {said['type']!r}")
    weight = np.sum([np.asarray(part["weight"], dtype=np.float64) for part in parts], axis=0)
    delay = first["metadata"]["pumice"]["delay"] if said.get("delay") else None
    return Dense(require_integers("weight", weight, -256, 255), delay), sources


def _difference(expected: Mapping[str, Any], found: Mapping[str, Any]) -> str | None:
    """The first node that is not the same in both, or the edges; metadata are left out."""
    theirs = mapping(found.get("nodes"))
    for name, node in expected["nodes"].items():
        other = mapping(theirs.get(name))
        keys = node.keys() - {"metadata"}
        if keys != other.keys() - {"metadata"}:
            return f"node {name}"
        if not all(np.array_equal(np.asarray(node[k]), np.asarray(other[k])) for k in keys):
            return f"node {name}"
    if unknown := theirs.keys() - expected["nodes"].keys():
        return f"node {min(unknown)}"
    if sorted(expected["edges"]) != sorted(pairs(found.get("edges"))):
        return "the list of edges"
    return None
