"""Synapses as matrix products of 8 or 16 bit integers, for messages that are not sparse.

In one instruction a processor multiplies four pairs of bytes, or two pairs of 16 bits, and adds
them to a sum of 32 bits, for 16 sums at once. No loop in Python makes the compiler use that well,
so the innermost tile, ``TILE`` rows of messages times 16 or 32 neurons, is spelled in LLVM's own
language: bytes with AVX-512 VNNI's ``vpdpbusd``, where the processor has it; else pairs of 16 bits,
in operations that LLVM has for every processor (``vpmaddwd`` or ``vpdpwssd`` on x86).

All sums wrap at 32 bits and nothing saturates: the numbers are those of the event-driven rows.
"""

from __future__ import annotations

from typing import Any

import numba as nb
import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import cgutils, types
from numba.core.codegen import get_host_cpu_features
from numba.extending import intrinsic
from numpy.typing import NDArray

from loihi.kernels import Array, jit

TILE = 8
"""Messages of a tile."""
NEURONS = 16
"""Neurons of a panel of packed weights: 16 sums of 32 bits are a vector of AVX-512, and two or four
of other processors. A tile is of two panels, so that its sums just stay in the registers."""
BYTES: bool = (
    nb.config.CPU_NAME is None
    and nb.config.CPU_FEATURES is None
    and "+avx512vnni" in get_host_cpu_features()
)
"""Whether this processor multiplies bytes. numba can be told to compile for an older one."""


def pack(weight: NDArray[Any], in_bytes: bool) -> NDArray[Any]:
    """``[out, in]`` as the tiles read it: ``[out / 16, in / g, 16, g]``, filled up with zeros.

    in_bytes: g = 4 numbers of int8, for messages of 0..255; else 2 of int16, for such messages.
    """
    out, inputs = weight.shape
    group, dtype = (4, np.int8) if in_bytes else (2, np.int16)
    full = np.zeros((-(-out // NEURONS) * NEURONS, -(-inputs // group) * group), dtype=dtype)
    full[:out, :inputs] = weight
    tiles = full.reshape(len(full) // NEURONS, NEURONS, -1, group)
    return np.ascontiguousarray(tiles.transpose(0, 2, 1, 3))


def _tile(panels: int) -> Any:
    """``sums[r, j] = Σ rows[r, k, i] · weight[k, j, i]``, k counting groups of 32 bits: of ``rows
    [TILE, in]`` and one or two panels of packed weights, ``[TILE, 16 or 32]``."""
    word, index = ir.IntType(32), ir.IntType(64)
    words, halves = ir.VectorType(word, NEURONS), ir.VectorType(ir.IntType(16), 2 * NEURONS)

    def multiply_add(at: ir.IRBuilder, total: Any, x: Any, taps: Any, in_bytes: bool) -> Any:
        if in_bytes:
            kind = ir.FunctionType(words, [words, words, words])
            name = "llvm.x86.avx512.vpdpbusd.512"
            return at.call(cgutils.get_or_insert_function(at.module, kind, name), [total, x, taps])
        wide = ir.VectorType(word, 2 * NEURONS)
        product = at.mul(*(at.sext(at.bitcast(part, halves), wide) for part in (x, taps)))
        even, odd = (
            at.shuffle_vector(product, product, words(list(range(first, 2 * NEURONS, 2))))
            for first in (0, 1)
        )
        return at.add(total, at.add(even, odd))

    def generate(context: Any, at: ir.IRBuilder, signature: Any, arrays: Any) -> Any:
        in_bytes = signature.args[1].dtype == types.int8
        rows, weight, sums = (
            context.make_array(kind)(context, at, array)
            for kind, array in zip(signature.args, arrays, strict=True)
        )
        length = at.extract_value(weight.shape, 1)

        def address(array: Any, words_into: Any, kind: Any) -> Any:
            start = at.bitcast(array.data, word.as_pointer())
            return at.bitcast(at.gep(start, [words_into]), kind.as_pointer())

        before, loop, after = at.block, at.append_basic_block(), at.append_basic_block()
        at.branch(loop)
        at.position_at_end(loop)
        k = at.phi(index)
        totals = [at.phi(words) for _ in range(TILE * panels)]
        taps = []
        for panel in range(panels):
            group = at.add(k, at.mul(length, index(panel)))
            taps.append(at.load(address(weight, at.mul(group, index(NEURONS)), words), align=4))
        sooner = [words(None)] * len(totals)
        later = []
        for r in range(TILE):
            one = at.load(address(rows, at.add(k, at.mul(length, index(r))), word), align=4)
            x = at.insert_element(words(ir.Undefined), one, word(0))
            x = at.shuffle_vector(x, x, words([0] * NEURONS))
            for panel, tap in enumerate(taps):
                later.append(multiply_add(at, totals[r * panels + panel], x, tap, in_bytes))
        following = at.add(k, index(1))
        for phi, first, then in zip(
            [k, *totals], [index(0), *sooner], [following, *later], strict=True
        ):
            phi.add_incoming(first, before)
            phi.add_incoming(then, loop)
        at.cbranch(at.icmp_signed("<", following, length), loop, after)
        at.position_at_end(after)
        for place, total in enumerate(later):
            at.store(total, address(sums, index(NEURONS * place), words), align=4)
        return context.get_dummy_value()

    def typed(context: Any, rows: Any, weight: Any, sums: Any) -> Any:
        return types.void(rows, weight, sums), generate

    return intrinsic(typed)


_tile_of_one, _tile_of_two = _tile(1), _tile(2)


@jit
def _add(sums: Array, out: Array, place: Array, count: int, first: int) -> None:
    """A tile's sums to the rows of ``out`` at these places, from neuron ``first`` on."""
    narrow = out.dtype.type
    for r in range(count):
        mine, found = out[place[r], first : first + sums.shape[1]], sums[r]
        for j in range(len(mine)):
            mine[j] += narrow(found[j])


@jit
def products(
    x: Array,
    first: int,
    weight: Array,
    a: Array,
    at: int,
    steps: int,
    kernel: tuple[int, int, int],
    apart: tuple[int, int],
    stride: tuple[int, int],
) -> None:
    """Messages ``x [n, T, in]`` to ``a [n, T, H', W', O]`` with packed ``weight [O, seen]``.

    What neuron (y, x) sees are ``kernel[0]`` lines of ``kernel[1]`` pieces of ``kernel[2]`` numbers
    each, from ``y · stride[0] + x · stride[1]`` on; ``apart``: from a line to the next, and from a
    piece to the next. All of it lies in x, so an image comes with its border of zeros.
    """
    rows = np.zeros((TILE, weight.shape[1] * weight.shape[3]), dtype=weight.dtype)
    one = np.empty((TILE, NEURONS), dtype=np.int32)
    two = np.empty((TILE, 2 * NEURONS), dtype=np.int32)
    height, width, neurons = a.shape[2:]
    lines, pieces, length = kernel
    out = a.reshape(-1, neurons)
    place = np.empty(TILE, dtype=np.int64)
    n = t = y = column = 0
    for start in range(0, x.shape[0] * steps * height * width, TILE):
        count = min(TILE, x.shape[0] * steps * height * width - start)
        for r in range(count):
            message, row, k = x[n, first + t], rows[r], 0
            for i in range(lines):
                begin = y * stride[0] + column * stride[1] + i * apart[0]
                for _ in range(pieces):
                    piece, seen = row[k : k + length], message[begin : begin + length]
                    for c in range(len(piece)):
                        piece[c] = seen[c]
                    k += length
                    begin += apart[1]
            place[r] = ((n * a.shape[1] + at + t) * height + y) * width + column
            column += 1  # the next position: to count is faster than to divide
            if column == width:
                column, y = 0, y + 1
                if y == height:
                    y, t = 0, t + 1
                    if t == steps:
                        t, n = 0, n + 1
        panels = weight.shape[0]
        for panel in range(0, panels - 1, 2):
            _tile_of_two(rows, weight[panel : panel + 2], two)
            _add(two, out, place, count, panel * NEURONS)
        if panels % 2:
            _tile_of_one(rows, weight[panels - 1 :], one)
            _add(one, out, place, count, (panels - 1) * NEURONS)
