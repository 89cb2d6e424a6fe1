"""Linear maps merged into one: against PyTorch, one map after the other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from lava_export.nir_io import linear
from lava_export.nir_io.linear import Delayed, Diagonal, Kernel, LinearError, Matrix


def by_torch(maps: list[Any], x: np.ndarray) -> np.ndarray:
    y = torch.from_numpy(x)[None]
    for one in maps:
        if isinstance(one, Matrix):
            y = y.flatten(1) @ torch.from_numpy(one.weight).T
        elif isinstance(one, Diagonal):
            y = y * torch.tensor(one.factor)
        else:
            w = torch.from_numpy(one.weight)
            y = F.conv2d(y, w, None, one.stride, one.padding, one.dilation, one.groups)
    return y[0].numpy()


@st.composite
def kernels(draw: st.DrawFn, channels: int, size: tuple[int, int], name: str) -> Kernel:
    """A convolution that fits ``channels`` images of ``size``."""
    groups = draw(st.sampled_from([g for g in (1, 2, channels) if channels % g == 0]))
    out = groups * draw(st.integers(1, 2))
    dilation = draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    padding = draw(st.tuples(st.integers(0, 2), st.integers(0, 2)))
    kernel = tuple(
        draw(st.integers(1, max(1, min(3, (n + 2 * p - 1) // d + 1))))
        for n, p, d in zip(size, padding, dilation, strict=True)
    )
    stride = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    weight = rng.uniform(0.5, 1.5, (out, channels // groups, *kernel))
    return Kernel(name, weight, stride, padding, dilation, groups)


SIZES = st.tuples(st.integers(3, 9), st.integers(3, 9))


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_two_convolutions(data: st.DataObject) -> None:
    """Merged, they are what they were; refused, no one convolution of that size would do."""
    channels, size = data.draw(st.sampled_from([1, 2, 4])), data.draw(SIZES)
    first = data.draw(kernels(channels, size, "first"))
    shape = (channels, *size)
    middle = first.output_shape(shape)
    second = data.draw(kernels(middle[0], middle[1:], "second"))
    x = np.random.default_rng(0).uniform(0.5, 1.5, shape)
    expected = by_torch([first, second], x)
    try:
        merged, delay = linear.merge([first, second], shape)
    except LinearError:
        # All weights are positive: what the zeros between the two took away is missing for sure.
        (y1, x1), (py, px) = first.stride, second.padding
        wide = Kernel(
            "first", first.weight, first.stride,
            (first.padding[0] + py * y1, first.padding[1] + px * x1), first.dilation, first.groups,
        )  # fmt: skip
        inner = Kernel(
            "second", second.weight, second.stride, (0, 0), second.dilation, second.groups
        )
        assert not np.allclose(by_torch([wide, inner], x), expected)
        return
    assert delay is None
    assert merged.output_shape(shape) == expected.shape
    assert np.allclose(by_torch([merged], x), expected)
    assert np.allclose(merged.apply(x), expected)


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_convolutions_before_a_matrix_always_merge(data: st.DataObject) -> None:
    channels, size = data.draw(st.sampled_from([1, 2])), data.draw(SIZES)
    shape: tuple[int, ...] = (channels, *size)
    maps: list[Any] = []
    rng = np.random.default_rng(0)
    for number in range(data.draw(st.integers(0, 2))):
        maps.append(data.draw(kernels(shape[0], shape[1:], f"k{number}")))
        shape = maps[-1].output_shape(shape)
        if data.draw(st.booleans()):
            maps.append(Diagonal(f"s{number}", rng.random(shape)))
    maps.append(Matrix("w", rng.standard_normal((3, int(np.prod(shape))))))
    maps.append(Diagonal("d", rng.random(3)))
    maps.append(Matrix("v", rng.standard_normal((2, 3))))
    x = rng.standard_normal((channels, *size))
    merged, _ = linear.merge(maps, x.shape)
    assert merged.weight.shape == (2, x.size)
    assert np.allclose(merged.weight @ x.reshape(-1), by_torch(maps, x))
    assert np.allclose(linear.apply(maps, x), by_torch(maps, x))


def test_average_pooling_keeps_its_groups() -> None:
    """Convolutions of a few groups around a pooling of many stay of a few groups."""
    rng = np.random.default_rng(0)
    pool = Kernel("pool", np.full((4, 1, 2, 2), 0.25), (2, 2), groups=4)
    conv = Kernel("conv", rng.random((6, 2, 3, 3)), padding=(1, 1), groups=2)
    for maps, groups in (([pool, conv], 2), ([pool, pool], 4)):
        merged, _ = linear.merge(maps, (4, 8, 8))
        assert isinstance(merged, Kernel)
        assert merged.groups == groups
        x = rng.random((4, 8, 8))
        assert np.allclose(by_torch([merged], x), by_torch(maps, x))


def test_channel_scales_go_into_a_convolution() -> None:
    rng = np.random.default_rng(0)
    conv = Kernel("conv", rng.random((4, 1, 3, 3)), groups=2)
    before = Diagonal("a", np.broadcast_to(rng.random((2, 1, 1)), (2, 5, 5)))
    after = Diagonal("b", np.broadcast_to(rng.random((4, 1, 1)), (4, 3, 3)))
    x = rng.random((2, 5, 5))
    merged, _ = linear.merge([before, conv, after], x.shape)
    assert np.allclose(by_torch([merged], x), by_torch([before, conv, after], x))


@pytest.mark.parametrize("shape", [(3,), (2, 4, 5)])
def test_nothing_in_between_is_the_identity(shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).random(shape)
    for maps in ([], [Diagonal("s", np.full(shape, 3.0))]):
        merged, delay = linear.merge(maps, shape)
        assert delay is None
        assert np.array_equal(by_torch([merged], x), x * (3 if maps else 1))


def test_delays() -> None:
    w = np.ones((2, 3))
    inputs, outputs = np.array([1, 0, 5]), np.array([2, 7])
    maps = [
        Delayed("a", inputs),
        Matrix("w", w),
        Delayed("b", outputs),
        Delayed("c", np.full(2, 3)),
    ]
    _, delay = linear.merge(maps, (3,))
    assert np.array_equal(delay, inputs + outputs[:, None] + 3)
    maps = [Matrix("v", np.ones((3, 3))), Delayed("all", np.full(3, 4)), Matrix("w", w)]
    assert np.array_equal(linear.merge(maps, (3,))[1], np.full((2, 3), 4))
    identity, delay = linear.merge([Delayed("a", inputs)], (3,))
    assert np.array_equal(identity.weight, np.eye(3))
    assert np.array_equal(np.diag(delay), inputs)
    kernel = Kernel("k", np.ones((1, 1, 1, 1)))
    assert linear.merge([Delayed("a", np.zeros((1, 2, 2), int)), kernel], (1, 2, 2))[1] is None


IMAGE = (2, 4, 4)
SMALL = Kernel("k", np.ones((2, 2, 1, 1)))


@pytest.mark.parametrize(
    ("maps", "shape", "says"),
    [
        ([Matrix("w", np.ones((2, 3)))], (4,), "w takes 3 numbers, it is fed 4"),
        ([SMALL], (3, 4, 4), "k takes images of 2 channels, it is fed 3x4x4"),
        ([SMALL], (32,), "k takes images of 2 channels, it is fed 32"),
        ([Kernel("k", np.ones((1, 2, 5, 5)))], IMAGE, "kernel of k does not fit 2x4x4"),
        ([Diagonal("s", np.ones(3))], (4,), "s scales 3, it is fed 4"),
        ([Delayed("d", np.ones(3, int))], (4,), "d delays 3, it is fed 4"),
        ([Diagonal("s", np.arange(32.0).reshape(IMAGE))], IMAGE, "s.*: on an image, only a scale"),
        ([Diagonal("s", np.arange(32.0).reshape(IMAGE)), SMALL], IMAGE, "s, k: before a conv"),
        ([SMALL, Diagonal("s", np.arange(32.0).reshape(IMAGE))], IMAGE, "k, s.*: after a conv"),
        ([SMALL, Delayed("d", np.ones(IMAGE, int))], IMAGE, "d: a convolution has no delays"),
        (
            [Matrix("w", np.eye(3)), Delayed("d", np.arange(3)), Matrix("v", np.eye(3))],
            (3,),
            "d stands between two linear maps",
        ),
        (
            [Matrix("v", np.ones((1, 2**14))), Matrix("w", np.ones((2**14, 1)))],
            (2**14,),
            r"v, w.*16384 x 16384: too large",
        ),
        (
            [Kernel("k", np.ones((1, 1, 1, 1)), padding=(2**15, 2**15))],
            (1, 2, 2),
            "k pads 1x2x2 by .*: too large",
        ),
    ],
)
def test_what_does_not_merge(maps: list[Any], shape: tuple[int, ...], says: str) -> None:
    with pytest.raises(LinearError, match=says) as caught:
        linear.merge(maps, shape)
    assert "\n" not in str(caught.value)


def test_a_constant_through_a_delay_is_refused() -> None:
    with pytest.raises(LinearError, match="d delays a bias"):
        linear.apply([Delayed("d", np.array([0, 1]))], np.ones(2))
    assert np.array_equal(linear.apply([Delayed("d", np.zeros(2, int))], np.ones(2)), [1, 1])
