"""The plastic synapse, a process and its fixed-point model (lava-nc 0.10.0), under any rule."""

from __future__ import annotations

from typing import Any

import numpy as np
from lava.magma.core.decorator import implements, requires, tag
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol
from lava.proc.dense import models as dense_models
from lava.proc.dense.process import LearningDense
from lava.utils.weightutils import SignMode
from numpy.typing import NDArray


class EightBitDense(LearningDense):
    """LearningDense whose weights stay what the chip's eight bits and a file can hold.

    Lava learns weights of mixed signs on nine bits: −256..255, odd ones included, of which a
    synapse (and so a netx file) keeps the even ones only. Here they saturate at −128..127, which
    is 8 bits, sign included, at an exponent of −1: every learned weight can be written.
    All other arithmetic is Lava's.

    recorded: of how many first steps it keeps weights, tags and traces, and ``file`` the ``.npz``
    into which it writes them after the last; reading them back by Lava would take minutes.
    """

    def __init__(self, *, recorded: int = 0, file: str = "", **kwargs: Any) -> None:
        # num_weight_bits is 9 so that Lava does not cut the odd weights it is given at the start.
        super().__init__(sign_mode=SignMode.MIXED, num_weight_bits=9, **kwargs)
        self.proc_params["recorded"] = recorded
        self.proc_params["file"] = file


@implements(proc=EightBitDense, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyEightBitDense(dense_models.PyLearningDenseModelBitApproximate):
    """Lava's fixed-point learning synapse, saturating at eight bits."""

    implements_process = None  # the parent's; Lava refuses to overwrite it

    def __init__(self, proc_params: Any) -> None:
        super().__init__(proc_params)
        self.recorded = proc_params["recorded"]
        self.file = proc_params["file"]
        self.seen: dict[str, NDArray[Any]] = {}

    def run_spk(self) -> None:
        """Lava's step, remembered."""
        super().run_spk()
        self._remember()

    def run_lrn(self) -> None:
        """Lava's learning phase, at the end of an epoch, remembered."""
        super().run_lrn()
        self._remember()

    def _remember(self) -> None:
        if self.time_step > self.recorded:
            return
        now = {
            "weights": self.weights,
            "tag_1": self.tag_1,
            "tag_2": self.tag_2,
            "x": np.stack([self.x1, self.x2]),
            "y": np.stack([self.y1, self.y2, self.y3]),
        }
        for name, values in now.items():
            if name not in self.seen:
                self.seen[name] = np.zeros((self.recorded, *values.shape), dtype=np.int32)
            self.seen[name][self.time_step - 1] = values
        if self.file and self.time_step == self.recorded:
            np.savez(self.file, **self.seen)  # type: ignore[arg-type]

    def _saturate_synaptic_variable(self, syn_var_name: str, syn_var_val: Any) -> Any:
        values = super()._saturate_synaptic_variable(syn_var_name, syn_var_val)
        return np.clip(values, -128, 127) if syn_var_name == "weights" else values
