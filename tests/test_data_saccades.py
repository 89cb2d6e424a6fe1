"""Simulated saccades: the model against itself written out slowly; what calls itself simulated."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from cli.main import main
from trainer import data
from trainer.data import Binning, DataError, Dataset
from trainer.data.saccades import DURATION, NOTE, Saccades, simulate


def bilinear(image, y, x):
    """Between four pixels, each looked up by itself; 0 outside."""
    total = 0.0
    for i in (math.floor(y), math.floor(y) + 1):
        for j in (math.floor(x), math.floor(x) + 1):
            if 0 <= i < image.shape[0] and 0 <= j < image.shape[1]:
                total += image[i, j] * (1 - abs(y - i)) * (1 - abs(x - j))
    return total


def slow_events(luminance, saccades, on, off):
    """The camera model, pixel by pixel: one event whenever the log luminance has moved enough."""
    path, times = saccades.path(luminance.shape)
    found = []
    for i in range(on.shape[0]):
        for j in range(on.shape[1]):
            level = [math.log(saccades.dark + bilinear(luminance, i - y, j - x)) for y, x in path]
            last = level[0]
            for s in range(1, len(level)):
                a, b = level[s - 1], level[s]
                while b > a and b - last >= on[i, j]:
                    last += on[i, j]
                    t = times[s - 1] + (last - a) / (b - a) * (times[s] - times[s - 1])
                    found.append((t, j, i, 1))
                while b < a and last - b >= off[i, j]:
                    last -= off[i, j]
                    t = times[s - 1] + (last - a) / (b - a) * (times[s] - times[s - 1])
                    found.append((t, j, i, 0))
    return found


def thresholds(saccades, size):
    """As documented: a standard deviation of ``mismatch`` between pixels, from the seed."""
    camera = np.random.Generator(np.random.PCG64([saccades.seed, 2]))
    spread = camera.standard_normal((2, *saccades.sensor(size))) * saccades.mismatch
    return saccades.threshold * (1 + spread)


def as_rows(events):
    return list(
        zip(events.t.tolist(), events.x.tolist(), events.y.tolist(), events.p.tolist(), strict=True)
    )


@pytest.mark.parametrize(
    "saccades",
    [
        Saccades(noise=0, seed=1),
        Saccades(noise=0, threshold=0.11, mismatch=0.1, amplitude=0.6, dark=0.05),
        Saccades(noise=0, threshold=0.7, amplitude=0.13),
    ],
)
def test_events_are_those_of_the_model(saccades):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (3, 7, 9)).astype(np.uint8)
    images[0, 2:5] = 0  # black beside grey
    for image, events in zip(images, simulate(images, saccades), strict=True):
        expected = slow_events(image / 255, saccades, *thresholds(saccades, (7, 9)))
        assert len(events) == len(expected) > 20
        # The same pixel's events come in the same order; clocks differ by rounding alone.
        ours = sorted(as_rows(events), key=lambda row: row[1:3])
        theirs = sorted(sorted(expected, key=lambda row: row[0]), key=lambda row: row[1:3])
        assert [row[1:] for row in ours] == [row[1:] for row in theirs]
        apart = [a[0] - b[0] for a, b in zip(ours, theirs, strict=True)]
        assert -1.001 <= min(apart) <= max(apart) <= 0.001


def test_what_goes_up_comes_down():
    """The path ends where it began: a pixel's ONs and OFFs cancel, to within a threshold."""
    images = data.load("digits").x_train[:20, 0]
    saccades = Saccades(noise=0, mismatch=0)
    for events in simulate(images, saccades, 0, 16):
        net = np.zeros(saccades.sensor((8, 8)))
        np.add.at(net, (events.y, events.x), events.p.astype(int) * 2 - 1)
        assert np.abs(net).max() <= 1
        assert (np.diff(events.t) >= 0).all()
        assert 0 <= events.t.min() < events.t.max() < DURATION


def test_the_path_is_a_triangle_within_the_sensor():
    saccades = Saccades()
    assert saccades.sensor((28, 28)) == (34, 34)  # the size of N-MNIST's frames
    path, times = saccades.path((28, 28))
    third = (len(path) - 1) // 3
    assert np.allclose(path[0], path[-1])
    assert np.allclose(np.abs(path[third] - path[0]), [5.6, 2.8])
    assert np.allclose(np.abs(path[2 * third] - path[third]), [5.6, 2.8])
    assert np.allclose(path[2 * third] - path[0], [0, 5.6])
    assert path.min() >= 0
    assert path.max() <= 34 - 28
    assert np.abs(np.diff(path, axis=0)).max() <= 0.25 + 1e-12
    assert np.allclose(times[[0, third, 2 * third, -1]], [0, 100_000, 200_000, DURATION])


def test_an_image_without_edges_is_silent():
    black = np.zeros((1, 8, 8))
    assert len(next(simulate(black, Saccades(noise=0)))) == 0
    still = np.random.default_rng(0).random((1, 8, 8)) * 255
    assert len(next(simulate(still, Saccades(noise=0, amplitude=0)))) == 0


def test_noise_is_as_frequent_as_said():
    saccades = Saccades(noise=50)
    counts = [len(events) for events in simulate(np.zeros((60, 8, 8)), saccades)]
    expected = 50 * 10 * 10 * 0.3
    assert abs(np.mean(counts) - expected) < 5 * math.sqrt(expected / 60)
    assert np.std(counts) > 0.5 * math.sqrt(expected)


def test_colours_are_averaged():
    rng = np.random.default_rng(1)
    colour = rng.integers(0, 256, (2, 3, 8, 8)).astype(np.uint8)
    for ours, grey in zip(
        simulate(colour, Saccades()), simulate(colour.mean(axis=1), Saccades()), strict=True
    ):
        assert as_rows(ours) == as_rows(grey)


class TestDataset:
    def test_is_deterministic_whatever_else_is_made(self, tmp_path):
        whole = data.load("saccades:digits,steps=4,train=60,test=30", tmp_path / "a")
        again = data.load("saccades:digits,steps=4,train=60,test=30", tmp_path / "b")
        assert np.array_equal(whole.x_train, again.x_train)
        assert np.array_equal(whole.x_test, again.x_test)
        digits = data.load("digits")
        # A sample is the same alone: noise goes with its number in the set.
        number = 100
        alone = next(
            simulate(
                digits.x_test[number : number + 1],
                Saccades(),
                0,
                16,
                part=1,
                numbers=np.array([number]),
            )
        )
        full = data.load("saccades:digits,steps=4,train=1", tmp_path / "a")
        binning = Binning(4, "time", 75_000)
        assert np.array_equal(full.x_test[number], binning.counts(alone, (10, 10), 0))
        assert np.array_equal(full.y_test, digits.y_test)

    @pytest.mark.parametrize("change", ["seed=1", "threshold=0.4", "noise=9", "mismatch=0.2"])
    def test_settings_decide(self, tmp_path, change):
        name = "saccades:digits,train=5,test=5"
        first, other = data.load(name, tmp_path), data.load(f"{name},{change}", tmp_path)
        assert first.x_train.shape == (5, 16, 2, 10, 10)
        assert not np.array_equal(first.x_train, other.x_train)

    def test_frames_cover_the_three_saccades(self, tmp_path):
        """Windows of 300 ms / T, however T divides: no event is left out."""
        images = data.load("digits").x_train[:5]
        for steps in (1, 7, 16, 300_000):
            binning = Binning(steps, "time", -(-DURATION // steps))
            for events in simulate(images, Saccades(), 0, 16):
                assert binning.counts(events, (10, 10), 0).sum() == len(events)
        name = "saccades:digits,train=9,test=1,noise=200"
        every, few = (data.load(f"{name},steps={steps}", tmp_path) for steps in (7001, 1))
        assert every.x_train.sum() == few.x_train.sum() > 9 * 6000

    def test_calls_itself_simulated(self, tmp_path):
        found = data.load("saccades:digits,train=3,test=3", tmp_path)
        assert found.name == "digits-saccades (simulated)"
        assert NOTE in found.notes
        assert "simulated" in next((tmp_path / "cache").glob("digits*")).name

    def test_other_images_of_the_same_name_are_not_mixed_up(self, tmp_path):
        rng = np.random.default_rng(0)
        made = []
        for k in (0, 1):
            (tmp_path / str(k)).mkdir()
            x = rng.integers(0, 256, (4, 1, 6, 6)).astype(np.uint8)
            path = tmp_path / str(k) / "own.npz"
            np.savez(path, x_train=x, y_train=np.arange(4) % 2, x_test=x, y_test=np.arange(4) % 2)
            made.append(data.load(f"saccades:{path},noise=0", tmp_path))
        assert not np.array_equal(made[0].x_train, made[1].x_train)

    def test_needs_images(self, tmp_path):
        x = np.zeros((4, 5), np.uint8)
        path = tmp_path / "own.npz"
        np.savez(path, x_train=x, y_train=np.arange(4) % 2, x_test=x, y_test=np.arange(4) % 2)
        with pytest.raises(DataError, match=r"own: saccades need images \[N, C, H, W\], found"):
            data.load(f"saccades:{path},steps=3", tmp_path)
        with pytest.raises(DataError, match="saccades need images"):
            next(simulate(x, Saccades()))


class TestSave:
    @pytest.fixture
    def few(self):
        rng = np.random.default_rng(0)
        x = rng.integers(0, 256, (6, 2, 2, 3, 3)).astype(np.uint8)
        y = np.arange(6) % 2
        return Dataset("some", x, y, x[:2], y[:2], 0, 255, 2, ("simulated: by me", "a\nb"))

    def test_what_is_written_is_read(self, few, tmp_path):
        data.save(tmp_path / "a.npz", few)
        found = data.load(str(tmp_path / "a.npz"))
        for name in ("x_train", "y_train", "x_test", "y_test"):
            assert np.array_equal(getattr(found, name), getattr(few, name))
        assert found.notes == ("simulated: by me", "a", "b")
        with np.load(tmp_path / "a.npz", allow_pickle=False) as file:  # as anyone reads it
            assert "simulated: by me" in str(file["about"])

    def test_the_same_data_are_the_same_bytes(self, few, tmp_path):
        data.save(tmp_path / "a.npz", few)
        data.save(tmp_path / "b.npz", few)
        assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
        (tmp_path / "any").touch()  # readable by whom any other file is
        assert (tmp_path / "a.npz").stat().st_mode == (tmp_path / "any").stat().st_mode

    def test_where_it_cannot_be(self, few, tmp_path):
        for path, words in (
            ("a.npy", "with the suffix .npz"),
            ("no/a.npz", "no is no folder"),
            ("f.npz", "is a folder"),
        ):
            (tmp_path / "f.npz").mkdir(exist_ok=True)
            with pytest.raises(DataError, match=words):
                data.save(tmp_path / path, few)
        assert [path.name for path in tmp_path.iterdir()] == ["f.npz"]

    def test_a_full_disk_leaves_what_was_there(self, few, tmp_path, monkeypatch):
        (tmp_path / "a.npz").write_bytes(b"old")

        def full(*_, **__):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(np.lib.format, "write_array", full)
        with pytest.raises(DataError, match=r"a\.npz: cannot be written: No space left"):
            data.save(tmp_path / "a.npz", few)
        assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]
        assert (tmp_path / "a.npz").read_bytes() == b"old"


class TestCommand:
    @pytest.fixture(autouse=True)
    def root(self, tmp_path, monkeypatch):
        monkeypatch.setenv("PUMICE_DATA", str(tmp_path / "data"))

    def test_writes_what_train_takes(self, tmp_path, capfd):
        out = tmp_path / "digits.npz"
        words = ("data", "saccades", "digits", "--out", str(out), "--steps", "5", "--seed", "3")
        assert main([*words, "--train-samples", "40", "--test-samples", "20"]) == 0
        said, _ = capfd.readouterr()
        assert "digits-saccades (simulated)" in said
        assert NOTE in said
        found = data.load(str(out))
        assert found.x_train.shape == (40, 5, 2, 10, 10)
        expected = data.load("saccades:digits,steps=5,seed=3,train=40,test=20")
        assert np.array_equal(found.x_train, expected.x_train)
        assert found.notes == expected.notes
        example = next(line for line in said.splitlines() if line.startswith("next"))
        command = [*example.split()[2:], "--model", "12", "--epochs", "1"]
        assert command[:3] == ["train", "--data", str(out)]
        assert main([*command, "--out", str(tmp_path / "run")]) == 0
        assert (tmp_path / "run" / "model.net").exists()

    def test_json(self, tmp_path, capfd):
        out = tmp_path / "digits.npz"
        words = ("data", "saccades", "digits", "--out", str(out), "--train-samples", "5", "--json")
        assert main(list(words)) == 0
        answer = json.loads(capfd.readouterr().out)
        assert answer["simulated"] is True
        assert answer["name"] == "digits-saccades (simulated)"
        assert answer["train"] == [5, 16, 2, 10, 10]
        assert answer["test"] == [397, 16, 2, 10, 10]  # all there are

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (("saccades", "digits", "--out", "no/a.npz"), "no is no folder: make it first"),
            (("saccades", "digits", "--out", "a.npy"), "name it with the suffix .npz"),
            (("saccades", "digits", "--out", "a.npz", "--steps", "0"), "steps=0: expected"),
            (("saccades", "digits", "--out", "a.npz", "--threshold", "0"), "threshold is 0.0"),
            (("saccades", "imagenet", "--out", "a.npz"), "no data called 'imagenet'"),
            (("saccades", "shd", "--out", "a.npz"), "shd is not here"),
            (("show", "digits,steps=3"), "digits has no setting 'steps'"),
            (("show", "tonic:SHD"), "is not downloaded: put shd_train.h5 and shd_test.h5"),
        ],
    )
    def test_refuses(self, tmp_path, monkeypatch, capfd, words, said):
        monkeypatch.chdir(tmp_path)
        assert main(["data", *words]) == 1
        out, err = capfd.readouterr()
        assert out == ""
        assert "Traceback" not in err
        assert said in err.splitlines()[-1]
        assert not list(tmp_path.glob("a.*"))

    def test_show(self, tmp_path, capfd):
        assert main(["data", "show", "saccades:digits,train=4,test=3,steps=2", "--json"]) == 0
        answer = json.loads(capfd.readouterr().out)
        assert answer["train"] == [4, 2, 2, 10, 10]
        assert answer["notes"][0] == NOTE
        assert main(["data", "show", "digits"]) == 0
        said = capfd.readouterr().out
        assert "[1400, 1, 8, 8] uint8" in said
        assert "0 to 16" in said

    def test_list(self, tmp_path, capfd):
        data.load("saccades:digits,train=4,test=3,steps=2")
        assert main(["data", "list"]) == 0
        said = capfd.readouterr().out
        for name in (*data.NAMES[:-1], "saccades:digits", "FILE.npz", "cache"):
            assert name in said
        assert str(tmp_path / "data" / "cache") in said

    def test_every_command_has_help_with_an_example(self, capfd):
        for name in ("fetch", "list", "show", "saccades"):
            assert main(["data", name, "--help"]) == 0
            assert f"Example: pumice data {name}" in capfd.readouterr().out
