"""Layers: a synapse (dense, convolution, average pooling) and the neurons that it feeds.

What a layer needs in every step of a batch (weights and thresholds on the grid, decays) is computed
once a batch: :meth:`Layer.prepare`. On the grid everything is in register units, 64 a weight unit,
so that synaptic input needs no shift of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

import loihi
from loihi import formats
from loihi.errors import PumiceError
from trainer import grid
from trainer.neurons import REGISTER, Neurons, State, current, step

Shape = tuple[int, ...]
Share = Callable[[Tensor], Tensor]
"""Takes a tensor that every step of a batch uses, gives back what the steps are to use."""

POOL_WEIGHT = 64
"""Every weight of an average pooling: a power of two, so that a sum of spikes scales exactly."""


class ModelError(PumiceError):
    """A model that cannot be built, or data that do not fit it."""


class Synapse(nn.Module):
    """A linear map of messages to neurons; ``weight`` in weight units, on the grid when used."""

    output_shape: Shape
    fan_in: int

    def weights(self, on_grid: bool) -> Tensor:
        """The weights that the forward pass uses: register units on the grid, else real."""
        assert isinstance(self.weight, Tensor)
        return grid.weight(self.weight) * REGISTER if on_grid else self.weight

    def forward(self, x: Tensor, weight: Tensor) -> Tensor:
        """Synaptic input ``[N, *output_shape]`` from messages ``[N, *shape]``."""
        raise NotImplementedError

    def freeze(self) -> loihi.Synapse:
        """The chip's synapse."""
        raise NotImplementedError

    def reach(self) -> float:
        """The largest sum of |weight| that a neuron has, in weight units: its input's bound."""
        assert isinstance(self.weight, Tensor)
        return float(grid.weight(self.weight).detach().flatten(1).abs().sum(1).max())


class Dense(Synapse):
    """All to all; an image is flattened in C, H, W order."""

    def __init__(self, shape: Shape, out: int) -> None:
        super().__init__()
        self.fan_in = math.prod(shape)
        self.output_shape = (out,)
        self.weight = nn.Parameter(torch.empty(out, self.fan_in))

    def forward(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.linear(x.flatten(1), weight)

    def freeze(self) -> loihi.Dense:
        return loihi.Dense(_integers(grid.weight(self.weight)))


class Conv(Synapse):
    """Convolution with a square kernel, zero padded, stride 1."""

    def __init__(self, shape: Shape, out: int, kernel: int, padding: int = 0) -> None:
        super().__init__()
        if len(shape) != 3:
            raise ModelError(f"a convolution needs images (C, H, W), what it gets is {shape}")
        channels, height, width = shape
        self.padding = padding
        self.output_shape = (
            out,
            height + 2 * padding - kernel + 1,
            width + 2 * padding - kernel + 1,
        )
        if min(self.output_shape) < 1:
            raise ModelError(f"a {kernel}x{kernel} kernel does not fit {height}x{width} pixels")
        self.fan_in = channels * kernel**2
        self.weight = nn.Parameter(torch.empty(out, channels, kernel, kernel))

    def forward(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.conv2d(x, weight, padding=self.padding)

    def freeze(self) -> loihi.Conv:
        return loihi.Conv(_integers(grid.weight(self.weight)), padding=self.padding)


class AvgPool(Synapse):
    """Average pooling: each channel on its own, all weights equal and fixed."""

    def __init__(self, shape: Shape, kernel: int) -> None:
        super().__init__()
        if len(shape) != 3:
            raise ModelError(f"pooling needs images (C, H, W), what it gets is {shape}")
        channels, height, width = shape
        if min(height, width) < kernel:
            raise ModelError(f"{kernel}x{kernel} pooling does not fit {height}x{width} pixels")
        self.kernel, self.channels = kernel, channels
        self.output_shape = (channels, height // kernel, width // kernel)
        self.fan_in = kernel**2

    def weights(self, on_grid: bool) -> Tensor:
        return torch.tensor(POOL_WEIGHT * REGISTER if on_grid else 1 / self.kernel**2)

    def forward(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.avg_pool2d(x, self.kernel, divisor_override=1) * weight

    def averaging(self, on_grid: bool) -> dict[str, Any]:
        """What makes neurons pass the mean rate of their inputs on: settings that do not learn.

        They spike for half of their inputs, at once or one after the other: no leak, no current
        memory. The threshold lies between two counts of spikes. Left to learn, it settles on a
        count, where rounding makes it spike for one input more or less from batch to batch.
        """
        weight = float(self.weights(on_grid)) / (REGISTER if on_grid else 1.0)
        return {"vth": weight * (self.fan_in - 1) / 2, "dv": 0.0, "learns": False}

    def freeze(self) -> loihi.Conv:
        weight = torch.full((self.channels, 1, self.kernel, self.kernel), POOL_WEIGHT)
        return loihi.Conv(_integers(weight), stride=self.kernel, groups=self.channels)

    def reach(self) -> float:
        return POOL_WEIGHT * self.fan_in


class Ready(NamedTuple):
    """A layer's numbers for one batch: weights, θ, α and β (kept of m and u), bias."""

    weight: Tensor
    theta: Tensor | None = None
    alpha: Tensor | None = None
    beta: Tensor | None = None
    bias: Tensor | None = None


class Layer(nn.Module):
    """A synapse and its neurons; without neurons, the readout integrator.

    peak: the largest payload or spike that can come in, in magnitude.
    """

    def __init__(
        self, synapse: Synapse, neurons: Neurons | None, peak: int, on_grid: bool = True
    ) -> None:
        super().__init__()
        self.synapse, self.neurons, self.peak, self.on_grid = synapse, neurons, peak, on_grid
        # Below half the register's range (in weight units) the current cannot wrap: worth knowing,
        # as it saves the test for it in every step.
        bound = synapse.fan_in * max(grid.WEIGHT_MAX, POOL_WEIGHT) * peak
        self.can_wrap = on_grid and bound * REGISTER >= formats.STATE_MAX
        if isinstance(synapse, Conv) and bound >= formats.STATE_MAX:
            raise ModelError(
                f"{synapse.fan_in} inputs of up to {peak} can overflow the chip's 24-bit "
                "convolution: use smaller payloads"
            )

    @property
    def remembers_current(self) -> bool:
        """Whether the synaptic current outlives a step (du < 4096)."""
        return self.neurons is not None and self.neurons.du is not None

    def prepare(self, share: Share) -> Ready:
        """This batch's numbers; each passes through ``share``."""
        weight = share(self.synapse.weights(self.on_grid))
        if self.neurons is None:
            return Ready(weight)
        neurons = self.neurons
        biases = neurons.biases()
        if biases is not None and len(self.synapse.output_shape) == 3:
            biases = biases[:, None, None]
        return Ready(
            weight,
            share(neurons.thresholds()),
            share(neurons.kept(neurons.dv)),
            None if neurons.du is None else share(neurons.kept(neurons.du)),
            None if biases is None else share(biases),
        )

    def receive(self, x: Tensor, ready: Ready) -> Tensor:
        """What a step's messages ``[N, *shape]`` add to the current ``[N, *output_shape]``."""
        a = self.synapse(x, ready.weight)
        if a.is_cuda and self.on_grid and isinstance(self.synapse, Conv):
            # cuDNN may go by Winograd or FFT, which hit the integers only nearly.
            a = grid.whole(a, REGISTER)
        if self.can_wrap and not self.remembers_current and self.neurons is not None:
            a = current(a)
        return a

    def advance(self, a: Tensor, before: State | None, ready: Ready) -> State:
        """The state after a step that received ``a``; ``before`` None: from rest."""
        neurons = self.neurons
        assert neurons is not None and ready.theta is not None and ready.alpha is not None
        if before is None:
            rest = torch.zeros_like(a)
            u = rest if self.remembers_current else None
            before = State(rest, rest, ready.theta.detach(), u)
        u = None if before.u is None else current(a, before.u, ready.beta)
        i = a if u is None else u
        if ready.bias is not None:
            i = i + ready.bias
        m, s = step(i, before, ready.alpha, ready.theta, neurons.form, neurons.surrogate)
        return State(m, s, ready.theta, u)

    def freeze(self) -> loihi.Layer:
        """The layer in integers."""
        if not self.on_grid:
            raise ModelError("only neurons on the chip's grid (hard reset) can be frozen")
        if self.neurons is None:
            return loihi.Layer(self.synapse.freeze(), loihi.INTEGRATOR)
        n = self.neurons
        neuron = loihi.Neuron(
            du=formats.DECAY_ONE if n.du is None else int(grid.decay(n.du)),
            dv=int(grid.decay(n.dv)),
            vth=int(grid.threshold(n.vth)),
            bias=0 if n.bias is None else _integers(grid.bias(n.bias)),
            bias_exp=grid.BIAS_EXP,
        )
        return loihi.Layer(self.synapse.freeze(), neuron)


def _integers(x: Tensor) -> NDArray[np.int32]:
    return x.detach().cpu().numpy().astype(np.int32)
