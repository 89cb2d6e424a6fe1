"""The chip, on paper: number formats, the frozen network, the integer engines, and the limits."""

from loihi.encoding import Encoding
from loihi.errors import PumiceError
from loihi.network import (
    ComplexDense,
    Conv,
    Dense,
    Edge,
    Inject,
    Layer,
    Network,
    Synapse,
    decide,
)
from loihi.neurons import INTEGRATOR, Delta, Neuron, Resonator, Sigma, SigmaDelta

__all__ = [
    "INTEGRATOR",
    "ComplexDense",
    "Conv",
    "Delta",
    "Dense",
    "Edge",
    "Encoding",
    "Inject",
    "Layer",
    "Network",
    "Neuron",
    "PumiceError",
    "Resonator",
    "Sigma",
    "SigmaDelta",
    "Synapse",
    "decide",
]
