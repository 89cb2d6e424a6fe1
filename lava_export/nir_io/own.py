"""Graphs that pumice wrote, read back by their metadata: the very network, or an error."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from lava_export.damage import UNREADABLE
from lava_export.nir_io.hdf5 import NirError, bounded, mapping, pairs
from lava_export.nir_io.writer import VERSION, Writer, neurons_name
from loihi import Conv, Dense, Edge, Encoding, Inject, Layer, Network, Neuron
from loihi.errors import PumiceError
from loihi.formats import require_integer, require_integers
from loihi.network import INPUT

_INSTEAD = "; read it without them (--ignore-metadata), as a graph of others"
_UNREADABLE = (*UNREADABLE, AttributeError, IndexError)


def read_own(graph: Mapping[str, Any]) -> Network | None:
    """The network that a graph of ours was, None of others; changed ones are an error."""
    said = mapping(graph.get("metadata")).get("pumice")
    if not isinstance(said, Mapping):
        return None
    if said.get("version") != VERSION:
        raise NirError(f"its metadata are of version {said.get('version')}: pumice knows {VERSION}")
    nodes = mapping(graph.get("nodes"))
    try:
        dt = float(said["dt"])
        if not 0 < dt < np.inf:
            raise ValueError(f"dt is {dt}: a step lasts longer than 0 seconds")
        about = json.loads(said["network"])
        encoding = _encoding(about["encoding"])
        layers = tuple(
            _own_layer(index, layer, nodes) for index, layer in enumerate(about["layers"])
        )
        shape = tuple(int(n) for n in np.atleast_1d(nodes["input"]["shape"]))
        network = Network(shape, layers, encoding, about["readout"])
    except PumiceError as error:
        raise NirError(f"its metadata under pumice do not fit it: {error}{_INSTEAD}") from None
    except _UNREADABLE as error:
        words = " ".join(str(error).split())
        raise NirError(f"its metadata under pumice cannot be read: {words}") from None
    written = Writer(network, dt).graph()
    if written["metadata"]["pumice"]["sha256"] != said.get("sha256"):
        raise NirError(f"its metadata under pumice are not what pumice wrote{_INSTEAD}")
    if (changed := _difference(written, graph)) is not None:
        raise NirError(
            f"{changed} is not what pumice wrote there, so that its metadata do not fit{_INSTEAD}"
        )
    return network


def _encoding(said: Mapping[str, Any]) -> Encoding:
    numbers = [require_integer(key, said[key], 0, 2**31 - 1) for key in ("time_steps", "seed")]
    first, last = (require_integer("payload", n, -256, 255) for n in said["payload"])
    low, high = (None if said[key] is None else float(said[key]) for key in ("low", "high"))
    if not all(n is None or np.isfinite(n) for n in (low, high)):
        raise ValueError(f"the data's range {low}..{high} is not finite")
    return Encoding(said["kind"], numbers[0], (first, last), low, high, numbers[1])


def _own_layer(index: int, said: Mapping[str, Any], nodes: Mapping[str, Any]) -> Layer:
    bias = said["bias"]
    if bias is None:
        bias = nodes[neurons_name(index)]["metadata"]["pumice"]["bias"]
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
