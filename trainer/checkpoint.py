"""A run's state on disk: tensors and a little JSON, in one safetensors file, written atomically.

No pickle: a checkpoint from somebody else cannot run code. What is not in it, a run does not need:
the loop draws its random numbers from (seed, epoch), so that there is no generator state to keep.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from loihi.errors import PumiceError

FORMAT = "pumice-checkpoint-1"


class CheckpointError(PumiceError):
    """A checkpoint that cannot be read, or is another run's."""


def write_atomic(path: Path, data: bytes) -> None:
    """``data`` into ``path`` at once: whatever happens, the old file or the new one is there."""
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(name, 0o644)
            os.replace(name, path)
        except BaseException:
            os.unlink(name)
            raise
    except OSError as error:
        raise CheckpointError(
            f"cannot write {path}: {error.strerror or error}; choose another folder or make room"
        ) from None


def write(path: Path, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
    """Tensors by name, and ``state``: whatever else, as JSON."""
    flat = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_atomic(path, save(flat, {"format": FORMAT, "state": json.dumps(state)}))


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the state that :func:`write` wrote."""
    if not path.is_file():
        raise CheckpointError(f"nothing to resume: {path} does not exist")
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise CheckpointError(f"{path} is no checkpoint of pumice's training")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return tensors, json.loads(metadata["state"])
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from None
