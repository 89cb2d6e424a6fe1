"""Networks of layers, stepped through time for the rules, and their one-line descriptions.

An architecture is written as in the papers, layers joined by ``-``, the output layer left out::

    512-512                    two dense layers of 512 neurons
    8c5-2a-16c5-2a-128         8 channels of 5x5 convolution, 2x2 average pooling, …, dense 128
    8c3p1s2                    3x3 convolution, padded by 1, stride 2
    128r                       dense, and recurrent: its spikes come back to it a step later
    ga                         (last) a global average, each class's weights shared by all pixels

or is one of the named ones of :mod:`trainer.zoo`.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import loihi
from loihi import Encoding, formats
from loihi.network import INPUT
from trainer import grid, skip
from trainer.calibration import calibrate
from trainer.layers import Layer, plus
from trainer.memory import pixel_by_pixel
from trainer.neurons import State, current
from trainer.norms import BatchNorm, Moments
from trainer.pools import AvgPool
from trainer.shared import Shared
from trainer.synapses import ModelError, Shape
from trainer.traces import LayerTraces, Tracing

__all__ = ["ModelError", "Shape", "SpikingNetwork"]


@dataclass
class Snapshot:
    """Where a batch stands after some steps: for :meth:`SpikingNetwork.restore`."""

    states: list[State | None]
    locals: list[State | None]
    total: Tensor | None


class SpikingNetwork(nn.Module):
    """Layers, stepped through time: what a rule trains and what freezes for the chip.

    For a rule (see :mod:`trainer.rules`): :meth:`reset`, then for each t :meth:`step`, with
    :meth:`detach` or :meth:`detach_reset` between steps as the rule has it, then :meth:`gather`.

    The output of a step is the last layer's synaptic input (readout ``membrane``; the chip's
    integrator adds it up) or its spikes (``spikes``), in units of ``temperature``.

    classifiers: local classifiers by the index of the layer that they read: a layer of neurons as
        the last one, with the synapse on that layer's spikes. They take part in training only.
    """

    temperature: Tensor
    local_temperatures: Tensor

    def __init__(
        self,
        layers: Sequence[Layer],
        input_shape: Shape,
        encoding: Encoding,
        description: str = "",
        classifiers: dict[int, Layer] | None = None,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        # Steps are short: what does not change is looked up once.
        self._chain = list(layers)
        self._sources = [_sources(index, layer) for index, layer in enumerate(layers)]
        self.input_shape, self.encoding, self.description = input_shape, encoding, description
        self.classifiers = nn.ModuleDict({str(k): v for k, v in (classifiers or {}).items()})
        self.register_buffer("temperature", torch.tensor(1.0))
        # A step of each local classifier's output in units of its own.
        self.register_buffer("local_temperatures", torch.ones(len(self.classifiers)))
        self._local = dict(classifiers or {})
        self._blocks: list[int] | None = None
        self._lasting = frozenset({*self.__dict__, "_lasting"})  # what is set later is of a batch

    def __getstate__(self) -> dict[str, Any]:
        """A copy takes along the network, not the batch that it has been stepped through."""
        return {k: v for k, v in self.__dict__.items() if k in self._lasting}

    @property
    def chain(self) -> list[Layer]:
        """The layers, typed."""
        return self._chain

    @property
    def local_layers(self) -> dict[int, Layer]:
        """The local classifiers, typed."""
        return self._local

    @property
    def readout(self) -> loihi.network.Readout:
        """``membrane`` or ``spikes``."""
        return "membrane" if self.chain[-1].neurons is None else "spikes"

    @property
    def classes(self) -> int:
        """Neurons of the last layer."""
        return math.prod(self.chain[-1].synapse.output_shape)

    @property
    def on_grid(self) -> bool:
        """Whether the network computes the chip's integers."""
        return all(layer.on_grid for layer in self.chain)

    def sources(self, index: int) -> list[tuple[int, ...]]:
        """The layers (−1: the input) whose spikes each of a layer's synapses carries."""
        return self._sources[index]

    def activity_size(self) -> int:
        """Neurons of the largest layer, times T."""
        sizes = [math.prod(layer.synapse.output_shape) for layer in self.chain]
        return max(sizes) * self.encoding.time_steps

    def depths(self) -> list[int]:
        """For each layer, how many layers with weights of their own there are up to it, from 1."""
        weighted = [not isinstance(layer.synapse, AvgPool) for layer in self.chain]
        return np.cumsum(weighted).tolist()

    # --- time ---------------------------------------------------------------------------------

    def reset(self, x: Tensor) -> None:
        """To rest, with the payloads ``[T, N, *input_shape]`` of the next batch."""
        self._x = x
        self._tracing: Tracing | None = None
        self._blocks = None
        self._states: list[State | None] = [None] * len(self.layers)
        self._local_states: list[State | None] = [None] * len(self.classifiers)
        self._total: Tensor | None = None
        self.locals: list[Tensor] = []
        self.refresh()

    def trace(self, tracing: Tracing) -> None:
        """From rest: keeps traces, with which the gradients to come are taken."""
        self._tracing = tracing
        self._traces: list[LayerTraces | None] = []
        for index, layer in enumerate(self.chain):
            n = layer.neurons
            count = len(self._routes(index))
            self._traces.append(None if n is None else LayerTraces(tracing, n, count))
        self._local_traces = [
            None if c.neurons is None else LayerTraces(tracing, c.neurons, 1)
            for c in self.local_layers.values()
        ]

    def divide(self, n: int) -> None:
        """From rest: no gradient passes from one block of ``n`` layers to the one before."""
        self._blocks = [(max(depth, 1) - 1) // n for depth in self.depths()]
        last = max(self._blocks[:-1], default=0)
        self._blocks[-1] = last  # the output layer is the last block's classifier
        self.refresh()

    def refresh(self) -> None:
        """Quantises the parameters as they are now; states and traces go on."""
        self._shared: list[Shared] = []
        per_step = self._per_step
        offsets = [None for _ in self.chain] if per_step else self._norm_offsets(self._share)
        self._ready = [
            layer.prepare(self._share, per_step, offset)
            for layer, offset in zip(self.chain, offsets, strict=True)
        ]
        self._local_ready = [c.prepare(self._share) for c in self.local_layers.values()]
        # A static input gives the same synaptic input at every step: compute it once. Its gradient
        # is linear in the steps' errors, so their sum through one product is exact.
        self._static: dict[tuple[int, int], Shared] = {}
        # Below half the register's range the current cannot wrap: worth knowing, as it saves the
        # test for it in every step.
        bounds: list[float] = []
        for layer, ready in zip(self.chain, self._ready, strict=True):
            bound = layer.input_bound(ready) if layer.on_grid else 0.0
            bounds.append(bound + (0.0 if layer.carry is None else bounds[layer.carry]))
        self._wraps = [bound >= formats.STATE_MAX for bound in bounds]
        self._wraps_total = bounds[-1] * len(self._x) >= formats.STATE_MAX
        self._static_folds: dict[tuple[int, int], tuple[Shared, BatchNorm, Moments]] = {}
        self._biased: set[int] = set()  # layers whose static input has their bias in it
        if len(self._x) > 1 and self._x.stride(0) == 0:
            self._receive_static(per_step)

    def _receive_static(self, per_step: bool) -> None:
        carried = {layer.carry for layer in self.chain}
        x = self._x[0]
        for index, layer in enumerate(self.chain):
            ready = self._ready[index]
            for number, sources in enumerate(self.sources(index)):
                if sources != (INPUT,):
                    continue
                norm = layer.synapses[number].norm
                offset: Tensor | None = None
                if per_step and isinstance(norm, BatchNorm):
                    # The same statistics in every step, and one way back for all that uses them.
                    fold, moments = layer.fold(number, x, ready)
                    shared = self._share(fold)
                    self._static_folds[index, number] = shared, norm, moments
                    scale, offset = shared.now()
                    a = layer.receive_folded(number, x, ready, scale)
                else:
                    a, _ = layer.receive(number, x, ready)
                alone = len(layer.synapses) == 1 and layer.carry is None and index not in carried
                if alone and layer.neurons is not None:
                    if self._wraps[index]:
                        a, self._wraps[index] = layer.wrap(a), False
                    if not layer.remembers_current:  # a bias is a weight of an input of 1
                        a = layer.with_bias(a, ready, offset)
                        self._biased.add(index)
                self._static[index, number] = self._share(a)

    def _norm_offsets(self, share: Callable[[Tensor], Shared]) -> list[Tensor | None]:
        """What the running statistics of batch norms add to each layer's bias."""
        found: list[Shared | None] = []
        for index, layer in enumerate(self.chain):
            offset = layer.offset()
            carried = None if layer.carry is None else found[layer.carry]
            if carried is not None and layer.carry is not None:
                apart = self._apart(layer.carry, index)
                offset = plus(offset, carried.value.detach() if apart else carried.now())
            found.append(None if offset is None else share(offset))
        return [None if shared is None else shared.now() for shared in found]

    @property
    def _per_step(self) -> bool:
        """Whether batch norms use each step's own statistics."""
        return self.training and any(c.batch_norms for c in self.chain)

    def _share(self, tensor: Tensor) -> Shared:
        self._shared.append(Shared(tensor))
        return self._shared[-1]

    def step(self, t: int) -> Tensor:
        """One step, t from 0: the output o[t] ``[N, classes]``.

        :attr:`locals` then holds those of the local classifiers, first layer first.
        """
        self._now: list[State | None] = [None] * len(self.layers)
        self._a: list[Tensor] = []
        self._offsets: list[Tensor | None] = []
        out: Tensor | None = None
        for index, layer in enumerate(self.chain):
            traces = None if self._tracing is None else self._traces[index]
            if traces is not None:
                self._advance_traces(index, layer, traces)
            a, offset = self._receive(index, layer, t, traces)
            self._a.append(a)
            self._offsets.append(offset)
            if layer.neurons is None:
                out = a
                self._total = self._integrated(a.detach())
            else:
                ready = self._ready[index]
                if index in self._biased:
                    ready = ready._replace(bias=None)
                if self._wraps[index]:
                    a = layer.wrap(a)
                state = layer.advance(a, self._states[index], ready, offset, traces)
                self._now[index] = state
                out = state.s
        assert out is not None
        self._step_classifiers()
        self._states = self._now
        if self.readout == "spikes":
            spikes = out.detach()
            self._total = spikes if self._total is None else self._total + spikes
        return out.flatten(1) / self.temperature

    @torch.no_grad()
    def skip(self, first: int, last: int) -> None:
        """Steps ``first`` to ``last`` − 1 without outputs or gradients: the state goes on."""
        if first == last:
            return
        self.detach()
        if skip.able(self) and skip.skip(self, first, last):
            return
        for t in range(first, last):
            self.step(t)

    def synaptic_input(self, index: int) -> Tensor:
        """What a layer's synapses brought in the step just done ``[N, *shape]``, without bias."""
        layer, a = self.chain[index], self._a[index]
        if index not in self._biased:
            return layer.wrap(a)
        return a - layer.with_bias(torch.zeros_like(a), self._ready[index], None)

    def _integrated(self, a: Tensor) -> Tensor:
        """The readout's membrane after synaptic input ``a``; wrapped only if it can be."""
        if self._wraps_total:
            return current(a, self._total, torch.ones((), dtype=a.dtype, device=a.device))
        return a if self._total is None else self._total + a

    def _advance_traces(self, index: int, layer: Layer, traces: LayerTraces) -> None:
        ready = self._ready[index]
        assert ready.alpha is not None
        before = self._states[index]
        if before is None:
            shape = (self._x.shape[1], *layer.synapse.output_shape)
            before = layer.rest(pixel_by_pixel(self._x.new_zeros(shape)), ready)
        beta = None if ready.beta is None else ready.beta.value
        traces.advance(before, ready.alpha.value, beta)

    def _routes(self, index: int) -> list[tuple[int, int]]:
        """(layer, synapse) of all that feeds a layer's neurons: its own, and those it carries."""
        layer = self.chain[index]
        own = [(index, number) for number in range(len(layer.synapses))]
        return own if layer.carry is None else own + self._routes(layer.carry)

    def _receive(
        self, index: int, layer: Layer, t: int, traces: LayerTraces | None
    ) -> tuple[Tensor, Tensor | None]:
        """All synaptic input of a layer, and what batch norms add to its bias."""
        total: Tensor | None = None
        offset: Tensor | None = None
        # A trace goes with the receiver's leak: what a layer carries it traces for itself.
        routes = (
            self._routes(index)
            if traces is not None
            else [(index, number) for number in range(len(layer.synapses))]
        )
        for place, (owner, number) in enumerate(routes):
            static = self._static.get((owner, number))
            if static is not None:
                scale = None
                if traces is not None:
                    scale = traces.constant.value
                a, b = static.now(scale), None
                if (owner, number) in self._static_folds:
                    fold, norm, moments = self._static_folds[owner, number]
                    if owner == index:
                        norm.follow(moments)
                    b = None if owner in self._biased else fold.now()[1]
            else:
                message = self._message(owner, self.sources(owner)[number], t, index)
                if message is None:
                    continue
                source, ready = self.chain[owner], self._ready[owner]
                if traces is None:
                    a, b = source.receive(number, message, ready, self._per_step)
                else:
                    trace = traces.messages[place]
                    carried = owner != index
                    a, b = source.receive_traced(
                        number, message, ready, traces, trace, self._per_step, carried
                    )
            if owner != index and self._apart(owner, index):
                a, b = a.detach(), None if b is None else b.detach()
            total = a if total is None else total + a
            offset = plus(offset, b)
        if layer.carry is not None and traces is None:
            a, b = self._a[layer.carry], self._offsets[layer.carry]
            if self._apart(layer.carry, index):
                a, b = a.detach(), None if b is None else b.detach()
            total = a if total is None else total + a
            offset = plus(offset, b)
        if total is None:  # fed by nothing but a loop, at the first step
            shape = (self._x.shape[1], *layer.synapse.output_shape)
            total = self._x.new_zeros(shape)
        return total, offset

    def _message(
        self, owner: int, sources: tuple[int, ...], t: int, receiver: int
    ) -> Tensor | None:
        """The spikes of some layers, added up; None: nothing yet."""
        total: Tensor | None = None
        for source in sources:
            if source == INPUT:
                message = self._x[t]
            else:
                state = self._now[source] if source < owner else self._states[source]
                if state is None:
                    continue
                message = state.s
                if self._apart(source, receiver) or (source >= owner and self._tracing is not None):
                    message = message.detach()
            total = message if total is None else total + message
        return total

    def _apart(self, source: int, receiver: int) -> bool:
        """Whether an error must not pass from one layer to the other: they are in two blocks."""
        return self._blocks is not None and self._blocks[source] != self._blocks[receiver]

    def _step_classifiers(self) -> None:
        self.locals = []
        for place, (index, layer) in enumerate(self.local_layers.items()):
            state, ready = self._now[index], self._local_ready[place]
            assert state is not None
            traces = None if self._tracing is None else self._local_traces[place]
            before = self._local_states[place]
            if traces is None:
                a, _ = layer.receive(0, state.s, ready)
            else:
                assert ready.alpha is not None
                rest = before
                if rest is None:
                    shape = (self._x.shape[1], *layer.synapse.output_shape)
                    rest = layer.rest(self._x.new_zeros(shape), ready)
                traces.advance(
                    rest, ready.alpha.value, None if ready.beta is None else ready.beta.value
                )
                a, _ = layer.receive_traced(0, state.s, ready, traces, traces.messages[0])
            out = a
            if layer.neurons is not None:
                new = layer.advance(layer.wrap(a), before, ready, None, traces)
                self._local_states[place] = new
                out = new.s
            self.locals.append(out.flatten(1) / self.local_temperatures[place])

    def detach(self) -> None:
        """sg(state): the steps to come send no gradient to the steps before."""
        self._states = [None if s is None else s.detach() for s in self._states]
        self._local_states = [None if s is None else s.detach() for s in self._local_states]

    def detach_reset(self) -> None:
        """sg(s) in the resets to come; the membranes keep their gradient."""
        self._states = [None if s is None else s.detach_reset() for s in self._states]
        self._local_states = [None if s is None else s.detach_reset() for s in self._local_states]

    def gather(self) -> None:
        """Sends what the batch's steps gathered on to the parameters."""
        # Last in, first out: a later tensor may have been computed from an earlier one.
        while self._shared:
            self._shared.pop().gather()

    def read(self) -> Tensor:
        """Scores ``[N, classes]`` after the steps so far: the membrane, or the spike counts."""
        assert self._total is not None
        if self.readout == "spikes":
            return self._total.flatten(1)
        limit = formats.STATE_MAX - 1
        return self._total.flatten(1).clamp(-limit, limit)

    def mean(self, steps: int) -> Tensor:
        """The mean output ``[N, classes]``, no gradient, of the ``steps`` so far."""
        assert self._total is not None
        return self._total.flatten(1) / (steps * self.temperature)

    def snapshot(self) -> Snapshot:
        """Where the batch stands, without gradient."""
        self.detach()
        return Snapshot(list(self._states), list(self._local_states), self._total)

    def restore(self, snapshot: Snapshot) -> list[Tensor]:
        """Back to where the batch stood; the state's tensors as leaves that take gradients."""

        def leaves(states: list[State | None]) -> list[State | None]:
            return [None if s is None else s.leaf() for s in states]

        self._states, self._local_states = leaves(snapshot.states), leaves(snapshot.locals)
        self._total = snapshot.total
        return self.state_tensors()

    def state_tensors(self) -> list[Tensor]:
        """The tensors through which later steps depend on earlier ones."""
        found: list[Tensor] = []
        for state in (*self._states, *self._local_states):
            if state is not None:
                found += [x for x in (state.m, state.s, state.theta, state.u) if x is not None]
        return found

    @contextlib.contextmanager
    def replay(self) -> Iterator[None]:
        """Within, steps are done again: running statistics stay as they are."""
        norms = [m for m in self.modules() if isinstance(m, BatchNorm)]
        for norm in norms:
            norm.frozen = True
        try:
            yield
        finally:
            for norm in norms:
                norm.frozen = False

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

    def calibrate(self, x: Tensor, generator: torch.Generator) -> None:
        """New weights, and thresholds that suit them and the payloads ``[T, N, *input_shape]``.

        See :func:`trainer.calibration.calibrate`.
        """
        calibrate(self, x, generator)

    @torch.no_grad()
    def project(self) -> None:
        """Parameters back into their ranges, on the grid the chip's."""
        for layer in (*self.chain, *self.local_layers.values()):
            for synapse in layer.synapses if layer.on_grid else ():
                if not isinstance(synapse, AvgPool) and synapse.norm is None:
                    assert isinstance(synapse.weight, Tensor)
                    synapse.weight.clamp_(-grid.WEIGHT_MAX, grid.WEIGHT_MAX)
            if layer.neurons is not None:
                layer.neurons.project()

    def learn(self, threshold: bool, leak: bool) -> None:
        """Whether thresholds and leaks learn; weights always do."""
        for layer in (*self.chain, *self.local_layers.values()):
            if layer.neurons is not None:
                layer.neurons.learn(threshold, leak)

    @torch.no_grad()
    def freeze(self) -> loihi.Network:
        """The network in integers, equal to this one's forward pass spike for spike."""
        self._blocks = None
        offsets = self._norm_offsets(Shared)
        return loihi.Network(
            input_shape=self.input_shape,
            layers=tuple(
                layer.freeze(offset) for layer, offset in zip(self.chain, offsets, strict=True)
            ),
            encoding=self.encoding,
            readout=self.readout,
        )

    def exact_dtype(self) -> torch.dtype:
        """The float in which every sum of the forward pass is exact: float32 nearly always.

        float32 holds the integers below 2^24. A sum of products is safe in it, in any order, as
        long as Σ|w|·peak stays below; with a current that has memory, below 2^17, because 6 bits
        and the decayed current come on top.
        """
        reaches: list[float] = []
        for layer in self.chain:
            reach = sum(s.reach() for s in layer.synapses) * layer.peak
            if layer.carry is not None:
                reach += reaches[layer.carry]
            reaches.append(reach)
            bits = 17 if layer.remembers_current else 24
            if reach >= 2**bits:
                return torch.float64
        return torch.float32


def _sources(index: int, layer: Layer) -> list[tuple[int, ...]]:
    first = (index - 1,) if layer.sources is None else layer.sources
    return [first, *(link.sources for link in layer.links)]
