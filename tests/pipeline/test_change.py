"""A run resumed with something changed under it: refused, with the exact field and what a fork would redo."""

import json
import shutil
from pathlib import Path

import pytest

from capfilt.data_contracts.errors import RunChangedError
from capfilt.data_contracts.records import Caption
from capfilt.pipeline.execution.create_run import create_run, demand_same
from capfilt.pipeline.planning import graph
from capfilt.pipeline.planning.build import Plan
from tests.pipeline.conftest import World
from tests.pipeline.local import run


def refused(plan: Plan, world: World) -> RunChangedError:
    """What resuming with this plan is told; nothing of the run may change by it."""
    before = {path: path.stat().st_mtime_ns for path in world.ledger.storage.path.rglob("*")}
    with pytest.raises(RunChangedError) as caught:
        demand_same(plan, world.ledger)
    assert {path: path.stat().st_mtime_ns for path in world.ledger.storage.path.rglob("*")} == before
    return caught.value


def test_a_library_version_is_named_with_both_values(done: World, monkeypatch: pytest.MonkeyPatch) -> None:
    identity = {node.name: dict(node.identity) for node in done.plan()}
    versions, installed = identity["caption"]["with"], graph._version
    monkeypatch.setattr(
        "capfilt.pipeline.planning.graph._version",
        lambda name: "99.0" if name == "torch" else installed(name),
    )
    error = refused(done.plan(), done)
    assert "with.torch differs" in error.what
    assert "ingest" not in error.remedy  # it computes without torch
    assert error.evidence == f"the run has {versions['torch']!r}, this recipe '99.0'"


def test_the_build_of_a_library_for_another_hardware_is_the_same_version(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from capfilt.pipeline.planning.graph import _version

    monkeypatch.setattr("importlib.metadata.version", lambda name: "2.13.0+cu130")
    assert _version("torch") == "2.13.0"


def test_a_data_contract(done: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Caption, "version", 2)
    error = refused(done.plan(), done)
    assert "caption.writes differs" in error.what
    assert error.evidence == "the run has 'Caption/1', this recipe 'Caption/2'"
    assert "caption, score, select, export" in error.remedy


def test_a_model_directory(done: World, tmp_path: Path) -> None:
    other = Path(shutil.copytree(done.models["filter"], tmp_path / "filter"))
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "note": "another model now"}))
    error = refused(World(done.folder, {**done.models, "filter": other}).plan(), done)
    assert "filter.digest differs" in error.what
    assert "caption" not in error.remedy.partition("redoes ")[2].partition(" (")[0].split(", ")


def test_a_source_listing(done: World) -> None:
    with (done.folder / "web/captions.csv").open("a") as table:
        table.write("1.png,one more text\n")
    error = refused(done.plan(), done)
    assert "list_web.stage.sources[0].digest differs" in error.what
    assert "list_human" not in error.remedy
    assert "of which 8 had ended" in error.remedy


def test_a_setting_of_the_recipe(done: World) -> None:
    error = refused(done.plan(select={"threshold": 0.9}), done)
    assert (error.what.endswith("select.stage.threshold differs"), error.evidence) == (
        True,
        "the run has 0.5, this recipe 0.9",
    )
    assert "redoes select, export (2 of 12 stages" in error.remedy


def test_a_run_with_nothing_in_it_may_still_be_corrected(world: World) -> None:
    create_run(world.plan(select={"threshold": 0.2}), world.ledger, None)
    plan = world.plan(select={"threshold": 0.3})
    create_run(plan, world.ledger, None)
    assert world.ledger.record().recipe["select"]["threshold"] == 0.3
    run(plan, until="list_web")
    with pytest.raises(RunChangedError):
        create_run(world.plan(select={"threshold": 0.4}), world.ledger, None)
