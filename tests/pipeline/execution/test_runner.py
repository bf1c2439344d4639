import pyarrow.parquet as pq
import pytest

from capfilt.data_contracts.errors import DamageError, RunChangedError, StageError
from capfilt.pipeline.execution.create_run import create_run
from capfilt.pipeline.ledger.ledger import Ledger
from tests.pipeline.conftest import World
from tests.pipeline.local import WEB, run


def texts(ledger: Ledger) -> list[tuple[str, str]]:
    rows = [
        row
        for path in sorted((ledger.storage.path / "export").glob("part-*.parquet"))
        for row in pq.read_table(path, columns=["source", "text"]).to_pylist()
    ]
    return sorted((row["source"], row["text"]) for row in rows if row["source"] != "human")


EXPECTED = sorted(
    [("web", f"{number} thing of web") for number in range(2, WEB + 1, 2)]
    + [("synthetic", f"{number} seen 0") for number in range(1, WEB + 1) if number != 7]
)


def test_true_texts_are_kept_and_false_ones_left(finished: Ledger) -> None:
    assert texts(finished) == EXPECTED


def test_a_run_that_stops_and_goes_on_ends_as_one_that_did_not(world: World) -> None:
    for stage in ("list_human", "ingest", "score"):
        run(world.plan(), until=stage)
    assert texts(run(world.plan())) == EXPECTED


def test_a_part_that_was_altered_is_quarantined_and_redone(done: World) -> None:
    ledger = done.ledger
    (ledger.storage.path / "score/part-0000001.parquet").unlink()  # so that the altered part is read again
    path = ledger.storage.path / "ingest/part-0000001.parquet"
    data = bytearray(path.read_bytes())
    data[200] ^= 0xFF
    path.write_bytes(data)
    assert texts(run(done.plan())) == EXPECTED
    assert [aside.read_bytes() for aside in (ledger.storage.path / "_quarantine").glob("ingest-*")] == [
        bytes(data)
    ]
    assert ledger.index("ingest").parts()["0000001"].name == "part-0000001.g1.parquet"
    assert pq.read_table(ledger.storage.path / "ingest" / path.name).num_rows == 0


def test_another_recipe_for_the_same_run_is_refused_by_its_first_field(world: World) -> None:
    run(world.plan(), until="list_human")
    with pytest.raises(RunChangedError, match=r"select\.stage\.threshold differs") as caught:
        run(world.plan(select={"threshold": 0.6}))
    assert "the run has 0.5, this recipe 0.6" in caught.value.evidence
    assert "select, export" in caught.value.remedy


def test_placement_may_change_and_the_run_goes_on(done: World) -> None:
    (done.ledger.storage.path / "score/part-0000001.parquet").unlink()
    assert texts(run(done.plan(placement={"score": {"batch": 1}}))) == EXPECTED


def test_keeping_nothing_is_a_failure_that_says_what_left(done: World) -> None:
    plan = done.plan(name="empty", select={"threshold": 1.0})
    with pytest.raises(StageError, match="select kept nothing") as caught:
        run(plan, parent=done.ledger)
    assert "below_threshold" in caught.value.evidence
    with pytest.raises(StageError, match="select kept nothing"):  # and again, now that the stage is complete
        run(plan)


def test_a_fork_refers_and_a_fork_of_it_refers_to_the_first(done: World) -> None:
    first = done.ledger
    second = run(done.plan(name="second", select={"threshold": 0.5, "rule": "best"}), parent=first)
    third = run(done.plan(name="third", export={"images": "ids"}), parent=second)
    assert (
        second.home("score").storage.path == third.home("score").storage.path == first.storage.path.resolve()
    )
    assert not list((second.storage.path / "ingest").glob("part-*"))
    # Of each image only its best text: the web text wins a tie, for it comes first.
    assert len(texts(second)) == WEB - 1
    assert (
        pq.read_table(third.storage.path / "export").num_rows
        == pq.read_table(first.storage.path / "export").num_rows
    )


def test_the_damage_of_a_parent_is_not_mended_from_a_fork(done: World) -> None:
    parent = done.ledger
    path = parent.storage.path / "score/part-0000000.parquet"
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(DamageError):
        run(done.plan(name="fork", select={"threshold": 0.6}), parent=parent)
    assert not (parent.storage.path / "_quarantine").exists()


def test_opening_twice_is_carrying_on(world: World) -> None:
    ledger = Ledger(world.folder / "run")
    create_run(world.plan(), ledger)
    created = ledger.record()
    create_run(world.plan(), ledger)
    assert ledger.record() == created
    assert created.recipe["select"]["threshold"] == 0.5
    assert {"ray", "torch", "python"} <= created.versions.keys()
