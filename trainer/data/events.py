"""Event streams, and frames of them: ``[T, 2, H, W]`` counts, channel 0 OFF and channel 1 ON.

An event camera reports, pixel by pixel, when the brightness rose (p = 1) or fell (p = 0). A network
sees T steps; a step's frame is the number of events of each pixel and polarity in a window of time,
or in a T-th of the recording's events.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from trainer.data.dataset import DataError, Shape

COUNT_MAX = 255
Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Events:
    """A recording: four arrays ``[n]``, an event each.

    x, y: column and row of the pixel, from 0.
    t: microseconds, in any order, from any origin.
    p: 1 where it became brighter, 0 where darker.
    """

    x: NDArray[Any]
    y: NDArray[Any]
    t: NDArray[Any]
    p: NDArray[Any]

    def __post_init__(self) -> None:
        shapes = {array.shape for array in (self.x, self.y, self.t, self.p)}
        if len(shapes) != 1 or len(next(iter(shapes))) != 1:
            raise DataError("events need x, y, t and p of one length each")
        if any(array.dtype.kind not in "iub" for array in (self.x, self.y, self.t, self.p)):
            raise DataError("events need whole numbers: x, y pixels, t microseconds, p 0 or 1")

    def __len__(self) -> int:
        return len(self.t)

    @classmethod
    def of(cls, array: NDArray[Any]) -> Events:
        """Of a structured array with the fields x, y, t (microseconds) and p."""
        fields = set(array.dtype.fields or ())  # titles too, as some decoders call polarity `on`
        if missing := [name for name in "xytp" if name not in fields]:
            found = ", ".join(array.dtype.names or ()) or "none"
            raise DataError(f"the events lack the field {missing[0]}: found {found}")
        return cls(array["x"], array["y"], array["t"], array["p"])

    def check(self, size: tuple[int, int]) -> None:
        """Raises :class:`DataError` for an event outside the sensor (H, W), or a wrong polarity."""
        height, width = size
        bad = np.flatnonzero((self.x < 0) | (self.x >= width) | (self.y < 0) | (self.y >= height))
        if bad.size:
            x, y = int(self.x[bad[0]]), int(self.y[bad[0]])
            raise DataError(
                f"event {bad[0]} is at x = {x}, y = {y}, outside a sensor of {width}x{height}"
            )
        wrong = np.flatnonzero((self.p != 0) & (self.p != 1))
        if wrong.size:
            raise DataError(f"event {wrong[0]} has polarity {self.p[wrong[0]]}: use 0 and 1")


@dataclass(frozen=True)
class Binning:
    """How a recording becomes T frames.

    steps: T.
    by: ``time``: the first T windows of ``window`` microseconds, what comes later is left out;
        ``count``: T slices of equal numbers of events, to within one.
    window: microseconds. TT-LBP (Guo et al., 2023) takes 20,000 and T = 60 for DVS-Gesture, 5,000
        and T = 100 for CIFAR10-DVS.
    down: the frame's pixel is the sum over ``down`` x ``down`` of the sensor's; where the size is
        no multiple of it, the last row and column are sums over fewer.
    binary: 1 where there was an event at all, in place of the count.
    """

    steps: int
    by: Literal["time", "count"] = "time"
    window: int = 0
    down: int = 1
    binary: bool = False

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise DataError(f"steps is {self.steps}: at least one frame is needed")
        if self.by not in ("time", "count"):
            raise DataError(f"events are binned by time or by count, not by {self.by!r}")
        if self.by == "time" and self.window < 1:
            raise DataError(f"window is {self.window} µs: at least 1 is needed")
        if self.down < 1:
            raise DataError(f"down is {self.down}: use 1 (every pixel) or more")

    @property
    def high(self) -> int:
        """The largest number in a frame."""
        return 1 if self.binary else COUNT_MAX

    def frame_shape(self, size: tuple[int, int]) -> Shape:
        """``(2, H, W)`` of the frames of a sensor of ``size`` (H, W)."""
        return (2, -(-size[0] // self.down), -(-size[1] // self.down))

    def counts(self, events: Events, size: tuple[int, int], start: int | None = None) -> Counts:
        """Counts ``[T, 2, H, W]`` of a recording.

        size: the sensor's (H, W). start: where the first window begins, in microseconds; the first
        event unless given; what is before it is left out.
        """
        events.check(size)
        shape = self.frame_shape(size)
        x, y = (
            np.asarray(a).astype(np.int64) // self.down for a in (events.x, events.y)
        )  # 16 bits would not hold the index
        cell = (np.asarray(events.p).astype(np.int64) * shape[1] + y) * shape[2] + x
        return self._histogram(events.t, cell, int(np.prod(shape)), start).reshape(-1, *shape)

    def channel_counts(
        self, t: NDArray[Any], channel: NDArray[Any], channels: int, start: int | None = None
    ) -> Counts:
        """Counts ``[T, channels / down]`` of spikes that have a channel, 0..channels − 1, alone."""
        bad = np.flatnonzero((channel < 0) | (channel >= channels))
        if bad.size:
            raise DataError(f"spike {bad[0]} is of channel {channel[bad[0]]} of {channels}")
        cell = np.asarray(channel).astype(np.int64) // self.down
        return self._histogram(t, cell, -(-channels // self.down), start)

    def _histogram(
        self, t: NDArray[Any], cell: NDArray[np.int64], cells: int, start: int | None
    ) -> Counts:
        t = np.asarray(t).astype(np.int64)
        if self.by == "time":
            first = (int(t.min()) if len(t) else 0) if start is None else start
            step = (t - first) // self.window
            inside = (step >= 0) & (step < self.steps)
            step, cell = step[inside], cell[inside]
        else:
            order = np.argsort(t, kind="stable")
            cell = cell[order]
            edges = np.arange(self.steps + 1) * len(t) // self.steps
            step = np.repeat(np.arange(self.steps), np.diff(edges))
        found = np.bincount(step * cells + cell, minlength=self.steps * cells)
        return found.reshape(self.steps, cells)

    def frames(self, counts: Counts) -> tuple[NDArray[np.uint8], int]:
        """Counts as uint8 of the same shape, and how many of them were over 255 and clipped."""
        if self.binary:
            return (counts > 0).astype(np.uint8), 0
        over = int((counts > COUNT_MAX).sum())
        return np.minimum(counts, COUNT_MAX).astype(np.uint8), over
