"""List a source once and cut it into shards: what every later stage counts from."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from capfilt.data_contracts.contract import Contract
from capfilt.data_contracts.errors import SourceError
from capfilt.data_contracts.records import Occurrence, Record
from capfilt.data_contracts.rejects import Reason
from capfilt.stages.ingest.sources import coco, folder, img2dataset, parquet, urls, webdataset
from capfilt.stages.ingest.sources.entries import ENTRY, Notes
from capfilt.stages.ingest.sources.join import joined
from capfilt.stages.ingest.sources.source import Format, SourceSpec
from capfilt.stages.stage import GlobalStage, Rejected, Rows, Site, StageInput


class SourceKind(NamedTuple):
    """What a format can do: a digest for the plan, the rows as a stream of batches, and how bytes are read.

    A kind without a reader holds no bytes: its rows are fetched.
    """

    digest: Callable[[SourceSpec], str]
    entries: Callable[[SourceSpec, Notes], Iterator[pa.RecordBatch]]
    reader: Callable[[SourceSpec], Callable[[str], bytes]] | None

    @property
    def fetched(self) -> bool:
        return self.reader is None


KINDS: dict[Format, SourceKind] = {
    "urls": SourceKind(urls.digest, urls.entries, None),
    "folder": SourceKind(folder.digest, folder.entries, folder.reader),
    "coco": SourceKind(coco.digest, coco.entries, coco.reader),
    "webdataset": SourceKind(webdataset.digest, webdataset.entries, webdataset.reader),
    "img2dataset": SourceKind(img2dataset.digest, img2dataset.entries, img2dataset.reader),
    "parquet": SourceKind(parquet.digest, parquet.entries, parquet.reader),
}


@dataclass(frozen=True)
class ListSource(GlobalStage):
    """Writes the occurrences of all its sources, a shard for about every ``target`` bytes of images.

    Of a list of urls nobody knows the bytes: a shard for every ``rows`` urls. ``prefix`` tells the shards of the
    human set from those of the crawl.
    """

    produces: ClassVar[type[Record]] = Occurrence
    lists: ClassVar[bool] = True

    sources: tuple[SourceSpec, ...]
    target: int
    prefix: str = ""
    rows: int = 10_000

    def run(self, site: Site, inputs: StageInput) -> Iterator[Rows]:
        number = 0
        for source in self.sources:
            for rows in self._list(source, site):
                yield replace(rows, shard=f"{self.prefix}{number:07d}")
                number += 1

    def _list(self, source: SourceSpec, site: Site) -> Iterator[Rows]:
        """The shards of one source. What was noted while reading goes with the first, repetitions with the last."""
        kind, notes = KINDS[source.format], Notes()
        entries = kind.entries(source, notes)
        tables = joined(source.name, entries, site.scratch, site.threads, by_id=kind.fetched)
        listed = usable = read = 0
        problems: list[str] = []
        waiting: Rows | None = None
        for table in cut(tables, self.rows if kind.fetched else self.target, by_rows=kind.fetched):
            if waiting is not None:
                yield waiting
            waiting = self._rows(source, table, () if listed else notes.lines())
            listed, usable = listed + len(table), usable + waiting.kept.num_rows
            read += pc.sum(table["rows"]).as_py()
            problems += [reject.detail for reject in waiting.rejected[: 3 - len(problems)]]
            site.progress(listed, 0, f"{source.name}: {listed:,} listed")
        if waiting is None or not usable:
            raise SourceError(
                what=f"source {source.name} has no usable row",
                evidence=f"{listed} listed; "
                + "; ".join([*problems, *notes.lines()] or ["the list is empty"]),
                remedy="compare what the list names with what is there",
            )
        again = f"{read - listed:,} rows of source {source.name} repeat a url: their texts join the first"
        yield replace(waiting, notes=(*waiting.notes, again)) if read > listed else waiting

    def _rows(self, source: SourceSpec, table: pa.Table, notes: tuple[str, ...]) -> Rows:
        bad = pc.is_valid(table["problem"])
        rejected = [
            Rejected(
                id=row["row_id"],
                row_id=row["row_id"],
                reason=Reason(row["reason"]),
                detail=f"{row['url'][:500]}: {row['problem']}",
            )
            for row in table.filter(bad).select(["row_id", "url", "problem", "reason"]).to_pylist()
        ]
        good = table.filter(pc.invert(bad)) if rejected else table
        columns = {
            **{name: good[name] for name in good.column_names},
            "source_name": pa.repeat(source.name, len(good)),
            "place": pc.coalesce(good["place"], good["url"]),
        }
        schema = Contract(Occurrence).schema
        kept = pa.table([columns[name].cast(schema.field(name).type) for name in schema.names], schema=schema)
        return Rows(kept, rejected, units=len(table), notes=notes)


def first_rows(source: SourceSpec, count: int, scratch: Path) -> Rows:
    """The first rows of a source as they would be listed, and those that would leave; the rest is not read.

    Raises:
        SourceError: it cannot be read as the recipe says.
    """
    kind, notes = KINDS[source.format], Notes()
    first = next(iter(kind.entries(source, notes)), pa.RecordBatch.from_pylist([], ENTRY)).slice(0, count)
    listing = ListSource((source,), 1)
    tables = [*joined(source.name, [first], scratch, 1, by_id=kind.fetched)]
    if not tables:
        return Rows(Contract(Occurrence).table([]), units=0, notes=notes.lines())
    return listing._rows(source, pa.concat_tables(tables), notes.lines())


def cut(tables: Iterable[pa.Table], target: int, *, by_rows: bool = False) -> Iterator[pa.Table]:
    """Shards of up to ``target`` bytes, or rows; what belongs to different groups is never in one shard."""
    run: list[pa.Table] = []
    weight, last = 0, None
    for table in tables:
        start = 0
        sizes = [1] * len(table) if by_rows else table["size"].to_pylist()
        for row, (size, group) in enumerate(zip(sizes, table["group"].to_pylist(), strict=True)):
            if (run or row > start) and (weight + size > target or group != last):
                yield pa.concat_tables([*run, table.slice(start, row - start)])
                run, start, weight = [], row, 0
            weight += size
            last = group
        run.append(table.slice(start))
    if run:
        yield pa.concat_tables(run)
