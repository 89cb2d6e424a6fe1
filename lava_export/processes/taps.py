"""What feeds a network in Lava and what writes down what it does, by way of mapped ``.npy`` files.

Reading a Var back costs Lava some 45 µs an element, and a Var is copied into its process when it
is built. A mapped file is neither: the process that computes a number writes it where it stays.
Files hold time first; a layer's numbers are in Lava's own order, (W, H, C) for an image.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from lava.magma.core.decorator import implements, requires, tag
from lava.magma.core.model.py.model import PyLoihiProcessModel
from lava.magma.core.model.py.ports import PyOutPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.process.ports.ports import OutPort
from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol
from lava.proc.lif.models import PyLifResetModelBitAcc
from lava.proc.lif.process import LIFReset


class Source(AbstractProcess):
    """Sends the rows of a file, each ``repeat`` steps long, then zeros.

    file: ``.npy`` of whole numbers ``[runs, rows, *shape]``; ``index`` says which run this is.
    """

    def __init__(self, *, file: str, index: int, shape: tuple[int, ...], repeat: int) -> None:
        super().__init__(file=file, index=index, shape=shape, repeat=repeat)
        self.s_out = OutPort(shape=shape)


@implements(proc=Source, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class SourceModel(PyLoihiProcessModel):
    """Source on a CPU."""

    s_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32)

    def __init__(self, proc_params: Any) -> None:
        super().__init__(proc_params)
        self.rows = np.load(proc_params["file"], mmap_mode="r")[proc_params["index"]]
        self.repeat = proc_params["repeat"]
        self.silence = np.zeros(proc_params["shape"], dtype=np.int32)

    def run_spk(self) -> None:
        """One step."""
        row = (self.time_step - 1) // self.repeat
        self.s_out.send(self.rows[row].astype(np.int32) if row < len(self.rows) else self.silence)


@implements(proc=LIFReset, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class TappedLIFReset(PyLifResetModelBitAcc):
    """Lava's own model, unchanged; what it sent, and its u and v after each step, go to files.

    The process parameter ``taps`` is the files, ``{"spikes": path, "u": path, "v": path}``, all of
    them optional and each ``.npy`` of ``[runs, steps, *shape]``; and which run this is.
    """

    def __init__(self, proc_params: Any) -> None:
        super().__init__(proc_params)
        files, index = proc_params.get("taps", ({}, 0))
        self.taps = {s: np.load(file, mmap_mode="r+")[index] for s, file in files.items()}

    def start(self) -> None:
        """Lava's start, the spike port's ``send`` tapped."""
        if "spikes" in self.taps:
            send, rows = self.s_out.send, self.taps.pop("spikes")

            def tapped(message: Any) -> None:
                rows[self.time_step - 1] = message
                send(message)

            self.s_out.send = tapped
        super().start()

    def run_spk(self) -> None:
        """One step of Lava's."""
        super().run_spk()
        for state, rows in self.taps.items():
            rows[self.time_step - 1] = getattr(self, state)
