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
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from rich.console import RenderableType
    from rich.text import Text

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
    """A line on stderr, for whoever is waiting."""
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


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on stderr, if that is a terminal; the function takes how much is done of ``total``."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
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
