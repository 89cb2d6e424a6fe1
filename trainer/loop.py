"""The training loop: from a config and data to a run folder and the frozen network.

A run folder holds ``config.toml`` (it alone repeats the run), ``environment.json`` (the versions
that it ran on), ``metrics.jsonl`` (an object an epoch) and ``checkpoint.safetensors`` (as of the
last full epoch), each replaced atomically.

Everything random comes from (seed, epoch): order, shifts, and what a rule draws. So a run that was
killed in an epoch begins that epoch again and gets the same numbers, bit for bit, as one that ran
through on the same machine and device.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import resource
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

import loihi
from loihi import Encoding, files
from loihi.encoding import EncodingError
from loihi.errors import PumiceError
from trainer import checkpoint, observe, runs
from trainer.config import TrainConfig
from trainer.data import Dataset, hold_out
from trainer.data.augment import Augmentation, shifted
from trainer.distributed import World, world
from trainer.kernels import use_threads
from trainer.memory import keep_freed
from trainer.models import SpikingNetwork
from trainer.neurons import Neurons
from trainer.norms import WEIGHT_STD, BatchNorm
from trainer.rules import LOCAL, rule
from trainer.rules.base import Loss, Rule
from trainer.runs import CHECKPOINT as CHECKPOINT
from trainer.runs import CONFIG as CONFIG
from trainer.runs import METRICS as METRICS
from trainer.surrogates import Surrogate
from trainer.zoo import build

CALIBRATION_SAMPLES = 512
CALIBRATION_PIXELS = 2**26
"""Neurons times samples at most: calibration keeps some layers' spikes of all steps."""

Metrics = dict[str, Any]


class TrainError(PumiceError):
    """Data, settings or a run folder that cannot be trained with."""


@dataclass(frozen=True)
class TrainResult:
    """What a run leaves.

    network: the frozen integer network after the last epoch; None of neurons that are not on the
        chip's grid.
    metrics: an object an epoch: ``epoch, loss, train_accuracy, test_accuracy, test_correct,
        test_samples, spikes, spike_rates, thresholds, lr, seconds, peak_bytes``. The test samples
        are those held out, where ``validation`` is not 0; spikes are of all layers, a test sample;
        spike_rates are spikes per neuron and step, layer by layer, None of a layer that never
        spikes; thresholds are each layer's, where it began being 1, None of one that does not
        learn; peak_bytes are the process's on the CPU, PyTorch's on a GPU.
    predictions: class of every test sample, ``[N]``, as the trainer's own forward pass has it.
    module: the trained PyTorch network.
    """

    network: loihi.Network | None
    metrics: list[Metrics]
    predictions: NDArray[np.int64]
    module: SpikingNetwork

    @property
    def correct(self) -> int:
        """Test samples that the last epoch's network has right."""
        return int(self.metrics[-1]["test_correct"])

    @property
    def accuracy(self) -> float:
        """Test accuracy after the last epoch, 0..1."""
        return float(self.metrics[-1]["test_accuracy"])


def train(
    config: TrainConfig,
    dataset: Dataset,
    out_dir: Path | str,
    *,
    resume: bool = False,
    on_epoch: Callable[[Metrics], None] | None = None,
    export: Callable[[loihi.Network, Path], None] | None = None,
) -> TrainResult:
    """Trains, and leaves a run folder.

    resume: goes on from the folder's checkpoint to the same numbers as an uninterrupted run; the
        settings and the data must be those that it was begun with (the device may differ).
    on_epoch: called with each epoch's metrics, as they come.
    export: called at the end with the frozen network and the folder, to write ``model.net``.

    Raises :class:`PumiceError`: data that do not fit, a folder that cannot be written or holds a
    run already, a checkpoint that belongs to another run, a loss that is not a number.
    """
    folder = Path(out_dir)
    _check_data(dataset)
    train_rule, loss = rule(config.rule, **config.to_dict()), LOSSES[config.loss]
    with (
        world(config.device) as (processes, place),
        exact(config.precision == "tf32"),
        contextlib.ExitStack() as held,
    ):
        device = _device(place)
        use_threads(torch.get_num_threads())
        keep_freed()
        if config.validation:
            dataset = hold_out(dataset, config.validation, config.seed)
        network = build_network(config, dataset)
        _try_samples(network, dataset)
        run = _Run(config, dataset, network, folder, processes)
        if not resume:
            _make(folder)
        if processes.first and folder.is_dir():
            held.enter_context(files.alone(folder))
        if resume:
            run.load(folder / CHECKPOINT)
            run.write_metrics()
            if processes.first:
                runs.note_environment(folder, run.epoch + 1, torch.__version__)
        else:
            run.begin()
        network.to(device)
        if config.channels_last:
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        processes.same(network)
        run.optimizer = run.new_optimizer()
        for epoch in range(run.epoch + 1, config.epochs + 1):
            metrics = run.train_epoch(epoch, train_rule, loss)
            run.save(metrics)
            if on_epoch is not None and processes.first:
                on_epoch(metrics)
        _, predictions = evaluate(network, dataset.x_test, dataset.y_test)
        frozen = network.freeze() if network.on_grid else None
        if export is not None and frozen is not None and processes.first:
            export(frozen, folder)
        processes.wait()
    return TrainResult(frozen, run.history, predictions, network)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrainError(f"cannot make the folder {folder}: {error.strerror}") from None


def _mse(o: Tensor, y: Tensor) -> Tensor:
    return F.mse_loss(o, F.one_hot(y, o.shape[1]).to(o.dtype))


LOSSES: dict[str, Loss] = {
    "cross_entropy": F.cross_entropy,
    "mse": _mse,
    "mixed": lambda o, y: 0.95 * F.cross_entropy(o, y) + 0.05 * _mse(o, y),
}
"""ℓ(o, y) by name; ``mixed`` with the λ that SLTT's authors published."""


def restore(config: TrainConfig, dataset: Dataset, path: Path) -> SpikingNetwork:
    """The network in a checkpoint that a run of ``config`` on ``dataset`` left, on the CPU.

    dataset: all of it; what the config holds out for validation is held out here, as in training.
    """
    if config.validation:
        dataset = hold_out(dataset, config.validation, config.seed)
    network = build_network(config, dataset)
    _Run(config, dataset, network, path.parent).load(path)
    return network


def build_network(config: TrainConfig, dataset: Dataset) -> SpikingNetwork:
    """The config's network for the dataset's samples, weights not yet drawn."""
    in_time = config.encoding == "events"
    binary = config.encoding in ("rate", "latency")
    encoding = Encoding(
        config.encoding,  # type: ignore[arg-type]
        config.time_steps,
        (0, 1) if binary else (0, config.payload),
        None if in_time else float(dataset.low),
        None if in_time else float(dataset.high),
    )
    network = build(
        config.model,
        dataset.sample_shape(in_time),
        dataset.classes,
        encoding,
        hidden=config.hidden or None,
        readout=config.readout,
        neuron=config.neuron,
        surrogate=Surrogate(config.surrogate, config.surrogate_width or None),
        bias=config.bias,
        dv=config.dv,
        du=config.du,
        norm=config.norm,
        per_neuron=config.per_neuron,
        block=(config.n if config.rule == "tt_lbp" else 1) if config.rule in LOCAL else 0,
        classifiers=config.classifiers,
    )
    network.learn(config.learn_threshold, config.learn_leak)
    if not any(p.requires_grad for p in network.parameters()):
        raise TrainError(
            f"model {config.model!r} with classifiers {config.classifiers!r}: nothing in it would "
            "learn; add layers, or use classifiers 'trainable'"
        )
    return network


def draw(network: SpikingNetwork, config: TrainConfig, dataset: Dataset) -> None:
    """The weights and thresholds that a run of ``config`` begins with.

    dataset: what it trains on, without what is held out.
    """
    samples = min(CALIBRATION_SAMPLES, CALIBRATION_PIXELS // network.activity_size())
    x = payloads(network, dataset.x_train[: max(samples, 16)])
    network.calibrate(x, torch.Generator().manual_seed(config.seed))
    if config.surrogate_unit == "start":
        _hold_surrogates(
            network, {name: float(p.detach().mean()) for name, p in network.named_parameters()}
        )


def _hold_surrogates(network: SpikingNetwork, starts: Mapping[str, float]) -> None:
    """starts: by a parameter's name, the threshold that a layer begins with."""
    for name, module in network.named_modules():
        if isinstance(module, Neurons):
            module.hold_surrogate(starts[f"{name}.vth"])


@torch.no_grad()
def evaluate(
    module: SpikingNetwork, x: NDArray[Any], y: NDArray[np.integer[Any]], batch_size: int = 500
) -> tuple[int, NDArray[np.int64]]:
    """How many samples are right, and the prediction of each ``[N]``: the chip's own numbers.

    x: raw samples ``[N, ...]``, which the module's encoding turns into payloads.
    """
    return examine(module, x, y, batch_size)[:2]


@torch.no_grad()
def examine(
    module: SpikingNetwork, x: NDArray[Any], y: NDArray[np.integer[Any]], batch_size: int = 500
) -> tuple[int, NDArray[np.int64], list[int | None]]:
    """What :func:`evaluate` says, and how many spikes each layer sent (None: it never does)."""
    module.eval()
    dtype = module.exact_dtype()
    if dtype != torch.float32:  # rare: sums that float32 would round
        module = observe.ready(module)
    predictions, sent = [], np.zeros(len(module.chain), dtype=np.int64)
    for at in range(0, len(x), batch_size):
        scores, counts = observe.tally(module, payloads(module, x[at : at + batch_size], dtype))
        predictions.append(loihi.decide(scores.cpu().numpy()))
        sent += counts
    predicted = np.concatenate(predictions)
    spikes = [
        None if layer.neurons is None else int(count)
        for layer, count in zip(module.chain, sent, strict=True)
    ]
    return int((predicted == y).sum()), predicted, spikes


def payloads(module: SpikingNetwork, x: NDArray[Any], dtype: torch.dtype = torch.float32) -> Tensor:
    """Payloads ``[T, N, *input_shape]`` of raw samples, on the module's device.

    What does not change in time takes the memory of one step (stride 0).
    """
    encoded = module.encoding.encode(x)
    static = encoded.strides[0] == 0
    device = module.temperature.device
    tensor = torch.from_numpy(np.array(encoded[:1] if static else encoded))
    tensor = tensor.to(device=device, dtype=dtype)
    tensor = tensor.reshape(*tensor.shape[:2], *module.input_shape)
    return tensor.expand(len(encoded), *tensor.shape[1:])


class _Run:
    """A run at work: what is saved after every epoch, and what an epoch does."""

    def __init__(
        self,
        config: TrainConfig,
        dataset: Dataset,
        network: SpikingNetwork,
        folder: Path,
        processes: World = World(),
    ) -> None:
        self.processes = processes
        self.config, self.dataset, self.network, self.folder = config, dataset, network, folder
        self.epoch = 0
        self._digest: int | None = None
        self.history: list[Metrics] = []
        self.scales: dict[str, float] = {}
        self.moments: dict[str, Tensor] = {}
        self.optimizer: torch.optim.Adam
        self.augmentation = Augmentation.parse(config.augment)
        self.augmentation.check(dataset.sample_shape(config.encoding == "events"), dataset.name)

    # --- beginning, saving, resuming ------------------------------------------------------------

    def begin(self) -> None:
        """A new run: weights drawn, and the folder proved to take a checkpoint."""
        if self.processes.first and (found := runs.occupied(self.folder, self.config)):
            raise TrainError(
                f"{self.folder} holds a run already ({found}), which is never overwritten: go on "
                "with it (--resume), or name another folder (--out)"
            )
        draw(self.network, self.config, self.dataset)
        self.scales = {
            name: scale
            for name, p in self.network.named_parameters()
            if (scale := self._scale(name, p)) is not None
        }
        if not self.processes.first:
            return
        files.write(self.folder / CONFIG, self.config.to_toml().encode())
        runs.note_environment(self.folder, 1, torch.__version__)
        files.write(self.folder / METRICS, b"")
        self._write_checkpoint()

    def load(self, path: Path) -> None:
        """A checkpoint, if it is this run's."""
        tensors, state = checkpoint.read(path)
        try:
            ours, theirs = self._identity(), state["identity"]
            if theirs["network"] != ours["network"]:
                raise TrainError(
                    f"{path} is of another model: {theirs['network']}, not {ours['network']}"
                )
            begun = {**TrainConfig().to_dict(), **theirs["config"]}  # by an earlier version too
            for name, value in ours["config"].items():
                if begun[name] != value:
                    raise TrainError(
                        f"{path} was begun with {name} = {begun[name]!r}, not {value!r}: "
                        f"resume with the settings in {CONFIG}"
                    )
            if theirs["data"] != ours["data"]:
                raise TrainError(f"{path} was begun on other data than this {self.dataset.name}")
            model = {k[len("model.") :]: v for k, v in tensors.items() if k.startswith("model.")}
            self.network.load_state_dict(model)
            self.moments = {k: v for k, v in tensors.items() if k.startswith("adam.")}
            self.epoch, self.history = int(state["epoch"]), list(state["history"])
            self.scales = dict(state["scales"])
            if self.config.surrogate_unit == "start":
                _hold_surrogates(self.network, self.scales)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise TrainError(f"{path} is not a checkpoint of this model: {reason}") from None

    def save(self, metrics: Metrics) -> None:
        """After an epoch: checkpoint and metrics."""
        self.epoch = int(metrics["epoch"])
        self.history.append(metrics)
        if self.processes.first:
            self._write_checkpoint()
            self.write_metrics()

    def write_metrics(self) -> None:
        """The history, one object an epoch."""
        if not self.processes.first:
            return
        lines = "".join(json.dumps(line) + "\n" for line in self.history)
        files.write(self.folder / METRICS, lines.encode())

    def _write_checkpoint(self) -> None:
        tensors = {f"model.{k}": v for k, v in self.network.state_dict().items()}
        if self.epoch:
            for name, p in self._learnable():
                state = self.optimizer.state[p]
                tensors |= {f"adam.{key}.{name}": value for key, value in state.items()}
        state = {
            "identity": self._identity(),
            "epoch": self.epoch,
            "history": self.history,
            "scales": self.scales,
        }
        checkpoint.write(self.folder / CHECKPOINT, tensors, state)

    def _identity(self) -> dict[str, Any]:
        """What a checkpoint must share with the run that takes it up."""
        d = self.dataset
        settings = self.config.to_dict()
        for free in ("device", "channels_last", "precision"):
            del settings[free]
        shape = "x".join(map(str, self.network.input_shape))
        if self._digest is None:
            self._digest = 0
            for array in (d.x_train, d.y_train):
                for part in np.array_split(array, max(1, len(array) // 1024)):  # may be on the disk
                    self._digest = zlib.crc32(np.ascontiguousarray(part).data, self._digest)
        return {
            "network": f"{shape} → {self.network.description} → {self.network.classes}",
            "config": settings,
            "data": [list(d.x_train.shape), self._digest],
        }

    # --- training -------------------------------------------------------------------------------

    def new_optimizer(self) -> torch.optim.Adam:
        """Adam, each parameter at its own rate, with the moments of the checkpoint if there are."""
        named = self._learnable()
        groups = [{"params": [p], "lr": 0.0, "base": self._rate(name)} for name, p in named]
        # Gradients in weight units are small, the smaller the higher the thresholds.
        optimizer = torch.optim.Adam(groups, eps=1e-12)
        for name, p in named:
            for key in ("step", "exp_avg", "exp_avg_sq"):
                value = self.moments.get(f"adam.{key}.{name}")
                if value is not None:
                    place = value if key == "step" else value.to(p.device)
                    optimizer.state[p][key] = place
        return optimizer

    def _learnable(self) -> list[tuple[str, torch.nn.Parameter]]:
        return [(name, p) for name, p in self.network.named_parameters() if p.requires_grad]

    def _rate(self, name: str) -> float:
        scale = self.scales.get(name)
        if scale is None:
            return self.config.lr
        return (self.config.lr if name.endswith("weight") else self.config.lr_neuron) * scale

    def _scale(self, name: str, p: Tensor) -> float | None:
        """What a parameter's learning rate is multiplied by: None for weights on the grid.

        A threshold's goes with where it starts, as those of norms do, a decay's with its range;
        real weights have their own spread in place of the grid's.
        """
        if name.endswith(("dv", "du")):
            return 4096.0
        if name.endswith(("vth", "gamma", "gain")):
            return float(p.detach().mean())  # of one neuron's, all the same at the beginning
        if name.endswith("beta"):
            return float(dict(self.network.named_parameters())[f"{name[:-4]}gamma"].detach().mean())
        if name.endswith("weight") and not self.network.on_grid:
            return float(p.detach().square().mean().sqrt()) / WEIGHT_STD
        return None

    def train_epoch(self, epoch: int, train_rule: Rule, loss: Loss) -> Metrics:
        """One pass through the training data and one through the test data."""
        config, network, data = self.config, self.network, self.dataset
        started = time.perf_counter()
        network.train()
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + epoch)
        order = torch.randperm(len(data.x_train), generator=generator).numpy()
        batches = math.ceil(len(order) / config.batch_size)
        done = (epoch - 1) * batches
        image = data.sample_shape(config.encoding == "events")[1:]
        pixels = int(config.shift * min(image, default=0))
        norms = [m for m in network.modules() if isinstance(m, BatchNorm)]
        device = network.temperature.device
        total, right = 0.0, 0
        for batch in range(batches):
            these = order[batch * config.batch_size : (batch + 1) * config.batch_size]
            x = data.x_train[these]
            if pixels:
                x = shifted(x, pixels, data.low, generator)
            if self.augmentation:
                x = self.augmentation.apply(x, data.low, data.high, generator)
            fraction = self._schedule((done + batch) / (batches * config.epochs))
            for group in self.optimizer.param_groups:
                group["lr"] = group["base"] * fraction
            self.optimizer.zero_grad()
            # Two processes share a batch of two samples; one sample goes to both, with no weight
            # in the second: every process takes every step.
            mine = self.processes.part(len(these))
            share = len(mine) / len(these)
            mine = mine if len(mine) else np.zeros(1, dtype=np.int64)

            def update(share: float = share) -> None:
                self.processes.add_up((p for _, p in self._learnable()), share)
                self.optimizer.step()
                network.project()
                self.optimizer.zero_grad()

            inner = update if config.rule == "tt_lbp" and config.update == "interval" else None
            y = torch.from_numpy(data.y_train[these][mine]).to(device)
            result = train_rule(
                network, payloads(network, x[mine]), y, loss, generator=generator, update=inner
            )
            if inner is None:
                update()
            self.processes.average(b for norm in norms for b in norm.buffers())
            counted = len(these) * share
            total += float(result.loss) * counted
            if counted:
                right += int((result.scores.argmax(1) == y).sum())
            if not math.isfinite(total):
                raise TrainError(
                    f"the loss is {float(result.loss)} in epoch {epoch}: lower lr ({config.lr})"
                )
        total, hits = self.processes.total(total, right)
        correct, _, sent = examine(network, data.x_test, data.y_test)
        places = [
            math.prod(layer.synapse.output_shape) * config.time_steps * len(data.y_test)
            for layer in network.chain
        ]
        return {
            "epoch": epoch,
            "loss": total / len(order),
            "train_accuracy": hits / len(order),
            "test_accuracy": correct / len(data.y_test),
            "test_correct": correct,
            "test_samples": len(data.y_test),
            "spikes": sum(n or 0 for n in sent) / len(data.y_test),
            "spike_rates": [n and n / of for n, of in zip(sent, places, strict=True)],
            "thresholds": self._thresholds(),
            "lr": config.lr * fraction,
            "seconds": round(time.perf_counter() - started, 3),
            "peak_bytes": _peak_bytes(device),
        }

    def _thresholds(self) -> list[float | None]:
        """Each layer's threshold (of one a neuron, their mean), in units of where it began."""
        names = {id(p): name for name, p in self._learnable()}
        found: list[float | None] = []
        for layer in self.network.chain:
            own = None if layer.neurons is None else layer.neurons.vth
            start = None if own is None else self.scales.get(names.get(id(own), ""))
            found.append(float(own.detach().mean()) / start if own is not None and start else None)
        return found

    def _schedule(self, done: float) -> float:
        return (1 + math.cos(math.pi * done)) / 2 if self.config.schedule == "cosine" else 1.0


def _peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@contextlib.contextmanager
def exact(tf32: bool = False) -> Iterator[None]:
    """Deterministic sums within: the integers must be integers, and the same twice.

    tf32: allowed for products, whose factors it rounds to 10 bits: none for the grid's weights and
    payloads, some for errors.
    """
    places: list[tuple[Any, str]] = [
        (torch.backends.cuda.matmul, "allow_tf32"),
        (torch.backends.cudnn, "allow_tf32"),
        # Nothing here reads memory before it is written; filling it would cost a sixth of the time.
        (torch.utils.deterministic, "fill_uninitialized_memory"),
    ]
    before = [getattr(module, name) for module, name in places]
    enabled = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    for module, name in places:
        setattr(module, name, tf32 and name == "allow_tf32")
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
        for (module, name), value in zip(places, before, strict=True):
            setattr(module, name, value)


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise TrainError(f"device {name!r} is unknown: use cpu or cuda")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise TrainError("device cuda: PyTorch sees no GPU here; use cpu")
    return device


def _try_samples(network: SpikingNetwork, dataset: Dataset) -> None:
    """Refuses samples that do not become payloads before anything is written."""
    encoding = network.encoding
    for part in ("train", "test"):
        x = getattr(dataset, f"x_{part}")
        # of frames in floats each sample may hold what is no count; else all are as the first
        each = encoding.kind == "events" and x.dtype.kind == "f"
        for sample in range(len(x) if each else 1):
            try:
                encoding.encode(x[sample : sample + 1])
            except EncodingError as error:
                raise TrainError(f"{dataset.name}: x_{part}[{sample}]: {error}") from None


def _check_data(dataset: Dataset) -> None:
    """Refuses what would fail in the middle of training, or train on nonsense."""
    for split in ("train", "test"):
        x, y = getattr(dataset, f"x_{split}"), getattr(dataset, f"y_{split}")
        if not len(x):
            raise TrainError(f"{dataset.name}: x_{split} is empty")
        if len(x) != len(y):
            raise TrainError(f"{dataset.name}: {len(x)} samples in x_{split}, {len(y)} labels")
        if x.shape[1:] != dataset.x_train.shape[1:]:
            raise TrainError(
                f"{dataset.name}: x_{split} has samples of {list(x.shape[1:])}, "
                f"x_train of {list(dataset.x_train.shape[1:])}"
            )
        bad = np.flatnonzero((y < 0) | (y >= dataset.classes))
        if bad.size:
            raise TrainError(
                f"{dataset.name}: y_{split}[{bad[0]}] is {y[bad[0]]}, "
                f"labels are 0..{dataset.classes - 1}"
            )
