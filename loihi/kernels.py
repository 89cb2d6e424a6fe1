"""The engine's compiled inner loops: integers in, integers out, one thread's share of the samples.

Synapses here are event-driven: where an input is silent nothing is added, and spiking networks are
silent most of the time. Weights come transposed, input first, so that a spike adds one contiguous
row, which the compiler turns into vector additions; a row is as narrow as its numbers allow. What
is not silent most of the time goes through :mod:`loihi.products`.

Images are channels-last here, ``[H, W, C]``, for the same reason: the row that a spike adds to a
convolution's output is contiguous over channels, and over a kernel's row.

Every synapse adds ``steps`` steps of messages ``x``, from step ``first`` on, to the neurons' input
``a`` from step ``at`` on. Every function releases the GIL and touches only its own samples: the
engine calls them from threads. The explicit ``np.int32`` keep numba from widening every sum to 64
bits, which would halve the vector width; they are also the wrap to 32 bits that Lava's own stores
do.
"""

from __future__ import annotations

from typing import Any

import numba as nb
import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import types
from numba.extending import intrinsic

# numba types the arrays at the call; dtypes spelled here would be a second, unchecked, opinion.
Array = Any

jit = nb.njit(nogil=True, cache=True, error_model="numpy")

SENDS_ALL = -1
"""The threshold of sigma neurons, which send their sum, not what has changed of it."""


# --- synapses -----------------------------------------------------------------------------------


@intrinsic
def _mask(context: Any, x: Any, start: Any) -> Any:
    """Of 64 numbers of ``x [in]`` from ``start`` on a bit each: whether it is not 0."""

    def generate(context: Any, at: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        array = context.make_array(x)(context, at, arguments[0])
        numbers = ir.VectorType(context.get_data_type(x.dtype), 64)
        address = at.bitcast(at.gep(array.data, [arguments[1]]), numbers.as_pointer())
        found = at.load(address, align=x.dtype.bitwidth // 8)
        return at.bitcast(at.icmp_unsigned("!=", found, numbers(None)), ir.IntType(64))

    return types.uint64(x, types.intp), generate


@intrinsic
def _lowest(context: Any, mask: Any) -> Any:
    """The number of the lowest bit that is set; one is."""

    def generate(context: Any, at: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        return at.cttz(arguments[0], ir.IntType(1)(1))

    return types.intp(types.uint64), generate


@jit
def _find(message: Array, active: Array) -> int:
    """Where a message is not 0, into ``active``; and how often."""
    count, whole = 0, len(message) // 64 * 64
    for start in range(0, whole, 64):
        mask = _mask(message, start)
        while mask != np.uint64(0):
            active[count] = start + _lowest(mask)
            count += 1
            mask &= mask - np.uint64(1)
    for i in range(whole, len(message)):
        if message[i] != 0:
            active[count] = i
            count += 1
    return count


@jit
def dense_binary(x: Array, first: int, weight: Array, a: Array, at: int, steps: int) -> None:
    """``a[n, t] += Σ_i weight[i] where x[n, t, i]``: spikes ``[n, T, in]`` to ``[n, T, out]``.

    Four rows at a time: one load and one store of a for four additions.
    """
    active = np.empty(x.shape[2], dtype=np.int32)
    narrow = a.dtype.type
    for n in range(x.shape[0]):
        for t in range(steps):
            out = a[n, at + t]
            count = _find(x[n, first + t], active)
            k = 0
            while k + 4 <= count:
                r0, r1 = weight[active[k]], weight[active[k + 1]]
                r2, r3 = weight[active[k + 2]], weight[active[k + 3]]
                for j in range(len(out)):
                    out[j] += narrow(r0[j]) + narrow(r1[j]) + narrow(r2[j]) + narrow(r3[j])
                k += 4
            while k < count:
                r0 = weight[active[k]]
                for j in range(len(out)):
                    out[j] += narrow(r0[j])
                k += 1


@jit
def dense_graded(x: Array, first: int, weight: Array, a: Array, at: int, steps: int) -> None:
    """``a[n, t] += Σ_i x[n, t, i] · weight[i]`` for integer payloads."""
    active = np.empty(x.shape[2], dtype=np.int32)
    narrow = a.dtype.type
    for n in range(x.shape[0]):
        for t in range(steps):
            message, out = x[n, first + t], a[n, at + t]
            for k in range(_find(message, active)):
                payload, row = narrow(message[active[k]]), weight[active[k]]
                for j in range(len(out)):
                    out[j] += payload * narrow(row[j])


@jit
def conv(
    x: Array,
    first: int,
    weight: Array,
    a: Array,
    at: int,
    steps: int,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
) -> None:
    """Scatter each payload of ``x [n, T, H, W · C]`` through its kernel to ``a [n, T, H', W', O]``.

    weight: ``[C, kH, kW · O/groups]``, each kernel row *reversed*: a payload at column c then adds
    it to the output columns c + p − (kW − 1) … c + p in order, in one piece where the stride and
    the dilation are 1 and there is one group.
    """
    height, channels = x.shape[2], len(weight)
    out_height, out_width, out_channels = a.shape[2], a.shape[3], a.shape[4]
    kernel_h = weight.shape[1]
    per_group = out_channels // groups
    kernel_w = weight.shape[2] // per_group
    in_one_piece = stride[1] == 1 and dilation[1] == 1 and groups == 1
    active = np.empty(x.shape[3], dtype=np.int32)
    narrow = a.dtype.type
    for n in range(x.shape[0]):
        for t in range(steps):
            flat = a[n, at + t].reshape(out_height, out_width * out_channels)
            for y in range(height):
                line = x[n, first + t, y]
                for event in range(_find(line, active)):
                    payload = narrow(line[active[event]])
                    column, c = divmod(active[event], channels)
                    base = (c // (channels // groups)) * per_group
                    for i in range(kernel_h):
                        row = y + padding[0] - i * dilation[0]
                        if row < 0 or row % stride[0] != 0:
                            continue
                        row //= stride[0]
                        if row >= out_height:
                            continue
                        taps, out = weight[c, i], flat[row]
                        if in_one_piece:
                            left = (column + padding[1] - (kernel_w - 1)) * out_channels
                            begin, end = max(left, 0), min(left + len(taps), len(out))
                            mine, these = out[begin:end], taps[begin - left : end - left]
                            for j in range(len(mine)):
                                mine[j] += payload * narrow(these[j])
                            continue
                        for k in range(kernel_w):
                            left = column + padding[1] - (kernel_w - 1 - k) * dilation[1]
                            if left < 0 or left % stride[1] != 0:
                                continue
                            left //= stride[1]
                            if left >= out_width:
                                continue
                            begin = left * out_channels + base
                            mine = out[begin : begin + per_group]
                            these = taps[k * per_group : (k + 1) * per_group]
                            for j in range(len(mine)):
                                mine[j] += payload * narrow(these[j])


@jit
def pool(
    x: Array,
    first: int,
    weight: Array,
    a: Array,
    at: int,
    steps: int,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
) -> None:
    """A convolution with a group for each channel, as average pooling is: ``weight [kH, kW, C]``.

    Not event-driven: the channels are multiplied as a vector.
    """
    height, width, channels = x.shape[2], x.shape[3], x.shape[4]
    kernel_h, kernel_w = weight.shape[0], weight.shape[1]
    narrow = a.dtype.type
    for n in range(x.shape[0]):
        for t in range(steps):
            for out_y in range(a.shape[2]):
                for i in range(kernel_h):
                    y = out_y * stride[0] - padding[0] + i * dilation[0]
                    if y < 0 or y >= height:
                        continue
                    for out_x in range(a.shape[3]):
                        for k in range(kernel_w):
                            column = out_x * stride[1] - padding[1] + k * dilation[1]
                            if column < 0 or column >= width:
                                continue
                            pixel, taps = x[n, first + t, y, column], weight[i, k]
                            out = a[n, at + t, out_y, out_x]
                            for c in range(channels):
                                out[c] += narrow(pixel[c]) * narrow(taps[c])


# --- neurons ------------------------------------------------------------------------------------
#
# Common to all: a ``[n, T, width]``, or ``[n, 1, width]`` where the input is the same at each step,
# of which ``a << shift`` is what the synapses add up to. ``steps`` steps from ``at`` on; what is
# sent goes to ``sent[:, first:]``. State ``[n, units]``, updated. all_u, all_v: ``[n, T, units]``,
# empty where not wanted; with peak they are None where nothing is, and numba leaves that code out.
# Returned is how many messages are not 0.


@jit
def _decay(x: Array, keep: Array) -> Array:
    """x · keep / 4096 towards zero, split at 12 bits so that no product leaves 32 bits."""
    magnitude = np.int32(abs(x))
    high, low = np.int32(magnitude >> 12), np.int32(magnitude & 4095)
    kept = np.int32(np.int32(high * keep) + np.int32(np.int32(low * keep) >> 12))
    return kept if x >= 0 else np.int32(-kept)


@jit
def leaky(
    a: Array,
    at: int,
    steps: int,
    sent: Array,
    first: int,
    all_u: Array,
    all_v: Array,
    peak: Array,
    shift: int,
    du: int,
    dv: int,
    threshold: int,
    soft: bool,
    bias: Array,
    u: Array,
    v: Array,
) -> int:
    """The equations of :func:`loihi.reference.step_neuron` over time; threshold in units of v.

    peak: the largest \\|u\\| before its wrap and \\|v\\| before its clip are put here.
    """
    keep_u, keep_v = np.int32(4096 - du), np.int32(4096 - dv)
    half, turn, vth = np.int32(2**23), np.int32(2**24), np.int32(threshold)
    left = vth if soft else np.int32(0)
    moves = a.shape[1] > 1
    peak_u, peak_v = np.int32(0), np.int32(0)
    events = 0
    for n in range(len(u)):
        un, vn = u[n], v[n]
        for t in range(steps):
            an, out = a[n, at + t if moves else 0], sent[n, first + t]
            found: Any = np.int32(0)  # of 32 bits, as the vectors are
            for j in range(len(un)):
                current = np.int32(np.int32(an[j]) << shift)
                if keep_u:
                    current = np.int32(current + _decay(un[j], keep_u))
                if peak is not None:
                    peak_u = max(peak_u, np.int32(abs(current)))
                if current > half:
                    current = np.int32(current - turn)
                elif current <= -half:
                    current = np.int32(current + turn)
                un[j] = current
                voltage = np.int32(np.int32(_decay(vn[j], keep_v) + current) + bias[j])
                if peak is not None:
                    peak_v = max(peak_v, np.int32(abs(voltage)))
                voltage = max(min(voltage, np.int32(half - 1)), np.int32(1 - half))
                spike = voltage > vth
                if soft:
                    vn[j] = np.int32(voltage - left) if spike else voltage
                else:
                    vn[j] = np.int32(0) if spike else voltage
                out[j] = spike
                found = np.int32(found + spike)
            events += found
            if all_u is not None and all_u.size:
                all_u[n, at + t] = un
            if all_v is not None and all_v.size:
                all_v[n, at + t] = vn
    if peak is not None:
        peak[0], peak[1] = max(peak[0], peak_u), max(peak[1], peak_v)
    return events


@jit
def sigma_delta(
    a: Array,
    at: int,
    steps: int,
    sent: Array,
    first: int,
    all_u: Array,
    all_v: Array,
    peak: Array,
    shift: int,
    adds_up: bool,
    relu: bool,
    threshold: int,
    state_exp: int,
    bias: Array,
    u: Array,
    v: Array,
    residue: Array,
) -> int:
    """Lava's Delta and, where the input ``adds_up``, SigmaDelta or (with SENDS_ALL) Sigma: see
    :mod:`loihi.neurons`. u: σ or x. v: the activation x. All of 32 bits, wrapping."""
    theta = np.int32(threshold)
    moves = a.shape[1] > 1
    events = 0
    for n in range(len(u)):
        un, vn, rn = u[n], v[n], residue[n]
        for t in range(steps):
            an, out = a[n, at + t if moves else 0], sent[n, first + t]
            for j in range(len(un)):
                total = np.int32(np.int32(an[j]) << shift)
                if adds_up:
                    total = np.int32(total + un[j])
                un[j] = total
                if theta == SENDS_ALL:
                    vn[j] = total
                    out[j] = total
                    events += total != 0
                    continue
                total = np.int32(total + bias[j])
                if relu:
                    total = max(total, np.int32(0))
                delta = np.int32(np.int32(total - vn[j]) + rn[j])
                vn[j] = total
                fires = delta >= theta or delta <= -theta
                rn[j] = np.int32(0) if fires else delta
                out[j] = np.int32(delta >> state_exp) if fires else np.int32(0)
                events += out[j] != 0
            if all_u is not None and all_u.size:
                all_u[n, at + t] = un
            if all_v is not None and all_v.size:
                all_v[n, at + t] = vn
    return events


@jit
def resonator(
    a: Array,
    at: int,
    steps: int,
    sent: Array,
    first: int,
    all_u: Array,
    all_v: Array,
    peak: Array,
    shift: int,
    sin: int,
    cos: int,
    threshold: int,
    phase: bool,
    u: Array,
    v: Array,
) -> int:
    """:func:`loihi.reference.step_resonator` over time. a: the real input, then the imaginary one.
    u, v: real and imaginary part."""
    units = u.shape[1]
    keep_sin, keep_cos = np.int32(abs(sin)), np.int32(abs(cos))
    sign_sin, sign_cos = np.int32(-1 if sin < 0 else 1), np.int32(-1 if cos < 0 else 1)
    limit, theta = np.int64(2**23 - 1), np.int64(threshold)
    moves = a.shape[1] > 1
    events = 0
    for n in range(len(u)):
        un, vn = u[n], v[n]
        for t in range(steps):
            an, out = a[n, at + t if moves else 0], sent[n, first + t]
            for j in range(units):
                # The sum of the synapses has 32 bits; shifted by 6 it has more.
                real: Any = np.int64(np.int32(np.int32(an[j]) << shift)) << 6
                imag: Any = np.int64(np.int32(np.int32(an[units + j]) << shift)) << 6
                real += sign_cos * _decay(un[j], keep_cos) - sign_sin * _decay(vn[j], keep_sin)
                imag += sign_sin * _decay(un[j], keep_sin) + sign_cos * _decay(vn[j], keep_cos)
                real = max(min(real, limit), -limit)
                imag = max(min(imag, limit), -limit)
                if phase:
                    spike = real >= theta and imag >= 0 and vn[j] < 0
                else:
                    spike = imag >= theta
                    real = 0 if spike else real
                    imag = theta - 1 if spike else imag
                un[j], vn[j] = np.int32(real), np.int32(imag)
                out[j] = spike
                events += spike
            if all_u is not None and all_u.size:
                all_u[n, at + t] = un
            if all_v is not None and all_v.size:
                all_v[n, at + t] = vn
    return events
