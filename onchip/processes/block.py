"""Processes and fixed-point models (lava-nc 0.10.0) of the local learning block.

Ports are flat vectors. Steps are Lava's, counted from 1; a *local* step of a process is counted
from the step in which the first input of a sample can reach it (see ``Network.arrivals``).
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

from loihi import formats
from onchip.processes.synapse import EightBitDense, PyEightBitDense

TRACE_MAX = 127
"""Traces, and the third factors sent as such, are 7 bits and unsigned."""


class SampleSource(AbstractProcess):
    """Sends the payloads of one sample after the other, with silence after each.

    payloads: ``[T, N, inputs]``; gap: silent steps after each sample.
    """

    def __init__(self, *, payloads: NDArray[Any], gap: int) -> None:
        super().__init__(payloads=payloads, gap=gap)
        self.s_out = OutPort(shape=payloads.shape[2:])


@implements(proc=SampleSource, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PySampleSource(PyLoihiProcessModel):
    """Looks the payload up from the time step."""

    s_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32)

    def __init__(self, proc_params: Any) -> None:
        super().__init__(proc_params)
        self.payloads = proc_params["payloads"]
        self.interval = len(self.payloads) + proc_params["gap"]
        self.silence = np.zeros(self.payloads.shape[2:], dtype=np.int32)

    def run_spk(self) -> None:
        """Send one step."""
        sample, step = divmod(self.time_step - 1, self.interval)
        sends = sample < self.payloads.shape[1] and step < len(self.payloads)
        self.s_out.send(self.payloads[step, sample].astype(np.int32) if sends else self.silence)


class MirrorDense(EightBitDense):
    """The same synapses in both directions: what comes back goes through the weights as they are.

    e_in: an error for each output. b_out: what of it reaches each input, a step later, as through
    a Dense of the mantissas' transpose.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        out, inputs = kwargs["weights"].shape
        self.e_in = InPort(shape=(out,))
        self.b_out = OutPort(shape=(inputs,))
        self.b_buff = Var(shape=(inputs,), init=0)


@implements(proc=MirrorDense, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyMirrorDense(PyEightBitDense):
    """Sends back what came a step before, then takes the next."""

    implements_process = None  # the parent's; Lava refuses to overwrite it
    e_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32)
    b_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32)
    b_buff: np.ndarray = LavaPyType(np.ndarray, np.int32)

    def run_spk(self) -> None:
        """Both directions' step; backwards first, so that nobody waits for anybody."""
        self.b_out.send(self.b_buff)
        super().run_spk()
        error = self.e_in.recv().astype(np.int64)
        self.b_buff = (self.weights.astype(np.int64).T @ error).astype(np.int32)


class BlockLIF(LIFReset):
    """LIFReset that turns the error it receives into the third factor of its input synapses.

    With e the error through the feedback weights, and v before the reset at a spike::

        g  = sgn(e) · (|e| >> error_shift) · 1[|v − (vth << 6)| < window]
        y1 = clip(g, 0, 127)        y2 = clip(−g, 0, 127)

    a_error: the error, one value a neuron. bap sends zeros: in the fixed-point model a post-spike
    would clear the traces. s_out_error: with ``sends``, clip(g, ±127) as graded spikes, for a layer
    below.
    """

    def __init__(self, *, window: int, error_shift: int, sends: bool, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.proc_params["window"] = window
        self.proc_params["error_shift"] = error_shift
        self.proc_params["sends"] = sends
        shape = self.a_in.shape
        self.a_error = InPort(shape=shape)
        self.s_out_bap = OutPort(shape=shape)
        self.s_out_y1 = OutPort(shape=shape)
        self.s_out_y2 = OutPort(shape=shape)
        self.s_out_y3 = OutPort(shape=shape)
        self.s_out_error = OutPort(shape=shape)


@implements(proc=BlockLIF, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyBlockLIF(lif_models.PyLifResetModelBitAcc):
    """Lava's LIFReset, which sends the third factor after its spikes."""

    implements_process = None  # the parent's; Lava refuses to overwrite it

    a_error: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32)
    s_out_bap: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, bool)
    s_out_y1: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32)
    s_out_y2: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32)
    s_out_y3: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32)
    s_out_error: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32)

    def __init__(self, proc_params: Any) -> None:
        super().__init__(proc_params)
        self.sends = proc_params["sends"]
        self.window = proc_params["window"]
        self.error_shift = proc_params["error_shift"]

    def reset_voltage(self, spike_vector: NDArray[Any]) -> None:
        """Lava calls this between v and its reset: the moment at which the window looks at v."""
        distance = np.abs(self.v.astype(np.int64) - int(np.squeeze(self.effective_vth)))
        self.near = distance < self.window
        super().reset_voltage(spike_vector)

    def run_spk(self) -> None:
        """The neuron's step, then its third factor."""
        super().run_spk()
        error = self.a_error.recv().astype(np.int64)
        factor = _shift(error, self.error_shift) * self.near
        _send_factor(self, factor)
        if self.sends:
            self.s_out_error.send(np.clip(factor, -TRACE_MAX, TRACE_MAX).astype(np.int32))


def _shift(x: NDArray[Any], bits: int) -> NDArray[Any]:
    """``x / 2^bits``, rounded towards zero: a third factor must not lean to one side."""
    return np.sign(x) * (np.abs(x) >> bits)


def _send_factor(model: Any, factor: NDArray[Any]) -> None:
    """A signed third factor as two unsigned traces, and no post-spikes."""
    nothing = np.zeros(factor.shape, dtype=np.int32)
    model.s_out_bap.send(nothing.astype(bool))
    model.s_out_y1.send(np.clip(factor, 0, TRACE_MAX).astype(np.int32))
    model.s_out_y2.send(np.clip(-factor, 0, TRACE_MAX).astype(np.int32))
    model.s_out_y3.send(nothing)


class LocalError(AbstractProcess):
    """Reads the classes out, compares them with the label, and sends the error back.

    ::

        r = decay(r, leak) + a                            0 before a sample's first step
        d = clip(amplitude · onehot − clip(r >> readout_shift, ±127), ±127)
        e = sgn(d) · (|d| >> h)           h: how many of the halvings have come

    during the T steps of a sample, e = 0 in the gap and in ``silent`` steps. The i-th halving comes
    when 2^−i of the samples are left. With ``sends`` e leaves as graded spikes on s_out_error, and
    always as third factor (y1 = clip(e, 0, 127), y2 = clip(−e, 0, 127)) for a plastic readout.

    labels: the class of each sample, in the order of their coming. arrival: the step before the
    first local step. leak: 0..4096, as a neuron's du. silent: ``[samples, T]``, or None.
    """

    def __init__(
        self,
        *,
        classes: int,
        labels: NDArray[Any],
        time_steps: int,
        gap: int,
        arrival: int,
        amplitude: int,
        leak: int,
        readout_shift: int,
        halvings: int,
        silent: NDArray[Any] | None,
        sends: bool,
    ) -> None:
        super().__init__(
            classes=classes,
            labels=labels,
            time_steps=time_steps,
            gap=gap,
            arrival=arrival,
            amplitude=amplitude,
            leak=leak,
            readout_shift=readout_shift,
            halvings=halvings,
            silent=silent,
            sends=sends,
        )
        shape = (classes,)
        self.a_in = InPort(shape=shape)
        self.s_out_error = OutPort(shape=shape)
        self.s_out_bap = OutPort(shape=shape)
        self.s_out_y1 = OutPort(shape=shape)
        self.s_out_y2 = OutPort(shape=shape)
        self.s_out_y3 = OutPort(shape=shape)
        self.r = Var(shape=shape, init=0)


@implements(proc=LocalError, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyLocalError(PyLoihiProcessModel):
    """Integer readout and error."""

    a_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32)
    s_out_error: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32)
    s_out_bap: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, bool)
    s_out_y1: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32)
    s_out_y2: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32)
    s_out_y3: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32)
    r: np.ndarray = LavaPyType(np.ndarray, np.int64)

    def __init__(self, proc_params: Any) -> None:
        super().__init__(proc_params)
        self.steps = proc_params["time_steps"]
        self.interval = self.steps + proc_params["gap"]
        self.arrival = proc_params["arrival"]
        self.labels = proc_params["labels"]
        self.amplitude = proc_params["amplitude"]
        self.leak = proc_params["leak"]
        self.readout_shift = proc_params["readout_shift"]
        self.halvings = range(1, proc_params["halvings"] + 1)
        self.silent = proc_params["silent"]
        self.sends = proc_params["sends"]

    def run_spk(self) -> None:
        """Integrate, compare, send."""
        a = self.a_in.recv()
        sample, step = divmod(self.time_step - 1 - self.arrival, self.interval)
        if step == 0:
            self.r[:] = 0
        self.r[:] = formats.decay(self.r, self.leak) + a
        error = np.zeros(len(self.r), dtype=np.int64)
        speaks = 0 <= sample < len(self.labels) and step < self.steps
        if speaks and (self.silent is None or not self.silent[sample, step]):
            error -= np.clip(self.r >> self.readout_shift, -TRACE_MAX, TRACE_MAX)
            error[self.labels[sample]] += self.amplitude
            left = len(self.labels) - sample
            halved = sum(left << i <= len(self.labels) for i in self.halvings)
            error = _shift(np.clip(error, -TRACE_MAX, TRACE_MAX), halved)
        if self.sends:
            self.s_out_error.send(error.astype(np.int32))
        _send_factor(self, error)
