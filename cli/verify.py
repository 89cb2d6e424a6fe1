"""``pumice verify``: the same samples in several simulators, from the floats to Lava, number by
number."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli import networks
from cli.networks import Split
from cli.output import Json, Result, above_zero, log, table
from loihi.errors import PumiceError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lava_export.verify import Neighbourhood, Simulator, VerifyResult
    from loihi import Network
    from trainer.data import Dataset
    from trainer.models import SpikingNetwork

EXAMPLE = "pumice verify model.net --data mnist --samples 8 --states"
MODEL = "model.net"
SHOWN = 2
"""Samples whose spikes are drawn in a report, beside that of the first divergence."""


def run(
    model: Annotated[
        Path | None,
        typer.Argument(metavar="[MODEL.net]", help="A netx file; that of --run by default."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="A name that `pumice data list` knows, or a path; that of --run by default.",
            metavar="NAME|PATH",
        ),
    ] = None,
    samples: Annotated[int, typer.Option(help="How many samples, from the first.")] = 8,
    split: Annotated[Split, typer.Option(help="Which samples.")] = Split.test,
    between: Annotated[
        str,
        typer.Option(
            help="Two or more of float, grid (both with --run), reference, engine, lava.",
            metavar="NAME,NAME",
        ),
    ] = "reference,engine,lava",
    folder: Annotated[
        Path | None,
        typer.Option(
            "--run", metavar="RUN", help="A run folder: its trained module is grid, or float."
        ),
    ] = None,
    states: Annotated[
        bool, typer.Option("--states", help="Compare u and v of every layer as well.")
    ] = False,
    deadline: Annotated[
        float | None,
        typer.Option(
            callback=above_zero, help="Seconds until Lava is stopped; generous by default."
        ),
    ] = None,
    html: Annotated[
        Path | None, typer.Option(help="Write a report there, one file with all pictures.")
    ] = None,
    _json: Json = False,
) -> Result:
    """Prove a file: every layer's spikes in the reference, the fast engine and Lava compared.

    Also against the trained module itself (grid), and against the same parameters in real numbers
    (float), of which the differences are counted and are no errors. Fails if any other number
    differs; says which one first, by layer, neuron, step and state, and the likely cause.
    """
    from lava_export.verify import rows, verify

    begin, when = time.perf_counter(), datetime.now(timezone.utc).astimezone()
    names = [name.strip() for name in between.split(",") if name.strip()]
    module = own = None
    if folder is not None:
        module, own = _restored(folder)
        model = model or folder / MODEL
    if model is None:
        raise PumiceError("which network? Name a MODEL.net, or --run with a run folder")
    dataset = own if data is None else _loaded(data)
    if dataset is None:
        raise PumiceError("which samples? Use --data, or --run with a run folder")
    network = networks.read(model, dataset)
    others = {} if module is None else _of_module(module, names)
    frozen = {} if module is None else {"grid": _frozen(module, network, model)}
    x, _ = networks.some(dataset, split.value, samples)
    log(f"{samples} samples of {network.time_steps} steps in {', '.join(names)} ...")
    found = verify(
        model,
        x,
        states=states,
        deadline=deadline,
        between=names,
        others=others,
        networks=frozen,
        encoding=network.encoding,
        progress=lambda done: log(f"{done} of {samples}") if done < samples else None,
    )
    if html is not None:
        from lava_export import report
        from loihi import files

        seconds = time.perf_counter() - begin
        command = shlex.join(["pumice", *sys.argv[1:]])
        facts = report.Facts(
            model, dataset.name, split.value, samples, states, command, when, seconds
        )
        pictures = _pictures(network, found, x)
        files.write(html, report.page(network, found, facts, pictures))
    first = found.first_divergence
    answer = {
        "mismatches": found.mismatches,
        "compared": found.compared,
        "first_divergence": None if first is None else asdict(first),
        "causes": [asdict(cause) for cause in found.causes],
        "layers": [asdict(layer) for layer in found.layers],
        "samples": samples,
        "states": states,
        "between": list(found.between),
        "neighbourhood": _near(found.neighbourhood),
        "float": None if found.agreement is None else asdict(found.agreement),
        "html": None if html is None else str(html),
    }
    lines = [*rows(found), *([("report", str(html))] if html is not None else [])]
    return Result(answer, table(lines), ok=not found.mismatches)


def _loaded(data: str) -> Dataset:
    from trainer.data import load

    return load(data)


def _restored(folder: Path) -> tuple[SpikingNetwork, Dataset]:
    """The module that a run trained, and the data that it was trained on."""
    from trainer import loop, runs

    config = runs.settings(folder)
    dataset = _loaded(config.data)
    module = loop.restore(config, dataset, folder / loop.CHECKPOINT)
    if not module.on_grid:
        raise PumiceError(
            f"{folder} trained neurons of form {config.neuron}: only those on the grid (chip, "
            "soft) have integers that can be compared"
        )
    return module, dataset


def _of_module(module: SpikingNetwork, names: Sequence[str]) -> dict[str, Simulator]:
    """The module as simulators: its forward pass, and that in real numbers."""
    from functools import partial

    from trainer import observe

    found: dict[str, Any] = {}
    if "grid" in names:
        found["grid"] = partial(observe.observe, observe.ready(module))
    if "float" in names:
        found["float"] = partial(observe.observe, observe.in_real_numbers(module))
    return found


def _frozen(module: SpikingNetwork, network: Network, model: Path) -> Network:
    """The module's own integers, if they are of the file's kind at all."""
    frozen = module.freeze()
    for what in ("input_shape", "shapes", "time_steps", "readout"):
        mine, its = getattr(network, what), getattr(frozen, what)
        if mine != its:
            raise PumiceError(
                f"{model} is not of this run: its {what.replace('_', ' ')} is {mine}, the run's "
                f"{its}; pumice export writes the run's own"
            )
    return frozen


def _pictures(network: Network, found: VerifyResult, x: NDArray[Any]) -> list[tuple[str, bytes]]:
    """What the layers do with the first samples, and with that of the first divergence."""
    from cli import raster
    from loihi import reference
    from loihi.engine import Engine

    first = found.first_divergence
    shown = list(range(min(SHOWN, len(x))))
    shown += [] if first is None or first.sample in shown else [first.sample]
    run = Engine(network).run if "engine" in found.between else None
    pictures = []
    for sample in shown:
        payloads = network.encoding.encode(x[sample : sample + 1])
        trace = reference.run(network, payloads) if run is None else run(payloads)
        caption = (
            f"Sample {sample}: spikes of each neuron over the steps, neurons from the lowest index "
            f"at the bottom; counted in the {'reference' if run is None else 'fast engine'}"
        )
        pictures.append((caption, raster.layers(network, trace, payloads)))
    return pictures


def _near(near: Neighbourhood | None) -> dict[str, Any] | None:
    if near is None:
        return None
    return {"divergence": asdict(near.divergence), "states": near.states}
