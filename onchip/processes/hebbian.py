"""Processes and fixed-point models (lava-nc 0.10.0) of neurons that learn by their own spikes, and
of what rewards them.

Steps are Lava's, counted from 1.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from lava.magma.core.decorator import implements, requires, tag
from lava.magma.core.model.py.model import PyLoihiProcessModel
from lava.magma.core.model.py.ports import PyInPort, PyOutPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.process.ports.ports import InPort, OutPort
from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.process.variable import Var
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol
from lava.proc.lif import models as lif_models
from lava.proc.lif.process import LIFReset
from numpy.typing import NDArray

TRACE_MAX = 127


class Stream(AbstractProcess):
    """Sends ``messages`` ``[steps, …]``, one a step, and then silence."""

    def __init__(self, *, messages: NDArray[Any]) -> None:
        super().__init__(messages=messages)
        self.s_out = OutPort(shape=messages.shape[1:])


@implements(proc=Stream, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyStream(PyLoihiProcessModel):
    """Looks the message up from the time step."""

    s_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32)

    def __init__(self, proc_params: Any) -> None:
        super().__init__(proc_params)
        self.messages = proc_params["messages"]
        self.silence = np.zeros(self.messages.shape[1:], dtype=np.int32)

    def run_spk(self) -> None:
        """Send one step."""
        step = self.time_step - 1
        sends = step < len(self.messages)
        self.s_out.send(self.messages[step].astype(np.int32) if sends else self.silence)


class HebbianLIF(LIFReset):
    """LIFReset that tells its input synapses of its spikes, of a trace of them, and of a reward.

    ::

        bap = s             y1 = min(y1 · keep / 4096 + impulse · s, 127)
        y2  = clip(reward, 0, 127)        y3 = clip(−reward, 0, 127)

    a_reward: the reward, one value a neuron. keep, impulse: of the trace; 0 and 0 for none.
    recorded, file: of how many first steps its spikes go into an ``.npy``, and which.
    """

    def __init__(
        self, *, keep: int, impulse: int, recorded: int = 0, file: str = "", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        more = {"keep": keep, "impulse": impulse, "recorded": recorded, "file": file}
        for name, value in more.items():
            self.proc_params[name] = value
        shape = self.a_in.shape
        self.a_reward = InPort(shape=shape)
        self.s_out_bap = OutPort(shape=shape)
        self.s_out_y1 = OutPort(shape=shape)
        self.s_out_y2 = OutPort(shape=shape)
        self.s_out_y3 = OutPort(shape=shape)
        self.trace = Var(shape=shape, init=0)


@implements(proc=HebbianLIF, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyHebbianLIF(lif_models.PyLifResetModelBitAcc):
    """Lava's LIFReset, which sends what its synapses learn from after its spikes."""

    implements_process = None  # the parent's; Lava refuses to overwrite it

    a_reward: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32)
    s_out_bap: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, bool)
    s_out_y1: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32)
    s_out_y2: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32)
    s_out_y3: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32)
    trace: np.ndarray = LavaPyType(np.ndarray, np.int32)

    def __init__(self, proc_params: Any) -> None:
        super().__init__(proc_params)
        self.keep = proc_params["keep"]
        self.impulse = proc_params["impulse"]
        self.file = proc_params["file"]
        self.seen = np.zeros((proc_params["recorded"], *proc_params["shape"]), dtype=np.uint8)

    def reset_voltage(self, spike_vector: NDArray[Any]) -> None:
        """Lava calls this with the step's spikes."""
        self.fired = np.array(spike_vector, dtype=bool)
        super().reset_voltage(spike_vector)

    def run_spk(self) -> None:
        """The neuron's step, then its trace and the reward."""
        super().run_spk()
        if self.time_step <= len(self.seen):
            self.seen[self.time_step - 1] = self.fired
            if self.file and self.time_step == len(self.seen):
                np.save(self.file, self.seen)
        faded = self.trace * self.keep >> 12
        self.trace[:] = np.where(self.fired, np.minimum(faded + self.impulse, TRACE_MAX), faded)
        reward = self.a_reward.recv()
        self.s_out_bap.send(self.fired)
        self.s_out_y1.send(self.trace)
        self.s_out_y2.send(np.clip(reward, 0, TRACE_MAX).astype(np.int32))
        self.s_out_y3.send(np.clip(-reward, 0, TRACE_MAX).astype(np.int32))


class Judge(AbstractProcess):
    """Adds up what it receives over the T steps of a sample, decides after the last for the largest
    sum, the first of equals, and sends the reward in that class's place, for as many steps as an
    epoch has.

    ``by_class``: ±reward by whether the decision is the sample's class, less what is expected if
    there is a baseline: expected += (reward − expected) / 2^baseline, in 256ths. Else ``answers``
    are the rewards themselves. arrival: the step before the first of a sample.
    """

    def __init__(
        self,
        *,
        classes: int,
        answers: NDArray[Any],
        by_class: bool,
        reward: int,
        baseline: int,
        epoch: int,
        time_steps: int,
        interval: int,
        arrival: int,
    ) -> None:
        super().__init__(
            classes=classes,
            answers=answers,
            by_class=by_class,
            reward=reward,
            baseline=baseline,
            epoch=epoch,
            time_steps=time_steps,
            interval=interval,
            arrival=arrival,
        )
        self.a_in = InPort(shape=(classes,))
        self.s_out = OutPort(shape=(classes,))
        self.r = Var(shape=(classes,), init=0)


@implements(proc=Judge, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyJudge(PyLoihiProcessModel):
    """Integer readout and reward."""

    a_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32)
    s_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32)
    r: np.ndarray = LavaPyType(np.ndarray, np.int64)

    def __init__(self, proc_params: Any) -> None:
        super().__init__(proc_params)
        self.given: dict[str, Any] = {
            name: proc_params[name]
            for name in (
                "answers", "by_class", "reward", "baseline",
                "epoch", "time_steps", "interval", "arrival",
            )
        }  # fmt: skip
        self.left = self.value = self.expected = self.decided = 0

    def run_spk(self) -> None:
        """Add up, decide, send."""
        given = self.given
        sample, step = divmod(self.time_step - 1 - given["arrival"], given["interval"])
        received = self.a_in.recv()
        self.r[:] = received if step == 0 else self.r + received
        answers = given["answers"]
        if step == given["time_steps"] - 1 and 0 <= sample < len(answers):
            self.left = given["epoch"]
            self.value = int(answers[sample])
            self.decided = int(np.argmax(self.r))
            if given["by_class"]:
                right = self.decided == self.value
                self.value = given["reward"] if right else -given["reward"]
                if given["baseline"]:
                    off = (self.value << 8) - self.expected
                    self.expected += off >> given["baseline"]
                    self.value = max(-TRACE_MAX, min(TRACE_MAX, off >> 8))
        sends = self.left > 0
        self.left -= sends
        message = np.zeros(len(self.r), dtype=np.int32)
        message[self.decided] = self.value if sends else 0
        self.s_out.send(message)
