"""The trainer's compiled inner loops on the CPU: float32 in and out, exact where they are integers.

A spiking layer's input is silent most of the time, so its weights' gradient is event-driven: an
input that is 0 costs nothing, one that is not adds a row of errors. The neuron step, a dozen passes
over memory if written in tensor operations, is one.

Large loops are shared out to numba's threads, which on Linux are PyTorch's (one OpenMP for both).
Every sum is over a block's or a row's own numbers in a fixed order, so results do not depend on how
many threads there are.
"""

from __future__ import annotations

import functools
import multiprocessing
from typing import Any

import numba as nb
import numpy as np
import torch

Array = Any  # numba types the arrays at the call

BLOCK = 8192
"""Neurons taken at a time: some arrays of this length stay in a processor's cache."""
LARGE = 2**18
"""Numbers that are worth a second thread: fewer are done by the time that it is awake, and on a
busy machine long before."""

_plain = nb.njit(nogil=True, cache=True, error_model="numpy")
shared_out = nb.njit(nogil=True, cache=True, error_model="numpy", parallel=True)

_threads = 1


def use_threads(threads: int) -> None:
    """How many threads large loops take: as many as PyTorch was given."""
    global _threads
    _start()
    _threads = max(1, min(threads, nb.config.NUMBA_NUM_THREADS))


@functools.cache
def _start() -> None:
    """Starts numba's threads, and undoes what comes with it: OpenMP's number of threads, which is
    PyTorch's, and multiprocessing's start method, which Lava wants to choose when imported."""
    threads = torch.get_num_threads()
    chosen: str | None = multiprocessing.get_start_method(allow_none=True)
    _nothing(np.zeros(1))
    torch.set_num_threads(threads)
    if chosen is None:
        multiprocessing.set_start_method(None, force=True)  # type: ignore[arg-type]


@shared_out
def _nothing(x: Array) -> None:
    for k in nb.prange(len(x)):
        x[k] = 0


def team(work: int) -> None:
    """As many threads for the next loop as ``work``, a count of numbers, is worth."""
    _start()
    nb.set_num_threads(_threads if work >= LARGE else 1)


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


@shared_out
def _weight_gradient(x: Array, delta: Array, rows: Array) -> None:
    for i in nb.prange(x.shape[1]):
        index = np.empty(len(x) + 1, dtype=np.int32)
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
    team(events * delta.shape[1])
    _weight_gradient(x, delta, rows)


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


@shared_out
def _step(
    i: Array, m: Array, s: Array, alpha: float, theta: float, limit: float, after: Array, out: Array
) -> None:
    # The loop over a block is a function of its own because the compiler vectorises it only then.
    for block in nb.prange((len(i) + BLOCK - 1) // BLOCK):
        k = slice(block * BLOCK, (block + 1) * BLOCK)
        _step_block(i[k], m[k], s[k], alpha, theta, limit, after[k], out[k])


def chip_step(
    i: Array, m: Array, s: Array, alpha: float, theta: float, limit: float, after: Array, out: Array
) -> None:
    """The chip's neuron: ``after = clip(⌊α m (1 − s)⌉₀ + i)``, ``out = [after > θ]``; all flat.

    α is a multiple of 1/4096 and m an integer of 24 bits, whose product float64 holds.
    """
    team(len(i))
    _step(i, m, s, alpha, theta, limit, after, out)


@_plain
def _skip_block(
    a: Array, unit: float, m: Array, s: Array, alpha: float, theta: float, limit: float
) -> None:
    level, low, high, scale = (
        np.float32(theta),
        np.float32(-limit),
        np.float32(limit),
        np.float32(unit),
    )
    for k in range(len(a)):
        kept = np.int32(np.float64(m[k] * np.float32(1 - s[k])) * alpha)  # towards zero
        v = np.float32(kept) + np.float32(a[k]) * scale
        v = low if v < low else v
        v = high if v > high else v
        m[k] = v
        s[k] = v > level


@_plain
def _count(s: Array, counts: Array) -> None:
    for k in range(len(counts)):
        counts[k] += np.float32(s[k])


@shared_out
def _skip(
    a: Array,
    unit: float,
    m: Array,
    s: Array,
    alpha: float,
    theta: float,
    limit: float,
    counts: Array,
) -> None:
    for block in nb.prange((len(a) + BLOCK - 1) // BLOCK):
        k = slice(block * BLOCK, (block + 1) * BLOCK)
        _skip_block(a[k], unit, m[k], s[k], alpha, theta, limit)
        _count(s[k], counts[k])


def skip_step(
    a: Array,
    unit: float,
    m: Array,
    s: Array,
    alpha: float,
    theta: float,
    limit: float,
    counts: Array,
) -> None:
    """:func:`chip_step` in place, of ``i = a · unit``: ``m`` float32 and ``s`` int8 go on.

    counts: where the spikes are added up, or empty.
    """
    team(len(a))
    _skip(a, unit, m, s, alpha, theta, limit, counts)


@nb.njit(nogil=True, cache=True, error_model="numpy", fastmath={"nnan", "nsz"})
def within(x: Array, limit: float) -> bool:
    """Whether all of ``x [n]``, which has no NaN, is below ``limit`` in magnitude."""
    level, beyond = np.float32(limit), 0
    for k in range(len(x)):
        beyond += abs(x[k]) >= level
    return beyond == 0


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
            tail = np.exp(-abs((after[k] - level) / scale) / w)
            out[k] = tail / ((one + tail) * (one + tail)) / w / scale * of_s[k]


@shared_out
def _errors(
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
    for block in nb.prange(len(sums)):
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
    team(len(after))
    shape = SHAPES.index(surrogate)
    wanted = (delta, to_m, to_s, sums)
    _errors(shape, after, m, s, of_m, of_s, alpha, theta, unit, width, *wanted)


@_plain
def _trace_block(
    alpha: float, whole: float, m: Array, s: Array,
    c_before: Array, a_before: Array, c: Array, a: Array, left: Array, kept: Array,
) -> None:  # fmt: skip
    one, keep, of = np.float32(1), np.float32(alpha), np.float32(1 / whole)
    for k in range(len(m)):
        gate = one - s[k]
        kept[k] = keep * gate
        past = kept[k] * c_before[k]
        c[k] = past + one
        a[k] = kept[k] * a_before[k] + m[k] * gate
        left[k] = past * of


@shared_out
def _traces(
    alpha: float, whole: float, m: Array, s: Array,
    c_before: Array, a_before: Array, c: Array, a: Array, left: Array, kept: Array,
) -> None:  # fmt: skip
    for block in nb.prange((len(m) + BLOCK - 1) // BLOCK):
        k = slice(block * BLOCK, (block + 1) * BLOCK)
        found = c[k], a[k], left[k], kept[k]
        _trace_block(alpha, whole, m[k], s[k], c_before[k], a_before[k], *found)


def hard_traces(
    alpha: float, whole: float, m: Array, s: Array,
    c_before: Array, a_before: Array, c: Array, a: Array, left: Array, kept: Array,
) -> None:  # fmt: skip
    """The traces of hard-reset neurons (see :mod:`trainer.traces`), all flat.

    ``kept = α (1 − s)``, ``c = kept c + 1``, ``a = kept a + m (1 − s)``,
    ``left = (c − 1) / whole``.
    """
    team(len(m))
    _traces(alpha, whole, m, s, c_before, a_before, c, a, left, kept)


@_plain
def _missing_block(
    alpha: float, a: Array, e_before: Array, f_before: Array, kept: Array, left: Array,
    e: Array, f: Array, missing: Array,
) -> None:  # fmt: skip
    keep = np.float32(alpha)
    for k in range(len(a)):
        brought, unreset = kept[k] * e_before[k], keep * f_before[k]
        e[k] = brought + a[k]
        f[k] = unreset + a[k]
        missing[k] = brought - left[k] * unreset


@shared_out
def _missing(
    alpha: float, a: Array, e_before: Array, f_before: Array, kept: Array, left: Array,
    e: Array, f: Array, missing: Array,
) -> None:  # fmt: skip
    for block in nb.prange((len(a) + BLOCK - 1) // BLOCK):
        k = slice(block * BLOCK, (block + 1) * BLOCK)
        found = e[k], f[k], missing[k]
        _missing_block(alpha, a[k], e_before[k], f_before[k], kept[k], left[k], *found)


def missing(
    alpha: float, a: Array, e_before: Array, f_before: Array, kept: Array, left: Array,
    e: Array, f: Array, missing: Array,
) -> None:  # fmt: skip
    """What traces of messages fall short of (see :mod:`trainer.traces`), all flat.

    ``missing = kept e − left α f``, ``e = kept e + a``, ``f = α f + a``.
    """
    team(len(a))
    _missing(alpha, a, e_before, f_before, kept, left, e, f, missing)


# The order of a sum is the compiler's to choose, as above.
@nb.njit(nogil=True, cache=True, error_model="numpy", fastmath={"reassoc"})
def _dot(x: Array, y: Array) -> float:
    total = np.float64(0)
    for k in range(len(x)):
        total += x[k] * y[k]
    return total


@shared_out
def _traced_errors(
    shape: int, after: Array, of_s: Array, trace: Array,
    theta: float, unit: float, width: float, delta: Array, sums: Array,
) -> None:  # fmt: skip
    for block in nb.prange(len(sums)):
        k = slice(block * BLOCK, (block + 1) * BLOCK)
        d = delta[k]
        _slopes(shape, after[k], of_s[k], theta, unit, width, d)
        sums[block, 0] = -_sum(d)
        sums[block, 1] = _dot(d, trace[k])


def traced_errors(
    surrogate: str, after: Array, of_s: Array, trace: Array,
    theta: float, unit: float, width: float, delta: Array, sums: Array,
) -> None:  # fmt: skip
    """``delta = φ · of_s``, and of each block of it ``sums [blocks, 2]``: −Σ δ and Σ δ · trace."""
    team(len(after))
    _traced_errors(SHAPES.index(surrogate), after, of_s, trace, theta, unit, width, delta, sums)
