"""What several commands have in common: their arguments, and how they print."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from capfilt.pipeline.reports.visible import visible

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


def say(text: str) -> None:
    """A line, as it is: not wrapped, not coloured, no markup read into it."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def warn(text: str) -> None:
    """A line on stderr, without control characters."""
    Console(stderr=True).print(visible(text), highlight=False, markup=False, soft_wrap=True)


def show_statuses(statuses: Mapping[str, Any], as_json: bool = False) -> None:
    """Every :class:`~capfilt.pipeline.planning.status.StageStatus` by name: a table, or JSON."""
    if as_json:
        rows = [
            {
                "stage": name,
                "state": status.state,
                "why": status.why,
                "shards": status.expected,
                "missing": list(status.missing),
                "damaged": dict(status.damaged),
                "stale": status.stale,
            }
            for name, status in statuses.items()
        ]
        print(json.dumps(rows, indent=2))
        return
    table = Table("stage", "state", "shards", "why")
    for name, status in statuses.items():
        shards = "?" if status.expected is None else str(status.expected)
        colour = {"to run": "yellow", "waiting": "dim"}.get(status.state, "green")
        why = f"stale: {status.stale}" if status.stale else status.why
        if status.damaged:
            why += "; damaged: " + ", ".join(f"{part} ({how})" for part, how in [*status.damaged.items()][:3])
        table.add_row(name, f"[{colour}]{status.state}[/]", shards, why)
    console.print(table)
