"""The ``onchip`` spec: what it says, what it refuses, and that its blocks are what they say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from onchip_model import CLASSES, RULE, STEPS, data, engine, small, tower
from sklearn.datasets import load_digits

from loihi import Conv, Encoding, Layer, Neuron, PumiceError
from onchip import plan as plans
from onchip.learn import accuracy, learn
from onchip.spec import Local, Rule, Spec

TEXT = """
seed = 7
[rule]
gap = 4
window = 2.5
[[block]]
layers = [0]
classifier = "trainable"
feedback = "random"
steps = 3
[[block]]
layers = [1, 2]
rule = { hidden_rate = -6, leak = 900 }
"""


def test_what_a_file_says(tmp_path):
    rule = Rule(gap=4, window=2.5)
    own = replace(rule, hidden_rate=-6, leak=900)
    expected = Spec(
        (Local((0,), "trainable", "random", 3), Local((1, 2), rule=own)),
        rule,
        seed=7,
    )
    path = tmp_path / "learn.toml"
    path.write_text(TEXT)
    assert Spec.read(path) == expected
    assert expected.rule_of(expected.blocks[0]) is rule


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no block is named"),
        ("[block]\nlayers = [0]", "with two brackets"),
        ("[[block]]", "as layers = "),
        ("[[block]]\nlayers = 0", "as layers = "),
        ("[[block]]\nlayers = ['a']", "layers are numbers"),
        ("[[block]]\nlayers = [true]", "layers are numbers"),
        ("[[block]]\nlayers = [0, 1, 2]", "at most 2"),
        ("[[block]]\nlayers = []", 'its classifier must be "trainable"'),
        ("[[block]]\nlayers = [0]\nfeedback = 'mirrored'", "mirrors nothing"),
        ("[[block]]\nlayers = [0]\nfeedback = 'x'", "feedback is 'x', use fixed or random or"),
        ("[[block]]\nlayers = [0]\nclassifier = 1", "classifier is 1, use fixed or trainable"),
        ("[[block]]\nlayers = [0]\nsteps = -1", "steps is -1"),
        ("[[block]]\nlayers = [0]\nstep = 1", "a block has no 'step': use layers, classifier"),
        ("[[block]]\nlayers = [0]\nrule = 3", "rule: a table is needed, found 3"),
        ("[[block]]\nlayers = [0]\nrule = {gap = 3}", "rule.gap is common to all"),
        ("[[block]]\nlayers = [0]\nrule = {gaps = 3}", "gaps: name one of gap"),
        ("[rule]\ngap = 2\n[[block]]\nlayers = [0, 1]", "blocks of 2 layers need 3"),
        ("[rule]\ngap = 2.5\n[[block]]\nlayers = [0]", "gap is 2.5, use a whole number"),
        ("[rule]\nwindow = nan\n[[block]]\nlayers = [0]", "window is nan"),
        ("[rule]\nwindow = '2'\n[[block]]\nlayers = [0]", "window is 2, it must be positive"),
        ("seed = -1\n[[block]]\nlayers = [0]", "seed is -1"),
        ("rules = 1\n[[block]]\nlayers = [0]", "the spec has no 'rules': use rule, block, seed"),
        ("[[block]\nlayers = [0]", "no TOML"),
    ],
)
def test_a_bad_file_is_one_line(tmp_path, text, words):
    path = tmp_path / "learn.toml"
    path.write_text(text)
    with pytest.raises(PumiceError) as caught:
        Spec.read(path)
    assert words in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_file(tmp_path):
    with pytest.raises(PumiceError, match="No such file"):
        Spec.read(tmp_path / "none.toml")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PumiceError, match="no UTF-8 text"):
        Spec.read(tmp_path / "binary")


@pytest.mark.parametrize(
    ("blocks_", "words"),
    [
        ([Local((3,))], "layer 3 is no hidden layer, this network has 0..2"),
        ([Local((-5,))], "layer -5 is no hidden layer"),
        ([Local((0, 2))], "not one behind the other"),
        ([Local((1, 0))], "not one behind the other"),
        ([Local((1,)), Local((0,))], "from front to back"),
        ([Local((0, 1)), Local((1, 2))], "share no layer"),
        ([Local((2,)), Local((), "trainable")], "make that trainable"),
        ([Local((), "trainable"), Local((0,))], "from front to back"),
        ([Local((0,), steps=STEPS + 1)], f"samples have {STEPS} steps"),
    ],
)
def test_blocks_that_do_not_fit_the_network(blocks_, words):
    x, labels = data()
    with pytest.raises(PumiceError) as caught:
        learn(tower(), x, labels, spec=Spec(tuple(blocks_), RULE))
    assert words in str(caught.value)


def test_layers_that_cannot_take_part():
    """A convolution behind the first that learns; a threshold that lets nothing through."""
    x, _ = data()
    network = tower()
    first, second, third, last = network.layers
    still = replace(second, neuron=Neuron(vth=0))
    with pytest.raises(PumiceError, match="1 dense 6-5: a hidden layer that learns"):
        plans.build(replace(network, layers=(first, still, third, last)), x, Spec((Local((1,)),)))
    spec = Spec((Local((0,)), Local((2,))))
    assert plans.build(replace(network, layers=(first, still, third, last)), x, spec).first == 0
    image = replace(
        network,
        input_shape=(1, 1, 7),
        layers=(Layer(Conv(np.ones((6, 1, 1, 7), int)), first.neuron), second, third, last),
    )
    x = x.reshape(STEPS, -1, 1, 1, 7)
    with pytest.raises(PumiceError, match=r"0 conv 6@1x7: .* needs a dense layer here"):
        plans.build(image, x, spec)
    assert plans.build(image, x, Spec((Local((1,)), Local((2,))))).first == 1


@pytest.mark.parametrize("steps", [1, 3, STEPS])
def test_errors_in_k_steps(steps):
    """Of each sample in as many as asked for, drawn for each anew; and no factor without one."""
    x, labels = data(40, 2)
    spec = Spec((Local((0,), "trainable", steps=steps),), replace(RULE, amplitude=127), seed=3)
    plan = plans.build(small(2), x, spec)
    seen, _, _ = engine(plan, x, labels, 1)
    arrival = plan.heads[0].arrival
    error = seen["factors"][1][arrival : arrival + 40 * plan.interval].any(axis=1)
    error = error.reshape(40, plan.interval)
    assert not error[:, STEPS:].any()
    assert error.sum(axis=1).max() <= steps  # a readout may be right, with an error of 0
    assert error.sum() > 0.9 * 40 * steps
    assert (error[:, :STEPS].any(axis=0)).all(), "some step never had an error"
    third = seen["factors"][0][arrival + 1 : arrival + 1 + 40 * plan.interval].any(axis=1)
    assert not (third & ~error.reshape(-1)).any()


def test_feedback_is_what_it_says():
    x, _ = data()
    network = tower()
    for kind in ("fixed", "random", "mirrored"):
        plan = plans.build(network, x, Spec((Local((1, 2), "trainable", kind),)))
        lower, upper = plan.stages
        assert (lower.layer, lower.above, upper.layer, upper.above) == (1, 2, 2, 3)
        forward = [network.layers[i].synapse.weight.T for i in (2, 3)]
        for stage, weight in zip((lower, upper), forward, strict=True):
            if kind == "mirrored":
                assert stage.feedback is None
            else:
                assert stage.feedback.shape == weight.shape
                assert np.array_equal(stage.feedback, weight) == (kind == "fixed")


def test_a_classifier_of_its_own_is_no_part_of_the_network():
    x, labels = data(12)
    network = tower()
    result = learn(network, x, labels, spec=Spec((Local((0,), "trainable"),), RULE))
    assert set(result.changed) == {"0 dense 7-6", "classifier of 0 dense 7-6"}
    assert min(result.changed.values()) > 0
    assert result.learned[-1].shape == (CLASSES, 6)
    for before, after in zip(network.layers[1:], result.network.layers[1:], strict=True):
        np.testing.assert_array_equal(before.synapse.weight, after.synapse.weight)


@pytest.mark.parametrize(
    "blocks_",
    [
        [Local((0,)), Local((1,))],
        [Local((0,), "trainable", "mirrored"), Local((1,), "trainable", "mirrored")],
        [Local((0, 1))],
        [Local((0, 1), "fixed", "mirrored")],
        [Local((0, 1), "trainable", "random")],
        [Local((0, 1), steps=4)],
    ],
    ids=["two", "two-mirrored", "pair", "pair-mirrored", "pair-random", "pair-4-steps"],
)
def test_digits_are_learned(blocks_):
    """Two hidden layers from random weights, held-out digits; readout alone reaches less."""
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    x, y = x[order], y[order]
    encoding = Encoding("rate", 16, low=0, high=16)
    network = plans.random_network(64, (100, 60), 10, encoding)
    rule = Rule(gap=4, leak=1000, window=3.0, hidden_tau=4, readout_impulse=6)
    result = learn(
        network, encoding.encode(x[:700]), y[:700], spec=Spec(tuple(blocks_), rule), epochs=4
    )
    x_test = encoding.encode(x[1300:])
    assert accuracy(network, x_test, y[1300:]) < 0.3
    assert accuracy(result.network, x_test, y[1300:]) > 0.85
