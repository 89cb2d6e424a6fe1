"""What mkdocs.yml hooks in: the reference of the commands, and docstrings as Markdown.

:func:`on_files` is mkdocs's: it makes ``reference/commands.md`` of what ``--help`` is made of.
:class:`Docstrings` is an extension of griffe, which mkdocstrings reads our source with: nothing but
the commands is imported, so the site builds where torch and Lava are absent.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = "reference/commands.md"

_ROLE = re.compile(r":(?:class|func|meth|mod|data|attr|exc|obj):`~?([^`]+)`")
_FIELD = re.compile(r"[a-z_]\w*(, [a-z_]\w*)*:(\s|$)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the reference of the commands."""
    sys.path.insert(0, str(ROOT))
    try:
        text = commands()
    finally:
        sys.path.remove(str(ROOT))
    files.append(File.generated(config, COMMANDS, content=text))
    return files


def commands() -> str:
    """Every command with its arguments and options, as a page."""
    import typer

    from cli.main import app

    group = typer.main.get_command(app)
    parts = [
        "# Commands\n\nMade from `--help`. What all commands have in common, exit codes among it, "
        "is in [the command line](../cli.md).\n"
    ]
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        inner = getattr(command, "commands", None)
        if inner is None:
            parts.append(_command(f"pumice {name}", command))
            continue
        parts += [_command(f"pumice {name} {each}", inner[each]) for each in inner]
    return "\n".join(parts)


def _command(path: str, command: Any) -> str:
    context = command.make_context(path, [], resilient_parsing=True)
    usage = " ".join([path, *command.collect_usage_pieces(context)])
    lines = [f"## {path}\n", f"{command.help}\n", f"    {usage}\n", "| | |", "|---|---|"]
    records = (parameter.get_help_record(context) for parameter in command.params)
    # What every command has is said once, in docs/cli.md.
    rows = [r for r in records if r and not r[0].startswith(("--json", "-q", "--quiet", "-v"))]
    lines += [
        f"| `{_line(left)}` | {_line(right).replace('|', '&#124;')} |" for left, right in rows
    ]
    example = (command.epilog or "").removeprefix("Example: ")
    return "\n".join([*lines, "", f"    {example}\n"]) if example else "\n".join([*lines, ""])


def _line(text: str) -> str:
    return " ".join(text.split())


class Docstrings(griffe.Extension):
    """Our docstrings as Markdown: roles become code, ``name: what it is`` a list of names."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Called for everything that is found in the source."""
        if obj.docstring is not None:
            obj.docstring.value = markdown(obj.docstring.value)

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        """Called for a whole package, which is no object to griffe."""
        self.on_object(obj=pkg)


def markdown(text: str) -> str:
    """One docstring."""
    text = _ROLE.sub(r"`\1`", text)
    paragraphs = [_listed(part) for part in re.split(r"\n\s*\n", text)]
    return re.sub(r"::$", ":", "\n\n".join(paragraphs), flags=re.MULTILINE)


def _listed(paragraph: str) -> str:
    """A paragraph; if it says what some names are, a list."""
    lines = paragraph.splitlines()
    if not lines or not _FIELD.match(lines[0]):
        return paragraph
    made = []
    for line in lines:
        names, colon, said = line.partition(":")
        if colon and _FIELD.match(line):
            each = ", ".join(f"`{name}`" for name in names.split(", "))
            made.append(f"- {each}: {said.strip()}")
        else:
            made.append(f"    {line.strip()}" if not line.startswith("    ") else line)
    return "\n".join(made)
