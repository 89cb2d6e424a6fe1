"""Samples a second of the fast engine, the reference and Lava on one network, in one run.

    python -m bench.engine [model.net] [--json] [--lava 64]

The network is Intel's own mnist.net (784-512-512-10, T = 16) out of the lava-dl wheel, or any
file. Samples are MNIST test images where they have been fetched (``pumice data fetch mnist``),
else noise of the same range, and the rows say which. Lava's time is that of ``--lava`` samples less
that of one, so that its start is not counted. Ratios are to Lava; equal scores are checked, not
assumed.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.report import Row, show
from lava_export import netx, run
from loihi import Network, PumiceError, reference
from loihi.engine import Engine
from trainer import data


def intels_mnist() -> Path:
    """mnist.net, which Intel ships in the lava-dl wheel among its tests."""
    try:
        wheel = importlib.metadata.distribution("lava-dl")
    except importlib.metadata.PackageNotFoundError:
        raise PumiceError("lava-dl is not installed: run make test once, or name a file") from None
    return Path(str(wheel.locate_file("tests/lava/lib/dl/netx/mnist.net")))


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


def seconds(work: Callable[[], object], repeats: int = 3) -> float:
    """The shortest of some runs."""
    found = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        found.append(time.perf_counter() - started)
    return min(found)


def rows(path: Path, count: int, in_reference: int, in_lava: int) -> list[Row]:
    """A row an engine."""
    x, network, what = samples(netx.read(path), count)
    payloads = network.encoding.encode(x)
    size = "-".join(str(int(np.prod(s))) for s in (network.input_shape, *network.shapes))
    table: list[Row] = []

    def row(name: str, n: int, taken: float) -> None:
        table.append(
            {
                "what": name,
                "size": size,
                "T": network.time_steps,
                "data": what,
                "samples": n,
                "seconds": round(taken, 4),
                "samples_per_second": round(n / taken, 1),
            }
        )

    scores: NDArray[Any] | None = None
    for threads in sorted({1, Engine(network).threads}):
        engine = Engine(network, threads)
        scores = engine.predict(payloads)  # the first call loads the compiled kernels
        taken = seconds(lambda engine=engine: engine.predict(payloads))  # type: ignore[misc]
        row(f"fast engine, {threads} thread{'s' if threads > 1 else ''}", len(x), taken)
    few = payloads[:, :in_reference]
    row("reference", in_reference, seconds(lambda: reference.predict(network, few), 1))
    few = payloads[:, :in_lava]
    alone = seconds(lambda: run.predict(path, few[:, :1]), 1)
    started = time.perf_counter()
    lava_scores = run.predict(path, few)
    row("Lava", in_lava - 1, max(time.perf_counter() - started - alone, 1e-9))
    assert scores is not None
    if not np.array_equal(scores[:in_lava], lava_scores):
        raise PumiceError("the engine's scores are not Lava's: run pumice verify")
    for line in table:
        line["ratio_to_lava"] = round(
            line["samples_per_second"] / table[-1]["samples_per_second"], 1
        )
    return table


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "model", nargs="?", type=Path, help="a .net file; Intel's mnist.net if none"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object and nothing else")
    parser.add_argument("--samples", type=int, default=10_000, help="in the fast engine")
    parser.add_argument("--reference", type=int, default=200, help="samples in the reference")
    parser.add_argument("--lava", type=int, default=64, help="samples in Lava, at least 2")
    options = parser.parse_args()
    try:
        path = options.model or intels_mnist()
        table = rows(path, options.samples, options.reference, max(options.lava, 2))
    except PumiceError as error:
        raise SystemExit(f"bench.engine: {error}") from None
    show(table, options.json)


if __name__ == "__main__":
    main()
