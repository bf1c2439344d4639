"""Runs from Python, without Ray, with models that know what an image shows."""

from pathlib import Path
from typing import Any

import pytest
import yaml

import capfilt
from capfilt.data_contracts.errors import BusyError, RecipeError, RunChangedError, SourceError, UsageError
from capfilt.pipeline.execution.events import Committed, RunEnded, StageEnded
from capfilt.pipeline.ledger.lease import Lease
from capfilt.pipeline.ledger.ledger import Ledger
from tests.pipeline.conftest import World
from tests.pipeline.local_pool import LocalCluster


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks run in this process."""
    monkeypatch.setattr("capfilt.pipeline.cluster.connection.Cluster", lambda *_: LocalCluster())


@pytest.fixture
def recipe(world: World) -> Path:
    path = world.folder / "recipe.yaml"
    values: dict[str, Any] = world.plan().recipe.plain()
    for role in ("web", "human"):
        values[role] = {"format": "folder", "path": role}
    path.write_text(yaml.safe_dump(values | {"output": "."}))
    return path


def test_a_recipe_is_run_to_its_end_and_prints_nothing(
    recipe: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    events: list[capfilt.Event] = []
    made = capfilt.run(recipe, progress=events.append)
    assert made.complete
    assert made.url == str(recipe.parent / "run")
    assert (recipe.parent / "run" / "report.json").exists()
    assert {event.stage for event in events if isinstance(event, StageEnded)} == {s.name for s in made.stages}
    assert any(isinstance(event, Committed) for event in events)
    assert isinstance(events[-1], RunEnded)
    assert capfd.readouterr() == ("", "")


def test_it_stops_after_a_stage_and_carries_on(recipe: Path) -> None:
    begun = capfilt.run(str(recipe), until="ingest")
    assert begun.stages["ingest"].complete
    assert not begun.stages["caption"].complete
    assert not (recipe.parent / "run" / "report.json").exists()
    statuses = capfilt.plan(recipe).stages
    assert (statuses["ingest"].state, statuses["export"].state) == ("done", "waiting")
    assert capfilt.resume(begun).complete
    assert capfilt.resume(begun.url).complete
    assert all(status.ended for status in capfilt.plan(recipe).stages.values())


def test_a_recipe_that_is_loaded_is_run_as_it_is(recipe: Path) -> None:
    loaded = capfilt.load_recipe(recipe, ["select.threshold=0.4"])
    assert isinstance(loaded, capfilt.Recipe)
    assert capfilt.run(loaded, until="list_web").recipe["select"]["threshold"] == 0.4
    with pytest.raises(UsageError, match="cannot be changed"):
        capfilt.run(loaded, changes=["seed=1"])
    with pytest.raises(UsageError, match="cannot be changed"):
        capfilt.plan(loaded, changes=["seed=1"])


def test_another_recipe_is_refused_and_forked(recipe: Path) -> None:
    parent = capfilt.run(recipe)
    changes = ["select.threshold=0.2"]
    with pytest.raises(RunChangedError, match="another recipe"):
        capfilt.run(recipe, changes=changes)
    with pytest.raises(RunChangedError, match="another recipe"):
        capfilt.plan(recipe, changes=changes)
    fork = capfilt.run(recipe, changes=changes, fork="loose")
    assert fork.name == "loose"
    assert fork.stages["score"].parent
    assert not fork.stages["select"].parent
    assert parent.recipe["select"]["threshold"] == 0.5


@pytest.mark.parametrize(
    ("asked", "error"),
    [
        ({"until": "ingset"}, UsageError),
        ({"changes": ["select.treshold=1"]}, RecipeError),
        ({"fork": "f"}, SourceError),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_made(
    recipe: Path, asked: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        capfilt.run(recipe, **asked)
    assert not (recipe.parent / "run").exists()


def test_a_run_that_somebody_works_in_is_busy(recipe: Path) -> None:
    begun = capfilt.run(recipe, until="list_web")
    with Lease(Ledger(begun.url).storage), pytest.raises(BusyError):
        capfilt.resume(begun)


def test_a_callback_that_raises_does_not_stop_a_run_and_is_not_called_again(recipe: Path) -> None:
    calls = 0

    def fail(event: capfilt.Event) -> None:
        nonlocal calls
        calls += 1
        raise ValueError("of the user")

    assert capfilt.run(recipe, until="ingest", progress=fail).stages["ingest"].complete
    assert calls == 1


def test_a_callback_may_interrupt_a_run(recipe: Path) -> None:
    def stop(event: capfilt.Event) -> None:
        if isinstance(event, Committed):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        capfilt.run(recipe, progress=stop)
    assert capfilt.run(recipe).complete


def test_rows_that_left_are_listed_again_for_a_reason_that_is_one(recipe: Path) -> None:
    made = capfilt.run(recipe)
    assert capfilt.retry_failed(made) == {}
    left = made.rejects("ingest")["reason"].to_pylist()
    assert capfilt.retry_failed(made.url, left) == {reason: left.count(reason) for reason in left}
    assert not capfilt.open_run(made.url).stages["ingest"].complete or capfilt.resume(made).complete
    with pytest.raises(UsageError, match="'weather'"):
        capfilt.retry_failed(made, ["weather"])


def test_what_a_run_would_cost(recipe: Path) -> None:
    with pytest.raises(SourceError, match="is not a run"):
        capfilt.plan(recipe).estimate()
    capfilt.run(recipe)
    found = capfilt.plan(recipe).estimate(rows=1000, nodes=2, node_cpus=4, node_gpus=0)
    assert found.rows == 1000
    assert found.seconds.likely > 0
