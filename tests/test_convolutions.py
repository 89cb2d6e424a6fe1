"""The CPU's int8 convolutions: the same integers as float64's, wherever they are taken."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from trainer import convolutions, kernels
from trainer.convolutions import Geometry
from trainer.shared import Shared


@st.composite
def cases(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor, Geometry]:
    """Messages of 0 to 127, weights of 8 bits, and where the kernels stand."""
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    channels, out = (groups * draw(st.sampled_from([1, 2, 5, 16, 33])) for _ in range(2))
    kernel, padding, stride, dilation = (
        (draw(st.integers(low, high)), draw(st.integers(low, high)))
        for low, high in ((1, 7), (0, 7), (1, 4), (1, 2))
    )
    if draw(st.booleans()):  # of what int8 is for
        stride, dilation = draw(st.sampled_from([(1, 1), (2, 2)])), (1, 1)
    height, width = (
        draw(st.integers(max(1, d * (k - 1) + 1 - 2 * p), 14))
        for k, p, d in zip(kernel, padding, dilation, strict=True)
    )
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    shape = (draw(st.integers(1, 3)), channels, height, width)
    x = torch.randint(0, 128, shape, generator=generator)
    weight = torch.randint(-128, 128, (out, channels // groups, *kernel), generator=generator)
    if draw(st.booleans()):  # the largest sums that there are
        x, weight = torch.full_like(x, 127), torch.full_like(weight, -128)
    return x, weight, Geometry(stride, padding, dilation, groups)


@settings(max_examples=300, deadline=None)
@given(cases())
@example(  # oneDNN's float32 convolution in torch 2.13 is wrong here
    (torch.ones((8, 1, 14, 1)), torch.ones((16, 1, 1, 2)), Geometry((1, 2), (0, 1), (1, 1), 1))
)
@example(  # and its int8 convolution here
    (torch.ones((1, 8, 3, 6)), torch.ones((512, 1, 2, 7)), Geometry((1, 2), (1, 1), (1, 1), 8))
)
@example(  # which ends the process here
    (torch.ones((2, 5, 9, 1)), torch.ones((1, 5, 4, 1)), Geometry((1, 2), (0, 1), (1, 2), 1))
)
def test_convolutions_are_exact(
    case: tuple[torch.Tensor, torch.Tensor, Geometry],
) -> None:
    assert convolutions.int8_convolution() is not None  # else this proves nothing
    x, weight, where = case
    expected = F.conv2d(x.double(), 128.0 * weight.double(), None, *where)
    shared = Shared(128.0 * weight.float())
    for images in (x.float(), x.float().to(memory_format=torch.channels_last)):
        once = convolutions.convolve(images, shared.value, where, 128.0, shared)
        again = convolutions.convolve(images, shared.value, where, 128.0)
        plain = convolutions.convolve(images, shared.value, where)
        if convolutions.suits_int8(x.shape, weight, where) or float(expected.abs().max()) < 2**24:
            assert torch.equal(once.double(), expected)
            assert torch.equal(again, once)
        assert once.dtype == torch.float32
        if float(expected.abs().max()) < 2**24:
            assert torch.equal(plain, once)
    if convolutions.suits_int8(x.shape, weight, where):
        product = convolutions.int8_convolve(x.to(torch.int8), shared, where, 128.0)
        assert torch.equal(product.double(), expected)


@pytest.mark.parametrize("step", [0.0, 128.0])
@pytest.mark.parametrize(
    "where", [Geometry((2, 1), (1, 2), (1, 2), 2), Geometry((2, 2), (1, 1), (1, 1), 2)]
)
def test_gradients_of_a_convolution(where: Geometry, step: float) -> None:
    generator = torch.Generator().manual_seed(2)
    weight = 128.0 * torch.randint(-128, 128, (6, 2, 3, 2), generator=generator)
    x = torch.randint(0, 3, (5, 4, 9, 8), generator=generator).float()
    assert convolutions.suits_int8(x.shape, weight, where) == (where.dilation == (1, 1))
    errors = torch.randn(F.conv2d(x, weight, None, *where).shape, generator=generator)
    found = []
    for ours in (True, False):
        one, other = (tensor.clone().requires_grad_() for tensor in (x, weight))
        y = (
            convolutions.convolve(one, other, where, step)
            if ours
            else F.conv2d(one, other, None, *where)
        )
        y.backward(errors)
        found.append((one.grad, other.grad))
    for of_ours, of_torch in zip(*found, strict=True):
        size = float(of_torch.abs().max())
        torch.testing.assert_close(of_ours, of_torch, rtol=1e-5, atol=1e-5 * size)


@st.composite
def sparse_errors(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, Geometry]:
    """Messages, weights and errors of a geometry whose gradients can be gathered; in float64."""
    columns = draw(st.integers(1, 6))
    lines = draw(st.integers(1 if columns > 1 else 2, 6))
    channels = draw(
        st.sampled_from([c for c in (2, 4, 8, 16, 32, 48, 80) if c * columns % 16 == 0])
    )
    out = draw(st.sampled_from([1, 3, 16, 17, 40, 128, 131, 260]))
    padding, stride = (
        (draw(st.integers(low, high)), draw(st.integers(low, high)))
        for low, high in ((0, 3), (1, 3))
    )
    height, width = (
        draw(st.integers(max(1, k - 2 * p), 9))
        for k, p in zip((lines, columns), padding, strict=True)
    )
    where = Geometry(stride, padding, (1, 1), 1)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    x = torch.randint(0, 3, (draw(st.integers(1, 3)), channels, height, width), generator=generator)
    weight = torch.randn((out, channels, lines, columns), generator=generator)
    shape = F.conv2d(x.float(), weight, None, *where).shape
    few = torch.rand(shape, generator=generator) < draw(st.sampled_from([0.0, 0.03, 0.25]))
    errors = torch.randn(shape, generator=generator) * few
    return x.double(), weight.double(), errors.double(), where


@settings(max_examples=100, deadline=None)
@given(sparse_errors())
def test_gradients_gathered_error_by_error(
    case: tuple[torch.Tensor, torch.Tensor, torch.Tensor, Geometry],
) -> None:
    """In float32, for one thread and two, against torch in float64."""
    x, weight, errors, where = case
    one, other = x.clone().requires_grad_(), weight.clone().requires_grad_()
    F.conv2d(one, other, None, *where).backward(errors)
    given_, kernels_, delta = (
        t.float().to(memory_format=torch.channels_last) for t in (x, weight, errors)
    )
    found = []
    for threads in (1, 2):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(convolutions, "FEW", 2.0)
            patch.setattr(kernels, "LARGE", 0)
            kernels.use_threads(threads)
            assert convolutions._can_gather(delta, given_, kernels_, where)
            found.append(convolutions.gradients(delta, given_, kernels_, where, True, True))
            shared = convolutions.gradients(
                delta, given_, kernels_, where, True, False, Shared(kernels_)
            )
            kernels.use_threads(1)
        assert shared[1] is None and torch.equal(shared[0], found[0][0])
    for ours, again, theirs in zip(*found, (one.grad, other.grad), strict=True):
        assert torch.equal(ours, again)
        size = float(theirs.abs().max())
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-5 * max(size, 1e-30))


@pytest.mark.parametrize(
    ("density", "where", "channels", "kernel", "there"),
    [
        (0.25, Geometry((1, 1), (0, 0), (1, 1), 1), 16, 3, True),
        (0.35, Geometry((1, 1), (0, 0), (1, 1), 1), 16, 3, False),
        (0.25, Geometry((1, 1), (0, 0), (1, 1), 1), 8, 3, False),
        (0.25, Geometry((1, 1), (0, 0), (1, 1), 1), 16, 1, False),
        (0.25, Geometry((1, 1), (0, 0), (2, 1), 1), 16, 3, False),
        (0.25, Geometry((1, 1), (0, 0), (1, 1), 2), 32, 3, False),
    ],
)
def test_which_gradients_are_gathered(
    density: float, where: Geometry, channels: int, kernel: int, there: bool
) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand((2, channels, 9, 9), generator=generator)
    weight = torch.rand((32, channels // where.groups, kernel, kernel), generator=generator)
    errors = torch.rand(F.conv2d(x, weight, None, *where).shape, generator=generator)
    errors *= torch.rand(errors.shape, generator=generator) < density
    assert convolutions._can_gather(errors, x, weight, where) == there
    assert not convolutions._can_gather(errors.double(), x.double(), weight.double(), where)


def test_a_build_without_int8_convolutions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of another torch: the same integers by the plain convolution."""
    x = torch.randint(0, 3, (2, 3, 7, 7)).float()
    weight = 128.0 * torch.randint(-128, 128, (4, 3, 3, 3))
    where = Geometry((1, 1), (0, 0), (1, 1), 1)
    expected = convolutions.convolve(x, weight, where, 128.0)
    operators = torch.ops.onednn
    convolutions.int8_convolution.cache_clear()
    monkeypatch.setattr(torch.ops, "onednn", object())
    assert convolutions.int8_convolution() is None
    assert torch.equal(convolutions.convolve(x, weight, where, 128.0), expected)
    monkeypatch.setattr(torch.ops, "onednn", operators)
    convolutions.int8_convolution.cache_clear()
    assert convolutions.int8_convolution() is not None
