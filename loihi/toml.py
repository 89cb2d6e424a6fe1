"""TOML of users' files and command lines: whatever is wrong with it is one line."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from loihi.errors import PumiceError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

LARGEST = 2**20
"""Bytes that a file may have."""
DEPTH = 64
"""Tables and arrays in each other, and names that dots join."""
DIGITS = 100
"""Of a whole number: a float and an error's line hold it, and its range is the caller's to say."""
# The parser's time grows with the square of the names in a key: they are counted before it runs.
_LONG_KEY = re.compile(rf"(?<![\w\"'-])(?:[\w\"'-]+[ \t]*\.[ \t]*){{{DEPTH}}}")
_WIDE = f"a whole number of more than {DIGITS} digits"
_DEEP = f"more than {DEPTH} tables or arrays in each other"


class TomlError(PumiceError):
    """A text or file that is no TOML, or that holds more than any of ours."""


def loads(text: str) -> dict[str, Any]:
    """The table of a text. Whole numbers have at most :data:`DIGITS` digits; tables and arrays are
    at most :data:`DEPTH` in each other: an error can show them.

    Raises :class:`TomlError`: the reason alone, of what the caller knows.
    """
    if _LONG_KEY.search(text):
        raise TomlError(f"a key of more than {DEPTH} names")
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise TomlError(" ".join(str(error).split())) from None
    except RecursionError:
        raise TomlError(_DEEP) from None
    except ValueError:  # Python's own, of thousands of digits
        raise TomlError(_WIDE) from None
    _check(found)
    return found


def text(path: Path, raises: type[PumiceError] = TomlError, what: str = "such a file") -> str:
    """The text of a file. ``raises`` names it: not there, not UTF-8, more than :data:`LARGEST`
    bytes, where ``what`` it is says why that is wrong."""
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
    except OSError as error:
        raise raises(f"{path}: {error.strerror or error}") from None
    if len(content) > LARGEST:
        raise raises(f"{path}: over {LARGEST} bytes, {what} has a few lines")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise raises(f"{path}: not a TOML file: no UTF-8 text at byte {error.start}") from None


def read(
    path: Path, raises: type[PumiceError] = TomlError, what: str = "such a file"
) -> dict[str, Any]:
    """The table of a file; ``raises`` names it, as of :func:`text`, or says why it is no TOML."""
    content = text(path, raises, what)
    try:
        return loads(content)
    except TomlError as error:
        raise raises(f"{path}: not a TOML file: {error}") from None


def _check(found: dict[str, Any]) -> None:
    level: list[Any] = [found]
    for _ in range(DEPTH):
        values = [v for i in level for v in (i.values() if isinstance(i, dict) else i)]
        if any(isinstance(v, int) and abs(v) >= 10**DIGITS for v in values):
            raise TomlError(_WIDE)
        level = [v for v in values if isinstance(v, dict | list)]
    if level:
        raise TomlError(_DEEP)
