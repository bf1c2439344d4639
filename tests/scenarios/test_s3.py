"""Whole runs in an object store, by the command as a user runs it: keys in the environment, none in the run."""

import io
import json
import os
import shutil
import signal
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from capfilt.pipeline.ledger.ledger import Ledger
from capfilt.pipeline.storage import storage_at
from tests.scenarios.command import capfilt, difference, here, started, table, wait_until, write_recipe
from tests.store import BUCKET, Store

pytestmark = pytest.mark.thorough

OUTPUT = f"s3://{BUCKET}/team/runs"
COMPARED = ("ingest", "caption", "score", "select", "export")


@pytest.fixture(scope="module")
def workshop(store: Store) -> Iterator[Path]:
    """A folder for recipes and the workers' temporary files; short, as Ray's sockets may lie below it."""
    folder = Path(tempfile.mkdtemp(prefix="cf-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def versions(run: str) -> dict[str, int]:
    """Every visible part of a run and its size."""
    tree = storage_at(run).tree("")
    return {name: storage_at(run).size(name) or 0 for name in tree if "/part-" in name and "/_" not in name}


@pytest.fixture(scope="module")
def killed(workshop: Path, recipe: dict[str, Any]) -> tuple[Path, dict[str, int]]:
    """A run whose driver was killed when its third shard was captioned; its recipe, and its parts at that time."""
    path = write_recipe(workshop / "recipe.yaml", recipe, name="cloud", output=OUTPUT)
    assert {row["state"] for row in json.loads(here("plan", path, "--json").out)} <= {"to run", "waiting"}
    capfilt("run", path, expect=-signal.SIGKILL, CAPFILT_FAILPOINT="ended.caption:3")
    return path, versions(f"{OUTPUT}/cloud")


@pytest.fixture(scope="module")
def cloud(killed: tuple[Path, dict[str, int]]) -> str:
    """The same run, resumed from the store alone."""
    run = f"{OUTPUT}/cloud"
    said = capfilt("resume", run).said
    assert f"{run}/export" in said
    return run


@pytest.mark.ci
def test_the_kill_came_in_the_middle_and_nothing_ran_twice(killed: tuple[Path, dict[str, int]], cloud: str):
    before, after = killed[1], versions(cloud)
    captions = [name for name in before if name.startswith("caption/")]
    assert 3 <= len(captions) < len(Ledger(cloud).index("caption"))
    assert before.items() <= after.items()
    assert not [name for name in after if ".g1." in name]


@pytest.mark.ci
def test_it_ends_with_the_rows_of_a_run_in_a_folder(cloud: str, finished: Path):
    assert difference(cloud, finished, COMPARED) == ""


@pytest.mark.ci
def test_only_committed_files_are_visible(cloud: str):
    ledger = Ledger(cloud)
    for stage in ledger.record().fingerprints:
        held = {name for name, _ in ledger.index(stage).held().values()}
        extra = {"README.md"} if stage == "export" else set()
        assert {entry.name for entry in ledger.storage.entries(stage)} == held | extra | {"_stage.json"}
    names = {name.partition("/")[0] for name in ledger.storage.tree("")} - set(ledger.record().fingerprints)
    assert names == {"run.json", "report.json", "_log"}


@pytest.mark.ci
def test_no_key_is_in_the_run(cloud: str, killed: tuple[Path, dict[str, int]], store: Store):
    keys = [store.environment()[name].encode() for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")]
    storage = Ledger(cloud).storage
    for name in storage.tree(""):
        data = storage.read(name)
        assert not [key for key in keys if key in data], name


@pytest.mark.ci
def test_every_command_looks_into_it_from_storage_alone(cloud: str, finished: Path, workshop: Path):
    states = {row["stage"]: row["state"] for row in json.loads(here("status", cloud, "--json").out)}
    assert set(states.values()) == {"done"}
    mine = json.loads(here("inspect", cloud, "score", "--json").out)
    assert len(mine) == 5
    row = mine[0]["row_id"]
    stories = {story["stage"]: story for story in json.loads(here("explain", cloud, row, "--json").out)}
    assert stories.keys() >= {"list_web", "ingest", "caption", "score"}
    assert {found["row_id"] for story in stories.values() for found in story["rows"]} == {row}
    assert "are whole" in here("verify", cloud).said
    report, local = (json.loads(here("report", run, "--json").out) for run in (cloud, finished))
    assert report["exported"] == local["exported"]
    for source, figures in local["texts"].items():
        for name, figure in figures.items():
            assert report["texts"][source][name] == pytest.approx(figure, abs=1e-4)
    assert json.loads(Ledger(cloud).storage.read("report.json"))["complete"]


def test_a_fork_in_the_store_copies_nothing_and_plan_names_what_changed(
    cloud: str, killed: tuple[Path, dict[str, int]]
):
    refused = here("plan", killed[0], "--set", "select.threshold=0.55", expect=2)
    assert "select.stage.threshold differs" in refused.said
    before = versions(cloud)
    capfilt("run", killed[0], "--fork", "strict", "--set", "select.threshold=0.55")
    fork = f"{OUTPUT}/strict"
    assert {name.partition("/")[0] for name in versions(fork)} == {"select", "export"}
    assert versions(cloud) == before
    states = {row["stage"]: row["state"] for row in json.loads(here("status", fork, "--json").out)}
    assert states["score"] == "parent's"
    assert states["export"] == "done"
    reach = {row["pair_id"] for row in table(cloud, "score").to_pylist() if row["itm"] >= 0.55}
    assert set(table(fork, "select")["pair_id"].to_pylist()) == reach
    assert "are whole" in here("verify", fork).said


def test_damage_in_the_store_is_found_and_mended(cloud: str, finished: Path):
    storage = Ledger(cloud).storage
    data = bytearray(storage.read("caption/part-0000001.parquet"))
    data[len(data) // 3] ^= 1
    storage.replace("caption/part-0000001.parquet", bytes(data))
    storage.remove("score/part-0000003.parquet")
    assert "2 of" in here("verify", cloud, expect=3).said
    assert "set aside" in capfilt("resume", cloud).said
    assert "are whole" in here("verify", cloud).said
    assert difference(cloud, finished, COMPARED) == ""


# -- training ---------------------------------------------------------------------------------------------------

STEPS, CHECKPOINT = 215, 200  # a training writes a checkpoint every 200 steps


def kept(run: str) -> list[dict[str, Any]]:
    """The captioner's diary as it was kept with its last checkpoint."""
    storage = storage_at(run)
    (name,) = [name for name in storage.tree("_lasting") if name.startswith("captioner-")]
    with tarfile.open(fileobj=io.BytesIO(storage.read(f"_lasting/{name}"))) as archive:
        diary = archive.extractfile("./steps.jsonl")
        assert diary is not None
        return [json.loads(line) for line in diary.read().splitlines() if line]


def test_a_training_carries_on_from_its_checkpoint_on_another_machine(
    workshop: Path, recipe: dict[str, Any], blip_filter: Path, crawl: Path
):
    """Driver and worker die after the checkpoint; the next machine has another folder for what is its own."""
    models = {
        "init": "tiny",
        "tokenizer": "wordpiece:300",
        "filter": {"checkpoint": str(blip_filter)},
        "captioner": {"steps": STEPS, "batch": 4},
    }
    path = write_recipe(
        workshop / "training.yaml",
        recipe,
        name="trained",
        output=OUTPUT,
        models=models,
        select={"threshold": 0.3},
        placement={"captioner": {"threads": 1}},
    )
    run = f"{OUTPUT}/trained"
    for machine in ("one", "two"):
        (workshop / machine).mkdir()
    died = workshop / "died"
    first = {"TMPDIR": str(workshop / "one"), "CAPFILT_FAILPOINT": f"batch.captioner:21@{died}"}
    with started("run", path, "--until", "captioner", **first) as process:
        wait_until(died.exists, "the worker's death at step 210")
        os.kill(process.pid, signal.SIGKILL)
    diary = kept(run)
    assert [step["step"] for step in diary] == list(range(1, CHECKPOINT + 1))
    shutil.rmtree(workshop / "one", ignore_errors=True)
    capfilt("resume", run, "--until", "captioner", TMPDIR=str(workshop / "two"))
    curve = table(run, "captioner").to_pylist()
    assert [row["step"] for row in curve] == list(range(1, STEPS + 1))
    # A step took as long as the first machine noted, so it did not run again.
    assert [row["seconds"] for row in curve[:CHECKPOINT]] == [step["seconds"] for step in diary]
    assert storage_at(run).tree("_lasting") == []
    assert "model.safetensors" in storage_at(run).tree("models/captioner")
    assert "are whole" in here("verify", run).said
