"""Run a function in a child process that cannot hang, and leaves nothing behind however it ends.

Lava runs every process of a network as an operating system process. When one of them throws, Lava
says "1 Exception(s) occurred", keeps the traceback to itself, and hangs in ``stop()``; when its
parent is killed, it stays behind as an orphan. So nothing here runs Lava itself:

    result = supervise.run(function, deadline=60, x=array, name="mnist")

starts a fresh Python in a session of its own and calls ``function(folder, x=array, name="mnist")``
there. ``function`` is a module's function; ``folder`` is a directory of its own. Arrays travel as
``.npy`` files (mapped on the other side, so that none has to fit into memory), everything else as
JSON, and so does the dict that the function returns: nothing is ever unpickled.

How it ends, and who sees to it:

- An exception, in the function or in any process of Lava's: the traceback is written down where it
  happens, the child stops everything, and the parent raises :class:`ChildError` with its last
  line. (For Lava's own processes the function has to call :func:`prepare_lava` first.)
- The deadline passes, or Ctrl-C: the parent says so on the *lifeline*, a pipe whose other end the
  child watches.
- The parent is killed, even by ``kill -9``: the lifeline closes.
- The child is killed: on Linux its descendants have asked for a SIGKILL when it dies.

In every case the child's whole session is killed, the shared memory released by Python's own
resource tracker, and the folder removed.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from loihi.errors import PumiceError

GRACE = 5.0
"""Seconds that the child has to clear up after itself before its session is killed from outside."""
_POLL = 0.5  # seconds between two looks at whether a descendant was killed
_LINUX = sys.platform.startswith("linux")
_PR_SET_PDEATHSIG = 1
_IN_CHILD: _Child | None = None


@dataclass(frozen=True)
class Pieces:
    """An array for a child that is nowhere whole: what follows each other along its first axis."""

    shape: tuple[int, ...]
    dtype: Any
    parts: Iterable[NDArray[Any]]


class ChildError(PumiceError):
    """The child failed: the message is the last line of its traceback.

    traceback: the whole of it, or "". log: all that the child and its descendants printed.
    """

    def __init__(self, message: str, traceback: str = "", log: str = "") -> None:
        super().__init__(message)
        self.traceback = traceback
        self.log = log


class DeadlineError(ChildError):
    """The child ran past its deadline."""


def run(
    function: Callable[..., dict[str, Any]], *, deadline: float, **arguments: Any
) -> dict[str, Any]:
    """``function(folder, **arguments)`` in a supervised child; what it returned.

    function: importable by its module and name; takes a ``Path`` and keyword arguments, returns
        a dict. Values are arrays (numbers only) or what JSON can say; an argument can be
        :class:`Pieces`, and a result the ``Path`` of a ``.npy`` file in the folder, which is
        handed over as the array it holds.
    deadline: seconds from here until the child must be done, its start included.

    Raises :class:`DeadlineError`, :class:`ChildError`, and any :class:`PumiceError` of the
    function's as a :class:`ChildError` with the same message.
    """
    try:
        folder = Path(tempfile.mkdtemp(prefix="pumice-", dir=_base()))
    except OSError as error:
        raise ChildError(f"no temporary folder for a child process: {error}") from None
    try:
        try:
            _save(folder, "arguments", arguments)
        except OSError as error:
            raise ChildError(f"{folder}: {error.strerror or error}") from None
        code, in_time = _supervise(folder, function, deadline)
        log = (folder / "log").read_text(encoding="utf-8", errors="replace")
        # First: what is being ended may still complain that its neighbours are gone.
        if not in_time:
            raise DeadlineError(f"no result after {deadline:g} seconds{_last_line(log)}", log=log)
        report = folder / "error.json"
        if report.exists():
            said = json.loads(report.read_text(encoding="utf-8"))
            raise ChildError(said["line"], said["traceback"], log)
        if code != 0:
            how = f"signal {-code} ({_signal_name(-code)})" if code < 0 else f"exit status {code}"
            raise ChildError(f"the child process ended by {how}{_last_line(log)}", log=log)
        return _load(folder, "result", "c")  # what is mapped stays, though it has lost its name
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def prepare_lava(netx_only: bool = True) -> None:
    """In the child, before Lava is imported: make it importable, and its exceptions known here.

    netx_only: leave slayer, and with it torch, out of this process.
    """
    from loihi import lava_compat

    lava_compat.require()
    lava_compat.install(netx_only=netx_only)
    child = _IN_CHILD
    if child is None:
        raise RuntimeError("prepare_lava() belongs into a function that supervise.run() calls")

    from lava.magma.runtime import runtime

    original = runtime.target_fn

    def reporting(*args: Any, **kwargs: Any) -> Any:
        # The first function of every process that Lava forks; what it raises, Lava keeps to itself.
        try:
            return original(*args, **kwargs)
        except Exception:
            child.report()
            raise

    runtime.target_fn = reporting


# --- the parent's side --------------------------------------------------------------------------


def _supervise(folder: Path, function: Callable[..., Any], deadline: float) -> tuple[int, bool]:
    """The child's exit status, and whether it ended before its deadline."""
    theirs, ours = os.pipe()
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(entry or os.getcwd() for entry in sys.path),
        # A thread pool in each of Lava's many processes would only get in the others' way.
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        # Sockets of Lava's processes among it: removed with the folder, however they end.
        "TMPDIR": str(folder),
    }
    command = [
        *(sys.executable, "-c", "from lava_export import supervise; supervise._child()"),
        *(str(folder), str(theirs), f"{function.__module__}:{function.__qualname__}"),
    ]
    try:
        with (folder / "log").open("wb") as log:
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=[theirs],
                start_new_session=True,
                env=environment,
            )
    except BaseException:
        os.close(ours)
        raise
    finally:
        os.close(theirs)
    try:
        return child.wait(deadline), True
    except subprocess.TimeoutExpired:
        return 0, False
    finally:
        with contextlib.suppress(BrokenPipeError):  # it has ended
            os.write(ours, b"!")
        os.close(ours)
        try:
            child.wait(GRACE)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        _end_session(child.pid)


def _base() -> str | None:
    """Where the folder goes; None: where temporary files do.

    The address of a Unix socket has 107 bytes, of which ours and Python's names take 48.
    """
    given = tempfile.gettempdir()
    if len(os.fsencode(given)) + 48 <= 107:
        return None
    if os.access("/tmp", os.W_OK | os.X_OK):
        return "/tmp"
    raise PumiceError(f"{given}: too long a name for Lava's sockets: set TMPDIR to a shorter one")


def _end_session(session: int) -> None:
    """Kill what is left of a session whose leader has ended; mostly nothing, or the tracker."""
    until = time.monotonic() + GRACE
    # The resource tracker goes by itself, when it has released the shared memory.
    while time.monotonic() < until and any(state not in "ZX" for _, state, _ in _members(session)):
        time.sleep(0.01)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(session, signal.SIGKILL)


def _last_line(log: str) -> str:
    lines = log.strip().splitlines()
    return f"; it said last: {lines[-1].strip()}" if lines else ""


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"


# --- the child's side ---------------------------------------------------------------------------


class _Child:
    """The process that calls the function: it ends all others of its session before itself."""

    def __init__(self, folder: Path, lifeline: int) -> None:
        self.pid, self.folder, self.lifeline = os.getpid(), folder, lifeline
        self.heard, self.alarm = os.pipe()  # how a descendant says that it failed
        self.ending, self.ended = threading.Lock(), False
        os.register_at_fork(before=self._not_while_ending, after_in_child=self._die_with_me)
        threading.Thread(target=self._watch, daemon=True).start()

    def report(self) -> None:
        """Write down the exception that is being handled; end the child if this is a descendant.

        The first report stays: what fails after it fails because of it.
        """
        kind, error, _ = sys.exc_info()
        text = traceback.format_exc()
        # A clear line stays as it is; the last of other errors begins with their kind.
        clear = isinstance(error, PumiceError)
        said = [str(error)] if clear else traceback.format_exception_only(kind, error)
        self._write_error(" ".join("".join(said).split()), text)
        if os.getpid() != self.pid:
            os.write(self.alarm, b"!")

    def end(self, code: int) -> None:
        """Kill all others of the session, wait until they are gone, and leave."""
        self.ending.acquire()  # for good: one thread ends everything, once
        self.ended = True
        until = time.monotonic() + GRACE / 2
        while (others := self._others()) and time.monotonic() < until:
            clients = [pid for pid, command in others if "resource_tracker" not in command]
            for pid in clients:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if not clients:
                _close_tracker()
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG) != (0, 0):
                    pass
            time.sleep(0.002)
        if self._orphaned():  # then nobody else will
            shutil.rmtree(self.folder, ignore_errors=True)
            if not _LINUX:  # without /proc nobody was found above
                os.killpg(self.pid, signal.SIGKILL)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    def _others(self) -> list[tuple[int, str]]:
        return [
            (pid, command)
            for pid, state, command in _members(self.pid)
            if state not in "ZX" and pid != self.pid
        ]

    def _watch(self) -> None:
        while True:
            ready, _, _ = select.select([self.lifeline, self.heard], [], [], _POLL)
            if ready or self._descendant_killed():
                self.end(1)

    def _orphaned(self) -> bool:
        heard = bool(select.select([self.lifeline], [], [], 0)[0])
        return heard and os.read(self.lifeline, 1) == b""

    def _descendant_killed(self) -> bool:
        """Whether a child of ours was ended by a signal (for memory, say): the rest would wait."""
        with self.ending:  # whoever holds it for good has begun to kill them
            for pid, state, _ in _members(self.pid):
                if state != "Z":
                    continue
                with contextlib.suppress(ChildProcessError):
                    how = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
                    if how is not None and how.si_code in (os.CLD_KILLED, os.CLD_DUMPED):
                        name = _signal_name(how.si_status)
                        line = f"a process of Lava's was ended by signal {how.si_status} ({name})"
                        self._write_error(line, "")
                        return True
        return False

    def _write_error(self, line: str, text: str) -> None:
        mine = self.folder / f"error-{os.getpid()}-{threading.get_ident()}"
        mine.write_text(json.dumps({"line": line, "traceback": text}), encoding="utf-8")
        with contextlib.suppress(OSError):
            os.link(mine, self.folder / "error.json")  # fails where there is one already

    def _not_while_ending(self) -> None:
        if self.ended:
            threading.Event().wait()  # for ever, which is not long now

    def _die_with_me(self) -> None:
        """In a descendant, just forked: SIGKILL when the child is gone, however it went."""
        if not _LINUX:
            return
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != self.pid:  # it went before we could ask
            os._exit(1)


def _child() -> None:
    """What the new Python runs: ``folder lifeline module:function``."""
    global _IN_CHILD
    folder, module, name = Path(sys.argv[1]), *sys.argv[3].split(":")
    child = _IN_CHILD = _Child(folder, int(sys.argv[2]))
    try:
        workspace = folder / "workspace"
        workspace.mkdir()
        function = getattr(import_module(module), name)
        _save(folder, "result", function(workspace, **_load(folder, "arguments", "r")))
    except BaseException:
        child.report()
        child.end(1)
    child.end(0)


def _close_tracker() -> None:
    """Let go of Python's resource tracker: it unlinks the shared memory left over, and ends."""
    tracker = sys.modules.get("multiprocessing.resource_tracker")
    descriptor = getattr(getattr(tracker, "_resource_tracker", None), "_fd", None)
    if descriptor is not None:
        tracker._resource_tracker._fd = None  # type: ignore[union-attr]
        os.close(descriptor)


def _members(session: int) -> Iterator[tuple[int, str, str]]:
    """Process id, state letter and command line of the processes of a session; Linux only."""
    for entry in os.listdir("/proc") if _LINUX else ():
        if not entry.isdigit():
            continue
        with contextlib.suppress(OSError):  # gone meanwhile
            stat = Path("/proc", entry, "stat").read_text(encoding="utf-8", errors="replace")
            # "pid (name) state ppid pgrp session …", and a name may hold spaces and brackets
            state, _, _, its_session = stat.rpartition(")")[2].split()[:4]
            if int(its_session) == session:
                command = Path("/proc", entry, "cmdline").read_bytes().decode(errors="replace")
                yield int(entry), state, command


# --- what travels between them ------------------------------------------------------------------


def _save(folder: Path, name: str, values: dict[str, Any]) -> None:
    plain = {}
    for key, value in values.items():
        file = folder / f"{name}-{key}.npy"
        if isinstance(value, Path):
            value.replace(file)
        elif isinstance(value, Pieces):
            _join(file, value)
        elif isinstance(value, np.ndarray):
            np.save(file, value, allow_pickle=False)
        else:
            plain[key] = value
    (folder / f"{name}.json").write_text(json.dumps(plain), encoding="utf-8")


def _join(path: Path, pieces: Pieces) -> None:
    dtype = np.dtype(pieces.dtype)
    header = {"descr": dtype.str, "fortran_order": False, "shape": pieces.shape}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for part in pieces.parts:
            file.write(np.ascontiguousarray(part, dtype=dtype).data)


def _load(folder: Path, name: str, mode: Literal["r", "c"]) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    for file in folder.glob(f"{name}-*.npy"):
        array = np.load(file, mmap_mode=mode, allow_pickle=False)
        values[file.stem[len(name) + 1 :]] = array
    return values
