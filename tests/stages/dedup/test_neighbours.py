import builtins
import importlib.metadata
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from capfilt.data_contracts.errors import UsageError
from capfilt.stages.dedup.neighbours import (
    EXACT_UP_TO,
    Flat,
    InvertedFile,
    Pairs,
    few_then_range,
    hash_pairs,
    number_of_lists,
    require_faiss,
    search_of,
)
from capfilt.stages.dedup.union_find import UnionFind

BAR = 0.9
DIM = 32


def as_set(found: Iterable[Pairs]) -> set[tuple[int, int]]:
    pairs: set[tuple[int, int]] = set()
    for one, other in found:
        pairs.update(zip(one.tolist(), other.tolist(), strict=True))
    return pairs


@pytest.fixture(scope="module")
def vectors() -> NDArray[np.float32]:
    """3,000 random vectors, of which the last 300 are copies of the first."""
    random = np.random.default_rng(0)
    some = random.standard_normal((2700, DIM))
    some = np.concatenate([some, some[:300] + 0.1 * random.standard_normal((300, DIM))]).astype(np.float32)
    return some / np.linalg.norm(some, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def truth(vectors: NDArray[np.float32]) -> set[tuple[int, int]]:
    one, other = np.nonzero(np.triu(vectors @ vectors.T >= BAR, 1))
    return set(zip(one.tolist(), other.tolist(), strict=True))


@pytest.mark.parametrize("memory", [10_000, 1_000_000, 10**9])
def test_all_pairs_are_found_once_however_little_memory_there_is(
    vectors: NDArray[np.float32], truth: set[tuple[int, int]], memory: int
) -> None:
    found = list(Flat(memory).pairs(vectors.__getitem__, len(vectors), DIM, BAR))
    pairs = as_set(found)
    assert sum(len(one) for one, _ in found) == len(pairs)
    sure = {(a, b) for a, b in pairs if vectors[a] @ vectors[b] >= BAR}
    assert sure == truth
    assert all(vectors[a] @ vectors[b] > BAR - 1e-3 for a, b in pairs)


def test_an_inverted_file_finds_nearly_all_and_nothing_else(
    vectors: NDArray[np.float32], truth: set[tuple[int, int]]
) -> None:
    sample = np.random.default_rng(1).permutation(len(vectors))
    file = InvertedFile.build(Flat(10**6), vectors.__getitem__, len(vectors), DIM, sample)
    pairs = as_set(file.pairs(vectors.__getitem__, BAR))
    assert file.lists == number_of_lists(len(vectors)) == 128
    assert len(pairs & truth) / len(truth) > 0.97
    assert all(vectors[a] @ vectors[b] > BAR - 1e-3 for a, b in pairs)
    small = InvertedFile(Flat(1000), file.assigned, file.lists)  # lists in pieces
    assert as_set(small.pairs(vectors.__getitem__, BAR)) == pairs


def test_who_has_more_neighbours_than_a_gpu_gives_is_asked_again(vectors: NDArray[np.float32]) -> None:
    import faiss

    base = np.concatenate([vectors[:50], np.repeat(vectors[:2], 20, axis=0)])
    flat = Flat(10**6)
    index = faiss.IndexFlatIP(DIM)
    index.add(base)
    asked: list[int] = []

    def whole(queries: NDArray[np.float32]) -> Pairs:
        asked.append(len(queries))
        return flat._range(index, queries, BAR)

    found = few_then_range(index.search, whole, vectors[:50], BAR, few=4)
    assert as_set([found]) == as_set([flat._range(index, vectors[:50], BAR)])
    assert asked == [2]


def test_small_sets_are_compared_exactly_and_large_ones_by_lists() -> None:
    assert [search_of("auto", count) for count in (1, EXACT_UP_TO, EXACT_UP_TO + 1)] == [
        "exact",
        "exact",
        "ivf",
    ]
    assert (search_of("ivf", 1), search_of("exact", 10**9)) == ("ivf", "exact")
    assert number_of_lists(1) >= 1


def test_hashes_within_some_bits(vectors: NDArray[np.float32]) -> None:
    random = np.random.default_rng(3)
    hashes = random.integers(0, 256, (2000, 32), dtype=np.uint8)
    flips = random.random((500, 256)) < 0.05
    hashes = np.concatenate([hashes, hashes[:500] ^ np.packbits(flips, axis=1), hashes[:1]])
    differ = np.bitwise_count(hashes[:, None] ^ hashes[None]).sum(2)
    truth = set(map(tuple, np.argwhere(np.triu(differ <= 24, 1)).tolist()))
    assert len(truth) > 500
    assert as_set(hash_pairs(hashes, 24, 10_000, exact=True)) == truth
    by_tables = as_set(hash_pairs(hashes, 24, 10_000, exact=False))
    assert by_tables <= truth
    assert len(by_tables) / len(truth) > 0.97
    assert not as_set(hash_pairs(hashes[:1], 24, 10_000, exact=False))


@given(st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)), max_size=40), st.randoms())
def test_groups_are_the_connected_ones_in_whatever_order(edges: list[tuple[int, int]], random: Any) -> None:
    groups = UnionFind(20)
    shuffled = list(edges)
    random.shuffle(shuffled)
    for start in range(0, len(shuffled), 3):
        some = np.array(shuffled[start : start + 3], np.int64).reshape(-1, 2)
        groups.union(some[:, 0], some[:, 1])
    expected = list(range(20))
    for _ in range(20):
        for one, other in edges:
            expected[one] = expected[other] = min(expected[one], expected[other])
    assert groups.all().tolist() == expected


def test_without_faiss_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def missing(name: str, *rest: Any) -> Any:
        if name == "faiss":
            raise ModuleNotFoundError("No module named 'faiss'")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(UsageError, match=r"needs faiss") as caught:
        require_faiss()
    assert "pip install 'capfilt[cpu]'" in caught.value.remedy


def test_with_both_faiss_packages_the_error_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata, "version", lambda name: "1.15.1" if name.startswith("faiss") else real(name)
    )
    with pytest.raises(UsageError, match=r"both faiss-cpu and faiss-gpu") as caught:
        require_faiss()
    assert "pip uninstall faiss-cpu faiss-gpu" in caught.value.remedy
