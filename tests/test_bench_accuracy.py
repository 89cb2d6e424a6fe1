"""The accuracy job: what it plans, that it goes on where it was, and what its rows say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import accuracy
from trainer.config import TrainConfig
from trainer.rules import RULES, rule


def test_the_plan_is_the_table() -> None:
    mlp = accuracy.plan("mlp")
    assert {config.rule for config in mlp.values()} == set(RULES)
    for name in ("bptt", "sltt", "stop"):
        assert sorted(c.seed for c in mlp.values() if c.rule == name) == [0, 1, 2]
    assert all(config.time_steps <= 8 and config.data == "mnist" for config in mlp.values())
    lenet = accuracy.plan("lenet")
    assert {c.data for c in lenet.values()} == {"mnist", "fashion-mnist"}
    assert {c.rule for c in lenet.values()} == {"bptt", "sltt", "sltt_k", "stop", "tt_lbp"}
    wide = accuracy.plan("wide")
    assert {c.rule for c in wide.values()} == {c.rule for c in lenet.values()}
    assert {c.model for c in wide.values()} == {"32c5-2m-64c5-2m-256"}
    assert not {c.model for c in lenet.values()} & {c.model for c in wide.values()}
    mean = accuracy.plan("mean")
    assert {c.model for c in mean.values()} == {"32c5-2m-64c5-2m-256", "lenet"}
    assert {c.loss_of for c in mean.values()} == {"mean"}
    latency = accuracy.plan("latency")
    assert {c.encoding for c in latency.values()} == {"latency"}
    dense = [c for c in latency.values() if c.model == "mlp"]
    for name in ("bptt", "sltt", "stop"):
        assert sorted(c.seed for c in dense if c.rule == name and c.learn_leak) == [0, 1, 2]
    alone = [c for c in dense if not c.learn_leak]
    assert len(alone) == 6 and {c.learn_threshold for c in alone} == {True, False}
    others = [(c.data, c.rule) for c in latency.values() if c.model != "mlp"]
    assert sorted(others) == [(d, r) for d in ("fashion-mnist", "mnist") for r in ("sltt", "stop")]
    weights = accuracy.plan("alone")
    assert {c.rule for c in weights.values()} == {"sltt", "stop"}
    assert not any(c.learn_threshold or c.learn_leak for c in weights.values())
    assert len([c for c in weights.values() if c.model == "mlp" and c.time_steps == 4]) == 6
    grid = accuracy.plan("grid")
    assert len(grid) == 6 and {c.neuron for c in grid.values()} == {"chip", "hard"}
    joint = accuracy.plan("joint")
    assert len(joint) == 18 and {c.data for c in joint.values()} == {"digits", "mnist"}
    for group in accuracy.GROUPS:
        for config in accuracy.plan(group).values():
            assert rule(config.rule, **config.to_dict()) is not None  # none is refused
    with pytest.raises(SystemExit, match="group 'x' is unknown"):
        accuracy.plan("x")


def test_it_runs_goes_on_and_does_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = TrainConfig(model="16", time_steps=2, epochs=2)
    monkeypatch.setattr(accuracy, "plan", lambda group: {"a": config} if group == "mlp" else {})
    accuracy.main(["mlp", "--one", "a", "--out", str(tmp_path)])
    epochs = [json.loads(line)["epoch"] for line in capsys.readouterr().out.splitlines()]
    assert epochs == [1, 2]
    (tmp_path / "a" / accuracy.RESULT).unlink()
    accuracy.main(["mlp", "--one", "a", "--out", str(tmp_path)])
    assert capsys.readouterr().out == ""  # nothing left to train
    monkeypatch.setattr(accuracy.subprocess, "Popen", lambda *a, **k: pytest.fail("done already"))
    accuracy.main(["mlp", "--out", str(tmp_path), "--json"])
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert row["engine_equals_trainer"] and row["epochs"] == 2 and row["accuracy"] > 0.3
