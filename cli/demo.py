"""``pumice demo``: the whole way, from data to learning on the chip, in some three minutes."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli import networks
from cli.learn import teach
from cli.networks import Engine
from cli.output import Json, Result, log, table
from cli.train import MODEL, train
from loihi.errors import PumiceError

if TYPE_CHECKING:
    from loihi import Network
    from trainer.data import Dataset

EXAMPLE = "pumice demo"
HIDDEN = "128-64"
LEARNED = "learned.net"
PICTURE = "raster.png"
LESSON = 700
"""Samples that are learned on the chip."""


def run(
    out: Annotated[Path, typer.Option(help="The folder for what it makes.")] = Path("runs/demo"),
    _json: Json = False,
) -> Result:
    """Train on digits, prove the network in Lava, and let it learn there.

    A network of two hidden layers is trained by SLTT on the chip's number grid, frozen into
    integers and written to a netx file, which then runs in the reference, the fast engine and
    Lava: the same spikes everywhere. Then the world is mirrored, and the network learns on, by a
    local rule in Lava's simulator, until it knows its digits again.
    """
    from lava_export import netx
    from lava_export.verify import verify
    from loihi import lava_compat
    from onchip import tasks
    from onchip.spec import Spec
    from trainer import data, loop
    from trainer.config import TrainConfig

    lava_compat.require()
    begin = time.perf_counter()
    dataset = data.load("digits")
    model, samples = out / MODEL, len(dataset.y_test)
    settings = TrainConfig(data="digits", model=HIDDEN)
    if (out / loop.CHECKPOINT).exists():
        if TrainConfig.read(out / loop.CONFIG) != settings:
            raise PumiceError(f"{out} holds a run that is not the demo's: use another --out")
        for name in (MODEL, loop.METRICS, loop.CHECKPOINT):  # of the last demo
            (out / name).unlink(missing_ok=True)
    log(f"1. Training 64-{HIDDEN}-10 on {len(dataset.y_train)} digits ...")
    trained = train(settings, dataset, out)
    network = networks.read(model, dataset)

    log(f"2. The {samples} test samples in the reference, the fast engine and Lava ...")
    proof = verify(model, network.encoding.encode(dataset.x_test))
    right = {"trainer": trained.correct}
    for engine in (Engine.reference, Engine.fast):
        found = networks.evaluate(network, model, engine, dataset.x_test, dataset.y_test)
        right[engine.value] = found.correct
    right["lava"] = networks.correct(proof.scores, dataset.y_test)
    _picture(network, dataset, out / PICTURE)

    log("3. The world is mirrored, and the network learns it again ...")
    mirrored = replace(
        dataset, x_train=dataset.x_train[..., ::-1], x_test=dataset.x_test[..., ::-1]
    )
    lesson = teach(tasks.whole(network, mirrored).limited(LESSON), Spec.of_mode("hidden"))
    before = lesson.before["test"].accuracy
    netx.write(lesson.network, out / LEARNED)
    log(f"4. The {samples} mirrored test samples with what was learned, everywhere ...")
    again = verify(out / LEARNED, network.encoding.encode(mirrored.x_test))
    after = networks.correct(again.scores, dataset.y_test) / samples
    seconds = time.perf_counter() - begin

    mismatches, compared = proof.mismatches + again.mismatches, proof.compared + again.compared
    answer = {
        "correct": right,
        "samples": samples,
        "accuracy": trained.accuracy,
        "mismatches": mismatches,
        "compared": compared,
        "accuracy_before": before,
        "accuracy_after": after,
        "learned_samples": lesson.learned.samples,
        "model": str(model),
        "learned": str(out / LEARNED),
        "picture": str(out / PICTURE),
        "seconds": seconds,
    }
    rows = [
        *((who, f"{n} of {samples} right, {n / samples:.2%}") for who, n in right.items()),
        ("mismatches", f"{mismatches:,} of {compared:,} spikes and scores compared"),
        ("mirrored", f"{before:.2%} before learning in Lava, {after:.2%} after {LESSON} samples"),
        ("networks", f"{model}, {out / LEARNED}"),
        ("picture", str(out / PICTURE)),
        ("took", f"{seconds:.0f} s"),
    ]
    same = len(set(right.values())) == 1
    return Result(answer, table(rows), ok=same and not mismatches)


def _picture(network: Network, dataset: Dataset, path: Path) -> None:
    """The first test sample, on its way through the network."""
    from cli import raster
    from loihi import files
    from loihi.engine import Engine as FastEngine

    image, label = dataset.x_test[0], int(dataset.y_test[0])
    trace = FastEngine(network).run(network.encoding.encode(image[None]), ("spikes", "v"))
    title = f"A digit in a spiking network on Loihi's number grid, {network.time_steps} steps"
    files.write(path, raster.draw(network, trace, image[0], label, title))
