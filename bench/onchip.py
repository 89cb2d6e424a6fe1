"""Steps a second of the learning block in Lava, beside Lava's own two-factor STDP, in one run.

    python -m bench.onchip [--json] [--samples 50] [--hidden 100]

The block is 64-hidden-10 on scikit-learn's digits at T = 16. The peer is the smallest thing in Lava
that learns at all: one LearningDense of the block's hidden size with the pairwise STDP rule, fed by
noise of the digits' own rate and followed by LIF neurons. Seconds are those inside ``run()``, the
start of Lava's processes included, for the same number of steps.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.report import Row, show
from lava_export import supervise
from loihi import Encoding, PumiceError
from onchip import block
from onchip.simulate import simulate
from trainer import data

TIME_STEPS = 16


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


def rows(samples: int, hidden: int) -> list[Row]:
    """A row for each mode of the block, and the peer's."""
    digits = data.load("digits")
    encoding = Encoding("rate", TIME_STEPS, low=digits.low, high=digits.high)
    images = digits.x_train[:samples].reshape(samples, -1)
    x, labels = encoding.encode(images), digits.y_train[:samples].astype(np.int64)
    network = block.random_network(images.shape[1], hidden, 10, encoding)
    steps = block.build(network, x, "both", block.Rule()).steps(samples)
    noise = np.random.default_rng(0).random((images.shape[1], steps)) < x.mean()
    weight = network.layers[0].synapse.weight  # type: ignore[union-attr]
    peer = supervise.run(stdp, deadline=600, spikes=noise.astype(np.uint8), weight=weight)
    table: list[Row] = []

    def row(what: str, size: str, seconds: float, changed: int) -> None:
        table.append(
            {
                "what": what,
                "size": size,
                "T": TIME_STEPS,
                "steps": steps,
                "seconds": round(seconds, 2),
                "steps_per_second": round(steps / seconds, 1),
                "weights_changed": changed,
                "ratio_to_stdp": round(peer["seconds"] / seconds, 2),
            }
        )

    row(
        "Lava's LearningDense, STDP",
        f"{images.shape[1]}-{hidden}",
        peer["seconds"],
        peer["changed"],
    )
    for mode in ("hidden", "readout", "both"):
        plan = block.build(network, x, mode, block.Rule())  # type: ignore[arg-type]
        outcome = simulate(plan, x, labels, deadline=600)
        changed = sum(int((outcome.learned[i] != m.values).sum()) for i, m in plan.plastic.items())
        row(f"block, mode {mode}", f"{images.shape[1]}-{hidden}-10", outcome.seconds, changed)
    return table


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
