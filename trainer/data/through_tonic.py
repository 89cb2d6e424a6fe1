"""Event sets through tonic, where it is installed: from local files only, never downloaded.

tonic (GPL-3) is optional (``pip install "pumice[events]"``) and imported only when asked for.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.data.dataset import DataError, stratified
from trainer.data.events import Binning, Counts, Events
from trainer.data.recordings import SHD_CHANNELS, Part, Recordings

SPLIT_SEED = 0


@dataclass(frozen=True)
class Layout:
    """What tonic expects below its root folder, and what comes out."""

    folder: str
    needs: tuple[str, ...]
    """One of these patterns a split; a set without published split has a single one."""
    size: tuple[int, int]
    classes: int
    start: int | None
    """Where the first window begins; None: at the first event."""
    step: int
    """Microseconds in a unit of its times, at least: no window may be shorter."""
    what: str
    """What to put there, for whoever has not."""


LAYOUTS = {
    "NMNIST": Layout(
        "NMNIST",
        ("Train/[0-9]/*.bin", "Test/[0-9]/*.bin"),
        (34, 34),
        10,
        0,
        1,
        "N-MNIST's folders Train/0..9 and Test/0..9 of .bin files",
    ),
    "DVSGesture": Layout(
        "DVSGesture",
        ("ibmGestureTrain/*/*.npy", "ibmGestureTest/*/*.npy"),
        (128, 128),
        11,
        None,
        1000,
        "ibmGestureTrain and ibmGestureTest, folders userNN_LIGHTING of 0..10.npy (tonic's own "
        "version, in milliseconds; for IBM's files use dvs-gesture)",
    ),
    "CIFAR10DVS": Layout(
        "CIFAR10DVS",
        ("*/*.aedat4",),
        (128, 128),
        10,
        None,
        1,
        "a folder a class, airplane .. truck, of .aedat4 files",
    ),
    "SHD": Layout(
        "SHD",
        ("shd_train.h5", "shd_test.h5"),
        (1, SHD_CHANNELS),
        20,
        0,
        1,
        "shd_train.h5 and shd_test.h5, unpacked",
    ),
}
CIFAR10_CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)


def installed() -> bool:
    """Whether tonic is there; does not import it."""
    return importlib.util.find_spec("tonic") is not None


def here(name: str, root: Path) -> bool:
    """Whether the files that tonic reads are below ``root``."""
    layout = LAYOUTS[name]
    return all(any((root / layout.folder).glob(pattern)) for pattern in layout.needs)


def recordings(name: str, root: Path, binning: Binning) -> Recordings:
    """A set by tonic's name for it, from ``<root>/<name>/``.

    CIFAR10-DVS has no published split: a tenth of it, drawn with a fixed seed, every class by its
    share, is the test set, and the notes say so.
    Raises :class:`DataError`: no tonic, or files that are not there, with what to put where.
    """
    layout = LAYOUTS[name]
    place = root / layout.folder
    if not here(name, root):
        raise DataError(
            f"tonic's {name} is not here, and is not downloaded: put {layout.what} into {place}"
        )
    if binning.by == "time" and binning.window < layout.step:
        raise DataError(f"tonic's {name} has times in steps of {layout.step} µs: a longer window")
    sources = [path for pattern in layout.needs for path in place.glob(pattern)]
    notes: tuple[str, ...] = ()
    if len(layout.needs) == 2:
        opened = [_Opened(name, root, train=split) for split in (True, False)]
        parts = [Part(each.labels, functools.partial(each.counts, binning)) for each in opened]
    else:
        if unknown := sorted({path.parent.name for path in sources} - set(CIFAR10_CLASSES)):
            raise DataError(f"{place / unknown[0]} is no class of CIFAR10-DVS: {layout.what}")
        whole = _Opened(name, root)
        held = np.zeros(len(whole.labels), dtype=bool)
        held[stratified(whole.labels, round(len(held) / 10), SPLIT_SEED)] = True
        if held.all() or not held.any():
            raise DataError(f"{place} holds {len(held)} recordings: too few to split 9 to 1")
        parts = []
        for rows in (np.flatnonzero(~held), np.flatnonzero(held)):
            counts = functools.partial(whole.counts, binning, rows=rows)
            parts.append(Part(whole.labels[rows], counts))
        notes = (
            f"no published split: {held.sum()} of {len(held)} recordings, a tenth of every class, "
            f"drawn with seed {SPLIT_SEED}, are the test set",
        )
    shape = binning.frame_shape(layout.size)
    if name == "SHD":
        shape = shape[2:]
    return Recordings(
        f"tonic:{name}", parts[0], parts[1], shape, layout.classes, place, sources, notes
    )


class _Opened:
    """tonic's data set, or a split of it, in an order that does not depend on the file system."""

    def __init__(self, name: str, root: Path, **options: Any) -> None:
        self.name, self.layout, self.place = name, LAYOUTS[name], root / LAYOUTS[name].folder
        try:
            tonic = importlib.import_module("tonic.datasets")
        except ImportError as error:
            raise DataError(
                f'tonic cannot be imported ({error}): pip install "pumice[events]"'
            ) from None
        try:
            self.whole = _local(getattr(tonic, name))(save_to=str(root), **options)
            paths = [str(path) for path in self.whole.data]
            labels = self._shd_labels() if name == "SHD" else np.array(self.whole.targets)
        except DataError:
            raise
        except Exception as error:  # whatever the files may do to tonic
            raise self._unreadable(error) from None
        labels = labels.astype(np.int64)
        self.order = np.argsort(np.array(paths)) if paths else np.arange(len(labels))
        self.labels = labels[self.order]
        bad = np.flatnonzero((self.labels < 0) | (self.labels >= self.layout.classes))
        if bad.size:
            raise DataError(
                f"tonic's {name}: label {self.labels[bad[0]]} of recording {bad[0]} is not "
                f"0..{self.layout.classes - 1}"
            )

    def counts(self, binning: Binning, index: int, rows: NDArray[np.int64] | None = None) -> Counts:
        """Of recording ``index``, or of ``rows[index]``."""
        number = index if rows is None else int(rows[index])
        which = f"recording {number}"
        try:
            found = self.whole[int(self.order[number])][0]
            if self.name == "SHD":
                channels = self.layout.size[1]
                return binning.channel_counts(found["t"], found["x"], channels, self.layout.start)
            return binning.counts(Events.of(found), self.layout.size, self.layout.start)
        except DataError as error:
            raise DataError(f"tonic's {self.name}: {which} in {self.place}: {error}") from None
        except ImportError as error:
            raise DataError(f"tonic's {self.name} needs more: {error}; pip install it") from None
        except Exception as error:  # whatever the file may do to tonic
            raise self._unreadable(error, f"{which} in ") from None

    def _shd_labels(self) -> NDArray[Any]:
        import h5py

        with h5py.File(self.place / self.whole.data_filename, "r") as file:
            return np.asarray(file["labels"][()])

    def _unreadable(self, error: Exception, which: str = "") -> DataError:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        return DataError(f"tonic's {self.name}: {which}{self.place} cannot be read: {reason}")


def _local(base: type[Any]) -> type[Any]:
    """tonic's class, made to take the files that are there and never to look for others."""

    def never(self: Any) -> None:
        raise DataError(f"tonic wants to download {base.__name__}: put the files there yourself")

    def body(namespace: dict[str, Any]) -> None:
        namespace["_check_exists"] = lambda self: True
        namespace["download"] = never

    # tonic looks for its files in a folder of the class's name, so that stays.
    return types.new_class(base.__name__, (base,), exec_body=body)
