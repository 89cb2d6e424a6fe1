"""The papers' networks: they build, every rule trains them, they freeze, and the engine agrees."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from loihi import Encoding, engine, reference
from trainer.models import SpikingNetwork
from trainer.norms import BatchNorm, WeightNorm
from trainer.rules import LOCAL, RULES, rule
from trainer.synapses import ModelError
from trainer.zoo import CHAINS, GRAPHS, MODELS, architecture, build

STEPS = 2
# Narrow enough to train in a moment; the shapes are those of 32x32 colour images, and of MNIST's.
NARROW = {
    "mlp": ("mlp/16", (1, 28, 28)),
    "lenet": ("lenet", (1, 28, 28)),
    "lenet1": ("lenet1", (1, 28, 28)),
    "lenet2": ("lenet2/16", (2, 32, 32)),
    "alexnet": ("alexnet/32", (3, 32, 32)),
    "vgg11": ("vgg11/16", (3, 32, 32)),
    "vgg11_ws": ("vgg11_ws/16", (3, 32, 32)),
    "sew_resnet18": ("sew_resnet18/16", (3, 32, 32)),
    "preact_resnet18": ("preact_resnet18/16", (3, 32, 32)),
    "nf_resnet34": ("nf_resnet34/32", (3, 32, 32)),
    "nf_resnet50": ("nf_resnet50/32", (3, 32, 32)),
    "nf_resnet101": ("nf_resnet101/32", (3, 32, 32)),
}


def made(name: str, *, block: int = 0, samples: int = 2) -> tuple[SpikingNetwork, torch.Tensor]:
    model, shape = NARROW[name]
    net = build(model, shape, 10, Encoding("rate", STEPS, (0, 1), 0.0, 1.0), dv=1024, block=block)
    generator = torch.Generator().manual_seed(0)
    x = (torch.rand((STEPS, samples, *net.input_shape), generator=generator) < 0.4).float()
    net.calibrate(x, generator)
    return net, x


def test_the_list_is_whole() -> None:
    assert set(NARROW) == set(MODELS)


@pytest.mark.parametrize("name", MODELS)
def test_every_rule_trains_it_and_it_freezes(name: str) -> None:
    deep = name.startswith("nf_")
    for kind in RULES if not deep else ("sltt", "stop", "tt_lbp"):
        net, x = made(name, block=1 if kind in LOCAL else 0)
        net.train()
        rule(kind, k=1, n=1)(net, x, torch.tensor([3, 7]), F.cross_entropy)
        weights = [p for k, p in net.named_parameters() if k.endswith("weight")]
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in weights), kind
        assert any(bool(p.grad.any()) for p in weights), kind
    with torch.no_grad():
        for p in net.parameters():
            if p.grad is not None:
                p -= p.grad / p.grad.abs().max().clamp(min=1e-9)
    net.project()
    net.eval()
    frozen = net.freeze()
    payloads = x.numpy().astype(np.int64)
    scores = net(x).numpy()
    trace = engine.Engine(frozen).run(payloads)
    np.testing.assert_array_equal(engine.predict(frozen, payloads), scores)
    for ours, theirs in zip(net.spikes(x), trace.spikes, strict=True):
        np.testing.assert_array_equal(ours.reshape(theirs.shape), theirs)
    if not deep:
        np.testing.assert_array_equal(reference.predict(frozen, payloads), scores)


@pytest.mark.skipif("PUMICE_SOAK" not in os.environ, reason="minutes long: part of make soak")
@pytest.mark.timeout(0)
@pytest.mark.parametrize("name", MODELS)
def test_the_engine_at_full_width(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every spike of every layer, in the engine and in the reference."""
    monkeypatch.setitem(NARROW, name, (name, NARROW[name][1]))
    net, x = made(name, samples=1)
    frozen = net.eval().freeze()
    payloads = x.numpy().astype(np.int64)
    expected = reference.run(frozen, payloads, ("spikes", "v"))
    found = engine.Engine(frozen).run(payloads, ("spikes", "v"))
    for layer, ours, theirs in zip(frozen.names, found.spikes, expected.spikes, strict=True):
        np.testing.assert_array_equal(ours, theirs, err_msg=layer)
    np.testing.assert_array_equal(found.v[-1], expected.v[-1])
    assert expected.v[-1].any()
    assert all(spikes.any() for spikes in expected.spikes[:-2])


def test_what_the_papers_say_of_the_shapes() -> None:
    def widths(name: str, shape: tuple[int, ...]) -> list[int]:
        net = build(name, shape, 10, Encoding("rate", 1))
        return [layer.synapse.output_shape[0] for layer in net.chain]

    assert widths("lenet1", (1, 28, 28)) == [6, 6, 16, 16, 120, 128, 10]
    assert widths("lenet2", (2, 32, 32)) == [64, 64, 128, 128, 128, 256, 10]
    assert widths("alexnet", (3, 32, 32)) == [
        96, 256, 256, 384, 384, 512, 384, 256, 4096, 1024, 10,
    ]  # fmt: skip
    vgg = [64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 10]
    assert widths("vgg11", (3, 32, 32)) == vgg
    depth = {"sew_resnet18": 17, "preact_resnet18": 17, "nf_resnet34": 33, "nf_resnet50": 49,
             "nf_resnet101": 100}  # fmt: skip
    for name, convolutions in depth.items():
        net = build(f"{name}/16", (3, 32, 32), 10, Encoding("rate", 1))
        synapses = [s for layer in net.chain for s in layer.synapses]
        kernels = [s for s in synapses if s.weight.dim() == 4]
        shortcuts = 3 if "18" in name or "34" in name else 4
        assert len(kernels) == convolutions + shortcuts, name


def test_norms_by_name() -> None:
    for name, kind in (("vgg11", BatchNorm), ("vgg11_ws", WeightNorm), ("nf_resnet34", WeightNorm)):
        net, _ = made(name)
        norms = [s.norm for layer in net.chain[:-1] for s in layer.synapses if hasattr(s, "weight")]
        assert norms and all(isinstance(n, kind) for n in norms)
    net = build("vgg11/16", (3, 32, 32), 10, Encoding("rate", 1), norm="none")
    assert all(s.norm is None for layer in net.chain for s in layer.synapses)


@pytest.mark.parametrize("norm", ["ws", "bn"])
@pytest.mark.parametrize("model", ["8c3p1-2a-12", "12r-9"])
def test_norms_fold_into_the_frozen_integers(model: str, norm: str) -> None:
    shape = (2, 8, 8) if "c" in model else (30,)
    net = build(model, shape, 5, Encoding("rate", 6, (0, 1), 0.0, 1.0), norm=norm, dv=500)
    generator = torch.Generator().manual_seed(1)
    x = (torch.rand((6, 16, *shape), generator=generator) < 0.5).float()
    y = torch.randint(0, 5, (16,), generator=generator)
    net.calibrate(x, generator)
    net.train()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.3)
    for _ in range(3):
        optimizer.zero_grad()
        rule("sltt")(net, x, y, F.cross_entropy)
        optimizer.step()
        net.project()
    net.eval()
    frozen = net.freeze()
    payloads = x.numpy().astype(np.int64)
    np.testing.assert_array_equal(engine.predict(frozen, payloads), net(x).numpy())
    if norm == "bn":
        assert any(np.any(np.asarray(layer.neuron.bias)) for layer in frozen.layers)


def test_running_statistics_follow_each_step_once() -> None:
    """Whatever the rule: also where steps are done twice."""
    found = []
    for kind in ("bptt", "bptt_checkpoint", "sltt"):
        net, x = made("vgg11", samples=4)
        net.train()
        rule(kind)(net, x, torch.tensor([3, 7, 1, 0]), F.cross_entropy)
        found.append(net.chain[0].synapse.norm.running_var.clone())
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize(
    ("model", "shape", "message"),
    [
        ("vgg12", (3, 32, 32), r"model 'vgg12': use mlp, .*nf_resnet101, or layers such as"),
        ("vgg11/x", (3, 32, 32), r"widths are divided as in vgg11/4"),
        ("ga-10", (3, 8, 8), r"a global average \(ga\) can only come last"),
        ("10-ga", (8,), r"a mean over pixels needs images"),
        ("sew_resnet18", (64,), r"sew_resnet18 needs images"),
        ("0", (8,), r"layer '0': sizes start at 1"),
    ],
)
def test_a_model_that_cannot_be(model: str, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        build(model, shape, 10, Encoding("rate", 1))


def test_architectures_in_words() -> None:
    assert architecture("mlp/4", (784,)) == "128-128"
    assert architecture("vgg11/2", (3, 32, 32)).startswith("32c3p1-64c3p1-2a-")
    assert architecture("sew_resnet18/2", (3, 32, 32)) == "sew_resnet18/2"
    assert set(CHAINS) | set(GRAPHS) == set(MODELS)
