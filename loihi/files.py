"""Files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from loihi.errors import PumiceError


def write(path: Path, content: bytes | memoryview) -> None:
    """``content`` into ``path`` at once: whatever happens, the old file or the new one is there.

    It is written beside its place and moved there. Raises :class:`PumiceError` where that cannot
    be done: no such folder, no permission, no space.
    """
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            mask = os.umask(0)
            os.umask(mask)
            os.chmod(temporary, 0o666 & ~mask)  # mkstemp's are private
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
    except OSError as error:
        raise PumiceError(f"{path}: cannot be written: {error.strerror or error}") from None
