"""Lava's own process models, stepped by hand: no runtime, no operating system processes.

Each model is built by Lava's own builder from Lava's own Process, so that its variables have the
types that they have in a run. Between the models stand wires that cast to the sender's type, as
Lava's channels do.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from loihi import (
    Conv,
    Delta,
    Dense,
    Inject,
    Network,
    Neuron,
    Resonator,
    Sigma,
    lava_compat,
)
from loihi.formats import weight_format
from loihi.network import Shape
from loihi.neurons import AnyNeuron
from loihi.reference import Trace

NEVER = 1 << 17  # what netx takes for a threshold that no v reaches


class Wire:
    """One message at a time, in the sender's type."""

    def __init__(self, dtype: Any) -> None:
        self.dtype, self.waiting = dtype, []

    def send(self, message: np.ndarray) -> None:
        self.waiting.append(np.asarray(message).astype(self.dtype))

    def recv(self) -> np.ndarray:
        return self.waiting.pop(0)


def stream(network: Network, x: np.ndarray, interval: int) -> Trace:
    """What :func:`loihi.reference.stream` returns for one sample's payloads ``[steps, *shape]``.

    Of networks without soft resets and resonators.
    """
    lava_compat.install(netx_only=True)
    from lava.proc.dense.models import PyDelayDenseModelBitAcc, PyDenseModelBitAcc

    last = Wire(np.int32)
    source, chain = last, []
    shape: Shape = network.input_shape
    graded = not network.encoding.binary
    for layer, arrival in zip(network.layers, network.arrivals, strict=True):
        synapse, out = layer.synapse, layer.synapse.output_shape(shape)
        flattens = isinstance(synapse, Dense) and len(shape) == 3
        if isinstance(synapse, Inject):
            model = None
        else:
            process = _conv(synapse, shape, graded) if isinstance(synapse, Conv) else None
            if process is not None:
                from lava.proc.conv.models import PyConvModelFixed as kind
            else:
                process = _dense(synapse, graded)
                kind = PyDenseModelBitAcc if synapse.delay is None else PyDelayDenseModelBitAcc
            model = _build(kind, process, s_in=last, a_out=(last := Wire(np.int32)))
        kind, neurons, states = _neurons(layer.neuron, out, interval, arrival + 1)
        a_in, last = last, Wire(np.int32)
        chain.append((model, _build(kind, neurons, a_in=a_in, s_out=last), flattens, states))
        shape, graded = out, layer.neuron.graded
    spikes, u, v = ([[] for _ in chain] for _ in range(3))
    for t, payload in enumerate(x, start=1):
        source.send(_turned(payload))
        for index, (synapse_model, neuron_model, flattens, states) in enumerate(chain):
            if synapse_model is not None:
                if flattens:
                    wire = synapse_model.s_in.csp_ports[0]
                    wire.waiting[0] = _turned(wire.waiting[0]).reshape(-1)
                synapse_model.time_step = t
                synapse_model.run_spk()
            neuron_model.time_step = t
            neuron_model.run_spk()
            sent = neuron_model.s_out.csp_ports[0].waiting[-1]
            values = (sent, *(getattr(neuron_model, state) for state in states))
            for rows, value in zip((spikes, u, v), values, strict=True):
                rows[index].append(_turned(np.asarray(value)).copy())
    return Trace(*([np.stack(rows) for rows in state] for state in (spikes, u, v)))


def step_neuron(
    neuron: Neuron, a: np.ndarray, u: np.ndarray, v: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """u, v and spikes after one step of Lava's LIFReset (not in its reset) from any state."""
    lava_compat.install(netx_only=True)
    from lava.proc.lif.models import PyLifResetModelBitAcc

    a_in, s_out = Wire(np.int32), Wire(np.int32)
    model = _build(PyLifResetModelBitAcc, _lif(neuron, a.shape, 9, 0), a_in=a_in, s_out=s_out)
    model.u[:], model.v[:] = u, v
    model.time_step = 1
    a_in.send(a)
    model.run_spk()
    return model.u, model.v, s_out.recv()


def run_neurons(neuron: AnyNeuron, a: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What is sent, u and v (as :class:`loihi.reference.Trace` says) at each of ``[T, …]`` steps.

    a: input ``[T, units]``; of resonators ``[T, 2, units]``.
    """
    lava_compat.install(netx_only=True)
    resonates = isinstance(neuron, Resonator)
    ports = ("a_real_in", "a_imag_in") if resonates else ("a_in",)
    inputs, s_out = {port: Wire(np.int32) for port in ports}, Wire(np.int32)
    kind, process, states = _neurons(neuron, a.shape[-1:], 1000, 0)
    model = _build(kind, process, s_out=s_out, **inputs)
    found: list[list[np.ndarray]] = [[], [], []]
    for t, now in enumerate(a, start=1):
        for wire, part in zip(inputs.values(), now.reshape(len(ports), -1), strict=True):
            wire.send(part)
        model.time_step = t
        model.run_spk()
        values = (s_out.recv(), *(getattr(model, state) for state in states))
        for rows, value in zip(found, values, strict=True):
            rows.append(np.array(value))
    sent, u, v = (np.stack(rows) for rows in found)
    return sent, u, v


def _neurons(
    neuron: AnyNeuron, shape: Shape, interval: int, offset: int
) -> tuple[Any, Any, tuple[str, str]]:
    """Model, process, and the states that stand for u and v; ``shape`` is ours."""
    from lava.proc.lif.models import PyLifResetModelBitAcc
    from lava.proc.rf.models import PyRFModelFixed
    from lava.proc.rf.process import RF
    from lava.proc.rf_iz.models import PyRF_IZModelFixed
    from lava.proc.rf_iz.process import RF_IZ
    from lava.proc.sdn import models, process

    if isinstance(neuron, Neuron):
        return PyLifResetModelBitAcc, _lif(neuron, shape, interval, offset), ("u", "v")
    if isinstance(neuron, Sigma):
        return models.PySigmaModelFixed, process.Sigma(shape=shape[::-1]), ("sigma", "sigma")
    if isinstance(neuron, Resonator):
        phase = neuron.spikes == "phase"
        kind, made = (PyRFModelFixed, RF) if phase else (PyRF_IZModelFixed, RF_IZ)
        resonators = made(
            shape=shape, period=9.0, alpha=0.1, state_exp=6, decay_bits=12, vth=neuron.vth
        )
        resonators.sin_decay.init, resonators.cos_decay.init = neuron.sin, neuron.cos
        return kind, resonators, ("real", "imag")
    exponents = {"spike_exp": neuron.spike_exp, "state_exp": neuron.state_exp}
    if isinstance(neuron, Delta):
        delta = process.Delta(shape=shape[::-1], vth=neuron.vth, **exponents)
        return models.PyDeltaModelFixed, delta, ("act", "act")
    bias = np.asarray(neuron.bias)
    if bias.ndim == 1 and len(shape) == 3:
        bias = bias[:, None, None]
    made = process.SigmaDelta(
        shape=shape[::-1],
        vth=neuron.vth,
        bias=_turned(np.broadcast_to(bias, shape)),
        act_mode=process.ActivationMode[neuron.activation.upper()],
        **exponents,
    )
    return models.PySigmaDeltaModelFixed, made, ("sigma", "act")


def _turned(image: np.ndarray) -> np.ndarray:
    return image.transpose(2, 1, 0) if image.ndim == 3 else image


def _dense(synapse: Dense, graded: bool) -> Any:
    """As weight_format says that the chip stores it: mantissas, exponent, bits, sign."""
    from lava.proc.dense import process
    from lava.utils.weightutils import SignMode

    form = weight_format(synapse.weight)
    options = {
        "weights": synapse.weight << -form.exponent,
        "weight_exp": form.exponent,
        "num_weight_bits": form.bits,
        "sign_mode": SignMode[form.sign_mode.upper()],
        "num_message_bits": 8 if graded else 0,
    }
    if synapse.delay is None:
        return process.Dense(**options)
    return process.DelayDense(**options, delays=synapse.delay.astype(int), max_delay=62)


def _conv(synapse: Conv, shape: Shape, graded: bool) -> Any:
    """Lava convolves where torch and we correlate: the kernel is turned round, in (W, H)."""
    from lava.proc.conv.process import Conv as Process

    return Process(
        weight=synapse.weight[:, :, ::-1, ::-1].transpose(0, 3, 2, 1),
        input_shape=shape[::-1],
        stride=synapse.strides[::-1],
        padding=synapse.paddings[::-1],
        dilation=synapse.dilations[::-1],
        groups=synapse.groups,
        num_message_bits=8 if graded else 0,
    )


def _lif(neuron: Neuron, shape: Shape, interval: int, offset: int) -> Any:
    from lava.proc.lif.process import LIFReset

    bias = np.asarray(neuron.bias)
    if len(shape) == 3 and bias.ndim:
        bias = np.broadcast_to(bias if bias.ndim == 3 else bias[:, None, None], shape)
        bias = bias.transpose(2, 1, 0)
    return LIFReset(
        shape=shape[::-1],
        du=neuron.du - 1,
        dv=neuron.dv,
        vth=NEVER if neuron.vth is None else neuron.vth,
        bias_mant=bias,
        bias_exp=neuron.bias_exp,
        reset_interval=interval,
        reset_offset=offset,
    )


def _build(kind: Any, process: Any, **wires: Wire) -> Any:
    from lava.magma.compiler.builders.py_builder import PyProcessBuilder
    from lava.magma.compiler.utils import VarInitializer
    from lava.magma.core.model.py.ports import IdentityTransformer, PyInPort

    builder = PyProcessBuilder(kind, 0, process.proc_params)
    builder.set_variables(
        [VarInitializer(var.name, var.shape, var.init, i) for i, var in enumerate(process.vars)]
    )
    model = builder.build()
    for name, wire in wires.items():
        port, said = getattr(process, name), getattr(kind, name)
        extra = (IdentityTransformer(),) if issubclass(said.cls, PyInPort) else ()
        setattr(model, name, said.cls([wire], model, port.shape, said.d_type, *extra))
    return model
