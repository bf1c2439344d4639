"""The run's log: one JSON object a line, in ``RUN/_log`` and, with ``CAPFILT_LOG=json``, on stderr.

Object stores cannot append, so the lines of a runner are written as whole files, each of about a megabyte: the last
one anew every few seconds, the others never again. :func:`read` gives them back when the cluster is long gone.
"""

import heapq
import json
import logging
import os
import socket
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from itertools import groupby
from typing import Any

from capfilt.data_contracts.errors import StorageError
from capfilt.pipeline.execution.events import Event, Listener, ProgressSeen
from capfilt.pipeline.ledger import lease, submission
from capfilt.pipeline.ledger.ledger import Ledger
from capfilt.pipeline.storage import Storage

FOLDER = "_log"
COMING = 60.0  # seconds for which a job may be on its way
EVERY = 5.0  # seconds between two writes of the last file
FULL = 2**20  # bytes after which another file begins
LOOK = 30.0  # seconds between two lines on how far a stage is
PATIENCE = 10.0  # seconds for the last lines when a run ends: what stopped it may be the storage


def on_stderr() -> bool:
    """Whether the log is asked for on stderr, instead of bars."""
    return os.environ.get("CAPFILT_LOG") == "json"


def read(ledger: Ledger) -> Iterator[dict[str, Any]]:
    """All lines of all runners of a run, in the order of their times."""
    names = _names(ledger)
    runners = [_lines(ledger, list(own)) for _, own in groupby(names, lambda name: name.rpartition("-")[0])]
    return heapq.merge(*runners, key=_time)


def last(ledger: Ledger) -> dict[str, Any] | None:
    """The last line of the last runner: its event is ``run_ended`` unless it was killed, or still runs."""
    lines = list(_lines(ledger, _names(ledger)[-1:]))
    return lines[-1] if lines else None


def follow(ledger: Ledger) -> Iterator[dict[str, Any]]:
    """All lines, then those to come, as they are written, until nobody is at work in the run."""
    sizes: dict[str, int | None] = {}
    told: Counter[str] = Counter()
    beat, since = lease.read(ledger.storage), time.monotonic()
    sent = submission.read(ledger.storage)
    coming, submitted = sent is not None, sent.submitted if sent else ""  # a job that has not begun yet
    while True:
        for name, size in sorted(ledger.storage.entries(FOLDER)):
            if sizes.get(name) != size:
                lines = ledger.storage.read(f"{FOLDER}/{name}").splitlines()
                for line in map(json.loads, lines[told[name] :]):
                    coming = coming and not (line["event"] == "run_begun" and line["time"] > submitted)
                    yield line
                sizes[name], told[name] = size, len(lines)
        holder = lease.read(ledger.storage)
        if holder != beat:
            beat, since = holder, time.monotonic()
        quiet = time.monotonic() - since
        if quiet > (COMING if coming else lease.STALE) or not (coming or (holder and not holder.gone)):
            return
        time.sleep(min(EVERY, lease.BEAT))


def _names(ledger: Ledger) -> list[str]:
    """The files of the log, a runner's own beside each other, in the order in which they began."""
    return sorted(name for name, _ in ledger.storage.entries(FOLDER) if name.endswith(".jsonl"))


def _lines(ledger: Ledger, names: list[str]) -> Iterator[dict[str, Any]]:
    for name in names:
        lines = map(json.loads, ledger.storage.read(f"{FOLDER}/{name}").splitlines())
        yield from sorted(lines, key=_time)  # what workers say comes a moment late


def _time(line: dict[str, Any]) -> str:
    return str(line["time"])


class RunLog(Listener):
    """Writes down what happens. It says once in a while how far stages are, and every part that is committed."""

    def __init__(self, ledger: Ledger) -> None:
        self._logger = logging.Logger("capfilt")
        self._stored = _Stored(ledger.storage)
        handlers = [self._stored, *([logging.StreamHandler(sys.stderr)] if on_stderr() else [])]
        for handler in handlers:
            handler.setFormatter(_Lines(ledger.storage.name))
            self._logger.addHandler(handler)
        self._looked = time.monotonic()

    def __enter__(self) -> None:
        self._stored.start()

    def __exit__(self, *_: object) -> None:
        self._stored.close()

    def hear(self, event: Event) -> None:
        lines = self._standing(event) if isinstance(event, ProgressSeen) else event.lines()
        for message, facts in lines:
            extra = {"facts": {"event": event.name, **facts}, "at": event.time}
            self._logger.log(event.level, "%s", message, extra=extra)

    def _standing(self, looked: ProgressSeen) -> Iterator[tuple[str, dict[str, Any]]]:
        if time.monotonic() - self._looked < LOOK:
            return
        self._looked = time.monotonic()
        shares = looked.shares()
        said = {task.name: heartbeat for task, _, heartbeat in looked.each() if heartbeat.text}
        for stage, count in looked.counts.items():
            if count.running:
                text = f", {said[stage].text}" if stage in said else ""
                facts = {**count._asdict(), "share": round(shares[stage], 4)}
                figures = {"figures": dict(said[stage].figures)} if stage in said else {}
                yield f"{stage} is at {shares[stage]:.1%}{text}", {"stage": stage, **facts, **figures}


class _Lines(logging.Formatter):
    """A record as one line of JSON. Times are UTC; the host is the driver's unless the facts name another."""

    def __init__(self, run: str) -> None:
        super().__init__()
        self._always = {"run": run, "host": socket.gethostname()}

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(getattr(record, "at", record.created), UTC)
        line = {
            "time": moment.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            **self._always,
            "message": record.getMessage(),
            **getattr(record, "facts", {}),
        }
        return json.dumps({key: value for key, value in line.items() if value != ""}, default=str)


class _Stored(logging.Handler):
    """Keeps lines, and has a thread of its own write them to the run's storage."""

    def __init__(self, storage: Storage) -> None:
        super().__init__()
        self._storage = storage
        self._stem = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:8]}"
        self._files: list[list[str]] = [[]]  # those that are not written for good; the last one grows
        self._first = 0  # the number of the first of them
        self._size = self._lines = self._written = 0
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._renew, daemon=True, name="log")
        self._guard = threading.Lock()

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._ending.set()
        if self._thread.is_alive():
            self._thread.join(PATIENCE)
        super().close()

    def emit(self, record: logging.LogRecord) -> None:
        line = self.format(record) + "\n"
        with self._guard:
            self._files[-1].append(line)
            self._lines += 1
            self._size += len(line)
            if self._size >= FULL:
                self._files.append([])
                self._size = 0

    def _renew(self) -> None:
        ending = False
        while not ending:
            ending = self._ending.wait(EVERY)
            # When the storage fails the work itself says so; the lines are kept, and written the next time.
            with suppress(StorageError, OSError):
                self._write()

    def _write(self) -> None:
        with self._guard:
            lines, files = self._lines, ["".join(file) for file in self._files]
        if lines == self._written:
            return
        for number, text in enumerate(files, self._first):
            self._storage.replace(f"{FOLDER}/{self._stem}-{number:04}.jsonl", text.encode())
        with self._guard:
            self._written = lines
            self._first += len(files) - 1
            del self._files[: len(files) - 1]
