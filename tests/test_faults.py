"""Commands ended or starved at any moment: nothing half written, nothing lost, nothing left behind.

Each round takes a command, ends it by a signal at a random moment, or gives it too small a disk, a
read-only one or too little memory, and then looks: at what it said, at its processes, at shared
memory and temporary files, at the file that was in the output's place before. Then the same command
runs undisturbed, and must come to what it comes to on a quiet day.

``PUMICE_FAULTS=100`` for a hundred rounds; a few in every run.
"""

from __future__ import annotations

import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from lava_export import netx

ROUNDS = int(os.environ.get("PUMICE_FAULTS", "0"))
ROOT = Path(__file__).resolve().parent.parent
SIGNALS = ("SIGKILL", "SIGTERM", "SIGINT")
READ_ONLY = (
    "unshare", "-m", "sh", "-c",
    'mount --bind . . && cd "$PWD" && mount --bind "$TMPDIR" "$TMPDIR" && '
    'mount -o remount,ro,bind . && exec "$0" "$@"',
)  # fmt: skip
"""A command in which its folder is read-only, all but the temporary files."""


def may_mount() -> bool:
    """Whether there is a kind of disk that only the superuser can make."""
    if shutil.which("unshare") is None:
        return False
    tried = ["unshare", "-m", "sh", "-c", "mount --bind /tmp /tmp"]
    return subprocess.run(tried, capture_output=True).returncode == 0


KINDS = (*SIGNALS, "disk", "memory", *(("read-only",) if may_mount() else ()))
TMP = "tmp" + 50 * "-"  # too long for Unix sockets in it, of which Lava's processes have some
PATIENCE = 300.0  # seconds; a machine may be busy

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


@dataclass(frozen=True)
class Job:
    """A command in a folder with ``data.npz``, ``old.net`` and ``run``, a trained run.

    again: the command that takes it up after a fault; None is the same. output: what it writes.
    old: whether a valid file lies there before. lava: whether it runs in Lava.
    """

    name: str
    command: str
    output: str
    again: Callable[[Path], str] | None = None
    old: bool = False
    lava: bool = False


def resumed(folder: Path) -> str:
    """An interrupted run goes on; one that never came to a checkpoint starts anew."""
    if (folder / "new" / "checkpoint.safetensors").exists():
        return f"{TRAIN} --resume"
    shutil.rmtree(folder / "new", ignore_errors=True)
    return TRAIN


SMALL = "--model 12 --time-steps 4"
TRAIN = f"train --data data.npz {SMALL} --epochs 3 --out new"
JOBS = {
    job.name: job
    for job in (
        Job("train", TRAIN, "new/model.net", resumed),
        Job("export", "export run --out model.net", "model.net", old=True),
        Job("learn", "learn run/model.net --data data.npz --mode readout --epochs 4 "
            "--checkpoint place --out model.net", "model.net", old=True),
        Job("verify", "verify run/model.net --data data.npz --samples 2 --html page.html",
            "page.html", old=True, lava=True),
        Job("sweep", f"sweep --data data.npz {SMALL} --epochs 1 --trials 2 --out new",
            "new/best.toml"),
    )
}  # fmt: skip


def pumice(folder: Path, command: str, within: tuple[str, ...] = (), **options) -> subprocess.Popen:
    """The command, with a mark in its environment that all its descendants carry."""
    temporary = folder / TMP
    temporary.mkdir(exist_ok=True)
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "TMPDIR": str(temporary),
        "OMP_NUM_THREADS": "1",
        "PUMICE_ROUND": folder.name,
    }
    return subprocess.Popen(
        [*within, sys.executable, "-c", "from cli.start import main; import sys; sys.exit(main())",
         *command.split()],
        cwd=folder, env=environment, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options,
    )  # fmt: skip


def finish(child: subprocess.Popen) -> tuple[int, str]:
    """Its exit code and what it said."""
    try:
        out, err = child.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        child.kill()
        child.communicate()
        pytest.fail("a command did not end")
    return child.returncode, out + err


def marked(mark: str) -> list[int]:
    """Living processes that carry a round's mark."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                environment = (entry / "environ").read_bytes()
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            if state != "Z" and f"PUMICE_ROUND={mark}\0".encode() in environment:
                found.append(int(entry.name))
    return found


def shared(mark: str) -> set[str]:
    """Shared memory that a round's processes have mapped."""
    found = set()
    for process in marked(mark):
        try:
            maps = Path(f"/proc/{process}/maps").read_text()
        except OSError:
            continue
        found |= {word for word in maps.split() if word.startswith("/dev/shm/")}
    return found


def temporary(folder: Path) -> list[str]:
    """Temporary files of ours: torch makes a folder for its compiler where it is imported."""
    return [p.name for p in (folder / TMP).iterdir() if not p.name.startswith("torchinductor")]


def gone(what: Callable[[], object], seconds: float = 60.0) -> bool:
    """Whether it comes to nothing in time."""
    end = time.monotonic() + seconds
    while what():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


def result(job: Job, folder: Path) -> object:
    """What a command came to, in a form that can be compared; None where there is nothing."""
    path = folder / job.output
    if not path.exists():
        return None
    if path.suffix == ".net":
        return netx.read(path)
    if path.suffix == ".html":
        text = path.read_text("utf-8")
        return ("</html>" in text, re.findall(r"([\d,]+) mismatch", text))
    return [line for line in path.read_text("utf-8").splitlines() if not line.startswith("data")]


@pytest.fixture(scope="module")
def quiet(tmp_path_factory):
    """A folder to copy for each round, and for each job its result and its seconds on a quiet
    day."""
    base = tmp_path_factory.mktemp("quiet")
    rng = np.random.default_rng(0)
    y = np.arange(160) % 4
    x = (np.kron(np.eye(4)[y], np.ones(4)) * 180 + rng.integers(0, 70, (160, 16))).astype(np.uint8)
    np.savez(base / "data.npz", x_train=x[:120], y_train=y[:120], x_test=x[120:], y_test=y[120:])
    code, said = finish(pumice(base, TRAIN.replace("--out new", "--out run")))
    assert code == 0, said
    return base


@pytest.fixture(scope="module")
def calm(quiet, tmp_path_factory):
    """What a job comes to undisturbed, and how long it takes; measured once."""
    known = {}

    def calm(job: Job):
        if job.name not in known:
            folder = tmp_path_factory.mktemp(job.name)
            shutil.copytree(quiet, folder, dirs_exist_ok=True)
            begin = time.monotonic()
            code, said = finish(pumice(folder, job.command))
            assert code == 0, said
            known[job.name] = result(job, folder), time.monotonic() - begin
            assert known[job.name][0] is not None, f"{job.output} was not written"
        return known[job.name]

    return calm


def disturb(job: Job, kind: str, folder: Path, seconds: float, rng: random.Random):
    """The command with a fault: its exit code, what it said, shared memory that it had."""
    had: set[str] = set()
    limit = None
    if kind == "disk":  # no file may become larger: writing fails as on a full disk
        size = rng.choice([0, 1, 100, 4096, 20000])
        limit = (resource.RLIMIT_FSIZE, size)
    elif kind == "memory":
        limit = (resource.RLIMIT_AS, rng.randrange(300, 4000) << 20)

    def starve():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(limit[0], (limit[1], limit[1]))

    within = READ_ONLY if kind == "read-only" else ()
    child = pumice(folder, job.command, within, preexec_fn=starve if limit else None)
    if kind in SIGNALS:
        end = time.monotonic() + rng.uniform(0.0, 1.05) * seconds
        while time.monotonic() < end and child.poll() is None:
            had |= shared(folder.name) if job.lava else set()
            time.sleep(0.05)
        if child.poll() is None:
            child.send_signal(getattr(signal, kind))
    code, said = finish(child)
    return code, said, had


def one_round(job: Job, kind: str, seed: int, quiet: Path, base: Path, calm) -> str:
    """A round: how it ended."""
    wanted, seconds = calm(job)
    folder = base / f"{job.name}-{kind}-{uuid.uuid4().hex[:8]}"
    shutil.copytree(quiet, folder)
    path, old = folder / job.output, None
    if job.old:
        old = (quiet / "run/model.net").read_bytes()[::-1]
        path.write_bytes(old)
    code, said, had = disturb(job, kind, folder, seconds, random.Random(seed))
    where = f"{job.name}, {kind}, seed {seed}: exit {code}\n{said[-3000:]}"
    assert gone(lambda: marked(folder.name)), f"processes are left: {where}"
    assert gone(lambda: [name for name in had if os.path.exists(name)]), f"shared memory: {where}"
    if kind != "SIGKILL":
        assert gone(lambda: temporary(folder), 20), f"{temporary(folder)} are left: {where}"
    # What is there is the old or the new, whole; and success is only said with the new.
    there = path.read_bytes() if path.exists() else None
    if code == 0:
        assert result(job, folder) == wanted, f"it said that all went well: {where}"
    elif there != old:
        assert result(job, folder) == wanted, f"half of a file: {where}"
    if kind == "read-only":
        assert (code, said.count("pumice: ")) == (1, 1), where
        assert "Read-only file system" in said and "Traceback" not in said, where
    if kind in ("disk", "SIGINT") and str(ROOT / "cli") in said:  # else Python had just begun
        assert "Traceback" not in said, where
    # And nothing is lost.
    again = job.again(folder) if job.again else job.command
    code, said = finish(pumice(folder, again))
    assert code == 0, f"did not recover from {where}\n{said}"
    assert result(job, folder) == wanted, f"another result after {where}"
    shutil.rmtree(folder)
    return f"{job.name} {kind}"


@pytest.mark.lava
@pytest.mark.parametrize("name", JOBS)
def test_a_signal(name, quiet, tmp_path, calm):
    """One for each command, at a moment that differs from run to run of the whole suite."""
    kind = SIGNALS[list(JOBS).index(name) % 3]
    one_round(JOBS[name], kind, int(time.time()), quiet, tmp_path, calm)


@pytest.mark.parametrize("name", ["train", "learn"])
def test_a_full_disk(name, quiet, tmp_path, calm):
    one_round(JOBS[name], "disk", 0, quiet, tmp_path, calm)


@pytest.mark.lava
@pytest.mark.skipif("read-only" not in KINDS, reason="nothing can be mounted here")
@pytest.mark.parametrize("name", JOBS)
def test_a_read_only_disk(name, quiet, tmp_path, calm):
    one_round(JOBS[name], "read-only", 0, quiet, tmp_path, calm)


@pytest.mark.lava
@pytest.mark.skipif(not ROUNDS, reason="PUMICE_FAULTS says how many rounds")
def test_many_rounds(quiet, tmp_path, calm):
    rng = random.Random(int(os.environ.get("PUMICE_SEED", "0")))
    done, wrong = Counter(), []
    for n in range(ROUNDS):
        job, kind = list(JOBS.values())[n % len(JOBS)], rng.choice(KINDS)
        try:
            done[one_round(job, kind, rng.randrange(2**31), quiet, tmp_path, calm)] += 1
        except AssertionError as error:
            wrong.append(str(error))
            print(wrong[-1], flush=True)
    print(json.dumps(done, indent=1), flush=True)
    assert not wrong, f"{len(wrong)} of {ROUNDS} rounds"
