"""Run folders: what is in them, read back, added up and compared. Nothing here needs torch.

==========================  ======================================================================
``config.toml``             every setting; alone it repeats the run
``environment.json``        versions that the run was begun and resumed on; no host, user or path
``metrics.jsonl``           an object an epoch
``checkpoint.safetensors``  parameters, optimizer state, history
``model.net``               the frozen network, where there is one
``verify.json``             what a comparison found, as ``pumice verify --json`` prints it
==========================  ======================================================================
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import math
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from loihi import files
from loihi.errors import PumiceError
from trainer.config import TrainConfig

CONFIG, ENVIRONMENT, METRICS = "config.toml", "environment.json", "metrics.jsonl"
CHECKPOINT, MODEL, VERIFY = "checkpoint.safetensors", "model.net", "verify.json"
KEPT = (CONFIG, ENVIRONMENT, METRICS, CHECKPOINT, MODEL, VERIFY)
SIZE_MAX = 2**26
"""Bytes that a JSON file of a run may have."""

_NUMBERS = (
    "loss",
    "train_accuracy",
    "test_accuracy",
    "test_correct",
    "test_samples",
    "lr",
    "seconds",
    "peak_bytes",
)


class RunError(PumiceError):
    """A folder that holds no run, or one whose files are damaged."""


@dataclass(frozen=True)
class File:
    """A file of a run: its size in bytes, and the SHA-256 of its content."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Run:
    """A run folder.

    metrics: an object an epoch, as :class:`trainer.loop.TrainResult` has them; those of earlier
        versions lack some. environments: what it was begun on, then what it was resumed on; empty
        where that was not noted. verification: what is in ``verify.json``. files: by name.
    """

    folder: Path
    config: TrainConfig
    metrics: tuple[dict[str, Any], ...]
    environments: tuple[dict[str, Any], ...]
    verification: dict[str, Any] | None
    files: dict[str, File]

    @property
    def name(self) -> str:
        """The folder's own."""
        return self.folder.resolve().name

    @property
    def finished(self) -> bool:
        """Whether all of its epochs are done."""
        return bool(self.metrics) and self.metrics[-1]["epoch"] >= self.config.epochs

    @property
    def verified(self) -> bool:
        """Whether ``verification`` is known to be of the ``model.net`` that is there."""
        model = self.files.get(MODEL)
        said = (self.verification or {}).get("sha256")
        return model is not None and said == model.sha256

    def series(self, name: str) -> list[float | None]:
        """One metric, epoch by epoch; None where it was not noted."""
        return [metrics.get(name) for metrics in self.metrics]

    def rates(self) -> dict[int, list[float | None]]:
        """Spikes per neuron and step, epoch by epoch, of each layer that spikes, by its index."""
        return self._by_layer("spike_rates")

    def thresholds(self) -> dict[int, list[float | None]]:
        """Each layer's threshold, where it began being 1, epoch by epoch, of those that learn."""
        return self._by_layer("thresholds")

    def _by_layer(self, name: str) -> dict[int, list[float | None]]:
        noted = [metrics.get(name) or [] for metrics in self.metrics]
        found = {
            index: [rates[index] if index < len(rates) else None for rates in noted]
            for index in range(max(map(len, noted), default=0))
        }
        return {n: rates for n, rates in found.items() if any(r is not None for r in rates)}

    def changed(self) -> dict[str, Any]:
        """The settings that are not the defaults."""
        default = TrainConfig().to_dict()
        return {n: v for n, v in self.config.to_dict().items() if v != default[n]}

    def summary(self) -> dict[str, float | None]:
        """What came of it: the last epoch's, and of all epochs the best, the sum, the peak."""
        if not self.metrics:
            return {"epochs": 0}
        last = self.metrics[-1]
        accuracies = self._known("test_accuracy")
        return {
            "epochs": last["epoch"],
            "test_accuracy": last.get("test_accuracy"),
            "best_test_accuracy": max(accuracies, default=None),
            "test_correct": last.get("test_correct"),
            "test_samples": last.get("test_samples"),
            "train_accuracy": last.get("train_accuracy"),
            "loss": last.get("loss"),
            "spikes": last.get("spikes"),
            "seconds": sum(self._known("seconds")) or None,
            "peak_bytes": max(self._known("peak_bytes"), default=None),
        }

    def _known(self, name: str) -> list[float]:
        return [value for value in self.series(name) if value is not None]


FALLEN = 0.05
"""A threshold below this part of where it began is warned of."""


def fallen(metrics: Mapping[str, Any], config: TrainConfig) -> dict[int, str]:
    """What is wrong with a layer's threshold after an epoch, by the layer's index.

    By ``surrogate_unit = "threshold"`` surrogates are as many times as steep as the threshold is
    smaller, and the layer's errors as many times as large: few networks learn on.
    """
    if config.surrogate_unit != "threshold":
        return {}
    noted = enumerate(metrics.get("thresholds") or ())
    return {
        index: f"layer {index}: its threshold fell to {part:.1%} of where it began, and gradients "
        f"grow as it falls: use surrogate_unit = start, or a lower lr_neuron ({config.lr_neuron})"
        for index, part in noted
        if part is not None and part < FALLEN
    }


SUMMARY = {
    "epochs": "counted",
    "test_accuracy": "counted",
    "best_test_accuracy": "counted",
    "test_correct": "counted",
    "test_samples": "counted",
    "train_accuracy": "counted",
    "loss": "measured",
    "spikes": "counted",
    "seconds": "measured",
    "peak_bytes": "measured",
}
"""How each number of :meth:`Run.summary` was come by; spikes are of all layers, a test sample."""


def settings(folder: Path) -> TrainConfig:
    """Those of the run in a folder. Raises :class:`RunError` where there is none."""
    if not (folder / CONFIG).is_file():
        what = "is no run folder: it has no config.toml" if folder.is_dir() else "is no folder"
        raise RunError(f"{folder} {what}; name one that pumice train made")
    return TrainConfig.read(folder / CONFIG)


def read(folder: Path) -> Run:
    """The run in a folder. Raises :class:`RunError` where there is none, or it is damaged."""
    config = settings(folder)
    environments = _read(folder / ENVIRONMENT, _environments) or ()
    kept = {name: _file(folder / name) for name in KEPT if (folder / name).is_file()}
    return Run(
        folder,
        config,
        _read(folder / METRICS, _metrics) or (),
        environments,
        _read(folder / VERIFY, _verification),
        kept,
    )


def occupied(folder: Path, config: TrainConfig) -> str | None:
    """The file of a run that training ``config`` anew in this folder would overwrite, if any.

    What a run leaves that was killed before its first checkpoint is none.
    """
    for name in (CHECKPOINT, MODEL):
        if (folder / name).exists():
            return name
    metrics, settings = folder / METRICS, folder / CONFIG
    if metrics.exists() and (not metrics.is_file() or metrics.stat().st_size):
        return METRICS
    if settings.exists():
        ours = config.to_toml().encode()
        if not settings.is_file() or settings.read_bytes() != ours:
            return CONFIG
    return None


def environment(torch: str) -> dict[str, str]:
    """What the numbers of a run may depend on beside its settings; torch: its version."""
    import numpy as np

    try:
        pumice = importlib.metadata.version("pumice")
    except importlib.metadata.PackageNotFoundError:
        pumice = "not installed"
    return {
        "pumice": pumice,
        "python": platform.python_version(),
        "torch": torch,
        "numpy": np.__version__,
        "platform": f"{platform.system()} {platform.machine()}",
    }


def note_environment(folder: Path, epoch: int, torch: str) -> None:
    """Notes what a run goes on with from ``epoch`` on; from epoch 1 it begins the file anew."""
    path, now = folder / ENVIRONMENT, environment(torch)
    before = [] if epoch == 1 else list(_read(path, _environments) or ())
    if before and {**before[-1], "from_epoch": epoch} == {"from_epoch": epoch, **now}:
        return
    text = json.dumps([*before, {"from_epoch": epoch, **now}], indent=1)
    files.write(path, (text + "\n").encode())


def truncation(config: TrainConfig) -> tuple[int, int] | None:
    """(k, n) of TT-LBP's cost model (:mod:`trainer.cost`), 0 for all; None of rules that it does
    not count."""
    known = {"bptt": (0, 0), "sltt": (1, 0), "tt_lbp": (config.k, config.n)}
    return known.get(config.rule)


# --- comparing ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Comparison:
    """How runs differ; every value is a row, with one entry a run.

    settings, versions: those that are not the same in all runs. results: :meth:`Run.summary`, None
    where it was not noted. files: whether each file is that of the first run, None where one of the
    two has none.
    """

    settings: dict[str, tuple[Any, ...]]
    versions: dict[str, tuple[str | None, ...]]
    results: dict[str, tuple[float | None, ...]]
    files: dict[str, tuple[bool | None, ...]]


def compare(found: Sequence[Run]) -> Comparison:
    """Two runs or more."""
    if len(found) < 2:
        raise RunError("name two runs or more to compare")
    settings = {
        field.name: tuple(run.config.to_dict()[field.name] for run in found)
        for field in fields(TrainConfig)
    }
    last = [run.environments[-1] if run.environments else {} for run in found]
    names = dict.fromkeys(name for noted in last for name in noted if name != "from_epoch")
    versions = {name: tuple(noted.get(name) for noted in last) for name in names}
    summaries = [run.summary() for run in found]
    kept = [name for name in KEPT if any(name in run.files for run in found)]
    return Comparison(
        {name: row for name, row in settings.items() if not _same(row)},
        {name: row for name, row in versions.items() if not _same(row)},
        {name: tuple(summary.get(name) for summary in summaries) for name in SUMMARY},
        {name: tuple(_equal(found[0], run, name) for run in found) for name in kept},
    )


def _same(row: Sequence[Any]) -> bool:
    return all(value == row[0] for value in row)


def _equal(first: Run, other: Run, name: str) -> bool | None:
    ours, theirs = first.files.get(name), other.files.get(name)
    return None if ours is None or theirs is None else ours == theirs


# --- reading ------------------------------------------------------------------------------------


def _file(path: Path) -> File:
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while part := file.read(2**20):
            digest.update(part)
            size += len(part)
    return File(size, digest.hexdigest())


def _read(path: Path, parse: Callable[[str], Any]) -> Any:
    """What ``parse`` makes of a file's text; None where there is no file."""
    if not path.is_file():
        return None
    if path.stat().st_size > SIZE_MAX:
        raise RunError(f"{path} is damaged: it has more than {SIZE_MAX} bytes")
    try:
        return parse(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path} is damaged: {' '.join(str(error).split())}") from None


def _metrics(text: str) -> tuple[dict[str, Any], ...]:
    found: list[dict[str, Any]] = []
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"line {number}: {error}") from None
        if not isinstance(row, dict) or not _is_whole(row.get("epoch")):
            raise ValueError(f"line {number} is no object with an epoch")
        if found and row["epoch"] <= found[-1]["epoch"]:
            raise ValueError(f"line {number}: epoch {row['epoch']} after {found[-1]['epoch']}")
        for name in (*_NUMBERS, "spikes"):
            if not _is_number(row.get(name)):
                raise ValueError(f"line {number}: {name} is {_short(row[name])}, not a number")
        for name in ("spike_rates", "thresholds"):
            rates = row.get(name)
            if rates is not None and not (isinstance(rates, list) and all(map(_is_number, rates))):
                raise ValueError(f"line {number}: {name} are not a list of numbers")
        found.append(row)
    return tuple(found)


def _is_number(value: Any) -> bool:
    """Or nothing."""
    if value is None:
        return True
    return _is_whole(value) or (isinstance(value, float) and math.isfinite(value))


def _is_whole(value: Any) -> bool:
    """Of 64 bits: what JSON may hold beyond is more than a float does."""
    return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:79]}…"


def _environments(text: str) -> tuple[dict[str, Any], ...]:
    found = json.loads(text)
    if not isinstance(found, list) or not all(
        isinstance(noted, dict) and _is_whole(noted.get("from_epoch")) for noted in found
    ):
        raise ValueError("it is no list of objects with from_epoch")
    return tuple(
        {n: v if n == "from_epoch" else str(v) for n, v in noted.items()} for noted in found
    )


def _verification(text: str) -> dict[str, Any]:
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError("it is no object")
    for name in ("mismatches", "compared", "samples"):
        value = found.get(name)
        if not _is_whole(value):
            raise ValueError(f"{name} is {_short(value)}, not a whole number")
    between = found.get("between")
    if not isinstance(between, list) or not all(isinstance(name, str) for name in between):
        raise ValueError("between is no list of names")
    layers = found.get("layers")
    if not isinstance(layers, list) or not all(map(_is_layer, layers)):
        raise ValueError("layers are no list of name, compared, mismatches")
    return found


def _is_layer(layer: Any) -> bool:
    return (
        isinstance(layer, dict)
        and isinstance(layer.get("name"), str)
        and all(_is_whole(layer.get(n)) for n in ("compared", "mismatches"))
    )
