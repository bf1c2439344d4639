"""A small scheduler on plain Ray Core: a pool of actors, one shard a call, bounded retries, no lost shard.

Actors are never restarted by Ray and calls never retried by it: a death is an event that is judged here.
The batch that a dead attempt had in hand is run again row by row; a row that kills its process alone is
poison and leaves as a reject, its neighbours stay. A death together with its node is nobody's fault and not
an attempt.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError

from data_contracts.errors import StageError
from pipeline.ledger import Part
from pipeline.task import Crumb, Task
from pipeline.worker import Result, Worker, crash_file

TRIES = 3
POISON_LIMIT = 20
GRACE = 10.0


@dataclass(frozen=True)
class Resources:
    """What one actor takes, and how many of them a stage wants."""

    actors: int
    cpus: float = 1.0
    gpus: float = 0.0


@dataclass
class _Actor:
    handle: Any
    node: str
    pid: int


@dataclass
class _Call:
    actor: _Actor
    task: Task
    deadline: float


@dataclass
class Pool:
    """Live actors with the same resources. Use :meth:`close` at the end."""

    resources: Resources
    _idle: list[_Actor] = field(default_factory=list)

    def run(
        self, tasks: Sequence[Task], deadline: float, watch: Callable[[Sequence[Task]], None]
    ) -> Iterator[tuple[Task, tuple[tuple[Part, bool], ...]]]:
        """Every task with the parts that stand after it, in the order in which they end.

        ``deadline`` is in seconds, for one task; ``watch`` is called a few times a second with what runs.

        Raises:
            CapfiltError: capfilt's own error of a task, unchanged.
            StageError: a task failed ``TRIES`` times without progress, or too many rows are poison.
        """
        waiting = deque(tasks)
        calls: dict[Any, _Call] = {}
        judge = _Judge()
        try:
            while waiting or calls:
                while waiting and len(calls) < self.resources.actors:
                    task = waiting.popleft()
                    actor = self._idle.pop() if self._idle else self._start(judge)
                    reference = actor.handle.run.remote(task, deadline)
                    calls[reference] = _Call(actor, task, time.monotonic() + deadline + GRACE)
                ready, _ = ray.wait(list(calls), num_returns=1, timeout=0.25)
                watch([call.task for call in calls.values()])
                for reference in ready:
                    call = calls.pop(reference)
                    ended = self._collect(reference, call, judge)
                    if isinstance(ended, Task):
                        waiting.appendleft(ended)
                    else:
                        yield call.task, ended
                for call in calls.values():
                    if time.monotonic() > call.deadline:  # it outlived its own alarm
                        ray.kill(call.actor.handle, no_restart=True)
        finally:
            for call in calls.values():
                ray.kill(call.actor.handle, no_restart=True)

    def _collect(self, reference: Any, call: _Call, judge: "_Judge") -> tuple[tuple[Part, bool], ...] | Task:
        """The parts of a call that ended well, or the task to run instead."""
        try:
            result: Result = ray.get(reference)
        except RayActorError:
            if call.actor.node not in _nodes():
                return call.task
            return judge.blame(call.task, _last_words(call.task), died=True)
        self._idle.append(call.actor)
        if result.error is not None:
            raise result.error
        if result.unexpected:
            return judge.blame(call.task, result.unexpected, died=False)
        judge.praise(call.task)
        return result.committed

    def _start(self, judge: "_Judge") -> _Actor:
        needs = self.resources
        actor: Any = ray.remote(Worker)
        handle: Any = actor.options(
            num_cpus=needs.cpus, num_gpus=needs.gpus, max_restarts=0, max_task_retries=0
        ).remote()
        try:
            node, pid = ray.get(handle.where.remote(), timeout=120)
        except RayError as error:
            raise StageError(
                what="a Ray worker could not start",
                evidence=str(error).strip().splitlines()[-1],
                remedy=f"it needs {needs.cpus:g} CPUs and {needs.gpus:g} GPUs and the same installation of "
                "capfilt as here; see `placement` in the recipe and the worker's log",
            ) from error
        return _Actor(handle, node, pid)

    def close(self) -> None:
        for actor in self._idle:
            ray.kill(actor.handle, no_restart=True)
        self._idle.clear()


@dataclass
class _Judge:
    """Decides what a failed task deserves. One for each stage's run."""

    failures: dict[str, int] = field(default_factory=dict)
    poison: int = 0
    successes: int = 0
    deaths_in_open: int = 0

    def praise(self, task: Task) -> None:
        self.successes += 1

    def blame(self, task: Task, how: str, *, died: bool) -> Task:
        """The task to run next, with what is now known about its rows."""
        ids, *_ = Crumb(task.run, task.label).read()
        Crumb(task.run, task.label).sweep()
        last = how.strip().splitlines()[-1] if how.strip() else "no message"
        again = replace(task, attempt=task.attempt + 1)
        if not ids:
            self.deaths_in_open += 1
            if self.deaths_in_open >= TRIES and not self.successes:
                raise _hopeless(task, how, "before its first batch")
        elif len(ids) == 1 and ids[0] in task.suspects:
            self.poison += 1
            if self.poison > POISON_LIMIT:
                raise _hopeless(task, how, f"with more than {POISON_LIMIT} different rows in hand")
            return replace(again, poison={**task.poison, ids[0]: last})
        elif not task.suspects.issuperset(ids):
            if task.attempt > TRIES + 2 * len(task.poison) + 2:
                raise _hopeless(task, how, "with another batch in hand each time")
            return replace(again, suspects=task.suspects | frozenset(ids))
        self.failures[task.label] = self.failures.get(task.label, 0) + 1
        if self.failures[task.label] >= TRIES:
            raise _hopeless(task, how, "without progress")
        return again


def _hopeless(task: Task, how: str, when: str) -> StageError:
    return StageError(
        what=f"{task.label} keeps failing {when}: {task.attempt} attempts",
        evidence=how.strip()[-2000:],
        remedy=f"what is committed stays; mend the cause, then `capfilt resume {task.run}`",
    )


def _last_words(task: Task) -> str:
    """What the dying process wrote: the fatal signal or the alarm; a SIGKILL leaves nothing."""
    try:
        first = crash_file(task).read_text().strip().splitlines()[0]
    except (OSError, IndexError):
        return "the process was killed without a word (SIGKILL, often out of memory)"
    if first.startswith("Timeout"):
        return "the process was ended by the shard's deadline"
    return f"the process died: {first.removeprefix('Fatal Python error: ')}"


def _nodes() -> set[str]:
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return {node["NodeID"] for node in nodes if node["Alive"]}


def fit(wanted: Resources) -> Resources:
    """As many of the wanted actors as the cluster can hold at once.

    Raises:
        StageError: when it can hold none, with what is missing.
    """
    have: Mapping[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    room = have.get("CPU", 0.0) / wanted.cpus if wanted.cpus else float("inf")
    if wanted.gpus:
        room = min(room, have.get("GPU", 0.0) / wanted.gpus)
    if room < 1:
        raise StageError(
            what=f"the cluster can never hold an actor with {wanted.cpus:g} CPUs and {wanted.gpus:g} GPUs",
            evidence=f"it has {have.get('CPU', 0):g} CPUs and {have.get('GPU', 0):g} GPUs in all",
            remedy="ask for less in the recipe's `placement`, or add nodes",
        )
    return replace(wanted, actors=int(min(wanted.actors, room)))
