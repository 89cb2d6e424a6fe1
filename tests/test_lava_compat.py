"""Lava as installed: what the hook mends, that it mends only that, and what it says without Lava.

Each simulation here has numbers worked out by hand, small enough to check on paper, so that an
import that succeeds and then computes something else is found too.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from loihi import lava_compat
from loihi.errors import PumiceError

HOOKED = sys.version_info >= (3, 11)
INSTALL = "from loihi import lava_compat; lava_compat.install({})\n"


def _numpy() -> tuple[int, ...]:
    return tuple(map(int, importlib.metadata.version("numpy").split(".")[:2]))


def _file_of_wheel(wheel: str, name: str) -> Path:
    return Path(str(importlib.metadata.distribution(wheel).locate_file(name)))


def _fake_lava(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(text))


# ---------------------------------------------------------------- simulations in Lava


@pytest.mark.lava
@pytest.mark.exactness
def test_lif_behind_dense_spikes_when_worked_out_by_hand(run_python: Callable[..., str]) -> None:
    """Weight 10 at every step: u = 640, v = 640, 1280 > 960 spikes and resets: steps 3, 5, 7, 9.

    The first step has no input: a synapse hands over what it received one step before.
    """
    out = run_python(
        INSTALL.format("")
        + textwrap.dedent(
            """
            import numpy as np
            from lava.magma.core.run_conditions import RunSteps
            from lava.magma.core.run_configs import Loihi2SimCfg
            from lava.proc.dense.process import Dense
            from lava.proc.io.sink import RingBuffer as Sink
            from lava.proc.io.source import RingBuffer as Source
            from lava.proc.lif.process import LIF

            source = Source(data=np.ones((1, 10)))
            dense = Dense(weights=np.array([[10]]), num_weight_bits=8)
            lif = LIF(shape=(1,), du=4095, dv=0, vth=15)
            sink = Sink(shape=(1,), buffer=10)
            source.s_out.connect(dense.s_in)
            dense.a_out.connect(lif.a_in)
            lif.s_out.connect(sink.a_in)
            lif.run(condition=RunSteps(10), run_cfg=Loihi2SimCfg(select_tag="fixed_pt"))
            print(sink.data.get()[0].astype(int).tolist())
            lif.stop()
            """
        )
    )
    # The sink sees a spike in the step in which it was sent.
    assert json.loads(out.splitlines()[-1]) == [0, 0, 1, 0, 1, 0, 1, 0, 1, 0]


@pytest.mark.lava
@pytest.mark.exactness
def test_conv_in_fixed_point(run_python: Callable[..., str]) -> None:
    """A 2x2 kernel over a 3x3 picture with one spike in its middle draws the kernel itself.

    Lava's Conv is a convolution in the strict sense; a correlation would draw it mirrored.
    """
    out = run_python(
        INSTALL.format("netx_only=True")
        + textwrap.dedent(
            """
            import numpy as np
            from lava.magma.core.run_conditions import RunSteps
            from lava.magma.core.run_configs import Loihi2SimCfg
            from lava.proc.conv.process import Conv
            from lava.proc.io.sink import RingBuffer as Sink
            from lava.proc.io.source import RingBuffer as Source

            picture = np.zeros((3, 3, 1, 2))
            picture[1, 1, 0, 0] = 1
            source = Source(data=picture)
            kernel = np.array([[1, 2], [3, -4]]).reshape(1, 2, 2, 1)
            conv = Conv(weight=kernel, input_shape=(3, 3, 1))
            sink = Sink(shape=conv.output_shape, buffer=2)
            source.s_out.connect(conv.s_in)
            conv.a_out.connect(sink.a_in)
            conv.run(condition=RunSteps(2), run_cfg=Loihi2SimCfg(select_tag="fixed_pt"))
            print(sink.data.get()[..., 0, 1].astype(int).tolist())
            conv.stop()
            """
        )
    )
    assert json.loads(out.splitlines()[-1]) == [[1, 2], [3, -4]]


@pytest.mark.lava
@pytest.mark.exactness
def test_a_port_is_flattened_and_reshaped_in_row_order(run_python: Callable[..., str]) -> None:
    """What netx does between a convolution and a dense layer; numpy 2.4 lacks the name it uses."""
    out = run_python(
        INSTALL.format("netx_only=True")
        + textwrap.dedent(
            """
            import numpy as np
            from lava.magma.core.run_conditions import RunSteps
            from lava.magma.core.run_configs import Loihi2SimCfg
            from lava.proc.io.sink import RingBuffer as Sink
            from lava.proc.io.source import RingBuffer as Source

            source = Source(data=np.arange(6).reshape(2, 3, 1))
            flat, turned = Sink(shape=(6,), buffer=1), Sink(shape=(3, 2), buffer=1)
            source.s_out.flatten().connect(flat.a_in)
            source.s_out.reshape((3, 2)).connect(turned.a_in)
            source.run(condition=RunSteps(1), run_cfg=Loihi2SimCfg(select_tag="fixed_pt"))
            print([s.data.get()[..., 0].astype(int).tolist() for s in (flat, turned)])
            source.stop()
            """
        )
    )
    assert json.loads(out.splitlines()[-1]) == [[0, 1, 2, 3, 4, 5], [[0, 1], [2, 3], [4, 5]]]


@pytest.mark.lava
@pytest.mark.exactness
def test_learning_dense_adds_the_weight_change_of_its_rule(run_python: Callable[..., str]) -> None:
    """dw = 2^3 * x0 adds 8 for each spike of the first input, two of them, and none elsewhere."""
    out = run_python(
        INSTALL.format("netx_only=True")
        + textwrap.dedent(
            """
            import numpy as np
            from lava.magma.core.learning.learning_rule import Loihi2FLearningRule
            from lava.magma.core.run_conditions import RunSteps
            from lava.magma.core.run_configs import Loihi2SimCfg
            from lava.proc.dense.process import LearningDense
            from lava.proc.io.source import RingBuffer as Source
            from lava.proc.lif.process import LIF

            rule = Loihi2FLearningRule(
                dw="2^3*x0", x1_impulse=16, x1_tau=10, y1_impulse=0, y1_tau=10,
                t_epoch=1, rng_seed=3,
            )
            spikes = np.zeros((2, 6))
            spikes[0, [1, 3]] = 1
            source = Source(data=spikes)
            dense = LearningDense(weights=np.array([[10, 20], [30, -40]]), learning_rule=rule)
            lif = LIF(shape=(2,), du=4095, dv=0, vth=1000)
            source.s_out.connect(dense.s_in)
            dense.a_out.connect(lif.a_in)
            lif.s_out.connect(dense.s_in_bap)
            lif.run(condition=RunSteps(6), run_cfg=Loihi2SimCfg(select_tag="fixed_pt"))
            print(dense.weights.get().astype(int).tolist())
            lif.stop()
            """
        )
    )
    assert json.loads(out.splitlines()[-1]) == [[26, 20], [46, -40]]


@pytest.mark.lava
@pytest.mark.exactness
def test_tiny_net_gives_the_spikes_that_intel_shipped(
    run_python: Callable[..., str], netx_files: Path
) -> None:
    out = run_python(
        INSTALL.format("netx_only=True")
        + textwrap.dedent(
            f"""
            import numpy as np
            from lava.lib.dl import netx
            from lava.magma.core.run_conditions import RunSteps
            from lava.magma.core.run_configs import Loihi2SimCfg
            from lava.proc import io

            net = netx.hdf5.Network(net_config={str(netx_files / "tiny.net")!r})
            assert net.in_layer.transform == {{"weight": 36, "bias": 34}}, net.in_layer.transform
            steps = 17 + len(net)
            sink = io.sink.RingBuffer(shape=net.out_layer.out.shape, buffer=steps)
            net.out_layer.out.connect(sink.a_in)
            for i, layer in enumerate(net.layers):
                for state in (layer.neuron.u, layer.neuron.v):
                    io.reset.Reset(interval=17, offset=i - 1).connect_var(state)
            gts = {str(netx_files / "gts" / "tinynet")!r}
            net.in_layer.neuron.bias_mant.init = np.load(gts + "/input_bias.npy")
            net.run(condition=RunSteps(steps), run_cfg=Loihi2SimCfg(select_tag="fixed_pt"))
            out = sink.data.get()
            net.stop()
            truth = np.load(gts + "/output.npy")[0].transpose([2, 1, 0, 3])[..., 1:]
            print(int(truth.sum()), int((out[..., 2:17] != truth).sum()))
            """
        )
    )
    spikes, differences = map(int, out.split()[-2:])
    assert spikes > 0
    assert differences == 0


@pytest.mark.lava
def test_mnist_net_loads_and_its_input_neurons_spike(
    run_python: Callable[..., str], netx_files: Path
) -> None:
    """Intel's file stores the input weight and bias with shape (1,), which numpy 2 refuses.

    A bias of 64 << 6 in the input neurons (threshold 80 << 6, decay 123) gives v = 4096, then
    4096 - 123 + 4096 > 5120: a spike in step 2 and every second step from there.
    """
    out = run_python(
        INSTALL.format("netx_only=True")
        + textwrap.dedent(
            f"""
            import sys
            import numpy as np
            from lava.lib.dl import netx
            from lava.magma.core.run_conditions import RunSteps
            from lava.magma.core.run_configs import Loihi2SimCfg
            from lava.proc import io

            net = netx.hdf5.Network({str(netx_files / "mnist.net")!r}, num_layers=2)
            transform = net.in_layer.transform
            net.in_layer.neuron.bias_mant.init = np.full((784,), transform["bias"])
            sink = io.sink.RingBuffer(shape=(784,), buffer=6)
            net.in_layer.out.connect(sink.a_in)
            net.run(condition=RunSteps(6), run_cfg=Loihi2SimCfg(select_tag="fixed_pt"))
            spikes = sink.data.get().astype(int)
            net.stop()
            # Lava's compiler has run every file beside netx by now, those that import torch too.
            assert "torch" not in sys.modules
            print(transform["weight"], transform["bias"], *set(map(tuple, spikes.tolist())))
            """
        )
    )
    assert out.splitlines()[-1] == "76 64 (0, 1, 0, 1, 0, 1)"


# ---------------------------------------------------------------- what the hook does, and does not


@pytest.mark.lava
@pytest.mark.skipif(not HOOKED, reason="Lava imports as it is on Python 3.10")
def test_without_the_hook_lava_does_not_import() -> None:
    """Whatever else these tests show, the hook is what makes the difference."""
    done = subprocess.run(
        [sys.executable, "-c", "import lava.proc.lif.process"], capture_output=True, text=True
    )
    assert done.returncode != 0
    assert "mutable default" in done.stderr


@pytest.mark.lava
def test_on_the_official_lane_every_module_keeps_its_own_loader(
    run_python: Callable[..., str],
) -> None:
    """On Python 3.10 with numpy 1 one thing is changed; later, exactly what has to be."""
    out = run_python(
        INSTALL.format("")
        + textwrap.dedent(
            """
            import sys
            import lava.magma.core.run_configs, lava.proc.lif.process, lava.proc.dense.models
            mine = [
                name for name, module in list(sys.modules.items())
                if name.startswith("lava")
                and type(getattr(module, "__loader__", None)).__module__ == "loihi.lava_compat"
            ]
            print(sorted(mine))
            """
        )
    )
    expected = ["lava.magma.compiler.var_model"] if HOOKED else []
    if _numpy() >= (2, 1):
        expected.append("lava.magma.core.process.ports.ports")
    expected.append("lava.magma.runtime.message_infrastructure.multiprocessing")
    assert out.splitlines()[-1] == repr(expected)


USED = """
import multiprocessing
multiprocessing.{}
import lava.magma.core.process.process
print("imported")
"""


@pytest.mark.lava
def test_multiprocessing_may_have_been_used_before(run_python: Callable[..., str]) -> None:
    """Lava sets a start method, which is an error once there is one."""
    assert "imported" in run_python(INSTALL.format("") + USED.format("Lock()"))


@pytest.mark.lava
def test_another_start_method_that_was_chosen_stays_an_error() -> None:
    code = INSTALL.format("") + USED.format("set_start_method('spawn')")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode != 0
    assert "context has already been set" in done.stderr


@pytest.mark.lava
def test_each_encoder_gets_defaults_of_its_own(run_python: Callable[..., str]) -> None:
    """The fields hold equal fresh instances (not the class, and above 3.10 not a shared one)."""
    out = run_python(
        INSTALL.format("")
        + textwrap.dedent(
            """
            from lava.magma.compiler import var_model as m
            a, b = m.CoreEncoder(), m.CoreEncoder()
            assert a == b and a.x == m.ByteEncoder(0, 0, 0), a
            assert m.ChipEncoder().z == m.AxonEncoder().hi == m.ByteEncoder()
            assert m.CoreEncoder(x=m.ByteEncoder(7)).x.base == 7
            print(a.x is b.x)
            """
        )
    )
    assert out.splitlines()[-1] == str(not HOOKED)


@pytest.mark.lava
def test_the_wheels_and_their_bytecode_are_left_as_they_are(run_python: Callable[..., str]) -> None:
    """Neither the sources nor the cached bytecode change: others on this Python share them."""
    var_model = _file_of_wheel("lava-nc", "lava/magma/compiler/var_model.py")
    watched = [
        var_model,
        Path(importlib.util.cache_from_source(str(var_model))),
        _file_of_wheel("lava-dl", "lava/lib/dl/netx/utils.py"),
        _file_of_wheel("lava-dl", "lava/lib/dl/slayer/neuron/rf.py"),
        _file_of_wheel("lava-dl", "lava/lib/dl/slayer/__init__.py"),
    ]

    def state() -> dict[str, str | None]:
        return {
            str(f): hashlib.sha256(f.read_bytes()).hexdigest() if f.exists() else None
            for f in watched
        }

    before = state()
    assert before[str(watched[0])] is not None
    if not HOOKED:
        watched.pop(1)  # there the interpreter itself may write the cache, of the plain module
        before = state()
    run_python(
        INSTALL.format("netx_only=True") + "import lava.lib.dl.netx, lava.magma.compiler.var_model"
    )
    assert state() == before


@pytest.mark.lava
def test_netx_alone_needs_neither_torch_nor_slayer(run_python: Callable[..., str]) -> None:
    out = run_python(
        INSTALL.format("netx_only=True")
        + textwrap.dedent(
            """
            import sys
            from lava.lib.dl import netx
            heavy = {"torch", "torchvision", "cv2", "matplotlib", "lava.lib.dl.slayer.block"}
            assert not heavy & set(sys.modules), heavy & set(sys.modules)

            # What is left out says so, whichever way it is asked for.
            import lava.lib.dl.slayer as slayer
            try:
                slayer.block
            except AttributeError as error:
                print(error)
            try:
                import lava.lib.dl.slayer.block
            except ModuleNotFoundError as error:
                print(error)
            import importlib.util
            assert importlib.util.find_spec("torch") is not None  # denied to that one file only
            try:
                lava_compat.install(netx_only=False)
            except Exception as error:
                print(type(error).__name__, error)
            """
        )
    ).splitlines()
    by_attribute, by_import, by_call = out[-3:]
    reason = "is left out of this process by lava_compat.install(netx_only=True)"
    assert by_attribute == f"lava.lib.dl.slayer.block {reason}"
    assert by_import == f"lava.lib.dl.slayer.block {reason}"
    assert by_call.startswith("PumiceError this process was set up for netx only")


@pytest.mark.lava
def test_the_function_cut_out_of_slayer_is_slayers_own(run_python: Callable[..., str]) -> None:
    """A resonator of decay 0.25 and period 8, from its sine and cosine in 12 bits."""
    code = textwrap.dedent(
        """
        from lava.lib.dl.slayer.neuron.rf import neuron_params
        p = neuron_params({"sinDecay": 2172, "cosDecay": 2172, "vThMant": 640})
        print(p["threshold"], round(p["period"], 9), round(p["decay"], 4))
        """
    )
    cut = run_python(INSTALL.format("netx_only=True") + code)
    assert cut.splitlines()[-1] == "10.0 8.0 0.2501"


@pytest.mark.lava
@pytest.mark.slow
def test_slayer_imports_and_trains_a_step(run_python: Callable[..., str]) -> None:
    """The whole of slayer, without torchvision and OpenCV where these are not installed."""
    out = run_python(
        INSTALL.format("")
        + textwrap.dedent(
            """
            import torch
            import lava.lib.dl.slayer as slayer
            block = slayer.block.cuba.Dense(
                {"threshold": 1.0, "current_decay": 1.0, "voltage_decay": 0.1}, 3, 2
            )
            block(torch.ones(1, 3, 4)).sum().backward()
            print(block.synapse.weight.grad is not None)
            """
        )
    )
    assert out.splitlines()[-1] == "True"


@pytest.mark.lava
@pytest.mark.skipif(
    lava_compat._has_vision(), reason="torchvision and OpenCV are here: nothing is stubbed"
)
def test_object_detection_says_what_it_needs(run_python: Callable[..., str]) -> None:
    out = run_python(
        INSTALL.format("")
        + textwrap.dedent(
            """
            import lava.lib.dl.slayer as slayer
            try:
                slayer.obd.models
            except AttributeError as error:
                print(error)
            try:
                import lava.lib.dl.slayer.object_detection.models
            except ModuleNotFoundError as error:
                print(error)
            """
        )
    ).splitlines()
    for line in out[-2:]:
        assert line.startswith("lava.lib.dl.slayer.object_detection.models needs torchvision and")


@pytest.mark.lava
@pytest.mark.skipif(_numpy() < (2, 0), reason="numpy 1 takes int() of a one-element array")
def test_only_an_input_layers_single_values_lose_their_axis(
    run_python: Callable[..., str], tmp_path: Path
) -> None:
    """A dense layer's weight of shape (1,) stays an array: netx reshapes it to a matrix."""
    out = run_python(
        INSTALL.format("netx_only=True")
        + textwrap.dedent(
            f"""
            import h5py
            from lava.lib.dl.netx.utils import NetDict
            with h5py.File({str(tmp_path / "a.net")!r}, "w") as f:
                for i, kind in enumerate(["input", "dense"]):
                    f[f"layer/{{i}}/type"] = kind.encode()
                    f[f"layer/{{i}}/weight"] = [7.0]
                    f[f"layer/{{i}}/bias"] = [3.0, 4.0]
            layers = NetDict({str(tmp_path / "a.net")!r})["layer"]
            print([layers[i][key].shape for i in (0, 1) for key in ("weight", "bias")])
            """
        )
    )
    assert out.splitlines()[-1] == "[(), (2,), (1,), (2,)]"


@pytest.mark.skipif(not HOOKED, reason="var_model is left alone on Python 3.10")
def test_another_lava_than_the_known_one_is_refused_in_one_line(
    run_python: Callable[..., str], tmp_path: Path
) -> None:
    """A var_model without the expected defaults is not guessed at."""
    _fake_lava(
        tmp_path,
        {
            "lava/magma/compiler/var_model.py": """
                from dataclasses import dataclass
                @dataclass
                class ByteEncoder:
                    base: int = 0
            """
        },
    )
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n" + textwrap.dedent(
        """
        from loihi import lava_compat
        from loihi.errors import PumiceError
        lava_compat.install()
        try:
            import lava.magma.compiler.var_model
        except PumiceError as error:
            print(error)
        """
    )
    said = run_python(code).splitlines()
    assert len(said) == 1
    assert "var_model.py: no dataclass default to replace was found" in said[0]
    assert "lava-nc 0.10.0" in said[0]


@pytest.mark.skipif(not HOOKED, reason="var_model is left alone on Python 3.10")
def test_only_unhashable_defaults_of_dataclasses_are_changed(
    run_python: Callable[..., str], tmp_path: Path
) -> None:
    """Other calls, other classes and the docstring's and __future__'s places are kept."""
    _fake_lava(
        tmp_path,
        {
            "lava/magma/compiler/var_model.py": '''
                """The docstring."""
                from __future__ import annotations
                from dataclasses import dataclass, field

                @dataclass
                class Inner:
                    base: int = 0

                class Plain:
                    shared: object = Inner()

                @dataclass(order=True)
                class Outer:
                    a: Inner = Inner()
                    b: int = int()
                    c: list = field(default_factory=list)
            '''
        },
    )
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n" + textwrap.dedent(
        """
        from loihi import lava_compat
        lava_compat.install()
        from lava.magma.compiler import var_model as m
        x, y = m.Outer(), m.Outer()
        print(m.__doc__, x.a is y.a, x.b, x.c is y.c, m.Plain().shared is m.Plain().shared)
        """
    )
    assert run_python(code).splitlines()[-1] == "The docstring. False 0 False True"


# ---------------------------------------------------------------- without Lava, and its status


@pytest.fixture
def versions(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Takes the place of the installed packages' metadata."""
    installed: dict[str, str] = {}

    def version(name: str) -> str:
        if name not in installed:
            raise importlib.metadata.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(importlib.metadata, "version", version)
    return installed


def test_without_lava_one_line_says_what_to_do(versions: dict[str, str]) -> None:
    status = lava_compat.status()
    assert (status.installed, status.lane, status.version_nc) == (False, None, None)
    with pytest.raises(PumiceError) as caught:
        lava_compat.require()
    said = str(caught.value)
    assert "\n" not in said
    missing = "lava-nc and lava-dl not installed"
    assert said.startswith(f"Lava is needed for this: {missing}: pip install")
    assert ("--ignore-requires-python" in said) == HOOKED


def test_half_an_installation_names_what_is_missing(versions: dict[str, str]) -> None:
    versions.update({"lava-nc": "0.10.0", "asteval": "1", "networkx": "3"})
    assert lava_compat.status().advice.startswith("lava-dl not installed: ")
    versions.update({"lava-dl": "0.6.0"})
    del versions["asteval"]
    status = lava_compat.status()
    assert not status.installed
    assert status.advice.startswith("asteval not installed: ")


def test_a_complete_installation_names_its_lane(versions: dict[str, str]) -> None:
    versions.update({"lava-nc": "0.10.0", "lava-dl": "0.6.0", "asteval": "1", "networkx": "3"})
    status = lava_compat.require()
    assert status.lane == ("import hook" if HOOKED else "official")
    assert status.advice == ""
    versions["lava-nc"] = "0.9.0"
    assert "found lava-nc 0.9.0 and lava-dl 0.6.0, proved against" in lava_compat.require().advice


def test_absent_lava_stays_an_ordinary_import_error_under_the_hook(
    run_python: Callable[..., str], tmp_path: Path
) -> None:
    """Callers that test for Lava by importing it must see the error they expect."""
    code = textwrap.dedent(
        f"""
        import sys
        import loihi  # brings numpy, which goes out of sight with site-packages
        sys.path = [p for p in sys.path if "site-packages" not in p] + [{str(tmp_path)!r}]
        from loihi import lava_compat
        lava_compat.install(netx_only=True)
        try:
            import lava.lib.dl.netx
        except ModuleNotFoundError as error:
            print(error.name)
        """
    )
    (tmp_path / "lava" / "lib" / "dl").mkdir(parents=True)
    assert run_python(code).splitlines()[-1] == "lava.lib.dl.netx"


def test_installing_twice_puts_one_hook_in_place(run_python: Callable[..., str]) -> None:
    out = run_python(
        textwrap.dedent(
            """
            import sys
            before = len(sys.meta_path)
            from loihi import lava_compat
            for netx_only in (None, True, None, True, False):
                lava_compat.install(netx_only=netx_only)
            print(len(sys.meta_path) - before)
            """
        )
    )
    assert out.splitlines()[-1] == "1"


def test_the_module_itself_imports_nothing_heavy(run_python: Callable[..., str]) -> None:
    code = textwrap.dedent(
        """
        import importlib.util, sys
        before = set(sys.modules)
        # Past loihi/__init__, which may bring numpy for those who want the networks.
        spec = importlib.util.spec_from_file_location("lava_compat", "loihi/lava_compat.py")
        source = spec.loader.get_source("lava_compat").replace(
            "from loihi.errors import PumiceError", "PumiceError = Exception"
        )
        module = type(sys)("lava_compat")
        sys.modules["lava_compat"] = module
        exec(compile(source, "lava_compat.py", "exec"), module.__dict__)
        tops = {name.split(".")[0] for name in set(sys.modules) - before} - {"lava_compat"}
        print(sorted(tops - set(sys.stdlib_module_names)))
        """
    )
    assert run_python(code).splitlines()[-1] == "[]"
