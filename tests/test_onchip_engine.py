"""The learning engine: equal to Lava and to a second model, however it is fed, killed and woken."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onchip_model import (
    RULE,
    assert_equal,
    brute_force,
    data,
    deep,
    engine,
    hardware_input,
    of_lava,
    random_run,
    random_tower,
    small,
    tower,
)
from safetensors.numpy import load_file, save_file

from loihi import Dense, Encoding, PumiceError, reference
from onchip import checkpoint, kernels
from onchip import learn as learning
from onchip import plan as plans
from onchip.engine import Learner, side_by_side
from onchip.learn import learn, verify
from onchip.samples import Samples
from onchip.simulate import Outcome, simulate
from onchip.spec import Local, Rule, Spec

EXAMPLES = max(3, int(os.environ.get("PUMICE_SOAK", "0")))


def equals_lava(block, x, labels, seed):
    """Every weight, trace, factor and spike at every step; how many weights moved."""
    outcome = simulate(block, x, labels, seed=seed, record=True, deadline=250)
    found, spikes, learner = engine(block, x, labels, seed)
    assert learner.step == outcome.steps
    assert_equal(found, of_lava(outcome), block.plastic)
    for index, sent in spikes.items():
        np.testing.assert_array_equal(sent, outcome.spikes[index])
    for index, values in outcome.learned.items():
        np.testing.assert_array_equal(learner.learned[index], values)
    return sum(int((v[0] != v[-1]).sum()) for v in outcome.history.values())


@pytest.mark.lava
class TestEqualToLava:
    @settings(max_examples=EXAMPLES, deadline=None, derandomize=EXAMPLES == 3)
    @given(st.integers(0, 2**31))
    def test_any_run(self, seed):
        equals_lava(*random_run(seed), seed % 1000)

    @settings(max_examples=EXAMPLES, deadline=None, derandomize=EXAMPLES == 3)
    @given(st.integers(0, 2**31))
    def test_any_blocks(self, seed):
        """Several at once, of one layer and of two, with every classifier and feedback."""
        equals_lava(*random_tower(seed), seed % 1000)

    def test_a_thousand_steps_of_two_blocks(self):
        """Two layers that mirror, behind one with a classifier of its own; errors now and then."""
        x, labels = data(130, 3)
        front = Local((0,), "trainable", "random", steps=3)
        back = Local((1, 2), "trainable", "mirrored", steps=2)
        spec = Spec((front, back), replace(RULE, leak=500, halvings=3, epoch=2), seed=4)
        plan = plans.build(tower(3), x, spec)
        assert plan.steps(130) > 1000
        assert equals_lava(plan, x, labels, 9) > 60

    def test_some_hundred_steps_and_epochs_of_three(self):
        x, labels = data(30, 7)
        block = plans.build(small(7), x, "both", replace(RULE, epoch=3, hidden_rate=-3))
        assert block.steps(30) > 240
        assert equals_lava(block, x, labels, 9) > 30

    def test_behind_a_front(self):
        """Convolutions with biases in front, an image flattened; epochs as long as nothing else."""
        network = deep()
        x = np.random.default_rng(1).integers(-2, 4, (40, 3, 2, 4, 9))
        rule = Rule(gap=4, epoch=7, hidden_rate=-4, readout_rate=-4, window=3.0)
        block = plans.build(network, x, "both", rule)
        assert equals_lava(block, x, np.array([0, 2, 1]), 3) > 30


@pytest.mark.lava
@pytest.mark.parametrize("first", [3, 9])
def test_the_first_samples_of_a_run(first):
    """As they are learned in the run itself: its order, and its halvings; behind a front too."""
    x = np.random.default_rng(1).integers(-2, 4, (40, 5, 2, 4, 9))
    labels = np.array([0, 2, 1, 1, 0])
    options = {"mode": "both", "rule": Rule(gap=4, epoch=3, hidden_rate=-4, readout_rate=-4)}
    proof = verify(deep(), x, labels, first, epochs=2, seed=3, deadline=250, **options)
    assert (proof.samples, proof.mismatches) == (first, 0)


def test_verify_finds_a_difference(monkeypatch):
    """With something in Lava's place that has learned one weight otherwise."""
    x, labels = data(4)

    def almost(plan, x, labels, *, seed, deadline, on_progress):
        learner = Learner(plan, labels, seed=seed)
        learner.learn(x)
        learned = learner.learned
        learned[1][1, 2] -= np.sign(learned[1][1, 2] + 0.5).astype(int)
        return Outcome(learned, learner.step, 1.0, {}, {}, {}, {})

    monkeypatch.setattr(learning, "simulate", almost)
    proof = verify(small(), x, labels, 3, mode="both", rule=RULE)
    assert (proof.samples, proof.weights, proof.mismatches) == (3, 7 * 6 + 6 * 3, 1)


class TestEqualToTheModel:
    @settings(max_examples=20, deadline=None, derandomize=True)
    @given(st.integers(0, 2**31))
    def test_any_blocks(self, seed):
        plan, x, labels = random_tower(seed)
        graded = not plan.network.encoding.binary
        expected, spikes = brute_force(plan, x, labels, plan.steps(4), seed % 97, graded)
        found, sent, _ = engine(plan, x, labels, seed % 97)
        assert_equal(found, expected, plan.plastic)
        for layer in set(sent) & set(spikes):
            np.testing.assert_array_equal(sent[layer], spikes[layer])

    @settings(max_examples=25, deadline=None, derandomize=True)
    @given(st.integers(0, 2**31))
    def test_any_run(self, seed):
        block, x, labels = random_run(seed)
        graded = not block.network.encoding.binary
        expected, spikes = brute_force(block, x, labels, block.steps(4), seed % 97, graded)
        found, sent, _ = engine(block, x, labels, seed % 97)
        assert_equal(found, expected, block.plastic)
        if 0 in sent:
            np.testing.assert_array_equal(sent[0], spikes[0])

    def test_currents_wrap_and_voltages_clip(self):
        """Payloads of 255 on weights of ±120, without a leak: beyond 24 bits on both sides."""
        network = small(6, du=3000, dv=0, vth=120000)
        weight = np.array(network.layers[0].synapse.weight)
        weight[:2], weight[2:4] = 120, -120
        weight[4:] = np.sign(weight[4:] + 0.5) * 90
        layer = replace(network.layers[0], synapse=Dense(weight))
        encoding = Encoding("events", 5, payload=(0, 255))
        network = replace(network.with_layer(0, layer), encoding=encoding)
        x, labels = data(12, 6, 256)
        x[:, :6] = 255 * (np.arange(12) % 5 > 1)[None, :6, None]
        block = plans.build(network, x, "both", replace(RULE, window=3.0))
        expected, spikes = brute_force(block, x, labels, block.steps(12), 6, graded=True)
        found, sent, _ = engine(block, x, labels, 6)
        assert_equal(found, expected, block.plastic)
        np.testing.assert_array_equal(sent[0], spikes[0])
        assert spikes[0].any()

    def test_third_factors_fade(self, monkeypatch):
        """Once in some hundred steps Lava takes one off a factor of 127: with seeds for which
        that moves a weight."""
        x, labels = data(20, 11)
        rule = replace(RULE, amplitude=127, hidden_rate=-4, readout_rate=-4, window=4.0, epoch=3)
        block = plans.build(small(11), x, "both", rule)
        block = replace(block, stages=(replace(block.stages[0], error_shift=3),))

        def shows(seed):
            fading = engine(block, x, labels, seed)[0]["weights"]
            with monkeypatch.context() as patch:
                patch.setattr("onchip.engine.FACTOR_TAU", 10**12)
                lasting = engine(block, x, labels, seed)[0]["weights"]
            return any((fading[i] != lasting[i]).any() for i in block.plastic)

        seeds = list(islice(filter(shows, range(300)), 8))
        assert len(seeds) == 8
        for seed in seeds:
            expected, _ = brute_force(block, x, labels, block.steps(20), seed)
            assert_equal(engine(block, x, labels, seed)[0], expected, block.plastic)

    def test_a_draw_less_shows(self):
        """The comparison is no tautology: one draw off, and most weights are others."""
        x, labels = data(8, 2)
        block = plans.build(small(2), x, "both", RULE)
        expected, _ = brute_force(block, x, labels, block.steps(8), 6)
        found, _, _ = engine(block, x, labels, 5)
        with pytest.raises(AssertionError, match="first differ at"):
            assert_equal(found, expected, block.plastic)


@pytest.mark.parametrize("mode", ["both", "readout"])
def test_a_front_sends_what_the_reference_does(mode):
    """From the chip's first step to its last: before, in and after the samples."""
    network, last = deep(), 1 if mode == "both" else 2
    layer = network.layers[last]
    awake = replace(layer.neuron, bias=layer.neuron.vth * 3 // 5, bias_exp=6)  # without any input
    network = network.with_layer(last, replace(layer, neuron=awake))
    x = np.random.default_rng(1).integers(-2, 4, (40, 5, 2, 4, 9))
    block = plans.build(network, x, mode, Rule(gap=4, epoch=5))
    _, spikes, learner = engine(block, x, np.arange(5) % 3, 1, pieces=(2, 3))
    stream = hardware_input(x, 4, learner.step - 5 * 44)
    expected = reference.stream(network, stream, reset_interval=44)
    np.testing.assert_array_equal(spikes[last], expected.spikes[last].reshape(len(stream), -1))
    lag = network.arrivals[last]
    assert spikes[last][:lag].any(), "nothing was sent before the first sample"
    assert spikes[last][lag + 5 * 44 :].any(), "nothing was sent after the last"


@pytest.mark.parametrize("rounding", ["lava", "chip-like"])
def test_pieces_change_nothing(rounding):
    x, labels = data(12, 3)
    block = plans.build(small(3), x, "both", replace(RULE, epoch=3))
    whole, _, _ = engine(block, x, labels, 4, rounding, pieces=())
    pieces, _, _ = engine(block, x, labels, 4, rounding, pieces=(1, 2, 7))
    assert_equal(pieces, whole, block.plastic)


def test_side_by_side_is_one_after_the_other():
    x, labels = data(12, 3)
    block = plans.build(small(3), x, "both", RULE)
    learners = [Learner(block, labels, seed=seed, rounding="chip-like") for seed in range(5)]
    together = side_by_side(learners, x, threads=3)
    for seed, learned in enumerate(together):
        alone, _, _ = engine(block, x, labels, seed, "chip-like")
        for index, weights in learned.items():
            np.testing.assert_array_equal(weights, alone["weights"][index][-1])
    assert (together[0][0] != together[1][0]).any()


class TestChipLike:
    """A draw for each synapse: right on average, and each for itself."""

    def rounded(self, factor, trace, rate=0, draws=400):
        weight = np.zeros((draws, 64), dtype=np.int8)
        outer = np.full(draws, factor, dtype=np.int16)
        kernels._round_each(weight, outer, np.full(64, trace, np.int16), rate, np.uint32(12345))
        return weight

    @pytest.mark.parametrize(("factor", "trace"), [(5, 30), (-5, 30), (127, 126), (-1, 1), (3, 8)])
    def test_unbiased(self, factor, trace):
        wanted = (factor * trace // 8) / 128
        moved = self.rounded(factor, trace)
        assert set(np.unique(moved)) <= {int(np.floor(wanted)), int(np.floor(wanted)) + 1}
        error = np.sqrt((wanted % 1) * (1 - wanted % 1) / moved.size)
        assert abs(moved.mean() - wanted) <= 4 * error + 1e-12

    def test_each_for_itself(self):
        moved = self.rounded(8, 64).astype(float)  # up in half of all cases
        for one, other in ((moved[1:], moved[:-1]), (moved[:, 1:], moved[:, :-1])):
            assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 4 / np.sqrt(one.size)
        assert abs(moved.mean(axis=0) - 0.5).max() < 4 * 0.5 / np.sqrt(len(moved))

    def test_traces_fade_on_average(self):
        """x1 of 1000 inputs after one spike and ten steps, beside exp(−10/τ)."""
        encoding = Encoding("events", 10)
        network = plans.random_network(1000, 4, 3, encoding)
        x = np.zeros((10, 1, 1000), dtype=int)
        x[0] = 1
        block = plans.build(network, x, "hidden", Rule(hidden_tau=9, hidden_impulse=100))
        seen, _, _ = engine(block, x, np.array([0]), 1, "chip-like", pieces=())
        trace = seen["traces"][0][10]
        assert abs(trace.mean() - 100 * np.exp(-10 / 9)) < 0.2
        assert trace.std() > 0.5

    def test_not_lava(self):
        x, labels = data(12, 3)
        block = plans.build(small(3), x, "both", RULE)
        lava, _, _ = engine(block, x, labels, 4)
        other, _, _ = engine(block, x, labels, 4, "chip-like")
        assert (lava["weights"][0] != other["weights"][0]).any()


class TestCheckpoint:
    def run(self, x, labels, saved, **options):
        return learn(
            small(1), x, labels, mode="both", rule=replace(RULE, epoch=3), epochs=3, saved=saved,
            **options,
        )  # fmt: skip

    def weights(self, result):
        return [layer.synapse.weight for layer in result.network.layers]

    @pytest.mark.parametrize("rounding", ["lava", "chip-like"])
    def test_goes_on_to_the_same_weights(self, tmp_path, monkeypatch, rounding):
        """Ended at every place: in the midst of a sample's window, of an epoch, of a training."""
        monkeypatch.setattr("onchip.samples.PIECE", 3)
        monkeypatch.setattr("onchip.samples.SAVE_AFTER", 0.0)
        x, labels = data(10, 1)
        whole = self.run(x, labels, None, rounding=rounding)
        saved, ended = tmp_path / "place", 0

        class End(Exception):
            pass

        def end(done, of):
            nonlocal ended
            if done - ended >= 6:  # each time after two pieces, of which one is on disk
                ended = done - 3
                raise End

        for _ in range(30):
            try:
                result = self.run(x, labels, saved, rounding=rounding, on_progress=end)
                break
            except End:
                assert saved.exists()
        assert ended > 15
        for a, b in zip(self.weights(whole), self.weights(result), strict=True):
            np.testing.assert_array_equal(a, b)
        again = self.run(x, labels, saved, rounding=rounding)  # of a run that is done
        np.testing.assert_array_equal(self.weights(again)[0], self.weights(whole)[0])

    def test_another_run(self, tmp_path):
        x, labels = data(10, 1)
        saved = tmp_path / "place"
        self.run(x, labels, saved)
        others = {
            "seed": (x, labels, {"seed": 2}),
            "labels": (x, (labels + 1) % 3, {}),
            "data": (1 - x, labels, {}),
            "rounding": (x, labels, {"rounding": "chip-like"}),
        }
        before = saved.read_bytes()
        for x, labels, options in others.values():
            with pytest.raises(PumiceError, match="is of another run"):
                self.run(x, labels, saved, **options)
        assert saved.read_bytes() == before

    def test_damage(self, tmp_path):
        x, labels = data(10, 1)
        saved = tmp_path / "place"
        self.run(x, labels, saved)
        whole = saved.read_bytes()
        rng = np.random.default_rng(0)
        for _ in range(200):
            damaged = bytearray(whole)
            damaged[rng.integers(8 if rng.integers(4) else 0, len(whole))] ^= 1 << rng.integers(8)
            saved.write_bytes(
                damaged[: rng.integers(len(whole))] if rng.integers(4) < 1 else damaged
            )
            with pytest.raises(PumiceError, match=r"damaged|another run|no checkpoint") as caught:
                self.run(x, labels, saved)
            assert "\n" not in str(caught.value)
        tensors = load_file(tmp_path / "place") if saved.write_bytes(whole) else {}
        save_file(tensors, saved)
        with pytest.raises(PumiceError, match="no checkpoint pumice-learning-3"):
            self.run(x, labels, saved)

    def test_a_refused_file_leaves_the_learner_alone(self, tmp_path):
        x, labels = data(10, 1)
        block = plans.build(small(1), x, "both", RULE)
        one = Learner(block, labels)
        one.learn(x[:, :5])
        checkpoint.write(tmp_path / "place", one, "run")
        two = Learner(block, labels)
        with pytest.raises(PumiceError, match="another run"):
            checkpoint.restore(tmp_path / "place", two, "other")
        assert two.step == 0
        checkpoint.restore(tmp_path / "place", two, "run")
        assert (two.step, two.samples) == (one.step, 5)

    @pytest.mark.skipif(not sys.platform.startswith("linux"), reason="sends SIGKILL")
    def test_killed(self, tmp_path):
        """A process that is killed goes on, in another, to the weights of one that was not."""
        code = (
            "import sys; from pathlib import Path; import numpy as np\n"
            "from onchip_model import data, small, RULE; from onchip import learn, samples\n"
            "samples.PIECE, samples.SAVE_AFTER = 20, 0.0\n"
            "x, labels = data(400, 1)\n"
            "said = lambda *_: print('.', flush=True)\n"
            "result = learn.learn(small(1), x, labels, mode='both', rule=RULE,"
            " epochs=int(sys.argv[2]), saved=Path(sys.argv[1]), on_progress=said)\n"
            "np.save(sys.argv[1] + '.npy', result.network.layers[0].synapse.weight)\n"
        )
        here = os.path.dirname(__file__)
        path = os.pathsep.join([here, os.path.dirname(here)])
        saved = tmp_path / "place"
        command = [sys.executable, "-c", code, str(saved), "20"]
        environment = {**os.environ, "PYTHONPATH": path}
        child = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE)
        for _ in range(50):
            assert child.stdout.readline()
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        assert saved.exists() and not (tmp_path / "place.npy").exists()
        subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
        x, labels = data(400, 1)
        whole = learn(small(1), x, labels, mode="both", rule=RULE, epochs=20)
        np.testing.assert_array_equal(
            np.load(tmp_path / "place.npy"), whole.network.layers[0].synapse.weight
        )


def test_samples_are_encoded_when_needed():
    x, labels = data(9, 5)
    values = np.moveaxis(x, 0, 1)
    results = [
        learn(small(5), some, labels, mode="both", rule=RULE, epochs=2)
        for some in (x, Samples(values, Encoding("events", 5)))
    ]
    for layer, other in zip(*(result.network.layers for result in results), strict=True):
        np.testing.assert_array_equal(layer.synapse.weight, other.synapse.weight)


def test_a_window_wider_than_any_voltage():
    """Beyond 2^31 in units of v: as wide as can be, not none."""
    x, labels = data(6, 1)
    wide, wider = (
        learn(small(1), x, labels, rule=replace(RULE, window=window)) for window in (1e4, 8e6)
    )
    assert sum(wide.changed.values()) > 0
    np.testing.assert_array_equal(wide.learned[0], wider.learned[0])


class TestRefused:
    def refused(self, match, **options):
        x, labels = data()
        with pytest.raises(PumiceError, match=match) as caught:
            learn(small(), x, labels, **options)
        assert "\n" not in str(caught.value)

    def test_options(self, tmp_path):
        self.refused("engine 'slow' is unknown: use fast or lava", engine="slow")
        self.refused("rounding 'up' is unknown: use lava or chip-like", rounding="up")
        self.refused("rounds in its own way", engine="lava", rounding="chip-like")
        self.refused("no checkpoint", engine="lava", saved=tmp_path / "place")

    def test_rules_as_texts(self):
        assert Rule.of(["gap=4", "window=0.5"]) == Rule(gap=4, window=0.5)
        for text, match in (
            ("gap", "'' is no number"),
            ("gap=x", "'x' is no number"),
            ("gap=2.5", "'2.5' is no number"),
            ("gaps=3", "name one of gap, amplitude"),
            ("epoch=64", "use a whole number 1..63"),
        ):
            with pytest.raises(PumiceError, match=match):
                Rule.of([text])

    def test_a_spec_and_a_mode(self):
        spec = Spec((Local((0,)),), RULE)
        self.refused("leave mode and rule out", spec=spec, mode="both")
        self.refused("leave mode and rule out", spec=spec, rule=RULE)
        self.refused("seed is -1", seed=-1)

    def test_more_samples_than_labels(self):
        x, labels = data()
        learner = Learner(plans.build(small(), x, "hidden", RULE), labels[:3])
        with pytest.raises(PumiceError, match="4 samples, labels for 3"):
            learner.learn(x)
        with pytest.raises(PumiceError, match="samples of 4 steps, the network's encoding has 5"):
            learner.learn(x[:4])
        with pytest.raises(PumiceError, match="0 of 3 samples have been learned"):
            learner.finish()
