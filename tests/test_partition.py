"""The partition onto cores, against counting every single synapse, and its picture."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_networks import graphs, networks
from unrolled import matrix, wires

from cli.main import main
from lava_export import netx
from loihi import (
    INTEGRATOR,
    ComplexDense,
    Conv,
    Dense,
    Edge,
    Encoding,
    Inject,
    Layer,
    Network,
    Neuron,
    Resonator,
    formats,
)
from loihi import partition as partitions
from loihi.boards import Chip, chip
from loihi.limits import check
from loihi.partition import RESOURCES, Partition, PartitionError, partition

CHIP = Chip(
    name="small",
    cores=1000,
    neurons=7,
    synapse_bytes=200,
    weight_bits=(1, 2, 4, 8),
    delay=62,
    graded=True,
    microcode=True,
    axons=40,
    axons_out=40,
)


def build(*layers: Layer, shape: tuple[int, ...]) -> Network:
    return Network(shape, layers, Encoding("events", 4))


def dense(out: int, features: int) -> Layer:
    return Layer(Dense(np.tile([-128, 127], (out, features // 2))), Neuron())


def conv(out: int, per_group: int, kernel: int, **geometry: int) -> Layer:
    weight = np.resize([-128, 127], (out, per_group, kernel, kernel))
    return Layer(Conv(weight, **geometry), Neuron())


# --- brute force --------------------------------------------------------------------------------


def bits_of(synapse, on: Chip) -> int:
    """What a pair takes: the next larger size that the chip has, and the delay."""
    weights = (
        [synapse.real, synapse.imag] if isinstance(synapse, ComplexDense) else [synapse.weight]
    )
    found = [formats.weight_format(weight).bits for weight in weights]
    stored = [next((size for size in on.weight_bits if size >= b), b) for b in found]
    delay = getattr(synapse, "delay", None)
    return sum(stored) + (0 if delay is None else int(delay.max()).bit_length())


def neurons_of(piece, shape) -> np.ndarray:
    """The flat indices of a piece's neurons."""
    ranges = [np.arange(a, b) for a, b in zip(piece.start, piece.stop, strict=True)]
    return np.ravel_multi_index(np.meshgrid(*ranges, indexing="ij"), shape).reshape(-1)


def counted(part: Partition) -> list[tuple[int, int, int, int]]:
    """What every piece takes, synapse by synapse."""
    network = part.network
    connections = [list(wires(network, index)) for index in range(len(network.layers))]
    matrices = [
        [matrix(synapse, network.shape_of(source)) for synapse, source, _ in found]
        for found in connections
    ]
    mine = [neurons_of(piece, network.shapes[piece.layer]) for piece in part.pieces]
    heard = [np.zeros(math.prod(shape), dtype=int) for shape in network.shapes]
    taken = []
    for piece, neurons in zip(part.pieces, mine, strict=True):
        bits = axons = 0
        for (synapse, source, _), m in zip(
            connections[piece.layer], matrices[piece.layer], strict=True
        ):
            bits += int(m[neurons].sum()) // synapses_a_pair(synapse) * bits_of(synapse, part.chip)
            inputs = m[neurons].any(axis=0)
            axons += int(inputs.sum())
            if source >= 0:
                heard[source] += inputs
        taken.append([len(neurons), bits, axons])
    return [
        (*found, int(heard[piece.layer][neurons].sum()))
        for piece, neurons, found in zip(part.pieces, mine, taken, strict=True)
    ]


def synapses_a_pair(synapse) -> int:
    return 2 if isinstance(synapse, ComplexDense) else 1


def limits(on: Chip) -> list[float]:
    known = (on.neurons, 8 * on.synapse_bytes, on.axons, on.axons_out)
    return [math.inf if limit is None else limit for limit in known]


def verify(part: Partition) -> None:
    """Everything that a partition promises."""
    network, on = part.network, part.chip
    for index, shape in enumerate(network.shapes):
        mine = np.concatenate([neurons_of(piece, shape) for piece in part.of(index)])
        assert sorted(mine) == list(range(math.prod(shape)))
    loads = counted(part)
    assert loads == [piece.load for piece in part.pieces]
    # First fit, again: each piece in the first core that has room, alone in a new one else.
    cores: list[list[float]] = []
    owner: list[int] = []
    for piece, load in zip(part.pieces, loads, strict=True):
        room = [
            all(used + more <= limit for used, more, limit in zip(c, load, limits(on), strict=True))
            and (not part.apart or owner[place] == piece.layer)
            for place, c in enumerate(cores)
        ]
        if not any(room):
            cores.append([0, 0, 0, 0])
            owner.append(piece.layer)
            room.append(True)
        assert piece.core == room.index(True)
        cores[piece.core] = [a + b for a, b in zip(cores[piece.core], load, strict=True)]
    assert part.cores == len(cores)
    np.testing.assert_array_equal(part.usage, cores)
    # What no core can keep is what already one neuron cannot: and nothing else is broken.
    broken = {(found.layer, found.resource) for found in part.broken}
    for piece, load in zip(part.pieces, loads, strict=True):
        for resource, used, limit in zip(RESOURCES, load, limits(on), strict=True):
            assert used <= limit or (piece.layer, resource) in broken
    for found in part.broken:
        limit = limits(on)[RESOURCES.index(found.resource)]
        assert found.used > limit == found.allowed
        alone = most_of_one(part, found.layer, found.resource)
        largest = max(p.load[RESOURCES.index(found.resource)] for p in part.of(found.layer))
        assert found.used == (alone if alone > limit else largest)


def most_of_one(part: Partition, layer: int, resource: str) -> int:
    """What the neuron that needs most needs."""
    network = part.network
    connections = list(wires(network, layer))
    if resource == "axons out":
        heard = np.zeros(math.prod(network.shapes[layer]), dtype=int)
        for piece in part.pieces:
            mine = neurons_of(piece, network.shapes[piece.layer])
            for synapse, source, _ in wires(network, piece.layer):
                if source == layer:
                    heard += matrix(synapse, network.shape_of(source))[mine].any(axis=0)
        return int(heard.max())
    fan_in = np.zeros(math.prod(network.shapes[layer]), dtype=int)
    for synapse, source, _ in connections:
        each = bits_of(synapse, part.chip) if resource == "synapses" else 1
        synapses = matrix(synapse, network.shape_of(source)).sum(axis=1)
        fan_in = fan_in + synapses // synapses_a_pair(synapse) * each
    return int(fan_in.max())


def chips() -> st.SearchStrategy[Chip]:
    axons = st.none() | st.integers(3, 60)
    return st.builds(
        lambda n, b, i, o: replace(CHIP, neurons=n, synapse_bytes=b, axons=i, axons_out=o),
        st.integers(1, 40),
        st.sampled_from([4, 20, 60, 300, 5000]),
        axons,
        axons,
    )


@settings(max_examples=60, deadline=None)
@given(st.one_of(networks(), graphs()), chips(), st.booleans())
def test_every_synapse_and_axon_counted_one_by_one(network, on, apart) -> None:
    verify(partition(network, on, apart))


@settings(max_examples=60, deadline=None)
@given(networks(max_layers=1), chips())
def test_no_coarser_cut_would_do(network, on) -> None:
    """Of dense layers: one neuron more, of images: longer bands of rows or more channels."""
    part = partition(network, replace(on, axons_out=None))
    for index, shape in enumerate(network.shapes):
        pieces = part.of(index)
        kept = [
            math.inf if any((b.layer, b.resource) == (index, r) for b in part.broken) else limit
            for r, limit in zip(RESOURCES, limits(part.chip), strict=True)
        ]
        sizes = [range(1, n + 1) for n in shape[: 2 if len(shape) == 3 else 1]]
        for size in itertools.product(*sizes):
            block = (*size, *shape[2:])
            counts = math.prod(math.ceil(n / b) for n, b in zip(shape, block, strict=True))
            if counts < len(pieces):
                starts = [range(0, n, b) for n, b in zip(shape, block, strict=True)]
                cut = tuple(
                    replace(
                        pieces[0],
                        start=start,
                        stop=tuple(
                            min(a + b, n) for a, b, n in zip(start, block, shape, strict=True)
                        ),
                    )
                    for start in itertools.product(*starts)
                )
                loads = counted(replace(part, pieces=cut))
                assert any(
                    used > limit for load in loads for used, limit in zip(load, kept, strict=True)
                )


def test_of_a_complex_synapse_both_parts_are_stored() -> None:
    weight = np.tile([-128, 127], (9, 2))
    synapse = ComplexDense(weight, np.ones((9, 4), dtype=int))
    network = build(Layer(synapse, Resonator(64, 0, 0)), shape=(4,))
    part = partition(network, CHIP)
    verify(part)
    assert [piece.load for piece in part.pieces] == [(7, 7 * 4 * 9, 4, 0), (2, 2 * 4 * 9, 4, 0)]


# --- by hand ------------------------------------------------------------------------------------


def cuts(part: Partition, layer: int) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    return [(piece.start, piece.stop) for piece in part.of(layer)]


def test_a_dense_layer_is_cut_by_what_is_scarcest() -> None:
    def parts(layer: Layer, features: int, **figures: int) -> list[int]:
        on = replace(CHIP, axons=None, axons_out=None, neurons=100, synapse_bytes=10**4)
        part = partition(build(layer, shape=(features,)), replace(on, **figures))
        return [piece.neurons for piece in part.pieces]

    assert parts(dense(20, 4), 4) == [20]
    assert parts(dense(20, 4), 4, neurons=8) == [8, 8, 4]
    assert parts(dense(20, 4), 4, synapse_bytes=4 * 7) == [7, 7, 6]  # a byte each
    assert parts(dense(20, 4), 4, synapse_bytes=4 * 7 - 1) == [6, 6, 6, 2]
    late = Layer(Dense(dense(20, 4).synapse.weight, np.full((20, 4), 4)), Neuron())
    assert parts(late, 4, synapse_bytes=4 * 7) == [5, 5, 5, 5]  # three bits of delay more


def test_output_axons_cut_the_layer_that_sends() -> None:
    # The second layer takes three cores, so each neuron of the first three output axons.
    network = build(dense(10, 4), dense(21, 10), shape=(4,))
    part = partition(network, replace(CHIP, axons_out=9))
    assert [piece.neurons for piece in part.of(0)] == [3, 3, 3, 1]
    assert [piece.axons_out for piece in part.of(0)] == [9, 9, 9, 3]
    assert [piece.neurons for piece in part.of(1)] == [7, 7, 7]
    sent = sum(piece.axons_out for piece in part.pieces)
    assert sent == sum(piece.axons_in for piece in part.of(1))


def test_output_axons_cut_images_too() -> None:
    # Each of 4x4 neurons is heard by three cores.
    network = build(conv(1, 1, 1), dense(21, 16), shape=(1, 4, 4))

    def rows(axons_out: int) -> list[int]:
        on = replace(CHIP, neurons=8, synapse_bytes=10**4, axons_out=axons_out)
        part = partition(network, on)
        assert len(part.of(1)) == 3
        return [piece.stop[1] - piece.start[1] for piece in part.of(0)]

    assert rows(24) == [2, 2]
    assert rows(23) == [1, 1, 1, 1]


def test_images_are_cut_into_bands_of_rows() -> None:
    on = replace(CHIP, neurons=16, synapse_bytes=10**4, axons=None, axons_out=None)
    part = partition(build(conv(1, 1, 3, padding=1), shape=(1, 8, 8)), on)
    assert cuts(part, 0) == [((0, r, 0), (1, r + 2, 8)) for r in (0, 2, 4, 6)]
    # A row more on each side, where there is one; taps in the padding are no synapses.
    assert [piece.axons_in for piece in part.pieces] == [24, 32, 32, 24]
    columns = 2 * 2 + 6 * 3
    taps = [columns * rows for rows in (2 + 3, 3 + 3, 3 + 3, 3 + 2)]
    assert [piece.synapse_bits for piece in part.pieces] == [8 * n for n in taps]


def test_a_grouped_convolution_is_cut_by_channels() -> None:
    on = replace(CHIP, neurons=16, synapse_bytes=10**4, axons=None, axons_out=None)
    # In bands of rows it would take as many cores, and 72 axons each.
    part = partition(build(conv(4, 1, 3, groups=4), shape=(4, 6, 6)), on)
    assert cuts(part, 0) == [((c, 0, 0), (c + 1, 4, 4)) for c in range(4)]
    assert [piece.axons_in for piece in part.pieces] == [36] * 4


def test_rows_that_are_too_long_are_cut() -> None:
    on = replace(CHIP, neurons=100, synapse_bytes=10**4, axons=12, axons_out=None)
    part = partition(build(conv(2, 1, 3), shape=(1, 3, 11)), on)
    assert cuts(part, 0) == [
        ((0, 0, a), (2, 1, b)) for a, b in ((0, 2), (2, 4), (4, 6), (6, 8), (8, 9))
    ]
    assert max(piece.axons_in for piece in part.pieces) == 12
    verify(part)


def test_layers_share_cores_or_do_not() -> None:
    network = build(
        dense(9, 4), Layer(Dense(np.ones((4, 9), dtype=int)), Neuron()), dense(2, 4), shape=(4,)
    )
    shared = partition(network, CHIP)
    assert [(piece.layer, piece.core) for piece in shared.pieces] == [
        (0, 0),
        (0, 1),
        (1, 1),
        (2, 2),
    ]
    apart = partition(network, CHIP, apart=True)
    assert [(piece.layer, piece.core) for piece in apart.pieces] == [(0, 0), (0, 1), (1, 2), (2, 3)]
    assert (shared.cores, shared.cores_apart, apart.cores) == (3, 4, 4)


def test_loops_settle() -> None:
    """How a layer that feeds itself is cut depends on how it is cut."""
    square = Dense(np.tile([-128, 127], (12, 6)))
    network = build(Layer(square, Neuron(), more=(Edge(square, (0,)),)), shape=(12,))
    on = replace(CHIP, neurons=100, synapse_bytes=10**4, axons=100)
    # n of 12 neurons a core: 12 / n cores hear each, and n · 12 / n axons go out whatever n is
    assert [p.neurons for p in partition(network, replace(on, axons_out=12)).pieces] == [12]
    part = partition(network, replace(on, axons_out=11))
    assert [(b.resource, b.used) for b in part.broken] == [("axons out", 12)]
    assert [p.neurons for p in part.pieces] == [12]
    verify(part)


def test_a_neuron_that_no_core_takes_is_named() -> None:
    part = partition(build(dense(20, 50), shape=(50,)), replace(CHIP, synapse_bytes=40))
    assert [(b.resource, b.used, b.allowed) for b in part.broken] == [
        ("synapses", 400, 320),
        ("axons in", 50, 40),
    ]
    assert [piece.neurons for piece in part.pieces] == [7, 7, 6]  # the limit that is left
    assert not part.fits
    verify(part)


def test_more_chips() -> None:
    network = build(dense(30, 4), shape=(4,))
    part = partition(network, replace(CHIP, cores=2))
    assert (part.cores, part.chips, part.fits) == (5, 3, False)
    assert partition(network, replace(CHIP, cores=2, chips=3)).fits
    assert not partition(network, replace(CHIP, cores=2, chips=2)).fits


def test_figures_gone_wrong_end_in_one_line(monkeypatch) -> None:
    network = build(dense(30, 4), shape=(4,))
    monkeypatch.setattr(partitions, "PIECES_MAX", 4)
    with pytest.raises(
        PartitionError, match="over 4 pieces: the figures of the chip are too small"
    ):
        partition(network, CHIP)
    report = check(network, CHIP)
    assert report.partition is None
    [found] = [f for f in report.findings if f.rule == "cores"]
    assert (found.level, found.used, found.allowed) == ("error", 5, 1000)
    monkeypatch.undo()
    monkeypatch.setattr(partitions, "NEURONS_MAX", 30)
    assert partition(network, CHIP).fits
    monkeypatch.setattr(partitions, "NEURONS_MAX", 29)
    with pytest.raises(PartitionError, match="30 neurons"):
        partition(network, CHIP)


# --- the picture, and the command ---------------------------------------------------------------


def test_the_picture() -> None:
    network = build(dense(9, 4), Layer(Dense(np.ones((4, 9), dtype=int)), INTEGRATOR), shape=(4,))
    on = replace(CHIP, cores=6, axons=None, synapse_bytes=60)
    assert partition(network, on).picture(40).splitlines() == [
        "2 of 6 cores of small, first fit",
        "",
        "core 0  0█  0▇+ ·   ·   ·   ·",
        "",
        "layer        neurons  cores  neurons %  synapses %  axons in %  axons out %",
        "0 dense 4-9        9      2        100          47           –           18",
        "1 dense 9-4        4      1         57           8           –            0",
        "",
        "A cell: the core's layer, how full it is of what is scarcest there, + where further",
        "layers share it. %: the most that a piece of the layer takes of a core.",
    ]
    assert partition(network, on, apart=True).picture(40).splitlines()[:3] == [
        "3 of 6 cores of small, layers apart",
        "",
        "core 0  0█  0▃  1▅  ·   ·   ·",
    ]


def test_the_picture_of_what_does_not_fit() -> None:
    network = build(dense(30, 50), shape=(50,))
    lines = partition(network, replace(CHIP, cores=4)).picture(20).splitlines()
    assert lines[0] == "8 of 4 cores of small, first fit"
    assert lines[2:6] == ["chip 0", "core 0  0!  0!  0!  0!", "chip 1", "core 4  0!  0!  0!  0!"]


def test_a_large_picture_ends(monkeypatch) -> None:
    monkeypatch.setattr(partitions, "LINES_MAX", 2)
    network = build(dense(70, 4), shape=(4,))
    lines = partition(network, replace(CHIP, cores=2**31 - 1)).picture(30).splitlines()
    assert lines[4] == "… cores from 8 on: taken, --json has them"
    lines = partition(network, replace(CHIP, neurons=35, cores=2**31 - 1)).picture(30).splitlines()
    assert lines[4] == "… cores from 8 on: free"


@pytest.fixture
def model(tmp_path):
    # 600 neurons and 40: two cores of five hundred, one if it takes all.
    network = build(dense(600, 6), Layer(Dense(np.ones((40, 600))), INTEGRATOR), shape=(6,))
    netx.write(network, tmp_path / "model.net")
    return str(tmp_path / "model.net")


def test_the_command_draws_and_tells(model, capfd, monkeypatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    assert main(["check", model, "--chip", "loihi1", "--map", "--figure", "neurons=500"]) == 0
    out = capfd.readouterr().out
    assert "2 of 128 cores of loihi1, first fit" in out
    assert "core 0    0█  0▃+ ·" in out
    assert "\x1b" not in out
    assert main(["check", model, "--chip", "loihi1"]) == 0
    assert "first fit" not in capfd.readouterr().out
    assert main(["check", model, "--chip", "loihi1", "--apart", "--json"]) == 0
    told = json.loads(capfd.readouterr().out)["partition"]
    assert (told["cores"], told["apart"], told["fits"], told["chips"]) == (2, True, True, 1)
    assert told["pieces"] == [
        {
            "layer": 0,
            "core": 0,
            "start": [0],
            "stop": [600],
            "neurons": 600,
            "synapse_bits": 600 * 6 * 8,
            "axons_in": 6,
            "axons_out": 600,
        },
        {
            "layer": 1,
            "core": 1,
            "start": [0],
            "stop": [40],
            "neurons": 40,
            "synapse_bits": 40 * 600,
            "axons_in": 600,
            "axons_out": 0,
        },
    ]


def test_inputs_of_an_input_layer_take_no_axons() -> None:
    network = build(Layer(Inject(), Neuron()), dense(4, 6), shape=(6,))
    part = partition(network, chip("loihi1"))
    assert [piece.load for piece in part.pieces] == [(6, 0, 0, 6), (4, 4 * 6 * 8, 6, 0)]
