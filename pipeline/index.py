"""The index of a stage's commits: columns, so that a stage of 100,000 parts is looked at in one go."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Self

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict

from data_contracts.ledger import InputPart, ShardRecord, StageTotals

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
        pa.field("inputs", pa.large_string()),
        pa.field("models", pa.string()),
        pa.field("rejects", pa.string()),
        pa.field("notes", pa.list_(pa.string())),
        pa.field("record", pa.large_string()),
    ]
)


class Part(BaseModel):
    """A committed part as the index knows it; ``record`` is null for a tombstone."""

    model_config = ConfigDict(frozen=True)

    name: str
    size: int
    sha256: str
    record: ShardRecord | None


def inputs_text(inputs: Iterable[InputPart]) -> str:
    """What a part read, as one string that another reading can be compared with."""
    return "".join(sorted(f"{part.stage}/{part.name}@{part.sha256};" for part in inputs))


def models_text(models: Mapping[str, str]) -> str:
    return "".join(sorted(f"{name}={digest};" for name, digest in models.items()))


def rows_of(parts: Iterable[Part]) -> pa.Table:
    """Parts as rows of the index; of a tombstone only its name, size and digest."""
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
                "inputs": inputs_text(record.inputs),
                "models": models_text(record.models),
                "rejects": record.rejects,
                "notes": list(record.notes),
                "record": record.model_dump_json(),
            }
        rows.append(row)
    return pa.Table.from_pylist(rows, INDEX)


@dataclass(frozen=True)
class Index:
    """The newest committed part of every shard of a stage that stands: a table of INDEX, sorted by shard.

    ``damaged`` are newest parts that cannot be used, by name, with the evidence. ``given`` is the highest
    generation of each shard whose name was ever given away, to whatever is under it now.
    """

    table: pa.Table = field(default_factory=INDEX.empty_table)
    damaged: Mapping[str, str] = field(default_factory=dict)
    given: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(
        cls, rows: pa.Table, listed: Mapping[str, int], unusable: Mapping[str, str], given: Mapping[str, int]
    ) -> Self:
        """From the index's rows of the newest parts, the sizes found by listing, and what is known to be bad."""
        damaged = dict(unusable)
        rows = rows.filter(pc.is_valid(rows["record"])).sort_by("shard")
        for name, size in zip(rows["name"].to_pylist(), rows["size"].to_pylist(), strict=True):
            if listed[name] != size:
                damaged.setdefault(name, f"{listed[name]} bytes instead of {size}")
        if damaged:
            rows = rows.filter(pc.invert(pc.is_in(rows["name"], pa.array(damaged, pa.string()))))
        return cls(rows.combine_chunks(), damaged, given)

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @property
    def shards(self) -> list[str]:
        shards: list[str] = self.table["shard"].to_pylist()
        return shards

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {shard: row for row, shard in enumerate(self.shards)}

    def __contains__(self, shard: str) -> bool:
        return shard in self._rows

    def part(self, shard: str) -> Part:
        """One shard's part, with its whole record."""
        row = self.table.slice(self._rows[shard], 1).to_pylist()[0]
        record = ShardRecord.model_validate_json(row["record"])
        return Part(name=row["name"], size=row["size"], sha256=row["sha256"], record=record)

    def parts(self) -> dict[str, Part]:
        """Every part by its shard. Costs a record a part: for stages of a few parts, and for tests."""
        return {shard: self.part(shard) for shard in self.shards}

    def held(self, shards: Sequence[str] | None = None) -> dict[str, tuple[str, str]]:
        """Name and digest of the parts of these shards, or of all; a shard without a part is left out."""
        table = self.table
        if shards is not None:
            table = table.take([self._rows[shard] for shard in shards if shard in self._rows])
        columns = (table[name].to_pylist() for name in ("shard", "name", "sha256"))
        return {shard: (name, digest) for shard, name, digest in zip(*columns, strict=True)}

    def generation(self, shard: str) -> int:
        """The generation under which a shard is to be committed.

        That of its newest part if that one stands (a commit will then lose to it), else the next one.
        """
        if shard in self:
            return int(self.table["generation"][self._rows[shard]].as_py())
        return self.given.get(shard, -1) + 1

    def without(self, shards: Iterable[str]) -> "Index":
        """The index without these shards' parts, as it is once they are buried."""
        gone = pc.is_in(self.table["shard"], pa.array(list(shards), pa.string()))
        return Index(self.table.filter(pc.invert(gone)), self.damaged, self.given)

    def totals(self, stage: str, fingerprint: str) -> StageTotals:
        """The sums over the parts."""
        table = self.table
        rejected = table["rejected"].combine_chunks()
        flat = pa.table({"reason": rejected.keys, "count": rejected.items}) if len(rejected) else None
        by_reason = flat.group_by("reason").aggregate([("count", "sum")]).to_pylist() if flat else []
        return StageTotals(
            stage=stage,
            fingerprint=fingerprint,
            shards=tuple(self.shards),
            units_in=pc.sum(table["units_in"]).as_py() or 0,
            fan_out=pc.max(table["fan_out"]).as_py() or 1,
            kept=pc.sum(table["kept"]).as_py() or 0,
            rejected={row["reason"]: row["count_sum"] for row in by_reason},
            seconds=round(pc.sum(table["seconds"]).as_py() or 0.0, 3),
        )

    def text(self, stage: str) -> pa.Array:
        """Each part as :func:`inputs_text` names it, in the order of the table."""
        ends = (pa.scalar(f"{stage}/"), "@", ";")
        name, digest = (self.table[column].combine_chunks() for column in ("name", "sha256"))
        return pc.binary_join_element_wise(ends[0], name, ends[1], digest, ends[2], "").cast(
            pa.large_string()
        )
