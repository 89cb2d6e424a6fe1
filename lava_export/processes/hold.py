"""Makes spikes wait where ways of different lengths meet, and keeps samples apart in a loop."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
from lava.magma.core.decorator import implements, requires, tag
from lava.magma.core.model.py.model import PyLoihiProcessModel
from lava.magma.core.model.py.ports import PyInPort, PyOutPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.process.ports.ports import InPort, OutPort
from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol


class Hold(AbstractProcess):
    """Passes messages on ``steps`` steps later, unchanged; those outside its window never.

    On a chip the wait is synaptic delay, or a population of relay neurons a step.

    shape: of a message. steps: 0 (in the step in which it comes) or more.
    window: ``(first, length, interval)``: what comes at the steps first .. first + length − 1
        (mod interval) passes, in place of the rest zeros. None: all passes.
    """

    def __init__(
        self, *, shape: tuple[int, ...], steps: int, window: tuple[int, int, int] | None = None
    ) -> None:
        super().__init__(shape=shape, steps=steps, window=window)
        self.s_in = InPort(shape=shape)
        self.s_out = OutPort(shape=shape)


@implements(proc=Hold, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class HoldModel(PyLoihiProcessModel):
    """Hold on a CPU."""

    s_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32)
    s_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32)

    def __init__(self, proc_params: Any) -> None:
        super().__init__(proc_params)
        self.window = proc_params["window"]
        self.nothing = np.zeros(proc_params["shape"], dtype=np.int32)
        self.held = deque([self.nothing] * proc_params["steps"])

    def run_spk(self) -> None:
        """One step; what is due goes out first, as in Lava's synapses, so that loops can start."""
        if self.held:
            self.s_out.send(self.held.popleft())
            self.held.append(self._heard())
        else:
            self.s_out.send(self._heard())

    def _heard(self) -> np.ndarray:
        message = self.s_in.recv()
        if self.window is None:
            return message
        first, length, interval = self.window
        return message if (self.time_step - first) % interval < length else self.nothing
