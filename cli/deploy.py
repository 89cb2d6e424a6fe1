"""``pumice deploy``: a network to a Loihi 2 board, or a folder that runs on one."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli import networks
from cli.networks import Data, Model, Split
from cli.output import Json, Result, above_zero, coloured, log, table
from loihi.errors import PumiceError

if TYPE_CHECKING:
    from rich.text import Text

    from lava_export.deploy import Preflight

EXAMPLE = "pumice deploy model.net --data mnist --dry-run --out board"


class Backend(str, Enum):
    """What it is to run on."""

    loihi2 = "loihi2"


def run(
    model: Model,
    data: Data,
    backend: Annotated[Backend, typer.Option(help="What it is to run on.")] = Backend.loihi2,
    samples: Annotated[
        int, typer.Option(help="How many samples to compare on the board, from the first.")
    ] = 4,
    split: Annotated[Split, typer.Option(help="Which samples.")] = Split.test,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only write the folder --out, for a board's host.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="The folder; it must not be there yet.")] = None,
    simulate: Annotated[
        bool,
        typer.Option(
            "--simulate", help="With --dry-run: prove the folder in Lava's simulator, here."
        ),
    ] = False,
    deadline: Annotated[
        float, typer.Option(callback=above_zero, help="Seconds until the run is stopped.")
    ] = 3600.0,
    _json: Json = False,
) -> Result:
    """Run a network on a Loihi 2 board and compare its spikes with the reference's.

    Says first what is missing for that, and fails if anything is. With --dry-run it writes a folder
    that a board's host can run without pumice, and says what would be missing here. Nothing is
    simulated unless --simulate asks for it.
    """
    from lava_export import deploy
    from loihi import limits
    from trainer.data import load

    if dry_run and out is None:
        raise PumiceError("--dry-run writes a folder: name it with --out")
    if simulate and not dry_run:
        raise PumiceError("--simulate proves the folder of a --dry-run: give both, and --out")
    dataset = load(data)
    network = networks.read(model, dataset)
    x, labels = networks.some(dataset, split.value, samples)
    on = limits.chip(backend.value)
    payloads = network.encoding.encode(x)
    if not dry_run:
        found = deploy.preflight(network, on, payloads)
        if not found.ok:
            lines = [*_lines(found), ("", "missing", ", ".join(found.missing), _INSTEAD)]
            return Result(_data(found), table(lines), ok=False)
    with deploy.place(out) as folder:
        found = deploy.write(network, payloads, folder, on, labels)
        answer: dict[str, Any] = {**_data(found), "folder": None if out is None else str(out)}
        lines = _lines(found)
        ran: dict[str, Any] | None = None
        if simulate or not dry_run:
            what = "in Lava's simulator, on no chip" if simulate else "on the board"
            log(f"{samples} samples {what} ...")
            ran = deploy.run(folder, ["--simulate"] if simulate else [], deadline)
            answer |= {"run": {name: ran[name] for name in ran if name != "log"}}
            mode = "SIMULATED, on no chip" if ran["mode"] == "simulated" else "on Loihi 2"
            count = f"{ran['mismatches']:,} mismatches of {ran['compared']:,} numbers"
            lines.append(("", mode, count, f"{ran['same_answers']} of {samples} answers the same"))
    if out is not None:
        lines.append(("", "folder", str(out), "python run.py there; see its README.txt"))
    return Result(answer, table(lines), ok=ran is None or not ran["mismatches"])


_INSTEAD = "--dry-run --out FOLDER writes what a board's host can run"


def _lines(found: Preflight) -> list[tuple[str | Text, ...]]:
    marks = {True: ("ok", "green"), False: ("missing", "red")}
    return [(coloured(*marks[c.ok]), c.name, c.found, c.advice) for c in found.checks]


def _data(found: Preflight) -> dict[str, Any]:
    return {
        "ready": found.ok,
        "missing": list(found.missing),
        "preflight": [check._asdict() for check in found.checks],
        "rules": found.report.as_dicts(),
    }
