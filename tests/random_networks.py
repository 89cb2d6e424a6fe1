"""Random integer networks and payloads for property tests, extreme values included."""

from __future__ import annotations

import numpy as np
from hypothesis import assume
from hypothesis import strategies as st

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
    Resonator,
    Sigma,
    SigmaDelta,
)
from loihi.network import NetworkError
from loihi.neurons import AnyNeuron

# Each draw is a list of values that hypothesis can shrink towards its first entry.
DECAYS = st.sampled_from([4096, 0, 1, 128, 1024, 2048, 4095]) | st.integers(0, 4096)
THRESHOLDS = st.sampled_from([64, 0, 1, 5, 1000, 131071]) | st.integers(0, 131071)
PAYLOADS = st.sampled_from([(0, 1), (0, 255), (-256, 255), (-12, 140)])


@st.composite
def weights(draw: st.DrawFn, shape: tuple[int, ...]) -> np.ndarray:
    """Weights of one of the formats that eight bits hold."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(["small", "mixed", "even", "positive", "negative", "corners"]))
    drawn: np.ndarray = {
        "small": rng.integers(-8, 8, shape),
        "mixed": rng.integers(-128, 128, shape),
        "even": 2 * rng.integers(-128, 128, shape),
        "positive": rng.integers(0, 256, shape),
        "negative": -rng.integers(1, 256, shape),
        "corners": rng.choice([-256, 0, 254], shape),
    }[kind]
    return drawn if drawn.max() > 0 else np.maximum(drawn, -255)  # of one sign: 255 at most


@st.composite
def neurons(
    draw: st.DrawFn, shape: tuple[int, ...], may_integrate: bool = False, soft: bool = False
) -> Neuron:
    """Neurons of any decay and threshold, with no bias, one, one a channel, or one a neuron.

    soft: their reset may be either.
    """
    if may_integrate and draw(st.booleans()):
        return INTEGRATOR
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    reach = draw(st.sampled_from([0, 3, 100, 4095]))
    size = draw(st.sampled_from([(), shape[:1], shape]))
    bias = rng.integers(-reach, reach + 1, size) if reach else 0
    exponent = draw(st.sampled_from([6, 0, 3, 7]))
    reset = draw(st.sampled_from(["hard", "soft"])) if soft else "hard"
    return Neuron(draw(DECAYS), draw(DECAYS), draw(THRESHOLDS), bias, exponent, reset)


EXPONENTS = st.sampled_from([6, 0, 1, 7])


@st.composite
def graded_neurons(
    draw: st.DrawFn, shape: tuple[int, ...], first: bool = False, last: bool = False
) -> Delta | SigmaDelta | Sigma:
    """Of a sigma-delta network: its input's, a hidden layer's or its last."""
    vth = draw(st.sampled_from([0, 1, 3, 200, 131071]))
    if first:
        return Delta(vth, draw(EXPONENTS), draw(EXPONENTS))
    if last and draw(st.booleans()):
        return Sigma()
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    reach = draw(st.sampled_from([0, 3, 1000, 131071]))
    size = draw(st.sampled_from([(), shape[:1], shape]))
    bias = rng.integers(-reach, reach + 1, size) if reach else 0
    activation = draw(st.sampled_from(["relu", "unit"]))
    return SigmaDelta(vth, bias, activation, draw(EXPONENTS), draw(EXPONENTS))


RESONATORS = st.builds(
    Resonator,
    st.sampled_from([0, 1, 100, 131071]),
    st.integers(-4096, 4096),
    st.integers(-4096, 4096),
    st.sampled_from(["phase", "izhikevich"]),
)


@st.composite
def networks(
    draw: st.DrawFn,
    delays: bool = True,
    max_layers: int = 3,
    soft: bool = False,
    graded: bool = False,
) -> Network:
    """A chain of up to ``max_layers`` layers on a small image or vector.

    soft: with soft resets too. graded: of sigma-delta neurons, without delays.
    """

    def drawn(shape: tuple[int, ...], first: bool = False, last: bool = False) -> AnyNeuron:
        if graded:
            return draw(graded_neurons(shape, first, last))
        return draw(neurons(shape, last, soft))

    steps = draw(st.integers(1, 8))
    image = draw(st.booleans())
    shape: tuple[int, ...] = (
        (draw(st.integers(1, 3)), draw(st.integers(3, 6)), draw(st.integers(3, 6)))
        if image
        else (draw(st.integers(1, 12)),)
    )
    input_shape, layers = shape, []
    if draw(st.booleans()):
        layers.append(Layer(Inject(), drawn(shape, first=True)))
    count = draw(st.integers(1, max_layers))
    for index in range(count):
        synapse: Conv | Dense
        if len(shape) == 3 and draw(st.booleans()):
            groups = draw(st.sampled_from([1, shape[0]]))
            out = groups * draw(st.integers(1, 3))
            kernel = (
                draw(st.integers(1, min(3, shape[1]))),
                draw(st.integers(1, min(3, shape[2]))),
            )
            spread = all(2 * (k - 1) < n for k, n in zip(kernel, shape[1:], strict=True))
            dilation = draw(st.integers(1, 2)) if spread else 1
            synapse = Conv(
                draw(weights((out, shape[0] // groups, *kernel))),
                stride=(draw(st.integers(1, 2)), draw(st.integers(1, 3))),
                padding=(draw(st.integers(0, 2)), draw(st.integers(0, 1))),
                dilation=dilation,
                groups=groups,
            )
        else:
            features, out = int(np.prod(shape)), draw(st.integers(1, 12))
            delay = None
            if delays and not graded and draw(st.booleans()):
                rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
                delay = rng.integers(0, draw(st.sampled_from([2, 5, 63])), (out, features))
            synapse = Dense(draw(weights((out, features))), delay)
        shape = synapse.output_shape(shape)
        layers.append(Layer(synapse, drawn(shape, last=index == count - 1)))
    only_membrane = graded or layers[-1].neuron.vth is None
    readout = "membrane" if only_membrane else draw(st.sampled_from(["membrane", "spikes"]))
    encoding = Encoding("events", steps, payload=draw(PAYLOADS))
    return Network(input_shape, tuple(layers), encoding, readout)


@st.composite
def resonating(draw: st.DrawFn) -> Network:
    """Resonators, and what may follow them."""
    inputs, units = draw(st.integers(1, 8)), draw(st.integers(1, 8))
    synapse = ComplexDense(draw(weights((units, inputs))), draw(weights((units, inputs))))
    layers = [Layer(synapse, draw(RESONATORS))]
    if draw(st.booleans()):
        layers.append(Layer(Dense(draw(weights((3, units)))), draw(neurons((3,), True))))
    encoding = Encoding("events", draw(st.integers(1, 12)), payload=draw(PAYLOADS))
    return Network((inputs,), tuple(layers), encoding)


@st.composite
def payloads(draw: st.DrawFn, network: Network, samples: int = 3) -> np.ndarray:
    """Payloads ``[T, N, *input_shape]`` over the encoding's whole range, dense or sparse."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    first, last = network.encoding.payload
    shape = (network.time_steps, samples, *network.input_shape)
    x = rng.integers(first, last + 1, shape)
    if draw(st.booleans()):
        x = np.where(rng.random(shape) < 0.3, x, 0)
    x = x.astype(network.encoding.dtype)
    if draw(st.booleans()):  # the same at every step, as a static image is
        return np.broadcast_to(x[0], shape)
    return x


@st.composite
def graphs(
    draw: st.DrawFn, delays: bool = True, max_layers: int = 5, soft: bool = False
) -> Network:
    """Layers that feed each other in any way that their shapes allow: branches that are added,
    further synapses, carried inputs, loops, and the input wherever it fits."""
    steps = draw(st.integers(1, 6))
    # A convolution goes from large to large or small images, a dense synapse from all to a vector.
    large, small, vector = (2, 3, 4), (2, 2, 2), (draw(st.integers(1, 6)),)
    kinds = {large: [large], small: [large, small], vector: [large, small, vector]}
    count = draw(st.integers(1, max_layers))
    last = draw(st.sampled_from([vector, small, large]))
    shapes = [draw(st.sampled_from([large, small, vector])) for _ in range(count - 1)] + [last]
    input_shape = draw(st.sampled_from([large, vector]))
    sent = {-1: input_shape, **dict(enumerate(shapes))}

    def synapse(source: tuple[int, ...], target: tuple[int, ...]) -> Conv | Dense:
        if len(target) == 3:
            kernel = draw(st.sampled_from([(1, 1), (3, 3)]))
            groups = draw(st.sampled_from([1, 2]))
            stride = 2 if source == large and target == small else 1
            weight = draw(weights((2, 2 // groups, *kernel)))
            return Conv(weight, stride, padding=kernel[0] // 2, groups=groups)
        shape = (target[0], int(np.prod(source)))
        delay = None
        if delays and draw(st.integers(0, 3)) == 0:
            rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
            delay = rng.integers(0, draw(st.sampled_from([2, 5])), shape)
        return Dense(draw(weights(shape)), delay)

    def feed(target: int, before: bool) -> tuple[Conv | Dense, tuple[int, ...]] | None:
        able = {
            source: shape
            for source, shape in sent.items()
            if shape in kinds[shapes[target]] and not (before and source >= target)
        }
        if not able:
            return None
        shape = able[draw(st.sampled_from(sorted(able)))]
        alike = sorted(source for source in able if able[source] == shape)
        sources = draw(st.sets(st.sampled_from(alike), min_size=1, max_size=3))
        return synapse(shape, shapes[target]), tuple(sources)

    layers: list[Layer] = []
    for index, shape in enumerate(shapes):
        # Loops alone would not say how large an image is: an earlier layer has to.
        first = feed(index, before=len(shape) == 3 or draw(st.booleans())) or feed(index, False)
        assume(first is not None)
        more = [feed(index, before=False) for _ in range(draw(st.integers(0, 2)))]
        alike = [k for k in range(index) if shapes[k] == shape]
        carry = draw(st.none() | st.sampled_from(alike)) if alike else None
        layers.append(
            Layer(
                first[0],
                draw(neurons(shape, index == count - 1, soft)),
                first[1],
                tuple(Edge(*edge) for edge in more if edge is not None),
                carry,
            )
        )
    readout = (
        "membrane"
        if layers[-1].neuron.vth is None
        else draw(st.sampled_from(["membrane", "spikes"]))
    )
    encoding = Encoding("events", steps, payload=draw(PAYLOADS))
    try:
        return Network(input_shape, tuple(layers), encoding, readout)
    except NetworkError:  # an image that only a loop feeds
        assume(False)
        raise
