"""The compiled steps of plastic synapses under any rule: what Lava's LearningDense does in a time
step and in a learning phase, number for number. Integers in, integers out.

A product is a scalar of the input times a vector of the neurons, unless it has w, d or t, or a
trace of the input at the neurons' spikes (y0, in epochs of more than a step). So a row of synapses,
those of one input, is skipped where the scalars are 0, or where the product's extremes over all
neurons, with this phase's random number, move no weight; and a row moves as one where only y0 acts.

All that is compiled together is in this file: of a cached function numba does not notice that one
of another file, called by it, has changed. The explicit ``np.int32`` keep it from widening to 64
bits.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba as nb
import numpy as np

Array = Any
_jit = nb.njit(nogil=True, cache=True, error_model="numpy")

X0, Y0, U = 0, 1, 2
"""When a product acts."""
F_X0, F_Y0, F_X, F_Y, F_W, F_D, F_T = range(7)
"""What a factor is of."""
WEIGHT, DELAY, TAG = 0, 1, 2
"""What a product changes."""
OFFSET = 128
"""Where 0 stands in the tables of decay."""
REGULAR, OVERWRITE, ADD, ADD_OVERFLOW = range(4)
"""What the first trace takes of graded input."""
BARE = 8
"""A row in which y0 alone acts, and the same for all neurons that spiked."""
STILL, WHOLE, SMALL, WIDE = range(4)
"""What :func:`_step` has to do in a row: nothing; the same for all neurons that spiked; sums of 16
bits; of more, or of products of which bits are cut."""
LIMIT_LOW, LIMIT_HIGH = -(2**15) - 1, 2**15 - 1
"""Where Lava cuts products and sums of them; one below what 16 bits hold is its own."""


class Program(NamedTuple):
    """A rule. products: rows of target, when, mantissa, bits cut, bits shifted left, first factor,
    factor after the last, 1 if of w, d or t, 1 if of the input, 1 if of neurons, which trace of the
    input and of the neurons (−1: none). brief: whether :func:`_step` can do it.
    factors: rows of kind, which trace, constant, 1 if its sign, least, largest.
    targets: the first product of each target, and the one after the last.
    base, fraction: ``[5, values]`` what a step leaves of each trace. tau, impulse, odd: of each
    trace: 1 if it fades, its impulse, and 256 times the fraction of that. alive: 1 if it is kept.
    every: 2^k of u_k, or 0."""

    products: Array
    factors: Array
    targets: Array
    base: Array
    fraction: Array
    tau: Array
    impulse: Array
    odd: Array
    alive: Array
    every: int
    epoch: int
    sent: bool
    graded: int
    exponent: int
    brief: bool


class State(NamedTuple):
    """weight, delay, tag: ``[in, out]`` (``[0, 0]`` where the rule has none). x, y: traces, ``[2,
    in]`` and ``[3, out]``. tx, ty: the step of the epoch of each last spike, 0: none. a: what was
    sent through the weights in the last step. deep: 1 where a row has a tag of −257, which Lava
    does not leave alone."""

    weight: Array
    delay: Array
    tag: Array
    x: Array
    y: Array
    tx: Array
    ty: Array
    a: Array
    deep: Array


class Work(NamedTuple):
    """Room for a learning phase. xh, yh: traces at each step of the epoch. acts: whether a product
    does. post, low, high: of each product and step the neurons' part, and its extremes. scalar: the
    inputs' part. reach, todo: see :func:`_select`. sums, term: a row's. columns: which neurons
    spiked. rows: some of the inputs. mask, parts, table, now_y: of
    :func:`_step`."""

    xh: Array
    yh: Array
    acts: Array
    post: Array
    low: Array
    high: Array
    scalar: Array
    reach: Array
    todo: Array
    sums: Array
    term: Array
    columns: Array
    mask: Array
    parts: Array
    rows: Array
    table: Array
    now_y: Array


class Draws(NamedTuple):
    """Random numbers of each step. key: 0, and Lava's: weight (0..127), x, y (of decays), dice_x,
    dice_y (of impulses), before_y (of impulses in the spiking phase); or a number to hash from."""

    key: int
    weight: Array
    x: Array
    y: Array
    dice_x: Array
    dice_y: Array
    before_y: Array


class Seen(NamedTuple):
    """What to keep of each step: empty, or arrays with a row a step."""

    weight: Array
    delay: Array
    tag: Array
    x: Array
    y: Array
    a: Array
    spikes: Array


class Layer(NamedTuple):
    """Leaky integrate-and-fire neurons behind the synapses, and what judges them.

    trace: y1 as they send it; keep, jump: its decay in 4096ths and its impulse. readout: weights
    ``[classes, out]``, or ``[0, 0]`` where the spikes themselves count; r: what it reads, coming:
    what is on its way to it. back: ``[classes, out]`` how the reward of a decision comes back.
    pending: for how many steps more a reward is sent, that sent now, the one to send, the one
    expected, in 256ths, and the decision. rewarded: 1 by classes, 2 as given, 0 not. judged:
    the step before the readout's first."""

    u: Array
    v: Array
    trace: Array
    bias: Array
    spikes: Array
    readout: Array
    back: Array
    r: Array
    coming: Array
    pending: Array
    du: int
    dv: int
    threshold: int
    keep: int
    jump: int
    rewarded: int
    reward: int
    baseline: int
    time_steps: int
    interval: int
    arrival: int
    judged: int


NO_NEURONS = Layer(
    u=np.zeros(0, dtype=np.int32),
    v=np.zeros(0, dtype=np.int32),
    trace=np.zeros(0, dtype=np.int16),
    bias=np.zeros(0, dtype=np.int32),
    spikes=np.zeros(0, dtype=np.uint8),
    readout=np.zeros((0, 0), dtype=np.int32),
    back=np.zeros((0, 0), dtype=np.int32),
    r=np.zeros(0, dtype=np.int64),
    coming=np.zeros(0, dtype=np.int64),
    pending=np.zeros(5, dtype=np.int64),
    **dict.fromkeys(Layer._fields[10:], 0),
)
"""Of synapses that are told the spikes behind them."""


@_jit
def run(
    pre: Array,
    post: Array,
    third: Array,
    answers: Array,
    rule: Program,
    s: State,
    work: Work,
    neurons: Layer,
    draws: Draws,
    seen: Seen,
    step: int,
) -> None:
    """Synapses, and the neurons that they feed if there are any. pre: ``[steps, in]``.

    Without neurons, post: ``[steps, out]`` spikes, and of three factors third: ``[steps, 3, out]``
    what is sent. With neurons, answers: of each sample its class, or its reward.
    """
    size = len(neurons.u)
    spikes = neurons.spikes
    weight, x, y, a = s.weight, s.x, s.y, s.a
    impulse, odd, every, sent = rule.impulse, rule.odd, rule.every, rule.sent
    alive = rule.alive[:2] if sent else rule.alive
    brief = rule.brief and draws.key == 0
    for k in range(len(pre)):
        t = step + k + 1
        if size == 0:
            spikes = post[k]
            if sent:
                y[:] = third[k]
        else:
            if (t - 1 - neurons.arrival) % neurons.interval == 0:
                neurons.u[:] = 0
                neurons.v[:] = 0
            _fire(neurons, a)
            if sent:
                value, decided = neurons.pending[1], neurons.pending[4]
                for j in range(size):
                    reward = value * neurons.back[decided, j]
                    y[0, j], y[1, j], y[2, j] = neurons.trace[j], max(reward, 0), max(-reward, 0)
            _judge(neurons, answers, rule.epoch, t)
        if brief:
            _step(pre[k], spikes, rule, s, work, draws, k, every > 0 and t % every == 0)
        else:
            number = draws.before_y[k] if draws.key == 0 else 0
            within = (t - 1) % rule.epoch + 1
            _transmit(pre[k], weight, a, rule.graded >= 0, rule.exponent, work.rows)
            _before(pre[k], x, s.tx, impulse, odd, rule.graded, within)
            _after(spikes, y, s.ty, alive, impulse, odd, draws.key, number, t, within)
            if t % rule.epoch == 0:
                _learn(rule, s, work, draws, k, t)
        _keep(seen, s, k)
        if len(seen.spikes):
            seen.spikes[k] = spikes


@_jit
def _keep(seen: Seen, s: State, k: int) -> None:
    if len(seen.weight):
        seen.weight[k] = s.weight
        seen.x[k], seen.y[k], seen.a[k] = s.x, s.y, s.a
        if len(s.delay):
            seen.delay[k] = s.delay
        if len(s.tag):
            seen.tag[k] = s.tag


# --- neurons ------------------------------------------------------------------------------------


@_jit
def _decay(x: Any, keep: Any) -> Any:
    """x · keep / 4096 towards zero, split at 12 bits so that no product leaves 32 bits."""
    magnitude = np.int32(abs(x))
    high, low = np.int32(magnitude >> 12), np.int32(magnitude & 4095)
    kept = np.int32(np.int32(high * keep) + np.int32(np.int32(low * keep) >> 12))
    return kept if x >= 0 else np.int32(-kept)


@_jit
def _fire(n: Layer, a: Array) -> None:
    """The step of :func:`loihi.reference.step_neuron`, and the neurons' own trace."""
    keep_u, keep_v = np.int32(4096 - n.du), np.int32(4096 - n.dv)
    half, turn, vth = np.int32(2**23), np.int32(2**24), np.int32(n.threshold)
    for j in range(len(n.u)):
        current = np.int32(_decay(n.u[j], keep_u) + np.int32(a[j] << 6))
        if current > half:
            current = np.int32(current - turn)
        elif current <= -half:
            current = np.int32(current + turn)
        n.u[j] = current
        voltage = np.int32(np.int32(_decay(n.v[j], keep_v) + current) + n.bias[j])
        voltage = max(min(voltage, np.int32(half - 1)), np.int32(1 - half))
        spike = voltage > vth
        n.v[j] = np.int32(0) if spike else voltage
        n.spikes[j] = spike
        trace = np.int32(np.int32(n.trace[j]) * np.int32(n.keep)) >> 12
        n.trace[j] = min(trace + n.jump, 127) if spike else trace


@_jit
def _judge(n: Layer, answers: Array, epoch: int, t: int) -> None:
    """Reads out, decides after a sample's last step, and rewards: for as many steps as an epoch
    has. The way to the neurons takes a step."""
    n.pending[1] = 0
    if n.rewarded == 0:
        return
    since = t - 1 - n.judged
    sample, step = since // n.interval, since % n.interval
    if step == 0:
        n.r[:] = 0
    if len(n.readout):
        for c in range(len(n.r)):
            n.r[c] += n.coming[c]
        n.coming[:] = 0
        for j in range(len(n.spikes)):
            if n.spikes[j]:
                for c in range(len(n.r)):
                    n.coming[c] += n.readout[c, j]
    else:
        for c in range(len(n.r)):
            n.r[c] += n.spikes[c]
    if step == n.time_steps - 1 and 0 <= sample < len(answers):
        decided = 0
        for c in range(1, len(n.r)):
            if n.r[c] > n.r[decided]:
                decided = c
        n.pending[4] = decided
        if n.rewarded == 1:
            value = n.reward if decided == answers[sample] else -n.reward
            if n.baseline:
                off = (value << 8) - n.pending[3]
                n.pending[3] += off >> n.baseline
                value = max(min(off >> 8, 127), -127)
        else:
            value = answers[sample]
        n.pending[0], n.pending[2] = epoch, value
    if n.pending[0] > 0:
        n.pending[0] -= 1
        n.pending[1] = n.pending[2]


# --- synapses, the spiking phase ----------------------------------------------------------------
# Arrays one by one: a named tuple of them costs more to hand over than most of what is done here.


@_jit
def _transmit(
    message: Array, weight: Array, a: Array, graded: bool, exponent: int, rows: Array
) -> None:
    """A message through the weights: what it adds to the neurons' input at the next step."""
    a[:] = 0
    if graded:
        for i in range(len(message)):
            if message[i] != 0:
                row, payload = weight[i], np.int32(message[i])
                for j in range(len(a)):
                    a[j] += np.int32(payload * np.int32(row[j]))
    else:
        count = 0
        for i in range(len(message)):
            rows[count] = i
            count += message[i] != 0
        fours = count - count % 4
        for k in range(0, fours, 4):
            one, two = weight[rows[k]], weight[rows[k + 1]]
            three, four = weight[rows[k + 2]], weight[rows[k + 3]]
            for j in range(len(a)):
                pair = np.int16(np.int16(one[j]) + np.int16(two[j]))
                other = np.int16(np.int16(three[j]) + np.int16(four[j]))
                a[j] += np.int32(np.int16(pair + other))
        for k in range(fours, count):
            row = weight[rows[k]]
            for j in range(len(a)):
                a[j] += np.int32(row[j])
    if exponent:
        for j in range(len(a)):
            a[j] = np.int32(a[j] << exponent)


@_jit
def _before(
    message: Array, x: Array, tx: Array, impulse: Array, odd: Array, graded: int, within: int
) -> None:
    """Spikes of the inputs. Of several in an epoch all but the last are added at once."""
    x1, x2 = x[0], x[1]
    # Lava compares 0 with the fraction of an impulse here: it is always rounded up.
    more1, more2 = impulse[0] + (odd[0] > 0), impulse[1] + (odd[1] > 0)
    for i in range(len(message)):
        payload = np.int32(message[i])
        if payload == 0 and graded != ADD_OVERFLOW:
            continue
        again, spiked = tx[i] > 0, payload != 0
        if graded <= REGULAR:
            if again:
                x1[i] = min(x1[i] + more1, 127)
        else:
            half = payload >> 1  # of an odd payload to the even one of its two neighbours
            half += half & payload & 1
            if graded == OVERWRITE:
                x1[i] = half
            elif graded == ADD:
                x1[i] = min((x1[i] + half) & 255, 127)
            else:
                total = (x1[i] + half) & 255
                over = total > 127
                x1[i] = total - 127 if over else total
                spiked, again = spiked and over, again and spiked and over
        if again:
            x2[i] = min(x2[i] + more2, 127)
        if spiked:
            tx[i] = within


@_jit
def _after(
    spikes: Array,
    y: Array,
    ty: Array,
    alive: Array,
    impulse: Array,
    odd: Array,
    key: int,
    number: int,
    t: int,
    within: int,
) -> None:
    """Spikes of the neurons, which have no traces of their own if ``alive`` is empty. number:
    Lava's random one."""
    for j in range(len(spikes)):
        if spikes[j]:
            if ty[j] > 0:
                for which in range(len(alive) - 2):
                    if alive[2 + which]:
                        dice = np.int64(number)
                        if key:
                            dice = np.int64(_dice(key, t, 7 + which, j) >> np.uint32(24))
                        y[which, j] = _jump(y[which, j], impulse[2 + which], odd[2 + which], dice)
            ty[j] = within


@_jit
def _jump(value: Any, impulse: Any, odd: Any, dice: Any) -> Any:
    """An impulse. dice: 0..127 of Lava's, which meets a fraction of 256ths; ours is 0..255."""
    return np.int32(max(min(value + impulse + (dice < odd), 127), 0))


# --- synapses, the learning phase ---------------------------------------------------------------


@_jit
def _learn(rule: Program, s: State, work: Work, draws: Draws, k: int, t: int) -> None:
    epoch, key = rule.epoch, draws.key
    now = rule.every > 0 and (t // epoch) % rule.every == 0
    tx, ty, scalar, post = s.tx, s.ty, work.scalar, work.post
    for trace in range(5):
        if rule.alive[trace]:
            inputs, which = trace < 2, trace % 2 if trace < 2 else trace - 2
            draw, dice = 0.0, np.int64(0)
            if key == 0:
                draw = draws.x[k] if inputs else draws.y[k]
                dice = np.int64(draws.dice_x[k] if inputs else draws.dice_y[k])
            _fade(
                s.x[which] if inputs else s.y[which],
                tx if inputs else ty,
                work.xh[which] if inputs else work.yh[which],
                rule.base[trace],
                rule.fraction[trace],
                rule.tau[trace],
                rule.impulse[trace],
                rule.odd[trace],
                epoch,
                draw,
                dice,
                key,
                t,
                trace,
            )
    columns = 0
    for j in range(len(ty)):
        if ty[j] > 0:
            work.columns[columns] = j
            columns += 1
    for p in range(len(rule.products)):
        row = rule.products[p]
        acts = now if row[1] == U else columns > 0 if row[1] == Y0 else True
        work.acts[p] = acts
        if acts:
            _look_back(row, rule.factors, ty, work.yh, post[p], work.low[p], work.high[p], epoch)
            _look_on(row, rule.factors, tx, s.x, work.xh, scalar[p], epoch)
    lumped, weight_draw, chance = key == 0, np.int32(0), np.uint32(0)
    if lumped:
        weight_draw = np.int32(draws.weight[k])
    else:
        chance = _hash(np.uint32(np.uint32(key) ^ _hash(np.uint32(t))))
    work.todo[:] = 0
    for target in range(3):
        first, last = rule.targets[target], rule.targets[target + 1]
        if first < last:
            _select(
                target,
                rule.products[first:last],
                work.acts[first:last],
                scalar[first:last],
                work.low[first:last],
                work.high[first:last],
                tx,
                work.reach,
                work.todo,
                epoch,
                weight_draw if lumped else np.int32(0),
                weight_draw if lumped else np.int32(127),
                lumped and rule.targets[1] == rule.targets[3],
            )
    # Alone with the weights, and where y0 alone acts, a row moves as one.
    reach = work.reach
    for i in range(len(tx)):
        todo = np.int64(work.todo[i])
        if len(s.tag) and s.deep[i]:
            todo |= 1 << TAG
        if todo == BARE:
            moved = np.int32(np.int32(np.int32(reach[0, i] + reach[1, i]) + weight_draw) >> 7)
            row = s.weight[i]
            for c in range(columns):
                j = work.columns[c]
                row[j] = max(min(np.int32(row[j] + moved), np.int32(127)), np.int32(-128))
            continue
        if todo == 0:
            continue
        for target in range(3):
            if todo >> target & 1:
                first, last = rule.targets[target], rule.targets[target + 1]
                sums = work.sums[target]
                if target == WEIGHT:
                    _lift(s.weight[i], sums)
                elif target == DELAY:
                    _lift(s.delay[i], sums)
                else:
                    _lift(s.tag[i], sums)
                for p in range(first, last):
                    value = np.int32(0)
                    if work.acts[p]:
                        value = scalar[p, i]
                    if value == 0:
                        if target == TAG:  # what Lava adds 0 to, it cuts all the same
                            for j in range(len(sums)):
                                sums[j] = max(sums[j], np.int32(LIMIT_LOW))
                        continue
                    row = rule.products[p]
                    step = np.int64(tx[i]) if row[1] == X0 else epoch
                    if row[7] == 0 and not (row[1] == Y0 and epoch > 1 and row[8]):
                        _add(sums, post[p, step], np.int32(value * row[2]), row[3], row[4])
                        continue
                    term = work.term
                    for j in range(len(term)):
                        term[j] = np.int32(value * post[p, step, j])
                    for f in range(row[5], row[6]):
                        factor = rule.factors[f]
                        if factor[0] == F_X and row[1] == Y0 and epoch > 1:
                            past = work.xh[factor[1]]
                            for j in range(len(term)):
                                at = np.int32(np.int32(past[ty[j], i]) + factor[2])
                                at = max(min(at, factor[5]), factor[4])
                                term[j] = np.int32(term[j] * at)
                        elif factor[0] == F_W:
                            _times(term, s.weight[i], factor)
                        elif factor[0] == F_D:
                            _times(term, s.delay[i], factor)
                        elif factor[0] == F_T:
                            _times(term, s.tag[i], factor)
                    _add(sums, term, np.int32(row[2]), row[3], row[4])
        for target in range(3):
            if todo >> target & 1:
                sums = work.sums[target]
                if lumped:
                    for j in range(len(sums)):
                        sums[j] = np.int32(sums[j] + weight_draw) >> 7
                else:
                    mine = _hash(
                        np.uint32(np.uint32(chance + np.uint32(3 * i)) + np.uint32(target))
                    )
                    for j in range(len(sums)):
                        r = np.int32(_hash(np.uint32(mine + np.uint32(j))) >> np.uint32(25))
                        sums[j] = np.int32(sums[j] + r) >> 7
                if target == WEIGHT:
                    _settle(s.weight[i], sums, np.int32(-128), np.int32(127))
                elif target == DELAY:
                    _settle(s.delay[i], sums, np.int32(0), np.int32(255))
                else:
                    s.deep[i] = _settle(s.tag[i], sums, np.int32(-257), np.int32(255))
    for trace in range(5):
        if rule.alive[trace] and (trace < 2 or not rule.sent):
            values = s.x[trace] if trace < 2 else s.y[trace - 2]
            past = work.xh[trace, epoch] if trace < 2 else work.yh[trace - 2, epoch]
            for i in range(len(values)):
                values[i] = past[i]
    tx[:] = 0
    ty[:] = 0


@_jit
def _fade(
    values: Array,
    last: Array,
    past: Array,
    base: Array,
    fraction: Array,
    fades: int,
    impulse: int,
    odd: int,
    epoch: int,
    draw: float,
    dice: int,
    key: int,
    t: int,
    trace: int,
) -> None:
    """A trace at each step of the epoch: it fades, and rises at the last spike."""
    for i in range(len(values)):
        value, at = np.int32(values[i]), np.int32(last[i])
        past[0, i] = value
        if value == 0 and at == 0:
            for step in range(1, epoch + 1):
                past[step, i] = 0
            continue
        if key:
            draw = _dice(key, t, trace, i) * 2.0**-32
            dice = int(_dice(key, t, 10 + trace, i) >> np.uint32(24))
        for step in range(1, epoch + 1):
            if fades:
                place = value + OFFSET
                value = np.int32(np.int32(base[place]) + np.int32(draw < fraction[place]))
            else:
                value = np.int32(0)
            if step == at:
                value = _jump(value, impulse, odd, dice)
            past[step, i] = value


@_jit
def _look_back(
    row: Array,
    factors: Array,
    ty: Array,
    yh: Array,
    posts: Array,
    low: Array,
    high: Array,
    epoch: int,
) -> None:
    """The neurons' part of a product, at the steps at which it may act, and its extremes."""
    when = row[1]
    for step in range(1 if when == X0 else epoch, epoch + 1):
        post = posts[step]
        if when == Y0:
            for j in range(len(ty)):
                post[j] = ty[j] > 0
        else:
            post[:] = 1
            low[step] = high[step] = 1
        if when != Y0 and row[9] == 0:
            continue
        for f in range(row[5], row[6]):
            factor = factors[f]
            constant, least, most = factor[2], factor[4], factor[5]
            if factor[0] == F_Y0:
                for j in range(len(ty)):
                    value = np.int32(np.int32(ty[j] > 0) + constant)
                    post[j] = np.int32(post[j] * max(min(value, most), least))
            elif factor[0] == F_Y:
                past = yh[factor[1]]
                for j in range(len(ty)):
                    at = np.int64(ty[j]) if when == Y0 else step
                    value = np.int32(np.int32(past[at, j]) + constant)
                    post[j] = np.int32(post[j] * max(min(value, most), least))
        least, most = post[0], post[0]
        for j in range(1, len(ty)):
            least, most = min(least, post[j]), max(most, post[j])
        low[step], high[step] = least, most


@_jit
def _look_on(
    row: Array, factors: Array, tx: Array, x: Array, xh: Array, scalar: Array, epoch: int
) -> None:
    """The inputs' part of a product."""
    when = row[1]
    if when == X0:
        for i in range(len(tx)):
            scalar[i] = tx[i] > 0
    else:
        scalar[:] = 1
    if row[8] == 0:
        return
    for f in range(row[5], row[6]):
        factor = factors[f]
        constant, least, most = factor[2], factor[4], factor[5]
        if factor[0] == F_X0:
            for i in range(len(tx)):
                value = np.int32(np.int32(tx[i] > 0) + constant)
                scalar[i] = np.int32(scalar[i] * max(min(value, most), least))
        elif factor[0] == F_X:
            past = xh[factor[1]]
            if when == Y0 and epoch > 1:
                # At the neurons' steps: there is nothing to say yet, but where it is 0.
                if constant == 0:
                    for i in range(len(tx)):
                        if tx[i] == 0 and past[0, i] == 0:
                            scalar[i] = 0
            elif when == X0 and epoch > 1:
                for i in range(len(tx)):
                    value = np.int32(np.int32(past[tx[i], i]) + constant)
                    scalar[i] = np.int32(scalar[i] * max(min(value, most), least))
            else:
                for i in range(len(tx)):
                    value = np.int32(np.int32(past[epoch, i]) + constant)
                    scalar[i] = np.int32(scalar[i] * max(min(value, most), least))


@_jit
def _select(
    target: int,
    products: Array,
    acts: Array,
    scalar: Array,
    low: Array,
    high: Array,
    tx: Array,
    reach: Array,
    todo: Array,
    epoch: int,
    least_draw: Any,
    most_draw: Any,
    alone: bool,
) -> None:
    """Which rows of a target may change: those whose products, at their extremes over all neurons,
    are not rounded to nothing. todo: a bit of each target, or BARE."""
    n = len(tx)
    reach[:] = 0  # least and largest sum; 1 if no extremes are known; 1 if more than y0 acts
    for p in range(len(products)):
        if not acts[p]:
            continue
        row, mine = products[p], scalar[p]
        when, m, right, left = row[1], row[2], row[3], row[4]
        if row[7] or (when == Y0 and epoch > 1 and row[8]):
            for i in range(n):
                if mine[i] != 0:
                    reach[2, i] = reach[3, i] = 1
            continue
        if not (when == Y0 and row[9] == 0 and epoch == 1):
            for i in range(n):
                reach[3, i] |= np.int32(mine[i] != 0)
        if when == X0 and epoch > 1:
            for i in range(n):
                if mine[i] != 0:
                    one = _cut(np.int32(mine[i] * low[p, tx[i]]), m, right, left)
                    other = _cut(np.int32(mine[i] * high[p, tx[i]]), m, right, left)
                    reach[0, i] += min(min(one, other), np.int32(0))
                    reach[1, i] += max(max(one, other), np.int32(0))
            continue
        bottom, top = low[p, epoch], high[p, epoch]
        for i in range(n):
            one = _cut(np.int32(mine[i] * bottom), m, right, left)
            other = _cut(np.int32(mine[i] * top), m, right, left)
            reach[0, i] += min(min(one, other), np.int32(0))
            reach[1, i] += max(max(one, other), np.int32(0))
    for i in range(n):
        down, up = reach[0, i], reach[1, i]
        still = np.int32(down + least_draw) >> 7 == 0 and np.int32(up + most_draw) >> 7 == 0
        if still and reach[2, i] == 0:
            continue
        if alone and reach[3, i] == 0 and down > -16384 and up < 16384:
            todo[i] = BARE
        else:
            todo[i] |= 1 << target


@_jit
def _cut(product: Any, mantissa: Any, right: Any, left: Any) -> Any:
    """What Lava adds of a product: mantissa, bits cut, exponent, limits."""
    value = np.int32(np.int32(np.int32(product * mantissa) >> right) << left)
    return max(min(value, np.int32(LIMIT_HIGH)), np.int32(LIMIT_LOW))


@_jit
def _lift(row: Array, sums: Array) -> None:
    """Into the accumulators."""
    for j in range(len(sums)):
        sums[j] = np.int32(np.int32(row[j]) << 7)


@_jit
def _add(sums: Array, factors: Array, m: Any, right: Any, left: Any) -> None:
    low, high = np.int32(LIMIT_LOW), np.int32(LIMIT_HIGH)
    for j in range(len(sums)):
        value = np.int32(np.int32(np.int32(m * factors[j]) >> right) << left)
        value = max(min(value, high), low)
        sums[j] = max(min(np.int32(sums[j] + value), high), low)


@_jit
def _settle(row: Array, sums: Array, low: Any, high: Any) -> bool:
    """Back out of the accumulators; whether something is at the lower limit. (What Lava also does,
    cutting the delay's accumulator at 0, comes to the same.)"""
    least = high
    for j in range(len(sums)):
        value = max(min(sums[j], high), low)
        row[j] = value
        least = min(least, value)
    return least == low


@_jit
def _times(term: Array, row: Array, factor: Array) -> None:
    """A factor of weights or tags."""
    constant, sign, least, most = factor[2], factor[3], factor[4], factor[5]
    for j in range(len(term)):
        value = np.int32(np.int32(row[j]) + constant)
        if sign:
            value = np.int32(np.int32(value > 0) - np.int32(value < 0))
        else:
            value = max(min(value, most), least)
        term[j] = np.int32(term[j] * value)


# --- both phases at once, for what most rules are -----------------------------------------------


@nb.njit(nogil=True, error_model="numpy", inline="always")
def _step(
    message: Array,
    spikes: Array,
    rule: Program,
    s: State,
    work: Work,
    draws: Draws,
    k: int,
    now: bool,
) -> None:
    """A step of a rule that is ``brief``: weights alone, one product or two, each with at most one
    trace of the input and one of the neurons; spikes, epochs of one step, Lava's rounding. Then
    spikes need not be remembered, and a row is read once.

    post: ``[2, out]`` the neurons' part of each product, scalar: ``[2, in]`` the inputs'. mask: −1
    for neurons that spike, else 0.
    """
    weight, x, y = s.weight, s.x, s.y
    products, alive, impulse, odd = rule.products, rule.alive, rule.impulse, rule.odd
    base, fraction, tau = rule.base, rule.fraction, rule.tau
    scalar, reach, post, mask = work.scalar, work.reach, work.parts, work.mask
    columns, rows, table, now_y = work.columns, work.rows, work.table, work.now_y
    draw, draw_x, draw_y = np.int32(draws.weight[k]), draws.x[k], draws.y[k]
    dice_x, dice_y = np.int64(draws.dice_x[k]), np.int64(draws.dice_y[k])
    n, width = weight.shape
    _transmit(message, weight, s.a, False, rule.exponent, rows)
    for trace in range(2):
        if alive[trace]:
            _fade_all(base[trace], fraction[trace], tau[trace], draw_x, table)
            _rise(x[trace], message, table, impulse[trace], odd[trace], dice_x, x[trace])
    spiked = 0
    for j in range(width):
        mask[j] = -np.int8(spikes[j])
        columns[spiked] = j
        spiked += spikes[j] != 0
    for trace in range(3):
        if alive[2 + trace]:
            _fade_all(base[2 + trace], fraction[2 + trace], tau[2 + trace], draw_y, table)
            _rise(y[trace], spikes, table, impulse[2 + trace], odd[2 + trace], dice_y, now_y[trace])
            if not rule.sent:
                for j in range(width):
                    y[trace, j] = now_y[trace, j]
    last = len(products) - 1
    idle = True
    for p in range(last + 1):
        when, which, trace = products[p, 1], products[p, 11], products[p, 10]
        if which < 0:
            low, high = _gather(now_y[0], np.int16(0), np.int16(1), mask, when == Y0, post[p])
        else:
            kept = np.int16(alive[2 + which])
            low, high = _gather(now_y[which], kept, np.int16(0), mask, when == Y0, post[p])
        if (when == U and not now) or (low == 0 and high == 0):
            for i in range(n):
                scalar[p, i] = reach[2 * p, i] = reach[2 * p + 1, i] = 0
            continue
        idle = False
        if trace < 0:
            _spread(x[0], np.int32(0), np.int32(1), message, when == X0, scalar[p])
        else:
            there = np.int32(alive[trace])
            _spread(x[trace], there, np.int32(0), message, when == X0, scalar[p])
        # What the product can be at most: most often it is rounded to nothing.
        m, right, left = products[p, 2], products[p, 3], products[p, 4]
        _extremes(scalar[p], low, high, m, right, left, reach[2 * p], reach[2 * p + 1])
    if idle:
        return
    m, right, left = products[0, 2], products[0, 3], products[0, 4]
    bare, bare2 = products[0, 1] == Y0 and products[0, 9] == 0, True
    m2, right2, left2 = np.int32(0), np.int32(0), np.int32(0)
    if last:
        m2, right2, left2 = products[1, 2], products[1, 3], products[1, 4]
        bare2 = products[1, 1] == Y0 and products[1, 9] == 0
    _sort(scalar, reach, bare, bare2, right == 0 and right2 == 0, draw)
    count = _those(reach[1], WHOLE, rows)
    if spiked * 32 < width:
        for k in range(count):
            i = rows[k]
            for c in range(spiked):
                j = columns[c]
                total = np.int32(np.int32(weight[i, j]) + reach[0, i])
                weight[i, j] = max(min(total, np.int32(127)), np.int32(-128))
    else:
        _shift(weight, rows[:count], mask, reach[0])
    count = _those(reach[1], SMALL, rows)
    _move_small(
        weight,
        rows[:count],
        scalar,
        post[0],
        np.int32(m << left),
        post[1],
        np.int32(m2 << left2),
        np.int16(draw),
    )
    count = _those(reach[1], WIDE, rows)
    factors, others = post[0], post[1]
    for k in range(count):
        i = rows[k]
        one, two = np.int32(scalar[0, i] * m), np.int32(scalar[1, i] * m2)
        _move(weight[i], factors, one, right, left, others, two, right2, left2, draw)


@_jit
def _gather(trace: Array, kept: Any, constant: Any, mask: Array, masked: bool, post: Array) -> Any:
    """The neurons' part of a product, and its extremes."""
    low, high = np.int16(LIMIT_HIGH), np.int16(-LIMIT_HIGH)
    rest = 0 if masked else -1
    for j in range(len(post)):
        value = np.int16(np.int16(np.int16(trace[j] * kept) + constant) & (mask[j] | rest))
        post[j] = value
        low, high = min(low, value), max(high, value)
    return np.int32(low), np.int32(high)


@_jit
def _spread(
    trace: Array, kept: Any, constant: Any, message: Array, masked: bool, scalar: Array
) -> None:
    """The inputs' part of a product."""
    if masked:
        for i in range(len(scalar)):
            spike = np.int32(message[i])
            scalar[i] = np.int32(np.int32(np.int32(trace[i]) * kept) + constant) * spike
    else:
        for i in range(len(scalar)):
            scalar[i] = np.int32(np.int32(np.int32(trace[i]) * kept) + constant)


@_jit
def _those(kinds: Array, kind: int, rows: Array) -> int:
    """The rows of a kind, and how many there are."""
    count = 0
    for i in range(len(kinds)):
        rows[count] = i
        count += kinds[i] == kind
    return count


@_jit
def _fade_all(base: Array, fraction: Array, fades: int, draw: float, table: Array) -> None:
    """What a step leaves of −128..127."""
    if fades:
        for place in range(len(table)):
            table[place] = base[place] + np.int16(draw < fraction[place])
    else:
        table[:] = 0


@_jit
def _rise(
    values: Array, spikes: Array, table: Array, impulse: Any, odd: Any, dice: int, out: Array
) -> None:
    """Traces fade, and rise where there are spikes."""
    more = np.int32(impulse + (dice < odd))
    for i in range(len(values)):
        value = np.int32(table[values[i] + OFFSET])
        risen = max(min(np.int32(value + more), np.int32(127)), np.int32(0))
        out[i] = risen if spikes[i] else value


@_jit
def _extremes(
    scalar: Array, low: Any, high: Any, m: Any, right: Any, left: Any, least: Array, most: Array
) -> None:
    for i in range(len(scalar)):
        one = _cut(np.int32(scalar[i] * low), m, right, left)
        other = _cut(np.int32(scalar[i] * high), m, right, left)
        least[i] = min(min(one, other), np.int32(0))
        most[i] = max(max(one, other), np.int32(0))


@_jit
def _sort(scalar: Array, reach: Array, bare: bool, bare2: bool, uncut: bool, draw: Any) -> None:
    """What is to do in each row, into ``reach[1]``; where y0 alone acts, and so the same on all
    neurons that spiked, by how much, into ``reach[0]``."""
    for i in range(scalar.shape[1]):
        down = np.int32(reach[0, i] + reach[2, i])
        up = np.int32(reach[1, i] + reach[3, i])
        still = (np.int32(down + draw) >> 7 == 0) & (np.int32(up + draw) >> 7 == 0)
        small = (down > -16384) & (up < 16384)
        moved = np.int32(np.int32(np.int32(down + up) + draw) >> 7)
        whole = (bare | (scalar[0, i] == 0)) & (bare2 | (scalar[1, i] == 0)) & small
        whole &= (moved >= -128) & (moved <= 127)
        kind = np.int32(SMALL) if small & uncut else np.int32(WIDE)
        kind = np.int32(WHOLE) if whole else kind
        reach[0, i] = moved
        reach[1, i] = np.int32(STILL) if still else kind


@_jit
def _shift(weight: Array, rows: Array, mask: Array, moved: Array) -> None:
    """Weights of the neurons that spiked, each row by one number of 8 bits."""
    for i in rows:
        row, by = weight[i], np.int8(moved[i])
        for j in range(len(row)):
            total = np.int16(np.int16(row[j]) + np.int16(mask[j] & by))
            row[j] = max(min(total, np.int16(127)), np.int16(-128))


@_jit
def _move_small(
    weight: Array,
    rows: Array,
    scalar: Array,
    factors: Array,
    m: Any,
    others: Array,
    m2: Any,
    draw: Any,
) -> None:
    """:func:`_move` where no sum leaves 16 bits, and no bits of a product are cut."""
    for i in rows:
        row = weight[i]
        one, two = np.int16(scalar[0, i] * m), np.int16(scalar[1, i] * m2)
        for j in range(len(row)):
            total = np.int16(np.int16(np.int16(row[j]) << 7) + draw)
            total = np.int16(total + np.int16(factors[j] * one))
            total = np.int16(np.int16(total + np.int16(others[j] * two)) >> 7)
            row[j] = max(min(total, np.int16(127)), np.int16(-128))


@_jit
def _move(
    row: Array,
    factors: Array,
    m: Any,
    right: Any,
    left: Any,
    others: Array,
    m2: Any,
    right2: Any,
    left2: Any,
    draw: Any,
) -> None:
    """Weights by two products at once: up, twice :func:`_add`, and down again."""
    low, high = np.int32(LIMIT_LOW), np.int32(LIMIT_HIGH)
    for j in range(len(row)):
        total = np.int32(np.int32(row[j]) << 7)
        value = np.int32(np.int32(np.int32(m * np.int32(factors[j])) >> right) << left)
        total = max(min(np.int32(total + max(min(value, high), low)), high), low)
        value = np.int32(np.int32(np.int32(m2 * np.int32(others[j])) >> right2) << left2)
        total = max(min(np.int32(total + max(min(value, high), low)), high), low)
        total = np.int32(np.int32(total + draw) >> 7)
        row[j] = max(min(total, np.int32(127)), np.int32(-128))


@_jit
def _dice(key: Any, t: Any, what: Any, place: Any) -> Any:
    """32 random bits for a place, a step and a use."""
    mixed = _hash(np.uint32(np.uint32(key) ^ _hash(np.uint32(t))))
    mixed = _hash(np.uint32(~mixed + np.uint32(what)))
    return _hash(np.uint32(mixed + np.uint32(place)))


@_jit
def _hash(x: Any) -> Any:
    """32 bits well mixed: a number for each place and time, without a state to carry along."""
    h = np.uint32(x)
    h = np.uint32(np.uint32(h ^ np.uint32(h >> np.uint32(16))) * np.uint32(0x7FEB352D))
    h = np.uint32(np.uint32(h ^ np.uint32(h >> np.uint32(15))) * np.uint32(0x846CA68B))
    return np.uint32(h ^ np.uint32(h >> np.uint32(16)))
