"""What every source ends in: samples and labels for training and for test, checked."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loihi.errors import PumiceError

Shape = tuple[int, ...]


class DataError(PumiceError):
    """Data that are not there, or are not what they should be."""


@dataclass(frozen=True)
class Dataset:
    """Samples and labels, for training and for test.

    x_train, x_test: ``[N, ...]`` in the data's own units and dtype, 8-bit integers or floats.
        Images are ``[N, C, H, W]``; event frames have time as their second axis, ``[N, T, ...]``.
        Large sets are memory maps of files: take batches of them, never all.
    y_train, y_test: int64 ``[N]``, from 0 to ``classes`` − 1.
    low, high: the range of the values, for the input encoding.
    notes: what whoever reports an accuracy on these data must say: that they are simulated, that
        the split is our own, that counts were clipped.
    """

    name: str
    x_train: NDArray[Any]
    y_train: NDArray[np.int64]
    x_test: NDArray[Any]
    y_test: NDArray[np.int64]
    low: float
    high: float
    classes: int
    notes: tuple[str, ...] = ()

    def sample_shape(self, in_time: bool = False) -> Shape:
        """The shape of what a network sees in one step: ``(features,)`` or ``(C, H, W)``.

        ``in_time``: the second axis is time (encoding ``events``). Images without a channel axis
        count as one channel.
        """
        shape = self.x_train.shape[2 if in_time else 1 :]
        if len(shape) == 2:
            shape = (1, *shape)
        if len(shape) not in (1, 3):
            kind = "data in time [N, T, features] or [N, T, C, H, W]"
            if not in_time:
                kind = "[N, features] or [N, C, H, W] (data in time need the encoding 'events')"
            raise DataError(f"{self.name}: found {list(self.x_train.shape)}, expected {kind}")
        return shape

    def split(self, name: str) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """Samples and labels of ``train`` or ``test``; see :func:`hold_out` for validation."""
        if name not in ("train", "test"):
            raise DataError(f"split {name!r} is neither 'train' nor 'test'")
        return (self.x_train, self.y_train) if name == "train" else (self.x_test, self.y_test)


def hold_out(dataset: Dataset, fraction: float, seed: int = 0) -> Dataset:
    """Training samples alone, a part of them in the place of the test set.

    For choosing settings: the test set is not in the result, so nothing can be chosen by it.
    fraction: of the training samples, more than 0 and less than 1; every class gives its share.
    seed: which ones. Memory maps stay on the disk (as temporary files that nobody else sees).
    """
    count = round(len(dataset.y_train) * fraction) if 0 < fraction < 1 else 0
    if not 0 < count < len(dataset.y_train):
        raise DataError(
            f"{dataset.name}: a part of {fraction:g} of {len(dataset.y_train)} training samples "
            "leaves nothing to train on or nothing to validate with"
        )
    held = np.zeros(len(dataset.y_train), dtype=bool)
    held[stratified(dataset.y_train, count, seed)] = True
    rest, part = np.flatnonzero(~held), np.flatnonzero(held)
    note = f"no test set: {count} training samples held out for validation, seed {seed}"
    return replace(
        dataset,
        name=f"{dataset.name} (validation)",
        x_train=_rows(dataset.x_train, rest),
        y_train=dataset.y_train[rest],
        x_test=_rows(dataset.x_train, part),
        y_test=dataset.y_train[part],
        notes=(*dataset.notes, note),
    )


def stratified(y: NDArray[np.integer[Any]], count: int, seed: int) -> NDArray[np.int64]:
    """Indices of ``count`` of the samples, ascending, every class by its share, to within one."""
    draws = np.random.Generator(np.random.PCG64(seed)).random(len(y))
    # Sorted by class, drawn at random within it; what is taken lies evenly spaced in that order.
    order = np.lexsort((draws, y))
    return np.sort(order[np.arange(count) * len(y) // max(count, 1)])


def limited(
    y: NDArray[np.integer[Any]], count: int | None, seed: int, what: str
) -> NDArray[np.int64]:
    """Indices of all samples, or of ``count`` of them; ``what`` is named in errors."""
    if count is None:
        return np.arange(len(y))
    if not 1 <= count <= len(y):
        raise DataError(f"{what} is {count}: there are {len(y)} samples, use 1..{len(y)}")
    return stratified(y, count, seed)


def _rows(x: NDArray[Any], indices: NDArray[np.int64]) -> NDArray[Any]:
    """Some rows; those of a memory map as another one, in a temporary file."""
    if not isinstance(x, np.memmap):
        return x[indices]
    with tempfile.TemporaryFile() as file:
        for at in range(0, len(indices), 256):
            file.write(np.ascontiguousarray(x[indices[at : at + 256]]).data)
        file.flush()
        return np.memmap(file, x.dtype, "r", shape=(len(indices), *x.shape[1:]))


def checked(
    source: object, part: str, x: NDArray[Any], y: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Samples and labels of one part; refuses what cannot be trained with. Booleans become 0, 1."""
    if x.dtype.kind not in "biuf":
        raise DataError(f"{source}: x_{part} must hold numbers, found dtype {x.dtype}")
    if y.dtype.kind not in "iu":
        raise DataError(f"{source}: y_{part} must hold integers, found dtype {y.dtype}")
    if x.ndim < 2 or y.ndim != 1:
        raise DataError(
            f"{source}: expected x_{part} [N, ...] and y_{part} [N], "
            f"found {list(x.shape)} and {list(y.shape)}"
        )
    if len(x) != len(y):
        raise DataError(f"{source}: {len(x)} samples in x_{part}, {len(y)} labels in y_{part}")
    if not x.size:
        raise DataError(f"{source}: x_{part} is empty, its shape is {list(x.shape)}")
    if x.dtype.kind == "f" and not np.isfinite(x).all():
        sample = int(np.argmin(np.isfinite(x).reshape(len(x), -1).all(axis=1)))
        raise DataError(
            f"{source}: x_{part} holds NaN or infinite values, first in sample {sample}"
        )
    if (first := int(y.min())) < 0:
        raise DataError(
            f"{source}: y_{part} holds label {first}, out of range: labels count from 0"
        )
    if (last := int(y.max())) >= 2**31:
        raise DataError(f"{source}: y_{part} holds label {last}: labels number the classes from 0")
    return (x.astype(np.uint8) if x.dtype.kind == "b" else x), y.astype(np.int64)


def classes_of(source: object, x_train: Any, y_train: Any, x_test: Any, y_test: Any) -> int:
    """How many classes there are, of parts that were :func:`checked`, once they fit each other."""
    if x_train.shape[1:] != x_test.shape[1:]:
        raise DataError(
            f"{source}: x_train holds samples of {list(x_train.shape[1:])}, "
            f"x_test of {list(x_test.shape[1:])}"
        )
    classes = int(y_train.max()) + 1
    if classes > len(y_train):
        raise DataError(
            f"{source}: y_train holds label {classes - 1}, out of range for {len(y_train)} "
            "samples: labels count from 0, one number a class"
        )
    if (top := int(y_test.max())) >= classes:
        raise DataError(
            f"{source}: y_test holds label {top}, out of range: y_train's are 0..{classes - 1}"
        )
    return classes
