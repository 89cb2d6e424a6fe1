"""The kinds of neurons: leaky integrate-and-fire, and those of existing sigma-delta and resonator
files. Each is a frozen dataclass of integers, checked where it is built; what a step of each
computes is written out in :mod:`loihi.reference`.

Those that send numbers in place of spikes are *graded*; those that Lava cannot reset carry their
state over, so that each sample has to be run from rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from loihi import formats
from loihi.formats import FormatError, require_integer, require_integers
from loihi.frozen import Frozen

Shape = tuple[int, ...]
Bias = NDArray[np.int32] | int
Reset = Literal["hard", "soft"]
Activation = Literal["relu", "unit"]


def _check_delta(neuron: Delta | SigmaDelta) -> None:
    put = object.__setattr__
    put(neuron, "vth", require_integer("vth", neuron.vth, 0, formats.VTH_MAX))
    for name in ("spike_exp", "state_exp"):  # three bits each in Lava
        put(neuron, name, require_integer(name, getattr(neuron, name), 0, 7))


def _bias(bias: Bias, low: int, high: int) -> Bias:
    found = require_integers("bias", bias, low, high)
    return int(found) if found.ndim == 0 else found


def _spread(bias: Bias, shape: Shape) -> NDArray[np.int64]:
    """One number a neuron; read-only."""
    array = np.asarray(bias, dtype=np.int64)
    if array.ndim == 1 and len(shape) == 3:
        array = array[:, None, None]
    return np.broadcast_to(array, shape)


@dataclass(frozen=True, eq=False)
class Neuron(Frozen):
    """A layer's leaky integrate-and-fire neurons (Lava's LIF / LIFReset, fixed point).

    In each step, a being the synaptic input::

        u = decay(u, du) + (a << 6)            wraps once at 24 bits
        v = decay(v, dv) + u + (bias << bias_exp)   clips at ±(2^23 − 1)
        s = v > (vth << 6)
        v = 0 where s (hard reset),  or  v − (vth << 6) (soft)

    du: decay of the current u, 0..4096 (netx ``iDecay``; Lava's LIF takes du − 1). 4096: no memory.
    dv: decay of the membrane v, 0..4096 (netx ``vDecay``). 0: no leak.
    vth: threshold mantissa, 0..131071; None: the neuron never spikes, its membrane is read.
    bias: mantissa, −4096..4095; one number, one a channel ``(C,)``, or one a neuron.
    bias_exp: 0..7; netx files know 6 only.
    reset: Lava's LIF and netx know ``hard`` only; ``soft`` is a process of ours, and on a chip
        microcode of one's own.
    """

    du: int = 4096
    dv: int = 0
    vth: int | None = 64
    bias: Bias = 0
    bias_exp: int = 6
    reset: Reset = "hard"
    graded: ClassVar[bool] = False
    resets: ClassVar[bool] = True

    def __post_init__(self) -> None:
        put = object.__setattr__  # the dataclass is frozen; this is its construction
        put(self, "du", require_integer("du", self.du, 0, formats.DECAY_ONE))
        put(self, "dv", require_integer("dv", self.dv, 0, formats.DECAY_ONE))
        if self.vth is not None:
            put(self, "vth", require_integer("vth", self.vth, 0, formats.VTH_MAX))
        put(self, "bias", _bias(self.bias, formats.BIAS_MIN, formats.BIAS_MAX))
        put(self, "bias_exp", require_integer("bias_exp", self.bias_exp, 0, formats.BIAS_EXP_MAX))
        if self.reset not in get_args(Reset):
            raise FormatError(f"reset {self.reset!r} is unknown: use hard or soft")

    @property
    def has_bias(self) -> bool:
        """Whether any neuron has a bias other than 0."""
        return bool(np.any(self.bias))

    def effective_bias(self, shape: Shape) -> NDArray[np.int64]:
        """``bias << bias_exp`` for every neuron of ``shape``."""
        return _spread(self.bias, shape) << self.bias_exp


INTEGRATOR = Neuron(du=0, dv=4096, vth=None)
"""What netx makes of a dense block without a neuron: u adds up all input, v = u, no spikes."""


@dataclass(frozen=True, eq=False)
class Delta(Frozen):
    """Sends what has changed: the input layer of a sigma-delta network (Lava's Delta, fixed point).

    In each step, a being the input, θ the threshold, all numbers of 32 bits::

        x = a << (spike_exp + state_exp)
        d = x − x[t−1] + r[t−1]
        s = d where |d| ≥ θ << (spike_exp + state_exp), else 0
        r = d − s
        sent: s >> state_exp

    vth: θ, netx ``vThMant``, 0..131071. spike_exp: netx's, binary places of a message.
    state_exp: further binary places of the state, 6 in netx.
    """

    vth: int = 0
    spike_exp: int = 6
    state_exp: int = 6
    bias: ClassVar[int] = 0
    has_bias: ClassVar[bool] = False
    graded: ClassVar[bool] = True
    resets: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _check_delta(self)

    @property
    def threshold(self) -> int:
        """θ in units of the state."""
        return self.vth << (self.spike_exp + self.state_exp)

    def effective_bias(self, shape: Shape) -> NDArray[np.int64]:
        """None: zeros."""
        return _spread(0, shape)


@dataclass(frozen=True, eq=False)
class SigmaDelta(Frozen):
    """Adds up changes, and sends what has changed in turn (Lava's SigmaDelta, fixed point).

    In each step, a being the synaptic input, all numbers of 32 bits::

        σ = σ[t−1] + a
        y = σ + (bias << (spike_exp + state_exp))
        x = max(y, 0) (activation relu),  or y (unit)
        d, s, r and what is sent: as :class:`Delta`

    vth, spike_exp, state_exp: as :class:`Delta`. bias: mantissa, −131072..131071: one number, one a
    channel, or one a neuron.
    """

    vth: int = 0
    bias: Bias = 0
    activation: Activation = "relu"
    spike_exp: int = 6
    state_exp: int = 6
    graded: ClassVar[bool] = True
    resets: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _check_delta(self)
        object.__setattr__(self, "bias", _bias(self.bias, -formats.VTH_MAX - 1, formats.VTH_MAX))
        if self.activation not in get_args(Activation):
            raise FormatError(f"activation {self.activation!r} is unknown: use relu or unit")

    @property
    def threshold(self) -> int:
        """θ in units of the state."""
        return self.vth << (self.spike_exp + self.state_exp)

    @property
    def has_bias(self) -> bool:
        """Whether any neuron has a bias other than 0."""
        return bool(np.any(self.bias))

    def effective_bias(self, shape: Shape) -> NDArray[np.int64]:
        """``bias << (spike_exp + state_exp)`` for every neuron of ``shape``."""
        return _spread(self.bias, shape) << (self.spike_exp + self.state_exp)


@dataclass(frozen=True, eq=False)
class Sigma(Frozen):
    """Adds up changes and sends the sum: the last layer of a sigma-delta network (Lava's Sigma).

    σ = σ[t−1] + a, of 32 bits; σ is sent, and is the membrane that a readout reads.
    """

    vth: ClassVar[None] = None
    bias: ClassVar[int] = 0
    has_bias: ClassVar[bool] = False
    graded: ClassVar[bool] = True
    resets: ClassVar[bool] = False

    def effective_bias(self, shape: Shape) -> NDArray[np.int64]:
        """None: zeros."""
        return _spread(0, shape)


@dataclass(frozen=True, eq=False)
class Resonator(Frozen):
    """Resonate-and-fire neurons behind a complex synapse (Lava's RF and RF_IZ, fixed point).

    In each step, a = (a_re, a_im) being the synaptic input, ⌊·⌉₀ rounding each product to zero::

        re' = clip(⌊cos·re / 4096⌉₀ − ⌊sin·im / 4096⌉₀ + (a_re << 6))      ±(2^23 − 1)
        im' = clip(⌊sin·re / 4096⌉₀ + ⌊cos·im / 4096⌉₀ + (a_im << 6))
        phase:       s = re' ≥ vth << 6 and im' ≥ 0 and im < 0
        izhikevich:  s = im' ≥ vth << 6;   where s: re' = 0, im' = (vth << 6) − 1

    vth: threshold mantissa, 0..131071. sin, cos: of a step's angle, times what is kept, in 4096ths,
    −4096..4096.
    spikes: ``phase`` (netx ``RF_PHASE…``) or ``izhikevich``.
    """

    vth: int
    sin: int
    cos: int
    spikes: Literal["phase", "izhikevich"] = "izhikevich"
    bias: ClassVar[int] = 0
    has_bias: ClassVar[bool] = False
    graded: ClassVar[bool] = False
    resets: ClassVar[bool] = False

    def __post_init__(self) -> None:
        put, one = object.__setattr__, formats.DECAY_ONE
        put(self, "vth", require_integer("vth", self.vth, 0, formats.VTH_MAX))
        put(self, "sin", require_integer("sin", self.sin, -one, one))
        put(self, "cos", require_integer("cos", self.cos, -one, one))
        if self.spikes not in ("phase", "izhikevich"):
            raise FormatError(f"spikes {self.spikes!r} is unknown: use phase or izhikevich")

    def effective_bias(self, shape: Shape) -> NDArray[np.int64]:
        """None: zeros."""
        return _spread(0, shape)


AnyNeuron = Neuron | Delta | SigmaDelta | Sigma | Resonator
