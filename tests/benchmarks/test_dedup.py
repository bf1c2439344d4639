"""The benchmark's made-up crawl goes through the stage as a run's does, and its copies are found."""

import pytest

from benchmarks import dedup


@pytest.mark.parametrize("search", ["exact", "ivf"])
def test_the_stage_finds_the_copies_of_a_made_up_crawl(search: str) -> None:
    found = dedup.stage(dedup.Made(4000, 32, clustered=False), 10**8, search)
    assert found["vectors"] == 4000
    assert found["copies_found"] > 0.95
    assert found["precision"] > 0.99
