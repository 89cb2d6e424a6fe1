"""From data to what the first synapse receives, step by step: graded, rate, latency, events.

All encodings are deterministic integer functions of the data alone: the same sample gives the same
payloads in the trainer, in the engines and in Lava, in whatever batch it comes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from loihi.errors import PumiceError
from loihi.formats import PAYLOAD_MAX, PAYLOAD_MIN

Kind = Literal["graded", "rate", "latency", "events"]
KINDS: tuple[str, ...] = get_args(Kind)


class EncodingError(PumiceError):
    """Data that the encoding cannot take."""


@dataclass(frozen=True)
class Encoding:
    """How a sample becomes ``time_steps`` steps of integer payloads.

    kind:
        - ``graded``: the value itself, scaled to ``payload``, at every step (graded spikes, or the
          current of an input neuron);
        - ``rate``: exactly ``round(f · T)`` spikes, f the value's fraction of its range, at times
          that a fixed permutation for each input (from ``seed``) spreads over the T steps;
        - ``latency``: one spike, at step ``round((1 − f)(T − 1))``: the larger, the earlier; none
          where f < 1 / (2 T), so that empty background stays silent;
        - ``events``: the data have a time axis already and hold the payloads.
    time_steps: T, the steps a sample lasts, at least 1.
    payload: the smallest and the largest payload, within −256..255. (0, 1) is a binary spike.
    low, high: the data's range, in the data's units; values outside are clipped. None for events.
    seed: the permutation of ``rate``.
    """

    kind: Kind
    time_steps: int
    payload: tuple[int, int] = (0, 1)
    low: float | None = None
    high: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise EncodingError(f"encoding {self.kind!r} is unknown: use one of {', '.join(KINDS)}")
        if self.time_steps < 1:
            raise EncodingError(f"time_steps is {self.time_steps}: at least one step is needed")
        first, last = self.payload
        if not PAYLOAD_MIN <= first < last <= PAYLOAD_MAX:
            raise EncodingError(
                f"payload {first}..{last} is not a range within {PAYLOAD_MIN}..{PAYLOAD_MAX}"
            )
        if self.kind in ("rate", "latency") and self.payload != (0, 1):
            raise EncodingError(f"{self.kind} sends binary spikes: payload must be (0, 1)")
        if (self.low is None) != (self.high is None) or (
            self.low is not None
            and self.high is not None
            and not (self.low < self.high and math.isfinite(self.high - self.low))
        ):
            raise EncodingError(f"the data's range {self.low}..{self.high} is not a range")

    @property
    def binary(self) -> bool:
        """Whether every payload is a spike of 0 or 1."""
        return self.payload == (0, 1)

    @property
    def dtype(self) -> type[np.uint8] | type[np.int16]:
        """The smallest dtype that holds every payload."""
        return np.uint8 if self.payload[0] >= 0 else np.int16

    def encode(self, x: NDArray[Any], some: slice = slice(None)) -> NDArray[Any]:
        """Samples ``[N, ...]`` (events: ``[N, T, ...]``) as payloads ``[T, N, ...]``.

        some: of the T steps, where the others are not wanted in memory.
        ``graded`` returns one step seen T times (stride 0): the engines notice and compute its
        synapse once.
        """
        x = np.asarray(x)
        steps = self.time_steps
        at = np.arange(steps)[some]
        if self.kind == "events":
            return self._events(x, some)
        _require_finite(x)
        f = self._fraction(x)
        first, last = self.payload
        if self.kind == "graded":
            one = np.floor(first + f * (last - first) + 0.5).astype(self.dtype)
            return np.broadcast_to(one, (len(at), *one.shape))
        if self.kind == "rate":
            count = np.floor(f * steps + 0.5)
            rank = _rate_ranks(steps, int(np.prod(x.shape[1:])), self.seed)
            rank = rank[some].reshape(len(at), 1, *x.shape[1:])
            return (count[None] > rank).astype(np.uint8)
        step = np.floor((1.0 - f) * (steps - 1) + 0.5).astype(np.int64)
        times = at.reshape(len(at), *([1] * x.ndim))
        return ((step[None] == times) & (f * (2 * steps) >= 1.0)[None]).astype(np.uint8)

    def _fraction(self, x: NDArray[Any]) -> NDArray[np.float64]:
        if self.low is None or self.high is None:
            raise EncodingError(
                f"encoding {self.kind} needs the data's range: give low and high "
                "(for 8-bit images 0 and 255)"
            )
        f = (x.astype(np.float64) - self.low) / (self.high - self.low)
        return np.clip(f, 0.0, 1.0)

    def _events(self, x: NDArray[Any], some: slice) -> NDArray[Any]:
        if x.ndim < 3 or x.shape[1] != self.time_steps:
            raise EncodingError(
                f"events need data [N, T, ...] with T = {self.time_steps}, found {list(x.shape)}"
            )
        x = x[:, some]
        _require_finite(x)
        whole = np.floor(x) if x.dtype.kind == "f" else x
        if x.dtype.kind == "f" and not np.array_equal(whole, x):
            raise EncodingError("event frames must hold whole numbers")
        return np.moveaxis(np.clip(whole, *self.payload).astype(self.dtype), 1, 0)


def _require_finite(x: NDArray[Any]) -> None:
    if x.dtype.kind == "f" and not np.isfinite(x).all():
        raise EncodingError("the data hold NaN or infinite values")


@lru_cache(maxsize=1)  # the same for all slices of the time
def _rate_ranks(steps: int, size: int, seed: int) -> NDArray[np.int64]:
    """For each of ``size`` inputs a permutation of 0..T−1; a count c spikes where rank < c."""
    draws = np.random.Generator(np.random.PCG64(seed)).random((steps, size))
    return np.argsort(np.argsort(draws, axis=0, kind="stable"), axis=0, kind="stable")
