"""What several commands have in common: their arguments, and how they print."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from pipeline.inspection import visible

RecipeFile = Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe in YAML.")]
RunFolder = Annotated[
    str, typer.Argument(metavar="RUN", help="A run's folder or url: the recipe's output/name.")
]
Changes = Annotated[list[str] | None, typer.Option("--set", metavar="A.B=C", help="Change a recipe key.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]
Files = Annotated[list[str], typer.Argument(metavar="FILES...", help="Pictures, or folders of them.")]
Device = Annotated[str, typer.Option(help="Where the model computes, such as cuda.")]
Batch = Annotated[int, typer.Option(min=1, help="How many go through the model together.")]
Until = Annotated[str | None, typer.Option(help="Stop after this stage.")]
WaitNodes = Annotated[
    float, typer.Option(min=0, help="Seconds that a cluster may take to grow as large as a stage needs.")
]

console = Console()


def say(text: str) -> None:
    """A line, as it is: not wrapped, not coloured, no markup read into it."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def warn(text: str) -> None:
    """A line on stderr, without control characters."""
    Console(stderr=True).print(visible(text), highlight=False, markup=False, soft_wrap=True)
