"""What the tests have supervised children do: they need a module that a new Python can import."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from loihi import PumiceError


def add(folder: Path, a: np.ndarray, b: int) -> dict[str, Any]:
    return {"sum": a + b, "count": len(a), "writable": a.flags.writeable}


def environment(folder: Path) -> dict[str, Any]:
    return {"session": os.getsid(0), "pid": os.getpid(), "folder": str(folder)}


def fail(folder: Path) -> dict[str, Any]:
    raise ZeroDivisionError("no number\ndivides by zero")


def complain(folder: Path) -> dict[str, Any]:
    raise PumiceError("one clear line")


def talk_and_hang(folder: Path, note: str = "") -> dict[str, Any]:
    print("I shall hang", flush=True)
    if note:
        Path(note).write_text(f"{os.getpid()} {folder}")
    time.sleep(300)
    return {}


def die(folder: Path) -> dict[str, Any]:
    print("I shall die", flush=True)
    os.kill(os.getpid(), 9)
    return {}


def hang_on(folder: Path, path: str) -> dict[str, Any]:
    return talk_and_hang(folder)


def die_of(folder: Path, path: str) -> dict[str, Any]:
    return die(folder)


def return_an_object(folder: Path) -> dict[str, Any]:
    return {"object": np.array([object()])}


def _in_lava(**arguments: Any) -> dict[str, Any]:
    from lava_export import run

    return run._in_lava(**arguments)


def throw_in_lava(folder: Path, **arguments: Any) -> dict[str, Any]:
    """A run in which every layer's neurons throw at step 3."""
    from loihi import lava_compat

    lava_compat.install(netx_only=True)
    from lava.proc.lif.models import PyLifResetModelBitAcc

    step = PyLifResetModelBitAcc.run_spk

    def run_spk(self: Any) -> None:
        if self.time_step == 3:
            raise ArithmeticError("injected into a neuron")
        step(self)

    PyLifResetModelBitAcc.run_spk = run_spk
    return _in_lava(folder=folder, **arguments)


def throw_while_lava_is_built(folder: Path, **arguments: Any) -> dict[str, Any]:
    """A run in which a process's model cannot be built."""
    from loihi import lava_compat

    lava_compat.install(netx_only=True)
    from lava.proc.lif.models import PyLifResetModelBitAcc

    def init(self: Any, params: Any) -> None:
        raise ArithmeticError("injected into a constructor")

    PyLifResetModelBitAcc.__init__ = init
    return _in_lava(folder=folder, **arguments)


def kill_a_lava_process(folder: Path, **arguments: Any) -> dict[str, Any]:
    """A run in which the kernel ends a process, as it does when memory is short."""
    from loihi import lava_compat

    lava_compat.install(netx_only=True)
    from lava.proc.lif.models import PyLifResetModelBitAcc

    step = PyLifResetModelBitAcc.run_spk

    def run_spk(self: Any) -> None:
        if self.time_step == 3:
            os.kill(os.getpid(), 9)
        step(self)

    PyLifResetModelBitAcc.run_spk = run_spk
    return _in_lava(folder=folder, **arguments)


def without_wiring(folder: Path, **arguments: Any) -> dict[str, Any]:
    """A run that only Intel's loader can do."""
    from lava_export import wiring

    del wiring.build
    return _in_lava(folder=folder, **arguments)


def without_netx(folder: Path, **arguments: Any) -> dict[str, Any]:
    """A run that Intel's loader has no part in."""
    from lava_export import run

    del run._load
    return _in_lava(folder=folder, **arguments)


def hang_in_lava(folder: Path, note: str, **arguments: Any) -> dict[str, Any]:
    """A run that stops at step 3 and says in ``note`` that it is there, and who it is."""
    from loihi import lava_compat

    lava_compat.install(netx_only=True)
    from lava.proc.lif.models import PyLifResetModelBitAcc

    step = PyLifResetModelBitAcc.run_spk

    def run_spk(self: Any) -> None:
        if self.time_step == 3:
            Path(note).write_text(f"{os.getsid(0)} {folder}")
            time.sleep(300)
        step(self)

    PyLifResetModelBitAcc.run_spk = run_spk
    return _in_lava(folder=folder, **arguments)


def run_several(folder: Path, paths: list[str], **payloads: np.ndarray) -> dict[str, Any]:
    """``run.run`` of several files, one after the other in one child, which imports Lava once.

    payloads: ``x0``, ``x1``, …; returned are ``spikes-<file>-<layer>`` and so on.
    """
    from lava_export import run, supervise

    supervise.prepare_lava()
    from lava.magma.core.process.process import AbstractProcess

    started: list[Any] = []
    original = AbstractProcess.run

    def remembered(self: Any, *args: Any, **options: Any) -> None:
        started.append(self)
        original(self, *args, **options)

    AbstractProcess.run = remembered

    def here(job: Any, *, deadline: float, **arguments: Any) -> dict[str, Any]:
        place = folder / str(len(started))
        place.mkdir()
        supervise._save(place, "arguments", arguments)
        files = job(place, **supervise._load(place, "arguments", "r"))
        found = {name: np.load(file) for name, file in files.items()}
        started[-1].stop()
        return found

    supervise.run = here  # type: ignore[assignment]
    states = ("spikes", "u", "v")
    found = {}
    for number, path in enumerate(paths):
        x = payloads[f"x{number}"]
        if len(x) and (x == x[0]).all():
            x = np.broadcast_to(x[0], x.shape)  # as a static image comes; files do not keep that
        trace = run.run(path, x, states)
        for state in states:
            for index, rows in enumerate(getattr(trace, state)):
                found[f"{state}-{number}-{index}"] = rows
    return found


def execute(folder: Path, code: str, where: str, wanted: list[str]) -> dict[str, Any]:
    """Python code in a folder of files; the variables that it leaves."""
    from lava_export import supervise

    supervise.prepare_lava()
    os.chdir(where)
    names: dict[str, Any] = {}
    exec(code, names)
    return {name: names[name] for name in wanted}
