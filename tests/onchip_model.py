"""The learning block a second time, as its documentation says it, and what compares with it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from loihi import INTEGRATOR, Conv, Dense, Encoding, Layer, Network, Neuron
from onchip import plan as plans
from onchip.engine import Learner
from onchip.spec import MODES, Local, Rule, Spec

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
    return plans.random_network(
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


def tower(seed=0, hidden=(6, 5, 4), steps=STEPS, **neuron):
    """As ``small``, with several hidden layers."""
    rng = np.random.default_rng(seed)
    neuron = Neuron(**{"du": 4096, "dv": 400, "vth": 40, **neuron})
    sizes = (INPUTS, *hidden)
    layers = [
        Layer(Dense(rng.integers(-50, 80, (out, size))), neuron)
        for size, out in zip(sizes, hidden, strict=False)
    ]
    layers.append(Layer(Dense(rng.integers(-60, 61, (CLASSES, hidden[-1]))), INTEGRATOR))
    return Network((INPUTS,), tuple(layers), Encoding("events", steps))


def random_rule(rng, **fixed):
    """Any numbers with which something moves."""
    numbers = {
        "gap": int(rng.integers(2, 7)),
        "leak": int(rng.integers(0, 3000)),
        "halvings": int(rng.integers(0, 4)),
        "window": float(rng.uniform(0.5, 4)),
        "hidden_tau": int(rng.integers(1, 40)),
        "hidden_impulse": int(rng.integers(1, 128)),
        "hidden_rate": int(rng.integers(-7, 3)),
        "readout_tau": int(rng.integers(1, 40)),
        "readout_impulse": int(rng.integers(1, 128)),
        "readout_rate": int(rng.integers(-7, 3)),
        "epoch": int(rng.choice([1, 1, 2, 3, 5, 8, 63])),
    }
    return replace(RULE, **{**numbers, **fixed})


def random_spec(seed, layers):
    """Any blocks on a network of ``layers`` layers: from front to back, some left out."""
    rng = np.random.default_rng(seed)
    last, at, blocks_ = layers - 1, 0, []

    def some_rule():
        return random_rule(rng, gap=5, epoch=epoch, halvings=1)

    epoch = int(rng.choice([1, 1, 2, 3, 7]))
    while at < last:
        n = min(int(rng.integers(0, 3)), last - at)
        if n:
            trains = bool(rng.integers(2))
            feedback = str(rng.choice(["fixed", "random", "mirrored"]))
            if feedback == "mirrored" and n == 1:
                trains = True
            blocks_.append(
                Local(
                    tuple(range(at, at + n)),
                    "trainable" if trains else "fixed",
                    feedback,
                    steps=int(rng.integers(0, STEPS + 1)),
                    rule=some_rule() if rng.integers(2) else None,
                )
            )
        at += max(n, 1)
    free = not blocks_ or last - 1 not in blocks_[-1].layers
    if not blocks_ or (free and rng.integers(2)):
        blocks_.append(Local((), "trainable"))
    return Spec(tuple(blocks_), some_rule(), seed=seed)


def random_tower(seed):
    """Any network of two to four layers, any blocks on it: the plan, payloads and labels."""
    rng = np.random.default_rng(seed)
    hidden = tuple(int(n) for n in rng.integers(3, 8, rng.integers(1, 4)))
    high = int(rng.integers(2, 256)) if rng.integers(4) == 0 else 1
    network = tower(seed, hidden, dv=int(rng.integers(0, 3000)), vth=int(rng.integers(20, 90)))
    network = replace(network, encoding=Encoding("events", STEPS, payload=(0, high)))
    x, labels = data(4, seed, high + 1)
    return plans.build(network, x, random_spec(seed, len(network.layers))), x, labels


def random_run(seed):
    """Any network of two layers, any rule: the plan, payloads and labels of four samples."""
    rng = np.random.default_rng(seed)
    mode = str(rng.choice(MODES))
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
    rule = random_rule(rng)
    x, labels = data(4, seed, high + 1)
    return plans.build(network, x, mode, rule), x, labels


def shrink(x, numerator, bits=12):
    """x · numerator / 2^bits, rounded towards zero, one number after the other."""
    return np.array([int(abs(int(i)) * numerator >> bits) * (1 if i > 0 else -1) for i in x])


def brute_force(plan, x, labels, steps, seed, graded=False):
    """The documented rule, one number after the other, with Lava's random streams drawn ahead.

    For networks of dense layers alone, without a front. Nothing is shared with the code under test
    but the plan's numbers. Of each plastic place the mantissas and x1 after every step, y1 − y2 as
    it came in every step; and the spikes of each hidden layer.
    """
    network, T, E = plan.network, len(x), plan.rule.epoch
    interval, hidden = T + plan.rule.gap, range(max(head.layer for head in plan.heads) + 1)
    heads = {head.place: head for head in plan.heads}
    stages = {stage.layer: stage for stage in plan.stages}
    places = [*hidden, *heads]
    weight = {i: network.layers[i].synapse.weight.astype(int) for i in hidden}
    weight |= {place: head.weight.astype(int) for place, head in heads.items()}
    exponent = {p: plan.plastic[p].exponent if p in plan.plastic else 0 for p in places}
    weight = {p: w >> exponent[p] for p, w in weight.items()}
    reads = {p: heads[p].layer if p in heads else p - 1 for p in places}
    numbers = {}
    for p in plan.plastic:
        rule, kind = plan.numbers[p], "readout" if p in heads else "hidden"
        tau, impulse = getattr(rule, f"{kind}_tau"), getattr(rule, f"{kind}_impulse")
        numbers[p] = tau, None if graded and p == 0 else impulse
    neuron = {i: network.layers[i].neuron for i in hidden}
    ranks = plan.ranks(x.shape[1])

    weight_draw = np.random.default_rng(2).random(1 + steps)[1:]  # one a learning phase
    trace_draw = np.random.default_rng(seed).random(1 + 2 * steps)[2::2]
    factor_draw = np.random.default_rng(seed + 2).random(1 + 2 * steps)[2::2]

    def zeros(out):
        return {p: np.zeros(weight[p].shape[0 if out else 1], int) for p in places}

    a, third, u, v, r, factor = (zeros(True) for _ in range(6))
    trace, since = zeros(False), {p: [] for p in places}  # the messages of an epoch
    seen = {kind: {p: [] for p in plan.plastic} for kind in ("weights", "traces", "factors")}
    spikes = {i: [] for i in hidden}

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
        silent = np.zeros(x.shape[2], int)
        sent = {-1: x[step, sample] if sample < x.shape[1] and step < T else silent}
        for i in hidden:  # each lags by one step more
            n = neuron[i]
            if (t - 2 - i) % interval == 0:
                u[i][:], v[i][:] = 0, 0
            u[i] = shrink(u[i], 4096 - n.du) + 64 * a[i]
            u[i] = u[i] - (u[i] > 2**23) * 2**24 + (u[i] <= -(2**23)) * 2**24
            bias = int(n.bias) << n.bias_exp
            before = shrink(v[i], 4096 - n.dv) + u[i] + bias
            before = np.clip(before, 1 - 2**23, 2**23 - 1)
            sent[i] = before > n.vth * 64
            if i in stages:
                near = np.abs(before - n.vth * 64) < stages[i].window
                factor[i] = shrink(third[i], 1, stages[i].error_shift) * near
                factor[i] = np.clip(factor[i], -127, 127)
            v[i] = np.where(sent[i], 0, before)
        for p, head in heads.items():
            sample, step = divmod(t - 3 - head.layer, interval)
            if step == 0:
                r[p][:] = 0
            r[p] = shrink(r[p], 4096 - head.rule.leak) + a[p]
            e = factor[p] = np.zeros(len(r[p]), int)
            if not 0 <= sample < x.shape[1] or step >= T:
                continue
            if head.steps and ranks[sample, step] >= head.steps:
                continue
            target = np.eye(len(e), dtype=int)[labels[sample]] * head.rule.amplitude
            e = np.clip(target - np.clip(r[p] >> head.readout_shift, -127, 127), -127, 127)
            done = sample / x.shape[1]
            halvings = range(1, plan.rule.halvings + 1)
            factor[p] = shrink(e, 1, sum(done >= 1 - 0.5**i for i in halvings))
        for i, stage in stages.items():
            back = weight[stage.above].T if stage.feedback is None else stage.feedback
            third[i] = back @ factor[stage.above]
        for p in places:
            message = sent[reads[p]]
            a[p] = (weight[p] @ message) << exponent[p]
            since[p].append(message)
            if p in plan.plastic:
                arrive(trace[p], since[p], numbers[p][1])
        for p in plan.plastic:
            seen["factors"][p].append(factor[p].copy())
            if t % E == 0:
                settle(trace[p], since[p], *numbers[p], trace_draw[t - 1])
                draws = weight_draw[t // E - 1], factor_draw[t - 1]
                update(weight[p], trace[p], factor[p], plan.rates[p], *draws)
            seen["weights"][p].append(weight[p].copy())
            seen["traces"][p].append(trace[p].copy())
        if t % E == 0:
            since = {p: [] for p in places}
        for i in hidden:
            spikes[i].append(sent[i].copy())
    found = {k: {p: np.array(v) for p, v in of.items()} for k, of in seen.items()}
    return found, {i: np.array(v) for i, v in spikes.items()}


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
