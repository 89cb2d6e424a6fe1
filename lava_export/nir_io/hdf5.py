"""NIR's HDF5 files read with care: nothing is followed out of the file, and nothing is allocated
that the file does not hold.

The layout is that of nir 1.0.8 (``nir.serialization``): ``version``, and ``node``, a group with the
fields of a node as datasets, ``type`` among them; a graph has ``nodes``, a group of such groups,
and ``edges``, pairs of names. ``metadata`` are groups of whatever there is.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from lava_export import damage
from lava_export.damage import UNREADABLE, too_large
from loihi.errors import PumiceError

LARGEST = 2**30
"""Bytes of all arrays of a file together, numbers counted as 8: so many they will take."""
ITEMS, DEPTH = 100_000, 16
"""Groups, arrays and strings in a file, and groups in each other."""


class NirError(PumiceError):
    """A file or graph of NIR that is none, or that has no counterpart on the chip."""


def load(path: Path) -> dict[str, Any]:
    """The node that the file holds, as nested dictionaries of arrays, numbers and strings.

    Raises :class:`NirError` with the path.
    """
    try:
        with path.open("rb") as raw:
            start = raw.read(1)
    except OSError as error:
        raise NirError(f"{path}: cannot be read: {error.strerror or error}") from None
    try:
        if not start:
            raise NirError("the file is empty")
        if not h5py.is_hdf5(path):
            raise NirError("not a NIR file: it is not HDF5")
        damage.try_in_child(_in_child, path)
        return _open(path)
    except PumiceError as error:
        raise NirError(f"{path}: {error}") from None
    except UNREADABLE as error:
        words = " ".join(str(error).split())
        raise NirError(f"{path}: cannot be read, it is damaged: {words}") from None


def _open(path: Path) -> dict[str, Any]:
    with h5py.File(path, "r") as file:
        return _load(file, path.stat().st_size)


def _in_child(folder: Path, *, path: str) -> dict[str, Any]:
    with suppress(PumiceError, *UNREADABLE):
        _open(Path(path))
    return {}


def loads(image: io.BytesIO) -> dict[str, Any]:
    """The node in the content of a file."""
    with h5py.File(image, "r") as file:
        return _load(file, len(image.getbuffer()))


def _load(file: h5py.File, size: int) -> dict[str, Any]:
    node = _Reader(size).child(file, "node", "node", 0)
    if not isinstance(node, dict):
        raise NirError("not a NIR file: node is no group")
    return node


def is_nir(path: Path) -> bool:
    """Whether it is an HDF5 file with a node in it, as nir writes them."""
    try:
        if not h5py.is_hdf5(path):
            return False
        with h5py.File(path, "r") as file:
            return file.get("node", getclass=True) is h5py.Group
    except UNREADABLE:
        return False


class _Reader:
    def __init__(self, size: int) -> None:
        self.items, self.bytes, self.size = 0, 0, size

    def child(self, group: h5py.Group, key: str, place: str, depth: int) -> Any:
        """The group or array of that name: what it holds."""
        link = group.get(key, getlink=True)
        if link is None:
            raise NirError(f"not a NIR file: {place} is missing")
        if not isinstance(link, h5py.HardLink):
            raise NirError(f"{place} is a link to somewhere else")
        self.items += 1
        if self.items > ITEMS or depth > DEPTH:
            raise NirError(f"{place}: more than {ITEMS} items, or {DEPTH} groups in each other")
        item = group[key]
        if isinstance(item, h5py.Dataset):
            return self.array(item, place)
        if not isinstance(item, h5py.Group):
            raise NirError(f"{place} is neither a group nor an array")
        return {k: self.child(item, k, f"{place}/{k}", depth + 1) for k in item}

    def array(self, item: h5py.Dataset, place: str) -> Any:
        """An array; a single number or string as such."""
        if item.external or item.is_virtual:
            raise NirError(f"{place} is stored in another file")
        if item.dtype.kind not in "biufSO":
            raise NirError(f"{place} is an array of {item.dtype}")
        if item.dtype.kind == "O" and h5py.check_string_dtype(item.dtype) is None:
            raise NirError(f"{place} is an array of neither numbers nor strings")
        if item.shape is None:
            raise NirError(f"{place} is empty")
        if too_large(item):
            raise NirError(f"{place} is damaged: the file holds less than {list(item.shape)}")
        self._count(8 * item.size, place)
        if item.dtype.kind in "OS":
            return self.strings(item, place)
        return item[()]

    def strings(self, item: h5py.Dataset, place: str) -> Any:
        """A string, or an array of strings ``[n, ...]``."""
        self.items += item.size
        if self.items > ITEMS:
            raise NirError(f"{place}: more than {ITEMS} items")
        if not item.shape:
            return _text(item[()])
        # Many elements can share one long string in the file: as many are read at once as would be
        # no harm if each were as long as the file.
        rows = len(item)
        at_once = max(1, 2**28 // (self.size * max(1, item.size // max(1, rows))))
        found: list[Any] = []
        for start in range(0, rows, at_once):
            part = [_text(v) for v in item[start : start + at_once].reshape(-1).tolist()]
            self._count(sum(map(len, part)), place)
            found += part
        return np.array(found, dtype=object).reshape(item.shape)

    def _count(self, size: int, place: str) -> None:
        self.bytes += size
        if self.bytes > LARGEST:
            raise NirError(f"{place}: more than {LARGEST >> 20} MB in the file")


def _text(value: Any) -> str:
    return value.decode("utf-8", errors="replace") if isinstance(value, bytes) else str(value)


def mapping(value: Any) -> Mapping[str, Any]:
    """A dictionary as it is, an empty one in place of anything else."""
    return value if isinstance(value, Mapping) else {}


def pairs(edges: Any) -> list[tuple[str, str]]:
    """A graph's edges, from node to node."""
    try:
        return [(str(a), str(b)) for a, b in ([] if edges is None else edges)]
    except (TypeError, ValueError):
        raise NirError("edges are not pairs of names") from None


def bounded(name: str, count: int) -> None:
    """A :class:`NirError` before more numbers are made than any network has."""
    if count > LARGEST // 8:
        raise NirError(f"{name}: {count} numbers are too many")
