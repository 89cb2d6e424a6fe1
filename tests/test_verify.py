"""verify finds nothing where there is nothing, and names the first of what is planted.

The causes of what it finds are in test_causes.py, the page that it writes in test_report.py.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_causes import running, with_neuron, with_weight
from test_graph import recurrent, sew
from test_lava_run import injected, small

from cli.main import main
from lava_export import netx, run, verify
from lava_export.verify import compare
from loihi import (
    INTEGRATOR,
    Dense,
    Encoding,
    Layer,
    Network,
    Neuron,
    PumiceError,
    SigmaDelta,
    lava_compat,
    reference,
)

STATES = ("u", "v", "spikes")


def network() -> Network:
    rng = np.random.default_rng(1)
    layers = (
        Layer(Dense(rng.integers(-90, 127, (8, 5))), Neuron(4096, 300, 64)),
        Layer(Dense(rng.integers(-90, 127, (6, 8))), Neuron(2048, 100, 64)),
        Layer(Dense(2 * rng.integers(-120, 127, (3, 6))), INTEGRATOR),
    )
    return Network((5,), layers, Encoding("events", 6))


def payloads(samples: int = 4) -> np.ndarray:
    rng = np.random.default_rng(2)
    return (rng.random((6, samples, 5)) < 0.5).astype(np.uint8)


def observed() -> dict[tuple[str, int], np.ndarray]:
    trace = reference.run(network(), payloads(), STATES)
    return {(state, i): getattr(trace, state)[i].copy() for state in STATES for i in range(3)}


def test_nothing_is_found_where_there_is_nothing() -> None:
    result = compare(network(), {"reference": observed(), "engine": observed(), "lava": observed()})
    assert result.mismatches == 0
    assert result.first_divergence is None
    per_step = (8 + 6 + 3) * 3
    assert result.compared == per_step * 6 * 4 + 3 * 4
    assert [layer.compared for layer in result.layers] == [n * 3 * 6 * 4 for n in (8, 6, 3)]
    np.testing.assert_array_equal(result.scores, reference.predict(network(), payloads()))


def test_the_first_is_the_first_that_happened() -> None:
    """Sample before step, step before layer, layer before state, state before neuron."""
    planted = [
        # state, layer, step, sample, neuron, from the last to the first
        ("u", 0, 0, 3, 0),
        ("u", 0, 5, 1, 0),
        ("u", 1, 4, 1, 0),
        ("spikes", 0, 4, 1, 0),
        ("v", 0, 4, 1, 7),
        ("v", 0, 4, 1, 3),
    ]
    lava = observed()
    for count, (state, layer, step, sample, neuron) in enumerate(planted, start=1):
        at = (step, sample, neuron)
        before = int(lava[state, layer][at])
        lava[state, layer][at] ^= 1
        result = compare(network(), {"reference": observed(), "engine": observed(), "lava": lava})
        assert result.mismatches == count
        first = result.first_divergence
        assert first is not None
        name = network().names[layer]
        assert (first.state, first.layer, first.step) == (state, name, step + 1)
        assert (first.sample, first.neuron) == (sample, (neuron,))
        assert first.values == {"reference": before, "engine": before, "lava": before ^ 1}
    assert str(first) == (
        f"layer 0 dense 5-8, neuron 3, step 5 of sample 1, v: "
        f"reference {before}, engine {before}, lava {before ^ 1}"
    )
    assert [layer.mismatches for layer in result.layers] == [5, 1, 0]


def test_it_is_said_who_disagrees() -> None:
    """The engine alone, in an image: its neuron is a place."""
    image = small()
    x = np.ones((6, 1, 2, 6, 10), dtype=np.int16)
    trace = reference.run(image, x, ("spikes", "v"))
    last = {("v", 3): trace.v[3]}
    true = {**{("spikes", i): s for i, s in enumerate(trace.spikes)}, **last}
    wrong = {**true, ("spikes", 0): trace.spikes[0].copy()}
    wrong["spikes", 0][2, 0, 5, 3, 4] ^= 1
    first = compare(image, {"reference": true, "engine": wrong, "lava": true}).first_divergence
    assert first is not None
    assert first.neuron == (5, 3, 4)
    assert first.values["engine"] != first.values["reference"] == first.values["lava"]


def test_several_can_disagree() -> None:
    """Each with its own: all numbers count, and the first is the earliest, whoever's it is."""
    engine, lava = observed(), observed()
    engine["v", 1][3, 2, 4] ^= 1
    lava["v", 1][3, 2, 5] ^= 1
    lava["u", 0][4, 0, 6] ^= 1
    result = compare(network(), {"reference": observed(), "engine": engine, "lava": lava})
    assert result.mismatches == 3
    first = result.first_divergence
    assert first is not None
    assert (first.sample, first.layer, first.neuron) == (0, network().names[0], (6,))
    assert first.values["engine"] == first.values["reference"] != first.values["lava"]
    engine["u", 0][4, 0, 6] ^= 2  # the same number, and another one again
    first = compare(
        network(), {"reference": observed(), "engine": engine, "lava": lava}
    ).first_divergence
    assert first is not None
    assert len(set(first.values.values())) == 3


def test_a_last_membrane_counts_in_states_and_score() -> None:
    lava = observed()
    lava["v", 2][-1, 2, 1] += 5
    result = compare(network(), {"reference": observed(), "lava": lava})
    assert result.mismatches == 2  # v, and the score that is read from it
    assert result.scores[2, 1] == reference.predict(network(), payloads())[2, 1] + 5


@pytest.mark.lava
@pytest.mark.exactness
@pytest.mark.parametrize("states", [False, True])
def test_verify_in_lava(states: bool, tmp_path: Path) -> None:
    path = tmp_path / "model.net"
    netx.write(network(), path)
    result = verify.verify(path, payloads(), states=states)
    assert (result.mismatches, result.first_divergence) == (0, None)
    numbers = 3 * (8 + 6 + 3) if states else 8 + 6 + 3 + 3  # the last v is what is read
    assert result.compared == numbers * 6 * 4 + 3 * 4


@pytest.mark.lava
@pytest.mark.exactness
def test_verify_a_network_that_is_read_by_spikes(tmp_path: Path) -> None:
    path = tmp_path / "model.net"
    netx.write(injected(), path)
    x = injected().encoding.encode(np.random.default_rng(0).random((3, 2, 5, 4)))
    result = verify.verify(path, x)
    assert (result.mismatches, result.first_divergence) == (0, None)
    np.testing.assert_array_equal(result.scores, reference.predict(injected(), x))


@pytest.mark.lava
def test_another_network_in_lava_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lava runs a file in which one weight is other than what reference and engine read."""
    true, other = tmp_path / "true.net", tmp_path / "other.net"
    netx.write(network(), true)
    layer = network().layers[1]
    weight = layer.synapse.weight.copy()  # type: ignore[union-attr]
    weight[4, 2] -= 40
    netx.write(network().with_layer(1, Layer(Dense(weight), layer.neuron)), other)
    original = run.observe
    monkeypatch.setattr(run, "observe", lambda net, _, *rest: original(net, other, *rest))
    result = verify.verify(true, payloads(), states=True)
    first = result.first_divergence
    assert first is not None
    assert first.layer == "1 dense 8-6"
    assert first.neuron == (4,)
    assert first.state == "u"
    assert first.values["engine"] == first.values["reference"] != first.values["lava"]


def test_without_lava_there_is_no_proof(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    netx.write(network(), tmp_path / "model.net")
    absent = lava_compat.LavaStatus(False, None, None, None, "pip install it")
    monkeypatch.setattr(lava_compat, "status", lambda: absent)
    with pytest.raises(PumiceError, match="Lava is needed for this: pip install it"):
        verify.verify(tmp_path / "model.net", payloads())


# --- which simulators ---------------------------------------------------------------------------

WITHOUT_LAVA = ("reference", "engine")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    netx.write(network(), tmp_path / "model.net")
    return tmp_path / "model.net"


def test_without_lava_the_others_are_compared(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    absent = lava_compat.LavaStatus(False, None, None, None, "pip install it")
    monkeypatch.setattr(lava_compat, "status", lambda: absent)
    result = verify.verify(model, payloads(), between=WITHOUT_LAVA)
    assert (result.mismatches, result.between) == (0, WITHOUT_LAVA)
    assert result.compared == (8 + 6 + 3 + 3) * 6 * 4 + 3 * 4
    np.testing.assert_array_equal(result.scores, reference.predict(network(), payloads()))


def test_any_of_them_in_the_order_of_the_chain(model: Path) -> None:
    others = {"grid": running(network())}
    between = ("engine", "grid", "reference")
    result = verify.verify(model, payloads(), between=between, others=others, states=True)
    assert (result.mismatches, result.between) == (0, ("grid", "reference", "engine"))
    assert result.compared == 3 * (8 + 6 + 3) * 6 * 4 + 3 * 4


@pytest.mark.parametrize(
    ("between", "words"),
    [
        (("reference", "loihi"), "'loihi' is no simulator: use some of float, grid, reference"),
        (("reference",), "two simulators at least"),
        (("engine", "engine"), "two simulators at least"),
        (("grid", "engine"), "grid is the trained module: name its run folder with --run"),
    ],
)
def test_refuses(between: tuple[str, ...], words: str, model: Path) -> None:
    with pytest.raises(PumiceError, match=words):
        verify.verify(model, payloads(), between=between)


def test_no_samples(model: Path) -> None:
    with pytest.raises(PumiceError, match="there are no samples to compare"):
        verify.verify(model, payloads(0), between=WITHOUT_LAVA)


@pytest.mark.parametrize("make", [sew, recurrent])
def test_graphs(make: Callable[[Any], Network], tmp_path: Path) -> None:
    graph = make(np.random.default_rng(0))
    netx.write(graph, tmp_path / "model.net")
    x = np.random.default_rng(1).integers(0, 2, (graph.time_steps, 3, *graph.input_shape))
    result = verify.verify(tmp_path / "model.net", x, states=True, between=WITHOUT_LAVA)
    assert result.mismatches == 0
    neurons = sum(int(np.prod(shape)) for shape in graph.shapes)
    assert result.compared == 3 * neurons * graph.time_steps * 3 + graph.classes * 3


def test_neurons_that_send_numbers() -> None:
    """Graded messages are compared as they are; a cause is looked for in LIF layers only."""
    rng = np.random.default_rng(4)
    layers = (
        Layer(Dense(rng.integers(-9, 9, (4, 5))), SigmaDelta(vth=2)),
        Layer(Dense(rng.integers(-9, 9, (3, 4))), INTEGRATOR),
    )
    graded = Network((5,), layers, Encoding("events", 6))
    trace = reference.run(graded, payloads(), STATES)
    true = {(state, i): getattr(trace, state)[i] for state in STATES for i in range(2)}
    wrong = {key: array.copy() for key, array in true.items()}
    wrong["spikes", 0][3, 1, 2] += 300
    result = compare(graded, {"reference": true, "engine": wrong})
    assert result.mismatches == 1
    first = result.first_divergence
    assert first is not None
    assert first.values["engine"] - first.values["reference"] == 300


# --- slices -------------------------------------------------------------------------------------


def odd_network() -> Network:
    return with_neuron(network(), 1, dv=161)


@pytest.mark.parametrize("states", [False, True])
@pytest.mark.parametrize("limit", [1, 300, 1700, 20_000, 2**28])
def test_slices_change_nothing(
    limit: int, states: bool, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a step of a sample at a time to all at once; nothing larger is ever asked for."""
    asked: list[int] = []
    other = with_weight(network(), 1, lambda w: np.where(w == w.max(), 5, w))

    class Counting(verify._Ours):
        def parts(self, *arguments: Any) -> Iterator[verify.Observed]:
            for seen in super().parts(*arguments):
                asked.append(sum(array.nbytes for array in seen.values()))
                yield seen

    def simulators() -> dict[str, verify.Simulator]:
        return {"grid": Counting(partial(reference.parts, other))}

    def found() -> verify.VerifyResult:
        return verify.verify(
            model, payloads(9), states=states, between=("grid", "reference"), others=simulators()
        )

    whole = found()
    assert whole.mismatches > 50
    asked.clear()
    monkeypatch.setattr(verify, "LIMIT", limit)
    result = found()
    np.testing.assert_array_equal(result.scores, whole.scores)
    for name in ("compared", "mismatches", "first_divergence", "layers"):
        assert getattr(result, name) == getattr(whole, name)
    step = sum(verify._bytes(network(), index, states) for index in range(3)) // verify.HELD
    samples, steps = verify._sizes(network(), states, 6)
    comparing = asked[: -(-9 // samples) * -(-6 // steps)]  # then the sample that is looked into
    assert len(asked) > len(comparing)
    assert max(comparing) <= max(limit // verify.HELD, step)
    assert (samples, steps) == {1: (1, 1), 2**28: (2**28 // (48 * step), 6)}.get(
        limit, (samples, steps)
    )


def test_whoever_knows_no_parts_of_time_is_asked_once(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify, "LIMIT", 1)
    asked: list[tuple[int, ...]] = []

    def plain(x: np.ndarray, wanted: verify.Wanted) -> verify.Observed:
        asked.append(x.shape)
        return running(network())(x, wanted)

    found = verify.verify(
        model, payloads(2), between=("grid", "engine"), others={"grid": plain}, states=True
    )
    assert (found.mismatches, asked) == (0, [(6, 1, 5), (6, 1, 5)])


def test_lava_is_run_once_a_slice(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[int] = []

    def observe(net: Network, path: Path, x: np.ndarray, wanted: Any, deadline: Any) -> Any:
        runs.append(x.shape[1])
        return running(net)(x, wanted) if x.shape[1] else {}

    monkeypatch.setattr(run, "observe", observe)
    assert verify.verify(model, payloads(9)).mismatches == 0
    assert runs == [0, 9]  # it is asked first whether it can run this at all
    monkeypatch.setattr(
        verify, "LIMIT", 4 * 6 * sum(verify._bytes(network(), index, False) for index in range(3))
    )
    runs.clear()
    assert verify.verify(model, payloads(9)).mismatches == 0
    assert runs == [0, 4, 4, 1]


def test_samples_are_encoded_slice_by_slice(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[tuple[int, int]] = []

    class Counted(Encoding):
        def encode(self, x: np.ndarray, some: slice = slice(None)) -> np.ndarray:
            found = super().encode(x, some)
            sizes.append(found.shape[:2])
            return found

    x, counted = np.moveaxis(payloads(5), 1, 0), Counted("events", 6)
    done: list[int] = []

    def check() -> None:
        sizes.clear()
        done.clear()
        options: dict[str, Any] = {"encoding": counted, "progress": done.append}
        result = verify.verify(model, x, between=WITHOUT_LAVA, **options)
        assert (result.mismatches, done) == (0, [1, 2, 3, 4, 5])
        np.testing.assert_array_equal(result.scores, reference.predict(network(), payloads(5)))

    of_a_step = sum(verify._bytes(network(), index, False) for index in range(3))
    monkeypatch.setattr(verify, "LIMIT", 6 * of_a_step)
    check()
    assert sizes == [(6, 1)] * 5
    monkeypatch.setattr(verify, "LIMIT", 4 * of_a_step)
    check()
    assert sizes == 5 * 2 * [(4, 1), (2, 1)] or sizes == 5 * [(4, 1), (4, 1), (2, 1), (2, 1)]


def test_spikes_are_counted_through_all_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify, "LIMIT", 1)
    spiking = Network((5,), network().layers[:2], network().encoding, "spikes")
    netx.write(spiking, path := tmp_path / "model.net")
    result = verify.verify(path, payloads(3), between=WITHOUT_LAVA)
    np.testing.assert_array_equal(result.scores, reference.predict(spiking, payloads(3)))
    assert (result.mismatches, result.scores.max() > 1) == (0, True)


MEASURE = """
import sys
import numpy as np
from pathlib import Path
from loihi import INTEGRATOR, Dense, Encoding, Layer, Network, Neuron
from lava_export import netx, verify

samples, steps, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
verify.LIMIT = 2**24
rng = np.random.default_rng(0)
layers = (
    Layer(Dense(rng.integers(-90, 127, (1024, 40))), Neuron(4096, 300, 200)),
    Layer(Dense(2 * rng.integers(-120, 127, (10, 1024))), INTEGRATOR),
)
network = Network((40,), layers, Encoding("events", steps))
path = folder / f"{samples}-{steps}.net"
netx.write(network, path)
x = np.broadcast_to((rng.random(40) < 0.3).astype(np.uint8), (samples, steps, 40))
if len(sys.argv) > 4:  # all at once, as it would be without slices and parts
    verify.LIMIT = 2**40
found = verify.verify(path, x, states=True, between=("reference", "engine"),
                      encoding=network.encoding)
# Not getrusage, whose peak is at first that of the process that started this one.
(peak,) = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
print(found.mismatches, found.compared, peak.split()[1])
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux says what a peak was")
def test_memory_grows_neither_with_time_nor_with_the_samples(tmp_path: Path) -> None:
    """The most that a process ever held, a third of it numpy, numba and h5py."""

    def peak(samples: int, steps: int, *whole: str) -> int:
        said = subprocess.run(
            [sys.executable, "-c", MEASURE, str(samples), str(steps), str(tmp_path), *whole],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        assert (int(said[0]), int(said[1])) == (0, samples * (3 * 1034 * steps + 10))
        return int(said[2])

    short, long, many = peak(1, 250), peak(1, 8000), peak(32, 250)
    numbers = 8000 * 1034 * 9 / 1024  # of one simulator, of all steps: what is not to be held
    assert long < short + 0.5 * numbers
    assert many < short + 0.5 * numbers, (short, long, many)
    assert peak(1, 8000, "whole") > short + 2 * numbers


# --- the neighbourhood of a divergence ----------------------------------------------------------


def test_what_spikes_do_not_show_is_looked_up(model: Path) -> None:
    """Where spikes alone were compared, u and v may have differed before."""
    x = payloads(60)
    odd = running(odd_network())
    result = verify.verify(model, x, between=("grid", "reference"), others={"grid": odd})
    first, near = result.first_divergence, result.neighbourhood
    assert first is not None and near is not None
    assert first.state == "spikes"
    assert near.divergence.state == "v"
    assert (near.divergence.sample, near.divergence.layer) == (first.sample, "1 dense 8-6")
    assert near.divergence.step < first.step
    truth = reference.run(network(), x, STATES)
    wrong = reference.run(odd_network(), x, STATES)
    for name, trace in (("reference", truth), ("grid", wrong)):
        for state in STATES:
            expected = getattr(trace, state)[1][:, first.sample, near.divergence.neuron[0]]
            np.testing.assert_array_equal(near.states[name][state], expected)
    assert near.divergence.values["reference"] != near.divergence.values["grid"]


# --- a run's own module -------------------------------------------------------------------------

MODELS = {
    "images": ("--model", "4c3-2a-6c2-12r", "--set", "bias=true", "--set", "norm=ws"),
    "memory": ("--model", "12-10", "--set", "du=2500", "--set", "dv=200", "--set", "norm=bn"),
    "read by spikes": ("--model", "12-10", "--set", "readout=spikes", "--set", "neuron=soft"),
    "branches": (
        "--model",
        "sew_resnet18/16",
    ),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (40, 1, 8, 8), dtype=np.uint8), np.arange(40) % 3
    path = tmp_path_factory.mktemp("data") / "data.npz"
    np.savez(path, x_train=x, y_train=y, x_test=x[::2], y_test=y[::2])
    return path


@pytest.fixture(scope="module", params=MODELS)
def trained(
    request: pytest.FixtureRequest, data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A run folder; its loss may be as it likes."""
    folder = tmp_path_factory.mktemp("run") / "run"
    settings = ("--time-steps", "5", "--epochs", "1", "--lr", "3", "--out", str(folder))
    assert main(("train", "--data", str(data), *MODELS[request.param], *settings)) == 0
    return folder


def ask(capfd: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, dict[str, Any]]:
    capfd.readouterr()
    code = main([*map(str, arguments), "--json"])
    return code, json.loads(capfd.readouterr().out)


def test_the_trainers_own_numbers(trained: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Every u, v and spike of its forward pass is the reference's; the real numbers are near."""
    code, answer = ask(
        *(capfd, "verify", "--run", trained, "--samples", 12, "--states"),
        *("--between", "float,grid,reference,engine"),
    )
    assert code == 0, answer
    frozen = netx.read(trained / "model.net")
    neurons = sum(int(np.prod(shape)) for shape in frozen.shapes)
    assert answer["compared"] == 12 * (3 * neurons * 5 + 3)
    assert answer["mismatches"] == 0
    assert answer["between"] == ["float", "grid", "reference", "engine"]
    agreed = answer["float"]
    assert agreed["samples"] == 12
    first = agreed["spikes"][0]
    assert 0.8 < first[1] / first[2] < 1
    assert all(same <= of for _, same, of in agreed["spikes"])


def test_a_checkpoint_that_went_on_is_found(
    trained: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The file is of the run before: in what, and where it shows first."""
    frozen = netx.read(trained / "model.net")
    changed = with_weight(frozen, 0, lambda w: np.where(w == w.max(), w - 40, w))
    netx.write(changed, tmp_path / "old.net")
    code, answer = ask(
        *(capfd, "verify", tmp_path / "old.net", "--run", trained, "--samples", 4, "--states"),
        *("--between", "grid,reference"),
    )
    assert code == 1
    (cause,) = answer["causes"]
    assert (cause["name"], cause["simulator"]) == ("another network", "grid")
    assert cause["layer"] == frozen.names[0]
    assert answer["first_divergence"]["layer"] == frozen.names[0]


@pytest.fixture(scope="module")
def folder(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that held samples out."""
    out = tmp_path_factory.mktemp("run") / "run"
    settings = ("--model", "10", "--time-steps", "4", "--epochs", "1", "--validation", "0.25")
    assert main(("train", "--data", str(data), *settings, "--out", str(out))) == 0
    return out


class TestRun:
    """How the command takes a run folder, and refuses one."""

    def refused(self, capfd: pytest.CaptureFixture[str], *arguments: object) -> str:
        code, answer = ask(capfd, "verify", *arguments)
        assert code == 1
        assert set(answer) == {"error"}
        return str(answer["error"])

    def test_held_out_samples(self, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
        between = ("--between", "grid,engine")
        code, answer = ask(capfd, "verify", "--run", folder, *between, "--samples", 10)
        assert (code, answer["mismatches"]) == (0, 0)

    def test_refuses_another_model(
        self, folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        own = netx.read(folder / "model.net")
        netx.write(replace(own, layers=own.layers[:1]), tmp_path / "other.net")
        between = ("--between", "grid,engine")
        line = self.refused(capfd, tmp_path / "other.net", "--run", folder, *between)
        assert "other.net is not of this run: its shapes is" in line

    def test_refuses_what_is_not_there(
        self, folder: Path, data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        model = folder / "model.net"
        assert "Name a MODEL.net, or --run" in self.refused(capfd)
        assert "Use --data, or --run" in self.refused(capfd, model)
        grid = ("--data", data, "--between", "grid,engine")
        assert "grid is the trained module: name its" in self.refused(capfd, model, *grid)
        assert "config.toml" in self.refused(capfd, "--run", tmp_path)
        shutil.copytree(folder, tmp_path / "run")
        (tmp_path / "run" / "model.net").unlink()
        assert "model.net: cannot be read" in self.refused(capfd, "--run", tmp_path / "run")
        one = ("--run", folder, "--between", "grid")
        assert "two simulators at least" in self.refused(capfd, *one)

    def test_refuses_neurons_that_have_no_integers(
        self, data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        settings = ("--model", "10", "--time-steps", "4", "--epochs", "1", "--set", "neuron=hard")
        out = tmp_path / "run"
        assert main(("train", "--data", str(data), *settings, "--out", str(out))) == 0
        assert "trained neurons of form hard" in self.refused(capfd, "--run", out)


@pytest.mark.parametrize("neuron", ["chip", "soft"])
def test_real_numbers_are_the_grids_where_nothing_is_rounded(neuron: str) -> None:
    """Even weights, whole thresholds and biases, no decay: all numbers are the chip's, pools too;
    and with a leak they are not, by fractions of a register's unit."""
    import torch

    from trainer import observe, zoo
    from trainer.pools import POOL_WEIGHT

    module = zoo.build("4c3-2a-10", (1, 8, 8), 3, Encoding("events", 5), neuron=neuron, bias=True)
    x = (np.random.default_rng(0).random((5, 6, 1, 8, 8)) < 0.5).astype(np.uint8)
    generator = torch.Generator().manual_seed(0)
    module.calibrate(torch.from_numpy(x.astype(np.float32)), generator)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.endswith("bias"):
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 9)
            step = 2 if name.endswith("weight") else 1
            parameter.copy_((parameter / step).round() * step)
    wanted = {state: range(len(module.chain)) for state in STATES}

    def both() -> Iterator[tuple[tuple[str, int], np.ndarray, np.ndarray]]:
        grid = observe.observe(observe.ready(module), x, wanted)
        real = observe.observe(observe.in_real_numbers(module), x, wanted)
        # Pooling weighs a spike 1 / 4 in place of 64.
        units = {1: POOL_WEIGHT * 4}
        for key, numbers in grid.items():
            unit = 1 if key[0] == "spikes" else units.get(key[1], 1)
            yield key, numbers, real[key] * unit

    for key, grid, real in both():
        assert np.count_nonzero(grid) > 0 or key == ("spikes", 3)
        np.testing.assert_array_equal(grid, real, err_msg=str(key))
    with torch.no_grad():
        for layer in module.chain[::2]:
            assert layer.neurons is not None
            layer.neurons.dv.fill_(400.0)
    v = {key: (grid, real) for key, grid, real in both()}["v", 0]
    assert 0 < np.abs(v[0] - v[1])[:2].max() < 2
