"""The chip, on paper: number formats, the frozen network, the integer engines, and the limits."""

from loihi.encoding import Encoding
from loihi.errors import PumiceError
from loihi.network import (
    INTEGRATOR,
    Conv,
    Dense,
    Edge,
    Inject,
    Layer,
    Network,
    Neuron,
    Synapse,
    decide,
)

__all__ = [
    "INTEGRATOR",
    "Conv",
    "Dense",
    "Edge",
    "Encoding",
    "Inject",
    "Layer",
    "Network",
    "Neuron",
    "PumiceError",
    "Synapse",
    "decide",
]
