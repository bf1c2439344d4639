"""Images to be labelled, with their vectors and with what is known of them."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from capfilt.data_contracts.errors import UsageError
from capfilt.models.protocols import Embedder
from capfilt.pipeline.ad_hoc.images import Unreadable, open_files
from capfilt.pipeline.ledger.ledger import Ledger
from capfilt.pipeline.reports.query import columns, files, query
from capfilt.pipeline.search import gallery, index, models
from capfilt.pipeline.search.classify import read_labels
from capfilt.stages.dedup.embed import TOGETHER, embed_images

if TYPE_CHECKING:
    from capfilt.models.open import Filter


@dataclass(frozen=True)
class LabelledImages:
    """A name (url or path), a row id (of files: their path) and a vector each; vectors have shape (images, dim)."""

    names: list[str]
    rows: list[str]
    vectors: NDArray[np.float32]
    paths: list[str] = field(default_factory=list)

    def thumbnails(self) -> dict[str, str]:
        return {path: gallery.thumbnail(Path(path).read_bytes()) for path in self.paths}


def of_run(
    ledger: Ledger, stage: str, model: str | None, open_model: "Callable[[str], Filter]"
) -> "tuple[LabelledImages, Filter]":
    """The images of an indexed stage, and the model that it was indexed with."""
    opened = index.open_index(ledger, stage, "images")
    where = models.model_behind(ledger, opened.facts, model)
    rows = opened.rows
    made = LabelledImages(rows["url"].to_pylist(), rows["row_id"].to_pylist(), opened.vectors())
    return made, open_model(where)


def of_files(given: Sequence[str], embedder: Embedder) -> tuple[LabelledImages, list[Unreadable]]:
    """The images in files and below folders, and what is none.

    Raises:
        UsageError: nothing is an image.
    """
    names: list[str] = []
    found: list[NDArray[np.float16]] = []
    unreadable: list[Unreadable] = []
    held: list[Any] = []

    def embed() -> None:
        if held:
            names.extend(one.file for one in held)
            found.append(embed_images(embedder, [one.image for one in held], [one.file for one in held]))
            held.clear()

    for one in open_files(given):
        if isinstance(one, Unreadable):
            unreadable.append(one)
            continue
        held.append(one)
        if len(held) == TOGETHER:
            embed()
    embed()
    if not found:
        said = "; ".join(f"{one.file}: {one.reason}" for one in unreadable[:3])
        raise UsageError(
            what="there is no image to label", evidence=said, remedy="give images, or folders of them"
        )
    return LabelledImages(names, names, np.concatenate(found).astype(np.float32), names), unreadable


def truth(
    ledger: Ledger | None, stage: str, images: LabelledImages, column: str, table: Path | None
) -> dict[str, str]:
    """The true label of each image by its row: from a table, else from the stage's column or its `extra`.

    Raises:
        UsageError: there is no such column.
    """
    if table is not None:
        known = read_labels(table, column)
        named = zip(images.names, images.rows, strict=True)
        return {row: known.get(name, known.get(Path(name).name, "")) for name, row in named}
    if ledger is None:
        raise UsageError(
            what=f"--evaluate {column} needs a table of what the images show",
            remedy=f"give --table with a CSV that has the columns file and {column}",
        )
    own = files(ledger, stage)
    names = columns(own)
    if column in names:
        rows = query(
            f'SELECT row_id, any_value("{column.replace(chr(34), chr(34) * 2)}") AS label FROM files GROUP BY 1',
            own,
        )
        labels = {row["row_id"]: str(row["label"]) for row in rows}
    else:
        extras = query(
            "SELECT row_id, any_value(extra) AS extra FROM files GROUP BY 1", index.image_files(ledger)
        )
        found = {row["row_id"]: json.loads(row["extra"]).get(column) for row in extras if row["extra"]}
        labels = {row: str(value) for row, value in found.items() if value is not None}
        if not labels:
            raise UsageError(
                what=f"{stage} has no column {column!r}",
                evidence=f"its columns: {', '.join(sorted(names))}; no row has it in `extra` either",
                remedy="name one of them, keep it with the source's keep_columns, or give --table",
            )
    return {row: labels.get(row, "") for row in images.rows}
