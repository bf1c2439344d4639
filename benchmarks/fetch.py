"""What fetching costs, ours against plain img2dataset: same urls, same server on loopback, same threads and timeout.

    OMP_NUM_THREADS=1 python -m benchmarks.fetch [--urls 1200] [--repeats 3] [--per-host 4] [--only hangs] [--json F]

Three lists over 20 hosts (127.0.0.1 to 127.0.0.20): `fast` answers at once, `delays` after 0, 50 or 500 ms in equal
parts, `hangs` as well, but one url in twenty never gets its image: a third of those stays silent, a third stops in
the body, a third drips a byte a second for a minute. Both arms keep original bytes and write the same Parquet. The
arms take turns; their outputs are compared first. Images a second are over the server's own time from the first
request to the last answer, so that neither pays for its start there; wall clock and processor time are of everything,
imports too. Memory is the peak of the process tree's proportional set size.
"""

import argparse
import asyncio
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

HOSTS = 20
DELAYS = (0.0, 0.05, 0.5)
SILENT, STOPS, DRIPS = range(3)
DRIP = 60  # seconds
THREADS, TIMEOUT = 32, 10  # img2dataset's own timeout
CASES = ("fast", "delays", "hangs")
ARMS = ("capfilt", "img2dataset")


# -- the server, in a process of its own ---------------------------------------------------------------------


def picture(number: int) -> bytes:
    return b"\xff\xd8\xff\xe0" + random.Random(number).randbytes(20_000)


class Server:
    """GET /CASE/NUMBER; /window tells and forgets the first request's and the last answer's time."""

    def __init__(self) -> None:
        self.first = self.last = 0.0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            path = (await reader.readuntil(b"\r\n\r\n")).split(b" ")[1].decode()
            if path == "/window":
                writer.write(b"HTTP/1.0 200 OK\r\n\r\n%f" % (self.last - self.first))
                self.first = self.last = 0.0
            else:
                self.first = self.first or time.monotonic()
                case, number = path.strip("/").split("/")
                await self._answer(writer, case, int(number))
                self.last = time.monotonic()
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _answer(self, writer: asyncio.StreamWriter, case: str, number: int) -> None:
        body = picture(number)
        if case != "fast":
            await asyncio.sleep(DELAYS[number % len(DELAYS)])
        hang = number // 20 % 3 if case == "hangs" and number % 20 == 0 else None
        if hang == SILENT:
            await asyncio.sleep(3600)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nConnection: close\r\n")
        writer.write(b"Content-Length: %d\r\n\r\n" % len(body))
        if hang == STOPS:
            writer.write(body[:10_000])
            await writer.drain()
            await asyncio.sleep(3600)
        if hang == DRIPS:
            for byte in body[:DRIP]:
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(1)
        else:
            writer.write(body)


async def serve() -> None:
    made = Server()
    first = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    port = first.sockets[0].getsockname()[1]  # nobody has it; the other hosts have the same
    await asyncio.start_server(made.serve, [f"127.0.0.{host + 1}" for host in range(1, HOSTS)], port)
    print(port, flush=True)
    await first.serve_forever()


def url(port: int, case: str, number: int) -> str:
    return f"http://127.0.0.{random.Random(number).randrange(HOSTS) + 1}:{port}/{case}/{number}"


# -- the arms, each in a process of its own ------------------------------------------------------------------


def capfilt(listed: Path, out: Path, per_host: int) -> None:
    from capfilt.stages.ingest.fetch.policy import FetchPolicy
    from capfilt.stages.ingest.fetch.shard import fetch

    rows = [(line, line) for line in listed.read_text().split()]
    policy = FetchPolicy(
        allow_private=("127.0.0.0/24",), threads=THREADS, timeout=TIMEOUT, retries=0, per_host=per_host
    )
    schema = pa.schema({"url": pa.string(), "jpg": pa.binary()})
    out.mkdir()
    with pq.ParquetWriter(out / "00000.parquet", schema) as writer:
        held = []
        for row in fetch(rows, policy, out / "spool", lambda done, total, text: None):
            held.append({"url": row.row_id, "jpg": row.data})
            if len(held) == 100:  # as img2dataset writes
                writer.write_table(pa.Table.from_pylist(held, schema))
                held.clear()
        writer.write_table(pa.Table.from_pylist(held, schema))


def img2dataset(listed: Path, out: Path, per_host: int) -> None:
    import img2dataset

    img2dataset.download(
        url_list=str(listed),
        output_folder=str(out),
        output_format="parquet",
        processes_count=1,
        thread_count=THREADS,
        timeout=TIMEOUT,
        retries=0,
        disable_all_reencoding=True,
        extract_exif=False,
        compute_hash=None,
        enable_wandb=False,
    )


# -- the measurement -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measured:
    images_per_second: float
    wall_seconds: float
    cpu_ms_per_image: float
    peak_mb: float
    images: int


def measure(
    port: int, case: str, arm: str, count: int, per_host: int, folder: Path
) -> tuple[Measured, dict[str, bytes]]:
    listed, out = folder / f"{case}.txt", folder / f"{case}-{arm}-{time.monotonic_ns()}"
    listed.write_text("\n".join(url(port, case, number) for number in range(1, count + 1)) + "\n")
    command = [sys.executable, "-m", "benchmarks.fetch", "--per-host", str(per_host)]
    command += ["--arm", arm, str(listed), str(out)]
    environment = os.environ | {"NO_ALBUMENTATIONS_UPDATE": "1"}  # it would ask the internet for its version
    window(port)
    began = time.monotonic()
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    peak = Peak(process.pid)
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.monotonic() - began
    peak.stop()
    if status:
        raise SystemExit((folder / "log").read_text(errors="replace")[-2000:])
    table = pq.read_table(out / "00000.parquet", columns=["url", "jpg"])
    images = {row["url"]: row["jpg"] for row in table.to_pylist() if row["jpg"] is not None}
    cpu = 1000 * (usage.ru_utime + usage.ru_stime) / len(images)
    return Measured(len(images) / window(port), wall, cpu, peak.bytes / 1e6, len(images)), images


def window(port: int) -> float:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/window") as answer:
        return float(answer.read())


class Peak:
    """The largest proportional set size of a process and all below it, looked at four times a second."""

    def __init__(self, pid: int) -> None:
        self.bytes = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, args=(pid,))
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join()

    def _look(self, pid: int) -> None:
        while not self._over.wait(0.25):
            self.bytes = max(self.bytes, sum(map(_size, _tree(pid))))


def _tree(pid: int) -> Iterator[int]:
    yield pid
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            below = task.read_text().split()
        except OSError:
            continue
        for child in below:
            yield from _tree(int(child))


def _size(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))


@contextmanager
def serving() -> Iterator[int]:
    server = subprocess.Popen([sys.executable, "-m", "benchmarks.fetch", "--serve"], stdout=subprocess.PIPE)
    try:
        assert server.stdout is not None
        yield int(server.stdout.readline())
    finally:
        server.kill()
        server.communicate()


def compare(port: int, found: Mapping[str, Mapping[str, bytes]], case: str, count: int) -> None:
    wanted = {
        url(port, case, number): picture(number)
        for number in range(1, count + 1)
        if case != "hangs" or number % 20
    }
    for arm, images in found.items():
        assert images == wanted, f"{case}: {arm} has {len(images)} images of {len(wanted)}, or other bytes"


def report(measured: Mapping[str, Mapping[str, Measured]]) -> None:
    print(f"{'':8}{'':13}{'images/s':>10}{'wall s':>9}{'CPU ms/image':>14}{'peak MB':>9}")
    for case, arms in measured.items():
        for arm, figures in arms.items():
            print(
                f"{case:8}{arm:13}{figures.images_per_second:10.0f}{figures.wall_seconds:9.1f}"
                f"{figures.cpu_ms_per_image:14.2f}{figures.peak_mb:9.0f}"
            )


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--urls", type=int, default=1200)
    arguments.add_argument("--per-host", type=int, default=4, help="ours; img2dataset has no such bound")
    arguments.add_argument("--repeats", type=int, default=3)
    arguments.add_argument("--json", type=Path)
    arguments.add_argument("--only", choices=CASES)
    arguments.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments.add_argument("--arm", nargs=3, help=argparse.SUPPRESS)
    given = arguments.parse_args()
    if given.serve:
        asyncio.run(serve())
    elif given.arm:
        arm, listed, out = given.arm
        {"capfilt": capfilt, "img2dataset": img2dataset}[arm](Path(listed), Path(out), given.per_host)
    else:
        middle: dict[str, dict[str, Measured]] = {}
        with serving() as port, tempfile.TemporaryDirectory() as folder:
            for case in [given.only] if given.only else CASES:
                runs: dict[str, list[Measured]] = {arm: [] for arm in ARMS}
                for repeat in range(given.repeats):
                    found = {}
                    for arm in ARMS:
                        figures, found[arm] = measure(
                            port, case, arm, given.urls, given.per_host, Path(folder)
                        )
                        runs[arm].append(figures)
                    if not repeat:
                        compare(port, found, case, given.urls)
                middle[case] = {
                    arm: Measured(
                        **{
                            name: statistics.median(asdict(one)[name] for one in each)
                            for name in asdict(each[0])
                        }
                    )
                    for arm, each in runs.items()
                }
        report(middle)
        if given.json:
            plain = {case: {arm: asdict(one) for arm, one in arms.items()} for case, arms in middle.items()}
            given.json.write_text(json.dumps(plain, indent=1))


if __name__ == "__main__":
    main()
