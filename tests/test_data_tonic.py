"""Event sets through tonic, where it is installed, on small files in the published layouts."""

from __future__ import annotations

import struct
import sys

import numpy as np
import pytest
from test_data_events import slow_counts, write_nmnist, write_shd

from trainer import data
from trainer.data import Binning, DataError, Events, through_tonic

LOCAL = through_tonic.LAYOUTS


class TestWithout:
    """What is said where there is no tonic, and where there are no files."""

    @pytest.mark.parametrize("name", LOCAL)
    def test_says_what_to_put_where(self, tmp_path, name):
        with pytest.raises(DataError) as error:
            data.load(f"tonic:{name}", tmp_path)
        line = str(error.value)
        assert "is not downloaded: put" in line
        assert line.endswith(f"into {tmp_path / name}")

    def test_says_how_to_install_it(self, tmp_path, monkeypatch):
        write_nmnist(tmp_path / "NMNIST", train=1)
        monkeypatch.setitem(sys.modules, "tonic", None)
        monkeypatch.setitem(sys.modules, "tonic.datasets", None)
        with pytest.raises(DataError, match=r'tonic cannot be imported .* "pumice\[events\]"'):
            data.load("tonic:NMNIST", tmp_path)

    def test_the_list_says_what_is_missing(self, tmp_path, monkeypatch):
        write_nmnist(tmp_path / "NMNIST", train=1)
        monkeypatch.setattr(through_tonic, "installed", lambda: False)
        lines = {line.name: line for line in data.listing(tmp_path)}
        assert not lines["tonic:NMNIST"].here
        assert 'pip install "pumice[events]"' in lines["tonic:NMNIST"].where
        assert lines["nmnist"].here  # the same files, read by us
        monkeypatch.setattr(through_tonic, "installed", lambda: True)
        lines = {line.name: line for line in data.listing(tmp_path)}
        assert lines["tonic:NMNIST"].here
        assert not lines["tonic:SHD"].here

    def test_another_root(self, tmp_path):
        with pytest.raises(DataError, match=f"into {tmp_path / 'there' / 'SHD'}"):
            data.load(f"tonic:SHD,root={tmp_path / 'there'}")


@pytest.fixture
def tonic():
    return pytest.importorskip("tonic")


@pytest.fixture
def no_network(monkeypatch):
    import socket

    def never(*_, **__):
        raise AssertionError("something asked for the network")

    monkeypatch.setattr(socket.socket, "connect", never)


@pytest.mark.usefixtures("tonic", "no_network")
class TestNmnist:
    @pytest.mark.parametrize(
        "settings", ["steps=6,window=50ms", "by=count,steps=4,down=2", "binary=1,train=10,test=9"]
    )
    def test_agrees_with_our_own_reader(self, tmp_path, settings):
        write_nmnist(tmp_path / "NMNIST", train=3, test=2)
        bad = tmp_path / "NMNIST" / "Train" / "2" / "00001.bin"  # with overflows of the clock
        bad.write_bytes(bad.read_bytes()[:50] + b"\0\xf0\0\0\0" + bad.read_bytes()[50:])
        theirs = data.load(f"tonic:NMNIST,{settings}", tmp_path)
        ours = data.load(f"nmnist,{settings}", tmp_path)
        for name in ("x_train", "y_train", "x_test", "y_test"):
            assert np.array_equal(getattr(theirs, name), getattr(ours, name))
        assert (theirs.classes, theirs.high) == (ours.classes, ours.high)
        assert ours.x_train.any()

    def test_half_a_set_is_not_completed(self, tmp_path):
        write_nmnist(tmp_path / "NMNIST", test=0)
        with pytest.raises(DataError, match="NMNIST is not here, and is not downloaded"):
            data.load("tonic:NMNIST", tmp_path)

    def test_a_damaged_recording(self, tmp_path):
        write_nmnist(tmp_path / "NMNIST")
        bad = tmp_path / "NMNIST" / "Test" / "2" / "00000.bin"
        bad.write_bytes(b"\xff" * 7)
        with pytest.raises(DataError, match="tonic's NMNIST"):
            data.load("tonic:NMNIST", tmp_path)


@pytest.mark.usefixtures("tonic", "no_network")
class TestShd:
    def test_agrees_with_our_own_reader(self, tmp_path):
        write_shd(tmp_path / "SHD")
        theirs = data.load("tonic:SHD,steps=10,window=100ms,down=7", tmp_path)
        ours = data.load("shd,steps=10,window=100ms,down=7", tmp_path)
        assert theirs.x_train.shape == (12, 10, 100)
        for name in ("x_train", "y_train", "x_test", "y_test"):
            assert np.array_equal(getattr(theirs, name), getattr(ours, name))

    def test_labels_out_of_range(self, tmp_path):
        write_shd(tmp_path / "SHD", labels={"test": np.full(5, 20)})
        with pytest.raises(DataError, match=r"label 20 of recording 0 is not 0\.\.19"):
            data.load("tonic:SHD", tmp_path)


@pytest.mark.usefixtures("tonic", "no_network")
class TestGesture:
    def write(self, root):
        """tonic's own version of it: x, y, p, milliseconds in an array [n, 4] a gesture."""
        rng = np.random.default_rng(0)
        made = {}
        for part, users in (("Train", ("user01", "user02")), ("Test", ("user24",))):
            for user in users:
                folder = root / "DVSGesture" / f"ibmGesture{part}" / f"{user}_fluorescent_led"
                folder.mkdir(parents=True)
                for label in (0, 3, 10):
                    t = np.sort(rng.integers(500, 1500, 400))
                    x, y = rng.integers(0, 128, (2, 400))
                    events = np.stack([x, y, rng.integers(0, 2, 400), t], axis=1)
                    np.save(folder / f"{label}.npy", events)
                    made[part, user, label] = events
        return made

    def test_a_set(self, tmp_path):
        made = self.write(tmp_path)
        found = data.load("tonic:DVSGesture,steps=8", tmp_path)
        assert found.x_train.shape == (6, 8, 2, 32, 32)
        assert found.x_test.shape == (3, 8, 2, 32, 32)
        binning = Binning(8, "time", 20_000, 4)
        # In the order of the paths: user01's 0, 10, 3, then user02's.
        assert found.y_train.tolist() == [0, 10, 3] * 2
        keys = [("Train", user, label) for user in ("user01", "user02") for label in (0, 10, 3)]
        for x, key in zip(found.x_train, keys, strict=True):
            a = made[key]
            events = Events(a[:, 0], a[:, 1], a[:, 3] * 1000, a[:, 2])
            expected = slow_counts(events, binning, (128, 128), None)
            assert np.array_equal(x, expected > 0)

    def test_windows_below_its_resolution(self, tmp_path):
        self.write(tmp_path)
        with pytest.raises(DataError, match="times in steps of 1000 µs: a longer window"):
            data.load("tonic:DVSGesture,window=500us", tmp_path)


def aedat4(events):
    """An AEDAT 4 file of one uncompressed packet: flatbuffers, laid out by hand."""
    xml = (
        b'<dv version="2.0"><node name="outInfo" path="/mainloop/Recorder/outInfo/">'
        b'<node name="0" path="/mainloop/Recorder/outInfo/0/">'
        b'<attr key="compression" type="string">NONE</attr>'
        b'<attr key="originalModuleName" type="string">camera</attr>'
        b'<attr key="originalOutputName" type="string">events</attr>'
        b'<attr key="typeDescription" type="string">events</attr>'
        b'<attr key="typeIdentifier" type="string">EVTS</attr>'
        b'<node name="info" path="/mainloop/Recorder/outInfo/0/info/">'
        b'<attr key="sizeX" type="int">128</attr><attr key="sizeY" type="int">128</attr>'
        b'<attr key="source" type="string">DVS128</attr></node></node></node></dv>'
    )
    # Root, identifier; field offsets of the header's table; the table: no compression, no table of
    # packets, the text.
    head = struct.pack("<I4s5H2x", 20, b"IOHE", 10, 24, 4, 8, 16)
    head += struct.pack("<iiqII", 12, 0, -1, 8, 0)
    head += struct.pack("<I", len(xml)) + xml + b"\0"
    # The same of a packet: its one field is a vector of structures of 16 bytes.
    body = struct.pack("<I4s3H2xiIII", 16, b"EVTS", 6, 8, 4, 8, 8, 0, len(events))
    body += b"".join(struct.pack("<qhhB3x", t, x, y, p) for x, y, t, p in events)
    packet = struct.pack("<I", len(body)) + body
    header = b"#!AER-DAT4.0\r\n" + struct.pack("<I", len(head)) + head
    return header + struct.pack("<iI", 0, len(packet)) + packet


@pytest.mark.usefixtures("tonic", "no_network")
class TestCifar10Dvs:
    @pytest.fixture(autouse=True)
    def decoder(self):
        pytest.importorskip("aedat")

    def write(self, root, each=10):
        rng = np.random.default_rng(0)
        made = {}
        for label, name in enumerate(through_tonic.CIFAR10_CLASSES[:3]):
            folder = root / "CIFAR10DVS" / name
            folder.mkdir(parents=True)
            for number in range(each):
                x, y = rng.integers(0, 128, (2, 60)).tolist()
                t = (np.sort(rng.integers(0, 30_000, 60)) + 1605537493718345).tolist()
                events = list(zip(x, y, t, rng.integers(0, 2, 60).tolist(), strict=True))
                (folder / f"cifar10_{name}_{number}.aedat4").write_bytes(aedat4(events))
                made[label, number] = Events(*(np.array(a) for a in zip(*events, strict=True)))
        return made

    def test_a_set_split_nine_to_one(self, tmp_path):
        made = self.write(tmp_path)
        found = data.load("tonic:CIFAR10DVS,steps=6", tmp_path)
        assert found.x_train.shape == (27, 6, 2, 32, 32)
        assert np.bincount(found.y_test).tolist() == [1, 1, 1]
        assert found.notes == (
            "no published split: 3 of 30 recordings, a tenth of every class, drawn with seed 0, "
            "are the test set",
        )
        binning = Binning(6, "time", 5_000, 4)
        expected = [
            (label, (slow_counts(events, binning, (128, 128), None) > 0).tobytes())
            for (label, _), events in made.items()
        ]
        frames = [*found.x_train, *found.x_test]
        labels = [*found.y_train, *found.y_test]
        ours = [(int(y), x.astype(bool).tobytes()) for x, y in zip(frames, labels, strict=True)]
        assert sorted(ours) == sorted(expected)

    def test_the_split_is_the_same_every_time(self, tmp_path):
        for place in ("a", "b"):
            self.write(tmp_path / place)
        first, second = (data.load("tonic:CIFAR10DVS", tmp_path / place) for place in ("a", "b"))
        assert np.array_equal(first.x_test, second.x_test)

    def test_too_few_and_unknown_classes(self, tmp_path):
        self.write(tmp_path, each=1)
        with pytest.raises(DataError, match="3 recordings: too few to split 9 to 1"):
            data.load("tonic:CIFAR10DVS", tmp_path)
        (tmp_path / "CIFAR10DVS" / "bird").rename(tmp_path / "CIFAR10DVS" / "unicorn")
        with pytest.raises(DataError, match="unicorn is no class of CIFAR10-DVS"):
            data.load("tonic:CIFAR10DVS", tmp_path)

    def test_a_damaged_recording(self, tmp_path):
        self.write(tmp_path)
        path = next((tmp_path / "CIFAR10DVS").rglob("*_7.aedat4"))
        path.write_bytes(path.read_bytes()[:200])
        with pytest.raises(DataError, match=r"CIFAR10DVS: recording .* cannot be read") as e:
            data.load("tonic:CIFAR10DVS", tmp_path)
        assert "\n" not in str(e.value)

    def test_no_decoder(self, tmp_path, monkeypatch):
        self.write(tmp_path)
        monkeypatch.setitem(sys.modules, "aedat", None)
        with pytest.raises(DataError, match=r"needs more: .*aedat.*; pip install it"):
            data.load("tonic:CIFAR10DVS", tmp_path)
