"""The benchmark's made-up crawl goes through the stage as a run's does, and its copies are found."""

import pytest

from benchmarks import dedup
from capfilt.stages.dedup import neighbours


@pytest.mark.parametrize("search", ["exact", "ivf"])
def test_the_stage_finds_the_copies_of_a_made_up_crawl(search: str) -> None:
    found = dedup.stage(dedup.Made(4000, 32, clustered=False), 10**8, search)
    assert found["vectors"] == 4000
    assert found["copies_found"] > 0.95
    assert found["precision"] > 0.99


def test_the_recall_that_the_stage_says_is_what_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """Were the sample taken from what the centroids were learnt from, it would be 0.97 instead of 0.91."""
    monkeypatch.setattr(neighbours, "PROBES", 1)
    found = dedup.stage(dedup.Made(20_000, 128, clustered=False), 10**9, "ivf")
    assert found["recall_pairs"] > 150
    assert 0.8 < found["copies_found"] < 0.95
    assert abs(found["measured_recall"] - found["copies_found"]) < 0.04
