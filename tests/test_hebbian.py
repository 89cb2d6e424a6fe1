"""STDP and reward-modulated STDP of a network's layer: in Lava and in the engine, and whether they
learn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.datasets import load_digits

from lava_export import netx
from loihi import (
    INTEGRATOR,
    Conv,
    Dense,
    Encoding,
    Layer,
    Network,
    Neuron,
    PumiceError,
    decide,
    reference,
)
from loihi.engine import Engine
from onchip import checkpoint
from onchip.draws import ROUNDINGS
from onchip.front import Front
from onchip.hebbian import REWARD, Hebbian, HebbianLearner, build, learn, simulate
from onchip.samples import Samples

REWARDED = replace(Hebbian.default("reward"), gap=6, depression=1.5)


def single(seed=0, high=1, steps=20, inputs=12, out=5):
    """One layer, read by its spikes, a quarter of which spike."""
    rng = np.random.default_rng(seed)
    neuron = Neuron(du=3000, dv=500, vth=250 * (1 + high // 3), bias=3)
    dense = Dense(rng.integers(0, 60, (out, inputs)))
    encoding = Encoding("events", steps, payload=(0, high))
    return Network((inputs,), (Layer(dense, neuron),), encoding, readout="spikes")


def deep(seed=0):
    """Image, convolution with a bias, hidden layer, readout."""
    rng = np.random.default_rng(seed)
    layers = (
        Layer(
            Conv(rng.integers(-50, 61, (3, 2, 2, 2))), Neuron(dv=400, vth=60, bias=4, bias_exp=3)
        ),
        Layer(Dense(rng.integers(-40, 61, (6, 12))), Neuron(du=3500, dv=600, vth=150, bias=5)),
        Layer(Dense(2 * rng.integers(-60, 61, (3, 6))), INTEGRATOR),
    )
    return Network((2, 3, 3), layers, Encoding("events", 12, payload=(-1, 2)))


def noise(network, samples, seed=0, rate=0.3):
    rng = np.random.default_rng(seed)
    low, high = network.encoding.payload
    shape = (network.time_steps, samples, *network.input_shape)
    return rng.integers(low, high + 1, shape) * (rng.random(shape) < rate)


def in_engine(block, x, answers, seed, pieces=(1, 7), **options):
    """Everything that happened, fed in pieces."""
    learner = HebbianLearner(block, answers, seed=seed, **options)
    found = []
    for part in np.split(np.arange(x.shape[1]), pieces):
        found += learner.learn(x[:, part], record=True)
    found += learner.finish(record=True)
    records, spikes = zip(*found, strict=True)
    names = {"weights": "weight", "tag_1": "tag", "x": "x", "y": "y"}
    seen = {
        name: np.concatenate([getattr(r, field) for r in records])
        for name, field in names.items()
        if getattr(records[0], field) is not None
    }
    return seen | {"spikes": np.concatenate(spikes)}, learner


@pytest.mark.lava
class TestEqualToLava:
    """Weights, tags, traces and spikes, after every step."""

    def assert_equal(self, block, x, answers, seed=3, given=False, moved=0.5):
        outcome = simulate(block, x, answers, seed=seed, given=given, record=True, deadline=250)
        seen, learner = in_engine(block, x, answers, seed, given=given)
        assert learner.step == outcome.steps == block.steps(x.shape[1])
        for name, values in seen.items():
            np.testing.assert_array_equal(values, outcome.history[name], name)
        np.testing.assert_array_equal(learner.learned, outcome.learned)
        assert 0.1 < seen["spikes"].mean() < 0.9
        assert (learner.learned != block.plastic.values).mean() > moved
        return seen

    def test_stdp(self):
        network = single()
        block = build(network, "stdp", Hebbian(gap=5))
        x = noise(network, 45)
        assert block.steps(45) > 1000
        self.assert_equal(block, x, np.zeros(45, int))

    def test_reward_of_a_hidden_layer_behind_a_convolution(self):
        network = deep()
        block = build(network, "reward", replace(REWARDED, epoch=2, baseline=2))
        assert block.index == 1 and block.plastic.exponent == 0
        x = noise(network, 60, rate=0.7)
        assert block.steps(60) > 1000
        seen = self.assert_equal(block, x, np.arange(60) % 3)
        assert (seen["y"][:, 1] > 0).any() and (seen["y"][:, 2] > 0).any()

    def test_given_rewards_graded_input(self):
        network = single(high=9)
        weight = network.layers[0].synapse.weight * 4  # with an exponent
        network = network.with_layer(0, replace(network.layers[0], synapse=Dense(weight)))
        layer = replace(network.layers[0], neuron=replace(network.layers[0].neuron, vth=2500))
        network = network.with_layer(0, layer)
        block = build(network, "reward", replace(REWARDED, epoch=3))
        assert block.plastic.exponent == 1 and block.graded
        self.assert_equal(block, noise(network, 12), np.arange(-60, 60, 10), given=True, moved=0.2)


def test_a_front_sends_what_the_reference_does():
    network = deep()
    awake = replace(network.layers[0].neuron, bias=9, bias_exp=6)  # without any input
    network = network.with_layer(0, replace(network.layers[0], neuron=awake))
    block = build(network, "stdp", Hebbian(gap=52, epoch=50))
    x = noise(network, 4)
    front = Front(block.network, block.index, block.interval, 1)
    tail = block.steps(4) - 4 * block.interval
    sent = [front.lead(), front.messages(x[:, :1]), front.messages(x[:, 1:])]
    sent = np.concatenate([*sent, front.silence(tail - len(sent[0]))])
    stream = np.zeros((4, block.interval, *network.input_shape), dtype=x.dtype)
    stream[:, : len(x)] = np.moveaxis(x, 1, 0)
    stream = stream.reshape(-1, 1, *network.input_shape)
    stream = np.concatenate([stream, np.zeros((tail, *stream.shape[1:]), dtype=x.dtype)])
    expected = reference.stream(network, stream, reset_interval=block.interval).spikes[0]
    np.testing.assert_array_equal(sent, expected.reshape(len(stream), -1))
    assert sent[-tail:].any() and sent[: len(sent) - tail].mean() > 0.05


@pytest.mark.parametrize("network", [single(), deep()])
def test_the_reward_is_for_what_the_network_decides(network):
    """With tags that are gone before the reward comes, so that nothing changes."""
    rule = replace(REWARDED, fading=1, baseline=0, gap=12)
    block = build(network, "reward", rule)
    x = noise(network, 40, seed=2, rate=0.6)
    x[-6:] = 0
    labels = np.arange(40) % network.classes
    seen, learner = in_engine(block, x, labels, 1)
    np.testing.assert_array_equal(learner.learned, block.plastic.values)
    decided = decide(Engine(network).predict(x))
    assert 2 < (decided == labels).sum() < 38
    when = block.judged + 1 + np.arange(40) * block.interval + network.time_steps
    rewards = seen["y"][:, 1] - seen["y"][:, 2]
    assert (np.flatnonzero(rewards.any(axis=1)) == when - 1).all()
    for sample, row in enumerate(rewards[when - 1]):
        sign = 1 if decided[sample] == labels[sample] else -1
        back = np.eye(network.classes, dtype=int)
        if len(network.layers) > 1:
            back = np.sign(network.layers[-1].synapse.weight)
        np.testing.assert_array_equal(row, sign * REWARD * back[decided[sample]])


def test_what_is_expected_is_no_reward():
    """Always right: rewards fade as the expectation grows."""
    network = single()
    block = build(network, "reward", replace(REWARDED, fading=1, baseline=2, gap=12))
    x = noise(network, 25)
    x[-6:] = 0
    seen, _ = in_engine(block, x, decide(Engine(network).predict(x)), 1)
    rewards = seen["y"][:, 1].max(axis=1)
    rewards = rewards[rewards > 0]
    expected, wanted = 0, []
    for _ in range(25):
        off = (REWARD << 8) - expected
        expected += off >> 2
        wanted.append(off >> 8)
    np.testing.assert_array_equal(rewards, [r for r in wanted if r > 0])
    assert rewards[0] == REWARD and rewards[5] < REWARD / 3


# --- it learns ----------------------------------------------------------------------------------


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_stdp_finds_what_comes_together(rounding):
    """Of 40 inputs of one rate the first half spike together: their weights grow, the others fall
    (Song, Miller and Abbott 2000)."""
    rng = np.random.default_rng(0)
    steps, samples = 50, 60
    together = rng.random((steps, samples, 1)) < 0.1
    x = (rng.random((steps, samples, 40)) < 0.1).astype(int)
    x[..., :20] = together & (rng.random((steps, samples, 20)) < 0.8)
    x[..., :20] |= rng.random((steps, samples, 20)) < 0.02
    assert abs(x[..., :20].mean() - x[..., 20:].mean()) < 0.005
    weight = rng.integers(20, 50, (8, 40))
    layer = Layer(Dense(weight), Neuron(du=4096, dv=800, vth=600))
    network = Network((40,), (layer,), Encoding("events", steps), readout="spikes")
    result = learn(network, x, rule=Hebbian(gap=4), epochs=2, rounding=rounding)
    learned = result.network.layers[0].synapse.weight
    assert abs(weight[:, :20].mean() - weight[:, 20:].mean()) < 2
    assert learned[:, :20].min() > 90 and learned[:, 20:].max() < 80
    assert learned[:, :20].mean() - learned[:, 20:].mean() > 120


def digits(*classes):
    data = load_digits()
    kept = np.isin(data.target, classes)
    x = data.images[kept].reshape(-1, 64)
    labels = np.unique(data.target[kept], return_inverse=True)[1]
    order = np.random.default_rng(0).permutation(len(x))
    return x[order], labels[order]


def accuracy(network, x, labels):
    return float((decide(Engine(network).predict(network.encoding.encode(x))) == labels).mean())


@pytest.mark.parametrize(("hidden", "seed"), [(False, 0), (False, 1), (True, 0)])
def test_reward_teaches_two_digits(hidden, seed, tmp_path):
    x, labels = digits(0, 1)
    rng = np.random.default_rng(seed)
    encoding = Encoding("rate", 24, low=0, high=16)
    out = 30 if hidden else 2
    layers = [Layer(Dense(rng.integers(0, 40, (out, 64))), Neuron(du=4096, dv=400, vth=1500))]
    if hidden:
        layers.append(Layer(Dense(rng.integers(-60, 61, (2, 30))), INTEGRATOR))
    readout = "membrane" if hidden else "spikes"
    network = Network((64,), tuple(layers), encoding, readout=readout)
    before = accuracy(network, x[240:], labels[240:])
    data = Samples(x[:240], encoding)
    result = learn(network, data, labels[:240], mode="reward", epochs=2, seed=seed)
    after = accuracy(result.network, x[240:], labels[240:])
    assert before < 0.8 and after > 0.95, (before, after)
    # A wrong reward teaches the opposite; and what was learned is what a file holds.
    if seed == 0:
        wrong = learn(network, data, 1 - labels[:240], mode="reward", epochs=2, seed=seed)
        assert accuracy(wrong.network, x[240:], labels[240:]) < 0.05
        netx.write(result.network, tmp_path / "learned.net")
        assert netx.read(tmp_path / "learned.net").layers[0] == result.network.layers[0]


# --- going on, and refusals ---------------------------------------------------------------------


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_goes_on_from_a_checkpoint(rounding, tmp_path):
    network = deep()
    block = build(network, "reward", replace(REWARDED, epoch=3))
    x, labels = noise(network, 30, rate=0.7), np.arange(30) % 3
    whole, learner = in_engine(block, x, labels, 2, pieces=(), rounding=rounding)
    one = HebbianLearner(block, labels, seed=2, rounding=rounding)
    one.learn(x[:, :13])
    checkpoint.write(tmp_path / "place", one, "run")
    two = HebbianLearner(block, labels, seed=2, rounding=rounding)
    checkpoint.restore(tmp_path / "place", two, "run")
    two.learn(x[:, 13:])
    two.finish()
    assert (two.step, two.samples) == (len(whole["weights"]), 30)
    for name, values in learner.state().items():
        np.testing.assert_array_equal(two.state()[name], values, name)


@pytest.mark.parametrize("mode", ["stdp", "reward"])
def test_a_run_that_is_killed_goes_on(mode, tmp_path, monkeypatch):
    """After each piece of 500 samples; to the weights of one left alone."""
    network = deep()
    x = noise(network, 40, rate=0.7)
    labels = None if mode == "stdp" else np.arange(40) % 3
    monkeypatch.setattr("onchip.samples.PIECE", 7)
    monkeypatch.setattr("onchip.samples.SAVE_AFTER", 0.0)
    options = {"mode": mode, "epochs": 2, "seed": 4}
    alone = learn(network, x, labels, **options)
    saved, done = tmp_path / "place", []

    def ends(samples: int, of: int) -> None:
        done.append(samples)
        if len(done) in (3, 5):
            raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            learn(network, x, labels, saved=saved, on_progress=ends, **options)
    result = learn(network, x, labels, saved=saved, on_progress=ends, **options)
    assert done == [7, 14, 21, 21, 28, 28, 35, 42, 49, 56, 63, 70, 77, 80]
    assert result.network == alone.network
    assert result.changed == alone.changed and result.steps < alone.steps
    again = learn(network, x, labels, saved=saved, **options)
    assert again.network == alone.network and again.steps == 0
    for other in ({"seed": 5}, {"epochs": 3}, {"rule": Hebbian(gap=3)}, {"rounding": "chip-like"}):
        if mode == "stdp" or "rule" not in other:
            with pytest.raises(PumiceError, match="is of another run"):
                learn(network, x, labels, saved=saved, **(options | other))
    with pytest.raises(PumiceError, match="is of another run"):
        learn(network, 1 - x, labels, saved=saved, **options)
    with pytest.raises(PumiceError, match="Lava can keep no checkpoint"):
        learn(network, x, labels, saved=saved, engine="lava", **options)


def test_settings():
    assert Hebbian.of(["gap=9", "rate=0.25"]) == Hebbian(gap=9, rate=0.25)
    assert Hebbian.of([], "reward") == Hebbian.default("reward") != Hebbian()
    for settings, said in (
        (["gain=1"], "name one of gap"),
        (["gap=x"], "no number"),
        (["gap=1.5"], "no number"),
        (["epoch=64"], "use a whole number 1..63"),
        (["gap=3", "epoch=5"], "it takes 7 for the reward"),
        (["pre_tau=0.5"], "use a number 1..32768"),
        (["rate=nan"], "rate is nan"),
    ):
        with pytest.raises(PumiceError, match=said):
            Hebbian.of(settings)
    with pytest.raises(PumiceError, match="coefficient-range"):
        build(single(), "stdp", Hebbian(potentiation=1e-5))
    with pytest.raises(PumiceError, match="nothing is learned"):
        build(single(), "stdp", Hebbian(potentiation=0, depression=0))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"mode": "hidden"}, "use stdp or reward"),
        ({"layer": 3}, "the network has 3"),
        ({"layer": 0}, "needs a dense layer here"),
        ({"layer": -1}, "needs a threshold above 0"),
        ({"epochs": 0}, "at least one"),
        ({"engine": "nengo"}, "use fast or lava"),
        ({"engine": "lava", "rounding": "chip-like"}, "rounds in its own way"),
        ({"rounding": "up"}, "use lava or chip-like"),
        ({"mode": "reward"}, "labels or rewards"),
        ({"mode": "reward", "labels": np.zeros(3, int)}, r"need labels \[5\], found \[3\]"),
        ({"mode": "reward", "labels": np.full(5, 3)}, r"classes 0\.\.2"),
        ({"mode": "reward", "labels": np.zeros(5)}, "class numbers"),
        ({"mode": "reward", "rewards": np.full(5, 1.5)}, r"−1\.0\.\.1\.0"),
        ({"rewards": np.full(5, 0.5)}, "'stdp' learns from no rewards"),
        ({"x": np.zeros((7, 5, 2, 3, 3), int)}, "7 steps a sample"),
        ({"x": np.zeros((12, 0, 2, 3, 3), int)}, "no sample"),
    ],
)
def test_refusals(change, said):
    given = {"x": noise(deep(), 5), **change}
    with pytest.raises(PumiceError, match=said) as caught:
        learn(deep(), given.pop("x"), given.pop("labels", None), **given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("steps", [7, 25])
def test_samples_of_another_length(steps):
    block = build(single(), "stdp", Hebbian(gap=16))
    x = np.zeros((steps, 3, 12), int)
    for call in (
        lambda: HebbianLearner(block, np.zeros(3)).learn(x),
        lambda: simulate(block, x, np.zeros(3)),
    ):
        with pytest.raises(PumiceError, match=f"samples of {steps} steps, .* encoding has 20"):
            call()


def test_what_cannot_be_rewarded():
    first, hidden, last = deep().layers
    spiking = replace(last, neuron=Neuron(vth=9))
    membrane = Network((2, 3, 3), (first, hidden, spiking), deep().encoding)
    with pytest.raises(PumiceError, match="readout 'spikes'"):
        build(membrane, "reward")
    assert build(replace(membrane, readout="spikes"), "reward").index == 2
    with pytest.raises(PumiceError, match="the one before a dense readout"):
        build(replace(membrane, readout="spikes"), "reward", layer=1)
    assert build(membrane, "stdp", layer=1).index == 1
    negative = replace(single(), encoding=Encoding("events", 20, payload=(-1, 1)))
    with pytest.raises(PumiceError, match="must not be negative"):
        build(negative, "stdp")
    only = Network((6,), (Layer(Dense(np.ones((3, 6), int)), INTEGRATOR),), Encoding("events", 5))
    with pytest.raises(PumiceError, match="needs a threshold"):
        build(only, "stdp")
