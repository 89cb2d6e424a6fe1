"""``pumice sweep``: what it searches, that nothing is lost or done twice, how it refuses."""

from __future__ import annotations

import csv
import inspect
import itertools
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("optuna")

from cli import sweep as command
from cli import train as train_command
from cli.main import main
from trainer import cost, loop, sweep
from trainer.config import TrainConfig
from trainer.data import hold_out, load
from trainer.rules import RULES
from trainer.sweep import Plan, Space, Sweep, SweepError

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Five classes of 20 features, noisy enough that settings matter."""
    rng = np.random.default_rng(0)
    y = np.arange(300) % 5
    x = np.kron(np.eye(5)[y], np.ones(4)) * 60 + rng.integers(0, 120, (300, 20))
    path = tmp_path_factory.mktemp("data") / "data.npz"
    x = x.astype(np.uint8)
    np.savez(path, x_train=x[:200], y_train=y[:200], x_test=x[200:], y_test=y[200:])
    return str(path)


@pytest.fixture
def fixed(data):
    """Settings that train in no time."""
    return TrainConfig(data=data, model="8", time_steps=3, epochs=3, validation=0.25)


LEARNING = {"lr": {"low": 0.01, "high": 5.0, "log": True}, "surrogate": ["triangle", "sigmoid"]}


def same(found, other):
    """The same trials with the same results; the time they took may differ."""
    return [replace(t, seconds=0) for t in found.trials] == [
        replace(t, seconds=0) for t in other.trials
    ]


def searched(plan, folder, trials):
    return Sweep(plan, folder).run(trials)


class TestSpace:
    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("lrr = [1]", "unknown setting 'lrr': the settings are ["),
            ("data = ['digits']", "data is the same in all trials"),
            ("device = ['cpu']", "device is the same in all trials"),
            ("seed = [1, 2]", "seed is the same in all trials"),
            ("validation = [0.1]", "validation is the same in all trials"),
            ("lr = []", "lr is an empty list"),
            ("lr = 0.5", "lr is 0.5: use a list, or {low = ..., high = ...}"),
            ("lr = ['fast']", "lr is 'fast': expected float"),
            ("lr = [0.5, 0.5]", "name every value once"),
            ("lr = [nan]", "lr is nan: use a finite number"),
            ("lr = [0]", "lr is 0: use 1e-09..1000.0"),
            ("epochs = [1.5]", "epochs is 1.5: expected int"),
            ("epochs = [true]", "epochs is True: expected int"),
            ("hidden = [8]", "hidden is 8: expected a list of whole numbers"),
            ("hidden = [[0]]", "hidden is [0]: layers have at least one neuron"),
            ("rule = ['sltt', 'slt']", "rule 'slt' is unknown: use one of bptt"),
            ("surrogate = ['step']", "surrogate 'step' is unknown: use one of triangle"),
            ("surrogate = {low = 1, high = 2}", "surrogate is no number"),
            ("bias = {low = 0, high = 1}", "bias is no number"),
            ("lr = {low = 1}", "lr: the range lacks high"),
            ("lr = {low = 1, high = 2, step = 1}", "a range has low, high and log, not 'step'"),
            ("lr = {low = 2, high = 1}", "the range is 2..1: low must be less than high"),
            ("lr = {low = 1, high = inf}", "lr is inf: use a finite number"),
            ("lr = {low = 1, high = 2, log = 1}", "log is 1: use true or false"),
            ("lr_neuron = {low = 0, high = 2, log = true}", "starts above 0, not at 0"),
            ("dv = {low = 0, high = 5000}", "dv is 5000: use 0..4096"),
            ("epochs = {low = 1, high = 2.5}", "epochs is 2.5: expected int"),
            ("detach_reset = [true]", "nothing but with rule bptt or"),
            ("", "is empty"),
            ("lr = ", "not a TOML file"),
        ],
    )
    def test_refuses_what_cannot_be_searched(self, tmp_path, capfd, text, words):
        space, out = tmp_path / "space.toml", tmp_path / "out"
        space.write_text(text)
        assert main(["sweep", "--space", str(space), "--out", str(out)]) == 1
        err = capfd.readouterr().err
        assert err.startswith(f"pumice: {space}")
        assert words in err
        assert err.count("\n") == 1
        assert not out.exists()

    def test_is_counted_with_what_depends_on_what(self, fixed):
        said = {"detach_reset": [False, True], "epochs": {"low": 2, "high": 4}}
        space = Space({"rule": ["sltt", "bptt"], **said}, fixed)
        expected = {("sltt", None, e) for e in (2, 3, 4)} | {
            ("bptt", d, e) for d in (False, True) for e in (2, 3, 4)
        }
        found = [
            (c["rule"], c.get("detach_reset"), c["epochs"]) for c in space.combinations() or []
        ]
        assert len(found) == 9
        assert set(found) == expected
        assert len(Space(said, replace(fixed, rule="bptt")).combinations() or []) == 6
        assert Space({**said, "rule": ["bptt"], "lr": [1.0]}, fixed).combinations() is not None
        assert Space({**LEARNING}, fixed).combinations() is None
        assert Space({"batch_size": {"low": 1, "high": 10**6}}, fixed).combinations() is None

    def test_lists_of_sizes_are_settings_again(self, fixed):
        space = Space({"hidden": [[], [16, 8]], "lr": [1, 0.5]}, fixed)
        every = [space.settings(params) for params in space.combinations() or []]
        assert {(s.hidden, s.lr) for s in every} == {
            (h, lr) for h in ((), (16, 8)) for lr in (1.0, 0.5)
        }

    def test_the_default_can_be_searched_whatever_is_given(self, fixed):
        whole = set(sweep.default_space(fixed).said)
        assert {"rule", "surrogate", "lr", "lr_neuron"} <= whole
        assert sweep.default_space(fixed, ["rule"]).said.keys() <= whole - {"rule"}
        of_mean = sweep.default_space(replace(fixed, loss_of="mean"))
        assert of_mean.said["rule"] == ["sltt", "sltt_k", "stop"]
        for rule in RULES:
            chosen = replace(fixed, rule=rule)
            assert "lr" in sweep.default_space(chosen, ["rule"]).said


class TestSearch:
    def test_finds_the_best_of_a_grid_that_brute_force_finds(self, fixed, tmp_path):
        grid = {"lr": [0.02, 0.5, 3.0], "surrogate": ["triangle", "rectangle"]}
        plan = Plan(Space(grid, fixed), prune=False)
        found = searched(plan, tmp_path / "sweep", 50)
        held = hold_out(load(fixed.data), 0.25, fixed.seed)
        right = {}
        for lr, surrogate in itertools.product(*grid.values()):
            settings = replace(fixed, lr=lr, surrogate=surrogate, validation=0.0)
            run = loop.train(settings, held, tmp_path / f"{lr}-{surrogate}")
            right[lr, surrogate] = run.accuracy
        assert {tuple(t.params.values()): t.accuracy for t in found.trials} == right
        assert len(found.trials) == 6
        assert found.best.accuracy == max(right.values()) > min(right.values())
        assert right[tuple(found.best.params.values())] == found.best.accuracy
        best = TrainConfig.read(tmp_path / "sweep" / "best.toml")
        assert best == replace(fixed, **found.best.params, validation=0.0)

    def test_is_better_than_chance_at_a_space_of_numbers(self, fixed, tmp_path, monkeypatch):
        """The sampler hears the results: at a smooth hill it comes close, and stays there."""

        def hill(config, dataset, folder, *, resume, on_epoch):
            accuracy = 1 - abs(np.log10(config.lr) - np.log10(2.0)) / 4
            on_epoch({"epoch": config.epochs, "seconds": 0.0, "test_accuracy": accuracy})
            return loop.TrainResult(None, [{"test_accuracy": accuracy}], None, None)

        monkeypatch.setattr(loop, "train", hill)
        space = Space({"lr": {"low": 0.001, "high": 10.0, "log": True}}, fixed)
        found = searched(Plan(space), tmp_path, 40)
        off = [1 - t.accuracy for t in found.trials]
        assert found.best.params["lr"] == pytest.approx(2.0, rel=0.1)
        assert statistics.mean(off[20:]) < statistics.mean(off[:10]) / 2

    def test_never_looks_at_the_test_samples(self, fixed, tmp_path):
        with np.load(fixed.data) as file:
            arrays = dict(file)
        arrays["x_test"] = 255 - arrays["x_test"]
        np.savez(tmp_path / "other.npz", **arrays)
        other = replace(fixed, data=str(tmp_path / "other.npz"))
        first, second = (
            searched(Plan(Space(LEARNING, f)), tmp_path / str(i), 2)
            for i, f in enumerate((fixed, other))
        )
        assert same(first, second)

    def test_prunes_what_is_below_the_median_and_nothing_else(self, fixed, tmp_path, monkeypatch):
        good = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]
        curves = [
            *[[0.2, *good[1:]]] * 2,
            *[good] * 3,
            [0.0, *good[1:]],  # below it in the first quarter only
            [*good[:3], 0.3, 0.5, 0.6, 0.7, 0.8],  # in epoch 4
            [*good[:7], 0.7],  # in the last epoch only, when there is nothing to be gained
            [0.1, 0.9, *[0.0] * 6],  # has been better
            [0.1, 0.1, *[0.9] * 6],  # as soon as it is judged
        ]
        runs = iter(curves * 2)

        def scripted(config, dataset, folder, *, resume, on_epoch):
            for epoch, accuracy in enumerate(next(runs), 1):
                on_epoch({"epoch": epoch, "seconds": 1.0, "test_accuracy": accuracy})
            return loop.TrainResult(None, [{"test_accuracy": accuracy}], None, None)

        monkeypatch.setattr(loop, "train", scripted)
        space = Space(LEARNING, replace(fixed, epochs=8))
        found = searched(Plan(space), tmp_path / "pruned", len(curves))
        ended = {6: 4, 9: 2}
        assert [t.state == "pruned" for t in found.trials] == [n in ended for n in range(10)]
        assert [t.epochs for t in found.trials] == [ended.get(n, 8) for n in range(10)]
        assert [t.seconds for t in found.trials] == [t.epochs for t in found.trials]
        assert [t.accuracy for t in found.trials] == [
            curve[ended.get(n, 8) - 1] for n, curve in enumerate(curves)
        ]
        assert found.best.number == 0  # the first of equals
        everything = searched(Plan(space, prune=False), tmp_path / "all", len(curves))
        assert everything.count("complete") == len(curves)
        assert everything.best.number == 9

    def test_the_seed_decides(self, fixed, tmp_path):
        first, again, other = (
            searched(Plan(Space(LEARNING, fixed), seed=seed), tmp_path / name, 3)
            for name, seed in (("a", 1), ("b", 1), ("c", 2))
        )
        assert same(first, again)
        assert len({t.params["lr"] for t in (*first.trials, *other.trials)}) == 6


class TestFigureOfMerit:
    def test_is_what_the_cost_model_and_the_accuracies_say(self, fixed, tmp_path):
        layers = cost.of_model("8", (20,), 5)
        grid = {"rule": ["bptt", "sltt", "tt_lbp"], "k": [1, 3], "n": [0, 1]}
        plan = Plan(Space(grid, fixed), "fom", prune=False)
        found = searched(plan, tmp_path / "s", 20)
        assert len(found.trials) == found.count("complete") == 6
        counted = cost.CostModel(layers, 128, 3)
        for trial in found.trials:
            p = trial.params
            k = {"bptt": 3, "sltt": 1}.get(p["rule"], p.get("k"))
            row = counted.row(k, 1, 1 - trial.accuracy)  # of one hidden layer, whatever n is
            assert trial.value == pytest.approx(row.fom, rel=1e-12)
            if p["rule"] == "bptt":
                assert trial.value == pytest.approx(2 - trial.accuracy)
        assert found.best.value == min(t.value for t in found.trials)
        assert found.best.params["rule"] != "bptt"

    @pytest.mark.parametrize(
        ("said", "words"),
        [
            ({"model": ["8", "9"]}, "on one network: model cannot be searched"),
            ({"time_steps": [3, 4]}, "on one network: time_steps cannot be searched"),
            ({"rule": ["sltt", "stop"]}, "knows the costs of bptt, sltt, tt_lbp, not of stop"),
        ],
    )
    def test_refuses_what_it_cannot_compare(self, fixed, said, words):
        with pytest.raises(SweepError, match=words):
            Plan(Space(said, fixed), "fom")

    def test_is_shown(self, data, tmp_path, capfd):
        line = ["sweep", "--data", data, "--model", "8", "--epochs", "1", "--time-steps", "4"]
        assert main([*line, "--objective", "fom", "--trials", "2", "--out", str(tmp_path)]) == 0
        header, first, *_ = capfd.readouterr().out.splitlines()
        assert header.split()[:4] == ["trial", "state", "fom", "held-out"]
        best = min(
            csv.DictReader((tmp_path / "trials.csv").open()), key=lambda r: float(r["value"])
        )
        assert first.split()[0] == best["trial"]
        assert first.split()[2] == f"{float(best['value']):.4g}"


class TestFailures:
    def test_are_recorded_and_the_others_tried(self, fixed, tmp_path):
        found = searched(Plan(Space({"model": ["8", "4c3"]}, fixed)), tmp_path, 9)
        by_model = {t.params["model"]: t for t in found.trials}
        assert by_model["8"].state == "complete"
        assert by_model["4c3"].state == "failed"
        assert by_model["4c3"].reason.startswith("layer 1: a convolution needs images")
        rows = list(csv.DictReader((tmp_path / "trials.csv").open()))
        assert {r["model"]: r["state"] for r in rows} == {"8": "complete", "4c3": "failed"}
        assert found.best == by_model["8"]

    def test_of_any_kind_take_one_line(self, fixed, tmp_path, monkeypatch):
        train = loop.train

        def fails(config, *arguments, **options):
            if config.lr == 1.0:
                raise RuntimeError("out of\n  memory")
            return train(config, *arguments, **options)

        monkeypatch.setattr(loop, "train", fails)
        found = searched(Plan(Space({"lr": [1.0, 0.5]}, fixed)), tmp_path, 2)
        reasons = {t.params["lr"]: t.reason for t in found.trials}
        assert reasons == {1.0: "RuntimeError: out of memory", 0.5: ""}

    def test_an_interrupt_is_none_whatever_a_library_makes_of_it(
        self, fixed, tmp_path, monkeypatch
    ):
        def interrupted(*arguments, **options):
            try:
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(60)
            except KeyboardInterrupt:
                raise RuntimeError("in a library") from None

        plan = Plan(Space({"lr": [1.0, 0.5]}, fixed))
        before = signal.getsignal(signal.SIGINT)
        with monkeypatch.context() as patch:
            patch.setattr(loop, "train", interrupted)
            for _ in range(4):  # as often as a trial may be killed, and once more
                with pytest.raises(KeyboardInterrupt):
                    searched(plan, tmp_path, 2)
        assert signal.getsignal(signal.SIGINT) is before
        found = searched(plan, tmp_path, 2)
        assert [t.state for t in found.trials] == ["complete", "complete"]

    def test_of_all_is_one(self, fixed, data, tmp_path, capfd):
        space = tmp_path / "space.toml"
        space.write_text("model = ['4c3', '5c3']")
        out = tmp_path / "out"
        assert main(["sweep", "--data", data, "--space", str(space), "--out", str(out)]) == 1
        last = capfd.readouterr().err.splitlines()[-1]
        assert last.startswith(f"pumice: all 2 trials failed, see {out}/trials.csv; the first: ")
        assert not (out / "best.toml").exists()
        assert len((out / "trials.csv").read_text().splitlines()) == 3


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory):
    """A sweep of four long trials that nobody disturbed, its folder and its command."""
    folder = tmp_path_factory.mktemp("undisturbed")
    space = folder / "space.toml"
    space.write_text("lr = {low = 0.05, high = 5.0, log = true}\nbias = [false, true]")
    options = ["--data", data, "--model", "8", "--time-steps", "3", "--epochs", "6"]
    line = ["sweep", *options, "--space", str(space), "--trials", "4"]
    assert main([*line, "--out", str(folder / "sweep")]) == 0
    plan = Plan.read(folder / "sweep")
    return line, searched(plan, folder / "sweep", 4), folder / "sweep"


RUN = "import sys; from cli.main import main; sys.exit(main(sys.argv[1:]))"
STOPS_IN_TRIAL_1 = """
import time
from trainer import loop

save = loop._Run.save

def stopping(run, metrics):
    save(run, metrics)
    if run.folder.name == "0001" and metrics["epoch"] == 3:
        time.sleep(600)

loop._Run.save = stopping
"""


def start(*arguments, code=""):
    return subprocess.Popen(
        [sys.executable, "-c", code + RUN, *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def wait_for(path, lines, child):
    until = time.monotonic() + 120
    while not path.exists() or len(path.read_text().splitlines()) < lines:
        assert child.poll() is None, child.stderr.read().decode()
        assert time.monotonic() < until
        time.sleep(0.002)


def states(folder):
    """By number, what the journal says, read without our own reader's help."""
    found = {}
    for line in (folder / "study.journal").read_text().splitlines():
        said = json.loads(line)
        if said["op_code"] == 4:
            found[len(found)] = said["state"]
        elif said["op_code"] == 6:
            found[said["trial_id"]] = said["state"]
    return found


RUNNING, COMPLETE = 0, 1


class TestGoingOn:
    def test_after_kill_9_nothing_is_lost_or_changed(self, undisturbed, tmp_path, capfd):
        line, expected, _ = undisturbed
        out = tmp_path / "sweep"
        child = start(*line, "--out", out, code=STOPS_IN_TRIAL_1)
        wait_for(out / "trials" / "0001" / "metrics.jsonl", 3, child)
        child.kill()
        child.wait()
        child.stderr.close()
        assert states(out) == {0: COMPLETE, 1: RUNNING}
        assert len((out / "trials" / "0001" / "metrics.jsonl").read_text().splitlines()) == 3
        assert main([*line, "--out", str(out), "--json"]) == 0
        answer = json.loads(capfd.readouterr().out)
        assert (answer["complete"], answer["failed"]) == (4, 0)
        assert states(out) == dict.fromkeys(range(4), COMPLETE)
        assert same(searched(Plan.read(out), out, 4), expected)

    def test_half_a_line_in_the_journal_is_what_a_kill_leaves(self, undisturbed, tmp_path):
        _, expected, folder = undisturbed
        journal = folder / "study.journal"
        lines = journal.read_bytes().splitlines(keepends=True)
        last = max(i for i, line in enumerate(lines) if json.loads(line)["op_code"] == 4)
        (tmp_path / "trials").mkdir()
        (tmp_path / "sweep.toml").write_bytes((folder / "sweep.toml").read_bytes())
        (tmp_path / "study.journal").write_bytes(b"".join([*lines[:last], lines[last][:-9]]))
        assert same(searched(Plan.read(tmp_path), tmp_path, 4), expected)
        assert states(tmp_path) == dict.fromkeys(range(4), COMPLETE)

    def test_after_an_interruption(self, fixed, tmp_path, monkeypatch):
        plan = Plan(Space(LEARNING, fixed))
        expected = searched(plan, tmp_path / "whole", 2)
        save = loop._Run.save

        def after_an_epoch(run, metrics):
            save(run, metrics)
            raise KeyboardInterrupt

        def at_once(*arguments):
            raise KeyboardInterrupt

        for method, how in [("save", after_an_epoch), *[("train_epoch", at_once)] * sweep.DEATHS]:
            with monkeypatch.context() as patch:
                patch.setattr(loop._Run, method, how)
                with pytest.raises(KeyboardInterrupt):
                    searched(plan, tmp_path / "cut", 2)
        with monkeypatch.context() as patch:
            patch.setattr(loop._Run, "begin", lambda run: pytest.fail("begun anew"))
            study = Sweep(plan, tmp_path / "cut")
            for _ in range(sweep.DEATHS - 1):  # found after an interruption, and after a death
                _, lock = study._take(1)
                lock.close()
            study.work(1, lambda: None)
        assert same(searched(plan, tmp_path / "cut", 2), expected)

    def test_a_trial_that_always_kills_its_process_has_failed(self, fixed, tmp_path):
        study = Sweep(Plan(Space(LEARNING, fixed)), tmp_path)

        def killed():
            number, lock = study._take(1)
            assert number == 0
            lock.close()  # as the operating system does for a process that is gone

        for _ in range(sweep.DEATHS):  # begun, and found twice: once less than it takes
            killed()
        study.storage.set_trial_intermediate_value(study._id(0), 1, 0.5)
        for _ in range(sweep.DEATHS - 1):
            killed()
        assert study._take(1) is None
        (trial,) = study.found().trials
        assert trial.state == "failed"
        assert trial.reason == "its process was killed 3 times in epoch 2: too little memory?"

    def test_more_trials_with_nothing_but_the_folder(self, undisturbed, tmp_path, capfd):
        line, expected, _ = undisturbed
        assert main([*line[:-1], "1", "--out", str(tmp_path / "s")]) == 0
        capfd.readouterr()
        assert main(["sweep", "--out", str(tmp_path / "s"), "--trials", "4", "--json"]) == 0
        answer = json.loads(capfd.readouterr().out)
        assert [t["accuracy"] for t in answer["trials"]] == [t.accuracy for t in expected.trials]
        assert answer["best"]["number"] == expected.best.number

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            (["--epochs", "5"], "begun with settings.epochs = 6, not 5"),
            (["--validation", "0.3"], "begun with settings.validation = 0.2, not 0.3"),
            (["--search-seed", "3"], "begun with seed = 0, not 3"),
            (["--no-prune"], "begun with prune = true, not false"),
            (["--lr", "1"], "lr is searched for in"),
            (["--space", "SPACE"], "begun with space.bias = [false, true], not nothing"),
            (["--config", "CONFIG"], "begun with settings.data = "),
            (["--data", "digits"], "begun with settings.data = "),
        ],
    )
    def test_with_anything_else_is_refused(self, undisturbed, tmp_path, capfd, options, words):
        (tmp_path / "space").write_text("lr = {low = 0.05, high = 5.0, log = true}")
        (tmp_path / "config").write_text("")
        options = [str(tmp_path / o.lower()) if o.isupper() else o for o in options]
        *_, folder = undisturbed
        before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        assert main(["sweep", "--out", str(folder), *options]) == 1
        err = capfd.readouterr().err
        assert words in err
        assert err.count("\n") == 1
        assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before

    def test_on_other_data_is_refused(self, fixed, tmp_path):
        with np.load(fixed.data) as file:
            arrays = dict(file)
        path = tmp_path / "data.npz"
        np.savez(path, **arrays)
        plan = Plan(Space(LEARNING, replace(fixed, data=str(path))))
        searched(plan, tmp_path / "s", 1)
        arrays["x_train"][0, 0] ^= 1
        np.savez(path, **arrays)
        with pytest.raises(SweepError, match="was begun on other data than this data"):
            searched(plan, tmp_path / "s", 2)

    @pytest.mark.parametrize(
        "damage",
        [
            b'{"op_code":99}\n',
            b'{"op_code":4,"worker_id":"x","study_id":0,"datetime_start":1}\n',
            b"\x80\x04\x95\x1e\x00cposix\nsystem\n(S'touch HERE'\ntR.\n",
            b"[]\n",
            b'{"op_code":4\n{}\n',
        ],
    )
    def test_a_damaged_journal_is_refused(self, fixed, tmp_path, damage, monkeypatch):
        monkeypatch.chdir(tmp_path)
        plan = Plan(Space(LEARNING, fixed))
        searched(plan, tmp_path / "s", 1)
        journal = tmp_path / "s" / "study.journal"
        journal.write_bytes(journal.read_bytes() + damage)
        kept = journal.read_bytes()
        with pytest.raises(SweepError, match=r"study\.journal is not the journal of a sweep"):
            searched(plan, tmp_path / "s", 2)
        assert journal.read_bytes() == kept
        assert not (tmp_path / "HERE").exists()

    def test_a_journal_of_another_space_is_refused(self, fixed, tmp_path):
        for name, space in (("a", LEARNING), ("b", {"lr": [0.5]})):
            searched(Plan(Space(space, fixed)), tmp_path / name, 1)
        shutil.copy(tmp_path / "a" / "study.journal", tmp_path / "b")
        with pytest.raises(SweepError, match="journal of a sweep: trial 0 drew lr from another"):
            searched(Plan(Space({"lr": [0.5]}, fixed)), tmp_path / "b", 2)

    @pytest.mark.parametrize(
        "text", ["", "data_crc32 = 1\n[space]\nlr = [1]\n[settings]\nlr = 'x'", "a ="]
    )
    def test_a_damaged_plan_is_refused(self, tmp_path, text, capfd):
        (tmp_path / "sweep.toml").write_text(text)
        assert main(["sweep", "--out", str(tmp_path)]) == 1
        assert f"pumice: {tmp_path / 'sweep.toml'}" in capfd.readouterr().err


class TestWorkers:
    def test_a_trial_that_somebody_works_on_is_left_to_them(self, undisturbed, tmp_path):
        """Two workers, one study: one is at work on trial 0 while the other does the rest."""
        _, expected, folder = undisturbed
        plan = Plan.read(folder)
        first, second = Sweep(plan, tmp_path), Sweep(plan, tmp_path)
        number, lock = first._take(4)
        assert number == 0
        told = []
        second.run(4, on_trial=lambda trial, ended: told.append((trial.number, trial.state, ended)))
        assert told == [(n, "complete", n) for n in (1, 2, 3)]
        assert states(tmp_path) == {0: RUNNING, 1: COMPLETE, 2: COMPLETE, 3: COMPLETE}
        with lock:
            first._run(0)
        # What is drawn at first does not depend on results, so these are the same four.
        assert same(searched(plan, tmp_path, 4), expected)

    def test_several_share_a_study(self, undisturbed, tmp_path, capfd):
        line, expected, _ = undisturbed
        out = tmp_path / "s"
        assert main([*line[:-1], "6", "--workers", "2", "--out", str(out), "--json"]) == 0
        out_text, err = capfd.readouterr()
        answer = json.loads(out_text)
        assert [t["number"] for t in answer["trials"]] == list(range(6))
        assert answer["complete"] + answer["pruned"] == 6
        assert [t["params"] for t in answer["trials"][:4]] == [t.params for t in expected.trials]
        told = [int(one.split()[1]) for one in err.splitlines() if one.startswith("trial")]
        assert sorted(told) == list(range(6))

    def test_end_with_who_started_them(self, undisturbed, tmp_path):
        line, *_ = undisturbed
        out = tmp_path / "s"
        child = start(*line[:-1], "500", "--workers", "2", "--out", out)
        wait_for(out / "trials" / "0001" / "metrics.jsonl", 2, child)
        children = [
            int(pid)
            for pid in Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split()
        ]
        assert len(children) == 2
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        child.stderr.close()
        until = time.monotonic() + 20
        while any(Path(f"/proc/{pid}").exists() for pid in children):
            assert time.monotonic() < until
            time.sleep(0.05)
        there = len(states(out))
        found = searched(Plan.read(out), out, 2)
        assert len(found.trials) == there
        assert [t.reason for t in found.trials if t.state == "failed"] == []
        assert found.count("running") == 0

    @pytest.mark.parametrize(
        ("script", "words"),
        [
            ("echo first; echo what it was >&2; exit 3", r"exit status 3 \(what it was\)"),
            ("kill -9 $$", "signal 9"),
        ],
    )
    def test_that_come_to_grief_say_how(self, fixed, tmp_path, monkeypatch, script, words):
        broken = tmp_path / "python"
        broken.write_text(f"#!/bin/sh\n{script}\n")
        broken.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(broken))
        study = Sweep(Plan(Space(LEARNING, fixed)), tmp_path / "s")
        with pytest.raises(SweepError, match=f"a worker ended by {words}: the same command goes"):
            study.run(2, workers=2)


class TestCommand:
    def test_best_toml_repeats(self, undisturbed, tmp_path, capfd):
        _, expected, folder = undisturbed
        best = TrainConfig.read(folder / "best.toml")
        own = TrainConfig.read(folder / "trials" / f"{expected.best.number:04}" / "config.toml")
        assert best == replace(own, validation=0.0)
        assert own.validation == 0.2
        runs = []
        for name in ("a", "b"):
            line = ["train", "--config", str(folder / "best.toml"), "--out", str(tmp_path / name)]
            assert main([*line, "--json"]) == 0
            runs.append(json.loads(capfd.readouterr().out))
        assert runs[0]["samples"] == 100  # the test samples, not the held-out ones
        assert runs[0]["accuracy"] == runs[1]["accuracy"]
        again = loop.train(own, load(own.data), tmp_path / "again")
        assert again.accuracy == expected.best.accuracy

    def test_takes_what_train_takes(self):
        theirs = set(inspect.signature(train_command.run).parameters)
        settings = theirs & {field.name for field in fields(TrainConfig)}
        assert {"data", "model", "rule", "epochs", "lr"} <= settings
        assert settings | {"config"} <= set(inspect.signature(command.run).parameters)

    def test_answers_people(self, undisturbed, capfd):
        *_, expected, folder = undisturbed
        assert main(["sweep", "--out", str(folder), "--trials", "4"]) == 0
        text = capfd.readouterr().out
        first = text.splitlines()[1].split()
        assert first[:2] == [str(expected.best.number), "complete"]
        assert f"{expected.best.accuracy:.2%}" in first
        assert f"pumice train --config {folder / 'best.toml'}" in text
        assert "4 complete" in text

    def test_the_default_space_and_options(self, data, tmp_path, capfd):
        line = ["sweep", "--data", data, "--model", "8", "--epochs", "1", "--time-steps", "4"]
        line += [
            "--lr",
            "2",
            "--set",
            "surrogate=sigmoid",
            "--trials",
            "3",
            "--out",
            str(tmp_path / "s"),
            "--json",
        ]
        assert main(line) == 0
        answer = json.loads(capfd.readouterr().out)
        assert all(
            t["params"].keys() & {"lr", "surrogate", "rule"} == {"rule"} for t in answer["trials"]
        )
        best = TrainConfig.read(tmp_path / "s" / "best.toml")
        assert (best.lr, best.surrogate) == (2.0, "sigmoid")

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            (["--validation", "1"], "validation is 1.0: use 0.0..0.9"),
            (["--validation", "0"], "validation is 0: name the fraction"),
            (["--validation", "nan"], "validation is nan: use 0.0..0.9"),
            (["--search-seed", "-1"], "the seed of the search is -1"),
            (["--data", "nothing.npz"], "nothing.npz does not exist"),
            (["--config", "nothing.toml"], "nothing.toml: No such file"),
            (["--space", "nothing.toml"], "nothing.toml: No such file"),
        ],
    )
    def test_refuses(self, tmp_path, capfd, options, words):
        out = tmp_path / "s"
        assert main(["sweep", "--out", str(out), *options]) == 1
        assert words in capfd.readouterr().err
        assert not out.exists()

    def test_refuses_the_folder_of_a_run(self, fixed, tmp_path):
        (tmp_path / "config.toml").write_text(fixed.to_toml())
        with pytest.raises(SweepError, match="holds a run: use another folder"):
            Sweep(Plan(Space(LEARNING, fixed)), tmp_path)
        assert [p.name for p in tmp_path.iterdir()] == ["config.toml"]

    @pytest.mark.parametrize("option", ["--trials", "--workers"])
    def test_refuses_none(self, tmp_path, capfd, option, fixed):
        assert main(["sweep", "--out", str(tmp_path / "s"), option, "0"]) == 2
        assert f"Invalid value for '{option}'" in capfd.readouterr().err
        with pytest.raises(SweepError, match=f"{option[2:]} is 0: use 1 or more"):
            Sweep(Plan(Space(LEARNING, fixed)), tmp_path / "s").run(**{"trials": 1, option[2:]: 0})

    def test_a_place_that_takes_no_folder(self, data, tmp_path, capfd):
        (tmp_path / "file").write_text("")
        assert main(["sweep", "--data", data, "--out", str(tmp_path / "file" / "s")]) == 1
        assert "cannot make the folder" in capfd.readouterr().err

    def test_without_optuna_says_what_to_install(self, tmp_path, capfd, monkeypatch):
        monkeypatch.setitem(sys.modules, "optuna", None)
        monkeypatch.delitem(sys.modules, "trainer.sweep")
        monkeypatch.delattr("trainer.sweep")
        assert main(["sweep", "--out", str(tmp_path / "s")]) == 1
        assert capfd.readouterr().err == (
            "pumice: a sweep needs Optuna: pip install 'pumice[sweep]'\n"
        )
