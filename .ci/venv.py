"""Makes the virtual environment that `make demo` and `make test` run in, Lava included.

    python .ci/venv.py FOLDER

Run by the Python that the environment is to have, with nothing but its standard library.

Two lanes, one for each of the constraint files beside pyproject.toml:

- Python 3.10: Lava as its authors pinned it (numpy 1, torch 2.3, torchvision, OpenCV).
- Python 3.11 to 3.13: current packages. Lava's wheels go in past their pins, without their
  dependencies; loihi/lava_compat makes them import.

torch for Linux, as the package index has it, brings several gigabytes of CUDA packages and does
not import without them. On a Linux machine without an NVIDIA GPU a CPU build is therefore looked
for: first where pip is configured to look, then where uv's own `--torch-backend=cpu` knows one.
Only when neither has it is the big one taken. PIP_TORCH_ARGS in the environment takes the place
of all that: whatever it holds is handed to `pip install torch`, and nothing else is tried.
"""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OFFICIAL = sys.version_info[:2] == (3, 10)
CONSTRAINTS = ROOT / ("constraints-3.10.txt" if OFFICIAL else "constraints.txt")
LAVA = ("lava-nc", "lava-dl")
# What lava-nc imports and pumice does not need itself; on 3.10 Lava's own pins bring them.
LAVA_LIGHT_NEEDS = ("asteval", "networkx")


def say(text: str) -> None:
    print(f"[venv] {text}", flush=True)


def pinned(name: str) -> str:
    """The requirement `name==version` that the constraint file of this lane holds."""
    for line in CONSTRAINTS.read_text(encoding="utf-8").splitlines():
        if re.match(rf"{re.escape(name)}==", line):
            return line.split("#")[0].split(";")[0].strip()
    raise SystemExit(f"{CONSTRAINTS.name}: no pin for {name}")


def version_of(python: Path) -> tuple[int, ...] | None:
    """The version an environment's Python really runs as; None where it does not run."""
    asked = [str(python), "-c", "import sys; print(*sys.version_info[:3])"]
    try:
        out = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return tuple(int(part) for part in out.split())


def has_nvidia_gpu() -> bool:
    if Path("/dev/nvidia0").exists():
        return True
    smi = shutil.which("nvidia-smi")
    return smi is not None and subprocess.run([smi, "-L"], capture_output=True).returncode == 0


class Environment:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.python = folder / "bin" / "python"
        # There when the environment is complete; make compares its age with the pins'.
        self.stamp = folder / ".ready"

    def create(self) -> None:
        """A new one, unless the folder holds a complete one of this Python: that is updated."""
        complete = self.stamp.exists()
        self.stamp.unlink(missing_ok=True)
        if complete and version_of(self.python) == sys.version_info[:3]:
            say(f"bringing {self.folder.name} up to date")
            return
        say(f"creating {self.folder.name} with Python {platform.python_version()}")
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(self.folder)], check=True)

    def pip(self, *arguments: str, quiet_failure: bool = False) -> bool:
        command = [
            str(self.python),
            *("-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check"),
            *("--constraint", str(CONSTRAINTS)),
            # Past its pins, Lava is in conflict with numpy 2 and torch by its own account.
            *(() if OFFICIAL else ("--no-warn-conflicts",)),
            *arguments,
        ]
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
        if done.returncode != 0 and not quiet_failure:
            sys.stderr.write(done.stderr)
            raise SystemExit(
                f"[venv] pip install {shlex.join(arguments)} failed; pip's own words are above"
            )
        return done.returncode == 0

    def has(self, requirement: str) -> bool:
        name, version = requirement.split("==")
        code = f"import importlib.metadata as m; print(m.version({name!r}))"
        asked = subprocess.run([str(self.python), "-c", code], capture_output=True, text=True)
        return asked.stdout.strip().split("+")[0] == version

    def torch(self) -> None:
        wanted = [pinned("torch")]
        if OFFICIAL:
            wanted.append(pinned("torchvision"))  # must match torch's build, CPU with CPU
        given = os.environ.get("PIP_TORCH_ARGS", "")
        if given:
            say(f"torch, with PIP_TORCH_ARGS: {given}")
            self.pip(*wanted, *shlex.split(given))
        elif all(self.has(requirement) for requirement in wanted):
            return
        elif platform.system() != "Linux" or has_nvidia_gpu():
            say(f"{' '.join(wanted)}, as the package index has it")
            self.pip(*wanted)
        elif self.pip(*(f"{requirement}+cpu" for requirement in wanted), quiet_failure=True):
            say(f"{' '.join(wanted)}: a CPU build, where pip is configured to look")
        elif self.torch_by_uv(wanted):
            say(f"{' '.join(wanted)}: a CPU build, by uv")
        else:
            say(
                f"{' '.join(wanted)}: no CPU build can be had here, so it comes with several "
                "gigabytes of CUDA packages (PIP_TORCH_ARGS can name another place)"
            )
            self.pip(*wanted)

    def torch_by_uv(self, wanted: list[str]) -> bool:
        if not self.pip(pinned("uv"), quiet_failure=True):
            return False
        command = [
            str(self.python),
            *("-m", "uv", "pip", "install", "--quiet", "--no-config", "--no-deps"),
            *("--python", str(self.python), "--torch-backend=cpu", *wanted),
        ]
        # Without --no-deps uv would look for everything else too, past what pip is told.
        # One retry: on a closed network this is a detour, and should be a short one.
        environment = {**os.environ, "UV_HTTP_RETRIES": "1"}
        done = subprocess.run(command, env=environment, stderr=subprocess.DEVNULL)
        return done.returncode == 0

    def everything(self) -> None:
        project = ("--editable", f"{ROOT}[dev,sweep]")
        if OFFICIAL:
            say("pumice and Lava, with Lava's own pins")
            self.pip(*project, *map(pinned, LAVA))
            return
        say("pumice and what it needs")
        self.pip(*project, *LAVA_LIGHT_NEEDS)
        say("Lava, past its pin to Python 3.10")
        self.pip("--no-deps", "--ignore-requires-python", *map(pinned, LAVA))


def main(arguments: list[str]) -> None:
    if len(arguments) != 1:
        raise SystemExit("usage: python .ci/venv.py FOLDER")
    if not (3, 10) <= sys.version_info[:2] <= (3, 13):
        raise SystemExit(
            f"[venv] pumice runs on Python 3.10 to 3.13, and {sys.executable} is "
            f"{platform.python_version()}: make PYTHON=python3.12, say"
        )
    environment = Environment(Path(arguments[0]).resolve())
    environment.create()
    environment.torch()
    environment.everything()
    environment.stamp.touch()
    say("ready")


if __name__ == "__main__":
    main(sys.argv[1:])
