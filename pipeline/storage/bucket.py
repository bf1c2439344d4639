"""A run in an object store."""

import os
import posixpath
import re
import shutil
import tarfile
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import cached_property, wraps
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

from filelock import FileLock
from obstore.exceptions import AlreadyExistsError, BaseError, GenericError, NotFoundError
from obstore.store import from_url

from capfilt.data_contracts.errors import StorageError
from capfilt.pipeline.storage import patience
from capfilt.pipeline.storage.failpoints import failpoint
from capfilt.pipeline.storage.patience import REMEDIES, again
from capfilt.pipeline.storage.storage import Entry, Storage

F = TypeVar("F", bound=Callable[..., Any])


class _Contended(Exception):  # noqa: N818 (it passes, or becomes a StorageError)
    """A name was taken when we asked for it and nothing is under it: another writer is not done, or has gone."""


def _said(method: F) -> F:
    """Try again, with back-off, what may pass; what obstore then raises becomes our errors.

    obstore itself tries again after most troubles; not when a connection breaks under a conditional PUT, or
    under the body of an answer.
    """

    @wraps(method)
    def call(self: "Bucket", *args: Any, **kwargs: Any) -> Any:
        try:
            return again(_passes)(method, self, *args, **kwargs)
        except (FileNotFoundError, NotFoundError) as error:
            # Writing gives "not found" only when the bucket is not there; so may reading.
            if method.__name__ == "read" and not _NO_BUCKET.search(str(error)):
                raise FileNotFoundError(f"{self.url}: {_brief(error)}") from error
            raise self._failed(error, method.__name__) from error
        except (BaseError, OSError, _Contended) as error:
            raise self._failed(error, method.__name__) from error

    return cast(F, call)


_NO_BUCKET = re.compile("NoSuchBucket|ContainerNotFound|specified bucket does not exist")
_REFUSED = re.compile(r"status code: 4(?!08|29)\d\d")


def _passes(error: BaseException) -> bool:
    """Whether it may be otherwise a moment later: not what the store has understood and refused."""
    if isinstance(error, _Contended):
        return True
    return isinstance(error, GenericError) and not _REFUSED.search(str(error))


def _brief(error: BaseException) -> str:
    """obstore's errors go on for a page; their first lines say it."""
    return " ".join(str(error).partition("Debug source:")[0].split())[:400]


class Bucket(Storage):
    """A prefix in an object store."""

    def __init__(self, url: str) -> None:
        self.url = url

    def __reduce__(self) -> tuple[object, ...]:
        return Bucket, (self.url,)

    @cached_property
    def _store(self) -> Any:
        return from_url(self.url, **self._options)

    @cached_property
    def _options(self) -> dict[str, Any]:
        return {
            "client_options": {
                "allow_http": True,
                "connect_timeout": timedelta(seconds=min(patience.SECONDS, 10)),
                # of a whole request: a part may be a gigabyte and the line slow
                "timeout": timedelta(seconds=max(10 * patience.SECONDS, 30)),
            },
            "retry_config": {
                "max_retries": 1_000,
                "retry_timeout": timedelta(seconds=patience.SECONDS),
                "backoff": {"max_backoff": timedelta(seconds=5)},
            },
        }

    def _failed(self, error: BaseException, verb: str) -> StorageError:
        if isinstance(error, OSError) and error.errno:  # of this machine: obstore's errors have no number
            where, remedy = tempfile.gettempdir(), REMEDIES.get(error.errno, "check the disk")
        else:
            where = self.url
            remedy = "check that the store answers, the bucket's name and the credentials in the environment"
        return StorageError(
            what=f"the storage of the run fails: {where}",
            evidence=f"{_brief(error) or type(error).__doc__} ({verb})",
            remedy=remedy,
            run=self.url,
        )

    def at(self, relative: str) -> Storage:
        parts = urlsplit(self.url)
        path = posixpath.normpath(posixpath.join("/", parts.path, relative))
        return Bucket(f"{parts.scheme}://{parts.netloc}{path}".rstrip("/"))

    @property
    def absolute(self) -> str:
        return self.url

    def relative(self, other: Storage) -> str:
        mine, its = urlsplit(self.url), urlsplit(other.absolute)
        return posixpath.relpath(its.path, mine.path) if mine[:2] == its[:2] else other.absolute

    @_said
    def read(self, name: str) -> bytes:
        return bytes(self._store.get(name).bytes())

    @_said
    def size(self, name: str) -> int | None:
        try:
            return int(self._store.head(name)["size"])
        except (FileNotFoundError, NotFoundError):
            return None

    def entries(self, folder: str) -> Iterator[Entry]:
        yield from self._entries(folder)

    @_said
    def _entries(self, folder: str) -> list[Entry]:
        found = self._store.list_with_delimiter(folder)["objects"]
        return [Entry(posixpath.basename(entry["path"]), entry["size"]) for entry in found]

    @_said
    def create(self, name: str, source: Path) -> bool:
        failpoint("create.written")
        failpoint("create.synced")
        data = source.read_bytes()
        try:
            self._store.put(name, data, mode="create", use_multipart=False)
        except AlreadyExistsError:
            try:
                # Ours, if the answer to an earlier try of the same request was lost.
                return self.read(name) == data
            except FileNotFoundError as error:
                raise _Contended(f"{name} was taken, and then not there") from error
        failpoint("create.linked")
        return True

    claim = _said(Storage.claim)

    @_said
    def replace(self, name: str, data: bytes) -> None:
        self._store.put(name, data, use_multipart=False)

    @_said
    def remove(self, *names: str) -> None:
        """In bulk where the store can. One that is not there may end a bulk: then one by one."""
        try:
            self._store.delete(list(names))
        except (FileNotFoundError, NotFoundError):
            for name in names:
                with suppress(FileNotFoundError, NotFoundError):
                    self._store.delete(name)

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="capfilt-", ignore_cleanup_errors=True) as folder:
            yield Path(folder)

    def sweep(self) -> None:
        """Dead attempts leave nothing else in the store: what they wrote was on their machine."""
        self.remove(*(f"_lasting/{file}" for file in self.tree("_lasting")))

    @_said
    def lasting(self, name: str) -> Path:
        folder = self._local(f"lasting/{name}")
        shutil.rmtree(folder)
        folder.mkdir()
        with self.scratch() as scratch:
            archive = scratch / "lasting.tar"
            try:
                with archive.open("wb") as file:
                    for chunk in self._store.get(f"_lasting/{name}.tar").stream():
                        file.write(chunk)
            except (FileNotFoundError, NotFoundError):
                return folder
            with tarfile.open(archive) as tar:
                tar.extractall(folder, filter="data")
        return folder

    @_said
    def keep(self, name: str) -> None:
        """As one object: of a checkpoint and the curve that belongs to it, never one without the other."""
        with self.scratch() as scratch:
            archive = scratch / "lasting.tar"
            with tarfile.open(archive, "w") as tar:
                tar.add(self._local(f"lasting/{name}"), ".")
            self._store.put(f"_lasting/{name}.tar", archive)

    def forget(self, name: str) -> None:
        self.remove(f"_lasting/{name}.tar")
        shutil.rmtree(self._local(f"lasting/{name}"), ignore_errors=True)

    def _local(self, name: str) -> Path:
        """A folder of this machine for this run."""
        run = uuid.uuid5(uuid.NAMESPACE_URL, self.url).hex
        folder = Path(tempfile.gettempdir()) / f"capfilt-{os.getuid()}" / run / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @_said
    def tree(self, folder: str) -> list[str]:
        found: Iterable[Any] = self._store.list(folder).collect()
        return sorted(posixpath.relpath(entry["path"], folder) for entry in found)

    def put_tree(self, directory: Path, folder: str) -> None:
        """File by file, each put-if-absent: of two trainings that end at once, the first weights stay."""
        for path in sorted(path for path in directory.rglob("*") if path.is_file()):
            self.create(f"{folder}/{path.relative_to(directory).as_posix()}", path)

    @_said
    def move_tree(self, folder: str, to: str) -> None:
        for file in self.tree(folder):
            self._store.rename(f"{folder}/{file}", f"{to}/{file}")

    def local_tree(self, folder: str, digest: str) -> Path:
        target = self._local("trees") / digest
        with FileLock(f"{target}.lock"):
            files = self.tree(folder)
            if not all((target / file).is_file() for file in files):  # who tidies /tmp may take single files
                shutil.rmtree(target, ignore_errors=True)
                with self.scratch() as scratch:
                    for file in files:
                        _place(scratch / "tree" / file, self.read(f"{folder}/{file}"))
                    shutil.move(scratch / "tree", target)
        return target

    @cached_property
    def fsspec(self) -> Any:
        from obstore.fsspec import FsspecStore

        store: Any = FsspecStore
        return store(urlsplit(self.url).scheme, **self._options)


def _place(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
