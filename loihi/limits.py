"""Design rules: does this network fit a chip, and will its numbers behave there?

Each rule is a small function that yields findings: what is used, what is allowed, in which layer,
and what to do about it. Rules about data (overflow as it really happens, silent layers) need some
samples; the others do not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from loihi import formats
from loihi.engine import Activity, Engine, largest_sum
from loihi.errors import PumiceError
from loihi.network import INPUT, Conv, Dense, Inject, Network

Level = Literal["ok", "warning", "error"]


@dataclass(frozen=True)
class Chip:
    """What a chip offers. Loihi 2's figures are not from a primary source: check yours, and
    override them with :func:`chip`.

    cores: usable neuro-cores a chip. neurons: a core. synapse_bytes: synaptic memory a core.
    axons: input axons a core, None where not known. weight_bits: the sizes a weight may have.
    delay: longest synaptic delay in steps. graded: whether spikes can carry a payload.
    sources: where each figure comes from.
    """

    name: str
    cores: int
    neurons: int
    synapse_bytes: int
    axons: int | None
    weight_bits: tuple[int, ...]
    delay: int
    graded: bool
    sources: dict[str, str] = field(default_factory=dict)


_LAVA = "lava-nc 0.10.0"
_NENGO = "nengo-loihi"
CHIPS = {
    "loihi1": Chip(
        name="loihi1",
        cores=128,
        neurons=1024,
        synapse_bytes=128 * 1024,
        axons=4096,
        weight_bits=(1, 2, 3, 4, 5, 6, 8),
        delay=62,
        graded=False,
        sources={
            "cores": _LAVA,
            "neurons": _NENGO,
            "synapse_bytes": _NENGO,
            "axons": _NENGO,
            "weight_bits": _NENGO,
            "delay": "netx (lava-dl 0.6.0)",
            "graded": "graded spikes came with Loihi 2",
        },
    ),
    "loihi2": Chip(
        name="loihi2",
        cores=120,
        neurons=8192,
        synapse_bytes=192 * 1024,
        axons=None,
        weight_bits=tuple(range(1, 9)),
        delay=62,
        graded=True,
        sources={
            "cores": _LAVA,
            "neurons": "third-party text, not Intel's",
            "synapse_bytes": "third-party text, not Intel's",
            "weight_bits": _LAVA,
            "delay": "netx (lava-dl 0.6.0)",
            "graded": _LAVA,
        },
    ),
}


def chip(name: str, **figures: int) -> Chip:
    """A known chip by name (``loihi1``, ``loihi2``), with figures of your own in place of ours."""
    if name not in CHIPS:
        raise PumiceError(f"chip {name!r} is unknown: use one of {', '.join(CHIPS)}")
    known = {f.name for f in fields(Chip) if f.type in ("int", "int | None")}
    for key, value in figures.items():
        if key not in known:
            raise PumiceError(
                f"a chip has no figure {key!r}: use one of {', '.join(sorted(known))}"
            )
        if value < 1:
            raise PumiceError(f"chip figure {key} is {value}: it must be at least 1")
    base = CHIPS[name]
    changes: dict[str, Any] = {**figures}
    return replace(base, sources=base.sources | dict.fromkeys(figures, "given by you"), **changes)


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
    """All findings. ``ok``: no errors (warnings may remain)."""

    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether no rule is broken."""
        return all(f.level != "error" for f in self.findings)

    def as_dicts(self) -> list[dict[str, Any]]:
        """The findings, ready for JSON."""
        return [asdict(f) for f in self.findings]


def check(network: Network, on: Chip, x: NDArray[Any] | None = None) -> Report:
    """Hold ``network`` against a chip; given payloads ``x [T, N, *input_shape]``, on data too."""
    activity = None if x is None else Engine(network).activity(x)
    findings = [finding for rule in RULES for finding in rule(network, on)]
    if activity is not None:
        findings += [finding for rule in DATA_RULES for finding in rule(network, activity)]
    return Report(tuple(findings))


# --- rules about the network --------------------------------------------------------------------


def weight_bits(network: Network, on: Chip) -> Iterator[Finding]:
    """Weights fit the sizes that the chip's synapses come in."""
    for name, synapse in _synapses(network):
        found = formats.weight_format(synapse.weight)
        stored = min((b for b in on.weight_bits if b >= found.bits), default=None)
        note = f"{found.sign_mode}, exponent {found.exponent}"
        if stored is None:
            message = f"{note}: no synapse of {on.name} holds {found.bits} bits; use fewer levels"
        else:
            message = note if stored == found.bits else f"{note}; stored in {stored} bits"
        level: Level = "error" if stored is None else "ok"
        yield Finding("weight bits", name, level, found.bits, max(on.weight_bits), "bits", message)


def thresholds(network: Network, on: Chip) -> Iterator[Finding]:
    """Thresholds are 17-bit mantissas; a layer at 0 spikes from the smallest input."""
    for name, layer in zip(network.names, network.layers, strict=True):
        vth = layer.neuron.vth
        if vth is None:
            continue
        level: Level = "warning" if vth == 0 else "ok"
        message = "every positive membrane spikes: raise the threshold" if vth == 0 else ""
        yield Finding("threshold", name, level, vth, formats.VTH_MAX, "mantissa", message)


def biases(network: Network, on: Chip) -> Iterator[Finding]:
    """A bias has 13 signed bits and an exponent of at most 7."""
    for name, layer in zip(network.names, network.layers, strict=True):
        if layer.neuron.has_bias:
            used = int(np.abs(np.asarray(layer.neuron.bias)).max())
            message = f"mantissa, exponent {layer.neuron.bias_exp}"
            yield Finding("bias", name, "ok", used, formats.BIAS_MAX, "mantissa", message)


def delays(network: Network, on: Chip) -> Iterator[Finding]:
    """Delays fit the chip."""
    for name, synapse in _synapses(network):
        if isinstance(synapse, Dense) and synapse.delay is not None:
            used = int(synapse.delay.max())
            level: Level = "ok" if used <= on.delay else "error"
            message = f"{used.bit_length()} bits" + ("" if level == "ok" else ": shorten the delay")
            yield Finding("delay", name, level, used, on.delay, "steps", message)


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
    """Nothing takes a network that is no chain to a chip yet: netx files hold chains."""
    used = sum(
        layer.sources is not None or bool(layer.more) or layer.carry is not None
        for layer in network.layers
    )
    if used:
        message = (
            "Lava's netx holds chains only: simulate with --engine fast or reference; a chip needs "
            "these layers wired by hand"
        )
        yield Finding("branches", None, "warning", used, 0, "layers", message)


def waits(network: Network, on: Chip) -> Iterator[Finding]:
    """Where ways of different lengths meet, the spikes of the shorter wait, by synaptic delays.

    Local time does without: there all spikes of a step meet in that step, and a recurrent synapse
    carries those of the step before. On a chip each synapse takes a step, so that a layer starts
    with what comes last (:attr:`loihi.network.Network.arrivals`). A loop of several layers takes
    more than the one step that it has in local time: no delay makes up for that.
    """
    if network.is_chain:
        return
    for index, name in enumerate(network.names):
        shortest, longest = 0, 0
        for synapse, source, step in _connections(network, index):
            own = synapse.delay if isinstance(synapse, Dense) else None
            start = 0 if source == INPUT else network.arrivals[source]
            wait = network.arrivals[index] - start + step - synapse.latency
            shortest = min(shortest, wait + (0 if own is None else int(own.min())))
            if wait > 0:
                longest = max(longest, wait + (0 if own is None else int(own.max())))
        level: Level = "ok" if longest <= on.delay else "error"
        message = "" if level == "ok" else "spikes have to be passed on by neurons in between"
        if longest:
            yield Finding("branch delay", name, level, longest, on.delay, "steps", message)
        if shortest < 0:
            message = "a loop over several layers takes a step each on a chip: feed layers back to "
            message += "themselves, or give the loop delays"
            yield Finding("loop", name, "error", 1 - shortest, 1, "steps", message)


def worst_case_current(network: Network, on: Chip) -> Iterator[Finding]:
    """The largest u that any input could cause within T steps, against the wrap at 2^23."""
    largest: list[int] = []
    for index, (name, layer) in enumerate(zip(network.names, network.layers, strict=True)):
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


def cores(network: Network, on: Chip) -> Iterator[Finding]:
    """Neurons and synaptic memory, spread over cores: how many the network takes.

    Synapses and axons are counted once for each of the sources that a synapse adds up, and again
    where a layer carries another's input: the spikes come from different neurons, at different
    steps.
    """
    total = 0
    weight_bits: dict[int, int] = {}
    for index, (name, shape) in enumerate(zip(network.names, network.shapes, strict=True)):
        neurons = int(np.prod(shape))
        by_neurons = math.ceil(neurons / on.neurons)
        needed = one_neuron = axons = 0
        connections = list(_connections(network, index))
        for synapse, source, _ in connections:
            bits = weight_bits.get(id(synapse)) or formats.weight_format(synapse.weight).bits
            weight_bits[id(synapse)] = bits
            # A convolution is counted unrolled, one copy of its kernel a neuron: an upper bound
            # (Loihi 2 can share kernels; no public source says at what cost).
            fan_in = int(np.prod(synapse.weight.shape[1:]))
            needed += math.ceil(neurons * fan_in * bits / 8)
            one_neuron += math.ceil(fan_in * bits / 8)
            axons += int(np.prod(network.shape_of(source))) if isinstance(synapse, Dense) else 0
        by_memory = math.ceil(needed / on.synapse_bytes)
        level: Level = "ok" if one_neuron <= on.synapse_bytes else "error"
        message = _cores(by_memory) if level == "ok" else "one neuron's synapses fill a core"
        if connections:
            allowed = by_memory * on.synapse_bytes
            yield Finding("synaptic memory", name, level, needed, allowed, "bytes", message)
        if on.axons is not None and axons:
            level = "ok" if axons <= on.axons else "error"
            message = "" if level == "ok" else "a core takes no more inputs: pool or split before"
            yield Finding("input axons", name, level, axons, on.axons, "axons a core", message)
        taken = max(by_neurons, by_memory)
        total += taken
        yield Finding(
            "neurons", name, "ok", neurons, by_neurons * on.neurons, "neurons", _cores(taken)
        )
    level = "ok" if total <= on.cores else "error"
    message = "" if level == "ok" else f"needs {math.ceil(total / on.cores)} chips"
    yield Finding("cores", None, level, total, on.cores, f"cores of {on.name}", message)


RULES: tuple[Callable[[Network, Chip], Iterator[Finding]], ...] = (
    weight_bits,
    thresholds,
    biases,
    delays,
    branches,
    waits,
    graded_input,
    worst_case_current,
    cores,
)

# --- rules about data ---------------------------------------------------------------------------


def seen_current(network: Network, activity: list[Activity]) -> Iterator[Finding]:
    """The largest u that these samples caused. Past 2^23 it wrapped, and its sign with it."""
    for name, found in zip(network.names, activity, strict=True):
        level: Level = "ok" if found.peak_u <= formats.STATE_MAX else "error"
        message = "" if level == "ok" else "u wrapped: use smaller weights or payloads"
        yield Finding("u, on data", name, level, found.peak_u, formats.STATE_MAX, "u", message)


def seen_membrane(network: Network, activity: list[Activity]) -> Iterator[Finding]:
    """The largest v that these samples caused. From 2^23 it is clipped."""
    for name, found in zip(network.names, activity, strict=True):
        level: Level = "ok" if found.peak_v < formats.STATE_MAX else "warning"
        message = "" if level == "ok" else "v was clipped: use smaller weights or more leak"
        yield Finding("v, on data", name, level, found.peak_v, formats.STATE_MAX - 1, "v", message)


def activity_range(network: Network, activity: list[Activity]) -> Iterator[Finding]:
    """A layer that is silent passes nothing on; one that always spikes, no more than a bias."""
    for name, layer, found in zip(network.names, network.layers, activity, strict=True):
        if layer.neuron.vth is None:
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


def _synapses(network: Network) -> Iterator[tuple[str, Dense | Conv]]:
    """All synapses with a name: the layer's, if it is its only one."""
    for index, name in enumerate(network.names):
        synapses = network.synapses(index)
        for (synapse, _), words in zip(synapses, network.describe(index), strict=True):
            if not isinstance(synapse, Inject):
                yield name if len(synapses) == 1 else f"{index} {words}", synapse


def _connections(network: Network, index: int) -> Iterator[tuple[Dense | Conv, int, int]]:
    """What a layer needs on a chip: (synapse, source, steps that it is late in local time).

    A synapse is there once for each of its sources, those of carried layers included.
    """
    by: int | None = index
    while by is not None:
        for synapse, sources in network.synapses(by):
            if not isinstance(synapse, Inject):
                yield from ((synapse, source, int(source >= by)) for source in sources)
        by = network.layers[by].carry
