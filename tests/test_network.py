"""The frozen network: what it refuses, that it cannot be changed, and when two are equal."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from loihi import (
    INTEGRATOR,
    ComplexDense,
    Conv,
    Dense,
    Edge,
    Encoding,
    Inject,
    Layer,
    Network,
    Neuron,
    PumiceError,
    decide,
)

EVENTS = Encoding("events", 4)


def conv_net(weight: np.ndarray | None = None) -> Network:
    kernel = np.arange(-9, 9).reshape(2, 1, 3, 3) if weight is None else weight
    return Network(
        (1, 6, 8),
        (
            Layer(Conv(kernel, stride=(1, 2), padding=1), Neuron(bias=np.array([1, -2]))),
            Layer(Conv(np.full((2, 1, 2, 2), 16), stride=2, groups=2), Neuron()),
            Layer(Dense(np.ones((3, 12), dtype=int)), INTEGRATOR),
        ),
        EVENTS,
    )


def test_shapes_names_and_arrivals() -> None:
    network = conv_net()
    assert network.shapes == ((2, 6, 4), (2, 3, 2), (3,))
    assert network.names == ("0 conv 2@3x3", "1 grouped conv 2@2x2", "2 dense 12-3")
    assert network.arrivals == (1, 2, 3)
    injected = Network((3,), (Layer(Inject(), Neuron()), Layer(Dense(np.eye(3)), Neuron())), EVENTS)
    assert injected.arrivals == (0, 1)


def test_networks_are_equal_by_value_and_cannot_change() -> None:
    network = conv_net()
    assert network == conv_net()
    other = np.arange(-9, 9).reshape(2, 1, 3, 3)
    other[0, 0, 0, 0] += 1
    assert network != conv_net(other)
    assert network != dataclasses.replace(network, encoding=Encoding("events", 5))
    with pytest.raises(ValueError, match="read-only"):
        network.layers[0].synapse.weight[0, 0, 0, 0] = 1  # type: ignore[union-attr]
    with pytest.raises(dataclasses.FrozenInstanceError):
        network.readout = "spikes"  # type: ignore[misc]


def test_building_a_network_leaves_the_callers_array_alone() -> None:
    weight = np.eye(3, dtype=np.int32)
    synapse = Dense(weight)
    weight[0, 0] = 7
    assert synapse.weight[0, 0] == 1


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ((), "at least one layer"),
        ((Layer(Dense(np.ones((2, 5))), Neuron()),), "layer 0: a dense synapse of 5 inputs"),
        ((Layer(Conv(np.ones((1, 1, 3, 3))), Neuron()),), "layer 0: a convolution needs an image"),
        (
            (Layer(Dense(np.ones((2, 4))), Neuron()), Layer(Inject(), Neuron())),
            "layer 1: only the first",
        ),
        ((Layer(Dense(np.ones((2, 4))), Neuron(bias=np.ones(3))),), "layer 0: bias of shape"),
        ((Layer(Dense(np.array([[-1, 255, 0, 0]])), Neuron()),), "layer 0: weight"),
    ],
)
def test_layers_that_do_not_fit(layers: tuple[Layer, ...], message: str) -> None:
    with pytest.raises(PumiceError, match=message):
        Network((4,), layers, EVENTS)


def test_kernels_and_channels_that_do_not_fit() -> None:
    with pytest.raises(PumiceError, match="3x3 kernel does not fit 1x2x2"):
        Network((1, 2, 2), (Layer(Conv(np.ones((1, 1, 3, 3))), Neuron()),), EVENTS)
    with pytest.raises(PumiceError, match="of 2 channels is fed by 1"):
        Network((1, 5, 5), (Layer(Conv(np.ones((1, 2, 3, 3))), Neuron()),), EVENTS)
    with pytest.raises(PumiceError, match="do not divide"):
        Conv(np.ones((3, 1, 1, 1)), groups=2)


@pytest.mark.parametrize(
    "fields",
    [{"du": -1}, {"du": 4097}, {"dv": 1.5}, {"dv": -1}, {"dv": 4097}, {"vth": 2**17}, {"vth": -1},
     {"bias": 4096}, {"bias": -4097}, {"bias_exp": -1}, {"bias_exp": 8}, {"bias": np.nan}],
)  # fmt: skip
def test_neurons_out_of_range(fields: dict[str, float]) -> None:
    with pytest.raises(PumiceError):
        Neuron(**fields)  # type: ignore[arg-type]


def test_readout_that_cannot_be() -> None:
    layers = (Layer(Dense(np.ones((2, 4))), INTEGRATOR),)
    with pytest.raises(PumiceError, match="never spikes"):
        Network((4,), layers, EVENTS, "spikes")
    with pytest.raises(PumiceError, match="readout"):
        Network((4,), layers, EVENTS, "rate")  # type: ignore[arg-type]


def test_payloads_are_checked() -> None:
    network = conv_net()
    with pytest.raises(PumiceError, match="takes samples of 1x6x8, the data hold 1x8x8"):
        network.check_payloads(np.zeros((4, 2, 1, 8, 8), dtype=np.uint8))
    with pytest.raises(PumiceError, match="exceed"):
        network.check_payloads(np.full((4, 2, 1, 6, 8), 2, dtype=np.uint8))
    with pytest.raises(PumiceError, match="integers"):
        network.check_payloads(np.zeros((4, 2, 1, 6, 8)))
    for size in (47, 49):
        with pytest.raises(PumiceError, match=rf"expected .*1, 6, 8\], found \[4, 2, {size}\]"):
            network.check_payloads(np.zeros((4, 2, size), dtype=np.uint8))
    flat = network.check_payloads(np.zeros((4, 2, 48), dtype=np.uint8))
    assert flat.shape == (4, 2, 1, 6, 8)


def test_the_first_of_equals_wins() -> None:
    np.testing.assert_array_equal(decide(np.array([[1, 3, 3], [0, 0, 0]])), [1, 0])


# --- graphs -------------------------------------------------------------------------------------

LIF = Neuron()
SAME = Conv(np.ones((2, 2, 3, 3), dtype=int), padding=1)
HALF = Conv(np.ones((2, 2, 1, 1), dtype=int), stride=2)
EYE = Dense(np.eye(3, dtype=int))
OUT = Dense(np.ones((3, 8), dtype=int))
HUGE = Dense(np.eye(3, dtype=int) * -256)


def graph(*layers: Layer, shape: tuple[int, ...] = (2, 4, 4)) -> Network:
    return Network(shape, layers, EVENTS)


def residual() -> Network:
    return graph(
        Layer(SAME, LIF),
        Layer(SAME, LIF, (-1, 0), carry=0),
        Layer(Conv(np.ones((2, 2, 2, 2)), 2), LIF, None, (Edge(HALF, (0, -1)),)),
        Layer(OUT, LIF, None, (Edge(EYE, (3,)), Edge(EYE, (4,)))),
        Layer(EYE, LIF),
    )


def test_a_graphs_shapes_names_sources_and_arrivals() -> None:
    network = residual()
    assert network.shapes == ((2, 4, 4), (2, 4, 4), (2, 2, 2), (3,), (3,))
    assert network.names == (
        "0 conv 2@3x3",
        "1 conv 2@3x3 from input+0 & input of 0",
        "2 conv 2@2x2 & conv 2@1x1 from input+0",
        "3 dense 8-3 & dense 3-3 from 3 & dense 3-3 from 4",
        "4 dense 3-3",
    )
    assert [network.sources(index) for index in range(-1, 5)] == [
        (3,), (-1,), (-1, 0), (1,), (2,), (3,)
    ]  # fmt: skip
    assert network.synapses(2) == ((network.layers[2].synapse, (1,)), (HALF, (-1, 0)))
    # the longest way counts, and nothing recurrent
    assert network.arrivals == (1, 2, 3, 4, 5)
    short = network.with_layer(1, Layer(SAME, LIF, (-1,)))
    assert short.arrivals == (1, 1, 2, 3, 4)
    assert network.with_layer(1, Layer(SAME, LIF, (-1,), carry=0)).arrivals[1] == 1
    assert graph(*[Layer(SAME, LIF)] * 3, Layer(SAME, LIF, (-1,), carry=2)).arrivals[3] == 3
    assert not network.is_chain and not network.has_delays
    late = Edge(Dense(np.eye(3), np.eye(3)), (3,))
    assert network.with_layer(3, Layer(OUT, LIF, None, (late,))).has_delays


def test_payloads_of_sums() -> None:
    network = dataclasses.replace(residual(), encoding=Encoding("events", 4, (-7, 9)))
    assert network.payload_of((0, 1, 4)) == (0, 3)
    assert network.payload_of((-1, 2)) == (-7, 10)
    positive = dataclasses.replace(network, encoding=Encoding("events", 4, (3, 9)))
    assert positive.payload_of((-1,)) == (0, 9)  # silence is always a payload
    negative = dataclasses.replace(network, encoding=Encoding("events", 4, (-7, -3)))
    assert negative.payload_of((-1, 1)) == (-7, 1)


@pytest.mark.parametrize("shapes", [((2, 3), (3, 2)), ((3, 2), (2, 3)), ((2, 3), (2, 4))])
def test_complex_weights_have_one_shape(shapes: tuple[tuple[int, int], tuple[int, int]]) -> None:
    real, imag = (np.full(shape, 2) for shape in shapes)
    with pytest.raises(PumiceError, match=r"the real weights are .*, the imaginary ones"):
        ComplexDense(real, imag)


def test_a_chain_spelled_out_is_the_chain() -> None:
    chain = conv_net()
    layers = [dataclasses.replace(la, sources=[k - 1]) for k, la in enumerate(chain.layers)]
    spelled = dataclasses.replace(chain, layers=tuple(layers))
    assert spelled.is_chain and spelled == chain
    assert chain.sources(0) == (-1,) and chain.sources(2) == chain.sources(-1) == (1,)


def test_graphs_are_equal_by_value() -> None:
    assert residual() == residual()
    one = residual()
    for index, change in (
        (1, {"sources": (0,)}),
        (1, {"carry": None}),
        (2, {"more": ()}),
        (2, {"more": (Edge(HALF, (0,)),)}),
        (2, {"more": (Edge(dataclasses.replace(HALF, weight=2 * HALF.weight), (0, -1)),)}),
    ):
        other = one.with_layer(index, dataclasses.replace(one.layers[index], **change))
        assert other != one
    assert Layer(SAME, LIF, (2, -1)).sources == (-1, 2)  # the order says nothing


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Layer(SAME, LIF, ()), "sources are empty"),
        (lambda: Edge(SAME, (1, 1)), r"named twice in \(1, 1\)"),
        (lambda: Edge(SAME, (-2,)), "a source is -2"),
        (lambda: Edge(Inject(), (0,)), "a further synapse is dense or a convolution"),
        (lambda: Layer(SAME, LIF, carry=-1), "carry is -1"),
        (lambda: graph(Layer(SAME, LIF, (2,))), "layer 0: source 2 is not a layer: they are 0..0"),
        (lambda: graph(Layer(SAME, LIF, carry=0)), "layer 0: carry is 0: it takes the input of an"),
        (
            lambda: graph(Layer(HALF, LIF), Layer(SAME, LIF, (-1, 0))),
            "layer 1: sources that are added must have one shape, found input 2x4x4, 0 2x2x2",
        ),
        (
            lambda: graph(Layer(SAME, LIF), Layer(SAME, LIF, None, (Edge(HALF, (0,)),))),
            r"layer 1: its synapse conv 2@1x1 \(more 0\) makes 2x2x2 of 2x4x4, its neurons are 2x4",
        ),
        (
            lambda: graph(Layer(SAME, LIF), Layer(HALF, LIF, carry=0)),
            "layer 1: carry takes the input of layer 0, of 2x4x4 neurons, for 2x2x2",
        ),
        (
            lambda: graph(Layer(SAME, LIF), Layer(SAME, LIF, (2,)), Layer(SAME, LIF, (1,))),
            "layer 1: nothing says the size of its image",
        ),
        (
            lambda: graph(Layer(Dense(np.eye(3)), LIF, None, (Edge(EYE, (0,)),)), shape=(4,)),
            "layer 0: a dense synapse of 3 inputs is fed by 4",
        ),
        (
            lambda: graph(Layer(Inject(), LIF, (-1, 1)), Layer(EYE, LIF), shape=(3,)),
            "layer 0: only the first layer can be an input layer, fed by the input alone",
        ),
        (
            lambda: graph(Layer(EYE, LIF, None, (Edge(HUGE, (0,)),)), shape=(3,)),
            "layer 0: weight: weights of one sign",
        ),
    ],
)
def test_graphs_that_do_not_fit(make: Callable[[], object], message: str) -> None:
    with pytest.raises(PumiceError, match=message):
        make()


def test_loops_of_images_take_their_size_from_whoever_knows_it() -> None:
    network = graph(
        Layer(SAME, LIF, (1,), (Edge(SAME, (-1,)),)), Layer(SAME, LIF, (2,)), Layer(SAME, LIF, (0,))
    )
    assert network.shapes == ((2, 4, 4),) * 3
