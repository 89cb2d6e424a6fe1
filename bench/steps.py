"""From the offline rule to the one on the chip, a step at a time: where accuracy is lost or won.

    python -m bench.steps [--data digits] [--hidden 100] [--seeds 3] [--validation 0.25] [--json]

One network, inputs-hidden-classes, rate-coded spikes, thresholds and leaks fixed. It begins with
TT-LBP's fully local corner (k = 1, n = 1) in real numbers, trained by Adam in batches, and comes
line by line to the learning engine; each line changes one thing of the line before:

- the readout random and fixed, as DECOLLE's;
- the chip's integers, forward: 8-bit weights, 24-bit membranes;
- the rule's own surrogate, a box 1.5 thresholds to either side, and its own loss,
  (one-hot − output)²;
- the learning engine from the same initial weights: one sample after the other, errors of 8 bits
  and updates of whole numbers, a trace that bridges the loop's latency, weights rounded at random.
  Its readout forgets everything in a step, as k = 1 has it;
- a readout that leaks, so that the error is of several steps (k = 1 no more);
- the engine's random weights in place of the trainer's;
- a longer trace and a faster readout, as chosen for the engine;
- Lava's rounding: one random number a layer and step in place of one a weight;
- the readout learns as well, by the delta rule.

``accuracy`` is the mean over seeds, ``least`` and ``most`` their range. What was chosen was chosen
with ``--validation 0.25``, which puts training samples in the place of the test set.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.report import Row, show
from loihi import Encoding, Network, PumiceError
from onchip.draws import Rounding
from onchip.learn import accuracy, learn
from onchip.plan import random_network
from onchip.samples import Samples
from onchip.spec import Mode, Rule
from trainer import data
from trainer.config import TrainConfig
from trainer.data import Dataset
from trainer.data.dataset import limited
from trainer.loop import CALIBRATION_SAMPLES, build_network, exact, payloads, train

LOCAL = TrainConfig(
    rule="tt_lbp",
    k=1,
    n=1,
    neuron="hard",
    encoding="rate",
    learn_threshold=False,
    learn_leak=False,
    shift=0.0,
)
RANDOM = replace(LOCAL, classifiers="random")
GRID = replace(RANDOM, neuron="chip")
BOX = replace(GRID, surrogate="rectangle", surrogate_width=2 * Rule().window)
SQUARED = replace(BOX, loss="mse")
STEP = Rule(leak=4096)
LEAKY = Rule(leak=1000)
CHOSEN = Rule(leak=2000, hidden_impulse=16, hidden_tau=4)
EPOCHS = {"digits": 20, "mnist": 6}


def initial(config: TrainConfig, dataset: Dataset) -> Network:
    """The frozen network that a run of ``config`` begins with."""
    network = build_network(config, dataset)
    generator = torch.Generator().manual_seed(config.seed)
    with exact():
        network.calibrate(payloads(network, dataset.x_train[:CALIBRATION_SAMPLES]), generator)
        return network.freeze()


def offline(config: TrainConfig, dataset: Dataset) -> float:
    """Test accuracy."""
    with tempfile.TemporaryDirectory() as folder:
        return train(config, dataset, Path(folder) / "run").accuracy


def on_chip(
    network: Network,
    dataset: Dataset,
    rule: Rule,
    epochs: int,
    seed: int,
    mode: Mode = "hidden",
    rounding: Rounding = "chip-like",
) -> float:
    """Test accuracy."""
    found = learn(
        network,
        Samples(dataset.x_train, network.encoding),
        dataset.y_train,
        mode=mode,
        rule=rule,
        epochs=epochs,
        seed=seed + 1,
        rounding=rounding,
    )
    return accuracy(found.network, Samples(dataset.x_test, network.encoding), dataset.y_test)


def rows(dataset: Dataset, hidden: int, epochs: int, seeds: int, only: Sequence[int]) -> list[Row]:
    """A row a step."""
    encoding = Encoding("rate", LOCAL.time_steps, low=dataset.low, high=dataset.high)
    inputs = int(np.prod(dataset.sample_shape()))

    def trained(config: TrainConfig) -> Callable[[int], float]:
        return lambda seed: offline(
            replace(config, hidden=(hidden,), epochs=epochs, seed=seed), dataset
        )

    def same(seed: int) -> Network:
        return initial(replace(GRID, hidden=(hidden,), seed=seed), dataset)

    def own(seed: int) -> Network:
        return random_network(inputs, hidden, dataset.classes, encoding, seed=seed)

    def learned(
        begin: Callable[[int], Network], rule: Rule, **options: Any
    ) -> Callable[[int], float]:
        return lambda seed: on_chip(begin(seed), dataset, rule, epochs, seed, **options)

    steps: list[tuple[str, Callable[[int], float]]] = [
        ("bptt, real numbers", trained(replace(LOCAL, rule="bptt"))),
        ("tt_lbp(1, 1), real numbers", trained(LOCAL)),
        ("readout random and fixed", trained(RANDOM)),
        ("the chip's integers", trained(GRID)),
        ("box surrogate", trained(BOX)),
        ("squared error", trained(SQUARED)),
        ("learning engine, same initial weights", learned(same, STEP)),
        ("leaky readout", learned(same, LEAKY)),
        ("its own random weights", learned(own, LEAKY)),
        ("longer trace, faster readout", learned(own, CHOSEN)),
        ("Lava's rounding", learned(own, CHOSEN, rounding="lava")),
        ("the readout learns too", learned(own, CHOSEN, rounding="lava", mode="both")),
    ]
    table: list[Row] = []
    for number, (what, run) in enumerate(steps):
        if only and number not in only:
            continue
        begin = time.process_time()
        found = [run(seed) for seed in range(seeds)]
        table.append(
            {
                "step": number,
                "what": what,
                "accuracy": f"{np.mean(found):.2%}",
                "least": f"{min(found):.2%}",
                "most": f"{max(found):.2%}",
                "cpu_seconds": round((time.process_time() - begin) / seeds, 1),
            }
        )
    return table


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", choices=list(EPOCHS), default="digits")
    parser.add_argument("--hidden", type=int, default=100, help="hidden neurons")
    parser.add_argument("--epochs", type=int, help="for all; 20 of digits, 6 of MNIST by default")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--samples", type=int, help="training samples; all by default")
    parser.add_argument("--validation", type=float, default=0.0, help="a part held out of training")
    parser.add_argument("--only", type=int, nargs="+", default=[], help="steps by number")
    parser.add_argument("--json", action="store_true", help="one JSON object and nothing else")
    o = parser.parse_args(arguments)
    torch.set_num_threads(1)
    try:
        dataset = data.load(o.data)
        if o.validation:
            dataset = data.hold_out(dataset, o.validation, 0)
        if o.samples is not None:
            some = limited(dataset.y_train, o.samples, 0, "--samples")
            dataset = replace(dataset, x_train=dataset.x_train[some], y_train=dataset.y_train[some])
        epochs = o.epochs or EPOCHS[o.data]
        table = rows(dataset, o.hidden, epochs, o.seeds, o.only)
    except PumiceError as error:
        raise SystemExit(f"bench.steps: {error}") from None
    about = {"data": dataset.name, "samples": len(dataset.y_train), "hidden": o.hidden}
    show(table, o.json, **about, epochs=epochs, notes=list(dataset.notes))


if __name__ == "__main__":
    main()
