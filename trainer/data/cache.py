"""Arrays that took long to make, kept on the disk: binned recordings and simulated ones.

An entry is a folder under ``<data root>/cache/``: ``entry.json`` and one ``.npy`` an array, which
are opened as memory maps. Its name ends in the hash of what went in: the source files' names, sizes
and times of change, the settings, and :data:`FORMAT`. A builder works in a folder of its own and
renames it into place, so an entry is there whole or not at all; every array's CRC-32 is checked
when it is opened, and an entry that fails is built again. Entries may be removed at any time.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from loihi import files
from trainer.data.dataset import DataError, Shape
from trainer.data.packages import default_root

FORMAT = 1
"""Raised when what is built from the same sources and settings changes."""
ENTRY = "entry.json"
_CHUNK = 1 << 24


@dataclass(frozen=True)
class Entry:
    """Memory maps by name, and what the builder said about them."""

    arrays: dict[str, NDArray[Any]]
    about: dict[str, Any]


class Writer:
    """Takes a new entry's arrays, from first to last and row by row.

    Written, not mapped: a full disk is then an error that can be caught and not the process's end.
    """

    def __init__(self, place: Path) -> None:
        self._place = place
        self.arrays: dict[str, dict[str, Any]] = {}

    def add(self, name: str, shape: Shape, dtype: DTypeLike, parts: Iterable[NDArray[Any]]) -> None:
        """An array of ``shape``, given in parts ``[n, ...]``, one after another along axis 0."""
        kind = np.dtype(dtype)
        self._check_space(int(np.prod(shape, dtype=object)) * kind.itemsize)
        crc = rows = 0
        path = self._place / f"{name}.npy"
        with contextlib.ExitStack() as stack:
            with _writing(path):
                file = stack.enter_context(path.open("wb"))
                header = {"descr": kind.str, "fortran_order": False, "shape": tuple(shape)}
                np.lib.format.write_array_header_1_0(file, header)
            for part in parts:
                whole = np.ascontiguousarray(part, dtype=kind)
                if whole.shape[1:] != tuple(shape[1:]):
                    raise ValueError(f"{name}: a part of {whole.shape} for {shape}")
                crc = zlib.crc32(whole.data, crc)
                rows += len(whole)
                with _writing(path):
                    file.write(whole.data)
            if rows != shape[0]:
                raise ValueError(f"{name}: {rows} rows for {shape}")
            with _writing(path):
                file.flush()
                os.fsync(file.fileno())
        self.arrays[name] = {"shape": list(shape), "dtype": kind.str, "crc32": crc}

    def _check_space(self, needed: int) -> None:
        free = shutil.disk_usage(self._place).free
        if needed > free:
            raise DataError(
                f"{self._place.parent}: {needed / 1e9:.1f} GB are needed and {free / 1e9:.1f} GB "
                "free: take fewer steps or samples, a larger down, or set PUMICE_DATA to a folder "
                "with more room"
            )


def folder(root: Path | None = None) -> Path:
    """Where the entries are."""
    return (root or default_root()) / "cache"


def used(root: Path | None = None) -> int:
    """Bytes that all entries take."""
    place = folder(root)
    return sum(path.stat().st_size for path in place.rglob("*") if path.is_file())


def stamps(paths: Iterable[Path], base: Path) -> list[list[Any]]:
    """What tells whether files changed: name (seen from ``base``), size, time of change in ns."""
    found = []
    for path in sorted(paths):
        status = path.stat()
        name = path.relative_to(base).as_posix()
        found.append([name, status.st_size, status.st_mtime_ns])
    return found


def cached(
    root: Path | None,
    label: str,
    identity: dict[str, Any],
    build: Callable[[Writer], dict[str, Any]],
) -> Entry:
    """The entry of ``identity``, built if it is not there or damaged.

    label: begins the folder's name, for whoever looks into the cache.
    identity: JSON values: everything that decides what is built.
    build: adds the arrays and returns JSON values to keep beside them.
    Two that want the same entry: one builds and the other waits for it.
    """
    identity = json.loads(json.dumps({**identity, "format": FORMAT}))
    text = json.dumps(identity, sort_keys=True)
    label = re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-")
    name = f"{label}-{hashlib.sha256(text.encode()).hexdigest()[:20]}"
    place = folder(root) / name
    if (entry := _open(place, identity)) is not None:
        return entry
    with _writing(place.parent):
        place.parent.mkdir(parents=True, exist_ok=True)
    with _alone(place) as locked:
        if (entry := _open(place, identity)) is not None:
            return entry
        if locked:
            _sweep(place)
        _build(place, identity, build)
        entry = _open(place, identity)
    if entry is None:
        raise DataError(f"{place} does not hold what was just written to it: is the disk damaged?")
    return entry


def _build(
    place: Path, identity: dict[str, Any], build: Callable[[Writer], dict[str, Any]]
) -> None:
    with _writing(place.parent):
        workplace = Path(tempfile.mkdtemp(dir=place.parent, prefix=f".{place.name}-"))
    try:
        writer = Writer(workplace)
        about = build(writer)
        entry: dict[str, Any] = {"identity": identity, "arrays": writer.arrays, "about": about}
        entry["crc32"] = _crc_of(entry)
        with _writing(workplace / ENTRY):
            files.write(workplace / ENTRY, json.dumps(entry).encode())
            workplace.chmod(0o755)  # mkdtemp's are private
        if _open(place, identity) is None:
            # Whoever has a damaged entry open keeps it: its files lose names, not their bytes.
            shutil.rmtree(place, ignore_errors=True)
        try:
            workplace.rename(place)
        except OSError as error:
            if not place.is_dir():  # else another was first, where the lock does not hold
                raise DataError(f"{place}: cannot be written: {error.strerror}") from None
    finally:
        shutil.rmtree(workplace, ignore_errors=True)


def _open(place: Path, identity: dict[str, Any]) -> Entry | None:
    """The entry if it is there, of this identity and undamaged."""
    try:
        entry = json.loads((place / ENTRY).read_text(encoding="utf-8"))
        if entry["identity"] != identity or entry.pop("crc32") != _crc_of(entry):
            return None
        arrays = {}
        for name, expected in entry["arrays"].items():
            array = np.load(place / f"{name}.npy", mmap_mode="r", allow_pickle=False)
            if list(array.shape) != expected["shape"] or array.dtype.str != expected["dtype"]:
                return None
            if _crc(array) != expected["crc32"]:
                return None
            arrays[name] = array
        return Entry(arrays, dict(entry["about"]))
    except Exception:  # whatever damage does to the readers of JSON and of numpy
        return None


def _crc_of(entry: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(entry, sort_keys=True).encode())


def _crc(array: NDArray[Any]) -> int:
    flat = array.reshape(-1).view(np.uint8)
    crc = 0
    for at in range(0, len(flat), _CHUNK):
        crc = zlib.crc32(flat[at : at + _CHUNK].data, crc)
    return crc


@contextlib.contextmanager
def _alone(place: Path) -> Iterator[bool]:
    """One builder of an entry at a time; the lock goes with its holder, whatever that dies of.

    False where the file system has no locks: then both build, and either result is as good.
    """
    lock = place.parent / f".{place.name}.lock"
    with contextlib.ExitStack() as stack:
        with _writing(lock):
            file = stack.enter_context(lock.open("a"))
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            yield False
        else:
            yield True


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    """An error of the file system in the cache, told apart from one in what is being read."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{path}: cannot be written: {error.strerror or error}; PUMICE_DATA names another "
            "folder"
        ) from None


def _sweep(place: Path) -> None:
    """Removes what builders of this entry left that were killed."""
    for left in place.parent.glob(f".{place.name}-*"):
        shutil.rmtree(left, ignore_errors=True)
