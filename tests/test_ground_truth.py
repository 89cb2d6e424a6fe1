"""What Intel shipped with lava-dl as true, through the reference, the fast engine, and Lava.

Their arrays hold time last and images as Lava does, (W, H, C), or as SLAYER does, (C, H, W). SLAYER
counts from 0 and nothing happens in its step 0: its step t is our local step t.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from lava_export import netx, run
from loihi import (
    ComplexDense,
    Delta,
    Dense,
    Encoding,
    Inject,
    Layer,
    Network,
    Neuron,
    Resonator,
    reference,
)
from loihi.engine import Engine
from loihi.reference import Trace

pytestmark = pytest.mark.exactness
STATES = ("spikes", "u", "v")


def engine(network: Network, x: np.ndarray, record: tuple[str, ...]) -> Trace:
    return Engine(network).run(x, record)


SIMULATORS = [
    pytest.param(reference.run, id="reference"),
    pytest.param(engine, id="engine"),
    pytest.param(run.run_network, id="lava", marks=pytest.mark.lava),
]
Simulator = Callable[[Network, np.ndarray, tuple[str, ...]], Trace]


def last_axis(states: np.ndarray) -> np.ndarray:
    """Of the one sample in ``[T, 1, *shape]``: ``[*shape, T]``."""
    return np.moveaxis(states[:, 0], 0, -1)


def lava_order(states: np.ndarray) -> np.ndarray:
    """The same, images as (W, H, C)."""
    found = last_axis(states)
    return found.transpose(2, 1, 0, 3) if found.ndim == 4 else found


@pytest.mark.parametrize("simulate", SIMULATORS)
def test_dense(simulate: Simulator, netx_files: Path) -> None:
    folder = netx_files / "gts" / "dense"
    weight, x, spikes, current = (
        np.load(folder / f"{name}.npy") for name in ("weight", "in", "out", "current")
    )
    assert spikes.shape == (256, 2000)
    assert spikes.sum() == 1826
    network = Network(
        (200,),
        (Layer(Dense(weight), Neuron(du=4096, dv=415, vth=6)),),
        Encoding("events", 1999),
        "spikes",
    )
    trace = simulate(network, x.T[:1999, None].astype(np.uint8), ("spikes", "u"))
    # Theirs are in hardware time: the synapse takes the first step.
    np.testing.assert_array_equal(last_axis(trace.spikes[0]), spikes[:, 1:])
    np.testing.assert_array_equal(last_axis(trace.u[0]), 64 * current[:, 1:])
    assert not spikes[:, 0].any()


@pytest.mark.parametrize("simulate", SIMULATORS)
def test_tinynet(simulate: Simulator, netx_files: Path) -> None:
    """Input neurons and two convolutions, from Intel's file."""
    folder = netx_files / "gts" / "tinynet"
    network = netx.read(netx_files / "tiny.net")
    assert (network.encoding.kind, network.encoding.payload) == ("graded", (-2, 70))
    network = replace(network, encoding=replace(network.encoding, time_steps=15))
    bias = np.load(folder / "input_bias.npy").astype(np.int32).transpose(2, 1, 0)
    x = np.broadcast_to(bias, (15, 1, *bias.shape))
    trace = simulate(network, x, ("spikes", "u"))
    for index, name in enumerate(("input", "layer1", "output")):
        truth = np.load(folder / f"{name}.npy")[0]
        assert truth[..., 1:].any()
        np.testing.assert_array_equal(last_axis(trace.spikes[index]), truth[..., 1:], err_msg=name)
    current = np.load(folder / "current.npy")[0]
    np.testing.assert_array_equal(last_axis(trace.u[1]), 64 * current[..., 1:])


PILOTNET = [*(f"conv-{i}" for i in range(5)), *(f"fc-{i}" for i in range(3))]


def _pilotnet_truth(netx_files: Path, name: str) -> dict[str, np.ndarray]:
    folder = netx_files / "gts" / "pilotnet_lif"
    truth = {
        state: np.load(folder / f"{name}{end}.npy")
        for state, end in (("spikes", ""), ("u", "-u"), ("v", "-v"))
    }
    spikes = truth["spikes"].astype(np.bool_)
    # Their v holds a marker where a neuron spiked: it is reset to 0 there.
    assert (truth["v"][spikes] == 128).all()
    truth["v"][spikes] = 0
    return truth


def _pilotnet(netx_files: Path, steps: int) -> tuple[Network, np.ndarray]:
    network = netx.read(netx_files / "gts" / "pilotnet_lif" / "network.net")
    network = replace(network, encoding=replace(network.encoding, time_steps=steps))
    image = np.load(netx_files / "gts" / "pilotnet_lif" / "image.npy").transpose(2, 1, 0)
    return network, image


def test_pilotnet_in_hardware_time(netx_files: Path) -> None:
    """24 steps with a phased reset every 17, on the reference alone: it knows hardware time."""
    network, image = _pilotnet(netx_files, 17)
    trace = reference.stream(network, np.broadcast_to(image, (24, 1, *image.shape)), 17, STATES)
    spikes = np.load(netx_files / "gts" / "pilotnet_lif" / "input.npy")
    np.testing.assert_array_equal(lava_order(trace.spikes[0]), spikes)
    for index, name in enumerate(PILOTNET, start=1):
        truth = _pilotnet_truth(netx_files, name)
        for state in STATES:
            found = lava_order(getattr(trace, state)[index])
            np.testing.assert_array_equal(found, truth[state], err_msg=f"{state} of {name}")


@pytest.mark.slow
@pytest.mark.parametrize("simulate", SIMULATORS)
def test_pilotnet(simulate: Simulator, netx_files: Path) -> None:
    """The 17 steps of the first image in local time, as far as Intel's 24 steps reach."""
    network, image = _pilotnet(netx_files, 17)
    trace = simulate(network, np.broadcast_to(image, (17, 1, *image.shape)), STATES)
    for index, name in enumerate(PILOTNET, start=1):
        truth = _pilotnet_truth(netx_files, name)
        for state in STATES:
            theirs = truth[state][..., index : index + 17]
            found = lava_order(getattr(trace, state)[index])[..., : theirs.shape[-1]]
            np.testing.assert_array_equal(found, theirs, err_msg=f"{state} of {name}")


def _sdnn(netx_files: Path, steps: int) -> tuple[Network, np.ndarray]:
    """PilotNet of sigma-delta neurons, and an image that stays."""
    folder = netx_files / "gts" / "pilotnet_sdnn"
    network = netx.read(folder / "network.net")
    network = replace(network, encoding=replace(network.encoding, time_steps=steps))
    image = np.load(folder / "input.npy")[..., 0].transpose(2, 1, 0).astype(np.int16)
    return network, np.broadcast_to(image, (steps, 1, *image.shape))


def test_sigma_delta_pilotnet_in_hardware_time(netx_files: Path) -> None:
    """What the input sends, σ of two layers over 20 steps, and all that leaves the last in nine."""
    folder = netx_files / "gts" / "pilotnet_sdnn"
    network, x = _sdnn(netx_files, 20)
    trace = reference.stream(network, x, record=STATES)
    np.testing.assert_array_equal(lava_order(trace.spikes[0]), np.load(folder / "act0.npy"))
    for index in (1, 2):
        truth = np.load(folder / f"sigma{index}.npy")
        np.testing.assert_array_equal(lava_order(trace.u[index]), truth)
    output = np.load(folder / "output.npy")
    np.testing.assert_array_equal(last_axis(trace.spikes[-1])[:, :9], output)
    assert output[0, -1] == -31026


@pytest.mark.slow
@pytest.mark.parametrize("simulate", SIMULATORS)
def test_sigma_delta_pilotnet(simulate: Simulator, netx_files: Path) -> None:
    """In local time, as far as Intel's numbers reach."""
    folder = netx_files / "gts" / "pilotnet_sdnn"
    network, x = _sdnn(netx_files, 12)
    trace = simulate(network, x, STATES)
    np.testing.assert_array_equal(
        lava_order(trace.spikes[0]), np.load(folder / "act0.npy")[..., :12]
    )
    for index in (1, 2):
        truth = np.load(folder / f"sigma{index}.npy")[..., index : index + 12]
        np.testing.assert_array_equal(lava_order(trace.u[index]), truth)
    output = np.load(folder / "output.npy")
    np.testing.assert_array_equal(last_axis(trace.spikes[-1])[:, 0], output[:, 8])


@pytest.mark.parametrize("simulate", SIMULATORS)
def test_changes_of_an_image(simulate: Simulator, netx_files: Path) -> None:
    """What a sigma-delta network's input sends of an image that swings as a sine."""
    folder = netx_files / "gts" / "tinynet_sdnn"
    image, sent = np.load(folder / "input_bias.npy"), np.load(folder / "input.npy")
    swing = image[..., None] * np.sin(2 * np.pi * np.arange(15) / 15)
    network = Network((3, 16, 16), (Layer(Inject(), Delta(20)),), Encoding("events", 15, (-64, 64)))
    x = swing.astype(np.int16).transpose(3, 2, 1, 0)[:, None]
    np.testing.assert_array_equal(lava_order(simulate(network, x, ("spikes",)).spikes[0]), sent)


@pytest.mark.parametrize("simulate", SIMULATORS)
def test_resonators(simulate: Simulator, netx_files: Path) -> None:
    """Complex weights, 200 inputs to 256 neurons of period 11 that keep 95 % a step."""
    folder = netx_files / "gts" / "complex_dense"
    real, imag, x, spikes = (
        np.load(folder / f"{name}.npy") for name in ("weight_r", "weight_img", "in", "out")
    )
    sin, cos = (int(0.95 * f(2 * np.pi / 11) * 4096) for f in (np.sin, np.cos))
    layer = Layer(ComplexDense(real, imag), Resonator(25, sin, cos, "phase"))
    network = Network((200,), (layer,), Encoding("events", 1999))
    trace = simulate(network, x.T[:1999, None].astype(np.uint8), ("spikes",))
    # Lava's step 2 is the first that hears of the input.
    np.testing.assert_array_equal(last_axis(trace.spikes[0]), spikes[:, 1:])
    assert spikes[:, 1:].any()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("simulate", "steps"),
    [
        pytest.param(reference.run, 400, id="reference"),
        pytest.param(engine, 2996, id="engine"),
        pytest.param(run.run_network, 120, id="lava", marks=pytest.mark.lava),
    ],
)
def test_ntidigits(simulate: Simulator, steps: int, netx_files: Path, tmp_path: Path) -> None:
    """Delays of up to 62 steps, currents that decay, weights of eight bits."""
    folder = netx_files / "gts" / "ntidigits"
    image = (folder / "ntidigits.net").read_bytes()
    path = tmp_path / "ntidigits.net"
    path.write_bytes(image)
    with pytest.raises(netx.NetxError, match="layer/5: type 'average' is not implemented"):
        netx.read(path)
    with h5py.File(path, "r+") as file:  # Intel's own test leaves this layer out as well
        del file["layer/5"]
    network = netx.read(path)
    assert network.has_delays
    network = replace(network, encoding=replace(network.encoding, time_steps=steps))
    x = np.load(folder / "input.npy").T[:steps].reshape(steps, 1, 1, 1, 64).astype(np.uint8)
    truth = np.load(folder / "output.npy")
    trace = simulate(network, x, ("spikes",))
    # SLAYER's step 0, and a step for each of the three layers
    theirs = truth[:, 4 : 4 + steps]
    assert theirs.any()
    np.testing.assert_array_equal(last_axis(trace.spikes[-1])[:, : theirs.shape[1]], theirs)
