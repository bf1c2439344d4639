"""How rows become a committed part: checked, written, counted, published."""

import os
import socket
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from capfilt.data_contracts.contract import Contract
from capfilt.data_contracts.errors import ConservationError
from capfilt.data_contracts.ledger import InputPart, ShardRecord
from capfilt.data_contracts.rejects import Reason, Reject
from capfilt.pipeline.execution.task import Task
from capfilt.pipeline.ledger.commit_index import Part
from capfilt.pipeline.ledger.index_store import RECORD
from capfilt.pipeline.ledger.ledger import Ledger
from capfilt.pipeline.storage.failpoints import failpoint
from capfilt.stages.stage import Rejected, Rows

ROW_GROUP = 2048
_BORN = uuid.uuid4().hex[:8]  # a process id may be given again


def _worker() -> str:
    """This process, as no other one is called."""
    return f"{os.getpid()}-{_BORN}"


class PartWriter:
    """Writes one part and its rejects under ``_tmp``, then publishes both: rejects first, then the part.

    A reject's stage, and its unit unless it says another, are the task's.
    """

    def __init__(self, ledger: Ledger, task: Task, folder: Path, started: float) -> None:
        self._ledger, self._task = ledger, task
        self._contract = Contract(task.stage.produces)
        self._path = folder / f"{task.shard}.parquet"
        self._writer: pq.ParquetWriter | None = None
        self._rejects: list[Reject] = []
        self._keys: list[pa.Table] = []
        self._started = started
        self.notes: list[str] = []
        self.facts: dict[str, object] = {}
        self.kept = 0

    def write(self, rows: Rows) -> None:
        self._contract.check(rows.kept)
        writer = self._open(rows.kept.schema)
        if rows.kept.num_rows:
            writer.write_table(rows.kept, row_group_size=ROW_GROUP)
        self._keys.append(rows.kept.select(list(self._contract.record.key)))
        self.reject(rows.rejected)
        self.notes += rows.notes
        self.facts |= rows.facts
        self.kept += rows.kept.num_rows

    def _open(self, schema: pa.Schema) -> pq.ParquetWriter:
        """The file, with the schema of the first rows: a contract leaves open how long its vectors are."""
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._path, schema, compression="zstd", write_page_checksum=True)
        return self._writer

    def reject(self, rejected: Sequence[Rejected]) -> None:
        stage = self._task.stage
        self._rejects += [
            Reject(
                id=one.id,
                row_id=one.row_id,
                stage=self._task.name,
                unit=one.unit or stage.unit,
                reason=one.reason,
                detail=one.detail,
                duplicate_of=one.duplicate_of,
            )
            for one in rejected
        ]

    def commit(self, units: int, inputs: Sequence[InputPart]) -> tuple[Part, bool]:
        task, stage = self._task, self._task.stage
        self._contract.check_key(self._keys)
        own: Counter[Reason] = Counter()
        texts: Counter[Reason] = Counter()
        for reject in self._rejects:  # a text that leaves an image which stays is none of the stage's units
            (texts if reject.unit == "text" != stage.unit else own)[reject.reason] += 1
        failpoint("rejects.before")
        record = ShardRecord(
            run=self._ledger.storage.name,
            stage=task.name,
            shard=task.shard,
            generation=task.generation,
            fingerprint=task.fingerprint,
            contract=self._contract.identity,
            unit=stage.unit,
            units_in=units,
            fan_out=stage.fan_out,
            kept=self.kept,
            rejected=dict(sorted(own.items())),
            texts_rejected=dict(sorted(texts.items())),
            rejects=self._publish_rejects(),
            inputs=tuple(inputs),
            models=dict(task.digests),
            attempt=task.attempt,
            host=socket.gethostname(),
            worker=_worker(),
            seconds=round(time.monotonic() - self._started, 3),
            finished=datetime.now(UTC).isoformat(timespec="milliseconds"),
            notes=tuple(self.notes),
            facts=dict(self.facts),
        )
        if not record.conserved:
            raise ConservationError(
                what=f"{task.label}: rows are neither kept nor rejected",
                evidence=f"{units} {stage.unit}s in, times {stage.fan_out}, against {self.kept} kept and "
                f"{dict(record.rejected)} rejected",
                remedy="this is a defect of the stage: nothing was committed",
            )
        writer = self._open(self._contract.schema)
        writer.add_key_value_metadata({RECORD.decode(): record.model_dump_json()})
        writer.close()
        return self._ledger.commit(self._path, record)

    def _publish_rejects(self) -> str | None:
        if not self._rejects:
            return None
        name = f"_rejects/part-{self._task.shard}.{uuid.uuid4().hex[:12]}.parquet"
        path = self._path.with_suffix(".rejects")
        pq.write_table(
            Contract(Reject).table(self._rejects), path, compression="zstd", write_page_checksum=True
        )
        self._ledger.storage.create(f"{self._task.name}/{name}", path)
        failpoint("rejects.after")
        return name
