"""NIR in and out: networks as graphs of the Neuromorphic Intermediate Representation (nir 1.0).

NIR's neurons are differential equations in seconds. A step of the chip is their Euler step of dt,
the current first, then the membrane with the new current; S being what the node is fed in a step::

    CubaLIF    I = (1 − dt/τ_syn) I + (dt/τ_syn) w_in S
               v = (1 − dt/τ_mem) v + (dt/τ_mem) (v_leak + r I)
    LIF        v = (1 − dt/τ) v + (dt/τ) (v_leak + r S)
    IF         v = v + dt r S
    spike where v > v_threshold, then v = v_reset;     CubaLI, LI, I: the same without spikes

**Out** (:func:`write`): weights and thresholds are the chip's integers, so that v is in units of a
weight of 1; time constants are dt · 4096 / decay. A reader that simulates the graph gets the chip's
network in real numbers: without its rounding to zero, wrapping and clipping. What NIR cannot say
stands in ``metadata`` under ``pumice``, so that :func:`read` gives the very network again.

**In** (:func:`read`, :func:`from_graph`): graphs of others are put on the chip's grid
(:mod:`loihi.quantise`). Linear nodes in a row are merged (:mod:`~lava_export.nir_io.linear`);
thresholds and resistances of single neurons become factors of their weights, a reset to another
value than 0 a shift of v. What has no counterpart is a :class:`NirError` with the nodes' names.

Graphs are handled as the dictionaries of ``NIRGraph.to_dict()``; the package nir is needed for
:func:`write` and :func:`to_graph` alone.
"""

from lava_export.nir_io.convert import Converted, from_graph, read, write
from lava_export.nir_io.hdf5 import NirError, is_nir
from lava_export.nir_io.writer import DT, losses, to_graph

__all__ = [
    "DT",
    "Converted",
    "NirError",
    "from_graph",
    "is_nir",
    "losses",
    "read",
    "to_graph",
    "write",
]
