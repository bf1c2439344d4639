"""What a source lists, in memory."""

import tempfile
from pathlib import Path
from typing import Any

from capfilt.stages.ingest.list_source import KINDS
from capfilt.stages.ingest.sources.entries import Notes
from capfilt.stages.ingest.sources.join import joined
from capfilt.stages.ingest.sources.source import SourceSpec


def listed(spec: SourceSpec) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    """The rows that a source comes to, a url each, and the notes."""
    kind, notes = KINDS[spec.format], Notes()
    with tempfile.TemporaryDirectory() as scratch:
        entries = kind.entries(spec, notes)
        tables = list(joined(spec.name, entries, Path(scratch), 1, by_id=kind.fetched))
    return [row for table in tables for row in table.to_pylist()], notes.lines()


def texts(spec: SourceSpec) -> dict[str, list[str]]:
    return {row["url"]: row["texts"] for row in listed(spec)[0]}


def read_all(spec: SourceSpec) -> dict[str, bytes]:
    """The bytes of everything that can be read."""
    reader = KINDS[spec.format].reader
    assert reader is not None
    read = reader(spec)
    return {row["url"]: read(row["place"]) for row in listed(spec)[0] if row["problem"] is None}
