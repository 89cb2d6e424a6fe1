"""Builds the wheel and proves it where neither Lava nor the repository is.

    python .ci/wheel.py                     # builds; what it needs is linked from this environment
    python .ci/wheel.py --install           # the same, but pip installs what it needs
    python .ci/wheel.py dist/pumice-….whl   # of one that is built

An empty environment gets the wheel and what its own metadata asks for, nothing else: a module that
is imported and not asked for is missing there, as is a data file that was not packed. Then the
commands that do without Lava run in an empty folder, one epoch on digits, and one that needs it is
refused.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import os
import subprocess
import sys
import tempfile
import zipfile
from email.parser import Parser
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("loihi", "trainer", "lava_export", "onchip", "cli", "bench", "pumice")
RUN = [
    "train --data digits --model 16 --time-steps 4 --epochs 1 --out run",
    "export run --out again.net",
    "check run/model.net --data digits --samples 20",
    "check run/model.net --map",
    "simulate run/model.net --data digits",
    "verify --run run --between grid,reference,engine --samples 4 --states",
    "learn run/model.net --data digits --samples 20 --out learned.net",
    "train --preset sltt-mnist --data digits --model 8 --time-steps 2 --epochs 1 --out preset",
    "doctor",
]
LAVA = ("lava-nc", "lava-dl", "asteval", "networkx")
RUN_IN_LAVA = [
    "verify run/model.net --data digits --samples 2",
    "learn run/model.net --data digits --samples 4 --engine lava --out in_lava.net",
    "doctor",
]


def sources() -> list[Path]:
    """The repository's files: tracked, or new and not ignored."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [Path(name) for name in names.split("\0") if name and (ROOT / name).is_file()]


def build(folder: Path) -> Path:
    """The wheel, of a copy without what earlier builds left in the tree."""
    copy = folder / "source"
    for name in sources():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes((ROOT / name).read_bytes())
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet"]
    options = ["--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(copy)]
    subprocess.run([*pip, *options], check=True)
    (made,) = folder.glob("*.whl")
    return made


def check_content(wheel: Path) -> None:
    """All files of the rooms and no others; ends with what is wrong."""
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
        licensed = any(name.endswith("LICENSE") for name in archive.namelist())
    wanted = {str(path) for path in sources() if path.parts[0] in ROOMS and len(path.parts) > 1}
    for name in sorted(wanted - held):
        raise SystemExit(f"[wheel] {wheel.name} lacks {name}: see package-data in pyproject.toml")
    for name in sorted(held - wanted):
        raise SystemExit(f"[wheel] {wheel.name} holds {name}, which is no file of the rooms")
    for room in ROOMS:
        if f"{room}/py.typed" not in held:
            raise SystemExit(f"[wheel] {wheel.name} lacks {room}/py.typed")
    if not licensed:
        raise SystemExit(f"[wheel] {wheel.name} lacks the licence")


def needed(wheel: Path) -> list[importlib.metadata.Distribution]:
    """What the wheel asks for, and what that asks for, of this environment."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        told = Parser().parsestr(archive.read(name).decode()).get_all("Requires-Dist") or []
    found: dict[str, importlib.metadata.Distribution] = {}
    waiting = [(text, "") for text in told]
    while waiting:
        text, extra = waiting.pop()
        requirement = Requirement(text)
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        key = canonicalize_name(requirement.name)
        if key not in found:
            found[key] = importlib.metadata.distribution(requirement.name)
            waiting += [(each, "") for each in found[key].requires or ()]
        for asked in requirement.extras:
            waiting += [(each, asked) for each in found[key].requires or ()]
    return list(found.values())


def link(distributions: list[importlib.metadata.Distribution], site: Path) -> None:
    """Their packages and modules into another environment, as links."""
    for distribution in distributions:
        for top in {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
            place = Path(str(distribution.locate_file(top)))
            if place.exists() and not (site / top).exists():
                (site / top).symlink_to(place)


def main() -> None:
    options = argparse.ArgumentParser(description="Proves the wheel in an empty environment.")
    options.add_argument("wheel", nargs="?", type=Path, help="one that is built already")
    options.add_argument("--install", action="store_true", help="pip installs what it needs")
    given = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="pumice-wheel-") as name:
        folder = Path(name)
        wheel = build(folder) if given.wheel is None else given.wheel.resolve()
        check_content(wheel)
        say(f"{wheel.name} holds what it should")
        home = folder / "venv"
        create = [sys.executable, "-m", "venv", "--without-pip", str(home)]
        subprocess.run(create, cwd=folder, check=True)
        python = home / "bin" / "python"
        (site,) = home.glob("lib/python3*/site-packages")
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(python)]
        if not given.install:
            link(needed(wheel), site)
        alone = [] if given.install else ["--no-deps", "--no-index"]
        subprocess.run([*pip, "install", "--quiet", *alone, str(wheel)], check=True)
        (folder / "work").mkdir()
        prove(home / "bin", folder)
        say("it works where neither Lava nor the repository is")
        if importlib.util.find_spec("lava") is None:
            say("no Lava here: what needs it was NOT tried")
            return
        link([importlib.metadata.distribution(name) for name in LAVA], site)
        prove(home / "bin", folder, lava=True)
    say("and with Lava beside it")


def prove(programs: Path, folder: Path, lava: bool = False) -> None:
    """The commands, in a folder of their own and with an empty home; first those without Lava."""
    place = folder / "work"
    environment = {"PATH": f"{programs}:/usr/bin:/bin", "HOME": str(folder), "LC_ALL": "C.UTF-8"}
    environment |= {k: v for k, v in os.environ.items() if k.endswith("_NUM_THREADS")}

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        say(" ".join(words))
        whole = [str(programs / words[0]), *words[1:]]
        return subprocess.run(whole, cwd=place, env=environment, capture_output=True, text=True)

    def succeed(*words: str) -> str:
        done = run(*words)
        if done.returncode:
            raise SystemExit(
                f"[wheel] {' '.join(words)} ended with {done.returncode}\n{done.stderr}"
            )
        return done.stdout

    if lava:
        for line in RUN_IN_LAVA:
            succeed("pumice", *line.split())
        return
    if run("python", "-c", "import lava").returncode == 0:
        raise SystemExit("[wheel] Lava is in the environment that should be empty")
    succeed("python", "-c", "import pumice; [getattr(pumice, n) for n in pumice.__all__]")
    succeed("python", "-m", "pumice", "--help")
    for line in RUN:
        succeed("pumice", *line.split())
    if (place / "again.net").read_bytes() != (place / "run" / "model.net").read_bytes():
        raise SystemExit("[wheel] pumice export wrote another file than pumice train")
    refused = run("pumice", "verify", "run/model.net", "--data", "digits")
    if refused.returncode != 1 or refused.stderr.count("pumice: ") != 1:
        raise SystemExit(f"[wheel] without Lava pumice verify said:\n{refused.stderr}")


def say(text: str) -> None:
    print(f"[wheel] {text}", flush=True)


if __name__ == "__main__":
    main()
