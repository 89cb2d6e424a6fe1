"""README's picture of a terminal: runs `pumice demo`, and draws what it says.

.venv/bin/python .ci/terminal.py docs/demo.svg
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.text import Text

COMMAND = ["pumice", "demo"]
WIDTH = 84


def main(path: Path) -> None:
    """Runs the demo in an empty folder, and writes the picture to ``path``."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-m", *COMMAND],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=True,
            env={"PYTHONPATH": str(Path(__file__).parent.parent), "COLUMNS": str(WIDTH)},
        )
    with open("/dev/null", "w", encoding="utf-8") as nowhere:
        console = Console(record=True, width=WIDTH, file=nowhere)
        console.print(Text.assemble(("$ ", "bold green"), (" ".join(COMMAND), "bold")))
        for line in done.stdout.splitlines():
            style = "bold" if re.match(r"\d\. ", line) else "green" if " 0 of " in line else ""
            console.print(Text(line.rstrip(), style=style))
        # A page must fetch nothing: any monospaced font will do.
        form = re.sub(r"@font-face\s*\{\{.*?\}\}", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
        form = form.replace("font-family: Fira Code", "font-family: ui-monospace, Consolas")
        path.write_text(console.export_svg(title="pumice demo", code_format=form), "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
