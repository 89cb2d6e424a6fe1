"""``pumice check``: a network against a chip's limits."""

from __future__ import annotations

from dataclasses import asdict
from enum import Enum
from typing import TYPE_CHECKING, Annotated

import typer

from cli import networks
from cli.networks import Model
from cli.output import Json, Result, coloured, table
from loihi.errors import PumiceError

if TYPE_CHECKING:
    from loihi.limits import Finding

EXAMPLE = "pumice check model.net --data mnist --chip loihi2"
COLOURS = {"ok": "green", "warning": "yellow", "error": "red"}


class ChipName(str, Enum):
    """Chips that pumice knows."""

    loihi1 = "loihi1"
    loihi2 = "loihi2"


def run(
    model: Model,
    data: Annotated[
        str | None,
        typer.Option(help="Also look at overflow and activity on this data.", metavar="NAME|.npz"),
    ] = None,
    chip: Annotated[ChipName, typer.Option(help="The chip.")] = ChipName.loihi2,
    figure: Annotated[
        list[str] | None,
        typer.Option(help="A figure of your own chip; repeatable.", metavar="cores=60"),
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="How many test samples of the data.")] = 200,
    _json: Json = False,
) -> Result:
    """Hold a network against a chip: number ranges, overflow, idle layers, cores and memory.

    Fails if a rule is broken; warnings pass.
    """
    from loihi import limits

    on = limits.chip(chip.value, **dict(_figure(text) for text in figure or []))
    x = None
    if data is None:
        network = networks.read(model)
    else:
        from trainer.data import load

        dataset = load(data)
        network = networks.read(model, dataset)
        x = network.encoding.encode(dataset.x_test[:samples])
    report = limits.check(network, on, x)
    rows = [
        (
            coloured(found.level, COLOURS[found.level]),
            found.rule,
            found.layer or "the network",
            _share(found),
            found.message,
        )
        for found in report.findings
    ]
    answer = {"ok": report.ok, "chip": asdict(on), "rules": report.as_dicts()}
    return Result(answer, table(rows, ("", "rule", "layer", "used", "")), report.ok)


def _figure(text: str) -> tuple[str, int]:
    name, _, value = text.partition("=")
    if not value.isdigit():
        raise PumiceError(f"--figure {text}: write a name, =, and a whole number, as cores=60")
    return name, int(value)


def _share(found: Finding) -> str:
    if found.unit == "fraction":
        return f"{found.used:.1%}"
    return f"{found.used:,.0f} of {found.allowed:,.0f} {found.unit}"
