"""Leaky integrate-and-fire neurons that keep what they had beyond the threshold; Lava has none."""

from __future__ import annotations

import numpy as np
from lava.proc.lif.models import PyLifResetModelBitAcc
from lava.proc.lif.process import LIFReset


class SoftLIF(LIFReset):
    """Lava's LIFReset with a soft reset: v −= vth << 6 where it spiked, in place of v = 0.

    Parameters as LIFReset's; its arithmetic, u, and the clearing between samples too. On a chip it
    is microcode of one's own.
    """


class SoftLIFModel(PyLifResetModelBitAcc):
    """SoftLIF on a CPU: all of Lava's own model but the reset."""

    implements_process = SoftLIF  # Lava's decorator refuses what inherits from a model

    def reset_voltage(self, spike_vector: np.ndarray) -> None:
        """After a step, where it spiked."""
        self.v[spike_vector] -= self.effective_vth
