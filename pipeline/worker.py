"""The Ray actor that runs tasks one after the other, and stays warm between shards and stages."""

import faulthandler
import os
import traceback
from dataclasses import dataclass
from pathlib import Path

import ray

from data_contracts.errors import CapfiltError
from pipeline.ledger import Part
from pipeline.task import Task, run_task
from stages.stage import ShardStage, Site, Transform


@dataclass(frozen=True)
class Result:
    """How a task ended: the parts that stand and whether this attempt wrote each, or the error.

    ``unexpected`` is the traceback of an error that is not capfilt's own.
    """

    committed: tuple[tuple[Part, bool], ...] = ()
    error: CapfiltError | None = None
    unexpected: str = ""


def crash_file(task: Task) -> Path:
    """Where a dying worker leaves the name of the signal, and of the Python code that it was in."""
    return task.run / "_tmp" / "crumbs" / f"{task.label}.crash"


class Worker:
    """Runs tasks. It never raises: an exception in user data must not look like a dead process."""

    def __init__(self) -> None:
        self._opened: tuple[str, Transform] | None = None

    def where(self) -> tuple[str, int]:
        """The Ray node and the process that it lives in."""
        return ray.get_runtime_context().get_node_id(), os.getpid()

    def run(self, task: Task, deadline: float) -> Result:
        path = crash_file(task)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w") as crash:
            faulthandler.enable(crash)
            # Fires from a thread of C, so it also ends native code that holds the interpreter's lock.
            faulthandler.dump_traceback_later(deadline, exit=True, file=crash)
            try:
                return Result(tuple(run_task(task, self._open)))
            except CapfiltError as error:
                return Result(error=error)
            except Exception:  # everything else is data for the scheduler, which judges and retries
                return Result(unexpected=traceback.format_exc())
            finally:
                faulthandler.cancel_dump_traceback_later()
                faulthandler.disable()
                path.unlink(missing_ok=True)  # only a death leaves it

    def _open(self, task: Task, site: Site) -> Transform:
        """The transform of the task's stage, opened once for all of its shards."""
        assert isinstance(task.stage, ShardStage)
        if self._opened is None or self._opened[0] != task.fingerprint:
            self._opened = (task.fingerprint, task.stage.open(site))
        return self._opened[1]
