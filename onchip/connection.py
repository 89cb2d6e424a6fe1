"""Plastic synapses under any learning rule, compiled: one dense connection, equal to Lava's
fixed-point LearningDense in every weight, tag and trace at every step.

    rule = read_rule(dw="2^-2*x1*y0 - 2^-2*x0*y1", x1=(16, 10.0), y1=(16, 10.0))
    synapses = Synapses(weight, rule, seed=1)
    synapses.run(pre, post)                  # spikes [steps, in] and [steps, out]
    synapses.weight

Weights saturate at −128..127, which a file can hold, as those of ``onchip.processes`` do.

Two roundings (see :mod:`onchip.engine`): ``lava``, with the numbers that Lava draws, one for all
synapses of a connection at a learning phase and one for all traces of a side; ``chip-like``, a
number for each synapse and each trace, with which a neuron's third factors do not fade.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from onchip.draws import ROUNDINGS, WEIGHT_SEED, Rounding, stream
from onchip.rules import kernels
from onchip.rules.language import (
    FRACTION,
    RANGES,
    SENT,
    TARGETS,
    TAU_ENDLESS,
    TRACES,
    Factor,
    LavaRule,
    Product,
    RuleError,
)

Graded = Literal["regular", "overwrite", "add", "add-overflow"]
"""What graded input does to x1: as spikes do; x1 becomes half of the payload; half of it is added
up to 127; half of it is added, and beyond 127 x2 takes its impulse and x1 keeps the rest."""
GRADED: tuple[str, ...] = get_args(Graded)

PAYLOAD_MAX = 255

_WHEN = {"x0": kernels.X0, "y0": kernels.Y0, "u": kernels.U}
_KINDS = {
    "x0": (kernels.F_X0, 0),
    "y0": (kernels.F_Y0, 0),
    "x1": (kernels.F_X, 0),
    "x2": (kernels.F_X, 1),
    "y1": (kernels.F_Y, 0),
    "y2": (kernels.F_Y, 1),
    "y3": (kernels.F_Y, 2),
    "w": (kernels.F_W, 0),
    "d": (kernels.F_D, 0),
    "t": (kernels.F_T, 0),
}


@dataclass(frozen=True)
class Record:
    """What happened in each step, its learning phase included; each array has a row a step.

    weight, delay, tag: ``[steps, out, in]`` (delay and tag None where the rule has none).
    x: ``[steps, 2, in]``, y: ``[steps, 3, out]``: traces; y of three factors: as sent.
    sent: ``[steps, out]`` what went through the weights, arriving at the step after.
    """

    weight: NDArray[np.int8]
    delay: NDArray[np.int16] | None
    tag: NDArray[np.int16] | None
    x: NDArray[np.int16]
    y: NDArray[np.int16]
    sent: NDArray[np.int32]


class Synapses:
    """A dense plastic connection at work, from its first step on.

    weight: ``[out, in]`` mantissas, −128..127. rule: any :class:`LavaRule`.
    exponent: weights count 2^exponent of their mantissa, 0..7.
    delay: ``[out, in]`` tag_2 at the start, 0..255; tag: tag_1, −256..255; None: zeros.
    graded: input is payloads 0..255, and this is what x1 takes of them; None: spikes.
    seed: of the random numbers, under ``lava`` of those of the traces.
    """

    def __init__(
        self,
        weight: NDArray[Any],
        rule: LavaRule,
        *,
        exponent: int = 0,
        delay: NDArray[Any] | None = None,
        tag: NDArray[Any] | None = None,
        graded: Graded | None = None,
        seed: int = 1,
        rounding: Rounding = "lava",
    ) -> None:
        if rounding not in ROUNDINGS:
            raise RuleError("rounding", f"rounding {rounding!r}: use {' or '.join(ROUNDINGS)}")
        if graded is not None and graded not in GRADED:
            raise RuleError("graded", f"graded input {graded!r}: use {', '.join(GRADED)}")
        if not 0 <= exponent <= 7:
            raise RuleError("weight-range", f"an exponent of {exponent}: use 0..7")
        self.rule, self.seed, self.rounding, self.exponent = rule, seed, rounding, exponent
        self.graded: Graded | None = graded
        self.step = 0
        weight = _matrix("weight", weight, *RANGES["w"])
        self.out, self.inputs = weight.shape
        used = rule.used

        def kept(name: str, values: NDArray[Any] | None, low: int, high: int) -> NDArray[np.int16]:
            if values is None and name[0] not in used and not getattr(rule, f"d{name[0]}"):
                return np.zeros((0, 0), dtype=np.int16)
            if values is None:
                return np.zeros((self.inputs, self.out), dtype=np.int16)
            found = _matrix(name, values, low, high)
            if found.shape != weight.shape:
                raise RuleError("shape", f"{name} {list(found.shape)}, weight {list(weight.shape)}")
            return np.array(found.T, dtype=np.int16, order="C")

        self._state = kernels.State(
            np.array(weight.T, dtype=np.int8, order="C"),
            kept("delay", delay, *RANGES["d"]),
            kept("tag", tag, -256, 255),
            np.zeros((2, self.inputs), dtype=np.int16),
            np.zeros((3, self.out), dtype=np.int16),
            np.zeros(self.inputs, dtype=np.uint8),
            np.zeros(self.out, dtype=np.uint8),
            np.zeros(self.out, dtype=np.int32),
            np.zeros(self.inputs, dtype=np.uint8),
        )
        self._program = _program(rule, graded, exponent, rounding)
        products, epoch = len(self._program.products), rule.epoch
        n = self.inputs

        def room(*shape: int) -> NDArray[np.int32]:
            return np.zeros(shape, dtype=np.int32)

        self._work = kernels.Work(
            xh=room(2, epoch + 1, n),
            yh=room(3, epoch + 1, self.out),
            acts=np.zeros(products, dtype=np.uint8),
            post=room(products, epoch + 1, self.out),
            low=room(products, epoch + 1),
            high=room(products, epoch + 1),
            scalar=room(max(products, 2), n),
            reach=room(4, n),
            todo=np.zeros(n, dtype=np.uint8),
            sums=room(3, self.out),
            term=room(self.out),
            columns=np.zeros(self.out + 1, dtype=np.int64),
            mask=np.zeros(self.out, dtype=np.int8),
            parts=np.zeros((2, self.out), dtype=np.int16),
            rows=np.zeros(n + 1, dtype=np.int64),
            table=np.zeros(2 * kernels.OFFSET, dtype=np.int16),
            now_y=np.zeros((3, self.out), dtype=np.int16),
        )

    @property
    def weight(self) -> NDArray[np.int32]:
        """The mantissas ``[out, in]`` as they are now."""
        return self._state.weight.T.astype(np.int32)

    @property
    def delay(self) -> NDArray[np.int32] | None:
        """tag_2 ``[out, in]``, or None where the rule has none."""
        return self._state.delay.T.astype(np.int32) if self._state.delay.size else None

    @property
    def tag(self) -> NDArray[np.int32] | None:
        """tag_1 ``[out, in]``, or None where the rule has none."""
        return self._state.tag.T.astype(np.int32) if self._state.tag.size else None

    def run(
        self,
        pre: NDArray[Any],
        post: NDArray[Any],
        third: NDArray[Any] | None = None,
        *,
        record: bool = False,
    ) -> Record | None:
        """The next steps. pre: ``[steps, in]`` spikes, or payloads. post: ``[steps, out]`` the
        neurons' spikes (bap). third: ``[steps, 3, out]`` the y1, y2, y3 that they send, −128..127,
        in a three-factor rule. record: what happened, for few steps and small connections."""
        pre, post = np.asarray(pre), np.asarray(post)
        steps = len(pre)
        self._check(pre, post, third)
        if third is None:
            third = np.zeros((steps if self.rule.factors == 3 else 0, 3, self.out), dtype=np.int16)
        seen = self.seen(steps if record else 0)
        kernels.run(
            np.ascontiguousarray(pre, dtype=np.uint8),
            np.ascontiguousarray(post, dtype=np.uint8),
            np.ascontiguousarray(third, dtype=np.int16),
            np.zeros(0, dtype=np.int64),
            self._program,
            self._state,
            self._work,
            kernels.NO_NEURONS,
            self.draws(steps),
            seen,
            self.step,
        )
        self.step += steps
        return self.recorded(seen) if record else None

    def _check(self, pre: NDArray[Any], post: NDArray[Any], third: NDArray[Any] | None) -> None:
        for name, given in (("input", pre), ("spikes", post), ("third factors", third)):
            if given is not None and (dtype := np.asarray(given).dtype).kind not in "iub":
                raise RuleError("shape", f"{name} of {dtype}: expected whole numbers")
        steps = len(pre)
        if pre.shape != (steps, self.inputs) or post.shape != (steps, self.out):
            raise RuleError(
                "shape",
                f"input {list(pre.shape)} and spikes {list(post.shape)}: expected [steps, "
                f"{self.inputs}] and [steps, {self.out}]",
            )
        high = 1 if self.graded is None else PAYLOAD_MAX
        if pre.size and pre.min() < 0:
            raise RuleError(
                "negative-payload",
                f"an input of {pre.min()}: Lava's traces take it for {256 + int(pre.min()) // 2}",
            )
        if pre.size and pre.max() > high:
            raise RuleError("payload-range", f"an input of {pre.max()}: use 0..{high}")
        if post.size and (post.min() < 0 or post.max() > 1):
            raise RuleError(
                "graded-post",
                f"post-spikes {post.min()}..{post.max()}: Lava takes all but 0 for a spike of 1; "
                "send graded ones as y1, y2, y3 of a three-factor rule",
            )
        if (third is None) != (self.rule.factors == 2):
            said = "needs the y1, y2, y3 sent" if third is None else "has no third factors"
            raise RuleError("factors", f"a {self.rule.factors}-factor rule {said}")
        if third is not None:
            third = np.asarray(third)
            if third.shape != (steps, 3, self.out):
                raise RuleError(
                    "shape", f"third factors {list(third.shape)}: [{steps}, 3, {self.out}]"
                )
            if third.size and (third.min() < SENT[0] or third.max() > SENT[1]):
                raise RuleError(
                    "factor-range",
                    f"third factors {third.min()}..{third.max()}: 7 bits and a sign, {SENT}",
                )

    def state(self) -> dict[str, NDArray[Any]]:
        """All that changes, but for ``step``: arrays by name, not copied. Random numbers are drawn
        by the step, and need nothing beside it."""
        return dict(self._state._asdict())

    def restore(self, state: dict[str, NDArray[Any]], step: int) -> None:
        """Go on from a saved state and its step, to what would have come without the pause."""
        mine = self.state()
        fits = mine.keys() == state.keys() and all(
            state[k].shape == v.shape and state[k].dtype == v.dtype for k, v in mine.items()
        )
        if not fits or step != int(step) or step < 0:
            raise RuleError("state", "this is the state of another connection")
        for name, values in mine.items():
            values[...] = state[name]
        self.step = int(step)

    # What runs the synapses with neurons behind them (onchip.hebbian) needs these too.

    @property
    def parts(self) -> tuple[kernels.Program, kernels.State, kernels.Work]:
        """What the kernels take."""
        return self._program, self._state, self._work

    def draws(self, steps: int) -> kernels.Draws:
        """The random numbers of the next steps."""
        if self.rounding == "chip-like":
            none, key = np.zeros(0), int(np.random.SeedSequence(self.seed).generate_state(1)[0]) | 1
            whole = np.zeros(0, dtype=np.int32)
            return kernels.Draws(key, whole, none, none, whole, whole, whole)
        epoch, begin = self.rule.epoch, 1 + 2 * self.step
        # At rest Lava draws once, then for traces twice a step (before and after the neurons'
        # spikes are in), for weights and tags once a learning phase.
        x, y = (np.ascontiguousarray(stream(self.seed + k, begin, 2 * steps)[1::2]) for k in (0, 2))
        dice_x, dice_y = (_bits(self.seed + k, begin, 2 * steps) for k in (1, 3))
        phases = np.arange(self.step + 1, self.step + steps + 1) // epoch
        low = int(phases[0]) if steps else 0
        drawn = stream(WEIGHT_SEED, low, int(phases[-1]) - low + 1 if steps else 0)
        weight = (2**FRACTION - 1 - np.floor(drawn * 2**FRACTION)).astype(np.int32)
        return kernels.Draws(
            0,
            weight[phases - low],
            x,
            y,
            np.ascontiguousarray(dice_x[1::2]),
            np.ascontiguousarray(dice_y[1::2]),
            np.ascontiguousarray(dice_y[0::2]),
        )

    def seen(self, steps: int, spikes: bool = False) -> kernels.Seen:
        """Room to record steps."""

        def room(array: NDArray[Any]) -> NDArray[Any]:
            return np.zeros((steps, *array.shape), dtype=array.dtype)

        s = self._state
        sent = np.zeros((steps if spikes else 0, self.out), dtype=np.uint8)
        return kernels.Seen(
            room(s.weight), room(s.delay), room(s.tag), room(s.x), room(s.y), room(s.a), sent
        )

    def recorded(self, seen: kernels.Seen) -> Record:
        """A record of what was seen."""

        def turned(array: NDArray[Any]) -> NDArray[Any] | None:
            return array.swapaxes(1, 2) if array.shape[1] else None

        weight = seen.weight.swapaxes(1, 2)
        return Record(weight, turned(seen.delay), turned(seen.tag), seen.x, seen.y, seen.a)


def _matrix(name: str, values: NDArray[Any], low: int, high: int) -> NDArray[Any]:
    values = np.asarray(values)
    if values.ndim != 2 or values.dtype.kind not in "iu" or not values.size:
        raise RuleError(
            "shape", f"{name} of {values.dtype} {list(values.shape)}: expected integers [out, in]"
        )
    if values.min() < low or values.max() > high:
        raise RuleError("weight-range", f"{name} {values.min()}..{values.max()}: use {low}..{high}")
    return values


def _program(
    rule: LavaRule, graded: Graded | None, exponent: int, rounding: Rounding
) -> kernels.Program:
    sent = rule.factors == 3
    products: list[list[int]] = []
    factors: list[list[int]] = []
    targets = [0]
    for target in TARGETS:
        for product in getattr(rule, target):
            begin = len(factors)
            factors += [_factor(f) for f in product.factors]
            kinds = {row[0] for row in factors[begin:]}
            products.append(
                [
                    len(targets) - 1,
                    _WHEN[product.when],
                    product.mantissa,
                    product.shift,
                    FRACTION + product.exponent,
                    begin,
                    len(factors),
                    int(bool(kinds & {kernels.F_W, kernels.F_D, kernels.F_T})),
                    int(bool(kinds & {kernels.F_X, kernels.F_X0})),
                    int(bool(kinds & {kernels.F_Y, kernels.F_Y0})),
                    next((row[1] for row in factors[begin:] if row[0] == kernels.F_X), -1),
                    next((row[1] for row in factors[begin:] if row[0] == kernels.F_Y), -1),
                ]
            )
        targets.append(len(products))
    traces = [rule.trace(name) for name in TRACES]
    impulses = [float(t.impulse) for t in traces]
    taus = [float(t.tau) for t in traces]
    mode = -1 if graded is None else GRADED.index(graded)
    if mode > 0:
        impulses[0] = 0.0  # Lava takes it from graded synapses
    alive = [impulse > 0 for impulse in impulses]
    alive[0] = alive[0] or mode > 0
    if sent:
        taus[2:] = [TAU_ENDLESS if rounding == "lava" else np.inf] * 3
        alive[2:] = [name in rule.used for name in TRACES[2:]]
    whole = np.floor(impulses)
    tables = [_fade(tau) for tau in taus]
    return kernels.Program(
        np.array(products, dtype=np.int32),
        np.array(factors, dtype=np.int32).reshape(-1, 6),
        np.array(targets, dtype=np.int64),
        np.stack([base for base, _ in tables]),
        np.stack([fraction for _, fraction in tables]),
        np.array([tau != 0 for tau in taus], dtype=np.int64),
        whole.astype(np.int32),
        np.round((np.array(impulses) - whole) * 256).astype(np.int32),
        np.array(alive, dtype=np.int64),
        0 if rule.every is None else 2**rule.every,
        rule.epoch,
        sent,
        mode,
        exponent,
        mode < 0 and _is_brief(rule),
    )


def _is_brief(rule: LavaRule) -> bool:
    """Whether it is what most rules are (:func:`kernels._step`)."""

    def plain(product: Product) -> bool:
        variables = [f.variable for f in product.factors]
        return (
            not any(
                f.constant or f.variable in ("w", "d", "t", "x0", "y0") for f in product.factors
            )
            and sum(v[0] == "x" for v in variables) <= 1
            and sum(v[0] == "y" for v in variables) <= 1
        )

    alone = not rule.dd and not rule.dt and rule.epoch == 1
    return alone and len(rule.dw) <= 2 and all(plain(p) for p in rule.dw)


def _factor(factor: Factor) -> list[int]:
    most = 2**factor.width
    low, high = (-1, 1) if factor.sign else (-most, most - 1)
    return [*_KINDS[factor.variable], factor.constant, int(factor.sign), low, high]


def _fade(tau: float) -> tuple[NDArray[np.int16], NDArray[np.float64]]:
    """What a step leaves of −128..255: the whole part and the fraction, as Lava computes it."""
    values = np.arange(-kernels.OFFSET, 256)
    if tau == 0:
        return np.zeros(len(values), dtype=np.int16), np.zeros(len(values))
    left: NDArray[np.float64] = np.exp(-1 / np.array([tau])) * values
    return np.floor(left).astype(np.int16), np.mod(left, 1.0)


def _bits(seed: int, skip: int, count: int) -> NDArray[np.int32]:
    """The same of whole numbers 0..127, of which a draw of 64 bits gives two, the low half first.
    A test holds this against numpy's own, one number after the other."""
    bits = np.random.PCG64(seed)
    bits.advance(skip // 2)
    raw = np.atleast_1d(bits.random_raw(count // 2 + 1))
    halves = np.stack([raw & np.uint64(2**32 - 1), raw >> np.uint64(32)], axis=1).reshape(-1)
    return (halves[skip % 2 : skip % 2 + count] >> np.uint64(25)).astype(np.int32)
