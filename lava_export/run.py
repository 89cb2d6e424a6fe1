"""Run a netx file in Lava's CPU simulator, through Intel's own loader, on a batch of samples.

Samples follow each other without a pause, T steps each: every layer clears its state (LIFReset) in
the step in which a sample's first spikes reach it, so that the layers work on neighbouring samples
at the same time and nothing mixes. Nothing clears the spikes that are under way in a synapse with
delays: there each sample has a run of its own. What comes back is in each layer's local time, like
the reference's and the engine's: compare them number by number.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lava_export import netx, supervise
from loihi import Dense, Inject, Network, formats, lava_compat, reference
from loihi.reference import STATES, Trace

START = 60.0
"""Seconds that Lava gets to import, to load a file and to start its processes."""
RESTART = 10.0
"""Seconds that it gets for each further run."""
STEP = 1.0
"""Seconds that it gets for a step: some two milliseconds is usual, half a second for a large
convolution on a busy machine."""

_DTYPES = {"spikes": np.uint8, "u": np.int32, "v": np.int32}


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

    Raises :class:`lava_export.netx.NetxError` for the file and where its network has branches,
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
    """
    if not network.is_chain:
        raise netx.NetxError(f"{path}: {netx.CHAINS_ONLY}")
    lava_compat.require()
    x = network.check_payloads(x)
    steps, samples = x.shape[:2]
    lag = network.arrivals[-1]
    taps = [(state, index) for state, indices in record.items() for index in indices]
    if not samples or not steps:
        return {
            (state, index): np.zeros((steps, samples, *network.shapes[index]), dtype=_DTYPES[state])
            for state, index in taps
        }
    static = x.strides[0] == 0  # then one step says it all
    first = network.layers[0].synapse
    rows = np.moveaxis(x[:1] if static else x, 0, 1)
    rows = rows.reshape(-1, *network.input_shape)
    rows = rows.reshape(len(rows), -1) if isinstance(first, Dense) else _turned(rows)
    runs, together = (samples, 1) if network.has_delays else (1, samples)
    total = steps * together + lag
    result = supervise.run(
        _in_lava,
        deadline=START + runs * (RESTART + STEP * total) if deadline is None else deadline,
        path=str(path.resolve()),
        x=rows.reshape(runs, -1, *rows.shape[1:]),
        repeat=steps if static else 1,
        interval=steps,
        total=total,
        # To Lava any number above 0 means that spikes have payloads.
        message_bits=0 if network.encoding.binary else formats.WEIGHT_BITS,
        current=isinstance(first, Inject),
        taps=taps,
    )
    found = {}
    for state, index in taps:
        arrival, shape = network.arrivals[index], network.shapes[index]
        rows = result[f"{state}-{index}"][:, arrival : arrival + steps * together]
        rows = _turned(rows.reshape(samples * steps, *shape[::-1]))
        found[state, index] = np.moveaxis(rows.reshape(samples, steps, *shape), 0, 1)
    return found


def _turned(rows: NDArray[Any]) -> NDArray[Any]:
    """Images from (C, H, W) to Lava's (W, H, C), or back; rows that are no images as they are."""
    return rows.transpose(0, 3, 2, 1) if rows.ndim == 4 else rows


def _in_lava(
    folder: Path,
    *,
    path: str,
    x: NDArray[Any],
    repeat: int,
    interval: int,
    total: int,
    message_bits: int,
    current: bool,
    taps: list[tuple[str, int]],
) -> dict[str, NDArray[Any]]:
    """In the supervised child: for each of ``x`` ``[runs, rows, *shape]`` a run of ``total`` steps.

    Returns for each of ``taps`` an array ``state-layer`` of ``[runs, total, *shape]``, in Lava's
    time and order. ``current``: the first block has neurons, and x goes straight into them.
    """
    supervise.prepare_lava()
    from lava.lib.dl.netx import hdf5
    from lava.magma.core.run_conditions import RunSteps
    from lava.magma.core.run_configs import Loihi2SimCfg
    from lava.proc.lif.process import LIFReset

    from lava_export.processes.taps import Source, TappedLIFReset

    payloads = folder / "payloads.npy"
    np.save(payloads, x)
    files: dict[str, Path] = {}
    for run_index in range(len(x)):
        net = hdf5.Network(
            net_config=path,
            input_message_bits=message_bits,
            reset_interval=interval,
            # A block of synapses hears at step 2 what was sent at step 1; neurons hear it at once.
            reset_offset=0 if current else 1,
        )
        source = Source(
            file=str(payloads), index=run_index, shape=tuple(x.shape[2:]), repeat=repeat
        )
        source.s_out.connect(net.in_layer.neuron.a_in if current else net.inp)
        mine: dict[int, dict[str, str]] = {}
        for state, index in taps:
            block, name = net.layers[index], f"{state}-{index}"
            if not run_index:
                shape = (len(x), total, *(int(n) for n in block.shape))
                files[name] = folder / f"{name}.npy"
                np.lib.format.open_memmap(files[name], "w+", _DTYPES[state], shape)
            mine.setdefault(index, {})[state] = str(files[name])
        for index, its_files in mine.items():
            net.layers[index].neuron.proc_params.overwrite("taps", (its_files, run_index))
        net.run(
            condition=RunSteps(num_steps=total),
            run_cfg=Loihi2SimCfg(
                select_tag="fixed_pt", exception_proc_model_map={LIFReset: TappedLIFReset}
            ),
        )
        if run_index + 1 < len(x):  # the last one is ended faster by the supervisor
            net.stop()
    return {name: np.load(file, mmap_mode="r") for name, file in files.items()}
