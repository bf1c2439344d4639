"""The benchmark lists what it has written, in either format."""

from pathlib import Path

import pytest

from benchmarks import listing


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_each_measure_does_what_it_says(kind: str, tmp_path: Path) -> None:
    path, run = tmp_path / f"urls.{kind}", tmp_path / "run"
    listing.make(path, 25_000)
    assert listing.measure("plan", path, run, 1) == "after list_web"
    assert listing.measure("list", path, run, 1) == "22,500 urls in 3 shards"
    assert listing.measure("plan, listed", path, run, 1) == "3 of 3 shards to do"
