"""Files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from loihi.errors import PumiceError


def write(path: Path, content: bytes | memoryview) -> None:
    """``content`` into ``path`` at once: whatever happens, the old file or the new one is there.

    Raises :class:`PumiceError` where that cannot be done: no such folder, no permission, no space.
    """
    with writing(path) as file:
        file.write(content)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[IO[bytes]]:
    """A file to write to, that becomes ``path`` at the end: for what comes piece by piece.

    It lies beside its place and is moved there. Errors as of :func:`write`.
    """
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
        try:
            with os.fdopen(handle, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o666 & ~umask())  # mkstemp's are private
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
    except OSError as error:
        raise PumiceError(f"{path}: cannot be written: {error.strerror or error}") from None


def check_writable(path: Path) -> None:
    """Raises :class:`PumiceError` where :func:`write` could not: to know it before long work."""
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise PumiceError(f"{path}: cannot be written: {error.strerror or error}") from None


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """A folder to oneself, among those who ask; the lock goes with the process, however it ends.

    Raises :class:`PumiceError` where another process has it.
    """
    import fcntl  # not on Windows, where nobody trains with pumice, but loihi.files is read

    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PumiceError(
                f"{folder}: another command is at work in it: wait for it, or name another folder"
            ) from None
        except OSError:  # a file system without locks
            pass
        yield
    finally:
        os.close(handle)


def umask() -> int:
    """The permissions that files of this process are made without."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
