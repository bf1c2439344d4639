"""A contract: the Arrow schema of a record, and a vectorised check that a table keeps it."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import pyarrow as pa
import pyarrow.compute as pc
from annotated_types import Ge, Le
from pydantic.fields import FieldInfo

from data_contracts.errors import ContractError
from data_contracts.records import Record

_ARROW: dict[type, pa.DataType] = {
    str: pa.string(),
    int: pa.int64(),
    float: pa.float64(),
    bytes: pa.large_binary(),
    bool: pa.bool_(),
}
NAME, VERSION = b"capfilt.contract", b"capfilt.version"


def _plain(annotation: Any) -> tuple[Any, bool]:
    """The annotation without ``Annotated`` and ``None``, and whether ``None`` was allowed."""
    if get_origin(annotation) is Annotated:
        return _plain(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        (inner,) = (part for part in get_args(annotation) if part is not NoneType)
        return _plain(inner)[0], True
    return annotation, False


def _arrow(annotation: Any) -> pa.DataType:
    plain, _ = _plain(annotation)
    if get_origin(plain) is list:
        return pa.list_(pa.field("element", _arrow(get_args(plain)[0]), nullable=False))
    if issubclass(plain, StrEnum):
        return pa.string()
    return _ARROW[plain]


def _bounds(info: FieldInfo) -> tuple[float | None, float | None, str | None]:
    """Lower bound, upper bound, pattern: of the field and of an ``Annotated`` inside ``X | None``."""
    metadata = list(info.metadata)
    for part in (info.annotation, *get_args(info.annotation)):
        if get_origin(part) is Annotated:
            metadata += [deep for item in get_args(part)[1:] for deep in getattr(item, "metadata", [item])]
    low: float | None = None
    high: float | None = None
    pattern: str | None = None
    for item in metadata:
        if isinstance(item, Ge):
            low = item.ge  # type: ignore[assignment]  # every bound here is a number
        elif isinstance(item, Le):
            high = item.le  # type: ignore[assignment]
        pattern = getattr(item, "pattern", None) or pattern
    return low, high, pattern


@dataclass(frozen=True)
class Contract:
    """The data contract of a record class."""

    record: type[Record]

    @property
    def name(self) -> str:
        return self.record.__name__

    @property
    def identity(self) -> str:
        """Name and version, as they enter fingerprints."""
        return f"{self.name}/{self.record.version}"

    @property
    def schema(self) -> pa.Schema:
        return _schema(self.record)

    def table(self, rows: Sequence[Record]) -> pa.Table:
        """Rows as a checked table; an empty sequence gives an empty table with the same schema."""
        return self.check(pa.Table.from_pylist([row.model_dump(mode="python") for row in rows], self.schema))

    def check(self, table: pa.Table) -> pa.Table:
        """The same table, or :class:`ContractError` with the column, the count and up to three ids."""
        if not table.schema.equals(self.schema):
            raise ContractError(
                what=f"a table is not a {self.name}",
                evidence=f"its schema differs: {_difference(table.schema, self.schema)}",
                remedy="write it through the contract's own schema",
            )
        for name, info in self.record.model_fields.items():
            self._check_column(table, name, info)
        self.check_key([table])
        return table

    def check_key(self, tables: Sequence[pa.Table]) -> None:
        """Raise :class:`ContractError` when the key is not unique over all these tables together."""
        key = list(self.record.key)
        if not key or not tables:
            return
        rows = pa.concat_tables(table.select(key) for table in tables)
        groups = rows.group_by(key).aggregate([([], "count_all")])
        twice = groups.filter(pc.greater(groups["count_all"], 1))
        if twice.num_rows:
            self._broken(", ".join(key), "is not unique", twice.num_rows, twice.slice(0, 3).to_pylist())

    def _check_column(self, table: pa.Table, name: str, info: FieldInfo) -> None:
        column = table[name]
        plain, nullable = _plain(info.annotation)
        if not nullable:
            self._demand(table, name, pc.is_valid(column), "is null")
        if pa.types.is_list(column.type):
            self._demand(table, name, _whole(column), "holds a null")
        if pa.types.is_floating(column.type):
            self._demand(table, name, pc.is_finite(column), "is not a finite number")
        low, high, pattern = _bounds(info)
        if low is not None:
            self._demand(table, name, pc.greater_equal(column, low), f"is below {low}")
        if high is not None:
            self._demand(table, name, pc.less_equal(column, high), f"is above {high}")
        if pattern:
            self._demand(table, name, pc.match_substring_regex(column, pattern), f"does not match {pattern}")
        if isinstance(plain, type) and issubclass(plain, StrEnum):
            self._demand(table, name, _within(column, plain), "is not known")

    def _demand(self, table: pa.Table, name: str, holds: pa.ChunkedArray, says: str) -> None:
        """Nulls pass: whether they may be there is a check of its own."""
        broken = pc.invert(pc.fill_null(holds, True))
        count = pc.sum(broken).as_py() or 0
        if count:
            ids = table.filter(broken).slice(0, 3).select(list(self.record.key[:1]) or [name])
            self._broken(name, says, count, ids.to_pylist())

    def _broken(self, column: str, says: str, count: int, examples: list[dict[str, Any]]) -> None:
        raise ContractError(
            what=f"{self.name}: column {column} {says} in {count} row{'s' if count > 1 else ''}",
            evidence=", ".join(str(next(iter(example.values()))) for example in examples),
            remedy="the stage that made these rows must reject them or write them as its contract says",
        )


@cache
def _schema(record: type[Record]) -> pa.Schema:
    fields = [
        pa.field(
            name,
            _arrow(info.annotation),
            nullable=_plain(info.annotation)[1],
            metadata={"doc": info.description} if info.description else None,
        )
        for name, info in record.model_fields.items()
    ]
    return pa.schema(fields, {NAME: record.__name__.encode(), VERSION: str(record.version).encode()})


def _difference(found: pa.Schema, wanted: pa.Schema) -> str:
    """The columns that are missing, unexpected or of another type."""
    problems = [f"{name} is missing" for name in wanted.names if name not in found.names]
    problems += [f"{name} is unexpected" for name in found.names if name not in wanted.names]
    problems += [
        f"{name} is {found.field(name)} instead of {wanted.field(name)}"
        for name in wanted.names
        if name in found.names and not found.field(name).equals(wanted.field(name))
    ]
    return "; ".join(problems) or "the columns' order"


def _within(column: pa.ChunkedArray, members: type[StrEnum]) -> pa.ChunkedArray:
    """Whether each value is a member; null where the value is."""
    found = pc.is_in(column, pa.array([str(member) for member in members]))
    return pc.or_(pc.is_null(column), found)


def _whole(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Whether each list is without a null element: Arrow itself does not see to that."""
    lists = column.combine_chunks()
    broken = pc.list_parent_indices(lists).filter(pc.is_null(pc.list_flatten(lists)))
    return pa.chunked_array([pc.invert(pc.is_in(pa.array(range(len(lists)), broken.type), broken))])
