"""The engine's compiled inner loops: integers in, integers out, one thread's share of the samples.

Synapses are event-driven: where an input is silent nothing is added, and spiking networks are
silent most of the time. Weights come transposed, input first, so that a spike adds one contiguous
row, which the compiler turns into vector additions; a row is as narrow as its numbers allow.

Images are channels-last here, ``[H, W, C]``, for the same reason: the row that a spike adds to a
convolution's output is contiguous over channels, and over a kernel's row.

Every function releases the GIL and touches only its own samples: the engine calls them from
threads. The explicit ``np.int32`` keep numba from widening every sum to 64 bits, which would halve
the vector width; they are also the wrap to 32 bits that Lava's own stores do.
"""

from __future__ import annotations

from typing import Any

import numba as nb
import numpy as np

# numba types the arrays at the call; dtypes spelled here would be a second, unchecked, opinion.
Array = Any

_jit = nb.njit(nogil=True, cache=True, error_model="numpy")


@_jit
def dense_binary(x: Array, weight: Array, a: Array) -> None:
    """``a[n, t] += Σ_i weight[i] where x[n, t, i]``: spikes ``[n, T, in]`` to ``[n, T, out]``.

    Four rows at a time: one load and one store of a for four additions.
    """
    active = np.empty(x.shape[2] + 1, dtype=np.int32)
    narrow = a.dtype.type
    for n in range(x.shape[0]):
        for t in range(x.shape[1]):
            spikes, out = x[n, t], a[n, t]
            count = 0
            for i in range(len(spikes)):
                active[count] = i
                count += spikes[i] != 0
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


@_jit
def dense_graded(x: Array, weight: Array, a: Array) -> None:
    """``a[n, t] += Σ_i x[n, t, i] · weight[i]`` for integer payloads."""
    narrow = a.dtype.type
    for n in range(x.shape[0]):
        for t in range(x.shape[1]):
            out = a[n, t]
            for i in range(x.shape[2]):
                if x[n, t, i] != 0:
                    payload, row = narrow(x[n, t, i]), weight[i]
                    for j in range(len(out)):
                        out[j] += payload * narrow(row[j])


@_jit
def conv(
    x: Array,
    weight: Array,
    a: Array,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
) -> None:
    """Scatter each payload of ``x [n, T, H, W, C]`` through its kernel to ``a [n, T, H', W', O]``.

    weight: ``[C, kH, kW · O/groups]``, each kernel row *reversed*: a payload at column c then adds
    it to the output columns c + p − (kW − 1) … c + p in order, in one piece where the stride and
    the dilation are 1 and there is one group.
    """
    height, width, channels = x.shape[2], x.shape[3], x.shape[4]
    out_height, out_width, out_channels = a.shape[2], a.shape[3], a.shape[4]
    kernel_h = weight.shape[1]
    per_group = out_channels // groups
    kernel_w = weight.shape[2] // per_group
    in_one_piece = stride[1] == 1 and dilation[1] == 1 and groups == 1
    narrow = a.dtype.type
    for n in range(x.shape[0]):
        for t in range(x.shape[1]):
            flat = a[n, t].reshape(out_height, out_width * out_channels)
            for y in range(height):
                for column in range(width):
                    for c in range(channels):
                        if x[n, t, y, column, c] == 0:
                            continue
                        payload = narrow(x[n, t, y, column, c])
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
                                left = column + padding[1] - (kernel_w - 1)
                                first = max(left, 0) * out_channels
                                last = min(left + kernel_w, out_width) * out_channels
                                tap = first - left * out_channels
                                for j in range(last - first):
                                    out[first + j] += payload * narrow(taps[tap + j])
                                continue
                            for k in range(kernel_w):
                                left = column + padding[1] - (kernel_w - 1 - k) * dilation[1]
                                if left < 0 or left % stride[1] != 0:
                                    continue
                                left //= stride[1]
                                if left >= out_width:
                                    continue
                                first = left * out_channels + base
                                for j in range(per_group):
                                    out[first + j] += payload * narrow(taps[k * per_group + j])


@_jit
def _decay(x: Array, keep: Array) -> Array:
    """x · keep / 4096 towards zero, split at 12 bits so that no product leaves 32 bits."""
    magnitude = np.int32(abs(x))
    high, low = np.int32(magnitude >> 12), np.int32(magnitude & 4095)
    kept = np.int32(np.int32(high * keep) + np.int32(np.int32(low * keep) >> 12))
    return kept if x >= 0 else np.int32(-kept)


@_jit
def scan(
    a: Array,
    steps: int,
    shift: int,
    du: int,
    dv: int,
    threshold: int,
    bias: Array,
    u: Array,
    v: Array,
    spikes: Array,
    all_u: Array,
    all_v: Array,
    peak: Array,
) -> None:
    """The neurons over time: the equations of :func:`loihi.reference.step_neuron`.

    a: ``[n, T, units]``, or ``[n, 1, units]`` where the input is the same at each of the steps;
    ``a << shift`` is in units of u. threshold: in units of v. u, v: state ``[n, units]``, updated.
    spikes: ``[n, T, units]``. all_u, all_v: the same shape, or empty where not wanted.
    peak: the largest \\|u\\| before its wrap and \\|v\\| before its clip are put here.
    """
    keep_u, keep_v = np.int32(4096 - du), np.int32(4096 - dv)
    half, turn, vth = np.int32(2**23), np.int32(2**24), np.int32(threshold)
    moves = a.shape[1] > 1
    peak_u, peak_v = np.int32(0), np.int32(0)
    for n in range(len(u)):
        un, vn = u[n], v[n]
        for t in range(steps):
            an, out = a[n, t if moves else 0], spikes[n, t]
            for j in range(len(un)):
                current = np.int32(np.int32(an[j]) << shift)
                if keep_u:
                    current = np.int32(current + _decay(un[j], keep_u))
                peak_u = max(peak_u, np.int32(abs(current)))
                if current > half:
                    current = np.int32(current - turn)
                elif current <= -half:
                    current = np.int32(current + turn)
                un[j] = current
                voltage = np.int32(np.int32(_decay(vn[j], keep_v) + current) + bias[j])
                peak_v = max(peak_v, np.int32(abs(voltage)))
                voltage = max(min(voltage, np.int32(half - 1)), np.int32(1 - half))
                spike = voltage > vth
                vn[j] = np.int32(0) if spike else voltage
                out[j] = spike
            if all_u.size:
                all_u[n, t] = un
            if all_v.size:
                all_v[n, t] = vn
    peak[0], peak[1] = max(peak[0], peak_u), max(peak[1], peak_v)
