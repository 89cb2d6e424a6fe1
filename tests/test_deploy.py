"""What a board would need, the folder that is written for one, and that its script is right.

No board was ever there: its script runs in Lava's simulator, which it is told, and once with
adapters and an extension that are stand-ins (board_jobs.py).
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import board_jobs
import numpy as np
import pytest
from test_graph import recurrent, sew
from test_lava_run import data, injected, small, vector

from cli.main import main
from lava_export import board, deploy, netx, supervise
from lava_export.deploy import DeployError
from loihi import INTEGRATOR, Dense, Encoding, Layer, Network, Neuron, SigmaDelta, limits, reference

LOIHI2 = limits.chip("loihi2")
VARIABLES = ("SLURM", "NOSLURM", "LOIHI_GEN", "PARTITION", "BOARD", "NXSDKHOST")


@pytest.fixture(autouse=True)
def no_board(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def image() -> Network:
    """Biases everywhere, an integrator that is read."""
    return small()


def delayed() -> Network:
    rng = np.random.default_rng(8)
    layers = (
        Layer(Dense(rng.integers(-90, 127, (7, 9)), rng.integers(0, 7, (7, 9))), Neuron(3000, 90)),
        Layer(Dense(2 * rng.integers(-120, 127, (3, 7))), INTEGRATOR),
    )
    return Network((9,), layers, Encoding("events", 5))


def short_and_delayed() -> Network:
    """Whose second layer fires before the sample of one step is there."""
    rng = np.random.default_rng(8)
    layers = (
        Layer(Dense(2 * rng.integers(-120, 127, (3, 2))), Neuron(4096, 700, 60)),
        Layer(Dense(2 * rng.integers(-120, 127, (4, 3))), Neuron(4096, 0, 4000, bias=3000)),
        Layer(Dense(2 * rng.integers(-120, 127, (3, 4)), np.ones((3, 4), dtype=int)), INTEGRATOR),
    )
    return Network((2,), layers, Encoding("events", 1))


def written(network: Network, out: Path, samples: int = 3) -> np.ndarray:
    x = data(network, samples)
    deploy.write(network, x, out, LOIHI2)
    return x


# --- what is refused ----------------------------------------------------------------------------


def soft() -> Network:
    network = vector()
    layer = network.layers[0]
    assert isinstance(layer.neuron, Neuron)
    return network.with_layer(0, replace(layer, neuron=replace(layer.neuron, reset="soft")))


def graded() -> Network:
    layers = (Layer(Dense(np.array([[3, -4]])), SigmaDelta()), Layer(Dense([[5]]), INTEGRATOR))  # type: ignore[list-item]
    return Network((2,), layers, Encoding("events", 4))


def leaky_input() -> Network:
    layer = injected().layers[0]
    assert isinstance(layer.neuron, Neuron)
    return injected().with_layer(0, replace(layer, neuron=replace(layer.neuron, du=3000)))


def moving_input() -> Network:
    return replace(injected(), encoding=Encoding("events", 5, (-12, 140)))


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (sew(np.random.default_rng(0)), "netx has no branches"),
        (recurrent(np.random.default_rng(0)), "netx has no branches and no recurrence"),
        (soft(), r"layer 0 dense 9-12: netx has no soft reset: on a board it would need"),
        (graded(), "layer 0 dense 2-1: only LIF neurons can be deployed, not SigmaDelta"),
        (leaky_input(), "does the same at du = 4096 only, not at 3000"),
        (moving_input(), "set once a sample: the encoding events changes in time"),
    ],
)
def test_what_no_board_is_given(network: Network, words: str, tmp_path: Path) -> None:
    x = np.zeros((network.time_steps, 1, *network.input_shape), dtype=np.int16)
    with pytest.raises(DeployError, match=words):
        deploy.write(network, x, tmp_path / "board", LOIHI2)
    with pytest.raises(DeployError, match=words):
        deploy.preflight(network, LOIHI2)
    assert list(tmp_path.iterdir()) == []


# --- what is missing ----------------------------------------------------------------------------


def checks() -> dict[str, board.Check]:
    return {check.name: check for check in board.preflight()}


def test_here_is_no_board(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    found = deploy.preflight(vector(), LOIHI2)
    assert not found.ok
    assert found.missing[-4:] == ("lava-loihi", "spike adapters", "chip generation", "host")
    assert all(check.advice for check in found.checks if not check.ok)
    assert all(not check.advice for check in found.checks if check.ok)


@pytest.mark.parametrize(
    ("said", "ok", "words"),
    [
        (None, False, "LOIHI_GEN is not set: set it to the board's: one of N3B2, N3B3"),
        ("N3B3", True, "LOIHI_GEN=N3B3"),
        ("N2A2", False, "LOIHI_GEN=N2A2 is a Loihi 1"),
        ("N9", False, "LOIHI_GEN=N9: set it to"),
    ],
)
def test_generation(
    said: str | None, ok: bool, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if said is not None:
        monkeypatch.setenv("LOIHI_GEN", said)
    check = checks()["chip generation"]
    assert check.ok == ok
    assert words in str(check)


@pytest.mark.parametrize(
    ("variables", "ok", "words"),
    [
        ({}, False, "SLURM, no PARTITION and no BOARD: set one of them; PARTITION is one of ohe"),
        ({"SLURM": "1", "PARTITION": "oheogulch"}, True, "SLURM, PARTITION=oheogulch (idle)"),
        ({"PARTITION": "kapohopoint"}, False, "PARTITION=kapohopoint is down: use another one"),
        ({"PARTITION": "nahuku"}, False, "PARTITION=nahuku is not there: sinfo lists oheogulch, k"),
        ({"BOARD": "ncl-og-01"}, True, "SLURM, BOARD=ncl-og-01 (idle)"),
        ({"BOARD": "ncl-og-02", "PARTITION": "oheogulch"}, False, "BOARD=ncl-og-02 is down*"),
        ({"NOSLURM": "1"}, False, "NOSLURM without NXSDKHOST: set NXSDKHOST to the board's"),
        ({"NOSLURM": "1", "NXSDKHOST": "board"}, True, "NXSDKHOST=board"),
        ({"NXSDKHOST": "gone"}, False, "gone does not answer to ping"),
        ({"NXSDKHOST": "gone", "SLURM": "1", "BOARD": "ncl-og-01"}, True, "BOARD=ncl-og-01"),
    ],
)
def test_host(
    variables: dict[str, str],
    ok: bool,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    _, programs = board_jobs.pretend(tmp_path)
    (programs / "ping").write_text('#!/bin/sh\n[ "$3" = board ]\n')
    (programs / "ping").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    check = checks()["host"]
    assert check.ok == ok
    assert words in str(check)


def test_a_sinfo_that_fails_or_is_absent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "no SLURM (no sinfo)" in checks()["host"].found
    (tmp_path / "sinfo").write_text("#!/bin/false\n")
    (tmp_path / "sinfo").chmod(0o755)
    assert "sinfo fails" in checks()["host"].found


@pytest.mark.lava
def test_an_extension_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert not checks()["lava-loihi"].ok
    extension, _ = board_jobs.pretend(tmp_path)
    monkeypatch.syspath_prepend(str(extension))
    found = checks()
    assert found["Lava"].ok and found["lava-loihi"].ok and found["spike adapters"].ok
    from lava.utils import loihi

    assert loihi.is_installed()  # Lava's own word for it


def test_rules_of_the_chip(tmp_path: Path) -> None:
    on = limits.chip("loihi2", cores=1, neurons=8)
    found = deploy.write(vector(), data(vector(), 1), tmp_path / "board", on)
    assert "constraints" in found.missing
    check = {check.name: check for check in found.checks}["constraints"]
    assert check.found.startswith("1 rules of loihi2 broken: ") and check.advice
    report = json.loads((tmp_path / "board" / "constraints.json").read_text())
    assert report["ok"] is False
    assert {"rule", "layer", "level", "used", "allowed"} <= report["rules"][0].keys()
    text = (tmp_path / "board" / "constraints.txt").read_text()
    assert "RULES ARE BROKEN" in text and "third-party text, not Intel's" in text


# --- the folder ---------------------------------------------------------------------------------


def test_what_is_in_it(tmp_path: Path) -> None:
    network, out = image(), tmp_path / "board"
    x = written(network, out)
    assert {path.name for path in out.iterdir()} == {
        *("README.txt", "constraints.json", "constraints.txt", "model.net", "run.py"),
        *("samples.npz", "settings.json"),
    }
    assert netx.read(out / "model.net") == network
    with np.load(out / "samples.npz") as arrays:
        np.testing.assert_array_equal(arrays["payloads"], x)
        trace = reference.run(network, x)
        for index, spikes in enumerate(trace.spikes):
            np.testing.assert_array_equal(arrays[f"spikes_{index}"], spikes)
        np.testing.assert_array_equal(arrays["scores"], reference.predict(network, x))
    digest = hashlib.sha256((out / "model.net").read_bytes()).hexdigest()
    readme = (out / "README.txt").read_text()
    assert digest in readme
    for words in ("python run.py --preflight", "LOIHI_GEN=", "NXSDKHOST=", "lava-loihi"):
        assert words in readme
    assert (out / "run.py").read_text() == Path(board.__file__).read_text()
    assert out.stat().st_mode & 0o777 == 0o777 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_the_script_needs_nothing_of_ours() -> None:
    """Only Python's own modules, numpy, and Lava where it is used."""
    tree = ast.parse(Path(board.__file__).read_text())
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            names.add(str(node.module).split(".")[0])
    assert names - set(sys.stdlib_module_names) == {"numpy", "lava"}
    outside = [n for n in tree.body if isinstance(n, ast.Import | ast.ImportFrom)]
    assert not any("lava" in ast.unparse(node) for node in outside)


def test_an_existing_folder_is_left_alone(tmp_path: Path) -> None:
    for kind in ("folder", "file", "link"):
        out = tmp_path / kind
        if kind == "folder":
            out.mkdir()
        elif kind == "file":
            out.write_text("mine")
        else:
            out.symlink_to("nowhere")
        with pytest.raises(DeployError, match="is there already: name a folder that is not"):
            written(vector(), out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder", "link"]
    assert list((tmp_path / "folder").iterdir()) == []
    assert (tmp_path / "file").read_text() == "mine"


def test_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DeployError, match="cannot be written: No such file"):
        written(vector(), tmp_path / "no" / "board")
    calls: list[Path] = []
    put = deploy._put

    def full(path: Path, content: bytes) -> None:
        calls.append(path)
        if len(calls) == 4:
            raise OSError(28, "No space left on device")
        put(path, content)

    monkeypatch.setattr(deploy, "_put", full)
    with pytest.raises(DeployError, match="board: cannot be written: No space left on device"):
        written(vector(), tmp_path / "board")
    assert len(calls) == 4
    assert list(tmp_path.iterdir()) == []


def test_no_samples(tmp_path: Path) -> None:
    with pytest.raises(DeployError, match="there are none"):
        written(vector(), tmp_path / "board", samples=0)


# --- its script ---------------------------------------------------------------------------------


def script(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """As on a board's host: another folder, and nothing of pumice on Python's path."""
    code = [sys.executable, "-I", str(place / "run.py"), *arguments]
    return subprocess.run(code, cwd="/", capture_output=True, text=True, timeout=120)


def test_without_a_board_it_says_what_is_missing(tmp_path: Path) -> None:
    """And does not simulate in its place."""
    written(vector(), tmp_path / "board")
    for arguments in ((), ("--preflight",)):
        done = script(tmp_path / "board", *arguments)
        assert done.returncode == 2
        assert "NO  lava-loihi: not installed" in done.stdout
        assert done.stderr.startswith("refused: no board: ")
        assert "chip generation, host (python run.py --simulate runs it" in done.stderr
        assert "samples of" not in done.stdout
        assert not (tmp_path / "board" / "result.json").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--samples", "4"), "--samples 4: there are 1 to 3"),
        (("--interval", "6"), "--interval 6: a sample lasts 7 steps"),
        (("--input-lag", "-1"), "--input-lag -1: 0 steps at least"),
    ],
)
def test_arguments(arguments: tuple[str, ...], words: str, tmp_path: Path) -> None:
    written(vector(), tmp_path / "board")
    done = script(tmp_path / "board", "--simulate", *arguments)
    assert (done.returncode, done.stderr) == (2, f"refused: {words}\n")


@pytest.mark.lava
@pytest.mark.skipif(sys.version_info < (3, 11), reason="Lava's wheels import here")
def test_a_python_that_lava_is_not_made_for(tmp_path: Path) -> None:
    written(vector(), tmp_path / "board")
    done = script(tmp_path / "board", "--simulate")
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(
        r"refused: Lava cannot be imported in Python 3\.1\d, its wheels ask for 3\.10 \(.*\); "
        r"pumice deploy --simulate runs it in later ones\n",
        done.stderr,
    )


def test_another_file_is_refused(tmp_path: Path) -> None:
    written(vector(), tmp_path / "board")
    netx.write(image(), tmp_path / "board" / "model.net")
    done = script(tmp_path / "board", "--simulate")
    assert done.returncode == 2
    assert "model.net is not the file that this folder was made with" in done.stderr


@pytest.mark.lava
@pytest.mark.exactness
def test_simulated_it_finds_nothing(tmp_path: Path) -> None:
    """Images with biases, delays, input neurons, spikes as readout; any interval; and a network in
    which one weight is another, where it finds that."""
    networks = [image(), delayed(), injected(), short_and_delayed(), vector()]
    places = [tmp_path / str(index) for index in range(len(networks) + 1)]
    for network, place in zip(networks, places, strict=False):
        written(network, place)
    shutil.copytree(places[4], places[5])
    layer = vector().layers[1]
    weight = layer.synapse.weight.copy()  # type: ignore[union-attr]
    weight[2, 5] -= 60
    netx.write(
        vector().with_layer(1, replace(layer, synapse=Dense(weight))), places[5] / "model.net"
    )
    settings = json.loads((places[5] / "settings.json").read_text())["settings"]
    digest = hashlib.sha256((places[5] / "model.net").read_bytes()).hexdigest()
    settings["sha256"]["model.net"] = digest
    seal = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    (places[5] / "settings.json").write_text(json.dumps({"sha256": seal, "settings": settings}))
    more: list[list[str]] = [[], [], [], [], ["--interval", "7", "--layers", "last"], []]
    done = supervise.run(
        board_jobs.simulate, deadline=300, places=[str(place) for place in places], arguments=more
    )
    assert done["codes"] == [0, 0, 0, 0, 0, 1], done["logs"]
    for log in done["logs"]:
        assert "SIMULATED in Lava on this CPU, on no chip" in log.splitlines()[0]
    results = [json.loads((place / "result.json").read_text()) for place in places]
    for network, result in zip(networks[:4], results, strict=False):
        neurons = sum(int(np.prod(shape)) for shape in network.shapes)
        assert result["compared"] == 3 * (neurons * network.time_steps + network.classes)
        assert (result["mismatches"], result["mode"]) == (0, "simulated")
        assert result["models"]["LIFReset"] == "PyLifResetModelBitAcc"
    assert [result["interval"] for result in results[:5]] == [8, 8, 8, 4, 7]
    assert [layer["layer"] for layer in results[4]["layers"]] == [vector().names[1]]
    expected = reference.predict(netx.read(places[5] / "model.net"), data(vector(), 3))
    wrong = int((expected != reference.predict(vector(), data(vector(), 3))).sum())
    assert results[5]["mismatches"] == results[5]["scores"]["wrong"] == wrong > 0


@pytest.mark.lava
def test_the_way_onto_a_board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With adapters that take two steps: the script is told, or says that it should be."""
    extension, programs = board_jobs.pretend(tmp_path)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("LOIHI_GEN", "N3B3")
    monkeypatch.setenv("BOARD", "ncl-og-01")
    places = [tmp_path / name for name in ("image", "vector", "untold")]
    for network, place in zip((image(), vector(), vector()), places, strict=True):
        written(network, place)
    told = ["--input-lag", "2"]
    done = supervise.run(
        board_jobs.on_pretended_board,
        deadline=300,
        places=[str(place) for place in places],
        arguments=[told, told, []],
        extension=str(extension),
        lag=2,
    )
    assert done["codes"] == [0, 0, 1], done["logs"]
    for name, log in zip(("PyToN3ConvAdapter", "PyToNxAdapter"), done["logs"], strict=False):
        assert f"{name} ran as" in log and "NxToPyAdapter ran as" in log
        assert "ok  lava-loihi: installed" in log
    assert "spikes fit 2 steps later: try --input-lag 2" in done["logs"][2]


@pytest.mark.lava
def test_models_in_python_are_refused_on_a_board(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """All is there but models for the chip: nothing is run in their place."""
    extension, programs = board_jobs.pretend(tmp_path)
    monkeypatch.syspath_prepend(str(extension))
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("LOIHI_GEN", "N3B3")
    monkeypatch.setenv("PARTITION", "oheogulch")
    model, samples = files(tmp_path)
    assert main(("deploy", model, "--data", samples, "--samples", "2", "--json")) == 1
    answer = json.loads(capfd.readouterr().out)
    assert "would run on this CPU (Py" in answer["error"]


# --- the command --------------------------------------------------------------------------------


def files(folder: Path) -> tuple[str, str]:
    network = vector()
    netx.write(network, folder / "model.net")
    rng = np.random.default_rng(0)
    x, y = rng.random((6, 9)), np.arange(6) % 4
    np.savez(folder / "data.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    return str(folder / "model.net"), str(folder / "data.npz")


class TestCommand:
    def ask(self, capfd: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, Any]:
        code = main([*map(str, arguments), "--json"])
        return code, json.loads(capfd.readouterr().out)

    def test_refuses_without_a_board(
        self, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        model, samples = files(tmp_path)
        monkeypatch.setattr(supervise, "run", None)  # nothing may run
        code, answer = self.ask(capfd, "deploy", model, "--data", samples)
        assert (code, answer["ready"]) == (1, False)
        assert {"lava-loihi", "chip generation", "host"} <= set(answer["missing"])
        assert main(("deploy", model, "--data", samples)) == 1
        said = capfd.readouterr().out
        assert "set it to the board's" in said and "--dry-run --out FOLDER" in said

    @pytest.mark.parametrize("mismatches", [0, 3])
    def test_says_what_a_board_did(
        self,
        mismatches: int,
        tmp_path: Path,
        capfd: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """As if there were one; what is written for it is gone afterwards."""
        model, samples = files(tmp_path)
        places: list[Path] = []

        def run(place: Path, arguments: list[str], deadline: float) -> dict[str, Any]:
            assert (place / "run.py").exists() and (arguments, deadline) == ([], 60)
            places.append(place)
            found = {"mismatches": mismatches, "compared": 99, "same_answers": 4, "mode": "loihi2"}
            return {**found, "code": int(bool(mismatches)), "log": "much"}

        monkeypatch.setattr(deploy, "run", run)
        monkeypatch.setattr(board, "preflight", lambda: [board.Check("host", True, "here")])
        arguments = ("deploy", model, "--data", samples, "--deadline", "60")
        code, answer = self.ask(capfd, *arguments)
        assert code == int(bool(mismatches))
        assert (answer["ready"], answer["folder"]) == (True, None)
        assert answer["run"]["mismatches"] == mismatches
        assert not places[0].parent.exists()
        main(arguments)
        said = capfd.readouterr().out
        assert "on Loihi 2" in said and f"{mismatches} mismatches of 99" in said

    def test_dry_run(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        model, samples = files(tmp_path)
        out = tmp_path / "board"
        deploying = ("deploy", model, "--data", samples, "--dry-run", "--out", out)
        code, answer = self.ask(capfd, *deploying, "--samples", 5)
        assert (code, answer["folder"], answer["ready"]) == (0, str(out), False)
        with np.load(out / "samples.npz") as arrays:
            assert arrays["scores"].shape == (5, 4)
            assert arrays["labels"].tolist() == [0, 1, 2, 3, 0]
        code, answer = self.ask(capfd, *deploying)
        assert code == 1
        assert "is there already" in answer["error"]

    @pytest.mark.lava
    def test_dry_run_proved_in_the_simulator(
        self, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        model, samples = files(tmp_path)
        out = tmp_path / "board"
        arguments = ("--samples", 2, "--dry-run", "--out", out, "--simulate")
        code, answer = self.ask(capfd, "deploy", model, "--data", samples, *arguments)
        assert code == 0
        assert (answer["run"]["mode"], answer["run"]["mismatches"]) == ("simulated", 0)
        assert answer["run"]["compared"] == 2 * ((12 + 4) * 7 + 4)

    def test_refuses_options(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        model, samples = files(tmp_path)
        deploying = ("deploy", model, "--data", samples)
        _, answer = self.ask(capfd, *deploying, "--dry-run")
        assert "name it with --out" in answer["error"]
        _, answer = self.ask(capfd, *deploying, "--simulate")
        assert "give both, and --out" in answer["error"]
        assert main((*deploying, "--backend", "loihi1")) == 2
