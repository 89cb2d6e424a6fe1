"""How every bench prints its rows."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

Row = dict[str, Any]


def show(
    rows: Sequence[Row],
    as_json: bool,
    targets: Sequence[Row] = (),
    absent: Mapping[str, str] | None = None,
    **about: Any,
) -> None:
    """The rows as one JSON object (``about`` beside them), or as aligned columns.

    targets: rows of what was aimed at, printed below. absent: who did not take part, and why.
    """
    absent = absent or {}
    if as_json:
        told = {"processors": os.cpu_count(), **about, "rows": list(rows)}
        told |= {"targets": list(targets)} if targets else {}
        told |= {"absent": absent} if absent else {}
        print(json.dumps(told))
        return
    _columns(rows)
    if targets:
        print()
        _columns(targets)
    for name, why in absent.items():
        print(f"\n{name}: absent. {why}")


def _columns(rows: Sequence[Row]) -> None:
    names = list(dict.fromkeys(key for row in rows for key in row))
    cells = [names, *([str(row.get(name, "")) for name in names] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(names))]
    for line in cells:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))
