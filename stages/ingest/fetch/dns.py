"""Names to addresses, within a time limit: the system's resolver has none that a caller could set."""

import ipaddress
import socket
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future

from capfilt.data_contracts.rejects import Reason
from capfilt.stages.ingest.fetch.error import FetchError

Lookup = Callable[[str], Sequence[str]]


def look_up(host: str) -> list[str]:
    """The addresses of a name, as the system's resolver orders them."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class Resolver:
    """Each name is looked up once for all threads, and again after ``lasting`` seconds.

    A look-up that hangs keeps a thread of its own, which nobody waits for.
    """

    def __init__(self, lookup: Lookup = look_up, lasting: float = 300.0) -> None:
        self._lookup, self._lasting = lookup, lasting
        self._lock = threading.Lock()
        self._found: dict[str, tuple[float, Future[Sequence[str]]]] = {}

    def addresses(self, host: str, within: float) -> Sequence[str]:
        """At least one address. A number in any spelling (decimal, octal, hexadecimal) is one, without a look-up.

        Raises:
            FetchError: DNS.
        """
        number = _number(host)
        if number is not None:
            return [number]
        try:
            addresses = self._asked(host).result(within)
        except TimeoutError:
            raise FetchError(Reason.DNS, f"{host}: no answer within {within:.0f} s") from None
        except socket.gaierror as error:
            soon = error.errno == socket.EAI_AGAIN
            if soon:
                with self._lock:
                    self._found.pop(host, None)
            raise FetchError(Reason.DNS, f"{host}: {error.strerror}", again=soon) from None
        except (OSError, UnicodeError) as error:
            raise FetchError(Reason.DNS, f"{host}: {type(error).__name__}") from None
        if not addresses:
            raise FetchError(Reason.DNS, f"{host}: no address")
        return addresses

    def _asked(self, host: str) -> "Future[Sequence[str]]":
        with self._lock:
            until, future = self._found.get(host, (0.0, None))
            if future is None or until < time.monotonic():
                future = Future()
                self._found[host] = (time.monotonic() + self._lasting, future)
                threading.Thread(target=self._answer, args=(host, future), daemon=True).start()
            return future

    def _answer(self, host: str, future: "Future[Sequence[str]]") -> None:
        try:
            future.set_result(self._lookup(host))
        except Exception as error:
            future.set_exception(error)


def _number(host: str) -> str | None:
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        return socket.inet_ntoa(socket.inet_aton(host))
    except OSError:
        return None
