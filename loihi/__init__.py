"""The chip, on paper: number formats, the frozen network, the integer engines, and the limits."""

from loihi.encoding import Encoding
from loihi.errors import PumiceError
from loihi.network import (
    INTEGRATOR,
    Conv,
    Dense,
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
    "Encoding",
    "Inject",
    "Layer",
    "Network",
    "Neuron",
    "PumiceError",
    "Synapse",
    "decide",
]
