"""HDF5 files that are damaged, or mean harm: looked at before a number of them is read."""

from __future__ import annotations

import h5py

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
