"""How the web is asked: what may be fetched, and how patiently."""

import importlib.metadata
import ipaddress
from dataclasses import dataclass, field
from typing import Any

from capfilt.data_contracts.errors import RecipeError
from capfilt.stages.ingest.fetch.address import Network
from capfilt.stages.ingest.fetch.takedown import TakeDownFile

_MANNERS: dict[str, Any] = {"identity": False}


def _agent() -> str:
    try:
        return f"capfilt/{importlib.metadata.version('capfilt')}"
    except importlib.metadata.PackageNotFoundError:  # a job's working directory, not an installation
        return "capfilt"


@dataclass(frozen=True)
class FetchPolicy:
    """What may be fetched is identity; how patiently it is asked for is not: the web answers as it likes anyway.

    ``user_agent`` is among the manners: it names capfilt and its version, and another version must not make
    another run. ``timeout`` counts seconds of one try from the moment its host has a place for it: name,
    connection, redirects and body. A host that asks for rest (429, 503) gets it between tries, at most
    ``timeout`` seconds each time. ``max_bytes`` bounds a body as sent and unpacked, ``min_rate`` is bytes a
    second, averaged after a sixth of ``timeout``. ``threads`` rows are asked for at once, ``per_host`` of one
    host. After ``shard_deadline`` seconds the finished rows are kept and the rest leave.

    Raises:
        RecipeError: for a value out of its range.
    """

    allow_private: tuple[str, ...] = ()
    max_bytes: int = 20_000_000
    max_redirects: int = 5
    robots: bool = False
    takedown: TakeDownFile | None = None
    user_agent: str = field(default_factory=_agent, metadata=_MANNERS)
    timeout: float = field(default=30.0, metadata=_MANNERS)
    min_rate: int = field(default=1000, metadata=_MANNERS)
    threads: int = field(default=32, metadata=_MANNERS)
    per_host: int = field(default=4, metadata=_MANNERS)
    retries: int = field(default=2, metadata=_MANNERS)
    shard_deadline: float = field(default=1800.0, metadata=_MANNERS)

    def __post_init__(self) -> None:
        for name in ("max_bytes", "timeout", "threads", "per_host", "shard_deadline"):
            if getattr(self, name) <= 0:
                raise _bad(name, getattr(self, name), "more than 0")
        for name in ("max_redirects", "min_rate", "retries"):
            if getattr(self, name) < 0:
                raise _bad(name, getattr(self, name), "0 or more")
        if not self.token or not self.user_agent.isascii() or not self.user_agent.isprintable():
            raise _bad(
                "user_agent", self.user_agent, "printable ASCII, as in `capfilt/1.0 (+https://you.org/bot)`"
            )
        _ = self.allowed

    @property
    def allowed(self) -> tuple[Network, ...]:
        """The private networks that may be connected to."""
        try:
            return tuple(ipaddress.ip_network(network) for network in self.allow_private)
        except ValueError as error:
            raise RecipeError(
                what="FetchPolicy.allow_private is not a list of networks",
                evidence=str(error),
                remedy="write networks, as in [10.0.0.0/8, 127.0.0.1/32]",
            ) from None

    @property
    def token(self) -> str:
        """What robots.txt and X-Robots-Tag know us by: the product's name, lower case."""
        return self.user_agent.partition("/")[0].partition(" ")[0].lower()


def _bad(name: str, value: object, wanted: str) -> RecipeError:
    return RecipeError(
        what=f"FetchPolicy.{name} is out of range", evidence=repr(value), remedy=f"wanted: {wanted}"
    )
