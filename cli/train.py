"""``pumice train``: from data to a run folder with a ``.net`` file in it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import replace
from difflib import get_close_matches
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.data import recordings
from cli.output import Json, Result, detail, log, progress, table
from loihi.errors import PumiceError
from trainer.config import TrainConfig, parsed

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from loihi import Network
    from trainer.data import Dataset
    from trainer.loop import TrainResult

EXAMPLE = "pumice train --data mnist --model mlp --rule sltt --time-steps 16 --out runs/mnist"
MODEL = "model.net"
TENSORBOARD = "tensorboard"
DEFAULTS = TrainConfig()


class Rule(str, Enum):
    """How gradients are computed."""

    sltt = "sltt"
    sltt_k = "sltt_k"
    tt_lbp = "tt_lbp"
    stop = "stop"
    ottt = "ottt"
    decolle = "decolle"
    bptt = "bptt"
    bptt_checkpoint = "bptt_checkpoint"


class InputEncoding(str, Enum):
    """How data become spikes."""

    graded = "graded"
    rate = "rate"
    latency = "latency"
    events = "events"


def _presets(begin: str) -> list[str]:
    """For the shell's completion."""
    from trainer import presets

    return [name for name in presets.names() if name.startswith(begin)]


def run(
    data: Annotated[
        str | None,
        typer.Option(
            help=f"A name that `pumice data list` knows, or a path; {DEFAULTS.data} by default.",
            metavar="NAME|PATH",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="mlp, lenet, vgg11, sew_resnet18, …, or layers such as 8c5-2a-128; "
            f"{DEFAULTS.model} by default."
        ),
    ] = None,
    rule: Annotated[
        Rule | None, typer.Option(help=f"The training rule; {DEFAULTS.rule} by default.")
    ] = None,
    k: Annotated[
        int | None,
        typer.Option(help="sltt_k: backward passes a batch. tt_lbp: steps an interval, 0 for all."),
    ] = None,
    n: Annotated[
        int | None, typer.Option(help="tt_lbp: layers with weights a block, 0 for all.")
    ] = None,
    time_steps: Annotated[
        int | None, typer.Option(help=f"Steps a sample lasts; {DEFAULTS.time_steps} by default.")
    ] = None,
    encoding: Annotated[
        InputEncoding | None,
        typer.Option(help=f"How data become spikes; {DEFAULTS.encoding} by default."),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(help=f"Passes through the data; {DEFAULTS.epochs} by default.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help=f"Samples an update; {DEFAULTS.batch_size} by default.")
    ] = None,
    lr: Annotated[
        float | None, typer.Option(help=f"Learning rate in weight units; {DEFAULTS.lr} by default.")
    ] = None,
    shift: Annotated[
        float | None,
        typer.Option(
            help=f"Shift images by up to this fraction, in training; {DEFAULTS.shift} by default."
        ),
    ] = None,
    augment: Annotated[
        str | None, typer.Option(help="More of that, as in rotate=10,elastic=1,flip.")
    ] = None,
    validation: Annotated[
        float | None,
        typer.Option(help="Hold out this part of the training samples, and test on it instead."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed, the same numbers.")] = None,
    device: Annotated[
        str | None, typer.Option(help=f"cpu or cuda; {DEFAULTS.device} by default.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="A config.toml; options given as well come before it.")
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            help="Settings with a name, a paper's or ours (docs/training.md); options come before.",
            metavar="NAME",
            autocompletion=_presets,
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The run folder; runs/DATA-MODEL-RULE by default.")
    ] = None,
    settings_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="Any other setting of config.toml, as in norm=bn or readout=spikes. Repeatable.",
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in the folder.")
    ] = False,
    tensorboard: Annotated[
        bool,
        typer.Option("--tensorboard", help="Also write the curves for TensorBoard, if it is here."),
    ] = False,
    _json: Json = False,
) -> Result:
    """Train a network on the chip's number grid.

    The run folder then holds config.toml (which alone repeats the run), metrics.jsonl, the
    checkpoint, and model.net. On several GPUs or hosts: torchrun … -m cli.main train …
    """
    given = {
        "data": data,
        "model": model,
        "rule": rule and rule.value,
        "k": k,
        "n": n,
        "time_steps": time_steps,
        "encoding": encoding and encoding.value,
        "epochs": epochs,
        "batch_size": batch_size,
        "lr": lr,
        "shift": shift,
        "augment": augment,
        "validation": validation,
        "seed": seed,
        "device": device,
    }
    given |= _more(settings_ or [])
    if resume and out is None:
        raise PumiceError("--resume needs --out, the folder of the run to go on with")
    if config is not None and preset is not None:
        raise PumiceError("--config and --preset: give one of them; --set changes single settings")
    settings = _settings(given, config, out if resume else None, preset)
    if out is None:
        parts = (Path(settings.data).stem, settings.model, settings.rule)
        out = Path("runs", re.sub(r"[^\w.-]+", "_", "-".join(parts)))
    from trainer.data import load

    with recordings() as advance:
        dataset = load(settings.data, on_progress=advance)
    for note in dataset.notes:
        log(f"{dataset.name}: {note}")
    for name, value in settings.to_dict().items():
        detail(f"{name} = {value}")
    if tensorboard:
        from trainer.tensorboard import Curves

        with Curves(out / TENSORBOARD) as curves:
            done = train(settings, dataset, out, resume, curves.add)
    else:
        done = train(settings, dataset, out, resume)
    if int(os.environ.get("RANK", "0")):
        raise typer.Exit  # of several processes, the first answers
    samples = done.metrics[-1]["test_samples"]
    written = str(out / MODEL) if done.network is not None else None
    answer = {
        "run": str(out),
        "model": written,
        "accuracy": done.accuracy,
        "correct": done.correct,
        "samples": samples,
        "epochs": done.metrics[-1]["epoch"],
    }
    kind = "held-out training" if settings.validation else "test"
    rows = [
        ("accuracy", f"{done.accuracy:.2%}, {done.correct} of {samples} {kind} samples"),
        ("run", str(out)),
        ("network", written or f"none: neurons of form {settings.neuron} are not the chip's"),
    ]
    return Result(answer, table(rows))


def train(
    settings: TrainConfig,
    dataset: Dataset,
    out: Path,
    resume: bool = False,
    on_epoch: Callable[[dict[str, Any]], None] = lambda metrics: None,
) -> TrainResult:
    """Train with a line an epoch on stderr, and leave ``model.net`` in the run folder."""
    from lava_export import netx
    from trainer import loop, runs

    def write(network: Network, folder: Path) -> None:
        netx.write(network, folder / MODEL)

    if settings.encoding == "events":
        _say_what_is_clipped(dataset.x_train[:256], settings.payload)
    warned: set[int] = set()
    with progress("epochs", settings.epochs) as advance:

        def show(metrics: dict[str, Any]) -> None:
            log(
                "epoch {epoch:3}  loss {loss:.4f}  train {train_accuracy:.2%}  "
                "test {test_accuracy:.2%}  {seconds:.1f} s".format(**metrics)
            )
            rates = ["–" if rate is None else f"{rate:.4f}" for rate in metrics["spike_rates"]]
            detail(
                f"           lr {metrics['lr']:.6g}  spikes a sample {metrics['spikes']:.1f}  "
                f"rates {' '.join(rates)}  peak {metrics['peak_bytes'] / 1e6:.0f} MB"
            )
            for index, warning in runs.fallen(metrics, settings).items():
                if index not in warned:
                    warned.add(index)
                    log(warning)
            on_epoch(metrics)
            advance(metrics["epoch"])

        return loop.train(settings, dataset, out, resume=resume, on_epoch=show, export=write)


def _say_what_is_clipped(some: NDArray[Any], largest: int) -> None:
    beyond = int(((some < 0) | (some > largest)).sum())
    if beyond:
        log(
            f"{beyond} of {some.size} event counts in the first {len(some)} samples are beyond "
            f"0..{largest} and are clipped: --set payload={min(int(some.max()), 255)} keeps more"
        )


def _more(pairs: list[str]) -> dict[str, Any]:
    """``name=value`` as config.toml would have it; what is no TOML value is a string."""
    settings: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or name not in DEFAULTS.to_dict():
            known = ", ".join(DEFAULTS.to_dict())
            near = get_close_matches(name, DEFAULTS.to_dict(), 1) if equals else []
            hint = f"; did you mean {near[0]}?" if near else ""
            raise PumiceError(f"--set {pair}: use NAME=VALUE with one of {known}{hint}")
        settings[name] = parsed(text)
    checked = TrainConfig.from_dict(settings)
    return {name: getattr(checked, name) for name in settings}


def _settings(
    given: dict[str, Any], config: Path | None, resumed: Path | None, preset: str | None = None
) -> TrainConfig:
    """What a config file says (that of the run to go on with, by default), or a preset, and options
    over it."""
    from trainer import presets, runs

    settings = TrainConfig() if config is None else TrainConfig.read(config)
    if config is None and preset is None and resumed is not None:
        settings = runs.settings(resumed)
    if preset is not None:
        found = presets.read(preset)
        log(f"{found.about}; {found.source}; {found.differs}")
        settings = found.settings
    settings = replace(settings, **{k: v for k, v in given.items() if v is not None})
    if Path(settings.data).exists():  # the run can be repeated from any folder
        settings = replace(settings, data=str(Path(settings.data).resolve()))
    return settings
