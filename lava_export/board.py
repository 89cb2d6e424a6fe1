"""Run the network in this folder on a Loihi 2 board, and compare what it does with the reference.

    python run.py                on the board: see README.txt for what is to be set there
    python run.py --simulate     in Lava's simulator on this CPU instead, and it says so

Needs lava-nc, lava-dl and numpy, and on a board Intel's lava-loihi; nothing of pumice. Nothing is
ever simulated unless it was asked for: without a board this ends with status 2, and says what is
missing. 0: every number is the reference's; 1: some are not; result.json has the counts.

What Intel's extension does has been read from public code that uses it, never run by the authors.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

HERE = Path(__file__).resolve().parent
GENERATIONS = ("N3B2", "N3B3", "N3C1", "N3D1")
"""What LOIHI_GEN may say for a Loihi 2; N2A2, which Lava knows too, is a Loihi 1."""
PATIENCE = 10.0
"""Seconds that sinfo and ping get to answer."""
LAGS = range(-2, 5)
"""Steps by which spikes are looked for where they do not fit."""


class Check(NamedTuple):
    """One line of the preflight: ``found`` if it is ok, else ``advice`` says what to do."""

    name: str
    ok: bool
    found: str
    advice: str = ""

    def __str__(self) -> str:
        mark, advice = ("ok" if self.ok else "NO"), f": {self.advice}" if self.advice else ""
        return f"{mark}  {self.name}: {self.found}{advice}"


class Refused(Exception):
    """What keeps the network from running, in one line."""


# --- what a board needs -------------------------------------------------------------------------


def preflight() -> list[Check]:
    """What this machine has of what a run on a board needs, one line for each."""
    return [_lava(), _extension(), _adapters(), _generation(), _host()]


def _spec(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def _lava() -> Check:
    missing = [name for name in ("lava.magma.core", "lava.lib.dl.netx") if not _spec(name)]
    if missing:
        advice = "pip install lava-nc lava-dl, in Python 3.10"
        return Check("Lava", False, f"no {' and no '.join(missing)}", advice)
    return Check("Lava", True, "lava-nc and lava-dl are installed")


def _require_lava() -> None:
    """Refuses a Python that Lava's wheels are not made for: they fail as they are imported."""
    try:
        from lava.lib.dl.netx import hdf5  # noqa: F401
    except Exception as error:
        version = ".".join(map(str, sys.version_info[:2]))
        words = " ".join(f"{type(error).__name__}: {error}".split())
        raise Refused(
            f"Lava cannot be imported in Python {version}, its wheels ask for 3.10 ({words}); "
            "pumice deploy --simulate runs it in later ones"
        ) from None


def _extension() -> Check:
    """By the module by which lava.utils.loihi.is_installed() knows it."""
    if _spec("lava.utils.loihi2_profiler"):
        return Check("lava-loihi", True, "installed")
    advice = "Intel gives it to members of its research community (INRC); ask there"
    return Check("lava-loihi", False, "not installed", advice)


def _adapters() -> Check:
    if _spec("lava.proc.embedded_io"):
        return Check("spike adapters", True, "lava.proc.embedded_io is there")
    advice = "it is a part of lava-loihi: install that"
    return Check("spike adapters", False, "no lava.proc.embedded_io", advice)


def _generation() -> Check:
    name, known = "chip generation", ", ".join(GENERATIONS)
    said = os.environ.get("LOIHI_GEN", "")
    if said in GENERATIONS:
        return Check(name, True, f"LOIHI_GEN={said}")
    if said == "N2A2":
        return Check(name, False, "LOIHI_GEN=N2A2 is a Loihi 1", f"use one of {known}")
    found = f"LOIHI_GEN={said}" if said else "LOIHI_GEN is not set"
    return Check(name, False, found, f"set it to the board's: one of {known}")


def _host() -> Check:
    """The board: a partition or a node of SLURM's, or an address on the network."""
    name = "host"
    get = os.environ.get
    address, by_slurm = get("NXSDKHOST"), bool(get("SLURM"))
    if (address or get("NOSLURM")) and not by_slurm:
        if not address:
            advice = "set NXSDKHOST to the board's address"
            return Check(name, False, "NOSLURM without NXSDKHOST", advice)
        if shutil.which("ping") and _answer(["ping", "-c", "1", address]) is None:
            return Check(name, False, f"{address} does not answer to ping", "is the board on?")
        return Check(name, True, f"NXSDKHOST={address}")
    lines = _answer(["sinfo"])
    if lines is None:
        there = "sinfo fails" if shutil.which("sinfo") else "no SLURM (no sinfo)"
        advice = (
            "on a SLURM cluster set SLURM=1 and PARTITION or BOARD; for a board on the network "
            "NOSLURM=1 and NXSDKHOST"
        )
        return Check(name, False, f"{there}, no NXSDKHOST", advice)
    board, partition = get("BOARD"), get("PARTITION")
    if board:
        nodes = {row[0]: row[3] for row in _columns(_answer(["sinfo", "-N"]) or "", 4)}
        return _slurm(name, "BOARD", board, nodes)
    rows = {row[0].rstrip("*"): row[4] for row in _columns(lines, 5)}
    if partition:
        return _slurm(name, "PARTITION", partition, rows)
    usual = f"PARTITION is one of {', '.join(rows) or 'none'}"
    return Check(name, False, "SLURM, no PARTITION and no BOARD", f"set one of them; {usual}")


def _slurm(name: str, variable: str, value: str, known: dict[str, str]) -> Check:
    if value not in known:
        advice = f"sinfo lists {', '.join(known) or 'none'}"
        return Check(name, False, f"{variable}={value} is not there", advice)
    if "down" in known[value]:
        return Check(name, False, f"{variable}={value} is {known[value]}", "use another one")
    return Check(name, True, f"SLURM, {variable}={value} ({known[value]})")


def _columns(text: str, count: int) -> list[list[str]]:
    """The rows of what sinfo prints, without their heading."""
    rows = [line.split() for line in text.splitlines()[1:]]
    return [row for row in rows if len(row) >= count]


def _answer(command: list[str]) -> str | None:
    """What a program prints; None where it is absent, fails or does not answer in time."""
    if shutil.which(command[0]) is None:
        return None
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


# --- the folder ---------------------------------------------------------------------------------


class Folder:
    """What is to be run: the network's file, samples, and what the reference says of them.

    payloads: ``[T, N, *input_shape]``. spikes: of each layer ``[T, N, *shape]``, images (C, H, W).
    scores: ``[N, classes]``.
    """

    def __init__(self, place: Path) -> None:
        self.model = place / "model.net"
        self.settings = self._settings(place)
        with np.load(place / "samples.npz", allow_pickle=False) as arrays:
            self.payloads = arrays["payloads"]
            self.scores = arrays["scores"]
            self.spikes = [arrays[f"spikes_{i}"] for i in range(len(self.settings["names"]))]

    def _settings(self, place: Path) -> dict[str, Any]:
        """What settings.json says, once it and the files that it names are seen to be whole."""
        path = place / "settings.json"
        try:
            said = json.loads(path.read_text(encoding="utf-8"))
            settings: dict[str, Any] = said["settings"]
            text = json.dumps(settings, sort_keys=True)
            digests = {path: (said["sha256"], hashlib.sha256(text.encode()).hexdigest())}
            for name, expected in settings["sha256"].items():
                found = hashlib.sha256((place / name).read_bytes()).hexdigest()
                digests[place / name] = (expected, found)
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            words = " ".join(f"{type(error).__name__}: {error}".split())
            raise Refused(f"{place} is not what pumice deploy wrote ({words})") from None
        for changed, (expected, found) in digests.items():
            if found != expected:
                raise Refused(f"{changed} is not the file that this folder was made with")
        return settings

    def first(self, samples: int) -> None:
        """No more than so many samples."""
        self.payloads, self.scores = self.payloads[:, :samples], self.scores[:samples]
        self.spikes = [spikes[:, :samples] for spikes in self.spikes]


def turned(x: Any) -> Any:
    """Images ``[..., C, H, W]`` in Lava's order (W, H, C), or back; else as it is."""
    return np.swapaxes(x, -1, -3) if x.ndim > 4 else x


# --- the run ------------------------------------------------------------------------------------


class Plan(NamedTuple):
    """When things happen, in steps of the chip, of samples that follow each other in one run.

    interval: steps from one sample to the next, at each of which every layer is cleared.
    lag: steps that spikes need from Python into the first synapse, beyond what the simulator needs.
    """

    steps: int
    samples: int
    arrivals: list[int]
    interval: int
    lag: int

    @property
    def reads(self) -> list[int]:
        """After which steps the last layer has done a sample's last one."""
        last = self.lag + self.arrivals[-1] + self.steps
        return [sample * self.interval + last for sample in range(self.samples)]

    def cut(self, rows: Any, layer: int, by: int = 0) -> Any:
        """Of rows ``[*shape, total]`` those of the samples, ``[T, N, *shape]``; ``by`` later."""
        first = self.lag + self.arrivals[layer] + by
        rows = np.moveaxis(rows, -1, 0)
        found = np.zeros((self.steps, self.samples, *rows.shape[1:]), dtype=rows.dtype)
        for sample in range(self.samples):
            start = sample * self.interval + first
            part = rows[max(start, 0) : max(start + self.steps, 0)]
            skipped = max(-start, 0)
            found[skipped : skipped + len(part), sample] = part
        return found


def run(folder: Folder, simulate: bool, layers: list[int], interval: int, lag: int) -> Any:
    """All samples; spikes of ``layers`` at each shift ``[T, N, *shape]``, scores ``[N, classes]``,
    and which model ran each kind of process."""
    settings = folder.settings
    steps, samples = folder.payloads.shape[:2]
    # Nothing clears what is under way in a delay, and a current is a bias, set once a run.
    apart = settings["delays"] or settings["input"] == "current"
    groups = [[n] for n in range(samples)] if apart else [list(range(samples))]
    chosen: dict[str, str] = {}
    spikes: dict[int, dict[int, list[Any]]] = {i: {by: [] for by in LAGS} for i in layers}
    scores = []
    for group in groups:
        plan = Plan(steps, len(group), settings["arrivals"], interval, lag)
        rows, read = run_once(folder, folder.payloads[:, group], simulate, layers, plan, chosen)
        scores.append(read)
        for i in layers:
            for by in LAGS:
                spikes[i][by].append(turned(plan.cut(rows[i], i, by)))
    together = {
        i: {by: np.concatenate(parts, axis=1) for by, parts in shifted.items()}
        for i, shifted in spikes.items()
    }
    return together, np.concatenate(scores), chosen


def run_once(
    folder: Folder,
    payloads: Any,
    simulate: bool,
    layers: list[int],
    plan: Plan,
    chosen: dict[str, str],
) -> Any:
    """Samples that follow each other: spikes of layers ``[*shape, total]``, scores."""
    from lava.lib.dl.netx import hdf5
    from lava.magma.core.run_conditions import RunSteps
    from lava.proc.io import sink, source

    settings, total = folder.settings, plan.reads[-1]
    current = settings["input"] == "current"
    net = hdf5.Network(
        net_config=str(folder.model),
        input_message_bits=settings["message_bits"],
        reset_interval=plan.interval,
        # A block of synapses hears at step 2 what was sent at step 1; neurons hear it at once.
        reset_offset=plan.lag + (0 if current else 1),
    )
    flat = payloads.reshape(*payloads.shape[:2], -1) if settings["input"] == "dense" else payloads
    sent = turned(flat)
    host: list[Any] = []
    if current:
        # Without a memory of the current, a bias does to v what a current does.
        net.in_layer.neuron.bias_mant.init = sent[0, 0].astype(np.int32)
    else:
        data = np.zeros((*sent.shape[2:], total), dtype=np.int32)
        for sample in range(plan.samples):
            at = sample * plan.interval
            data[..., at : at + plan.steps] = np.moveaxis(sent[:, sample], 0, -1)
        feed = source.RingBuffer(data=data)
        host.append(feed)
        feed.s_out.connect(net.inp if simulate else _into(net, settings, host))
    sinks = {}
    for i in layers:
        block = net.layers[i]
        sinks[i] = sink.RingBuffer(shape=tuple(map(int, block.out.shape)), buffer=total)
        host.append(sinks[i])
        if simulate:
            block.out.connect(sinks[i].a_in)
        else:
            adapter = _out_of(block, host)
            adapter.out.connect(sinks[i].a_in)
    configuration = configured(simulate, host, chosen)
    scores = []
    done = 0
    for read in plan.reads:
        net.run(condition=RunSteps(num_steps=read - done), run_cfg=configuration)
        done = read
        if settings["readout"] == "membrane":
            v = np.asarray(net.layers[-1].neuron.v.get()).astype(np.int64)
            scores.append(turned(v[None, None])[0, 0].reshape(-1))
    rows = {i: np.asarray(its.data.get()).astype(np.int64) for i, its in sinks.items()}
    net.stop()
    if settings["readout"] == "spikes":
        last = len(settings["names"]) - 1
        counts = turned(plan.cut(rows[last], last)).sum(axis=0)
        return rows, counts.reshape(len(counts), -1)
    return rows, np.stack(scores)


def _into(net: Any, settings: dict[str, Any], host: list[Any]) -> Any:
    """The adapter from Python to the chip, connected to the network: its input port."""
    from lava.proc import embedded_io as eio

    kind = "PyToN3ConvAdapter" if settings["input"] == "conv" else "PyToNxAdapter"
    more = {"num_message_bits": settings["message_bits"]} if settings["message_bits"] else {}
    adapter = getattr(eio.spike, kind)(shape=net.inp.shape, **more)
    host.append(adapter)
    adapter.out.connect(net.inp)
    return adapter.inp


def _out_of(block: Any, host: list[Any]) -> Any:
    """The adapter from a layer on the chip to Python."""
    from lava.proc import embedded_io as eio

    adapter = eio.spike.NxToPyAdapter(shape=block.out.shape)
    host.append(adapter)
    block.out.connect(adapter.inp)
    return adapter


def configured(simulate: bool, host: list[Any], chosen: dict[str, str]) -> Any:
    """A run configuration that notes which model it chooses for each kind of process, and on a
    board refuses a model in Python for any but the ``host``'s processes."""
    from lava.magma.core.model.py.model import AbstractPyProcessModel
    from lava.magma.core.run_configs import Loihi2HwCfg, Loihi2SimCfg
    from lava.proc.io import sink, source

    class Checked(Loihi2SimCfg if simulate else Loihi2HwCfg):  # type: ignore[misc]
        """One of Lava's own, watched."""

        def select(self, process: Any, models: Any) -> Any:
            model = super().select(process, models)
            kind, name = type(process).__name__, model.__name__
            chosen[kind] = name
            if not simulate and process not in host and issubclass(model, AbstractPyProcessModel):
                raise Refused(
                    f"{kind} would run on this CPU ({name}): lava-loihi has no model of it for the "
                    "chip, or is not of this Lava"
                )
            return model

    integers = {
        source.RingBuffer: source.PySendModelFixed,
        sink.RingBuffer: sink.PyReceiveModelFixed,
    }
    if simulate:
        return Checked(select_tag="fixed_pt")
    return Checked(exception_proc_model_map=integers)


# --- what comes of it ---------------------------------------------------------------------------


def compare(folder: Folder, layers: list[int], found: Any, scores: Any) -> dict[str, Any]:
    """Counts of what is not the reference's, and by how many steps it is late, if it is."""
    names, result = folder.settings["names"], []
    late: int | None = 0
    for i in layers:
        wrong = {by: int((found[i][by] != folder.spikes[i]).sum()) for by in LAGS}
        result.append({"layer": names[i], "compared": folder.spikes[i].size, "wrong": wrong[0]})
        if i == layers[0] and wrong[0]:
            least = min(wrong, key=lambda by: (wrong[by], abs(by)))
            late = least if least and wrong[least] < wrong[0] / 2 else None
    missed = int((scores != folder.scores).sum())
    same = int((scores.argmax(1) == folder.scores.argmax(1)).sum())
    return {
        "mismatches": sum(layer["wrong"] for layer in result) + missed,
        "compared": sum(layer["compared"] for layer in result) + folder.scores.size,
        "layers": result,
        "scores": {"compared": folder.scores.size, "wrong": missed},
        "same_answers": same,
        "samples": len(folder.scores),
        "late": late,
    }


def main(arguments: list[str] | None = None, place: Path = HERE) -> int:
    """The command: 0 if all is as in the reference, 1 if not, 2 if it could not run."""
    try:
        return _main(arguments, place)
    except Refused as error:
        print(f"refused: {error}", file=sys.stderr)
        return 2


def _main(arguments: list[str] | None, place: Path) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    add = parser.add_argument
    add("--simulate", action="store_true", help="in Lava's simulator on this CPU, not on a chip")
    add("--layers", choices=("all", "last"), default="all", help="whose spikes are compared")
    add("--samples", type=int, help="how many, from the first; all by default")
    add("--interval", type=int, help="steps from one sample to the next; a power of two by default")
    add("--input-lag", type=int, default=0, help="steps that spikes need to get onto the chip")
    add("--preflight", action="store_true", help="say what is there and what is missing, no more")
    options = parser.parse_args(arguments)
    if options.preflight or not options.simulate:
        checks = preflight()
        print("\n".join(map(str, checks)))
        if missing := [check.name for check in checks if not check.ok]:
            where = "python run.py --simulate runs it in Lava's simulator on a CPU"
            raise Refused(f"no board: {', '.join(missing)} ({where})")
        if options.preflight:
            return 0
    folder = Folder(place)
    steps, known = folder.payloads.shape[0], folder.payloads.shape[1]
    if options.samples is not None:
        if not 1 <= options.samples <= known:
            raise Refused(f"--samples {options.samples}: there are 1 to {known}")
        folder.first(options.samples)
    if options.input_lag < 0:
        raise Refused(f"--input-lag {options.input_lag}: 0 steps at least")
    least, why = steps, f"a sample lasts {steps} steps"
    way = 1 + options.input_lag + max(folder.settings["arrivals"])
    if folder.settings["delays"] and way > steps:
        # What a layer sends before its reset arrives after the next one's.
        least, why = way, f"a sample takes {way} steps to the last layer, and there are delays"
    # Users of Loihi 2 say that its LIFReset takes powers of two; the simulator takes any.
    interval = options.interval or 1 << (least - 1).bit_length()
    if interval < least:
        raise Refused(f"--interval {interval}: {why}")
    _require_lava()
    mode = "simulated" if options.simulate else "loihi2"
    where = "SIMULATED in Lava on this CPU, on no chip" if options.simulate else "on Loihi 2"
    print(f"{folder.payloads.shape[1]} samples of {steps} steps, {where} ...", flush=True)
    last = len(folder.settings["names"]) - 1
    layers = list(range(last + 1)) if options.layers == "all" else [last]
    found, scores, chosen = run(folder, options.simulate, layers, interval, options.input_lag)
    result = compare(folder, layers, found, scores)
    result |= {"mode": mode, "interval": interval, "input_lag": options.input_lag, "models": chosen}
    temporary = place / ".result.json"
    temporary.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    temporary.replace(place / "result.json")
    for kind, model in sorted(chosen.items()):
        print(f"{kind} ran as {model}")
    for layer in result["layers"]:
        print(f"layer {layer['layer']}: {layer['wrong']} of {layer['compared']} spikes wrong")
    print(f"scores: {result['scores']['wrong']} of {result['scores']['compared']} wrong")
    print(f"answers: {result['same_answers']} of {result['samples']} are the reference's")
    if result["late"]:
        by = options.input_lag + result["late"]
        print(f"the first layer's spikes fit {result['late']} steps later: try --input-lag {by}")
    print(f"{result['mismatches']} mismatches of {result['compared']} numbers, {where}")
    return 1 if result["mismatches"] else 0


if __name__ == "__main__":
    sys.exit(main())
