"""The trainer's compiled inner loops on the CPU: float32 in and out, exact where they are integers.

A spiking layer's input is silent most of the time, so its products are event-driven: an input that
is 0 costs nothing, forwards (a row of weights for every spike) and backwards (a row of errors for
every spike). At the activity of rate-coded images, an eighth, that is three times as fast as the
dense product. The neuron step, a dozen passes over memory if written in tensor operations, is one.

Every sum is over one thread's own numbers in a fixed order, so results do not depend on how many
threads there are.
"""

from __future__ import annotations

from typing import Any

import numba as nb
import numpy as np

Array = Any  # numba types the arrays at the call

BLOCK = 8192
"""Neurons that a thread takes at a time: some arrays of this length stay in its cache."""

LARGE = 2**18
"""Numbers that are worth a second thread."""

_jit = nb.njit(nogil=True, cache=True, error_model="numpy", parallel=True)
_plain = nb.njit(nogil=True, error_model="numpy")
_inline = nb.njit(nogil=True, error_model="numpy", inline="always")


_threads = 1


def use_threads(threads: int) -> None:
    """How many threads large loops take: as many as PyTorch was given."""
    global _threads
    _threads = max(1, min(threads, nb.config.NUMBA_NUM_THREADS))


def team(work: int) -> None:
    """To be called before a loop, with how many numbers it takes up: a small one is done by the
    time that a second thread is awake, and on a busy machine long before."""
    nb.set_num_threads(_threads if work >= LARGE else 1)


@_jit
def active(x: Array) -> int:
    """How many numbers of ``x [n, in]`` are not 0."""
    counts = np.zeros(len(x), dtype=np.int64)
    for n in nb.prange(len(x)):
        count = 0
        for i in range(x.shape[1]):
            count += x[n, i] != 0
        counts[n] = count
    return int(counts.sum())


@_jit
def product(x: Array, rows: Array, out: Array) -> None:
    """``out[n] = Σ_i x[n, i] · rows[i]``: messages ``[n, in]``, weights ``[in, out]``."""
    for n in nb.prange(len(x)):
        message, sums = x[n], out[n]
        index = np.empty(len(message) + 1, dtype=np.int32)
        count = 0
        for i in range(len(message)):
            index[count] = i
            count += message[i] != 0
        sums[:] = np.float32(0)
        k = 0
        while k + 4 <= count:  # four rows at a time: one load and store of the sums for all
            i0, i1, i2, i3 = index[k], index[k + 1], index[k + 2], index[k + 3]
            p0, p1, p2, p3 = message[i0], message[i1], message[i2], message[i3]
            r0, r1, r2, r3 = rows[i0], rows[i1], rows[i2], rows[i3]
            for j in range(len(sums)):
                sums[j] += (p0 * r0[j] + p1 * r1[j]) + (p2 * r2[j] + p3 * r3[j])
            k += 4
        while k < count:
            p0, r0 = message[index[k]], rows[index[k]]
            for j in range(len(sums)):
                sums[j] += p0 * r0[j]
            k += 1


@_jit
def weight_gradient(x: Array, delta: Array, rows: Array) -> None:
    """``rows[i] += Σ_n x[n, i] · delta[n]``: errors ``[n, out]``, gradients ``[in, out]``."""
    for i in nb.prange(x.shape[1]):
        index = np.empty(len(x) + 1, dtype=np.int32)
        count = 0
        for n in range(len(x)):
            index[count] = n
            count += x[n, i] != 0
        sums = rows[i]
        k = 0
        while k + 4 <= count:
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


@_jit
def chip_step(
    i: Array, m: Array, s: Array, alpha: float, theta: float, limit: float, after: Array, out: Array
) -> None:
    """The chip's neuron: ``after = clip(⌊α m (1 − s)⌉₀ + i)``, ``out = [after > θ]``; all flat.

    α is a multiple of 1/4096 and m an integer of 24 bits, whose product float64 holds.
    """
    # The loop over a block is a function of its own because the compiler vectorises it only then.
    for block in nb.prange((len(i) + BLOCK - 1) // BLOCK):
        k = slice(block * BLOCK, (block + 1) * BLOCK)
        _step_block(i[k], m[k], s[k], alpha, theta, limit, after[k], out[k])


# The order of a sum is the compiler's to choose, so that it can use vectors: always the same one.
@nb.njit(nogil=True, error_model="numpy", fastmath={"reassoc"})
def _sum(x: Array) -> float:
    total = np.float64(0)
    for k in range(len(x)):
        total += x[k]
    return total


@nb.njit(nogil=True, error_model="numpy", fastmath={"reassoc"})
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


@_inline
def _triangle(x: Any, width: Any) -> Any:
    return max(width - abs(x), np.float32(0)) / (width * width)


@_inline
def _rectangle(x: Any, width: Any) -> Any:
    return np.float32(abs(x) < width / np.float32(2)) / width


@_inline
def _exponential(x: Any, width: Any) -> Any:
    return np.exp(-abs(x) / width) / width


@_inline
def _sigmoid(x: Any, width: Any) -> Any:
    sigma = np.float32(1) / (np.float32(1) + np.exp(-x / width))
    return sigma * (np.float32(1) - sigma) / width


def _errors(bump: Any) -> Any:
    """The step's derivatives with one surrogate: the loops are compiled around it."""

    @_plain
    def slopes(after: Array, of_s: Array, theta: float, unit: float, w: float, out: Array) -> None:
        level, scale, width = np.float32(theta), np.float32(unit), np.float32(w)
        for k in range(len(after)):
            out[k] = bump((after[k] - level) / scale, width) / scale * of_s[k]

    @_jit
    def chip_errors(
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
        for block in nb.prange((len(after) + BLOCK - 1) // BLOCK):
            k = slice(block * BLOCK, (block + 1) * BLOCK)
            d = delta[k]
            sums[block, 0] = 0
            if has_s:
                slopes(after[k], of_s[k], theta, unit, width, d)
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

    return chip_errors


chip_errors = {
    "triangle": _errors(_triangle),
    "rectangle": _errors(_rectangle),
    "exponential": _errors(_exponential),
    "sigmoid": _errors(_sigmoid),
}
"""By surrogate: (after, m, s, of_m, of_s, α, θ, unit, width, delta, to_m, to_s, sums), all flat.

The step's derivatives (see :mod:`trainer.neurons`). of_m, of_s: ∂E/∂m and ∂E/∂s after the step;
empty where there is none. delta: ∂E/∂i. to_m, to_s: ∂E/∂m and ∂E/∂s before the step, not wanted
where empty. sums: ``[blocks, 2]``, each block's part of ∂E/∂θ and ∂E/∂α.
"""
