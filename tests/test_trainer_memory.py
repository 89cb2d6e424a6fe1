"""SLTT's memory does not know T; BPTT's is in proportion to it."""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
import sys

import pytest
import torch
from torch.nn import functional as F

from bench.memory import peak_saved_bytes, rows, sample
from trainer import memory
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


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc's malloc")
def test_freed_memory_stays_with_the_process() -> None:
    """Counted in a process of its own: pages that the system has to bring for a step's tensors."""
    counting = """
import resource, torch
from trainer.memory import keep_freed

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        held = [torch.ones(2**20) for _ in range(6)]
        del held
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
without = faults()
assert keep_freed()
faults()
print(without, faults())
"""
    # What glibc does by itself depends on what else lies at the heap's end; these it obeys.
    giving = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    done = subprocess.run(
        [sys.executable, "-c", counting],
        capture_output=True, text=True, check=True, timeout=120, env={**os.environ, **giving},
    )  # fmt: skip
    without, kept = map(int, done.stdout.split())
    assert without > 20 * 6 * 2**9  # pages of 4 kB, of six tensors of 4 MB in each round
    assert kept < 2**10


def test_another_malloc_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert memory.keep_freed.__wrapped__() is False


@pytest.mark.parametrize("channels", [1, 3])
def test_the_order_of_images(channels: int) -> None:
    x = torch.arange(2.0 * channels * 12).reshape(2, channels, 3, 4)
    y = memory.pixel_by_pixel(x)
    assert torch.equal(x, y)
    assert y.stride()[1:] == (1, 4 * channels, channels)
    assert memory.order(x) == torch.contiguous_format
    assert memory.order(y) == (torch.channels_last if channels > 1 else torch.contiguous_format)
    assert memory.is_dense(x) and memory.is_dense(y)
    assert not memory.is_dense(y[:, :, :, ::2])
    assert not memory.is_dense(x[:, :, 1:])
    flat_in_memory = y.as_strided((y.numel(),), (1,))
    assert torch.equal(flat_in_memory, x.permute(0, 2, 3, 1).reshape(-1))
