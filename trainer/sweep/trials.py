"""What was found: trials as they stand, the best of them, and the table."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from typing import Any

from optuna.trial import FrozenTrial, TrialState

STATES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
}


@dataclass(frozen=True)
class Trial:
    """A trial as it stands.

    state: ``complete``, ``pruned``, ``failed`` or ``running``.
    value: the objective after the last epoch that there was; None before.
    accuracy: of the held-out samples, 0..1, likewise.
    epochs: how many there were. seconds: that they took.
    params: what was drawn. reason: why it failed.
    """

    number: int
    state: str
    value: float | None
    accuracy: float | None
    epochs: int
    seconds: float
    params: dict[str, Any]
    reason: str = ""


@dataclass(frozen=True)
class Found:
    """Where a sweep stands. trials: in the order of their numbers. lower: is better."""

    trials: list[Trial]
    lower: bool = False

    @property
    def best(self) -> Trial | None:
        """Of the complete ones; of equals the first."""
        return next(iter(self.ranked()), None)

    def ranked(self) -> list[Trial]:
        """The complete ones, the best first."""
        complete = [t for t in self.trials if t.state == "complete" and t.value is not None]
        return sorted(complete, key=lambda t: t.value or 0.0, reverse=not self.lower)

    def count(self, state: str) -> int:
        """How many there are."""
        return sum(t.state == state for t in self.trials)


def as_trial(trial: FrozenTrial) -> Trial:
    """One of Optuna's, by what the sweep has noted with it."""
    step, attributes = trial.last_step, trial.user_attrs
    return Trial(
        trial.number,
        STATES[trial.state],
        None if step is None else trial.intermediate_values[step],
        attributes.get("accuracy"),
        len(trial.intermediate_values),
        attributes.get("seconds", 0.0),
        trial.params,
        attributes.get("reason", ""),
    )


def table(found: Found, names: list[str]) -> str:
    """All trials as CSV, with what was drawn for the settings ``names``."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    head = ["trial", "state", "value", "accuracy", "epochs", "seconds"]
    writer.writerow([*head, *names, "reason"])
    for t in found.trials:
        row = [t.number, t.state, t.value, t.accuracy, t.epochs, t.seconds]
        writer.writerow([*row, *(t.params.get(name, "") for name in names), t.reason])
    return text.getvalue()
