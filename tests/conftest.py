"""What every test can use: a child process with a deadline for Lava, and Intel's own files."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

# Before numpy and torch are imported anywhere: several workers share the cores, and threads that
# wait for each other on a taken core are slower than one thread alone.
if "PYTEST_XDIST_WORKER" in os.environ:
    for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(_name, "1")

from loihi import lava_compat

# A shell's background jobs ignore Ctrl-C, and so would every child of these tests.
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parent.parent


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests marked `lava` are skipped where it is absent; never in `make test`, which installs it.

    A skip that nobody reads would let the proof in Lava disappear, so the Makefile asks for it.
    """
    if item.get_closest_marker("lava") is None:
        return
    status = lava_compat.status()
    if status.installed:
        return
    if os.environ.get("PUMICE_REQUIRE_LAVA"):
        pytest.fail(f"PUMICE_REQUIRE_LAVA is set: {status.advice}")
    pytest.skip(status.advice)


def run_python(code: str, *, deadline: float = 120.0, **env: str) -> str:
    """Runs code in a Python of its own, and returns what it printed.

    Lava starts processes that outlive a parent that is killed: the child gets a process group of
    its own, and nothing of that group is left when this returns.
    """
    child = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, err = child.communicate(timeout=deadline)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        out, err = child.communicate()
        pytest.fail(f"no end within {deadline} s\n{out}\n{err}")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
    assert child.returncode == 0, f"exit status {child.returncode}\n{out}\n{err}"
    return out


@pytest.fixture(name="run_python")
def run_python_fixture() -> Callable[..., str]:
    return run_python


@pytest.fixture(scope="session")
def netx_files() -> Path:
    """The folder of networks and reference spikes that Intel ships inside the lava-dl wheel."""
    try:
        wheel = importlib.metadata.distribution("lava-dl")
    except importlib.metadata.PackageNotFoundError:
        if os.environ.get("PUMICE_REQUIRE_LAVA"):
            pytest.fail("PUMICE_REQUIRE_LAVA is set, and lava-dl is not installed")
        pytest.skip("lava-dl is not installed")
    folder = Path(str(wheel.locate_file("tests/lava/lib/dl/netx")))
    assert folder.is_dir(), f"the lava-dl wheel should have brought {folder}"
    return folder
