"""Where learning is, on disk: one safetensors file, written atomically, from which it goes on to
the same weights.

No pickle: a checkpoint from somebody else cannot run code. Of random numbers there is nothing to
keep but the step, from which they are drawn. A digest says what is learned from what, so that
another run's checkpoint is noticed, and a seal that nothing in the file has changed.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from loihi import files
from onchip.engine import Learner
from onchip.simulate import pack
from onchip.spec import LearningError

FORMAT = "pumice-learning-2"


def digest(learner: Learner, x: NDArray[Any]) -> str:
    """What a run is: its plan, its labels in their order, its random numbers, and its data."""
    arrays: dict[str, NDArray[Any]] = {"labels": learner.labels, "x": x}
    about = [pack(learner.plan, arrays), learner.seed, learner.rounding]
    return _sha(json.dumps(about, sort_keys=True), arrays)


def write(path: Path, learner: Learner, run: str) -> None:
    """All that a learner needs to go on. run: its digest."""
    state = learner.state()
    place = {"run": run, "step": learner.step, "samples": learner.samples}
    said = json.dumps(place, sort_keys=True)
    metadata = {"format": FORMAT, "place": said, "seal": _sha(said, state)}
    files.write(path, save({k: np.ascontiguousarray(v) for k, v in state.items()}, metadata))


def restore(path: Path, learner: Learner, run: str) -> None:
    """Put a learner where the one was that wrote ``path``. Raises :class:`LearningError` for a
    damaged file and for another run's, and then the learner is untouched."""
    state = learner.state()
    try:
        with safe_open(str(path), framework="numpy") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise LearningError(f"{path} is no checkpoint of pumice's learning")
            place = json.loads(metadata["place"])
            if place["run"] != run:
                raise LearningError(
                    f"{path} is of another run: another network, data, order, rule or seed; name "
                    "another file, or take this one away"
                )
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise LearningError(f"{path} is damaged: {error}") from None
    same = found.keys() == state.keys() and all(
        found[k].shape == v.shape and found[k].dtype == v.dtype for k, v in state.items()
    )
    if not same or _sha(metadata["place"], found) != metadata.get("seal"):
        raise LearningError(f"{path} is damaged: it is not what was written")
    for name, values in state.items():
        values[...] = found[name]
    learner.step, learner.samples = int(place["step"]), int(place["samples"])


def _sha(text: str, arrays: dict[str, NDArray[Any]]) -> str:
    found = hashlib.sha256(text.encode())
    for name in sorted(arrays):
        array = arrays[name]
        found.update(f"{name} {array.dtype.str} {array.shape}".encode())
        # A static input is one step seen T times.
        array = array[:1] if array.ndim and array.strides[0] == 0 else array
        found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()
