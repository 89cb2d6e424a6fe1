"""CIFAR-10 and CIFAR-100 in their published binary layout, unpacked or in the archive.

A record is the label (CIFAR-100: the coarse one of 20, then the fine one of 100) and 3072 bytes,
the red, the green and the blue 32x32 plane. Source: Krizhevsky, Learning multiple layers of
features from tiny images, 2009, and the data sets' own page.
"""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from trainer.data.dataset import DataError, Dataset
from trainer.data.packages import folder

PIXELS = 3 * 32 * 32
Labels = Literal["fine", "coarse"]


@dataclass(frozen=True)
class Layout:
    """How a data set is published. ``labels``: how many classes each label byte counts."""

    title: str
    inside: str
    """The folder in the archive."""
    archive: str
    train: dict[str, int]
    """Records by file."""
    test: dict[str, int]
    labels: dict[str, int]

    @property
    def record(self) -> int:
        """Bytes of an image with its labels."""
        return len(self.labels) + PIXELS


LAYOUTS = {
    "cifar10": Layout(
        "CIFAR-10",
        "cifar-10-batches-bin",
        "cifar-10-binary.tar.gz",
        {f"data_batch_{k}.bin": 10_000 for k in range(1, 6)},
        {"test_batch.bin": 10_000},
        {"fine": 10},
    ),
    "cifar100": Layout(
        "CIFAR-100",
        "cifar-100-binary",
        "cifar-100-binary.tar.gz",
        {"train.bin": 50_000},
        {"test.bin": 10_000},
        {"coarse": 20, "fine": 100},
    ),
}


def find(name: str, root: Path | None = None) -> Path | None:
    """Where the data folder has it: the folder of its files, or the archive as published."""
    layout, place = LAYOUTS[name], folder(name, root)
    for path in (place, place / layout.inside):
        if (path / next(iter(layout.test))).is_file():
            return path
    archive = place / layout.archive
    return archive if archive.is_file() else None


def recognised(path: Path) -> str | None:
    """Which of the two a folder holds, or an archive by its name; None: neither."""
    for name, layout in LAYOUTS.items():
        if path.name == layout.archive or (path / next(iter(layout.train))).is_file():
            return name
    return None


def load(
    name: str, root: Path | None = None, path: Path | None = None, labels: Labels = "fine"
) -> Dataset:
    """Images ``[N, 3, 32, 32]`` uint8.

    path: the folder or the ``.tar.gz``; that of the data folder unless given.
    labels: of CIFAR-100: ``fine`` (100 classes) or ``coarse`` (20).
    Raises :class:`DataError`: files that are absent, are not as long as the published ones, or
    hold labels beyond the last class.
    """
    layout = LAYOUTS[name]
    if labels not in layout.labels:
        raise DataError(f"{layout.title} has no {labels} labels")
    path = path or find(name, root)
    if path is None:
        raise DataError(
            f"{layout.title} is not here: put {layout.archive} (the binary version), or its "
            f"{', '.join([*layout.train, *layout.test])}, into {folder(name, root)}"
        )
    with _files(path, layout) as read:
        x_train, y_train = _part(layout, layout.train, labels, read)
        x_test, y_test = _part(layout, layout.test, labels, read)
    title = name if labels == "fine" else f"{name} ({labels})"
    return Dataset(title, x_train, y_train, x_test, y_test, 0.0, 255.0, layout.labels[labels])


class _Reader:
    """The files of a folder or an archive by name, each of the length that it must have."""

    def __init__(self, place: Path, layout: Layout, tar: tarfile.TarFile | None) -> None:
        self.place, self.layout, self.tar = place, layout, tar

    def __call__(self, file: str, expected: int) -> bytes:
        source = f"{self.place}: {file}" if self.tar else str(self.place / file)
        try:
            if self.tar is None:
                path = self.place / file
                size, stream = path.stat().st_size, path.open("rb")
            else:
                member = self.tar.getmember(f"{self.layout.inside}/{file}")
                found = self.tar.extractfile(member)
                if found is None:
                    raise DataError(f"{source} is not a file")
                size, stream = member.size, found  # type: ignore[assignment]
            with stream:
                if size != expected:
                    raise DataError(
                        f"{source} holds {size} bytes, {self.layout.title}'s has {expected} "
                        f"({expected // self.layout.record} records of {self.layout.record}): it "
                        "is truncated, or not the binary version"
                    )
                return stream.read(expected)
        except (FileNotFoundError, KeyError):
            raise DataError(
                f"{self.place} lacks {file} of {self.layout.title}'s binary version"
            ) from None


@contextmanager
def _files(path: Path, layout: Layout) -> Iterator[_Reader]:
    if not path.exists():
        raise DataError(f"{path} does not exist")
    if path.is_dir():
        yield _Reader(path, layout, None)
        return
    try:
        with tarfile.open(path) as tar:
            yield _Reader(path, layout, tar)
            while tar.fileobj and tar.fileobj.read(2**20):
                pass  # gzip's checksum comes last
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path} is not a whole archive of {layout.title}: {reason}") from None


def _part(
    layout: Layout, files: dict[str, int], labels: Labels, read: _Reader
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    x = np.empty((sum(files.values()), 3, 32, 32), dtype=np.uint8)
    y = np.empty(len(x), dtype=np.int64)
    at = 0
    for file, records in files.items():
        content = np.frombuffer(read(file, records * layout.record), dtype=np.uint8)
        if len(content) != records * layout.record:
            raise DataError(f"{read.place}: {file} ends before its time")
        content = content.reshape(records, layout.record)
        for column, (kind, classes) in enumerate(layout.labels.items()):
            bad = np.flatnonzero(content[:, column] >= classes)
            if bad.size:
                raise DataError(
                    f"{read.place}: {file} holds {kind} label {content[bad[0], column]} in record "
                    f"{bad[0]}, {layout.title}'s are 0..{classes - 1}: it is damaged, or not the "
                    "binary version"
                )
            if kind == labels:
                y[at : at + records] = content[:, column]
        x[at : at + records] = content[:, len(layout.labels) :].reshape(records, 3, 32, 32)
        at += records
    return x, y
