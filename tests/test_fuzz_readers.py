"""Damaged checkpoints, settings and data: a reader says so in a line, or has read what is valid.

What has a seal or a checksum (checkpoints, the cache, archives) is never read as something else;
what a person may edit (settings, plans) may become another valid one. Networks have a test of their
own, test_fuzz.py. `make soak` tries 500 for each; some are part of every run.

Files are read in a child with little memory: a size that a file claims must not be taken at its
word.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import resource
import signal
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from test_data_events import nmnist_bytes, random_events, write_gestures
from test_fuzz import damage, originals

from loihi import Dense, Encoding, Layer, Network, Neuron, PumiceError, checkpoint

COUNT = max(40, int(os.environ.get("PUMICE_FUZZ", "0")) // 20)
"""For each reader."""
ROOT = Path(__file__).resolve().parent.parent
MEMORY = 6 << 30
"""Bytes of address space: what libraries map takes most of it."""
SECONDS = 30
"""For a single file, on a busy machine."""
SMALL = {"model": "6", "time_steps": 2, "epochs": 1}
SIMPLE = Encoding("graded", 2, (0, 255), 0.0, 255.0)
SPEC = """seed = 7
[rule]
gap = 20
window = 2.5
[[block]]
layers = [0]
classifier = "trainable"
feedback = "random"
[[block]]
layers = [1, 2]
rule = { hidden_rate = -6, leak = 900 }
"""


@dataclass(frozen=True)
class Reader:
    """make: writes good files into an empty folder, and says which of them is damaged. read: what a
    command reads, of that file or of the folder, in a form that can be compared. valid: whether it
    is something to work with. sealed: it is the same or refused. text: for a person to edit.
    folder: which is read, where it is not the file.
    """

    make: Callable[[Path], Path]
    read: Callable[[Path], Any]
    valid: Callable[[Any], bool] = lambda found: True
    sealed: bool = False
    text: bool = False
    folder: str = ""


# --- data ---------------------------------------------------------------------------------------


def images(n: int = 40, size: int = 6) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (n, size, size), dtype=np.uint8), np.arange(n, dtype=np.uint8) % 4


def is_dataset(found: Any) -> bool:
    parts = ((found.x_train, found.y_train), (found.x_test, found.y_test))
    return found.low < found.high and all(
        len(x) == len(y) > 0
        and x.shape[1:] == found.x_train.shape[1:]
        and np.isfinite(x).all()
        and 0 <= int(y.min()) <= int(y.max()) < found.classes
        for x, y in parts
    )


def load(name: str) -> Any:
    from trainer import data

    return data.load(name)


def make_npz(folder: Path, save: Callable[..., None] = np.savez) -> Path:
    x, y = images()
    save(folder / "d.npz", x_train=x[:30], y_train=y[:30], x_test=x[30:], y_test=y[30:])
    return folder / "d.npz"


def make_idx(folder: Path, which: int = 0, packed: bool = False) -> Path:
    from trainer.data.idx import IDX_FILES

    x, y = images()
    paths = []
    for name, part in zip(IDX_FILES, (x[:30], y[:30], x[30:], y[30:]), strict=True):
        header = b"\0\0\x08" + bytes([part.ndim])
        content = header + np.array(part.shape, ">u4").tobytes() + part.tobytes()
        path = folder / (f"{name}.gz" if packed else name)
        path.write_bytes(gzip.compress(content, mtime=0) if packed else content)
        paths.append(path)
    return paths[which]


def make_cifar(folder: Path, archive: bool = False) -> Path:
    from trainer.data import cifar

    few = replace(
        cifar.LAYOUTS["cifar10"],
        train={f"data_batch_{k}.bin": 4 for k in range(1, 6)},
        test={"test_batch.bin": 4},
    )
    cifar.LAYOUTS = {"cifar10": few}
    rng = np.random.default_rng(0)
    whole = {
        name: rng.integers(0, 10, (4, 3073), dtype=np.uint8).tobytes()
        for name in (*few.train, *few.test)
    }
    if not archive:
        for name, content in whole.items():
            (folder / name).write_bytes(content)
        return folder / "data_batch_2.bin"
    with tarfile.open(folder / few.archive, "w:gz") as tar:
        for name, content in whole.items():
            info = tarfile.TarInfo(f"{few.inside}/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return folder / few.archive


def read_cifar(path: Path) -> Any:
    from trainer.data import cifar

    return cifar.load("cifar10", path=path)


def binned(read: str) -> Callable[[Path], Any]:
    """Reads a set of recordings into frames, past any cache."""

    def load(folder: Path) -> Any:
        from trainer.data import recordings
        from trainer.data.events import Binning

        how = Binning(4, "time", 50_000)
        with tempfile.TemporaryDirectory() as root:
            found = recordings.binned(getattr(recordings, read)(folder, how), how, Path(root))
            return replace(found, x_train=np.array(found.x_train), x_test=np.array(found.x_test))

    return load


def make_nmnist(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    for split in ("Train", "Test"):
        for digit in range(2):
            place = folder / split / str(digit)
            place.mkdir(parents=True)
            (place / "0.bin").write_bytes(nmnist_bytes(random_events(rng)))
    return folder / "Train" / "0" / "0.bin"


def make_shd(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in ("shd_train.h5", "shd_test.h5"):
        with h5py.File(folder / name, "w") as file:
            for kind, type_ in (("times", "f2"), ("units", "u2")):
                made = file.create_dataset(f"spikes/{kind}", (6,), h5py.vlen_dtype(type_))
                for i in range(6):
                    made[i] = np.sort(rng.random(50)) if type_ == "f2" else rng.integers(0, 700, 50)
            file["labels"] = np.arange(6) % 3
    return folder / "shd_train.h5"


def make_gestures(folder: Path, which: str = "user01_lab.aedat") -> Path:
    write_gestures(folder / "g")
    return folder / "g" / which


def make_cache(folder: Path, which: str = "entry.json") -> Path:
    read_cache(folder)
    return next(folder.glob(f"cache/*/{which}"))


def read_cache(folder: Path) -> Any:
    from trainer.data import cache

    def build(writer: Any) -> dict[str, Any]:
        writer.add("x", (3, 4), np.uint8, [np.arange(12).reshape(3, 4)])
        return {"classes": 4}

    entry = cache.cached(folder, "made", {"of": 1}, build)
    return [entry.about, {name: array.tolist() for name, array in entry.arrays.items()}]


# --- settings -----------------------------------------------------------------------------------


def make_settings(folder: Path) -> Path:
    from trainer.config import TrainConfig

    (folder / "config.toml").write_text(TrainConfig(**SMALL).to_toml())
    return folder / "config.toml"


def read_settings(path: Path) -> Any:
    from trainer.config import TrainConfig

    return TrainConfig.read(path)


def make_spec(folder: Path) -> Path:
    (folder / "s.toml").write_text(SPEC)
    return folder / "s.toml"


def read_spec(path: Path) -> Any:
    from onchip.spec import Spec

    return Spec.read(path)


def make_run(folder: Path, which: str) -> Path:
    make_settings(folder)
    row = {"epoch": 1, "loss": 0.5, "test_accuracy": 0.9, "spike_rates": [0.1, 0.2], "spikes": 12.5}
    rows = [{**row, "epoch": epoch} for epoch in (1, 2, 3)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    about = [{"from_epoch": 1, "pumice": "0.1.0", "torch": "2"}]
    (folder / "environment.json").write_text(json.dumps(about))
    layer = {"name": "0 dense", "compared": 10, "mismatches": 0}
    said = {"mismatches": 0, "compared": 10, "samples": 2, "between": ["reference", "engine"]}
    (folder / "verify.json").write_text(json.dumps({**said, "layers": [layer]}))
    return folder / which


def read_run(folder: Path) -> Any:
    from trainer import runs

    found = runs.read(folder)
    return [found.config, found.metrics, found.environments, found.verification, found.summary()]


# --- states -------------------------------------------------------------------------------------


def make_checkpoint(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    arrays = {"w": rng.random((6, 5)), "n": np.array(3), "m": rng.integers(0, 9, 7)}
    checkpoint.write(folder / "c.safetensors", "some-1", arrays, {"epoch": 3, "history": [1.5]})
    return folder / "c.safetensors"


def read_checkpoint(path: Path) -> Any:
    arrays, state = checkpoint.read(path, "some-1")
    return [state, {n: (a.dtype.str, a.shape, a.tobytes()) for n, a in arrays.items()}]


def make_history(folder: Path) -> Path:
    from onchip import history

    layer = {"changed": 3, "moved": None, "histogram": [1, 2], "trace": {"mean": 0.5}}
    points = [
        {"samples": n, "steps": 4 * n, "accuracy": {"test": 0.5}, "layers": {"1 dense": layer}}
        for n in (0, 10, 20)
    ]
    history.write(folder / "h.jsonl", points)
    return folder / "h.jsonl"


def read_history(path: Path) -> Any:
    from onchip import history

    return history.read(path)


def make_journal(folder: Path) -> Path:
    from trainer.sweep.study import Sweep

    data = make_npz(folder)
    sweep = Sweep(sweep_plan(data), folder / "sweep")
    for value in (0.5, 0.7):
        trial = sweep.study.ask()
        trial.suggest_float("lr", 0.01, 0.1)
        sweep.study.tell(trial, value)
    return folder / "sweep" / "study.journal"


def sweep_plan(data: Path) -> Any:
    from trainer.config import TrainConfig
    from trainer.sweep.plan import Plan
    from trainer.sweep.space import Space

    fixed = TrainConfig(**SMALL, data=str(data), validation=0.25)
    return Plan(Space({"lr": {"low": 0.01, "high": 0.1}}, fixed))


def read_sweep(folder: Path) -> Any:
    from trainer.sweep.study import Sweep

    found = Sweep(sweep_plan(folder.parent / "d.npz"), folder).found()
    return [(t.number, t.state, t.value, t.params) for t in found.trials]


def make_nir(folder: Path) -> Path:
    from lava_export import nir_io

    nir_io.write(originals()[0], folder / "n.nir")
    return folder / "n.nir"


def read_nir(path: Path, metadata: bool = True) -> Any:
    from lava_export import nir_io

    return nir_io.read(path, metadata=metadata).network


def make_board(folder: Path, which: str) -> Path:
    from lava_export import deploy
    from loihi import limits

    network = Network((5,), (Layer(Dense(2 * np.eye(3, 5, dtype=int)), Neuron(vth=2)),), SIMPLE)
    x = np.ones((2, 3, 5), dtype=np.int64)
    deploy.write(network, x, folder / "out", limits.chip("loihi2"))
    return folder / "out" / which


def read_board(folder: Path) -> Any:
    from lava_export import board

    try:
        found = board.Folder(folder)
    except board.Refused as error:
        raise PumiceError(str(error)) from None
    return [found.settings, found.payloads.tolist(), found.scores.tolist()]


# --- all of them --------------------------------------------------------------------------------


def of(make: Callable[..., Path], *more: Any) -> Callable[[Path], Path]:
    return lambda folder: make(folder, *more)


def dataset(path: Path) -> Any:
    return load(str(path))


DATA = {"valid": is_dataset}
READERS = {
    "npz": Reader(make_npz, dataset, sealed=True),
    "npz, packed": Reader(of(make_npz, np.savez_compressed), dataset, sealed=True),
    "idx, images": Reader(make_idx, dataset, folder=".", **DATA),
    "idx, labels": Reader(of(make_idx, 1), dataset, folder=".", **DATA),
    "idx, gzipped": Reader(of(make_idx, 2, True), dataset, sealed=True, folder="."),
    "cifar": Reader(make_cifar, read_cifar, folder=".", **DATA),
    "cifar, archive": Reader(of(make_cifar, True), read_cifar, sealed=True),
    "nmnist": Reader(make_nmnist, binned("nmnist"), folder=".", **DATA),
    "shd": Reader(make_shd, binned("shd"), folder=".", **DATA),
    "gestures": Reader(make_gestures, binned("dvs_gesture"), folder="g", **DATA),
    "gestures, table": Reader(
        of(make_gestures, "user01_lab_labels.csv"), binned("dvs_gesture"), text=True, folder="g"
    ),
    "gestures, list": Reader(
        of(make_gestures, "trials_to_train.txt"), binned("dvs_gesture"), text=True, folder="g"
    ),
    "cache": Reader(make_cache, read_cache, sealed=True, text=True, folder="."),
    "cache, array": Reader(of(make_cache, "x.npy"), read_cache, sealed=True, folder="."),
    "config": Reader(make_settings, read_settings, text=True),
    "spec": Reader(make_spec, read_spec, text=True),
    "run, metrics": Reader(of(make_run, "metrics.jsonl"), read_run, text=True, folder="."),
    "run, environment": Reader(of(make_run, "environment.json"), read_run, text=True, folder="."),
    "run, verification": Reader(of(make_run, "verify.json"), read_run, text=True, folder="."),
    "checkpoint": Reader(make_checkpoint, read_checkpoint, sealed=True),
    "history": Reader(make_history, read_history, text=True),
    "sweep, journal": Reader(make_journal, read_sweep, text=True, folder="sweep"),
    "nir": Reader(make_nir, read_nir),
    "nir, of others": Reader(make_nir, of(read_nir, False)),
    "board, settings": Reader(
        of(make_board, "settings.json"), read_board, text=True, folder="out", sealed=True
    ),
    "board, samples": Reader(of(make_board, "samples.npz"), read_board, folder="out", sealed=True),
}


def reworded(image: bytes, rng: np.random.Generator) -> bytes:
    """A text in which a line is left out, doubled or moved, or a word is another's or a strange
    one."""
    lines = image.decode().splitlines(keepends=True)
    kind, at = rng.integers(0, 5), rng.integers(0, len(lines))
    if kind == 0:
        del lines[at]
    elif kind == 1:
        lines.insert(int(rng.integers(0, len(lines) + 1)), lines[at])
    else:
        words = re.findall(r"[\w.+-]+", image.decode())
        strange = ["-1", "0", "1e999", "nan", "9" * 30, "true", "null", "[]", "{}", '"', "é", "\0"]
        pool = words if kind == 2 else strange
        spans = [m.span() for m in re.finditer(r"[\w.+-]+", image.decode())]
        begin, end = spans[rng.integers(0, len(spans))]
        return (image.decode()[:begin] + pool[rng.integers(0, len(pool))]
                + image.decode()[end:]).encode()  # fmt: skip
    return "".join(lines).encode()


def same(a: Any, b: Any) -> bool:
    """Equal to the last bit, whatever it is made of."""
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b)
    if hasattr(a, "__dataclass_fields__") and not isinstance(a, Network):
        return type(a) is type(b) and all(same(v, vars(b)[k]) for k, v in vars(a).items())
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return repr(a) == repr(b) if isinstance(a, float) else bool(a == b)


def verdict(reader: Reader, place: Path, good: Any) -> str:
    try:
        found = reader.read(place)
    except PumiceError as error:
        return "refused" if "\n" not in str(error) else f"UNCLEAR: {error!r}"
    if same(good, found):
        return "same"
    if reader.sealed:
        return "SILENT"
    return "another" if reader.valid(found) else "INVALID"


def tries(name: str, base: Path) -> None:
    """In the child: a line for each seed; an exception, a crash and the alarm end it."""
    from lava_export import damage as hdf5
    from trainer.data import recordings

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    hdf5.DEADLINE = recordings.DEADLINE = SECONDS / 2  # that HDF5 gets, in a child
    reader = READERS[name]
    victim = reader.make(base)
    image = victim.read_bytes()
    place = base / reader.folder if reader.folder else victim
    good = reader.read(place)
    assert reader.valid(good)
    for seed in range(COUNT):
        rng = np.random.default_rng(seed)
        edited = reader.text and rng.random() < 0.7
        victim.write_bytes((reworded if edited else damage)(image, rng))
        signal.alarm(SECONDS)
        print(seed, verdict(reader, place, good), flush=True)
        signal.alarm(0)


@pytest.mark.parametrize("name", READERS)
@pytest.mark.timeout(0 if COUNT > 40 else 300)
def test_damaged_files(name: str, tmp_path: Path) -> None:
    code = (
        f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / 'tests')!r}]\n"
        "from pathlib import Path; import test_fuzz_readers as it\n"
        f"it.tries({name!r}, Path({str(tmp_path)!r}))"
    )
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    words = [line.split(maxsplit=1)[1] for line in child.stdout.splitlines()]
    if child.returncode:
        pytest.fail(f"{name}, seed {len(words)}: exit {child.returncode}\n{child.stderr[-3000:]}")
    found = Counter(words)
    print(name, dict(found))
    assert len(words) == COUNT
    assert set(found) <= {"refused", "same", "another"}
    assert found["refused"] or name.startswith("cache")
