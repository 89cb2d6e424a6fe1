"""``pumice convert``: from file to file, what it tells, and what it refuses."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

nir = pytest.importorskip("nir")

from cli.main import main  # noqa: E402
from lava_export import netx, nir_io  # noqa: E402
from loihi import INTEGRATOR, Dense, Edge, Encoding, Layer, Network, Neuron  # noqa: E402

DT = nir_io.DT
W = np.array([[76, -128, 3, 5], [0, 127, -2, 9], [1, 2, 3, 4]])
NETWORK = Network(
    (4,),
    (Layer(Dense(W), Neuron(4096, 512, 80)), Layer(Dense(W[:, :3]), INTEGRATOR)),
    Encoding("rate", 9, low=0.0, high=255.0),
)


@pytest.fixture
def pumice(capfd: pytest.CaptureFixture[str]) -> Any:
    """Runs a command: its exit code, its stdout, its stderr."""

    def pumice(*arguments: Any) -> tuple[int, str, str]:
        code = main([str(a) for a in arguments])
        return code, *capfd.readouterr()

    return pumice


def their_graph(**changes: Any) -> Any:
    """Two layers of another's: 4-5-3, a leak of 1 in 10."""
    rng = np.random.default_rng(0)

    def lif(n: int, **other: float) -> Any:
        fields = {"tau": 10 * DT, "r": 10, "v_leak": 0, "v_threshold": 1, "v_reset": 0, **other}
        return nir.LIF(**{key: np.full(n, value, float) for key, value in fields.items()})

    nodes = [
        nir.Affine(rng.standard_normal((5, 4)), rng.standard_normal(5) / 9),
        lif(5, **changes),
        nir.Linear(rng.standard_normal((3, 5))),
        lif(3),
    ]
    return nir.NIRGraph.from_list(*nodes)


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    nir.write(tmp_path / "theirs.nir", their_graph())
    return tmp_path / "theirs.nir"


def test_there_and_back(pumice: Any, tmp_path: Path) -> None:
    first, second, third = (tmp_path / n for n in ("a.net", "b.nir", "c.h5"))
    netx.write(NETWORK, first)
    code, out, err = pumice("convert", first, second, "--dt", 0.001)
    assert (code, err) == (0, "")
    assert "rounding to zero, 24 bits of u and v" in out
    assert nir_io.read(second).network == NETWORK
    assert nir.read(second).nodes["neurons_0"].tau[0] == pytest.approx(0.008)
    code, out, err = pumice("convert", second, third)
    assert (code, err) == (0, "")
    assert netx.read(third) == NETWORK
    assert third.read_bytes() == first.read_bytes()


def test_a_file_of_others(pumice: Any, theirs: Path, tmp_path: Path) -> None:
    out = tmp_path / "model.net"
    code, text, err = pumice("convert", theirs, out, "--time-steps", 12)
    assert (code, err) == (0, "")
    network = netx.read(out)
    found = nir_io.read(theirs, encoding=Encoding("events", 12))
    assert network == found.network
    assert network.layers[0].neuron.dv == 410
    lines = text.splitlines()
    head = next(line for line in lines if "rms error" in line).split()
    assert {"layer", "scale", "clipped", "threshold", "du", "dv"} <= set(head)
    row = next(line for line in lines if line.startswith("lif "))
    assert f"1 as {network.layers[0].neuron.vth}" in row
    assert "0.1 as 410" in row


def test_json(pumice: Any, theirs: Path, tmp_path: Path) -> None:
    out = tmp_path / "model.net"
    code, text, _ = pumice("convert", theirs, out, "--json")
    answer = json.loads(text)
    assert code == 0
    assert (answer["model"], answer["kind"]) == (str(out), "netx")
    assert answer["layers"] == ["0 dense 4-5", "1 dense 5-3"]
    first = answer["quantised"][0]
    neuron = netx.read(out).layers[0].neuron
    assert (first["vth"], first["dv_4096"], first["du_4096"]) == (neuron.vth, 410, 4096)
    assert first["synapses"][0].keys() >= {"bits", "max_error", "rms_error", "clipped", "zeroed"}


def test_options(pumice: Any, theirs: Path, tmp_path: Path) -> None:
    out = tmp_path / "model.net"
    options = ("--encoding", "graded", "--payload", 20, "--values", 0, 1, "--reset", "soft")
    code, text, _ = pumice("convert", theirs, out, *options, "--readout", "membrane")
    assert code == 0
    network = netx.read(out)
    assert network.encoding == Encoding("graded", 16, (0, 20))
    assert network.readout == "membrane"
    assert {la.neuron.reset for la in network.layers} == {"soft"}
    assert "soft reset: written in pumice's own form" in " ".join(text.split())
    # a payload of 20 is an input of 1: a weight is 20 times smaller beside the same threshold
    whole = nir_io.read(theirs, encoding=network.encoding).network.layers[0]
    ratio = [la.synapse.weight / la.neuron.vth for la in (whole, network.layers[0])]
    assert np.median(np.abs(ratio[0]) / np.abs(ratio[1])) == pytest.approx(20, rel=0.1)
    assert pumice("convert", theirs, out, "--encoding", "graded")[0] == 0
    assert netx.read(out).encoding.payload == (0, 15)
    code, _, err = pumice("convert", theirs, out, "--dt", 0.01)
    assert (code, "shorter than a step of 0.01 s" in err) == (1, True)


def test_decays_and_biases(pumice: Any, tmp_path: Path) -> None:
    graph, out = their_graph(), tmp_path / "model.net"
    lif, share = graph.nodes["lif"], np.linspace(0.1, 0.2, 5)
    graph.nodes["lif"] = nir.CubaLIF(
        2 * DT + 0 * share, DT / share, 1 / share, lif.v_leak, lif.v_threshold, lif.v_reset, 2.0
    )
    nir.write(tmp_path / "cuba.nir", graph)
    code, _, err = pumice("convert", tmp_path / "cuba.nir", out)
    assert (code, "tau_mem differs between its neurons" in err) == (1, True)
    assert not out.exists()
    code, text, _ = pumice("convert", tmp_path / "cuba.nir", out, "--mean-decays")
    assert code == 0
    assert "the mean of decays of 0.1 to 0.2" in text
    assert not netx.read(out).is_chain
    code, text, _ = pumice("convert", tmp_path / "cuba.nir", out, "--mean-decays", "--settled-bias")
    assert "the first steps differ" in " ".join(text.split())
    assert netx.read(out).is_chain


def test_metadata_can_be_ignored(pumice: Any, tmp_path: Path) -> None:
    nir_io.write(NETWORK, tmp_path / "a.nir")
    out = tmp_path / "b.net"
    assert pumice("convert", tmp_path / "a.nir", out, "--ignore-metadata")[0] == 0
    found = netx.read(out)
    assert found.encoding == Encoding("events", 16)
    assert found.layers[0] == NETWORK.layers[0]


def test_outputs_by_name(pumice: Any, tmp_path: Path) -> None:
    graph = their_graph()
    graph.nodes["early"] = nir.Output(np.array([5]))
    graph.edges.append(("lif", "early"))
    nir.write(tmp_path / "two.nir", nir.NIRGraph(graph.nodes, graph.edges, type_check=False))
    out = tmp_path / "model.net"
    code, _, err = pumice("convert", tmp_path / "two.nir", out)
    assert (code, "2 outputs (early, output): say which is the answer" in err) == (1, True)
    assert pumice("convert", tmp_path / "two.nir", out, "--output", "output")[0] == 0
    assert netx.read(out).classes == 3


@pytest.mark.parametrize("suffix", [".net", ".nir"])
def test_graphs(suffix: str, pumice: Any, tmp_path: Path) -> None:
    """A network with recurrence: both kinds of files hold it."""
    rec = Layer(Dense(W), Neuron(), more=(Edge(Dense(W[:, :3]), (0,)),))
    network = Network((4,), (rec, NETWORK.layers[1]), NETWORK.encoding)
    netx.write(network, tmp_path / "a.net")
    out = tmp_path / f"b{suffix}"
    assert pumice("convert", tmp_path / "a.net", out)[0] == 0
    read = netx.read(out) if suffix == ".net" else nir_io.read(out).network
    assert read == network


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("no.nir", "out.net"), "no.nir: cannot be read: No such file"),
        (("text.txt", "out.net"), "text.txt: not a netx file: it is not HDF5"),
        (("a.net", "out.xyz"), "out.xyz: the end of its name says what to write, .net or .nir"),
        (("a.net", "a.net"), "a.net is the file that is read: write to another"),
        (("a.net", "out.net", "--dt", "1"), "--dt is for NIR files"),
        (("a.net", "out.nir", "--values", "0", "1"), "a.net says itself what these .*: --values"),
        (("a.nir", "out.net", "--time-steps", "3"), "a.nir says itself .*, --time-steps or --pay"),
        (("a.net", "no/out.net"), "no/out.net: cannot be written"),
        (("a.net", "no/out.nir"), "no/out.nir: cannot be written"),
        (("theirs.nir", "out.net", "--values", "1", "0"), "values 1..0 are not a range"),
        (("theirs.nir", "out.net", "--payload", "300"), "payload 0..300 is not a range"),
        (("theirs.nir", "out.net", "--encoding", "rate", "--payload", "2"), "rate sends binary"),
    ],
)
def test_what_is_refused(
    arguments: tuple[str, ...],
    says: str,
    pumice: Any,
    theirs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In one line, and nothing is written."""
    monkeypatch.chdir(tmp_path)
    netx.write(NETWORK, "a.net")
    nir_io.write(NETWORK, "a.nir")
    Path("text.txt").write_text("a network")
    before = {path: path.read_bytes() for path in Path().iterdir()}
    code, out, err = pumice("convert", *arguments)
    assert (code, out) == (1, "")
    assert re.search(says, err)
    assert err.startswith("pumice: ")
    assert err.count("\n") == 1
    assert {path: path.read_bytes() for path in Path().iterdir()} == before


@pytest.mark.parametrize("name", ["mnist.net", "tiny.net", "gts/pilotnet_lif/network.net"])
def test_intels_files(name: str, netx_files: Path, pumice: Any, tmp_path: Path) -> None:
    """Input neurons, convolutions, biases a channel, as lava-dl wrote them."""
    network = netx.read(netx_files / name)
    assert pumice("convert", netx_files / name, tmp_path / "a.nir")[0] == 0
    assert nir_io.read(tmp_path / "a.nir").network == network
    assert pumice("convert", tmp_path / "a.nir", tmp_path / "b.net")[0] == 0
    assert netx.read(tmp_path / "b.net") == network
