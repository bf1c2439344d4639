"""A small scheduler on plain Ray Core: actors, one task a call, bounded retries, no lost shard.

Actors are never restarted by Ray and calls never retried by it: a death is an event that is judged here.
The batch that a dead attempt had in hand is run again row by row; a row that kills its process alone (by SIGKILL,
which may be meant for another: twice) is poison and leaves as a reject, its neighbours stay. A death together with
its node is nobody's fault and not an attempt. Nodes may come and go: an actor is started when there is a task for it
and room.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from capfilt.data_contracts.errors import DamageError, StageError
from capfilt.pipeline.cluster import environment
from capfilt.pipeline.cluster.blame import Judge
from capfilt.pipeline.cluster.capacity import Capacity, alive, free
from capfilt.pipeline.cluster.worker import ProgressActor, Result, Worker, last_words
from capfilt.pipeline.execution.events import (
    AttemptFailed,
    Committed,
    Event,
    ProgressSeen,
    RowQuarantined,
    Waiting,
)
from capfilt.pipeline.execution.heartbeat import Heartbeat
from capfilt.pipeline.execution.schedule import Schedule
from capfilt.pipeline.execution.task import Task
from capfilt.pipeline.planning.placement import Demand, Resources

GRACE = 10.0
POLL = 0.25
START_SECONDS = 300.0
SAY_SECONDS = 15.0  # without any worker, until that is said
WORDS_SECONDS = 30.0

Tell = Callable[[Event], None]


@dataclass(eq=False)
class _Actor:
    """A worker; it is idle without a task. ``node``, ``pid`` and ``host`` are known once it has started."""

    handle: Any
    needs: Resources
    node: str = ""
    pid: int = 0
    host: str = ""
    task: Task | None = None
    deadline: float = 0.0
    opened: str = ""
    shard: str = ""


class WorkerPool:
    """The actors of a run on a connected cluster. Use :meth:`close` at the end.

    ``patience``: seconds for which the cluster may be without nodes that are large enough.
    """

    def __init__(self, run: str, poison_limit: int, patience: float) -> None:
        here = ray.get_runtime_context().get_node_id()
        beside = NodeAffinitySchedulingStrategy(here, soft=False)
        progress: Any = ray.remote(ProgressActor)
        self._progress: Any = progress.options(
            num_cpus=0, max_restarts=-1, scheduling_strategy=beside
        ).remote()
        self._actors: dict[Any, _Actor] = {}  # by the reference that is waited for
        self._idle: list[_Actor] = []
        self._run, self._here = run, environment.this(run)
        self._poison_limit, self._patience = poison_limit, patience
        self._judge = Judge(poison_limit)
        self._unfit: dict[Resources, float] = {}
        self._waited = 0.0  # since when, as was said last

    def run(self, schedule: Schedule, tell: Tell) -> None:
        """Run the flow to its end, and tell what happens: tasks that end or fail, and a few times a second what runs.

        Raises:
            CapfiltError: capfilt's own error of a task, unchanged; of damage once what else runs has ended.
            StageError: a task failed ``blame.TRIES`` times without progress, or too many rows are poison.
        """
        self._judge = Judge(self._poison_limit)
        damage: DamageError | None = None
        self._demand_room(schedule)
        busy = looked = time.monotonic()
        try:
            while not schedule.finished:
                if damage is None:
                    self._dispatch(schedule)
                elif not self._running():
                    raise damage
                for reference in self._wait():
                    busy = time.monotonic()
                    try:
                        self._collect(reference, schedule, tell)
                    except DamageError as error:
                        damage = error
                now = time.monotonic()
                self._enforce(now, busy, tell)
                if now - looked > POLL:
                    looked = now
                    self._look(schedule, tell)
            self._look(schedule, tell)
        finally:
            for actor in self._actors.values():
                ray.kill(actor.handle, no_restart=True)
            self._actors.clear()

    def _look(self, schedule: Schedule, tell: Tell) -> None:
        heartbeats: dict[str, Heartbeat] = {}
        said: list[Event] = []
        # The board may be killed for its memory, say: it is only for show, and comes back.
        with suppress(RayError, GetTimeoutError):
            heartbeats, said = ray.get(self._progress.read.remote(), timeout=5.0)
        for event in said:
            tell(event)
        tell(ProgressSeen(self._running(), heartbeats, schedule.counts()))

    def _wait(self) -> list[Any]:
        """What has come back; waits a moment if nothing has."""
        references = list(self._actors)
        if not references:
            time.sleep(POLL)
            return []
        ready, _ = ray.wait(references, num_returns=len(references), timeout=0)
        return ready or ray.wait(references, num_returns=1, timeout=POLL)[0]

    def close(self) -> None:
        for actor in self._idle:
            ray.kill(actor.handle, no_restart=True)
        self._idle.clear()
        ray.kill(self._progress, no_restart=True)

    def _running(self) -> dict[str, tuple[Task, int]]:
        """The tasks that run, with the process of each, by label."""
        return {actor.task.label: (actor.task, actor.pid) for actor in self._actors.values() if actor.task}

    # -- placing ------------------------------------------------------------------------------------------

    def _dispatch(self, schedule: Schedule) -> None:
        """Hand out every task that has a place now. Rounds end when one places nothing."""
        if any(task.ranks > 1 for task, _ in self._running().values()):
            return  # several workers share a training: they have the cluster to themselves
        pool = [*self._actors.values(), *self._idle]
        threads = ((actor.node, actor.task.threads) for actor in pool if actor.task)
        capacity = Capacity(alive(), (actor.needs for actor in pool), threads)
        placed = True
        while placed:
            placed = False
            for task in schedule.ready(max(1, int(capacity.most("CPU"))), capacity.most("GPU")):
                if not self._can_ever(task, capacity):
                    continue
                if task.ranks > 1:
                    if any(actor.needs != task.needs for actor in self._actors.values()):
                        return  # until what runs or starts has ended; nothing new begins
                    self._dismiss(task.needs)
                if actor := self._place(task, schedule.backlog(task), capacity):
                    schedule.begin(task)
                    actor.task, actor.opened, actor.shard = task, task.fingerprint, task.shard
                    actor.deadline = time.monotonic() + task.deadline + GRACE
                    reference = actor.handle.run.remote(task, self._progress)
                    self._actors[reference] = actor
                    placed = True
                if task.ranks > 1:
                    return
                if placed:
                    break

    def _can_ever(self, task: Task, capacity: Capacity) -> bool:
        """Whether the nodes could run the task if they were idle; an error when they could not for a while."""
        needs, workers = (task.each, task.ranks) if task.ranks > 1 else (task.needs, 1)
        lacking = capacity.lacking([Demand(task.name, needs, workers)])
        if lacking is None:
            self._unfit.pop(needs, None)
        elif time.monotonic() > self._unfit.setdefault(needs, time.monotonic()) + self._patience:
            raise lacking
        return lacking is None

    def _demand_room(self, schedule: Schedule) -> None:
        """Before anything runs: the cluster, which may be growing, can hold the workers of every stage to come."""
        end = time.monotonic() + self._patience
        while True:
            capacity = Capacity(alive())
            if (lacking := capacity.lacking(schedule.demands(capacity.most("GPU")))) is None:
                return
            if time.monotonic() > end:
                raise lacking
            time.sleep(POLL)

    def _place(self, task: Task, backlog: int, capacity: Capacity) -> _Actor | None:
        """An idle actor for the task, best the one that had its shard or has its stage open; or ask for one more.

        A task may use more threads than its actor reserves (a training takes a whole machine): it gets a node
        on which nothing else of ours runs, and until it has one, that node takes nothing new.
        """
        fitting = [
            actor
            for actor in self._idle
            if actor.needs == task.needs and capacity.free(actor.node, task.threads, task.label)
        ]
        if fitting:
            actor = max(
                fitting, key=lambda actor: (actor.shard == task.shard, actor.opened == task.fingerprint)
            )
            self._idle.remove(actor)
            capacity.take(actor.node, task.threads)
            return actor
        if task.threads > task.needs.cpus and task.ranks == 1:
            capacity.reserve(task.label, [actor.node for actor in (*self._idle, *self._actors.values())])
        starting = sum(not actor.node and actor.needs == task.needs for actor in self._actors.values())
        if starting >= backlog:
            return None
        if not capacity.fits(task.needs):
            spare = next((actor for actor in self._idle if actor.needs != task.needs), None)
            if spare is None:
                return None
            self._idle.remove(spare)
            ray.kill(spare.handle, no_restart=True)
            capacity.give_back(spare.needs)
        self._start(task.needs)
        return None

    def _dismiss(self, but: Resources) -> None:
        """Let the idle actors go, so that others can have what they hold."""
        for actor in [actor for actor in self._idle if actor.needs != but]:
            self._idle.remove(actor)
            ray.kill(actor.handle, no_restart=True)

    def _start(self, needs: Resources) -> None:
        """Ask for another actor; it is idle once it answers."""
        worker: Any = ray.remote(Worker)
        handle = worker.options(**needs.options, max_restarts=0, max_task_retries=0).remote()
        self._actors[handle.where.remote(self._run)] = _Actor(handle, needs)

    # -- what comes back ----------------------------------------------------------------------------------

    def _collect(self, reference: Any, schedule: Schedule, tell: Tell) -> None:
        actor = self._actors.pop(reference)
        task, actor.task = actor.task, None
        try:
            answer = ray.get(reference)
        except RayError as error:
            self._quarantine(actor, task, schedule, error, tell)
            return
        self._idle.append(actor)
        if task is None:
            actor.node, actor.pid, there = answer
            actor.host = there.host
            environment.demand_alike(self._here, there, self._run)
            self._judge.started()
            return
        result: Result = answer
        if result.error is not None:
            if isinstance(result.error, DamageError):
                schedule.again(task)
            raise result.error
        if result.unexpected:
            self._blame(actor, task, "error", result.unexpected, result.in_hand, schedule, tell)
            return
        self._judge.praise(task)
        tell(Committed(task, result.committed))
        schedule.end(task, [part for part, _ in result.committed])

    def _quarantine(
        self, actor: _Actor, task: Task | None, schedule: Schedule, error: RayError, tell: Tell
    ) -> None:
        """An actor is dead: with its node, which is nobody's fault, or by what its task did."""
        if task is None:
            self._judge.not_started(actor.needs, error)
            return
        words = _last_words(actor)
        if words is None:
            tell(AttemptFailed(task, "node", "its machine is gone", actor.host))
            schedule.again(task)
        else:
            self._blame(actor, task, "died", *words, schedule, tell)

    def _blame(
        self,
        actor: _Actor,
        task: Task,
        kind: Literal["died", "error"],
        how: str,
        in_hand: Sequence[str],
        schedule: Schedule,
        tell: Tell,
    ) -> None:
        tell(AttemptFailed(task, kind, how, actor.host, in_hand))
        again = self._judge.blame(task, in_hand, how)
        for row in again.poison.keys() - task.poison.keys():
            tell(RowQuarantined(task, row, again.poison[row]))
        schedule.again(again)

    def _enforce(self, now: float, busy: float, tell: Tell) -> None:
        """Kill what outlived its own alarm; say so when no worker can be had, and give up after a long time."""
        for actor in self._actors.values():
            if actor.task and now > actor.deadline:
                ray.kill(actor.handle, no_restart=True)
        if self._running():
            return
        if now > busy + SAY_SECONDS and self._waited != busy:
            self._waited = busy
            tell(Waiting(now - busy, len(self._actors), free()))
        if now > busy + max(START_SECONDS, self._patience):
            raise StageError(
                what=f"no Ray worker could start within {now - busy:.0f} s",
                evidence=f"{len(self._actors)} asked for, {free()}",
                remedy="see `ray status`; free the cluster, ask for less in the recipe's `placement`, or wait longer "
                "with --wait-nodes SECONDS",
            )


def _last_words(actor: _Actor) -> tuple[str, tuple[str, ...]] | None:
    """How the actor's process died and what it had in hand, asked of its machine; ``None`` when that is gone too."""
    there = NodeAffinitySchedulingStrategy(actor.node, soft=False)
    look: Any = ray.remote(last_words)
    asked = look.options(num_cpus=0, max_retries=0, scheduling_strategy=there).remote(actor.pid)
    try:
        words: tuple[str, tuple[str, ...]] = ray.get(asked, timeout=WORDS_SECONDS)
    except (RayError, GetTimeoutError):
        if actor.node in alive():
            return "the process died, and its machine could not be asked how", ()
        return None
    return words
