"""SLTT's memory does not know T; BPTT's is in proportion to it."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from bench.memory import peak_saved_bytes, rows, sample
from trainer.rules import rule


def held(name: str, model: str, steps: int) -> int:
    network, x, y = sample(model, steps, batch_size=3)
    return peak_saved_bytes(lambda: rule(name)(network, x, y, F.cross_entropy))


@pytest.mark.parametrize("model", ["24-16", "2c5-2a-3c5-2a-16"])
def test_bytes_saved_for_backward(model: str) -> None:
    assert held("sltt", model, 4) == held("sltt", model, 64) > 0
    bptt = {steps: held("bptt", model, steps) for steps in (16, 32, 64)}
    assert bptt[64] - bptt[32] == 2 * (bptt[32] - bptt[16]) > 0
    assert bptt[16] > 8 * held("sltt", model, 16) - 16 * 2**10


def test_the_count_is_of_what_is_held_at_one_time() -> None:
    x = torch.ones(1000, requires_grad=True)

    def twice() -> None:
        for _ in range(2):
            x.exp().sum().backward()  # saves its result, 4000 bytes, and lets go of it

    assert peak_saved_bytes(twice) == 4000
    assert peak_saved_bytes(lambda: (x.exp().exp().sum(), None)) == 8000


def test_bench_rows() -> None:
    table = rows("16", (2, 4), 2, "cpu", repeats=1, rules=("sltt", "bptt"))
    assert [(row["what"], row["T"]) for row in table] == [
        ("bptt", 2), ("sltt", 2), ("bptt", 4), ("sltt", 4),
    ]  # fmt: skip
    assert all(row["saved_bytes"] > 0 and row["seconds"] > 0 for row in table)
    bptt, sltt = table[2:]
    assert sltt["saved_bytes_to_bptt"] == round(sltt["saved_bytes"] / bptt["saved_bytes"], 4) < 1
