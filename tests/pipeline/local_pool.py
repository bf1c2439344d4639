"""A worker pool without Ray: this process is the only worker. Loads no library of a model."""

from typing import TYPE_CHECKING

from capfilt.pipeline.execution.attempt import run_task
from capfilt.pipeline.execution.events import Committed, ProgressSeen
from capfilt.pipeline.execution.schedule import Schedule

if TYPE_CHECKING:
    from capfilt.pipeline.cluster.scheduler import Tell


class LocalPool:
    """What a runner asks of the scheduler's WorkerPool, with this process as the only worker."""

    def run(self, schedule: Schedule, tell: "Tell") -> None:
        while not schedule.finished:
            task = next(schedule.ready(1))
            schedule.begin(task)
            tell(ProgressSeen({task.label: (task, 0)}, {}, schedule.counts()))
            committed = tuple(run_task(task, lambda task, site: task.stage.open(site)))  # type: ignore[attr-defined]
            tell(Committed(task, committed))
            schedule.end(task, [part for part, _ in committed])


class LocalCluster:
    pool = LocalPool()
    size = (1, {"CPU": 1.0})

    def close(self) -> None:
        pass
