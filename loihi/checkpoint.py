"""Where a long computation is, on disk: arrays and a little JSON in one safetensors file, from
which it goes on to the same numbers.

No pickle: a checkpoint from somebody else cannot run code. Written whole or not at all; a seal says
on reading that nothing in it has changed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loihi import files
from loihi.errors import PumiceError


class CheckpointError(PumiceError):
    """A checkpoint that cannot be read, or is another run's."""


def write(
    path: Path, kind: str, arrays: Mapping[str, NDArray[Any]], state: Mapping[str, Any]
) -> None:
    """Arrays by name, and ``state``: whatever else, as JSON. kind: what it is a checkpoint of, and
    of which version."""
    from safetensors.numpy import save

    whole = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    text = json.dumps(state, sort_keys=True)
    files.write(path, save(whole, {"format": kind, "state": text, "seal": digest(text, whole)}))


def read(path: Path, kind: str) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """The arrays and the state that :func:`write` wrote; :class:`CheckpointError` for any other."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint {path}")
    try:
        with safe_open(str(path), framework="numpy") as file:
            metadata = file.metadata() or {}
            found = metadata.get("format", "of no such format")
            if found != kind:
                raise CheckpointError(f"{path} is no checkpoint {kind}: it is {found}")
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if digest(metadata["state"], arrays) != metadata["seal"]:
            raise CheckpointError(f"{path} is damaged: it is not what was written")
        state: dict[str, Any] = json.loads(metadata["state"])
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path} is damaged: {reason}") from None
    return arrays, state


def digest(text: str, arrays: Mapping[str, NDArray[Any]]) -> str:
    """Of a text, and of arrays by their names, types, shapes and content."""
    found = hashlib.sha256(text.encode())
    for name in sorted(arrays):
        array = arrays[name]
        found.update(f"{name} {array.dtype.str} {array.shape}".encode())
        # A static input is one step seen T times.
        array = array[:1] if array.ndim and array.strides[0] == 0 else array
        found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()
