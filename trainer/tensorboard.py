"""A run's curves for TensorBoard, where it is installed (``pumice[tensorboard]``).

Its files have the host's name in theirs: they are for the machine that wrote them.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

from loihi.errors import PumiceError

NAMES = {
    "loss": "loss/training",
    "train_accuracy": "accuracy/training",
    "test_accuracy": "accuracy/test",
    "spikes": "spikes/a sample",
    "lr": "learning rate",
    "seconds": "seconds an epoch",
    "peak_bytes": "peak memory, bytes",
}
"""The metrics of :class:`trainer.loop.TrainResult` as TensorBoard's tags."""


class Curves:
    """Writes into ``folder``. Raises :class:`PumiceError` where TensorBoard is not installed."""

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise PumiceError(
                "--tensorboard: TensorBoard is not installed: pip install 'pumice[tensorboard]'"
            ) from None
        self._folder, self._kind = folder, SummaryWriter
        self._writer: Any = None

    def add(self, metrics: dict[str, Any]) -> None:
        """An epoch's metrics; what an earlier process wrote for later epochs no longer counts."""
        epoch = int(metrics["epoch"])
        if self._writer is None:
            self._writer = self._kind(str(self._folder), purge_step=epoch)
        for name, tag in NAMES.items():
            if metrics.get(name) is not None:
                self._writer.add_scalar(tag, metrics[name], epoch)
        for index, rate in enumerate(metrics.get("spike_rates") or ()):
            if rate is not None:
                self._writer.add_scalar(f"spike rate/layer {index}", rate, epoch)
        self._writer.flush()

    def __enter__(self) -> Curves:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._writer is not None:
            self._writer.close()
