"""The documentation cannot rot: commands, links, paths, names and examples in it are tried.

Every checker is a function from a piece of text to what is wrong with it, so that the last tests
can hand it mistakes.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import importlib
import importlib.metadata
import importlib.util
import inspect
import io
import os
import re
import shlex
import unicodedata
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer

import pumice
from cli.main import app, main
from lava_export.verify import SIMULATORS
from loihi import PumiceError, lava_compat
from onchip.hebbian import MODES, Hebbian
from onchip.rules import Trace, compile_rule
from onchip.spec import Spec
from trainer import data, presets
from trainer.config import TrainConfig, parsed
from trainer.data.augment import Augmentation

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("loihi", "trainer", "lava_export", "onchip", "cli", "bench", "pumice")
FOLDERS = (*ROOMS, "tests", "docs", ".ci", ".github")
PAGES = sorted(p.relative_to(ROOT) for p in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")))
COMMANDS = typer.main.get_command(app)
GENERATED = "reference/commands.md"


class Block(NamedTuple):
    """A piece of code in a page. marks: what a comment in front of it says, as ``run lava``."""

    line: int
    language: str
    marks: tuple[str, ...]
    text: str


def blocks(page: str) -> Iterator[Block]:
    """Fenced ones, and those that are indented by four."""
    lines = page.splitlines()
    at, marks = 0, ""
    while at < len(lines):
        line = lines[at]
        if line.startswith("```"):
            end = next(i for i in range(at + 1, len(lines)) if lines[i].startswith("```"))
            text = "\n".join(lines[at + 1 : end])
            yield Block(at + 1, line[3:].strip(), tuple(marks.split()), text)
            at, marks = end + 1, ""
            continue
        if line.startswith("    ") and (at == 0 or not lines[at - 1].strip()):
            end = at
            while end < len(lines) and (lines[end].startswith("    ") or not lines[end].strip()):
                end += 1
            yield Block(at + 1, "", (), "\n".join(line[4:] for line in lines[at:end]).rstrip())
            at = end
            continue
        found = re.fullmatch(r"<!-- (.*) -->", line)
        marks = found[1] if found else marks if not line.strip() else ""
        at += 1


def prose(page: str) -> str:
    """What is between the blocks."""
    page = re.sub(r"^```.*?^```$", "", page, flags=re.MULTILINE | re.DOTALL)
    return "\n".join(line for line in page.splitlines() if not line.startswith("    "))


def inline(page: str) -> Iterator[str]:
    """Code in the prose; a piece may run over a line's end."""
    for paragraph in re.split(r"\n\s*\n|\n(?=[|#])", prose(page)):
        for found in re.finditer(r"(`+)(.+?)\1", " ".join(paragraph.split())):
            yield found[2].strip()


def text_of(page: Path) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def each_page(check: Any) -> None:
    """Fails with every problem of every page."""
    wrong = [f"{page}: {problem}" for page in PAGES for problem in check(text_of(page))]
    assert not wrong, "\n" + "\n".join(wrong)


# --- commands -----------------------------------------------------------------------------------


def command_lines(page: str) -> Iterator[str]:
    """Whole command lines in blocks: without the prompt, continued lines joined."""
    for block in blocks(page):
        if block.language in ("", "sh", "bash", "console"):
            for line in block.text.replace("\\\n", " ").splitlines():
                yield line.removeprefix("$ ").strip()


def arguments(line: str) -> list[str] | None:
    """What follows `pumice`, or what stands for it; None if the line is something else."""
    line = re.sub(r"^(\w+=\S*\s+)*", "", line)
    if not re.match(r"pumice \S|(torchrun\s.*|python )-m (cli\.main|pumice) ", line):
        return None
    words = shlex.split(line, comments=True)
    begin = next(i for i, word in enumerate(words) if word in ("pumice", "cli.main"))
    end = next((i for i, word in enumerate(words) if word in (">", "|", "&&", ";", "2>&1")), None)
    return words[begin + 1 : end]


def wrong_command(words: list[str], whole: bool = True) -> str | None:
    """Why the real command line would not take these words; without ``whole`` parts may lack."""
    command: Any = COMMANDS
    told = " ".join(["pumice", *words])
    if words and words[0] == "COMMAND":
        return None
    while getattr(command, "commands", None):
        if not words or words[0].startswith("-"):
            known = {option for p in command.params for option in p.opts} | {"--help"}
            strange = [word for word in words if word.startswith("-") and word not in known]
            return f"{told}: no option {strange[0]}" if strange else None
        listed = words if words[0].endswith(",") else words[:1]  # as in `pumice train, check`
        for name in (word.rstrip(",") for word in listed):
            if name not in command.commands:
                return f"{told}: no command {name}"
        if len(listed) > 1:
            return None
        command, words = command.commands[words[0]], words[1:]
    words = ["1" if word == "N" else word for word in words if word not in ("--help", "…")]
    if not whole and words and words[-1].startswith("-"):
        known = {option for p in command.params for option in p.opts}
        return None if words[-1] in known else f"{told}: no option {words[-1]}"
    try:
        parameters = command.make_context("pumice", words).params
    except Exception as error:  # of click, which typer keeps under its own roof or not
        if not hasattr(error, "format_message"):
            raise
        if not whole and type(error).__name__ == "MissingParameter":
            return None
        return f"{told}: {error.format_message()}"
    return wrong_values(told, parameters)


def wrong_values(told: str, given: dict[str, Any]) -> str | None:
    """What the parser leaves to the command: settings, presets, names of data, simulators."""
    plain = {name: v.value if isinstance(v, Enum) else v for name, v in given.items()}
    try:
        if plain.get("settings_") is not None or "preset" in plain:
            known = {field.name for field in dataclasses.fields(TrainConfig)}
            settings = {n: v for n, v in plain.items() if n in known and v is not None}
            for pair in plain.get("settings_") or ():
                if pair != "NAME=VALUE":
                    name, _, value = pair.partition("=")
                    settings[name] = parsed(value)
            TrainConfig.from_dict(settings)
            if plain.get("preset") not in (None, "NAME"):
                presets.read(plain["preset"])
            if plain.get("augment"):
                Augmentation.parse(plain["augment"])
        if isinstance(plain.get("rule"), list) and told.startswith("pumice rule"):
            traces = dict(pair.split("=") for pair in plain["trace"] or ())
            compile_rule(
                "\n".join(plain["rule"]),
                traces={name: Trace(tau=float(tau)) for name, tau in traces.items()},
            )
        elif isinstance(plain.get("rule"), list) and plain.get("mode") in MODES:
            Hebbian.of(plain["rule"], plain["mode"])
        elif isinstance(plain.get("rule"), list):
            Spec.of_mode("hidden").with_settings(plain["rule"])
    except PumiceError as error:
        return f"{told}: {error}"
    name = str(plain.get("data") or "digits").split(",")[0]
    known_data = name in data.NAMES or name.startswith(("tonic:", "saccades:"))
    if not (known_data or "/" in name or "." in name or name.isupper()):
        return f"{told}: no data {name}"
    strange = set((plain.get("between") or "").split(",")) - {"", *SIMULATORS}
    return f"{told}: no simulator {strange.pop()}" if strange else None


def wrong_tool(line: str) -> str | None:
    """Of `python -m bench.NAME --option` and `make target`: what is not there."""
    if found := re.match(r"python -m (bench\.\w+)(.*)", line):
        if importlib.util.find_spec(found[1]) is None:
            return f"{line}: no module {found[1]}"
        source = "".join(p.read_text(encoding="utf-8") for p in (ROOT / "bench").glob("*.py"))
        for option in re.findall(r"\s(--[\w-]+)", found[2].split("#")[0]):
            if f'"{option}"' not in source:
                return f"{line}: no option {option}"
    if found := re.match(r"make(?: ([a-z]+))?(?= |$)", line):
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        if found[1] and not re.search(rf"^{found[1]}:", makefile, re.MULTILINE):
            return f"{line}: no target {found[1]}"
    return None


def wrong_commands(page: str) -> Iterator[str]:
    for line in command_lines(page):
        words = arguments(line)
        if problem := wrong_tool(line) if words is None else wrong_command(words):
            yield problem
    for code in inline(page):
        words = arguments(code)
        if problem := wrong_tool(code) if words is None else wrong_command(words, whole=False):
            yield problem


def test_every_command_is_one_that_the_command_line_takes() -> None:
    each_page(wrong_commands)


# --- links, paths and names ---------------------------------------------------------------------


def anchors(page: str) -> set[str]:
    """Those of headings, where GitHub and mkdocs call them the same."""
    found = set()
    for heading in re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE):
        bare = re.sub(r"[^\w\s-]", "", heading.replace("`", "")).strip().lower()
        ascii_ = unicodedata.normalize("NFKD", bare).encode("ascii", "ignore").decode()
        if bare.replace(" ", "-") == re.sub(r"[-\s]+", "-", ascii_):
            found.add(bare.replace(" ", "-"))
    return found


def wrong_links(page: Path, text: str) -> Iterator[str]:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(text)):
        if re.match(r"\w+:", target):
            continue
        path, _, anchor = target.partition("#")
        if path.endswith(GENERATED.rsplit("/")[-1]):
            continue
        place = (ROOT / page).parent / path if path else ROOT / page
        if not place.exists():
            yield f"link to {target}: no such file"
        elif anchor and anchor not in anchors(place.read_text(encoding="utf-8")):
            yield f"link to {target}: no such heading"


def test_every_link_leads_somewhere() -> None:
    wrong = [f"{page}: {w}" for page in PAGES for w in wrong_links(page, text_of(page))]
    assert not wrong, "\n" + "\n".join(wrong)


def in_lava(path: str) -> bool:
    """Whether a path is in the lava-dl wheel, or that is not here to say."""
    try:
        files = importlib.metadata.files("lava-dl") or []
    except importlib.metadata.PackageNotFoundError:
        return True
    return any(str(file).startswith(path) for file in files)


def wrong_paths(page: str) -> Iterator[str]:
    for code in inline(page):
        if not re.fullmatch(r"\.?[\w-][\w./-]*", code):
            continue
        top = re.fullmatch(r"[A-Z]+\.md|constraints[\w.-]*\.txt|pyproject\.toml|mkdocs\.yml", code)
        ours = top or ("/" in code and code.split("/")[0] in FOLDERS)
        there = (ROOT / code).exists() or (ROOT / f"{code}.py").exists()
        if ours and not there and not in_lava(code):
            yield f"`{code}`: no such file"


def test_every_file_that_is_named_is_there() -> None:
    each_page(wrong_paths)


def missing_name(dotted: str) -> str | None:
    """The part of a dotted name that is not there."""
    parts = dotted.split(".")
    found: Any = importlib.import_module(parts[0])
    for at, part in enumerate(parts[1:], 2):
        here = ".".join(parts[:at])
        if inspect.ismodule(found) and not hasattr(found, part):
            try:
                importlib.import_module(here)
            except ModuleNotFoundError:
                return here
        if hasattr(found, part):
            found = getattr(found, part)
        elif part in getattr(found, "__dataclass_fields__", {}):
            return None
        else:
            return here
    return None


def wrong_names(page: str) -> Iterator[str]:
    for code in inline(page):
        found = re.match(rf"({'|'.join(ROOMS)})(\.[A-Za-z_]\w*)+", code)
        if not found or re.search(r"\.(py|net|toml|md)$", found[0]):
            continue
        if missing := missing_name(found[0]):
            yield f"`{code}`: there is no {missing}"


def test_every_name_of_ours_exists() -> None:
    each_page(wrong_names)


# --- Python -------------------------------------------------------------------------------------


def wrong_python(page: str) -> Iterator[str]:
    """Blocks that do not compile, and imports that lead nowhere."""
    for block in blocks(page):
        if block.language != "python":
            continue
        try:
            tree = ast.parse(block.text)
        except SyntaxError as error:
            yield f"line {block.line}: {error}"
            continue
        for node in ast.walk(tree):
            names = []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            for name in names:
                if name.split(".")[0] in ROOMS and (missing := missing_name(name)):
                    yield f"line {block.line}: there is no {missing}"


def test_every_python_block_compiles_and_imports_what_exists() -> None:
    each_page(wrong_python)


RUNNABLE = [p for p in PAGES if any("run" in b.marks for b in blocks(text_of(p)))]


@pytest.mark.parametrize("page", RUNNABLE, ids=str)
def test_what_is_marked_to_run_runs(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of a page's blocks, one after the other, in an empty folder; the commands say what the
    page says, but for the numbers."""
    monkeypatch.chdir(tmp_path)
    for block in blocks(text_of(page)):
        if "run" not in block.marks:
            continue
        if "lava" in block.marks and not lava_compat.status().installed:
            assert not os.environ.get("PUMICE_REQUIRE_LAVA"), "Lava should be here"
            continue
        if block.language == "python":
            exec(compile(block.text, f"{page}:{block.line}", "exec"), {"__name__": "__main__"})
        else:
            run_console(block.text)


def run_console(text: str) -> None:
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        line, _, said = part.partition("\n")
        words = arguments(line)
        assert words is not None, line
        stream = io.StringIO()
        with contextlib.redirect_stdout(stream), contextlib.redirect_stderr(stream):
            code = main(words)
        assert code == 0, stream.getvalue()
        assert says(stream.getvalue(), said), f"{line}\nsaid\n{stream.getvalue()}not\n{said}"


def says(found: str, page: str) -> bool:
    """Whether a page shows this, numbers and spaces aside; … stands for the rest of a line, and
    alone for any lines."""

    def lines(text: str) -> list[str]:
        bare = (re.sub(r"-?\d[\d,.]*", "#", " ".join(line.split())) for line in text.splitlines())
        return [line for line in bare if line]

    pattern = ""
    for line in lines(page):
        if line == "…":
            pattern += r"(?:[^\n]*\n)*"
        else:
            pattern += r"[^\n]*".join(map(re.escape, line.split("…"))) + r"\n"
    return re.fullmatch(pattern, "".join(f"{line}\n" for line in lines(found))) is not None


def test_the_whole_way_in_python_takes_less_than_25_lines() -> None:
    first = next(b for b in blocks(text_of(Path("docs/how-to/python.md"))) if "run" in b.marks)
    lines = [line for line in first.text.splitlines() if line.strip()]
    assert len(lines) < 25
    called = {n.func.id for n in ast.walk(ast.parse(first.text)) if is_call(n)}  # type: ignore[attr-defined]
    assert {"train", "read", "check", "verify", "learn", "write"} <= called


def is_call(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name)


@pytest.mark.parametrize("name", pumice.__all__)
def test_help_says_what_every_option_of_a_function_is(name: str) -> None:
    found = getattr(pumice, name)
    assert (found.__doc__ or "").strip()
    if not inspect.isfunction(found):
        return
    for parameter in inspect.signature(found).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY:
            assert re.search(rf"\b{parameter.name}\b", found.__doc__ or ""), parameter.name


def test_pumice_imports_no_torch_and_no_lava(run_python: Any) -> None:
    code = "import sys, pumice; print([m for m in ('torch', 'lava') if m in sys.modules])"
    assert run_python(code).strip() == "[]"


# --- the site -----------------------------------------------------------------------------------


def test_every_page_is_in_the_menu_and_nothing_else() -> None:
    menu = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").split("\nnav:\n")[1]
    named = re.findall(r": ([\w./-]+\.md)$", menu, re.MULTILINE)
    pages = [str(p.relative_to("docs")) for p in PAGES if p.parts[0] == "docs"]
    assert sorted(named) == sorted([*pages, GENERATED])


def test_what_is_cited_is_this_version() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    cited = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    version = re.search(r'^version = "(.+)"$', project, re.MULTILINE)
    assert version is not None
    assert f"\nversion: {version[1]}\n" in cited


def test_every_module_of_the_reference_is_there() -> None:
    for page in PAGES:
        for name in re.findall(r"^::: (\S+)$", text_of(page), re.MULTILINE):
            assert missing_name(name) is None, f"{page}: {name}"


# --- the checkers see mistakes ------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        "pumice trane --data mnist",
        "pumice train --dat mnist",
        "pumice train --rule slt",
        "pumice train --epochs many",
        "pumice train --set normm=bn",
        "pumice train --set norm=batch",
        "pumice train --set lr=0",
        "pumice train --preset sltt-mnits",
        "pumice train --data mnits",
        "pumice train --augment rotatee=1",
        "pumice check",
        "pumice check a.net b.net",
        "pumice learn --rule gaps=4",
        "pumice learn --mode stdp --rule leak=4",
        "pumice rule 'dw = prae'",
        "pumice verify a.net --between reference,engin",
        "pumice data fetch imagenet",
        "torchrun --nproc-per-node 2 -m cli.main train --dat mnist",
        "python -m bench.accuracies",
        "python -m bench.engine --pathes",
        "make demos",
        "pumice --helpp",
    ],
)
def test_a_wrong_command_is_seen(line: str) -> None:
    assert list(wrong_commands(f"    {line}\n"))
    if line != "pumice check":  # as a name it is right
        assert list(wrong_commands(f"say `{line}` here\n")) or "b.net" in line
    assert not list(wrong_commands("    pumice check a.net --map   # a map\n"))


def test_a_wrong_link_path_name_or_block_is_seen() -> None:
    page = Path("docs/index.md")
    assert list(wrong_links(page, "[a](nothing.md)"))
    assert list(wrong_links(page, "[a](exactness.md#three-clocks)"))
    assert not list(wrong_links(page, "[a](exactness.md#two-clocks)"))
    assert list(wrong_paths("`loihi/nothing.py`")) and not list(wrong_paths("`loihi/files.py`"))
    assert list(wrong_names("`loihi.limits.chek`")) and not list(
        wrong_names("`loihi.limits.check`")
    )
    assert list(wrong_python("```python\nx = = 1\n```"))
    assert list(wrong_python("```python\nfrom trainer.rules import SLTTT\n```"))
    assert not list(wrong_python("```python\nfrom trainer.rules import SLTT\n```"))


def test_a_command_that_says_something_else_is_seen() -> None:
    assert says("accuracy  95.47%   \n\nrun x\n", "accuracy 93%\nrun x")
    assert says("a\nb\nc 1\n", "a\n…\nc 2") and says("a b c\n", "a …")
    assert not says("accuracy 95%\n", "precision 95%")
    assert not says("a\nb\n", "a") and not says("a\n", "a\nb")
    with pytest.raises(AssertionError, match="said"):
        run_console("$ pumice data show digits\ndata mnist")
