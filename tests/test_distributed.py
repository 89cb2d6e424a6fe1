"""Two processes with half of each batch train as one with the whole."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from trainer import checkpoint

TRAIN = """
import sys, torch
from pathlib import Path
from dataclasses import replace
from trainer import data, loop
from trainer.config import TrainConfig
torch.set_num_threads(1)
rule, out = sys.argv[1:3]
digits = data.load("digits")
digits = replace(digits, x_train=digits.x_train[:70], y_train=digits.y_train[:70],
                 x_test=digits.x_test[:20], y_test=digits.y_test[:20])
config = TrainConfig(model="20-16", rule=rule, k=2, n=1, time_steps=4, epochs=1, batch_size=33,
                     augment="rotate=5", update="interval", norm=sys.argv[3])
done = loop.train(config, digits, Path(out))
print(done.history[-1] if hasattr(done, "history") else done.metrics[-1])
"""


def _run(rule: str, out: Path, processes: int, norm: str) -> dict[str, torch.Tensor]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(processes):
        environment = {
            **os.environ,
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(processes),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
        command = [sys.executable, "-c", TRAIN, rule, str(out), norm]
        children.append(
            subprocess.Popen(
                command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        )
    try:
        for child in children:
            _, errors = child.communicate(timeout=120)
            assert child.returncode == 0, errors[-2000:]
    finally:
        for child in children:
            child.kill()
    tensors, state = checkpoint.read(out / "checkpoint.safetensors")
    tensors["loss"] = torch.tensor(state["history"][-1]["loss"])
    tensors["accuracy"] = torch.tensor(state["history"][-1]["train_accuracy"])
    return tensors


@pytest.mark.parametrize(
    ("rule", "norm"), [("sltt", "ws"), ("sltt_k", "none"), ("stop", "none"), ("tt_lbp", "none")]
)
def test_two_processes_are_one(rule: str, norm: str, tmp_path: Path) -> None:
    one, two = _run(rule, tmp_path / "1", 1, norm), _run(rule, tmp_path / "2", 2, norm)
    assert one.keys() == two.keys()
    start = 0.7  # the learning rate: what a mistake in one update would be
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-3, atol=start * 1e-3, msg=name)
