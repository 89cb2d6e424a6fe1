"""The supervised child, however it ends; and whole runs through netx and Lava's runtime."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import lava_jobs
import numpy as np
import pytest

from lava_export import netx, run, supervise
from lava_export.supervise import ChildError, DeadlineError
from loihi import (
    INTEGRATOR,
    Conv,
    Dense,
    Encoding,
    Inject,
    Layer,
    Network,
    Neuron,
    PumiceError,
    lava_compat,
    reference,
)

STATES = ("spikes", "u", "v")
LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")


def members(session: int) -> list[str]:
    """The processes of a session that are alive."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, its = stat.read_text().rpartition(")")[2].split()[:4]
            if int(its) == session and state not in "ZX":
                found.append((stat.parent / "cmdline").read_text())
        except OSError:  # gone meanwhile
            continue
    return found


def until(condition: Callable[[], object], seconds: float = 30.0) -> bool:
    """Whether the condition came true within a time that only a failure needs."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


@pytest.fixture(autouse=True)
def nothing_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    """No folder and no shared memory may be left by any of these tests."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    before = set(Path("/dev/shm").glob("psm_*"))
    yield
    assert list((tmp_path / "tmp").iterdir()) == []
    # Other tests run beside these: what a process has mapped is in use.
    new = set(Path("/dev/shm").glob("psm_*")) - before
    assert until(lambda: all(not p.exists() or mapped(p) for p in new)), new


def mapped(segment: Path) -> bool:
    """Whether any process has this shared memory mapped."""
    for maps in Path("/proc").glob("[0-9]*/maps"):
        with contextlib.suppress(OSError):  # gone meanwhile
            if str(segment) in maps.read_text():
                return True
    return False


# --- the child ----------------------------------------------------------------------------------


def test_arrays_and_numbers_go_there_and_back() -> None:
    found = supervise.run(lava_jobs.add, deadline=60, a=np.arange(3), b=2)
    assert found["sum"].tolist() == [2, 3, 4]
    assert found["count"] == 3
    assert not found["writable"], "the caller's array was mapped for writing"


@LINUX
def test_it_has_a_session_and_a_folder_of_its_own() -> None:
    found = supervise.run(lava_jobs.environment, deadline=60)
    assert found["session"] == found["pid"] != os.getsid(0)
    assert not Path(found["folder"]).exists()
    assert members(found["session"]) == []


def test_the_last_line_of_the_real_traceback() -> None:
    says = r"^ZeroDivisionError: no number divides by zero$"
    with pytest.raises(ChildError, match=says) as caught:
        supervise.run(lava_jobs.fail, deadline=60)
    assert "in fail" in caught.value.traceback
    assert "ZeroDivisionError" in caught.value.traceback


def test_a_clear_line_stays_one() -> None:
    with pytest.raises(ChildError, match=r"^one clear line$"):
        supervise.run(lava_jobs.complain, deadline=60)


def test_deadline() -> None:
    with pytest.raises(DeadlineError, match=r"no result after 1.5 seconds.* I shall hang"):
        supervise.run(lava_jobs.talk_and_hang, deadline=1.5)


def test_killed_child() -> None:
    with pytest.raises(ChildError, match=r"signal 9 \(SIGKILL\).* I shall die") as caught:
        supervise.run(lava_jobs.die, deadline=60)
    assert "I shall die" in caught.value.log


def test_nothing_is_pickled() -> None:
    with pytest.raises(ChildError, match=r"pickle"):
        supervise.run(lava_jobs.return_an_object, deadline=60)


PARENT = """
import sys
sys.path[:0] = {path!r}
import tempfile
tempfile.tempdir = {tmp!r}
import lava_jobs
from lava_export import run, supervise
{what}
"""


def _parent(tmp_path: Path, what: str) -> subprocess.Popen[bytes]:
    root = Path(__file__).resolve().parent
    code = PARENT.format(
        path=[str(root), str(root.parent)], tmp=str(tmp_path / "tmp"), what=textwrap.dedent(what)
    )
    return subprocess.Popen(
        [sys.executable, "-c", code], stderr=subprocess.PIPE, start_new_session=True
    )


def _child_of(note: Path) -> tuple[int, Path]:
    assert until(lambda: note.exists() and len(note.read_text().split()) == 2, 90), "did not start"
    session, folder = note.read_text().split()
    return int(session), Path(folder)


@LINUX
def test_kill_9_of_the_parent(tmp_path: Path) -> None:
    note = tmp_path / "note"
    what = f"supervise.run(lava_jobs.talk_and_hang, deadline=300, note={str(note)!r})"
    with _parent(tmp_path, what) as parent:
        session, folder = _child_of(note)
        assert members(session)
        parent.kill()
    assert until(lambda: not members(session)), members(session)
    assert until(lambda: not folder.parent.exists())


@LINUX
def test_interrupt(tmp_path: Path) -> None:
    note = tmp_path / "note"
    what = f"supervise.run(lava_jobs.talk_and_hang, deadline=300, note={str(note)!r})"
    with _parent(tmp_path, what) as parent:
        session, _ = _child_of(note)
        parent.send_signal(signal.SIGINT)
        assert b"KeyboardInterrupt" in parent.communicate(timeout=60)[1]
    assert members(session) == []


# --- runs in Lava -------------------------------------------------------------------------------


def small(**options: object) -> Network:
    """A network in which everything that can be turned round is asymmetric."""
    rng = np.random.default_rng(3)
    delay = rng.integers(0, 4, (7, 6 * 3 * 3)) if options.get("delays") else None
    layers = [
        Layer(
            Conv(rng.integers(-60, 100, (6, 2, 3, 3)), stride=(1, 2), padding=(0, 1)),
            Neuron(4000, 300, 60000, bias=rng.integers(-900, 900, (6, 4, 5))),
        ),
        Layer(
            Conv(np.full((6, 1, 2, 2), 32), stride=(1, 2), padding=(0, 1), groups=6),
            Neuron(4096, 2000, 50, bias=np.arange(-9, 9, 3)),
        ),
        Layer(Dense(rng.integers(-60, 80, (7, 6 * 3 * 3)), delay), Neuron(3000, 100, 200, bias=3)),
        Layer(Dense(rng.integers(-60, 80, (4, 7))), INTEGRATOR),
    ]
    return Network((2, 6, 10), tuple(layers), Encoding("events", 6, (0, 255)))


def injected() -> Network:
    rng = np.random.default_rng(4)
    layers = (
        Layer(Inject(), Neuron(4096, 500, 90)),
        Layer(Conv(rng.integers(-40, 30, (3, 2, 2, 3))), Neuron(2000, 0, 40, bias=5)),
        Layer(Dense(rng.integers(-9, 9, (5, 3 * 4 * 2))), Neuron(4096, 100, 10)),
    )
    encoding = Encoding("graded", 5, (-12, 140), 0.0, 1.0)
    return Network((2, 5, 4), layers, encoding, "spikes")


def vector() -> Network:
    rng = np.random.default_rng(5)
    layers = (
        Layer(Dense(rng.integers(-128, 127, (12, 9))), Neuron(4096, 300, 64)),
        Layer(Dense(2 * rng.integers(-128, 127, (4, 12))), INTEGRATOR),
    )
    return Network((9,), layers, Encoding("rate", 7, low=0.0, high=1.0))


def data(network: Network, samples: int) -> np.ndarray:
    rng = np.random.default_rng(6)
    if network.encoding.kind == "events":
        first, last = network.encoding.payload
        return rng.integers(first, last + 1, (network.time_steps, samples, *network.input_shape))
    return network.encoding.encode(rng.random((samples, *network.input_shape)))


@pytest.mark.lava
@pytest.mark.exactness
@pytest.mark.parametrize("make", [small, functools.partial(small, delays=True), injected, vector])
def test_lava_is_the_reference(make: Callable[[], Network]) -> None:
    network = make()
    x = data(network, 3)
    expected = reference.run(network, x, STATES)
    assert all(0 < s.mean() < 1 for s in expected.spikes[:-1]), "a layer that shows nothing"
    found = run.run_network(network, x, STATES)
    for state in STATES:
        for name, a, b in zip(
            network.names, getattr(expected, state), getattr(found, state), strict=True
        ):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b, err_msg=f"{state} of layer {name}")


@pytest.mark.lava
@pytest.mark.parametrize("make", [injected, vector])
def test_predict(make: Callable[[], Network], tmp_path: Path) -> None:
    network = make()
    netx.write(network, tmp_path / "model.net")
    x = data(network, 4)
    expected = reference.predict(network, x)
    np.testing.assert_array_equal(run.predict(tmp_path / "model.net", x), expected)


@pytest.mark.lava
@pytest.mark.parametrize("make", [functools.partial(small, delays=True), vector])
def test_time_in_parts(make: Callable[[], Network], tmp_path: Path) -> None:
    """As many runs of Lava as it takes otherwise, each part as long as what was given."""
    network = make()
    netx.write(network, path := tmp_path / "model.net")
    x, steps = data(network, 3), network.time_steps
    last = len(network.layers) - 1
    cuts = [(0, 2), (2, 3), (3, steps)]
    given = (x[a:b] for a, b in cuts)
    wanted = {"spikes": [0, last], "v": [last]}
    expected = reference.run(network, x, STATES)
    for (a, b), found in zip(
        cuts, run.parts(network, path, given, (steps, 3), wanted), strict=True
    ):
        assert list(found) == [("spikes", 0), ("spikes", last), ("v", last)]
        for (state, index), rows in found.items():
            np.testing.assert_array_equal(rows, getattr(expected, state)[index][a:b])
    assert expected.v[last].any()


def recurrent_file(path: Path) -> None:
    """netx's recurrent layer, which is none of our chains: nothing clears its loop there."""
    rng = np.random.default_rng(8)
    with h5py.File(path, "w") as file:
        layer = file.create_group("layer/0")
        layer["type"], layer["shape"] = np.array([b"dense_rec"], dtype="S10"), [6]
        layer["weight"] = 2 * rng.integers(-60, 60, (6, 9))
        layer["weight_rec"] = 2 * rng.integers(-60, 60, (6, 6))
        layer["bias"], layer["neuron/type"] = np.full(6, 20), np.bytes_("CUBA")
        layer["neuron/iDecay"], layer["neuron/vDecay"] = 1024, 128
        layer["neuron/vThMant"], file["simulation/tSample"] = 90, 7


def resonator_file(path: Path) -> None:
    """Complex weights; netx derives the neurons' numbers from others."""
    rng = np.random.default_rng(9)
    with h5py.File(path, "w") as file:
        layer = file.create_group("layer/0")
        layer["type"], layer["shape"] = np.array([b"dense"], dtype="S10"), [6]
        layer["weight/real"] = 2 * rng.integers(-60, 60, (6, 9))
        layer["weight/imag"] = 2 * rng.integers(-60, 60, (6, 9))
        layer["neuron/type"], layer["neuron/vThMant"] = np.bytes_("RF_IZHIKEVICH"), 40
        layer["neuron/sinDecay"], layer["neuron/cosDecay"] = 2338, 3218
        file["simulation/tSample"] = 7


@pytest.mark.lava
@pytest.mark.exactness
@pytest.mark.parametrize(
    ("make", "job"),
    [
        (functools.partial(netx.write, vector()), lava_jobs.without_wiring),
        (resonator_file, lava_jobs.without_wiring),
        (recurrent_file, lava_jobs.without_netx),
    ],
)
def test_chains_go_through_intels_loader_and_the_rest_does_not(
    make: Callable[[Path], None],
    job: Callable[..., object],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And nothing is recorded but what is asked for."""
    make(path := tmp_path / "model.net")
    network = netx.read(path)
    x = data(vector(), 3)
    last = len(network.layers) - 1
    monkeypatch.setattr(run, "_in_lava", job)
    found = run.observe(network, path, x, {"v": [last], "spikes": [0]})
    expected = reference.run(network, x, STATES)
    assert list(found) == [("v", last), ("spikes", 0)]
    for (state, index), rows in found.items():
        np.testing.assert_array_equal(rows, getattr(expected, state)[index])
    assert expected.spikes[0].any()


@pytest.mark.lava
def test_no_samples(tmp_path: Path) -> None:
    netx.write(vector(), tmp_path / "model.net")
    assert run.predict(tmp_path / "model.net", data(vector(), 0)).shape == (0, 4)


def test_payloads_that_do_not_fit(tmp_path: Path) -> None:
    netx.write(vector(), tmp_path / "model.net")
    with pytest.raises(PumiceError, match=r"Lava is needed|samples of 9"):
        run.predict(tmp_path / "model.net", np.zeros((7, 1, 8), dtype=np.uint8))


def test_without_lava_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    netx.write(vector(), tmp_path / "model.net")
    absent = lava_compat.LavaStatus(False, None, None, None, "pip install it")
    monkeypatch.setattr(lava_compat, "status", lambda: absent)
    with pytest.raises(PumiceError, match="Lava is needed for this: pip install it"):
        run.run(tmp_path / "model.net", data(vector(), 1))


@pytest.mark.lava
@pytest.mark.parametrize(
    ("job", "says"),
    [
        (lava_jobs.throw_in_lava, r"^ArithmeticError: injected into a neuron$"),
        (lava_jobs.throw_while_lava_is_built, r"^ArithmeticError: injected into a constructor$"),
        (lava_jobs.kill_a_lava_process, r"^a process of Lava's was ended by signal 9 \(SIGKILL\)$"),
    ],
)
def test_a_lava_process_fails(
    job: Callable[..., object], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends at once: were it to wait for the deadline, that is what it would say."""
    monkeypatch.setattr(run, "_in_lava", job)
    with pytest.raises(ChildError, match=says) as caught:
        run.run_network(vector(), data(vector(), 2), deadline=100)
    assert not isinstance(caught.value, DeadlineError)
    if "Arithmetic" in says:
        assert "lava_jobs.py" in caught.value.traceback


@LINUX
@pytest.mark.lava
def test_kill_9_of_the_parent_of_a_run(tmp_path: Path) -> None:
    note, model = tmp_path / "note", tmp_path / "model.net"
    netx.write(vector(), model)
    what = f"""
        import numpy as np
        supervised = supervise.run
        supervise.run = lambda job, **a: supervised(lava_jobs.hang_in_lava, note={str(note)!r}, **a)
        run.run({str(model)!r}, np.ones((7, 2, 9), dtype=np.uint8), deadline=300)
    """
    with _parent(tmp_path, what) as parent:
        session, folder = _child_of(note)
        assert len(members(session)) > 5, "Lava's processes are in the session"
        shared = set(Path("/dev/shm").glob("psm_*"))
        assert shared
        parent.kill()
    assert until(lambda: not members(session)), members(session)
    assert until(lambda: not folder.parent.exists())
