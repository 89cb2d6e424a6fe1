"""What netx and Lava cannot hold, or would change without a word.

Facts of lava-dl 0.6.0 (``lava.lib.dl.netx``) and lava-nc 0.10.0.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lava_export.netx.fields import NetxError
from loihi import (
    Conv,
    Delta,
    Dense,
    Encoding,
    Inject,
    Layer,
    Network,
    Neuron,
    PumiceError,
    Resonator,
    SigmaDelta,
    formats,
)
from loihi.neurons import AnyNeuron

NEVER = 1 << 17
"""The threshold mantissa that netx gives a block without neurons: v stops short of it, and of any
larger one (SLAYER's affine blocks have 2^18 − 1), up to where Lava's shift overflows."""
SPIKE_EXP = STATE_EXP = 6
"""Binary places of sigma-delta neurons, the only ones that netx's loader knows by itself."""
CONV_MAX = 127
"""Lava keeps a convolution's kernel size, stride, padding, dilation and groups as int8."""
ANY_PAYLOAD = (formats.PAYLOAD_MIN, formats.PAYLOAD_MAX)
_BIAS_EXP = 6  # the only one netx knows


def why_not(network: Network) -> str | None:
    """Why netx cannot hold ``network``, in a line that names the layer; None where it can.

    Such a network is written in the form of our own, and wired to Lava directly.
    """
    for index, layer in enumerate(network.layers):
        if layer.sources is not None or layer.carry is not None or layer.more:
            why: str | None = "netx has no branches and no recurrence beside its own"
        else:
            why = _why_not_neuron(layer.neuron) or _why_not_synapse(layer, network.encoding)
        if why:
            return f"layer {network.names[index]}: {why}"
    return None


def _why_not_neuron(neuron: AnyNeuron) -> str | None:
    if isinstance(neuron, Neuron):
        if neuron.reset != "hard":
            return "netx has no soft reset"
        if neuron.bias_exp != _BIAS_EXP:
            return f"bias_exp is {neuron.bias_exp}, netx knows {_BIAS_EXP} only"
    elif isinstance(neuron, Delta | SigmaDelta):
        if (found := (neuron.spike_exp, neuron.state_exp)) != (SPIKE_EXP, STATE_EXP):
            return f"spike_exp and state_exp are {found}, netx's loader knows 6 only"
        if isinstance(neuron, SigmaDelta) and neuron.activation != "relu":
            return f"activation {neuron.activation}, netx knows relu only"
    elif isinstance(neuron, Resonator):
        return "netx rounds the angle of a resonator"
    return None


def _why_not_synapse(layer: Layer, encoding: Encoding) -> str | None:
    synapse, (first, last) = layer.synapse, encoding.payload
    if isinstance(synapse, Inject):
        if layer.neuron.has_bias:
            return "netx has no bias for the neurons of an input layer"
        if (last - first) % 2 and not any_payload(layer.neuron, encoding):
            return (
                f"payload {first}..{last} of an input layer: netx has bias - weight .. bias + "
                "weight, so it would have to span an even number"
            )
        return None
    try:
        if isinstance(synapse, Dense):
            check_dense(synapse.weight)
        elif isinstance(synapse, Conv):
            check_conv(synapse)
    except PumiceError as error:
        return str(error)
    return None


def any_payload(neuron: AnyNeuron, encoding: Encoding) -> bool:
    """Whether an input layer says nothing of its range, as those of sigma-delta files."""
    return isinstance(neuron, Delta) and encoding.payload == ANY_PAYLOAD


def check_conv(synapse: Conv) -> None:
    """A :class:`NetxError` where Lava would turn a number into another."""
    formats.weight_format(synapse.weight)
    for name, value in (
        ("kernelSize", max(synapse.weight.shape[2:])),
        ("stride", max(synapse.strides)),
        ("padding", max(synapse.paddings)),
        ("dilation", max(synapse.dilations)),
        ("groups", synapse.groups),
    ):
        if value > CONV_MAX:
            raise NetxError(f"{name} is {value}: Lava keeps it in 8 bits, {CONV_MAX} at most")


def check_dense(weight: NDArray[Any]) -> None:
    """A :class:`NetxError` where Lava would not use the weights that are stored."""
    formats.weight_format(weight)
    mantissa, exponent = lava_weight(weight)
    used = mantissa * 2.0**exponent
    if (used != weight).any():
        row, column = np.argwhere(used != weight)[0]
        raise NetxError(
            f"weight[{row}, {column}] is {weight[row, column]}, and Lava would compute with "
            f"{used[row, column]:g}: netx and Lava disagree on a matrix of weights <= 0 that "
            "holds zeros; make its largest magnitude smaller, or one weight positive"
        )


def lava_weight(weight: NDArray[Any]) -> tuple[NDArray[np.int64], int]:
    """A dense weight as netx hands it to Lava and Lava uses it: (mantissa, exponent).

    The weight is ``mantissa · 2^exponent``. For most matrices that is the stored one; not for all:
    netx takes a matrix of weights ≤ 0 that holds a zero for one of mixed signs, Lava does not, and
    they scale, clip and cut differently; a matrix that is beyond its range comes back as zeros.
    From ``optimize_weight_bits`` of netx (lava-dl 0.6.0), ``clip_weights`` and
    ``truncate_weights`` of Lava (lava-nc 0.10.0).
    """
    w = np.asarray(weight, dtype=np.int64)
    if not w.any():
        raise NetxError("all weights are 0: netx fails on such a layer; leave it out")
    if w.max() > 0 > w.min():
        w = np.clip(w, -256, 254) if w.max() > 254 or w.min() < -256 else w
    low, high = int(w.min()), int(w.max())
    netx_mixed = low < 0 <= high
    if netx_mixed:
        room = min(127 / high if high else np.inf, -128 / low)
    else:
        room = 255 / high if low >= 0 else -256 / low
    shift = int(np.floor(np.log2(room))) + netx_mixed
    zeros = 0  # low bits that are 0 in every weight
    while zeros < 8 and not (w & ((2 << zeros) - 1)).any():
        zeros += 1
    bits = 8 - shift - (zeros - netx_mixed)
    mantissa = w << shift if shift >= 0 else np.zeros_like(w)  # numpy's shift by less than 0
    mixed = low < 0 < high
    sign = -1 if high <= 0 else 1
    mantissa = np.clip(sign * mantissa, -256 if mixed else 0, 255)
    cut = 8 - bits + mixed
    return sign * (mantissa >> cut << cut if cut >= 0 else np.zeros_like(w)), -shift
