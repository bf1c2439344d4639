"""Planted copies and evaluation images in a crawl, found by a real run, against what is known of them."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from capfilt.pipeline.demo.command import prepare
from capfilt.pipeline.demo.crawl import write_demo
from capfilt.pipeline.demo.planted import EDITS
from capfilt.pipeline.demo.planted_found import found_by_truth
from capfilt.pipeline.ledger.ledger import Ledger
from capfilt.pipeline.planning.load import load
from capfilt.pipeline.reports import stages
from tests.scenarios.cluster import Head
from tests.scenarios.command import capfilt, difference, write_recipe

COPIES, LEAKS = 28, 14


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("planted") / "demo"
    write_demo(out, 3, human=60, web=120, concepts=6, copies=COPIES, evaluation=LEAKS)
    return out


def cleaned(
    head: Head, planted: Path, recipe: dict[str, Any], name: str, folder: Path, **changes: Any
) -> Ledger:
    """A run on that crawl with a real cluster, as far as deduplication."""
    data = {
        "name": name,
        "web": {"format": "folder", "path": str(planted / "crawl")},
        "human": {"format": "folder", "path": str(planted / "human")},
        "dedup": {},
        "decontaminate": str(planted / "evaluation"),
    }
    path = write_recipe(folder / f"{name}.yaml", {**recipe, **data, **changes})
    capfilt("run", path, "--until", "dedup", **head.env)
    return Ledger(folder / "runs" / name)


def test_planted_copies_are_found_and_hardly_anything_else(
    head: Head, planted: Path, recipe: dict[str, Any], tmp_path: Path
) -> None:
    ledger = cleaned(head, planted, recipe, "many", tmp_path, shards={"target": "60KB"})
    found = found_by_truth(planted, ledger)
    assert (found["copies"], found["leaks"]) == (COPIES, LEAKS)
    assert found["recall"] == 1.0, found["by_edit"]
    assert found["leaks_removed"] == LEAKS, found["leaks_by_edit"]
    assert found["precision"] > 0.9
    assert found["by_edit"].keys() == set(EDITS)
    views = {view.name: view for view in stages.stages(ledger)}
    assert views["dedup"].totals.rejected["held_out"] >= LEAKS
    assert len(views["dedup"].totals.shards) > 5
    large = {"shards": {"target": "10MB"}, "placement": {"embed": {"batch": 5}}}
    one = cleaned(head, planted, recipe, "one", tmp_path, **large)
    assert len(one.index("ingest")) == 1
    assert difference(ledger.url, one.url, ["embed", "dedup"]) == ""
    assert found_by_truth(planted, one) == found


def test_the_demo_plants_them_when_asked(tmp_path: Path) -> None:
    recipe = prepare(tmp_path / "demo", 5, duplicates=True, human=12, web=12, copies=4, evaluation=2)
    loaded = load(recipe)
    assert loaded.dedup is not None
    assert loaded.decontaminate == (str(tmp_path / "demo" / "evaluation"),)
    assert len(list((tmp_path / "demo" / "evaluation").glob("*.jpg"))) == 2
    before = {path: path.read_bytes() for path in (tmp_path / "demo" / "crawl").iterdir()}
    shutil.rmtree(tmp_path / "demo")
    prepare(tmp_path / "demo", 5, duplicates=True, human=12, web=12, copies=4, evaluation=2)
    assert before == {path: path.read_bytes() for path in (tmp_path / "demo" / "crawl").iterdir()}
