"""To a Loihi 2 board: what is missing for it, and a folder that runs there.

The folder holds the network's file, samples with what the reference says of them, the constraint
report, and :mod:`lava_export.board` as ``run.py``, which needs nothing of pumice: on the board's
host it loads the file through netx, puts Intel's spike adapters around it, refuses process models
that would run on a CPU, and compares.

No board was there when this was written: what runs on one was read from public code. The script is
proved in Lava's simulator, where it has to be told so.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lava_export import board, netx, supervise
from lava_export.board import Check
from loihi import (
    Conv,
    Dense,
    Inject,
    Network,
    Neuron,
    PumiceError,
    files,
    formats,
    limits,
    reference,
)
from loihi.limits import Report

MODEL, SCRIPT, SETTINGS, SAMPLES = "model.net", "run.py", "settings.json", "samples.npz"
REPORT, RESULT = "constraints", "result.json"


class DeployError(PumiceError):
    """A network that a board cannot take, or a folder that cannot be written or run."""


@dataclass(frozen=True)
class Preflight:
    """What a run on a board needs: a line for each, and the constraint report."""

    checks: tuple[Check, ...]
    report: Report

    @property
    def ok(self) -> bool:
        """Whether nothing is missing."""
        return all(check.ok for check in self.checks)

    @property
    def missing(self) -> tuple[str, ...]:
        """The names of what is."""
        return tuple(check.name for check in self.checks if not check.ok)


def preflight(network: Network, on: limits.Chip, x: NDArray[Any] | None = None) -> Preflight:
    """What is there for ``network`` and what is missing, on this machine and on the chip.

    x: payloads ``[T, N, *input_shape]`` on which numbers are looked at too. Raises a
    :class:`DeployError` for a network that no board could be given through netx.
    """
    require(network)
    report = limits.check(network, on, x)
    broken = [f for f in report.findings if f.level == "error"]
    worst = [f for f in report.findings if f.level == "warning"]
    name = "constraints"
    if broken:
        first = broken[0]
        where = first.layer or "the network"
        found = f"{len(broken)} rules of {on.name} broken: {first.rule} in {where}"
        advice = first.message or f"{first.used:g} of {first.allowed:g} {first.unit}"
        check = Check(name, False, found, advice)
    else:
        found = f"all rules of {on.name} kept, {len(worst)} warnings"
        check = Check(name, True, found)
    model = Check("network", True, f"{len(network.layers)} layers, which netx holds")
    return Preflight((model, check, *board.preflight()), report)


def require(network: Network) -> None:
    """A :class:`DeployError` with the reason, if netx and the script cannot take this network."""
    if reason := netx.why_not(network):
        raise DeployError(
            f"{reason}: on a board it would need processes, and for a soft reset microcode, of "
            "one's own; Lava's simulator runs it (pumice verify)"
        )
    for name, layer in zip(network.names, network.layers, strict=True):
        neuron = layer.neuron
        if not isinstance(neuron, Neuron):
            kind = type(neuron).__name__
            raise DeployError(f"layer {name}: only LIF neurons can be deployed, not {kind}")
        if isinstance(layer.synapse, Inject):
            if neuron.du != formats.DECAY_ONE:
                raise DeployError(
                    f"layer {name}: on a board an input layer takes its current as a bias, which "
                    f"does the same at du = {formats.DECAY_ONE} only, not at {neuron.du}"
                )
            if network.encoding.kind != "graded":
                raise DeployError(
                    f"layer {name}: on a board an input layer takes its current as a bias, set "
                    f"once a sample: the encoding {network.encoding.kind} changes in time"
                )


def write(
    network: Network,
    x: NDArray[Any],
    out: Path,
    on: limits.Chip,
    labels: NDArray[np.integer[Any]] | None = None,
) -> Preflight:
    """The folder ``out``, whole or not at all; what a run on a board would need here and now.

    x: payloads ``[T, N, *input_shape]`` of the samples that the board is to be compared on.
    labels: their classes, for whoever reads them.

    Raises :class:`DeployError` for what :func:`require` says, for no samples, and where the folder
    is there already or cannot be written.
    """
    found = preflight(network, on, x)
    x = network.check_payloads(x)
    if not x.shape[1]:
        raise DeployError("a board is compared on some samples: there are none")
    if out.exists() or out.is_symlink():
        raise DeployError(f"{out} is there already: name a folder that is not")
    try:
        made = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}-"))
    except OSError as error:
        raise DeployError(f"{out}: cannot be written: {error.strerror or error}") from None
    try:
        _fill(made, network, x, found, on, labels)
        made.chmod(0o777 & ~files.umask())  # mkdtemp's are private
        if out.exists():
            raise DeployError(f"{out} is there already: name a folder that is not")
        made.rename(out)
    except BaseException as error:
        shutil.rmtree(made, ignore_errors=True)
        if isinstance(error, OSError):
            words = f"{out}: cannot be written: {error.strerror or error}"
            raise DeployError(words) from None
        raise
    return found


@contextmanager
def place(out: Path | None) -> Iterator[Path]:
    """Where a folder is to be written: ``out``, or a place that is gone afterwards."""
    if out is not None:
        yield out
        return
    with tempfile.TemporaryDirectory(prefix="pumice-") as folder:
        yield Path(folder, "board")


def run(folder: Path, arguments: Sequence[str], deadline: float) -> dict[str, Any]:
    """The folder's script in a supervised child, with its arguments; its result.json, with its
    ``code`` and what it printed, ``log``.

    Raises :class:`lava_export.supervise.ChildError`: the deadline passed, Lava failed; and
    :class:`DeployError` with the line in which the script refused.
    """
    done = supervise.run(
        _script, deadline=deadline, place=str(folder.resolve()), arguments=list(arguments)
    )
    if done["code"] not in (0, 1):
        raise DeployError(str(done["log"]).strip().splitlines()[-1])
    result: dict[str, Any] = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    return {**result, "code": done["code"], "log": done["log"]}


def _script(folder: Path, *, place: str, arguments: list[str]) -> dict[str, Any]:
    """In the child: the script as the board's host would run it, Lava made importable before."""
    import runpy

    supervise.prepare_lava()
    said = io.StringIO()
    argv, sys.argv = sys.argv, [str(Path(place, SCRIPT)), *arguments]
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as done:
        return {"code": int(done.code or 0), "log": said.getvalue()}
    finally:
        sys.argv = argv
        print(said.getvalue())
    return {"code": 0, "log": said.getvalue()}


# --- what is in the folder ----------------------------------------------------------------------


def _fill(
    place: Path,
    network: Network,
    x: NDArray[Any],
    found: Preflight,
    on: limits.Chip,
    labels: NDArray[np.integer[Any]] | None,
) -> None:
    netx.write(network, place / MODEL)
    record = ("spikes", "v") if network.readout == "membrane" else ("spikes",)
    trace = reference.run(network, x, record)
    arrays: dict[str, Any] = {
        "payloads": x,
        "scores": reference.scores(network, trace),
        **{f"spikes_{i}": spikes for i, spikes in enumerate(trace.spikes)},
    }
    if labels is not None:
        arrays["labels"] = np.asarray(labels, dtype=np.int64)
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    _put(place / SAMPLES, content.getvalue())
    first = network.layers[0].synapse
    kinds = {Inject: "current", Dense: "dense", Conv: "conv"}
    digests = {
        name: hashlib.sha256((place / name).read_bytes()).hexdigest() for name in (MODEL, SAMPLES)
    }
    settings = {
        "sha256": digests,
        "names": network.names,
        "arrivals": network.arrivals,
        "readout": network.readout,
        "input": kinds[type(first)],
        # To Lava any number above 0 means that spikes have payloads.
        "message_bits": 0 if network.encoding.binary else formats.WEIGHT_BITS,
        "delays": network.has_delays,
    }
    seal = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    _put(place / SETTINGS, _json({"sha256": seal, "settings": settings}))
    rules = {"chip": on.name, "ok": found.report.ok, "rules": found.report.as_dicts()}
    _put(place / f"{REPORT}.json", _json(rules))
    _put(place / f"{REPORT}.txt", _report_text(network, found.report, on).encode())
    _put(place / SCRIPT, Path(board.__file__).read_bytes())
    _put(place / "README.txt", _readme(network, x.shape[1], digests[MODEL]).encode())


def _put(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _json(data: Any) -> bytes:
    return (json.dumps(data, indent=1, default=lambda n: n.item()) + "\n").encode()


def _report_text(network: Network, report: Report, on: limits.Chip) -> str:
    lines = [f"{on.name}: {'all rules are kept' if report.ok else 'RULES ARE BROKEN'}", ""]
    for found in report.findings:
        used = f"{_number(found.used)} of {_number(found.allowed)} {found.unit}"
        where = found.layer or "the network"
        note = f": {found.message}" if found.message else ""
        lines.append(f"{found.level:8}{found.rule:16} {where}: {used}{note}")
    lines += ["", f"Where the figures of {on.name} come from:"]
    lines += [f"  {figure}: {source}" for figure, source in on.sources.items()]
    return "\n".join(lines) + "\n"


def _number(x: float) -> str:
    return f"{x:,.0f}" if x == int(x) else f"{x:.3f}"


def _readme(network: Network, samples: int, digest: str) -> str:
    layers = "\n".join(f"    {name}" for name in network.names)
    chips = ", ".join(board.GENERATIONS)
    return f"""A network for Loihi 2, and how to see that it does there what it should.

    model.net          the network, for lava.lib.dl.netx (sha256 {digest})
{layers}
    samples.npz        {samples} samples: payloads [T, N, ...], and what pumice's integer reference
                       says of them: spikes_0 .. [T, N, ...] of each layer, scores [N, classes]
    run.py             runs them on the board and compares; needs lava-nc, lava-dl, numpy, and
                       Intel's lava-loihi; nothing of pumice
    constraints.txt    the network against the chip's limits (constraints.json: the same)

On the board's host, in the environment in which lava-loihi is installed:

    export LOIHI_GEN=N3B3                        the chip's generation: {chips}
    export SLURM=1 PARTITION=oheogulch           on a cluster: PARTITION, or BOARD, as sinfo says
    export NOSLURM=1 NXSDKHOST=192.0.2.1         or: a board on the network, by its address

    python run.py --preflight                    what is there, what is missing
    python run.py                                run and compare; result.json has the counts

Status 0: every number is the reference's. 1: some are not. 2: it could not run. It never simulates
unless it is told to, on any machine with Lava:

    python run.py --simulate

If spikes differ: --layers last leaves the hidden layers' outputs alone. If the script says that
they fit some steps later, --input-lag gives them that many steps to get onto the chip. --interval
is the number of steps from one sample to the next, by default the next power of two, because users
of Loihi 2 report that its LIFReset takes no other.

Nobody has run this on a chip yet. The way of the spikes onto it and off it, and the models that
lava-loihi chooses, were read from public code; run.py refuses models that would run on the CPU.
"""
