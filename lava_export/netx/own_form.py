"""What is pumice's own in a file: the group ``pumice``, and where netx has no words for a network
``pumice_graph`` (docs/files.md)."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from math import isfinite
from typing import Any

import h5py

from lava_export.damage import UNREADABLE
from lava_export.netx.fields import INT, Attributes, NetxError, Place, at, pair, subgroup
from loihi import (
    ComplexDense,
    Conv,
    Delta,
    Dense,
    Edge,
    Encoding,
    Inject,
    Layer,
    Network,
    Neuron,
    PumiceError,
    Resonator,
    Sigma,
    SigmaDelta,
    formats,
)
from loihi.network import INPUT, Readout, Synapse
from loihi.neurons import AnyNeuron

VERSION = 1
"""Of the groups ``pumice`` and ``pumice_graph``."""
GRAPH = "pumice_graph"
"""The group that holds a network with branches; a file has this or ``layer``."""
_KINDS: dict[str, type[AnyNeuron]] = {
    "lif": Neuron,
    "delta": Delta,
    "sigma_delta": SigmaDelta,
    "sigma": Sigma,
    "resonator": Resonator,
}
_WORDS = {kind: word for word, kind in _KINDS.items()}


def write_own(network: Network, file: h5py.File) -> None:
    """The group ``pumice``, which every file has: the encoding and the readout."""
    own = file.create_group("pumice")
    own.attrs["version"] = VERSION
    own.attrs["encoding"] = json.dumps(asdict(network.encoding), default=lambda n: n.item())
    own.attrs["readout"] = network.readout


def write_graph(network: Network, file: h5py.File) -> None:
    """The group ``pumice_graph``: any network."""
    group = file.create_group(GRAPH)
    group.attrs["version"] = VERSION
    group.attrs["input_shape"] = network.input_shape
    for index, layer in enumerate(network.layers):
        place = group.create_group(str(index))
        if layer.carry is not None:
            place.attrs["carry"] = layer.carry
        for number, (synapse, sources) in enumerate(network.synapses(index)):
            _write_synapse(place.create_group(f"synapse/{number}"), synapse, sources)
        neuron = place.create_group("neuron")
        kind = type(layer.neuron)
        if kind is not Neuron:
            neuron.attrs["type"] = _WORDS[kind]
        for name in _numbers(kind):
            value = getattr(layer.neuron, name)
            if name == "bias":
                neuron[name] = value
            elif value is not None and (name, value) != ("reset", "hard"):
                neuron.attrs[name] = value


def _write_synapse(group: h5py.Group, synapse: Synapse, sources: tuple[int, ...]) -> None:
    group.attrs["sources"] = sources
    if isinstance(synapse, Inject):
        group.attrs["type"] = "input"
        return
    if isinstance(synapse, ComplexDense):
        group.attrs["type"] = "complex"
        group["real"], group["imag"] = synapse.real, synapse.imag
        return
    group["weight"] = synapse.weight
    if isinstance(synapse, Dense):
        group.attrs["type"] = "dense"
        if synapse.delay is not None:
            group["delay"] = synapse.delay
        return
    group.attrs["type"] = "conv"
    for name in ("stride", "padding", "dilation", "groups"):
        group.attrs[name] = getattr(synapse, name)


def read_own(own: h5py.Group, found: Encoding) -> tuple[Encoding, Readout]:
    """What ``pumice`` says of a chain, which has to agree with what netx is told."""
    encoding, readout = _encoding(Attributes(own, "pumice"))
    if encoding.time_steps != found.time_steps:
        raise NetxError(
            f"pumice/encoding says {encoding.time_steps} steps, simulation/tSample "
            f"{found.time_steps}"
        )
    if found.kind == "graded" and encoding.payload != found.payload:
        raise NetxError(
            f"pumice/encoding says payload {encoding.payload}, layer/0's weight and bias "
            f"{found.payload}"
        )
    return encoding, readout


def _encoding(place: Attributes) -> tuple[Encoding, Readout]:
    _check_version(place)
    own = place.group
    try:
        said = json.loads(own.attrs["encoding"])
        said["payload"] = tuple(said["payload"])
        numbers = (said["time_steps"], said["seed"], *said["payload"])
        if not all(type(n) is int and -INT <= n <= INT for n in numbers) or said["seed"] < 0:
            raise TypeError(f"whole numbers within {INT} expected, a seed from 0")
        for bound in ("low", "high"):
            if said[bound] is not None:
                said[bound] = float(said[bound])
                if not isfinite(said[bound]):
                    raise ValueError(f"{bound} is {said[bound]}")
        encoding = Encoding(**said)
        readout: Readout = own.attrs["readout"]
    except (*UNREADABLE, AttributeError) as error:
        raise NetxError(f"pumice: its encoding cannot be read: {error}") from None
    return encoding, readout


def read_graph(file: h5py.File) -> Network:
    """The network in ``pumice_graph``."""
    graph, own = (Attributes(subgroup(file, name, name), name) for name in (GRAPH, "pumice"))
    _check_version(graph)
    encoding, readout = _encoding(own)
    if missing := [i for i in range(len(graph.group)) if str(i) not in graph.group]:
        raise graph.error(f"layers are numbered from 0 without gaps: {missing[0]} is missing")
    layers = []
    for index in range(len(graph.group)):
        place = Attributes(subgroup(graph.group, str(index), GRAPH), f"{GRAPH}/{index}")
        with at(place):
            layers.append(_read_layer(place))
    shape = tuple(graph.integers("input_shape", 1, INT).reshape(-1).tolist())
    return Network(shape, tuple(layers), encoding, readout)


def _read_layer(place: Attributes) -> Layer:
    group = subgroup(place.group, "synapse", place.name)
    (synapse, sources), *more = (
        _read_synapse(group, number, f"{place.name}/synapse/{number}")
        for number in range(max(1, len(group)))
    )
    edges = []
    for further, its_sources in more:
        if not isinstance(further, Dense | Conv):
            raise place.error("only its first synapse can be of type input or complex")
        edges.append(Edge(further, its_sources))
    carry = place.integer("carry", 0, INT) if "carry" in place else None
    return Layer(synapse, _read_neuron(place), sources, tuple(edges), carry)


def _read_synapse(group: h5py.Group, number: int, name: str) -> tuple[Synapse, tuple[int, ...]]:
    place = Attributes(subgroup(group, str(number), name), name)
    data = Place(place.group, name)
    kind = place.attribute("type")
    sources = tuple(place.integers("sources", INPUT, INT).reshape(-1).tolist())
    if kind == "input":
        return Inject(), sources
    if kind == "complex":
        return ComplexDense(*(data.integers(part, -256, 255) for part in ("real", "imag"))), sources
    weight = data.integers("weight", -256, 255)
    if kind == "dense":
        delay = data.integers("delay", 0, formats.DELAY_MAX) if "delay" in data else None
        return Dense(weight, delay), sources
    if kind != "conv":
        raise place.error(f"type {kind!r} is not a synapse that pumice knows")
    synapse = Conv(
        weight,
        stride=pair(place, "stride", 1),
        padding=pair(place, "padding", 0),
        dilation=pair(place, "dilation", 1),
        groups=place.integer("groups", 1, 2**15),
    )
    return synapse, sources


def _read_neuron(layer: Attributes) -> AnyNeuron:
    name = f"{layer.name}/neuron"
    place = Attributes(subgroup(layer.group, "neuron", layer.name), name)
    word = place.attribute("type") if "type" in place else "lif"
    if word not in _KINDS:
        raise place.error(f"type {word!r} is not one that pumice knows: {', '.join(_KINDS)}")
    kind, found = _KINDS[word], dict[str, Any]()
    for key in _numbers(kind):
        if key == "bias":
            bias = Place(place.group, name).integers(key, -(2**31), INT)
            found[key] = bias if bias.ndim else int(bias)
        elif key in ("reset", "activation", "spikes"):
            if key in place:
                found[key] = place.attribute(key)
        elif key in place or not (key == "vth" and kind is Neuron):  # else it never spikes
            found[key] = place.integer(key, -INT, INT)
    if kind is Neuron:
        found.setdefault("vth", None)
    try:
        return kind(**found)
    except PumiceError as error:
        raise NetxError(f"{name}/{error}") from None


def _numbers(kind: type[AnyNeuron]) -> list[str]:
    return [field.name for field in fields(kind)]


def _check_version(place: Attributes) -> None:
    found = place.group.attrs.get("version")
    if found != VERSION:
        raise NetxError(f"{place.name}/version is {found}: this pumice knows {VERSION}")
