"""The chip's number formats: ranges, and the integer operations that Lava's fixed-point models do.

Every function is pure, works on integer numpy arrays of any shape, and computes in int64; where
Lava stores an int32, the result is wrapped to 32 bits as that store does.

Source of the arithmetic: lava-nc 0.10.0, ``PyLifModelBitAcc`` and ``PyLifResetModelBitAcc`` (u, v),
``PyDenseModelBitAcc`` (weights), ``PyConvModelFixed`` (24-bit wrap of the accumulator).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loihi.errors import PumiceError

IntArray = NDArray[np.integer[Any]]

DECAY_ONE = 4096
"""A decay of 4096 / 4096 forgets everything in one step; 0 forgets nothing (12 bits)."""
STATE_MAX = 2**23
"""u and v are 24-bit registers: −2^23 < u ≤ 2^23 after Lava's wrap, |v| ≤ 2^23 − 1."""
VTH_MAX = 2**17 - 1
"""Largest threshold mantissa (17 bits); the neuron compares v with ``vth << STATE_SHIFT``."""
STATE_SHIFT = 6
"""Synaptic input and thresholds are shifted left by 6 bits before they meet u and v."""
BIAS_MIN, BIAS_MAX = -(2**12), 2**12 - 1
"""Bias mantissa: 13 bits, signed."""
BIAS_EXP_MAX = 7
"""Bias exponent: 3 bits, unsigned."""
DELAY_MAX = 62
"""Longest synaptic delay in steps that netx accepts."""
WEIGHT_BITS = 8
PAYLOAD_MIN, PAYLOAD_MAX = -256, 255
"""Graded input spikes: 8 bits and a sign."""


class FormatError(PumiceError):
    """A number does not fit the chip's format."""


def require_integers(name: str, values: Any, low: int, high: int) -> NDArray[np.int32]:
    """``values`` as a read-only int32 array, or a :class:`FormatError` that names the culprit.

    Integral floats (3.0, as SLAYER writes its weights) are accepted; NaN, fractions and numbers
    outside ``low..high`` are not.
    """
    array = np.asarray(values)
    if array.dtype.kind not in "iufb":
        raise FormatError(f"{name}: expected integers, found dtype {array.dtype}")
    if array.dtype.kind == "f":
        whole = np.isfinite(array) & (array == np.floor(array))
        if not whole.all():
            at, value = _first(array, ~whole)
            raise FormatError(f"{name}{at} is {value}: only whole numbers run on the chip")
    inside = (array >= low) & (array <= high)
    if not inside.all():
        at, value = _first(array, ~inside)
        raise FormatError(f"{name}{at} is {int(value)}, outside {low}..{high}")
    fixed = array.astype(np.int32)  # a copy: freezing it must not freeze the caller's array
    fixed.setflags(write=False)
    return fixed


def require_integer(name: str, value: Any, low: int, high: int) -> int:
    """One integer in ``low..high``, or a :class:`FormatError`."""
    array = require_integers(name, value, low, high)
    if array.size != 1:
        raise FormatError(f"{name}: expected one number, found an array of shape {array.shape}")
    return int(array.reshape(()))


def _first(array: NDArray[Any], bad: NDArray[np.bool_]) -> tuple[str, Any]:
    index = np.unravel_index(int(np.argmax(bad)), array.shape) if array.ndim else ()
    return (f"[{', '.join(str(int(i)) for i in index)}]" if index else ""), array[index]


# --- state arithmetic ---------------------------------------------------------------------------


def wrap32(x: IntArray) -> NDArray[np.int64]:
    """What is left of ``x`` after a store to int32 (two's complement)."""
    return x.astype(np.int64).astype(np.int32).astype(np.int64)


def wrap24(x: IntArray) -> NDArray[np.int64]:
    """Two's complement at 24 bits: what Lava's Conv does to its accumulator."""
    return (x.astype(np.int64) + STATE_MAX) % (2 * STATE_MAX) - STATE_MAX


def decay(x: IntArray, d: int) -> NDArray[np.int64]:
    """``x · (4096 − d) / 4096``, rounded towards zero. ``d`` in 0..4096."""
    product = x.astype(np.int64) * (DECAY_ONE - d)
    return np.sign(product) * (np.abs(product) >> 12)


def wrap_current(u: IntArray) -> NDArray[np.int64]:
    """Lava's overflow of u: one turn by 2^24, no more. u > 2^23 or u ≤ −2^23 turns."""
    u = u.astype(np.int64)
    turned = np.where(u > STATE_MAX, u - 2 * STATE_MAX, u)
    return np.where(u <= -STATE_MAX, u + 2 * STATE_MAX, turned)


def clip_voltage(v: IntArray) -> NDArray[np.int64]:
    """v saturates at ±(2^23 − 1)."""
    return np.clip(v.astype(np.int64), -STATE_MAX + 1, STATE_MAX - 1)


# --- weights ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class WeightFormat:
    """How a layer's weights sit in the chip's 8-bit synapses.

    sign_mode: "mixed", "excitatory" (all ≥ 0) or "inhibitory" (all ≤ 0).
    bits: bits a weight needs, sign included, 1..8.
    exponent: the stored mantissa times 2^exponent is the weight; ≤ 0.
    """

    sign_mode: str
    bits: int
    exponent: int


def weight_format(weight: IntArray, name: str = "weight") -> WeightFormat:
    """The 8-bit synapse format that holds ``weight`` exactly, or a :class:`FormatError`.

    A synapse stores eight bits. Of one sign, these are the magnitudes 0..255. Of mixed signs, one
    bit is the sign, so the mantissas are the even numbers −256..254; an exponent of −1 and below
    makes odd weights of −128..127 (and smaller powers) possible.
    """
    w = np.asarray(weight)
    if w.size == 0:
        raise FormatError(f"{name} is empty")
    low, high = int(w.min()), int(w.max())
    if low < 0 < high:
        if not (low >= -256 and high <= 254):
            raise FormatError(
                f"{name}: weights of mixed signs must be in -256..254, found {low}..{high}"
            )
        fine = low >= -128 and high <= 127
        odd = (w & 1) != 0
        if not fine and odd.any():
            at, value = _first(w, odd)
            raise FormatError(
                f"{name}{at} is {int(value)}: weights of mixed signs that reach beyond -128..127 "
                f"({low}..{high} here) must be even"
            )
        shift = 0  # how far left the mantissas can go
        while (low << (shift + 1)) >= -256 and (high << (shift + 1)) <= 254:
            shift += 1
        stored, sign_bits, mode = w.astype(np.int64) << shift, 1, "mixed"
    else:
        if max(-low, high) > 255:
            raise FormatError(
                f"{name}: weights of one sign must be within 255, found {low}..{high}"
            )
        shift = 0
        while 0 < max(-low, high) << (shift + 1) <= 255:
            shift += 1
        stored, sign_bits = np.abs(w.astype(np.int64)) << shift, 0
        mode = "excitatory" if low >= 0 else "inhibitory"
    bits = (
        WEIGHT_BITS  # a format of n bits leaves the lowest 8 − n (+ 1 for a sign) of a mantissa 0
    )
    while bits > 1 and not (stored & ((1 << (WEIGHT_BITS + 1 - bits + sign_bits)) - 1)).any():
        bits -= 1
    return WeightFormat(mode, bits, -shift)
