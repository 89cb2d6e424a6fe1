"""``pumice doctor``: what this machine has, and what to do about what is missing."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from cli.output import Json, Result, coloured, table

if TYPE_CHECKING:
    from rich.text import Text

    from loihi.environment import Finding

EXAMPLE = "pumice doctor"


def run(_json: Json = False) -> Result:
    """Say what is there: Python, torch, Lava and how it is made to import, GPU, Loihi.

    Fails only where something is missing that everything needs.
    """
    from loihi import environment

    findings = environment.findings()
    rows = [
        (
            _mark(found),
            found.name,
            found.found,
            found.advice,
        )
        for found in findings
    ]
    ok = all(found.ok for found in findings if found.required)
    data = {"ok": ok, "findings": [asdict(found) for found in findings]}
    return Result(data, table(rows), ok)


def _mark(found: Finding) -> Text:
    if found.ok:
        return coloured("yes", "green")
    return coloured("no", "red") if found.required else coloured("-", "yellow")
