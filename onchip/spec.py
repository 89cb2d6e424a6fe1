"""What learns on the chip, declared once for both engines: blocks of layers, and the rule.

    [rule]                       # numbers of the rule (onchip.spec.Rule), for all blocks
    gap = 4
    leak = 1000

    [[block]]                    # the first hidden layer, with a classifier of its own
    layers = [0]

    [[block]]                    # the last two, through the network's own readout, which learns too
    layers = [1, 2]
    classifier = "trainable"
    feedback = "mirrored"
    steps = 4                    # an error in 4 of the T steps only
    rule = { hidden_rate = -6 }

Blocks after the TT-LBP paper's local corner (k = 1, n = 1 or 2): a block's error comes from its own
classifier, and no error leaves it. All blocks learn at once; layers in front of the first, and
those in between that no block names, stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from loihi import PumiceError, toml

Mode = Literal["hidden", "readout", "both"]
MODES: tuple[str, ...] = get_args(Mode)
Classifier = Literal["fixed", "trainable"]
Feedback = Literal["fixed", "random", "mirrored"]

LOOP = 2
"""Steps from an error to the third factor of a block's last layer, on top of the forward pass."""


class LearningError(PumiceError):
    """A network, data or numbers that cannot learn on the chip."""


def check_seed(seed: Any) -> None:
    """Raises :class:`LearningError` for what is no seed."""
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise LearningError(f"seed is {seed!r}, use a whole number from 0")


@dataclass(frozen=True)
class Rule:
    """The rule's numbers, in the chip's units.

    gap: silent steps after each sample, in which the last errors arrive and the traces fade.
    amplitude: what the readout of the labelled class should reach; 1..127, the others 0.
    leak: decay of the readout in LocalError, 0..4096; 0 sums up the sample, as the network does.
    halvings: how often the error is halved towards the end: with 1/2, 1/4, 1/8, … of the samples
        left. A rate that stays large lets the last samples undo what the others taught.
    window: half width of the surrogate's box, in thresholds.
    tau, impulse: of the presynaptic trace: its decay in steps, and what a spike adds (1..127).
        Graded input has no impulse: the trace takes half the payload.
    rate: the exponent of the learning rate, −7..8. A weight changes by g · x1 / 2^(3 − rate).
    epoch: steps between two updates of the weights, 1..63; of each, the last factor counts.
    """

    gap: int = 8
    amplitude: int = 90
    leak: int = 128
    halvings: int = 3
    window: float = 1.5
    hidden_tau: int = 2
    hidden_impulse: int = 32
    hidden_rate: int = -7
    readout_tau: int = 1
    readout_impulse: int = 12
    readout_rate: int = -7
    epoch: int = 1

    def __post_init__(self) -> None:
        for name, low, high in (
            ("gap", LOOP, 2**15),
            ("amplitude", 1, 127),
            ("leak", 0, 4096),
            ("halvings", 0, 7),
            ("hidden_tau", 1, 2**15),
            ("hidden_impulse", 1, 127),
            ("hidden_rate", -7, 8),
            ("readout_tau", 1, 2**15),
            ("readout_impulse", 1, 127),
            ("readout_rate", -7, 8),
            ("epoch", 1, 63),
        ):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise LearningError(f"rule: {name} is {value}, use a whole number {low}..{high}")
        number = isinstance(self.window, (int, float)) and not isinstance(self.window, bool)
        if not number or not 0 < self.window < 2**24:
            raise LearningError(f"rule: window is {self.window}, it must be positive")

    @classmethod
    def of(cls, settings: Sequence[str]) -> Rule:
        """A rule from texts as ``gap=4``; what is not named stays as it is."""
        return cls().with_settings(settings)

    def with_settings(self, settings: Sequence[str]) -> Rule:
        """This rule with some numbers changed, by texts as ``gap=4``."""
        numbers: dict[str, Any] = {}
        for setting in settings:
            name, _, number = setting.partition("=")
            self._check_name(name, repr(setting))
            try:
                numbers[name] = float(number) if name == "window" else int(number)
            except ValueError:
                raise LearningError(f"rule: {setting!r}: {number!r} is no number") from None
        return replace(self, **numbers)

    def with_numbers(self, numbers: Any) -> Rule:
        """This rule with some numbers changed, by a table of a file."""
        for name in _table(numbers, "rule"):
            self._check_name(name, name)
        return replace(self, **numbers)

    def _check_name(self, name: str, where: str) -> None:
        known = [f.name for f in fields(self)]
        if name not in known:
            raise LearningError(f"rule: {where}: name one of {', '.join(known)}")


SHARED = ("gap", "halvings", "epoch")
"""Numbers of the rule that all blocks have in common: they share the clock."""


@dataclass(frozen=True)
class Local:
    """A block that learns by its own error.

    layers: one or two dense layers, one behind the other, by their number; −2 is the last hidden
        one. None at all: the readout learns alone, by the delta rule.
    classifier: of the last of them. Behind the last hidden layer that is the network's readout,
        elsewhere one of its own with random weights, which is not part of the network. It stays
        as it is (``fixed``, as in DECOLLE), or learns by the delta rule (``trainable``).
    feedback: the weights through which an error comes back: the forward ones as they were at the
        start, transposed (``fixed``); ``random``; or always the forward ones as they are
        (``mirrored``). Chips have no synapses for both directions: what mirrors must copy.
    steps: in how many steps of each sample there is an error, drawn for each sample anew, as
        SLTT-K does; 0: in all.
    rule: numbers of this block's own; gap, halvings and epoch are common to all.
    """

    layers: tuple[int, ...]
    classifier: Classifier = "fixed"
    feedback: Feedback = "fixed"
    steps: int = 0
    rule: Rule | None = None

    def __post_init__(self) -> None:
        if not all(isinstance(i, int) and not isinstance(i, bool) for i in self.layers):
            raise LearningError(f"block: layers are numbers as [0, 1], found {self.layers}")
        if len(self.layers) > 2:
            raise LearningError(f"block: {len(self.layers)} layers, a block has at most 2")
        for name, known in (("classifier", Classifier), ("feedback", Feedback)):
            value, choices = getattr(self, name), get_args(known)
            if value not in choices:
                raise LearningError(f"block: {name} is {value!r}, use {' or '.join(choices)}")
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or self.steps < 0:
            raise LearningError(f"block: steps is {self.steps!r}, use 0 (all) or more")
        if not self.layers and self.classifier == "fixed":
            raise LearningError('block: without layers its classifier must be "trainable"')
        if self.feedback == "mirrored" and self.classifier == "fixed" and len(self.layers) < 2:
            raise LearningError('block: a fixed classifier mirrors nothing, use feedback "fixed"')


@dataclass(frozen=True)
class Spec:
    """Blocks that learn at once, from front to back, and the rule's numbers.

    seed: of random classifiers, random feedback and drawn steps.
    """

    blocks: tuple[Local, ...]
    rule: Rule = field(default_factory=Rule)
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.blocks:
            raise LearningError("spec: no block is named, so nothing would learn")
        check_seed(self.seed)
        for block in self.blocks:
            for name in SHARED:
                if getattr(self.rule_of(block), name) != getattr(self.rule, name):
                    raise LearningError(f"block: rule.{name} is common to all blocks: set it there")
        needed = LOOP + max(0, *(len(b.layers) - 1 for b in self.blocks))
        if self.rule.gap < needed:
            raise LearningError(f"rule: gap is {self.rule.gap}, blocks of 2 layers need {needed}")

    @property
    def name(self) -> str:
        """The mode's where it is one, else how many blocks there are."""
        for mode in MODES:
            if self.blocks == Spec.of_mode(mode).blocks:
                return mode
        return "1 block" if len(self.blocks) == 1 else f"{len(self.blocks)} blocks"

    def rule_of(self, block: Local) -> Rule:
        """The rule's numbers for one of the blocks."""
        return block.rule or self.rule

    def with_settings(self, settings: Sequence[str]) -> Spec:
        """This spec with some numbers of the rule changed, by texts as ``gap=4``: of all blocks.

        Raises :class:`LearningError` also for numbers of what does not learn here.
        """
        hidden = any(block.layers for block in self.blocks)
        readout = any(block.classifier == "trainable" for block in self.blocks)
        for name in (setting.partition("=")[0] for setting in settings):
            if (name.startswith("hidden_") or name == "window") and not hidden:
                raise LearningError(f"rule: {name} is of hidden layers, and none learns here")
            if name.startswith("readout_") and not readout:
                raise LearningError(f"rule: {name} is of classifiers, and none learns here")
        changed = [
            replace(b, rule=None if b.rule is None else b.rule.with_settings(settings))
            for b in self.blocks
        ]
        return Spec(tuple(changed), self.rule.with_settings(settings), self.seed)

    @classmethod
    def of_mode(cls, mode: str, rule: Rule | None = None) -> Spec:
        """The last hidden layer (``hidden``), the readout (``readout``), or ``both``."""
        if mode not in MODES:
            raise LearningError(f"mode {mode!r} is unknown: use one of {', '.join(MODES)}")
        learns: Classifier = "fixed" if mode == "hidden" else "trainable"
        layers = () if mode == "readout" else (-2,)
        return cls((Local(layers, learns),), rule or Rule())

    @classmethod
    def parse(cls, text: str) -> Spec:
        """A spec from TOML, as above. Raises :class:`LearningError`: where, and what it should
        be."""
        try:
            found = toml.loads(text)
        except toml.TomlError as error:
            raise LearningError(f"no TOML: {error}") from None
        _known(found, ("rule", "block", "seed"), "the spec")
        rule = Rule().with_numbers(found.get("rule", {}))
        blocks = found.get("block", [])
        if not isinstance(blocks, list):
            raise LearningError("block: write [[block]] above each, with two brackets")
        return cls(tuple(_block(b, rule) for b in blocks), rule, found.get("seed", 0))

    @classmethod
    def read(cls, path: Path) -> Spec:
        """A spec from a file. Raises :class:`LearningError` that names it."""
        text = toml.text(path, LearningError, "a spec")
        try:
            return cls.parse(text)
        except LearningError as error:
            raise LearningError(f"{path}: {error}") from None


def _block(found: Any, rule: Rule) -> Local:
    _known(_table(found, "block"), [f.name for f in fields(Local)], "a block")
    values = dict(found)
    layers = values.pop("layers", None)
    if not isinstance(layers, list):
        raise LearningError("block: say which layers learn, as layers = [0]")
    own = values.pop("rule", None)
    return Local(tuple(layers), **values, rule=None if own is None else rule.with_numbers(own))


def _table(found: Any, name: str) -> Mapping[str, Any]:
    if not isinstance(found, Mapping):
        raise LearningError(f"{name}: a table is needed, found {found!r}")
    return found


def _known(found: Mapping[str, Any], names: Sequence[str], where: str) -> None:
    for name in found:
        if name not in names:
            raise LearningError(f"{where} has no {name!r}: use {', '.join(names)}")
