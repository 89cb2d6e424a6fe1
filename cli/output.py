"""How a command answers: for people on stdout, or as one JSON object and nothing else there.

A command returns a :class:`Result` and :func:`cli.main.main` prints it; on the way, progress goes
to stderr.
"""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from rich.console import RenderableType
    from rich.text import Text


class Exit(IntEnum):
    """How a command ends; docs/cli.md says when."""

    ok = 0
    failed = 1
    usage = 2
    interrupted = 130


class Loudness(IntEnum):
    """How much is said on stderr."""

    quiet = 0
    normal = 1
    verbose = 2


_loudness = Loudness.normal


def set_loudness(loudness: Loudness) -> None:
    """For this command and what it calls."""
    global _loudness
    _loudness = loudness


def is_verbose() -> bool:
    """Whether all there is to say is wanted."""
    return _loudness is Loudness.verbose


def above_zero(seconds: float | None) -> float | None:
    """An option's seconds, refused where there are none; nan is no number of them."""
    if seconds is not None and not 0 < seconds < float("inf"):
        raise typer.BadParameter(f"{seconds:g} is no time to wait: use a number above 0.")
    return seconds


Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]


@dataclass
class Result:
    """What a command found: ``data`` for JSON, ``text`` for people, ``ok`` for the shell."""

    data: dict[str, Any]
    text: RenderableType | None
    ok: bool = True

    def print_json(self, stream: TextIO) -> None:
        """One object on one line."""
        print(json.dumps(self.data, default=_plain), file=stream, flush=True)

    def print_text(self, stream: TextIO) -> None:
        """As wide as the terminal, or as wide as it needs to be where there is none."""
        if self.text is None:
            return
        from rich.console import Console

        width = None if stream.isatty() else 200
        Console(file=stream, width=width, highlight=False).print(self.text)
        stream.flush()


def log(line: str) -> None:
    """A line on stderr, for whoever is waiting; not with --quiet."""
    if _loudness is not Loudness.quiet:
        complain(line)


def detail(line: str) -> None:
    """A line on stderr with --verbose alone."""
    if is_verbose():
        complain(line)


def complain(line: str) -> None:
    """A line on stderr in any case: what went wrong."""
    print(line, file=sys.stderr, flush=True)


def table(rows: Sequence[Sequence[str | Text]], headers: Sequence[str] = ()) -> RenderableType:
    """Columns, without lines around them; a string is taken literally."""
    from rich.table import Table
    from rich.text import Text

    made = Table(*headers, box=None, show_header=bool(headers), pad_edge=False)
    for row in rows:
        made.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in row))
    return made


def coloured(text: str, colour: str) -> Text:
    """A cell in colour, where the terminal has any."""
    from rich.text import Text

    return Text(text, colour)


def headed(heading: str, part: RenderableType) -> RenderableType:
    """A part under a line that says what it is."""
    from rich.console import Group
    from rich.text import Text

    return Group(Text(heading), part)


def stacked(parts: Sequence[RenderableType]) -> RenderableType:
    """One below the other, an empty line between."""
    from rich.console import Group

    return Group(parts[0], *(part for given in parts[1:] for part in ("", given)))


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on stderr, if that is a terminal; the function takes how much is done of ``total``."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    silent = not console.is_terminal or _loudness is Loudness.quiet
    with Progress(*columns, console=console, transient=True, disable=silent) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.update(task, completed=done)


def save_array(path: Path, array: NDArray[Any]) -> None:
    """An ``.npy`` file, whole or not at all."""
    import numpy as np

    from loihi import files

    content = io.BytesIO()
    np.save(content, array, allow_pickle=False)
    files.write(path, content.getvalue())


@contextmanager
def reserved_stdout() -> Iterator[TextIO]:
    """The real stdout; whatever a library or a child process writes there goes to stderr."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with os.fdopen(os.dup(kept), "w", encoding="utf-8") as stream, redirect_stdout(sys.stderr):
            yield stream
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


def _plain(value: Any) -> Any:
    """numpy's numbers and arrays, and paths, as JSON has them."""
    return value.tolist() if hasattr(value, "tolist") else str(value)
