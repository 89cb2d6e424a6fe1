"""What every rule reaches, trained on the grid: a job of some hours, to be interrupted and resumed.

    python -m bench.accuracy GROUP ... [--out runs/accuracy] [--workers 2] [--json]

Groups: ``mlp`` (every rule on MNIST), ``lenet`` (MNIST and Fashion-MNIST), ``wide`` (a LeNet of
twice the width, whose means are part of its synapses), ``mean`` (both by the loss of the mean
output), ``latency`` (one spike a pixel, which has to be remembered), ``alone`` (the groups before
it by sltt and stop with weights alone, as sltt's authors have it), ``grid`` (the grid against real
numbers), ``joint`` (weights alone; with threshold; with leak too). Each run is a
process of one thread, as many at a time as there are workers, with a folder of its own: a run that
is done is not done again, one that was interrupted goes on from its last epoch. The table, printed
at the end or at once with ``--table``, has for each run the accuracy of the *exported file* in the
integer engine on all test samples, which must be the trainer's own predictions; ``cpu_seconds`` are
the processor's, which other work on the machine does not change as it does ``seconds``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.report import Row, show
from trainer.config import TrainConfig

GROUPS = ("mlp", "lenet", "wide", "mean", "latency", "alone", "grid", "joint")
RESULT = "result.json"
WARP = "rotate=7,scale=0.08,elastic=0.7"
# T, learning rate, augmentation and norm: chosen on 10,000 held-out training images
# (docs/benchmarks.md).
MLP = TrainConfig(
    data="mnist",
    model="mlp",
    time_steps=4,
    epochs=60,
    lr=0.35,
    augment=WARP,
    surrogate_unit="threshold",
)
LENET = replace(MLP, model="lenet", norm="bn", lr=0.7, epochs=12, surrogate_unit="start")
FASHION = replace(LENET, data="fashion-mnist", augment="flip", shift=0.05)
LATENCY = replace(MLP, encoding="latency", time_steps=8, augment="", epochs=12, lr_neuron=0.0002)
WIDE: dict[str, Any] = {
    "model": "32c5-2m-64c5-2m-256",
    "norm": "ws",
    "payload": 63,
    "epochs": 16,
    "surrogate_unit": "threshold",
}
SMALL: dict[str, Any] = {"model": "16c5-2m-32c5-2m-128", "norm": "ws"}
MEAN: dict[str, Any] = {
    **WIDE,
    "loss_of": "mean",
    "surrogate": "exponential",
    "lr": 1.0,
}
RULES: dict[str, dict[str, Any]] = {
    "sltt": {"rule": "sltt"},
    "bptt": {"rule": "bptt"},
    "bptt_detached": {"rule": "bptt", "detach_reset": True},
    "stop": {"rule": "stop"},
    "sltt_k1": {"rule": "sltt_k", "k": 1},
    "sltt_k2": {"rule": "sltt_k", "k": 2},
    "ottt": {"rule": "ottt"},
    "tt_lbp_4_1": {"rule": "tt_lbp", "k": 4, "n": 1},
    "tt_lbp_2_2": {"rule": "tt_lbp", "k": 2, "n": 2},
    "decolle": {"rule": "decolle", "classifiers": "random"},
    "bptt_checkpoint": {"rule": "bptt_checkpoint"},
}
SEEDS = {"bptt": 3, "sltt": 3, "stop": 3}
# Where surrogates are as steep as thresholds are low, and lr_neuron is the default of 0.002, some
# thresholds fall to nothing: by stop an mlp's last one to 1 % of where it began with one seed of
# three.
SLOW: dict[str, Any] = {"lr_neuron": 0.0002}
OWN: dict[str, dict[str, dict[str, Any]]] = {
    "mlp": {"stop": {"lr_neuron": 0.00002}},
    "wide": {"bptt": SLOW, "bptt_detached": SLOW},
}
# What stop learns beside weights.
JOINT: dict[str, dict[str, Any]] = {
    "w": {"learn_threshold": False, "learn_leak": False},
    "w+threshold": {"learn_threshold": True, "learn_leak": False},
    "w+threshold+leak": {"learn_threshold": True, "learn_leak": True},
}
LENET_RULES = ("sltt", "bptt", "bptt_detached", "stop", "sltt_k2", "tt_lbp_4_1", "tt_lbp_2_2")
# Of Fashion-MNIST's runs, those with two more seeds.
AGAIN = {"lenet": ("sltt", "sltt_k2", "stop"), "wide": ("sltt", "stop")}


def plan(group: str) -> dict[str, TrainConfig]:
    """The runs of a group by name."""
    runs: dict[str, TrainConfig] = {}

    def by_rule(base: TrainConfig, name: str) -> TrainConfig:
        return replace(base, **RULES[name], **OWN.get(group, {}).get(name, {}))

    if group == "mlp":
        for seed in range(3):  # each rule once before any twice
            for name in RULES:
                if seed < SEEDS.get(name, 1) and name != "bptt_detached":
                    runs[f"mlp-{name}-{seed}"] = by_rule(replace(MLP, seed=seed), name)
    elif group in ("lenet", "wide"):
        for base in (LENET, FASHION):
            own = replace(base, **WIDE) if group == "wide" else base
            for name in LENET_RULES:
                runs[f"{group}-{base.data}-{name}"] = by_rule(own, name)
        for seed in (1, 2):  # what of a difference is the seeds'
            for name in AGAIN[group]:
                run = f"{group}-{FASHION.data}-{name}"
                runs[f"{run}-{seed}"] = replace(runs[run], seed=seed)
    elif group == "mean":
        for base, seed in ((FASHION, 0), (LENET, 0), (FASHION, 1), (FASHION, 2)):
            for name in ("sltt", "stop"):
                own = replace(base, seed=seed, **MEAN, **RULES[name])
                runs[f"mean-{base.data}-{name}-{seed}"] = own
        for seed in range(5):
            for name in ("sltt", "stop"):
                own = replace(FASHION, seed=seed, loss_of="mean", **RULES[name])
                runs[f"mean-lenet-{FASHION.data}-{name}-{seed}"] = own
    elif group == "latency":
        for seed in range(3):
            base = replace(LATENCY, seed=seed)
            for name in ("bptt", "sltt", "stop"):
                runs[f"latency-{name}-{seed}"] = replace(base, **RULES[name])
            for name in ("w", "w+threshold"):
                runs[f"latency-stop-{name}-{seed}"] = replace(base, rule="stop", **JOINT[name])
        for name in ("ottt", "tt_lbp_2_2"):
            runs[f"latency-{name}-0"] = replace(LATENCY, **RULES[name])
        for still in (FASHION, LENET):
            base = replace(still, encoding="latency", time_steps=8, **SMALL)
            for name in ("sltt", "stop"):
                runs[f"latency-lenet-{base.data}-{name}"] = replace(base, **RULES[name])
    elif group == "alone":
        for other in ("lenet", "mean", "mlp", "wide", "latency"):
            for name, config in plan(other).items():
                own = replace(config, **JOINT["w"])
                if config.rule in ("sltt", "stop") and own not in plan(other).values():
                    runs[f"alone-{name}"] = own
    elif group == "grid":
        for seed in range(3):
            for neuron in ("hard", "chip"):
                base = replace(MLP, augment="", epochs=12, neuron=neuron, seed=seed)
                runs[f"grid-{neuron}-{seed}"] = base
    elif group == "joint":
        for data, epochs in (("digits", 40), ("mnist", 8)):
            for seed in range(3):
                base = TrainConfig(
                    data=data,
                    rule="stop",
                    time_steps=8,
                    epochs=epochs,
                    seed=seed,
                    surrogate_unit="threshold",
                )
                for name, learned in JOINT.items():
                    runs[f"joint-{data}-{name}-{seed}"] = replace(base, **learned)
    else:
        raise SystemExit(f"group {group!r} is unknown: use {', '.join(GROUPS)}")
    return runs


def work(name: str, config: TrainConfig, folder: Path) -> None:
    """One run, in this process: train or go on, then the exported file in the engine."""
    import numpy as np
    import torch

    from lava_export import netx
    from loihi import decide, engine
    from trainer import data, loop

    torch.set_num_threads(1)
    dataset = data.load(config.data)
    path, spent = folder / "model.net", folder / "cpu_seconds"
    begin = time.process_time()

    def on_epoch(metrics: dict[str, Any]) -> None:
        nonlocal begin
        before = float(spent.read_text()) if spent.exists() else 0.0
        now = time.process_time()
        spent.write_text(str(before + now - begin))
        begin = now
        print(json.dumps({"run": name, **metrics}), flush=True)

    done = loop.train(
        config,
        dataset,
        folder,
        resume=(folder / loop.CHECKPOINT).exists(),
        export=lambda network, _: netx.write(network, path),
        on_epoch=on_epoch,
    )
    row: Row = {
        "run": name,
        "data": config.data,
        "model": config.model,
        "rule": config.rule,
        "neuron": config.neuron,
        "seed": config.seed,
        "T": config.time_steps,
        "epochs": config.epochs,
        "seconds": round(sum(m["seconds"] for m in done.metrics), 1),
        "cpu_seconds": round(float(spent.read_text()), 1),
        "peak_MB": round(max(m["peak_bytes"] for m in done.metrics) / 1e6),
        "accuracy": done.accuracy,
    }
    if done.network is not None:
        network = netx.read(path)
        classes = decide(engine.predict(network, network.encoding.encode(dataset.x_test)))
        row["accuracy"] = float((classes == dataset.y_test).mean())
        row["engine_equals_trainer"] = bool(np.array_equal(classes, done.predictions))
    (folder / RESULT).write_text(json.dumps(row))


def run(runs: dict[str, TrainConfig], out: Path, workers: int) -> None:
    """All runs that are not done, a process each."""
    waiting = [name for name in runs if not (out / name / RESULT).exists()]
    at_work: dict[str, subprocess.Popen[bytes]] = {}
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    try:
        while waiting or at_work:
            while waiting and len(at_work) < workers:
                name = waiting.pop(0)
                command = [sys.executable, "-m", "bench.accuracy", "--one", name, "--out", str(out)]
                at_work[name] = subprocess.Popen(command, env=environment)
            time.sleep(0.5)
            for name, process in list(at_work.items()):
                if process.poll() is not None:
                    del at_work[name]
                    if process.returncode:
                        print(f"{name}: ended with {process.returncode}", file=sys.stderr)
    finally:
        for process in at_work.values():
            process.terminate()


def table(runs: dict[str, TrainConfig], out: Path) -> list[Row]:
    """The rows of those that are done."""
    found: list[Row] = []
    for name in runs:
        path = out / name / RESULT
        if path.exists():
            row: dict[str, Any] = json.loads(path.read_text())
            found.append({**row, "accuracy": round(row["accuracy"], 4)})
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("groups", nargs="*", default=GROUPS)
    parser.add_argument("--out", type=Path, default=Path("runs/accuracy"))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--epochs", type=int, help="fewer or more than planned, for all runs")
    parser.add_argument("--only", nargs="+", default=[], help="runs whose names hold one of these")
    parser.add_argument("--table", action="store_true", help="print what there is; run nothing")
    parser.add_argument("--json", action="store_true", help="one JSON object and nothing else")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    o = parser.parse_args(arguments)
    runs: dict[str, TrainConfig] = {}
    for group in GROUPS if o.one else o.groups:
        runs |= plan(group)
    if o.epochs:
        runs = {name: replace(config, epochs=o.epochs) for name, config in runs.items()}
    if o.only:
        runs = {name: c for name, c in runs.items() if any(part in name for part in o.only)}
    if o.one:
        work(o.one, runs[o.one], o.out / o.one)
        return
    if not o.table:
        run(runs, o.out, o.workers)
    show(table(runs, o.out), o.json)


if __name__ == "__main__":
    main()
