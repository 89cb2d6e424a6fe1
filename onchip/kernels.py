"""The learning engine's compiled step: what Lava's processes of all blocks do in one time step, and
in the learning phase after it. Integers in, integers out; no Python between two steps.

Learned matrices lie so that the loop inside is the long one: the hidden synapses input first, where
a spike adds a row, the classifiers' class first. What a synapse learns depends on the product of
its trace and its third factor alone, so one function does both (:func:`_round_together`).

The explicit ``np.int32`` keep numba from widening to 64 bits, which would halve the vector width.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba as nb
import numpy as np

# numba types the arrays at the call; dtypes spelled here would be a second, unchecked, opinion.
Array = Any

# Of a cached function numba does not notice that one of another file, called by it, has changed:
# so all that is compiled together is here.
_jit = nb.njit(nogil=True, cache=True, error_model="numpy")

TRACE_MAX = 127
PRODUCT_SHIFT = 3
"""Lava keeps 15 bits of a product of two traces of 7 bits and a mantissa of 4."""
FRACTION = 7
"""Bits of the accumulator that a weight does not keep."""


class Synapses(NamedTuple):
    """Learning synapses, or with ``learns`` False fixed ones.

    weight: mantissas, ``[in, out]`` of a hidden layer, ``[out, in]`` of a classifier. exponent: of
    all. x1, tx: the inputs' traces, and the step of the epoch in which each last spiked (0: none).
    y: the third factor as it last came, y1 − y2. base, fraction: of each trace value what a step
    leaves of it. fading: the same fraction of a third factor. half: what the trace takes of each
    graded payload. rate: left shift of the products. number: for its own random numbers.
    """

    weight: Array
    exponent: int
    x1: Array
    tx: Array
    y: Array
    base: Array
    fraction: Array
    fading: Array
    half: Array
    impulse: int
    graded: bool
    rate: int
    learns: bool
    number: int


NOWHERE, MIRROR = -1, -2
"""In place of a classifier's number: no error comes, or that of the stage above through its own
weights; MIRROR − 1 through ``back``."""


class Cells(NamedTuple):
    """Hidden neurons. a, third: what is on its way to them: input, and error through ``back``
    ``[above, size]``. above: the classifier from which it comes, or one of the words above."""

    u: Array
    v: Array
    a: Array
    third: Array
    spikes: Array
    bias: Array
    back: Array
    above: int
    du: int
    dv: int
    threshold: int
    window: int
    error_shift: int
    arrival: int


class Stage(NamedTuple):
    """A hidden layer."""

    synapses: Synapses
    cells: Cells


class Reader(NamedTuple):
    """LocalError. r: the readout. a: what is on its way to it. e: the error sent last. steps: with
    an error, of each sample's; 0: all."""

    r: Array
    a: Array
    e: Array
    amplitude: int
    leak: int
    shift: int
    halvings: int
    arrival: int
    steps: int


class Head(NamedTuple):
    """A classifier. source: the stage that it reads, −1 the messages."""

    synapses: Synapses
    reader: Reader
    source: int


class Clock(NamedTuple):
    """step: the step before the first of this call, from 0. time_steps: of a sample. interval: from
    one to the next. epoch: steps between two learning phases."""

    step: int
    time_steps: int
    interval: int
    epoch: int


class Draws(NamedTuple):
    """Random numbers. key: 0, and for each step from this call's first those of Lava's: weight
    (0..127, what is added before the fraction is cut), x and y; or a number to hash them from."""

    key: int
    weight: Array
    x: Array
    y: Array


class Seen(NamedTuple):
    """Of a stage or a classifier for each step, if wanted (else empty)."""

    weight: Array
    x1: Array
    y: Array
    spikes: Array


@_jit
def run(
    messages: Array,
    labels: Array,
    ranks: Array,
    stages: Any,
    heads: Any,
    clock: Clock,
    draws: Draws,
    seen_stages: Any,
    seen_heads: Any,
) -> None:
    """Steps, one for each row of ``messages`` ``[steps, in]``, which come out of what is in front.

    labels: of all samples, those before and after this call too; ranks: ``[samples, T]``, or empty.
    stages: a Stage for each hidden layer from the first that learns, or None where the readout
    alone learns and everything before it is in front. heads: the classifiers.
    """
    record = len(seen_heads[0].y) > 0
    for k in range(len(messages)):
        t = clock.step + k + 1
        within = (t - 1) % clock.epoch + 1
        learning = within == clock.epoch
        # The neurons, with what the synapses sent at the step before.
        if stages is not None:
            for s in range(len(stages)):
                cells = stages[s].cells
                if (t - 1 - cells.arrival) % clock.interval == 0:
                    cells.u[:] = 0
                    cells.v[:] = 0
                _fire(cells, stages[s].synapses.y)
        for h in range(len(heads)):
            _compare(labels, ranks, heads[h].reader, clock, t, heads[h].synapses.y)
        # The synapses, with what the neurons send now; and their traces.
        if stages is not None:
            for s in range(len(stages)):
                synapses, cells = stages[s].synapses, stages[s].cells
                message = messages[k] if s == 0 else stages[s - 1].cells.spikes
                _transmit(message, synapses, cells.a)
                _remember(message, synapses, within)
                if cells.above >= 0:
                    _feed_back(heads[cells.above].reader.e, cells)
                elif cells.above == MIRROR:
                    _mirror(stages[s + 1].synapses, cells.third)
                elif cells.above < MIRROR:
                    _feed_back(stages[s + 1].synapses.y, cells)
        for h in range(len(heads)):
            synapses, reader, source = heads[h].synapses, heads[h].reader, heads[h].source
            message = messages[k]
            if stages is not None and source >= 0:
                message = stages[source].cells.spikes
            _read(message, synapses, reader.a)
            _remember(message, synapses, within)
        if record:  # as they came: the learning phase lets them fade
            if stages is not None:
                for s in range(len(stages)):
                    seen_stages[s].y[k] = stages[s].synapses.y
                    seen_stages[s].spikes[k] = stages[s].cells.spikes
            for h in range(len(heads)):
                seen_heads[h].y[k] = heads[h].synapses.y
        if learning:
            if stages is not None:
                for s in range(len(stages)):
                    synapses = stages[s].synapses
                    _learn(synapses, synapses.x1, synapses.y, clock, draws, k, t)
            for h in range(len(heads)):
                synapses = heads[h].synapses
                _learn(synapses, synapses.y, synapses.x1, clock, draws, k, t)
        if record:
            if stages is not None:
                for s in range(len(stages)):
                    seen_stages[s].weight[k] = stages[s].synapses.weight
                    seen_stages[s].x1[k] = stages[s].synapses.x1
            for h in range(len(heads)):
                seen_heads[h].weight[k] = heads[h].synapses.weight
                seen_heads[h].x1[k] = heads[h].synapses.x1


# --- neurons ------------------------------------------------------------------------------------


@_jit
def _decay(x: Any, keep: Any) -> Any:
    """x · keep / 4096 towards zero, split at 12 bits so that no product leaves 32 bits."""
    magnitude = np.int32(abs(x))
    high, low = np.int32(magnitude >> 12), np.int32(magnitude & 4095)
    kept = np.int32(np.int32(high * keep) + np.int32(np.int32(low * keep) >> 12))
    return kept if x >= 0 else np.int32(-kept)


@_jit
def _fire(cells: Cells, y: Array) -> None:
    """The step of :func:`loihi.reference.step_neuron`, and the third factor of BlockLIF."""
    keep_u, keep_v = np.int32(4096 - cells.du), np.int32(4096 - cells.dv)
    half, turn, vth = np.int32(2**23), np.int32(2**24), np.int32(cells.threshold)
    window, bits, most = np.int32(cells.window), np.int32(cells.error_shift), np.int32(TRACE_MAX)
    u, v, a, third, spikes, bias = (
        cells.u,
        cells.v,
        cells.a,
        cells.third,
        cells.spikes,
        cells.bias,
    )
    for j in range(len(u)):
        current = np.int32(_decay(u[j], keep_u) + np.int32(a[j] << 6))
        if current > half:
            current = np.int32(current - turn)
        elif current <= -half:
            current = np.int32(current + turn)
        u[j] = current
        voltage = np.int32(np.int32(_decay(v[j], keep_v) + current) + bias[j])
        voltage = max(min(voltage, np.int32(half - 1)), np.int32(1 - half))
        spike = voltage > vth
        v[j] = np.int32(0) if spike else voltage
        spikes[j] = spike
        g = np.int32(np.int32(abs(third[j])) >> bits)
        g = min(g, most) if np.int32(abs(np.int32(voltage - vth))) < window else np.int32(0)
        y[j] = g if third[j] >= 0 else -g


@_jit
def _compare(labels: Array, ranks: Array, reader: Reader, clock: Clock, t: int, y: Array) -> None:
    """LocalError: reads out, compares with the label. The error is the readout's third factor."""
    since = t - 1 - reader.arrival
    sample, step = since // clock.interval, since % clock.interval
    r, e = reader.r, reader.e
    if step == 0:
        r[:] = 0
    for c in range(len(r)):
        kept = abs(r[c]) * (4096 - reader.leak) >> 12
        r[c] = (kept if r[c] >= 0 else -kept) + reader.a[c]
    e[:] = 0
    open_ = 0 <= sample < len(labels) and step < clock.time_steps
    if open_ and reader.steps:
        open_ = ranks[sample, step] < reader.steps
    if open_:
        left, halved = len(labels) - sample, 0
        for i in range(1, reader.halvings + 1):
            halved += (left << i) <= len(labels)
        for c in range(len(r)):
            error = -max(min(r[c] >> reader.shift, TRACE_MAX), -TRACE_MAX)
            if c == labels[sample]:
                error += reader.amplitude
            error = max(min(error, TRACE_MAX), -TRACE_MAX)
            e[c] = (abs(error) >> halved) * (1 if error >= 0 else -1)
    y[:] = e


# --- synapses -----------------------------------------------------------------------------------


@_jit
def _transmit(message: Array, synapses: Synapses, a: Array) -> None:
    """A message through weights ``[in, out]``: what it adds to the neurons' input."""
    weight = synapses.weight
    a[:] = 0
    if synapses.graded:
        for i in range(len(message)):
            if message[i] != 0:
                payload, row = np.int32(message[i]), weight[i]
                for j in range(len(a)):
                    a[j] += np.int32(payload * np.int32(row[j]))
    else:
        before = -1  # rows two by two: one load and one store of a for two additions
        for i in range(len(message)):
            if message[i] == 0:
                continue
            if before < 0:
                before = i
                continue
            row, other = weight[before], weight[i]
            for j in range(len(a)):
                a[j] += np.int32(np.int32(row[j]) + np.int32(other[j]))
            before = -1
        if before >= 0:
            row = weight[before]
            for j in range(len(a)):
                a[j] += np.int32(row[j])
    if synapses.exponent:
        for j in range(len(a)):
            a[j] = np.int32(a[j] << synapses.exponent)


@_jit
def _read(message: Array, synapses: Synapses, a: Array) -> None:
    """A message through a classifier."""
    for c in range(len(a)):
        row, total = synapses.weight[c], np.int32(0)
        for i in range(len(message)):
            total = np.int32(total + np.int32(np.int32(row[i]) * np.int32(message[i])))
        a[c] = np.int32(total << synapses.exponent)


@_jit
def _feed_back(e: Array, cells: Cells) -> None:
    """The error through the feedback weights."""
    third = cells.third
    third[:] = 0
    for c in range(len(e)):
        if e[c] != 0:
            error, row = np.int32(e[c]), cells.back[c]
            for j in range(len(third)):
                third[j] += np.int32(error * np.int32(row[j]))


@_jit
def _mirror(above: Synapses, third: Array) -> None:
    """The third factor of the stage above, back through its own mantissas ``[in, out]``."""
    weight, y = above.weight, above.y
    for i in range(len(third)):
        row, total = weight[i], np.int32(0)
        for j in range(len(y)):
            total = np.int32(total + np.int32(np.int32(row[j]) * np.int32(y[j])))
        third[i] = total


@_jit
def _remember(message: Array, synapses: Synapses, within: int) -> None:
    """The spikes of a step. Of several in an epoch Lava adds all but the last at once."""
    if not synapses.learns:
        return
    x1, tx = synapses.x1, synapses.tx
    for i in range(len(message)):
        if message[i] != 0:
            if synapses.graded:
                x1[i] = synapses.half[message[i]]
            elif tx[i] > 0:
                x1[i] = min(x1[i] + synapses.impulse, TRACE_MAX)
            tx[i] = within


@_jit
def _learn(
    synapses: Synapses,
    outer: Array,
    inner: Array,
    clock: Clock,
    draws: Draws,
    k: int,
    t: int,
) -> None:
    """The learning phase: traces fade over the epoch, weights move by their products.

    outer, inner: the trace and the factor, in the order of the weights' axes.
    """
    if not synapses.learns:
        return
    key = np.uint32(0)
    if draws.key:
        step = _hash(np.uint32(np.uint32(draws.key) ^ np.uint32(t)))
        key = _hash(np.uint32(step + np.uint32(synapses.number)))
        draw_x, draw_y = 0.0, 0.0
    else:
        draw_x, draw_y = draws.x[k], draws.y[k]
    x1, tx = synapses.x1, synapses.tx
    for i in range(len(x1)):
        value, last = int(x1[i]), int(tx[i])
        if value == 0 and last == 0:
            continue
        chance = draw_x
        if draws.key:
            chance = _hash(np.uint32(np.uint32(~key) + np.uint32(i))) * 2.0**-32
        for step in range(1, clock.epoch + 1):
            value = synapses.base[value] + (chance < synapses.fraction[value])
            if step == last:
                value = min(value + synapses.impulse, TRACE_MAX)
        x1[i] = value
        tx[i] = 0
    y = synapses.y
    if draw_y >= synapses.fading[TRACE_MAX]:  # Lava's third factors fade too, hardly ever
        for j in range(len(y)):
            size = abs(y[j])
            for _ in range(clock.epoch):
                if size > 0 and draw_y >= synapses.fading[size]:
                    size -= 1
            y[j] = size if y[j] >= 0 else -size
    if draws.key:
        _round_each(synapses.weight, outer, inner, synapses.rate, key)
    else:
        _round_together(synapses.weight, outer, inner, synapses.rate, draws.weight[k])


@_jit
def _round_together(weight: Array, outer: Array, inner: Array, rate: int, draw: int) -> None:
    """``w += outer · inner / 2^(10 − rate)``, with one random number for all synapses.

    A weight is a multiple of 2^7 in the accumulator, so the draw meets the products alone. That
    Lava saturates these at 2^15 does not show: the weights saturate at 2^7 steps earlier.
    """
    shift, low, high = np.int32(rate), np.int32(0), np.int32(0)
    r = np.int32(draw)
    for j in range(len(inner)):
        value = np.int32(inner[j])
        low, high = min(low, value), max(high, value)
    for i in range(len(outer)):
        factor = np.int32(outer[i])
        if factor == 0:
            continue
        least = np.int32(np.int32(np.int32(factor * low) >> PRODUCT_SHIFT) << shift)
        most = np.int32(np.int32(np.int32(factor * high) >> PRODUCT_SHIFT) << shift)
        if np.int32(least + r) >> FRACTION == 0 and np.int32(most + r) >> FRACTION == 0:
            continue  # as most often: too small for this draw
        row = weight[i]
        for j in range(len(inner)):
            product = np.int32(np.int32(factor * np.int32(inner[j])) >> PRODUCT_SHIFT)
            moved = np.int32(np.int32(np.int32(product << shift) + r) >> FRACTION)
            row[j] = max(min(np.int32(row[j] + moved), np.int32(127)), np.int32(-128))


@_jit
def _round_each(weight: Array, outer: Array, inner: Array, rate: int, key: int) -> None:
    """The same, with a random number for each synapse."""
    shift = np.int32(rate)
    for i in range(len(outer)):
        factor = np.int32(outer[i])
        if factor == 0:
            continue
        row, mine = weight[i], _hash(np.uint32(key + np.uint32(i)))
        for j in range(len(inner)):
            r = np.int32(_hash(np.uint32(mine + np.uint32(j))) >> np.uint32(32 - FRACTION))
            product = np.int32(np.int32(factor * np.int32(inner[j])) >> PRODUCT_SHIFT)
            moved = np.int32(np.int32(np.int32(product << shift) + r) >> FRACTION)
            row[j] = max(min(np.int32(row[j] + moved), np.int32(127)), np.int32(-128))


@_jit
def _hash(x: Any) -> Any:
    """32 bits well mixed: a number for each place and time, without a state to carry along."""
    h = np.uint32(x)
    h = np.uint32(np.uint32(h ^ np.uint32(h >> np.uint32(16))) * np.uint32(0x7FEB352D))
    h = np.uint32(np.uint32(h ^ np.uint32(h >> np.uint32(15))) * np.uint32(0x846CA68B))
    return np.uint32(h ^ np.uint32(h >> np.uint32(16)))
