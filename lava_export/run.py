"""Run a file's network in Lava's CPU simulator on a batch of samples.

What netx can hold goes through Intel's own loader: then it is the file that is shown to be right.
Everything else (branches, loops, soft resets) is wired here, from the network that is in the file
(:mod:`lava_export.wiring`).

Samples follow each other, T steps each: every layer clears its state (LIFReset) in the step in
which a sample's first spikes reach it, so that the layers work on neighbouring samples at the same
time and nothing mixes. Nothing clears the spikes that are under way in a chain's delays: there each
sample has a run of its own. In a graph with delays samples are as many steps apart as the longest
of them. What comes back is in each layer's local time, like the reference's and the engine's:
compare them number by number.
"""

from __future__ import annotations

import itertools
import mmap
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lava_export import netx, supervise, wiring
from loihi import Dense, Inject, Network, formats, lava_compat, reference, schedule
from loihi.reference import STATES, Trace, wanted_states

START = 60.0
"""Seconds that Lava gets to import, to load a file and to start its processes."""
RESTART = 10.0
"""Seconds that it gets for each further run."""
STEP = 1.0
"""Seconds that it gets for a step: some two milliseconds is usual, half a second for a large
convolution on a busy machine."""
PROCESS = 1.0
"""Seconds that it gets for each of a network's neurons and synapses, which are processes all."""
CHANNEL = 4
"""Messages that a channel between two processes has room for. One is under way at a time; Lava's
own 64 take gigabytes for large images."""


def run(
    path: str | Path,
    x: NDArray[Any],
    record: Iterable[str] = ("spikes",),
    *,
    deadline: float | None = None,
) -> Trace:
    """What every layer of the network in ``path`` does in Lava.

    x: payloads ``[T, N, *input_shape]``.
    record: of ``spikes``, ``u``, ``v``, as in :func:`loihi.reference.run`, whose Trace this is.
    deadline: seconds; by default as many as a slow machine may need.

    Raises :class:`lava_export.netx.NetxError` for the file,
    :class:`loihi.schedule.ScheduleError` for a loop that is too slow for Lava,
    :class:`loihi.errors.PumiceError` where Lava is not installed or ``x`` does not fit,
    :class:`lava_export.supervise.ChildError` for what goes wrong in Lava.
    """
    network = netx.read(path)
    wanted = wanted_states(record)
    everywhere = {state: range(len(network.layers)) for state in wanted}
    kept = observe(network, Path(path), x, everywhere, deadline)
    return Trace(**{s: [kept[s, i] for i in everywhere.get(s, ())] for s in STATES})


def predict(path: str | Path, x: NDArray[Any], *, deadline: float | None = None) -> NDArray[Any]:
    """The scores ``[N, classes]`` of payloads ``[T, N, *input_shape]`` in Lava; as :func:`run`."""
    network = netx.read(path)
    last = len(network.layers) - 1
    state = "v" if network.readout == "membrane" else "spikes"
    kept = observe(network, Path(path), x, {state: [last]}, deadline)
    trace = Trace([], [], [])
    getattr(trace, state).append(kept[state, last])
    return reference.scores(network, trace)


def run_network(
    network: Network, x: NDArray[Any], record: Iterable[str] = ("spikes",), **options: Any
) -> Trace:
    """:func:`run` for a network that is not in a file."""
    with tempfile.TemporaryDirectory(prefix="pumice-") as folder:
        path = Path(folder, "model.net")
        netx.write(network, path)
        return run(path, x, record, **options)


def observe(
    network: Network,
    path: Path,
    x: NDArray[Any],
    record: Mapping[str, Iterable[int]],
    deadline: float | None = None,
) -> dict[tuple[str, int], NDArray[Any]]:
    """What :func:`run` and :func:`predict` are made of: some states of some layers.

    network: what is in ``path``. record: state to layer indices, ``{"v": [2]}``.
    Returns for each (state, index) an array ``[T, N, *shape]``, in local time.

    What is asked for is all that is recorded: where a network's states on all samples would not
    fit into memory, ask for some layers, or some samples of ``x``, at a time; or for :func:`parts`.
    """
    x = network.check_payloads(x)
    (found,) = parts(network, path, [x], x.shape[:2], record, deadline)
    return found


def parts(
    network: Network,
    path: Path,
    x: Iterable[NDArray[Any]],
    size: tuple[int, ...],
    record: Mapping[str, Iterable[int]],
    deadline: float | None = None,
) -> Iterator[dict[tuple[str, int], NDArray[Any]]]:
    """:func:`observe` of samples whose time comes in parts ``[t, N, *input_shape]``: what is
    recorded of each part.

    size: (T, N), T all parts together. Lava runs once, before the first is there; everything lies
    on the disk, of which memory holds a part.
    """
    arrivals = schedule.arrivals(network)  # refuses a loop before anything starts
    lava_compat.require()
    steps, samples = size
    taps = [(state, index) for state, indices in record.items() for index in indices]
    dtypes = [_dtype(network, state, index) for state, index in taps]
    given = _Given(network, x, netx.loads(path) and network.is_chain)
    if not samples or not steps:
        yield {
            (state, index): np.zeros((steps, samples, *network.shapes[index]), dtype=dtype)
            for (state, index), dtype in zip(taps, dtypes, strict=True)
        }
        return
    runs, together = (samples, 1) if wiring.apart(network) else (1, samples)
    interval = wiring.interval(network)
    total = interval * together + max(arrivals)
    if deadline is None:
        each = PROCESS * wiring.processes(network) + RESTART + STEP * total
        deadline = START + runs * each
    result = supervise.run(
        _in_lava,
        deadline=deadline,
        path=str(path.resolve()),
        through_netx=given.through_netx,
        x=given.pieces(steps, samples),
        runs=runs,
        repeat=steps if given.static else 1,
        interval=interval,
        total=total,
        # To Lava any number above 0 means that spikes have payloads.
        message_bits=0 if network.encoding.binary else formats.WEIGHT_BITS,
        current=isinstance(network.layers[0].synapse, Inject),
        taps=taps,
        dtypes=[dtype.str for dtype in dtypes],
    )
    begin = 0
    for length in given.lengths:
        found = {}
        for state, index in taps:
            of_all = result[f"{state}-{index}"]
            rows = of_all[:, arrivals[index] :][:, : interval * together]
            if runs == 1:
                rows = rows[0].reshape(together, interval, *rows.shape[2:])
            part = np.moveaxis(_turned(rows[:, begin : begin + length]), 0, 1)
            found[state, index] = np.array(part)
            _forget(of_all)
        yield found
        begin += length


class _Given:
    """What goes into Lava: payloads in its own order, and how long their parts are."""

    def __init__(self, network: Network, x: Iterable[NDArray[Any]], through_netx: bool) -> None:
        self.network, self.through_netx = network, through_netx
        self.rest = iter(x)
        self.first = network.check_payloads(next(self.rest))
        self.lengths: list[int] = []
        self.static = False

    def pieces(self, steps: int, samples: int) -> supervise.Pieces:
        """All of it, ``[rows, N, *shape]``: of an input that stays the same one row."""
        network = self.network
        self.static = self.first.strides[0] == 0 and len(self.first) == steps
        # netx takes vectors for a dense first layer, whatever the input's shape.
        flat = self.through_netx and isinstance(network.layers[0].synapse, Dense)
        shape = (int(np.prod(network.input_shape)),) if flat else network.input_shape[::-1]

        def parts() -> Iterator[NDArray[Any]]:
            for part in itertools.chain([self.first], self.rest):
                part = network.check_payloads(part)
                self.lengths.append(len(part))
                rows = part[:1] if self.static else part
                yield rows.reshape(*rows.shape[:2], *shape) if flat else _turned(rows)

        size = (1 if self.static else steps, samples)
        return supervise.Pieces((*size, *shape), network.encoding.dtype, parts())


def _forget(array: NDArray[Any]) -> None:
    """Lets go of the memory in which a mapped file has been read; the file is still there."""
    mapped = getattr(array, "_mmap", None)
    if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)


def _dtype(network: Network, state: str, index: int) -> np.dtype[Any]:
    """Spikes in a byte, everything else, what graded neurons send included, in 32 bits."""
    spikes = state == "spikes" and not network.layers[index].neuron.graded
    return np.dtype(np.uint8 if spikes else np.int32)


def _turned(rows: NDArray[Any]) -> NDArray[Any]:
    """Images from (C, H, W) to Lava's (W, H, C), or back; rows that are no images as they are."""
    return np.swapaxes(rows, -1, -3) if rows.ndim > 3 else rows


def _in_lava(
    folder: Path,
    *,
    path: str,
    through_netx: bool,
    x: NDArray[Any],
    runs: int,
    repeat: int,
    interval: int,
    total: int,
    message_bits: int,
    current: bool,
    taps: list[tuple[str, int]],
    dtypes: list[str],
) -> dict[str, Path]:
    """In the supervised child: the samples ``x`` ``[rows, N, *shape]`` in ``runs`` runs of
    ``total`` steps.

    Returns for each of ``taps`` a file ``state-layer`` of ``[runs, total, *shape]``, in Lava's
    time and order. ``current``: the first block has neurons, and x goes straight into them.
    """
    supervise.prepare_lava()
    from lava.magma.core.run_conditions import RunSteps
    from lava.magma.core.run_configs import Loihi2SimCfg

    from lava_export.processes.taps import MODELS, Source

    assert isinstance(x, np.memmap)  # as all that supervise hands over: it is read where it lies
    files: dict[str, Path] = {}
    each = x.shape[1] // runs
    for run_index in range(runs):
        source = Source(
            file=str(x.filename),
            samples=(run_index * each, each),
            shape=tuple(x.shape[2:]),
            repeat=repeat,
            interval=interval,
        )
        if through_netx:
            layers = _load(path, source.s_out, interval, message_bits, current)
        else:
            wired = wiring.build(netx.read(path))
            wired.feed(source.s_out)
            layers = wired.layers
        mine: dict[int, dict[str, str]] = {}
        for (state, index), dtype in zip(taps, dtypes, strict=True):
            name = f"{state}-{index}"
            if not run_index:
                shape = (runs, total, *(int(n) for n in layers[index].neuron.s_out.shape))
                files[name] = folder / f"{name}.npy"
                np.lib.format.open_memmap(files[name], "w+", dtype, shape)
            mine.setdefault(index, {})[state] = str(files[name])
        for index, its_files in mine.items():
            layers[index].neuron.proc_params.overwrite("taps", (its_files, run_index))
        source.run(
            condition=RunSteps(num_steps=total),
            run_cfg=Loihi2SimCfg(select_tag="fixed_pt", exception_proc_model_map=MODELS),
            compile_config={"pypy_channel_size": CHANNEL},
        )
        if run_index + 1 < runs:  # the last one is ended faster by the supervisor
            source.stop()
    return files


def _load(path: str, port: Any, interval: int, message_bits: int, current: bool) -> Any:
    """The layers of a file, through netx, fed by ``port``."""
    from lava.lib.dl.netx import hdf5

    net = hdf5.Network(
        net_config=path,
        input_message_bits=message_bits,
        reset_interval=interval,
        # A block of synapses hears at step 2 what was sent at step 1; neurons hear it at once.
        reset_offset=0 if current else 1,
    )
    port.connect(net.in_layer.neuron.a_in if current else net.inp)
    return net.layers
