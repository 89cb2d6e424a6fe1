"""One training iteration of pumice's rules, of SpikingJelly, snnTorch and SLAYER, in one run.

    python -m bench.peers [--json] [--steps 10 50] [--model mlp] [--input static] [--device cuda]

An iteration is forward and backward of one batch, gradients cleared before; the optimizer's step is
left out for all alike. What is the same for all is said in :mod:`bench.contestants`.

    SpikingJelly    multi-step LIFNode and IFNode, and its own Linear or Conv2d over all steps
    snnTorch        Leaky in a loop over time
    SLAYER          lava-dl's cuba blocks, with their 8-bit weights and integer dynamics
    BPTT loop       autograd over a loop over time, as one writes it in torch
    SLTT loop       the same with the membrane detached, and backward at every step
    pumice RULE     every rule of :data:`trainer.rules.RULES`, or those of ``--rules``

All are called in turn, round after round, so that a busy machine hits all alike. ``seconds`` is the
median of the rounds, ``cpu_seconds`` that of all threads' processor time, which a busy machine
changes less; ``saved_bytes`` and ``peak_bytes`` are explained in :mod:`bench.memory`; ``rate`` is
spikes a neuron and step, and ratios are to SpikingJelly's. The input is noise of
rate-coded MNIST's density, new at every step, or (``--input static``) one graded image at every
step, of which SpikingJelly, snnTorch, the BPTT loop and pumice compute the first layer's product
once. Below the rows stand the targets that pumice is held to.

Peers that are not installed are named, and the rest runs: ``pip install -c constraints-peers.txt
".[peers]"``, or as docs/benchmarks.md says. ``--require-peers`` makes that an error.
"""

from __future__ import annotations

import gc
import importlib.metadata
import math
import statistics
import time
from collections.abc import Sequence
from typing import NamedTuple

import torch

from bench.contestants import PEERS, SETTINGS, Contestant, Setting, field, make, why_absent
from bench.memory import arguments, peak_bytes, peak_saved_bytes, settle
from bench.report import Row, show
from loihi import PumiceError

REFERENCE = "SpikingJelly"
"""What ratios are taken to."""


class Taken(NamedTuple):
    """What an iteration took: seconds on the wall, and of the processors, all threads together."""

    seconds: float
    cpu_seconds: float


def in_turn(
    contestants: Sequence[Contestant], repeats: int, device: str = "cpu"
) -> list[list[Taken]]:
    """What every iteration of every contestant took, called round after round."""
    found: list[list[Taken]] = [[] for _ in contestants]
    gc.collect()
    gc.freeze()  # so that a collection between iterations costs next to nothing
    try:
        for _ in range(repeats):
            for contestant, taken in zip(contestants, found, strict=True):
                gc.collect()
                gc.disable()  # nobody pays for what another has left
                _wait(device)
                began = time.perf_counter(), time.process_time()
                contestant.iterate()
                _wait(device)
                taken.append(Taken(time.perf_counter() - began[0], time.process_time() - began[1]))
                gc.enable()
    finally:
        gc.enable()
        gc.unfreeze()
    return found


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def rows(
    setting: Setting,
    steps: Sequence[int],
    batch: int,
    rules: Sequence[str],
    *,
    static: bool = False,
    device: str = "cpu",
    repeats: int = 7,
    require: bool = False,
) -> tuple[list[Row], dict[str, str]]:
    """A row for every T and contestant, with ratios to SpikingJelly's; and who is absent, and why.

    ``rate``: spikes a neuron and step; ratios are of medians.
    """
    table: list[Row] = []
    absent: dict[str, str] = {}
    threads = torch.get_num_threads()
    for time_steps in steps:
        given = make(setting, time_steps, batch, static, device)
        contestants, absent = field(given, rules, require)
        settle(threads)
        found: list[Row] = []
        for contestant, taken in zip(
            contestants, in_turn(contestants, repeats, device), strict=True
        ):
            found.append(
                {
                    "what": contestant.name,
                    "T": time_steps,
                    "rate": round(contestant.rate, 4),
                    "seconds": round(statistics.median(t.seconds for t in taken), 5),
                    "seconds_min": round(min(t.seconds for t in taken), 5),
                    "cpu_seconds": round(statistics.median(t.cpu_seconds for t in taken), 5),
                    "saved_bytes": peak_saved_bytes(contestant.iterate),
                    "peak_bytes": peak_bytes(contestant.iterate, device),
                }
            )
        reference = next((row for row in found if row["what"] == REFERENCE), None)
        for row in found if reference is not None else ():
            assert reference is not None
            for key in ("seconds", "cpu_seconds", "saved_bytes", "peak_bytes"):
                row[f"{key}_ratio"] = round(row[key] / reference[key], 4)
        table += found
    return table, absent


class Target(NamedTuple):
    """``key`` of a rule, at most ``limit`` times that of another row, at the run's largest T.

    of: the other row; "" for the rule's own at the run's smallest T, "√T" for the same times the
    square root of the ratio of the two T.
    """

    rule: str
    key: str
    of: str
    limit: float
    device: str
    source: str


_ISSUE, _SLTT = "ours", "SLTT, Meng et al. 2023"
TARGETS = (
    Target("sltt", "seconds", REFERENCE, 0.7, "cpu", _ISSUE),
    Target("sltt_k", "seconds", REFERENCE, 0.2, "cpu", _ISSUE),
    Target("sltt", "saved_bytes", REFERENCE, 1 / 20, "cpu", _ISSUE),
    Target("sltt", "saved_bytes", "", 1.0, "cpu", _ISSUE),
    Target("bptt_checkpoint", "seconds", "bptt", 1.3, "cpu", _ISSUE),
    Target("bptt_checkpoint", "peak_bytes", "√T", 1.0, "cpu", _ISSUE),
    Target("sltt", "peak_bytes", "bptt", 0.36, "cuda", f"{_SLTT}, Table 1"),
    Target("sltt_k", "seconds", "sltt", 0.48, "cuda", f"{_SLTT}, Table 2, K = 1"),
    Target("sltt", "seconds", "ottt", 1 / 3.4, "cuda", f"{_SLTT}, Table 3"),
)


def verdicts(table: Sequence[Row], device: str = "cpu") -> list[Row]:
    """A row for each target that the table has the numbers for."""
    first, last = min(row["T"] for row in table), max(row["T"] for row in table)

    def find(name: str, time_steps: int) -> Row | None:
        names = (name, f"pumice {name}")
        for row in table:
            same = row["what"] in names or row["what"].startswith(f"pumice {name} ")
            if same and row["T"] == time_steps:
                return row
        return None

    found = []
    for target in TARGETS:
        itself = target.of in ("", "√T")
        row = find(target.rule, last)
        other = find(target.rule if itself else target.of, first if itself else last)
        if target.device != device or row is None or other is None or (itself and first == last):
            continue
        growth = math.sqrt(last / first) if target.of == "√T" else 1.0
        ratio = row[target.key] / (other[target.key] * growth)
        beside = {"": f"itself, T = {first}", "√T": f"itself, T = {first}, times √{last / first:g}"}
        found.append(
            {
                "target": f"{row['what']}, {target.key}, T = {last}",
                "of": beside.get(target.of, other["what"]),
                "ratio": round(ratio, 4),
                "at_most": round(target.limit, 4),
                "verdict": "met" if round(ratio, 4) <= round(target.limit, 4) else "MISSED",
                "source": target.source,
            }
        )
    return found


def main() -> None:
    """The command line."""
    parser = arguments((__doc__ or "").splitlines()[0])
    parser.set_defaults(batch=None)
    parser.add_argument("--model", default="mlp", choices=SETTINGS)
    parser.add_argument("--input", default="moving", choices=("moving", "static"))
    parser.add_argument("--steps", type=int, nargs="+", help="T, one or more")
    parser.add_argument("--repeats", type=int, help="rounds that are timed")
    parser.add_argument("--threads", type=int, help="of torch, and of pumice's own kernels")
    parser.add_argument("--require-peers", action="store_true", help="an absent peer is an error")
    o = parser.parse_args()
    if o.threads:
        torch.set_num_threads(o.threads)
    # float32 is float32 for all; the rest of torch's settings are as each has them.
    torch.backends.cudnn.allow_tf32 = False
    setting = SETTINGS[o.model]
    batch, steps = o.batch or setting.batch, o.steps or list(setting.steps)
    try:
        table, absent = rows(
            setting,
            steps,
            batch,
            o.rules,
            static=o.input == "static",
            device=o.device,
            repeats=o.repeats or setting.repeats,
            require=o.require_peers,
        )
    except PumiceError as error:
        raise SystemExit(f"bench.peers: {error}") from None
    targets = verdicts(table, o.device)
    shape = "x".join(map(str, setting.shape))
    show(
        table,
        o.json,
        targets=targets,
        absent=absent,
        model=f"{shape}-{setting.layers}-{setting.classes}",
        batch=batch,
        input=o.input,
        device=o.device,
        threads=torch.get_num_threads(),
        versions=versions(),
    )


def versions() -> dict[str, str]:
    """Of torch and the peers that are installed."""
    names = ["torch", *(peer.package for peer in PEERS if peer.package and not why_absent(peer))]
    return {name: importlib.metadata.version(name) for name in names}


if __name__ == "__main__":
    main()
