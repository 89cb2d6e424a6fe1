"""The training rules: one file each, all behind one small interface (:mod:`trainer.rules.base`)."""

from __future__ import annotations

from loihi.errors import PumiceError
from trainer.rules.base import Loss, Result, Rule, Stepped
from trainer.rules.bptt import BPTT
from trainer.rules.sltt import SLTT

RULES: dict[str, type[Rule]] = {"bptt": BPTT, "sltt": SLTT}


def rule(name: str, *, detach_reset: bool = False) -> Rule:
    """A rule by its name; ``detach_reset`` is bptt's."""
    if name == "bptt":
        return BPTT(detach_reset=detach_reset)
    if name == "sltt":
        return SLTT()
    raise PumiceError(f"rule {name!r} is unknown: use one of {', '.join(RULES)}")


__all__ = ["BPTT", "RULES", "SLTT", "Loss", "Result", "Rule", "Stepped", "rule"]
