"""Design rules: each is shown a network that keeps it and one that breaks it."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from cli.main import main
from lava_export import netx
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
    limits,
)
from loihi.boards import FILE_MAX, BoardError, Cost, known, read
from loihi.engine import Activity
from loihi.limits import Finding, check, chip

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent


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


def test_branches_are_not_for_netx() -> None:
    found = find(shortcuts(), "branches")
    assert (found.level, found.used, found.allowed, found.layer) == ("ok", 2, 2, None)
    assert "not for netx: pumice wires Lava's processes itself" in found.message
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
    assert (found.level, found.used, found.allowed) == ("error", 1, 0)
    assert "is 2 steps too slow for a chip and Lava" in found.message
    late = Dense(np.eye(4, dtype=int), np.full((4, 4), 2))
    assert not all_of(loop(Edge(late, (2,))), "loop")


# --- what neurons can do ------------------------------------------------------------------------


def test_a_soft_reset_is_microcode_or_nothing() -> None:
    soft = build(dense(np.ones((3, 4)), Neuron(reset="soft")), dense(np.ones((2, 3))))
    on_two = all_of(soft, "neuron model", "loihi2")
    assert list(on_two) == [soft.names[0]]  # a hard reset is nothing to speak of
    found = on_two[soft.names[0]]
    assert (found.level, found.used, found.allowed) == ("warning", 3, 3)
    assert "needs neuron microcode of your own" in found.message
    assert check(soft, chip("loihi2")).ok
    found = find(soft, "neuron model", "loihi1")
    assert (found.level, found.used, found.allowed) == ("error", 3, 0)
    assert "reset to 0 and cannot be programmed" in found.message


def sigma_delta() -> Network:
    return build(
        Layer(Inject(), Delta(vth=3)),
        Layer(Dense(np.full((3, 4), 200)), SigmaDelta(vth=131071, bias=2**16)),
        Layer(Dense(np.ones((2, 3))), Sigma()),
        payload=(0, 9),
    )


def test_sigma_delta_neurons_are_of_loihi_2() -> None:
    network = sigma_delta()
    on_two = all_of(network, "neuron model", "loihi2").values()
    assert [(f.level, f.used) for f in on_two] == [("ok", 4), ("ok", 3), ("ok", 2)]
    on_one = all_of(network, "neuron model", "loihi1").values()
    assert [f.level for f in on_one] == ["error"] * 3
    assert all("sends graded spikes, which loihi1 does not have" in f.message for f in on_one)
    # Their thresholds, biases and states are in other units and registers.
    for rule in ("threshold", "bias", "u, worst case"):
        assert not all_of(network, rule)
    ungraded = replace(chip("loihi2"), graded=False)
    assert not check(network, ungraded).ok
    seen = [Activity(0.5, 0.0, 0.0, 2**30, 2**30)] * 3
    assert not [found for rule in limits.DATA_RULES for found in rule(network, seen)]
    spiking = build(*[dense(np.ones((4, 4)))] * 3)
    assert {f.level for f in limits.seen_current(spiking, seen)} == {"error"}


def test_resonators_are_microcode() -> None:
    weight = np.tile([-128, 127], (3, 2))
    network = build(Layer(ComplexDense(weight, np.ones((3, 4))), Resonator(99, 0, 0)))
    found = find(network, "neuron model", "loihi2")
    assert (found.level, found.used, found.allowed) == ("warning", 3, 3)
    assert "needs neuron microcode" in found.message
    assert find(network, "neuron model", "loihi1").level == "error"
    assert find(network, "threshold").used == 99
    parts = [f for f in check(network, chip("loihi2")).findings if f.rule == "weight bits"]
    assert [(f.used, f.message.split(":")[0]) for f in parts] == [(8, "real"), (1, "imaginary")]
    assert find(network, "synaptic memory").used == 3 * 4 * 9 / 8 + 0.5  # 13.5 bytes
    assert find(network, "fan-in").used == 4


# --- figures ------------------------------------------------------------------------------------


def test_mantissas_of_a_narrower_chip() -> None:
    network = build(dense(np.ones((2, 4)), Neuron(vth=255, bias=np.array([15, -16]))))
    on = chip("loihi2", threshold_bits=8, bias_bits=5, bias_exp=6)
    assert check(network, on).ok
    assert all_of_on(network, "threshold", replace(on, threshold_bits=7)) == [("error", 255, 127)]
    assert all_of_on(network, "bias", replace(on, bias_bits=4)) == [("error", 16, 7)]
    assert all_of_on(network, "bias", replace(on, bias_exp=5)) == [("error", 16, 15)]
    up = build(dense(np.ones((2, 4)), Neuron(bias=16)))  # one more than five bits hold above 0
    assert all_of_on(up, "bias", on) == [("error", 16, 15)]


def all_of_on(network: Network, rule: str, on) -> list[tuple[str, float, float]]:
    return [(f.level, f.used, f.allowed) for f in check(network, on).findings if f.rule == rule]


def test_long_delays_leave_loihi_1_fewer_neurons() -> None:
    def delayed(steps: int) -> Network:
        return build(Layer(Dense(np.ones((1, 4)), np.full((1, 4), steps)), Neuron()))

    assert find(delayed(8), "delay", "loihi1").level == "ok"
    found = find(delayed(9), "delay", "loihi1")
    assert found.level == "warning" and "beyond 8 a core holds fewer neurons" in found.message
    assert find(delayed(62), "delay", "loihi2").level == "ok"


def test_weights_that_no_synapse_holds() -> None:
    on = replace(chip("loihi2"), weight_bits=(1, 4))
    network = build(dense(np.array([[-128, 127, 3, 1]])))
    assert all_of_on(network, "weight bits", on) == [("error", 8, 4)]
    # Stored in the next larger size that there is.
    three = build(dense(np.array([[-128, 96, 32, 0]])))
    assert find(three, "weight bits").used == 3
    assert all_of_on(three, "synaptic memory", on)[0][1] == 2


def test_fan_in_is_what_a_core_or_the_board_holds() -> None:
    network = build(dense(np.tile([-128, 127], (2, 8))), shape=(16,))
    assert all_of_on(network, "fan-in", chip("loihi2")) == [("ok", 16, 192 * 1024)]
    assert all_of_on(network, "fan-in", chip("loihi2", synapse_bytes=16)) == [("ok", 16, 16)]
    small = chip("loihi2", synapse_bytes=15)
    assert all_of_on(network, "fan-in", small) == [("error", 16, 15)]
    assert all_of_on(network, "synaptic memory", small)[0][0] == "error"
    assert all_of_on(network, "fan-in", chip("loihi2", fan_in=16)) == [("ok", 16, 16)]
    assert all_of_on(network, "fan-in", chip("loihi2", fan_in=15)) == [("error", 16, 15)]
    padded = Layer(Conv(np.ones((1, 2, 3, 3), dtype=int), padding=1), Neuron())
    assert find(build(padded, shape=(2, 2, 2)), "fan-in").used == 2 * 4  # taps within the image


def test_axons_in_and_out() -> None:
    network = build(dense(np.ones((6, 4))), dense(np.ones((9, 6))))
    on = chip("loihi1", neurons=3, axons=6, axons_out=9)
    # Each of the six neurons is heard by three cores.
    assert all_of_on(network, "output axons", on) == [("ok", 9, 9)]
    assert all_of_on(network, "output axons", replace(on, axons_out=2)) == [("error", 3, 2)]
    assert all_of_on(network, "output axons", replace(on, axons_out=3)) == [("ok", 3, 3)]
    assert all_of_on(network, "input axons", replace(on, axons=5)) == [
        ("ok", 4, 5),
        ("error", 6, 5),
    ]
    assert not all_of_on(network, "input axons", chip("loihi2"))  # of Loihi 2 none are known


def test_cores_that_layers_have_to_share() -> None:
    network = build(dense(np.ones((6, 4))), dense(np.ones((3, 6))))
    on = chip("loihi1", neurons=9)
    assert all_of_on(network, "cores", on) == [("ok", 1, 128)]
    tight = [f for f in check(network, replace(on, cores=1)).findings if f.rule == "cores"]
    assert tight[0].level == "warning" and "2 if each has its own" in tight[0].message
    apart = check(network, replace(on, cores=1), apart=True)
    assert not apart.ok
    assert "needs 2 chips" in next(f.message for f in apart.findings if f.rule == "cores")
    assert check(network, replace(on, cores=1, chips=2), apart=True).ok


def test_layers_past_all_chips_are_not_looked_at() -> None:
    """Nothing of the size of such a layer is made."""
    huge = Layer(Conv(np.ones((1, 1, 1, 1), dtype=int), padding=30_000), Neuron())
    network = build(huge, shape=(1, 1, 1))
    report = check(network, chip("loihi2"))
    assert report.partition is None
    [found] = [f for f in report.findings if f.level == "error"]
    assert (found.rule, found.used) == ("cores", -(-(60_001**2) // 8192))
    assert "a layer of 3,600,120,001 neurons is past all chips" in found.message


def test_every_figure_of_ours_says_where_it_comes_from() -> None:
    assert set(known()) == {"loihi1", "loihi2"}
    for on in known().values():
        for f in fields(on):
            if f.name in ("name", "sources", "cost", "chips") or getattr(on, f.name) is None:
                continue
            assert len(on.sources[f.name]) > 3, f.name
        if on.cost is not None:
            assert all(on.sources[f"cost.{f.name}"] for f in fields(Cost))
    # Davies et al. 2018, pages 86, 89 and 92, and table 2.
    one = chip("loihi1")
    assert (one.cores, one.neurons, one.synapse_bytes) == (128, 1024, 128 * 1024)
    assert (one.axons, one.axons_out, one.delay_all, one.delay) == (4096, 4096, 8, 62)
    assert one.cost == Cost(23.6, 3.5, 81, 8.4, 52, 5.3, 1.7, 32, 113, 465)
    assert chip("loihi2").cost is None
    assert one.cost_source == "Davies 2018, table 2"


def test_the_figures_are_part_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = project["tool"]["setuptools"]["package-data"]["loihi"]
    found = {path.name for pattern in patterns for path in (ROOT / "loihi").glob(pattern)}
    beside = {p.name for p in (ROOT / "loihi").iterdir() if p.is_file() and p.suffix != ".py"}
    assert found | {"py.typed"} == beside == {"boards.toml", "py.typed"}


# --- a board of one's own -----------------------------------------------------------------------

BOARD = """
name = "two of ours"
cores = 4
neurons = { value = 10, source = "the data sheet" }
synapse_bytes = 1000
weight_bits = [8, 4]
delay = 6
graded = false
microcode = true
"""
COSTS = "\n".join(f"{f.name} = {n}" for n, f in enumerate(fields(Cost), start=1))


def board(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "board.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_a_board_is_read(tmp_path: Path) -> None:
    path = board(tmp_path, BOARD + "chips = 2\n[cost]\n" + COSTS.replace("8", "3"))
    on = read(path)
    assert (on.name, on.cores, on.neurons, on.chips, on.axons) == ("two of ours", 4, 10, 2, None)
    assert on.weight_bits == (4, 8)
    assert on.sources["neurons"] == "the data sheet"
    assert on.sources["cores"] == str(path)
    assert on.cost is not None and on.cost.tiles == 3 and on.cost.synaptic_op_pj == 1.0
    assert check(build(dense(np.ones((80, 4)))), on).ok  # ten a core, four cores, twice
    assert not check(build(dense(np.ones((81, 4)))), on).ok
    based = read(board(tmp_path, 'base = "loihi1"\ncores = 100'))
    assert based == replace(
        chip("loihi1"),
        name="board",
        cores=100,
        sources=chip("loihi1").sources | {"cores": str(path)},
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (BOARD + "core = 5", "'core' is no figure: do you mean cores?"),
        (BOARD + "colour = 5", "'colour' is no figure: they are cores, neurons"),
        (BOARD.replace("cores = 4", ""), "says nothing of cores: add them, or base"),
        (BOARD.replace("cores = 4", "cores = 0"), "cores is 0, outside 1..2147483647"),
        (BOARD.replace("cores = 4", "cores = 4.0"), "cores is 4.0: write a whole number"),
        (BOARD.replace("cores = 4", "cores = true"), "cores is True: write a whole number"),
        (BOARD.replace("cores = 4", "cores = '4'"), "cores is '4': write a whole number"),
        (BOARD.replace("cores = 4", f"cores = {10**30}"), "outside 1..2147483647"),
        (BOARD.replace("cores = 4", "cores = {valeu = 4}"), "'valeu' is no part of cores: do you"),
        (BOARD.replace("cores = 4", "cores = {source = 'x'}"), "cores has no value"),
        (BOARD.replace("cores = 4", "cores = {value = 4, source = 3}"), "the source of cores is 3"),
        (BOARD.replace("graded = false", "graded = 0"), "graded is 0: write true or false"),
        (BOARD.replace("[8, 4]", "8"), "weight_bits is 8: write the sizes"),
        (BOARD.replace("[8, 4]", "[]"), "weight_bits is []: write the sizes"),
        (BOARD.replace("[8, 4]", "[8, 33]"), "a size of weight_bits is 33, outside 1..32"),
        (BOARD.replace("[8, 4]", "[8, 8]"), "weight_bits names a size twice"),
        (BOARD + "delay_all = 7", "delay_all is 7, more than the longest delay, 6"),
        (BOARD + "base = 'loihi3'", "base 'loihi3' is unknown: use one of loihi1, loihi2"),
        (BOARD + "base = 3", "base is 3: write a name"),
        (BOARD.replace('"two of ours"', '""'), "name is '': write a name"),
        (BOARD.replace('"two of ours"', '"a\\nb"'), "name is 'a\\nb': write a name"),
        (BOARD + "cost = 3", "cost is no table"),
        (BOARD + "[cost]\nspike_pj = 3", "cost says nothing of synaptic_op_pj, synaptic_op_ns"),
        (BOARD + "[cost]\n" + COSTS + "\nspike = 2", "'spike' is no figure of cost: do you mean"),
        (BOARD + "[cost]\n" + COSTS, "cost.tiles is 8, more than its 4 cores"),
        (BOARD + "[cost]\n" + COSTS.replace("= 7", "= inf"), "cost.spike_pj is inf, outside"),
        (BOARD + "[cost]\n" + COSTS.replace("= 7", "= -1"), "cost.spike_pj is -1, outside"),
        (
            BOARD + "[cost]\n" + COSTS.replace("= 7", "= 'x'"),
            "cost.spike_pj is 'x': write a number",
        ),
        ("cores = ", "not a TOML file"),
        (b"cores = \xff", "not a TOML file"),
        ("#" * (FILE_MAX + 1), "a board file has a few lines"),
        ("a = " + "[" * 5000, "not a TOML file"),
    ],
)
def test_what_is_wrong_with_a_board_is_one_line(
    tmp_path: Path, text: str | bytes, said: str
) -> None:
    with pytest.raises(BoardError) as caught:
        read(board(tmp_path, text))
    line = str(caught.value)
    assert said in line
    assert line.startswith(f"{tmp_path / 'board.toml'}: ")
    assert "\n" not in line


def test_the_command_takes_a_board(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = tmp_path / "model.net"
    netx.write(build(dense(np.ones((45, 4))), dense(np.ones((2, 45)), INTEGRATOR)), model)

    def ask(*arguments: object) -> tuple[int, str, str]:
        code = main(["check", str(model), *map(str, arguments)])
        return code, *capfd.readouterr()

    path = board(tmp_path, BOARD)
    code, out, _ = ask("--board", path)
    assert code == 1 and "5 of 4 cores of two of ours" in out
    code, out, _ = ask("--board", path, "--figure", "chips=2", "--json")
    told = json.loads(out)
    assert (code, told["chip"]["name"], told["chip"]["sources"]["chips"]) == (
        0,
        "two of ours",
        "given by you",
    )
    assert "give one of them" in ask("--board", path, "--chip", "loihi1")[2]
    code, _, err = ask("--board", tmp_path / "none.toml")
    assert (code, err) == (1, f"pumice: {tmp_path / 'none.toml'}: No such file or directory\n")
    code, _, err = ask("--board", board(tmp_path, BOARD + "core = 3"))
    assert code == 1 and err.count("\n") == 1 and "do you mean cores?" in err
    assert "write a name, =, and a whole number" in ask("--figure", "cores=²")[2]
    assert "outside 1..2147483647" in ask("--figure", f"cores={10**30}")[2]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes")
def test_a_board_is_read_no_further_than_it_may_be_long() -> None:
    with pytest.raises(BoardError, match="a few lines"):
        read(Path("/dev/zero"))
