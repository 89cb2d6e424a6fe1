"""The local learning block: what of a frozen network learns, and every number of the rule.

    input → W1 → hidden neurons → W2 → LocalError → B → the hidden neurons' third factor

The last layer of the network is the readout W2, the one before it the hidden layer W1; whatever
comes before stays as it is and runs in front. B is W2's transpose as it was at the start, and
stays so. With s the presynaptic spikes, x a trace of them, r the readout, and one-hot labels::

    x1 = decay(x1, τ) + impulse · s         7 bits, unsigned
    e  = amplitude · onehot − (r >> readout_shift)        halved a few times towards the end
    g  = (B e >> error_shift) · 1[|v − θ| < window]
    ΔW1 = 2^rate · g ⊗ x1     (mode "hidden")       ΔW2 = 2^rate · e ⊗ x1     (mode "readout")

"hidden" is the fully local corner of TT-LBP (k = 1, n = 1); with its fixed random readout it is
DECOLLE. "readout" is the delta rule. "both" does both at once, with fixed feedback.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from loihi import INTEGRATOR, Dense, Encoding, Layer, Network, Neuron, PumiceError
from loihi.engine import Engine
from loihi.formats import STATE_SHIFT

Mode = Literal["hidden", "readout", "both"]
MODES: tuple[str, ...] = get_args(Mode)

MANTISSA_MIN, MANTISSA_MAX = -128, 127
"""What a plastic synapse of either sign holds in its 8 bits."""
LOOP = 2
"""Steps from an error to its third factor, on top of the forward pass."""


class LearningError(PumiceError):
    """A network, data or numbers that cannot learn on the chip."""


@dataclass(frozen=True)
class Rule:
    """The rule's numbers, in the chip's units.

    gap: silent steps after each sample, in which the last errors arrive and the traces fade.
    amplitude: what the readout of the labelled class should reach; 1..127, the others 0.
    leak: decay of the readout in LocalError, 0..4096; 0 sums up the sample, as the network does.
    halvings: how often the error is halved towards the end: with 1/2, 1/4, 1/8, … of the samples
        left. A rate that stays large lets the last samples undo what the others taught.
    window: half width of the surrogate's box, in thresholds.
    tau, impulse: of the presynaptic trace: its decay in steps, and what a spike adds (1..127).
        Graded input has no impulse: the trace takes half the payload.
    rate: the exponent of the learning rate, −7..8. A weight changes by g · x1 / 2^(3 − rate).
    epoch: steps between two updates of the weights, 1..63; of each, the last factor counts.
    """

    gap: int = 8
    amplitude: int = 90
    leak: int = 128
    halvings: int = 3
    window: float = 1.5
    hidden_tau: int = 2
    hidden_impulse: int = 32
    hidden_rate: int = -7
    readout_tau: int = 1
    readout_impulse: int = 12
    readout_rate: int = -7
    epoch: int = 1

    def __post_init__(self) -> None:
        for name, low, high in (
            ("gap", LOOP, 2**15),
            ("amplitude", 1, 127),
            ("leak", 0, 4096),
            ("halvings", 0, 7),
            ("hidden_tau", 1, 2**15),
            ("hidden_impulse", 1, 127),
            ("hidden_rate", -7, 8),
            ("readout_tau", 1, 2**15),
            ("readout_impulse", 1, 127),
            ("readout_rate", -7, 8),
            ("epoch", 1, 63),
        ):
            value = getattr(self, name)
            if value != int(value) or not low <= value <= high:
                raise LearningError(f"rule: {name} is {value}, use a whole number {low}..{high}")
        if not self.window > 0:
            raise LearningError(f"rule: window is {self.window}, it must be positive")

    @classmethod
    def of(cls, settings: Sequence[str]) -> Rule:
        """A rule from texts as ``gap=4``; what is not named stays as it is."""
        known = {f.name: float if f.name == "window" else int for f in fields(cls)}
        numbers: dict[str, Any] = {}
        for setting in settings:
            name, _, number = setting.partition("=")
            if name not in known:
                raise LearningError(f"rule: {setting!r}: name one of {', '.join(known)}")
            try:
                numbers[name] = known[name](number)
            except ValueError:
                raise LearningError(f"rule: {setting!r}: {number!r} is no number") from None
        return cls(**numbers)


@dataclass(frozen=True)
class Mantissas:
    """A plastic layer's weights as the synapses hold them: weight = values · 2^exponent.

    values: ``[out, in]``, −128..127. exponent: 0 or 1.
    """

    values: NDArray[np.int32]
    exponent: int

    @classmethod
    def of(cls, weight: NDArray[Any], name: str) -> Mantissas:
        """Exactly ``weight``, or a :class:`LearningError`: nothing is rounded on the way in."""
        for exponent in (0, 1):
            values = weight >> exponent
            if (
                np.array_equal(values << exponent, weight)
                and values.min() >= MANTISSA_MIN
                and values.max() <= MANTISSA_MAX
            ):
                return cls(values.astype(np.int32), exponent)
        raise LearningError(
            f"layer {name}: to learn with either sign its weights must be within "
            f"{MANTISSA_MIN}..{MANTISSA_MAX}, or even and within {2 * MANTISSA_MIN}.."
            f"{2 * MANTISSA_MAX}; found {int(weight.min())}..{int(weight.max())}"
        )

    @property
    def weight(self) -> NDArray[np.int32]:
        """The weights as the network has them."""
        return self.values << self.exponent


@dataclass(frozen=True)
class Block:
    """A network set up to learn; build it with :func:`build`.

    plastic: the index of each learning layer and its weights at the start.
    feedback: B ``[hidden, classes]``.
    window: half width of the box, in units of v.
    rates: the exponent of the learning rate of each plastic layer.
    """

    network: Network
    rule: Rule
    plastic: dict[int, Mantissas]
    feedback: NDArray[np.int32]
    window: int
    readout_shift: int
    error_shift: int
    rates: dict[int, int]

    @property
    def interval(self) -> int:
        """Steps from a sample to the next."""
        return self.network.time_steps + self.rule.gap

    def steps(self, samples: int) -> int:
        """Steps until the last of ``samples`` has been learned: whole epochs."""
        steps = samples * self.interval + self.network.arrivals[-1] + LOOP
        return steps + -steps % self.rule.epoch

    def freeze(self, learned: dict[int, NDArray[Any]]) -> Network:
        """The network with the learned mantissas of its plastic layers: exactly these numbers."""
        network = self.network
        for index, values in learned.items():
            layer = network.layers[index]
            assert isinstance(layer.synapse, Dense)
            weight = replace(self.plastic[index], values=values.astype(np.int32)).weight
            synapse = replace(layer.synapse, weight=weight)
            network = network.with_layer(index, replace(layer, synapse=synapse))
        return network


def random_network(
    inputs: int,
    hidden: int,
    classes: int,
    encoding: Encoding,
    *,
    seed: int = 0,
    neuron: Neuron | None = None,
    weight: int = 32,
    readout: int = 48,
) -> Network:
    """An untrained ``inputs``-``hidden``-``classes`` network with uniform random weights.

    weight, readout: the largest hidden and readout weight, 1..127. Deterministic in ``seed``.
    """
    rng = np.random.Generator(np.random.PCG64(seed))
    w1 = rng.integers(-weight, weight, (hidden, inputs), dtype=np.int32, endpoint=True)
    w2 = rng.integers(-readout, readout, (classes, hidden), dtype=np.int32, endpoint=True)
    return Network(
        (inputs,),
        (
            Layer(Dense(w1), Neuron(du=4096, dv=1024, vth=80) if neuron is None else neuron),
            Layer(Dense(w2), INTEGRATOR),
        ),
        encoding,
    )


def build(network: Network, x: NDArray[Any], mode: Mode, rule: Rule) -> Block:
    """The block for ``network``; the scales of r and B e are set from payloads ``x`` ``[T, N, …]``.

    readout_shift: brings the readouts' 95th percentile, over the first samples of ``x``, to the
    amplitude (nearest power of two). error_shift: brings a typical B e within 7 bits.
    """
    if mode not in MODES:
        raise LearningError(f"mode {mode!r} is unknown: use one of {', '.join(MODES)}")
    last = len(network.layers) - 1
    _check_shape(network, mode)
    learning = {"hidden": [last - 1], "readout": [last], "both": [last - 1, last]}[mode]
    plastic, rates = {}, {}
    for index in learning:
        synapse = network.layers[index].synapse
        assert isinstance(synapse, Dense)
        plastic[index] = Mantissas.of(synapse.weight, network.names[index])
        rate = rule.readout_rate if index == last else rule.hidden_rate
        rates[index] = min(8, rate + _graded_gain(network, index))
    readout = network.layers[last].synapse
    assert isinstance(readout, Dense)
    feedback = _feedback(readout.weight)
    if mode != "readout" and not feedback.any():
        raise LearningError(
            f"layer {network.names[last]}: all weights are 0, so no error would reach the hidden "
            "layer: learn with mode 'readout' first"
        )
    spread = float(np.median(np.abs(feedback).sum(axis=1))) * rule.amplitude / 127
    vth = network.layers[last - 1].neuron.vth if mode != "readout" else 0
    return Block(
        network,
        rule,
        plastic,
        feedback,
        window=max(1, round(rule.window * ((vth or 0) << STATE_SHIFT))),
        readout_shift=_readout_shift(network, x[:, :200], rule),
        error_shift=_bits(spread),
        rates=rates,
    )


def _check_shape(network: Network, mode: Mode) -> None:
    if not network.is_chain:
        raise LearningError("a network with branches or recurrence cannot learn on the chip yet")
    for name, layer in zip(network.names, network.layers, strict=True):
        if not isinstance(layer.neuron, Neuron) or layer.neuron.reset != "hard":
            raise LearningError(f"layer {name}: learning needs Lava's LIF neurons (hard reset)")
    needed = 1 if mode == "readout" else 2
    if len(network.layers) < needed:
        raise LearningError(
            f"mode {mode!r} needs a hidden layer and a readout; this network has "
            f"{len(network.layers)} layer: use mode 'readout'"
        )
    for index in range(len(network.layers) - needed, len(network.layers)):
        synapse = network.layers[index].synapse
        if not isinstance(synapse, Dense):
            raise LearningError(
                f"layer {network.names[index]}: learning on the chip needs a dense layer here "
                f"(mode {mode!r} uses the last {needed})"
            )
    if network.has_delays:
        raise LearningError("a network with synaptic delays cannot learn on the chip yet")
    if network.layers[-1].neuron != INTEGRATOR or network.readout != "membrane":
        raise LearningError(
            f"layer {network.names[-1]}: learning needs a readout that adds up its input and "
            "never spikes (loihi.INTEGRATOR)"
        )
    if mode != "readout" and not network.layers[-2].neuron.vth:
        raise LearningError(
            f"layer {network.names[-2]}: a hidden layer that learns needs a threshold above 0"
        )
    first = len(network.layers) - (2 if mode in ("hidden", "both") else 1)
    if first == 0 and network.encoding.payload[0] < 0:
        raise LearningError(
            f"payloads {network.encoding.payload[0]}..{network.encoding.payload[1]} go straight "
            "into a learning layer: they must not be negative (Lava's traces would wrap)"
        )


def _graded_gain(network: Network, index: int) -> int:
    """Bits by which traces of small graded payloads fall short of those of spikes."""
    if index > 0 or network.encoding.binary:
        return 0
    return max(0, int(np.floor(np.log2(127 / network.encoding.payload[1]))))


def _feedback(readout: NDArray[Any]) -> NDArray[np.int32]:
    """B: the readout's transpose, halved where it goes beyond the 8 bits of mixed signs."""
    b = readout.T.astype(np.int32)
    return b >> 1 if np.abs(b).max() > MANTISSA_MAX else b


def _readout_shift(network: Network, x: NDArray[Any], rule: Rule) -> int:
    """Brings what LocalError reads to its amplitude. x: some payloads ``[T, N, …]``."""
    readout = network.layers[-1].synapse
    assert isinstance(readout, Dense)
    if not readout.weight.any():  # blank: as if it had random weights of middling size
        draw = np.random.Generator(np.random.PCG64(0)).integers(
            -64, 65, readout.weight.shape, np.int32
        )
        network = network.with_layer(-1, replace(network.layers[-1], synapse=Dense(draw)))
    total = np.abs(Engine(network).predict(x)) >> STATE_SHIFT
    # A leaky readout settles at 4096 / leak of a step's input, a sum reaches T times as much.
    steps = min(network.time_steps, 4096 / max(rule.leak, 1))
    typical = float(np.percentile(total, 95)) * steps / network.time_steps
    return max(0, round(float(np.log2(max(typical, 1.0) / rule.amplitude))))


def _bits(value: float) -> int:
    return max(0, int(np.ceil(np.log2(max(value, 1.0)))))
