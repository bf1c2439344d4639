"""Who is running: a small file in the run that its runner renews, so that a second one can refuse politely.

What protects committed results is put-if-absent, not the lease: a runner that is taken for dead and wakes up
can waste work, never change what is committed. Whether a lease is alive is judged by its counter against the
observer's own monotonic clock: the clocks of two machines are never compared.
"""

import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from capfilt.data_contracts.errors import BusyError, StorageError
from capfilt.pipeline.storage import Storage

NAME = "_lease.json"
BEAT, STALE = 2.0, 15.0
SUBMISSION = "CAPFILT_SUBMISSION"  # the nonce of what was submitted, in a job's environment


class Doing(BaseModel):
    """A running task: rows or steps done, of how many; ``pid`` is its worker's process, on its own machine."""

    model_config = ConfigDict(frozen=True)

    label: str
    pid: int
    done: int
    total: int
    text: str = ""


class Holder(BaseModel):
    """The runner that holds the lease, as its last beat said. ``submission`` is its job's nonce."""

    model_config = ConfigDict(frozen=True)

    id: str
    host: str
    machine: str
    pid: int
    command: str
    since: str
    submission: str = ""
    beat: int = 0
    said: str = ""
    running: tuple[Doing, ...] = ()

    @property
    def who(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"

    @property
    def gone(self) -> bool:
        """Whether it ran on this very machine and its process has ended."""
        if self.machine != _machine():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass
        return False


def read(storage: Storage) -> Holder | None:
    """The lease that is there; ``None`` when nobody runs."""
    try:
        return Holder.model_validate_json(storage.read(NAME))
    except (FileNotFoundError, ValidationError):
        return None


def alive(storage: Storage, holder: Holder, *, beat: float = BEAT, stale: float = STALE) -> bool:
    """Whether ``holder``'s lease is renewed, or given to another, within ``stale`` seconds."""
    end = time.monotonic() + stale
    while not holder.gone and time.monotonic() < end:
        time.sleep(min(beat / 4, 0.5))
        now = read(storage)
        if now is None or now.gone:
            return False
        if (now.id, now.beat) != (holder.id, holder.beat):
            return True
    return False


class Lease:
    """This process's claim to a run; use it as a context manager.

    With ``join`` it works beside the holder instead: both find what the other has committed.

    Raises:
        BusyError: on entering, when another runner is alive and ``join`` was not asked for; by :meth:`check`, when
            another one has taken the run over.
    """

    def __init__(
        self, storage: Storage, *, join: bool = False, beat: float = BEAT, stale: float = STALE
    ) -> None:
        self._storage, self._join, self._beat, self._stale = storage, join, beat, stale
        self._holder = Holder(
            id=uuid.uuid4().hex,
            host=socket.gethostname(),
            machine=_machine(),
            pid=os.getpid(),
            command=" ".join(Path(word).name for word in sys.argv[:2]),
            since=_now(),
            submission=os.environ.get(SUBMISSION, ""),
        )
        self._running: Callable[[], Sequence[Doing]] = lambda: ()
        self._taken_by: Holder | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> "Lease":
        while not self._claim():
            other = read(self._storage)
            if other is None or not alive(self._storage, other, beat=self._beat, stale=self._stale):
                self._write()
                break
            if self._join:
                return self
            raise BusyError(
                what=f"the run is being worked on: {other.who}",
                evidence=f"its lease was renewed while this command looked on ({self._storage}/{NAME})",
                remedy="wait for it, follow it with `capfilt status --follow`, or add --join to work beside it",
            )
        self._thread = threading.Thread(target=self._renew, daemon=True, name="lease")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            with suppress(
                StorageError
            ):  # what stopped the run says more; a lease without beats is stale soon
                holder = read(self._storage)
                if holder is not None and holder.id == self._holder.id:
                    self._storage.remove(NAME)

    def tell(self, running: Callable[[], Sequence[Doing]]) -> None:
        """What to write beside the beat: asked for at every one."""
        self._running = running

    def check(self) -> None:
        """Raise :class:`BusyError` when another runner has taken the run over, as after a long sleep of this one."""
        if self._taken_by is not None:
            raise BusyError(
                what=f"another runner has taken this run over: {self._taken_by.who}",
                evidence=f"the lease is no longer that of process {self._holder.pid}",
                remedy="nothing is lost: what this one committed stays, and the other carries on",
            )

    def _claim(self) -> bool:
        return self._storage.claim(NAME, self._holder.model_dump_json().encode())

    def _write(self) -> None:
        self._holder = self._holder.model_copy(
            update={"beat": self._holder.beat + 1, "said": _now(), "running": tuple(self._running())}
        )
        self._storage.replace(NAME, self._holder.model_dump_json().encode())

    def _renew(self) -> None:
        while not self._stop.wait(self._beat):
            try:
                other = read(self._storage)
                if other is not None and other.id != self._holder.id:
                    self._taken_by = other
                    return
                self._write()
            # The work itself will say so; or the end of the run sweeps the scratch folder away. A beat may be missed.
            except (StorageError, FileNotFoundError):
                continue


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _machine() -> str:
    """What tells whether a process id means the same: this boot of the machine, and its space of process ids."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + os.readlink("/proc/self/ns/pid")
    except OSError:
        return f"{socket.gethostname()}-{uuid.getnode()}"
