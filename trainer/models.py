"""Networks from a one-line description, stepped through time for the rules.

An architecture is written as in the papers, layers joined by ``-``, the output layer left out::

    512-512                    two dense layers of 512 neurons
    8c5-2a-16c5-2a-128         8 channels of 5x5 convolution, 2x2 average pooling, …, dense 128
    8c3p1                      3x3 convolution, padded by 1
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import loihi
from loihi import Encoding, formats
from trainer import grid
from trainer.layers import (
    AvgPool,
    Conv,
    Dense,
    Layer,
    ModelError,
    Ready,
    Shape,
    Synapse,
)
from trainer.neurons import REGISTER, Neurons, State, current
from trainer.surrogates import Surrogate

MODELS = {"mlp": "512-512", "lenet": "16c5-2a-32c5-2a-128"}
SMALL_LENET = "16c3p1-2a-32c3p1-2a-128"
"""LeNet for images too small for two unpadded 5x5 convolutions."""
WEIGHT_STD = 16.0
"""Standard deviation of new weights: fine enough for the grid of even integers, far from ±254."""

_TOKEN = re.compile(r"(?P<dense>\d+)|(?P<conv>\d+)c(?P<kernel>\d+)(p(?P<pad>\d+))?|(?P<pool>\d+)a")


def architecture(model: str, input_shape: Shape, hidden: Sequence[int] | None = None) -> str:
    """The architecture in full: of a model's name, or of an architecture as it stands.

    hidden: sizes of the hidden dense layers, in place of the model's own.
    """
    text = MODELS.get(model, model)
    if model == "lenet" and len(input_shape) == 3 and min(input_shape[1:]) < 16:
        text = SMALL_LENET
    tokens = text.split("-")
    for token in tokens:
        if not _TOKEN.fullmatch(token):
            raise ModelError(
                f"model {model!r}: use {', '.join(MODELS)}, or layers such as 8c5-2a-128 "
                f"({token!r} is none)"
            )
    if hidden is not None:
        tokens = [t for t in tokens if not t.isdigit()] + [str(n) for n in hidden]
    return "-".join(tokens)


def _synapse(token: str, shape: Shape) -> Synapse:
    found = _TOKEN.fullmatch(token)
    assert found is not None
    sizes = {name: int(size) for name, size in found.groupdict().items() if size is not None}
    if min(n for name, n in sizes.items() if name != "pad") < 1:
        raise ModelError(f"layer {token!r}: sizes start at 1")
    if "dense" in sizes:
        return Dense(shape, sizes["dense"])
    if "pool" in sizes:
        return AvgPool(shape, sizes["pool"])
    return Conv(shape, sizes["conv"], sizes["kernel"], sizes.get("pad", 0))


class _Shared:
    """The tensors that all steps of a batch use: computed once, and once differentiated.

    cut: the steps get leaves in place of the tensors, on which their gradients add up; each step's
    graph then ends there and can go. :meth:`gather` sends the sums on, once.
    """

    def __init__(self, cut: bool) -> None:
        self.cut = cut
        self.pairs: list[tuple[Tensor, Tensor]] = []

    def __call__(self, tensor: Tensor) -> Tensor:
        if not self.cut or not tensor.requires_grad:
            return tensor
        leaf = tensor.detach().requires_grad_()
        self.pairs.append((tensor, leaf))
        return leaf

    def gather(self) -> None:
        # Last in, first out: a later tensor may have been computed from an earlier one's leaf.
        while self.pairs:
            tensor, leaf = self.pairs.pop()
            if leaf.grad is not None:
                tensor.backward(leaf.grad)


class SpikingNetwork(nn.Module):
    """A chain of layers, stepped through time: what a rule trains and what freezes for the chip.

    For a rule (see :mod:`trainer.rules`): :meth:`reset`, then for each t :meth:`step`, with
    :meth:`detach` or :meth:`detach_reset` between steps as the rule has it, then :meth:`gather`.

    The output of a step is the last layer's synaptic input (readout ``membrane``; the chip's
    integrator adds it up) or its spikes (``spikes``), in units of ``temperature``.
    """

    temperature: Tensor

    def __init__(
        self,
        layers: Sequence[Layer],
        input_shape: Shape,
        encoding: Encoding,
        description: str = "",
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.input_shape, self.encoding, self.description = input_shape, encoding, description
        self.register_buffer("temperature", torch.tensor(1.0))
        self._ready: list[Ready] = []

    @property
    def chain(self) -> list[Layer]:
        """The layers, typed."""
        return [layer for layer in self.layers if isinstance(layer, Layer)]

    @property
    def readout(self) -> loihi.network.Readout:
        """``membrane`` or ``spikes``."""
        return "membrane" if self.chain[-1].neurons is None else "spikes"

    @property
    def classes(self) -> int:
        """Neurons of the last layer."""
        return math.prod(self.chain[-1].synapse.output_shape)

    # --- time ---------------------------------------------------------------------------------

    def reset(self, x: Tensor, cut: bool = False) -> None:
        """To rest, with the payloads ``[T, N, *input_shape]`` of the next batch.

        cut: quantised parameters, and the first synapse where the input does not change, become
        leaves that gather the gradients of all steps (see :meth:`gather`); without, they are part
        of one graph through all steps.
        """
        self._shared = _Shared(cut)
        self._ready = [layer.prepare(self._shared) for layer in self.chain]
        self._x = x
        self._states: list[State | None] = [None] * len(self._ready)
        self._total: Tensor | None = None
        # A static input gives the same synaptic input at every step: compute it once. Its gradient
        # is linear in the steps' deltas, so their sum through one product is exact.
        self._static: Tensor | None = None
        if len(x) > 1 and x.stride(0) == 0:
            self._static = self._shared(self.chain[0].receive(x[0], self._ready[0]))

    def step(self, t: int) -> Tensor:
        """One step, t from 0: the output o[t] ``[N, classes]``."""
        message = self._x[t]
        for index, (layer, ready) in enumerate(zip(self.chain, self._ready, strict=True)):
            if index == 0 and self._static is not None:
                a = self._static
            else:
                a = layer.receive(message, ready)
            if layer.neurons is None:
                message = a
                self._total = current(a.detach(), self._total, torch.ones((), device=a.device))
            else:
                state = layer.advance(a, self._states[index], ready)
                self._states[index] = state
                message = state.s
        if self.readout == "spikes":
            spikes = message.detach()
            self._total = spikes if self._total is None else self._total + spikes
        return message.flatten(1) / self.temperature

    def detach(self) -> None:
        """sg(state): the steps to come send no gradient to the steps before."""
        self._states = [None if s is None else s.detach() for s in self._states]

    def detach_reset(self) -> None:
        """sg(s) in the resets to come; the membranes keep their gradient."""
        self._states = [None if s is None else s.detach_reset() for s in self._states]

    def gather(self) -> None:
        """Sends what a ``cut`` batch gathered on to the parameters."""
        self._shared.gather()

    def read(self) -> Tensor:
        """Scores ``[N, classes]`` after the steps so far: the membrane, or the spike counts."""
        assert self._total is not None
        if self.readout == "spikes":
            return self._total.flatten(1)
        limit = formats.STATE_MAX - 1
        return self._total.flatten(1).clamp(-limit, limit)

    def forward(self, x: Tensor) -> Tensor:
        """Scores ``[N, classes]`` of payloads ``[T, N, *input_shape]``: those of the chip."""
        self.reset(x)
        for t in range(len(x)):
            self.step(t)
        return self.read()

    @torch.no_grad()
    def spikes(self, x: Tensor) -> list[NDArray[np.uint8]]:
        """Every layer's spikes ``[T, N, *shape]`` for payloads; none from a readout integrator."""
        self.reset(x)
        rows: list[list[NDArray[np.uint8]]] = [[] for _ in self.chain]
        for t in range(len(x)):
            self.step(t)
            for row, state, layer in zip(rows, self._states, self.chain, strict=True):
                shape = (x.shape[1], *layer.synapse.output_shape)
                s = torch.zeros(shape) if state is None else state.s.cpu()
                row.append(s.to(torch.uint8).numpy())
        return [np.stack(row) for row in rows]

    # --- parameters ---------------------------------------------------------------------------

    @torch.no_grad()
    def calibrate(self, x: Tensor, generator: torch.Generator) -> None:
        """New weights, and thresholds that suit them and the data: layer after layer, on a batch.

        Weights are drawn from N(0, WEIGHT_STD²); a threshold becomes the root mean square of its
        layer's synaptic input, so that some neurons spike at once, most in a few steps, and some
        never. The outputs' temperature is their root mean square, as a power of two.
        """
        message = x
        for layer in self.chain:
            weight = layer.synapse.weight if not isinstance(layer.synapse, AvgPool) else None
            if isinstance(weight, Tensor):
                draw = torch.randn(weight.shape, generator=generator)
                weight.copy_(draw * WEIGHT_STD)
            ready = layer.prepare(lambda tensor: tensor)
            received = torch.stack([layer.receive(step, ready) for step in message])
            rms = max(float(received.square().mean().sqrt()) / REGISTER, 1.0)
            if layer.neurons is None:
                self.temperature.fill_(REGISTER * 2.0 ** round(math.log2(rms)))
                break
            if weight is not None:
                layer.neurons.vth.fill_(min(round(rms), formats.VTH_MAX // 4))
            ready = layer.prepare(lambda tensor: tensor)
            state, out = None, []
            for a in received:
                state = layer.advance(a, state, ready)
                out.append(state.s)
            message = torch.stack(out)

    @torch.no_grad()
    def project(self) -> None:
        """Parameters back into the chip's ranges."""
        for layer in self.chain:
            if not layer.on_grid:
                continue
            if isinstance(layer.synapse, Dense | Conv):
                layer.synapse.weight.clamp_(-grid.WEIGHT_MAX, grid.WEIGHT_MAX)
            if layer.neurons is not None:
                layer.neurons.project()

    def freeze(self) -> loihi.Network:
        """The network in integers, equal to this one's forward pass spike for spike."""
        return loihi.Network(
            input_shape=self.input_shape,
            layers=tuple(layer.freeze() for layer in self.chain),
            encoding=self.encoding,
            readout=self.readout,
        )

    def exact_dtype(self) -> torch.dtype:
        """The float in which every sum of the forward pass is exact: float32 nearly always.

        float32 holds the integers below 2^24. A sum of products is safe in it, in any order, as
        long as Σ|w|·peak stays below; with a current that has memory, below 2^17, because 6 bits
        and the decayed current come on top.
        """
        for layer in self.chain:
            bits = 17 if layer.remembers_current else 24
            if layer.synapse.reach() * layer.peak >= 2**bits:
                return torch.float64
        return torch.float32


def build(
    model: str,
    input_shape: Shape,
    classes: int,
    encoding: Encoding,
    *,
    hidden: Sequence[int] | None = None,
    readout: str = "membrane",
    neuron: str = "chip",
    surrogate: Surrogate | None = None,
    bias: bool = False,
    dv: float = 0.0,
    du: float = float(formats.DECAY_ONE),
) -> SpikingNetwork:
    """A network with undrawn weights; :meth:`SpikingNetwork.calibrate` draws them.

    model: ``mlp``, ``lenet``, or an architecture.
    input_shape: ``(features,)`` or ``(C, H, W)``. Networks of dense layers only take it flat.
    classes: neurons of the last layer.
    neuron: ``chip`` (hard reset, on the grid), or the soft-reset forms ``A`` and ``B``.
    """
    text = architecture(model, input_shape, hidden)
    tokens = text.split("-")
    if all(token.isdigit() for token in tokens):
        input_shape = (math.prod(input_shape),)
    on_grid = neuron == "chip"
    peak = max(abs(n) for n in encoding.payload)
    shape: Shape = input_shape
    layers: list[Layer] = []
    for token in [*tokens, str(classes)]:
        synapse = _synapse(token, shape)
        last = len(layers) == len(tokens)
        neurons = None
        if not last or readout == "spikes":
            settings: dict[str, Any] = {
                "vth": 64.0 if on_grid else 1.0,
                "dv": dv,
                "du": du,
                "bias": bias,
            }
            if isinstance(synapse, AvgPool):
                settings = synapse.averaging(on_grid)
            channels = synapse.output_shape[0]
            neurons = Neurons(channels, form=neuron, surrogate=surrogate, **settings)
        layers.append(Layer(synapse, neurons, peak, on_grid))
        shape, peak = synapse.output_shape, 1
    return SpikingNetwork(layers, input_shape, encoding, text)
