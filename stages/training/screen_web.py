"""Let the filter judge the web texts before the captioner is trained: what it keeps, the captioner rehearses on."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from capfilt.data_contracts.records import IngestedImage, Record, WordCoverage
from capfilt.stages.clean.score import ScorePairs
from capfilt.stages.stage import Rows, ShardInput, Site, Transform
from capfilt.stages.training.rehearsal import is_narrow


@dataclass(frozen=True)
class ScreenWeb(ScorePairs):
    """Scores of the web texts alone; none, and no model is opened, where there is no need to rehearse.

    There is if the human captions know too little of what the web says, or ``always``.
    """

    consumes: ClassVar[tuple[type[Record], ...]] = (IngestedImage, WordCoverage)
    may_find_nothing: ClassVar[bool] = True

    always: bool = False

    def open(self, site: Site) -> Transform:
        """The model waits for the first shard that needs it: the stage cannot know before it sees the words."""
        opened: list[Transform] = []

        def transform(shard: ShardInput) -> Iterator[Rows]:
            if not self._needed(shard):
                return
            if not opened:
                opened.append(super(ScreenWeb, self).open(site))
            yield from opened[0](shard)

        return transform

    def units(self, shard: ShardInput) -> Mapping[str, Sequence[str]]:
        return super().units(shard) if self._needed(shard) else {}

    def _needed(self, shard: ShardInput) -> bool:
        return self.always or is_narrow(shard.table(WordCoverage, ["web_texts", "covered"]))
