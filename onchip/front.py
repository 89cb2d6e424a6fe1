"""What stands in front of the layers that learn: frozen, so it runs for many samples at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from loihi import Network, reference
from loihi.engine import Engine


class Front:
    """The layers before the one numbered ``first``: what they send, step after step of the chip.

    interval: steps from a sample to the next. threads: None: one a processor.
    """

    def __init__(self, network: Network, first: int, interval: int, threads: int | None) -> None:
        self._interval = interval
        self._network: Network | None = None
        shape, self.lag = network.input_shape, 0
        if first:
            self._network = Network(network.input_shape, network.layers[:first], network.encoding)
            self._engine = Engine(self._network, threads)
            shape, self.lag = network.shapes[first - 1], network.arrivals[first - 1]
        self.size = int(np.prod(shape))

    def messages(self, x: NDArray[Any]) -> NDArray[np.uint8]:
        """Of payloads ``[T, n, …]``: ``[n · interval, size]``, each sample followed by its gap."""
        padded = np.zeros((self._interval, *x.shape[1:]), dtype=x.dtype)
        padded[: len(x)] = x
        if self._network is not None:
            padded = self._engine.run(padded).spikes[-1]
        turned = padded.reshape(self._interval, -1, self.size).swapaxes(0, 1)
        return np.ascontiguousarray(turned, dtype=np.uint8).reshape(-1, self.size)

    def lead(self) -> NDArray[np.uint8]:
        """What they send before the first sample has come through them."""
        return self._silent(self.lag)

    def silence(self, steps: int) -> NDArray[np.uint8]:
        """What they send when no sample follows, from where the last one's steps end."""
        return self._silent(self.lag + steps)[self.lag :]

    def _silent(self, steps: int) -> NDArray[np.uint8]:
        if self._network is None or not steps:
            return np.zeros((steps, self.size), dtype=np.uint8)
        nothing = np.zeros((steps, 1, *self._network.input_shape), dtype=np.uint8)
        trace = reference.stream(self._network, nothing, reset_interval=self._interval)
        return trace.spikes[-1].reshape(steps, self.size).astype(np.uint8)
