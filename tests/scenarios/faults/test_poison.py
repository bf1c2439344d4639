"""Rows that kill, stall or break the process that handles them, with real workers on a real Ray."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest

from capfilt.data_contracts.errors import StageError
from capfilt.data_contracts.ledger import ShardRecord
from capfilt.pipeline.cluster.scheduler import WorkerPool
from capfilt.pipeline.execution.schedule import Schedule
from capfilt.pipeline.ledger.ledger import Ledger
from capfilt.pipeline.planning.build import Plan
from capfilt.pipeline.planning.placement import PATIENCE, PlacementKeys
from capfilt.pipeline.planning.status import stage_statuses
from tests.scenarios.faults.hazards import BATCH, HandleHazards, ListHazards

pytestmark = pytest.mark.usefixtures("ray_here")
FINE = 10
POISON_LIMIT = 20


class HazardPlan(Plan):
    """Hazards are listed, then handled by two workers."""

    def __init__(self, listing: ListHazards, handling: HandleHazards, deadline: float) -> None:
        self.recipe = SimpleNamespace(placement={"care": PlacementKeys(actors=2, deadline=deadline)})  # type: ignore[assignment]
        self.nodes = {}
        self.add("list", listing)
        self.add("care", handling, "list")


@pytest.fixture(scope="module")
def pool(ray_here: None) -> Iterator[WorkerPool]:
    pool = WorkerPool("/no/run", POISON_LIMIT, PATIENCE)
    yield pool
    pool.close()


@dataclass
class Field:
    """A run with two stages: hazards are listed, then handled."""

    run: Path
    diary: Path
    pool: WorkerPool

    def handle(
        self, hazards: dict[int, Sequence[str]], shards: int = 6, deadline: float = 60.0, opening: str = ""
    ) -> None:
        """Run shards of fine rows, with these hazards in the middle of some of them, until all have ended."""
        self.diary.mkdir()
        fine = [f"fine-{row}" for row in range(FINE)]
        names = tuple((*fine[:5], *hazards.get(shard, ()), *fine[5:]) for shard in range(shards))
        plan = HazardPlan(ListHazards(names), HandleHazards(str(self.diary), opening), deadline)
        statuses = stage_statuses(plan, Ledger(self.run))
        ended: list[str] = []
        schedule = Schedule(
            plan, list(plan), str(self.run), statuses, lambda *_: None, lambda node: ended.append(node.name)
        )
        self.pool.run(schedule, lambda event: None)
        assert ended == ["list", "care"]

    def records(self) -> list[ShardRecord]:
        return [part.record for part in Ledger(self.run).index("care").parts().values() if part.record]

    def rejects(self) -> list[dict[str, Any]]:
        names = {row["row_id"]: row["url"] for row in self._rows("list")}
        left = [
            reject
            for record in self.records()
            if record.rejects
            for reject in pq.read_table(self.run / "care" / record.rejects).to_pylist()
        ]
        return [{**reject, "name": names[reject["row_id"]]} for reject in left]

    def kept(self) -> list[str]:
        return [row["text"] for row in self._rows("care")]

    def _rows(self, stage: str) -> list[dict[str, Any]]:
        return [
            row
            for path in sorted((self.run / stage).glob("part-*.parquet"))
            for row in pq.read_table(path).to_pylist()
        ]

    def batches(self, shard: int) -> list[list[str]]:
        """What was begun in a shard, over all its attempts."""
        return [line.split() for line in (self.diary / f"{shard:07d}").read_text().splitlines()]


@pytest.fixture
def field(tmp_path: Path, pool: WorkerPool) -> Field:
    return Field(tmp_path / "run", tmp_path / "diary", pool)


def test_two_rows_that_kill_the_process_leave_and_everything_else_stays(field: Field):
    field.handle({1: ["segfault-a"], 4: ["segfault-b"]})
    assert sorted(reject["name"] for reject in field.rejects()) == ["segfault-a", "segfault-b"]
    assert {reject["reason"] for reject in field.rejects()} == {"poison"}
    assert all("Segmentation fault" in reject["detail"] for reject in field.rejects())
    assert sorted(field.kept()) == sorted(f"fine-{row}" for row in range(FINE) for _ in range(6))
    for record in field.records():
        assert record.units_in == record.kept + sum(record.rejected.values())


def test_only_the_batch_in_hand_runs_again_row_by_row(field: Field):
    field.handle({0: ["segfault-a"]}, shards=1)
    batches = field.batches(0)
    whole = [batch for batch in batches if len(batch) > 1]
    alone = [batch for batch in batches if len(batch) == 1]
    hit = next(batch for batch in whole if "segfault-a" in batch)
    assert {name for (name,) in alone} == set(hit)
    assert len(hit) == BATCH
    assert sum(batch == ["segfault-a"] for batch in batches) == 1


def test_neighbours_of_poison_in_the_same_batch_stay(field: Field):
    field.handle({0: ["segfault-a", "segfault-b"]}, shards=1)
    assert sorted(reject["name"] for reject in field.rejects()) == ["segfault-a", "segfault-b"]
    assert len(field.kept()) == FINE


def test_a_row_killed_without_a_word_is_quarantined_too(field: Field):
    field.handle({0: ["killed-a"]}, shards=2)
    (reject,) = field.rejects()
    assert (reject["name"], reject["reason"]) == ("killed-a", "poison")
    assert "SIGKILL" in reject["detail"]


def test_a_row_that_raises_is_quarantined_with_its_exception(field: Field):
    field.handle({0: ["raises-a"], 2: ["raises-b"]}, shards=3)
    assert sorted(reject["name"] for reject in field.rejects()) == ["raises-a", "raises-b"]
    assert all("ValueError: this row cannot be handled" in reject["detail"] for reject in field.rejects())
    assert len(field.kept()) == 3 * FINE


def test_a_row_that_never_ends_is_quarantined_by_the_deadline(field: Field):
    field.handle({0: ["loops-a"]}, shards=2, deadline=2.0)
    (reject,) = field.rejects()
    assert (reject["name"], reject["reason"]) == ("loops-a", "poison")
    assert "deadline" in reject["detail"]
    assert len(field.kept()) == 2 * FINE


def test_a_stage_that_cannot_open_stops_soon(field: Field):
    began = time.monotonic()
    with pytest.raises(StageError, match="before its first batch") as caught:
        field.handle({}, opening="segfault")
    assert time.monotonic() - began < 60
    assert "Segmentation fault" in caught.value.evidence
    assert "capfilt resume" in caught.value.remedy
    assert not field.records()


def test_a_stage_that_raises_on_opening_says_what_it_raised(field: Field):
    with pytest.raises(StageError) as caught:
        field.handle({}, opening="raises")
    assert "ValueError: this row cannot be handled" in caught.value.evidence


def test_poison_everywhere_stops_the_stage(field: Field):
    hazards = {shard: [f"raises-{shard}-{row}" for row in range(8)] for shard in range(6)}
    with pytest.raises(StageError, match=f"more than {POISON_LIMIT}"):
        field.handle(hazards)


def test_committed_shards_outlive_the_shard_that_fails(field: Field):
    hazards = {5: [f"raises-{row}" for row in range(POISON_LIMIT + 1)]}
    with pytest.raises(StageError):
        field.handle(hazards)
    assert len(field.records()) == 5
    assert len(field.kept()) == 5 * FINE


def test_the_crew_works_on_after_a_failed_stage(field: Field, tmp_path: Path):
    with pytest.raises(StageError):
        field.handle({}, opening="raises")
    after = Field(tmp_path / "other", tmp_path / "other-diary", field.pool)
    after.handle({})
    assert len(after.kept()) == 6 * FINE
