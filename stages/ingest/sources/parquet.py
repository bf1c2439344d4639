"""Parquet files with an image column: bytes, or the struct of bytes and path that `datasets` writes."""

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from capfilt.data_contracts.errors import SourceError
from capfilt.stages.ingest.sources.columns import extras, strings, texts
from capfilt.stages.ingest.sources.entries import BATCH, ENTRY, Notes
from capfilt.stages.ingest.sources.source import (
    IMAGE_COLUMNS,
    TEXT_COLUMNS,
    URL_COLUMNS,
    SourceSpec,
    choose,
    files,
    root,
)

ENDINGS = (".parquet",)


def opened(path: Path) -> pq.ParquetFile:
    """An open file. Raises :class:`SourceError` when it is no Parquet."""
    try:
        return pq.ParquetFile(path, pre_buffer=False)
    except (pa.ArrowException, OSError) as error:
        raise SourceError(
            what=f"{path} is not a Parquet file that can be read",
            evidence=str(error).splitlines()[0],
            remedy="leave it out of the source, or write it again",
        ) from error


def digest(spec: SourceSpec) -> str:
    """That of :func:`digest_of_footers` over the source's files."""
    return digest_of_footers(files(spec, ENDINGS))


def digest_of_footers(found: Mapping[str, Path]) -> str:
    """sha256 over each file's name, size and footer (schema, offsets, statistics), hex."""
    seen = hashlib.sha256()
    for name, path in found.items():
        with opened(path) as parquet:
            footer = parquet.metadata.serialized_size + 8  # its length and the closing magic follow it
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(size - footer)
            seen.update(f"{name}\x1f{size}\x1e".encode("utf-8", "surrogateescape") + file.read())
    return seen.hexdigest()


def entries(spec: SourceSpec, notes: Notes) -> Iterator[pa.RecordBatch]:
    """Every row with a url, in the order of the files."""
    for name, path in files(spec, ENDINGS).items():
        with opened(path) as file:
            schema = file.schema_arrow
            text = choose(spec.text_column, TEXT_COLUMNS, schema.names, str(path), "text_column")
            image = choose(spec.image_column, IMAGE_COLUMNS, schema.names, str(path), "image_column")
            url = _url_column(spec, schema, image, str(path))
            for column in spec.keep_columns:
                choose(column, (), schema.names, str(path), "keep_columns")
            for group in range(file.num_row_groups):
                about = file.metadata.row_group(group)
                average = about.total_byte_size // max(about.num_rows, 1)
                done = 0
                wanted = list(dict.fromkeys([text, url, *spec.keep_columns]))
                for batch in file.iter_batches(BATCH, row_groups=[group], columns=wanted):
                    urls = strings(_flat(batch, url))
                    rows = pc.add(pa.array(range(batch.num_rows), pa.int64()), done)
                    kept = {column: batch[column] for column in spec.keep_columns}
                    columns = {
                        "url": urls,
                        "texts": texts(batch[text]),
                        "place": pc.binary_join_element_wise(f"{name}:{group}", rows.cast(pa.string()), ":"),
                        "size": pa.repeat(average, batch.num_rows),
                        "group": pa.repeat(name, batch.num_rows),
                        "problem": pa.nulls(batch.num_rows, pa.string()),
                        "reason": pa.nulls(batch.num_rows, pa.string()),
                        "extra": extras(kept, spec.keep_columns, batch.num_rows),
                    }
                    made = pa.record_batch([columns[name] for name in ENTRY.names], schema=ENTRY)
                    named = pc.fill_null(pc.not_equal(urls, ""), False)
                    if lost := batch.num_rows - (pc.sum(named).as_py() or 0):
                        notes.add(f"rows have no {spec.url_column or 'url'} and are left out", name, lost)
                    yield made.filter(named)
                    done += batch.num_rows


def _url_column(spec: SourceSpec, schema: pa.Schema, image_column: str, what: str) -> str:
    """The column to name rows by; the path inside an image struct when there is no other."""
    image = schema.field(image_column).type
    others = [name for name in schema.names if name != image_column]
    if not spec.url_column and pa.types.is_struct(image) and image.get_field_index("path") >= 0:
        lower = {name.lower() for name in others}
        if lower.isdisjoint(URL_COLUMNS):
            return f"{image_column}.path"
    return choose(spec.url_column, URL_COLUMNS, others, what, "url_column")


def _flat(batch: pa.RecordBatch, column: str) -> pa.Array:
    if column in batch.schema.names:
        return batch[column]
    outer, inner = column.split(".", 1)
    return pc.struct_field(batch[outer], inner)


def reader(spec: SourceSpec) -> Callable[[str], bytes]:
    """The function that reads a place's bytes; it keeps the last row group, since places come in order."""
    held: tuple[str, pa.ChunkedArray] | None = None

    def read(place: str) -> bytes:
        nonlocal held
        key, row = place.rsplit(":", 1)
        if held is None or held[0] != key:
            name, group = key.rsplit(":", 1)
            path = root(spec) / name
            with opened(path) as file:
                names = file.schema_arrow.names
                column = choose(spec.image_column, IMAGE_COLUMNS, names, str(path), "image_column")
                held = (key, file.read_row_group(int(group), columns=[column])[column])
        value: Any = held[1][int(row)].as_py()
        return (value.get("bytes") if isinstance(value, dict) else value) or b""

    return read
