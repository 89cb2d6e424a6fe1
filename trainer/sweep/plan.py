"""What a sweep is, and its file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from trainer.config import ConfigError, TrainConfig
from trainer.sweep.space import Space, SweepError, read_toml

PLAN, JOURNAL, TRIALS, TABLE, BEST = (
    "sweep.toml",
    "study.journal",
    "trials",
    "trials.csv",
    "best.toml",
)
OBJECTIVES = ("accuracy", "fom")
TRUNCATIONS: dict[str, Callable[[TrainConfig], tuple[int, int]]] = {
    "bptt": lambda settings: (0, 0),
    "sltt": lambda settings: (1, 0),
    "tt_lbp": lambda settings: (settings.k, settings.n),
}
"""Rules whose cost TT-LBP's model counts, as its (k, n); 0: all steps, all layers."""
_OTHER_NETWORK = ("model", "hidden", "time_steps")


@dataclass(frozen=True)
class Plan:
    """What a sweep is; the same plan, the same trials (of a single worker).

    space: what is searched, and the settings that are not (``space.fixed``), among them
        ``validation``, the fraction of the training samples that trials are measured on.
    objective: ``accuracy`` of the held-out samples after the last epoch, the higher the better;
        or ``fom``, TT-LBP's figure of merit (Eq 18), the lower the better: 1 − accuracy + 0.25 ·
        the costs in parts of BPTT's (:mod:`trainer.cost`, all inputs taken for active). Its loss
        of accuracy is against BPTT's; against 1, here, it is more by what is the same in all
        trials.
    seed: of what is tried.
    prune: end trials that are worse, in an epoch, than the median of the finished ones was in it.
    """

    space: Space
    objective: str = "accuracy"
    seed: int = 0
    prune: bool = True

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise SweepError(
                f"objective {self.objective!r} is unknown: use {' or '.join(OBJECTIVES)}"
            )
        if not self.space.fixed.validation:
            raise SweepError(
                "validation is 0: name the fraction of the training samples to measure trials with"
            )
        if not 0 <= self.seed < 2**31:
            raise SweepError(f"the seed of the search is {self.seed}: use 0..{2**31 - 1}")
        if self.objective == "fom":
            self._check_fom()

    def _check_fom(self) -> None:
        said, fixed = self.space.said, self.space.fixed
        if other := [name for name in _OTHER_NETWORK if name in said]:
            raise SweepError(
                f"objective fom compares with BPTT on one network: {other[0]} cannot be searched"
            )
        if unknown := [r for r in said.get("rule", [fixed.rule]) if r not in TRUNCATIONS]:
            raise SweepError(
                f"objective fom knows the costs of {', '.join(TRUNCATIONS)}, not of {unknown[0]}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for TOML."""
        plain = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "space"}
        return {**plain, "settings": self.space.fixed.to_dict(), "space": self.space.said}

    @classmethod
    def read(cls, folder: Path) -> Plan | None:
        """That of a sweep's folder; None where there is none."""
        path = folder / PLAN
        if not path.exists():
            return None
        said = read_toml(path)
        try:
            settings, space = said.pop("settings"), said.pop("space")
            said.pop("data_crc32")
            return cls(Space(space, TrainConfig.from_dict(settings), str(path)), **said)
        except ConfigError as error:
            raise SweepError(f"{path}: {error}") from None
        except (KeyError, TypeError) as error:
            raise SweepError(f"{path} is not a sweep's: {error}") from None


def flat(plan: dict[str, Any]) -> dict[str, Any]:
    """A plan's values, those of its tables by ``table.name``."""
    tables = ("settings", "space")
    flat = {name: value for name, value in plan.items() if name not in tables}
    return flat | {f"{t}.{name}": value for t in tables for name, value in plan[t].items()}
