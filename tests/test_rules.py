"""Every rule against plain autograd, in float64, on every structure and form of neuron.

The reference (tests/rule_reference.py) is one graph over all steps in ordinary tensor operations.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rule_reference import (
    SHAPES,
    TOLERANCE,
    batch_for,
    by_rule,
    gradients,
    network_of,
    reference,
    same,
)
from torch import Tensor
from torch.nn import functional as F

from loihi.errors import PumiceError
from trainer.models import SpikingNetwork
from trainer.neurons import FormA, FormB
from trainer.norms import BatchNorm, ChannelMoments, Moments
from trainer.rules import (
    BPTT,
    DECOLLE,
    LOCAL,
    OTTT,
    RULES,
    SLTT,
    SLTTK,
    STOP,
    TTLBP,
    CheckpointedBPTT,
    rule,
)
from trainer.rules import sltt as sltt_module
from trainer.rules import stop as stop_module
from trainer.traces import LayerTraces

FORMS = ("A", "B", "chip", "soft", "hard")
STEPS = 5
FEWER = {"sew": 3, "preact": 3}
"""Steps of the structures that are twenty layers deep."""


def mse(o: Tensor, y: Tensor) -> Tensor:
    return ((F.one_hot(y, o.shape[1]).to(o.dtype) - o) ** 2).mean()


# --- identities 1, 2: BPTT, SLTT ------------------------------------------------------------------


CASES = [
    (structure, form)
    for structure in SHAPES
    for form in (("B", "chip") if structure in ("sew", "preact") else FORMS)  # twenty layers deep
]


@pytest.mark.parametrize(("structure", "form"), CASES)
def test_bptt_and_sltt_equal_one_graph(structure: str, form: str) -> None:
    net = network_of(structure, form)
    x, y = batch_for(net, FEWER.get(structure, STEPS))
    same(by_rule(net, BPTT(), x, y), reference(net, x, y, "full"))
    same(by_rule(net, BPTT(detach_reset=True), x, y), reference(net, x, y, "reset"))
    same(by_rule(net, SLTT(), x, y), reference(net, x, y, "spatial"))


@given(
    form=st.sampled_from(FORMS),
    structure=st.sampled_from(["dense", "conv", "means", "recurrent"]),
    seed=st.integers(0, 10_000),
    du=st.sampled_from([4096.0, 1500.0]),
    readout=st.sampled_from(["membrane", "spikes"]),
    static=st.booleans(),
    norm=st.sampled_from(["none", "ws"]),
)
@example("A", "recurrent", 3579, 1500.0, "spikes", False, "ws")  # du's gradient cancels to 0
@settings(max_examples=15, deadline=None)
def test_on_random_networks(
    form: str, structure: str, seed: int, du: float, readout: str, static: bool, norm: str
) -> None:
    net = network_of(structure, form, seed=seed, du=du, readout=readout, norm=norm)
    x, y = batch_for(net, STEPS, seed, static=static)
    for own, mode in ((BPTT(), "full"), (SLTT(), "spatial"), (STOP(per_synapse=True), "traces")):
        theirs = reference(net, x, y, mode)
        if any(bool(g.any()) for g in theirs.values()):
            same(by_rule(net, own, x, y), theirs)


# --- identity 3: tt_lbp(1, L) is SLTT -------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("structure", ["dense", "conv", "recurrent"])
def test_one_step_and_all_layers_is_sltt(structure: str, form: str) -> None:
    net = network_of(structure, form)
    x, y = batch_for(net, STEPS)
    same(by_rule(net, TTLBP(1, 0), x, y), by_rule(net, SLTT(), x, y))


# --- identity 4: SLTT-K ---------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 2, 4])
@pytest.mark.parametrize("loss_of", ["steps", "mean"])
def test_sltt_k_over_all_draws(loss_of: str, k: int) -> None:
    net = network_of("dense", "chip")
    x, y = batch_for(net, STEPS)
    whole = by_rule(net, SLTT(loss_of), x, y)
    draws = [set(c) for c in itertools.combinations(range(STEPS), k)]
    for unbiased in (False, True):
        scale = STEPS / k if unbiased else 1.0
        mean: dict[str, Tensor] = {}
        for drawn in draws:

            def one(
                network: SpikingNetwork,
                *rest: Any,
                drawn: set[int] = drawn,
                scale: float = scale,
            ) -> None:
                network.reset(x)
                sltt_module.spatial(network, *rest, loss_of, drawn, scale)

            for name, grad in by_rule(net, one, x, y).items():
                mean[name] = mean.get(name, 0.0) + grad / len(draws)
        share = 1.0 if unbiased else k / STEPS
        same(mean, {name: g * share for name, g in whole.items()})


def test_sltt_k_draws_from_the_generator_without_replacement() -> None:
    net = network_of("dense", "chip")
    x, y = batch_for(net, STEPS)
    for seed, unbiased in itertools.product(range(4), (False, True)):
        drawn = set(
            torch.randperm(STEPS, generator=torch.Generator().manual_seed(seed))[:2].tolist()
        )
        ours = copy.deepcopy(net)
        generator = torch.Generator().manual_seed(seed)
        SLTTK(2, unbiased)(ours, x, y, F.cross_entropy, generator=generator)
        theirs = copy.deepcopy(net)
        theirs.reset(x)
        scale = STEPS / 2 if unbiased else 1.0
        for t in range(STEPS):
            theirs.detach()
            part = F.cross_entropy(theirs.step(t), y) * (scale / STEPS)
            if t in drawn:
                part.backward()
        theirs.gather()
        same(gradients(ours), gradients(theirs))
    with pytest.raises(PumiceError, match=r"k is 6, of 5 steps: use 1\.\.5"):
        SLTTK(6)(net, x, y, F.cross_entropy)


# --- identities 5 to 9: STOP and OTTT -------------------------------------------------------------


@pytest.mark.parametrize("du", [4096.0, 1500.0])
@pytest.mark.parametrize(("structure", "form"), CASES)
def test_stop_equals_its_graph(structure: str, form: str, du: float) -> None:
    net = network_of(structure, form, du=du)
    x, y = batch_for(net, FEWER.get(structure, STEPS))
    same(by_rule(net, STOP(per_synapse=True), x, y), reference(net, x, y, "traces"))


@pytest.mark.parametrize("du", [4096.0, 1500.0])
@pytest.mark.parametrize("form", ["A", "chip"])
@pytest.mark.parametrize("structure", ["dense", "means"])
def test_stop_of_a_static_input(structure: str, form: str, du: float) -> None:
    net = network_of(structure, form, du=du)
    x, y = batch_for(net, STEPS, 2, static=True)
    assert x.stride(0) == 0 and net.chain[0].neurons.bias is not None
    whole = reference(net, x, y, "traces")
    same(by_rule(net, STOP(per_synapse=True), x, y), whole)
    ours = by_rule(net, STOP(), x, y)
    for exact in ("layers.0", "bias", "neurons"):  # one number a neuron holds all that resets do
        same(ours, whole, only=exact)
    weights = [k for k in whole if k.endswith("synapse.weight") and "layers.0" not in k]
    differ = any(not torch.allclose(ours[k], whole[k], rtol=1e-6) for k in weights)
    assert differ == (form == "chip")


@pytest.mark.parametrize("form", ["A", "B", "soft"])
def test_soft_resets_need_no_trace_per_synapse(form: str) -> None:
    net = network_of("conv", form)
    x, y = batch_for(net, STEPS)
    same(by_rule(net, STOP(), x, y), reference(net, x, y, "traces"))


@pytest.mark.parametrize("form", ["A", "B", "hard"])
@pytest.mark.parametrize(("structure", "shape"), [("dense", (9,)), ("conv", (4, 6, 6))])
def test_one_threshold_and_leak_a_neuron(structure: str, shape: tuple[int, ...], form: str) -> None:
    net = network_of(structure, form, per_neuron=True)
    x, y = batch_for(net, STEPS)
    for own, mode in ((BPTT(), "full"), (SLTT(), "spatial"), (STOP(), "traces")):
        ours = by_rule(net, own, x, y)
        same(ours, reference(net, x, y, mode))
        assert ours["layers.0.neurons.vth"].shape == shape
    same(by_rule(net, STOP(mean=True), x, y), ours)  # of one neuron


def test_means_are_sums_over_neurons() -> None:
    net = network_of("dense", "chip")
    x, y = batch_for(net, STEPS)
    sums, means = by_rule(net, STOP(), x, y), by_rule(net, STOP(mean=True), x, y)
    for layer, size in enumerate((9, 8)):
        for name in ("vth", "dv"):
            key = f"layers.{layer}.neurons.{name}"
            torch.testing.assert_close(means[key] * size, sums[key], rtol=1e-12, atol=0)
    torch.testing.assert_close(sums["layers.0.synapse.weight"], means["layers.0.synapse.weight"])


@pytest.mark.parametrize("form", FORMS)
def test_top_layer_of_stop_is_detached_reset_bptt(form: str) -> None:
    net = network_of("9-8", form, readout="spikes")
    x, y = batch_for(net, STEPS)
    ours = by_rule(net, STOP(per_synapse=True), x, y)
    same(ours, reference(net, x, y, "reset"), only="layers.2")
    full = reference(net, x, y, "full")
    name = "layers.2.synapse.weight"
    assert float((ours[name] - full[name]).abs().max()) > 1e-6 * float(full[name].abs().max())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("structure", ["9", "dense"])
def test_one_hidden_layer_is_detached_reset_bptt(structure: str, form: str) -> None:
    net = network_of(structure, form)
    x, y = batch_for(net, STEPS)
    ours, theirs = by_rule(net, STOP(per_synapse=True), x, y), reference(net, x, y, "reset")
    if structure == "9":
        same(ours, theirs)
    else:  # and no more than one: the second's error does not reach the first's past
        name = "layers.0.synapse.weight"
        assert float((ours[name] - theirs[name]).abs().max()) > 1e-6 * float(
            theirs[name].abs().max()
        )


@pytest.mark.parametrize("form", FORMS)
def test_without_memory_stop_is_sltt(form: str) -> None:
    net = network_of("dense", form, dv=4096.0)
    x, y = batch_for(net, STEPS)
    ours = by_rule(net, STOP(per_synapse=True), x, y)
    same(ours, by_rule(net, SLTT(), x, y), only="weight")
    if form == "A":
        same(ours, by_rule(net, BPTT(), x, y), only="weight")


@pytest.mark.parametrize(("structure", "form"), CASES)
def test_one_step_makes_all_rules_equal(structure: str, form: str) -> None:
    net = network_of(structure, form, steps=1)
    x, y = batch_for(net, 1)
    whole = by_rule(net, BPTT(), x, y)
    for other in (SLTT(), STOP(), STOP(per_synapse=True), SLTTK(1), CheckpointedBPTT()):
        same(by_rule(net, other, x, y), whole)


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("du", [4096.0, 1500.0])
@pytest.mark.parametrize("form", ["A", "B", "soft"])
def test_ottt_is_the_weights_part(form: str, du: float, static: bool) -> None:
    net = network_of("conv", form, du=du)
    x, y = batch_for(net, STEPS, static=static)
    ours, whole = by_rule(net, OTTT(), x, y), by_rule(net, STOP(), x, y)
    for part in ("weight", "bias"):
        same(ours, whole, only=part)
    assert not any(name.endswith(("vth", "dv")) for name in ours)


@pytest.mark.parametrize("rule", [OTTT(), STOP()])
def test_a_trace_a_presynaptic_neuron_by_hand(rule: Any) -> None:
    """w̃ = α w̃ + x; for STOP this step's x, and of earlier ones what the receiver's resets have left
    of a constant's trace; moved along its weights until they come to what the exact one does."""
    net = network_of("9", "chip")
    x, y = batch_for(net, STEPS)
    ours = by_rule(net, rule, x, y)["layers.0.synapse.weight"]
    net = copy.deepcopy(net)
    layer = net.chain[0]
    alpha = 1 - torch.round(layer.neurons.dv.detach()) / 4096
    trace, total = torch.zeros_like(x[0]), torch.zeros_like(layer.synapse.weight)
    weight = 2 * torch.round(layer.synapse.weight.detach() / 2)
    spikes = torch.from_numpy(net.spikes(x)[0])
    for t in range(STEPS):
        trace = alpha * trace + x[t]
        net.reset(x)
        for step in range(t + 1):
            net.step(step)
        delta = _error_at_membrane(net, x, y, t)
        each = trace[:, None, :].expand(-1, 9, -1)  # [N, receivers, senders]
        if isinstance(rule, STOP):  # of the powers of α, those since the last reset
            powers = torch.stack([alpha**k for k in range(t + 1)])
            held = torch.stack([1.0 - spikes[t - k : t].any(0).double() for k in range(t + 1)])
            ever = powers[1:].sum().clamp(min=1e-9)
            left = torch.einsum("k,kno->no", powers[1:], held[1:]) / ever
            exact = torch.einsum("k,kno,kni->noi", powers, held, x[: t + 1].flip(0))
            each = x[t][:, None] + left[..., None] * (each - x[t][:, None])
            along = weight / weight.norm(dim=1, keepdim=True)
            each = each + ((exact - each) * along).sum(2, keepdim=True) * along
        total += 64 * torch.einsum("no,noi->oi", delta, each)
    error = float((ours - total).abs().max() / total.abs().max())
    assert error <= TOLERANCE


@pytest.mark.parametrize("du", [4096.0, 1500.0])
@pytest.mark.parametrize("structure", ["dense", "conv", "recurrent"])
def test_traces_a_presynaptic_neuron_are_near_the_exact_ones(structure: str, du: float) -> None:
    """Those of hard-reset neurons, one a synapse; OTTT's, which know no reset, are not."""
    further, nearer = 0.0, 0.0
    for seed in range(4):
        net = network_of(structure, "chip", seed=seed, steps=8, du=du)
        x, y = batch_for(net, 8, seed)
        exact, ours, plain = (
            by_rule(net, rule, x, y) for rule in (STOP(per_synapse=True), STOP(), OTTT())
        )
        for key in exact:
            if key.endswith("weight"):
                nearer += float((ours[key] - exact[key]).square().sum())
                further += float((plain[key] - exact[key]).square().sum())
    assert nearer < 0.05 * further


@pytest.mark.parametrize("du", [4096.0, 1500.0])
@pytest.mark.parametrize("structure", ["dense", "conv", "recurrent"])
def test_gains_learn_by_exact_traces(structure: str, du: float) -> None:
    """A trace a presynaptic neuron comes to what those of all synapses do, along the weights. On
    the grid the weights that gains are a factor of are not quite those that messages went by."""
    for seed in range(3):
        for form, tolerance in (("hard", TOLERANCE), ("chip", 0.1)):
            net = network_of(structure, form, seed=seed, steps=8, du=du, norm="ws")
            x, y = batch_for(net, 8, seed)
            exact, ours = (by_rule(net, STOP(per_synapse=own), x, y) for own in (True, False))
            for key, gradient in exact.items():
                if key.endswith("gain"):
                    scale = gradient.abs().max()
                    assert scale > 0
                    assert (ours[key] - gradient).abs().max() <= tolerance * scale, key


def _error_at_membrane(net: SpikingNetwork, x: Tensor, y: Tensor, t: int) -> Tensor:
    """δ[t] = (Wᵀ ∂ℓ/∂o) ⊙ φ of the one hidden layer, written out."""
    layer, out = net.chain
    weight = 64 * 2 * torch.round(out.synapse.weight.detach() / 2)
    state = net._states[0]
    o = (state.s.detach() @ weight.T / net.temperature).requires_grad_()
    (error,) = torch.autograd.grad(F.cross_entropy(o, y) / STEPS, o)
    theta = 64 * torch.round(layer.neurons.vth.detach())
    slope = torch.clamp(1 - ((state.m.detach() - theta) / theta).abs(), min=0) / theta
    return (error @ weight / net.temperature) * slope


# --- identity 10: checkpointing -------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("structure", "form"), CASES)
def test_checkpointed_bptt_is_bptt_to_the_last_bit(
    structure: str, form: str, dtype: torch.dtype
) -> None:
    steps = FEWER.get(structure, STEPS)
    for du, static, detach in ((4096.0, False, False), (1500.0, True, True)):
        net = network_of(structure, form, du=du, steps=steps).to(dtype)
        x, y = batch_for(net, steps)
        x = (x[:1].expand_as(x) if static else x).to(dtype)
        whole = by_rule(net, BPTT(detach), x, y)
        for segment in (0, 1, 2) if structure == "dense" else (0,):
            ours = by_rule(net, CheckpointedBPTT(detach, segment), x, y)
            assert ours.keys() == whole.keys()
            for name in whole:
                assert torch.equal(ours[name], whole[name]), (segment, name)


# --- the loss of the mean output ------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("structure", ["dense", "conv", "recurrent"])
def test_the_loss_of_the_mean_output(structure: str, form: str) -> None:
    net = network_of(structure, form)
    x, y = batch_for(net, STEPS)
    whole = reference(net, x, y, "full", mean_over=STEPS)
    same(by_rule(net, BPTT(loss_of="mean"), x, y), whole)
    same(by_rule(net, TTLBP(0, 0), x, y), whole)
    cut = reference(net, x, y, "reset", mean_over=STEPS)
    same(by_rule(net, BPTT(True, "mean"), x, y), cut)
    same(by_rule(net, SLTT("mean"), x, y), reference(net, x, y, "spatial", so_far=True))
    ours = by_rule(net, STOP(per_synapse=True, loss_of="mean"), x, y)
    same(ours, reference(net, x, y, "traces", so_far=True))
    if form not in ("chip", "hard"):  # elsewhere a presynaptic neuron's trace is not exact
        same(by_rule(net, OTTT("mean"), x, y), ours, only="weight")


@pytest.mark.parametrize("readout", ["membrane", "spikes"])
@pytest.mark.parametrize("detach", [False, True])
def test_checkpointing_of_the_mean_output_to_the_last_bit(readout: str, detach: bool) -> None:
    net = network_of("conv", "chip", readout=readout)
    x, y = batch_for(net, STEPS)
    whole = by_rule(net, BPTT(detach, "mean"), x, y)
    for segment in (0, 1, 2, STEPS):
        ours = by_rule(net, CheckpointedBPTT(detach, segment, "mean"), x, y)
        assert ours.keys() == whole.keys()
        for name in whole:
            assert torch.equal(ours[name], whole[name]), (segment, name)


def test_one_step_is_its_own_mean() -> None:
    net = network_of("conv", "chip", steps=1)
    x, y = batch_for(net, 1)
    for one in (BPTT, SLTT, STOP, OTTT, SLTTK, CheckpointedBPTT):
        same(by_rule(net, one(loss_of="mean"), x, y), by_rule(net, one(), x, y))


@pytest.mark.parametrize("kind", [BPTT, CheckpointedBPTT, SLTT, SLTTK, OTTT, STOP])
def test_a_loss_of_something_else_is_refused(kind: type[Any]) -> None:
    net = network_of("dense", "chip")
    x, y = batch_for(net, STEPS)
    with pytest.raises(PumiceError, match="loss_of 'sum' is unknown: use steps or mean"):
        by_rule(net, kind(loss_of="sum"), x, y)


def test_local_rules_have_their_own_losses() -> None:
    message = "loss_of 'mean' is not for tt_lbp: its losses are of the mean outputs of k steps alr"
    with pytest.raises(PumiceError, match=message):
        rule("tt_lbp", loss_of="mean")
    message = "loss_of 'mean' is not for decolle: its losses are each layer's own in every step; "
    with pytest.raises(PumiceError, match=message):
        rule("decolle", loss_of="mean")
    assert rule("tt_lbp", loss_of="steps") == TTLBP(1, 1)


# --- identity 12: TT-LBP --------------------------------------------------------------------------


@pytest.mark.parametrize("k", [4, 2, 1])
@pytest.mark.parametrize("n", [4, 2, 1])
@pytest.mark.parametrize("form", ["B", "chip"])
def test_tt_lbp_equals_its_graph(k: int, n: int, form: str) -> None:
    steps = 4
    net = network_of("9-8-7-6", form, steps=steps, readout="spikes", block=n, bias=False)
    x, y = batch_for(net, steps)
    blocks = [0, 1, 2, 3, 3] if n == 1 else [0, 0, 1, 1, 1] if n == 2 else [0] * 5
    theirs = reference(net, x, y, "full", mse, cuts=range(0, steps, k), blocks=blocks, mean_over=k)
    same(by_rule(net, TTLBP(k, n), x, y, mse), theirs)
    assert len(net.local_layers) == 4 // n - 1


@pytest.mark.parametrize("k", [4, 2, 1])
@pytest.mark.parametrize("n", [2, 1])
def test_tt_lbp_by_hand(k: int, n: int) -> None:
    """The paper's Eqs 3 to 7, written out with loops, for its neuron (form B)."""
    steps, samples = 4, 3
    net = network_of("6-5", "B", steps=steps, readout="spikes", block=n, bias=False)
    x, y = batch_for(net, steps)
    net.temperature.fill_(1.0)
    ours = by_rule(net, TTLBP(k, n), x, y, mse)
    one_hot = F.one_hot(y, 4).double()
    # A chain: hidden layers, the output layer behind the last, local classifiers behind others.
    stacks: list[tuple[list[str], list[Any], int]] = []  # names, layers, first hidden layer
    hidden, out = net.chain[:2], net.chain[2]
    if n == 1:
        local = net.local_layers[0]
        stacks = [
            (["layers.0", "classifiers.0"], [hidden[0], local], 0),
            (["layers.1", "layers.2"], [hidden[1], out], 1),
        ]
    else:
        stacks = [(["layers.0", "layers.1", "layers.2"], [*hidden, out], 0)]
    # Forward, all at once: spikes s[layer][t] and membranes u[layer][t].
    spikes: dict[str, list[Tensor]] = {}
    membranes: dict[str, list[Tensor]] = {}
    for names, layers, first in stacks:
        for position, (name, layer) in enumerate(zip(names, layers, strict=True)):
            if position:
                source = spikes[names[position - 1]]
            else:
                source = list(x) if first == 0 else spikes[f"layers.{first - 1}"]
            alpha, theta = _leak_and_threshold(layer)
            weight = layer.synapse.weight.detach()
            u = torch.zeros(samples, len(weight), dtype=torch.float64)
            s = torch.zeros_like(u)
            spikes[name], membranes[name] = [], []
            for t in range(steps):
                u = alpha * u + source[t] @ weight.T - theta * s
                s = (u >= theta).double()
                membranes[name].append(u)
                spikes[name].append(s)
    for names, layers, first in stacks:
        total = {
            name: torch.zeros_like(la.synapse.weight)
            for name, la in zip(names, layers, strict=True)
        }
        for start in range(0, steps, k):
            gamma_next = dict.fromkeys(names)
            rate = sum(spikes[names[-1]][start : start + k]) / k
            for t in reversed(range(start, start + k)):
                gamma_above = None
                for position in reversed(range(len(names))):
                    name, layer = names[position], layers[position]
                    alpha, theta = _leak_and_threshold(layer)
                    if gamma_above is None:  # ∂L/∂s of Eq 3, times k/T for the interval's share
                        delta = -2 / 4 * (one_hot - rate) / k / samples * (k / steps)
                    else:
                        delta = gamma_above @ layers[position + 1].synapse.weight.detach()
                    after = gamma_next[name]
                    if after is not None:
                        delta = delta - theta * after  # Eq 4
                    distance = (membranes[name][t] - theta) / theta
                    slope = torch.clamp(1 - distance.abs(), min=0) / theta
                    gamma = delta * slope  # Eq 5
                    if after is not None:
                        gamma = gamma + alpha * after
                    if position:
                        source = spikes[names[position - 1]][t]
                    else:
                        source = x[t] if first == 0 else spikes[f"layers.{first - 1}"][t]
                    total[name] += gamma.T @ source  # Eq 7
                    gamma_next[name] = gamma_above = gamma
        theirs = {f"{name}.synapse.weight": g for name, g in total.items()}
        for key, grad in theirs.items():
            error = float((ours[key] - grad).abs().max() / grad.abs().max())
            assert error <= TOLERANCE, (key, error)


def _leak_and_threshold(layer: Any) -> tuple[float, float]:
    n = layer.neurons
    return 1 - float(n.dv.detach()) / 4096, float(n.vth.detach())


def test_tt_lbp_updates_after_every_interval() -> None:
    net = network_of("dense", "chip", steps=4, block=1)
    x, y = batch_for(net, 4)
    ours, calls = copy.deepcopy(net), []

    def update() -> None:
        calls.append({k: p.grad.clone() for k, p in ours.named_parameters() if p.grad is not None})
        with torch.no_grad():
            for p in ours.parameters():
                if p.grad is not None:
                    p -= 1e4 * p.grad
        ours.zero_grad()

    TTLBP(2, 1)(ours, x, y, F.cross_entropy, update=update)
    assert len(calls) == 2
    # The second interval, by a network that starts from the first's weights and states.
    theirs = copy.deepcopy(net)
    theirs.reset(x)
    theirs.divide(1)
    for t in (0, 1):
        theirs.step(t)
    with torch.no_grad():
        for name, p in theirs.named_parameters():
            if name in calls[0]:
                p -= 1e4 * calls[0][name]
    theirs.refresh()
    theirs.detach()
    outputs = []
    for t in (2, 3):
        outputs.append((theirs.step(t), *theirs.locals))
    sum(F.cross_entropy((a + b) / 2, y) for a, b in zip(*outputs, strict=True)).backward()
    theirs.gather()
    same(calls[1], gradients(theirs))
    with pytest.raises(PumiceError, match=r"k is 3, T is 4: use one of \[1, 2, 4\]"):
        TTLBP(3, 1)(net, x, y, F.cross_entropy)


@pytest.mark.parametrize("form", ["A", "B"])
def test_decolle_equals_its_graph(form: str) -> None:
    net = network_of("dense", form, block=1)
    x, y = batch_for(net, STEPS)
    theirs = reference(net, x, y, "traces", blocks=[0, 1, 1])
    ours = by_rule(net, DECOLLE(), x, y)
    same(ours, theirs, only="synapse.weight")
    assert not any(name.endswith(("vth", "dv")) for name in ours)


@pytest.mark.parametrize("own", [TTLBP(STEPS, 1), DECOLLE()], ids=str)
def test_no_error_leaves_a_block_by_what_is_carried(own: Any) -> None:
    """What a layer's classifier wants changes nothing below it, whatever the layer carries."""
    net = network_of("preact", "chip", block=1)
    x, y = batch_for(net, STEPS)
    (place, carrier), *_ = [(at, c) for at, c in enumerate(net.chain) if c.carry is not None]
    other = copy.deepcopy(net)
    other.local_layers[place].synapse.weight.data.neg_()
    ours, theirs = by_rule(net, own, x, y), by_rule(other, own, x, y)
    assert carrier.carry is not None and carrier.carry < place
    below = [k for k in ours if k.startswith("layers.") and int(k.split(".")[1]) < place]
    assert any(k.startswith(f"layers.{carrier.carry}.synapse") for k in below)
    for name in below:
        assert torch.equal(ours[name], theirs[name]), name
    name = f"layers.{place}.synapse.weight"
    assert not torch.equal(ours[name], theirs[name])


def test_random_classifiers_stay() -> None:
    from loihi import Encoding
    from trainer.zoo import build

    net = build("9-8", (7,), 4, Encoding("rate", 4), block=1, classifiers="random")
    net.calibrate(batch_for(net, 4)[0].float(), torch.Generator().manual_seed(0))
    x, y = batch_for(net.double(), 4)
    for own in (TTLBP(2, 1), DECOLLE()):
        grads = by_rule(net, own, x, y)
        assert "layers.0.synapse.weight" in grads and "layers.1.synapse.weight" in grads
        assert not any(name.startswith(("classifiers", "layers.2")) for name in grads)


# --- batch norm -----------------------------------------------------------------------------------


def test_batch_norm_is_torchs() -> None:
    """Folded into weights and biases or not: one step of a real-valued network."""
    net = normalised()
    x, y = batch_for(net, 1, samples=6)
    ours = by_rule(net, SLTT(), x, y)
    net = copy.deepcopy(net)
    net.zero_grad()
    out = x[0]
    for layer in net.chain[:2]:
        norm = layer.synapse.norm
        raw = layer.synapse.plain(out, layer.synapse.weight)
        a = F.batch_norm(raw, None, None, norm.gamma, norm.beta, training=True, eps=norm.eps)
        theta = layer.neurons.vth
        unit = theta.detach()
        slope = torch.clamp(1 - ((a - theta).detach() / unit).abs(), min=0) / unit
        linear = slope * (a - theta)
        out = (a > theta).double().detach() + linear - linear.detach()
    o = out.flatten(1) @ net.chain[2].synapse.weight.T / net.temperature
    F.cross_entropy(o, y).backward()
    theirs = {k: g for k, g in gradients(net).items() if not k.endswith("dv")}
    for key, grad in theirs.items():
        error = float((ours[key] - grad).abs().max() / grad.abs().max())
        assert error <= 1e-9, (key, error)


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_moments_of_channels(dtype: torch.dtype, order: torch.memory_format) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn((5, 3, 4, 6), generator=generator).to(dtype).to(memory_format=order)
    x[:, 1] += 30
    one, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    ours = ChannelMoments.apply(one)
    theirs = torch.var_mean(other, (0, 2, 3), unbiased=False)[::-1]
    for found, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(found, expected)
    errors = [torch.randn(3, generator=generator).to(dtype) for _ in range(2)]
    for moments in (ours, theirs):
        torch.autograd.backward(list(moments), errors)
    torch.testing.assert_close(one.grad, other.grad)


@pytest.mark.parametrize("own", [SLTT(), BPTT(), TTLBP(2, 0), CheckpointedBPTT()], ids=str)
def test_batch_norm_of_a_static_input(own: Any) -> None:
    """Computed once for all steps, to the gradients and running statistics of every step's own."""
    net = normalised()
    x, y = batch_for(net, 1, samples=6)
    static = x.expand(4, *x.shape[1:])
    assert static.stride(0) == 0
    one, other = copy.deepcopy(net), copy.deepcopy(net)
    ours, theirs = by_rule(one, own, static, y), by_rule(other, own, static.clone(), y)
    assert ours.keys() == theirs.keys()
    for name, grad in theirs.items():
        assert float((ours[name] - grad).abs().max()) <= 1e-9 * float(grad.abs().max() + 1e-12)
    for copied, payloads in ((one, static), (other, static.clone())):
        own(copied, payloads, y, F.cross_entropy)
    before, found = dict(net.named_buffers()), dict(one.named_buffers())
    for name, value in other.named_buffers():
        assert torch.equal(value, found[name]), name
        assert not name.endswith("running_mean") or not torch.equal(value, before[name])


@pytest.mark.parametrize("own", [BPTT(), CheckpointedBPTT(), CheckpointedBPTT(segment=2)], ids=str)
def test_a_batchs_steps_are_followed_once_each(own: Any) -> None:
    """By a forward pass alone, and by rules that do some steps twice."""
    net = normed("4c3p1-5c3-6", "chip", 700.0)
    x, y = batch_for(net, STEPS, samples=6)
    other = copy.deepcopy(net)
    own(net, x, y, F.cross_entropy)
    other(x)
    found = dict(net.named_buffers())
    for name, value in other.named_buffers():
        assert torch.equal(value, found[name]), name


def test_a_small_batch_moves_running_statistics_by_its_share() -> None:
    """The parts of a batch as far as the whole of it, however it is divided."""
    generator = torch.Generator().manual_seed(0)
    first, then = (
        Moments(torch.randn(4, generator=generator), torch.rand(4, generator=generator), 60)
        for _ in range(2)
    )
    whole, parts = BatchNorm(4), BatchNorm(4)
    for norm in (whole, parts):
        norm.follow(first)
    torch.testing.assert_close(whole.running_mean, 0.1 * first.mean)
    whole.follow(then)
    for samples in (1, 20, 39):
        parts.follow(then._replace(samples=samples))
    torch.testing.assert_close(parts.running_mean, whole.running_mean)
    torch.testing.assert_close(parts.running_var, whole.running_var)


def test_batch_norm_on_a_loop_begins_as_all_others_do() -> None:
    """From the synaptic input that there is: what comes out of it is as large as what goes in."""
    net = network_of("24r", "chip", norm="bn", steps=8).train()
    loop = net.chain[0].links[0].synapse
    start = loop.norm.gamma.detach().clone()
    x, _ = batch_for(net, 8, samples=40)
    net.reset(x)
    received = []
    for t in range(8):
        net.step(t)
        received.append(net._states[0].s @ loop.weight.detach().T)
    spread = float(torch.stack(received[2:]).detach().var((0, 1)).mean().sqrt())
    assert 0.5 * spread < float(start.mean()) < 2 * spread
    kept = (loop.weights(True) != 0).double().mean()  # with the running statistics of by now
    assert kept > 0.9


def test_calibration_goes_by_the_spikes_that_loops_make() -> None:
    """Behind a loop with batch norm: statistics of what is received in the very forward pass."""
    net = network_of("24r-9", "chip", norm="bn", steps=8, bias=False)
    x, _ = batch_for(net, 8, seed=1)
    net = net.float()
    net.calibrate(x.float(), torch.Generator().manual_seed(0))
    spikes = torch.from_numpy(net.eval().spikes(x.float())[0]).float()
    behind = net.chain[1].synapse
    received = spikes @ behind.weight.detach().T
    torch.testing.assert_close(behind.norm.running_mean, received.mean((0, 1)))
    torch.testing.assert_close(behind.norm.running_var, received.var((0, 1), unbiased=False))


@pytest.mark.parametrize("own", [STOP(), STOP(per_synapse=True)], ids=str)
def test_fixed_weights_under_batch_norm(own: Any) -> None:
    """Nothing but their gradient changes."""
    net = normed("4c3p1-5c3-6", "chip", 700.0)
    fixed = copy.deepcopy(net)
    fixed.chain[1].synapse.weight.requires_grad_(False)
    x, y = batch_for(net, STEPS, samples=6)
    whole, ours = by_rule(net, own, x, y), by_rule(fixed, own, x, y)
    assert whole.keys() - ours.keys() == {"layers.1.synapse.weight"}
    for name, grad in ours.items():
        assert torch.equal(grad, whole[name]), name
    results = [own(one, x, y, F.cross_entropy) for one in (net, fixed)]
    assert torch.equal(results[0].scores, results[1].scores)
    found = dict(fixed.named_buffers())
    assert all(torch.equal(value, found[name]) for name, value in net.named_buffers())


def normalised() -> SpikingNetwork:
    from loihi import Encoding
    from trainer.zoo import build

    net = build(
        "4c3p1-5", (2, 5, 5), 4, Encoding("events", 1, (0, 1)), neuron="hard", norm="bn", dv=900.0
    )
    x, _ = batch_for(net, 1, samples=8)
    net.calibrate(x.float(), torch.Generator().manual_seed(1))
    return net.double().train()


def normed(model: str, form: str, *decays: float, **options: Any) -> SpikingNetwork:
    """In training, with batch norm; decays: of the membranes, layer by layer, the last repeated."""
    from loihi import Encoding
    from trainer.zoo import build

    shape = (1, 8, 8) if "resnet" in model else (2, 5, 5)
    net = build(
        model, shape, 4, Encoding("events", STEPS, (0, 1)),
        neuron=form, norm="bn", bias=True, dv=900.0, **options,
    )  # fmt: skip
    x, _ = batch_for(net, STEPS, 3, samples=8)
    net.calibrate(x.float(), torch.Generator().manual_seed(0))
    for number, layer in enumerate(net.chain):
        if layer.neurons is not None and layer.neurons.dv.requires_grad:
            layer.neurons.dv.data.fill_(decays[min(number, len(decays) - 1)])
            layer.neurons.vth.data.mul_(0.5)
    return net.double().train()


@pytest.mark.parametrize(
    ("model", "form"),
    [
        *(("4c3p1-5c3-6", form) for form in FORMS),
        *((f"{name}_resnet18/32", form) for name in ("preact", "sew") for form in ("B", "chip")),
    ],
)
def test_without_memory_traces_under_batch_norm_are_sltt(model: str, form: str) -> None:
    net = normed(model, form, 4096.0)
    x, y = batch_for(net, STEPS, samples=6)
    # Form B's reset is no part of what leaks: a threshold's trace is a step's before.
    parts = ["weight", "gamma", "beta", "bias"] if form == "B" else [""]
    whole = by_rule(net, SLTT(), x, y)
    for own in (STOP(), STOP(per_synapse=True)):
        ours = by_rule(net, own, x, y)
        for part in parts:
            same(ours, whole, only=part)
    same(by_rule(net, OTTT(), x, y), whole, only="synapse")
    assert whole["layers.1.synapse.norm.gamma"].any()


@pytest.mark.parametrize("form", FORMS)
def test_an_error_goes_through_a_batchs_statistics_in_its_step_alone(form: str) -> None:
    """The first layer forgets, so that its gradient is SLTT's: what comes down to it must be."""
    net = normed("4c3p1-5c3-6", form, 4096.0, 700.0)
    x, y = batch_for(net, STEPS, samples=6)
    whole = by_rule(net, SLTT(), x, y)
    for own in (STOP(), STOP(per_synapse=True), OTTT()):
        same(by_rule(net, own, x, y), whole, only="layers.0.synapse")


@pytest.mark.parametrize("du", [4096.0, 1500.0])
@pytest.mark.parametrize("form", FORMS)
def test_traces_under_batch_norm_where_all_steps_have_one_statistic(form: str, du: float) -> None:
    """Identity 7, of one image at all steps and of a batch whose samples change places."""
    net = normed("4c3p1", form, 700.0, du=du)
    x, y = batch_for(net, 1, samples=6)
    draw = torch.Generator().manual_seed(0)
    moved = torch.stack([x[0][torch.randperm(6, generator=draw)] for _ in range(STEPS)])
    static = x.expand(STEPS, *x.shape[1:])
    exact = STOP(per_synapse=True)
    for payloads, rules in ((moved, [exact]), (static, [exact, STOP()])):
        whole = by_rule(net, BPTT(detach_reset=True), payloads, y)
        assert all(whole[f"layers.0.synapse.norm.{name}"].any() for name in ("gamma", "beta"))
        for own in rules:
            same(by_rule(net, own, payloads, y), whole)


@pytest.mark.parametrize("static", [True, False])
@pytest.mark.parametrize("model", ["4c3p1-5c3-6", "preact_resnet18/32"])
def test_traces_leave_what_batch_norms_compute(model: str, static: bool) -> None:
    """Loss, scores and running statistics are SLTT's."""
    net = normed(model, "chip", 700.0)
    x, y = batch_for(net, STEPS, samples=6, static=static)
    one, other = copy.deepcopy(net), copy.deepcopy(net)
    ours, theirs = STOP()(one, x, y, F.cross_entropy), SLTT()(other, x, y, F.cross_entropy)
    assert torch.equal(ours.loss, theirs.loss) and torch.equal(ours.scores, theirs.scores)
    before, found = dict(net.named_buffers()), dict(one.named_buffers())
    for name, value in other.named_buffers():
        assert torch.equal(value, found[name]), name
        assert not name.endswith("running_mean") or not torch.equal(value, before[name])


# --- mutations: each of these mistakes must be seen -----------------------------------------------


def _wrong_theta_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Form A's θ̃ as form B's: α θ̃ − s for α (θ̃ − s)."""
    original = LayerTraces.advance

    def advance(self: LayerTraces, before: Any, alpha: Tensor, beta: Tensor | None) -> None:
        past = self.theta
        original(self, before, alpha, beta)
        self.theta = -before.s if past is None else alpha * past - before.s

    monkeypatch.setattr(LayerTraces, "advance", advance)


def _no_minus_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Δθ = Σ δ θ̃ for Σ δ (θ̃ − 1)."""
    original = LayerTraces.advance

    def advance(self: LayerTraces, before: Any, alpha: Tensor, beta: Tensor | None) -> None:
        if self.theta is not None:
            self.theta = self.theta - 1
        original(self, before, alpha, beta)
        self.theta = self.theta + 1

    monkeypatch.setattr(LayerTraces, "advance", advance)


def _no_reset_in_leak(monkeypatch: pytest.MonkeyPatch) -> None:
    """Form A's α̃ without − θ s."""
    original = LayerTraces.advance

    def advance(self: LayerTraces, before: Any, alpha: Tensor, beta: Tensor | None) -> None:
        past = self.alpha.value
        original(self, before, alpha, beta)
        self.alpha.value = before.m if past is None else alpha * past + before.m

    monkeypatch.setattr(LayerTraces, "advance", advance)


def _leak_of_the_layer_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Traces that decay with the sending layer's leak."""
    original = SpikingNetwork._advance_traces

    def advance(self: SpikingNetwork, index: int, layer: Any, traces: LayerTraces) -> None:
        original(self, index, layer, traces)
        if index:
            traces.keep = self._ready[index - 1].alpha.value

    monkeypatch.setattr(SpikingNetwork, "_advance_traces", advance)


def _mistake_in_stop(mutate: Callable[[pytest.MonkeyPatch], None]) -> Callable[..., None]:
    def check(monkeypatch: pytest.MonkeyPatch) -> None:
        mutate(monkeypatch)
        net = network_of("dense", "A")
        x, y = batch_for(net, STEPS)
        same(by_rule(net, STOP(), x, y), reference(net, x, y, "traces"))

    return check


def _no_detach_at_a_block_edge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SpikingNetwork, "_apart", lambda self, source, receiver: False)
    test_tt_lbp_equals_its_graph(4, 1, "B")


def _no_detach_between_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SpikingNetwork, "detach", lambda self: None)
    monkeypatch.setattr(Tensor, "backward", lambda self, *a, **k: _retained(self, *a))
    test_bptt_and_sltt_equal_one_graph("dense", "chip")


def _retained(loss: Tensor, grad: Tensor | None = None) -> None:
    torch.autograd.backward(loss, grad, retain_graph=True)


def _forgotten_factor(monkeypatch: pytest.MonkeyPatch) -> None:
    """T/K left out: the unbiased gradient is the paper's."""
    original = sltt_module.spatial

    def spatial(network: Any, x: Any, y: Any, loss: Any, of: str, steps: Any, *_: Any) -> Tensor:
        return original(network, x, y, loss, of, steps)

    monkeypatch.setattr(sltt_module, "spatial", spatial)
    test_sltt_k_over_all_draws("steps", 2)


def _a_reset_that_detaches_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SpikingNetwork, "detach_reset", SpikingNetwork.detach)
    test_bptt_and_sltt_equal_one_graph("dense", "chip")


def _soft_reset_traces_of_the_other_form(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = FormA.name, FormB.name
    monkeypatch.setattr(FormA, "name", b)
    monkeypatch.setattr(FormB, "name", a)
    net = network_of("dense", "A")
    x, y = batch_for(net, STEPS)
    ours = by_rule(net, STOP(), x, y)
    monkeypatch.undo()
    same(ours, reference(net, x, y, "traces"))


MUTATIONS = {
    "wrong θ̃ order": _mistake_in_stop(_wrong_theta_order),
    "no −1 in Δθ": _mistake_in_stop(_no_minus_one),
    "α̃ without −θ s": _mistake_in_stop(_no_reset_in_leak),
    "the pre-layer's leak": _mistake_in_stop(_leak_of_the_layer_before),
    "no detach at a block's edge": _no_detach_at_a_block_edge,
    "no detach between steps": _no_detach_between_steps,
    "T/K forgotten": _forgotten_factor,
    "a detached membrane for a detached reset": _a_reset_that_detaches_too_much,
    "form B's traces with form A": _soft_reset_traces_of_the_other_form,
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_mistake_is_seen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AssertionError, match=r"relative error|gradient"):
        MUTATIONS[name](monkeypatch)


# --- what a rule reports --------------------------------------------------------------------------


def whole_intervals(outputs: list[Tensor], k: int) -> list[Tensor]:
    return [torch.stack(outputs[i : i + k]).mean(0) for i in range(0, len(outputs), k)]


@pytest.mark.parametrize(
    ("name", "loss_of"),
    [
        *((name, "steps") for name in RULES),
        *((name, "mean") for name in RULES if name not in LOCAL),
    ],
)
def test_loss_and_scores_are_the_output_layers(name: str, loss_of: str) -> None:
    """The mean loss of the outputs that the rule judges, and the scores after the last step."""
    steps = 6
    net = network_of("dense", "chip")
    x, y = batch_for(net, steps)
    with torch.no_grad():
        net.reset(x)
        outputs = [net.step(t) for t in range(steps)]
        scores = net.read()
    judged = outputs
    if loss_of == "mean":
        judged = whole_intervals(outputs, steps)
    elif name == "tt_lbp":
        judged = whole_intervals(outputs, 3)
    elif name == "sltt_k":
        drawn = torch.randperm(steps, generator=torch.Generator().manual_seed(5))[:2]
        judged = [outputs[t] for t in sorted(drawn.tolist())]
    wanted = torch.stack([F.cross_entropy(o, y) for o in judged]).mean()
    own = rule(name, k={"tt_lbp": 3}.get(name, 2), n=0, loss_of=loss_of)
    found = own(net, x, y, F.cross_entropy, generator=torch.Generator().manual_seed(5))
    assert float(found.loss) == pytest.approx(float(wanted), rel=1e-6)
    torch.testing.assert_close(found.scores, scores, rtol=0.0, atol=0.0)
    assert not found.loss.requires_grad and not found.scores.requires_grad


# --- the registry ---------------------------------------------------------------------------------


def test_rules_by_name() -> None:
    assert rule("sltt_k", k=3, n=9, unbiased=True) == SLTTK(3, True)
    assert rule("tt_lbp", k=2, n=1) == TTLBP(2, 1)
    assert rule("bptt", detach_reset=True) == BPTT(True)
    assert isinstance(rule("stop", per_synapse=True), stop_module.STOP)
    with pytest.raises(PumiceError, match="rule 'bppt' is unknown: use one of bptt, "):
        rule("bppt")
    assert (rule("sltt_k"), rule("tt_lbp"), rule("bptt")) == (SLTTK(1), TTLBP(1, 1), BPTT(False))
    assert set(RULES) == {
        "bptt", "bptt_checkpoint", "sltt", "sltt_k", "ottt", "stop", "tt_lbp", "decolle",
    }  # fmt: skip
