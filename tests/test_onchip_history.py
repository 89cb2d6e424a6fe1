"""What is followed while a network learns, against its weights and Lava's traces by hand."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from loihi import Dense, Encoding, decide, reference
from onchip import history as histories
from onchip.engine import Learner
from onchip.history import History, HistoryError, compare
from onchip.learn import learn
from onchip.plan import build, random_network
from onchip.samples import Samples
from onchip.spec import LearningError, Rule, Spec

RULE = Rule(gap=4, leak=1000, hidden_rate=-4, readout_rate=-4)
NETWORK = random_network(12, 16, 3, Encoding("events", 6), weight=60, seed=2)
RNG = np.random.default_rng(0)
X = RNG.integers(0, 2, (1200, 6, 12)).astype(np.uint8)
Y = RNG.integers(0, 3, 1200)
WATCHED = Samples(X[:30], NETWORK.encoding), Y[:30]


def followed(mode="both", watch=None, **options):
    """A history, and the learner's weights at each of its calls."""
    history = History(watch or {"some": WATCHED}, **options)
    weights = []

    def look(learner):
        weights.append((learner.samples, learner.step, learner.learned))
        history(learner)

    result = learn(NETWORK, Samples(X, NETWORK.encoding), Y, mode=mode, rule=RULE, on_piece=look)
    return history, weights, result


@pytest.fixture(scope="module")
def run():
    return followed()


class TestPoints:
    def test_counts(self, run):
        history, weights, result = run
        begun = Learner(build(NETWORK, X[:200].swapaxes(0, 1), Spec.of_mode("both", RULE)), Y)
        seen = {0: (0, begun.learned)} | {samples: (step, w) for samples, step, w in weights}
        assert [point["samples"] for point in history.points] == [0, 500, 1000, 1200]
        assert list(seen) == [0, 500, 1000, 1200]
        before = begun.learned
        for point in history.points:
            step, now = seen[point["samples"]]
            assert point["steps"] == step
            for place, values in now.items():
                found = point["layers"][NETWORK.names[place]]
                assert found["changed"] == (values != begun.learned[place]).sum()
                assert found["moved"] == (values != before[place]).sum()
                assert found["mean_change"] == np.abs(values - before[place]).mean()
                at_limit = (values == -128) | (values == 127)
                assert found["saturated"] == at_limit.sum()
                edges = np.arange(-128, 129, 4) - 0.5
                np.testing.assert_array_equal(found["histogram"], np.histogram(values, edges)[0])
            before = now
        last = history.points[-1]["layers"]
        assert {name: last[name]["changed"] for name in last} == result.changed
        assert {name: last[name]["saturated"] for name in last} == result.saturated
        assert sum(result.saturated.values()) > 0, "nothing at the limit: the test says too little"

    def test_accuracy_and_rates_are_the_frozen_networks(self, run):
        history, _, result = run
        for network, point in ((NETWORK, history.points[0]), (result.network, history.points[-1])):
            x = network.encoding.encode(X[:30])
            right = decide(reference.predict(network, x)) == Y[:30]
            assert point["accuracy"] == {"some": right.mean()}
            spikes = reference.run(network, x).spikes[0]
            name = network.names[0]
            assert point["rates"] == {name: pytest.approx(spikes.mean())}
            assert point["silent"] == {name: (spikes.sum(axis=(0, 1)) == 0).mean()}

    def test_traces_and_factors_are_those_of_learning_the_watched(self, run):
        """At the beginning a twin is what a learner of the watched samples is."""
        history, _, _ = run
        x = X[:4].swapaxes(0, 1)
        plan = build(
            NETWORK, X[:200].swapaxes(0, 1), Spec.of_mode("both", replace(RULE, halvings=0))
        )
        learner = Learner(plan, Y[:4])
        (record,) = learner.learn(x, record=True)
        for place in (0, 1):
            point = history.points[0]["layers"][NETWORK.names[place]]
            trace, factor = record.traces[place], np.abs(record.factors[place])
            assert point["trace"] == {
                "mean": pytest.approx(trace.mean()),
                "largest": trace.max(),
                "busy": pytest.approx((trace > 0).mean()),
            }
            assert point["factor"] == {
                "mean": pytest.approx(factor.mean()),
                "largest": factor.max(),
                "busy": pytest.approx((factor > 0).mean()),
                "top": pytest.approx((factor == 127).mean()),
            }
            assert factor.max() > 0

    def test_with_the_weights_of_the_point(self):
        """At the end a twin is what a learner is that begins with what was learned."""
        history, _, result = followed("hidden")
        some, spec = X[:200].swapaxes(0, 1), Spec.of_mode("hidden", replace(RULE, halvings=0))
        begun, plan = (build(n, some, spec) for n in (NETWORK, result.network))
        plan = replace(plan, stages=begun.stages, heads=begun.heads)
        (record,) = Learner(plan, Y[:4]).learn(X[:4].swapaxes(0, 1), record=True)
        mean = np.abs(record.factors[0]).mean()
        first, last = (p["layers"][NETWORK.names[0]]["factor"]["mean"] for p in history.points[::3])
        assert last == pytest.approx(mean)
        assert first != pytest.approx(mean)

    def test_looking_changes_nothing(self, run):
        _, _, result = run
        plain = learn(NETWORK, Samples(X, NETWORK.encoding), Y, mode="both", rule=RULE)
        assert plain.network == result.network

    def test_arrays(self, run):
        history, _, _ = run
        arrays = history.arrays()
        assert arrays["samples"].tolist() == [0, 500, 1000, 1200]
        name = NETWORK.names[0]
        assert arrays[f"layers.{name}.histogram"].shape == (4, histories.BINS)
        assert arrays["accuracy.some"].dtype == np.float64
        assert (arrays[f"layers.{name}.histogram"].sum(axis=1) == 12 * 16).all()

    def test_every(self):
        assert len(followed(every=500)[0].points) == 4
        history, _, _ = followed(every=501)
        assert [point["samples"] for point in history.points] == [0, 1000, 1200]

    @pytest.mark.parametrize(
        ("watch", "options", "message"),
        [
            ({}, {}, "name samples to watch"),
            ({"a": (WATCHED[0], Y[:29])}, {}, "30 samples 'a' to watch, 29 labels"),
            ({"a": WATCHED}, {"every": 0}, "every is 0"),
        ],
    )
    def test_refused(self, watch, options, message):
        with pytest.raises(LearningError, match=message):
            History(watch, **options)


class TestFile:
    def test_holds_the_points(self, tmp_path):
        history, _, _ = followed(path=tmp_path / "h.jsonl")
        lines = (tmp_path / "h.jsonl").read_text().splitlines()
        assert [json.loads(line) for line in lines] == history.points
        assert histories.read(tmp_path / "h.jsonl") == history.points

    def test_goes_on_with_the_checkpoint(self, tmp_path, monkeypatch):
        """Interrupted, and taken up from before the last points: the same as at once."""
        monkeypatch.setattr("onchip.samples.SAVE_AFTER", 0.0)
        samples, path, saved = Samples(X, NETWORK.encoding), tmp_path / "h.jsonl", tmp_path / "s"
        options = {"mode": "both", "rule": RULE}
        whole = History({"some": WATCHED})
        learn(NETWORK, samples, Y, on_piece=whole, **options)
        first = History({"some": WATCHED}, path)

        def stop(learner):
            first(learner)
            if learner.samples == 1000:  # the checkpoint stays where it was
                monkeypatch.setattr("onchip.samples.SAVE_AFTER", 1e9)
            if learner.samples == 1200:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            learn(NETWORK, samples, Y, saved=saved, on_piece=stop, **options)
        assert [p["samples"] for p in histories.read(path)] == [0, 500, 1000, 1200]
        second = History({"some": WATCHED}, path, resume=True)
        learn(NETWORK, samples, Y, saved=saved, on_piece=second, **options)

        assert second.points == whole.points == histories.read(path)
        # Without the point before, what is counted from it is not known.
        histories.write(path, whole.points[:2])
        late = History({"some": WATCHED}, path, resume=True)
        learn(NETWORK, samples, Y, saved=saved, on_piece=late, **options)
        assert [point["samples"] for point in late.points] == [0, 500, 1200]
        name = f"layers.{NETWORK.names[0]}"
        assert np.isnan(late.arrays()[f"{name}.moved"]).tolist() == [False, False, True]
        same = late.arrays()[f"{name}.changed"] == whole.arrays()[f"{name}.changed"][[0, 1, 3]]
        assert same.all()

    def test_another_runs(self, tmp_path):
        path = tmp_path / "h.jsonl"
        followed(path=path)
        other = {"some": (Samples(X[30:60], NETWORK.encoding), Y[30:60])}
        with pytest.raises(HistoryError, match="the history of another run"):
            followed(watch=other, path=path, resume=True)

    @pytest.mark.parametrize(
        "text", ["", "x", "[1]\n", "{}\n", '{"samples": 1}\n', '{"samples": "a", "layers": {}}\n']
    )
    def test_damaged(self, tmp_path, text):
        path = tmp_path / "h.jsonl"
        path.write_text(text)
        with pytest.raises(HistoryError, match=r"h\.jsonl is no history"):
            histories.read(path)
        with pytest.raises(HistoryError, match="No such file"):
            histories.read(tmp_path / "none")


class TestCompare:
    def test_by_hand(self):
        after = NETWORK
        weight = np.array(NETWORK.layers[1].synapse.weight)
        before = weight.copy()
        weight[0, :3] = -128, 127, before[0, 2] + 5
        after = NETWORK.with_layer(1, replace(NETWORK.layers[1], synapse=Dense(weight)))
        first, second = compare(NETWORK, after)
        assert (first.changed, first.norm, first.largest) == (0, 0.0, 0)
        delta = weight.astype(int) - before
        assert second.name == NETWORK.names[1]
        assert second.weights == 48
        assert second.changed == (delta != 0).sum()
        assert second.norm == pytest.approx(np.sqrt((delta**2).sum()))
        assert second.relative == pytest.approx(second.norm / np.sqrt((before**2).sum()))
        assert second.mean == np.abs(delta).mean() and second.largest == np.abs(delta).max()
        assert second.odd == (np.sum(before % 2 != 0), np.sum(weight % 2 != 0))
        assert second.saturated == (0, 2)
        for found, values in zip(second.histogram, (before, weight), strict=True):
            edges = found.low + found.width * np.arange(len(found.counts) + 1)
            np.testing.assert_array_equal(found.counts, np.histogram(values, edges - 0.5)[0])
            assert found.total == 48

    def test_even_weights_reach_twice_as_far(self):
        weight = np.zeros((3, 16), dtype=int)
        weight[0, :4] = 240, 254, -256, 252
        wide = NETWORK.with_layer(1, replace(NETWORK.layers[1], synapse=Dense(weight)))
        change = compare(wide, wide)[1]
        assert change.saturated == (2, 2) and change.odd == (0, 0)
        assert (change.histogram[0].low, change.histogram[0].high) == (-256, 256)
        assert change.histogram[0].counts[[0, 32, 62, 63]].tolist() == [1, 44, 1, 2]

    def test_nothing_before(self):
        zero = Dense(np.zeros((3, 16), int))
        blank = NETWORK.with_layer(1, replace(NETWORK.layers[1], synapse=zero))
        change = compare(blank, NETWORK)[1]
        assert np.isnan(change.relative) and change.data["relative"] is None
        json.dumps(change.data, allow_nan=False)

    def test_other_networks(self):
        with pytest.raises(LearningError, match=r"of \[\(16, 12\), .* before, of \[\(8, 12\)"):
            compare(NETWORK, random_network(12, 8, 3, Encoding("events", 6)))
