"""Networks of lava-dl's SLAYER blocks: trained by our rules, and frozen for the chip.

A network of CUBA blocks (lava-dl 0.6.0, ``lava.lib.dl.slayer.block.cuba``) that was built with
``persistent_state=True`` and ``delay_shift=False`` computes the chip's integers in local time, as
ours do. With its input fed in chunks of k steps its neurons carry current and voltage from one
call to the next, and no gradient: it is truncated every k steps by what it is. :class:`Slayer`
gives such a network the clothes that rules know (:class:`trainer.rules.base.Stepped`), and leaves
the network itself and lava-dl's code alone. In a chunk the gradient is SLAYER's own, of::

    u[t] = ⌊(1 − du/4096) u[t−1]⌉₀ + z[t]          s[t] = [v[t] ≥ θ + ε]
    v[t] = ⌊(1 − dv/4096) v[t−1] (1 − s[t−1])⌉₀ + u[t]

with the reset's factor 1 − s left out (the error flows back through a reset as if there were none),
∂s/∂v = 0.1 g / (200 τ θ) · exp(−|v − θ − ε| / (100 τ θ)), g and τ the neuron's ``scale_grad`` and
``tau_grad``. A state of 1 is 4096 of the chip's register units, a weight or threshold of 1 is 64.

This module imports no Lava but in :func:`load`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import loihi
from loihi import Encoding, formats, lava_compat
from loihi.engine import Engine
from loihi.errors import PumiceError
from loihi.network import Readout, Shape

_PACKAGE = "lava.lib.dl.slayer"


class SlayerError(PumiceError):
    """A network of SLAYER blocks that cannot be trained in chunks, or not frozen."""


_RULES = "train them by sltt, sltt_k, tt_lbp with n = 0, or bptt"


def load() -> ModuleType:
    """``lava.lib.dl.slayer``, importable on the running Python; or one line why it is not."""
    lava_compat.require()
    lava_compat.install()
    import lava.lib.dl.slayer as slayer

    try:
        slayer.block  # noqa: B018 - absent from a process that was set up without it
    except AttributeError as error:
        raise SlayerError(f"{error}: import slayer in another process") from None
    return slayer  # type: ignore[no-any-return]


def strict(module: nn.Module) -> nn.Module:
    """Makes every neuron spike where v > θ, as the chip does, whatever the threshold; returns it.

    SLAYER compares v ≥ θ + ε. Its own ε, 0.01 of the state's unit, is lost in float32 from θ = 64
    on, and in its CUDA kernel, which cuts the threshold to an integer, always. One whole unit is
    not. Set before training, it is there in training too.
    """
    for neuron in _neurons(module):
        neuron.threshold_eps = 1 / neuron.s_scale
    return module


# --- training -----------------------------------------------------------------------------------


class Slayer(nn.Module):
    """A network of SLAYER blocks as rules know networks (:class:`trainer.rules.base.Stepped`).

    module: takes spikes or payloads ``[N, ..., k]``, returns ``[N, classes, k]``: spikes, or what
        an Affine block at its end gives (voltages, or with ``dynamics=False`` currents).
    k: steps that one call of the module takes. By default 1 for a rule that cuts before each step
        (sltt) and all T for one that never does (bptt); one that cuts every k steps (tt_lbp) needs
        its k here.

    A rule's steps come out of chunks: the first of k steps computes them all, which is what makes
    SLAYER fast. Where a rule needs a gradient that SLAYER does not carry, it is told so.
    """

    def __init__(self, module: nn.Module, k: int | None = None) -> None:
        super().__init__()
        if k is not None and k < 1:
            raise SlayerError(f"k is {k}: a chunk has at least one step")
        _check(module)
        self.module, self.k = module, k
        self._last: _Block | None = None

    def reset(self, x: Tensor) -> None:
        """To rest, with payloads ``[T, N, ...]``."""
        if x.ndim < 3:
            raise SlayerError(f"expected input [T, N, ...], found {list(x.shape)}")
        _rest(self.module)
        self._x, self._k = x, self.k or len(x)
        self._start = self._stop = self._next = 0
        self._detached = False
        self._outputs: Tensor | None = None
        self._total: Tensor | None = None

    def step(self, t: int) -> Tensor:
        """One step, t from 0 and one after the other: outputs o[t] ``[N, classes]``."""
        if t != self._next:
            raise SlayerError(f"step {t} cannot follow {self._next} steps: they go in order")
        if t == self._stop:
            self.chunk(t, min(t + self._k, len(self._x)))
        self._next = t + 1
        assert self._outputs is not None
        return self._outputs[t - self._start]

    @torch.no_grad()
    def skip(self, first: int, last: int) -> None:
        """Steps without gradients; the module has no shorter way through them."""
        for t in range(first, last):
            self.detach()
            self.step(t)

    def trace(self, tracing: object) -> None:
        """SLAYER has none: a clear line."""
        raise SlayerError(f"SLAYER's blocks keep no traces: {_RULES}")

    def divide(self, n: int) -> None:
        """SLAYER cannot: a clear line."""
        raise SlayerError(f"SLAYER's blocks have no local classifiers: {_RULES}")

    def snapshot(self) -> object:
        """SLAYER cannot go back: a clear line."""
        raise SlayerError(f"SLAYER's blocks cannot go back to an earlier step: {_RULES}")

    def chunk(self, start: int, stop: int) -> Tensor:
        """The steps ``start`` to ``stop`` − 1 in one call: outputs ``[stop − start, N, classes]``.

        ``start`` is where the chunk before ended; between two chunks comes :meth:`detach`.
        """
        if not self._next == self._stop == start < stop <= len(self._x):
            raise SlayerError(
                f"steps {start} to {stop - 1} cannot follow {self._next} steps of {len(self._x)}"
            )
        if start and not self._detached:
            raise SlayerError(
                f"SLAYER carries no gradient from step {start - 1} to step {start}, and the rule "
                "does not cut there: give Slayer the rule's k (for bptt leave it out)"
            )
        if self._outputs is not None:
            before = self._outputs.detach().sum(0)
            self._total = before if self._total is None else self._total + before
        self._outputs = self._call(self._x[start:stop])
        self._start, self._stop, self._next, self._detached = start, stop, stop, False
        return self._outputs

    def _call(self, x: Tensor) -> Tensor:
        took = f"the module, given [N, ..., T] = {list(x.movedim(0, -1).shape)}"
        with contextlib.ExitStack() as stack:
            calls = [] if self._last else stack.enter_context(_watched(self.module))
            try:
                z = self.module(x.movedim(0, -1))
            except (RuntimeError, AssertionError) as error:
                reason = " ".join(str(error).split())
                raise SlayerError(f"{took}, fails: {reason}") from error
        if not isinstance(z, Tensor):
            raise SlayerError(f"{took}, returns {type(z).__name__}, not [N, classes, T]")
        if z.ndim < 3 or (len(z), z.shape[-1]) != (x.shape[1], len(x)):
            raise SlayerError(f"{took}, returns {list(z.shape)}, not [N, classes, T]")
        if calls:
            self._last = calls[-1].block
        return z.flatten(1, -2).movedim(-1, 0)

    def detach(self) -> None:
        """No gradient from later steps to earlier ones: possible between two chunks only."""
        if self._next != self._stop:
            raise SlayerError(
                f"the rule cuts after step {self._next - 1}, in a chunk of steps {self._start} to "
                f"{self._stop - 1}: give Slayer the rule's k (for sltt leave it out)"
            )
        if not self._next:  # a rule that cuts before its first step, cuts before each
            self._k = self.k or 1
        self._detached = True  # the neurons' state was never part of a graph

    def detach_reset(self) -> None:
        """Nothing to do: SLAYER's gradient never goes through a reset."""

    def gather(self) -> None:
        """Nothing to do: calls share nothing, and send gradients to the parameters themselves."""

    def refresh(self) -> None:
        """Nothing to do: every call takes the parameters as they are."""

    @property
    def readout(self) -> Readout:
        """``membrane`` if an Affine block came last when the module ran, else ``spikes``."""
        return "membrane" if self._last is not None and self._last.kind == "Affine" else "spikes"

    def read(self) -> Tensor:
        """Scores ``[N, classes]``: spikes so far, the last voltage, or the sum of currents."""
        if self.readout == "membrane" and self._last is not None and self._last.block.dynamics:
            assert self._outputs is not None
            return self._outputs[self._next - self._start - 1].detach()
        return self._sum()

    def mean(self, steps: int) -> Tensor:
        """The mean output ``[N, classes]``, no gradient, of the ``steps`` so far."""
        return self._sum() / steps

    def _sum(self) -> Tensor:
        assert self._outputs is not None
        seen = self._outputs[: self._next - self._start].detach().sum(0)
        return seen if self._total is None else self._total + seen

    def forward(self, x: Tensor) -> Tensor:
        """Scores ``[N, classes]`` of payloads ``[T, N, ...]``, in one call of the module."""
        self.reset(x)
        self.chunk(0, len(x))
        return self.read()


# --- the chip -----------------------------------------------------------------------------------


def freeze(module: nn.Module, input_shape: Shape, encoding: Encoding) -> loihi.Network:
    """The module's network in integers, equal to its forward pass spike for spike.

    module: a chain of CUBA blocks Input, Flatten, Dense, Conv and Pool, and at the end an Affine
        block where membranes are to be read. A Pool becomes a grouped convolution, an Affine
        without dynamics the integrator of its currents.
    input_shape: ``(features,)`` or ``(C, H, W)`` of a step's payloads, which the module takes as
        they are.

    Equal as long as no current passes ±2^23 and no membrane −2^23, where the chip wraps and clips
    and SLAYER does not; :func:`agreement` looks. Raises :class:`SlayerError` with the block for
    what the chip would compute otherwise.
    """
    calls = _run(module, torch.zeros(1, *input_shape, 1))
    names = [call.block.name for call in calls]
    for name in names:
        if names.count(name) > 1:
            raise SlayerError(f"block {name} is used {names.count(name)} times: use it once")
    layers: list[loihi.Layer] = []
    for index, call in enumerate(calls):
        block = call.block
        if block.kind == "Affine" and index < len(calls) - 1:
            raise block.error("its output are no spikes: it can only come last")
        try:
            if block.has_layer:
                neuron = _neuron(block)
                layers.append(loihi.Layer(_synapse(call), neuron))
        except SlayerError:
            raise
        except PumiceError as error:
            raise block.error(str(error)) from None
    if not layers:
        raise SlayerError("the module has no block with neurons")
    readout: Readout = "membrane" if calls[-1].block.kind == "Affine" else "spikes"
    return loihi.Network(tuple(input_shape), tuple(layers), encoding, readout)


@dataclass(frozen=True)
class Agreement:
    """Of one layer: SLAYER's numbers beside the chip's.

    layer: its name in the network. state: ``spikes``, or of an Affine block ``v``.
    compared, mismatches: how many numbers, and how many are not the same.
    first: the first that is not: (sample, step from 0, *neuron); None if there is none.
    """

    layer: str
    state: str
    compared: int
    mismatches: int
    first: tuple[int, ...] | None


def agreement(module: nn.Module, network: loihi.Network, x: NDArray[Any]) -> tuple[Agreement, ...]:
    """Layer by layer, what the module and ``network`` do on payloads ``x [T, N, *input_shape]``.

    network: the module's, frozen or read from a file. The module runs in eval mode, from rest, all
    steps in one call; the network in the fast engine.
    """
    x = network.check_payloads(x)
    given = torch.from_numpy(np.array(x)).movedim(0, -1)
    calls = [call for call in _run(module, given) if call.block.has_layer]
    if len(calls) != len(network.layers):
        raise SlayerError(
            f"the module has {len(calls)} layers, the network {len(network.layers)}: "
            "it is not of this module"
        )
    membrane = calls[-1].block.kind == "Affine"
    trace = Engine(network).run(x, ("spikes", "v") if membrane else ("spikes",))
    found = []
    for index, call in enumerate(calls):
        y, block = call.y.movedim(-1, 0), call.block.block
        state, theirs = "spikes", np.asarray(trace.spikes[index], dtype=np.int64)
        if call.block.kind == "Affine":
            state, theirs = "v", trace.v[index].astype(np.int64)
            y = (y if block.dynamics else y.cumsum(0)).double() * block.neuron.s_scale
        if y[0].numel() != theirs[0].size:
            raise SlayerError(
                f"layer {network.names[index]} does not have the {y[0, 0].numel()} neurons of "
                f"block {call.block.name}: the network is not of this module"
            )
        differs = np.asarray(y.cpu().numpy().reshape(theirs.shape) != theirs)
        first = min(((n, t, *at) for t, n, *at in np.argwhere(differs).tolist()), default=None)
        found.append(
            Agreement(
                network.names[index], state, differs.size, int(np.count_nonzero(differs)), first
            )
        )
    return tuple(found)


def _synapse(call: _Call) -> loihi.Dense | loihi.Conv:
    """The weights that the forward pass uses, as integers."""
    synapse, neuron = call.block.block.synapse, call.block.block.neuron
    weight = synapse.weight.detach()
    if synapse.pre_hook_fx is not None:
        weight = synapse.pre_hook_fx(weight)
    integers = (weight.double() * neuron.w_scale).cpu().numpy()
    if call.block.kind in ("Dense", "Affine"):
        return loihi.Dense(integers.reshape(len(integers), -1))  # its kernel may be an image
    integers, groups = integers[..., 0], synapse.groups
    if call.block.kind == "Pool":
        groups = call.x.shape[1]
        integers = np.repeat(integers, groups, axis=0)
    stride, padding, dilation = (
        (int(pair[0]), int(pair[1])) for pair in (synapse.stride, synapse.padding, synapse.dilation)
    )
    found = loihi.Conv(integers, stride, padding, dilation, groups)
    x, y = (tuple(state.shape[1:-1]) for state in (call.x, call.y))
    if call.block.kind == "Pool" and found.output_shape(x) != y:
        raise call.block.error(
            f"{x[1]}x{x[2]} pixels do not divide into {integers.shape[2]}x{integers.shape[3]}, and "
            "SLAYER appends zeros to them, which the chip does not: make them divide"
        )
    return found


def _neuron(block: _Block) -> loihi.Neuron:
    neuron = block.block.neuron
    scale = neuron.w_scale
    if scale & (scale - 1):
        raise block.error(f"scale is {scale}: only powers of two keep states whole")
    if block.kind == "Affine" and not block.block.dynamics:
        return loihi.INTEGRATOR
    decays = [np.unique(d) for d in (neuron.cx_current_decay, neuron.cx_voltage_decay)]
    for name, decay in zip(("current_decay", "voltage_decay"), decays, strict=True):
        if decay.size > 1:
            raise block.error(f"{name} is one number a channel: the chip has one a layer")
    du, dv = (int(decay[0]) for decay in decays)
    if block.kind == "Affine":
        return loihi.Neuron(du, dv, None)
    if neuron.graded_spike:
        raise block.error("graded_spike: Lava's LIF sends binary spikes only")
    # In float32, as SLAYER compares: the smallest state that spikes must be θ and one unit.
    theta = neuron.v_th_mant << formats.STATE_SHIFT
    spikes_from = np.float32(neuron.threshold + neuron.threshold_eps) * neuron.s_scale
    if not theta < spikes_from <= theta + 1:
        raise block.error(
            f"with threshold {neuron.threshold:g} it spikes at v = threshold, which the chip does "
            "not: call trainer.slayer.strict(module) before training"
        )
    return loihi.Neuron(du, dv, neuron.v_th_mant)


# --- what is in a module ------------------------------------------------------------------------


class _Block(NamedTuple):
    """A block of lava-dl: its name in the module, its class's name, and itself."""

    name: str
    kind: str
    block: Any

    @property
    def has_layer(self) -> bool:
        """Whether it is a layer on the chip; what cannot be one raises."""
        if self.kind == "Flatten" or (self.kind == "Input" and self.block.neuron is None):
            return False
        if self.kind == "Input":
            raise self.error("an input block with neurons computes in fractions: begin without it")
        if self.kind not in ("Dense", "Affine", "Conv", "Pool"):
            raise self.error("netx and the chip have no such layer")
        return True

    def error(self, text: str) -> SlayerError:
        return SlayerError(f"block {self.name} ({self.kind}): {text}")


class _Call(NamedTuple):
    """A block's call: what came in and what went out, ``[N, ..., T]``."""

    block: _Block
    x: Tensor
    y: Tensor


def _is(module: nn.Module, name: str) -> bool:
    """Whether it is of a class of lava-dl's slayer; Lava need not be imported to ask."""
    return any(f"{c.__module__}.{c.__name__}" == f"{_PACKAGE}.{name}" for c in type(module).__mro__)


def _blocks(module: nn.Module) -> list[_Block]:
    found = []
    for name, part in module.named_modules():
        for cls in type(part).__mro__:
            if cls.__module__.startswith(f"{_PACKAGE}.block."):
                block = _Block(name or "0", cls.__name__, part)
                if cls.__module__ != f"{_PACKAGE}.block.cuba":
                    raise block.error(f"of {cls.__module__}: only CUBA blocks are supported")
                found.append(block)
                break
    return found


def _neurons(module: nn.Module) -> list[Any]:
    return [part for part in module.modules() if _is(part, "neuron.cuba.Neuron")]


_BORDERS = {
    "Recurrent": "it forgets its last spikes between two calls",
    "KWTA": "it forgets its last spikes between two calls",
    "TimeDecimation": "it bins time, which chunks would cut",
}


def _check(module: nn.Module) -> None:
    """A :class:`SlayerError` where a module in chunks would compute other than all at once."""
    blocks = _blocks(module)
    if not blocks:
        raise SlayerError(f"no block of {_PACKAGE}.block.cuba in {type(module).__name__}")
    for block in blocks:
        part = block.block
        neuron = getattr(part, "neuron", None)
        if block.kind in _BORDERS:
            raise block.error(_BORDERS[block.kind])
        if getattr(part, "delay_shift", False):
            raise block.error(
                "delay_shift: PyTorch cannot differentiate it with persistent state, and a step's "
                "error would not reach the block below; build it with delay_shift=False"
            )
        if getattr(part, "delay", None) is not None:
            raise block.error("delay: it loses the spikes under way between two calls")
        if neuron is None or (block.kind == "Affine" and not part.dynamics):
            continue
        if neuron.norm is not None:
            raise block.error(
                "norm: the state between two calls would not be the one within a call"
            )
        if not neuron.persistent_state:
            raise block.error(
                "its state ends with each call: build it with persistent_state=True in its neuron "
                "parameters"
            )


def _rest(module: nn.Module) -> None:
    """All state back to what it is in a new module; it takes the batch's shape in the next call."""
    for neuron in _neurons(module):
        neuron.current_state = neuron.current_state.new_zeros(1)
        neuron.voltage_state = neuron.voltage_state.new_zeros(1)


@contextlib.contextmanager
def _watched(module: nn.Module) -> Iterator[list[_Call]]:
    """The blocks' calls within, in their order."""
    calls: list[_Call] = []
    handles = [
        block.block.register_forward_hook(
            lambda _, given, y, block=block: calls.append(_Call(block, given[0], y))
        )
        for block in _blocks(module)
    ]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def _run(module: nn.Module, x: Tensor) -> list[_Call]:
    """All calls of blocks for ``x [N, ..., T]``, from rest, in eval mode; they must be a chain."""
    _check(module)
    if (weight := next(module.parameters(), None)) is not None:
        x = x.to(weight.device, weight.dtype)
    training = {part: part.training for part in module.modules()}
    module.eval()
    _rest(module)
    try:
        with _watched(module) as calls:
            y = module(x)
    except (RuntimeError, AssertionError) as error:
        reason = " ".join(str(error).split())
        raise SlayerError(f"the module, given {list(x.shape)}, fails: {reason}") from error
    finally:
        _rest(module)
        for part, mode in training.items():
            part.training = mode
    for call in calls:
        if call.x is not x:
            raise call.block.error(
                "its input is not the output of the block before: the chip needs a chain of blocks"
            )
        x = call.y
    if y is not x:
        raise SlayerError("the module changes its last block's output: the chip needs it as it is")
    return calls
