"""Learning by spikes alone: the last layer of a frozen network that spikes learns by pairwise STDP,
or by STDP that a reward makes permanent.

    stdp     dw  = potentiation · pre_trace · post − depression · pre · post_trace
    reward   dtag = potentiation · pre_trace · post − depression · pre · post_trace − tag / fading
             dw  = rate · tag · reward

``stdp`` needs no labels. In ``reward`` each synapse keeps in its tag what it might have learned,
until the reward that comes after each sample: +1 if the network decided for the sample's class, −1
if not, less what could be expected; or as given. It goes to the neuron that stands for the class
decided for; in a layer before a readout, to each by the sign of its weight to that class. What was
learned goes back into the network, exactly.

    result = learn(network, x, labels, mode="reward", rule=Hebbian(rate=0.1))

The rule is compiled by :mod:`onchip.rules`; the layer runs in the compiled engine of
:mod:`onchip.connection`, or in Lava's simulator, to the same weights. Layers in front are frozen,
and run in :mod:`loihi.engine` for both.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from lava_export import supervise
from loihi import INTEGRATOR, Dense, Network, Neuron
from loihi.formats import STATE_SHIFT
from onchip.connection import Record, Synapses
from onchip.draws import ROUNDINGS, Rounding
from onchip.front import Front
from onchip.plan import Mantissas
from onchip.rules import Compiled, Trace, compile_rule, kernels
from onchip.rules.language import LavaRule, read_rule
from onchip.simulate import lava_dense
from onchip.spec import LearningError

Mode = Literal["stdp", "reward"]
MODES: tuple[str, ...] = get_args(Mode)
ENGINES = ("fast", "lava")

CHUNK_SIZE = 2**22
"""Messages that are made ready at a time."""
LOOP = 2
"""Steps from a decision to the reward at the synapses."""


@dataclass(frozen=True)
class Hebbian:
    """The rule's numbers.

    gap: silent steps after each sample, in which traces fade and the reward arrives; at least
        epoch + 2.
    pre_tau, post_tau: time constants of the traces, in steps.
    potentiation, depression: by how much a spike of the neuron right after one of the input, and of
        the input right after one of the neuron, changes the weight, or in ``reward`` its tag; in
        LSB, 0 and more.
    rate: LSB that a tag of 1 changes the weight by at a reward of 1.0.
    fading: time constant of the tag, in steps.
    baseline: the reward expected follows the rewards with 2^−baseline; 0: none is expected.
    epoch: steps between two learning phases, 1..63.

    The defaults are those of ``stdp``; :meth:`default` has those of ``reward``.
    """

    gap: int = 16
    pre_tau: float = 8.0
    post_tau: float = 8.0
    potentiation: float = 1.0
    depression: float = 1.05
    rate: float = 0.1
    fading: float = 40.0
    baseline: int = 3
    epoch: int = 1

    def __post_init__(self) -> None:
        for name, low, high in (
            ("gap", LOOP, 2**15),
            ("pre_tau", 1, 2**15),
            ("post_tau", 1, 2**15),
            ("potentiation", 0, 256),
            ("depression", 0, 256),
            ("rate", 0, 256),
            ("fading", 1, 2**15),
            ("baseline", 0, 7),
            ("epoch", 1, 63),
        ):
            value = getattr(self, name)
            whole = name in ("gap", "baseline", "epoch")
            if not low <= value <= high or (whole and value != int(value)):
                kind = "whole number" if whole else "number"
                raise LearningError(f"rule: {name} is {value}, use a {kind} {low}..{high}")
        if self.gap < self.epoch + LOOP:
            raise LearningError(
                f"rule: gap is {self.gap}: with epochs of {self.epoch} steps it takes "
                f"{self.epoch + LOOP} for the reward to arrive"
            )

    @classmethod
    def default(cls, mode: Mode) -> Hebbian:
        """The rule for a mode: where a reward says what was right, depression only disturbs."""
        if mode == "stdp":
            return cls()
        return cls(pre_tau=4.0, post_tau=4.0, potentiation=4.0, depression=0.0)

    @classmethod
    def of(cls, settings: Sequence[str], mode: Mode = "stdp") -> Hebbian:
        """A rule from texts as ``gap=4``; what is not named is the mode's default."""
        known = {
            f.name: int if f.name in ("gap", "baseline", "epoch") else float for f in fields(cls)
        }
        numbers: dict[str, Any] = {}
        for setting in settings:
            name, _, number = setting.partition("=")
            if name not in known:
                raise LearningError(f"rule: {setting!r}: name one of {', '.join(known)}")
            try:
                numbers[name] = known[name](number)
            except ValueError:
                raise LearningError(f"rule: {setting!r}: {number!r} is no number") from None
        return replace(cls.default(mode), **numbers)

    def compile(self, mode: Mode) -> Compiled:
        """The rule for the chip, and what became of its terms."""
        pair = f"{self.potentiation:.17g} * pre_trace * post"
        pair += f" - {self.depression:.17g} * pre * post_trace"
        traces = {"pre_trace": Trace(self.pre_tau), "post_trace": Trace(self.post_tau)}
        if not self.potentiation and not self.depression:
            raise LearningError("rule: potentiation and depression are both 0: nothing is learned")
        if mode == "stdp":
            return compile_rule(f"dw = {pair}", traces=traces, epoch=self.epoch)
        if not self.rate:
            raise LearningError("rule: rate is 0: nothing is learned from a reward")
        return compile_rule(
            f"dt = {pair} - {1 / self.fading:.17g} * tag * every(1)\n"
            f"dw = {self.rate:.17g} * tag * reward * every(1)",
            traces=traces,
            epoch=self.epoch,
            units=REWARD,
        )


REWARD = 63
"""What a reward of 1.0 is on the chip: one of +1 where −1 was expected still fits in 7 bits."""


@dataclass(frozen=True)
class HebbianBlock:
    """A network set up to learn; build it with :func:`build`.

    index: the plastic layer. plastic: its weights at the start. compiled: the rule.
    """

    network: Network
    rule: Hebbian
    mode: Mode
    index: int
    plastic: Mantissas
    compiled: Compiled

    @property
    def interval(self) -> int:
        """Steps from a sample to the next."""
        return self.network.time_steps + self.rule.gap

    @property
    def judged(self) -> int:
        """The step before the first in which a sample can be seen where it is decided."""
        return self.network.arrivals[-1 if self.mode == "reward" else self.index]

    @property
    def graded(self) -> bool:
        """Whether payloads, not spikes, come into the plastic layer."""
        return self.index == 0 and not self.network.encoding.binary

    def steps(self, samples: int) -> int:
        """Steps until the last of ``samples`` has been learned: whole epochs."""
        steps = samples * self.interval + self.judged + LOOP
        return steps + -steps % self.rule.epoch

    def freeze(self, learned: NDArray[Any]) -> Network:
        """The network with the learned mantissas of its plastic layer: exactly these numbers."""
        layer = self.network.layers[self.index]
        assert isinstance(layer.synapse, Dense)
        weight = replace(self.plastic, values=learned.astype(np.int32)).weight
        synapse = replace(layer.synapse, weight=weight)
        return self.network.with_layer(self.index, replace(layer, synapse=synapse))

    @cached_property
    def trace(self) -> tuple[int, int]:
        """Of the neurons' own trace, which they send as y1 if they are rewarded: what stays of 4096
        in a step, and its impulse."""
        trace = self.compiled.kept.get("y1")
        if trace is None:
            return 0, 0
        return round(4096 * float(np.exp(-1 / trace.tau))), int(trace.impulse)


def build(
    network: Network, mode: Mode, rule: Hebbian | None = None, *, layer: int | None = None
) -> HebbianBlock:
    """The block for ``network``. layer: which learns; None: the last that spikes."""
    if mode not in MODES:
        raise LearningError(f"mode {mode!r} is unknown: use {' or '.join(MODES)}")
    rule = rule or Hebbian.default(mode)
    last = len(network.layers) - 1
    if not network.is_chain or network.has_delays:
        raise LearningError(
            "a network with branches, recurrence or delays cannot learn on the chip"
        )
    if layer is None:
        index = last if network.layers[last].neuron != INTEGRATOR else last - 1
    elif -last - 1 <= layer <= last:
        index = layer % (last + 1)
    else:
        raise LearningError(f"layer {layer}: the network has {last + 1}")
    if index < 0:
        raise LearningError(
            f"layer {network.names[last]}: what learns by its spikes needs a threshold"
        )
    for name, of in zip(network.names[: index + 1], network.layers, strict=False):
        if not isinstance(of.neuron, Neuron) or of.neuron.reset != "hard":
            raise LearningError(f"layer {name}: learning needs Lava's LIF neurons (hard reset)")
    synapse, name = network.layers[index].synapse, network.names[index]
    if not isinstance(synapse, Dense):
        raise LearningError(f"layer {name}: learning on the chip needs a dense layer here")
    if not network.layers[index].neuron.vth:
        raise LearningError(f"layer {name}: what learns by its spikes needs a threshold above 0")
    if index == 0 and network.encoding.payload[0] < 0:
        raise LearningError(
            f"payloads {network.encoding.payload[0]}..{network.encoding.payload[1]} go straight "
            "into a learning layer: they must not be negative (Lava's traces would wrap)"
        )
    if index == 0 and network.encoding.payload[1] > 255:
        raise LearningError("payloads above 255 go straight into a learning layer: Lava wraps them")
    if mode == "reward":
        _check_readout(network, index)
    return HebbianBlock(
        network, rule, mode, index, Mantissas.of(synapse.weight, name), rule.compile(mode)
    )


def _check_readout(network: Network, index: int) -> None:
    last = len(network.layers) - 1
    if index == last and network.readout == "spikes":
        return
    behind = network.layers[last]
    if index != last - 1 or not isinstance(behind.synapse, Dense) or behind.neuron != INTEGRATOR:
        raise LearningError(
            f"layer {network.names[index]}: to be rewarded it must be the last, read by its spikes "
            "(readout 'spikes'), or the one before a dense readout that adds up its input and "
            "never spikes (loihi.INTEGRATOR)"
        )


class HebbianLearner:
    """A block at work in the compiled engine, from its first step on.

    answers: in mode ``reward`` of all samples that will come their classes, ``[samples]``, or with
        ``given`` their rewards, −127..127. seed, rounding: see :class:`onchip.connection.Synapses`.
    threads: of what is in front; None: one a processor.
    """

    def __init__(
        self,
        block: HebbianBlock,
        answers: NDArray[Any],
        *,
        given: bool = False,
        seed: int = 1,
        rounding: Rounding = "lava",
        threads: int | None = 1,
    ) -> None:
        self.block, self.given, self.seed, self.rounding = block, given, seed, rounding
        self.labels = np.array(answers, dtype=np.int64)
        self.samples = 0
        self.synapses = Synapses(
            block.plastic.values,
            block.compiled.rule,
            exponent=block.plastic.exponent,
            graded="overwrite" if block.graded else None,
            seed=seed,
            rounding=rounding,
        )
        self._front = Front(block.network, block.index, block.interval, threads)
        self._layer = _layer(block, given)

    @property
    def step(self) -> int:
        """Steps taken."""
        return self.synapses.step

    @property
    def learned(self) -> NDArray[np.int32]:
        """The mantissas ``[out, in]`` of the plastic layer as they are now."""
        return self.synapses.weight

    @property
    def network(self) -> Network:
        """The frozen network as it is now."""
        return self.block.freeze(self.learned)

    def learn(self, x: NDArray[Any], record: bool = False) -> list[tuple[Record, NDArray[Any]]]:
        """The next samples, payloads ``[T, n, *input_shape]``. record: of each step what
        :class:`Record` says and the neurons' spikes ``[steps, out]``; else nothing."""
        x = _payloads(self.block.network, x)
        if self.samples + x.shape[1] > len(self.labels):
            raise LearningError(
                f"{self.samples + x.shape[1]} samples, {len(self.labels)} were announced"
            )
        found = []
        at_once = max(1, CHUNK_SIZE // (self.block.interval * self._front.size))
        for begin in range(0, x.shape[1], at_once):
            some = x[:, begin : begin + at_once]
            messages = self._front.messages(some)
            if self.samples == 0:
                messages = np.concatenate([self._front.lead(), messages])
            self.samples += some.shape[1]
            found += self._run(messages, record)
        return found

    def finish(self, record: bool = False) -> list[tuple[Record, NDArray[Any]]]:
        """The steps after the last sample, in which the last reward arrives."""
        missing = self.block.steps(len(self.labels)) - self.step
        if self.samples < len(self.labels):
            raise LearningError(f"{self.samples} of {len(self.labels)} samples have been learned")
        return self._run(self._front.silence(missing), record) if missing else []

    def state(self) -> dict[str, NDArray[Any]]:
        """All that changes, but for ``samples`` and the steps: arrays by name, not copied."""
        names = ("u", "v", "trace", "spikes", "r", "coming", "pending")
        layer = {f"layer.{name}": getattr(self._layer, name) for name in names}
        return {f"synapses.{k}": v for k, v in self.synapses.state().items()} | layer

    def restore(self, state: dict[str, NDArray[Any]], step: int, samples: int) -> None:
        """Go on from a saved state, to what would have come without the pause."""
        mine = self.state()
        if mine.keys() != state.keys() or any(
            state[k].shape != v.shape or state[k].dtype != v.dtype for k, v in mine.items()
        ):
            raise LearningError("this is the state of another block")
        for name, values in mine.items():
            values[...] = state[name]
        self.synapses.step, self.samples = int(step), int(samples)

    def _run(self, messages: NDArray[Any], record: bool) -> list[tuple[Record, NDArray[Any]]]:
        synapses = self.synapses
        seen = synapses.seen(len(messages) if record else 0, spikes=record)
        program, state, work = synapses.parts
        kernels.run(
            messages,
            np.zeros((0, 0), dtype=np.uint8),
            np.zeros((0, 0, 0), dtype=np.int16),
            self.labels,
            program,
            state,
            work,
            self._layer,
            synapses.draws(len(messages)),
            seen,
            synapses.step,
        )
        synapses.step += len(messages)
        return [(synapses.recorded(seen), seen.spikes)] if record else []


def _layer(block: HebbianBlock, given: bool) -> kernels.Layer:
    network, index = block.network, block.index
    neuron, size = network.layers[index].neuron, int(np.prod(network.shapes[index]))
    assert isinstance(neuron, Neuron) and neuron.vth is not None  # the block has been checked
    readout = np.zeros((0, 0), dtype=np.int32)
    if block.mode == "reward" and index < len(network.layers) - 1:
        synapse = network.layers[-1].synapse
        assert isinstance(synapse, Dense)
        readout = np.array(synapse.weight, dtype=np.int32, order="C")
    classes = len(readout) or size
    keep, impulse = block.trace
    rewarded = 0 if block.mode == "stdp" else 2 if given else 1
    return kernels.Layer(
        u=np.zeros(size, dtype=np.int32),
        v=np.zeros(size, dtype=np.int32),
        trace=np.zeros(size, dtype=np.int16),
        bias=neuron.effective_bias(network.shapes[index]).reshape(-1).astype(np.int32),
        spikes=np.zeros(size, dtype=np.uint8),
        readout=readout,
        back=_back(readout, size),
        r=np.zeros(classes, dtype=np.int64),
        coming=np.zeros(classes, dtype=np.int64),
        pending=np.zeros(5, dtype=np.int64),
        du=neuron.du,
        dv=neuron.dv,
        threshold=neuron.vth << STATE_SHIFT,
        keep=keep,
        jump=impulse,
        rewarded=rewarded,
        reward=REWARD,
        baseline=block.rule.baseline,
        time_steps=network.time_steps,
        interval=block.interval,
        arrival=network.arrivals[index],
        judged=block.judged,
    )


def _back(readout: NDArray[np.int32], size: int) -> NDArray[np.int32]:
    """How the reward of a decision comes back to the neurons, ``[classes, out]``: to the neuron
    that stands for it, or to all that spoke for it, and reversed to those against it."""
    return np.sign(readout) if len(readout) else np.eye(size, dtype=np.int32)


# --- samples in, a network out ------------------------------------------------------------------


@dataclass(frozen=True)
class HebbianResult:
    """What was learned: as :class:`onchip.learn.LearnResult`.

    network: with the learned weights. samples, steps, seconds: learned from, simulated, taken.
    changed, saturated: weights that differ from before, and that ended at the limit of 8 bits, of
    the plastic layer by its name.
    """

    network: Network
    samples: int
    steps: int
    seconds: float
    changed: dict[str, int]
    saturated: dict[str, int]


def learn(
    network: Network,
    x: Any,
    labels: NDArray[Any] | None = None,
    *,
    mode: Mode = "stdp",
    rule: Hebbian | None = None,
    layer: int | None = None,
    rewards: NDArray[Any] | None = None,
    epochs: int = 1,
    seed: int = 1,
    engine: str = "fast",
    rounding: Rounding = "lava",
    deadline: float = 600.0,
    on_progress: Callable[[int, int], None] | None = None,
) -> HebbianResult:
    """Let a layer of ``network`` learn the payloads ``x`` ``[T, N, *input_shape]``, or
    :class:`onchip.learn.Samples`, by its spikes.

    mode: ``stdp``, or ``reward`` with labels ``[N]`` or rewards ``[N]`` (−1.0..1.0 each).
    rule: its numbers. layer: which learns; None: the last that spikes.
    epochs: how often every sample is seen, each time in another order, drawn from ``seed``.
    engine: ``fast``, compiled, or ``lava``: Lava's CPU simulator in a supervised child process,
        which ends with an error after ``deadline`` seconds. Both come to the same weights.
    rounding: ``lava`` or ``chip-like``. on_progress: called with samples learned and their number.

    Raises a :class:`PumiceError` for a network, data or numbers that cannot learn.
    """
    if engine not in ENGINES:
        raise LearningError(f"engine {engine!r} is unknown: use {' or '.join(ENGINES)}")
    if rounding not in ROUNDINGS:
        raise LearningError(f"rounding {rounding!r} is unknown: use {' or '.join(ROUNDINGS)}")
    if engine == "lava" and rounding != "lava":
        raise LearningError("Lava rounds in its own way alone: use the fast engine")
    if epochs < 1:
        raise LearningError(f"epochs is {epochs}: at least one is needed")
    block = build(network, mode, rule, layer=layer)
    samples = _count(network, x)
    answers = _answers(network, mode, labels, rewards, samples)
    rng = np.random.Generator(np.random.PCG64(seed))
    order = np.concatenate([rng.permutation(samples) for _ in range(epochs)])
    given = rewards is not None
    if engine == "lava":
        outcome = simulate(
            block, _take(x, order), answers[order], given=given, seed=seed, deadline=deadline
        )
        if on_progress is not None:
            on_progress(len(order), len(order))
        return _result(block, outcome.learned, len(order), outcome.steps, outcome.seconds)
    learner = HebbianLearner(
        block, answers[order], given=given, seed=seed, rounding=rounding, threads=None
    )
    begin = time.perf_counter()
    piece = 500
    while learner.samples < len(order):
        learner.learn(_take(x, order[learner.samples : learner.samples + piece]))
        if on_progress is not None:
            on_progress(learner.samples, len(order))
    learner.finish()
    seconds = time.perf_counter() - begin
    return _result(block, learner.learned, len(order), learner.step, seconds)


def _result(
    block: HebbianBlock, learned: NDArray[Any], samples: int, steps: int, seconds: float
) -> HebbianResult:
    name = block.network.names[block.index]
    changed = int((learned != block.plastic.values).sum())
    saturated = int(((learned == -128) | (learned == 127)).sum())
    return HebbianResult(
        block.freeze(learned), samples, steps, seconds, {name: changed}, {name: saturated}
    )


def _payloads(network: Network, x: NDArray[Any]) -> NDArray[Any]:
    """Payloads ``[T, n, …]``, with the network's T."""
    x = network.check_payloads(x)
    if len(x) != network.time_steps:
        raise LearningError(
            f"samples of {len(x)} steps, the network's encoding has {network.time_steps}"
        )
    return x


def _count(network: Network, x: Any) -> int:
    """How many samples; raises where they do not fit the network."""
    some = network.check_payloads(_take(x, np.arange(1)) if hasattr(x, "values") else x)
    if len(some) != network.time_steps:
        raise LearningError(
            f"the data have {len(some)} steps a sample, the network's encoding {network.time_steps}"
        )
    samples = len(x.values) if hasattr(x, "values") else some.shape[1]
    if not samples:
        raise LearningError("there is no sample to learn from")
    return samples


def _answers(
    network: Network,
    mode: Mode,
    labels: NDArray[Any] | None,
    rewards: NDArray[Any] | None,
    samples: int,
) -> NDArray[np.int64]:
    """What the judge is told of each sample."""
    if mode == "stdp":
        if rewards is not None:
            raise LearningError("mode 'stdp' learns from no rewards: use mode 'reward'")
        return np.zeros(samples, dtype=np.int64)
    if (labels is None) == (rewards is None):
        raise LearningError("mode 'reward' needs labels or rewards, one of the two")
    said = np.asarray(labels if rewards is None else rewards)
    what = "labels" if rewards is None else "rewards"
    if said.shape != (samples,):
        raise LearningError(f"{samples} samples need {what} [{samples}], found {list(said.shape)}")
    if rewards is not None:
        if said.dtype.kind not in "iuf" or not (np.abs(said) <= 1).all():
            raise LearningError("rewards are numbers −1.0..1.0")
        return np.round(said * REWARD).astype(np.int64)
    if said.dtype.kind not in "iu":
        raise LearningError(f"labels are class numbers, found dtype {said.dtype}")
    if said.min() < 0 or said.max() >= network.classes:
        raise LearningError(
            f"labels {said.min()}..{said.max()}: the network has classes 0..{network.classes - 1}"
        )
    return said.astype(np.int64)


def _take(x: Any, which: NDArray[Any]) -> NDArray[Any]:
    taken: NDArray[Any] = x.take(which) if hasattr(x, "values") else x[:, which]
    return taken


# --- in Lava ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """What came out of Lava. learned: the mantissas. steps, seconds: Lava's. history: of each step,
    if recorded: weights, tag_1 ``[steps, out, in]``, x ``[steps, 2, in]``, y ``[steps, 3, out]``,
    spikes ``[steps, out]``."""

    learned: NDArray[np.int32]
    steps: int
    seconds: float
    history: dict[str, NDArray[Any]]


def simulate(
    block: HebbianBlock,
    x: NDArray[Any],
    answers: NDArray[Any],
    *,
    given: bool = False,
    seed: int = 1,
    deadline: float = 600.0,
    record: bool = False,
) -> Outcome:
    """Learn payloads ``x`` ``[T, N, *input_shape]`` in Lava's CPU simulator, in a supervised child;
    what the layers in front send comes from :mod:`loihi.engine`."""
    network = block.network
    front = Front(network, block.index, block.interval, None)
    steps = block.steps(x.shape[1])
    lead, messages = front.lead(), front.messages(_payloads(network, x))
    tail = front.silence(max(0, steps - len(lead) - len(messages)))
    neuron = network.layers[block.index].neuron
    assert isinstance(neuron, Neuron) and neuron.vth is not None
    size = int(np.prod(network.shapes[block.index]))
    keep, impulse = block.trace
    result = supervise.run(
        _child,
        deadline=deadline,
        messages=np.concatenate([lead, messages, tail])[:steps],
        weight=block.plastic.values,
        exponent=block.plastic.exponent,
        graded=block.graded,
        rule=block.compiled.rule.as_dict(),
        seed=seed,
        neuron={
            "du": neuron.du - 1,  # Lava's LIF adds it again
            "dv": neuron.dv,
            "vth": neuron.vth,
            "bias_exp": neuron.bias_exp,
            "reset_interval": block.interval,
            "reset_offset": (network.arrivals[block.index] + 1) % block.interval,
            "keep": keep,
            "impulse": impulse,
        },
        bias=np.broadcast_to(np.asarray(neuron.bias), (size,)).astype(np.int32),
        readout=np.array(_layer(block, given).readout),
        judge=None
        if block.mode == "stdp"
        else {
            "by_class": not given,
            "reward": REWARD,
            "baseline": block.rule.baseline,
            "epoch": block.rule.epoch,
            "time_steps": network.time_steps,
            "interval": block.interval,
            "arrival": block.judged,
        },
        answers=np.asarray(answers, dtype=np.int64),
        record=record,
    )
    history = {k.removeprefix("seen."): v for k, v in result.items() if k.startswith("seen.")}
    return Outcome(result["learned"], result["steps"], result["seconds"], history)


def _child(
    folder: Path,
    *,
    messages: NDArray[Any],
    weight: NDArray[Any],
    exponent: int,
    graded: bool,
    rule: dict[str, Any],
    seed: int,
    neuron: dict[str, Any],
    bias: NDArray[Any],
    readout: NDArray[Any],
    judge: dict[str, Any] | None,
    answers: NDArray[Any],
    record: bool,
) -> dict[str, Any]:
    supervise.prepare_lava()
    from lava.magma.core.learning.constants import GradedSpikeCfg
    from lava.magma.core.run_conditions import RunSteps
    from lava.magma.core.run_configs import Loihi2SimCfg

    from onchip.processes.hebbian import HebbianLIF, Judge, Stream
    from onchip.processes.synapse import EightBitDense

    steps, recorded = len(messages), len(messages) if record else 0
    learning: LavaRule = read_rule(**rule, strict=False)
    source = Stream(messages=np.array(messages))
    synapses = EightBitDense(
        recorded=recorded,
        file=str(folder / "synapses.npz") if record else "",
        weights=np.array(weight),
        weight_exp=exponent,
        num_message_bits=8 if graded else 0,
        learning_rule=learning.to_lava(seed),
        graded_spike_cfg=GradedSpikeCfg.OVERWRITE if graded else GradedSpikeCfg.USE_REGULAR_IMPULSE,
    )
    neurons = HebbianLIF(
        shape=bias.shape,
        bias_mant=np.array(bias),
        recorded=recorded,
        file=str(folder / "spikes.npy") if record else "",
        **neuron,
    )
    source.s_out.connect(synapses.s_in)
    synapses.a_out.connect(neurons.a_in)
    neurons.s_out_bap.connect(synapses.s_in_bap)
    if learning.factors == 3:
        neurons.s_out_y1.connect(synapses.s_in_y1)
        neurons.s_out_y2.connect(synapses.s_in_y2)
        neurons.s_out_y3.connect(synapses.s_in_y3)
    if judge is not None:
        judging = Judge(classes=len(readout) or len(bias), answers=np.array(answers), **judge)
        if len(readout):
            behind = lava_dense(readout, graded=False)
            neurons.s_out.connect(behind.s_in)
            behind.a_out.connect(judging.a_in)
        else:
            neurons.s_out.connect(judging.a_in)
        back = lava_dense(_back(np.array(readout), len(bias)).T, graded=True)
        judging.s_out.connect(back.s_in)
        back.a_out.connect(neurons.a_reward)
    begin = time.perf_counter()
    source.run(condition=RunSteps(num_steps=steps), run_cfg=Loihi2SimCfg(select_tag="fixed_pt"))
    seconds = time.perf_counter() - begin
    result: dict[str, Any] = {"steps": steps, "seconds": seconds}
    result["learned"] = np.asarray(synapses.weights.get(), dtype=np.int32)
    source.stop()
    if record:
        with np.load(folder / "synapses.npz", allow_pickle=False) as seen:
            result |= {f"seen.{name}": seen[name] for name in seen.files}
        result["seen.spikes"] = np.load(folder / "spikes.npy", allow_pickle=False)
    return result
