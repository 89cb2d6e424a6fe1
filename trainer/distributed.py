"""Training on several processes (``torchrun``): each takes a part of every batch.

A sample's gradients add up locally over its T steps; once a batch (for rules that update within a
batch, once an update) the processes' sums are added up, weighted by their samples, so that the
update is that of one process with the whole batch. Order, augmentation and what a rule draws come
from the same generators everywhere. Batch norms see their own part of a batch; their running
statistics are averaged.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from loihi.errors import PumiceError


@dataclass(frozen=True)
class World:
    """The processes of a run. rank: which of ``size`` this one is."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes, and prints."""
        return self.rank == 0

    def part(self, samples: int) -> NDArray[np.int64]:
        """Which samples of a batch are this process's."""
        return np.arange(self.rank, samples, self.size)

    def add_up(self, parameters: Iterable[nn.Parameter], share: float) -> None:
        """Gradients of all processes, each times its ``share`` of the batch's samples."""
        if self.size == 1:
            return
        held = list(parameters)
        # A process without a sample, or a rule that left something out, still takes part.
        for p in held:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
        grads = [p.grad for p in held if p.grad is not None]
        flat = torch.cat([g.reshape(-1) for g in grads]) * share
        torch.distributed.all_reduce(flat)
        for grad, part in zip(grads, flat.split([g.numel() for g in grads]), strict=True):
            grad.copy_(part.view_as(grad))

    def same(self, module: nn.Module) -> None:
        """The first process's parameters and buffers for all."""
        if self.size > 1:
            for tensor in (*module.parameters(), *module.buffers()):
                torch.distributed.broadcast(tensor.detach(), 0)

    def average(self, buffers: Iterable[Tensor]) -> None:
        """Running statistics: the mean over the processes."""
        if self.size > 1:
            for buffer in buffers:
                torch.distributed.all_reduce(buffer)
                buffer /= self.size

    def total(self, *numbers: float) -> list[float]:
        """Each number summed over the processes."""
        if self.size == 1:
            return list(numbers)
        sums = torch.tensor(numbers, dtype=torch.float64)
        torch.distributed.all_reduce(sums)
        return [float(n) for n in sums]

    def wait(self) -> None:
        """Until all are here."""
        if self.size > 1:
            torch.distributed.barrier()


@contextlib.contextmanager
def world(device: str) -> Iterator[tuple[World, str]]:
    """The processes that torchrun started, or this one alone; and this process's device."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World(), device
        return
    if not torch.distributed.is_available():
        raise PumiceError("this PyTorch cannot train on several processes: run without torchrun")
    if device.startswith("cuda"):
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    # gloo also reduces GPU tensors, but through the host: nccl for those, gloo for the rest.
    torch.distributed.init_process_group("cpu:gloo,cuda:nccl" if "cuda" in device else "gloo")
    try:
        yield World(torch.distributed.get_rank(), torch.distributed.get_world_size()), device
    finally:
        torch.distributed.destroy_process_group()
