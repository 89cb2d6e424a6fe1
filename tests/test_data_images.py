"""Images as their authors publish them: CIFAR's binary files, IDX folders; names and settings."""

from __future__ import annotations

import gzip
import io
import tarfile
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_data import idx

from trainer import data
from trainer.data import DataError, cifar
from trainer.data.dataset import stratified
from trainer.data.names import Options, microseconds, split_settings

# --- CIFAR ---------------------------------------------------------------------------------------


def records(rng, count, *classes):
    """A file of CIFAR: label bytes, then 3072 of pixels; and what is in it."""
    labels = np.stack([rng.integers(0, n, count) for n in classes], axis=1).astype(np.uint8)
    pixels = rng.integers(0, 256, (count, 3072)).astype(np.uint8)
    return np.concatenate([labels, pixels], axis=1).tobytes(), labels, pixels


@pytest.fixture
def small(monkeypatch):
    """Lets the published files have four records each."""
    for name, layout in cifar.LAYOUTS.items():
        few = [dict.fromkeys(part, 4) for part in (layout.train, layout.test)]
        monkeypatch.setitem(cifar.LAYOUTS, name, replace(layout, train=few[0], test=few[1]))


@pytest.fixture
def cifar10(small):
    """The six files by name, and their labels and pixels in order."""
    rng = np.random.default_rng(0)
    layout = cifar.LAYOUTS["cifar10"]
    made = {file: records(rng, 4, 10) for file in (*layout.train, *layout.test)}
    return made


def write(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, (content, *_) in files.items():
        (folder / name).write_bytes(content)
    return folder


def pack(path, inside, files):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as tar:
        for name, (content, *_) in files.items():
            member = tarfile.TarInfo(f"{inside}/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def check_cifar10(found, made):
    made = list(made.values())
    for x, y, parts in (
        (found.x_train, found.y_train, made[:5]),
        (found.x_test, found.y_test, made[5:]),
    ):
        assert x.shape == (4 * len(parts), 3, 32, 32)
        assert x.dtype == np.uint8
        assert y.dtype == np.int64
        assert np.array_equal(y, np.concatenate([labels[:, 0] for _, labels, _ in parts]))
        pixels = np.concatenate([pixels for *_, pixels in parts])
        # The red plane comes first, then green, then blue; each goes row by row.
        for n, c, i, j in ((0, 0, 0, 0), (1, 1, 0, 5), (3, 2, 7, 31), (2, 0, 31, 0)):
            assert x[n, c, i, j] == pixels[n, c * 1024 + i * 32 + j]
    assert (found.low, found.high, found.classes) == (0, 255, 10)


class TestCifar:
    def test_from_the_data_folder(self, cifar10, tmp_path):
        write(tmp_path / "cifar10", cifar10)
        check_cifar10(data.load("cifar10", tmp_path), cifar10)

    def test_from_the_folder_that_the_archive_unpacks_to(self, cifar10, tmp_path):
        write(tmp_path / "cifar10" / "cifar-10-batches-bin", cifar10)
        check_cifar10(data.load("cifar10", tmp_path), cifar10)

    def test_from_the_archive(self, cifar10, tmp_path):
        pack(tmp_path / "cifar10" / "cifar-10-binary.tar.gz", "cifar-10-batches-bin", cifar10)
        check_cifar10(data.load("cifar10", tmp_path), cifar10)
        assert len(list(tmp_path.rglob("*"))) == 2  # nothing unpacked

    def test_by_path(self, cifar10, tmp_path):
        folder = write(tmp_path / "any", cifar10)
        archive = pack(tmp_path / "cifar-10-binary.tar.gz", "cifar-10-batches-bin", cifar10)
        check_cifar10(data.load(str(folder)), cifar10)
        check_cifar10(data.load(str(archive)), cifar10)

    def test_fine_and_coarse_labels_of_cifar100(self, small, tmp_path):
        rng = np.random.default_rng(1)
        made = {file: records(rng, 4, 20, 100) for file in ("train.bin", "test.bin")}
        write(tmp_path / "cifar100", made)
        _, labels, pixels = made["train.bin"]
        fine = data.load("cifar100", tmp_path)
        assert np.array_equal(fine.y_train, labels[:, 1])
        assert np.array_equal(fine.x_train.reshape(4, -1), pixels)
        assert fine.classes == 100
        coarse = data.load("cifar100,labels=coarse", tmp_path)
        assert np.array_equal(coarse.y_train, labels[:, 0])
        assert (coarse.classes, coarse.name) == (20, "cifar100 (coarse)")

    @pytest.mark.parametrize("change", [-1, 1, 3073])
    @pytest.mark.parametrize("archived", [False, True])
    def test_refuses_another_length(self, cifar10, tmp_path, change, archived):
        content = cifar10["data_batch_3.bin"][0]
        content = content[:change] if change < 0 else content + bytes(change)
        files = cifar10 | {"data_batch_3.bin": (content,)}
        if archived:
            path = tmp_path / "cifar-10-binary.tar.gz"
            pack(path, "cifar-10-batches-bin", files)
        else:
            path = write(tmp_path / "x", files)
        words = rf"data_batch_3.bin holds {12292 + change} bytes, CIFAR-10's has 12292 \(4 records"
        with pytest.raises(DataError, match=words):
            data.load(str(path))

    @pytest.mark.parametrize(
        ("name", "classes", "at", "words"),
        [
            ("cifar10", [10], 2 * 3073, "holds fine label 10 in record 2, CIFAR-10's are 0..9"),
            ("cifar100", [20, 100], 3074, "holds coarse label 20 in record 1, .* 0..19"),
            ("cifar100", [20, 100], 3075, "holds fine label 100 in record 1, .* 0..99"),
        ],
    )
    def test_refuses_labels_out_of_range(self, small, tmp_path, name, classes, at, words):
        layout = cifar.LAYOUTS[name]
        rng = np.random.default_rng(0)
        made = {file: records(rng, 4, *classes) for file in (*layout.train, *layout.test)}
        last = list(made)[-1]
        content = bytearray(made[last][0])
        content[at] = int(words.split("label ")[1].split()[0])
        write(tmp_path / name, made | {last: (bytes(content),)})
        with pytest.raises(DataError, match=words):
            data.load(name, tmp_path)

    def test_a_file_missing(self, cifar10, tmp_path):
        del cifar10["data_batch_4.bin"]
        folder = write(tmp_path / "x", cifar10)
        archive = pack(tmp_path / "cifar-10-binary.tar.gz", "cifar-10-batches-bin", cifar10)
        for path in (folder, archive):
            with pytest.raises(DataError, match=r"lacks data_batch_4\.bin of CIFAR-10's binary"):
                data.load(str(path))

    def test_the_python_version_is_not_read(self, small, tmp_path):
        """It is a pickle: no file of it is looked at."""
        write(tmp_path / "cifar10", {"data_batch_1": (b"\x80\x04.",), "test_batch": (b"",)})
        with pytest.raises(DataError, match="CIFAR-10 is not here"):
            data.load("cifar10", tmp_path)

    @pytest.mark.parametrize("keep", [0, 10, -3000])
    def test_half_an_archive(self, cifar10, tmp_path, keep):
        path = tmp_path / "cifar-10-binary.tar.gz"
        pack(path, "cifar-10-batches-bin", cifar10)
        path.write_bytes(path.read_bytes()[:keep])
        with pytest.raises(DataError, match=r"tar\.gz is not a whole archive of CIFAR-10"):
            data.load(str(path))

    def test_says_what_to_put_where(self, tmp_path):
        with pytest.raises(DataError) as error:
            data.load("cifar100", tmp_path)
        assert "put cifar-100-binary.tar.gz (the binary version)" in str(error.value)
        assert f"into {tmp_path / 'cifar100'}" in str(error.value)

    def test_published_lengths(self):
        """As the data sets' page has them: 10,000 records a file, 50,000 in CIFAR-100's train."""
        sizes = {
            file: count * layout.record
            for layout in cifar.LAYOUTS.values()
            for file, count in (layout.train | layout.test).items()
        }
        assert sizes["data_batch_1.bin"] == sizes["test_batch.bin"] == 30_730_000
        assert (sizes["train.bin"], sizes["test.bin"]) == (153_700_000, 30_740_000)


# --- IDX folders ---------------------------------------------------------------------------------


def four(rng, names, classes=3, first=0, shapes=((7, 5, 4), (7,), (3, 5, 4), (3,))):
    arrays = [rng.integers(0, 256, shape) for shape in shapes]
    arrays[1] = np.arange(7) % classes + first
    arrays[3] = np.arange(3) % classes + first
    return {name: (idx(array), array) for name, array in zip(names, arrays, strict=True)}


KMNIST = data.IDX_FILES
EMNIST = [f"emnist-letters-{part}" for part in KMNIST]
EMNIST = [name.replace("t10k", "test") for name in EMNIST]


class TestIdxFolder:
    @pytest.mark.parametrize("names", [KMNIST, EMNIST, [n.replace("-idx", ".idx") for n in KMNIST]])
    @pytest.mark.parametrize("compress", [False, True])
    def test_by_path(self, tmp_path, names, compress):
        files = four(np.random.default_rng(0), names)
        for name, (content, _) in files.items():
            path = tmp_path / (f"{name}.gz" if compress else name)
            path.write_bytes(gzip.compress(content) if compress else content)
        found = data.load(str(tmp_path))
        arrays = [array for _, array in files.values()]
        assert np.array_equal(found.x_train[:, 0], arrays[0])
        assert np.array_equal(found.y_train, arrays[1])
        assert np.array_equal(found.x_test[:, 0], arrays[2])
        assert np.array_equal(found.y_test, arrays[3])
        assert (found.classes, found.low, found.high) == (3, 0, 255)

    def test_one_of_several_sets(self, tmp_path):
        letters = four(np.random.default_rng(0), EMNIST)
        digits = four(np.random.default_rng(1), [n.replace("letters", "digits") for n in EMNIST])
        write(tmp_path, letters | digits)
        with pytest.raises(DataError, match=r"several data sets, name one of .*emnist-digits"):
            data.load(str(tmp_path))
        found = data.load(str(tmp_path / "emnist-digits"))
        assert np.array_equal(found.x_train[:, 0], next(iter(digits.values()))[1])
        assert found.name == "emnist-digits"

    def test_labels_that_count_from_one(self, tmp_path):
        """As EMNIST's letters do."""
        write(tmp_path, four(np.random.default_rng(0), KMNIST, first=1))
        with pytest.raises(DataError, match=r"its labels are 1\.\.3: name it as .*,first_label=1"):
            data.load(str(tmp_path))
        found = data.load(f"{tmp_path},first_label=1")
        assert np.array_equal(found.y_train, np.arange(7) % 3)
        assert found.classes == 3
        with pytest.raises(DataError, match="y_train holds label -1"):
            data.load(f"{tmp_path},first_label=2")

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({KMNIST[0]: (idx(np.zeros((7, 20))),)}, r"images \[N, H, W\] .* found \[7, 20\]"),
            ({KMNIST[1]: (idx(np.zeros(6)),)}, "7 samples in x_train, 6 labels"),
            ({KMNIST[2]: (idx(np.zeros((3, 4, 5))),)}, r"\[1, 5, 4\], x_test of \[1, 4, 5\]"),
            ({KMNIST[3]: (idx(np.array([0, 1, 3])),)}, "y_test holds label 3, out of range"),
            ({KMNIST[1]: (idx(np.full(7, 8)),)}, "y_train holds label 8, out of range for 7"),
        ],
    )
    def test_refuses(self, tmp_path, change, words):
        write(tmp_path, four(np.random.default_rng(0), KMNIST) | change)
        with pytest.raises(DataError, match=words) as error:
            data.load(str(tmp_path))
        assert str(tmp_path) in str(error.value)

    def test_three_of_four(self, tmp_path):
        files = four(np.random.default_rng(0), KMNIST)
        del files[KMNIST[1]]
        write(tmp_path, files)
        with pytest.raises(DataError, match=f"{tmp_path} lacks {KMNIST[1]}"):
            data.load(str(tmp_path))

    def test_some_folder(self, tmp_path):
        with pytest.raises(DataError, match="holds no known data set"):
            data.load(str(tmp_path))


# --- names and settings --------------------------------------------------------------------------


class TestNames:
    @pytest.mark.parametrize(
        ("text", "name", "settings"),
        [
            ("digits", "digits", {}),
            ("nmnist,steps=20,window=5ms", "nmnist", {"steps": "20", "window": "5ms"}),
            ("/a,b/c", "/a,b/c", {}),
            ("/a=1,b/c,steps=3", "/a=1,b/c", {"steps": "3"}),
            ("x,root=/d=e", "x", {"root": "/d=e"}),
        ],
    )
    def test_settings_come_after_the_name(self, text, name, settings):
        assert split_settings(text) == (name, settings)

    @pytest.mark.parametrize(
        ("name", "words"),
        [
            ("nmnist,steps=1,steps=2", "steps is there twice"),
            ("digits,steps=3", "digits has no setting 'steps': it takes none"),
            ("saccades:digits,step=3", "no setting 'step': it takes by, window, steps, down"),
            ("saccades:digits,steps=0", r"steps=0: expected a whole number, 1\.\.65536"),
            ("saccades:digits,steps=1.5", "steps=1.5: expected a whole number"),
            ("saccades:digits,by=chance", "by=chance: use time or count"),
            ("saccades:digits,by=count,window=3ms", "by=count has no window"),
            ("saccades:digits,binary=yes", "binary=yes: use 0 or 1"),
            ("saccades:digits,threshold=x", "threshold=x: expected a number"),
            ("saccades:digits,threshold=nan", "threshold is nan: use 0.01"),
            ("saccades:digits,dark=0", "dark is 0.0: use 0.001"),
            ("saccades:digits,train=1401", r"train is 1401: there are 1400 samples"),
            ("saccades:shd", "no images called 'shd' for saccades: use digits, mnist"),
            ("tonic:Nope", "no data called 'tonic:Nope': use tonic:NMNIST, tonic:DVSGesture"),
            ("cifar10,labels=fine", "cifar10 has no setting 'labels'"),
            ("cifar100,labels=rough", "labels=rough: use fine or coarse"),
            ("nmnist,window=20", "expected a time with its unit, as in 20ms or 500us"),
        ],
    )
    def test_refuses(self, tmp_path, name, words):
        with pytest.raises(DataError, match=words) as error:
            data.load(name, tmp_path)
        assert "\n" not in str(error.value)
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize(
        ("text", "expected"),
        [("20ms", 20_000), ("500us", 500), ("1.5s", 1_500_000), ("0.5ms", 500)],
    )
    def test_times(self, text, expected):
        assert microseconds(text) == expected

    @pytest.mark.parametrize("text", ["0ms", "0.5us", "-1ms", "1e9s", "ms", "1 ms", "99999s"])
    def test_refuses_times(self, text):
        with pytest.raises(ValueError, match="expected a time"):
            microseconds(text)

    def test_a_setting_that_is_known_is_taken_once(self):
        options = Options("x", {"a": "1"})
        assert options.take("a", int, 0) == 1
        assert options.take("b", int, 7) == 7
        options.end()

    def test_the_list_names_all(self, tmp_path):
        lines = {line.name: line for line in data.listing(tmp_path)}
        images = [name for name in data.NAMES if ":" not in name]
        assert set(images) <= set(lines)
        assert lines["digits"].here
        assert not lines["nmnist"].here
        assert "put" not in lines["cifar10"].where
        assert str(tmp_path / "cifar10") in lines["cifar10"].where
        assert lines["saccades:digits"].here
        assert not lines["saccades:cifar10"].here

    def test_the_list_sees_what_is_here(self, cifar10, tmp_path):
        write(tmp_path / "cifar10", cifar10)
        lines = {line.name: line for line in data.listing(tmp_path)}
        assert lines["cifar10"].here
        assert lines["saccades:cifar10"].here


# --- a part for validation -----------------------------------------------------------------------


class TestHoldOut:
    @given(
        st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(0, 60), st.integers(0, 9)
    )
    def test_every_class_gives_its_share(self, labels, count, seed):
        y = np.array(labels)
        count = min(count, len(y))
        chosen = stratified(y, count, seed)
        assert len(set(chosen.tolist())) == len(chosen) == count
        assert (np.diff(chosen) > 0).all()
        share = np.bincount(y, minlength=5) * count / len(y)
        assert (np.abs(np.bincount(y[chosen], minlength=5) - share) < 1).all()

    def test_the_two_parts_are_the_training_set(self):
        digits = data.load("digits")
        found = data.hold_out(digits, 0.2, seed=3)
        assert (len(found.y_train), len(found.y_test)) == (1120, 280)
        both = np.concatenate([found.x_train, found.x_test]).reshape(1400, -1)
        labels = np.concatenate([found.y_train, found.y_test])
        ours = np.column_stack([both, labels])
        theirs = np.column_stack([digits.x_train.reshape(1400, -1), digits.y_train])
        assert sorted(ours.tolist()) == sorted(theirs.tolist())
        assert "280 training samples held out" in found.notes[-1]
        assert found.split("test")[0] is found.x_test
        assert (found.low, found.high, found.classes) == (0, 16, 10)

    def test_the_seed_decides(self):
        digits = data.load("digits")
        first, same, other = (data.hold_out(digits, 0.1, seed) for seed in (1, 1, 2))
        assert np.array_equal(first.x_test, same.x_test)
        assert not np.array_equal(first.x_test, other.x_test)

    def test_a_memory_map_stays_one(self, tmp_path):
        x = np.arange(600 * 6, dtype=np.uint8).reshape(600, 2, 3)
        np.save(tmp_path / "x.npy", x)
        mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
        y = np.arange(600) % 3
        whole = data.Dataset("m", mapped, y, mapped[:9], y[:9], 0, 255, 3)
        plain = replace(whole, x_train=x)
        found, expected = (data.hold_out(d, 0.5) for d in (whole, plain))
        assert isinstance(found.x_train, np.memmap)
        assert isinstance(found.x_test, np.memmap)
        assert np.array_equal(found.x_train, expected.x_train)
        assert np.array_equal(found.x_test, expected.x_test)
        assert np.array_equal(found.y_train, expected.y_train)

    @pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5, float("nan"), 1e-9, 1 - 1e-9])
    def test_refuses_nothing_and_everything(self, fraction):
        with pytest.raises(DataError, match="leaves nothing to train on or nothing to validate"):
            data.hold_out(data.load("digits"), fraction)
