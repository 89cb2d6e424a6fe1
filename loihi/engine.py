"""The fast engine: the reference's numbers for a batch of samples, thousands of times faster.

It computes each layer over all T steps before the next, in local time, where phased resets have
taken all latency out (see :attr:`loihi.network.Network.arrivals`): first the synapse, event-driven
and exact in the narrowest integers that hold its largest possible sum, then a compiled scan over
time. A static input meets the first synapse once, not T times. Samples are shared out to threads.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loihi import formats, kernels
from loihi.network import Conv, Inject, Layer, Network, Shape
from loihi.reference import STATES, Trace

CHUNK = 32
"""Samples that a thread takes through all layers at a time: enough to keep it busy, few enough to
stay in the cache."""


@dataclass(frozen=True)
class Activity:
    """What a layer did on some data.

    rate: spikes per neuron and step, 0..1.
    silent, saturated: the fraction of neurons that never spiked, and that spiked at every step of
        every sample.
    peak_u: the largest |u| before its wrap at 2^23. peak_v: the largest |v| before its clip there.
    """

    rate: float
    silent: float
    saturated: float
    peak_u: int
    peak_v: int


class Engine:
    """A network made ready to run. ``threads``: how many, by default one a processor."""

    def __init__(self, network: Network, threads: int | None = None) -> None:
        self.network = network
        self.threads = threads or _processors()
        before = (network.input_shape, *network.shapes[:-1])
        binary = [network.encoding.binary, *([True] * len(network.layers))]
        # Before a sample's window reaches a layer, its bias may make it spike. Without delays those
        # spikes arrive before the next layer's reset and are forgotten; a delay can carry them
        # past it. Then, and only then, the steps before the window have to be computed as well.
        biased = any(np.any(np.asarray(layer.neuron.bias) > 0) for layer in network.layers)
        self._lead = network.arrivals[-1] if network.has_delays and biased else 0
        self._layers = [
            _Prepared(layer, shape, out, network.encoding.payload if not sends_spikes else (0, 1))
            for layer, shape, out, sends_spikes in zip(
                network.layers, before, network.shapes, binary, strict=False
            )
        ]

    def run(self, x: NDArray[Any], record: Iterable[str] = ("spikes",)) -> Trace:
        """What :func:`loihi.reference.run` returns, for payloads ``[T, N, *input_shape]``."""
        wanted = set(record)
        if unknown := wanted - set(STATES):
            raise ValueError(f"cannot record {sorted(unknown)}: choose from {STATES}")
        return self._simulate(x, wanted)[0]

    def predict(self, x: NDArray[Any]) -> NDArray[np.int64]:
        """The readout's scores ``[N, classes]``, as :func:`loihi.reference.predict`."""
        return self._simulate(x, set())[1]

    def activity(self, x: NDArray[Any]) -> list[Activity]:
        """What every layer does on ``x``: its rate, its idle neurons, its largest states."""
        trace, _, peaks = self._simulate(x, {"spikes"})
        found = []
        for spikes, (peak_u, peak_v) in zip(trace.spikes, peaks.tolist(), strict=True):
            rate = spikes.mean(axis=(0, 1), dtype=np.float64)
            found.append(
                Activity(
                    float(rate.mean()),
                    float((rate == 0).mean()),
                    float((rate == 1).mean()),
                    peak_u,
                    peak_v,
                )
            )
        return found

    def _simulate(
        self, x: NDArray[Any], wanted: set[str]
    ) -> tuple[Trace, NDArray[np.int64], NDArray[np.int32]]:
        x = self.network.check_payloads(x)
        steps, samples = x.shape[:2]
        lead = self._lead
        static = steps > 1 and x.strides[0] == 0 and not lead
        x = np.moveaxis(x[:1] if static else x, 0, 1)  # [N, T, ...]: a chunk is contiguous
        if x.ndim == 5:
            x = np.moveaxis(x, 2, -1)
        kept: dict[str, list[NDArray[Any]]] = {
            state: [
                np.empty(
                    (samples, steps, layer.units), dtype=np.uint8 if state == "spikes" else np.int32
                )
                for layer in self._layers
                if state in wanted
            ]
            for state in STATES
        }
        scores = np.empty((samples, self.network.classes), dtype=np.int64)
        chunks = [slice(i, min(i + CHUNK, samples)) for i in range(0, samples, CHUNK)]

        def work(chunk: slice) -> NDArray[np.int32]:
            message = np.ascontiguousarray(x[chunk])
            if lead:
                message = np.pad(message, [(0, 0), (lead, 0)] + [(0, 0)] * (message.ndim - 2))
            count = len(message)
            peaks = np.zeros((len(self._layers), 2), dtype=np.int32)
            for index, layer in enumerate(self._layers):
                spikes = (
                    kept["spikes"][index][chunk]
                    if "spikes" in wanted and not lead
                    else np.zeros((count, lead + steps, layer.units), dtype=np.uint8)
                )
                nothing = np.empty((0, 0, 0), dtype=np.int32)
                v = layer.run(
                    message,
                    spikes,
                    kept["u"][index][chunk] if "u" in wanted else nothing,
                    kept["v"][index][chunk] if "v" in wanted else nothing,
                    peaks[index],
                    slice(lead - self.network.arrivals[index], lead) if lead else None,
                )
                if lead and "spikes" in wanted:
                    kept["spikes"][index][chunk] = spikes[:, lead:]
                message = spikes
            last = (
                message[:, lead:].sum(axis=1, dtype=np.int64)
                if self.network.readout == "spikes"
                else v
            )
            scores[chunk] = self._layers[-1].channels_first(last).reshape(count, -1)
            return peaks

        if self.threads == 1 or len(chunks) == 1:
            done = [work(chunk) for chunk in chunks]
        else:
            with ThreadPoolExecutor(self.threads) as pool:
                done = list(pool.map(work, chunks))
        peaks = np.max(done, axis=0) if done else np.zeros((len(self._layers), 2), dtype=np.int32)
        states = {
            state: [
                np.moveaxis(layer.channels_first(array), 0, 1)
                for layer, array in zip(self._layers, arrays, strict=False)
            ]
            for state, arrays in kept.items()
        }
        return Trace(**states), scores, peaks


def predict(network: Network, x: NDArray[Any]) -> NDArray[np.int64]:
    """The scores ``[N, classes]`` of payloads ``[T, N, *input_shape]``."""
    return Engine(network).predict(x)


class _Prepared:
    """A layer's numbers, laid out for the kernels."""

    def __init__(
        self, layer: Layer, input_shape: Shape, shape: Shape, payload: tuple[int, int]
    ) -> None:
        self.synapse, self.neuron, self.shape = layer.synapse, layer.neuron, shape
        self.input_shape = (
            input_shape if len(input_shape) == 1 else (*input_shape[1:], input_shape[0])
        )
        self.units = int(np.prod(shape))
        self.binary = payload == (0, 1)
        bias = self.neuron.effective_bias(shape)
        if len(shape) == 3:
            bias = np.moveaxis(bias, 0, -1)
        self.bias = np.ascontiguousarray(bias, dtype=np.int32).reshape(-1)
        vth = self.neuron.vth
        # A clipped v stops at 2^23 − 1: no spike can pass this threshold.
        self.threshold = formats.STATE_MAX if vth is None else vth << formats.STATE_SHIFT
        self.shift = formats.STATE_SHIFT
        self.weights: list[tuple[int, NDArray[Any]]] = []  # (delay, weight)
        if isinstance(self.synapse, Inject):
            self.sums: type[np.signedinteger[Any]] = np.int32
            return
        weight = self.synapse.weight
        largest = _largest_sum(weight, payload)
        # Common factors of two move from the weights into the shift, so that even 8-bit weights
        # fit int8. Lava's 24-bit wrap of a convolution needs the plain sum.
        self.wraps = isinstance(self.synapse, Conv) and largest >= formats.STATE_MAX
        if not self.wraps:
            factor = _common_shift(weight)
            weight, largest, self.shift = weight >> factor, largest >> factor, 6 + factor
        narrow = np.int8 if weight.min() >= -128 and weight.max() <= 127 else np.int16
        weight = weight.astype(narrow)
        self.sums = np.int16 if largest < 2**15 else np.int32
        if isinstance(self.synapse, Conv):
            out, per_group, height, width = weight.shape
            groups = self.synapse.groups
            # [O, I/g, kH, kW] → [C, kH, kW reversed, O/g]
            rows = weight.reshape(groups, out // groups, per_group, height, width)[..., ::-1]
            rows = rows.transpose(0, 2, 3, 4, 1).reshape(groups * per_group, height, -1)
            self.weights = [(0, np.ascontiguousarray(rows))]
            return
        columns = weight
        if len(input_shape) == 3:  # the image arrives channels-last
            columns = np.moveaxis(weight.reshape(len(weight), *input_shape), 1, -1)
        rows = np.ascontiguousarray(columns.reshape(len(weight), -1).T)
        delay = self.synapse.delay
        if delay is None:
            self.weights = [(0, rows)]
            return
        if len(input_shape) == 3:
            delay = np.moveaxis(delay.reshape(len(weight), *input_shape), 1, -1)
        delays = delay.reshape(len(weight), -1).T
        self.weights = [
            (int(d), np.where(delays == d, rows, 0).astype(narrow)) for d in np.unique(delays)
        ]

    def channels_first(self, array: NDArray[Any]) -> NDArray[Any]:
        """``[..., units]`` as the kernels have them → ``[..., *shape]`` as everybody else has."""
        if len(self.shape) == 1:
            return array
        channels, height, width = self.shape
        return np.moveaxis(array.reshape(*array.shape[:-1], height, width, channels), -1, -3)

    def run(
        self,
        x: NDArray[Any],
        spikes: NDArray[np.uint8],
        all_u: NDArray[np.int32],
        all_v: NDArray[np.int32],
        peak: NDArray[np.int32],
        before: slice | None = None,
    ) -> NDArray[np.int32]:
        """Payloads ``[n, T or 1, ...]`` → ``spikes [n, T, units]``, and the last v ``[n, units]``.

        ``before``: steps ahead of the window in which the neurons are at work, to be reset at its
        end; the window then starts there.
        """
        a = self._currents(x, spikes.shape[1])
        if before is not None:
            nothing = np.empty((0, 0, 0), dtype=np.int32)
            early = np.ascontiguousarray(spikes[:, before])
            self._scan(
                np.ascontiguousarray(a[:, before]), early, nothing, nothing, np.zeros_like(peak)
            )
            window = np.ascontiguousarray(spikes[:, before.stop :])
            v = self._scan(np.ascontiguousarray(a[:, before.stop :]), window, all_u, all_v, peak)
            spikes[:, before], spikes[:, before.stop :] = early, window
            return v
        return self._scan(a, spikes, all_u, all_v, peak)

    def _scan(
        self,
        a: NDArray[Any],
        spikes: NDArray[np.uint8],
        all_u: NDArray[np.int32],
        all_v: NDArray[np.int32],
        peak: NDArray[np.int32],
    ) -> NDArray[np.int32]:
        u = np.zeros((len(a), self.units), dtype=np.int32)
        v = np.zeros((len(a), self.units), dtype=np.int32)
        kernels.scan(
            a,
            spikes.shape[1],
            self.shift,
            self.neuron.du,
            self.neuron.dv,
            self.threshold,
            self.bias,
            u,
            v,
            spikes,
            all_u,
            all_v,
            peak,
        )
        return v

    def _currents(self, x: NDArray[Any], steps: int) -> NDArray[Any]:
        count, given = x.shape[:2]
        if isinstance(self.synapse, Inject):
            return x.reshape(count, given, self.units).astype(np.int32)
        if given < steps and any(delay for delay, _ in self.weights):
            x, given = np.repeat(x, steps, axis=1), steps  # a delayed static input is not static
        a = np.zeros((count, given, self.units), dtype=self.sums)
        if isinstance(self.synapse, Conv):
            height, width = self.shape[1:]
            kernels.conv(
                x.reshape(count, given, *self.input_shape),
                self.weights[0][1],
                a.reshape(count, given, height, width, self.shape[0]),
                self.synapse.strides,
                self.synapse.paddings,
                self.synapse.dilations,
                self.synapse.groups,
            )
            return formats.wrap24(a).astype(np.int32) if self.wraps else a
        kernel = kernels.dense_binary if self.binary else kernels.dense_graded
        flat = x.reshape(count, given, -1)
        for delay, weight in self.weights:
            if not delay:
                kernel(flat, weight, a)
            elif delay < given:
                later = np.zeros_like(a[:, delay:])
                kernel(np.ascontiguousarray(flat[:, :-delay]), weight, later)
                a[:, delay:] += later
        return a


def _largest_sum(weight: NDArray[np.int32], payload: tuple[int, int]) -> int:
    """A bound on |Σ w · x| of any neuron, and of any partial sum on the way to it."""
    per_neuron = np.abs(weight.astype(np.int64)).reshape(len(weight), -1).sum(axis=1)
    return int(per_neuron.max()) * max(abs(payload[0]), abs(payload[1]))


def _common_shift(weight: NDArray[np.int32]) -> int:
    """How many factors of two all weights share (0..7)."""
    bits = int(np.bitwise_or.reduce(np.abs(weight), axis=None))
    return min((bits & -bits).bit_length() - 1, 7) if bits else 0


def _processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
