"""Rows of a source to occurrences: equal urls become one with all their texts, out of core and in a fixed order."""

from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from capfilt.data_contracts.errors import StorageError
from capfilt.stages.ingest.sources.entries import BATCH

MEMORY = 128  # MB a thread, and as much again; what does not fit is sorted on disk
THREADS = 4
PIECE = 122_880  # rows that DuckDB merges at once: all of them have to fit into memory
OVERHEAD = 256  # bytes of a row in DuckDB's hands, above those of its values

_ROWS = (
    "SELECT substr(sha256(concat($name, chr(31), url)), 1, 32) AS row_id, * EXCLUDE (position) FROM entries"
)
_BY_ID = f"{_ROWS} ORDER BY row_id, extra"
_SOUND_FIRST = "problem IS NOT NULL, position"
_BY_PLACE = (
    f"{_ROWS} ORDER BY first_value(position) OVER (PARTITION BY url ORDER BY {_SOUND_FIRST}), {_SOUND_FIRST}"
)


def joined(
    name: str, batches: Iterable[pa.RecordBatch], scratch: Path, threads: int, *, by_id: bool
) -> Iterator[pa.Table]:
    """Batches of ``ENTRY`` to tables with a row a url: besides its columns, `row_id` and `rows`, how many there were.

    With ``by_id`` they come in the order of their row_id with sorted texts and the first extra in sorted order, so
    that nothing depends on the order of the input. Without, urls and texts keep the order in which they were
    first seen, and everything else is that of the first row that can be used. Nothing is held whole: DuckDB sorts,
    on disk where memory does not do. How much memory it may have depends on how wide the first rows are.

    Raises:
        StorageError: when the disk for that is full, or rows grow so wide that memory does not do.
    """
    threads = min(threads, THREADS)
    failed: list[Exception] = []
    stream = _numbered(batches, failed)
    first = next(stream, None)
    if first is None:
        return
    width = OVERHEAD + first.nbytes / max(first.num_rows, 1)
    memory = MEMORY + threads * max(MEMORY, int(3 * PIECE * width / 1e6))
    reader = pa.RecordBatchReader.from_batches(first.schema, chain([first], stream))
    settings: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": f"{memory}MB",
        "threads": threads,
        "temp_directory": str(scratch / "sorting"),
        "preserve_insertion_order": False,
    }
    with duckdb.connect(config=settings) as database:
        database.register("entries", reader)
        try:
            query = database.sql(_BY_ID if by_id else _BY_PLACE, params={"name": name})
            yield from _merged(query.to_arrow_reader(BATCH), by_id=by_id)
        except (duckdb.Error, pa.ArrowException, OSError) as error:
            if failed:
                raise failed[0] from None
            raise StorageError(
                what=f"source {name} cannot be sorted",
                evidence=str(error).splitlines()[0],
                remedy=f"make room where the run's temporary files are: {scratch}; a list of very long texts "
                "first is sorted with more memory",
            ) from error


def _numbered(batches: Iterable[pa.RecordBatch], failed: list[Exception]) -> Iterator[pa.RecordBatch]:
    """With each row's position. DuckDB makes an error of its own of any other: the first is kept in ``failed``."""
    done = 0
    try:
        for batch in batches:
            numbers = pa.array(np.arange(done, done + batch.num_rows))
            yield batch.append_column("position", numbers)
            done += batch.num_rows
    except Exception as error:
        failed.append(error)
        raise


def _merged(batches: Iterable[pa.RecordBatch], *, by_id: bool) -> Iterator[pa.Table]:
    """Neighbours of the same row_id as one row; the last one waits for what follows it."""
    waiting: pa.Table | None = None
    for batch in batches:
        ones = pa.array(np.ones(batch.num_rows, np.int64))
        rows = pa.table(batch).append_column("rows", ones)
        if waiting is not None:
            rows = pa.concat_tables([waiting, rows])
        merged = _merge(rows, by_id=by_id)
        waiting = merged.slice(len(merged) - 1)
        if len(merged) > 1:
            yield merged.slice(0, len(merged) - 1)
    if waiting is not None:
        yield waiting


def _merge(rows: pa.Table, *, by_id: bool) -> pa.Table:
    ids = rows["row_id"].combine_chunks()
    first = np.ones(len(ids), bool)
    first[1:] = pc.not_equal(ids.slice(1), ids.slice(0, len(ids) - 1)).to_numpy(zero_copy_only=False)
    group = np.cumsum(first) - 1
    starts = np.flatnonzero(first)

    lists = rows["texts"].combine_chunks()
    owner = group[pc.list_parent_indices(lists).to_numpy()]
    coded = lists.flatten().dictionary_encode()
    order = pc.array_sort_indices(coded.dictionary).to_numpy()
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    pairs = owner * max(len(order), 1) + rank[coded.indices.to_numpy()]
    kept = np.unique(pairs, return_index=True)[1]  # in the order of the groups, and in them of the texts
    if not by_id:
        kept = np.sort(kept)
    offsets = np.concatenate([[0], np.cumsum(np.bincount(owner[kept], minlength=len(starts)))])
    chosen = lists.flatten().take(pa.array(kept))
    texts = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), chosen, type=lists.type)

    count = np.add.reduceat(rows["rows"].to_numpy(), starts)
    merged = rows.take(pa.array(starts))
    for column, values in (("texts", texts), ("rows", pa.array(count))):
        merged = merged.set_column(merged.schema.get_field_index(column), column, values)
    return merged
