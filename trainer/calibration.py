"""How a network begins: weights drawn at random, and thresholds that suit them and the data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from loihi import formats
from loihi.network import INPUT
from trainer.layers import Layer, plus
from trainer.neurons import REGISTER
from trainer.norms import WEIGHT_STD, BatchNorm, WeightNorm
from trainer.pools import AvgPool
from trainer.shared import Shared
from trainer.synapses import Synapse

if TYPE_CHECKING:
    from trainer.models import SpikingNetwork


@torch.no_grad()
def calibrate(network: SpikingNetwork, x: Tensor, generator: torch.Generator) -> None:
    """New weights, and thresholds that suit them and the data: layer after layer, on a batch.

    On the grid, weights are drawn from N(0, 16²), else from N(0, 1/fan-in); a threshold becomes
    the root mean square of its layer's synaptic input, so that some neurons spike at once, most
    in a few steps, and some never. The outputs' temperature is their root mean square, as a
    power of two. Batch norms start from the statistics of this batch.

    x: payloads ``[T, N, *input_shape]``.
    """
    network.reset(x)
    last_use = [_last_use(network, index) for index in range(len(network.chain))]
    spikes: dict[int, Tensor] = {}
    received: dict[int, list[Tensor]] = {}
    offsets: dict[int, Tensor | None] = {}
    places = {index: place for place, index in enumerate(network.local_layers)}
    for index, layer in enumerate(network.chain):
        for synapse in layer.synapses:
            _draw(synapse, layer.on_grid, generator)
        totals, offset = _received(network, index, x, spikes), _offset(layer, offsets)
        if layer.carry is not None:
            totals = [a + b for a, b in zip(totals, received[layer.carry], strict=True)]
        received[index], offsets[index] = totals, offset
        rms = _rms(totals, layer.on_grid)
        if layer.neurons is None:
            network.temperature.fill_(_temperature(rms, layer.on_grid))
            break
        _set_threshold(layer, rms)
        _start_loops(network, index, totals, offset)
        offset = offsets[index] = _offset(layer, offsets)
        spikes[index] = _rollout(network, index, totals, offset)
        if index in places:
            classifier = network.local_layers[index]
            _draw(classifier.synapse, classifier.on_grid, generator)
            temperature = network.local_temperatures[places[index]]
            _calibrate_classifier(classifier, spikes[index], temperature)
        for kept in (spikes, received):
            for old in [k for k in kept if last_use[k] <= index and k != index]:
                del kept[old]


def _offset(layer: Layer, before: Mapping[int, Tensor | None]) -> Tensor | None:
    """What batch norms add to a layer's bias, that of a layer that it carries included."""
    own = layer.offset()
    return own if layer.carry is None else plus(own, before[layer.carry])


def _last_use(network: SpikingNetwork, index: int) -> int:
    """The last layer that hears a layer or carries on from it; −1: none does."""
    users = (
        k
        for k, layer in enumerate(network.chain)
        if layer.carry == index or any(index in sources for sources in network.sources(k))
    )
    return max(users, default=-1)


def _received(
    network: SpikingNetwork, index: int, x: Tensor, spikes: dict[int, Tensor]
) -> list[Tensor]:
    """What a layer receives in each step through its own synapses, those of loops left out."""
    layer = network.chain[index]
    totals: list[Tensor] = []
    for number, (synapse, sources) in enumerate(
        zip(layer.synapses, network.sources(index), strict=True)
    ):
        if not all(s == INPUT or s in spikes for s in sources):
            continue

        def message(t: int, sources: tuple[int, ...] = sources) -> Tensor:
            parts = [x[t] if s == INPUT else spikes[s][t] for s in sources]
            return parts[0] if len(parts) == 1 else torch.stack(parts).sum(0)

        steps = 1 if sources == (INPUT,) and x.stride(0) == 0 else len(x)
        norm = synapse.norm
        if isinstance(norm, BatchNorm):
            weight = synapse.real_weights()
            _start_norm(norm, [synapse.plain(message(t), weight) for t in range(steps)])
        ready = layer.prepare(Shared)
        currents = [layer.receive(number, message(t), ready)[0] for t in range(steps)]
        currents *= len(x) if steps == 1 else 1
        totals = [a + b for a, b in zip(totals, currents, strict=True)] if totals else currents
    if not totals:
        shape = (x.shape[1], *layer.synapse.output_shape)
        totals = [x.new_zeros(shape) for _ in range(len(x))]
    return totals


def _start_norm(norm: BatchNorm, products: list[Tensor]) -> None:
    """The running statistics are those of ``[N, C, ...]`` a step, which come out as they go in."""
    raw = torch.stack(products)
    over = [d for d in range(raw.dim()) if d != 2]
    var, mean = torch.var_mean(raw, dim=over, unbiased=False)
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(var)
    norm.gamma.fill_(float(var.mean().sqrt()) or 1.0)
    norm.beta.zero_()


def _start_loops(
    network: SpikingNetwork, index: int, totals: list[Tensor], offset: Tensor | None
) -> None:
    """Batch norms on a layer's own recurrence start from the spikes that it sends without."""
    layer = network.chain[index]
    loops = [
        (synapse, synapse.norm)
        for synapse, sources in zip(layer.synapses, network.sources(index), strict=True)
        if sources == (index,) and isinstance(synapse.norm, BatchNorm)
    ]
    if loops:
        spikes = _rollout(network, index, totals, offset, loops=False)
        for synapse, norm in loops:
            weight = synapse.real_weights()
            _start_norm(norm, [synapse.plain(s, weight) for s in spikes])


def _rollout(
    network: SpikingNetwork,
    index: int,
    totals: list[Tensor],
    offset: Tensor | None,
    loops: bool = True,
) -> Tensor:
    """The layer's spikes ``[T, N, *shape]``, its own recurrence included if ``loops``."""
    layer = network.chain[index]
    ready, state, out = layer.prepare(Shared, offset=offset), None, []
    for a in totals:
        if state is not None and loops:
            for number, sources in enumerate(network.sources(index)):
                if sources == (index,):
                    a = a + layer.receive(number, state.s, ready)[0]
        state = layer.advance(layer.wrap(a), state, ready)
        out.append(state.s)
    return torch.stack(out)


def _calibrate_classifier(classifier: Layer, spikes: Tensor, temperature: Tensor) -> None:
    ready = classifier.prepare(Shared)
    rms = _rms([classifier.receive(0, s, ready)[0] for s in spikes], classifier.on_grid)
    if classifier.neurons is None:
        temperature.fill_(_temperature(rms, classifier.on_grid))
    else:
        _set_threshold(classifier, rms)


def _draw(synapse: Synapse, on_grid: bool, generator: torch.Generator) -> None:
    if isinstance(synapse, AvgPool):
        return
    weight = synapse.weight
    assert isinstance(weight, Tensor)
    normed = isinstance(synapse.norm, WeightNorm)
    spread = WEIGHT_STD if on_grid or normed else 1 / math.sqrt(weight[0].numel())
    weight.copy_(torch.randn(weight.shape, generator=generator) * spread)


def _rms(currents: list[Tensor], on_grid: bool) -> float:
    """The root mean square of synaptic input, in weight units; at least 1 on the grid."""
    square = sum(float(a.square().mean()) for a in currents) / len(currents)
    return max(math.sqrt(square) / REGISTER, 1.0) if on_grid else max(math.sqrt(square), 1e-3)


def _temperature(rms: float, on_grid: bool) -> float:
    return float(2.0 ** round(math.log2(rms))) * (REGISTER if on_grid else 1.0)


def _set_threshold(layer: Layer, rms: float) -> None:
    assert layer.neurons is not None
    if isinstance(layer.synapse, AvgPool):
        return
    level = float(min(round(rms), formats.VTH_MAX // 4)) if layer.on_grid else rms
    layer.neurons.vth.fill_(level)
