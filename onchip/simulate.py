"""Runs learning blocks in Lava's CPU simulator, in a supervised child process."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lava_export import supervise
from loihi import Conv, Dense, Encoding, Inject, Layer, Network, Neuron
from loihi.formats import weight_format
from onchip.plan import Head, Mantissas, Plan, Stage
from onchip.spec import Rule

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Outcome:
    """What came out of Lava.

    learned: the mantissas of each plastic place. steps, seconds: Lava's, run alone.
    history: of each place the mantissas after every step, ``[steps, out, in]``; traces: its x1,
    ``[steps, in]``; factors: its y1 − y2, ``[steps, out]``; spikes: of each layer but the readout,
    ``[steps, size]`` in C, H, W order; all four only if recorded.
    """

    learned: dict[int, NDArray[np.int32]]
    steps: int
    seconds: float
    history: dict[int, NDArray[np.int32]]
    traces: dict[int, NDArray[np.int32]]
    factors: dict[int, NDArray[np.int32]]
    spikes: dict[int, NDArray[np.uint8]]


def simulate(
    plan: Plan,
    x: NDArray[Any],
    labels: NDArray[Any],
    *,
    deadline: float,
    seed: int = 1,
    record: bool = False,
    on_progress: Progress | None = None,
) -> Outcome:
    """Learn payloads ``x`` ``[T, N, *input_shape]`` with their ``labels``, in their order.

    labels: ``[N]``, or more of them: then these are the first samples of a longer run, which ends
        where the next would come.

    deadline: seconds, the start of Lava included, after which the child is ended.
    seed: of the random numbers with which Lava rounds the traces.
    record: keep weights and spikes of every step; for small blocks.
    on_progress: called with the samples learned and their number.
    """
    # A static input is sent to the child once, not T times.
    once = x[:1] if x.strides[0] == 0 else x
    arrays: dict[str, NDArray[Any]] = {"x": np.asarray(once), "labels": np.asarray(labels)}
    packed = pack(plan, arrays)
    with _progress(x.shape[1], on_progress) as progress:
        result = supervise.run(
            _child,
            deadline=deadline,
            packed=packed,
            seed=seed,
            record=record,
            progress=progress,
            **arrays,
        )

    def by_layer(kind: str) -> dict[int, NDArray[Any]]:
        return {int(key.split(".")[1]): v for key, v in result.items() if key.startswith(kind)}

    return Outcome(
        by_layer("learned."),
        result["steps"],
        result["seconds"],
        by_layer("history."),
        by_layer("traces."),
        by_layer("factors."),
        by_layer("spikes."),
    )


@contextmanager
def _progress(samples: int, report: Progress | None) -> Iterator[str | None]:
    """A file that the child makes a byte longer for each sample, and a thread that watches it.

    The child takes its name away when it has it open, so that nothing stays if this is killed.
    """
    if report is None:
        yield None
        return
    with tempfile.NamedTemporaryFile(prefix="pumice-progress-", delete=False) as file:
        done = threading.Event()

        def watch() -> None:
            seen = 0
            while not done.wait(0.2):
                if (size := os.fstat(file.fileno()).st_size) != seen:
                    report(seen := size, samples)

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield file.name
        finally:
            done.set()
            watcher.join()
            Path(file.name).unlink(missing_ok=True)  # the child never came so far


# --- what travels to the child: JSON, and arrays by name ----------------------------------------

_CLASSES: dict[str, Any] = {
    c.__name__: c
    for c in (
        *(Plan, Stage, Head, Rule, Mantissas),
        *(Network, Layer, Neuron, Dense, Conv, Inject, Encoding),
    )
}


def pack(value: Any, arrays: dict[str, NDArray[Any]]) -> Any:
    if isinstance(value, np.ndarray):
        name = f"array{len(arrays)}"
        arrays[name] = value
        return {"array": name}
    if is_dataclass(value):
        parts = {f.name: pack(getattr(value, f.name), arrays) for f in fields(value)}
        return {"class": type(value).__name__, "fields": parts}
    if isinstance(value, dict):
        return {"items": [[k, pack(v, arrays)] for k, v in value.items()]}
    if isinstance(value, tuple):
        return [pack(v, arrays) for v in value]
    return value


def unpack(value: Any, arrays: dict[str, NDArray[Any]]) -> Any:
    if isinstance(value, list):
        return tuple(unpack(v, arrays) for v in value)
    if not isinstance(value, dict):
        return value
    if "array" in value:
        return np.array(arrays[value["array"]])
    if "items" in value:
        return {k: unpack(v, arrays) for k, v in value["items"]}
    parts = {name: unpack(v, arrays) for name, v in value["fields"].items()}
    return _CLASSES[value["class"]](**parts)


# --- in the child -------------------------------------------------------------------------------


def _child(
    folder: Path,
    *,
    packed: Any,
    x: NDArray[Any],
    labels: NDArray[Any],
    seed: int,
    record: bool,
    progress: str | None,
    **arrays: NDArray[Any],
) -> dict[str, Any]:
    samples_done = None
    if progress is not None:
        samples_done = os.open(progress, os.O_WRONLY)
        os.unlink(progress)
    supervise.prepare_lava()
    from lava.magma.core.run_conditions import RunSteps
    from lava.magma.core.run_configs import Loihi2SimCfg
    from lava.proc.io.sink import RingBuffer

    plan: Plan = unpack(packed, arrays)
    samples = x.shape[1]
    steps, done, seconds = plan.steps(samples, len(labels)), 0, 0.0
    recorded = steps if record else 0
    graph = _Graph(plan, np.asarray(x), np.asarray(labels), seed, recorded, folder)
    sinks = {}
    if record:
        for index, port in graph.spikes.items():
            sinks[index] = RingBuffer(shape=port.shape, buffer=steps)
            port.connect(sinks[index].a_in)
    config = Loihi2SimCfg(select_tag="fixed_pt")
    # Between runs Lava stands still for a moment: often enough to watch, seldom enough to be cheap.
    at_once = plan.interval * max(1, samples // 50)
    while done < steps:
        some = min(at_once, steps - done)
        begin = time.perf_counter()
        graph.source.run(condition=RunSteps(num_steps=some), run_cfg=config)
        seconds += time.perf_counter() - begin
        done += some
        if samples_done is not None:
            os.ftruncate(samples_done, min(done // plan.interval, samples))
    result: dict[str, Any] = {"steps": steps, "seconds": seconds}
    for index in graph.plastic:
        result[f"learned.{index}"] = graph.learned(index)
        if record:
            with np.load(_seen(folder, index), allow_pickle=False) as seen:
                order = _from_lava(plan.shape(index))
                result[f"history.{index}"] = seen["weights"][..., order]
                result[f"traces.{index}"] = seen["x"][:, 0, order]
                result[f"factors.{index}"] = seen["y"][:, 0] - seen["y"][:, 1]
    for index, sink in sinks.items():
        spikes = sink.data.get().reshape(-1, steps)[_from_lava(plan.network.shapes[index])]
        result[f"spikes.{index}"] = spikes.T.astype(np.uint8)
    graph.source.stop()
    return result


def _to_lava(shape: tuple[int, ...]) -> NDArray[np.intp]:
    """Where in our order (C, H, W) each value of an image in Lava's order (W, H, C) stands."""
    return np.arange(int(np.prod(shape))).reshape(shape).transpose().reshape(-1)


def _from_lava(shape: tuple[int, ...]) -> NDArray[np.intp]:
    return _to_lava(shape[::-1])


class _Graph:
    """The Lava processes of a plan, connected; every image of theirs is in Lava's order.

    source: any process of them, to run all. plastic: the learning synapses, by place.
    spikes: the output port of each layer but the readout.
    """

    def __init__(
        self,
        plan: Plan,
        x: NDArray[Any],
        labels: NDArray[Any],
        seed: int,
        recorded: int,
        folder: Path,
    ) -> None:
        from onchip.processes.block import SampleSource

        network = plan.network
        x = x.transpose(0, 1, *reversed(range(2, x.ndim)))
        x = np.broadcast_to(x, (network.time_steps, *x.shape[1:]))
        self.source = SampleSource(payloads=x, gap=plan.rule.gap)
        self.plastic: dict[int, Any] = {}
        self.spikes: dict[int, Any] = {}
        self._plan, self._seed, self._recorded, self._folder = plan, seed, recorded, folder
        self._mirrors = {s.above for s in plan.stages if s.feedback is None}
        stages = {stage.layer: stage for stage in plan.stages}
        neurons: dict[int, Any] = {}
        port = self.source.s_out
        for index in range(plan.top + 1):
            neurons[index] = _neurons(plan, index, stages.get(index))
            self._connect(port, index, neurons[index])
            port = self.spikes[index] = neurons[index].s_out
        for head in plan.heads:
            error = _error(plan, head, labels)
            self._connect(self.spikes.get(head.layer, self.source.s_out), head.place, error)
            neurons[head.place] = error
        for stage in plan.stages:
            self._feed_back(stage, neurons)

    def _connect(self, port: Any, place: int, neurons: Any) -> None:
        """Spikes through a place's synapses to what is behind them."""
        plan = self._plan
        shape = plan.shape(place)
        graded = place == 0 and not plan.network.encoding.binary
        if place in plan.plastic:
            synapses = self.plastic[place] = _plastic(
                plan,
                place,
                graded,
                place in self._mirrors,
                self._seed,
                recorded=self._recorded,
                file=str(_seen(self._folder, place)) if self._recorded else "",
            )
            neurons.s_out_bap.connect(synapses.s_in_bap)
            neurons.s_out_y1.connect(synapses.s_in_y1)
            neurons.s_out_y2.connect(synapses.s_in_y2)
            neurons.s_out_y3.connect(synapses.s_in_y3)
        else:
            weights = {head.place: Dense(head.weight) for head in plan.heads}
            fixed = weights.get(place) or plan.network.layers[place].synapse
            synapses = _fixed(fixed, shape, graded)
        if synapses is None:
            port.connect(neurons.a_in)
            return
        fits = port.shape == synapses.s_in.shape
        (port if fits else port.flatten()).connect(synapses.s_in)
        synapses.a_out.connect(neurons.a_in)

    def _feed_back(self, stage: Stage, neurons: dict[int, Any]) -> None:
        """An error from where it is made to a layer's third factor."""
        above = neurons[stage.above]
        error = above.s_out_error
        if stage.feedback is None:
            back = self.plastic[stage.above]
            error.connect(back.e_in)
            back.b_out.connect(neurons[stage.layer].a_error)
        else:
            dense = lava_dense(stage.feedback, graded=True)
            error.connect(dense.s_in)
            dense.a_out.connect(neurons[stage.layer].a_error)

    def learned(self, place: int) -> NDArray[np.int32]:
        """A plastic place's mantissas, in our order of the inputs."""
        values = np.asarray(self.plastic[place].weights.get(), dtype=np.int32)
        return values[:, _from_lava(self._plan.shape(place))]


def _seen(folder: Path, place: int) -> Path:
    """Where a plastic place keeps what happened in it."""
    return folder / f"synapses{place}.npz"


def _neurons(plan: Plan, index: int, stage: Stage | None) -> Any:
    """Of a layer: those that learn send what their synapses need for it."""
    from lava.proc.lif.process import LIFReset

    from onchip.processes.block import BlockLIF

    network = plan.network
    options = {
        **_neuron(network.layers[index], network.shapes[index]),
        "reset_interval": plan.interval,
        "reset_offset": (network.arrivals[index] + 1) % plan.interval,
    }
    if stage is None:
        return LIFReset(**options)
    sends = any(other.above == index for other in plan.stages)
    return BlockLIF(window=stage.window, error_shift=stage.error_shift, sends=sends, **options)


def _error(plan: Plan, head: Head, labels: NDArray[Any]) -> Any:
    from onchip.processes.block import LocalError

    ranks = plan.ranks(len(labels))
    return LocalError(
        classes=plan.network.classes,
        labels=labels,
        time_steps=plan.network.time_steps,
        gap=plan.rule.gap,
        arrival=head.arrival,
        amplitude=head.rule.amplitude,
        leak=head.rule.leak,
        readout_shift=head.readout_shift,
        halvings=plan.rule.halvings,
        silent=ranks >= head.steps if head.steps else None,
        sends=any(stage.above == head.place for stage in plan.stages),
    )


def _plastic(
    plan: Plan, place: int, graded: bool, mirrors: bool, seed: int, **recording: Any
) -> Any:
    from lava.magma.core.learning.constants import GradedSpikeCfg
    from lava.magma.core.learning.learning_rule import Loihi3FLearningRule

    from onchip.processes.block import MirrorDense
    from onchip.processes.synapse import EightBitDense

    rule, rate = plan.numbers[place], plan.rates[place]
    readout = any(head.place == place for head in plan.heads)
    return (MirrorDense if mirrors else EightBitDense)(
        weights=plan.plastic[place].values[:, _to_lava(plan.shape(place))],
        weight_exp=plan.plastic[place].exponent,
        num_message_bits=8 if graded else 0,
        learning_rule=Loihi3FLearningRule(
            dw=f"2^{rate}*u0*x1*y1 - 2^{rate}*u0*x1*y2",
            x1_impulse=rule.readout_impulse if readout else rule.hidden_impulse,
            x1_tau=rule.readout_tau if readout else rule.hidden_tau,
            t_epoch=plan.rule.epoch,
            rng_seed=seed,
        ),
        graded_spike_cfg=GradedSpikeCfg.OVERWRITE if graded else GradedSpikeCfg.USE_REGULAR_IMPULSE,
        **recording,
    )


def _fixed(synapse: Any, shape: tuple[int, ...], graded: bool) -> Any:
    from lava.proc.conv.process import Conv as LavaConv

    if isinstance(synapse, Inject):
        return None
    if isinstance(synapse, Dense):
        return lava_dense(synapse.weight[:, _to_lava(shape)], graded)
    return LavaConv(
        # Lava's Conv is a convolution, ours (as torch's) a correlation: its kernel runs backwards.
        weight=synapse.weight[:, :, ::-1, ::-1].transpose(0, 3, 2, 1).copy(),
        input_shape=shape[::-1],
        padding=synapse.paddings[::-1],
        stride=synapse.strides[::-1],
        dilation=synapse.dilations[::-1],
        groups=synapse.groups,
        num_message_bits=8 if graded else 0,
    )


def lava_dense(weight: NDArray[Any], graded: bool) -> Any:
    """Lava's Dense, given mantissas that its truncation to 8 bits leaves alone."""
    from lava.proc.dense.process import Dense as LavaDense

    exponent = weight_format(weight).exponent
    return LavaDense(
        weights=weight << -exponent, weight_exp=exponent, num_message_bits=8 if graded else 0
    )


def _neuron(layer: Layer, shape: tuple[int, ...]) -> dict[str, Any]:
    """The parameters of Lava's LIFReset, but for the reset."""
    neuron = layer.neuron
    assert isinstance(neuron, Neuron)  # the network has been checked
    bias = np.asarray(neuron.bias)
    if bias.ndim == 1 and len(shape) == 3:
        bias = bias[:, None, None]
    bias = np.broadcast_to(bias, shape).transpose()
    return {
        "shape": bias.shape,
        "du": neuron.du - 1,  # Lava's LIF adds it again
        "dv": neuron.dv,
        "vth": 1 << 17 if neuron.vth is None else neuron.vth,  # which v, below 2^23, never reaches
        "bias_mant": bias,
        "bias_exp": neuron.bias_exp,
    }
