"""Networks that netx cannot hold, as Lava processes: spike for spike, u for u, v for v."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise, permutations, product
from pathlib import Path

import lava_jobs
import numpy as np
import pytest
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st
from random_networks import graphs, networks, payloads, resonating
from test_graph import injected, later_feeds_earlier, long_loop, pre_activation, recurrent, sew

from lava_export import netx, run, supervise, wiring
from loihi import (
    INTEGRATOR,
    ComplexDense,
    Conv,
    Delta,
    Dense,
    Edge,
    Encoding,
    Inject,
    Layer,
    Network,
    Neuron,
    Resonator,
    Sigma,
    SigmaDelta,
    reference,
    schedule,
)
from loihi.schedule import ScheduleError

STATES = ("spikes", "u", "v")
ROOT = Path(__file__).resolve().parent.parent
RNG = np.random.default_rng


def w(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Weights of mixed signs."""
    return rng.integers(-60, 90, shape)


# --- networks, each of which would come out wrong if one thing were -----------------------------


def shapes(rng: np.random.Generator) -> Network:
    """Convolutions in which nothing is square or even, two onto the same neurons, two inputs."""
    layers = (
        Layer(
            Conv(w(rng, 4, 1, 3, 2), stride=(2, 1), padding=(1, 2), dilation=(2, 1), groups=2),
            Neuron(4096, 300, 80, rng.integers(-90, 90, (4, 2, 10)), 3),
            more=(Edge(Conv(w(rng, 4, 2, 2, 2), stride=(2, 1), padding=(0, 2)), (-1,)),),
        ),
        Layer(Conv(w(rng, 4, 1, 3, 3), padding=1, groups=4), Neuron(3000, 300, 70, [3, -2, 9, 0])),
        Layer(Dense(w(rng, 5, 80)), Neuron(4096, 100, 400, 7, 7), (0, 1)),
        Layer(Dense(w(rng, 3, 2 * 5 * 7)), INTEGRATOR, (-1,), (Edge(Dense(w(rng, 3, 5)), (2,)),)),
    )
    return Network((2, 5, 7), layers, Encoding("events", 4, (0, 255)))


def biased_loops(rng: np.random.Generator) -> Network:
    """Spikes before the first step and after the last, which must not come back: late, with a
    delay, or both; and on a shorter way they wait."""
    lif = Neuron(3000, 500, 50, bias=30)
    delay = rng.integers(0, 4, (4, 4))
    layers = (
        Layer(Dense(w(rng, 4, 4)), lif),
        Layer(Dense(w(rng, 4, 4)), lif),
        Layer(Dense(w(rng, 4, 4)), lif, more=(Edge(Dense(w(rng, 4, 4)), (2,)),)),
        Layer(Dense(w(rng, 4, 4), delay), lif, (0, 2), (Edge(Dense(w(rng, 4, 4), delay), (3,)),)),
    )
    return Network((4,), layers, Encoding("events", 5), "spikes")


def loops_without_delays(rng: np.random.Generator) -> Network:
    """Samples follow each other without a pause, and the last step's spikes stay behind."""
    lif = Neuron(3000, 500, 50, bias=30)
    layers = (
        Layer(Dense(w(rng, 4, 3)), lif),
        Layer(Dense(w(rng, 4, 4)), lif, more=(Edge(Dense(w(rng, 4, 4)), (1,)),)),
        Layer(Dense(w(rng, 4, 4)), lif, (0, 1), carry=1),
    )
    return Network((3,), layers, Encoding("events", 4), "spikes")


def slow_loop(rng: np.random.Generator) -> Network:
    """Two layers in a loop that is in time because of its delays, which hold the wait as well."""
    delay = rng.integers(1, 4, (4, 4))
    lif = Neuron(4096, 500, 60)
    layers = (
        Layer(Dense(w(rng, 4, 3)), lif, more=(Edge(Dense(w(rng, 4, 4), delay), (0, 1)),)),
        Layer(Dense(w(rng, 4, 4)), lif),
    )
    return Network((3,), layers, Encoding("events", 7), "spikes")


def soft(rng: np.random.Generator) -> Network:
    """Soft resets: several thresholds' worth of input in a step leaves spikes for later ones."""
    keeps = Neuron(4096, 40, 90, reset="soft")
    layers = (
        Layer(Conv(w(rng, 3, 1, 2, 3)), replace(keeps, bias=np.array([40, -3, 0]))),
        Layer(Dense(w(rng, 6, 18)), replace(keeps, du=2000, bias=-4, bias_exp=4)),
        Layer(Dense(w(rng, 6, 6)), keeps, (1,), (Edge(Dense(w(rng, 6, 18)), (0,)),)),
    )
    return Network((1, 4, 4), layers, Encoding("events", 6, (0, 255)), "spikes")


def soft_chain_with_delays(rng: np.random.Generator) -> Network:
    """In the chip's own time: what biases cause before a sample is delayed into it."""
    keeps = Neuron(3000, 700, 60, bias=25, reset="soft")
    delay = rng.integers(0, 5, (4, 4))
    layers = tuple(Layer(Dense(w(rng, 4, 4), d), keeps) for d in (None, delay, delay))
    return Network((4,), layers, Encoding("events", 4), "spikes")


def matrices(rng: np.random.Generator) -> Network:
    """Of the kinds that netx changes or fails on: zeros, none above 0 and some 0, 255."""
    no_more = -2 * rng.integers(0, 100, (5, 4))
    no_more[0, 0] = 0
    top = rng.integers(0, 256, (5, 5))
    top[0] = 0, 255, 1, 254, 128
    lif = Neuron(4096, 300, 70, bias=400)
    layers = (
        Layer(Dense(np.zeros((4, 3))), Neuron(4096, 300, 70, bias=60)),
        Layer(Dense(no_more), lif),
        Layer(Dense(top), Neuron(4096, 300, 400)),
        Layer(Dense(-top), lif),
        Layer(Dense(2 * w(rng, 3, 5)), INTEGRATOR),
    )
    return Network((3,), layers, Encoding("events", 5))


def wide(rng: np.random.Generator) -> Network:
    """More groups than Lava's Conv has bits for, and a stride; soft resets; and a wait."""
    channels = 130
    pool = Conv(rng.integers(1, 99, (channels, 1, 1, 2)), stride=(128, 2), groups=channels)
    onto = Dense(w(rng, 3, 2 * channels)), Dense(w(rng, 4, 2 * channels))
    layers = (
        Layer(pool, Neuron(4096, 0, 70, reset="soft")),
        Layer(onto[1], Neuron(4096, 0, 70)),
        Layer(onto[0], INTEGRATOR, (0,), (Edge(Dense(w(rng, 3, 4)), (1,)),)),
    )
    return Network((channels, 129, 2), layers, Encoding("events", 3))


def apart(rng: np.random.Generator) -> Network:
    """Three parts, of which the input reaches one; two heads, of which the last is read."""
    lif = Neuron(3000, 200, 70, bias=40)
    layers = (
        Layer(Conv(w(rng, 2, 2, 1, 1)), lif),
        Layer(Dense(w(rng, 3, 3)), lif, (1,)),
        Layer(Dense(w(rng, 3, 3)), lif, (1,), (Edge(Dense(w(rng, 3, 3)), (2,)),)),
        Layer(Dense(w(rng, 5, 5)), lif, (3,)),
        Layer(Dense(w(rng, 2, 16)), INTEGRATOR, (0,)),
    )
    return Network((2, 2, 4), layers, Encoding("events", 5))


def carried_input(rng: np.random.Generator) -> Network:
    """Input neurons that hear the input through a synapse too, so that the current itself waits;
    and a layer that carries what they got."""
    lif = Neuron(3000, 200, 100)
    layers = (
        Layer(Inject(), lif, more=(Edge(Dense(w(rng, 4, 4)), (-1,)),)),
        Layer(Dense(2 * w(rng, 4, 4)), lif, (0,), carry=0),
        Layer(Dense(w(rng, 2, 4)), INTEGRATOR, (-1, 0, 1)),
    )
    return Network((4,), layers, Encoding("events", 4, (-256, 255)))


def sigma_delta(rng: np.random.Generator) -> Network:
    """With exponents that netx's loader does not know."""
    places = {"spike_exp": 2, "state_exp": 3}
    layers = (
        Layer(Inject(), Delta(2, **places)),
        Layer(Conv(w(rng, 3, 2, 2, 3)), SigmaDelta(3, np.array([1, -4, 2]), **places)),
        Layer(Dense(w(rng, 5, 27)), SigmaDelta(3, 7, "unit", **places)),
        Layer(Dense(w(rng, 4, 5)), Sigma()),
    )
    return Network((2, 4, 5), layers, Encoding("events", 4, (-30, 90)))


def resonators(rng: np.random.Generator) -> Network:
    """Of both kinds."""
    layers = (
        Layer(ComplexDense(w(rng, 6, 7), w(rng, 6, 7)), Resonator(40, 700, 3900, "izhikevich")),
        Layer(ComplexDense(w(rng, 9, 6), w(rng, 9, 6)), Resonator(1, 2500, -3000, "phase")),
    )
    return Network((7,), layers, Encoding("events", 8), "spikes")


BUILDERS = (
    *(sew, pre_activation, recurrent, later_feeds_earlier),
    *(shapes, biased_loops, loops_without_delays, slow_loop, soft, soft_chain_with_delays),
    *(matrices, wide, apart, carried_input, sigma_delta, resonators),
)


def drive(network: Network, rng: np.random.Generator, samples: int = 2) -> np.ndarray:
    """Payloads over the whole range, half of them none."""
    first, last = network.encoding.payload
    shape = (network.time_steps, samples, *network.input_shape)
    return np.where(rng.random(shape) < 0.5, rng.integers(first, last + 1, shape), 0)


def check_in_lava(
    several: Sequence[Network], inputs: Sequence[np.ndarray], folder: Path, lively: bool = True
) -> None:
    """Every spike, u and v of every layer of these networks in Lava is the reference's."""
    paths = [folder / f"{number}.net" for number in range(len(several))]
    for network, path in zip(several, paths, strict=True):
        netx.write(network, path)
    found = supervise.run(
        lava_jobs.run_several,
        deadline=600,
        paths=[str(path) for path in paths],
        **{f"x{number}": x for number, x in enumerate(inputs)},
    )
    for number, (network, x) in enumerate(zip(several, inputs, strict=True)):
        expected = reference.run(network, x, STATES)
        for state, (index, name) in product(STATES, enumerate(network.names)):
            ours, lavas = getattr(expected, state)[index], found[f"{state}-{number}-{index}"]
            message = f"{state} of layer {name} of network {number}, {network}"
            np.testing.assert_array_equal(ours, lavas, err_msg=message)
            assert ours.dtype == lavas.dtype
            if lively and state == "spikes" and network.layers[index].neuron.vth is not None:
                assert ours.any(), f"network {number}, layer {name}: silence proves nothing"


@pytest.mark.lava
@pytest.mark.exactness
def test_every_kind_of_network_in_lava(tmp_path: Path) -> None:
    several = [build(RNG(5)) for build in BUILDERS]
    inputs = [drive(network, RNG(7)) for network in several]
    looped = BUILDERS.index(biased_loops)  # with a pause, in which an image that stays is gone too
    inputs[looped] = np.broadcast_to(inputs[looped][0], inputs[looped].shape)
    check_in_lava(several, inputs, tmp_path)


@pytest.mark.lava
@pytest.mark.exactness
@pytest.mark.parametrize("steps", [1, 2])
def test_samples_shorter_than_their_way(steps: int, tmp_path: Path) -> None:
    """Nothing is reset before a sample is there: what biases cause till then is delayed into it."""
    ticking = Neuron(4096, 0, 4000, bias=3000)  # fires in its second step, one before its reset
    layers = (
        Layer(Dense(w(RNG(0), 3, 2)), Neuron(4096, 700, 60)),
        Layer(Dense(w(RNG(1), 4, 3)), ticking),
        Layer(Dense(w(RNG(2), 2, 4), np.ones((2, 4), dtype=int)), INTEGRATOR),
    )
    network = Network((2,), layers, Encoding("events", steps))
    assert max(network.arrivals) >= steps
    x = drive(network, RNG(7))
    assert reference.run(network, x, ("u",)).u[-1].any()
    check_in_lava([network], [x], tmp_path, lively=False)


ANY = st.one_of(
    graphs(soft=True), networks(soft=True), networks(graded=True), resonating(), graphs()
)


@pytest.mark.lava
@pytest.mark.exactness
# Shrinking an example would take hours; the message has the network.
@settings(max_examples=2, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(data=st.data())
def test_random_networks_in_lava(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    drawn = [data.draw(ANY) for _ in range(5)]
    found = [network for network in drawn if in_time(network)]
    assume(found)
    inputs = [data.draw(payloads(network, samples=2)) for network in found]
    check_in_lava(found, inputs, tmp_path_factory.mktemp("networks"), lively=False)


def in_time(network: Network) -> bool:
    """Whether none of its loops is too slow."""
    try:
        schedule.arrivals(network)
    except ScheduleError:
        return False
    return True


# --- when things arrive -------------------------------------------------------------------------


def lags(network: Network) -> list[tuple[int, int, int]]:
    """For each (layer, source): steps by which the layer has to start after the source, at least.

    Written out from what a layer hears, what the chip takes, and what local time allows.
    """
    found = []
    for layer in range(len(network.layers)):
        belongs: int | None = layer
        while belongs is not None:
            for synapse, sources in network.synapses(belongs):
                for source in sources:
                    takes = 0 if isinstance(synapse, Inject) else 1
                    given = 1 if source >= belongs else 0
                    if isinstance(synapse, Dense) and synapse.delay is not None:
                        given += synapse.delay.min()
                    found.append((layer, source, takes - given))
            belongs = network.layers[belongs].carry
    return found


def ways(network: Network) -> list[tuple[tuple[int, ...], int, int]]:
    """Every way through the layers that visits none twice, the lags on it added up, and the lag
    with which its end feeds its beginning (a large negative one where it does not)."""
    slowest: dict[tuple[int, int], int] = {}
    for layer, source, lag in lags(network):
        slowest[source, layer] = max(lag, slowest.get((source, layer), lag))
    count = len(network.layers)
    return [
        (
            way,
            sum(slowest[pair] for pair in pairwise(way)),
            slowest.get((way[-1], way[0]), -999),
        )
        for length in range(1, count + 1)
        for way in permutations(range(count), length)
        if all(pair in slowest for pair in pairwise(way))
    ]


@settings(max_examples=80, deadline=None)
@given(graphs())
def test_there_is_a_time_for_everything_or_a_loop_is_too_slow(network: Network) -> None:
    found = ways(network)
    slow = max(lag + back for _, lag, back in found)
    if slow > 0:
        with pytest.raises(ScheduleError, match=r"the loop over layers .* steps? too slow"):
            schedule.arrivals(network)
        return
    longest = list(network.arrivals)
    for way, lag, _ in found:
        longest[way[-1]] = max(longest[way[-1]], network.arrivals[way[0]] + lag)
    assert schedule.arrivals(network) == tuple(longest)
    for layer, source, lag in lags(network):
        assert source != -1 or longest[layer] >= lag


@pytest.mark.parametrize("build", [sew, pre_activation, recurrent, shapes, biased_loops, soft])
def test_arrivals_are_the_longest_ways(build: Callable[..., Network]) -> None:
    network = build(RNG(0))
    assert schedule.arrivals(network) == network.arrivals


def test_arrivals_by_hand() -> None:
    # 1 hears the input at 2; 0 the spikes of 1, a step late, at 2 as well; 2 those of 0
    assert schedule.arrivals(later_feeds_earlier(RNG(0))) == (1, 1, 2)
    # around the loop it is two synapses, one step late and a delay of 1
    assert schedule.arrivals(slow_loop(RNG(0))) == (1, 2)


def test_pauses_are_as_long_as_the_longest_delay() -> None:
    assert wiring.interval(sew(RNG(0))) == 5
    network = slow_loop(RNG(0))
    assert wiring.interval(network) == 7 + network.layers[0].more[0].synapse.delay.max()
    # a chain with delays has no clean start but the first
    chain = soft_chain_with_delays(RNG(0))
    assert (wiring.interval(chain), wiring.apart(chain), wiring.apart(network)) == (4, True, False)
    short = replace(chain, encoding=replace(chain.encoding, time_steps=2))
    assert wiring.interval(short) == 4  # the last layer is three steps behind
    assert wiring.apart(sigma_delta(RNG(0)))


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (long_loop, r"loop over layers 0 dense.*, 1 dense 4-4, 2 dense.* is 2 steps too slow for"),
        (
            injected,
            r"loop over layers 0 input.*, 1 dense.* is 1 step too slow .* give its s",
        ),
    ],
)
def test_a_loop_that_is_too_slow(build: Callable[..., Network], says: str, tmp_path: Path) -> None:
    """In a line, and before anything is started or Lava missed."""
    network, path = build(RNG(0)), tmp_path / "model.net"
    netx.write(network, path)
    x = np.zeros((network.time_steps, 1, 4), dtype=np.uint8)
    for attempt in (run.run, run.predict):
        with pytest.raises(ScheduleError, match=says) as caught:
            attempt(path, x)
        assert "\n" not in str(caught.value)


def test_delays_make_up_for_a_slow_loop() -> None:
    """As many steps as the line says, on any synapse of it."""
    network = long_loop(RNG(0))
    for index in range(3):
        layer = network.layers[index]
        late = Dense(layer.synapse.weight, np.full(layer.synapse.weight.shape, 2))
        # where the input's spikes come in they would be late as well: not through this synapse
        fed = replace(layer, synapse=late)
        assert schedule.arrivals(network.with_layer(index, fed))


# --- a user's own script ------------------------------------------------------------------------


@pytest.mark.lava
def test_the_example_in_the_docs(tmp_path: Path) -> None:
    """docs/exactness.md: Lava finds our models by itself, and what it computes is right."""
    page = (ROOT / "docs" / "exactness.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    network = wide(RNG(5))
    x = drive(network, RNG(7), samples=1)
    netx.write(network, tmp_path / "model.net")
    np.save(tmp_path / "payloads.npy", x[:, 0])
    wanted = ["spikes", "v"]
    found = supervise.run(
        lava_jobs.execute, deadline=120, code=code, where=str(tmp_path), wanted=wanted
    )
    expected = reference.run(network, x, ("spikes", "v"))
    np.testing.assert_array_equal(found["spikes"], expected.spikes[0][:, 0])
    np.testing.assert_array_equal(found["v"], expected.v[-1][-1, 0])
