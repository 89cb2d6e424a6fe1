"""Bytes that training holds for the backward pass, and a batch's time, by rule and by T.

    python -m bench.memory [--json] [--device cuda]

``saved_bytes`` is the largest number of bytes that autograd held at one time for a backward pass,
as counted by ``torch.autograd.graph.saved_tensors_hooks`` (a tensor saved twice counts once);
``peak_bytes`` is what torch's allocator held beyond what it held before, of all kinds; on a GPU
``device_bytes`` is ``torch.cuda.max_memory_allocated`` over the batch. Ratios are to bptt at the
same T, measured in the same run.
"""

from __future__ import annotations

import argparse
import itertools
import os
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.report import Row, show
from loihi import Encoding
from trainer.kernels import use_threads
from trainer.loop import exact
from trainer.models import SpikingNetwork
from trainer.rules import LOCAL, RULES, rule
from trainer.zoo import build


class _Held:
    """A saved tensor, for as long as the graph holds it."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def peak_saved_bytes(work: Callable[[], object]) -> int:
    """The most bytes that were saved for backward at one time while ``work`` ran."""
    holders: dict[tuple[int, int], int] = {}
    now = peak = 0

    def release(place: tuple[int, int], size: int) -> None:
        nonlocal now
        holders[place] -= 1
        if not holders[place]:
            now -= size

    def pack(tensor: Tensor) -> _Held:
        nonlocal now, peak
        # The tensor's own bytes, not its storage's: x[t] is a view of the whole batch.
        size = tensor.numel() * tensor.element_size()
        place = tensor.data_ptr(), size
        holders[place] = holders.get(place, 0) + 1
        if holders[place] == 1:
            now += size
            peak = max(peak, now)
        held = _Held(tensor.detach())
        weakref.finalize(held, release, place, size)
        return held

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda held: held.tensor):
        work()
    return peak


def peak_bytes(work: Callable[[], object], device: str = "cpu") -> int:
    """The most bytes that torch's allocator held at one time while ``work`` ran, beyond before.

    Everything counts: activations, gradients that are new, workspaces. On the CPU by the
    profiler's record of allocations, on a GPU by ``torch.cuda.max_memory_allocated``.
    """
    if device != "cpu":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler says that it starts and stops
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        work()
    events = record.profiler.kineto_results.events()
    memory = [e for e in events if e.name() == "[memory]"]
    # torch counts in nanoseconds since 2.4.
    memory.sort(key=lambda e: e.start_ns() if hasattr(e, "start_ns") else e.start_us())
    return max(itertools.accumulate(e.nbytes() for e in memory), default=0)


def settle(threads: int) -> None:
    """``threads`` for PyTorch and our own kernels alike; to be called when everything has run once.

    numba's first parallel loop sets the threads of the OpenMP that it shares with PyTorch. malloc
    stays as the system has it, for everybody: :func:`trainer.memory.keep_freed` is left out.
    """
    torch.set_num_threads(threads)
    use_threads(threads)


def classifiers(name: str) -> dict[str, Any]:
    """What :func:`trainer.zoo.build` is asked for so that a rule has what it trains by."""
    if name not in LOCAL:
        return {}
    return {"block": 1, "classifiers": "random" if name == "decolle" else "trainable"}


def sample(
    model: str, time_steps: int, batch_size: int, device: str = "cpu", name: str = ""
) -> tuple[SpikingNetwork, Tensor, Tensor]:
    """A calibrated network for 28x28 images, and a batch of noise that changes in time.

    name: the rule that the network is for.
    """
    generator = torch.Generator().manual_seed(0)
    encoding = Encoding("rate", time_steps, (0, 1), 0.0, 1.0)
    network = build(model, (1, 28, 28), 10, encoding, **classifiers(name))
    shape = (time_steps, batch_size, *network.input_shape)
    x = (torch.rand(shape, generator=generator) < 0.2).float()
    y = torch.randint(0, 10, (batch_size,), generator=generator)
    network.calibrate(x, generator)
    return network.to(device), x.to(device), y.to(device)


def measure(
    name: str, model: str, time_steps: int, batch_size: int, device: str = "cpu", repeats: int = 3
) -> Row:
    """One row: a rule's bytes and seconds for one batch."""
    network, x, y = sample(model, time_steps, batch_size, device, name)
    learn = rule(name)

    def batch() -> None:
        network.zero_grad()
        learn(network, x, y, F.cross_entropy)

    row: Row = {
        "what": name,
        "size": f"{'x'.join(map(str, network.input_shape))}-{network.description}-10",
        "batch": batch_size,
        "T": time_steps,
        "device": device,
    }
    threads = torch.get_num_threads()
    batch()
    settle(threads)
    if device != "cpu":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        batch()
        if device != "cpu":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    row["seconds"] = round(min(seconds), 6)
    if device != "cpu":
        row["device_bytes"] = torch.cuda.max_memory_allocated()
    row["saved_bytes"] = peak_saved_bytes(batch)
    row["peak_bytes"] = peak_bytes(batch, device)
    return row


def rows(
    model: str,
    steps: Sequence[int],
    batch_size: int,
    device: str,
    repeats: int = 3,
    rules: Sequence[str] = tuple(RULES),
) -> list[Row]:
    """Every rule at every T, with ratios to bptt at the same T if it is among them."""
    table = []
    with exact():
        for time_steps in steps:
            peer: Row | None = None
            for name in sorted(rules):  # bptt first: the others are compared with it
                row = measure(name, model, time_steps, batch_size, device, repeats)
                peer = row if name == "bptt" else peer
                for key in ("saved_bytes", "peak_bytes", "device_bytes", "seconds"):
                    if key in row and peer is not None:
                        row[f"{key}_to_bptt"] = round(row[key] / peer[key], 4)
                table.append(row)
    return table


def arguments(description: str | None) -> argparse.ArgumentParser:
    """The options that this room's benches share."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", action="store_true", help="one JSON object and nothing else")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--batch", type=int, default=128, help="samples a batch")
    parser.add_argument(
        "--rules", nargs="*", default=sorted(RULES), choices=sorted(RULES), help="all if not said"
    )
    return parser


def main() -> None:
    """The command line."""
    parser = arguments((__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="mlp", help="mlp, lenet, or layers such as 8c5-2a-128")
    parser.add_argument("--steps", type=int, nargs="+", default=[4, 16, 64])
    options = parser.parse_args()
    table = rows(options.model, options.steps, options.batch, options.device, rules=options.rules)
    show(table, options.json, threads=torch.get_num_threads())


if __name__ == "__main__":
    main()
