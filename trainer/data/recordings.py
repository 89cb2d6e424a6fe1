"""Published event recordings, read from local files and binned: N-MNIST, DVS-Gesture, SHD.

Each set is two lists of recordings with labels. Frames are made once and kept in the cache.
"""

from __future__ import annotations

import csv
import functools
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.data import cache
from trainer.data.dataset import DataError, Dataset, Shape, limited
from trainer.data.events import Binning, Counts, Events
from trainer.data.packages import folder

Progress = Callable[[int, int], None]
"""Called with how many samples are done, of how many."""


@dataclass(frozen=True)
class Part:
    """Recordings of one split. ``counts``: of recording i, ``[T, ...]``."""

    labels: NDArray[np.int64]
    counts: Callable[[int], Counts]


@dataclass(frozen=True)
class Recordings:
    """A set as it lies on the disk. ``sources``: every file that decides the frames."""

    name: str
    train: Part
    test: Part
    frame_shape: Shape
    classes: int
    base: Path
    sources: Sequence[Path]
    notes: tuple[str, ...] = ()


def binned(
    found: Recordings,
    binning: Binning,
    root: Path | None = None,
    *,
    samples: tuple[int | None, int | None] = (None, None),
    identity: dict[str, Any] | None = None,
    on_progress: Progress | None = None,
) -> Dataset:
    """Frames ``[N, T, ...]`` uint8 of a set, from the cache if they are there.

    samples: so many for training and for test, every class by its share; None: all.
    identity: what else decides the frames.
    """
    name = found.name
    rows = {
        "train": limited(found.train.labels, samples[0], 0, f"{name}: train"),
        "test": limited(found.test.labels, samples[1], 0, f"{name}: test"),
    }
    total = sum(len(indices) for indices in rows.values())
    clipped = done = 0

    def frames(part: Part, indices: NDArray[np.int64]) -> Iterator[NDArray[np.uint8]]:
        nonlocal clipped, done
        for index in indices:
            made, over = binning.frames(part.counts(int(index)))
            clipped += over
            done += 1
            if on_progress is not None:
                on_progress(done, total)
            yield made[None]

    def build(writer: cache.Writer) -> dict[str, Any]:
        for split, part in (("train", found.train), ("test", found.test)):
            indices = rows[split]
            shape = (len(indices), binning.steps, *found.frame_shape)
            writer.add(f"x_{split}", shape, np.uint8, frames(part, indices))
            writer.add(f"y_{split}", (len(indices),), np.int64, [part.labels[indices]])
        return {"clipped": clipped}

    entry = cache.cached(
        root,
        name,
        {
            "set": name,
            "binning": asdict(binning),
            "samples": samples,
            "sources": cache.stamps(found.sources, found.base),
            **(identity or {}),
        },
        build,
    )
    notes = found.notes
    if entry.about["clipped"]:
        notes = (*notes, f"{entry.about['clipped']} counts over 255 were clipped to 255")
    arrays = entry.arrays
    return Dataset(
        name,
        arrays["x_train"],
        np.array(arrays["y_train"]),
        arrays["x_test"],
        np.array(arrays["y_test"]),
        0.0,
        float(binning.high),
        found.classes,
        notes,
    )


def place(name: str, files: Sequence[str], root: Path | None = None) -> Path | None:
    """The first of the folders that may hold a set, and does: its own, or tonic's beside it."""
    for each in (name, *_ALIASES.get(name, ())):
        path = folder(each, root)
        if all((path / file).exists() for file in files):
            return path
    return None


_ALIASES = {
    "nmnist": ("NMNIST", "n-mnist", "N-MNIST"),
    "shd": ("SHD",),
    "dvs-gesture": ("DvsGesture", "dvs-gesture/DvsGesture"),
}


# --- N-MNIST -------------------------------------------------------------------------------------

NMNIST_FILES = ("Train", "Test")
NMNIST_SIZE = (34, 34)


def nmnist(path: Path, binning: Binning) -> Recordings:
    """N-MNIST (Orchard et al., 2015): ``Train/0..9/*.bin`` and ``Test/0..9/*.bin``.

    Windows begin at the recording's time 0, when the first of three saccades of 100 ms begins.
    """
    parts, sources = [], []
    for split in NMNIST_FILES:
        files: list[Path] = []
        labels: list[int] = []
        for digit in range(10):
            found = sorted((path / split / str(digit)).glob("*.bin"))
            files += found
            labels += [digit] * len(found)
        if not files:
            raise DataError(f"{path / split} holds no recordings: N-MNIST has {split}/0/*.bin .. 9")
        parts.append(Part(np.array(labels), functools.partial(_nmnist_counts, files, binning)))
        sources += files
    shape = binning.frame_shape(NMNIST_SIZE)
    return Recordings("nmnist", parts[0], parts[1], shape, 10, path, sources)


def _nmnist_counts(files: Sequence[Path], binning: Binning, index: int) -> Counts:
    events = read_nmnist(files[index].read_bytes(), files[index])
    return _counts(files[index], binning, events, NMNIST_SIZE, start=0)


def read_nmnist(content: bytes, source: str | Path) -> Events:
    """The events of one of N-MNIST's ``.bin`` files; ``source`` is named in errors.

    Format: 5 bytes an event: x, y, then polarity (1 bit) and microseconds (23 bits), big-endian.
    y = 240 marks no event but an overflow of the clock: 2^13 µs for it and all that follow.
    """
    if len(content) % 5:
        raise DataError(f"{source} holds {len(content)} bytes, no multiple of 5: it is truncated")
    raw = np.frombuffer(content, dtype=np.uint8).reshape(-1, 5)
    t = (raw[:, 2].astype(np.int64) & 127) << 16 | raw[:, 3].astype(np.int64) << 8 | raw[:, 4]
    overflow = raw[:, 1] == 240
    t += np.cumsum(overflow) << 13
    real = ~overflow
    return Events(raw[real, 0], raw[real, 1], t[real], raw[real, 2] >> 7)


# --- Spiking Heidelberg Digits -------------------------------------------------------------------

SHD_FILES = ("shd_train.h5", "shd_test.h5")
SHD_CHANNELS = 700
SHD_CLASSES = 20


def shd(path: Path, binning: Binning) -> Recordings:
    """SHD (Cramer et al., 2020): 700 channels of an artificial cochlea, 20 spoken digits.

    Frames are ``[T, 700]``, there being no polarity and no image; windows begin at time 0.
    """
    parts = []
    sources = [path / file for file in SHD_FILES]
    for source in sources:
        labels, read = _shd_file(source)
        parts.append(Part(labels, functools.partial(_shd_counts, source, read, binning)))
    shape = (-(-SHD_CHANNELS // binning.down),)
    return Recordings("shd", parts[0], parts[1], shape, SHD_CLASSES, path, sources)


_Spikes = Callable[[int], tuple[NDArray[np.int64], NDArray[np.int64]]]


def _shd_file(source: Path) -> tuple[NDArray[np.int64], _Spikes]:
    """Labels, and what reads a recording's times (µs) and channels."""
    import h5py

    keys = ("spikes/times", "spikes/units", "labels")
    try:
        with h5py.File(source, "r") as file:
            if missing := [key for key in keys if not isinstance(file.get(key), h5py.Dataset)]:
                raise DataError(f"{source} lacks {', '.join(missing)}: it is not SHD's file")
            shapes = [file[key].shape for key in keys]
            labels = np.asarray(file["labels"][()])
    except FileNotFoundError:
        raise DataError(f"{source} does not exist: unpack it from {source.name}.gz") from None
    except OSError as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{source} is not a whole HDF5 file: {reason}") from None
    if labels.dtype.kind not in "iu" or len({*shapes}) != 1 or labels.ndim != 1:
        raise DataError(f"{source}: times, units and labels are not lists of one length: {shapes}")
    bad = np.flatnonzero((labels < 0) | (labels >= SHD_CLASSES))
    if bad.size:
        raise DataError(
            f"{source}: label {labels[bad[0]]} of recording {bad[0]} is not 0..{SHD_CLASSES - 1}"
        )

    @functools.lru_cache(maxsize=1)
    def opened() -> Any:
        _try(source)
        return h5py.File(source, "r")

    def read(index: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        try:
            times = np.asarray(opened()["spikes/times"][index], dtype=np.float64)
            units = np.asarray(opened()["spikes/units"][index]).astype(np.int64)
        except (OSError, ValueError, TypeError) as error:
            reason = " ".join(str(error).split())
            raise DataError(f"{source}: recording {index} cannot be read: {reason}") from None
        if times.shape != units.shape or times.ndim != 1 or not np.isfinite(times).all():
            raise DataError(f"{source}: recording {index} has times that do not fit its units")
        return (times * 1e6).astype(np.int64), units

    return labels.astype(np.int64), read


_TRY = """import h5py, sys
with h5py.File(sys.argv[1], "r") as file:
    for key in ("spikes/times", "spikes/units"):
        for index in range(len(file[key])):
            try:
                file[key][index]
            except Exception:
                pass"""
DEADLINE = 60.0
"""Seconds that the HDF5 library may take for a file, and one more for each MiB of it."""


def _try(source: Path) -> None:
    """A file may be damaged such that HDF5 hangs or crashes: a child finds out."""
    deadline = DEADLINE + source.stat().st_size / 2**20
    code = [sys.executable, "-c", _TRY, str(source)]
    try:
        done = subprocess.run(code, capture_output=True, timeout=deadline)
    except subprocess.TimeoutExpired:
        words = f"HDF5 does not get through it in {deadline:.0f} s"
        raise DataError(f"{source} is damaged: {words}") from None
    if done.returncode < 0:
        words = signal.Signals(-done.returncode).name
        raise DataError(f"{source} is damaged: HDF5 fails on it ({words})")


def _shd_counts(source: Path, read: _Spikes, binning: Binning, index: int) -> Counts:
    times, units = read(index)
    try:
        return binning.channel_counts(times, units, SHD_CHANNELS, start=0)
    except DataError as error:
        raise DataError(f"{source}: recording {index}: {error}") from None


# --- DVS-Gesture ---------------------------------------------------------------------------------

GESTURE_FILES = ("trials_to_train.txt", "trials_to_test.txt")
GESTURE_SIZE = (128, 128)
GESTURE_CLASSES = 11


def dvs_gesture(path: Path, binning: Binning) -> Recordings:
    """DVS-Gesture (Amir et al., 2017) as IBM publishes it: AEDAT 3.1 and a table of gestures.

    ``trials_to_train.txt`` and ``trials_to_test.txt`` name recordings; each has a ``_labels.csv``
    with the gestures in it (class 1..11, begin and end in microseconds). A gesture is a sample;
    its first window begins where the table says.
    """
    # The gestures being cut come one recording after another.
    recording = functools.lru_cache(maxsize=1)(lambda file: read_aedat31(file.read_bytes(), file))
    parts = []
    sources = [path / file for file in GESTURE_FILES]
    for listed in list(sources):
        gestures: list[tuple[Path, int, int]] = []
        labels: list[int] = []
        for name in _lines(listed):
            source = path / name
            if source.parent != path:
                raise DataError(f"{listed} names {name}, which is not a file beside it")
            table = source.with_name(f"{source.stem}_labels.csv")
            for label, begin, end in _gestures(table):
                gestures.append((source, begin, end))
                labels.append(label)
            sources += [source, table]
        if not gestures:
            raise DataError(f"{listed} leads to no gestures")
        counts = functools.partial(_gesture_counts, gestures, recording, binning)
        parts.append(Part(np.array(labels), counts))
    for source in sources:
        if not source.is_file():
            raise DataError(f"{source} does not exist")
    shape = binning.frame_shape(GESTURE_SIZE)
    return Recordings("dvs-gesture", parts[0], parts[1], shape, GESTURE_CLASSES, path, sources)


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise DataError(f"{path} is not a text file") from None
    except FileNotFoundError:
        raise DataError(f"{path} does not exist") from None
    except (OSError, ValueError) as error:  # of a name that nothing can have
        raise DataError(f"{str(path)!r} cannot be read: {error}") from None
    return [line.strip() for line in text.splitlines() if line.strip()]


def _gestures(table: Path) -> Iterator[tuple[int, int, int]]:
    """Class from 0, begin and end in microseconds, of every gesture in a recording."""
    rows = list(csv.reader(_lines(table)))
    for number, row in enumerate(rows[1:], start=2):
        try:
            label, begin, end = (int(cell) for cell in row)
        except ValueError:
            raise DataError(f"{table}, line {number}: expected class,begin,end") from None
        if not 1 <= label <= GESTURE_CLASSES or not 0 <= begin < end:
            raise DataError(f"{table}, line {number}: {label},{begin},{end} is no gesture")
        yield label - 1, begin, end


def _gesture_counts(
    gestures: Sequence[tuple[Path, int, int]],
    recording: Callable[[Path], Events],
    binning: Binning,
    index: int,
) -> Counts:
    source, begin, end = gestures[index]
    events = recording(source)
    inside = (events.t >= begin) & (events.t < end)
    cut = Events(events.x[inside], events.y[inside], events.t[inside], events.p[inside])
    return _counts(source, binning, cut, GESTURE_SIZE, start=begin)


def read_aedat31(content: bytes, source: str | Path) -> Events:
    """The polarity events of an AEDAT 3.1 file, microseconds; ``source`` is named in errors.

    Format: lines that begin with ``#``, the last of them ``#!END-HEADER``; packets: 28 bytes
    (int16 type and source; int32 size of an event, offset of its time, overflows of the clock,
    capacity, number, valid), and the events. A polarity event (type 1) is 8 bytes: bit 0 valid,
    bit 1 polarity, bits 2..16 y, bits 17..31 x; then the time. All little-endian.
    """
    if not content.startswith(b"#!AER-DAT3.1"):
        raise DataError(f"{source} is not an AEDAT 3.1 file")
    at = 0
    while content[at : at + 1] == b"#":
        line, at = at, content.find(b"\n", at) + 1
        if not at:
            raise DataError(f"{source} is truncated: its header does not end")
        if content.startswith(b"#!END-HEADER", line):
            break
    data, times = [], []
    while at < len(content):
        if at + 28 > len(content):
            raise DataError(f"{source} is truncated at byte {at}: in a packet's header")
        kind = int.from_bytes(content[at : at + 2], "little")
        size, _, overflow, capacity, number, _ = np.frombuffer(content, "<i4", 6, at + 4).tolist()
        begin, at = at + 28, at + 28 + size * capacity
        if size < 1 or not 0 <= number <= capacity or (kind == 1 and size != 8):
            raise DataError(f"{source} is damaged: no packet begins at byte {begin - 28}")
        if at > len(content):
            raise DataError(f"{source} is truncated at byte {begin}: {number} events are promised")
        if kind == 1:
            words = np.frombuffer(content, "<u4", 2 * number, begin).reshape(number, 2)
            data.append(words[:, 0])
            times.append((words[:, 1].astype(np.int64) & 0x7FFFFFFF) + (overflow << 31))
    word = np.concatenate([np.zeros(0, np.uint32), *data])
    t = np.concatenate([np.zeros(0, np.int64), *times])
    valid = (word & 1).astype(bool)
    word, t = word[valid], t[valid]
    x, y, p = word >> 17, (word >> 2) & 0x7FFF, (word >> 1) & 1
    return Events(x.astype(np.uint16), y.astype(np.uint16), t, p.astype(np.uint8))


def _counts(
    source: Path, binning: Binning, events: Events, size: tuple[int, int], start: int | None
) -> Counts:
    try:
        return binning.counts(events, size, start)
    except DataError as error:
        raise DataError(f"{source}: {error}") from None
