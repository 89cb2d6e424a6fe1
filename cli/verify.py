"""``pumice verify``: a file in reference, engine and Lava, spike for spike."""

from __future__ import annotations

from typing import Annotated

import typer

from cli import networks
from cli.networks import Data, Model, Split
from cli.output import Json, Result, table

EXAMPLE = "pumice verify model.net --data mnist --samples 8 --states"


def run(
    model: Model,
    data: Data,
    samples: Annotated[int, typer.Option(help="How many samples, from the first.")] = 8,
    split: Annotated[Split, typer.Option(help="Which samples.")] = Split.test,
    states: Annotated[
        bool, typer.Option("--states", help="Compare u and v as well; slower.")
    ] = False,
    _json: Json = False,
) -> Result:
    """Prove a file: every spike of every layer in reference, fast engine and Lava compared.

    Fails if one differs, and names the first: layer, neuron, step and state.
    """
    raise NotImplementedError
