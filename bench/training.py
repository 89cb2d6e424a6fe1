"""How fast and how well training goes: seconds, bytes and accuracy, rule beside rule.

    python -m bench.training [--json] [--device cuda] [--data mnist] [--epochs 1] [--steps 16]

For every model and T, each rule trains from the same weights on the same batches; a row says what
it cost and what came of it, and how it compares with bptt in the same run. ``seconds`` are one
epoch's, test set included; ``step_seconds`` and ``saved_bytes`` one batch's (see
:mod:`bench.memory`). ``predictions_equal`` compares the trainer's predictions with the frozen
network's in the engine.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.memory import arguments, measure
from bench.report import Row, show
from loihi import decide, engine
from trainer import data
from trainer.config import TrainConfig
from trainer.loop import exact, train
from trainer.rules import RULES


def rows(
    name: str,
    models: Sequence[str],
    steps: Sequence[int],
    epochs: int,
    batch: int,
    device: str,
    rules: Sequence[str] = tuple(RULES),
) -> list[Row]:
    """A row for every model, T and rule, with ratios to bptt if it is among them."""
    dataset = data.load(name)
    table = []
    for model in models:
        for time_steps in steps:
            peer: Row | None = None
            for rule in sorted(rules):  # bptt first: the others are compared with it
                config = TrainConfig(
                    data=name,
                    model=model,
                    rule=rule,
                    time_steps=time_steps,
                    epochs=epochs,
                    batch_size=batch,
                    device=device,
                )
                if device != "cpu":
                    torch.cuda.reset_peak_memory_stats()
                with tempfile.TemporaryDirectory() as folder:
                    result = train(config, dataset, Path(folder) / "run")
                assert result.network is not None
                network = result.network
                assert network is not None  # the neurons are the chip's
                row: Row = {
                    "what": rule,
                    "size": network.names[0] + " … " + result.module.description,
                    "data": name,
                    "T": time_steps,
                    "batch": batch,
                    "device": device,
                    "epochs": epochs,
                    "accuracy": result.accuracy,
                    "seconds": min(m["seconds"] for m in result.metrics),
                }
                if device != "cpu":
                    row["device_bytes"] = torch.cuda.max_memory_allocated()
                scores = engine.predict(network, network.encoding.encode(dataset.x_test))
                row["predictions_equal"] = bool(np.array_equal(decide(scores), result.predictions))
                row |= _one_batch(rule, model, time_steps, batch, device)
                peer = row if rule == "bptt" else peer
                for key in ("seconds", "step_seconds", "saved_bytes", "device_bytes"):
                    if key in row and peer is not None:
                        row[f"{key}_to_bptt"] = round(row[key] / peer[key], 4)
                table.append(row)
    return table


def _one_batch(rule: str, model: str, time_steps: int, batch: int, device: str) -> dict[str, Any]:
    with exact():
        row = measure(rule, model, time_steps, batch, device)
    return {"step_seconds": row["seconds"], "saved_bytes": row["saved_bytes"]}


def main() -> None:
    """The command line."""
    parser = arguments((__doc__ or "").splitlines()[0])
    parser.add_argument("--data", default="digits", help="digits, mnist, fashion-mnist, or an .npz")
    parser.add_argument("--models", nargs="+", default=["mlp"], help="mlp, lenet, or layers")
    parser.add_argument("--steps", type=int, nargs="+", default=[4, 16])
    parser.add_argument("--epochs", type=int, default=1)
    o = parser.parse_args()
    table = rows(o.data, o.models, o.steps, o.epochs, o.batch, o.device, o.rules)
    show(table, o.json, threads=torch.get_num_threads())


if __name__ == "__main__":
    main()
