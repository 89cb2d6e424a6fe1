"""Why a simulator went its own way: hypotheses, each tried out on the layer in plain integers.

The layer at which numbers first differ is computed anew from what this simulator itself sent into
it: once as the chip does, and once for each of :data:`HYPOTHESES` as if exactly that were wrong. A
hypothesis that makes the very number that was found is a likely cause; the one that leaves the
fewest of the layer's numbers unexplained is named. Nothing here runs a simulator, and nothing here
is clever: whoever doubts a cause reads its function.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import permutations
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from loihi import Conv, Dense, Inject, Network, Neuron, formats
from loihi.network import Synapse
from loihi.neurons import Reset
from loihi.reference import STATES, convolve

Ints = NDArray[np.int64]
_SHIFT, _LIMIT = formats.STATE_SHIFT, formats.STATE_MAX


class Steps(NamedTuple):
    """A layer's numbers at each step, ``[T, *shape]``: u and v after the step, its spikes, and v
    before the reset."""

    u: NDArray[Any]
    v: NDArray[Any]
    spikes: NDArray[Any]
    reached: NDArray[Any]


@dataclass(frozen=True)
class Evidence:
    """What one simulator did with one sample, around the layer where numbers first differ.

    index: the layer. sent: what its sources sent, and those of the layers that it carries, by
        index, −1 for the input: ``[T, *shape]``, as this simulator has it.
    found: ``spikes``, ``u``, ``v`` of the layer, ``[T, *shape]``, as far as they were observed.
    at: (step from 0, *neuron) of the first number that differs.
    before: u and v with which the simulator ended the sample before; None: there was none.
    """

    network: Network
    index: int
    sent: Mapping[int, NDArray[Any]]
    found: Mapping[str, NDArray[Any]]
    at: tuple[int, ...]
    before: tuple[NDArray[Any], NDArray[Any]] | None = None

    @cached_property
    def neuron(self) -> Neuron:
        """The layer's; only LIF neurons are understood here."""
        neuron = self.network.layers[self.index].neuron
        assert isinstance(neuron, Neuron)
        return neuron

    @cached_property
    def bias(self) -> Ints:
        """The effective bias ``[*shape]``."""
        return self.neuron.effective_bias(self.network.shapes[self.index])

    @cached_property
    def a(self) -> Ints:
        """The layer's synaptic input ``[T, *shape]``."""
        return synaptic_input(self.network, self.index, self.sent)

    @cached_property
    def chip(self) -> Steps:
        """What the chip makes of that."""
        return steps(self.a, self.neuron, self.bias)

    def here(self, numbers: NDArray[Any]) -> Any:
        """The number at the place of the first difference."""
        return numbers[self.at]

    def unlike(self, other: Steps) -> int:
        """How many of the layer's observed numbers are not these."""
        return sum(
            int(np.count_nonzero(self.found[state] != getattr(other, state)))
            for state in STATES
            if state in self.found
        )

    def explains(self, other: Steps) -> bool:
        """Whether these are the numbers that were found where they first differ."""
        return all(
            self.found[state][self.at] == getattr(other, state)[self.at]
            for state in STATES
            if state in self.found
        )


class Suspicion(NamedTuple):
    """What a layer would have done if something certain were wrong, and what that is."""

    text: str
    steps: Steps


Hypothesis = Callable[[Evidence], Iterator[Suspicion]]


@dataclass(frozen=True)
class Cause:
    """Why a simulator differs, as far as plain arithmetic can tell.

    name: of the hypothesis, or ``unknown``. text: what it looked at, with the numbers.
    simulator, layer: whose numbers, and where.
    explained, differing: of the numbers of this layer that are not the chip's, how many it makes.
    also: other hypotheses that explain as many.
    """

    name: str
    text: str
    simulator: str
    layer: str
    explained: int = 0
    differing: int = 0
    also: tuple[str, ...] = ()

    def __str__(self) -> str:
        share = f" ({self.explained:,} of {self.differing:,} numbers)" if self.explained else ""
        also = f"; as likely: {', '.join(self.also)}" if self.also else ""
        return f"{self.simulator}, layer {self.layer}: {self.name}: {self.text}{share}{also}"


def explain(evidence: Evidence, simulator: str) -> Cause | None:
    """The likely cause of what ``simulator`` did; None: it did what the chip does."""
    network, index = evidence.network, evidence.index
    layer = network.names[index]
    if not isinstance(network.layers[index].neuron, Neuron):
        kind = type(network.layers[index].neuron).__name__
        return Cause("unknown", f"only LIF neurons are looked into, not {kind}", simulator, layer)
    if network.is_chain and network.has_delays and any(_biased(network)):
        text = "spikes that a bias causes before the sample come late through delays: not looked at"
        return Cause("unknown", text, simulator, layer)
    differing = evidence.unlike(evidence.chip)
    if not differing:
        return None
    found: list[tuple[int, str, str]] = []
    for hypothesis in HYPOTHESES:
        for text, suspected in hypothesis(evidence):
            left = evidence.unlike(suspected)
            if left < differing and evidence.explains(suspected):
                found.append((left, name_of(hypothesis), text))
    if not found:
        return Cause("unknown", _whereabouts(evidence), simulator, layer, 0, differing)
    least = min(left for left, _, _ in found)
    likely = [(name, text) for left, name, text in found if left == least]
    name, text = likely[0]
    also = tuple(dict.fromkeys(other for other, _ in likely if other != name))
    return Cause(name, text, simulator, layer, differing - least, differing, also)


def another_network(mine: Network, theirs: Network, simulator: str) -> Cause | None:
    """Where a simulator was given another network (a run's, not the file's): in what it differs."""
    for index, (a, b) in enumerate(zip(mine.layers, theirs.layers, strict=False)):
        if a == b:
            continue
        name = mine.names[index]
        for what in ("synapse", "neuron", "sources", "more", "carry"):
            one, other = getattr(a, what), getattr(b, what)
            if one != other:
                text = f"its {what} is not the file's{_first_unlike(one, other)}"
                return Cause("another network", text, simulator, name)
    if len(mine.layers) != len(theirs.layers):
        text = f"it has {len(theirs.layers)} layers, the file {len(mine.layers)}"
        return Cause("another network", text, simulator, mine.names[-1])
    return None


def _first_unlike(mine: Any, theirs: Any) -> str:
    """``: weight[3, 1] is 12, there 14`` for two of a kind."""
    if type(mine) is not type(theirs):
        return f": {type(mine).__name__}, there {type(theirs).__name__}"
    for name in getattr(mine, "__dataclass_fields__", ()):
        one, other = getattr(mine, name), getattr(theirs, name)
        if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
            if one.shape != other.shape:
                return f": {name} {list(one.shape)}, there {list(other.shape)}"
            if (one != other).any():
                at = tuple(np.argwhere(one != other)[0].tolist())
                return f": {name}{list(at)} is {one[at]}, there {other[at]}"
        elif not np.array_equal(one, other):
            return f": {name} is {one}, there {other}"
    return ""


def _biased(network: Network) -> Iterator[bool]:
    return (bool(np.any(np.asarray(layer.neuron.bias) > 0)) for layer in network.layers)


# --- a layer in plain integers ------------------------------------------------------------------


def synaptic_input(
    network: Network,
    index: int,
    sent: Mapping[int, NDArray[Any]],
    change: Callable[[Synapse], Synapse] = lambda synapse: synapse,
    turn: Callable[[NDArray[Any]], NDArray[Any]] = lambda message: message,
) -> Ints:
    """``a [T, *shape]`` of a layer, as :class:`loihi.Layer` says it.

    change, turn: what a hypothesis does to each of the layer's own synapses, and to what goes in.
    """
    layer = network.layers[index]
    a = np.zeros((len(next(iter(sent.values()))), *network.shapes[index]), dtype=np.int64)
    for synapse, sources in network.synapses(index):
        message = sum(_late(sent[s].astype(np.int64), int(s >= index)) for s in sources)
        a += _through(change(synapse), turn(np.asarray(message)))
    if layer.carry is not None:
        a += synaptic_input(network, layer.carry, sent)
    return formats.wrap32(a)


def _through(synapse: Synapse, message: Ints) -> Ints:
    """What messages ``[T, *shape]`` make at each step, delays included."""
    if isinstance(synapse, Conv):
        return formats.wrap24(convolve(synapse, message))
    if not isinstance(synapse, Dense):
        return message
    rows = message.reshape(len(message), -1)
    if synapse.delay is None:
        return rows @ synapse.weight.astype(np.int64).T
    total = np.zeros((len(rows), len(synapse.weight)), dtype=np.int64)
    for delay in np.unique(synapse.delay).tolist():
        weight = np.where(synapse.delay == delay, synapse.weight, 0).astype(np.int64)
        total += _late(rows @ weight.T, delay)
    return total


def _late(rows: NDArray[Any], by: int) -> NDArray[Any]:
    """Rows moved to later steps (earlier ones for ``by`` < 0), zeros where none come from."""
    moved = np.zeros_like(rows)
    if by >= 0:
        moved[by:] = rows[: max(len(rows) - by, 0)]
    else:
        moved[:by] = rows[-by:]
    return moved


Rest = tuple[NDArray[Any], NDArray[Any]]


def steps(
    a: NDArray[Any],
    neuron: Neuron,
    bias: NDArray[Any],
    *,
    decay: Callable[[Any, int], Any] = formats.decay,
    turn: Callable[[Any], Any] = lambda u: formats.wrap_current(formats.wrap32(u)),
    clip: Callable[[Any], Any] = formats.clip_voltage,
    fires: Callable[[Any, Any], Any] = np.greater,
    start: Rest | None = None,
    rest_at: int | None = None,
) -> Steps:
    """All steps of LIF neurons with synaptic input ``a [T, *shape]``: the chip's, by default.

    decay, turn, clip, fires: its arithmetic, of which a hypothesis replaces a part.
    start: u and v before the first step, 0 by default. rest_at: a step before which both become 0.
    """
    u, v = (np.zeros(a.shape[1:], dtype=np.int64),) * 2 if start is None else start
    threshold = np.inf if neuron.vth is None else neuron.vth << _SHIFT
    rows = []
    for t, arriving in enumerate(a):
        if t == rest_at:
            u, v = np.zeros_like(u), np.zeros_like(v)
        u = turn(decay(u, neuron.du) + (arriving << _SHIFT))
        reached = clip(decay(v, neuron.dv) + u + bias)
        spikes = fires(reached, threshold)
        v = np.where(spikes, reached - threshold if neuron.reset == "soft" else 0, reached)
        v = v.astype(reached.dtype)
        rows.append((u, v, spikes, reached))
    return Steps(*(np.stack(column) for column in zip(*rows, strict=True)))


def _whereabouts(e: Evidence) -> str:
    """Which of u, v and spike is the first that the simulator's own numbers do not make."""
    step, *_ = e.at
    if not {"u", "v"} <= e.found.keys():
        return "no hypothesis makes these numbers; with u and v observed more could be said"
    u, v = ((e.found[s][step - 1] if step else np.zeros_like(e.found[s][0])) for s in "uv")
    now = steps(e.a[step : step + 1], e.neuron, e.bias, start=(u.astype(np.int64), v))
    place = e.at[1:]
    a = int(e.a[e.at])
    if (got := int(e.found["u"][e.at])) != (made := int(now.u[0][place])):
        return (
            f"no hypothesis makes these numbers; u {got} is not what the u before ({u[place]}) and "
            f"the synaptic input ({a}) make, {made}: look at weights and inputs"
        )
    if (got := int(e.found["v"][e.at])) != (made := int(now.v[0][place])):
        return (
            f"no hypothesis makes these numbers; v {got} is not what the v before ({v[place]}), u "
            f"and the bias make, {made}: look at leak, bias, threshold and reset"
        )
    return "no hypothesis makes these numbers; they follow from u and v of the step before"


# --- the hypotheses -----------------------------------------------------------------------------


def v_equals_threshold(e: Evidence) -> Iterator[Suspicion]:
    """A spike at v = threshold: ``>=`` where the chip has ``>``."""
    if e.neuron.vth is None:
        return
    text = (
        f"v reaches {e.here(e.chip.reached)}, the threshold is {e.neuron.vth << _SHIFT}: it spikes "
        "from v >= threshold, the chip at v > threshold"
    )
    yield Suspicion(text, steps(e.a, e.neuron, e.bias, fires=np.greater_equal))


def u_wrapped(e: Evidence) -> Iterator[Suspicion]:
    """A current beyond 24 bits, which the chip turns by 2^24 once."""
    ways: dict[str, Callable[[Any], Any]] = {
        "it does not wrap": lambda u: u,
        "it saturates": lambda u: np.clip(u, -_LIMIT + 1, _LIMIT - 1),
        "it wraps as two's complement, -2^23 included": formats.wrap24,
    }
    for way, turn in ways.items():
        found = steps(e.a, e.neuron, e.bias, turn=turn)
        u = e.here(steps(e.a, e.neuron, e.bias, turn=lambda u: u).u)
        yield Suspicion(f"u would be {u}, beyond 24 bits (2^23 = {_LIMIT}): {way}", found)


def v_clipped(e: Evidence) -> Iterator[Suspicion]:
    """A membrane beyond 24 bits, which the chip keeps at ±(2^23 − 1)."""
    ways: dict[str, Callable[[Any], Any]] = {
        "it does not clip": lambda v: v,
        "it wraps": formats.wrap24,
        "it clips at ±2^23": lambda v: np.clip(v, -_LIMIT, _LIMIT),
    }
    for way, clip in ways.items():
        v = e.here(steps(e.a, e.neuron, e.bias, clip=lambda v: v).reached)
        found = steps(e.a, e.neuron, e.bias, clip=clip)
        yield Suspicion(f"v would be {v}, beyond 2^23 - 1 = {_LIMIT - 1}: {way}", found)


def bias_before_input(e: Evidence) -> Iterator[Suspicion]:
    """A reset out of phase: the neurons are at work before their input comes, or cleared late."""
    total, silence = len(e.a), np.zeros_like(e.a[:1])
    for by in range(1, 1 + min(max(1, e.network.arrivals[e.index]), total - 1)):
        count = f"{by} step{'s' if by > 1 else ''}"
        ahead = np.concatenate([np.repeat(silence, by, axis=0), e.a])
        for rest_at in (None, total):
            warm = steps(ahead, e.neuron, e.bias, rest_at=rest_at)
            text = f"its bias is at work {count} before its input comes"
            if rest_at is not None:
                text = f"each of its resets is {count} too early: {text}"
            yield Suspicion(text, Steps(*(column[by:] for column in warm)))
        found = steps(e.a, e.neuron, e.bias, rest_at=by, start=e.before)
        yield Suspicion(f"each of its resets is {count} too late", found)


def no_reset_between_samples(e: Evidence) -> Iterator[Suspicion]:
    """u or v of the sample before, carried over."""
    if e.before is None:
        return
    u, v = e.before
    ways = {"u and v": (u, v), "u": (u, 0 * v), "v": (0 * u, v)}
    for what, (first, second) in ways.items():
        begin = (np.asarray(first, np.int64), np.asarray(second, np.int64))
        text = f"{what} begin where the sample before ended: nothing clears them"
        yield Suspicion(text, steps(e.a, e.neuron, e.bias, start=begin))


def truncated_weight(e: Evidence) -> Iterator[Suspicion]:
    """Weights that lost bits on their way into the 8 bits of a synapse."""
    ways: dict[str, Callable[[Ints], Ints]] = {
        "the lowest bit cut (floor)": lambda w: w >> 1 << 1,
        "the lowest 2 bits cut (floor)": lambda w: w >> 2 << 2,
        "the lowest 3 bits cut (floor)": lambda w: w >> 3 << 3,
        "odd weights cut towards zero": lambda w: np.sign(w) * (np.abs(w) >> 1 << 1),
        "clipped to -128..127": lambda w: np.clip(w, -128, 127),
        "wrapped to 8 bits": lambda w: w.astype(np.int8).astype(np.int64),
    }
    for way, cut in ways.items():
        changed = _reweighted(e, cut)
        if changed is None:
            continue
        count, example, a = changed
        text = f"{count} weights {way}, as {example}"
        yield Suspicion(text, steps(a, e.neuron, e.bias))


def _reweighted(e: Evidence, cut: Callable[[Ints], Ints]) -> tuple[int, str, Ints] | None:
    """How many weights ``cut`` changes, one of them, and the synaptic input then; None: none."""
    count, example = 0, ""

    def change(synapse: Synapse) -> Synapse:
        nonlocal count, example
        if not isinstance(synapse, Dense | Conv):
            return synapse
        weight = synapse.weight.astype(np.int64)
        other = cut(weight)
        at = np.argwhere(other != weight)
        if not len(at):
            return synapse
        count += len(at)
        first = tuple(at[0].tolist())
        example = f"{weight[first]} to {other[first]} at {list(first)}"
        return replace(synapse, weight=other.astype(np.int32))

    a = synaptic_input(e.network, e.index, e.sent, change)
    return (count, example, a) if count else None


def wrong_axis_order(e: Evidence) -> Iterator[Suspicion]:
    """An image flattened or read in another order of its axes than C, H, W."""
    shapes = {e.network.shape_of(s) for _, group in e.network.synapses(e.index) for s in group}
    if not any(len(shape) == 3 for shape in shapes):
        return

    for order in permutations((1, 2, 3)):
        if order == (1, 2, 3):
            continue

        def turn(message: NDArray[Any], order: tuple[int, ...] = order) -> NDArray[Any]:
            if message.ndim != 4:
                return message
            return message.transpose(0, *order).reshape(message.shape)

        names = ", ".join("_CHW"[axis] for axis in order)
        a = synaptic_input(e.network, e.index, e.sent, turn=turn)
        text = f"the image that feeds it goes in as ({names}), the weights are for (C, H, W)"
        yield Suspicion(text, steps(a, e.neuron, e.bias))


def kernel_not_turned(e: Evidence) -> Iterator[Suspicion]:
    """A convolution for a correlation, or rows and columns of the kernel exchanged."""
    ways: dict[str, Callable[[Any], Any]] = {
        "turned by 180°": lambda w: w[..., ::-1, ::-1],
        "mirrored, top to bottom": lambda w: w[..., ::-1, :],
        "mirrored, left to right": lambda w: w[..., ::-1],
        "with rows and columns exchanged": lambda w: np.swapaxes(w, -1, -2),
        "turned by 180°, rows and columns exchanged": lambda w: np.swapaxes(w, -1, -2)[
            ..., ::-1, ::-1
        ],
    }
    kernels = [s for s, _ in e.network.synapses(e.index) if isinstance(s, Conv)]
    for way, turned in ways.items():
        if not kernels or any(turned(s.weight).shape != s.weight.shape for s in kernels):
            continue
        if all(np.array_equal(turned(s.weight), s.weight) for s in kernels):
            continue

        def change(synapse: Synapse, turned: Callable[[Any], Any] = turned) -> Synapse:
            if not isinstance(synapse, Conv):
                return synapse
            return replace(synapse, weight=turned(synapse.weight))

        a = synaptic_input(e.network, e.index, e.sent, change)
        text = f"the kernel is used {way}: the chip correlates, as torch does"
        yield Suspicion(text, steps(a, e.neuron, e.bias))


def off_by_one_step(e: Evidence) -> Iterator[Suspicion]:
    """Input a step late or early, or the whole layer seen at another step."""
    for by, word in ((1, "late"), (-1, "early")):
        found = steps(_late(e.a, by), e.neuron, e.bias)
        yield Suspicion(f"its input comes a step {word}: a latency miscounted", found)
    moved = Steps(*(_late(column, 1) for column in e.chip))
    yield Suspicion("all of it happens a step late: a latency miscounted", moved)


def decay_off_by_one(e: Evidence) -> Iterator[Suspicion]:
    """du or dv one more or less: Lava's LIF adds 1 to its du, of which netx takes 1 off."""
    for name in ("du", "dv"):
        for by in (1, -1):
            own = getattr(e.neuron, name)
            if not 0 <= own + by <= formats.DECAY_ONE:
                continue
            other = replace(e.neuron, **{name: own + by})
            text = f"{name} is {own}, and it computes with {own + by}"
            yield Suspicion(text, steps(e.a, other, e.bias))


def soft_against_hard_reset(e: Evidence) -> Iterator[Suspicion]:
    """A spike that takes the threshold off v, or clears it."""
    if e.neuron.vth is None:
        return
    other: Reset = "soft" if e.neuron.reset == "hard" else "hard"
    meaning = {"soft": "v loses the threshold at a spike", "hard": "v becomes 0 at a spike"}
    found = steps(e.a, replace(e.neuron, reset=other), e.bias)
    text = f"{meaning[other]} ({other} reset); the network's is {e.neuron.reset}"
    yield Suspicion(text, found)


def rounding_of_decays(e: Evidence) -> Iterator[Suspicion]:
    """Products of states and decays rounded otherwise than to zero, or not at all."""

    def kept(x: Any, d: int) -> Any:
        return np.asarray(x, np.float64) * (formats.DECAY_ONE - d) / formats.DECAY_ONE

    ways: dict[str, Callable[[Any], Any]] = {"down": np.floor, "to the nearest": np.rint}
    for way, rounded in ways.items():

        def decay(x: Any, d: int, rounded: Callable[[Any], Any] = rounded) -> Any:
            return rounded(kept(x, d)).astype(np.int64)

        found = steps(e.a, e.neuron, e.bias, decay=decay)
        yield Suspicion(f"a decay's product is rounded {way}, on the chip towards zero", found)

    def turn(u: Any) -> Any:
        return np.where(u > _LIMIT, u - 2 * _LIMIT, np.where(u <= -_LIMIT, u + 2 * _LIMIT, u))

    def clip(v: Any) -> Any:
        return np.clip(v, -_LIMIT + 1, _LIMIT - 1)

    real = steps(e.a, e.neuron, e.bias, decay=kept, turn=turn, clip=clip)
    for rounded in (np.trunc, np.rint):  # as they are recorded
        columns = Steps(*(column if column.dtype == bool else rounded(column) for column in real))
        yield Suspicion("it computes in real numbers: no product of a decay is rounded", columns)


def rounded_threshold(e: Evidence) -> Iterator[Suspicion]:
    """A threshold one more or less: rounded against truncated, or another's fraction kept."""
    if e.neuron.vth is None:
        return
    for by in (-1, 1):
        vth = e.neuron.vth + by
        if 0 <= vth <= formats.VTH_MAX:
            text = (
                f"the threshold is {e.neuron.vth}, and it spikes as with {vth}: a threshold "
                "rounded in one place and truncated in the other"
            )
            yield Suspicion(text, steps(e.a, replace(e.neuron, vth=vth), e.bias))


def unshifted_bias(e: Evidence) -> Iterator[Suspicion]:
    """A bias that is left out, or added without its exponent."""
    if not e.neuron.has_bias:
        return
    yield Suspicion("the bias is left out", steps(e.a, e.neuron, 0 * e.bias))
    text = f"the bias is added without its exponent ({e.neuron.bias_exp})"
    yield Suspicion(text, steps(e.a, e.neuron, e.bias >> e.neuron.bias_exp))


def another_weight(e: Evidence) -> Iterator[Suspicion]:
    """A single weight that is not the file's, found by whose spikes the difference goes with."""
    if "u" not in e.found:
        return
    place = e.at[1:]
    over_time: tuple[Any, ...] = (slice(None), *place)
    u = e.found["u"][over_time].astype(np.int64)
    past = np.concatenate([[0], u[:-1]])
    got = (u - formats.decay(past, e.neuron.du)) >> _SHIFT
    extra = got - e.a[over_time]
    for number, (synapse, sources) in enumerate(e.network.synapses(e.index)):
        if isinstance(synapse, Inject) or getattr(synapse, "delay", None) is not None:
            continue
        message = np.asarray(sum(_late(e.sent[s].astype(np.int64), s >= e.index) for s in sources))
        for at, heard in _heard(synapse, message, place):
            quotients = {int(d) // int(h) for d, h in zip(extra, heard, strict=True) if h}
            if len(quotients) != 1 or not (by := quotients.pop()) or (by * heard != extra).any():
                continue

            def change(
                own: Synapse, synapse: Synapse = synapse, at: tuple[int, ...] = at, by: int = by
            ) -> Synapse:
                if own is not synapse or not isinstance(own, Dense | Conv):
                    return own
                weight = own.weight.copy()
                weight[at] = np.clip(weight[at] + by, -256, 255)
                return replace(own, weight=weight)

            assert isinstance(synapse, Dense | Conv)
            own = int(synapse.weight[at])
            which = f" of synapse {number}" if number else ""
            text = f"weight{list(at)}{which} is {own}, and it computes with {own + by}"
            a = synaptic_input(e.network, e.index, e.sent, change)
            yield Suspicion(text, steps(a, e.neuron, e.bias))


def _heard(
    synapse: Synapse, message: Ints, place: tuple[int, ...]
) -> Iterator[tuple[tuple[int, ...], Ints]]:
    """For each weight of one neuron its place, and what it hears at each step ``[T]``."""
    if isinstance(synapse, Dense):
        for column, heard in enumerate(message.reshape(len(message), -1).T):
            yield (place[0], column), heard
    elif isinstance(synapse, Conv):
        out, row, column = place
        (sy, sx), (py, px), (dy, dx) = synapse.strides, synapse.paddings, synapse.dilations
        padded = np.pad(message, ((0, 0), (0, 0), (py, py), (px, px)))
        channels, height, width = synapse.weight.shape[1:]
        first = out // (len(synapse.weight) // synapse.groups) * channels
        for c, i, j in np.ndindex(channels, height, width):
            heard = padded[:, first + c, row * sy + i * dy, column * sx + j * dx]
            yield (out, c, i, j), heard


HYPOTHESES: Sequence[Hypothesis] = (
    v_equals_threshold,
    u_wrapped,
    v_clipped,
    bias_before_input,
    no_reset_between_samples,
    truncated_weight,
    wrong_axis_order,
    kernel_not_turned,
    off_by_one_step,
    decay_off_by_one,
    soft_against_hard_reset,
    rounding_of_decays,
    rounded_threshold,
    unshifted_bias,
    another_weight,
)
"""Of those that explain as much, the first is named."""

_NAMES = {
    "u_wrapped": "u wrapped (24 bits)",
    "bias_before_input": "bias before input (the reset's phase)",
    "off_by_one_step": "off by one step (latency)",
    "unshifted_bias": "bias left out or unshifted",
}


def name_of(hypothesis: Hypothesis) -> str:
    """What a cause is called: ``v equals threshold``."""
    own: str = hypothesis.__name__  # type: ignore[attr-defined]
    return _NAMES.get(own, own.replace("_", " "))


def needed(network: Network, index: int) -> set[int]:
    """The layers (−1: the input) whose messages :func:`synaptic_input` of a layer wants."""
    sources = {s for _, group in network.synapses(index) for s in group}
    carry = network.layers[index].carry
    return sources if carry is None else sources | needed(network, carry)
