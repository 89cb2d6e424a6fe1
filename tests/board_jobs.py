"""What the tests of deploy have supervised children do, and a board's extension that is none."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import sys
from pathlib import Path
from typing import Any

from lava_export import supervise

SINFO = """#!/bin/sh
if [ "$1" = -N ]; then
    echo "NODELIST   NODES PARTITION STATE"
    echo "ncl-og-01      1 oheogulch idle"
    echo "ncl-og-02      1 oheogulch down*"
else
    echo "PARTITION  AVAIL TIMELIMIT NODES STATE NODELIST"
    echo "oheogulch*    up 20:00 1 idle ncl-og-01"
    echo "kapohopoint   up 20:00 1 down ncl-kp-01"
fi
"""

ADAPTERS = '''
"""Adapters that pass on what they get, those onto the chip LAG steps later."""
import os
from collections import deque

import numpy as np
from lava.magma.core.decorator import implements, requires, tag
from lava.magma.core.model.py.model import PyLoihiProcessModel
from lava.magma.core.model.py.ports import PyInPort, PyOutPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.process.ports.ports import InPort, OutPort
from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol


class _Adapter(AbstractProcess):
    def __init__(self, *, shape, num_message_bits=0):
        super().__init__(shape=shape, lag=self.lag, bits=num_message_bits)
        self.inp, self.out = InPort(shape=shape), OutPort(shape=shape)


class PyToNxAdapter(_Adapter):
    lag = int(os.environ.get("LAG", "0"))


class PyToN3ConvAdapter(_Adapter):
    lag = int(os.environ.get("LAG", "0"))


class NxToPyAdapter(_Adapter):
    lag = 0


class _Model(PyLoihiProcessModel):
    inp: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32)
    out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32)

    def __init__(self, proc_params):
        super().__init__(proc_params)
        rest = np.zeros(proc_params["shape"], dtype=np.int32)
        self.waiting = deque([rest] * proc_params["lag"])

    def run_spk(self):
        self.waiting.append(self.inp.recv())
        self.out.send(self.waiting.popleft())


@implements(proc=PyToNxAdapter, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class A(_Model):
    pass


@implements(proc=PyToN3ConvAdapter, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class B(_Model):
    pass


@implements(proc=NxToPyAdapter, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class C(_Model):
    pass
'''


def pretend(folder: Path) -> tuple[Path, Path]:
    """An extension and a sinfo that are none: what goes on Python's path, and on the shell's."""
    files = {
        "lava/utils/loihi2_profiler.py": "",
        "lava/proc/embedded_io/__init__.py": "from lava.proc.embedded_io import spike\n",
        "lava/proc/embedded_io/spike.py": ADAPTERS,
        "lava/magma/core/model/c/model.py": "class CLoihiProcessModel:\n    pass\n",
        "lava/magma/core/model/nc/model.py": "class AbstractNcProcessModel:\n    pass\n",
    }
    for name, text in files.items():
        path = folder / "extension" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    sinfo = folder / "bin" / "sinfo"
    sinfo.parent.mkdir()
    sinfo.write_text(SINFO)
    sinfo.chmod(0o755)
    return folder / "extension", folder / "bin"


def _script(place: str) -> Any:
    spec = importlib.util.spec_from_file_location("board_script", Path(place, "run.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _said(script: Any, arguments: list[str]) -> tuple[int, str]:
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = script.main(arguments, script.HERE)
    return code, said.getvalue()


def simulate(folder: Path, *, places: list[str], arguments: list[list[str]]) -> dict[str, Any]:
    """The scripts of several folders, one after the other: their statuses and what they print."""
    supervise.prepare_lava()
    pairs = zip(places, arguments, strict=True)
    found = [_said(_script(place), ["--simulate", *more]) for place, more in pairs]
    return {"codes": [code for code, _ in found], "logs": [log for _, log in found]}


def on_pretended_board(
    folder: Path, *, places: list[str], arguments: list[list[str]], extension: str, lag: int
) -> dict[str, Any]:
    """As on a board, adapters and all, but with the simulator's models for those of the chip."""
    sys.path.insert(0, extension)
    os.environ["LAG"] = str(lag)
    supervise.prepare_lava()
    found = []
    for place, more in zip(places, arguments, strict=True):
        script = _script(place)
        configured = script.configured

        def simulated(_: bool, host: Any, chosen: Any, configured: Any = configured) -> Any:
            return configured(True, host, chosen)

        script.configured = simulated
        found.append(_said(script, more))
    return {"codes": [code for code, _ in found], "logs": [log for _, log in found]}
