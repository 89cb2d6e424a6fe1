"""The cache of what took long to make: found again, whole, by everyone, and rebuilt if damaged."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from trainer.data import DataError, cache

ROOT = Path(__file__).resolve().parent.parent


class Builder:
    """Builds two arrays, and counts how often."""

    def __init__(self):
        self.built = 0
        self.x = np.arange(60, dtype=np.uint8).reshape(10, 2, 3)

    def __call__(self, writer):
        self.built += 1
        writer.add("x", self.x.shape, np.uint8, (self.x[at : at + 4] for at in range(0, 10, 4)))
        writer.add("y", (10,), np.int64, [np.arange(10)])
        return {"said": ["something", 3]}


@pytest.fixture
def build():
    return Builder()


def entry_of(root):
    """The one entry there is; what is being built begins with a dot."""
    (place,) = (path for path in (root / "cache").glob("[!.]*") if path.is_dir())
    return place


def test_is_built_once_and_opened_as_memory_maps(tmp_path, build):
    for _ in range(3):
        entry = cache.cached(tmp_path, "My set: a/b", {"steps": 3}, build)
        assert isinstance(entry.arrays["x"], np.memmap)
        assert not entry.arrays["x"].flags.writeable
        assert np.array_equal(entry.arrays["x"], build.x)
        assert np.array_equal(entry.arrays["y"], np.arange(10))
        assert entry.about == {"said": ["something", 3]}
    assert build.built == 1
    assert entry_of(tmp_path).name.startswith("my-set-a-b-")


def test_other_settings_are_another_entry(tmp_path, build, monkeypatch):
    for identity in ({"steps": 3}, {"steps": 4}, {"steps": 3, "more": None}):
        cache.cached(tmp_path, "a", identity, build)
    assert build.built == 3
    monkeypatch.setattr(cache, "FORMAT", cache.FORMAT + 1)
    cache.cached(tmp_path, "a", {"steps": 3}, build)
    assert build.built == 4


def test_stamps_see_name_size_and_time(tmp_path):
    path = tmp_path / "sub" / "a"
    path.parent.mkdir()
    path.write_bytes(b"123")
    os.utime(path, ns=(5, 7_000_000_001))
    assert cache.stamps([path], tmp_path) == [["sub/a", 3, 7_000_000_001]]
    os.utime(path, ns=(5, 7_000_000_002))
    assert cache.stamps([path], tmp_path) == [["sub/a", 3, 7_000_000_002]]


def flip(path, at):
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def shorten(path):
    path.write_bytes(path.read_bytes()[:-1])


def other_identity(path):
    entry = json.loads(path.read_text())
    entry["identity"]["steps"] = 4
    path.write_text(json.dumps(entry))


@pytest.mark.parametrize(
    "damage",
    [
        lambda place: flip(place / "x.npy", -1),
        lambda place: flip(place / "x.npy", 0),
        lambda place: flip(place / "x.npy", 60),  # in the header
        lambda place: flip(place / "y.npy", 129),
        lambda place: shorten(place / "x.npy"),
        lambda place: (place / "y.npy").write_bytes(b""),
        lambda place: (place / "x.npy").unlink(),
        lambda place: np.save(place / "x.npy", np.arange(60, dtype=np.uint8)),
        lambda place: np.save(place / "y.npy", np.array([{}], dtype=object), allow_pickle=True),
        lambda place: (place / "entry.json").unlink(),
        lambda place: shorten(place / "entry.json"),
        lambda place: (place / "entry.json").write_text("[]"),
        lambda place: (place / "entry.json").write_bytes(b"\xff\xfe"),
        lambda place: other_identity(place / "entry.json"),
    ],
)
def test_a_damaged_entry_is_built_again(tmp_path, build, damage):
    first = cache.cached(tmp_path, "a", {"steps": 3}, build)
    before = np.array(first.arrays["x"])
    del first
    damage(entry_of(tmp_path))
    entry = cache.cached(tmp_path, "a", {"steps": 3}, build)
    assert build.built == 2
    assert np.array_equal(entry.arrays["x"], before)
    assert np.array_equal(entry.arrays["y"], np.arange(10))
    cache.cached(tmp_path, "a", {"steps": 3}, build)
    assert build.built == 2


def test_who_has_a_damaged_entry_open_keeps_what_it_has(tmp_path, build):
    first = cache.cached(tmp_path, "a", {}, build)
    (entry_of(tmp_path) / "y.npy").unlink()
    cache.cached(tmp_path, "a", {}, build)
    assert np.array_equal(first.arrays["x"], build.x)


@pytest.mark.parametrize(
    ("name", "shape", "parts"),
    [
        ("x", (3, 2), [np.zeros((2, 2))]),
        ("x", (3, 2), [np.zeros((4, 2))]),
        ("x", (3, 2), [np.zeros((3, 3))]),
    ],
)
def test_a_builder_that_does_not_do_what_it_said(tmp_path, name, shape, parts):
    with pytest.raises(ValueError, match=name):
        cache.cached(tmp_path, "a", {}, lambda writer: writer.add(name, shape, np.uint8, parts))
    assert not [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]


def test_a_builder_that_fails_leaves_nothing(tmp_path, build):
    def fails(writer):
        build(writer)
        raise DataError("the recording is damaged")

    with pytest.raises(DataError, match="the recording is damaged"):
        cache.cached(tmp_path, "a", {}, fails)
    assert not [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]
    cache.cached(tmp_path, "a", {}, build)


def test_an_error_in_a_source_is_not_taken_for_one_of_the_cache(tmp_path):
    def reads(writer):
        writer.add("x", (1, 1), np.uint8, (np.array([[len(Path(p).read_bytes())]]) for p in ["no"]))

    with pytest.raises(FileNotFoundError):
        cache.cached(tmp_path, "a", {}, reads)


def test_a_folder_that_cannot_be(tmp_path, build):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot be written: Not a directory; PUMICE_DATA names"):
        cache.cached(tmp_path / "file", "a", {}, build)


def test_no_room(tmp_path, build, monkeypatch):
    usage = cache.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda _: usage._replace(free=59))
    with pytest.raises(DataError, match=r"0\.0 GB are needed and 0\.0 GB free: take fewer steps"):
        cache.cached(tmp_path, "a", {}, build)
    assert not [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]


CHILD = """
import sys, time, numpy as np
from pathlib import Path
from trainer.data import cache
root, pause = Path(sys.argv[1]), float(sys.argv[2])

def parts():
    for k in range(5):
        print("part", flush=True)
        time.sleep(pause / 5)
        yield np.full((1, 3), k, dtype=np.uint8)

def build(writer):
    with (root / "log").open("a") as log:
        log.write("built\\n")
    writer.add("x", (5, 3), np.uint8, parts())
    return {}

entry = cache.cached(root, "a", {"k": 1}, build)
assert np.array_equal(entry.arrays["x"], np.repeat(np.arange(5), 3).reshape(5, 3))
"""


def child(root, pause):
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(root), str(pause)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_of_several_builders_one_builds_and_the_others_wait(tmp_path):
    children = [child(tmp_path, 0.5) for _ in range(3)]
    for each in children:
        with each:
            each.communicate(timeout=100)
        assert each.returncode == 0
    assert (tmp_path / "log").read_text() == "built\n"


def test_what_a_killed_builder_left_is_removed(tmp_path):
    with child(tmp_path, 1000) as killed:
        assert killed.stdout.readline() == "part\n"
        killed.send_signal(signal.SIGKILL)
    left = [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]
    assert len(left) == 1
    with child(tmp_path, 0) as after:
        after.communicate(timeout=100)
    assert after.returncode == 0
    (entry,) = (path for path in (tmp_path / "cache").iterdir() if path.is_dir())
    assert entry not in left


@pytest.mark.parametrize("locks", [True, False])
def test_without_locks_whoever_is_first_is_kept(tmp_path, build, monkeypatch, locks):
    """A second builder comes and goes while the first is at work."""
    if locks:  # the lock is held by this process: as if it did not hold across machines
        monkeypatch.setattr(cache.fcntl, "flock", lambda *_: None)
    else:

        def none(*_):
            raise OSError("no locks here")

        monkeypatch.setattr(cache.fcntl, "flock", none)
    inner = Builder()
    seen, first = [], []

    def outer(writer):
        with contextlib.ExitStack() as stack:
            if locks:
                stack.enter_context(pytest.MonkeyPatch.context()).setattr(
                    cache, "_sweep", lambda _: None
                )
            seen.append(cache.cached(tmp_path, "a", {}, inner))
            first.append((entry_of(tmp_path) / "x.npy").stat().st_ino)
        return build(writer)

    entry = cache.cached(tmp_path, "a", {}, outer)
    assert first == [(entry_of(tmp_path) / "x.npy").stat().st_ino]
    assert (inner.built, build.built) == (1, 1)
    assert np.array_equal(entry.arrays["x"], build.x)
    assert np.array_equal(seen[0].arrays["x"], build.x)
    assert np.array_equal(cache.cached(tmp_path, "a", {}, build).arrays["x"], build.x)
    assert build.built == 1


def test_bytes_in_use(tmp_path, build):
    assert cache.used(tmp_path) == 0
    cache.cached(tmp_path, "a", {}, build)
    place = entry_of(tmp_path)
    assert cache.used(tmp_path) == sum(path.stat().st_size for path in place.iterdir())
    assert time.time() - place.stat().st_mtime < 100
