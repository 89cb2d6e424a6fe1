"""Counted operations against counting one by one, the model against sums by hand, and NeuroBench's
metrics against its package on the same network in torch."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_networks import graphs, networks, payloads
from test_partition import chips, neurons_of
from unrolled import matrix, wires

from cli.main import main
from lava_export import netx
from loihi import (
    INTEGRATOR,
    ComplexDense,
    Conv,
    Delta,
    Dense,
    Edge,
    Encoding,
    Inject,
    Layer,
    Network,
    Neuron,
    Resonator,
    Sigma,
    SigmaDelta,
    metrics,
    reference,
)
from loihi import partition as partitions
from loihi.boards import Cost, chip
from loihi.errors import PumiceError
from loihi.metrics import Footprint, count
from loihi.partition import partition

COST = Cost(
    synaptic_op_pj=7.0,
    synaptic_op_ns=3.0,
    active_update_pj=5.0,
    active_update_ns=11.0,
    idle_update_pj=2.0,
    idle_update_ns=4.0,
    spike_pj=1.5,
    tiles=5,
    barrier_first_ns=100.0,
    barrier_last_ns=500.0,
)


# --- brute force --------------------------------------------------------------------------------


class ByHand:
    """Every spike followed through every synapse, in plain loops over steps and samples."""

    def __init__(self, network: Network, x: np.ndarray) -> None:
        trace = reference.run(network, x, ("spikes",)).spikes
        self.network, self.shape = network, x.shape[:2]
        self.sent = {-1: x, **dict(enumerate(trace))}
        self.flat = {
            source: np.asarray(m).reshape(*self.shape, -1).astype(np.int64)
            for source, m in self.sent.items()
        }

    def came(self, source: int, late: bool) -> np.ndarray:
        if not late:
            return self.flat[source]
        shifted = np.zeros_like(self.flat[source])
        shifted[1:] = self.flat[source][:-1]
        return shifted

    def events(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Synaptic operations of each neuron, when sent; and where any arrived, ``[T, n, out]``."""
        out = math.prod(self.network.shapes[index])
        ops = np.zeros((*self.shape, out), dtype=np.int64)
        active = np.zeros((*self.shape, out), dtype=bool)
        if isinstance(self.network.layers[index].synapse, Inject):
            active |= self.flat[-1] != 0
        for synapse, source, late in wires(self.network, index):
            there = matrix(synapse, self.network.shape_of(source))
            delay = getattr(synapse, "delay", None)
            delay = np.zeros_like(there) if delay is None else delay
            spikes = self.came(source, late) != 0
            for t, n in np.ndindex(self.shape):
                ops[t, n] += there @ spikes[t, n]
                for steps in np.unique(delay):
                    if t + steps < self.shape[0]:
                        active[t + steps, n] |= (there * (delay == steps)) @ spikes[t, n] > 0
        return ops, active

    def effective(self, index: int) -> tuple[int, int, int]:
        """(ACs, MACs, dense) of what a torch module for each synapse would be given."""
        network, found = self.network, [0, 0, 0]
        for synapse, sources in network.synapses(index):
            if isinstance(synapse, Inject):
                continue
            shape = network.shape_of(sources[0])
            x = sum(self.came(s, s >= index) for s in sources)
            there, all_there = matrix(synapse, shape, zeros=False), matrix(synapse, shape)
            for t, n in np.ndindex(self.shape):
                macs = not set(np.unique(x[t, n])) <= {-1, 0, 1}
                found[macs] += int((there @ (x[t, n] != 0)).sum())
                found[2] += int(all_there.sum())
        return found[0], found[1], found[2]


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_counts_are_those_of_following_every_spike(data) -> None:
    network = data.draw(st.one_of(networks(), graphs()))
    x = data.draw(payloads(network))
    found, by_hand = count(network, x), ByHand(network, x)
    assert found.samples == x.shape[1] and found.time_steps == x.shape[0]
    assert found.input_spikes == np.count_nonzero(x)
    for index, layer in enumerate(found.layers):
        ops, active = by_hand.events(index)
        size = math.prod(network.shapes[index])
        assert layer.name == network.names[index]
        assert (layer.neurons, layer.updates) == (size, size * x.shape[0] * x.shape[1])
        assert layer.spikes == np.count_nonzero(by_hand.sent[index])
        assert layer.synaptic_ops == ops.sum()
        assert layer.active == active.sum()
        assert (layer.effective_acs, layer.effective_macs, layer.dense) == by_hand.effective(index)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_energy_and_time_are_those_of_adding_up(data) -> None:
    network = data.draw(st.one_of(networks(), graphs()))
    x = data.draw(payloads(network))
    on = replace(data.draw(chips()), cost=COST, cores=1000)
    part = partition(network, on, data.draw(st.booleans()))
    found, by_hand = count(network, x, part), ByHand(network, x)
    model, samples = found.model, x.shape[1]
    through = x.shape[0] + max(network.arrivals)
    took = np.zeros((through, samples, part.cores))
    synaptic = active_pj = idle_pj = spikes_pj = 0.0
    events = [by_hand.events(index) for index in range(len(network.layers))]
    links = {
        index: [
            (source, matrix(synapse, network.shape_of(source)))
            for synapse, source, _ in wires(network, index)
        ]
        for index in range(len(network.layers))
    }
    for piece in part.pieces:
        ops, active = events[piece.layer]
        mine = neurons_of(piece, network.shapes[piece.layer])
        arrival, steps = network.arrivals[piece.layer], x.shape[0]
        busy = np.zeros((through, samples))
        busy[arrival : arrival + steps] = active[:, :, mine].sum(axis=2)
        took[:, :, piece.core] += 11 * busy + 4 * (len(mine) - busy)
        took[arrival : arrival + steps, :, piece.core] += 3 * ops[:, :, mine].sum(axis=2)
        synaptic += 7 * ops[:, :, mine].sum()
        active_pj += 5 * busy.sum()
        idle_pj += 2 * (len(mine) * steps * samples - busy.sum())
        for source, there in links[piece.layer]:
            spikes_pj += 1.5 * ((by_hand.flat[source] != 0) * there[mine].any(axis=0)).sum()
    assert model is not None and model.steps == through
    assert model.synaptic_pj == pytest.approx(synaptic / samples)
    assert model.active_pj == pytest.approx(active_pj / samples)
    assert model.idle_pj == pytest.approx(idle_pj / samples)
    assert model.spikes_pj == pytest.approx(spikes_pj / samples)
    assert model.busy_ns == pytest.approx(took.max(axis=2).sum() / samples)
    tiles = math.ceil(part.cores / 200)  # 1000 cores in five tiles
    assert model.barrier_ns == pytest.approx(through * (100 + 100 * (tiles - 1)))
    assert model.energy_pj == pytest.approx((synaptic + active_pj + idle_pj + spikes_pj) / samples)
    assert model.latency_ns == pytest.approx(model.busy_ns + model.barrier_ns)


def test_batches_add_up_to_the_whole(monkeypatch) -> None:
    rng = np.random.default_rng(0)
    weight = rng.integers(-20, 20, (6, 8))
    network = Network((8,), (Layer(Dense(weight), Neuron()),), Encoding("events", 5))
    x = rng.integers(0, 2, (5, 23, 8)).astype(np.uint8)
    part = partition(network, chip("loihi1"))
    whole = count(network, x, part)
    monkeypatch.setattr(metrics, "VALUES_MAX", 5 * 15 * 4)
    found = count(network, x, part)
    assert replace(found, model=None) == replace(whole, model=None)
    assert found.model is not None and whole.model is not None
    assert found.model.energy_pj == pytest.approx(whole.model.energy_pj)
    assert found.model.latency_ns == pytest.approx(whole.model.latency_ns)


class ByReference:
    """In the engine's place: what it answers is not at issue here."""

    def __init__(self, network: Network) -> None:
        self.network = network

    def run(self, x: np.ndarray, record: tuple[str, ...]) -> reference.Trace:
        return reference.run(self.network, x, record)


def test_neurons_that_send_numbers(monkeypatch) -> None:
    monkeypatch.setattr(metrics, "Engine", ByReference)
    layers = (
        Layer(Inject(), Delta(vth=0)),
        Layer(Dense(np.array([[3, 0], [5, -2]])), SigmaDelta(vth=0, bias=np.array([1, 2]))),
        Layer(Dense(np.array([[1, 1]])), Sigma()),
    )
    network = Network((2,), layers, Encoding("events", 4, (0, 9)))
    x = np.array([[[3, 0]], [[3, 0]], [[3, 1]], [[3, 1]]], dtype=np.uint8)
    found, by_hand = count(network, x), ByHand(network, x)
    for index, layer in enumerate(found.layers):
        assert layer.spikes == np.count_nonzero(by_hand.sent[index])
        assert layer.activations == layer.updates
        assert (layer.effective_acs, layer.effective_macs, layer.dense) == by_hand.effective(index)
    assert found.layers[1].effective_macs == 3  # a delta of 3 << 6 and one of 1 << 6
    assert found.effective_acs == sum(layer.effective_acs for layer in found.layers)


def test_complex_synapses_are_two(monkeypatch) -> None:
    monkeypatch.setattr(metrics, "Engine", ByReference)
    rng = np.random.default_rng(0)
    synapse = ComplexDense(rng.integers(-3, 4, (5, 4)), rng.integers(-1, 2, (5, 4)))
    network = Network((4,), (Layer(synapse, Resonator(1, 100, 4000)),), Encoding("events", 3))
    x = rng.integers(0, 2, (3, 2, 4)).astype(np.uint8)
    on = replace(chip("loihi2"), cost=COST)
    found, by_hand = count(network, x, partition(network, on)), ByHand(network, x)
    [layer], (ops, active) = found.layers, by_hand.events(0)
    assert layer.synaptic_ops == ops.sum() == 2 * 5 * x.sum()
    assert (layer.effective_acs, layer.effective_macs, layer.dense) == by_hand.effective(0)
    assert layer.active == active.sum()
    # One core: every operation of each of the four steps is its own.
    assert found.model is not None and found.model.busy_ns == pytest.approx(
        (3 * ops.sum() + 11 * active.sum() + 4 * (4 * 2 * 5 - active.sum())) / 2
    )


def test_graded_is_what_is_beyond_one_in_either_way() -> None:
    network = Network(
        (3,), (Layer(Dense(np.array([[1, 2, 0]])), Neuron()),), Encoding("events", 3, (-9, 9))
    )
    x = np.array([[[-1, 1, 0]], [[-2, 1, 0]], [[0, 3, 1]]], dtype=np.int16)
    [layer] = count(network, x).layers
    assert (layer.effective_acs, layer.effective_macs, layer.dense) == (2, 2 + 1, 9)


# --- by hand ------------------------------------------------------------------------------------


def test_loihi_1_by_hand() -> None:
    """Two inputs, three neurons of which one spikes: the figures of Davies et al. 2018, table 2."""
    weight = np.array([[100, 0], [-1, -1], [0, 0]])
    network = Network((2,), (Layer(Dense(weight), Neuron(vth=64)),), Encoding("events", 2))
    x = np.array([[[1, 0]], [[0, 0]]], dtype=np.uint8)
    model = count(network, x, partition(network, chip("loihi1"))).model
    assert model is not None
    assert model.synaptic_pj == pytest.approx(3 * 23.6)  # to all three, weights of 0 too
    assert model.active_pj == pytest.approx(3 * 81)
    assert model.idle_pj == pytest.approx(3 * 52)
    assert model.spikes_pj == pytest.approx(1.7)  # the input's; the neuron's goes nowhere
    # Three steps: one until the input is there. All on one core, in one tile.
    assert model.steps == 3
    assert model.busy_ns == pytest.approx(3 * 5.3 + 3 * 8.4 + 3 * 3.5 + 3 * 5.3)
    assert model.barrier_ns == pytest.approx(3 * 113)


def test_no_model_without_public_figures_or_beyond_a_chip() -> None:
    network = Network((2,), (Layer(Dense(np.ones((3, 2))), Neuron()),), Encoding("events", 2))
    x = np.ones((2, 4, 2), dtype=np.uint8)
    assert count(network, x).model is None
    assert count(network, x, partition(network, chip("loihi2"))).model is None
    many = count(network, x, partition(network, chip("loihi1", neurons=1, cores=32))).model
    assert many is not None and many.latency_ns is not None
    many = count(network, x, partition(network, replace(chip("loihi1", neurons=1), cores=2))).model
    assert many is not None and many.energy_pj > 0
    assert (many.busy_ns, many.barrier_ns, many.latency_ns) == (None, None, None)


def test_nothing_to_count() -> None:
    network = Network((2,), (Layer(Dense(np.ones((3, 2))), Neuron()),), Encoding("events", 2))
    with pytest.raises(PumiceError, match="nothing to count in 0 samples of 2 steps"):
        count(network, np.ones((2, 0, 2), dtype=np.uint8))


def test_footprint_of_each_kind() -> None:
    delay = np.zeros((3, 4), dtype=int)
    delay[0, 0] = 3
    layers = (
        Layer(Conv(np.ones((4, 1, 2, 2), dtype=int)), Neuron(bias=np.arange(4))),
        Layer(Dense(np.ones((3, 16), dtype=int)), Neuron(bias=7)),
        Layer(Dense(np.ones((4, 3), dtype=int)), INTEGRATOR),
    )
    network = Network((1, 3, 3), layers, Encoding("events", 2))
    assert metrics.footprint(network) == Footprint(16 + 48 + 12, 0, 2 * 4 + 2, 6 * (16 + 3 + 4))
    late = Network((4,), (Layer(Dense(np.ones((3, 4)), delay), Neuron()),), Encoding("events", 2))
    assert metrics.footprint(late) == Footprint(12, 12, 0, 18)
    assert metrics.footprint(late).total == 42
    graded = Network(
        (4,),
        (
            Layer(Inject(), Delta()),
            Layer(Dense(np.ones((2, 4))), SigmaDelta(bias=np.array([1, 2]))),
            Layer(Dense(np.ones((3, 2))), Sigma()),
        ),
        Encoding("events", 2),
    )
    assert metrics.footprint(graded) == Footprint(14, 0, 8, 4 * 8 + 2 * 12 + 3 * 4)
    weight = np.ones((5, 4), dtype=int)
    ringing = Layer(ComplexDense(weight, weight), Resonator(1, 0, 0))
    assert metrics.footprint(Network((4,), (ringing,), Encoding("events", 2))) == Footprint(
        40, 0, 0, 30
    )


def test_sparsities() -> None:
    shared = Dense(np.array([[0, 3], [0, 0]]))
    layers = (
        Layer(Inject(), Neuron()),
        Layer(shared, Neuron(vth=64), more=(Edge(Dense(np.eye(2, dtype=int) * 9), (1,)),)),
        Layer(Dense(np.array([[1, 0]])), INTEGRATOR),
    )
    network = Network((2,), layers, Encoding("events", 4))
    assert metrics.connection_sparsity(network) == (3 + 2 + 1) / (4 + 4 + 2)
    alone = Network((2,), layers[:1], Encoding("events", 4), readout="spikes")
    assert metrics.connection_sparsity(alone) == 0
    # A layer that never spikes has no activations: of the others' sixteen none is one.
    found = count(network, np.zeros((4, 1, 2), dtype=np.uint8))
    assert found.activation_sparsity == 1.0
    assert [layer.activations for layer in found.layers] == [8, 8, 0]
    silent = Network((2,), layers[2:], Encoding("events", 4))
    assert count(silent, np.ones((4, 1, 2), dtype=np.uint8)).activation_sparsity == 0.0


# --- the package --------------------------------------------------------------------------------


class Twin(torch.nn.Module):
    """A network of ours in torch and snnTorch, as NeuroBench's package wants it: integer weights in
    float32, in which all sums are exact."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        snn = pytest.importorskip("snntorch")
        self.network = network
        self.synapses, self.neurons = torch.nn.ModuleList(), torch.nn.ModuleList()
        for index, layer in enumerate(network.layers):
            found = [
                self.module(synapse)
                for synapse, _ in network.synapses(index)
                if not isinstance(synapse, Inject)
            ]
            self.synapses.append(torch.nn.ModuleList(found))
            neuron = layer.neuron
            assert neuron.vth is None or neuron.du == 4096
            self.neurons.append(
                torch.nn.Identity()
                if neuron.vth is None
                else snn.Leaky(
                    beta=1 - neuron.dv / 4096,
                    threshold=neuron.vth,
                    reset_mechanism="zero" if neuron.reset == "hard" else "subtract",
                )
            )

    @staticmethod
    def module(synapse) -> torch.nn.Module:
        weight = torch.from_numpy(synapse.weight.astype(np.float32))
        made: torch.nn.Module
        if isinstance(synapse, Conv):
            made = torch.nn.Conv2d(
                weight.shape[1] * synapse.groups,
                weight.shape[0],
                tuple(weight.shape[2:]),
                synapse.strides,
                synapse.paddings,
                synapse.dilations,
                synapse.groups,
                bias=False,
            )
        else:
            made = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        made.weight = torch.nn.Parameter(weight)
        return made

    def reset(self) -> None:
        """Before a batch, as the package asks."""
        self.sent = {}
        for neuron in self.neurons:
            if hasattr(neuron, "reset_mem"):
                neuron.reset_mem()

    def forward(self, x):
        sent = {-1: x}
        n = len(x)
        for index in range(len(self.neurons)):
            current = x if isinstance(self.network.layers[index].synapse, Inject) else 0
            modules = iter(self.synapses[index])
            for synapse, sources in self.network.synapses(index):
                if isinstance(synapse, Inject):
                    continue
                message = 0
                for source in sources:
                    silence = torch.zeros(n, *self.network.shape_of(source))
                    message = message + (
                        sent[source] if source < index else self.sent.get(source, silence)
                    )
                message = message.flatten(1) if isinstance(synapse, Dense) else message
                current = current + next(modules)(message)
            neuron = self.neurons[index]
            spiked = neuron(current)
            sent[index] = spiked[0] if isinstance(spiked, tuple) else spiked
        self.sent = sent
        return sent[index], None


def mlp() -> tuple[Network, np.ndarray]:
    """Weights of 0 among them, a leak that stays a whole number for six steps, a soft reset."""
    rng = np.random.default_rng(3)
    layers = (
        Layer(
            Dense(rng.integers(-20, 21, (24, 30)) * (rng.random((24, 30)) < 0.6)), Neuron(vth=16)
        ),
        Layer(Dense(rng.integers(-9, 12, (16, 24))), Neuron(vth=40, dv=2048)),
        Layer(Dense(rng.integers(-9, 12, (12, 16))), Neuron(vth=25, reset="soft")),
        Layer(Dense(rng.integers(-9, 10, (4, 12))), INTEGRATOR),
    )
    x = (rng.random((6, 7, 30)) < 0.3).astype(np.uint8)
    return Network((30,), layers, Encoding("events", 6)), x


def convolutions() -> tuple[Network, np.ndarray]:
    """Padding, strides, dilation, groups, and a graded image that some steps show as 0 and 1."""
    rng = np.random.default_rng(4)
    layers = (
        Layer(Conv(rng.integers(-9, 12, (4, 2, 3, 3)), padding=1), Neuron(vth=200)),
        Layer(Conv(np.full((4, 1, 2, 2), 16), stride=2, groups=4), Neuron(vth=20)),
        Layer(Conv(rng.integers(-1, 2, (6, 2, 3, 2)), dilation=(1, 2), groups=2), Neuron(vth=2)),
        Layer(Dense(rng.integers(-9, 10, (5, 6 * 2 * 2))), INTEGRATOR),
    )
    x = rng.integers(0, 30, (5, 6, 2, 8, 8)) * (rng.random((5, 6, 2, 8, 8)) < 0.5)
    x[2:, :3] = x[2:, :3] > 0
    return Network((2, 8, 8), layers, Encoding("events", 5, (0, 29))), x.astype(np.uint8)


def graph() -> tuple[Network, np.ndarray]:
    """Input neurons, an addition of two layers, a shortcut, and a layer that feeds itself."""
    rng = np.random.default_rng(5)

    def square(out: int, features: int) -> Dense:
        return Dense(rng.integers(-9, 14, (out, features)) * (rng.random((out, features)) < 0.7))

    layers = (
        Layer(Inject(), Neuron(vth=0)),
        Layer(square(10, 10), Neuron(vth=10)),
        Layer(square(8, 10), Neuron(vth=20), (0, 1), (Edge(square(8, 8), (2,)),)),
        Layer(square(4, 8), INTEGRATOR, None, (Edge(square(4, 10), (-1,)),)),
    )
    x = (rng.random((6, 5, 10)) < 0.4).astype(np.uint8)
    return Network((10,), layers, Encoding("events", 6)), x


@pytest.mark.parametrize("make", [mlp, convolutions, graph])
def test_the_package_counts_the_same(make) -> None:
    pytest.importorskip("neurobench", reason="docs/check.md says how it is installed")
    from neurobench.metrics.static import ConnectionSparsity
    from neurobench.metrics.workload import ActivationSparsity, SynapticOperations
    from neurobench.models import SNNTorchModel

    network, x = make()
    twin = Twin(network)
    model = SNNTorchModel(twin)
    found = count(network, x)
    theirs = torch.from_numpy(np.moveaxis(x, 0, 1).astype(np.float32))
    assert ConnectionSparsity()(model) == round(metrics.connection_sparsity(network), 4)
    model.register_hooks()
    with torch.no_grad():
        answer = model(theirs)
        # The twin is one: its spikes are ours, in every layer and step.
        ours = reference.run(network, x, ("spikes",)).spikes
        spiking = [i for i, layer in enumerate(network.layers) if layer.neuron.vth is not None]
        assert len(model.activation_hooks) == len(spiking)
        for index, hook in zip(spiking, model.activation_hooks, strict=True):
            np.testing.assert_array_equal(torch.stack(hook.activation_outputs).numpy(), ours[index])
        assert all(0 < spikes.mean() < 1 for spikes in (ours[index] for index in spiking))
        data = (theirs, torch.zeros(len(theirs)))
        assert ActivationSparsity()(model, answer, data) == found.activation_sparsity
        # A sample at a time: in a batch, one graded sample makes MACs of all.
        operations = SynapticOperations()
        for sample in theirs:
            model.reset_hooks()
            answer = model(sample[None])
            said = operations(model, answer, (sample[None], torch.zeros(1)))
    assert said == {
        "Effective_ACs": found.effective_acs,
        "Effective_MACs": found.effective_macs,
        "Dense": found.dense,
    }
    assert found.effective_acs > 0 and found.dense > found.effective_acs
    assert (found.effective_macs > 0) == (make is not mlp)
    assert found.neurobench == {"ActivationSparsity": found.activation_sparsity, **said}


@pytest.mark.parametrize("make", [mlp, convolutions, graph])
def test_the_package_finds_the_same_footprint_of_weights(make) -> None:
    """In bytes as ours are, with int8 parameters; snnTorch's neurons bring buffers of their own."""
    pytest.importorskip("neurobench", reason="docs/check.md says how it is installed")
    from neurobench.metrics.static import Footprint as Theirs
    from neurobench.models import SNNTorchModel

    network, _ = make()
    twin = Twin(network)
    buffers = sum(b.numel() * b.element_size() for b in twin.neurons.buffers())
    weights = metrics.footprint(network).weights
    assert Theirs()(SNNTorchModel(twin)) - buffers == 4 * weights  # float32
    for parameter in twin.parameters():
        parameter.requires_grad = False
        parameter.data = parameter.data.to(torch.int8)
    assert Theirs()(SNNTorchModel(twin)) - buffers == weights


# --- the command --------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path):
    rng = np.random.default_rng(0)
    weight = rng.integers(-20, 30, (12, 16))
    layers = (Layer(Dense(weight), Neuron(vth=64)), Layer(Dense(weight[:4, :12]), INTEGRATOR))
    network = Network((16,), layers, Encoding("rate", 5, low=0, high=255))
    netx.write(network, tmp_path / "model.net")
    x = rng.integers(0, 256, (40, 16)).astype(np.uint8)
    y = np.arange(40) % 4
    np.savez(tmp_path / "data.npz", x_train=x, y_train=y, x_test=x[:30], y_test=y[:30])
    return str(tmp_path / "model.net"), str(tmp_path / "data.npz"), network, x[:30]


def test_the_command_counts(files, capfd, monkeypatch) -> None:
    model, data, network, x = files
    arguments = ["check", model, "--data", data, "--samples", "25"]
    code = main([*arguments, "--chip", "loihi1", "--json"])
    told = json.loads(capfd.readouterr().out)
    assert (code == 0) == told["ok"]
    found = count(
        network, network.encoding.encode(x[:25]), partition(network, chip("loihi1"))
    ).as_dict()
    assert told["counts"] == json.loads(json.dumps(found))
    assert told["counts"]["model"]["what"] == "modelled from counted operations"
    assert told["counts"]["model"]["energy_pj"] > 0
    assert told["neurobench"]["Footprint"] == 12 * 16 + 48 + 6 * 16
    assert told["chip"]["cost"]["synaptic_op_pj"] == 23.6
    main([*arguments, "--chip", "loihi1"])
    out = capfd.readouterr().out
    assert "on loihi1, modelled from counted operations" in out
    assert "Davies 2018, table 2; static power, input and output are not in it" in out
    assert "counted on 25 samples of 5 steps" in out
    main([*arguments, "--chip", "loihi2"])
    out = capfd.readouterr().out
    assert "counts only, there are no public figures of what an operation takes on loihi2" in out
    assert "modelled" not in out
    monkeypatch.setattr(partitions, "PIECES_MAX", 1)
    main([*arguments, "--chip", "loihi1"])
    out = capfd.readouterr().out
    assert "counts only, the network is on no cores" in out
    assert "1 of 128 cores" not in out
    main(["check", model, "--json"])
    told = json.loads(capfd.readouterr().out)
    assert told["counts"] is None
    assert told["neurobench"]["ConnectionSparsity"] == metrics.connection_sparsity(network)
