"""The learning block a second time, as its documentation says it, and what compares with it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from loihi import INTEGRATOR, Conv, Dense, Encoding, Layer, Network, Neuron
from onchip import block as blocks
from onchip.block import Rule
from onchip.engine import Learner

STEPS, INPUTS, HIDDEN, CLASSES = 5, 7, 6, 3
# Large steps and a wide window, so that a few samples move most weights.
RULE = Rule(
    gap=3,
    amplitude=100,
    leak=0,
    halvings=1,
    window=2.0,
    hidden_tau=4,
    hidden_impulse=40,
    hidden_rate=-4,
    readout_tau=2,
    readout_impulse=24,
    readout_rate=-5,
)


def small(seed=0, steps=STEPS, **neuron):
    """A network that is busy: about a third of its hidden neurons spike at a step."""
    neuron = Neuron(**{"du": 4096, "dv": 400, "vth": 40, **neuron})
    encoding = Encoding("events", steps)
    return blocks.random_network(
        INPUTS, HIDDEN, CLASSES, encoding, seed=seed, neuron=neuron, weight=50, readout=60
    )


def data(samples=4, seed=0, high=2, shape=(INPUTS,), steps=STEPS):
    rng = np.random.default_rng(seed)
    return rng.integers(0, high, (steps, samples, *shape)), rng.integers(0, CLASSES, samples)


def deep(seed=0):
    """Image, convolution, grouped convolution, hidden, readout; with biases and currents."""
    rng = np.random.default_rng(seed)

    def weights(*shape):
        return rng.integers(-60, 61, shape)

    layers = (
        Layer(
            Conv(weights(4, 2, 3, 2), stride=(1, 2), padding=(1, 0)),
            Neuron(du=3000, dv=300, vth=40, bias=np.array([9, -4, 0, 30]), bias_exp=4),
        ),
        # a current that never decays, and a high threshold: one count of du moves many spikes
        Layer(Conv(weights(4, 1, 2, 2), stride=2, groups=4), Neuron(du=0, dv=300, vth=500)),
        Layer(Dense(weights(6, 16)), Neuron(vth=60, dv=700, bias=rng.integers(-3, 9, 6))),
        Layer(Dense(weights(CLASSES, 6)), INTEGRATOR),
    )
    return Network((2, 4, 9), layers, Encoding("events", 40, payload=(-2, 3)))


def hardware_input(x, gap, tail):
    """Payloads [T, N, …] as one stream: every sample followed by ``gap`` silent steps."""
    steps, samples, *shape = x.shape
    stream = np.zeros((samples, steps + gap, *shape), dtype=x.dtype)
    stream[:, :steps] = np.moveaxis(x, 1, 0)
    stream = stream.reshape(-1, 1, *shape)
    return np.concatenate([stream, np.zeros((tail, *stream.shape[1:]), dtype=x.dtype)])


def random_run(seed):
    """Any network of two layers, any rule: the block, payloads and labels of four samples."""
    rng = np.random.default_rng(seed)
    mode = str(rng.choice(blocks.MODES))
    high = int(rng.integers(2, 256)) if mode != "readout" and rng.integers(2) else 1
    network = small(
        seed,
        du=int(rng.integers(0, 4097)),
        dv=int(rng.integers(0, 4097)),
        vth=int(rng.integers(20, 200)) * (1 if high == 1 else high // 4 + 1),
        bias=int(rng.integers(-3, 8)),
    )
    network = replace(network, encoding=Encoding("events", STEPS, payload=(0, high)))
    for index in (0, 1):
        if rng.integers(3) == 0:  # mantissas with an exponent
            layer = network.layers[index]
            even = np.clip(4 * layer.synapse.weight, -254, 254) & ~1
            network = network.with_layer(index, replace(layer, synapse=Dense(even)))
    rule = replace(
        RULE,
        gap=int(rng.integers(2, 7)),
        leak=int(rng.integers(0, 3000)),
        halvings=int(rng.integers(0, 4)),
        window=float(rng.uniform(0.5, 4)),
        hidden_tau=int(rng.integers(1, 40)),
        hidden_impulse=int(rng.integers(1, 128)),
        hidden_rate=int(rng.integers(-7, 3)),
        readout_tau=int(rng.integers(1, 40)),
        readout_impulse=int(rng.integers(1, 128)),
        readout_rate=int(rng.integers(-7, 3)),
        epoch=int(rng.choice([1, 1, 2, 3, 5, 8, 63])),
    )
    x, labels = data(4, seed, high + 1)
    return blocks.build(network, x, mode, rule), x, labels


def shrink(x, numerator, bits=12):
    """x · numerator / 2^bits, rounded towards zero, one number after the other."""
    return np.array([int(abs(int(i)) * numerator >> bits) * (1 if i > 0 else -1) for i in x])


def brute_force(block, x, labels, steps, seed, graded=False):
    """The documented rule, one number after the other, with Lava's random streams drawn ahead.

    Two synapses, 1 and 2, with traces and weights; nothing is shared with the code under test
    but the block's numbers. Of each the mantissas and x1 after every step, y1 − y2 as it came in
    every step; and the hidden spikes.
    """
    rule, (first, last) = block.rule, block.network.layers
    neuron, T, E = first.neuron, len(x), block.rule.epoch
    w1, w2 = first.synapse.weight.astype(int), last.synapse.weight.astype(int)
    e1, e2 = (block.plastic[i].exponent if i in block.plastic else 0 for i in (0, 1))
    w1, w2 = w1 >> e1, w2 >> e2
    B, interval = block.feedback, T + rule.gap
    weight_draw = np.random.default_rng(2).random(1 + steps)[1:]  # one a learning phase
    trace_draw = np.random.default_rng(seed).random(1 + 2 * steps)[2::2]
    factor_draw = np.random.default_rng(seed + 2).random(1 + 2 * steps)[2::2]
    a1, a2, third = np.zeros(len(w1), int), np.zeros(len(w2), int), np.zeros(len(w1), int)
    u, v, r = np.zeros(len(w1), int), np.zeros(len(w1), int), np.zeros(len(w2), int)
    x1, x2 = np.zeros(w1.shape[1], int), np.zeros(w2.shape[1], int)
    since1, since2 = [], []  # the messages of an epoch
    bias = int(neuron.bias) << neuron.bias_exp
    seen = {"weights": {0: [], 1: []}, "traces": {0: [], 1: []}, "factors": {0: [], 1: []}}
    spikes = []

    def fade(value, tau, draw):
        faded = np.exp(-1 / tau) * value
        return int(np.floor(faded)) + int(draw < faded % 1)

    def arrive(trace, messages, impulse):
        """At once: the last payload; and what is not the epoch's last spike, but came after one."""
        now, before = messages[-1], np.any([0 * messages[-1], *messages[:-1]], axis=0)
        for i in np.flatnonzero(now):
            if impulse is None:
                trace[i] = int(np.round(now[i] / 2))
            elif before[i]:
                trace[i] = min(127, trace[i] + impulse)

    def settle(trace, messages, tau, impulse, draw):
        """At the end of an epoch: it fades step by step; the last spike counts in its own step."""
        for i in range(len(trace)):
            spiked = [k for k, message in enumerate(messages) if message[i]]
            for k in range(len(messages)):
                trace[i] = fade(trace[i], tau, draw)
                if spiked and k == spiked[-1]:
                    trace[i] = min(127, trace[i] + (impulse or 0))

    def update(w, pre, post, rate, draw, fading):
        for j in range(w.shape[0]):
            factors = max(0, min(127, int(post[j]))), max(0, min(127, -int(post[j])))
            for _ in range(E):
                factors = [fade(y, 65535, fading) for y in factors]
            for i in range(w.shape[1]):
                up = (int(pre[i]) * factors[0] >> 3) << (rate + 7)
                down = (-int(pre[i]) * factors[1] >> 3) << (rate + 7)
                accumulator = min(2**15 - 1, max(-(2**15) - 1, int(w[j, i]) * 128 + up))
                accumulator = min(2**15 - 1, max(-(2**15) - 1, accumulator + down))
                whole, part = divmod(accumulator, 128)
                w[j, i] = min(127, max(-128, whole + int(draw < part / 128)))

    for t in range(1, steps + 1):
        sample, step = divmod(t - 1, interval)
        s0 = x[step, sample] if sample < x.shape[1] and step < T else np.zeros(w1.shape[1], int)
        if (t - 2) % interval == 0:  # the hidden neurons lag by one step
            u[:], v[:] = 0, 0
        u = shrink(u, 4096 - neuron.du) + 64 * a1
        u = u - (u > 2**23) * 2**24 + (u <= -(2**23)) * 2**24
        before = np.clip(shrink(v, 4096 - neuron.dv) + u + bias, 1 - 2**23, 2**23 - 1)
        s1 = before > neuron.vth * 64
        near = np.abs(before - neuron.vth * 64) < block.window
        g = shrink(third, 1, block.error_shift) * near
        v = np.where(s1, 0, before)
        sample, step = divmod(t - 3, interval)  # the readout by two
        if step == 0:
            r[:] = 0
        r = shrink(r, 4096 - rule.leak) + a2
        e = np.zeros(len(w2), int)
        if 0 <= sample < x.shape[1] and step < T:
            target = np.eye(len(w2), dtype=int)[labels[sample]] * rule.amplitude
            e = np.clip(target - np.clip(r >> block.readout_shift, -127, 127), -127, 127)
            done = sample / x.shape[1]
            e = shrink(e, 1, sum(done >= 1 - 0.5**i for i in range(1, rule.halvings + 1)))
        a1, a2, third = (w1 @ s0) << e1, (w2 @ s1) << e2, B @ e
        since1, since2 = [*since1, s0], [*since2, s1]
        impulse = None if graded else rule.hidden_impulse
        arrive(x1, since1, impulse)
        arrive(x2, since2, rule.readout_impulse)
        if t % E == 0:
            settle(x1, since1, rule.hidden_tau, impulse, trace_draw[t - 1])
            settle(x2, since2, rule.readout_tau, rule.readout_impulse, trace_draw[t - 1])
            since1, since2 = [], []
            draws = weight_draw[t // E - 1], factor_draw[t - 1]
            if 0 in block.plastic:
                update(w1, x1, g, block.rates[0], *draws)
            if 1 in block.plastic:
                update(w2, x2, e, block.rates[1], *draws)
        for index, w, trace, factor in ((0, w1, x1, g), (1, w2, x2, e)):
            seen["weights"][index].append(w.copy())
            seen["traces"][index].append(trace.copy())
            seen["factors"][index].append(np.clip(factor, -127, 127))
        spikes.append(s1.copy())
    return {k: {i: np.array(v) for i, v in of.items()} for k, of in seen.items()}, np.array(spikes)


def engine(block, x, labels, seed, rounding="lava", pieces=(2,)):
    """What the engine does, given the samples in pieces: as ``brute_force``, and the learner."""
    learner = Learner(block, labels, seed=seed, rounding=rounding)
    records = []
    for some in np.split(x, pieces, axis=1):
        records += learner.learn(some, record=True)
    records += learner.finish(record=True)

    def joined(kind):
        parts = [getattr(record, kind) for record in records]
        return {index: np.concatenate([part[index] for part in parts]) for index in parts[0]}

    seen = {kind: joined(kind) for kind in ("weights", "traces", "factors")}
    return seen, joined("spikes"), learner


def assert_equal(found, wanted, plastic):
    """Weights, traces and factors of the plastic layers, at every step."""
    for kind in ("weights", "traces", "factors"):
        for index in plastic:
            wrong = np.argwhere(found[kind][index] != wanted[kind][index])
            assert found[kind][index].shape == wanted[kind][index].shape
            assert not len(wrong), f"{kind} of layer {index}: first differ at {wrong[0]}"


def of_lava(outcome):
    """An outcome of Lava's as the models here return theirs."""
    return {"weights": outcome.history, "traces": outcome.traces, "factors": outcome.factors}
