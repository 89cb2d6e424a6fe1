"""The training rules: one file each, all behind one small interface (:mod:`trainer.rules.base`)."""

from __future__ import annotations

import dataclasses
from typing import Any

from loihi.errors import PumiceError
from trainer.rules.base import Loss, Result, Rule, Stepped
from trainer.rules.bptt import BPTT, CheckpointedBPTT
from trainer.rules.decolle import DECOLLE
from trainer.rules.sltt import SLTT
from trainer.rules.sltt_k import SLTTK
from trainer.rules.stop import OTTT, STOP
from trainer.rules.tt_lbp import TTLBP

RULES: dict[str, type[Rule]] = {
    "bptt": BPTT,
    "bptt_checkpoint": CheckpointedBPTT,
    "sltt": SLTT,
    "sltt_k": SLTTK,
    "ottt": OTTT,
    "stop": STOP,
    "tt_lbp": TTLBP,
    "decolle": DECOLLE,
}
LOCAL = ("tt_lbp", "decolle")
"""Rules with local classifiers."""
_OWN_LOSSES = {
    "tt_lbp": "of the mean outputs of k steps already",
    "decolle": "each layer's own in every step",
}


def rule(name: str, **options: Any) -> Rule:
    """A rule by its name. Of the options, each rule takes those that are its own.

    time_steps: an option too: T, which not every k suits.
    """
    if name not in RULES:
        raise PumiceError(f"rule {name!r} is unknown: use one of {', '.join(RULES)}")
    if name in LOCAL and options.get("loss_of") == "mean":
        raise PumiceError(
            f"loss_of 'mean' is not for {name}: its losses are {_OWN_LOSSES[name]}; "
            "use loss_of 'steps'"
        )
    kind = RULES[name]
    own = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    made = kind(**{k: v for k, v in options.items() if k in own})
    if isinstance(made, SLTTK | TTLBP) and "time_steps" in options:
        made.check(options["time_steps"])
    return made


__all__ = [
    "BPTT",
    "DECOLLE",
    "LOCAL",
    "OTTT",
    "RULES",
    "SLTT",
    "SLTTK",
    "STOP",
    "TTLBP",
    "CheckpointedBPTT",
    "Loss",
    "Result",
    "Rule",
    "Stepped",
    "rule",
]
