"""The frozen network in torch: the reference's integers for thousands of samples on a GPU.

Time is gone through step by step, and all layers in each step, so that memory does not grow with T.
Synapses are matrix products of whole numbers in floating point: in float32 where messages are small
and no sum can reach 2^24, else in float64, and so exact in whatever order a library adds them up.
Convolutions are unfolded into such products, since a library's own may go by way of Winograd or
Fourier transforms, which round. The neurons' equations are those of :mod:`loihi.reference`, in
int64.

On a processor :class:`loihi.engine.Engine` is many times faster.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from loihi import formats
from loihi.errors import PumiceError
from loihi.network import INPUT, ComplexDense, Conv, Inject, Network
from loihi.neurons import Neuron
from loihi.synapses import largest_sum, lost_bits

VALUES = {"cpu": 2**22, "cuda": 2**27}
"""Numbers of the largest layer, or of what its convolution is unfolded into, at a time."""

Messages = Mapping[int, Tensor]
"""Of a step, what each source sends: ``[n, *shape]`` in float32."""


def predict(network: Network, x: NDArray[Any], device: str = "cpu") -> NDArray[np.int64]:
    """The scores ``[N, classes]`` of payloads ``[T, N, *input_shape]``, as
    :func:`loihi.reference.predict`.

    device: ``cpu``, ``cuda`` or what else torch knows. Raises
    :class:`loihi.errors.PumiceError` where torch has no such device, and where a layer's neurons
    are not integrate-and-fire.
    """
    x = network.check_payloads(x)
    for index, layer in enumerate(network.layers):
        if not isinstance(layer.neuron, Neuron):
            kind = type(layer.neuron).__name__
            raise PumiceError(
                f"layer {index}: {kind} neurons do not run in torch: use loihi.engine"
            )
    try:
        place = torch.device(device)
        torch.zeros(1, device=place)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise PumiceError(f"device {device!r} is none that torch can use here") from None
    found = [np.zeros((0, network.classes), dtype=np.int64)]
    with torch.inference_mode():
        simulation = _Simulation(network, place)
        size = max(1, VALUES.get(place.type, VALUES["cpu"]) // simulation.values)
        for start in range(0, x.shape[1], size):
            found.append(simulation.scores(x[:, start : start + size]).cpu().numpy())
    return np.concatenate(found)


class _Simulation:
    """A network on a device. values: how many numbers of a sample it holds at a time, at most."""

    def __init__(self, network: Network, device: torch.device) -> None:
        self.network, self.device = network, device
        indices = range(len(network.layers))
        self.neurons = [_Neurons(network, index, device) for index in indices]
        self.synapses = [
            [_Synapse(network, k, number, device) for number in range(len(network.synapses(k)))]
            for k in indices
        ]
        together = [synapse for synapses in self.synapses for synapse in synapses]
        self.values = max(synapse.values for synapse in together)
        self.memory = max(synapse.memory for synapse in together)
        # What a bias does on a chip before the window, delays carry into it: Engine does the same.
        early = network.is_chain and network.has_delays
        self.arrivals = network.arrivals if early else (0,) * len(network.layers)

    def scores(self, x: NDArray[Any]) -> Tensor:
        """``[n, classes]`` of payloads ``[T, n, *input_shape]``."""
        network, last = self.network, len(self.neurons) - 1
        shapes = {INPUT: network.input_shape, **dict(enumerate(network.shapes))}
        silence = {
            source: torch.zeros((x.shape[1], *shape), device=self.device)
            for source, shape in shapes.items()
        }
        past = deque([silence] * (1 + self.memory), maxlen=1 + self.memory)  # of now, a step ago, …
        spikes = torch.zeros_like(silence[last], dtype=torch.int64)
        payloads = silence[INPUT]
        for neurons in self.neurons:
            neurons.rest(x.shape[1])
        for t in range(-self.arrivals[-1], len(x)):
            if t >= 0 and (t == 0 or x.strides[0] != 0):  # stride 0: the same at every step
                step = torch.from_numpy(np.array(x[t], dtype=network.encoding.dtype))
                payloads = step.to(self.device, torch.float32)
            now = {**silence, INPUT: payloads}
            past.appendleft(now)
            inputs: list[Tensor] = []
            for index, neurons in enumerate(self.neurons):
                if t < -self.arrivals[index]:
                    continue
                if t == 0:
                    neurons.rest(x.shape[1])
                parts = [synapse(past) for synapse in self.synapses[index]]
                if (carry := network.layers[index].carry) is not None:
                    parts.append(inputs[carry])
                inputs.append(_wrap(torch.stack(parts).sum(dim=0), 32))
                now[index] = neurons.step(inputs[-1]).to(torch.float32)
            if t >= 0:
                spikes += now[last].to(torch.int64)
        read = spikes if network.readout == "spikes" else self.neurons[last].v
        return read.reshape(len(read), -1)


class _Synapse:
    """A synapse of a layer. memory: how many steps back it hears. values: as of a simulation."""

    def __init__(self, network: Network, target: int, number: int, device: torch.device) -> None:
        self.synapse, sources = network.synapses(target)[number]
        # A layer hears itself and later ones a step late.
        self.sources = [(source, int(source >= target)) for source in sources]
        self.shape = network.shapes[target]
        self.values = int(np.prod(self.shape))
        self.weights: list[tuple[int, Tensor]] = []
        self.heard = self.found = torch.zeros((), dtype=torch.int64)
        self.bits = 32
        self.memory = 1
        if isinstance(self.synapse, Inject):
            return
        assert not isinstance(self.synapse, ComplexDense)  # only resonators have it
        payload = network.payload_of(sources)
        largest = largest_sum(self.synapse.weight, payload)
        self.bits -= int(lost_bits(self.synapse))
        # Whole numbers below 2^24 are exact in float32, and sums of them that stay there. Factors
        # within 256 are, even where torch has been told to round them to TF32 or bfloat16.
        single = largest < 2**24 and max(map(abs, payload)) <= 256
        dtype = torch.float32 if single else torch.float64
        weight = torch.tensor(self.synapse.weight, dtype=dtype, device=device)
        if isinstance(self.synapse, Conv):
            groups = self.synapse.groups
            self.weights = [(0, weight.reshape(groups, len(weight) // groups, -1))]
            taps = weight[0, 0].numel() * network.shape_of(sources[0])[0]
            self.values = max(self.values, taps * int(np.prod(self.shape[1:])))
        elif self.synapse.delay is None:
            self.weights = [(0, weight.T)]
        else:
            delay = torch.tensor(self.synapse.delay, device=device)
            self.weights = [
                (int(d), torch.where(delay == d, weight, 0).T) for d in torch.unique(delay)
            ]
            self.memory += int(delay.max())

    def __call__(self, past: Sequence[Messages]) -> Tensor:
        """What reaches the neurons now, ``[n, *shape]`` in int64, of what was sent up to now."""
        if isinstance(self.synapse, Inject):
            return past[0][INPUT].to(torch.int64)
        # The same input as a step before, as a static one is, is not multiplied again.
        alone = self.memory == 1 and self.sources == [(INPUT, 0)]
        if alone and past[0][INPUT] is self.heard:
            return self.found
        total = torch.zeros((), dtype=torch.int64, device=past[0][INPUT].device)
        for delay, weight in self.weights:
            message = sum(past[delay + late][source] for source, late in self.sources)
            assert isinstance(message, Tensor)
            found = self._product(message.to(weight.dtype), weight)
            total = total + _wrap(found.to(torch.int64), self.bits)
        self.heard, self.found = past[0][INPUT], total
        return total

    def _product(self, message: Tensor, weight: Tensor) -> Tensor:
        if not isinstance(self.synapse, Conv):
            return message.flatten(1) @ weight
        conv = self.synapse
        kernel = conv.weight.shape[2:]
        seen = F.unfold(message, kernel, conv.dilations, conv.paddings, conv.strides)
        seen = seen.reshape(len(message), conv.groups, -1, seen.shape[-1])
        return (weight @ seen).reshape(len(message), *self.shape)


class _Neurons:
    """A layer's neurons: :func:`loihi.reference.step_neuron` in torch."""

    def __init__(self, network: Network, index: int, device: torch.device) -> None:
        neuron = network.layers[index].neuron
        assert isinstance(neuron, Neuron)
        self.neuron, self.shape, self.device = neuron, network.shapes[index], device
        bias = neuron.effective_bias(self.shape)
        self.bias = torch.from_numpy(np.ascontiguousarray(bias)).to(device)

    def rest(self, samples: int) -> None:
        """u and v before the first step."""
        self.u, self.v = (
            torch.zeros((samples, *self.shape), dtype=torch.int64, device=self.device) for _ in "uv"
        )

    def step(self, a: Tensor) -> Tensor:
        """The spikes ``[n, *shape]`` that input ``a`` causes."""
        neuron, limit = self.neuron, formats.STATE_MAX
        current = _wrap(_decay(self.u, neuron.du) + _wrap(a << formats.STATE_SHIFT, 32), 32)
        current = torch.where(current > limit, current - 2 * limit, current)
        self.u = torch.where(current <= -limit, current + 2 * limit, current)
        voltage = _wrap(_decay(self.v, neuron.dv) + self.u + self.bias, 32)
        self.v = voltage.clamp(1 - limit, limit - 1)
        if neuron.vth is None:
            return torch.zeros_like(self.v, dtype=torch.bool)
        threshold = neuron.vth << formats.STATE_SHIFT
        spikes = self.v > threshold
        left = self.v - threshold if neuron.reset == "soft" else torch.zeros_like(self.v)
        self.v = torch.where(spikes, left, self.v)
        return spikes


def _decay(x: Tensor, decay: int) -> Tensor:
    """x · (4096 − decay) / 4096 towards zero."""
    return torch.sign(x) * (x.abs() * (formats.DECAY_ONE - decay) >> 12)


def _wrap(x: Tensor, bits: int) -> Tensor:
    """What a register of so many bits keeps, in two's complement."""
    return x << (64 - bits) >> (64 - bits)
