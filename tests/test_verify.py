"""verify finds nothing where there is nothing, and names the first of what is planted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from test_lava_run import injected, small

from lava_export import netx, run, verify
from lava_export.verify import compare
from loihi import (
    INTEGRATOR,
    Dense,
    Encoding,
    Layer,
    Network,
    Neuron,
    PumiceError,
    lava_compat,
    reference,
)

STATES = ("u", "v", "spikes")


def network() -> Network:
    rng = np.random.default_rng(1)
    layers = (
        Layer(Dense(rng.integers(-90, 127, (8, 5))), Neuron(4096, 300, 64)),
        Layer(Dense(rng.integers(-90, 127, (6, 8))), Neuron(2048, 100, 64)),
        Layer(Dense(2 * rng.integers(-120, 127, (3, 6))), INTEGRATOR),
    )
    return Network((5,), layers, Encoding("events", 6))


def payloads(samples: int = 4) -> np.ndarray:
    rng = np.random.default_rng(2)
    return (rng.random((6, samples, 5)) < 0.5).astype(np.uint8)


def observed() -> dict[tuple[str, int], np.ndarray]:
    trace = reference.run(network(), payloads(), STATES)
    return {(state, i): getattr(trace, state)[i].copy() for state in STATES for i in range(3)}


def test_nothing_is_found_where_there_is_nothing() -> None:
    result = compare(network(), {"reference": observed(), "engine": observed(), "lava": observed()})
    assert result.mismatches == 0
    assert result.first_divergence is None
    per_step = (8 + 6 + 3) * 3
    assert result.compared == per_step * 6 * 4 + 3 * 4
    assert [layer.compared for layer in result.layers] == [n * 3 * 6 * 4 for n in (8, 6, 3)]
    np.testing.assert_array_equal(result.scores, reference.predict(network(), payloads()))


def test_the_first_is_the_first_that_happened() -> None:
    """Sample before step, step before layer, layer before state, state before neuron."""
    planted = [
        # state, layer, step, sample, neuron, from the last to the first
        ("u", 0, 0, 3, 0),
        ("u", 0, 5, 1, 0),
        ("u", 1, 4, 1, 0),
        ("spikes", 0, 4, 1, 0),
        ("v", 0, 4, 1, 7),
        ("v", 0, 4, 1, 3),
    ]
    lava = observed()
    for count, (state, layer, step, sample, neuron) in enumerate(planted, start=1):
        at = (step, sample, neuron)
        before = int(lava[state, layer][at])
        lava[state, layer][at] ^= 1
        result = compare(network(), {"reference": observed(), "engine": observed(), "lava": lava})
        assert result.mismatches == count
        first = result.first_divergence
        assert first is not None
        name = network().names[layer]
        assert (first.state, first.layer, first.step) == (state, name, step + 1)
        assert (first.sample, first.neuron) == (sample, (neuron,))
        assert first.values == {"reference": before, "engine": before, "lava": before ^ 1}
    assert str(first) == (
        f"layer 0 dense 5-8, neuron 3, step 5 of sample 1, v: "
        f"reference {before}, engine {before}, lava {before ^ 1}"
    )
    assert [layer.mismatches for layer in result.layers] == [5, 1, 0]


def test_it_is_said_who_disagrees() -> None:
    """The engine alone, in an image: its neuron is a place."""
    image = small()
    x = np.ones((6, 1, 2, 6, 10), dtype=np.int16)
    trace = reference.run(image, x, ("spikes", "v"))
    last = {("v", 3): trace.v[3]}
    true = {**{("spikes", i): s for i, s in enumerate(trace.spikes)}, **last}
    wrong = {**true, ("spikes", 0): trace.spikes[0].copy()}
    wrong["spikes", 0][2, 0, 5, 3, 4] ^= 1
    first = compare(image, {"reference": true, "engine": wrong, "lava": true}).first_divergence
    assert first is not None
    assert first.neuron == (5, 3, 4)
    assert first.values["engine"] != first.values["reference"] == first.values["lava"]


def test_a_last_membrane_counts_in_states_and_score() -> None:
    lava = observed()
    lava["v", 2][-1, 2, 1] += 5
    result = compare(network(), {"reference": observed(), "lava": lava})
    assert result.mismatches == 2  # v, and the score that is read from it
    assert result.scores[2, 1] == reference.predict(network(), payloads())[2, 1] + 5


@pytest.mark.lava
@pytest.mark.exactness
@pytest.mark.parametrize("states", [False, True])
def test_verify_in_lava(states: bool, tmp_path: Path) -> None:
    path = tmp_path / "model.net"
    netx.write(network(), path)
    result = verify.verify(path, payloads(), states=states)
    assert (result.mismatches, result.first_divergence) == (0, None)
    numbers = 3 * (8 + 6 + 3) if states else 8 + 6 + 3 + 3  # the last v is what is read
    assert result.compared == numbers * 6 * 4 + 3 * 4


@pytest.mark.lava
@pytest.mark.exactness
def test_verify_a_network_that_is_read_by_spikes(tmp_path: Path) -> None:
    path = tmp_path / "model.net"
    netx.write(injected(), path)
    x = injected().encoding.encode(np.random.default_rng(0).random((3, 2, 5, 4)))
    result = verify.verify(path, x)
    assert (result.mismatches, result.first_divergence) == (0, None)
    np.testing.assert_array_equal(result.scores, reference.predict(injected(), x))


@pytest.mark.lava
def test_another_network_in_lava_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lava runs a file in which one weight is other than what reference and engine read."""
    true, other = tmp_path / "true.net", tmp_path / "other.net"
    netx.write(network(), true)
    layer = network().layers[1]
    weight = layer.synapse.weight.copy()  # type: ignore[union-attr]
    weight[4, 2] -= 40
    netx.write(network().with_layer(1, Layer(Dense(weight), layer.neuron)), other)
    original = run.observe
    monkeypatch.setattr(run, "observe", lambda net, _, *rest: original(net, other, *rest))
    result = verify.verify(true, payloads(), states=True)
    first = result.first_divergence
    assert first is not None
    assert first.layer == "1 dense 8-6"
    assert first.neuron == (4,)
    assert first.state == "u"
    assert first.values["engine"] == first.values["reference"] != first.values["lava"]


def test_without_lava_there_is_no_proof(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    netx.write(network(), tmp_path / "model.net")
    absent = lava_compat.LavaStatus(False, None, None, None, "pip install it")
    monkeypatch.setattr(lava_compat, "status", lambda: absent)
    with pytest.raises(PumiceError, match="Lava is needed for this: pip install it"):
        verify.verify(tmp_path / "model.net", payloads())
