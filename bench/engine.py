"""The fast engine beside Lava, and beside its own matrix products alone, in one run.

    python -m bench.engine [model.net] [--samples 512] [--lava 256] [--paths] [--json]

Without a file: Intel's mnist.net (784-512-512-10, T = 16) on MNIST test images where they have been
fetched (``pumice data fetch mnist``), else on noise of the same range; then Intel's pilotnet_lif
(five convolutions, four dense layers) on the image that they ship with it, both out of the lava-dl
wheel. Below the rows stand the targets that the engine is held to.

- Lava's time is that of ``--lava`` samples less that of one, so that its start is not counted. Its
  scores are compared with the engine's.
- "products alone" are the matrix products of a dense network, on what its layers really hear, and
  nothing else, by torch. They and the engine are timed in turns, and each time is that of the
  fastest round.
- "live" is one stream that is fed a step at a time.

``--paths`` shows instead what the estimate of :mod:`loihi.synapses` says of its two paths, and what
they take: of one message, in nanoseconds, by how much of it is not silent.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bench.report import Row, show
from lava_export import netx, run
from loihi import Conv, Dense, Network, PumiceError, reference
from loihi.engine import Engine
from loihi.synapses import Connection, Messages
from trainer import data

PILOTNET = "pilotnet_lif"
SINGLES = 32
"""Samples, or steps, one after another, of which one is timed."""


@dataclass(frozen=True)
class Case:
    """A file, its network, payloads ``[T, N, ...]``, and what they are."""

    name: str
    path: Path
    network: Network
    payloads: NDArray[Any]
    data: str


def intels(name: str) -> Path:
    """A file that Intel ships in the lava-dl wheel among its tests."""
    try:
        wheel = importlib.metadata.distribution("lava-dl")
    except importlib.metadata.PackageNotFoundError:
        raise PumiceError("lava-dl is not installed: run make test once, or name a file") from None
    return Path(str(wheel.locate_file("tests/lava/lib/dl/netx"))) / name


def samples(network: Network, count: int) -> tuple[NDArray[Any], Network, str]:
    """``count`` raw samples, the network with an encoding that fits them, and what they are."""
    size = int(np.prod(network.input_shape))
    try:
        images = data.load("mnist")
        if size != images.x_test[0].size:
            raise PumiceError("not MNIST's size")
        x, low, high, what = images.x_test[:count], images.low, images.high, "MNIST test images"
    except PumiceError:
        x = np.random.default_rng(0).integers(0, 256, (count, size), dtype=np.uint8)
        low, high, what = 0.0, 255.0, "noise"
    encoding = network.encoding
    if encoding.kind == "events":
        shape = (count, encoding.time_steps, *network.input_shape)
        return np.random.default_rng(0).integers(0, 2, shape), network, "noise events"
    if encoding.low is None:
        network = replace(network, encoding=replace(encoding, low=low, high=high))
    return x.reshape(len(x), *network.input_shape), network, what


def case(path: Path, count: int) -> Case:
    """A file on data that fit it."""
    x, network, what = samples(netx.read(path), count)
    return Case(path.name, path, network, network.encoding.encode(x), what)


def pilotnet(count: int) -> Case:
    """Intel's PilotNet of LIF neurons on Intel's image, again and again."""
    path = intels(f"gts/{PILOTNET}/network.net")
    network = netx.read(path)
    image = np.load(path.with_name("image.npy")).transpose(2, 1, 0)  # Lava's (W, H, C)
    x = np.broadcast_to(image, (network.time_steps, count, *image.shape))
    return Case(PILOTNET, path, network, x, "Intel's image")


# --- what is timed ------------------------------------------------------------------------------


def seconds(works: Mapping[str, Callable[[], object]], rounds: int = 15) -> dict[str, float]:
    """The fastest of some rounds of each, taken in turns; one before them is not counted."""
    found = dict.fromkeys(works, float("inf"))
    for turn in range(1 + rounds):
        for name, work in works.items():
            started = time.perf_counter()
            work()
            taken = time.perf_counter() - started
            found[name] = min(found[name], taken) if turn else float("inf")
    return found


def products_alone(case: Case, threads: int) -> dict[str, Callable[[], object]]:
    """A dense network's matrix products, on what its layers really hear, by torch."""
    network, heard = case.network, [case.payloads]
    if any(isinstance(layer.synapse, Conv) for layer in network.layers) or not network.is_chain:
        return {}
    heard += Engine(network).run(case.payloads).spikes[:-1]
    pairs = []
    for layer, messages in zip(network.layers, heard, strict=True):
        if isinstance(layer.synapse, Dense) and layer.synapse.delay is None:
            moving = messages[:1] if messages.strides[0] == 0 else messages
            pairs.append((moving.reshape(-1, layer.synapse.weight.shape[1]), layer.synapse.weight))
    kinds: dict[str, tuple[Any, Any, list[Any]]] = {"float32": (torch.matmul, np.float32, pairs)}
    halves = [(x, weight >> int(not (weight & 1).any())) for x, weight in pairs]
    if all(np.abs(part).max() <= 127 for pair in halves for part in pair):
        kinds["int8"] = (torch._int_mm, np.int8, halves)

    def all_of(product: Callable[..., object], given: list[Any]) -> None:
        torch.set_num_threads(threads)
        for x, weight in given:
            product(x, weight.T)

    return {
        f"products alone, {name}, {_threads(threads)}": partial(
            all_of,
            product,
            [[torch.from_numpy(part.astype(dtype)) for part in pair] for pair in given],
        )
        for name, (product, dtype, given) in kinds.items()
    }


def one_by_one(work: Callable[..., object], x: NDArray[Any], axis: int) -> None:
    """Samples (axis 1) one after another, or the steps (axis 0) of one."""
    for k in range(SINGLES):
        work(x[:, k % x.shape[1]][:, None] if axis else x[k % len(x), :1])


def _threads(count: int) -> str:
    return f"{count} thread{'s' if count > 1 else ''}"


def lava_seconds(case: Case, count: int) -> float:
    """What a sample takes in Lava, whose scores must be the engine's."""
    few = case.payloads[:, :count]
    started = time.perf_counter()
    run.predict(case.path, few[:, :1])
    alone = time.perf_counter() - started
    started = time.perf_counter()
    scores = run.predict(case.path, few)
    taken = time.perf_counter() - started
    if not np.array_equal(Engine(case.network).predict(few), scores):
        raise PumiceError(f"{case.name}: the engine's scores are not Lava's: run pumice verify")
    return max(taken - alone, 1e-9) / (count - 1)


def rows(case: Case, in_reference: int, in_lava: int) -> tuple[list[Row], dict[str, float]]:
    """A row for each who computes the network; seconds a sample, or of a live step, by name."""
    network, x = case.network, case.payloads
    shapes = (network.input_shape, *network.shapes)
    size = "-".join("x".join(map(str, shape)) for shape in shapes)
    if len(size) > 40:
        size = f"{len(network.layers)} layers"
    counts = sorted({1, Engine(network).threads})
    engines = {count: Engine(network, count) for count in counts}
    works: dict[str, Callable[[], object]] = {
        "engine, one sample": partial(one_by_one, engines[1].predict, x, 1),
        "engine, a live step": partial(one_by_one, engines[1].live().step, x, 0),
    }
    for count, engine in engines.items():
        works[f"engine, {_threads(count)}"] = partial(engine.predict, x)
        works |= products_alone(case, count)
    timed = seconds(works)
    batches = {name: taken / x.shape[1] for name, taken in timed.items() if "thread" in name}
    each = {**{name: taken / SINGLES for name, taken in timed.items()}, **batches}
    few = x[:, :in_reference]
    started = time.perf_counter()
    reference.predict(network, few)
    each["reference"] = (time.perf_counter() - started) / few.shape[1]
    each["Lava"] = lava_seconds(case, in_lava)
    about = {"network": case.name, "size": size, "T": network.time_steps, "data": case.data}
    table = []
    for name, taken in each.items():
        steps = 1 if name.endswith("step") else network.time_steps
        table.append(
            {
                **about,
                "what": name,
                "milliseconds": round(1000 * taken, 4),
                "steps_per_second": round(steps / taken, 1),
                "ratio_to_lava": round(each["Lava"] / network.time_steps * steps / taken, 1),
            }
        )
    return table, each


def verdicts(mnist: Mapping[str, float], pilot: Mapping[str, float]) -> list[Row]:
    """What was aimed at."""

    def batches(found: Mapping[str, float], what: str) -> dict[str, float]:
        """By how many threads there are, the fastest of a kind."""
        best: dict[str, float] = {}
        for name, taken in found.items():
            if name.startswith(what) and "thread" in name:
                threads = name.rsplit(", ", 1)[1]
                best[threads] = min(taken, best.get(threads, taken))
        return best

    engines, pilots = batches(mnist, "engine"), batches(pilot, "engine")
    single = mnist["engine, one sample"]
    aims: list[tuple[str, float, float, bool]] = [
        ("mnist.net, of Lava's speed", mnist["Lava"] / min(engines.values()), 400, True),
        ("mnist.net, one sample, of Lava's speed", mnist["Lava"] / single, 30, True),
        (f"{PILOTNET}, of Lava's speed", pilot["Lava"] / min(pilots.values()), 100, True),
    ]
    for threads, alone in batches(mnist, "products").items():
        ratio = engines[threads] / alone
        aims.append((f"mnist.net, {threads}, of its products' time", ratio, 1.5, False))
    return [
        {
            "target": what,
            "found": round(found, 2),
            "aim": f"{'at least' if least else 'at most'} {aim}",
            "verdict": "met" if (found >= aim if least else found <= aim) else "MISSED",
        }
        for what, found, aim, least in aims
    ]


# --- the two paths ------------------------------------------------------------------------------


def paths(case: Case) -> list[Row]:
    """Rows against products of each synapse on random spikes: nanoseconds of a message."""
    network, table = case.network, []
    rng = np.random.default_rng(0)
    for index in range(len(network.layers)):
        connection = Connection(network, index, 0)
        connection.lay_out(connection.factor, np.int16)
        for _, wires in connection.delays:
            if wires.product is None or network.payload_of(connection.sources) != (0, 1):
                continue
            inputs = int(np.prod(connection.input_shape))
            a = np.zeros((1, 64, connection.width), dtype=np.int16)
            for density in (0.01, 0.05, 0.1, 0.2, 0.5):
                x = (rng.random((1, 64, inputs)) < density).astype(np.uint8)
                product, rows = wires.product, wires.add_rows
                taken = seconds(
                    {
                        "rows": partial(rows, x, 0, a, 0, 64),
                        "product": partial(product.add, x, 0, a, 0, 64),
                    },
                    rounds=15,
                )
                guess = wires.look + wires.events * Messages(x).density(0, 64)
                table.append(
                    {
                        "network": case.name,
                        "layer": network.names[index],
                        "density": density,
                        "rows": round(taken["rows"] / 64e-9),
                        "estimate": round(guess),
                        "product": round(taken["product"] / 64e-9),
                        "its_estimate": round(product.cost),
                        "taken": "product" if product.cost < guess else "rows",
                    }
                )
    return table


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", nargs="?", type=Path, help="a .net file; Intel's two if none")
    parser.add_argument("--json", action="store_true", help="one JSON object and nothing else")
    parser.add_argument("--samples", type=int, default=512, help="in the fast engine")
    parser.add_argument("--reference", type=int, default=20, help="samples in the reference")
    parser.add_argument("--lava", type=int, default=256, help="samples in Lava, at least 2")
    parser.add_argument("--paths", action="store_true", help="the engine's two paths instead")
    options = parser.parse_args()
    try:
        if options.model:
            cases = [case(options.model, options.samples)]
        else:
            cases = [case(intels("mnist.net"), options.samples), pilotnet(32)]
        if options.paths:
            show([row for one in cases for row in paths(one)], options.json)
            return
        table, found = [], []
        for one in cases:
            # A step of PilotNet takes Lava a hundred times as long, and the reference as well.
            few = one.name == PILOTNET
            mine, each = rows(
                one,
                2 if few else options.reference,
                min(5, options.lava) if few else max(options.lava, 2),
            )
            table += mine
            found.append(each)
    except PumiceError as error:
        raise SystemExit(f"bench.engine: {error}") from None
    show(table, options.json, targets=verdicts(*found) if len(found) == 2 else ())


if __name__ == "__main__":
    main()
