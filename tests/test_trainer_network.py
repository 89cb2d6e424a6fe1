"""The trainer's forward pass is the frozen network; the grid; what freezing must get right."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from loihi import INTEGRATOR, Encoding, formats, reference
from loihi.errors import PumiceError
from trainer import data, grid, observe
from trainer.layers import Layer
from trainer.loop import evaluate, payloads
from trainer.models import SpikingNetwork
from trainer.pools import AvgPool
from trainer.synapses import Conv, Dense, ModelError
from trainer.zoo import architecture, build

GRADED = Encoding("graded", 7, (0, 15), 0.0, 16.0)


def drawn(
    model: str, shape: tuple[int, ...], encoding: Encoding, x: np.ndarray, **kw: object
) -> SpikingNetwork:
    """A calibrated network; its biases and decays drawn as well, off the grid."""
    network = build(model, shape, 10, encoding, **kw)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(0)
    network.calibrate(payloads(network, x), generator)
    with torch.no_grad():
        for layer in network.chain:
            if layer.neurons is not None:
                layer.neurons.dv.add_(torch.rand((), generator=generator) * 700)
                if layer.neurons.bias is not None:
                    draw = torch.randn(layer.neurons.bias.shape, generator=generator)
                    layer.neurons.bias.copy_(draw * 40)
    return network


def assert_same_as_chip(network: SpikingNetwork, x: np.ndarray) -> None:
    """Every spike, and every score, of the trainer and of the reference."""
    frozen = network.freeze()
    trace = reference.run(frozen, network.encoding.encode(x), record=("spikes", "v"))
    dtype = network.exact_dtype()
    network = network.to(dtype)
    found = network.spikes(payloads(network, x, dtype))
    for index, (ours, theirs) in enumerate(zip(found, trace.spikes, strict=True)):
        assert np.array_equal(ours, theirs), frozen.names[index]
    scores = network(payloads(network, x, dtype)).detach().numpy()
    assert np.array_equal(scores, reference.scores(frozen, trace))
    hidden = trace.spikes[:-1]
    assert all(0.01 < spikes.mean() < 0.99 for spikes in hidden)  # or this would prove nothing


@pytest.mark.exactness
@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("48-32", {}),
        ("48-32", {"bias": True}),
        ("48-32", {"bias": True, "du": 1300.0}),
        ("48-32", {"readout": "spikes", "dv": 100.0}),
        ("4c3p1-2a-6c3-2a-24", {}),
        ("4c3p1-2a-6c3-2a-24", {"bias": True, "du": 2500.0}),
        ("lenet", {"bias": True, "readout": "spikes"}),
        ("48-32", {"bias": True, "neuron": "soft", "dv": 300.0, "readout": "spikes"}),
        ("4c3p1-2a-6c3-2a-24", {"bias": True, "du": 2500.0, "neuron": "soft", "dv": 40.0}),
        ("6c3x2p1x0s2x1-9c2x1p1d2x1g3", {"bias": True}),
        ("16r-8r", {"neuron": "soft"}),
        ("4c3p1-2m-6c3p1-2m-24", {"bias": True}),
        ("6c3-2m-4c2s2", {"bias": True, "du": 2500.0, "readout": "spikes"}),
        ("5c3-3m", {"neuron": "soft", "dv": 40.0}),
        ("2m-9c2x1g1-3m", {}),
        ("6c6-8c3p1-9c3s2-12c1p1", {}),  # a kernel as large as its image, padded and not
    ],
)
@pytest.mark.parametrize("kind", ["graded", "rate", "latency"])
def test_forward_is_the_chip_on_digits(model: str, options: dict[str, object], kind: str) -> None:
    digits = data.load("digits")
    x = digits.x_test[:24].reshape(-1, 1, 8, 8)
    encoding = Encoding(kind, 7, (0, 15) if kind == "graded" else (0, 1), 0.0, 16.0)  # type: ignore[arg-type]
    assert_same_as_chip(drawn(model, (1, 8, 8), encoding, x, **options), x)


@pytest.mark.exactness
def test_forward_is_the_chip_on_events() -> None:
    x = np.random.default_rng(0).integers(0, 4, (12, 9, 2, 6, 6))
    assert_same_as_chip(drawn("4c3-16", (2, 6, 6), Encoding("events", 9, (0, 3)), x), x)


@pytest.mark.exactness
@pytest.mark.parametrize("neuron", ["chip", "soft"])
@pytest.mark.parametrize("du", [4096.0, 700.0])
def test_forward_wraps_and_clips_as_the_chip(du: float, neuron: str) -> None:
    """Payloads of 255 into weights of 254: the current wraps at 24 bits, the membrane clips."""
    x = np.random.default_rng(1).integers(0, 256, (16, 784))
    network = drawn(
        "24", (784,), Encoding("graded", 6, (0, 255), 0.0, 255.0), x, du=du, neuron=neuron
    )
    with torch.no_grad():
        first = network.chain[0].synapse.weight
        assert isinstance(first, torch.Tensor)
        first.mul_(12)
        network.project()
    v = reference.run(network.freeze(), network.encoding.encode(x), record=("u", "v"))
    a = network.encoding.encode(x)[0].astype(np.int64) @ network.freeze().layers[0].synapse.weight.T  # type: ignore[union-attr]
    assert (abs(a) >= 2**17).any(), "no current wraps: the test is too tame"
    assert (abs(v.v[0]) == formats.STATE_MAX - 1).any() or du == 4096.0
    assert_same_as_chip(network, x)


@pytest.mark.exactness
@pytest.mark.parametrize("static", [True, False])
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("model", ["20", "3m-20", "3m-5c4", "6c12-4"])
def test_currents_just_beyond_the_register(model: str, sign: int, static: bool) -> None:
    """They wrap once, whether weights stand at one pixel or are repeated over several."""
    rng = np.random.default_rng(1)
    if static:
        x = rng.integers(0, 16, (9, 1, 12, 12))
        encoding = Encoding("graded", 4, (0, 15), 0.0, 15.0)
    else:
        x = rng.integers(0, 16, (9, 4, 1, 12, 12))
        encoding = Encoding("events", 4, (0, 15))
    network = drawn(model, (1, 12, 12), encoding, x)
    with torch.no_grad():
        weight = network.chain[0].synapse.weight
        assert isinstance(weight, torch.Tensor)
        weight[0] = sign * 254
    payloads = network.encoding.encode(x)
    u = reference.run(network.freeze(), payloads, record=("u",)).u[0]
    sums = 254 * payloads.reshape(*payloads.shape[:2], -1).sum(2)
    assert ((sums > 2**17) & (sums < 2**19)).all()
    assert (sign * u[:, :, 0] < 0).any()
    assert_same_as_chip(network, x)


def test_sums_beyond_float32_are_evaluated_in_float64() -> None:
    x = np.full((2, 784), 255)
    network = drawn("8", (784,), Encoding("graded", 3, (0, 255), 0.0, 255.0), x)
    assert network.exact_dtype() == torch.float32
    with torch.no_grad():
        network.chain[0].synapse.weight.fill_(254)  # type: ignore[union-attr,operator]
    assert network.exact_dtype() == torch.float64
    _, predicted = evaluate(network, x, np.zeros(2, dtype=np.int64))
    scores = reference.predict(network.freeze(), network.encoding.encode(x))
    assert np.array_equal(predicted, scores.argmax(1))


@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(-400, 400, width=32), min_size=1, max_size=30))
def test_weights_land_on_the_grid(values: list[float]) -> None:
    x = torch.tensor(values, requires_grad=True)
    q = grid.weight(x)
    found = q.detach().numpy()
    formats.weight_format(found.astype(np.int64))  # every sign pattern is a format
    inside = np.clip(values, -254, 254)
    assert (found % 2 == 0).all()
    assert (abs(found - inside) <= 1).all()
    (q * torch.arange(1.0, len(values) + 1)).sum().backward()
    assert torch.equal(x.grad, torch.arange(1.0, len(values) + 1))  # type: ignore[arg-type]


@pytest.mark.parametrize("sign", [1, -1])
def test_single_signed_layers_freeze(sign: int) -> None:
    x = np.random.default_rng(0).integers(0, 17, (4, 64))
    network = drawn("12", (64,), GRADED, x)
    with torch.no_grad():
        weight = network.chain[0].synapse.weight
        assert isinstance(weight, torch.Tensor)
        weight.abs_().mul_(sign * 50)  # far beyond the range
    synapse = network.freeze().layers[0].synapse
    assert abs(synapse.weight).max() == 254  # type: ignore[union-attr]
    assert formats.weight_format(synapse.weight).sign_mode != "mixed"  # type: ignore[union-attr]


def test_freeze_gives_the_rounded_parameters() -> None:
    x = np.random.default_rng(0).integers(0, 17, (8, 1, 8, 8))
    network = drawn("4c3-2a-12", (1, 8, 8), GRADED, x, bias=True)
    with torch.no_grad():
        neurons = network.chain[0].neurons
        assert neurons is not None and neurons.bias is not None
        neurons.vth.fill_(100.6)
        neurons.dv.fill_(12.4)
        neurons.bias.copy_(torch.tensor([1.6, -2.4, 5000.0, 0.0]))
    frozen = network.freeze()
    first, pool, _, last = frozen.layers
    assert (first.neuron.vth, first.neuron.dv, first.neuron.du) == (101, 12, 4096)
    assert np.array_equal(first.neuron.bias, [2, -2, 4095, 0])
    assert pool.synapse.groups == 4  # type: ignore[union-attr]
    assert frozen.shapes == ((4, 6, 6), (4, 3, 3), (12,), (10,))
    assert last.neuron == INTEGRATOR


def test_project_brings_parameters_back() -> None:
    network = build("8", (4,), 3, GRADED, bias=True, du=0.0)
    with torch.no_grad():
        for p in network.parameters():
            p.fill_(-1e6)
    network.project()
    weight, vth, dv, du, bias = (p.flatten()[0].item() for p in list(network.parameters())[:5])
    assert (weight, vth, dv, du, bias) == (-254, 1, 0, 0, -4096)


@pytest.mark.parametrize("form", ["A", "B", "hard"])
def test_project_keeps_leaks_and_thresholds_of_real_neurons(form: str) -> None:
    network = build("8", (4,), 3, GRADED, neuron=form, bias=True, du=0.0)
    for value, expected in ((-1e6, (-1e6, 1e-3, 0, 0, -1e6)), (1e6, (1e6, 1e6, 4096, 4096, 1e6))):
        with torch.no_grad():
            for p in network.parameters():
                p.fill_(value)
        network.project()
        found = [p.flatten()[0].item() for p in list(network.parameters())[:5]]
        assert found == pytest.approx(expected)


def test_what_learns_is_what_was_said_last() -> None:
    network = build("2a-8", (1, 4, 4), 3, Encoding("events", 2), du=100.0)
    pool, layer = (layer.neurons for layer in network.chain[:2])
    assert pool is not None and layer is not None and layer.du is not None
    for threshold in (False, True):
        for leak in (False, True, False):
            network.learn(threshold, leak)
            found = layer.vth, layer.dv, layer.du
            assert [p.requires_grad for p in found] == [threshold, leak, leak]
            assert not pool.vth.requires_grad and not pool.dv.requires_grad


@pytest.mark.parametrize(("norm", "seed"), [("ws", 4), ("bn", 30)])
def test_norms_are_folded_as_they_are_frozen_whatever_sums_are_computed_in(
    norm: str, seed: int
) -> None:
    """A weight halfway between two of the grid's goes to the same one in float64."""
    network = build("256-256", (784,), 10, GRADED, norm=norm, bias=True)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 16, (1, 16, 784), generator=generator).float().expand(7, 16, 784)
    network.calibrate(x, generator)
    with torch.no_grad():
        for layer in network.chain[:2]:
            scale = layer.synapse.norm.gain if norm == "ws" else layer.synapse.norm.gamma  # type: ignore[union-attr]
            scale.mul_(1 + 0.01 * torch.randn(scale.shape, generator=generator))
            layer.neurons.bias.copy_(50 * torch.randn(256, generator=generator))  # type: ignore[union-attr]
    network.eval()
    plain, twin = copy.deepcopy(network).double(), observe.ready(network).double()
    frozen = network.freeze().layers
    for ours, theirs in zip(twin.chain, frozen, strict=True):
        weight = ours.synapse.weights(True).detach().numpy() / 64
        np.testing.assert_array_equal(weight, theirs.synapse.weight)  # type: ignore[union-attr]
    differ = [
        (one.synapse.weights(True).detach().numpy() / 64 != other.synapse.weight).any()  # type: ignore[union-attr]
        for one, other in zip(plain.chain, frozen, strict=True)
    ]
    assert any(differ)  # else this proves nothing
    payloads = x.double()
    trace = reference.run(network.freeze(), payloads.numpy().astype(np.int64))
    for spikes, expected in zip(twin.spikes(payloads), trace.spikes, strict=True):
        np.testing.assert_array_equal(spikes, expected)


@pytest.mark.exactness
def test_a_carried_input_may_wrap_where_neither_alone_does() -> None:
    encoding = Encoding("events", 3, (0, 57))
    network = build("preact_resnet18/32", (1, 8, 8), 4, encoding, norm="none")
    x = np.full((2, 3, 1, 8, 8), 57)
    network.calibrate(payloads(network, x), torch.Generator().manual_seed(0))
    with torch.no_grad():
        for layer in network.chain[:3]:
            layer.synapse.weight.fill_(254)  # type: ignore[union-attr,operator]
    trace = reference.run(network.freeze(), encoding.encode(x), record=("spikes", "u"))
    assert (trace.u[0] >= 0).all() and (trace.u[2] < 0).any()
    for ours, theirs in zip(network.spikes(payloads(network, x)), trace.spikes, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_soft_resets_do_not_freeze() -> None:
    with pytest.raises(PumiceError, match=r"on the chip's grid"):
        build("8", (4,), 3, GRADED, neuron="A").freeze()


def test_static_input_is_computed_once() -> None:
    """One product of the first synapse a batch, however many steps."""
    x = np.random.default_rng(0).integers(0, 17, (4, 64))
    network = drawn("12", (64,), GRADED, x)
    calls = []
    synapse = network.chain[0].synapse
    synapse.register_forward_hook(lambda *_: calls.append(1))
    moving = payloads(network, x)
    network(moving)
    assert len(calls) == 1
    network(moving.contiguous())
    assert len(calls) == 1 + len(moving)


@pytest.mark.parametrize(("kernel", "needed"), [(2, 2), (3, 5)])
def test_pooling_spikes_for_half_of_its_inputs(kernel: int, needed: int) -> None:
    network = build(f"{kernel}a-8", (1, kernel, kernel), 10, Encoding("events", 2))
    counts = range(kernel**2 + 1)
    x = torch.zeros(2, len(counts), 1, kernel, kernel)
    for count in counts:
        x[0, count].view(-1)[:count] = 1  # at once, in the first step
        x[1, count].view(-1)[count:] = 1  # and the rest in the second
    first, second = network.spikes(x)[0].reshape(2, -1).astype(bool)
    assert first.tolist() == [count >= needed for count in counts]
    # Without leak the second step completes what the first had left, or begins anew after a spike.
    left = [kernel**2 - count * spiked for count, spiked in enumerate(first.tolist())]
    assert second.tolist() == [n >= needed for n in left]


def test_pooling_does_not_learn() -> None:
    network = build("2a-8", (1, 4, 4), 10, Encoding("events", 2))
    fixed = [name for name, p in network.named_parameters() if not p.requires_grad]
    assert fixed == ["layers.0.neurons.vth", "layers.0.neurons.dv"]


# --- descriptions and refusals ------------------------------------------------------------------


def test_architectures() -> None:
    assert architecture("mlp", (1, 28, 28)) == "512-512"
    assert architecture("mlp", (1, 28, 28), (100,)) == "100"
    assert architecture("lenet", (1, 28, 28), (64, 32)) == "16c5-2a-32c5-2a-64-32"
    assert build("lenet", (1, 28, 28), 10, GRADED).freeze is not None
    kinds = [type(layer.synapse) for layer in build("lenet", (1, 8, 8), 10, GRADED).chain]
    assert kinds == [Conv, AvgPool, Conv, AvgPool, Dense, Dense]


@pytest.mark.parametrize(
    ("model", "shape", "words"),
    [
        ("resnet", (1, 28, 28), "'resnet' is none"),
        ("12-x", (4,), "'x' is none"),
        ("8c5", (16,), r"needs images \(C, H, W\)"),
        ("8c9", (1, 8, 8), "9x9 kernel does not fit 8x8"),
        ("2a", (16,), "pooling needs images"),
        ("9a", (1, 8, 8), "9x9 pooling does not fit"),
        ("9m-4", (1, 8, 8), "mean over 9x9 pixels does not fit 8x8"),
        ("2m-4", (16,), "mean over pixels needs images"),
        ("2m-2m-4", (1, 8, 8), "'2m' behind 2m: a mean is part of the next synapse"),
        ("2m-2a", (1, 8, 8), "'2a' behind 2m"),
        ("2m-4c3d2", (1, 8, 8), "'4c3d2' behind 2m"),
        ("2m-ga", (1, 8, 8), "'ga' behind 2m"),
        ("2m-4c3p1", (1, 9, 8), "9x8 pixels do not divide into 2x2"),
        ("0", (16,), "sizes start at 1"),
    ],
)
def test_bad_models_are_refused(model: str, shape: tuple[int, ...], words: str) -> None:
    with pytest.raises(ModelError, match=words):
        build(model, shape, 10, GRADED)


def test_a_convolution_that_could_overflow_is_refused() -> None:
    encoding = Encoding("graded", 4, (0, 255), 0.0, 1.0)
    with pytest.raises(ModelError, match="24-bit"):
        Layer(Conv((8, 9, 9), 1, 5), None, max(encoding.payload))
    assert math.prod((8, 5, 5)) * 254 * 255 > 2**23


def test_outputs_begin_at_one() -> None:
    """Of the readout and of local classifiers: their root mean square, but for a power of two."""
    network = build("40-30-20", (24,), 5, Encoding("graded", 6, (0, 15)), dv=512, block=1)
    x = torch.from_numpy(np.random.default_rng(2).integers(0, 16, (6, 64, 24))).float()
    network.calibrate(x, torch.Generator().manual_seed(0))
    network.reset(x)
    found: list[list[torch.Tensor]] = []
    with torch.no_grad():
        for t in range(len(x)):
            out = network.step(t)
            found.append([out, *network.locals])
    assert len(found[0]) == 3
    for outputs in zip(*found, strict=True):
        rms = float(torch.stack(outputs).square().mean().sqrt())
        assert 0.7 <= rms <= 1.42
