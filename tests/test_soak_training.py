"""Any settings on any data: what was trained is what the file does, or one clear line says why not.

A run of a random config, by any rule, of random layers on random samples; then the exported file in
reference, engine and torch engine against the trainer's own spikes and answers. `make soak` runs
thousands; a share of them is part of every test run.
"""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from lava_export import netx
from loihi import PumiceError, decide, engine, reference
from trainer import loop, observe, simulate
from trainer.config import TrainConfig
from trainer.data.dataset import Dataset
from trainer.rules import LOCAL, RULES
from trainer.surrogates import SHAPES

pytestmark = pytest.mark.exactness
COUNT = int(os.environ.get("PUMICE_SOAK", "60"))


@st.composite
def architectures(draw: st.DrawFn, images: bool) -> str:
    """``3c5p1s2-2m-16r`` and the like."""
    tokens: list[str] = []
    for _ in range(draw(st.integers(0, 3)) if images else 0):
        kind = draw(st.sampled_from("cccam"))
        if kind == "c":
            token = f"{draw(st.sampled_from((1, 2, 4, 17)))}c{draw(st.integers(1, 5))}"
            token += draw(st.sampled_from(("", "", "p1", "p2"))) + draw(st.sampled_from(("", "s2")))
        else:
            token = f"{draw(st.integers(2, 3))}{kind}"
        tokens.append(token)
    if images and draw(st.integers(0, 4)) == 0:
        return "-".join([*tokens, "ga"])
    sizes = st.sampled_from(("1", "3", "16", "33", "3r", "16r"))
    return "-".join([*tokens, *draw(st.lists(sizes, min_size=not tokens, max_size=2))])


@st.composite
def runs(draw: st.DrawFn) -> tuple[TrainConfig, Dataset]:
    """Settings, and samples of 2 to 4 classes that mean nothing."""
    images = draw(st.booleans())
    side = st.integers(4, 12)
    image = st.tuples(st.integers(1, 3), side, side)
    shape = draw(image if images else st.tuples(st.integers(1, 40)))
    count = draw(st.sampled_from((8, 20, 130)))
    classes = draw(st.integers(2, 4))
    steps = draw(st.integers(1, 6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    whole = draw(st.booleans())
    x: Any = rng.random((count + 9, *shape), dtype=np.float32)
    if whole:
        x = np.uint8(16 * x)
    y = rng.integers(0, classes, count + 9)
    split = x[:count], y[:count], x[count:], y[count:]
    dataset = Dataset("random", *split, 0.0, 16.0 if whole else 1.0, classes)
    divisors = [k for k in range(1, steps + 1) if steps % k == 0]
    decay = st.one_of(st.sampled_from((0, 1024, 4096)), st.integers(0, 4096))
    rule = draw(st.sampled_from(tuple(RULES)))
    config = TrainConfig(
        model=draw(architectures(images)),
        rule=rule,
        loss_of="steps" if rule in LOCAL else draw(st.sampled_from(("steps", "mean"))),
        surrogate=draw(st.sampled_from(tuple(SHAPES))),
        surrogate_unit=draw(st.sampled_from(("start", "threshold"))),
        k=draw(st.sampled_from(divisors)),
        n=draw(st.integers(0, 3)),
        update=draw(st.sampled_from(("interval", "batch"))),
        classifiers=draw(st.sampled_from(("trainable", "random"))),
        per_synapse=draw(st.booleans()),
        time_steps=steps,
        encoding=draw(st.sampled_from(("graded", "graded", "rate", "latency"))),
        payload=draw(st.sampled_from((1, 15, 63, 255))),
        neuron=draw(st.sampled_from(("chip", "chip", "soft"))),
        norm=draw(st.sampled_from(("", "ws", "bn"))),
        readout=draw(st.sampled_from(("membrane", "membrane", "spikes"))),
        bias=draw(st.booleans()),
        dv=draw(decay),
        du=draw(st.one_of(st.just(4096), decay)),
        lr=draw(st.sampled_from((0.1, 0.7, 5.0))),
        lr_neuron=draw(st.sampled_from((0.0, 0.002, 0.05))),
        epochs=draw(st.integers(1, 2)),
        batch_size=draw(st.sampled_from((7, 64, 200))),
        seed=draw(st.integers(0, 99)),
    )
    return config, dataset


@pytest.mark.timeout(0 if COUNT > 60 else 300)
@settings(max_examples=COUNT, deadline=None, suppress_health_check=list(HealthCheck))
@given(runs())
def test_what_was_trained_is_what_the_file_does(run: tuple[TrainConfig, Dataset]) -> None:
    refusal = refused(*run)
    assert "\n" not in (refusal or "")
    # What is refused (a layer too large for its images, say) proves nothing: another is drawn.
    assume(refusal is None)


def refused(config: TrainConfig, dataset: Dataset) -> str | None:
    """One run and all that must be equal behind it, or why there is none."""
    with TemporaryDirectory() as folder:
        path = Path(folder, "model.net")
        try:
            done = loop.train(
                config, dataset, Path(folder, "run"), export=lambda n, _: netx.write(n, path)
            )
        except PumiceError as error:
            return str(error)
        network = netx.read(path)
    x = network.encoding.encode(dataset.x_test)
    trace = reference.run(network, x, ("spikes", "v"))
    module = observe.ready(done.module)
    with torch.no_grad():
        spikes = module.spikes(loop.payloads(module, dataset.x_test, module.exact_dtype()))
    for name, ours, theirs in zip(network.names, spikes, trace.spikes, strict=True):
        np.testing.assert_array_equal(ours, theirs, err_msg=f"spikes of layer {name}")
    scores = reference.scores(network, trace)
    np.testing.assert_array_equal(engine.predict(network, x), scores)
    np.testing.assert_array_equal(simulate.predict(network, x), scores)
    np.testing.assert_array_equal(decide(scores), done.predictions)
    return None
