"""Forks: another threshold, rule or export is a new run that refers to what it shares with its parent."""

import json
from pathlib import Path
from typing import Any

import pytest

from capfilt.pipeline.ledger.ledger import Ledger
from tests.scenarios.command import capfilt, here, snapshot, table, write_recipe

SHARED = (
    "list_web",
    "list_human",
    "human",
    "ingest",
    "placeholders",
    "score_held_out",
    "audit_captions",
    "evaluate",
    "caption",
    "score",
)


@pytest.fixture(scope="module")
def fork(finished: Path, head: Any):
    """Fork the finished run with changes to its recipe; the fork's folder and what the command said."""

    def fork(name: str, *changes: str) -> tuple[Path, str]:
        sets = [part for change in changes for part in ("--set", change)]
        said = capfilt("run", finished.parent.parent / "recipe.yaml", "--fork", name, *sets, **head.env).said
        return finished.parent / name, said

    return fork


@pytest.fixture(scope="module")
def strict(fork, finished: Path) -> tuple[Path, dict[str, Any], dict[str, Any]]:
    before = snapshot(finished)
    run, _ = fork("strict", "select.threshold=0.55")
    return run, before, snapshot(finished)


def test_a_fork_runs_selection_and_export_only_and_copies_nothing(strict):
    run, _, _ = strict
    assert {part.split("/")[0] for part in snapshot(run)} == {"select", "export"}
    rows = {row["stage"]: row["state"] for row in json.loads(here("status", run, "--json").out)}
    assert {stage for stage, state in rows.items() if state == "parent's"} == set(SHARED)
    assert rows["select"] == rows["export"] == "done"


def test_a_fork_leaves_its_parent_as_it_was(strict):
    _, before, after = strict
    assert before == after


def test_a_fork_keeps_what_its_own_threshold_says(strict, finished: Path):
    run, _, _ = strict
    reach = {row["pair_id"] for row in table(finished, "score").to_pylist() if row["itm"] >= 0.55}
    assert set(table(run, "select")["pair_id"].to_pylist()) == reach
    exported = {row["pair_id"] for row in table(run, "export").to_pylist() if row["source"] != "human"}
    assert exported == reach
    assert 0 < len(reach) < table(finished, "select").num_rows


def test_a_fork_names_its_parent_and_can_be_looked_into(strict, finished: Path):
    run, _, _ = strict
    parent = Ledger(run).record().parent
    assert parent is not None
    assert (run / parent).resolve() == finished.resolve()
    assert "are whole" in here("verify", run).said
    pair = table(run, "export").to_pylist()[0]["pair_id"]
    story = json.loads(here("explain", run, pair, "--json").out)
    assert [entry["stage"] for entry in story][-1] == "export"
    report = json.loads((run / "report.json").read_text())
    assert {stage["stage"] for stage in report["stages"] if stage["from"]} == set(SHARED)
    assert report["selection"]["threshold_used"] == 0.55


def test_a_fork_that_is_complete_runs_nothing_again(strict):
    run, _, _ = strict
    before = snapshot(run)
    here("resume", run)
    assert snapshot(run) == before


def test_rule_best_keeps_one_text_an_image_and_references_leave_the_bytes_out(fork, finished: Path):
    run, _ = fork("best", "select.rule=best", "export.images=reference")
    best: dict[str, float] = {}
    for score in table(finished, "score").to_pylist():
        best[score["row_id"]] = max(score["itm"], best.get(score["row_id"], 0.0))
    kept = {row["row_id"]: row["itm"] for row in table(run, "select").to_pylist()}
    assert kept == {row: itm for row, itm in best.items() if itm >= 0.5}
    assert table(run, "select").num_rows == len(kept)
    export = table(run, "export")
    assert export["image"].null_count == export.num_rows
    pictures = {
        row["row_id"]: row["image"] for stage in ("ingest", "human") for row in table(run, stage).to_pylist()
    }
    assert all(pictures[row] for row in export["row_id"].to_pylist())


def test_rule_raw_else_synthetic_prefers_web_texts_and_ids_are_a_subset_list(fork, finished: Path):
    run, _ = fork("raw", "select.rule=raw_else_synthetic", "export.images=ids")
    passing = [row for row in table(finished, "score").to_pylist() if row["itm"] >= 0.5]
    with_web = {row["row_id"] for row in passing if row["source"] == "web"}
    expected = {row["pair_id"] for row in passing if (row["source"] == "web") == (row["row_id"] in with_web)}
    assert set(table(run, "select")["pair_id"].to_pylist()) == expected
    reasons = Ledger(run).totals("select").rejected
    assert reasons["web_text_kept"] == len(passing) - len(expected) > 0
    export = table(run, "export")
    assert export.column_names == ["pair_id", "row_id", "image_id", "source"]
    crawled = {row["pair_id"] for row in export.to_pylist() if row["source"] != "human"}
    assert crawled == expected


def test_keep_fraction_keeps_that_share_of_all_texts(fork, finished: Path):
    run, _ = fork("fraction", "select.threshold={keep_fraction: 0.3}")
    judged = table(finished, "score").num_rows
    assert abs(table(run, "select").num_rows - 0.3 * judged) <= 1
    assert len(list((run / "threshold").glob("part-*.parquet"))) == 1


# -- a run never changes --------------------------------------------------------------------------------------


def test_another_recipe_under_the_same_name_is_refused_and_named(finished: Path):
    recipe = finished.parent.parent / "recipe.yaml"
    before = snapshot(finished)
    for command in ("run", "plan"):
        ended = here(command, recipe, "--set", "select.threshold=0.7", expect=2)
        assert "select.stage.threshold differs" in ended.said
        assert "the run has 0.5, this recipe 0.7" in ended.said
        assert "--fork" in ended.said
        assert "select, export" in ended.said
    assert snapshot(finished) == before


def test_an_output_folder_of_another_recipe_is_refused(
    finished: Path, recipe: dict[str, Any], tmp_path: Path
):
    other = {**recipe, "web": recipe["human"], "output": str(finished.parent)}
    ended = here("run", write_recipe(tmp_path / "recipe.yaml", other), expect=2)
    assert "was made by another recipe: " in ended.said
    assert "list_web.stage.sources[0].digest differs" in ended.said


def test_placement_is_no_part_of_a_run(finished: Path):
    ended = here(
        *("plan", finished.parent.parent / "recipe.yaml", "--json"),
        *("--set", "placement.caption.actors=1", "--set", "placement.score.batch=3"),
    )
    assert {row["state"] for row in json.loads(ended.out)} == {"done"}


def test_a_fork_needs_a_name_of_its_own_and_a_parent(finished: Path, recipe: dict[str, Any], tmp_path: Path):
    ended = here("run", finished.parent.parent / "recipe.yaml", "--fork", "finished", expect=2)
    assert "a fork needs a name of its own" in ended.said
    fresh = write_recipe(tmp_path / "recipe.yaml", recipe, name="absent")
    ended = here("run", fresh, "--fork", "child", expect=2)
    assert "is not a run" in ended.said
