"""The journal of a study in a file, and locks that end with who holds them."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import optuna
from optuna.storages.journal import BaseJournalBackend

DAMAGE = (
    *(LookupError, TypeError, ValueError, AttributeError, AssertionError),
    optuna.exceptions.OptunaError,
)
"""What replaying a journal raises that nobody could have written."""


class Journal(BaseJournalBackend):
    """Optuna's journal in a file: an object of JSON a line, appended whole.

    Optuna's own backend leaves half a line behind when its process is killed while it writes, and
    then cannot be read; and a lock, which holds up everybody for half a minute. Here the operating
    system keeps the lock, and who writes next takes away what is no whole line.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.starts = [0]  # of the lines, in bytes

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        """The objects from that line on."""
        with locked(self.path) as file:
            file.seek(self.starts[log_number_from])
            content = file.read()
        whole = content[: content.rfind(b"\n") + 1]
        for number, line in enumerate(whole.splitlines(keepends=True), log_number_from):
            if number + 1 == len(self.starts):
                self.starts.append(self.starts[-1] + len(line))
            yield json.loads(line)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Objects at the end, on the disk when this returns."""
        text = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
        with locked(self.path) as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 1))
            if file.read() not in (b"", b"\n"):
                file.seek(0)
                file.truncate(file.read().rfind(b"\n") + 1)
                file.seek(0, os.SEEK_END)
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())


@contextlib.contextmanager
def locked(path: Path) -> Iterator[IO[bytes]]:
    """The file, made if absent, for reading and writing, while nobody else has it."""
    with _open(path) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file


def try_lock(path: Path) -> IO[bytes] | None:
    """The file, locked until it is closed or the process ends; None if somebody else has it."""
    file = _open(path)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def _open(path: Path) -> IO[bytes]:
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b")
