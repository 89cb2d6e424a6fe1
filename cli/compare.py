"""``pumice compare``: what runs were told, what came of each, and where their networks differ."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.output import Json, Result, coloured, headed, stacked, table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType
    from rich.text import Text

    from loihi.census import Difference
    from trainer.runs import Comparison, Run

EXAMPLE = "pumice compare runs/sltt runs/bptt"


def run(
    folders: Annotated[
        list[Path], typer.Argument(metavar="RUN RUN …", help="Two run folders or more.")
    ],
    _json: Json = False,
) -> Result:
    """Say how runs differ: settings and versions, accuracy, spikes, time and memory, weights.

    Weights, thresholds and leaks are compared with the first run's, layer by layer, where the
    networks are of the same kind; files byte by byte.
    """
    from trainer import runs

    found = [runs.read(folder) for folder in folders]
    compared = runs.compare(found)
    networks = _networks(found)
    answer = {
        "runs": [str(folder) for folder in folders],
        **asdict(compared),
        "how": runs.SUMMARY,
        "networks": [
            None if layers is None else [asdict(layer) for layer in layers] for layers in networks
        ],
    }
    return Result(answer, _text(found, compared, networks))


def _networks(found: Sequence[Run]) -> list[list[Difference] | None]:
    """Of every run but the first; None where there is nothing to compare."""
    from cli import networks
    from loihi.census import differences
    from trainer import runs

    read = [
        networks.read(run.folder / runs.MODEL) if runs.MODEL in run.files else None for run in found
    ]
    first = read[0]
    return [
        None if first is None or other is None else differences(first, other) for other in read[1:]
    ]


def _text(
    found: Sequence[Run], compared: Comparison, networks: Sequence[list[Difference] | None]
) -> RenderableType:
    from cli.run_page import WORDS
    from trainer import runs

    names = [run.name for run in found]
    parts = []
    for heading, rows in (("settings", compared.settings), ("versions", compared.versions)):
        if rows:
            cells = [(name, *map(_said, row)) for name, row in rows.items()]
            parts.append(table(cells, (heading, *names)))
    if not compared.settings:
        parts.insert(0, table([("the settings are the same",)]))
    results = [
        (WORDS[name], *(_number(name, value) for value in row), runs.SUMMARY[name])
        for name, row in compared.results.items()
        if any(value is not None for value in row)
    ]
    parts.append(table(results, ("results", *names, "")))
    for run, layers in zip(found[1:], networks, strict=True):
        heading = f"{run.name} against {found[0].name}"
        if layers is None:
            why = "no network of the same layers, so weights are not compared"
            parts.append(table([(heading, why)]))
        else:
            parts.append(headed(heading, _layers(layers)))
    same: dict[bool | None, str | Text] = {
        True: coloured("the same", "green"),
        False: "differs",
        None: "–",
    }
    files = [(name, *(same[equal] for equal in row[1:])) for name, row in compared.files.items()]
    parts.append(table(files, (f"files, against {names[0]}", *names[1:])))
    return stacked(parts)


def _layers(layers: Sequence[Difference]) -> RenderableType:
    rows = [
        (
            layer.name,
            f"{layer.differ:,} of {layer.weights:,}",
            f"{layer.largest:,}",
            f"{layer.mean:.3f}",
            *(_pair(pair) for pair in (layer.vth, layer.du, layer.dv)),
        )
        for layer in layers
    ]
    headers = ("layer", "weights differ", "at most by", "on average", "threshold", "du", "dv")
    return table(rows, headers)


def _pair(pair: tuple[int | None, int | None]) -> str:
    first, second = ("–" if value is None else f"{value:,}" for value in pair)
    return first if first == second else f"{first} → {second}"


def _number(name: str, value: float | None) -> str:
    if value is None:
        return "–"
    if name.endswith("accuracy"):
        return f"{value:.2%}"
    if name == "peak_bytes":
        return f"{value / 1e6:,.0f} MB"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.4f}" if name == "loss" else f"{value:,.1f}"


def _said(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return "–" if value in (None, "", []) else str(value)
