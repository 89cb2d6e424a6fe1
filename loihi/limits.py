"""Design rules: does this network fit a chip, and will its numbers behave there?

Each rule is a small function that yields findings: what is used, what is allowed, in which layer,
and what to do about it. Rules about data (overflow as it really happens, silent layers) need some
samples; the others do not. What chips offer is said in :mod:`loihi.boards`, which neurons go on
which core in :mod:`loihi.partition`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from loihi import formats, schedule
from loihi.boards import Chip as Chip
from loihi.boards import chip as chip
from loihi.engine import Activity, Engine
from loihi.network import INPUT, ComplexDense, Conv, Dense, Inject, Network, Shape
from loihi.neurons import Delta, Neuron, Resonator, Sigma, SigmaDelta
from loihi.partition import (
    NEURONS_MAX,
    Partition,
    PartitionError,
    axes,
    connections,
    partition,
    synapse_bits,
)
from loihi.synapses import largest_sum

Level = Literal["ok", "warning", "error"]


@dataclass(frozen=True)
class Finding:
    """What one rule says of one layer, or of the network (``layer`` None)."""

    rule: str
    layer: str | None
    level: Level
    used: float
    allowed: float
    unit: str
    message: str


@dataclass(frozen=True)
class Report:
    """All findings. ``ok``: no errors (warnings may remain).

    partition: which neurons go on which core, None where there is none to be written down.
    """

    findings: tuple[Finding, ...]
    partition: Partition | None = None

    @property
    def ok(self) -> bool:
        """Whether no rule is broken."""
        return all(f.level != "error" for f in self.findings)

    def as_dicts(self) -> list[dict[str, Any]]:
        """The findings, ready for JSON."""
        return [asdict(f) for f in self.findings]


def check(network: Network, on: Chip, x: NDArray[Any] | None = None, apart: bool = False) -> Report:
    """Hold ``network`` against a chip; given payloads ``x [T, N, *input_shape]``, on data too.

    apart: no core holds neurons of two layers (:func:`loihi.partition.partition`).
    """
    activity = None if x is None else Engine(network).activity(x)
    findings = [finding for rule in RULES for finding in rule(network, on)]
    part = None
    try:
        part = partition(network, on, apart)
    except PartitionError as error:
        least = sum(math.ceil(math.prod(shape) / on.neurons) for shape in network.shapes)
        unit = f"cores of {on.name}"
        allowed = on.cores * on.chips
        findings.append(Finding("cores", None, "error", least, allowed, unit, str(error)))
    else:
        findings += [finding for rule in PLACE_RULES for finding in rule(part)]
    if activity is not None:
        findings += [finding for rule in DATA_RULES for finding in rule(network, activity)]
    return Report(tuple(findings), part)


# --- rules about the network --------------------------------------------------------------------


def weight_bits(network: Network, on: Chip) -> Iterator[Finding]:
    """Weights fit the sizes that the chip's synapses come in."""
    for name, synapse in _synapses(network):
        parts = {"": synapse.weight}
        if isinstance(synapse, ComplexDense):
            parts = {"real: ": synapse.real, "imaginary: ": synapse.imag}
        for part, weight in parts.items():
            found = formats.weight_format(weight)
            stored = on.stored_bits(found.bits)
            note = f"{part}{found.sign_mode}, exponent {found.exponent}"
            if stored is None:
                note += f": no synapse of {on.name} holds {found.bits} bits; use fewer levels"
            elif stored != found.bits:
                note += f"; stored in {stored} bits"
            level: Level = "error" if stored is None else "ok"
            yield Finding("weight bits", name, level, found.bits, max(on.weight_bits), "bits", note)


def neurons(network: Network, on: Chip) -> Iterator[Finding]:
    """What hard-resetting LIF neurons do not do: other kinds, and the soft reset."""
    for name, layer, shape in zip(network.names, network.layers, network.shapes, strict=True):
        level: Level = "ok"
        neuron = layer.neuron
        if isinstance(neuron, Neuron):
            if neuron.reset == "hard":
                continue
            level = "warning" if on.microcode else "error"
            message = (
                "soft reset: needs neuron microcode of your own, Lava's LIF resets to 0 (or train "
                "with a hard reset)"
                if on.microcode
                else f"soft reset: neurons of {on.name} reset to 0 and cannot be programmed; train "
                "with a hard reset"
            )
        elif isinstance(neuron, Delta | SigmaDelta | Sigma):
            message = "sigma-delta: sends graded spikes"
            if not (on.graded and on.microcode):
                level = "error"
                message += f", which {on.name} does not have: take Loihi 2, or spiking neurons"
        else:
            level = "warning" if on.microcode else "error"
            message = (
                "resonate-and-fire: needs neuron microcode, see that your Lava for the chip has it"
                if on.microcode
                else f"resonate-and-fire: neurons of {on.name} cannot be programmed; take Loihi 2, "
                "or LIF neurons"
            )
        used = math.prod(shape)
        allowed = 0 if level == "error" else used
        yield Finding("neuron model", name, level, used, allowed, "neurons", message)


def thresholds(network: Network, on: Chip) -> Iterator[Finding]:
    """Thresholds fit their mantissa; a layer at 0 spikes from the smallest input."""
    allowed = 2**on.threshold_bits - 1
    for name, layer in zip(network.names, network.layers, strict=True):
        vth = layer.neuron.vth
        if vth is None or not isinstance(layer.neuron, Neuron | Resonator):
            continue
        level: Level = "ok"
        message = ""
        if vth > allowed:
            level, message = "error", "lower the threshold, and weights and biases with it"
        elif vth == 0:
            level, message = "warning", "every positive membrane spikes: raise the threshold"
        yield Finding("threshold", name, level, vth, allowed, "mantissa", message)


def biases(network: Network, on: Chip) -> Iterator[Finding]:
    """Biases of LIF neurons fit their signed mantissa, and its exponent."""
    allowed = 2 ** (on.bias_bits - 1) - 1
    for name, layer in zip(network.names, network.layers, strict=True):
        if not (isinstance(layer.neuron, Neuron) and layer.neuron.has_bias):
            continue
        bias, exponent = np.asarray(layer.neuron.bias), layer.neuron.bias_exp
        used = int(np.abs(bias).max())
        level: Level = "ok"
        message = f"mantissa, exponent {exponent}"
        if bias.max() > allowed or bias.min() < -allowed - 1:
            level = "error"
            message += f": more than {on.bias_bits} bits; use smaller biases"
        elif exponent > on.bias_exp:
            level = "error"
            message += f", {on.bias_exp} at most: use larger mantissas with a smaller exponent"
        yield Finding("bias", name, level, used, allowed, "mantissa", message)


def delays(network: Network, on: Chip) -> Iterator[Finding]:
    """Delays fit the chip."""
    for name, synapse in _synapses(network):
        if isinstance(synapse, Dense) and synapse.delay is not None:
            used = int(synapse.delay.max())
            level: Level = "ok" if used <= on.delay else "error"
            message = f"{used.bit_length()} bits"
            if level == "error":
                message += ": shorten the delay"
            elif on.delay_all is not None and used > on.delay_all:
                level = "warning"
                message += (
                    f": beyond {on.delay_all} a core holds fewer neurons, how many is not public"
                )
            yield Finding("delay", name, level, used, on.delay, "steps", message)


def fan_in(network: Network, on: Chip) -> Iterator[Finding]:
    """The synapses of one neuron: what the chip says, or what a core's memory holds."""
    for index, (name, shape) in enumerate(zip(network.names, network.shapes, strict=True)):
        if math.prod(shape) > NEURONS_MAX:
            continue  # past all chips, as the cores' rule says
        synapses = bits = np.zeros((), dtype=np.int64)
        for synapse, source, _ in connections(network, index):
            heard = _heard(synapse, network.shape_of(source))
            synapses, bits = synapses + heard, bits + heard * synapse_bits(synapse, on)
        used, taken = int(synapses.max()), int(bits.max())
        if not used:
            continue
        level: Level = "ok"
        message = ""
        allowed = 8 * on.synapse_bytes * used // taken
        if used > allowed:
            level, message = "error", "one neuron's synapses fill a core: pool or split before"
        if on.fan_in is not None and on.fan_in < allowed:
            allowed = on.fan_in
            if used > allowed:
                level, message = "error", "fewer inputs a neuron: pool, group or prune before"
        yield Finding("fan-in", name, level, used, allowed, "synapses a neuron", message)


def graded_input(network: Network, on: Chip) -> Iterator[Finding]:
    """Payloads other than 0 and 1 need graded spikes, or input neurons to take them as current."""
    heard = any(
        INPUT in sources and not isinstance(synapse, Inject)
        for index in range(len(network.layers))
        for synapse, sources in network.synapses(index)
    )
    if network.encoding.binary or not heard:
        return
    first, last = network.encoding.payload
    level: Level = "ok" if on.graded else "error"
    message = (
        ""
        if on.graded
        else f"{on.name} has binary spikes only: use rate, latency or event input, or input neurons"
    )
    used = max(abs(first), abs(last))
    yield Finding("graded input", None, level, used, formats.PAYLOAD_MAX, "payload", message)


def branches(network: Network, on: Chip) -> Iterator[Finding]:
    """Branches, additions and loops are no limit of a chip's; Lava's netx files hold chains."""
    used = sum(
        layer.sources is not None or bool(layer.more) or layer.carry is not None
        for layer in network.layers
    )
    if used:
        message = "not for netx: pumice wires Lava's processes itself (lava_export.wiring)"
        yield Finding("branches", None, "ok", used, used, "layers", message)


def waits(network: Network, on: Chip) -> Iterator[Finding]:
    """Where ways of different lengths meet, the spikes of the shorter wait, by synaptic delays.

    Local time does without: there all spikes of a step meet in that step, and a recurrent synapse
    carries those of the step before. On a chip a layer starts with what comes last, and a loop of
    several layers may take more than the one step that it has (:mod:`loihi.schedule`).
    """
    if network.is_chain:
        return
    try:
        arrivals = schedule.arrivals(network)
    except schedule.ScheduleError as error:
        yield Finding("loop", None, "error", 1, 0, "loops", str(error))
        return
    for index, name in enumerate(network.names):
        longest = 0
        for synapse, source, step in connections(network, index):
            start = 0 if source == INPUT else arrivals[source]
            wait = arrivals[index] - start + step - synapse.latency
            if wait > 0:
                longest = max(longest, wait + schedule.delays(synapse)[1])
        level: Level = "ok" if longest <= on.delay else "error"
        message = "" if level == "ok" else "spikes have to be passed on by neurons in between"
        if longest:
            yield Finding("branch delay", name, level, longest, on.delay, "steps", message)


def worst_case_current(network: Network, on: Chip) -> Iterator[Finding]:
    """The largest u that any input could cause within T steps, against the wrap at 2^23."""
    largest: list[int] = []
    for index, (name, layer) in enumerate(zip(network.names, network.layers, strict=True)):
        if not isinstance(layer.neuron, Neuron):
            largest.append(0)  # has no u of 24 bits, and is in no graph that could carry its input
            continue
        a = 0 if layer.carry is None else largest[layer.carry]
        for synapse, sources in network.synapses(index):
            payload = network.payload_of(sources)
            if isinstance(synapse, Inject):
                a += max(map(abs, payload))
            else:
                a += largest_sum(synapse.weight, payload)
        largest.append(a)
        kept = (formats.DECAY_ONE - layer.neuron.du) / formats.DECAY_ONE
        steps = network.time_steps
        sustained = steps if kept == 1.0 else (1 - kept**steps) / (1 - kept)
        used = math.ceil((a << formats.STATE_SHIFT) * sustained)
        level: Level = "ok" if used <= formats.STATE_MAX else "warning"
        message = "" if level == "ok" else "u could wrap: check on data, or use smaller weights"
        yield Finding("u, worst case", name, level, used, formats.STATE_MAX, "u", message)


RULES: tuple[Callable[[Network, Chip], Iterator[Finding]], ...] = (
    weight_bits,
    neurons,
    thresholds,
    biases,
    delays,
    fan_in,
    branches,
    waits,
    graded_input,
    worst_case_current,
)

# --- rules about the cores ----------------------------------------------------------------------


def memory(part: Partition) -> Iterator[Finding]:
    """Neurons and their synapses, and the cores that they take."""
    broken = {found.layer for found in part.broken if found.resource == "synapses"}
    for index, name in enumerate(part.network.names):
        pieces = part.of(index)
        taken = _cores(len({piece.core for piece in pieces}))
        needed = math.ceil(sum(piece.synapse_bits for piece in pieces) / 8)
        if needed:
            allowed = len(pieces) * part.chip.synapse_bytes
            level: Level = "error" if index in broken else "ok"
            message = "one neuron's synapses fill a core" if index in broken else taken
            yield Finding("synaptic memory", name, level, needed, allowed, "bytes", message)
        used, allowed = sum(piece.neurons for piece in pieces), len(pieces) * part.chip.neurons
        yield Finding("neurons", name, "ok", used, allowed, "neurons", taken)


def axons(part: Partition) -> Iterator[Finding]:
    """Input and output axons: the most that a layer takes of a core."""
    ways = (
        ("input axons", "axons in", part.chip.axons, 2, "pool or split what feeds it"),
        ("output axons", "axons out", part.chip.axons_out, 3, "feed fewer or smaller layers"),
    )
    for rule, resource, allowed, which, advice in ways:
        broken = {found.layer: found.used for found in part.broken if found.resource == resource}
        for index, name in enumerate(part.network.names):
            if allowed is None:
                continue
            most = max(piece.load[which] for piece in part.of(index))
            used = broken.get(index, most)
            if used:
                level: Level = "error" if index in broken else "ok"
                message = f"a core takes no more: {advice}" if index in broken else ""
                yield Finding(rule, name, level, used, allowed, "axons a core", message)


def cores(part: Partition) -> Iterator[Finding]:
    """The cores that the network takes, first fit, against those of the board."""
    on = part.chip
    allowed = on.cores * on.chips
    level: Level = "ok" if part.cores <= allowed else "error"
    message = ""
    if level == "error":
        message = f"needs {part.chips} chips: use fewer or smaller layers, or weights of fewer bits"
        if any(isinstance(synapse, Conv) for _, synapse in _synapses(part.network)):
            message += " (convolutions are counted unrolled)"
    elif part.cores_apart > allowed:
        level = "warning"
        message = f"only where layers share cores: {part.cores_apart} if each has its own"
    elif part.cores_apart > part.cores:
        message = f"{part.cores_apart} if each layer has its own"
    yield Finding("cores", None, level, part.cores, allowed, f"cores of {on.name}", message)


PLACE_RULES: tuple[Callable[[Partition], Iterator[Finding]], ...] = (memory, axons, cores)

# --- rules about data ---------------------------------------------------------------------------


def seen_current(network: Network, activity: list[Activity]) -> Iterator[Finding]:
    """The largest u that these samples caused. Past 2^23 it wrapped, and its sign with it."""
    for name, found in _lif(network, activity):
        level: Level = "ok" if found.peak_u <= formats.STATE_MAX else "error"
        message = "" if level == "ok" else "u wrapped: use smaller weights or payloads"
        yield Finding("u, on data", name, level, found.peak_u, formats.STATE_MAX, "u", message)


def seen_membrane(network: Network, activity: list[Activity]) -> Iterator[Finding]:
    """The largest v that these samples caused. From 2^23 it is clipped."""
    for name, found in _lif(network, activity):
        level: Level = "ok" if found.peak_v < formats.STATE_MAX else "warning"
        message = "" if level == "ok" else "v was clipped: use smaller weights or more leak"
        yield Finding("v, on data", name, level, found.peak_v, formats.STATE_MAX - 1, "v", message)


def activity_range(network: Network, activity: list[Activity]) -> Iterator[Finding]:
    """A layer that is silent passes nothing on; one that always spikes, no more than a bias."""
    for name, layer, found in zip(network.names, network.layers, activity, strict=True):
        if layer.neuron.vth is None or layer.neuron.graded:
            continue
        level: Level = "ok"
        message = f"rate {found.rate:.3f} spikes per neuron and step"
        if found.silent == 1.0:
            level, message = "error", "the layer never spikes: lower its threshold"
        elif found.silent > 0.9:
            level, message = "warning", "most of its neurons never spike: lower the threshold"
        yield Finding("silent neurons", name, level, found.silent, 1.0, "fraction", message)
        level, message = "ok", ""
        if found.saturated == 1.0:
            level, message = "error", "every neuron spikes at every step: raise the threshold"
        elif found.saturated > 0.9:
            level, message = "warning", "most of its neurons always spike: raise the threshold"
        yield Finding("saturated neurons", name, level, found.saturated, 1.0, "fraction", message)


DATA_RULES: tuple[Callable[[Network, list[Activity]], Iterator[Finding]], ...] = (
    seen_current,
    seen_membrane,
    activity_range,
)


def _cores(count: int) -> str:
    return f"{count} core{'' if count == 1 else 's'}"


def _lif(network: Network, activity: list[Activity]) -> Iterator[tuple[str, Activity]]:
    """What layers of LIF neurons did: the others' states have other registers."""
    for name, layer, found in zip(network.names, network.layers, activity, strict=True):
        if isinstance(layer.neuron, Neuron):
            yield name, found


def _synapses(network: Network) -> Iterator[tuple[str, Dense | Conv | ComplexDense]]:
    """All synapses with a name: the layer's, if it is its only one."""
    for index, name in enumerate(network.names):
        synapses = network.synapses(index)
        for (synapse, _), words in zip(synapses, network.describe(index), strict=True):
            if not isinstance(synapse, Inject):
                yield name if len(synapses) == 1 else f"{index} {words}", synapse


def _heard(synapse: Dense | Conv | ComplexDense, shape: Shape) -> NDArray[np.int64]:
    """Synapses of each neuron: one number, or ``[H, W]`` as fewer taps lie within the image."""
    if not isinstance(synapse, Conv):
        return np.array(math.prod(shape))
    rows, columns = (axis.fan_in() for axis in axes(synapse, shape))
    return synapse.weight.shape[1] * rows[:, None] * columns
