"""Steps without a graph, for rules that only need the state to go on.

SLTT-K takes most of its steps so, and checkpointed BPTT its first way through a batch. A chain of
dense layers on the chip's grid is then done in the chip's own types: messages and weights of 8
bits, sums of 32, one pass over memory for the neurons, and the readout's product once for all the
steps. The numbers are those of :meth:`trainer.models.SpikingNetwork.step`, to the last bit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from loihi import formats
from trainer import grid, kernels
from trainer.layers import Layer
from trainer.neurons import REGISTER, Chip, Hard, State
from trainer.products import int8_product, times
from trainer.synapses import Dense

if TYPE_CHECKING:
    from trainer.models import SpikingNetwork

STEP = grid.WEIGHT_STEP * REGISTER
"""Weights are multiples of it, in register units."""


def able(network: SpikingNetwork) -> bool:
    """Whether :func:`skip` applies, at this batch: see what is asked."""
    x, *hidden = network._x, *network.chain
    last = hidden.pop()
    return (
        int8_product() is not None
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and bool(hidden)
        and not network.local_layers
        and network._tracing is None
        and not any(network._wraps[:-1])
        and all(_plain(layer) and _plain_neurons(layer) for layer in hidden)
        and _plain(last)
        and last.neurons is None
    )


def _plain(layer: Layer) -> bool:
    alone = layer.sources is None and not layer.links and layer.carry is None
    return alone and type(layer.synapse) is Dense and layer.peak <= 127 and not layer.batch_norms


def _plain_neurons(layer: Layer) -> bool:
    n = layer.neurons
    if n is None or not isinstance(n.form, Chip) or isinstance(n.form, Hard):
        return False
    return n.bias is None and n.du is None and n.vth.dim() == n.dv.dim() == 0


@torch.no_grad()
def skip(network: SpikingNetwork, first: int, last: int) -> bool:
    """Steps ``first`` to ``last`` − 1 of a network that is :func:`able`.

    False: nothing is done, as the readout's membrane might wrap within these steps.
    """
    product, hidden, limit = int8_product(), network.chain[:-1], float(formats.STATE_MAX - 1)
    samples = network._x.shape[1]
    states = []
    for layer, ready, before in zip(hidden, network._ready, network._states, strict=False):
        assert ready.theta is not None and ready.alpha is not None
        shape = (samples, *layer.synapse.output_shape)
        m = torch.zeros(shape) if before is None else before.m.detach().clone()
        s = torch.zeros(shape, dtype=torch.int8) if before is None else before.s.to(torch.int8)
        states.append((m, s, float(ready.alpha.value), float(ready.theta.value)))
    counts = torch.zeros_like(states[-1][0])  # spikes of the last hidden layer
    flat = [(m.view(-1).numpy(), s.view(-1).numpy()) for m, s, _, _ in states]
    nothing = counts.view(-1).numpy()[:0]
    static = network._static.get((0, 0))
    for t in range(first, last):
        message: Tensor | None = None
        for index, (_, s, alpha, theta) in enumerate(states):
            if index == 0 and static is not None:
                a, unit = static.value.detach(), 1.0
            else:
                if message is None:
                    message = network._x[t].flatten(1).to(torch.int8)
                a, unit = product(message, network._ready[index].weights[0].int8(STEP).T), STEP
            counted = counts.view(-1).numpy() if index == len(states) - 1 else nothing
            kernels.skip_step(
                a.reshape(-1).numpy(), unit, *flat[index], alpha, theta, limit, counted
            )
            message = s
    weight = network._ready[-1].weights[0].value.detach()
    total, so_far = times(counts, weight), network._total
    if network._wraps_total:
        bound = float((times(counts, weight.abs()) + (0 if so_far is None else so_far.abs())).max())
        if bound >= formats.STATE_MAX:
            return False
    network._total = total if so_far is None else so_far + total
    network._states[:-1] = [
        State(m, s.float(), ready.theta.value.detach())
        for (m, s, _, _), ready in zip(states, network._ready, strict=False)
        if ready.theta is not None
    ]
    return True
