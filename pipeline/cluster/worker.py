"""The Ray actor that runs tasks one after the other, and stays warm between shards and stages."""

import faulthandler
import json
import logging
import os
import tempfile
import time
import traceback
from collections import OrderedDict, deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from logging.handlers import QueueHandler
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray

from capfilt.data_contracts.errors import CapfiltError
from capfilt.pipeline.cluster import environment
from capfilt.pipeline.cluster.environment import Machine
from capfilt.pipeline.cluster.training import train_together
from capfilt.pipeline.execution.attempt import Decode, decode_again, run_task
from capfilt.pipeline.execution.events import WorkerLogged
from capfilt.pipeline.execution.heartbeat import Heartbeat
from capfilt.pipeline.execution.task import Task
from capfilt.pipeline.ledger.commit_index import Part
from capfilt.stages.stage import ShardStage, Site, Transform

if TYPE_CHECKING:
    from capfilt.models.images.decode import DecodedImages

# Stages that a worker keeps open: captioning and scoring take turns, each with a model of its own.
KEEP_OPEN = 2
TELL = 0.2  # seconds between two words to the board
SLOW = 0.5  # seconds after which the opening of a stage is worth a line
SAY = 50  # log records of a task that are told; a library may warn at every row
log = logging.getLogger("capfilt.worker")
SILENT = "the process was killed without a word (SIGKILL, often out of memory)"


@dataclass(frozen=True)
class Result:
    """How a task ended: the parts that stand and whether this attempt wrote each, or the error.

    ``unexpected`` is the traceback of an error that is not capfilt's own, ``in_hand`` the batch it came from.
    """

    committed: tuple[tuple[Part, bool], ...] = ()
    error: CapfiltError | None = None
    unexpected: str = ""
    in_hand: tuple[str, ...] = ()


class ProgressActor:
    """How far all running tasks are, and what workers log, in an actor beside the driver. It may be lost."""

    def __init__(self) -> None:
        self._heartbeats: dict[str, Heartbeat] = {}
        self._said: deque[WorkerLogged] = deque(maxlen=1000)

    def beat(self, label: str, heartbeat: Heartbeat) -> None:
        self._heartbeats[label] = heartbeat._replace(ids=())

    def say(self, said: WorkerLogged) -> None:
        self._said.append(said)

    def read(self) -> tuple[dict[str, Heartbeat], list[WorkerLogged]]:
        """The last crumb of every task by its label, and what was said since somebody last asked."""
        said = list(self._said)
        self._said.clear()
        return self._heartbeats, said


class _ToBoard(QueueHandler):
    """Brings what is logged while a task runs to the board: capfilt's own words, and warnings of libraries."""

    def __init__(self, task: Task, progress: Any) -> None:
        super().__init__(progress)
        self._progress, self._task, self._left = progress, task, SAY

    def enqueue(self, record: logging.LogRecord) -> None:
        self._left -= 1
        if self._left >= 0:
            said = WorkerLogged(
                severity=record.levelno,
                text=record.getMessage() if self._left else f"{record.getMessage()} (more is not told)",
                stage=self._task.name,
                shard=self._task.shard,
                attempt=self._task.attempt,
                logger=record.name,
                time=record.created,
            )
            self._progress.say.remote(said)


@contextmanager
def _heard(task: Task, progress: Any) -> Iterator[None]:
    handler = _ToBoard(task, progress)
    root = logging.getLogger()
    root.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.removeHandler(handler)
        handler.close()


def crash_file(pid: int) -> Path:
    """Where a worker leaves, on its own machine, the batch in hand; and the signal and the code that it died of."""
    return Path(tempfile.gettempdir()) / f"capfilt-{os.getuid()}" / "workers" / f"{pid}.txt"


def last_words(pid: int) -> tuple[str, tuple[str, ...]]:
    """How a process died and which ids it had in hand. To be asked on its machine, once.

    A fatal signal or the alarm leaves a word; SIGKILL leaves none.
    """
    path = crash_file(pid)
    ids: tuple[str, ...] = ()
    with suppress(OSError, ValueError):
        ids = tuple(json.loads(path.with_suffix(".json").read_text()))
    try:
        first = path.read_text().strip().splitlines()[0]
    except (OSError, IndexError):
        words = SILENT
    else:
        words = f"the process died: {first.removeprefix('Fatal Python error: ')}"
        if first.startswith("Timeout"):
            words = "the process was ended by the shard's deadline"
    for left in (path, path.with_suffix(".json")):
        left.unlink(missing_ok=True)
    return words, ids


class Worker:
    """Runs tasks. It never raises: an exception in user data must not look like a dead process."""

    def __init__(self) -> None:
        # Ray's working directory is empty, and goes when another node of this machine lets go of it: libraries that
        # ask where they are would then fail. All paths here are absolute.
        os.chdir(os.sep)
        self._opened: OrderedDict[str, Transform] = OrderedDict()
        self._pictures: DecodedImages | None = None

    def where(self, run: str) -> tuple[str, int, Machine]:
        """The Ray node, the process and the machine that it lives on, as it sees the run."""
        return ray.get_runtime_context().get_node_id(), os.getpid(), environment.this(run)

    def run(self, task: Task, progress: Any) -> Result:
        path = crash_file(os.getpid())
        path.parent.mkdir(parents=True, exist_ok=True)
        in_hand: tuple[str, ...] = ()
        told = 0.0

        def beat(heartbeat: Heartbeat) -> None:
            nonlocal in_hand, told
            in_hand = tuple(heartbeat.ids)
            temporary = path.with_suffix(".new")
            temporary.write_text(json.dumps(in_hand))
            temporary.replace(path.with_suffix(".json"))  # it has to be there before the batch begins
            if time.monotonic() - told > TELL:
                told = time.monotonic()
                progress.beat.remote(task.label, heartbeat)

        beat(Heartbeat())
        with path.open("w") as crash, _heard(task, progress):
            faulthandler.enable(crash)
            # Fires from a thread of C, so it also ends native code that holds the interpreter's lock.
            faulthandler.dump_traceback_later(task.deadline, exit=True, file=crash)
            try:
                return Result(
                    tuple(
                        run_task(
                            task,
                            self._open,
                            beat,
                            self._decode(task),
                            lambda task: train_together(task, progress),
                        )
                    )
                )
            except CapfiltError as error:
                return Result(error=error)
            except Exception:  # everything else is data for the scheduler, which judges and retries
                return Result(unexpected=traceback.format_exc(), in_hand=in_hand)
            finally:
                faulthandler.cancel_dump_traceback_later()
                faulthandler.disable()
                for left in (path, path.with_suffix(".json")):  # only a death leaves them
                    left.unlink(missing_ok=True)

    def _decode(self, task: Task) -> Decode:
        """How a task's images are decoded: with ``fuse`` once for all stages that follow on the same shard."""
        if not (task.fuse and task.shard):
            return decode_again
        if self._pictures is None:
            from capfilt.models.images.decode import DecodedImages

            self._pictures = DecodedImages()
        self._pictures.begin(f"{task.run} {task.shard}")
        return self._pictures

    def _open(self, task: Task, site: Site) -> Transform:
        """The transform of the task's stage, opened once for all of its shards."""
        assert isinstance(task.stage, ShardStage)
        if task.fingerprint not in self._opened:
            while len(self._opened) >= KEEP_OPEN:
                self._opened.popitem(last=False)
            began = time.monotonic()
            self._opened[task.fingerprint] = task.stage.open(site)
            seconds = time.monotonic() - began
            if seconds > SLOW:  # a model was loaded; others are opened at every turn
                log.info("opened %s in %.1f s, on %s", task.name, seconds, task.device)
        self._opened.move_to_end(task.fingerprint)
        return self._opened[task.fingerprint]
