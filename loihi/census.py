"""What a frozen network's numbers are: histograms on the grid, and where two networks differ.

Weights and thresholds are counted as they are; membranes as the fast engine finds them on data,
after each step, resets done, in the register's units (64 a weight unit).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loihi import formats
from loihi.engine import Engine
from loihi.network import ComplexDense, Inject, Network
from loihi.neurons import Neuron

BINS = 64
VALUES_MAX = 2**23
"""Membranes that are looked at, over layers, steps and samples; one sample always is."""


@dataclass(frozen=True)
class Histogram:
    """Whole numbers in bins of equal width, the first of which begins at ``low``.

    counts: int64 ``[bins]``. width: of a bin, a whole number. zeros: how many of them are 0.
    """

    counts: NDArray[np.int64]
    low: int
    width: int
    zeros: int

    @property
    def high(self) -> int:
        """Where the last bin ends."""
        return self.low + self.width * len(self.counts)

    @property
    def total(self) -> int:
        """How many numbers there are."""
        return int(self.counts.sum())


def histogram(values: NDArray[Any], step: int = 1, bins: int = BINS) -> Histogram:
    """Of whole numbers, at least one; bins are multiples of ``step`` wide, and one begins at 0.

    step: what the numbers are multiples of.
    """
    flat = np.asarray(values).ravel()
    first, last = int(flat.min()), int(flat.max())
    width = step * max(1, math.ceil((last - first + step) / (bins * step)))
    low = first // width * width
    places = (flat.astype(np.int64) - low) // width
    counts = np.bincount(places)
    return Histogram(counts, low, width, int((flat == 0).sum()))


@dataclass(frozen=True)
class LayerCensus:
    """Of one layer. weights: of all of its synapses, None where it has none.

    vth: its threshold, None where it never spikes. membranes: None where no data were looked at.
    """

    name: str
    neurons: int
    weights: Histogram | None
    vth: int | None
    membranes: Histogram | None


def census(network: Network, x: NDArray[Any] | None = None) -> list[LayerCensus]:
    """Every layer's numbers; membranes on payloads ``x`` ``[T, N, *input_shape]``, of which as many
    samples are taken as :data:`VALUES_MAX` allows."""
    membranes: list[NDArray[Any]] | None = None
    if x is not None and x.shape[1]:
        units = sum(math.prod(shape) for shape in network.shapes)
        samples = max(1, VALUES_MAX // (units * len(x)))
        membranes = Engine(network).run(x[:, :samples], ("v",)).v
    found = []
    for index, (name, layer) in enumerate(zip(network.names, network.layers, strict=True)):
        weights = _weights(network, index)
        step = 2 if weights.size and not (weights % 2).any() else 1
        seen = None if membranes is None else histogram(membranes[index])
        if not isinstance(layer.neuron, Neuron):
            seen = None  # other registers, in other units
        found.append(
            LayerCensus(
                name,
                math.prod(network.shapes[index]),
                histogram(weights, step) if weights.size else None,
                layer.neuron.vth,
                seen,
            )
        )
    return found


def threshold(layer: LayerCensus) -> int | None:
    """Where a membrane of this layer spikes, in its own units."""
    return None if layer.vth is None else layer.vth << formats.STATE_SHIFT


@dataclass(frozen=True)
class Difference:
    """Of one layer in two networks.

    weights, differ: how many weights there are, and how many are not the same. largest, mean: of
    the sizes of all differences, the unchanged included. vth, du, dv: of both.
    """

    name: str
    weights: int
    differ: int
    largest: int
    mean: float
    vth: tuple[int | None, int | None]
    du: tuple[int | None, int | None]
    dv: tuple[int | None, int | None]


def differences(first: Network, second: Network) -> list[Difference] | None:
    """Layer by layer; None of networks whose layers are not of the same kinds and shapes."""
    if first.names != second.names or first.input_shape != second.input_shape:
        return None
    found = []
    for index, name in enumerate(first.names):
        ours, theirs = _weights(first, index), _weights(second, index)
        if ours.shape != theirs.shape:
            return None
        apart = np.abs(ours.astype(np.int64) - theirs)
        neurons = first.layers[index].neuron, second.layers[index].neuron
        pairs = [
            tuple(getattr(neuron, setting, None) for neuron in neurons)
            for setting in ("vth", "du", "dv")
        ]
        found.append(
            Difference(
                name,
                apart.size,
                int(np.count_nonzero(apart)),
                int(apart.max(initial=0)),
                float(apart.mean()) if apart.size else 0.0,
                *pairs,  # type: ignore[arg-type]
            )
        )
    return found


def _weights(network: Network, index: int) -> NDArray[np.int32]:
    """All weights of a layer, one after another."""
    parts: list[NDArray[Any]] = []
    for synapse, _ in network.synapses(index):
        if isinstance(synapse, ComplexDense):
            parts += [synapse.real.ravel(), synapse.imag.ravel()]
        elif not isinstance(synapse, Inject):
            parts.append(synapse.weight.ravel())
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int32)
