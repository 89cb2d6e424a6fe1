"""Normalisations of synaptic input, of weights or a batch, that fold into the chip's integers."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from trainer.memory import order

WEIGHT_STD = 16.0
"""Standard deviation of new weights: fine enough for the grid of even integers, far from ±254."""
NORMS = ("none", "ws", "bn")


class Moments(NamedTuple):
    """Mean and variance of each channel, ``[C]``, and of how many samples they are."""

    mean: Tensor
    var: Tensor
    samples: int


class WeightNorm(nn.Module):
    """Weight standardisation (Qiao et al. 2019, arXiv:1903.10520): a function of weights alone.

    Each output channel's weights get mean 0 and standard deviation ``gain`` · 16 weight units; what
    the chip holds is the result, on the grid.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(channels))

    def forward(self, weight: Tensor) -> Tensor:
        rows = weight.flatten(1)
        spread = rows.var(1, unbiased=False, keepdim=True)
        rows = (rows - rows.mean(1, keepdim=True)) * torch.rsqrt(spread + 1e-8)
        return (rows * self.gain[:, None] * WEIGHT_STD).view_as(weight)


class ChannelMoments(torch.autograd.Function):
    """Mean and variance of each channel of ``[N, C, ...]``, ``[C]`` each: in two passes, a tenth of
    the time of ``torch.var_mean`` over these dimensions on a CPU."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        ctx.count = x.numel() // x.shape[1]
        if order(x) == torch.channels_last:
            rows, axes, channel = x.permute(0, 2, 3, 1).flatten(0, 2), [0], [1, -1]
        else:
            rows, axes, channel = x.reshape(*x.shape[:2], -1), [0, 2], [-1, 1]
        mean = rows.sum(axes) / ctx.count
        off = rows - mean.view(channel)
        var = off.mul_(off).sum(axes) / ctx.count
        ctx.save_for_backward(x, mean)
        return mean, var

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        to_mean, to_var = grads
        x, mean = ctx.saved_tensors
        # dmean/dx = 1/n, dvar/dx = 2 (x − mean) / n
        slope = 2 * to_var / ctx.count
        start = to_mean / ctx.count - slope * mean
        shape = (-1, *[1] * (x.dim() - 2))
        return torch.addcmul(start.reshape(shape), x, slope.reshape(shape))


class BatchNorm(nn.Module):
    """Batch normalisation of synaptic input, per step, folded into integers wherever it is used::

        γ (a − μ) / σ + β  =  (w γ / σ) x + (β − μ γ / σ)

    so that weights γ w / σ and a bias remain. In training μ and σ are those of the step's batch,
    and the folded weights are rounded with them; else the running ones, whose folding the chip
    holds. Everything is in weight units: γ is the standard deviation that comes out.
    """

    running_mean: Tensor
    running_var: Tensor
    momentum, eps = 0.1, 1e-3

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels))
        self.beta = nn.Parameter(torch.zeros(channels))
        self.frozen = False
        self.most = 0  # samples of the largest batch so far
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def fold(self, gamma: Tensor, beta: Tensor, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
        """Factors of the weights and biases, ``[channels]`` each."""
        scale = gamma * torch.rsqrt(var + self.eps)
        return scale, beta - mean * scale

    def fold_of(self, product: Tensor, fixed: bool = False) -> tuple[Tensor, Moments]:
        """:meth:`fold`, ``[2, channels]``, by the statistics of ``product`` ``[N, C, ...]``; and
        these, mean and variance, without gradient. fixed: γ and β get none either."""
        mean, var = ChannelMoments.apply(product)
        own: list[Tensor] = [self.gamma, self.beta]
        gamma, beta = (p.detach() for p in own) if fixed else own
        fold = torch.stack(self.fold(gamma, beta, mean, var))
        return fold, Moments(mean.detach(), var.detach(), len(product))

    @torch.no_grad()
    def follow(self, step: Moments) -> None:
        """The running statistics go a little towards a step's.

        The fewer samples it has the less: an epoch's last batch may be one sample, whose variance
        is 0, just before the network is tested and frozen.
        """
        if self.frozen:
            return
        self.most = max(self.most, step.samples)
        share = step.samples / self.most
        momentum = self.momentum if share == 1 else 1 - (1 - self.momentum) ** share
        self.running_mean.lerp_(step.mean, momentum)
        self.running_var.lerp_(step.var, momentum)


def per_channel(x: Tensor, dims: int) -> Tensor:
    """``[out]`` against weights of ``dims`` axes, outputs first."""
    return x.view(-1, *[1] * (dims - 1))
