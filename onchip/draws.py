"""The random numbers with which learning rounds."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

Rounding = Literal["lava", "chip-like"]
ROUNDINGS: tuple[str, ...] = get_args(Rounding)

WEIGHT_SEED = 2
"""Of the draws for weights and tags: Lava leaves no choice."""


def stream(seed: int, skip: int, count: int) -> NDArray[np.float64]:
    """``count`` numbers of a stream as Lava seeds it, after the first ``skip``."""
    bits = np.random.PCG64(seed)
    bits.advance(skip)
    return np.random.Generator(bits).random(count)
