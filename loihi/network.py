"""The frozen integer network: everything that the chip needs, and nothing that training needs.

A :class:`Network` is layers, each a synapse and its neurons, in integers only: a chain, or a graph
with branches, additions and recurrence. It is immutable, checked where it is built, and equal to
another when every number is. The trainer freezes into it, ``lava_export`` writes it to a file and
reads it back, ``reference`` and ``engine`` run it, ``limits`` holds it against a chip.

Shapes are ``(features,)`` or ``(C, H, W)``; arrays over time are ``[T, N, C, H, W]``; a dense
synapse after an image flattens it in C, H, W order, as torch does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from loihi import formats
from loihi.encoding import Encoding
from loihi.errors import PumiceError
from loihi.formats import require_integer, require_integers
from loihi.frozen import Frozen
from loihi.neurons import AnyNeuron, Resonator
from loihi.neurons import Shape as Shape

Readout = Literal["membrane", "spikes"]

INPUT = -1
"""The network's input, where layers are named as sources."""


class NetworkError(PumiceError):
    """Layers that do not fit each other, or a network that is not one."""


@dataclass(frozen=True, eq=False)
class Inject(Frozen):
    """Input current straight into the neurons of an input layer: one value a neuron, no latency."""

    latency = 0

    def output_shape(self, shape: Shape) -> Shape:
        """The input's own shape."""
        return shape

    def describe(self, shape: Shape) -> str:
        """``input 784``."""
        return f"input {_size(shape)}"


@dataclass(frozen=True, eq=False)
class Dense(Frozen):
    """All to all. A spike at step t reaches the neurons at t + 1 + delay.

    weight: ``[out, in]`` in the 8-bit format of :func:`loihi.formats.weight_format`.
    delay: ``[out, in]`` steps, 0..62, or None for none.
    """

    weight: NDArray[np.int32]
    delay: NDArray[np.int32] | None = None
    latency = 1

    def __post_init__(self) -> None:
        weight = require_integers("weight", self.weight, -256, 255)
        if weight.ndim != 2:
            raise NetworkError(f"a dense weight is [out, in], found shape {list(weight.shape)}")
        object.__setattr__(self, "weight", weight)
        if self.delay is not None:
            delay = require_integers("delay", self.delay, 0, formats.DELAY_MAX)
            if delay.shape != weight.shape:
                raise NetworkError(
                    f"delay has shape {list(delay.shape)}, its weight {list(weight.shape)}"
                )
            object.__setattr__(self, "delay", delay if delay.any() else None)

    def output_shape(self, shape: Shape) -> Shape:
        """``(out,)``; the input may be an image of ``in`` values."""
        out, features = self.weight.shape
        if features != int(np.prod(shape)):
            raise NetworkError(
                f"a dense synapse of {features} inputs is fed by {int(np.prod(shape))} "
                f"({_size(shape)})"
            )
        return (out,)

    def describe(self, shape: Shape) -> str:
        """``dense 784-512``."""
        return f"dense {self.weight.shape[1]}-{self.weight.shape[0]}"


def _pair(name: str, value: int | Sequence[int], low: int) -> tuple[int, int]:
    pair = np.broadcast_to(require_integers(name, value, low, 2**15), (2,))
    return int(pair[0]), int(pair[1])


@dataclass(frozen=True, eq=False)
class Conv(Frozen):
    """Convolution (correlation, as in torch), zero padded. Average pooling is one with groups = C.

    weight: ``[out, in / groups, kH, kW]`` in the 8-bit weight format.
    stride, padding, dilation: one number or (vertical, horizontal).
    """

    weight: NDArray[np.int32]
    stride: int | tuple[int, int] = 1
    padding: int | tuple[int, int] = 0
    dilation: int | tuple[int, int] = 1
    groups: int = 1
    latency = 1

    def __post_init__(self) -> None:
        put = object.__setattr__
        weight = require_integers("weight", self.weight, -256, 255)
        if weight.ndim != 4:
            raise NetworkError(
                f"a convolution's weight is [out, in, kH, kW], found shape {list(weight.shape)}"
            )
        put(self, "weight", weight)
        put(self, "stride", _pair("stride", self.stride, 1))
        put(self, "padding", _pair("padding", self.padding, 0))
        put(self, "dilation", _pair("dilation", self.dilation, 1))
        put(self, "groups", require_integer("groups", self.groups, 1, 2**15))
        if weight.shape[0] % self.groups:
            raise NetworkError(
                f"{weight.shape[0]} channels do not divide into {self.groups} groups"
            )

    def output_shape(self, shape: Shape) -> Shape:
        """``(out, H', W')`` with H' = ⌊(H + 2p − d(k − 1) − 1) / s⌋ + 1."""
        if len(shape) != 3:
            raise NetworkError(f"a convolution needs an image (C, H, W), found {_size(shape)}")
        out, per_group, *kernel = self.weight.shape
        if per_group * self.groups != shape[0]:
            raise NetworkError(
                f"a convolution of {per_group * self.groups} channels is fed by {shape[0]}"
            )
        spatial = [
            (n + 2 * p - d * (k - 1) - 1) // s + 1
            for n, k, s, p, d in zip(
                shape[1:], kernel, self.strides, self.paddings, self.dilations, strict=True
            )
        ]
        if min(spatial) < 1:
            raise NetworkError(f"a {kernel[0]}x{kernel[1]} kernel does not fit {_size(shape)}")
        return (out, *spatial)

    # The constructor takes a number or a pair; these are always the pair.
    @property
    def strides(self) -> tuple[int, int]:
        """Vertical and horizontal stride."""
        return self.stride  # type: ignore[return-value]

    @property
    def paddings(self) -> tuple[int, int]:
        """Rows and columns of zeros on each side."""
        return self.padding  # type: ignore[return-value]

    @property
    def dilations(self) -> tuple[int, int]:
        """Vertical and horizontal dilation."""
        return self.dilation  # type: ignore[return-value]

    def describe(self, shape: Shape) -> str:
        """``conv 6@5x5``, ``grouped conv 6@2x2``."""
        out, _, height, width = self.weight.shape
        return f"{'grouped ' if self.groups > 1 else ''}conv {out}@{height}x{width}"


@dataclass(frozen=True, eq=False)
class ComplexDense(Frozen):
    """All to all with complex weights, for :class:`loihi.neurons.Resonator`: two dense synapses.

    real, imag: ``[out, in]``, each in the 8-bit weight format. A message's real part goes through
    ``real`` and adds to the neurons' real input, and through ``imag`` to their imaginary one.
    """

    real: NDArray[np.int32]
    imag: NDArray[np.int32]
    latency = 1

    def __post_init__(self) -> None:
        for name in ("real", "imag"):
            object.__setattr__(self, name, Dense(getattr(self, name)).weight)
        if self.real.shape != self.imag.shape:
            raise NetworkError(
                f"the real weights are {list(self.real.shape)}, the imaginary ones "
                f"{list(self.imag.shape)}"
            )

    @property
    def weight(self) -> NDArray[np.int32]:
        """Both in one, ``[2 · out, in]``: the real rows, then the imaginary ones."""
        return np.concatenate([self.real, self.imag])

    def output_shape(self, shape: Shape) -> Shape:
        """``(out,)``."""
        return Dense(self.real).output_shape(shape)

    def describe(self, shape: Shape) -> str:
        """``complex dense 200-256``."""
        return f"complex {Dense(self.real).describe(shape)}"


Synapse = Inject | Dense | Conv | ComplexDense


def _sources(sources: Sequence[int]) -> tuple[int, ...]:
    found = sorted(require_integer("a source", source, INPUT, 2**31 - 1) for source in sources)
    if not found:
        raise NetworkError("sources are empty: name a layer, or -1 for the network's input")
    if len(set(found)) < len(found):
        raise NetworkError(f"a source is named twice in {tuple(found)}: use larger weights")
    return tuple(found)


@dataclass(frozen=True, eq=False)
class Edge(Frozen):
    """A further synapse that feeds a layer's neurons.

    sources: the layers whose spikes it carries, added up; −1: the network's input.
    """

    synapse: Dense | Conv
    sources: tuple[int, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.synapse, Dense | Conv):
            raise NetworkError("a further synapse is dense or a convolution")
        object.__setattr__(self, "sources", _sources(self.sources))


@dataclass(frozen=True, eq=False)
class Layer(Frozen):
    """Neurons and the synapses that feed them: one, and where the network branches, more.

    With sᵢ[t] the spikes of layer i at its local step t, the synaptic input of layer l is ::

        a_l[t] = Σ synapse(Σ sᵢ[t − (i ≥ l)])  over ``synapse`` and ``more``  +  a_carry[t]

    Spikes of a layer before are those of the same step; of the layer itself or a later one, those
    of the step before, and none at a sample's first step. All sums are of integers, wrapped at 32
    bits as Lava's are (the sum of one convolution at 24).

    sources: the layers whose spikes ``synapse`` carries, added up: the element-wise addition of
        spike-element-wise (SEW) residual nets, so that k sources send payloads of 0..k. −1 is the
        network's input. None: the layer before, the input for the first. Kept in ascending order.
    more: further synapses onto the same neurons: a shortcut with a synapse of its own, a recurrent
        one.
    carry: an earlier layer whose whole synaptic input (its own carry included; not its bias) is
        added: the identity shortcut of pre-activation nets. On a chip its synapses are repeated.
    """

    synapse: Synapse
    neuron: AnyNeuron
    sources: tuple[int, ...] | None = None
    more: tuple[Edge, ...] = ()
    carry: int | None = None

    def __post_init__(self) -> None:
        put = object.__setattr__
        if self.sources is not None:
            put(self, "sources", _sources(self.sources))
        put(self, "more", tuple(self.more))
        if self.carry is not None:
            put(self, "carry", require_integer("carry", self.carry, 0, 2**31 - 1))


@dataclass(frozen=True, eq=False)
class Network(Frozen):
    """Layers, the network's input encoding, and how its answer is read.

    input_shape: ``(features,)`` or ``(C, H, W)`` of what is sent in each step.
    layers: at least one; :class:`Inject` can only be the first. The last is read.
    encoding: how data become payloads; its T is the number of steps a sample lasts.
    readout: ``membrane``: v of the last layer after the last step; ``spikes``: how often each of
        its neurons spiked. The largest wins, the first of equals.

    ``sources`` that say what a chain does anyway are kept as None: they make no other network.
    """

    input_shape: Shape
    layers: tuple[Layer, ...]
    encoding: Encoding
    readout: Readout = "membrane"

    def __post_init__(self) -> None:
        object.__setattr__(self, "input_shape", tuple(int(n) for n in self.input_shape))
        object.__setattr__(
            self,
            "layers",
            tuple(
                replace(layer, sources=None) if layer.sources == (index - 1,) else layer
                for index, layer in enumerate(self.layers)
            ),
        )
        if len(self.input_shape) not in (1, 3) or min(self.input_shape) < 1:
            raise NetworkError(f"input shape {self.input_shape} is neither (N,) nor (C, H, W)")
        if not self.layers:
            raise NetworkError("a network needs at least one layer")
        if self.readout not in get_args(Readout):
            raise NetworkError(f"readout {self.readout!r} is neither 'membrane' nor 'spikes'")
        last = self.layers[-1].neuron
        if self.readout == "spikes" and (last.vth is None or last.graded):
            why = "never spikes" if last.vth is None else "sends numbers, not spikes"
            raise NetworkError(f"readout 'spikes' of a last layer that {why}: use 'membrane'")
        self.shapes  # noqa: B018 - checks every layer against those that feed it

    @cached_property
    def is_chain(self) -> bool:
        """Whether each layer is fed by the one before alone: no branch, addition or recurrence."""
        return all(
            layer.sources is None and not layer.more and layer.carry is None
            for layer in self.layers
        )

    def sources(self, index: int) -> tuple[int, ...]:
        """The layers whose spikes a layer's ``synapse`` carries; −1 is the network's input."""
        sources = self.layers[index].sources
        return (index % len(self.layers) - 1,) if sources is None else sources

    def synapses(self, index: int) -> tuple[tuple[Synapse, tuple[int, ...]], ...]:
        """All synapses of a layer, ``synapse`` first, each with its sources."""
        layer = self.layers[index]
        more = ((edge.synapse, edge.sources) for edge in layer.more)
        return ((layer.synapse, self.sources(index)), *more)

    def shape_of(self, source: int) -> Shape:
        """The shape of what a source sends: a layer's, or the input's for −1."""
        return self.input_shape if source == INPUT else self.shapes[source]

    def payload_of(self, sources: Sequence[int]) -> tuple[int, int]:
        """The smallest and the largest payload that these sources can send together."""
        low = high = 0
        for source in sources:
            if source == INPUT:
                first, last = self.encoding.payload
            else:
                graded = self.layers[source].neuron.graded
                first, last = (-(2**31), 2**31 - 1) if graded else (0, 1)
            low, high = low + min(first, 0), high + max(last, 0)
        return low, high

    @cached_property
    def shapes(self) -> tuple[Shape, ...]:
        """The output shape of every layer."""
        shapes: list[Shape | None] = [None] * len(self.layers)
        missing, before = list(range(len(self.layers))), 0
        while missing and len(missing) != before:  # a loop can need a second look
            before = len(missing)
            for index in missing:
                with _at_layer(index):
                    shapes[index] = self._shape(index, shapes)
            missing = [index for index in missing if shapes[index] is None]
        if missing:
            raise NetworkError(
                f"layer {missing[0]}: nothing says the size of its image: its convolutions are "
                "fed by nothing but a loop"
            )
        known: list[Shape] = [shape for shape in shapes if shape is not None]
        for index, layer in enumerate(self.layers):
            with _at_layer(index):
                self._check(index, known)
                _check_bias(layer.neuron, known[index])
        return tuple(known)

    def _shape(self, index: int, shapes: Sequence[Shape | None]) -> Shape | None:
        """A layer's output shape, from the first of its synapses whose sources' shape is known."""
        layer = self.layers[index]
        if isinstance(layer.synapse, Inject) and (index or layer.sources is not None):
            raise NetworkError("only the first layer can be an input layer, fed by the input alone")
        for synapse, sources in self.synapses(index):
            for source in sources:
                if source >= len(self.layers):
                    raise NetworkError(
                        f"source {source} is not a layer: they are 0..{len(self.layers) - 1}"
                    )
                shape = self.input_shape if source == INPUT else shapes[source]
                if shape is not None:
                    return synapse.output_shape(shape)
            if isinstance(synapse, Dense):
                return synapse.weight.shape[:1]
        return None

    def _check(self, index: int, shapes: Sequence[Shape]) -> None:
        """That everything that feeds a layer fits it and its kind."""
        layer = self.layers[index]
        if isinstance(layer.synapse, ComplexDense) != isinstance(layer.neuron, Resonator):
            raise NetworkError("resonators need a complex dense synapse, and nothing else has one")
        if not (layer.neuron.resets or self.is_chain):
            kind = type(layer.neuron).__name__
            raise NetworkError(f"{kind} neurons work in hardware time: only in a chain")
        for number, (synapse, sources) in enumerate(self.synapses(index)):
            fed = [self.input_shape if s == INPUT else shapes[s] for s in sources]
            if len(set(fed)) > 1:
                sizes = ", ".join(
                    f"{_source(s)} {_size(shape)}" for s, shape in zip(sources, fed, strict=True)
                )
                raise NetworkError(f"sources that are added must have one shape, found {sizes}")
            for weight in _weights(synapse):
                formats.weight_format(weight)
            out = synapse.output_shape(fed[0])
            if out != shapes[index]:
                raise NetworkError(
                    f"its synapse {synapse.describe(fed[0])} (more {number - 1}) makes "
                    f"{_size(out)} of {_size(fed[0])}, its neurons are {_size(shapes[index])}"
                )
        carry = layer.carry
        if carry is None:
            return
        if carry >= index:
            raise NetworkError(f"carry is {carry}: it takes the input of an earlier layer")
        if shapes[carry] != shapes[index]:
            raise NetworkError(
                f"carry takes the input of layer {carry}, of {_size(shapes[carry])} neurons, for "
                f"{_size(shapes[index])}"
            )

    @cached_property
    def names(self) -> tuple[str, ...]:
        """A name for every layer: its index and what it is, as ``1 dense 512-10``.

        Where it is no link of a chain, all that feeds it: ``4 conv 8@3x3 from 1+3 & conv 8@1x1
        from input & input of 2``.
        """
        return tuple(
            f"{index} {' & '.join([*self.describe(index), *carried])}"
            for index, layer in enumerate(self.layers)
            for carried in [[] if layer.carry is None else [f"input of {layer.carry}"]]
        )

    def describe(self, index: int) -> tuple[str, ...]:
        """What each of a layer's :meth:`synapses` is: ``conv 8@3x3 from 1+3``."""
        link = self.layers[index].sources is None
        return tuple(
            synapse.describe(self.shape_of(sources[0]))
            + ("" if link and not number else f" from {'+'.join(map(_source, sources))}")
            for number, (synapse, sources) in enumerate(self.synapses(index))
        )

    @cached_property
    def arrivals(self) -> tuple[int, ...]:
        """Steps by which each layer lags behind the input: the sum of the latencies on the way.

        A layer's *local* step τ happens at hardware step τ + arrival. With states reset at each
        layer's own local step 1, local time has no latency at all: that is what the trainer and
        the engine compute.

        In a graph it is the longest way (recurrent synapses left out), the earliest at which all
        spikes of a step can be there. Those of a shorter way would need a delay, and a loop
        through several layers would have to be faster than a synapse a step: local time knows
        neither (see :func:`loihi.limits.waits`), and nothing wires graphs to the chip yet.
        """
        arrivals: list[int] = []
        for index, layer in enumerate(self.layers):
            ways = [0 if layer.carry is None else arrivals[layer.carry]]
            for synapse, sources in self.synapses(index):
                ways += [
                    (0 if s == INPUT else arrivals[s]) + synapse.latency
                    for s in sources
                    if s < index
                ]
            arrivals.append(max(ways))
        return tuple(arrivals)

    @property
    def time_steps(self) -> int:
        """T, the steps a sample lasts."""
        return self.encoding.time_steps

    @property
    def classes(self) -> int:
        """Neurons of the last layer."""
        return int(np.prod(self.shapes[-1]))

    @cached_property
    def outputs(self) -> tuple[int, ...]:
        """The layers that feed no other: one for each head; the last layer is the answer."""
        feeding = {
            source
            for index in range(len(self.layers))
            for _, sources in self.synapses(index)
            for source in sources
            if source != index
        } | {layer.carry for layer in self.layers}
        last = len(self.layers) - 1
        return tuple(i for i in range(last + 1) if i == last or i not in feeding)

    @property
    def resets(self) -> bool:
        """Whether every layer can be cleared between samples; else each is run from rest."""
        return all(layer.neuron.resets for layer in self.layers)

    @property
    def has_delays(self) -> bool:
        """Whether any synapse has a delay."""
        return any(
            isinstance(synapse, Dense) and synapse.delay is not None
            for layer in self.layers
            for synapse in (layer.synapse, *(edge.synapse for edge in layer.more))
        )

    def with_layer(self, index: int, layer: Layer) -> Network:
        """This network with one layer replaced."""
        layers = list(self.layers)
        layers[index] = layer
        return replace(self, layers=tuple(layers))

    def check_payloads(self, x: NDArray[Any]) -> NDArray[Any]:
        """``x`` as payloads ``[T, N, *input_shape]``; wrong shapes and ranges raise."""
        x = np.asarray(x)
        if x.ndim != 2 + len(self.input_shape) and int(np.prod(x.shape[2:])) != int(
            np.prod(self.input_shape)
        ):
            raise NetworkError(
                f"expected input [T, N, {', '.join(map(str, self.input_shape))}], "
                f"found {list(x.shape)}"
            )
        if int(np.prod(x.shape[2:])) != int(np.prod(self.input_shape)):
            raise NetworkError(
                f"the network takes samples of {_size(self.input_shape)}, the data hold "
                f"{_size(x.shape[2:])}"
            )
        if x.dtype.kind not in "iub":
            raise NetworkError(f"payloads are integers, found dtype {x.dtype}")
        x = x.reshape(*x.shape[:2], *self.input_shape)
        first, last = self.encoding.payload
        one_step = x[:1] if x.strides[0] == 0 else x
        low, high = min(first, 0), max(last, 0)  # silence is always a payload
        if one_step.size and not (low <= one_step.min() and one_step.max() <= high):
            raise NetworkError(
                f"payloads {one_step.min()}..{one_step.max()} exceed the encoding's {first}..{last}"
            )
        return x


def decide(scores: NDArray[Any]) -> NDArray[np.int64]:
    """The class of each sample of ``scores [N, classes]``: the largest, the first of equals."""
    return np.argmax(scores, axis=1)


def _weights(synapse: Synapse) -> tuple[NDArray[np.int32], ...]:
    """What is stored in synapses of one format each."""
    if isinstance(synapse, ComplexDense):
        return synapse.real, synapse.imag
    return () if isinstance(synapse, Inject) else (synapse.weight,)


def _check_bias(neuron: AnyNeuron, shape: Shape) -> None:
    bias = np.asarray(neuron.bias)
    if bias.ndim and bias.shape not in (shape, shape[:1]):
        raise NetworkError(f"bias of shape {list(bias.shape)} on neurons of {_size(shape)}")


@contextmanager
def _at_layer(index: int) -> Iterator[None]:
    """Errors from here say which layer."""
    try:
        yield
    except PumiceError as error:
        raise NetworkError(f"layer {index}: {error}") from None


def _source(index: int) -> str:
    return "input" if index == INPUT else str(index)


def _size(shape: Sequence[int]) -> str:
    return "x".join(str(n) for n in shape)
