"""``pumice learn``: a network goes on learning as on the chip, in Lava or an engine equal to it."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli import networks
from cli.networks import Data
from cli.output import Json, Result, log, progress, table
from loihi.errors import PumiceError

if TYPE_CHECKING:
    from loihi import Network
    from onchip.learn import LearnResult, Proof
    from onchip.spec import Spec
    from trainer.data import Dataset

EXAMPLE = "pumice learn model.net --data digits --mode readout --samples 400 --out learned.net"


class Mode(str, Enum):
    """What learns."""

    hidden = "hidden"
    readout = "readout"
    both = "both"


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
        typer.Option(help="What learns: the last hidden layer (default), the readout, or both."),
    ] = None,
    spec: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Several blocks at once, in TOML, in place of --mode."),
    ] = None,
    samples: Annotated[
        int | None, typer.Option(help="How many training samples; all by default.")
    ] = None,
    epochs: Annotated[int, typer.Option(help="How often each sample is seen.")] = 1,
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
    rule: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=NUMBER", help="A number of the rule, as gap=4; repeatable."),
    ] = None,
    hidden: Annotated[
        list[int] | None,
        typer.Option(help="Hidden neurons of a random network, 100; again for one more layer."),
    ] = None,
    time_steps: Annotated[int, typer.Option(help="Steps a sample, of a random network.")] = 16,
    seed: Annotated[int, typer.Option(help="Of the order, and of the random numbers.")] = 1,
    deadline: Annotated[float, typer.Option(help="Seconds until Lava is stopped.")] = 3600.0,
    out: Annotated[Path, typer.Option(help="The file of the learned network.")] = Path(
        "learned.net"
    ),
    _json: Json = False,
) -> Result:
    """Let a network learn labelled samples by a local rule, as Lava's fixed-point model would.

    The learned weights go back into the network and its file; accuracy is that of all test samples.
    """
    from lava_export import netx
    from onchip.spec import Spec
    from trainer.data import load

    if spec is not None and mode is not None:
        raise PumiceError("--spec says what learns: leave --mode out")
    plan = Spec.of_mode((mode or Mode.hidden).value) if spec is None else Spec.read(spec)
    plan = plan.with_settings(rule or [])
    dataset = load(data)
    if model is None:
        network = networks.random(dataset, hidden or [100], time_steps, seed)
    else:
        network = networks.read(model, dataset)
    proof = None
    if verify is not None:
        again = {"epochs": epochs, "seed": seed, "deadline": deadline}
        proof = prove(network, dataset, plan, samples, verify, **again)
    before, learned, after = teach(
        network,
        dataset,
        plan,
        samples,
        engine=engine,
        epochs=epochs,
        seed=seed,
        rounding=rounding.value,
        saved=checkpoint,
        deadline=deadline,
    )
    netx.write(learned.network, out)
    speed = learned.steps / max(learned.seconds, 1e-9)
    answer = {
        "accuracy_before": before,
        "accuracy_after": after,
        "engine": engine.value,
        "samples": learned.samples,
        "steps": learned.steps,
        "seconds": learned.seconds,
        "changed": learned.changed,
        "saturated": learned.saturated,
        "model": str(out),
    }
    rows = [
        ("accuracy", f"{before:.2%} before, {after:.2%} after"),
        ("learned", f"{learned.samples} samples, {speed:,.0f} steps/s"),
        *(("changed", f"{count} weights of {name}") for name, count in learned.changed.items()),
        ("written", str(out)),
    ]
    if proof is not None:
        answer["verified"] = vars(proof)
        rows.insert(0, ("verified", _said(proof)))
    return Result(answer, table(rows), ok=proof is None or not proof.mismatches)


def teach(
    network: Network,
    dataset: Dataset,
    spec: Spec,
    samples: int | None,
    *,
    engine: Engine = Engine.lava,
    **options: Any,
) -> tuple[float, LearnResult, float]:
    """Learn the first ``samples``: test accuracy before, what was learned, and after."""
    from onchip.learn import Samples, accuracy, learn

    x, labels = networks.some(dataset, "train", samples)
    test = Samples(dataset.x_test, network.encoding)
    before = accuracy(network, test, dataset.y_test)
    total = len(x) * options.get("epochs", 1)
    where = " in Lava" if engine is Engine.lava else ""
    log(f"learning {total} samples{where}; {before:.2%} of the test samples are right so far ...")
    with progress("samples", total) as advance:
        learned = learn(
            network,
            Samples(x, network.encoding),
            labels,
            spec=spec,
            engine=engine.value,
            on_progress=lambda done, _: advance(done),
            **options,
        )
    return before, learned, accuracy(learned.network, test, dataset.y_test)


def prove(
    network: Network,
    dataset: Dataset,
    spec: Spec,
    samples: int | None,
    first: int,
    **options: Any,
) -> Proof:
    """The ``first`` samples of what :func:`teach` would do, in the engine and in Lava."""
    from onchip.learn import Samples, verify

    x, labels = networks.some(dataset, "train", samples)
    log(f"learning {first} samples in the engine and in Lava ...")
    with progress("samples in Lava", first) as advance:
        return verify(
            network,
            Samples(x, network.encoding),
            labels,
            first,
            spec=spec,
            on_progress=lambda done, _: advance(done),
            **options,
        )


def _said(proof: Proof) -> str:
    equal = f"{proof.weights - proof.mismatches:,} of {proof.weights:,} weights equal"
    return f"{equal} to Lava's after the first {proof.samples} samples, {proof.steps:,} steps"
