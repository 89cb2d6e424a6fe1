"""Steps without a graph, for rules that only need the state to go on.

SLTT-K takes most of its steps so, and checkpointed BPTT its first way through a batch. A chain of
dense, convolutional and pooled layers on the chip's grid is then done in the chip's own types:
messages and weights of 8 bits, sums of 32, one pass over memory for the neurons, and the readout's
product once for all the steps. The numbers are those of
:meth:`trainer.models.SpikingNetwork.step`, to the last bit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from loihi import formats
from trainer import grid, kernels
from trainer.convolutions import int8_convolve, suits_int8
from trainer.layers import Layer
from trainer.memory import pixel_by_pixel
from trainer.neurons import REGISTER, Chip, Hard, State, flat
from trainer.pools import POOL_WEIGHT, AvgPool, Pooled, square_sums
from trainer.products import int8_product, times
from trainer.shared import Shared
from trainer.synapses import Conv, Synapse

if TYPE_CHECKING:
    from trainer.models import SpikingNetwork

STEP = grid.WEIGHT_STEP * REGISTER
"""Weights are multiples of it, in register units."""


def able(network: SpikingNetwork) -> bool:
    """Whether :func:`skip` applies, at this batch: see what is asked."""
    x, *hidden = network._x, *network.chain
    last, samples = hidden.pop(), x.shape[1]
    return (
        int8_product() is not None
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and bool(hidden)
        and not network.local_layers
        and network._tracing is None
        and all(_plain(layer, samples) and _plain_neurons(layer) for layer in hidden)
        and _plain(last, samples)
        and not isinstance(last.synapse, Conv | AvgPool)
        and last.neurons is None
    )


def _plain(layer: Layer, samples: int) -> bool:
    alone = layer.sources is None and not layer.links and layer.carry is None
    if not alone or layer.batch_norms:
        return False
    synapse = layer.synapse
    if isinstance(synapse, AvgPool):
        return layer.peak * synapse.fan_in <= 127
    if layer.peak * synapse.pixels > 127:
        return False
    if not isinstance(synapse, Conv) or synapse.is_dense:
        return True
    images = torch.Size((samples, *synapse.image))
    return not layer.signed and suits_int8(images, synapse.weight, synapse.geometry)


def _plain_neurons(layer: Layer) -> bool:
    n = layer.neurons
    if n is None or not isinstance(n.form, Chip) or isinstance(n.form, Hard):
        return False
    return n.bias is None and n.du is None and n.vth.dim() == n.dv.dim() == 0


@torch.no_grad()
def skip(network: SpikingNetwork, first: int, last: int) -> bool:
    """Steps ``first`` to ``last`` − 1 of a network that is :func:`able`.

    False: nothing is done, as a register might wrap within these steps.
    """
    hidden, limit = network.chain[:-1], float(formats.STATE_MAX - 1)
    samples = network._x.shape[1]
    states = []
    for layer, ready, before in zip(hidden, network._ready, network._states, strict=False):
        assert ready.theta is not None and ready.alpha is not None
        shape = (samples, *layer.synapse.output_shape)
        m = pixel_by_pixel(torch.zeros(shape) if before is None else before.m.detach().clone())
        s = torch.zeros_like(m, dtype=torch.int8)
        if before is not None:
            s.copy_(before.s)
        states.append((m, s, float(ready.alpha.value), float(ready.theta.value)))
    counts = torch.zeros_like(states[-1][1], dtype=torch.float32)  # spikes of the last hidden layer
    in_memory = [flat(m, s) for m, s, _, _ in states]
    flat_counts = flat(counts)[0]
    nothing = flat_counts[:0]
    static = network._static.get((0, 0))
    for t in range(first, last):
        message: Tensor | None = None
        for index, (m, s, alpha, theta) in enumerate(states):
            layer = hidden[index]
            if index == 0 and static is not None:
                a, unit = static.value.detach(), 1.0
            else:
                if message is None:
                    message = network._x[t].to(torch.int8)
                a, unit = _product(layer.synapse, message, network._ready[index].weights[0])
            assert a.shape == m.shape
            (current,) = flat(pixel_by_pixel(a))
            if network._wraps[index] and not kernels.within(current, formats.STATE_MAX / unit):
                return False
            counted = flat_counts if index == len(states) - 1 else nothing
            at_m, at_s = in_memory[index]
            kernels.skip_step(current, unit, at_m, at_s, alpha, theta, limit, counted)
            message = s
    weight = network._ready[-1].weights[0].value.detach()
    readout = network.chain[-1].synapse
    if isinstance(readout, Pooled):
        counts = readout.sums(counts)
    counts = counts.flatten(1)
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


def _product(synapse: Synapse, message: Tensor, weight: Shared) -> tuple[Tensor, float]:
    """Synaptic input of int8 messages, in units of the number beside it."""
    if isinstance(synapse, AvgPool):
        return square_sums(message, synapse.kernel), POOL_WEIGHT * REGISTER
    if isinstance(synapse, Pooled):
        message = synapse.sums(message)
    if isinstance(synapse, Conv) and not synapse.is_dense:
        return int8_convolve(message, weight, synapse.geometry, STEP), 1.0
    product = int8_product()
    assert product is not None
    a = product(message.flatten(1), weight.int8(STEP))
    return a.view(len(a), *synapse.output_shape), STEP
