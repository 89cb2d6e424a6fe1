"""A user's own data: an ``.npz`` of plain arrays, read and written."""

from __future__ import annotations

import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loihi import files
from loihi.errors import PumiceError
from trainer.data.dataset import DataError, Dataset, checked, classes_of

KEYS = ("x_train", "y_train", "x_test", "y_test")
# RuntimeError is zipfile's for what it cannot do, the two after it numpy's for damaged headers.
_UNREADABLE = (
    ValueError,
    OSError,
    EOFError,
    zipfile.BadZipFile,
    zlib.error,
    RuntimeError,
    tokenize.TokenError,
    SyntaxError,
)
ABOUT = "about"
"""A text beside the arrays: the notes of the data set, a line each."""


def load(path: Path) -> Dataset:
    """The four arrays ``x_train, y_train, x_test, y_test``, and the notes if it has any."""
    try:
        file = np.load(path, allow_pickle=False)
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise DataError(f"{path} holds a single array, not the four of an .npz file")
        with file:
            if missing := [key for key in KEYS if key not in file.files]:
                raise DataError(
                    f"{path} lacks {', '.join(missing)}: it must hold {', '.join(KEYS)}"
                )
            x_train, y_train, x_test, y_test = (file[key] for key in KEYS)
            about = file[ABOUT] if ABOUT in file.files else np.array("")
    except FileNotFoundError:
        raise DataError(f"{path} does not exist") from None
    except _UNREADABLE as error:
        # numpy takes what it does not know for a pickle, and says how to load one.
        pickled = "allow_pickle" in str(error)
        reason = "it is none, or holds objects" if pickled else " ".join(str(error).split())
        raise DataError(f"{path} is not a readable .npz of plain arrays: {reason}") from None
    x_train, y_train = checked(path, "train", x_train, y_train)
    x_test, y_test = checked(path, "test", x_test, y_test)
    classes = classes_of(path, x_train, y_train, x_test, y_test)
    low, high = _range(path, x_train)
    text = str(about) if about.dtype.kind == "U" and not about.ndim else ""
    notes = tuple(" ".join(line.split()) for line in text.splitlines() if line.strip())
    return Dataset(path.stem, x_train, y_train, x_test, y_test, low, high, classes, notes)


def save(path: Path, dataset: Dataset) -> None:
    """Writes an ``.npz`` that :func:`load` reads, compressed, whole or not at all.

    Batch after batch, so that a memory map may be larger than the memory.
    Raises :class:`DataError` where it cannot be written: no such folder, no permission, no space.
    """
    check_target(path)
    arrays: dict[str, NDArray[Any]] = {key: getattr(dataset, key) for key in KEYS}
    arrays[ABOUT] = np.array("\n".join(dataset.notes))
    try:
        with files.writing(path) as file, zipfile.ZipFile(file, "w") as archive:
            for key, array in arrays.items():
                info = zipfile.ZipInfo(f"{key}.npy")  # dated 1980: same data, same bytes
                info.compress_type = zipfile.ZIP_DEFLATED
                with archive.open(info, "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, array, allow_pickle=False)
    except PumiceError as error:
        raise DataError(str(error)) from None


def check_target(path: Path) -> None:
    """Raises :class:`DataError` if :func:`save` could not write there: before the work is done."""
    if path.suffix != ".npz":
        raise DataError(f"{path}: name it with the suffix .npz")
    if not path.parent.is_dir():
        raise DataError(f"{path.parent} is no folder: make it first")
    if path.is_dir():
        raise DataError(f"{path} is a folder")


def _range(path: Path, x: NDArray[Any]) -> tuple[float, float]:
    """Of 8-bit data 0..255, of everything else what the training samples show."""
    if x.dtype == np.uint8:
        return 0.0, 255.0
    low, high = float(x.min()), float(x.max())
    if low == high:
        raise DataError(f"{path}: every value in x_train is {low:g}: there is nothing to learn")
    return low, high
