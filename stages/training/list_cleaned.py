"""List the cleaned dataset of a parent run, a shard for each of its parts."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

from capfilt.data_contracts.contract import Contract
from capfilt.data_contracts.records import CleanedPart, Record
from capfilt.stages.stage import GlobalStage, Rows, Site, StageInput


@dataclass(frozen=True)
class ListCleaned(GlobalStage):
    """One :class:`CleanedPart` a shard. ``digest`` stands for the content of the parent's export.

    ``parts`` are the shards' names, letters that tell them from the run's own in front, with what belongs to each.
    """

    produces: ClassVar[type[Record]] = CleanedPart
    lists: ClassVar[bool] = True
    unit: ClassVar[str] = "part"

    digest: str
    parts: tuple[tuple[str, CleanedPart], ...] = field(metadata={"identity": False}, repr=False)

    def run(self, site: Site, inputs: StageInput) -> Iterator[Rows]:
        for shard, part in self.parts:
            yield Rows(Contract(CleanedPart).table([part]), shard=shard, units=1)
