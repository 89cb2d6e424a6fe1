"""A network's numbers at every step, as plain arrays: what simulators of its frozen form must find.

Everything is in register units (64 a weight unit), as u and v are on the chip. Nothing is computed
here: the numbers are those with which the forward pass itself goes on.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from loihi import formats
from loihi.errors import PumiceError
from trainer.layers import plus
from trainer.models import SpikingNetwork
from trainer.neurons import REGISTER, Form, FormA, Hard, State
from trainer.pools import AvgPool
from trainer.shared import Shared


class RealSoft(FormA):
    """``m = α (m − θ s) + i``, ``s = [m > θ]``: the chip's soft reset in real numbers."""

    name = "real soft"

    @staticmethod
    def fires(m: Tensor, theta: Tensor) -> Tensor:
        return m > theta


REAL: dict[str, Form] = {"chip": Hard(), "soft": RealSoft()}
"""For each form on the grid the one that computes the same in real numbers."""

_DTYPES = {"spikes": np.uint8, "u": np.int32, "v": np.int32}


@torch.no_grad()
def observe(
    module: SpikingNetwork, x: NDArray[Any], record: Mapping[str, Iterable[int]]
) -> dict[tuple[str, int], NDArray[Any]]:
    """What some layers do with payloads ``x`` ``[T, N, *input_shape]``, in the forward pass.

    record: of ``spikes``, ``u``, ``v`` (after the step, reset done) the layers, ``{"v": [2]}``.
    Returns for each (state, layer) an array ``[T, N, *shape]``: integers of a network on the grid,
    else float64. The module must be a copy of its own in that dtype: see :func:`ready`.
    """
    kept: dict[tuple[str, int], NDArray[Any]] = {}
    for state, indices in record.items():
        for index in indices:
            shape = module.chain[index].synapse.output_shape
            dtype = _DTYPES[state] if module.on_grid or state == "spikes" else np.float64
            kept[state, index] = np.zeros((*x.shape[:2], *shape), dtype=dtype)
    module.reset(_tensor(module, x))
    unit = 1.0 if module.on_grid else REGISTER
    for t in range(len(x)):
        module.step(t)
        for (what, index), rows in kept.items():
            numbers = _now(module, index, what)
            if numbers is not None:
                scale = 1.0 if what == "spikes" else unit
                rows[t] = (numbers.double() * scale).cpu().numpy().reshape(rows.shape[1:])
    return kept


@torch.no_grad()
def tally(module: SpikingNetwork, x: Tensor) -> tuple[Tensor, list[int]]:
    """The forward pass on payloads ``[T, N, *input_shape]``: scores ``[N, classes]``, and how many
    spikes each layer sent; 0 from a readout's integrator, which never does."""
    module.reset(x)
    counts = torch.zeros(len(module.chain), dtype=torch.int64, device=x.device)
    for t in range(len(x)):
        module.step(t)
        for index, state in enumerate(module._states):
            if state is not None:
                counts[index] += torch.count_nonzero(state.s)
    return module.read(), [int(n) for n in counts.tolist()]


def ready(module: SpikingNetwork) -> SpikingNetwork:
    """A copy for :func:`observe`, in the float in which all of its sums are exact.

    Its norms are folded before that, in the parameters' own float, as they are when it is frozen:
    a weight that lies between two of the grid's would be rounded to the other one.
    """
    twin = copy.deepcopy(module).eval()
    twin._blocks = None
    offsets = twin._norm_offsets(Shared)
    for layer, offset in zip(twin.chain, offsets, strict=True):
        if layer.neurons is not None and offset is not None:
            bias = plus(layer.neurons.bias, offset)
            assert bias is not None
            layer.neurons.bias = torch.nn.Parameter(bias)
    for layer in (*twin.chain, *twin.local_layers.values()):
        for synapse in layer.synapses:
            if synapse.norm is not None:
                synapse.weight = torch.nn.Parameter(synapse.folded()[0])
                synapse.norm = None
    return twin.to(module.exact_dtype())


@torch.no_grad()
def in_real_numbers(module: SpikingNetwork) -> SpikingNetwork:
    """The network with the same parameters and none of the grid: nothing rounded, clipped, wrapped.

    A network that is trained like this and rounded at the end is what the grid is measured against.
    """
    twin = copy.deepcopy(module).eval().double()
    for layer in (*twin.chain, *twin.local_layers.values()):
        layer.on_grid = False
        neurons = layer.neurons
        if neurons is None:
            continue
        if neurons.form.name not in REAL:
            raise PumiceError(f"neurons of form {neurons.form.name} are not on the chip's grid")
        neurons.form = REAL[neurons.form.name]
        if isinstance(layer.synapse, AvgPool):  # fixed weights in other units
            neurons.vth.fill_(layer.synapse.averaging(False)["vth"])
    return twin


def _tensor(module: SpikingNetwork, x: NDArray[Any]) -> Tensor:
    """Payloads on the module's device; what does not change in time takes one step's memory."""
    static = x.strides[0] == 0
    one = np.ascontiguousarray(x[:1] if static else x)
    tensor = torch.from_numpy(one.astype(np.float64)).to(module.temperature)
    tensor = tensor.reshape(*tensor.shape[:2], *module.input_shape)
    return tensor.expand(len(x), *tensor.shape[1:])


def _now(module: SpikingNetwork, index: int, what: str) -> Tensor | None:
    """A layer's spikes, u or v after the step just done; None: it never spikes."""
    state = module._states[index]
    if state is None:  # the readout's integrator
        total = module._total
        if what == "spikes" or total is None:
            return None
        limit = formats.STATE_MAX - 1
        return total.clamp(-limit, limit) if what == "v" and module.on_grid else total
    if what == "spikes":
        return state.s
    if what == "u":
        return module.synaptic_input(index) if state.u is None else state.u
    return _after_reset(module, index, state)


def _after_reset(module: SpikingNetwork, index: int, state: State) -> Tensor:
    """v with the reset done: what the next step begins with, before any leak and without input."""
    neurons = module.chain[index].neurons
    assert neurons is not None
    all_of_it = torch.ones((), dtype=state.m.dtype, device=state.m.device)
    return neurons.form.integrate(
        torch.zeros_like(state.m), state.m, state.s, state.theta, all_of_it
    )
