"""Figures: what is drawn stands where its number says, in a frame that holds it."""

from __future__ import annotations

import re

import numpy as np
import pytest

from loihi import charts
from loihi.census import Histogram
from loihi.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH

TEXT = re.compile(r'<text x="([-\d.]+)" y="([-\d.]+)"([^>]*)>([^<]*)<')
LINE = re.compile(r'<line x1="([-\d.]+)" y1="([-\d.]+)" x2="([-\d.]+)" y2="([-\d.]+)"')
INSIDE = (WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM)


def texts(drawn: object) -> list[tuple[float, float, str]]:
    return [(float(x), float(y), said) for x, y, _, said in TEXT.findall(str(drawn))]


def left_of(drawn: object) -> dict[str, float]:
    """The numbers on the vertical axis, and their heights."""
    return {said: y for x, y, said in texts(drawn) if x < LEFT}


def test_the_vertical_axis_has_its_numbers() -> None:
    drawn = charts.curves("loss", [1, 2, 3], {"a": [0.0, 6.0, 10.0]})
    found = left_of(drawn)
    assert list(found) == ["0", "5", "10"]
    heights = [HEIGHT - BOTTOM - INSIDE[1] * float(n) / 10 for n in found]
    assert [y - 4 for y in found.values()] == pytest.approx(heights, abs=0.06)
    across = [(x1, y1, x2, y2) for x1, y1, x2, y2 in LINE.findall(str(drawn))]
    assert [float(y) for _, y, _, _ in across] == pytest.approx(heights, abs=0.06)
    assert all((float(a), float(b)) == (LEFT, WIDTH - RIGHT) for a, _, b, _ in across)


def test_the_horizontal_axis_has_its_numbers_within_the_figure() -> None:
    below = [(x, said) for x, y, said in texts(charts.curves("", [0, 100], {"a": [1.0, 2.0]}))
             if y == HEIGHT - 6]  # fmt: skip
    assert [int(said) for _, said in below] == [0, 50, 100]
    for x, said in below[:-1]:
        assert x == pytest.approx(LEFT + INSIDE[0] * int(said) / 100, abs=0.06)
    assert below[-1][0] == WIDTH - RIGHT - 2 + 8  # its end, not its middle


def test_an_axis_without_numbers_goes_to_one() -> None:
    assert list(left_of(charts.curves("", [1, 2], {"a": [None, None]})))[-1] == "1"
    assert list(left_of(charts.curves("", [1, 2], {"a": [3.0, 3.0]}, zero=False)))[-1] == "3"


def test_a_histogram_has_a_bar_for_each_bin_that_holds_something() -> None:
    found = Histogram(np.array([4, 0, 2]), -10, 10, 0)
    drawn = str(charts.histogram("w", found, {"threshold": 2.0, "low": -12.0}))
    (bars,) = re.findall(r'<path d="([^"]*)"', drawn)
    starts = [float(x) for x in re.findall(r"M([\d.]+)", bars)]
    tops = [float(y) for y in re.findall(r"V([\d.]+)", bars)]
    at = {n: LEFT + INSIDE[0] * (n + 12) / 32 for n in (-10, 10, 2, -12)}  # -12 .. 20
    assert starts == pytest.approx([at[-10], at[10]], abs=0.06)
    base = HEIGHT - BOTTOM
    assert (base - tops[1]) / (base - tops[0]) == pytest.approx(0.5, abs=0.01)
    assert tops[0] == pytest.approx(TOP + charts.MARKED, abs=0.06)
    named = {said: x for x, y, said in texts(drawn) if y == TOP + 9}
    assert named == pytest.approx({"threshold": at[2] + 4, "low": at[-12] + 4}, abs=0.06)
    far = charts.histogram("w", found, {"end": 19.0})
    ((x, _),) = [(x, said) for x, y, said in texts(far) if said == "end"]
    assert x == pytest.approx(LEFT + INSIDE[0] * 29 / 30 - 4, abs=0.06)


def test_bars_stand_on_the_zero() -> None:
    values = {"a": 4.0, "b": -2.0, "c": 0.0}
    drawn = str(charts.bars("", values, chosen="b"))
    sizes = re.findall(r"<rect[^>]*>", drawn)
    field = lambda rect, name: float(re.search(rf' {name}="([-\d.]+)"', rect)[1])  # noqa: E731
    heights = [field(rect, "height") for rect in sizes]
    assert heights == pytest.approx([INSIDE[1] * 4 / 6, INSIDE[1] * 2 / 6, 0.5], abs=0.06)
    zero = HEIGHT - BOTTOM - INSIDE[1] * 2 / 6
    assert field(sizes[0], "y") + heights[0] == pytest.approx(zero, abs=0.11)
    assert field(sizes[1], "y") == pytest.approx(zero, abs=0.06)
    third = INSIDE[0] / 3
    assert [field(r, "x") for r in sizes] == pytest.approx(
        [LEFT + third * (n + 0.12) for n in range(3)], abs=0.06
    )
    assert [field(r, "width") for r in sizes] == pytest.approx([third * 0.76] * 3, abs=0.06)
    assert ["--c1" in rect for rect in sizes] == [False, True, False]
    named = {said: x for x, y, said in texts(drawn) if y == HEIGHT - 6}
    assert named == pytest.approx(
        {n: LEFT + third * (i + 0.5) for i, n in enumerate("abc")}, abs=0.06
    )
    many = charts.bars("", {f"n{i}": 1.0 for i in range(41)})
    assert [said for _, y, said in texts(many) if y == HEIGHT - 6] == [
        f"n{i}" for i in range(0, 41, 3)
    ]


@pytest.mark.parametrize(("neurons", "height"), [(1, 24), (8, 24), (20, 60), (50, 150), (900, 150)])
def test_a_raster_is_as_high_as_its_neurons_need(neurons: int, height: float) -> None:
    drawn = str(charts.raster("", np.zeros((5, neurons), dtype=np.uint8)))
    (image,) = re.findall(r"<image[^>]*>", drawn)
    assert f' height="{height:g}"' in image
    ends = [said for x, _, said in texts(drawn) if x < LEFT]
    assert ends == ([f"{neurons - 1:,}", "0"] if height > 24 else [f"{neurons - 1:,}"])
    gaps = [(x1, x2) for x1, _, x2, _ in LINE.findall(drawn) if x1 == x2 and float(x1) > LEFT]
    assert [float(x) for x, _ in gaps] == pytest.approx(
        [LEFT + INSIDE[0] * n / 5 for n in range(1, 5)], abs=0.06
    )


@pytest.mark.parametrize("steps", [1, 2, 7, 16, 51, 100, 103])
def test_the_steps_of_a_raster_are_named_where_they_are(steps: int) -> None:
    drawn = charts.raster("", np.zeros((steps, 30), dtype=np.uint8))
    named = [(int(said), x) for x, _, said in texts(drawn) if x > LEFT]
    assert [n for n, _ in named] == sorted({n for n, _ in named})
    assert {1, steps} <= {n for n, _ in named}
    for n, x in named:
        assert x == pytest.approx(LEFT + INSIDE[0] * (n - 0.5) / steps, abs=0.06)
    if steps > 2:
        assert np.diff([x for _, x in named]).min() >= INSIDE[0] * 0.07 - 0.1  # room for a number
    assert len(named) >= min(steps, 4) - 1


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0.0, "0"),
        (0.00123, "0.00123"),
        (0.0005, "5.0e-04"),
        (999, "999"),
        (9999, "9999"),
        (15_000, "15k"),
        (999_000, "999k"),
        (1_200_000, "1.2M"),
        (-3_000_000_000, "-3G"),
    ],
)
def test_numbers_are_short(value: float, said: str) -> None:
    assert charts.plain(value) == said
