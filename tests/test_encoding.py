"""Input encodings: what each sends, and when."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loihi import Encoding, PumiceError
from loihi.encoding import KINDS


def test_graded_is_the_rounded_value_at_every_step() -> None:
    encoding = Encoding("graded", 3, (0, 255), 0.0, 16.0)
    x = encoding.encode(np.array([[0, 8, 16], [1, 20, -5]]))
    assert x.shape == (3, 2, 3)
    assert x.dtype == np.uint8
    assert x.strides[0] == 0  # one step, seen three times
    np.testing.assert_array_equal(x[2], [[0, 128, 255], [16, 255, 0]])
    intel = Encoding("graded", 1, (-12, 140), 0, 255)  # 76 · (x / 127.5 − 1) + 64
    pixels = np.arange(256)[None]
    expected = np.floor(76 * (pixels / 127.5 - 1) + 64 + 0.5)
    np.testing.assert_array_equal(intel.encode(pixels)[0], expected)


@given(st.integers(1, 40), st.integers(0, 5))
def test_rate_sends_the_right_number_of_spikes(steps: int, seed: int) -> None:
    values = np.linspace(0, 1, 23)[None]
    x = Encoding("rate", steps, low=0.0, high=1.0, seed=seed).encode(values)
    np.testing.assert_array_equal(x.sum(0), np.floor(values * steps + 0.5))
    assert set(np.unique(x)) <= {0, 1}


def test_rate_does_not_depend_on_the_batch_but_on_the_seed() -> None:
    values = np.random.default_rng(0).random((5, 50))
    encoding = Encoding("rate", 16, low=0.0, high=1.0)
    np.testing.assert_array_equal(encoding.encode(values)[:, 2:3], encoding.encode(values[2:3]))
    other = Encoding("rate", 16, low=0.0, high=1.0, seed=1)
    assert (encoding.encode(values) != other.encode(values)).any()


def test_latency_sends_one_spike_the_earlier_the_larger() -> None:
    x = Encoding("latency", 5, low=0, high=255).encode(np.array([[255, 128, 26, 25, 0]]))
    np.testing.assert_array_equal(x.sum(0), [[1, 1, 1, 0, 0]])
    np.testing.assert_array_equal(x[:, 0, :3].argmax(0), [0, 2, 4])


def test_events_are_passed_on_with_time_first() -> None:
    frames = np.arange(2 * 3 * 4).reshape(2, 3, 4)
    x = Encoding("events", 3, (0, 9)).encode(frames)
    assert x.shape == (3, 2, 4)
    np.testing.assert_array_equal(x[1, 0], frames[0, 1])
    assert x.max() == 9
    with pytest.raises(PumiceError, match="T = 3"):
        Encoding("events", 3).encode(frames[:, :2])
    with pytest.raises(PumiceError, match="whole"):
        Encoding("events", 3).encode(frames + 0.5)


@pytest.mark.parametrize(
    "arguments",
    [
        ("morse", 4),
        ("graded", 0),
        ("graded", 4, (0, 256)),
        ("graded", 4, (3, 3)),
        ("rate", 4, (0, 255)),
        ("graded", 4, (0, 255), 1.0, 1.0),
        ("graded", 4, (0, 255), 1.0, None),
        ("graded", 4, (0, 255), 0.0, float("inf")),
        ("graded", 4, (0, 255), -1e308, 1e308),
    ],
)
def test_encodings_that_cannot_be(arguments: tuple[object, ...]) -> None:
    with pytest.raises(PumiceError):
        Encoding(*arguments)  # type: ignore[arg-type]


def test_data_that_cannot_be_encoded() -> None:
    with pytest.raises(PumiceError, match="range"):
        Encoding("graded", 4, (0, 255)).encode(np.zeros((1, 2)))
    with pytest.raises(PumiceError, match="NaN"):
        Encoding("graded", 4, (0, 255), 0, 1).encode(np.array([[np.nan]]))


@pytest.mark.parametrize("kind", KINDS)
def test_some_steps_are_those_of_all(kind: str) -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 2, (3, 7, 4)) if kind == "events" else rng.random((3, 4))
    encoding = Encoding(kind, 7, (0, 1), *((None, None) if kind == "events" else (0.0, 1.0)))  # type: ignore[arg-type]
    whole = encoding.encode(x)
    assert len(np.unique(whole, axis=0)) > 1 or kind == "graded"
    for some in (slice(0, 3), slice(2, 6), slice(5, 99), slice(3, 3)):
        np.testing.assert_array_equal(encoding.encode(x, some), whole[some])
