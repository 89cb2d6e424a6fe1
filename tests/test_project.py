"""The project itself: which Python is found, how torch is chosen, pins that fit the ranges."""

from __future__ import annotations

import dataclasses
import importlib.util
import pkgutil
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
FIND_PYTHON = ROOT / ".ci" / "find-python"


# ---------------------------------------------------------------- .ci/find-python


@pytest.fixture
def machine(tmp_path: Path) -> Callable[..., Path]:
    """Puts a script in the place of a program; a `python` that answers prints its own path."""

    def add(path: str, script: str = 'echo "$0"') -> Path:
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(0o755)
        return file

    return add


def find(name: str, machine_folder: Path) -> tuple[int, str]:
    done = subprocess.run(
        ["/bin/sh", str(FIND_PYTHON), name],
        env={"PATH": str(machine_folder / "bin")},
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout.strip()


def test_a_shim_that_does_not_answer_is_asked_of_pyenv(
    machine: Callable[..., Path], tmp_path: Path
) -> None:
    machine("bin/python3.10", "echo 'pyenv: python3.10: command not found' >&2; exit 127")
    assert find("python3.10", tmp_path) == (1, "")
    real = machine("versions/3.10.13/bin/python3.10")
    machine(
        "bin/pyenv",
        'case "$1 $2" in "whence python3.10") echo 3.10.9; echo 3.10.13;;\n'
        f'"prefix 3.10.13") echo {tmp_path}/versions/3.10.13;; *) exit 1;; esac',
    )
    assert find("python3.10", tmp_path) == (0, str(real))


def test_python3_stands_for_any_that_pumice_runs_on(
    machine: Callable[..., Path], tmp_path: Path
) -> None:
    """A python3 that is too old or lacks venv gives way to the newest python3.X that will do."""
    machine("bin/python3", "exit 1")
    assert find("python3", tmp_path) == (1, "")
    machine("bin/python3.11")
    newer = machine("bin/python3.12")
    assert find("python3", tmp_path) == (0, str(newer))
    assert find("python3.13", tmp_path) == (1, "")
    own = machine("bin/python3")
    assert find("python3", tmp_path) == (0, str(own))


def test_an_environment_answers_with_the_python_it_was_made_from() -> None:
    """`make` inside an active .venv must not try to make .venv from itself."""
    code, path = find(sys.executable, Path("/nonexistent"))
    assert code == 0
    asked = [path, "-c", "import sys; print(sys.prefix == sys.base_prefix, *sys.version_info[:2])"]
    out = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    assert out.split() == ["True", *map(str, sys.version_info[:2])]


# ---------------------------------------------------------------- .ci/venv.py


@pytest.fixture
def venv() -> ModuleType:
    spec = importlib.util.spec_from_file_location("pumice_venv", ROOT / ".ci" / "venv.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Attempts:
    """An environment whose installations only take down what they were asked for."""

    def __init__(self, venv: ModuleType, monkeypatch: pytest.MonkeyPatch, works: str) -> None:
        self.made: list[str] = []
        self.environment = venv.Environment(Path("/nonexistent"))

        def pip(*arguments: str, quiet_failure: bool = False) -> bool:
            self.made.append("pip " + " ".join(arguments))
            return "+cpu" not in arguments[0] or works == "pip"

        def uv(wanted: list[str]) -> bool:
            self.made.append("uv " + " ".join(wanted))
            return works == "uv"

        monkeypatch.setattr(self.environment, "pip", pip)
        monkeypatch.setattr(self.environment, "torch_by_uv", uv)
        monkeypatch.setattr(self.environment, "has", lambda requirement: False)
        monkeypatch.delenv("PIP_TORCH_ARGS", raising=False)
        monkeypatch.setattr(venv, "OFFICIAL", False)
        monkeypatch.setattr(venv, "pinned", lambda name: f"{name}==1.0")
        monkeypatch.setattr(venv.platform, "system", lambda: "Linux")
        monkeypatch.setattr(venv, "has_nvidia_gpu", lambda: False)


@pytest.mark.parametrize(
    ("works", "made"),
    [
        ("pip", ["pip torch==1.0+cpu"]),
        ("uv", ["pip torch==1.0+cpu", "uv torch==1.0"]),
        ("", ["pip torch==1.0+cpu", "uv torch==1.0", "pip torch==1.0"]),
    ],
)
def test_without_a_gpu_a_cpu_build_is_looked_for_first(
    works: str, made: list[str], venv: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = Attempts(venv, monkeypatch, works)
    attempts.environment.torch()
    assert attempts.made == made


def test_with_a_gpu_or_off_linux_torch_is_taken_as_it_is(
    venv: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = Attempts(venv, monkeypatch, "")
    monkeypatch.setattr(venv, "has_nvidia_gpu", lambda: True)
    attempts.environment.torch()
    assert attempts.made == ["pip torch==1.0"]
    attempts = Attempts(venv, monkeypatch, "")
    monkeypatch.setattr(venv.platform, "system", lambda: "Darwin")
    attempts.environment.torch()
    assert attempts.made == ["pip torch==1.0"]


def test_the_users_own_torch_arguments_replace_every_other_attempt(
    venv: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = Attempts(venv, monkeypatch, "pip")
    monkeypatch.setenv("PIP_TORCH_ARGS", "--find-links 'my wheels'")
    attempts.environment.torch()
    assert attempts.made == ["pip torch==1.0 --find-links my wheels"]


def test_the_official_lane_takes_torchvision_of_the_same_build(
    venv: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = Attempts(venv, monkeypatch, "pip")
    monkeypatch.setattr(venv, "OFFICIAL", True)
    attempts.environment.torch()
    assert attempts.made == ["pip torch==1.0+cpu torchvision==1.0+cpu"]


def test_a_python_that_is_too_old_is_refused_in_one_line(
    venv: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(venv.sys, "version_info", (3, 9, 18))
    with pytest.raises(SystemExit) as caught:
        venv.main([str(tmp_path / "v")])
    assert "pumice runs on Python 3.10 to 3.13" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "v").exists()


def test_only_a_complete_environment_is_kept(
    venv: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an interrupted installation left is not trusted; a finished one is updated."""
    real = subprocess.run

    def without_pip(command: list[str], **options: Any) -> Any:
        # pip is what takes the time, and nothing is installed here.
        return real(command[:3] + ["--without-pip"] * ("venv" in command) + command[3:], **options)

    monkeypatch.setattr(venv.subprocess, "run", without_pip)
    environment = venv.Environment(tmp_path / "v")
    environment.create()
    left = environment.folder / "left"
    left.touch()
    environment.stamp.touch()
    environment.create()
    assert left.exists()
    assert not environment.stamp.exists()
    environment.create()
    assert not left.exists()
    assert venv.version_of(environment.python) == sys.version_info[:3]


# ---------------------------------------------------------------- pyproject.toml and the pins


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def pins(file: str) -> dict[str, str]:
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    found = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(r.name): str(r.specifier).removeprefix("==") for r in found}


@pytest.mark.parametrize(
    ("file", "python"), [("constraints-3.10.txt", "3.10"), ("constraints.txt", "3.11")]
)
def test_every_dependency_is_pinned_within_its_range(file: str, python: str) -> None:
    section = project()["project"]
    pinned = pins(file)
    for text in section["dependencies"] + section["optional-dependencies"]["dev"]:
        requirement = Requirement(text)
        if requirement.marker and not requirement.marker.evaluate({"python_version": python}):
            continue
        name = canonicalize_name(requirement.name)
        assert name in pinned, f"{file} has no pin for {name}"
        assert requirement.specifier.contains(pinned[name]), f"{name} {pinned[name]}, {text}"


def test_both_lanes_run_the_same_lava() -> None:
    from loihi import lava_compat

    for file in ("constraints.txt", "constraints-3.10.txt"):
        versions = pins(file)
        assert versions["lava-nc"] == lava_compat.VERSION_NC
        assert versions["lava-dl"] == lava_compat.VERSION_DL


def test_pins_name_no_place_to_fetch_from() -> None:
    """A constraint file is versions and nothing else: where packages come from is the user's."""
    for file in ("constraints.txt", "constraints-3.10.txt"):
        for line in (ROOT / file).read_text(encoding="utf-8").splitlines():
            assert re.fullmatch(r"#.*|[A-Za-z0-9_.-]+==[0-9][0-9a-z.]*", line), (file, line)


# ---------------------------------------------------------------- values


MUTABLE = {"_State", "_Chunk", "_Slice"}
"""Of loihi: where an engine's run stands."""


@pytest.mark.parametrize("room", ["loihi", "trainer.rules"])
def test_what_is_passed_around_cannot_change(room: str) -> None:
    package = importlib.import_module(room)
    found = {}
    for module in pkgutil.iter_modules(package.__path__, f"{room}."):
        for name, held in vars(importlib.import_module(module.name)).items():
            if dataclasses.is_dataclass(held) and held.__module__ == module.name:
                found[name] = held
    assert found
    for name, held in found.items():
        assert held.__dataclass_params__.frozen or name in MUTABLE, name
