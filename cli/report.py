"""``pumice report``: a run folder as one page, with curves, spikes, numbers, proofs and costs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.check import ChipName
from cli.output import Json, Result, log, table
from loihi.errors import PumiceError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cli.run_page import Costs, OnData, Sample
    from loihi import Network
    from loihi.limits import Report
    from trainer.config import TrainConfig
    from trainer.data import Dataset
    from trainer.runs import Run

EXAMPLE = "pumice report runs/mnist --verify"
REPORT = "report.html"
PROVED = 8
"""Samples that ``--verify`` compares."""


def run(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A folder of pumice train.")],
    out: Annotated[
        Path | None, typer.Option(help="The page; report.html in the folder by default.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="Other data than the run's, of the same kind.", metavar="NAME|PATH"),
    ] = None,
    chip: Annotated[ChipName, typer.Option(help="The chip to check against.")] = ChipName.loihi2,
    samples: Annotated[
        int, typer.Option(min=1, help="How many test samples to count activity on.")
    ] = 200,
    rasters: Annotated[int, typer.Option(min=0, help="Of how many the spikes are drawn.")] = 3,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify", help=f"First compare {PROVED} samples everywhere, into verify.json."
        ),
    ] = False,
    _json: Json = False,
) -> Result:
    """Write what a run folder holds into one HTML file, which needs nothing but itself.

    Settings and versions, curves, each layer's activity, spikes of some samples, numbers on the
    chip's grid, what verify and check say, and costs; each number as counted, measured or modelled.
    """
    from cli import run_page
    from loihi import files
    from trainer import runs

    if verify:
        _verify(folder)
    found = runs.read(folder)
    notes: list[str] = []
    network = _network(found, notes)
    dataset = None if network is None else _dataset(found.config, data, notes)
    chapter = run_page.Chapter(found, notes=notes)
    if network is not None:
        chapter = _looked_at(found, network, dataset, chip, samples, rasters, notes)
    out = out or folder / REPORT
    files.write(out, run_page.page(chapter))
    for note in notes:
        log(f"{folder}: {note}")
    answer = {
        "report": str(out),
        "run": str(folder),
        "summary": found.summary(),
        "samples": 0 if chapter.on_data is None else chapter.on_data.samples,
        "mismatches": None if found.verification is None else found.verification["mismatches"],
        "fits": None if chapter.check is None else chapter.check.ok,
        "notes": notes,
    }
    return Result(answer, table([("report", str(out)), *(("without", note) for note in notes)]))


def _verify(folder: Path) -> None:
    """``pumice verify`` on the run, its answer into the folder; Lava too where it is."""
    from cli import verify
    from loihi import files, lava_compat
    from trainer import runs

    model = runs.read(folder).files.get(runs.MODEL)
    if model is None:
        raise PumiceError(f"{folder} holds no {runs.MODEL} to verify: see pumice export")
    names = ["grid", "reference", "engine"]
    names += ["lava"] if lava_compat.status().installed else []
    answer = verify.run(folder=folder, samples=PROVED, states=True, between=",".join(names)).data
    text = json.dumps({**answer, "sha256": model.sha256}, default=str)
    files.write(folder / runs.VERIFY, (text + "\n").encode())


def _network(found: Run, notes: list[str]) -> Network | None:
    from cli import networks
    from trainer import runs

    if runs.MODEL in found.files:
        return networks.read(found.folder / runs.MODEL)
    notes.append(
        f"no {runs.MODEL}, so nothing about the network: pumice export writes it from the "
        "checkpoint of a network on the chip's grid"
    )
    return None


def _dataset(config: TrainConfig, data: str | None, notes: list[str]) -> Dataset | None:
    """The run's data, with what it held out in place of the test set; None if they are not here."""
    from trainer.data import hold_out, load

    try:
        dataset = load(data or config.data)
    except PumiceError as error:
        if data is not None:
            raise
        notes.append(f"the data are not here, so nothing that takes samples: {error}")
        return None
    return hold_out(dataset, config.validation, config.seed) if config.validation else dataset


def _looked_at(
    found: Run,
    network: Network,
    dataset: Dataset | None,
    name: ChipName,
    samples: int,
    rasters: int,
    notes: list[str],
) -> Any:
    from cli import networks, run_page
    from loihi import boards, limits, metrics
    from loihi.census import census

    chip, x = boards.chip(name.value), None
    if dataset is not None:
        network = networks.fit(network, dataset)
        x = network.encoding.encode(dataset.x_test[:samples])
    check = limits.check(network, chip, x)
    on_data = None
    if dataset is not None and x is not None:
        on_data = _on_data(network, dataset, found.config, x, check, rasters)
    return run_page.Chapter(
        found,
        network,
        chip,
        check,
        metrics.footprint(network),
        census(network, x),
        on_data,
        _costs(network, found.config, x, on_data, notes),
        notes,
    )


def _on_data(
    network: Network,
    dataset: Dataset,
    config: TrainConfig,
    x: NDArray[Any],
    check: Report,
    rasters: int,
) -> OnData:
    from cli.run_page import OnData
    from loihi import metrics
    from loihi.engine import Engine

    engine = Engine(network)
    return OnData(
        dataset.name,
        "held-out" if config.validation else "test",
        x.shape[1],
        engine.activity(x),
        metrics.count(network, x, check.partition),
        _samples(network, dataset, engine, x[:, :rasters]),
    )


def _samples(network: Network, dataset: Dataset, engine: Any, x: NDArray[Any]) -> list[Sample]:
    from cli.run_page import Sample
    from loihi import decide

    if not x.shape[1]:
        return []
    steps = len(x)
    trace, scores = engine.run(x, ("spikes",)), engine.predict(x)
    sends = [i for i, layer in enumerate(network.layers) if layer.neuron.vth is not None]
    return [
        Sample(
            number,
            int(dataset.y_test[number]),
            int(answer),
            _image(dataset, number),
            x[:, number].reshape(steps, -1),
            {network.names[i]: trace.spikes[i][:, number].reshape(steps, -1) for i in sends},
            scores[number],
        )
        for number, answer in enumerate(decide(scores))
    ]


def _image(dataset: Dataset, number: int) -> bytes | None:
    """A sample's pixels, grey or in colour; None of what is no image."""
    import numpy as np

    from loihi import html

    sample = np.asarray(dataset.x_test[number], dtype=np.float64)
    if sample.ndim == 2:
        sample = sample[None]
    if sample.ndim != 3 or len(sample) not in (1, 3):
        return None
    shade = np.clip((sample - dataset.low) / (dataset.high - dataset.low), 0, 1)
    pixels = np.rint(255 * shade).astype(np.uint8)
    return html.png(pixels[0] if len(pixels) == 1 else np.moveaxis(pixels, 0, 2))


def _costs(
    network: Network,
    config: TrainConfig,
    x: NDArray[Any] | None,
    on_data: OnData | None,
    notes: list[str],
) -> Costs | None:
    """TT-LBP's model of a training batch; None of networks that it cannot count."""
    from cli.run_page import Costs
    from trainer import cost, runs

    layers = cost.of_frozen(network)
    activity: Any = 1.0
    if x is not None and on_data is not None and network.is_chain:
        rates = [found.rate for found in on_data.activity]
        activity = cost.measured_activity(layers, x, rates)
    try:
        model = cost.CostModel(layers, config.batch_size, network.time_steps, activity)
    except cost.CostError as error:
        notes.append(f"costs of training are not modelled: {error}")
        return None
    rows = model.table()
    own = None
    if (cut := runs.truncation(config)) is not None:
        k, n = cut
        own = model.row(k or network.time_steps, min(n or model.depth, model.depth))
    bptt = model.row(network.time_steps, model.depth)
    return Costs(model, own, bptt, min(rows, key=lambda row: row.fom))
