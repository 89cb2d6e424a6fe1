"""The learning block, against a second model of the documented rule and against the reference."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from onchip_model import (
    CLASSES,
    HIDDEN,
    INPUTS,
    RULE,
    STEPS,
    assert_equal,
    brute_force,
    data,
    deep,
    engine,
    hardware_input,
    of_lava,
    small,
)
from sklearn.datasets import load_digits

from lava_export import netx
from loihi import (
    INTEGRATOR,
    Conv,
    Dense,
    Encoding,
    Layer,
    Neuron,
    PumiceError,
    formats,
    reference,
)
from onchip import plan as plans
from onchip.learn import accuracy, learn
from onchip.plan import Mantissas
from onchip.simulate import simulate
from onchip.spec import MODES, Rule


def assert_equal_at_every_step(network, x, labels, mode, rule=RULE, graded=False):
    block = plans.build(network, x, mode, rule)
    outcome = simulate(block, x, labels, seed=5, record=True, deadline=250)
    expected, spikes = brute_force(block, x, labels, outcome.steps, 5, graded)
    assert outcome.steps == block.steps(len(labels))
    assert set(outcome.history) == set(block.plastic)
    assert_equal(of_lava(outcome), expected, block.plastic)
    for index, history in outcome.history.items():
        moved = (history[1:] != history[:-1]).any(axis=(1, 2)).sum()
        assert moved > len(history) / 5, "too little was learned for this test to mean anything"
        np.testing.assert_array_equal(outcome.learned[index], history[-1])
    np.testing.assert_array_equal(outcome.spikes[0], spikes[0])
    found, sent, _ = engine(block, x, labels, 5)
    assert_equal(found, of_lava(outcome), block.plastic)
    for index, values in sent.items():
        np.testing.assert_array_equal(values, outcome.spikes[index])
    return outcome


@pytest.mark.lava
class TestEveryWeightAtEveryStep:
    @pytest.mark.parametrize("mode", MODES)
    def test_spikes_in(self, mode):
        x, labels = data()
        outcome = assert_equal_at_every_step(small(), x, labels, mode)
        assert 0.1 < outcome.spikes[0].mean() < 0.9

    def test_leaky_readout_bias_and_current(self):
        x, labels = data(seed=3)
        rule = replace(RULE, leak=700, halvings=2, window=1.5, hidden_rate=-2)
        assert_equal_at_every_step(small(3, du=2000, bias=7, vth=150), x, labels, "both", rule)

    def test_graded_input(self):
        x, labels = data(seed=4, high=61)
        network = replace(small(4, vth=2000), encoding=Encoding("events", STEPS, payload=(0, 60)))
        assert_equal_at_every_step(network, x, labels, "hidden", graded=True)

    def test_weights_beyond_seven_bits_and_at_the_limit(self):
        """Even weights up to ±240 learn as ±120 at an exponent of 1, and stop at the limit."""
        x, labels = data(seed=5)
        network = small(5, vth=160)
        for index in (0, 1):
            layer = network.layers[index]
            doubled = np.clip(4 * layer.synapse.weight, -240, 240)
            network = network.with_layer(index, replace(layer, synapse=Dense(doubled)))
        rule = replace(RULE, hidden_rate=-1, readout_rate=-1)
        outcome = assert_equal_at_every_step(network, x, labels, "both", rule)
        for learned in outcome.learned.values():
            assert learned.min() == -128 or learned.max() == 127
        block = plans.build(network, x, "both", rule)
        assert {m.exponent for m in block.plastic.values()} == {1}
        frozen = block.freeze(outcome.learned)  # Network checks that each weight fits the format
        np.testing.assert_array_equal(frozen.layers[0].synapse.weight, 2 * outcome.learned[0])


@pytest.mark.lava
@pytest.mark.exactness
@pytest.mark.parametrize("mode", ["hidden", "readout"])
def test_a_front_spikes_as_the_reference_with_phased_resets(mode):
    """With a window that nothing falls into, nothing is learned, and all layers must agree."""
    network = deep()
    x = np.random.default_rng(1).integers(-2, 4, (40, 2, 2, 4, 9))
    block = plans.build(network, x, mode, Rule(gap=4))
    block = replace(block, stages=tuple(replace(stage, window=0) for stage in block.stages))
    outcome = simulate(block, x, np.array([0, 2]), deadline=250, record=True)
    stream = hardware_input(x, 4, outcome.steps - 88)
    expected = reference.stream(network, stream, reset_interval=44)
    assert set(outcome.spikes) == {0, 1, 2}
    for index, spikes in outcome.spikes.items():
        wanted = expected.spikes[index].reshape(len(stream), -1)
        np.testing.assert_array_equal(spikes, wanted, err_msg=network.names[index])
        assert 0.02 < spikes.mean() < 0.98
    if mode == "hidden":
        assert (outcome.history[2] == network.layers[2].synapse.weight).all()


@pytest.fixture(scope="module")
def digits():
    """Payloads and labels: 150 digits to learn, 400 to test, in 12 steps."""
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    x, y = x[order], y[order]
    encoding = Encoding("rate", 12, low=0, high=16)
    return encoding, encoding.encode(x[:150]), y[:150], encoding.encode(x[-400:]), y[-400:]


class TestLearn:
    @pytest.mark.parametrize(
        ("mode", "least"), [("hidden", 0.55), ("readout", 0.45), ("both", 0.5)]
    )
    def test_digits(self, digits, mode, least, tmp_path):
        encoding, x, y, x_test, y_test = digits
        network = plans.random_network(64, 60, 10, encoding)
        seen = []
        result = learn(network, x, y, mode=mode, on_progress=lambda done, of: seen.append(done))
        assert accuracy(network, x_test, y_test) < 0.25
        assert accuracy(result.network, x_test, y_test) > least
        assert result.samples == 150
        assert seen == [150]
        changed = [
            int((a.synapse.weight != b.synapse.weight).sum())
            for a, b in zip(network.layers, result.network.layers, strict=True)
        ]
        assert [c > 0 for c in changed] == [mode != "readout", mode != "hidden"]
        assert sorted(result.changed.values()) == sorted(c for c in changed if c)
        # What was learned is what a file holds.
        netx.write(result.network, tmp_path / "learned.net")
        assert netx.read(tmp_path / "learned.net") == result.network

    @pytest.mark.lava
    def test_digits_in_lava(self, digits):
        """The same network, weight for weight, from either engine."""
        encoding, x, y, *_ = digits
        network = plans.random_network(64, 60, 10, encoding)
        seen = []
        ours = learn(network, x[:, :100], y[:100], mode="both", epochs=2)
        theirs = learn(
            network, x[:, :100], y[:100], mode="both", epochs=2, engine="lava", deadline=250,
            on_progress=lambda done, of: seen.append(done),
        )  # fmt: skip
        assert (theirs.samples, theirs.steps) == (200, ours.steps)
        assert theirs.network == ours.network
        assert theirs.changed == ours.changed
        assert min(ours.changed.values()) > 100
        assert seen == sorted(seen)
        assert seen[-1] <= 200

    @pytest.mark.lava
    def test_deadline(self, digits):
        encoding, x, y, *_ = digits
        network = plans.random_network(64, 60, 10, encoding)
        with pytest.raises(PumiceError, match="no result after 1 seconds"):
            learn(network, x, y, engine="lava", deadline=1)


class TestMantissas:
    @pytest.mark.parametrize(
        ("weight", "exponent"),
        [([[-128, 127]], 0), ([[-256, 254]], 1), ([[1, 3]], 0), ([[0, 200]], 1), ([[0, 0]], 0)],
    )
    def test_nothing_is_lost(self, weight, exponent):
        found = Mantissas.of(np.array(weight), "0 dense 2-1")
        assert found.exponent == exponent
        np.testing.assert_array_equal(found.weight, weight)
        assert found.values.min() >= -128
        assert found.values.max() <= 127

    @pytest.mark.parametrize("weight", [[[0, 201]], [[-255, 0]], [[128, -127]]])
    def test_or_refused(self, weight):
        with pytest.raises(PumiceError, match=r"must be within -128\.\.127, or even"):
            Mantissas.of(np.array(weight), "0 dense 2-1")

    def test_every_learned_number_has_a_format(self):
        extremes = np.array([[-128, 127, 1, -1]])
        for exponent in (0, 1):
            formats.weight_format(extremes << exponent)


def test_feedback_is_the_readout_transposed():
    network = small()
    readout = network.layers[1]
    block = plans.build(network, data()[0], "hidden", RULE)
    np.testing.assert_array_equal(block.stages[0].feedback, readout.synapse.weight.T)
    doubled = network.with_layer(1, replace(readout, synapse=Dense(4 * readout.synapse.weight)))
    block = plans.build(doubled, data()[0], "hidden", RULE)
    np.testing.assert_array_equal(block.stages[0].feedback, 2 * readout.synapse.weight.T)


class TestRefused:
    """Bad input ends in one line before Lava is started."""

    def refused(self, match, network=None, x=None, labels=None, **options):
        some_x, some_labels = data()
        with pytest.raises(PumiceError, match=match) as caught:
            learn(
                small() if network is None else network,
                some_x if x is None else x,
                some_labels if labels is None else labels,
                **options,
            )
        assert "\n" not in str(caught.value)

    def test_labels(self):
        self.refused(r"label 3 of sample 1: .* classes 0..2", labels=np.array([0, 3, 0, 1]))
        self.refused(r"label -1 of sample 0", labels=np.array([-1, 3, 0, 1]))
        self.refused(r"4 samples need labels \[4\], found \[3\]", labels=np.array([0, 1, 2]))
        self.refused("found dtype float64", labels=np.zeros(4))

    def test_payloads(self):
        self.refused("the data hold 8", x=np.zeros((STEPS, 4, 8), dtype=int))
        self.refused(
            "payloads 0..2 exceed", x=np.full((STEPS, 4, INPUTS), 2) - np.eye(4, 7, dtype=int) * 2
        )
        self.refused("9 steps a sample", x=np.zeros((9, 4, INPUTS), dtype=int))
        self.refused("no sample", x=np.zeros((STEPS, 0, INPUTS), int), labels=np.zeros(0, int))

    def test_networks(self):
        network = small()
        hidden, readout = network.layers
        alone = replace(network, layers=(Layer(hidden.synapse, INTEGRATOR),))
        self.refused("use mode 'readout'", alone)
        conv = Layer(Conv(np.ones((6, 1, 1, 7), int)), hidden.neuron)
        image = replace(network, input_shape=(1, 1, INPUTS), layers=(conv, readout))
        self.refused("0 conv 6@1x7: .* needs a dense layer", image)
        self.refused("never spikes", network.with_layer(1, replace(readout, neuron=Neuron())))
        delayed = replace(hidden.synapse, delay=np.ones((HIDDEN, INPUTS), int))
        self.refused("delays", network.with_layer(0, replace(hidden, synapse=delayed)))
        self.refused(
            "a threshold above 0", network.with_layer(0, replace(hidden, neuron=Neuron(vth=0)))
        )
        self.refused(
            "must not be negative", replace(network, encoding=Encoding("events", STEPS, (-1, 1)))
        )
        blank = replace(readout, synapse=Dense(np.zeros((CLASSES, HIDDEN), int)))
        self.refused("mode 'readout' first", network.with_layer(1, blank))

    def test_options(self):
        self.refused("mode 'all' is unknown", mode="all")
        self.refused("epochs is 0", epochs=0)
        for wrong in ({"gap": 1}, {"amplitude": 128}, {"window": 0.0}, {"hidden_rate": -8}):
            with pytest.raises(PumiceError, match=next(iter(wrong))):
                Rule(**wrong)


def test_a_blank_readout_gets_a_scale():
    """Zeros say nothing about the scale of the readout: random weights stand in for them."""
    network = small()
    readout = network.layers[1]
    blank = network.with_layer(1, replace(readout, synapse=Dense(0 * readout.synapse.weight)))
    x, _ = data(samples=50)
    shifts = [plans.build(n, x, "readout", RULE).heads[0].readout_shift for n in (network, blank)]
    assert abs(shifts[0] - shifts[1]) <= 1
