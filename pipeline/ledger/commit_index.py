"""The index of a stage's commits: columns, so that a stage of 100,000 parts is looked at in one go."""

import json
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Self

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict

from capfilt.data_contracts.ledger import InputPart, ShardRecord, StageTotals
from capfilt.data_contracts.rejects import Reason

_PART = r"^part-(?P<shard>[a-z0-9]+)(?:\.g(?P<generation>\d+))?\.parquet$"
_FEW = pa.dictionary(pa.int32(), pa.string())  # the same value in most rows
# All of a record in columns. Of a quarantined part there is only its name, size and digest.
INDEX = pa.schema(
    [
        pa.field("shard", pa.string()),
        pa.field("generation", pa.int64()),
        pa.field("name", pa.string()),
        pa.field("size", pa.int64()),
        pa.field("sha256", pa.string()),
        pa.field("units_in", pa.int64()),
        pa.field("fan_out", pa.int64()),
        pa.field("kept", pa.int64()),
        pa.field("seconds", pa.float64()),
        pa.field("rejected", pa.map_(pa.string(), pa.int64())),
        pa.field("texts_rejected", pa.map_(pa.string(), pa.int64())),
        pa.field("inputs", pa.large_string()),
        pa.field("models", _FEW),
        pa.field("rejects", pa.string()),
        pa.field("notes", pa.list_(pa.string())),
        pa.field("facts", pa.large_string()),
        pa.field("run", _FEW),
        pa.field("stage", _FEW),
        pa.field("fingerprint", _FEW),
        pa.field("contract", _FEW),
        pa.field("unit", _FEW),
        pa.field("host", _FEW),
        pa.field("worker", _FEW),
        pa.field("attempt", pa.int64()),
        pa.field("finished", pa.string()),
    ]
)


def part_name(shard: str, generation: int = 0) -> str:
    """The one name under which a generation of a shard can be committed."""
    return f"part-{shard}.g{generation}.parquet" if generation else f"part-{shard}.parquet"


def shard_of(name: str) -> str:
    """The shard whose part has this name."""
    return str(named(pa.array([name]))["shard"][0])


class Part(BaseModel):
    """A committed part as the index knows it; ``record`` is null for a quarantined part."""

    model_config = ConfigDict(frozen=True)

    name: str
    size: int
    sha256: str
    record: ShardRecord | None


def inputs_text(inputs: Iterable[InputPart]) -> str:
    """What a part read, as one string that another reading can be compared with."""
    return "".join(sorted(f"{part.stage}/{part.name}@{part.sha256};" for part in inputs))


def models_text(models: Mapping[str, str]) -> str:
    """Models and their digests as JSON, one spelling for one content."""
    return json.dumps(models, sort_keys=True)


def _inputs_of(text: str) -> tuple[InputPart, ...]:
    """What :func:`inputs_text` wrote."""
    found = []
    for one in text.split(";")[:-1]:
        where, _, sha256 = one.rpartition("@")
        stage, _, name = where.partition("/")
        found.append(InputPart(stage=stage, name=name, sha256=sha256))
    return tuple(found)


def rows_of(parts: Iterable[Part]) -> pa.Table:
    """Parts as rows of the index; of a quarantined part only its name, size and digest."""
    rows = []
    for part in parts:
        row: dict[str, object] = {"name": part.name, "size": part.size, "sha256": part.sha256}
        if record := part.record:
            row |= {
                "shard": record.shard,
                "generation": record.generation,
                "units_in": record.units_in,
                "fan_out": record.fan_out,
                "kept": record.kept,
                "seconds": record.seconds,
                "rejected": [(str(reason), count) for reason, count in record.rejected.items()],
                "texts_rejected": [(str(reason), count) for reason, count in record.texts_rejected.items()],
                "inputs": inputs_text(record.inputs),
                "models": models_text(record.models),
                "rejects": record.rejects,
                "notes": list(record.notes),
                "facts": json.dumps(record.facts) if record.facts else None,
                "run": record.run,
                "stage": record.stage,
                "fingerprint": record.fingerprint,
                "contract": record.contract,
                "unit": record.unit,
                "host": record.host,
                "worker": record.worker,
                "attempt": record.attempt,
                "finished": record.finished,
            }
        rows.append(row)
    return pa.Table.from_pylist(rows, INDEX)


def named(names: pa.Array) -> pa.Table:
    """The names of parts, each with its shard and generation; names of other files are left out."""
    found = pc.extract_regex(names, _PART)
    names, found = names.filter(found.is_valid()), found.drop_null()
    shard, generation = (found.field(name) for name in ("shard", "generation"))
    generation = pc.if_else(pc.equal(generation, ""), "0", generation).cast(pa.int64())
    return pa.table({"shard": shard, "generation": generation, "name": names})


def _ascending(values: pa.Array) -> bool:
    """Whether they are sorted and each is there once, as is mostly so: then they need not be copied."""
    return (
        bool(pc.all(pc.less(values.slice(0, len(values) - 1), values.slice(1))).as_py())
        if len(values)
        else True
    )


def newest(parts: pa.Table) -> pa.Table:
    """Of every shard the row of its newest generation, sorted by shard."""
    if not parts.num_rows:
        return parts
    parts = parts.combine_chunks()
    if _ascending(parts["shard"].combine_chunks()):
        return parts
    parts = parts.sort_by([("shard", "ascending"), ("generation", "ascending")]).combine_chunks()
    shard = parts["shard"].combine_chunks()
    last = pc.not_equal(shard.slice(1), shard.slice(0, len(shard) - 1))
    return parts.filter(pa.concat_arrays([last, pa.array([True])]))


@dataclass(frozen=True)
class CommitIndex:
    """The newest committed part of every shard of a stage that stands: a table of INDEX, sorted by shard.

    ``damaged`` are newest parts that cannot be used, by name, with the evidence. ``given`` is, of the shards that
    have no part here, the highest generation whose name was ever given away, to whatever is under it now.
    Single shards are found by bisection, so that nothing besides the columns is held in memory.
    """

    table: pa.Table = field(default_factory=INDEX.empty_table)
    damaged: Mapping[str, str] = field(default_factory=dict)
    given: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, rows: pa.Table, listed: pa.Table, unusable: Mapping[str, str], given: pa.Table) -> Self:
        """From the index's rows of the newest parts, and what is known to be bad.

        ``listed`` has the names and sizes of the files that are there, ``given`` the shards and generations of all
        names that were ever given away.
        """
        damaged = dict(unusable)
        rows = rows.combine_chunks()
        if rows["shard"].null_count:
            rows = rows.filter(pc.is_valid(rows["shard"]))
        if not _ascending(rows["shard"].combine_chunks()):
            rows = rows.sort_by("shard").combine_chunks()
        place = pc.index_in(rows["name"].combine_chunks(), listed["name"].combine_chunks())
        found = listed["size"].combine_chunks().take(place)
        other = pc.not_equal(found, rows["size"].combine_chunks())
        for name, size, now in zip(
            rows["name"].filter(other).to_pylist(),
            rows["size"].filter(other).to_pylist(),
            found.filter(other).to_pylist(),
            strict=True,
        ):
            damaged.setdefault(name, f"{now} bytes instead of {size}")
        if damaged:
            rows = rows.filter(pc.invert(pc.is_in(rows["name"], pa.array(damaged, pa.string()))))
        rows = rows.combine_chunks()
        without = newest(given.filter(pc.invert(pc.is_in(given["shard"], rows["shard"].combine_chunks()))))
        columns = (without[name].to_pylist() for name in ("shard", "generation"))
        return cls(rows, damaged, dict(zip(*columns, strict=True)))

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @property
    def shards(self) -> list[str]:
        shards: list[str] = self.table["shard"].to_pylist()
        return shards

    @cached_property
    def _shards(self) -> pa.Array:
        return self.table["shard"].combine_chunks()

    def _row(self, shard: str) -> int | None:
        """The row of a shard."""
        row = bisect_left(range(len(self)), shard, key=lambda row: self._shards[row].as_py())
        return row if row < len(self) and self._shards[row].as_py() == shard else None

    def __contains__(self, shard: str) -> bool:
        return self._row(shard) is not None

    def missing(self, shards: Sequence[str]) -> tuple[str, ...]:
        """Those of these shards that have no part."""
        asked = pa.array(shards, pa.string())
        return tuple(asked.filter(pc.invert(pc.is_in(asked, self._shards))).to_pylist())

    def part(self, shard: str) -> Part:
        """One shard's part, with its whole record. Raises :class:`KeyError`."""
        row = self._row(shard)
        if row is None:
            raise KeyError(shard)
        (found,) = self.table.slice(row, 1).to_pylist()
        own = {name: found.pop(name) for name in ("name", "size", "sha256")}
        record = ShardRecord.model_validate(
            {
                **found,
                "rejected": dict(found["rejected"]),
                "texts_rejected": dict(found["texts_rejected"]),
                "inputs": _inputs_of(found["inputs"]),
                "models": json.loads(found["models"]),
                "facts": json.loads(found["facts"] or "{}"),
            }
        )
        return Part(**own, record=record)

    def first_record(self) -> ShardRecord | None:
        """That of the first shard, for what all shards have in common; ``None`` when there is none."""
        return self.part(self.table["shard"][0].as_py()).record if len(self) else None

    def parts(self) -> dict[str, Part]:
        """Every part by its shard. Costs a record a part: for stages of a few parts, and for tests."""
        return {shard: self.part(shard) for shard in self.shards}

    def place(self, shard: str) -> tuple[str, str] | None:
        """Name and digest of a shard's part."""
        row = self._row(shard)
        return None if row is None else (self.table["name"][row].as_py(), self.table["sha256"][row].as_py())

    def held(self) -> dict[str, tuple[str, str]]:
        """Name and digest of all parts, by shard."""
        columns = (self.table[name].to_pylist() for name in ("shard", "name", "sha256"))
        return {shard: (name, digest) for shard, name, digest in zip(*columns, strict=True)}

    def generation(self, shard: str) -> int:
        """The generation under which a shard is to be committed.

        That of its newest part if that one stands (a commit will then lose to it), else the next one.
        """
        row = self._row(shard)
        return self.given.get(shard, -1) + 1 if row is None else int(self.table["generation"][row].as_py())

    def without(self, shards: Iterable[str]) -> "CommitIndex":
        """The index without these shards' parts, as it is once they are quarantined."""
        gone = pc.is_in(self.table["shard"], pa.array(list(shards), pa.string()))
        left = self.table.filter(gone)
        columns = (left[name].to_pylist() for name in ("shard", "generation"))
        given = {**self.given, **dict(zip(*columns, strict=True))}
        return CommitIndex(self.table.filter(pc.invert(gone)).combine_chunks(), self.damaged, given)

    def totals(self, stage: str, fingerprint: str) -> StageTotals:
        """The sums over the parts."""
        table = self.table
        return StageTotals(
            stage=stage,
            fingerprint=fingerprint,
            shards=tuple(self.shards),
            units_in=pc.sum(table["units_in"]).as_py() or 0,
            fan_out=pc.max(table["fan_out"]).as_py() or 1,
            kept=pc.sum(table["kept"]).as_py() or 0,
            rejected=_by_reason(table["rejected"]),
            texts_rejected=_by_reason(table["texts_rejected"]),
            seconds=round(pc.sum(table["seconds"]).as_py() or 0.0, 3),
        )

    def text(self, stage: str, rows: pa.Array | None = None) -> pa.Array:
        """Each part as :func:`inputs_text` names it, in the order of the table; or those of these rows."""
        ends = (pa.scalar(f"{stage}/"), "@", ";")
        name, digest = (self.table[column].combine_chunks() for column in ("name", "sha256"))
        if rows is not None:
            name, digest = name.take(rows), digest.take(rows)
        return pc.binary_join_element_wise(ends[0], name, ends[1], digest, ends[2], "").cast(
            pa.large_string()
        )


def _by_reason(counts: pa.ChunkedArray) -> dict[Reason, int]:
    """The sums over a column of counts by reason."""
    maps = counts.combine_chunks()
    if not len(maps):
        return {}
    flat = pa.table({"reason": maps.keys, "count": maps.items}).group_by("reason")
    return {Reason(row["reason"]): row["count_sum"] for row in flat.aggregate([("count", "sum")]).to_pylist()}
