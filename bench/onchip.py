"""Steps a second of learning blocks in the compiled engine and in Lava, in one run.

    python -m bench.onchip [--json] [--samples 50] [--hidden 100]

The whole block is 64-hidden-10 on scikit-learn's digits at T = 16, with its three-factor rule on
one layer or on both; beside it one learning layer of 256-128 with the delta rule, fed by noise.
``ratio`` is the engine's speed over Lava's, and ``equal`` whether both came to the same weights.

Lava's seconds are those inside ``run()``, the start of its processes included; the engine's are
those of all the samples, compiled before, the best of five times. Pairwise STDP is one plastic
connection alone, 256-128, with spikes of a tenth on both sides, by the same products in both. The
peer, for scale, is the
smallest thing in Lava that learns at all: one LearningDense of the block's hidden size with the
pairwise STDP rule, fed by noise of the digits' own rate and followed by LIF neurons.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.report import Row, show
from lava_export import supervise
from loihi import INTEGRATOR, Dense, Encoding, Layer, Network, PumiceError
from onchip.connection import Synapses
from onchip.engine import Learner, side_by_side
from onchip.plan import Plan, build, random_network
from onchip.rules import read_rule
from onchip.simulate import simulate
from onchip.spec import Rule
from trainer import data

TIME_STEPS = 16
Learned = dict[int, NDArray[np.int32]]


def stdp(folder: Path, *, spikes: NDArray[Any], weight: NDArray[Any]) -> dict[str, Any]:
    """In a child: STDP on ``weight`` ``[out, in]`` under ``spikes`` ``[in, steps]``."""
    supervise.prepare_lava()
    from lava.magma.core.run_conditions import RunSteps
    from lava.magma.core.run_configs import Loihi2SimCfg
    from lava.proc.dense.process import LearningDense
    from lava.proc.io.source import RingBuffer
    from lava.proc.learning_rules.stdp_learning_rule import STDPLoihi
    from lava.proc.lif.process import LIF

    rule = STDPLoihi(
        learning_rate=1, A_plus=2, A_minus=-2, tau_plus=4, tau_minus=4, t_epoch=1, rng_seed=1
    )
    source = RingBuffer(data=np.array(spikes, dtype=np.int32))
    dense = LearningDense(weights=np.array(weight), learning_rule=rule)
    neurons = LIF(shape=(len(weight),), du=4095, dv=1024, vth=80)
    source.s_out.connect(dense.s_in)
    dense.a_out.connect(neurons.a_in)
    neurons.s_out.connect(dense.s_in_bap)
    begin = time.perf_counter()
    neurons.run(RunSteps(num_steps=spikes.shape[1]), Loihi2SimCfg(select_tag="fixed_pt"))
    seconds = time.perf_counter() - begin
    learned = np.asarray(dense.weights.get())
    neurons.stop()
    return {"seconds": seconds, "changed": int((learned != weight).sum())}


STDP: dict[str, Any] = {"dw": "2*x1*y0 - 2*x0*y1", "x1": (16, 4.0), "y1": (16, 4.0)}
"""Lava's own STDPLoihi with a learning rate of 1 and amplitudes of 2 and −2."""


def pairwise(
    folder: Path, *, pre: NDArray[Any], post: NDArray[Any], weight: NDArray[Any]
) -> dict[str, Any]:
    """In a child: STDP on ``weight`` ``[out, in]`` under ``[steps, in]`` and ``[steps, out]``."""
    supervise.prepare_lava()
    from lava.magma.core.run_conditions import RunSteps
    from lava.magma.core.run_configs import Loihi2SimCfg

    from onchip.processes.hebbian import Stream
    from onchip.processes.synapse import EightBitDense

    before, after = Stream(messages=np.array(pre)), Stream(messages=np.array(post))
    dense = EightBitDense(weights=np.array(weight), learning_rule=read_rule(**STDP).to_lava(1))
    before.s_out.connect(dense.s_in)
    after.s_out.connect(dense.s_in_bap)
    begin = time.perf_counter()
    dense.run(RunSteps(num_steps=len(pre)), Loihi2SimCfg(select_tag="fixed_pt"))
    seconds = time.perf_counter() - begin
    learned = np.asarray(dense.weights.get(), dtype=np.int32)
    dense.stop()
    return {"seconds": seconds, "learned": learned}


def synapses(pre: NDArray[Any], post: NDArray[Any], weight: NDArray[Any]) -> tuple[float, Any]:
    """The same in the engine: seconds, and the weights that it learned."""
    best, plastic = float("inf"), None
    for _ in range(6):  # the first may have to compile
        plastic = Synapses(weight, read_rule(**STDP), seed=1)
        begin = time.perf_counter()
        plastic.run(pre, post)
        best = min(best, time.perf_counter() - begin)
    assert plastic is not None
    return best, plastic.weight


def fast(plan: Plan, x: NDArray[Any], labels: NDArray[Any]) -> tuple[float, Learned]:
    """The engine's seconds for samples ``[T, N, in]``, and the weights it learned."""
    best, learner = float("inf"), Learner(plan, labels)
    for _ in range(6):  # the first may have to compile
        learner = Learner(plan, labels)
        begin = time.perf_counter()
        learner.learn(x)
        learner.finish()
        best = min(best, time.perf_counter() - begin)
    return best, learner.learned


def rows(samples: int, hidden: int) -> list[Row]:
    """A row for each block, and the peer's."""
    digits = data.load("digits")
    encoding = Encoding("rate", TIME_STEPS, low=digits.low, high=digits.high)
    images = digits.x_train[:samples].reshape(samples, -1)
    x, labels = encoding.encode(images), digits.y_train[:samples].astype(np.int64)
    network = random_network(images.shape[1], hidden, 10, encoding)
    rng, table = np.random.default_rng(0), []

    def row(what: str, size: str, steps: int, lava: float, **more: Any) -> None:
        speed = {"lava_steps_per_second": round(steps / lava, 1)}
        table.append({"what": what, "size": size, "T": TIME_STEPS, "steps": steps, **speed, **more})

    def compare(what: str, size: str, plan: Plan, x: NDArray[Any], y: NDArray[Any]) -> None:
        outcome = simulate(plan, x, y, deadline=600)
        seconds, learned = fast(plan, x, y)
        row(
            what,
            size,
            outcome.steps,
            outcome.seconds,
            engine_steps_per_second=round(outcome.steps / seconds),
            ratio=round(outcome.seconds / seconds),
            weights_changed=sum(
                int((learned[i] != m.values).sum()) for i, m in plan.plastic.items()
            ),
            equal=all(np.array_equal(learned[i], outcome.learned[i]) for i in plan.plastic),
        )

    for mode in ("hidden", "readout", "both"):
        plan = build(network, x, mode, Rule())  # type: ignore[arg-type]
        compare(f"block, mode {mode}", f"{images.shape[1]}-{hidden}-10", plan, x, labels)
    dense = Dense(rng.integers(-64, 65, (128, 256), dtype=np.int32))
    single = Network((256,), (Layer(dense, INTEGRATOR),), Encoding("events", TIME_STEPS))
    noise = (rng.random((TIME_STEPS, samples, 256)) < x.mean()).astype(np.uint8)
    plan = build(single, noise, "readout", Rule())
    compare("one layer, delta rule", "256-128", plan, noise, rng.integers(0, 128, samples))

    steps = build(network, x, "both", Rule()).steps(samples)
    pre, post = (rng.random((steps, n)) < 0.1 for n in (256, 128))
    mixed = rng.integers(-64, 65, (128, 256))
    theirs = supervise.run(pairwise, deadline=600, pre=pre, post=post, weight=mixed)
    seconds, learned = synapses(pre, post, mixed)
    row(
        "one connection, pairwise STDP",
        "256-128",
        steps,
        theirs["seconds"],
        engine_steps_per_second=round(steps / seconds),
        ratio=round(theirs["seconds"] / seconds),
        weights_changed=int((learned != mixed).sum()),
        equal=np.array_equal(learned, theirs["learned"]),
    )

    table.append(_replicas(build(network, x, "both", Rule()), x, labels))

    noise = (rng.random((images.shape[1], steps)) < x.mean()).astype(np.uint8)
    weight = network.layers[0].synapse.weight  # type: ignore[union-attr]
    peer = supervise.run(stdp, deadline=600, spikes=noise, weight=weight)
    size = f"{images.shape[1]}-{hidden}"
    row("LearningDense, STDP", size, steps, peer["seconds"], weights_changed=peer["changed"])
    return table


def _replicas(plan: Plan, x: NDArray[Any], labels: NDArray[Any]) -> Row:
    """Blocks with seeds of their own side by side, a thread a processor, against one after the
    other."""
    cores, rounds = os.cpu_count() or 1, 20
    samples, answers = np.tile(x, (1, rounds, 1)), np.tile(labels, rounds)
    seconds = {}
    for threads in (1, cores):
        best = float("inf")
        for _ in range(3):
            learners = [Learner(plan, answers, seed=seed) for seed in range(2 * cores)]
            begin = time.perf_counter()
            side_by_side(learners, samples, threads)
            best = min(best, time.perf_counter() - begin)
        seconds[threads] = best
    steps = 2 * cores * plan.steps(len(answers))
    return {
        "what": f"{2 * cores} blocks, mode both, on {cores} threads; ratio: to 1 thread",
        "size": f"{x.shape[2]}-{plan.network.shapes[0][0]}-10",
        "T": TIME_STEPS,
        "steps": steps,
        "engine_steps_per_second": round(steps / seconds[cores]),
        "ratio": round(seconds[1] / seconds[cores], 2),
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object and nothing else")
    parser.add_argument("--samples", type=int, default=50, help="digits that are learned")
    parser.add_argument("--hidden", type=int, default=100, help="hidden neurons")
    options = parser.parse_args()
    try:
        table = rows(options.samples, options.hidden)
    except PumiceError as error:
        raise SystemExit(f"bench.onchip: {error}") from None
    show(table, options.json)


if __name__ == "__main__":
    # The child imports ``stdp`` by the name of its module, which must not be __main__.
    from bench import onchip

    onchip.main()
