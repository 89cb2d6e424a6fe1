"""Rules as plain autograd: one graph over all steps, written from the equations.

No fused function, no shared leaf, no trace: what the rules compute by other ways must come out of
ordinary tensor operations here. Works for any network of :class:`trainer.models.SpikingNetwork`,
in float64.

Modes:
    full       BPTT
    reset      BPTT, the reset's spikes detached
    spatial    SLTT: the whole state detached
    traces     STOP, rules.md's identity 5: m = α (m − θ sg(s)) + W sg(x); u = m + sg(W)(x − sg(x))
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from loihi import Encoding
from trainer.layers import Layer
from trainer.models import SpikingNetwork
from trainer.norms import BatchNorm, WeightNorm
from trainer.pools import AvgPool, PooledConv, PooledDense
from trainer.synapses import Conv
from trainer.zoo import build

TOLERANCE = 1e-11
Loss = Callable[[Tensor, Tensor], Tensor]


def sg(x: Tensor) -> Tensor:
    return x.detach()


def through(value: Tensor, x: Tensor) -> Tensor:
    """``value`` forwards, the identity on x backwards: exact, as x − sg(x) is 0."""
    return sg(value) + (x - sg(x))


def snapped(x: Tensor, low: float, high: float, by: float = 1.0) -> Tensor:
    return through(by * torch.clamp(torch.round(x / by), low / by, high / by), x)


class Numbers:
    """A layer's numbers, from its parameters by the equations."""

    def __init__(self, layer: Layer) -> None:
        self.layer, n = layer, layer.neurons
        self.weights = [self._weight(s) for s in layer.synapses]
        self.bias: Tensor | None = None
        if n is None:
            return
        self.theta, self.alpha, self.beta = n.vth, 1 - n.dv / 4096, None
        self.bias = n.bias
        if layer.on_grid:
            self.theta = 64 * snapped(n.vth, 1, 2**17 - 1)
            self.alpha = 1 - snapped(n.dv, 0, 4096) / 4096
        if n.du is not None:
            self.beta = 1 - (snapped(n.du, 0, 4096) if layer.on_grid else n.du) / 4096

    def _weight(self, synapse: torch.nn.Module) -> Tensor:
        if isinstance(synapse, AvgPool):
            value = 64.0 * 64 if self.layer.on_grid else 1 / synapse.kernel**2
            return torch.tensor(value, dtype=torch.float64)
        w = synapse.weight
        if isinstance(synapse.norm, WeightNorm):
            axes = tuple(range(1, w.dim()))
            mean = w.mean(axes, keepdim=True)
            var = ((w - mean) ** 2).mean(axes, keepdim=True)
            gain = synapse.norm.gain.view(-1, *[1] * (w.dim() - 1))
            w = 16 * gain * (w - mean) / (var + 1e-8).sqrt()
        assert not isinstance(synapse.norm, BatchNorm)
        return 64 * snapped(w, -254, 254, 2.0) if self.layer.on_grid else w

    def apply(self, number: int, x: Tensor, w: Tensor) -> Tensor:
        synapse = self.layer.synapses[number]
        if isinstance(synapse, AvgPool):
            k = synapse.kernel
            blocks = x.unfold(2, k, k).unfold(3, k, k)
            return blocks.sum((-1, -2)) * w
        if isinstance(synapse, PooledConv):  # as the chip has it: each weight at every pixel
            k, groups = synapse.pool, synapse.groups
            wide = w.repeat_interleave(k, 2).repeat_interleave(k, 3)
            stride, padding = ([k * n for n in how] for how in (synapse.stride, synapse.padding))
            return F.conv2d(x, wide, None, stride, padding, 1, groups)
        if isinstance(synapse, Conv):
            how = (synapse.stride, synapse.padding, synapse.dilation, synapse.groups)
            return F.conv2d(x, w, None, *how)
        if isinstance(synapse, PooledDense):
            k = synapse.pool
            blocks = x.sum((2, 3)) if k is None else x.unfold(2, k, k).unfold(3, k, k).sum((-1, -2))
            return blocks.flatten(1) @ w.T
        return x.flatten(1) @ w.T

    def shaped_bias(self, a: Tensor) -> Tensor | float:
        if self.bias is None:
            return 0.0
        bias = 64 * snapped(self.bias, -4096, 4095) if self.layer.on_grid else self.bias
        return bias.view(-1, *[1] * (a.dim() - 2))


def spike(m: Tensor, theta: Tensor, layer: Layer) -> Tensor:
    n = layer.neurons
    assert n is not None
    unit = sg(theta) if n.surrogate.unit is None else n.surrogate.unit
    width, distance = n.surrogate.width, sg((m - theta) / unit)
    slope = {
        "triangle": torch.clamp(width - abs(distance), min=0) / width**2,
        "rectangle": (abs(distance) < width / 2).double() / width,
        "exponential": torch.exp(-abs(distance) / width) / width,
        "sigmoid": torch.sigmoid(distance / width) * torch.sigmoid(-distance / width) / width,
    }[n.surrogate.shape]
    above = sg(m) >= sg(theta) if n.form.name in ("A", "B") else sg(m) > sg(theta)
    linear = slope / unit * (m - theta)
    return above.double() + (linear - sg(linear))


def reference(
    network: SpikingNetwork,
    x: Tensor,
    y: Tensor,
    mode: str,
    loss: Loss = F.cross_entropy,
    *,
    cuts: Sequence[int] = (),
    blocks: Sequence[int] | None = None,
    mean_over: int = 0,
    so_far: bool = False,
    train_local: bool = True,
) -> dict[str, Tensor]:
    """Gradients of all parameters that get one.

    cuts: steps before which the whole state is detached. blocks: each layer's block, across which
    spikes are detached; local classifiers then add their losses. mean_over: the loss is that of the
    mean output over intervals of so many steps, each weighted by its share of T. so_far: each
    step's loss is that of the outputs' mean so far, and its error that step's output's alone.
    """
    network = copy.deepcopy(network)
    network.zero_grad()
    chain = network.chain
    numbers = [Numbers(layer) for layer in chain]
    local = [(at, Numbers(c)) for at, c in network.local_layers.items()] if blocks else []
    count = len(chain)
    m: list[Tensor | None] = [None] * (count + len(local))
    s: list[Tensor | None] = [None] * (count + len(local))
    u: list[Tensor | None] = [None] * (count + len(local))
    outputs: list[list[Tensor]] = []

    def routes(index: int) -> list[tuple[int, int]]:
        own = [(index, number) for number in range(len(chain[index].synapses))]
        carry = chain[index].carry
        return own if carry is None else own + routes(carry)

    def neuron(k: int, n: Numbers, a: Tensor, instant: Tensor) -> Tensor:
        """a: what the membrane keeps; instant: what only this step's spikes see."""
        layer, form = n.layer, n.layer.neurons.form.name
        whole = mode == "spatial"
        fresh = whole or t in cuts  # what was reset before the cut is of the past
        before_m, before_s, before_u = m[k], s[k], u[k]
        if n.beta is not None:
            if before_u is not None:
                kept = n.beta * (sg(before_u) if whole else before_u)
                a = (through(torch.trunc(kept), kept) if layer.on_grid else kept) + a
            u[k] = a
        i = a + n.shaped_bias(a)
        if before_m is None:
            new = i
        else:
            gone = sg(before_s) if mode != "full" else before_s
            old = sg(before_m) if whole else before_m
            theta = sg(n.theta) if fresh else n.theta
            if form in ("A", "soft"):
                kept = n.alpha * (old - theta * gone)
                new = (through(torch.trunc(kept), kept) if form == "soft" else kept) + i
            elif form == "B":
                new = n.alpha * old - theta * gone + i
            else:
                kept = n.alpha * (old * (1 - gone))
                new = (through(torch.trunc(kept), kept) if form == "chip" else kept) + i
        m[k] = new
        s[k] = spike(new + instant, n.theta, layer)
        return s[k]

    for t in range(len(x)):
        if t in cuts:
            m, s, u = ([None if v is None else sg(v) for v in group] for group in (m, s, u))
        last = list(s)
        out = x[t]
        for index, layer in enumerate(chain):
            n = numbers[index]
            total: Tensor | float = 0.0
            instant: Tensor | float = 0.0
            for owner, number in routes(index):
                sources = network.sources(owner)[number]
                parts = []
                for source in sources:
                    if source == -1:
                        parts.append(x[t])
                        continue
                    value = s[source] if source < owner else last[source]
                    if value is None:
                        continue
                    if source >= owner and mode in ("spatial", "traces"):
                        value = sg(value)
                    if blocks is not None and blocks[source] != blocks[index]:
                        value = sg(value)
                    parts.append(value)
                if not parts:
                    continue
                message = sum(parts[1:], parts[0])
                w = numbers[owner].weights[number]
                if mode == "traces" and layer.neurons is not None:
                    total = total + numbers[owner].apply(number, sg(message), w)
                    instant = instant + numbers[owner].apply(number, message - sg(message), sg(w))
                else:
                    total = total + numbers[owner].apply(number, message, w)
            if layer.neurons is None:
                out = total
            else:
                zero = torch.zeros_like(total)
                out = neuron(index, n, total, instant if mode == "traces" else zero)
        found = [out.flatten(1) / network.temperature]
        for place, (at, n) in enumerate(local):
            message, w = s[at], n.weights[0]
            if n.layer.neurons is None:
                a = n.apply(0, message, w)
            elif mode == "traces":
                instant = n.apply(0, message - sg(message), sg(w))
                a = neuron(count + place, n, n.apply(0, sg(message), w), instant)
            else:
                a = n.apply(0, message, w)
                a = neuron(count + place, n, a, torch.zeros_like(a))
            found.append(a / network.local_temperatures[place])
        outputs.append(found)
    if so_far:
        found = [o for (o,) in outputs]
        means = [through(sum(found[: t + 1]) / (t + 1), found[t]) for t in range(len(x))]
        outputs = [[o] for o in means]
    steps = mean_over or 1
    total_loss = torch.zeros((), dtype=torch.float64)
    for start in range(0, len(x), steps):
        for heads in zip(*outputs[start : start + steps], strict=True):
            part = loss(sum(heads[1:], heads[0]) / steps, y)
            total_loss = total_loss + part * steps / len(x)
    total_loss.backward()
    return gradients(network)


def gradients(network: SpikingNetwork) -> dict[str, Tensor]:
    return {k: p.grad for k, p in network.named_parameters() if p.grad is not None}


def by_rule(
    network: SpikingNetwork,
    rule: Callable[..., object],
    x: Tensor,
    y: Tensor,
    loss: Loss = F.cross_entropy,
) -> dict[str, Tensor]:
    network = copy.deepcopy(network)
    network.zero_grad()
    rule(network, x, y, loss)
    return gradients(network)


def same(ours: dict[str, Tensor], theirs: dict[str, Tensor], only: str = "") -> None:
    """Equal to 1e-12 of each gradient's largest number; only: parameters with this in the name."""
    names = {k for k in theirs if only in k and bool(theirs[k].any())}
    missing = names - set(ours)
    assert not missing, f"no gradient for {sorted(missing)}"
    assert names, "nothing to compare"
    for name in sorted(names):
        # A decay's gradient may be 0 but for rounding, where spikes cancel: a layer has two.
        stem, _, last = name.rpartition(".")
        alike = [f"{stem}.dv", f"{stem}.du"] if last in ("dv", "du") else [name]
        size = max(float(theirs[n].abs().max()) for n in alike if n in theirs)
        error = float((ours[name] - theirs[name]).abs().max()) / size
        assert error <= TOLERANCE, f"{name}: relative error {error:.2e}"
    for name in set(ours) - set(theirs):
        if only in name:
            assert not bool(ours[name].any()), f"{name} has a gradient that it should not have"


SHAPES = {
    "dense": ("9-8", (7,)),
    "conv": ("4c3p1-2a-5c3s2-6", (2, 6, 6)),
    "grouped": ("4c3x2p1x0s1x2-6c1x2p0x1d1x2g2-6", (2, 6, 6)),
    "means": ("4c3p1-2m-5c3p1s2-2m-6", (2, 8, 8)),
    "recurrent": ("8r-7", (7,)),
    "sew": ("sew_resnet18/32", (1, 8, 8)),
    "preact": ("preact_resnet18/32", (1, 8, 8)),
}


def network_of(
    structure: str,
    form: str,
    *,
    seed: int = 0,
    steps: int = 5,
    du: float = 4096.0,
    readout: str = "membrane",
    block: int = 0,
    norm: str = "none",
    dv: float = 900.7,
    bias: bool = True,
    per_neuron: bool = False,
) -> SpikingNetwork:
    """A small network with every parameter drawn, calibrated so that it spikes, in float64."""
    model, shape = SHAPES.get(structure, (structure, (7,)))
    network = build(
        model,
        shape,
        4,
        Encoding("events", steps, (0, 1)),
        neuron=form,
        readout=readout,
        bias=bias,
        dv=dv,
        du=du,
        norm=norm,
        block=block,
        per_neuron=per_neuron,
    )
    generator = torch.Generator().manual_seed(seed)
    x, _ = batch_for(network, steps, seed + 1)
    network.calibrate(x.float(), generator)
    with torch.no_grad():
        for number, layer in enumerate((*chain_and_local(network),)):
            n = layer.neurons
            if n is None or not n.vth.requires_grad:
                continue
            draw = torch.rand(n.vth.shape, generator=generator)
            n.vth.mul_(0.6 + 0.1 * draw).add_(0.3 if layer.on_grid else 0.0)
            n.dv.add_(90.3 * (number % 5) * (dv < 4096)).clamp_(0, 4096)
            if n.bias is not None:
                scale = float(n.vth.mean()) / 8
                n.bias.copy_(torch.randn(n.bias.shape, generator=generator) * scale)
    return network.double()


def chain_and_local(network: SpikingNetwork) -> list[Layer]:
    return list(itertools.chain(network.chain, network.local_layers.values()))


def batch_for(
    network: SpikingNetwork, steps: int, seed: int = 1, samples: int = 3, static: bool = False
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (1 if static else steps, samples, *network.input_shape)
    x = (torch.rand(shape, generator=generator) < 0.6).double()
    y = torch.randint(0, network.classes, (samples,), generator=generator)
    return x.expand(steps, *shape[1:]), y
