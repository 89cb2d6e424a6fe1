"""The papers' networks by name, and the builder that makes any architecture.

    mlp              512-512
    lenet            16c5-2a-32c5-2a-128, small enough for minutes on a CPU
    lenet1, lenet2   TT-LBP (Guo et al. 2023), Table 2
    alexnet          TT-LBP, Table 2
    vgg11, vgg11_ws  OTTT's and SLTT's, with batch norm and with weight standardisation
    sew_resnet18     spike-element-wise: a block's spikes and its input's are added
    preact_resnet18  a block's synaptic input and its input's are added, neurons come first
    nf_resnet34, nf_resnet50, nf_resnet101   the same normaliser-free, with weight standardisation

``/4`` behind a name divides all widths by 4. Average pooling (``2a``) has neurons of its own; a
mean (``2m``, and ``ga`` over the whole image before a readout) is part of the synapse behind it, so
that no spike is lost between the two. Normalisation stands behind each convolution, also where the
paper has it before the neurons of a sum: only there can it be folded into integers (a chip's
neurons have one threshold a layer).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

from loihi import Encoding, formats
from loihi.network import INPUT
from trainer.layers import Layer, Link
from trainer.models import SpikingNetwork
from trainer.neurons import FORMS, Neurons
from trainer.pools import AvgPool, PooledConv, PooledDense
from trainer.surrogates import Surrogate
from trainer.synapses import Conv, Dense, ModelError, Shape, Synapse

CHAINS = {
    "mlp": "512-512",
    "lenet": "16c5-2a-32c5-2a-128",
    "lenet1": "6c5p2-2a-16c5-2a-120c5-128",
    "lenet2": "64c5p2-2a-128c5p2-2a-128c5p2-256",
    "alexnet": "96c3p1-256c3p1-2a-384c3p1-2a-512c3p1-384c3p1-256c3p1-4096-1024",
    "vgg11": "64c3p1-128c3p1-2a-256c3p1-256c3p1-2a-512c3p1-512c3p1-2a-512c3p1-512c3p1-ga",
    "vgg11_ws": "64c3p1-128c3p1-2a-256c3p1-256c3p1-2a-512c3p1-512c3p1-2a-512c3p1-512c3p1-ga",
}
NORMS = {"vgg11": "bn", "vgg11_ws": "ws", "sew_resnet18": "bn", "preact_resnet18": "bn"}
"""Where the name does not say, there is none; nf_ networks have ``ws``."""
SMALL_LENET = "16c3p1-2a-32c3p1-2a-128"
"""LeNet for images too small for two unpadded 5x5 convolutions."""

_PAIR = r"\d+(x\d+)?"
_TOKEN = re.compile(
    rf"(?P<dense>\d+)(?P<loop>r)?|(?P<conv>\d+)c(?P<kernel>{_PAIR})(p(?P<pad>{_PAIR}))?"
    rf"(s(?P<stride>{_PAIR}))?(d(?P<dilation>{_PAIR}))?(g(?P<groups>\d+))?|"
    r"(?P<pool>\d+)a|(?P<mean>\d+)m|(?P<ga>ga)"
)
_LARGE = 64
"""Images from this many pixels begin with a stride of 4, as ImageNet's do."""


class Builder:
    """Adds layer to layer; each method returns the index of the layer that it added."""

    def __init__(
        self,
        input_shape: Shape,
        peak: int,
        neuron: str,
        surrogate: Surrogate | None,
        norm: str,
        per_neuron: bool,
        signed: bool = False,
        **settings: Any,
    ) -> None:
        self.input_shape, self.peak, self.signed = input_shape, peak, signed
        self.form, self.surrogate, self.norm = neuron, surrogate, norm
        self.per_neuron, self.settings = per_neuron, settings
        self.layers: list[Layer] = []
        self.mean: int | None = None  # the next synapse's

    @property
    def on_grid(self) -> bool:
        return FORMS[self.form].on_grid

    def shape(self, source: int) -> Shape:
        """What a layer, or the input (−1), sends."""
        return self.input_shape if source == INPUT else self.layers[source].synapse.output_shape

    def add(
        self,
        make: Callable[[Shape], Synapse],
        sources: Sequence[int] | None = None,
        *,
        more: Sequence[tuple[Callable[[Shape], Synapse], Sequence[int]]] = (),
        carry: int | None = None,
        neurons: bool = True,
        loop: bool = False,
    ) -> int:
        """A layer: synapses made for the shape of what they carry, and neurons."""
        index = len(self.layers)
        first = (index - 1,) if sources is None else tuple(sources)
        try:
            synapse = make(self.shape(first[0]))
            links = [Link(other(self.shape(s[0])), s) for other, s in more]
        except ModelError as error:
            raise ModelError(f"layer {index + 1}: {error}") from None
        if loop:
            links.append(Link(Dense(synapse.output_shape, synapse.output_shape[0]), (index,)))
        groups = (first, *(link.sources for link in links))
        peak = max(sum(self.peak if s == INPUT else 1 for s in group) for group in groups)
        if neurons:
            for one in (synapse, *(link.synapse for link in links)):
                if not isinstance(one, AvgPool):
                    one.normalise(self.norm)
        layer = Layer(
            synapse,
            self._neurons(synapse) if neurons else None,
            peak,
            self.on_grid,
            sources=None if first == (index - 1,) else first,
            more=links,
            carry=carry,
            signed=self.signed and any(INPUT in group for group in groups),
        )
        self.layers.append(layer)
        return index

    def _neurons(self, synapse: Synapse) -> Neurons:
        settings = {"vth": 64.0 if self.on_grid else 1.0, **self.settings}
        if isinstance(synapse, AvgPool):
            settings = synapse.averaging(self.on_grid)
        elif self.per_neuron:
            settings["shape"] = synapse.output_shape
        return Neurons(
            synapse.output_shape[0], form=self.form, surrogate=self.surrogate, **settings
        )

    def token(self, token: str) -> int:
        """A layer of an architecture's text, after the last one."""
        sizes = _sizes(token)
        one = {name: size[0] for name, size in sizes.items()}
        mean, self.mean = self.mean, None
        if mean is not None and ("dilation" in one or not {"dense", "conv"} & one.keys()):
            raise ModelError(
                f"layer {token!r} behind {mean}m: a mean is part of the next synapse, dense or a "
                "convolution without dilation"
            )
        if "mean" in one or "ga" in one:
            self.mean = one.get("mean", 0)
            return len(self.layers) - 1
        if "dense" in one:
            return self.add(self.dense(one["dense"], mean), loop="loop" in one)
        if "pool" in one:
            return self.add(lambda s: AvgPool(s, one["pool"]))
        where = sizes["kernel"], sizes.get("pad", 0), sizes.get("stride", 1)
        groups = one.get("groups", 1)
        if mean is not None:
            return self.add(lambda s: PooledConv(s, mean, one["conv"], *where, groups))
        dilation = sizes.get("dilation", 1)
        return self.add(lambda s: Conv(s, one["conv"], *where, dilation, groups))

    def dense(self, out: int, mean: int | None) -> Callable[[Shape], Synapse]:
        """All to all, behind a mean over squares of pixels if there is one, 0 for all pixels."""
        if mean is None:
            return lambda shape: Dense(shape, out)
        return lambda shape: PooledDense(shape, out, mean or None)

    def conv(self, out: int, kernel: int, stride: int = 1) -> Callable[[Shape], Synapse]:
        """A convolution that keeps the image's size, but for its stride."""
        return lambda shape: Conv(shape, out, kernel, kernel // 2, stride)


def _sizes(token: str) -> dict[str, tuple[int, int]]:
    """What a layer's text says, by the names of its parts; (vertical, horizontal)."""
    found = _TOKEN.fullmatch(token)
    if found is None:
        raise ModelError(
            f"layer {token!r} is none of 128, 128r, 8c5p2s1, 8c5x3p2x1s2d2g4, 2a, 2m, ga"
        )
    sizes = {}
    for name, text in found.groupdict().items():
        if text is not None:
            down, _, across = text.partition("x")
            sizes[name] = (int(down), int(across or down)) if down.isdigit() else (1, 1)
    if min(min(size) for name, size in sizes.items() if name != "pad") < 1:
        raise ModelError(f"layer {token!r}: sizes start at 1")
    return sizes


def _sew_resnet18(b: Builder, width: Callable[[int], int]) -> Sequence[int]:
    """SEW ResNet-18 (Fang et al. 2021) with ADD: what a block sends is its spikes and its input."""
    message: tuple[int, ...] = (_stem(b, width(64)),)
    for stage, channels in enumerate((64, 128, 256, 512)):
        for block in range(2):
            stride = 2 if stage and not block else 1
            b.add(b.conv(width(channels), 3, stride), message)
            outer = b.add(b.conv(width(channels), 3))
            if stride != 1:
                message = (b.add(b.conv(width(channels), 1, 2), message),)
            message = (*message, outer)
    return message


def _stem(b: Builder, channels: int) -> int:
    if min(b.input_shape[1:]) < _LARGE:
        return b.add(b.conv(channels, 3), (INPUT,))
    b.add(b.conv(channels, 7, 2), (INPUT,))
    return b.add(lambda s: AvgPool(s, 2))


def _preact(
    b: Builder, width: Callable[[int], int], blocks: Sequence[int], bottleneck: bool
) -> Sequence[int]:
    """Pre-activation residual blocks (He et al. 2016): neurons, convolution, twice or thrice; the
    synaptic input of a block's first neurons goes on to the next block's."""
    if min(b.input_shape[1:]) < _LARGE:
        first = b.add(b.conv(width(64), 3), (INPUT,))
    else:
        b.add(b.conv(width(64), 7, 2), (INPUT,))
        pooled = b.add(lambda s: AvgPool(s, 2))
        first = b.add(b.conv(width(64), 1), (pooled,))
    expansion = 4 if bottleneck else 1
    for stage, (channels, count) in enumerate(zip((64, 128, 256, 512), blocks, strict=True)):
        inside, outside = width(channels), width(channels) * expansion
        for block in range(count):
            stride = 2 if stage and not block else 1
            if bottleneck:
                b.add(b.conv(inside, 1), (first,))
                b.add(b.conv(inside, 3, stride))
                last = b.conv(outside, 1)
            else:
                b.add(b.conv(inside, 3, stride), (first,))
                last = b.conv(outside, 3)
            same = stride == 1 and b.shape(first)[0] == outside
            # The next block's neurons: this one's last synapses, and the shortcut's.
            shortcut = () if same else ((b.conv(outside, 1, stride), (first,)),)
            first = b.add(last, more=shortcut, carry=first if same else None)
    return (first,)


_BASIC, _DEEP, _DEEPER = (2, 2, 2, 2), (3, 4, 6, 3), (3, 4, 23, 3)
GRAPHS: dict[str, Callable[[Builder, Callable[[int], int]], Sequence[int]]] = {
    "sew_resnet18": _sew_resnet18,
    "preact_resnet18": lambda b, w: _preact(b, w, _BASIC, False),
    "nf_resnet34": lambda b, w: _preact(b, w, _DEEP, False),
    "nf_resnet50": lambda b, w: _preact(b, w, _DEEP, True),
    "nf_resnet101": lambda b, w: _preact(b, w, _DEEPER, True),
}
MODELS = (*CHAINS, *GRAPHS)


def _split(model: str) -> tuple[str, int]:
    """``vgg11/4`` → ``vgg11``, 4."""
    name, slash, divisor = model.partition("/")
    if not slash:
        return name, 1
    if name not in MODELS or not divisor.isdigit() or int(divisor) < 1:
        raise ModelError(f"model {model!r}: widths are divided as in vgg11/4")
    return name, int(divisor)


def architecture(model: str, input_shape: Shape, hidden: Sequence[int] | None = None) -> str:
    """The architecture in full: of a chain's name, or of an architecture as it stands; the name
    itself of a network with branches.

    hidden: sizes of the hidden dense layers, in place of the model's own.
    """
    name, divisor = _split(model)
    if name in GRAPHS:
        if hidden:
            raise ModelError(f"{model} has no hidden dense layers to take the place of")
        return model
    text = CHAINS.get(name, name)
    if name == "lenet" and len(input_shape) == 3 and min(input_shape[1:]) < 16:
        text = SMALL_LENET
    tokens = text.split("-")
    for token in tokens:
        if not _TOKEN.fullmatch(token):
            raise ModelError(
                f"model {model!r}: use {', '.join(MODELS)}, or layers such as 8c5-2a-128 "
                f"({token!r} is none)"
            )
    if divisor > 1:
        tokens = [_narrower(token, divisor) for token in tokens]
    if hidden is not None:
        tokens = [t for t in tokens if not t.isdigit()] + [str(n) for n in hidden]
    if "ga" in tokens[:-1]:
        raise ModelError(f"model {model!r}: a global average (ga) can only come last")
    return "-".join(tokens)


def _narrower(token: str, divisor: int) -> str:
    sizes = _sizes(token)
    if {"pool", "mean", "ga"} & sizes.keys():
        return token
    width = re.match(r"\d+", token)
    assert width is not None
    return f"{max(int(width[0]) // divisor, 1)}{token[width.end() :]}"


def build(
    model: str,
    input_shape: Shape,
    classes: int,
    encoding: Encoding,
    *,
    hidden: Sequence[int] | None = None,
    readout: str = "membrane",
    neuron: str = "chip",
    surrogate: Surrogate | None = None,
    bias: bool = False,
    dv: float = 0.0,
    du: float = float(formats.DECAY_ONE),
    norm: str = "",
    per_neuron: bool = False,
    block: int = 0,
    classifiers: str = "trainable",
) -> SpikingNetwork:
    """A network with undrawn weights; :meth:`SpikingNetwork.calibrate` draws them.

    model: a name, or an architecture.
    input_shape: ``(features,)`` or ``(C, H, W)``. Networks of dense layers only take it flat.
    classes: neurons of the last layer.
    neuron: ``chip`` and ``soft`` (hard and soft reset, on the grid), or in real numbers ``hard``,
        ``A`` and ``B``: see :mod:`trainer.neurons`.
    norm: ``none``, ``ws``, ``bn``; empty: the model's own.
    per_neuron: a threshold and a leak for every neuron, for targets that hold them (not Loihi).
    block: a local classifier after every so many layers with weights (behind their pooling), but
        for the last block, whose classifier is the output layer; 0: none.
    classifiers: ``trainable``, or ``random``: fixed as drawn, the output layer too.
    """
    name, divisor = _split(model)
    text = architecture(model, input_shape, hidden)
    tokens = text.split("-") if name not in GRAPHS else []
    if tokens and all(token.rstrip("r").isdigit() for token in tokens):
        input_shape = (math.prod(input_shape),)
    peak, signed = max(abs(n) for n in encoding.payload), min(encoding.payload) < 0
    kind = norm or NORMS.get(name, "ws" if name.startswith("nf_") else "none")
    b = Builder(
        input_shape, peak, neuron, surrogate, kind, per_neuron, signed, bias=bias, dv=dv, du=du
    )
    if name in GRAPHS:
        if len(input_shape) != 3:
            raise ModelError(f"{model} needs images (C, H, W), what it gets is {input_shape}")
        last: Sequence[int] | None = GRAPHS[name](b, lambda n: max(n // divisor, 1))
        b.mean = 0
    else:
        for token in tokens:
            b.token(token)
        last = None
    b.norm = "none"  # a readout has none: nothing would learn its scale
    spiking = readout == "spikes"
    b.add(b.dense(classes, b.mean), last, neurons=spiking)
    local = _classifiers(b, classes, spiking, block) if block else {}
    network = SpikingNetwork(b.layers, input_shape, encoding, text, local)
    if classifiers == "random":
        for layer in (*local.values(), b.layers[-1]):
            layer.requires_grad_(False)
    elif classifiers != "trainable":
        raise ModelError(f"classifiers {classifiers!r} are neither 'trainable' nor 'random'")
    return network


def _classifiers(b: Builder, classes: int, spiking: bool, block: int) -> dict[int, Layer]:
    """A classifier after each block but the last, as :func:`build` says."""
    depths = SpikingNetwork(b.layers, b.input_shape, Encoding("rate", 1)).depths()
    hidden = depths[-2] if len(depths) > 1 else 0
    found: dict[int, Layer] = {}
    for depth in range(block, hidden, block):
        at = max(k for k, d in enumerate(depths[:-1]) if d == depth)
        synapse = Dense(b.shape(at), classes)
        neurons = b._neurons(synapse) if spiking else None
        found[at] = Layer(synapse, neurons, 1, b.on_grid)
    return found
