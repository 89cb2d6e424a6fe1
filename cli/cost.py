"""``pumice cost``: what a batch costs in training, for every truncation k and block length n."""

from __future__ import annotations

import io
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.output import Json, Result, coloured, table
from cli.train import DEFAULTS, MODEL
from loihi.errors import PumiceError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trainer.cost import CostModel, Layer, Row
    from trainer.data import Dataset

EXAMPLE = "pumice cost lenet1 --input 1x28x28 --classes 47 --time-steps 20 --plot cost.png"
CONFIG = "config.toml"
FORMATS = {".png": "png", ".svg": "svg"}


def run(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A model's name, layers such as 8c5-2a-128, a .net file, or a run.",
        ),
    ],
    data: Annotated[
        str | None,
        typer.Option(
            help="Data for the shapes; with a .net or a run, also to measure activity on.",
            metavar="NAME|FILE.npz",
        ),
    ] = None,
    input_shape: Annotated[
        str | None,
        typer.Option("--input", help="What goes in at each step.", metavar="CxHxW|FEATURES"),
    ] = None,
    classes: Annotated[int | None, typer.Option(min=1, help="Neurons of the output.")] = None,
    time_steps: Annotated[
        int | None,
        typer.Option(min=1, help=f"T; a .net's own, or {DEFAULTS.time_steps} by default."),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Samples a batch.")] = DEFAULTS.batch_size,
    k: Annotated[
        list[int] | None,
        typer.Option(help="Steps between truncations; repeatable; all divisors of T by default."),
    ] = None,
    n: Annotated[
        list[int] | None,
        typer.Option(help="Layers a block; repeatable; all divisors of their number by default."),
    ] = None,
    activity: Annotated[
        list[float] | None,
        typer.Option(
            help="Fraction of a layer's inputs that are not 0 in a step: one for all, or repeated "
            "for each layer with weights, the output layer's last; 1 by default, an upper bound."
        ),
    ] = None,
    random_classifiers: Annotated[
        bool, typer.Option("--random-classifiers", help="Local classifiers do not learn.")
    ] = False,
    pooling_states: Annotated[
        bool, typer.Option("--pooling-states", help="Count the states of pooling neurons too.")
    ] = False,
    accuracy_loss: Annotated[
        list[str] | None,
        typer.Option(
            help="Accuracy lost against BPTT, as a fraction, for the figure of merit; repeatable.",
            metavar="K,N=LOSS",
        ),
    ] = None,
    samples: Annotated[
        int, typer.Option(min=1, help="How many test samples to measure activity on.")
    ] = 200,
    plot: Annotated[
        Path | None, typer.Option(help="Also draw it.", metavar="FILE.png|FILE.svg")
    ] = None,
    _json: Json = False,
) -> Result:
    """Count what a batch costs in training with TT-LBP: memory, accesses, additions, MACs.

    Time is cut after every k steps, the network into blocks of n layers, each with a classifier;
    everything is also given in parts of BPTT, which is k = T and n = all layers.
    """
    from trainer.cost import CostModel, of_model

    if plot is not None and plot.suffix not in FORMATS:
        raise PumiceError(f"--plot {plot}: use a name that ends in .png or .svg")
    losses = dict(_loss(text) for text in accuracy_loss or [])
    rates: float | Sequence[float] = activity or 1.0
    dataset = None
    if data is not None:
        from trainer.data import load

        dataset = load(data)
    file = _file(model)
    if file is None:
        layers = of_model(model, *_sizes(input_shape, classes, dataset))
    else:
        if input_shape is not None or classes is not None:
            raise PumiceError(f"--input and --classes are for architectures: {file} has its own")
        if activity and dataset is not None:
            raise PumiceError("--activity and --data (to measure it on): give one of them")
        layers, found, steps = _frozen(file, dataset, samples)
        rates, time_steps = found or rates, time_steps or steps
    counted = CostModel(
        layers,
        batch_size,
        time_steps or DEFAULTS.time_steps,
        rates,
        trainable=not random_classifiers,
        pooling_states=pooling_states,
    )
    rows = counted.table(k, n, losses)
    if plot is not None:
        from loihi import files

        files.write(plot, _draw(rows, f"{model}, T = {counted.time_steps}", FORMATS[plot.suffix]))
    answer = {
        "model": model,
        "layers": [asdict(layer) for layer in counted.layers],
        "hidden_layers": counted.depth,
        "classes": counted.classes,
        "time_steps": counted.time_steps,
        "batch_size": counted.batch_size,
        "activity": counted.activity,
        "classifiers": "trainable" if counted.trainable else "random",
        "pooling_states": counted.pooling_states,
        "rows": [row.as_dict() for row in rows],
        "plot": plot,
    }
    return Result(answer, _text(counted, rows, plot))


def _file(model: str) -> Path | None:
    """The ``.net`` file, if ``model`` names one or a run folder."""
    path = Path(model)
    if path.suffix == ".net":
        return path
    if (path / MODEL).is_file():
        return path / MODEL
    if (path / CONFIG).is_file():
        raise PumiceError(
            f"{path} has no {MODEL}: its training has not ended, or its neurons are not on the grid"
        )
    if len(path.parts) > 1 and not path.name.isdigit():  # vgg11/4 is a model, whatever lies here
        raise PumiceError(f"{path} is no run folder; name one that pumice train made, or a model")
    return None


def _sizes(
    text: str | None, classes: int | None, dataset: Dataset | None
) -> tuple[tuple[int, ...], int]:
    """What goes into an architecture and how many classes come out: as said, or as data have it."""
    if dataset is None and (text is None or classes is None):
        raise PumiceError(
            "the architecture alone does not say what goes in and out: add --input 1x28x28 "
            "--classes 10, or --data"
        )
    if text is not None:
        sizes = text.split("x")
        if len(sizes) not in (1, 3) or not all(n.isdecimal() and int(n) for n in sizes):
            raise PumiceError(f"--input {text}: write channels, height, width, as 1x28x28, or 784")
        shape = tuple(int(n) for n in sizes)
    else:
        assert dataset is not None
        shape = dataset.sample_shape(in_time=dataset.x_train.ndim == 5)
    if classes is None:
        assert dataset is not None
        classes = dataset.classes
    return shape, classes


def _frozen(
    file: Path, dataset: Dataset | None, samples: int
) -> tuple[tuple[Layer, ...], tuple[float, ...] | None, int]:
    """A file's layers, their activity if there are data to measure it on, and the file's T."""
    from cli import networks
    from trainer.cost import measured_activity, of_frozen

    network = networks.read(file, dataset)
    layers = of_frozen(network)
    if dataset is None:
        return layers, None, network.time_steps
    if not network.is_chain:
        raise PumiceError(f"activity is measured on chains; {file} branches: give --activity")
    from loihi.engine import Engine

    x = network.encoding.encode(dataset.x_test[:samples])
    rates = [found.rate for found in Engine(network).activity(x)]
    return layers, measured_activity(layers, x, rates), network.time_steps


def _loss(text: str) -> tuple[tuple[int, int], float]:
    try:
        where, loss = text.split("=")
        k, n = where.split(",")
        return (int(k), int(n)), float(loss)
    except ValueError:
        raise PumiceError(f"--accuracy-loss {text}: write k, n and the loss, as 5,1=0.02") from None


def _text(counted: CostModel, rows: Sequence[Row], plot: Path | None) -> Any:
    from rich.console import Group

    best = min(rows, key=lambda row: row.fom)
    lines = []
    for row in rows:
        cells = [
            f"{_short(value)} {row.relative[name]:7.4f}"
            for name, value in (
                ("memory", row.memory),
                ("accesses", row.accesses),
                ("additions", row.additions),
                ("macs", row.macs),
            )
        ]
        fom = f"{row.fom:.4f}"
        lines.append(
            (
                str(row.k),
                str(row.n),
                *cells,
                f"{row.accuracy_loss:.4f}",
                coloured(fom, "green") if row is best else fom,
            )
        )
    headers = ("k", "n", "memory", "accesses", "additions", "MACs", "acc. loss", "FoM")
    rates = sorted(set(counted.activity))  # type: ignore[arg-type]
    about = [
        ("batch", f"{counted.batch_size} samples, T = {counted.time_steps}"),
        ("layers", f"{counted.depth} with weights, and the output of {counted.classes} classes"),
        ("classifiers", "trainable" if counted.trainable else "random and fixed"),
        ("activity", " to ".join(f"{rate:.4f}" for rate in (rates[:1] + rates[1:][-1:]))),
        ("cells", "words or operations of one batch, then in parts of BPTT"),
        ("best FoM", f"{best.fom:.4f} at k = {best.k}, n = {best.n}"),
        *([("plot", str(plot))] if plot is not None else []),
    ]
    return Group(table(about), "", table(lines, headers))


def _short(value: float) -> str:
    """Three to five figures and a unit, as ``88.55 M``."""
    units = iter(" kMGTPE")
    unit = next(units)
    while value >= 999.995:
        value, unit = value / 1000, next(units)
    return f"{value:6.2f} {unit}"


def _draw(rows: Sequence[Row], title: str, form: str) -> bytes:
    """A PNG or SVG: each measure over k, a line for each n, and for each n the smallest FoM."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from cli.raster import ACCENT, FAINT, INK

    ns = sorted({row.n for row in rows}, reverse=True)
    ks = sorted({row.k for row in rows})
    ks = ks[:: -(-len(ks) // 10)]  # as many as there is room for on an axis
    figure = Figure(figsize=(15, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, color=INK)
    panels = figure.subplots(1, 5)
    names = {"memory": "memory", "accesses": "memory accesses", "additions": "additions"}
    for axes, (measure, name) in zip(panels, {**names, "macs": "MACs"}.items(), strict=False):
        for shade, n in enumerate(ns):
            line = [row for row in rows if row.n == n]
            axes.plot(
                [row.k for row in line],
                [row.relative[measure] for row in line],
                marker="o",
                markersize=4,
                color=_mix(ACCENT, FAINT, shade / max(1, len(ns) - 1)),
                label=f"n = {n}",
            )
        axes.axhline(1, color=INK, linewidth=0.8, linestyle=":")
        axes.set_title(name, fontsize=10, color=INK)
        axes.set_xscale("log")
        axes.set_xticks(ks, [str(k) for k in ks])
        axes.minorticks_off()
        axes.set_xlabel("k, steps between truncations")
        axes.set_ylim(bottom=0)
    panels[0].set_ylabel("in parts of BPTT")
    panels[0].legend(fontsize=8, frameon=False)
    best = [min((row for row in rows if row.n == n), key=lambda row: row.fom) for n in ns]
    bars = panels[-1].bar([f"n = {row.n}" for row in best], [row.fom for row in best], color=ACCENT)
    panels[-1].bar_label(bars, [f"k = {row.k}" for row in best], fontsize=8, color=INK)
    panels[-1].margins(y=0.1)
    panels[-1].set_title("smallest figure of merit", fontsize=10, color=INK)
    for axes in panels:
        axes.tick_params(labelsize=8)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    content = io.BytesIO()
    figure.savefig(content, format=form, dpi=130, metadata={"Date": None} if form == "svg" else {})
    return content.getvalue()


def _mix(first: str, last: str, share: float) -> tuple[float, ...]:
    from matplotlib.colors import to_rgb

    pairs = zip(to_rgb(first), to_rgb(last), strict=True)
    return tuple(a + (b - a) * share for a, b in pairs)
