"""What feeds a network in Lava and what writes down what it does, by way of mapped ``.npy`` files.

Reading a Var back costs Lava some 45 µs an element, and a Var is copied into its process when it
is built. A mapped file is neither: the process that computes a number writes it where it stays.
Files hold time first; a layer's numbers are in Lava's own order, (W, H, C) for an image.
"""

from __future__ import annotations

from typing import Any, ClassVar

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
from lava.proc.rf.models import PyRFModelFixed
from lava.proc.rf_iz.models import PyRF_IZModelFixed
from lava.proc.sdn.models import PyDeltaModelFixed, PySigmaDeltaModelFixed, PySigmaModelFixed

from lava_export.processes.soft_lif import SoftLIFModel


class Source(AbstractProcess):
    """Sends samples from a file, one every ``interval`` steps, and zeros between and after them.

    file: ``.npy`` of whole numbers ``[rows, N, *shape]``. samples: (first, count) of the N, one
        after the other. repeat: the steps that a row is sent for.
    """

    def __init__(
        self,
        *,
        file: str,
        samples: tuple[int, int],
        shape: tuple[int, ...],
        repeat: int,
        interval: int,
    ) -> None:
        super().__init__(file=file, samples=samples, shape=shape, repeat=repeat, interval=interval)
        self.s_out = OutPort(shape=shape)


@implements(proc=Source, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class SourceModel(PyLoihiProcessModel):
    """Source on a CPU."""

    s_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32)

    def __init__(self, proc_params: Any) -> None:
        super().__init__(proc_params)
        self.rows = np.load(proc_params["file"], mmap_mode="r")
        self.first, self.count = proc_params["samples"]
        self.repeat, self.interval = proc_params["repeat"], proc_params["interval"]
        self.silence = np.zeros(proc_params["shape"], dtype=np.int32)

    def run_spk(self) -> None:
        """One step."""
        sample, step = divmod(self.time_step - 1, self.interval)
        row = step // self.repeat
        sends = sample < self.count and row < len(self.rows)
        now = self.rows[row, self.first + sample].astype(np.int32) if sends else self.silence
        self.s_out.send(now)


class _Tapped(PyLoihiProcessModel):
    """Lava's own model, unchanged; what it sent, and its states after each step, go to files.

    The process parameter ``taps`` is the files, ``{"spikes": path, "u": path, "v": path}``, all of
    them optional and each ``.npy`` of ``[runs, steps, *shape]``; and which run this is. ``names``:
    what Lava calls u and v (:class:`loihi.reference.Trace`).
    """

    names: ClassVar[dict[str, str]]

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
            rows[self.time_step - 1] = getattr(self, self.names[state])


MODELS: dict[Any, Any] = {
    model.implements_process: type(
        f"Tapped{model.__name__}", (_Tapped, model), {"names": {"u": u, "v": v}}
    )
    for model, u, v in (
        (PyLifResetModelBitAcc, "u", "v"),
        (SoftLIFModel, "u", "v"),
        (PyDeltaModelFixed, "act", "act"),
        (PySigmaDeltaModelFixed, "sigma", "act"),
        (PySigmaModelFixed, "sigma", "sigma"),
        (PyRFModelFixed, "real", "imag"),
        (PyRF_IZModelFixed, "real", "imag"),
    )
}
"""A process's tapped model; for a run configuration's ``exception_proc_model_map``."""
