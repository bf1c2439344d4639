"""Which images of a shard go on: after deduplication only those that it kept, otherwise all."""

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from capfilt.data_contracts.records import IngestedImage, UniqueImage
from capfilt.stages.stage import ShardInput


def unique_rows(shard: ShardInput) -> list[str]:
    """The row_ids of the images that go on, in the shard's order."""
    rows = shard.table(IngestedImage, ["row_id"])["row_id"]
    if shard.has(UniqueImage):
        rows = rows.filter(pc.is_in(rows, _kept(shard)))
    found: list[str] = rows.to_pylist()
    return found


def unique_images(shard: ShardInput, rows: int) -> Iterator[pa.RecordBatch]:
    """Batches of at most ``rows`` images that go on; those that left are not decoded."""
    kept = _kept(shard) if shard.has(UniqueImage) else None
    for batch in shard.stream(IngestedImage, rows):
        going = batch if kept is None else batch.filter(pc.is_in(batch["row_id"], kept))
        if going.num_rows:
            yield going


def gathered_texts(shard: ShardInput) -> dict[str, list[str]]:
    """What the duplicates of each image said beside its own texts, where they were gathered."""
    if not shard.has(UniqueImage):
        return {}
    found = shard.table(UniqueImage, ["row_id", "texts"]).to_pylist()
    return {row["row_id"]: row["texts"] for row in found if row["texts"]}


def _kept(shard: ShardInput) -> pa.Array:
    return shard.table(UniqueImage, ["row_id"])["row_id"].combine_chunks()
