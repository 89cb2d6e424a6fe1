"""From a rule in real units to what Lava's fixed-point learning engine computes, and how far off.

    dw = 0.8 * pre_trace * post - 0.9 * pre * post_trace

Weights, delays and tags are in units of their LSB. A trace rises by 1.0 with each spike and fades
with its time constant, in steps; on the chip it is an integer of 7 bits that rises by an impulse.
So a real term c · Πᵢ traceᵢ is, with Iᵢ the impulses and s the bits that Lava cuts::

    c · Π (xᵢ / Iᵢ) = m·2^(e−s) · Π xᵢ        m·2^e = c · 2^s / Π Iᵢ        −7 ≤ m ≤ 7, −7 ≤ e ≤ 8

of which the nearest is taken, with the largest m: the finer is what the flooring takes away. Where
one is off by more than the tolerance, and the sum of two is nearer, the term becomes two products.
"""

from __future__ import annotations

import math
from bisect import bisect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

from onchip.rules.language import (
    CONSTANT_MAX,
    DIGITS_MAX,
    EVERY_MAX,
    EXPONENT_MAX,
    EXPONENT_MIN,
    FACTORS_MAX,
    MANTISSA_MAX,
    TAU_ENDLESS,
    TRACE_MAX,
    Decay,
    Factor,
    LavaRule,
    Product,
    Reader,
    RuleError,
    RuleWarning,
    check_rule,
)

NAMES = {
    "pre": "x0",
    "post": "y0",
    "pre_trace": "x1",
    "pre_trace2": "x2",
    "post_trace": "y1",
    "post_trace2": "y2",
    "post_trace3": "y3",
    "factor1": "y1",
    "factor2": "y2",
    "factor3": "y3",
    "weight": "w",
    "delay": "d",
    "tag": "t",
}
"""What the language calls Lava's variables. The factors are those that a neuron sends."""
SIGNED = {"error": ("y1", "y2"), "reward": ("y2", "y3")}
"""Third factors with a sign: each is sent as two, one of which is 0: the difference is it."""
LANGUAGE = (*NAMES, *SIGNED, "every(n)", "sign(…)")
TRACE_NAMES = tuple(name for name in NAMES if "trace" in name)
TERMS_MAX = 64
TOLERANCE = 0.02
ROOM = 2
"""Spikes that a trace must have room for where nothing is said."""
ERROR_MAX = 1 / 3
"""The relative error of a coefficient beyond which a term is not what was written."""


@dataclass(frozen=True)
class Trace:
    """A trace as rules name it: it rises by 1.0 with each spike.

    tau: its time constant in steps, 1 and more.
    room: how high it must be able to rise, in spikes, 1..127: 127/room is the impulse on the chip.
        A trace of spikes that come at every n-th step rises to 1 / (1 − exp(−n/tau)). None: at
        least 2; more where that brings the rule's coefficients into the chip's range.
    """

    tau: float
    room: float | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.tau < TAU_ENDLESS:
            raise RuleError(
                "trace-tau", f"a trace with a time constant of {self.tau:g} steps: use 1 and more, "
                f"below {TAU_ENDLESS}; what must not fade belongs into a tag (dt)"
            )  # fmt: skip
        if self.room is not None and not 1 <= self.room <= TRACE_MAX:
            raise RuleError("impulse-range", f"room for {self.room:g} spikes: use 1..{TRACE_MAX}")

    @property
    def impulse(self) -> int:
        """What a spike adds on the chip, 1..127."""
        # 127 / (127 / i) is less than i for some i
        return int(TRACE_MAX / (ROOM if self.room is None else self.room) + 1e-9)


@dataclass(frozen=True)
class Term:
    """What became of one term of a rule.

    target: dw, dd or dt. text: the term. wanted, compiled: its coefficient as written and as Lava
    computes it. error: relative. products: as Lava reads them. drift: LSB that flooring takes away
    on average each time it acts. largest: LSB that it can change at once. names: what it is of.
    """

    target: str
    text: str
    wanted: float
    compiled: float
    error: float
    products: tuple[Product, ...]
    drift: float
    largest: float
    names: frozenset[str]

    def has(self, name: str) -> bool:
        """Whether it speaks of this trace or factor."""
        return name in self.names


@dataclass(frozen=True)
class Compiled:
    """A compiled rule. With three factors, sent: what y1, y2, y3 are that the neuron has to send,
    for reading; kept: those of them that are traces of its own spikes."""

    rule: LavaRule
    terms: tuple[Term, ...]
    warnings: tuple[RuleWarning, ...]
    sent: Mapping[str, str]
    kept: Mapping[str, Decay]

    @property
    def drift(self) -> float:
        """LSB that flooring takes from a weight in a step in which every term of dw acts."""
        return sum(term.drift for term in self.terms if term.target == "dw")

    def table(self) -> str:
        """What became of each term, traces and warnings, for reading."""
        rows = [("", "term", "coefficient", "compiled", "error", "drift", "Lava's products")]
        for term in self.terms:
            products = " ".join(("- " if p.mantissa < 0 else "+ ") + str(p) for p in term.products)
            numbers = (f"{term.wanted:.4g}", f"{term.compiled:.4g}", f"{term.error:+.1%}")
            drift = f"{-term.drift:.2g}" if term.drift else "0"
            rows.append((term.target, term.text, *numbers, drift, products))
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
        for name, trace in self.rule.traces.items():
            lines.append(f"{name}: impulse {trace.impulse:g}, tau {trace.tau:g} steps")
        lines += [f"{name}: the neuron sends {what}" for name, what in self.sent.items()]
        lines += [f"warning: {w.message} [{w.rule}]" for w in self.warnings]
        return "\n".join(lines)


def compile_rule(
    text: str,
    *,
    traces: Mapping[str, Trace] | None = None,
    epoch: int = 1,
    units: int = TRACE_MAX,
    factors: int | None = None,
    tolerance: float = TOLERANCE,
) -> Compiled:
    """Compile ``text``: lines of ``dw = …``, ``dd = …`` or ``dt = …``.

    traces: of each trace that occurs. epoch: steps between two learning phases.
    units: what a neuron sends for a third factor of 1.0, 1..127.
    factors: 2 or 3; None: 3 where a third factor occurs. In a three-factor rule post_trace is what
        the neuron sends: it must keep the declared trace itself (``Compiled.sent``).
    tolerance: the relative error from which on a coefficient becomes the sum of two.

    Raises :class:`RuleError`.
    """
    traces = dict(traces or {})
    for name in traces:
        if name not in TRACE_NAMES:
            raise RuleError("unknown-name", f"{name} is no trace: {', '.join(TRACE_NAMES)}")
    if not 1 <= units <= TRACE_MAX:
        raise RuleError("impulse-range", f"{units} for a third factor of 1.0: use 1..{TRACE_MAX}")
    written = _parse(text)
    names = {atom.name for terms in written.values() for term in terms for atom in term.atoms}
    third = names & {*SIGNED, "factor1", "factor2", "factor3"}
    if factors is None:
        factors = 3 if third else 2
    if third and factors == 2:
        raise RuleError("factors", f"{', '.join(sorted(third))} in a two-factor rule: it needs 3")
    every = {a.every for terms in written.values() for t in terms for a in t.atoms if a.every > 1}
    if len(every) > 1:
        listed = ", ".join(f"every({n})" for n in sorted(every))
        raise RuleError("u-mixed", f"one rule has one decimation, found {listed}")
    decimation = every.pop() if every else 1

    def compiled(traces: Mapping[str, Trace], sums: bool) -> list[Term]:
        accepted = tolerance if sums else math.inf
        return [
            _compile(target, term, _Scale(traces, units), decimation, accepted, factors == 3)
            for target, terms in written.items()
            for term in terms
        ]

    traces, terms = _with_room(traces, names, compiled, tolerance)
    sent = _sent(names, traces, units) if factors == 3 else {}
    products = {
        target: tuple(p for term in terms if term.target == target for p in term.products)
        for target in written
    }
    declared: dict[str, Decay] = {}
    kept: dict[str, Decay] = {}
    for name, trace in traces.items():
        if name in names:
            mine = kept if factors == 3 and name.startswith("post") else declared
            mine[NAMES[name]] = Decay(trace.impulse, trace.tau)
    rule = LavaRule(**products, traces=declared, factors=factors, epoch=epoch)
    return Compiled(rule, tuple(terms), check_rule(rule), sent, kept)


def _with_room(
    traces: dict[str, Trace],
    names: set[str],
    compiled: Callable[[Mapping[str, Trace], bool], list[Term]],
    tolerance: float,
) -> tuple[dict[str, Trace], list[Term]]:
    """The traces with room for as few spikes as let every term be within the tolerance; or, where
    none does, for those that bring them nearest."""
    free = [name for name in traces if traces[name].room is None and name in names]
    if not free:
        return traces, compiled(traces, True)
    best: tuple[float, dict[str, Trace], list[Term]] | None = None
    refused: RuleError | None = None
    # One trace after the other, twice: most terms have one, and none has many. First with one
    # product a term, then with sums.
    for sums in (False, True):
        for name in (*free, *free):
            start, found = traces, False
            for impulse in range(TRACE_MAX // ROOM, 0, -1):
                some = {**start, name: replace(start[name], room=TRACE_MAX / impulse)}
                try:
                    terms = compiled(some, sums)
                except RuleError as error:
                    if error.rule not in ("coefficient-range", "constant-fraction"):
                        raise
                    refused = error
                    continue
                mine = max((abs(t.error) for t in terms if t.has(name)), default=0.0)
                off = sum(max(0.0, abs(t.error) - tolerance) for t in terms)
                if best is None or off < best[0]:
                    best = off, some, terms
                if mine <= tolerance and not found:
                    traces, found = some, True
                    if not off:
                        return some, terms
            if not found and best is not None:
                traces = best[1]
    if best is None:
        assert refused is not None
        raise refused
    return best[1:]


def _sent(names: set[str], traces: Mapping[str, Trace], units: int) -> dict[str, str]:
    """What y1, y2, y3 must be; raises where two names claim one of them."""
    sent: dict[str, str] = {}

    def claim(variable: str, what: str) -> None:
        if variable in sent and sent[variable] != what:
            raise RuleError(
                "post-trace-sent",
                f"{variable} of a three-factor rule cannot be {sent[variable]} and {what} at once",
            )
        sent[variable] = what

    for name in sorted(names):
        if name in SIGNED:
            plus, minus = SIGNED[name]
            claim(plus, f"{name} above 0, 1.0 as {units}")
            claim(minus, f"-{name} below 0, 1.0 as {units}")
        elif name.startswith("post_trace"):
            trace = _declared(name, traces)
            claim(NAMES[name], f"{name}: {trace.impulse} a spike, tau {trace.tau:g} steps")
        elif name.startswith("factor"):
            claim(NAMES[name], f"{name}, 1.0 as {units}")
    return dict(sorted(sent.items()))


# --- the language -------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Atom:
    """A variable by its name in the language, plus a constant in its own units; or ``every``."""

    name: str
    constant: float = 0.0
    sign: bool = False
    every: int = 0

    def __str__(self) -> str:
        if self.every:
            return f"every({self.every})"
        text = f"{self.name} {'+' if self.constant > 0 else '-'} {abs(self.constant):g}"
        text = text if self.constant else self.name
        return f"sign({text})" if self.sign else f"({text})" if self.constant else text


@dataclass(frozen=True)
class _Sum:
    """One term of a sum: a coefficient and its atoms."""

    coefficient: float
    atoms: tuple[_Atom, ...] = ()


def _parse(text: str) -> dict[str, list[_Sum]]:
    """Each target's terms."""
    reader, found = Reader(text), dict[str, list[_Sum]]()
    if reader.kind == "end":
        raise RuleError("target", "it is empty: write dw = …")
    while reader.kind != "end":
        if reader.kind != "name" or reader.text not in ("dw", "dd", "dt"):
            before = "+, -, *, / or " if found else ""
            raise reader.wrong(f"{before}dw =, dd = or dt =")
        target = reader.next()
        if target in found:
            raise RuleError("target", f"{target} is said twice: write one sum")
        reader.need("=")
        found[target] = [term for term in _sum(reader) if term.coefficient]
        if not found[target]:
            raise RuleError("target", f"{target} = 0 changes nothing: leave it out")
    return {target: found[target] for target in ("dw", "dd", "dt") if target in found}


def _sum(reader: Reader) -> list[_Sum]:
    terms: list[_Sum] = []
    sign = reader.take("+", "-")
    while True:
        more = _terms(reader)
        terms += [_Sum(-t.coefficient if sign == "-" else t.coefficient, t.atoms) for t in more]
        if len(terms) > TERMS_MAX:
            raise RuleError("syntax", f"more than {TERMS_MAX} terms")
        sign = reader.take("+", "-")
        if sign is None:
            return _together(terms)


def _together(terms: Sequence[_Sum]) -> list[_Sum]:
    """Terms of the same atoms as one."""
    found: dict[tuple[_Atom, ...], float] = {}
    for term in terms:
        key = tuple(sorted(term.atoms, key=str))
        found[key] = _finite(found.get(key, 0.0) + term.coefficient)
    return [_Sum(coefficient, atoms) for atoms, coefficient in found.items()]


def _terms(reader: Reader) -> list[_Sum]:
    """A product, multiplied out."""
    found = _primary(reader)
    while (sign := reader.take("*", "/")) is not None:
        other = _primary(reader)
        if sign == "/":
            if len(other) != 1 or other[0].atoms or not other[0].coefficient:
                raise RuleError("syntax", "only numbers other than 0 can be divided by")
            other = [_Sum(1 / other[0].coefficient)]
        if len(found) * len(other) > TERMS_MAX:
            raise RuleError("syntax", f"more than {TERMS_MAX} terms")
        found = [
            _Sum(_finite(a.coefficient * b.coefficient), a.atoms + b.atoms)
            for a in found
            for b in other
        ]
        if any(len(term.atoms) > FACTORS_MAX for term in found):
            raise RuleError("syntax", f"a product of more than {FACTORS_MAX} factors")
    return found


def _finite(number: float) -> float:
    if not math.isfinite(number):
        raise RuleError("syntax", "a number is too large")
    return number


def _primary(reader: Reader) -> list[_Sum]:
    if (sign := reader.take("+", "-")) is not None:
        reader.deeper()
        found = [_Sum(-t.coefficient if sign == "-" else t.coefficient, t.atoms)
                 for t in _primary(reader)]  # fmt: skip
        reader.depth -= 1
        return found
    if reader.kind == "number":
        number = _finite(float(reader.next()))
        if reader.take("^"):
            negative = reader.take("-", "+") == "-"
            if reader.kind != "number" or not reader.text.isdecimal() or len(reader.text) > 3:
                raise reader.wrong("a whole exponent")
            exponent = int(reader.next())
            if number == 0 and negative:
                raise RuleError("syntax", "0 has no negative power")
            try:
                number = _finite(number ** (-exponent if negative else exponent))
            except OverflowError:
                raise RuleError("syntax", "a number is too large") from None
        return [_Sum(number)]
    if reader.take("("):
        found = _brackets(reader)
        atom = _shifted(found)
        return found if atom is None else [atom]
    if reader.kind != "name":
        raise reader.wrong("a number, a name or (")
    name = reader.next()
    if name == "every":
        return [_Sum(1.0, (_every(reader),))]
    if name == "sign":
        reader.need("(")
        atom = _shifted(found := _brackets(reader))
        if atom is None and len(found) == 1 and len(found[0].atoms) == 1:
            atom = found[0]
        if atom is None or NAMES.get(atom.atoms[0].name) not in ("w", "d", "t"):
            raise RuleError(
                "sign-of-trace", "sign(…) takes weight, delay or tag, plus or minus a number"
            )
        inner = atom.atoms[0]
        if inner.sign:
            raise RuleError("syntax", "a sign of a sign")
        return [
            _Sum(math.copysign(1.0, atom.coefficient), (_Atom(inner.name, inner.constant, True),))
        ]
    if name not in NAMES and name not in SIGNED:
        raise RuleError("unknown-name", f"{name}: a rule knows {', '.join(LANGUAGE)}")
    return [_Sum(1.0, (_Atom(name),))]


def _brackets(reader: Reader) -> list[_Sum]:
    reader.deeper()
    found = _sum(reader)
    reader.need(")")
    reader.depth -= 1
    return found


def _shifted(terms: Sequence[_Sum]) -> _Sum | None:
    """``c·v + k`` as ``c · (v + k/c)``, one factor of Lava's, if v is no event; or None."""
    if len(terms) != 2:
        return None
    numbers = [t for t in terms if not t.atoms]
    others = [t for t in terms if len(t.atoms) == 1]
    if len(numbers) != 1 or len(others) != 1 or not others[0].coefficient:
        return None
    atom, c = others[0].atoms[0], others[0].coefficient
    if atom.every or atom.sign or NAMES.get(atom.name) in (None, "x0", "y0"):
        return None
    return _Sum(c, (_Atom(atom.name, _finite(atom.constant + numbers[0].coefficient / c)),))


def _every(reader: Reader) -> _Atom:
    reader.need("(")
    number = reader.next() if reader.kind == "number" else ""
    reader.need(")")
    epochs = int(number) if number.isdecimal() and len(number) <= DIGITS_MAX else 0
    if epochs not in [2**k for k in range(EVERY_MAX + 1)]:
        said = number if len(number) <= DIGITS_MAX else f"{number[:DIGITS_MAX]}…"
        raise RuleError(
            "u-name", f"every({said}): a number of epochs that is a power of 2, 1..{2**EVERY_MAX}"
        )
    return _Atom("every", every=epochs)


# --- to integers --------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Scale:
    """Integers of the chip for 1.0 of each variable."""

    traces: Mapping[str, Trace]
    units: int

    def of(self, name: str) -> int:
        if name in SIGNED or name.startswith("factor"):
            return self.units
        return _declared(name, self.traces).impulse if name in TRACE_NAMES else 1


def _declared(name: str, traces: Mapping[str, Trace]) -> Trace:
    if name not in traces:
        raise RuleError("trace-undeclared", f"{name} needs its time constant: Trace(tau=…)")
    return traces[name]


def _compile(
    target: str, term: _Sum, scale: _Scale, decimation: int, tolerance: float, sent: bool
) -> Term:
    text = " * ".join([f"{term.coefficient:.4g}", *map(str, term.atoms)])
    try:
        return _term(target, text, term, scale, decimation, tolerance, sent)
    except RuleError as error:
        said = str(error).removeprefix("learning rule: ").removesuffix(f" [{error.rule}]")
        raise RuleError(error.rule, f"{target}: {text}: {said}") from None


def _term(
    target: str, text: str, term: _Sum, scale: _Scale, decimation: int, tolerance: float, sent: bool
) -> Term:
    events = sorted({NAMES[a.name] for a in term.atoms if NAMES.get(a.name) in ("x0", "y0")})
    decimated = any(a.every > 1 for a in term.atoms)
    if not events and not any(a.every for a in term.atoms):
        raise RuleError(
            "dependency-missing", "it says not when: multiply it with pre, post or every(n)"
        )
    # Lava's dependency is one of them; others are factors of one bit.
    when = "u" if decimated or not events else events[0]
    every = (decimation if decimated else 1).bit_length() - 1 if when == "u" else None
    factors = [Factor(event) for event in events if event != when]
    signed: str | None = None
    units = 1.0
    for atom in term.atoms:
        if atom.every or NAMES.get(atom.name) in ("x0", "y0"):
            continue
        units *= 1 if atom.sign else scale.of(atom.name)
        if atom.name in SIGNED:
            if signed is not None or atom.constant:
                raise RuleError(
                    "factors", f"{atom.name} has a sign: it can stand once in a term, by itself"
                )
            signed = atom.name
        else:
            factors.append(_factor(atom, scale.of(atom.name)))
    halves = SIGNED[signed] if signed else (None,)
    for variable in halves:
        more = () if variable is None else (Factor(variable),)
        shift = Product(when, 1, 0, (*factors, *more), every).shift
    wanted = term.coefficient * 2.0**shift / units
    choice = _nearest(wanted, tolerance)
    compiled = sum(m * 2.0**e for m, e in choice)
    error = compiled / wanted - 1
    products = tuple(
        Product(when, -m if k else m, e, (*factors, *(() if v is None else (Factor(v),))), every)
        for k, v in enumerate(halves)
        for m, e in choice
    )
    largest = max(p.largest(sent) / 2**p.shift * 2.0**p.exponent for p in products) * len(choice)
    # Of a third factor's two halves one is 0, and 0 is not floored.
    drift = sum(p.drift for p in products) / len(halves)
    return Term(
        target,
        text,
        wanted=term.coefficient,
        compiled=term.coefficient * (1 + error),
        error=error,
        products=products,
        drift=drift,
        largest=largest,
        names=frozenset(atom.name for atom in term.atoms),
    )


def _factor(atom: _Atom, units: int) -> Factor:
    constant = atom.constant * units
    if abs(constant) >= CONSTANT_MAX + 0.5:
        raise RuleError(
            "constant-range", f"{atom}: {constant:.4g} on the chip, use ±{CONSTANT_MAX}"
        )
    whole = round(constant)
    if NAMES[atom.name] in ("w", "d", "t") and constant != whole:
        raise RuleError("constant-fraction", f"{atom}: beside {atom.name} use a whole number")
    if constant and abs(whole - constant) > ERROR_MAX * abs(constant):
        raise RuleError(
            "constant-fraction", f"{atom}: {constant:.3g} on the chip is no whole number, nor near"
        )
    return Factor(NAMES[atom.name], whole, atom.sign)


@cache
def _literals() -> tuple[tuple[float, int, int], ...]:
    """Every m·2^e above 0 once, with its largest m, in rising order."""
    best: dict[float, tuple[int, int]] = {}
    for e in range(EXPONENT_MIN, EXPONENT_MAX + 1):
        for m in range(1, MANTISSA_MAX + 1):
            if best.get(m * 2.0**e, (0, 0))[0] < m:
                best[m * 2.0**e] = (m, e)
    return tuple((value, *best[value]) for value in sorted(best))


def _nearest(wanted: float, tolerance: float) -> tuple[tuple[int, int], ...]:
    """m and e of the literal nearest to ``wanted``, or, where that is off by more than the
    tolerance, of two whose sum is nearer."""
    size, sign = abs(wanted), -1 if wanted < 0 else 1
    literals = _literals()
    value, m, e = _literal(size)
    error = abs(value - size) / size if 0 < size < math.inf else math.inf
    choice: tuple[tuple[int, int], ...] = ((sign * m, e),)
    if tolerance < error < math.inf:
        best = error / 2  # two products are floored twice: only for what is worth it
        for value, m, e in literals:
            rest = size - value
            other, m2, e2 = _literal(abs(rest))
            off = abs(value + math.copysign(other, rest) - size) / size
            if off < best:
                best, error = off, off
                choice = ((sign * m, e), (sign * int(math.copysign(m2, rest)), e2))
    if error > ERROR_MAX:
        low, high = literals[0][0], literals[-1][0]
        advice = (
            "give the traces more room, or let it act seldom: 2^k times as much, times every(2^k)"
            if size < low
            else "give the traces less room"
        )
        raise RuleError(
            "coefficient-range",
            f"on the chip its coefficient would be {wanted:.3g}, and those go from {low:.3g} to "
            f"{high:.5g}: {advice}",
        )
    return choice


def _literal(size: float) -> tuple[float, int, int]:
    """The literal nearest to a size above 0."""
    literals = _literals()
    at = bisect(literals, (size,))
    return min(literals[max(0, at - 1) : at + 1], key=lambda x: abs(x[0] - size))
