"""A contract: the Arrow schema of a record, and a vectorised check that a table keeps it."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from annotated_types import Ge, Le
from numpy.typing import NDArray
from pydantic.fields import FieldInfo

from capfilt.data_contracts.errors import ContractError
from capfilt.data_contracts.records import Half, Record

_ARROW: dict[type, pa.DataType] = {
    str: pa.string(),
    int: pa.int64(),
    float: pa.float64(),
    bytes: pa.large_binary(),
    bool: pa.bool_(),
}
NAME, VERSION = b"capfilt.contract", b"capfilt.version"
VECTOR = pa.list_(pa.field("element", pa.float16(), nullable=False))


def vectors(values: NDArray[Any]) -> pa.FixedSizeListArray:
    """Vectors, shape (rows, dim), as a contract has them: float16, of one length."""
    flat = pa.array(np.ascontiguousarray(values, dtype=np.float16).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, type=pa.list_(VECTOR.value_field, values.shape[1]))


def matrix(column: pa.ChunkedArray | pa.Array) -> NDArray[np.float16]:
    """The other way: a column of vectors, shape (rows, dim), float16."""
    whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    flat: NDArray[np.float16] = whole.flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(len(whole), whole.type.list_size)


def _plain(annotation: Any) -> tuple[Any, bool]:
    """The annotation without ``Annotated`` and ``None``, and whether ``None`` was allowed."""
    if get_origin(annotation) is Annotated:
        return _plain(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        (inner,) = (part for part in get_args(annotation) if part is not NoneType)
        return _plain(inner)[0], True
    return annotation, False


def _arrow(annotation: Any) -> pa.DataType:
    if _is_vector(annotation):
        return VECTOR
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
        values = [row.model_dump(mode="python") for row in rows]
        vector = next((name for name in self.schema.names if self.schema.field(name).type == VECTOR), "")
        schema = _of_length(self.schema, len(values[0][vector])) if values and vector else self.schema
        return self.check(pa.Table.from_pylist(values, schema))

    def check(self, table: pa.Table) -> pa.Table:
        """The same table, or :class:`ContractError` with the column, the count and up to three ids."""
        if not _loose(table.schema).equals(self.schema):
            raise ContractError(
                what=f"a table is not a {self.name}",
                evidence=f"its schema differs: {_difference(_loose(table.schema), self.schema)}",
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
        if column.type == VECTOR and len(column):
            self._broken(name, "is not written as vectors of one length", len(column), [])
        if pa.types.is_fixed_size_list(column.type):
            self._demand(table, name, _usable(matrix(column)), "is zero or not a finite number")
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
            VECTOR if any(isinstance(one, Half) for one in info.metadata) else _arrow(info.annotation),
            nullable=_plain(info.annotation)[1],
            metadata={"doc": info.description} if info.description else None,
        )
        for name, info in record.model_fields.items()
    ]
    return pa.schema(fields, {NAME: record.__name__.encode(), VERSION: str(record.version).encode()})


def _is_vector(annotation: Any) -> bool:
    return get_origin(annotation) is Annotated and any(
        isinstance(one, Half) for one in get_args(annotation)[1:]
    )


def _of_length(schema: pa.Schema, dim: int) -> pa.Schema:
    """The schema of a contract with vectors of ``dim`` components."""

    def sized(kind: pa.DataType) -> pa.DataType:
        if kind == VECTOR:
            return pa.list_(VECTOR.value_field, dim)
        if pa.types.is_list(kind):
            return pa.list_(kind.value_field.with_type(sized(kind.value_type)))
        return kind

    return pa.schema([field.with_type(sized(field.type)) for field in schema], schema.metadata)


def _loose(schema: pa.Schema) -> pa.Schema:
    """A schema whose vectors may have any length, as a contract knows them."""

    def loose(field: pa.Field) -> pa.Field:
        if pa.types.is_fixed_size_list(field.type):
            return field.with_type(pa.list_(field.type.value_field))
        if pa.types.is_list(field.type):
            return field.with_type(pa.list_(loose(field.type.value_field)))
        return field

    return pa.schema([loose(field) for field in schema], schema.metadata)


def _usable(vectors: NDArray[np.float16]) -> pa.Array:
    """Whether each vector is finite and not zero."""
    finite = np.isfinite(vectors).all(1) if vectors.size else np.ones(len(vectors), bool)
    return pa.array(finite & vectors.any(1) if vectors.size else finite)


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
    """Whether each list is without a null element (or an unusable vector): Arrow itself does not see to that."""
    lists = column.combine_chunks()
    inner = pc.list_flatten(lists)
    if pa.types.is_fixed_size_list(inner.type):
        whole = _usable(matrix(inner)).to_numpy(zero_copy_only=False)
        broken = pc.list_parent_indices(lists).filter(pa.array(~whole, pa.bool_()))
        return pa.chunked_array([pc.invert(pc.is_in(pa.array(range(len(lists)), broken.type), broken))])
    broken = pc.list_parent_indices(lists).filter(pc.is_null(inner))
    return pa.chunked_array([pc.invert(pc.is_in(pa.array(range(len(lists)), broken.type), broken))])
