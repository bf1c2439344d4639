"""A recipe with two checkpoint directories and no training, run to its export: what it leaves."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import datasets
import duckdb
import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml

from capfilt.data_contracts.ledger import ShardRecord
from capfilt.pipeline.ledger.index_store import RECORD
from capfilt.pipeline.ledger.ledger import Ledger
from tests.scenarios.command import Ended, capfilt, here, snapshot, table
from tests.scenarios.made import HUMAN, SPECIAL, WEB

STAGES = (
    *("list_web", "list_human", "human", "ingest", "placeholders"),
    *("score_held_out", "audit_captions", "evaluate", "caption", "score", "select", "export"),
)
GLOBAL = ("score_held_out", "audit_captions", "evaluate", "placeholders")


@pytest.fixture(scope="module")
def moved(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the run, somewhere else."""
    return Path(shutil.copytree(finished, tmp_path_factory.mktemp("elsewhere") / "copied"))


@pytest.fixture(scope="module")
def no_ray(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder for PYTHONPATH in which importing ray is an error."""
    folder = tmp_path_factory.mktemp("no-ray")
    (folder / "ray.py").write_text("raise ImportError('this command must not need Ray')\n")
    return str(folder)


def records(run: Path, stage: str) -> list[ShardRecord]:
    """As anybody finds them: in the footers of the files that a glob gives."""
    return [
        ShardRecord.model_validate_json(pq.read_metadata(path).metadata[RECORD])
        for path in sorted((run / stage).glob("part-*.parquet"))
    ]


def test_every_stage_is_complete_in_several_shards(finished: Path):
    for stage in STAGES:
        totals = Ledger(finished).totals(stage)
        assert totals is not None
        assert stage in GLOBAL or len(totals.shards) >= 5


@pytest.mark.parametrize("stage", STAGES)
def test_counts_are_conserved_in_every_part(finished: Path, stage: str):
    for record in records(finished, stage):
        assert record.units_in * record.fan_out == record.kept + sum(record.rejected.values())


def test_what_one_stage_keeps_is_what_the_next_one_counts(finished: Path):
    def total(stage: str, field: str) -> int:
        return sum(getattr(record, field) for record in records(finished, stage))

    assert total("list_web", "kept") == total("ingest", "units_in") == WEB
    assert total("ingest", "kept") == total("caption", "units_in") == WEB
    assert total("caption", "fan_out") == 2 * len(records(finished, "caption"))
    texts = sum(len(texts) for texts in table(finished, "ingest")["texts"].to_pylist())
    assert total("score", "units_in") == texts + total("caption", "kept")
    assert total("select", "units_in") == total("score", "kept")
    assert total("export", "units_in") == total("select", "kept") + HUMAN


def test_a_part_holds_as_many_rows_as_its_record_says(finished: Path):
    for stage in STAGES:
        rows = [pq.read_metadata(path).num_rows for path in sorted((finished / stage).glob("part-*"))]
        assert rows == [record.kept for record in records(finished, stage)]


def test_rejects_files_hold_every_row_that_left(finished: Path):
    for stage in STAGES:
        for record in records(finished, stage):
            left = pq.read_table(finished / stage / record.rejects).num_rows if record.rejects else 0
            assert left == record.left


def test_threshold_drops_some_and_keeps_some_of_both_sources(finished: Path):
    assert set(table(finished, "select")["source"].to_pylist()) == {"web", "synthetic"}
    assert sum(record.rejected.get("below_threshold", 0) for record in records(finished, "select")) > 10
    assert min(table(finished, "select")["itm"].to_pylist()) >= 0.5


def test_both_texts_of_one_image_are_judged(finished: Path):
    ingest, score = table(finished, "ingest").to_pylist(), table(finished, "score").to_pylist()
    (row,) = (picture["row_id"] for picture in ingest if picture["url"] == SPECIAL)
    web = [text["text"] for text in score if text["row_id"] == row and text["source"] == "web"]
    assert len(web) == 2
    assert "an image with a second text" in web


def test_pairs_of_the_export_carry_their_provenance(finished: Path, crawl: Path):
    pairs = table(finished, "export").to_pylist()
    assert {pair["source"] for pair in pairs} == {"web", "synthetic", "human"}
    for pair in pairs:
        folder = "human" if pair["source"] == "human" else "crawl"
        assert pair["image"] == (crawl / folder / pair["url"]).read_bytes()
        assert (pair["itm"] is None) == (pair["source"] == "human") == (pair["split"] is not None)
        assert (pair["caption_index"] is None) == (pair["source"] != "synthetic")


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_opens_with_pyarrow_pandas_and_duckdb(finished: Path, stage: str):
    folder = finished / stage
    rows = sum(record.kept for record in records(finished, stage))
    paths = sorted(folder.glob("part-*.parquet"))
    assert sum(pq.read_table(path).num_rows for path in paths) == rows
    assert pq.read_table(paths).num_rows == rows
    assert len(pd.read_parquet(paths)) == rows
    assert duckdb.sql(f"SELECT count(*) FROM '{folder}/*.parquet'").fetchall() == [(rows,)]


def test_stages_and_the_export_folder_open_with_datasets(finished: Path, tmp_path: Path):
    datasets.disable_progress_bars()
    cache = str(tmp_path / "cache")
    for stage in ("ingest", "caption", "score", "select", "export"):
        found = datasets.load_dataset(
            "parquet", data_files=f"{finished}/{stage}/*.parquet", split="train", cache_dir=cache
        )
        assert len(found) == table(finished, stage).num_rows
    folder = datasets.load_dataset(str(finished / "export"), split="train", cache_dir=cache)
    assert sorted(folder["pair_id"]) == sorted(table(finished, "export")["pair_id"].to_pylist())


def test_nothing_of_the_work_is_left_in_the_run(finished: Path):
    assert not [path for path in (finished / "_tmp").rglob("*") if path.is_file()]


def test_run_folder_names_the_recipe_it_was_made_from(finished: Path):
    record = Ledger(finished).record()
    assert record.recipe["select"]["threshold"] == 0.5
    assert record.parent is None
    assert {"capfilt", "ray", "torch", "transformers", "python"} <= record.versions.keys()
    assert record.fingerprints.keys() == set(STAGES)


def test_running_again_runs_nothing(finished: Path):
    before = snapshot(finished)
    again = capfilt("run", finished.parent.parent / "recipe.yaml", RAY_ADDRESS="127.0.0.1:1")
    assert snapshot(finished) == before
    assert again.said.count("complete") == len(STAGES)


# -- looking into a copy of the run ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def look(moved: Path):
    def look(command: str, *arguments: object) -> Ended:
        return here(command, moved, *arguments)

    return look


def test_status_of_a_copy(look):
    rows = json.loads(look("status", "--json").out)
    assert [row["stage"] for row in rows] == list(STAGES)
    assert {row["state"] for row in rows} == {"done"}
    assert "export" in look("status").out


def test_inspect_of_a_copy_shows_rows_and_what_left(look):
    assert "below_threshold" in look("inspect", "select").out
    rows = json.loads(look("inspect", "ingest", "--rows", "3", "--json").out)["rows"]
    assert len(rows) == 3
    assert rows[0]["image"].endswith("bytes>")
    left = json.loads(look("inspect", "select", "--rejects", "--json").out)
    assert {reject["reason"] for reject in left} == {"below_threshold"}


def test_verify_of_a_copy_finds_it_whole(look, moved: Path):
    parts = len(list(moved.glob("*/part-*.parquet")))
    assert f"{parts} files are whole" in look("verify").said


def test_explain_tells_the_whole_story_of_a_kept_row(look, finished: Path):
    pair = next(pair for pair in table(finished, "export").to_pylist() if pair["source"] == "synthetic")
    story = json.loads(look("explain", pair["pair_id"], "--json").out)
    assert [entry["stage"] for entry in story if entry["rows"]] == [
        "list_web",
        "ingest",
        "caption",
        "score",
        "select",
        "export",
    ]
    by_stage = {entry["stage"]: entry for entry in story}
    assert by_stage["ingest"]["rows"][0]["url"] == pair["url"]
    assert pair["text"] in [row["text"] for row in by_stage["caption"]["rows"]]
    assert pair["itm"] in [row["itm"] for row in by_stage["score"]["rows"]]
    assert len(next(iter(by_stage["caption"]["models"].values()))) == 64
    told = look("explain", pair["pair_id"]).out
    assert pair["text"] in told
    assert f"{pair['itm']:.4f}" in told


def test_explain_tells_why_a_row_was_dropped(look, moved: Path):
    kept = set(table(moved, "select")["row_id"].to_pylist())
    scores = table(moved, "score").to_pylist()
    row = next(score["row_id"] for score in scores if score["row_id"] not in kept)
    story = {entry["stage"]: entry for entry in json.loads(look("explain", row, "--json").out)}
    assert "export" not in story
    reasons = [reject["reason"] for reject in story["select"]["rejects"]]
    assert reasons == ["below_threshold"] * len([score for score in scores if score["row_id"] == row])
    told = look("explain", story["ingest"]["rows"][0]["url"]).out
    assert "the filter's ITM probability is below the threshold" in told
    assert "threshold 0.5000" in told


def test_explain_of_an_unknown_id_says_where_it_looked(moved: Path):
    ended = here("explain", moved, "nobody", expect=2)
    assert "nothing in the run is called nobody" in ended.err


def test_report_and_dataset_card_have_the_same_numbers(look, moved: Path):
    (moved / "report.json").unlink()
    (moved / "export" / "README.md").unlink()
    shown = json.loads(look("report", "--json").out)
    assert shown == json.loads((moved / "report.json").read_text())
    assert shown["complete"]
    card = (moved / "export" / "README.md").read_text()
    _, front, body = card.split("---\n", 2)
    assert yaml.safe_load(front)
    pairs = table(moved, "export")["source"].to_pylist()
    for source, count in shown["exported"].items():
        assert count == pairs.count(source)
        assert f"{count:,}" in body
    _, funnel = body.split("## How it was made")
    for stage in shown["stages"]:
        (line,) = (line for line in funnel.splitlines() if line.startswith(f"| {stage['stage']} "))
        assert f"{stage['units_in']:,}" in line
        assert f"{stage['kept']:,}" in line
        assert all(f"{count:,}" in line for count in stage["rejected"].values())


def test_looking_needs_no_ray_and_changes_no_part(moved: Path, no_ray: str):
    before = snapshot(moved)
    row = table(moved, "ingest")["row_id"][0].as_py()
    for command, *arguments in (
        ("status",),
        ("inspect", "ingest"),
        ("explain", row),
        ("verify",),
        ("report",),
    ):
        capfilt(command, moved, *arguments, PYTHONPATH=no_ray)
    assert snapshot(moved) == before


def test_a_reader_needs_nothing_of_capfilt(finished: Path, tmp_path: Path):
    """Parts carry plain Arrow types: a bare pyarrow in another folder reads text, score and image."""
    script = (
        "import sys, io, pyarrow.parquet as pq\nfrom PIL import Image\n"
        "row = pq.read_table(sys.argv[1]).to_pylist()[0]\n"
        "Image.open(io.BytesIO(row['image'])).verify()\n"
        "assert row['text'] and 'pipeline' not in sys.modules\n"
    )
    path = next((finished / "export").glob("part-*.parquet"))
    subprocess.run(
        [sys.executable, "-I", "-c", script, str(path)], check=True, cwd=tmp_path, env=dict(os.environ)
    )
