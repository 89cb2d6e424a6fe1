"""The reference against numbers worked out by hand, step by step."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.signal import correlate2d

from loihi import INTEGRATOR, Conv, Dense, Encoding, Inject, Layer, Network, Neuron, reference

pytestmark = pytest.mark.exactness


def chain(
    *layers: Layer, steps: int = 6, inputs: int = 1, payload: tuple[int, int] = (0, 1)
) -> Network:
    return Network((inputs,), layers, Encoding("events", steps, payload), "membrane")


def one(weight: int, **neuron: int) -> Layer:
    return Layer(Dense(np.array([[weight]])), Neuron(**neuron))  # type: ignore[arg-type]


def spike_at(step: int, steps: int) -> NDArray[np.uint8]:
    x = np.zeros((steps, 1, 1), dtype=np.uint8)
    x[step - 1] = 1
    return x


def test_every_synapse_takes_a_step() -> None:
    network = chain(*[one(100, vth=64)] * 3)
    trace = reference.stream(network, spike_at(1, 6))
    assert [int(s[:, 0, 0].argmax()) + 1 for s in trace.spikes] == [2, 3, 4]
    injected = chain(Layer(Inject(), Neuron(vth=0)), one(100))
    trace = reference.stream(injected, spike_at(1, 6))
    assert [int(s[:, 0, 0].argmax()) + 1 for s in trace.spikes] == [1, 2]


def test_delays_come_on_top() -> None:
    network = chain(Layer(Dense(np.array([[100]]), np.array([[3]])), Neuron()))
    assert reference.stream(network, spike_at(1, 6)).spikes[0][:, 0, 0].tolist() == [
        0,
        0,
        0,
        0,
        1,
        0,
    ]


def test_leak_threshold_and_reset() -> None:
    # dv = 2048 halves v. 100, 150, 175 (·64): 175 > 150 spikes and resets; then the same again.
    # v == vth does not spike.
    network = chain(one(100, dv=2048, vth=150))
    trace = reference.run(network, np.ones((6, 1, 1), dtype=np.uint8), ("spikes", "v", "u"))
    assert (trace.v[0][:, 0, 0] / 64).tolist() == [100, 150, 0, 100, 150, 0]
    assert trace.spikes[0][:, 0, 0].tolist() == [0, 0, 1, 0, 0, 1]
    assert set(trace.u[0][:, 0, 0].tolist()) == {6400}


def test_currents_decay_and_bias_enters_the_membrane() -> None:
    # u: 6400, 3200, 1600 … ; v adds u and the bias 3 << 6 each step
    network = chain(one(100, du=2048, vth=131071, bias=3))
    trace = reference.run(network, spike_at(1, 6), ("u", "v"))
    assert trace.u[0][:, 0, 0].tolist() == [6400, 3200, 1600, 800, 400, 200]
    assert trace.v[0][:, 0, 0].tolist() == np.cumsum([6592, 3392, 1792, 992, 592, 392]).tolist()


def test_integrator_adds_up_and_wraps() -> None:
    network = chain(Layer(Dense(np.array([[200]])), INTEGRATOR), payload=(0, 255))
    x = np.full((6, 1, 1), 255, dtype=np.uint8)
    u = reference.run(network, x, ("u",)).u[0][:, 0, 0]
    exact = 200 * 255 * 64 * np.arange(1, 7)
    assert u.tolist() == [int(e) if e <= 2**23 else int(e) - 2**24 for e in exact]


def test_phased_reset_keeps_samples_apart() -> None:
    rng = np.random.default_rng(1)
    steps, samples = 5, 4
    layers = [
        Layer(
            Dense(2 * rng.integers(-60, 80, (6, 6))),
            Neuron(1000, 300, 70, rng.integers(-40, 40, 6)),
        )
        for _ in range(3)
    ]
    network = chain(*layers, steps=steps, inputs=6)
    x = rng.integers(0, 2, (steps, samples, 6)).astype(np.uint8)
    apart = reference.run(network, x, ("spikes", "v"))
    line = np.concatenate([*np.moveaxis(x, 1, 0), np.zeros((3, 6), dtype=np.uint8)])[:, None]
    together = reference.stream(network, line, reset_interval=steps, record=("spikes", "v"))
    for k, arrival in enumerate(network.arrivals):
        for n in range(samples):
            window = slice(arrival + n * steps, arrival + (n + 1) * steps)
            np.testing.assert_array_equal(together.spikes[k][window, 0], apart.spikes[k][:, n])
            np.testing.assert_array_equal(together.v[k][window, 0], apart.v[k][:, n])


@pytest.mark.parametrize("stride", [(1, 1), (2, 3)])
@pytest.mark.parametrize("dilation", [(1, 1), (2, 1)])
def test_convolution_is_scipys_correlation(
    stride: tuple[int, int], dilation: tuple[int, int]
) -> None:
    rng = np.random.default_rng(2)
    x = rng.integers(0, 2, (2, 4, 9, 10))
    weight = rng.integers(-128, 128, (6, 2, 3, 2))
    synapse = Conv(weight, stride, (2, 1), dilation, groups=2)
    found = reference.convolve(synapse, x)
    padded = np.pad(x, ((0, 0), (0, 0), (2, 2), (1, 1)))
    spread = np.zeros((6, 2, 2 * dilation[0] + 1, dilation[1] + 1), dtype=int)
    spread[:, :, :: dilation[0], :: dilation[1]] = weight
    for n in range(2):
        for o in range(6):
            group = o // 3
            full = sum(
                correlate2d(padded[n, 2 * group + c], spread[o, c], mode="valid") for c in range(2)
            )
            np.testing.assert_array_equal(found[n, o], full[:: stride[0], :: stride[1]])


def test_readouts() -> None:
    weight = np.array([[10], [60]])
    x = np.ones((4, 2, 1), dtype=np.uint8)
    x[:, 1] = 0
    layer = Layer(Dense(weight), Neuron(vth=64))
    spiking = Network((1,), (layer,), Encoding("events", 4), "spikes")
    assert reference.predict(spiking, x).tolist() == [[0, 2], [0, 0]]
    membrane = Network((1,), (Layer(Dense(weight), INTEGRATOR),), Encoding("events", 4))
    assert reference.predict(membrane, x).tolist() == [[10 * 4 * 64, 60 * 4 * 64], [0, 0]]
