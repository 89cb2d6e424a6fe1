"""Figures for a page, drawn as SVG: curves over epochs, histograms, bars, and rasters of spikes.

Each is narrow enough for a phone, where it keeps its size; a page puts several in a row. Colours
are the page's (:mod:`loihi.html`), so that they follow its light and dark.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loihi.census import Histogram
from loihi.html import COLOURS, Html, data, h, line, png, svg, text

WIDTH, HEIGHT = 320, 180
LEFT, RIGHT, TOP, BOTTOM = 52, 10, 8, 22
MARKED = 14
"""Room above a figure for the names of its marks."""
ROWS, STEPS = 240, 400
"""Pixels of a raster at most, neurons by steps; more of them share a pixel, the largest shows."""
GAPS = 64
"""Steps up to which there is a gap between them."""

Say = Callable[[float], str]


def plain(value: float) -> str:
    """A number as short as it reads well: 1,200,000 as 1.2M."""
    size = abs(value)
    for factor, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if size >= factor:
            scale = 1e3 if unit == "k" else factor
            return f"{value / scale:.3g}{unit}"
    if size and size < 1e-3:
        return f"{value:.1e}"
    return f"{value:.4g}"


def percent(value: float) -> str:
    """A fraction in percent."""
    return f"{100 * value:.4g}%"


def si(value: float, unit: str) -> str:
    """A quantity with its prefix, from nano to tera: ``3.21 µJ``."""
    if not value:
        return f"0 {unit}"
    prefixes = {-9: "n", -6: "µ", -3: "m", 0: "", 3: "k", 6: "M", 9: "G", 12: "T"}
    power = math.floor(math.log10(abs(value)) / 3) * 3
    power = min(max(power, -9), 12)
    if abs(value) / 10.0**power >= 999.5 and power < 12:
        power += 3
    return f"{value / 10.0**power:.3g} {prefixes[power]}{unit}"


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers within low..high, 1, 2 or 5 times a power of ten apart; at most ``most``."""
    if not high > low:
        return [low]
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    for factor in (1, 2, 5, 10, 20):
        step = factor * power
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first + 1 <= most:
            return [round(n * step, 12) for n in range(first, last + 1)]
    return [low, high]


def figure(caption: Html | str, how: str, drawing: Html) -> Html:
    """A drawing with its caption above, and how its numbers were come by."""
    said = h("figcaption", caption, " ", h("span", how, class_="how"))
    return h("figure", said, drawing)


def key(names: Sequence[str]) -> Html:
    """Which colour is whose."""
    parts = (
        h("span", h("i", style=f"background:{colour(place)}"), name, class_="key")
        for place, name in enumerate(names)
    )
    return h("div", *parts)


def colour(place: int) -> str:
    """Of the series at this place."""
    return f"var(--c{place % COLOURS})"


def curves(
    name: str,
    x: Sequence[int],
    series: Mapping[str, Sequence[float | None]],
    say: Say = plain,
    zero: bool = True,
) -> Html:
    """A line for each series over x, whole numbers, with a dot where there is a number.

    zero: the axis begins at 0. None is a gap.
    """
    known = [v for values in series.values() for v in values if v is not None]
    high = max(known, default=1.0)
    low = min([0.0, *known] if zero else known, default=0.0)
    if high == low:
        low, high = (0.0, high or 1.0) if high >= 0 else (high, 0.0)
    # Up to the next line across, so that the highest point stands below a number.
    step = [b - a for a, b in pairwise(ticks(low, high))]
    if step:
        high = math.ceil(high / step[0] - 1e-9) * step[0]
    axes = _Axes((x[0], x[-1]) if x[0] < x[-1] else (x[0] - 0.5, x[0] + 0.5), (low, high))
    shapes = [*axes.left(say), *axes.below([n for n in ticks(x[0], x[-1]) if n == int(n)])]
    for place, (label, values) in enumerate(series.items()):
        shade = colour(place)
        points = [(n, v) for n, v in zip(x, values, strict=True) if v is not None]
        path, before = "", None
        for n, v in zip(x, values, strict=True):
            if v is not None:
                path += f"{'M' if before is None else 'L'}{axes.x(n):.1f} {axes.y(v):.1f}"
            before = v
        shapes.append(h("path", d=path, style=f"fill:none;stroke:{shade};stroke-width:2"))
        radius = 2.5 if len(points) <= 60 else 0.0
        for n, v in points if radius else ():
            tip = h("title", f"{label}, {n}: {say(v)}")
            place_at = {"cx": f"{axes.x(n):.1f}", "cy": f"{axes.y(v):.1f}", "r": f"{radius:g}"}
            shapes.append(h("circle", tip, **place_at, style=f"fill:{shade}"))
    return svg(WIDTH, HEIGHT, name, *shapes)


def histogram(name: str, found: Histogram, marks: Mapping[str, float] | None = None) -> Html:
    """How many numbers are in each bin; marks: places with a name, as a threshold."""
    marks = dict(marks or {})
    low = min(found.low, *marks.values()) if marks else found.low
    high = max(found.high, *marks.values()) if marks else found.high
    most = max(1, int(found.counts.max(initial=1)))
    axes = _Axes((low, max(high, low + 1)), (0, most), TOP + MARKED * bool(marks))
    whole = [value for value in ticks(low, high, 5) if value == int(value)]
    shapes = [*axes.left(plain), *axes.below(whole)]
    bars = ""
    for place, count in enumerate(found.counts.tolist()):
        if count:
            start = found.low + place * found.width
            left, right = axes.x(start), axes.x(start + found.width)
            wide = max(0.6, right - left - (0.6 if right - left > 2 else 0))
            bars += f"M{left:.1f} {axes.y(0):.1f}h{wide:.1f}V{axes.y(count):.1f}h-{wide:.1f}z"
    shapes.append(h("path", d=bars, style=f"fill:{colour(0)}"))
    for label, at in marks.items():
        place_at = axes.x(at)
        shapes.append(line(place_at, TOP + 2, place_at, HEIGHT - BOTTOM, colour(1), 1.5))
        anchor, off = ("end", -4) if place_at > WIDTH * 0.55 else ("start", 4)
        shapes.append(text(place_at + off, TOP + 9, label, colour(1), anchor))
    return svg(WIDTH, HEIGHT, name, *shapes)


def bars(name: str, values: Mapping[str, float], say: Say = plain, chosen: str = "") -> Html:
    """A bar for each name, ``chosen`` in another colour; below 0 they hang down."""
    low, high = min([0.0, *values.values()]), max([0.0, *values.values()])
    places = max(1, len(values))
    axes = _Axes((0, places), (low, high if high > low else low + 1))
    shapes = [*axes.left(say)]
    wide = (WIDTH - LEFT - RIGHT) / places
    every = math.ceil(len(values) / 20)
    for place, (label, value) in enumerate(values.items()):
        begin, top, bottom = axes.x(place), axes.y(max(value, 0)), axes.y(min(value, 0))
        size = {"x": f"{begin + wide * 0.12:.1f}", "width": f"{wide * 0.76:.1f}"}
        shade = colour(1 if label == chosen else 0)
        shapes.append(
            h("rect", h("title", f"{label}: {say(value)}"), **size, y=f"{top:.1f}",
              height=f"{max(bottom - top, 0.5):.1f}", style=f"fill:{shade}")
        )  # fmt: skip
        if place % every == 0:
            shapes.append(text(begin + wide / 2, HEIGHT - 6, label, anchor="middle"))
    shapes.append(line(LEFT, axes.y(0), WIDTH - RIGHT, axes.y(0), "var(--soft)"))
    return svg(WIDTH, HEIGHT, name, *shapes)


def raster(name: str, numbers: NDArray[Any]) -> Html:
    """Messages ``[T, neurons]``, steps from left to right, neurons from the bottom up.

    The larger a message, the darker; 0 is nothing. Where there are more than :data:`ROWS` neurons
    or :data:`STEPS` steps, several share a pixel, and the largest of them shows.
    """
    steps, neurons = numbers.shape
    size = np.abs(_shrunk(_shrunk(numbers, ROWS, 1), STEPS, 0).astype(np.float64))
    alpha = np.rint(255 * size / max(1.0, float(size.max()))).astype(np.uint8)
    pixels = np.zeros((*alpha.T.shape, 2), dtype=np.uint8)
    pixels[..., 1] = alpha.T[::-1]
    height = min(150.0, max(24.0, 3.0 * min(neurons, ROWS)))
    left, top = LEFT, 4
    wide = WIDTH - LEFT - RIGHT
    bottom = top + height
    shapes = [
        h("image", href=data(png(pixels)), x=f"{left}", y=f"{top}", width=f"{wide}",
          height=f"{height:g}", preserveAspectRatio="none", class_="ink",
          style="image-rendering:pixelated"),
        *(
            line(left + wide * n / steps, top, left + wide * n / steps, bottom, "var(--ground)", 1)
            for n in (range(1, steps) if steps <= GAPS else ())
        ),
        line(left, top, left, bottom, "var(--line)"),
        line(left, bottom, WIDTH - RIGHT, bottom, "var(--line)"),
        text(left - 5, top + 9, f"{neurons - 1:,}", anchor="end"),
        *([text(left - 5, bottom, "0", anchor="end")] if height > 24 else []),
    ]  # fmt: skip
    for step in sorted({1, steps, *(int(n) for n in ticks(1, steps) if n >= 1)}):
        near = steps * 0.07
        if step not in (1, steps) and (step - 1 < near or steps - step < near):
            continue
        shapes.append(
            text(left + wide * (step - 0.5) / steps, bottom + 14, str(step), anchor="middle")
        )
    return svg(WIDTH, bottom + 20, name, *shapes)


def _shrunk(numbers: NDArray[Any], most: int, axis: int) -> NDArray[Any]:
    """At most ``most`` along an axis: of each run of neighbours the one of largest size."""
    count = numbers.shape[axis]
    if count <= most:
        return numbers
    each = math.ceil(count / most)
    return np.maximum.reduceat(np.abs(numbers), np.arange(0, count, each), axis=axis)


class _Axes:
    """From numbers to places in the figure."""

    def __init__(self, x: tuple[float, float], y: tuple[float, float], top: float = TOP) -> None:
        self._x, self._y, self._top = x, y, top

    def x(self, value: float) -> float:
        low, high = self._x
        return LEFT + (WIDTH - LEFT - RIGHT) * (value - low) / (high - low)

    def y(self, value: float) -> float:
        low, high = self._y
        return HEIGHT - BOTTOM - (HEIGHT - self._top - BOTTOM) * (value - low) / (high - low)

    def left(self, say: Say) -> list[Html]:
        """Lines across, each with its number."""
        shapes = []
        for value in ticks(*self._y):
            at = self.y(value)
            shapes.append(line(LEFT, at, WIDTH - RIGHT, at, "var(--line)"))
            shapes.append(text(LEFT - 5, at + 4, say(value), anchor="end"))
        return shapes

    def below(self, numbers: Sequence[float]) -> list[Html]:
        """Numbers under the figure; those at its ends stay within it."""
        shapes = []
        for value in numbers:
            at = min(max(self.x(value), LEFT), WIDTH - RIGHT - 2)
            near_end = at > WIDTH - RIGHT - 14
            anchor = "end" if near_end else "middle"
            shapes.append(
                text(at + (8 if near_end else 0), HEIGHT - 6, plain(value), anchor=anchor)
            )
        return shapes
