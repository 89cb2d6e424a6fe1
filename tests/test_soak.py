"""Random networks without end: reference, engine and Lava's own models; `make soak` runs thousands.

PUMICE_SOAK says how many networks go through reference and engine, a tenth of them through Lava's
process models as well. A small share is part of every test run.
"""

from __future__ import annotations

import os
from collections import Counter

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_networks import graphs, networks, payloads, resonating

from loihi import Network, reference
from loihi.engine import Engine

pytestmark = pytest.mark.exactness
COUNT = int(os.environ.get("PUMICE_SOAK", "60"))
STATES = ("spikes", "u", "v")
SLOW = [HealthCheck.too_slow, HealthCheck.filter_too_much]
CHAINS = st.one_of(networks(max_layers=5), networks(graded=True, max_layers=5))
ANY = st.one_of(
    networks(soft=True, max_layers=5), networks(graded=True), graphs(soft=True), resonating()
)
seen: Counter[str] = Counter()


def compare(network: Network, ours: reference.Trace, theirs: reference.Trace, who: str) -> None:
    for state in STATES:
        for name, a, b in zip(
            network.names, getattr(ours, state), getattr(theirs, state), strict=True
        ):
            np.testing.assert_array_equal(a, b, err_msg=f"{who}: {state} of layer {name}")


@pytest.mark.timeout(0 if COUNT > 60 else 300)
@settings(max_examples=COUNT, deadline=None, suppress_health_check=SLOW)
@given(st.data())
def test_engine_is_the_reference(data: st.DataObject) -> None:
    network = data.draw(ANY)
    x = data.draw(payloads(network))
    expected = reference.run(network, x, STATES)
    compare(network, expected, Engine(network, threads=1).run(x, STATES), "engine")
    scores = reference.scores(network, expected)
    np.testing.assert_array_equal(Engine(network, threads=2).predict(x), scores)


@pytest.mark.lava
@pytest.mark.timeout(0 if COUNT > 60 else 300)
@settings(max_examples=max(1, COUNT // 10), deadline=None, suppress_health_check=SLOW)
@given(st.data())
def test_reference_is_lava(data: st.DataObject) -> None:
    """Two samples after each other with phased resets; what cannot be reset runs on."""
    import lava_models

    network = data.draw(CHAINS)
    x = data.draw(payloads(network, samples=2))
    silence = np.zeros((network.arrivals[-1] + 2, *network.input_shape), dtype=x.dtype)
    x = np.concatenate([x[:, 0], x[:, 1], silence])
    expected = reference.stream(network, x[:, None], network.time_steps, STATES)
    found = lava_models.stream(network, x, network.time_steps)
    alone = reference.Trace(*([a[:, 0] for a in getattr(expected, s)] for s in STATES))
    compare(network, alone, found, "Lava")
