"""Networks on disk: Lava-DL's netx files (HDF5), written and read, in integers only.

netx (lava-dl 0.6.0, ``lava.lib.dl.netx.hdf5``) takes almost any file without a word: it truncates
fractions, skips layers it does not know, ignores what it cannot do, and hands weights to Lava in a
form in which some of them change. All of that is an error here, in both directions, with the place
in the file.

Layout, as SLAYER writes it: ``layer/<0..n-1>/`` with ``type``, ``shape`` (C, H, W), ``weight``,
``neuron/…`` and so on; ``simulation/{Ts,tSample}``. Files written here begin with an input layer
that holds the input's shape, and have beside these a group ``pumice`` with the encoding and the
readout, which netx does not look at: read back, they give the very network that was written.

netx has chains of hard-reset neurons only. What it cannot hold (:func:`why_not`) is written without
``layer``, so that netx stops at once (no such object) instead of running something else, and with a
group ``pumice_graph`` of our own; see docs/files.md.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from lava_export import seal, supervise
from loihi import (
    INTEGRATOR,
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
    files,
    formats,
)
from loihi.formats import require_integer, require_integers
from loihi.network import INPUT, Readout, Shape, Synapse
from loihi.neurons import AnyNeuron, Bias

VERSION = 1
"""Of the groups ``pumice`` and ``pumice_graph``."""
GRAPH = "pumice_graph"
"""The group that holds a network with branches; a file has this or ``layer``."""
PACKED = 2000
"""No more times than this can a compressed array be larger than what it takes in the file."""
NEVER = 1 << 17
"""The threshold mantissa that netx gives a block without neurons: v stops short of it, and of any
larger one (SLAYER's affine blocks have 2^18 − 1), up to where Lava's shift overflows."""
SPIKE_EXP = STATE_EXP = 6
"""Binary places of sigma-delta neurons, the only ones that netx's loader knows by itself."""
DEADLINE = 30.0
"""Seconds for HDF5 to read a small file of another's; a second more for each megabyte."""
TIME_STEPS = 16
"""T of a file that does not say (``simulation/tSample``)."""
INPUT_WEIGHT, INPUT_BIAS = 64, 0  # netx's defaults for an input layer
CONV_MAX = 127
"""Lava keeps a convolution's kernel size, stride, padding, dilation and groups as int8."""
ANY_PAYLOAD = (formats.PAYLOAD_MIN, formats.PAYLOAD_MAX)
_BIAS_EXP = 6  # the only one netx knows
_NEVER_MAX = 2**25 - 1
_INT = 2**31 - 1


class NetxError(PumiceError):
    """A file that is not what netx and Lava would need, or a network that netx cannot hold."""


# --- writing ------------------------------------------------------------------------------------


def why_not(network: Network) -> str | None:
    """Why netx cannot hold ``network``, in a line that names the layer; None where it can.

    Such a network is written in the form of our own, and wired to Lava directly.
    """
    for index, layer in enumerate(network.layers):
        if layer.sources is not None or layer.carry is not None or layer.more:
            why: str | None = "netx has no branches and no recurrence beside its own"
        else:
            why = _why_not_neuron(layer.neuron) or _why_not_synapse(layer, network.encoding)
        if why:
            return f"layer {network.names[index]}: {why}"
    return None


def _why_not_neuron(neuron: AnyNeuron) -> str | None:
    if isinstance(neuron, Neuron):
        if neuron.reset != "hard":
            return "netx has no soft reset"
        if neuron.bias_exp != _BIAS_EXP:
            return f"bias_exp is {neuron.bias_exp}, netx knows {_BIAS_EXP} only"
    elif isinstance(neuron, Delta | SigmaDelta):
        if (found := (neuron.spike_exp, neuron.state_exp)) != (SPIKE_EXP, STATE_EXP):
            return f"spike_exp and state_exp are {found}, netx's loader knows 6 only"
        if isinstance(neuron, SigmaDelta) and neuron.activation != "relu":
            return f"activation {neuron.activation}, netx knows relu only"
    elif isinstance(neuron, Resonator):
        return "netx rounds the angle of a resonator"
    return None


def _why_not_synapse(layer: Layer, encoding: Encoding) -> str | None:
    synapse, (first, last) = layer.synapse, encoding.payload
    if isinstance(synapse, Inject):
        if layer.neuron.has_bias:
            return "netx has no bias for the neurons of an input layer"
        if (last - first) % 2 and not _any_payload(layer.neuron, encoding):
            return (
                f"payload {first}..{last} of an input layer: netx has bias - weight .. bias + "
                "weight, so it would have to span an even number"
            )
        return None
    try:
        if isinstance(synapse, Dense):
            _check_dense(synapse.weight)
        elif isinstance(synapse, Conv):
            _check_conv(synapse)
    except PumiceError as error:
        return str(error)
    return None


def _any_payload(neuron: AnyNeuron, encoding: Encoding) -> bool:
    """Whether an input layer says nothing of its range, as those of sigma-delta files."""
    return isinstance(neuron, Delta) and encoding.payload == ANY_PAYLOAD


def write(network: Network, path: str | Path) -> None:
    """Write ``network`` to a netx file, or what netx cannot hold to a file of ours; whole or not
    at all.

    Raises :class:`PumiceError` where it cannot be written; a file that was there before is then
    untouched.
    """
    path = Path(path)
    image = io.BytesIO()
    with h5py.File(image, "w", userblock_size=seal.BLOCK) as file:
        _write(network, file)
    with h5py.File(image, "r") as file:
        if _read(file) != network:  # nothing leaves the house that does not come back the same
            raise NetxError(f"{path}: the network does not survive being written; please report it")
    seal.seal(image.getbuffer())
    files.write(path, image.getbuffer())


def _write(network: Network, file: h5py.File) -> None:
    own = file.create_group("pumice")
    own.attrs["version"] = VERSION
    own.attrs["encoding"] = json.dumps(asdict(network.encoding), default=lambda n: n.item())
    own.attrs["readout"] = network.readout
    if why_not(network) is None:
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
        kind = type(layer.neuron)
        if kind is not Neuron:
            neuron.attrs["type"] = _WORDS[kind]
        for name in _numbers(kind):
            value = getattr(layer.neuron, name)
            if name == "bias":
                neuron[name] = value
            elif value is not None and (name, value) != ("reset", "hard"):
                neuron.attrs[name] = value


_KINDS: dict[str, type[AnyNeuron]] = {
    "lif": Neuron,
    "delta": Delta,
    "sigma_delta": SigmaDelta,
    "sigma": Sigma,
    "resonator": Resonator,
}
_WORDS = {kind: word for word, kind in _KINDS.items()}


def _numbers(kind: type[AnyNeuron]) -> list[str]:
    return [field.name for field in fields(kind)]


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
    for layer in network.layers:
        synapse = layer.synapse
        if isinstance(synapse, Inject):
            group = add("input", shape)
            if not _any_payload(layer.neuron, network.encoding):
                # The caller of netx computes weight · x + bias, with x scaled to −1..1.
                first, last = network.encoding.payload
                group["weight"], group["bias"] = (last - first) // 2, (first + last) // 2
        elif isinstance(synapse, Dense):
            if len(shape) == 3:
                add("flatten", (1, 1, int(np.prod(shape))))
            group = add("dense", synapse.output_shape(shape))
            _write_dense(group, synapse)
        else:
            assert isinstance(synapse, Conv)  # see why_not
            group = add("conv", synapse.output_shape(shape))
            _write_conv(group, synapse)
        shape = synapse.output_shape(shape)
        _write_neuron(group, synapse, layer.neuron, shape)
    file["simulation/Ts"] = 1
    file["simulation/tSample"] = network.time_steps


def _write_dense(group: h5py.Group, synapse: Dense) -> None:
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
    out, per_group, *kernel = synapse.weight.shape
    group["weight"] = synapse.weight
    group["outChannels"], group["inChannels"] = out, per_group * synapse.groups
    group["kernelSize"] = np.array(kernel)
    group["stride"] = np.array(synapse.strides)
    group["padding"] = np.array(synapse.paddings)
    group["dilation"] = np.array(synapse.dilations)
    group["groups"] = synapse.groups


def _write_neuron(
    group: h5py.Group, synapse: Inject | Dense | Conv, neuron: AnyNeuron, shape: Shape
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
    if isinstance(neuron, Delta | SigmaDelta | Sigma):
        group["neuron/type"] = np.bytes_("SDNN")
        group["neuron/activation"] = np.bytes_("relu")
        group["neuron/vThMant"] = 0 if neuron.vth is None else neuron.vth
        if isinstance(neuron, Sigma):
            group["neuron/sigma_output"] = True
        return
    assert isinstance(neuron, Neuron)  # see why_not
    if isinstance(synapse, Dense) and replace(neuron, bias=0) == INTEGRATOR:
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
        if not path.stat().st_size:
            raise NetxError("the file is empty")
        sealed = seal.holds(path)
        if not h5py.is_hdf5(path):
            raise NetxError("not a netx file: it is not HDF5")
        if not sealed:
            _try(path)
    except OSError as error:
        raise NetxError(f"{path}: cannot be read: {error.strerror or error}") from None
    except PumiceError as error:
        raise NetxError(f"{path}: {error}") from None
    return _open(path)


def _open(path: Path) -> Network:
    try:
        with h5py.File(path, "r") as file:
            return _read(file)
    except PumiceError as error:
        raise NetxError(f"{path}: {' '.join(str(error).split())}") from None  # one line, always
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, MemoryError) as error:
        # What h5py raises for a file that is cut short or scrambled depends on where it is.
        words = " ".join(str(error).split())
        raise NetxError(f"{path}: cannot be read, it is damaged: {words}") from None


def _try(path: Path) -> None:
    """Another's file may be damaged such that HDF5 hangs or crashes: a child finds out."""
    deadline = DEADLINE + path.stat().st_size / 2**20
    try:
        supervise.run(_in_child, deadline=deadline, path=str(path.resolve()))
    except supervise.DeadlineError:
        raise NetxError(
            f"it is damaged: HDF5 does not get through it in {deadline:.0f} s"
        ) from None
    except supervise.ChildError as error:
        raise NetxError(f"it is damaged: HDF5 fails on it: {error}") from None


def _in_child(folder: Path, *, path: str) -> dict[str, Any]:
    with suppress(NetxError):  # the parent will find the same, and say so
        _open(Path(path))
    return {}


def loads(path: str | Path) -> bool:
    """Whether Intel's own loader takes a file that :func:`read` does: it knows neither our form of
    it nor SLAYER's pooling."""
    with h5py.File(path, "r") as file:
        if GRAPH in file:
            return False
        layers = file["layer"].values()
        return all(_Place(layer, layer.name).text("type") != "pool" for layer in layers)


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
        if key in self:
            said = self.integers(key, 0, _INT).reshape(-1).tolist()
            if not np.array_equal(said, found):
                few = said[0] if len(said) == 1 else said if len(said) <= 4 else "an array"
                raise self.error(f"{key} is {few}, its weight says {np.asarray(found)}")


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
    last = reader.layers[-1].neuron
    spikes = last.vth is not None and not last.graded
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
        if not isinstance(further, Dense | Conv):
            raise place.error("only its first synapse can be of type input or complex")
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
        stride=_pair(place, "stride", 1),
        padding=_pair(place, "padding", 0),
        dilation=_pair(place, "dilation", 1),
        groups=place.integer("groups", 1, 2**15),
    )
    return synapse, sources


def _read_neuron(layer: _Attributes) -> AnyNeuron:
    name = f"{layer.name}/neuron"
    place = _Attributes(_group(layer.group, "neuron", layer.name), name)
    word = place.attribute("type") if "type" in place else "lif"
    if word not in _KINDS:
        raise place.error(f"type {word!r} is not one that pumice knows: {', '.join(_KINDS)}")
    kind, found = _KINDS[word], dict[str, Any]()
    for key in _numbers(kind):
        if key == "bias":
            bias = _Place(place.group, name).integers(key, -(2**31), _INT)
            found[key] = bias if bias.ndim else int(bias)
        elif key in ("reset", "activation", "spikes"):
            if key in place:
                found[key] = place.attribute(key)
        elif key in place or not (key == "vth" and kind is Neuron):  # else it never spikes
            found[key] = place.integer(key, -_INT, _INT)
    if kind is Neuron:
        found.setdefault("vth", None)
    try:
        return kind(**found)
    except PumiceError as error:
        raise NetxError(f"{name}/{error}") from None


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
        elif kind == "dense_rec":
            self._dense_rec(place)
        elif kind in ("conv", "pool"):
            self._conv(place, pooling=kind == "pool")
        else:
            why = "is not a layer that pumice knows"
            if kind in ("convT", "unpool", "average", "concat", "dense_comp"):
                why = "is not implemented in netx"
            raise place.error(f"type {kind!r} {why}")

    def _append(self, synapse: Synapse, neuron: AnyNeuron, more: tuple[Edge, ...] = ()) -> None:
        self.shape = synapse.output_shape(self.shape)
        self.layers.append(Layer(synapse, neuron, more=more))

    def _input(self, place: _Place) -> None:
        if self.input_shape is not None:
            raise place.error("an input layer can only be the first")
        self.input_shape = self.shape = place.shape()
        if "neuron" not in place:
            return
        neuron = _neuron(place, self.shape)
        steps = self.encoding.time_steps
        if isinstance(neuron, Delta) and "weight" not in place and "bias" not in place:
            self.encoding = Encoding("events", steps, ANY_PAYLOAD)
        else:
            weight = place.integer("weight", 1, 255, INPUT_WEIGHT)
            bias = place.integer("bias", -255, 255, INPUT_BIAS)
            self.encoding = Encoding("graded", steps, (bias - weight, bias + weight))
        self._append(Inject(), neuron)

    def _flatten(self, place: _Place) -> None:
        self.shape = (int(np.prod(self.shape)),) if self.shape else ()

    def _dense(self, place: _Place) -> None:
        out = int(np.prod(place.shape()))
        if isinstance(place.group.get("weight"), h5py.Group):
            self._complex(place, out)
            return
        weight = _matrix(place, "weight", out)
        _check_dense(weight)
        self._feed(place, weight)
        self._append(Dense(weight, _delay(place, weight)), self._neuron_or_integrator(place, out))

    def _dense_rec(self, place: _Place) -> None:
        out = int(np.prod(place.shape()))
        weight, back = _matrix(place, "weight", out), _matrix(place, "weight_rec", out)
        if back.shape != (out, out):
            raise place.error(f"weight_rec has shape {list(back.shape)}, not [{out}, {out}]")
        if "delay" in place:
            raise place.error("a recurrent layer with delays: netx would delay its loop as well")
        _check_dense(np.hstack([weight, back]))  # netx scales them together
        for part in (weight, back):
            _check_dense(part)
        self._feed(place, weight)
        more = (Edge(Dense(back), (len(self.layers),)),)
        self._append(Dense(weight), self._neuron_or_integrator(place, out), more)

    def _complex(self, place: _Place, out: int) -> None:
        parts = _Place(place.group["weight"], f"{place.name}/weight")
        real, imag = (_matrix(parts, part, out) for part in ("real", "imag"))
        for part in (real, imag):
            _check_dense(part)
        self._feed(place, real)
        if "neuron" not in place:
            raise place.error("complex weights without neurons: netx needs neuron")
        self._append(ComplexDense(real, imag), _neuron(place, (out,)))

    def _feed(self, place: _Place, weight: NDArray[np.int32]) -> None:
        """That a weight ``[out, in]`` fits what feeds it; if nothing does yet, it says the input's
        shape."""
        place.agrees("outFeatures", weight.shape[:1])
        place.agrees("inFeatures", weight.shape[1:])
        if self.input_shape is None:
            self.input_shape = self.shape = weight.shape[1:]
        elif self.layers and len(self.shape) == 3:
            raise place.error("a flatten layer is needed between an image and a dense layer")

    def _neuron_or_integrator(self, place: _Place, out: int) -> AnyNeuron:
        return _neuron(place, (out,)) if "neuron" in place else _integrator(place, (out,))

    def _conv(self, place: _Place, pooling: bool) -> None:
        """A convolution; SLAYER's pooling, one kernel for all channels, is one of C groups here
        (netx itself runs no ``pool``)."""
        if self.input_shape is None:
            raise place.error(
                "a convolution needs an input layer before it, with the image's shape"
            )
        weight = place.integers("weight", -256, 255)
        if weight.ndim == 5 and weight.shape[4] == 1:  # SLAYER's have an axis for time
            weight = weight[..., 0]
        if weight.ndim != 4:
            raise place.error(f"weight has shape {list(weight.shape)}, not [out, in, kH, kW]")
        groups = 1 if pooling else place.integer("groups", 1, 2**15)
        if pooling:
            if weight.shape[:2] != (1, 1):
                raise place.error(f"weight has shape {list(weight.shape)}, not [1, 1, kH, kW]")
            groups = self.shape[0]
            weight = np.repeat(weight, groups, axis=0)
        if "delay" in place:
            raise place.error("netx ignores the delays of a convolution")
        if "neuron" not in place:
            raise place.error("a convolution without neurons: netx needs neuron")
        synapse = Conv(
            weight,
            stride=_pair(place, "stride", 1),
            padding=_pair(place, "padding", 0),
            dilation=_pair(place, "dilation", 1),
            groups=groups,
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


def _matrix(place: _Place, key: str, out: int) -> NDArray[np.int32]:
    """A dense weight ``[out, in]``; netx takes a flat one as well."""
    weight = place.integers(key, -256, 255)
    if weight.ndim == 1 and weight.size % out == 0:
        weight = weight.reshape(out, -1)
    if weight.ndim != 2 or weight.shape[0] != out:
        raise place.error(f"{key} has shape {list(weight.shape)}, shape says {out} neurons")
    return weight


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


def _neuron(place: _Place, shape: Shape) -> AnyNeuron:
    neuron = _Place(place.group["neuron"], f"{place.name}/neuron")
    if not isinstance(neuron.group, h5py.Group):
        raise place.error("neuron is not a group")
    kind = neuron.text("type")
    for key, only in (("refDelay", 1), ("gradedSpike", 0), ("wgtExp", 0), ("weight_exp", 0)):
        found = neuron.integer(key, -_INT, _INT, only)
        if found != only:
            raise neuron.error(f"{key} is {found}: netx ignores it and Lava's LIF does {only}")
    if kind in ("LOIHI", "CUBA"):
        bits = neuron.integer("messageBits", -_INT, _INT, 0)
        if bits:
            raise neuron.error(f"messageBits is {bits}: Lava's LIF sends spikes of 0 and 1")
        vth = neuron.integer("vThMant", 0, _NEVER_MAX)
        return Neuron(
            du=neuron.integer("iDecay", 0, formats.DECAY_ONE),
            dv=neuron.integer("vDecay", 0, formats.DECAY_ONE),
            vth=None if vth >= NEVER else vth,
            bias=_bias(place, shape, formats.BIAS_MIN, formats.BIAS_MAX),
        )
    if kind == "SDNN":
        if "activation" in neuron and neuron.text("activation") != "relu":
            raise neuron.error(f"activation {neuron.text('activation')!r}: netx does relu only")
        if place.text("type") == "input":
            return Delta(neuron.integer("vThMant", 0, formats.VTH_MAX), SPIKE_EXP, STATE_EXP)
        bias = _bias(place, shape, -formats.VTH_MAX - 1, formats.VTH_MAX)
        if "sigma_output" in neuron:
            if np.any(bias):
                raise place.error("bias of a sigma_output layer: Lava's Sigma has none")
            return Sigma()
        vth = neuron.integer("vThMant", 0, formats.VTH_MAX)
        return SigmaDelta(vth, bias, "relu", SPIKE_EXP, STATE_EXP)
    if kind.startswith("RF"):
        return _resonator(neuron, kind)
    raise neuron.error(
        f"type {kind!r} is not supported: use LOIHI or CUBA (LIF), SDNN (sigma-delta), RF_PHASE or "
        "RF_IZHIKEVICH"
    )


def _resonator(neuron: _Place, kind: str) -> Resonator:
    """netx goes from the file's integers to a period and a decay, and Lava back: two roundings."""
    sin, cos = (
        neuron.integer(key, -formats.DECAY_ONE, formats.DECAY_ONE) / formats.DECAY_ONE
        for key in ("sinDecay", "cosDecay")
    )
    turn = np.arctan2(sin, cos) / 2 / np.pi
    if turn == 0:
        raise neuron.error("sinDecay is 0: a resonator without an angle has no period in netx")
    kept = 1 - (1 - np.sqrt(sin**2 + cos**2))
    angle = np.pi * 2 * 1 / (1 / turn)
    sin, cos = (int(kept * f(angle) * formats.DECAY_ONE) for f in (np.sin, np.cos))
    return Resonator(
        neuron.integer("vThMant", 0, formats.VTH_MAX),
        sin,
        cos,
        "phase" if "PHASE" in kind else "izhikevich",
    )


def _integrator(place: _Place, shape: Shape) -> Neuron:
    return replace(INTEGRATOR, bias=_bias(place, shape, formats.BIAS_MIN, formats.BIAS_MAX))


def _bias(place: _Place, shape: Shape, low: int, high: int) -> Bias:
    if "bias" not in place or place.text("type") == "input":  # there it belongs to the encoding
        return 0
    bias = place.integers("bias", low, high)
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
