"""A network from its file, data that fit it, and what it answers: shared by several commands.

numpy and the rooms are imported where they are used: ``pumice --help`` must come at once.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loihi.errors import PumiceError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from loihi import Network
    from trainer.data import Dataset

Model = Annotated[Path, typer.Argument(metavar="MODEL.net", help="A netx file.")]
Data = Annotated[
    str,
    typer.Option(help="digits, mnist, fashion-mnist, or an .npz file.", metavar="NAME|FILE.npz"),
]


class Engine(str, Enum):
    """What computes a network."""

    reference = "reference"
    fast = "fast"
    lava = "lava"


class Split(str, Enum):
    """Which samples of a data set."""

    train = "train"
    test = "test"


@dataclass
class Evaluation:
    """Predictions ``[N]`` for samples with labels ``[N]``, and how long they took."""

    predictions: NDArray[Any]
    labels: NDArray[Any]
    seconds: float

    @property
    def correct(self) -> int:
        """How many are right."""
        return int((self.predictions == self.labels).sum())

    @property
    def data(self) -> dict[str, Any]:
        """For JSON."""
        samples = len(self.labels)
        return {
            "accuracy": self.correct / samples,
            "correct": self.correct,
            "samples": samples,
            "samples_per_second": samples / self.seconds,
        }


def read(model: Path, dataset: Dataset | None = None) -> Network:
    """The network of a file; for ``dataset`` it gets the data's range where its file has none."""
    from lava_export import netx

    network = netx.read(model)
    return network if dataset is None else fit(network, dataset)


def fit(network: Network, dataset: Dataset) -> Network:
    """``network``, ready for ``dataset``; or one clear line why it cannot be."""
    encoding = network.encoding
    shape = dataset.sample_shape(in_time=encoding.kind == "events")
    if prod(shape) != prod(network.input_shape):
        raise PumiceError(
            f"the network takes samples of {_size(network.input_shape)}, "
            f"{dataset.name} holds {_size(shape)}"
        )
    if dataset.classes > network.classes:
        raise PumiceError(
            f"{dataset.name} has {dataset.classes} classes, the network answers with "
            f"{network.classes}"
        )
    if encoding.low is None and encoding.kind != "events":
        encoding = replace(encoding, low=dataset.low, high=dataset.high)
    return replace(network, encoding=encoding)


def random(dataset: Dataset, hidden: int | Sequence[int], time_steps: int, seed: int) -> Network:
    """An untrained network for ``dataset``, fed by its values as spike rates."""
    from loihi import Encoding
    from onchip.plan import random_network

    inputs = prod(dataset.sample_shape())
    encoding = Encoding("rate", time_steps, low=dataset.low, high=dataset.high)
    return random_network(inputs, hidden, dataset.classes, encoding, seed=seed)


def some(dataset: Dataset, split: str, samples: int | None) -> tuple[NDArray[Any], NDArray[Any]]:
    """The first ``samples`` of a split, all if None, and their labels."""
    x, y = dataset.split(split)
    if samples is None:
        return x, y
    if not 1 <= samples <= len(x):
        raise PumiceError(f"--samples {samples}: {dataset.name} has 1 to {len(x)} for {split}")
    return x[:samples], y[:samples]


def evaluate(
    network: Network, model: Path, engine: Engine, x: NDArray[Any], labels: NDArray[Any]
) -> Evaluation:
    """What ``engine`` answers to samples ``[N, ...]``; Lava runs the file ``model`` itself."""
    import numpy as np

    from loihi import decide

    predict, batch = _predictor(network, model, engine, len(x))
    if engine is Engine.fast:
        predict(network.encoding.encode(x[:1]))  # compiles, if it never has on this machine
    begin = time.perf_counter()
    answers = [
        decide(predict(network.encoding.encode(x[i : i + batch]))) for i in range(0, len(x), batch)
    ]
    return Evaluation(np.concatenate(answers), labels, time.perf_counter() - begin)


def correct(scores: NDArray[Any], labels: NDArray[Any]) -> int:
    """How many of scores ``[N, classes]`` say what the labels say."""
    from loihi import decide

    return int((decide(scores) == labels).sum())


def _predictor(
    network: Network, model: Path, engine: Engine, samples: int
) -> tuple[Callable[[NDArray[Any]], NDArray[Any]], int]:
    """A function from payloads to scores, and how many samples it is given at a time."""
    if engine is Engine.fast:
        from loihi.engine import Engine as FastEngine

        return FastEngine(network).predict, 1000
    if engine is Engine.reference:
        from loihi import reference

        return partial(reference.predict, network), 100
    from lava_export import run

    return partial(run.predict, model), samples  # at once: Lava takes a second to start


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
