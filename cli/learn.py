"""``pumice learn``: a network goes on learning as it would on the chip, in Lava."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli import networks
from cli.networks import Data
from cli.output import Json, Result, log, progress, table

if TYPE_CHECKING:
    from loihi import Network
    from onchip.learn import LearnResult
    from trainer.data import Dataset

EXAMPLE = "pumice learn model.net --data digits --mode readout --samples 400 --out learned.net"


class Mode(str, Enum):
    """What learns."""

    hidden = "hidden"
    readout = "readout"
    both = "both"


def run(
    model: Annotated[
        Path | None,
        typer.Argument(metavar="[MODEL.net]", help="A netx file; without, a random network."),
    ] = None,
    data: Data = "digits",
    mode: Annotated[
        Mode, typer.Option(help="What learns: the last hidden layer, the readout, or both.")
    ] = Mode.hidden,
    samples: Annotated[
        int | None, typer.Option(help="How many training samples; all by default.")
    ] = None,
    epochs: Annotated[int, typer.Option(help="How often each sample is seen.")] = 1,
    hidden: Annotated[int, typer.Option(help="Hidden neurons of a random network.")] = 100,
    time_steps: Annotated[int, typer.Option(help="Steps a sample, of a random network.")] = 16,
    seed: Annotated[int, typer.Option(help="Of the order, and of Lava's random numbers.")] = 1,
    deadline: Annotated[float, typer.Option(help="Seconds until Lava is stopped.")] = 3600.0,
    out: Annotated[Path, typer.Option(help="The file of the learned network.")] = Path(
        "learned.net"
    ),
    _json: Json = False,
) -> Result:
    """Let a network learn labelled samples by a local rule, in Lava's simulator.

    The learned weights go back into the network and its file; accuracy is that of all test samples.
    """
    from lava_export import netx
    from trainer.data import load

    dataset = load(data)
    if model is None:
        network = networks.random(dataset, hidden, time_steps, seed)
    else:
        network = networks.read(model, dataset)
    before, learned, after = teach(
        network, dataset, mode, samples, epochs=epochs, seed=seed, deadline=deadline
    )
    netx.write(learned.network, out)
    answer = {
        "accuracy_before": before,
        "accuracy_after": after,
        "samples": learned.samples,
        "steps": learned.steps,
        "seconds": learned.seconds,
        "changed": learned.changed,
        "saturated": learned.saturated,
        "model": str(out),
    }
    rows = [
        ("accuracy", f"{before:.2%} before, {after:.2%} after"),
        ("learned", f"{learned.samples} samples, {learned.steps / learned.seconds:,.0f} steps/s"),
        *(("changed", f"{count} weights of {name}") for name, count in learned.changed.items()),
        ("written", str(out)),
    ]
    return Result(answer, table(rows))


def teach(
    network: Network, dataset: Dataset, mode: Mode, samples: int | None, **options: Any
) -> tuple[float, LearnResult, float]:
    """Learn the first ``samples`` in Lava: test accuracy before, what was learned, and after."""
    from onchip.learn import accuracy, learn

    x, labels = networks.some(dataset, "train", samples)
    test = network.encoding.encode(dataset.x_test)
    before = accuracy(network, test, dataset.y_test)
    payloads = network.encoding.encode(x)
    total = len(x) * options.get("epochs", 1)
    log(f"learning {total} samples in Lava; {before:.2%} of the test samples are right so far ...")
    with progress("samples", total) as advance:
        learned = learn(
            network,
            payloads,
            labels,
            mode=mode.value,
            on_progress=lambda done, _: advance(done),
            **options,
        )
    return before, learned, accuracy(learned.network, test, dataset.y_test)
