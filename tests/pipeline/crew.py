"""A crew without Ray: this process is the only worker. Loads no library of a model."""

from typing import TYPE_CHECKING

from capfilt.pipeline.execution.events import Committed, Looked
from capfilt.pipeline.execution.schedule import Flow
from capfilt.pipeline.execution.task import run_task

if TYPE_CHECKING:
    from capfilt.pipeline.cluster.scheduler import Tell


class LocalCrew:
    """What a runner asks of the scheduler's Crew, with this process as the only worker."""

    def run(self, flow: Flow, tell: "Tell") -> None:
        while not flow.finished:
            task = next(flow.ready(1))
            flow.begin(task)
            tell(Looked({task.label: (task, 0)}, {}, flow.counts()))
            committed = tuple(run_task(task, lambda task, site: task.stage.open(site)))  # type: ignore[attr-defined]
            tell(Committed(task, committed))
            flow.end(task, [part for part, _ in committed])


class LocalCluster:
    crew = LocalCrew()

    def close(self) -> None:
        pass
