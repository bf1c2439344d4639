"""The process that fetches: img2dataset's downloader for one shard, behind the guarded opener.

    python -m stages.fetch.child FOLDER

FOLDER holds the `job.json` that :mod:`stages.fetch.shard` writes and the spool, where the child leaves its rows
one by one. It may be killed at any time.
"""

import ctypes
import importlib.util
import io
import json
import os
import signal
import sys
import time
import traceback
import types
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from data_contracts.rejects import Reason
from stages.fetch.opener import GuardedOpener
from stages.fetch.policy import FetchPolicy
from stages.fetch.refusal import Later, Refusal, read
from stages.fetch.spool import SpoolWriter
from stages.fetch.takedown import TakeDown, TakeDownFile

CANNOT_WRITE = 3
OPT_OUTS = ("noai", "noimageai", "noindex", "noimageindex")  # img2dataset's own choice
_PR_SET_PDEATHSIG = 1


def main(path: str) -> None:
    folder = Path(path)
    job = json.loads((folder / "job.json").read_text())
    _die_with(job["parent"])
    signal.setitimer(signal.ITIMER_REAL, job["seconds"])  # nobody handles the alarm: it ends the process
    policy = job["policy"]
    takedown = policy.pop("takedown")
    policy["allow_private"] = tuple(policy["allow_private"])
    fetch = FetchPolicy(**policy, takedown=TakeDownFile(**takedown) if takedown else None)
    crumbs = Crumbs(folder / "crumbs", {url: number for number, url in job["rows"]})
    opener = GuardedOpener(fetch, began=crumbs.began, put_off=crumbs.put_off)
    urllib.request.install_opener(opener)
    spool = SpoolWriter(folder / "spool")
    writer = SampleWriter(spool, fetch.takedown.load() if fetch.takedown else TakeDown())
    rows = job["rows"]
    while rows:
        _download(rows, writer, fetch, job["threads"], folder)
        rows = writer.due()


class Crumbs:
    """Which rows are in hand: `+3` when row 3 is begun, `-3` when it is put off. Finished ones are in the spool."""

    def __init__(self, path: Path, numbers: dict[str, int]) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_TRUNC)
        self._numbers = numbers

    def began(self, url: str) -> None:
        os.write(self._file, b"+%d\n" % self._numbers[url])

    def put_off(self, url: str) -> None:
        os.write(self._file, b"-%d\n" % self._numbers[url])


class SampleWriter:
    """img2dataset's interface of a writer, into the spool. Rows that are to be asked for later are kept in mind."""

    def __init__(self, spool: SpoolWriter, takedown: TakeDown) -> None:
        self._spool, self._takedown = spool, takedown
        self._later: list[tuple[float, int, str]] = []

    def write(self, image: bytes | None, key: str, caption: object, meta: dict[str, Any]) -> None:
        try:
            ended = read(meta["error_message"]) if image is None else None
            if isinstance(ended, Later):
                self._later.append((ended.ready, meta["number"], meta["url"]))
                return
            if image is not None and self._takedown.refuses_bytes(image):
                image, ended = None, Refusal(Reason.TAKEN_DOWN, "its bytes")
            self._spool.write(meta["number"], image, ended)
        except BaseException:  # img2dataset would print it and lose the row
            traceback.print_exc()
            os._exit(CANNOT_WRITE)

    def close(self) -> None:
        pass

    def due(self) -> list[tuple[int, str]]:
        """Waits until a row that was put off may be asked for; takes all that may."""
        self._later.sort()
        if self._later:
            time.sleep(max(0.05, self._later[0][0] - time.monotonic()))
        now = time.monotonic()
        ready = [(number, url) for when, number, url in self._later if when <= now]
        self._later = [row for row in self._later if row[0] > now]
        return ready


def _download(
    rows: Sequence[tuple[int, str]], writer: SampleWriter, policy: FetchPolicy, threads: int, folder: Path
) -> None:
    downloader = _downloader_class()(
        sample_writer_class=lambda *_: writer,
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
    shard = folder / "shard.arrow"
    with pa.ipc.new_file(shard, table.schema) as file:
        file.write_table(table)
    downloader.download_shard((0, str(shard)))


def _original(stream: io.BytesIO, boxes: object = None) -> tuple[bytes, None, None, None, None, None]:
    """What img2dataset's Resizer does with ``disable_all_reencoding``; it would load OpenCV to do so."""
    return stream.read(), None, None, None, None, None


def _downloader_class() -> Any:
    """img2dataset's Downloader without its package: that loads torch, Ray and a tracker (5 s and 340 MB more)."""
    if "img2dataset" not in sys.modules:
        spec = importlib.util.find_spec("img2dataset")
        assert spec is not None
        sys.modules["img2dataset"] = importlib.util.module_from_spec(spec)
        sys.modules["wandb"] = types.ModuleType("wandb")
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
