"""What a comparison found, as one HTML page: pictures inside, nothing fetched from anywhere.

Every text is escaped where it meets the page, whatever file it comes from; every table says of its
numbers whether they were counted, measured, or are settings.
"""

from __future__ import annotations

import base64
import hashlib
import html
import importlib.metadata
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from lava_export.verify import Neighbourhood, VerifyResult
from loihi import Network, Neuron
from loihi.formats import STATE_SHIFT

PACKAGES = ("pumice", "numpy", "torch", "lava-nc", "lava-dl")
AROUND = 4
"""Steps before and after the first divergence whose numbers are shown."""
COLOURS = ("#22303c", "#d1495b", "#2e86ab", "#b07d12", "#5b8c5a")
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #22303c; max-width: 62rem; margin: 2rem auto;
       padding: 0 1rem; }
h1, h2 { line-height: 1.2; } h2 { margin-top: 2.2rem; }
table { border-collapse: collapse; margin: .6rem 0; }
caption { text-align: left; color: #5b6b7a; padding: .2rem 0; }
th, td { padding: .18rem .9rem .18rem 0; text-align: left; vertical-align: top;
         border-bottom: 1px solid #e4e9ed; font-variant-numeric: tabular-nums; }
td.n, th.n { text-align: right; } .bad { color: #b3213a; font-weight: 600; }
.good { color: #2c7a4b; font-weight: 600; } img, svg { max-width: 100%; height: auto; }
code { font-size: .9em; overflow-wrap: anywhere; }
"""


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


@dataclass(frozen=True)
class Facts:
    """What a page says beside the result.

    model: the file. data, split, samples: what was run. states: whether u and v were compared.
    command: the command line. when: the time of the comparison. seconds: how long it took.
    """

    model: Path
    data: str
    split: str
    samples: int
    states: bool
    command: str
    when: datetime
    seconds: float


def page(
    network: Network,
    result: VerifyResult,
    facts: Facts,
    pictures: Sequence[tuple[str, bytes]] = (),
) -> bytes:
    """The page in UTF-8. pictures: (caption, PNG) each."""
    title = f"{facts.model.name}: {' = '.join(result.between)}?"
    body = _h(
        "body",
        _h("h1", title),
        _verdict(result),
        _setting(network, result, facts),
        _layers(network, result),
        _first(network, result),
        _agreement(result),
        _h("h2", "What the layers do") if pictures else Html(""),
        *(
            _h("figure", _image(png, caption), _h("figcaption", caption))
            for caption, png in pictures
        ),
    )
    head = _h("head", Html('<meta charset="utf-8">'), _h("title", title), _h("style", Html(_STYLE)))
    return f'<!DOCTYPE html>\n<html lang="en">{head}{body}</html>\n'.encode()


def sha256(path: Path) -> str:
    """Of a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(2**20):
            digest.update(part)
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """Of Python and the packages that have a part in the numbers."""
    found = {"Python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


# --- the parts of the page ----------------------------------------------------------------------


def _verdict(result: VerifyResult) -> Html:
    good = not result.mismatches
    words = f"{result.mismatches:,} mismatches of {result.compared:,} numbers"
    return _h("p", _h("span", words, class_="good" if good else "bad"), " (counted)")


def _setting(network: Network, result: VerifyResult, facts: Facts) -> Html:
    compared = "spikes, u and v" if facts.states else "spikes"
    samples = f"{facts.samples:,} of {facts.data}, {facts.split}, {network.time_steps} steps each"
    read = "membranes of the last layer" if network.readout == "membrane" else "spike counts"
    rows = [
        ("file", str(facts.model)),
        ("sha256 of the file", sha256(facts.model)),
        ("compared", f"{compared} of every layer, and scores ({read})"),
        ("between", ", ".join(result.between)),
        ("samples", samples),
        ("input", f"{network.encoding.kind}, payload {network.encoding.payload}"),
        ("command", facts.command),
        ("date", facts.when.isoformat(timespec="seconds")),
        ("duration (measured)", f"{facts.seconds:.1f} s"),
        ("versions", ", ".join(f"{name} {number}" for name, number in versions().items())),
        ("machine", f"{platform.system()} {platform.machine()}"),
    ]
    return Html(_h("h2", "What was compared with what") + _table((), rows))


def _layers(network: Network, result: VerifyResult) -> Html:
    rows = []
    for index, (layer, found) in enumerate(zip(network.layers, result.layers, strict=True)):
        neuron = layer.neuron
        kind = type(neuron).__name__
        if isinstance(neuron, Neuron):
            bias = ", bias" if neuron.has_bias else ""
            kind = f"du {neuron.du}, dv {neuron.dv}, vth {neuron.vth}, {neuron.reset} reset{bias}"
        mismatches = _h(
            "span", f"{found.mismatches:,}", class_="bad" if found.mismatches else "good"
        )
        shape = "x".join(map(str, network.shapes[index]))
        rows.append((found.name, shape, kind, f"{found.compared:,}", mismatches))
    headers = ("layer", "neurons", "settings", "numbers compared", "mismatches")
    caption = "neurons and settings: of the file; numbers compared and mismatches: counted"
    return Html(_h("h2", "Network") + _table(headers, rows, caption, right=2))


def _first(network: Network, result: VerifyResult) -> Html:
    if result.first_divergence is None:
        return Html("")
    parts = [
        _h("h2", "The first divergence"),
        _h("p", str(result.first_divergence), class_="bad"),
    ]
    near = result.neighbourhood
    if near is not None and near.divergence != result.first_divergence:
        parts.append(_h("p", f"With u and v observed, they differ first here: {near.divergence}"))
    if result.causes:
        parts += [_h("h3", "Likely causes"), _h("ul", *(_h("li", str(c)) for c in result.causes))]
    if near is not None:
        parts += [_h("h3", "Its neuron over time"), _curves(network, near), _numbers(near)]
    return Html("".join(parts))


def _agreement(result: VerifyResult) -> Html:
    agreed = result.agreement
    if agreed is None:
        return Html("")
    rows: list[tuple[str | Html, ...]] = [
        (name, f"{same:,}", f"{of:,}", f"{same / of:.3%}") for name, same, of in agreed.spikes
    ]
    share = f"{agreed.decisions / agreed.samples:.3%}"
    rows.append(("answers", f"{agreed.decisions:,}", f"{agreed.samples:,}", share))
    text = (
        "The same parameters in real numbers, nothing rounded, clipped or wrapped, against "
        f"{agreed.against}. Differences are no errors: they are what the grid costs."
    )
    headers = ("spikes of layer", "the same", "of", "share")
    table = _table(headers, rows, "counted; the share is computed from the counts", right=3)
    return Html(_h("h2", "What the grid costs") + _h("p", text) + table)


def _numbers(near: Neighbourhood) -> Html:
    """u, v and spikes of each simulator around the step at which it happens."""
    step = near.divergence.step
    total = len(next(iter(near.states.values()))["v"])
    shown = range(max(1, step - AROUND), min(total, step + AROUND) + 1)
    rows: list[tuple[str | Html, ...]] = []
    for state in ("u", "v", "spikes"):
        for name, states in near.states.items():
            values = [states[state][t - 1] for t in shown]
            rows.append((f"{state}, {name}", *(_number(value) for value in values)))
    headers = ("", *(f"step {t}" + (" ←" if t == step else "") for t in shown))
    return _table(headers, rows, "u, v and spikes after each step: counted", right=len(shown))


def _number(value: Any) -> str:
    return f"{float(value):,.1f}" if isinstance(value, float) else f"{int(value):,}"


def _curves(network: Network, near: Neighbourhood) -> Html:
    """u and v of each simulator against the step, the threshold, and the spikes as ticks."""
    width, height, left, gap = 760, 150, 96, 34
    total = len(next(iter(near.states.values()))["v"])
    neuron = network.layers[network.names.index(near.divergence.layer)].neuron
    threshold = neuron.vth << STATE_SHIFT if isinstance(neuron, Neuron) and neuron.vth else None

    def x(step: float) -> float:
        return left + (width - left - 20) * (step - 0.5) / total

    shapes: list[Html] = []
    for row, state in enumerate(("u", "v")):
        top = row * (height + gap) + 20
        curves = {name: np.asarray(s[state], np.float64) for name, s in near.states.items()}
        line = [threshold] if state == "v" and threshold is not None else []
        low = min([0.0, *line, *(float(c.min()) for c in curves.values())])
        high = max([1.0, *line, *(float(c.max()) for c in curves.values())])

        def y(value: float, top: int = top, low: float = low, high: float = high) -> float:
            return top + height * (1 - (value - low) / (high - low))

        for value in (low, high):
            shapes.append(_text(4, y(value) + 4, f"{value:,.0f}"))
        shapes.append(_text(4, top + height / 2 + 4, state))
        at = x(near.divergence.step)
        shapes.append(_line(at, top, at, top + height, "#e4b7be", 6))
        for value in line:
            shapes.append(_line(left, y(value), width - 20, y(value), "#b8c4ce", 1))
            shapes.append(_text(left, y(value) - 4, f"threshold {value:,}"))
        for number, curve in enumerate(curves.values()):
            points = " ".join(f"{x(t):.1f},{y(v):.1f}" for t, v in enumerate(curve, start=1))
            colour, dash = COLOURS[number % len(COLOURS)], f"{8 - number} {number * 3}"
            shapes.append(
                _h("polyline", points=points, fill="none", stroke=colour, stroke_width="2",
                   stroke_dasharray=dash)
            )  # fmt: skip
    bottom = 2 * (height + gap) + 20
    for number, (name, states) in enumerate(near.states.items()):
        colour, at = COLOURS[number % len(COLOURS)], bottom + 18 * number
        shapes.append(_text(4, at + 10, name, colour))
        for t in np.flatnonzero(states["spikes"]).tolist():
            shapes.append(_line(x(t + 1), at, x(t + 1), at + 12, colour, 3))
    end = bottom + 18 * len(near.states) + 16
    for step in range(1, total + 1, max(1, total // 16)):
        shapes.append(_text(x(step) - 4, end, str(step)))
    box = f"0 0 {width} {end + 6}"
    name = "u, v and spikes over the steps of the sample, by simulator"
    return _h("svg", _h("title", name), *shapes, viewBox=box, width=str(width), role="img")


# --- HTML ---------------------------------------------------------------------------------------


def _h(tag: str, *children: str, **attributes: str) -> Html:
    """An element; children that are not :class:`Html`, and all attributes, are escaped."""
    inner = "".join(c if isinstance(c, Html) else html.escape(c) for c in children)
    said = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{html.escape(value)}"'
        for name, value in attributes.items()
    )
    return Html(f"<{tag}{said}>" if tag == "img" else f"<{tag}{said}>{inner}</{tag}>")


def _table(
    headers: Sequence[str],
    rows: Sequence[Sequence[str | Html]],
    caption: str = "",
    right: int = 0,
) -> Html:
    """right: so many of the last columns hold numbers."""

    def cells(tag: str, row: Sequence[str | Html]) -> Html:
        first = len(row) - right
        words, numbers = row[:first], row[first:]
        return _h("tr", *(_h(tag, c) for c in words), *(_h(tag, c, class_="n") for c in numbers))

    parts = [_h("caption", caption)] if caption else []
    parts += [_h("thead", cells("th", headers))] if headers else []
    return _h("table", *parts, _h("tbody", *(cells("td", row) for row in rows)))


def _image(png: bytes, caption: str) -> Html:
    return _h("img", src="data:image/png;base64," + base64.b64encode(png).decode(), alt=caption)


def _text(x: float, y: float, words: str, colour: str = "#5b6b7a") -> Html:
    return _h("text", words, x=f"{x:.1f}", y=f"{y:.1f}", fill=colour, font_size="12")


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, width: int) -> Html:
    places = {"x1": x1, "y1": y1, "x2": x2, "y2": y2}
    said = {name: f"{value:.1f}" for name, value in places.items()}
    return _h("line", **said, stroke=colour, stroke_width=str(width))
