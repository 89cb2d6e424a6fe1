"""``pumice rule``: a learning rule in real units, compiled for the chip's learning engine."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from cli.output import Json, Result
from loihi.errors import PumiceError

EXAMPLE = (
    'pumice rule "dw = 0.8 * pre_trace * post - 0.9 * pre * post_trace" '
    "--trace pre_trace=10 --trace post_trace=10"
)


def run(
    rule: Annotated[
        list[str],
        typer.Argument(metavar="LINE...", help='As "dw = 0.5 * pre_trace * post"; dt, dd too.'),
    ],
    trace: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=TAU", help="Time constant of a trace, in steps; repeatable."),
    ] = None,
    epoch: Annotated[int, typer.Option(help="Steps between two updates, 1..63.")] = 1,
    units: Annotated[int, typer.Option(help="What is sent for a third factor of 1.0.")] = 127,
    _json: Json = False,
) -> Result:
    """Compile a learning rule: what becomes of each term in the chip's integers.

    docs/rules.md has the language, and the name of each refusal.
    """
    from onchip.rules import Trace, compile_rule

    traces = {}
    for text in trace or []:
        name, _, number = text.partition("=")
        try:
            traces[name] = Trace(tau=float(number))
        except ValueError:
            raise PumiceError(f"--trace {text}: a name and steps, as pre_trace=10") from None
    compiled = compile_rule("\n".join(rule), traces=traces, epoch=epoch, units=units)
    answer: dict[str, Any] = {
        "rule": compiled.rule.as_dict(),
        "terms": [
            {
                "target": term.target,
                "term": term.text,
                "wanted": term.wanted,
                "compiled": term.compiled,
                "error": term.error,
                "drift": term.drift,
            }
            for term in compiled.terms
        ],
        "drift": compiled.drift,
        "sent": dict(compiled.sent),
        "warnings": [asdict(warning) for warning in compiled.warnings],
    }
    return Result(answer, compiled.table())
