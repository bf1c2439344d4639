"""The verbs of a storage."""

import posixpath
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple


class Entry(NamedTuple):
    """A file of a folder: its own name and its size in bytes."""

    name: str
    size: int


class Storage(ABC):
    """A folder in some storage. Names are relative to it, with ``/`` between folders.

    Every method raises :class:`StorageError` when the storage fails for longer than ``patience.SECONDS``, or
    refuses.
    """

    url: str

    def __repr__(self) -> str:
        return self.url

    def __str__(self) -> str:
        return self.url

    @property
    def name(self) -> str:
        return posixpath.basename(self.url)

    @abstractmethod
    def at(self, relative: str) -> "Storage":
        """The folder at a relative path, such as ``../parent``."""

    @property
    @abstractmethod
    def absolute(self) -> str:
        """Where it lies, for who looks from elsewhere."""

    @abstractmethod
    def relative(self, other: "Storage") -> str:
        """The path of ``other`` as seen from here; absolute when they have nothing in common."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """The whole file. Raises :class:`FileNotFoundError`."""

    @abstractmethod
    def size(self, name: str) -> int | None:
        """The size in bytes, or ``None`` when there is no such file."""

    @abstractmethod
    def entries(self, folder: str) -> Iterator[Entry]:
        """The files directly in a folder; none when there is no such folder."""

    @abstractmethod
    def create(self, name: str, source: Path) -> bool:
        """Put-if-absent of a finished file from :meth:`scratch`; ``False`` when the name is taken."""

    def claim(self, name: str, data: bytes) -> bool:
        """Put-if-absent of a few bytes; ``False`` when the name is taken."""
        with self.scratch() as folder:
            path: Path = folder / posixpath.basename(name)
            path.write_bytes(data)
            return self.create(name, path)

    @abstractmethod
    def replace(self, name: str, data: bytes) -> None:
        """Write a file, whole or not at all, over whatever has the name."""

    @abstractmethod
    def remove(self, *names: str) -> None:
        """Remove files; no error for those that are not there."""

    @abstractmethod
    def scratch(self) -> Any:
        """A context manager: a local folder that nobody else has, removed afterwards."""

    @abstractmethod
    def sweep(self) -> None:
        """Remove what dead attempts left behind."""

    @abstractmethod
    def lasting(self, name: str) -> Path:
        """A local folder that outlives an attempt; an attempt asks once, when it begins.

        On an object store it starts as what :meth:`keep` last put there, whatever this machine still has.
        """

    @abstractmethod
    def keep(self, name: str) -> None:
        """Make what is in :meth:`lasting` survive this machine."""

    @abstractmethod
    def forget(self, name: str) -> None:
        """Remove a lasting folder."""

    @abstractmethod
    def tree(self, folder: str) -> list[str]:
        """The names, relative to ``folder``, of all files below it; sorted."""

    @abstractmethod
    def put_tree(self, directory: Path, folder: str) -> None:
        """Publish a directory of files; where the name is taken, what is there stays."""

    @abstractmethod
    def move_tree(self, folder: str, to: str) -> None:
        """Give a folder another name."""

    @abstractmethod
    def local_tree(self, folder: str, digest: str) -> Path:
        """The folder on this machine's own file system; fetched once a machine, under its digest."""

    @property
    def fsspec(self) -> Any:
        """The file system with which other readers (DuckDB) open this storage's urls; ``None`` for local paths."""
        return None
