"""The Ray actor that runs tasks one after the other, and stays warm between shards and stages."""

import faulthandler
import os
import tempfile
import traceback
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from data_contracts.errors import CapfiltError
from pipeline.index import Part
from pipeline.task import Crumb, Task, run_task
from stages.stage import ShardStage, Site, Transform

# Stages that a worker keeps open: captioning and scoring take turns, each with a model of its own.
KEEP_OPEN = 2


@dataclass(frozen=True)
class Result:
    """How a task ended: the parts that stand and whether this attempt wrote each, or the error.

    ``unexpected`` is the traceback of an error that is not capfilt's own.
    """

    committed: tuple[tuple[Part, bool], ...] = ()
    error: CapfiltError | None = None
    unexpected: str = ""


class Board:
    """The breadcrumbs of all running tasks, in an actor beside the driver: what a dead worker had in hand."""

    def __init__(self) -> None:
        self._crumbs: dict[str, Crumb] = {}

    def drop(self, label: str, crumb: Crumb) -> None:
        self._crumbs[label] = crumb

    def take(self, label: str) -> Crumb:
        """A task's last breadcrumb; it is gone afterwards."""
        return self._crumbs.pop(label, Crumb())

    def all(self) -> dict[str, Crumb]:
        return self._crumbs


def crash_file(pid: int) -> Path:
    """Where a dying worker leaves, on its own machine, the name of the signal and the code that it was in."""
    return Path(tempfile.gettempdir()) / f"capfilt-{os.getuid()}" / "crashes" / f"{pid}.txt"


def last_words(pid: int) -> str:
    """What a dead process wrote: the fatal signal or the alarm; a SIGKILL leaves nothing. Run it on its machine."""
    path = crash_file(pid)
    try:
        first = path.read_text().strip().splitlines()[0]
        path.unlink()
    except (OSError, IndexError):
        return "the process was killed without a word (SIGKILL, often out of memory)"
    if first.startswith("Timeout"):
        return "the process was ended by the shard's deadline"
    return f"the process died: {first.removeprefix('Fatal Python error: ')}"


class Worker:
    """Runs tasks. It never raises: an exception in user data must not look like a dead process."""

    def __init__(self) -> None:
        self._opened: OrderedDict[str, Transform] = OrderedDict()

    def where(self) -> tuple[str, int]:
        """The Ray node and the process that it lives in."""
        return ray.get_runtime_context().get_node_id(), os.getpid()

    def run(self, task: Task, board: Any) -> Result:
        path = crash_file(os.getpid())
        path.parent.mkdir(parents=True, exist_ok=True)

        def drop(crumb: Crumb) -> None:
            ray.get(board.drop.remote(task.label, crumb))  # it has to be there before the batch begins

        with path.open("w") as crash:
            faulthandler.enable(crash)
            # Fires from a thread of C, so it also ends native code that holds the interpreter's lock.
            faulthandler.dump_traceback_later(task.deadline, exit=True, file=crash)
            try:
                return Result(tuple(run_task(task, self._open, drop)))
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
        if task.fingerprint not in self._opened:
            while len(self._opened) >= KEEP_OPEN:
                self._opened.popitem(last=False)
            self._opened[task.fingerprint] = task.stage.open(site)
        self._opened.move_to_end(task.fingerprint)
        return self._opened[task.fingerprint]
