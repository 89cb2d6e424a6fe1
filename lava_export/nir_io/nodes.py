"""Nodes of a graph of others: whatever is asked of one is checked, and an error names it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import prod
from typing import Any

import numpy as np

from lava_export.nir_io import linear
from lava_export.nir_io.hdf5 import NirError
from lava_export.nir_io.linear import Real, sized
from loihi.errors import PumiceError
from loihi.network import Shape

NEURONS = ("CubaLIF", "CubaLI", "LIF", "LI", "IF", "I", "Threshold")


@contextmanager
def at(name: str) -> Iterator[None]:
    """Errors from here say which node."""
    try:
        yield
    except PumiceError as error:
        text = str(error)
        raise NirError(text if name in text else f"node {name}: {text}") from None


class Node:
    """A node. kind: its type in NIR. fields: as ``to_dict()`` has them."""

    def __init__(self, name: str, kind: str, fields: Mapping[str, Any]) -> None:
        self.name, self.kind, self.fields = name, kind, fields

    def error(self, text: str) -> NirError:
        return NirError(f"node {self.name} ({self.kind}): {text}")

    def array(self, key: str, infinite: bool = False) -> Real:
        """Real numbers."""
        if self.fields.get(key) is None:
            raise self.error(f"{key} is missing")
        try:
            array = np.asarray(self.fields[key])
        except (TypeError, ValueError, RuntimeError) as error:
            raise self.error(f"{key} are no numbers: {error}") from None
        if array.dtype.kind not in "biuf":
            raise self.error(f"{key} are no numbers")
        array = array.astype(np.float64)
        bad = np.isnan(array) if infinite else ~np.isfinite(array)
        if bad.any():
            raise self.error(f"{key} holds {array[bad].flat[0]}")
        if not array.size:
            raise self.error(f"{key} is empty")
        return array

    def weight(self, dimensions: int) -> Real:
        """Its weight, of so many dimensions."""
        weight = self.array("weight")
        if weight.ndim != dimensions:
            raise self.error(f"weight has shape {list(weight.shape)}, not {dimensions} axes")
        return weight

    def integers(self, key: str, low: int, count: int) -> tuple[int, ...]:
        """One whole number for each axis; a single one is for all."""
        array = self.array(key).reshape(-1)
        if array.size not in (1, count) or (array != np.floor(array)).any():
            raise self.error(f"{key} is {listed(array)}: whole numbers, one or {count}")
        if not (low <= array.min() and array.max() <= 2**15):
            raise self.error(f"{key} is {listed(array)}: use {low}..{2**15}")
        return tuple(int(n) for n in np.broadcast_to(array, (count,)))


def shape_of(node: Node, key: str) -> Shape:
    """A shape that a node says, as layers have it."""
    array = node.array(key)
    if array.ndim > 1 or (array != np.floor(array)).any() or not (array > 0).all():
        raise node.error(f"{key} is {listed(array)}: whole numbers, one for each axis")
    if array.max() > 2**31 or array.prod() > linear.LARGEST:
        raise node.error(f"{key} is {listed(array)}: too large")
    return layers_shape(node, tuple(int(n) for n in array.reshape(-1)))


def layers_shape(node: Node, shape: Shape) -> Shape:
    """``(features,)`` or ``(C, H, W)``; ``(C, L)``, of one dimension in space, is a row."""
    if len(shape) not in (1, 2, 3):
        raise node.error(
            f"shape {list(shape)}: pumice has (features,), (C, L) and (C, H, W), without an axis "
            "for samples"
        )
    return (shape[0], 1, shape[1]) if len(shape) == 2 else shape


def flattened(node: Node, shape: Shape) -> Shape:
    """What Flatten makes of it; axes count without samples."""
    said = node.fields.get("input_type")
    axes = list(shape)
    if said is not None and (given := np.atleast_1d(node.array("input_type"))).size == 2:
        axes = [int(n) for n in given]  # (C, L), which is a row here
    try:
        first, last = (
            range(len(axes))[int(np.asarray(node.fields.get(key, default)).reshape(()))]
            for key, default in (("start_dim", 1), ("end_dim", -1))
        )
    except (IndexError, TypeError, ValueError):
        raise node.error(f"start_dim and end_dim do not fit {sized(shape)}") from None
    if prod(axes) != prod(shape) or first > last:
        raise node.error(f"input_type {axes}, start_dim and end_dim do not fit {sized(shape)}")
    flat = (*axes[:first], prod(axes[first : last + 1]), *axes[last + 1 :])
    return layers_shape(node, flat)


def padding_of(
    node: Node, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> tuple[int, ...]:
    """Zeros on both sides of each axis; PyTorch's words for them too."""
    said = node.fields.get("padding")
    if isinstance(said, bytes):
        said = said.decode(errors="replace")
    if not isinstance(said, str):
        return node.integers("padding", 0, len(kernel))
    if said == "valid":
        return (0,) * len(kernel)
    reach = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
    if said != "same" or max(stride) > 1 or any(r % 2 for r in reach):
        raise node.error(f"padding {said!r} is not one and the same number on both sides")
    return tuple(r // 2 for r in reach)


def pair(values: Sequence[int]) -> tuple[int, int]:
    """(vertical, horizontal)."""
    first, second = values
    return first, second


def spread(node: Node, key: str, array: Real, shape: Shape) -> Real:
    """``array`` as one number for each of ``shape``: it holds one, or all, flattened or not."""
    if array.size == 1:
        return np.broadcast_to(array.reshape(()), shape)
    if array.size != prod(shape):
        raise node.error(f"{key} has shape {list(array.shape)}, it is fed {sized(shape)}")
    return array.reshape(shape)


def check_neurons(node: Node, shape: Shape) -> None:
    """That what neurons say of their number is what they are fed."""
    for key in ("tau", "tau_mem", "r", "v_threshold", "threshold"):
        if node.fields.get(key) is not None:
            spread(node, key, node.array(key, infinite=True), shape)


def listed(array: Real) -> str:
    """Its first numbers, for an error."""
    return ", ".join(f"{n:g}" for n in array.reshape(-1)[:4])
