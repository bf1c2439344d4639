"""`capfilt index`, `capfilt search` and `capfilt classify`: parse, call, print."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from capfilt.pipeline.commands.shared import Device, Json, RunFolder, console, say, warn
from capfilt.pipeline.ledger.ledger import Ledger
from capfilt.pipeline.reports.visible import visible

Stage = Annotated[
    str, typer.Option(help="Whose images and texts: ingest, human, dedup, score, select, export.")
]
Model = Annotated[
    str | None,
    typer.Option(metavar="MODEL", help="A model directory, a hub id or a run; by default the run's own."),
]
Html = Annotated[Path | None, typer.Option("--html", help="Write a page with thumbnails there.")]
Count = Annotated[int, typer.Option("-k", min=1, help="How many to show.")]


def index(
    run: RunFolder,
    stage: Stage = "export",
    model: Model = None,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Index a stage's images and texts for search; made again, it replaces the index before it."""
    from capfilt.pipeline.api import search

    facts = search.index(Ledger(run), stage, model=model, device=device)
    if as_json:
        print(facts.model_dump_json(indent=2))
        return
    said = f"{facts.images:,} images and {facts.texts:,} texts of {stage}, by {facts.model}"
    if facts.texts_truncated:
        said += f"; {facts.texts_truncated:,} texts are longer than the model reads, and were cut"
    say(said)


def search(
    run: RunFolder,
    text: Annotated[str | None, typer.Option(help="What to search for.")] = None,
    image: Annotated[Path | None, typer.Option(help="An image to search for.")] = None,
    of: Annotated[
        Literal["images", "texts"] | None,
        typer.Option(help="What to find; without it images for a text, texts for an image."),
    ] = None,
    count: Count = 10,
    stage: Stage = "export",
    model: Model = None,
    device: Device = "cpu",
    html: Html = None,
    as_json: Json = False,
) -> None:
    """Search a run's images or texts by a text or an image."""
    from capfilt.pipeline.api import search as api

    ledger = Ledger(run)
    found = api.search(ledger, text, image, of=of, count=count, stage=stage, model=model, device=device)
    hits = found.hits
    if found.cut:
        warn("the text is longer than the model reads: its end was cut")
    if found.stale:
        warn(f"{stage} has changed since it was indexed: capfilt index {run} --stage {stage}")
    if html is not None:
        api.write_page(ledger, html, found, stage, image or text or "")
    if as_json:
        print(json.dumps(hits, indent=2))
        return
    table = Table("cosine", "image", "from", *(["text"] if hits and "text" in hits[0] else []))
    for hit in hits:
        cells = [f"{hit['similarity']:.3f}", hit["image_id"][:12], hit["url"]]
        table.add_row(*(Text(visible(cell)) for cell in (*cells, *([hit["text"]] if "text" in hit else []))))
    console.print(table)
    if html is not None:
        say(f"{html}")


def classify(
    what: Annotated[list[str], typer.Argument(metavar="RUN|FILES...", help="A run, or images and folders.")],
    labels: Annotated[str, typer.Option(help="The labels, with commas between them.")],
    template: Annotated[
        list[str] | None, typer.Option(help="What a label is put into; several are averaged.")
    ] = None,
    evaluate: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Compare with this column: accuracy, confusion.")
    ] = None,
    table: Annotated[
        Path | None,
        typer.Option(help="A CSV with `file` and that column; without it the stage's, or its `extra`."),
    ] = None,
    stage: Stage = "export",
    model: Model = None,
    device: Device = "cpu",
    html: Html = None,
    as_json: Json = False,
) -> None:
    """Tell which of some labels each image shows, without training: an indexed stage of a run, or files."""
    from capfilt.pipeline.api import search as api
    from capfilt.pipeline.search.classify import TEMPLATE

    names = [label.strip() for label in labels.split(",")]
    found = api.classify(
        what,
        names,
        templates=template or [TEMPLATE],
        evaluate=evaluate,
        table=table,
        stage=stage,
        model=model,
        device=device,
        thumbnails=html is not None,
    )
    for one in found.unreadable:
        warn(f"{one.file}: {one.reason}")
    if html is not None:
        api.write_labels(html, names, found)
    evaluation = found.evaluation
    if as_json:
        print(
            json.dumps({"images": found.images, "evaluation": evaluation and evaluation._asdict()}, indent=2)
        )
    else:
        _show(found.images, evaluation, names)
    if found.unreadable:
        raise SystemExit(1)


def _show(rows: list[dict[str, Any]], found: Any, names: list[str], most: int = 50) -> None:
    table = Table("file", "label", "probability")
    for row in rows[:most]:
        table.add_row(
            *(Text(visible(cell)) for cell in (row["file"], row["label"], f"{row['probability']:.3f}"))
        )
    console.print(table)
    if len(rows) > most:
        say(f"... and {len(rows) - most:,} more: --json has all")
    if found is None:
        return
    say(
        f"accuracy {found.accuracy:.3f} of {found.images:,} images (chance {found.chance:.3f}, always the "
        f"commonest label {found.majority:.3f}); {found.unknown:,} have another label or none"
    )
    confusion = Table("true \\ said", *(escape(visible(name)) for name in names))
    for name in names:
        confusion.add_row(Text(visible(name)), *(str(found.confusion[name][said]) for said in names))
    console.print(confusion)
