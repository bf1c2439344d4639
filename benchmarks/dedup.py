"""Deduplication of made-up vectors of which it is known who is whose copy: time, memory, recall.

    python -m benchmarks.dedup 1e5 1e6 1e7          # the stage itself, ids and rejects too; each size in a process
    python -m benchmarks.dedup 1e5 --plain          # and plain faiss on the same vectors
    python -m benchmarks.dedup 1e5 --imagededup /tmp/imagededup/bin/python   # and its searches

For the last: python -m venv /tmp/imagededup, and there pip install imagededup; never into an environment of
capfilt's: torchvision would replace its torch.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from capfilt.data_contracts.contract import Contract, vectors
from capfilt.data_contracts.records import Embedding, Record
from capfilt.pipeline.execution.attempt import decode_again
from capfilt.stages.dedup.crawl_vectors import hexes, normalised
from capfilt.stages.dedup.find_duplicates import DedupSettings, FindDuplicates
from capfilt.stages.stage import Rows, Site

SHARD = 50_000
COPIES = (
    0.1  # of the rows repeat another one, nearly: a cosine of 0.96 to 0.99, 13 to 50 bits of the hash changed
)
SIMILARITY = 0.95
MOST_OF_IMAGEDEDUP = 30_000


class Made:
    """A crawl of ``count`` vectors with its copies: row ``count - 1 - i`` is a copy of row ``i``, for the first ones.

    Shard by shard from seeds, so that none of it has to be held. ``clustered`` draws around a thousandth as many
    centres, as pictures of the same kinds of things lie.
    """

    def __init__(self, count: int, dim: int, *, clustered: bool) -> None:
        self.count, self.dim, self.clustered = count, dim, clustered
        self.copies = int(count * COPIES)
        self.seconds = self.cpu_seconds = 0.0
        random = np.random.default_rng(1)
        self.centres = random.standard_normal((max(1, count // 1000), dim)).astype(np.float32)

    def has(self, record: type[Record]) -> bool:
        return record is Embedding

    def names(self, record: type[Record]) -> list[str]:
        return [f"{number:07d}" for number in range(-(-self.count // SHARD))]

    def part(self, record: type[Record], shard: str, columns: Sequence[str] | None = None) -> pa.Table:
        started, cpu = time.monotonic(), time.process_time()
        found = self._shard(int(shard)).select(list(columns or Contract(Embedding).schema.names))
        self.seconds += time.monotonic() - started
        self.cpu_seconds += time.process_time() - cpu
        return found

    def parts(self, record: type[Record], columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        return (self.part(record, shard, columns) for shard in self.names(record))

    def rows(self, numbers: NDArray[np.int64]) -> tuple[NDArray[np.float16], NDArray[np.uint8]]:
        """Vectors and hashes of these rows; a copy's are its original's, changed."""
        original = np.where(numbers >= self.count - self.copies, self.count - 1 - numbers, numbers)
        block = 1000
        made = np.empty((len(numbers), self.dim), np.float32)
        hashes = np.empty((len(numbers), 32), np.uint8)
        for first in np.unique(original // block):
            random = np.random.default_rng((2, int(first)))
            drawn = random.standard_normal((block, self.dim)).astype(np.float32)
            if self.clustered:
                drawn += 2.0 * self.centres[random.integers(0, len(self.centres), block)]
            bits = random.integers(0, 256, (block, 32), dtype=np.uint8)
            here = np.flatnonzero(original // block == first)
            made[here], hashes[here] = drawn[original[here] % block], bits[original[here] % block]
        made /= np.linalg.norm(made, axis=1, keepdims=True)
        copied = np.flatnonzero(original != numbers)
        if len(copied):
            random = np.random.default_rng((3, int(numbers[copied[0]])))
            cosine = random.uniform(0.96, 0.99, (len(copied), 1)).astype(np.float32)
            noise = random.standard_normal((len(copied), self.dim)).astype(np.float32)
            noise -= (noise * made[copied]).sum(1, keepdims=True) * made[copied]
            noise /= np.linalg.norm(noise, axis=1, keepdims=True)
            made[copied] = cosine * made[copied] + np.sqrt(1 - cosine**2) * noise
            flips = random.random((len(copied), 256)) < random.uniform(0.05, 0.19, (len(copied), 1))
            hashes[copied] ^= np.packbits(flips, axis=1)
        return made.astype(np.float16), hashes

    def _shard(self, number: int) -> pa.Table:
        numbers = np.arange(number * SHARD, min((number + 1) * SHARD, self.count))
        found, hashes = self.rows(numbers)
        ids = np.zeros((len(numbers), 2), ">u8")
        ids[:, 1] = numbers  # the number can be read in the row's id
        random = np.random.default_rng((4, number))
        column, schema = vectors(found), Contract(Embedding).schema
        arrays = [
            hexes(ids.reshape(-1).view("S16")),
            hexes(np.frombuffer(random.bytes(32 * len(numbers)), "S32")),
            pa.array(np.where(numbers >= self.count - self.copies, 1, 2)),  # the original is larger
            hexes(np.ascontiguousarray(hashes).reshape(-1).view("S32")),
            pa.nulls(len(numbers), pa.float64()),
            column,
        ]
        fields = [schema.field(name) for name in ("row_id", "image_id", "pixels", "hash", "itc")]
        return pa.table(arrays, schema=pa.schema([*fields, schema.field("image").with_type(column.type)]))


class Peak:
    """The most memory of its own (not pages of files) that this process had, in bytes, looked at while it runs."""

    def __init__(self) -> None:
        self.bytes, self._over = 0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Peak":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.1):
            status = Path("/proc/self/status").read_text()
            own = int(status.split("RssAnon:")[1].split()[0]) * 1024
            self.bytes = max(self.bytes, own)


def stage(made: Made, memory: int, search: Any) -> dict[str, Any]:
    """The stage on it: seconds without the making of vectors, memory, what it found of the copies."""
    like = DedupSettings(similarity=SIMILARITY, memory=memory, search=search)
    left = right = 0
    facts: dict[str, Any] = {}
    cpu, started = time.process_time(), time.monotonic()
    told: list[tuple[float, str]] = []
    with tempfile.TemporaryDirectory() as scratch, Peak() as peak:
        site = Site(
            device="cpu",
            threads=int(os.environ.get("OMP_NUM_THREADS", "1")),
            batch=1,
            models={},
            scratch=Path(scratch),
            lasting=lambda: Path(scratch),
            keep=lambda: None,
            progress=lambda done, total, text: told.append((time.monotonic() - started, text)),
            decode=decode_again,
        )
        for rows in FindDuplicates(like).run(site, made):
            assert isinstance(rows, Rows)
            facts = dict(rows.facts)
            for reject in rows.rejected:
                left += 1
                keeper = int(reject.detail.split()[1].rstrip(",")[16:], 16)
                right += keeper == made.count - 1 - int(reject.id[16:], 16)
    seconds = time.monotonic() - started - made.seconds
    first = {text.partition(":")[0]: at for at, text in reversed(told)}
    return {
        "what": f"stage, {facts['search']}",
        "vectors": made.count,
        "seconds": round(seconds, 1),
        "cpu_seconds": round(time.process_time() - cpu - made.cpu_seconds, 1),
        "begins": {
            name: round(at - made.seconds, 1) for name, at in sorted(first.items(), key=lambda one: one[1])
        },
        "own_memory_gb": round(peak.bytes / 1e9, 2),
        "max_rss_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
        "copies_found": round(right / made.copies, 4),
        "precision": round(right / max(left, 1), 4),
        "measured_recall": facts.get("recall"),
        "recall_pairs": facts.get("recall_pairs"),
        "lists": facts.get("lists"),
    }


def plain(made: Made) -> Iterator[dict[str, Any]]:
    """faiss by itself on the same vectors: all pairs by a range search, and an inverted file with its 10 nearest."""
    import faiss

    faiss.omp_set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    every = normalised(made.rows(np.arange(made.count))[0])
    first = np.arange(made.copies)

    def found(pairs: set[tuple[int, int]]) -> float:
        return sum((int(one), made.count - 1 - int(one)) in pairs for one in first) / made.copies

    started = time.monotonic()
    flat = faiss.IndexFlatIP(made.dim)
    flat.add(every)
    limits, _, others = flat.range_search(every, SIMILARITY)
    pairs = set(
        zip(
            np.repeat(np.arange(len(every)), np.diff(limits.astype(np.int64))).tolist(),
            others.tolist(),
            strict=True,
        )
    )
    yield {
        "what": "faiss IndexFlatIP.range_search",
        "seconds": round(time.monotonic() - started, 1),
        "copies_found": found(pairs),
    }
    for probes in (4, 16):
        started = time.monotonic()
        lists = int(4 * made.count**0.5)
        index = faiss.index_factory(made.dim, f"IVF{lists},Flat", faiss.METRIC_INNER_PRODUCT)
        index.train(every)
        index.add(every)
        index.nprobe = probes
        cosine, near = index.search(every, 10)
        rows, places = np.nonzero(cosine > SIMILARITY)
        pairs = set(zip(rows.tolist(), near[rows, places].tolist(), strict=True))
        seconds = round(time.monotonic() - started, 1)
        yield {
            "what": f"faiss IVF{lists},Flat nprobe {probes}, k 10",
            "seconds": seconds,
            "copies_found": found(pairs),
        }


def imagededup(made: Made, python: str) -> Iterator[dict[str, Any]]:
    """imagededup's search by cosine and by hash (64 of the 256 bits, at most 16 different) on the same vectors.

    By cosine it holds all n x n of them, twice: 40 GB at 10^5; by hash it takes minutes at 2 * 10^4, and n^2 of that.
    So it is asked only for as many as both can do.
    """
    found, hashes = made.rows(np.arange(made.count))
    with tempfile.TemporaryDirectory() as folder:
        np.save(f"{folder}/vectors.npy", normalised(found))
        np.save(f"{folder}/hashes.npy", hashes[:, :8])
        for way in ("cosine", "hash"):
            if made.count > MOST_OF_IMAGEDEDUP:
                yield {"what": f"imagededup, {way}", "skipped": f"more than {MOST_OF_IMAGEDEDUP:,} vectors"}
                continue
            done = subprocess.run(
                [python, str(Path(__file__).with_name("imagededup_arm.py")), folder, way, str(SIMILARITY)],
                capture_output=True,
                text=True,
                check=False,
                env={**os.environ, "PYTHONPATH": ""},
            )
            if done.returncode:
                yield {"what": f"imagededup, {way}", "failed": done.stderr.strip().splitlines()[-1:]}
                continue
            said = json.loads(done.stdout.splitlines()[-1])
            pairs = {int(one): others for one, others in said.pop("pairs").items()}
            right = sum(made.count - 1 - one in set(pairs.get(one, ())) for one in range(made.copies))
            yield {"what": f"imagededup, {way}", **said, "copies_found": round(right / made.copies, 4)}


def main() -> None:
    asked = argparse.ArgumentParser()
    asked.add_argument("sizes", nargs="+", type=lambda text: int(float(text)))
    asked.add_argument("--dim", type=int, default=256)
    asked.add_argument("--memory", type=lambda text: int(float(text)), default=int(4e9))
    asked.add_argument("--search", default="auto", choices=["auto", "exact", "ivf"])
    asked.add_argument("--clustered", action="store_true")
    asked.add_argument("--plain", action="store_true")
    asked.add_argument("--imagededup", metavar="PYTHON")
    given = asked.parse_args()
    if len(given.sizes) > 1:
        for size in given.sizes:
            subprocess.run(
                [sys.executable, "-m", "benchmarks.dedup", str(size), *sys.argv[1 + len(given.sizes) :]],
                check=True,
            )
        return
    made = Made(given.sizes[0], given.dim, clustered=given.clustered)
    print(json.dumps(stage(made, given.memory, given.search)), flush=True)
    if given.plain:
        for row in plain(made):
            print(json.dumps(row), flush=True)
    if given.imagededup:
        for row in imagededup(made, given.imagededup):
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
