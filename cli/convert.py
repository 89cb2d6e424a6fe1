"""``pumice convert``: a network from one kind of file to another, and what that did to it."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.output import Json, Result, table
from loihi.errors import PumiceError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from loihi import Encoding
    from loihi.quantise import LayerReport

EXAMPLE = "pumice convert model.nir model.net --encoding graded --values 0 1 --time-steps 16"
SUFFIXES = {".nir": "NIR", ".net": "netx", ".h5": "netx", ".hdf5": "netx"}


class InputEncoding(str, Enum):
    """How data become payloads."""

    graded = "graded"
    rate = "rate"
    latency = "latency"
    events = "events"


class ResetKind(str, Enum):
    """What a spike does to the membrane."""

    hard = "hard"
    soft = "soft"


class Readout(str, Enum):
    """What of the last layer is read."""

    membrane = "membrane"
    spikes = "spikes"


def run(
    source: Annotated[Path, typer.Argument(metavar="IN", help="A NIR file, or a netx file.")],
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="The file to write: .net (netx) or .nir.")
    ],
    dt: Annotated[
        float | None,
        typer.Option(help="Seconds a step, in NIR's time constants; 0.0001 by default."),
    ] = None,
    encoding: Annotated[
        InputEncoding | None, typer.Option(help="How data become payloads; events by default.")
    ] = None,
    time_steps: Annotated[
        int | None, typer.Option(min=1, help="Steps a sample lasts; 16 by default.")
    ] = None,
    payload: Annotated[
        int | None,
        typer.Option(min=1, help="The largest payload; 15 for graded, 1 for all else by default."),
    ] = None,
    values: Annotated[
        tuple[float, float] | None,
        typer.Option(help="What payload 0 and the largest stand for in the graph's input."),
    ] = None,
    reset: Annotated[
        ResetKind | None,
        typer.Option(help="NIR has no soft reset: say it here if the neurons had one."),
    ] = None,
    readout: Annotated[
        Readout | None, typer.Option(help="By default the spikes of a last layer that spikes.")
    ] = None,
    output: Annotated[
        str | None, typer.Option(help="Of several Output nodes the one that is the answer.")
    ] = None,
    mean_decays: Annotated[
        bool,
        typer.Option("--mean-decays", help="Neurons of a layer with different decays: their mean."),
    ] = False,
    settled_bias: Annotated[
        bool,
        typer.Option(
            "--settled-bias",
            help="Add biases of CubaLIF nodes to v, settled: no neurons of their own, a chain.",
        ),
    ] = False,
    ignore_metadata: Annotated[
        bool,
        typer.Option("--ignore-metadata", help="Read a NIR file of pumice's as if of others."),
    ] = False,
    _json: Json = False,
) -> Result:
    """Convert between netx and NIR files.

    A NIR file of another framework is put on the chip's grid, and what that did to each layer is
    told. The options are for such files; a netx file and a NIR file of pumice's say all that.
    """
    from lava_export import netx, nir_io

    kind = _kind(out)
    if out.exists() and source.exists() and out.samefile(source):
        raise PumiceError(f"{out} is the file that is read: write to another")
    given: dict[str, Any] = {
        "values": values,
        "reset": reset and reset.value,
        "readout": readout and readout.value,
        "output": output,
        "decays": "mean" if mean_decays else None,
        "bias": "settled" if settled_bias else None,
        "metadata": False if ignore_metadata else None,
        "encoding": _encoding(encoding, time_steps, payload),
    }
    given = {name: value for name, value in given.items() if value is not None}
    reports: tuple[LayerReport, ...] = ()
    if nir_io.is_nir(source):
        options = given if dt is None else {**given, "dt": dt}
        network, reports = (found := nir_io.read(source, **options)).network, found.layers
    else:
        network = netx.read(source)
    if given and not reports:
        raise PumiceError(
            f"{source} says itself what these options say: {', '.join(_OPTIONS[n] for n in given)}"
        )
    if kind == "NIR":
        notes = nir_io.write(network, out, nir_io.DT if dt is None else dt)
    elif dt is not None and not reports:
        raise PumiceError("--dt is for NIR files: netx has no seconds")
    else:
        netx.write(network, out)
        why = netx.why_not(network)
        notes = () if why is None else (f"{why}: written in pumice's own form, not in netx's",)
    answer = {
        "model": str(out),
        "kind": kind,
        "layers": list(network.names),
        "quantised": [report.as_dict() for report in reports],
        "notes": list(notes),
    }
    return Result(answer, _text(out, network.names, reports, notes))


_OPTIONS = {
    "values": "--values",
    "reset": "--reset",
    "readout": "--readout",
    "output": "--output",
    "decays": "--mean-decays",
    "bias": "--settled-bias",
    "metadata": "--ignore-metadata",
    "encoding": "--encoding, --time-steps or --payload",
}


def _kind(out: Path) -> str:
    if out.suffix not in SUFFIXES:
        raise PumiceError(f"{out}: the end of its name says what to write, .net or .nir")
    return SUFFIXES[out.suffix]


def _encoding(
    kind: InputEncoding | None, time_steps: int | None, payload: int | None
) -> Encoding | None:
    from loihi import Encoding

    if kind is None and time_steps is None and payload is None:
        return None
    chosen = kind or InputEncoding.events
    largest = payload or (15 if chosen is InputEncoding.graded else 1)
    return Encoding(chosen.value, time_steps or 16, (0, largest))


def _text(
    out: Path, names: tuple[str, ...], reports: tuple[LayerReport, ...], notes: tuple[str, ...]
) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    parts: list[RenderableType] = [
        table([("written", str(out)), *(("layer", name) for name in names)])
    ]
    if reports:
        weights = ("weights", "rms error", "largest", "clipped", "to 0")
        headers = ("layer", "scale", "set by", *weights, "threshold", "du", "dv", "bias error")
        parts += ["", table([row for report in reports for row in _rows(report)], headers)]
    remarks = [f"{report.layer}: {note}" for report in reports for note in report.notes]
    parts += [Text(line) for line in (*([""] if remarks or notes else []), *remarks, *notes)]
    return Group(*parts)


def _rows(report: LayerReport) -> list[tuple[str, ...]]:
    """A line for each synapse; what is the layer's in the first."""
    vth = "none"
    if report.vth is not None:
        vth = f"{report.threshold:.4g} as {report.vth}"
    own = (
        vth,
        f"{report.du:.4g} as {report.du_4096}",
        f"{report.dv:.4g} as {report.dv_4096}",
        f"{report.bias_error:.2g} of {report.bias:.2g}" if report.bias else "",
    )
    return [
        (
            *((report.layer, f"{report.scale:.5g}", report.limit) if not number else ("", "", "")),
            f"{synapse.weights:,} of {synapse.bits} bits, {synapse.sign_mode}",
            f"{synapse.rms_error:.2%}",
            f"{synapse.max_error:.2%}",
            f"{synapse.clipped:.2%}",
            f"{synapse.zeroed:.2%}",
            *(own if not number else ("", "", "", "")),
        )
        for number, synapse in enumerate(report.synapses)
    ]
