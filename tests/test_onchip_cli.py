"""``pumice learn``: its engines, its proof, its checkpoint, and how it refuses."""

from __future__ import annotations

import json

import numpy as np
import pytest

from cli import learn as command
from cli.main import main
from lava_export import netx
from onchip.engine import Learner
from onchip.hebbian import HebbianLearner
from onchip.learn import Proof


@pytest.fixture
def pumice(tmp_path, capfd):
    """Runs ``pumice learn`` on 32 samples of four classes: exit code, answer or last line."""
    rng = np.random.default_rng(0)
    y = np.arange(48) % 4
    x = (np.kron(np.eye(4)[y], np.ones(5)) * 200 + rng.integers(0, 50, (48, 20))).astype(np.uint8)
    data = tmp_path / "data.npz"
    np.savez(data, x_train=x[:32], y_train=y[:32], x_test=x[32:], y_test=y[32:])

    def pumice(*arguments, out="learned.net"):
        own = any(str(a).endswith(".net") for a in arguments[:1])
        shape = () if own else ("--hidden", "24", "--time-steps", "6")
        options = (*shape, "--out", str(tmp_path / out), "--json")
        code = main(["learn", "--data", str(data), *options, *map(str, arguments)])
        return code, json.loads(capfd.readouterr().out)

    return pumice


def test_the_fast_engine_is_the_default(pumice, tmp_path, monkeypatch):
    monkeypatch.setattr("onchip.learn.simulate", None)  # Lava is not asked
    code, answer = pumice("--mode", "both", "--epochs", 4)
    assert (code, answer["engine"], answer["samples"]) == (0, "fast", 128)
    assert answer["accuracy_after"] > answer["accuracy_before"]
    assert netx.read(tmp_path / "learned.net").classes == 4


def test_rule_rounding_and_seed_are_handed_on(pumice, tmp_path):
    files = []
    for n, options in enumerate(
        [(), ("--rule", "leak=900", "--rule", "gap=3"), ("--rounding", "chip-like"), ("--seed", 9)]
    ):
        code, _ = pumice(*options, out=f"{n}.net")
        assert code == 0
        files.append((tmp_path / f"{n}.net").read_bytes())
    assert len(set(files)) == len(files)


@pytest.mark.parametrize(
    ("mode", "learner"),
    [("hidden", Learner), ("stdp", HebbianLearner), ("reward", HebbianLearner)],
)
def test_goes_on_from_a_checkpoint(pumice, tmp_path, monkeypatch, mode, learner):
    saved = tmp_path / "place"
    options = ("--mode", mode, "--checkpoint", saved, "--epochs")
    code, first = pumice(*options, 3, out="first.net")
    assert code == 0
    monkeypatch.setattr(learner, "learn", None)  # nothing is left to learn
    code, second = pumice(*options, 3, out="second.net")
    assert code == 0
    assert second["accuracy_after"] == first["accuracy_after"]
    assert netx.read(tmp_path / "first.net") == netx.read(tmp_path / "second.net")
    for other in ((*options, 2), (*options, 3, "--seed", 7)):
        code, answer = pumice(*other)
        assert code == 1
        assert "is of another run" in answer["error"]


@pytest.mark.lava
def test_a_spec_of_several_blocks(pumice, tmp_path):
    """Two hidden layers, each with its error, in both engines; --rule counts for all blocks."""
    spec = tmp_path / "learn.toml"
    spec.write_text(
        "[[block]]\nlayers = [0]\nclassifier = 'trainable'\nrule = { leak = 800 }\n"
        "[[block]]\nlayers = [1]\nclassifier = 'trainable'\nfeedback = 'mirrored'\n"
    )
    options = ("--spec", spec, "--hidden", 8, "--rule", "readout_impulse=90")
    code, answer = pumice(*options, "--verify", 12)
    assert code == 0
    layers = {"0 dense 20-24", "classifier of 0 dense 20-24", "1 dense 24-8", "2 dense 8-4"}
    assert set(answer["changed"]) == layers
    weights = 20 * 24 + 24 * 4 + 24 * 8 + 8 * 4
    proof = answer["verified"]
    assert (proof["samples"], proof["weights"], proof["mismatches"]) == (12, weights, 0)


@pytest.mark.lava
def test_proves_itself_in_lava(pumice):
    code, answer = pumice("--verify", 5, "--mode", "both", "--rule", "epoch=2")
    assert code == 0
    proof = answer["verified"]
    assert (proof["samples"], proof["weights"], proof["mismatches"]) == (5, 24 * 24, 0)


def test_a_difference_fails(pumice, monkeypatch):
    monkeypatch.setattr(command, "prove", lambda *_, **__: Proof(5, 60, 576, 1, 1.0, 0.1))
    code, answer = pumice("--verify", 5)
    assert code == 1
    assert answer["verified"]["mismatches"] == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--rule", "gaps=2"), "name one of gap, amplitude"),
        (("--rule", "gap=1"), "gap is 1, use a whole number 2..32768"),
        (("--engine", "lava", "--rounding", "chip-like"), "rounds in its own way alone"),
        (("--engine", "lava", "--checkpoint", "x"), "can keep no checkpoint"),
        (("--verify", "33"), "the run has 1 to 32"),
        (("--epochs", "0"), "at least one is needed"),
        (("--hidden", "0"), "a layer needs at least 1 neuron"),
        (("--spec", "none.toml"), "none.toml: No such file"),
        (("--spec", "none.toml", "--mode", "both"), "leave --mode out"),
    ],
)
def test_refuses(pumice, tmp_path, options, words):
    code, answer = pumice(*options)
    assert code == 1
    assert words in answer["error"]
    assert "\n" not in answer["error"]
    assert not (tmp_path / "learned.net").exists()


def test_new_classes_another_sensor_and_a_drifted_one(pumice, tmp_path):
    """Each its own samples and tests; what was known and what is new are told apart."""
    code, trained = pumice("--mode", "both", "--epochs", 4, out="trained.net")
    assert code == 0
    known = tmp_path / "trained.net"
    code, answer = pumice(known, "--classes", "2,3", "--replay", "0.5", "--mode", "readout")
    assert code == 0
    assert set(answer["tests"]) == {"old", "new", "all"}
    assert answer["tests"]["all"][0] == trained["accuracy_after"]
    assert answer["report"]["replayed"] == 8
    code, answer = pumice(known, "--drift", "gain=0.5", "--drift", "dead=0.2")
    assert code == 0
    assert answer["tests"]["old"][0] == trained["accuracy_after"]
    assert "simulated" in answer["report"]["notes"][0]
    second = tmp_path / "data.npz"
    code, answer = pumice(known, "--second", second, "--rescale", "--replay", 4)
    assert code == 0
    assert answer["tests"]["old"][0] == answer["tests"]["new"][0] == trained["accuracy_after"]


def test_more_classes_than_the_network_has(pumice, tmp_path):
    """A network of two outputs learns the third and the fourth class."""
    from dataclasses import replace

    from loihi import Dense

    code, _ = pumice("--mode", "both", out="four.net")
    assert code == 0
    network = netx.read(tmp_path / "four.net")
    last = network.layers[-1]
    two = network.with_layer(-1, replace(last, synapse=Dense(last.synapse.weight[:2])))
    netx.write(two, tmp_path / "two.net")
    code, answer = pumice(tmp_path / "two.net", "--mode", "readout")
    assert code == 1
    assert "has 4 classes, the network answers with 2" in answer["error"]
    code, answer = pumice(tmp_path / "two.net", "--classes", "2,3", "--mode", "readout")
    assert code == 0
    assert netx.read(tmp_path / "learned.net").classes == 4
    assert answer["tests"]["new"][1] > 0.5


def test_says_what_was_plastic(pumice):
    assert pumice("--mode", "readout")[1]["report"]["mode"] == "readout"


def test_a_folder_that_is_not_there_is_said_before_learning(pumice, monkeypatch):
    monkeypatch.setattr(Learner, "learn", None)
    code, answer = pumice(out="none/learned.net")
    assert code == 1
    assert "cannot be written" in answer["error"]


def test_a_history_and_its_page(pumice, tmp_path):
    page, history = tmp_path / "page.html", tmp_path / "history.jsonl"
    code, _ = pumice("--epochs", 3, "--history", history, "--html", page)
    assert code == 0
    assert "</html>" in page.read_text("utf-8")
    assert [json.loads(line)["samples"] for line in history.read_text().splitlines()][-1] == 96


def test_by_spikes(pumice, tmp_path):
    """The layer that spikes learns, by STDP and by reward; the readout stays."""
    code, _ = pumice("--mode", "readout", out="before.net")
    assert code == 0
    before = netx.read(tmp_path / "before.net")
    for mode in ("stdp", "reward"):
        code, answer = pumice(tmp_path / "before.net", "--mode", mode, "--rule", "epoch=2")
        assert code == 0, answer
        after = netx.read(tmp_path / "learned.net")
        assert set(answer["changed"]) == {"0 dense 20-24"}
        assert (after.layers[0].synapse.weight != before.layers[0].synapse.weight).any()
        assert (after.layers[1].synapse.weight == before.layers[1].synapse.weight).all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--classes", "a"), "--classes a: numbers, as 8,9"),
        (("--classes", "7"), "has no training sample of class 7"),
        (("--classes", "3", "--drift", "turn=2"), "--classes and --drift: one at a time"),
        (("--replay", "3"), "all is learned here"),
        (("--classes", "3", "--replay", "x"), "a part as 0.1, or a number as 200"),
        (("--classes", "3", "--replay", "1.5"), "a part is 0.0..1.0"),
        (("--rescale",), "--rescale is for --second"),
        (("--drift", "turned=2"), "turned=2"),
        (("--mode", "stdp", "--verify", "2"), "--verify is of learning by errors"),
        (("--mode", "hidden", "--rule", "readout_rate=3"), "of classifiers, and none learns"),
        (("--mode", "readout", "--rule", "hidden_rate=3"), "of hidden layers, and none learns"),
        (("--verify", "2", "--rounding", "chip-like"), "Lava, which rounds in its own way"),
        (("--engine", "lava", "--history", "x"), "of the fast engine alone"),
        (("--html", "none/x.html"), "none/x.html: cannot be written: No such file"),
        (("--checkpoint", "none/x"), "none/x: cannot be written: No such file"),
        (("--classes", ""), "numbers, as 8,9"),
        (("--replay", ""), "all is learned here"),
        (("none.net", "--time-steps", "4"), "leave MODEL.net out"),
        (("--mode", "reward", "--rule", "leak=2"), "name one of gap, pre_tau"),
    ],
)
def test_refuses_tasks(pumice, tmp_path, options, words):
    code, answer = pumice(*options)
    assert code == 1
    assert words in answer["error"]
    assert "\n" not in answer["error"]
    assert not (tmp_path / "learned.net").exists()
