"""What training costs on paper: memory, memory accesses, additions and MACs of one batch iteration.

The model is TT-LBP's (Guo, Fouda, Eltawil, Salama 2023, section 4; equation numbers are theirs) for
any network, batch, T and (k, n): time is cut into intervals of k steps, the network into blocks of
n layers, each with a classifier on top. (k = T, n = L) is BPTT, and what everything is normalised
to; (1, 1) is local in time and space.

Counted are **words** (of memory, and read from or written to it outside the chip), additions, and
multiply-accumulates (MACs), always of one batch through all T steps. The arithmetic takes plain
:class:`Layer` descriptions and needs no torch; :func:`of_network`, :func:`of_frozen` and
:func:`of_model` make them.

Symbols: |W| weights of a layer; |U| its neurons times the batch size N_b; M additions of its
synapse in a step without sparsity, |W||U| / C_o of a convolution with C_o output channels and
|W||U| / N of a dense layer of N neurons; α the fraction of a layer's inputs that are not 0 in a
step (the paper's "input sparsity"); the index c a classifier. L counts the layers with weights
except the output layer, which is the classifier of the last block. A local classifier is one dense
layer to the classes, behind the pooling that follows its block's last layer.

Where the paper gives no formula, this is what is counted:

- |W| are the weights of synapses alone: thresholds, leaks, biases and the factors of norms are too
  few to matter. Further synapses of a layer (a shortcut's, recurrent ones) count as the layer's.
- Pooling has no weights: M = 0, and no MACs either. The states of pooling *neurons* are left out,
  as the paper's figures come out without them; ``pooling_states`` counts them, each with the
  layer before it.
- Accesses of an interval are k · Eq 11 + (k − 1) · (Eqs 12, 13) + Eq 14 + |W| + |W_c| words
  written, the weights or their gradients; of an iteration, T / k times that. (That γ is written in
  the step of Eq 14 for the step of Eq 12 before it, is missing in the paper, and left out.)
- Additions of an iteration are T · (Eqs 15, 16) less 2(|U| + |U_c|) an interval: the terms of Eqs 4
  and 5 that come from the next step, which the last step of an interval lacks.
- Memory, Eqs 8 to 10, in words: N(w) the trainable weights. A computational graph MC(CG) holds in
  each step, for each neuron of layers and classifiers and each sample, 6 words: states u, s;
  intermediates, the synaptic input and u − u_th; gradients δ, γ. MC_Local(CG) is the same of
  the largest block. Left out: the constant C (CUDA's workspace), the gradients of the weights and
  the optimizer's state, which depend neither on k nor on n but for the classifiers, and fixed
  random weights, which Eq 8's "trainable parameters" leaves out.
- Random classifiers move no weights (the paper has them generated on the fly) and add up no
  gradients, but compute as trainable ones do. The output layer is trained all the same.

The paper prints neither sparsities nor its event frames' size nor which convolutions are padded, so
that not all of its text can be recomputed. LeNet-1's random classifiers save 31.2 % of accesses
here, 29 there; AlexNet on CIFAR10-DVS with all convolutions padded 14.26 % at (10, 1), 10.79 there
(10.81 with a padding fitted to the text). Its measured GPU memory between LBP and BP exceeds what
Eqs 9 and 10 allow: at k = T 20.14 % on EMNIST, where 1/T is 5 %. All numbers: docs/cost.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from loihi.errors import PumiceError

if TYPE_CHECKING:
    import loihi
    from trainer.models import SpikingNetwork

Shape = tuple[int, ...]
MEASURES = ("memory", "accesses", "additions", "macs")
WORDS_PER_NEURON = 6
"""In a step's computational graph: u, s; synaptic input, u − u_th; δ, γ."""


class CostError(PumiceError):
    """A network or a setting that the cost model cannot count."""


@dataclass(frozen=True)
class Layer:
    """A layer, for one sample.

    kind: how it fans out: ``dense``, ``conv``, or ``pool`` for whatever has no weights to learn.
    weights: |W|, 0 of pooling.
    neurons: |U| of one sample.
    channels: C_o of a convolution; of a dense layer as many as neurons.
    """

    kind: Literal["dense", "conv", "pool"]
    weights: int
    neurons: int
    channels: int

    def __post_init__(self) -> None:
        if self.neurons < 1 or self.channels < 1 or self.neurons % self.channels:
            raise CostError(f"{self.neurons} neurons in {self.channels} channels are no layer")
        if (self.weights < 1) != (self.kind == "pool"):
            raise CostError(f"a {self.kind} layer of {self.weights} weights is none")

    @classmethod
    def dense(cls, inputs: int, neurons: int) -> Layer:
        """All to all."""
        return cls("dense", inputs * neurons, neurons, neurons)

    @classmethod
    def conv(cls, fan_in: int, shape: Shape) -> Layer:
        """A convolution of ``fan_in`` inputs a neuron, onto ``shape`` (C, H, W)."""
        return cls("conv", fan_in * shape[0], math.prod(shape), shape[0])

    @classmethod
    def pool(cls, shape: Shape) -> Layer:
        """Average pooling onto ``shape``, or another layer without weights to learn."""
        return cls("pool", 0, math.prod(shape), shape[0])

    @property
    def additions(self) -> int:
        """M of one sample: a product of each weight with each position that it is used at."""
        return self.weights * self.neurons // self.channels


class Traffic(NamedTuple):
    """Words between the chip and the memory outside it."""

    reads: int
    writes: int

    @property
    def words(self) -> int:
        """Both ways."""
        return self.reads + self.writes

    def times(self, n: int) -> Traffic:
        """``n`` such."""
        return Traffic(n * self.reads, n * self.writes)

    @staticmethod
    def total(parts: Iterable[Traffic]) -> Traffic:
        """All of them together."""
        pairs = list(parts)
        return Traffic(sum(p.reads for p in pairs), sum(p.writes for p in pairs))


@dataclass(frozen=True)
class Accesses:
    """Memory accesses of the whole network: of one interval, forward and backward, and of T / k."""

    forward: Traffic
    backward: Traffic
    intervals: int

    @property
    def words(self) -> int:
        """Of an iteration: both passes of all intervals."""
        return self.intervals * (self.forward.words + self.backward.words)


class _Unit(NamedTuple):
    """A layer with weights and the pooling behind it: |W|, then N_b|W|, |U| and M of a batch.

    outputs: neurons of one sample that send spikes on. activity: α of the layer's input.
    """

    weights: int
    gradients: int
    states: int
    additions: int
    outputs: int
    activity: float


@dataclass(frozen=True)
class _Block:
    """Layers that are trained together, and their classifier."""

    units: Sequence[_Unit]
    classifier: _Unit
    trained: bool
    """Whether the classifier's weights are."""

    @property
    def weights(self) -> int:
        """Σ |W^n|."""
        return sum(unit.weights for unit in self.units)

    @property
    def states(self) -> int:
        """Σ |U^n|."""
        return sum(unit.states for unit in self.units)

    @property
    def upper(self) -> int:
        """Σ |W^{n+1}| over all layers but the last: what errors inside the block pass through."""
        return sum(unit.weights for unit in self.units[1:])

    @property
    def classifier_weights(self) -> int:
        """|W_c| that is moved and learned."""
        return self.classifier.weights if self.trained else 0

    def forward(self) -> Traffic:
        """A step of the forward pass, Eq 11."""
        w, u, w_c, u_c = self.weights, self.states, self.classifier_weights, self.classifier.states
        return Traffic(w + u + w_c + u_c, u + u_c)

    def backward(self) -> Traffic:
        """A step of the backward pass in the middle of an interval, Eqs 12 and 13."""
        w, u, w_c, u_c = self.weights, self.states, self.classifier_weights, self.classifier.states
        return Traffic(w + 2 * u + self.upper + 2 * w_c + 3 * u_c, w + u + w_c + u_c)

    def backward_last(self) -> Traffic:
        """The backward step at the end of an interval, Eq 14, and the write of what is learned."""
        w_c = self.classifier_weights
        reads = self.upper + self.states - self.units[-1].states + w_c
        return Traffic(reads, self.weights + w_c)

    def additions(self) -> float:
        """Of a step, both ways, less the terms from the step after: Eqs 15, 16."""
        learned = [*self.units, *([self.classifier] if self.trained else [])]
        forward = sum(unit.activity * unit.additions for unit in (*self.units, self.classifier))
        return forward + sum(unit.activity * unit.gradients for unit in learned)

    def macs(self) -> int:
        """Of a backward step, Eq 17."""
        return sum(unit.additions for unit in self.units[1:]) + self.classifier.additions


@dataclass(frozen=True)
class Row:
    """What (k, n) costs for one batch iteration, and in parts of what BPTT does.

    memory, accesses: words. additions, macs: operations.
    interval: the accesses of one interval.
    relative: by measure, to BPTT's.
    accuracy_loss: a fraction, against BPTT; negative if accuracy is gained.
    fom: the figure of merit, Eq 18: accuracy loss + 0.25 · the sum of ``relative``.
    """

    k: int
    n: int
    memory: int
    accesses: int
    additions: float
    macs: int
    interval: Accesses
    relative: Mapping[str, float]
    accuracy_loss: float
    fom: float

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        plain = dict(vars(self), relative=dict(self.relative))
        plain["interval"] = {
            name: {**part._asdict(), "words": part.words}
            for name, part in (
                ("forward", self.interval.forward),
                ("backward", self.interval.backward),
            )
        }
        return plain


@dataclass(frozen=True)
class CostModel:
    """A network, a batch and T, ready to be counted for any (k, n).

    layers: from the input to the output, pooling included; the last one is the output layer.
    batch_size: N_b, samples.
    time_steps: T.
    activity: α, 0..1: of every layer, or of each layer with weights in turn, the output layer's
        last. A local classifier's is that of the layer which gets the same spikes.
    trainable: whether local classifiers learn; else they are random and fixed.
    pooling_states: count the states of layers without weights.

    Raises :class:`CostError`: nothing to divide into blocks, or numbers out of range.
    """

    layers: Sequence[Layer]
    batch_size: int = 128
    time_steps: int = 16
    activity: float | Sequence[float] = 1.0
    trainable: bool = True
    pooling_states: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", tuple(self.layers))
        weighted = sum(layer.weights > 0 for layer in self.layers)
        if weighted < 2 or not self.layers[-1].weights:
            raise CostError(
                "a network with at least one hidden layer with weights, and an output layer with "
                f"weights behind it, can be cut into blocks; found {_kinds(self.layers)}"
            )
        for name, value in (("batch size", self.batch_size), ("T", self.time_steps)):
            if value < 1:
                raise CostError(f"{name} is {value}: use 1 or more")
        given = np.atleast_1d(np.asarray(self.activity, dtype=np.float64))
        if given.ndim != 1 or len(given) not in (1, weighted):
            raise CostError(
                f"{given.size} activities for {weighted} layers with weights: give one for all or "
                "one for each, the output layer's last"
            )
        if not ((given >= 0) & (given <= 1)).all():
            raise CostError(f"activities {given.tolist()}: fractions of the inputs, 0..1")
        object.__setattr__(self, "activity", tuple(np.broadcast_to(given, weighted).tolist()))

    @cached_property
    def _units(self) -> list[_Unit]:
        """The layers with weights; what has none joins the one before it, or the first."""
        assert isinstance(self.activity, tuple)
        rates = iter(self.activity)
        units: list[_Unit] = []
        lead = 0
        for layer in self.layers:
            if layer.weights:
                units.append(self._unit(layer, next(rates), lead))
                lead = 0
                continue
            states = self.batch_size * layer.neurons if self.pooling_states else 0
            if units:
                before = units[-1]
                units[-1] = before._replace(states=before.states + states, outputs=layer.neurons)
            else:
                lead += states
        return units

    def _unit(self, layer: Layer, activity: float, more_states: int = 0) -> _Unit:
        n, u = self.batch_size, layer.neurons
        w, m = layer.weights, layer.additions
        return _Unit(w, n * w, n * u + more_states, n * m, u, activity)

    @property
    def depth(self) -> int:
        """L, the largest n: layers with weights, the output layer left out."""
        return len(self._units) - 1

    @property
    def classes(self) -> int:
        """Neurons of every classifier."""
        return self._units[-1].outputs

    def intervals(self) -> list[int]:
        """Every k: the divisors of T."""
        return _divisors(self.time_steps)

    def block_sizes(self) -> list[int]:
        """The divisors of L; any other n of 1..L is fine too, the last block is then shorter."""
        return _divisors(self.depth)

    def blocks(self, n: int) -> list[_Block]:
        """The network in blocks of ``n`` layers, from the input on; the output layer is on top."""
        if not 1 <= n <= self.depth:
            raise CostError(f"n is {n}: blocks of this network are 1 to {self.depth} layers long")
        *hidden, output = self._units
        blocks = []
        for start in range(0, self.depth, n):
            units = hidden[start : start + n]
            if start + n >= self.depth:
                blocks.append(_Block(units, output, True))
                break
            dense = Layer.dense(units[-1].outputs, self.classes)
            local = self._unit(dense, hidden[start + n].activity)
            blocks.append(_Block(units, local, self.trainable))
        return blocks

    def memory(self, k: int, n: int) -> int:
        """Words held at most, Eqs 8 to 10 without C; see the module for what is counted."""
        self._check(k)
        blocks = self.blocks(n)
        graphs = [WORDS_PER_NEURON * (b.states + b.classifier.states) for b in blocks]
        weights = sum(b.weights + b.classifier_weights for b in blocks)
        return (k - 1) * sum(graphs) + max(graphs) + weights

    def accesses(self, k: int, n: int) -> Accesses:
        """Words read and written, Eqs 11 to 14; see the module for how they make an interval."""
        self._check(k)
        blocks = self.blocks(n)
        forward = Traffic.total(b.forward().times(k) for b in blocks)
        middle = Traffic.total(b.backward().times(k - 1) for b in blocks)
        last = Traffic.total(b.backward_last() for b in blocks)
        return Accesses(forward, Traffic.total((middle, last)), self.time_steps // k)

    def additions(self, k: int, n: int) -> float:
        """Additions, Eqs 15 and 16; see the module for the last step of an interval."""
        self._check(k)
        blocks = self.blocks(n)
        step = sum(b.additions() for b in blocks)
        states = sum(b.states + b.classifier.states for b in blocks)
        intervals = self.time_steps // k
        return self.time_steps * step + intervals * (k - 1) * 2 * states

    def macs(self, n: int) -> int:
        """Multiply-accumulates, Eq 17: those of errors on their way down. k does not matter."""
        return self.time_steps * sum(block.macs() for block in self.blocks(n))

    def row(self, k: int, n: int, accuracy_loss: float = 0.0) -> Row:
        """Everything for one (k, n), and the figure of merit with that loss of accuracy, Eq 18."""
        if not math.isfinite(accuracy_loss):
            raise CostError(f"accuracy loss {accuracy_loss}: a fraction, such as 0.01")
        counted, bptt = self._counted(k, n), self._counted(self.time_steps, self.depth)
        # One step without a spike has no additions: none of none is all of it.
        relative = {m: counted[m] / bptt[m] if bptt[m] else 1.0 for m in MEASURES}
        return Row(
            k,
            n,
            **counted,  # type: ignore[arg-type]
            interval=self.accesses(k, n),
            relative=relative,
            accuracy_loss=accuracy_loss,
            fom=accuracy_loss + 0.25 * sum(relative.values()),
        )

    def table(
        self,
        ks: Sequence[int] | None = None,
        ns: Sequence[int] | None = None,
        losses: Mapping[tuple[int, int], float] | None = None,
    ) -> list[Row]:
        """A row for each n and k, the largest first: every divisor of L and of T by default.

        losses: the loss of accuracy at (k, n), 0 where none is given.
        """
        losses = losses or {}
        pairs = [
            (k, n)
            for n in sorted(set(ns or self.block_sizes()), reverse=True)
            for k in sorted(set(ks or self.intervals()), reverse=True)
        ]
        if unknown := sorted(set(losses) - set(pairs)):
            raise CostError(f"a loss of accuracy for (k, n) = {unknown[0]}, which is not counted")
        return [self.row(k, n, losses.get((k, n), 0.0)) for k, n in pairs]

    def _counted(self, k: int, n: int) -> dict[str, float]:
        return {
            "memory": self.memory(k, n),
            "accesses": self.accesses(k, n).words,
            "additions": self.additions(k, n),
            "macs": self.macs(n),
        }

    def _check(self, k: int) -> None:
        if k < 1 or self.time_steps % k:
            raise CostError(
                f"k is {k}, which does not divide T = {self.time_steps}: use "
                f"{', '.join(map(str, self.intervals()))}"
            )


# --- descriptions -------------------------------------------------------------------------------


def of_network(network: SpikingNetwork) -> tuple[Layer, ...]:
    """The layers of a trainable network, in their order."""
    from trainer.pools import AvgPool

    return tuple(
        _layer(
            layer.synapse.output_shape,
            [
                synapse.get_parameter("weight").numel()
                for synapse in layer.synapses
                if not isinstance(synapse, AvgPool)
            ],
        )
        for layer in network.chain
    )


def of_model(model: str, input_shape: Shape, classes: int) -> tuple[Layer, ...]:
    """The layers of a model's name or an architecture, as :func:`trainer.zoo.build` makes them.

    Raises :class:`CostError`, and ``trainer.synapses.ModelError``, for what cannot be built.
    """
    from loihi import Encoding
    from trainer.zoo import build

    # No weight is drawn or touched, so that none takes memory; a soft reset is nobody's limit.
    encoding = Encoding("rate", 1, (0, 1), 0.0, 1.0)
    try:
        return of_network(build(model, input_shape, classes, encoding, neuron="A"))
    except (RuntimeError, MemoryError) as error:
        reason = " ".join(str(error).split())
        raise CostError(f"{model} on {_size(input_shape)} cannot be built: {reason}") from None


def of_frozen(network: loihi.Network) -> tuple[Layer, ...]:
    """The layers of a network in integers, in their order.

    A convolution of every channel on its own, its weights all one number, is average pooling.
    """
    import loihi

    return tuple(
        _layer(
            shape,
            [
                synapse.weight.size
                for synapse, _ in network.synapses(index)
                if isinstance(synapse, loihi.Dense)
                or (isinstance(synapse, loihi.Conv) and not _averages(synapse))
            ],
        )
        for index, shape in enumerate(network.shapes)
    )


def measured_activity(
    layers: Sequence[Layer], x: NDArray[Any], rates: Sequence[float]
) -> tuple[float, ...]:
    """α of each layer with weights, from what was measured on some data.

    x: the payloads ``[T, N, *input_shape]`` that the network was given.
    rates: spikes per neuron and step of each of ``layers``, a chain, those without weights too
        (:meth:`loihi.engine.Engine.activity`).
    """
    sources = [np.count_nonzero(x) / x.size, *rates[:-1]]
    return tuple(float(rate) for rate, layer in zip(sources, layers, strict=True) if layer.weights)


def _layer(shape: Shape, weights: Sequence[int]) -> Layer:
    """Neurons of ``shape`` and the weights of each synapse that feeds them."""
    if not weights:
        return Layer.pool(shape)
    kind: Literal["conv", "dense"] = "conv" if len(shape) == 3 else "dense"
    return Layer(kind, sum(weights), math.prod(shape), shape[0])


def _averages(synapse: loihi.Conv) -> bool:
    out, per_group, *_ = synapse.weight.shape
    alone = per_group == 1 and synapse.groups == out
    return alone and bool((synapse.weight == synapse.weight.flat[0]).all())


def _divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]


def _kinds(layers: Sequence[Layer]) -> str:
    return ", ".join(layer.kind for layer in layers) or "no layer"


def _size(shape: Shape) -> str:
    return "x".join(map(str, shape))
