"""Parquet files with an image column: bytes, or the struct of bytes and path that `datasets` writes."""

import glob
import hashlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_contracts.errors import SourceError
from stages.sources.source import (
    IMAGE_COLUMNS,
    TEXT_COLUMNS,
    URL_COLUMNS,
    Listed,
    Listing,
    SourceSpec,
    choose,
    clean_texts,
)


def files(spec: SourceSpec) -> list[Path]:
    """The files of the source: a file, a glob, or every .parquet below a folder; sorted.

    Raises:
        SourceError: when there are none.
    """
    path = Path(spec.path)
    pattern = glob.escape(spec.path) if path.exists() else spec.path
    if path.is_dir():
        pattern += "/**/*.parquet"
    found = sorted(Path(path) for path in glob.glob(pattern, recursive=True))
    if not found:
        raise SourceError(
            what=f"source {spec.name}: no Parquet file",
            evidence=f"nothing matches {pattern}",
            remedy="give a file, a folder or a glob; paths are relative to the recipe's own folder",
        )
    return found


def _open(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise SourceError(
            what=f"{path} is not a Parquet file that can be read",
            evidence=str(error).splitlines()[0],
            remedy="leave it out of the source, or write it again",
        ) from error


def digest(spec: SourceSpec) -> str:
    """sha256 over each file's name, size and footer (schema, offsets, statistics), hex."""
    seen = hashlib.sha256()
    for path in files(spec):
        footer = _open(path).metadata.serialized_size + 8  # its length and the closing magic follow it
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(size - footer)
            seen.update(f"{path.name}\x1f{size}\x1e".encode() + file.read())
    return seen.hexdigest()


def listing(spec: SourceSpec) -> Listing:
    """Every url with all its texts; a url is read from the first row that names it."""
    found: dict[str, Listed] = {}
    nameless = repeated = 0
    for number, path in enumerate(files(spec)):
        file = _open(path)
        names = file.schema_arrow.names
        text_column = choose(spec.text_column, TEXT_COLUMNS, names, str(path), "text_column")
        image_column = choose(spec.image_column, IMAGE_COLUMNS, names, str(path), "image_column")
        url_column = _url_column(spec, file.schema_arrow, image_column, str(path))
        for group in range(file.num_row_groups):
            size = file.metadata.row_group(group)
            average = size.total_byte_size // max(size.num_rows, 1)
            rows = file.read_row_group(group, columns=[text_column, url_column])
            urls = _flat(rows, url_column)
            for row, (url, text) in enumerate(zip(urls, rows[text_column].to_pylist(), strict=True)):
                if not url:
                    nameless += 1
                    continue
                texts = clean_texts(text if isinstance(text, list) else [text])
                if url in found:
                    repeated += 1
                    found[url].texts.extend(t for t in texts if t not in found[url].texts)
                else:
                    found[url] = Listed(url, texts, f"{number}:{group}:{row}", average, group=f"{number}")
    notes = []
    if nameless:
        notes.append(f"{nameless} rows of source {spec.name} have no {spec.url_column or 'url'}: left out")
    if repeated:
        notes.append(f"{repeated} rows of source {spec.name} repeat a url: their texts join the first")
    return Listing(list(found.values()), tuple(notes))


def _url_column(spec: SourceSpec, schema: pa.Schema, image_column: str, what: str) -> str:
    """The column to name rows by; the path inside an image struct when there is no other."""
    image = schema.field(image_column).type
    others = [name for name in schema.names if name != image_column]
    if not spec.url_column and pa.types.is_struct(image) and image.get_field_index("path") >= 0:
        lower = {name.lower() for name in others}
        if lower.isdisjoint(URL_COLUMNS):
            return f"{image_column}.path"
    return choose(spec.url_column, URL_COLUMNS, others, what, "url_column")


def _flat(rows: pa.Table, column: str) -> Iterable[str | None]:
    if column in rows.column_names:
        return (None if value is None else str(value) for value in rows[column].to_pylist())
    outer, inner = column.split(".", 1)
    return ((value or {}).get(inner) for value in rows[outer].to_pylist())


def reader(spec: SourceSpec) -> Callable[[str], bytes]:
    """The function that reads a place's bytes; it keeps the last row group, since places come in order."""
    paths = files(spec)
    held: tuple[str, pa.ChunkedArray] | None = None

    def read(place: str) -> bytes:
        nonlocal held
        number, group, row = map(int, place.split(":"))
        key = f"{number}:{group}"
        if held is None or held[0] != key:
            file = _open(paths[number])
            column = choose(
                spec.image_column, IMAGE_COLUMNS, file.schema_arrow.names, str(paths[number]), "image_column"
            )
            held = (key, file.read_row_group(group, columns=[column])[column])
        value: Any = held[1][row].as_py()
        return (value.get("bytes") if isinstance(value, dict) else value) or b""

    return read
