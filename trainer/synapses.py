"""Synapses: dense and convolution; :mod:`trainer.pools` has those that average.

On the grid everything is in register units, 64 a weight unit, so that synaptic input needs no shift
of its own.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import loihi
from loihi.errors import PumiceError
from trainer import grid
from trainer.convolutions import Geometry, convolve, gradients
from trainer.memory import pixel_by_pixel
from trainer.neurons import REGISTER
from trainer.norms import NORMS, BatchNorm, WeightNorm, per_channel
from trainer.products import add_gradient, linear, times
from trainer.shared import Shared

Shape = tuple[int, ...]
Pair = tuple[int, int]


class ModelError(PumiceError):
    """A model that cannot be built, or data that do not fit it."""


class Synapse(nn.Module):
    """A linear map of messages to neurons; ``weight`` in weight units, on the grid when used."""

    output_shape: Shape
    fan_in: int
    norm: WeightNorm | BatchNorm | None
    pixels: int = 1
    """Over how many pixels the chip repeats each weight."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = None

    def normalise(self, kind: str) -> None:
        """``none``, weight standardisation ``ws``, or batch norm ``bn``."""
        if kind not in NORMS:
            raise ModelError(f"norm {kind!r} is unknown: use one of {', '.join(NORMS)}")
        kinds: dict[str, type[WeightNorm | BatchNorm]] = {"ws": WeightNorm, "bn": BatchNorm}
        self.norm = None
        if kind in kinds:
            self.norm = kinds[kind](self.output_shape[0])

    def real_weights(self) -> Tensor:
        """The weights before the grid, what is a function of weights alone folded in."""
        assert isinstance(self.weight, Tensor)
        return self.norm(self.weight) if isinstance(self.norm, WeightNorm) else self.weight

    def folded(self) -> tuple[Tensor, Tensor | None]:
        """Weights and biases ``[channels]`` with all norms in, running statistics; not rounded."""
        weight = self.real_weights()
        if not isinstance(self.norm, BatchNorm):
            return weight, None
        n = self.norm
        scale, offset = n.fold(n.gamma, n.beta, n.running_mean, n.running_var)
        return weight * per_channel(scale, weight.dim()), offset

    def weights(self, on_grid: bool) -> Tensor:
        """The weights that the forward pass uses: register units on the grid, else real."""
        weight, _ = self.folded()
        return grid.weight(weight) * REGISTER if on_grid else weight

    def laid_out(self, weight: Tensor) -> Tensor:
        """The weights in the memory order in which this machine multiplies them fastest."""
        return weight

    def forward(self, x: Tensor, weight: Shared, step: float = 0.0) -> Tensor:
        """Synaptic input ``[N, *output_shape]`` from messages ``[N, *shape]``.

        step: see :func:`trainer.products.linear`.
        """
        return self.plain(x, weight.now())

    def plain(self, x: Tensor, weight: Tensor, step: float = 0.0) -> Tensor:
        """The same by one weight tensor."""
        raise NotImplementedError

    def patches(self, x: Tensor) -> Tensor:
        """The messages as each neuron sees them, ``[N, 1 or positions, …]``: see per_synapse."""
        raise NotImplementedError

    def traced(self, x: Tensor) -> Tensor:
        """The messages as a trace a presynaptic neuron holds them."""
        return x

    def spread(self, keep: Tensor) -> Tensor:
        """A number a neuron ``[N, *output_shape]`` in the layout of per-synapse traces."""
        raise NotImplementedError

    def of_messages(self, x: Tensor, weight: Shared, delta: Tensor) -> Tensor:
        """∂E/∂x of an error ``delta`` ``[N, *output_shape]``; of x only its shape and order are
        looked at."""
        raise NotImplementedError

    def of_weights(self, trace: Tensor, per_synapse: bool, weight: Tensor, delta: Tensor) -> Tensor:
        """∂E/∂w, with a trace in the messages' place: of :meth:`traced`, or of :meth:`patches`."""
        raise NotImplementedError

    def add_gradient(self, trace: Tensor, delta: Tensor, weight: Shared) -> None:
        """Adds ∂E/∂w, with a trace of :meth:`traced` in the messages' place, to the weights'."""
        weight.add(self.of_weights(trace, False, weight.value.detach(), delta))

    def freeze(self) -> loihi.Dense | loihi.Conv:
        """The chip's synapse."""
        raise NotImplementedError

    def reach(self) -> float:
        """The largest sum of |weight| that a neuron has, in weight units: its input's bound."""
        weight, _ = self.folded()
        return float(grid.weight(weight).detach().flatten(1).abs().sum(1).max()) * self.pixels


class Dense(Synapse):
    """All to all; an image is flattened in C, H, W order."""

    def __init__(self, shape: Shape, out: int) -> None:
        super().__init__()
        self.fan_in = math.prod(shape)
        self.output_shape = (out,)
        self.weight = nn.Parameter(torch.empty(out, self.fan_in))

    def forward(self, x: Tensor, weight: Shared, step: float = 0.0) -> Tensor:
        return linear(x.flatten(1), weight, step)

    def plain(self, x: Tensor, weight: Tensor, step: float = 0.0) -> Tensor:
        return F.linear(x.flatten(1), weight)

    def patches(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, None]

    def spread(self, keep: Tensor) -> Tensor:
        return keep[..., None]

    def of_messages(self, x: Tensor, weight: Shared, delta: Tensor) -> Tensor:
        return times(delta, weight.matrix.T).view_as(x)

    def of_weights(self, trace: Tensor, per_synapse: bool, weight: Tensor, delta: Tensor) -> Tensor:
        if per_synapse:
            return torch.einsum("no,noi->oi", delta, trace.expand(*delta.shape, -1))
        return times(delta.T, trace.flatten(1).T)

    def add_gradient(self, trace: Tensor, delta: Tensor, weight: Shared) -> None:
        add_gradient(trace.flatten(1), delta, weight)

    def freeze(self) -> loihi.Dense:
        return loihi.Dense(grid.integers(grid.weight(self.folded()[0])))


class Conv(Synapse):
    """Convolution, zero padded.

    kernel, padding, stride, dilation: one number, or (vertical, horizontal). groups: channels in
    as many parts, each with its own kernels.
    """

    def __init__(
        self,
        shape: Shape,
        out: int,
        kernel: int | Pair,
        padding: int | Pair = 0,
        stride: int | Pair = 1,
        dilation: int | Pair = 1,
        groups: int = 1,
    ) -> None:
        super().__init__()
        if len(shape) != 3:
            raise ModelError(f"a convolution needs images (C, H, W), what it gets is {shape}")
        channels, *size = shape
        if channels % groups or out % groups:
            raise ModelError(f"{channels} channels to {out} do not divide into {groups} groups")
        self.kernel, self.padding, self.stride, self.dilation = (
            (x, x) if isinstance(x, int) else x for x in (kernel, padding, stride, dilation)
        )
        self.image, self.groups = shape, groups
        # Whether one position of the kernel is the whole image.
        self.is_dense = groups == 1 and not max(self.padding) and tuple(size) == self.kernel
        self.geometry = Geometry(self.stride, self.padding, self.dilation, groups)
        reach = [d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilation, strict=True)]
        padded = [n + 2 * p for n, p in zip(size, self.padding, strict=True)]
        if any(n < r for n, r in zip(padded, reach, strict=True)):
            words = "x".join(map(str, reach))
            raise ModelError(
                f"a {words} kernel does not fit {size[0]}x{size[1]} pixels: "
                "use padding, a smaller kernel, or larger images"
            )
        image = ((n - r) // s + 1 for n, r, s in zip(padded, reach, self.stride, strict=True))
        self.output_shape = (out, *image)
        self.fan_in = channels // groups * math.prod(self.kernel)
        self.weight = nn.Parameter(torch.empty(out, channels // groups, *self.kernel))

    def laid_out(self, weight: Tensor) -> Tensor:
        # oneDNN: up to eight times as fast where the input has few channels; and what comes out
        # has the same order, in which pooling adds whole rows.
        if weight.device.type != "cpu" or weight.dtype != torch.float32 or self.is_dense:
            return weight
        return pixel_by_pixel(weight)

    def forward(self, x: Tensor, weight: Shared, step: float = 0.0) -> Tensor:
        if self.is_dense:
            return linear(x.flatten(1), weight, step)[..., None, None]
        return convolve(x, weight.now(), self.geometry, step, weight)

    def plain(self, x: Tensor, weight: Tensor, step: float = 0.0) -> Tensor:
        return convolve(x, weight, self.geometry, step)

    def patches(self, x: Tensor) -> Tensor:
        columns = F.unfold(x, self.kernel, self.dilation, self.padding, self.stride)
        if self.groups == 1:
            return columns.transpose(1, 2)[:, None]
        # Each output channel sees its own group's.
        parts = columns.unflatten(1, (self.groups, -1)).transpose(2, 3)
        return parts.repeat_interleave(self.output_shape[0] // self.groups, dim=1)

    def spread(self, keep: Tensor) -> Tensor:
        return keep.flatten(2)[..., None]

    def of_messages(self, x: Tensor, weight: Shared, delta: Tensor) -> Tensor:
        value, x = weight.value.detach(), torch.empty_like(x, device=delta.device)
        found, _ = gradients(delta, x, value, self.geometry, True, False, weight)
        assert found is not None
        return found

    def of_weights(self, trace: Tensor, per_synapse: bool, weight: Tensor, delta: Tensor) -> Tensor:
        if not per_synapse:
            _, found = gradients(delta, trace, weight, self.geometry, False, True)
            assert found is not None
            return found
        errors = delta.flatten(2)
        trace = trace.expand(*errors.shape, -1)
        return torch.einsum("nol,nolk->ok", errors, trace).view_as(weight)

    def add_gradient(self, trace: Tensor, delta: Tensor, weight: Shared) -> None:
        if self.is_dense:
            add_gradient(trace.flatten(1), delta.flatten(1), weight)
        else:
            super().add_gradient(trace, delta, weight)

    def freeze(self) -> loihi.Conv:
        weight = grid.integers(grid.weight(self.folded()[0]))
        return loihi.Conv(weight, self.stride, self.padding, self.dilation, self.groups)
