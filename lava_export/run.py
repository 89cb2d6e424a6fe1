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

import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lava_export import netx, supervise, wiring
from loihi import Dense, Inject, Network, formats, lava_compat, reference, schedule
from loihi.reference import STATES, Trace

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
    wanted = set(record)
    if unknown := wanted - set(STATES):
        raise ValueError(f"cannot record {sorted(unknown)}: choose from {STATES}")
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
    fit into memory, ask for some layers, or some samples of ``x``, at a time.
    """
    arrivals = schedule.arrivals(network)  # refuses a loop before anything starts
    lava_compat.require()
    x = network.check_payloads(x)
    steps, samples = x.shape[:2]
    taps = [(state, index) for state, indices in record.items() for index in indices]
    dtypes = [_dtype(network, state, index) for state, index in taps]
    if not samples or not steps:
        return {
            (state, index): np.zeros((steps, samples, *network.shapes[index]), dtype=dtype)
            for (state, index), dtype in zip(taps, dtypes, strict=True)
        }
    through_netx = netx.loads(path) and network.is_chain  # netx clears no loop between samples
    static = x.strides[0] == 0  # then one step says it all
    first = network.layers[0].synapse
    rows = np.moveaxis(x[:1] if static else x, 0, 1)  # [N, T, *shape]
    shape = rows.shape[:2]
    rows = rows.reshape(-1, *network.input_shape)
    flat = through_netx and isinstance(first, Dense)
    rows = rows.reshape(len(rows), -1) if flat else _turned(rows)
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
        through_netx=through_netx,
        x=rows.reshape(runs, together, shape[1], *rows.shape[1:]),
        repeat=steps if static else 1,
        interval=interval,
        total=total,
        # To Lava any number above 0 means that spikes have payloads.
        message_bits=0 if network.encoding.binary else formats.WEIGHT_BITS,
        current=isinstance(first, Inject),
        taps=taps,
        dtypes=[dtype.str for dtype in dtypes],
    )
    found = {}
    for state, index in taps:
        shape = network.shapes[index]
        rows = result.pop(f"{state}-{index}")[:, arrivals[index] :][:, : interval * together]
        rows = rows.reshape(samples, interval, *shape[::-1])[:, :steps]
        found[state, index] = np.moveaxis(_turned(rows), 0, 1)
    return found


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
    repeat: int,
    interval: int,
    total: int,
    message_bits: int,
    current: bool,
    taps: list[tuple[str, int]],
    dtypes: list[str],
) -> dict[str, NDArray[Any]]:
    """In the supervised child: for each of ``x`` ``[runs, samples, rows, *shape]`` a run of
    ``total`` steps.

    Returns for each of ``taps`` an array ``state-layer`` of ``[runs, total, *shape]``, in Lava's
    time and order. ``current``: the first block has neurons, and x goes straight into them.
    """
    supervise.prepare_lava()
    from lava.magma.core.run_conditions import RunSteps
    from lava.magma.core.run_configs import Loihi2SimCfg

    from lava_export.processes.taps import MODELS, Source

    payloads = folder / "payloads.npy"
    np.save(payloads, x)
    files: dict[str, Path] = {}
    for run_index in range(len(x)):
        source = Source(
            file=str(payloads),
            index=run_index,
            shape=tuple(x.shape[3:]),
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
                shape = (len(x), total, *(int(n) for n in layers[index].neuron.s_out.shape))
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
        if run_index + 1 < len(x):  # the last one is ended faster by the supervisor
            source.stop()
    return {name: np.load(file, mmap_mode="r") for name, file in files.items()}


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
