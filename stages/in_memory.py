"""Inputs held in memory: a stage's input without a run, for tests, notebooks and stages of your own."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pyarrow as pa

from capfilt.data_contracts.contract import Contract
from capfilt.data_contracts.records import Record
from capfilt.stages.stage import ONLY_SHARD


@dataclass(frozen=True)
class MemoryInput:
    """A :class:`~capfilt.stages.stage.ShardInput` and a :class:`~capfilt.stages.stage.StageInput`: the parts of each
    record.
    """

    tables: Mapping[type[Record], Sequence[pa.Table]]
    shard: str = ONLY_SHARD
    folder: Path | None = None

    @classmethod
    def of(cls, *rows: Record, empty: Sequence[type[Record]] = ()) -> "MemoryInput":
        """One part for each kind of row, and one of zero rows for each of ``empty``."""
        kinds = dict.fromkeys([*map(type, rows), *empty])
        return cls({kind: [Contract(kind).table([r for r in rows if type(r) is kind])] for kind in kinds})

    def has(self, record: type[Record]) -> bool:
        return bool(self.tables.get(record))

    def names(self, record: type[Record]) -> Sequence[str]:
        return [f"{number:07d}" for number in range(len(self.tables[record]))]

    def part(self, record: type[Record], shard: str, columns: Sequence[str] | None = None) -> pa.Table:
        table = self.tables[record][int(shard)]
        return table.select(columns or table.column_names)

    def parts(self, record: type[Record], columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        for shard in self.names(record):
            yield self.part(record, shard, columns)

    def table(self, record: type[Record], columns: Sequence[str] | None = None) -> pa.Table:
        return pa.concat_tables(self.parts(record, columns))

    def stream(self, record: type[Record], rows: int) -> Iterator[pa.RecordBatch]:
        yield from self.table(record).to_batches(max_chunksize=rows)

    def lasting(self) -> Path:
        """``folder``, or one that is made when it is asked for."""
        return self.folder or self._made

    @cached_property
    def _made(self) -> Path:
        return Path(tempfile.mkdtemp(prefix="capfilt-"))

    def progress(self, done: int, total: int, text: str) -> None:
        """Nobody looks."""
