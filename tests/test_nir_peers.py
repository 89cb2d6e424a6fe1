"""snnTorch and SpikingJelly by NIR: their networks on the chip's grid, and ours in theirs.

Their own exporters and importers, where they and nirtorch are installed. Euler steps of the graph
give their spikes (to float32); the chip's integers most of them, and the tests say how many.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

nir = pytest.importorskip("nir")
pytest.importorskip("nirtorch")

from nir_euler import simulate  # noqa: E402

from lava_export import nir_io  # noqa: E402
from loihi import Conv, Dense, Encoding, Layer, Network, Neuron, decide, reference  # noqa: E402
from trainer import data  # noqa: E402

STEPS, SAMPLES = 20, 24
SPIKES = Encoding("events", STEPS)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def spikes(*shape: int) -> torch.Tensor:
    torch.manual_seed(1)
    return (torch.rand(STEPS, SAMPLES, *shape) < 0.4).float()


def on_chip(network: Network, x: torch.Tensor) -> np.ndarray:
    given = x.numpy().astype(np.int16).reshape(len(x), -1, *network.input_shape)
    return reference.run(network, given).spikes[-1]


def agreement(theirs: torch.Tensor, ours: np.ndarray) -> float:
    expected = theirs.detach().numpy().reshape(ours.shape)
    assert 0.02 < expected.mean() < 0.9, expected.mean()
    return float((expected == ours).mean())


def agree(graph: Any, order: str, theirs: torch.Tensor, x: torch.Tensor, **options: Any) -> float:
    """Of the last layer's spikes; theirs are Euler's, in real numbers."""
    sent = simulate(graph, x.numpy(), order.split(), soft=options.get("reset") == "soft")
    assert agreement(theirs, sent[order.split()[-1]]) > 0.999
    found = nir_io.from_graph(graph, encoding=SPIKES, **options)
    return agreement(theirs, on_chip(found.network, x))


# --- snnTorch -----------------------------------------------------------------------------------


@pytest.fixture
def snn() -> Any:
    return pytest.importorskip("snntorch")


def exported(net: torch.nn.Module, *shape: int) -> Any:
    from snntorch.export_nir import export_to_nir

    with contextlib.redirect_stdout(io.StringIO()):
        return export_to_nir(net, torch.rand(1, *shape), ignore_dims=[0])


def by_snntorch(net: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    from snntorch import utils

    utils.reset(net)
    with torch.no_grad():
        return torch.stack([net(step) for step in x])


def each(value: float, *shape: int) -> dict[str, Any]:
    """A number for every neuron, which the exporter needs; reset to 0 and at once."""
    beta = torch.full(shape, value)
    return {"beta": beta, "init_hidden": True, "reset_mechanism": "zero", "reset_delay": False}


def leaky(snn: Any, beta: float, threshold: float, *shape: int, **other: Any) -> Any:
    return snn.Leaky(threshold=torch.full(shape, threshold), **{**each(beta, *shape), **other})


def test_dense(snn: Any) -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Linear(20, 32), leaky(snn, 0.9, 0.6, 32), torch.nn.Linear(32, 10, bias=False),
        leaky(snn, 0.8, 0.15, 10),
    )  # fmt: skip
    graph, x = exported(net, 20), spikes(20)
    network = nir_io.from_graph(graph, encoding=SPIKES).network
    assert network.names == ("0 dense 20-32", "1 dense 32-10")
    assert [la.neuron.dv for la in network.layers] == [410, 819]
    assert agree(graph, "1 3", by_snntorch(net, x), x) > 0.97


def test_images(snn: Any, tmp_path: Path) -> None:
    """By a file: the average pooling and the dense layer after it are one synapse."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(2, 4, 3, padding=1), leaky(snn, 0.9, 0.5, 4, 8, 8), torch.nn.AvgPool2d(2),
        torch.nn.Flatten(), torch.nn.Linear(64, 10), leaky(snn, 0.9, 0.2, 10),
    )  # fmt: skip
    graph, x = exported(net, 2, 8, 8), spikes(2, 8, 8)
    nir.write(tmp_path / "model.nir", graph)
    found = nir_io.read(tmp_path / "model.nir", encoding=SPIKES)
    assert found.network.names == ("0 conv 4@3x3", "1 dense 256-10")
    assert found.network == nir_io.from_graph(graph, encoding=SPIKES).network
    assert agree(graph, "1 5", by_snntorch(net, x), x) > 0.955


def test_currents(snn: Any) -> None:
    torch.manual_seed(0)
    given = {**each(0.9, 16), "alpha": torch.full((16,), 0.8), "threshold": torch.ones(16)}
    net = torch.nn.Sequential(torch.nn.Linear(20, 16), snn.Synaptic(**given))
    graph, x = exported(net, 20), spikes(20)
    neuron = nir_io.from_graph(graph, encoding=SPIKES).network.layers[-1].neuron
    assert (neuron.du, neuron.dv) == (819, 410)
    assert agree(graph, "1", by_snntorch(net, x), x) > 0.985


def test_recurrence(snn: Any) -> None:
    torch.manual_seed(0)
    given = {**each(0.9), "threshold": 0.6, "linear_features": 16}
    net = torch.nn.Sequential(
        torch.nn.Linear(20, 16), snn.RLeaky(**given), torch.nn.Linear(16, 5),
        leaky(snn, 0.9, 0.1, 5),
    )  # fmt: skip
    graph, x = exported(net, 20), spikes(20)
    network = nir_io.from_graph(graph, encoding=SPIKES).network
    assert [sources for _, sources in network.synapses(0)] == [(-1,), (0,)]
    assert agree(graph, "1.lif 3", by_snntorch(net, x), x) > 0.93


def test_no_leak_and_soft_reset(snn: Any) -> None:
    """beta = 1 is written as infinity over infinity; a soft reset not at all."""
    torch.manual_seed(0)
    soft = leaky(snn, 1.0, 0.5, 16, reset_mechanism="subtract")
    net = torch.nn.Sequential(torch.nn.Linear(20, 16), soft)
    graph, x = exported(net, 20), spikes(20)
    found = nir_io.from_graph(graph, encoding=SPIKES, reset="soft")
    assert (found.network.layers[0].neuron.dv, found.network.layers[0].neuron.reset) == (0, "soft")
    right = agreement(by_snntorch(net, x), on_chip(found.network, x))
    assert right > 0.985
    hard = nir_io.from_graph(graph, encoding=SPIKES)
    assert agreement(by_snntorch(net, x), on_chip(hard.network, x)) < right - 0.02


def test_accuracy_on_digits(snn: Any) -> None:
    """A network that snnTorch trained: on the chip it is as right as it was."""
    digits = data.load("digits")
    x_train, x_test = (
        torch.tensor(x.reshape(len(x), -1) / 16, dtype=torch.float32)
        for x in (digits.x_train, digits.x_test)
    )
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Linear(64, 32), leaky(snn, 0.9, 1.0, 32), torch.nn.Linear(32, 10),
        leaky(snn, 0.9, 1.0, 10),
    )  # fmt: skip
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    y = torch.from_numpy(digits.y_train)
    from snntorch import utils

    for _ in range(5):
        for batch in torch.randperm(len(x_train)).split(64):
            utils.reset(net)
            counts = torch.stack([net(x_train[batch]) for _ in range(10)]).sum(0)
            optimizer.zero_grad()
            F.cross_entropy(counts, y[batch]).backward()
            optimizer.step()
    theirs = by_snntorch(net, x_test.expand(10, -1, -1)).sum(0).argmax(1).numpy()
    encoding = Encoding("graded", 10, (0, 16), digits.low, digits.high)
    found = nir_io.from_graph(exported(net, 64), encoding=encoding, values=(0.0, 1.0))
    payloads = encoding.encode(digits.x_test.reshape(len(x_test), -1))
    ours = decide(reference.predict(found.network, payloads))
    accuracy, on_grid = (float((p == digits.y_test).mean()) for p in (theirs, ours))
    assert accuracy > 0.9
    assert abs(accuracy - on_grid) <= 0.01
    assert (theirs == ours).mean() > 0.98


# --- SpikingJelly -------------------------------------------------------------------------------


@pytest.fixture
def jelly() -> Any:
    pytest.importorskip("spikingjelly")
    from spikingjelly.activation_based import functional, layer, neuron, nir_exchange

    class Parts:
        pass

    parts = Parts()
    parts.layer, parts.neuron = layer, neuron  # type: ignore[attr-defined]
    parts.functional, parts.exchange = functional, nir_exchange  # type: ignore[attr-defined]
    return parts


def by_jelly(jelly: Any, net: Any, x: torch.Tensor) -> torch.Tensor:
    jelly.functional.reset_net(net)
    with torch.no_grad():
        return torch.stack([net(step) for step in x])


def test_spikingjelly_images(jelly: Any) -> None:
    """Reset to another value than 0, inputs that decay or do not, an average before a kernel."""
    torch.manual_seed(0)
    layer, neuron = jelly.layer, jelly.neuron
    net = torch.nn.Sequential(
        layer.Conv2d(1, 6, 3, padding=1), neuron.IFNode(v_threshold=0.4), layer.AvgPool2d(2),
        layer.Conv2d(6, 6, 3), neuron.LIFNode(tau=2.0, v_threshold=0.15, v_reset=-0.1),
        layer.Flatten(), layer.Linear(24, 10),
        neuron.LIFNode(tau=3.0, decay_input=False, v_threshold=0.2),
    )  # fmt: skip
    graph = jelly.exchange.export_to_nir(net, torch.rand(1, 1, 8, 8))
    found = nir_io.from_graph(graph, encoding=SPIKES)
    assert found.network.names == ("0 conv 6@3x3", "1 conv 6@6x6", "2 dense 24-10")
    x = spikes(1, 8, 8)
    assert agree(graph, "_1 _4 _7", by_jelly(jelly, net, x), x) > 0.95


@pytest.mark.parametrize("kind", ["cuba", "one dimension"])
def test_spikingjelly_others(kind: str, jelly: Any) -> None:
    torch.manual_seed(0)
    layer, neuron = jelly.layer, jelly.neuron
    shape: tuple[int, ...] = (16,)
    net = torch.nn.Sequential(layer.Linear(16, 12), neuron.CUBALIFNode(c_decay=0.5, v_decay=0.75))
    if kind != "cuba":
        shape = (2, 9)
        net = torch.nn.Sequential(
            layer.Conv1d(2, 4, 3, padding=1), neuron.LIFNode(v_threshold=0.2), layer.Flatten(),
            layer.Linear(36, 12), neuron.IFNode(v_threshold=0.7),
        )  # fmt: skip
    graph, x = jelly.exchange.export_to_nir(net, torch.rand(1, *shape)), spikes(*shape)
    order = "_1" if kind == "cuba" else "_1 _4"
    assert agree(graph, order, by_jelly(jelly, net, x), x) > 0.98


def test_our_networks_in_spikingjelly(jelly: Any, tmp_path: Path) -> None:
    """Its importer reads our file, types checked: convolution, average, dense, currents."""
    rng = np.random.default_rng(0)
    network = Network(
        (1, 8, 8),
        (
            Layer(Conv(2 * rng.integers(-40, 60, (4, 1, 3, 3)), 1, 1), Neuron(4096, 700, 90, 3)),
            Layer(Conv(np.full((4, 1, 2, 2), 32), 2, groups=4), Neuron(4096, 1000, 30)),
            Layer(Dense(rng.integers(-30, 40, (20, 64))), Neuron(1024, 512, 150)),
            Layer(Dense(rng.integers(-30, 40, (10, 20))), Neuron(4096, 512, 64)),
        ),
        SPIKES,
        "spikes",
    )
    nir_io.write(network, tmp_path / "model.nir")
    theirs = jelly.exchange.import_from_nir(tmp_path / "model.nir")
    x, state, sent = spikes(1, 8, 8), None, []
    with torch.no_grad():
        for step in x:
            out, state = theirs(step, state)
            sent.append(out)
    # They spike at v ≥ θ, the chip above it; their decays keep the fractions that the chip cuts.
    assert agreement(torch.stack(sent), on_chip(network, x)) > 0.97


def test_our_networks_in_snntorch(snn: Any) -> None:
    from snntorch.import_nir import import_from_nir

    rng = np.random.default_rng(0)
    network = Network(
        (20,),
        (
            Layer(Dense(rng.integers(-30, 40, (24, 20))), Neuron(4096, 512, 120)),
            Layer(Dense(rng.integers(-30, 40, (10, 24))), Neuron(1024, 512, 300)),
        ),
        SPIKES,
        "spikes",
    )
    with contextlib.redirect_stdout(io.StringIO()):
        theirs = import_from_nir(nir_io.to_graph(network))
    x, state, sent = spikes(20), None, []
    with torch.no_grad():
        for step in x:
            out, state = theirs(step, state)
            sent.append(out)
    assert agreement(torch.stack(sent), on_chip(network, x)) > 0.97
