import json
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from capfilt.data_contracts.errors import DamageError, RunChangedError, SourceError, StorageError
from capfilt.data_contracts.ledger import FORMAT, RunRecord, ShardRecord, StageTotals
from capfilt.pipeline.ledger.commit_index import Part, part_name
from capfilt.pipeline.ledger.index_store import RECORD
from capfilt.pipeline.ledger.ledger import Ledger
from capfilt.pipeline.storage import Folder
from tests.store import BUCKET

SCHEMA = pa.schema([pa.field("value", pa.int64())])


def record_of(shard: str, generation: int = 0) -> ShardRecord:
    return ShardRecord(
        run="run",
        stage="score",
        shard=shard,
        generation=generation,
        fingerprint="f",
        contract="Score/1",
        unit="text",
        units_in=1,
        kept=1,
        host="here",
        worker="17-0a1b2c3d",
        seconds=0.0,
        finished="2026-01-01T00:00:00Z",
    )


def commit(ledger: Ledger, shard: str, value: int, generation: int = 0) -> tuple[Part, bool]:
    record = record_of(shard, generation)
    schema = SCHEMA.with_metadata({RECORD: record.model_dump_json().encode()})
    with ledger.storage.scratch() as folder:
        path = folder / "part"
        pq.write_table(pa.table([[value]], schema=schema), path)
        return ledger.commit(path, record)


def values(ledger: Ledger) -> dict[str, list[int]]:
    """What a reader who globs the folder's newest parts finds, by shard."""
    parts = ledger.index("score").parts()
    return {
        shard: pq.read_table(ledger.read("score", part.name, part.sha256))["value"].to_pylist()
        for shard, part in parts.items()
    }


@pytest.fixture(params=["folder", "bucket"])
def ledger(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    if request.param == "folder":
        return Ledger(tmp_path / "run")
    request.getfixturevalue("store")
    return Ledger(f"s3://{BUCKET}/{uuid.uuid4().hex}/run")


@pytest.fixture
def local(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "run")


def run_record(name: str = "run") -> RunRecord:
    return RunRecord(
        name=name, recipe={}, stages={}, fingerprints={"score": "f"}, versions={}, created="2026-01-01"
    )


# As capfilt wrote it before runs had a format; `check` and `holdout` are stages that are called otherwise now.
OLD_RUN = """{
  "name": "old",
  "recipe": {"name": "old", "web": [{"format": "folder", "path": "crawl"}], "select": {"threshold": 0.5}},
  "stages": {"check": {"stage": {"most": 2000}}, "holdout": {"stage": {"sets": []}}},
  "fingerprints": {"check": "a", "holdout": "b", "score": "f"},
  "parent": null,
  "versions": {"python": "3.11.9", "capfilt": "0.1.0", "ray": "2.60.0"},
  "created": "2026-11-29T10:00:00+00:00",
  "command": ["capfilt", "run", "recipe.yaml"]
}"""


def test_a_run_of_another_format_is_refused_with_who_made_it_and_what_to_do(ledger: Ledger) -> None:
    ledger.storage.replace("run.json", OLD_RUN.encode())
    with pytest.raises(RunChangedError, match="another version of capfilt") as caught:
        ledger.record()
    assert "format none, made by capfilt 0.1.0 on 2026-11-29" in caught.value.evidence
    assert "another `name`" in caught.value.remedy
    ledger.storage.replace("run.json", json.dumps({"format": FORMAT + 1, "new": True}).encode())
    with pytest.raises(RunChangedError, match="another version of capfilt"):
        ledger.record()


def test_a_run_has_the_format_of_this_version(ledger: Ledger) -> None:
    assert ledger.create(run_record())
    assert ledger.record().format == FORMAT


def test_names_are_deterministic() -> None:
    assert [part_name("0000017"), part_name("h0000000", 1)] == [
        "part-0000017.parquet",
        "part-h0000000.g1.parquet",
    ]


def test_the_first_writer_wins_and_the_second_is_told(ledger: Ledger) -> None:
    first, won = commit(ledger, "0000000", 1)
    second, won_again = commit(ledger, "0000000", 2)
    assert (won, won_again) == (True, False)
    assert second == first
    assert values(ledger) == {"0000000": [1]}


def test_one_of_eight_threads_wins(ledger: Ledger) -> None:
    start = Barrier(8)

    def race(value: int) -> tuple[Part, bool]:
        start.wait()
        return commit(ledger, "0000000", value)

    with ThreadPoolExecutor(8) as pool:
        ended = list(pool.map(race, range(8)))
    (winner,) = [value for value, (_, won) in enumerate(ended) if won]
    assert values(ledger) == {"0000000": [winner]}
    assert len({part.sha256 for part, _ in ended}) == 1


def test_the_index_is_rebuilt_from_the_footers(ledger: Ledger) -> None:
    commit(ledger, "0000000", 1)
    before = ledger.index("score").parts()
    entry = "score/_commits/part-0000000.parquet.json"
    for rest in (None, b'{"name": "part-00', b"{}"):
        ledger.storage.remove(entry)
        if rest is not None:
            ledger.storage.replace(entry, rest)
        assert ledger.index("score").parts() == before
        assert Part.model_validate_json(ledger.storage.read(entry)) == before["0000000"]


class ReadOnly(Folder):
    """A copy that nobody may write to."""

    def replace(self, name: str, data: bytes) -> None:
        raise StorageError(what="read-only")


def test_a_read_only_copy_without_its_index_can_be_looked_at(local: Ledger) -> None:
    commit(local, "0000000", 1)
    shutil.rmtree(local.storage.path / "score/_commits")
    assert Ledger(ReadOnly(local.storage.path)).index("score").shards == ["0000000"]


def test_generations_of_what_stands_and_of_what_does_not(ledger: Ledger) -> None:
    for shard in ("a", "b", "c"):
        commit(ledger, shard, 1)
    ledger.quarantine("score", "part-b.parquet", SCHEMA)
    commit(ledger, "b", 2, generation=1)
    ledger.quarantine("score", "part-c.parquet", SCHEMA)
    for compacted in (False, True):
        index = ledger.index("score")
        assert index.shards == ["a", "b"]
        assert [index.generation(shard) for shard in "abcd"] == [0, 1, 1, 0]
        assert index.missing("abcd") == ("c", "d")
        without = index.without(["b"])
        assert without.shards == ["a"]
        assert [without.generation(shard) for shard in "abcd"] == [0, 2, 1, 0]
        assert index.place("b") == ("part-b.g1.parquet", index.part("b").sha256)
        assert index.place("c") is without.place("b") is None
        with pytest.raises(KeyError):
            index.part("c")
        if not compacted:
            ledger.compact("score")


def test_where_a_parts_stage_lies_is_not_asked_for_every_part(local: Ledger) -> None:
    """The totals of a long stage are long: a worker that reads its shard must not read them."""
    parts = [commit(local, f"{number:07d}", number)[0] for number in range(3)]
    local.close(local.index("score").totals("score", "f"))
    asked: list[str] = []

    class Watched(Folder):
        def read(self, name: str) -> bytes:
            asked.append(name)
            return super().read(name)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("capfilt.pipeline.ledger.ledger.storage_at", lambda where: Watched(Path(where)))
        for part in parts:
            Ledger(local.storage.path).read("score", part.name, part.sha256)
    assert asked.count("score/_stage.json") == 1


def test_a_part_that_was_deleted_and_made_again_is_the_new_one(ledger: Ledger) -> None:
    commit(ledger, "0000000", 1)
    ledger.storage.remove("score/part-0000000.parquet")
    assert ledger.index("score").parts() == {}
    part, won = commit(ledger, "0000000", 2)
    assert won
    assert values(ledger) == {"0000000": [2]}
    assert ledger.index("score").parts() == {"0000000": part}


def test_the_name_of_a_part_that_was_deleted_is_not_given_away_again(ledger: Ledger) -> None:
    commit(ledger, "0000000", 1)
    ledger.storage.remove("score/part-0000000.parquet")
    assert ledger.index("score").generation("0000000") == 1


def test_a_suspicion_is_noted_until_the_part_is_quarantined(ledger: Ledger) -> None:
    part, _ = commit(ledger, "0000000", 1)
    assert not ledger.index("score").damaged
    ledger.suspect("score", part.name, "a bit is wrong")
    assert ledger.index("score").damaged == {part.name: "a bit is wrong"}
    assert ledger.index("score").shards == []
    ledger.quarantine("score", part.name, SCHEMA)
    assert not ledger.index("score").damaged


def test_a_footer_that_cannot_be_read_is_damage_and_says_so(ledger: Ledger) -> None:
    part, _ = commit(ledger, "0000003", 1)
    commit(ledger, "0000004", 2)
    ledger.storage.replace(f"score/{part.name}", ledger.storage.read(f"score/{part.name}")[:-8])
    ledger.storage.remove(f"score/_commits/{part.name}.json")
    index = ledger.index("score")
    assert index.shards == ["0000004"]
    assert list(index.damaged) == ["part-0000003.parquet"]
    assert "footer" in index.damaged[part.name]
    assert index.generation("0000003") == 1


def test_a_part_under_another_parts_name_is_damage_even_without_an_index(ledger: Ledger) -> None:
    for shard in ("0000000", "0000001"):
        commit(ledger, shard, int(shard))
    ledger.storage.replace("score/part-0000001.parquet", ledger.storage.read("score/part-0000000.parquet"))
    for entry in ledger.storage.tree("score/_commits"):
        ledger.storage.remove(f"score/_commits/{entry}")
    index = ledger.index("score")
    assert index.shards == ["0000000"]
    assert "shard 0000000" in index.damaged["part-0000001.parquet"]


def test_a_parquet_file_of_somebody_else_is_damage_and_other_names_are_ignored(ledger: Ledger) -> None:
    commit(ledger, "0000000", 1)
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table([[1]], schema=SCHEMA), sink)
    table = sink.getvalue().to_pybytes()
    for name in ("notes.parquet", "part-.parquet", "part-x.tmp.parquet", ".part-0000001.parquet"):
        ledger.storage.replace(f"score/{name}", table)
    assert ledger.index("score").shards == ["0000000"]
    assert not ledger.index("score").damaged
    ledger.storage.replace("score/part-0000001.parquet", table)
    assert list(ledger.index("score").damaged) == ["part-0000001.parquet"]


def test_a_compacted_index_says_the_same_and_entries_win_over_it(ledger: Ledger) -> None:
    for number in range(5):
        commit(ledger, f"{number:07d}", number)
    before = ledger.index("score")
    ledger.compact("score")
    assert ledger.storage.tree("score/_commits") == ["index.parquet"]
    assert ledger.index("score").table.equals(before.table)
    ledger.storage.remove("score/part-0000002.parquet")
    assert ledger.index("score").generation("0000002") == 1  # its name was given away
    commit(ledger, "0000002", 22)  # as a runner would that does not know of it
    assert values(ledger)["0000002"] == [22]
    ledger.compact("score")
    assert values(ledger)["0000002"] == [22]
    ledger.storage.replace("score/_commits/index.parquet", b"rotten")
    assert ledger.index("score").table.equals(before.table) is False
    assert values(ledger) == {f"{n:07d}": [22 if n == 2 else n] for n in range(5)}


def test_the_totals_are_sums_over_the_parts(ledger: Ledger) -> None:
    for number in range(3):
        commit(ledger, f"{number:07d}", number)
    totals = ledger.index("score").totals("score", "f")
    assert (totals.units_in, totals.kept, totals.shards) == (3, 3, ("0000000", "0000001", "0000002"))
    assert Ledger(ledger.storage).index("none").totals("none", "f").units_in == 0


@pytest.mark.parametrize("change", ["alter", "cut", "delete"])
def test_reading_a_damaged_part(ledger: Ledger, change: str) -> None:
    part, _ = commit(ledger, "0000000", 1)
    path = f"score/{part.name}"
    data = bytearray(ledger.storage.read(path))
    data[10] ^= 1
    if change == "delete":
        ledger.storage.remove(path)
    else:
        ledger.storage.replace(path, bytes(data if change == "alter" else data[:100]))
    with pytest.raises(DamageError, match="is damaged") as caught:
        ledger.read("score", part.name, part.sha256)
    assert (caught.value.stage, caught.value.part) == ("score", part.name)


def test_a_quarantined_part_leaves_a_valid_file_of_zero_rows_and_its_name_stays_taken(ledger: Ledger) -> None:
    part, _ = commit(ledger, "0000000", 1)
    ledger.close(StageTotals(stage="score", fingerprint="f", shards=("0000000",)))
    path = f"score/{part.name}"
    ledger.storage.replace(path, b"rotten")
    ledger.quarantine("score", part.name, SCHEMA)
    assert pq.read_table(pa.BufferReader(ledger.storage.read(path))).num_rows == 0
    asides = [ledger.storage.read(f"_quarantine/{aside}") for aside in ledger.storage.tree("_quarantine")]
    assert asides == [b"rotten"]
    assert (ledger.index("score").parts(), ledger.totals("score")) == ({}, None)
    zombie, won = commit(ledger, "0000000", 9)
    assert (zombie.record, won) == (None, False)
    assert ledger.index("score").generation("0000000") == 1
    commit(ledger, "0000000", 2, generation=1)
    assert values(ledger) == {"0000000": [2]}
    assert (
        ledger.index("score").generation("0000000") == 1
    )  # that one stands, so another commit will lose to it


def test_a_generation_counts_its_own_shard_only(ledger: Ledger) -> None:
    commit(ledger, "00000011", 1)
    ledger.quarantine("score", "part-00000011.parquet", SCHEMA)
    assert ledger.index("score").generation("0000001") == 0


def test_a_part_that_is_gone_altogether_can_be_quarantined(ledger: Ledger) -> None:
    part, _ = commit(ledger, "0000000", 1)
    ledger.storage.remove(f"score/{part.name}")
    ledger.quarantine("score", part.name, SCHEMA)
    assert ledger.index("score").generation("0000000") == 1


def test_a_run_is_created_once(ledger: Ledger) -> None:
    assert not ledger.exists
    assert ledger.create(run_record("first"))
    assert not ledger.create(run_record("second"))
    assert ledger.record().name == "first"


def test_a_folder_that_is_no_run_and_a_run_whose_record_is_cut(ledger: Ledger) -> None:
    with pytest.raises(SourceError, match="is not a run"):
        ledger.record()
    ledger.create(run_record())
    ledger.storage.replace("run.json", b'{"name": "ru')
    with pytest.raises(DamageError, match="cannot be read"):
        ledger.record()


def test_a_fork_reads_its_grandparents_stage(ledger: Ledger) -> None:
    old, middle, new = (Ledger(ledger.storage.at(f"../{name}")) for name in ("old", "middle", "new"))
    part, _ = commit(old, "0000000", 5)
    for child, parent in ((middle, "../old"), (new, "../middle")):
        child.close(StageTotals(stage="score", fingerprint="f", refers_to=parent))
    assert new.home("score").url == old.url
    assert new.index("score").parts() == {"0000000": part}
    assert values(new) == {"0000000": [5]}


def test_a_moved_family_of_runs_still_finds_its_parent(tmp_path: Path) -> None:
    commit(Ledger(tmp_path / "runs/old"), "0000000", 5)
    Ledger(tmp_path / "runs/new").close(StageTotals(stage="score", fingerprint="f", refers_to="../old"))
    (tmp_path / "runs").rename(tmp_path / "elsewhere")
    assert values(Ledger(tmp_path / "elsewhere/new")) == {"0000000": [5]}


def publish(ledger: Ledger, content: str) -> str:
    with ledger.storage.scratch() as folder:
        (folder / "model/sub").mkdir(parents=True)
        (folder / "model/sub/weights").write_text(content)
        return ledger.publish_model(folder / "model", "filter")


def test_the_model_under_a_taken_name_wins(ledger: Ledger) -> None:
    digests = [publish(ledger, content) for content in ("one", "two")]
    assert digests[0] == digests[1] == ledger.model_digest("filter")
    assert (ledger.model("filter", digests[0]) / "sub/weights").read_text() == "one"


def test_a_model_that_was_altered_is_damage(ledger: Ledger) -> None:
    digest = publish(ledger, "one")
    ledger.storage.replace("models/filter/sub/weights", b"two")
    with pytest.raises(DamageError, match="is not the one that was committed"):
        ledger.model("filter", digest)


class LedgerMachine(RuleBasedStateMachine):
    """Commits, zombies, lost indexes and damage in any order: readers see each shard's last sound commit."""

    shards = st.sampled_from(["0000000", "h0000001"])

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        self.ledger = Ledger(Path(self._folder.name))
        self.status: dict[str, int] = {}
        self.generations: dict[str, int] = {}
        self.value = 0

    def teardown(self) -> None:
        self._folder.cleanup()

    @rule(shard=shards)
    def work(self, shard: str) -> None:
        self.value += 1
        _, won = commit(self.ledger, shard, self.value, self.ledger.index("score").generation(shard))
        assert won == (shard not in self.status)
        self.status.setdefault(shard, self.value)

    @rule(shard=shards)
    def zombie_of_a_past_generation(self, shard: str) -> None:
        for generation in range(self.generations.get(shard, 0)):
            assert not commit(self.ledger, shard, -1, generation)[1]

    @rule(shard=shards)
    def damage(self, shard: str) -> None:
        if self.status.pop(shard, None) is not None:
            name = part_name(shard, self.generations.get(shard, 0))
            (self.ledger.storage.path / "score" / name).write_bytes(b"rotten")
            self.ledger.quarantine("score", name, SCHEMA)
            self.generations[shard] = self.generations.get(shard, 0) + 1

    @rule()
    def lose_the_index(self) -> None:
        for entry in (self.ledger.storage.path / "score/_commits").glob("*"):
            entry.unlink()

    @invariant()
    def readers_see_what_stands(self) -> None:
        assert values(self.ledger) == {shard: [value] for shard, value in self.status.items()}


TestLedgerMachine = LedgerMachine.TestCase
TestLedgerMachine.settings = settings(max_examples=12, stateful_step_count=12)


@pytest.fixture(autouse=True)
def _no_leftovers(tmp_path: Path) -> Iterator[None]:
    """Whatever a test does, no attempt leaves a file under `_tmp`, or on the machine of a run in a bucket."""
    yield
    assert not [path for path in tmp_path.rglob("_tmp/**/*") if path.is_file()]
    assert not [
        path for path in tmp_path.glob("capfilt-*/**/*") if path.is_file() and "trees" not in path.parts
    ]
