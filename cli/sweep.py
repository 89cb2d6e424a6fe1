"""``pumice sweep``: the settings that the papers leave open, searched for."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields, replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli import train
from cli.output import Json, Result, log, progress, table
from trainer.config import TrainConfig

if TYPE_CHECKING:
    from trainer.sweep import Found, Plan, Trial

EXAMPLE = "pumice sweep --data digits --model 64 --epochs 4 --trials 20 --out runs/sweep"
VALIDATION = 0.2
SHOWN = 20
"""Trials in the table for people; the others are in trials.csv."""


class Objective(str, Enum):
    """What is searched for."""

    accuracy = "accuracy"
    fom = "fom"


def _with_the_settings_of(
    command: Callable[..., Any],
) -> Callable[[Callable[..., Result]], Callable[..., Result]]:
    """Puts the other command's settings in the place of ``**given``: one said there is one here."""

    def decorate(function: Callable[..., Result]) -> Callable[..., Result]:
        settings = {*(field.name for field in fields(TrainConfig)), "settings_"}
        theirs = inspect.signature(command, eval_str=True).parameters
        ours = inspect.signature(function, eval_str=True)
        own = {n: p for n, p in ours.parameters.items() if p.kind is not p.VAR_KEYWORD}
        taken = [p for name, p in theirs.items() if name in settings and name not in own]
        parameters = [p.replace(kind=p.KEYWORD_ONLY) for p in (*taken, *own.values())]
        function.__signature__ = ours.replace(parameters=parameters)  # type: ignore[attr-defined]
        function.__annotations__ = {p.name: p.annotation for p in parameters}
        return function

    return decorate


@_with_the_settings_of(train.run)
def run(
    config: Annotated[
        Path | None,
        typer.Option(help="A config.toml for what is not searched; options come before it."),
    ] = None,
    space: Annotated[
        Path | None,
        typer.Option(
            help="A TOML file: for a setting a list of values, or {low = a, high = b, log = true}; "
            "without, rule, k, n, surrogate and learning rates.",
            metavar="FILE.toml",
        ),
    ] = None,
    trials: Annotated[int, typer.Option(min=1, help="How many there are to be, all in all.")] = 20,
    objective: Annotated[
        Objective | None,
        typer.Option(
            help="What is searched for: accuracy, which is the default, or TT-LBP's figure of "
            "merit, which counts the costs of training as well."
        ),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes, which share the cores.")] = 1,
    validation: Annotated[
        float | None,
        typer.Option(
            help=f"The fraction of the training samples to measure with; {VALIDATION} by default."
        ),
    ] = None,
    search_seed: Annotated[int | None, typer.Option(help="Of what is tried; 0 by default.")] = None,
    prune: Annotated[
        bool | None,
        typer.Option(
            "--prune/--no-prune", help="End trials that are worse than the median; on by default."
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option(help="The sweep's folder; with one that is there, it goes on.")
    ] = Path("runs/sweep"),
    _json: Json = False,
    **given: Any,
) -> Result:
    """Search for the settings that train best, measured on a held-out part of the training set.

    The same command again goes on with a sweep that was ended or killed; several at once share the
    work. best.toml in the folder then trains the best network on the whole training set.
    """
    from trainer import sweep

    aim = objective and objective.value
    given["validation"] = validation
    options = {"objective": aim, "seed": search_seed, "prune": prune}
    plan = _plan(out, given, config, space, {k: v for k, v in options.items() if v is not None})

    study = sweep.Sweep(plan, out)

    with progress("trials", trials) as advance:

        def show(trial: Trial, ended: int) -> None:
            log(f"trial {trial.number:4}  {_line(trial)}")
            advance(ended)

        found = study.run(trials, workers=workers, on_trial=show)
    return Result(_answer(found, out), _text(found, plan, out))


def _plan(
    out: Path,
    given: dict[str, Any],
    config: Path | None,
    space: Path | None,
    options: dict[str, Any],
) -> Plan:
    """What the folder was begun with, if it was, and what is said now over it."""
    from trainer import sweep

    begun = sweep.Plan.read(out)
    fixed = begun.space.fixed if begun is not None else TrainConfig()
    if config is not None:
        fixed = TrainConfig.read(config)
    more = train._more(given.pop("settings_", None) or [])
    said = {k: v.value if isinstance(v, Enum) else v for k, v in given.items() if v is not None}
    said |= more
    fixed = replace(fixed, **said)
    if Path(fixed.data).exists():  # the sweep can be gone on with from any folder
        fixed = replace(fixed, data=str(Path(fixed.data).resolve()))
    if not fixed.validation and "validation" not in said:
        fixed = replace(fixed, validation=VALIDATION)
    if space is not None:
        searched = sweep.Space.read(space, fixed)
    elif begun is not None:
        searched = sweep.Space(begun.space.said, fixed, str(out / sweep.PLAN))
    else:
        searched = sweep.default_space(fixed, said, options.get("objective", "accuracy"))
    if both := [name for name in searched.said if name in said]:
        where = space if space is not None else out
        raise sweep.SweepError(f"{both[0]} is searched for in {where}: it cannot be given as well")
    if begun is None:
        return sweep.Plan(searched, **options)
    return replace(begun, space=searched, **options)


def _answer(found: Found, out: Path) -> dict[str, Any]:
    from dataclasses import asdict

    from trainer.sweep import BEST, STATES, TABLE

    best = found.best
    return {
        "sweep": str(out),
        **{state: found.count(state) for state in STATES.values()},
        "best": asdict(best) if best else None,
        "config": str(out / BEST) if best else None,
        "table": str(out / TABLE),
        "trials": [asdict(trial) for trial in found.trials],
    }


def _text(found: Found, plan: Plan, out: Path) -> Any:
    from rich.console import Group

    from trainer.sweep import BEST, STATES, TABLE

    names = list(plan.space.distributions)
    order = found.ranked() + [t for t in found.trials if t.state != "complete"]
    fom = plan.objective == "fom"
    rows = [
        (
            str(t.number),
            t.state,
            *([_value(t.value)] if fom else []),
            "" if t.accuracy is None else f"{t.accuracy:.2%}",
            str(t.epochs),
            f"{t.seconds:.1f}",
            *(_value(t.params.get(name, "")) for name in names),
            t.reason,
        )
        for t in order[:SHOWN]
    ]
    headers = ("trial", "state", *(["fom"] if fom else []), "held-out", "epochs", "s", *names, "")
    counts = ", ".join(f"{n} {s}" for s in STATES.values() if (n := found.count(s)))
    summary = [("trials", f"{counts}; all of them in {out / TABLE}")]
    if found.best is not None:
        summary += [
            ("best", f"trial {found.best.number}, {found.best.accuracy:.2%} of the held-out"),
            ("its settings", f"{out / BEST}: pumice train --config {out / BEST}"),
        ]
    return Group(table(rows, headers), "", table(summary))


def _line(trial: Trial) -> str:
    accuracy = "" if trial.accuracy is None else f"{trial.accuracy:7.2%}"
    params = "  ".join(f"{name} {_value(value)}" for name, value in trial.params.items())
    return "  ".join(part for part in (f"{trial.state:8}", accuracy, params, trial.reason) if part)


def _value(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
