"""The bench beside peers: all train the same network, in turn, and the verdicts are arithmetic."""

from __future__ import annotations

import importlib.util
import json
import math
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from torch import Tensor
from torch.nn import functional as F

from bench import contestants, peers
from bench.contestants import (
    BPTTLoop,
    Contestant,
    Peer,
    Pumice,
    Setting,
    SLTTLoop,
    field,
    make,
    mean_loss,
)
from bench.memory import peak_bytes
from bench.report import show
from loihi import PumiceError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SMALL = {
    "dense": Setting("24-16", (20,), 5, 4, (4,), 1),
    "convolutions": Setting("4c3p1-2a-6c3-8", (2, 8, 8), 5, 4, (4,), 1),
}
LOOPS = (BPTTLoop, SLTTLoop)


def outputs(problem: contestants.Problem) -> Tensor:
    """The pumice network's own, ``[T, N, classes]``."""
    problem.network.reset(problem.x)
    return torch.stack([problem.network.step(t) for t in range(len(problem.x))]).detach()


# ---------------------------------------------------------------- the same network for all


@pytest.mark.parametrize("static", [False, True], ids=["moving", "static"])
@pytest.mark.parametrize("setting", SMALL.values(), ids=SMALL)
def test_the_loops_compute_what_pumice_computes(setting: Setting, static: bool) -> None:
    problem = make(setting, 6, 4, static, "cpu")
    expected = outputs(problem)
    assert expected.abs().max() > 0.1
    for kind in LOOPS:
        peer = kind(problem)
        torch.testing.assert_close(peer.outputs(peer.x).detach(), expected, rtol=0, atol=1e-5)
        assert peer.activity() == Pumice(problem, "sltt").activity()


def test_a_network_of_local_classifiers_has_the_same_weights() -> None:
    problem = make(SMALL["convolutions"], 4, 4, False, "cpu")
    local = Pumice(problem, "decolle").network
    assert len(local.classifiers) > 0
    local.reset(problem.x)
    assert torch.equal(torch.stack([local.step(t) for t in range(4)]).detach(), outputs(problem))


PEERS_IN_A_CHILD = """
import json, torch
from bench import peers
from bench.contestants import *
torch.set_num_threads(1)
table, _ = peers.rows(Setting("24-16", (20,), 5, 4, (4,), 1), (2,), 4, ["sltt"], repeats=1)
found = {"names": [row["what"] for row in table], "threads": torch.get_num_threads()}
for name, setting in {
    "dense": Setting("24-16", (20,), 5, 4, (4,), 1),
    "convolutions": Setting("4c3p1-2a-6c3-8", (2, 8, 8), 5, 4, (4,), 1),
}.items():
    for static in (False, True):
        problem = make(setting, 6, 4, static, "cpu")
        loop = BPTTLoop(problem)
        loop.iterate()
        expected = loop.outputs(loop.x)
        for kind in (SpikingJelly, SnnTorch, Slayer):
            if why_absent(kind):
                continue
            peer = kind(problem)
            back = peer.reaches_back(problem.x)
            peer.iterate()
            gradient, ours = peer.weight.grad.flatten(1), loop.weight.grad.flatten(1)
            found[f"{kind.name}, {name}, {static}"] = dict(
                outputs=float((peer.outputs(peer.x) - expected).abs().max()),
                gradient=float((gradient - ours).abs().max() / ours.abs().max()),
                cosine=float(F.cosine_similarity(gradient.flatten(), ours.flatten(), dim=0)),
                back=back,
                same=peer.activity() == loop.activity(),
            )
print(json.dumps(found))
"""


@pytest.mark.lava
def test_the_libraries_compute_what_the_loop_computes(run_python: Callable[..., str]) -> None:
    """SLAYER always, the others where they are installed (the extra ``peers``)."""
    found = json.loads(run_python(PEERS_IN_A_CHILD).splitlines()[-1])
    assert found.pop("threads") == 1  # as was asked, whatever the libraries did on their way
    names = found.pop("names")
    for name, package in (
        ("SpikingJelly", "spikingjelly"),
        ("snnTorch", "snntorch"),
        ("SLAYER", "lava"),
    ):
        installed = importlib.util.find_spec(package) is not None
        assert (name in names) == installed
        assert sum(key.startswith(name) for key in found) == 4 * installed
    for key, row in found.items():
        assert row["same"] and row["back"], key
        assert row["outputs"] < 1e-4, key
        if key.startswith("SpikingJelly"):  # the same surrogate, the same path through the reset
            assert row["gradient"] < 1e-4, key
        elif key.startswith("snnTorch"):  # the same surrogate, no error through the reset
            assert row["cosine"] > 0.7, key


def test_the_loops_surrogate_is_the_slope_of_an_arctangent() -> None:
    v = torch.linspace(-2, 2, 41, dtype=torch.float64, requires_grad=True)
    (smooth,) = torch.autograd.grad((torch.arctan(math.pi * v) / math.pi).sum(), v)
    (slope,) = torch.autograd.grad(contestants._ATan.apply(v).sum(), v)  # type: ignore[no-untyped-call]
    torch.testing.assert_close(slope, smooth)


def test_errors_go_through_time_in_one_loop_and_not_in_the_other() -> None:
    for setting in SMALL.values():
        problem = make(setting, 4, 4, False, "cpu")
        bptt, sltt = BPTTLoop(problem), SLTTLoop(problem)
        assert bptt.reaches_back(problem.x)
        assert not sltt.reaches_back(problem.x)
        # Step by step, or all detached steps in one graph: the same gradient.
        sltt.iterate()
        by_step = [p.grad.clone() for p in sltt.module.parameters() if p.grad is not None]
        sltt.module.zero_grad()
        mean_loss(sltt.outputs(sltt.x), sltt.y).backward()  # type: ignore[no-untyped-call]
        at_once = [p.grad for p in sltt.module.parameters() if p.grad is not None]
        assert len(at_once) == len(by_step) > 0
        for one, other in zip(by_step, at_once, strict=True):
            torch.testing.assert_close(one, other)


def test_the_loss_is_the_mean_of_the_steps_losses() -> None:
    o, y = torch.randn(3, 4, 5), torch.tensor([0, 4, 2, 2])
    expected = sum(float(F.cross_entropy(step, y)) for step in o) / 3
    assert float(mean_loss(o, y)) == pytest.approx(expected)


# ---------------------------------------------------------------- who takes part


class Missing(BPTTLoop):
    name, package = "Missing", "no-such-package-for-pumice"


class Broken(BPTTLoop):
    name = "Broken"

    def outputs(self, x: Tensor, record: list[Tensor] | None = None) -> Tensor:
        raise RuntimeError("first line\nsecond line")


class Forgetful(SLTTLoop):
    name, through_time = "Forgetful", True


class Wide(BPTTLoop):
    """24 neurons of one of four steps too many: six more than the network has."""

    name = "Wide"

    def spikes(self) -> list[Tensor]:
        return [*super().spikes(), super().spikes()[0]]


class Idle(BPTTLoop):
    name = "Idle"

    def iterate(self) -> None:
        self.module.zero_grad()


@pytest.fixture
def problem() -> contestants.Problem:
    return make(SMALL["dense"], 4, 4, False, "cpu")


def compete(monkeypatch: pytest.MonkeyPatch, *kinds: type[Peer]) -> None:
    monkeypatch.setattr(contestants, "PEERS", kinds)


def test_who_is_absent_is_named_and_the_others_run(
    problem: contestants.Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    compete(monkeypatch, Missing, Broken, BPTTLoop)
    found, absent = field(problem, ["bptt", "sltt"])
    assert [c.name for c in found] == ["BPTT loop", "pumice bptt", "pumice sltt"]
    assert set(absent) == {"Missing", "Broken"}
    assert 'pip install -c constraints-peers.txt ".[peers]"' in absent["Missing"]
    assert absent["Broken"] == "RuntimeError: first line"
    for kind, words in ((Missing, "is not installed"), (Broken, "first line")):
        compete(monkeypatch, kind)
        with pytest.raises(PumiceError, match=words):
            field(problem, [], require=True)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (Forgetful, "Forgetful: its errors do not go through time"),
        (Wide, "Wide has 46 neurons, not 40"),
        (Idle, "Idle: the first layer has no gradient"),
    ],
)
def test_what_does_not_do_the_same_is_an_error(
    kind: type[Peer],
    words: str,
    problem: contestants.Problem,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compete(monkeypatch, kind)
    with pytest.raises(PumiceError, match=words):
        field(problem, [])


# ---------------------------------------------------------------- the measurement


class Scribe(Contestant):
    def __init__(self, name: str, book: list[str]) -> None:
        self.name, self.book = name, book

    def iterate(self) -> None:
        self.book.append(self.name)

    def spikes(self) -> list[Tensor]:
        return []


def test_all_are_called_in_turn() -> None:
    book: list[str] = []
    taken = peers.in_turn([Scribe(name, book) for name in "abc"], repeats=3)
    assert "".join(book) == "abcabcabc"
    assert [len(t) for t in taken] == [3, 3, 3]


def test_bytes_at_the_peak() -> None:
    kept: list[Tensor] = []

    def one_after_the_other() -> None:
        for _ in range(3):
            torch.empty(1000)

    def together() -> None:
        kept.extend(torch.empty(1000) for _ in range(3))

    assert peak_bytes(one_after_the_other) == 4000
    assert peak_bytes(together) == 12000
    assert peak_bytes(lambda: None) == 0


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    compete(monkeypatch, *LOOPS)
    monkeypatch.setattr(peers, "REFERENCE", "BPTT loop")
    found, absent = peers.rows(SMALL["dense"], (2, 8), 4, ["bptt", "sltt"], repeats=2)
    assert absent == {}
    return found


def test_rows_and_their_ratios(table: list[dict[str, Any]]) -> None:
    assert [(row["what"], row["T"]) for row in table] == [
        (name, t)
        for t in (2, 8)
        for name in ("BPTT loop", "SLTT loop", "pumice bptt", "pumice sltt")
    ]
    assert len({row["rate"] for row in table[:4]}) == 1
    for first in (0, 4):
        reference = table[first]
        for row in table[first : first + 4]:
            for key in ("seconds", "cpu_seconds", "saved_bytes", "peak_bytes"):
                assert row[f"{key}_ratio"] == round(row[key] / reference[key], 4)
    saved = {(row["what"], row["T"]): row["saved_bytes"] for row in table}
    assert saved["SLTT loop", 8] == saved["SLTT loop", 2] < saved["BPTT loop", 2]
    assert saved["BPTT loop", 8] > 3 * saved["BPTT loop", 2]


def row(what: str, steps: int, **numbers: float) -> dict[str, Any]:
    return {"what": what, "T": steps, **numbers}


def test_verdicts() -> None:
    table = [
        row("SpikingJelly", 10, seconds=1.0, saved_bytes=2000, peak_bytes=1),
        row("pumice sltt", 10, seconds=0.1, saved_bytes=400, peak_bytes=1),
        row("pumice bptt_checkpoint", 10, seconds=1.0, saved_bytes=1, peak_bytes=100),
        row("SpikingJelly", 40, seconds=4.0, saved_bytes=8000, peak_bytes=1),
        row("pumice sltt", 40, seconds=2.8, saved_bytes=401, peak_bytes=36),
        row("pumice sltt_k k=1", 40, seconds=0.96, saved_bytes=1, peak_bytes=1),
        row("pumice bptt", 40, seconds=1.0, saved_bytes=1, peak_bytes=100),
        row("pumice bptt_checkpoint", 40, seconds=1.4, saved_bytes=1, peak_bytes=200),
    ]
    found = {(v["target"], v["of"]): (v["ratio"], v["verdict"]) for v in peers.verdicts(table)}
    assert found == {
        ("pumice sltt, seconds, T = 40", "SpikingJelly"): (0.7, "met"),
        ("pumice sltt_k k=1, seconds, T = 40", "SpikingJelly"): (0.24, "MISSED"),
        ("pumice sltt, saved_bytes, T = 40", "SpikingJelly"): (0.0501, "MISSED"),
        ("pumice sltt, saved_bytes, T = 40", "itself, T = 10"): (1.0025, "MISSED"),
        ("pumice bptt_checkpoint, seconds, T = 40", "pumice bptt"): (1.4, "MISSED"),
        ("pumice bptt_checkpoint, peak_bytes, T = 40", "itself, T = 10, times √4"): (1.0, "met"),
    }
    on_gpu = {(v["target"], v["of"]): v["verdict"] for v in peers.verdicts(table, "cuda")}
    assert on_gpu["pumice sltt, peak_bytes, T = 40", "pumice bptt"] == "met"
    assert on_gpu["pumice sltt_k k=1, seconds, T = 40", "pumice sltt"] == "met"
    assert len(on_gpu) == 2


# ---------------------------------------------------------------- the command


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(peers, "SETTINGS", {"mlp": SMALL["dense"]})
    monkeypatch.setattr(sys, "argv", ["bench.peers", "--repeats", "1", *arguments])
    peers.main()


def test_one_json_object(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    compete(monkeypatch, BPTTLoop, Missing)
    run(monkeypatch, "--json", "--rules", "sltt", "--steps", "2", "3", "--input", "static")
    told = json.loads(capsys.readouterr().out)
    assert [(r["what"], r["T"]) for r in told["rows"]] == [
        (name, t) for t in (2, 3) for name in ("BPTT loop", "pumice sltt")
    ]
    assert set(told["absent"]) == {"Missing"}
    assert told["input"] == "static" and told["model"] == "20-24-16-5" and told["batch"] == 4
    assert told["threads"] == torch.get_num_threads() and "torch" in told["versions"]
    assert [t["of"] for t in told["targets"]] == ["itself, T = 2"]


def test_a_required_peer_that_is_absent_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    compete(monkeypatch, Missing)
    with pytest.raises(SystemExit) as caught:
        run(monkeypatch, "--require-peers")
    assert re.fullmatch(r"bench\.peers: Missing: .* is not installed: .*", str(caught.value))


def test_targets_and_absences_stand_below_the_rows(capsys: pytest.CaptureFixture[str]) -> None:
    show([{"a": 1}], False, targets=[{"verdict": "met"}], absent={"X": "why"}, batch=3)
    assert capsys.readouterr().out.split() == ["a", "1", "verdict", "met", "X:", "absent.", "why"]
    show([{"a": 1}], True, batch=3)
    assert set(json.loads(capsys.readouterr().out)) == {"processors", "batch", "rows"}


# ---------------------------------------------------------------- what is installed


def pins(path: Path) -> dict[str, str]:
    lines = path.read_text(encoding="utf-8").splitlines()
    found = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(r.name): str(r.specifier) for r in found}


def test_the_extra_is_pinned_and_its_pins_are_only_versions() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pinned = pins(ROOT / "constraints-peers.txt")
    wanted = [Requirement(text) for text in project["optional-dependencies"]["peers"]]
    for requirement in wanted:
        version = pinned[canonicalize_name(requirement.name)].removeprefix("==")
        assert requirement.specifier.contains(version), requirement
    assert {r.name for r in wanted} == {"spikingjelly", "snntorch", "nirtorch"}
    main = pins(ROOT / "constraints.txt")
    assert all(main[name] == pin for name, pin in pinned.items() if name in main)
    for line in (ROOT / "constraints-peers.txt").read_text(encoding="utf-8").splitlines():
        assert re.fullmatch(r"#.*|[A-Za-z0-9_.-]+==[0-9][0-9a-z.]*", line), line
