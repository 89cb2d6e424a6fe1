"""Several processes at work on one sweep."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from loihi.errors import PumiceError
from trainer.sweep.plan import Plan
from trainer.sweep.space import Space, SweepError

if TYPE_CHECKING:
    from trainer.sweep.study import Sweep

GRACE = 10.0
"""Seconds that a worker has to end by itself."""


def employ(sweep: Sweep, trials: int, workers: int, tell: Callable[[], None]) -> None:
    """Workers in processes of their own, which end with this one, however it ends."""
    threads = str(max(1, _cores() // workers))
    names = ("OMP", "OPENBLAS", "MKL", "NUMBA")
    environment = {
        **os.environ,
        **{f"{name}_NUM_THREADS": threads for name in names},
        "PYTHONPATH": os.pathsep.join(entry or os.getcwd() for entry in sys.path),
    }
    command = [
        *(sys.executable, "-c", "from trainer.sweep import workers; workers.work()"),
        *(str(sweep.folder), str(trials), sweep.plan.space.fixed.device),
    ]
    children: list[subprocess.Popen[bytes]] = []
    with tempfile.TemporaryFile() as said:
        try:
            for _ in range(workers):
                child = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,  # its lifeline: closed when this process is gone
                    stdout=subprocess.DEVNULL,
                    stderr=said,
                    env=environment,
                    start_new_session=True,  # Ctrl-C is for this process, which passes it on
                )
                children.append(child)
            while any(child.poll() is None for child in children):
                time.sleep(0.2)
                tell()
        finally:
            _dismiss(children)
        codes = [child.returncode for child in children if child.returncode]
        if codes and not sweep.done(trials):
            said.seek(0)
            lines = said.read().decode(errors="replace").strip().splitlines()
            how = f"exit status {codes[0]}" if codes[0] > 0 else f"signal {-codes[0]}"
            raise SweepError(
                f"a worker ended by {how}{f' ({lines[-1]})' if lines else ''}: "
                "the same command goes on with its trial"
            )


def _cores() -> int:
    allowed = getattr(os, "sched_getaffinity", None)  # not everywhere
    return len(allowed(0)) if allowed else os.cpu_count() or 1


def _dismiss(children: list[subprocess.Popen[bytes]]) -> None:
    for child in children:
        assert child.stdin is not None
        child.stdin.close()
    until = time.monotonic() + GRACE
    for child in children:
        try:
            child.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def work() -> None:
    """A worker's process; it is interrupted when its stdin is closed."""
    from trainer.sweep.study import Sweep

    folder, trials, device = sys.argv[1:]

    def watch() -> None:
        os.read(0, 1)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(GRACE)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    try:
        plan = Plan.read(Path(folder))
        assert plan is not None
        space = plan.space
        plan = replace(plan, space=Space(space.said, replace(space.fixed, device=device)))
        Sweep(plan, folder).work(int(trials), lambda: None)
    except KeyboardInterrupt:
        sys.exit(130)
    except PumiceError as error:
        sys.exit(str(error))
