"""``pumice``: the commands together, and how they end.

A :class:`loihi.errors.PumiceError` and a failing file system end in one line on stderr and exit
code 1, a wrong option in 2, Ctrl-C in 130. Anything else is a bug and shows its traceback.
With ``--json`` there is one JSON object on stdout also then, with the key ``error``.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence

import typer

from cli import (
    check,
    convert,
    cost,
    data,
    demo,
    deploy,
    doctor,
    export,
    learn,
    simulate,
    sweep,
    train,
    verify,
)
from cli.output import Result, log, reserved_stdout
from loihi.errors import PumiceError

app = typer.Typer(
    help="Train spiking networks on Loihi's own number grid, freeze them to integers, and prove "
    "them in Lava, spike for spike.",
    rich_markup_mode="markdown",
    add_completion=False,
    pretty_exceptions_enable=False,
)
for _module in (demo, train, sweep, export, convert, check, simulate, verify, deploy, learn, cost):
    _name = _module.__name__.removeprefix("cli.")
    app.command(_name, epilog=f"Example: {_module.EXAMPLE}")(_module.run)
app.add_typer(data.app, name="data")
app.command("doctor", epilog=f"Example: {doctor.EXAMPLE}")(doctor.run)

# click's UsageError, which newer releases of typer keep under their own roof.
_UsageError: type[Exception] = typer.BadParameter.__bases__[0]

INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command line, ``sys.argv`` unless given; its exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    try:
        if "--json" in arguments:
            with reserved_stdout() as stdout:
                result, code = _run(arguments)
                if result is not None:
                    result.print_json(stdout)
        else:
            result, code = _run(arguments)
            if result is not None:
                result.print_text(sys.stdout)
        return code
    except BrokenPipeError:  # whoever read stdout has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _run(arguments: list[str]) -> tuple[Result | None, int]:
    """What the command found, if it printed nothing itself (as ``--help`` does); the exit code."""
    try:
        found = app(args=arguments, prog_name="pumice", standalone_mode=False)
    except PumiceError as error:
        return _failure(str(error), 1)
    except _UsageError as error:
        message = error.format_message()  # type: ignore[attr-defined]
        command = getattr(getattr(error, "ctx", None), "command_path", "pumice")
        return _failure(f"{message} See `{command} --help`.", 2)
    except (KeyboardInterrupt, typer.Abort):
        found = INTERRUPTED
    except BrokenPipeError:
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        return _failure(f"{error.filename}: {reason}" if error.filename else reason, 1)
    except MemoryError as error:
        return _failure(f"not enough memory: {error}", 1)
    except Exception as error:
        log(traceback.format_exc())
        return _failure(f"a bug in pumice, please report it: {type(error).__name__}: {error}", 1)
    if found == INTERRUPTED:
        return _failure("interrupted", INTERRUPTED)
    if isinstance(found, Result):
        return found, 0 if found.ok else 1
    return None, int(found or 0)


def _failure(message: str, code: int) -> tuple[Result, int]:
    line = " ".join(message.split())
    log(f"pumice: {line}")
    return Result({"error": line}, None, ok=False), code


if __name__ == "__main__":
    sys.exit(main())
