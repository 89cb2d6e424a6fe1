"""Networks of SLAYER blocks: our rules on them against plain autograd, and their way to the chip.

The references here are written from the equations with ordinary tensor operations; SLAYER's own
whole run and lava-dl's own export are what the chunks and the frozen network are held against.
"""

from __future__ import annotations

import copy
import itertools
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from conftest import ROOT
from torch import Tensor, nn
from torch.nn import functional as F

from bench.memory import peak_saved_bytes
from lava_export import netx, verify
from loihi import INTEGRATOR, Dense, Encoding, Layer, Network, reference
from trainer import data
from trainer.rules import BPTT, SLTT, SLTTK, TTLBP, rule
from trainer.slayer import Slayer, SlayerError, agreement, freeze, load, strict

pytestmark = [pytest.mark.lava, pytest.mark.filterwarnings("ignore:.*weight_norm")]
STEPS, SAMPLES, CLASSES = 12, 3, 5


@pytest.fixture(scope="module")
def slayer() -> Iterator[Any]:
    """lava.lib.dl.slayer, whole, even where another test has left it out of this process."""
    hook = next((f for f in sys.meta_path if type(f).__name__ == "_LavaFinder"), None)
    left_out = getattr(hook, "netx_only", False)
    aside = _taken_out() if left_out else {}
    if hook is not None:
        hook.netx_only = False  # type: ignore[attr-defined]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # these tensors are too small to share
    yield load()
    torch.set_num_threads(threads)
    if left_out:
        _taken_out()
        sys.modules.update(aside)
        if "lava.lib.dl" in aside:
            sys.modules["lava.lib"].dl = aside["lava.lib.dl"]  # type: ignore[attr-defined]
        hook.netx_only = True  # type: ignore[union-attr]


def _taken_out() -> dict[str, Any]:
    return {n: sys.modules.pop(n) for n in list(sys.modules) if n.startswith("lava.lib.dl")}


def neuron(**other: Any) -> dict[str, Any]:
    return {
        "threshold": 1.0,
        "current_decay": 0.37,
        "voltage_decay": 0.06,
        "tau_grad": 0.01,
        "scale_grad": 10.0,
        "persistent_state": True,
        **other,
    }


def dense(slayer: Any, last: str = "voltage", seed: int = 0) -> nn.Sequential:
    """20-16-12-5; last: voltage or current of an Affine block, or spikes."""
    torch.manual_seed(seed)
    block = slayer.block.cuba
    end = (
        block.Dense(neuron(threshold=0.7), 12, CLASSES, weight_scale=4, delay_shift=False)
        if last == "spikes"
        else block.Affine(neuron(), 12, CLASSES, weight_scale=2, dynamics=last == "voltage")
    )
    return nn.Sequential(
        block.Dense(neuron(), 20, 16, weight_scale=4, delay_shift=False),
        block.Dense(neuron(current_decay=1.0), 16, 12, weight_scale=4, delay_shift=False),
        end,
    )


def image(slayer: Any, seed: int = 0) -> nn.Sequential:
    """2x8x6: convolution, pooling, dense, and currents read out."""
    torch.manual_seed(seed)
    block = slayer.block.cuba
    return nn.Sequential(
        block.Conv(neuron(), 2, 4, 3, stride=(1, 2), padding=1, weight_scale=2, delay_shift=False),
        block.Pool(neuron(threshold=1.5, voltage_decay=0), (2, 1), delay_shift=False),
        block.Flatten(),
        block.Dense(neuron(), 4 * 4 * 3, 12, weight_scale=4, delay_shift=False),
        block.Affine(neuron(), 12, CLASSES, dynamics=False),
    )


SHAPES = {dense: (20,), image: (2, 8, 6)}
Build = Callable[..., nn.Sequential]
BUILDS = pytest.mark.parametrize("build", [dense, image])


def batch(build: Build, seed: int = 1, samples: int = SAMPLES) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = (torch.rand((STEPS, samples, *SHAPES[build]), generator=generator) < 0.4).float()
    return x, torch.randint(0, CLASSES, (samples,), generator=generator)


def gradients(module: nn.Module) -> dict[str, Tensor]:
    return {n: p.grad for n, p in module.named_parameters() if p.grad is not None}


# --- what SLAYER computes, in plain tensors -----------------------------------------------------


def straight(value: Tensor, x: Tensor) -> Tensor:
    return value.detach() + (x - x.detach())


def plain(
    module: nn.Sequential, x: Tensor, y: Tensor, k: int, mean: bool = False
) -> dict[str, Tensor]:
    """Gradients of the equations at the top of trainer/slayer.py, one graph, state cut every k.

    The loss is that of each step's output, or of their mean over each k steps.
    """
    module = copy.deepcopy(module)
    states: dict[nn.Module, tuple[Tensor, Tensor, Tensor]] = {}
    outputs = []
    for t in range(len(x)):
        message = x[t]
        for block in module:
            kind = type(block).__name__
            if kind == "Flatten":
                message = message.flatten(1)
                continue
            w, n = block.synapse.weight, block.neuron
            w = straight(torch.round(w * 32) / 32, w).clamp(-4, 254 / 64)
            if kind in ("Dense", "Affine"):
                z = message @ w.flatten(1).T
            else:
                groups = message.shape[1] if kind == "Pool" else 1
                size = block.synapse
                z = F.conv2d(
                    message,
                    w[..., 0].repeat(groups, 1, 1, 1),
                    None,
                    size.stride[:2],
                    size.padding[:2],
                    groups=groups,
                )
            if kind == "Affine" and not block.dynamics:
                message = z
                continue
            rest = torch.zeros_like(z)
            u, v, s = states.get(block, (rest, rest, rest))
            if t % k == 0:
                u, v = u.detach(), v.detach()
            keep_u, keep_v = (
                1 - torch.round(d.detach()) / 4096 for d in (n.current_decay, n.voltage_decay)
            )
            u = straight(torch.trunc(u * keep_u * 4096) / 4096, u * keep_u) + z
            v = straight(torch.trunc(v * (1 - s) * keep_v * 4096) / 4096, v * keep_v) + u
            if kind == "Affine":
                message, s = v, rest
            else:
                theta = n.threshold + 0.01 / 4096
                g, tau = 10.0, 0.01 * n.threshold
                slope = 0.1 * g / (200 * tau) * torch.exp(-abs(v.detach() - theta) / (100 * tau))
                message = straight((v >= theta).to(v.dtype), slope * v)
                s = message.detach()
            states[block] = u, v, s
        outputs.append(message)
    parts = torch.stack(outputs).split(k if mean else 1)
    torch.stack([F.cross_entropy(part.mean(0), y) for part in parts]).mean().backward()
    return gradients(module)


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        error = (found[name] - gradient).abs().max() / gradient.abs().max()
        assert error <= 1e-12, f"{name}: relative error {float(error)}"


def differ(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return any((a[n] - b[n]).abs().max() > 1e-3 * b[n].abs().max() for n in b)


@BUILDS
def test_rules_are_autograd(slayer: Any, build: Build) -> None:
    """sltt, temporal truncation and bptt on SLAYER blocks, in float64, to 1e-12."""
    module = build(slayer).double()
    x, y = batch(build)
    x = x.double()

    def by(rule: Any, k: int | None = None) -> dict[str, Tensor]:
        module.zero_grad()
        rule(Slayer(module, k), x, y, F.cross_entropy)
        return copy.deepcopy(gradients(module))

    expected = {k: plain(module, x, y, k) for k in (1, STEPS)}
    assert all(g.abs().max() > 0 for of in expected.values() for g in of.values())
    assert differ(expected[1], expected[STEPS])
    assert_close(by(SLTT()), expected[1])
    assert_close(by(SLTTK(STEPS)), expected[1])
    assert_close(by(TTLBP(1, 0), 1), expected[1])
    for detach_reset in (False, True):  # there is no path through the reset to leave out
        assert_close(by(BPTT(detach_reset)), expected[STEPS])
    of_means = {k: plain(module, x, y, k, mean=True) for k in (4, STEPS)}
    assert differ(of_means[4], of_means[STEPS]) and differ(of_means[STEPS], expected[STEPS])
    for k, gradient in of_means.items():
        assert_close(by(TTLBP(k, 0), k), gradient)
    assert_close(by(BPTT(loss_of="mean")), of_means[STEPS])
    network = Slayer(module, 4)
    network.reset(x)
    with torch.no_grad():
        outputs = []
        for t in range(STEPS):
            if t % 4 == 0:
                network.detach()
            outputs.append(network.step(t))
            torch.testing.assert_close(network.mean(t + 1), torch.stack(outputs).mean(0))


@BUILDS
def test_bptt_is_slayers_own_to_the_last_bit(slayer: Any, build: Build) -> None:
    module, own = build(slayer), build(slayer)
    for block in own:
        if hasattr(block, "neuron"):
            block.neuron.persistent_state = False  # as SLAYER is used
    x, y = batch(build)
    outputs = own(x.movedim(0, -1))
    torch.stack([F.cross_entropy(outputs[..., t], y) for t in range(STEPS)]).mean().backward()
    expected = gradients(own)
    assert all(g.any() for g in expected.values())
    BPTT()(Slayer(module), x, y, F.cross_entropy)
    assert gradients(module).keys() == expected.keys()
    for name, gradient in expected.items():
        assert torch.equal(gradients(module)[name], gradient), name


def test_updates_between_intervals(slayer: Any) -> None:
    """Temporal truncation that updates weights: SLAYER called by hand, to the last bit."""
    module, own = dense(slayer), dense(slayer)
    x, y = batch(dense)
    ours, theirs = (torch.optim.SGD(m.parameters(), lr=0.1) for m in (module, own))

    def update() -> None:
        ours.step()
        ours.zero_grad()

    TTLBP(4, 0)(Slayer(module, 4), x, y, F.cross_entropy, update=update)
    for part in x.movedim(0, -1).split(4, dim=-1):
        theirs.zero_grad()
        z = own(part)
        F.cross_entropy((z[..., 0] + z[..., 1] + z[..., 2] + z[..., 3]) / 4, y).backward()
        theirs.step()
    for p, before, after in zip(
        own.parameters(), dense(slayer).parameters(), module.parameters(), strict=True
    ):
        assert torch.equal(p, after)
        assert torch.equal(p, before) == (not p.requires_grad)


@pytest.mark.parametrize("samples", [1, 4])
@BUILDS
def test_chunks_are_the_whole_bit_for_bit(slayer: Any, build: Build, samples: int) -> None:
    module = build(slayer)
    x, _ = batch(build, samples=samples)
    with torch.no_grad():
        whole = copy.deepcopy(module)(x.movedim(0, -1)).flatten(1, -2).movedim(-1, 0)
        assert len(whole.unique()) > 8
        for k in (1, 5, STEPS, 2 * STEPS):
            network = Slayer(module, k)
            network.reset(1 - x)  # leaves state behind
            network.chunk(0, 3)
            network.reset(x)
            for t in range(STEPS):
                if t % k == 0:
                    network.detach()
                assert torch.equal(network.step(t), whole[t]), (k, t)
        network.reset(x)
        parts = []
        for start, stop in itertools.pairwise((0, 3, 4, STEPS)):
            network.detach()
            parts.append(network.chunk(start, stop))
        assert torch.equal(torch.cat(parts), whole)


@pytest.mark.parametrize("last", ["voltage", "current", "spikes"])
def test_scores_are_of_the_steps_so_far(slayer: Any, last: str) -> None:
    module = dense(slayer, last)
    x, _ = batch(dense)
    with torch.no_grad():
        whole = copy.deepcopy(module)(x.movedim(0, -1))
    assert whole.any()
    network = Slayer(module, 5)
    network.reset(x)
    for t in range(STEPS):
        if t % 5 == 0:
            network.detach()
        network.step(t)
        expected = whole[..., t] if last == "voltage" else whole[..., : t + 1].sum(-1)
        assert not network.read().requires_grad
        torch.testing.assert_close(network.read(), expected)
    assert network.readout == ("spikes" if last == "spikes" else "membrane")
    assert not any(block._forward_hooks for block in module)  # it was watched for this
    torch.testing.assert_close(network(x), expected)


def test_memory_of_sltt_does_not_know_time(slayer: Any) -> None:
    def held(work: Callable[[Slayer, Tensor, Tensor], object], steps: int) -> int:
        module = dense(slayer)
        x, y = batch(dense)
        x = x.repeat(6, 1, 1)[:steps]
        return peak_saved_bytes(lambda: work(Slayer(module), x, y))

    def by(rule: Any) -> Callable[[Slayer, Tensor, Tensor], object]:
        return lambda network, x, y: rule(network, x, y, F.cross_entropy)

    def by_five(network: Slayer, x: Tensor, y: Tensor) -> None:
        network.k = 5
        TTLBP(5, 0)(network, x, y, F.cross_entropy)

    assert held(by(SLTT()), 5) == held(by(SLTT()), 60) > 0
    assert held(by_five, 10) == held(by_five, 60) > held(by(SLTT()), 60)
    bptt = {steps: held(by(BPTT()), steps) for steps in (20, 40, 60)}
    assert bptt[60] - bptt[40] == bptt[40] - bptt[20] > 4 * held(by(SLTT()), 60)


def test_rules_that_do_not_fit_the_chunks_are_told(slayer: Any) -> None:
    module = dense(slayer)
    x, y = batch(dense)
    with pytest.raises(SlayerError, match="from step 4 to step 5, and the rule does not"):
        BPTT()(Slayer(module, 5), x, y, F.cross_entropy)
    with pytest.raises(SlayerError, match=r"cuts after step 0, in a chunk of steps 0 to 4"):
        SLTT()(Slayer(module, 5), x, y, F.cross_entropy)
    with pytest.raises(SlayerError, match=r"from step 0 to step 1, and the rule does not cut"):
        TTLBP(4, 0)(Slayer(module), x, y, F.cross_entropy)
    network = Slayer(module)
    network.reset(x)
    with pytest.raises(SlayerError, match="step 1 cannot follow 0 steps"):
        network.step(1)
    with pytest.raises(SlayerError, match="steps 3 to 4 cannot follow 0 steps of 12"):
        network.chunk(3, 5)
    with pytest.raises(SlayerError, match="steps 0 to 12 cannot follow 0 steps of 12"):
        network.chunk(0, 13)
    network = Slayer(module, 5)
    network.reset(x)
    network.step(0)
    with pytest.raises(SlayerError, match="steps 5 to 5 cannot follow 1 steps of 12"):
        network.chunk(5, 6)
    with pytest.raises(SlayerError, match="k is 0"):
        Slayer(module, 0)


def test_modules_that_chunks_would_change_are_refused(slayer: Any) -> None:
    block = slayer.block.cuba
    norm = slayer.neuron.norm.MeanOnlyBatchNorm
    refused = [
        (block.Dense(neuron(), 4, 3), "block 0 .Dense.: delay_shift"),
        (block.Dense(neuron(), 4, 3, delay=True, delay_shift=False), "delay: it loses the spikes"),
        (block.Dense(neuron(norm=norm), 4, 3, delay_shift=False), "norm: the state between"),
        (
            block.Dense(neuron(persistent_state=False), 4, 3, delay_shift=False),
            "persistent_state=True",
        ),
        (block.Recurrent(neuron(), 4, 3, delay_shift=False), "forgets its last spikes"),
        (block.KWTA(neuron(), 4, 3, 1, delay_shift=False), "forgets its last spikes"),
        (block.TimeDecimation(2), "it bins time"),
        (slayer.block.rf.Flatten(), "only CUBA blocks"),
        (nn.Linear(4, 3), r"no block of lava.lib.dl.slayer.block.cuba in Linear"),
    ]
    for module, text in refused:
        with pytest.raises(SlayerError, match=text):
            Slayer(module)
        with pytest.raises(SlayerError, match=text):
            freeze(module, (4,), Encoding("events", 2))
    fits = Slayer(dense(slayer))
    with pytest.raises(SlayerError, match=r"given \[N, ..., T\] = \[3, 9, 12\], fails: .*channels"):
        fits(torch.zeros(12, 3, 9))
    with pytest.raises(SlayerError, match=r"expected input \[T, N, ...\], found \[20\]"):
        fits(torch.zeros(20))
    summed = Slayer(nn.Sequential(dense(slayer), Summed()))
    with pytest.raises(SlayerError, match=r"returns \[3, 5\], not \[N, classes, T\]"):
        summed(torch.zeros(12, 3, 20))


class Summed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sum(-1)


def test_why_they_are_refused(slayer: Any) -> None:
    """The facts of lava-dl 0.6.0 behind the refusals, in case another version mends them."""
    block = slayer.block.cuba
    x = (torch.rand(4, 20, 12, generator=torch.Generator().manual_seed(0)) < 0.5).float()

    def chunked(module: nn.Module) -> Tensor:
        with torch.no_grad():
            whole = copy.deepcopy(module)(x)
            return (torch.cat([module(part) for part in x.split(4, dim=-1)], -1) != whole).sum()

    same = block.Dense(neuron(), 20, 16, weight_scale=4, delay_shift=False)
    assert chunked(same) == 0
    shifted = block.Dense(neuron(), 20, 16, weight_scale=4)
    with pytest.raises(RuntimeError, match="view"):
        shifted(x).sum().backward()
    normed = block.Dense(
        neuron(norm=slayer.neuron.norm.MeanOnlyBatchNorm), 20, 16, weight_scale=4, delay_shift=False
    )
    normed(x)
    normed.eval()
    normed.neuron.current_state = normed.neuron.voltage_state = torch.zeros(1)
    assert chunked(normed) > 0
    delayed = block.Dense(neuron(), 20, 16, weight_scale=4, delay=True, delay_shift=False)
    delayed(x)
    delayed.delay.delay.data.fill_(2.0)
    delayed.neuron.current_state = delayed.neuron.voltage_state = torch.zeros(1)
    assert chunked(delayed) > 0
    assert chunked(block.Recurrent(neuron(), 20, 16, weight_scale=4, delay_shift=False)) > 0


def test_slayers_gradient_of_decays(slayer: Any) -> None:
    """−4096 times the derivative, and none for a single step: docs/slayer.md says so."""
    n = slayer.neuron.cuba.Neuron(1000.0, 0.25, 0.25, requires_grad=True)
    z = torch.rand(2, 3, 6, generator=torch.Generator().manual_seed(0))
    n.dynamics(z)[1].sum().backward()

    def value(dv: float) -> float:
        u = v = torch.zeros(2, 3, dtype=torch.float64)
        total = 0.0
        for t in range(6):
            u = 0.75 * u + z[..., t].double()
            v = (1 - dv / 4096) * v + u
            total += float(v.sum())
        return total

    slope = (value(1025) - value(1023)) / 2
    assert slope < 0
    assert float(n.voltage_decay.grad) == pytest.approx(-4096 * slope, rel=1e-3)
    n.zero_grad()
    n.dynamics(z[..., :1])[1].sum().backward()
    assert float(n.voltage_decay.grad) == 0


# --- the chip -----------------------------------------------------------------------------------


def spikes(module: nn.Sequential, x: np.ndarray) -> list[np.ndarray]:
    """Every block's output in register units or spikes, ``[T, N, ...]``, all steps in one call."""
    message, found = torch.from_numpy(x.astype(np.float32)).movedim(0, -1), []
    with torch.no_grad():
        for block in copy.deepcopy(module):
            message = block(message)
            found.append(message.movedim(-1, 0).numpy())
    return found


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("last", ["voltage", "current", "spikes", "image"])
def test_frozen_equals_slayer_spike_for_spike(slayer: Any, last: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    build = image if last == "image" else dense
    module = image(slayer, seed) if last == "image" else dense(slayer, last, seed)
    for block in module:
        if hasattr(block, "neuron"):
            decays = block.neuron.current_decay, block.neuron.voltage_decay
            for decay in decays:  # between two of the chip's
                decay.data.fill_(float(rng.uniform(0, 4096 if seed else 400)))
    payload = (-3, 9) if seed % 2 else (0, 1)
    x = rng.integers(payload[0], payload[1] + 1, (30, 4, *SHAPES[build])).astype(np.int16)
    network = freeze(module, SHAPES[build], Encoding("events", 30, payload))
    trace = reference.run(network, x, ("spikes", "v"))
    theirs = [y for y, b in zip(spikes(module, x), module, strict=True) if hasattr(b, "neuron")]
    for index, (layer, y) in enumerate(zip(network.layers, theirs, strict=True)):
        if layer.neuron.vth is not None:
            assert 0.01 < y.mean() < 0.99
            np.testing.assert_array_equal(trace.spikes[index], y)
        else:
            y = (np.cumsum(y, 0, np.float64) if layer.neuron == INTEGRATOR else y) * 4096.0
            np.testing.assert_array_equal(trace.v[index], y)
    assert network.readout == ("spikes" if last == "spikes" else "membrane")
    scores = Slayer(module)(torch.from_numpy(x).float()) * (1 if last == "spikes" else 4096)
    np.testing.assert_array_equal(scores, reference.scores(network, trace))
    result = agreement(module, network, x)
    assert [layer.layer for layer in result] == list(network.names)
    assert [layer.state for layer in result][-1] == ("spikes" if last == "spikes" else "v")
    assert [layer.mismatches for layer in result] == [0] * len(network.layers)
    assert all(
        layer.compared == y.size and layer.first is None
        for layer, y in zip(result, theirs, strict=True)
    )


def test_agreement_sees_and_places_a_difference(slayer: Any) -> None:
    module = dense(slayer)
    x = batch(dense)[0].numpy().astype(np.uint8)
    network = freeze(module, (20,), Encoding("events", STEPS))
    layer = network.layers[1]
    weight = layer.synapse.weight.copy()
    weight[7] = 0
    x[0, 0] = 0  # so that another sample differs earlier than the first
    wrong = network.with_layer(1, Layer(Dense(weight), layer.neuron))
    found = agreement(module, wrong, x)
    theirs = spikes(module, x)[1]
    assert found[0].mismatches == 0 < found[2].mismatches
    assert found[1].mismatches == theirs[..., 7].sum() > 0
    at = np.argwhere(theirs[..., 7]).tolist()
    sample, step = min((n, t) for t, n in at)
    assert [step, sample] != min(at)
    assert found[1].first == (sample, step, 7)
    with pytest.raises(SlayerError, match="the module has 3 layers, the network 1"):
        agreement(module, Network((20,), network.layers[:1], network.encoding, "spikes"), x)
    wide = dense(slayer)
    wide[0] = slayer.block.cuba.Dense(neuron(), 20, 9, delay_shift=False)
    wide[1] = slayer.block.cuba.Dense(neuron(), 9, 12, delay_shift=False)
    with pytest.raises(SlayerError, match="does not have the 9 neurons of block 0"):
        agreement(wide, network, x)
    assert module.training


def test_dropout_is_for_training(slayer: Any) -> None:
    """Freezing and comparing are of the network without it, and leave the modes as they were."""
    dropped = neuron(dropout=slayer.neuron.Dropout(0.5))
    module = dense(slayer)
    torch.manual_seed(0)
    module[0] = slayer.block.cuba.Dense(dropped, 20, 16, weight_scale=4, delay_shift=False)
    module[2].eval()
    x = batch(dense)[0]
    network = freeze(module, (20,), Encoding("events", STEPS))
    found = agreement(module, network, x.numpy().astype(np.uint8))
    assert [layer.mismatches for layer in found] == [0, 0, 0]
    assert [block.training for block in module] == [True, True, False]
    assert not torch.equal(Slayer(module)(x), Slayer(module)(x))


@pytest.mark.parametrize("theta", [63.96875, 64.0, 100.0, 2000.0])
def test_a_membrane_at_its_threshold(slayer: Any, theta: float) -> None:
    """The chip does not spike there; nor does SLAYER below 64, nor above with a strict neuron."""

    def build() -> nn.Sequential:
        block = slayer.block.cuba.Dense(
            neuron(threshold=theta, current_decay=1.0, voltage_decay=0.0), 2, 1, delay_shift=False
        )
        block.synapse.weight.data.fill_(1 / 32)
        return nn.Sequential(block)

    peak = int(theta * 32)
    x = np.zeros((3, 1, 2), dtype=np.int64)
    x[0, 0, 0] = min(peak, 255)
    encoding = Encoding("events", 3, (0, 255))
    module = build()
    if peak > 255:  # several inputs: as many as it takes to reach the threshold exactly
        inputs = -(-peak // 255)
        module[0].synapse = slayer.synapse.Dense(inputs, 1)
        module[0].synapse.pre_hook_fx = module[0].neuron.quantize_8bit
        module[0].synapse.weight.data.fill_(1 / 32)
        x = np.zeros((3, 1, inputs), dtype=np.int64)
        x[0, 0] = [min(255, peak - 255 * i) for i in range(inputs)]
    shape = x.shape[2:]
    at_threshold = spikes(module, x)[0]
    assert at_threshold.any() == (theta >= 64)
    if theta >= 64:
        with pytest.raises(SlayerError, match=r"block 0 .Dense.: with threshold .* call trainer"):
            freeze(module, shape, encoding)
        assert strict(module) is module
    network = freeze(module, shape, encoding)
    assert agreement(module, network, x)[0].mismatches == 0
    assert not spikes(module, x)[0].any()
    x[1, 0, 0] = 1  # one more, and it spikes on both
    assert spikes(module, x)[0].tolist() == [[[0]], [[1]], [[0]]]
    assert agreement(module, network, x)[0].mismatches == 0


def test_what_the_chip_cannot_hold_is_refused(slayer: Any) -> None:
    block = slayer.block.cuba
    events = Encoding("events", 4)

    def says(module: nn.Module, text: str, shape: tuple[int, ...] = (20,)) -> None:
        with pytest.raises(SlayerError, match=text):
            freeze(module, shape, events)

    says(block.Dense(neuron(graded_spike=True), 20, 3, delay_shift=False), "graded_spike")
    says(block.Dense(neuron(scale=48), 20, 3, delay_shift=False), "scale is 48")
    says(block.Dense(neuron(shared_param=False), 20, 3, delay_shift=False), "one number a channel")
    says(
        block.Dense(neuron(), 20, 3, delay_shift=False, pre_hook_fx=None),
        r"weight\[0, 0\] is .*whole",
    )
    says(block.Input(neuron(), delay_shift=False), "an input block with neurons")
    says(block.ConvT(neuron(), 2, 3, 3, delay_shift=False), "no such layer", (2, 8, 6))
    pool = block.Pool(neuron(), 2, delay_shift=False)
    conv = block.Conv(neuron(), 2, 3, 2, delay_shift=False)
    says(nn.Sequential(pool, conv), r"block 0 .Pool.: 8x5 pixels do not divide into 2x2", (2, 8, 5))
    affine = block.Affine(neuron(), 20, 20)
    says(nn.Sequential(affine, block.Dense(neuron(), 20, 3, delay_shift=False)), "only come last")
    again = block.Dense(neuron(), 20, 20, delay_shift=False)
    says(nn.Sequential(again, again), "block 0 is used 2 times")
    says(nn.Sequential(again, nn.ReLU(), copy.deepcopy(again)), "block 2 .Dense.: its input is not")
    says(nn.Sequential(again, nn.ReLU()), "changes its last block's output")
    says(again, r"the module, given \[1, 2, 8, 6, 1\], fails", (2, 8, 6))
    says(block.Input(delay_shift=False), "no block with neurons")
    too_big = dense(slayer)
    too_big[0].neuron._threshold = 3000.0
    says(strict(too_big), "block 0 .Dense.: vth is 192000, outside 0..131071")


def test_masks_and_weight_norm(slayer: Any) -> None:
    """What the forward pass makes of a weight is what is frozen."""
    torch.manual_seed(0)
    block = slayer.block.cuba
    mask = torch.rand(16, 20) < 0.5
    module = nn.Sequential(
        block.Dense(neuron(), 20, 16, weight_scale=4, mask=mask, delay_shift=False),
        block.Dense(neuron(), 16, 4, weight_scale=4, weight_norm=True, delay_shift=False),
    )
    x, y = batch(dense)
    SLTT()(Slayer(module), x, y % 4, F.cross_entropy)
    for p in module.parameters():
        if p.grad is not None:
            assert p.grad.any()
            p.data -= 0.1 * p.grad.sign()
    network = freeze(module, (20,), Encoding("events", STEPS))
    assert not network.layers[0].synapse.weight[~mask.numpy()].any()
    found = agreement(module, network, x.numpy().astype(np.uint8))
    assert [layer.mismatches for layer in found] == [0, 0]


def slayer_export(module: nn.Sequential, path: Path) -> None:
    """As lava-dl's tutorials write it."""
    with h5py.File(path, "w") as file:
        layer = file.create_group("layer")
        for index, block in enumerate(module):
            block.export_hdf5(layer.create_group(str(index)))


def test_slayers_own_file_is_the_frozen_network(slayer: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    block = slayer.block.cuba
    conv = nn.Sequential(
        block.Input(delay_shift=False),
        block.Conv(neuron(), 2, 4, 3, stride=(1, 2), padding=1, delay_shift=False),
        block.Conv(neuron(), 4, 6, (3, 2), dilation=2, groups=2, delay_shift=False),
        block.Flatten(),
        block.Dense(neuron(), 6 * 4 * 1, 12, delay_shift=False),
        block.Affine(neuron(), 12, CLASSES, dynamics=False),
    )
    for index, (module, shape) in enumerate(((dense(slayer, "spikes"), (20,)), (conv, (2, 8, 6)))):
        frozen = freeze(module, shape, Encoding("events", netx.TIME_STEPS))
        slayer_export(module, tmp_path / f"{index}.net")
        assert netx.read(tmp_path / f"{index}.net") == frozen
        netx.write(frozen, tmp_path / "ours.net")
        assert netx.read(tmp_path / "ours.net") == frozen
    # An affine block's threshold is beyond all membranes.
    voltage = dense(slayer, "voltage")
    frozen = freeze(voltage, (20,), Encoding("events", netx.TIME_STEPS))
    slayer_export(voltage, tmp_path / "voltage.net")
    assert netx.read(tmp_path / "voltage.net") == frozen
    # What SLAYER writes of pooling, netx does not run; here it is a grouped convolution.
    pooled = nn.Sequential(block.Input(delay_shift=False), *image(slayer))
    frozen = freeze(pooled, (2, 8, 6), Encoding("events", netx.TIME_STEPS))
    slayer_export(pooled, tmp_path / "pooled.net")
    assert netx.read(tmp_path / "pooled.net") == frozen
    assert not netx.loads(tmp_path / "pooled.net")
    netx.write(frozen, tmp_path / "ours.net")
    assert netx.loads(tmp_path / "ours.net")


@pytest.mark.parametrize("name", ["stop", "ottt", "decolle", "bptt_checkpoint"])
def test_rules_that_slayer_cannot_follow_say_so(slayer: Any, name: str) -> None:
    module = Slayer(dense(slayer, "spikes"))
    x, y = torch.zeros(4, 2, 20), torch.zeros(2, dtype=torch.int64)
    with pytest.raises(SlayerError, match=r"SLAYER's blocks .*: train them by sltt, sltt_k"):
        rule(name)(module, x, y, nn.functional.cross_entropy)


@pytest.mark.exactness
@pytest.mark.parametrize("last", ["voltage", "spikes", "image"])
def test_proof_in_lava(slayer: Any, last: str, tmp_path: Path) -> None:
    build = image if last == "image" else dense
    module = image(slayer) if last == "image" else dense(slayer, last)
    x = batch(build)[0].numpy().astype(np.uint8)
    netx.write(freeze(module, SHAPES[build], Encoding("events", STEPS)), tmp_path / "model.net")
    result = verify.verify(tmp_path / "model.net", x, states=True)
    assert (result.mismatches, result.first_divergence) == (0, None)
    found = agreement(module, netx.read(tmp_path / "model.net"), x)
    assert [layer.mismatches for layer in found] == [0] * len(found)
    scores = Slayer(module)(torch.from_numpy(x).float()) * (1 if last == "spikes" else 4096)
    np.testing.assert_array_equal(scores, result.scores)
    assert result.scores.any()


@pytest.mark.parametrize("k", [1, 4])
def test_digits(slayer: Any, k: int) -> None:
    """64-48-10 with sltt, and truncated every 4 steps."""
    torch.manual_seed(0)
    digits = data.load("digits")
    block = slayer.block.cuba
    module = nn.Sequential(
        block.Dense(neuron(threshold=6.0, scale_grad=1.0), 64, 48, delay_shift=False),
        block.Affine(neuron(), 48, 10, dynamics=False),
    )
    encoding = Encoding("graded", 8, (0, 16), digits.low, digits.high)
    network, rule = Slayer(module, k), SLTT() if k == 1 else TTLBP(k, 0)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    before = freeze(module, (64,), encoding)

    def payloads(x: np.ndarray) -> Tensor:
        return torch.from_numpy(np.array(encoding.encode(x.reshape(len(x), -1)))).float()

    for _ in range(2):
        order = torch.randperm(len(digits.x_train)).numpy()
        for these in np.array_split(order, 28):
            optimizer.zero_grad()
            x, y = payloads(digits.x_train[these]), torch.from_numpy(digits.y_train[these])
            rule(network, x, y, F.cross_entropy)
            optimizer.step()
    scores = network(payloads(digits.x_test)).numpy()
    accuracy = (scores.argmax(1) == digits.y_test).mean()
    assert accuracy > 0.88
    frozen = freeze(module, (64,), encoding)
    assert frozen.layers[0] != before.layers[0]  # the hidden layer learns, too
    x = encoding.encode(digits.x_test.reshape(-1, 64))
    np.testing.assert_array_equal(reference.predict(frozen, x), scores * 4096)


@pytest.mark.exactness
def test_the_documented_example(
    slayer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (ROOT / "docs" / "slayer.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "docs/slayer.md", "exec"), {"__name__": "example"})
    lines = capsys.readouterr().out.splitlines()
    (accuracy,) = (float(line.split()[1]) for line in lines if line.startswith("accuracy"))
    assert accuracy > 0.9
    assert sum("0 mismatches" in line for line in lines) == 4
    assert (tmp_path / "model.net").exists()


def test_without_slayer_there_is_one_line(run_python: Callable[..., str]) -> None:
    out = run_python(
        "from loihi import lava_compat; lava_compat.install(netx_only=True)\n"
        "from trainer.slayer import SlayerError, load\n"
        "import sys; assert not any(name.startswith('lava.') for name in sys.modules)\n"
        "try: load()\n"
        "except SlayerError as error: print(error)\n"
    )
    assert "left out of this process" in out and "in another process" in out
