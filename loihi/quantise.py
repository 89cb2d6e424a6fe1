"""From real numbers to the chip's grid: weights of 8 bits, thresholds of 17, decays in 4096ths.

A :class:`RealLayer` is leaky integrate-and-fire neurons in real numbers. In each step, p being the
payloads that reach its synapses::

    u = (1 − du) u + Σ w p          v = (1 − dv) v + u + bias
    s = v > threshold               v = 0 where s (hard reset),  or  v − threshold (soft)

The chip computes the same in integers of 24 bits (:class:`loihi.Neuron`). What is free is the unit
of v: a *scale* for every layer, how many of the chip's units (a weight of 1) a unit of v is. It is
chosen among candidates around the largest that holds every weight, each moved to where the
threshold is a whole number: the one whose weights and biases have the least mean squared error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import inf, prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loihi import formats
from loihi.encoding import Encoding
from loihi.errors import PumiceError
from loihi.network import INPUT, Conv, Dense, Edge, Layer, Network, Readout, Shape
from loihi.neurons import Neuron, Reset

Real = NDArray[np.float64]

CANDIDATES = 64
"""Scales that are tried, spread evenly up to twice the largest that clips no weight."""
SAMPLE = 2**17
"""Weights of a synapse that a scale is judged by; of more, an even selection."""
_ROOM = formats.STATE_MAX >> formats.STATE_SHIFT  # what u and v hold, in units of a weight


class QuantiseError(PumiceError):
    """Real numbers that have no counterpart on the chip."""


@dataclass(frozen=True, eq=False)
class RealSynapse:
    """What a payload of 1 adds to u.

    weight: ``[out, in]``; of a convolution ``[out, in / groups, kH, kW]``.
    sources, delay, stride, padding, dilation, groups: as in :mod:`loihi.network`.
    """

    weight: Real
    sources: tuple[int, ...]
    delay: NDArray[Any] | None = None
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1


@dataclass(frozen=True, eq=False)
class RealLayer:
    """Neurons in real numbers and the synapses that feed them.

    du, dv: the share of u and of v that is lost in a step, 0..1.
    threshold: at least 0, in the unit of v; None: the neurons never spike, v is read.
    bias: added to v in each step: a number, one a channel or neuron ``(C,)``, or ``(C, H, W)``.
    notes: what has been done to it already, for the report.
    """

    name: str
    synapses: tuple[RealSynapse, ...]
    du: float
    dv: float
    threshold: float | None
    bias: Real | float = 0.0
    reset: Reset = "hard"
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class SynapseReport:
    """What became of a synapse's weights.

    bits, sign_mode: their format (:class:`loihi.formats.WeightFormat`).
    max_error, rms_error: |weight on the chip / scale − weight|, the largest and the root of the
    mean square, in parts of the root mean square weight.
    clipped: share of the weights beyond the format's largest. zeroed: of those not 0, share that 0
    has taken the place of.
    """

    weights: int
    bits: int
    sign_mode: str
    max_error: float
    rms_error: float
    clipped: float
    zeroed: float


@dataclass(frozen=True)
class LayerReport:
    """What quantisation did to a layer.

    scale: the chip's units of weight in a unit of v. limit: what keeps it from being larger:
    ``weights``, ``threshold``, ``bias``, ``current`` or ``membrane`` (room in 24 bits).
    threshold, vth: before, and the mantissa; vth / scale is what the chip has.
    du, dv: decays before, shares lost in a step; du_4096, dv_4096 on the chip, in 4096ths.
    bias: the largest |bias| before; bias_error: the largest error, in the same unit.
    """

    layer: str
    scale: float
    limit: str
    synapses: tuple[SynapseReport, ...]
    threshold: float | None
    vth: int | None
    du: float
    du_4096: int
    dv: float
    dv_4096: int
    bias: float
    bias_error: float
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def quantise(
    layers: Sequence[RealLayer],
    input_shape: Shape,
    encoding: Encoding,
    readout: Readout | None = None,
    bias_exp: int | None = 6,
) -> tuple[Network, tuple[LayerReport, ...]]:
    """``layers`` as the chip can have them, and what that did to each.

    readout: None: the spikes of a last layer that spikes, else its membrane.
    bias_exp: the exponent of all biases, 0..7; netx files know 6 only. None: of each layer the one
        that holds its largest bias most finely.

    The scale also leaves room in the 24 bits of u: for the largest input that there can be, or, if
    that is less, for half of all payloads at once and four times the root sum of squares of all
    weights; for a membrane that is read, over all steps of a sample. What real data need, ``pumice
    check --data`` tells. The same numbers give the same network on every machine.
    """
    if readout is None:
        readout = "membrane" if layers and layers[-1].threshold is None else "spikes"
    made, reports = [], []
    for layer in layers:
        try:
            found, report = _layer(layer, encoding, bias_exp)
        except PumiceError as error:
            raise QuantiseError(f"{layer.name}: {error}") from None
        made.append(found)
        reports.append(report)
    return Network(input_shape, tuple(made), encoding, readout), tuple(reports)


def _layer(layer: RealLayer, encoding: Encoding, bias_exp: int | None) -> tuple[Layer, LayerReport]:
    _check(layer)
    scale, limit = _scale(layer, encoding, bias_exp)
    synapses, reports = [], []
    for real in layer.synapses:
        weight, clipped = _weights(scale * real.weight)
        synapses.append((_synapse(real, weight), real.sources))
        reports.append(_report(real.weight, weight, scale, clipped))
    vth = None
    if layer.threshold is not None:
        vth = int(np.rint(scale * layer.threshold))
    real_bias = np.asarray(layer.bias, dtype=np.float64)
    mantissa, exponent = _bias(real_bias, scale, bias_exp)
    bias_on_chip = mantissa * 2.0 ** (exponent - formats.STATE_SHIFT) / scale
    du, dv = (int(np.rint(formats.DECAY_ONE * d)) for d in (layer.du, layer.dv))
    neuron = Neuron(du, dv, vth, _plainest(mantissa), exponent, layer.reset)
    (first, sources), *more = synapses
    report = LayerReport(
        layer.name,
        scale,
        limit,
        tuple(reports),
        layer.threshold,
        vth,
        layer.du,
        du,
        layer.dv,
        dv,
        float(np.abs(real_bias).max()),
        float(np.abs(bias_on_chip - real_bias).max()),
        layer.notes,
    )
    return Layer(first, neuron, sources, tuple(Edge(*edge) for edge in more)), report


def _check(layer: RealLayer) -> None:
    if not layer.synapses:
        raise QuantiseError("no synapse feeds its neurons")
    if len({len(s.weight) for s in layer.synapses}) > 1:
        sizes = ", ".join(str(len(s.weight)) for s in layer.synapses)
        raise QuantiseError(f"its synapses end in {sizes} neurons or channels")
    if not all(s.weight.size for s in layer.synapses):
        raise QuantiseError("a weight is empty")
    numbers: list[Any] = [layer.du, layer.dv, layer.bias, *(s.weight for s in layer.synapses)]
    if layer.threshold is not None:
        numbers.append(layer.threshold)
    if not all(np.isfinite(n).all() for n in numbers):
        raise QuantiseError("its numbers hold NaN or infinite values")
    for name, value in (("du", layer.du), ("dv", layer.dv)):
        if not 0 <= np.rint(formats.DECAY_ONE * value) <= formats.DECAY_ONE:
            raise QuantiseError(
                f"{name} is {value:.6g}: a step loses between 0 and all of it (is dt right?)"
            )
    if layer.threshold is not None and layer.threshold < 0:
        raise QuantiseError(f"its threshold is {layer.threshold:.6g}: on the chip it is 0 or more")


# --- the scale ----------------------------------------------------------------------------------


def _scale(layer: RealLayer, encoding: Encoding, bias_exp: int | None) -> tuple[float, str]:
    """The scale, and what keeps it from being larger."""
    limits = _limits(layer, encoding, bias_exp)
    full = limits["weights"]
    limit = min(limits, key=lambda name: limits[name])
    limits["weights"] = 2 * full  # a few large weights may be worth clipping
    most = min(limits.values())
    if most == inf:  # no weights, no threshold, no bias: any scale will do
        return 1.0, limit
    weights = [_sampled(s.weight.reshape(-1)) for s in layer.synapses]
    lowest = min(full, most) / np.sqrt(2)
    tried = [*np.geomspace(lowest, most, CANDIDATES), full, 1.0, *_lattice(weights)]
    tried = [_snapped(float(s), layer.threshold, most) for s in tried if 0 < s <= most]
    judged = {scale: _judge(layer, weights, scale, encoding, bias_exp) for scale in tried}
    least = min(judged.values())
    equal = [s for s, found in judged.items() if found <= (least[0], least[1] * (1 + 1e-9) + 1e-15)]
    exact = least[1] < 1e-12  # the numbers are on a grid already: stay there, if it is the chip's
    return 1.0 if exact and 1.0 in equal else max(equal), limit


def _judge(
    layer: RealLayer,
    weights: Sequence[Real],
    scale: float,
    encoding: Encoding,
    bias_exp: int | None,
) -> tuple[bool, float]:
    """How bad a scale is: whether netx refuses it, and its mean squared error, relative."""
    refused, error, energy = False, 0.0, 0.0
    for synapse, w in zip(layer.synapses, weights, strict=True):
        weight, _ = _weights(scale * w)
        off = weight / scale - w
        gain = _payload(synapse, encoding) ** 2
        error, energy = error + gain * float(off @ off), energy + gain * float(w @ w)
        # What netx refuses: nothing but 0, and a power of two without a positive weight beside it.
        largest = -int(weight.min())
        refused |= bool(weight.max() <= 0 and not largest & (largest - 1))
    bias = np.unique(np.asarray(layer.bias, dtype=np.float64))
    mantissa, exponent = _bias(bias, scale, bias_exp)
    off = mantissa * 2.0 ** (exponent - formats.STATE_SHIFT) / scale - bias
    error, energy = error + float(off @ off), energy + float(bias @ bias)
    error /= energy or 1.0
    if layer.threshold:
        error += (np.rint(scale * layer.threshold) / (scale * layer.threshold) - 1) ** 2
    return refused, error


def _limits(layer: RealLayer, encoding: Encoding, bias_exp: int | None) -> dict[str, float]:
    """The largest scale that each of the chip's ranges allows."""
    steps = encoding.time_steps
    largest = float(np.abs(layer.bias).max())
    unit = 2.0 ** ((formats.BIAS_EXP_MAX if bias_exp is None else bias_exp) - formats.STATE_SHIFT)
    current = _largest_current(layer, encoding) * _gain(layer.du, steps)
    limits = {
        "weights": min(_fits(s.weight) for s in layer.synapses),
        "threshold": formats.VTH_MAX / layer.threshold if layer.threshold else inf,
        "bias": formats.BIAS_MAX * unit / largest if largest else inf,
        "current": _ROOM / current if current else inf,
    }
    if layer.threshold is None:
        membrane = (current + largest) * _gain(layer.dv, steps)
        limits["membrane"] = _ROOM / membrane if membrane else inf
    return limits


def _gain(decay: float, steps: int) -> float:
    """What a constant input of 1 has become after ``steps``."""
    return float(steps) if decay <= 0 else (1 - (1 - min(decay, 1.0)) ** steps) / min(decay, 1.0)


def _largest_current(layer: RealLayer, encoding: Encoding) -> float:
    """What a step may well add to u, of the neuron that gets the most."""
    worst = mean = square = np.zeros(1)
    for synapse in layer.synapses:
        rows = synapse.weight.reshape(len(synapse.weight), -1)
        payload = _payload(synapse, encoding)
        worst = worst + payload * np.abs(rows).sum(1)
        mean = mean + payload * rows.sum(1) / 2
        square = square + (4 * payload) ** 2 * (rows * rows).sum(1)
    return float(np.minimum(worst, np.abs(mean) + np.sqrt(square)).max())


def _payload(synapse: RealSynapse, encoding: Encoding) -> int:
    """The largest payload, by magnitude, of all sources together."""
    return sum(max(map(abs, encoding.payload)) if s == INPUT else 1 for s in synapse.sources)


def _fits(weight: Real) -> float:
    """The largest scale that clips none."""
    low, high = float(weight.min()), float(weight.max())
    if low >= 0:
        return 255 / high if high else inf
    return min(254 / high if high > 0 else inf, (254 if high <= 0 else 256) / -low)


def _snapped(scale: float, threshold: float | None, most: float) -> float:
    """The nearest scale at which the threshold is a whole number."""
    if not threshold:
        return scale
    vth = np.rint(scale * threshold)
    if vth / threshold > most:
        vth -= 1
    return float(vth / threshold) if vth >= 1 else scale


def _lattice(weights: Sequence[Real]) -> list[float]:
    """Where all weights are multiples of one number already, the scales that keep them whole."""
    values = np.unique(np.abs(np.concatenate(weights)))
    values = values[values > 0]
    if not values.size:
        return []
    gaps = np.diff(values, prepend=0.0)
    top = float(values[-1])
    gap = float(gaps[gaps > 1e-3 * top / 255].min(initial=inf))
    levels = np.rint(top / gap) if gap < inf else 0
    if not 1 <= levels <= 255:
        return []
    unit = top / levels
    if (np.abs(values / unit - np.rint(values / unit)) > 1e-3).any():
        return []
    return [k / unit for k in range(1, int(255 // levels) + 1)]


def _sampled(weight: Real) -> Real:
    return weight[:: 1 + (weight.size - 1) // SAMPLE]


# --- on the grid --------------------------------------------------------------------------------


def _weights(x: Real) -> tuple[NDArray[np.int32], float]:
    """The nearest weights of a format to ``x`` (scaled weights), and the share beyond its range.

    Of one sign the format has 0..255; of mixed signs the even numbers of −256..254 or, where they
    hold all and are nearer, −128..127. For a matrix without positive weights Lava and netx do not
    always agree on a format of one sign (``lava_export.netx.lava_weight``): it gets one of the
    other, without −256 and −128.
    """
    low, high = float(x.min()), float(x.max())
    if low >= 0:
        return _rounded(x, 1, 0, 255)
    least = 256 if high > 0 else 254
    even = _rounded(x, 2, -least, 254)
    if low < -least / 2 - 0.5 or high > 127.5:
        return even
    whole = _rounded(x, 1, -least // 2, 127)
    return min(whole, even, key=lambda found: float(np.square(found[0] - x).sum()))


def _rounded(x: Real, step: int, first: int, last: int) -> tuple[NDArray[np.int32], float]:
    weight = np.clip(step * np.rint(x / step), first, last).astype(np.int32)
    return weight, float(np.mean((x > last + step / 2) | (x < first - step / 2)))


def _bias(bias: Real, scale: float, bias_exp: int | None) -> tuple[NDArray[np.int32], int]:
    """Mantissas and their exponent."""
    wanted = scale * bias * 2.0**formats.STATE_SHIFT
    if bias_exp is None:
        largest = float(np.abs(wanted).max())
        bias_exp = next(
            (e for e in range(formats.BIAS_EXP_MAX) if largest / 2**e <= formats.BIAS_MAX),
            formats.BIAS_EXP_MAX,
        )
    mantissa = np.clip(np.rint(wanted / 2**bias_exp), formats.BIAS_MIN, formats.BIAS_MAX)
    return mantissa.astype(np.int32), bias_exp


def _plainest(bias: NDArray[np.int32]) -> NDArray[np.int32] | int:
    """One number, or one a channel, where that says the same."""
    if (bias == bias.flat[0]).all():
        return int(bias.flat[0])
    if bias.ndim == 3 and (bias == bias[:, :1, :1]).all():
        return bias[:, 0, 0]
    return bias


def _synapse(real: RealSynapse, weight: NDArray[np.int32]) -> Dense | Conv:
    if weight.ndim == 2:
        return Dense(weight, real.delay)
    if real.delay is not None:
        raise QuantiseError("a convolution has no delays on the chip")
    return Conv(weight, real.stride, real.padding, real.dilation, real.groups)


def _report(real: Real, weight: NDArray[np.int32], scale: float, clipped: float) -> SynapseReport:
    off = weight / scale - real
    rms = float(np.sqrt(np.mean(real * real))) or 1.0
    held = formats.weight_format(weight)
    return SynapseReport(
        weights=prod(weight.shape),
        bits=held.bits,
        sign_mode=held.sign_mode,
        max_error=float(np.abs(off).max()) / rms,
        rms_error=float(np.sqrt(np.mean(off * off))) / rms,
        clipped=clipped,
        zeroed=float(np.mean((weight == 0)[real != 0])) if real.any() else 0.0,
    )
