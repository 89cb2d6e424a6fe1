"""Lava's rule language: what it says, what Lava computes of it, and what is not what it seems.

    dZ = Σᵢ Dᵢ · mᵢ · 2^eᵢ · Πⱼ Fᵢⱼ          Z: the weight w, the delay d (tag_2), the tag t (tag_1)

D is when a product acts: x0 (the input spiked in this epoch), y0 (the neuron did), u_k (in every
2^k-th epoch). F is x1 x2 (traces of the input), y1 y2 y3 (of the neuron, or what it sends), w d t,
x0 y0 beside another D, any of these plus a constant, and sgn of w, d, t. m is −8..7, e −7..8.

Lava's fixed-point model (lava-nc 0.10.0) takes each F within its width b (traces 7 bits, w d t 9,
x0 y0 1), multiplies in 32 bits, and keeps 15 bits and the sign of the product::

    s  = max(0, Σ b + 4 − 15)
    dZ = Σ (m · Π F >> s) · 2^e             rounded at random to a whole number, the sum at once

so that x1·y1 counts an eighth of what it says, and every product is floored: it drifts downwards.

:func:`read_rule` reads the strings with which Lava's rules are made. Lava's own parser misreads
some of them without a word, and others end in errors that say nothing: here each is refused by a
:class:`RuleError` that has the name of what is wrong.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from loihi import PumiceError

TARGETS = {"dw": "w", "dd": "d", "dt": "t"}
"""What a rule changes, and the variable's name in products."""
TRACES = ("x1", "x2", "y1", "y2", "y3")
SYNAPTIC = ("w", "d", "t")
EVENTS = ("x0", "y0")

WIDTHS = {**dict.fromkeys(TRACES, 7), **dict.fromkeys(SYNAPTIC, 9), **dict.fromkeys(EVENTS, 1)}
"""Bits by which Lava's fixed-point model counts, and to which it clips, each factor."""
MANTISSA_WIDTH, ACCUMULATOR_WIDTH = 4, 15
MANTISSA_MIN, MANTISSA_MAX = -8, 7
EXPONENT_MIN, EXPONENT_MAX = -7, 8
FRACTION = 7
"""Bits of the accumulator that a weight or tag does not keep."""
TRACE_MAX = 127
CONSTANT_MAX = 255
EPOCH_MAX = 63
TAU_ENDLESS = 2**16 - 1
"""The largest time constant that means something: what Lava takes for no decay, and is one."""
EVERY_MAX = 9
"""Lava reads one digit after u."""
TEXT_MAX = 10_000
DEPTH_MAX = 50
DIGITS_MAX = 9
FACTORS_MAX = 64
"""Of a product; 32 bits overflow long before, but for signs and events."""

RANGES = {
    **dict.fromkeys(TRACES, (0, TRACE_MAX)),
    **dict.fromkeys(EVENTS, (0, 1)),
    "w": (-128, 127),
    "d": (0, 255),
    "t": (-257, 255),
}
"""What the variables can be. Weights are those of a synapse of either sign that a file can hold;
Lava clips tags at −2^8 − 1."""
SENT = (-128, 127)
"""What a neuron may send as y1, y2, y3 in a three-factor rule."""


class RuleError(PumiceError):
    """A learning rule that Lava would refuse, misread, or compute otherwise than it says.

    rule: the name of what is wrong, which is also in the message: ``product-overflow``.
    """

    def __init__(self, rule: str, message: str) -> None:
        super().__init__(f"learning rule: {message} [{rule}]")
        self.rule = rule


@dataclass(frozen=True)
class RuleWarning:
    """What a rule does beside what it says. rule: its name. size: in LSB, where it has one."""

    rule: str
    message: str
    size: float = 0.0


@dataclass(frozen=True)
class Factor:
    """One factor of a product: ``variable + constant``, or the sign of that."""

    variable: str
    constant: int = 0
    sign: bool = False

    @property
    def width(self) -> int:
        """Bits by which Lava counts it; a sign counts as its variable."""
        return WIDTHS[self.variable]

    def range(self, sent: bool) -> tuple[int, int]:
        """The least and the largest value. sent: y1, y2, y3 come from the neuron, with a sign."""
        low, high = SENT if sent and self.variable[0] == "y" and self.variable != "y0" else (
            RANGES[self.variable]
        )  # fmt: skip
        low, high = low + self.constant, high + self.constant
        if self.sign:
            return (low > 0) - (low < 0), (high > 0) - (high < 0)
        most = 2**self.width
        return max(low, -most), min(high, most - 1)

    def __str__(self) -> str:
        text = self.variable + (f"{self.constant:+d}" if self.constant else "")
        return f"sgn({text})" if self.sign else f"({text})" if self.constant else text


@dataclass(frozen=True)
class Product:
    """``mantissa · 2^exponent · when · Π factors``. when: ``x0``, ``y0`` or ``u``; every: its k."""

    when: str
    mantissa: int
    exponent: int
    factors: tuple[Factor, ...] = ()
    every: int | None = None

    def __post_init__(self) -> None:
        if len(self.factors) > FACTORS_MAX:
            raise RuleError(
                "product-overflow", f"a product of {len(self.factors)} factors: at most "
                f"{FACTORS_MAX}"
            )  # fmt: skip

    @property
    def shift(self) -> int:
        """Bits that Lava's fixed-point model cuts from the product."""
        widths = sum(factor.width for factor in self.factors)
        return max(0, widths + MANTISSA_WIDTH - ACCUMULATOR_WIDTH)

    @property
    def scale(self) -> float:
        """What the product of its factors is multiplied by, cut bits included."""
        return self.mantissa * 2.0 ** (self.exponent - self.shift)

    @property
    def drift(self) -> float:
        """LSB that cutting takes away on average, over all that the factors can be, when it acts.

        Of what is no multiple of 2^shift it is half of that on average; and that it is one takes as
        many factors 2 in all, of which each number has k with a chance of 2^−(k + 1).
        """
        if not self.mantissa:
            return 0.0
        n = sum(not f.sign and f.width > 1 for f in self.factors)
        free = self.shift - (self.mantissa & -self.mantissa).bit_length() + 1
        chance = sum(math.comb(k + n - 1, k) * 2.0 ** -(k + n) for k in range(free) if n or not k)
        return 2.0**self.exponent * chance / 2

    def largest(self, sent: bool) -> int:
        """The largest magnitude of ``mantissa · Π factors``, before anything is cut."""
        low = high = self.mantissa
        for f in self.factors:
            ends = [a * b for a in (low, high) for b in f.range(sent)]
            low, high = min(ends), max(ends)
        return max(-low, high)

    def __str__(self) -> str:
        when = self.when if self.every is None else f"u{self.every}"
        size = f"{abs(self.mantissa)}*2^{self.exponent}" if self.exponent else (
            f"{abs(self.mantissa)}"
        )  # fmt: skip
        return "*".join([size, when, *map(str, self.factors)])


@dataclass(frozen=True)
class Decay:
    """A trace: what a spike adds, 0..127, and the time constant of its decay in steps.

    tau 0, and 0 to add, is a trace that is not there. Fractions of an impulse are Lava's in the
    engine, and refused by :func:`check_rule`.
    """

    impulse: float = 0.0
    tau: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.impulse <= TRACE_MAX:
            raise RuleError("impulse-range", f"an impulse of {self.impulse:g}: use 0..{TRACE_MAX}")
        if not 0 <= self.tau < math.inf:
            raise RuleError("trace-tau", f"a time constant of {self.tau:g} steps: use 1 and more")


NO_TRACE = Decay()


@dataclass(frozen=True)
class LavaRule:
    """A rule as Lava's fixed-point model computes it; :func:`read_rule` and ``compile_rule`` make
    one.

    dw, dd, dt: the products, in their order. traces: by name; those not named are not there.
    factors: 2, or 3 where the neuron sends y1, y2 and y3, which have no impulse or decay here then.
    epoch: steps between two learning phases, 1..63.
    """

    dw: tuple[Product, ...] = ()
    dd: tuple[Product, ...] = ()
    dt: tuple[Product, ...] = ()
    traces: Mapping[str, Decay] = field(default_factory=dict)
    factors: int = 2
    epoch: int = 1

    def __post_init__(self) -> None:
        if not (self.dw or self.dd or self.dt):
            raise RuleError("target", "it changes nothing: give dw, dd or dt")
        if self.factors not in (2, 3):
            raise RuleError("factors", f"{self.factors} factors: Lava has two-factor and three")
        if not 1 <= self.epoch <= EPOCH_MAX or self.epoch != int(self.epoch):
            raise RuleError("epoch-range", f"an epoch of {self.epoch} steps: use 1..{EPOCH_MAX}")
        for name in self.traces:
            if name not in TRACES:
                raise RuleError("unknown-name", f"there is no trace {name}: {', '.join(TRACES)}")
            if self.factors == 3 and name[0] == "y" and self.traces[name] != NO_TRACE:
                raise RuleError(
                    "post-trace-sent",
                    f"{name} of a three-factor rule is what the neuron sends: it has no impulse "
                    "and no time constant here",
                )
        for target, product in self:
            _check_product(target, product, self.factors == 3)
        every = {p.every for _, p in self if p.every is not None}
        if len(every) > 1:
            names = ", ".join(f"u{k}" for k in sorted(every))
            raise RuleError("u-mixed", f"one rule has one decimation, found {names}")

    def __iter__(self) -> Iterator[tuple[str, Product]]:
        """Each product with its target, in Lava's order."""
        for target in TARGETS:
            for product in getattr(self, target):
                yield target, product

    def trace(self, name: str) -> Decay:
        """A trace's impulse and decay."""
        return self.traces.get(name, NO_TRACE)

    @property
    def used(self) -> frozenset[str]:
        """All variables that occur in it."""
        return frozenset(f.variable for _, p in self for f in p.factors)

    @property
    def every(self) -> int | None:
        """k of its u_k, or None."""
        return next((p.every for _, p in self if p.every is not None), None)

    def text(self, target: str) -> str | None:
        """The string of ``dw``, ``dd`` or ``dt`` with which Lava makes this rule, or None."""
        products: tuple[Product, ...] = getattr(self, target)
        if not products:
            return None
        first, *others = products
        text = ("-" if first.mantissa < 0 else "") + str(first)
        return text + "".join(f" {'-' if p.mantissa < 0 else '+'} {p}" for p in others)

    def as_dict(self) -> dict[str, Any]:
        """Texts and numbers, for JSON: what :func:`read_rule` makes this rule of again."""
        texts = {target: self.text(target) for target in TARGETS}
        traces = {name: [t.impulse, t.tau] for name, t in self.traces.items()}
        return {**texts, **traces, "factors": self.factors, "epoch": self.epoch}

    def to_lava(self, seed: int) -> Any:
        """Lava's own rule: only where Lava can be imported. seed: of its trace rounding."""
        from lava.magma.core.learning.learning_rule import Loihi2FLearningRule, Loihi3FLearningRule

        numbers: dict[str, float] = {}
        for name in TRACES[: 2 if self.factors == 3 else 5]:
            numbers[f"{name}_impulse"] = self.trace(name).impulse
            numbers[f"{name}_tau"] = self.trace(name).tau
        kind = Loihi3FLearningRule if self.factors == 3 else Loihi2FLearningRule
        texts = {target: self.text(target) for target in TARGETS}
        return kind(**texts, **numbers, t_epoch=self.epoch, rng_seed=seed)


def _check_product(target: str, product: Product, sent: bool) -> None:
    """What no rule may have: Lava would stop, or its 32 bits would overflow without a word."""
    where = f"{target}: {product}"
    if not MANTISSA_MIN <= product.mantissa <= MANTISSA_MAX:
        raise RuleError(
            "mantissa-range", f"{where}: a mantissa of {product.mantissa}: use "
            f"{MANTISSA_MIN}..{MANTISSA_MAX}, or a power of two times that"
        )  # fmt: skip
    if not EXPONENT_MIN <= product.exponent <= EXPONENT_MAX:
        raise RuleError(
            "exponent-range", f"{where}: an exponent of {product.exponent}: use "
            f"{EXPONENT_MIN}..{EXPONENT_MAX}"
        )  # fmt: skip
    if product.mantissa == MANTISSA_MIN and product.exponent < EXPONENT_MAX:
        raise RuleError("mantissa-range", f"{where}: Lava makes -4*2^{product.exponent + 1} of it")
    if product.when not in (*EVENTS, "u") or (product.when == "u") != (product.every is not None):
        raise RuleError("dependency-missing", f"{where}: begin it with x0, y0 or u0..u{EVERY_MAX}")
    if product.every is not None and not 0 <= product.every <= EVERY_MAX:
        raise RuleError("u-name", f"u{product.every}: Lava has u0..u{EVERY_MAX}")
    for f in product.factors:
        if f.variable not in WIDTHS:
            raise RuleError("unknown-name", f"{where}: there is no variable {f.variable}")
        if f.sign and f.variable not in SYNAPTIC:
            raise RuleError("sign-of-trace", f"{where}: only w, d and t have a sgn")
        if abs(f.constant) > CONSTANT_MAX:
            raise RuleError(
                "constant-range", f"{where}: a constant of {f.constant}: use ±{CONSTANT_MAX}"
            )
    if product.largest(sent) >= 2**31:
        raise RuleError(
            "product-overflow",
            f"{where}: it can reach {float(product.largest(sent)):.2g}, and Lava multiplies in 32 "
            "bits without a check: leave a factor out, or split the rule with a tag",
        )


def check_rule(rule: LavaRule, *, graded_post: bool = False) -> tuple[RuleWarning, ...]:
    """What ``rule`` does beside what it says; raises where that is more than a rounding.

    graded_post: the neuron sends graded spikes, which two-factor rules take for spikes of 1.
    """
    found: list[RuleWarning] = []
    if graded_post and rule.factors == 2:
        raise RuleError(
            "graded-post",
            "a two-factor rule takes every graded spike of the neuron for a spike of 1 "
            "(lava#909): use a three-factor rule, whose neuron sends y1, y2, y3",
        )
    sent = rule.factors == 3
    # A constant or 0 in a trace's place is no use of it: of those not named the impulse is 0.
    for name in TRACES:
        trace = rule.trace(name)
        if trace.impulse != int(trace.impulse):
            raise RuleError(
                "fractional-impulse",
                f"an impulse of {trace.impulse:g} for {name}: Lava adds the fraction with twice "
                "its chance, or always; use a whole number",
            )
        if name not in rule.used or (sent and name[0] == "y"):
            continue
        if trace.tau < 1 or trace.tau >= TAU_ENDLESS:
            what = (
                f"{trace.tau:g} steps: no trace at all in Lava's fixed model, and not a number in "
                "its float model; use 1 and more"
                if trace.tau < 1
                else f"{trace.tau:g} steps is not endless, as Lava's name for it says: 127 fades "
                f"by 1 every {trace.tau / 127:.0f} steps; keep what must stay in a tag (dt)"
            )
            raise RuleError("trace-tau", f"a time constant of {name} of {what}")
        if not trace.impulse:
            found.append(
                RuleWarning("impulse-zero", f"{name} has no impulse: only graded input moves it")
            )
    for target, product in rule:
        for f in product.factors:
            full = RANGES[f.variable]
            low, high = full[0] + f.constant, full[1] + f.constant
            most = 2**f.width
            if not f.sign and f.constant and not -most <= low <= high < most:
                raise RuleError(
                    "factor-clips",
                    f"{target}: {f} can be {low}..{high}, and Lava clips it to {-most}..{most - 1}",
                )
        if product.shift and product.mantissa:
            found.append(
                RuleWarning(
                    "floor-drift",
                    f"{target}: {product} is floored to multiples of 2^{product.exponent}: it "
                    f"loses {product.drift:.2g} LSB on average each time it acts",
                    product.drift,
                )
            )
        if product.largest(sent) / 2**product.shift * 2.0**product.exponent > 256:
            found.append(
                RuleWarning(
                    "product-saturates", f"{target}: {product} can exceed 256 LSB, and is cut there"
                )
            )
    if rule.dd:
        found.append(RuleWarning("delay-inert", "Lava learns d (tag_2), and delays no spike by it"))
    if rule.epoch > 1:
        found.append(
            RuleWarning(
                "epoch-spikes",
                f"of several spikes of a neuron in the {rule.epoch} steps of an epoch all but the "
                "last count as if at its start" + (", and of y1, y2, y3 only the last" * sent),
            )
        )
    return tuple(found)


# --- reading Lava's strings ---------------------------------------------------------------------

TOKEN = re.compile(
    r"(?P<number>(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?)|(?P<name>[A-Za-z_]\w*)|(?P<sign>[-+*/^()=,])",
    re.ASCII,
)


def tokens(text: str) -> list[tuple[str, str, int]]:
    """Kind, text and place of each token, and one of kind ``end``."""
    if len(text) > TEXT_MAX:
        raise RuleError("syntax", f"{len(text)} characters: at most {TEXT_MAX}")
    found, at = [], 0
    while at < len(text):
        if text[at].isspace():
            at += 1
            continue
        match = TOKEN.match(text, at)
        if match is None:
            raise RuleError("syntax", f"{text[at]!r} at {at + 1} means nothing here")
        assert match.lastgroup is not None or match.group()
        kind = next(k for k in ("number", "name", "sign") if match.group(k) is not None)
        found.append((kind, match.group(), at + 1))
        at = match.end()
    return [*found, ("end", "", len(text) + 1)]


class Reader:
    """Tokens one after the other."""

    def __init__(self, text: str) -> None:
        self.tokens, self.at, self.depth = tokens(text), 0, 0

    @property
    def kind(self) -> str:
        """What comes next."""
        return self.tokens[self.at][0]

    @property
    def text(self) -> str:
        """Its text."""
        return self.tokens[self.at][1]

    def take(self, *texts: str) -> str | None:
        """The next token if it is one of these signs."""
        if self.kind == "sign" and self.text in texts:
            self.at += 1
            return self.tokens[self.at - 1][1]
        return None

    def next(self) -> str:
        """The next token's text, whatever it is."""
        self.at += 1
        return self.tokens[self.at - 1][1]

    def need(self, sign: str) -> None:
        """A sign that must come now."""
        if not self.take(sign):
            raise self.wrong(f"{sign!r}")

    def wrong(self, wanted: str) -> RuleError:
        """The error that something else should have come."""
        found = self.text or "the end"
        return RuleError("syntax", f"{found!r} at {self.tokens[self.at][2]}: expected {wanted}")

    def deeper(self) -> None:
        """One bracket more."""
        self.depth += 1
        if self.depth > DEPTH_MAX:
            raise RuleError("syntax", f"more than {DEPTH_MAX} brackets in each other")


def read_rule(
    *,
    dw: str | None = None,
    dd: str | None = None,
    dt: str | None = None,
    x1: Sequence[float] = (),
    x2: Sequence[float] = (),
    y1: Sequence[float] = (),
    y2: Sequence[float] = (),
    y3: Sequence[float] = (),
    factors: int = 2,
    epoch: int = 1,
    strict: bool = True,
) -> LavaRule:
    """A rule from the strings and numbers with which ``Loihi2FLearningRule`` (factors 2) or
    ``Loihi3FLearningRule`` (3) is made. x1, …: (impulse, tau) of each trace.

    strict: refuse what :func:`check_rule` does too. Raises :class:`RuleError`.
    """
    named = {"x1": x1, "x2": x2, "y1": y1, "y2": y2, "y3": y3}
    for name, numbers in named.items():
        if len(numbers) not in (0, 2):
            raise RuleError("shape", f"{name} of {len(numbers)} numbers: give (impulse, tau)")
    traces = {name: Decay(*numbers) for name, numbers in named.items() if len(numbers)}
    texts = {"dw": dw, "dd": dd, "dt": dt}
    products = {target: _read(target, text) for target, text in texts.items() if text is not None}
    rule = LavaRule(**products, traces=traces, factors=factors, epoch=epoch)
    if strict:
        check_rule(rule)
    return rule


def _read(target: str, text: str) -> tuple[Product, ...]:
    reader = Reader(text)
    products = []
    try:
        sign = reader.take("+", "-")
        while True:
            products.append(_product(reader, -1 if sign == "-" else 1))
            sign = reader.take("+", "-")
            if sign is None:
                break
        if reader.kind != "end":
            raise reader.wrong("+, - or *")
    except RuleError as error:
        raise RuleError(error.rule, f"{target}: {_bare(error)}") from None
    return tuple(products)


def _bare(error: RuleError) -> str:
    return str(error).removeprefix("learning rule: ").removesuffix(f" [{error.rule}]")


def _product(reader: Reader, mantissa: int) -> Product:
    when: str | None = None
    every: int | None = None
    exponent = 0
    factors: list[Factor] = []
    while True:
        if reader.take("-", "+"):
            raise RuleError(
                "sign-in-product",
                "a sign after * begins a new product in Lava: write it before the product",
            )
        if reader.kind == "number":
            m, e = _literal(reader)
            mantissa, exponent = mantissa * m, exponent + e
        elif reader.take("("):
            m, e, factor = _bracket(reader, sign=False)
            mantissa, exponent = mantissa * m, exponent + e
            factors += [] if factor is None else [factor]
        elif reader.kind == "name":
            name = _name(reader)
            if name == "sgn":
                reader.need("(")
                _, _, factor = _bracket(reader, sign=True)
                assert factor is not None
                factors.append(factor)
            elif name[0] == "u":
                if when is not None:
                    raise RuleError("u-name", f"{name} must be the first of its product, and once")
                when, every = "u", int(name[1])
            elif name in EVENTS and when is None:
                when = name
            else:
                factors.append(Factor(name))
        else:
            raise reader.wrong("a factor")
        if abs(mantissa) >= 2**63:
            raise RuleError("mantissa-range", f"a mantissa beyond 64 bits: use {MANTISSA_MIN}.."
                            f"{MANTISSA_MAX}, or a power of two times that")  # fmt: skip
        if not reader.take("*"):
            break
    if when is None:
        raise RuleError("dependency-missing", "each product needs x0, y0 or u0..u9: when it acts")
    # As Lava does, which shows where products are floored.
    while abs(mantissa) > MANTISSA_MAX and mantissa % 2 == 0 and exponent < EXPONENT_MAX:
        mantissa, exponent = mantissa // 2, exponent + 1
    return Product(when, mantissa, exponent, tuple(factors), every)


def _literal(reader: Reader) -> tuple[int, int]:
    """A number's mantissa and exponent: ``3``, or ``2^-4``."""
    text = reader.next()
    if not text.isdecimal():
        raise RuleError("decimal", f"{text}: Lava reads whole numbers and powers 2^k only")
    if not reader.take("^"):
        return _whole(text, "mantissa-range"), 0
    if text.lstrip("0") != "2":
        raise RuleError("syntax", f"{text}^: only powers of 2 can be written")
    negative = reader.take("-", "+") == "-"
    if reader.kind != "number" or not reader.text.isdecimal():
        raise reader.wrong("a whole exponent")
    exponent = _whole(reader.next(), "exponent-range")
    if exponent > 99:
        raise RuleError("exponent-range", f"2^{exponent}: use {EXPONENT_MIN}..{EXPONENT_MAX}")
    return 1, -exponent if negative else exponent


def _whole(text: str, name: str) -> int:
    """Decimals as a number; int() itself stops at some thousands of them."""
    if len(text) > DIGITS_MAX:
        raise RuleError(name, f"a number of {len(text)} digits: at most {DIGITS_MAX}")
    return int(text)


def _name(reader: Reader) -> str:
    name = reader.next()
    if name in WIDTHS or name == "sgn" or re.fullmatch(r"u\d", name):
        return name
    if re.fullmatch(r"u\d+", name):
        raise RuleError("u-name", f"{name}: Lava reads u{name[1]} times {name[2:]}; it has u0..u9")
    raise RuleError(
        "unknown-name",
        f"{name}: Lava has x0 x1 x2 y0 y1 y2 y3 w d t, u0..u9 and sgn, with * between them",
    )


def _bracket(reader: Reader, sign: bool) -> tuple[int, int, Factor | None]:
    """What stands in brackets: a number, a variable, or a variable plus a number."""
    misread = RuleError(
        "bracket",
        "in brackets Lava knows a number, a variable, and a variable plus or minus a number: "
        "anything else it reads as something else",
    )
    negative = reader.take("-", "+") == "-"
    parts: list[tuple[bool, Any]] = [(negative, _inner(reader))]
    while (text := reader.take("+", "-")) is not None:
        parts.append((text == "-", _inner(reader)))
    if not reader.take(")"):
        raise misread if reader.text == "*" else reader.wrong("')'")
    names = [(minus, part) for minus, part in parts if isinstance(part, str)]
    numbers = [(minus, part) for minus, part in parts if not isinstance(part, str)]
    if len(numbers) == 1 and not names and not sign:
        (minus, (m, e)) = numbers[0]
        return (-m if minus else m), e, None
    if len(names) != 1 or len(numbers) > 1:
        raise misread
    minus, name = names[0]
    if sign and name not in SYNAPTIC:
        raise RuleError("sign-of-trace", f"sgn({name}): only w, d and t have a sgn")
    if not numbers:
        if minus or name in EVENTS:
            raise RuleError("bracket", f"({'-' * minus}{name}): Lava forgets what is not a plain "
                            "variable in brackets of its own; write it without them")  # fmt: skip
        return 1, 0, Factor(name, 0, sign)
    less, (m, e) = numbers[0]
    if e < 0:
        raise RuleError("constant-fraction", f"{m}·2^{e} beside {name}: use a whole number")
    constant = (-1 if less else 1) * m * 2**e
    if minus and sign:
        raise RuleError("bracket", f"sgn(…−{name}): Lava refuses it; write −sgn({name}…)")
    # (C − w) is −(w − C)
    return (-1, 0, Factor(name, -constant)) if minus else (1, 0, Factor(name, constant, sign))


def _inner(reader: Reader) -> str | tuple[int, int]:
    if reader.kind == "number":
        m, e = _literal(reader)
        while reader.take("*"):
            if reader.kind != "number":
                raise RuleError("bracket", "a product in brackets: Lava reads (3*w) as w+3")
            m2, e2 = _literal(reader)
            if m2 != 1 or e:
                raise RuleError("bracket", "a product in brackets: Lava forgets its second number")
            m, e = m * m2, e + e2
        return m, e
    if reader.kind == "name":
        name = _name(reader)
        if name == "sgn" or name[0] == "u":
            raise RuleError("bracket", f"{name} cannot stand in brackets")
        return name
    raise reader.wrong("a variable or a number")
