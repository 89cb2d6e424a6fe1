"""Synapses written out as matrices, by the reference's own convolution: what brute force counts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from loihi import ComplexDense, Conv, Network, reference


def matrix(synapse, shape, zeros: bool = True) -> np.ndarray:
    """How many synapses lead from each input to each neuron, ``[out, in]``; those whose weight is 0
    among them if ``zeros``."""
    if isinstance(synapse, ComplexDense):
        parts = [matrix_of(weight, zeros) for weight in (synapse.real, synapse.imag)]
        return parts[0] + parts[1]
    if not isinstance(synapse, Conv):
        return matrix_of(synapse.weight, zeros)
    size = int(np.prod(shape))
    impulses = np.eye(size, dtype=np.int64).reshape(size, *shape)
    counted = replace(synapse, weight=matrix_of(synapse.weight, zeros))
    return reference.convolve(counted, impulses).reshape(size, -1).T


def matrix_of(weight, zeros: bool) -> np.ndarray:
    return np.ones_like(weight) if zeros else (weight != 0).astype(np.int64)


def wires(network: Network, index: int):
    """(synapse, source, late) of a layer, carried ones too: from the words of Layer's docstring."""
    layer = network.layers[index]
    fed = [(layer.synapse, network.sources(index)), *((e.synapse, e.sources) for e in layer.more)]
    for synapse, sources in fed:
        if hasattr(synapse, "weight"):
            yield from ((synapse, source, source >= index) for source in sources)
    if layer.carry is not None:
        yield from wires(network, layer.carry)
