"""``pumice check``: a network against a chip's limits, on its cores, and what it costs."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli import networks
from cli.networks import Model
from cli.output import Json, Result, coloured, headed, stacked, table
from loihi.errors import PumiceError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from loihi.boards import Chip
    from loihi.limits import Finding
    from loihi.metrics import Counts

EXAMPLE = "pumice check model.net --data mnist --chip loihi2 --map"
COLOURS = {"ok": "green", "warning": "yellow", "error": "red"}


class ChipName(str, Enum):
    """Chips that pumice knows."""

    loihi1 = "loihi1"
    loihi2 = "loihi2"


def run(
    model: Model,
    data: Annotated[
        str | None,
        typer.Option(
            help="Also look at overflow and activity on this data, and count operations.",
            metavar="NAME|.npz",
        ),
    ] = None,
    chip: Annotated[ChipName | None, typer.Option(help="The chip.", show_default="loihi2")] = None,
    board: Annotated[
        Path | None, typer.Option(help="A board of your own (docs/check.md).", metavar="FILE.toml")
    ] = None,
    figure: Annotated[
        list[str] | None,
        typer.Option(help="A figure of your own chip; repeatable.", metavar="cores=60"),
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="How many test samples of the data.")] = 200,
    map_: Annotated[bool, typer.Option("--map", help="Show which core holds which layer.")] = False,
    apart: Annotated[bool, typer.Option("--apart", help="No core holds two layers.")] = False,
    _json: Json = False,
) -> Result:
    """Hold a network against a chip: number ranges, overflow, idle layers, cores and memory.

    With data also what it costs: counted operations, and from them energy and time, where there are
    public figures. Fails if a rule is broken; warnings pass.
    """
    from loihi import limits, metrics

    on = _chip(chip, board, figure or [])
    x = counts = None
    if data is None:
        network = networks.read(model)
    else:
        from trainer.data import load

        dataset = load(data)
        network = networks.read(model, dataset)
        x = network.encoding.encode(dataset.x_test[:samples])
    report = limits.check(network, on, x, apart)
    footprint = metrics.footprint(network)
    static = {
        "Footprint": footprint.total,
        "footprint": asdict(footprint),
        "ConnectionSparsity": metrics.connection_sparsity(network),
    }
    if x is not None:
        counts = metrics.count(network, x, report.partition)
    answer = {
        "ok": report.ok,
        "chip": asdict(on),
        "rules": report.as_dicts(),
        "partition": None if report.partition is None else report.partition.as_dict(),
        "neurobench": static,
        "counts": None if counts is None else counts.as_dict(),
    }
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
    parts = [table(rows, ("", "rule", "layer", "used", ""))]
    if map_ and report.partition is not None:
        width = shutil.get_terminal_size((80, 24)).columns
        parts.append(_lines(report.partition.picture(width)))
    if counts is not None:
        parts += [_counted(counts), _modelled(counts, on), _neurobench(counts, static)]
    return Result(answer, stacked(parts), report.ok)


def _chip(name: ChipName | None, board: Path | None, figures: list[str]) -> Chip:
    from loihi import boards

    own = dict(_figure(text) for text in figures)
    if board is None:
        return boards.chip((name or ChipName.loihi2).value, **own)
    if name is not None:
        raise PumiceError("--chip and --board: give one of them; a board file can name its base")
    return boards.with_figures(boards.read(board), **own)


def _figure(text: str) -> tuple[str, int]:
    name, _, value = text.partition("=")
    if not (value.isascii() and value.isdigit()):
        raise PumiceError(f"--figure {text}: write a name, =, and a whole number, as cores=60")
    return name, int(value)


def _share(found: Finding) -> str:
    if found.unit == "fraction":
        return f"{found.used:.1%}"
    return f"{found.used:,.0f} of {found.allowed:,.0f} {found.unit}"


def _counted(counts: Counts) -> RenderableType:
    """Counts of all samples together, layer by layer."""
    rows = [
        (
            layer.name,
            f"{layer.spikes:,}",
            f"{layer.synaptic_ops:,}",
            f"{layer.updates:,}",
            f"{layer.active:,}",
        )
        for layer in counts.layers
    ]
    what = f"counted on {counts.samples} samples of {counts.time_steps} steps"
    headers = (what, "spikes", "synaptic operations", "neuron updates", "of them active")
    return table([("input", f"{counts.input_spikes:,}", "", "", ""), *rows], headers)


def _modelled(counts: Counts, on: Chip) -> RenderableType:
    model = counts.model
    if model is None:
        why = "the network is on no cores"
        if on.cost is None:
            why = f"there are no public figures of what an operation takes on {on.name}"
        return _lines(f"energy and time: counts only, {why}")
    energy = (
        f"{_si(model.energy_pj * 1e-12, 'J')} a sample: synaptic operations "
        f"{_si(model.synaptic_pj * 1e-12, 'J')}, active updates "
        f"{_si(model.active_pj * 1e-12, 'J')}, idle updates {_si(model.idle_pj * 1e-12, 'J')}, "
        f"spikes {_si(model.spikes_pj * 1e-12, 'J')}"
    )
    time = "not modelled: one chip does not hold the network"
    if model.latency_ns is not None and model.barrier_ns is not None:
        time = (
            f"{_si(model.latency_ns * 1e-9, 's')} a sample of {model.steps} steps, of it "
            f"{_si(model.barrier_ns * 1e-9, 's')} at the ends of the steps"
        )
    rows = [
        ("energy", energy),
        ("time", time),
        ("figures", f"{on.cost_source}; static power, input and output are not in it"),
    ]
    return headed(f"on {model.chip}, modelled from counted operations", table(rows))


def _neurobench(counts: Counts, static: dict[str, Any]) -> RenderableType:
    rows = [
        ("footprint", f"{static['Footprint']:,} bytes"),
        ("connection sparsity", f"{static['ConnectionSparsity']:.4f}"),
        ("activation sparsity", f"{counts.activation_sparsity:.4f}"),
        ("effective ACs a sample", f"{counts.effective_acs:,.1f}"),
        ("effective MACs a sample", f"{counts.effective_macs:,.1f}"),
        ("dense synaptic operations", f"{counts.dense:,.1f}"),
    ]
    return headed("NeuroBench's metrics", table(rows))


def _si(value: float, unit: str) -> str:
    """``3.21 µJ``."""
    for factor, prefix in ((1, ""), (1e-3, "m"), (1e-6, "µ"), (1e-9, "n")):
        if value >= factor:
            return f"{value / factor:.3g} {prefix}{unit}"
    return f"{value * 1e12:.3g} p{unit}"


def _lines(text: str) -> RenderableType:
    from rich.text import Text

    return Text(text, no_wrap=True, overflow="ignore")
