"""What happens in a run. Scheduler and runner tell events, in one stream; whoever listens hears all of them.

The console (:mod:`capfilt.pipeline.watching.console`), the log (:mod:`capfilt.pipeline.watching.log`) and the metrics
(:mod:`capfilt.pipeline.watching.metrics`) are listeners, and none of them can harm a run: one that raises is not told
anything more.
"""

import logging
import re
import socket
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Literal

from capfilt.data_contracts.errors import CapfiltError
from capfilt.data_contracts.ledger import StageTotals
from capfilt.pipeline.execution.heartbeat import Heartbeat
from capfilt.pipeline.execution.schedule import Count
from capfilt.pipeline.execution.task import Task
from capfilt.pipeline.ledger.commit_index import Part

Line = tuple[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Event:
    """``time`` is in seconds since the epoch."""

    time: float = field(default_factory=time.time, kw_only=True)

    @property
    def name(self) -> str:
        """Its name in a log: ``attempt_failed``."""
        return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(self).__name__).lower()

    @property
    def level(self) -> int:
        """One of :mod:`logging`'s."""
        return logging.INFO

    def lines(self) -> Iterator[Line]:
        """What a log says of it: a message and its facts; nothing for what only moves a bar."""
        return iter(())


@dataclass(frozen=True)
class Trouble(Event):
    """Something that the run gets over, and people should know of."""

    @property
    def level(self) -> int:
        return logging.WARNING


@dataclass(frozen=True)
class RunBegun(Event):
    """A runner is at work in the run. ``recipe`` is a digest of it: the same for the same recipe."""

    recipe: str
    versions: Mapping[str, str]
    command: str
    pid: int

    def lines(self) -> Iterator[Line]:
        facts = {"recipe": self.recipe, "versions": dict(self.versions), "pid": self.pid}
        yield f"at work: {self.command}", facts


@dataclass(frozen=True)
class Connected(Event):
    """A Ray cluster is there. ``resources`` are the sums over its nodes, as Ray calls them."""

    nodes: int
    resources: Mapping[str, float]

    def lines(self) -> Iterator[Line]:
        has = {name: self.resources.get(name, 0.0) for name in ("CPU", "GPU", "memory")}
        yield f"connected to Ray: {self.nodes} nodes", {"nodes": self.nodes, "resources": has}


@dataclass(frozen=True)
class Message(Event):
    """A word to people."""

    text: str

    def lines(self) -> Iterator[Line]:
        yield self.text.strip(), {}


@dataclass(frozen=True)
class Waiting(Trouble):
    """Nothing runs: of the workers that were ``asked`` for none has started for so many ``seconds``."""

    seconds: float
    asked: int
    free: str

    def lines(self) -> Iterator[Line]:
        facts = {"seconds": round(self.seconds, 1), "asked": self.asked}
        yield f"waiting for a worker since {self.seconds:.0f} s: {self.asked} asked for, {self.free}", facts


@dataclass(frozen=True)
class StageSkipped(Event):
    """A stage has nothing to do."""

    stage: str
    why: str

    def lines(self) -> Iterator[Line]:
        yield f"{self.stage}: {self.why}", {"stage": self.stage}


@dataclass(frozen=True)
class StageBegun(Event):
    """A stage's first task has been handed out. ``shards`` are to do; null for a global stage."""

    stage: str
    shards: int | None

    def lines(self) -> Iterator[Line]:
        yield f"{self.stage} begins", {"stage": self.stage, "shards": self.shards}


@dataclass(frozen=True)
class ProgressSeen(Event):
    """What runs, told a few times a second: tasks and the process of each by label, how far they are, all counts."""

    running: Mapping[str, tuple[Task, int]]
    heartbeats: Mapping[str, Heartbeat]
    counts: Mapping[str, Count]

    def each(self) -> Iterator[tuple[Task, int, Heartbeat]]:
        """Every running task, its process, and how far it is."""
        for label, (task, pid) in self.running.items():
            yield task, pid, self.heartbeats.get(label, Heartbeat())

    def shares(self) -> dict[str, float]:
        """How much of each stage is done, 0 to 1: what is committed, and shares of the tasks in hand."""
        hand: Counter[str] = Counter()
        for task, _, heartbeat in self.each():
            hand[task.name] += heartbeat.done / heartbeat.total if heartbeat.total else 0  # type: ignore[assignment]
        return {
            stage: 1.0 if count.ended else (count.done + hand[stage]) / max(1, count.shards or 0)
            for stage, count in self.counts.items()
        }


@dataclass(frozen=True)
class Committed(Event):
    """A task has ended: the parts that stand, and whether its own attempt wrote each."""

    task: Task
    parts: Sequence[tuple[Part, bool]]

    def lines(self) -> Iterator[Line]:
        for part, won in self.parts:
            if record := part.record:
                facts = {
                    "stage": record.stage,
                    "shard": record.shard,
                    "attempt": record.attempt,
                    "host": record.host,
                    "rows": record.units_in,
                    "unit": record.unit,
                    "kept": record.kept,
                    "rejected": dict(record.rejected),
                    "seconds": record.seconds,
                    "part": part.name,
                }
                yield (
                    f"committed {record.stage}/{part.name}" + ("" if won else " (by another attempt)"),
                    facts,
                )


@dataclass(frozen=True)
class AttemptFailed(Trouble):
    """A task did not end: its worker ``died``, an unexpected ``error`` was raised, or the ``node`` is gone."""

    task: Task
    kind: Literal["died", "error", "node"]
    how: str
    host: str
    in_hand: Sequence[str] = ()

    def lines(self) -> Iterator[Line]:
        facts = {**_of(self.task), "host": self.host, "kind": self.kind, "in_hand": list(self.in_hand)}
        last = self.how.strip().splitlines()[-1] if self.how.strip() else "no message"
        yield f"an attempt at {self.task.label} failed: {last}", {**facts, "how": self.how}


@dataclass(frozen=True)
class RowQuarantined(Trouble):
    """A row kills its process alone: it is poison, and leaves as a reject."""

    task: Task
    row: str
    how: str

    def lines(self) -> Iterator[Line]:
        yield f"row {self.row} is poison: {self.how}", {**_of(self.task), "row_id": self.row}


@dataclass(frozen=True)
class PartQuarantined(Trouble):
    """A part was quarantined. ``why`` is empty for one that is sound, but read what stands no more."""

    stage: str
    part: str
    why: str

    def lines(self) -> Iterator[Line]:
        why = f"is damaged ({self.why})" if self.why else "read what stands no more"
        facts = {"stage": self.stage, "part": self.part, "damaged": bool(self.why)}
        yield f"{self.stage}/{self.part} {why}: set aside, its shard is redone", facts


@dataclass(frozen=True)
class WorkerLogged(Event):
    """A worker logged something."""

    severity: int
    text: str
    stage: str
    shard: str
    attempt: int
    logger: str
    host: str = field(default_factory=socket.gethostname)

    @property
    def level(self) -> int:
        return self.severity

    def lines(self) -> Iterator[Line]:
        facts = {"stage": self.stage, "shard": self.shard, "attempt": self.attempt, "host": self.host}
        yield self.text, {**facts, "logger": self.logger}


@dataclass(frozen=True)
class StageEnded(Event):
    """A stage is complete."""

    stage: str
    totals: StageTotals

    def lines(self) -> Iterator[Line]:
        totals = self.totals
        facts = {
            "stage": self.stage,
            "shards": len(totals.shards),
            "rows": totals.units_in,
            "kept": totals.kept,
            "rejected": dict(totals.rejected),
            "texts_rejected": dict(totals.texts_rejected),
            "seconds": totals.seconds,
        }
        yield f"{self.stage} is complete", facts


@dataclass(frozen=True)
class RunEnded(Event):
    """The runner leaves the run: with an error, if what it had to do is not done."""

    error: BaseException | None = None

    @property
    def level(self) -> int:
        levels = {type(None): logging.INFO, KeyboardInterrupt: logging.WARNING}
        return levels.get(type(self.error), logging.ERROR)

    def lines(self) -> Iterator[Line]:
        error = self.error
        if isinstance(error, CapfiltError):
            facts = {"evidence": error.evidence, "remedy": error.remedy, "exit_code": error.exit_code}
            yield error.what, {"error": type(error).__name__, **facts}
        elif isinstance(error, KeyboardInterrupt):
            yield "stopped, as it was told to", {"error": type(error).__name__}
        elif error is not None:
            yield f"stopped by {error!r}", {"error": type(error).__name__}
        else:
            yield "done", {}


def _of(task: Task) -> dict[str, Any]:
    return {"stage": task.name, "shard": task.shard, "attempt": task.attempt}


class Listener:
    """Hears what happens in a run; a context manager from the beginning to the end of it."""

    def __enter__(self) -> None:
        """The run begins."""

    def __exit__(self, *_: object) -> None:
        """It is over; :class:`RunEnded` was told."""

    def hear(self, event: Event) -> None:
        """Called in the runner's own thread: it has to be quick."""


class Listeners(Listener):
    """Tells them all."""

    def __init__(self, *listeners: Listener) -> None:
        self._stack = ExitStack()
        self._all = list(listeners)

    def __enter__(self) -> None:
        for listener in self._all:
            self._stack.enter_context(listener)

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def hear(self, event: Event) -> None:
        off: list[Message] = []
        for listener in tuple(self._all):
            try:
                listener.hear(event)
            except Exception as error:
                self._all.remove(listener)
                off.append(Message(f"{type(listener).__name__} is off: {error!r}"))
        for said in off:
            self.hear(said)
