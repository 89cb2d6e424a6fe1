"""The program ``pumice``: what is set before the commands are loaded, and Ctrl-C meanwhile."""

from __future__ import annotations

import os
import sys

SPINS = 3000
"""How often a thread of GNU OpenMP looks for work before it sleeps; by itself 300,000 times.

A step of training is hundreds of parallel loops, each of which waits for its slowest thread. One
that shares its core with another program is moved to a free core only when those that wait sleep.
On two cores an epoch of 4.5 s takes minutes beside one busy process; by 3,000 looks it takes 14 s
there, and 4.8 s alone (docs/training.md).
"""


def main() -> int:
    """Runs the command line; its exit code."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", str(SPINS))
    try:
        from cli.main import main as run
    except KeyboardInterrupt:
        print("pumice: interrupted", file=sys.stderr)
        return 130
    return run()
