from capfilt.pipeline.execution.create_run import create_run
from capfilt.pipeline.ledger.ledger import Ledger
from capfilt.pipeline.planning.status import State, stage_statuses
from tests.pipeline.conftest import World
from tests.pipeline.local import run


def states(world: World) -> dict[str, State]:
    return {name: status.state for name, status in stage_statuses(world.plan(), world.ledger).items()}


def test_before_anything_ran(world: World) -> None:
    found = stage_statuses(world.plan(), Ledger(world.folder / "run"))
    assert found["list_web"].state is found["list_human"].state is State.TO_RUN
    assert {found[name].state for name in ("human", "ingest", "caption", "score", "export")} == {
        State.WAITING
    }
    assert (found["ingest"].why, found["ingest"].expected) == ("after list_web", None)


def test_once_listed_the_shards_are_known_all_the_way_down(world: World) -> None:
    ledger = run(world.plan(), until="list_human")
    found = stage_statuses(world.plan(), ledger)
    shards = tuple(ledger.index("list_web").parts())
    assert len(shards) > 2
    assert (found["ingest"].state, found["ingest"].missing) == (State.TO_RUN, shards)
    assert (found["score"].state, found["score"].missing) == (State.WAITING, shards)
    assert found["export"].missing == tuple(sorted([*shards, *ledger.index("list_human").parts()]))


def test_a_stage_waits_for_the_model_that_another_trains(world: World) -> None:
    trained = {"init": "tiny", "tokenizer": "wordpiece:100", "filter": {}, "captioner": {}}
    plan = world.plan(models=trained)
    found = stage_statuses(plan, run(plan, until="ingest"))
    assert found["tokenizer"].state is State.TO_RUN
    assert (found["filter"].state, found["filter"].why) == (State.WAITING, "after tokenizer")
    assert found["ingest"].state is State.DONE
    assert found["caption"].state is State.WAITING  # its shards are ready, its captioner is not


def test_when_everything_is_done(done: World) -> None:
    ledger = done.ledger
    found = stage_statuses(done.plan(), ledger)
    assert {status.state for status in found.values()} == {State.DONE}
    assert all(not status.missing and not status.stale for status in found.values())
    before = {path: path.stat().st_mtime_ns for path in ledger.storage.path.rglob("*.parquet")}
    run(done.plan())
    assert {path: path.stat().st_mtime_ns for path in ledger.storage.path.rglob("*.parquet")} == before


def test_a_part_that_was_deleted_is_redone_and_then_what_read_it(done: World) -> None:
    ledger = done.ledger
    before = {stage: ledger.index(stage).parts() for stage in ("caption", "score", "select", "export")}
    (ledger.storage.path / "score/part-0000001.parquet").unlink()
    found = stage_statuses(done.plan(), ledger)
    assert (found["score"].state, found["score"].missing) == (State.TO_RUN, ("0000001",))
    run(done.plan(), until="score")
    found = stage_statuses(done.plan(), ledger)
    assert found["score"].state is State.DONE
    assert list(found["select"].superseded) == ["0000001"]
    assert "1 because their input was redone" in found["select"].why
    run(done.plan())
    after = {stage: ledger.index(stage).parts() for stage in before}
    assert after["caption"] == before["caption"]
    assert {shard for shard in after["select"] if after["select"][shard] != before["select"][shard]} == {
        "0000001"
    }
    assert after["select"]["0000001"].name == "part-0000001.g1.parquet"


def test_a_global_stage_that_saw_other_parts_is_stale_and_not_redone(done: World) -> None:
    ledger = done.ledger
    evaluated = ledger.index("evaluate").parts()
    (ledger.storage.path / "human/part-h0000000.parquet").unlink()
    run(done.plan())
    found = stage_statuses(done.plan(), ledger)
    assert (found["evaluate"].state, found["evaluate"].stale) == (
        State.DONE,
        "human has parts that it did not see",
    )
    assert ledger.index("evaluate").parts() == evaluated
    assert found["export"].state is State.DONE


def test_the_part_of_a_global_stage_that_is_gone_makes_it_run_again(done: World) -> None:
    ledger = done.ledger
    (ledger.storage.path / "evaluate/part-0000000.parquet").unlink()
    found = stage_statuses(done.plan(), ledger)
    assert (found["evaluate"].state, found["evaluate"].why) == (State.TO_RUN, "1 parts are damaged or gone")
    run(done.plan())
    assert set(states(done).values()) == {State.DONE}


def test_a_part_of_another_size_is_damage_and_its_dependants_are_superseded(done: World) -> None:
    ledger = done.ledger
    path = ledger.storage.path / "ingest/part-0000000.parquet"
    with path.open("ab") as file:
        file.write(b"x")
    found = stage_statuses(done.plan(), ledger)
    assert list(found["ingest"].damaged) == [path.name]
    assert "because their part is damaged" in found["ingest"].why
    assert list(found["score"].superseded) == ["0000000"]


def test_a_fork_has_its_parents_stages(done: World) -> None:
    plan = done.plan(name="strict", select={"threshold": 0.95})
    fork = Ledger(done.folder / "strict")
    create_run(plan, fork, done.ledger)
    found = {name: status.state for name, status in stage_statuses(plan, fork).items()}
    assert {name for name, state in found.items() if state is not State.PARENT} == {"select", "export"}
    assert found["select"] is State.TO_RUN
    assert not (fork.storage.path / "score").joinpath("part-0000000.parquet").exists()
