"""Chips and boards: what they offer, each figure with its source.

The figures of Loihi 1 and 2 stand in ``boards.toml``; a user's own board is a file of the same form
(:func:`read`), or single figures in place of ours (:func:`chip`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

from loihi import toml
from loihi.errors import PumiceError

FILE_MAX = toml.LARGEST
"""Bytes that a board file may have."""


class BoardError(PumiceError):
    """A chip that is not known, or a board file that says what none can have."""


@dataclass(frozen=True)
class Cost:
    """What single operations take: energies in pJ, times in ns.

    synaptic_op: a spike through one synapse. active_update, idle_update: a neuron's update in a
    step in which a spike has come to it, and in one without. spike: a spike's way to one core.
    tiles: into how many the chip's cores are grouped. barrier: the end of a step, with one tile in
    use and with all.
    """

    synaptic_op_pj: float
    synaptic_op_ns: float
    active_update_pj: float
    active_update_ns: float
    idle_update_pj: float
    idle_update_ns: float
    spike_pj: float
    tiles: int
    barrier_first_ns: float
    barrier_last_ns: float


@dataclass(frozen=True)
class Chip:
    """What a chip offers; a board has ``chips`` of them.

    cores: usable neuro-cores a chip. neurons: a core. synapse_bytes: synaptic memory a core.
    axons, axons_out: input and output axons a core, None where not known. fan_in: synapses a
    neuron, None where only the core's memory bounds them. weight_bits: the sizes a weight may have.
    delay: longest synaptic delay in steps; delay_all: the longest with which a core can be full of
    neurons, None where that is ``delay``. threshold_bits, bias_bits: of the mantissas, a bias's
    with its sign. bias_exp: the largest. graded: whether spikes can carry a payload. microcode:
    whether neurons can be programmed. cost: what operations take, None where that is not public.
    sources: where each figure comes from; those of ``cost`` as ``cost.spike_pj``.
    """

    name: str
    cores: int
    neurons: int
    synapse_bytes: int
    weight_bits: tuple[int, ...]
    delay: int
    graded: bool
    microcode: bool
    threshold_bits: int = 17
    bias_bits: int = 13
    bias_exp: int = 7
    axons: int | None = None
    axons_out: int | None = None
    fan_in: int | None = None
    delay_all: int | None = None
    chips: int = 1
    cost: Cost | None = None
    sources: dict[str, str] = field(default_factory=dict)

    @property
    def cost_source(self) -> str:
        """Where the figures of ``cost`` come from, in short."""
        said = (source for key, source in self.sources.items() if key.startswith("cost."))
        return "; ".join(sorted({re.split(r"[:(]", source)[0].strip() for source in said}))

    def stored_bits(self, bits: int) -> int | None:
        """The smallest of the chip's weight sizes that holds ``bits``, None if none does."""
        return min((size for size in self.weight_bits if size >= bits), default=None)


# The range of each figure. 2^31 − 1: what fits everywhere, and is more than any chip will have.
_MANY = 2**31 - 1
_INTEGERS = {
    "cores": (1, _MANY),
    "neurons": (1, _MANY),
    "synapse_bytes": (1, _MANY),
    "axons": (1, _MANY),
    "axons_out": (1, _MANY),
    "fan_in": (1, _MANY),
    "delay": (0, _MANY),
    "delay_all": (0, _MANY),
    "threshold_bits": (1, 32),
    "bias_bits": (1, 32),
    "bias_exp": (0, 32),
    "chips": (1, _MANY),
}
_FLAGS = ("graded", "microcode")
_NEEDED = tuple(
    f.name
    for f in fields(Chip)
    if f.name in ("cores", "neurons", "synapse_bytes", "weight_bits", "delay", *_FLAGS)
)
_KNOWN = (*_INTEGERS, *_FLAGS, "weight_bits")


@cache
def known() -> Mapping[str, Chip]:
    """The chips of ``boards.toml`` by name."""
    text = Path(__file__).with_name("boards.toml").read_text(encoding="utf-8")
    return {name: _chip(name, table, name) for name, table in toml.loads(text).items()}


def chip(name: str, **figures: int) -> Chip:
    """A known chip by name (``loihi1``, ``loihi2``), with figures of your own in place of ours."""
    if name not in known():
        raise BoardError(f"chip {name!r} is unknown: use one of {', '.join(known())}")
    return with_figures(known()[name], **figures)


def with_figures(on: Chip, **figures: int) -> Chip:
    """``on`` with whole-number figures of your own; a :class:`BoardError` names a wrong one."""
    for key, value in figures.items():
        if key not in _INTEGERS:
            raise BoardError(f"a chip has no figure {key!r}: use one of {', '.join(_INTEGERS)}")
        low = _INTEGERS[key][0]
        if value < low:
            raise BoardError(f"chip figure {key} is {value}: it must be at least {low}")
        _integer(key, value, *_INTEGERS[key])
    changes: dict[str, Any] = {**figures}
    return replace(on, sources=on.sources | dict.fromkeys(figures, "given by you"), **changes)


def read(path: Path) -> Chip:
    """The board of a TOML file, checked figure by figure; a :class:`BoardError` in one line.

    ``base`` names a known chip whose figures stand where the file has none; without it, the file
    has to say all that :class:`Chip` needs. A ``[cost]`` of the file replaces that of the base.
    """
    path = Path(path)
    table = toml.read(path, BoardError, "a board file")
    try:
        return _chip(path.stem, table, str(path))
    except BoardError as error:
        raise BoardError(f"{path}: {error}") from None


def _chip(name: str, table: Mapping[str, Any], origin: str) -> Chip:
    """A table of figures as a chip; ``origin`` is the source of what names none."""
    said = dict(table)
    name = _text("name", said.pop("name", name))
    base = said.pop("base", None)
    cost = said.pop("cost", None)
    if base is not None and _text("base", base) not in known():
        raise BoardError(f"base {base!r} is unknown: use one of {', '.join(known())}")
    _no_strangers(said, (*_KNOWN, "name", "base", "cost"), "figure")
    values, sources = _split(said, origin)
    made: dict[str, Any] = {}
    for key, value in values.items():
        if key in _INTEGERS:
            made[key] = _integer(key, value, *_INTEGERS[key])
        elif key in _FLAGS:
            if not isinstance(value, bool):
                raise BoardError(f"{key} is {value!r}: write true or false")
            made[key] = value
        else:
            made[key] = _sizes(key, value)
    if cost is not None:
        made["cost"], costs = _cost(cost, origin)
        sources |= {f"cost.{key}": source for key, source in costs.items()}
    if base is not None:
        on = known()[base]
        made["sources"] = on.sources | sources
        return _checked(replace(on, name=name, **made))
    if missing := [key for key in _NEEDED if key not in made]:
        raise BoardError(
            f'says nothing of {", ".join(missing)}: add them, or base = "loihi2" to take the '
            "rest from there"
        )
    return _checked(Chip(name=name, sources=sources, **made))


def _checked(on: Chip) -> Chip:
    """What single figures cannot show: that they go together."""
    if on.delay_all is not None and on.delay_all > on.delay:
        raise BoardError(f"delay_all is {on.delay_all}, more than the longest delay, {on.delay}")
    if on.cost is not None and on.cost.tiles > on.cores:
        raise BoardError(f"cost.tiles is {on.cost.tiles}, more than its {on.cores} cores")
    return on


def _cost(table: Any, origin: str) -> tuple[Cost, dict[str, str]]:
    if not isinstance(table, dict):
        raise BoardError("cost is no table: write [cost] and its figures below")
    names = [f.name for f in fields(Cost)]
    _no_strangers(table, names, "figure of cost")
    if missing := [name for name in names if name not in table]:
        raise BoardError(f"cost says nothing of {', '.join(missing)}")
    values, sources = _split(table, origin)
    made: dict[str, Any] = {
        key: _integer(f"cost.{key}", value, 1, _MANY)
        if key == "tiles"
        else _number(f"cost.{key}", value)
        for key, value in values.items()
    }
    return Cost(**made), sources


def _split(table: Mapping[str, Any], origin: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Values and sources of figures that are a value, or ``{ value, source }``."""
    values, sources = {}, {}
    for key, entry in table.items():
        source = origin
        if isinstance(entry, dict):
            _no_strangers(entry, ("value", "source"), f"part of {key}")
            if "value" not in entry:
                raise BoardError(f'{key} has no value: write {{ value = …, source = "…" }}')
            source = _text(f"the source of {key}", entry.get("source", origin))
            entry = entry["value"]
        values[key], sources[key] = entry, source
    return values, sources


def _no_strangers(table: Iterable[str], names: Iterable[str], what: str) -> None:
    names = list(names)
    for key in table:
        if key not in names:
            close = get_close_matches(key, names, 1)
            hint = f"do you mean {close[0]}?" if close else f"they are {', '.join(names)}"
            raise BoardError(f"{key!r} is no {what}: {hint}")


def _integer(key: str, value: Any, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise BoardError(f"{key} is {value!r}: write a whole number")
    if not low <= value <= high:
        raise BoardError(f"{key} is {value}, outside {low}..{high}")
    return value


def _number(key: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BoardError(f"{key} is {value!r}: write a number")
    if not (math.isfinite(value) and 0 <= value <= 1e12):
        raise BoardError(f"{key} is {value}, outside 0..1e12")
    return float(value)


def _sizes(key: str, value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or not value:
        raise BoardError(f"{key} is {value!r}: write the sizes that there are, as [4, 8]")
    sizes = tuple(sorted({_integer(f"a size of {key}", size, 1, 32) for size in value}))
    if len(sizes) < len(value):
        raise BoardError(f"{key} names a size twice: {value}")
    return sizes


def _text(key: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        raise BoardError(f"{key} is {value!r}: write a name or a few words in quotes")
    return value
