"""Networks on disk: Lava-DL's netx files (HDF5), written and read, in integers only.

netx (lava-dl 0.6.0, ``lava.lib.dl.netx.hdf5``) takes almost any file without a word: it truncates
fractions, skips layers it does not know, ignores what it cannot do, and hands weights to Lava in a
form in which some of them change. All of that is an error here, in both directions, with the place
in the file.

Layout, as SLAYER writes it: ``layer/<0..n-1>/`` with ``type``, ``shape`` (C, H, W), ``weight``,
``neuron/…`` and so on; ``simulation/{Ts,tSample}``. Files written here begin with an input layer
that holds the input's shape, and have beside these a group ``pumice`` with the encoding and the
readout, which netx does not look at: read back, they give the very network that was written.

netx has chains of hard-reset neurons only. What it cannot hold (:func:`why_not`) is written without
``layer``, so that netx stops at once (no such object) instead of running something else, and with a
group ``pumice_graph`` of our own; see docs/files.md.
"""

from lava_export.netx.fields import NetxError
from lava_export.netx.limits import CONV_MAX, NEVER, lava_weight, why_not
from lava_export.netx.own_form import GRAPH
from lava_export.netx.reader import TIME_STEPS, loads, read
from lava_export.netx.writer import write

__all__ = [
    "CONV_MAX",
    "GRAPH",
    "NEVER",
    "TIME_STEPS",
    "NetxError",
    "lava_weight",
    "loads",
    "read",
    "why_not",
    "write",
]
