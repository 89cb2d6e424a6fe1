"""The search over settings that the papers leave open: rule, (k, n), surrogate, learning rates.

A sweep is a folder, and as many processes as like work on it at once::

    sweep.toml        what is searched: fixed settings, space, objective, held-out part
    study.journal     Optuna's journal, a JSON object a line: the trials
    trials/0003/      a trial's run folder, as of :mod:`trainer.loop`
    trials.csv        the trials as a table
    best.toml         the settings of the best one, for all training samples and the test samples

A trial is measured on a part of the training samples that it is not trained with (its settings'
``validation``). The test samples are not looked at.

Who works on a trial holds a lock on a file in its folder, which the operating system takes back
when the process ends, however it ends. So a trial that runs by the journal while its lock is free
was killed: whoever finds it goes on with it, from its last full epoch to the same numbers. What a
trial is given depends on the seed, its number and the trials that are done by then, so a single
process finds the same again, whether it was killed in between or not.
"""

from __future__ import annotations

import contextlib
import csv
import fcntl
import io
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields, replace
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np

from loihi import files
from loihi.errors import PumiceError
from trainer import checkpoint, loop
from trainer.config import ConfigError, TrainConfig
from trainer.data import Dataset, load
from trainer.rules import LOCAL, RULES
from trainer.surrogates import SHAPES

try:
    import optuna
except ImportError:
    raise PumiceError("a sweep needs Optuna: pip install 'pumice[sweep]'") from None
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.storages.journal import BaseJournalBackend
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PLAN, JOURNAL, TRIALS, TABLE, BEST = (
    "sweep.toml",
    "study.journal",
    "trials",
    "trials.csv",
    "best.toml",
)
STATES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
}
OBJECTIVES = ("accuracy", "fom")
DEATHS = 3
"""How often a process may be killed in the same epoch of a trial until the trial has failed."""
COUNTABLE = 10_000
"""Spaces of up to so many combinations are searched without trying one twice."""
GRACE = 10.0
"""Seconds that a worker has to end by itself."""


def _rules_that_read(name: str) -> tuple[str, ...]:
    kinds: dict[str, Any] = dict(RULES)  # data classes, which a protocol cannot say
    return tuple(r for r, kind in kinds.items() if name in {f.name for f in fields(kind)})


_ONLY_WITH: dict[str, tuple[str, tuple[Any, ...]]] = {
    "payload": ("encoding", ("graded", "events")),
    "update": ("rule", ("tt_lbp",)),
    "classifiers": ("rule", LOCAL),
    **{f.name: ("rule", rules) for f in fields(TrainConfig) if (rules := _rules_that_read(f.name))},
}
"""Settings that mean nothing but with these values of another one; so do rules' own, as k and n."""
_NEVER = ("data", "device", "seed", "validation")
"""What has to be the same in all trials for their accuracies to be of the same samples."""
_CHOICES: dict[str, Iterable[str]] = {"rule": RULES, "surrogate": SHAPES}
"""Names that TrainConfig takes as they are, and that would fail only once a trial trains."""
_TRUNCATIONS: dict[str, Callable[[TrainConfig], tuple[int, int]]] = {
    "bptt": lambda settings: (0, 0),
    "sltt": lambda settings: (1, 0),
    "tt_lbp": lambda settings: (settings.k, settings.n),
}
"""Rules whose cost TT-LBP's model counts, as its (k, n); 0: all steps, all layers."""
_OTHER_NETWORK = ("model", "hidden", "time_steps")


class SweepError(PumiceError):
    """A sweep that cannot be made, gone on with, or that found nothing."""


# --- what is searched ---------------------------------------------------------------------------


class Space:
    """What is tried for which settings.

    said: by name of a :class:`TrainConfig` field, a list of values, or a range
        ``{"low": a, "high": b, "log": bool}`` (both ends included) of numbers.
    fixed: the settings that are not searched.
    source: the file, for errors.

    Raises :class:`SweepError`: names that there are not, empty lists, values of the wrong type.
    """

    def __init__(self, said: dict[str, Any], fixed: TrainConfig, source: str = "the space") -> None:
        self.said, self.fixed = said, fixed
        self.distributions: dict[str, BaseDistribution] = {}
        if not said:
            raise SweepError(f"{source} is empty: name a setting and what to try for it")
        # What others depend on is drawn before them.
        parents = {parent for parent, _ in _ONLY_WITH.values()}
        for name in sorted(said, key=lambda name: (name not in parents, name)):
            try:
                self.distributions[name] = self._distribution(name, said[name])
            except ConfigError as error:
                raise SweepError(f"{source}: {error}") from None
        for name in said:
            self._check_use(name, source)

    @classmethod
    def read(cls, path: Path, fixed: TrainConfig) -> Space:
        """From a TOML file."""
        return cls(_read_toml(path), fixed, str(path))

    def draw(self, trial: optuna.Trial) -> dict[str, Any]:
        """What ``trial``'s sampler has for every setting that means something."""
        params: dict[str, Any] = {}
        for name, d in self.distributions.items():
            if not self._applies(name, params):
                continue
            if isinstance(d, CategoricalDistribution):
                params[name] = trial.suggest_categorical(name, d.choices)
            elif isinstance(d, IntDistribution):
                params[name] = trial.suggest_int(name, d.low, d.high, log=d.log)
            elif isinstance(d, FloatDistribution):
                params[name] = trial.suggest_float(name, d.low, d.high, log=d.log)
        return params

    def combinations(self) -> list[dict[str, Any]] | None:
        """All there are, each once; None if they are not countable, or too many."""
        if any(isinstance(d, FloatDistribution) for d in self.distributions.values()):
            return None
        found = list(islice(self._combinations(tuple(self.distributions), {}), COUNTABLE + 1))
        return found if len(found) <= COUNTABLE else None

    def settings(self, params: dict[str, Any]) -> TrainConfig:
        """What to train with, for what was drawn."""
        plain = {
            name: json.loads(value) if self._is_list(name) else value
            for name, value in params.items()
        }
        return TrainConfig.from_dict(self.fixed.to_dict() | plain)

    def _combinations(
        self, names: tuple[str, ...], chosen: dict[str, Any]
    ) -> Iterator[dict[str, Any]]:
        if not names:
            yield chosen
            return
        name, *others = names
        d = self.distributions[name]
        if not self._applies(name, chosen):
            yield from self._combinations(tuple(others), chosen)
            return
        assert isinstance(d, CategoricalDistribution | IntDistribution)
        for value in (
            d.choices if isinstance(d, CategoricalDistribution) else range(d.low, d.high + 1)
        ):
            yield from self._combinations(tuple(others), {**chosen, name: value})

    def _applies(self, name: str, chosen: dict[str, Any]) -> bool:
        if name not in _ONLY_WITH:
            return True
        parent, values = _ONLY_WITH[name]
        return chosen.get(parent, getattr(self.fixed, parent)) in values

    def _check_use(self, name: str, source: str) -> None:
        if name not in _ONLY_WITH:
            return
        parent, values = _ONLY_WITH[name]
        tried = self.said.get(parent, [getattr(self.fixed, parent)])
        if not set(tried) & set(values):
            raise SweepError(
                f"{source}: {name} means nothing but with {parent} {' or '.join(values)}, "
                f"and {parent} is {', '.join(tried)}"
            )

    def _is_list(self, name: str) -> bool:
        return isinstance(getattr(self.fixed, name), tuple)

    def _distribution(self, name: str, said: Any) -> BaseDistribution:
        known = [f.name for f in fields(TrainConfig) if f.name not in _NEVER]
        if name in _NEVER:
            raise ConfigError(f"{name} is the same in all trials: leave it out of the space")
        if name not in known:
            raise ConfigError(f"unknown setting {name!r}: the settings are {known}")
        if isinstance(said, dict):
            return self._range(name, said)
        if not isinstance(said, list):
            raise ConfigError(f"{name} is {said!r}: use a list, or {{low = ..., high = ...}}")
        if not said:
            raise ConfigError(f"{name} is an empty list: name at least one value")
        for value in said:
            self._check(name, value)
        # Optuna's choices are scalars, so a list of sizes goes as its text.
        choices = [json.dumps(value) if self._is_list(name) else value for value in said]
        if len(set(choices)) < len(choices):
            raise ConfigError(f"{name} is {said!r}: name every value once")
        if isinstance(getattr(self.fixed, name), float):
            choices = [float(value) for value in choices]
        return CategoricalDistribution(choices)

    def _range(self, name: str, said: dict[str, Any]) -> BaseDistribution:
        default = getattr(self.fixed, name)
        if not isinstance(default, int | float) or isinstance(default, bool):
            raise ConfigError(f"{name} is no number: use a list of values, not a range")
        if unknown := sorted(set(said) - {"low", "high", "log"}):
            raise ConfigError(f"{name}: a range has low, high and log, not {unknown[0]!r}")
        if missing := [key for key in ("low", "high") if key not in said]:
            raise ConfigError(f"{name}: the range lacks {missing[0]}")
        low, high, log = said["low"], said["high"], said.get("log", False)
        for value in (low, high):
            self._check(name, value)
        if not isinstance(log, bool):
            raise ConfigError(f"{name}: log is {log!r}: use true or false")
        if not low < high:
            raise ConfigError(f"{name}: the range is {low}..{high}: low must be less than high")
        if log and low <= 0:
            raise ConfigError(f"{name}: a range with log = true starts above 0, not at {low}")
        if isinstance(default, float):
            return FloatDistribution(float(low), float(high), log=log)
        return IntDistribution(low, high, log=log)

    def _check(self, name: str, value: Any) -> None:
        """One value, by itself, as good as it can be known before it is trained with."""
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{name} is {value}: use a finite number")
        if self._is_list(name) and not isinstance(value, list):
            raise ConfigError(f"{name} is {value!r}: expected a list of whole numbers")
        TrainConfig.from_dict({name: value})
        if name in _CHOICES and value not in _CHOICES[name]:
            raise ConfigError(
                f"{name} {value!r} is unknown: use one of {', '.join(_CHOICES[name])}"
            )


def default_space(
    fixed: TrainConfig, given: Iterable[str] = (), objective: str = "accuracy"
) -> Space:
    """Rules whose memory does not grow with time, their k and n, surrogates and learning rates.

    given: settings that somebody has decided on, which are left out.
    """
    known = {f.name for f in fields(TrainConfig)}
    steps = fixed.time_steps
    rules = ("sltt", "tt_lbp") if objective == "fom" else ("sltt", "sltt_k", "stop", "tt_lbp")
    said: dict[str, Any] = {
        "rule": [name for name in rules if name in RULES],
        "k": [k for k in range(1, steps + 1) if steps % k == 0],  # intervals of the same length
        "n": [1, 2, 0],
        "surrogate": list(SHAPES),
        "lr": {"low": 0.05, "high": 5.0, "log": True},
        "lr_neuron": {"low": 0.0002, "high": 0.02, "log": True},
    }
    said = {name: what for name, what in said.items() if name in known and name not in given}
    for name, (parent, values) in _ONLY_WITH.items():
        if not set(said.get(parent, [getattr(fixed, parent)])) & set(values):
            said.pop(name, None)
    return Space(said, fixed, "the default space")


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
        if unknown := [r for r in said.get("rule", [fixed.rule]) if r not in _TRUNCATIONS]:
            raise SweepError(
                f"objective fom knows the costs of {', '.join(_TRUNCATIONS)}, not of {unknown[0]}"
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
        said = _read_toml(path)
        try:
            settings, space = said.pop("settings"), said.pop("space")
            said.pop("data_crc32")
            return cls(Space(space, TrainConfig.from_dict(settings), str(path)), **said)
        except ConfigError as error:
            raise SweepError(f"{path}: {error}") from None
        except (KeyError, TypeError) as error:
            raise SweepError(f"{path} is not a sweep's: {error}") from None


# --- what was found -----------------------------------------------------------------------------


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


# --- the sweep ----------------------------------------------------------------------------------


class Sweep:
    """A sweep's folder, and a process at work in it.

    plan: what the folder is begun with, or was.

    Raises :class:`PumiceError`: a folder that was begun with another plan or on other data, or
    cannot be written.
    """

    def __init__(self, plan: Plan, folder: Path | str) -> None:
        self.plan, self.folder = plan, Path(folder)
        self.dataset = load(plan.space.fixed.data)
        try:
            (self.folder / TRIALS).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SweepError(f"cannot make the folder {folder}: {error.strerror}") from None
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        with self._alone():
            self._agree()
            self.study = self._open()
        self.storage = self.study._storage

    def run(
        self,
        trials: int,
        *,
        workers: int = 1,
        on_trial: Callable[[Trial, int], None] | None = None,
    ) -> Found:
        """Goes on until there are ``trials`` trials that have ended one way or another.

        There are fewer where the space has fewer combinations. Trials that other processes are at
        work on count, and are not waited for.

        workers: processes, each with its share of the cores; 1: this one.
        on_trial: called with each trial that has ended, whoever ran it, and how many have.

        Raises :class:`SweepError` where a worker came to grief, and if all trials failed.
        """
        for name, number in (("trials", trials), ("workers", workers)):
            if number < 1:
                raise SweepError(f"{name} is {number}: use 1 or more")
        tell = _News(self, on_trial)
        if workers == 1:
            self.work(trials, tell)
        else:
            _employ(self, trials, workers, tell)
        tell()
        self.report()
        found = self.found()
        if found.count("failed") == len(found.trials):
            raise SweepError(
                f"all {len(found.trials)} trials failed, see {self.folder / TABLE}; "
                f"the first: {found.trials[0].reason}"
            )
        return found

    def _alone(self) -> contextlib.AbstractContextManager[IO[bytes]]:
        """One process at a time."""
        return _locked(self.folder / ".lock")

    def _agree(self) -> None:
        """The plan is written down, or the one that the folder was begun with."""
        path = self.folder / PLAN
        ours = {"data_crc32": _digest(self.dataset), **self.plan.to_dict()}
        if not path.exists():
            if (self.folder / JOURNAL).exists():
                raise SweepError(f"{self.folder} holds a sweep without {PLAN}: use another folder")
            import tomli_w

            files.write(path, tomli_w.dumps(ours).encode())
            return
        begun = Plan.read(self.folder)
        assert begun is not None
        old, new = _flat(begun.to_dict()), _flat(self.plan.to_dict())
        for name in sorted({*old, *new} - {"settings.device"}):
            if old.get(name) != new.get(name):
                raise SweepError(
                    f"{self.folder} was begun with {name} = {_said(old.get(name))}, "
                    f"not {_said(new.get(name))}: go on with that, or use another folder"
                )
        if _read_toml(path)["data_crc32"] != ours["data_crc32"]:
            raise SweepError(f"{self.folder} was begun on other data than this {self.dataset.name}")

    def _open(self) -> optuna.Study:
        path = self.folder / JOURNAL
        plan = self.plan
        pruner: optuna.pruners.BasePruner = optuna.pruners.NopPruner()
        if plan.prune:
            # A quarter of the epochs, for the learning to get going.
            pruner = optuna.pruners.MedianPruner(n_warmup_steps=plan.space.fixed.epochs // 4)
        try:
            storage = optuna.storages.JournalStorage(_Journal(path))
            if not storage.get_all_studies():
                storage.create_new_study([_direction(plan)], "sweep")
            study = optuna.load_study(study_name="sweep", storage=storage, pruner=pruner)
            study.sampler = optuna.samplers.RandomSampler()  # what is drawn comes from elsewhere
            for trial in study.get_trials():
                for name, distribution in trial.distributions.items():
                    if plan.space.distributions.get(name) != distribution:
                        raise ValueError(f"trial {trial.number} drew {name} from another space")
        except _DAMAGE as error:
            reason = " ".join(str(error).split())
            raise SweepError(f"{path} is not the journal of a sweep: {reason}") from None
        return study

    def found(self) -> Found:
        """Where it stands."""
        lower = _direction(self.plan) is StudyDirection.MINIMIZE
        return Found([_trial(t) for t in self.study.get_trials(deepcopy=False)], lower)

    def done(self, trials: int) -> bool:
        """Whether so many have ended."""
        found = self.found()
        return not found.count("running") and len(found.trials) >= self._total(trials)

    def report(self) -> None:
        """The table, and the best settings."""
        with self._alone():
            found = self.found()
            files.write(self.folder / TABLE, self._table(found).encode())
            if found.best is not None:
                best = replace(self.plan.space.settings(found.best.params), validation=0.0)
                files.write(self.folder / BEST, best.to_toml().encode())

    def _table(self, found: Found) -> str:
        text = io.StringIO()
        names = list(self.plan.space.distributions)
        writer = csv.writer(text, lineterminator="\n")
        head = ["trial", "state", "value", "accuracy", "epochs", "seconds"]
        writer.writerow([*head, *names, "reason"])
        for t in found.trials:
            row = [t.number, t.state, t.value, t.accuracy, t.epochs, t.seconds]
            writer.writerow([*row, *(t.params.get(name, "") for name in names), t.reason])
        return text.getvalue()

    # --- trials ---------------------------------------------------------------------------------

    def work(self, trials: int, tell: Callable[[], None]) -> None:
        """Takes trial after trial until there is none to be taken."""
        while (taken := self._take(trials)) is not None:
            number, lock = taken
            with lock:
                self._run(number)
            self.report()
            tell()

    def _total(self, trials: int) -> int:
        every = self.plan.space.combinations()
        return trials if every is None else min(trials, len(every))

    def _take(self, trials: int) -> tuple[int, IO[bytes]] | None:
        """The number of a trial to run, an abandoned one first, and the lock on it."""
        with self._alone():
            there = self.study.get_trials(deepcopy=False)
            for trial in there:
                if trial.state != TrialState.RUNNING:
                    continue
                lock = self._lock(trial.number)
                if lock is None:
                    continue
                if not self._is_lost(trial):
                    return trial.number, lock
                lock.close()
            if len(there) >= self._total(trials):
                return None
            number = len(there)
            lock = self._lock(number)
            if lock is None:
                raise SweepError(f"{self._folder(number)} is locked by another process")
            params, distributions = self._draw(there)
            self.study.add_trial(
                optuna.create_trial(
                    state=TrialState.RUNNING, params=params, distributions=distributions
                )
            )
            return number, lock

    def _lock(self, number: int) -> IO[bytes] | None:
        folder = self._folder(number)
        folder.mkdir(exist_ok=True)
        return _try_lock(folder / ".lock")

    def _folder(self, number: int) -> Path:
        return self.folder / TRIALS / f"{number:04}"

    def _draw(self, there: list[FrozenTrial]) -> tuple[dict[str, Any], dict[str, BaseDistribution]]:
        """What the next trial is to try, by what is known of those that are there.

        It is drawn in a study in memory: what goes into the journal is a whole trial or none.
        """
        space, number = self.plan.space, len(there)
        seed = zlib.crc32(f"{self.plan.seed} {number}".encode())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            # Where another worker is, is taken for a bad place: so that they spread out.
            sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True)
        study = optuna.create_study(direction=_direction(self.plan), sampler=sampler)
        study.add_trials(there)
        trial = study.ask()
        params = space.draw(trial)
        every = space.combinations()
        tried = {frozenset(t.params.items()) for t in there}
        if every is not None and frozenset(params.items()) in tried:
            untried = [one for one in every if frozenset(one.items()) not in tried]
            params = untried[int(np.random.default_rng(seed).integers(len(untried)))]
        return params, {name: space.distributions[name] for name in params}

    def _id(self, number: int) -> int:
        study = self.storage.get_study_id_from_name("sweep")
        return self.storage.get_trial_id_from_study_id_trial_number(study, number)

    def _is_lost(self, trial: FrozenTrial) -> bool:
        """Whether an abandoned trial is one that kills whoever runs it; it has failed then."""
        epoch = len(trial.intermediate_values)
        then, deaths = trial.user_attrs.get("deaths", (epoch, 0))
        deaths = deaths + 1 if then == epoch else 1
        if deaths < DEATHS:
            self._note(trial.number, "deaths", (epoch, deaths))
            return False
        self._fail(
            trial.number,
            f"its process was killed {deaths} times in epoch {epoch + 1}: too little memory?",
        )
        return True

    def _note(self, number: int, key: str, value: Any) -> None:
        self.storage.set_trial_user_attr(self._id(number), key, value)

    def _fail(self, number: int, reason: str) -> None:
        self._note(number, "reason", reason)
        self.study.tell(number, state=TrialState.FAIL)

    def _run(self, number: int) -> None:
        """To its end: its result, that it was pruned, or why it failed, in the journal."""
        try:
            value = self._train(number)
        except optuna.TrialPruned:
            self.study.tell(number, state=TrialState.PRUNED)
        except KeyboardInterrupt:
            epoch = len(self.storage.get_trial(self._id(number)).intermediate_values)
            self._note(number, "deaths", (epoch, -1))  # whoever goes on has not killed it
            raise
        except Exception as error:  # whatever a setting leads to, the others are still to be tried
            line = " ".join(str(error).split())
            clear = isinstance(error, PumiceError)
            self._fail(number, line if clear else f"{type(error).__name__}: {line}")
        else:
            self.study.tell(number, value)

    def _train(self, number: int) -> float:
        """The objective after the last epoch."""
        trial = self.storage.get_trial(self._id(number))
        settings = self.plan.space.settings(trial.params)
        reported = set(trial.intermediate_values)
        costs = self._costs(settings)
        seconds = 0.0

        def report(metrics: loop.Metrics) -> None:
            nonlocal seconds
            epoch = int(metrics["epoch"])
            seconds += float(metrics["seconds"])
            if epoch not in reported:
                accuracy = float(metrics["test_accuracy"])
                self._note(number, "accuracy", accuracy)
                self._note(number, "seconds", round(seconds, 3))
                value = self._value(accuracy, costs)
                self.storage.set_trial_intermediate_value(self._id(number), epoch, value)
            # The last epoch is done: there is nothing to be gained any more.
            if epoch < settings.epochs and self._is_hopeless(number):
                raise optuna.TrialPruned

        folder = self._folder(number)
        resume = (folder / loop.CHECKPOINT).exists()
        if resume:
            _, state = checkpoint.read(folder / loop.CHECKPOINT)
            for metrics in state["history"]:
                report(metrics)
        done = loop.train(settings, self.dataset, folder, resume=resume, on_epoch=report)
        return self._value(done.accuracy, costs)

    def _value(self, accuracy: float, costs: float) -> float:
        return accuracy if self.plan.objective == "accuracy" else 1 - accuracy + costs

    def _costs(self, settings: TrainConfig) -> float:
        """The part of the figure of merit that does not depend on accuracy."""
        if self.plan.objective != "fom":
            return 0.0
        from trainer import cost

        layers = cost.of_network(loop.build_network(settings, self.dataset))
        model = cost.CostModel(layers, settings.batch_size, settings.time_steps)
        k, n = _TRUNCATIONS[settings.rule](settings)
        return model.row(k or settings.time_steps, min(n or model.depth, model.depth)).fom

    def _is_hopeless(self, number: int) -> bool:
        return self.study.pruner.prune(self.study, self.storage.get_trial(self._id(number)))


class _News:
    """Tells every trial that has ended since the last time."""

    def __init__(self, sweep: Sweep, on_trial: Callable[[Trial, int], None] | None) -> None:
        self.sweep, self.on_trial = sweep, on_trial
        self.told = {t.number for t in sweep.found().trials if t.state != "running"}

    def __call__(self) -> None:
        for trial in self.sweep.found().trials:
            if trial.state != "running" and trial.number not in self.told:
                self.told.add(trial.number)
                if self.on_trial is not None:
                    self.on_trial(trial, len(self.told))


# --- several workers ----------------------------------------------------------------------------


def _employ(sweep: Sweep, trials: int, workers: int, tell: Callable[[], None]) -> None:
    """Workers in processes of their own, which end with this one, however it ends."""
    threads = str(max(1, _cores() // workers))
    names = ("OMP", "OPENBLAS", "MKL", "NUMBA")
    environment = {
        **os.environ,
        **{f"{name}_NUM_THREADS": threads for name in names},
        "PYTHONPATH": os.pathsep.join(entry or os.getcwd() for entry in sys.path),
    }
    command = [
        *(sys.executable, "-c", "from trainer import sweep; sweep._work()"),
        *(str(sweep.folder), str(trials), sweep.plan.space.fixed.device),
    ]
    children: list[subprocess.Popen[bytes]] = []
    with tempfile.TemporaryFile() as said:
        try:
            for _ in range(workers):
                child = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,  # its lifeline: closed when this process is gone
                    stdout=subprocess.DEVNULL,
                    stderr=said,
                    env=environment,
                    start_new_session=True,  # Ctrl-C is for this process, which passes it on
                )
                children.append(child)
            while any(child.poll() is None for child in children):
                time.sleep(0.2)
                tell()
        finally:
            _dismiss(children)
        codes = [child.returncode for child in children if child.returncode]
        if codes and not sweep.done(trials):
            said.seek(0)
            lines = said.read().decode(errors="replace").strip().splitlines()
            how = f"exit status {codes[0]}" if codes[0] > 0 else f"signal {-codes[0]}"
            raise SweepError(
                f"a worker ended by {how}{f' ({lines[-1]})' if lines else ''}: "
                "the same command goes on with its trial"
            )


def _cores() -> int:
    allowed = getattr(os, "sched_getaffinity", None)  # not everywhere
    return len(allowed(0)) if allowed else os.cpu_count() or 1


def _dismiss(children: list[subprocess.Popen[bytes]]) -> None:
    for child in children:
        assert child.stdin is not None
        child.stdin.close()
    until = time.monotonic() + GRACE
    for child in children:
        try:
            child.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _work() -> None:
    """A worker's process; it is interrupted when its stdin is closed."""
    folder, trials, device = sys.argv[1:]

    def watch() -> None:
        os.read(0, 1)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(GRACE)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    try:
        plan = Plan.read(Path(folder))
        assert plan is not None
        space = plan.space
        plan = replace(plan, space=Space(space.said, replace(space.fixed, device=device)))
        Sweep(plan, folder).work(int(trials), lambda: None)
    except KeyboardInterrupt:
        sys.exit(130)
    except PumiceError as error:
        sys.exit(str(error))


# --- files --------------------------------------------------------------------------------------

_DAMAGE = (
    *(LookupError, TypeError, ValueError, AttributeError, AssertionError),
    optuna.exceptions.OptunaError,
)
"""What replaying a journal raises that nobody could have written."""


class _Journal(BaseJournalBackend):
    """Optuna's journal in a file: an object of JSON a line, appended whole.

    Optuna's own backend leaves half a line behind when its process is killed while it writes, and
    then cannot be read; and a lock, which holds up everybody for half a minute. Here the operating
    system keeps the lock, and who writes next takes away what is no whole line.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.starts = [0]  # of the lines, in bytes

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        """The objects from that line on."""
        with _locked(self.path) as file:
            file.seek(self.starts[log_number_from])
            content = file.read()
        whole = content[: content.rfind(b"\n") + 1]
        for number, line in enumerate(whole.splitlines(keepends=True), log_number_from):
            if number + 1 == len(self.starts):
                self.starts.append(self.starts[-1] + len(line))
            yield json.loads(line)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Objects at the end, on the disk when this returns."""
        text = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
        with _locked(self.path) as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 1))
            if file.read() not in (b"", b"\n"):
                file.seek(0)
                file.truncate(file.read().rfind(b"\n") + 1)
                file.seek(0, os.SEEK_END)
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[IO[bytes]]:
    """The file, made if absent, for reading and writing, while nobody else has it."""
    with _open(path) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file


def _try_lock(path: Path) -> IO[bytes] | None:
    """The file, locked until it is closed or the process ends; None if somebody else has it."""
    file = _open(path)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def _open(path: Path) -> IO[bytes]:
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b")


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise SweepError(f"{path}: {error.strerror or error}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SweepError(f"{path}: not a TOML file: {error}") from None


def _digest(dataset: Dataset) -> int:
    digest = 0
    for array in (dataset.x_train, dataset.y_train):
        digest = zlib.crc32(np.ascontiguousarray(array).data, digest)
    return digest


def _flat(plan: dict[str, Any]) -> dict[str, Any]:
    """A plan's values, those of its tables by ``table.name``."""
    tables = ("settings", "space")
    flat = {name: value for name, value in plan.items() if name not in tables}
    return flat | {f"{t}.{name}": value for t in tables for name, value in plan[t].items()}


def _said(value: Any) -> str:
    return "nothing" if value is None else json.dumps(value)


def _direction(plan: Plan) -> StudyDirection:
    return StudyDirection.MAXIMIZE if plan.objective == "accuracy" else StudyDirection.MINIMIZE


def _trial(trial: FrozenTrial) -> Trial:
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
