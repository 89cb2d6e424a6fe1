"""HDF5 files that are damaged, or mean harm: looked at before a number of them is read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py

from lava_export import supervise
from loihi import PumiceError

DEADLINE = 30.0
"""Seconds that the HDF5 library may take for a file, and one more for each MiB of it."""
PACKED = 2000
"""No more times than this can a compressed array be larger than what it takes in the file."""
UNREADABLE = (
    OSError,
    RuntimeError,
    KeyError,
    ValueError,
    TypeError,
    MemoryError,
    OverflowError,
)
"""What h5py raises for a file that is cut short or scrambled depends on where it is."""


def too_large(item: h5py.Dataset) -> bool:
    """Whether an array declares more than the file can hold, so that no memory is taken for it."""
    return bool(item.nbytes > PACKED * item.id.get_storage_size())


def try_in_child(read: Callable[..., dict[str, Any]], path: Path) -> None:
    """Another's file may be damaged such that HDF5 hangs or crashes: a child finds out.

    read: a function at a module's top, called there with the child's folder and ``path=``; what is
    merely wrong with the file it keeps to itself, the caller will find the same.
    """
    deadline = DEADLINE + path.stat().st_size / 2**20
    try:
        supervise.run(read, deadline=deadline, path=str(path.resolve()))
    except supervise.DeadlineError:
        raise PumiceError(
            f"it is damaged: HDF5 does not get through it in {deadline:.0f} s"
        ) from None
    except supervise.ChildError as error:
        raise PumiceError(f"it is damaged: HDF5 fails on it: {error}") from None
