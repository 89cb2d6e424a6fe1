"""The CPU's int8 convolutions: the same integers as float64's, wherever they are taken."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from trainer import convolutions
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
