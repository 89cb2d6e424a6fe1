"""What a sweep tries: values and ranges of settings."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import fields
from itertools import islice
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from loihi import toml
from loihi.errors import PumiceError
from trainer.config import ConfigError, TrainConfig
from trainer.rules import LOCAL, RULES
from trainer.surrogates import SHAPES

COUNTABLE = 10_000
"""Spaces of up to so many combinations are searched without trying one twice."""


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


class SweepError(PumiceError):
    """A sweep that cannot be made, gone on with, or that found nothing."""


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
        return cls(read_toml(path), fixed, str(path))

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
        "rule": [r for r in rules if fixed.loss_of == "steps" or r not in LOCAL],
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


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file, or a :class:`SweepError` that names it."""
    return toml.read(path, SweepError, "a sweep's file")
