"""Pages that need nothing but themselves: escaped HTML, one style for light and dark, figures.

Every text is escaped where it meets the page, whatever file it comes from. Styles and pictures are
inside, there are no scripts, and the page forbids its browser to fetch anything.
"""

from __future__ import annotations

import base64
import html
import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

COLOURS = 6
"""How many colours a figure has, ``var(--c0)`` and on, before they begin again."""
VOID = frozenset({"img", "meta", "br"})
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
# Colours: each reads on its ground (4.5 : 1 for words), and the series' keep their order of
# lightness, so that they can be told apart without their hues too.
STYLE = """
:root { color-scheme: light dark; --ground: #fff; --panel: #f5f7f9; --ink: #22303c; --soft: #566573;
  --line: #dfe5ea; --bad: #b3213a; --warn: #8a5a00; --good: #22703f;
  --c0: #1f5f99; --c1: #c04a2b; --c2: #2f8558; --c3: #7d51a0; --c4: #8f6a0a; --c5: #5b6b7a; }
@media (prefers-color-scheme: dark) { :root { --ground: #12181d; --panel: #1b232a; --ink: #e3e9ee;
  --soft: #9fb0be; --line: #313d47; --bad: #ff8496; --warn: #e9b44c; --good: #6fd39a;
  --c0: #7db9ee; --c1: #f5947b; --c2: #74d3a1; --c3: #c8a2e6; --c4: #dfb95a; --c5: #a9b8c6; }
  .ink { filter: invert(1); } }
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif; color: var(--ink);
  background: var(--ground); max-width: 64rem; margin: 0 auto; padding: 1.2rem 1rem 4rem;
  overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin: 2.4rem 0 .5rem; }
h3 { font-size: 1rem; margin: 1.4rem 0 .3rem; } h1, h2, h3 { line-height: 1.25; }
p { margin: .5rem 0; max-width: 46rem; }
a { color: var(--c0); } nav { display: flex; flex-wrap: wrap; gap: .1rem 1rem; }
.scroll { overflow-x: auto; max-width: 100%; }
table { border-collapse: collapse; overflow-wrap: normal; }
.table { margin: .6rem 0; } .caption { color: var(--soft); font-size: .9rem; margin: 0; }
th, td { padding: .2rem 1rem .2rem 0; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--line); font-variant-numeric: tabular-nums; }
th { font-weight: 600; } td.n, th.n { text-align: right; white-space: nowrap; }
td:first-child { min-width: 6.5rem; } .scroll { margin: .2rem 0; }
.bad { color: var(--bad); font-weight: 600; } .warn { color: var(--warn); font-weight: 600; }
.good { color: var(--good); font-weight: 600; } .soft { color: var(--soft); }
img, svg { max-width: 100%; height: auto; }
.scroll > svg { max-width: none; }
.grid svg { display: block; width: 100%; max-width: 24rem; }
img.exact { image-rendering: pixelated; }
figure { margin: .6rem 0; min-width: 0; } figcaption { color: var(--soft); font-size: .9rem; }
code, pre { font-family: ui-monospace, "DejaVu Sans Mono", Menlo, monospace; font-size: .85rem; }
pre { overflow-x: auto; background: var(--panel); padding: .8rem; border-radius: .4rem;
  overflow-wrap: normal; line-height: 1.35; }
details { margin: .5rem 0; } summary { cursor: pointer; color: var(--soft); }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 18.5rem), 1fr));
  gap: .8rem 1.4rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)); gap: .6rem;
  margin: 1rem 0; }
.tile { background: var(--panel); border-radius: .5rem; padding: .6rem .8rem; }
.tile b { display: block; font-size: 1.3rem; line-height: 1.3; font-variant-numeric: tabular-nums; }
.how { font-size: .72rem; border: 1px solid var(--line); border-radius: .6rem; padding: 0 .4rem;
  color: var(--soft); white-space: nowrap; font-weight: 400; }
.key { white-space: nowrap; margin-right: .8rem; color: var(--ink); }
.key i { display: inline-block; width: .8rem; height: .2rem; margin: 0 .3rem .2rem 0; }
svg text { font: 11px system-ui, sans-serif; fill: var(--soft); }
@media print { body { max-width: none; } details { display: block; } }
"""


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


def h(tag: str, *children: str, **attributes: str) -> Html:
    """An element; children that are not :class:`Html`, and all attributes, are escaped.

    ``class_`` is class, ``font_size`` font-size; other names stay as they are.
    """
    inner = "".join(c if isinstance(c, Html) else html.escape(c) for c in children)
    said = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{html.escape(value)}"'
        for name, value in attributes.items()
    )
    return Html(f"<{tag}{said}>" if tag in VOID else f"<{tag}{said}>{inner}</{tag}>")


def join(*parts: str) -> Html:
    """Elements one after another; what is not :class:`Html` is escaped."""
    return Html("".join(p if isinstance(p, Html) else html.escape(p) for p in parts))


def document(title: str, *body: Html) -> bytes:
    """The whole page in UTF-8."""
    head = h(
        "head",
        h("meta", charset="utf-8"),
        h("meta", http_equiv="Content-Security-Policy", content=POLICY),
        h("meta", name="viewport", content="width=device-width, initial-scale=1"),
        h("title", title),
        h("style", Html(STYLE)),
    )
    return f'<!DOCTYPE html>\n<html lang="en">{head}{h("body", *body)}</html>\n'.encode()


def table(
    headers: Sequence[str],
    rows: Sequence[Sequence[str]],
    caption: str = "",
    right: int = 0,
    first: int | None = None,
) -> Html:
    """A table that scrolls where it is too wide.

    right: so many columns hold numbers: the last ones, or those from column ``first`` on.
    """

    def cells(tag: str, row: Sequence[str]) -> Html:
        begin = len(row) - right if first is None else first
        made = (
            h(tag, cell, class_="n") if begin <= place < begin + right else h(tag, cell)
            for place, cell in enumerate(row)
        )
        return h("tr", *made)

    parts = [h("thead", cells("th", headers))] if headers else []
    made = h("table", *parts, h("tbody", *(cells("td", row) for row in rows)))
    # Beside the table and not in it, where it would be scrolled out of sight.
    said = [h("p", caption, class_="caption")] if caption else []
    return h("div", *said, h("div", made, class_="scroll"), class_="table")


def image(png_bytes: bytes, alt: str, **attributes: str) -> Html:
    """A PNG, inside the page."""
    return h("img", src=data(png_bytes), alt=alt, **attributes)


def data(png_bytes: bytes) -> str:
    """A PNG as an address that holds it."""
    return "data:image/png;base64," + base64.b64encode(png_bytes).decode()


def png(pixels: NDArray[Any]) -> bytes:
    """A picture of 8-bit pixels: ``[H, W]`` grey, ``[H, W, 2]`` grey and alpha, ``[H, W, 3]`` RGB.

    As the PNG specification (ISO/IEC 15948) has it: no filter, one chunk of data.
    """
    pixels = np.ascontiguousarray(pixels, dtype=np.uint8)
    kind = {1: 0, 2: 4, 3: 2}[1 if pixels.ndim == 2 else pixels.shape[2]]
    height, width = pixels.shape[:2]
    rows = pixels.reshape(height, -1)
    lines = np.concatenate([np.zeros((height, 1), np.uint8), rows], axis=1).tobytes()

    def chunk(name: bytes, content: bytes) -> bytes:
        check = zlib.crc32(name + content)
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(lines, 9))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body + chunk(b"IEND", b"")


# --- drawing ------------------------------------------------------------------------------------


def text(
    x: float, y: float, words: str, colour: str = "var(--soft)", anchor: str = "start"
) -> Html:
    """Words in a figure, from (x, y), the left end of their line (or its middle or end)."""
    style = f"fill:{colour}"
    return h("text", words, x=f"{x:.1f}", y=f"{y:.1f}", style=style, text_anchor=anchor)


def line(x1: float, y1: float, x2: float, y2: float, colour: str, width: float = 1) -> Html:
    """A straight line in a figure."""
    places = {"x1": x1, "y1": y1, "x2": x2, "y2": y2}
    said = {name: f"{value:.1f}" for name, value in places.items()}
    return h("line", **said, style=f"stroke:{colour};stroke-width:{width:g}")


def svg(width: float, height: float, name: str, *shapes: Html) -> Html:
    """A figure; ``name`` says what is on it to whoever does not see it."""
    return h(
        "svg",
        h("title", name),
        *shapes,
        viewBox=f"0 0 {width:g} {height:g}",
        width=f"{width:g}",
        height=f"{height:g}",
        role="img",
    )
