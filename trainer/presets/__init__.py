"""Settings of papers and of our own measurements, by name: one TOML file each, with its source.

A file says ``about`` (what it is), ``source`` (where its settings stand), ``differs`` (what is not
the source's), and ``[settings]``, as config.toml has them; all others are the defaults.
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path

from loihi import toml
from trainer.config import ConfigError, TrainConfig

_FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Preset:
    """Settings with a name, and where they are from."""

    name: str
    about: str
    source: str
    differs: str
    settings: TrainConfig


def names() -> list[str]:
    """All there are, in order."""
    return sorted(path.stem for path in _FOLDER.glob("*.toml"))


@cache
def read(name: str) -> Preset:
    """A preset by its name. Raises :class:`ConfigError` for one that there is not."""
    known = names()
    if name not in known:
        near = get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ConfigError(f"preset {name!r} is unknown: {hint}There are {', '.join(known)}")
    found = toml.loads((_FOLDER / f"{name}.toml").read_text(encoding="utf-8"))
    settings = TrainConfig.from_dict(found["settings"])
    return Preset(name, found["about"], found["source"], found["differs"], settings)
