"""``pumice``: the commands together, and how they end.

A :class:`loihi.errors.PumiceError` and a failing file system end in one line on stderr and exit
code 1, a wrong option in 2, Ctrl-C in 130 (:class:`cli.output.Exit`). Anything else is a bug and
shows its traceback. With ``--json`` there is one JSON object on stdout also then, with the key
``error``. Every command takes ``--quiet`` and ``--verbose``.
"""

from __future__ import annotations

import functools
import inspect
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

from cli import (
    check,
    compare,
    convert,
    cost,
    data,
    demo,
    deploy,
    doctor,
    export,
    learn,
    report,
    rule,
    simulate,
    sweep,
    train,
    verify,
)
from cli.output import (
    Exit,
    Loudness,
    Result,
    complain,
    is_verbose,
    reserved_stdout,
    set_loudness,
)
from loihi.errors import PumiceError

Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="Say nothing on the way, but what goes wrong.")
]
Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", help="Say more on the way; a refusal's traceback too.")
]


def _with_loudness(command: Callable[..., Any]) -> Callable[..., Any]:
    """The command with ``--quiet`` and ``--verbose``."""

    @functools.wraps(command)
    def run(*args: Any, quiet_: bool = False, verbose_: bool = False, **options: Any) -> Any:
        if quiet_ and verbose_:
            raise typer.BadParameter("--quiet and --verbose: give one of them.")
        set_loudness(
            Loudness.quiet if quiet_ else Loudness.verbose if verbose_ else Loudness.normal
        )
        return command(*args, **options)

    told = inspect.signature(command, eval_str=True)
    more = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=kind)
        for name, kind in (("quiet_", Quiet), ("verbose_", Verbose))
    ]
    parameters = [*told.parameters.values(), *more]
    run.__signature__ = told.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run


app = typer.Typer(
    help="Train spiking networks on Loihi's own number grid, freeze them to integers, and prove "
    "them in Lava, spike for spike.",
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
for _module in (
    demo,
    train,
    sweep,
    report,
    compare,
    export,
    convert,
    check,
    simulate,
    verify,
    deploy,
    learn,
    rule,
    cost,
):
    _name = _module.__name__.removeprefix("cli.")
    app.command(_name, epilog=f"Example: {_module.EXAMPLE}")(_with_loudness(_module.run))
for _info in data.app.registered_commands:
    assert _info.callback is not None
    _info.callback = _with_loudness(_info.callback)
app.add_typer(data.app, name="data")
app.command("doctor", epilog=f"Example: {doctor.EXAMPLE}")(_with_loudness(doctor.run))

# click's UsageError, which newer releases of typer keep under their own roof.
_UsageError: type[Exception] = typer.BadParameter.__bases__[0]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command line, ``sys.argv`` unless given; its exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    set_loudness(Loudness.normal)
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
        return Exit.failed


_TORCH_IS_FULL = re.compile(r"(?i)can't allocate memory|out of memory|size calculation overflow")
"""What PyTorch says, in a RuntimeError, where Python raises MemoryError."""


def _run(arguments: list[str]) -> tuple[Result | None, int]:
    """What the command found, if it printed nothing itself (as ``--help`` does); the exit code."""
    try:
        found = app(args=arguments, prog_name="pumice", standalone_mode=False)
    except PumiceError as error:
        if is_verbose():
            complain(traceback.format_exc())
        return _failure(str(error), Exit.failed)
    except _UsageError as error:
        message = error.format_message()  # type: ignore[attr-defined]
        command = getattr(getattr(error, "ctx", None), "command_path", "pumice")
        return _failure(f"{message} See `{command} --help`.", Exit.usage)
    except (KeyboardInterrupt, typer.Abort):
        found = Exit.interrupted
    except BrokenPipeError:
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        return _failure(f"{error.filename}: {reason}" if error.filename else reason, Exit.failed)
    except MemoryError as error:
        return _failure(f"not enough memory: {error}", Exit.failed)
    except Exception as error:
        if isinstance(error, RuntimeError) and _TORCH_IS_FULL.search(str(error)):
            return _failure(f"not enough memory: {str(error).splitlines()[0]}", Exit.failed)
        complain(traceback.format_exc())
        said = f"a bug in pumice, please report it: {type(error).__name__}: {error}"
        return _failure(said, Exit.failed)
    if found == Exit.interrupted:
        return _failure("interrupted", Exit.interrupted)
    if isinstance(found, Result):
        return found, Exit.ok if found.ok else Exit.failed
    return None, int(found or 0)


def _failure(message: str, code: int) -> tuple[Result, int]:
    line = " ".join(message.split())
    complain(f"pumice: {line}")
    return Result({"error": line}, None, ok=False), code


if __name__ == "__main__":
    sys.exit(main())
