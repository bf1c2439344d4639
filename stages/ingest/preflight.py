"""Ask for a few urls before asking for all of them."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

import pyarrow as pa
import pyarrow.compute as pc

from capfilt.data_contracts.contract import Contract
from capfilt.data_contracts.errors import StageError
from capfilt.data_contracts.records import Metric, Occurrence, Record
from capfilt.data_contracts.rejects import Reason
from capfilt.stages.ingest.fetch.policy import FetchPolicy
from capfilt.stages.ingest.fetch.shard import fetch
from capfilt.stages.stage import GlobalStage, Rows, Site, StageInput

LARGE = 10  # times the sample: a shorter list is simply fetched
DNS = 0.5  # of the sample: names that do not resolve; dead hosts in old crawls are up to a fifth


@dataclass(frozen=True)
class Preflight(GlobalStage):
    """Fetches ``sample`` urls of a large list and forgets the bytes: the rate of success is what shards must come
    near to, and a network on which next to nothing succeeds is told before the list is burnt. A ``sample`` of 0
    demands nothing.

    Rows are listed in the order of a hash of their url, so the first ones are a fair sample.
    """

    consumes: ClassVar[tuple[type[Record], ...]] = (Occurrence,)
    produces: ClassVar[type[Record]] = Metric
    unit: ClassVar[str] = "figure"

    sources: tuple[str, ...]
    policy: FetchPolicy
    sample: int = field(metadata={"identity": False})

    def run(self, site: Site, inputs: StageInput) -> Iterator[Rows]:
        rows, listed = self._first(inputs)
        figures = [Metric(name="listed", value=listed, count=listed, note="at least")]
        if rows and listed >= LARGE * self.sample:
            fetched = fetch(rows, self.policy, site.scratch, site.progress)
            ended = Counter(one.reason for one in fetched)
            self._demand(ended)
            figures += [
                Metric(
                    name=f"fetched_{reason or 'whole'}",
                    value=count / len(rows),
                    count=len(rows),
                    note="share of the sample",
                )
                for reason, count in ended.most_common()
            ]
        yield Rows(Contract(Metric).table(figures), units=len(figures))

    def _first(self, inputs: StageInput) -> tuple[list[tuple[str, str]], int]:
        """The sample, and how many urls there are, counted as far as it matters."""
        rows: list[tuple[str, str]] = []
        listed = 0
        for table in inputs.parts(Occurrence, ["row_id", "source_name", "place"]):
            own = table.filter(pc.is_in(table["source_name"], pa.array(self.sources, pa.string())))
            some = own.slice(0, self.sample - len(rows))
            rows += zip(some["row_id"].to_pylist(), some["place"].to_pylist(), strict=True)
            listed += len(own)
            if listed >= LARGE * self.sample:
                break
        return rows, listed

    def _demand(self, ended: Counter[Reason | None]) -> None:
        whole, dns = ended[None], ended[Reason.DNS]
        if whole and dns <= DNS * ended.total():
            return
        raise StageError(
            what=f"of a sample of {ended.total()} urls {whole} could be fetched",
            evidence=", ".join(f"{count} {reason or 'whole'}" for reason, count in ended.most_common(5)),
            remedy="see to the network and its name server (a caching resolver helps), or to the list; "
            "Preflight.sample 0 goes on without one",
        )


def promise(figures: pa.Table) -> float:
    """The share of urls that the preflight could fetch; 0 when there was none."""
    found: list[float] = figures.filter(pc.equal(figures["name"], "fetched_whole"))["value"].to_pylist()
    return found[0] if found else 0.0
