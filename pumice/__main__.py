"""``python -m pumice``: the commands, where no ``pumice`` is on the path."""

import sys

from cli.start import main

if __name__ == "__main__":
    sys.exit(main())
