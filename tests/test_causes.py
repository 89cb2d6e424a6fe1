"""Each cause is planted, in a copied network or in a patched simulator, and named; no other is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_graph import injected, later_feeds_earlier, long_loop, pre_activation, recurrent, sew

from lava_export import causes, netx, verify
from lava_export.causes import Cause
from loihi import (
    INTEGRATOR,
    Conv,
    Dense,
    Encoding,
    Inject,
    Layer,
    Network,
    Neuron,
    formats,
    reference,
)

STATES = ("spikes", "u", "v")
Simulator = Callable[[np.ndarray, Any], Any]


# --- networks and simulators --------------------------------------------------------------------


def dense(neuron: Neuron | None = None, payload: tuple[int, int] = (0, 1)) -> Network:
    """Leaky layers of odd weights, so that hardly a number is a multiple of another."""
    rng = np.random.default_rng(1)
    neuron = neuron or Neuron(2048, 300, 64)
    layers = (
        Layer(Dense(2 * rng.integers(-30, 50, (12, 9)) + 1), neuron),
        Layer(Dense(2 * rng.integers(-30, 50, (10, 12)) + 1), neuron),
        Layer(Dense(2 * rng.integers(-60, 60, (3, 10))), INTEGRATOR),
    )
    return Network((9,), layers, Encoding("events", 8, payload))


def image() -> Network:
    rng = np.random.default_rng(2)
    layers = (
        Layer(Conv(rng.integers(-60, 80, (3, 2, 3, 3)), padding=1), Neuron(3000, 300, 90)),
        Layer(Conv(rng.integers(-60, 80, (4, 3, 2, 2))), Neuron(3000, 300, 90)),
        Layer(Dense(rng.integers(-60, 80, (5, 4 * 4 * 3))), Neuron(3000, 300, 90)),
    )
    return Network((2, 5, 4), layers, Encoding("events", 6), "spikes")


def payloads(network: Network, samples: int = 3) -> np.ndarray:
    rng = np.random.default_rng(3)
    last = network.encoding.payload[1]
    sent = rng.random((network.time_steps, samples, *network.input_shape)) < 0.5
    return (sent * rng.integers(1, last + 1, sent.shape)).astype(np.int16)


def running(
    network: Network, change: Callable[[np.ndarray], np.ndarray] = lambda x: x
) -> Simulator:
    """The reference with a network, and payloads, of its own."""

    def observe(x: np.ndarray, wanted: Any) -> Any:
        trace = reference.run(network, change(x), STATES)
        return {(s, i): getattr(trace, s)[i] for s, layers in wanted.items() for i in layers}

    return observe


@contextmanager
def patched(module: Any, name: str, other: Any) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, name, other)
        yield


def patching(module: Any, name: str, make: Callable[[Any], Any]) -> Callable[[Network], Simulator]:
    """The reference, with one of its functions replaced while it runs."""

    def simulator(network: Network) -> Simulator:
        def observe(x: np.ndarray, wanted: Any) -> Any:
            with patched(module, name, make(getattr(module, name))):
                return running(network)(x, wanted)

        return observe

    return simulator


def inclusive(original: Any) -> Any:
    def step(neuron: Neuron, a: Any, u: Any, v: Any, bias: Any) -> Any:
        u, v, _ = original(replace(neuron, vth=None), a, u, v, bias)
        if neuron.vth is None:
            return u, v, np.zeros(v.shape, dtype=bool)
        spikes = v >= neuron.vth << 6
        return u, np.where(spikes, 0, v), spikes

    return step


def with_neuron(network: Network, index: int, **changes: Any) -> Network:
    layer = network.layers[index]
    neuron = replace(layer.neuron, **changes)  # type: ignore[type-var]
    return network.with_layer(index, replace(layer, neuron=neuron))


def with_weight(
    network: Network, index: int, change: Callable[[np.ndarray], np.ndarray], **fields: Any
) -> Network:
    layer = network.layers[index]
    synapse = layer.synapse
    assert not isinstance(synapse, Inject)
    weight = change(synapse.weight.copy())  # type: ignore[union-attr]
    synapse = replace(synapse, weight=weight, **fields)  # type: ignore[arg-type]
    return network.with_layer(index, replace(layer, synapse=synapse))


def put(at: tuple[int, ...], value: int) -> Callable[[np.ndarray], np.ndarray]:
    def change(weight: np.ndarray) -> np.ndarray:
        weight[at] = value
        return weight

    return change


def found(
    network: Network,
    odd: Simulator,
    tmp_path: Path,
    x: np.ndarray | None = None,
    others: dict[str, Network] | None = None,
) -> tuple[verify.VerifyResult, Cause]:
    """The only cause, and that it is the odd one's."""
    netx.write(network, tmp_path / "model.net")
    x = payloads(network) if x is None else x
    result = verify.verify(
        tmp_path / "model.net",
        x,
        states=True,
        between=("reference", "grid"),
        others={"grid": odd},
        networks=others,
    )
    assert result.mismatches
    (cause,) = result.causes
    assert cause.simulator == "grid"
    return result, cause


def named(cause: Cause, name: str, words: str = "") -> None:
    assert (cause.name, cause.also) == (name, ())
    assert words in cause.text
    # It makes every number of the layer, not only the first.
    assert cause.explained == cause.differing > 0


# --- the causes ---------------------------------------------------------------------------------


def test_v_equals_threshold(tmp_path: Path) -> None:
    """Among many neurons, of which some come as near to it as makes no spike."""
    weight = np.random.default_rng(0).integers(-20, 70, (200, 9))
    layer = Layer(Dense(weight), Neuron(2048, 300, 64))
    network = replace(dense(), layers=(layer,), readout="spikes")
    _, cause = found(network, patching(reference, "step_neuron", inclusive)(network), tmp_path)
    named(cause, "v equals threshold", "v reaches 4096, the threshold is 4096")


@pytest.mark.parametrize(
    ("way", "words"),
    [
        (lambda u: u, "it does not wrap"),
        (lambda u: np.clip(u, -(2**23) + 1, 2**23 - 1), "it saturates"),
    ],
)
def test_u_wrapped(way: Callable[[Any], Any], words: str, tmp_path: Path) -> None:
    network = with_weight(dense(payload=(0, 255)), 0, lambda w: np.where(w > 0, 240, w // 2 * 2))
    odd = patching(formats, "wrap_current", lambda original: way)(network)
    result, cause = found(network, odd, tmp_path)
    named(cause, "u wrapped (24 bits)", words)
    near = result.neighbourhood
    assert near is not None
    at = near.divergence.step - 1
    assert abs(near.states["grid"]["u"][at]) >= 2**23 - 1 > abs(near.states["reference"]["u"][at])


@pytest.mark.parametrize(
    ("way", "words"), [(lambda v: v, "it does not clip"), (formats.wrap24, "it wraps")]
)
def test_v_clipped(way: Callable[[Any], Any], words: str, tmp_path: Path) -> None:
    """Of a membrane that is read: one that spikes is cleared at once."""
    network = dense(Neuron(4096, 0, None), (0, 255))
    network = replace(network, layers=network.layers[:1])
    odd = patching(formats, "clip_voltage", lambda original: way)(network)
    _, cause = found(network, odd, tmp_path)
    named(cause, "v clipped", words)


class TestReset:
    biased = Neuron(2048, 300, 64, bias=20)

    def test_bias_before_input(self, tmp_path: Path) -> None:
        """No reset at all: the second layer waits two steps for its input, its bias does not."""
        network = with_neuron(dense(self.biased), 0, bias=0)

        def odd(x: np.ndarray, wanted: Any) -> Any:
            lag = network.arrivals[-1]
            padded = np.concatenate([x, np.zeros((lag, *x.shape[1:]), dtype=x.dtype)])
            trace = reference.stream(network, padded, None, STATES)
            return {
                (s, i): getattr(trace, s)[i][network.arrivals[i] :][: len(x)]
                for s, layers in wanted.items()
                for i in layers
            }

        result, cause = found(network, odd, tmp_path)
        name = "bias before input (the reset's phase)"
        named(cause, name, "at work 2 steps before its input")
        assert result.first_divergence is not None
        assert cause.layer == network.names[1]

    def test_resets_too_early(self, tmp_path: Path) -> None:
        """Each window begins a step before its input, and the last step is in the next one."""
        network = dense(self.biased)
        network = replace(network, layers=network.layers[:1], readout="spikes")

        def odd(x: np.ndarray, wanted: Any) -> Any:
            early = np.concatenate([0 * x[:1], x[:-1]])
            first, last = (running(network)(part, wanted) for part in (early, x[-1:]))
            return {key: np.concatenate([first[key][1:], last[key]]) for key in first}

        _, cause = found(network, odd, tmp_path)
        named(cause, "bias before input (the reset's phase)", "resets is 1 step too early")

    def test_no_reset_between_samples(self, tmp_path: Path) -> None:
        network = dense()

        def odd(x: np.ndarray, wanted: Any) -> Any:
            steps, samples = x.shape[:2]
            one = np.moveaxis(x, 1, 0).reshape(steps * samples, 1, *x.shape[2:])
            seen = running(network)(one, wanted)
            return {
                key: np.moveaxis(a.reshape(samples, steps, *a.shape[2:]), 1, 0)
                for key, a in seen.items()
            }

        result, cause = found(network, odd, tmp_path)
        named(cause, "no reset between samples", "u and v begin where the sample before ended")
        assert result.first_divergence is not None
        assert result.first_divergence.sample == 1


@pytest.mark.parametrize(
    ("cut", "words"),
    [
        (lambda w: w & ~1, "the lowest bit cut (floor)"),
        (lambda w: w & ~3, "the lowest 2 bits cut (floor)"),
        (lambda w: np.sign(w) * (np.abs(w) & ~1), "odd weights cut towards zero"),
    ],
)
def test_truncated_weight(cut: Any, words: str, tmp_path: Path) -> None:
    _, cause = found(dense(), running(with_weight(dense(), 1, cut)), tmp_path)
    named(cause, "truncated weight", words)
    assert cause.layer == dense().names[1]


@pytest.mark.parametrize(
    ("cut", "words"),
    [
        (lambda w: np.clip(w, -128, 127), "clipped to -128..127"),
        (lambda w: w.astype(np.int8).astype(int), "wrapped to 8 bits"),
    ],
)
def test_large_weights_truncated(cut: Any, words: str, tmp_path: Path) -> None:
    network = with_weight(dense(), 0, lambda w: (w - 1) * 2)
    _, cause = found(network, running(with_weight(network, 0, cut)), tmp_path)
    named(cause, "truncated weight", words)


def test_wrong_axis_order(tmp_path: Path) -> None:
    network = image()
    (c, h, w), out = network.shapes[1], len(network.layers[2].synapse.weight)  # type: ignore

    def flattened(weight: np.ndarray) -> np.ndarray:
        """Written for pixels in the order (W, H, C)."""
        return weight.reshape(out, w, h, c).transpose(0, 3, 2, 1).reshape(out, -1)

    _, cause = found(network, running(with_weight(network, 2, flattened)), tmp_path)
    named(cause, "wrong axis order", "goes in as (W, H, C)")
    assert cause.layer == network.names[2]


@pytest.mark.parametrize(
    ("turn", "words"),
    [
        (lambda w: w[..., ::-1, ::-1], "turned by 180°"),
        (lambda w: np.swapaxes(w, 2, 3), "with rows and columns exchanged"),
        (lambda w: w[..., ::-1], "mirrored, left to right"),
    ],
)
def test_kernel_not_turned(turn: Any, words: str, tmp_path: Path) -> None:
    _, cause = found(image(), running(with_weight(image(), 1, turn)), tmp_path)
    named(cause, "kernel not turned", words)
    assert cause.layer == image().names[1]


class TestLatency:
    name = "off by one step (latency)"

    def test_of_the_input(self, tmp_path: Path) -> None:
        for shifted, word in (
            (lambda x: np.concatenate([0 * x[:1], x[:-1]]), "late"),
            (lambda x: np.concatenate([x[1:], 0 * x[:1]]), "early"),
        ):
            _, cause = found(dense(), running(dense(), shifted), tmp_path)
            named(cause, self.name, f"comes a step {word}")

    def test_of_a_synapse(self, tmp_path: Path) -> None:
        network = dense()
        slow = with_weight(network, 1, lambda w: w, delay=np.ones((10, 12), dtype=int))
        _, cause = found(network, running(slow), tmp_path)
        named(cause, self.name, "comes a step late")
        assert cause.layer == network.names[1]

    def test_of_what_is_recorded(self, tmp_path: Path) -> None:
        """With a bias, a late layer is not the same as late input."""
        network = dense(Neuron(2048, 300, 64, bias=20))

        def odd(x: np.ndarray, wanted: Any) -> Any:
            seen = running(network)(x, wanted)
            return {
                key: np.concatenate([0 * a[:1], a[:-1]]) if key[1] == 0 else a
                for key, a in seen.items()
            }

        _, cause = found(network, odd, tmp_path)
        named(cause, self.name, "all of it happens a step late")


@pytest.mark.parametrize("name", ["du", "dv"])
@pytest.mark.parametrize("by", [-1, 1])
def test_decay_off_by_one(name: str, by: int, tmp_path: Path) -> None:
    own = getattr(dense().layers[0].neuron, name)
    other = with_neuron(dense(), 0, **{name: own + by})
    _, cause = found(dense(), running(other), tmp_path)
    named(cause, "decay off by one", f"{name} is {own}, and it computes with {own + by}")


def test_soft_against_hard_reset(tmp_path: Path) -> None:
    _, cause = found(dense(), running(with_neuron(dense(), 1, reset="soft")), tmp_path)
    named(cause, "soft against hard reset", "v loses the threshold at a spike (soft reset)")
    soft = Neuron(2048, 300, 64, reset="soft")
    hard = running(with_neuron(dense(soft), 0, reset="hard"))
    _, cause = found(dense(soft), hard, tmp_path)
    named(cause, "soft against hard reset", "v becomes 0 at a spike (hard reset)")


@pytest.mark.parametrize(
    ("rounded", "words"),
    [(np.floor, "rounded down"), (np.rint, "rounded to the nearest")],
)
def test_rounding_of_decays(rounded: Any, words: str, tmp_path: Path) -> None:
    def decay(x: np.ndarray, d: int) -> np.ndarray:
        result: np.ndarray = rounded(x * (4096 - d) / 4096).astype(np.int64)
        return result

    odd = patching(formats, "decay", lambda original: decay)(dense())
    _, cause = found(dense(), odd, tmp_path)
    named(cause, "rounding of decays", words)


def test_real_numbers(tmp_path: Path) -> None:
    """The first layer in floats, whole numbers only where they are recorded."""
    network = dense()
    layer = network.layers[0]

    def odd(x: np.ndarray, wanted: Any) -> Any:
        seen = running(network)(x, wanted)
        a = x @ layer.synapse.weight.T  # type: ignore[union-attr]
        u = v = np.zeros(a.shape[1:])
        for t, arriving in enumerate(a):
            u = u * (4096 - 2048) / 4096 + 64.0 * arriving
            v = v * (4096 - 300) / 4096 + u
            spikes = v > 64 * 64
            v = np.where(spikes, 0, v)
            for state, now in (("u", u), ("v", v), ("spikes", spikes)):
                if (state, 0) in seen:
                    seen[state, 0][t] = np.trunc(now)
        return seen

    _, cause = found(network, odd, tmp_path)
    named(cause, "rounding of decays", "it computes in real numbers")


@pytest.mark.parametrize("by", [-1, 1])
def test_rounded_threshold(by: int, tmp_path: Path) -> None:
    network = dense(Neuron(3900, 300, 9))  # a low one, so that one more or less matters
    odd = running(with_neuron(network, 0, vth=9 + by))
    _, cause = found(network, odd, tmp_path, payloads(network, 60))
    named(cause, "rounded threshold", f"the threshold is 9, and it spikes as with {9 + by}")


@pytest.mark.parametrize(
    ("change", "words"),
    [({"bias": 0}, "the bias is left out"), ({"bias_exp": 0}, "without its exponent (6)")],
)
def test_bias(change: dict[str, int], words: str, tmp_path: Path) -> None:
    network = dense(Neuron(2048, 300, 64, bias=20))
    _, cause = found(network, running(with_neuron(network, 1, **change)), tmp_path)
    named(cause, "bias left out or unshifted", words)


def test_another_weight(tmp_path: Path) -> None:
    for network, index, at in ((dense(), 1, (4, 2)), (image(), 0, (2, 1, 0, 2))):
        weight = network.layers[index].synapse.weight  # type: ignore[union-attr]
        own = int(weight[at])
        odd = running(with_weight(network, index, put(at, own - 20)))
        _, cause = found(network, odd, tmp_path)
        words = f"weight{list(at)} is {own}, and it computes with {own - 20}"
        named(cause, "another weight", words)


def test_in_a_graph(tmp_path: Path) -> None:
    """Branches, additions, a carried input and recurrence are part of a layer's input."""
    rng = np.random.default_rng(0)
    for network in (sew(rng), pre_activation(rng), recurrent(rng)):
        x = payloads(network)
        for index in range(len(network.layers)):
            if not isinstance(network.layers[index].neuron, Neuron):
                continue
            neuron = network.layers[index].neuron
            assert isinstance(neuron, Neuron)
            if neuron.dv == 4096:
                continue
            other = with_neuron(network, index, dv=neuron.dv + 1)
            path = tmp_path / "model.net"
            netx.write(network, path)
            result = verify.verify(
                path, x, states=True, between=("reference", "grid"), others={"grid": running(other)}
            )
            if not result.mismatches:  # a leak that no number of this layer shows
                continue
            (cause,) = result.causes
            assert (cause.name, cause.layer) == ("decay off by one", network.names[index])
            assert cause.explained == cause.differing


# --- who, and when nothing fits -----------------------------------------------------------------


def test_the_one_that_is_wrong_is_named(tmp_path: Path) -> None:
    """Also where the others are held against it."""
    network = dense()
    netx.write(network, tmp_path / "model.net")
    odd = running(with_neuron(network, 0, dv=301))
    result = verify.verify(
        tmp_path / "model.net",
        payloads(network),
        states=True,
        between=("grid", "engine"),
        others={"grid": odd},
    )
    assert [(c.simulator, c.name) for c in result.causes] == [("grid", "decay off by one")]


def test_another_network(tmp_path: Path) -> None:
    """A run's own network that is not the file's: its numbers are held side by side."""
    network = dense()
    other = with_weight(network, 1, put((4, 2), 31))
    own = network.layers[1].synapse.weight[4, 2]  # type: ignore[union-attr]
    _, cause = found(network, running(other), tmp_path, others={"grid": other})
    assert (cause.name, cause.layer) == ("another network", network.names[1])
    assert cause.text.endswith(f"its synapse is not the file's: weight[4, 2] is {own}, there 31")


@pytest.mark.parametrize(("state", "words"), [("u", "is not what the u before"), ("v", "look at")])
def test_what_nobody_knows(state: str, words: str, tmp_path: Path) -> None:
    network = dense()

    def odd(x: np.ndarray, wanted: Any) -> Any:
        seen = running(network)(x, wanted)
        for key, numbers in seen.items():
            if key == (state, 1):
                numbers[4:, -1, 3] += 12345
            if key == ("spikes", 2):
                numbers[4:, -1] = 1
        return seen

    _, cause = found(network, odd, tmp_path)
    assert cause.name == "unknown"
    assert words in cause.text


def test_the_first_number_has_to_be_explained(tmp_path: Path) -> None:
    """A cause of what came later, be it of ever so much, is not the cause of the first."""
    network = dense()

    def odd(x: np.ndarray, wanted: Any) -> Any:
        seen = running(with_neuron(network, 0, reset="soft"))(x, wanted)
        seen["u", 0][0, :, 3] += 12345
        return seen

    _, cause = found(network, odd, tmp_path)
    assert cause.name == "unknown"
    assert "is not what the u before" in cause.text


def test_what_does_not_come_again(tmp_path: Path) -> None:
    network, runs = dense(), []

    def odd(x: np.ndarray, wanted: Any) -> Any:
        seen = running(network)(x, wanted)
        runs.append(1)
        if len(runs) == 1:
            seen["spikes", 1][2, 1, 5] ^= 1
        return seen

    netx.write(network, tmp_path / "model.net")
    result = verify.verify(
        tmp_path / "model.net",
        payloads(network),
        between=("reference", "grid"),
        others={"grid": odd},
    )
    (cause,) = result.causes
    assert cause.name == "not seen again"
    assert result.neighbourhood is None


def test_every_hypothesis_has_a_name() -> None:
    names = [causes.name_of(hypothesis) for hypothesis in causes.HYPOTHESES]
    assert len(set(names)) == len(names)


def test_the_layer_is_the_references(tmp_path: Path) -> None:
    """Plain arithmetic makes every number of every layer, of chains, images and graphs."""
    rng = np.random.default_rng(5)
    graphs = (injected, later_feeds_earlier, long_loop, pre_activation, recurrent, sew)
    chains = (dense(Neuron(100, 20, 40, bias=3)), image())
    for network in (*chains, *(make(rng) for make in graphs)):
        x = payloads(network, 1)
        trace = reference.run(network, x, STATES)
        sent = {-1: x[:, 0], **{i: s[:, 0] for i, s in enumerate(trace.spikes)}}
        for index in range(len(network.layers)):
            found = {s: getattr(trace, s)[index][:, 0] for s in STATES}
            evidence = causes.Evidence(network, index, sent, found, (0,))
            assert evidence.unlike(evidence.chip) == 0
