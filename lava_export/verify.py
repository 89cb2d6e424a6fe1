"""The proof: an exported file on real samples, in the reference, the fast engine, and Lava.

Every layer's spikes, and on demand u and v, are compared number by number, and so is the readout
of every sample. If anything differs, the first divergence is named: the first in the order in
which things happen, so that what it caused does not hide it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lava_export import netx, run
from loihi import Network, lava_compat, reference
from loihi.engine import Engine
from loihi.reference import Trace

ORDER = ("u", "v", "spikes")
"""In each step of a neuron: first its current, then its membrane, then its spike."""
Observed = Mapping[tuple[str, int], NDArray[Any]]
"""For (state, layer index) an array ``[T, N, *shape]``."""


@dataclass(frozen=True)
class Divergence:
    """One number that is not the same everywhere.

    layer: its name, as in :attr:`loihi.Network.names`. neuron: index, or (channel, row, column).
    step: the sample's own, from 1. sample: from 0. state: ``spikes``, ``u``, ``v`` or ``score``.
    values: what each simulator found.
    """

    layer: str
    neuron: tuple[int, ...]
    step: int
    sample: int
    state: str
    values: dict[str, int]

    def __str__(self) -> str:
        neuron = self.neuron[0] if len(self.neuron) == 1 else self.neuron
        values = ", ".join(f"{name} {value}" for name, value in self.values.items())
        return (
            f"layer {self.layer}, neuron {neuron}, step {self.step} of sample {self.sample}, "
            f"{self.state}: {values}"
        )


@dataclass(frozen=True)
class LayerResult:
    """Of one layer: how many numbers were compared, and how many were not the same everywhere."""

    name: str
    compared: int
    mismatches: int


@dataclass(frozen=True)
class VerifyResult:
    """What :func:`verify` found.

    compared, mismatches: numbers, those of all layers and the scores together.
    layers: the same for each layer, without the scores.
    first_divergence: None if there is none.
    scores: ``[N, classes]`` as Lava has them.
    """

    compared: int
    mismatches: int
    first_divergence: Divergence | None
    layers: tuple[LayerResult, ...]
    scores: NDArray[np.int64]


def verify(
    path: str | Path,
    x: NDArray[Any],
    *,
    states: bool = False,
    deadline: float | None = None,
) -> VerifyResult:
    """Run the file ``path`` on payloads ``x`` ``[T, N, *input_shape]`` everywhere, and compare.

    states: u and v of every layer as well, not only spikes. deadline: Lava's, in seconds.

    Raises what :func:`lava_export.run.run` raises: without Lava there is no proof, and none of a
    network with branches.
    """
    network = netx.read(path)
    if network.is_chain:  # else run.observe says what is to be done; Lava would not help
        lava_compat.require()
    record = list(ORDER if states else ("spikes",))
    every = range(len(network.layers))
    wanted: dict[str, Iterable[int]] = dict.fromkeys(record, every)
    if network.readout == "membrane" and not states:
        wanted["v"], record = [every[-1]], [*record, "v"]
    in_lava = run.observe(network, Path(path), x, wanted, deadline)

    def same_of(trace: Trace) -> Observed:
        return {(state, index): getattr(trace, state)[index] for state, index in in_lava}

    return compare(
        network,
        {
            "reference": same_of(reference.run(network, x, record)),
            "engine": same_of(Engine(network).run(x, record)),
            "lava": in_lava,
        },
    )


def compare(network: Network, found: Mapping[str, Observed]) -> VerifyResult:
    """What several simulators observed of the same samples; ``found`` is by their names."""
    names, observed = list(found), list(found.values())
    first: tuple[tuple[int, ...], Divergence] | None = None
    counts = np.zeros((len(network.layers), 2), dtype=np.int64)
    for state, index in observed[0]:
        arrays = [o[state, index] for o in observed]
        differs = np.zeros(arrays[0].shape, dtype=np.bool_)
        for other in arrays[1:]:
            differs |= other != arrays[0]
        counts[index] += differs.size, np.count_nonzero(differs)
        if not differs.any():
            continue
        # Of a sample's numbers the earliest step comes first, then the layer, then the state.
        sample, step, *neuron = min((n, t, *rest) for t, n, *rest in np.argwhere(differs).tolist())
        at = (step, sample, *neuron)
        order = (sample, step, index, ORDER.index(state), *neuron)
        if first is None or order < first[0]:
            values = {name: int(a[at]) for name, a in zip(names, arrays, strict=True)}
            first = (
                order,
                Divergence(network.names[index], tuple(neuron), step + 1, sample, state, values),
            )
    scores = [_scores(network, o) for o in observed]
    wrong = np.any([s != scores[0] for s in scores[1:]], axis=0)
    divergence = first[1] if first else None
    if divergence is None and wrong.any():
        sample, neuron_index = (int(i) for i in np.argwhere(wrong)[0])
        values = {n: int(s[sample, neuron_index]) for n, s in zip(names, scores, strict=True)}
        divergence = Divergence(
            network.names[-1], (neuron_index,), network.time_steps, sample, "score", values
        )
    return VerifyResult(
        compared=int(counts[:, 0].sum()) + wrong.size,
        mismatches=int(counts[:, 1].sum() + np.count_nonzero(wrong)),
        first_divergence=divergence,
        layers=tuple(
            LayerResult(name, *pair)
            for name, pair in zip(network.names, counts.tolist(), strict=True)
        ),
        scores=scores[-1],
    )


def _scores(network: Network, observed: Observed) -> NDArray[np.int64]:
    last = len(network.layers) - 1
    traces = {s: [observed[s, last]] if (s, last) in observed else [] for s in ORDER}
    return reference.scores(network, Trace(**traces))
