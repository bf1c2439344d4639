"""What several commands have in common: their arguments, and how they print."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from capfilt.data_contracts.errors import UsageError
from capfilt.pipeline.ledger.ledger import Ledger
from capfilt.pipeline.reports.visible import visible

if TYPE_CHECKING:
    from capfilt.pipeline.planning.schema import Recipe

RecipeFile = Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe in YAML.")]
RunFolder = Annotated[
    str, typer.Argument(metavar="RUN", help="A run's folder or url: the recipe's output/name.")
]
Changes = Annotated[list[str] | None, typer.Option("--set", metavar="A.B=C", help="Change a recipe key.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]
Files = Annotated[list[str], typer.Argument(metavar="FILES...", help="Images, or folders of them.")]
Device = Annotated[str, typer.Option(help="Where the model computes, such as cuda.")]
Batch = Annotated[int, typer.Option(min=1, help="How many go through the model together.")]
Until = Annotated[str | None, typer.Option(help="Stop after this stage.")]
Fork = Annotated[str | None, typer.Option(help="Make a new run of this name from the recipe's run.")]
WaitNodes = Annotated[
    float, typer.Option(min=0, help="Seconds that a cluster may take to grow as large as a stage needs.")
]

console = Console()


def forked(recipe: "Recipe", name: str) -> "tuple[Recipe, Ledger]":
    """The recipe of a fork of this name, and the run that it is forked from.

    Raises:
        SourceError: the recipe has no run yet.
        UsageError: the name is that of the run itself.
    """
    from capfilt.pipeline.planning.schema import parse

    parent = Ledger(recipe.run)
    parent.record()
    fork = parse({**recipe.plain(), "name": name})
    if fork.run == parent.url:
        raise UsageError(what="a fork needs a name of its own", evidence=f"{name} is the run itself")
    return fork, parent


def say(text: str) -> None:
    """A line, as it is: not wrapped, not coloured, no markup read into it."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def warn(text: str) -> None:
    """A line on stderr, without control characters."""
    Console(stderr=True).print(visible(text), highlight=False, markup=False, soft_wrap=True)
