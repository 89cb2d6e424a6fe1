"""Design rules: each is shown a network that keeps it and one that breaks it."""

from __future__ import annotations

import json

import numpy as np
import pytest

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
)
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


# --- graphs -------------------------------------------------------------------------------------


def all_of(network: Network, rule: str, on: str = "loihi1") -> dict[str | None, Finding]:
    return {f.layer: f for f in check(network, chip(on)).findings if f.rule == rule}


def shortcuts() -> Network:
    """4 inputs; 6, 6 and 2 neurons; 8-bit weights."""
    wide, square = np.tile([-128, 127], (6, 2)), np.tile([-128, 127], (6, 3))
    return build(
        dense(wide),
        Layer(Dense(square), Neuron(), carry=0),
        Layer(
            Dense(square[:2]),
            Neuron(),
            (0, 1),
            (Edge(Dense(np.array([[1, 0, 0, 1], [1, 1, 0, 0]])), (-1,)),),
            None,
        ),
    )


def test_branches_are_said_to_stay_here() -> None:
    found = find(shortcuts(), "branches")
    assert (found.level, found.used, found.allowed, found.layer) == ("warning", 2, 0, None)
    assert "netx holds chains only: simulate with --engine fast or reference" in found.message
    assert not all_of(build(dense(np.ones((1, 4)))), "branches")


def test_every_synapse_of_a_graph_is_counted() -> None:
    network = shortcuts()
    assert network.names[2] == "2 dense 6-2 from 0+1 & dense 4-2 from input"
    needed = {name: f.used for name, f in all_of(network, "synaptic memory").items()}
    # 8 bits each; the carried synapses once more; once for each source; 1 bit in the shortcut
    assert list(needed.values()) == [6 * 4, 6 * 6 + 6 * 4, 2 * (2 * 6) + 1]
    axons = [f.used for f in all_of(network, "input axons").values()]
    assert axons == [4, 6 + 4, 6 + 6 + 4]
    bits = {name: f.used for name, f in all_of(network, "weight bits").items()}
    assert bits == {
        "0 dense 4-6": 8,
        "1 dense 6-6 & input of 0": 8,
        "2 dense 6-2 from 0+1": 8,
        "2 dense 4-2 from input": 1,
    }
    few = chip("loihi1", axons=15)
    broken = [f.layer for f in check(network, few).findings if f.level == "error"]
    assert broken == [network.names[2]]


def test_worst_case_of_a_graph_adds_everything_up() -> None:
    row = 3 * 128 + 3 * 127  # of the square one, by one spike of each of 6
    worst = [f.used / 64 for f in all_of(shortcuts(), "u, worst case").values()]
    first = 2 * 128 + 2 * 127
    assert worst == [first, row + first, 2 * row + 2]
    graded = build(dense(np.ones((3, 4))), Layer(Dense(np.ones((1, 4))), Neuron(), (-1,)),
                   payload=(-9, 5))  # fmt: skip
    assert [f.used / 64 for f in all_of(graded, "u, worst case").values()] == [36, 36]


def test_graded_input_of_a_later_layer() -> None:
    square = np.eye(4, dtype=int)
    injected = (Layer(Inject(), Neuron()), Layer(Dense(square), Neuron(), (-1, 0)))
    assert find(build(*injected, payload=(0, 9)), "graded input", "loihi1").level == "error"
    assert not all_of(build(injected[0], dense(square), payload=(0, 9)), "graded input")


def test_shorter_ways_wait() -> None:
    network = shortcuts()
    # Layer 1 hears layer 0 at once, and the input of layer 0 a step later than layer 0 does. Layer
    # 2 starts with layer 1: layer 0 waits a step, the input two.
    waits = {name: f.used for name, f in all_of(network, "branch delay").items()}
    assert waits == {network.names[1]: 1, network.names[2]: 2}
    with_delay = Edge(Dense(np.ones((2, 4)), np.full((2, 4), 5)), (-1,))
    layer = Layer(network.layers[2].synapse, Neuron(), (0, 1), (with_delay,))
    late = network.with_layer(2, layer)
    assert all_of(late, "branch delay")[late.names[2]].used == 2 + 5
    assert not check(network, chip("loihi2", delay=1)).ok
    assert check(network, chip("loihi2", delay=2)).ok


def test_loops_that_a_chip_cannot_keep_up_with() -> None:
    square = Dense(np.eye(4, dtype=int))

    def loop(*more: Edge) -> Network:
        return build(Layer(square, Neuron(), more=more), dense(np.eye(4)), dense(np.eye(4)))

    assert not all_of(loop(Edge(square, (0,))), "loop")  # a step in both clocks
    found = find(loop(Edge(square, (0, 2))), "loop")
    assert (found.level, found.used, found.allowed) == ("error", 3, 1)
    late = Dense(np.eye(4, dtype=int), np.full((4, 4), 2))
    assert not all_of(loop(Edge(late, (2,))), "loop")
