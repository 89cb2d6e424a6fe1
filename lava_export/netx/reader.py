"""Networks read, of ours and of others; what others sealed not is first tried in a child."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from lava_export import damage, seal
from lava_export.damage import UNREADABLE
from lava_export.netx.fields import INT, NetxError, Place, at, pair
from lava_export.netx.limits import (
    ANY_PAYLOAD,
    NEVER,
    SPIKE_EXP,
    STATE_EXP,
    check_conv,
    check_dense,
)
from lava_export.netx.own_form import GRAPH, read_graph, read_own
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
    formats,
)
from loihi.network import Readout, Shape, Synapse
from loihi.neurons import AnyNeuron, Bias

TIME_STEPS = 16
"""T of a file that does not say (``simulation/tSample``)."""
INPUT_WEIGHT, INPUT_BIAS = 64, 0  # netx's defaults for an input layer
_NEVER_MAX = 2**25 - 1


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
            damage.try_in_child(_in_child, path)
    except OSError as error:
        raise NetxError(f"{path}: cannot be read: {error.strerror or error}") from None
    except PumiceError as error:
        raise NetxError(f"{path}: {error}") from None
    return _open(path)


def _open(path: Path) -> Network:
    try:
        with h5py.File(path, "r") as file:
            return read_file(file)
    except PumiceError as error:
        raise NetxError(f"{path}: {' '.join(str(error).split())}") from None  # one line, always
    except UNREADABLE as error:
        words = " ".join(str(error).split())
        raise NetxError(f"{path}: cannot be read, it is damaged: {words}") from None


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
        return all(Place(layer, layer.name).text("type") != "pool" for layer in layers)


def read_file(file: h5py.File) -> Network:
    """What an open file says; errors do not name the file."""
    layers, own = file.get("layer"), file.get("pumice")
    if GRAPH in file:
        if "layer" in file:
            raise NetxError(f"layer and {GRAPH}: two networks in one file, which one is meant?")
        return read_graph(file)
    if not isinstance(layers, h5py.Group) or not len(layers):
        raise NetxError("not a netx file: it has no layers")
    if missing := [i for i in range(len(layers)) if str(i) not in layers]:
        raise NetxError(
            f"layers are numbered from 0 without gaps: found {', '.join(sorted(layers))}, "
            f"not {missing[0]}"
        )
    steps = TIME_STEPS
    if "simulation" in file:
        steps = Place(file["simulation"], "simulation").integer("tSample", 1, 2**20, steps)
    reader = _Reader(steps)
    for index in range(len(layers)):
        if not isinstance(layers[str(index)], h5py.Group):
            raise NetxError(f"layer/{index} is not a group")
        place = Place(layers[str(index)], f"layer/{index}")
        with at(place):
            reader.add(place)
    if not reader.layers or reader.input_shape is None:
        raise NetxError("no layer in it has neurons")
    encoding = reader.encoding
    last = reader.layers[-1].neuron
    spikes = last.vth is not None and not last.graded
    readout: Readout = "spikes" if spikes else "membrane"
    if own is not None:
        encoding, readout = read_own(own, encoding)
    return Network(reader.input_shape, tuple(reader.layers), encoding, readout)


class _Reader:
    """Walks through the layers of a file as netx does."""

    def __init__(self, steps: int) -> None:
        self.layers: list[Layer] = []
        self.input_shape: Shape | None = None
        self.shape: Shape = ()
        self.encoding = Encoding("events", steps)

    def add(self, place: Place) -> None:
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

    def _input(self, place: Place) -> None:
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

    def _flatten(self, place: Place) -> None:
        self.shape = (int(np.prod(self.shape)),) if self.shape else ()

    def _dense(self, place: Place) -> None:
        out = int(np.prod(place.shape()))
        if isinstance(place.group.get("weight"), h5py.Group):
            self._complex(place, out)
            return
        weight = _matrix(place, "weight", out)
        check_dense(weight)
        self._feed(place, weight)
        self._append(Dense(weight, _delay(place, weight)), self._neuron_or_integrator(place, out))

    def _dense_rec(self, place: Place) -> None:
        out = int(np.prod(place.shape()))
        weight, back = _matrix(place, "weight", out), _matrix(place, "weight_rec", out)
        if back.shape != (out, out):
            raise place.error(f"weight_rec has shape {list(back.shape)}, not [{out}, {out}]")
        if "delay" in place:
            raise place.error("a recurrent layer with delays: netx would delay its loop as well")
        check_dense(np.hstack([weight, back]))  # netx scales them together
        for part in (weight, back):
            check_dense(part)
        self._feed(place, weight)
        more = (Edge(Dense(back), (len(self.layers),)),)
        self._append(Dense(weight), self._neuron_or_integrator(place, out), more)

    def _complex(self, place: Place, out: int) -> None:
        parts = Place(place.group["weight"], f"{place.name}/weight")
        real, imag = (_matrix(parts, part, out) for part in ("real", "imag"))
        for part in (real, imag):
            check_dense(part)
        self._feed(place, real)
        if "neuron" not in place:
            raise place.error("complex weights without neurons: netx needs neuron")
        self._append(ComplexDense(real, imag), _neuron(place, (out,)))

    def _feed(self, place: Place, weight: NDArray[np.int32]) -> None:
        """That a weight ``[out, in]`` fits what feeds it; if nothing does yet, it says the input's
        shape."""
        place.agrees("outFeatures", weight.shape[:1])
        place.agrees("inFeatures", weight.shape[1:])
        if self.input_shape is None:
            self.input_shape = self.shape = weight.shape[1:]
        elif self.layers and len(self.shape) == 3:
            raise place.error("a flatten layer is needed between an image and a dense layer")

    def _neuron_or_integrator(self, place: Place, out: int) -> AnyNeuron:
        return _neuron(place, (out,)) if "neuron" in place else _integrator(place, (out,))

    def _conv(self, place: Place, pooling: bool) -> None:
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
            stride=pair(place, "stride", 1),
            padding=pair(place, "padding", 0),
            dilation=pair(place, "dilation", 1),
            groups=groups,
        )
        check_conv(synapse)
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


def _matrix(place: Place, key: str, out: int) -> NDArray[np.int32]:
    """A dense weight ``[out, in]``; netx takes a flat one as well."""
    weight = place.integers(key, -256, 255)
    if weight.ndim == 1 and weight.size % out == 0:
        weight = weight.reshape(out, -1)
    if weight.ndim != 2 or weight.shape[0] != out:
        raise place.error(f"{key} has shape {list(weight.shape)}, shape says {out} neurons")
    return weight


def _delay(place: Place, weight: NDArray[np.int32]) -> NDArray[np.int32] | None:
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


def _neuron(place: Place, shape: Shape) -> AnyNeuron:
    neuron = Place(place.group["neuron"], f"{place.name}/neuron")
    if not isinstance(neuron.group, h5py.Group):
        raise place.error("neuron is not a group")
    kind = neuron.text("type")
    for key, only in (("refDelay", 1), ("gradedSpike", 0), ("wgtExp", 0), ("weight_exp", 0)):
        found = neuron.integer(key, -INT, INT, only)
        if found != only:
            raise neuron.error(f"{key} is {found}: netx ignores it and Lava's LIF does {only}")
    if kind in ("LOIHI", "CUBA"):
        bits = neuron.integer("messageBits", -INT, INT, 0)
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


def _resonator(neuron: Place, kind: str) -> Resonator:
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


def _integrator(place: Place, shape: Shape) -> Neuron:
    return replace(INTEGRATOR, bias=_bias(place, shape, formats.BIAS_MIN, formats.BIAS_MAX))


def _bias(place: Place, shape: Shape, low: int, high: int) -> Bias:
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
