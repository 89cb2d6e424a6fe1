"""A convolution's gradients gathered error by error, where few errors are not 0.

A surrogate of bounded width lets no error through far from the threshold, so that under rules whose
errors do not go through time (SLTT, STOP, OTTT, …) most of δ is 0. Images and kernels lie channel
by channel within a pixel, so that what an error meets, a line of its window or of its kernel, is
one row of memory::

    ∂E/∂w[o, i, :]      = Σ_n Σ_p δ[n, p, o] x[n, line i of p's window]      over p with δ ≠ 0
    ∂E/∂x[n, line i of p's window] += Σ_o δ[n, p, o] w[o, i, :]              over o with δ ≠ 0

p: positions of the kernel, i: its lines. Sums of rows stay in registers from first to last, which
no loop in Python makes the compiler do: that one is spelled in LLVM's own language. Each sum is one
thread's and in a fixed order: results do not depend on how many threads there are.
"""

from __future__ import annotations

from typing import Any

import numba as nb
import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import cgutils, types
from numba.extending import intrinsic

from trainer.kernels import Array, shared_out, team

LANES = 16
"""Rows are multiples of this many numbers: a vector of AVX-512, two or four of other processors."""
_GROUP = 4
"""Errors come in fours, filled up with zeros."""
_CHANNELS = 16
"""Output channels whose errors are listed at a time for the weights' gradient."""
_NEAR = 128
"""Output channels whose kernels are gathered at a time for the messages': a strip of them, of at
most 80 numbers each, stays in a processor's nearest cache."""


def _sum_of_rows(vectors: int, together: int) -> Any:
    """``out[to + j] += Σ_k errors[k] rows[start + at[k] + j]``, j < 16 ``vectors``, k < count; all
    arrays are flat, the count a multiple of ``together``, as many sums are kept of every number."""
    index, single = ir.IntType(64), ir.FloatType()
    vector = ir.VectorType(single, LANES)

    def generate(context: Any, b: ir.IRBuilder, signature: Any, given: Any) -> Any:
        def data(argument: int) -> Any:
            array = context.make_array(signature.args[argument])(context, b, given[argument])
            return array.data

        def address(base: Any, first: Any, v: int) -> Any:
            return b.bitcast(b.gep(base, [b.add(first, index(v * LANES))]), vector.as_pointer())

        out, rows, errors, at = (data(i) for i in (0, 2, 4, 5))
        to, start, count = (given[i] for i in (1, 3, 6))
        kind = ir.FunctionType(vector, [vector] * 3)
        multiply_add = cgutils.get_or_insert_function(b.module, kind, f"llvm.fmuladd.v{LANES}f32")
        before, head, body, end = (b.block, *(b.append_basic_block() for _ in range(3)))
        b.branch(head)
        b.position_at_end(head)
        k = b.phi(index)
        sums = [b.phi(vector) for _ in range(vectors * together)]
        b.cbranch(b.icmp_signed("<", k, count), body, end)
        b.position_at_end(body)
        later = []
        for u in range(together):
            this = b.add(k, index(u))
            row = b.add(start, b.sext(b.load(b.gep(at, [this])), index))
            error = b.insert_element(vector(ir.Undefined), b.load(b.gep(errors, [this])), index(0))
            error = b.shuffle_vector(error, error, ir.VectorType(ir.IntType(32), LANES)(None))
            for v in range(vectors):
                read = b.load(address(rows, row, v), align=4)
                later.append(b.call(multiply_add, [error, read, sums[u * vectors + v]]))
        following = b.add(k, index(together))
        b.branch(head)
        for phi, first, then in zip(
            [k, *sums], [index(0), *[vector(None)] * len(sums)], [following, *later], strict=True
        ):
            phi.add_incoming(first, before)
            phi.add_incoming(then, body)
        b.position_at_end(end)
        for v in range(vectors):
            total = b.load(address(out, to, v), align=4)
            for u in range(together):
                total = b.fadd(total, sums[u * vectors + v])
            b.store(total, address(out, to, v), align=4)
        return context.get_dummy_value()

    def typed(
        context: Any, out: Any, to: Any, rows: Any, start: Any, errors: Any, at: Any, count: Any
    ) -> Any:
        n = types.intp
        return types.void(out, n, rows, n, errors, types.Array(types.int32, 1, "C"), n), generate

    return intrinsic(typed)


_of_1, _of_2, _of_3 = _sum_of_rows(1, 4), _sum_of_rows(2, 4), _sum_of_rows(3, 4)
_of_4, _of_5 = _sum_of_rows(4, 2), _sum_of_rows(5, 2)


# Part of the loops around it: to call it would take as long as a short sum.
@nb.njit(inline="always")
def _sum(
    vectors: int, out: Array, to: int, rows: Array, start: int, errors: Array, at: Array, count: int
) -> None:
    if vectors == 5:
        _of_5(out, to, rows, start, errors, at, count)
    elif vectors == 4:
        _of_4(out, to, rows, start, errors, at, count)
    elif vectors == 3:
        _of_3(out, to, rows, start, errors, at, count)
    elif vectors == 2:
        _of_2(out, to, rows, start, errors, at, count)
    else:
        _of_1(out, to, rows, start, errors, at, count)


def strip(length: int) -> int:
    """How many numbers of a row, a multiple of :data:`LANES`, are summed at a time."""
    vectors = length // LANES
    return LANES * max(v for v in range(1, 6) if vectors % v == 0)


@shared_out
def _weight_gradient(
    x: Array, delta: Array, corners: Array, line: int, width: int, out: Array
) -> None:
    outputs, lines, length = out.shape
    for group in nb.prange((outputs + _CHANNELS - 1) // _CHANNELS):
        first = group * _CHANNELS
        channels = min(_CHANNELS, outputs - first)
        errors = np.empty((channels, len(corners) + _GROUP), dtype=np.float32)
        at = np.empty(errors.shape, dtype=np.int32)
        count = np.empty(channels, dtype=np.int64)
        for n in range(len(x)):
            count[:] = 0
            for p in range(len(corners)):
                here, corner = delta[n, p, first : first + channels], corners[p]
                for c in range(channels):
                    k = count[c]
                    errors[c, k], at[c, k] = here[c], corner
                    count[c] = k + (here[c] != np.float32(0))
            for c in range(channels):
                mine, where, k = errors[c], at[c], count[c]
                while k % _GROUP:
                    mine[k], where[k] = np.float32(0), 0
                    k += 1
                for i in range(lines):
                    for j in range(0, length, width):
                        sums = out[first + c, i]
                        _sum(width // LANES, sums, j, x[n], i * line + j, mine, where, k)


@shared_out
def _message_gradient(delta: Array, strips: Array, corners: Array, line: int, out: Array) -> None:
    lines, pieces, outputs, width = strips.shape
    rows = strips.reshape(strips.size)
    for n in nb.prange(len(out)):
        near = min(_NEAR, outputs)
        errors = np.empty((len(corners), near + _GROUP), dtype=np.float32)
        at = np.empty(errors.shape, dtype=np.int32)
        count = np.empty(len(corners), dtype=np.int64)
        image = out[n]
        for first in range(0, outputs, near):
            for p in range(len(corners)):
                here = delta[n, p, first : min(first + near, outputs)]
                mine, where, k = errors[p], at[p], 0
                for c in range(len(here)):
                    mine[k], where[k] = here[c], (first + c) * width
                    k += here[c] != np.float32(0)
                while k % _GROUP:
                    mine[k], where[k] = np.float32(0), 0
                    k += 1
                count[p] = k
            for i in range(lines):
                for j in range(pieces):
                    start, into = (i * pieces + j) * outputs * width, i * line + j * width
                    for p in range(len(corners)):
                        to = corners[p] + into
                        _sum(width // LANES, image, to, rows, start, errors[p], at[p], count[p])


def weight_gradient(x: Array, delta: Array, corners: Array, line: int, out: Array) -> None:
    """``out += ∂E/∂w``, float32, ``[O, kernel's lines, length]``.

    x: messages ``[N, numbers of an image]``, a border of zeros included. delta: ``[N, P, O]``.
    corners: ``[P]``, where in an image each window begins. line: numbers from one of its lines to
    the next. length: numbers of a line of the kernel, kW · C, a multiple of :data:`LANES`.
    """
    team(delta.size * out.shape[1])
    _weight_gradient(x, delta, corners, line, strip(out.shape[2]), out)


def message_gradient(delta: Array, strips: Array, corners: Array, line: int, out: Array) -> None:
    """``out += ∂E/∂x``, ``[N, numbers of an image]``.

    strips: the weights ``[kernel's lines, length / w, O, w]``, w as :func:`strip` says.
    """
    team(delta.size * len(strips))
    _message_gradient(delta, strips, corners, line, out)
