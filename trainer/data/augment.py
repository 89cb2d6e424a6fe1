"""Augmentation of batches, on numpy arrays ``[N, ..., H, W]``: images, or event frames in time.

Every sample is moved as a whole: all of its channels and steps alike. Whatever is random comes
from the generator that is handed in, so the same generator state gives the same batch.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from trainer.data.dataset import DataError, Shape

if TYPE_CHECKING:
    import torch

    Generator = torch.Generator | np.random.Generator


@dataclass(frozen=True)
class Augmentation:
    """What happens to training samples, from a text such as ``shift=0.1,rotate=10,flip``.

    In this order; the first four in one interpolation, with what lies beyond the border at the
    data's lowest value, which also fills everything else:

    rotate: degrees, drawn from ±rotate.
    scale: height and width each by a factor from 1 ± scale.
    shear: degrees, from ±shear, along the rows.
    elastic: pixels: every pixel is displaced, smoothly over about a seventh of the height, by this
        much (root mean square, each way). Simard et al. (2003) draw from ±1, smooth with σ = 4 and
        multiply by 34: that is 1.4 on 28x28.
    shift: a fraction of the smaller side: whole pixels each way, as ``TrainConfig.shift``.
    crop: pixels: pad by as many and cut at random; 4 is the custom for CIFAR.
    flip: left to right, every other sample on the average.
    cutout: pixels: a square of this size is emptied, anywhere (DeVries and Taylor, 2017).
    """

    rotate: float = 0.0
    scale: float = 0.0
    shear: float = 0.0
    elastic: float = 0.0
    shift: float = 0.0
    crop: int = 0
    flip: bool = False
    cutout: int = 0

    def __post_init__(self) -> None:
        for name, high in _HIGHEST.items():
            value = getattr(self, name)
            if not (math.isfinite(value) and 0 <= value <= high):
                raise DataError(f"augmentation {name}={value}: use 0..{high}")

    @classmethod
    def parse(cls, text: str) -> Augmentation:
        """Of a text; the empty one: nothing happens. Raises :class:`DataError` in one line."""
        kinds: dict[str, type[Any]] = {
            field.name: type(field.default) for field in dataclasses.fields(cls)
        }
        values: dict[str, Any] = {}
        for item in filter(None, (item.strip() for item in text.split(","))):
            name, equals, number = (part.strip() for part in item.partition("="))
            if name not in kinds:
                raise DataError(f"augmentation {name!r} is unknown: use {', '.join(kinds)}")
            if name in values:
                raise DataError(f"augmentation {name} is there twice")
            if kinds[name] is bool:
                if equals:
                    raise DataError(f"augmentation {name} takes no number: leave out ={number}")
                values[name] = True
                continue
            try:
                values[name] = kinds[name](number)
            except ValueError:
                whole = "a whole number" if kinds[name] is int else "a number"
                raise DataError(f"augmentation {name}={number}: expected {whole}") from None
        return cls(**values)

    def __str__(self) -> str:
        """A text that :meth:`parse` reads as this."""
        texts = []
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value != field.default:
                whole = int(value) if value == int(value) else value
                texts.append(field.name if value is True else f"{field.name}={whole}")
        return ",".join(texts)

    def __bool__(self) -> bool:
        return self != Augmentation()

    def check(self, sample_shape: Shape, name: str = "the data") -> None:
        """Raises :class:`DataError` if samples are no images: ``(C, H, W)`` is needed."""
        if self and len(sample_shape) != 3:
            raise DataError(
                f"{name}: augmentation ({self}) needs images, found {sample_shape[0]} features"
            )

    def apply(self, x: NDArray[Any], low: float, high: float, generator: Generator) -> NDArray[Any]:
        """A batch ``[N, ..., H, W]``, augmented: a new array of the same shape and dtype.

        low, high: the data's range. low comes in from beyond the border; nothing leaves the range,
        as interpolation does not.
        """
        if x.ndim < 3:
            raise DataError(f"augmentation needs images [N, ..., H, W], found {list(x.shape)}")
        rng = _numpy(generator)
        if self.rotate or self.scale or self.shear or self.elastic:
            x = warped(
                x,
                rng,
                rotate=self.rotate,
                scale=self.scale,
                shear=self.shear,
                elastic=self.elastic,
                low=low,
            )
        pixels = int(self.shift * min(x.shape[-2:])) + self.crop
        if pixels:
            x = _moved(x, pixels, low, rng.integers(0, 2 * pixels + 1, (len(x), 2)))
        if self.flip:
            x = flipped(x, rng)
        if self.cutout:
            x = cut_out(x, self.cutout, low, rng)
        return x if self else x.copy()


def shifted(x: NDArray[Any], pixels: int, low: float, generator: torch.Generator) -> NDArray[Any]:
    """Images ``[..., H, W]``, each moved by −pixels..pixels both ways; ``low`` comes in."""
    import torch

    moves = torch.randint(0, 2 * pixels + 1, (len(x), 2), generator=generator).numpy()
    return _moved(x, pixels, low, moves)


def _moved(
    x: NDArray[Any], pixels: int, low: float, moves: NDArray[np.integer[Any]]
) -> NDArray[Any]:
    """Cuts an image of the same size out of each, padded: ``moves [N, 2]``, 0..2·pixels."""
    padding = [(0, 0)] * (x.ndim - 2) + [(pixels, pixels)] * 2
    padded = np.pad(x, padding, constant_values=low)
    height, width = x.shape[-2:]
    result = np.empty_like(x)
    for image, source, (dy, dx) in zip(result, padded, moves, strict=True):
        image[...] = source[..., dy : dy + height, dx : dx + width]
    return result


def flipped(x: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
    """Each sample as it is or left to right, with equal chances."""
    chosen = rng.random(len(x)) < 0.5
    result = x.copy()
    result[chosen] = x[chosen][..., ::-1]
    return result


def cut_out(x: NDArray[Any], size: int, low: float, rng: np.random.Generator) -> NDArray[Any]:
    """A square of ``size`` pixels in each sample becomes ``low``.

    Its centre is anywhere in the image, so that a part of it may lie outside.
    """
    height, width = x.shape[-2:]
    top = rng.integers(0, height, len(x)) - size // 2
    left = rng.integers(0, width, len(x)) - size // 2
    result = x.copy()
    for image, i, j in zip(result, top, left, strict=True):
        image[..., max(i, 0) : max(i + size, 0), max(j, 0) : max(j + size, 0)] = low
    return result


def warped(
    x: NDArray[Any],
    rng: np.random.Generator,
    *,
    rotate: float = 0.0,
    scale: float = 0.0,
    shear: float = 0.0,
    elastic: float = 0.0,
    low: float = 0.0,
) -> NDArray[Any]:
    """Each sample turned, scaled, sheared and bent about its middle, by bilinear interpolation.

    The amounts are :class:`Augmentation`'s. Integers are rounded to the nearest.
    """
    from trainer.data import kernels

    n, (height, width) = len(x), x.shape[-2:]
    affine = affine_maps(n, (height, width), rng, rotate, scale, shear)
    field = np.empty((0, 2, height, width), dtype=np.float32)
    if elastic:
        field = elastic_fields(n, (height, width), rng, elastic)
    images = np.ascontiguousarray(x).reshape(n, -1, height, width)
    exact = 4 if x.dtype.kind == "f" else 2  # bytes of what float32 holds without loss
    out = np.empty(images.shape, dtype=np.float64 if x.dtype.itemsize > exact else np.float32)
    kernels.warp(images, affine, field, float(low), out)
    if x.dtype.kind in "iu":
        np.floor(out + 0.5, out=out)
    return out.astype(x.dtype, copy=False).reshape(x.shape)


def affine_maps(
    n: int,
    size: tuple[int, int],
    rng: np.random.Generator,
    rotate: float,
    scale: float,
    shear: float,
) -> NDArray[np.float64]:
    """Maps ``[n, 2, 3]`` of a result's pixel (row, column, 1) to where it is looked up.

    The middle stays where it is. For a point (row, column) as seen from there, the result's is
    R S K times the image's: K shears along the rows, S scales, R turns.
    """
    angle, slope, rows, columns = rng.uniform(-1, 1, (4, n))
    angle, slope = np.radians(rotate) * angle, np.tan(np.radians(shear) * slope)
    rows, columns = 1 + scale * rows, 1 + scale * columns
    cos, sin = np.cos(angle), np.sin(angle)
    # The inverse, as it is the result's pixels that are gone through.
    inverse = np.empty((n, 2, 2))
    inverse[:, 0, 0], inverse[:, 0, 1] = cos / rows, sin / rows
    inverse[:, 1, 0] = -sin / columns - slope * cos / rows
    inverse[:, 1, 1] = cos / columns - slope * sin / rows
    middle = (np.array(size) - 1) / 2
    return np.concatenate([inverse, (middle - inverse @ middle)[:, :, None]], axis=2)


def elastic_fields(
    n: int, size: tuple[int, int], rng: np.random.Generator, pixels: float
) -> NDArray[np.float32]:
    """Smooth random displacements ``[n, 2, H, W]`` in pixels, each of variance ``pixels``²."""
    noise = rng.random((n, 2, *size), dtype=np.float32)
    noise -= 0.5
    down, across = (_smoothing(length, size[0] / 7) for length in size)
    field: NDArray[np.float32] = down @ (noise @ across.T)
    field *= pixels * math.sqrt(12)  # a number drawn from 0..1 has variance 1/12
    return field


def _smoothing(length: int, sigma: float) -> NDArray[np.float32]:
    """A Gaussian around every place, ``[length, length]``; a row's squares add up to 1."""
    place = np.arange(length)
    weight = np.exp(-((place[:, None] - place) ** 2) / (2 * sigma**2))
    weight /= np.sqrt((weight**2).sum(axis=1, keepdims=True))
    return weight.astype(np.float32)


def _numpy(generator: Generator) -> np.random.Generator:
    """numpy's own, or one that is seeded by a number drawn from torch's."""
    if isinstance(generator, np.random.Generator):
        return generator
    import torch

    seed = torch.randint(0, 2**63 - 1, (1,), generator=generator)
    return np.random.Generator(np.random.PCG64(int(seed)))


_HIGHEST = {
    "rotate": 180.0,
    "scale": 0.9,
    "shear": 60.0,
    "elastic": 20.0,
    "shift": 0.5,
    "crop": 1000,
    "cutout": 1000,
}
