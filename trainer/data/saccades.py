"""Simulated event recordings: an ideal event camera looks at an image and makes three saccades.

SIMULATED, and every name and file that comes from here says so: no sensor was there. N-MNIST
(Orchard et al., 2015) was recorded by an event camera that moved in three saccades of 100 ms, along
a triangle, before a screen with the images. Here the camera is a model of one: a pixel reports an
event whenever the logarithm of its luminance has moved by a threshold since its last one
(Lichtsteiner et al., 2008), at the time that linear interpolation between two positions gives
(Rebecq et al., ESIM, 2018). The image moves by at most a quarter of a pixel each way between
two positions, interpolated bilinearly.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.data import cache
from trainer.data.dataset import DataError, Dataset, limited
from trainer.data.events import Binning, Events
from trainer.data.recordings import Progress

DURATION = 300_000
"""Microseconds of the three saccades together, as N-MNIST's."""
NOTE = "simulated: saccade events made from images by a model, not recorded by an event camera"


@dataclass(frozen=True)
class Saccades:
    """A camera and how it moves.

    amplitude: the triangle's height and base, as a fraction of the image's height; 0.2 of 28
        pixels is 5.6, and the sensor then is 34x34, as N-MNIST's frames are.
    threshold: change of the logarithm of the luminance (white 1, black ``dark``) for an event.
    mismatch: relative standard deviation of the thresholds between pixels.
    noise: events a second and pixel that nothing caused, at random times, of either polarity.
    dark: what the sensor sees of black.
    seed: of mismatch (one sensor for the whole set) and noise (by image).
    """

    amplitude: float = 0.2
    threshold: float = 0.3
    mismatch: float = 0.03
    noise: float = 0.1
    dark: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        for name, low, high in _RANGES:
            value = getattr(self, name)
            if not (math.isfinite(value) and low <= value <= high):
                raise DataError(f"saccades: {name} is {value}: use {low}..{high}")

    def sensor(self, image: tuple[int, int]) -> tuple[int, int]:
        """The sensor's (H, W): it sees the whole image at any time."""
        margin = 2 * math.ceil(self.amplitude * image[0] / 2)
        return (image[0] + margin, image[1] + margin)

    def path(self, image: tuple[int, int]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Row and column of the image's corner on the sensor ``[S + 1, 2]``, and when ``[S + 1]``.

        Down and right, up and right, back: at constant speed, 100 ms a side. The triangle's
        bounding box lies in the middle.
        """
        a = self.amplitude * image[0]
        height, width = self.sensor(image)
        corners = np.array([[-a / 2, -a / 2], [a / 2, 0], [-a / 2, a / 2], [-a / 2, -a / 2]])
        corners += np.array([(height - image[0]) / 2, (width - image[1]) / 2])
        substeps = max(1, math.ceil(np.abs(np.diff(corners, axis=0)).max() / 0.25))
        s = np.arange(3 * substeps + 1) / substeps
        position = np.stack([np.interp(s, np.arange(4), corners[:, k]) for k in (0, 1)], axis=1)
        return position, s * (DURATION / 3)


def simulate(
    images: NDArray[Any],
    saccades: Saccades,
    low: float = 0.0,
    high: float = 255.0,
    *,
    part: int = 0,
    numbers: NDArray[np.integer[Any]] | None = None,
) -> Iterator[Events]:
    """Simulated recordings of images ``[N, H, W]`` or ``[N, C, H, W]`` (mean over C), by time.

    low, high: luminance 0 and 1 in the images' units.
    part, numbers ``[N]``: what the noise of each image is drawn for beside the seed, so that image
        17 gets the same events alone and among others; its place here unless given.
    """
    from trainer.data import kernels

    if images.ndim not in (3, 4):
        raise DataError(f"saccades need images [N, H, W] or [N, C, H, W], found {images.ndim} axes")
    size = (int(images.shape[-2]), int(images.shape[-1]))
    height, width = sensor = saccades.sensor(size)
    path, times = saccades.path(size)
    camera = np.random.Generator(np.random.PCG64([saccades.seed, 2]))
    spread = camera.standard_normal((2, *sensor)) * saccades.mismatch
    on, off = saccades.threshold * np.clip(1 + spread, 0.1, None)
    for k, image in enumerate(images):
        number = k if numbers is None else int(numbers[k])
        grey = (image if image.ndim == 2 else image.mean(axis=0)).astype(np.float64)
        luminance = np.clip((grey - low) / (high - low), 0, 1)
        found: tuple[NDArray[Any], ...] = kernels.crossings(
            luminance, path, times, on, off, saccades.dark
        )
        rng = np.random.Generator(np.random.PCG64([saccades.seed, part, number]))
        stray = int(rng.poisson(saccades.noise * height * width * DURATION / 1e6))
        noise: tuple[NDArray[Any], ...] = (
            rng.integers(0, width, stray, dtype=np.uint16),
            rng.integers(0, height, stray, dtype=np.uint16),
            rng.integers(0, DURATION, stray),
            rng.integers(0, 2, stray, dtype=np.uint8),
        )
        x, y, t, p = (np.concatenate(pair) for pair in zip(found, noise, strict=True))
        order = np.lexsort((p, x, y, t))
        yield Events(x[order], y[order], t[order], p[order])


def dataset(
    images: Dataset,
    binning: Binning,
    saccades: Saccades,
    root: Path | None = None,
    *,
    samples: tuple[int | None, int | None] = (None, None),
    on_progress: Progress | None = None,
) -> Dataset:
    """Frames ``[N, T, 2, H, W]`` uint8 of simulated recordings of a data set of images.

    From the cache if they are there. samples: so many images for training and for test, every
    class by its share; None: all.
    """
    if images.x_train.ndim != 4:
        raise DataError(
            f"{images.name}: saccades need images [N, C, H, W], found {list(images.x_train.shape)}"
        )
    splits = ("train", "test")
    rows = {
        split: limited(images.split(split)[1], count, 0, f"{images.name}: {split}")
        for split, count in zip(splits, samples, strict=True)
    }
    total = sum(len(indices) for indices in rows.values())
    size = (int(images.x_train.shape[2]), int(images.x_train.shape[3]))
    sensor = saccades.sensor(size)
    clipped = done = events = 0

    def frames(part: int) -> Iterator[NDArray[np.uint8]]:
        nonlocal clipped, done, events
        split = splits[part]
        x, indices = images.split(split)[0], rows[split]
        streams = simulate(
            x[indices], saccades, images.low, images.high, part=part, numbers=indices
        )
        for stream in streams:
            made, over = binning.frames(binning.counts(stream, sensor, start=0))
            clipped, done, events = clipped + over, done + 1, events + len(stream)
            if on_progress is not None:
                on_progress(done, total)
            yield made[None]

    def build(writer: cache.Writer) -> dict[str, Any]:
        for part, split in enumerate(splits):
            shape = (len(rows[split]), binning.steps, *binning.frame_shape(sensor))
            writer.add(f"x_{split}", shape, np.uint8, frames(part))
        return {"clipped": clipped, "events": events, "note": NOTE}

    digest = hashlib.sha256()
    for array in (images.x_train, images.y_train, images.x_test, images.y_test):
        digest.update(repr((array.shape, array.dtype.str)).encode())
        digest.update(np.ascontiguousarray(array).data)
    entry = cache.cached(
        root,
        f"{images.name}-saccades-simulated",
        {
            "set": f"saccades:{images.name}",
            "images": digest.hexdigest(),
            "range": [images.low, images.high],
            "binning": asdict(binning),
            "saccades": asdict(saccades),
            "samples": samples,
        },
        build,
    )
    notes = [NOTE, f"{entry.about['events'] / total:.0f} events a recording, on the average"]
    if entry.about["clipped"]:
        notes.append(f"{entry.about['clipped']} counts over 255 were clipped to 255")
    return Dataset(
        f"{images.name}-saccades (simulated)",
        entry.arrays["x_train"],
        images.y_train[rows["train"]],
        entry.arrays["x_test"],
        images.y_test[rows["test"]],
        0.0,
        float(binning.high),
        images.classes,
        (*images.notes, *notes),
    )


_RANGES = (
    ("amplitude", 0.0, 1.0),
    ("threshold", 0.01, 10.0),
    ("mismatch", 0.0, 0.5),
    ("noise", 0.0, 1e4),
    ("dark", 1e-3, 10.0),
    ("seed", 0, 2**31 - 1),
)
