"""Networks that are no chains: reference, engine and a simulator of plain Python integers agree.

The simulator below knows nothing of arrays: it is the equations of :class:`loihi.Layer` and Lava's
neuron, one neuron and one step at a time.
"""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from random_networks import graphs, payloads

from cli import raster
from cli.main import main
from lava_export import netx
from loihi import (
    INTEGRATOR,
    Conv,
    Dense,
    Edge,
    Encoding,
    Inject,
    Layer,
    Network,
    Neuron,
    PumiceError,
    reference,
)
from loihi import engine as engine_module
from loihi.engine import Engine
from onchip.learn import learn

pytestmark = pytest.mark.exactness
STATES = ("spikes", "u", "v")

# --- one neuron at a time -----------------------------------------------------------------------


def signed(x: int, bits: int) -> int:
    return (x + 2 ** (bits - 1)) % 2**bits - 2 ** (bits - 1)


def fade(x: int, decay: int) -> int:
    kept = abs(x) * (4096 - decay) // 4096
    return kept if x > 0 else -kept


def brute_force(network: Network, x: np.ndarray) -> dict[str, list[np.ndarray]]:
    """Of every layer ``spikes``, ``u`` and ``v``, ``[T, N, *shape]``."""
    steps, samples = x.shape[:2]
    found: dict[str, list[np.ndarray]] = {
        state: [np.zeros((steps, samples, *shape), dtype=np.int64) for shape in network.shapes]
        for state in STATES
    }
    for sample in range(samples):
        neuron = one_sample(network, x[:, sample])
        for layer, shape in enumerate(network.shapes):
            for step, at in product(range(steps), np.ndindex(*shape)):
                values = dict(zip(("u", "v", "spikes"), neuron(layer, at, step), strict=True))
                for state in STATES:
                    found[state][layer][(step, sample, *at)] = values[state]
    return found


def one_sample(network: Network, x: np.ndarray) -> Callable[..., tuple[int, int, int]]:
    """(u, v, spike) of a neuron after a step, as a function of layer, place and step (from 0)."""
    layers = network.layers
    shapes = {-1: network.input_shape, **dict(enumerate(network.shapes))}

    def heard(source: int, by: int, at: tuple[int, ...], step: int) -> int:
        step -= source >= by  # of itself or a later layer: the step before
        if step < 0:
            return 0
        return int(x[(step, *at)]) if source == -1 else neuron(source, at, step)[2]

    def through(synapse: Any, sources: Any, layer: int, at: tuple[int, ...], step: int) -> int:
        if isinstance(synapse, Inject):
            return sum(heard(source, layer, at, step) for source in sources)
        shape, total = shapes[sources[0]], 0
        if isinstance(synapse, Dense):
            for i, place in enumerate(np.ndindex(*shape)):
                delay = 0 if synapse.delay is None else int(synapse.delay[at[0], i])
                for source in sources:
                    total += int(synapse.weight[at[0], i]) * heard(
                        source, layer, place, step - delay
                    )
            return total
        (sy, sx), (py, px), (dy, dx) = synapse.stride, synapse.padding, synapse.dilation
        out, per_group, height, width = synapse.weight.shape
        group = at[0] // (out // synapse.groups)
        for c, i, j in product(range(per_group), range(height), range(width)):
            row, column = at[1] * sy - py + i * dy, at[2] * sx - px + j * dx
            if 0 <= row < shape[1] and 0 <= column < shape[2]:
                place = (group * per_group + c, row, column)
                for source in sources:
                    total += int(synapse.weight[at[0], c, i, j]) * heard(source, layer, place, step)
        return signed(total, 24)

    def current(layer: int, at: tuple[int, ...], step: int) -> int:
        said = layers[layer]
        default = (layer - 1,) if said.sources is None else said.sources
        total = through(said.synapse, default, layer, at, step)
        for edge in said.more:
            total += through(edge.synapse, edge.sources, layer, at, step)
        return total if said.carry is None else total + current(said.carry, at, step)

    @lru_cache(None)
    def neuron(layer: int, at: tuple[int, ...], step: int) -> tuple[int, int, int]:
        if step < 0:
            return 0, 0, 0
        u, v, _ = neuron(layer, at, step - 1)
        numbers = layers[layer].neuron
        bias = np.asarray(numbers.bias)
        own = int(bias[at] if bias.shape == shapes[layer] else bias[at[0]] if bias.ndim else bias)
        u = signed(fade(u, numbers.du) + signed(current(layer, at, step) * 64, 32), 32)
        u += -(2**24) if u > 2**23 else 2**24 if u <= -(2**23) else 0
        v = signed(fade(v, numbers.dv) + u + own * 2**numbers.bias_exp, 32)
        v = max(min(v, 2**23 - 1), 1 - 2**23)
        spike = numbers.vth is not None and v > numbers.vth * 64
        return u, 0 if spike else v, int(spike)

    return neuron


def check_all(network: Network, x: np.ndarray) -> dict[str, list[np.ndarray]]:
    """All three agree on every number; what they found."""
    expected = brute_force(network, x)
    in_reference = reference.run(network, x, STATES)
    in_engine = Engine(network, threads=1).run(x, STATES)
    for state in STATES:
        for name, brute, a, b in zip(
            network.names,
            expected[state],
            getattr(in_reference, state),
            getattr(in_engine, state),
            strict=True,
        ):
            np.testing.assert_array_equal(a, brute, err_msg=f"reference, {state} of layer {name}")
            np.testing.assert_array_equal(b, brute, err_msg=f"engine, {state} of layer {name}")
            assert a.dtype == b.dtype
    scores = Engine(network, threads=1).predict(x)
    np.testing.assert_array_equal(scores, reference.predict(network, x))
    last = expected["spikes"][-1].sum(0) if network.readout == "spikes" else expected["v"][-1][-1]
    np.testing.assert_array_equal(scores, last.reshape(len(last), -1))
    return expected


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_random_graphs(data: st.DataObject) -> None:
    network = data.draw(graphs())
    # A chain runs in hardware time, where a bias makes spikes before a sample that delays carry
    # into it, and this model is of local time.
    assume(not (network.is_chain and network.has_delays))
    check_all(network, data.draw(payloads(network, samples=2)))


# --- the graphs that people train ---------------------------------------------------------------


def kernels(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.integers(-60, 90, shape)


def sew(rng: np.random.Generator) -> Network:
    """Spike-element-wise blocks: the block's input is added to its output, as spikes."""
    lif, image = Neuron(4096, 400, 70), (2, 4, 4)
    conv = [
        Layer(Conv(kernels(rng, 2, 2, 3, 3), padding=1), lif, sources)
        for sources in ((-1,), (0,), (1,), (0, 2), (3,), (0, 2, 4))
    ]
    last = Layer(Dense(kernels(rng, 3, 32)), INTEGRATOR, (0, 2, 4, 5))
    return Network(image, (*conv, last), Encoding("events", 5))


def pre_activation(rng: np.random.Generator) -> Network:
    """Identity shortcuts of synaptic inputs, through three blocks; one with a shortcut of its own
    that halves the image."""
    lif = Neuron(4096, 300, 80, bias=np.array([3, -2]))
    down = Conv(2 * kernels(rng, 2, 2, 3, 3), stride=2, padding=1)
    layers = (
        Layer(Conv(kernels(rng, 2, 1, 3, 3), padding=1), lif),
        Layer(Conv(kernels(rng, 2, 2, 3, 3), padding=1), lif, carry=0),
        Layer(Conv(4 * kernels(rng, 2, 2, 3, 3) // 4, padding=1), lif, carry=1),
        Layer(down, lif, more=(Edge(Conv(kernels(rng, 2, 2, 1, 1), stride=2), (1,)),)),
        Layer(Conv(kernels(rng, 2, 2, 3, 3), padding=1), lif, carry=3),
        Layer(Dense(kernels(rng, 3, 8)), INTEGRATOR),
    )
    return Network((1, 4, 4), layers, Encoding("events", 4, (0, 255)))


def recurrent(rng: np.random.Generator) -> Network:
    """A dense layer that hears itself, with delays, and a readout."""
    again = Edge(Dense(kernels(rng, 6, 6), rng.integers(0, 3, (6, 6))), (0,))
    layers = (
        Layer(Dense(kernels(rng, 6, 4)), Neuron(2000, 500, 90, 5), more=(again,)),
        Layer(Dense(kernels(rng, 3, 6)), INTEGRATOR),
    )
    return Network((4,), layers, Encoding("events", 7, (-12, 140)))


def long_loop(rng: np.random.Generator) -> Network:
    """Three layers in a loop, the first fed by input and last through one synapse; one carries."""
    lif = Neuron(4096, 200, 40)
    layers = (
        Layer(Dense(kernels(rng, 4, 4)), lif, (-1, 2)),
        Layer(Dense(kernels(rng, 4, 4)), lif, (0,)),
        Layer(Dense(2 * kernels(rng, 4, 4)), lif, (1,), carry=0),
        Layer(Dense(kernels(rng, 4, 4)), lif, (-1, 2), carry=2),
    )
    return Network((4,), layers, Encoding("events", 6), "spikes")


def later_feeds_earlier(rng: np.random.Generator) -> Network:
    """No loop, though a layer is fed by a later one: a step late all the same."""
    lif = Neuron(4096, 0, 20)
    layers = (
        Layer(Dense(kernels(rng, 3, 5)), lif, (1,)),
        Layer(Dense(kernels(rng, 5, 4)), lif, (-1,)),
        Layer(Dense(kernels(rng, 3, 3)), lif, (0,), (Edge(Dense(kernels(rng, 3, 4)), (-1,)),)),
    )
    return Network((4,), layers, Encoding("events", 6), "spikes")


def injected(rng: np.random.Generator) -> Network:
    """Input neurons that hear a later layer, and whose input is carried."""
    lif = Neuron(3000, 200, 100)
    layers = (
        Layer(Inject(), lif, more=(Edge(Dense(2 * kernels(rng, 4, 4)), (1,)),)),
        Layer(Dense(2 * kernels(rng, 4, 4)), lif, (0,), carry=0),
        Layer(Dense(kernels(rng, 2, 4)), INTEGRATOR, (0, 1)),
    )
    return Network((4,), layers, Encoding("events", 6, (-256, 255)))


GRAPHS = [sew, pre_activation, recurrent, long_loop, later_feeds_earlier, injected]


@pytest.mark.parametrize("build", GRAPHS)
@pytest.mark.parametrize("static", [False, True])
def test_the_graphs_that_people_train(build: Callable[..., Network], static: bool) -> None:
    rng = np.random.default_rng(5)
    network = build(rng)
    first, last = network.encoding.payload
    x = rng.integers(first, last + 1, (network.time_steps, 2, *network.input_shape))
    if static:
        x = np.broadcast_to(x[0], x.shape)
    found = check_all(network, x)
    assert not network.is_chain
    spiking = [index for index, la in enumerate(network.layers) if la.neuron.vth is not None]
    assert all(found["spikes"][index].any() for index in spiking)  # a silent net proves nothing


@pytest.mark.parametrize("build", GRAPHS)
def test_threads_chunks_and_activity(build: Callable[..., Network], monkeypatch: Any) -> None:
    rng = np.random.default_rng(6)
    network = build(rng)
    first, last = network.encoding.payload
    x = rng.integers(first, last + 1, (network.time_steps, 2 * 32 + 5, *network.input_shape))
    expected = Engine(network, threads=1).predict(x)
    trace = reference.run(network, x, STATES)
    seen = Engine(network).activity(x)
    for layer, found, u, v in zip(network.layers, seen, trace.u, trace.v, strict=True):
        if found.peak_u <= 2**23:  # else it wrapped
            assert found.peak_u == abs(u).max() > 0
        if found.peak_v < 2**23:
            assert found.peak_v >= abs(v).max() > 0
            assert layer.neuron.vth is not None or found.peak_v == abs(v).max()
    assert min(found.peak_u for found in seen) <= 2**23
    for found, spikes in zip(seen, trace.spikes, strict=True):
        rate = spikes.mean(axis=(0, 1), dtype=np.float64)
        assert found.rate == pytest.approx(rate.mean(), abs=1e-12)
        assert found.silent == (rate == 0).mean()
        assert found.saturated == (rate == 1).mean()
    monkeypatch.setattr(engine_module, "CHUNK_SIZE", 1000)
    np.testing.assert_array_equal(Engine(network, threads=3).predict(x), expected)


def test_no_samples_and_no_steps() -> None:
    network = recurrent(np.random.default_rng(0))
    assert Engine(network).predict(np.zeros((7, 0, 4), dtype=np.uint8)).shape == (0, 3)
    nothing = np.zeros((0, 2, 4), dtype=np.uint8)
    assert Engine(network).run(nothing).spikes[0].shape == (0, 2, 6)
    assert reference.run(network, nothing).spikes[0].shape == (0, 2, 6)
    assert not Engine(network).predict(nothing).any()


# --- worked out by hand -------------------------------------------------------------------------


def test_a_loop_is_a_step_late_and_a_branch_is_not() -> None:
    pulse = np.zeros((4, 1, 1), dtype=np.uint8)
    pulse[0] = 1
    one = Dense(np.array([[100]]))
    # 100 > 64: spikes at once, and then of its own spike, one step later, for ever
    echo = Network(
        (1,), (Layer(one, Neuron(), more=(Edge(one, (0,)),)),), Encoding("events", 4), "spikes"
    )
    assert reference.run(echo, pulse).spikes[0][:, 0, 0].tolist() == [1, 1, 1, 1]
    # What a layer adds to itself with a delay of one comes every other step
    late = Edge(Dense(np.array([[100]]), np.array([[1]])), (0,))
    echo = echo.with_layer(0, Layer(one, Neuron(), more=(late,)))
    assert Engine(echo).run(pulse).spikes[0][:, 0, 0].tolist() == [1, 0, 1, 0]
    # Two spikes of the same step add up: 40 + 40 > 64, 40 is not
    layers = (
        Layer(one, Neuron()),
        Layer(one, Neuron(), (-1,)),
        Layer(Dense(np.array([[40]])), Neuron(dv=4096), (0, 1)),
        Layer(Dense(np.array([[40]])), Neuron(dv=4096), (1,)),
    )
    branch = Network((1,), layers, Encoding("events", 4), "spikes")
    trace = Engine(branch).run(pulse)
    assert trace.spikes[2][:, 0, 0].tolist() == [1, 0, 0, 0]
    assert not trace.spikes[3].any()


def test_carry_is_the_whole_input_and_no_bias() -> None:
    layers = (
        Layer(Dense(np.array([[10]])), Neuron(bias=7)),
        Layer(Dense(np.array([[5]])), Neuron(vth=None), (-1,), carry=0),
        Layer(Dense(np.array([[3]])), Neuron(vth=None), (-1,), carry=1),
    )
    network = Network((1,), layers, Encoding("events", 1))
    trace = reference.run(network, np.ones((1, 1, 1), dtype=np.uint8), ("u",))
    assert [int(u[0, 0, 0]) // 64 for u in trace.u] == [10, 10 + 5, 10 + 5 + 3]


# --- sums at the edges of their integers --------------------------------------------------------


def always(*shape: int, inputs: int = 1) -> Layer:
    """Neurons that spike at every step."""
    return Layer(Dense(np.ones((*shape, inputs), dtype=int)), Neuron(vth=0, bias=1), (-1,))


@pytest.mark.parametrize("kind", ["sources", "more", "carry", "loop"])
def test_all_that_is_added_counts_for_the_width_of_a_sum(kind: str) -> None:
    """Each part stays below 2^15, the sum does not."""
    wide = Dense(np.full((2, 200), 127))  # 25,400
    reader = {
        "sources": Layer(wide, INTEGRATOR, (0, 1)),
        "more": Layer(wide, INTEGRATOR, (0,), (Edge(wide, (1,)),)),
        "carry": Layer(wide, INTEGRATOR, (0,), carry=2),
        "loop": Layer(wide, INTEGRATOR, (0,), (Edge(wide, (1,)), Edge(Dense(np.eye(2)), (3,)))),
    }[kind]
    layers = (always(200), always(200), Layer(wide, INTEGRATOR, (1,)), reader)
    network = Network((1,), layers, Encoding("events", 2))
    x = np.zeros((2, 1, 1), dtype=np.uint8)
    expected = 2 * 25400 * 64
    for trace in (reference.run(network, x, ("u",)), Engine(network).run(x, ("u",))):
        assert trace.u[3][0, 0].tolist() == [expected, expected]


def test_summed_payloads_outgrow_their_bytes() -> None:
    ones, itself = Dense(np.ones((3, 3), dtype=int)), Edge(Dense(np.eye(3)), (2,))
    layers = (
        Layer(Dense(np.zeros((3, 3), dtype=int)), Neuron(vth=0, bias=1)),  # spikes at every step
        Layer(Dense(np.ones((1, 3), dtype=int)), INTEGRATOR, (-1, 0)),
        Layer(ones, INTEGRATOR, (-1, 0), (itself,)),
    )
    network = Network((3,), layers, Encoding("events", 1, (0, 255)))
    x = np.full((1, 1, 3), 255, dtype=np.uint8)
    for trace in (reference.run(network, x, ("u",)), Engine(network).run(x, ("u",))):
        assert trace.u[1][0, 0, 0] == 3 * 256 * 64
        assert trace.u[2][0, 0].tolist() == [3 * 256 * 64] * 3


def test_many_sources() -> None:
    layers = [always(2) for _ in range(300)]
    layers.append(Layer(Dense(np.array([[1, 1]])), INTEGRATOR, tuple(range(300))))
    network = Network((1,), tuple(layers), Encoding("events", 1))
    x = np.zeros((1, 1, 1), dtype=np.uint8)
    assert Engine(network).run(x, ("u",)).u[-1][0, 0, 0] == 600 * 64


def test_each_convolution_wraps_on_its_own() -> None:
    """Lava keeps each convolution's sum in 24 bits, and adds up connections in 32."""
    conv = Conv(np.full((1, 140, 1, 1), 255))
    again = Conv(np.full((1, 140, 1, 1), -255))
    layers = (
        Layer(conv, Neuron(du=4096, vth=None), (-1,), (Edge(again, (-1,)), Edge(conv, (-1,)))),
        Layer(conv, Neuron(du=4096, vth=None), (-1,), carry=0),
    )
    network = Network((140, 1, 1), layers, Encoding("events", 1, (-256, 255)))
    exact = 140 * 255 * 255
    assert exact > 2**23
    check_all(network, np.full((1, 1, 140, 1, 1), 255))
    wrapped = exact - 2**24
    u = reference.run(network, np.full((1, 1, 140, 1, 1), 255), ("u",)).u
    turned = [signed(total * 64, 32) for total in (wrapped, 2 * wrapped)]
    turned = [t - 2**24 if t > 2**23 else t + 2**24 if t <= -(2**23) else t for t in turned]
    assert [int(u[k].ravel()[0]) for k in (0, 1)] == turned


# --- what cannot be -----------------------------------------------------------------------------


def test_graphs_have_no_hardware_time_yet() -> None:
    network = sew(np.random.default_rng(0))
    with pytest.raises(PumiceError, match=r"branches has no hardware time yet: use reference.run"):
        reference.stream(network, np.zeros((5, 1, 2, 4, 4), dtype=np.uint8))


def test_learning_is_refused_in_a_line() -> None:
    network, x = recurrent(np.random.default_rng(0)), np.zeros((7, 2, 4), dtype=np.uint8)
    with pytest.raises(PumiceError, match="branches or recurrence cannot learn on the chip yet"):
        learn(network, x, np.zeros(2, dtype=int))


def test_a_graph_on_the_command_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(1)
    network = replace(sew(rng), encoding=Encoding("rate", 5, low=0, high=255))
    model, data = str(tmp_path / "model.net"), str(tmp_path / "data.npz")
    netx.write(network, model)
    x, y = rng.integers(0, 256, (6, 2, 4, 4), dtype=np.uint8), np.array([0, 1, 2, 0, 1, 2])
    np.savez(data, x_train=x, y_train=y, x_test=x, y_test=y)
    answers = []
    for engine in ("fast", "reference"):
        assert main(("simulate", model, "--data", data, "--engine", engine, "--json")) == 0
        answers.append(json.loads(capfd.readouterr().out)["correct"])
    assert answers[0] == answers[1]
    main(("check", model, "--data", data, "--json"))
    rules = json.loads(capfd.readouterr().out)["rules"]
    assert {"branches", "branch delay"} <= {rule["rule"] for rule in rules}


@pytest.mark.lava
@pytest.mark.parametrize("build", [sew, long_loop])
def test_a_graph_on_the_command_line_in_lava(
    build: Callable[..., Network], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """It runs and is proved; a loop that is too slow for Lava is refused in a line."""
    rng = np.random.default_rng(1)
    network = replace(build(rng), encoding=Encoding("rate", 5, low=0, high=255))
    model, data = str(tmp_path / "model.net"), str(tmp_path / "data.npz")
    netx.write(network, model)
    x = rng.integers(0, 256, (2, *network.input_shape), dtype=np.uint8)
    np.savez(data, x_train=x, y_train=[0, 1], x_test=x, y_test=[0, 1])
    for command in (
        ("simulate", model, "--engine", "lava"),
        ("verify", model, "--samples", "2", "--json"),
    ):
        code, said = main((*command, "--data", data)), capfd.readouterr()
        assert "Traceback" not in said.err
        if build is sew:
            assert code == 0
        else:
            assert code == 1
            assert said.err.count("too slow for a chip and Lava") == 1
            continue
        if command[0] == "verify":
            assert json.loads(said.out)["mismatches"] == 0


def test_a_picture_of_a_graph() -> None:
    network = sew(np.random.default_rng(2))
    x = np.ones((5, 1, 2, 4, 4), dtype=np.uint8)
    trace = Engine(network).run(x, ("spikes", "v"))
    picture = raster.draw(network, trace, x[0, 0, 0], 1, "a graph")
    assert picture.startswith(b"\x89PNG")


def test_deep_networks_do_not_keep_what_nobody_needs() -> None:
    """Sixty layers that spike a megabyte each, and hardly a few of them in memory at once."""
    conv = Conv(np.full((8, 1, 1, 1), 90), groups=8)
    layers = [Layer(conv, Neuron(), carry=None if k % 2 == 0 else k - 1) for k in range(60)]
    network = Network((8, 64, 64), tuple(layers), Encoding("events", 4), "spikes")
    engine = Engine(network, threads=1)
    x = np.ones((4, 8, 8, 64, 64), dtype=np.uint8)
    engine.predict(x[:, :1])
    tracemalloc.start()
    try:
        engine.predict(x)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 20 * x.size
