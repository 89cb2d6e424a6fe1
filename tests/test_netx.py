"""netx files: written and read the same, and every file that would go wrong in Lava refused."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from random_networks import graphs, networks

from lava_export import netx, seal
from lava_export.netx import NetxError
from loihi import (
    INTEGRATOR,
    ComplexDense,
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
    Resonator,
    Sigma,
    SigmaDelta,
    formats,
)


def net(*layers: Layer, shape: tuple[int, ...] = (3,), **changes: Any) -> Network:
    network = Network(shape, layers, Encoding("events", 4))
    return replace(network, **changes)


W = np.array([[1, -2, 3], [4, 5, -6]])
TWO = net(Layer(Dense(W), Neuron(4000, 100, 7)), Layer(Dense(W.T), INTEGRATOR))
IMAGE = Network(
    (2, 4, 5),
    (
        Layer(Conv(np.arange(-9, 9).reshape(1, 2, 3, 3), padding=(1, 0)), Neuron(vth=9)),
        Layer(Dense(np.arange(24).reshape(2, 12)), Neuron(vth=None, du=4096, dv=10)),
    ),
    Encoding("graded", 8, (0, 255), 0.0, 1.5),
)


# --- there and back -----------------------------------------------------------------------------


def _holds(synapse: Dense | Conv | Inject) -> bool:
    """Whether netx and Lava leave a layer's weights as they are; that is tested further down."""
    if not isinstance(synapse, Dense):
        return True
    if not synapse.weight.any():
        return False
    mantissa, exponent = netx.lava_weight(synapse.weight)
    return np.array_equal(mantissa * 2.0**exponent, synapse.weight)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_what_is_written_reads_back_the_same(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    network = data.draw(networks())
    layers = [replace(la, neuron=replace(la.neuron, bias_exp=6)) for la in network.layers]
    if isinstance(layers[0].synapse, Inject):
        layers[0] = replace(layers[0], neuron=replace(layers[0].neuron, bias=0))
        encoding = Encoding("graded", network.time_steps, (-12, 140), 0.0, 255.0)
        network = replace(network, encoding=encoding)
    network = replace(network, layers=tuple(layers))
    path = tmp_path_factory.mktemp("netx") / "model.net"
    assume(all(_holds(la.synapse) for la in layers))
    netx.write(network, path)
    assert netx.read(path) == network


@pytest.mark.parametrize(
    "neuron",
    [
        Neuron(bias=3),
        Neuron(bias=np.array([3, 3])),
        Neuron(bias=np.array([0, 0])),
        Neuron(bias=np.array([1, 2])),
        Neuron(vth=None),
        Neuron(vth=131071),
        replace(INTEGRATOR, bias=5),
        replace(INTEGRATOR, bias=np.array([1, 2])),
    ],
)
@pytest.mark.parametrize("synapse", [Dense(W), Conv(np.array([[[[1]]], [[[2]]]]))])
def test_neurons_there_and_back(neuron: Neuron, synapse: Dense | Conv, tmp_path: Path) -> None:
    shape = (3,) if isinstance(synapse, Dense) else (1, 2, 2)
    network = Network(shape, (Layer(synapse, neuron),), Encoding("events", 4))
    netx.write(network, tmp_path / "model.net")
    assert netx.read(tmp_path / "model.net") == network


@pytest.mark.parametrize(
    "encoding",
    [
        Encoding("rate", 9, low=-1.0, high=np.float64(1) / 3, seed=7),
        Encoding("latency", 2, low=0, high=255),
        Encoding("events", np.int64(3), (-256, np.int32(255))),  # type: ignore[arg-type]
    ],
)
@pytest.mark.parametrize("readout", ["membrane", "spikes"])
def test_encoding_and_readout_there_and_back(
    encoding: Encoding, readout: Any, tmp_path: Path
) -> None:
    network = Network((3,), (Layer(Dense(W), Neuron()),), encoding, readout)
    netx.write(network, tmp_path / "model.net")
    assert netx.read(tmp_path / "model.net") == network


def test_a_biased_image_is_stored_in_lavas_order(tmp_path: Path) -> None:
    bias = np.arange(2 * 3 * 4).reshape(2, 3, 4)
    layer = Layer(Conv(np.array([[[[1]]], [[[2]]]])), Neuron(bias=bias))
    network = Network((1, 3, 4), (layer,), Encoding("events", 2))
    netx.write(network, tmp_path / "model.net")
    with h5py.File(tmp_path / "model.net") as file:
        stored = file["layer/1/bias"][()]
    assert stored.shape == (4, 3, 2)
    assert stored[3, 1, 0] == bias[0, 1, 3]
    assert netx.read(tmp_path / "model.net") == network


def test_nothing_but_whole_numbers_is_stored(tmp_path: Path) -> None:
    netx.write(IMAGE, tmp_path / "model.net")
    floats = []
    with h5py.File(tmp_path / "model.net") as file:
        file.visititems(
            lambda name, item: (
                floats.append(name)
                if isinstance(item, h5py.Dataset) and item.dtype.kind == "f"
                else None
            )
        )
    assert floats == []


# --- Intel's files ------------------------------------------------------------------------------


def test_mnist(netx_files: Path) -> None:
    network = netx.read(netx_files / "mnist.net")
    assert network.names == ("0 input 784", "1 dense 784-512", "2 dense 512-512", "3 dense 512-10")
    # x in -1..1 enters as 76 x + 64
    assert network.encoding == Encoding("graded", 16, (-12, 140))
    assert [la.neuron for la in network.layers] == [Neuron(4096, 123, 80)] * 3 + [INTEGRATOR]
    assert network.readout == "membrane"


def test_tiny(netx_files: Path) -> None:
    network = netx.read(netx_files / "tiny.net")
    assert network.shapes == ((3, 16, 16), (24, 6, 6), (36, 1, 1))
    assert network.encoding == Encoding("graded", 64, (-2, 70))


def test_pilotnet(netx_files: Path) -> None:
    network = netx.read(netx_files / "gts" / "pilotnet_lif" / "network.net")
    assert network.shapes[5:] == ((64, 2, 20), (100,), (50,), (10,), (1,))
    assert network.layers[4].synapse.strides == (2, 1)  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["mnist.net", "tiny.net", "gts/pilotnet_lif/network.net"])
def test_intels_files_written_again(name: str, netx_files: Path, tmp_path: Path) -> None:
    network = netx.read(netx_files / name)
    netx.write(network, tmp_path / "again.net")
    assert netx.read(tmp_path / "again.net") == network


def test_sigma_delta_networks_are_read(netx_files: Path, tmp_path: Path) -> None:
    network = netx.read(netx_files / "gts" / "pilotnet_sdnn" / "network.net")
    kinds = [type(layer.neuron) for layer in network.layers]
    assert kinds == [Delta, *[SigmaDelta] * 7, Sigma]
    assert [layer.neuron.vth for layer in network.layers] == [0, 13, 0, 0, 0, 23, 1, 6, None]
    assert network.readout == "membrane"
    assert network.encoding.payload == (-256, 255)
    netx.write(network, tmp_path / "again.net")
    assert netx.read(tmp_path / "again.net") == network
    with h5py.File(tmp_path / "again.net") as file:
        assert "layer" in file  # netx takes it


def test_recurrent_layers_are_read(tmp_path: Path) -> None:
    """SLAYER's dense_rec: the loop is a further synapse of the layer onto itself."""
    weight, back = np.array([[2, -4, 6], [8, 0, -2]]), np.array([[0, -6], [4, 2]])
    with h5py.File(tmp_path / "r.net", "w") as file:
        layer = file.create_group("layer/0")
        layer["type"] = np.array([b"dense_rec"], dtype="S10")
        layer["shape"], layer["weight"], layer["weight_rec"] = [2], weight, back
        neuron = layer.create_group("neuron")
        neuron["type"] = np.bytes_("CUBA")
        neuron["iDecay"], neuron["vDecay"], neuron["vThMant"] = 1024, 128, 40
    network = netx.read(tmp_path / "r.net")
    (layer,) = network.layers
    assert layer.synapse == Dense(weight)
    assert layer.more == (Edge(Dense(back), (0,)),)
    assert layer.neuron == Neuron(1024, 128, 40)


def test_resonators_are_read(tmp_path: Path) -> None:
    """netx derives period and decay from the file, and Lava integers from these."""
    real, imag = np.array([[2, -4, 6], [8, 0, -2]]), np.array([[0, -6, 2], [4, 2, 8]])
    with h5py.File(tmp_path / "r.net", "w") as file:
        layer = file.create_group("layer/0")
        layer["type"], layer["shape"] = np.array([b"dense"], dtype="S10"), [2]
        layer["weight/real"], layer["weight/imag"] = real, imag
        neuron = layer.create_group("neuron")
        neuron["type"] = np.bytes_("RF_PHASE")
        neuron["sinDecay"], neuron["cosDecay"], neuron["vThMant"] = 2338, 3218, 40
    (layer,) = netx.read(tmp_path / "r.net").layers
    assert layer.synapse == ComplexDense(real, imag)
    assert (layer.neuron.vth, layer.neuron.spikes) == (40, "phase")
    assert abs(layer.neuron.sin - 2338) <= 1
    assert abs(layer.neuron.cos - 3218) <= 1


def test_slayers_affine_blocks_never_spike(tmp_path: Path) -> None:
    """It writes 2^18 − 1 for a threshold, which no membrane of 24 bits reaches."""
    netx.write(net(Layer(Dense(W), Neuron(vth=70))), tmp_path / "m.net")
    with h5py.File(tmp_path / "m.net", "r+") as file:
        del file["pumice"]
        file["layer/1/neuron/vThMant"][()] = 2**18 - 1
    seal.reseal(tmp_path / "m.net")
    assert netx.read(tmp_path / "m.net").layers[0].neuron.vth is None


# --- networks that netx cannot hold -------------------------------------------------------------


ZERO, NEGATIVE = np.zeros((2, 3), dtype=int), np.array([[-200, 0, -128], [-3, -4, -5]])


@pytest.mark.parametrize(
    ("network", "says"),
    [
        (net(Layer(Dense(W), Neuron(bias=1, bias_exp=5))), "layer 0 dense 3-2: bias_exp is 5"),
        (net(Layer(Dense(W), Neuron(dv=9, reset="soft"))), "layer 0 dense 3-2: netx has no soft"),
        (net(Layer(Dense(W), SigmaDelta(3, [1, -2], "unit"))), "layer 0 dense 3-2: activation"),
        (net(Layer(Dense(W), SigmaDelta(3, spike_exp=2))), "layer 0 dense 3-2: spike_exp and"),
        (
            net(Layer(ComplexDense(W, W[::-1]), Resonator(9, 1000, -4000, "phase"))),
            "layer 0 complex dense 3-2: netx rounds the angle",
        ),
        (
            net(TWO.layers[0], Layer(Dense(ZERO.T), INTEGRATOR)),
            "layer 1 dense 2-3: all weights are 0",
        ),
        (
            net(Layer(Dense(NEGATIVE + np.array([[0, 0, 0], [1, 0, 0]])), INTEGRATOR)),
            r"layer 0 dense 3-2: weight\[\d, \d\] is -\d+, and Lava would compute with",
        ),
        (
            net(Layer(Inject(), Neuron(bias=1)), encoding=Encoding("graded", 4, (0, 254))),
            "layer 0 input 3: netx has no bias",
        ),
        (
            net(Layer(Inject(), Neuron()), encoding=Encoding("graded", 4, (0, 255))),
            "layer 0 input 3: payload 0..255",
        ),
        (
            Network(
                (128, 1, 1),
                (Layer(Conv(np.ones((128, 1, 1, 1), dtype=int), groups=128), Neuron()),),
                Encoding("events", 1),
            ),
            "layer 0 grouped conv 128@1x1: groups is 128: Lava keeps it in 8 bits",
        ),
    ],
)
def test_networks_that_netx_cannot_hold(network: Network, says: str, tmp_path: Path) -> None:
    why = netx.why_not(network)
    assert why is not None
    assert re.match(says, why)
    netx.write(network, tmp_path / "model.net")
    assert netx.read(tmp_path / "model.net") == network
    with h5py.File(tmp_path / "model.net") as file:
        assert "layer" not in file  # so that netx stops at once


@pytest.mark.lava
@pytest.mark.exactness
@settings(max_examples=400, deadline=None)
@given(
    hnp.arrays(
        np.int64,
        st.tuples(st.integers(1, 4), st.integers(1, 4)),
        elements=st.sampled_from([-256, -255, -200, -129, -128, -127, -64, -2, -1, 0, 0])
        | st.sampled_from([1, 2, 64, 100, 127, 128, 129, 200, 254, 255, 256])
        | st.integers(-256, 256),
    ),
    st.sampled_from(["as drawn", "negative", "positive"]),
)
@pytest.mark.filterwarnings("ignore:divide by zero")
def test_what_lava_makes_of_a_weight(weight: np.ndarray, sign: str) -> None:
    """Against netx's and Lava's own functions, in the order in which a run calls them."""
    from loihi import lava_compat

    lava_compat.install(netx_only=True)
    from lava.lib.dl.netx.utils import optimize_weight_bits
    from lava.utils.weightutils import clip_weights, determine_sign_mode, truncate_weights

    weight = {"as drawn": weight, "negative": -abs(weight), "positive": abs(weight)}[sign]
    if not weight.any():
        with pytest.raises(OverflowError):
            optimize_weight_bits(weight)
        with pytest.raises(NetxError, match="all weights are 0"):
            netx.lava_weight(weight)
        return
    mantissa, bits, exponent, _ = optimize_weight_bits(weight.copy())
    mode = determine_sign_mode(mantissa)
    used = truncate_weights(clip_weights(mantissa, mode, num_bits=8), mode, bits)
    found = netx.lava_weight(weight)
    assert found[1] == exponent
    np.testing.assert_array_equal(found[0], used)


def test_weights_that_change_are_found_where_they_are() -> None:
    """Of one sign, with a zero, and −128: netx doubles it, Lava clips it to −255."""
    weight = np.array([[-128, 0, -3]])
    assert netx.lava_weight(weight)[0][0, 0] == -255
    why = netx.why_not(net(Layer(Dense(weight), INTEGRATOR)))
    assert why is not None
    assert "weight[0, 0] is -128, and Lava would compute with -127.5" in why


# --- folders ------------------------------------------------------------------------------------


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(PumiceError, match="cannot be written: No such file"):
        netx.write(TWO, tmp_path / "none" / "model.net")


def test_a_full_disk_leaves_the_good_file(tmp_path: Path) -> None:
    """A limit on the size of files says what a full disk says, at the same place."""
    path = tmp_path / "model.net"
    netx.write(TWO, path)
    good = path.read_bytes()
    root = Path(__file__).resolve().parent.parent
    code = (
        f"import resource, signal, sys; sys.path[:0] = [{str(root)!r}, {str(root / 'tests')!r}]\n"
        "import test_netx\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        f"test_netx.netx.write(test_netx.IMAGE, {str(path)!r})\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "PumiceError" in done.stderr.splitlines()[-1]
    assert "cannot be written: File too large" in done.stderr
    assert path.read_bytes() == good
    assert list(tmp_path.iterdir()) == [path]


def test_a_read_only_folder() -> None:
    root = os.geteuid() == 0
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o555)
    if root:
        os.seteuid(65534)  # nobody; root may write anywhere
    try:
        with pytest.raises(PumiceError, match="cannot be written: Permission denied"):
            netx.write(TWO, folder / "model.net")
    finally:
        if root:
            os.seteuid(0)
        folder.chmod(0o700)
    folder.rmdir()


def test_interrupted_before_it_takes_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.net"
    netx.write(TWO, path)
    good = path.read_bytes()

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        netx.write(IMAGE, path)
    assert path.read_bytes() == good
    assert list(tmp_path.iterdir()) == [path]


# --- bad files ----------------------------------------------------------------------------------


def bent(tmp_path: Path, change: Callable[[h5py.File], object], network: Network = TWO) -> Path:
    """A good file with one thing changed."""
    path = tmp_path / "bent.net"
    netx.write(network, path)
    with h5py.File(path, "r+") as file:
        change(file)
    seal.reseal(path)
    return path


def put(name: str, value: Any) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        if name in file:
            del file[name]
        file[name] = value

    return change


def encoded(key: str, value: Any) -> Callable[[h5py.File], None]:
    """A number of our own encoding changed."""

    def change(file: h5py.File) -> None:
        said = json.loads(file["pumice"].attrs["encoding"])
        file["pumice"].attrs["encoding"] = json.dumps({**said, key: value})

    return change


def drop(name: str) -> Callable[[h5py.File], None]:
    return lambda file: file.__delitem__(name)


def cell(name: str, value: Any) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        array = file[name][()].astype(np.float64)
        array.flat[1] = value
        put(name, array)(file)

    return change


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (cell("layer/1/weight", np.nan), r"layer/1/weight\[0, 1\] is nan: only whole numbers"),
        (cell("layer/1/weight", 3.9), r"layer/1/weight\[0, 1\] is 3.9: only whole numbers"),
        (cell("layer/1/weight", 300), r"layer/1/weight\[0, 1\] is 300, outside -256..255"),
        (cell("layer/1/weight", 255), r"layer/1: weight: weights of mixed signs"),
        (put("layer/1/weight", "many"), "layer/1/weight: expected integers"),
        (put("layer/1/weight", W.T), r"layer/1: weight has shape \[3, 2\], shape says 2 neurons"),
        (put("layer/1/weight", W[:, :2]), "layer/1: inFeatures is 3, its weight says"),
        (put("layer/1/outFeatures", 3), "layer/1: outFeatures is 3, its weight says"),
        (put("layer/1/weight/real", W), "layer/1/weight: imag is missing"),
        (drop("layer/1/weight"), "layer/1: weight is missing"),
        (drop("layer/1/type"), "layer/1: type is missing"),
        (drop("layer/1/shape"), "layer/1: shape is missing"),
        (put("layer/1/type", b"sparse"), "layer/1: type 'sparse' is not a layer"),
        (put("layer/1/type", b"unpool"), "layer/1: type 'unpool' is not implemented in netx"),
        (put("layer/1/type", b"pool"), "layer/1: a convolution needs an image|layer/1: weight has"),
        (put("layer/1/type", b"dense_rec"), "layer/1: weight_rec is missing"),
        (put("layer/1/type", 3), "layer/1: type is not a word"),
        (put("layer/1", 3), "layer/1 is not a group"),
        (put("layer/4/type", b"dense"), "numbered from 0 without gaps: found 0, 1, 2, 4, not 3"),
        (drop("layer/1"), "without gaps: found 0, 2, not 1"),
        (drop("layer"), "it has no layers"),
        (lambda file: (drop("layer")(file), file.create_group("layer")), "it has no layers"),
        (put("layer/2/type", b"input"), "layer/2: an input layer can only be the first"),
        (put("layer/1/neuron/type", b"ALIF"), "layer/1/neuron: type 'ALIF' is not"),
        (put("layer/1/neuron/vThMant", 2**25), "vThMant is 33554432, outside 0..33554431"),
        (put("layer/1/neuron/vThMant", -1), "vThMant is -1, outside 0..33554431"),
        (put("layer/1/neuron/vThMant", 2.5), "vThMant is 2.5: only whole numbers"),
        (put("layer/1/neuron/vThMant", [1, 2]), "vThMant: expected one number"),
        (put("layer/1/neuron/iDecay", 4097), "iDecay is 4097, outside 0..4096"),
        (put("layer/1/neuron/vDecay", -1), "vDecay is -1, outside 0..4096"),
        (drop("layer/1/neuron/vDecay"), "layer/1/neuron: vDecay is missing"),
        (put("layer/1/neuron/refDelay", 2), "refDelay is 2: netx ignores it"),
        (put("layer/1/neuron/gradedSpike", True), "gradedSpike is 1: netx ignores it"),
        (put("layer/1/neuron/wgtExp", 1), "wgtExp is 1: netx ignores it"),
        (put("layer/1/bias", [5000, 0]), r"layer/1/bias\[0\] is 5000, outside -4096..4095"),
        (put("layer/1/bias", [1, 2, 3]), r"layer/1: bias has shape \[3\], the neurons \[2\]"),
        (put("layer/1/delay", 63), "layer/1/delay is 63, outside 0..62"),
        (put("layer/1/delay", [[1, 2]]), r"layer/1: delay has shape \[1, 2\]"),
        (put("simulation/tSample", 0), "simulation/tSample is 0"),
        (put("simulation/tSample", 5), "pumice/encoding says 4 steps, simulation/tSample 5"),
        (lambda f: f["pumice"].attrs.modify("version", 2), "pumice/version is 2"),
        (lambda f: f["pumice"].attrs.modify("encoding", "{"), "its encoding cannot be read"),
        (lambda f: f["pumice"].attrs.modify("encoding", "[]"), "its encoding cannot be read"),
        (lambda f: f["pumice"].attrs.modify("encoding", "[" * 20_000), "its encoding cannot be"),
        (encoded("low", -(10**400)), "its encoding cannot be read: int too large"),
        (encoded("high", float("inf")), "its encoding cannot be read: high is inf"),
        (encoded("time_steps", 10**400), "its encoding cannot be read: whole numbers within"),
        (encoded("seed", -1), "its encoding cannot be read: whole numbers within"),
        (lambda f: f["pumice"].attrs.modify("readout", "loud"), "readout 'loud'"),
    ],
)
def test_bad_numbers_and_missing_ones(
    change: Callable[[h5py.File], object], says: str, tmp_path: Path
) -> None:
    if "imag is missing" in says:
        path = bent(tmp_path, lambda file: (drop("layer/1/weight")(file), change(file)))
    else:
        path = bent(tmp_path, change)
    with pytest.raises(NetxError, match=says) as caught:
        netx.read(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (put("layer/1/kernelSize", [3, 2]), "layer/1: kernelSize is"),
        (put("layer/1/inChannels", 3), "layer/1: inChannels is 3"),
        (put("layer/1/outChannels", 3), "layer/1: outChannels is 3"),
        (put("layer/1/shape", [1, 3, 4]), r"layer/1: shape is \[1, 3, 4\], its weight and input"),
        (put("layer/1/stride", 0), "layer/1/stride is 0"),
        (put("layer/1/padding", [1, 2, 3]), "layer/1: padding is one number or"),
        (put("layer/1/groups", 2), "layer/1: 1 channels do not divide into 2 groups"),
        (put("layer/1/delay", 1), "layer/1: netx ignores the delays of a convolution"),
        (drop("layer/1/neuron"), "layer/1: a convolution without neurons"),
        (put("layer/2/type", b"input"), "layer/2: an input layer can only be the first"),
        (put("layer/0/shape", [2, 2, 5]), "layer/1: shape is"),
        (put("layer/0/shape", [40]), r"layer/1: a convolution needs an image \(C, H, W\)"),
    ],
)
def test_bad_convolutions(change: Callable[[h5py.File], object], says: str, tmp_path: Path) -> None:
    with pytest.raises(NetxError, match=says):
        netx.read(bent(tmp_path, change, IMAGE))


def test_a_dense_layer_after_an_image_needs_a_flatten(tmp_path: Path) -> None:
    def change(file: h5py.File) -> None:
        file.move("layer/3", "layer/dense")
        del file["layer/2"]
        file.move("layer/dense", "layer/2")

    with pytest.raises(NetxError, match="layer/2: a flatten layer is needed"):
        netx.read(bent(tmp_path, change, IMAGE))


def test_not_a_netx_file(tmp_path: Path) -> None:
    path = tmp_path / "file.net"
    with pytest.raises(NetxError, match="cannot be read: No such file"):
        netx.read(path)
    path.write_bytes(b"")
    with pytest.raises(NetxError, match="the file is empty"):
        netx.read(path)
    path.write_text("layer: 1\n")
    with pytest.raises(NetxError, match="it is not HDF5"):
        netx.read(path)
    with pytest.raises(NetxError, match="cannot be read: Is a directory"):
        netx.read(tmp_path)
    with h5py.File(path, "w"):
        pass
    with pytest.raises(NetxError, match="it has no layers"):
        netx.read(path)


def test_truncated_and_scrambled_files(tmp_path: Path) -> None:
    """Cut anywhere and with any byte turned round, a file is read as it was or refused."""
    path = tmp_path / "model.net"
    netx.write(IMAGE, path)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for size in rng.integers(1, len(whole) - 1, 40):
        path.write_bytes(whole[:size])
        with pytest.raises(NetxError):
            netx.read(path)
    for at in rng.integers(0, len(whole), 150):
        damaged = bytearray(whole)
        damaged[at] ^= 0xFF
        path.write_bytes(damaged)
        with contextlib.suppress(NetxError):
            netx.read(path)


# --- networks with branches ---------------------------------------------------------------------


def branched() -> Network:
    """An image, a shortcut with a synapse of its own, a carried input, and recurrence."""
    lif = Neuron(4000, 100, 7)
    kernel = np.arange(-9, 9).reshape(1, 2, 3, 3)
    shortcut = Edge(Conv(np.array([[[[3]], [[-5]]]]), stride=(1, 2)), (-1,))
    itself = Edge(Dense(np.eye(2), np.array([[0, 4], [1, 0]])), (2,))
    layers = (
        Layer(Conv(kernel, padding=1), replace(lif, bias=np.array([3]), bias_exp=2)),
        Layer(Conv(kernel[:, :1], (1, 2), 1, (1, 1)), lif, (0,), (shortcut,)),
        Layer(Dense(np.arange(24).reshape(2, 12) - 9), replace(lif, bias=-2), (1,), (itself,)),
        Layer(Dense(np.zeros((2, 12), dtype=int)), INTEGRATOR, (1,), (itself,), 2),
    )
    return Network((2, 4, 5), layers, Encoding("graded", 8, (0, 255), 0.0, 1.5))


@settings(max_examples=40, deadline=None)
@given(network=graphs())
def test_graphs_there_and_back(network: Network, tmp_path_factory: pytest.TempPathFactory) -> None:
    assume(not network.is_chain)
    path = tmp_path_factory.mktemp("graph") / "model.net"
    netx.write(network, path)
    assert netx.read(path) == network


def test_a_graph_with_input_neurons_there_and_back(tmp_path: Path) -> None:
    layers = (
        Layer(Inject(), Neuron(bias=3), more=(Edge(Dense(np.eye(3)), (0,)),)),
        Layer(Dense(W), Neuron(), carry=None),
    )
    network = net(*layers, encoding=Encoding("graded", 4, (0, 255), 0.0, 1.0))
    netx.write(network, tmp_path / "model.net")
    assert netx.read(tmp_path / "model.net") == network


def test_a_chain_in_other_words_is_a_chain(tmp_path: Path) -> None:
    spelled = replace(
        TWO, layers=tuple(replace(la, sources=(k - 1,)) for k, la in enumerate(TWO.layers))
    )
    netx.write(spelled, tmp_path / "model.net")
    with h5py.File(tmp_path / "model.net") as file:
        assert "layer" in file and netx.GRAPH not in file
    assert netx.read(tmp_path / "model.net") == spelled == TWO


def test_netx_has_nothing_to_misread(tmp_path: Path) -> None:
    """The first thing that netx looks for is not there; with Lava: the next test."""
    netx.write(branched(), tmp_path / "model.net")
    with h5py.File(tmp_path / "model.net") as file:
        assert set(file) == {"pumice", netx.GRAPH}


@pytest.mark.lava
def test_netx_itself_stops_at_once(tmp_path: Path, run_python: Callable[..., str]) -> None:
    netx.write(branched(), tmp_path / "model.net")
    said = run_python(
        "from loihi import lava_compat; lava_compat.install(netx_only=True)\n"
        "from lava.lib.dl.netx import hdf5\n"
        f"try: hdf5.Network(net_config={str(tmp_path / 'model.net')!r})\n"
        "except KeyError as error: print(error)\n"
    )
    assert "'layer' doesn't exist" in said


def note(name: str, key: str, value: Any) -> Callable[[h5py.File], None]:
    """An attribute changed; None: gone."""

    def change(file: h5py.File) -> None:
        if key in file[name].attrs:
            del file[name].attrs[key]
        if value is not None:
            file[name].attrs[key] = value

    return change


def hollow(name: str, shape: tuple[int, ...]) -> Callable[[h5py.File], None]:
    """An array that is declared and not there."""

    def change(file: h5py.File) -> None:
        del file[name]
        file.create_dataset(name, shape, np.int32)

    return change


G = "pumice_graph"


def empty(file: h5py.File) -> None:
    del file[G]
    file.create_group(G).attrs.update(version=1, input_shape=[3])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (note(G, "version", 2), "pumice_graph/version is 2: this pumice knows 1"),
        (note(G, "version", None), "pumice_graph/version is None"),
        (note(G, "input_shape", None), "pumice_graph: input_shape is missing"),
        (note(G, "input_shape", [0, 4, 5]), r"pumice_graph/input_shape\[0\] is 0"),
        (note(G, "input_shape", [2, 4]), r"input shape \(2, 4\) is neither"),
        (note(G, "input_shape", [2, 3, 3]), "layer 2: a dense synapse of 12 inputs is fed by 6"),
        (drop(f"{G}/1"), "pumice_graph: layers are numbered from 0 without gaps: 1 is missing"),
        (drop(f"{G}/3/synapse"), "pumice_graph/3: the group synapse is missing"),
        (drop(f"{G}/3/synapse/0"), "pumice_graph/3/synapse/0: the group 0 is missing"),
        (drop(f"{G}/3/neuron"), "pumice_graph/3: the group neuron is missing"),
        (drop(f"{G}/3/neuron/bias"), "pumice_graph/3/neuron: bias is missing"),
        (put(f"{G}/3/neuron/bias", [1, 2, 3]), "layer 3: bias of shape"),
        (note(f"{G}/3/neuron", "du", 4097), "pumice_graph/3/neuron/du is 4097, outside"),
        (note(f"{G}/3/neuron", "dv", None), "pumice_graph/3/neuron: dv is missing"),
        (note(f"{G}/3/neuron", "vth", 2**17), "pumice_graph/3/neuron/vth is 131072"),
        (note(f"{G}/3/neuron", "bias_exp", 6.5), "bias_exp is 6.5: only whole numbers"),
        (note(f"{G}/3", "carry", 3), "layer 3: carry is 3: it takes the input of an earlier"),
        (note(f"{G}/3", "carry", 0), "layer 3: carry takes the input of layer 0, of 1x4x5"),
        (note(f"{G}/3", "carry", "two"), "pumice_graph/3/carry: expected integers"),
        (note(f"{G}/1/synapse/0", "type", "dance"), "synapse/0: type 'dance' is not a synapse"),
        (note(f"{G}/1/synapse/0", "type", 3), "pumice_graph/1/synapse/0: type is not a word"),
        (note(f"{G}/1/synapse/1", "type", "input"), "pumice_graph/1: only its first synapse"),
        (note(f"{G}/1/synapse/0", "type", "input"), "layer 1: only the first layer can be an"),
        (note(f"{G}/1/synapse/0", "sources", [4]), "layer 1: source 4 is not a layer"),
        (note(f"{G}/1/synapse/0", "sources", [-2]), r"synapse/0/sources\[0\] is -2, outside -1"),
        (note(f"{G}/1/synapse/0", "sources", [0, 0]), "pumice_graph/1: a source is named twice"),
        (note(f"{G}/1/synapse/0", "sources", np.zeros(0, int)), "graph/1: sources are empty"),
        (note(f"{G}/1/synapse/0", "stride", [0, 1]), r"stride\[0\] is 0, outside 1"),
        (note(f"{G}/1/synapse/0", "padding", [1, 1, 1]), "padding is one number or"),
        (note(f"{G}/1/synapse/0", "groups", 2), "pumice_graph/1: 1 channels do not divide into 2"),
        (cell(f"{G}/1/synapse/0/weight", 0.5), r"0/weight\[0, 0, 0, 1\] is 0.5: only whole"),
        (put(f"{G}/2/synapse/0/weight", [1, 2]), r"pumice_graph/2: a dense weight is \[out, in\]"),
        (put(f"{G}/2/synapse/1/delay", [[1]]), r"pumice_graph/2: delay has shape \[1, 1\]"),
        (drop(f"{G}/1/synapse/0/weight"), "pumice_graph/1/synapse/0: weight is missing"),
        (hollow(f"{G}/2/synapse/0/weight", (2**20, 2**20)), "weight is damaged: the file"),
        (put("layer/0/type", b"dense"), "layer and pumice_graph: two networks in one file"),
        (put(G, 3), "pumice_graph: the group pumice_graph is missing"),
        (drop("pumice"), "pumice: the group pumice is missing"),
        (note("pumice", "version", 2), "pumice/version is 2"),
        (note("pumice", "encoding", "{"), "its encoding cannot be read"),
        (empty, "at least one layer"),
    ],
)  # fmt: skip
def test_bad_graphs(change: Callable[[h5py.File], object], says: str, tmp_path: Path) -> None:
    path = bent(tmp_path, change, branched())
    with pytest.raises(NetxError, match=says) as caught:
        netx.read(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_arrays_that_are_declared_and_not_there(tmp_path: Path) -> None:
    """Nothing is allocated for them: a file of some kilobytes cannot ask for all memory."""
    for shape in ((2, 3), (2**20, 2**20)):
        path = bent(tmp_path, hollow("layer/1/weight", shape))
        with pytest.raises(NetxError, match="layer/1: weight is damaged: the file holds less than"):
            netx.read(path)


def test_truncated_and_scrambled_graphs(tmp_path: Path) -> None:
    path = tmp_path / "model.net"
    netx.write(branched(), path)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for size in rng.integers(1, len(whole) - 1, 40):
        path.write_bytes(whole[:size])
        with pytest.raises(NetxError):
            netx.read(path)
    for at in rng.integers(0, len(whole), 100):
        damaged = bytearray(whole)
        damaged[at] ^= 0xFF
        path.write_bytes(damaged)
        with contextlib.suppress(NetxError):
            netx.read(path)


def test_delays_of_others(tmp_path: Path) -> None:
    """One for all, one a row, one a column; of a square matrix netx takes a vector for rows."""
    for delay, expected in (
        (2, [[2, 2, 2], [2, 2, 2]]),
        ([1, 2], [[1, 1, 1], [2, 2, 2]]),
        ([1, 2, 3], [[1, 2, 3], [1, 2, 3]]),
        (np.array([1.0, 2.0]), [[1, 1, 1], [2, 2, 2]]),
    ):
        network = netx.read(bent(tmp_path, put("layer/1/delay", delay)))
        assert network.layers[0].synapse.delay.tolist() == expected  # type: ignore[union-attr]
    square = net(Layer(Dense(W[:, :2]), Neuron()), shape=(2,))
    network = netx.read(bent(tmp_path, put("layer/1/delay", [1, 2]), square))
    assert network.layers[0].synapse.delay.tolist() == [[1, 1], [2, 2]]  # type: ignore[union-attr]


def test_a_file_without_pumices_group(tmp_path: Path) -> None:
    network = netx.read(bent(tmp_path, drop("pumice"), IMAGE))
    assert network == replace(IMAGE, encoding=Encoding("events", 8))

    def bare(file: h5py.File) -> None:
        del file["pumice"], file["simulation"], file["layer/0"]
        file.move("layer/1", "layer/0")
        file.move("layer/2", "layer/1")

    network = netx.read(bent(tmp_path, bare))
    assert network == replace(TWO, encoding=Encoding("events", netx.TIME_STEPS))


def test_formats_are_the_same_in_both_directions(tmp_path: Path) -> None:
    """What write refuses for its weights, read refuses as well."""
    path = bent(tmp_path, put("layer/1/weight", ZERO))
    with pytest.raises(NetxError, match="layer/1: all weights are 0"):
        netx.read(path)
    path = bent(tmp_path, put("layer/1/weight", [[-128, 0, -3], [-1, -1, -1]]))
    with pytest.raises(NetxError, match=r"layer/1: weight\[0, 0\] is -128"):
        netx.read(path)
    assert formats.weight_format(np.array([[-128, 0, -3]])).exponent == 0
    shutil.rmtree(tmp_path)
