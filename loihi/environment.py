"""What this machine has for pumice: Python, packages, Lava, GPU, Loihi; the data of `doctor`.

Nothing heavy is imported here: packages are known by their metadata, the GPU by what its driver
says, Lava by a child process that imports it. Nothing here raises: what cannot be found out is
a finding too.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from loihi import lava_compat

#: Seconds that another program gets to answer. A driver in trouble can hang for ever.
PATIENCE = 20.0

#: What lava.utils.loihi accepts as a chip generation.
GENERATIONS = ("N2A2", "N3B2", "N3B3", "N3C1", "N3D1")

_SLURM_HOST = "on a SLURM cluster set SLURM=1, LOIHI_GEN and PARTITION or BOARD"
_ETHERNET_HOST = "for a board on the network set NOSLURM=1, LOIHI_GEN and NXSDKHOST"


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    name: str
    ok: bool
    #: What is there, in words.
    found: str
    #: What to do about it; empty when there is nothing to do.
    advice: str
    #: Whether pumice needs it at all; a GPU, Lava and a chip are needed for some commands only.
    required: bool


def findings() -> list[Finding]:
    """Everything, in the order in which it is to be read."""
    gpus = _gpus()
    return [
        _python(),
        *(_package(name) for name in ("numpy", "numba", "h5py")),
        _torch(bool(gpus)),
        _gpu(gpus),
        _lava(),
        _loihi_extension(),
        _loihi_host(),
    ]


def _python() -> Finding:
    ok = (3, 10) <= sys.version_info[:2] <= (3, 13)
    advice = "" if ok else "pumice is tested on Python 3.10 to 3.13: make PYTHON=python3.12"
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    return Finding("Python", ok, found, advice, required=True)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _package(name: str) -> Finding:
    version = _version(name)
    if version is None:
        return Finding(name, False, "not installed", f"pip install {name}", required=True)
    return Finding(name, True, version, "", required=True)


def _torch(has_gpu: bool) -> Finding:
    version = _version("torch")
    if version is None:
        return Finding("torch", False, "not installed", "pip install torch", required=True)
    cuda = _torch_cuda()
    build = f"CUDA {cuda} build" if cuda else "CPU build"
    advice = ""
    if has_gpu and not cuda:
        advice = (
            "there is an NVIDIA GPU that this CPU build cannot use: "
            "pip install --force-reinstall torch, from an index with CUDA builds"
        )
    return Finding("torch", not advice, f"{version}, {build}", advice, required=True)


def _torch_cuda() -> str | None:
    """The CUDA version torch was built for, from its version file: importing it takes seconds."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    try:
        text = (Path(spec.origin).parent / "version.py").read_text(encoding="utf-8")
    except OSError:
        return None
    said = re.search(r"^cuda\b[^=]*=\s*['\"]([^'\"]+)['\"]", text, re.MULTILINE)
    return said.group(1) if said else None


def _answer(command: list[str]) -> str | None:
    """What a program prints, or None where it is absent, fails or does not answer in time."""
    if shutil.which(command[0]) is None:
        return None
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=PATIENCE
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def _gpus() -> list[str]:
    out = _answer(["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"])
    return [line.strip() for line in (out or "").splitlines() if "," in line]


def _gpu(gpus: list[str]) -> Finding:
    if gpus:
        return Finding("GPU", True, "; ".join(gpus), "", required=False)
    if shutil.which("nvidia-smi") is not None:
        advice = "nvidia-smi is there and lists no GPU: run it by hand and see what it says"
        return Finding("GPU", False, "none that answers", advice, required=False)
    advice = "training runs on the CPU; for an NVIDIA GPU install its driver, with nvidia-smi"
    return Finding("GPU", False, "none", advice, required=False)


def _lava() -> Finding:
    status = lava_compat.status()
    if not status.installed:
        advice = f"needed by verify, learn and simulate --engine lava: {status.advice}"
        return Finding("Lava", False, "not installed", advice, required=False)
    lane = "official pins" if status.lane == "official" else "import hook"
    found = f"lava-nc {status.version_nc}, lava-dl {status.version_dl}, through the {lane}"
    trouble = _lava_import_trouble()
    if trouble:
        advice = f"it does not import ({trouble}): {lava_compat.install_command()}"
        return Finding("Lava", False, found, advice, required=False)
    return Finding("Lava", not status.advice, found, status.advice, required=False)


def _lava_import_trouble() -> str | None:
    """Why Lava does not import, from a child process that tries; None when it does."""
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).resolve().parent.parent)!r})\n"
        "from loihi import lava_compat\n"
        "lava_compat.install(netx_only=True)\n"
        "import lava.lib.dl.netx, lava.magma.compiler.compiler, lava.magma.core.run_configs\n"
        "import lava.magma.core.model.py.connection\n"
    )
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=3 * PATIENCE,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{type(error).__name__}"
    if done.returncode == 0:
        return None
    lines = done.stderr.strip().splitlines()
    return lines[-1] if lines else f"exit status {done.returncode}"


def _loihi_extension() -> Finding:
    where = _lava_extension_file()
    if where is not None:
        version = _version("lava-loihi")
        return Finding("Loihi extension", True, version or "installed", "", required=False)
    advice = (
        "only to run on a chip: the lava-loihi extension comes from Intel, "
        "to members of its research community"
    )
    return Finding("Loihi extension", False, "not installed", advice, required=False)


def _lava_extension_file() -> Path | None:
    """The module by which lava.utils.loihi.is_installed() knows the extension, not imported."""
    try:
        spec = importlib.util.find_spec("lava")
    except (ImportError, ValueError):
        return None
    folders = (spec.submodule_search_locations or []) if spec is not None else []
    for folder in folders:
        for file in sorted(Path(folder, "utils").glob("loihi2_profiler*")):
            return file
    return None


def _loihi_host() -> Finding:
    """Which board a run would go to, by the variables that Lava and its extension read."""
    names = ("SLURM", "NOSLURM", "LOIHI_GEN", "PARTITION", "BOARD", "NXSDKHOST")
    given = {name: os.environ[name] for name in names if os.environ.get(name)}
    found = ", ".join(f"{name}={value}" for name, value in given.items())
    generation = given.get("LOIHI_GEN")

    advice = ""
    if generation is not None and generation not in GENERATIONS:
        advice = f"LOIHI_GEN={generation} is no chip generation: one of {', '.join(GENERATIONS)}"
    elif "NXSDKHOST" in given and "SLURM" not in given:
        if generation is None:
            advice = f"LOIHI_GEN is not set: one of {', '.join(GENERATIONS)}"
    elif "NOSLURM" in given:
        advice = "NOSLURM is set without NXSDKHOST: set it to the board's address"
    elif _answer(["sinfo"]) is not None:
        found = f"SLURM answers{', ' if found else ''}{found}"
        if generation is None:
            advice = f"LOIHI_GEN is not set: one of {', '.join(GENERATIONS)}"
    elif "SLURM" in given:
        advice = "SLURM is set and sinfo does not answer: run it by hand and see what it says"
    else:
        advice = f"only to run on a chip: {_SLURM_HOST}; {_ETHERNET_HOST}"
    return Finding("Loihi host", not advice, found or "none named", advice, required=False)
