"""The process that fetches: img2dataset's downloader for one shard, behind the guarded opener.

    python -m capfilt.stages.ingest.fetch.child FOLDER

FOLDER holds the `job.json` that :mod:`capfilt.stages.ingest.fetch.shard` writes and the spool, where the child leaves
its rows one by one. It may be killed at any time.
"""

import ctypes
import importlib.util
import io
import json
import os
import signal
import sys
import threading
import time
import traceback
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pyarrow as pa

from capfilt.data_contracts.rejects import Reason
from capfilt.stages.ingest.fetch.error import FetchError, Later, read
from capfilt.stages.ingest.fetch.opener import GuardedOpener
from capfilt.stages.ingest.fetch.policy import FetchPolicy
from capfilt.stages.ingest.fetch.spool import SpoolWriter
from capfilt.stages.ingest.fetch.takedown import TakeDown, TakeDownFile

CANNOT_WRITE = 3
OPT_OUTS = ("noai", "noimageai", "noindex", "noimageindex")  # img2dataset's own choice
_PR_SET_PDEATHSIG = 1


def main(path: str) -> None:
    folder = Path(path)
    job = json.loads((folder / "job.json").read_text())
    _die_with(job["parent"])
    signal.setitimer(signal.ITIMER_REAL, job["seconds"])  # nobody handles the alarm: it ends the process
    policy = job["policy"]
    listed = policy.pop("takedown")
    policy["allow_private"] = tuple(policy["allow_private"])
    fetch = FetchPolicy(**policy, takedown=TakeDownFile(**listed) if listed else None)
    heartbeats = RowsInHand(folder / "heartbeats", {url: number for number, url in job["rows"]})
    opener = GuardedOpener(fetch, began=heartbeats.began, put_off=heartbeats.put_off)
    urllib.request.install_opener(opener)
    rows = RowQueue(job["rows"], job["threads"], SpoolWriter(folder / "spool"), opener.takedown)
    for number, (batch, threads) in enumerate(rows.batches()):
        lane = Lane(rows, len(batch))
        threading.Thread(target=lane.run, args=(number, batch, threads, fetch, folder), daemon=True).start()


class RowsInHand:
    """Which rows are in hand: `+3` when row 3 is begun, `-3` when it is put off. Finished ones are in the spool."""

    def __init__(self, path: Path, numbers: dict[str, int]) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_TRUNC)
        self._numbers = numbers

    def began(self, url: str) -> None:
        self._leave(b"+%d\n" % self._numbers[url])

    def put_off(self, url: str) -> None:
        self._leave(b"-%d\n" % self._numbers[url])

    def _leave(self, heartbeat: bytes) -> None:
        with _written():
            os.write(self._file, heartbeat)


class RowQueue:
    """The rows that are still to end: in img2dataset's hands, or waiting until they may be asked for again."""

    def __init__(
        self, rows: list[tuple[int, str]], threads: int, spool: SpoolWriter, takedown: TakeDown
    ) -> None:
        self._threads, self._spool, self._takedown = threads, spool, takedown
        self._changed = threading.Condition()
        self._waiting = [(0.0, number, url) for number, url in rows]
        self._out = 0

    def batches(self) -> Iterator[tuple[list[tuple[int, str]], int]]:
        """Rows that may be asked for now and the threads to do it with, until all rows have ended.

        img2dataset ends a batch with its slowest row. So the next one starts as soon as half of the threads have
        nothing to do, beside what hangs in the one before; together they never have more than all threads.
        """
        with self._changed:
            while self._waiting or self._out:
                now = time.monotonic()
                ready = [(number, url) for when, number, url in self._waiting if when <= now]
                if ready and self._out <= self._threads // 2:
                    free = self._threads - self._out
                    self._waiting = [row for row in self._waiting if row[0] > now]
                    self._out += len(ready)
                    yield ready, free
                else:
                    self._changed.wait(0.1)

    def ended(self, number: int, url: str, image: bytes | None, message: str | None) -> None:
        with _written(), self._changed:
            end = read(message or "") if image is None else None
            if isinstance(end, Later):
                self._waiting.append((end.ready, number, url))
            elif image is not None and self._takedown.refuses_bytes(image):
                self._spool.write(number, None, FetchError(Reason.TAKEN_DOWN, "its bytes"))
            else:
                self._spool.write(number, image, end)
            self._out -= 1
            self._changed.notify()


class Lane:
    """One call of img2dataset's downloader, and the writer that it is given."""

    def __init__(self, rows: RowQueue, count: int) -> None:
        self._rows, self._missing = rows, count

    def run(
        self, number: int, batch: list[tuple[int, str]], threads: int, policy: FetchPolicy, folder: Path
    ) -> None:
        with _written():
            _download(number, batch, lambda *_: self, policy, threads, folder)
            assert not self._missing, f"img2dataset lost {self._missing} rows"

    def write(self, image: bytes | None, key: str, caption: object, meta: dict[str, Any]) -> None:
        self._missing -= 1
        self._rows.ended(meta["number"], meta["url"], image, meta["error_message"])

    def close(self) -> None:
        pass


@contextmanager
def _written() -> Iterator[None]:
    """What is not written ends the process: img2dataset would print the error and lose the row."""
    try:
        yield
    except BaseException:
        traceback.print_exc()
        os._exit(CANNOT_WRITE)


def _download(
    number: int,
    rows: Sequence[tuple[int, str]],
    writer: Callable[..., Lane],
    policy: FetchPolicy,
    threads: int,
    folder: Path,
) -> None:
    downloader = _downloader_class()(
        sample_writer_class=writer,
        resizer=_original,
        thread_count=threads,
        save_caption=False,
        extract_exif=False,
        output_folder=str(folder),
        column_list=["number", "url"],
        timeout=policy.timeout,
        number_sample_per_shard=len(rows),
        oom_shard_count=1,
        compute_hash=None,
        verify_hash_type=None,
        encode_format="jpg",
        retries=0,
        user_agent_token=policy.token,
        disallowed_header_directives=OPT_OUTS,
    )
    numbers, urls = zip(*rows, strict=True)
    table = pa.table({"number": pa.array(numbers, pa.int64()), "url": pa.array(urls, pa.string())})
    shard = folder / f"{number}.arrow"
    with pa.ipc.new_file(shard, table.schema) as file:
        file.write_table(table)
    downloader.download_shard((number, str(shard)))


def _original(stream: io.BytesIO, boxes: object = None) -> tuple[bytes, None, None, None, None, None]:
    """What img2dataset's Resizer does with ``disable_all_reencoding``; it would load OpenCV to do so."""
    return stream.read(), None, None, None, None, None


def _downloader_class() -> Any:
    """img2dataset's Downloader without its package: that loads torch, Ray and a tracker (5 s and 340 MB more)."""
    if "img2dataset" not in sys.modules:
        spec = importlib.util.find_spec("img2dataset")
        assert spec is not None
        sys.modules["img2dataset"] = importlib.util.module_from_spec(spec)
        sys.modules["wandb"] = importlib.util.module_from_spec(ModuleSpec("wandb", None))
    from img2dataset.downloader import Downloader

    return Downloader


def _die_with(parent: int) -> None:
    """Has the kernel kill this process when the one that started it ends, however it does."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1])
    os._exit(0)  # a look-up that hangs must not hold the exit up
