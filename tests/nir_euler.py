"""NIR graphs simulated as their equations say, in float64 by Euler steps: nir's own nodes, plain
PyTorch for what is linear, and nothing of pumice."""

from __future__ import annotations

from typing import Any

import nir
import numpy as np
import torch
from torch.nn import functional as F

SPIKING = (nir.CubaLIF, nir.LIF, nir.IF, nir.Threshold)
NEURONS = (*SPIKING, nir.CubaLI, nir.LI, nir.I)


def flat(graph: nir.NIRGraph, prefix: str = "") -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """Nodes and edges, those of graphs within graphs too."""
    nodes: dict[str, Any] = {}
    edges: list[tuple[str, str]] = []
    ends: dict[str, tuple[str, str]] = {}
    for name, node in graph.nodes.items():
        if isinstance(node, nir.NIRGraph):
            inner, its = flat(node, f"{prefix}{name}/")
            nodes |= inner
            edges += its
            (a,) = (k for k, n in node.nodes.items() if isinstance(n, nir.Input))
            (b,) = (k for k, n in node.nodes.items() if isinstance(n, nir.Output))
            ends[name] = f"{prefix}{name}/{a}", f"{prefix}{name}/{b}"
        else:
            nodes[prefix + name] = node
            ends[name] = prefix + name, prefix + name
    return nodes, edges + [(ends[a][1], ends[b][0]) for a, b in graph.edges]


def simulate(
    graph: nir.NIRGraph, x: np.ndarray, order: list[str], dt: float = 1e-4, soft: bool = False
) -> dict[str, np.ndarray]:
    """What each neuron sends (spikes, of those without, v) in each step: ``{name: [T, N, ...]}``.

    x: ``[T, N, ...]``. order: the neurons in the order in which they work; what a later one sends
    is heard a step later.
    """
    nodes, edges = flat(graph)
    before: dict[str, list[str]] = {name: [] for name in nodes}
    for a, b in edges:
        before[b].append(a)
    samples = x.shape[1]
    state: dict[str, list[Any]] = {}
    sent: dict[str, list[torch.Tensor]] = {name: [] for name in order}
    past: dict[tuple[str, str], dict[int, torch.Tensor]] = {}  # of a delay, for each who listens

    def given(name: str, t: int, memo: dict[str, Any]) -> torch.Tensor | None:
        """None: not there yet, silence."""
        node = nodes[name]
        if isinstance(node, NEURONS):
            if len(sent[name]) > t:
                return sent[name][t]
            return sent[name][t - 1] if t else None
        if name not in memo:
            memo[name] = made(name, node, t, memo)
        return memo[name]

    def fed(name: str, t: int, memo: dict[str, Any]) -> torch.Tensor | None:
        parts = [p for b in before[name] if (p := given(b, t, memo)) is not None]
        return sum(parts[1:], parts[0]) if parts else None

    def made(name: str, node: Any, t: int, memo: dict[str, Any]) -> torch.Tensor | None:
        if isinstance(node, nir.Input) and not before[name]:
            return torch.from_numpy(x[t].astype(np.float64))
        a = fed(name, t, memo)
        if isinstance(node, nir.Affine | nir.Linear):
            w = torch.from_numpy(np.asarray(node.weight, np.float64))
            a = torch.zeros(samples, w.shape[1], dtype=torch.float64) if a is None else a
            bias = 0 if isinstance(node, nir.Linear) else torch.from_numpy(np.asarray(node.bias))
            return a @ w.T + bias
        if a is None:
            return None
        if isinstance(node, nir.Flatten):
            last = node.end_dim if node.end_dim < 0 else node.end_dim + 1
            return a.flatten(node.start_dim + 1 if node.start_dim >= 0 else node.start_dim, last)
        if isinstance(node, nir.Conv2d | nir.Conv1d):
            conv = F.conv2d if isinstance(node, nir.Conv2d) else F.conv1d
            w, bias = (
                torch.from_numpy(np.asarray(n, np.float64)) for n in (node.weight, node.bias)
            )
            geometry = [
                n if isinstance(n, str) else tuple(int(i) for i in np.atleast_1d(n))
                for n in (node.stride, node.padding, node.dilation)
            ]
            return conv(a, w, bias, *geometry, int(node.groups))
        if isinstance(node, nir.AvgPool2d | nir.SumPool2d):
            k, s, p = (
                tuple(int(i) for i in np.broadcast_to(n, 2))
                for n in (node.kernel_size, node.stride, node.padding)
            )
            of = 1 if isinstance(node, nir.AvgPool2d) else k[0] * k[1]
            return F.avg_pool2d(a, k, s, p) * of
        if isinstance(node, nir.Scale):
            return a * torch.from_numpy(np.asarray(node.scale, np.float64))
        if isinstance(node, nir.Delay):
            steps = np.rint(node.delay / dt).astype(int)
            line = past.setdefault((name, target), {})
            line[t] = a
            out = torch.zeros_like(a)
            for index in np.ndindex(steps.shape):
                if (then := line.get(t - steps[index])) is not None:
                    out[(slice(None), *index)] = then[(slice(None), *index)]
            return out
        return a  # ends of inner graphs, outputs

    for t in range(len(x)):
        for target in order:
            node = nodes[target]
            a = fed(target, t, {})
            if a is None:
                a = torch.zeros(samples, *np.atleast_1d(node.output_type["output"]).tolist())
            state.setdefault(target, [0.0, None])
            sent[target].append(step(node, a.double(), state[target], dt, soft))
    return {name: torch.stack(steps).numpy() for name, steps in sent.items()}


def step(node: Any, s: torch.Tensor, state: list[Any], dt: float, soft: bool) -> torch.Tensor:
    """One Euler step of the node's own equations; ``state`` is I and v, v first at its reset."""

    def value(key: str) -> torch.Tensor:
        return torch.from_numpy(np.asarray(getattr(node, key), np.float64))

    if isinstance(node, nir.Threshold):
        return (s > value("threshold")).double()
    if state[1] is None:
        state[1] = value("v_reset") if isinstance(node, SPIKING) else torch.zeros(())
    i, v = state
    if isinstance(node, nir.CubaLIF | nir.CubaLI):
        i = i + dt / value("tau_syn") * (-i + value("w_in") * s)
        v = v + dt / value("tau_mem") * (value("v_leak") - v + value("r") * i)
    elif isinstance(node, nir.LIF | nir.LI):
        v = v + dt / value("tau") * (value("v_leak") - v + value("r") * s)
    else:
        v = v + dt * value("r") * s
    if not isinstance(node, SPIKING):
        state[:] = i, v
        return v
    z = (v > value("v_threshold")).double()
    v = v - z * value("v_threshold") if soft else torch.where(z > 0, value("v_reset"), v)
    state[:] = i, v
    return z
