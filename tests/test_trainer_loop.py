"""The loop: it learns, repeats itself, resumes to the same numbers, refuses in one clear line."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import loihi
from loihi import engine, reference
from loihi.errors import PumiceError
from trainer import checkpoint, data, loop
from trainer.config import TrainConfig
from trainer.data import Dataset
from trainer.loop import evaluate, shifted, train

ROOT = Path(__file__).resolve().parent.parent
SMALL = TrainConfig(model="24", time_steps=4, epochs=3, batch_size=50, shift=0.125, seed=3)


def few(samples: int = 300) -> Dataset:
    """Some of the digits."""
    digits = data.load("digits")
    return dataclasses.replace(
        digits,
        x_train=digits.x_train[:samples],
        y_train=digits.y_train[:samples],
        x_test=digits.x_test[:100],
        y_test=digits.y_test[:100],
    )


def numbers(folder: Path) -> tuple[dict[str, torch.Tensor], list[dict[str, object]]]:
    """A run's tensors, optimizer included, and its metrics without the seconds."""
    lines = [json.loads(line) for line in (folder / loop.METRICS).read_text().splitlines()]
    for line in lines:
        del line["seconds"], line["peak_bytes"]
    return load_file(folder / loop.CHECKPOINT), lines


def assert_same_run(a: Path, b: Path) -> None:
    (tensors_a, metrics_a), (tensors_b, metrics_b) = numbers(a), numbers(b)
    assert metrics_a == metrics_b
    assert tensors_a.keys() == tensors_b.keys()
    assert all(torch.equal(tensors_a[name], tensors_b[name]) for name in tensors_a)
    assert (a / loop.CONFIG).read_bytes() == (b / loop.CONFIG).read_bytes()


@pytest.mark.parametrize("rule", ["sltt", "bptt"])
def test_it_learns_digits_and_the_chip_agrees(rule: str, tmp_path: Path) -> None:
    config = TrainConfig(model="48", time_steps=8, epochs=8, rule=rule, batch_size=32)
    digits = data.load("digits")
    seen: list[dict[str, object]] = []
    exported: list[Path] = []
    result = train(
        config,
        digits,
        tmp_path / "run",
        on_epoch=seen.append,
        export=lambda network, folder: exported.append(folder),
    )
    assert result.accuracy > 0.9
    assert seen == result.metrics
    assert exported == [tmp_path / "run"]
    x = result.network.encoding.encode(digits.x_test)
    predicted = reference.predict(result.network, x).argmax(1)
    assert np.array_equal(predicted, result.predictions)
    assert result.correct == (predicted == digits.y_test).sum()
    assert evaluate(result.module, digits.x_test, digits.y_test)[0] == result.correct


def test_the_same_seed_gives_the_same_numbers(tmp_path: Path) -> None:
    for name in ("a", "b"):
        train(SMALL, few(), tmp_path / name)
    assert_same_run(tmp_path / "a", tmp_path / "b")
    train(dataclasses.replace(SMALL, seed=4), few(), tmp_path / "c")
    assert numbers(tmp_path / "a")[1] != numbers(tmp_path / "c")[1]


def test_the_learning_rate_falls_along_a_cosine(tmp_path: Path) -> None:
    """Six batches an epoch: the last batch's rate is what the metrics say."""
    metrics = train(SMALL, few(), tmp_path / "cosine").metrics
    last = [(6 * epoch - 1) / 18 for epoch in (1, 2, 3)]
    expected = [SMALL.lr / 2 * (1 + np.cos(np.pi * done)) for done in last]
    assert [line["lr"] for line in metrics] == pytest.approx(expected)
    steady = train(dataclasses.replace(SMALL, schedule="constant"), few(), tmp_path / "constant")
    assert {line["lr"] for line in steady.metrics} == {SMALL.lr}


def test_config_toml_alone_repeats_the_run(tmp_path: Path) -> None:
    config = dataclasses.replace(SMALL, hidden=(12,), lr=0.25, bias=True)
    train(config, few(), tmp_path / "a")
    again = TrainConfig.read(tmp_path / "a" / loop.CONFIG)
    assert again == config
    train(again, few(), tmp_path / "b")
    assert_same_run(tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize("stop_after", [0, 1, 2, 3])
def test_resume_gives_the_uninterrupted_numbers(stop_after: int, tmp_path: Path) -> None:
    """Stopped in the epoch after ``stop_after`` full ones, in the middle of a batch."""
    whole = train(SMALL, few(), tmp_path / "whole")

    class Stop(Exception):
        pass

    batches = iter(range(10**6))

    def count(*_: object) -> None:
        if next(batches) == stop_after * 6 + 3:
            raise Stop

    with pytest.MonkeyPatch.context() as patch:
        inner = loop.payloads
        patch.setattr(loop, "shifted", lambda *a: (count(), shifted(*a))[1])
        patch.setattr(loop, "payloads", inner)
        if stop_after < SMALL.epochs:
            with pytest.raises(Stop):
                train(SMALL, few(), tmp_path / "cut")
        else:
            train(SMALL, few(), tmp_path / "cut")
    resumed = train(SMALL, few(), tmp_path / "cut", resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "cut")
    assert resumed.network == whole.network
    assert np.array_equal(resumed.predictions, whole.predictions)


def test_resume_after_kill_9(tmp_path: Path) -> None:
    """A process killed in its second epoch leaves a run that goes on as if nothing had been."""
    script = (
        "import sys; sys.path[:0] = [sys.argv[1], sys.argv[1] + '/tests']\n"
        "from pathlib import Path\n"
        "from test_trainer_loop import SMALL, few, train\n"
        "train(SMALL, few(), Path(sys.argv[2]), on_epoch=lambda m: print('epoch', flush=True))\n"
    )
    command = [sys.executable, "-c", script, str(ROOT), str(tmp_path / "killed")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "epoch\n"
        os.kill(child.pid, signal.SIGKILL)
    # The same number of threads as the child's: sums in another order are other sums.
    train(SMALL, few(), tmp_path / "killed", resume=True)
    train(SMALL, few(), tmp_path / "whole")
    assert_same_run(tmp_path / "killed", tmp_path / "whole")


def test_shifts_move_images() -> None:
    images = np.arange(1, 2 * 5 * 6 + 1).reshape(2, 1, 5, 6)
    many = np.repeat(images, 200, axis=0)
    moved = shifted(many, 1, 0.0, torch.Generator().manual_seed(0))
    seen = set()
    for before, after in zip(many[:, 0], moved[:, 0], strict=True):
        matches = [
            (dy, dx)
            for dy in (-1, 0, 1)
            for dx in (-1, 0, 1)
            if np.array_equal(after, _moved(before, dy, dx))
        ]
        assert len(matches) == 1
        seen.add(matches[0])
    assert len(seen) == 9


def _moved(image: np.ndarray, dy: int, dx: int) -> np.ndarray:
    result = np.zeros_like(image)
    height, width = image.shape
    for y in range(height):
        for x in range(width):
            if 0 <= y + dy < height and 0 <= x + dx < width:
                result[y, x] = image[y + dy, x + dx]
    return result


# --- refusals -----------------------------------------------------------------------------------


def refused(words: str, config: TrainConfig, dataset: Dataset, folder: Path, **kw: object) -> None:
    with pytest.raises(PumiceError, match=words) as caught:
        train(config, dataset, folder, **kw)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_bad_data_are_refused(tmp_path: Path) -> None:
    good = few(60)
    change = dataclasses.replace
    labels = good.y_train.copy()
    labels[7] = 10
    empty = change(good, x_train=good.x_train[:0], y_train=good.y_train[:0])
    for words, dataset in [
        (r"y_train\[7\] is 10, labels are 0..9", change(good, y_train=labels)),
        (r"y_train\[7\] is -1", change(good, y_train=np.where(labels == 10, -1, labels))),
        ("x_train is empty", empty),
        ("60 samples in x_train, 59 labels", change(good, y_train=good.y_train[:-1])),
        ("x_test has samples of", change(good, x_test=good.x_test[..., :5])),
        (r"expected \[N, features\] or", change(good, x_train=good.x_train[:, :, None],
                                              x_test=good.x_test[:, :, None])),
    ]:  # fmt: skip
        refused(words, SMALL, dataset, tmp_path / "run")
    refused("kernel does not fit", change(SMALL, model="4c9"), good, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_checkpoints_of_other_runs_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    change = dataclasses.replace
    refused("there is no checkpoint", SMALL, few(), folder, resume=True)
    train(change(SMALL, epochs=1), few(), folder)
    before = (folder / loop.CHECKPOINT).read_bytes()
    once = change(SMALL, epochs=1)
    refused("another model: 64 → 24 → 10, not 64 → 32 → 10", change(once, model="32"), few(),
            folder, resume=True)  # fmt: skip
    refused(
        f"begun with lr = {TrainConfig().lr}, not 0.1",
        change(once, lr=0.1),
        few(),
        folder,
        resume=True,
    )
    refused("begun on other data", once, few(200), folder, resume=True)
    refused("holds a run already", once, few(), folder)
    assert (folder / loop.CHECKPOINT).read_bytes() == before

    (folder / loop.CHECKPOINT).write_bytes(before[: len(before) // 2])
    refused("damaged", once, few(), folder, resume=True)
    save_file({"weight": torch.zeros(3)}, folder / loop.CHECKPOINT)
    refused("no checkpoint pumice-training-2", once, few(), folder, resume=True)
    tensors, state = _split(before, folder)
    tensors["model.layers.0.synapse.weight"] = torch.zeros(3, 3)
    checkpoint.write(folder / loop.CHECKPOINT, tensors, state)
    refused("not a checkpoint of this model", once, few(), folder, resume=True)


def _split(raw: bytes, folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, object]]:
    (folder / loop.CHECKPOINT).write_bytes(raw)
    return checkpoint.read(folder / loop.CHECKPOINT)


def test_folders_that_cannot_be_written_are_refused_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop._Run, "train_epoch", lambda *_: pytest.fail("it trained"))
    (tmp_path / "file").write_text("")
    refused("cannot make the folder", SMALL, few(), tmp_path / "file" / "run")
    refused("cannot make the folder", SMALL, few(), Path("/proc/run"))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    refused("No space left on device", SMALL, few(), tmp_path / "run")
    assert list((tmp_path / "run").iterdir()) == []


def test_a_loss_that_is_no_number_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(loop.LOSSES, "cross_entropy", lambda o, y: o.sum() * float("nan"))
    refused("the loss is nan in epoch 1", SMALL, few(), tmp_path / "run")
    assert numbers(tmp_path / "run")[1] == []


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"rules": "sltt"}, "unknown setting 'rules'"),
        ({"epochs": 0}, "epochs is 0: use 1"),
        ({"epochs": 2.5}, "epochs is 2.5: expected int"),
        ({"bias": 1}, "bias is 1: expected bool"),
        ({"hidden": 8}, "hidden is 8: expected a list of whole numbers"),
        ({"hidden": [8.5]}, "expected a list of whole numbers"),
        ({"hidden": [0]}, "at least one neuron"),
        ({"lr": float("nan")}, "lr is nan"),
        ({"schedule": "linear"}, "use one of cosine, constant"),
        ({"encoding": "morse"}, "encoding 'morse' is unknown"),
        ({"payload": 256}, "payload is 256: use 1..255"),
        ({"rule": "hebb"}, "rule 'hebb' is unknown: use one of bptt, bptt_checkpoint, sltt, "),
        ({"surrogate": "square"}, "surrogate 'square' is unknown"),
        ({"per_neuron": True}, "LIF hold one threshold and one leak a layer; use neuron hard"),
        ({"device": "abacus"}, "device 'abacus' is unknown"),
        ({"model": "ga", "rule": "decolle", "classifiers": "random"}, "nothing in it would learn"),
    ],
)
def test_bad_settings_are_refused(setting: dict[str, object], words: str, tmp_path: Path) -> None:
    with pytest.raises(PumiceError, match=words):
        train(TrainConfig.from_dict({**SMALL.to_dict(), **setting}), few(60), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_bad_config_files_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    with pytest.raises(PumiceError, match="No such file"):
        TrainConfig.read(file)
    file.write_text("epochs = = 3")
    with pytest.raises(PumiceError, match="not a TOML file"):
        TrainConfig.read(file)
    file.write_text("epoch = 3")
    with pytest.raises(PumiceError, match=r"config.toml: unknown setting 'epoch'"):
        TrainConfig.read(file)
    file.write_text("hidden = [3, 4]\nlr = 1\n")
    assert TrainConfig.read(file) == TrainConfig(hidden=(3, 4), lr=1)


def test_trainer_data_does_without_torch() -> None:
    code = "import sys; sys.modules['torch'] = None; import trainer.data"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


# --- every rule ----------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["bptt_checkpoint", "sltt_k", "ottt", "stop", "tt_lbp", "decolle"])
def test_a_killed_run_ends_as_one_left_alone(rule: str, tmp_path: Path) -> None:
    """kill -9 in the middle of an epoch, then --resume: the same weights to the last bit."""
    script = """
import sys, os, signal
from dataclasses import replace
from pathlib import Path
from trainer import data, loop
from trainer.config import TrainConfig
digits = data.load("digits")
digits = replace(digits, x_train=digits.x_train[:200], y_train=digits.y_train[:200])
config = TrainConfig(model="24-16", rule=sys.argv[1], k=2, time_steps=4, epochs=3, batch_size=50,
                     augment="rotate=5", norm="bn")
kill, resume = sys.argv[3] == "kill", sys.argv[3] == "resume"
if kill:
    original, count = loop.payloads, [0]
    def payloads(module, x, *rest):
        count[0] += module.training and len(x) == 50
        if count[0] == 7:  # the third batch of the second epoch
            os.kill(os.getpid(), signal.SIGKILL)
        return original(module, x, *rest)
    loop.payloads = payloads
loop.train(config, digits, Path(sys.argv[2]), resume=resume)
"""

    def run(folder: Path, how: str) -> int:
        command = [sys.executable, "-c", script, rule, str(folder), how]
        return subprocess.run(command, timeout=120).returncode

    alone, killed = tmp_path / "alone", tmp_path / "killed"
    assert run(alone, "whole") == 0
    assert run(killed, "kill") == -signal.SIGKILL
    assert checkpoint.read(killed / loop.CHECKPOINT)[1]["epoch"] == 1
    assert run(killed, "resume") == 0
    ours, theirs = (checkpoint.read(f / loop.CHECKPOINT)[0] for f in (killed, alone))
    assert ours.keys() == theirs.keys()
    for name in theirs:
        assert torch.equal(ours[name], theirs[name]), name


def test_two_at_work_in_one_folder(tmp_path: Path) -> None:
    """The second is refused, beginning or resuming; the first ends as it does alone."""
    tried: list[str] = []

    def meanwhile(_: loop.Metrics) -> None:
        for resume in (False, True):
            config = SMALL if resume else replace(SMALL, seed=7)
            code = (
                "from pathlib import Path; from trainer import data, loop\n"
                "from trainer.config import TrainConfig\n"
                f"loop.train(TrainConfig(**{config.to_dict()!r}), data.load('digits'),"
                f" Path({str(tmp_path / 'run')!r}), resume={resume})"
            )
            done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
            assert done.returncode == 1
            tried.append(done.stderr.strip().splitlines()[-1])

    config = replace(SMALL, epochs=1)
    shared = loop.train(config, few(), tmp_path / "run", on_epoch=meanwhile)
    assert len(tried) == 2
    assert all("another command is at work in it: wait for it" in line for line in tried)
    alone = loop.train(config, few(), tmp_path / "alone")
    assert (shared.network, shared.accuracy) == (alone.network, alone.accuracy)
    assert loop.train(replace(config, epochs=1), few(), tmp_path / "run", resume=True).network


@pytest.mark.parametrize("option", [{"channels_last": True}, {"precision": "tf32"}])
def test_fast_paths_keep_the_forward_pass(option: dict[str, Any], tmp_path: Path) -> None:
    """On the CPU the whole training is the same; on a GPU, the forward pass (docs/training.md)."""
    digits = data.load("digits")
    digits = replace(digits, x_train=digits.x_train[:200], y_train=digits.y_train[:200])
    base = TrainConfig(model="6c3p1-2a-16", time_steps=4, epochs=1, batch_size=50)
    one = train(base, digits, tmp_path / "plain")
    other = train(replace(base, **option), digits, tmp_path / "fast")
    x = digits.x_test[:50]
    np.testing.assert_array_equal(
        loop.payloads(other.module, x).numpy(), loop.payloads(one.module, x).numpy()
    )
    frozen = other.network
    assert frozen is not None
    np.testing.assert_array_equal(
        engine.predict(frozen, frozen.encoding.encode(x)),
        other.module(loop.payloads(other.module, x)).numpy(),
    )


def test_real_numbers_train_and_do_not_freeze(tmp_path: Path) -> None:
    digits = data.load("digits")
    for neuron, per_neuron in (("hard", False), ("A", True), ("B", False)):
        config = TrainConfig(
            model="64", time_steps=4, epochs=3, neuron=neuron, per_neuron=per_neuron, rule="stop"
        )
        done = train(config, digits, tmp_path / neuron)
        assert done.network is None
        assert done.accuracy > 0.8


@pytest.mark.parametrize("rule", ["sltt", "bptt", "stop", "tt_lbp"])
def test_sums_that_float32_would_round(rule: str, tmp_path: Path) -> None:
    """A current with a memory takes 7 bits: large payloads into it are tested in float64."""
    config = replace(SMALL, rule=rule, payload=255, du=2048, epochs=1)
    done = train(config, few(), tmp_path / "run")
    assert done.module.exact_dtype() == torch.float64
    assert done.module.temperature.dtype == torch.float32
    x = done.network.encoding.encode(few().x_test)
    trace = reference.run(done.network, x, ("spikes", "v"))
    scores = reference.scores(done.network, trace)
    np.testing.assert_array_equal(loihi.decide(scores), done.predictions)


def test_validation_samples_are_held_out_of_training(tmp_path: Path) -> None:
    digits = data.load("digits")
    config = TrainConfig(model="16", time_steps=2, epochs=1, validation=0.25)
    done = train(config, digits, tmp_path / "run")
    assert done.metrics[-1]["test_samples"] == 350
    assert len(done.predictions) == 350


@pytest.mark.parametrize("neuron", ["chip", "hard"])
def test_surrogates_stay_as_wide_as_they_begin(neuron: str, tmp_path: Path) -> None:
    config = replace(SMALL, neuron=neuron, epochs=2, rule="bptt", lr_neuron=0.01)
    dataset, folder = few(), tmp_path / "run"
    fresh = loop.build_network(config, dataset)
    loop.draw(fresh, config, dataset)
    begun = float(fresh.chain[0].neurons.vth.detach())  # type: ignore[union-attr]
    trained = train(config, dataset, folder).module
    found = loop.restore(config, dataset, folder / loop.CHECKPOINT)
    for network in (fresh, trained, found):
        neurons = network.chain[0].neurons
        assert neurons is not None
        theta = neurons.thresholds().detach()
        unit = begun * (64 if neuron == "chip" else 1)
        assert float(neurons.surrogate.slope(theta, theta)) == pytest.approx(1 / unit)
    after = float(found.chain[0].neurons.vth.detach())  # type: ignore[union-attr]
    assert abs(after / begun - 1) > 0.02
    steep = train(replace(config, surrogate_unit="threshold"), dataset, tmp_path / "other").module
    neurons = steep.chain[0].neurons
    assert neurons is not None
    theta = neurons.thresholds().detach()
    assert float(neurons.surrogate.slope(theta, theta)) == pytest.approx(1 / float(theta))


@pytest.mark.parametrize("loss", ["mse", "mixed"])
def test_losses(loss: str, tmp_path: Path) -> None:
    o, y = torch.tensor([[0.5, 0.25], [1.0, 0.0]]), torch.tensor([0, 1])
    squares = (0.25 + 0.0625 + 1.0 + 1.0) / 4
    entropy = float(torch.nn.functional.cross_entropy(o, y))
    expected = squares if loss == "mse" else 0.95 * entropy + 0.05 * squares
    assert float(loop.LOSSES[loss](o, y)) == pytest.approx(expected)
