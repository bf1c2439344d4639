"""`capfilt caption` and `capfilt score`: a model, images, no run."""

import json
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.table import Table
from rich.text import Text

from capfilt.pipeline.commands.shared import Batch, Device, Files, Json, console, warn
from capfilt.pipeline.reports.visible import visible

if TYPE_CHECKING:
    from capfilt.pipeline.ad_hoc.images import Found

Model = Annotated[
    str,
    typer.Option(metavar="MODEL", help="A model directory, a hub id, or a run: then the model that it uses."),
]


def caption(
    files: Files,
    model: Model,
    strategy: Annotated[Literal["nucleus", "greedy", "beam"] | None, typer.Option()] = None,
    top_p: Annotated[float | None, typer.Option(help="The nucleus to draw from.")] = None,
    per_image: Annotated[int | None, typer.Option(help="Captions an image.")] = None,
    min_tokens: Annotated[int | None, typer.Option(help="Shortest caption.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Longest caption.")] = None,
    repetition_penalty: Annotated[float | None, typer.Option(help="Above 1 repeats less.")] = None,
    beams: Annotated[int | None, typer.Option(help="How many, with --strategy beam.")] = None,
    prompt: Annotated[
        str | None, typer.Option(help="What captions go on from, or a chat model is asked.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Draws other captions.")] = None,
    device: Device = "cpu",
    batch: Batch = 16,
    as_json: Json = False,
) -> None:
    """Caption images without a run. Options are the recipe's `caption` keys; a run's own are its defaults."""
    from capfilt.pipeline.api import models

    decoding = {
        "strategy": strategy,
        "top_p": top_p,
        "per_image": per_image,
        "min_tokens": min_tokens,
        "max_tokens": max_tokens,
        "repetition_penalty": repetition_penalty,
        "beams": beams,
        "prompt": prompt,
    }
    found = models.caption(files, model, decoding=decoding, seed=seed, device=device, batch=batch)
    _print_found(found, ("logprob",), as_json)


def score(
    files: Files,
    text: Annotated[list[str], typer.Option(help="A text to judge; give it several times for several.")],
    model: Model,
    device: Device = "cpu",
    batch: Batch = 16,
    as_json: Json = False,
) -> None:
    """Score texts against images without a run: itm is the probability of a match, itc the cosine."""
    from capfilt.pipeline.api import models

    found = models.score(files, text, model, device=device, batch=batch)
    _print_found(found, ("itm", "itc"), as_json)


def _print_found(found: "Found", figures: tuple[str, ...], as_json: bool) -> None:
    """JSON lines as they come, or a table; what could not be read on stderr, and exit code 1 for it."""
    table, failed = Table("file", *figures, "text"), False
    for row in found:
        if not isinstance(row, dict):
            failed = True
            warn(f"{row.file}: {row.reason}")
        elif as_json:
            print(json.dumps(row), flush=True)
        else:
            cells = (row["file"], *(row[figure] for figure in figures), row["text"])
            table.add_row(*(Text(visible(cell)) for cell in cells))
    if table.rows:
        console.print(table)
    if failed:
        raise SystemExit(1)
