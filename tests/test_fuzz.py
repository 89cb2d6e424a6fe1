"""Damaged `.net` files: never a crash, never a hang, never another network without a word.

`make soak` tries ten thousand; a small share is part of every test run. Files are read in a child
process, because what would crash is the HDF5 library.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import h5py
import lava_jobs
import numpy as np
import pytest

from lava_export import damage as file_damage
from lava_export import netx, seal
from lava_export.netx import reader as netx_reader
from loihi import (
    INTEGRATOR,
    ComplexDense,
    Conv,
    Dense,
    Edge,
    Encoding,
    Inject,
    Layer,
    Network,
    Neuron,
    PumiceError,
    Resonator,
)

COUNT = int(os.environ.get("PUMICE_FUZZ", "300"))
SECONDS = 10
"""For a single file, on a busy machine."""


def originals() -> list[Network]:
    """A network in netx's form, and two in ours."""
    rng = np.random.default_rng(0)
    chain = Network(
        (2, 6, 6),
        (
            Layer(Inject(), Neuron(dv=123, vth=80)),
            Layer(
                Conv(2 * rng.integers(-20, 20, (3, 2, 3, 3)), padding=1), Neuron(bias=[1, -2, 3])
            ),
            Layer(
                Dense(2 * rng.integers(-120, 120, (7, 108)), rng.integers(0, 9, (7, 108))), Neuron()
            ),
            Layer(Dense(2 * rng.integers(-120, 120, (4, 7))), INTEGRATOR),
        ),
        Encoding("graded", 5, (0, 254), 0.0, 255.0),
    )
    back = Edge(Dense(2 * rng.integers(-20, 20, (7, 7))), (1,))
    branched = Network(
        (5,),
        (
            Layer(Dense(2 * rng.integers(-120, 120, (7, 5))), Neuron(reset="soft")),
            Layer(Dense(2 * rng.integers(-120, 120, (7, 7))), Neuron(), more=(back,)),
            Layer(Dense(2 * rng.integers(-120, 120, (3, 7))), INTEGRATOR, (0, 1)),
        ),
        Encoding("rate", 6, low=0.0, high=1.0),
    )
    parts = (2 * rng.integers(-20, 20, (4, 5)) for _ in range(2))
    resonators = Layer(ComplexDense(*parts), Resonator(50, 900, 3900))
    return [chain, branched, Network((5,), (resonators,), Encoding("events", 4))]


def damage(image: bytes, rng: np.random.Generator) -> bytes:
    """Bits flipped, a stretch overwritten or left out, the end cut off, or all of it noise."""
    kind = rng.integers(0, 6)
    if kind == 0:
        return image[: rng.integers(0, len(image))]
    data = np.frombuffer(image, dtype=np.uint8).copy()
    if kind == 1:
        at, size = rng.integers(0, len(data)), rng.integers(1, 200)
        data[at : at + size] = rng.integers(0, 256)
    elif kind == 2:
        at, size = rng.integers(0, len(data)), rng.integers(1, 200)
        data = np.delete(data, slice(at, at + size))
    else:  # most often in what describes the file, not in its arrays
        reach = len(data) if kind == 3 else min(len(data), 4096)
        for at in rng.integers(0, reach, rng.integers(1, 9)):
            data[at] ^= 1 << rng.integers(0, 8)
    return data.tobytes()


def other_types(path: Path, rng: np.random.Generator) -> None:
    """A dataset or an attribute of the file, any, becomes of another type or shape."""
    values = [
        np.array([]),
        np.zeros((0, 3)),
        3.5,
        -1,
        2**40,
        "text",
        b"bytes",
        np.nan,
        np.array([b"dense", b"conv"], dtype="S5"),
        np.zeros((2, 2, 2, 2, 2, 2)),
        np.zeros(3, dtype=np.complex64),
        np.zeros(2, dtype=[("a", "i4"), ("b", "f8")]),
        True,
        h5py.Empty("f"),
    ]
    value = values[rng.integers(0, len(values))]
    with h5py.File(path, "r+") as file:
        places: list[tuple[str, str | None]] = []
        file.visititems(
            lambda name, item: places.extend([(name, None), *((name, key) for key in item.attrs)])
        )
        name, key = places[rng.integers(0, len(places))]
        if key is not None:
            file[name].attrs[key] = value
            return
        del file[name]
        if rng.random() < 0.7:
            file[name] = value


def images(folder: Path) -> list[tuple[Network, bytes]]:
    found = []
    for network in originals():
        netx.write(network, folder / "good.net")
        found.append((network, (folder / "good.net").read_bytes()))
    return found


def ours(seed: int, path: Path, good: list[tuple[Network, bytes]]) -> str:
    """A file of ours, damaged below its seal or in it: refused, or the very same."""
    rng = np.random.default_rng(seed)
    network, image = good[rng.integers(0, len(good))]
    path.write_bytes(image)
    if rng.random() < 0.1:
        other_types(path, rng)
    else:
        path.write_bytes(damage(image, rng))
    return verdict(lambda: netx.read(path), network, path)


def theirs(seed: int, path: Path, good: list[tuple[Network, bytes]]) -> str:
    """The same without a seal, as it is read in the child that netx.read starts for these."""
    rng = np.random.default_rng(seed)
    network, image = good[rng.integers(0, len(good))]
    path.write_bytes(image)
    for _ in range(rng.integers(0, 3)):
        other_types(path, rng)
    if rng.random() < 0.6:
        path.write_bytes(damage(path.read_bytes()[seal.BLOCK :], rng))
    return verdict(lambda: netx_reader._open(path), network, path)


def verdict(read: Callable[[], Network], network: Network, path: Path) -> str:
    try:
        return "same" if read() == network else "another"
    except PumiceError as error:
        one_line = str(error).startswith(str(path)) and "\n" not in str(error)
        return "refused" if one_line else f"UNCLEAR: {error!r}"


def tries(kind: str, first: int, folder: Path) -> None:
    """In the child: a line for each seed; an exception, a crash and the alarm end it."""
    good = images(folder)
    for seed in range(first, COUNT):
        signal.alarm(SECONDS)
        print(
            seed, {"ours": ours, "theirs": theirs}[kind](seed, folder / "bad.net", good), flush=True
        )
        signal.alarm(0)


def run(kind: str, folder: Path) -> Counter[str]:
    """How often each verdict; ``killed``: a signal ended the child, and the next went on."""
    root = Path(__file__).resolve().parent.parent
    words: list[str] = []
    while len(words) < COUNT:
        code = (
            f"import sys; sys.path[:0] = [{str(root)!r}, {str(root / 'tests')!r}]\n"
            "from pathlib import Path; import test_fuzz\n"
            f"test_fuzz.tries({kind!r}, {len(words)}, Path({str(folder)!r}))"
        )
        child = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=False
        )
        words += [line.split(maxsplit=1)[1] for line in child.stdout.splitlines()]
        if child.returncode > 0:
            pytest.fail(f"seed {len(words)}: {child.stderr[-3000:]}")
        if child.returncode < 0:
            words.append("killed")
    print(kind, Counter(words))
    return Counter(words)


@pytest.mark.timeout(0 if COUNT > 300 else 300)
def test_what_still_reads_is_what_was_written(tmp_path: Path) -> None:
    found = run("ours", tmp_path)
    assert set(found) <= {"refused", "same"}
    assert found["refused"] > COUNT // 2


@pytest.mark.timeout(0 if COUNT > 300 else 300)
def test_files_of_others(tmp_path: Path) -> None:
    """HDF5 itself can hang on them, in a child; what it gets through is a network or refused."""
    found = run("theirs", tmp_path)
    assert set(found) <= {"refused", "same", "another", "killed"}
    assert found["refused"] > COUNT // 3
    assert found["killed"] <= COUNT // 50


def test_a_file_that_hangs_hdf5_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    netx.write(originals()[0], tmp_path / "m.net")
    (tmp_path / "m.net").write_bytes((tmp_path / "m.net").read_bytes()[seal.BLOCK :])
    assert netx.read(tmp_path / "m.net") == originals()[0]
    monkeypatch.setattr(file_damage, "DEADLINE", 1.0)
    monkeypatch.setattr(netx_reader, "_in_child", lava_jobs.hang_on)
    with pytest.raises(netx.NetxError, match=r"m.net: it is damaged: HDF5 does not get through"):
        netx.read(tmp_path / "m.net")
    monkeypatch.setattr(file_damage, "DEADLINE", 20.0)
    monkeypatch.setattr(netx_reader, "_in_child", lava_jobs.die_of)
    with pytest.raises(netx.NetxError, match=r"m.net: it is damaged: HDF5 fails on it: .*SIGKILL"):
        netx.read(tmp_path / "m.net")
