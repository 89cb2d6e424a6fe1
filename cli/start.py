"""The program ``pumice``: Ctrl-C while the commands are being loaded ends as it does later."""

from __future__ import annotations

import sys


def main() -> int:
    """Runs the command line; its exit code."""
    try:
        from cli.main import main as run
    except KeyboardInterrupt:
        print("pumice: interrupted", file=sys.stderr)
        return 130
    return run()
