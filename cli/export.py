"""``pumice export``: a training run's checkpoint as a ``.net`` file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.output import Json, Result, table
from loihi.errors import PumiceError

EXAMPLE = "pumice export runs/mnist-mlp-sltt --out model.net"


def run(
    source: Annotated[
        Path, typer.Argument(metavar="RUN", help="A run folder, or the checkpoint in it.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="The file; model.net in the run folder by default.")
    ] = None,
    _json: Json = False,
) -> Result:
    """Freeze a run's checkpoint into integers and write them to a netx file."""
    from lava_export import netx
    from trainer import checkpoint, loop, runs
    from trainer.data import load

    if source.suffix == ".net" and not source.is_dir():
        raise PumiceError(f"{source} is what export writes: name its run folder")
    named = source.is_file()
    folder, path = (source.parent, source) if named else (source, source / loop.CHECKPOINT)
    config = runs.settings(folder)
    epochs = int(checkpoint.read(path)[1]["epoch"])
    module = loop.restore(config, load(config.data), path)
    if not module.on_grid:
        raise PumiceError(
            f"{folder} trained neurons of form {config.neuron}: only those on the grid (chip, "
            "soft) can be exported"
        )
    network = module.freeze()
    out = out or folder / "model.net"
    netx.write(network, out)
    why_not = netx.why_not(network)
    rows = [("written", str(out)), *(("layer", name) for name in network.names)]
    if epochs < config.epochs:
        rows.append(("epochs", f"{epochs} of {config.epochs}: the run has not ended"))
    if why_not is not None:
        rows.append(("form", f"pumice's own, as Lava's netx cannot hold it: {why_not}"))
    answer = {
        "model": str(out),
        "layers": list(network.names),
        "epochs": epochs,
        "not_netx": why_not,
    }
    return Result(answer, table(rows))
