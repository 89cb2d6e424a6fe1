"""Learning in Lava's simulator: labelled samples in, a new frozen network out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loihi import Network, decide
from loihi.engine import Engine
from onchip import block
from onchip.block import LearningError, Mode, Rule
from onchip.simulate import simulate


@dataclass(frozen=True)
class LearnResult:
    """What was learned.

    network: the frozen network with the learned weights, number for number those of the simulator.
    samples, steps, seconds: learned from, simulated, and what Lava took for them.
    changed: how many weights differ from before, for each plastic layer, by its name.
    saturated: how many weights ended at the limit of the chip's 8 bits, likewise.
    """

    network: Network
    samples: int
    steps: int
    seconds: float
    changed: dict[str, int]
    saturated: dict[str, int]


def learn(
    network: Network,
    x: NDArray[Any],
    labels: NDArray[Any],
    *,
    mode: Mode = "hidden",
    rule: Rule | None = None,
    epochs: int = 1,
    seed: int = 1,
    deadline: float = 600.0,
    on_progress: Callable[[int, int], None] | None = None,
) -> LearnResult:
    """Let ``network`` learn the payloads ``x`` ``[T, N, *input_shape]`` in Lava's CPU simulator.

    labels: the class of each sample, ``[N]``, 0..classes − 1.
    mode: what is plastic: the hidden layer (the one before the last), the readout (the last
        layer), or both. Layers further in front stay as they are.
    epochs: how often every sample is seen, each time in another order, drawn from ``seed``.
    deadline: seconds after which the simulation is ended and an error raised.
    on_progress: called with samples learned and samples in all.

    The simulation runs in a supervised child process. Raises a :class:`PumiceError` for a network
    that cannot learn, for data or labels that do not fit it, and where Lava is absent or fails.
    """
    x, labels = check_data(network, x, labels)
    if epochs < 1:
        raise LearningError(f"epochs is {epochs}: at least one is needed")
    plan = block.build(network, x, mode, rule or Rule())
    rng = np.random.Generator(np.random.PCG64(seed))
    order = np.concatenate([rng.permutation(len(labels)) for _ in range(epochs)])
    static = x.strides[0] == 0  # one step stands for all: keep it so
    stream = x[:1, order] if static else x[:, order]
    stream = np.broadcast_to(stream, (len(x), *stream.shape[1:]))
    outcome = simulate(
        plan, stream, labels[order], deadline=deadline, seed=seed, on_progress=on_progress
    )
    changed, saturated = {}, {}
    for index, values in outcome.learned.items():
        changed[network.names[index]] = int((values != plan.plastic[index].values).sum())
        at_limit = (values == block.MANTISSA_MIN) | (values == block.MANTISSA_MAX)
        saturated[network.names[index]] = int(at_limit.sum())
    return LearnResult(
        plan.freeze(outcome.learned),
        len(order),
        outcome.steps,
        outcome.seconds,
        changed,
        saturated,
    )


def accuracy(network: Network, x: NDArray[Any], labels: NDArray[Any]) -> float:
    """The fraction of payloads ``x`` that the frozen network itself classifies as ``labels``."""
    x, labels = check_data(network, x, labels)
    return float((decide(Engine(network).predict(x)) == labels).mean())


def check_data(
    network: Network, x: NDArray[Any], labels: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Payloads and labels as they are used, or a :class:`PumiceError` that says what is wrong."""
    x, labels = network.check_payloads(x), np.asarray(labels)
    if len(x) != network.time_steps:
        raise LearningError(
            f"the data have {len(x)} steps a sample, the network's encoding {network.time_steps}"
        )
    if labels.ndim != 1 or len(labels) != x.shape[1]:
        raise LearningError(
            f"{x.shape[1]} samples need labels [{x.shape[1]}], found {list(labels.shape)}"
        )
    if not len(labels):
        raise LearningError("there is no sample to learn from")
    if labels.dtype.kind not in "iu":
        raise LearningError(f"labels are class numbers, found dtype {labels.dtype}")
    wrong = (labels < 0) | (labels >= network.classes)
    if wrong.any():
        at = int(np.argmax(wrong))
        raise LearningError(
            f"label {int(labels[at])} of sample {at}: the network has classes "
            f"0..{network.classes - 1}"
        )
    return x, labels.astype(np.int64)
