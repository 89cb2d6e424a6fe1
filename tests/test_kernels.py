"""The CPU's compiled steps and products: the same integers, gradients the same but for float32."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from rule_reference import batch_for, by_rule, network_of

from loihi import Encoding
from trainer import kernels, products, skip
from trainer.neurons import FORMS, State, step
from trainer.rules import RULES, rule
from trainer.shared import Shared
from trainer.surrogates import SHAPES as SURROGATES
from trainer.surrogates import Surrogate
from trainer.zoo import build

LIMIT = 2**23 - 1


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """As many threads, and every loop large enough for them."""
    monkeypatch.setattr(kernels, "LARGE", 0)
    kernels.use_threads(request.param)
    yield request.param
    kernels.use_threads(1)


def drawn(size: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Membranes over the whole register, spikes, currents that overflow it."""
    generator = torch.Generator().manual_seed(seed)
    m = torch.randint(-LIMIT, LIMIT + 1, (3, size), generator=generator).float()
    s = (torch.rand((3, size), generator=generator) < 0.3).float()
    i = torch.randint(-LIMIT, LIMIT + 1, (3, size), generator=generator).float()
    m[0, :4] = torch.tensor([LIMIT, -LIMIT, 1, -1])
    return m, s, i


@pytest.mark.parametrize("decay", [0, 1, 900, 4095, 4096])
def test_the_step_is_lavas_integers(decay: int, threads: int) -> None:
    m, s, i = drawn(9001, decay)
    theta = 64.0 * 70
    alpha = torch.tensor(1 - decay / 4096)
    after, spikes = step(
        i, State(m, s, torch.tensor(theta)), alpha, torch.tensor(theta), FORMS["chip"], Surrogate()
    )
    old = np.where(s.numpy() == 0, m.numpy().astype(np.int64), 0)
    kept = np.sign(old) * (np.abs(old) * (4096 - decay) // 4096)
    expected = np.clip(kept + i.numpy().astype(np.int64), -LIMIT, LIMIT)
    np.testing.assert_array_equal(after.numpy(), expected)
    np.testing.assert_array_equal(spikes.numpy(), expected > theta)


@pytest.mark.parametrize("shape", ["exponential", "sigmoid"])
def test_slopes_far_from_the_threshold(shape: str) -> None:
    """In float32 too they are what they are, however small; compiled and not."""
    theta = torch.tensor(64.0)
    m = 64 + 64 * torch.linspace(-9, 9, 501)
    phi = Surrogate(shape)
    exact = phi.slope(m.double(), theta.double())
    torch.testing.assert_close(phi.slope(m, theta).double(), exact, rtol=1e-4, atol=0)
    assert phi.width is not None
    out = torch.empty_like(m)
    kernels._slopes(
        kernels.SHAPES.index(shape), m.numpy(), np.ones(501, np.float32), 64.0, 64.0, phi.width,
        out.numpy(),
    )  # fmt: skip
    torch.testing.assert_close(out.double(), exact, rtol=1e-4, atol=0)


@pytest.mark.parametrize("shape", SURROGATES)
@pytest.mark.parametrize("wanted", ["all", "spatial", "membrane alone"])
def test_the_steps_derivatives(shape: str, wanted: str, threads: int) -> None:
    """One pass in float32 against tensor operations in float64."""
    generator = torch.Generator().manual_seed(0)
    m = (torch.randn((4, 5000), generator=generator) * 5000).round()
    s = (torch.rand((4, 5000), generator=generator) < 0.3).float()
    i = (torch.randn((4, 5000), generator=generator) * 5000).round()
    of_m, of_s = torch.randn((2, 4, 5000), generator=generator)
    found = []
    for dtype in (torch.float32, torch.float64):
        at, spiked, current = (x.detach().clone().to(dtype).requires_grad_() for x in (m, s, i))
        leaves = (current, at, spiked)
        if wanted == "spatial":
            at, spiked = at.detach(), spiked.detach()
        theta = torch.tensor(4480.0, dtype=dtype, requires_grad=True)
        alpha = torch.tensor(0.75, dtype=dtype, requires_grad=True)
        before = State(at, spiked, theta.detach())
        after, spikes = step(current, before, alpha, theta, FORMS["chip"], Surrogate(shape))
        total = (after * of_m.to(dtype)).sum() if wanted != "spatial" else 0.0
        if wanted != "membrane alone":
            total = total + (spikes * of_s.to(dtype)).sum()
        total.backward()
        found.append([x.grad for x in (*leaves, alpha, theta)])
    for ours, theirs in zip(*found, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            torch.testing.assert_close(
                ours.double(), theirs, rtol=1e-4, atol=1e-4 * float(theirs.abs().max())
            )


@pytest.mark.parametrize("density", [0.0, 0.1, 0.24, 0.6])
def test_weight_gradients_event_by_event(density: float, threads: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(1, 9, (37, 90), generator=generator).float()
    x *= torch.rand((37, 90), generator=generator) < density
    delta = torch.randn((37, 70), generator=generator)
    assert kernels.active(x.numpy()) == int((x != 0).sum())
    weight = Shared(torch.zeros((70, 90), requires_grad=True))
    for _ in range(2):
        products.add_gradient(x, delta, weight)
    weight.gather()
    torch.testing.assert_close(weight.source.grad, 2 * delta.T @ x, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("path", ["int8", "float", "plain"])
@pytest.mark.parametrize("inputs", [1, 2, 3, 200, 5000])
def test_products_are_exact(path: str, inputs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if path == "int8":
        assert products.int8_product() is not None  # else this proves nothing
    else:
        monkeypatch.setattr(products, "int8_product", lambda: None)
    if path == "plain":
        monkeypatch.setattr(products, "_onednn", lambda: None)
    generator = torch.Generator().manual_seed(1)
    weights = 2 * torch.randint(-127, 128, (65, inputs), generator=generator)
    weights[0], weights[1] = 254, -254
    x = torch.randint(-127, 128, (66, inputs), generator=generator)
    x[0] = 127 if inputs < 500 else 1
    expected = 64 * x @ weights.T
    shared = Shared(64.0 * weights.float())
    ours = products.linear(x.float(), shared, 128.0)
    assert torch.equal(ours.long(), expected) or (path != "int8" and inputs == 5000)
    if path == "int8":
        assert ours.dtype == torch.float32


@pytest.mark.parametrize(("model", "features"), [("64", 1), ("1-64", 5), ("64r", 1), ("1-3", 5)])
def test_layers_of_one_input(model: str, features: int) -> None:
    """Of which torch 2.13's int8 product leaves the sums as it found the memory."""
    network = build(model, (features,), 4, Encoding("events", 4, (0, 3)))
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 4, (4, 32, features), generator=generator).float()
    network.calibrate(x, generator)
    whole = copy.deepcopy(network).double()
    for _ in range(3):
        for ours, theirs in zip(network.spikes(x), whole.spikes(x.double()), strict=True):
            np.testing.assert_array_equal(ours, theirs)
        network.reset(x)
        network.skip(0, 4)
        assert torch.equal(network.read().double(), whole(x.double()))


@pytest.mark.parametrize("samples", [1, products.FEW - 1, products.FEW, 70])
def test_gradients_of_a_product(samples: int) -> None:
    generator = torch.Generator().manual_seed(2)
    parameter = (2 * torch.randint(-127, 128, (80, 90), generator=generator)).float()
    x = (torch.rand((samples, 90), generator=generator) < 0.2).float().requires_grad_()
    parameter.requires_grad_()
    shared = Shared(64 * parameter)
    errors = torch.randn((samples, 80), generator=generator)
    products.linear(x, shared, 128.0).backward(errors)
    shared.gather()
    torch.testing.assert_close(x.grad, errors @ (64 * parameter.detach()), rtol=1e-5, atol=0.05)
    torch.testing.assert_close(parameter.grad, 64 * errors.T @ x.detach(), rtol=1e-5, atol=1e-3)


def test_gradients_of_every_kind_add_up_and_start_again() -> None:
    parameter = torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    shared = Shared(2 * parameter)
    shared.add(torch.full((2, 2), 0.5))
    shared.add_along(torch.tensor([1.0, 0.0]))
    shared.add_along(torch.tensor([0.0, 10.0]))
    shared.row_sum[0] += 0.25  # the first input's
    expected = torch.tensor([[2.75, 4.5], [60.75, 80.5]])
    total = shared.total()
    assert total is not None and torch.equal(total, expected)
    assert shared.total() is None
    shared.add_along(torch.tensor([1.0, 10.0]))
    for _ in range(2):
        shared.gather()
    assert parameter.grad is not None
    assert parameter.grad.tolist() == [[4.0, 8.0], [120.0, 160.0]]


@pytest.mark.parametrize("model", ["5c3p1-2m-3c3", "9c3s2-2a-4"])
def test_payloads_below_0_are_not_taken_for_large_ones(model: str) -> None:
    """uint8, which the int8 convolution takes, has no sign."""
    encoding = Encoding("events", 3, (-3, 4))
    network = build(model, (1, 12, 12), 4, encoding, bias=True)
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(-3, 5, (3, 6, 1, 12, 12), generator=generator).float()
    network.calibrate(x, generator)
    whole = copy.deepcopy(network).double()
    for ours, theirs in zip(network.spikes(x), whole.spikes(x.double()), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    network.reset(x)
    assert not skip.able(network)


@pytest.mark.parametrize("model", ["3m-4c2-6", "3m-80", "5c3-3m-70", "3m-3c4", "2a-5c3"])
def test_sums_that_8_bits_do_not_hold(model: str) -> None:
    """Nine payloads of a mean's square: beyond int8, and uint8."""
    network = build(model, (1, 12, 12), 4, Encoding("events", 3, (0, 100)))
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 101, (3, 6, 1, 12, 12), generator=generator).float()
    network.calibrate(x, generator)
    whole = copy.deepcopy(network).double()
    found = whole.spikes(x.double())
    assert all(spikes.any() for spikes in found[:-1])
    for ours, theirs in zip(network.spikes(x), found, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    network.reset(x)
    assert skip.able(network) == model.startswith("5c3")
    network.skip(0, 2)
    whole.reset(x.double())
    for t in range(2):
        whole.step(t)
    assert torch.equal(network.read().double(), whole.read())


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("structure", ["dense", "conv", "grouped", "means", "recurrent", "70-66"])
def test_rules_in_float32_are_those_of_float64(structure: str, name: str) -> None:
    local = name in ("tt_lbp", "decolle")
    net = network_of(structure, "chip", block=1 if local else 0)
    x, y = batch_for(net, 4, samples=66)
    own = rule(name, k=2, n=1)

    def run(network: object, *rest: object) -> None:
        own(network, *rest, generator=torch.Generator().manual_seed(0))

    whole = by_rule(net, run, x, y)
    single = copy.deepcopy(net).float()
    ours = by_rule(single, run, x.float(), y)
    for before, after in zip(net.spikes(x), single.spikes(x.float()), strict=True):
        np.testing.assert_array_equal(before, after)
    assert ours.keys() == whole.keys()
    for key, grad in whole.items():
        size = float(grad.abs().max())
        torch.testing.assert_close(ours[key].double(), grad, rtol=1e-3, atol=1e-4 * size, msg=key)
