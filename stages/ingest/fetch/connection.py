"""A connection with a total deadline and a minimum rate: a socket's own timeout starts anew with every byte."""

import io
import socket
import ssl
import time
from collections.abc import Sequence
from typing import Any

from capfilt.data_contracts.rejects import Reason
from capfilt.stages.ingest.fetch.error import FetchError
from capfilt.stages.ingest.fetch.url import Url

_GRACE = 6  # the minimum rate counts after this fraction of the time limit


class Clock:
    """Seconds that are left of a limit."""

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self._ends = time.monotonic() + limit

    @property
    def over(self) -> bool:
        return time.monotonic() >= self._ends

    def left(self) -> float:
        """Raises FetchError TIMEOUT when none are."""
        left = self._ends - time.monotonic()
        if left <= 0:
            raise FetchError(Reason.TIMEOUT, f"{self.limit:g} s")
        return left


def connect(target: Url, addresses: Sequence[str], clock: Clock, context: ssl.SSLContext) -> socket.socket:
    """Connects to one of the addresses themselves; TLS is checked against the name.

    Raises:
        FetchError: CONNECT or TIMEOUT, of the last address that was tried.
    """
    last = FetchError(Reason.CONNECT, "no address")
    for number, address in enumerate(addresses):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        connection = socket.socket(family, socket.SOCK_STREAM)
        try:
            connection.settimeout(clock.left() / (len(addresses) - number))
            connection.connect((address, target.port))
            if target.scheme == "https":
                connection.settimeout(clock.left())
                connection = context.wrap_socket(connection, server_hostname=target.host)
            return connection
        except TimeoutError:
            last = FetchError(Reason.TIMEOUT, "no connection")
        except ssl.SSLError as error:
            last = FetchError(Reason.CONNECT, f"TLS: {error.reason or type(error).__name__}")
        except OSError as error:
            last = FetchError(Reason.CONNECT, error.strerror or type(error).__name__)
        except FetchError:
            connection.close()
            raise
        connection.close()
    raise last


class TimedConnection(io.RawIOBase):
    """What http.client reads from instead of a socket. ``cap`` bounds all bytes together, headers included."""

    def __init__(self, connection: socket.socket, clock: Clock, min_rate: int, cap: int) -> None:
        self._connection, self._clock = connection, clock
        self._min_rate, self._cap = min_rate, cap
        self._received = 0
        self._began = 0.0

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(self, 65536)

    def readable(self) -> bool:
        return True

    def send(self, request: bytes) -> None:
        try:
            self._connection.settimeout(self._clock.left())
            self._connection.sendall(request)
        except TimeoutError:
            raise FetchError(Reason.TIMEOUT, "the request was not taken") from None

    def readinto(self, buffer: Any) -> int:
        left = self._clock.left()
        due = self._due()
        try:
            self._connection.settimeout(min(left, max(due, 0.01)))
            received = self._connection.recv_into(buffer)
        except TimeoutError:
            raise (
                self._slow() if due < left else FetchError(Reason.TIMEOUT, f"{self._clock.limit:g} s")
            ) from None
        self._began = self._began or time.monotonic()
        self._received += received
        if self._received > self._cap:
            raise FetchError(Reason.TOO_LARGE, f"over {self._cap} bytes with headers")
        if received and self._due() < 0:
            raise self._slow()
        return received

    def _due(self) -> float:
        """Seconds until the bytes received so far are too few. The wait for the first byte is not a rate."""
        if not self._began or not self._min_rate:
            return float("inf")
        lasts = max(self._clock.limit / _GRACE, self._received / self._min_rate)
        return self._began + lasts - time.monotonic()

    def _slow(self) -> FetchError:
        seconds = time.monotonic() - self._began
        return FetchError(Reason.TOO_SLOW, f"{self._received} bytes in {seconds:.1f} s")

    def close(self) -> None:
        if not self.closed:
            self._connection.close()
        super().close()
