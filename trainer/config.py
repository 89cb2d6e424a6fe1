"""The settings of a training run, and their file: config.toml alone repeats the run."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args

from loihi import toml
from loihi.encoding import KINDS
from loihi.errors import PumiceError
from loihi.network import Readout


class ConfigError(PumiceError):
    """Settings that cannot be trained with."""


@dataclass(frozen=True)
class TrainConfig:
    """What a run is made of. Every field has a default; the same settings give the same numbers.

    data: ``digits``, ``mnist``, ``fashion-mnist``, or the path of an ``.npz`` file.
    model: a name such as ``mlp``, ``lenet``, ``vgg11`` (:mod:`trainer.zoo`), or an architecture
        such as ``8c5-2a-128`` (:mod:`trainer.models`).
    hidden: sizes of the hidden dense layers in place of the model's own; empty: the model's own.
    rule: ``sltt``, ``sltt_k``, ``tt_lbp``, ``stop``, ``ottt``, ``decolle``, ``bptt`` or
        ``bptt_checkpoint`` (:mod:`trainer.rules`).
    k: K of ``sltt_k``; of ``tt_lbp``, steps an interval, a divisor of T (0: all T).
    n: for ``tt_lbp``: layers with weights a block (0: all).
    unbiased: for ``sltt_k``: gradients times T/K.
    update: for ``tt_lbp``: weights change after every ``interval``, or after a ``batch``.
    classifiers: the local ones of ``tt_lbp`` and ``decolle``: ``trainable``, or ``random`` and
        fixed, the output layer too.
    per_synapse: for ``stop``: exact traces of hard-reset neurons, one a synapse and sample.
    learn_threshold, learn_leak: whether they learn, or stay as they begin.
    loss: ``cross_entropy``; ``mse`` to the one-hot label; ``mixed``: 0.95 and 0.05 of them (SLTT).
    loss_of: ``steps``: the mean of the steps' losses; ``mean``: the loss of the steps' mean output,
        by which the network decides. Not for ``tt_lbp`` and ``decolle``.
    time_steps: T, steps a sample lasts.
    encoding: ``graded``, ``rate``, ``latency`` or ``events``.
    payload: the largest payload of ``graded`` and ``events`` (1..255); the smallest is 0.
    neuron: ``chip`` (hard reset) and ``soft`` (soft reset), on the grid; ``hard``, ``A`` and ``B``,
        in real numbers (:mod:`trainer.neurons`). Only those on the grid can be frozen and exported.
    per_neuron: a threshold and a leak for every neuron, for targets that hold them; in real
        numbers only.
    norm: ``none``, weight standardisation ``ws``, batch norm ``bn``; empty: the model's own.
    readout: ``membrane`` (an integrator adds up the last synapse's input) or ``spikes``.
    epochs: passes through the training data.
    batch_size: samples an update.
    lr: Adam's learning rate of weights and biases, in weight units.
    lr_neuron: that of thresholds and decays, as a fraction of the starting threshold and of 4096.
    schedule: ``cosine`` (to 0 at the end) or ``constant``.
    surrogate: ``triangle``, ``rectangle``, ``exponential``, ``sigmoid``.
    surrogate_width: 0: the papers'; in units of the threshold, by ``surrogate_unit`` of that which
        a layer begins with (``start``), or as it learns (``threshold``): then surrogates get steep
        where a threshold falls.
    detach_reset: for ``bptt``: no gradient through resets.
    bias: whether neurons have biases.
    dv, du: starting decays of membrane and current, 0..4096; du = 4096: no current memory.
    shift: training images are shifted at random, each way by up to this fraction of their height,
        in whole pixels: 0.05 moves 28 pixels by 1 and 8 pixels by none; 0: never.
    augment: what else happens to training samples, as ``rotate=10,elastic=1``
        (:class:`trainer.data.augment.Augmentation`).
    validation: this part of the training samples takes the place of the test set; 0: none does.
    seed: of weights, order, augmentation, and what a rule draws.
    device: ``cpu`` or ``cuda``.
    channels_last: images in memory channel by channel within a pixel, as the CPU's convolutions
        always have them; exact, faster on some GPUs.
    precision: ``float32``; ``tf32``: GPU products of 10-bit factors, which hold the grid's weights
        and payloads exactly, so that the forward pass is the same and only gradients are rounded.
    """

    data: str = "digits"
    model: str = "mlp"
    hidden: tuple[int, ...] = ()
    rule: str = "sltt"
    k: int = 1
    n: int = 1
    unbiased: bool = False
    update: str = "interval"
    classifiers: str = "trainable"
    per_synapse: bool = False
    learn_threshold: bool = True
    learn_leak: bool = True
    loss: str = "cross_entropy"
    loss_of: str = "steps"
    neuron: str = "chip"
    per_neuron: bool = False
    norm: str = ""
    time_steps: int = 16
    encoding: str = "graded"
    payload: int = 15
    readout: str = "membrane"
    epochs: int = 12
    batch_size: int = 128
    lr: float = 0.7
    lr_neuron: float = 0.002
    schedule: str = "cosine"
    surrogate: str = "triangle"
    surrogate_width: float = 0.0
    surrogate_unit: str = "start"
    detach_reset: bool = False
    bias: bool = False
    dv: int = 1024
    du: int = 4096
    shift: float = 0.05
    augment: str = ""
    validation: float = 0.0
    seed: int = 0
    device: str = "cpu"
    channels_last: bool = False
    precision: str = "float32"

    def __post_init__(self) -> None:
        given: object = self.hidden
        if isinstance(given, list):
            object.__setattr__(self, "hidden", tuple(given))
        for field in dataclasses.fields(self):
            self._check_type(field.name, getattr(self, field.name), field.default)
        self._check_choice("encoding", KINDS)
        self._check_choice("readout", get_args(Readout))
        for name, choices in _CHOICES.items():
            self._check_choice(name, choices)
        for name, (low, high) in _RANGES.items():
            if not low <= getattr(self, name) <= high:
                raise ConfigError(f"{name} is {_shown(getattr(self, name))}: use {low}..{high}")
        if self.per_neuron and self.neuron in ("chip", "soft"):
            raise ConfigError(
                f"per_neuron with neuron {self.neuron!r}: Loihi's and Lava's LIF hold one "
                "threshold and one leak a layer; use neuron hard, A or B"
            )
        if min(self.hidden, default=1) < 1:
            raise ConfigError(f"hidden is {list(self.hidden)}: layers have at least one neuron")

    def _check_type(self, name: str, value: Any, default: Any) -> None:
        good = (int, float) if isinstance(default, float) else type(default)
        right = isinstance(value, good) and isinstance(value, bool) == isinstance(default, bool)
        if right and isinstance(value, tuple):
            right = all(isinstance(n, int) and not isinstance(n, bool) for n in value)
        if not right:
            raise ConfigError(f"{name} is {_shown(value)}: expected {_expected(name, default)}")

    def _check_choice(self, name: str, choices: tuple[str, ...]) -> None:
        if getattr(self, name) not in choices:
            raise ConfigError(
                f"{name} {_shown(getattr(self, name))} is unknown: use one of "
                f"{', '.join(filter(None, choices))}"
            )

    @classmethod
    def from_dict(cls, settings: dict[str, Any]) -> TrainConfig:
        """From plain values; unknown names raise."""
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(settings) - known):
            near = get_close_matches(unknown[0], known, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ConfigError(
                f"unknown setting {unknown[0]!r}: the settings are {sorted(known)}{hint}"
            )
        plain: dict[str, Any] = dict(settings)
        if isinstance(plain.get("hidden"), list):
            plain["hidden"] = tuple(plain["hidden"])
        return cls(**plain)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for TOML and JSON."""
        values = dataclasses.asdict(self)
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}

    @classmethod
    def read(cls, path: Path) -> TrainConfig:
        """From a TOML file."""
        settings = toml.read(Path(path), ConfigError, "a config file")
        try:
            return cls.from_dict(settings)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None

    def to_toml(self) -> str:
        """The file's text."""
        import tomli_w

        return tomli_w.dumps(self.to_dict())


def parsed(text: str) -> Any:
    """A value as config.toml would have it; what is no TOML value is a string."""
    try:
        return toml.loads(f"value = {text}")["value"]
    except toml.TomlError:
        return text


def _shown(value: Any) -> str:
    """A value as an error shows it: of a long one, how it begins."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:79]}…"


def _expected(name: str, default: Any) -> str:
    """What a setting may be, in words."""
    kind = "a list of whole numbers" if default == () else type(default).__name__
    choices = {**_CHOICES, "encoding": KINDS, "readout": get_args(Readout)}
    if name in choices:
        return f"{kind}, one of {', '.join(repr(choice) for choice in choices[name])}"
    if isinstance(default, bool):
        return f"{kind}, true or false"
    if name in _RANGES:
        low, high = _RANGES[name]
        return f"{kind}, {low}..{high}"
    return kind


_CHOICES: dict[str, tuple[str, ...]] = {
    "rule": (
        "bptt",
        "bptt_checkpoint",
        "sltt",
        "sltt_k",
        "ottt",
        "stop",
        "tt_lbp",
        "decolle",
    ),
    "surrogate": ("triangle", "rectangle", "exponential", "sigmoid"),
    "surrogate_unit": ("start", "threshold"),
    "schedule": ("cosine", "constant"),
    "update": ("interval", "batch"),
    "classifiers": ("trainable", "random"),
    "loss": ("cross_entropy", "mse", "mixed"),
    "loss_of": ("steps", "mean"),
    "neuron": ("chip", "soft", "hard", "A", "B"),
    "norm": ("", "none", "ws", "bn"),
    "precision": ("float32", "tf32"),
}
_RANGES: dict[str, tuple[float, float]] = {
    "time_steps": (1, 65536),
    "k": (0, 65536),
    "n": (0, 65536),
    "validation": (0.0, 0.9),
    "payload": (1, 255),
    "epochs": (1, 10**6),
    "batch_size": (1, 10**6),
    "lr": (1e-9, 1e3),
    "lr_neuron": (0.0, 1e3),
    "surrogate_width": (0.0, 1e3),
    "dv": (0, 4096),
    "du": (0, 4096),
    "shift": (0.0, 0.5),
    "seed": (0, 2**31 - 1),
}
