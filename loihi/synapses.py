"""Synapses laid out for the compiled loops, and which loop a message takes.

Each of them is exact, so nothing but time depends on the choice:

- rows (:mod:`loihi.kernels`): every input that is not silent adds its row of weights. The cost goes
  with the number of such events.
- a product (:mod:`loihi.products`) of 8 or 16 bit matrices. The cost is the same whatever is sent.

The events of a message are counted, and the cheaper one taken: see :meth:`Wires.add`. For a
convolution with a group for each channel, as average pooling is, a product over the channels takes
the matrix product's place.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loihi import formats, kernels, products
from loihi.network import ComplexDense, Conv, Dense, Inject, Network

# Nanoseconds on one core of an AMD EPYC with AVX-512; `python -m bench.engine --paths` shows how
# well they do. Another processor may need more of all of them: only their ratios decide.
LOOK = 0.1
"""To see whether one input is silent."""
EVENT, LINE, TAP = 2.5, 6.0, 4.0
"""To begin to add: a row of a dense synapse; a line of a kernel in one piece; one of its taps."""
ADD = 0.008
"""To add a weight to a sum of 16 bits. To one of 32 bits, or times a payload, is twice as much."""
PIECE, COPY = 4.0, 0.04
"""To bring a piece of a message to where a product wants it: to begin, and for each number."""
DOT = 0.15
"""To multiply and add 32 bits of a message for 16 neurons."""
STORE = 2.0
"""To add what a product found for 16 neurons to their input."""
POOL = 9.0
"""To multiply and add one tap of a pooling kernel, for up to some hundred channels."""


class Messages:
    """What a layer, or the network's input, sends in a slice of time.

    values: ``[n, memory + steps, units]``, channels last. The first ``memory`` steps are the last
        ones of the slice before. Of a static input one step, without memory, stands for all.
    events: how many of them, without the first steps, are not 0; None while that is not known.
    """

    def __init__(self, values: NDArray[Any], memory: int = 0, static: bool = False) -> None:
        self.values, self.memory, self.static = values, memory, static
        self.events: int | None = None
        self._reach: int | None = None

    def density(self, first: int, steps: int) -> float:
        """The part of the numbers that are not 0: of all of them, or of these steps."""
        if self.events is not None:
            return self.events / max(1, self.values[:, self.memory :].size)
        window = self.values[:, first : first + steps]
        return np.count_nonzero(window) / max(1, window.size)

    @property
    def in_16_bits(self) -> bool:
        """Whether 16 bits hold all that is sent: always, but of sigma-delta layers."""
        if self.values.dtype != np.int32:
            return True
        if self._reach is None:
            low, high = int(self.values.min(initial=0)), int(self.values.max(initial=0))
            self._reach = max(-1 - low, high)
        return self._reach < 2**15


class Connection:
    """A synapse of a layer, and what it hears.

    largest: a bound on its sums, and on any partial sum on the way to one.
    factor: how many factors of two all its weights share.
    width: of what it adds to, two numbers a neuron where complex.
    delays: with :meth:`lay_out`, the wires of each.
    """

    def __init__(self, network: Network, target: int, number: int) -> None:
        self.synapse, self.sources = network.synapses(target)[number]
        self.input_shape, self.shape = network.shape_of(self.sources[0]), network.shapes[target]
        # A layer hears itself and later ones a step late.
        self._late = {source: int(source >= target) for source in self.sources}
        # Sources are added one after another: a loop takes what one sends, a sum what all do.
        each = [network.payload_of([source]) for source in self.sources]
        self._payload = min(low for low, _ in each), max(high for _, high in each)
        self.delays: list[tuple[int, Wires]] = []
        self.width = int(np.prod(self.shape))
        self._lost: NDArray[np.int32] | None = None
        self.factor = 0
        payload = network.payload_of(self.sources)
        if isinstance(self.synapse, Inject):
            self.largest = max(map(abs, payload))
            return
        if isinstance(self.synapse, ComplexDense):
            self.width *= 2
        self.largest = largest_sum(self.synapse.weight, payload)
        lost = lost_bits(self.synapse)
        if self.largest >> (31 - int(lost.max())):
            self._lost = lost
        else:  # a sum that wraps must be the plain one
            self.factor = _common_shift(self.synapse.weight)

    def lay_out(self, factor: int, sums: type[np.signedinteger[Any]]) -> None:
        """Divide the weights by 2^factor and turn them to how the loops read them. sums: the
        integers that they are added up in."""
        synapse = self.synapse
        if isinstance(synapse, Inject):
            return
        weight = synapse.weight >> factor
        narrow = np.int8 if weight.min() >= -128 and weight.max() <= 127 else np.int16
        weight = weight.astype(narrow)
        if isinstance(synapse, Conv):
            kernel = Kernel(synapse, weight, self.input_shape, self.shape, self._payload, sums)
            self.delays = [(0, kernel)]
            return
        if len(self.input_shape) == 3:  # images arrive with the channels last
            weight = _channels_last(weight, self.input_shape)
        delay = getattr(synapse, "delay", None)
        if delay is None:
            self.delays = [(0, Matrix(weight, self._payload, sums))]
            return
        if len(self.input_shape) == 3:
            delay = _channels_last(delay, self.input_shape)
        self.delays = [
            (int(d), Matrix(np.where(delay == d, weight, 0).astype(narrow), self._payload, sums))
            for d in np.unique(delay)
        ]

    def memory(self, source: int) -> int:
        """How many steps back it hears a source."""
        return self._late[source] + max((delay for delay, _ in self.delays), default=0)

    def is_static(self, sent: Mapping[int, Messages]) -> bool:
        """Whether what it hears is the same at every step."""
        return all(sent[source].static for source in self.sources)

    def add(self, sent: Mapping[int, Messages], a: NDArray[Any], at: int, steps: int) -> None:
        """What it makes of ``steps`` steps from ``at`` on, into ``a [n, T, width]``."""
        window = slice(at, at + steps)
        if isinstance(self.synapse, Inject):
            x = sent[self.sources[0]]
            now = 0 if x.static else x.memory + at
            a[:, window] += x.values[:, now : now + steps].astype(a.dtype)
        for delay, wires in self.delays:
            total = a if self._lost is None else np.zeros_like(a)
            for source in self.sources:
                x = sent[source]
                now = 0 if x.static else x.memory + at - self._late[source]
                wires.add(x, now - delay, total, at, steps)
            if self._lost is not None:
                a[:, window] += total[:, window] << self._lost >> self._lost


class Wires:
    """Weights of one delay, ready for both paths.

    product: the other path; None where it can never be the cheaper one.
    look, events: what rows cost of a message, in nanoseconds: to look at it, and what is added if
        none of it is silent.
    """

    product: Product | Pool | None = None
    look = events = 0.0

    def add(self, x: Messages, first: int, a: NDArray[Any], at: int, steps: int) -> None:
        """The messages of ``steps`` steps from ``first`` on into ``a``, from step ``at`` on."""
        product = self.product
        if (
            product is not None
            and product.cost < self.look + self.events * x.density(first, steps)
            and x.in_16_bits
        ):
            product.add(x.values, first, a, at, steps)
        else:
            self.add_rows(x.values, first, a, at, steps)

    def add_rows(self, x: NDArray[Any], first: int, a: NDArray[Any], at: int, steps: int) -> None:
        """The same, event-driven."""
        raise NotImplementedError

    def offer(self, product: Product | Pool) -> None:
        """A product that may be cheaper than rows."""
        if product.cost < self.look + self.events:
            self.product = product


class Matrix(Wires):
    """All to all: ``weight [out, in]``."""

    def __init__(
        self, weight: NDArray[Any], payload: tuple[int, int], sums: type[np.signedinteger[Any]]
    ) -> None:
        out, inputs = weight.shape
        self.rows = np.ascontiguousarray(weight.T)
        self.kernel = kernels.dense_binary if payload == (0, 1) else kernels.dense_graded
        self.look = LOOK * inputs
        self.events = inputs * (EVENT + out * _add(payload, sums))
        self.offer(Product(weight, payload, (1, 1, inputs), (0, 0), (0, 0), (1, 1)))

    def add_rows(self, x: NDArray[Any], first: int, a: NDArray[Any], at: int, steps: int) -> None:
        """Every event's row."""
        self.kernel(x, first, self.rows, a, at, steps)


class Kernel(Wires):
    """A convolution."""

    def __init__(
        self,
        synapse: Conv,
        weight: NDArray[Any],
        input_shape: tuple[int, ...],
        shape: tuple[int, ...],
        payload: tuple[int, int],
        sums: type[np.signedinteger[Any]],
    ) -> None:
        self.synapse, self.input_shape, self.shape = synapse, input_shape, shape
        out, per_group, lines, across = weight.shape
        groups, (sy, sx), (dy, dx) = synapse.groups, synapse.strides, synapse.dilations
        # [O, I/g, kH, kW] → [C, kH, kW reversed, O/g]
        rows = weight.reshape(groups, out // groups, per_group, lines, across)[..., ::-1]
        rows = rows.transpose(0, 2, 3, 4, 1).reshape(groups * per_group, lines, -1)
        self.rows = np.ascontiguousarray(rows)
        inputs = int(np.prod(input_shape))
        taps = lines * (LINE if sx == dx == groups == 1 else across * TAP)
        self.look = LOOK * inputs
        self.events = inputs * (taps + self.rows[0].size / (sy * sx) * _add(payload, sums))
        if groups == out == input_shape[0]:
            self.offer(Pool(synapse, weight, input_shape, shape))
        if groups > 1:
            return
        channels, _, width = input_shape
        py, px = synapse.paddings
        pixel, line = channels, channels * (width + 2 * px)
        kernel = (lines, 1, across * channels) if dx == 1 else (lines, across, channels)
        seen = weight.transpose(0, 2, 3, 1).reshape(out, -1)
        apart, stride = (dy * line, dx * pixel), (sy * line, sx * pixel)
        self.offer(Product(seen, payload, kernel, apart, stride, shape[1:], input_shape, (py, px)))

    def add_rows(self, x: NDArray[Any], first: int, a: NDArray[Any], at: int, steps: int) -> None:
        """Every event's kernel, line by line."""
        synapse = self.synapse
        kernels.conv(
            x.reshape(*x.shape[:2], self.input_shape[1], -1),
            first,
            self.rows,
            _image(a, self.shape),
            at,
            steps,
            synapse.strides,
            synapse.paddings,
            synapse.dilations,
            synapse.groups,
        )


class Pool:
    """A convolution with a group for each channel, as a product over the channels. cost: of a
    message, in nanoseconds."""

    def __init__(
        self,
        synapse: Conv,
        weight: NDArray[Any],
        input_shape: tuple[int, ...],
        shape: tuple[int, ...],
    ) -> None:
        self.synapse, self.input_shape, self.shape = synapse, input_shape, shape
        self.taps = np.ascontiguousarray(weight[:, 0].transpose(1, 2, 0))  # [kH, kW, C]
        self.cost = POOL * weight[0].size * int(np.prod(shape[1:]))

    def add(self, x: NDArray[Any], first: int, a: NDArray[Any], at: int, steps: int) -> None:
        """Messages into ``a``, as :meth:`Wires.add`."""
        synapse = self.synapse
        kernels.pool(
            _image(x, self.input_shape),
            first,
            self.taps,
            _image(a, self.shape),
            at,
            steps,
            synapse.strides,
            synapse.paddings,
            synapse.dilations,
        )


class Product:
    """A matrix product that stands for a synapse: see :func:`loihi.products.products`.

    cost: of a message, in nanoseconds.
    """

    def __init__(
        self,
        weight: NDArray[Any],
        payload: tuple[int, int],
        kernel: tuple[int, int, int],
        apart: tuple[int, int],
        stride: tuple[int, int],
        size: tuple[int, ...],
        image: tuple[int, ...] | None = None,
        padding: tuple[int, int] = (0, 0),
    ) -> None:
        in_bytes = (
            products.BYTES and weight.dtype == np.int8 and 0 <= payload[0] <= payload[1] < 256
        )
        self.weight = products.pack(weight, in_bytes)
        self.kernel, self.apart, self.stride, self.size = kernel, apart, stride, size
        self.neurons, self.image, self.padding = len(weight), image, padding
        panels, groups = self.weight.shape[:2]
        copying = kernel[0] * kernel[1] * (PIECE + kernel[2] * COPY)
        self.cost = int(np.prod(size)) * (copying + panels * (groups * DOT + STORE))

    def add(self, x: NDArray[Any], first: int, a: NDArray[Any], at: int, steps: int) -> None:
        """Messages into ``a``, as :meth:`Wires.add`."""
        dtype = self.weight.dtype
        if any(self.padding):
            assert self.image is not None
            channels, height, width = self.image
            (py, px), (n, _, _) = self.padding, x.shape
            padded = np.zeros((n, steps, height + 2 * py, width + 2 * px, channels), dtype=dtype)
            window = x[:, first : first + steps].astype(dtype)
            window = window.reshape(n, steps, height, width, channels)
            padded[:, :, py : py + height, px : px + width] = window
            x, first = padded.reshape(n, steps, -1), 0
        elif dtype.itemsize == x.itemsize:
            x = x.view(dtype)  # a product of bytes takes their eight bits as unsigned
        else:
            x, first = x[:, first : first + steps].astype(dtype), 0
        products.products(
            x,
            first,
            self.weight,
            a.reshape(*a.shape[:2], *self.size, self.neurons),
            at,
            steps,
            self.kernel,
            self.apart,
            self.stride,
        )


def largest_sum(weight: NDArray[np.int32], payload: tuple[int, int]) -> int:
    """A bound on |Σ w · x| of any neuron, and of any partial sum on the way to it."""
    per_neuron = np.abs(weight.astype(np.int64)).reshape(len(weight), -1).sum(axis=1)
    return int(per_neuron.max()) * max(abs(payload[0]), abs(payload[1]))


def lost_bits(synapse: Dense | ComplexDense | Conv) -> NDArray[np.int32]:
    """How many of 32 bits Lava's sum does not have: one number, or one for each sum.

    A convolution has 24. A dense synapse adds up mantissas, and then shifts.
    """
    if isinstance(synapse, Conv):
        return np.array(8, dtype=np.int32)
    if isinstance(synapse, Dense):
        return np.array(-formats.weight_format(synapse.weight).exponent, dtype=np.int32)
    parts = (lost_bits(Dense(part)) for part in (synapse.real, synapse.imag))
    return np.repeat(np.array([*parts]), len(synapse.real))


def _common_shift(weight: NDArray[np.int32]) -> int:
    """How many factors of two all weights share (0..7)."""
    bits = int(np.bitwise_or.reduce(np.abs(weight), axis=None))
    return min((bits & -bits).bit_length() - 1, 7) if bits else 0


def _channels_last(matrix: NDArray[Any], image: tuple[int, ...]) -> NDArray[Any]:
    """``[out, C · H · W]`` → ``[out, H · W · C]``."""
    return np.moveaxis(matrix.reshape(len(matrix), *image), 1, -1).reshape(len(matrix), -1)


def _image(values: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """``[n, T, units]`` → ``[n, T, H, W, C]``."""
    channels, height, width = shape
    return values.reshape(*values.shape[:2], height, width, channels)


def _add(payload: tuple[int, int], sums: type[np.signedinteger[Any]]) -> float:
    return ADD * (1 if sums is np.int16 else 2) * (1 if payload == (0, 1) else 2)
