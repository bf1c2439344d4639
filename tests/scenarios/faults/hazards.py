"""Stages whose rows do things to the process that handles them, for the scheduler's tests; workers import it."""

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from capfilt.data_contracts.contract import Contract
from capfilt.data_contracts.identity import row_id
from capfilt.data_contracts.records import Caption, Occurrence, Record
from capfilt.stages.stage import GlobalStage, Rows, ShardInput, ShardStage, Site, StageInput, Transform

BATCH = 4


@dataclass(frozen=True)
class ListHazards(GlobalStage):
    """Each shard's rows by name: `segfault-1`, `raises-1`, `fine-1` say what is to happen with them."""

    produces: ClassVar[type[Record]] = Occurrence
    lists: ClassVar[bool] = True

    shards: tuple[tuple[str, ...], ...]

    def run(self, site: Site, inputs: StageInput) -> Iterator[Rows]:
        for number, names in enumerate(self.shards):
            rows = [
                Occurrence(
                    row_id=row_id("web", f"{number}/{name}"),
                    source_name="web",
                    url=name,
                    texts=[],
                    place=name,
                    size=1,
                )
                for name in names
            ]
            yield Rows(Contract(Occurrence).table(rows), shard=f"{number:07d}", units=len(rows))


@dataclass(frozen=True)
class HandleHazards(ShardStage):
    """Writes every row's name as its caption. ``opening`` happens in every worker that opens the stage.

    ``diary`` is a folder in which every batch that was begun leaves a line, in a file for its shard.
    """

    consumes: ClassVar[tuple[type[Record], ...]] = (Occurrence,)
    produces: ClassVar[type[Record]] = Caption

    diary: str
    opening: str = ""

    def open(self, site: Site) -> Transform:
        _happen(self.opening)
        return self._transform

    def _transform(self, shard: ShardInput) -> Iterator[Rows]:
        for batch in shard.stream(Occurrence, BATCH):
            rows = batch.to_pylist()
            with (Path(self.diary) / shard.shard).open("a") as diary:
                diary.write(" ".join(row["url"] for row in rows) + "\n")
            captions = []
            for row in rows:
                _happen(row["url"].partition("-")[0])
                captions.append(
                    Caption(
                        row_id=row["row_id"],
                        image_id="0" * 64,
                        caption_index=0,
                        text=row["url"],
                        logprob=-1.0,
                    )
                )
            yield Rows(Contract(Caption).table(captions))


def _happen(what: str) -> None:
    if what == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif what == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    elif what == "eats":
        eaten = []
        while True:
            eaten.append(b"x" * 2**26)
    elif what == "raises":
        raise ValueError("this row cannot be handled")
    elif what == "loops":
        while True:
            time.sleep(0.1)
