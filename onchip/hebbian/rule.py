"""The numbers of STDP and of rewarded STDP, and the rule that they make for the chip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args

from onchip.rules import Compiled, Trace, compile_rule
from onchip.spec import LOOP, LearningError

Mode = Literal["stdp", "reward"]
MODES: tuple[str, ...] = get_args(Mode)


@dataclass(frozen=True)
class Hebbian:
    """The rule's numbers.

    gap: silent steps after each sample, in which traces fade and the reward arrives; at least
        epoch + 2.
    pre_tau, post_tau: time constants of the traces, in steps.
    potentiation, depression: by how much a spike of the neuron right after one of the input, and of
        the input right after one of the neuron, changes the weight, or in ``reward`` its tag; in
        LSB, 0 and more.
    rate: LSB that a tag of 1 changes the weight by at a reward of 1.0.
    fading: time constant of the tag, in steps.
    baseline: the reward expected follows the rewards with 2^−baseline; 0: none is expected.
    epoch: steps between two learning phases, 1..63.

    The defaults are those of ``stdp``; :meth:`default` has those of ``reward``.
    """

    gap: int = 16
    pre_tau: float = 8.0
    post_tau: float = 8.0
    potentiation: float = 1.0
    depression: float = 1.05
    rate: float = 0.1
    fading: float = 40.0
    baseline: int = 3
    epoch: int = 1

    def __post_init__(self) -> None:
        for name, low, high in (
            ("gap", LOOP, 2**15),
            ("pre_tau", 1, 2**15),
            ("post_tau", 1, 2**15),
            ("potentiation", 0, 256),
            ("depression", 0, 256),
            ("rate", 0, 256),
            ("fading", 1, 2**15),
            ("baseline", 0, 7),
            ("epoch", 1, 63),
        ):
            value = getattr(self, name)
            whole = name in ("gap", "baseline", "epoch")
            if not low <= value <= high or (whole and value != int(value)):
                kind = "whole number" if whole else "number"
                raise LearningError(f"rule: {name} is {value}, use a {kind} {low}..{high}")
        if self.gap < self.epoch + LOOP:
            raise LearningError(
                f"rule: gap is {self.gap}: with epochs of {self.epoch} steps it takes "
                f"{self.epoch + LOOP} for the reward to arrive"
            )

    @classmethod
    def default(cls, mode: Mode) -> Hebbian:
        """The rule for a mode: where a reward says what was right, depression only disturbs."""
        if mode == "stdp":
            return cls()
        return cls(pre_tau=4.0, post_tau=4.0, potentiation=4.0, depression=0.0)

    @classmethod
    def of(cls, settings: Sequence[str], mode: Mode = "stdp") -> Hebbian:
        """A rule from texts as ``gap=4``; what is not named is the mode's default."""
        known = {
            f.name: int if f.name in ("gap", "baseline", "epoch") else float for f in fields(cls)
        }
        numbers: dict[str, Any] = {}
        for setting in settings:
            name, _, number = setting.partition("=")
            if name not in known:
                raise LearningError(f"rule: {setting!r}: name one of {', '.join(known)}")
            try:
                numbers[name] = known[name](number)
            except ValueError:
                raise LearningError(f"rule: {setting!r}: {number!r} is no number") from None
        return replace(cls.default(mode), **numbers)

    def compile(self, mode: Mode) -> Compiled:
        """The rule for the chip, and what became of its terms."""
        pair = f"{self.potentiation:.17g} * pre_trace * post"
        pair += f" - {self.depression:.17g} * pre * post_trace"
        traces = {"pre_trace": Trace(self.pre_tau), "post_trace": Trace(self.post_tau)}
        if not self.potentiation and not self.depression:
            raise LearningError("rule: potentiation and depression are both 0: nothing is learned")
        if mode == "stdp":
            return compile_rule(f"dw = {pair}", traces=traces, epoch=self.epoch)
        if not self.rate:
            raise LearningError("rule: rate is 0: nothing is learned from a reward")
        return compile_rule(
            f"dt = {pair} - {1 / self.fading:.17g} * tag * every(1)\n"
            f"dw = {self.rate:.17g} * tag * reward * every(1)",
            traces=traces,
            epoch=self.epoch,
            units=REWARD,
        )


REWARD = 63
"""What a reward of 1.0 is on the chip: one of +1 where −1 was expected still fits in 7 bits."""
