"""What happens in a run as metrics of Ray, which its nodes export for Prometheus; ``docs/watching.md`` has a table.

The driver tells them, which hears of every commit and every death, so that counts are exact. Counters count what was
done since the driver started, and a shard that is redone counts again: the ledger says what stands. Tags are few, and
never a row or a shard.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from capfilt.data_contracts.ledger import ShardRecord
from capfilt.pipeline.execution.events import (
    AttemptFailed,
    Committed,
    Connected,
    Event,
    Listener,
    PartQuarantined,
    ProgressSeen,
    RowQuarantined,
    RunEnded,
)

if TYPE_CHECKING:
    from ray.util.metrics import Counter, Gauge, Histogram

SECONDS = [0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0, 5000.0]


class Metrics(Listener):
    """Tells Ray, once it is connected to. Where a node has no metrics agent, Ray drops what it is told."""

    COUNTERS: ClassVar[Mapping[str, tuple[str, tuple[str, ...]]]] = {
        "rows_in": ("Rows (units of the stage) that committed parts came from.", ()),
        "rows_kept": ("Rows that committed parts hold.", ()),
        "rows_rejected": ("Rows that left, by the reason; unit is what left.", ("unit", "reason")),
        "work_seconds": ("Seconds that workers took for the committed parts.", ()),
        "parts_committed": ("Parts committed.", ()),
        "attempts_failed": ("Tasks that did not end: died, error or node (lost).", ("kind",)),
        "rows_poison": ("Rows that killed their process alone, and left.", ()),
        "parts_quarantined": ("Parts found damaged, and redone.", ()),
    }
    GAUGES: ClassVar[Mapping[str, tuple[str, tuple[str, ...]]]] = {
        "progress": ("How much of the stage is done, 0 to 1.", ()),
        "tasks_running": ("Tasks that run.", ()),
        "tasks_queued": ("Shards that could run if there were a worker.", ()),
        "training": ("What the last told step of a training says.", ("figure",)),
    }

    def __init__(self, run: str) -> None:
        self._run = run
        self._early: list[Event] = []  # what happened before Ray was there
        self._stages: set[str] = set()
        self._counters: dict[str, Counter] = {}
        self._gauges: dict[str, Gauge] = {}
        self._seconds: Histogram | None = None

    def _connect(self) -> None:
        from ray.util.metrics import Counter, Gauge, Histogram  # Ray is not loaded before a task needs it

        for name, (text, tags) in self.COUNTERS.items():
            self._counters[name] = Counter(f"capfilt_{name}", text, ("run", "stage", *tags))
        for name, (text, tags) in self.GAUGES.items():
            self._gauges[name] = Gauge(f"capfilt_{name}", text, ("run", "stage", *tags))
        text, tags = "Seconds that a committed part took.", ("run", "stage")
        self._seconds = Histogram("capfilt_shard_seconds", text, SECONDS, tags)

    def hear(self, event: Event) -> None:
        if isinstance(event, Connected):
            self._connect()
            for early in self._early:
                self._tell(early)
        elif self._seconds is None:
            self._early.append(event)
        else:
            self._tell(event)

    def _tell(self, event: Event) -> None:
        match event:
            case Committed(task=task, parts=parts):
                for part, won in parts:
                    # One that an earlier attempt wrote and died before it could say so counts too; a part of another
                    # runner does not: that one counts it.
                    if part.record and (won or task.attempt > 1):
                        self._committed(part.record)
            case AttemptFailed(task=task, kind=kind):
                self._add("attempts_failed", task.name, 1, kind=kind)
            case RowQuarantined(task=task):
                self._add("rows_poison", task.name, 1)
            case PartQuarantined(stage=stage, why=why) if why:
                self._add("parts_quarantined", stage, 1)
            case ProgressSeen():
                self._look(event)
            case RunEnded():
                for stage in self._stages:
                    self._set("tasks_running", stage, 0)
                    self._set("tasks_queued", stage, 0)

    def _committed(self, record: ShardRecord) -> None:
        stage = record.stage
        self._add("rows_in", stage, record.units_in)
        self._add("rows_kept", stage, record.kept)
        self._add("work_seconds", stage, record.seconds)
        self._add("parts_committed", stage, 1)
        for unit, left in ((record.unit, record.rejected), ("text", record.texts_rejected)):
            for reason, count in left.items():
                self._add("rows_rejected", stage, count, unit=unit, reason=str(reason))
        if self._seconds is not None:
            self._seconds.observe(record.seconds, self._tags(stage))

    def _look(self, looked: ProgressSeen) -> None:
        self._stages |= looked.counts.keys()
        for stage, share in looked.shares().items():
            self._set("progress", stage, share)
            self._set("tasks_running", stage, looked.counts[stage].running)
            self._set("tasks_queued", stage, looked.counts[stage].queued)
        for task, _, heartbeat in looked.each():
            for figure, value in heartbeat.figures.items():
                self._set("training", task.name, value, figure=figure)

    def _tags(self, stage: str, **more: str) -> dict[str, str]:
        return {"run": self._run, "stage": stage, **more}

    def _add(self, name: str, stage: str, value: float, **more: str) -> None:
        if value > 0:  # Ray refuses zero
            self._counters[name].inc(value, self._tags(stage, **more))

    def _set(self, name: str, stage: str, value: float, **more: str) -> None:
        self._gauges[name].set(value, self._tags(stage, **more))
