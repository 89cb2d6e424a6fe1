"""The papers' networks, frozen, in Lava: chains through Intel's loader, residual nets wired."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from test_wiring import check_in_lava
from test_zoo import made

from lava_export import netx
from loihi import Encoding
from trainer.zoo import build

pytestmark = [pytest.mark.lava, pytest.mark.exactness]

MODELS = {"lenet1": True, "sew_resnet18": False, "preact_resnet18": False}
"""Whether netx can hold it."""


def test_means_in_lava(tmp_path: Path) -> None:
    """Means that are part of a convolution and of dense synapses, in netx's form."""
    net = build("4c3p1-2m-6c3p1g2-2m-12", (2, 8, 8), 5, Encoding("rate", 6), norm="bn", dv=1024)
    generator = torch.Generator().manual_seed(0)
    x = (torch.rand((6, 3, 2, 8, 8), generator=generator) < 0.4).float()
    net.calibrate(x, generator)
    network = net.eval().freeze()
    kernels = [layer.synapse.weight.shape for layer in network.layers]
    assert kernels == [(4, 2, 3, 3), (6, 2, 6, 6), (12, 96), (5, 12)]
    assert netx.why_not(network) is None
    check_in_lava([network], [x.numpy().astype(np.int64)], tmp_path)


def test_the_zoo_in_lava(tmp_path: Path) -> None:
    """Narrow ones with batch norm folded in and neurons calibrated, each on two samples."""
    networks, inputs = [], []
    for name in MODELS:
        net, x = made(name)
        net.project()
        net.eval()
        networks.append(net.freeze())
        inputs.append(x.numpy().astype(np.int64))
    assert [netx.why_not(network) is None for network in networks] == list(MODELS.values())
    check_in_lava(networks, inputs, tmp_path)
