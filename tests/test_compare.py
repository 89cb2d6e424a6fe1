"""Runs beside each other: what differs is said, and nothing else."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cli.main import main
from lava_export import netx
from trainer import runs
from trainer.config import TrainConfig

Ask = Any


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs on digits: ``one``; ``two``, with another rule and seed; ``wide``, a larger network."""
    folder = tmp_path_factory.mktemp("compare")
    common = ("train", "--data", "digits", "--time-steps", "3", "--lr", "2")
    for name, options in (
        ("one", ("--model", "12", "--epochs", "2")),
        ("two", ("--model", "12", "--epochs", "1", "--rule", "stop", "--seed", "4")),
        ("wide", ("--model", "20", "--epochs", "1", "--set", "neuron=A")),
    ):
        assert main([*common, *options, "--out", str(folder / name)]) == 0
    return folder


@pytest.fixture
def ask(capfd: pytest.CaptureFixture[str]) -> Ask:
    def ask(*arguments: object) -> dict[str, Any]:
        capfd.readouterr()
        assert main([*map(str, arguments), "--json"]) == 0
        answer: dict[str, Any] = json.loads(capfd.readouterr().out)
        return answer

    return ask


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / runs.METRICS).read_text().splitlines()]


def test_settings_and_results(place: Path, ask: Ask) -> None:
    answer = ask("compare", place / "one", place / "two")
    assert answer["settings"] == {"rule": ["sltt", "stop"], "epochs": [2, 1], "seed": [0, 4]}
    assert answer["versions"] == {}
    first, second = metrics(place / "one"), metrics(place / "two")
    results = answer["results"]
    for name in ("test_accuracy", "test_correct", "train_accuracy", "loss", "spikes"):
        assert results[name] == [first[-1][name], second[-1][name]]
    assert results["epochs"] == [2, 1]
    assert results["seconds"][0] == pytest.approx(first[0]["seconds"] + first[1]["seconds"])
    assert results["peak_bytes"][0] == max(line["peak_bytes"] for line in first)
    assert results["best_test_accuracy"][0] == max(line["test_accuracy"] for line in first)
    assert set(answer["how"]) == set(results)


def test_weights_are_compared_number_by_number(place: Path, ask: Ask) -> None:
    one, two = (netx.read(place / name / "model.net") for name in ("one", "two"))
    (found,) = ask("compare", place / "one", place / "two")["networks"]
    assert [layer["name"] for layer in found] == list(one.names)
    for index, layer in enumerate(found):
        ours, theirs = (n.layers[index].synapse.weight.ravel().tolist() for n in (one, two))
        apart = [abs(a - b) for a, b in zip(ours, theirs, strict=True)]
        assert layer["weights"] == len(apart)
        assert layer["differ"] == sum(d > 0 for d in apart) > 0
        assert layer["largest"] == max(apart)
        assert layer["mean"] == pytest.approx(sum(apart) / len(apart))
        for name in ("vth", "du", "dv"):
            assert layer[name] == [getattr(n.layers[index].neuron, name) for n in (one, two)]


def test_files_are_compared_byte_by_byte(place: Path, ask: Ask, tmp_path: Path) -> None:
    again = tmp_path / "again"
    shutil.copytree(place / "one", again)
    content = bytearray((again / "checkpoint.safetensors").read_bytes())
    content[-1] ^= 1
    (again / "checkpoint.safetensors").write_bytes(content)
    (again / "environment.json").unlink()
    answer = ask("compare", place / "one", again)
    assert answer["settings"] == {}
    assert answer["files"] == {
        "config.toml": [True, True],
        "environment.json": [True, None],
        "metrics.jsonl": [True, True],
        "checkpoint.safetensors": [True, False],
        "model.net": [True, True],
    }
    assert all(layer["differ"] == layer["largest"] == 0 for layer in answer["networks"][0])
    file = runs.read(again).files["model.net"]
    raw = (again / "model.net").read_bytes()
    assert (file.size, file.sha256) == (len(raw), hashlib.sha256(raw).hexdigest())


def test_three_runs_one_without_a_network(
    place: Path, ask: Ask, capfd: pytest.CaptureFixture[str]
) -> None:
    folders = [place / name for name in ("one", "two", "wide")]
    answer = ask("compare", *folders)
    assert answer["settings"]["neuron"] == ["chip", "chip", "A"]
    assert answer["networks"][1] is None
    assert main(["compare", *map(str, folders)]) == 0
    out = capfd.readouterr().out
    assert "wide against one  no network of the same layers" in out
    last = metrics(place / "two")[-1]
    assert f"{last['test_accuracy']:.2%}" in out
    assert f"{last['spikes']:,.1f}" in out


def test_versions_are_compared(place: Path, ask: Ask, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(place / "one", other)
    noted = json.loads((other / "environment.json").read_text())
    noted.append({**noted[0], "from_epoch": 2, "torch": "9.9"})
    (other / "environment.json").write_text(json.dumps(noted))
    answer = ask("compare", place / "one", other)
    assert answer["versions"] == {"torch": [noted[0]["torch"], "9.9"]}


def test_refuses_one_run_and_no_run(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(place / "one")]) == 1
    assert "name two runs or more" in capfd.readouterr().err
    assert main(["compare", str(place / "one"), str(place)]) == 1
    assert "is no run folder" in capfd.readouterr().err


# --- what a run folder keeps --------------------------------------------------------------------


def test_versions_are_noted_and_nothing_of_the_machine(place: Path) -> None:
    import platform

    import torch

    (noted,) = json.loads((place / "one" / "environment.json").read_text())
    assert set(noted) == {"from_epoch", "pumice", "python", "torch", "numpy", "platform"}
    assert noted["torch"] == torch.__version__
    assert noted["numpy"] == np.__version__
    assert noted["python"] == platform.python_version()
    text = (place / "one" / "environment.json").read_text()
    assert platform.node() not in text and str(Path.home()) not in text and "/" not in text


def test_a_resumed_run_notes_what_it_goes_on_with(tmp_path: Path) -> None:
    runs.note_environment(tmp_path, 1, "2.3")
    runs.note_environment(tmp_path, 5, "2.3")  # the same: nothing to note
    runs.note_environment(tmp_path, 7, "2.4")
    noted = json.loads((tmp_path / "environment.json").read_text())
    assert [(n["from_epoch"], n["torch"]) for n in noted] == [(1, "2.3"), (7, "2.4")]
    runs.note_environment(tmp_path, 1, "2.5")
    assert len(json.loads((tmp_path / "environment.json").read_text())) == 1


@pytest.mark.parametrize("kept", ["checkpoint.safetensors", "model.net", "metrics.jsonl"])
def test_no_file_of_a_run_is_overwritten(
    place: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], kept: str
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    shutil.copy(place / "one" / kept, folder)
    before = (folder / kept).read_bytes()
    assert main(["train", "--data", "digits", "--epochs", "1", "--out", str(folder)]) == 1
    err = capfd.readouterr().err
    assert err.count("\n") == 1
    assert f"holds a run already ({kept}), which is never overwritten" in err
    assert "--resume" in err and "--out" in err
    assert (folder / kept).read_bytes() == before
    assert [p.name for p in folder.iterdir()] == [kept]


def test_a_config_of_ones_own_is_not_overwritten(tmp_path: Path) -> None:
    config = TrainConfig()
    assert runs.occupied(tmp_path, config) is None
    (tmp_path / "config.toml").write_text("lr = 0.3  # my own\n")
    assert runs.occupied(tmp_path, config) == "config.toml"
    # What a run leaves that was killed before its first checkpoint is nobody's.
    (tmp_path / "config.toml").write_text(config.to_toml())
    (tmp_path / "metrics.jsonl").write_text("")
    assert runs.occupied(tmp_path, config) is None
    assert runs.occupied(tmp_path, replace(config, lr=0.1)) == "config.toml"
