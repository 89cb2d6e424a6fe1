"""When a network's spikes arrive on a chip, where each synapse takes a step.

In local time (:class:`loihi.network.Layer`) there is no latency. On a chip a layer starts as many
steps behind the input as its longest way has synapses, spikes of a shorter way wait, and a loop has
to be done within the step by which its spikes come late: one synapse from a layer back to itself
is, several layers in a loop are only with delays.
"""

from __future__ import annotations

from collections.abc import Iterator

from loihi.errors import PumiceError
from loihi.network import INPUT, Dense, Network, Synapse


class ScheduleError(PumiceError):
    """A network with a loop that no chip runs in time."""


def arrivals(network: Network) -> tuple[int, ...]:
    """Steps by which each layer lags behind the input, so that all of a step's spikes can be there.

    As :attr:`loihi.network.Network.arrivals`, and later where a later layer feeds an earlier one.
    A :class:`ScheduleError` that names the loop where there is no such time.
    """
    found = list(network.arrivals)
    because: dict[int, int] = {}  # the source that a layer last had to wait for
    needed = [
        (index, source, synapse.latency - (source >= by) - delays(synapse)[0])
        for index in range(len(network.layers))
        for by, synapse, sources in heard(network, index)
        for source in sources
        if source != INPUT
    ]
    for _ in range(len(found) + 1):
        late = [(i, s, lag) for i, s, lag in needed if found[i] < found[s] + lag]
        if not late:
            return tuple(found)
        for index, source, lag in late:
            if found[index] < found[source] + lag:
                found[index], because[index] = found[source] + lag, source
    # It never ends: whoever follows the reasons for long enough walks round in a loop.
    at = late[0][0]
    for _ in found:
        at = because[at]
    loop = [at]
    while (at := because[at]) != loop[0]:
        loop.append(at)
    slow = sum(max(lag for i, s, lag in needed if (i, s) == (k, because[k])) for k in loop)
    names = ", ".join(network.names[index] for index in sorted(loop))
    raise ScheduleError(
        f"the loop over layers {names} is {slow} step{'s' * (slow > 1)} too slow for a chip and "
        "Lava, where each synapse takes one: feed layers back to themselves, or give its synapses "
        f"{slow} more of delay"
    )


def heard(network: Network, index: int) -> Iterator[tuple[int, Synapse, tuple[int, ...]]]:
    """All synapses at a layer's neurons: the layer that they belong to (its own come first, then
    those of the layers that it carries), the synapse, and its sources."""
    by: int | None = index
    while by is not None:
        for synapse, sources in network.synapses(by):
            yield by, synapse, sources
        by = network.layers[by].carry


def delays(synapse: Synapse) -> tuple[int, int]:
    """The shortest and the longest."""
    if not isinstance(synapse, Dense) or synapse.delay is None:
        return 0, 0
    return int(synapse.delay.min()), int(synapse.delay.max())
