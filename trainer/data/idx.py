"""IDX, the files of MNIST and its relatives: four to a data set, gzipped or not."""

from __future__ import annotations

import gzip
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.data.dataset import DataError, Dataset, checked, classes_of

IDX_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
# The test part is called t10k by MNIST, Fashion-MNIST and Kuzushiji-MNIST, and test by EMNIST; and
# those who unpack them by hand get `train-images.idx3-ubyte`.
_NAME = re.compile(r"(?P<set>.*?)-?(train|t10k|test)-(images[-.]idx3|labels[-.]idx1)-ubyte(\.gz)?")


def read_idx(content: bytes, source: str | Path) -> NDArray[np.uint8]:
    """The array in an IDX file of unsigned bytes; ``source`` is named in errors.

    Format: two zero bytes, the type (8: unsigned byte), the number of axes, the length of each
    axis as a big-endian 32-bit number, the data in C order.
    """
    if len(content) < 4 or content[:3] != b"\0\0\x08":
        raise DataError(f"{source} is not an IDX file of unsigned bytes")
    start = 4 + 4 * content[3]
    if len(content) < start:
        raise DataError(f"{source} is truncated: its header is incomplete")
    shape = [int(n) for n in np.frombuffer(content[4:start], dtype=">u4")]
    expected = start + int(np.prod(shape, dtype=object))
    if len(content) != expected:
        raise DataError(
            f"{source} holds {len(content)} bytes where its header promises {expected}: "
            "it is truncated or damaged"
        )
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(shape)


def read(path: Path) -> bytes:
    """A file's content, unpacked if it is gzipped."""
    content = path.read_bytes()
    if path.suffix != ".gz":
        return content
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} is not a whole gzip file: {error}") from None


def find(place: Path) -> dict[str, Path]:
    """The four files in a folder, by MNIST's names, as far as they are there.

    Where a folder holds several sets, as EMNIST's does, ``place`` is the folder and a set's
    name: ``emnist/emnist-letters`` for ``emnist/emnist-letters-train-images-idx3-ubyte.gz``.
    """
    folder, wanted = (place, None) if place.is_dir() else (place.parent, place.name)
    sets: dict[str, dict[str, Path]] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        match = _NAME.fullmatch(path.name)
        if match and path.is_file():
            part = "train" if match[2] == "train" else "t10k"
            kind = match[3].replace(".", "-")
            sets.setdefault(match["set"], {}).setdefault(f"{part}-{kind}-ubyte", path)
    if wanted is not None:
        return sets.get(wanted, {})
    if len(sets) > 1:
        names = ", ".join(str(place / name) for name in sorted(sets))
        raise DataError(f"{place} holds several data sets, name one of them: {names}")
    return next(iter(sets.values()), {})


def load(place: Path, first_label: int = 0) -> Dataset:
    """Four IDX files that are nobody's in particular: nothing is known of their contents.

    first_label: the number of the first class (1 in EMNIST's letters); it becomes 0.
    """
    found = find(place)
    if missing := [file for file in IDX_FILES if file not in found]:
        which = "holds no known data set: of four IDX files it " if not found else ""
        raise DataError(f"{place} {which}lacks {', '.join(missing)} (.gz or not)")
    arrays = {file: read_idx(read(path), path) for file, path in found.items()}
    parts: list[NDArray[Any]] = []
    for part, (images, labels) in (("train", IDX_FILES[:2]), ("test", IDX_FILES[2:])):
        x, y = arrays[images], arrays[labels].astype(np.int64) - first_label
        if x.ndim != 3 or y.ndim != 1:
            raise DataError(
                f"{place}: expected images [N, H, W] and labels [N] for {part}, "
                f"found {list(x.shape)} and {list(y.shape)}"
            )
        parts += checked(place, part, x[:, None], y)
    x_train, y_train, x_test, y_test = parts
    classes = classes_of(place, x_train, y_train, x_test, y_test)
    if first_label == 0 and int(y_train.min()) == 1:
        raise DataError(
            f"{place}: its labels are 1..{classes - 1}: name it as {place},first_label=1"
        )
    return Dataset(place.name, x_train, y_train, x_test, y_test, 0.0, 255.0, classes)
