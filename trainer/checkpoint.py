"""A run's state on disk: tensors and a little JSON, in one safetensors file, written atomically.

No pickle: a checkpoint from somebody else cannot run code. What is not in it, a run does not need:
the loop draws its random numbers from (seed, epoch), so that there is no generator state to keep.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from loihi import files
from loihi.errors import PumiceError

FORMAT = "pumice-checkpoint-1"


class CheckpointError(PumiceError):
    """A checkpoint that cannot be read, or is another run's."""


def write(path: Path, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
    """Tensors by name, and ``state``: whatever else, as JSON."""
    flat = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    files.write(path, save(flat, {"format": FORMAT, "state": json.dumps(state)}))


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
