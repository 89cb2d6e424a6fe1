"""Rules against plain autograd, in float64 (rules.md, identities 1, 2, 9 and 11).

The references here are written from the equations with ordinary tensor operations and one graph
over all steps; the code under test steps through fused functions with derivatives written by hand.
"""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from loihi import Encoding
from trainer.layers import Layer
from trainer.models import SpikingNetwork
from trainer.neurons import Chip, FormA, FormB, Neurons
from trainer.rules import BPTT, SLTT
from trainer.surrogates import SHAPES, Surrogate
from trainer.synapses import Dense

SIZES = (7, 9, 8, 4)
SAMPLES = 5
TOLERANCE = 1e-12


def make(
    form: str, seed: int = 0, surrogate: Surrogate | None = None, du: float = 4096.0, steps: int = 6
) -> SpikingNetwork:
    """Two hidden layers and a readout, every parameter drawn, in float64."""
    generator = torch.Generator().manual_seed(seed)
    on_grid = form == "chip"
    layers = []
    for index, (size_in, size_out) in enumerate(itertools.pairwise(SIZES)):
        synapse = Dense((size_in,), size_out)
        draw = torch.randn(size_out, size_in, generator=generator)
        synapse.weight.data = draw * (40.0 if on_grid else 0.6)
        neurons = None
        if index < len(SIZES) - 2:
            neurons = Neurons(size_out, form=form, surrogate=surrogate, du=du, bias=True)
            vth, dv = (60.3, 900.7) if on_grid else (0.8, 1500.0)
            neurons.vth.data.fill_(vth + index)
            neurons.dv.data.fill_(dv + 100 * index)
            assert neurons.bias is not None
            bias = torch.randn(size_out, generator=generator)
            neurons.bias.data = bias * (10.0 if on_grid else 0.1)
        layers.append(Layer(synapse, neurons, 1, on_grid))
    network = SpikingNetwork(layers, (SIZES[0],), Encoding("events", steps, (0, 1)))
    network.temperature.fill_(64.0 * 64.0 if on_grid else 1.0)
    return network.double()


def batch(steps: int = 6, seed: int = 1, static: bool = False) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (1 if static else steps, SAMPLES, SIZES[0])
    x = (torch.rand(shape, generator=generator) < 0.6).double()
    y = torch.randint(0, SIZES[-1], (SAMPLES,), generator=generator)
    return x.expand(steps, *shape[1:]), y


def snapped(x: Tensor, low: float, high: float, by: float = 1.0) -> Tensor:
    """Straight-through rounding by the stop-gradient trick; exact, as x − sg(x) is 0."""
    return (by * torch.clamp(torch.round(x / by), low / by, high / by)).detach() + (x - x.detach())


def toward_zero(x: Tensor) -> Tensor:
    return torch.trunc(x).detach() + (x - x.detach())


def reference(
    network: SpikingNetwork,
    x: Tensor,
    y: Tensor,
    *,
    cut_membrane: bool = False,
    cut_reset: bool = False,
) -> dict[str, Tensor]:
    """Gradients by autograd of one graph over all steps, one backward of the summed loss."""
    network = copy.deepcopy(network)
    network.zero_grad()
    sg = Tensor.detach
    layers = network.chain
    m: list[Tensor | None] = [None] * len(layers)
    s: list[Tensor | None] = [None] * len(layers)
    u: list[Tensor | None] = [None] * len(layers)
    total = torch.zeros((), dtype=torch.float64)
    for t in range(len(x)):
        message = x[t]
        for k, layer in enumerate(layers):
            w, n = layer.synapse.weight, layer.neurons
            assert isinstance(w, Tensor)
            if layer.on_grid:
                w = 64 * snapped(w, -254, 254, 2.0)
            a = message @ w.T
            if n is None:
                message = a
                continue
            theta, bias = n.vth, n.bias
            alpha = 1 - n.dv / 4096
            if layer.on_grid:
                theta = 64 * snapped(n.vth, 1, 2**17 - 1)
                alpha = 1 - snapped(n.dv, 0, 4096) / 4096
                bias = 64 * snapped(n.bias, -4096, 4095)
            if n.du is not None:
                beta = 1 - snapped(n.du, 0, 4096) / 4096
                if u[k] is not None:
                    before = sg(u[k]) if cut_membrane else u[k]
                    kept = beta * before
                    a = (toward_zero(kept) if layer.on_grid else kept) + a
                u[k] = a
            i = a + bias
            if m[k] is None:
                new = i
            else:
                spike = sg(s[k]) if cut_reset or cut_membrane else s[k]
                reset = sg(theta) if cut_membrane else theta
                old = sg(m[k]) if cut_membrane else m[k]
                if n.form.name == "A":
                    new = alpha * (old - reset * spike) + i
                elif n.form.name == "B":
                    new = alpha * old - reset * spike + i
                else:
                    new = toward_zero(alpha * (old * (1 - spike))) + i
            unit = sg(theta) if n.surrogate.unit is None else n.surrogate.unit
            width = n.surrogate.width
            distance = sg((new - theta) / unit)
            slope = {
                "triangle": torch.clamp(width - abs(distance), min=0) / width**2,
                "rectangle": (abs(distance) < width / 2).double() / width,
                "exponential": torch.exp(-abs(distance) / width) / width,
                "sigmoid": torch.sigmoid(distance / width)
                * torch.sigmoid(-distance / width)
                / width,
            }[n.surrogate.shape]
            hard = (sg(new) > sg(theta)).double()
            through = slope / unit * (new - theta)
            m[k], s[k] = new, hard + (through - sg(through))
            message = s[k]
        total = total + F.cross_entropy(message / network.temperature, y) / len(x)
    total.backward()
    return gradients(network)


def gradients(network: SpikingNetwork) -> dict[str, Tensor]:
    return {name: p.grad for name, p in network.named_parameters() if p.grad is not None}


def by_rule(network: SpikingNetwork, rule: object, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    network.zero_grad()
    rule(network, x, y, F.cross_entropy)  # type: ignore[operator]
    return gradients(network)


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        scale = gradient.abs().max()
        error = (found[name] - gradient).abs().max()
        error = error / scale if scale > 0 else error
        assert error <= TOLERANCE, f"{name}: relative error {float(error)}"


def differ(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return any(((a[k] - b[k]).abs().max() > 1e-3 * b[k].abs().max()) for k in b)


CASES = [
    ("A", 4096.0, "triangle"),
    ("B", 4096.0, "triangle"),
    ("chip", 4096.0, "triangle"),
    ("chip", 1200.4, "triangle"),
    ("A", 4096.0, "rectangle"),
    ("B", 4096.0, "exponential"),
    ("chip", 4096.0, "sigmoid"),
]


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize(("form", "du", "shape"), CASES)
def test_bptt_is_autograd(form: str, du: float, shape: str, static: bool) -> None:
    network = make(form, surrogate=Surrogate(shape), du=du)
    x, y = batch(static=static)
    full = reference(network, x, y)
    cut = reference(network, x, y, cut_reset=True)
    assert differ(full, cut)  # or this would prove nothing
    assert_equal(by_rule(network, BPTT(), x, y), full)
    assert_equal(by_rule(network, BPTT(detach_reset=True), x, y), cut)


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize(("form", "du", "shape"), CASES)
def test_sltt_is_autograd_with_the_membrane_detached(
    form: str, du: float, shape: str, static: bool
) -> None:
    """Backward at every step equals one backward of the summed loss; a static input's first
    synapse, computed once, gives the same gradients."""
    network = make(form, surrogate=Surrogate(shape), du=du)
    x, y = batch(static=static)
    expected = reference(network, x, y, cut_membrane=True)
    assert differ(expected, reference(network, x, y))
    assert_equal(by_rule(network, SLTT(), x, y), expected)


def test_sltt_is_equations_12_and_13() -> None:
    """Form A with SLTT's sums written out in numpy: no autograd at all."""
    steps = 6
    network = make("A")
    x, y = batch(steps)
    found = by_rule(network, SLTT(), x, y)
    hidden = [(layer, layer.neurons) for layer in network.chain[:-1]]
    weights = [layer.synapse.weight.detach().numpy() for layer in network.chain]  # type: ignore[union-attr,operator]
    expected = [np.zeros_like(w) for w in weights]
    v = [np.zeros((SAMPLES, n)) for n in SIZES[1:-1]]
    for t in range(steps):
        s, phi = [x[t].numpy()], []
        for k, (_, neurons) in enumerate(hidden):
            assert neurons is not None and neurons.bias is not None
            theta, alpha = neurons.vth.item(), 1 - neurons.dv.item() / 4096
            u = alpha * v[k] + s[-1] @ weights[k].T + neurons.bias.detach().numpy()
            phi.append(np.maximum(0, theta - abs(u - theta)) / theta**2)
            s.append((u >= theta).astype(float))
            v[k] = u - theta * s[-1]
        o = s[-1] @ weights[-1].T
        softmax = np.exp(o) / np.exp(o).sum(1, keepdims=True)
        error = (softmax - np.eye(SIZES[-1])[y.numpy()]) / SAMPLES / steps
        expected[-1] += error.T @ s[-1]
        for k in reversed(range(len(hidden))):
            error = (error @ weights[k + 1]) * phi[k]
            expected[k] += error.T @ s[k]
    assert_equal(
        {str(k): found[f"layers.{k}.synapse.weight"] for k in range(3)},
        {str(k): torch.from_numpy(g) for k, g in enumerate(expected)},
    )


@pytest.mark.parametrize("form", ["A", "B", "chip"])
def test_one_step_has_no_time(form: str) -> None:
    network = make(form, steps=1)
    x, y = batch(1)
    assert_equal(by_rule(network, SLTT(), x, y), by_rule(network, BPTT(), x, y))
    x, y = batch(2)
    assert differ(by_rule(network, SLTT(), x, y), by_rule(network, BPTT(), x, y))


class _Smooth:
    """A spike whose derivative is the surrogate: a sigmoid of width 1/4."""

    name = "smooth"

    @staticmethod
    def fires(m: Tensor, theta: Tensor) -> Tensor:
        return torch.sigmoid((m - theta) / 0.25)


class SmoothA(_Smooth, FormA):
    pass


class SmoothB(_Smooth, FormB):
    pass


class SmoothChip(_Smooth, Chip):
    @staticmethod
    def integrate(i: Tensor, m: Tensor, s: Tensor, theta: Tensor, alpha: Tensor) -> Tensor:
        return alpha * m * (1 - s) + i  # without the rounding, of which no difference is finite


@pytest.mark.parametrize("form", [SmoothA(), SmoothB(), SmoothChip()], ids=["A", "B", "chip"])
def test_finite_differences_of_a_smooth_spike(form: FormA) -> None:
    network = make("A", surrogate=Surrogate("sigmoid", 0.25, unit=1.0))
    for layer in network.chain[:-1]:
        assert layer.neurons is not None
        layer.neurons.form = form
    x, y = batch(4)
    found = by_rule(network, BPTT(), x, y)

    @torch.no_grad()
    def value() -> float:
        network.reset(x)
        return float(sum(F.cross_entropy(network.step(t), y) for t in range(4)) / 4)

    def slope(flat: Tensor, index: int, h: float) -> float:
        start = flat[index].item()
        flat[index] = start + h
        above = value()
        flat[index] = start - h
        below = value()
        flat[index] = start
        return (above - below) / (2 * h)

    for name, parameter in network.named_parameters():
        flat, gradient = parameter.data.view(-1), found[name].view(-1)
        size = 4096.0 if name.endswith("dv") else 1.0
        for index in range(0, len(flat), 5):
            # Two central differences, extrapolated: an error of h^4.
            h = 1e-3 * size
            difference = (4 * slope(flat, index, h / 2) - slope(flat, index, h)) / 3
            assert difference * size == pytest.approx(
                gradient[index].item() * size, rel=1e-7, abs=1e-9
            ), f"{name}[{index}]"


@pytest.mark.parametrize("shape", SHAPES)
def test_surrogates_are_the_papers(shape: str) -> None:
    """At θ = 1 with the published widths, in the papers' own notation."""
    u = torch.linspace(-1.5, 3.5, 501, dtype=torch.float64)
    distance = (u - 1).numpy()
    sigma = 1 / (1 + np.exp(-4 * distance))
    expected = {
        "triangle": np.maximum(0, 1 - abs(distance)),
        "rectangle": 2.0 * (abs(distance) < 0.25),
        "exponential": np.exp(-abs(distance)),
        "sigmoid": 4 * sigma * (1 - sigma),
    }[shape]
    found = Surrogate(shape).slope(u, torch.tensor(1.0, dtype=torch.float64)).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("shape", SHAPES)
def test_surrogates_scale_with_the_threshold(shape: str) -> None:
    """φ(c·m, c·θ) = φ(m, θ) / c, so a chip register sees what a membrane of the size 1 sees."""
    m, theta = torch.linspace(-1, 3, 101).double(), torch.tensor(1.0).double()
    small = Surrogate(shape).slope(m, theta)
    large = Surrogate(shape).slope(4096 * m, 4096 * theta)
    torch.testing.assert_close(large * 4096, small, rtol=1e-12, atol=0)
