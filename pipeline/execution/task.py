"""One attempt at one shard, or at one global stage, in whatever process: read, work, check, commit.

Plain Python without Ray, so that tests and the command line can run it in a bare process.
"""

import errno
import socket
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from capfilt.data_contracts.contract import Contract
from capfilt.data_contracts.errors import ConservationError, StageError, StorageError
from capfilt.data_contracts.ledger import InputPart, ShardRecord
from capfilt.data_contracts.records import Record
from capfilt.data_contracts.rejects import Reason, Reject
from capfilt.pipeline.ledger.commit_index import Part
from capfilt.pipeline.ledger.ledger import RECORD, Ledger
from capfilt.pipeline.planning.placement import Resources
from capfilt.pipeline.storage import patience
from capfilt.pipeline.storage.failpoints import failpoint
from capfilt.stages.stage import (
    CollectiveStage,
    GlobalStage,
    Model,
    ModelRef,
    Rows,
    ShardStage,
    Site,
    Stage,
    TrainedModel,
    Transform,
)

if TYPE_CHECKING:
    from PIL.Image import Image

ROW_GROUP = 2048
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)


@dataclass(frozen=True)
class Upstream:
    """The committed parts of one upstream stage that a task reads: name and sha256 by shard."""

    stage: str
    record: type[Record]
    parts: Mapping[str, tuple[str, str]]


@dataclass(frozen=True)
class Task:
    """Everything that a worker needs to know. ``shard`` is empty for a global stage.

    ``run`` is where the run lies, a path or a url. ``models`` says where a model is that the user brings; ``digests``
    has one for each model. ``suspects`` are the ids that a dead attempt had in hand: they are handled one by one.
    ``doubted`` of them were alone when their process was killed without a word, once. ``poison`` maps ids that killed
    their process alone to how it died: they leave as rejects. With ``fuse`` the worker keeps the shard's decoded
    images for the next stage. ``ranks`` workers share the work of a :class:`~capfilt.stages.stage.CollectiveStage`,
    each of which takes ``each``; one does it in the task's own process.
    """

    run: str
    name: str
    stage: Stage
    fingerprint: str
    shard: str
    upstream: tuple[Upstream, ...]
    models: Mapping[ModelRef, str]
    digests: Mapping[str, str]
    needs: Resources = field(default_factory=Resources)
    device: str = "cpu"
    threads: int = 1
    batch: int = 64
    deadline: float = 3600.0
    fuse: bool = False
    ranks: int = 1
    each: Resources = field(default_factory=Resources)
    checkpoint_steps: int = 200
    checkpoint_minutes: float = 10.0
    attempt: int = 1
    generation: int = 0
    suspects: frozenset[str] = frozenset()
    doubted: frozenset[str] = frozenset()
    poison: Mapping[str, str] = field(default_factory=dict)

    @property
    def label(self) -> str:
        return f"{self.name}-{self.shard}" if self.shard else self.name


class Heartbeat(NamedTuple):
    """The breadcrumb: the ids that an attempt has in hand, how far it is, a word and figures on how it goes."""

    ids: Sequence[str] = ()
    done: int = 0
    total: int = 0
    text: str = ""
    figures: Mapping[str, float] = {}


Beat = Callable[[Heartbeat], None]
Decode = Callable[[str, bytes], "Image"]


class CommittedInput:
    """The committed parts that a task reads: a :class:`ShardInput` and a :class:`StageInput` in one."""

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


class PartWriter:
    """Writes one part and its rejects under ``_tmp``, then publishes both: rejects first, then the part."""

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
        self._rejects += rows.rejected
        self.notes += rows.notes
        self.facts |= rows.facts
        self.kept += rows.kept.num_rows

    def _open(self, schema: pa.Schema) -> pq.ParquetWriter:
        """The file, with the schema of the first rows: a contract leaves open how long its vectors are."""
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._path, schema, compression="zstd", write_page_checksum=True)
        return self._writer

    def reject(self, rejects: Sequence[Reject]) -> None:
        self._rejects += rejects

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


Opened = Callable[[Task, Site], Transform]
Together = Callable[[Task], None]


def decode_again(image_id: str, data: bytes) -> "Image":
    """The image in ``data``, decoded anew each time."""
    from capfilt.models.images.decode import decode

    return decode(data)


def run_task(
    task: Task,
    open_stage: Opened,
    beat: Beat = lambda heartbeat: None,
    decode: Decode = decode_again,
    together: Together | None = None,
) -> list[tuple[Part, bool]]:
    """Do the work and commit it; the parts that stand now, and whether this attempt wrote each.

    ``open_stage`` gives the transform of a shard stage: a worker keeps it from shard to shard. ``beat`` is
    called with a breadcrumb before every batch, ``decode`` for every image that a model looks at. ``together`` has
    the ranks of a task work, if there are several.

    Raises:
        ContractError, ConservationError: nothing of the shard is committed.
        DamageError: an input part is not what was committed.
        StorageError: the disk or the store fails.
    """

    def beating(heartbeat: Heartbeat) -> None:
        beat(heartbeat)
        failpoint(f"batch.{task.name}")

    wait, until = 0.1, 0.0
    while True:
        try:
            return _run_task(task, open_stage, beating, decode, together)
        except OSError as error:
            if error.errno not in _DISK:
                raise
            # A part half written is no use: from the start.
            until = until or time.monotonic() + patience.SECONDS
            if error.errno == errno.EROFS or time.monotonic() + wait > until:
                raise StorageError(
                    what=f"the disk fails under {task.label}",
                    evidence=str(error),
                    remedy="make room or see to the disk, "
                    f"then capfilt resume {task.run}: what is committed stays",
                ) from error
        time.sleep(wait)
        wait = min(2 * wait, 5.0)


def _run_task(
    task: Task, open_stage: Opened, beat: Beat, decode: Decode, together: Together | None
) -> list[tuple[Part, bool]]:
    ledger = Ledger(task.run)
    if task.shard and (stands := ledger.committed(task.name, task.shard, task.generation)):
        return [(stands, False)]
    inputs = CommittedInput(task, ledger, beat)
    read = sorted(  # in the order in which an index says it, so that a record is the same from either
        (
            InputPart(stage=upstream.stage, name=name, sha256=sha256)
            for upstream in task.upstream
            for name, sha256 in upstream.parts.values()
        ),
        key=lambda part: (part.stage, part.name),
    )
    with ledger.storage.scratch() as scratch:
        site = _site(task, ledger, inputs, scratch, decode)
        if isinstance(task.stage, ShardStage):
            part = _run_shard(task, ledger, inputs, open_stage(task, site), read, scratch)
            if inputs.lasts:
                ledger.storage.forget(inputs.lasts)
            return [part]
        if isinstance(task.stage, GlobalStage):
            started = time.monotonic()
            if isinstance(task.stage, CollectiveStage) and len(ledger.index(task.name)) == 0:
                if task.ranks > 1 and together is not None:
                    together(task)
                else:
                    task.stage.work(site, inputs)
            committed = _run_global(task, task.stage, ledger, inputs, site, read, started)
            if all(part.record is not None for part, _ in committed):
                # Closed here, before its checkpoints go: a driver that dies now must not train again.
                ledger.close(ledger.index(task.name).totals(task.name, task.fingerprint))
            ledger.storage.forget(_lasting(task))
            return committed
        raise TypeError(type(task.stage))


def run_rank(task: Task, beat: Beat) -> None:
    """One worker's part of a collective stage, in a process of its own."""
    ledger = Ledger(task.run)
    assert isinstance(task.stage, CollectiveStage)
    with ledger.storage.scratch() as scratch:
        inputs = CommittedInput(task, ledger, beat)
        task.stage.work(_site(task, ledger, inputs, scratch, decode_again), inputs)


def _lasting(task: Task) -> str:
    return f"{task.name}-{task.fingerprint[:12]}"


def _site(task: Task, ledger: Ledger, inputs: CommittedInput, scratch: Path, decode: Decode) -> Site:
    return Site(
        device=task.device,
        threads=task.threads,
        batch=task.batch,
        models={model: _place(ledger, task, model) for model in task.stage.models},
        scratch=scratch,
        lasting=lambda: ledger.storage.lasting(_lasting(task)),
        keep=lambda: ledger.storage.keep(_lasting(task)),
        progress=inputs.progress,
        decode=decode,
        checkpoint_steps=task.checkpoint_steps,
        checkpoint_minutes=task.checkpoint_minutes,
    )


def _place(ledger: Ledger, task: Task, model: ModelRef) -> str:
    """Where a model lies on this machine."""
    if isinstance(model, TrainedModel):
        return str(ledger.model(model.stage, task.digests[model.stage]))
    return task.models[model]


def _run_shard(
    task: Task,
    ledger: Ledger,
    inputs: CommittedInput,
    transform: Transform,
    read: Sequence[InputPart],
    scratch: Path,
) -> tuple[Part, bool]:
    stage = task.stage
    assert isinstance(stage, ShardStage)
    units = stage.units(inputs)
    writer = PartWriter(ledger, task, scratch, time.monotonic())
    for rows in transform(inputs):
        writer.write(rows)
    for row in inputs.quarantined:
        writer.reject(
            [
                Reject(
                    id=unit,
                    row_id=row,
                    stage=task.name,
                    unit=stage.unit,
                    reason=Reason.POISON,
                    detail=task.poison[row],
                )
                for unit in units.get(row, ())
                for _ in range(stage.fan_out)
            ]
        )
    return writer.commit(sum(map(len, units.values())), read)


def _run_global(
    task: Task,
    stage: GlobalStage,
    ledger: Ledger,
    inputs: CommittedInput,
    site: Site,
    read: Sequence[InputPart],
    started: float,
) -> list[tuple[Part, bool]]:
    """Parts that an earlier attempt committed stand: the same inputs make the same rows."""
    committed, seen = [], set()
    facts: dict[str, object] = {}
    index = ledger.index(task.name)
    for made in stage.run(site, inputs):
        if isinstance(made, Model):
            facts["model"] = ledger.publish_model(made.directory, task.name)
            continue
        if made.shard is None or made.units is None or made.shard in seen:
            raise StageError(
                what=f"{task.name}: a global stage must name each of its shards once and count its units",
                evidence=f"shard {made.shard!r}, units {made.units!r}",
                remedy="this is a defect of the stage: that shard was not committed",
            )
        seen.add(made.shard)
        if made.shard in index:
            committed.append((index.part(made.shard), False))
            continue
        own = replace(task, shard=made.shard, generation=index.generation(made.shard))
        writer = PartWriter(ledger, own, site.scratch, started)
        writer.write(replace(made, facts={**facts, **made.facts}))
        committed.append(writer.commit(made.units, read))
        started = time.monotonic()
    return committed
