"""Columns of a list as Arrow arrays: strings that are UTF-8, texts that are clean, extras as JSON."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from capfilt.stages.ingest.sources.entries import extra_of
from capfilt.stages.ingest.sources.source import clean_texts

Column = Any  # a sequence of Python values, or an Arrow array


def strings(column: Column) -> pa.Array:
    """A column as strings. Bytes that are not UTF-8 are read as Windows-1252; numbers are written out."""
    if not isinstance(column, pa.Array):
        try:
            return pa.array(column, pa.string())
        except (pa.ArrowException, UnicodeError):
            return pa.array([None if value is None else _text(value) for value in column], pa.string())
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if not _is_text(column.type):
        return column.cast(pa.string())
    try:
        return column.cast(pa.binary()).cast(pa.string())  # from binary, Arrow checks that it is UTF-8
    except pa.ArrowInvalid:
        return pa.array(
            [value and _decoded(value) for value in column.cast(pa.binary()).to_pylist()], pa.string()
        )


def _is_text(kind: pa.DataType) -> bool:
    tests = ("string", "large_string", "string_view", "binary", "large_binary", "binary_view")
    return any(getattr(pa.types, f"is_{test}")(kind) for test in tests)


def _decoded(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("cp1252", "replace")


def _text(value: Any) -> str:
    return str(value).encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def texts(column: Column) -> pa.Array:
    """A column of texts, or of lists of texts, as lists of clean ones: white space folded, empty ones left out."""
    if not isinstance(column, pa.Array) and any(isinstance(value, list) for value in column):
        lists = [clean_texts(value if isinstance(value, list) else [value]) for value in column]
        return pa.array([[_text(text) for text in own] for own in lists], pa.list_(pa.string()))
    if isinstance(column, pa.Array) and pa.types.is_nested(column.type):
        flat, parents = column.flatten(), pc.list_parent_indices(column).to_numpy()
    else:
        flat, parents = column, np.arange(len(column))
    folded = pc.binary_join(pc.utf8_split_whitespace(pc.utf8_trim_whitespace(strings(flat))), " ")
    there = pc.fill_null(pc.not_equal(folded, ""), False)
    counts = np.bincount(parents[there.to_numpy(zero_copy_only=False)], minlength=len(column))
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    return pa.ListArray.from_arrays(offsets, folded.filter(there))


def extras(columns: dict[str, Column], keep: Sequence[str], rows: int) -> pa.Array:
    """The kept columns of each row as a JSON object; nulls where none is kept."""
    if not keep:
        return pa.nulls(rows, pa.string())
    lists = [columns.get(name, pa.nulls(rows)) for name in keep]
    values = zip(*(one.to_pylist() if isinstance(one, pa.Array) else one for one in lists), strict=True)
    return strings([extra_of(dict(zip(keep, row, strict=True)), keep) for row in values])
