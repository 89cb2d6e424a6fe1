"""The fast engine against the reference: every spike, u, v and score, on random networks."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_networks import networks, payloads

from loihi import INTEGRATOR, Conv, Dense, Encoding, Layer, Network, Neuron, reference
from loihi.engine import CHUNK, Engine

pytestmark = pytest.mark.exactness


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_engine_is_the_reference(data: st.DataObject) -> None:
    network = data.draw(networks())
    x = data.draw(payloads(network))
    states = ("spikes", "u", "v")
    expected = reference.run(network, x, states)
    found = Engine(network, threads=1).run(x, states)
    for state in states:
        for name, a, b in zip(
            network.names, getattr(expected, state), getattr(found, state), strict=True
        ):
            np.testing.assert_array_equal(a, b, err_msg=f"{state} of layer {name}")
    np.testing.assert_array_equal(
        reference.predict(network, x), Engine(network, threads=1).predict(x)
    )


@pytest.mark.parametrize("payload", [128, -128, 129, -129])
def test_the_edges_of_the_current_register(payload: int) -> None:
    # 8 · 128 · 128 << 6 is 2^23: the last current that does not wrap, and the first that does
    network = Network(
        (8,),
        (Layer(Dense(np.full((1, 8), 128)), Neuron(du=4096, dv=0, vth=131071)),),
        Encoding("events", 3, (-256, 255)),
    )
    x = np.full((3, 1, 8), payload, dtype=np.int16)
    expected, found = (
        f(x, ("u", "v")) for f in (partial(reference.run, network), Engine(network).run)
    )
    assert abs(int(expected.u[0][0, 0, 0])) <= 2**23
    np.testing.assert_array_equal(found.u[0], expected.u[0])
    np.testing.assert_array_equal(found.v[0], expected.v[0])


@pytest.mark.parametrize("payload", [255, -256])
def test_a_convolution_wraps_at_24_bits(payload: int) -> None:
    network = Network(
        (200, 2, 2),
        (Layer(Conv(np.full((1, 200, 1, 1), 255)), INTEGRATOR),),
        Encoding("events", 1, (-256, 255)),
    )
    x = np.full((1, 1, 200, 2, 2), payload, dtype=np.int16)
    wrapped = (200 * 255 * payload + 2**23) % 2**24 - 2**23
    assert wrapped != 200 * 255 * payload
    # << 6 leaves 32 bits, and u turns once by 2^24
    shifted = (wrapped * 64 + 2**31) % 2**32 - 2**31
    turned = (
        shifted - 2**24 if shifted > 2**23 else shifted + 2**24 if shifted <= -(2**23) else shifted
    )
    assert reference.run(network, x, ("u",)).u[0][0, 0, 0, 0, 0] == turned
    assert Engine(network).run(x, ("u",)).u[0][0, 0, 0, 0, 0] == turned


def test_threads_and_chunks_change_nothing() -> None:
    rng = np.random.default_rng(0)
    network = Network(
        (2, 9, 9),
        (
            Layer(
                Conv(2 * rng.integers(-128, 128, (5, 2, 3, 3)), padding=1), Neuron(4096, 200, 90)
            ),
            Layer(Conv(np.full((5, 1, 3, 3), 20), stride=3, groups=5), Neuron(3000, 100, 30)),
            Layer(Dense(rng.integers(-128, 128, (7, 45))), INTEGRATOR),
        ),
        Encoding("events", 6),
    )
    x = (rng.random((6, 3 * CHUNK + 5, 2, 9, 9)) < 0.3).astype(np.uint8)
    one, many = Engine(network, threads=1), Engine(network, threads=4)
    np.testing.assert_array_equal(one.predict(x), many.predict(x))
    np.testing.assert_array_equal(one.predict(x[:, 40:41]), many.predict(x)[40:41])
    for a, b in zip(one.run(x).spikes, many.run(x).spikes, strict=True):
        np.testing.assert_array_equal(a, b)


def test_no_samples_give_no_scores() -> None:
    network = Network((3,), (Layer(Dense(np.eye(3, dtype=int)), Neuron()),), Encoding("events", 2))
    assert Engine(network).predict(np.zeros((2, 0, 3), dtype=np.uint8)).shape == (0, 3)


def test_activity_counts_what_the_spikes_say() -> None:
    weight = np.array([[100, 0], [0, -100], [1, 1]])
    network = Network(
        (2,), (Layer(Dense(weight), Neuron(4096, 0, 64)),), Encoding("events", 4), "spikes"
    )
    x = np.ones((4, 1, 2), dtype=np.uint8)
    (found,) = Engine(network).activity(x)
    # 100 > 64 at every step; −100 never; 2, 4, 6, 8 never.
    assert (found.rate, found.silent, found.saturated) == (1 / 3, 2 / 3, 1 / 3)
    assert (found.peak_u, found.peak_v) == (6400, 4 * 6400)
