"""What a host's robots.txt allows us, by RFC 9309. (The standard library's parser knows neither wildcards nor
that the longest rule wins, and would fetch what is forbidden.)
"""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from urllib.parse import quote, unquote

from capfilt.data_contracts.rejects import Reason
from capfilt.stages.ingest.fetch.error import FetchError, Later
from capfilt.stages.ingest.fetch.rate_limit import PATIENCE
from capfilt.stages.ingest.fetch.url import Url

LONGEST = 512 * 1024  # bytes of a robots.txt that are read; the standard asks for 500 KiB at least


@dataclass(frozen=True)
class Rules:
    """(pattern, allowed) of the groups that are meant for us; none allow everything."""

    rules: tuple[tuple[str, bool], ...] = ()

    def allow(self, selector: str) -> bool:
        """The longest rule that matches wins; of equally long ones, the one that allows."""
        selector = _plain(selector)
        matching = [(len(pattern), allowed) for pattern, allowed in self.rules if _matches(pattern, selector)]
        return max(matching, default=(0, True))[1]


def parse(text: str, token: str) -> Rules:
    """The rules for the product ``token`` (lower case), or those for everyone where it is not named."""
    groups: dict[str, list[tuple[str, bool]]] = {}
    named: list[str] = []
    in_rules = True
    for line in text.removeprefix("\ufeff").splitlines():
        key, _, value = line.partition("#")[0].partition(":")
        key, value = key.strip().lower(), value.strip()
        if key == "user-agent":
            named = [value.partition("/")[0].strip().lower()] + ([] if in_rules else named)
            groups.setdefault(named[0], [])
            in_rules = False
        elif key in ("allow", "disallow"):
            in_rules = True
            for name in named:
                groups[name] += [(_plain(value), key == "allow")] if value else []
    return Rules(tuple(groups.get(token, groups.get("*", []))))


def _plain(path: str) -> str:
    """One spelling of a path: percent-encoded, except what need not be."""
    return quote(unquote(path, errors="surrogateescape"), safe="/*$?=&~:@!,;'()+[]", errors="surrogateescape")


def _matches(pattern: str, path: str) -> bool:
    """`*` stands for anything, `$` at the end for the end. Linear: a regular expression could be made to hang."""
    ended = pattern.endswith("$")
    first, *rest = pattern.removesuffix("$").split("*")
    if not path.startswith(first):
        return False
    at = len(first)
    if not rest:
        return at == len(path) or not ended
    for piece in rest[:-1]:
        found = path.find(piece, at)
        if found < 0:
            return False
        at = found + len(piece)
    return (
        path.endswith(rest[-1]) and len(path) - len(rest[-1]) >= at if ended else path.find(rest[-1], at) >= 0
    )


class Robots:
    """The rules of every host that was asked for them, each asked once.

    ``fetch`` gives the bytes behind a url, or raises FetchError. No robots.txt (a 4xx answer other than 429)
    allows everything; one that cannot be had (a server error, 429, no answer) forbids everything.
    """

    def __init__(self, token: str, fetch: Callable[[str], bytes]) -> None:
        self._token, self._fetch = token, fetch
        self._lock = threading.Lock()
        self._known: dict[str, Future[Rules | FetchError]] = {}

    def check(self, target: Url) -> None:
        """Raises FetchError: ROBOTS, or why robots.txt cannot be had; Later while another thread asks for it."""
        with self._lock:
            mine = target.origin not in self._known
            future = self._known.setdefault(target.origin, Future())
        if mine:
            self._ask(target, future)
        try:
            rules = future.result(PATIENCE)
        except TimeoutError:
            raise Later(time.monotonic()) from None
        if isinstance(rules, FetchError):
            raise FetchError(rules.reason, f"robots.txt: {rules.detail}")
        if not rules.allow(target.selector):
            raise FetchError(Reason.ROBOTS, target.host)

    def _ask(self, target: Url, future: "Future[Rules | FetchError]") -> None:
        try:
            text = self._fetch(f"{target.origin}/robots.txt").decode("utf-8", "replace")
            future.set_result(parse(text, self._token))
        except FetchError as fetch_error:
            status = fetch_error.reason.startswith("http_") and fetch_error.reason is not Reason.HTTP_429
            absent = status and fetch_error.detail.startswith("4")
            future.set_result(Rules() if absent else fetch_error)
        except (
            Exception
        ) as error:  # a busy host, for one: every waiting row hears of it, a later one asks again
            with self._lock:
                del self._known[target.origin]
            future.set_exception(error)
