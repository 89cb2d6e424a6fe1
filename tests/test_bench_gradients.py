"""The rules' gradients beside BPTT's: what must be one, and what must not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench import gradients
from trainer import data, loop
from trainer.config import TrainConfig


def rows(folder: Path, capsys: pytest.CaptureFixture[str], **settings: Any) -> list[dict[str, Any]]:
    config = TrainConfig(model="24-16", epochs=1, bias=True, **settings)
    loop.train(config, data.load("digits"), folder)
    gradients.main([str(folder), "--samples", "64", "--json"])
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)["rows"]
    return found


def test_all_rules_are_one_at_a_single_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for row in rows(tmp_path / "run", capsys, time_steps=1):
        for name in ("detached", "sltt", "stop"):
            assert row[name] == pytest.approx(1, abs=1e-4)
            assert row[f"{name}_norm"] == pytest.approx(1, abs=1e-3)


def test_in_time_they_differ_below_the_top(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = rows(tmp_path / "run", capsys, time_steps=8, per_synapse=True)
    weights = [row for row in found if row["parameter"].endswith("weight")]
    assert [row["network"] for row in weights] == ["drawn"] * 3 + ["trained"] * 3
    for first, hidden, readout in (weights[:3], weights[3:]):
        for row in (first, hidden):
            assert row["sltt"] < 0.999
            assert row["ottt_norm"] != row["stop_norm"]
        # The top layer of neurons: stop is BPTT with its resets detached.
        assert hidden["stop"] == hidden["detached"]
        assert hidden["stop_norm"] == hidden["detached_norm"]
        assert first["stop"] != first["detached"]
        assert all(readout[name] == 1 for name in ("detached", "sltt", "ottt", "stop"))
    assert all("ottt" not in row for row in found if row["parameter"].endswith(("vth", "dv")))


def test_what_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"is no run folder: it has no config\.toml"):
        gradients.main([str(tmp_path)])
