"""From real parameters to the chip's integers, with straight-through gradients.

Parameters are kept in the chip's own units (a weight of 20 is the integer 20) as floats between
the integers; each function here rounds them to what the chip can hold and lets the gradient pass
as if it had not (straight-through: d quantised / d parameter = 1). :func:`trainer.models.\
SpikingNetwork.project` keeps the parameters inside the ranges, so that nothing is clamped for long.

``round`` is torch's, half to even.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from loihi import formats

WEIGHT_STEP = 2
"""Of mixed signs, a synapse holds the even numbers: one of its eight bits is the sign."""
WEIGHT_MAX = 254
"""±254 rather than −256..254, so that a layer whose weights all turn negative, where the chip
stores magnitudes of 0..255, is still one that it can hold."""
VTH_MIN = 1
"""A threshold of 0 would make a neuron at rest spike on the slightest input."""
BIAS_EXP = 6
"""Biases are shifted left as synaptic input is: the one exponent that netx files know."""


class _StraightThrough(torch.autograd.Function):
    """``clamp(step · round(x / step), low, high)`` forwards, the identity backwards."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, step: float, low: float, high: float) -> Tensor:
        return torch.round(x / step).mul_(step).clamp_(low, high)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        return grads[0], None, None, None


def _snap(x: Tensor, step: float, low: float, high: float) -> Tensor:
    result: Tensor = _StraightThrough.apply(x, step, low, high)
    return result


def weight(x: Tensor) -> Tensor:
    """Weights on the 8-bit mixed-sign grid: even integers in −254..254."""
    return _snap(x, WEIGHT_STEP, -WEIGHT_MAX, WEIGHT_MAX)


def threshold(x: Tensor) -> Tensor:
    """Threshold mantissas: integers in 1..131071."""
    return _snap(x, 1, VTH_MIN, formats.VTH_MAX)


def decay(x: Tensor) -> Tensor:
    """Decays of u or v: integers in 0..4096; 4096 forgets everything in a step."""
    return _snap(x, 1, 0, formats.DECAY_ONE)


def bias(x: Tensor) -> Tensor:
    """Bias mantissas: integers in −4096..4095."""
    return _snap(x, 1, formats.BIAS_MIN, formats.BIAS_MAX)


def whole(x: Tensor, step: float) -> Tensor:
    """The nearest multiple of ``step``."""
    return _snap(x, step, -math.inf, math.inf)


def integers(x: Tensor) -> NDArray[np.int32]:
    """What is on the grid, for the chip."""
    return x.detach().cpu().numpy().astype(np.int32)
