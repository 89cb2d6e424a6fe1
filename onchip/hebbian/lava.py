"""A block at work in Lava's CPU simulator, to the same weights."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lava_export import supervise
from loihi import Neuron
from onchip.front import Front
from onchip.hebbian.block import HebbianBlock, payloads
from onchip.hebbian.learner import layer_of, way_back
from onchip.hebbian.rule import REWARD
from onchip.rules.language import LavaRule, read_rule
from onchip.simulate import lava_dense


@dataclass(frozen=True)
class Outcome:
    """What came out of Lava. learned: the mantissas. steps, seconds: Lava's. history: of each step,
    if recorded: weights, tag_1 ``[steps, out, in]``, x ``[steps, 2, in]``, y ``[steps, 3, out]``,
    spikes ``[steps, out]``."""

    learned: NDArray[np.int32]
    steps: int
    seconds: float
    history: dict[str, NDArray[Any]]


def simulate(
    block: HebbianBlock,
    x: NDArray[Any],
    answers: NDArray[Any],
    *,
    given: bool = False,
    seed: int = 1,
    deadline: float = 600.0,
    record: bool = False,
) -> Outcome:
    """Learn payloads ``x`` ``[T, N, *input_shape]`` in Lava's CPU simulator, in a supervised child;
    what the layers in front send comes from :mod:`loihi.engine`."""
    network = block.network
    front = Front(network, block.index, block.interval, None)
    steps = block.steps(x.shape[1])
    lead, messages = front.lead(), front.messages(payloads(network, x))
    tail = front.silence(max(0, steps - len(lead) - len(messages)))
    neuron = network.layers[block.index].neuron
    assert isinstance(neuron, Neuron) and neuron.vth is not None
    size = int(np.prod(network.shapes[block.index]))
    keep, impulse = block.trace
    result = supervise.run(
        _child,
        deadline=deadline,
        messages=np.concatenate([lead, messages, tail])[:steps],
        weight=block.plastic.values,
        exponent=block.plastic.exponent,
        graded=block.graded,
        rule=block.compiled.rule.as_dict(),
        seed=seed,
        neuron={
            "du": neuron.du - 1,  # Lava's LIF adds it again
            "dv": neuron.dv,
            "vth": neuron.vth,
            "bias_exp": neuron.bias_exp,
            "reset_interval": block.interval,
            "reset_offset": (network.arrivals[block.index] + 1) % block.interval,
            "keep": keep,
            "impulse": impulse,
        },
        bias=np.broadcast_to(np.asarray(neuron.bias), (size,)).astype(np.int32),
        readout=np.array(layer_of(block, given).readout),
        judge=None
        if block.mode == "stdp"
        else {
            "by_class": not given,
            "reward": REWARD,
            "baseline": block.rule.baseline,
            "epoch": block.rule.epoch,
            "time_steps": network.time_steps,
            "interval": block.interval,
            "arrival": block.judged,
        },
        answers=np.asarray(answers, dtype=np.int64),
        record=record,
    )
    history = {k.removeprefix("seen."): v for k, v in result.items() if k.startswith("seen.")}
    return Outcome(result["learned"], result["steps"], result["seconds"], history)


def _child(
    folder: Path,
    *,
    messages: NDArray[Any],
    weight: NDArray[Any],
    exponent: int,
    graded: bool,
    rule: dict[str, Any],
    seed: int,
    neuron: dict[str, Any],
    bias: NDArray[Any],
    readout: NDArray[Any],
    judge: dict[str, Any] | None,
    answers: NDArray[Any],
    record: bool,
) -> dict[str, Any]:
    supervise.prepare_lava()
    from lava.magma.core.learning.constants import GradedSpikeCfg
    from lava.magma.core.run_conditions import RunSteps
    from lava.magma.core.run_configs import Loihi2SimCfg

    from onchip.processes.hebbian import HebbianLIF, Judge, Stream
    from onchip.processes.synapse import EightBitDense

    steps, recorded = len(messages), len(messages) if record else 0
    learning: LavaRule = read_rule(**rule, strict=False)
    source = Stream(messages=np.array(messages))
    synapses = EightBitDense(
        recorded=recorded,
        file=str(folder / "synapses.npz") if record else "",
        weights=np.array(weight),
        weight_exp=exponent,
        num_message_bits=8 if graded else 0,
        learning_rule=learning.to_lava(seed),
        graded_spike_cfg=GradedSpikeCfg.OVERWRITE if graded else GradedSpikeCfg.USE_REGULAR_IMPULSE,
    )
    neurons = HebbianLIF(
        shape=bias.shape,
        bias_mant=np.array(bias),
        recorded=recorded,
        file=str(folder / "spikes.npy") if record else "",
        **neuron,
    )
    source.s_out.connect(synapses.s_in)
    synapses.a_out.connect(neurons.a_in)
    neurons.s_out_bap.connect(synapses.s_in_bap)
    if learning.factors == 3:
        neurons.s_out_y1.connect(synapses.s_in_y1)
        neurons.s_out_y2.connect(synapses.s_in_y2)
        neurons.s_out_y3.connect(synapses.s_in_y3)
    if judge is not None:
        judging = Judge(classes=len(readout) or len(bias), answers=np.array(answers), **judge)
        if len(readout):
            behind = lava_dense(readout, graded=False)
            neurons.s_out.connect(behind.s_in)
            behind.a_out.connect(judging.a_in)
        else:
            neurons.s_out.connect(judging.a_in)
        back = lava_dense(way_back(np.array(readout), len(bias)).T, graded=True)
        judging.s_out.connect(back.s_in)
        back.a_out.connect(neurons.a_reward)
    begin = time.perf_counter()
    source.run(condition=RunSteps(num_steps=steps), run_cfg=Loihi2SimCfg(select_tag="fixed_pt"))
    seconds = time.perf_counter() - begin
    result: dict[str, Any] = {"steps": steps, "seconds": seconds}
    result["learned"] = np.asarray(synapses.weights.get(), dtype=np.int32)
    source.stop()
    if record:
        with np.load(folder / "synapses.npz", allow_pickle=False) as seen:
            result |= {f"seen.{name}": seen[name] for name in seen.files}
        result["seen.spikes"] = np.load(folder / "spikes.npy", allow_pickle=False)
    return result
