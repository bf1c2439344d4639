"""kill -9 in the middle of caption, of score and of training, of the driver and of a worker; then resume."""

import json
import os
import shutil
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from capfilt.pipeline.ledger.ledger import Ledger
from tests.scenarios.cluster import Head
from tests.scenarios.command import (
    STAGES,
    capfilt,
    descendants,
    difference,
    here,
    snapshot,
    started,
    table,
    wait_until,
    write_recipe,
)


def dies(*arguments: object, at: str) -> None:
    """Run the command until it kills itself at a failpoint; Ray's processes follow it."""
    capfilt(*arguments, expect=-signal.SIGKILL, CAPFILT_FAILPOINT=at)


def count(parts: dict[str, Any], stage: str) -> int:
    return sum(part.startswith(f"{stage}/") for part in parts)


@pytest.fixture(scope="module")
def disturbed(
    recipe: dict[str, Any], finished: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, dict[str, Any]]]:
    """A run that lost its driver in caption and in score, and a worker in each; and its parts at the kills."""
    folder = tmp_path_factory.mktemp("disturbed")
    placement = {
        "caption": {"batch": 1},
        "score": {"batch": 1},
    }  # so that a batch is in the middle of a shard
    path = write_recipe(folder / "recipe.yaml", recipe, name="disturbed", placement=placement)
    run = folder / "runs" / "disturbed"
    seen = {}
    dies("run", path, at=f"ended.caption:4@{folder}/1")
    seen["caption"] = snapshot(run)
    capfilt("resume", run, "--until", "caption", CAPFILT_FAILPOINT=f"batch.caption:3@{folder}/2")
    dies("resume", run, at=f"ended.score:4@{folder}/3")
    seen["score"] = snapshot(run)
    capfilt("resume", run, CAPFILT_FAILPOINT=f"batch.score:4@{folder}/4")
    assert sorted(path.name for path in folder.iterdir() if path.name.isdigit()) == ["1", "2", "3", "4"]
    return run, seen


def test_kills_came_in_the_middle(disturbed: tuple[Path, dict[str, Any]], finished: Path):
    run, seen = disturbed
    for stage in ("caption", "score"):
        assert 0 < count(seen[stage], stage) < count(snapshot(run), stage) == count(snapshot(finished), stage)
        again = [part.record.attempt for part in Ledger(run).index(stage).parts().values() if part.record]
        assert max(again) > 1, "the worker's death cost no shard an attempt"


def test_what_was_committed_did_not_run_again(disturbed: tuple[Path, dict[str, Any]]):
    run, seen = disturbed
    after = snapshot(run)
    assert seen["caption"].items() <= seen["score"].items() <= after.items()
    assert not [part for part in after if ".g1." in part]


def test_a_disturbed_run_ends_with_the_rows_of_an_undisturbed_one(
    disturbed: tuple[Path, dict[str, Any]], finished: Path
):
    assert difference(disturbed[0], finished, STAGES) == ""


def test_no_row_is_blamed_for_the_kill_of_its_worker(disturbed: tuple[Path, dict[str, Any]]):
    for stage in ("caption", "score"):
        totals = Ledger(disturbed[0]).totals(stage)
        assert totals is not None
        assert not totals.rejected


def test_a_disturbed_run_is_whole(disturbed: tuple[Path, dict[str, Any]]):
    assert "are whole" in here("verify", disturbed[0]).said


# -- training -------------------------------------------------------------------------------------------------

STEPS, CHECKPOINT = 38, 20  # a training tells how far it is every 10 steps: here it dies at the 30th


def write_training(path: Path, recipe: dict[str, Any], blip_filter: Path, steps: int = STEPS) -> Path:
    """A recipe that trains a captioner from scratch, with a checkpoint every 20 steps."""
    models = {
        "init": "tiny",
        "tokenizer": "wordpiece:300",
        "filter": {"checkpoint": str(blip_filter)},
        "captioner": {"steps": steps, "batch": 4},
        "precision": "fp32",
    }
    placement = {"captioner": {"threads": 1, "checkpoint_steps": CHECKPOINT}}
    return write_recipe(
        path, recipe, name="trained", models=models, select={"threshold": 0.3}, placement=placement
    )


@pytest.fixture(scope="module")
def trained(
    recipe: dict[str, Any], blip_filter: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """A run that trains a captioner from scratch, and lost its driver after the first checkpoint, then a worker."""
    folder = tmp_path_factory.mktemp("trained")
    path = write_training(folder / "recipe.yaml", recipe, blip_filter)
    run = folder / "runs" / "trained"
    seen: dict[str, Any] = {}
    lasting = run / "_tmp" / "lasting"
    with started("run", path, CAPFILT_FAILPOINT=f"batch.captioner:3@{folder}/1") as process:
        wait_until((folder / "1").exists, "the worker's death at step 30")
        os.kill(process.pid, signal.SIGKILL)
    seen["parts"], seen["steps"] = snapshot(run), diary(lasting)
    capfilt("resume", run, CAPFILT_FAILPOINT=f"batch.captioner:1@{folder}/2")
    assert (folder / "2").exists()
    return run, seen


def diary(lasting: Path) -> dict[int, float]:
    """The steps in the captioner's diary and how long each took; a line cut short is left out."""
    found = {}
    for path in lasting.glob("captioner-*/steps.jsonl"):
        for line in path.read_text().splitlines():
            with suppress(ValueError):
                step = json.loads(line)
                found[int(step["step"])] = step["seconds"]
    return found


def test_a_killed_training_carries_on_from_its_checkpoint(trained: tuple[Path, dict[str, Any]]):
    run, seen = trained
    assert CHECKPOINT < max(seen["steps"]) < STEPS
    curve = table(run, "captioner").to_pylist()
    assert [row["step"] for row in curve] == list(range(1, STEPS + 1))
    # A step took as long as the killed run noted, so it did not run again; those behind the checkpoint did.
    kept = [row["step"] for row in curve if row["seconds"] == seen["steps"].get(row["step"])]
    assert kept == list(range(1, CHECKPOINT + 1))
    record = Ledger(run).index("captioner").part("0000000").record
    assert record is not None
    assert (record.kept, record.attempt) == (STEPS, 2)


def test_what_came_before_the_killed_training_did_not_run_again(trained: tuple[Path, dict[str, Any]]):
    run, seen = trained
    assert count(seen["parts"], "tokenizer") == 1
    assert count(seen["parts"], "captioner") == 0
    assert seen["parts"].items() <= snapshot(run).items()


def test_the_same_models_unkilled_give_the_same_rows(
    head: Head, trained: tuple[Path, dict[str, Any]], recipe: dict[str, Any], tmp_path: Path
):
    run, _ = trained
    captioner = shutil.copytree(run / "models" / "captioner", tmp_path / "captioner")
    brought = {**recipe["models"], "captioner": {"checkpoint": str(captioner)}}
    path = write_recipe(
        tmp_path / "recipe.yaml", recipe, name="unkilled", models=brought, select={"threshold": 0.3}
    )
    capfilt("run", path, **head.env)
    assert difference(run, tmp_path / "runs" / "unkilled", STAGES) == ""


def test_the_scratch_of_a_training_is_gone_once_its_model_stands(trained: tuple[Path, dict[str, Any]]):
    run, _ = trained
    assert (run / "models" / "captioner" / "model.safetensors").is_file()
    assert not list((run / "_tmp").glob("lasting/*"))


@pytest.mark.thorough
def test_the_only_machine_is_lost_under_a_training(recipe: dict[str, Any], blip_filter: Path, tmp_path: Path):
    """Ray's node dies with everything on it, the command does not: it says so and ends, and resume carries on.

    It takes the cluster some seconds to see that the node is dead: the training is longer than that. Its worker
    may end it all the same, and commit it.
    """
    path = write_training(tmp_path / "recipe.yaml", recipe, blip_filter, steps=1500)
    run = tmp_path / "runs" / "trained"
    lasting = run / "_tmp" / "lasting"
    with started("run", path) as process:
        wait_until(lambda: diary(lasting), "the training's first step")
        (raylet,) = (pid for pid, what in descendants(process.pid).items() if "raylet/raylet" in what)
        os.kill(raylet, signal.SIGKILL)
        _, said = process.communicate(timeout=120)
    assert process.returncode == 1, said
    assert "no node is alive any more" in said
    before = snapshot(run)
    capfilt("resume", run, "--until", "captioner")
    assert before.items() <= snapshot(run).items()
    assert count(snapshot(run), "captioner") == 1
    assert "are whole" in here("verify", run).said
