"""What a stage reads, from the committed parts of the stages before it."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from capfilt.data_contracts.records import Record
from capfilt.pipeline.execution.heartbeat import Beat, Heartbeat
from capfilt.pipeline.execution.task import Task
from capfilt.pipeline.ledger.ledger import Ledger


class CommittedInput:
    """The committed parts that a task reads: a :class:`~capfilt.stages.stage.ShardInput` and a
    :class:`~capfilt.stages.stage.StageInput` in one.

    Poison rows are left out of what it streams, into ``quarantined``; suspects come one by one.
    """

    def __init__(self, task: Task, ledger: Ledger, beat: Beat) -> None:
        self.shard = task.shard
        self._task, self._ledger, self._beat = task, ledger, beat
        self._by_record = {upstream.record: upstream for upstream in task.upstream}
        self._buffers: dict[tuple[str, str], pa.BufferReader] = {}
        self.quarantined: list[str] = []
        self.lasts = ""

    def lasting(self) -> Path:
        self.lasts = f"{self._task.name}-{self._task.fingerprint[:12]}-{self.shard}"
        return self._ledger.storage.lasting(self.lasts)

    def progress(self, done: int, total: int, text: str, figures: Mapping[str, float] = {}) -> None:
        self._beat(Heartbeat((), done, total, text, figures))

    def _file(self, record: type[Record], shard: str, *, keep: bool) -> pq.ParquetFile:
        upstream = self._by_record[record]
        buffer = self._buffers.get((upstream.stage, shard)) or self._ledger.read(
            upstream.stage, *upstream.parts[shard]
        )
        if keep:
            self._buffers[upstream.stage, shard] = buffer
        return pq.ParquetFile(buffer)

    def has(self, record: type[Record]) -> bool:
        return record in self._by_record and bool(self._by_record[record].parts)

    def names(self, record: type[Record]) -> list[str]:
        parts = self._by_record[record].parts
        return [self.shard] if self.shard in parts else sorted(parts)

    def part(self, record: type[Record], shard: str, columns: Sequence[str] | None = None) -> pa.Table:
        return self._file(record, shard, keep=False).read(columns=columns)

    def parts(self, record: type[Record], columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        for shard in self.names(record):
            yield self.part(record, shard, columns)

    def table(self, record: type[Record], columns: Sequence[str] | None = None) -> pa.Table:
        tables = [self._file(record, shard, keep=True).read(columns=columns) for shard in self.names(record)]
        return pa.concat_tables(tables)

    def stream(self, record: type[Record], rows: int) -> Iterator[pa.RecordBatch]:
        file = self._file(record, self.shard, keep=True)
        done, total = 0, file.metadata.num_rows
        for whole in file.iter_batches(batch_size=rows):
            for batch in self._cut(whole):
                ids = batch["row_id"].to_pylist()
                self._beat(Heartbeat(ids, done, total))
                done += len(ids)
                yield batch

    def _cut(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        """The batch; without its poison rows, and row by row when it holds a suspect."""
        ids = batch["row_id"].to_pylist()
        poison, suspects = self._task.poison, self._task.suspects
        if suspects.isdisjoint(ids) and poison.keys().isdisjoint(ids):
            yield batch
            return
        for index, row in enumerate(ids):
            if row in poison:
                self.quarantined.append(row)
            else:
                yield batch.slice(index, 1)
