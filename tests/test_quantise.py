"""Real numbers onto the chip's grid: against brute force, and against the real network itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lava_export import netx
from lava_export.nir_io import linear
from loihi import Conv, Dense, Encoding, PumiceError, formats, reference
from loihi.network import INPUT
from loihi.quantise import (
    LayerReport,
    QuantiseError,
    RealLayer,
    RealSynapse,
    _fits,
    _weights,
    quantise,
)

SPIKES = Encoding("events", 20)


def layer(weight: Any, threshold: float | None = 1.0, **other: Any) -> RealLayer:
    weight = np.asarray(weight, dtype=np.float64)
    its = {"sources": (INPUT,), **other.pop("synapse", {})}
    fields = {"name": "a", "du": 1.0, "dv": 0.1, "threshold": threshold, **other}
    return RealLayer(synapses=(RealSynapse(weight, **its),), **fields)


def one(given: RealLayer, encoding: Encoding = SPIKES, **other: Any) -> tuple[Any, LayerReport]:
    """The chip's layer of one that the input feeds, and the report."""
    shape = (given.synapses[0].weight.shape[1],)
    if given.synapses[0].weight.ndim == 4:
        shape = (shape[0] * given.synapses[0].groups, 9, 9)
    network, (report,) = quantise([given], shape, encoding, **other)
    return network.layers[0], report


def nearest(x: float, grid: np.ndarray) -> float:
    return float(np.abs(grid - x).min())


# --- weights ------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_each_weight_is_the_nearest_of_a_format(data: st.DataObject) -> None:
    """At the scale that was chosen, no other format of eight bits holds the weights better."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    sign = data.draw(st.sampled_from(["mixed", "positive", "negative"]))
    w = rng.standard_normal((4, 5)) * data.draw(st.sampled_from([1e-3, 1.0, 40.0]))
    w = {"mixed": w, "positive": np.abs(w), "negative": -np.abs(w)}[sign]
    made, report = one(layer(w, threshold=data.draw(st.sampled_from([None, 0.0, 0.7, 30.0]))))
    grids = {
        "mixed": [np.arange(-256, 255, 2), np.arange(-128, 128)],
        "positive": [np.arange(256)],
        # netx and Lava disagree on what else there is below 0: see netx.lava_weight
        "negative": [np.arange(-254, 1, 2), np.arange(-127, 1)],
    }[sign]
    x = report.scale * w
    if np.abs(x).max() > 126:  # the finer of two grids has to hold all
        grids = grids[:1]
    best = min(sum(nearest(v, grid) ** 2 for v in x.reshape(-1)) for grid in grids)
    assert np.square(made.synapse.weight - x).sum() == pytest.approx(best, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(
    ("weight", "scale"),
    [
        ([-1.0, 0.5], 256),
        ([-1.0, 1.0], 254),
        ([0.0, 0.5], 510),
        ([-1.0, -0.5], 254),
        ([0.0], np.inf),
    ],
)
def test_the_largest_scale_that_clips_none(weight: list[float], scale: float) -> None:
    assert _fits(np.array(weight)) == scale


def test_what_the_finer_grid_does_not_hold_takes_the_coarser() -> None:
    """Even where clipping a single weight would cost less than rounding all others."""
    x = np.append(np.full(50, 3.0), -130.0)
    weight, clipped = _weights(x)
    assert (weight.min(), clipped) == (-130, 0.0)
    assert set(weight[:-1] % 2) == {0}
    assert _weights(np.append(x[:-1], -128.0))[0].tolist() == [*[3] * 50, -128]


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), threshold=st.sampled_from([None, 0.5, 3.0, 11.0]))
def test_the_scale_is_as_good_as_a_search(seed: int, threshold: float | None) -> None:
    """Over the same range, among many more scales, none does much better."""
    w = np.random.default_rng(seed).standard_normal((20, 30))

    def error(scale: float) -> float:
        x = scale * w
        return float(np.square(np.clip(2 * np.rint(x / 2), -256, 254) / scale - w).mean())

    made, report = one(layer(w, threshold))
    found = float(np.square(made.synapse.weight / report.scale - w).mean())
    full = min(254 / w.max(), 256 / -w.min())
    scales = np.geomspace(full / 1.4, 2 * full, 500)
    if threshold:
        scales = np.unique(np.rint(scales * threshold)) / threshold
    assert found == pytest.approx(error(report.scale), rel=1e-9)
    assert found <= 1.2 * min(error(s) for s in scales)
    assert found <= error(full) * (1 + 1e-9) or threshold  # never worse than the plain choice


def test_a_few_large_weights_are_clipped() -> None:
    w = np.random.default_rng(0).standard_normal((100, 100))
    w[0, :3] = 7.0
    made, report = one(layer(w, None))
    (synapse,) = report.synapses
    assert synapse.clipped == 3e-4
    plain = 254 / 7.0
    kept = np.sqrt(np.mean(np.square(2 * np.rint(plain * w / 2) / plain - w)))
    assert synapse.rms_error < kept / np.sqrt(np.mean(w * w))
    assert made.synapse.weight[0, 0] == 254


@pytest.mark.parametrize(
    "weight",
    [
        np.array([[76, -128, 3], [5, 0, 127]]),
        np.array([[-256, 254, 2]]),
        np.array([[255, 3, 0]]),
        np.array([[-100, -3, -1]]),
    ],
)
@pytest.mark.parametrize("exponent", [0, -20, 3])
def test_weights_on_a_grid_stay_exact(weight: np.ndarray, exponent: int) -> None:
    """Multiples of one number keep every bit; the chip's own numbers stay what they are."""
    unit = 2.0**exponent
    made, report = one(layer(weight * unit, threshold=80 * unit, bias=np.array(3 * unit)))
    assert np.array_equal(made.synapse.weight / report.scale, weight * unit)
    assert (made.neuron.vth / report.scale, report.bias_error) == (80 * unit, 0)
    if exponent == 0:
        assert report.scale == 1
        assert (made.neuron.vth, made.neuron.bias) == (80, 3)


def test_a_file_of_inhibition_can_be_written(tmp_path: Path) -> None:
    """netx and Lava disagree on some matrices without a positive weight: these are avoided."""
    rng = np.random.default_rng(0)
    for w in (-rng.random((5, 6)), -(rng.random((5, 6)) < 0.5).astype(float)):
        w[0, 0] = 0
        network, _ = quantise([layer(w, None)], (6,), SPIKES)
        netx.write(network, tmp_path / "model.net")
        assert netx.why_not(network) is None


def test_clipped_inhibition_is_a_format() -> None:
    w = -np.abs(np.random.default_rng(0).standard_normal((100, 100)))
    w[0, :3] = -9.0
    made, report = one(layer(w, None))
    assert report.synapses[0].clipped == 3e-4
    assert made.synapse.weight.min() == -254


def test_synapses_of_a_layer_share_its_scale() -> None:
    rng = np.random.default_rng(0)
    large, small = rng.standard_normal((4, 6)), 0.05 * rng.standard_normal((4, 4))
    both = replace(layer(large), synapses=(*layer(large).synapses, RealSynapse(small, (0,))))
    network, (report,) = quantise([both], (6,), SPIKES)
    (first, _), (second, sources) = network.synapses(0)
    assert sources == (0,)
    for synapse, w in ((first, large), (second, small)):
        assert np.abs(synapse.weight / report.scale - w).max() <= 1.01 / report.scale
    assert report.synapses[1].rms_error > 5 * report.synapses[0].rms_error
    assert 30 < report.scale < 300


# --- thresholds, decays, biases -----------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    threshold=st.floats(1e-4, 1e4),
    size=st.floats(1e-3, 1e3),
    seed=st.integers(0, 2**32 - 1),
)
def test_thresholds_are_exact_where_they_can_be(threshold: float, size: float, seed: int) -> None:
    w = size * np.random.default_rng(seed).standard_normal((3, 5))
    made, report = one(layer(w, threshold))
    assert 0 <= made.neuron.vth <= formats.VTH_MAX
    assert abs(made.neuron.vth - report.scale * threshold) <= 0.5
    if made.neuron.vth > 1:  # below, it is not much beside such weights
        assert made.neuron.vth / report.scale == pytest.approx(threshold, rel=1e-9)
    if report.limit == "threshold":
        assert made.neuron.vth > 2**16


def test_a_large_threshold_costs_bits_of_the_weights() -> None:
    w = np.random.default_rng(0).standard_normal((5, 5))
    made, report = one(layer(w, 40_000.0))
    assert report.limit == "threshold"
    assert np.abs(made.synapse.weight).max() < 16
    assert report.synapses[0].bits < 6
    assert 65_536 < made.neuron.vth <= formats.VTH_MAX


def test_decays_are_the_nearest_4096th() -> None:
    rng = np.random.default_rng(0)
    for du, dv in rng.random((20, 2)):
        made, report = one(layer(np.eye(2), du=du, dv=dv))
        assert abs(made.neuron.du - 4096 * du) <= 0.5
        assert abs(made.neuron.dv - 4096 * dv) <= 0.5
        assert (report.du, report.dv) == (du, dv)
        assert (report.du_4096, report.dv_4096) == (made.neuron.du, made.neuron.dv)
    made, _ = one(layer(np.eye(2), du=1 + 1e-12, dv=0.0))
    assert (made.neuron.du, made.neuron.dv) == (4096, 0)


@pytest.mark.parametrize("bias_exp", [6, 0, None])
def test_biases(bias_exp: int | None) -> None:
    rng = np.random.default_rng(0)
    w, bias = rng.standard_normal((5, 6)), rng.standard_normal(5)
    made, report = one(layer(w, 3.0, bias=bias), bias_exp=bias_exp)
    unit = 2.0 ** (made.neuron.bias_exp - 6) / report.scale
    error = np.abs(made.neuron.bias * unit - bias).max()
    assert report.bias_error == pytest.approx(error)
    assert error <= unit / 2 * (1 + 1e-9)
    assert np.abs(made.neuron.bias).max() <= formats.BIAS_MAX
    if bias_exp is None:
        assert np.abs(made.neuron.bias).max() > formats.BIAS_MAX / 2  # as fine as it fits
    elif bias_exp == 0:
        assert report.limit == "bias"


def test_a_large_bias_sets_the_scale() -> None:
    made, report = one(layer(np.eye(2), 3.0, bias=np.array([500.0, -1.0])))
    assert report.limit == "bias"
    assert np.abs(made.neuron.bias).max() <= formats.BIAS_MAX
    assert made.neuron.bias[0] / report.scale == pytest.approx(500, rel=1e-3)


def test_bias_takes_its_plainest_form() -> None:
    image = np.broadcast_to(np.array([1.0, -2.0])[:, None, None], (2, 9, 9))
    kernel = np.ones((2, 1, 1, 1))
    assert one(layer(kernel, bias=image))[0].neuron.bias.shape == (2,)
    assert isinstance(one(layer(kernel, bias=np.ones((2, 9, 9))))[0].neuron.bias, int)
    image = image.copy()
    image[0, 0, 0] = 0
    assert one(layer(kernel, bias=image))[0].neuron.bias.shape == (2, 9, 9)


# --- room ---------------------------------------------------------------------------------------


def test_currents_have_room() -> None:
    """Payloads of 8 bits, many of them and a slow current would turn 24 bits around."""
    rng = np.random.default_rng(0)
    w = np.abs(rng.standard_normal((20, 400)))
    encoding = Encoding("events", 30, (0, 255))
    x = rng.integers(0, 256, (30, 4, 400)).astype(np.uint8)
    for du in (1.0, 0.1):
        network, (report,) = quantise([layer(w, 1e4, du=du)], (400,), encoding)
        assert report.limit == "current"
        trace = reference.run(network, x, ("u",))
        assert ((trace.u[0] > 0) & (trace.u[0] < formats.STATE_MAX)).all()
        free, _ = quantise([layer(w, 1e4, du=du)], (400,), SPIKES)
        wild = replace(network, layers=free.layers)
        assert (reference.run(wild, x, ("u",)).u[0] > formats.STATE_MAX).any()  # turned, and more


def test_a_membrane_that_is_read_has_room() -> None:
    rng = np.random.default_rng(0)
    w = np.abs(rng.standard_normal((3, 300)))
    encoding = Encoding("events", 200)
    network, (report,) = quantise([layer(w, None, dv=0.0)], (300,), encoding)
    assert report.limit == "membrane"
    assert network.readout == "membrane"
    x = np.ones((200, 1, 300), np.uint8)
    x[::2] = 0
    v = reference.run(network, x, ("v",)).v[0][-1].astype(float)
    assert (v < formats.STATE_MAX - 1).all()
    assert v / 64 / report.scale == pytest.approx(100 * w.sum(1)[None], rel=0.05)


# --- the whole ----------------------------------------------------------------------------------


def simulated(layers: list[RealLayer], x: np.ndarray) -> list[np.ndarray]:
    """The equations at the top of loihi/quantise.py, in real numbers."""
    steps, samples = x.shape[:2]
    states: list[Any] = [(0.0, 0.0)] * len(layers)
    sent: list[list[np.ndarray]] = [[] for _ in layers]
    for t in range(steps):
        for i, own in enumerate(layers):
            a = 0.0
            for synapse in own.synapses:
                for source in synapse.sources:
                    if source == INPUT:
                        message = x[t].astype(float)
                    elif source < i:
                        message = sent[source][t]
                    elif t:
                        message = sent[source][t - 1]
                    else:
                        continue
                    if synapse.weight.ndim == 2:
                        a = a + message.reshape(samples, -1) @ synapse.weight.T
                    else:
                        kernel = linear.Kernel(
                            "k", synapse.weight, synapse.stride, synapse.padding,
                            synapse.dilation, synapse.groups,
                        )  # fmt: skip
                        a = a + np.stack([kernel.apply(one) for one in message])
            u, v = states[i]
            u = (1 - own.du) * u + a
            v = (1 - own.dv) * v + u + own.bias
            if own.threshold is None:
                sent[i].append(v)
            else:
                s = v > own.threshold
                v = v - s * own.threshold if own.reset == "soft" else np.where(s, 0.0, v)
                sent[i].append(s.astype(float))
            states[i] = u, v
    return [np.stack(steps) for steps in sent]


@pytest.mark.parametrize("reset", ["hard", "soft"])
def test_spikes_are_those_of_the_real_network(reset: Any) -> None:
    rng = np.random.default_rng(1)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))

    first = RealSynapse(normal(4, 1, 3, 3), (INPUT,), padding=(1, 1), stride=(2, 1))
    layers = [
        RealLayer("conv", (first,), 1.0, 0.2, 0.3, 0.02, reset),
        RealLayer(
            "rec",
            (RealSynapse(normal(20, 180), (0,)), RealSynapse(0.3 * normal(20, 20), (1,))),
            0.4, 0.1, 0.5, 0.05 * rng.standard_normal(20), reset,
        ),
        RealLayer("read", (RealSynapse(normal(5, 20), (1,)),), 1.0, 0.0, None),
    ]  # fmt: skip
    network, _ = quantise(layers, (1, 9, 9), SPIKES)
    x = (rng.random((20, 30, 1, 9, 9)) < 0.3).astype(np.uint8)
    trace = reference.run(network, x, ("spikes", "v"))
    real = simulated(layers, x)
    for i, least in enumerate((0.99, 0.95)):  # recurrence carries each other spike on
        assert 0.03 < real[i].mean() < 0.5
        assert (trace.spikes[i] == real[i]).mean() > least
    assert (trace.v[2][-1].argmax(1) == real[2][-1].argmax(1)).mean() > 0.85


def test_the_report_says_what_happened() -> None:
    w = np.array([[1.0, -0.5, 0.25, 0.001], [0.0, 0.3, -0.9, 0.002]])
    made, report = one(layer(w, 2.0, bias=np.array([0.5, -0.25]), notes=("so",)))
    (synapse,) = report.synapses
    off = made.synapse.weight / report.scale - w
    rms = np.sqrt((w * w).mean())
    assert synapse.weights == 8
    assert synapse.max_error == pytest.approx(np.abs(off).max() / rms)
    assert synapse.rms_error == pytest.approx(np.sqrt((off * off).mean()) / rms)
    assert synapse.zeroed == pytest.approx(2 / 7)
    held = formats.weight_format(made.synapse.weight)
    assert (synapse.bits, synapse.sign_mode) == (held.bits, "mixed")
    assert (report.layer, report.threshold, report.bias, report.notes) == ("a", 2.0, 0.5, ("so",))
    assert report.vth == made.neuron.vth == round(2.0 * report.scale)
    assert report.as_dict()["synapses"][0]["weights"] == 8


def test_the_same_numbers_give_the_same_network() -> None:
    w = np.random.default_rng(0).standard_normal((9, 9))
    first, second = (quantise([layer(w)], (9,), SPIKES) for _ in range(2))
    assert first == second


def test_silent_layers() -> None:
    made, _ = one(layer(np.zeros((2, 2)), 5.0))
    assert not made.synapse.weight.any()
    made, report = one(layer(np.zeros((2, 2)), None))
    assert report.scale == 1
    made, report = one(layer(np.zeros((2, 2)), 0.0, bias=1.0, dv=1.0))
    assert (made.neuron.vth, made.neuron.bias) == (0, 1)  # spikes in every step


def test_delays_and_geometry_are_kept() -> None:
    delay = np.array([[0, 3], [62, 1]])
    made, _ = one(layer(np.ones((2, 2)), synapse={"delay": delay}))
    assert isinstance(made.synapse, Dense)
    assert np.array_equal(made.synapse.delay, delay)
    geometry = {"stride": (2, 1), "padding": (0, 1), "dilation": (1, 2), "groups": 2}
    made, _ = one(layer(np.ones((4, 1, 3, 3)), synapse=geometry))
    assert isinstance(made.synapse, Conv)
    assert {name: getattr(made.synapse, name) for name in geometry} == geometry


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (layer([[np.nan]]), "a: its numbers hold NaN"),
        (layer([[1.0]], bias=np.inf), "a: its numbers hold NaN or infinite"),
        (layer([[1.0]], -0.5), "a: its threshold is -0.5: on the chip it is 0 or more"),
        (layer([[1.0]], du=1.01), r"a: du is 1.01: .*is dt right\?"),
        (layer([[1.0]], dv=-0.01), "a: dv is -0.01"),
        (layer(np.ones((1, 0))), "a: a weight is empty"),
        (replace(layer([[1.0]]), synapses=()), "a: no synapse feeds its neurons"),
        (
            replace(
                layer([[1.0]]),
                synapses=(layer([[1.0]]).synapses[0], RealSynapse(np.ones((2, 1)), (0,))),
            ),
            "a: its synapses end in 1, 2 neurons or channels",
        ),
        (
            layer(np.ones((1, 1, 1, 1)), synapse={"delay": np.ones((1, 1, 1, 1), int)}),
            "a: a convolution has no delays",
        ),
        (layer([[1.0]], synapse={"delay": np.array([[63]])}), "a: delay.* is 63, outside 0..62"),
    ],
)
def test_what_has_no_counterpart_is_refused(given: RealLayer, says: str) -> None:
    with pytest.raises(QuantiseError, match=says) as caught:
        quantise([given], (1,), SPIKES)
    assert "\n" not in str(caught.value)


def test_layers_that_do_not_fit_are_refused() -> None:
    with pytest.raises(PumiceError, match="layer 0: a dense synapse of 2 inputs is fed by 3"):
        quantise([layer(np.ones((2, 2)))], (3,), SPIKES)
    with pytest.raises(PumiceError, match="at least one layer"):
        quantise([], (3,), SPIKES)
