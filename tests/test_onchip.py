"""The learning block, against a second model of the documented rule and against the reference."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from loihi import INTEGRATOR, Conv, Dense, Encoding, Inject, Layer, Network, Neuron, PumiceError
from loihi import lava_compat, reference
from onchip import block as blocks
from onchip.block import Mantissas, Rule
from onchip.learn import accuracy, learn
from onchip.simulate import simulate

needs_lava = [
    pytest.mark.lava,
    pytest.mark.skipif(not lava_compat.status().installed, reason="Lava is not installed"),
]
STEPS, INPUTS, HIDDEN, CLASSES = 5, 7, 6, 3
RULE = Rule(gap=3, hidden_rate=-4, readout_rate=-5, hidden_impulse=40)


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


def shrink(x, numerator, bits=12):
    """x · numerator / 2^bits, rounded towards zero, one number after the other."""
    return np.array([int(abs(int(i)) * numerator >> bits) * (1 if i > 0 else -1) for i in x])


def brute_force(block, x, labels, steps, seed, graded=False):
    """The documented rule, one number after the other, with Lava's random streams drawn ahead.

    Two synapses, 1 and 2, with traces and weights; nothing is shared with the code under test
    but the block's numbers.
    """
    rule, (first, last) = block.rule, block.network.layers
    neuron, T = first.neuron, len(x)
    w1, w2 = first.synapse.weight.astype(int), last.synapse.weight.astype(int)
    B, interval = w2.T.copy(), T + rule.gap
    weight_draw = np.random.default_rng(2).random(1 + steps)[1:]
    trace_draw = np.random.default_rng(seed).random(1 + 2 * steps)[2::2]
    a1, a2, third = np.zeros(len(w1), int), np.zeros(len(w2), int), np.zeros(len(w1), int)
    u, v, r = np.zeros(len(w1), int), np.zeros(len(w1), int), np.zeros(len(w2), int)
    x1, x2 = np.zeros(w1.shape[1], int), np.zeros(w2.shape[1], int)
    bias = int(neuron.bias) << neuron.bias_exp
    w1_history, w2_history, spike_history = [], [], []

    def trace(old, spikes, tau, impulse, draw):
        new = []
        for value, s in zip(old, spikes, strict=True):
            if graded and s and impulse is None:
                value = int(np.round(s / 2))
            faded = np.exp(-1 / tau) * value
            faded = int(np.floor(faded)) + int(draw < faded % 1)
            new.append(min(127, faded + (impulse if s and impulse is not None else 0)))
        return np.array(new)

    def update(w, pre, post, rate, draw):
        for i in range(w.shape[0]):
            for j in range(w.shape[1]):
                up = (int(pre[j]) * max(0, min(127, int(post[i]))) >> 3) << (rate + 7)
                down = (-int(pre[j]) * max(0, min(127, -int(post[i]))) >> 3) << (rate + 7)
                accumulator = min(2**15 - 1, max(-(2**15) - 1, int(w[i, j]) * 128 + up))
                accumulator = min(2**15 - 1, max(-(2**15) - 1, accumulator + down))
                whole, part = divmod(accumulator, 128)
                w[i, j] = min(127, max(-128, whole + int(draw < part / 128)))

    for t in range(1, steps + 1):
        sample, step = divmod(t - 1, interval)
        s0 = x[step, sample] if sample < x.shape[1] and step < T else np.zeros(w1.shape[1], int)
        if (t - 2) % interval == 0:  # the hidden neurons lag by one step
            u[:], v[:] = 0, 0
        u = shrink(u, 4096 - neuron.du) + 64 * a1
        before = shrink(v, 4096 - neuron.dv) + u + bias
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
        a1, a2, third = w1 @ s0, w2 @ s1, B @ e
        x1 = trace(
            x1, s0, rule.hidden_tau, None if graded else rule.hidden_impulse, trace_draw[t - 1]
        )
        x2 = trace(x2, s1, rule.readout_tau, rule.readout_impulse, trace_draw[t - 1])
        if 0 in block.plastic:
            update(w1, x1, g, block.rates[0], weight_draw[t - 1])
        if 1 in block.plastic:
            update(w2, x2, e, block.rates[1], weight_draw[t - 1])
        w1_history.append(w1.copy())
        w2_history.append(w2.copy())
        spike_history.append(s1.copy())
    return {0: np.array(w1_history), 1: np.array(w2_history)}, np.array(spike_history)


def assert_equal_at_every_step(network, x, labels, mode, rule=RULE, graded=False):
    block = blocks.build(network, x, mode, rule)
    outcome = simulate(block, x, labels, seed=5, record=True, deadline=100)
    expected, spikes = brute_force(block, x, labels, outcome.steps, 5, graded)
    assert outcome.steps == block.steps(len(labels))
    assert set(outcome.history) == set(block.plastic)
    for index, history in outcome.history.items():
        wrong = np.argwhere(history << block.plastic[index].exponent != expected[index])
        assert not len(wrong), f"layer {index} differs first at [step, out, in] {wrong[0]}"
        moved = (history[1:] != history[:-1]).any(axis=(1, 2)).sum()
        assert moved > len(history) / 5, "too little was learned for this test to mean anything"
        np.testing.assert_array_equal(outcome.learned[index], history[-1])
    np.testing.assert_array_equal(outcome.spikes[0], spikes)
    return outcome


class TestEveryWeightAtEveryStep:
    pytestmark = needs_lava

    @pytest.mark.parametrize("mode", blocks.MODES)
    def test_spikes_in(self, mode):
        x, labels = data()
        outcome = assert_equal_at_every_step(small(), x, labels, mode)
        rate = outcome.spikes[0].mean()
        assert 0.1 < rate < 0.9

    def test_leaky_readout_bias_and_current(self):
        x, labels = data(seed=3)
        rule = replace(RULE, leak=700, window=2.0, hidden_rate=-2)
        assert_equal_at_every_step(small(3, du=2000, bias=7, vth=150), x, labels, "both", rule)

    def test_graded_input(self):
        x, labels = data(seed=4, high=61)
        network = replace(small(4, vth=2000), encoding=Encoding("events", STEPS, payload=(0, 60)))
        assert_equal_at_every_step(network, x, labels, "hidden", graded=True)
