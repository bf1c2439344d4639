"""Small runs in bare processes: a ledger, four stages of a few rows, no Ray and no model.

``python -m tests.scenarios.faults.bare`` is a nursery. It has imported what a run needs and forks one process for
each line that it reads, which runs the plan or dies of its failpoint; the answer says how it ended. A fork takes
milliseconds where a new interpreter takes a second, so that every failpoint can be walked through.
"""

import json
import os
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

from rich.console import Console

from capfilt.data_contracts.contract import Contract
from capfilt.data_contracts.identity import pair_id
from capfilt.data_contracts.records import Caption, Decision, Metric, Occurrence, Record, Source
from capfilt.data_contracts.rejects import Reason
from capfilt.pipeline.execution.create_run import create_run
from capfilt.pipeline.execution.runner import Runner
from capfilt.pipeline.ledger.ledger import Ledger
from capfilt.pipeline.planning.graph import Graph
from capfilt.pipeline.storage.failpoints import VARIABLE
from capfilt.pipeline.watching.console import Progress
from capfilt.pipeline.watching.log import RunLog
from capfilt.stages.stage import (
    GlobalStage,
    Model,
    Rejected,
    Rows,
    ShardInput,
    ShardStage,
    Site,
    StageInput,
    TrainedModel,
    Transform,
)
from tests.pipeline.local_pool import LocalCluster
from tests.scenarios.faults.hazards import ListHazards

SHARDS = (("a-1", "bad-1", "a-2", "a-3"), ("b-1", "b-2"), ("c-1", "bad-2", "bad-3"))
_diary: Path


def _note(stage: str, shard: str) -> None:
    """Write down that work on a shard begins."""
    with _diary.open("a") as diary:
        diary.write(f"{stage} {shard}\n")


@dataclass(frozen=True)
class Describe(ShardStage):
    """A caption for every row; bad ones leave."""

    consumes: ClassVar[tuple[type[Record], ...]] = (Occurrence,)
    produces: ClassVar[type[Record]] = Caption

    def open(self, site: Site) -> Transform:
        return self._transform

    def _transform(self, shard: ShardInput) -> Iterator[Rows]:
        _note("describe", shard.shard)
        for batch in shard.stream(Occurrence, 2):
            kept, left = [], []
            for row in batch.to_pylist():
                identifier = row["row_id"]
                if row["url"].startswith("bad"):
                    left.append(
                        Rejected(
                            id=identifier,
                            row_id=identifier,
                            reason=Reason.EMPTY_CAPTION,
                            detail=row["url"],
                        )
                    )
                else:
                    kept.append(
                        Caption(
                            row_id=identifier,
                            image_id="0" * 64,
                            caption_index=0,
                            text=row["url"],
                            logprob=-1.0,
                        )
                    )
            yield Rows(Contract(Caption).table(kept), left)


@dataclass(frozen=True)
class Learn(GlobalStage):
    """A model of two files that knows how many captions there are."""

    consumes: ClassVar[tuple[type[Record], ...]] = (Caption,)
    produces: ClassVar[type[Record]] = Metric

    def run(self, site: Site, inputs: StageInput) -> Iterator[Rows | Model]:
        _note("learn", "")
        count = sum(part.num_rows for part in inputs.parts(Caption))
        folder = site.scratch / "model"
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        (folder / "weights").write_text(str(count))
        yield Model(folder)
        metric = Metric(name="captions", value=float(count), count=count)
        yield Rows(Contract(Metric).table([metric]), shard="0000000", units=1)


@dataclass(frozen=True)
class Judge(ShardStage):
    """Keeps every caption, at the threshold that the model says."""

    consumes: ClassVar[tuple[type[Record], ...]] = (Caption,)
    produces: ClassVar[type[Record]] = Decision

    model: TrainedModel

    def open(self, site: Site) -> Transform:
        threshold = float((Path(site.models[self.model]) / "weights").read_text())

        def transform(shard: ShardInput) -> Iterator[Rows]:
            _note("judge", shard.shard)
            for batch in shard.stream(Caption, 2):
                rows = [
                    Decision(
                        pair_id=pair_id(row["image_id"], row["text"]),
                        row_id=row["row_id"],
                        source=Source.SYNTHETIC,
                        itm=1.0,
                        threshold=threshold,
                    )
                    for row in batch.to_pylist()
                ]
                yield Rows(Contract(Decision).table(rows))

        return transform


def plan() -> Graph:
    """List, describe, learn from all of it, judge by what was learned."""
    recipe: Any = SimpleNamespace(name="run", placement={}, poison_limit=0, plain=dict)
    graph = Graph(recipe)
    graph.add("list", ListHazards(SHARDS))
    graph.add("describe", Describe(), "list")
    graph.add("learn", Learn(), "describe")
    graph.add("judge", Judge(TrainedModel("learn")), "describe")
    return graph


def run(where: Path, parent: Path | None = None) -> None:
    """Run the plan, or carry on, in this process; with ``parent`` as a fork of that run."""
    global _diary
    _diary = where.with_suffix(".diary")
    graph, ledger = plan(), Ledger(where)
    create_run(graph, ledger, Ledger(parent) if parent else None)
    Runner(graph, ledger, (RunLog(ledger), Progress(Console(quiet=True))), LocalCluster).run()


def _forked(where: Path, failpoint: str, parent: Path | None) -> int:
    """The exit code of a process that runs the plan; minus the signal that ended it."""
    if child := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        if failpoint:
            os.environ[VARIABLE] = failpoint
        run(where, parent)
        foreign = {"ray", "torch", "transformers"} & sys.modules.keys()
        if foreign:
            print(f"the process is not bare: {foreign}", file=sys.stderr)
        sys.stderr.flush()
        os._exit(2 if foreign else 0)
    except BaseException:  # nothing of the nursery may go on in the child
        traceback.print_exc()
        os._exit(1)


if __name__ == "__main__":
    for lazy in ("pandas", "pyarrow.acero", "pyarrow.dataset"):  # what Arrow would import in every fork
        import_module(lazy)
    for line in sys.stdin:
        asked = json.loads(line)
        of = asked["parent"] and Path(asked["parent"])
        print(_forked(Path(asked["run"]), asked["failpoint"], of), flush=True)
