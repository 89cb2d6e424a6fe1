"""The trainer's compiled inner loops on the CPU: float32 in and out, exact where they are integers.

A spiking layer's input is silent most of the time, so its weights' gradient is event-driven: an
input that is 0 costs nothing, one that is not adds a row of errors. The neuron step, a dozen passes
over memory if written in tensor operations, is one.

Large loops are shared out to threads. Every sum is over a block's or a row's own numbers in a fixed
order, so results do not depend on how many threads there are. The threads are ours and not numba's,
whose pool would change PyTorch's number of threads and multiprocessing's start method.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba as nb
import numpy as np

Array = Any  # numba types the arrays at the call

BLOCK = 8192
"""Neurons taken at a time: some arrays of this length stay in a processor's cache."""
LARGE = 2**18
"""Numbers that are worth a second thread: fewer are done by the time that it is awake."""

_plain = nb.njit(nogil=True, cache=True, error_model="numpy")

_threads = 1
_pool: ThreadPoolExecutor | None = None


def use_threads(threads: int) -> None:
    """How many threads large loops take: as many as PyTorch was given."""
    global _threads, _pool
    _threads, _pool = max(1, threads), None


def _forget_pool() -> None:
    global _pool
    _pool = None


os.register_at_fork(after_in_child=_forget_pool)  # its threads did not come along


def _share_out(work: int, size: int, step: int, part: Callable[[int, int], None]) -> None:
    """``part(first, last)`` over 0..size in pieces of whole ``step``s, by as many threads as
    ``work``, a count of numbers, is worth."""
    global _pool
    threads = _threads if work >= LARGE else 1
    edges = [min(size, -(-size * k // (threads * step)) * step) for k in range(threads + 1)]
    pieces = [(a, b) for a, b in itertools.pairwise(edges) if a < b]
    if len(pieces) < 2:
        part(0, size)
        return
    if _pool is None:
        _pool = ThreadPoolExecutor(_threads - 1, "pumice-kernels")
    others = [_pool.submit(part, *piece) for piece in pieces[1:]]
    part(*pieces[0])
    for other in others:
        other.result()


@_plain
def active(x: Array) -> int:
    """How many numbers of ``x [n, in]`` are not 0."""
    count = 0
    for n in range(len(x)):
        row = 0
        for i in range(x.shape[1]):
            row += x[n, i] != 0
        count += row
    return count


@_plain
def _gradient_rows(x: Array, delta: Array, rows: Array, first: int, last: int) -> None:
    index = np.empty(len(x) + 1, dtype=np.int32)
    for i in range(first, last):
        count = 0
        for n in range(len(x)):
            index[count] = n
            count += x[n, i] != 0
        sums = rows[i]
        k = 0
        while k + 4 <= count:  # four rows at a time: one load and store of the sums for all
            n0, n1, n2, n3 = index[k], index[k + 1], index[k + 2], index[k + 3]
            p0, p1, p2, p3 = x[n0, i], x[n1, i], x[n2, i], x[n3, i]
            d0, d1, d2, d3 = delta[n0], delta[n1], delta[n2], delta[n3]
            for j in range(len(sums)):
                sums[j] += (p0 * d0[j] + p1 * d1[j]) + (p2 * d2[j] + p3 * d3[j])
            k += 4
        while k < count:
            p0, d0 = x[index[k], i], delta[index[k]]
            for j in range(len(sums)):
                sums[j] += p0 * d0[j]
            k += 1


def weight_gradient(x: Array, delta: Array, rows: Array, events: int) -> None:
    """``rows[i] += Σ_n x[n, i] · delta[n]``: errors ``[n, out]``, gradients ``[in, out]``.

    events: how many numbers of x are not 0.
    """
    _share_out(
        events * delta.shape[1],
        x.shape[1],
        1,
        lambda first, last: _gradient_rows(x, delta, rows, first, last),
    )


@_plain
def _step_block(
    i: Array, m: Array, s: Array, alpha: float, theta: float, limit: float, after: Array, out: Array
) -> None:
    level, low, high = np.float32(theta), np.float32(-limit), np.float32(limit)
    for k in range(len(i)):
        kept = np.int32(np.float64(m[k] * (np.float32(1) - s[k])) * alpha)  # towards zero
        v = np.float32(kept) + i[k]
        v = low if v < low else v
        v = high if v > high else v
        after[k] = v
        out[k] = np.float32(v > level)


def chip_step(
    i: Array, m: Array, s: Array, alpha: float, theta: float, limit: float, after: Array, out: Array
) -> None:
    """The chip's neuron: ``after = clip(⌊α m (1 − s)⌉₀ + i)``, ``out = [after > θ]``; all flat.

    α is a multiple of 1/4096 and m an integer of 24 bits, whose product float64 holds.
    """

    def part(first: int, last: int) -> None:
        k = slice(first, last)
        _step_block(i[k], m[k], s[k], alpha, theta, limit, after[k], out[k])

    _share_out(len(i), len(i), BLOCK, part)


# The order of a sum is the compiler's to choose, so that it can use vectors: always the same one.
@nb.njit(nogil=True, cache=True, error_model="numpy", fastmath={"reassoc"})
def _sum(x: Array) -> float:
    total = np.float64(0)
    for k in range(len(x)):
        total += x[k]
    return total


@nb.njit(nogil=True, cache=True, error_model="numpy", fastmath={"reassoc"})
def _leak_sum(delta: Array, m: Array, s: Array) -> float:
    """Σ δ m (1 − s)."""
    total = np.float64(0)
    for k in range(len(delta)):
        total += delta[k] * (m[k] * (np.float32(1) - s[k]))
    return total


@_plain
def _add(x: Array, y: Array) -> None:
    for k in range(len(x)):
        x[k] += y[k]


@_plain
def _to_membrane(delta: Array, s: Array, alpha: float, out: Array) -> None:
    keep = np.float32(alpha)
    for k in range(len(delta)):
        out[k] = keep * delta[k] * (np.float32(1) - s[k])


@_plain
def _to_spike(delta: Array, m: Array, alpha: float, out: Array) -> None:
    keep = np.float32(alpha)
    for k in range(len(delta)):
        out[k] = -(keep * delta[k] * m[k])


SHAPES = ("triangle", "rectangle", "exponential", "sigmoid")


@_plain
def _slopes(
    shape: int, after: Array, of_s: Array, theta: float, unit: float, width: float, out: Array
) -> None:
    """``out = φ((after − θ) / unit) / unit · of_s``, φ as in :mod:`trainer.surrogates`."""
    one, level, scale, w = np.float32(1), np.float32(theta), np.float32(unit), np.float32(width)
    if shape == 0:
        for k in range(len(after)):
            bump = max(w - abs((after[k] - level) / scale), np.float32(0)) / (w * w)
            out[k] = bump / scale * of_s[k]
    elif shape == 1:
        for k in range(len(after)):
            bump = np.float32(abs((after[k] - level) / scale) < w / np.float32(2)) / w
            out[k] = bump / scale * of_s[k]
    elif shape == 2:
        for k in range(len(after)):
            bump = np.exp(-abs((after[k] - level) / scale) / w) / w
            out[k] = bump / scale * of_s[k]
    else:
        for k in range(len(after)):
            sigma = one / (one + np.exp(-((after[k] - level) / scale) / w))
            out[k] = sigma * (one - sigma) / w / scale * of_s[k]


@_plain
def _error_blocks(
    shape: int,
    after: Array,
    m: Array,
    s: Array,
    of_m: Array,
    of_s: Array,
    alpha: float,
    theta: float,
    unit: float,
    width: float,
    delta: Array,
    to_m: Array,
    to_s: Array,
    sums: Array,
) -> None:
    has_m, has_s = len(of_m) > 0, len(of_s) > 0
    for block in range(len(sums)):
        k = slice(block * BLOCK, (block + 1) * BLOCK)
        d = delta[k]
        sums[block, 0] = 0
        if has_s:
            _slopes(shape, after[k], of_s[k], theta, unit, width, d)
            sums[block, 0] = -_sum(d)
            if has_m:
                _add(d, of_m[k])
        else:
            d[:] = of_m[k]
        sums[block, 1] = _leak_sum(d, m[k], s[k])
        if len(to_m) > 0:
            _to_membrane(d, s[k], alpha, to_m[k])
        if len(to_s) > 0:
            _to_spike(d, m[k], alpha, to_s[k])


def chip_errors(
    surrogate: str,
    after: Array,
    m: Array,
    s: Array,
    of_m: Array,
    of_s: Array,
    alpha: float,
    theta: float,
    unit: float,
    width: float,
    delta: Array,
    to_m: Array,
    to_s: Array,
    sums: Array,
) -> None:
    """The step's derivatives (see :mod:`trainer.neurons`), all flat.

    of_m, of_s: ∂E/∂m and ∂E/∂s after the step; empty where there is none. delta: ∂E/∂i. to_m,
    to_s: ∂E/∂m and ∂E/∂s before the step, not wanted where empty. sums: ``[blocks, 2]``, each
    block's part of ∂E/∂θ and ∂E/∂α.
    """
    shape = SHAPES.index(surrogate)

    def part(first: int, last: int) -> None:
        k = slice(first, last)
        states, errors = (after[k], m[k], s[k]), (of_m[k], of_s[k])
        wanted = (delta[k], to_m[k], to_s[k], sums[first // BLOCK : -(-last // BLOCK)])
        _error_blocks(shape, *states, *errors, alpha, theta, unit, width, *wanted)

    _share_out(len(after), len(after), BLOCK, part)
