"""Number formats: ranges, rounding, overflow, and which weights eight bits hold."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loihi import formats
from loihi.formats import FormatError, weight_format


@given(st.integers(-(2**31), 2**31 - 1), st.integers(0, 4096))
def test_decay_rounds_towards_zero(x: int, d: int) -> None:
    exact = abs(x) * (4096 - d)
    expected = (exact // 4096) * (1 if x >= 0 else -1)
    assert formats.decay(np.array([x]), d)[0] == expected


def test_current_wraps_once_and_voltage_clips() -> None:
    edge = 2**23
    u = np.array([edge, edge + 1, -edge + 1, -edge, 3 * edge])
    np.testing.assert_array_equal(formats.wrap_current(u), [edge, -edge + 1, -edge + 1, edge, edge])
    v = np.array([edge, -edge, edge - 1, 5])
    np.testing.assert_array_equal(formats.clip_voltage(v), [edge - 1, 1 - edge, edge - 1, 5])


@given(st.integers(-(2**40), 2**40))
def test_wraps_are_twos_complement(x: int) -> None:
    assert formats.wrap32(np.array([x]))[0] == ((x + 2**31) % 2**32) - 2**31
    assert formats.wrap24(np.array([x]))[0] == ((x + 2**23) % 2**24) - 2**23


@pytest.mark.parametrize(
    ("weight", "expected"),
    [
        ([0, 255], ("excitatory", 8, 0)),
        ([0, 0], ("excitatory", 1, 0)),
        ([0, 1], ("excitatory", 1, -7)),
        ([-255, -1], ("inhibitory", 8, 0)),
        ([-256, 254], ("mixed", 8, 0)),
        ([-128, 127], ("mixed", 8, -1)),
        ([-2, 1], ("mixed", 2, -7)),
        ([-6, 5], ("mixed", 4, -5)),
    ],
)
def test_weight_formats(weight: list[int], expected: tuple[str, int, int]) -> None:
    found = weight_format(np.array(weight))
    assert (found.sign_mode, found.bits, found.exponent) == expected


@pytest.mark.parametrize("weight", [[-256, 1], [-1, 255], [-257, 2], [256], [-256], [-130, 3], []])
def test_weights_that_eight_bits_do_not_hold(weight: list[int]) -> None:
    with pytest.raises(FormatError):
        weight_format(np.array(weight, dtype=np.int64))


def test_numbers_are_named_when_refused() -> None:
    with pytest.raises(FormatError, match=r"weight\[1, 0\] is 3.5: only whole"):
        formats.require_integers("weight", [[1.0, 2.0], [3.5, 4.0]], -10, 10)
    with pytest.raises(FormatError, match=r"weight\[1\] is nan"):
        formats.require_integers("weight", [1.0, np.nan], -10, 10)
    with pytest.raises(FormatError, match=r"vth is 131072, outside 0..131071"):
        formats.require_integer("vth", 131072, 0, formats.VTH_MAX)
    with pytest.raises(FormatError, match="dtype"):
        formats.require_integers("weight", ["1"], -10, 10)
    assert formats.require_integers("weight", [1.0, -2.0], -10, 10).dtype == np.int32
