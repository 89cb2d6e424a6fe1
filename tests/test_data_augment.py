"""Augmentation: each transformation against its definition, and the text that asks for it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from trainer.data import DataError
from trainer.data import augment as module
from trainer.data.augment import (
    Augmentation,
    affine_maps,
    cut_out,
    elastic_fields,
    flipped,
    shifted,
    warped,
)


def draw(seed=0):
    return np.random.default_rng(seed)


class Fixed:
    """A generator that draws what it is told: angle, slope, rows, columns, each of −1..1."""

    def __init__(self, *values):
        self.values = values

    def uniform(self, low, high, size):
        assert (low, high) == (-1, 1)
        return np.repeat(np.array(self.values, dtype=float)[:, None], size[1], axis=1)


IMAGES = draw(1).integers(0, 256, (3, 2, 9, 9)).astype(np.uint8)


# --- affine maps ---------------------------------------------------------------------------------


def test_maps_undo_turning_scaling_and_shearing():
    """Against the forward map written out: first shear, then scale, then turn, about the middle."""
    angle, slope = math.radians(30 * 0.7), math.tan(math.radians(20) * -0.4)
    rows, columns = 1 + 0.2 * 0.9, 1 + 0.2 * -0.6
    shear = np.array([[1, 0], [slope, 1]])
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    forward = turn @ np.diag([rows, columns]) @ shear
    (found,) = affine_maps(1, (9, 12), Fixed(0.7, -0.4, 0.9, -0.6), 30, 0.2, 20)
    middle = np.array([4, 5.5])
    for point in ((0, 0), (3, 11), (8, 2.5)):
        there = forward @ (np.array(point) - middle) + middle
        assert np.allclose(found @ [*there, 1], point)


@pytest.mark.parametrize(("turns", "draws"), [(1, 1), (-1, -1)])
def test_a_right_angle_is_rot90(turns, draws):
    turned = warped(IMAGES, Fixed(draws, 0, 0, 0), rotate=90)
    assert np.array_equal(turned, np.rot90(IMAGES, -turns, axes=(2, 3))) or np.array_equal(
        turned, np.rot90(IMAGES, turns, axes=(2, 3))
    )
    other = warped(IMAGES, Fixed(-draws, 0, 0, 0), rotate=90)
    assert np.array_equal(np.rot90(turned, 2, axes=(2, 3)), other)


def test_scaling_by_a_half_reads_every_other_pixel():
    (x,) = warped(IMAGES[:1], Fixed(0, 0, -1, -1), scale=0.5, low=7)
    inner = IMAGES[0][:, ::2, ::2]
    assert np.array_equal(x[:, 2:7, 2:7], inner)
    assert (x[:, [0, 8]] == 7).all()
    (x,) = warped(IMAGES[:1], Fixed(0, 0, -1, 0), scale=0.5, low=7)
    assert np.array_equal(x[:, 2:7], IMAGES[0][:, ::2])  # rows and columns each for themselves


def test_shearing_moves_rows():
    """By tan 45° = 1 the row that lies k below the middle moves k to the right."""
    (x,) = warped(IMAGES[:1], Fixed(0, 1, 0, 0), shear=45, low=0)
    assert np.array_equal(x[:, 4], IMAGES[0][:, 4])
    assert np.array_equal(x[:, 6, 2:], IMAGES[0][:, 6, :-2])
    assert np.array_equal(x[:, 1, :-3], IMAGES[0][:, 1, 3:])
    assert (x[:, 6, :2] == 0).all()


# --- interpolation -------------------------------------------------------------------------------


def slow_warp(image, maps, field, low):
    """Pixel by pixel from the four around it, in plain Python."""
    height, width = image.shape
    out = np.zeros((height, width))
    for i in range(height):
        for j in range(width):
            y, x = maps @ [i, j, 1]
            if field is not None:
                y, x = y + field[0, i, j], x + field[1, i, j]
            for a in (math.floor(y), math.floor(y) + 1):
                for b in (math.floor(x), math.floor(x) + 1):
                    inside = 0 <= a < height and 0 <= b < width
                    value = float(image[a, b]) if inside else low
                    out[i, j] += value * (1 - abs(y - a)) * (1 - abs(x - b))
    return out


@pytest.mark.parametrize("elastic", [0, 1.5])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float64])
def test_warps_are_bilinear(dtype, elastic):
    x = IMAGES.astype(dtype)
    low = 3 if dtype == np.uint8 else -20
    amounts = {"rotate": 25, "scale": 0.3, "shear": 15}
    found = warped(x, draw(5), **amounts, elastic=elastic, low=low)
    assert (found.shape, found.dtype) == (x.shape, x.dtype)
    rng = draw(5)
    maps = affine_maps(3, (9, 9), rng, *amounts.values())
    fields = elastic_fields(3, (9, 9), rng, elastic) if elastic else [None] * 3
    for n in range(3):
        for k in range(2):
            expected = slow_warp(x[n, k], maps[n], fields[n], low)
            error = np.abs(found[n, k] - expected).max()
            assert error <= (1e-3 if dtype in (np.float32, np.float64) else 0.5 + 1e-3)


def test_scipy_interpolates_the_same():
    x = draw(2).random((1, 1, 14, 11))
    found = warped(x, draw(3), rotate=40, scale=0.2, elastic=1, low=0.25)
    rng = draw(3)
    maps, field = affine_maps(1, (14, 11), rng, 40, 0.2, 0), elastic_fields(1, (14, 11), rng, 1)
    grid = np.stack([*np.mgrid[:14, :11], np.ones((14, 11))])
    places = np.einsum("ab,bij->aij", maps[0], grid) + field[0]
    expected = ndimage.map_coordinates(
        x[0, 0], places, order=1, mode="grid-constant", cval=0.25, prefilter=False
    )
    assert np.abs(found[0, 0] - expected).max() < 1e-6


def test_elastic_displacements_have_the_size_that_is_asked_for():
    fields = elastic_fields(4000, (14, 21), draw(), 2.5)
    spread = fields.std(axis=0)
    assert np.abs(spread - 2.5).max() < 0.2  # everywhere, borders too
    assert abs(fields.mean()) < 0.05
    smooth = np.abs(np.diff(fields, axis=3)).mean() / np.abs(fields).mean()
    rough = np.abs(fields[1:] - fields[:-1]).mean() / np.abs(fields).mean()
    assert smooth < 0.5 < rough


# --- whole pixels --------------------------------------------------------------------------------


def test_shifts_draw_what_they_always_drew():
    """Runs that were begun before must go on to the same numbers."""
    x = np.arange(1, 4 * 30 + 1, dtype=np.int64).reshape(4, 1, 5, 6)
    moves = torch.randint(0, 5, (4, 2), generator=torch.Generator().manual_seed(9)).numpy()
    found = shifted(x, 2, -1.0, torch.Generator().manual_seed(9))
    for image, result, (dy, dx) in zip(x[:, 0], found[:, 0], moves, strict=True):
        for i in range(5):
            for j in range(6):
                a, b = i + dy - 2, j + dx - 2
                inside = 0 <= a < 5 and 0 <= b < 6
                assert result[i, j] == (image[a, b] if inside else -1)


@pytest.mark.parametrize("text", ["crop=2", "shift=0.25"])
def test_crops_and_shifts_are_windows_of_the_padded_image(text):
    x = draw().integers(1, 255, (300, 2, 3, 8, 9)).astype(np.uint8)  # frames in time
    found = Augmentation.parse(text).apply(x, 0, 255, draw(4))
    seen = set()
    for before, after in zip(x, found, strict=True):
        padded = np.pad(before, [(0, 0), (0, 0), (2, 2), (2, 2)])
        places = [
            (dy, dx)
            for dy in range(5)
            for dx in range(5)
            if np.array_equal(after, padded[..., dy : dy + 8, dx : dx + 9])
        ]
        assert len(places) == 1
        seen.add(places[0])
    assert len(seen) == 25


def test_flips_are_left_to_right_and_half_of_all():
    x = draw().integers(0, 255, (500, 4, 2, 3, 5)).astype(np.uint8)
    found = flipped(x, draw(1))
    whole = np.array([np.array_equal(a, b) for a, b in zip(x, found, strict=True)])
    mirror = np.array([np.array_equal(a[..., ::-1], b) for a, b in zip(x, found, strict=True)])
    assert (whole ^ mirror).all()
    assert 190 < mirror.sum() < 310


@pytest.mark.parametrize("size", [1, 3, 4])
def test_cutout_is_a_square_anywhere(size):
    x = np.full((2000, 2, 6, 7), 9, dtype=np.uint8)
    found = cut_out(x, size, 1, draw())
    centres = set()
    for sample in found:
        assert np.array_equal(sample[0], sample[1])
        rows, columns = np.nonzero(sample[0] == 1)
        assert set(np.unique(sample)) <= {1, 9}
        assert len(rows) == (np.ptp(rows) + 1) * (np.ptp(columns) + 1)  # a full rectangle
        assert np.ptp(rows) < size and np.ptp(columns) < size
        at_border = rows.min() == 0 or columns.min() == 0 or rows.max() == 5 or columns.max() == 6
        assert len(rows) == size * size or at_border
        centres.add((rows.min(), rows.max(), columns.min(), columns.max()))
    # Every pixel was the middle, or just below and right of it where there is none.
    spans = [
        {(max(c - size // 2, 0), min(c - size // 2 + size, n) - 1) for c in range(n)}
        for n in (6, 7)
    ]
    assert centres == {(*rows, *columns) for rows in spans[0] for columns in spans[1]}
    assert (x == 9).all()


# --- the whole -----------------------------------------------------------------------------------

ALL = Augmentation.parse("rotate=10,scale=0.1,shear=5,elastic=1,shift=0.1,crop=1,flip,cutout=3")


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from([(3, 8, 8), (3, 1, 9, 7), (2, 4, 2, 8, 10)]),
    st.sampled_from([np.uint8, np.int16, np.float32, np.float64]),
    st.integers(0, 99),
    st.booleans(),
)
def test_shape_dtype_and_range_stay(shape, dtype, seed, by_torch):
    x = draw(seed).integers(2, 17, shape).astype(dtype)
    kept = x.copy()

    def generator():
        return torch.Generator().manual_seed(seed) if by_torch else draw(seed)

    found = ALL.apply(x, 2, 16, generator())
    assert (found.shape, found.dtype) == (x.shape, x.dtype)
    assert found.min() >= 2 - 1e-5
    assert found.max() <= 16 + 1e-5
    assert np.array_equal(x, kept)
    assert np.array_equal(found, ALL.apply(x, 2, 16, generator()))


def test_a_batch_is_drawn_after_the_other():
    generator = torch.Generator().manual_seed(0)
    first, second = (ALL.apply(IMAGES, 0, 255, generator) for _ in range(2))
    assert not np.array_equal(first, second)


def test_channels_and_steps_move_together():
    one = draw().integers(0, 255, (4, 1, 1, 12, 12)).astype(np.uint8)
    x = np.tile(one, (1, 3, 2, 1, 1))
    found = ALL.apply(x, 0, 255, draw(3))
    assert np.array_equal(found, np.tile(found[:, :1, :1], (1, 3, 2, 1, 1)))
    assert not np.array_equal(found[:, :1, :1], one)


def test_a_memory_map_is_left_alone(tmp_path):
    np.save(tmp_path / "x.npy", IMAGES)
    x = np.load(tmp_path / "x.npy", mmap_mode="r")[:2]
    for text in ("", "flip", "cutout=2", "crop=1", "rotate=5"):
        found = Augmentation.parse(text).apply(x, 0, 255, draw(2))
        assert found.flags.writeable
        assert not np.shares_memory(found, x)


class TestText:
    def test_parse(self):
        found = Augmentation.parse(" shift=0.1, rotate=10 ,flip,cutout=4,")
        assert found == Augmentation(shift=0.1, rotate=10, flip=True, cutout=4)
        assert not Augmentation.parse("")
        assert found

    @given(
        st.builds(
            Augmentation,
            rotate=st.floats(0, 180),
            scale=st.floats(0, 0.9),
            elastic=st.floats(0, 20),
            shift=st.floats(0, 0.5),
            crop=st.integers(0, 1000),
            flip=st.booleans(),
            cutout=st.integers(0, 1000),
        )
    )
    def test_a_text_says_it_all(self, augmentation):
        assert Augmentation.parse(str(augmentation)) == augmentation

    def test_is_short(self):
        assert str(Augmentation(shift=0.1, rotate=10, flip=True)) == "rotate=10,shift=0.1,flip"

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("spin=3", "augmentation 'spin' is unknown: use rotate, scale, shear, elastic, shift,"),
            ("rotate", "augmentation rotate=: expected a number"),
            ("rotate=x", "augmentation rotate=x: expected a number"),
            ("crop=1.5", "augmentation crop=1.5: expected a whole number"),
            ("flip=1", "augmentation flip takes no number"),
            ("flip,flip", "augmentation flip is there twice"),
            ("shift=0.6", "augmentation shift=0.6: use 0..0.5"),
            ("rotate=-1", "augmentation rotate=-1.0: use 0..180"),
            ("scale=nan", "augmentation scale=nan: use 0..0.9"),
            ("elastic=inf", "augmentation elastic=inf: use 0..20"),
        ],
    )
    def test_refuses(self, text, words):
        with pytest.raises(DataError, match=words) as error:
            Augmentation.parse(text)
        assert "\n" not in str(error.value)

    def test_needs_images(self):
        Augmentation.parse("flip").check((1, 8, 8))
        Augmentation().check((5,))
        with pytest.raises(DataError, match=r"own: augmentation \(flip\) needs images, found 700"):
            Augmentation.parse("flip").check((700,), "own")
        with pytest.raises(DataError, match=r"needs images \[N, \.\.\., H, W\], found \[4, 5\]"):
            Augmentation.parse("flip").apply(np.zeros((4, 5)), 0, 1, draw())


def test_the_loop_uses_this_shift():
    from trainer import loop

    assert loop.shifted is module.shifted
