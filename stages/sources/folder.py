"""A folder of images with a caption table: one row a text, so a file may have several rows."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv

from data_contracts.errors import SourceError
from stages.sources.source import FILE_COLUMNS, TEXT_COLUMNS, Listed, Listing, SourceSpec, choose, clean_texts

TABLES = ("captions.csv", "captions.tsv", "captions.jsonl")
IMAGE_ENDINGS = frozenset([".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif"])


def caption_table(spec: SourceSpec) -> Path:
    """Where the caption table lies: the recipe's `captions`, or one of the usual names in the folder.

    Raises:
        SourceError: when the folder or the table is not there.
    """
    folder = Path(spec.path)
    if not folder.is_dir():
        raise SourceError(
            what=f"source {spec.name}: no such folder",
            evidence=str(folder),
            remedy="paths in a recipe are relative to the recipe's own folder",
        )
    tables = [Path(spec.captions)] if spec.captions else [folder / name for name in TABLES]
    for table in tables:
        if table.is_file():
            return table
    raise SourceError(
        what=f"source {spec.name}: an image folder needs a caption table",
        evidence=f"looked for {', '.join(map(str, tables))}",
        remedy="write a CSV with the columns file,text (several rows a file are fine), name it in `captions`",
    )


def digest(spec: SourceSpec) -> str:
    """sha256 over the caption table's bytes and the names and sizes of the folder's files, hex."""
    seen = hashlib.sha256(caption_table(spec).read_bytes())
    for name, size in sorted(_files(Path(spec.path))):
        seen.update(f"{name}\x1f{size}\x1e".encode("utf-8", "surrogateescape"))
    return seen.hexdigest()


def listing(spec: SourceSpec) -> Listing:
    """Every file that the table names, with all its texts, in the order of the names."""
    table = caption_table(spec)
    rows, notes = _read_table(table)
    file_column = choose(spec.file_column, FILE_COLUMNS, rows, str(table), "file_column")
    text_column = choose(spec.text_column, TEXT_COLUMNS, rows, str(table), "text_column")
    texts: dict[str, list[str | None]] = {}
    for file, text in zip(rows[file_column], rows[text_column], strict=True):
        name = "" if file is None else str(file)
        texts.setdefault(name, []).extend(text if isinstance(text, list) else [text])
    sizes = dict(_files(Path(spec.path)))
    unlisted = sum(Path(name).suffix.lower() in IMAGE_ENDINGS for name in sizes.keys() - texts.keys())
    if unlisted:
        notes.append(f"{unlisted} images in {spec.path} are not in {table.name} and are left out")
    places = [
        Listed(name, clean_texts(texts[name]), name, sizes.get(name, 0), _problem(name, sizes))
        for name in sorted(texts)
    ]
    return Listing(places, tuple(notes))


def _problem(name: str, sizes: dict[str, int]) -> str:
    if name in sizes:
        return ""
    if name.startswith("/") or ".." in Path(name).parts:
        return "the caption table names a file outside the folder"
    return "the caption table names a file that is not there"


def reader(spec: SourceSpec) -> Callable[[str], bytes]:
    """The function that reads a place's bytes."""
    folder = Path(spec.path)
    return lambda place: (folder / place).read_bytes()


def _files(folder: Path) -> Iterator[tuple[str, int]]:
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


def _read_table(path: Path) -> tuple[dict[str, list[Any]], list[str]]:
    """The columns by name, and what had to be left out."""
    if path.suffix == ".jsonl":
        return _read_json_lines(path), []
    notes: list[str] = []
    bad: list[int] = []

    def skip(row: pacsv.InvalidRow) -> str:
        bad.append(row.number or 0)
        return "skip"

    try:
        with path.open("rb") as file:
            header = file.readline().decode("utf-8-sig").strip()
        delimiter = "\t" if path.suffix == ".tsv" else ","
        names = [name.strip().strip('"') for name in header.split(delimiter)]
        table = pacsv.read_csv(
            path,
            parse_options=pacsv.ParseOptions(
                delimiter=delimiter, newlines_in_values=True, invalid_row_handler=skip
            ),
            convert_options=pacsv.ConvertOptions(column_types=dict.fromkeys(names, pa.string())),
        )
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise _unreadable(path, error) from error
    if bad:
        notes.append(f"{len(bad)} rows of {path.name} have the wrong number of columns and are left out")
    return table.to_pydict(), notes


def _read_json_lines(path: Path) -> dict[str, list[Any]]:
    """Not every line needs every key; a text may be a list of texts."""
    try:
        rows = [json.loads(line) for line in path.read_text("utf-8").split("\n") if line.strip()]
    except ValueError as error:
        raise _unreadable(path, error) from error
    for row in rows:
        if not isinstance(row, dict):
            raise _unreadable(path, TypeError(f"a line is no object: {json.dumps(row)[:80]}"))
    return {
        name: [row.get(name) for row in rows] for name in dict.fromkeys(key for row in rows for key in row)
    }


def _unreadable(path: Path, error: Exception) -> SourceError:
    return SourceError(
        what=f"the caption table {path} cannot be read",
        evidence=str(error).splitlines()[0],
        remedy="it must be UTF-8: CSV or TSV with a header, or JSON lines",
    )
