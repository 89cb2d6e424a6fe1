"""What a comparison found, as one HTML page: pictures inside, nothing fetched from anywhere.

Every text is escaped where it meets the page, whatever file it comes from; every table says of its
numbers whether they were counted, measured, or are settings.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from lava_export.verify import Neighbourhood, VerifyResult
from loihi import Network, Neuron, charts, html
from loihi.formats import STATE_SHIFT
from loihi.html import Html
from loihi.html import h as _h

PACKAGES = ("pumice", "numpy", "torch", "lava-nc", "lava-dl")
AROUND = 4
"""Steps before and after the first divergence whose numbers are shown."""


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
    return html.document(
        title,
        _h("h1", title),
        _verdict(result),
        _setting(network, result, facts),
        _layers(network, result),
        _first(network, result),
        _agreement(result),
        _h("h2", "What the layers do") if pictures else Html(""),
        *(
            _h("figure", html.image(png, caption), _h("figcaption", caption))
            for caption, png in pictures
        ),
    )


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
    return Html(_h("h2", "What was compared with what") + html.table((), rows))


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
    return Html(_h("h2", "Network") + html.table(headers, rows, caption, right=2))


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
    table = html.table(headers, rows, "counted; the share is computed from the counts", right=3)
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
    return html.table(headers, rows, "u, v and spikes after each step: counted", right=len(shown))


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
            shapes.append(html.text(4, y(value) + 4, f"{value:,.0f}"))
        shapes.append(html.text(4, top + height / 2 + 4, state))
        at = x(near.divergence.step)
        shapes.append(html.line(at, top, at, top + height, "var(--line)", 6))
        for value in line:
            shapes.append(html.line(left, y(value), width - 20, y(value), "var(--soft)", 1))
            shapes.append(html.text(left, y(value) - 4, f"threshold {value:,}"))
        for number, curve in enumerate(curves.values()):
            points = " ".join(f"{x(t):.1f},{y(v):.1f}" for t, v in enumerate(curve, start=1))
            style = f"fill:none;stroke:{charts.colour(number)};stroke-width:2"
            dash = f"{8 - number} {number * 3}"
            shapes.append(_h("polyline", points=points, style=style, stroke_dasharray=dash))
    bottom = 2 * (height + gap) + 20
    for number, (name, states) in enumerate(near.states.items()):
        colour, at = charts.colour(number), bottom + 18 * number
        shapes.append(html.text(4, at + 10, name, colour))
        for t in np.flatnonzero(states["spikes"]).tolist():
            shapes.append(html.line(x(t + 1), at, x(t + 1), at + 12, colour, 3))
    end = bottom + 18 * len(near.states) + 16
    for step in range(1, total + 1, max(1, total // 16)):
        shapes.append(html.text(x(step) - 4, end, str(step)))
    name = "u, v and spikes over the steps of the sample, by simulator"
    return _h("div", html.svg(width, end + 6, name, *shapes), class_="scroll")
