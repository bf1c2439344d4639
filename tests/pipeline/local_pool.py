"""A worker pool without Ray: this process is the only worker. Loads no library of a model."""

from typing import TYPE_CHECKING

from capfilt.pipeline.execution.attempt import run_task
from capfilt.pipeline.execution.events import Committed, ProgressSeen
from capfilt.pipeline.execution.schedule import Schedule
from capfilt.pipeline.execution.task import Task
from capfilt.stages.stage import ShardStage, Site, Transform

if TYPE_CHECKING:
    from capfilt.pipeline.cluster.scheduler import Tell


class LocalPool:
    """What a runner asks of the scheduler's WorkerPool, with this process as the only worker."""

    def run(self, schedule: Schedule, tell: "Tell") -> None:
        opened: dict[str, Transform] = {}

        def open_stage(task: Task, site: Site) -> Transform:
            """Opened once for all shards, as by a worker: what decodes images is a process, which takes a second."""
            assert isinstance(task.stage, ShardStage)
            if task.fingerprint not in opened:
                opened[task.fingerprint] = task.stage.open(site)
            return opened[task.fingerprint]

        while not schedule.finished:
            task = next(schedule.ready(1))
            schedule.begin(task)
            tell(ProgressSeen({task.label: (task, 0)}, {}, schedule.counts()))
            committed = tuple(run_task(task, open_stage))
            tell(Committed(task, committed))
            schedule.end(task, [part for part, _ in committed])


class LocalCluster:
    pool = LocalPool()
    size = (1, {"CPU": 1.0})

    def close(self) -> None:
        pass
