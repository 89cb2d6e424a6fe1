"""A sweep's folder, and a process at work in it."""

from __future__ import annotations

import contextlib
import json
import signal
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import IO, Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from loihi import files
from loihi.errors import PumiceError
from trainer import checkpoint, loop, runs
from trainer.config import TrainConfig
from trainer.data import Dataset, load
from trainer.sweep.plan import BEST, JOURNAL, PLAN, TABLE, TRIALS, TRUNCATIONS, Plan, flat
from trainer.sweep.space import SweepError, read_toml
from trainer.sweep.storage import DAMAGE, Journal, locked, try_lock
from trainer.sweep.trials import Found, Trial, as_trial, table
from trainer.sweep.workers import employ

DEATHS = 3
"""How often a process may be killed in the same epoch of a trial until the trial has failed."""


class Sweep:
    """A sweep's folder, and a process at work in it.

    plan: what the folder is begun with, or was.

    Raises :class:`PumiceError`: a folder that was begun with another plan or on other data, or
    cannot be written.
    """

    def __init__(self, plan: Plan, folder: Path | str) -> None:
        self.plan, self.folder = plan, Path(folder)
        self.dataset = load(plan.space.fixed.data)
        if (self.folder / runs.CONFIG).exists() and not (self.folder / PLAN).exists():
            raise SweepError(f"{folder} holds a run: use another folder")
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
            employ(self, trials, workers, tell)
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
        return locked(self.folder / ".lock")

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
        old, new = flat(begun.to_dict()), flat(self.plan.to_dict())
        for name in sorted({*old, *new} - {"settings.device"}):
            if old.get(name) != new.get(name):
                raise SweepError(
                    f"{self.folder} was begun with {name} = {_said(old.get(name))}, "
                    f"not {_said(new.get(name))}: go on with that, or use another folder"
                )
        if read_toml(path)["data_crc32"] != ours["data_crc32"]:
            raise SweepError(f"{self.folder} was begun on other data than this {self.dataset.name}")

    def _open(self) -> optuna.Study:
        path = self.folder / JOURNAL
        plan = self.plan
        pruner: optuna.pruners.BasePruner = optuna.pruners.NopPruner()
        if plan.prune:
            # A quarter of the epochs, for the learning to get going.
            pruner = optuna.pruners.MedianPruner(n_warmup_steps=plan.space.fixed.epochs // 4)
        try:
            storage = optuna.storages.JournalStorage(Journal(path))
            if not storage.get_all_studies():
                storage.create_new_study([direction(plan)], "sweep")
            study = optuna.load_study(study_name="sweep", storage=storage, pruner=pruner)
            study.sampler = optuna.samplers.RandomSampler()  # what is drawn comes from elsewhere
            for trial in study.get_trials():
                for name, distribution in trial.distributions.items():
                    if plan.space.distributions.get(name) != distribution:
                        raise ValueError(f"trial {trial.number} drew {name} from another space")
        except DAMAGE as error:
            reason = " ".join(str(error).split())
            raise SweepError(f"{path} is not the journal of a sweep: {reason}") from None
        return study

    def found(self) -> Found:
        """Where it stands."""
        lower = direction(self.plan) is StudyDirection.MINIMIZE
        return Found([as_trial(t) for t in self.study.get_trials(deepcopy=False)], lower)

    def done(self, trials: int) -> bool:
        """Whether so many have ended."""
        found = self.found()
        return not found.count("running") and len(found.trials) >= self._total(trials)

    def report(self) -> None:
        """The table, and the best settings."""
        with self._alone():
            found = self.found()
            names = list(self.plan.space.distributions)
            files.write(self.folder / TABLE, table(found, names).encode())
            if found.best is not None:
                best = replace(self.plan.space.settings(found.best.params), validation=0.0)
                files.write(self.folder / BEST, best.to_toml().encode())

    # --- trials ---------------------------------------------------------------------------------

    def work(self, trials: int, tell: Callable[[], None]) -> None:
        """Takes trial after trial until there is none to be taken."""
        with _interrupts() as came:
            while (taken := self._take(trials)) is not None:
                number, lock = taken
                with lock:
                    self._run(number, came)
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
        return try_lock(folder / ".lock")

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
        study = optuna.create_study(direction=direction(self.plan), sampler=sampler)
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

    def _run(self, number: int, interrupts: Sequence[int] = ()) -> None:
        """To its end: its result, that it was pruned, or why it failed, in the journal."""
        try:
            value = self._train(number)
        except optuna.TrialPruned:
            self.study.tell(number, state=TrialState.PRUNED)
        except KeyboardInterrupt:
            self._leave(number)
            raise
        except Exception as error:  # whatever a setting leads to, the others are still to be tried
            if interrupts:
                self._leave(number)
                raise KeyboardInterrupt from error
            line = " ".join(str(error).split())
            clear = isinstance(error, PumiceError)
            self._fail(number, line if clear else f"{type(error).__name__}: {line}")
        else:
            self.study.tell(number, value)

    def _leave(self, number: int) -> None:
        """To whoever goes on with it, who will not have killed it."""
        epoch = len(self.storage.get_trial(self._id(number)).intermediate_values)
        self._note(number, "deaths", (epoch, -1))

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
        k, n = TRUNCATIONS[settings.rule](settings)
        return model.row(k or settings.time_steps, min(n or model.depth, model.depth)).fom

    def _is_hopeless(self, number: int) -> bool:
        return self.study.pruner.prune(self.study, self.storage.get_trial(self._id(number)))


@contextlib.contextmanager
def _interrupts() -> Iterator[Sequence[int]]:
    """Those that came within: a library may make another error of the KeyboardInterrupt."""
    came: list[int] = []
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield came
        return
    go_on = before

    def note(number: int, frame: FrameType | None) -> None:
        came.append(number)
        go_on(number, frame)

    signal.signal(signal.SIGINT, note)
    try:
        yield came
    finally:
        signal.signal(signal.SIGINT, before)


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


def _digest(dataset: Dataset) -> int:
    digest = 0
    for array in (dataset.x_train, dataset.y_train):
        digest = zlib.crc32(np.ascontiguousarray(array).data, digest)
    return digest


def _said(value: Any) -> str:
    return "nothing" if value is None else json.dumps(value)


def direction(plan: Plan) -> StudyDirection:
    return StudyDirection.MAXIMIZE if plan.objective == "accuracy" else StudyDirection.MINIMIZE
