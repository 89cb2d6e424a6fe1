"""A run's page: what it says is what the run and its network are, and it can be read anywhere."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import browser
import matplotlib.image
import numpy as np
import pytest
import torch
from test_report import Page

from cli.main import main
from cli.train import train
from lava_export import netx
from loihi import Dense, Encoding, Layer, Network, Neuron, census, charts, decide, html, reference
from trainer import data, loop, runs
from trainer.config import TrainConfig

PAGE = "report.html"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs on digits, and its page."""
    folder = tmp_path_factory.mktemp("report") / "<i>run & co"
    options = ("--model", "16", "--time-steps", "4", "--epochs", "2", "--lr", "2")
    assert main(["train", "--data", "digits", *options, "--out", str(folder)]) == 0
    assert main(["report", str(folder)]) == 0
    return folder


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "run"))


def page(folder: Path) -> Page:
    return Page((folder / PAGE).read_bytes())


def table(folder: Path, heading: str) -> list[list[str]]:
    """The first table with this heading: its rows' texts."""
    text = (folder / PAGE).read_text()
    for found in re.findall(r"<table>.*?</table>", text, re.DOTALL):
        rows = [
            [re.sub(r"<[^>]*>", "", cell) for cell in re.findall(r"<t[hd].*?</t[hd]>", row)]
            for row in re.findall(r"<tr>.*?</tr>", found, re.DOTALL)
        ]
        if heading in rows[0]:
            return rows[1:]
    raise AssertionError(f"no table {heading}")


def refused(capfd: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main([str(a) for a in arguments]) == 1
    out, err = capfd.readouterr()
    assert out == ""
    assert "Traceback" not in err
    line = err.splitlines()[-1]
    assert line.startswith("pumice: ")
    return line


# --- the page -----------------------------------------------------------------------------------


def test_nothing_is_fetched_and_nothing_runs(run: Path) -> None:
    found = page(run)
    assert [where for where in found.fetched if not where.startswith("#")] == []
    assert found.handlers == []
    assert not {"script", "link", "iframe", "object", "embed", "base", "i>run"} & set(found.tags)
    text = (run / PAGE).read_text()
    assert "url(" not in text and "@import" not in text and "://" not in text
    assert "default-src 'none'" in text.replace("&#x27;", "'")
    assert "<i>run & co" in found.text  # escaped, as it is found


def test_the_page_says_what_the_run_found(run: Path) -> None:
    last = json.loads((run / runs.METRICS).read_text().splitlines()[-1])
    text = page(run).text
    assert f"{last['test_accuracy']:.2%} counted {last['test_correct']} of 397 test" in text
    noted = json.loads((run / runs.ENVIRONMENT).read_text())[0]
    for name in ("pumice", "python", "torch", "numpy", "platform"):
        assert noted[name] in text
    assert "seed 0" in text
    changed = dict(table_of_settings(run))
    assert changed == {"model": "16", "time_steps": "4", "epochs": "2", "lr": "2.0"}


def table_of_settings(run: Path) -> list[list[str]]:
    text = (run / PAGE).read_text()
    part = text[text.index('id="settings"') :]
    cells = re.findall(r"<td[^>]*>(.*?)</td>", part[: part.index("<details")])
    return [cells[i : i + 2] for i in range(0, len(cells), 2)]


def test_layers_are_what_the_reference_finds(run: Path) -> None:
    network = netx.read(run / "model.net")
    x = network.encoding.encode(data.load("digits").x_test[:200])
    spikes = reference.run(network, x).spikes[0]  # [T, N, 16]
    often = spikes.sum(axis=(0, 1))
    first, last = table(run, "spike rate")
    weight = network.layers[0].synapse.weight  # type: ignore[union-attr]
    assert first[1:] == [
        "16",
        "1,024",
        f"{(weight == 0).mean():.1%}",
        f"{network.layers[0].neuron.vth:,}",
        str(network.layers[0].neuron.du),  # type: ignore[union-attr]
        str(network.layers[0].neuron.dv),  # type: ignore[union-attr]
        f"{spikes.mean():.4f}",
        f"{(often == 0).mean():.1%}",
        f"{(often == spikes.shape[0] * spikes.shape[1]).mean():.1%}",
        first[-1],
    ]
    assert last[7:10] == ["–"] * 3  # an integrator


def test_spikes_in_the_metrics_are_those_of_the_exported_network(run: Path) -> None:
    """Counted by the trainer on all test samples, and here by the reference."""
    network = netx.read(run / "model.net")
    x = network.encoding.encode(data.load("digits").x_test)
    spikes = reference.run(network, x).spikes[0]
    last = json.loads((run / runs.METRICS).read_text().splitlines()[-1])
    assert last["spikes"] == spikes.sum() / 397
    assert last["spike_rates"] == [pytest.approx(spikes.mean(), abs=1e-12), None]


def test_rasters_show_the_spikes(run: Path) -> None:
    network = netx.read(run / "model.net")
    samples = data.load("digits")
    x = network.encoding.encode(samples.x_test[:3])
    trace = reference.run(network, x, ("spikes", "v"))
    answers = decide(reference.scores(network, trace))
    found = page(run)
    assert len(found.images) == 9  # of each sample the image, the input, the hidden layer
    for sample in range(3):
        drawn = matplotlib.image.imread(io.BytesIO(found.images[3 * sample + 2]))
        assert np.array_equal(drawn[::-1, :, 3], trace.spikes[0][:, sample].T)
        sent = matplotlib.image.imread(io.BytesIO(found.images[3 * sample + 1]))
        payloads = x[:, sample].reshape(4, 64).T.astype(float)
        shade = np.rint(255 * payloads / payloads.max())
        assert np.array_equal(np.rint(255 * sent[::-1, :, 3]), shade)
        heading = f"Sample {sample}, class {samples.y_test[sample]}: answer {answers[sample]}"
        assert heading in found.text


def test_verify_is_run_noted_and_known_to_be_of_another_file(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from loihi import lava_compat

    status = lava_compat.status()
    there = type(status)(**{**vars(status), "installed": False})
    monkeypatch.setattr(lava_compat, "status", lambda: there)  # Lava takes seconds
    assert main(["report", str(copy), "--verify"]) == 0
    said = json.loads((copy / runs.VERIFY).read_text())
    numbers = 8 * (3 * 4 * (16 + 10) + 10)  # u, v and spikes, and scores
    assert (said["mismatches"], said["compared"]) == (0, numbers)
    assert said["between"] == ["grid", "reference", "engine"]
    text = page(copy).text
    assert f"0 mismatches of {numbers:,} numbers" in text
    assert "of this model.net" in text
    said["mismatches"] = 3
    (copy / runs.VERIFY).write_text(json.dumps({**said, "sha256": "0" * 64}))
    assert main(["report", str(copy)]) == 0
    text = page(copy).text
    assert f"3 mismatches of {numbers:,} numbers" in text
    assert "of which file is not noted, or of another one" in text


def test_energy_is_modelled_where_there_are_figures(copy: Path) -> None:
    from loihi import boards, metrics
    from loihi.partition import partition

    assert main(["report", str(copy), "--chip", "loihi1", "--samples", "20"]) == 0
    network = netx.read(copy / "model.net")
    x = network.encoding.encode(data.load("digits").x_test[:20])
    model = metrics.count(network, x, partition(network, boards.chip("loihi1"))).model
    assert model is not None
    said = charts.si(model.energy_pj * 1e-12, "J")
    assert f"energy a sample {said} modelled loihi1" in page(copy).text


# --- what is not there, and what is damaged -----------------------------------------------------


def test_a_run_without_data_and_network_still_has_a_page(
    copy: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    config = (copy / "config.toml").read_text()
    (copy / "config.toml").write_text(config.replace('"digits"', '"/gone/mine.npz"'))
    capfd.readouterr()
    assert main(["report", str(copy), "--json"]) == 0
    answer = json.loads(capfd.readouterr().out)
    assert (answer["samples"], answer["fits"]) == (0, True)
    assert "the data are not here" in answer["notes"][0]
    text = page(copy).text
    assert "mine.npz, 16" in text and "data mine.npz" in text  # without the path
    assert "weights" in text and "spike rate" not in text
    (copy / "model.net").unlink()
    assert main(["report", str(copy)]) == 0
    assert "pumice export writes it" in page(copy).text
    (copy / runs.METRICS).write_text("")
    assert main(["report", str(copy)]) == 0
    assert "No epoch is done yet" in page(copy).text


def test_runs_of_earlier_versions_lack_some_numbers(copy: Path) -> None:
    (copy / runs.ENVIRONMENT).unlink()
    lines = [json.loads(line) for line in (copy / runs.METRICS).read_text().splitlines()]
    for line in lines:
        del line["spikes"], line["spike_rates"], line["peak_bytes"]
    (copy / runs.METRICS).write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert main(["report", str(copy), "--rasters", "0"]) == 0
    text = page(copy).text
    assert "an earlier version made this run" in text
    assert "spikes a neuron and step" not in text and "peak memory" not in text


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("metrics.jsonl", '{"epoch": 1}\n{"epoch": 1, "lo', "metrics.jsonl is damaged: line 2"),
        ("metrics.jsonl", '{"epoch": 1, "loss": "low"}', "line 1: loss is 'low', not a number"),
        ("metrics.jsonl", '{"epoch": 1, "loss": NaN}', "line 1: loss is nan, not a number"),
        ("metrics.jsonl", '{"epoch": 2}\n{"epoch": 1}', "line 2: epoch 1 after 2"),
        ("metrics.jsonl", '{"epoch": 1, "spike_rates": 3}', "spike_rates are not a list"),
        ("metrics.jsonl", b"\xff\xfe", "metrics.jsonl is damaged"),
        ("metrics.jsonl", f'{{"epoch": 1, "loss": {10**400}}}', "damaged: line 1: loss is 1000"),
        ("metrics.jsonl", f'{{"epoch": 1, "spike_rates": [{10**400}]}}', "line 1: spike_rates"),
        ("metrics.jsonl", f'{{"epoch": {10**400}}}', "line 1 is no object with an epoch"),
        ("metrics.jsonl", '{"epoch": 1}\n' + "[" * 100_000, "metrics.jsonl is damaged: line 2: "),
        ("verify.json", f'{{"mismatches": {10**400}}}', "mismatches is 1000"),
        ("config.toml", f"seed = {'1' * 5000}", "config.toml: not a TOML file: a whole number of"),
        ("environment.json", "{}", "environment.json is damaged: it is no list"),
        ("environment.json", "[" * 100_000, "environment.json is damaged"),
        ("verify.json", "[]", "verify.json is damaged: it is no object"),
        ("verify.json", '{"mismatches": "0"}', "mismatches is '0', not a whole number"),
        ("config.toml", "lr = 'high'", "config.toml: lr is 'high'"),
    ],
)
def test_damaged_files_are_one_line(
    copy: Path,
    capfd: pytest.CaptureFixture[str],
    name: str,
    content: str | bytes,
    words: str,
) -> None:
    before = (copy / PAGE).read_bytes()
    raw = content if isinstance(content, bytes) else content.encode()
    (copy / name).write_bytes(raw)
    assert words in refused(capfd, "report", copy)
    assert (copy / PAGE).read_bytes() == before


def test_what_is_no_run_is_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert "is no run folder: it has no config.toml" in refused(capfd, "report", tmp_path)
    assert "is no folder" in refused(capfd, "report", tmp_path / "none")


# --- numbers and figures ------------------------------------------------------------------------


def test_histograms_count_what_is_there() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        step = int(rng.choice([1, 2]))
        low, high = sorted(rng.integers(-300, 300, 2).tolist())
        values = rng.integers(low, high + 1, int(rng.integers(1, 400))) * step
        found = census.histogram(values, step, bins=int(rng.integers(1, 70)))
        expected = [
            sum(start <= v < start + found.width for v in values.tolist())
            for start in range(found.low, found.high, found.width)
        ]
        assert found.counts.tolist() == expected
        assert found.total == len(values) and found.width % step == 0
        assert found.zeros == values.tolist().count(0)
        assert found.low % found.width == 0


def test_census_is_of_the_reference_membranes() -> None:
    rng = np.random.default_rng(1)
    weight = rng.integers(-100, 100, (6, 5)) * 2
    layers = (
        Layer(Dense(weight), Neuron(vth=300, dv=500)),
        Layer(Dense(weight[:4, :4].repeat(2, 1)[:, :6]), Neuron(vth=None)),
    )
    network = Network((5,), layers, Encoding("rate", 7, (0, 1), 0.0, 1.0))
    x = rng.integers(0, 2, (7, 9, 5)).astype(np.uint8)
    v = reference.run(network, x, ("v",)).v
    for layer, membranes in zip(census.census(network, x), v, strict=True):
        assert layer.membranes is not None
        counted = {
            start: int(((membranes >= start) & (membranes < start + layer.membranes.width)).sum())
            for start in range(layer.membranes.low, layer.membranes.high, layer.membranes.width)
        }
        assert list(counted.values()) == layer.membranes.counts.tolist()
        assert sum(counted.values()) == membranes.size
    assert census.threshold(census.census(network)[0]) == 300 * 64
    assert census.census(network)[0].membranes is None


@pytest.mark.parametrize(("weights", "width"), [([3, 6, 9], 1), ([2, 4, -6], 2), ([0, 0, 1], 1)])
def test_bins_of_weights_are_as_wide_as_their_grid(weights: list[int], width: int) -> None:
    network = Network((3,), (Layer(Dense([weights]), Neuron(vth=2)),), Encoding("events", 2))
    (found,) = census.census(network)
    assert found.weights is not None and found.weights.width == width


def test_differences_are_counted() -> None:
    rng = np.random.default_rng(2)
    encoding = Encoding("rate", 4, (0, 1), 0.0, 1.0)

    def made(weight: Any, vth: int) -> Network:
        return Network((5,), (Layer(Dense(weight), Neuron(vth=vth)),), encoding)

    weight = rng.integers(-100, 100, (6, 5)) * 2
    other = weight.copy()
    other[2, 3] += 6
    other[0, 0] -= 2
    (found,) = census.differences(made(weight, 30), made(other, 31)) or []
    assert (found.weights, found.differ, found.largest, found.mean) == (30, 2, 6, 8 / 30)
    assert found.vth == (30, 31)
    assert census.differences(made(weight, 30), made(weight[:4], 30)) is None


def test_curves_are_where_the_numbers_are() -> None:
    """Heights and places of the dots, as parts of the way between two known ones."""
    values = [0.5, 0.25, None, 1.0, 0.0]
    drawn = charts.curves("loss", [2, 3, 4, 5, 6], {"a": values})
    dots = re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', drawn)
    places = np.array(dots, dtype=float)
    x, y = places.T
    assert (x - x[0]) / (x[-1] - x[0]) == pytest.approx([0, 0.25, 0.75, 1], abs=1e-3)
    assert (y - y[-1]) / (y[2] - y[-1]) == pytest.approx([0.5, 0.25, 1, 0], abs=2e-3)
    assert x[0] < x[-1] and y[2] < y[-1]  # later to the right, larger further up
    (path,) = re.findall(r'<path d="([^"]*)"', drawn)
    assert re.findall("[ML]", path) == ["M", "L", "M", "L"]  # the gap is a gap


@pytest.mark.parametrize(("low", "high"), [(0, 0.97), (1, 3), (-8000, 31000), (0, 1e-7), (3, 3)])
def test_ticks_are_few_round_and_within(low: float, high: float) -> None:
    found = charts.ticks(low, high)
    assert 1 <= len(found) <= 6
    assert all(low - 1e-12 <= value <= high + 1e-12 for value in found)
    steps = np.diff(found)
    assert steps == pytest.approx(steps[:1].repeat(len(steps)))
    assert all(f"{step:e}"[0] in "125" for step in steps)


@pytest.mark.parametrize(
    ("value", "said"),
    [(0.0, "0 J"), (3.214e-6, "3.21 µJ"), (999.9e-6, "1 mJ"), (12, "12 J"), (5.4e8, "540 MJ")],
)
def test_quantities(value: float, said: str) -> None:
    assert charts.si(value, "J") == said


def test_large_rasters_shrink_and_lose_no_spike() -> None:
    numbers = np.zeros((1500, 1000), dtype=np.uint8)
    numbers[777, 999] = 1
    drawn = charts.raster("", numbers)
    (content,) = Page(html.document("", drawn)).images
    pixels = matplotlib.image.imread(io.BytesIO(content))[..., 3]
    assert pixels.shape[0] <= charts.ROWS and pixels.shape[1] <= charts.STEPS
    ((row, column),) = np.argwhere(pixels)
    assert row == 0  # the highest neuron is at the top
    assert column == 777 // 4


@pytest.mark.parametrize("channels", [(), (2,), (3,)])
def test_pictures_are_png(channels: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, *channels)).astype(np.uint8)
    found = matplotlib.image.imread(io.BytesIO(html.png(pixels)))
    found = np.rint(found * 255).astype(np.uint8)
    if channels == (2,):
        assert np.array_equal(found[..., 0], pixels[..., 0])
        assert np.array_equal(found[..., 3], pixels[..., 1])
    else:
        assert np.array_equal(found[..., 0] if not channels and found.ndim == 3 else found, pixels)


# --- in a browser -------------------------------------------------------------------------------

LOOK = """(() => {
  const bad = [], wide = document.documentElement.scrollWidth;
  if (wide > innerWidth) bad.push(`the page is ${wide} wide of ${innerWidth}`);
  const luminance = colour => colour.match(/[\\d.]+/g).slice(0, 3).map(Number).map(c => c / 255)
    .map(c => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = luminance(getComputedStyle(document.body).backgroundColor);
  const contrast = colour => { const a = luminance(colour), b = ground;
    return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05); };
  for (const svg of document.querySelectorAll('svg')) {
    const box = svg.getBoundingClientRect(), name = svg.querySelector('title').textContent;
    if (box.width < 200 || box.height < 30) bad.push(`${name} has no size`);
    const texts = [...svg.querySelectorAll('text')].map(t => [t, t.getBoundingClientRect()]);
    for (const [t, b] of texts) {
      if (b.left < box.left - 1 || b.right > box.right + 1 || b.top < box.top - 1
          || b.bottom > box.bottom + 1) bad.push(`${name}: ${t.textContent} is cut`);
      if (contrast(getComputedStyle(t).fill) < 4.4) bad.push(`${name}: ${t.textContent} is faint`);
      for (const [u, c] of texts) if (u !== t && b.left < c.right - 1 && c.left < b.right - 1
          && b.top < c.bottom - 3 && c.top < b.bottom - 3)
        bad.push(`${name}: ${t.textContent} on ${u.textContent}`);
    }
    for (const d of svg.querySelectorAll('path, circle, rect, image')) {
      const b = d.getBoundingClientRect();
      if (b.left < box.left - 2 || b.right > box.right + 2 || b.top < box.top - 2
          || b.bottom > box.bottom + 2) bad.push(`${name}: a ${d.tagName} is outside`);
    }
  }
  for (const e of document.querySelectorAll('p, h1, h2, h3, td, th, figcaption, .tile, summary')) {
    if (e.checkVisibility() && e.scrollWidth > e.clientWidth + 1)
      bad.push(`${e.tagName} ${e.textContent.slice(0, 60)} overflows`);
    if (e.checkVisibility() && contrast(getComputedStyle(e).color) < 4.4)
      bad.push(`${e.tagName} ${e.textContent.slice(0, 60)} is faint`);
  }
  return bad;
})()"""


@pytest.fixture(scope="module")
def shown() -> Any:
    """A browser, where there is one."""
    if browser.find() is None:
        pytest.skip("no Chromium on this machine (on Debian, package chromium)")
    with contextlib.ExitStack() as stack:
        try:
            found = stack.enter_context(browser.browser())
        except (EOFError, TimeoutError) as error:
            pytest.skip(f"{browser.find()} does not start: {error}")
        yield found


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("size", [(1100, 800), (360, 740)])
def test_in_a_browser(run: Path, shown: browser.Browser, size: tuple[int, int], dark: bool) -> None:
    shown.open(run / PAGE, *size, dark=dark)
    shown.run("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert shown.run(LOOK) == []
    # Loss, accuracy, learning rate, spikes, thresholds, memory, seconds; each line of some length.
    lengths = shown.run(
        "[...document.querySelectorAll('section:first-of-type svg')].map(svg => "
        "[...svg.querySelectorAll('path')].map(p => p.getTotalLength()))"
    )
    assert [len(paths) for paths in lengths] == [1, 2, 1, 1, 1, 1, 1]
    assert all(length > 100 for paths in lengths for length in paths)
    ground = shown.run("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(255, 255, 255)") != dark
    picture = matplotlib.image.imread(io.BytesIO(shown.screenshot()))[..., :3]
    assert picture.shape[1] == size[0] and picture.shape[0] > size[1]
    assert picture.std() > 0.05
    assert shown.errors == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("document.querySelector('svg text').textContent = 'x'.repeat(60)", "is cut"),
        ("document.querySelector('.tile b').style.cssText = 'white-space:nowrap;width:9999px'",
         "the page is"),
        ("document.querySelector('h2').style.color = '#ddd'", "is faint"),
        ("document.querySelector('svg').style.width = '9px'", "has no size"),
    ],
)  # fmt: skip
def test_the_look_finds_what_is_wrong(
    run: Path, shown: browser.Browser, change: str, words: str
) -> None:
    shown.open(run / PAGE, 1100, 800)
    shown.run(change)
    assert any(words in complaint for complaint in shown.run(LOOK))


def test_the_browser_tells_what_a_page_fetches(shown: browser.Browser, tmp_path: Path) -> None:
    bad = tmp_path / "bad.html"
    bad.write_text('<img src="elsewhere.png"><script>console.error("oh")</script>')
    shown.open(bad, 400, 400)
    assert any("elsewhere.png" in error for error in shown.errors)
    assert any("oh" in error for error in shown.errors)


def test_a_page_of_many_layers_and_epochs(
    shown: browser.Browser, tmp_path: Path, page_of: Callable[..., bytes]
) -> None:
    (tmp_path / PAGE).write_bytes(page_of(layers=12, epochs=300))
    shown.open(tmp_path / PAGE, 360, 740)
    assert shown.run(LOOK) == []
    assert shown.errors == []


@pytest.fixture
def page_of(run: Path) -> Callable[..., bytes]:
    """A page of curves alone, with numbers of every size."""

    def made(layers: int, epochs: int) -> bytes:
        from dataclasses import replace

        from cli import run_page

        metrics = tuple(
            {
                "epoch": epoch,
                "loss": 1e6 / epoch**3,
                "test_accuracy": 1 - 1 / epoch,
                "lr": 1e-5 * epoch,
                "seconds": 12345.678 * epoch,
                "peak_bytes": 123_456_789_000,
                "spike_rates": [0.1 * n / epoch for n in range(layers)],
            }
            for epoch in range(1, epochs + 1)
        )
        return run_page.page(run_page.Chapter(replace(runs.read(run), metrics=metrics)))

    return made


def test_thresholds_that_fell_are_warned_of(
    run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """In the metrics as a part of where they began; in a line of ``train``, once; in the report."""
    out = tmp_path / "fallen"
    settings = TrainConfig(
        epochs=3,
        time_steps=4,
        rule="bptt",
        hidden=(24, 16),
        lr_neuron=1e-4,
        surrogate_unit="threshold",
    )
    begun: dict[str, torch.Tensor] = {}

    def begin(self: loop._Run) -> None:
        original(self)
        vth = self.network.chain[1].neurons.vth  # type: ignore[union-attr]
        begun["vth"] = vth.detach().clone()
        vth.data.fill_(1.0)  # what a run of hours would come to

    original = loop._Run.begin
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop._Run, "begin", begin)
        train(settings, data.load("digits"), out)
    said = [line for line in capfd.readouterr().err.splitlines() if "its threshold fell" in line]
    lines = [json.loads(line) for line in (out / runs.METRICS).read_text().splitlines()]
    last = loop.restore(settings, data.load("digits"), out / "checkpoint.safetensors")
    now = float(last.chain[1].neurons.vth.detach())  # type: ignore[union-attr]
    assert lines[-1]["thresholds"][1] == pytest.approx(now / float(begun["vth"]), rel=1e-6)
    assert lines[-1]["thresholds"][2] is None
    assert 0.5 < lines[0]["thresholds"][0] < 2
    below = [row["thresholds"][1] < 0.05 for row in lines]
    assert below[0]
    (line,) = said
    part = lines[0]["thresholds"][1]
    assert line.strip() == (
        f"layer 1: its threshold fell to {part:.1%} of where it began, and gradients grow as it "
        "falls: use surrogate_unit = start, or a lower lr_neuron (0.0001)"
    )
    assert not runs.fallen(lines[0], replace(settings, surrogate_unit="start"))
    assert main(["report", str(out)]) == 0
    known = runs.read(out)
    assert known.thresholds()[1] == [row["thresholds"][1] for row in lines]
    assert (line.strip() in page(out).text) == below[-1]
    assert "its threshold fell" not in page(run).text
    assert "thresholds, 1 at the beginning" in page(run).text


def test_thresholds_that_do_not_learn_are_not_noted(tmp_path: Path) -> None:
    settings = TrainConfig(epochs=1, time_steps=2, hidden=(8,), learn_threshold=False)
    train(settings, data.load("digits"), tmp_path / "run")
    (line,) = (tmp_path / "run" / runs.METRICS).read_text().splitlines()
    assert json.loads(line)["thresholds"] == [None, None]
