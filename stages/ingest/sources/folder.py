"""A folder of images with a caption table: one row a text, so a file may have several rows."""

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa

from capfilt.data_contracts.errors import SourceError
from capfilt.data_contracts.fingerprint import digest_of_contents
from capfilt.stages.ingest.sources import tables
from capfilt.stages.ingest.sources.entries import Listed, Notes, batched, extra_of
from capfilt.stages.ingest.sources.source import (
    FILE_COLUMNS,
    IMAGE_ENDINGS,
    TEXT_COLUMNS,
    SourceSpec,
    choose,
    clean_texts,
)

TABLES = ("captions.csv", "captions.tsv", "captions.jsonl")


def caption_table(spec: SourceSpec) -> Path:
    """Where the caption table lies: the recipe's `captions`, or one of the usual names in the folder.

    Raises:
        SourceError: when the folder or the table is not there.
    """
    folder = existing(spec)
    found = [Path(spec.captions)] if spec.captions else [folder / name for name in TABLES]
    for table in found:
        if table.is_file() and tables.ending(table) in tables.READERS:
            return table
    raise SourceError(
        what=f"source {spec.name}: an image folder needs a caption table",
        evidence=f"looked for {', '.join(map(str, found))}",
        remedy="write a CSV with the columns file,text (several rows a file are fine), name it in `captions`",
    )


def existing(spec: SourceSpec) -> Path:
    """The source's folder. Raises :class:`SourceError` when it is none."""
    folder = Path(spec.path)
    if folder.is_dir():
        return folder
    raise SourceError(
        what=f"source {spec.name}: no such folder",
        evidence=str(folder),
        remedy="paths in a recipe are relative to the recipe's own folder",
    )


def digest(spec: SourceSpec) -> str:
    """sha256 over the caption table's bytes and the names and sizes of the folder's files, hex."""
    return digest_of(caption_table(spec), Path(spec.path))


def digest_of(table: Path, folder: Path) -> str:
    """sha256 over a table's bytes and the names and sizes of a folder's files, hex."""
    with table.open("rb") as file:
        own = hashlib.file_digest(file, "sha256").hexdigest()
    return digest_of_contents([("", own), *sorted(files_below(folder))])


def entries(spec: SourceSpec, notes: Notes) -> Iterator[pa.RecordBatch]:
    """Every row of the table. Only the names of the folder's files are held in memory."""
    return batched(_rows(spec, notes))


def _rows(spec: SourceSpec, notes: Notes) -> Iterator[Listed]:
    table = caption_table(spec)
    sizes = dict(files_below(Path(spec.path)))
    unnamed = {name for name in sizes if Path(name).suffix.lower() in IMAGE_ENDINGS}
    file_column = text_column = ""
    for block in tables.blocks(table, notes):
        if not file_column:
            file_column = choose(spec.file_column, FILE_COLUMNS, block.columns, str(table), "file_column")
            text_column = choose(spec.text_column, TEXT_COLUMNS, block.columns, str(table), "text_column")
        absent = [None] * len(block.lines)
        kept = zip(*(block.columns.get(name, absent) for name in spec.keep_columns), strict=True)
        extras = list(kept) or [()] * len(block.lines)
        files, texts = block.columns.get(file_column, absent), block.columns.get(text_column, absent)
        for file, text, extra in zip(files, texts, extras, strict=True):
            name = "" if file is None else str(file)
            unnamed.discard(name)
            own = clean_texts(text if isinstance(text, list) else [text])
            values = dict(zip(spec.keep_columns, extra, strict=True))
            yield Listed(
                *(name, own, name, sizes.get(name, 0)),
                problem=problem_of(name, sizes),
                extra=extra_of(values, spec.keep_columns),
            )
    if unnamed:
        notes.add(f"images in {spec.path} are not in {table.name} and are left out", count=len(unnamed))


def problem_of(name: str, sizes: dict[str, int]) -> str | None:
    """What is wrong with a table's file name; null when nothing is."""
    if name in sizes:
        return None
    if name.startswith("/") or ".." in Path(name).parts:
        return "the caption table names a file outside the folder"
    return "the caption table names a file that is not there"


def reader(spec: SourceSpec) -> Callable[[str], bytes]:
    """The function that reads a place's bytes."""
    folder = Path(spec.path)
    return lambda place: (folder / place).read_bytes()


def files_below(folder: Path) -> Iterator[tuple[str, int]]:
    """Relative path and size in bytes of every file below the folder."""
    pending = [("", frozenset([_node(folder.stat())]))]
    while pending:
        below, above = pending.pop()
        with os.scandir(folder / below) as entries:
            for entry in entries:
                name = f"{below}{entry.name}"
                if entry.is_dir():
                    node = _node(entry.stat())
                    if node not in above:  # a link to a folder that it lies in goes round for ever
                        pending.append((f"{name}/", above | {node}))
                elif entry.is_file():
                    yield name, entry.stat().st_size


def _node(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino
