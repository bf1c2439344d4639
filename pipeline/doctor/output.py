"""Checks of the storage that a recipe writes to, with a file that this machine and the nodes show each other."""

import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from capfilt.data_contracts.errors import StorageError
from capfilt.pipeline.doctor.finding import Finding
from capfilt.pipeline.storage import Folder, storage_at

PATIENCE = 5.0  # seconds that a storage may fail before it is said


class Output:
    """A hidden file in the recipe's output. Whatever was made is removed by :meth:`close`.

    ``name`` is that of the file while it is there, ``token`` what is in it.
    """

    def __init__(self, where: str) -> None:
        self.where, self.name, self.token = where, "", uuid.uuid4().hex
        self._storage = storage_at(where)
        self._written: list[str] = []
        self._made: list[Path] = []
        if isinstance(self._storage, Folder):
            path = self._storage.path / "_tmp"
            self._made = [one for one in (path, *path.parents) if not one.exists()]

    def check(self) -> Iterator[Finding]:
        """Write, write again under the same name, read, remove."""
        storage, name = self._storage, f".capfilt-doctor-{self.token}"
        self._written = [name, f"{name}-again"]
        first = storage.claim(name, self.token.encode())
        second = storage.claim(name, b"another writer's")
        read = storage.read(name)
        if not first or second or read != self.token.encode():
            raise StorageError(
                what=f"the storage does not put if absent: {self.where}",
                evidence=f"the second of two writers was told that it {'won' if second else 'lost'}, "
                f"and {read[:40]!r} is there",
                remedy="give another output: a store with conditional PUT (If-None-Match), a disk with hard links",
            )
        storage.claim(f"{name}-again", b"")
        storage.remove(f"{name}-again")
        if storage.size(f"{name}-again") is not None:
            raise StorageError(
                what=f"the storage does not remove: {self.where}", remedy="grant the right to delete there"
            )
        self.name = name
        yield Finding("output", "ok", f"{self.where}: written, put if absent, read, removed")

    def answered(self, node: str) -> bool:
        """Whether what the node wrote is seen here."""
        name = f"{self.name}-{node}"
        self._written.append(name)
        try:
            return self._storage.read(name) == self.token.encode()
        except FileNotFoundError:
            return False

    def close(self) -> Iterator[Finding]:
        """Nothing to be said; an iterator, so that it can be bounded like a check."""
        with suppress(StorageError):
            self._storage.remove(*self._written)
        for folder in self._made:
            with suppress(OSError):
                folder.rmdir()
        return iter(())
