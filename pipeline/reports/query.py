"""The files that a stage of a run has committed, and SQL over them.

Storage only: works with Ray stopped, on a copy of the run, on another machine. So do the other modules of this
folder.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import duckdb
import pyarrow as pa
from obstore.exceptions import BaseError

from capfilt.data_contracts.errors import StorageError
from capfilt.pipeline.ledger.ledger import Ledger

BATCH = 10_000


class Files(NamedTuple):
    """Parquet files of the same columns: paths or urls, and the fsspec file system that opens urls."""

    paths: list[str]
    filesystem: Any = None


def files(ledger: Ledger, stage: str, *, rejects: bool = False) -> Files:
    """A stage's committed parts, or the rejects that belong to them; leftovers of dead attempts do not count."""
    home = ledger.home(stage)
    names = home.index(stage).table["rejects" if rejects else "name"].to_pylist()
    return Files([f"{home.url}/{stage}/{name}" for name in names if name], home.storage.fsspec)


def query(sql: str, files: Files, *parameters: Any, **others: Files) -> list[dict[str, Any]]:
    """Rows of a DuckDB query over the table ``files``, which has the column ``filename`` too; none without files.

    ``others`` are more tables, by their name; each has to have files.

    Raises:
        StorageError: a file is damaged, or the disk or the store does not answer.
    """
    return [row for batch in batches(sql, files, *parameters, **others) for row in batch.to_pylist()]


def batches(sql: str, files: Files, *parameters: Any, **others: Files) -> Iterator[pa.RecordBatch]:
    """The same as a stream, for more rows than memory holds."""
    if not files.paths:
        return
    with duckdb.connect() as connection:
        connection.execute("SET threads TO 2")
        tables, registered = [], set()
        for name, (paths, filesystem) in {"files": files, **others}.items():
            if filesystem is not None and filesystem.protocol not in registered:
                connection.register_filesystem(filesystem)
                registered.add(filesystem.protocol)
            names = ", ".join("'" + path.replace("'", "''") + "'" for path in paths)
            tables.append(f"{name} AS (FROM read_parquet([{names}], union_by_name = true, filename = true))")
        statement = f"WITH {', '.join(tables)} {sql}"
        try:
            yield from connection.sql(statement, params=list(parameters)).to_arrow_reader(BATCH)
        except (duckdb.Error, BaseError, OSError) as error:
            raise StorageError(
                what="files of the run cannot be read",
                # DuckDB passes on the traceback of a file system in Python, and obstore pages of details
                evidence=str(error).partition("Debug source:")[0].strip().splitlines()[-1].strip(),
                remedy="see that the disk or the store answers; capfilt verify RUN tells which file is damaged",
            ) from error


def columns(files: Files) -> list[str]:
    """The columns of a stage's files, which all have the same; none without files."""
    first = files._replace(paths=files.paths[:1])
    found = query("SELECT column_name FROM (DESCRIBE SELECT * EXCLUDE (filename) FROM files)", first)
    return [row["column_name"] for row in found]


def shorten(value: Any) -> Any:
    """A value to be shown: bytes as their number."""
    return f"<{len(value):,} bytes>" if isinstance(value, bytes) else value
