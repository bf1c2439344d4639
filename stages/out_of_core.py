"""Sums over more rows than memory holds: a DuckDB database in an attempt's scratch folder."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

import duckdb

from capfilt.stages.stage import Site

_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


@contextmanager
def out_of_core(site: Site) -> Iterator[duckdb.DuckDBPyConnection]:
    """An empty database that takes 1 GB of memory at most and spills to the scratch folder.

    Raises:
        OSError: the disk fails. DuckDB says so in words only; here it has its number, as Python's own files do, so
            that the attempt waits for room.
    """
    try:
        with duckdb.connect(site.scratch / "rows.duckdb") as database:
            database.execute(f"SET threads TO {site.threads}")
            database.execute("SET memory_limit = '1GB'")
            database.execute(f"SET temp_directory = '{site.scratch}/spill'")
            yield database
    except duckdb.IOException as error:
        number = next((number for number in _DISK if os.strerror(number) in str(error)), errno.EIO)
        raise OSError(number, str(error)) from error
