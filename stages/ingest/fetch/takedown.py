"""A take-down list: what must not be fetched or kept, whatever a source says.

A text file, one entry a line; `#` begins a comment. An entry is a url (http and https are one), a domain (with
all its subdomains) or the sha256 of an image's bytes, 64 hex digits.
"""

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path

from capfilt.data_contracts.errors import RecipeError, SourceError
from capfilt.stages.ingest.fetch.error import FetchError
from capfilt.stages.ingest.fetch.url import Url

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class TakeDown:
    """The entries, by kind."""

    urls: frozenset[str] = frozenset()
    domains: frozenset[str] = frozenset()
    hashes: frozenset[str] = frozenset()

    def refuses(self, url: str) -> bool:
        """Whether the url or its domain is named. A url that cannot be read is not."""
        try:
            target = Url.parse(url)
        except FetchError:
            return False
        labels = target.host.split(".")
        named = (".".join(labels[start:]) for start in range(len(labels)))
        return target.authority + target.selector in self.urls or any(name in self.domains for name in named)

    def refuses_bytes(self, data: bytes) -> bool:
        """Whether an image is named by the sha256 of its bytes."""
        return bool(self.hashes) and hashlib.sha256(data).hexdigest() in self.hashes

    def names(self, url: str, image_id: str) -> bool:
        """Whether an image is named by its url, its domain or its image_id."""
        return image_id in self.hashes or (bool(self.urls or self.domains) and self.refuses(url))

    @property
    def digest(self) -> str:
        """sha256 of the entries: their order, comments and spelling do not count."""
        entries = sorted(self.urls | self.domains | self.hashes)
        return hashlib.sha256("\n".join(entries).encode()).hexdigest()


@dataclass(frozen=True)
class TakeDownFile:
    """A list that stands in a file: its digest is identity, where it lies is not."""

    digest: str
    path: str = field(metadata={"identity": False})

    @classmethod
    def of(cls, path: str) -> "TakeDownFile":
        return cls(read(path).digest, path)

    def load(self) -> TakeDown:
        """The entries.

        Raises:
            SourceError: when they are others than the run was planned with.
        """
        entries = read(self.path)
        if entries.digest != self.digest:
            raise SourceError(
                what=f"the take-down list {self.path} has changed since the run was planned",
                evidence=f"digest {entries.digest[:12]}, planned with {self.digest[:12]}",
                remedy="run the recipe again, as a fork of this run",
            )
        return entries


def read(path: str) -> TakeDown:
    """Reads a list.

    Raises:
        RecipeError: for a file that cannot be read, and for a line that is none of the three.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(
            what=f"the take-down list {path} cannot be read",
            evidence=str(error),
            remedy="mend its path in the recipe, or the file",
        ) from None
    urls, domains, hashes = set(), set(), set()
    for number, line in enumerate(lines, 1):
        entry = re.sub(r"(^|\s)#.*", "", line).strip()
        if not entry:
            continue
        if _SHA256.fullmatch(entry.lower()):
            hashes.add(entry.lower())
            continue
        try:
            target = Url.parse(entry if "://" in entry else f"http://{entry}")
        except FetchError as fetch_error:
            raise RecipeError(
                what=f"line {number} of the take-down list {path} is no url, domain or sha256",
                evidence=f"{entry[:80]}: {fetch_error.detail}",
                remedy="one entry a line; what follows # is a comment",
            ) from None
        if "/" in entry:
            urls.add(target.authority + target.selector)
        else:
            domains.add(target.host)
    return TakeDown(frozenset(urls), frozenset(domains), frozenset(hashes))
