"""Hits as one HTML file with thumbnails, which needs nothing else. What the web wrote is shown, never run."""

import base64
import io
from collections.abc import Mapping, Sequence
from importlib.resources import files as resources
from pathlib import Path
from typing import Any

import jinja2

from capfilt.pipeline.ledger.ledger import Ledger
from capfilt.pipeline.reports.query import query
from capfilt.pipeline.reports.visible import visible
from capfilt.pipeline.search.index import image_files

SIDE = 160


def thumbnails(ledger: Ledger, rows: Sequence[str]) -> dict[str, str]:
    """A thumbnail of each row as a data url; those that cannot be shown are left out."""
    found = query(
        "SELECT row_id, image FROM files WHERE list_contains(?, row_id)", image_files(ledger), list(set(rows))
    )
    made = {row["row_id"]: thumbnail(row["image"]) for row in found}
    return {row: url for row, url in made.items() if url}


def thumbnail(data: bytes) -> str:
    """A JPEG of at most SIDE pixels as a data url; empty when the bytes are no image."""
    from capfilt.models.images.decode import UndecodableImage, decode

    try:
        image = decode(data)
    except UndecodableImage:
        return ""
    image.thumbnail((SIDE, SIDE))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def write(
    path: Path,
    title: str,
    said: str,
    hits: Sequence[Mapping[str, Any]],
    shown: Mapping[str, str],
    query: str = "",
) -> None:
    """A page of hits: each has `figure`, `text`, `url` and `row_id`, by which ``shown`` has its thumbnail."""
    template = resources("capfilt.pipeline.reports").joinpath("templates/gallery.html.j2").read_text("utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    rows = [
        {
            "figure": hit["figure"],
            "text": visible(hit.get("text") or ""),
            "from_": visible(hit.get("url") or ""),
            "thumbnail": shown.get(hit.get("row_id", ""), ""),
        }
        for hit in hits
    ]
    page = environment.from_string(template).render(
        title=visible(title), said=visible(said), hits=rows, query=query
    )
    path.write_text(page, "utf-8")
