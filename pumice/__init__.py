"""pumice in Python: what its commands do, as functions, and the types that these hand on.

    from pumice import Samples, TrainConfig, check, chip, learn, load, read, train, verify, write

    digits = load("digits")                                    # Dataset: plain numpy arrays
    run = train(TrainConfig(model="64", epochs=5), "runs/try")     # leaves runs/try/model.net
    network = read("runs/try/model.net")                       # Network: integers, immutable
    print(check(network, chip("loihi2")).ok)
    print(verify("runs/try/model.net", digits.x_test[:8], encoding=network.encoding).mismatches)
    learned = learn(network, Samples(digits.x_train, network.encoding), digits.y_train)
    write(learned.network, "learned.net")

Every name here lives in one of the rooms (``loihi``, ``trainer``, ``lava_export``, ``onchip``),
where the rest is; only :func:`train` is made here, of two of them. torch is imported by the first
call of :func:`train`, Lava in a child process where something is to run in it. What cannot be done
is a :class:`PumiceError` with one line for the reader.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lava_export.netx import read, write
from lava_export.verify import VerifyResult, verify
from loihi import Encoding, Network, PumiceError, decide
from loihi.engine import Engine
from loihi.limits import check, chip
from onchip.learn import LearnResult, accuracy, learn
from onchip.samples import Samples
from onchip.spec import Local, Rule, Spec
from trainer.config import TrainConfig
from trainer.data import Dataset, hold_out, load, save

if TYPE_CHECKING:
    from trainer.loop import TrainResult

__all__ = [
    "Dataset",
    "Encoding",
    "Engine",
    "LearnResult",
    "Local",
    "Network",
    "PumiceError",
    "Rule",
    "Samples",
    "Spec",
    "TrainConfig",
    "VerifyResult",
    "accuracy",
    "check",
    "chip",
    "decide",
    "hold_out",
    "learn",
    "load",
    "read",
    "save",
    "train",
    "verify",
    "write",
]

_MODEL = "model.net"  # in a run folder


def train(
    config: TrainConfig,
    out: Path | str,
    dataset: Dataset | None = None,
    *,
    resume: bool = False,
    on_epoch: Callable[[dict[str, Any]], None] | None = None,
) -> TrainResult:
    """Train, and leave the run folder that ``pumice train`` leaves, ``model.net`` in it.

    config: every setting, checked when it was made; ``TrainConfig.read("config.toml")`` reads one.
    out: the run folder. One that holds a run already is refused, but for ``resume``.
    dataset: what to train on; ``load(config.data)`` by default. With another one, ``config.toml``
        alone does not repeat the run.
    resume: go on from the folder's checkpoint, to the same numbers as an uninterrupted run.
    on_epoch: called with each epoch's metrics: ``epoch, loss, train_accuracy, test_accuracy, …``.

    Returns a :class:`trainer.loop.TrainResult`: ``network`` (frozen; None of neurons that are not
    on the chip's grid, which leave no ``model.net``), ``accuracy``, ``metrics``, ``predictions``
    and the PyTorch ``module``. Raises a :class:`PumiceError` for data or settings that cannot be
    trained with, and for a folder that cannot be written.
    """
    from trainer import loop

    return loop.train(
        config,
        load(config.data) if dataset is None else dataset,
        out,
        resume=resume,
        on_epoch=on_epoch,
        export=lambda network, folder: write(network, folder / _MODEL),
    )
