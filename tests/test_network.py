"""The frozen network: what it refuses, that it cannot be changed, and when two are equal."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from loihi import (
    INTEGRATOR,
    Conv,
    Dense,
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
    [{"du": -1}, {"du": 4097}, {"dv": 1.5}, {"vth": 2**17}, {"vth": -1}, {"bias": 4096},
     {"bias_exp": 8}, {"bias": np.nan}],
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
    flat = network.check_payloads(np.zeros((4, 2, 48), dtype=np.uint8))
    assert flat.shape == (4, 2, 1, 6, 8)


def test_the_first_of_equals_wins() -> None:
    np.testing.assert_array_equal(decide(np.array([[1, 3, 3], [0, 0, 0]])), [1, 0])
