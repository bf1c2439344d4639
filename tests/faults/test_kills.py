"""kill -9 in the middle of caption, of score and of training, of the driver and of a worker; then resume."""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline import lease
from pipeline.ledger import Ledger
from pipeline.storage import Folder
from tests.runs.command import (
    capfilt,
    descendants,
    difference,
    here,
    kill,
    snapshot,
    started,
    table,
    wait_until,
    write_recipe,
)

# One worker and one picture at a time: slow enough to be hit in the middle, and no part of any fingerprint.
SLOW = {stage: {"actors": 1, "batch": 1} for stage in ("ingest", "caption", "score")}
STAGES = ("ingest", "caption", "score", "select", "export")


def hold_worker(process: subprocess.Popen[str], run: Path, is_middle: Callable[[], bool]) -> int:
    """Stop the worker that is at work at a moment when ``is_middle`` holds; its process id.

    What it is at, the run's lease tells: its next beat but one was written after the worker had stopped.
    """

    def held() -> int | None:
        below = descendants(process.pid)
        workers = [pid for pid, command in below.items() if command.startswith("ray::Worker")]
        if not any(below[pid] == "ray::Worker.run" for pid in workers):
            return None
        for pid in workers:
            os.kill(pid, signal.SIGSTOP)
        seen = beat(run)
        wait_until(lambda: beat(run) > seen + 1, "two beats of the lease", 30)
        busy = [pid for pid, command in descendants(process.pid).items() if command == "ray::Worker.run"]
        if busy and is_middle():
            return busy[0]
        for pid in workers:
            os.kill(pid, signal.SIGCONT)
        return None

    return int(wait_until(held, "a worker in the middle of its work"))


def beat(run: Path) -> int:
    holder = lease.read(Folder(run))
    return holder.beat if holder else 0


def in_shard(run: Path, stage: str, after: int = 0) -> Callable[[], bool]:
    """Whether more than ``after`` parts of the stage are committed and another one is being worked on."""

    def is_middle() -> bool:
        holder = lease.read(Folder(run))
        done = {path.stem.replace("part", stage) for path in (run / stage).glob("part-*.parquet")}
        at_work = {task.label for task in holder.running} if holder else set()
        return len(done) > after and any(label.startswith(f"{stage}-") for label in at_work - done)

    return is_middle


def kill_driver(process: subprocess.Popen[str]) -> None:
    """The driver alone, by SIGKILL; Ray's processes then end by themselves, or are ended here."""
    below = descendants(process.pid)
    os.kill(process.pid, signal.SIGKILL)
    process.wait(30)
    for pid in below:
        kill(pid)


def kill_worker(process: subprocess.Popen[str], worker: int) -> None:
    os.kill(worker, signal.SIGKILL)
    for pid, command in descendants(process.pid).items():
        if command.startswith("ray::Worker") and pid != worker:
            os.kill(pid, signal.SIGCONT)


def count(parts: dict[str, Any], stage: str) -> int:
    return sum(part.startswith(f"{stage}/") for part in parts)


@pytest.fixture(scope="module")
def disturbed(
    recipe: dict[str, Any], finished: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, dict[str, Any]]]:
    """A run that lost its driver in caption and in score, and a worker in each; and its parts at the kills."""
    folder = tmp_path_factory.mktemp("disturbed")
    path = write_recipe(folder / "recipe.yaml", recipe, name="disturbed", placement=SLOW)
    run = folder / "runs" / "disturbed"
    seen = {}
    with started("run", path) as process:
        hold_worker(process, run, in_shard(run, "caption"))
        kill_driver(process)
    seen["caption"] = snapshot(run)
    with started("resume", run) as process:
        worker = hold_worker(process, run, in_shard(run, "caption", count(seen["caption"], "caption")))
        kill_worker(process, worker)
        hold_worker(process, run, in_shard(run, "score"))
        kill_driver(process)
    seen["score"] = snapshot(run)
    with started("resume", run) as process:
        worker = hold_worker(process, run, in_shard(run, "score", count(seen["score"], "score")))
        kill_worker(process, worker)
        out, err = process.communicate(timeout=240)
    assert process.returncode == 0, out + err
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

STEPS, CHECKPOINT = 230, 200  # a training writes a checkpoint every 200 steps


@pytest.fixture(scope="module")
def trained(
    recipe: dict[str, Any], blip_filter: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """A run that trains a captioner from scratch, and lost its driver after the first checkpoint, then a worker."""
    folder = tmp_path_factory.mktemp("trained")
    models = {
        "init": "tiny",
        "tokenizer": "wordpiece:300",
        "filter": {"checkpoint": str(blip_filter)},
        "captioner": {"steps": STEPS, "batch": 4},
    }
    path = write_recipe(
        folder / "recipe.yaml",
        recipe,
        name="trained",
        models=models,
        select={"threshold": 0.3},
        placement={"captioner": {"threads": 1}},
    )
    run = folder / "runs" / "trained"
    seen: dict[str, Any] = {}
    lasting = run / "_tmp" / "lasting"
    with started("run", path) as process:
        hold_worker(process, run, lambda: bool(list(lasting.glob("captioner-*/checkpoint.pt"))))
        kill_driver(process)
    seen["parts"], seen["steps"] = snapshot(run), steps(lasting)
    with started("resume", run) as process:
        worker = hold_worker(process, run, lambda: len(steps(lasting)) > len(seen["steps"]) + 5)
        seen["resumed"] = steps(lasting)[len(seen["steps"]) :]
        kill_worker(process, worker)
        out, err = process.communicate(timeout=240)
    assert process.returncode == 0, out + err
    return run, seen


def steps(lasting: Path) -> list[int]:
    """The steps in the captioner's diary, in the order in which they ran; a line cut short is left out."""
    found = []
    for path in lasting.glob("captioner-*/steps.jsonl"):
        for line in path.read_text().splitlines():
            try:
                found.append(int(json.loads(line)["step"]))
            except ValueError:
                continue
    return found


def test_a_killed_training_carries_on_from_its_checkpoint(trained: tuple[Path, dict[str, Any]]):
    run, seen = trained
    assert max(seen["steps"]) < STEPS
    assert min(seen["resumed"]) == CHECKPOINT + 1
    curve = table(run, "captioner")
    assert sorted(curve["step"].to_pylist()) == list(range(1, STEPS + 1))
    first = Ledger(run).index("captioner").parts()["0000000"].record
    assert first is not None
    assert first.kept == STEPS


def test_what_came_before_the_killed_training_did_not_run_again(trained: tuple[Path, dict[str, Any]]):
    run, seen = trained
    assert count(seen["parts"], "tokenizer") == 1
    assert count(seen["parts"], "captioner") == 0
    assert seen["parts"].items() <= snapshot(run).items()


def test_the_same_models_unkilled_give_the_same_rows(
    trained: tuple[Path, dict[str, Any]], recipe: dict[str, Any], tmp_path: Path
):
    run, _ = trained
    captioner = shutil.copytree(run / "models" / "captioner", tmp_path / "captioner")
    brought = {"filter": recipe["models"]["filter"], "captioner": {"checkpoint": str(captioner)}}
    path = write_recipe(
        tmp_path / "recipe.yaml", recipe, name="unkilled", models=brought, select={"threshold": 0.3}
    )
    capfilt("run", path)
    assert difference(run, tmp_path / "runs" / "unkilled", STAGES) == ""


def test_the_scratch_of_a_training_is_gone_once_its_model_stands(trained: tuple[Path, dict[str, Any]]):
    run, _ = trained
    assert (run / "models" / "captioner" / "model.safetensors").is_file()
    assert not list((run / "_tmp").glob("lasting/*"))
