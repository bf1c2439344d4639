import errno
import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from capfilt.data_contracts.contract import Contract
from capfilt.data_contracts.errors import (
    ConservationError,
    ContractError,
    DamageError,
    StageError,
    StorageError,
)
from capfilt.data_contracts.identity import pair_id
from capfilt.data_contracts.records import Caption, Decision, IngestedImage, Metric, Record, Score
from capfilt.data_contracts.rejects import Reason
from capfilt.pipeline.execution.attempt import run_task
from capfilt.pipeline.execution.heartbeat import Heartbeat
from capfilt.pipeline.execution.task import Task, Upstream
from capfilt.pipeline.ledger.commit_index import Part
from capfilt.pipeline.ledger.ledger import Ledger
from capfilt.pipeline.storage import patience
from capfilt.stages.clean.export import ExportPairs
from capfilt.stages.clean.score import ScorePairs
from capfilt.stages.ingest.list_source import ListSource
from capfilt.stages.ingest.sources.source import SourceSpec
from capfilt.stages.stage import (
    MODEL_LIBRARIES,
    ONLY_SHARD,
    BroughtModel,
    GlobalStage,
    Model,
    Rejected,
    Rows,
    ShardInput,
    ShardStage,
    Site,
    StageInput,
    Transform,
)
from tests.stages.rows import FakeFilter, picture

CRASH = "crash"


@dataclass(frozen=True)
class Shout(ShardStage):
    """Three captions an image: its first text in capitals. The text `crash` makes it raise, `lost` forgets."""

    consumes: ClassVar[tuple[type[Record], ...]] = (IngestedImage,)
    produces: ClassVar[type[Record]] = Caption

    @property
    def fan_out(self) -> int:
        return 3

    def open(self, site: Site) -> Transform:
        return lambda shard: self._transform(shard, site)

    def _transform(self, shard: ShardInput, site: Site) -> Iterator[Rows]:
        for batch in shard.stream(IngestedImage, site.batch):
            kept, rejected = [], []
            for row in batch.select(["row_id", "image_id", "texts"]).to_pylist():
                text = row["texts"][0]
                if text == CRASH:
                    raise RuntimeError(text)
                for index in range(2 if text == "lost" else 3):
                    if text:
                        kept.append(
                            Caption(
                                row_id=row["row_id"],
                                image_id=row["image_id"],
                                caption_index=0 if text == "twice" else index,
                                text=text.upper(),
                                logprob=0.0,
                            )
                        )
                    else:
                        rejected.append(
                            Rejected(
                                id=row["row_id"],
                                row_id=row["row_id"],
                                reason=Reason.EMPTY_CAPTION,
                                detail="",
                            )
                        )
            yield Rows(Contract(Caption).table(kept), rejected, notes=(f"{batch.num_rows} rows",))


@dataclass(frozen=True)
class Count(GlobalStage):
    """A figure a part, and a model."""

    consumes: ClassVar[tuple[type[Record], ...]] = (IngestedImage,)
    produces: ClassVar[type[Record]] = Metric
    unit: ClassVar[str] = "figure"

    shards: tuple[str, ...] = (ONLY_SHARD,)

    def run(self, site: Site, inputs: StageInput) -> Iterator[Rows | Model]:
        directory = site.scratch / "model"
        directory.mkdir()
        (directory / "weights").write_text("w")
        yield Model(directory)
        rows = sum(part.num_rows for part in inputs.parts(IngestedImage, ["row_id"]))
        figure = Metric(name="rows", value=rows, count=1)
        for shard in self.shards:
            yield Rows(Contract(Metric).table([figure]), shard=shard, units=1, facts={"rows": rows})


@dataclass(frozen=True)
class Give(GlobalStage):
    """Commits given images as a shard."""

    produces: ClassVar[type[Record]] = IngestedImage

    pictures: tuple[IngestedImage, ...]
    shard: str = "0000000"

    def run(self, site: Site, inputs: StageInput) -> Iterator[Rows]:
        yield Rows(Contract(IngestedImage).table(self.pictures), shard=self.shard, units=len(self.pictures))


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "run")


def task_of(
    ledger: Ledger, name: str, stage: ShardStage | GlobalStage, *upstream: Upstream, **other: object
) -> Task:
    shard = "" if isinstance(stage, GlobalStage) else "0000000"
    values = {"fingerprint": f"{name}-f", "shard": shard, "models": {}, "digests": {}, "batch": 2}
    return Task(run=ledger.url, name=name, stage=stage, upstream=upstream, **(values | other))


def ingest(ledger: Ledger, *texts: str, shard: str = "0000000") -> Upstream:
    pictures = tuple(
        picture(number, *([text] if text is not None else [])) for number, text in enumerate(texts)
    )
    run_task(task_of(ledger, "ingest", Give(pictures, shard)), open_stage)
    return Upstream("ingest", IngestedImage, ledger.index("ingest").held())


def open_stage(task: Task, site: Site) -> Transform:
    assert isinstance(task.stage, ShardStage)
    return task.stage.open(site)


def run(task: Task) -> tuple[Part, bool]:
    (committed,) = run_task(task, open_stage)
    return committed


def rows(ledger: Ledger, stage: str) -> list[dict]:
    return [
        row
        for part in ledger.index(stage).parts().values()
        for row in pq.read_table(ledger.read(stage, part.name, part.sha256)).to_pylist()
    ]


def rejects(ledger: Ledger, stage: str, part: Part) -> list[dict]:
    assert part.record is not None
    assert part.record.rejects is not None
    return pq.read_table(ledger.storage.path / stage / part.record.rejects).to_pylist()


def test_a_shard_is_committed_with_a_record_that_says_everything(ledger: Ledger) -> None:
    upstream = ingest(ledger, "a", "", "b")
    part, won = run(task_of(ledger, "caption", Shout(), upstream, digests={"captioner": "d"}, attempt=2))
    record = part.record
    assert won
    assert record is not None
    assert (record.stage, record.shard, record.generation, record.fingerprint) == (
        "caption",
        "0000000",
        0,
        "caption-f",
    )
    assert (record.units_in, record.fan_out, record.kept, record.rejected) == (
        3,
        3,
        6,
        {Reason.EMPTY_CAPTION: 3},
    )
    assert [(given.stage, given.sha256) for given in record.inputs] == [
        ("ingest", upstream.parts["0000000"][1])
    ]
    assert (record.models, record.attempt, record.contract) == ({"captioner": "d"}, 2, "Caption/1")
    assert record.notes == ("2 rows", "1 rows")
    assert [row["text"] for row in rows(ledger, "caption")] == ["A"] * 3 + ["B"] * 3
    left = {(row["reason"], row["stage"], row["unit"]) for row in rejects(ledger, "caption", part)}
    assert left == {("empty_caption", "caption", "image")}
    assert record.worker.partition("-")[0] == str(os.getpid())
    assert (
        pq.read_schema(ledger.storage.path / "caption" / part.name).metadata[b"capfilt.contract"]
        == b"Caption"
    )


@dataclass(frozen=True)
class Censor(Shout):
    """Lets every image pass and rejects one of its texts, as a unit of the given kind."""

    unit_of_reject: str = "text"

    @property
    def fan_out(self) -> int:
        return 1

    def _transform(self, shard: ShardInput, site: Site) -> Iterator[Rows]:
        for batch in shard.stream(IngestedImage, site.batch):
            ids = batch.select(["row_id", "image_id"]).to_pylist()
            kept = [Caption(**own, caption_index=0, text="t", logprob=0.0) for own in ids]
            left = [
                Rejected(
                    id=pair_id(own["image_id"], "x"),
                    row_id=own["row_id"],
                    unit=self.unit_of_reject,
                    reason=Reason.TEXT_URL,
                    detail="",
                )
                for own in ids
            ]
            yield Rows(Contract(Caption).table(kept), left)


def test_texts_that_leave_images_which_stay_are_counted_apart(ledger: Ledger) -> None:
    part, _ = run(task_of(ledger, "caption", Censor(), ingest(ledger, "a", "b", "c")))
    record = part.record
    assert record is not None
    assert (record.units_in, record.kept, record.rejected) == (3, 3, {})
    assert record.texts_rejected == {Reason.TEXT_URL: 3}
    assert [row["unit"] for row in rejects(ledger, "caption", part)] == ["text"] * 3
    ledger.compact("caption")
    assert ledger.index("caption").part("0000000").record == record
    assert ledger.index("caption").totals("caption", "f").texts_rejected == {Reason.TEXT_URL: 3}


@pytest.mark.parametrize("unit", ["image", "figure"])
def test_nothing_else_can_leave_beside_the_account(ledger: Ledger, unit: str) -> None:
    with pytest.raises(ConservationError):
        run(task_of(ledger, "caption", Censor(unit), ingest(ledger, "a")))


def test_a_shard_of_zero_rows_is_committed(ledger: Ledger) -> None:
    part, _ = run(task_of(ledger, "caption", Shout(), ingest(ledger)))
    assert part.record is not None
    assert (part.record.units_in, part.record.kept) == (0, 0)
    assert rows(ledger, "caption") == []


@pytest.mark.parametrize(
    ("texts", "error", "says"),
    [
        (("a", "lost"), ConservationError, "neither kept nor rejected"),
        (("twice",), ContractError, "caption_index"),
    ],
)
def test_a_stage_that_breaks_its_promise_commits_nothing(
    ledger: Ledger, texts: Sequence[str], error: type[Exception], says: str
) -> None:
    upstream = ingest(ledger, *texts)
    with pytest.raises(error, match=says):
        run(task_of(ledger, "caption", Shout(), upstream))
    assert ledger.index("caption").parts() == {}
    assert not list((ledger.storage.path / "caption").glob("part-*"))


def test_keys_are_unique_over_the_batches_of_a_shard(ledger: Ledger) -> None:
    twice = picture(1, "same")
    pictures = (twice, picture(2, "other"), twice)
    path = ledger.storage.path / "ingest/part-0000000.parquet"
    path.parent.mkdir(parents=True)
    pq.write_table(
        pa.Table.from_pylist([row.model_dump() for row in pictures], Contract(IngestedImage).schema), path
    )
    held = {"0000000": (path.name, hashlib.sha256(path.read_bytes()).hexdigest())}
    with pytest.raises(ContractError, match="row_id, caption_index is not unique"):
        run(task_of(ledger, "caption", Shout(), Upstream("ingest", IngestedImage, held)))


def test_a_zombies_commit_loses_and_the_winner_stands(ledger: Ledger) -> None:
    upstream = ingest(ledger, "a")
    task = task_of(ledger, "caption", Shout(), upstream)
    winner, _ = run(task)
    path = ledger.storage.path / "caption" / winner.name
    before = path.read_bytes()
    stands, won = run(replace(task, attempt=7))
    assert (stands, won) == (winner, False)
    assert path.read_bytes() == before


def test_an_attempt_that_comes_late_does_not_do_the_work_again(ledger: Ledger) -> None:
    task = task_of(ledger, "caption", Shout(), ingest(ledger, "a"))
    winner, _ = run(task)

    def opens(task: Task, site: Site) -> Transform:
        raise AssertionError("the shard is committed already")

    assert run_task(task, opens) == [(winner, False)]


def test_a_disk_that_is_full_is_said_and_is_no_rows_fault(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "SECONDS", 0.5)
    task = task_of(ledger, "caption", Shout(), ingest(ledger, "a"))

    def opens(task: Task, site: Site) -> Transform:
        raise OSError(errno.ENOSPC, "No space left on device", "part.parquet")

    with pytest.raises(StorageError, match="No space left on device") as caught:
        run_task(task, opens)
    assert f"capfilt resume {ledger.url}" in str(caught.value)


def test_a_damaged_input_is_named(ledger: Ledger) -> None:
    upstream = ingest(ledger, "a")
    path = ledger.storage.path / "ingest/part-0000000.parquet"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DamageError) as caught:
        run(task_of(ledger, "caption", Shout(), upstream))
    assert (caught.value.stage, caught.value.part) == ("ingest", "part-0000000.parquet")


def test_a_dead_attempt_leaves_what_it_had_in_hand(ledger: Ledger) -> None:
    upstream = ingest(ledger, "a", "b", "c", CRASH, "d")
    task = task_of(ledger, "caption", Shout(), upstream)
    in_hand = [picture(2).row_id, picture(3).row_id]
    assert last_crumb(task) == Heartbeat(in_hand, 2, 5)
    # the suspects go one by one
    assert last_crumb(replace(task, suspects=frozenset(in_hand))).ids == [picture(3).row_id]


def last_crumb(task: Task) -> Heartbeat:
    heartbeats: list[Heartbeat] = []
    with pytest.raises(RuntimeError):
        run_task(task, open_stage, heartbeats.append)
    return heartbeats[-1]


def test_a_poison_row_leaves_with_a_reject_for_every_row_that_it_would_have_become(ledger: Ledger) -> None:
    upstream = ingest(ledger, "a", CRASH, "b")
    bad = picture(1).row_id
    task = task_of(ledger, "caption", Shout(), upstream, poison={bad: "SIGSEGV"}, suspects=frozenset([bad]))
    part, _ = run(task)
    assert part.record is not None
    assert (part.record.kept, part.record.rejected) == (6, {Reason.POISON: 3})
    assert {(row["id"], row["detail"]) for row in rejects(ledger, "caption", part)} == {(bad, "SIGSEGV")}


def test_a_poison_image_takes_its_texts_along(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("capfilt.models.open.open_filter", lambda *_: FakeFilter())
    pictures = (picture(1, "1 one", "1 uno"), picture(2, "2 two"))
    run_task(task_of(ledger, "ingest", Give(pictures)), open_stage)
    upstream = Upstream("ingest", IngestedImage, ledger.index("ingest").held())
    stage = ScorePairs(BroughtModel("digest", "somewhere"))
    poison = {pictures[0].row_id: "SIGKILL"}
    models = {stage.filter: "somewhere"}
    part, _ = run(task_of(ledger, "score", stage, upstream, models=models, poison=poison))
    assert {row["id"] for row in rejects(ledger, "score", part)} == {
        pair_id(pictures[0].image_id, text) for text in pictures[0].texts
    }
    assert [row["text"] for row in rows(ledger, "score")] == ["2 two"]


def test_a_poison_image_without_a_unit_of_the_stage_leaves_nothing(ledger: Ledger) -> None:
    upstream = ingest(ledger, "a")
    empty = [
        Upstream(record.__name__.lower(), record, _empty(ledger, record)) for record in (Score, Decision)
    ]
    task = task_of(
        ledger, "export", ExportPairs(True), upstream, *empty, poison={picture(0).row_id: "SIGKILL"}
    )
    part, _ = run(task)
    assert part.record is not None
    assert (part.record.units_in, part.record.kept, part.record.rejected) == (0, 0, {})


def _empty(ledger: Ledger, record: type[Record]) -> dict[str, tuple[str, str]]:
    @dataclass(frozen=True)
    class Empty(GlobalStage):
        produces: ClassVar[type[Record]] = record

        def run(self, site: Site, inputs: StageInput) -> Iterator[Rows]:
            yield Rows(Contract(record).table([]), shard="0000000", units=0)

    name = record.__name__.lower()
    run_task(task_of(ledger, name, Empty()), open_stage)
    return ledger.index(name).held()


def test_a_global_stage_commits_its_model_and_its_shards(ledger: Ledger) -> None:
    ingest(ledger, "a", "b")
    upstream = ingest(ledger, "c", shard="0000001")
    committed = run_task(task_of(ledger, "filter", Count(("0000000", "0000001")), upstream), open_stage)
    assert [(part.name, won) for part, won in committed] == [
        ("part-0000000.parquet", True),
        ("part-0000001.parquet", True),
    ]
    record = committed[0][0].record
    assert record is not None
    assert record.facts["rows"] == 3
    assert (ledger.model("filter", record.facts["model"]) / "weights").read_text() == "w"
    assert [given.name for given in record.inputs] == ["part-0000000.parquet", "part-0000001.parquet"]
    assert len(record.facts["model"]) == 64


def test_a_global_stage_that_runs_again_keeps_the_parts_that_stand(ledger: Ledger) -> None:
    upstream = ingest(ledger, "a")
    two = Count(("0000000", "0000001"))
    first = run_task(task_of(ledger, "filter", two, upstream), open_stage)
    ledger.quarantine("filter", "part-0000001.parquet", Contract(Metric).schema)
    again = run_task(task_of(ledger, "filter", two, upstream), open_stage)
    assert [won for _, won in again] == [False, True]
    assert again[0][0] == first[0][0]
    assert again[1][0].name == "part-0000001.g1.parquet"


def test_a_global_stage_that_names_a_shard_twice_is_a_defect(ledger: Ledger) -> None:
    upstream = ingest(ledger, "a")
    with pytest.raises(StageError, match="name each of its shards once"):
        run_task(task_of(ledger, "filter", Count(("0000000", "0000000")), upstream), open_stage)


@dataclass(frozen=True)
class Unnamed(Give):
    """One shard, whose name it does not say."""

    def run(self, site: Site, inputs: StageInput) -> Iterator[Rows]:
        for rows in super().run(site, inputs):
            yield Rows(rows.kept, units=rows.units)


def test_the_single_shard_of_a_global_stage_has_a_name(ledger: Ledger) -> None:
    part, _ = run(task_of(ledger, "ingest", Unnamed((picture(1),), shard="elsewhere")))
    assert part.record is not None
    assert part.record.shard == ONLY_SHARD


@dataclass(frozen=True)
class Modelled(Shout):
    libraries: ClassVar[tuple[str, ...]] = MODEL_LIBRARIES


@pytest.mark.parametrize(("stage", "given"), [(Modelled(), [3]), (Shout(), [])])
def test_a_stage_with_models_gets_the_threads_of_its_task(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, stage: ShardStage, given: list[int]
) -> None:
    counts: list[int] = []
    monkeypatch.setattr("capfilt.models.threads.use_threads", counts.append)
    run(task_of(ledger, "caption", stage, ingest(ledger, "a"), threads=3))
    assert counts == given


def test_listing_leaves_rejects_for_what_is_not_there(ledger: Ledger, tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures/there.png").write_bytes(b"x")
    (tmp_path / "pictures/captions.csv").write_text("file,text\nthere.png,a\ngone.png,b\n")
    source = SourceSpec("web", "folder", str(tmp_path / "pictures"))
    part, _ = run(task_of(ledger, "list_web", ListSource((source,), 1)))
    assert part.record is not None
    assert (part.record.units_in, part.record.kept, part.record.rejected) == (2, 1, {Reason.MISSING: 1})


def test_nothing_is_left_in_the_scratch_folders(ledger: Ledger) -> None:
    run(task_of(ledger, "caption", Shout(), ingest(ledger, "a", "")))
    assert not [path for path in (ledger.storage.path / "_tmp").rglob("*") if path.is_file()]
