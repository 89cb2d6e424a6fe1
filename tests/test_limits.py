"""Design rules: each is shown a network that keeps it and one that breaks it."""

from __future__ import annotations

import json

import numpy as np
import pytest

from loihi import INTEGRATOR, Conv, Dense, Encoding, Inject, Layer, Network, Neuron, PumiceError
from loihi.limits import Finding, check, chip


def build(
    *layers: Layer, shape: tuple[int, ...] = (4,), payload: tuple[int, int] = (0, 1)
) -> Network:
    return Network(shape, layers, Encoding("events", 16, payload))


def find(network: Network, rule: str, on: str = "loihi2", x: np.ndarray | None = None) -> Finding:
    """The worst finding of a rule."""
    found = [f for f in check(network, chip(on), x).findings if f.rule == rule]
    return max(found, key=lambda f: ["ok", "warning", "error"].index(f.level))


def dense(weight: np.ndarray, neuron: Neuron = Neuron()) -> Layer:
    return Layer(Dense(weight), neuron)


def test_weight_bits_are_counted_with_their_sign() -> None:
    mixed = np.array([[-128, 127, 3, 1]])
    assert find(build(dense(mixed)), "weight bits").used == 8
    assert find(build(dense(np.array([[-1, 0, 0, 0]]))), "weight bits").used == 1
    # -64..63 takes seven bits, a size that Loihi 1 lacks and Loihi 2 has
    seven = np.array([[-128, 126, 2, 0]])
    assert "stored in 8 bits" in find(build(dense(seven)), "weight bits", "loihi1").message
    assert "stored" not in find(build(dense(seven)), "weight bits", "loihi2").message


def test_worst_case_of_u_is_the_sum_over_inputs_and_steps() -> None:
    weight = np.array([[100, -100, 50, 0]])
    assert find(build(dense(weight)), "u, worst case").used == 250 * 64
    # No decay: sixteen steps add up. Half decay: 1 + 1/2 + 1/4 + …
    assert find(build(dense(weight, Neuron(du=0))), "u, worst case").used == 250 * 64 * 16
    short = Network((4,), (dense(weight, Neuron(du=2048)),), Encoding("events", 3))
    assert find(short, "u, worst case").used == 250 * 64 * 1.75


def test_graded_images_can_pass_the_current_register() -> None:
    network = build(dense(np.full((1, 784), 4)), shape=(784,), payload=(0, 255))
    worst = find(network, "u, worst case")
    assert (worst.level, worst.used) == ("warning", 784 * 4 * 255 * 64)
    dark = np.zeros((16, 2, 784), dtype=np.uint8)
    assert find(network, "u, on data", x=dark).level == "ok"
    bright = np.full((16, 2, 784), 255, dtype=np.uint8)
    seen = find(network, "u, on data", x=bright)
    assert (seen.level, seen.used) == ("error", 784 * 4 * 255 * 64)
    assert not check(network, chip("loihi2"), bright).ok


def test_silent_and_saturated_layers() -> None:
    x = np.ones((16, 3, 4), dtype=np.uint8)
    silent = build(dense(np.full((2, 4), -5)), dense(np.ones((1, 2)), INTEGRATOR))
    assert find(silent, "silent neurons", x=x).level == "error"
    busy = build(dense(np.full((2, 4), 50)), dense(np.ones((1, 2)), INTEGRATOR))
    assert find(busy, "saturated neurons", x=x).level == "error"
    fine = build(
        dense(np.array([[30, 0, 0, 0], [0, 20, 0, 0]])), dense(np.ones((1, 2)), INTEGRATOR)
    )
    assert check(fine, chip("loihi2"), x).ok


def test_membrane_that_clips_is_seen() -> None:
    network = build(dense(np.full((1, 4), 255), Neuron(du=0, vth=131071)))
    x = np.ones((16, 1, 4), dtype=np.uint8)
    # u grows by 4·255·64 a step, v by u: past 2^23 at the sixteenth
    assert find(network, "v, on data", x=x).level == "warning"


def test_cores_by_neurons_and_by_memory() -> None:
    many = build(dense(np.full((3000, 4), 3)))
    assert find(many, "cores", "loihi1").used == 3
    assert find(many, "cores", "loihi2").used == 1
    wide = build(dense(np.tile([1, 255], (512, 512))), shape=(1024,))
    # 512 · 1024 bytes in cores of 128 KB
    assert find(wide, "cores", "loihi1").used == 4
    assert find(wide, "cores", "loihi1").level == "ok"
    assert not check(wide, chip("loihi1", cores=3)).ok
    assert (
        find(build(dense(np.ones((1, 5000))), shape=(5000,)), "input axons", "loihi1").level
        == "error"
    )
    pooled = build(
        Layer(Conv(np.full((2, 1, 2, 2), 16), stride=2, groups=2), Neuron()), shape=(2, 8, 8)
    )
    assert find(pooled, "neurons").used == 32


def test_graded_input_needs_a_chip_that_has_it() -> None:
    graded = build(dense(np.ones((1, 4))), payload=(0, 255))
    assert find(graded, "graded input", "loihi1").level == "error"
    assert find(graded, "graded input", "loihi2").level == "ok"
    through_neurons = build(Layer(Inject(), Neuron()), dense(np.ones((1, 4))), payload=(0, 255))
    assert not [
        f for f in check(through_neurons, chip("loihi1")).findings if f.rule == "graded input"
    ]


def test_delays_and_thresholds_and_biases() -> None:
    network = build(Layer(Dense(np.ones((1, 4)), np.full((1, 4), 40)), Neuron(vth=0, bias=-7)))
    assert find(network, "delay").used == 40
    assert not check(network, chip("loihi2", delay=31)).ok
    assert find(network, "threshold").level == "warning"
    assert find(network, "bias").used == 7


def test_chip_figures_are_the_users_to_set() -> None:
    assert chip("loihi2", neurons=4096).sources["neurons"] == "given by you"
    with pytest.raises(PumiceError, match="loihi3"):
        chip("loihi3")
    with pytest.raises(PumiceError, match="no figure 'core'"):
        chip("loihi2", core=3)
    with pytest.raises(PumiceError, match="at least 1"):
        chip("loihi2", cores=0)


def test_report_is_json() -> None:
    json.dumps(check(build(dense(np.ones((1, 4)))), chip("loihi2")).as_dicts())
