"""Finished rows on disk, one after the other: what a process that dies leaves to the next one."""

import fcntl
import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from capfilt.data_contracts.errors import StageError
from capfilt.data_contracts.rejects import Reason
from capfilt.stages.ingest.fetch.error import FetchError

_HEAD = struct.Struct(
    "<4sIIIII"
)  # mark, row number, bytes of reason, of detail and of data, crc32 of all three
_MARK = b"row1"


class SpoolWriter:
    """Appends rows. It holds the spool's lock, so that a left-over process never writes into it as well."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND)
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def write(self, number: int, data: bytes | None, fetch_error: FetchError | None) -> None:
        reason = fetch_error.reason.encode() if fetch_error else b""
        detail = fetch_error.detail.encode("utf-8", "replace") if fetch_error else b""
        data = data or b""
        check = zlib.crc32(data, zlib.crc32(reason + detail))
        head = _HEAD.pack(_MARK, number, len(reason), len(detail), len(data), check)
        record = memoryview(b"".join((head, reason, detail, data)))
        while record:
            record = record[os.write(self._file, record) :]


class SpoolReader:
    """Which rows are finished, and each of them. ``scan`` sees what was added; ``mend`` drops a torn end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()
        self._file = path.open("rb")
        self._places: dict[int, tuple[int, int, int, int, int]] = {}
        self._end = 0

    def __contains__(self, number: int) -> bool:
        return number in self._places

    def __len__(self) -> int:
        return len(self._places)

    @property
    def whole(self) -> int:
        """How many rows have bytes."""
        return sum(reason == 0 for _, reason, *_ in self._places.values())

    def reasons(self) -> list[Reason]:
        """Why the others have none."""
        refusals = (self.read(number)[1] for number, place in self._places.items() if place[1])
        return [fetch_error.reason for fetch_error in refusals if fetch_error]

    def close(self) -> None:
        self._file.close()

    def scan(self) -> None:
        """Takes in whole records that were added. While a process writes, the last may not be whole."""
        for number, place, end in self._records():
            self._places[number] = place
            self._end = end

    def mend(self, *, compare: bool = False) -> None:
        """Takes in what was added and cuts a torn record off the end. Nobody may be writing.

        ``compare`` reads every record again: what an earlier process left may have died with its machine.
        """
        with self._alone() as file:
            for number, place, end in self._records():
                if compare and self._bytes(place) is None:
                    break
                self._places[number] = place
                self._end = end
            os.ftruncate(file, self._end)

    def read(self, number: int) -> tuple[bytes | None, FetchError | None]:
        """A row's bytes, or why it has none.

        Raises:
            StageError: when the disk gives other bytes than were written.
        """
        place = self._places[number]
        found = self._bytes(place)
        if found is None:
            raise StageError(
                what="fetched bytes are damaged on their way through the disk",
                evidence=f"{self.path}, at byte {place[0]}",
                remedy="check the disk, then resume",
            )
        reason, rest = found[: place[1]], found[place[1] :]
        if reason:
            return None, FetchError(Reason(reason.decode()), rest[: place[2]].decode())
        return rest[place[2] :], None

    def _bytes(self, place: tuple[int, int, int, int, int]) -> bytes | None:
        start, reason, detail, data, check = place
        self._file.seek(start)
        found = self._file.read(reason + detail + data)
        return found if zlib.crc32(found) == check else None

    def _records(self) -> Iterator[tuple[int, tuple[int, int, int, int, int], int]]:
        at, size = self._end, os.fstat(self._file.fileno()).st_size
        while at + _HEAD.size <= size:
            self._file.seek(at)
            mark, number, reason, detail, data, check = _HEAD.unpack(self._file.read(_HEAD.size))
            start = at + _HEAD.size
            at = start + reason + detail + data
            if mark != _MARK or at > size:
                return
            yield number, (start, reason, detail, data, check), at

    @contextmanager
    def _alone(self) -> Iterator[int]:
        file = os.open(self.path, os.O_WRONLY)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield file
        finally:
            os.close(file)
