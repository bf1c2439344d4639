"""A database of more rows than memory holds, on a disk that is full."""

import errno
from pathlib import Path

import pytest

from capfilt.stages.out_of_core import out_of_core
from tests.stages.rows import site


def test_it_counts_what_it_is_given(tmp_path: Path) -> None:
    with out_of_core(site(tmp_path)) as database:
        database.execute("CREATE TABLE seen AS FROM range(1000)")
        assert database.sql("SELECT sum(range) FROM seen").fetchall() == [(499500,)]


def test_a_full_disk_is_an_error_of_the_disk(small_disk: Path) -> None:
    (small_disk / "ballast").write_bytes(b"x" * 7_900_000)
    with (
        pytest.raises(OSError, match="No space left on device") as caught,
        out_of_core(site(small_disk)) as database,
    ):
        database.execute("CREATE TABLE seen AS SELECT range, random() AS number FROM range(1_000_000)")
    assert caught.value.errno == errno.ENOSPC
