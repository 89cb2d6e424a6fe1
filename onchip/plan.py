"""A frozen network set up to learn: what of it is plastic, where errors come from, and all scales.

    input → W1 → hidden neurons → W2 → LocalError → B → the hidden neurons' third factor

A block is one or two hidden layers and a classifier W2: the network's last layer, or one of the
block's own. B is W2's transpose as it was at the start, a random matrix, or W2 itself. In a block
of two layers the upper one's third factor goes on through another B to the lower one. With s the
presynaptic spikes, x a trace of them, r the readout, and one-hot labels::

    x1 = decay(x1, τ) + impulse · s         7 bits, unsigned
    e  = amplitude · onehot − (r >> readout_shift)        halved a few times towards the end
    g  = (B e >> error_shift) · 1[|v − θ| < window]       or, below another layer, B g
    ΔW1 = 2^rate · g ⊗ x1                   ΔW2 = 2^rate · e ⊗ x1     (a trainable classifier)

With a fixed classifier this is the fully local corner of TT-LBP (k = 1, n = 1 or 2), and with a
random one DECOLLE. A trainable classifier learns by the delta rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loihi import INTEGRATOR, Dense, Encoding, Layer, Network, Neuron
from loihi.engine import Engine
from loihi.formats import STATE_SHIFT
from onchip.spec import LOOP, Feedback, LearningError, Local, Mode, Rule, Spec, check_seed

MANTISSA_MIN, MANTISSA_MAX = -128, 127
"""What a plastic synapse of either sign holds in its 8 bits."""
RANDOM = 48
"""The largest weight of random classifiers and random feedback."""


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
class Stage:
    """A hidden layer that learns, and how its error comes to it.

    layer: its index. above: the place its error comes from: its block's classifier, or the layer
    above it in its block. feedback: B ``[size, size above]``; None mirrors the weights above.
    window: half width of the box, in units of v. error_shift: of B e.
    """

    layer: int
    above: int
    feedback: NDArray[np.int32] | None
    window: int
    error_shift: int


@dataclass(frozen=True)
class Head:
    """A classifier, and the error that it makes.

    place: see :class:`Plan`. layer: the one it reads, −1 the input. weight: ``[classes, size]``, as
    a network would have it. arrival: the step before its first. steps: with an error, of each
    sample's; 0: all. rule: its block's numbers.
    """

    place: int
    layer: int
    weight: NDArray[np.int32]
    readout_shift: int
    arrival: int
    steps: int
    rule: Rule


@dataclass(frozen=True)
class Plan:
    """A network set up to learn; build it with :func:`build`.

    What can learn has a *place*: a layer of the network its index, a classifier that a block has
    for itself −1 − i, i being the layer it reads.

    plastic: weights at the start by place. rates: the exponent of the learning rate, likewise.
    numbers: the rule's, likewise. stages: the hidden layers that learn, heads: the classifiers,
    both from front to back. tail: steps from the last sample's arrival to its last learning.
    """

    network: Network
    rule: Rule
    seed: int
    plastic: dict[int, Mantissas]
    rates: dict[int, int]
    numbers: dict[int, Rule]
    stages: tuple[Stage, ...]
    heads: tuple[Head, ...]
    tail: int

    @property
    def interval(self) -> int:
        """Steps from a sample to the next."""
        return self.network.time_steps + self.rule.gap

    @property
    def first(self) -> int:
        """The first layer that is no fixed front."""
        return self.stages[0].layer if self.stages else len(self.network.layers) - 1

    @property
    def top(self) -> int:
        """The last hidden layer that any of this needs; −1: none."""
        return max(head.layer for head in self.heads)

    @property
    def lag(self) -> int:
        """Steps after which the front's first spikes come to what learns."""
        return self.network.arrivals[self.first - 1] if self.first else 0

    def steps(self, samples: int, total: int | None = None) -> int:
        """Steps until the last of ``samples`` has been learned, in whole epochs; of the first of
        a ``total``, until the next would come to what learns."""
        if total is not None and samples < total:
            return samples * self.interval + self.lag
        steps = samples * self.interval + self.tail
        return steps + -steps % self.rule.epoch

    def ranks(self, samples: int) -> NDArray[np.uint16]:
        """For each sample and step its rank in a random order, ``[samples, T]``: an error comes in
        the ``steps`` lowest. Empty where there is one in each step."""
        if not any(head.steps for head in self.heads):
            return np.zeros((0, 0), dtype=np.uint16)
        rng = np.random.Generator(np.random.PCG64([self.seed, 0]))
        order = np.arange(self.network.time_steps, dtype=np.uint16)
        return rng.permuted(np.tile(order, (samples, 1)), axis=1)

    def name(self, place: int) -> str:
        """What a user knows a place by."""
        names = self.network.names
        return names[place] if place >= 0 else f"classifier of {names[-1 - place]}"

    def shape(self, place: int) -> tuple[int, ...]:
        """Of what comes into a place."""
        reads = place - 1 if place >= 0 else -1 - place
        return self.network.shapes[reads] if reads >= 0 else self.network.input_shape

    def freeze(self, learned: dict[int, NDArray[Any]]) -> Network:
        """The network with the learned mantissas of its plastic layers: exactly these numbers."""
        network = self.network
        for place, values in learned.items():
            if place < 0:  # a classifier that is no part of the network
                continue
            layer = network.layers[place]
            assert isinstance(layer.synapse, Dense)
            weight = replace(self.plastic[place], values=values.astype(np.int32)).weight
            synapse = replace(layer.synapse, weight=weight)
            network = network.with_layer(place, replace(layer, synapse=synapse))
        return network


def random_network(
    inputs: int,
    hidden: int | Sequence[int],
    classes: int,
    encoding: Encoding,
    *,
    seed: int = 0,
    neuron: Neuron | None = None,
    weight: int = 32,
    readout: int = 48,
) -> Network:
    """An untrained ``inputs``-``hidden``-``classes`` network with uniform random weights.

    hidden: neurons, of each layer where there are several. neuron: of every hidden layer; None: no
    memory of the current, a leak of a quarter, a threshold of 80 · 64. weight, readout: the largest
    hidden and readout weight, 1..127. Deterministic in ``seed``.
    """
    check_seed(seed)
    rng = np.random.Generator(np.random.PCG64(seed))
    sizes = (inputs, *((hidden,) if isinstance(hidden, int) else hidden))
    if min(sizes) < 1:
        raise LearningError(f"hidden is {hidden}: a layer needs at least 1 neuron")
    neuron = neuron or Neuron(du=4096, dv=1024, vth=80)
    layers = [
        Layer(Dense(rng.integers(-weight, weight, (out, size), np.int32, endpoint=True)), neuron)
        for size, out in pairwise(sizes)
    ]
    last = rng.integers(-readout, readout, (classes, sizes[-1]), dtype=np.int32, endpoint=True)
    return Network((inputs,), (*layers, Layer(Dense(last), INTEGRATOR)), encoding)


def build(
    network: Network, x: NDArray[Any], spec: Spec | Mode | str, rule: Rule | None = None
) -> Plan:
    """How ``network`` learns by ``spec``; scales are set from payloads ``x`` ``[T, N, …]``.

    spec: or a mode, with the numbers of ``rule``. readout_shift: brings the readouts' 95th
    percentile, over the first samples of ``x``, to the amplitude (nearest power of two).
    error_shift: brings a typical B e within 7 bits.
    """
    if not isinstance(spec, Spec):
        spec = Spec.of_mode(spec, rule)
    elif rule is not None:
        raise LearningError("a spec has its rule: leave rule out")
    last = len(network.layers) - 1
    blocks = _resolve(network, spec)
    _check(network, blocks)
    plastic: dict[int, Mantissas] = {}
    rates: dict[int, int] = {}
    numbers: dict[int, Rule] = {}
    stages: list[Stage] = []
    heads: list[Head] = []

    def learns(place: int, weight: NDArray[Any], name: str, rule: Rule, rate: int) -> None:
        plastic[place] = Mantissas.of(weight, name)
        rates[place], numbers[place] = min(8, rate + _graded_gain(network, place)), rule

    for block in blocks:
        own = spec.rule_of(block)
        reads = block.layers[-1] if block.layers else last - 1
        place = last if reads == last - 1 else -1 - reads
        rng = np.random.Generator(np.random.PCG64([spec.seed, 1 + reads + 1]))
        classifier = _dense(network, last) if place == last else _random(rng, network, reads)
        for index in block.layers:
            learns(index, _dense(network, index), network.names[index], own, own.hidden_rate)
        if block.classifier == "trainable":
            name = f"classifier of {network.names[reads]}" if place < 0 else network.names[last]
            learns(place, classifier, name, own, own.readout_rate)
        stages += _stages(network, block, own, place, classifier, rng)
        some = network if place == last else _cut(network, reads, classifier)
        arrival = 1 + (network.arrivals[reads] if reads >= 0 else 0)
        shift = _readout_shift(some, x[:, :200], own)
        heads.append(Head(place, reads, classifier, shift, arrival, block.steps, own))
    tail = max(h.arrival + LOOP for h in heads) + max(0, *(len(b.layers) - 1 for b in blocks))
    return Plan(
        network,
        spec.rule,
        spec.seed,
        dict(sorted(plastic.items())),
        rates,
        numbers,
        tuple(stages),
        tuple(heads),
        tail,
    )


def _resolve(network: Network, spec: Spec) -> list[Local]:
    """The blocks with layers counted from the front, each where it can be."""
    last = len(network.layers) - 1
    blocks: list[Local] = []
    for block in spec.blocks:
        layers = tuple(i + last + 1 if i < 0 else i for i in block.layers)
        for given, index in zip(block.layers, layers, strict=True):
            if last < 1:
                raise LearningError(
                    "this needs a hidden layer and a readout, and the network has 1 layer: use "
                    "mode 'readout', or a block without layers"
                )
            if not 0 <= index < last:
                raise LearningError(
                    f"block: layer {given} is no hidden layer, this network has 0..{last - 1} "
                    f"({last} is its readout: a trainable classifier)"
                )
        if any(b != a + 1 for a, b in pairwise(layers)):
            raise LearningError(f"block: layers {list(layers)} are not one behind the other")
        before = [i for b in blocks for i in b.layers or (last,)]
        if before and min(layers or (last,)) <= max(before):
            raise LearningError("block: blocks go from front to back, and share no layer")
        if not layers and (last - 1) in before:
            raise LearningError(
                f"block: the readout is the classifier of layer {last - 1}'s block: make that "
                "trainable"
            )
        if block.steps > network.time_steps:
            raise LearningError(
                f"block: steps is {block.steps}, samples have {network.time_steps} steps"
            )
        blocks.append(replace(block, layers=layers))
    return blocks


def _check(network: Network, blocks: list[Local]) -> None:
    if not network.is_chain:
        raise LearningError("a network with branches or recurrence cannot learn on the chip yet")
    for name, layer in zip(network.names, network.layers, strict=True):
        if not isinstance(layer.neuron, Neuron) or layer.neuron.reset != "hard":
            raise LearningError(f"layer {name}: learning needs Lava's LIF neurons (hard reset)")
    last = len(network.layers) - 1
    hidden = [i for block in blocks for i in block.layers]
    first = min(hidden, default=last)
    for index in range(first, last + 1):
        if not isinstance(network.layers[index].synapse, Dense):
            raise LearningError(
                f"layer {network.names[index]}: learning on the chip needs a dense layer here "
                f"(layers {first} to {last} take part)"
            )
    if network.has_delays:
        raise LearningError("a network with synaptic delays cannot learn on the chip yet")
    if network.layers[-1].neuron != INTEGRATOR or network.readout != "membrane":
        raise LearningError(
            f"layer {network.names[-1]}: learning needs a readout that adds up its input and "
            "never spikes (loihi.INTEGRATOR)"
        )
    for index in range(first, last):
        neuron = network.layers[index].neuron
        if index in hidden and not (isinstance(neuron, Neuron) and neuron.vth):
            raise LearningError(
                f"layer {network.names[index]}: a hidden layer that learns needs a threshold above "
                "0"
            )
    if first == 0 and network.encoding.payload[0] < 0:
        raise LearningError(
            f"payloads {network.encoding.payload[0]}..{network.encoding.payload[1]} go straight "
            "into a learning layer: they must not be negative (Lava's traces would wrap)"
        )


def _dense(network: Network, index: int) -> NDArray[np.int32]:
    synapse = network.layers[index].synapse
    assert isinstance(synapse, Dense)  # the network has been checked
    return synapse.weight


def _random(rng: np.random.Generator, network: Network, reads: int) -> NDArray[np.int32]:
    """A block's own classifier ``[classes, size]``."""
    size = int(np.prod(network.shapes[reads]))
    return rng.integers(-RANDOM, RANDOM, (network.classes, size), dtype=np.int32, endpoint=True)


def _cut(network: Network, reads: int, classifier: NDArray[Any]) -> Network:
    """The network up to a layer, with a classifier of its own."""
    layers = (*network.layers[: reads + 1], Layer(Dense(classifier), INTEGRATOR))
    return Network(network.input_shape, layers, network.encoding)


def _stages(
    network: Network,
    block: Local,
    rule: Rule,
    place: int,
    classifier: NDArray[np.int32],
    rng: np.random.Generator,
) -> list[Stage]:
    """The hidden layers of a block, the lower first."""
    stages: list[Stage] = []
    for index in reversed(block.layers):
        lower = bool(stages)
        above = index + 1 if lower else place
        forward = _dense(network, above) if lower else classifier
        if not forward.any():
            raise LearningError(
                f"layer {network.names[max(above, index + 1)]}: all weights are 0, so no error "
                "would reach the hidden layer: learn with mode 'readout' first"
            )
        # What is fixed mirrors itself.
        fixed = block.feedback == "mirrored" and not lower and block.classifier == "fixed"
        back = _feedback(forward, "fixed" if fixed else block.feedback, rng)
        weights = Mantissas.of(forward, network.names[index + 1]).values.T if back is None else back
        if lower:  # of many small factors with all signs, and most often some are 0
            spread = float(np.median(np.sqrt((weights.astype(float) ** 2).sum(axis=1)))) / 2
        else:
            spread = float(np.median(np.abs(weights).sum(axis=1))) * rule.amplitude / 127
        neuron = network.layers[index].neuron
        assert isinstance(neuron, Neuron)  # it has been checked
        # v stays below 2^23: no distance from the threshold is larger than 2^24.
        window = min(2**24, max(1, round(rule.window * ((neuron.vth or 0) << STATE_SHIFT))))
        stages.insert(0, Stage(index, above, back, window, _bits(spread)))
    return stages


def _feedback(
    forward: NDArray[np.int32], kind: Feedback, rng: np.random.Generator
) -> NDArray[np.int32] | None:
    """B ``[size, size above]``: the forward weights' transpose, halved where it goes beyond the 8
    bits of mixed signs; random; or None for weights as they are."""
    if kind == "mirrored":
        return None
    if kind == "random":
        shape = forward.shape[::-1]
        return rng.integers(-RANDOM, RANDOM, shape, dtype=np.int32, endpoint=True)
    b = forward.T.astype(np.int32)
    return b >> 1 if np.abs(b).max() > MANTISSA_MAX else b


def _graded_gain(network: Network, index: int) -> int:
    """Bits by which traces of small graded payloads fall short of those of spikes."""
    if index != 0 or network.encoding.binary:
        return 0
    return max(0, int(np.floor(np.log2(127 / network.encoding.payload[1]))))


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
