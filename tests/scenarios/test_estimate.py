"""``capfilt plan --estimate`` on a finished run: of its own rows, of ten times as many, by another run's rates."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from capfilt.pipeline.ledger.ledger import Ledger
from capfilt.pipeline.reports.stages import stages
from tests.scenarios.command import here, write_recipe
from tests.scenarios.made import HUMAN, WEB

GROW = {"list_web", "ingest", "placeholders", "caption", "score", "select"}
STAY = {"list_human", "human", "score_held_out", "evaluate"}


def estimate(recipe: Path, *options: object) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(here("plan", recipe, "--estimate", "--json", *options).out)
    return found


@pytest.fixture(scope="module")
def own(finished: Path) -> Path:
    """The recipe of the finished run."""
    return finished.parent.parent / "recipe.yaml"


@pytest.fixture
def other(own: Path, tmp_path: Path) -> Path:
    """A recipe of the same stages whose run has not begun."""
    return write_recipe(tmp_path / "recipe.yaml", yaml.safe_load(own.read_text()) | {"name": "other"})


def test_a_run_of_the_same_rows_writes_the_same_bytes(finished: Path, own: Path):
    found = estimate(own)
    files = [*finished.glob("*/part-*.parquet"), *finished.glob("*/_rejects/part-*.parquet")]
    # Every row of the listing is in the first shards as well, so nothing is rounded but the bytes of each stage.
    assert found["bytes"] == pytest.approx(sum(path.stat().st_size for path in files), abs=20)
    assert found["rows"] == Ledger(finished).totals("list_web").units_in
    assert {stage["stage"] for stage in found["stages"]} == {view.name for view in stages(Ledger(finished))}
    assert not found["unknown"]
    low, likely, high = found["seconds"]
    assert 0 < low <= likely <= high


def test_ten_times_the_rows_are_ten_times_the_crawl_and_the_same_people(own: Path):
    one, ten = estimate(own, "--rows", WEB), estimate(own, "--rows", 10 * WEB)
    work = [{s["stage"]: s["work"][1] for s in found["stages"]} for found in (one, ten)]
    for stage in GROW:
        assert work[1][stage] == pytest.approx(10 * work[0][stage])
    for stage in STAY:
        assert work[1][stage] == work[0][stage]
    assert work[0]["export"] < work[1]["export"] < 10 * work[0]["export"]  # it has human shards, too


def test_another_run_gives_its_rates_and_what_is_shown_is_the_formula(finished: Path, other: Path):
    said = here("plan", other, "--estimate", "--from", finished, "--rows", 1_000_000, "--nodes", 4).said
    assert "1,000,000 rows x" in said
    assert "wall clock" in said
    assert "bottleneck: " in said
    assert f"{HUMAN} rows of list_human" in said


def test_without_rows_or_records_it_says_what_to_do(finished: Path, other: Path):
    assert "--rows" in here("plan", other, "--estimate", "--from", finished, expect=2).err
    assert "is not a run" in here("plan", other, "--estimate", expect=2).err
