"""`capfilt index`, `capfilt search` and `capfilt classify`: parse, call, print."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from capfilt.data_contracts.errors import UsageError
from capfilt.pipeline.commands.shared import Device, Json, RunFolder, console, say, warn
from capfilt.pipeline.ledger.ledger import Ledger
from capfilt.pipeline.reports.visible import visible

if TYPE_CHECKING:
    from capfilt.models.open import Filter

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
    from capfilt.pipeline.search import vectors

    ledger = Ledger(run)
    where = vectors.model_of(ledger, model)
    facts = vectors.build(ledger, stage, _open(ledger, where, device), where, threads=os.cpu_count() or 1)
    if as_json:
        print(facts.model_dump_json(indent=2))
        return
    said = f"{facts.images:,} images and {facts.texts:,} texts of {stage}, by {where}"
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
    from capfilt.pipeline.search import find, gallery, vectors

    if (text is None) == (image is None):
        raise UsageError(what="one of --text and --image is needed", remedy='such as --text "a red dog"')
    ledger = Ledger(run)
    opened = vectors.open_index(ledger, stage, of or ("images" if image is None else "texts"))
    where = vectors.model_behind(ledger, opened.facts, model)
    embedder = _open(ledger, where, device)
    if image is not None:
        query = find.see_picture(embedder, image)
    else:
        query, cut = find.read_text(embedder, text or "")
        if cut:
            warn("the text is longer than the model reads: its end was cut")
    if vectors.state_of(ledger, stage) != opened.facts.state:
        warn(f"{stage} has changed since it was indexed: capfilt index {run} --stage {stage}")
    hits = find.find(opened, query, count)
    if html is not None:
        what = f"{text!r}" if image is None else image.name
        said = f"{len(hits)} of {opened.index.ntotal:,} {of or ('images' if image is None else 'texts')} of {stage}"
        rows = [{**hit, "figure": f"{hit['similarity']:.3f}"} for hit in hits]
        asked = gallery.thumbnail(image.read_bytes()) if image is not None else ""
        shown = gallery.thumbnails(ledger, [hit["row_id"] for hit in hits])
        gallery.write(html, f"nearest to {what}", said, rows, shown, asked)
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
    from capfilt.pipeline.ad_hoc import images
    from capfilt.pipeline.search import classify as zero_shot
    from capfilt.pipeline.search import gallery, labelled

    names = [label.strip() for label in labels.split(",")]
    templates = template or [zero_shot.TEMPLATE]
    ledger = None
    if len(what) == 1 and not Path(what[0]).is_file() and Ledger(what[0]).exists:
        ledger = Ledger(what[0])
    failed = False
    if ledger is not None:
        pictures, embedder = labelled.of_run(ledger, stage, model, lambda where: _open(ledger, where, device))
    else:
        if model is None:
            raise UsageError(
                what="images from files need a model",
                evidence=f"{what[0]} is no run",
                remedy="give --model with a directory, a hub id or a run",
            )
        inference = images.inference_for(model)
        embedder = _open_filter(images.model_of(model, "filter"), device, inference)
        pictures, unreadable = labelled.of_files(what, embedder)
        for one in unreadable:
            failed = True
            warn(f"{one.file}: {one.reason}")
    read = zero_shot.prompts(embedder, names, templates)
    odds = zero_shot.probabilities(pictures.vectors, read, embedder.temperature)
    best = odds.argmax(1)
    rows: list[dict[str, Any]] = [
        {
            "file": name,
            "row_id": row,
            "label": names[at],
            "probability": float(own[at]),
            "scores": dict(zip(names, own.tolist(), strict=True)),
        }
        for name, row, at, own in zip(pictures.names, pictures.rows, best.tolist(), odds, strict=True)
    ]
    found = None
    if evaluate is not None:
        truth = labelled.truth(ledger, stage, pictures, evaluate, table)
        found = zero_shot.evaluate({row["row_id"]: row["label"] for row in rows}, truth, names)
    if html is not None:
        shown = (
            gallery.thumbnails(ledger, [row["row_id"] for row in rows]) if ledger else pictures.thumbnails()
        )
        cards = [
            {
                "figure": f"{row['probability']:.2f}",
                "text": row["label"],
                "url": row["file"],
                "row_id": row["row_id"],
            }
            for row in rows
        ]
        gallery.write(html, f"labels: {', '.join(names)}", f"{len(rows):,} images", cards, shown)
    if as_json:
        print(json.dumps({"pictures": rows, "evaluation": found and found._asdict()}, indent=2))
    else:
        _show(rows, found, names)
    if failed:
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
        f"accuracy {found.accuracy:.3f} of {found.pictures:,} images (chance {found.chance:.3f}, always the "
        f"commonest label {found.majority:.3f}); {found.unknown:,} have another label or none"
    )
    confusion = Table("true \\ said", *(escape(visible(name)) for name in names))
    for name in names:
        confusion.add_row(Text(visible(name)), *(str(found.confusion[name][said]) for said in names))
    console.print(confusion)


def _open(ledger: Ledger, where: str, device: str) -> "Filter":
    from capfilt.pipeline.ad_hoc import images

    return _open_filter(where, device, images.inference_for(str(ledger.storage)))


def _open_filter(where: str, device: str, inference: Any) -> "Filter":
    from capfilt.models.open import open_filter
    from capfilt.stages.dedup.embed import TOGETHER

    return open_filter(where, device, TOGETHER, inference)
