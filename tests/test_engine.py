"""The fast engine against the reference: every spike, u, v and score, on random networks."""

from __future__ import annotations

import os
import signal
import time
import tracemalloc
from collections.abc import Iterator
from functools import partial

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_networks import graphs, networks, payloads, resonating

from loihi import (
    INTEGRATOR,
    ComplexDense,
    Conv,
    Dense,
    Edge,
    Encoding,
    Layer,
    Network,
    Neuron,
    PumiceError,
    Resonator,
    engine,
    products,
    reference,
    synapses,
)
from loihi.engine import Engine

pytestmark = pytest.mark.exactness
HEALTH = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.function_scoped_fixture]


STATES = ("spikes", "u", "v")
CHAINS = networks(soft=True, max_layers=4) | networks(graded=True, max_layers=4) | resonating()
ANY = CHAINS | graphs(soft=True)


def compare(network: Network, expected: reference.Trace, found: reference.Trace) -> None:
    for state in STATES:
        for name, a, b in zip(
            network.names, getattr(expected, state), getattr(found, state), strict=True
        ):
            np.testing.assert_array_equal(b, a, err_msg=f"{state} of layer {name}")
            assert a.dtype == b.dtype


@pytest.fixture(params=["chosen", "rows", "products", "products of 16 bits"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every synapse by the cheaper path, or all of them by one."""
    if request.param == "rows":
        monkeypatch.setattr(synapses, "PIECE", 1e9)
        monkeypatch.setattr(synapses, "POOL", 1e9)
    if request.param.startswith("products"):
        monkeypatch.setattr(synapses, "LOOK", 1e9)
    if request.param == "products of 16 bits":
        monkeypatch.setattr(products, "BYTES", False)
    return request.param


@settings(max_examples=120, deadline=None, suppress_health_check=HEALTH)
@given(st.data())
def test_engine_is_the_reference(path: str, data: st.DataObject) -> None:
    network = data.draw(ANY)
    x = data.draw(payloads(network))
    expected = reference.run(network, x, STATES)
    started = Engine(network, threads=1)
    compare(network, expected, started.run(x, STATES))
    np.testing.assert_array_equal(started.predict(x), reference.scores(network, expected))


@pytest.mark.parametrize("payload", [128, -128, 129, -129])
def test_the_edges_of_the_current_register(payload: int) -> None:
    # 8 · 128 · 128 << 6 is 2^23: the last current that does not wrap, and the first that does
    network = Network(
        (8,),
        (Layer(Dense(np.full((1, 8), 128)), Neuron(du=4096, dv=0, vth=131071)),),
        Encoding("events", 3, (-256, 255)),
    )
    x = np.full((3, 1, 8), payload, dtype=np.int16)
    expected, found = (
        f(x, ("u", "v")) for f in (partial(reference.run, network), Engine(network).run)
    )
    assert abs(int(expected.u[0][0, 0, 0])) <= 2**23
    np.testing.assert_array_equal(found.u[0], expected.u[0])
    np.testing.assert_array_equal(found.v[0], expected.v[0])


@pytest.mark.parametrize("payload", [255, -256])
def test_a_convolution_wraps_at_24_bits(payload: int) -> None:
    network = Network(
        (200, 2, 2),
        (Layer(Conv(np.full((1, 200, 1, 1), 255)), INTEGRATOR),),
        Encoding("events", 1, (-256, 255)),
    )
    x = np.full((1, 1, 200, 2, 2), payload, dtype=np.int16)
    wrapped = (200 * 255 * payload + 2**23) % 2**24 - 2**23
    assert wrapped != 200 * 255 * payload
    # << 6 leaves 32 bits, and u turns once by 2^24
    shifted = (wrapped * 64 + 2**31) % 2**32 - 2**31
    turned = (
        shifted - 2**24 if shifted > 2**23 else shifted + 2**24 if shifted <= -(2**23) else shifted
    )
    assert reference.run(network, x, ("u",)).u[0][0, 0, 0, 0, 0] == turned
    assert Engine(network).run(x, ("u",)).u[0][0, 0, 0, 0, 0] == turned


@pytest.mark.parametrize("sources", [1, 2])
def test_a_dense_sum_wraps_where_mantissas_do(path: str, sources: int) -> None:
    """Ones are stored as 128 · 2^−7: of 32 bits their sum has 25, others have more."""
    weight = np.ones((2, 66_000), dtype=int)
    weight[1, :9] = [255, 255, 3, 2, 1, 0, 0, 7, 9]
    x = np.full((2, 1, 66_000), 255, dtype=np.uint8)
    real, imag = Dense(weight[:1]), Dense(weight[1:])
    encoding = Encoding("events", 2, (0, 255))
    lif = Neuron(du=4096, vth=None)
    if sources == 1:
        layer = Layer(ComplexDense(real.weight, imag.weight), Resonator(100, 0, 4096))
    else:
        layer = Layer(real, lif, more=(Edge(imag, (-1,)),))
    network = Network((66_000,), (layer,), encoding)
    expected = reference.run(network, x, STATES)
    compare(network, expected, Engine(network, threads=1).run(x, STATES))
    if sources == 2:
        wrapped = (66_000 * 255 + 2**24) % 2**25 - 2**24
        total = wrapped + int(weight[1].sum()) * 255
        assert wrapped != 66_000 * 255
        shifted = (total * 64 + 2**31) % 2**32 - 2**31
        assert (expected.u[0][0, 0, 0] - shifted) % 2**24 == 0


def test_threads_and_chunks_change_nothing() -> None:
    rng = np.random.default_rng(0)
    network = Network(
        (2, 9, 9),
        (
            Layer(
                Conv(2 * rng.integers(-128, 128, (5, 2, 3, 3)), padding=1), Neuron(4096, 200, 90)
            ),
            Layer(Conv(np.full((5, 1, 3, 3), 20), stride=3, groups=5), Neuron(3000, 100, 30)),
            Layer(Dense(rng.integers(-128, 128, (7, 45))), INTEGRATOR),
        ),
        Encoding("events", 6),
    )
    count = 3 * (engine.CHUNK // 6) + 5
    x = (rng.random((6, count, 2, 9, 9)) < 0.3).astype(np.uint8)
    one, many = Engine(network, threads=1), Engine(network, threads=4)
    np.testing.assert_array_equal(one.predict(x), many.predict(x))
    np.testing.assert_array_equal(one.predict(x[:, 40:41]), many.predict(x)[40:41])
    for a, b in zip(one.run(x).spikes, many.run(x).spikes, strict=True):
        np.testing.assert_array_equal(a, b)


def test_an_engine_at_work_can_be_forked() -> None:
    """The threads of the parent are none of the child's."""
    layer = Layer(Dense(np.full((2, 3), 40)), Neuron())
    network = Network((3,), (layer,), Encoding("events", 2), "spikes")
    started = Engine(network, threads=2)
    x = np.ones((2, 4, 3), dtype=np.uint8)
    started.predict(np.ones((50, 4000, 3), dtype=np.uint8))  # enough for both threads to begin
    expected = started.predict(x)
    child = os.fork()
    if not child:
        os._exit(0 if np.array_equal(started.predict(x), expected) else 1)
    for _ in range(300):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        time.sleep(0.1)
    else:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        pytest.fail("the child waits for threads that it has not")
    assert status == 0


def test_no_samples_give_no_scores() -> None:
    network = Network((3,), (Layer(Dense(np.eye(3, dtype=int)), Neuron()),), Encoding("events", 2))
    assert Engine(network).predict(np.zeros((2, 0, 3), dtype=np.uint8)).shape == (0, 3)


def test_activity_counts_what_the_spikes_say() -> None:
    weight = np.array([[100, 0], [0, -100], [1, 1]])
    network = Network(
        (2,), (Layer(Dense(weight), Neuron(4096, 0, 64)),), Encoding("events", 4), "spikes"
    )
    x = np.ones((4, 1, 2), dtype=np.uint8)
    (found,) = Engine(network).activity(x)
    # 100 > 64 at every step; −100 never; 2, 4, 6, 8 never.
    assert (found.rate, found.silent, found.saturated) == (1 / 3, 2 / 3, 1 / 3)
    assert (found.peak_u, found.peak_v) == (6400, 4 * 6400)


# --- through time in slices ---------------------------------------------------------------------


@settings(max_examples=80, deadline=None, suppress_health_check=HEALTH)
@given(st.data())
def test_slices_and_streams_change_nothing(
    monkeypatch: pytest.MonkeyPatch, data: st.DataObject
) -> None:
    network = data.draw(ANY)
    x = data.draw(payloads(network, samples=data.draw(st.integers(1, 5))))
    expected = reference.run(network, x, STATES)
    scores = reference.scores(network, expected)
    whole = Engine(network, threads=1).activity(x)
    widest = max(int(np.prod(shape)) for shape in network.shapes)
    cuts = data.draw(st.lists(st.integers(0, len(x)), max_size=3).map(sorted))
    parts = [x[a:b] for a, b in zip([0, *cuts], [*cuts, len(x)], strict=True)]
    with monkeypatch.context() as patch:
        patch.setattr(engine, "CHUNK_SIZE", data.draw(st.integers(1, 4)) * 2 * widest)
        small = Engine(network, threads=1)
        compare(network, expected, small.run(x, STATES))
        np.testing.assert_array_equal(small.predict(x), scores)
        np.testing.assert_array_equal(small.predict(iter(parts)), scores)
        assert small.activity(iter(parts)) == whole
        for found in (reference.parts(network, iter(parts), STATES), small.parts(parts, STATES)):
            traces = list(found)
            assert [len(trace.v[0]) for trace in traces] == [len(part) for part in parts]
            joined = {
                state: [
                    np.concatenate(arrays)
                    for arrays in zip(*(getattr(trace, state) for trace in traces), strict=True)
                ]
                for state in STATES
            }
            compare(network, expected, reference.Trace(**joined))


def test_slices_are_as_long_as_memory_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the tests above would prove nothing about slices."""
    steps = []
    advance = Engine._advance

    def counted(self: Engine, piece: object, *rest: object) -> object:
        steps.append(piece.steps)
        return advance(self, piece, *rest)

    monkeypatch.setattr(Engine, "_advance", counted)
    monkeypatch.setattr(engine, "CHUNK_SIZE", 3 * 5)
    layer = Layer(Dense(np.full((5, 4), 3)), INTEGRATOR)
    network = Network((4,), (layer,), Encoding("events", 7))
    Engine(network, threads=1).predict(np.ones((7, 2, 4), dtype=np.uint8))
    assert steps == [3, 3, 1] * 2


@settings(max_examples=80, deadline=None, suppress_health_check=HEALTH)
@given(st.data())
def test_a_live_stream_is_the_reference(data: st.DataObject) -> None:
    network = data.draw(ANY)
    x = data.draw(payloads(network, samples=2))
    trace = reference.run(network, x, STATES)
    live = Engine(network, threads=1).live(samples=2)
    for _ in range(2):
        for t, step in enumerate(x):
            np.testing.assert_array_equal(live.step(step), trace.spikes[-1][t])
            np.testing.assert_array_equal(live.u, trace.u[-1][t])
            np.testing.assert_array_equal(live.v, trace.v[-1][t])
            so_far = reference.Trace(*([[a[: t + 1] for a in getattr(trace, s)] for s in STATES]))
            np.testing.assert_array_equal(live.scores(), reference.scores(network, so_far))
            assert live.steps == t + 1
        live.reset()
        assert live.steps == 0


def test_live_streams_do_not_disturb_each_other() -> None:
    layer = Layer(Dense(np.array([[40]])), Neuron(dv=0))
    started = Engine(Network((1,), (layer,), Encoding("events", 2), "spikes"))
    first, second = started.live(), started.live()
    one = np.ones((1, 1), dtype=np.uint8)
    assert [first.step(one).item() for _ in range(4)] == [0, 1, 0, 1]
    kept = second.v
    assert [second.step(one).item(), first.step(one).item()] == [0, 0]
    assert (kept == 0).all() and (second.v == 40 << 6).all()
    with pytest.raises(PumiceError, match="a step of 3 samples for 1 streams"):
        first.step(np.ones((3, 1), dtype=np.uint8))
    with pytest.raises(PumiceError, match=r"the network takes samples of 1, the data hold 2"):
        first.step(np.ones((1, 2), dtype=np.uint8))


def test_streams_that_are_none() -> None:
    layer = Layer(Dense(np.array([[40]])), Neuron(dv=0))
    started = Engine(Network((1,), (layer,), Encoding("events", 2), "spikes"))
    with pytest.raises(PumiceError, match="the stream is empty: not even one step says how many"):
        started.predict(iter([]))
    parts = [np.ones((1, samples, 1), dtype=np.uint8) for samples in (2, 3)]
    with pytest.raises(PumiceError, match="of the stream holds 3 samples, the first 2"):
        started.predict(iter(parts))


def repeated(part: np.ndarray, times: int) -> Iterator[np.ndarray]:
    for _ in range(times):
        yield part


@pytest.mark.parametrize("way", ["static", "array", "stream"])
def test_memory_does_not_grow_with_time(way: str) -> None:
    """Two wide layers, delays and a loop: 10,000 steps in what 100 take."""
    rng = np.random.default_rng(0)
    layers = (
        Layer(Dense(rng.integers(-9, 10, (3000, 8)), rng.integers(0, 3, (3000, 8))), Neuron(4096)),
        Layer(Dense(rng.integers(-9, 10, (4, 3000))), Neuron(2000, 90, 200)),
        Layer(Dense(rng.integers(-9, 10, (4, 4))), Neuron(), more=(Edge(Dense(np.eye(4)), (2,)),)),
    )
    network = Network((8,), layers, Encoding("events", 100), "spikes")
    started = Engine(network, threads=1)

    def peak(steps: int) -> int:
        x = (rng.random((100, 8, 8)) < 0.3).astype(np.uint8)
        if way == "array":
            x = np.tile(x, (steps // 100, 1, 1))
        data = np.broadcast_to(x[0], (steps, 8, 8)) if way == "static" else x
        tracemalloc.start()
        try:
            started.predict(repeated(x, steps // 100) if way == "stream" else data)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(100)
    assert peak(10_000) < 1.2 * peak(100)


def test_a_hundred_layers_and_ten_thousand_steps() -> None:
    """What goes in comes out: every layer passes its input on, so the counts are known."""
    rng = np.random.default_rng(0)
    weight = np.zeros((32, 32), dtype=int)
    weight[np.arange(32), rng.permutation(32)] = 100
    network = Network(
        (32,),
        tuple(Layer(Dense(weight), Neuron(dv=4096)) for _ in range(100)),
        Encoding("events", 10_000),
        "spikes",
    )
    x = (rng.random((10_000, 2, 32)) < 0.1).astype(np.uint8)
    expected = x.sum(axis=0, dtype=np.int64)
    for _ in range(100):
        expected = expected @ (weight > 0).T
    np.testing.assert_array_equal(Engine(network).predict(x), expected)
