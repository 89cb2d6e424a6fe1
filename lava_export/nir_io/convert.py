"""The two verbs, and the graph between them."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lava_export.nir_io import hdf5
from lava_export.nir_io.hdf5 import NirError
from lava_export.nir_io.neurons import Decays
from lava_export.nir_io.own import read_own
from lava_export.nir_io.reader import CurrentBias, Reader
from lava_export.nir_io.writer import DT, losses, require_nir, to_graph
from loihi import Encoding, Network, files
from loihi.errors import PumiceError
from loihi.network import Readout
from loihi.neurons import Reset
from loihi.quantise import LayerReport, quantise

if TYPE_CHECKING:
    import nir


@dataclass(frozen=True)
class Converted:
    """A network from a graph.

    layers: what quantisation did; empty for a graph of our own, which is the network as it was.
    """

    network: Network
    layers: tuple[LayerReport, ...] = ()


def write(network: Network, path: str | Path, dt: float = DT) -> tuple[str, ...]:
    """Write ``network`` as a NIR file, whole or not at all; its :func:`losses`.

    Raises :class:`NirError` for neurons that NIR does not have, and where nir is not installed.
    """
    path = Path(path)
    graph = to_graph(network, dt)
    image = io.BytesIO()
    require_nir().write(image, graph)
    if read_own(hdf5.loads(image)) != network:  # nothing leaves that does not come back the same
        raise NirError(f"{path}: the network does not survive being written; please report it")
    files.write(path, image.getbuffer())
    return losses(network)


def read(path: str | Path, **options: Any) -> Converted:
    """The network in a NIR file; options and errors are those of :func:`from_graph`."""
    path = Path(path)
    node = hdf5.load(path)
    try:
        return from_graph(node, **options)
    except PumiceError as error:
        raise NirError(f"{path}: {error}") from None


def from_graph(
    graph: nir.NIRGraph | Mapping[str, Any],
    *,
    dt: float = DT,
    encoding: Encoding | None = None,
    values: tuple[float, float] | None = None,
    reset: Reset = "hard",
    readout: Readout | None = None,
    output: str | None = None,
    decays: Decays = "same",
    bias: CurrentBias = "exact",
    bias_exp: int | None = 6,
    metadata: bool = True,
) -> Converted:
    """The network of a graph: of one that pumice wrote the very same, of others on the chip's grid.

    graph: nir's, or the dictionary of its ``to_dict()``. All that follows is for graphs of others.
    dt: seconds a step. Where time constants are counted in steps, 1.
    encoding: how data become payloads; by default ``events`` of 0 and 1 in 16 steps.
    values: what the smallest and the largest payload stand for in the graph's input, as (0, 1) for
        images divided by 255. None: payloads are the values.
    reset: NIR knows ``hard`` only, so that neurons of ``soft`` reset are written as hard ones too.
    readout: see :func:`loihi.quantise.quantise`.
    output: the Output node that is the answer, where there are several.
    decays: ``mean``: neurons of one layer with different decays get their mean.
    bias: of neurons with a current (CubaLIF), where NIR adds it to the current and the chip to v.
        ``exact``: a layer of neurons that spike in every step brings it, which makes a chain a
        graph; ``settled``: it is added to v, as large as it is when the current has settled.
    bias_exp: the exponent of biases, see :func:`loihi.quantise.quantise`.
    metadata: False: what pumice wrote is read as if it were another's.

    Raises :class:`NirError` with the node, :class:`PumiceError` of another kind where its layers
    make no network.
    """
    if not isinstance(graph, Mapping):
        graph = _as_dict(graph)
    if metadata and (own := read_own(graph)) is not None:
        return Converted(own)
    if not 0 < dt < np.inf:
        raise NirError(f"dt is {dt}: a step lasts longer than 0 seconds")
    encoding = encoding or Encoding("events", 16)
    found = Reader(graph, dt, encoding, values, reset, decays, bias).layers(output)
    network, reports = quantise(*found, encoding, readout, bias_exp)
    return Converted(network, reports)


def _as_dict(graph: Any) -> dict[str, Any]:
    try:
        return dict(graph.to_dict())
    except (AttributeError, TypeError, ValueError, RuntimeError) as error:
        raise NirError(f"not a graph of NIR: {error}") from None
