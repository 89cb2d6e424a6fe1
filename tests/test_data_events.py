"""Event streams: binned to frames, and read from the files in which they are published."""

from __future__ import annotations

import struct

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer import data
from trainer.data import Binning, DataError, Events, recordings
from trainer.data.recordings import read_aedat31, read_nmnist

# --- binning -------------------------------------------------------------------------------------


def slow_counts(events, binning, size, start):
    """The definition, an event at a time, in plain Python."""
    height, width = size
    rows, columns = -(-height // binning.down), -(-width // binning.down)
    frames = np.zeros((binning.steps, 2, rows, columns), dtype=np.int64)
    lines = sorted(
        zip(
            *(np.asarray(a).tolist() for a in (events.t, events.x, events.y, events.p)), strict=True
        ),
        key=lambda line: line[0],
    )
    if start is None:
        start = lines[0][0] if lines else 0
    for number, (t, x, y, p) in enumerate(lines):
        if binning.by == "count":
            step = next(
                k for k in range(binning.steps) if number < (k + 1) * len(lines) // binning.steps
            )
        elif t < start:
            continue
        else:
            step = (t - start) // binning.window
            if step >= binning.steps:
                continue
        frames[step, int(p), y // binning.down, x // binning.down] += 1
    return frames


@st.composite
def streams(draw):
    size = (draw(st.integers(1, 9)), draw(st.integers(1, 9)))
    n = draw(st.integers(0, 60))
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    origin = draw(st.sampled_from([0, 1605537493718345]))
    events = Events(
        rng.integers(0, size[1], n).astype(np.uint8),
        rng.integers(0, size[0], n).astype(np.uint16),
        # Equal times are common at this resolution, and must not matter.
        (rng.integers(0, 40, n) * 25 + origin).astype(np.uint64),
        rng.integers(0, 2, n).astype(bool),
    )
    return events, size, origin


@settings(max_examples=150, deadline=None)
@given(
    streams(),
    st.integers(1, 8),
    st.sampled_from(["time", "count"]),
    st.integers(1, 400),
    st.integers(1, 4),
    st.sampled_from([None, 0, 130]),
)
def test_counts_are_what_counting_gives(stream, steps, by, window, down, start):
    events, size, origin = stream
    binning = Binning(steps, by, window, down)
    start = None if start is None else origin + start
    found = binning.counts(events, size, start)
    if by == "count":
        # Which of two events of one time comes first is the recording's order, kept.
        order = np.argsort(events.t, kind="stable")
        events = Events(events.x[order], events.y[order], events.t[order], events.p[order])
    assert np.array_equal(found, slow_counts(events, binning, size, start))


@settings(max_examples=60, deadline=None)
@given(streams(), st.integers(1, 8))
def test_slices_of_equal_counts_hold_every_event(stream, steps):
    events, size, _ = stream
    counts = Binning(steps, "count").counts(events, size)
    each = counts.reshape(steps, -1).sum(axis=1)
    assert each.sum() == len(events)
    assert each.max() - each.min() <= 1


def test_downsampling_sums():
    rng = np.random.default_rng(0)
    events = Events(
        rng.integers(0, 34, 3000),
        rng.integers(0, 34, 3000),
        rng.integers(0, 9000, 3000),
        rng.integers(0, 2, 3000),
    )
    full = Binning(9, "time", 1000).counts(events, (34, 34), 0)
    half = Binning(9, "time", 1000, down=2).counts(events, (34, 34), 0)
    assert np.array_equal(half, full.reshape(9, 2, 17, 2, 17, 2).sum(axis=(3, 5)))
    odd = Binning(9, "time", 1000, down=5).counts(events, (34, 34), 0)
    assert odd.shape == (9, 2, 7, 7)
    assert odd.sum() == full.sum()


def test_more_than_255_events_are_clipped_and_counted():
    n = 300
    events = Events(*(np.zeros(n, dtype=np.int64) for _ in range(4)))
    binning = Binning(1, "time", 10)
    frames, over = binning.frames(binning.counts(events, (2, 2)))
    assert (frames.dtype, frames.max(), over) == (np.uint8, 255, 1)
    binary = Binning(1, "time", 10, binary=True)
    frames, over = binary.frames(binary.counts(events, (2, 2)))
    assert (frames.sum(), over, binary.high) == (1, 0, 1)
    exact = Events(*(np.zeros(255, dtype=np.int64) for _ in range(4)))
    assert binning.frames(binning.counts(exact, (2, 2)))[1] == 0


@pytest.mark.parametrize(
    ("x", "y", "p", "words"),
    [
        (4, 0, 0, "event 1 is at x = 4, y = 0, outside a sensor of 4x3"),
        (0, 3, 0, "event 1 is at x = 0, y = 3"),
        (-1, 0, 0, "event 1 is at x = -1"),
        (0, 0, 2, "event 1 has polarity 2: use 0 and 1"),
    ],
)
def test_events_off_the_sensor(x, y, p, words):
    events = Events(*(np.array([0, a]) for a in (x, y, 0, p)))
    with pytest.raises(DataError, match=words):
        Binning(1, "time", 1).counts(events, (3, 4))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"window": 0}, "window is 0 µs"),
        ({"by": "chance"}, "by time or by count, not by 'chance'"),
        ({"down": 0}, "down is 0"),
    ],
)
def test_binnings_that_are_none(changes, words):
    with pytest.raises(DataError, match=words):
        Binning(**({"steps": 1, "window": 1} | changes))


def test_arrays_that_are_no_events():
    a = np.zeros(3, dtype=int)
    with pytest.raises(DataError, match="of one length"):
        Events(a, a, a, a[:2])
    with pytest.raises(DataError, match="whole numbers"):
        Events(a, a, a / 2, a)
    kind = np.dtype([("x", "<i2"), ("y", "<i2"), ("t", "<i8")])
    with pytest.raises(DataError, match="lack the field p: found x, y, t"):
        Events.of(np.zeros(3, dtype=kind))
    titled = np.zeros(3, dtype=[*kind.descr, (("p", "on"), "?")])
    titled["on"][1] = True
    assert Events.of(titled).p.tolist() == [False, True, False]


# --- N-MNIST -------------------------------------------------------------------------------------


def nmnist_bytes(events):
    """By the format's definition: x, y, then 1 bit of polarity and 23 of time, big-endian."""
    return b"".join(bytes([x, y]) + (p << 23 | t).to_bytes(3, "big") for x, y, t, p in events)


def random_events(rng, n=200, last=300_000, size=34):
    t = np.sort(rng.integers(0, last, n))
    return list(
        zip(
            rng.integers(0, size, n).tolist(),
            rng.integers(0, size, n).tolist(),
            t.tolist(),
            rng.integers(0, 2, n).tolist(),
            strict=True,
        )
    )


def as_tuples(events):
    return list(
        zip(
            *(np.asarray(a).tolist() for a in (events.x, events.y, events.t, events.p)), strict=True
        )
    )


def write_nmnist(folder, train=2, test=1):
    """``train`` and ``test`` recordings of each digit; the events by (part, digit, number)."""
    rng = np.random.default_rng(7)
    made = {}
    for part, count in (("Train", train), ("Test", test)):
        for digit in range(10):
            place = folder / part / str(digit)
            place.mkdir(parents=True)
            for number in range(count):
                events = random_events(rng, 50 + digit)
                made[part, digit, number] = events
                (place / f"{number:05}.bin").write_bytes(nmnist_bytes(events))
    return made


class TestNmnist:
    def test_reads(self):
        events = random_events(np.random.default_rng(0), last=2**23)
        assert as_tuples(read_nmnist(nmnist_bytes(events), "x")) == events

    def test_overflows_of_the_clock(self):
        raw = [(1, 2, 5, 1), (0, 240, 0, 0), (3, 4, 6, 0), (9, 240, 0, 1), (5, 6, 7, 1)]
        found = as_tuples(read_nmnist(nmnist_bytes(raw), "x"))
        assert found == [(1, 2, 5, 1), (3, 4, 6 + 8192, 0), (5, 6, 7 + 16384, 1)]

    def test_a_set(self, tmp_path):
        made = write_nmnist(tmp_path / "nmnist")
        found = data.load("nmnist,steps=6,window=50ms", tmp_path)
        assert found.x_train.shape == (20, 6, 2, 34, 34)
        assert found.x_test.shape == (10, 6, 2, 34, 34)
        assert found.y_train.tolist() == [digit for digit in range(10) for _ in range(2)]
        assert (found.low, found.high, found.classes) == (0, 255, 10)
        assert found.sample_shape(in_time=True) == (2, 34, 34)
        binning = Binning(6, "time", 50_000)
        for row, key in ((0, ("Train", 0, 0)), (7, ("Train", 3, 1)), (19, ("Train", 9, 1))):
            events = Events(*(np.array(a) for a in zip(*made[key], strict=True)))
            assert np.array_equal(found.x_train[row], slow_counts(events, binning, (34, 34), 0))
        by_path = data.load(f"{tmp_path / 'nmnist'},steps=6,window=50ms", tmp_path)
        assert np.array_equal(by_path.x_test, found.x_test)

    def test_some_of_it_from_every_class(self, tmp_path):
        write_nmnist(tmp_path / "nmnist", train=3)
        whole = data.load("nmnist,steps=2,window=9ms", tmp_path)
        found = data.load("nmnist,steps=2,window=9ms,train=10,test=5", tmp_path)
        assert np.bincount(found.y_train).tolist() == [1] * 10
        assert len(found.x_test) == len(found.y_test) == 5
        for x, y in zip(found.x_train, found.y_train, strict=True):
            assert any(np.array_equal(x, each) for each in whole.x_train[whole.y_train == y])

    def test_settings_come_through(self, tmp_path):
        write_nmnist(tmp_path / "nmnist")
        found = data.load("nmnist,steps=4,by=count,down=2,binary=1", tmp_path)
        assert found.x_train.shape == (20, 4, 2, 17, 17)
        assert (found.x_train.max(), found.high) == (1, 1)

    def test_progress(self, tmp_path):
        write_nmnist(tmp_path / "nmnist")
        said = []
        data.load("nmnist", tmp_path, on_progress=lambda *counts: said.append(counts))
        assert said == [(k, 30) for k in range(1, 31)]
        data.load("nmnist", tmp_path, on_progress=lambda *counts: said.append(counts))
        assert len(said) == 30  # the second time there is nothing to do

    def test_a_clipped_count_is_said(self, tmp_path):
        write_nmnist(tmp_path / "nmnist", train=1, test=1)
        content = nmnist_bytes([(1, 1, 0, 0)] * 300 + [(1, 2, 0, 0)] * 256)
        (tmp_path / "nmnist" / "Test" / "4" / "00000.bin").write_bytes(content)
        found = data.load("nmnist", tmp_path)
        assert found.notes == ("2 counts over 255 were clipped to 255",)
        assert data.load("nmnist", tmp_path).notes == found.notes  # from the cache as well
        assert data.load("nmnist,binary=1", tmp_path).notes == ()

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            (b"\0" * 7, "holds 7 bytes, no multiple of 5: it is truncated"),
            (nmnist_bytes([(0, 0, 0, 0), (34, 1, 0, 0)]), "event 1 is at x = 34, y = 1, outside"),
        ],
    )
    def test_refuses(self, tmp_path, content, words):
        write_nmnist(tmp_path / "nmnist")
        bad = tmp_path / "nmnist" / "Train" / "5" / "00001.bin"
        bad.write_bytes(content)
        with pytest.raises(DataError, match=f"00001.bin.*{words}"):
            data.load("nmnist", tmp_path)
        assert not list((tmp_path / "cache").glob("nmnist*"))

    def test_a_part_is_empty(self, tmp_path):
        write_nmnist(tmp_path / "nmnist", test=0)
        with pytest.raises(DataError, match="Test holds no recordings"):
            data.load("nmnist", tmp_path)

    def test_says_what_to_put_where(self, tmp_path):
        with pytest.raises(DataError) as error:
            data.load("nmnist", tmp_path)
        assert f"Train/0..9 and Test/0..9 of .bin files into {tmp_path / 'nmnist'}" in str(
            error.value
        )


# --- SHD -----------------------------------------------------------------------------------------


def write_shd(folder, train=12, test=5, **changes):
    """The published layout; what the recordings are."""
    rng = np.random.default_rng(3)
    folder.mkdir(parents=True, exist_ok=True)
    made = {}
    for part, count in (("train", train), ("test", test)):
        with h5py.File(folder / f"shd_{part}.h5", "w") as file:
            labels = (np.arange(count) * 7 % 20).astype(np.uint16)
            times = [np.sort(rng.random(30 + n)).astype(np.float16) for n in range(count)]
            units = [rng.integers(0, 700, 30 + n).astype(np.uint16) for n in range(count)]
            made[part] = (times, units, labels)
            for name, rows, kind in (("times", times, np.float16), ("units", units, np.uint16)):
                ragged = h5py.vlen_dtype(kind)
                stored = file.create_dataset(f"spikes/{name}", (count,), dtype=ragged)
                for n, row in enumerate(rows):
                    stored[n] = changes.get(name, {}).get((part, n), row)
            file["labels"] = changes.get("labels", {}).get(part, labels)
            file["extra/speaker"] = np.zeros(count, dtype=np.uint16)
            file["extra/keys"] = np.array([f"d{k}" for k in range(20)], dtype="S4")
    return made


class TestShd:
    def test_a_set(self, tmp_path):
        made = write_shd(tmp_path / "shd")
        found = data.load("shd,steps=10,window=100ms", tmp_path)
        assert found.x_train.shape == (12, 10, 700)
        assert (found.classes, found.sample_shape(in_time=True)) == (20, (700,))
        for part, x, y in (
            ("train", found.x_train, found.y_train),
            ("test", found.x_test, found.y_test),
        ):
            times, units, labels = made[part]
            assert y.tolist() == labels.tolist()
            for n in range(len(y)):
                expected = np.zeros((10, 700), dtype=int)
                for t, unit in zip(times[n].astype(float), units[n], strict=True):
                    if int(t * 1e6) < 1_000_000:
                        expected[int(t * 1e6) // 100_000, unit] += 1
                assert np.array_equal(x[n], expected)

    def test_fewer_channels(self, tmp_path):
        write_shd(tmp_path / "SHD")
        full = data.load("shd,steps=10,window=100ms", tmp_path).x_train
        fewer = data.load("shd,steps=10,window=100ms,down=5", tmp_path).x_train
        assert np.array_equal(fewer, full.reshape(12, 10, 140, 5).sum(axis=3))

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"labels": {"test": np.full(5, 20)}}, "test.h5: label 20 of recording 0 is not 0..19"),
            ({"labels": {"train": np.zeros(11, int)}}, "are not lists of one length"),
            ({"labels": {"train": np.zeros(12)}}, "are not lists of one length"),
            (
                {"units": {("train", 3): np.full(33, 700)}},
                "train.h5: recording 3: spike 0 is of channel 700 of 700",
            ),
            ({"units": {("test", 2): np.zeros(9)}}, "recording 2 has times that do not fit"),
            ({"times": {("test", 1): np.full(31, np.nan)}}, "recording 1 has times that do not"),
        ],
    )
    def test_refuses(self, tmp_path, changes, words):
        write_shd(tmp_path / "shd", **changes)
        with pytest.raises(DataError, match=words):
            data.load("shd", tmp_path)

    def test_files_that_are_not_it(self, tmp_path):
        write_shd(tmp_path / "shd")
        path = tmp_path / "shd" / "shd_test.h5"
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
        with pytest.raises(DataError, match=r"shd_test\.h5 is not a whole HDF5 file"):
            data.load("shd", tmp_path)
        with h5py.File(path, "w") as file:
            file["labels"] = np.zeros(3)
        with pytest.raises(DataError, match="lacks spikes/times, spikes/units: it is not SHD"):
            data.load("shd", tmp_path)
        path.unlink()
        with pytest.raises(DataError, match=r"shd is not here: put shd_train\.h5"):
            data.load("shd", tmp_path)

    @pytest.mark.parametrize(
        ("what", "words"),
        [
            ("import time; time.sleep(60)", "is damaged: HDF5 does not get through it in 1 s"),
            ("import os; os.abort()", r"is damaged: HDF5 fails on it \(SIGABRT\)"),
        ],
    )
    def test_a_file_that_hangs_or_crashes_hdf5(self, tmp_path, monkeypatch, what, words):
        write_shd(tmp_path / "shd")
        monkeypatch.setattr(recordings, "_TRY", what)
        monkeypatch.setattr(recordings, "DEADLINE", 1.0)
        with pytest.raises(DataError, match=words):
            data.load("shd", tmp_path)


# --- DVS-Gesture ---------------------------------------------------------------------------------


def aedat31(packets, end=True):
    """By the format's definition. A packet: its overflow, its events (x, y, t, p), invalid ones."""
    content = b"#!AER-DAT3.1\r\n#Format: RAW\r\n#Source 1: DVS128\r\n"
    content += b"#!END-HEADER\r\n" if end else b"#Start-Time: 2016-07-05 15:52:28\r\n"
    for overflow, events, *rest in packets:
        invalid, kind = rest or ((), 1)
        n = len(events)
        content += struct.pack("<hhiiiiii", kind, 1, 8, 4, overflow, n, n, n - len(invalid))
        for number, (x, y, t, p) in enumerate(events):
            word = x << 17 | y << 2 | p << 1 | (number not in invalid)
            content += struct.pack("<Ii", word, t)
    return content


def write_gestures(folder, recordings=("user01_lab", "user02_led"), tables=None):
    """Two recordings, the first for training; their events."""
    rng = np.random.default_rng(11)
    folder.mkdir(parents=True)
    made = {}
    for name in recordings:
        events = random_events(rng, 4000, 3_000_000, 128)
        made[name] = events
        packets = [(0, events[at : at + 300]) for at in range(0, len(events), 300)]
        (folder / f"{name}.aedat").write_bytes(aedat31(packets))
        table = (tables or {}).get(name, "1,100000,1300000\n11,1500000,2900000\n")
        (folder / f"{name}_labels.csv").write_text("class,startTime_usec,endTime_usec\n" + table)
    (folder / "trials_to_train.txt").write_text(f"{recordings[0]}.aedat\n\n")
    (folder / "trials_to_test.txt").write_text(f"{recordings[1]}.aedat\r\n")
    return made


class TestGesture:
    @pytest.mark.parametrize("end", [True, False])
    def test_reads(self, end):
        events = random_events(np.random.default_rng(0), 700, 2**31 - 1, 128)
        packets = [(0, events[:300]), (0, events[300:])]
        assert as_tuples(read_aedat31(aedat31(packets, end), "x")) == events

    def test_overflows_invalid_events_and_other_packets(self):
        events = [(1, 2, 5, 1), (127, 0, 6, 0), (0, 127, 2**31 - 1, 1)]
        content = aedat31([(0, events), (1, events, (1,), 1), (0, events, (), 0)])
        late = [(x, y, t + 2**31, p) for x, y, t, p in (events[0], events[2])]
        assert as_tuples(read_aedat31(content, "x")) == events + late

    def test_a_set(self, tmp_path):
        made = write_gestures(tmp_path / "dvs-gesture")
        found = data.load("dvs-gesture,steps=30,binary=0", tmp_path)
        assert found.x_train.shape == (2, 30, 2, 32, 32)
        assert (found.y_train.tolist(), found.y_test.tolist(), found.classes) == (
            [0, 10],
            [0, 10],
            11,
        )
        binning = Binning(30, "time", 20_000, 4)
        for x, name in ((found.x_train, "user01_lab"), (found.x_test, "user02_led")):
            for row, (begin, end) in enumerate([(100_000, 1_300_000), (1_500_000, 2_900_000)]):
                cut = [event for event in made[name] if begin <= event[2] < end]
                events = Events(*(np.array(a) for a in zip(*cut, strict=True)))
                assert np.array_equal(x[row], slow_counts(events, binning, (128, 128), begin))

    def test_a_gesture_ends_where_its_table_says(self, tmp_path):
        made = write_gestures(tmp_path / "g", tables={"user01_lab": "3,0,1000000\n"})
        found = data.load(f"{tmp_path / 'g'},steps=2,window=1s,binary=0", tmp_path)
        before = sum(t < 1_000_000 for *_, t, _ in made["user01_lab"])
        assert found.x_train[0, 0].sum() == before
        assert found.x_train[0, 1].sum() == 0

    def test_usual_settings_are_tt_lbps(self, tmp_path):
        write_gestures(tmp_path / "dvs-gesture")
        found = data.load("dvs-gesture", tmp_path)
        assert found.x_train.shape[1] == 60
        assert found.x_train.max() == 1
        other = data.load("dvs-gesture,window=20ms", tmp_path)
        assert np.array_equal(found.x_train, other.x_train)

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            (b"#!AER-DAT2.0\r\n", "is not an AEDAT 3.1 file"),
            (b"#!AER-DAT3.1\r\n#no end", "its header does not end"),
            (aedat31([(0, [(1, 1, 1, 1)])])[:-1], "is truncated at byte .*: 1 events are promised"),
            (aedat31([(0, [])])[:-1], "is truncated at byte .*: in a packet's header"),
            (aedat31([]) + b"\1\0\1\0" + b"\0" * 24, "is damaged: no packet begins at byte 6"),
            (aedat31([]) + struct.pack("<hhiiiiii", 1, 1, 8, 4, 0, -3, 0, 0), "is damaged"),
            (aedat31([]) + struct.pack("<hhiiiiii", 1, 1, 8, 4, 0, 2, 3, 0), "is damaged"),
            (aedat31([]) + struct.pack("<hhiiiiii", 1, 1, 12, 4, 0, 0, 0, 0), "is damaged"),
        ],
    )
    def test_refuses_damaged_recordings(self, content, words):
        with pytest.raises(DataError, match=words):
            read_aedat31(content, "x.aedat")

    @pytest.mark.parametrize(
        ("table", "words"),
        [
            ("12,0,5\n", "labels.csv, line 2: 12,0,5 is no gesture"),
            ("1,0,5\n0,0,5\n", "line 3: 0,0,5 is no gesture"),
            ("1,5,5\n", "1,5,5 is no gesture"),
            ("1,5\n", "line 2: expected class,begin,end"),
            ("a,b,c\n", "line 2: expected class,begin,end"),
            ("", "leads to no gestures"),
        ],
    )
    def test_refuses_tables(self, tmp_path, table, words):
        write_gestures(tmp_path / "g", tables={"user01_lab": table})
        with pytest.raises(DataError, match=words):
            data.load(str(tmp_path / "g"), tmp_path)

    def test_names_outside_the_folder(self, tmp_path):
        write_gestures(tmp_path / "g")
        (tmp_path / "g" / "trials_to_test.txt").write_text("../g/user02_led.aedat\n")
        with pytest.raises(DataError, match="which is not a file beside it"):
            data.load(str(tmp_path / "g"), tmp_path)

    def test_a_recording_is_missing(self, tmp_path):
        write_gestures(tmp_path / "g")
        (tmp_path / "g" / "user02_led.aedat").unlink()
        with pytest.raises(DataError, match=r"user02_led\.aedat does not exist"):
            data.load(str(tmp_path / "g"), tmp_path)
        (tmp_path / "g" / "user01_lab_labels.csv").unlink()
        with pytest.raises(DataError, match=r"user01_lab_labels\.csv does not exist"):
            data.load(str(tmp_path / "g"), tmp_path)
