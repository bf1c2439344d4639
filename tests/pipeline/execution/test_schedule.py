"""The flow of tasks, and that it does not slow down when a run has many shards; nothing is written here."""

from types import SimpleNamespace
from typing import Any, cast

import pyarrow as pa
import pytest

from capfilt.data_contracts.ledger import InputPart, ShardRecord
from capfilt.pipeline.execution.schedule import Schedule
from capfilt.pipeline.execution.task import Task
from capfilt.pipeline.ledger.commit_index import CommitIndex, Part, named, part_name, rows_of
from capfilt.pipeline.ledger.ledger import Ledger
from capfilt.pipeline.planning.graph import Graph
from capfilt.pipeline.planning.status import State, stage_statuses
from capfilt.stages.stage import TrainedModel
from tests.scenarios.faults.bare import Describe, Judge, Learn
from tests.scenarios.faults.hazards import ListHazards

SHARDS = [f"{number:07d}" for number in range(2000)]


def plan() -> Graph:
    graph = Graph(cast(Any, SimpleNamespace(placement={})))
    graph.add("list", ListHazards(()))
    graph.add("describe", Describe(), "list")
    graph.add("learn", Learn(), "describe")
    graph.add("judge", Judge(TrainedModel("learn")), "describe")
    return graph


def part_of(stage: str, shard: str, inputs: tuple[InputPart, ...] = (), model: str = "") -> Part:
    record = ShardRecord(
        run="run",
        stage=stage,
        shard=shard,
        fingerprint=plan().nodes[stage].fingerprint,
        contract="Caption/1",
        unit="image",
        units_in=1,
        kept=1,
        inputs=inputs,
        models={"learn": model} if stage == "judge" else {},
        facts={"model": model} if stage == "learn" else {},
        host="here",
        worker="17-0a1b2c3d",
        seconds=0.0,
        finished="2026-01-01",
    )
    return Part(name=part_name(shard), size=10, sha256=f"{stage}-{shard}", record=record)


def read_of(stage: str, shard: str) -> tuple[InputPart, ...]:
    return (InputPart(stage=stage, name=part_name(shard), sha256=f"{stage}-{shard}"),)


class Remembered(Ledger):
    """A ledger of parts that are nowhere but in the index."""

    def __init__(self, parts: dict[str, list[Part]], closed: set[str]) -> None:
        super().__init__("/nowhere")
        self._parts, self._closed = parts, closed

    def look(self, stage: str) -> Any:
        parts = self._parts.get(stage, [])
        names = pa.array([part.name for part in parts], pa.string())
        sizes = pa.array([part.size for part in parts], pa.int64())
        index = CommitIndex.of(rows_of(parts), pa.table({"name": names, "size": sizes}), {}, named(names))
        return index.totals(stage, "f") if stage in self._closed else None, index


def flow_of(ledger: Ledger, ended: list[str]) -> Schedule:
    graph = plan()
    statuses = stage_statuses(graph, ledger)
    return Schedule(
        graph, list(graph), "/nowhere", statuses, lambda *_: None, lambda node: ended.append(node.name)
    )


def drive(schedule: Schedule) -> list[Task]:
    """Run it to its end without doing anything."""
    tasks = []
    while not schedule.finished:
        task = next(schedule.ready(1))
        schedule.begin(task)
        tasks.append(task)
        shards = [task.shard] if task.shard else SHARDS if task.name == "list" else ["0000000"]
        schedule.end(task, [part_of(task.name, shard, model="m") for shard in shards])
    return tasks


def test_every_shard_of_every_stage_runs_once() -> None:
    ended: list[str] = []
    tasks = drive(flow_of(Remembered({}, set()), ended))
    assert ended == ["list", "describe", "learn", "judge"]
    ran = [(task.name, task.shard) for task in tasks]
    assert len(set(ran)) == len(ran) == 2 * len(SHARDS) + 2
    assert ran.index(("learn", "")) == len(SHARDS) + 1
    (learn,) = [task for task in tasks if task.name == "learn"]
    assert [*learn.upstream[0].parts] == SHARDS
    judge = tasks[-1]
    assert judge.upstream[0].parts == {judge.shard: (part_name(judge.shard), f"describe-{judge.shard}")}
    assert judge.digests == {"learn": "m"}


@pytest.fixture
def almost() -> dict[str, list[Part]]:
    """Twenty shards of the last stage are missing, five have read what is no more, three a model that is no more."""
    everything = tuple(read for shard in SHARDS for read in read_of("describe", shard))
    judged = [
        part_of(
            "judge",
            shard,
            read_of("list" if 100 <= number < 105 else "describe", shard),
            "old" if 200 <= number < 203 else "m",
        )
        for number, shard in enumerate(SHARDS)
        if number >= 20
    ]
    return {
        "list": [part_of("list", shard) for shard in SHARDS],
        "describe": [part_of("describe", shard, read_of("list", shard)) for shard in SHARDS],
        "learn": [part_of("learn", "0000000", everything, "m")],
        "judge": judged,
    }


def test_a_run_of_two_thousand_shards_goes_on_with_those_that_lack(almost: dict[str, list[Part]]) -> None:
    ledger = Remembered(almost, {"list", "describe", "learn"})
    statuses = stage_statuses(plan(), ledger)
    assert [status.state for status in statuses.values()] == [State.DONE] * 3 + [State.TO_RUN]
    due = [*SHARDS[:20], *SHARDS[100:105], *SHARDS[200:203]]
    assert statuses["judge"].missing == tuple(due)
    assert [*statuses["judge"].superseded] == due[20:]
    assert statuses["judge"].shards is statuses["describe"].shards
    ended: list[str] = []
    tasks = drive(flow_of(ledger, ended))
    assert ended == ["judge"]
    assert [(task.name, task.shard) for task in tasks] == [("judge", shard) for shard in due]
    assert [task.generation for task in tasks] == [0] * 20 + [1] * 8


def test_parts_that_a_global_stage_did_not_see_make_it_stale(almost: dict[str, list[Part]]) -> None:
    almost["describe"].pop()
    statuses = stage_statuses(plan(), Remembered(almost, {"list", "describe", "learn"}))
    assert statuses["describe"].missing == (SHARDS[-1],)
    almost["describe"].append(part_of("describe", SHARDS[-1], read_of("list", SHARDS[-1])))
    almost["describe"][-1] = almost["describe"][-1].model_copy(update={"sha256": "redone"})
    statuses = stage_statuses(plan(), Remembered(almost, {"list", "describe", "learn"}))
    assert statuses["learn"].stale == "describe has parts that it did not see"
    assert [*statuses["judge"].superseded][-1] == SHARDS[-1]


def test_a_shard_whose_upstream_part_is_committed_later_waits_for_it(almost: dict[str, list[Part]]) -> None:
    del almost["describe"][:30], almost["judge"][:10]
    ledger = Remembered(almost, {"list", "learn"})
    tasks = drive(flow_of(ledger, []))
    seen: set[str] = set()
    for task in tasks:
        if task.name == "judge" and task.shard in SHARDS[:30]:
            assert task.shard in seen
        seen.add(task.shard)
    assert [task.shard for task in tasks if task.name == "describe"] == SHARDS[:30]
