"""Manners towards hosts: few requests at once, rest for whom asks for it, and no waiting for the dead."""

import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field

from capfilt.data_contracts.rejects import Reason
from capfilt.stages.ingest.fetch.error import FetchError, Later

PATIENCE = 1.0  # seconds that a thread waits for a place at a busy host before it turns to another row


@dataclass
class _Host:
    free: threading.Condition
    inside: int = 0
    resumes: float = 0.0
    paused: float = 0.0
    why: Reason = Reason.HTTP_429
    strikes: int = 0
    hangs: int = 0
    dead: bool = False


class RateLimiter:
    """At most ``per_host`` requests at once to a host, one fewer for each that hung since it last answered.

    A host where that many (at least 4) hung with no answer between them rests for half of ``timeout``; then one
    request tries it, and when that hangs too the host is dead for its other rows. So a dead host costs few
    waits, however many rows it has.
    """

    def __init__(self, per_host: int, timeout: float) -> None:
        self._per_host, self._timeout = per_host, timeout
        self._lock = threading.Lock()
        self._hosts: dict[str, _Host] = defaultdict(lambda: _Host(threading.Condition(self._lock)))

    def enter(self, name: str, patience: float = PATIENCE) -> "Turn":
        """Waits up to ``patience`` seconds for a place.

        Raises:
            Later: the host is busy, or rests for a time that is worth waiting for.
            FetchError: it rests for longer than ``timeout``, or is dead.
        """
        ends = time.monotonic() + patience
        with self._lock:
            host = self._hosts[name]
            while True:
                now = time.monotonic()
                if host.dead:
                    raise FetchError(Reason.TIMEOUT, "not asked: its host hung for others")
                if host.resumes - now > self._timeout:
                    raise FetchError(host.why, f"its host asks for {host.resumes - now:.0f} s of rest")
                if host.resumes > now:
                    raise Later(host.resumes)
                suspect = host.hangs >= max(4, self._per_host)
                if host.inside < max(1, self._per_host - host.hangs):
                    host.inside += 1
                    return Turn(self, host, suspect, now)
                if now >= ends:
                    raise Later(now)
                host.free.wait(ends - now)

    def leave(self, host: _Host) -> None:
        with self._lock:
            host.inside -= 1
            host.free.notify()

    def answered(self, host: _Host) -> None:
        with self._lock:
            host.hangs = 0

    def well(self, host: _Host) -> None:
        with self._lock:
            host.strikes = 0

    def hung(self, host: _Host, suspect: bool) -> None:
        with self._lock:
            host.hangs += 1
            if suspect:
                host.dead = True
            elif host.hangs == max(4, self._per_host):
                host.resumes = max(host.resumes, time.monotonic() + self._timeout / 2)
            host.free.notify_all()

    def rest(self, host: _Host, asked: float | None, why: Reason, entered: float) -> float:
        """Pauses a host for all its rows; returns for how many seconds. Without a wish of its own: 1, 2, 4 ..."""
        with self._lock:
            now = time.monotonic()
            if entered >= host.paused:  # requests that were under way together are one strike
                host.strikes, host.paused = host.strikes + 1, now
            seconds = asked if asked is not None else min(2.0 ** (host.strikes - 1), self._timeout)
            host.resumes, host.why = max(host.resumes, now + seconds), why
            host.free.notify_all()
            return seconds


@dataclass
class Turn:
    """One request's place at its host, to be left once."""

    _limiter: RateLimiter
    _host: _Host
    _suspect: bool
    _entered: float
    _left: bool = field(default=False, init=False)

    def leave(self) -> None:
        if not self._left:
            self._left = True
            self._limiter.leave(self._host)

    def answered(self) -> None:
        """A response began: the host lives."""
        self._limiter.answered(self._host)

    def well(self) -> None:
        """It no longer asks for rest."""
        self._limiter.well(self._host)

    def hung(self) -> None:
        """The time was up without a sign of it."""
        self._limiter.hung(self._host, self._suspect)

    def rest(self, asked: float | None, why: Reason) -> float:
        return self._limiter.rest(self._host, asked, why, self._entered)
