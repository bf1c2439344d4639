"""The command and the API work from folders that hold packages of the same names as ours, or as libraries."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.scenarios.command import capfilt, table, write_recipe

TRAP = "raise ImportError('a folder of the user hides a package of capfilt')\n"


@pytest.mark.parametrize("packages", [True, False], ids=["packages", "plain folders"])
def test_the_command_works_beside_folders_of_the_same_names(
    recipe: dict[str, Any], tmp_path: Path, packages: bool
):
    for name in ("data_contracts", "models", "stages", "pipeline"):
        folder = tmp_path / name
        folder.mkdir()
        for module in (
            "open",
            "images",
            "cli",
            "worker",
            "stage",
            "records",
            *(("__init__",) if packages else ()),
        ):
            (folder / f"{module}.py").write_text(TRAP)
    write_recipe(tmp_path / "recipe.yaml", recipe, name="shadowed")
    capfilt("run", "recipe.yaml", "--until", "ingest", cwd=tmp_path)
    assert table(tmp_path / "runs" / "shadowed", "ingest").num_rows == 60
    rows = json.loads(capfilt("status", "runs/shadowed", "--json", cwd=tmp_path).out)
    assert next(row for row in rows if row["stage"] == "ingest")["state"] == "done"


def test_the_command_works_from_inside_a_run(finished: Path, tmp_path: Path):
    """A run has a folder called models too."""
    run = Path(shutil.copytree(finished, tmp_path / "inside"))
    shutil.rmtree(run / "ingest")
    (run / "models").mkdir(exist_ok=True)
    (run / "models" / "images.py").write_text(TRAP)
    capfilt("resume", ".", "--until", "ingest", cwd=run)
    assert table(run, "ingest").num_rows == 60
    assert "ingest" in capfilt("status", ".", cwd=run).out


def test_a_module_that_is_called_like_a_library_hides_nothing_from_workers(
    recipe: dict[str, Any], tmp_path: Path
):
    """Ray puts the working directory of whoever starts a run first on the path of its workers."""
    (tmp_path / "tokenizers.py").write_text("raise ImportError('a file of the user hides a library')\n")
    own = {key: value for key, value in recipe.items() if key != "human"}
    write_recipe(tmp_path / "recipe.yaml", own, name="hidden", shards={"target": "10MB"})
    capfilt("run", "recipe.yaml", "--until", "caption", cwd=tmp_path)
    assert table(tmp_path / "runs" / "hidden", "caption").num_rows


SCRIPT = """
import json, signal, capfilt, models

def stopped(number, frame):
    raise SystemExit(3)

signal.signal(signal.SIGTERM, stopped)
run = capfilt.run("recipe.yaml", until="ingest")
import ray
print(json.dumps([models.WHOSE, run.table("ingest").num_rows, ray.is_initialized()]))
assert signal.getsignal(signal.SIGTERM) is stopped
"""
WORKERS = """
import json, capfilt, ray

@ray.remote
def whose():
    import models
    import capfilt.models.families
    return models.WHOSE

ray.init(address="local", include_dashboard=False, logging_level="ERROR", log_to_driver=False)
before = ray.get(whose.remote())
run = capfilt.run("recipe.yaml", until="ingest")
try:
    capfilt.resume(run, address="somewhere:6379")
except capfilt.UsageError as error:
    refused = error.what
print(json.dumps([before, ray.get(whose.remote()), run.table("ingest").num_rows, refused]))
"""


def script(folder: Path, code: str) -> list[Any]:
    """What a user's program in the folder printed as JSON, and nothing else did."""
    (folder / "program.py").write_text(code)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "program.py"], cwd=folder, env=kept, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    said: list[Any] = json.loads(done.stdout)
    return said


@pytest.fixture
def own_models(recipe: dict[str, Any], tmp_path: Path) -> Path:
    """A folder with a recipe, and the user's own `models`."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "__init__.py").write_text("WHOSE = 'the user'\n")
    write_recipe(tmp_path / "recipe.yaml", recipe, name="own", shards={"target": "10MB"})
    return tmp_path


def test_a_program_with_models_of_its_own_uses_the_api(own_models: Path):
    """It keeps its handler of signals, and Ray is gone when the run is over."""
    assert script(own_models, SCRIPT) == ["the user", 60, False]


def test_workers_of_the_users_own_have_his_models_beside_ours(own_models: Path):
    """A run uses the connection that the program has, and leaves it open."""
    refused = "this process is connected to Ray already"
    assert script(own_models, WORKERS) == ["the user", "the user", 60, refused]
