"""Lava's learning synapse driven by hand, many of them in one child, and rules drawn at random."""

from __future__ import annotations

import numpy as np

from lava_export import supervise
from onchip.connection import GRADED
from onchip.rules import LavaRule, read_rule
from onchip.rules.language import Decay, Factor, Product, RuleError

STEPS, INPUTS, OUT = 60, 7, 6
VARIABLES = ("x1", "x2", "y1", "y2", "y3", "w", "d", "t", "x0", "y0")


class Port:
    """What a model receives: the next of some arrays; what it sends, kept."""

    def __init__(self, values=None):
        self.values, self.sent = None if values is None else iter(values), []

    def recv(self):
        return next(self.values)

    def send(self, value):
        self.sent.append(np.array(value))


def by_hand(folder, *, cases, **arrays):
    """In a child: Lava's model of each case, step by step, without Lava's runtime around it."""
    supervise.prepare_lava()
    from lava.magma.core.learning.constants import GradedSpikeCfg

    from onchip.processes.synapse import EightBitDense, PyEightBitDense

    results = {}
    for number, case in enumerate(cases):
        rule = read_rule(**case["rule"], strict=False)
        pre, post, third, weight, tag, delay = (
            np.array(arrays[f"{name}{number}"])
            for name in ("pre", "post", "third", "weight", "tag", "delay")
        )
        steps = len(pre)
        process = EightBitDense(
            recorded=steps,
            weights=weight,
            tag_1=tag,
            tag_2=delay,
            weight_exp=case["exponent"],
            num_message_bits=0 if case["graded"] is None else 8,
            learning_rule=rule.to_lava(case["seed"]),
            graded_spike_cfg=GradedSpikeCfg(
                0 if case["graded"] is None else GRADED.index(case["graded"])
            ),
        )
        model = PyEightBitDense(process.proc_params)
        for variable in process.vars.members:  # as Lava's builder does
            kind = getattr(PyEightBitDense, variable.name)
            value = variable.init
            if kind.cls is np.ndarray:
                value = np.zeros(variable.shape, dtype=kind.d_type)
                value[:] = variable.init
            setattr(model, variable.name, value)
        model.a_out = Port()
        model.s_in, model.s_in_bap = Port(pre.astype(np.int32)), Port(post)
        for which in range(3):
            setattr(model, f"s_in_y{which + 1}", Port(third[:, which]))
        for step in range(1, steps + 1):
            model.time_step = step
            model.run_spk()
            if model.lrn_guard():
                model.run_lrn()
        for name in ("weights", "tag_1", "tag_2", "x", "y"):
            results[f"{name}{number}"] = model.seen[name]
        results[f"a{number}"] = np.array([*model.a_out.sent[1:], model.a_buff], dtype=np.int32)
    return results


def random_rule(rng):
    """Any rule of the language that does not overflow, with any trace."""
    while True:
        sent = bool(rng.integers(2))
        every = int(rng.integers(3))

        def factor():
            name = str(rng.choice(VARIABLES, p=np.array([4, 2, 4, 2, 1, 2, 1, 2, 0.5, 0.5]) / 19))
            constant = int(rng.integers(-255, 256)) if rng.integers(4) == 0 else 0
            constant = int(rng.integers(-2, 3)) if name in ("x0", "y0") and constant else constant
            return Factor(name, constant, name in ("w", "d", "t") and not rng.integers(3))

        def product(every=every, factor=factor):
            when = str(rng.choice(["x0", "y0", "u"]))
            factors = tuple(factor() for _ in range(rng.choice([0, 1, 1, 1, 2, 2, 3])))
            # A number at which it is felt, and not beyond all bounds.
            mantissa = int(rng.integers(1, 8)) * int(rng.choice([-1, 1]))
            exponent = int(rng.integers(-7, -1 if factors else 9))
            every = every if when == "u" else None
            if factors and when in (f.variable for f in factors):
                factors = ()
            return Product(when, mantissa, exponent, factors, every)

        def products(least):
            return tuple(product() for _ in range(rng.integers(least, 4)))

        def trace():
            if rng.integers(6) == 0:
                return Decay(float(rng.uniform(0, 127)), float(rng.uniform(0.3, 50)))
            tau = float(rng.choice([0, 1, 2, 5, 10, 100, 65535]))
            return Decay(int(rng.integers(0, 128)), tau)

        names = ("x1", "x2") if sent else ("x1", "x2", "y1", "y2", "y3")
        epoch = int(rng.choice([1, 1, 1, 2, 3, 5, 8, 63]))
        try:
            return LavaRule(
                products(1),
                products(0) if rng.integers(3) == 0 else (),
                products(0) if rng.integers(2) else (),
                traces={name: trace() for name in names if rng.integers(5)},
                factors=3 if sent else 2,
                epoch=epoch,
            )
        except RuleError:
            continue


def brief_rule(rng):
    """What most rules are: one product or two of a trace of each side at most, small steps."""
    sent = bool(rng.integers(2))

    def product():
        when = str(rng.choice(["x0", "y0", "u"]))
        names = [str(rng.choice(pair)) for pair in (("x1", "x2"), ("y1", "y2")) if rng.integers(2)]
        mantissa = int(rng.integers(1, 8)) * int(rng.choice([-1, 1]))
        exponent = int(rng.integers(-7, -3 if names else 0))
        factors = tuple(Factor(name) for name in names)
        return Product(when, mantissa, exponent, factors, 1 if when == "u" else None)

    names = ("x1", "x2") if sent else ("x1", "x2", "y1", "y2")
    traces = {n: Decay(int(rng.integers(1, 128)), float(rng.uniform(1, 20))) for n in names}
    if rng.integers(4) == 0:
        traces["x1"] = Decay(float(rng.uniform(1, 127)), 0)
    products = tuple(product() for _ in range(rng.integers(1, 3)))
    return LavaRule(products, traces=traces, factors=3 if sent else 2)


def deep_case():
    """Tags pressed against their lower limit, where Lava's −2^15 − 1 shows: once in 128 phases
    they are −257, and come back by themselves."""
    rng = np.random.default_rng(0)
    rule = read_rule(dw="2^-3*x0*t", dt="-2^8*x0 + 2^-2*y0", strict=False)
    arrays = {
        "pre": (rng.random((600, INPUTS)) < 0.5).astype(int),
        "post": (rng.random((600, OUT)) < 0.02).astype(int),
        "third": np.zeros((600, 3, OUT), dtype=np.int32),
        "weight": rng.integers(-128, 128, (OUT, INPUTS)),
        "tag": np.full((OUT, INPUTS), -256),
        "delay": np.zeros((OUT, INPUTS), dtype=int),
    }
    return rule, {"exponent": 0, "graded": None, "seed": 1}, arrays


def random_case(seed):
    """A rule, and everything that a connection under it is given."""
    rng = np.random.default_rng(seed)
    rule = brief_rule(rng) if seed % 3 == 0 else random_rule(rng)
    graded = str(rng.choice(GRADED)) if rng.integers(3) == 0 else None
    steps = STEPS if rule.epoch < 63 else 140
    busy = rng.uniform(0.05, 0.6, 2)
    high = 2 if graded is None else int(rng.integers(2, 257))
    pre = rng.integers(1, high, (steps, INPUTS)) * (rng.random((steps, INPUTS)) < busy[0])
    third = rng.integers(*((-128, 128) if rng.integers(2) else (0, 128)), (steps, 3, OUT))
    tag = rng.integers(-256, 256, (OUT, INPUTS)) // int(rng.choice([1, 1, 20]))
    if rng.integers(4) == 0:
        tag = np.full((OUT, INPUTS), int(rng.choice([-256, 255])))
    weight = rng.integers(-128, 128, (OUT, INPUTS))
    options = {
        "exponent": int(rng.integers(2)), "graded": graded, "seed": int(rng.integers(1000))
    }  # fmt: skip
    arrays = {
        "pre": pre,
        "post": (rng.random((steps, OUT)) < busy[1]).astype(int),
        "third": third.astype(np.int32),
        "weight": weight,
        "tag": tag,
        "delay": rng.integers(0, 256, (OUT, INPUTS)),
    }
    return rule, options, arrays


def lava_reads(folder, *, texts):
    """In a child: what Lava's own parser makes of rules: products, or ``fails``."""
    supervise.prepare_lava()
    from lava.magma.core.learning.learning_rule import Loihi2FLearningRule

    def read(text):
        try:
            products = Loihi2FLearningRule(dw=text, rng_seed=1).dw.products
        except Exception:
            return "fails"
        return [
            [
                p.dependency,
                p.s_mantissa,
                p.s_exp - 7,
                p.decimate_exponent,
                [[f.state_var, f.const or 0, f.is_sgn] for f in p.factors],
            ]
            for p in products
        ]

    return {"read": [read(text) for text in texts]}
