"""``pumice learn``: a network goes on learning as on the chip, in Lava or an engine equal to it."""

from __future__ import annotations

import shlex
import sys
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli import networks
from cli.networks import Data
from cli.output import Json, Result, above_zero, log, progress, table
from loihi.errors import PumiceError

if TYPE_CHECKING:
    from loihi import Network
    from onchip.learn import Proof
    from onchip.spec import Spec
    from onchip.tasks import Report, Task
    from trainer.data import Dataset

EXAMPLE = "pumice learn model.net --data digits --mode readout --samples 400 --out learned.net"


class Mode(str, Enum):
    """What learns."""

    hidden = "hidden"
    readout = "readout"
    both = "both"
    stdp = "stdp"
    reward = "reward"


BY_SPIKES = (Mode.stdp, Mode.reward)


class Engine(str, Enum):
    """What it learns in."""

    fast = "fast"
    lava = "lava"


class Rounding(str, Enum):
    """How many random numbers are drawn."""

    lava = "lava"
    chip_like = "chip-like"


def run(
    model: Annotated[
        Path | None,
        typer.Argument(metavar="[MODEL.net]", help="A netx file; without, a random network."),
    ] = None,
    data: Data = "digits",
    mode: Annotated[
        Mode | None,
        typer.Option(
            help="What learns: the last hidden layer (default), the readout, or both, by errors; "
            "or the last layer that spikes, by stdp or by reward."
        ),
    ] = None,
    spec: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Several blocks at once, in TOML, in place of --mode."),
    ] = None,
    samples: Annotated[
        int | None, typer.Option(help="How many training samples; all by default.")
    ] = None,
    epochs: Annotated[int, typer.Option(help="How often each sample is seen.")] = 1,
    rule: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=NUMBER", help="A number of the rule, as gap=4; repeatable."),
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(metavar="8,9", help="Learn these classes alone, new to the network."),
    ] = None,
    replay: Annotated[
        str | None,
        typer.Option(metavar="PART|N", help="Old samples to learn again: 0.1 of them, or 200."),
    ] = None,
    drift: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=NUMBER", help="Learn a sensor that has drifted: turn=20, dead=0.1, ..."
        ),
    ] = None,
    second: Annotated[
        str | None,
        typer.Option(metavar="NAME|PATH", help="Learn this data set, of another sensor."),
    ] = None,
    rescale: Annotated[
        bool, typer.Option("--rescale", help="Bring --second's values to the range of --data's.")
    ] = False,
    engine: Annotated[
        Engine, typer.Option(help="Compiled, or Lava's simulator: both learn the same weights.")
    ] = Engine.fast,
    rounding: Annotated[
        Rounding, typer.Option(help="A random number for all synapses, as Lava; or one for each.")
    ] = Rounding.lava,
    verify: Annotated[
        int | None,
        typer.Option(metavar="N", help="First learn the run's first N samples in both engines."),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Keep where it is; go on from there if it is there."),
    ] = None,
    history: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Weights, traces, factors and accuracy on the way."),
    ] = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="All of it as one page, with curves.")
    ] = None,
    hidden: Annotated[
        list[int] | None,
        typer.Option(help="Hidden neurons of a random network, 100; again for one more layer."),
    ] = None,
    time_steps: Annotated[
        int | None, typer.Option(help="Steps a sample, of a random network; 16.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the order, and of random numbers.")] = 1,
    deadline: Annotated[
        float, typer.Option(callback=above_zero, help="Seconds until Lava is stopped.")
    ] = 3600.0,
    out: Annotated[Path, typer.Option(help="The file of the learned network.")] = Path(
        "learned.net"
    ),
    _json: Json = False,
) -> Result:
    """Let a network learn labelled samples by a local rule, as Lava's fixed-point model would.

    The learned weights go back into the network and its file; accuracy is that of all test samples.
    """
    from lava_export import netx
    from loihi import files
    from onchip import picture
    from trainer.data import load

    if spec is not None and mode is not None:
        raise PumiceError("--spec says what learns: leave --mode out")
    if model is not None and (hidden or time_steps is not None):
        raise PumiceError("--hidden and --time-steps are of a random network: leave MODEL.net out")
    if verify is not None and rounding is not Rounding.lava:
        raise PumiceError("--verify compares with Lava, which rounds in its own way alone")
    for path in (out, html, checkpoint, history):
        if path is not None:
            files.check_writable(path)
    dataset = load(data)
    if model is None:
        steps = 16 if time_steps is None else time_steps
        network = networks.random(dataset, hidden or [100], steps, seed)
    else:
        # Further classes may need further outputs.
        network = networks.read(model, dataset if classes is None else None)
    choice = {"classes": classes, "drift": drift or None, "second": second}
    task = _task(network, dataset, choice, replay, rescale, seed).limited(samples)
    given: dict[str, Any] = {"epochs": epochs, "seed": seed, "deadline": deadline}
    if mode is not None and mode in BY_SPIKES:
        errors = {"verify": verify, "history": history, "html": html}
        for option, value in errors.items():
            if value is not None:
                raise PumiceError(f"--{option} is of learning by errors: leave it out here")
        given |= {"saved": checkpoint}
        answer = by_spikes(task, mode.value, rule or [], engine, rounding.value, **given)
        netx.write(answer.pop("network"), out)
        return _told({**answer, "model": str(out)}, None)
    if history is not None and engine is Engine.lava:
        raise PumiceError("--history is kept of the fast engine alone: Lava is not looked into")
    blocks = _blocks(mode, spec, rule or [])
    proof = None if verify is None else prove(task, blocks, verify, **given)
    report = teach(
        task,
        blocks,
        engine=engine,
        rounding=rounding.value,
        saved=checkpoint,
        history=history or (html is not None and engine is Engine.fast),
        **given,
    )
    netx.write(report.network, out)
    if html is not None:
        # Names alone: a page is handed on, where a folder is is nobody's business.
        said = [Path(word).name if "/" in word else word for word in sys.argv[1:]]
        files.write(html, picture.page(report, shlex.join(["pumice", *said])))
    learned = report.learned
    answer = {
        **_scores(report.before, report.after),
        "engine": engine.value,
        "samples": learned.samples,
        "steps": learned.steps,
        "seconds": learned.seconds,
        "changed": learned.changed,
        "saturated": learned.saturated,
        "report": report.data,
        "model": str(out),
    }
    return _told(answer, proof)


def _blocks(mode: Mode | None, file: Path | None, settings: list[str]) -> Spec:
    """What learns by errors."""
    from onchip.spec import Spec

    spec = Spec.of_mode((mode or Mode.hidden).value) if file is None else Spec.read(file)
    return spec.with_settings(settings)


def _task(
    network: Network,
    dataset: Dataset,
    choice: dict[str, Any],
    replay: str | None,
    rescale: bool,
    seed: int,
) -> Task:
    """What is learned: all of the data, new classes, a drifted sensor, or another one."""
    from onchip import tasks
    from onchip.drift import Drift
    from trainer.data import load

    named = [f"--{name}" for name, value in choice.items() if value is not None]
    if len(named) > 1:
        raise PumiceError(f"{' and '.join(named)}: one at a time")
    if replay is not None and not named:
        raise PumiceError("--replay is for --classes, --drift and --second: all is learned here")
    if rescale and choice["second"] is None:
        raise PumiceError("--rescale is for --second")
    options: dict[str, Any] = {"replay": _share("0" if replay is None else replay), "seed": seed}
    if choice["classes"] is not None:
        try:
            numbers = [int(number) for number in choice["classes"].split(",")]
        except ValueError:
            raise PumiceError(f"--classes {choice['classes']}: numbers, as 8,9") from None
        return tasks.new_classes(network, dataset, numbers, **options)
    if choice["drift"] is not None:
        return tasks.drifted(network, dataset, Drift.of(choice["drift"]), **options)
    if choice["second"] is not None:
        other = load(choice["second"])
        return tasks.new_sensor(network, dataset, other, rescale=rescale, **options)
    return tasks.whole(network, dataset)


def _share(text: str) -> float | int:
    try:
        return float(text) if "." in text else int(text)
    except ValueError:
        raise PumiceError(f"--replay {text}: a part as 0.1, or a number as 200") from None


def teach(task: Task, spec: Spec, *, engine: Engine = Engine.lava, **options: Any) -> Report:
    """Learn a task by errors, with a word before and on the way."""
    from onchip import tasks

    total = len(task.learn) * options.get("epochs", 1)
    where = " in Lava" if engine is Engine.lava else ""
    log(f"learning {total} samples{where}: {task.name} ...")
    with progress("samples", total) as advance:
        return tasks.run(
            task,
            spec=spec,
            engine=engine.value,
            on_progress=lambda done, _: advance(done),
            **options,
        )


def prove(task: Task, spec: Spec, first: int, **options: Any) -> Proof:
    """The ``first`` samples of what :func:`teach` would do, in the engine and in Lava."""
    from onchip.learn import verify

    log(f"learning {first} samples in the engine and in Lava ...")
    with progress("samples in Lava", first) as advance:
        return verify(
            task.network,
            task.learn.samples,
            task.learn.labels,
            first,
            spec=spec,
            on_progress=lambda done, _: advance(done),
            **options,
        )


def by_spikes(
    task: Task, mode: Any, settings: list[str], engine: Engine, rounding: Any, **options: Any
) -> dict[str, Any]:
    """Learn a task by STDP or by reward: the answer, with the ``network``."""
    from onchip import hebbian, tasks

    rule = hebbian.Hebbian.of(settings, mode)
    before = tasks.tested(task.network, task.tests)
    total = len(task.learn) * options["epochs"]
    log(f"learning {total} samples by {mode}: {task.name} ...")
    with progress("samples", total) as advance:
        learned = hebbian.learn(
            task.network,
            task.learn.samples,
            task.learn.labels,
            mode=mode,
            rule=rule,
            engine=engine.value,
            rounding=rounding,
            on_progress=lambda done, _: advance(done),
            **options,
        )
    after = tasks.tested(learned.network, task.tests)
    return {
        **_scores(before, after),
        "engine": engine.value,
        **vars(learned),
    }


def _scores(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """Of the test that sums it up, and of each."""
    main = next(name for name in ("all", "new", "test") if name in before)
    return {
        "accuracy_before": before[main].accuracy,
        "accuracy_after": after[main].accuracy,
        "tests": {name: [before[name].accuracy, after[name].accuracy] for name in before},
    }


def _told(answer: dict[str, Any], proof: Proof | None) -> Result:
    speed = answer["steps"] / max(answer["seconds"], 1e-9)
    rows = [
        *(
            (
                "accuracy" if name == "test" else f"of {name}",
                f"{before:.2%} before, {after:.2%} after",
            )
            for name, (before, after) in answer["tests"].items()
        ),
        ("learned", f"{answer['samples']} samples, {speed:,.0f} steps/s"),
        *(("changed", f"{count} weights of {name}") for name, count in answer["changed"].items()),
        ("written", answer["model"]),
    ]
    if proof is not None:
        answer["verified"] = vars(proof)
        rows.insert(0, ("verified", _said(proof)))
    return Result(answer, table(rows), ok=proof is None or not proof.mismatches)


def _said(proof: Proof) -> str:
    equal = f"{proof.weights - proof.mismatches:,} of {proof.weights:,} weights equal"
    return f"{equal} to Lava's after the first {proof.samples} samples, {proof.steps:,} steps"
