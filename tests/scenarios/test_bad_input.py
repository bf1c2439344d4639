"""Bad input: a clear error with its exit code before anything runs, or a reject that is counted."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from capfilt.pipeline.ledger.ledger import Ledger
from capfilt.pipeline.reports.query import files
from tests.scenarios.command import capfilt, here, table, write_recipe

Refused = Callable[..., str]


@pytest.fixture
def refused(recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Refused:
    """Run a recipe with changes, in this process; its message. It must end with exit code 2, starting nothing."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def refused(*arguments: str, **changes: Any) -> str:
        path = write_recipe(tmp_path / "recipe.yaml", recipe, **changes)
        ended = here("run", path, *arguments, expect=2)
        assert ended.err.startswith("error: ")
        assert not (tmp_path / "runs").exists()
        return ended.said

    return refused


def folder(path: Path) -> dict[str, str]:
    return {"format": "folder", "path": str(path)}


def test_no_such_recipe(tmp_path: Path):
    ended = capfilt(
        "run", tmp_path / "absent.yaml", expect=2
    )  # a process: nothing but the message goes to stderr
    assert f"there is no recipe {tmp_path}/absent.yaml" in ended.said
    assert ended.err.startswith("error: ")
    assert "Traceback" not in ended.said


def test_a_recipe_that_is_no_yaml(tmp_path: Path):
    path = tmp_path / "recipe.yaml"
    path.write_text("name: [unclosed")
    assert "cannot be read as YAML" in here("run", path, expect=2).said


def test_unknown_key_names_the_nearest_known_one(refused: Refused):
    said = refused(select={"treshold": 0.5})
    assert "unknown recipe key select.treshold" in said
    assert "did you mean 'threshold'?" in said


def test_unknown_key_in_a_change_names_the_nearest_known_one(refused: Refused):
    assert "did you mean 'per_image'?" in refused("--set", "caption.per_images=2")


def test_value_out_of_range(refused: Refused):
    said = refused(select={"threshold": 1.5})
    assert "recipe key select.threshold" in said
    assert "1.5" in said


def test_no_such_folder(refused: Refused, tmp_path: Path):
    said = refused(web=folder(tmp_path / "absent"))
    assert "source web: no such folder" in said
    assert "relative to the recipe's own folder" in said


def test_image_folder_without_captions(refused: Refused, crawl: Path, tmp_path: Path):
    (tmp_path / "bare").mkdir()
    shutil.copy(crawl / "crawl" / "web-00000.jpg", tmp_path / "bare")
    said = refused(web=folder(tmp_path / "bare"))
    assert "an image folder needs a caption table" in said
    assert "captions.csv" in said


def test_no_parquet_file(refused: Refused, tmp_path: Path):
    assert "there is no file to read" in refused(
        web={"format": "parquet", "path": str(tmp_path / "*.parquet")}
    )


def test_checkpoint_that_is_not_there(refused: Refused, recipe: dict[str, Any], tmp_path: Path):
    models = {**recipe["models"], "filter": {"checkpoint": str(tmp_path / "absent")}}
    assert str(tmp_path / "absent") in refused(models=models)


def test_checkpoint_with_bin_weights_only(refused: Refused, recipe: dict[str, Any], tmp_path: Path):
    pickled = Path(shutil.copytree(recipe["models"]["filter"]["checkpoint"], tmp_path / "pickled"))
    torch.save(load_file(pickled / "model.safetensors"), pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()
    said = refused(models={**recipe["models"], "filter": {"checkpoint": str(pickled)}})
    assert "safetensors" in said
    assert "remedy: " in said


def test_checkpoint_of_the_other_role(refused: Refused, recipe: dict[str, Any]):
    said = refused(models={**recipe["models"], "filter": recipe["models"]["captioner"]})
    assert "cannot serve as the filter" in said


def test_calibration_without_human_pairs(refused: Refused):
    assert "select.threshold: calibrated needs human pairs" in refused(human=[], select={})


def test_unknown_stage_to_stop_after(refused: Refused):
    assert "its stages: list_web" in refused("--until", "scores")


def test_no_such_run(tmp_path: Path):
    for command in ("status", "resume", "verify", "report"):
        assert "is not a run" in here(command, tmp_path, expect=2).said


def test_unusable_rows_are_counted_with_their_reasons(
    head: Any, recipe: dict[str, Any], crawl: Path, tmp_path: Path
):
    data = Path(shutil.copytree(crawl / "crawl", tmp_path / "data"))
    (data / "web-00000.jpg").write_bytes(b"not an image at all")
    whole = (data / "web-00001.jpg").read_bytes()
    (data / "web-00001.jpg").write_bytes(whole[: len(whole) // 2])
    (data / "web-00002.jpg").unlink()
    (data / "unlisted.jpg").write_bytes(whole)
    with (data / "captions.csv").open("a", newline="") as rows:
        csv.writer(rows).writerow(["../outside.jpg", "a text"])
        rows.write("web-00005.jpg,one,two,three\n")
    path = write_recipe(tmp_path / "recipe.yaml", recipe, name="dirty", web=folder(data))
    capfilt("run", path, "--until", "ingest", **head.env)
    run = tmp_path / "runs" / "dirty"
    left = {
        stage: {
            reject["detail"].split(":")[0]: reject["reason"]
            for file in files(Ledger(run), stage, rejects=True).paths
            for reject in pq.read_table(file).to_pylist()
            if reject["unit"] == "image"
        }
        for stage in ("list_web", "ingest")
    }
    assert left["list_web"] == {"web-00002.jpg": "missing", "../outside.jpg": "missing"}
    assert left["ingest"] == {"web-00000.jpg": "not_image", "web-00001.jpg": "unreadable"}
    urls = table(run, "ingest")["url"].to_pylist()
    assert len(urls) == 60 - 3
    assert "unlisted.jpg" not in urls
    said = here("inspect", run, "list_web").said
    assert "1 images" in said
    assert "wrong number of columns" in said
    story = json.loads(here("explain", run, "web-00000.jpg", "--json").out)
    assert [(entry["stage"], len(entry["rows"])) for entry in story] == [("list_web", 1), ("ingest", 0)]


def test_no_usable_row_at_all_stops_the_run(head: Any, recipe: dict[str, Any], tmp_path: Path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "captions.csv").write_text("file,text\nabsent.jpg,a text\n")
    path = write_recipe(tmp_path / "recipe.yaml", recipe, name="none", web=folder(tmp_path / "data"))
    ended = capfilt("run", path, expect=2, **head.env)
    assert "source web has no usable row" in ended.err
    assert "absent.jpg" in ended.err
    assert "Traceback" not in ended.err


def test_a_threshold_that_nothing_reaches_is_a_failure(head: Any, finished: Path):
    recipe = finished.parent.parent / "recipe.yaml"
    ended = capfilt("run", recipe, "--fork", "nothing", "--set", "select.threshold=1.0", expect=1, **head.env)
    assert "select kept nothing" in ended.err
    assert "below_threshold" in ended.err
