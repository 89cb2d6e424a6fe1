"""How every bench prints its rows."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

Row = dict[str, Any]


def show(rows: Sequence[Row], as_json: bool, **about: Any) -> None:
    """The rows as one JSON object (``about`` beside them), or as aligned columns."""
    if as_json:
        print(json.dumps({"processors": os.cpu_count(), **about, "rows": list(rows)}))
        return
    names = list(dict.fromkeys(key for row in rows for key in row))
    cells = [names, *([str(row.get(name, "")) for name in names] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(names))]
    for line in cells:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))
