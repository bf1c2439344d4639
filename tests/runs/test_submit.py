"""A recipe sent as a job to a cluster that `ray start` made, with token authentication."""

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest

from tests.runs.cluster import free_ports
from tests.runs.command import capfilt, difference, here, wait_until, write_recipe


@pytest.fixture(scope="module")
def submitted(head: Any, recipe: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that a job made, as `capfilt status` saw it become complete."""
    folder = tmp_path_factory.mktemp("submitted")
    path = write_recipe(folder / "recipe.yaml", recipe, name="submitted")
    run = folder / "runs" / "submitted"
    said = capfilt("submit", path, "--address", head.dashboard, **head.env).said
    assert "submitted raysubmit_" in said
    assert str(run) in said
    wait_until((run / "run.json").is_file, "the job's run")
    capfilt("status", run, "--follow")
    return run


def test_a_job_makes_the_same_dataset_as_a_local_run(submitted: Path, finished: Path):
    assert difference(submitted, finished, ("ingest", "caption", "score", "select", "export")) == ""


def test_status_says_that_the_submitted_run_is_done(submitted: Path):
    rows = json.loads(here("status", submitted, "--json").out)
    assert {row["state"] for row in rows} == {"done"}


def test_a_job_writes_report_and_card_like_any_run(submitted: Path):
    wait_until((submitted / "export" / "README.md").is_file, "the dataset card")
    assert json.loads((submitted / "report.json").read_text())["complete"]


def test_a_wrong_token_is_refused_with_a_remedy(head: Any, recipe: dict[str, Any], tmp_path: Path):
    path = write_recipe(tmp_path / "recipe.yaml", recipe, name="refused")
    wrong = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}
    ended = capfilt("submit", path, "--address", head.dashboard, expect=1, **wrong)
    assert "did not take the job" in ended.err
    assert "RAY_AUTH_MODE=token" in ended.err
    assert "Traceback" not in ended.err
    assert not (tmp_path / "runs").exists()


def test_no_cluster_at_the_address_is_an_error(recipe: dict[str, Any], tmp_path: Path):
    path = write_recipe(tmp_path / "recipe.yaml", recipe, name="nobody")
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    ended = capfilt("submit", path, "--address", url, expect=1)
    assert f"the Ray cluster at {url} did not take the job" in ended.err
    assert "Traceback" not in ended.err
    ended = capfilt("run", path, "--address", f"127.0.0.1:{port}", expect=1)
    assert f"no connection to the Ray cluster at 127.0.0.1:{port}" in ended.err


def test_the_address_that_is_asked_for_wins_over_the_environment(
    head: Any, recipe: dict[str, Any], tmp_path: Path
):
    path = write_recipe(tmp_path / "recipe.yaml", recipe, name="asked")
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    ended = capfilt("submit", path, "--address", url, expect=1, **head.env)
    assert f"the Ray cluster at {url} did not take the job" in ended.err


def test_a_local_run_starts_its_own_ray_beside_a_running_cluster(
    head: Any, recipe: dict[str, Any], tmp_path: Path
):
    """`ray start` leaves the address of its cluster where `ray.init` looks for one."""
    path = write_recipe(tmp_path / "recipe.yaml", recipe, name="local")
    with tempfile.TemporaryDirectory(prefix="capfilt-", dir="/tmp") as folder:
        marker = Path(folder) / "ray" / "ray_current_cluster"
        marker.parent.mkdir()
        marker.write_text(head.env["RAY_ADDRESS"])
        capfilt("run", path, "--until", "list_web", RAY_TMPDIR=folder)
