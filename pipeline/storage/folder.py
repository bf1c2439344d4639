"""A run in a local folder."""

import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar, cast

from capfilt.data_contracts.errors import StorageError
from capfilt.pipeline.storage.failpoints import failpoint
from capfilt.pipeline.storage.patience import PASSING, REMEDIES, again
from capfilt.pipeline.storage.storage import Entry, Storage

F = TypeVar("F", bound=Callable[..., Any])


def _patiently(method: F) -> F:
    """Try again, with back-off, after errors of the disk that may pass; then say what is wrong."""

    def passes(error: BaseException) -> bool:
        return isinstance(error, OSError) and error.errno in PASSING

    @wraps(method)
    def call(self: "Folder", *args: Any, **kwargs: Any) -> Any:
        try:
            return again(passes)(method, self, *args, **kwargs)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise StorageError(
                what=f"the storage of the run fails: {self.path}",
                evidence=f"{error.strerror or error}: {error.filename or ''} ({method.__name__})",
                remedy=REMEDIES.get(error.errno or 0, "check the disk"),
                run=str(self.path),
            ) from error

    return cast(F, call)


class Folder(Storage):
    """A local folder, or one that is mounted (NFS and the like need hard links)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.url = str(path)

    @property
    def name(self) -> str:
        return self.path.resolve().name

    def at(self, relative: str) -> Storage:
        return Folder((self.path / relative).resolve())

    @property
    def absolute(self) -> str:
        return str(self.path.resolve())

    def relative(self, other: Storage) -> str:
        return os.path.relpath(other.absolute, self.absolute) if isinstance(other, Folder) else other.absolute

    @_patiently
    def read(self, name: str) -> bytes:
        return (self.path / name).read_bytes()

    @_patiently
    def size(self, name: str) -> int | None:
        try:
            return (self.path / name).stat().st_size
        except FileNotFoundError:
            return None

    def entries(self, folder: str) -> Iterator[Entry]:
        yield from self._entries(folder)

    @_patiently
    def _entries(self, folder: str) -> list[Entry]:
        found = []
        try:
            with os.scandir(self.path / folder) as entries:
                for entry in entries:
                    # One that goes while we look (another runner compacts) does not hide the others.
                    with suppress(FileNotFoundError):
                        if entry.is_file():
                            found.append(Entry(entry.name, entry.stat().st_size))
        except FileNotFoundError:
            return []
        return found

    @_patiently
    def create(self, name: str, source: Path) -> bool:
        target = self.path / name
        failpoint("create.written")
        _sync(source)
        failpoint("create.synced")
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source, target)
        except FileExistsError:
            if not os.path.samefile(source, target):  # ours, if an error came after the link
                return False
        failpoint("create.linked")
        _sync(target.parent)
        return True

    claim = _patiently(Storage.claim)

    @_patiently
    def replace(self, name: str, data: bytes) -> None:
        target = self.path / name
        with self.scratch() as folder:
            temporary = folder / target.name
            temporary.write_bytes(data)
            _sync(temporary)
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary.replace(target)

    @_patiently
    def remove(self, *names: str) -> None:
        for name in names:
            (self.path / name).unlink(missing_ok=True)

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        folder = self.path / "_tmp" / uuid.uuid4().hex
        self._make(folder)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    @_patiently
    def _make(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except FileNotFoundError as error:  # as below /proc; it is no file that somebody looked for
            raise StorageError(
                what=f"the output cannot be made: {self.path}",
                evidence=str(error),
                remedy="give a folder on a disk that this user may write to, or a store",
            ) from error

    def sweep(self) -> None:
        shutil.rmtree(self.path / "_tmp", ignore_errors=True)

    def lasting(self, name: str) -> Path:
        folder = self.path / "_tmp" / "lasting" / name
        self._make(folder)
        return folder

    def keep(self, name: str) -> None:
        """It lies in the run already."""

    def forget(self, name: str) -> None:
        shutil.rmtree(self.path / "_tmp" / "lasting" / name, ignore_errors=True)

    @_patiently
    def tree(self, folder: str) -> list[str]:
        root = self.path / folder
        return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())

    @_patiently
    def put_tree(self, directory: Path, folder: str) -> None:
        for path in directory.rglob("*"):
            _sync(path)
        target = self.path / folder
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            directory.rename(target)
        except OSError:
            if not target.is_dir():
                raise
        _sync(target.parent)

    @_patiently
    def move_tree(self, folder: str, to: str) -> None:
        (self.path / to).parent.mkdir(parents=True, exist_ok=True)
        (self.path / folder).rename(self.path / to)

    def local_tree(self, folder: str, digest: str) -> Path:
        return self.path / folder


def _sync(path: Path) -> None:
    """Flush a file or a folder to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
