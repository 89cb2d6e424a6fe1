"""``pumice simulate``: what a network answers, computed by any of the three engines."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli import networks
from cli.networks import Data, Engine, Model, Split
from cli.output import Json, Result, save_array, table

EXAMPLE = "pumice simulate model.net --data mnist --engine fast"


def run(
    model: Model,
    data: Data,
    engine: Annotated[
        Engine,
        typer.Option(help="the plain specification, the same in bulk, or Lava itself."),
    ] = Engine.fast,
    samples: Annotated[
        int | None, typer.Option(help="How many samples, from the first; all by default.")
    ] = None,
    split: Annotated[Split, typer.Option(help="Which samples.")] = Split.test,
    predictions: Annotated[
        Path | None, typer.Option(help="Write the predicted classes there, as .npy.")
    ] = None,
    _json: Json = False,
) -> Result:
    """Run a network on data: how many samples it has right, and how fast."""
    from trainer.data import load

    dataset = load(data)
    network = networks.read(model, dataset)
    x, labels = networks.some(dataset, split.value, samples)
    found = networks.evaluate(network, model, engine, x, labels)
    if predictions is not None:
        save_array(predictions, found.predictions)
    answer = {**found.data, "engine": engine.value, "data": dataset.name, "split": split.value}
    rows = [
        ("accuracy", f"{found.data['accuracy']:.2%}"),
        ("correct", f"{found.data['correct']} of {found.data['samples']}"),
        ("speed", f"{found.data['samples_per_second']:,.0f} samples/s ({engine.value})"),
    ]
    return Result(answer, table(rows))
