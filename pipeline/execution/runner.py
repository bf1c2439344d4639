"""Drive a plan to its end: find what is missing, run it, close each stage."""

import os
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from capfilt.data_contracts.contract import Contract
from capfilt.data_contracts.errors import DamageError, StageError
from capfilt.data_contracts.fingerprint import fingerprint
from capfilt.data_contracts.ledger import StageTotals
from capfilt.pipeline.execution.events import (
    Committed,
    Connected,
    Event,
    Listener,
    Listeners,
    Message,
    PartQuarantined,
    ProgressSeen,
    RunBegun,
    RunEnded,
    StageBegun,
    StageEnded,
    StageSkipped,
)
from capfilt.pipeline.execution.schedule import Overtaken, Schedule
from capfilt.pipeline.ledger.commit_index import shard_of
from capfilt.pipeline.ledger.index_store import READERS
from capfilt.pipeline.ledger.lease import Doing, Lease
from capfilt.pipeline.ledger.ledger import Ledger
from capfilt.pipeline.planning.graph import Graph, Node
from capfilt.pipeline.planning.recipe_words import errors_in_recipe_words
from capfilt.pipeline.planning.status import StageStatus, stage_statuses
from capfilt.pipeline.storage.failpoints import failpoint
from capfilt.stages.stage import GlobalStage

REPAIRS = 5
COMPACT = 1000


class Workers(Protocol):
    """What runs tasks: a Ray cluster, or the process itself. ``size`` is its nodes and the sums of what they have."""

    @property
    def pool(self) -> "Pool": ...

    @property
    def size(self) -> tuple[int, Mapping[str, float]]: ...

    def close(self) -> None: ...


class Pool(Protocol):
    def run(self, schedule: Schedule, tell: Callable[[Event], None]) -> None:
        """Run what the schedule has, until it is finished; ``tell`` hears of it."""


class Runner:
    """Runs what a plan is missing. ``listeners`` hear what happens; ``connect`` is called when the first task needs
    a worker. ``join``: beside another runner, if there is one.
    """

    def __init__(
        self,
        plan: Graph,
        ledger: Ledger,
        listeners: Sequence[Listener],
        connect: Callable[[], Workers],
        *,
        join: bool = False,
    ) -> None:
        self.plan, self.ledger = plan, ledger
        self._listeners = Listeners(*listeners)
        self._connect, self._join = connect, join
        self._doing: tuple[Doing, ...] = ()
        self._workers: Workers | None = None
        self._lease: Lease | None = None
        self._commits: Counter[str] = Counter()
        self._repairs: Counter[tuple[str, str]] = Counter()

    def run(self, until: str | None = None) -> None:
        """To the end of the plan, or of stage ``until``.

        A part that turns out to be damaged is set aside, and the plan gone through again: its shard is redone,
        then whatever read it.

        Raises:
            BusyError: another runner is at work in the run, or has taken it over.
            CapfiltError: the stage that failed says why; everything committed stays.
        """
        try:
            with Lease(self.ledger.storage, join=self._join) as self._lease, self._listeners:
                self._lease.tell(lambda: self._doing)
                try:
                    with errors_in_recipe_words():
                        self._run(until)
                except BaseException as error:
                    self._listeners.hear(RunEnded(error))
                    raise
                self._listeners.hear(RunEnded())
        finally:
            if self._workers is not None:
                self._workers.close()

    def _run(self, until: str | None) -> None:
        record = self.ledger.record()
        command = " ".join(["capfilt", *sys.argv[1:]])
        self._listeners.hear(RunBegun(fingerprint(record.recipe), record.versions, command, os.getpid()))
        while not self._pass(until):
            pass
        if all(self.ledger.totals(name) for name in self.plan.nodes):
            for name in self.plan.nodes:
                self.ledger.sweep(name)
            self.ledger.storage.sweep()

    def _mend(self, wanted: Sequence[Node]) -> dict[str, StageStatus]:
        """Set aside what can be seen to be damaged or superseded without reading it; how the stages then stand."""
        while True:
            statuses = stage_statuses(self.plan, self.ledger)
            bad = [
                (node, name, why)
                for node in wanted
                for name, why in (
                    *statuses[node.name].damaged.items(),
                    *((name, "") for name in statuses[node.name].superseded.values()),
                )
            ]
            if not bad:
                return statuses
            with ThreadPoolExecutor(READERS) as pool:
                list(pool.map(lambda one: self._quarantine(*one), bad))

    def _pass(self, until: str | None) -> bool:
        """Go through the plan once; whether it is done."""
        nodes = list(self.plan)
        wanted = nodes[: nodes.index(self.plan.nodes[until]) + 1] if until else nodes
        statuses = self._mend(wanted)
        for node in wanted:
            status = statuses[node.name]
            if status.ended:
                if not self._commits[node.name]:
                    self._listeners.hear(StageSkipped(node.name, status.stale or status.why))
                self._demand_rows(node, self.ledger.totals(node.name))
        schedule = Schedule(self.plan, wanted, self.ledger.url, statuses, self._begun, self._close)
        try:
            if not schedule.finished:
                self._pool().run(schedule, self._hear)
            # A listing, a model or figures that were made anew supersede what had read the old ones.
            anew = any(isinstance(n.stage, GlobalStage) and not statuses[n.name].ended for n in wanted)
            return not (anew and any(len(s.index) for s in statuses.values() if not s.ended))
        except Overtaken as overtaken:
            self._listeners.hear(Message(f"  another runner has set {overtaken} aside: looking again"))
        except DamageError as error:
            if not error.part:
                raise
            self._quarantine(self.plan.nodes[error.stage], error.part, error.evidence)
        return False

    def _quarantine(self, node: Node, part: str, why: str) -> None:
        """Quarantine a part. ``why`` is empty for one that is sound but superseded."""
        home = self.ledger.home(node.name)
        if home.url != self.ledger.url:
            raise home.damage(node.name, part, why)  # a parent's part: its own run has to mend it
        shard = shard_of(part)
        self._repairs[node.name, shard] += bool(why)
        if self._repairs[node.name, shard] > REPAIRS:
            raise StageError(
                what=f"{node.name}/{shard} was found damaged {REPAIRS} times",
                evidence=f"{why}; see {self.ledger.url}/_quarantine",
                remedy="check the disk under the run, then resume",
            )
        self.ledger.quarantine(node.name, part, Contract(node.stage.produces).schema)
        self._listeners.hear(PartQuarantined(node.name, part, why))

    def _pool(self) -> Pool:
        if self._workers is None:
            self._workers = self._connect()
            self._listeners.hear(Connected(*self._workers.size))
        return self._workers.pool

    # -- as tasks end -------------------------------------------------------------------------------------

    def _begun(self, stage: str, shards: int | None) -> None:
        self._listeners.hear(StageBegun(stage, shards))

    def _hear(self, event: Event) -> None:
        """What the scheduler tells: the listeners first, then what the runner itself has to do."""
        self._listeners.hear(event)
        match event:
            case Committed(task=task, parts=parts):
                for _ in parts:
                    self._commits[task.name] += 1
                    if self._commits[task.name] % COMPACT == 0:
                        self.ledger.compact(task.name)
                failpoint(f"ended.{task.name}")
            case ProgressSeen():
                self._doing = tuple(
                    Doing(
                        label=task.label,
                        pid=pid,
                        done=heartbeat.done,
                        total=heartbeat.total,
                        text=heartbeat.text,
                    )
                    for task, pid, heartbeat in event.each()
                )
                if self._lease is not None:
                    self._lease.check()

    def _close(self, node: Node) -> None:
        self.ledger.compact(node.name)
        totals = self.ledger.index(node.name).totals(node.name, node.fingerprint)
        self.ledger.close(totals)
        self._listeners.hear(StageEnded(node.name, totals))
        self._demand_rows(node, totals)

    def _demand_rows(self, node: Node, totals: StageTotals | None) -> None:
        """Zero rows with success is how whole datasets get lost: it is a failure here."""
        if totals is None or totals.kept or node.stage.may_find_nothing:
            return
        reasons = ", ".join(f"{count} {reason}" for reason, count in totals.rejected.items())
        raise StageError(
            what=f"{node.name} kept nothing",
            evidence=f"{totals.units_in} {node.stage.unit}s in; {reasons or 'none came in'}",
            remedy=f"capfilt inspect {self.ledger.url} {node.name} shows what left and why"
            + ("; lower the threshold with --fork" if node.name == "select" else ""),
        )
