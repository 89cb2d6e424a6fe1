"""A training run's state on disk (:mod:`loihi.checkpoint`), in tensors.

What is not in it, a run does not need: the loop draws its random numbers from (seed, epoch), so
that there is no generator state to keep.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from loihi import checkpoint

KIND = "pumice-training-2"


def write(path: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Tensors by name, and ``state``: whatever else, as JSON."""
    arrays = {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}
    checkpoint.write(path, KIND, arrays, state)


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the state that :func:`write` wrote."""
    arrays, state = checkpoint.read(path, KIND)
    return {name: torch.from_numpy(array) for name, array in arrays.items()}, state
