"""List a source once and cut it into shards: what every later stage counts from."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from data_contracts.contract import Contract
from data_contracts.errors import SourceError
from data_contracts.identity import row_id
from data_contracts.records import Occurrence, Record
from data_contracts.rejects import Reason, Reject
from stages.sources import folder, parquet
from stages.sources.source import Listed, Listing, SourceSpec
from stages.stage import GlobalStage, Rows, Site, StageInput

KINDS = {"folder": folder, "parquet": parquet}


@dataclass(frozen=True)
class ListSource(GlobalStage):
    """Writes the occurrences of all its sources, a shard for about every ``target`` bytes of images.

    ``prefix`` tells the shards of the human set from those of the crawl.
    """

    produces: ClassVar[type[Record]] = Occurrence
    lists: ClassVar[bool] = True

    sources: tuple[SourceSpec, ...]
    target: int
    prefix: str = ""

    def run(self, site: Site, inputs: StageInput) -> Iterator[Rows]:
        number = 0
        for source in self.sources:
            listing: Listing = KINDS[source.format].listing(source)
            if all(place.problem for place in listing.places):
                raise SourceError(
                    what=f"source {source.name} has no usable row",
                    evidence=f"{len(listing.places)} listed; " + "; ".join(self._problems(listing)),
                    remedy="compare the caption table's file names with the folder",
                )
            for places in self._cut(listing.places):
                notes = listing.notes if places is not None and places[0] is listing.places[0] else ()
                yield self._rows(source, places, f"{self.prefix}{number:07d}", notes)
                number += 1

    def _problems(self, listing: Listing) -> list[str]:
        return [f"{place.url}: {place.problem}" for place in listing.places[:3]] or ["the list is empty"]

    def _cut(self, places: list[Listed]) -> Iterator[list[Listed]]:
        """Runs of places up to ``target`` bytes; files that hold bytes keep their own borders."""
        run: list[Listed] = []
        size = 0
        for place in places:
            if run and (size + place.size > self.target or place.group != run[-1].group):
                yield run
                run, size = [], 0
            run.append(place)
            size += place.size
        yield run

    def _rows(self, source: SourceSpec, places: list[Listed], shard: str, notes: tuple[str, ...]) -> Rows:
        kept, rejected = [], []
        for place in places:
            row = row_id(source.name, place.url)
            if place.problem:
                rejected.append(
                    Reject(
                        id=row,
                        row_id=row,
                        stage="list",
                        unit=self.unit,
                        reason=Reason.MISSING,
                        detail=f"{place.url}: {place.problem}",
                    )
                )
            else:
                kept.append(
                    Occurrence(
                        row_id=row,
                        source_name=source.name,
                        url=place.url,
                        texts=place.texts,
                        place=place.place,
                        size=place.size,
                    )
                )
        return Rows(Contract(Occurrence).table(kept), rejected, shard, len(places), notes)
