"""One attempt at one shard, or at one global stage, in whatever process: read, work, check, commit.

Plain Python without Ray, so that tests and the command line can run it in a bare process.
"""

import errno
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from capfilt.data_contracts.errors import StageError, StorageError
from capfilt.data_contracts.ledger import InputPart
from capfilt.data_contracts.rejects import Reason
from capfilt.pipeline.execution.heartbeat import Beat, Heartbeat
from capfilt.pipeline.execution.inputs import CommittedInput
from capfilt.pipeline.execution.part_writer import PartWriter
from capfilt.pipeline.execution.task import Task
from capfilt.pipeline.ledger.commit_index import Part
from capfilt.pipeline.ledger.ledger import Ledger
from capfilt.pipeline.storage import patience
from capfilt.pipeline.storage.failpoints import failpoint
from capfilt.stages.stage import (
    CollectiveStage,
    GlobalStage,
    Model,
    ModelRef,
    Rejected,
    ShardStage,
    Site,
    TrainedModel,
    Transform,
)

if TYPE_CHECKING:
    from PIL.Image import Image

_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)

Decode = Callable[[str, bytes], "Image"]
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
    called before every batch, ``decode`` for every image that a model looks at. ``together`` has
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
                    remedy="make room, or check the disk",
                    run=task.run,
                ) from error
        time.sleep(wait)
        wait = min(2 * wait, 5.0)


def _run_task(
    task: Task, open_stage: Opened, beat: Beat, decode: Decode, together: Together | None
) -> list[tuple[Part, bool]]:
    ledger = Ledger(task.run)
    if task.shard and (stands := ledger.committed(task.name, task.shard, task.generation)):
        return [(stands, False)]
    if "torch" in task.stage.libraries:
        from capfilt.models.threads import use_threads  # a stage without models loads no torch

        use_threads(task.threads)
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
                Rejected(id=unit, row_id=row, reason=Reason.POISON, detail=task.poison[row])
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
        if made.units is None or made.shard in seen:
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
