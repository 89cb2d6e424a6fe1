"""Tasks for learning on the chip, against counts by hand; drift against scipy and arithmetic."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from scipy import ndimage
from sklearn.datasets import load_digits

from loihi import (
    INTEGRATOR,
    Conv,
    Dense,
    Encoding,
    Layer,
    Network,
    Neuron,
    charts,
    decide,
    reference,
)
from onchip import picture, tasks
from onchip.drift import Drift
from onchip.learn import accuracy, learn
from onchip.plan import random_network
from onchip.samples import Samples
from onchip.spec import LearningError, Rule

RULE = Rule(leak=1000, readout_impulse=4, hidden_impulse=16)


@dataclass(frozen=True)
class Data:
    name: str
    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    low: float = 0.0
    high: float = 16.0


@pytest.fixture(scope="module")
def digits():
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    x, y = x[order].reshape(-1, 8, 8).astype(np.uint8), y[order].astype(np.int64)
    return Data("digits", x[:600], y[:600], x[600:1000], y[600:1000])


def network(hidden=80, classes=10, seed=1, steps=8):
    encoding = Encoding("rate", steps, low=0, high=16)
    return random_network(64, hidden, classes, encoding, seed=seed)


@pytest.fixture(scope="module")
def knows_eight(digits):
    """A network of eight outputs that has learned 0..7."""
    some = digits.y_train < 8
    samples = Samples(digits.x_train[some], network().encoding)
    labels = digits.y_train[some]
    return learn(network(classes=8), samples, labels, mode="hidden", rule=RULE, epochs=5).network


class TestGrown:
    def test_what_was_there_stays(self):
        rng = np.random.default_rng(0)
        neuron = Neuron(du=4096, dv=0, vth=50, bias=np.array([3, -4, 0]), bias_exp=2)
        delay = rng.integers(0, 5, (3, 64))
        last = Layer(Dense(rng.integers(-90, 91, (3, 64)), delay), neuron)
        before = replace(network(64), layers=(*network(64).layers[:1], last), readout="spikes")
        after = tasks.grown(before, 5, seed=3)
        new = after.layers[-1]
        np.testing.assert_array_equal(new.synapse.weight[:3], last.synapse.weight)
        np.testing.assert_array_equal(new.synapse.delay[:3], delay)
        assert not new.synapse.delay[3:].any()
        np.testing.assert_array_equal(new.neuron.bias, [3, -4, 0, 0, 0])
        assert replace(new.neuron, bias=neuron.bias) == neuron
        assert after.layers[0] == before.layers[0] and after.encoding == before.encoding
        # Old outputs answer as before.
        x = rng.integers(0, 2, (8, 5, 64))
        old, scores = reference.predict(before, x), reference.predict(after, x)
        np.testing.assert_array_equal(scores[:, :3], old)
        assert after.classes == 5

    @pytest.mark.parametrize(
        ("low", "high", "step"), [(-127, 127, 1), (-250, 250, 2), (0, 255, 1), (-255, 0, 1)]
    )
    def test_new_weights_fit_the_format(self, low, high, step):
        """Network itself refuses weights that no synapse holds: of mixed signs, odd ones beyond
        −128..127."""
        weight = np.random.default_rng(1).integers(low // step, high // step, (4, 400)) * step
        layer = Layer(Dense(weight), INTEGRATOR)
        before = Network((400,), (layer,), Encoding("rate", 4, low=0, high=1))
        new = tasks.grown(before, 7).layers[-1].synapse.weight[4:]
        assert low <= new.min() and new.max() <= high
        assert new.std() == pytest.approx(weight.std(), rel=0.15)
        assert not (new % step).any()
        assert not tasks.grown(before, 7, spread=0).layers[-1].synapse.weight[4:].any()

    def test_refused(self):
        with pytest.raises(LearningError, match="has 10 outputs, 9 would be fewer"):
            tasks.grown(network(), 9)
        image = Network(
            (1, 4, 4),
            (Layer(Conv(np.ones((2, 1, 4, 4), int)), INTEGRATOR),),
            Encoding("rate", 4, low=0, high=1),
        )
        with pytest.raises(LearningError, match="ends in a dense layer"):
            tasks.grown(image, 3)
        for spread in (float("inf"), float("nan"), -1.0):
            with pytest.raises(LearningError, match=f"spread is {spread}: use 0 or more"):
                tasks.grown(network(), 12, spread=spread)
        widest = tasks.grown(network(), 12, spread=1e308)
        assert widest.classes == 12


class TestNewClasses:
    def test_what_is_learned_and_tested(self, digits):
        task = tasks.new_classes(network(), digits, (8, 9), replay=0.25, balance=False)
        labels = task.learn.labels
        new = np.isin(digits.y_train, (8, 9)).sum()
        assert np.isin(labels, (8, 9)).sum() == new
        assert len(labels) - new == task.replayed == round(0.25 * (600 - new))
        counts = np.bincount(labels)[:8]
        share = np.bincount(digits.y_train)[:8] * 0.25
        assert (np.abs(counts - share) <= 1).all()
        # Each sample has its own label still, and old and new are mixed.
        known = {x.tobytes(): y for x, y in zip(digits.x_train, digits.y_train, strict=True)}
        values = task.learn.samples.values
        assert [known[x.tobytes()] for x in values] == labels.tolist()
        assert len({x.tobytes() for x in values}) == len(values)
        assert np.isin(labels[: len(labels) // 2], (8, 9)).mean() == pytest.approx(
            np.isin(labels, (8, 9)).mean(), abs=0.15
        )
        assert {k: len(v) for k, v in task.tests.items()} == {
            "old": (digits.y_test < 8).sum(),
            "new": (digits.y_test >= 8).sum(),
            "all": 400,
        }
        assert set(task.tests["old"].labels) == set(range(8))

    def test_balance_repeats_what_is_replayed(self, digits):
        task = tasks.new_classes(network(), digits, (8, 9), replay=16)
        assert task.replayed == 16
        values = task.learn.samples.values[task.learn.labels < 8]
        different, times = np.unique(values.reshape(-1, 64), axis=0, return_counts=True)
        assert len(different) == 16
        assert times.max() - times.min() <= 1
        new = (digits.y_train >= 8).sum()
        assert len(values) == round(new / 2 * 8)

    def test_outputs_are_added(self, digits, knows_eight):
        task = tasks.new_classes(knows_eight, digits, (9,), old=(0, 1, 2))
        assert task.network.classes == 10
        assert set(task.learn.labels) == {9}
        assert set(task.tests["all"].labels) == {0, 1, 2, 9}
        # Without a word what is old is what it has outputs for: 8 is neither.
        task = tasks.new_classes(knows_eight, digits, (9,), replay=1.0)
        assert set(task.learn.labels) == {*range(8), 9}

    @pytest.mark.parametrize(
        ("classes", "options", "message"),
        [
            ((12,), {}, "no training sample of class 12"),
            ((), {}, "name at least one class"),
            ((8, 9), {"replay": 1.5}, "replay is 1.5: a part is 0.0..1.0"),
            ((8, 9), {"replay": 10_000}, "there are 4[0-9][0-9] old samples"),
            ((8, 9), {"replay": -1}, "replay is -1"),
            ((8, 9), {"old": (8,)}, "class 8 cannot be both"),
            (range(10), {}, "no old class is left"),
        ],
    )
    def test_refused(self, digits, classes, options, message):
        with pytest.raises(LearningError, match=message):
            tasks.new_classes(network(), digits, classes, **options)

    def test_learns_them_and_replay_keeps_the_old(self, digits, knows_eight):
        def learned(replay):
            task = tasks.new_classes(knows_eight, digits, (8, 9), replay=replay)
            return tasks.run(task, mode="readout", rule=RULE, epochs=5)

        without, with_some = learned(0), learned(0.3)
        for report in (without, with_some):
            assert report.before["old"].accuracy > 0.85
            assert report.before["new"].accuracy < 0.4
            assert report.after["new"].accuracy > 0.6
            old = report.before["old"].accuracy - report.after["old"].accuracy
            assert report.forgetting == pytest.approx(old)
        assert without.forgetting > 0.4
        assert with_some.forgetting < 0.15
        again = learned(0.3)
        assert again.network == with_some.network
        assert again.data == with_some.data


class TestScores:
    def test_by_class(self, digits, knows_eight):
        task = tasks.new_classes(knows_eight, digits, (8, 9))
        scores = tasks.tested(task.network, task.tests)
        some = digits.y_test < 8
        x, y = digits.x_test[some].reshape(-1, 64), digits.y_test[some]
        found = decide(reference.predict(task.network, task.network.encoding.encode(x)))
        for label in range(8):
            assert scores["old"].right[label] == ((found == y) & (y == label)).sum()
            assert scores["old"].by_class[label] == (found == y)[y == label].mean()
        np.testing.assert_array_equal(scores["old"].total, np.bincount(y, minlength=10))
        assert np.isnan(scores["old"].by_class[8:]).all()
        assert scores["old"].accuracy == (found == y).mean()
        assert (scores["all"].right == scores["old"].right + scores["new"].right).all()


class TestWhole:
    def test_is_learn_itself(self, digits):
        """From scratch and last layer only are ``learn``, with scores around it."""
        for mode in ("hidden", "readout"):
            report = tasks.run(
                tasks.whole(network(), digits).limited(150), mode=mode, rule=RULE, seed=4
            )
            samples = Samples(digits.x_train[:150], network().encoding)
            plain = learn(network(), samples, digits.y_train[:150], mode=mode, rule=RULE, seed=4)
            assert report.network == plain.network
            test = Samples(digits.x_test, network().encoding)
            assert report.before["test"].accuracy == accuracy(network(), test, digits.y_test)
            assert report.after["test"].accuracy == accuracy(plain.network, test, digits.y_test)
            assert report.forgetting is None
            changed = {change.name: change.changed for change in report.changes}
            assert {k: v for k, v in changed.items() if v} == plain.changed

    def test_limited(self, digits):
        with pytest.raises(LearningError, match=r"601 samples asked for, use 1..600"):
            tasks.whole(network(), digits).limited(601)

    def test_the_history_goes_on_with_the_checkpoint(self, digits, tmp_path):
        options = {"rule": RULE, "saved": tmp_path / "s", "history": tmp_path / "h.jsonl"}
        task = tasks.whole(network(), digits)
        first = tasks.run(task, **options)
        assert [p["samples"] for p in first.history.points] == [0, 500, 600]
        again = tasks.run(task, **options)  # all has been learned already
        assert again.history.points == first.history.points
        assert set(first.history.points[0]["accuracy"]) == {"test"}

    def test_lava_keeps_no_history(self, digits):
        with pytest.raises(LearningError, match="fast engine alone"):
            tasks.run(tasks.whole(network(), digits), engine="lava", history=True)


class TestSensors:
    def test_drift_is_learned(self, digits):
        whole = tasks.run(tasks.whole(network(), digits), mode="hidden", rule=RULE, epochs=4)
        task = tasks.drifted(whole.network, digits, Drift(turn=40), replay=50)
        report = tasks.run(task, mode="both", rule=RULE, epochs=4, history=True)
        assert task.replayed == 50 and len(task.learn) == 650
        assert "simulated" in task.notes[0]
        assert report.before["old"].accuracy == whole.after["test"].accuracy
        assert report.before["new"].accuracy < 0.6
        assert report.after["new"].accuracy > 0.75
        page = picture.page(report, "pumice <learn>").decode()
        assert "pumice &lt;learn&gt;" in page and "<script" not in page
        assert f"{report.after['new'].accuracy:.2%}" in page
        assert page.count("<svg") == 6 + 2 * 2
        for part in ("turn=40", "simulated", "third factors", "at the limit"):
            assert part in page

    def test_a_second_data_set_of_one_value(self, digits):
        second = replace(digits, name="mine", low=3.0, high=3.0)
        with pytest.raises(LearningError, match="mine goes from 3 to 3: no range to rescale"):
            tasks.new_sensor(network(), digits, second, rescale=True)
        assert len(tasks.new_sensor(network(), digits, second).learn) == 600

    def test_a_seed_below_0(self, digits):
        for call in (
            lambda: tasks.new_classes(network(), digits, (8, 9), seed=-1),
            lambda: tasks.grown(network(), 12, seed=-1),
            lambda: tasks.drifted(network(), digits, Drift(turn=40), seed=-1),
        ):
            with pytest.raises(LearningError, match="seed is -1: use 0 or more"):
                call()

    def test_a_second_data_set(self, digits):
        flat = (digits.x_train.reshape(600, 64) / 32.0, digits.x_test.reshape(400, 64) / 32.0)
        second = Data("mine", flat[0], digits.y_train, flat[1], digits.y_test, 0.0, 0.5)
        task = tasks.new_sensor(network(), digits, second, rescale=True)
        # The same digits in other units: after rescaling, the same payloads.
        ours = Samples(digits.x_train, network().encoding).take(slice(None))
        np.testing.assert_array_equal(task.learn.samples.take(slice(None)), ours)
        raw = tasks.new_sensor(network(), digits, second).learn.samples
        assert raw.take(slice(None)).mean() < 0.1 * ours.mean()
        small = replace(second, x_train=flat[0][:, :60], x_test=flat[1][:, :60])
        with pytest.raises(LearningError, match=r"mine has samples of \[60\]"):
            tasks.new_sensor(network(), digits, small)

    def test_replay_joins_both(self, digits):
        second = replace(digits, name="second", x_train=16 - digits.x_train)
        task = tasks.new_sensor(network(), digits, second, replay=0.1)
        pairs = {x.tobytes() for x in digits.x_train}, {x.tobytes() for x in second.x_train}
        found = [x.tobytes() for x in task.learn.samples.values]
        assert sum(x in pairs[0] for x in found) == task.replayed == 60
        assert sum(x in pairs[1] for x in found) == 600


class TestDrift:
    x = np.random.default_rng(0).integers(0, 17, (50, 8, 8)).astype(np.uint8)

    def test_nothing(self):
        np.testing.assert_array_equal(Drift().apply(self.x, 0, 16), self.x)
        assert str(Drift()) == "none"

    def test_gain_and_offset(self):
        found = Drift(gain=0.5, offset=0.25).apply(self.x, 0, 16)
        np.testing.assert_array_equal(found, np.rint(np.clip(self.x * 0.5 + 4, 0, 16)))
        real = Drift(gain=2.0).apply(self.x + 1.0, 1, 17)
        np.testing.assert_allclose(real, np.clip((self.x) * 2.0, 0, 16) + 1)
        assert found.dtype == np.uint8 and real.dtype == np.float64

    def test_dead_pixels(self):
        found = Drift(dead=0.25).apply(self.x + 1.0, 1, 17)
        dead = (found == 1).all(axis=0) & ~(self.x == 0).all(axis=0)
        assert dead.sum() == 16
        np.testing.assert_array_equal(found[:, ~dead], self.x[:, ~dead] + 1.0)
        # More damage is the same pixels and more; and channels share a pixel.
        more = (Drift(dead=0.5).apply(self.x + 1.0, 1, 17) == 1).all(axis=0)
        assert more.sum() == 32 and more[dead].all()
        two = Drift(dead=0.25).apply(np.stack([self.x, self.x + 1], axis=1), 0, 17)
        assert not two[:, :, dead].any()
        other = (Drift(dead=0.25, seed=1).apply(self.x, 0, 16) == 0).all(axis=0)
        assert (other != dead).any()

    @pytest.mark.parametrize("size", [(8, 8), (7, 9)])
    @pytest.mark.parametrize("drift", [Drift(turn=25), Drift(turn=-70, down=1.5, right=-0.25)])
    def test_turned_as_scipy_does(self, size, drift):
        """Counter-clockwise on the screen, as ``ndimage.rotate``; then shifted, as ``shift``."""
        images = np.random.default_rng(2).random((3, *size))
        found = drift.apply(images, 0, 1)
        y, x = np.array(size) / 2 - 0.5
        angle = np.deg2rad(drift.turn)
        c, s = np.cos(angle), np.sin(angle)
        matrix = np.array([[c, s], [-s, c]])  # of rows and columns, from the new to the old
        centre = np.array([y, x])
        offset = centre - matrix @ (centre + np.array([drift.down, drift.right]))
        # grid-constant: beyond the edge there is 0, and pixels at the edge fade into it
        wanted = [
            ndimage.affine_transform(i, matrix, offset, order=1, mode="grid-constant")
            for i in images
        ]
        np.testing.assert_allclose(found, wanted, atol=1e-7)

    def test_turns_counter_clockwise_and_shifts_down_and_right(self):
        np.testing.assert_array_equal(
            Drift(turn=90).apply(self.x, 0, 16), np.rot90(self.x, axes=(1, 2))
        )
        found = Drift(down=2, right=1).apply(self.x, 0, 16)
        np.testing.assert_array_equal(found[:, 2:, 1:], self.x[:, :-2, :-1])
        assert not found[:, :2].any() and not found[:, :, :1].any()

    def test_noise_is_new_in_every_sample_and_the_same_again(self):
        still = np.full((4000, 4, 4), 0.5)
        found = Drift(noise=0.1).apply(still, 0, 1)
        assert found.std() == pytest.approx(0.1, rel=0.02)
        assert abs(np.corrcoef(found[0].ravel(), found[1].ravel())[0, 1]) < 0.9
        assert np.unique(found[:, 0, 0]).size > 3900
        np.testing.assert_array_equal(found, Drift(noise=0.1).apply(still, 0, 1))
        assert (found != Drift(noise=0.1).apply(still, 0, 1, part=1)).mean() > 0.99

    def test_uneven_is_the_same_in_all(self):
        found = Drift(uneven=0.3).apply(np.full((3, 20, 20), 0.4), 0, 1)
        np.testing.assert_array_equal(found[0], found[2])
        assert found[0].std() == pytest.approx(0.3 * 0.4, rel=0.15)

    def test_every_step_sees_the_same_sensor(self):
        events = np.random.default_rng(3).integers(0, 3, (4, 6, 2, 5, 5))
        drift = Drift(turn=30, dead=0.2)
        found = drift.apply(events, 0, 255, in_time=True)
        for t in range(6):
            np.testing.assert_array_equal(found[:, t], drift.apply(events[:, t], 0, 255))
        flat = np.random.default_rng(4).random((5, 30, 20)) + 0.1  # five samples, thirty steps
        dead = Drift(dead=0.5).apply(flat, 0, 2, in_time=True) == 0
        assert (dead == dead[0, 0]).all() and dead[0, 0].sum() == 10

    def test_texts(self):
        assert Drift.of(["dead=0.1", "seed=3"]) == Drift(dead=0.1, seed=3)
        for text, message in (
            ("rain=1", "name one of turn"),
            ("dead=x", "'x' is no number"),
            ("dead=2", r"dead is 2.0, use 0..1"),
            ("gain=nan", "gain is nan"),
        ):
            with pytest.raises(LearningError, match=message):
                Drift.of([text])
        with pytest.raises(LearningError, match="are no images"):
            Drift(turn=1).apply(np.zeros((3, 64)), 0, 1)


def test_figures_of_nothing():
    for zero in (True, False):
        assert "<svg" in str(charts.curves("", [1, 2], {"a": [None, None]}, zero=zero))
        assert "<circle" in str(charts.curves("", [1, 2], {"a": [None, 3.0]}, zero=zero))
    assert "<rect" not in str(charts.bars("", {}))
    assert str(charts.bars("", {"a": 2.0})).count("<rect") == 1
