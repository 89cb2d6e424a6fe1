"""Fields of a file: whatever is asked of a group is checked, and named in the error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from lava_export.damage import too_large
from loihi import PumiceError
from loihi.formats import require_integer, require_integers
from loihi.network import Shape

INT = 2**31 - 1
"""The largest number that a field can be asked for."""


class NetxError(PumiceError):
    """A file that is not what netx and Lava would need, or a network that netx cannot hold."""


class Place:
    """A group of the file."""

    def __init__(self, group: h5py.Group, name: str) -> None:
        self.group, self.name = group, name

    def __contains__(self, key: str) -> bool:
        return key in self.group

    def error(self, text: str) -> NetxError:
        return NetxError(f"{self.name}: {text}")

    def value(self, key: str) -> Any:
        item = self.group.get(key)
        if item is None:
            raise self.error(f"{key} is missing")
        if not isinstance(item, h5py.Dataset):
            raise self.error(f"{key} is a group, not a number")
        if too_large(item):
            raise self.error(f"{key} is damaged: the file holds less than {list(item.shape)}")
        return item[()]

    def integers(self, key: str, low: int, high: int) -> NDArray[np.int32]:
        value = self.value(key)
        return require_integers(f"{self.name}/{key}", value, low, high)

    def integer(self, key: str, low: int, high: int, default: int | None = None) -> int:
        if default is not None and key not in self:
            return default
        return require_integer(f"{self.name}/{key}", self.value(key), low, high)

    def text(self, key: str) -> str:
        value = np.asarray(self.value(key)).reshape(-1)
        if value.size != 1 or not isinstance(value[0], bytes | str):
            raise self.error(f"{key} is not a word")
        word = value[0]
        return word.decode("ascii", errors="replace") if isinstance(word, bytes) else word

    def shape(self) -> Shape:
        return tuple(self.integers("shape", 1, INT).reshape(-1).tolist())

    def agrees(self, key: str, found: Any) -> None:
        """A number that says twice what the weight says already; netx never looks at it."""
        if key in self:
            said = self.integers(key, 0, INT).reshape(-1).tolist()
            if not np.array_equal(said, found):
                few = said[0] if len(said) == 1 else said if len(said) <= 4 else "an array"
                raise self.error(f"{key} is {few}, its weight says {np.asarray(found)}")


class Attributes(Place):
    """A group whose numbers are attributes; they are looked up as :class:`Place` does."""

    def __contains__(self, key: str) -> bool:
        return key in self.group.attrs

    def value(self, key: str) -> Any:
        if key not in self:
            raise self.error(f"{key} is missing")
        return self.group.attrs[key]

    def attribute(self, key: str) -> str:
        value = self.value(key)
        if not isinstance(value, str):
            raise self.error(f"{key} is not a word")
        return value


@contextmanager
def at(place: Place) -> Iterator[None]:
    """Errors from here name the place."""
    try:
        yield
    except PumiceError as error:
        text = str(error)
        raise NetxError(text) if text.startswith(place.name) else place.error(text) from None


def subgroup(parent: h5py.Group, key: str, name: str) -> h5py.Group:
    """A group within a group, which an error calls ``name``."""
    if not isinstance(found := parent.get(key), h5py.Group):
        raise NetxError(f"{name}: the group {key} is missing")
    return found


def pair(place: Place, key: str, low: int) -> tuple[int, int]:
    """(vertical, horizontal), of which a file may give one for both."""
    values = place.integers(key, low, 2**15).reshape(-1)
    if values.size not in (1, 2):
        raise place.error(f"{key} is one number or (vertical, horizontal), found {values}")
    return int(values[0]), int(values[-1])
