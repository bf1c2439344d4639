"""A url taken apart: what is connected to and what is asked for."""

import contextlib
import ipaddress
import re
import string
from dataclasses import dataclass
from urllib.parse import quote, urljoin, urlsplit

from capfilt.data_contracts.rejects import Reason
from capfilt.stages.ingest.fetch.error import FetchError

_PORTS = {"http": 80, "https": 443}
_SAFE = "".join(sorted(set(string.punctuation) - set('"<>')))
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*", re.ASCII | re.IGNORECASE)
_NAME = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*", re.ASCII)


@dataclass(frozen=True)
class Url:
    """``host`` is lower-case ASCII, an IPv6 address without brackets; ``selector`` is path and query, quoted."""

    scheme: str
    host: str
    port: int
    selector: str

    @classmethod
    def parse(cls, url: str) -> "Url":
        """Takes a url apart. A url with a name and password in it is refused: secrets do not belong in a list.

        Raises:
            FetchError: BAD_URL or SCHEME.
        """
        url = url.strip()
        if any(ord(character) < 32 or ord(character) == 127 for character in url):
            raise FetchError(Reason.BAD_URL, "a control character")
        scheme, colon, _ = url.partition(":")
        if not colon or not _SCHEME.fullmatch(scheme):
            raise FetchError(Reason.BAD_URL, "no scheme")
        if scheme.lower() not in _PORTS:
            raise FetchError(Reason.SCHEME, scheme.lower())
        try:
            parts = urlsplit(url)
            port, host = parts.port, _host(parts.hostname or "")
            selector = quote(parts.path or "/", safe=_SAFE)
            if parts.query:
                selector += "?" + quote(parts.query, safe=_SAFE)
        except ValueError as error:  # a UnicodeError is one; its text would repeat the url
            raise FetchError(
                Reason.BAD_URL, str(error) if type(error) is ValueError else "its host"
            ) from None
        if "@" in parts.netloc:
            raise FetchError(Reason.BAD_URL, "a name or password in it")
        if port == 0:
            raise FetchError(Reason.BAD_URL, "port 0")
        return cls(parts.scheme, host, _PORTS[parts.scheme] if port is None else port, selector)

    @property
    def authority(self) -> str:
        """As the Host header has it: the port only where it is not the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def origin(self) -> str:
        return f"{self.scheme}://{self.authority}"

    @property
    def url(self) -> str:
        return self.origin + self.selector

    def join(self, location: str) -> str:
        """The url that a Location header leads to. Servers send raw UTF-8, which http.client reads as Latin-1."""
        with contextlib.suppress(UnicodeError):
            location = location.encode("latin-1").decode("utf-8")
        try:
            return urljoin(self.url, location.strip())
        except ValueError:
            raise FetchError(Reason.BAD_URL, "a redirect that cannot be read") from None


def _host(host: str) -> str:
    """Raises ValueError (a UnicodeError is one) when it is neither a name nor an address."""
    if ":" in host:
        if "%" in host:
            raise ValueError("an address with a zone")
        return str(ipaddress.IPv6Address(host))
    if not host.isascii():
        host = host.encode("idna").decode()
    host = host.lower().removesuffix(".")
    if not _NAME.fullmatch(host) or len(host) > 253 or any(len(label) > 63 for label in host.split(".")):
        raise ValueError("no host" if not host else "a host that is no name")
    return host
