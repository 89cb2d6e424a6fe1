"""The page that verify writes: whole, self-contained, and what it says."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import re
from datetime import datetime, timezone
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
from test_causes import dense, payloads, running, with_neuron, with_weight

from cli import raster
from cli.main import main
from lava_export import netx, report, verify
from loihi import Dense, Encoding, Layer, Network, Neuron, reference

VOID = {"meta", "img"}
LOADS = {"src", "href", "data", "action", "poster", "srcset", "xlink:href", "background", "content"}


class Page(HTMLParser):
    """Elements as they are nested, texts, and everything that would be fetched."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.fetched: list[str] = []
        self.images: list[bytes] = []
        self.texts: list[str] = []
        self.points: list[str] = []
        self.handlers: list[str] = []
        self.alternatives: list[str | None] = []
        self.feed(page.decode("utf-8"))
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            self.handlers += [name] if name.startswith("on") else []
            self.alternatives += [value] if name == "alt" else []
            if name == "content" and ("http-equiv", "refresh") not in attrs:
                continue
            if name in LOADS and value is not None:
                head, _, content = value.partition(",")
                if head == "data:image/png;base64":
                    self.images.append(base64.b64decode(content))
                else:
                    self.fetched.append(value)
            if name == "points" and value is not None:
                self.points.append(value)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def facts(model: Path, **changes: Any) -> report.Facts:
    when = datetime(2031, 5, 6, 7, 8, 9, tzinfo=timezone.utc)
    said = {"data": "digits", "split": "test", "samples": 3, "states": True}
    fields = {**said, "command": "pumice verify", "when": when, "seconds": 12.34, **changes}
    return report.Facts(model, **fields)


def differing(tmp_path: Path) -> tuple[Network, Path, verify.VerifyResult]:
    network, path = dense(), tmp_path / "model.net"
    netx.write(network, path)
    result = verify.verify(
        path,
        payloads(network),
        states=True,
        between=("grid", "reference", "engine"),
        others={"grid": running(with_neuron(network, 1, dv=301))},
    )
    assert result.mismatches
    return network, path, result


def test_what_it_says(tmp_path: Path) -> None:
    network, path, result = differing(tmp_path)
    page = Page(report.page(network, result, facts(path)))
    first, near = result.first_divergence, result.neighbourhood
    assert first is not None and near is not None
    for words in (
        f"{result.mismatches:,} mismatches of {result.compared:,} numbers (counted)",
        hashlib.sha256(path.read_bytes()).hexdigest(),
        "2031-05-06T07:08:09+00:00",
        "duration (measured) 12.3 s",
        f"numpy {np.__version__}",
        "grid, reference, engine",
        str(first),
        "decay off by one: dv is 300, and it computes with 301",
        f"{result.layers[1].mismatches:,}",
        "numbers compared and mismatches: counted",
        f"step {first.step} ←",
        f"threshold {64 * 64:,}",
    ):
        assert words in page.text, words
    assert all(name in page.text for name in network.names)
    start, end = max(1, first.step - 4), min(network.time_steps, first.step + 4)
    for name in ("grid", "reference", "engine"):
        for state in ("u", "v", "spikes"):
            shown = near.states[name][state][start - 1 : end]
            assert f"{state}, {name} {' '.join(f'{n:,}' for n in shown)} " in page.text + " "
    assert len(page.points) == 2 * 3  # u and v in three simulators
    assert all(len(points.split()) == network.time_steps for points in page.points)
    assert page.points[3] != page.points[4] == page.points[5]  # v: the grid's is another


def test_nothing_is_fetched_and_nothing_runs(tmp_path: Path) -> None:
    network, path, result = differing(tmp_path)
    png = raster.layers(network, reference.run(network, payloads(network, 1)), payloads(network, 1))
    page = Page(report.page(network, result, facts(path), [("a sample", png)]))
    assert page.fetched == page.handlers == []
    assert not {"script", "link", "iframe", "object", "embed", "base"} & set(page.tags)
    (image,) = page.images
    picture = matplotlib.image.imread(io.BytesIO(image))
    assert 0.2 < picture[..., :3].mean() < 0.99  # there is something on it
    raw = report.page(network, result, facts(path), [("a sample", png)]).decode()
    assert "url(" not in raw and "@import" not in raw and "://" not in raw


def test_texts_are_escaped(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>&\"'"
    path = tmp_path / "<script>alert(2)<b>.net"
    network = dense()
    netx.write(network, path)
    result = verify.verify(path, payloads(network), between=("reference", "engine"))
    made = report.page(network, result, facts(path, data=evil, command=evil), [(evil, b"png")])
    page = Page(made)
    assert "script" not in page.tags and "b" not in page.tags
    assert page.text.count(evil) == 3  # data, command, caption
    assert page.alternatives == [evil]
    assert path.name in page.text


def test_nothing_to_complain_about(tmp_path: Path) -> None:
    network, path = dense(), tmp_path / "model.net"
    netx.write(network, path)
    result = verify.verify(path, payloads(network), between=("reference", "engine"))
    page = Page(report.page(network, result, facts(path, states=False)))
    assert "0 mismatches of" in page.text
    assert "The first divergence" not in page.text
    assert "What the grid costs" not in page.text
    assert "svg" not in page.tags


def test_what_the_grid_costs(tmp_path: Path) -> None:
    network, path = dense(), tmp_path / "model.net"
    netx.write(network, path)
    other = with_weight(with_neuron(network, 0, vth=70), 2, lambda w: -w)
    real = running(other)
    result = verify.verify(
        path, payloads(network, 40), between=("float", "reference"), others={"float": real}
    )
    assert result.mismatches == result.compared == 0
    assert result.agreement is not None
    x = payloads(network, 40)
    mine, its = (reference.run(n, x).spikes for n in (network, other))
    for (name, same, of), a, b in zip(result.agreement.spikes, mine, its, strict=False):
        assert (same, of) == (int((a == b).sum()), a.size)
        assert name in network.names[:2]
    assert [name for name, _, _ in result.agreement.spikes] == list(network.names[:2])
    one, two = (reference.predict(n, x).argmax(1) for n in (network, other))
    assert result.agreement.decisions == (one == two).sum() < 40
    page = Page(report.page(network, result, facts(path)))
    name, same, of = result.agreement.spikes[0]
    assert f"{name} {same:,} {of:,} {same / of:.3%}" in page.text
    assert "Differences are no errors" in page.text


def test_many_layers_and_graded_messages_are_drawn() -> None:
    rng = np.random.default_rng(0)
    layers = tuple(
        Layer(Dense(rng.integers(-50, 60, (6, 6))), Neuron(4096, 200, 30)) for _ in range(60)
    )
    network = Network((6,), layers, Encoding("events", 40, (-12, 140)), "spikes")
    x = rng.integers(-12, 141, (40, 1, 6))
    picture = matplotlib.image.imread(
        io.BytesIO(raster.layers(network, reference.run(network, x), x))
    )
    assert picture.shape[0] < 8000


class TestCommand:
    """``pumice verify --html``."""

    @pytest.fixture
    def arguments(self, tmp_path: Path) -> list[str]:
        rng = np.random.default_rng(0)
        layers = (
            Layer(Dense(2 * rng.integers(-60, 90, (7, 20))), Neuron(4096, 100, 300)),
            Layer(Dense(2 * rng.integers(-60, 90, (3, 7))), Neuron(4096, 100, 60)),
        )
        encoding = Encoding("rate", 6, low=0.0, high=255.0)
        netx.write(Network((20,), layers, encoding, "spikes"), tmp_path / "model.net")
        x = rng.integers(0, 256, (9, 20), dtype=np.uint8)
        y = np.arange(9) % 3
        np.savez(tmp_path / "data.npz", x_train=x, y_train=y, x_test=x, y_test=y)
        return [
            *("verify", str(tmp_path / "model.net"), "--data", str(tmp_path / "data.npz")),
            *("--between", "reference,engine", "--samples", "5"),
        ]

    def test_writes_the_page(
        self, arguments: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        out = tmp_path / "report.html"
        assert main([*arguments, "--html", str(out), "--json"]) == 0
        assert json.loads(capfd.readouterr().out)["html"] == str(out)
        page = Page(out.read_bytes())
        assert len(page.images) == 2  # the first two samples
        assert "5 of data, test, 6 steps each" in page.text
        assert re.search(r"date 20\d\d-\d\d-\d\dT", page.text)

    def test_is_there_whole_or_not_at_all(
        self,
        arguments: list[str],
        tmp_path: Path,
        capfd: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        out = tmp_path / "report.html"
        out.write_text("old")

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        before = sorted(tmp_path.iterdir())
        monkeypatch.setattr(os, "replace", full)
        assert main([*arguments, "--html", str(out)]) == 1
        line = capfd.readouterr().err.splitlines()[-1]
        assert line == f"pumice: {out}: cannot be written: No space left on device"
        assert out.read_text() == "old"
        assert sorted(tmp_path.iterdir()) == before
