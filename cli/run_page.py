"""A run's page: what is said of it, section by section. What is said is gathered elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loihi import charts, html
from loihi.html import Html, h, join

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from loihi import Network
    from loihi.boards import Chip
    from loihi.census import LayerCensus
    from loihi.engine import Activity
    from loihi.limits import Finding, Report
    from loihi.metrics import Counts, Footprint
    from trainer.cost import CostModel, Row
    from trainer.runs import Run

SET, COUNTED, MEASURED, MODELLED = "set", "counted", "measured", "modelled"
HOW = (
    (SET, "written in a file by whoever began the run, or by training"),
    (COUNTED, "whole numbers of this network on these samples, or computed from such: exact"),
    (MEASURED, "by a clock, by the operating system, or an average of floats over an epoch"),
    (MODELLED, "from counts, by published figures or a cost model; not measured on any chip"),
)
MARKS = {"ok": "good", "warning": "warn", "error": "bad"}
WORDS = {
    "epochs": "epochs",
    "test_accuracy": "test accuracy",
    "best_test_accuracy": "best test accuracy",
    "test_correct": "test samples right",
    "test_samples": "test samples",
    "train_accuracy": "training accuracy",
    "loss": "training loss",
    "spikes": "spikes a test sample",
    "seconds": "seconds of all epochs",
    "peak_bytes": "peak memory",
}
"""What :meth:`trainer.runs.Run.summary` has, in words."""


@dataclass(frozen=True)
class Sample:
    """A test sample on its way. image: its pixels as PNG, if it is one. payloads: ``[T, inputs]``.

    spikes: for each layer that sends any ``[T, neurons]``. scores: ``[classes]``.
    """

    number: int
    label: int
    answer: int
    image: bytes | None
    payloads: NDArray[Any]
    spikes: dict[str, NDArray[Any]]
    scores: NDArray[Any]


@dataclass(frozen=True)
class OnData:
    """What the network did on data. samples: how many. kind: of which, as ``test``."""

    name: str
    kind: str
    samples: int
    activity: list[Activity]
    counts: Counts
    shown: list[Sample]


@dataclass(frozen=True)
class Costs:
    """A batch's costs in training: the rule's own, where it is modelled, BPTT's, the least."""

    model: CostModel
    own: Row | None
    bptt: Row
    best: Row


@dataclass(frozen=True)
class Chapter:
    """All that a page is made of; None is what there is not, and ``notes`` say why."""

    run: Run
    network: Network | None = None
    chip: Chip | None = None
    check: Report | None = None
    footprint: Footprint | None = None
    census: Sequence[LayerCensus] = ()
    on_data: OnData | None = None
    costs: Costs | None = None
    notes: list[str] = field(default_factory=list)


def page(chapter: Chapter) -> bytes:
    """The whole page in UTF-8."""
    run = chapter.run
    sections = {
        "Training": _curves(run),
        "Layers": _layers(chapter),
        "Samples": _samples(chapter.on_data),
        "Numbers on the grid": _grid(chapter),
        "Verification": _verification(run),
        "Chip": _chip(chapter),
        "Costs": _costs(chapter),
        "Settings": _settings(run),
        "Versions and files": _versions(run),
    }
    there = {name: parts for name, parts in sections.items() if parts}
    contents = (h("a", name, href=f"#{_anchor(name)}") for name in there)
    config = run.config
    about = (
        f"{_named(config.data)}, {config.model}, {config.rule}, T = {config.time_steps}, "
        f"seed {config.seed}"
    )
    return html.document(
        f"{run.name} – pumice",
        h("h1", run.name),
        h("p", about),
        _tiles(chapter),
        *(h("p", note, class_="warn") for note in chapter.notes),
        h("nav", *contents),
        _legend(),
        *(h("section", h("h2", name, id=_anchor(name)), *parts) for name, parts in there.items()),
    )


def _anchor(name: str) -> str:
    return name.lower().replace(" ", "-")


def _named(data: str) -> str:
    """A data set's name; of a path the last part, as a page may go to other machines."""
    return Path(data).name if "/" in data else data


def _how(kind: str) -> Html:
    return h("span", kind, class_="how")


def _legend() -> Html:
    rows = [(_how(kind), words) for kind, words in HOW]
    inner = html.table((), rows)
    return h("details", h("summary", "How numbers here were come by"), inner)


def _tiles(chapter: Chapter) -> Html:
    run, on_data = chapter.run, chapter.on_data
    known = run.summary()
    tiles = []

    def tile(name: str, value: str, how: str, more: str = "", mark: str = "") -> None:
        parts = [h("span", name, class_="soft"), h("b", value, class_=mark), _how(how)]
        tiles.append(h("div", *parts, " ", h("span", more, class_="soft"), class_="tile"))

    if (accuracy := known.get("test_accuracy")) is not None:
        kind = "held out" if run.config.validation else "test"
        right = f"{known.get('test_correct')} of {known.get('test_samples')} {kind}"
        tile("accuracy", f"{accuracy:.2%}", COUNTED, right)
    done = f"{known['epochs']} of {run.config.epochs}"
    tile("epochs", done, COUNTED, mark="" if run.finished else "warn")
    if (seconds := known.get("seconds")) is not None:
        tile("training", f"{seconds:,.1f} s", MEASURED)
    if (peak := known.get("peak_bytes")) is not None:
        tile("peak memory", charts.si(peak, "B"), MEASURED)
    if chapter.footprint is not None:
        tile("weights", f"{chapter.footprint.weights:,}", COUNTED)
    if on_data is not None:
        spikes = sum(layer.spikes for layer in on_data.counts.layers) / on_data.samples
        tile("spikes a sample", f"{spikes:,.0f}", COUNTED, f"on {on_data.samples}")
        if on_data.counts.model is not None:
            joules = on_data.counts.model.energy_pj * 1e-12
            tile("energy a sample", charts.si(joules, "J"), MODELLED, on_data.counts.model.chip)
    if chapter.check is not None and chapter.check.partition is not None:
        name = chapter.chip.name if chapter.chip is not None else ""
        tile("cores", f"{chapter.check.partition.cores:,}", MODELLED, name)
    if run.verification is not None:
        bad = run.verification["mismatches"]
        of = f"of {run.verification['compared']:,}"
        tile("mismatches", f"{bad:,}", COUNTED, of, "bad" if bad else "good")
    return h("div", *tiles, class_="tiles")


# --- training -----------------------------------------------------------------------------------


def _curves(run: Run) -> list[Html]:
    if not run.metrics:
        return [h("p", "No epoch is done yet.")]
    x = [metrics["epoch"] for metrics in run.metrics]
    figures = []

    def draw(
        name: str, how: str, series: dict[str, list[float | None]], say: charts.Say = charts.plain
    ) -> None:
        series = {n: values for n, values in series.items() if any(v is not None for v in values)}
        if not series:
            return
        names, last = list(series), next(iter(series.values()))[-1] or 0.0
        said = [
            f"{n} {say(values[-1])}" if values[-1] is not None else n
            for n, values in series.items()
        ]
        keys = charts.key(said) if len(names) > 1 else h("div", f"at last {say(last)}")
        drawing = charts.curves(f"{name} by epoch", x, series, say)
        caption = join(h("b", name), " ", _how(how), keys)
        figures.append(h("figure", h("figcaption", caption), drawing))

    draw("loss", MEASURED, {"training": run.series("loss")})
    kind = "held out" if run.config.validation else "test"
    accuracy = {"training": run.series("train_accuracy"), kind: run.series("test_accuracy")}
    draw("accuracy", COUNTED, accuracy, charts.percent)
    draw("learning rate", SET, {"lr": run.series("lr")})
    rates = {f"layer {index}": values for index, values in run.rates().items()}
    draw("spikes a neuron and step", COUNTED, _few(rates))
    thresholds = {f"layer {index}": values for index, values in run.thresholds().items()}
    draw("thresholds, 1 at the beginning", COUNTED, _few(thresholds))
    peak = {"peak": run.series("peak_bytes")}
    draw("peak memory", MEASURED, peak, lambda value: charts.si(value, "B"))
    draw("seconds an epoch", MEASURED, {"seconds": run.series("seconds")})
    from trainer.runs import fallen

    warnings = fallen(run.metrics[-1], run.config).values()
    return [
        h("p", "Against the epoch."),
        *(h("p", warning, class_="warn") for warning in warnings),
        h("div", *figures, class_="grid"),
    ]


def _few(series: dict[str, list[float | None]]) -> dict[str, list[float | None]]:
    """As many as there are colours: the first ones and the last."""
    names = list(series)
    kept = names if len(names) <= html.COLOURS else [*names[: html.COLOURS - 1], names[-1]]
    return {name: series[name] for name in kept}


# --- the network --------------------------------------------------------------------------------


def _layers(chapter: Chapter) -> list[Html]:
    network = chapter.network
    if network is None:
        return []
    activity = chapter.on_data.activity if chapter.on_data is not None else None
    headers = ["layer", "neurons", "weights", "of them 0", "threshold", "du", "dv"]
    headers += ["spike rate", "silent", "saturated", ""] if activity is not None else []
    warnings: dict[str | None, list[str]] = {}
    for found in chapter.check.findings if chapter.check is not None else ():
        if found.rule in ("silent neurons", "saturated neurons") and found.level != "ok":
            warnings.setdefault(found.layer, []).append(found.message)
    rows = []
    for place, layer in enumerate(chapter.census):
        neuron = network.layers[place].neuron
        weights = layer.weights
        row: list[str] = [
            layer.name,
            f"{layer.neurons:,}",
            f"{weights.total:,}" if weights is not None else "–",
            f"{weights.zeros / weights.total:.1%}" if weights is not None else "–",
            f"{layer.vth:,}" if layer.vth is not None else "–",
            *(str(getattr(neuron, name, "–")) for name in ("du", "dv")),
        ]
        if activity is not None:
            sends = neuron.vth is not None and not neuron.graded
            found_here = activity[place]
            shares = (f"{found_here.silent:.1%}", f"{found_here.saturated:.1%}")
            row += [f"{found_here.rate:.4f}", *shares] if sends else ["–"] * 3
            row.append(h("span", "; ".join(warnings.get(layer.name, ())), class_="warn"))
        rows.append(row)
    said = f"{SET}: threshold, du, dv; {COUNTED}: the others"
    if chapter.on_data is not None:
        said += f", activity on {chapter.on_data.samples} {chapter.on_data.kind} samples"
    right = 9 if activity is not None else 6
    explained = (
        "Spike rate: spikes per neuron and step. Silent: neurons that never spiked; saturated: "
        "neurons that spiked at every step of every sample."
    )
    note = [h("p", explained, class_="soft")] if activity is not None else []
    return [html.table(headers, rows, said, right=right, first=1), *note]


def _samples(on_data: OnData | None) -> list[Html]:
    if on_data is None:
        return []
    parts = [
        h("p", f"The first {on_data.kind} samples of {on_data.name}. Steps from left to right, "
          "neurons from the bottom up; a mark is a spike, the darker the larger its payload. Where "
          "there are too many, neighbours share a pixel. Counted, in the fast engine.")
    ]  # fmt: skip
    for sample in on_data.shown:
        right = sample.answer == sample.label
        verdict = h("span", f"answer {sample.answer}", class_="good" if right else "bad")
        heading = h("h3", f"Sample {sample.number}, class {sample.label}: ", verdict)
        figures = []
        if sample.image is not None:
            picture = html.image(sample.image, f"sample {sample.number}", class_="exact",
                                 width="110")  # fmt: skip
            figures.append(h("figure", h("figcaption", "as the data have it"), picture))
        name = f"input: {_messages(sample.payloads)}"
        figures.append(charts.figure(name, COUNTED, charts.raster(name, sample.payloads)))
        for layer, spikes in sample.spikes.items():
            name = f"{layer}: {_messages(spikes)}"
            figures.append(charts.figure(name, COUNTED, charts.raster(name, spikes)))
        scores = {str(n): float(score) for n, score in enumerate(sample.scores.tolist())}
        drawing = charts.bars("score by class", scores, chosen=str(sample.answer))
        figures.append(charts.figure("score by class", COUNTED, drawing))
        parts += [heading, h("div", *figures, class_="grid")]
    return parts


def _messages(numbers: NDArray[Any]) -> str:
    low, high = int(numbers.min()), int(numbers.max())
    if low >= 0 and high <= 1:
        return f"{int(numbers.sum()):,} spikes"
    return f"payloads {low} to {high}"


def _grid(chapter: Chapter) -> list[Html]:
    from loihi import census

    if chapter.network is None:
        return []
    parts = [
        h("p", "Weights and thresholds as the file holds them; membranes after each step, resets "
          "done, in register units (64 a weight unit), with the threshold where there is one.")
    ]  # fmt: skip
    names = {str(i): layer.vth for i, layer in enumerate(chapter.census) if layer.vth is not None}
    figures = []
    if names:
        values = {name: float(vth) for name, vth in names.items()}
        drawing = charts.bars("thresholds by layer", values)
        caption = h("b", "thresholds by layer")
        figures.append(charts.figure(caption, SET, drawing))
    for layer in chapter.census:
        if layer.weights is not None:
            caption = join(h("b", "weights"), f" of {layer.name}")
            drawing = charts.histogram(f"weights of {layer.name}", layer.weights)
            figures.append(charts.figure(caption, COUNTED, drawing))
        if layer.membranes is not None:
            at = census.threshold(layer)
            marks = {} if at is None else {f"threshold {at:,}": float(at)}
            caption = join(h("b", "membranes"), f" of {layer.name}")
            drawing = charts.histogram(f"membranes of {layer.name}", layer.membranes, marks)
            figures.append(charts.figure(caption, COUNTED, drawing))
    return [*parts, h("div", *figures, class_="grid")]


# --- proofs and chips ---------------------------------------------------------------------------


def _verification(run: Run) -> list[Html]:
    found = run.verification
    if found is None:
        said = "Not verified here: pumice report --verify runs it, or put the answer of "
        return [h("p", said, h("code", "pumice verify --run RUN --json"), " into verify.json.")]
    bad = found["mismatches"]
    words = f"{bad:,} mismatches of {found['compared']:,} numbers"
    whose = "of this model.net" if run.verified else "of which file is not noted, or of another one"
    rows = [
        ("result", h("span", words, class_="bad" if bad else "good")),
        ("between", ", ".join(found["between"])),
        ("samples", f"{found['samples']:,}"),
        ("compared", "spikes, u and v, and scores" if found.get("states") else "spikes and scores"),
        ("file", whose),
    ]
    if isinstance(first := found.get("first_divergence"), dict):
        rows.append(("first", ", ".join(f"{name} {value}" for name, value in first.items())))
    layers = [
        (layer["name"], f"{layer['compared']:,}", f"{layer['mismatches']:,}")
        for layer in found["layers"]
    ]
    headers = ("layer", "numbers compared", "mismatches")
    return [html.table((), rows, COUNTED), html.table(headers, layers, COUNTED, right=2)]


def _chip(chapter: Chapter) -> list[Html]:
    check = chapter.check
    if check is None or chapter.chip is None:
        return []
    good = "fits: no rule is broken" if check.ok else "does not fit: rules are broken"
    name = chapter.chip.name
    notable = [found for found in check.findings if found.level != "ok"]
    parts = [h("p", h("span", f"{name}: {good}", class_="good" if check.ok else "bad"))]
    if notable:
        parts.append(_findings(notable))
    inner = _findings(check.findings)
    parts.append(h("details", h("summary", f"All {len(check.findings)} findings"), inner))
    if check.partition is not None:
        caption = h("p", "Which core holds which layer ", _how(MODELLED))
        parts += [caption, h("pre", check.partition.picture(72))]
    return parts


def _findings(findings: Iterable[Finding]) -> Html:
    rows = [
        (
            h("span", found.level, class_=MARKS[found.level]),
            found.rule,
            found.layer or "the network",
            f"{found.used:.1%}"
            if found.unit == "fraction"
            else f"{found.used:,.0f} of {found.allowed:,.0f} {found.unit}",
            found.message,
        )
        for found in findings
    ]
    said = f"used: {COUNTED}, cores and what they hold {MODELLED}; allowed: the chip's figures"
    return html.table(("", "rule", "layer", "used", ""), rows, said)


def _costs(chapter: Chapter) -> list[Html]:
    parts: list[Html] = []
    if chapter.on_data is not None:
        parts += _running(chapter.on_data, chapter.chip)
    if chapter.costs is not None:
        parts += _training(chapter.costs, chapter.run)
    return parts


def _running(on_data: OnData, chip: Chip | None) -> list[Html]:
    counts = on_data.counts
    rows: list[tuple[str, ...]] = [("input", f"{counts.input_spikes:,}", "", "", "")]
    rows += [
        (
            layer.name,
            f"{layer.spikes:,}",
            f"{layer.synaptic_ops:,}",
            f"{layer.updates:,}",
            f"{layer.active:,}",
        )
        for layer in counts.layers
    ]
    headers = ("layer", "spikes", "synaptic operations", "neuron updates", "of them active")
    said = f"{COUNTED} on {counts.samples} samples of {counts.time_steps} steps, all together"
    parts = [h("h3", "Of an answer"), html.table(headers, rows, said, right=4)]
    more = [
        ("activation sparsity", f"{counts.activation_sparsity:.4f}"),
        ("effective ACs a sample", f"{counts.effective_acs:,.1f}"),
        ("effective MACs a sample", f"{counts.effective_macs:,.1f}"),
        ("dense synaptic operations a sample", f"{counts.dense:,.1f}"),
    ]
    parts.append(html.table((), more, f"NeuroBench's metrics: {COUNTED}", right=1))
    if counts.model is None:
        name = chip.name if chip is not None else "this chip"
        none = f"No energy or time: there are no public figures for {name}; --chip loihi1 has some."
        return [*parts, h("p", none, class_="soft")]
    model = counts.model
    modelled = [
        ("energy a sample", charts.si(model.energy_pj * 1e-12, "J")),
        ("of it synaptic operations", charts.si(model.synaptic_pj * 1e-12, "J")),
        ("active updates", charts.si(model.active_pj * 1e-12, "J")),
        ("idle updates", charts.si(model.idle_pj * 1e-12, "J")),
        ("spikes on their way", charts.si(model.spikes_pj * 1e-12, "J")),
    ]
    if model.latency_ns is not None:
        modelled.append(("time a sample", charts.si(model.latency_ns * 1e-9, "s")))
    said = f"on {model.chip}: {MODELLED} from counts; no static power, no input and output"
    return [*parts, html.table((), modelled, said, right=1)]


def _training(costs: Costs, run: Run) -> list[Html]:
    rows: list[tuple[str, ...]] = []
    choices = {"BPTT": costs.bptt, f"this run ({run.config.rule})": costs.own}
    choices["least figure of merit"] = costs.best
    for name, row in choices.items():
        if row is None:
            continue
        cells = [
            f"{charts.plain(getattr(row, measure))} ({row.relative[measure]:.1%})"
            for measure in ("memory", "accesses", "additions", "macs")
        ]
        rows.append((name, str(row.k), str(row.n), *cells))
    headers = ("", "k", "n", "memory, words", "memory accesses", "additions", "MACs")
    said = (
        f"{MODELLED} by TT-LBP's equations, of one batch of {costs.model.batch_size} samples, "
        f"T = {costs.model.time_steps}, and in parts of BPTT; activity {COUNTED} where there were "
        "data, else 1"
    )
    none = [] if costs.own is not None else [
        h("p", f"The model knows BPTT, SLTT and TT-LBP, not {run.config.rule}.", class_="soft")
    ]  # fmt: skip
    return [h("h3", "Of training"), html.table(headers, rows, said, right=6), *none]


# --- settings -----------------------------------------------------------------------------------


def _settings(run: Run) -> list[Html]:
    changed = run.changed()
    every = run.config.to_dict()

    def row(name: str) -> tuple[str, str]:
        value = every[name]
        return name, _named(value) if name == "data" else _said(value)

    same = [row(name) for name in every if name not in changed]
    parts = [html.table((), [row(name) for name in changed], f"not the defaults: {SET}")]
    if not changed:
        parts = [h("p", "All settings are the defaults.")]
    inner = html.table((), same, f"the defaults: {SET}")
    return [*parts, h("details", h("summary", f"{len(same)} settings as by default"), inner)]


def _said(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "–"
    return str(value) if value != "" else "–"


def _versions(run: Run) -> list[Html]:
    names = dict.fromkeys(name for noted in run.environments for name in noted)
    rows = [tuple(str(noted.get(name, "–")) for name in names) for noted in run.environments]
    headers = [name.replace("_", " ") for name in names]
    parts = [html.table(headers, rows, f"what it ran on, from that epoch on: {SET}")]
    if not rows:
        parts = [h("p", "What it ran on was not noted: an earlier version made this run.")]
    files = [(name, f"{file.size:,}", h("code", file.sha256)) for name, file in run.files.items()]
    table = html.table(("file", "bytes", "SHA-256"), files, COUNTED, right=1, first=1)
    return [*parts, table]
