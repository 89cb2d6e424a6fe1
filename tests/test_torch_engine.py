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


@pytest.mark.parametrize("payload", [128, -128, 129, -129])
def test_the_edges_of_the_current_register(payload: int) -> None:
    """8 · 128 · 128 << 6 is 2^23: the last current that does not wrap, and the first that does."""
    neuron = Neuron(du=4096, dv=0, vth=131071)
    network = Network(
        (8,), (Layer(Dense(np.full((1, 8), 128)), neuron),), Encoding("events", 3, (-256, 255))
    )
    x = np.full((3, 1, 8), payload, dtype=np.int16)
    x[1:] = 0
    np.testing.assert_array_equal(simulate.predict(network, x), reference.predict(network, x))


def test_sums_wrap_where_lavas_do() -> None:
    conv = Layer(Conv(np.full((1, 200, 1, 1), 255)), Neuron(4096, vth=None))
    ones = Layer(Dense(np.ones((1, 66_000), dtype=int)), Neuron(4096, vth=None))  # 25 bits
    for layer, shape in ((conv, (200, 1, 1)), (ones, (66_000,))):
        network = Network(shape, (layer,), Encoding("events", 1, (0, 255)))
        x = np.full((1, 1, *shape), 255, dtype=np.uint8)
        found = simulate.predict(network, x)
        np.testing.assert_array_equal(found, reference.predict(network, x))
        assert found < 0  # or it would not have wrapped


def test_what_float32_takes_is_exact_in_bfloat16() -> None:
    """Whatever precision torch is told to multiply in: 256 has eight bits, 257 nine."""
    always = Layer(Dense(np.ones((8, 8), dtype=int)), Neuron(vth=0, bias=1), (-1,))
    for sources, dtype in (((-1, 0), torch.float32), ((-1, 0, 1), torch.float64)):
        last = Layer(Dense(np.full((2, 8), -128)), Neuron(4096, 4096, None), sources)
        network = Network((8,), (always, always, last), Encoding("events", 1, (0, 255)))
        (_, weight), *_ = simulate._Synapse(network, 2, 0, torch.device("cpu")).weights
        assert weight.dtype == dtype
        assert torch.equal(weight.to(torch.bfloat16).to(dtype), weight)
        x = np.full((1, 1, 8), 255, dtype=np.uint8)
        np.testing.assert_array_equal(simulate.predict(network, x), reference.predict(network, x))


def test_what_cannot_be_is_refused_in_a_line() -> None:
    network = conv_net(np.random.default_rng(0))
    x = np.zeros((6, 1, 2, 8, 8), dtype=np.uint8)
    for device in ("quantum", "cuda:99"):
        with pytest.raises(PumiceError, match=f"device '{device}' is none that torch can use here"):
            simulate.predict(network, x, device)
    graded = network.with_layer(2, Layer(network.layers[2].synapse, Sigma()))
    with pytest.raises(PumiceError, match="layer 2: Sigma neurons do not run in torch: use loihi"):
        simulate.predict(graded, x)
