"""What `doctor` reports, on machines made up of small scripts in PATH and environment variables."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from loihi import environment, lava_compat
from loihi.environment import Finding

VARIABLES = ("SLURM", "NOSLURM", "LOIHI_GEN", "PARTITION", "BOARD", "NXSDKHOST")


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """A machine with no programs but /bin/sh, to which scripts are added by name."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)

    def add(name: str, script: str) -> None:
        file = folder / name
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(0o755)

    return add


@pytest.fixture
def no_lava_child(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves out the second that the import of Lava takes, where it is not what is tested."""
    monkeypatch.setattr(environment, "_lava_import_trouble", lambda: None)


def found(name: str) -> Finding:
    [finding] = [f for f in environment.findings() if f.name == name]
    return finding


def test_every_finding_has_words_and_each_trouble_advice(
    program: Callable[[str, str], None], no_lava_child: None
) -> None:
    findings = environment.findings()
    names = [f.name for f in findings]
    assert names == [
        *("Python", "numpy", "numba", "h5py", "torch", "GPU", "Lava"),
        *("Loihi extension", "Loihi host"),
    ]
    assert [f.name for f in findings if f.required] == names[:5]
    for finding in findings:
        assert finding.found, finding
        assert finding.ok == (not finding.advice), finding
        assert "\n" not in finding.found + finding.advice, finding


def test_packages_are_told_by_their_installed_version(
    program: Callable[[str, str], None], no_lava_child: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert found("h5py") == Finding("h5py", True, importlib.metadata.version("h5py"), "", True)
    real = importlib.metadata.version

    def version(name: str) -> str:
        if name in ("h5py", "torch"):
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert found("h5py") == Finding("h5py", False, "not installed", "pip install h5py", True)
    assert found("torch") == Finding("torch", False, "not installed", "pip install torch", True)


@pytest.mark.parametrize(
    ("version_file", "build"),
    [
        ("cuda: Optional[str] = None\nhip: Optional[str] = None\n", "CPU build"),
        ("cuda: Optional[str] = '12.1'\n", "CUDA 12.1 build"),
        ('cuda = "13.0"\n', "CUDA 13.0 build"),
        ("nothing that is known\n", "CPU build"),
    ],
)
def test_torch_tells_its_build_without_being_imported(
    version_file: str, build: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "version.py").write_text(version_file)
    spec = importlib.util.spec_from_file_location("torch", tmp_path / "__init__.py")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    assert environment._torch(has_gpu=False).found.endswith(f", {build}")


def test_a_gpu_that_the_installed_torch_cannot_use_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(environment, "_torch_cuda", lambda: None)
    assert environment._torch(has_gpu=False).ok
    finding = environment._torch(has_gpu=True)
    assert not finding.ok
    assert "CPU build cannot use" in finding.advice
    monkeypatch.setattr(environment, "_torch_cuda", lambda: "13.0")
    assert environment._torch(has_gpu=True).ok


def test_gpus_are_what_the_driver_lists(
    program: Callable[[str, str], None], no_lava_child: None
) -> None:
    assert found("GPU").found == "none"
    program("nvidia-smi", "echo 'Big One, 81559 MiB'; echo 'Small One, 8192 MiB'")
    both = "Big One, 81559 MiB; Small One, 8192 MiB"
    assert found("GPU") == Finding("GPU", True, both, "", False)


@pytest.mark.parametrize("script", ["exit 9", "echo No devices were found", "exec sleep 60"])
def test_a_driver_in_trouble_is_a_finding(
    script: str,
    program: Callable[[str, str], None],
    no_lava_child: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(environment, "PATIENCE", 0.5)
    monkeypatch.setenv("PATH", f"{environment.os.environ['PATH']}:/usr/bin:/bin")
    program("nvidia-smi", script)
    finding = found("GPU")
    assert (finding.ok, finding.found) == (False, "none that answers")
    assert "run it by hand" in finding.advice


@pytest.mark.lava
def test_lava_is_imported_in_a_child_and_its_lane_named() -> None:
    before = set(sys.modules)
    finding = found("Lava")
    assert finding.ok, finding
    lane = "official pins" if sys.version_info < (3, 11) else "import hook"
    assert finding.found == f"lava-nc 0.10.0, lava-dl 0.6.0, through the {lane}"
    new = set(sys.modules) - before
    assert not any(name == "lava" or name.startswith("lava.") for name in new)


@pytest.mark.lava
def test_a_lava_that_does_not_import_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    real = subprocess.run

    def broken(command: list[str], **options: object) -> object:
        # The same child, in which one module that Lava needs is out of sight.
        hidden = command[2].replace("import sys;", "import sys; sys.modules['asteval'] = None;")
        return real([*command[:2], hidden, *command[3:]], **options)  # type: ignore[call-overload]

    monkeypatch.setattr(subprocess, "run", broken)
    assert "asteval" in (environment._lava_import_trouble() or "")
    finding = environment._lava()
    assert not finding.ok
    assert finding.advice.startswith("it does not import (ModuleNotFoundError: import of asteval")


def test_absent_lava_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", absent)
    finding = environment._lava()
    assert (finding.ok, finding.found, finding.required) == (False, "not installed", False)
    assert lava_compat.install_command() in finding.advice


def test_the_loihi_extension_is_known_by_its_profiler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lava's own test for it, which imports half of Lava, looks for the same module."""
    assert not environment._loihi_extension().ok
    utils = tmp_path / "lava" / "utils"
    utils.mkdir(parents=True)
    (utils / "loihi2_profiler.cpython-310-x86_64-linux-gnu.so").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    finding = environment._loihi_extension()
    assert finding == Finding("Loihi extension", True, "installed", "", False)


@pytest.mark.parametrize(
    ("variables", "sinfo", "found_text", "advice"),
    [
        ({}, False, "none named", "only to run on a chip"),
        (
            {"NOSLURM": "1", "NXSDKHOST": "10.0.0.2", "LOIHI_GEN": "N3C1"},
            False,
            "NOSLURM=1, LOIHI_GEN=N3C1, NXSDKHOST=10.0.0.2",
            "",
        ),
        ({"NXSDKHOST": "10.0.0.2"}, False, "NXSDKHOST=10.0.0.2", "LOIHI_GEN is not set"),
        ({"NOSLURM": "1"}, False, "NOSLURM=1", "NOSLURM is set without NXSDKHOST"),
        (
            {"SLURM": "1", "LOIHI_GEN": "N3B3", "PARTITION": "oheogulch"},
            True,
            "SLURM answers, SLURM=1, LOIHI_GEN=N3B3, PARTITION=oheogulch",
            "",
        ),
        ({}, True, "SLURM answers", "LOIHI_GEN is not set"),
        ({"SLURM": "1"}, False, "SLURM=1", "sinfo does not answer"),
        ({"LOIHI_GEN": "N9"}, True, "LOIHI_GEN=N9", "LOIHI_GEN=N9 is no chip generation"),
    ],
)
def test_the_loihi_host_is_read_from_the_variables_that_lava_reads(
    variables: dict[str, str],
    sinfo: bool,
    found_text: str,
    advice: str,
    program: Callable[[str, str], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    if sinfo:
        program("sinfo", "echo PARTITION AVAIL")
    finding = environment._loihi_host()
    assert finding.found == found_text
    assert advice in finding.advice
    assert finding.ok == (advice == "")


def test_torch_and_lava_are_never_imported(run_python: Callable[..., str]) -> None:
    out = run_python(
        "import sys\n"
        "from loihi import environment\n"
        "environment.findings()\n"
        "print(sorted({'torch', 'lava', 'sklearn', 'matplotlib'} & set(sys.modules)))\n"
    )
    assert out.splitlines()[-1] == "[]"
