"""Which pictures of a shard go on: after deduplication only those that it kept, otherwise all."""

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from capfilt.data_contracts.records import Picture, Unique
from capfilt.stages.stage import ShardInput


def unique_rows(shard: ShardInput) -> list[str]:
    """The row_ids of the pictures that go on, in the shard's order."""
    rows = shard.table(Picture, ["row_id"])["row_id"]
    if shard.has(Unique):
        rows = rows.filter(pc.is_in(rows, _kept(shard)))
    found: list[str] = rows.to_pylist()
    return found


def unique_pictures(shard: ShardInput, rows: int) -> Iterator[pa.RecordBatch]:
    """Batches of at most ``rows`` pictures that go on; those that left are not decoded."""
    kept = _kept(shard) if shard.has(Unique) else None
    for batch in shard.stream(Picture, rows):
        going = batch if kept is None else batch.filter(pc.is_in(batch["row_id"], kept))
        if going.num_rows:
            yield going


def gathered_texts(shard: ShardInput) -> dict[str, list[str]]:
    """What the duplicates of each picture said beside its own texts, where they were gathered."""
    if not shard.has(Unique):
        return {}
    found = shard.table(Unique, ["row_id", "texts"]).to_pylist()
    return {row["row_id"]: row["texts"] for row in found if row["texts"]}


def _kept(shard: ShardInput) -> pa.Array:
    return shard.table(Unique, ["row_id"])["row_id"].combine_chunks()
