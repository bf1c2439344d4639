"""A recipe that trains every model itself, with the threshold set from human pairs."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.demo.crawl import write_demo
from tests.runs.command import capfilt, difference, table, write_recipe

HUMAN = 320


@pytest.fixture(scope="module")
def scratch(recipe: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    data = tmp_path_factory.mktemp("data") / "demo"
    write_demo(data, 5, human=HUMAN, web=20, warmup=24, concepts=6, warmup_classes=4)
    warmup = {"images": str(data / "warmup"), "labels": str(data / "warmup" / "labels.csv")}
    return {
        "human": {"format": "folder", "path": str(data / "human")},
        "web": {"format": "folder", "path": str(data / "crawl")},
        "models": {
            "init": "tiny",
            "tokenizer": "wordpiece:300",
            "warmup": {**warmup, "steps": 4, "batch": 8},
            "pretrain": {"steps": 6, "batch": 8},
            "filter": {"steps": 4, "batch": 8},
            "captioner": {"steps": 4, "batch": 8},
        },
        "shards": {"target": "30KB"},
    }


@pytest.fixture(scope="module")
def run(scratch: dict[str, Any], head: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = write_recipe(tmp_path_factory.mktemp("scratch") / "recipe.yaml", scratch, name="scratch")
    # As good as untrained, so that the rule of keeping something is what is at stake here, not how much.
    capfilt("run", path, "--until", "score", **head.env)
    return path.parent / "runs" / "scratch"


def test_every_training_leaves_a_curve_and_a_model(run: Path):
    for stage, steps in (("warmup", 4), ("pretrain", 6), ("filter", 4), ("captioner", 4)):
        assert table(run, stage)["step"].to_pylist() == list(range(1, steps + 1))
        names = {path.name for path in (run / "models" / stage).iterdir()}
        assert {"model.safetensors", "config.json", "tokenizer.json", "README.md"} <= names


def test_the_threshold_comes_from_the_calibrate_split(run: Path):
    figures = {row["name"]: row for row in table(run, "calibrate").to_pylist()}
    split = table(run, "human")["split"].to_pylist().count("calibrate")
    assert split >= 20
    assert 0.0 <= figures["threshold"]["value"] <= 1.0
    assert f"from {split} calibrate images" in figures["threshold"]["note"]


def test_figures_come_from_the_test_split(run: Path):
    figures = {row["name"]: row["value"] for row in table(run, "evaluate").to_pylist()}
    assert figures["test_images"] == table(run, "human")["split"].to_pylist().count("test")
    assert {"filter_auc", "caption_cider", "chance_cider"} <= figures.keys()


def test_it_runs_to_the_export_and_the_report_says_how_weak_it_is(run: Path, head: Any):
    capfilt("resume", run, **head.env)
    report = json.loads((run / "report.json").read_text())
    threshold = next(
        row["value"] for row in table(run, "calibrate").to_pylist() if row["name"] == "threshold"
    )
    assert report["selection"]["threshold_used"] == threshold
    assert report["exported"]["human"] == HUMAN
    assert all(pair["itm"] is None or pair["itm"] >= threshold for pair in table(run, "export").to_pylist())
    assert any("The captions are poor" in warning for warning in report["warnings"])


def test_models_of_a_run_serve_as_checkpoints_of_another(run: Path, scratch: dict[str, Any], head: Any):
    brought = {role: {"checkpoint": str(run / "models" / role)} for role in ("filter", "captioner")}
    path = write_recipe(run.parent.parent / "brought.yaml", scratch, name="brought", models=brought)
    capfilt("run", path, "--until", "score", **head.env)
    assert difference(run.parent / "brought", run, ("caption", "score", "calibrate")) == ""


def test_a_human_set_too_small_to_calibrate_is_refused(head: Any, recipe: dict[str, Any], tmp_path: Path):
    path = write_recipe(tmp_path / "recipe.yaml", recipe, name="small", select={"threshold": "calibrated"})
    ended = capfilt("run", path, expect=1, **head.env)
    assert "the human set is too small to set a threshold from" in ended.err
    assert "needed: 20" in ended.err
    assert "bring 200 human images or more, or set select.threshold to a number" in ended.err
    assert "Traceback" not in ended.err
