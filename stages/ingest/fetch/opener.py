"""The opener that urllib is given in a fetching process: whatever asks for a url there asks through it."""

import email.utils
import http.client
import random
import ssl
import threading
import time
import traceback
import urllib.request
from collections import Counter
from collections.abc import Callable
from typing import Any

from capfilt.data_contracts.rejects import Reason
from capfilt.stages.ingest.fetch import address, robots
from capfilt.stages.ingest.fetch.connection import Clock, TimedConnection, connect
from capfilt.stages.ingest.fetch.dns import Resolver
from capfilt.stages.ingest.fetch.error import FetchError, Later
from capfilt.stages.ingest.fetch.policy import FetchPolicy
from capfilt.stages.ingest.fetch.rate_limit import PATIENCE, RateLimiter, Turn
from capfilt.stages.ingest.fetch.response import Response
from capfilt.stages.ingest.fetch.takedown import TakeDown
from capfilt.stages.ingest.fetch.url import Url

_REDIRECTS = (301, 302, 303, 307, 308)
_AGAIN = (429, 500, 502, 503, 504)


class GuardedOpener(urllib.request.OpenerDirector):
    """Opens http and https urls as a policy says, and nothing else: it has no handlers, so no proxies, no files.

    Every hop is checked: its scheme, the take-down list, robots.txt, and every address its name has; the
    connection goes to an address that was checked. ``began`` and ``put_off`` hear of every row.
    """

    def __init__(
        self,
        policy: FetchPolicy,
        resolver: Resolver | None = None,
        context: ssl.SSLContext | None = None,
        began: Callable[[str], None] = lambda url: None,
        put_off: Callable[[str], None] = lambda url: None,
    ) -> None:
        super().__init__()
        self._policy = policy
        self._allowed = policy.allowed
        self.takedown = policy.takedown.load() if policy.takedown else TakeDown()
        self._resolver = resolver or Resolver()
        self._context = context or ssl.create_default_context()
        self._limiter = RateLimiter(policy.per_host, policy.timeout)
        self._robots = robots.Robots(policy.token, self._robots_txt) if policy.robots else None
        self._began, self._put_off = began, put_off
        self._lock = threading.Lock()
        self._tries: Counter[str] = Counter()

    def open(self, fullurl: Any, data: object = None, timeout: object = None) -> Response:
        """The answer to a url, its headers read. What the caller wants as headers or timeout does not count.

        Raises:
            FetchError: the row's end.
            Later: it may be asked for again.
        """
        url: str = fullurl if isinstance(fullurl, str) else fullurl.full_url
        try:
            response = self._follow(url, self._robots, lambda: self._began(url))
            response.judge = lambda fetch_error: self._as_error(url, fetch_error)
            return response
        except FetchError as fetch_error:
            raise self._as_error(url, fetch_error) from None
        except Later:
            self._put_off(url)
            raise
        except Exception as error:
            traceback.print_exc()
            raise FetchError(Reason.POISON, type(error).__name__) from None

    def _as_error(self, url: str, fetch_error: FetchError) -> Exception:
        """Another try later, if it may help and the row has one left."""
        if not fetch_error.again:
            return fetch_error
        with self._lock:
            self._tries[url] += 1
            tries = self._tries[url]
        wait = fetch_error.wait or 2.0 ** (tries - 1) * random.uniform(0.75, 1.25)
        if tries > self._policy.retries or wait > self._policy.timeout:
            return fetch_error
        self._put_off(url)
        return Later(time.monotonic() + wait)

    def _follow(self, url: str, rules: robots.Robots | None, began: Callable[[], None]) -> Response:
        clock: Clock | None = None
        seen: set[str] = set()
        while True:
            target = Url.parse(url)
            if target.url in seen:
                raise FetchError(Reason.REDIRECTS, f"in a circle, at {target.host}")
            if len(seen) > self._policy.max_redirects:
                raise FetchError(Reason.REDIRECTS, f"more than {self._policy.max_redirects}")
            seen.add(target.url)
            if self.takedown.refuses(url):
                raise FetchError(Reason.TAKEN_DOWN, target.host)
            if rules:
                rules.check(target)
            turn = self._limiter.enter(target.authority, clock.left() if clock else PATIENCE)
            if clock is None:
                clock = Clock(self._policy.timeout)
                began()
            response = self._ask(target, turn, clock)
            if response.status == 200:
                turn.well()
                return response
            with response:
                location = response.headers.get("Location")
                if response.status not in _REDIRECTS or location is None:
                    raise self._status(response)
                url = target.join(location)

    def _ask(self, target: Url, turn: Turn, clock: Clock) -> Response:
        connection: TimedConnection | None = None
        try:
            addresses = self._resolver.addresses(target.host, clock.left())
            for found in addresses:
                address.check(found, target.port, self._allowed)
            most = 2 * self._policy.max_bytes + 2**20
            connection = TimedConnection(
                connect(target, addresses[:4], clock, self._context), clock, self._policy.min_rate, most
            )
            connection.send(self._request(target))
            raw = http.client.HTTPResponse(connection, method="GET")  # type: ignore[arg-type]
            raw.begin()
            turn.answered()
            return Response(raw, connection, turn, self._policy.max_bytes)
        except BaseException as error:
            if connection:
                connection.close()
            if clock.over or (isinstance(error, FetchError) and error.reason is Reason.TIMEOUT):
                turn.hung()
            turn.leave()
            if isinstance(error, http.client.HTTPException | OSError):
                raise FetchError(Reason.CONNECT, f"no HTTP answer: {type(error).__name__}") from None
            raise

    def _request(self, target: Url) -> bytes:
        lines = (
            f"GET {target.selector} HTTP/1.1",
            f"Host: {target.authority}",
            f"User-Agent: {self._policy.user_agent}",
            "Accept: */*",
            "Accept-Encoding: identity",
            "Connection: close",
        )
        return "".join(f"{line}\r\n" for line in (*lines, "")).encode("ascii")

    def _status(self, response: Response) -> FetchError:
        """The refusal of an answer that is no 200. 429, and 503 with a wish, give the whole host its rest."""
        status = response.status
        reason = Reason.of_status(status)
        asked = _retry_after(response.headers.get("Retry-After"))
        wait = asked or 0.0
        if status == 429 or (status == 503 and asked is not None):
            wait = response.turn.rest(asked, reason)
        return FetchError(reason, str(status), again=status in _AGAIN, wait=wait)

    def _robots_txt(self, url: str) -> bytes:
        with self._follow(url, None, lambda: None) as response:
            return response.read_text(robots.LONGEST)


def _retry_after(value: str | None) -> float | None:
    """Seconds, from a number of them or a date; ``None`` for neither."""
    if value is None:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None
