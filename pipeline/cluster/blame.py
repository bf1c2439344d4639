"""Who is to blame for a task that failed: a row, a batch, the stage, or nobody; and what is run next."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from capfilt.data_contracts.errors import StageError
from capfilt.pipeline.cluster.worker import SILENT
from capfilt.pipeline.execution.task import Task
from capfilt.pipeline.planning.placement import Resources

TRIES = 3


@dataclass
class Judge:
    """Decides what a failed task deserves. ``poison_limit`` rows at most are quarantined in a run's stage."""

    poison_limit: int
    failures: dict[str, int] = field(default_factory=dict)
    poison: Counter[str] = field(default_factory=Counter)
    successes: Counter[str] = field(default_factory=Counter)
    deaths_in_open: Counter[str] = field(default_factory=Counter)
    bad_starts: int = 0

    def praise(self, task: Task) -> None:
        self.successes[task.name] += 1

    def started(self) -> None:
        self.bad_starts = 0

    def not_started(self, needs: Resources, error: Exception) -> None:
        self.bad_starts += 1
        if self.bad_starts >= TRIES:
            raise StageError(
                what="a Ray worker could not start",
                evidence=str(error).strip().splitlines()[-1],
                remedy=f"it needs {needs} and the same installation of capfilt as here; "
                "see `placement` in the recipe and the worker's log",
            ) from error

    def blame(self, task: Task, ids: Sequence[str], how: str) -> Task:
        """The task to run next, with what is now known about its rows."""
        last = how.strip().splitlines()[-1] if how.strip() else "no message"
        again = replace(task, attempt=task.attempt + 1)
        if not ids:
            self.deaths_in_open[task.name] += 1
            if self.deaths_in_open[task.name] >= TRIES and not self.successes[task.name]:
                raise _no_progress(task, how, "before its first batch")
        elif len(ids) == 1 and ids[0] in task.suspects:
            # out of memory, the process that is ended may be a neighbour's
            if how == SILENT and ids[0] not in task.doubted and len(task.doubted) < self.poison_limit:
                return replace(again, doubted=task.doubted | {ids[0]})
            self.poison[task.name] += 1
            if self.poison[task.name] > self.poison_limit:
                raise _no_progress(task, how, f"with more than {self.poison_limit} different rows in hand")
            return replace(again, poison={**task.poison, ids[0]: last})
        elif not task.suspects.issuperset(ids):
            if task.attempt > TRIES + 2 * len(task.poison) + len(task.doubted) + 2:
                raise _no_progress(task, how, "with another batch in hand each time")
            return replace(again, suspects=task.suspects | frozenset(ids))
        self.failures[task.label] = self.failures.get(task.label, 0) + 1
        if self.failures[task.label] >= TRIES:
            raise _no_progress(task, how, "without progress")
        return again


def _no_progress(task: Task, how: str, when: str) -> StageError:
    return StageError(
        what=f"{task.label} keeps failing {when}: {task.attempt} attempts",
        evidence=how.strip()[-2000:],
        remedy=f"what is committed stays; mend the cause, then `capfilt resume {task.run}`",
    )
