"""Who takes part in :mod:`bench.peers`: other people's libraries, plain loops, pumice's rules.

All train the same network: the weights, thresholds and leak of one pumice network on the chip's
grid, in each library's own modules, and its own layout of the batch. So they have the same neurons
and fire the same spikes, with a hard reset, in float32. Average pooling is followed by neurons
everywhere, as on the chip; the outputs are the last layer's synaptic input, and the loss is
``L = 1/T Σ_t ℓ(o[t], y)``. The surrogates are each library's own default; the loops have ATan, as
SpikingJelly, so that the BPTT loop's gradients are SpikingJelly's.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.memory import classifiers
from loihi import Encoding, PumiceError, lava_compat
from trainer import grid
from trainer.loop import exact
from trainer.models import SpikingNetwork
from trainer.neurons import REGISTER
from trainer.pools import POOL_WEIGHT, AvgPool
from trainer.rules import rule
from trainer.synapses import Conv
from trainer.zoo import build

DENSITY = 0.13
"""MNIST's mean grey value: what a rate code of it spikes, in spikes a pixel and step."""
DV = 2048
"""Half of the membrane is kept: SpikingJelly's default, τ = 2."""
PAYLOAD = 127
"""The largest payload of a static image."""
OPTIONS: dict[str, dict[str, Any]] = {"sltt_k": {"k": 1}, "tt_lbp": {"k": 1, "n": 1}}
"""What a rule is asked for."""


class Setting(NamedTuple):
    """A model of the bench: its layers, input, and how much of it two cores can bear."""

    layers: str
    shape: tuple[int, ...]
    classes: int
    batch: int
    steps: tuple[int, ...]
    repeats: int


SETTINGS = {
    "mlp": Setting("512-512", (784,), 10, 128, (10, 50), 7),
    # TT-LBP's Table 2: 64C5-64AP2-128C5-128AP2-128C5-256FC-11FC. Unpadded on 2x32x32 frames, so
    # that the last convolution's output is 1x1, as in LeNet-5.
    "lenet2": Setting("64c5-2a-128c5-2a-128c5-256", (2, 32, 32), 11, 8, (10, 50), 7),
}


# ------------------------------------------------------------------------ the network of all


class Piece(NamedTuple):
    """A layer for any library: a synapse and a neuron that fires at ``v ≥ threshold``.

    weight: on the chip's grid, in weight units; None for average pooling (by ``kernel``).
    kernel: of a convolution or pooling; 0: dense.
    threshold: in weight units (for pooling: of the inputs' mean); the readout's unit if no neuron.
    keep: the part of the membrane kept from step to step; None: no neuron, the readout.
    """

    weight: Tensor | None
    kernel: int
    padding: int
    threshold: float
    keep: float | None

    @property
    def scaled(self) -> Tensor:
        """The weight for a threshold of 1."""
        assert self.weight is not None
        return self.weight / self.threshold


@dataclass(frozen=True)
class Problem:
    """What is trained: one network, and one batch.

    x: ``[T, N, *shape]``, with a stride of 0 over time where it does not change.
    y: labels ``[N]``.
    setting: where it comes from.
    """

    network: SpikingNetwork
    x: Tensor
    y: Tensor
    setting: Setting

    def copy(self, **options: Any) -> SpikingNetwork:
        """The network once more, built with ``options``: local classifiers, say."""
        network = _network(self.setting, self.network.encoding, **options)
        network.to(self.x.device).calibrate(self.x, torch.Generator().manual_seed(1))
        own = network.state_dict()
        given = self.network.state_dict()
        network.load_state_dict(
            {k: given[k] if k in given and given[k].shape == v.shape else v for k, v in own.items()}
        )
        return network

    @property
    def is_static(self) -> bool:
        return self.x.stride(0) == 0

    @property
    def neurons(self) -> int:
        """Spiking neurons."""
        chain = self.network.chain
        return sum(math.prod(layer.synapse.output_shape) for layer in chain if layer.neurons)

    @torch.no_grad()
    def pieces(self) -> list[Piece]:
        """The network for the others. Their neurons fire at v ≥ threshold, the chip's above."""
        above = 0.5 / REGISTER
        found = []
        for layer in self.network.chain:
            synapse, neurons = layer.synapse, layer.neurons
            if neurons is None:
                threshold, keep = float(self.network.temperature) / REGISTER, None
            else:
                threshold = float(neurons.thresholds()) / REGISTER + above
                keep = float(neurons.kept(neurons.dv))
            if isinstance(synapse, AvgPool):
                total = POOL_WEIGHT * synapse.fan_in
                found.append(Piece(None, synapse.kernel, 0, threshold / total, keep))
            else:
                assert isinstance(synapse.weight, Tensor)
                weight = grid.weight(synapse.weight).detach().clone()
                window = (0, 0)
                if isinstance(synapse, Conv):
                    window = (weight.shape[-1], synapse.padding[0])
                found.append(Piece(weight, *window, threshold, keep))
        return found


def _network(setting: Setting, encoding: Encoding, **options: Any) -> SpikingNetwork:
    return build(setting.layers, setting.shape, setting.classes, encoding, dv=DV, **options)


def make(setting: Setting, time_steps: int, batch: int, static: bool, device: str) -> Problem:
    """A calibrated network and a batch of noise, the same at each call."""
    generator = torch.Generator().manual_seed(0)
    shape = (batch, *setting.shape) if static else (time_steps, batch, *setting.shape)
    x = (torch.rand(shape, generator=generator) < DENSITY).float()
    if static:
        x = (x * torch.randint(1, PAYLOAD + 1, shape, generator=generator)).expand(
            time_steps, *shape
        )
        encoding = Encoding("graded", time_steps, (0, PAYLOAD), 0.0, 1.0)
    else:
        encoding = Encoding("rate", time_steps, (0, 1), 0.0, 1.0)
    y = torch.randint(0, setting.classes, (batch,), generator=generator)
    network = _network(setting, encoding)
    network.calibrate(x, generator)
    x = x[0].to(device).expand(x.shape) if static else x.to(device)
    return Problem(network.to(device), x, y.to(device), setting)


def mean_loss(outputs: Tensor, y: Tensor) -> Tensor:
    """``1/T Σ_t ℓ(o[t], y)`` of outputs ``[T, N, classes]``."""
    return F.cross_entropy(outputs.flatten(0, 1), y.repeat(len(outputs)))


# ------------------------------------------------------------------------ who takes part


class Contestant(ABC):
    """Something that can be trained for one iteration."""

    name: str
    weight: nn.Parameter
    """The first layer's."""
    rate = math.nan
    """Spikes a neuron and step, once counted."""

    @abstractmethod
    def iterate(self) -> None:
        """Forward and backward of the batch; leaves gradients."""

    @abstractmethod
    def spikes(self) -> list[Tensor]:
        """Every spiking layer's spikes in the batch, any layout."""

    def activity(self) -> tuple[int, int]:
        """Spikes in the batch, and how many there could have been: neurons times N times T."""
        spikes = self.spikes()
        return sum(int(s.count_nonzero()) for s in spikes), sum(s.numel() for s in spikes)


class Pumice(Contestant):
    """One of our rules."""

    def __init__(self, problem: Problem, name: str) -> None:
        options = OPTIONS.get(name, {})
        self.name = " ".join(["pumice", name, *(f"{k}={v}" for k, v in options.items())])
        self.problem, self.network = problem, problem.copy(**classifiers(name))
        self.rule = rule(name, **options)
        first = self.network.chain[0].synapse.weight
        assert isinstance(first, nn.Parameter)
        self.weight = first

    def iterate(self) -> None:
        self.network.zero_grad()
        with exact():
            self.rule(self.network, self.problem.x, self.problem.y, F.cross_entropy)

    def spikes(self) -> list[Tensor]:
        layers = [layer.neurons for layer in self.network.chain]
        with exact():
            found = self.network.spikes(self.problem.x)
        return [torch.from_numpy(s) for s, n in zip(found, layers, strict=True) if n is not None]


class Peer(Contestant):
    """Someone else's, or a plain loop: everything in one graph unless it says otherwise.

    package: what has to be installed. through_time: whether errors go to earlier steps.
    """

    package: str | None = None
    through_time = True

    def __init__(self, problem: Problem) -> None:
        self.x, self.y = self.layout(problem.x), problem.y
        self.static = problem.is_static and len(problem.x) > 1
        self.module: nn.ModuleList = self.build(problem.pieces()).to(problem.x.device)
        self.weight = next(p for p in self.module.parameters() if p.requires_grad)

    @abstractmethod
    def build(self, pieces: Sequence[Piece]) -> nn.ModuleList:
        """The network in the library's own modules."""

    @abstractmethod
    def outputs(self, x: Tensor, record: list[Tensor] | None = None) -> Tensor:
        """Outputs ``[T, N, classes]`` for a batch in the library's layout; spikes to record."""

    def layout(self, x: Tensor) -> Tensor:
        """``x [T, N, *shape]`` as the library wants it."""
        return x

    def iterate(self) -> None:
        self.module.zero_grad()
        mean_loss(self.outputs(self.x), self.y).backward()  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def spikes(self) -> list[Tensor]:
        record: list[Tensor] = []
        self.outputs(self.x, record)
        return record

    def reaches_back(self, x: Tensor, steps: int = 4) -> bool:
        """Whether the last step's loss has a gradient at weights whose inputs are silent then."""
        x = x[:steps].clone()
        half = max(x.shape[2] // 2, 1)
        x[-1, :, :half] = 0
        before, self.static = self.static, False
        self.module.zero_grad()
        mean_loss(self.outputs(self.layout(x))[-1:], self.y).backward()  # type: ignore[no-untyped-call]
        self.static = before
        assert self.weight.grad is not None
        return bool(self.weight.grad[:, :half].any())


def _synapses(
    pieces: Sequence[Piece],
    dense: Callable[..., nn.Module] = nn.Linear,
    conv: Callable[..., nn.Module] = nn.Conv2d,
    pool: Callable[..., nn.Module] = nn.AvgPool2d,
    **options: Any,
) -> list[nn.Module]:
    """The pieces' synapses in a library's modules, for thresholds of 1."""
    found = []
    for piece in pieces:
        if piece.weight is None:
            found.append(pool(piece.kernel, **options))
            continue
        out, channels = piece.weight.shape[:2]
        if piece.kernel:
            module = conv(channels, out, piece.kernel, padding=piece.padding, bias=False, **options)
        else:
            module = dense(channels, out, bias=False, **options)
        assert isinstance(module.weight, nn.Parameter)
        with torch.no_grad():
            module.weight.copy_(piece.scaled)
        found.append(module)
    return found


def _level(piece: Piece) -> float:
    """The threshold beside :func:`_synapses`."""
    return piece.threshold if piece.weight is None else 1.0


class SpikingJelly(Peer):
    """``step_mode="m"``: each layer computes all steps at once, the neurons step by step."""

    name, package = "SpikingJelly", "spikingjelly"

    def build(self, pieces: Sequence[Piece]) -> nn.ModuleList:
        library = "spikingjelly.activation_based"
        layer, neuron, surrogate, self.functional = (
            importlib.import_module(f"{library}.{name}")
            for name in ("layer", "neuron", "surrogate", "functional")
        )
        synapses = _synapses(pieces, layer.Linear, layer.Conv2d, layer.AvgPool2d, step_mode="m")
        chain: list[nn.Module] = []
        for before, piece, synapse in zip([None, *pieces], pieces, synapses, strict=False):
            if before is not None and _is_image(before) and not _is_image(piece):
                chain.append(layer.Flatten(step_mode="m"))
            chain.append(synapse)
            common = {
                "v_threshold": _level(piece),
                "v_reset": 0.0,
                "surrogate_function": surrogate.ATan(),
                "step_mode": "m",
            }
            if piece.keep == 1:
                chain.append(neuron.IFNode(**common))
            elif piece.keep is not None:
                tau = 1 / (1 - piece.keep)
                chain.append(neuron.LIFNode(tau=tau, decay_input=False, **common))
        self.spiking = (neuron.IFNode, neuron.LIFNode)
        return nn.ModuleList(chain)

    def outputs(self, x: Tensor, record: list[Tensor] | None = None) -> Tensor:
        self.functional.reset_net(self.module)
        for index, module in enumerate(self.module):
            if index == 0 and self.static:
                once = module(x[:1])
                x = once.expand(len(x), *once.shape[1:])
            else:
                x = module(x)
            if record is not None and isinstance(module, self.spiking):
                record.append(x)
        return x


def _is_image(piece: Piece) -> bool:
    return piece.weight is None or piece.kernel > 0


class Loop(Peer):
    """A loop over time with a neuron's step in it: what the three below share."""

    def build(self, pieces: Sequence[Piece]) -> nn.ModuleList:
        self.pieces = list(pieces)
        return nn.ModuleList(_synapses(pieces))

    def rest(self) -> list[Any]:
        """Every layer's state before the first step."""
        return [None] * len(self.pieces)

    @abstractmethod
    def neuron(self, index: int, current: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Spikes and state of a layer after a step."""

    def step(
        self, x: Tensor, states: list[Any], first: Tensor | None, record: list[Tensor] | None
    ) -> Tensor:
        """One step: outputs ``[N, classes]``; ``first``: the first synapse's, computed before."""
        for index, (piece, synapse) in enumerate(zip(self.pieces, self.module, strict=True)):
            if piece.weight is not None and not piece.kernel:
                x = x.flatten(1)
            x = synapse(x) if index or first is None else first
            if piece.keep is not None:
                x, states[index] = self.neuron(index, x, states[index])
                if record is not None:
                    record.append(x)
        return x

    def outputs(self, x: Tensor, record: list[Tensor] | None = None) -> Tensor:
        states = self.rest()
        first = self.module[0](x[0]) if self.static else None
        return torch.stack([self.step(x_t, states, first, record) for x_t in x])


class SnnTorch(Loop):
    """``Leaky`` with ``reset_mechanism="zero"``."""

    name, package = "snnTorch", "snntorch"

    def build(self, pieces: Sequence[Piece]) -> nn.ModuleList:
        library = importlib.import_module("snntorch")
        module = super().build(pieces)
        self.neurons: list[Any] = []
        for piece in pieces:
            common = {"threshold": _level(piece), "reset_mechanism": "zero"}
            leaky = None if piece.keep is None else library.Leaky(beta=piece.keep, **common)
            self.neurons.append(leaky and leaky.to(self.x.device))
        return module

    def rest(self) -> list[Any]:
        return [leaky and leaky.reset_mem() for leaky in self.neurons]

    def neuron(self, index: int, current: Tensor, state: Any) -> tuple[Tensor, Any]:
        spikes, membrane = self.neurons[index](current, state)
        return spikes, membrane


class _ATan(torch.autograd.Function):
    """A spike at v ≥ 0; backwards the slope of ``arctan(π x) / π`` (SpikingJelly's, α = 2)."""

    @staticmethod
    def forward(ctx: Any, v: Tensor) -> Tensor:
        ctx.save_for_backward(v)
        return (v >= 0).to(v.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (v,) = ctx.saved_tensors
        return grads[0] / (1 + (math.pi * v) ** 2)


class BPTTLoop(Loop):
    """``v = α v (1 − s) + W x``, ``s = [v ≥ θ]``, and autograd does the rest."""

    name = "BPTT loop"

    def neuron(self, index: int, current: Tensor, state: Any) -> tuple[Tensor, Any]:
        piece = self.pieces[index]
        if state is None:
            v = current
        else:
            v, s = state
            v = piece.keep * v * (1 - s) + current
        spikes: Tensor = _ATan.apply(v - _level(piece))
        return spikes, (v, spikes)


class SLTTLoop(BPTTLoop):
    """The same with states detached: each step's loss goes backwards at once (SLTT, Alg. 1)."""

    name, through_time = "SLTT loop", False

    def neuron(self, index: int, current: Tensor, state: Any) -> tuple[Tensor, Any]:
        state = None if state is None else tuple(part.detach() for part in state)
        return super().neuron(index, current, state)

    def iterate(self) -> None:
        self.module.zero_grad()
        states = self.rest()
        for x_t in self.x:
            loss = F.cross_entropy(self.step(x_t, states, None, None), self.y) / len(self.x)
            loss.backward()  # type: ignore[no-untyped-call]


class Slayer(Peer):
    """lava-dl's blocks, whose units are 64 weight units."""

    name, package = "SLAYER", "lava-dl"
    UNIT = 64

    def layout(self, x: Tensor) -> Tensor:
        return x.movedim(0, -1).contiguous()

    def build(self, pieces: Sequence[Piece]) -> nn.ModuleList:
        lava_compat.install()
        cuba = importlib.import_module("lava.lib.dl.slayer").block.cuba
        chain: list[nn.Module] = []
        self.spiking: list[bool] = []
        for before, piece in zip([None, *pieces], pieces, strict=False):
            if before is not None and _is_image(before) and not _is_image(piece):
                chain.append(cuba.Flatten())
                self.spiking.append(False)
            mean = POOL_WEIGHT * piece.kernel**2 if piece.weight is None else 1
            neuron = {
                # SLAYER adds its own "a little above" to a threshold.
                "threshold": math.floor(piece.threshold * mean) / self.UNIT,
                "current_decay": 1.0,
                "voltage_decay": 1.0 - (piece.keep or 0.0),
            }
            later = {"delay_shift": False}
            if piece.weight is None:
                block = cuba.Pool(
                    neuron, piece.kernel, weight_scale=POOL_WEIGHT / self.UNIT, **later
                )
            else:
                out, channels = piece.weight.shape[:2]
                if piece.kernel:
                    block = cuba.Conv(
                        neuron, channels, out, piece.kernel, padding=piece.padding, **later
                    )
                elif piece.keep is None:
                    block = cuba.Affine(neuron, channels, out, dynamics=False)
                    self.unit = piece.threshold / self.UNIT
                else:
                    block = cuba.Dense(neuron, channels, out, **later)
                with torch.no_grad():
                    weight = piece.weight / self.UNIT
                    block.synapse.weight.copy_(weight.reshape(block.synapse.weight.shape))
            chain.append(block)
            self.spiking.append(piece.keep is not None)
        return nn.ModuleList(chain)

    def outputs(self, x: Tensor, record: list[Tensor] | None = None) -> Tensor:
        for spiking, block in zip(self.spiking, self.module, strict=True):
            x = block(x)
            if spiking and record is not None:
                record.append(x)
        return x.movedim(-1, 0) / self.unit


PEERS: tuple[type[Peer], ...] = (SpikingJelly, SnnTorch, Slayer, BPTTLoop, SLTTLoop)


def why_absent(peer: type[Peer]) -> str:
    """One line: what to install; empty where nothing is missing."""
    if peer.package is None:
        return ""
    if peer.package == "lava-dl":
        return lava_compat.status().advice if not lava_compat.status().installed else ""
    try:
        importlib.metadata.version(peer.package)
    except importlib.metadata.PackageNotFoundError:
        extra = 'pip install -c constraints-peers.txt ".[peers]"'
        return f"{peer.package} is not installed: {extra}, or as docs/benchmarks.md says"
    return ""


def field(
    problem: Problem, rules: Sequence[str], require: bool = False
) -> tuple[list[Contestant], dict[str, str]]:
    """Everyone who can take part, and why the others cannot.

    Each has run: errors reach earlier steps where they should, the first layer has a gradient, and
    the neurons are the network's.

    Raises:
        PumiceError: with ``require``, a peer is missing; or one does not do what the others do.
    """
    found: list[Contestant] = []
    absent: dict[str, str] = {}
    for peer in PEERS:
        reason = why_absent(peer)
        if not reason:
            try:
                entrant = peer(problem)
                through_time = entrant.reaches_back(problem.x)
            except Exception as error:  # whatever somebody else's library does, the rest can go on
                words = str(error).strip().splitlines() or [""]
                reason = f"{type(error).__name__}: {words[0]}"
        if reason:
            if require:
                raise PumiceError(f"{peer.name}: {reason}")
            absent[peer.name] = reason
            continue
        if len(problem.x) > 1 and through_time != entrant.through_time:
            raise PumiceError(f"{peer.name}: its errors do not go through time as they should")
        found.append(entrant)
    found += [Pumice(problem, name) for name in rules]
    for contestant in found:
        contestant.iterate()
        gradient = contestant.weight.grad
        if gradient is None or not (gradient.isfinite().all() and gradient.any()):
            raise PumiceError(f"{contestant.name}: the first layer has no gradient")
        fired, could = contestant.activity()
        contestant.rate = fired / could
        neurons = could / (problem.x.shape[0] * problem.x.shape[1])
        if neurons != problem.neurons:
            raise PumiceError(f"{contestant.name} has {neurons:g} neurons, not {problem.neurons}")
    return found, absent
