"""Networks as graphs of nir's nodes, the chip's integers in them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lava_export.nir_io.hdf5 import NirError
from lava_export.nir_io.linear import Real
from loihi import Conv, Dense, Inject, Layer, Network, Neuron, checkpoint, formats
from loihi.network import INPUT, Shape, Synapse

if TYPE_CHECKING:
    import nir

DT = 1e-4
"""Seconds a step, as in most frameworks that write NIR."""
FOREVER = 2.0**60
"""Steps of a time constant that stands for none, where NIR has no node without it: so many that
nothing of it is left in the floating point of its Euler steps."""
VERSION = 2
"""Of the metadata under ``pumice``."""


def to_graph(network: Network, dt: float = DT) -> nir.NIRGraph:
    """``network`` as a graph of nir's nodes, with a step of ``dt`` seconds.

    Its types are not checked: nir 1.0.8 takes grouped convolutions and kernels that are not square
    for wrong (see :func:`losses`).
    """
    if not 0 < dt < np.inf:
        raise NirError(f"dt is {dt}: a step lasts longer than 0 seconds")
    nodes = Writer(network, dt).graph()
    return require_nir().dict2NIRNode({**nodes, "type_check": False})


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
        if isinstance(synapse, Conv) and pool_unit(network, index) is None
    ]
    for name, conv in kernels:
        height, width = conv.weight.shape[2:]
        if conv.groups > 1 or height != width:
            found.append(
                f"layer {name}: nir 1.0.8 infers wrong types for groups and kernels that are not "
                "square; others have to read with nir.read(path, type_check=False)"
            )
    return tuple(dict.fromkeys(found))


def require_nir() -> Any:
    """The package nir, or a :class:`NirError` that says how to install it."""
    try:
        import nir
    except ImportError:
        raise NirError("writing NIR needs the package nir: pip install 'nir>=1.0.8,<2'") from None
    return nir


class _End(NamedTuple):
    """A node that feeds neurons, and the synapse that it ends: its sources and its layer."""

    node: str
    sources: tuple[int, ...] = ()
    layer: int = 0


class Writer:
    """A network as a graph in dictionaries, as ``NIRGraph.to_dict()`` has them."""

    def __init__(self, network: Network, dt: float) -> None:
        self.network, self.dt = network, dt
        self.nodes: dict[str, dict[str, Any]] = {}
        self.edges: list[tuple[str, str]] = []
        self.ends: list[list[_End]] = []  # of each layer: the nodes that feed its neurons
        self.carried = {layer.carry for layer in network.layers}

    def graph(self) -> dict[str, Any]:
        """All of it, pumice's metadata too."""
        network = self.network
        self.nodes["input"] = {"type": "Input", "shape": np.array(network.input_shape)}
        own = [self._layer(index) for index in range(len(network.layers))]
        last = len(network.layers) - 1
        for index in network.outputs:
            name = "output" if index == last else f"output_{index}"
            self.nodes[name] = {"type": "Output", "shape": np.array(network.shapes[index])}
            self.edges.append((neurons_name(index), name))
        about = {
            "encoding": asdict(network.encoding),
            "readout": network.readout,
            "layers": own,
        }
        text = json.dumps(about, default=lambda n: n.item())
        said = {
            "version": VERSION,
            "dt": self.dt,
            "network": text,
            "sha256": checkpoint.digest(f"{text} {self.dt!r}", self._noted()),
        }
        return {
            "type": "NIRGraph",
            "nodes": self.nodes,
            "edges": self.edges,
            "metadata": {"pumice": said},
        }

    def _noted(self) -> dict[str, NDArray[Any]]:
        """What stands in the nodes' metadata, by node and name."""
        return {
            f"{node}.{name}": np.asarray(value, dtype=np.int64)
            for node, held in self.nodes.items()
            for name, value in held.get("metadata", {}).get("pumice", {}).items()
        }

    def _layer(self, index: int) -> dict[str, Any]:
        layer, name = self.network.layers[index], self.network.names[index]
        neuron = layer.neuron
        if not isinstance(neuron, Neuron):
            raise NirError(f"layer {name}: NIR has no {type(neuron).__name__} neurons")
        pool = pool_unit(self.network, index)
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
        self.edges += [(end.node, neurons_name(index)) for end in ends]
        single = not np.ndim(neuron.bias)
        if not single:
            self.nodes[neurons_name(index)]["metadata"] = {
                "pumice": {"bias": np.array(neuron.bias)}
            }
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
        self.nodes[neurons_name(index)] = {"type": kind, **fields}

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
        feeding = ["input" if s == INPUT else neurons_name(s) for s in sources]
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


def neurons_name(index: int) -> str:
    """The node that a layer's neurons become."""
    return f"neurons_{index}"


def _by_column(delay: NDArray[np.int32]) -> bool:
    return bool((delay == delay[0]).all())


def pool_unit(network: Network, index: int) -> float | None:
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
