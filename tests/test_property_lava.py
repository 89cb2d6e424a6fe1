"""The reference against Lava's own process models, over random integer networks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_networks import networks, payloads

from loihi import Network, reference

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
