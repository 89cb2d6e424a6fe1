"""The reference against Lava's own process models, over random integer networks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from random_networks import (
    DECAYS,
    RESONATORS,
    THRESHOLDS,
    graded_neurons,
    networks,
    payloads,
)

from loihi import Conv, Dense, Encoding, Inject, Layer, Network, Neuron, Resonator, reference
from loihi.neurons import AnyNeuron

pytestmark = [pytest.mark.lava, pytest.mark.exactness]
STATES = ("spikes", "u", "v")


def _assert_same(network: Network, x: np.ndarray, interval: int) -> None:
    import lava_models

    expected = reference.stream(network, x[:, None], interval, STATES)
    found = lava_models.stream(network, x, interval)
    for state in STATES:
        for name, ours, lavas in zip(
            network.names, getattr(expected, state), getattr(found, state), strict=True
        ):
            np.testing.assert_array_equal(ours[:, 0], lavas, err_msg=f"{state} of layer {name}")


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_reference_is_lava(data: st.DataObject) -> None:
    """Two samples after each other with the phased reset, and what is still under way after."""
    network = data.draw(networks())
    x = data.draw(payloads(network, samples=2))
    silence = np.zeros((network.arrivals[-1] + 2, *network.input_shape), dtype=x.dtype)
    _assert_same(network, np.concatenate([x[:, 0], x[:, 1], silence]), network.time_steps)


def edges(*values: int) -> st.SearchStrategy[int]:
    """Each of these, their neighbours, and all of them negative."""
    return st.sampled_from([s * (v + d) for v in values for d in (-1, 0, 1) for s in (1, -1)])


REGISTER = 2**23
STATE = edges(0, 64, 4096, 131071 << 6, REGISTER - 2) | st.integers(1 - REGISTER, REGISTER - 1)
# One more than what is left of a 24-bit register after the shift, and what 32 bits cannot hold.
INPUT = edges(0, REGISTER >> 6, REGISTER >> 5, 2**25, 2**26) | st.integers(-(2**26), 2**26)
BIAS = st.sampled_from([0, 4095, -4096]) | st.integers(-4096, 4095)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_one_step_of_a_neuron_from_any_state(data: st.DataObject) -> None:
    """The registers' edges: u wraps once, v clips, thresholds are strict, 32 bits overflow."""
    neuron = Neuron(
        data.draw(DECAYS),
        data.draw(DECAYS),
        data.draw(THRESHOLDS | st.none()),
        data.draw(BIAS),
        data.draw(st.integers(0, 7)),
    )
    u, v, a = (
        data.draw(hnp.arrays(np.int64, 20, elements=elements, fill=st.nothing()))
        for elements in (STATE, STATE, INPUT)
    )
    bias = neuron.effective_bias((20,))
    expected = reference.step_neuron(neuron, a, u, v, bias)
    import lava_models

    for name, ours, lavas in zip(
        ("u", "v", "spikes"), expected, lava_models.step_neuron(neuron, a, u, v), strict=True
    ):
        np.testing.assert_array_equal(ours, lavas, err_msg=name)


@pytest.mark.parametrize("vth", [0, 1, 64, 131071])
def test_v_has_to_exceed_the_threshold(vth: int) -> None:
    import lava_models

    v = (vth << 6) + np.arange(-1, 2)
    neuron = Neuron(du=4096, dv=0, vth=vth)
    zero = np.zeros(3, dtype=np.int64)
    assert lava_models.step_neuron(neuron, zero, zero, v)[2].tolist() == [0, 0, 1]
    assert reference.step_neuron(neuron, zero, zero, v, zero)[2].tolist() == [0, 0, 1]


def _assert_same_neurons(neuron: AnyNeuron, a: np.ndarray) -> None:
    """Input ``[T, units]``, of resonators ``[T, 2, units]``, into the neurons alone."""
    import lava_models

    state = reference._State(Layer(Inject(), neuron), a.shape[-1:], 1)
    rows = []
    for now in a.astype(np.int64):
        sent = state._neurons(neuron, now[..., None, :] if now.ndim == 2 else now[None])
        rows.append([sent[0], state.u[0], state.v[0]])
    ours = (np.stack(column) for column in zip(*rows, strict=True))
    lavas = lava_models.run_neurons(neuron, a)
    for name, mine, its in zip(("sent", "u", "v"), ours, lavas, strict=True):
        np.testing.assert_array_equal(mine, its, err_msg=name)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_sigma_delta_neurons(data: st.DataObject) -> None:
    """Messages, σ and activation over time, 32 bits overflowing."""
    neuron = data.draw(graded_neurons((5,), data.draw(st.booleans()), data.draw(st.booleans())))
    reach = data.draw(st.sampled_from([9, 300, 2**20, 2**31]))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    a = rng.integers(-reach, reach, (9, 5))
    _assert_same_neurons(neuron, a)


@settings(max_examples=200, deadline=None)
@given(RESONATORS, st.sampled_from([9, 300, 2**17]), st.integers(0, 2**32 - 1))
def test_resonators(neuron: Resonator, reach: int, seed: int) -> None:
    """Real and imaginary part and spikes over time, clipped at 24 bits."""
    a = np.random.default_rng(seed).integers(-reach, reach, (12, 2, 5))
    _assert_same_neurons(neuron, a)


@pytest.mark.parametrize("payload", [255, -256])
@pytest.mark.parametrize("kind", ["conv", "dense"])
def test_accumulators_at_their_edge(kind: str, payload: int) -> None:
    """Sums around 2^23 and beyond: a convolution wraps at 24 bits, a dense synapse does not."""
    count, weight = 200, np.array([254, -256])
    shape = (count, 1, 1)
    wide = np.broadcast_to(weight[:, None], (2, count))
    synapse = Conv(wide[..., None, None]) if kind == "conv" else Dense(wide)
    layer = Layer(synapse, Neuron(du=0, dv=0, vth=131071))
    network = Network(shape, (layer,), Encoding("events", 3, (-256, 255)))
    x = np.full((4, *shape), payload, dtype=np.int16)
    assert abs(int(wide[0].sum()) * payload) > REGISTER
    _assert_same(network, x, 3)
