"""`capfilt demo`: make its data, run its recipe as any user does, hold the result against the truth."""

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from capfilt.pipeline.commands.run import drive
from capfilt.pipeline.commands.shared import console


def demo(
    out: Annotated[Path, typer.Option(help="Where to put the demo.")] = Path("demo"),
    seed: Annotated[int, typer.Option(min=0, help="Draws the concepts, the crawl and the training.")] = 0,
    http: Annotated[
        bool, typer.Option("--http", help="Have the crawl fetched, from a server on loopback.")
    ] = False,
    human_concepts: Annotated[
        int | None, typer.Option(help="Let people caption so many of its 24 things; without it, all.")
    ] = None,
    duplicates: Annotated[
        bool, typer.Option("--duplicates", help="Plant copies and evaluation images, and have them found.")
    ] = False,
) -> None:
    """Make a small noisy crawl of real images and clean it, start to end."""
    from capfilt.pipeline.api import runs
    from capfilt.pipeline.demo.command import close, prepare
    from capfilt.pipeline.demo.web import served

    recipe = prepare(out, seed, http=http, human_concepts=human_concepts, duplicates=duplicates)
    loaded = runs.load_recipe(recipe)
    with served(out) if http else nullcontext():
        begun = runs.begin(loaded)
        drive(begun)
    close(out, begun.ledger, console)
