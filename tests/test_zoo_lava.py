"""The papers' networks, frozen, in Lava: chains through Intel's loader, residual nets wired."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from test_wiring import check_in_lava
from test_zoo import made

from lava_export import netx

pytestmark = [pytest.mark.lava, pytest.mark.exactness]

MODELS = {"lenet1": True, "sew_resnet18": False, "preact_resnet18": False}
"""Whether netx can hold it."""


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
