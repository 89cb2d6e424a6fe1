"""Compiled inner loops of the data: what a moving sensor sees, and images under a warp."""

from __future__ import annotations

import math
from typing import Any

import numba as nb
import numpy as np

Array = Any  # numba types the arrays at the call

_jit = nb.njit(nogil=True, cache=True, error_model="numpy")
_plain = nb.njit(nogil=True, error_model="numpy")


@_plain
def _bilinear(image: Array, y: float, x: float, outside: float) -> float:
    """Between the four pixels around (y, x); pixels beyond the border are ``outside``."""
    height, width = image.shape
    top, left = math.floor(y), math.floor(x)
    fy, fx = y - top, x - left
    i, j = int(top), int(left)
    if i < -1 or j < -1 or i >= height or j >= width:
        return outside
    up, down, west, east = i >= 0, i + 1 < height, j >= 0, j + 1 < width
    a = image[i, j] if up and west else outside
    b = image[i, j + 1] if up and east else outside
    c = image[i + 1, j] if down and west else outside
    d = image[i + 1, j + 1] if down and east else outside
    return (a * (1.0 - fx) + b * fx) * (1.0 - fy) + (c * (1.0 - fx) + d * fx) * fy


@_jit
def warp(x: Array, affine: Array, field: Array, outside: float, out: Array) -> None:
    """``out[n, k, i, j]`` is image k of sample n at ``affine[n] @ (i, j, 1) + field[n, :, i, j]``.

    x, out: ``[N, K, H, W]``. affine: ``[N, 2, 3]``. field: ``[N, 2, H, W]`` or, for none,
    ``[0, 2, H, W]``; rows before columns.
    """
    height, width = x.shape[2], x.shape[3]
    for n in range(x.shape[0]):
        m = affine[n]
        for i in range(height):
            for j in range(width):
                y = m[0, 0] * i + m[0, 1] * j + m[0, 2]
                z = m[1, 0] * i + m[1, 1] * j + m[1, 2]
                if len(field):
                    y += field[n, 0, i, j]
                    z += field[n, 1, i, j]
                for k in range(x.shape[1]):
                    out[n, k, i, j] = _bilinear(x[n, k], y, z, outside)


@_jit
def crossings(
    image: Array, path: Array, times: Array, on: Array, off: Array, dark: float
) -> tuple[Array, Array, Array, Array]:
    """Events ``x, y, t, p`` of a sensor that an image moves across, unsorted.

    image: luminance ``[H, W]``, 0..1, surrounded by 0.
    path: ``[S + 1, 2]``: row and column of the image's corner on the sensor at ``times [S + 1]``
        (microseconds); between two the logarithm of the luminance is taken for linear.
    on, off: thresholds of every pixel, in that logarithm, ``[sensor H, sensor W]``.
    dark: what is added to the luminance: the screen's black and the sensor's dark current.
    """
    x, y = np.empty(1024, dtype=np.uint16), np.empty(1024, dtype=np.uint16)
    t, p = np.empty(1024, dtype=np.int64), np.empty(1024, dtype=np.uint8)
    count = 0
    for i in range(on.shape[0]):
        for j in range(on.shape[1]):
            last = _bilinear(image, i - path[0, 0], j - path[0, 1], 0.0)
            log_last = math.log(dark + last)
            reference = log_last
            for s in range(1, len(path)):
                value = _bilinear(image, i - path[s, 0], j - path[s, 1], 0.0)
                if value == last:
                    continue
                log_value = math.log(dark + value)
                rising = log_value > log_last
                step = on[i, j] if rising else -off[i, j]
                while (log_value - reference) / step >= 1.0:
                    reference += step
                    part = (reference - log_last) / (log_value - log_last)
                    if count == len(t):
                        x = np.append(x, np.empty_like(x))
                        y = np.append(y, np.empty_like(y))
                        t = np.append(t, np.empty_like(t))
                        p = np.append(p, np.empty_like(p))
                    x[count], y[count], p[count] = j, i, 1 if rising else 0
                    at = times[s - 1] + part * (times[s] - times[s - 1])
                    t[count] = min(int(at), int(times[-1]) - 1)  # the end itself is no step's
                    count += 1
                last, log_last = value, log_value
    return x[:count], y[:count], t[:count], p[:count]
