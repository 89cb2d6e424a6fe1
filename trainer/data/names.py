"""From a name, with settings if any, to a data set: ``nmnist,steps=20,window=15ms``.

A name stands for a source and takes ``key=value`` settings after commas. Anything else is a path:
an ``.npz`` file, a folder of four IDX files, or files as a data set's authors publish them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeVar

from trainer.data import cifar, idx, npz, packages, recordings, saccades, through_tonic
from trainer.data.dataset import DataError, Dataset
from trainer.data.events import Binning
from trainer.data.packages import PACKAGES, default_root, folder
from trainer.data.recordings import Progress, Recordings
from trainer.data.saccades import Saccades

T = TypeVar("T")


@dataclass(frozen=True)
class Published:
    """An event set that we read ourselves. ``files``: what its folder must hold."""

    files: tuple[str, ...]
    read: Callable[[Path, Binning], Recordings]
    usual: Binning
    what: str
    """What to put there, for whoever has not."""


@dataclass(frozen=True)
class Listed:
    """A line of ``pumice data list``."""

    name: str
    here: bool
    where: str


# TT-LBP's windows and steps for DVS-Gesture and CIFAR10-DVS (Guo et al., 2023, section 3.3.2); for
# the others what covers N-MNIST's three saccades (300 ms), and most of SHD's recordings.
_GESTURE = Binning(60, "time", 20_000, down=4, binary=True)
EVENT_SETS = {
    "nmnist": Published(
        recordings.NMNIST_FILES,
        recordings.nmnist,
        Binning(20, "time", 15_000),
        "N-MNIST's folders Train/0..9 and Test/0..9 of .bin files",
    ),
    "dvs-gesture": Published(
        recordings.GESTURE_FILES,
        recordings.dvs_gesture,
        _GESTURE,
        "what is in IBM's DvsGesture.tar.gz: .aedat, _labels.csv and trials_to_*.txt",
    ),
    "shd": Published(
        recordings.SHD_FILES,
        recordings.shd,
        Binning(100, "time", 10_000),
        "shd_train.h5 and shd_test.h5, unpacked",
    ),
}
TONIC_USUAL = {
    "NMNIST": EVENT_SETS["nmnist"].usual,
    "DVSGesture": _GESTURE,
    "CIFAR10DVS": Binning(100, "time", 5_000, down=4, binary=True),
    "SHD": EVENT_SETS["shd"].usual,
}
SACCADES_STEPS = 16
"""That of :class:`trainer.config.TrainConfig`."""
SAVED_SAMPLES = {"train": 6000, "test": 1000}
IMAGES = ("digits", *PACKAGES, *cifar.LAYOUTS)
NAMES = (
    *IMAGES,
    *EVENT_SETS,
    *(f"tonic:{name}" for name in through_tonic.LAYOUTS),
    "saccades:IMAGES",
)


def load(
    name_or_path: str, root: Path | None = None, *, on_progress: Progress | None = None
) -> Dataset:
    """A data set by its name (:data:`NAMES`), with settings if any, or by a path.

    root: the data folder, :func:`default_root` unless given.
    on_progress: called with samples done and their number, while recordings are binned.
    Raises :class:`DataError`: data that are absent, damaged, empty, or do not fit each other, and
    settings that the source does not have.
    """
    if Path(name_or_path).suffix == ".npz":
        return npz.load(Path(name_or_path))
    name, settings = split_settings(name_or_path)
    options = Options(name, settings)
    found = _by_name(name, options, root, on_progress)
    if found is None:
        found = _by_path(Path(name).expanduser(), options, root, on_progress)
    if found is None:
        raise DataError(
            f"no data called {name!r}: use {', '.join(NAMES)}, or the path of an .npz file, of a "
            "folder of IDX files, or of a published data set"
        )
    return found


def split_settings(text: str) -> tuple[str, dict[str, str]]:
    """``nmnist,steps=20`` as the name and its settings; commas before them are the name's."""
    items = text.split(",")
    settings: dict[str, str] = {}
    while len(items) > 1 and (match := re.fullmatch(r"([a-z_]+)=(.*)", items[-1])):
        if match[1] in settings:
            raise DataError(f"{text}: {match[1]} is there twice")
        settings[match[1]] = match[2]
        items.pop()
    return ",".join(items), settings


class Options:
    """Settings as they are taken one by one; :meth:`end` refuses those that nobody took."""

    def __init__(self, name: str, settings: dict[str, str]) -> None:
        self.name = name
        self.given = frozenset(settings)
        self.settings = dict(settings)
        self.known: list[str] = []

    def take(self, key: str, parse: Callable[[str], T], default: T) -> T:
        """A setting's value, or the default."""
        self.known.append(key)
        if key not in self.settings:
            return default
        text = self.settings.pop(key)
        try:
            return parse(text)
        except ValueError as error:
            raise DataError(f"{self.name}: {key}={text}: {error}") from None

    def end(self) -> None:
        """Raises :class:`DataError` for a setting that is left."""
        for key in self.settings:
            takes = f"it takes {', '.join(self.known)}" if self.known else "it takes none"
            raise DataError(f"{self.name} has no setting {key!r}: {takes}")

    def samples(self) -> tuple[int | None, int | None]:
        """``train`` and ``test``: how many samples of each."""
        return self.take("train", _optional, None), self.take("test", _optional, None)

    def binning(self, usual: Binning) -> Binning:
        """``steps``, ``window``, ``by``, ``down``, ``binary``."""
        by: Literal["time", "count"] = self.take("by", _by, usual.by)
        window = self.take("window", microseconds, 0)
        if by == "count" and window:
            raise DataError(f"{self.name}: by=count has no window: leave out one of the two")
        return Binning(
            self.take("steps", whole(1, 65536), usual.steps),
            by,
            (window or usual.window) if by == "time" else 0,
            self.take("down", whole(1, 1024), usual.down),
            self.take("binary", _flag, usual.binary),
        )


def whole(low: int, high: int) -> Callable[[str], int]:
    """Parses a whole number from ``low`` to ``high``."""

    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,10}", text) or not low <= int(text) <= high:
            raise ValueError(f"expected a whole number, {low}..{high}")
        return int(text)

    return parse


def number(text: str) -> float:
    """Parses a number."""
    try:
        return float(text)
    except ValueError:
        raise ValueError("expected a number") from None


def microseconds(text: str) -> int:
    """Parses a time with its unit: ``20ms``, ``500us``, ``1.5s``."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)(us|ms|s)", text)
    found = float(match[1]) * {"us": 1, "ms": 1000, "s": 1_000_000}[match[2]] if match else 0
    if not 1 <= found <= 3600e6 or found != int(found):
        raise ValueError("expected a time with its unit, as in 20ms or 500us, whole microseconds")
    return int(found)


def _by(text: str) -> Literal["time", "count"]:
    if text == "time":
        return "time"
    if text == "count":
        return "count"
    raise ValueError("use time or count")


def _flag(text: str) -> bool:
    if text not in ("0", "1"):
        raise ValueError("use 0 or 1")
    return text == "1"


def _optional(text: str) -> int | None:
    return whole(1, 10**9)(text)


def _labels(text: str) -> cifar.Labels:
    if text == "fine":
        return "fine"
    if text == "coarse":
        return "coarse"
    raise ValueError("use fine or coarse")


def save_saccades(
    images: str,
    settings: dict[str, str],
    out: Path,
    root: Path | None = None,
    *,
    on_progress: Progress | None = None,
) -> Dataset:
    """Simulates saccades over a set of images and writes them to an ``.npz``; what was written.

    settings: as after ``saccades:IMAGES,``; without ``train`` and ``test`` at most
    :data:`SAVED_SAMPLES` of each, as an ``.npz`` is read into memory as a whole.
    """
    npz.check_target(out)
    source = load(images, root)
    for part, most in SAVED_SAMPLES.items():
        settings = {part: str(min(most, len(source.split(part)[1]))), **settings}
    text = "".join(f",{key}={value}" for key, value in settings.items())
    made = load(f"saccades:{images}{text}", root, on_progress=on_progress)
    npz.save(out, made)
    return made


# --- by name and by path -------------------------------------------------------------------------


def _by_name(
    name: str, options: Options, root: Path | None, on_progress: Progress | None
) -> Dataset | None:
    if name == "digits" or name in PACKAGES:
        options.end()
        return packages.load_digits() if name == "digits" else packages.load(name, root)
    if name in cifar.LAYOUTS:
        return _cifar(name, options, root, None)
    if name in EVENT_SETS:
        return _recorded(name, options, root, None, on_progress)
    if name.startswith("tonic:"):
        return _tonic(name.removeprefix("tonic:"), options, root, on_progress)
    if name.startswith("saccades:"):
        return _saccades(name.removeprefix("saccades:"), options, root, on_progress)
    return None


def _by_path(
    path: Path, options: Options, root: Path | None, on_progress: Progress | None
) -> Dataset | None:
    published = cifar.recognised(path)
    if published and path.exists():
        return _cifar(published, options, root, path)
    for name, event_set in EVENT_SETS.items():
        if all((path / file).exists() for file in event_set.files):
            return _recorded(name, options, root, path, on_progress)
    if path.is_dir() or idx.find(path):
        first = options.take("first_label", whole(0, 255), 0)
        options.end()
        return idx.load(path, first)
    return None


def _cifar(name: str, options: Options, root: Path | None, path: Path | None) -> Dataset:
    several = len(cifar.LAYOUTS[name].labels) > 1
    labels: cifar.Labels = options.take("labels", _labels, "fine") if several else "fine"
    options.end()
    return cifar.load(name, root, path, labels)


def _recorded(
    name: str, options: Options, root: Path | None, path: Path | None, on_progress: Progress | None
) -> Dataset:
    event_set = EVENT_SETS[name]
    binning, samples = options.binning(event_set.usual), options.samples()
    options.end()
    path = path or recordings.place(name, event_set.files, root)
    if path is None:
        raise DataError(
            f"{name} is not here: put {event_set.what} into {folder(name, root)}, or give the "
            "path of their folder"
        )
    found = event_set.read(path, binning)
    return recordings.binned(found, binning, root, samples=samples, on_progress=on_progress)


def _tonic(name: str, options: Options, root: Path | None, on_progress: Progress | None) -> Dataset:
    if name not in TONIC_USUAL:
        raise DataError(
            f"no data called 'tonic:{name}': use "
            f"{', '.join(f'tonic:{each}' for each in TONIC_USUAL)}"
        )
    place = options.take("root", Path, root or default_root())
    binning, samples = options.binning(TONIC_USUAL[name]), options.samples()
    options.end()
    found = through_tonic.recordings(name, place.expanduser(), binning)
    return recordings.binned(found, binning, root, samples=samples, on_progress=on_progress)


def _saccades(
    images: str, options: Options, root: Path | None, on_progress: Progress | None
) -> Dataset:
    usual = Binning(SACCADES_STEPS, "time", -(-saccades.DURATION // SACCADES_STEPS))
    binning = options.binning(usual)
    if binning.by == "time" and "window" not in options.given:
        binning = replace(binning, window=-(-saccades.DURATION // binning.steps))
    samples = options.samples()
    usual_camera = Saccades()
    camera = Saccades(
        options.take("amplitude", number, usual_camera.amplitude),
        options.take("threshold", number, usual_camera.threshold),
        options.take("mismatch", number, usual_camera.mismatch),
        options.take("noise", number, usual_camera.noise),
        options.take("dark", number, usual_camera.dark),
        options.take("seed", whole(0, 2**31 - 1), usual_camera.seed),
    )
    options.end()
    if images not in IMAGES and Path(images).suffix != ".npz" and not idx.find(Path(images)):
        raise DataError(
            f"no images called {images!r} for saccades: use {', '.join(IMAGES)}, or a path"
        )
    return saccades.dataset(
        load(images, root), binning, camera, root, samples=samples, on_progress=on_progress
    )


# --- the list ------------------------------------------------------------------------------------


def listing(root: Path | None = None) -> list[Listed]:
    """Every name, whether its files are here, and where they belong."""
    lines = [Listed("digits", True, "comes with scikit-learn")]
    for name, package in PACKAGES.items():
        here = len(packages.find(name, root)) == len(package.sha256)
        lines.append(Listed(name, here, str(folder(name, root))))
    for name, layout in cifar.LAYOUTS.items():
        found = cifar.find(name, root)
        wanted = f"{folder(name, root)} ({layout.archive}, or its files)"
        lines.append(Listed(name, found is not None, str(found or wanted)))
    for name, event_set in EVENT_SETS.items():
        found = recordings.place(name, event_set.files, root)
        wanted = f"{folder(name, root)} ({event_set.what})"
        lines.append(Listed(name, found is not None, str(found or wanted)))
    tonic = through_tonic.installed()
    for name, local in through_tonic.LAYOUTS.items():
        here = through_tonic.here(name, root or default_root())
        where = str(folder(local.folder, root)) + ("" if here else f" ({local.what})")
        missing = "" if tonic else '; needs tonic: pip install "pumice[events]"'
        lines.append(Listed(f"tonic:{name}", here and tonic, where + missing))
    for name in IMAGES:
        here = next(line.here for line in lines if line.name == name)
        lines.append(Listed(f"saccades:{name}", here, f"simulated from {name}"))
    return lines
