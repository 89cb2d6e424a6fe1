"""The rule compiler and the compiled synapses: against Lava's own parser and model, one number
after the other, and against what a rule says in real units."""

from __future__ import annotations

import contextlib
import json
import os
from itertools import product as pairs

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rules_model import by_hand, deep_case, lava_reads, random_case

from cli.main import main
from lava_export import supervise
from onchip import connection
from onchip.connection import Synapses
from onchip.draws import ROUNDINGS
from onchip.rules import RuleError, Trace, check_rule, compile_rule, compiler, read_rule

CASES = max(60, int(os.environ.get("PUMICE_SOAK", "0")))
FIRST = 0 if CASES == 60 else int(np.random.default_rng().integers(2**31))
STDP = {"x1": (16, 10.0), "y1": (16, 10.0)}
TRACES = {"pre_trace": Trace(10), "post_trace": Trace(10)}
SCALED = {"pre_trace": Trace(10, room=2), "post_trace": Trace(10, room=4)}


def refused(call, name):
    with pytest.raises(RuleError) as caught:
        call()
    assert caught.value.rule == name
    assert f"[{name}]" in str(caught.value) and "\n" not in str(caught.value)


# --- Lava's strings -----------------------------------------------------------------------------

READ = [
    "x0*y1",
    "-2*x0*y1 + 2*y0*x1",
    "2^-3*u0*x1*y1 - 3*2^-7*u0*x1*y2",
    "u3*w*(x1 - 16)*sgn(t)",
    "-8*y0 + 16*2^-3*x0*(w-64)",
    "x0*(64 - w) - (3)*x0*y0*(y1+2^4)",
    "12*2^2*x0*sgn(w - 3*2^2)*2^-1",
    "y0*x0*x1*(-2)*d",
    "-8*2^8*x0",
    "y0 * (x0 + 1) * t",
]
MISREAD = {
    "u12*x1": ("u-name", "times 2"),
    "x12*x0": ("unknown-name", "times 2"),
    "x0*(3*w)": ("bracket", "w plus 3"),
    "x0*(-w)": ("bracket", "sign lost"),
    "x0*sgn(-w)": ("bracket", "sign lost"),
    "x0*(w - 64 + 2)": ("bracket", "2 lost"),
    "x0*(y0)": ("bracket", "factor lost"),
    "x0*(w + 2^-1)": ("constant-fraction", "fraction"),
    "x0*2*y1 - u0*-u0*w": ("sign-in-product", "an own product"),
}
FAILS = {
    "0.5*x0": "decimal",
    "x0*-2*y1": "sign-in-product",
    "x1*y1": "dependency-missing",
    "9*x0": "mantissa-range",
    "2^9*x0": "exponent-range",
    "x0*u3": "u-name",
    "x0*sgn(x1)": "sign-of-trace",
    "x0*foo": "unknown-name",
    "x0*(w": "syntax",
    "x0*3^2": "syntax",
    "u0*w + u1*w": "u-mixed",
}


@pytest.mark.lava
def test_reads_what_lava_reads():
    """Every product, mantissa, exponent and factor; and what is refused is misread, or fails."""
    said = supervise.run(lava_reads, deadline=100, texts=[*READ, *MISREAD, *FAILS])["read"]
    for text, theirs in zip(READ, said, strict=False):
        ours = [
            [
                p.when,
                p.mantissa,
                p.exponent,
                p.every,
                [[f.variable, f.constant, f.sign] for f in p.factors],
            ]
            for p in read_rule(dw=text, **STDP, strict=False).dw
        ]
        assert ours == theirs, text
    misread = dict(zip(MISREAD, said[len(READ) :], strict=False))
    w = [["w", 0, False]]
    assert misread["u12*x1"] == [["u", 2, 0, 1, [["x1", 0, False]]]]
    assert misread["x12*x0"] == [["x0", 2, 0, None, [["x1", 0, False]]]]
    assert misread["x0*(3*w)"] == [["x0", 1, 0, None, [["w", 3, False]]]]
    assert misread["x0*(-w)"] == [["x0", 1, 0, None, w]]
    assert misread["x0*sgn(-w)"] == [["x0", 1, 0, None, [["w", 0, True]]]]
    assert misread["x0*(w - 64 + 2)"] == [["x0", 1, 0, None, [["w", -64, False]]]]
    assert misread["x0*(y0)"] == [["x0", 1, 0, None, []]]
    assert misread["x0*(w + 2^-1)"] == [["x0", 1, 0, None, [["w", 0.5, False]]]]
    assert len(misread["x0*2*y1 - u0*-u0*w"]) == 3
    assert [said[-len(FAILS) + i] for i in range(len(FAILS))] == ["fails"] * len(FAILS)
    for text, (name, _) in MISREAD.items():
        refused(lambda text=text: read_rule(dw=text, **STDP), name)


@pytest.mark.parametrize(
    ("text", "name"), [*FAILS.items(), ("x0*", "syntax"), ("x0x1", "unknown-name")]
)
def test_what_lava_does_not_read(text, name):
    refused(lambda: read_rule(dw=text, **STDP), name)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({}, "target"),
        ({"dw": "x0*y1", "x1": (16, 10), "y1": (200, 10)}, "impulse-range"),
        ({"dw": "x0*y1", "y1": (16.5, 10)}, "fractional-impulse"),
        ({"dw": "x0*y1", "y1": (16, 0)}, "trace-tau"),
        ({"dw": "x0*y1", "y1": (16, 65535)}, "trace-tau"),
        ({"dw": "x0*y1", "y1": (16, float("nan"))}, "trace-tau"),
        ({"dw": "x0*y1", "y1": (16, 10), "factors": 3}, "post-trace-sent"),
        ({"dw": "x0*y1", "y1": (16, 10), "epoch": 64}, "epoch-range"),
        ({"dw": "x0*y1", "y1": (16, 10), "factors": 1}, "factors"),
        ({"dw": "7*x0*w*w*w*t"}, "product-overflow"),
        ({"dw": "x0*(w + 256)"}, "constant-range"),
        ({"dw": "x0*(x1 + 64)", "x1": (16, 10)}, "factor-clips"),
        ({"dt": "u2*t", "dw": "u1*t"}, "u-mixed"),
        ({"dw": "1" * 5000 + "*x0"}, "mantissa-range"),
        ({"dw": "999999999*" * 900 + "x0"}, "mantissa-range"),
        ({"dw": "2^" + "1" * 5000 + "*x0"}, "exponent-range"),
        ({"dw": "x0*(w + " + "1" * 5000 + ")"}, "mantissa-range"),
        ({"dw": "x0" + "*x1" * 200, "x1": (16, 10)}, "product-overflow"),
        ({"dw": "x0*x1", "x1": (16, 10, 3)}, "shape"),
        ({"dw": "x0*x1", "x1": (16,)}, "shape"),
        ({"dw": "x0*w", "epoch": float("nan")}, "epoch-range"),
    ],
)
def test_rules_that_do_something_else(options, name):
    refused(lambda: read_rule(**options), name)


def test_a_graded_post_spike_needs_three_factors():
    rule = read_rule(dw="x0*y1", **STDP)
    check_rule(rule)
    refused(lambda: check_rule(rule, graded_post=True), "graded-post")


def test_overflow_is_refused_just_where_it_happens():
    """At the extremes of all factors, in 64 bits beside 32."""
    for text, most in {"7*x0*w*w*w*t": 7 * 128**3 * 257, "3*x0*w*w*w*t": 3 * 128**3 * 257}.items():
        if most < 2**31:
            read_rule(dw=text)
        else:
            refused(lambda text=text: read_rule(dw=text), "product-overflow")
    read_rule(dw="7*u0*x1*x1*y1*y1", **STDP)  # 7 · 127^4
    refused(lambda: read_rule(dw="u0*x1*x1*y1*y1*x1", **STDP), "product-overflow")


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.text("xyuwdt0123 +-*/^().=pre_ostagn\n", max_size=30))
def test_any_text_is_read_or_refused(text):
    for call in (
        lambda: read_rule(dw=text, x1=(9, 9), y1=(9, 9)),
        lambda: compile_rule(text, traces=TRACES),
        lambda: compile_rule("dw = " + text, traces=TRACES),
    ):
        with contextlib.suppress(RuleError):
            call()


SIGNS = st.sampled_from(["*", "*", "*", "*", "+", "-", "/", "^", ""])
LONG = "1" * 5000
WORDS = {
    "lava": ["x0", "x1", "y0", "y1", "y2", "w", "t", "u0", "u3", "u12", "sgn(w)", "sgn(", "(", ")",
             "(w-3)", "2", "3", "7", "2^-7", "2^99", "999999999", "1.5", LONG, "x1*y1" + "*x1" * 70,
             "9*" * 60 + "2", "\u0663"],
    "ours": ["pre", "post", "pre_trace", "post_trace", "weight", "tag", "reward", "every(2)", "2",
             "sign(tag)", "sign(", "every(", "(", ")", "(pre_trace-0.5)", "(tag-1e308)", "0.8",
             "1e308", "1e-323", "1e-200", "999", LONG, "post" + "*pre_trace" * 30,
             "weight" + "*weight" * 70, "\ndt = pre", "\u0663"],
}  # fmt: skip


def phrases(kind: str, first: str):
    word = st.tuples(st.sampled_from(WORDS[kind]), SIGNS).map("".join)
    return st.lists(word, max_size=6).map(lambda words: (first + "".join(words)).strip("*+-/^"))


@settings(max_examples=300, deadline=None, derandomize=True)
@given(phrases("lava", "x0*"), phrases("lava", ""), phrases("ours", "dw = pre * "))
def test_any_phrase_is_read_or_refused(begun, lava, ours):
    """Of whole words, numbers at the ends of what numbers can be among them."""
    for call in (
        lambda: read_rule(dw=begun, x1=(9, 9), y1=(9, 9)),
        lambda: read_rule(dw=lava, x1=(9, 9), y1=(9, 9)),
        lambda: compile_rule(ours, traces=SCALED),
    ):
        with contextlib.suppress(RuleError):
            for term in getattr(call(), "terms", ()):
                assert np.isfinite([term.wanted, term.compiled, term.error, term.largest]).all()


def test_brackets_without_end():
    refused(lambda: compile_rule("dw = pre * " + "(" * 5000), "syntax")
    refused(lambda: compile_rule("dw = pre * " + "-" * 5000 + "1"), "syntax")
    refused(lambda: read_rule(dw="(" * 9999), "syntax")
    refused(lambda: compile_rule("dw = " + "(pre + post + weight)*" * 9 + "1"), "syntax")


# --- the compiler -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "options", "name"),
    [
        ("dw = pre_trace", {}, "dependency-missing"),
        ("dw = 1e9 * pre", {}, "coefficient-range"),
        ("dw = 1e-9 * pre", {}, "coefficient-range"),
        ("dw = pre * foo", {}, "unknown-name"),
        ("dw = pre * post_trace2", {}, "trace-undeclared"),
        ("dw = pre * every(3)", {}, "u-name"),
        ("dw = weight * every(2) + pre * every(4)", {}, "u-mixed"),
        ("dw = pre * sign(pre_trace)", {}, "sign-of-trace"),
        ("dw = pre * (weight - 0.5)", {}, "constant-fraction"),
        ("dw = pre * (weight - 300)", {}, "constant-range"),
        ("dw = pre * reward", {"factors": 2}, "factors"),
        ("dw = pre * reward * reward", {}, "factors"),
        ("dw = pre * reward + pre * error", {}, "post-trace-sent"),
        ("dw = pre * reward * post_trace2", {"traces": {"post_trace2": Trace(5)}},
         "post-trace-sent"),
        ("dw = pre - pre", {}, "target"),
        ("dw = pre dw = post", {}, "target"),
        ("", {}, "target"),
        ("dw = pre / pre", {}, "syntax"),
        ("dw = pre_trace^2", {}, "syntax"),
        ("dw = 1e999 * pre", {}, "syntax"),
        ("dw = 0^-1 * pre", {}, "syntax"),
        ("dw = 1e-323*pre_trace*post", {}, "coefficient-range"),
        ("dw = 1e308*pre_trace*post + 1e308*pre_trace*post", {}, "syntax"),
        ("dw = post" + "*pre_trace" * 200, {}, "syntax"),
        ("dw = pre*1e308" + "*weight" * 60, {}, "coefficient-range"),
        ("dw = pre*(pre_trace - 1e308)", {}, "constant-range"),
        ("dw = pre*every(" + "1" * 5000 + ")", {}, "u-name"),
    ],
)  # fmt: skip
def test_refusals(text, options, name):
    refused(lambda: compile_rule(text, **{"traces": TRACES, **options}), name)


def test_a_trace_that_is_none():
    for tau in (0, 0.5, 65535, float("inf"), float("nan")):
        refused(lambda tau=tau: Trace(tau), "trace-tau")
    refused(lambda: Trace(5, room=0.5), "impulse-range")


def test_the_impulse_is_all_of_the_room():
    """127 / (127 / i) is a little less than i for 13, 26 and 52."""
    for impulse in range(1, 128):
        assert Trace(5, room=127 / impulse).impulse == impulse
    assert [Trace(5, room=room).impulse for room in (1, 2, 3, 4, 127)] == [127, 63, 42, 31, 1]


class TestCoefficients:
    EVERY = tuple((m, e) for m, e in pairs(range(-7, 8), range(-7, 9)) if m)

    @settings(max_examples=60, deadline=None, derandomize=True)
    @given(st.floats(0.006, 1900), st.sampled_from([-1, 1]))
    def test_nearest(self, size, sign):
        """Against all of m and e; the sum of two against all pairs."""
        wanted = sign * size
        values = np.array([m * 2.0**e for m, e in self.EVERY])
        ((m, e),) = compiler._nearest(wanted, np.inf)
        assert abs(m * 2.0**e - wanted) == np.abs(values - wanted).min()
        finer = [k for k in range(1, 8) if k * 2.0**-7 <= abs(m) * 2.0**e]
        assert abs(m) >= 4 or e == -7 or m * 2 % 1 or abs(m) * 2 > 7, finer
        two = compiler._nearest(wanted, 0.0)
        best = np.abs(values[:, None] + values[None, :] - wanted).min()
        single = np.abs(values - wanted).min()
        if best < single / 2:
            assert abs(sum(m * 2.0**e for m, e in two) - wanted) == pytest.approx(best, abs=1e-9)
        else:
            assert len(two) == 1

    def test_report(self):
        compiled = compile_rule("dw = 0.8*pre_trace*post - 0.9*pre*post_trace", traces=TRACES)
        for term, trace in zip(compiled.terms, ("x1", "y1"), strict=True):
            impulse = compiled.rule.traces[trace].impulse
            scale = sum(p.scale for p in term.products) * impulse
            assert term.compiled == pytest.approx(scale)
            assert term.error == pytest.approx(scale / term.wanted - 1)
            assert abs(term.error) <= 0.02
        assert "0.8 * post * pre_trace" in compiled.table()
        assert compiled.drift == 0  # 11 bits: nothing is cut

    def test_raw_strings_are_what_is_run(self):
        compiled = compile_rule(
            "dt = 0.5*pre_trace*post - tag*every(4)/16\n"
            "dw = 0.05*tag*reward*every(4) - 2^-3*(weight-64)*pre*sign(weight)",
            traces=TRACES, epoch=3,
        )  # fmt: skip
        assert read_rule(**compiled.rule.as_dict(), strict=False) == compiled.rule
        assert compiled.rule.text("dt").endswith("*u2*t")
        assert list(compiled.sent) == ["y2", "y3"]
        assert {w.rule for w in compiled.warnings} >= {"floor-drift", "epoch-spikes"}


def changed(compiled, pre, post, third=None, start=0, out=400):
    """What a rule changes on average, in real numbers: every synapse rounded for itself."""
    synapses = Synapses(np.full((out, len(pre[0])), start), compiled.rule, rounding="chip-like")
    post = np.repeat(np.asarray(post)[:, None], out, axis=1)
    third = None if third is None else np.repeat(np.asarray(third)[:, :, None], out, axis=2)
    synapses.run(np.asarray(pre, dtype=bool), post.astype(bool), third)
    moved = synapses.weight - start
    return moved.mean(), 4 * moved.std() / np.sqrt(moved.size)


class TestRealUnits:
    """One pair of spikes changes a weight by what the rule says, traces and shifts and all."""

    @pytest.mark.parametrize("gap", [0, 1, 4, 9])
    def test_pairs(self, gap):
        compiled = compile_rule("dw = 0.8*pre_trace*post - 0.9*pre*post_trace", traces=TRACES)
        pre, post = np.zeros((12, 30)), np.zeros(12)
        pre[1], post[1 + gap] = 1, 1
        mean, off = changed(compiled, pre, post)
        wanted = 0.8 * np.exp(-gap / 10) - 0.9 * (gap == 0)
        assert abs(mean - wanted) < off + 0.03
        pre, post = np.roll(pre, gap, axis=0), np.roll(post, -gap)
        if gap:
            mean, off = changed(compiled, pre, post)
            assert abs(mean + 0.9 * np.exp(-gap / 10)) < off + 0.03

    @pytest.mark.parametrize("reward", [1.0, -1.0, -0.5])
    def test_reward(self, reward):
        """x1·y2 is of 18 bits: what Lava cuts of it is made up for."""
        text = "dw = 1.5*pre_trace*reward*every(1)"
        compiled = compile_rule(text, traces=TRACES, units=100)
        assert compiled.rule.dw[0].shift == 3
        pre, third = np.zeros((6, 30)), np.zeros((6, 3), dtype=int)
        pre[1] = 1
        third[4] = 0, max(round(100 * reward), 0), max(round(-100 * reward), 0)
        mean, off = changed(compiled, pre, np.zeros(6), third)
        drift = sum(t.drift for t in compiled.terms)
        assert abs(mean - 1.5 * reward * np.exp(-3 / 10) + drift) < off + 0.03 + drift

    def test_a_constant_beside_a_trace(self):
        compiled = compile_rule("dw = 2 * pre * (pre_trace - 0.25)", traces=TRACES)
        pre = np.zeros((4, 30))
        pre[1] = pre[3] = 1
        mean, off = changed(compiled, pre, np.zeros(4))
        assert abs(mean - 2 * (0.75 + np.exp(-2 / 10) + 0.75)) < off + 0.1

    def test_decay_towards_a_weight(self):
        compiled = compile_rule("dw = (20 - weight) * pre / 8")
        for start, wanted in ((100, -10.0), (-60, 10.0), (20, 0.0)):
            mean, off = changed(compiled, np.ones((1, 30)), np.zeros(1), start=start)
            assert abs(mean - wanted) <= off + 1e-9

    def test_drift(self):
        """What flooring takes away, over all that two traces can be."""
        for m in (-7, -4, -3, 2, 5):
            rule = read_rule(dw=f"{m}*2^-4*u0*x1*y1", **STDP)
            (product,) = rule.dw
            x, y = np.meshgrid(np.arange(128), np.arange(128))
            cut = (m * x * y >> product.shift) * 2.0**-4
            off = (cut - m * x * y * 2.0 ** (-4 - product.shift)).mean()
            assert off == pytest.approx(-product.drift, rel=0.03)
            assert check_rule(rule)[0].size == product.drift


# --- the compiled synapses ----------------------------------------------------------------------


@pytest.mark.lava
@pytest.mark.timeout(3600 if CASES > 60 else 300)
def test_any_rule_equals_lava():
    """Weights, tags, all traces and what is sent, after every step, of random rules."""
    found = [*(random_case(FIRST + i) for i in range(CASES)), deep_case()]
    cases = [{"rule": rule.as_dict(), **options} for rule, options, _ in found]
    arrays = {f"{k}{i}": v for i, (*_, told) in enumerate(found) for k, v in told.items()}
    theirs = supervise.run(by_hand, deadline=3000, cases=cases, **arrays)
    moved = 0
    for i, (rule, options, told) in enumerate(found):
        synapses = Synapses(told["weight"], rule, tag=told["tag"], delay=told["delay"], **options)
        third = told["third"] if rule.factors == 3 else None
        record = synapses.run(told["pre"], told["post"], third, record=True)
        ours = {
            "weights": record.weight, "tag_1": record.tag, "tag_2": record.delay,
            "x": record.x, "y": record.y, "a": record.sent,
        }  # fmt: skip
        for name, values in ours.items():
            np.testing.assert_array_equal(
                values, theirs[f"{name}{i}"], f"case {FIRST + i}: {name} of {rule.as_dict()}"
            )
        moved += (synapses.weight != told["weight"]).mean()
    assert moved > CASES / 2
    tags = theirs[f"tag_1{CASES}"]
    assert (tags == -257).any() and (tags[1:][tags[:-1] == -257] == -256).any()


def some(seed=0, steps=300, inputs=40, out=30):
    rng = np.random.default_rng(seed)
    pre, post = (rng.random((steps, n)) < 0.15 for n in (inputs, out))
    return pre, post, rng.integers(-60, 61, (out, inputs))


RULES = [
    read_rule(dw="2^-5*y0*x1 - 2^-5*x0*y1", **STDP),
    read_rule(dw="2^-5*y0*x1 - 2^-5*x0*y1", **STDP, epoch=3),
    read_rule(dw="2^-6*y0*x1 - 2^-6*x0*y1*(64 - w)", dt="2^-3*y0*x1 - 2^-3*u1*t", **STDP, epoch=7),
]


class TestState:
    @pytest.mark.parametrize("rounding", ROUNDINGS)
    @pytest.mark.parametrize("rule", RULES)
    def test_pieces_and_pauses_change_nothing(self, rule, rounding):
        pre, post, weight = some()
        whole = Synapses(weight, rule, rounding=rounding)
        record = whole.run(pre, post, record=True)
        begin, weights = Synapses(weight, rule, rounding=rounding), []
        for part in np.split(np.arange(len(pre)), [1, 2, 100, 101, 250]):
            saved = {k: v.copy() for k, v in begin.state().items()}
            step, begin = begin.step, Synapses(weight * 0, rule, rounding=rounding)
            begin.restore(saved, step)
            weights.append(begin.run(pre[part], post[part], record=True).weight)
        np.testing.assert_array_equal(np.concatenate(weights), record.weight)
        assert (whole.weight != weight).mean() > 0.5

    def test_another_connection(self):
        weight = some()[2]
        one, other = Synapses(weight, RULES[0]), Synapses(weight[1:], RULES[0])
        refused(lambda: other.restore(one.state(), 0), "state")
        refused(lambda: other.restore(Synapses(weight[1:], RULES[2]).state(), 0), "state")

    def test_draws_are_numpys_own(self):
        rng = np.random.default_rng(8)
        numbers = [int(rng.integers(0, 128, size=1, dtype=int)[0]) for _ in range(60)]
        for skip in range(7):
            np.testing.assert_array_equal(connection._bits(8, skip, 50), numbers[skip : skip + 50])


class TestChipLike:
    def test_each_synapse_for_itself(self):
        """Moved by half an LSB: half of the weights move, and which is a matter of chance."""
        rule = read_rule(dw="2^-1*x0")
        moved = [
            Synapses(np.zeros((300, 200), int), rule, rounding="chip-like", seed=seed)
            for seed in (1, 2)
        ]
        for synapses in moved:
            synapses.run(np.ones((1, 200), int), np.zeros((1, 300), int))
            weight = synapses.weight.astype(float)
            assert abs(weight.mean() - 0.5) < 4 * 0.5 / np.sqrt(weight.size)
            for one, other in ((weight[1:], weight[:-1]), (weight[:, 1:], weight[:, :-1])):
                assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 4 / np.sqrt(one.size)
        same = (moved[0].weight == moved[1].weight).mean()
        assert abs(same - 0.5) < 4 * 0.5 / np.sqrt(60000)

    def test_traces_fade_on_average(self):
        rule = read_rule(dw="2^-7*y0*x1", x1=(100, 9))
        synapses = Synapses(np.zeros((2, 4000), int), rule, rounding="chip-like")
        pre = np.zeros((11, 4000), int)
        pre[0] = 1
        trace = synapses.run(pre, np.zeros((11, 2), int), record=True).x[-1, 0]
        assert abs(trace.mean() - 100 * np.exp(-10 / 9)) < 4 * trace.std() / np.sqrt(4000)
        assert trace.std() > 0.5

    def test_not_lava(self):
        pre, post, weight = some()
        one, other = (Synapses(weight, RULES[0], rounding=r) for r in ROUNDINGS)
        one.run(pre, post)
        other.run(pre, post)
        assert (one.weight != other.weight).any()


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"pre": -1}, "negative-payload"),
        ({"pre": 2}, "payload-range"),
        ({"pre": 0.7}, "shape"),
        ({"pre": float("nan")}, "shape"),
        ({"post": 0.7}, "shape"),
        ({"third": np.zeros((5, 3, 4))}, "shape"),
        ({"post": 2}, "graded-post"),
        ({"third": np.zeros((5, 3, 4), int)}, "factors"),
        ({"post": np.zeros((5, 3), int)}, "shape"),
        ({"rule": read_rule(dw="2^-3*u0*x1*y2", x1=(9, 9), factors=3)}, "factors"),
        (
            {
                "rule": read_rule(dw="2^-3*u0*x1*y2", x1=(9, 9), factors=3),
                "third": np.full((5, 3, 4), 128),
            },
            "factor-range",
        ),
        ({"weight": np.full((4, 6), 128)}, "weight-range"),
        ({"weight": np.zeros((4, 6))}, "shape"),
        ({"rounding": "up"}, "rounding"),
        ({"graded": "no"}, "graded"),
        ({"exponent": 8}, "weight-range"),
        ({"tag": np.zeros((6, 4), int)}, "shape"),
        ({"tag": np.full((4, 6), 256)}, "weight-range"),
    ],
)
def test_what_synapses_refuse(change, name):
    given = {"weight": np.zeros((4, 6), int), "rule": RULES[0], **change}
    inputs = {"pre": (5, 6), "post": (5, 4)}
    pre, post = (
        given.pop(k) if isinstance(given.get(k), np.ndarray) else np.full(s, given.pop(k, 0))
        for k, s in inputs.items()
    )
    third = given.pop("third", None)
    refused(
        lambda: Synapses(given.pop("weight"), given.pop("rule"), **given).run(pre, post, third),
        name,
    )


class TestCommand:
    """``pumice rule``."""

    def test_compiles(self, capfd):
        rule = "dw = 0.8 * pre_trace * post - 0.9 * pre * post_trace"
        traces = ("--trace", "pre_trace=10", "--trace", "post_trace=10")
        assert main(["rule", rule, *traces, "--json"]) == 0
        answer = json.loads(capfd.readouterr().out)
        assert [term["wanted"] for term in answer["terms"]] == [0.8, -0.9]
        for term in answer["terms"]:
            assert abs(term["compiled"] / term["wanted"] - 1) == pytest.approx(abs(term["error"]))

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["dw = 1e-9 * pre"], "coefficient-range"),
            (["dw = pre", "--trace", "pre_trace"], "--trace pre_trace: a name and steps"),
            (["dw = 0.5 * pre_trace * post"], "trace-undeclared"),
        ],
    )
    def test_refuses_by_name(self, capfd, arguments, words):
        assert main(["rule", *arguments]) == 1
        said = capfd.readouterr().err
        assert words in said
        assert said.count("\n") == 1
