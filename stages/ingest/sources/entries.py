"""What a source lists, row by row: one stream of Arrow batches from every kind of source."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import pyarrow as pa

from capfilt.data_contracts.rejects import Reason

BATCH = 1 << 14

ENTRY = pa.schema(
    {
        "url": pa.string(),
        "texts": pa.list_(pa.string()),
        "place": pa.string(),
        "size": pa.int64(),
        "group": pa.string(),
        "problem": pa.string(),
        "reason": pa.string(),
        "extra": pa.string(),
    }
)


class Listed(NamedTuple):
    """One row of a source. ``problem`` says why it cannot be used; ``group`` keeps places together."""

    url: str
    texts: list[str]
    place: str
    size: int
    group: str = ""
    problem: str | None = None
    reason: Reason = Reason.MISSING
    extra: str | None = None


def batched(rows: Iterable[Listed]) -> Iterator[pa.RecordBatch]:
    """Rows as batches of :data:`ENTRY`."""
    stream = iter(rows)
    while some := list(islice(stream, BATCH)):
        arrays = [
            pa.array([_storable(value) for value in column], field.type)
            for field, column in zip(ENTRY, zip(*some, strict=True), strict=True)
        ]
        yield pa.record_batch(arrays, schema=ENTRY)


def _storable(value: Any) -> Any:
    """A value that Arrow can hold: a name that is not UTF-8 and half a surrogate pair cannot be stored as text."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "backslashreplace").decode()
    return [_storable(one) for one in value] if isinstance(value, list) else value


def extra_of(values: Mapping[str, Any], columns: Sequence[str]) -> str | None:
    """The columns that the recipe keeps as a JSON object; null where it keeps none."""
    if not columns:
        return None
    return json.dumps({name: _plain(values.get(name)) for name in columns}, ensure_ascii=False, default=str)


def _plain(value: Any) -> Any:
    """Without what JSON has no word for: NaN and infinities are null."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


class Notes:
    """What was left out or repaired while a source was read: how often, and where first."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[int, str]] = {}

    def add(self, what: str, where: str = "", count: int = 1) -> None:
        before, first = self._found.get(what, (0, where))
        self._found[what] = (before + count, first)

    def lines(self) -> tuple[str, ...]:
        return tuple(
            f"{count:,} {what}" + (f"; the first in {where}" if where else "")
            for what, (count, where) in self._found.items()
        )
