"""Search a run's images and texts, and label images without training: `capfilt index`, `search` and `classify`."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from capfilt.data_contracts.errors import UsageError
from capfilt.models import open as checkpoints
from capfilt.models.protocols import Inference
from capfilt.pipeline.ad_hoc import images
from capfilt.pipeline.ad_hoc.images import Unreadable
from capfilt.pipeline.ledger.ledger import Ledger
from capfilt.pipeline.search import build_index, find, gallery, labelled, models
from capfilt.pipeline.search import classify as zero_shot
from capfilt.pipeline.search.classify import Evaluation
from capfilt.pipeline.search.index import IndexFacts, Of, open_index, state_of
from capfilt.stages.dedup.embed import TOGETHER

if TYPE_CHECKING:
    from capfilt.models.open import Filter

STAGE = "export"


def index(ledger: Ledger, stage: str = STAGE, *, model: str | None = None, device: str = "cpu") -> IndexFacts:
    """Index a stage's images and texts for search; made again, it replaces the index before it.

    ``model``: a model directory, a hub id or a run; by default the run's own.

    Raises:
        SourceError: the run has no such stage, or the stage has no images and texts.
        UsageError: faiss is not installed.
    """
    where = models.model_of(ledger, model)
    return build_index.build(ledger, stage, _open(ledger, where, device), where, threads=os.cpu_count() or 1)


@dataclass(frozen=True)
class Found:
    """The nearest images or texts, best first: each has `similarity`, `image_id`, `row_id`, `url`, a text its `text`.

    ``searched`` is how many there are. ``cut``: the text asked for is longer than the model reads. ``stale``: the
    stage has changed since it was indexed.
    """

    hits: list[dict[str, Any]]
    of: Of
    searched: int
    cut: bool
    stale: bool


def search(
    ledger: Ledger,
    text: str | None = None,
    image: str | Path | None = None,
    *,
    of: Of | None = None,
    count: int = 10,
    stage: str = STAGE,
    model: str | None = None,
    device: str = "cpu",
) -> Found:
    """Search an indexed stage by a text or by an image file; without ``of``, images for a text, texts for an image.

    Raises:
        UsageError: not one of ``text`` and ``image``, no index, or one that another model made.
    """
    if (text is None) == (image is None):
        raise UsageError(what="one of --text and --image is needed", remedy='such as --text "a red dog"')
    wanted: Of = of or ("images" if image is None else "texts")
    opened = open_index(ledger, stage, wanted)
    embedder = _open(ledger, models.model_behind(ledger, opened.facts, model), device)
    cut = False
    if image is not None:
        query = find.embed_image_file(embedder, Path(image))
    else:
        query, cut = find.read_text(embedder, text or "")
    stale = state_of(ledger, stage) != opened.facts.state
    return Found(find.find(opened, query, count), wanted, opened.index.ntotal, cut, stale)


def write_page(ledger: Ledger, path: Path, found: Found, stage: str, asked: str | Path) -> None:
    """What was found as a page with thumbnails; ``asked`` is the text, or the path of the image."""
    asked_image = asked if isinstance(asked, Path) else None
    gallery.write(
        path,
        f"nearest to {asked_image.name if asked_image else repr(asked)}",
        f"{len(found.hits)} of {found.searched:,} {found.of} of {stage}",
        [{**hit, "figure": f"{hit['similarity']:.3f}"} for hit in found.hits],
        gallery.thumbnails(ledger, [hit["row_id"] for hit in found.hits]),
        gallery.thumbnail(asked_image.read_bytes()) if asked_image else "",
    )


@dataclass(frozen=True)
class Labelled:
    """Every image with its label: `file`, `row_id`, `label`, `probability`, and `scores` by label.

    ``evaluation`` compares them with a column of true labels, if one was named; ``unreadable`` are files that are no
    images; ``thumbnails`` are small images as data urls, by `row_id`, if they were asked for.
    """

    images: list[dict[str, Any]]
    evaluation: Evaluation | None
    unreadable: list[Unreadable]
    thumbnails: dict[str, str]


def classify(
    what: Sequence[str],
    labels: Sequence[str],
    *,
    templates: Sequence[str] = (zero_shot.TEMPLATE,),
    evaluate: str | None = None,
    table: Path | None = None,
    stage: str = STAGE,
    model: str | None = None,
    device: str = "cpu",
    thumbnails: bool = False,
) -> Labelled:
    """Which of some labels each image shows: of an indexed stage of a run, or of files and folders.

    ``evaluate`` names a column of true labels: of the CSV ``table``, else of the stage or its `extra`.

    Raises:
        UsageError: fewer than two labels, no model for files, no image, or no such column.
    """
    ledger = None
    if len(what) == 1 and not Path(what[0]).is_file() and Ledger(what[0]).exists:
        ledger = Ledger(what[0])
    unreadable: list[Unreadable] = []
    if ledger is not None:
        run = ledger
        labelled_images, embedder = labelled.of_run(
            run, stage, model, lambda where: _open(run, where, device)
        )
    else:
        if model is None:
            raise UsageError(
                what="images from files need a model",
                evidence=f"{what[0]} is no run",
                remedy="give --model with a directory, a hub id or a run",
            )
        embedder = _open_filter(images.model_of(model, "filter"), device, images.inference_for(model))
        labelled_images, unreadable = labelled.of_files(what, embedder)
    read = zero_shot.prompts(embedder, labels, templates)
    odds = zero_shot.probabilities(labelled_images.vectors, read, embedder.temperature)
    rows: list[dict[str, Any]] = [
        {
            "file": name,
            "row_id": row,
            "label": labels[at],
            "probability": float(own[at]),
            "scores": dict(zip(labels, own.tolist(), strict=True)),
        }
        for name, row, at, own in zip(
            labelled_images.names, labelled_images.rows, odds.argmax(1).tolist(), odds, strict=True
        )
    ]
    found = None
    if evaluate is not None:
        truth = labelled.truth(ledger, stage, labelled_images, evaluate, table)
        found = zero_shot.evaluate({row["row_id"]: row["label"] for row in rows}, truth, labels)
    small: dict[str, str] = {}
    if thumbnails:
        ids = [row["row_id"] for row in rows]
        small = gallery.thumbnails(ledger, ids) if ledger else labelled_images.thumbnails()
    return Labelled(rows, found, unreadable, small)


def write_labels(path: Path, labels: Sequence[str], found: Labelled) -> None:
    """The labels as a page with thumbnails, which have to have been asked for."""
    cards = [
        {
            "figure": f"{row['probability']:.2f}",
            "text": row["label"],
            "url": row["file"],
            "row_id": row["row_id"],
        }
        for row in found.images
    ]
    title, said = f"labels: {', '.join(labels)}", f"{len(found.images):,} images"
    gallery.write(path, title, said, cards, found.thumbnails)


def _open(ledger: Ledger, where: str, device: str) -> "Filter":
    return _open_filter(where, device, images.inference_for(str(ledger.storage)))


def _open_filter(where: str, device: str, inference: Inference) -> "Filter":
    return checkpoints.open_filter(where, device, TOGETHER, inference)
