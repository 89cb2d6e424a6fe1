"""Networks on disk: Lava-DL's netx files (HDF5), written and read, in integers only.

netx (lava-dl 0.6.0, ``lava.lib.dl.netx.hdf5``) takes almost any file without a word: it truncates
fractions, skips layers it does not know, ignores what it cannot do, and hands weights to Lava in a
form in which some of them change. All of that is an error here, in both directions, with the place
in the file.

Layout, as SLAYER writes it: ``layer/<0..n-1>/`` with ``type``, ``shape`` (C, H, W), ``weight``,
``neuron/…`` and so on; ``simulation/{Ts,tSample}``. Files written here begin with an input layer
that holds the input's shape, and have beside these a group ``pumice`` with the encoding and the
readout, which netx does not look at: read back, they give the very network that was written.

netx has no branches. A network that is no chain is written without ``layer``, so that netx stops
at once (no such object) instead of running something else, and with a group ``pumice_graph`` of our
own; see docs/files.md.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from loihi import (
    INTEGRATOR,
    Conv,
    Dense,
    Edge,
    Encoding,
    Inject,
    Layer,
    Network,
    Neuron,
    PumiceError,
    files,
    formats,
)
from loihi.formats import require_integer, require_integers
from loihi.network import INPUT, Readout, Shape, Synapse

VERSION = 1
"""Of the groups ``pumice`` and ``pumice_graph``."""
GRAPH = "pumice_graph"
"""The group that holds a network with branches; a file has this or ``layer``."""
CHAINS_ONLY = "Lava's netx cannot hold branches: simulate with --engine fast or --engine reference"
PACKED = 2000
"""No more times than this can a compressed array be larger than what it takes in the file."""
NEVER = 1 << 17
"""The threshold mantissa that netx gives a block without neurons: v stops short of it."""
TIME_STEPS = 16
"""T of a file that does not say (``simulation/tSample``)."""
INPUT_WEIGHT, INPUT_BIAS = 64, 0  # netx's defaults for an input layer
CONV_MAX = 127
"""Lava keeps a convolution's kernel size, stride, padding, dilation and groups as int8."""
_BIAS_EXP = 6  # the only one netx knows
_INT = 2**31 - 1


class NetxError(PumiceError):
    """A file that is not what netx and Lava would need, or a network that netx cannot hold."""


# --- writing ------------------------------------------------------------------------------------


def write(network: Network, path: str | Path) -> None:
    """Write ``network`` to a netx file, whole or not at all; one with branches to a file of ours.

    Raises :class:`NetxError` for what netx or Lava would not take as it is, with the layer, and
    :class:`PumiceError` where it cannot be written; a file that was there before is then untouched.
    """
    path = Path(path)
    image = io.BytesIO()
    with h5py.File(image, "w") as file:
        _write(network, file)
    with h5py.File(image, "r") as file:
        if _read(file) != network:  # nothing leaves the house that does not come back the same
            raise NetxError(f"{path}: the network does not survive being written; please report it")
    files.write(path, image.getbuffer())


def _write(network: Network, file: h5py.File) -> None:
    own = file.create_group("pumice")
    own.attrs["version"] = VERSION
    own.attrs["encoding"] = json.dumps(asdict(network.encoding), default=lambda n: n.item())
    own.attrs["readout"] = network.readout
    if network.is_chain:
        _write_chain(network, file)
    else:
        _write_graph(network, file.create_group(GRAPH))


def _write_graph(network: Network, group: h5py.Group) -> None:
    group.attrs["version"] = VERSION
    group.attrs["input_shape"] = network.input_shape
    for index, layer in enumerate(network.layers):
        place = group.create_group(str(index))
        if layer.carry is not None:
            place.attrs["carry"] = layer.carry
        for number, (synapse, sources) in enumerate(network.synapses(index)):
            _write_synapse(place.create_group(f"synapse/{number}"), synapse, sources)
        neuron = place.create_group("neuron")
        neuron.attrs["du"], neuron.attrs["dv"] = layer.neuron.du, layer.neuron.dv
        if layer.neuron.vth is not None:
            neuron.attrs["vth"] = layer.neuron.vth
        neuron.attrs["bias_exp"] = layer.neuron.bias_exp
        neuron["bias"] = layer.neuron.bias


def _write_synapse(group: h5py.Group, synapse: Synapse, sources: tuple[int, ...]) -> None:
    group.attrs["sources"] = sources
    if isinstance(synapse, Inject):
        group.attrs["type"] = "input"
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


def _write_chain(network: Network, file: h5py.File) -> None:
    layers = file.create_group("layer")

    def add(kind: str, shape: Shape) -> h5py.Group:
        group = layers.create_group(str(len(layers)))
        group["type"] = np.array([kind.encode()], dtype="S10")
        group["shape"] = np.array(shape)
        return group

    shape = network.input_shape
    if not isinstance(network.layers[0].synapse, Inject):
        add("input", shape)
    for index, layer in enumerate(network.layers):
        synapse, neuron = layer.synapse, layer.neuron
        try:
            if neuron.bias_exp != _BIAS_EXP:
                raise NetxError(f"bias_exp is {neuron.bias_exp}: netx knows {_BIAS_EXP} only")
            if isinstance(synapse, Inject):
                _write_input(add("input", shape), network.encoding, neuron)
            elif isinstance(synapse, Dense):
                if len(shape) == 3:
                    add("flatten", (1, 1, int(np.prod(shape))))
                _write_dense(add("dense", synapse.output_shape(shape)), synapse)
            else:
                _write_conv(add("conv", synapse.output_shape(shape)), synapse)
            shape = synapse.output_shape(shape)
            _write_neuron(layers[str(len(layers) - 1)], synapse, neuron, shape)
        except PumiceError as error:
            raise NetxError(f"layer {network.names[index]}: {error}") from None
    file["simulation/Ts"] = 1
    file["simulation/tSample"] = network.time_steps


def _write_input(group: h5py.Group, encoding: Encoding, neuron: Neuron) -> None:
    if neuron.has_bias:
        raise NetxError("netx has no bias for the neurons of an input layer")
    # The caller of netx computes weight · x + bias, with x the sample scaled to −1..1.
    first, last = encoding.payload
    if (last - first) % 2:
        raise NetxError(
            f"payload {first}..{last} of an input layer: netx writes it as bias - weight .. "
            "bias + weight, so it has to span an even number"
        )
    group["weight"], group["bias"] = (last - first) // 2, (first + last) // 2


def _write_dense(group: h5py.Group, synapse: Dense) -> None:
    _check_dense(synapse.weight)
    group["outFeatures"], group["inFeatures"] = synapse.weight.shape
    group["weight"] = synapse.weight
    if synapse.delay is not None:
        group["delay"] = synapse.delay


def _check_conv(synapse: Conv) -> None:
    """A :class:`NetxError` where Lava would turn a number into another."""
    formats.weight_format(synapse.weight)
    for name, value in (
        ("kernelSize", max(synapse.weight.shape[2:])),
        ("stride", max(synapse.strides)),
        ("padding", max(synapse.paddings)),
        ("dilation", max(synapse.dilations)),
        ("groups", synapse.groups),
    ):
        if value > CONV_MAX:
            raise NetxError(f"{name} is {value}: Lava keeps it in 8 bits, {CONV_MAX} at most")


def _write_conv(group: h5py.Group, synapse: Conv) -> None:
    _check_conv(synapse)
    out, per_group, *kernel = synapse.weight.shape
    group["weight"] = synapse.weight
    group["outChannels"], group["inChannels"] = out, per_group * synapse.groups
    group["kernelSize"] = np.array(kernel)
    group["stride"] = np.array(synapse.strides)
    group["padding"] = np.array(synapse.paddings)
    group["dilation"] = np.array(synapse.dilations)
    group["groups"] = synapse.groups


def _write_neuron(
    group: h5py.Group, synapse: Inject | Dense | Conv, neuron: Neuron, shape: Shape
) -> None:
    bias = np.asarray(neuron.bias)
    if bias.ndim == 3:
        group["bias"] = bias.transpose(2, 1, 0)  # one a neuron is in Lava's order, (W, H, C)
    elif bias.ndim == 1 or neuron.has_bias:
        # netx fails on a single number for a convolution: it is written once a channel.
        single = bias.ndim == 0
        per_channel = isinstance(synapse, Conv) and single
        group["bias"] = np.full(shape[0], bias) if per_channel else bias
        group["bias"].attrs["single"] = single
    if isinstance(synapse, Dense) and (neuron.du, neuron.dv, neuron.vth) == (
        INTEGRATOR.du,
        INTEGRATOR.dv,
        INTEGRATOR.vth,
    ):
        return
    group["neuron/type"] = np.bytes_("CUBA")
    group["neuron/iDecay"] = neuron.du
    group["neuron/vDecay"] = neuron.dv
    group["neuron/vThMant"] = NEVER if neuron.vth is None else neuron.vth
    group["neuron/refDelay"] = 1
    group["neuron/gradedSpike"] = False


# --- reading ------------------------------------------------------------------------------------


def read(path: str | Path) -> Network:
    """The network in a netx file, ours or another's, or a :class:`NetxError` with the place.

    A file of another's does not say how its input is coded. With an input layer of neurons it is
    ``graded``, with payloads from bias − weight to bias + weight, in as many steps as
    ``simulation/tSample`` says (else 16); the data's range ``low``, ``high`` is for the caller to
    fill in. Without, it is ``events`` of payload 0 or 1. The readout is the membrane of a last
    layer that never spikes, else spikes.
    """
    path = Path(path)
    try:
        with path.open("rb") as raw:
            start = raw.read(1)
    except OSError as error:
        raise NetxError(f"{path}: cannot be read: {error.strerror or error}") from None
    try:
        if not start:
            raise NetxError("the file is empty")
        if not h5py.is_hdf5(path):
            raise NetxError("not a netx file: it is not HDF5")
        with h5py.File(path, "r") as file:
            return _read(file)
    except PumiceError as error:
        raise NetxError(f"{path}: {error}") from None
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, MemoryError) as error:
        # What h5py raises for a file that is cut short or scrambled depends on where it is.
        words = " ".join(str(error).split())
        raise NetxError(f"{path}: cannot be read, it is damaged: {words}") from None


class _Place:
    """A group of the file; whatever is asked of it is checked, and named in the error."""

    def __init__(self, group: h5py.Group, name: str) -> None:
        self.group, self.name = group, name

    def __contains__(self, key: str) -> bool:
        return key in self.group

    def error(self, text: str) -> NetxError:
        return NetxError(f"{self.name}: {text}")

    def value(self, key: str) -> Any:
        item = self.group.get(key)
        if item is None:
            raise self.error(f"{key} is missing")
        if not isinstance(item, h5py.Dataset):
            raise self.error(f"{key} is a group, not a number")
        if item.nbytes > PACKED * item.id.get_storage_size():  # before memory is taken for it
            raise self.error(f"{key} is damaged: the file holds less than {list(item.shape)}")
        return item[()]

    def integers(self, key: str, low: int, high: int) -> NDArray[np.int32]:
        value = self.value(key)
        return require_integers(f"{self.name}/{key}", value, low, high)

    def integer(self, key: str, low: int, high: int, default: int | None = None) -> int:
        if default is not None and key not in self:
            return default
        return require_integer(f"{self.name}/{key}", self.value(key), low, high)

    def text(self, key: str) -> str:
        value = np.asarray(self.value(key)).reshape(-1)
        if value.size != 1 or not isinstance(value[0], bytes | str):
            raise self.error(f"{key} is not a word")
        word = value[0]
        return word.decode("ascii", errors="replace") if isinstance(word, bytes) else word

    def shape(self) -> Shape:
        return tuple(self.integers("shape", 1, _INT).reshape(-1).tolist())

    def agrees(self, key: str, found: Any) -> None:
        """A number that says twice what the weight says already; netx never looks at it."""
        if key in self and not np.array_equal(self.integers(key, 0, _INT).reshape(-1), found):
            raise self.error(f"{key} is {self.value(key)}, its weight says {np.asarray(found)}")


def _read(file: h5py.File) -> Network:
    layers, own = file.get("layer"), file.get("pumice")
    if GRAPH in file:
        if "layer" in file:
            raise NetxError(f"layer and {GRAPH}: two networks in one file, which one is meant?")
        return _read_graph(file)
    if not isinstance(layers, h5py.Group) or not len(layers):
        raise NetxError("not a netx file: it has no layers")
    if missing := [i for i in range(len(layers)) if str(i) not in layers]:
        raise NetxError(
            f"layers are numbered from 0 without gaps: found {', '.join(sorted(layers))}, "
            f"not {missing[0]}"
        )
    steps = TIME_STEPS
    if "simulation" in file:
        steps = _Place(file["simulation"], "simulation").integer("tSample", 1, 2**20, steps)
    reader = _Reader(steps)
    for index in range(len(layers)):
        if not isinstance(layers[str(index)], h5py.Group):
            raise NetxError(f"layer/{index} is not a group")
        place = _Place(layers[str(index)], f"layer/{index}")
        with _at(place):
            reader.add(place)
    if not reader.layers or reader.input_shape is None:
        raise NetxError("no layer in it has neurons")
    encoding = reader.encoding
    spikes = reader.layers[-1].neuron.vth is not None
    readout: Readout = "spikes" if spikes else "membrane"
    if own is not None:
        encoding, readout = _read_own(own, encoding)
    return Network(reader.input_shape, tuple(reader.layers), encoding, readout)


def _read_graph(file: h5py.File) -> Network:
    graph, own = (_Attributes(_group(file, name, name), name) for name in (GRAPH, "pumice"))
    graph.version()
    encoding, readout = _encoding(own)
    if missing := [i for i in range(len(graph.group)) if str(i) not in graph.group]:
        raise graph.error(f"layers are numbered from 0 without gaps: {missing[0]} is missing")
    layers = []
    for index in range(len(graph.group)):
        place = _Attributes(_group(graph.group, str(index), GRAPH), f"{GRAPH}/{index}")
        with _at(place):
            layers.append(_read_layer(place))
    shape = tuple(graph.integers("input_shape", 1, _INT).reshape(-1).tolist())
    return Network(shape, tuple(layers), encoding, readout)


def _read_layer(place: _Attributes) -> Layer:
    group = _group(place.group, "synapse", place.name)
    (synapse, sources), *more = (
        _read_synapse(group, number, f"{place.name}/synapse/{number}")
        for number in range(max(1, len(group)))
    )
    edges = []
    for further, its_sources in more:
        if isinstance(further, Inject):
            raise place.error("only its first synapse can be of type input")
        edges.append(Edge(further, its_sources))
    carry = place.integer("carry", 0, _INT) if "carry" in place else None
    return Layer(synapse, _read_neuron(place), sources, tuple(edges), carry)


def _read_synapse(group: h5py.Group, number: int, name: str) -> tuple[Synapse, tuple[int, ...]]:
    place = _Attributes(_group(group, str(number), name), name)
    data = _Place(place.group, name)
    kind = place.attribute("type")
    sources = tuple(place.integers("sources", INPUT, _INT).reshape(-1).tolist())
    if kind == "input":
        return Inject(), sources
    weight = data.integers("weight", -256, 255)
    if kind == "dense":
        delay = data.integers("delay", 0, formats.DELAY_MAX) if "delay" in data else None
        return Dense(weight, delay), sources
    if kind != "conv":
        raise place.error(f"type {kind!r} is not a synapse that pumice knows")
    synapse = Conv(
        weight,
        stride=_pair(place, "stride", 1),
        padding=_pair(place, "padding", 0),
        dilation=_pair(place, "dilation", 1),
        groups=place.integer("groups", 1, 2**15),
    )
    return synapse, sources


def _read_neuron(layer: _Attributes) -> Neuron:
    name = f"{layer.name}/neuron"
    place = _Attributes(_group(layer.group, "neuron", layer.name), name)
    bias = _Place(place.group, name).integers("bias", formats.BIAS_MIN, formats.BIAS_MAX)
    return Neuron(
        du=place.integer("du", 0, formats.DECAY_ONE),
        dv=place.integer("dv", 0, formats.DECAY_ONE),
        vth=place.integer("vth", 0, formats.VTH_MAX) if "vth" in place else None,
        bias=bias if bias.ndim else int(bias),
        bias_exp=place.integer("bias_exp", 0, formats.BIAS_EXP_MAX),
    )


@contextmanager
def _at(place: _Place) -> Iterator[None]:
    """Errors from here name the place."""
    try:
        yield
    except PumiceError as error:
        text = str(error)
        raise NetxError(text) if text.startswith(place.name) else place.error(text) from None


def _group(parent: h5py.Group, key: str, name: str) -> h5py.Group:
    if not isinstance(found := parent.get(key), h5py.Group):
        raise NetxError(f"{name}: the group {key} is missing")
    return found


class _Attributes(_Place):
    """A group whose numbers are attributes; they are looked up as :class:`_Place` does."""

    def __contains__(self, key: str) -> bool:
        return key in self.group.attrs

    def value(self, key: str) -> Any:
        if key not in self:
            raise self.error(f"{key} is missing")
        return self.group.attrs[key]

    def attribute(self, key: str) -> str:
        value = self.value(key)
        if not isinstance(value, str):
            raise self.error(f"{key} is not a word")
        return value

    def version(self) -> None:
        found = self.group.attrs.get("version")
        if found != VERSION:
            raise NetxError(f"{self.name}/version is {found}: this pumice knows {VERSION}")


def _read_own(own: h5py.Group, found: Encoding) -> tuple[Encoding, Readout]:
    encoding, readout = _encoding(_Attributes(own, "pumice"))
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


def _encoding(place: _Attributes) -> tuple[Encoding, Readout]:
    place.version()
    own = place.group
    try:
        said = json.loads(own.attrs["encoding"])
        said["payload"] = tuple(said["payload"])
        numbers = (said["time_steps"], said["seed"], *said["payload"])
        if not all(type(n) is int for n in numbers):
            raise TypeError("whole numbers expected")
        for bound in ("low", "high"):
            if said[bound] is not None:
                said[bound] = float(said[bound])
        encoding = Encoding(**said)
        readout: Readout = own.attrs["readout"]
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise NetxError(f"pumice: its encoding cannot be read: {error}") from None
    return encoding, readout


class _Reader:
    """Walks through the layers of a file as netx does."""

    def __init__(self, steps: int) -> None:
        self.layers: list[Layer] = []
        self.input_shape: Shape | None = None
        self.shape: Shape = ()
        self.encoding = Encoding("events", steps)

    def add(self, place: _Place) -> None:
        kind = place.text("type")
        if kind == "input":
            self._input(place)
        elif kind == "flatten":
            self._flatten(place)
        elif kind == "dense":
            self._dense(place)
        elif kind == "conv":
            self._conv(place)
        else:
            why = "is not a layer that pumice knows"
            if kind in ("pool", "convT", "unpool", "average", "concat", "dense_comp"):
                why = "is not implemented in netx"
            elif kind == "dense_rec":
                why = "(recurrent) is not supported yet"
            raise place.error(f"type {kind!r} {why}")

    def _append(self, synapse: Inject | Dense | Conv, neuron: Neuron) -> None:
        self.shape = synapse.output_shape(self.shape)
        self.layers.append(Layer(synapse, neuron))

    def _input(self, place: _Place) -> None:
        if self.input_shape is not None:
            raise place.error("an input layer can only be the first")
        self.input_shape = self.shape = place.shape()
        if "neuron" not in place:
            return
        weight = place.integer("weight", 1, 255, INPUT_WEIGHT)
        bias = place.integer("bias", -255, 255, INPUT_BIAS)
        steps = self.encoding.time_steps
        self.encoding = Encoding("graded", steps, (bias - weight, bias + weight))
        self._append(Inject(), _neuron(place, self.shape))

    def _flatten(self, place: _Place) -> None:
        self.shape = (int(np.prod(self.shape)),) if self.shape else ()

    def _dense(self, place: _Place) -> None:
        out = int(np.prod(place.shape()))
        weight = place.integers("weight", -256, 255)
        if weight.ndim == 1 and weight.size % out == 0:
            weight = weight.reshape(out, -1)
        if weight.ndim != 2 or weight.shape[0] != out:
            raise place.error(f"weight has shape {list(weight.shape)}, shape says {out} neurons")
        place.agrees("outFeatures", [out])
        place.agrees("inFeatures", weight.shape[1:])
        _check_dense(weight)
        if self.input_shape is None:
            self.input_shape = self.shape = weight.shape[1:]
        elif self.layers and len(self.shape) == 3:
            raise place.error("a flatten layer is needed between an image and a dense layer")
        neuron = _neuron(place, (out,)) if "neuron" in place else _integrator(place, (out,))
        self._append(Dense(weight, _delay(place, weight)), neuron)

    def _conv(self, place: _Place) -> None:
        if self.input_shape is None:
            raise place.error(
                "a convolution needs an input layer before it, with the image's shape"
            )
        weight = place.integers("weight", -256, 255)
        if weight.ndim == 5 and weight.shape[4] == 1:  # SLAYER's have an axis for time
            weight = weight[..., 0]
        if weight.ndim != 4:
            raise place.error(f"weight has shape {list(weight.shape)}, not [out, in, kH, kW]")
        if "delay" in place:
            raise place.error("netx ignores the delays of a convolution")
        if "neuron" not in place:
            raise place.error("a convolution without neurons: netx needs neuron")
        synapse = Conv(
            weight,
            stride=_pair(place, "stride", 1),
            padding=_pair(place, "padding", 0),
            dilation=_pair(place, "dilation", 1),
            groups=place.integer("groups", 1, 2**15),
        )
        _check_conv(synapse)
        place.agrees("outChannels", weight.shape[:1])
        place.agrees("inChannels", [weight.shape[1] * synapse.groups])
        place.agrees("kernelSize", weight.shape[2:])
        said = place.shape()
        self._append(synapse, INTEGRATOR)
        if said != self.shape:
            raise place.error(
                f"shape is {list(said)}, its weight and input give {list(self.shape)}"
            )
        self.layers[-1] = Layer(synapse, _neuron(place, self.shape))


def _pair(place: _Place, key: str, low: int) -> tuple[int, int]:
    values = place.integers(key, low, 2**15).reshape(-1)
    if values.size not in (1, 2):
        raise place.error(f"{key} is one number or (vertical, horizontal), found {values}")
    return int(values[0]), int(values[-1])


def _delay(place: _Place, weight: NDArray[np.int32]) -> NDArray[np.int32] | None:
    """netx takes one delay for all, one a row of the weight, one a column, or one a synapse."""
    if "delay" not in place:
        return None
    delay = place.integers("delay", 0, formats.DELAY_MAX)
    out, features = weight.shape
    if delay.ndim == 1 and delay.size == out:  # of a square matrix netx takes them for rows
        delay = np.broadcast_to(delay[:, None], weight.shape)
    elif (delay.ndim == 1 and delay.size == features) or delay.ndim == 0:
        delay = np.broadcast_to(delay, weight.shape)
    elif delay.shape != weight.shape:
        raise place.error(f"delay has shape {list(delay.shape)}, its weight {list(weight.shape)}")
    return delay


def _neuron(place: _Place, shape: Shape) -> Neuron:
    neuron = _Place(place.group["neuron"], f"{place.name}/neuron")
    if not isinstance(neuron.group, h5py.Group):
        raise place.error("neuron is not a group")
    kind = neuron.text("type")
    if kind not in ("LOIHI", "CUBA"):
        raise neuron.error(f"type {kind!r} is not supported: use LOIHI or CUBA (LIF neurons)")
    for key, only in (("refDelay", 1), ("gradedSpike", 0), ("wgtExp", 0), ("messageBits", 0)):
        found = neuron.integer(key, -_INT, _INT, only)
        if found != only:
            raise neuron.error(f"{key} is {found}: netx ignores it and Lava's LIF does {only}")
    vth = neuron.integer("vThMant", 0, NEVER)
    return Neuron(
        du=neuron.integer("iDecay", 0, formats.DECAY_ONE),
        dv=neuron.integer("vDecay", 0, formats.DECAY_ONE),
        vth=None if vth == NEVER else vth,
        bias=_bias(place, shape),
    )


def _integrator(place: _Place, shape: Shape) -> Neuron:
    return Neuron(INTEGRATOR.du, INTEGRATOR.dv, INTEGRATOR.vth, _bias(place, shape))


def _bias(place: _Place, shape: Shape) -> NDArray[np.int32] | int:
    if "bias" not in place or place.text("type") == "input":  # there it belongs to the encoding
        return 0
    bias = place.integers("bias", formats.BIAS_MIN, formats.BIAS_MAX)
    if bias.ndim == 3 and bias.shape == shape[::-1]:
        return bias.transpose(2, 1, 0)
    if bias.size == 1 and (bias.ndim == 0 or place.group["bias"].attrs.get("single", False)):
        return int(bias.reshape(()))
    if bias.shape != shape[:1]:
        raise place.error(f"bias has shape {list(bias.shape)}, the neurons {list(shape)}")
    if place.group["bias"].attrs.get("single", False) and (bias == bias[0]).all():
        return int(bias[0])
    return bias


# --- what Lava makes of a weight ----------------------------------------------------------------


def lava_weight(weight: NDArray[Any]) -> tuple[NDArray[np.int64], int]:
    """A dense weight as netx hands it to Lava and Lava uses it: (mantissa, exponent).

    The weight is ``mantissa · 2^exponent``. For most matrices that is the stored one; not for all:
    netx takes a matrix of weights ≤ 0 that holds a zero for one of mixed signs, Lava does not, and
    they scale, clip and cut differently; a matrix that is beyond its range comes back as zeros.
    From ``optimize_weight_bits`` of netx (lava-dl 0.6.0), ``clip_weights`` and
    ``truncate_weights`` of Lava (lava-nc 0.10.0).
    """
    w = np.asarray(weight, dtype=np.int64)
    if not w.any():
        raise NetxError("all weights are 0: netx fails on such a layer; leave it out")
    if w.max() > 0 > w.min():
        w = np.clip(w, -256, 254) if w.max() > 254 or w.min() < -256 else w
    low, high = int(w.min()), int(w.max())
    netx_mixed = low < 0 <= high
    if netx_mixed:
        room = min(127 / high if high else np.inf, -128 / low)
    else:
        room = 255 / high if low >= 0 else -256 / low
    shift = int(np.floor(np.log2(room))) + netx_mixed
    zeros = 0  # low bits that are 0 in every weight
    while zeros < 8 and not (w & ((2 << zeros) - 1)).any():
        zeros += 1
    bits = 8 - shift - (zeros - netx_mixed)
    mantissa = w << shift if shift >= 0 else np.zeros_like(w)  # numpy's shift by less than 0
    mixed = low < 0 < high
    sign = -1 if high <= 0 else 1
    mantissa = np.clip(sign * mantissa, -256 if mixed else 0, 255)
    cut = 8 - bits + mixed
    return sign * (mantissa >> cut << cut if cut >= 0 else np.zeros_like(w)), -shift


def _check_dense(weight: NDArray[Any]) -> None:
    """A :class:`NetxError` where Lava would not use the weights that are stored."""
    formats.weight_format(weight)
    mantissa, exponent = lava_weight(weight)
    used = mantissa * 2.0**exponent
    if (used != weight).any():
        row, column = np.argwhere(used != weight)[0]
        raise NetxError(
            f"weight[{row}, {column}] is {weight[row, column]}, and Lava would compute with "
            f"{used[row, column]:g}: netx and Lava disagree on a matrix of weights <= 0 that "
            "holds zeros; make its largest magnitude smaller, or one weight positive"
        )
