"""Steps without a graph against the steps with one: the same numbers to the last bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from loihi import Encoding
from trainer import skip
from trainer.models import SpikingNetwork
from trainer.zoo import build


def network_of(model: str, static: bool, seed: int, **options: object) -> SpikingNetwork:
    encoding = Encoding("graded", 9, (0, 15), 0.0, 16.0) if static else Encoding("rate", 9)
    shape = (2, 9, 8) if set(model) & {"c", "a", "m"} else (70,)
    network = build(model, shape, 4, encoding, **options)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(seed)
    one = torch.randint(0, 16 if static else 2, (9, 12, *shape), generator=generator).float()
    x = one[:1].expand(9, *one.shape[1:]) if static else one
    network.calibrate(x, generator)
    network.reset(x)
    return network


def same(a: SpikingNetwork, b: SpikingNetwork) -> None:
    for ours, theirs in zip(a.state_tensors(), b.state_tensors(), strict=True):
        assert torch.equal(ours, theirs)
    assert torch.equal(a.read(), b.read())


IMAGES = (
    "5c3p1-2a-6c3",
    "6c2-2m-1c2",
    "5c3-7c7x6-20",
    "2a-8c3x2p1x0-2m-9",
    "6c3p1g2-3a",
    "9c3-2m",
)


@settings(max_examples=50, deadline=None)
@given(
    st.sampled_from(["80", "80-72", "64-90-66", *IMAGES]),
    st.booleans(),
    st.sampled_from([0.0, 700.0, 4096.0]),
    st.integers(0, 7),
    st.integers(0, 1000),
)
def test_skipped_steps_are_steps(
    model: str, static: bool, dv: float, start: int, seed: int
) -> None:
    network, other = (network_of(model, static, seed, dv=dv) for _ in range(2))
    assert skip.able(network)
    for net in (network, other):
        with torch.no_grad():
            for t in range(start):
                net.step(t)
    network.skip(start, 8)
    with torch.no_grad():
        for t in range(start, 8):
            other.step(t)
    same(network, other)
    spikes = np.mean([float(s.s.mean()) for s in other._states if s is not None])
    assume(0.005 < spikes < 0.995)
    assert torch.equal(network.step(8), other.step(8))


def test_a_readout_that_could_wrap() -> None:
    """Near the register's end the steps are done one by one; far from it the bound is enough."""
    network, other = (network_of("80", False, 1) for _ in range(2))
    for net in (network, other):
        with torch.no_grad():
            net.chain[-1].synapse.weight.fill_(254)  # type: ignore[union-attr,operator]
        net.reset(net._x)
    assert network._wraps_total
    assert skip.able(network)
    assert skip.skip(network, 0, 6)
    network.reset(network._x)
    with torch.no_grad():
        for net in (network, other):
            net.step(0)
            net._total = torch.full_like(net.read(), 2.0**23 - 3e5)
    assert not skip.skip(network, 1, 9)
    network.skip(1, 9)
    with torch.no_grad():
        for t in range(1, 9):
            other.step(t)
    same(network, other)
    assert float(other._total.min()) < 0  # type: ignore[union-attr]


@pytest.mark.parametrize("wraps", [True, False])
@pytest.mark.parametrize("model", ["90", "4c8x7-12", "4c9x8"])
def test_a_current_that_could_wrap(model: str, wraps: bool) -> None:
    """Steps are done one by one where a layer's input leaves the register, not where it might."""
    pair = []
    for _ in range(2):
        shape = (2, 9, 8) if "c" in model else (144,)
        net = build(model, shape, 4, Encoding("events", 6, (0, 127)), dv=700.0)
        generator = torch.Generator().manual_seed(1)
        x = torch.randint(0, 128, (6, 5, *shape), generator=generator).float()
        net.calibrate(x, generator)
        with torch.no_grad():
            weight = net.chain[0].synapse.weight
            assert isinstance(weight, torch.Tensor)
            weight.copy_(weight.sign() * 254)
            if wraps:
                weight[0] = 254
        net.reset(x if wraps else (x > 64).float())
        assert net._wraps[0]
        pair.append(net)
    network, other = pair
    assert skip.able(network)
    assert skip.skip(network, 0, 5) is not wraps
    if wraps:
        assert network._total is None and network._states[0] is None
        network.skip(0, 5)
    with torch.no_grad():
        for t in range(5):
            other.step(t)
    same(network, other)


@pytest.mark.parametrize(
    "options",
    [
        {"neuron": "soft"},
        {"neuron": "hard"},
        {"bias": True},
        {"du": 900.0},
        {"readout": "spikes"},
        {"norm": "bn"},
        {"block": 1},
    ],
)
def test_what_it_does_not_know_goes_step_by_step(options: dict[str, object]) -> None:
    network, other = (network_of("80-72", False, 3, **options) for _ in range(2))
    network.train()
    other.train()
    assert not skip.able(network)
    network.skip(0, 5)
    with torch.no_grad():
        for t in range(5):
            other.step(t)
    same(network, other)
