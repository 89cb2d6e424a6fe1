"""What a user may rely on everywhere: presets, settings, loudness, colours, completion, exits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.accuracy import plan
from cli import main as command_line
from cli.main import main
from cli.output import Exit
from loihi import PumiceError
from trainer import presets, surrogates
from trainer.config import _CHOICES, _RANGES, ConfigError, TrainConfig
from trainer.cost import of_model
from trainer.rules import RULES, rule

ROOT = Path(__file__).resolve().parent.parent
SHAPES = {
    "mnist": ((1, 28, 28), 10),
    "fashion-mnist": ((1, 28, 28), 10),
    "cifar10": ((3, 32, 32), 10),
    "cifar100": ((3, 32, 32), 100),
    "dvs-gesture": ((2, 32, 32), 11),
    "tonic:CIFAR10DVS": ((2, 32, 32), 10),
}
SMALL = ("--data", "digits", "--model", "8", "--time-steps", "2", "--epochs", "1")


@pytest.fixture
def refuse(capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def refuse(*arguments: object, code: int = Exit.failed) -> str:
        assert main([str(a) for a in arguments]) == code
        out, err = capfd.readouterr()
        assert out == ""
        assert err.count("\n") == 1, err
        return err

    return refuse


# --- presets ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", presets.names())
def test_every_preset_can_be_trained_and_says_where_it_is_from(name: str) -> None:
    found = presets.read(name)
    assert found.about and found.source and found.differs
    settings = found.settings
    rule(settings.rule, **settings.to_dict())
    shape, classes = SHAPES[settings.data.split(",")[0]]
    assert of_model(settings.model, shape, classes)
    if settings.rule in ("tt_lbp", "sltt_k"):
        assert settings.time_steps % settings.k == 0
    if settings.encoding == "events":
        assert f"steps={settings.time_steps}," in settings.data


@pytest.mark.parametrize(
    ("name", "measured"),
    [
        ("sltt-mnist", "mlp-sltt-0"),
        ("sltt_k-mnist", "mlp-sltt_k2-0"),
        ("stop-mnist", "mlp-stop-0"),
        ("stop-mnist-latency", "latency-stop-0"),
        ("bptt-mnist", "mlp-bptt-0"),
        ("sltt-mnist-lenet", "mean-mnist-sltt-0"),
        ("sltt-fashion-mnist-lenet", "mean-fashion-mnist-sltt-0"),
        ("tt_lbp-fashion-mnist-lenet", "wide-fashion-mnist-tt_lbp_2_2"),
    ],
)
def test_our_presets_are_what_was_measured(name: str, measured: str) -> None:
    assert presets.read(name).settings == plan(measured.split("-")[0])[measured]


@pytest.mark.parametrize(
    ("name", "values"),
    [  # Table 1 of Guo et al. 2023: batch size, T, gradient width a, and τ of a membrane kept
        ("tt_lbp-cifar10", (128, 10, 0.5, 0.8)),
        ("tt_lbp-cifar10-dvs", (128, 100, 0.5, 0.8)),
        ("tt_lbp-dvs-gesture", (32, 60, 0.5, 0.3)),
    ],
)
def test_presets_hold_the_papers_table(name: str, values: tuple[float, ...]) -> None:
    s = presets.read(name).settings
    batch, steps, width, kept = values
    assert (s.batch_size, s.time_steps, s.surrogate_width) == (batch, steps, width)
    assert 1 - s.dv / 4096 == pytest.approx(kept, abs=1 / 4096)
    assert (s.surrogate, s.loss, s.epochs) == ("rectangle", "mse", 100)


def test_options_come_before_a_preset(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    options = (*SMALL, "--set", "lr=2", "--out", str(out))
    assert main(["train", "--preset", "stop-mnist", *options]) == 0
    written = TrainConfig.read(out / "config.toml")
    assert (written.rule, written.augment) == ("stop", "rotate=7,scale=0.08,elastic=0.7")
    assert (written.data, written.epochs, written.lr) == ("digits", 1, 2.0)
    assert "docs/benchmarks.md" in capfd.readouterr().err


def test_refuses_presets(refuse: Callable[..., str], tmp_path: Path) -> None:
    line = refuse("train", "--preset", "stlt-mnist")
    assert "preset 'stlt-mnist' is unknown: did you mean sltt-mnist?" in line
    line = refuse("train", "--preset", "sltt-mnist", "--config", "x.toml")
    assert "--config and --preset: give one of them" in line


# --- settings -----------------------------------------------------------------------------------


def test_every_setting_names_itself_and_what_it_may_be() -> None:
    """A wrong type and a wrong value, for all of them."""
    default = TrainConfig().to_dict()
    for name, value in default.items():
        wrong: Any = [["x"]] if isinstance(value, list) else [1] if value != "" else 3
        with pytest.raises(ConfigError, match=f"^{name} is ") as error:
            TrainConfig.from_dict({name: wrong})
        said = str(error.value)
        if name in _RANGES:
            assert f"{_RANGES[name][0]}..{_RANGES[name][1]}" in said
        elif name in _CHOICES:
            assert all(repr(choice) in said for choice in _CHOICES[name])
        elif isinstance(value, bool):
            assert "true or false" in said
    for name, (low, high) in _RANGES.items():
        for value in (low - 1, high + 1):
            with pytest.raises(ConfigError, match=rf"^{name} is .*: use {low}\.\.{high}"):
                TrainConfig.from_dict({name: value})
    for name, choices in _CHOICES.items():
        with pytest.raises(ConfigError, match=f"^{name} 'nothing' is unknown: use one of "):
            TrainConfig.from_dict({name: "nothing"})
        for choice in choices:
            TrainConfig.from_dict({name: choice})
    numbers = {n for n, v in default.items() if type(v) in (int, float)}
    assert numbers == set(_RANGES)
    free = {"data", "model", "augment", "device", "encoding", "readout"}  # these check themselves
    assert {n for n, v in default.items() if isinstance(v, str)} - free == set(_CHOICES)


def test_choices_are_all_there_are() -> None:
    assert list(_CHOICES["rule"]) == list(RULES)
    assert list(_CHOICES["surrogate"]) == list(surrogates.SHAPES)


def test_a_misspelt_setting_is_guessed(refuse: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("time_step = 3\n")
    line = refuse("train", "--config", tmp_path / "c.toml")
    assert "c.toml: unknown setting 'time_step'" in line
    assert "did you mean time_steps?" in line
    assert "did you mean epochs?" in refuse("train", "--set", "epoch=3")
    line = refuse("train", "--set", "rule=slt", "--out", tmp_path / "run")
    assert "rule 'slt' is unknown: use one of bptt, bptt_checkpoint, sltt" in line


# --- how loud, in which colours -----------------------------------------------------------------


@pytest.mark.parametrize("option", ["", "--quiet", "--verbose", "-q", "-v"])
def test_loudness(option: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ["train", *SMALL, "--out", str(tmp_path / "run"), *([option] if option else [])]
    assert main(arguments) == 0
    out, err = capfd.readouterr()
    assert "accuracy" in out
    assert ("epoch   1" in err) == (option not in ("--quiet", "-q"))
    assert ("rates 0." in err and "time_steps = 2" in err) == (option in ("--verbose", "-v"))
    if option in ("--quiet", "-q"):
        assert err == ""


def test_refusals_are_heard_however_quiet(refuse: Callable[..., str]) -> None:
    assert "pumice: " in refuse("report", "nowhere", "--quiet")
    line = refuse("report", "nowhere", "--quiet", "--verbose", code=Exit.usage)
    assert "--quiet and --verbose: give one of them" in line


def test_a_refusal_shows_where_it_comes_from_if_asked(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "nowhere", "--verbose"]) == Exit.failed
    err = capfd.readouterr().err
    assert "Traceback" in err and err.splitlines()[-1].startswith("pumice: nowhere is no folder")


def test_every_command_has_both(capfd: pytest.CaptureFixture[str]) -> None:
    for info in (*command_line.app.registered_commands, *command_line.data.app.registered_commands):
        assert info.callback is not None
        parameters = info.callback.__signature__.parameters  # type: ignore[attr-defined]
        assert {"quiet_", "verbose_", "_json"} <= set(parameters)


@pytest.mark.parametrize("no_color", ["", "1"])
def test_no_color(no_color: str) -> None:
    """On a terminal, as rich takes FORCE_COLOR for."""
    environment = {**os.environ, "FORCE_COLOR": "1", "TERM": "xterm-256color"}
    environment["NO_COLOR"] = no_color  # empty counts as absent (no-color.org)
    command = [sys.executable, "-m", "cli.main", "doctor"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert "Python" in done.stdout
    assert ("\x1b[3" in done.stdout) == (not no_color)


# --- completion, and how commands end -----------------------------------------------------------


def test_completion_knows_commands_and_presets_without_torch() -> None:
    code = (
        "import atexit, sys\n"
        "atexit.register(lambda: print('loaded', "
        "[n for n in ('torch', 'numba', 'lava') if n in sys.modules]))\n"
        "from cli.main import main; main()"
    )

    def complete(words: str) -> list[str]:
        environment = {
            **os.environ,
            "_PUMICE_COMPLETE": "complete_bash",
            "COMP_WORDS": words,
            "COMP_CWORD": str(len(words.split()) - 1),
        }
        command = [sys.executable, "-c", code]
        out = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        *found, loaded = out.stdout.split("\n")[:-1]
        assert loaded == "loaded []"
        return found

    assert complete("pumice com") == ["compare"]
    assert complete("pumice train --preset sltt-m") == ["sltt-mnist", "sltt-mnist-lenet"]


def test_exit_codes_are_as_documented() -> None:
    text = (ROOT / "docs" / "cli.md").read_text()
    for end in Exit:
        assert f"| {int(end)} |" in text
    assert [int(end) for end in Exit] == [0, 1, 2, 130]
    assert main(["--help"]) == Exit.ok
    assert main(["nonsense"]) == Exit.usage


# --- TensorBoard --------------------------------------------------------------------------------


def test_tensorboard_that_is_not_there(
    refuse: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    line = refuse("train", *SMALL, "--tensorboard", "--out", tmp_path / "run")
    assert "TensorBoard is not installed: pip install 'pumice[tensorboard]'" in line
    assert not (tmp_path / "run").exists()


def test_tensorboard_gets_the_metrics(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    out = tmp_path / "run"
    assert main(["train", *SMALL, "--epochs", "2", "--tensorboard", "--out", str(out)]) == 0
    found = accumulator.EventAccumulator(str(out / "tensorboard"))
    found.Reload()
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    for tag, name in (("loss/training", "loss"), ("accuracy/test", "test_accuracy")):
        events = found.Scalars(tag)
        assert [event.step for event in events] == [1, 2]
        assert [event.value for event in events] == pytest.approx([m[name] for m in lines])
    rates = found.Scalars("spike rate/layer 0")
    assert [e.value for e in rates] == pytest.approx([m["spike_rates"][0] for m in lines])


def test_tensorboard_does_not_write_where_a_run_is(tmp_path: Path) -> None:
    from trainer.tensorboard import Curves

    try:
        Curves(tmp_path / "tensorboard")
    except PumiceError:
        pytest.skip("TensorBoard is not installed")
    assert list(tmp_path.iterdir()) == []  # nothing before the first epoch
