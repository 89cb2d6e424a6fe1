"""A sensor that is no longer what it was, imitated: dead pixels, gain, offset, position, noise.

Simulated, and to be called so wherever a number is told that comes from it. What happens to a
sensor happens to all its samples alike; noise alone is new in each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onchip.spec import LearningError

CHUNK = 1024
"""Samples that are real numbers at a time."""


@dataclass(frozen=True)
class Drift:
    """What has happened, in this order from the light to the number.

    turn: degrees about the centre, counter-clockwise. down, right: pixels, negative for up and
        left. Both interpolate between four pixels; what comes in from outside is ``low``.
    gain: what values above ``low`` are multiplied by. uneven: standard deviation of each pixel's
        own gain about that, the same in all samples. offset: is added, in parts of the range.
    noise: standard deviation, in parts of the range, new in every value.
    dead: part of the pixels that read ``low`` for ever.
    seed: which pixels, and the noise.
    """

    turn: float = 0.0
    down: float = 0.0
    right: float = 0.0
    gain: float = 1.0
    uneven: float = 0.0
    offset: float = 0.0
    noise: float = 0.0
    dead: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, low, high in (
            ("turn", -180, 180),
            ("down", -1024, 1024),
            ("right", -1024, 1024),
            ("gain", 0, 100),
            ("uneven", 0, 10),
            ("offset", -1, 1),
            ("noise", 0, 10),
            ("dead", 0, 1),
            ("seed", 0, 2**31 - 1),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise LearningError(f"drift: {name} is {value}, use {low}..{high}")

    @classmethod
    def of(cls, settings: Sequence[str]) -> Drift:
        """A drift from texts as ``dead=0.1``; what is not named does not happen."""
        known = {f.name: int if f.name == "seed" else float for f in fields(cls)}
        numbers: dict[str, Any] = {}
        for setting in settings:
            name, _, number = setting.partition("=")
            if name not in known:
                raise LearningError(f"drift: {setting!r}: name one of {', '.join(known)}")
            try:
                numbers[name] = known[name](number)
            except ValueError:
                raise LearningError(f"drift: {setting!r}: {number!r} is no number") from None
        return cls(**numbers)

    @property
    def moves(self) -> bool:
        """Whether the image moves on the sensor."""
        return any((self.turn, self.down, self.right))

    def __str__(self) -> str:
        told = [f"{f.name}={getattr(self, f.name):g}" for f in fields(self) if f.name != "seed"]
        plain = replace(Drift(), seed=self.seed)
        changed = [
            text
            for f, text in zip(fields(self), told, strict=False)
            if getattr(self, f.name) != getattr(plain, f.name)
        ]
        return ", ".join(changed) or "none"

    def apply(
        self,
        x: NDArray[Any],
        low: float,
        high: float,
        *,
        in_time: bool = False,
        part: int = 0,
    ) -> NDArray[Any]:
        """Samples ``[N, …]`` as this sensor gives them, in their own dtype and within low..high.

        in_time: ``[N, T, …]``: every step of a sample sees the same sensor. part: of several
        arrays from one sensor, each has noise of its own.
        """
        x = np.asarray(x)
        shape = x.shape[2 if in_time else 1 :]
        pixels = shape[-2:] if len(shape) > 1 else shape
        if self.moves and len(pixels) < 2:
            raise LearningError(
                f"drift: samples of {list(shape)} are no images: turn, down and right move images"
            )
        draw = np.random.Generator(np.random.PCG64([self.seed, 0]))
        # Both are drawn whether they are used or not: one more fault does not move the others.
        gain = self.gain * np.maximum(0, 1 + self.uneven * draw.standard_normal(pixels))
        alive = np.ones(int(np.prod(pixels)), dtype=bool)
        alive[draw.permutation(alive.size)[: round(self.dead * alive.size)]] = False
        noise = np.random.Generator(np.random.PCG64([self.seed, 1 + part]))
        span, found = high - low, np.empty(x.shape, dtype=x.dtype)
        for at in range(0, len(x), CHUNK):
            some = x[at : at + CHUNK].astype(np.float64) - low
            if self.moves:
                some = self._moved(some)
            some = some * gain + self.offset * span
            if self.noise:
                some += self.noise * span * noise.standard_normal(some.shape)
            some = np.clip(some * alive.reshape(pixels), 0, span) + low
            found[at : at + CHUNK] = np.rint(some) if x.dtype.kind in "iu" else some
        return found

    def _moved(self, images: NDArray[np.float64]) -> NDArray[np.float64]:
        """``[…, H, W]`` turned and then shifted: each pixel from the four where it came from."""
        height, width = images.shape[-2:]
        y, x = np.mgrid[:height, :width].astype(np.float64)
        cy, cx = (height - 1) / 2, (width - 1) / 2
        y, x = y - self.down - cy, x - self.right - cx
        angle = np.deg2rad(self.turn)
        # Rows count downwards: counter-clockwise on the screen is the other way round here.
        fy, fx = np.cos(angle) * y + np.sin(angle) * x, np.cos(angle) * x - np.sin(angle) * y
        fy, fx = np.round(fy + cy, 9), np.round(fx + cx, 9)
        top, left = np.floor(fy).astype(int), np.floor(fx).astype(int)
        moved = np.zeros_like(images)
        for dy, dx in ((0, 0), (0, 1), (1, 0), (1, 1)):
            row, column = top + dy, left + dx
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            weight = (1 - np.abs(fy - row)) * (1 - np.abs(fx - column)) * inside
            moved += images[..., row.clip(0, height - 1), column.clip(0, width - 1)] * weight
        return moved
