"""NIR out and in: networks there and back, and graphs against Euler steps of their equations."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

nir = pytest.importorskip("nir")

from nir_euler import simulate  # noqa: E402
from random_networks import graphs, networks, payloads  # noqa: E402

from lava_export import netx, nir_io  # noqa: E402
from lava_export.nir_io import NirError, hdf5, writer  # noqa: E402
from loihi import (  # noqa: E402
    INTEGRATOR,
    Conv,
    Delta,
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
from loihi.formats import STATE_MAX  # noqa: E402

DT = nir_io.DT
CALM = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # these tensors are too small to share
    yield
    torch.set_num_threads(threads)


def writable(network: Network) -> bool:
    """NIR would send the membrane of a layer that never spikes."""
    heard = {s for i in range(len(network.layers)) for _, of in network.synapses(i) for s in of}
    return all(network.layers[s].neuron.vth is not None for s in heard if s >= 0)


# --- out, and back ------------------------------------------------------------------------------


@CALM
@given(data=st.data())
def test_there_and_back(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    network = data.draw(st.one_of(networks(), graphs(max_layers=4)))
    assume(writable(network))
    soft = data.draw(st.integers(0, len(network.layers) - 1))
    layers = list(network.layers)
    neuron = replace(layers[soft].neuron, reset="soft")  # type: ignore[arg-type]
    layers[soft] = replace(layers[soft], neuron=neuron)
    encoding = replace(network.encoding, low=-0.25, high=np.float64(1) / 3, seed=7)
    network = replace(network, layers=tuple(layers), encoding=encoding)
    dt = data.draw(st.sampled_from([1e-4, 1.0, 0.003]))
    try:
        graph = nir_io.to_graph(network, dt)
    except NirError as error:
        assert "this step and of the one before" in str(error)  # noqa: PT017
        return
    found = nir_io.from_graph(graph)
    assert found.network == network
    assert found.layers == ()
    if data.draw(st.integers(0, 3)) == 0:
        path = tmp_path_factory.mktemp("nir") / "model.nir"
        nir_io.write(network, path, dt)
        assert nir_io.read(path).network == network


@CALM
@given(data=st.data())
def test_euler_steps_are_the_chip(data: st.DataObject) -> None:
    """Where nothing is rounded, wrapped or clipped, the graph spikes as the chip does, and its
    membranes are the chip's."""
    network = data.draw(st.one_of(networks(), graphs(max_layers=4)))
    assume(writable(network))
    biased = any(la.neuron.has_bias for la in network.layers)
    # A chain's biased neurons spike before their input arrives, and delays keep these spikes.
    assume(not (network.is_chain and network.has_delays and biased))
    whole = st.sampled_from([4096, 0])
    layers = [
        replace(la, neuron=replace(la.neuron, du=data.draw(whole), dv=data.draw(whole)))  # type: ignore[arg-type]
        for la in network.layers
    ]
    encoding = replace(network.encoding, payload=(0, 1))
    network = replace(network, layers=tuple(layers), encoding=encoding)
    x = data.draw(payloads(network))
    trace = reference.run(network, x, ("spikes", "u", "v"))
    largest = max(int(np.abs(s.astype(np.int64)).max()) for s in (*trace.u, *trace.v))
    assume(largest < STATE_MAX - 1)
    try:
        graph = nir_io.to_graph(network)
    except NirError:
        assume(False)
    found = simulate(graph, x, [f"neurons_{i}" for i in range(len(layers))])
    for i, layer in enumerate(network.layers):
        sent = found[f"neurons_{i}"]
        if layer.neuron.vth is not None:
            assert np.array_equal(sent, trace.spikes[i]), graph.nodes.keys()
        else:
            unit = writer.pool_unit(network, i) or 1.0
            assert np.allclose(64 * unit * sent, trace.v[i], atol=0.5)


@pytest.mark.parametrize("du", [4096, 700, 1])
@pytest.mark.parametrize("dv", [4096, 300, 0])
@pytest.mark.parametrize("vth", [None, 131071])
def test_decays_are_the_chips(du: int, dv: int, vth: int | None) -> None:
    """In real numbers: to the chip's rounding to zero, a unit of 1/64 in each step."""
    layer = Layer(Dense(np.array([[100, -3]])), Neuron(du, dv, vth, bias=7))
    network = Network((2,), (layer,), Encoding("events", 30))
    x = np.random.default_rng(0).integers(0, 2, (30, 4, 2)).astype(np.uint8)
    graph = nir_io.to_graph(network)
    node = graph.nodes["neurons_0"]
    if hasattr(node, "tau_syn"):
        assert 1 - DT / node.tau_syn[0] == pytest.approx(1 - du / 4096, abs=1e-11)
    tau = getattr(node, "tau_mem", getattr(node, "tau", None))
    assert (1 if tau is None else 1 - DT / tau[0]) == pytest.approx(1 - dv / 4096, abs=1e-11)
    if vth is not None:
        return
    v = simulate(graph, x, ["neurons_0"])["neurons_0"]
    chip = reference.run(network, x, ("v",)).v[0]
    steps = np.arange(1, 31)[:, None, None]
    assert (np.abs(64 * v - chip) <= steps * (steps + 1) / 2 + steps).all()
    assert chip.max() > 3000


def test_a_carried_input_is_without_its_bias() -> None:
    first = Layer(Dense(np.array([[20, -3], [7, 30]])), Neuron(4096, 0, 40, np.array([15, 9])))
    second = Layer(Dense(np.array([[3, 4], [5, 6]])), Neuron(4096, 0, 50), carry=0)
    network = Network((2,), (first, second), Encoding("events", 9))
    x = np.random.default_rng(0).integers(0, 2, (9, 5, 2)).astype(np.uint8)
    found = simulate(nir_io.to_graph(network), x, ["neurons_0", "neurons_1"])
    expected = reference.run(network, x).spikes
    for index in range(2):
        assert np.array_equal(found[f"neurons_{index}"], expected[index])
        assert expected[index].any()


def image(soft: bool = False) -> Network:
    """1x8x8: a convolution, pooling, dense with a bias, and membranes."""
    rng = np.random.default_rng(0)
    return Network(
        (1, 8, 8),
        (
            Layer(Conv(2 * rng.integers(-50, 60, (3, 1, 3, 3)), 1, 1), Neuron(4096, 300, 90)),
            Layer(Conv(np.full((3, 1, 2, 2), 20), 2, groups=3), Neuron(4096, 4096, 30)),
            Layer(
                Dense(rng.integers(-20, 40, (6, 48))),
                Neuron(4096, 512, 64, rng.integers(-9, 9, 6), reset="soft" if soft else "hard"),
            ),
            Layer(Dense(rng.integers(-20, 40, (4, 6))), INTEGRATOR),
        ),
        Encoding("rate", 9, low=0.0, high=255.0, seed=3),
        "membrane",
    )


def test_what_others_read(tmp_path: Path) -> None:
    """nir's own reader, types checked; written again by it, the graph is still ours."""
    nir_io.write(image(), tmp_path / "model.nir")
    graph = nir.read(tmp_path / "model.nir")
    assert [type(graph.nodes[n]).__name__ for n in ("pool_1", "flatten_2", "neurons_3")] == [
        "AvgPool2d",
        "Flatten",
        "CubaLI",
    ]
    nir.write(tmp_path / "again.nir", graph)
    assert nir_io.read(tmp_path / "again.nir").network == image()


def test_losses() -> None:
    oblong = Layer(Conv(np.array([[[[1, 2, 3]]]])), Neuron())
    said = " | ".join(nir_io.losses(Network((1, 8, 9), (oblong,), Encoding("events", 3))))
    assert "layer 0 conv 1@1x3: nir 1.0.8 infers wrong types" in said
    assert "soft reset" not in said
    said = " | ".join(nir_io.losses(image(soft=True)))
    assert "layer 2 dense 48-6: NIR has no soft reset" in said
    assert "wrong types" not in said


SIGMA = Network((2,), (Layer(Inject(), Delta()),), Encoding("events", 4))


@pytest.mark.parametrize(
    ("network", "says"),
    [
        (SIGMA, "layer 0 input 2: NIR has no Delta neurons"),
        (
            Network(
                (2,),
                (Layer(Dense(np.eye(2)), INTEGRATOR), Layer(Dense(np.eye(2)), Neuron())),
                Encoding("events", 4),
            ),
            "layer 1 dense 2-2 is fed by layer 0 dense 2-2, which never spikes",
        ),
        (
            Network(
                (2,),
                (
                    Layer(Dense(np.eye(2)), Neuron(), more=(Edge(Dense(np.eye(2)), (-1, 0)),)),
                    Layer(Dense(np.eye(2)), Neuron(), carry=0),
                ),
                Encoding("events", 4),
            ),
            "carries a synapse that adds spikes of this step and of the one before",
        ),
    ],
)
def test_what_nir_cannot_say_is_refused(network: Network, says: str, tmp_path: Path) -> None:
    with pytest.raises(NirError, match=says):
        nir_io.write(network, tmp_path / "model.nir")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dt", [0.0, -1.0, np.inf, np.nan])
def test_a_step_takes_time(dt: float) -> None:
    for convert in (lambda: nir_io.to_graph(image(), dt), lambda: made(small(), dt=dt)):
        with pytest.raises(NirError, match="a step lasts longer than 0 seconds"):
            convert()


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "no" / "model.nir"
    with pytest.raises(PumiceError, match="cannot be written"):
        nir_io.write(image(), path)


def test_without_nir(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Reading does without the package; writing says what to install."""
    nir_io.write(image(), tmp_path / "model.nir")
    monkeypatch.setitem(__import__("sys").modules, "nir", None)
    assert nir_io.read(tmp_path / "model.nir").network == image()
    with pytest.raises(NirError, match="pip install 'nir"):
        nir_io.write(image(), tmp_path / "other.nir")


# --- our own graphs, changed by others ----------------------------------------------------------


def changed_stride(graph: Any) -> str:
    graph.nodes["pool_1"].stride = np.array([1, 1])
    graph.nodes["pool_1"].kernel_size = np.array([5, 5])
    return "node neurons_1"  # its threshold is in units of the average


def changed_threshold(graph: Any) -> str:
    graph.nodes["neurons_2"].v_threshold *= 2
    return "node neurons_2"


def another_edge(graph: Any) -> str:
    graph.edges.append(("pool_1", "neurons_0"))
    return "the list of edges"


def another_node(graph: Any) -> str:
    graph.nodes["more"] = nir.Scale(np.ones(4))
    return "node more"


def lost_node(graph: Any) -> str:
    del graph.nodes["flatten_2"]
    return "node flatten_2"


@pytest.mark.parametrize(
    "change", [changed_stride, changed_threshold, another_edge, another_node, lost_node]
)
def test_a_changed_graph_is_not_taken_for_ours(change: Any) -> None:
    graph = nir_io.to_graph(image())
    what = change(graph)
    with pytest.raises(NirError, match=f"{what} is not what pumice wrote there"):
        nir_io.from_graph(graph)


def test_a_field_more_is_a_change() -> None:
    graph = nir_io.to_graph(image()).to_dict()
    graph["nodes"]["neurons_0"]["refractory"] = np.ones(3)
    with pytest.raises(NirError, match="node neurons_0 is not what pumice wrote there"):
        nir_io.from_graph(graph)


def test_weights_can_be_changed() -> None:
    """To other whole numbers: they stand in the graph alone."""
    graph = nir_io.to_graph(image())
    graph.nodes["dense_2"].weight[0, 0] += 1
    found = nir_io.from_graph(graph).network
    weight = image().layers[2].synapse.weight.copy()  # type: ignore[union-attr]
    weight[0, 0] += 1
    assert found == image().with_layer(2, replace(image().layers[2], synapse=Dense(weight)))
    graph.nodes["dense_2"].weight[0, 0] += 0.5
    with pytest.raises(NirError, match=r"weight\[0, 0\] is .*\.5: only whole .* without them"):
        nir_io.from_graph(graph)


def test_without_our_metadata_the_chips_numbers_are_found_again() -> None:
    network = image()
    graph = nir_io.to_graph(network)
    found = nir_io.from_graph(graph, metadata=False, encoding=network.encoding)
    assert [r.scale for r in found.layers[:1] + found.layers[2:]] == [1, 1, 1]
    assert found.network.shapes == network.shapes
    # The integrator has its v in u; an average of (3, 30 / 20) and one of twice that are the same.
    for index in (0, 2):
        assert found.network.layers[index] == network.layers[index]
    x = network.encoding.encode(np.random.default_rng(0).integers(0, 256, (20, 1, 8, 8)))
    ours, theirs = (reference.run(n, x, ("spikes", "v")) for n in (network, found.network))
    for a, b in zip(ours.spikes, theirs.spikes, strict=True):
        assert np.array_equal(a, b)
    assert np.array_equal(ours.v[3], theirs.v[3])


@pytest.mark.parametrize(
    ("said", "says"),
    [
        ({"version": 3}, "metadata are of version 3: pumice knows 2"),
        ({"network": "{"}, "metadata under pumice cannot be read"),
        ({"network": "[" * 100_000}, "metadata under pumice cannot be read"),
        (
            {"network": json.dumps({"layers": [], "readout": "spikes"})},
            "cannot be read: 'encoding'",
        ),
        ({"dt": "soon"}, "cannot be read: could not convert"),
        ({"dt": 0.0}, "cannot be read: dt is 0"),
        ({"sha256": "0"}, "metadata under pumice are not what pumice wrote"),
        ({"dt": 0.5}, "metadata under pumice are not what pumice wrote"),
    ],
)
def test_metadata_that_cannot_be_read(said: dict[str, Any], says: str) -> None:
    graph = nir_io.to_graph(image())
    graph.metadata["pumice"] |= said
    with pytest.raises(NirError, match=says):
        nir_io.from_graph(graph)


def test_metadata_beyond_the_chip() -> None:
    graph = nir_io.to_graph(image())
    about = json.loads(graph.metadata["pumice"]["network"])
    about["layers"][0]["du"] = 5000
    graph.metadata["pumice"]["network"] = json.dumps(about)
    with pytest.raises(NirError, match=r"du is 5000, outside 0\.\.4096"):
        nir_io.from_graph(graph)


@pytest.mark.parametrize("bound", [10**400, float("inf")])
def test_metadata_beyond_a_float(bound: float) -> None:
    graph = nir_io.to_graph(image())
    about = json.loads(graph.metadata["pumice"]["network"])
    about["encoding"]["high"] = bound
    graph.metadata["pumice"]["network"] = json.dumps(about)
    with pytest.raises(NirError, match="metadata under pumice cannot be read: ") as caught:
        nir_io.from_graph(graph)
    assert "\n" not in str(caught.value)


def test_an_endless_input_under_our_metadata() -> None:
    graph = nir_io.to_graph(image())
    graph.nodes["input"].input_type["input"] = np.array([1, np.inf, 8])
    with pytest.raises(NirError, match=r"metadata under pumice cannot be read: .*infinity"):
        nir_io.from_graph(graph)


# --- graphs of others ---------------------------------------------------------------------------


def full(value: Any, *shape: int) -> np.ndarray:
    return np.full(shape, value, dtype=np.float64)


def lif(*shape: int, tau: float = 2 * DT, r: Any = None, **other: Any) -> Any:
    """r = τ/dt: what enters adds as it is."""
    fields = {"v_leak": 0.0, "v_threshold": 60.0, "v_reset": 0.0, **other}
    return nir.LIF(
        tau=full(tau, *shape),
        r=full(tau / DT if r is None else r, *shape),
        **{key: full(value, *shape) for key, value in fields.items()},
    )


def if_(*shape: int, threshold: Any = 60.0, reset: Any = 0.0, r: Any = 1 / DT) -> Any:
    return nir.IF(full(r, *shape), full(threshold, *shape), full(reset, *shape))


def whole(*shape: int, seed: int = 0, low: int = -20, high: int = 30) -> np.ndarray:
    return np.random.default_rng(seed).integers(low, high, shape).astype(np.float64)


def conv(weight: np.ndarray, size: Any = None, bias: Any = 0.0, **other: Any) -> Any:
    geometry = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1, **other}
    kind = nir.Conv2d if weight.ndim == 4 else nir.Conv1d
    return kind(input_shape=size, weight=weight, bias=full(bias, len(weight)), **geometry)


def chain(shape: Any, *nodes: Any, **named: Any) -> Any:
    """Input, nodes, output; their names are their numbers, neurons' begin with n."""
    names = [f"n{i}" if isinstance(n, _NEURONS) else f"m{i}" for i, n in enumerate(nodes)]
    every = {"input": nir.Input(np.atleast_1d(shape)), **dict(zip(names, nodes, strict=True))}
    every["output"] = nir.Output(np.array([1]))
    edges = list(zip(list(every), list(every)[1:], strict=False))
    return nir.NIRGraph(every, edges, type_check=False)


_NEURONS = (nir.LIF, nir.IF, nir.CubaLIF, nir.Threshold, nir.LI, nir.I, nir.CubaLI)


def graph_of(nodes: dict[str, Any], edges: list[tuple[str, str]]) -> Any:
    return nir.NIRGraph(nodes, edges, type_check=False)


def small() -> Any:
    return chain(6, nir.Linear(whole(4, 6)), lif(4))


def made(graph: Any, steps: int = 12, payload: int = 1, **options: Any) -> Any:
    return nir_io.from_graph(graph, encoding=Encoding("events", steps, (0, payload)), **options)


def assert_same(
    graph: Any, neurons: str, least: float = 1.0, payload: int = 1, **options: Any
) -> Any:
    """The network spikes, and reads, as Euler steps of the graph do; ``neurons`` in their order.

    least: the share of equal spikes; 1 where all numbers are whole and nothing is rounded.
    """
    found = made(graph, payload=payload, **options)
    shape = np.atleast_1d(graph.nodes["input"].input_type["input"])
    rng = np.random.default_rng(1)
    x = (rng.random((12, 20, *shape)) < 0.4) * rng.integers(1, payload + 1, (12, 20, *shape))
    soft = options.get("reset") == "soft"
    order = neurons.split()
    theirs = simulate(graph, x, order, soft=soft, dt=options.get("dt", DT))
    given = x.reshape(12, 20, *found.network.input_shape).astype(np.int16)
    trace = reference.run(found.network, given, ("spikes", "v"))
    named = [r.layer for r in found.layers]
    for name in order:
        index = named.index(name)
        spikes, layer = theirs[name], found.network.layers[index]
        if layer.neuron.vth is None:
            v = trace.v[index] / 64 / found.layers[index].scale
            assert np.allclose(spikes.reshape(v.shape), v, rtol=1e-6, atol=1e-6), name
            continue
        assert 0.01 < spikes.mean() < 0.9, (name, spikes.mean())
        same = (spikes.reshape(trace.spikes[index].shape) == trace.spikes[index]).mean()
        assert same >= least, (name, same)
    assert named[-1] == order[-1]
    return found


def test_dense() -> None:
    graph = chain(
        6, nir.Affine(whole(8, 6), whole(8, seed=1, low=-9, high=9)), if_(8),
        nir.Linear(whole(4, 8, seed=2)), if_(4, threshold=35.0),
    )  # fmt: skip
    found = assert_same(graph, "n1 n3")
    assert found.network.is_chain
    assert found.network.readout == "spikes"


@pytest.mark.parametrize("tau", [DT, 2 * DT, 7.3 * DT, 100 * DT])
@pytest.mark.parametrize("r", [None, 1.0])
def test_leak(tau: float, r: float | None) -> None:
    """To the rounding of a decay to 4096ths and of v to zero."""
    r = tau / DT if r is None else r
    graph = chain(6, nir.Linear(whole(8, 6)), lif(8, tau=tau, r=r, v_threshold=60 * r * DT / tau))
    found = assert_same(graph, "n1", 0.98)
    assert found.network.layers[0].neuron.dv == round(4096 * DT / tau)


@pytest.mark.parametrize("bias", ["exact", "settled"])
def test_current(bias: Any) -> None:
    """A bias goes through the current in NIR, past it on the chip."""
    cuba = nir.CubaLIF(
        tau_syn=full(4 * DT, 8), tau_mem=full(5 * DT, 8), r=full(5, 8), v_leak=full(6, 8),
        v_threshold=full(100, 8), w_in=full(4, 8), v_reset=full(0, 8),
    )  # fmt: skip
    graph = chain(6, nir.Affine(whole(8, 6), whole(8, seed=3)), cuba)
    found = assert_same(graph, "n1", 0.985 if bias == "exact" else 0.75, bias=bias)
    neuron = found.network.layers[-1].neuron
    assert (neuron.du, neuron.dv) == (1024, 819)
    assert found.network.is_chain == (bias == "settled")
    settled = whole(8, seed=3) * 4 if bias == "settled" else 0  # Σ (3/4)^t
    assert found.layers[-1].bias == pytest.approx(np.abs(settled + 6 / 5).max())
    assert found.layers[-1].notes == (() if bias == "exact" else (found.layers[-1].notes[0],))
    plain = chain(6, nir.Linear(whole(8, 6)), cuba)
    assert assert_same(plain, "n1", 0.985).network.is_chain


def test_a_bias_into_a_current_that_keeps_all() -> None:
    cuba = nir.CubaLIF(
        full(1e6, 8), full(DT, 8), full(1, 8), full(0, 8), full(90, 8), w_in=full(1e6 / DT, 8)
    )
    graph = chain(6, nir.Affine(whole(8, 6), whole(8, seed=3)), cuba)
    assert assert_same(graph, "n1").network.layers[-1].neuron.du == 0
    with pytest.raises(NirError, match=r"node n1 .*: a bias flows into a current that never decay"):
        made(graph, bias="settled")


def test_a_bias_through_the_current_of_images() -> None:
    shape = (2, 4, 4)
    cuba = nir.CubaLIF(
        full(2 * DT, *shape), full(3 * DT, *shape), full(3, *shape), full(0, *shape),
        full(300, *shape), w_in=full(2, *shape),
    )  # fmt: skip
    weight = whole(2, 1, 3, 3)
    graph = chain((1, 6, 6), conv(weight, (6, 6)), cuba)
    graph.nodes["m0"].bias = np.array([100.0, -3.0])  # as large as several weights
    found = assert_same(graph, "n1", 0.98)
    assert found.network.layers[0].synapse.weight.shape == (4, 1, 3, 3)
    padded = chain((1, 4, 4), conv(weight, (4, 4), padding=1), cuba)
    with pytest.raises(NirError, match="differs within a channel"):
        made(padded, values=(-1.0, 1.0))


def test_no_current_memory_and_no_leak() -> None:
    threshold = nir.Threshold(full(25, 8))
    assert_same(chain(6, nir.Linear(whole(8, 6)), threshold), "n1")
    cuba = nir.CubaLIF(full(DT, 8), full(DT, 8), full(1, 8), full(3, 8), full(25, 8))
    assert_same(chain(6, nir.Linear(whole(8, 6)), cuba), "n1")


def test_reset_to_another_value() -> None:
    """v − v_reset is what the chip has; v_leak is not v_reset here."""
    node = lif(8, tau=4 * DT, v_reset=-20.0, v_leak=8.0)
    assert_same(chain(6, nir.Linear(whole(8, 6)), node), "n1", 0.99)
    assert_same(chain(6, nir.Linear(whole(8, 6)), if_(8, reset=-40.0)), "n1")


def test_soft_reset() -> None:
    graph = chain(6, nir.Linear(whole(8, 6)), if_(8))
    found = assert_same(graph, "n1", reset="soft")
    assert found.network.layers[0].neuron.reset == "soft"
    with pytest.raises(NirError, match=r"node n1 \(IF\): v_reset is -1: a soft reset takes"):
        made(chain(6, nir.Linear(whole(8, 6)), if_(8, reset=-1.0)), reset="soft")


def test_neurons_of_one_layer_that_differ() -> None:
    """Thresholds and resistances go into the weights; decays cannot."""
    rng = np.random.default_rng(0)
    node = lif(8, tau=DT * 4)
    node.v_threshold, node.r = 2.0 ** rng.integers(4, 7, 8), 4 * 2.0 ** rng.integers(-1, 2, 8)
    node.v_reset = node.v_threshold / -4
    node.v_leak = node.v_reset + rng.integers(-30, 31, 8)
    found = assert_same(chain(6, nir.Affine(whole(8, 6), whole(8)), node), "n1", 0.99)
    assert found.layers[0].threshold == 80
    node.tau = DT * np.linspace(4, 6, 8)
    graph = chain(6, nir.Linear(whole(8, 6)), node)
    with pytest.raises(
        NirError, match=r"tau differs between its neurons: decays of 0.1667 to 0.25"
    ):
        made(graph)
    found = made(graph, decays="mean")
    assert found.network.layers[0].neuron.dv == round(4096 * np.mean(DT / node.tau))
    assert "the mean of decays of 0.1667 to 0.25" in found.layers[0].notes[0]


def test_thresholds_of_channels() -> None:
    node = if_(2, 4, 4)
    node.v_threshold[1] *= 2
    graph = chain((1, 6, 6), conv(whole(2, 1, 3, 3), (6, 6)), node)
    assert_same(graph, "n1")
    node.v_threshold[1, 0, 0] = 1
    with pytest.raises(NirError, match=r"n1.*differs within a channel"):
        made(graph)


@pytest.mark.parametrize(
    ("nodes", "size"),
    [
        ([conv(whole(3, 1, 3, 2), (6, 7), 4.0, stride=(2, 1), padding=(1, 0))], (1, 6, 7)),
        ([conv(whole(4, 1, 3, 3), (6, 6), groups=2, dilation=2)], (2, 6, 6)),
        ([conv(whole(3, 1, 3, 5), (6, 6), padding="same")], (1, 6, 6)),
        ([conv(whole(3, 1, 3, 3), (6, 6), padding="valid")], (1, 6, 6)),
        ([nir.SumPool2d(np.array([2, 3]), np.array([2, 1]), np.array([0, 1])), nir.Scale(full(20, 2, 3, 6))], (2, 6, 6)),  # noqa: E501
        ([nir.Scale(full(64, 2, 6, 6)), nir.AvgPool2d(2, 2, 0)], (2, 6, 6)),
        ([conv(whole(3, 1, 3, 3), (8, 8), 2.0, padding=1), nir.SumPool2d(2, 2, 0)], (1, 8, 8)),
        ([nir.SumPool2d(2, 2, 0), conv(whole(3, 1, 3, 3), (4, 4), 2.0, padding=1)], (1, 8, 8)),
        ([nir.SumPool2d(2, 2, 0), conv(whole(3, 1, 2, 2), (3, 3), 2.0)], (1, 7, 6)),
        ([nir.Flatten(None, 0, -1), nir.Scale(full(30, 32))], (2, 4, 4)),
    ],
)  # fmt: skip
def test_images(nodes: list[Any], size: tuple[int, ...]) -> None:
    """What stands before the neurons is one convolution; the last layer hears it flattened."""
    probe = chain(size, *nodes, if_(1))
    shape = tuple(made(probe).network.shapes[0])
    if any(isinstance(n, nir.Flatten) for n in nodes):
        shape = (int(np.prod(shape)),)
    count = int(np.prod(shape))
    graph = chain(
        size, *nodes, if_(*shape, threshold=20.0), nir.Flatten(None, 0, -1),
        nir.Linear(whole(5, count, seed=4, low=-10, high=12)), if_(5),
    )  # fmt: skip
    names = [n for n in graph.nodes if n.startswith("n")]
    found = assert_same(graph, " ".join(names))
    assert found.network.is_chain
    assert isinstance(found.network.layers[0].synapse, Conv)
    assert isinstance(found.network.layers[1].synapse, Dense)


def test_a_pool_with_overlap_before_a_dense_layer() -> None:
    """No convolution is between them: a matrix holds any pooling, borders and all."""
    graph = chain(
        (2, 6, 6), conv(whole(2, 2, 3, 3), (6, 6), padding=1), if_(2, 6, 6),
        nir.SumPool2d(np.array([3, 3]), np.array([2, 2]), np.array([1, 1])),
        nir.Flatten(None, 0, -1), nir.Linear(whole(4, 18, seed=2, low=-5, high=7)), if_(4),
    )  # fmt: skip
    found = assert_same(graph, "n1 n5")
    assert found.network.layers[1].synapse.weight.shape == (4, 72)


def test_one_dimension() -> None:
    graph = chain(
        (2, 9), conv(whole(3, 2, 3), 9, 1.0, stride=2, padding=1), if_(3, 5),
        nir.Flatten(None, 0, -1), nir.Linear(whole(4, 15)), if_(4),
    )  # fmt: skip
    found = assert_same(graph, "n1 n4")
    assert found.network.input_shape == (2, 1, 9)
    assert found.network.layers[0].synapse.weight.shape == (3, 2, 1, 3)


def test_matrices_scales_and_biases_in_a_row() -> None:
    graph = chain(
        6, nir.Affine(whole(5, 6, low=-3, high=4), whole(5, seed=1, low=-2, high=3)),
        nir.Scale(np.array([1.0, 2, 1, 2, 4])),
        nir.Affine(whole(8, 5, seed=2, low=-3, high=4), whole(8, seed=3)), if_(8),
    )  # fmt: skip
    found = assert_same(graph, "n3")
    assert found.network.layers[0].synapse.weight.shape == (8, 6)


def test_input_straight_into_neurons() -> None:
    assert_same(chain(6, if_(6, threshold=1.5)), "n0")
    assert_same(chain((2, 3, 3), if_(2, 3, 3, threshold=2.5)), "n0")


def test_delays() -> None:
    early, late = np.arange(6) * DT, np.array([0, 3, 1, 0, 2, 0, 0, 5]) * DT
    graph = chain(
        6, nir.Delay(early), nir.Linear(whole(8, 6)), nir.Delay(late), if_(8),
        nir.Linear(whole(4, 8)), nir.Delay(full(2 * DT, 4)), if_(4, threshold=20.0),
    )  # fmt: skip
    found = assert_same(graph, "n3 n6")
    assert np.array_equal(found.network.layers[0].synapse.delay[1], np.arange(6) + 3)
    assert found.network.is_chain


def test_delays_between_steps_are_rounded() -> None:
    delay = np.array([0.0, 1.4, 2.0, 0.2, 3.0, 0.0]) * DT
    found = made(chain(6, nir.Delay(delay), nir.Linear(whole(4, 6)), if_(4)))
    assert found.network.layers[0].synapse.delay[0].tolist() == [0, 1, 2, 0, 3, 0]
    assert found.layers[0].notes == ("m0: delays rounded by up to 0.4 steps",)


def test_parallel_delays_are_one_synapse_where_they_can_be() -> None:
    w = whole(5, 6)
    nodes = {
        "input": nir.Input(np.array([6])), "a": nir.Linear(w * (w > 0)),
        "d": nir.Delay(full(2 * DT, 6)), "b": nir.Linear(w * (w < 0)), "n": if_(5),
        "output": nir.Output(np.array([5])),
    }  # fmt: skip
    edges = [("input", "a"), ("a", "n"), ("input", "d"), ("d", "b"), ("b", "n"), ("n", "output")]
    found = assert_same(graph_of(nodes, edges), "n")
    (layer,) = found.network.layers
    assert layer.more == ()
    assert np.array_equal(layer.synapse.delay, np.where(w < 0, 2, 0))
    nodes["b"].weight[:] = whole(5, 6, seed=9)  # both delays on one synapse: two of them
    found = assert_same(graph_of(nodes, edges), "n")
    assert len(found.network.layers[0].more) == 1


def test_recurrence_and_graphs_in_graphs() -> None:
    inner = {
        "in": nir.Input(np.array([8])), "lif": if_(8),
        "w_rec": nir.Affine(whole(8, 8, seed=5), whole(8)), "out": nir.Output(np.array([8])),
    }  # fmt: skip
    sub = graph_of(inner, [("in", "lif"), ("lif", "w_rec"), ("w_rec", "lif"), ("lif", "out")])
    graph = chain(6, nir.Linear(whole(8, 6)), sub, nir.Linear(whole(4, 8, seed=2)), if_(4))
    found = assert_same(graph, "m1/lif n3")
    (_, first), (_, again) = found.network.synapses(0)
    assert (first, again) == ((-1,), (0,))


def test_a_loop_of_two_layers() -> None:
    nodes = {
        "input": nir.Input(np.array([6])), "w": nir.Linear(whole(8, 6)), "z": if_(8),
        "v": nir.Linear(whole(7, 8, seed=1)), "a": if_(7), "back": nir.Linear(whole(8, 7, seed=2)),
        "r": nir.Linear(whole(4, 7, seed=3)), "n": if_(4, threshold=9.0),
        "output": nir.Output(np.array([4])),
    }  # fmt: skip
    edges = [
        ("input", "w"), ("w", "z"), ("z", "v"), ("v", "a"), ("a", "back"), ("back", "z"),
        ("a", "r"), ("r", "n"), ("n", "output"),
    ]  # fmt: skip
    found = assert_same(graph_of(nodes, edges), "z a n")
    assert found.network.synapses(0)[1][1] == (1,)


def test_branches_and_additions() -> None:
    """A residual block: two layers into one synapse, and a straight way past it."""
    nodes = {
        "input": nir.Input(np.array([6])), "w": nir.Linear(whole(8, 6)), "a": if_(8),
        "v": nir.Linear(whole(8, 8, seed=1)), "b": if_(8), "sum": nir.Linear(whole(8, 8, seed=2)),
        "c": if_(8, threshold=4.0), "output": nir.Output(np.array([8])),
    }  # fmt: skip
    edges = [
        ("input", "w"), ("w", "a"), ("a", "v"), ("v", "b"), ("a", "sum"), ("b", "sum"),
        ("sum", "c"), ("b", "c"), ("c", "output"),
    ]  # fmt: skip
    found = assert_same(graph_of(nodes, edges), "a b c")
    assert [of for _, of in found.network.synapses(2)] == [(1,), (0, 1)]


def test_an_output_without_neurons_adds_up() -> None:
    graph = chain(6, nir.Linear(whole(8, 6)), if_(8), nir.Affine(whole(4, 8), whole(4)))
    found = made(graph)
    assert found.network.readout == "membrane"
    assert "integrator" in found.layers[-1].notes[0]
    x = np.random.default_rng(0).integers(0, 2, (12, 5, 6)).astype(np.uint8)
    spikes = simulate(graph, x, ["n1"])["n1"]
    expected = (spikes @ whole(4, 8).T + whole(4)).sum(0)
    v = reference.run(found.network, x, ("v",)).v[-1][-1]
    assert np.array_equal(v / 64 / found.layers[-1].scale, expected)


@pytest.mark.parametrize("leak", [0.0, 3.0])
def test_membranes_are_read(leak: float) -> None:
    readers = [
        nir.I(full(1 / DT, 4)),
        nir.LI(full(DT, 4), full(1, 4), full(leak, 4)),
        nir.CubaLI(full(DT, 4), full(DT, 4), full(1, 4), full(leak, 4), full(1, 4)),
    ]
    for node in readers:
        graph = chain(6, nir.Linear(whole(8, 6)), if_(8), nir.Linear(whole(4, 8)), node)
        assert assert_same(graph, "n1 n3").network.readout == "membrane"


def test_several_outputs() -> None:
    nodes = {
        "input": nir.Input(np.array([6])), "w": nir.Linear(whole(8, 6)), "a": if_(8),
        "p": nir.Linear(whole(3, 8)), "n": if_(3), "one": nir.Output(np.array([3])),
        "q": nir.Linear(whole(5, 8)), "two": nir.Output(np.array([5])),
    }  # fmt: skip
    edges = [
        ("input", "w"),
        ("w", "a"),
        ("a", "p"),
        ("p", "n"),
        ("n", "one"),
        ("a", "q"),
        ("q", "two"),
    ]
    graph = graph_of(nodes, edges)
    with pytest.raises(NirError, match=r"2 outputs \(one, two\): say which is the answer"):
        made(graph)
    with pytest.raises(NirError, match="there is no Output node three: there is one, two"):
        made(graph, output="three")
    for name, layers in (("one", ["a", "two", "n"]), ("two", ["a", "n", "two"])):
        found = made(graph, output=name)
        assert [r.layer for r in found.layers] == layers
        assert found.network.outputs == (1, 2)
    edges.remove(("a", "q"))
    with pytest.raises(NirError, match="n is the answer, and feeds two as well"):
        made(graph_of(nodes | {"q": nir.Linear(whole(5, 3))}, [*edges, ("n", "q")]), output="one")


@pytest.mark.parametrize("first", [0, -5])
def test_values_of_payloads(first: int) -> None:
    """15 payloads stand for −1..1: a factor of the weights, and a bias for each neuron."""
    graph = chain(
        (1, 5, 5), conv(whole(3, 1, 3, 3) / 8, (5, 5), padding=1), lif(3, 5, 5, v_threshold=4.0),
        nir.Flatten(None, 0, -1), nir.Linear(whole(4, 75)), lif(4),
    )  # fmt: skip
    encoding = Encoding("graded", 12, (first, first + 15))
    found = nir_io.from_graph(graph, encoding=encoding, values=(-1.0, 1.0))
    assert found.network.layers[0].neuron.bias.shape == (3, 5, 5)  # borders see less of the offset
    x = np.broadcast_to(np.random.default_rng(0).integers(0, 16, (20, 1, 5, 5)), (12, 20, 1, 5, 5))
    theirs = simulate(graph, x / 7.5 - 1, ["n1", "n4"])
    spikes = reference.run(found.network, (x + first).astype(np.int16)).spikes
    for index, name in enumerate(("n1", "n4")):
        assert 0.03 < theirs[name].mean() < 0.9
        assert (spikes[index] == theirs[name]).mean() > 0.98
    with pytest.raises(NirError, match=r"values 1..1 are not a range"):
        made(graph, values=(1.0, 1.0))


def test_another_step() -> None:
    """Frameworks that count in steps have dt = 1."""
    graph = chain(6, nir.Linear(whole(8, 6)), lif(8, tau=4.0, r=4.0))
    found = made(graph, dt=1.0)
    assert found.network.layers[0].neuron.dv == 1024
    assert_same(graph, "n1", 0.99, dt=1.0)


def test_files_of_others(tmp_path: Path) -> None:
    """What nir wrote comes in as it would from memory."""
    graph = chain(
        (2, 8, 8), conv(whole(3, 2, 3, 3), (8, 8)), if_(3, 6, 6), nir.AvgPool2d(2, 2, 0),
        nir.Flatten(None, 0, -1), nir.Affine(whole(8, 27), whole(8)), lif(8),
        nir.Delay(full(DT, 8)), nir.Linear(whole(4, 8)), nir.I(full(1 / DT, 4)),
    )  # fmt: skip
    graph.nodes["m3"].input_type = {"input": np.array([3, 3, 3])}
    nir.write(tmp_path / "their.nir", graph)
    found = nir_io.read(tmp_path / "their.nir", encoding=Encoding("events", 12))
    assert found.network == made(graph).network
    netx.write(found.network, tmp_path / "model.net")
    assert netx.read(tmp_path / "model.net") == found.network


# --- what cannot be read ------------------------------------------------------------------------


def swapped(graph: Any, **nodes: Any) -> Any:
    return graph_of({**graph.nodes, **nodes}, graph.edges)


def with_edges(graph: Any, *edges: tuple[str, str]) -> Any:
    return graph_of(graph.nodes, [*graph.edges, *edges])


def without(graph: Any, *names: str) -> Any:
    nodes = {k: n for k, n in graph.nodes.items() if k not in names}
    return graph_of(nodes, [e for e in graph.edges if not set(names) & set(e)])


def field(graph: Any, node: str, **fields: Any) -> Any:
    for key, value in fields.items():
        setattr(graph.nodes[node], key, value)
    return graph


IMAGES = chain((2, 8, 8), conv(whole(3, 2, 3, 3), (8, 8)), if_(3, 6, 6))


def convolution(weight: Any = None, *after: Any, **geometry: Any) -> Any:
    weight = whole(3, 2, 3, 3) if weight is None else weight
    return chain((2, 8, 8), conv(weight, **geometry), *after, if_(1))


@pytest.mark.parametrize(
    ("graph", "says"),
    [
        (without(small(), "input"), "one Input node, this graph 0"),
        (swapped(small(), more=nir.Input(np.array([2]))), r"graph 2 \(input, more\)"),
        (without(small(), "output"), "the graph has no Output node"),
        (graph_of({}, []), "not a graph: it has no nodes"),
        (with_edges(small(), ("n1", "input")), "n1 feeds the Input node input"),
        (with_edges(small(), ("output", "m0")), "the Output node output feeds m0"),
        (with_edges(small(), ("m0", "n1")), "the edge from m0 to n1 is there twice"),
        (with_edges(small(), ("m0", "x")), "the edge from m0 to x: there is no node x"),
        (swapped(small(), x=lif(3)), r"node x \(LIF\): no way is reached from the Input"),
        (
            with_edges(swapped(small(), x=lif(4)), ("n1", "x")),
            r"node x \(LIF\): no way leads to an Output",
        ),
        (
            with_edges(
                swapped(small(), x=nir.Scale(np.ones(4))), ("m0", "x"), ("x", "x"), ("x", "n1")
            ),
            "a loop of them",
        ),
        # shapes and numbers
        (field(small(), "m0", weight=whole(4, 7)), "m0 takes 7 numbers, it is fed 6"),
        (field(small(), "m0", weight=full(np.nan, 4, 6)), r"m0 \(Linear\): weight holds nan"),
        (field(small(), "m0", weight=np.array(["a"])), "weight are no numbers"),
        (field(small(), "m0", weight=whole(1, 4, 6)), r"weight has shape \[1, 4, 6\], not 2"),
        (field(small(), "m0", weight=np.zeros((4, 0))), "weight is empty"),
        (chain((1, 6, 6, 6), if_(6)), r"shape \[1, 6, 6, 6\]: pumice has .* without an axis"),
        (chain(0, if_(1)), "shape is 0: whole numbers"),
        (chain((2**20, 2**20, 1), if_(1)), "too large"),
        (chain(20000, if_(20000)), "20000 x 20000: too large"),
        # neurons
        (field(small(), "n1", tau=full(-1, 4)), "tau is -1: time constants are positive"),
        (field(small(), "n1", tau=full(DT / 2, 4)), r"tau is 5e-05 s, shorter than a step of"),
        (field(small(), "n1", tau=full(np.inf, 4)), "tau is infinite: no input ever arrives"),
        (field(small(), "n1", r=full(np.inf, 4)), "r is infinite"),
        (field(small(), "n1", v_threshold=full(-1, 4)), "threshold below 0"),
        (
            field(small(), "n1", v_threshold=full(1, 4), v_reset=full(2, 4)),
            "v_threshold is below v_reset",
        ),
        (field(small(), "n1", v_threshold=np.array([0, 1, 1, 1])), "thresholds of 0 and others"),
        (field(small(), "n1", v_threshold=full(1, 5)), r"v_threshold has shape \[5\], .* fed 4"),
        (field(small(), "n1", v_leak=None), r"node n1 \(LIF\): v_leak is missing"),
        (
            chain(6, nir.I(full(1, 6)), nir.Linear(whole(4, 6)), if_(4)),
            r"node n2 \(IF\): n0 \(I\) feeds it a membrane",
        ),
        # delays
        (
            chain(6, nir.Delay(full(63 * DT, 6)), nir.Linear(whole(4, 6)), if_(4)),
            r"m0 \(Delay\): a delay of 63 steps of 0.0001 s: the chip has 0..62",
        ),
        (chain(6, *[nir.Delay(full(40 * DT, 6))] * 2, if_(6)), "80 steps of delay, 62 at most"),
        (
            chain(6, nir.Affine(whole(4, 6), whole(4)), nir.Delay(full(DT, 4)), if_(4)),
            "m1 delays a bias",
        ),
        (
            convolution(None, nir.Delay(full(DT, 3, 6, 6))),
            "m1: a convolution has no delays on the chip",
        ),
        # images
        (
            chain((2, 8, 8), nir.SumPool2d(3, 1, 0), conv(whole(3, 2, 3, 3), padding=1), if_(1)),
            "m0, m1: their padding and overlap cannot be merged",
        ),
        (
            chain((2, 8, 8), nir.Flatten(None, 1, -1), conv(whole(3, 2, 3)), if_(3, 62)),
            r"m1 \(Conv1d\): it is fed what was 2x8x8 before it was flattened",
        ),
        (chain((2, 8, 8), nir.Flatten(None, 2, 1), if_(1)), "end_dim do not fit 2x8x8"),
        (chain((2, 8, 8), nir.Flatten(None, 0, 7), if_(1)), "end_dim do not fit 2x8x8"),
        (chain(6, conv(whole(3, 2, 3, 3)), if_(1)), r"it takes images .*, it is fed 6"),
        (convolution(whole(3, 2, 9, 9)), "the kernel of m0 does not fit 2x8x8"),
        (convolution(groups=2), "3 channels do not divide into 2 groups"),
        (convolution(stride=0), "stride is 0, 0: use 1..32768"),
        (convolution(stride=1.5), "stride is .*: whole numbers, one or 2"),
        (convolution(whole(3, 2, 2, 2), padding="same"), "padding 'same' is not one and the same"),
        (convolution(padding=30000), "too large"),
        (field(convolution(), "m0", bias=whole(2)), r"m0 \(Conv2d\): bias has shape \[2\]"),
        (chain(6, nir.Linear(whole(8, 6)), *[nir.Scale(np.ones(8))] * 80, if_(8)), "in a row"),
    ],
)
def test_graphs_that_are_no_network(graph: Any, says: str) -> None:
    with pytest.raises(PumiceError, match=says) as caught:
        made(graph)
    assert "\n" not in str(caught.value)


def test_too_many_nodes_are_refused() -> None:
    more = {f"m{i}": nir.Scale(np.ones(4)) for i in range(4096)}
    with pytest.raises(NirError, match="more than 4096 nodes"):
        made(swapped(small(), **more))


def test_sums_of_different_shapes_are_refused() -> None:
    graph = with_edges(swapped(IMAGES, f=nir.Flatten(None, 0, -1)), ("m0", "f"), ("f", "n1"))
    with pytest.raises(NirError, match=r"it is fed .* by .*, which does not fit what"):
        made(graph)


def test_other_things_are_no_graph() -> None:
    for thing in (None, 3, nir.Linear(np.ones((2, 2)))):
        with pytest.raises(NirError, match="not a graph"):
            nir_io.from_graph(thing)  # type: ignore[arg-type]


# --- files that are none, or mean harm ----------------------------------------------------------


def corrupt(path: Path, change: Any) -> Path:
    nir.write(path, small())
    with h5py.File(path, "r+") as file:
        change(file)
    return path


def large(file: h5py.File) -> None:
    del file["node/nodes/m0/weight"]
    file["node/nodes/m0"].create_dataset("weight", (2**30, 2**10), "f8", chunks=(1024, 1024))


def many_strings(file: h5py.File) -> None:
    del file["node/edges"]
    file["node"].create_dataset(
        "edges",
        (10**7, 2),
        h5py.string_dtype(),
        fillvalue="x",
        compression="gzip",
        chunks=(1000, 2),
    )


def elsewhere(file: h5py.File) -> None:
    del file["node/nodes/m0/weight"]
    file["node/nodes/m0/weight"] = h5py.ExternalLink("/etc/passwd", "/")


def soft_link(file: h5py.File) -> None:
    del file["node/nodes/m0/weight"]
    file["node/nodes/m0/weight"] = h5py.SoftLink("/node/edges")


def loop(file: h5py.File) -> None:
    file["node/nodes/round"] = file["node"]
    file["node/nodes/about"] = file["node"]


def raw_outside(file: h5py.File) -> None:
    del file["node/nodes/m0/weight"]
    file["node/nodes/m0"].create_dataset("weight", (4, 6), "f8", external=[("/etc/passwd", 0, 192)])


def references(file: h5py.File) -> None:
    del file["node/nodes/m0/weight"]
    file["node/nodes/m0"].create_dataset("weight", data=file.ref, dtype=h5py.ref_dtype)


def nothing(file: h5py.File) -> None:
    del file["node/nodes/m0/weight"]
    file["node/nodes/m0/weight"] = h5py.Empty("f8")


def no_type(file: h5py.File) -> None:
    del file["node/nodes/m0/type"]


def unknown(file: h5py.File) -> None:
    del file["node/nodes/m0/type"]
    file["node/nodes/m0/type"] = "Quantum"


def node_is_array(file: h5py.File) -> None:
    del file["node"]
    file["node"] = np.ones(3)


def edges_of_three(file: h5py.File) -> None:
    del file["node/edges"]
    file["node/edges"] = np.array([["a", "b", "c"]], dtype=h5py.string_dtype())


def edges_of_numbers(file: h5py.File) -> None:
    del file["node/edges"]
    file["node/edges"] = 3


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (large, r"node/nodes/m0/weight is damaged: the file holds less than \[1073741824, 1024\]"),
        (many_strings, "node/edges.*damaged|node/edges: more than 100000 items"),
        (elsewhere, "node/nodes/m0/weight is a link to somewhere else"),
        (soft_link, "node/nodes/m0/weight is a link to somewhere else"),
        (loop, "more than 100000 items, or 16 groups in each other"),
        (raw_outside, "node/nodes/m0/weight is stored in another file"),
        (references, "node/nodes/m0/weight is an array of neither numbers nor strings"),
        (nothing, "node/nodes/m0/weight is empty"),
        (no_type, "node m0: type 'None' is nothing that pumice knows"),
        (unknown, "node m0: type 'Quantum' is nothing that pumice knows"),
        (node_is_array, "not a NIR file: node is no group"),
        (edges_of_three, "edges are not pairs of names"),
        (edges_of_numbers, "edges are not pairs of names"),
    ],
)
def test_files_that_mean_harm(change: Any, says: str, tmp_path: Path) -> None:
    path = corrupt(tmp_path / "model.nir", change)
    with pytest.raises(NirError, match=says) as caught:
        nir_io.read(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_all_arrays_together_have_a_limit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Zeros are small in a file; a thousand such arrays are not in memory."""
    path = tmp_path / "model.nir"
    scales = [nir.Scale(np.zeros(2**17)) for _ in range(5)]
    nir.write(path, chain(2**17, *scales, if_(1)))
    monkeypatch.setattr(hdf5, "LARGEST", 2**22)
    assert path.stat().st_size < 2**18
    with pytest.raises(NirError, match="scale: more than 4 MB in the file"):
        nir_io.read(path)


def test_files_that_are_none(tmp_path: Path) -> None:
    empty, text, cut = (tmp_path / name for name in ("empty.nir", "text.nir", "cut.nir"))
    empty.touch()
    text.write_text("a network")
    nir.write(cut, small())
    content = cut.read_bytes()
    for size in (len(content) // 3, len(content) // 2, len(content) - 100):
        cut.write_bytes(content[:size])
        with pytest.raises(NirError, match=r"cut.nir: "):
            nir_io.read(cut)
    for path, says in (
        (empty, "is empty"),
        (text, "not HDF5"),
        (tmp_path / "no", "cannot be read"),
    ):
        with pytest.raises(NirError, match=says):
            nir_io.read(path)
        assert not nir_io.is_nir(path)
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = 1
    with pytest.raises(NirError, match="not a NIR file: node is missing"):
        nir_io.read(tmp_path / "other.h5")


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_scrambled_files_end_in_one_line(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    image = io.BytesIO()
    nir.write(image, small())
    content = bytearray(image.getvalue())
    for _ in range(data.draw(st.integers(1, 20))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("nir") / "model.nir"
    path.write_bytes(content)
    with contextlib.suppress(PumiceError):
        nir_io.read(path)
