"""What stands in for the derivative of a spike: φ, a bump around the threshold.

The distance x = (m − θ) / unit is measured in units of the threshold (or of a fixed number), so
that one width suits membranes of the size 1 and the chip's registers of some thousands alike::

    ds/dm = φ(x) / unit          ds/dθ = −φ(x) / unit

With θ = unit = 1 these are the papers' own. The derivative does not look
into ``unit``: it is a scale, not a path to the threshold.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from loihi.errors import PumiceError


def triangle(x: Tensor, width: float = 1.0) -> Tensor:
    """``max(0, γ − |x|) / γ²`` (SLTT Eq 6), γ = width; 0 at and beyond x = ±γ."""
    return (width - x.abs()).clamp_(min=0.0).div_(width**2)


def rectangle(x: Tensor, width: float = 0.5) -> Tensor:
    """``1/a`` where ``|x| < a/2``, else 0 (SLTT Eq 5, TT-LBP Eq 6), a = width."""
    return (x.abs() < width / 2).to(x.dtype).div_(width)


def exponential(x: Tensor, width: float = 1.0) -> Tensor:
    """``exp(−|x| / w) / w``, w = width (STOP: w = 1)."""
    return torch.exp(x.abs().div_(-width)).div_(width)


def sigmoid(x: Tensor, width: float = 0.25) -> Tensor:
    """``κ σ(κx) (1 − σ(κx))``, κ = 1 / width (OTTT: κ = 4)."""
    tail = torch.exp(x.abs().div_(-width))  # 1 − σ is 0 in floats where σ(1 − σ) is not
    return tail / (1 + tail).square_() / width


SHAPES: dict[str, Callable[[Tensor, float], Tensor]] = {
    "triangle": triangle,
    "rectangle": rectangle,
    "exponential": exponential,
    "sigmoid": sigmoid,
}
WIDTHS = {"triangle": 1.0, "rectangle": 0.5, "exponential": 1.0, "sigmoid": 0.25}
"""The papers' widths."""


@dataclass(frozen=True)
class Surrogate:
    """A shape and its width in units of the distance.

    shape: triangle, rectangle, exponential or sigmoid.
    width: the shape's parameter, > 0; None for the papers'.
    unit: what a distance of 1 is, in membrane units; None: the threshold itself.
    """

    shape: str = "triangle"
    width: float | None = None
    unit: float | None = None

    def __post_init__(self) -> None:
        if self.shape not in SHAPES:
            known = ", ".join(SHAPES)
            raise PumiceError(f"surrogate {self.shape!r} is unknown: use one of {known}")
        if self.width is None:
            object.__setattr__(self, "width", WIDTHS[self.shape])
        assert self.width is not None
        if not self.width > 0:
            raise PumiceError(f"the surrogate's width is {self.width}: it must be above 0")

    def slope(self, m: Tensor, theta: Tensor) -> Tensor:
        """ds/dm at membrane ``m`` and threshold ``theta``, in 1 / membrane units."""
        unit = theta if self.unit is None else torch.as_tensor(self.unit, dtype=m.dtype)
        assert self.width is not None
        return SHAPES[self.shape]((m - theta) / unit, self.width) / unit
