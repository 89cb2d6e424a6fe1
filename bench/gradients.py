"""How far each rule's gradient is from BPTT's: before and after a run.

    python -m bench.gradients RUN [--samples 512] [--json]

RUN is a folder of `pumice train`, by whatever rule. The gradient of its loss on the same training
samples is taken by every rule that has that loss, for the network as it is at the end, and as it
was drawn. A row has, for each parameter, the cosine with BPTT's gradient and the norm in parts of
BPTT's. Batch norms use their running statistics.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bench.report import Row, show
from loihi.errors import PumiceError
from trainer import data, loop, runs
from trainer.config import TrainConfig
from trainer.models import SpikingNetwork
from trainer.rules import rule

RULES = {
    "bptt": {"detach_reset": False},
    "detached": {"detach_reset": True},
    "sltt": {},
    "ottt": {},
    "stop": {},
}


def rows(folder: Path, samples: int) -> list[Row]:
    """Before and after training, a row for each parameter that has a gradient by BPTT."""
    config = runs.settings(folder)
    dataset = data.load(config.data)
    trained = loop.restore(config, dataset, folder / runs.CHECKPOINT)
    if config.validation:
        dataset = data.hold_out(dataset, config.validation, config.seed)
    drawn = loop.build_network(config, dataset)
    loop.draw(drawn, config, dataset)
    x, y = dataset.x_train[:samples], torch.from_numpy(dataset.y_train[:samples])
    found = []
    for when, network in (("drawn", drawn), ("trained", trained)):
        by_rule = {name: gradients(network, config, name, x, y) for name in RULES}
        for parameter, bptt in by_rule["bptt"].items():
            row: Row = {"network": when, "parameter": parameter}
            for name in list(RULES)[1:]:
                if (own := by_rule[name].get(parameter)) is not None:
                    length = float(own.norm() * bptt.norm())
                    row[name] = round(float(own @ bptt) / length, 4) if length else None
                    row[f"{name}_norm"] = round(float(own.norm() / bptt.norm()), 3)
            found.append(row)
    return found


def gradients(
    network: SpikingNetwork, config: TrainConfig, name: str, x: np.ndarray, y: Tensor
) -> dict[str, Tensor]:
    """One rule's gradient of the samples' loss, by parameter; flat, in float64."""
    network.eval()
    network.zero_grad()
    by = rule("bptt" if name == "detached" else name, **{**config.to_dict(), **RULES[name]})
    with loop.exact():
        by(network, loop.payloads(network, x), y, loop.LOSSES[config.loss])
    return {
        parameter: p.grad.double().flatten()
        for parameter, p in network.named_parameters()
        if p.grad is not None and p.grad.any()
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path, help="a folder of pumice train")
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--json", action="store_true", help="one JSON object and nothing else")
    o = parser.parse_args(arguments)
    if o.samples < 1:
        parser.error(f"--samples {o.samples}: one at least")
    try:
        show(rows(o.run, o.samples), o.json)
    except PumiceError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
