"""Lava's convolution for more than 127 groups and other settings beyond its 8 bits."""

from __future__ import annotations

import numpy as np
from lava.magma.core.model.py.type import LavaPyType
from lava.proc.conv.models import PyConvModelFixed
from lava.proc.conv.process import Conv


class WideConv(Conv):
    """Lava's Conv; its model keeps kernel size, stride, padding, dilation and groups in 32 bits."""


class WideConvModel(PyConvModelFixed):
    """WideConv on a CPU: Lava's own model."""

    implements_process = WideConv  # Lava's decorator refuses what inherits from a model
    kernel_size: np.ndarray = LavaPyType(np.ndarray, np.int32)
    stride: np.ndarray = LavaPyType(np.ndarray, np.int32)
    padding: np.ndarray = LavaPyType(np.ndarray, np.int32)
    dilation: np.ndarray = LavaPyType(np.ndarray, np.int32)
    groups: np.ndarray = LavaPyType(np.ndarray, np.int32)
