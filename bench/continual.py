"""New classes, or a sensor that drifts, for a trained network that learns on the chip.

    python -m bench.continual [--data digits] [--new 8 9] [--grow] [--validation 0.2] [--json]
    python -m bench.continual --drift turn=20 dead=0.1 [--data digits] ...

A network is trained offline on the old classes alone, frozen, and learns the new ones by the local
rule of :mod:`onchip` from a stream of their samples and of a few old ones that were kept
(``replay``). Beside it the same network trained offline on all classes at once, from nothing. All
outputs compete in every test. The old network has an output for each class from the start, of which
some never had a sample; with ``--grow`` it has none for new ones, and they are added.

With ``--drift`` it is trained on all classes, and learns on what a drifted sensor gives of them:
simulated (:mod:`onchip.drift`). Beside it the same network trained offline on that.

The settings were chosen with ``--validation 0.25``, which puts training samples in the place of the
test set.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.report import Row, show
from loihi import Network, PumiceError
from onchip import tasks
from onchip.drift import Drift
from onchip.spec import Rule
from trainer import data
from trainer.config import TrainConfig
from trainer.data import Dataset
from trainer.loop import train

NEW = (8, 9)
SHARES = ("old", "new", "all", "forgetting")
"""Columns that are parts of one."""


OFFLINE = {
    "digits": TrainConfig(hidden=(256,), encoding="rate", epochs=20, surrogate_unit="threshold"),
    "mnist": TrainConfig(
        data="mnist", hidden=(400,), encoding="rate", epochs=4, surrogate_unit="threshold"
    ),
}
READOUT = Rule(leak=1000, readout_impulse=2)
BOTH = Rule(leak=1000, readout_impulse=4, hidden_impulse=8)
EPOCHS = {"digits": 20, "mnist": 2}
CLASSES = [
    *(("readout", replay, READOUT) for replay in (0.0, 0.02, 0.1, 1.0)),
    ("hidden", 1.0, BOTH),
    *(("both", replay, BOTH) for replay in (0.1, 1.0)),
]
DRIFT = [
    ("readout", 0.0, replace(READOUT, readout_impulse=4)),
    ("hidden", 0.0, BOTH),
    ("both", 0.0, BOTH),
    ("both", 0.25, BOTH),
]


def of_classes(dataset: Dataset, classes: Sequence[int], outputs: int) -> Dataset:
    """The samples of some classes, for a network of ``outputs``."""
    learned, tested = (np.isin(y, classes) for y in (dataset.y_train, dataset.y_test))
    return replace(
        dataset,
        x_train=dataset.x_train[learned],
        y_train=dataset.y_train[learned],
        x_test=dataset.x_test[tested],
        y_test=dataset.y_test[tested],
        classes=outputs,
    )


def offline(config: TrainConfig, dataset: Dataset) -> tuple[Network, float]:
    """A frozen network, and the seconds of its training."""
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        network = train(config, dataset, Path(folder) / "run").network
    assert network is not None
    return network, time.perf_counter() - begin


def rows(
    dataset: Dataset,
    config: TrainConfig,
    epochs: int,
    new: Sequence[int],
    grow: bool,
    drift: Drift | None,
) -> list[Row]:
    """The network before, every way of learning, and the offline one."""
    table: list[Row] = []

    def row(what: str, scores: dict[str, tasks.Score], seconds: float, **more: Any) -> None:
        told = {name: score.accuracy for name, score in scores.items()}
        table.append({"what": what, **more, **told, "seconds": seconds})

    known, known_by = dataset, "all classes, before the drift"
    if drift is None:
        old = [c for c in range(dataset.classes) if c not in new]
        known = of_classes(dataset, old, min(new) if grow else dataset.classes)
        known_by = f"old classes, {known.classes} outputs"
    network, seconds = offline(config, known)

    def make(replay: float) -> tasks.Task:
        if drift is not None:
            return tasks.drifted(network, dataset, drift, replay=replay, seed=config.seed)
        return tasks.new_classes(network, dataset, new, replay=replay, seed=config.seed)

    begun = make(0.0)
    row(f"offline, {known_by}", tasks.tested(begun.network, begun.tests), seconds)
    for mode, replay, rule in CLASSES if drift is None else DRIFT:
        task = make(replay)
        report = tasks.run(
            task,
            mode=mode,  # type: ignore[arg-type]
            rule=rule,
            epochs=epochs,
            seed=config.seed + 1,
        )
        row(
            f"on chip, {mode}",
            report.after,
            report.learned.seconds,
            replayed=task.replayed,
            samples=report.learned.samples,
            forgetting=report.forgetting,
            changed=sum(report.learned.changed.values()),
        )
    if drift is not None:
        all_new = make(0.0).learn
        dataset = replace(dataset, x_train=all_new.samples.values, y_train=all_new.labels)
    everything, seconds = offline(config, dataset)
    what = "all classes" if drift is None else "after the drift"
    samples = config.epochs * len(dataset.y_train)
    row(f"offline, {what}", tasks.tested(everything, begun.tests), seconds, samples=samples)
    return table


def mean(tables: Sequence[list[Row]]) -> list[Row]:
    """One table of those of several seeds, as it is printed."""
    found: list[Row] = []
    for same in zip(*tables, strict=True):
        row: Row = {"what": same[0]["what"]}
        for name in [name for name in same[0] if name != "what"]:
            value = float(np.mean([line[name] for line in same]))
            if name in SHARES:
                row[name] = f"{value:.2%}"
            else:
                row[name] = round(value, 1) if name == "seconds" else round(value)
        found.append(row)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", choices=list(OFFLINE), default="digits")
    parser.add_argument("--new", type=int, nargs="+", default=list(NEW), help="the last classes")
    parser.add_argument("--grow", action="store_true", help="no outputs for new classes before")
    parser.add_argument("--drift", nargs="+", metavar="NAME=NUMBER", help="in place of new classes")
    parser.add_argument("--validation", type=float, default=0.0, help="a part held out of training")
    parser.add_argument("--seeds", type=int, default=1, help="networks; the mean is printed")
    parser.add_argument("--json", action="store_true", help="one JSON object and nothing else")
    o = parser.parse_args(arguments)
    torch.set_num_threads(1)
    try:
        dataset = data.load(o.data)
        if o.grow and sorted(o.new) != list(range(min(o.new), dataset.classes)):
            raise PumiceError("--grow adds the last classes: name those, as 8 9 of ten")
        if o.validation:
            dataset = data.hold_out(dataset, o.validation, 0)
        drift = None if o.drift is None else Drift.of(o.drift)
        configs = [replace(OFFLINE[o.data], seed=seed) for seed in range(max(1, o.seeds))]
        tables = [rows(dataset, c, EPOCHS[o.data], o.new, o.grow, drift) for c in configs]
    except PumiceError as error:
        raise SystemExit(f"bench.continual: {error}") from None
    show(mean(tables), o.json, data=dataset.name, seeds=len(tables), notes=list(dataset.notes))


if __name__ == "__main__":
    main()
