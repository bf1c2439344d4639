"""The stages of a run as Arrow tables, and as views of a DuckDB query."""

import re
from collections.abc import Iterable, Sequence

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from obstore.exceptions import BaseError

from capfilt.data_contracts import records
from capfilt.data_contracts.contract import Contract
from capfilt.data_contracts.errors import StorageError, UsageError
from capfilt.data_contracts.records import Record
from capfilt.data_contracts.rejects import Reject
from capfilt.pipeline.ledger.index_store import RECORD
from capfilt.pipeline.ledger.ledger import Ledger
from capfilt.pipeline.reports.query import files
from capfilt.pipeline.reports.stages import demand_stage

REJECTS = "_rejects"  # the view of a stage's rejects is the stage's name with this behind it


def stage_table(
    ledger: Ledger, stage: str, columns: Sequence[str] | None = None, *, rejects: bool = False
) -> pa.Table:
    """All committed rows of a stage, or of its rejects, in the order of its shards.

    ``columns``: only these are read, in this order. A stage without rows gives an empty table with the schema of its
    contract.

    Raises:
        SourceError: the run has no such stage.
        UsageError: the stage has no such column.
        StorageError: a file is damaged, or the disk or the store does not answer.
    """
    demand_stage(ledger, stage)
    parts = files(ledger, stage, rejects=rejects)
    filesystem = parts.filesystem
    try:
        read = [_read(path, filesystem, columns) for path in parts.paths]
    except (pa.ArrowException, BaseError, OSError) as error:
        raise StorageError(
            what=f"a part of {stage} cannot be read",
            evidence=str(error).strip().splitlines()[0],
            remedy=f"see that the disk or the store answers; capfilt verify {ledger.url} tells which file is damaged",
        ) from error
    full = [table for table in read if len(table)] or read[:1]  # vectors of no rows have no length yet
    if full:
        return pa.concat_tables(full)
    empty = _schema(ledger, stage, rejects=rejects).empty_table()
    return empty if columns is None else empty.select(_demand_columns(columns, empty.schema))


def _read(path: str, filesystem: object, columns: Sequence[str] | None) -> pa.Table:
    with pq.ParquetFile(path, filesystem=filesystem, page_checksum_verification=True) as file:
        wanted = None if columns is None else _demand_columns(columns, file.schema_arrow)
        table = file.read(wanted)
    table = table if wanted is None else table.select(wanted)
    facts = {key: value for key, value in (table.schema.metadata or {}).items() if key != RECORD}
    return table.replace_schema_metadata(facts)


def _demand_columns(columns: Sequence[str], schema: pa.Schema) -> list[str]:
    if unknown := [name for name in columns if name not in schema.names]:
        raise UsageError(
            what=f"there is no column {unknown[0]!r}",
            evidence=f"the columns: {', '.join(schema.names)}",
            remedy="name columns that are there",
        )
    return list(columns)


def _schema(ledger: Ledger, stage: str, *, rejects: bool) -> pa.Schema:
    """That of the contract which the run's own record names; without columns if this capfilt does not know it."""
    if rejects:
        return Contract(Reject).schema
    known: Iterable[type[Record]] = (getattr(records, name) for name in records.__all__)
    by_identity = {
        Contract(record).identity: record
        for record in known
        if isinstance(record, type) and issubclass(record, Record)
    }
    record = by_identity.get(ledger.record().stages[stage]["writes"])
    return pa.schema([]) if record is None else Contract(record).schema


def select(ledger: Ledger, sql: str, parameters: Sequence[object] = ()) -> pa.Table:
    """The rows of a DuckDB query in which every stage is a view, and its rejects are ``STAGE_rejects``.

    Vectors, which a run keeps as float16, are float32 in it.

    Raises:
        UsageError: the query cannot be understood, or gives no rows.
        StorageError: a file is damaged, or the disk or the store does not answer.
    """
    with duckdb.connect() as connection:
        registered: set[str] = set()
        for stage in ledger.record().fingerprints:
            for view, rejects in ((stage, False), (stage + REJECTS, True)):
                if re.search(rf"\b{re.escape(view)}\b", sql, re.IGNORECASE):  # a view opens all of its files
                    _add_view(connection, ledger, view, stage, rejects, registered)
        try:
            found = connection.sql(sql, params=list(parameters) or None)
            table = None if found is None else found.to_arrow_table()
        except (duckdb.ProgrammingError, duckdb.DataError) as error:
            raise UsageError(
                what="the query cannot be run",
                evidence=" ".join(str(error).split()),
                remedy=f"the tables are the run's stages, and STAGE{REJECTS}: "
                + ", ".join(ledger.record().fingerprints),
            ) from error
        except (duckdb.Error, BaseError, OSError) as error:
            raise _unreadable(ledger, error) from error
    if table is None:
        raise UsageError(what="the query gives no rows", evidence=sql, remedy="give a SELECT")
    return table


def _add_view(
    connection: duckdb.DuckDBPyConnection,
    ledger: Ledger,
    view: str,
    stage: str,
    rejects: bool,
    registered: set[str],
) -> None:
    parts = files(ledger, stage, rejects=rejects)
    if not parts.paths:
        empty = _readable(_schema(ledger, stage, rejects=rejects)).empty_table()
        connection.register(
            view, empty if empty.column_names else pa.table({"row_id": pa.array([], pa.string())})
        )
        return
    if parts.filesystem is not None and parts.filesystem.protocol not in registered:
        connection.register_filesystem(parts.filesystem)
        registered.add(parts.filesystem.protocol)
    names = ", ".join("'" + path.replace("'", "''") + "'" for path in parts.paths)
    try:
        connection.execute(
            f'CREATE VIEW "{view}" AS FROM read_parquet([{names}], union_by_name = true, filename = false)'
        )
    except (duckdb.Error, BaseError, OSError) as error:
        raise _unreadable(ledger, error) from error


def _unreadable(ledger: Ledger, error: Exception) -> StorageError:
    return StorageError(
        what="files of the run cannot be read",
        # DuckDB passes on the traceback of a file system in Python, and obstore pages of details
        evidence=str(error).partition("Debug source:")[0].strip().splitlines()[-1].strip(),
        remedy=f"see that the disk or the store answers; capfilt verify {ledger.url} tells which file is damaged",
    )


def _readable(schema: pa.Schema) -> pa.Schema:
    """With float32 for float16, which DuckDB does not take from Arrow."""

    def wider(kind: pa.DataType) -> pa.DataType:
        if pa.types.is_list(kind):
            return pa.list_(wider(kind.value_type))
        return pa.float32() if pa.types.is_float16(kind) else kind

    return pa.schema([pa.field(field.name, wider(field.type)) for field in schema])
