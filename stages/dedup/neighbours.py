"""Which vectors and which hashes are alike: all pairs of small sets, list by list of an inverted file for large ones.

faiss does the arithmetic; the extra `cpu` or `gpu` brings it.
"""

import importlib.metadata
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from capfilt.data_contracts.errors import UsageError

Pairs = tuple[NDArray[np.int64], NDArray[np.int64]]
Read = Callable[[NDArray[np.int64] | slice], NDArray[np.float32]]

DISTRIBUTIONS = ("faiss-cpu", "faiss-gpu")
EXACT_UP_TO = 100_000  # vectors: above it every pair is too many
PROBES = 4  # lists that a vector looks for its like in
POINTS = 64  # vectors a list that k-means learns from
ROUNDS = 10  # of k-means
GPU_NEIGHBOURS = 64  # a GPU gives so many at most; who has more is looked at again on the CPU
CHUNK = 16_384  # vectors that those before them are compared with at a time: about half of all products
SLACK = 1e-4  # float32 sums differ in the last digits by how they are blocked: who is near the bar is looked at anew
TABLES, WINDOW, KEY = (
    24,
    8,
    32,
)  # sortings of the hashes, followers that each is compared with, bits sorted by


def require_faiss() -> Any:
    """The faiss module.

    Raises:
        UsageError: it is not installed, or both of its packages are, of which one has overwritten the other.
    """
    found = [name for name in DISTRIBUTIONS if _installed(name)]
    if len(found) > 1:
        raise UsageError(
            what="both faiss-cpu and faiss-gpu are installed, and each has overwritten files of the other",
            evidence="both packages install a module called `faiss`",
            remedy="pip uninstall faiss-cpu faiss-gpu, then pip install 'capfilt[cpu]' or 'capfilt[gpu]'",
        )
    try:
        import faiss
    except ImportError as error:
        raise UsageError(
            what="comparing images needs faiss, which is not installed",
            evidence=str(error),
            remedy="pip install 'capfilt[cpu]', or 'capfilt[gpu]' where there is a GPU",
        ) from error
    return faiss


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


@dataclass(frozen=True)
class Flat:
    """Compares vectors one by one, by matrix products. ``memory`` bounds what is held at a time, in bytes."""

    memory: int
    threads: int = 1
    gpu: bool = False

    def __post_init__(self) -> None:
        require_faiss().omp_set_num_threads(self.threads)

    def block(self, base: int, dim: int) -> int:
        """How many queries fit beside ``base`` vectors, if all of them were hits."""
        return max(16, min(8192, self.memory // (16 * max(base, 1) + 8 * dim)))

    def hits(self, queries: NDArray[np.float32], base: NDArray[np.float32], bar: float) -> Iterator[Pairs]:
        """Pairs (query, base) whose product is at least ``bar``, less SLACK; L2-normalised vectors, float32."""
        faiss = require_faiss()
        if not len(queries) or not len(base):
            return
        index = faiss.IndexFlatIP(base.shape[1])
        index.add(base)
        on_gpu = faiss.index_cpu_to_all_gpus(index) if self.gpu and faiss.get_num_gpus() else None
        step = self.block(len(base), base.shape[1])
        for start in range(0, len(queries), step):
            some = queries[start : start + step]
            if on_gpu is None:
                rows, found = self._range(index, some, bar)
            else:
                rows, found = few_then_range(on_gpu.search, lambda q: self._range(index, q, bar), some, bar)
            yield rows + start, found

    def _range(self, index: Any, queries: NDArray[np.float32], bar: float) -> Pairs:
        limits, _, found = index.range_search(queries, bar - SLACK)
        return np.repeat(np.arange(len(queries)), np.diff(limits.astype(np.int64))), found.astype(np.int64)

    def pairs(self, read: Read, count: int, dim: int, bar: float) -> Iterator[Pairs]:
        """All pairs of ``count`` vectors that reach ``bar``, each once, the smaller number first."""
        chunk = max(1024, min(CHUNK, self.memory // (16 * dim)))
        for begin in range(0, count, chunk):
            end = min(begin + chunk, count)
            base = read(slice(begin, end))
            step = self.block(len(base), dim)
            for start in range(0, end, step):
                queries = read(slice(start, min(start + step, end)))
                for rows, found in self.hits(queries, base, bar):
                    one, other = rows + start, found + begin
                    yield one[one < other], other[one < other]


def few_then_range(
    search: Callable[[NDArray[np.float32], int], tuple[NDArray[np.float32], NDArray[np.int64]]],
    whole: Callable[[NDArray[np.float32]], Pairs],
    queries: NDArray[np.float32],
    bar: float,
    few: int = GPU_NEIGHBOURS,
) -> Pairs:
    """Hits by a search that gives the ``few`` best only: who has so many is asked ``whole`` for all of them."""
    cosine, found = search(queries, few)
    hit: NDArray[np.bool_] = np.logical_and(found >= 0, cosine > bar - SLACK)
    full = hit.all(axis=1)
    rows, places = np.nonzero(hit & ~np.expand_dims(full, 1))
    again, others = whole(queries[full])
    return (
        np.concatenate([rows, np.flatnonzero(full)[again]]),
        np.concatenate([found[rows, places].astype(np.int64), others]),
    )


@dataclass(frozen=True)
class InvertedFile:
    """An inverted file (IVF), list by list: a vector is in the list of its nearest centroid and is compared with all
    vectors of its PROBES nearest lists, in one matrix product a list.

    Only one list is in memory at a time, so nothing has to be compressed (PQ) to fit. ``assigned`` has the numbers
    of each vector's nearest lists, shape (vectors, PROBES), int32.
    """

    flat: Flat
    assigned: NDArray[np.int32]
    lists: int

    @classmethod
    def build(cls, flat: Flat, read: Read, count: int, dim: int, sample: NDArray[np.int64]) -> "InvertedFile":
        """Learns the centroids from the rows ``sample``, and gives every vector its lists."""
        faiss = require_faiss()
        lists = number_of_lists(count)
        given = read(np.sort(sample[: POINTS * lists]))
        kmeans = faiss.Kmeans(
            dim,
            lists,
            niter=ROUNDS,
            seed=0,
            spherical=True,
            max_points_per_centroid=POINTS,
            min_points_per_centroid=1,
            gpu=flat.gpu and faiss.get_num_gpus() > 0,
        )
        kmeans.train(given)
        index = faiss.IndexFlatIP(dim)
        index.add(kmeans.centroids)
        assigned = np.empty((count, min(PROBES, lists)), np.int32)
        step = flat.block(lists, dim)
        for start in range(0, count, step):
            some = read(slice(start, min(start + step, count)))
            assigned[start : start + len(some)] = index.search(some, assigned.shape[1])[1]
        return cls(flat, assigned, lists)

    def pairs(self, read: Read, bar: float) -> Iterator[Pairs]:
        """Pairs that reach ``bar`` and meet in a list, the smaller number first; some twice."""
        own = np.argsort(self.assigned[:, 0], kind="stable").astype(np.int32)
        own_ends = np.searchsorted(self.assigned[own, 0], np.arange(self.lists + 1))
        probes = self.assigned.ravel()
        order = np.argsort(probes, kind="stable")
        ends = np.concatenate([[0], np.cumsum(np.bincount(probes, minlength=self.lists))])
        for number in range(self.lists):
            base = own[own_ends[number] : own_ends[number + 1]].astype(np.int64)
            asking = order[ends[number] : ends[number + 1]] // self.assigned.shape[1]
            if len(base) < 1 or len(asking) < 2:
                continue
            for rows, found in self._within(read, np.sort(asking), base, bar):
                low, high = np.minimum(rows, found), np.maximum(rows, found)
                yield low[low < high], high[low < high]

    def _within(
        self, read: Read, asking: NDArray[np.int64], base: NDArray[np.int64], bar: float
    ) -> Iterator[Pairs]:
        """A list longer than memory allows is taken in pieces."""
        dim = read(base[:1]).shape[1]
        step = max(1024, self.flat.memory // (16 * dim))
        for begin in range(0, len(base), step):
            some = base[begin : begin + step]
            vectors = read(some)
            for start in range(0, len(asking), step):
                queries = asking[start : start + step]
                for rows, found in self.flat.hits(read(queries), vectors, bar):
                    yield queries[rows], some[found]


def number_of_lists(count: int) -> int:
    """As much work in finding a vector's lists as in looking through them: sqrt(PROBES * count), a power of two."""
    return int(2 ** round(math.log2(max(1.0, (PROBES * count) ** 0.5))))


def search_of(given: Literal["auto", "exact", "ivf"], count: int) -> Literal["exact", "ivf"]:
    """How ``count`` vectors are compared: ``auto`` goes by their number."""
    if given != "auto":
        return given
    return "exact" if count <= EXACT_UP_TO else "ivf"


def hash_pairs(hashes: NDArray[np.uint8], most: int, memory: int, *, exact: bool) -> Iterator[Pairs]:
    """Pairs of hashes, shape (n, 32), uint8, that differ in at most ``most`` bits, the smaller number first.

    ``exact`` compares all. Otherwise they are sorted by TABLES choices of their bits, and each is compared with its
    WINDOW followers (the rotated tables of Manku et al., 2007): the work grows with n, and few pairs are missed.
    """
    if exact:
        yield from _all_hash_pairs(hashes, most, memory)
        return
    words = np.ascontiguousarray(hashes).view(np.uint64)
    random = np.random.default_rng(0)
    for _ in range(TABLES):
        order = np.argsort(_key(hashes, random.permutation(hashes.shape[1] * 8)[:KEY]), kind="stable")
        sorted_words = words[order]
        for apart in range(1, min(WINDOW, len(order) - 1) + 1):
            differ = np.bitwise_count(sorted_words[:-apart] ^ sorted_words[apart:]).sum(1, dtype=np.int16)
            near = np.flatnonzero(differ <= most)
            one, other = order[near], order[near + apart]
            yield np.minimum(one, other), np.maximum(one, other)


def _key(hashes: NDArray[np.uint8], chosen: NDArray[np.int64]) -> NDArray[np.uint32]:
    """The chosen bits of each hash as a number."""
    key = np.zeros(len(hashes), np.uint32)
    for bit in chosen:
        key <<= np.uint32(1)
        key |= (hashes[:, bit // 8] >> np.uint8(7 - bit % 8)) & np.uint8(1)
    return key


def _all_hash_pairs(hashes: NDArray[np.uint8], most: int, memory: int) -> Iterator[Pairs]:
    faiss = require_faiss()
    index = faiss.IndexBinaryFlat(hashes.shape[1] * 8)
    index.add(hashes)
    step = max(1, min(4096, memory // (12 * max(len(hashes), 1))))
    for start in range(0, len(hashes), step):
        limits, _, found = index.range_search(hashes[start : start + step], most + 1)
        rows = start + np.repeat(np.arange(len(limits) - 1), np.diff(limits.astype(np.int64)))
        yield rows[rows < found], found[rows < found].astype(np.int64)
