"""What img2dataset wrote: files, webdataset or parquet, with a table of every row's status beside each shard."""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from capfilt.data_contracts.errors import SourceError
from capfilt.data_contracts.rejects import Reason
from capfilt.stages.ingest.sources import parquet, webdataset
from capfilt.stages.ingest.sources.digest import digest_of_files
from capfilt.stages.ingest.sources.entries import BATCH, Listed, Notes, batched, extra_of
from capfilt.stages.ingest.sources.source import IMAGE_ENDINGS, SourceSpec, choose, clean_texts, root

SHARD = re.compile(r"\d+\.parquet")
NEEDED = ("key", "url", "status")


def _shards(spec: SourceSpec) -> list[Path]:
    """The tables of the shards, in order."""
    folder = Path(spec.path)
    found = sorted(p for p in folder.glob("*.parquet") if SHARD.fullmatch(p.name)) if folder.is_dir() else []
    if not found:
        raise SourceError(
            what=f"source {spec.name}: no output of img2dataset",
            evidence=f"{folder} holds no table such as 00000.parquet",
            remedy="give the output_folder; tfrecord is not read, and tars alone are `format: webdataset`",
        )
    return found


def digest(spec: SourceSpec) -> str:
    """sha256 over each table's name, size and footer, with a sample of each tar; hex.

    Of the layout of files the tables stand for the images.
    """
    tables = {path.name: path for path in _shards(spec)}
    tars = {tar.name: tar for path in tables.values() if (tar := path.with_suffix(".tar")).is_file()}
    return parquet.digest_of_footers(tables)[:32] + digest_of_files(tars)[:32]


def entries(spec: SourceSpec, notes: Notes) -> Iterator[pa.RecordBatch]:
    """Every row of every shard; those that img2dataset failed to fetch with the reason."""
    return batched(row for path in _shards(spec) for row in _rows(spec, path, notes))


def _rows(spec: SourceSpec, path: Path, notes: Notes) -> Iterator[Listed]:
    with parquet.opened(path) as file:
        names = file.schema_arrow.names
        if missing := [name for name in NEEDED if name not in names]:
            raise SourceError(
                what=f"{path} is no table of img2dataset",
                evidence=f"it has no column {missing[0]}; its columns: {', '.join(names)}",
                remedy="leave `format` out, or say `parquet`",
            )
        for column in spec.keep_columns:
            choose(column, (), names, str(path), "keep_columns")
        text = spec.text_column or ("caption" if "caption" in names else "")
        error = "error_message" if "error_message" in names else "status"
        columns = list(dict.fromkeys([*NEEDED, error, *([text] if text else []), *spec.keep_columns]))
        locate = _locator(path, file, notes)
        for group in range(file.num_row_groups):
            row = 0
            for batch in file.iter_batches(BATCH, row_groups=[group], columns=columns):
                for values in batch.to_pylist():
                    place, size = locate(str(values["key"]), group, row)
                    yield _listed(spec, values, text, error, Listed("", [], place, size, path.stem))
                    row += 1


def _listed(spec: SourceSpec, values: Mapping[str, Any], text: str, error: str, found: Listed) -> Listed:
    """A row of a table, whose image was found at a place, if anywhere."""
    listed = found._replace(
        url=str(values["url"]),
        texts=clean_texts([values.get(text)]),
        extra=extra_of(values, spec.keep_columns),
    )
    if values["status"] != "success":
        says = f"{values['status']}: {values[error]}"
        return listed._replace(size=0, problem=f"img2dataset: {says[:500]}", reason=_reason(says))
    return listed if found.place else listed._replace(problem="img2dataset says success, but it is not there")


Locate = Callable[[str, int, int], tuple[str, int]]


def _locator(path: Path, table: pq.ParquetFile, notes: Notes) -> Locate:
    """How a row's image is found, as place and size: in the table itself, in the tar, in the folder beside it."""
    tar, folder = path.with_suffix(".tar"), path.with_suffix("")
    if not IMAGE_ENDINGS.isdisjoint(f".{name}" for name in table.schema_arrow.names):
        average = path.stat().st_size // max(table.metadata.num_rows, 1)
        return lambda key, group, row: (f"{path.name}:{group}:{row}", average)
    found: dict[str, tuple[str, int]] = {}
    if tar.is_file():
        length = tar.stat().st_size
        for member in webdataset.members(tar, notes):
            if member.ending in IMAGE_ENDINGS and member.offset + member.size <= length:
                found[member.key] = f"{tar.name}:{member.offset}:{member.size}", member.size
    elif folder.is_dir():
        with os.scandir(folder) as entries:
            for entry in entries:
                key, ending = os.path.splitext(entry.name)
                if ending.lower() in IMAGE_ENDINGS and entry.is_file():
                    found[key] = f"{folder.name}/{entry.name}", entry.stat().st_size
    return lambda key, group, row: found.get(key, ("", 0))


def _reason(says: str) -> Reason:
    """The reason that img2dataset's message amounts to."""
    if match := re.search(r"HTTP Error (\d{3})", says):
        return Reason.of_status(int(match[1]))
    for words, reason in (
        ("failed_to_resize", Reason.UNREADABLE),
        ("timed out", Reason.TIMEOUT),
        ("Name or service not known", Reason.DNS),
        ("name resolution", Reason.DNS),
        ("X-Robots-Tag", Reason.OPT_OUT),
        ("urlopen error", Reason.CONNECT),
    ):
        if words in says:
            return reason
    return Reason.MISSING


def reader(spec: SourceSpec) -> Callable[[str], bytes]:
    """The function that reads a place's bytes, as the layout of its shard has it."""
    in_table, in_tar = parquet.reader(spec), webdataset.reader(spec)

    def read(place: str) -> bytes:
        holder = place.partition(":")[0]
        if holder.endswith(".parquet"):
            return in_table(place)
        return in_tar(place) if holder.endswith(".tar") else (root(spec) / place).read_bytes()

    return read
