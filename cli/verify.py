"""``pumice verify``: a file in the reference, the fast engine and Lava, spike for spike."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from cli import networks
from cli.networks import Data, Model, Split
from cli.output import Json, Result, log, table

EXAMPLE = "pumice verify model.net --data mnist --samples 8 --states"


def run(
    model: Model,
    data: Data,
    samples: Annotated[int, typer.Option(help="How many samples, from the first.")] = 8,
    split: Annotated[Split, typer.Option(help="Which samples.")] = Split.test,
    states: Annotated[
        bool, typer.Option("--states", help="Compare u and v of every layer as well.")
    ] = False,
    deadline: Annotated[
        float | None, typer.Option(help="Seconds until Lava is stopped; generous by default.")
    ] = None,
    _json: Json = False,
) -> Result:
    """Prove a file: all layers' spikes in the reference, the fast engine and Lava compared.

    Fails if a single one differs, and names the first by layer, neuron, step and state.
    """
    from lava_export.verify import verify
    from trainer.data import load

    dataset = load(data)
    network = networks.read(model, dataset)
    x, _ = networks.some(dataset, split.value, samples)
    log(f"{samples} samples of {network.time_steps} steps in Lava ...")
    found = verify(model, network.encoding.encode(x), states=states, deadline=deadline)
    first = found.first_divergence
    answer = {
        "mismatches": found.mismatches,
        "compared": found.compared,
        "first_divergence": None if first is None else asdict(first),
        "layers": [asdict(layer) for layer in found.layers],
        "samples": samples,
        "states": states,
    }
    rows = [
        ("mismatches", f"{found.mismatches:,} of {found.compared:,} numbers compared"),
        *(
            (f"  layer {layer.name}", f"{layer.mismatches:,} of {layer.compared:,}")
            for layer in found.layers
        ),
        ("first", str(first) if first else "none"),
    ]
    return Result(answer, table(rows), ok=not found.mismatches)
