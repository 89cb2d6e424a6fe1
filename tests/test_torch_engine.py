"""The engine in torch against the reference, on the processor: chains, graphs, both resets."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_networks import graphs, networks, payloads

from loihi import (
    INTEGRATOR,
    Conv,
    Dense,
    Encoding,
    Layer,
    Network,
    Neuron,
    PumiceError,
    Sigma,
    reference,
)
from trainer import simulate

pytestmark = pytest.mark.exactness


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_torch_is_the_reference(data: st.DataObject) -> None:
    network = data.draw(networks(soft=True, max_layers=4) | graphs(soft=True))
    x = data.draw(payloads(network))
    found = simulate.predict(network, x)
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, reference.predict(network, x))


def conv_net(rng: np.random.Generator) -> Network:
    layers = (
        Layer(Conv(2 * rng.integers(-60, 90, (4, 2, 3, 3)), padding=1), Neuron(4096, 200, 90)),
        Layer(Conv(np.full((4, 1, 2, 2), 40), stride=2, groups=4), Neuron(3000, 100, 30)),
        Layer(Dense(rng.integers(-128, 128, (5, 64))), INTEGRATOR),
    )
    return Network((2, 8, 8), layers, Encoding("events", 6))


def test_chunks_of_samples_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    network = conv_net(rng)
    x = (rng.random((6, 11, 2, 8, 8)) < 0.3).astype(np.uint8)
    expected = reference.predict(network, x)
    assert len(np.unique(expected)) > 5
    np.testing.assert_array_equal(simulate.predict(network, x), expected)
    monkeypatch.setattr(simulate, "VALUES", {"cpu": 3 * 2 * 9 * 64})
    sizes = []
    whole = simulate._Simulation.scores

    def counted(self: simulate._Simulation, part: np.ndarray) -> torch.Tensor:
        sizes.append(part.shape[1])
        return whole(self, part)

    monkeypatch.setattr(simulate._Simulation, "scores", counted)
    np.testing.assert_array_equal(simulate.predict(network, x), expected)
    assert sizes == [3, 3, 3, 2]
    assert simulate.predict(network, x[:, :0]).shape == (0, 5)
    assert not simulate.predict(network, x[:0]).any()


def test_sums_beyond_what_float32_holds() -> None:
    """Halves of 10^9 that cancel: what is left is lost where any of it was rounded."""
    half = np.full((1, 40_000), 127)
    weight = np.concatenate([half, -half, np.ones((1, 1), dtype=int)], axis=1)
    network = Network(
        (80_001,), (Layer(Dense(weight), INTEGRATOR),), Encoding("events", 1, (0, 255))
    )
    x = np.full((1, 2, 80_001), 255, dtype=np.uint8)
    x[0, :, -1] = 77, 78
    assert simulate.predict(network, x).tolist() == [[77 * 64], [78 * 64]]


def test_precision_set_elsewhere_is_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_float32_matmul_precision("medium")  # products in bfloat16, 8 bits
    try:
        rng = np.random.default_rng(1)
        network = Network(
            (300,),
            (Layer(Dense(rng.integers(-128, 128, (64, 300))), INTEGRATOR),),
            Encoding("events", 2, (-256, 255)),
        )
        x = rng.integers(-256, 256, (2, 70, 300))
        np.testing.assert_array_equal(simulate.predict(network, x), reference.predict(network, x))
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_what_cannot_be_is_refused_in_a_line() -> None:
    network = conv_net(np.random.default_rng(0))
    x = np.zeros((6, 1, 2, 8, 8), dtype=np.uint8)
    for device in ("quantum", "cuda:99"):
        with pytest.raises(PumiceError, match=f"device '{device}' is none that torch can use here"):
            simulate.predict(network, x, device)
    graded = network.with_layer(2, Layer(network.layers[2].synapse, Sigma()))
    with pytest.raises(PumiceError, match="layer 2: Sigma neurons do not run in torch: use loihi"):
        simulate.predict(graded, x)
