"""``pumice demo``."""

from __future__ import annotations

from cli.output import Json, Result

EXAMPLE = "pumice demo"


def run(_json: Json = False) -> Result:
    """The whole way."""
    raise NotImplementedError
