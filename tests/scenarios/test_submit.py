"""Runs as jobs: sent to clusters that the image's entrypoint makes, with a token, and watched from outside."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from capfilt.pipeline.ledger import lease, submission
from capfilt.pipeline.ledger.submission import Submission
from capfilt.pipeline.storage import Folder
from tests.scenarios.cluster import Head, free_ports, started_head
from tests.scenarios.command import (
    LIMIT,
    SLOW,
    STAGES,
    Ended,
    busy,
    capfilt,
    difference,
    here,
    snapshot,
    started,
    wait_until,
    write_recipe,
)


@pytest.fixture(scope="module")
def submitted(head: Head, recipe: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that a job made, as `capfilt status` saw it become complete."""
    folder = tmp_path_factory.mktemp("submitted")
    path = write_recipe(folder / "recipe.yaml", recipe, name="submitted")
    run = folder / "runs" / "submitted"
    said = capfilt("submit", path, "--address", head.dashboard, **head.env).said
    assert "submitted capfilt-submitted-" in said
    assert f"capfilt status --follow {run}" in said
    capfilt("status", run, "--follow")
    return run


def refused(path: Path, address: str, *options: str, expect: int = 1, **env: str) -> Ended:
    ended = capfilt("submit", path, "--address", address, *options, expect=expect, **env)
    assert "Traceback" not in ended.err
    return ended


def test_a_job_makes_the_same_dataset_as_a_local_run(submitted: Path, finished: Path):
    assert difference(submitted, finished, STAGES) == ""


def test_status_says_that_the_submitted_run_is_done(submitted: Path):
    rows = json.loads(here("status", submitted, "--json").out)
    assert {row["state"] for row in rows} == {"done"}


def test_a_job_writes_report_and_card_like_any_run(submitted: Path):
    wait_until((submitted / "export" / "README.md").is_file, "the dataset card")
    wait_until(lambda: json.loads((submitted / "report.json").read_text())["complete"], "the report")


def test_the_job_is_listed_and_what_it_said_can_be_read_by_the_runs_place_or_name(
    submitted: Path, head: Head
):
    def job() -> Any:
        listed = json.loads(capfilt("jobs", "--address", head.dashboard, "--json", **head.env).out)
        (found,) = [job for job in listed if job["run"] == str(submitted)]
        return found["status"] == "SUCCEEDED" and found

    assert wait_until(job, "the end of the job")["job"].endswith("-1")
    by_place = capfilt("logs", submitted, "--job", "-f", **head.env).out
    assert "cleaned pairs:" in by_place
    assert capfilt("logs", "submitted", "--address", head.dashboard, **head.env).out == by_place


def test_a_runs_log_needs_its_storage_alone(submitted: Path):
    said = here("logs", submitted, "-f").out.splitlines()
    assert sum("export is complete" in line for line in said) == 1
    lines = [json.loads(line) for line in here("logs", submitted, "--json").out.splitlines()]
    assert len(lines) == len(said)
    committed = next(line for line in lines if line["event"] == "committed")
    assert {"time", "level", "run", "stage", "shard", "attempt", "host", "message"} <= committed.keys()


def test_a_job_is_stopped_while_it_captions_and_carries_on_on_another_cluster(
    head: Head, recipe: dict[str, Any], finished: Path, tmp_path: Path
):
    path = write_recipe(tmp_path / "recipe.yaml", recipe, name="stopped", placement=SLOW)
    run = tmp_path / "runs" / "stopped"

    def captioning() -> set[int]:
        """The processes that caption, once some captions are committed."""
        return busy(run, "caption") if any(run.glob("caption/part-*.parquet")) else set()

    with started_head() as first, first.node():
        capfilt("submit", path, "--address", first.dashboard, **first.env)
        for pid in wait_until(captioning, "captions"):
            os.kill(pid, signal.SIGSTOP)  # so that it is in the middle of it when it is told to stop
        watched = here("status", run).out
        assert "at work: process" in watched
        assert f"to {first.dashboard}, as capfilt-stopped-" in watched
        again = refused(path, first.dashboard, **first.env)
        assert "the run was submitted already: capfilt-stopped-" in again.err
        assert "capfilt stop" in again.err
        assert "stopped; submitting the recipe again carries on" in capfilt("stop", run, **first.env).said
        assert lease.read(Folder(run)) is None  # it left as one does who is asked to
        assert "stack trace" not in capfilt("logs", run, "--job", **first.env).out.lower()
    before = snapshot(run, STAGES)
    assert {row["state"] for row in json.loads(here("status", run, "--json").out)} > {"done"}
    capfilt("submit", path, "--address", head.dashboard, **head.env)
    capfilt("status", run, "--follow")
    assert before.items() <= snapshot(run, STAGES).items()
    assert difference(run, finished, STAGES) == ""


def test_a_wrong_token_and_none_are_refused_with_a_remedy(head: Head, recipe: dict[str, Any], tmp_path: Path):
    path = write_recipe(tmp_path / "recipe.yaml", recipe, name="refused")
    for wrong in ({"RAY_AUTH_TOKEN": "0" * 64}, {"HOME": str(tmp_path)}):
        said = refused(path, head.dashboard, **wrong).err
        assert f"the Ray cluster at {head.dashboard} refused" in said
        assert "RAY_AUTH_TOKEN_PATH" in said
    assert not (tmp_path / "runs").exists()


def test_a_token_in_a_file_is_enough(head: Head, tmp_path: Path):
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text(head.env["RAY_AUTH_TOKEN"])
    capfilt("jobs", "--address", head.dashboard, HOME=str(tmp_path))
    said = capfilt("doctor", "--address", head.dashboard, HOME=str(tmp_path)).said
    assert "1 node, 2 CPUs" in said


def test_the_token_is_not_sent_to_wherever_a_run_says_its_job_is(tmp_path: Path):
    sent = Submission(
        job="capfilt-x-1", address="http://192.0.2.7:8265", nonce="0", host="", submitted="2026", versions={}
    )
    submission.write(Folder(tmp_path / "run"), sent)
    ended = here("stop", tmp_path / "run", expect=2)
    assert "it was submitted to http://192.0.2.7:8265, it says" in ended.err
    assert "--address" in ended.err


def test_two_submissions_at_once_are_one_job(head: Head, recipe: dict[str, Any], tmp_path: Path):
    path = write_recipe(tmp_path / "recipe.yaml", recipe, name="twice")
    command = ("submit", path, "--address", head.dashboard, "--until", "list_web")
    with started(*command, **head.env) as one, started(*command, **head.env) as other:
        said = [process.communicate(timeout=LIMIT)[1] for process in (one, other)]
        assert sorted(process.returncode for process in (one, other)) == [0, 1], said
    assert any("the run was submitted already" in error or "being worked on" in error for error in said)
    assert capfilt("stop", tmp_path / "runs" / "twice", **head.env).said.endswith("had ended, succeeded")


def test_a_run_that_somebody_works_on_is_not_submitted(head: Head, recipe: dict[str, Any], tmp_path: Path):
    path = write_recipe(tmp_path / "recipe.yaml", recipe, name="busy")
    with lease.Lease(Folder(tmp_path / "runs" / "busy")):
        assert "the run is being worked on" in refused(path, head.dashboard, **head.env).err


def test_a_bucket_that_does_not_answer_is_said_however_patient_runs_are(
    head: Head, recipe: dict[str, Any], tmp_path: Path
):
    path = write_recipe(tmp_path / "recipe.yaml", recipe, name="dead", output="s3://bucket/runs")
    dead = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{free_ports(1)[0]}", "AWS_ALLOW_HTTP": "true"}
    keys = {"AWS_ACCESS_KEY_ID": "a-key", "AWS_SECRET_ACCESS_KEY": "a-secret", "AWS_REGION": "us-east-1"}
    patient = {"CAPFILT_STORAGE_PATIENCE": "3600"}  # far beyond the test's own limit
    said = refused(path, head.dashboard, **head.env, **dead, **keys, **patient).err
    assert "s3://bucket/runs" in said


@pytest.mark.parametrize(
    ("address", "code"),
    [("http://127.0.0.1:abc", 2), ("http://[::1", 2), ("http://u:pw@127.0.0.1:1", 2), ("gcs", 1)],
)
def test_what_is_no_dashboard_is_said(head: Head, address: str, code: int):
    ended = capfilt(
        "jobs", "--address", f"http://{head.address}" if address == "gcs" else address, expect=code
    )
    assert "Traceback" not in ended.err
    assert "pw" not in ended.err
    assert "http://head:8265" in ended.err


def test_following_a_run_whose_runner_was_killed_ends_with_its_last_word(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run = tmp_path / "left"
    shutil.copytree(finished, run)
    (run / "export" / "_stage.json").unlink()
    here("status", run, "--follow")  # its last runner said that it was done: of an --until, say
    log = max((run / "_log").iterdir())
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:-1]))
    monkeypatch.setattr("capfilt.pipeline.ledger.lease.STALE", 1.0)
    ended = here("status", run, "--follow", expect=1)
    assert "nobody is at work in" in ended.err
    assert "its last runner was killed; its last word" in ended.err
    assert "its last runner was killed; its last word" in here("status", run).out
    assert "capfilt resume" in ended.err
    assert "its last runner was killed" in here("logs", run, "-f").err


def test_a_job_on_a_cluster_that_others_use_says_that_it_waits(
    head: Head, recipe: dict[str, Any], tmp_path: Path
):
    path = write_recipe(tmp_path / "recipe.yaml", recipe, name="waits")
    run = tmp_path / "runs" / "waits"
    hold = (
        "import ray, time; ray.init(); held = ray.remote(num_cpus=2)(lambda: time.sleep(600)).remote()\n"
        "while ray.available_resources().get('CPU'): time.sleep(0.1)\n"
        "print(1, flush=True); ray.get(held)"
    )
    env = {**os.environ, **head.env}
    with subprocess.Popen([sys.executable, "-c", hold], env=env, stdout=subprocess.PIPE) as other:
        try:
            assert other.stdout
            assert other.stdout.readline()
            cluster = ("--address", head.dashboard, "--until", "list_web", "--wait", "5")
            said = capfilt("submit", path, *cluster, **head.env).said
            assert "nothing runs after 5 s; why: capfilt logs -f" in said
            wait_until(
                lambda: (
                    any((run / "_log").glob("*"))  # before that, `logs` would ask the cluster
                    and "waiting for a worker since 15 s: 1 asked for, 0 of 2 CPUs are free"
                    in here("logs", run).out
                ),
                "a word on it",
            )
            assert "nothing runs at the moment: capfilt logs" in here("status", run).out
        finally:
            other.kill()
    assert "its last runner ended" in capfilt("status", run, "--follow").said


def test_a_fork_is_submitted_like_a_run(submitted: Path, head: Head):
    recipe = submitted.parent.parent / "recipe.yaml"
    said = refused(recipe, head.dashboard, "--set", "caption.top_p=0.5", expect=2, **head.env).err
    assert "add --fork NEWNAME" in said
    fork = ("--fork", "other", "--set", "caption.top_p=0.5", "--until", "caption")
    said = capfilt("submit", recipe, "--address", head.dashboard, *fork, **head.env).said
    assert "submitted capfilt-other-" in said
    capfilt("status", submitted.parent / "other", "--follow")
    rows = {
        row["stage"]: row["state"]
        for row in json.loads(here("status", submitted.parent / "other", "--json").out)
    }
    assert (rows["ingest"], rows["caption"], rows["export"]) == ("parent's", "done", "-")


def test_what_has_no_job_is_said_with_who_is_at_work(finished: Path, tmp_path: Path):
    run = tmp_path / "here"
    shutil.copytree(finished, run)
    assert "it was never submitted" in here("stop", run, expect=2).err
    with lease.Lease(Folder(run)):
        assert f"at work: process {os.getpid()} on" in here("stop", run, expect=2).err
    assert f"there is no run {tmp_path}/nope" in here("stop", tmp_path / "nope", expect=2).err


def test_a_job_that_failed_before_the_run_began_is_no_run_yet(
    head: Head, recipe: dict[str, Any], tmp_path: Path
):
    path = write_recipe(tmp_path / "recipe.yaml", recipe, name="early")
    refused(path, head.dashboard, "--set", "web.path=absent", expect=2, **head.env)
    said = here("status", tmp_path / "runs" / "early", expect=2).err
    assert "has not begun" in said
    assert "capfilt logs" in said


def test_no_cluster_at_the_address_is_an_error(recipe: dict[str, Any], tmp_path: Path):
    path = write_recipe(tmp_path / "recipe.yaml", recipe, name="nobody")
    (port,) = free_ports(1)
    assert (
        f"no Ray dashboard answers at http://127.0.0.1:{port}"
        in refused(path, f"http://127.0.0.1:{port}").err
    )
    assert "--address is not the address of a dashboard" in refused(path, f"127.0.0.1:{port}", expect=2).err
    ended = capfilt("run", path, "--address", f"127.0.0.1:{port}", expect=1)
    assert f"no connection to the Ray cluster at 127.0.0.1:{port}" in ended.err


def test_the_address_that_is_asked_for_wins_over_the_environment(
    head: Head, recipe: dict[str, Any], tmp_path: Path
):
    path = write_recipe(tmp_path / "recipe.yaml", recipe, name="asked")
    (port,) = free_ports(1)
    assert (
        f"no Ray dashboard answers at http://127.0.0.1:{port}"
        in refused(path, f"http://127.0.0.1:{port}", **head.env).err
    )


def test_a_dashboard_that_asks_nobody_for_a_token_is_refused_unless_it_is_on_loopback(
    recipe: dict[str, Any], tmp_path: Path
):
    path = write_recipe(tmp_path / "recipe.yaml", recipe, name="open")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # nothing is sent: it tells by which address one would go out
        except OSError:
            pytest.skip("this machine has loopback alone")
        outside = probe.getsockname()[0]
    with started_head(CAPFILT_INSECURE="1", CAPFILT_DASHBOARD_HOST="0.0.0.0") as bare:
        url = bare.dashboard.replace("127.0.0.1", outside)
        said = refused(path, url).err
        assert "asks for no token" in said
        assert "CVE-2023-48022" in said
        assert "--insecure" in said
        for reached in ((bare.dashboard,), (url, "--insecure")):
            assert json.loads(capfilt("jobs", "--address", *reached, "--json").out) == []


def test_a_stage_that_no_node_can_hold_is_said_before_anything_runs(
    head: Head, recipe: dict[str, Any], tmp_path: Path
):
    placement = {"score": {"gpus": 2}, "caption": {"resources": {"fast_disk": 1}}}
    path = write_recipe(tmp_path / "recipe.yaml", recipe, name="large", placement=placement)
    said = refused(path, head.dashboard, "--wait-nodes", "1", **head.env).err
    assert "the cluster has no room for caption, score: 1 CPUs, 0 GPUs and 1 fast_disk" in said
    assert "the largest have 2 CPU, 0 GPU, 0 fast_disk" in said
    assert not list((tmp_path / "runs").glob("*/list_web/*"))


def test_another_version_of_a_library_is_said_before_anything_runs(
    head: Head, recipe: dict[str, Any], tmp_path: Path
):
    path = write_recipe(tmp_path / "recipe.yaml", recipe, name="versions")
    other = tmp_path / "torch-1.2.3.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 1.2.3\n")
    said = refused(
        path, head.dashboard, **head.env, PYTHONPATH=f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"
    ).err
    assert "the cluster has other versions of what decides results" in said
    assert "instead of 1.2.3" in said
    assert not list((tmp_path / "runs").glob("*/run.json"))


def blind(folder: Path) -> tuple[str, ...]:
    """What starts a command that sees an empty folder there, as another machine does."""
    return ("unshare", "-m", "sh", "-c", f'mount -t tmpfs none {folder} && exec "$@"', "sh")


@pytest.fixture
def unshared(tmp_path: Path) -> Path:
    """A folder for runs that a blind node can be started without."""
    (tmp_path / "runs").mkdir()
    if subprocess.run([*blind(tmp_path / "runs"), "true"], capture_output=True).returncode:
        pytest.skip("mounts need privileges")
    return tmp_path


def test_a_worker_that_does_not_see_the_runs_storage_is_named_at_once(
    head: Head, unshared: Path, recipe: dict[str, Any]
):
    there = {stage: {"resources": {"blind": 1}} for stage in ("list_web", "list_human")}
    path = write_recipe(unshared / "recipe.yaml", recipe, name="hidden", placement=there)
    with head.node(through=blind(unshared / "runs"), CAPFILT_RESOURCES='{"blind": 2}'):
        ended = capfilt("run", path, expect=1, **head.env)
    assert f"does not see the run {unshared}/runs/hidden" in ended.said
    assert "s3://" in ended.said
    assert not list((unshared / "runs").glob("*/list_web/*"))


def test_a_cluster_that_does_not_see_the_runs_storage_is_told_at_once(unshared: Path, recipe: dict[str, Any]):
    path = write_recipe(unshared / "recipe.yaml", recipe, name="elsewhere")
    with started_head(through=blind(unshared / "runs")) as head:
        said = " ".join(refused(path, head.dashboard, **head.env).err.split())
    assert f"the cluster does not see the {unshared}/runs/elsewhere that the submitting machine sees" in said
    assert "what that one wrote to _jobs there is not to be found" in said


def test_a_local_run_starts_its_own_ray_beside_a_running_cluster(
    head: Head, recipe: dict[str, Any], tmp_path: Path
):
    """`ray start` leaves the address of its cluster where `ray.init` looks for one."""
    path = write_recipe(tmp_path / "recipe.yaml", recipe, name="local")
    with tempfile.TemporaryDirectory(prefix="capfilt-", dir="/tmp") as folder:
        marker = Path(folder) / "ray" / "ray_current_cluster"
        marker.parent.mkdir()
        marker.write_text(head.env["RAY_ADDRESS"])
        capfilt("run", path, "--until", "list_web", RAY_TMPDIR=folder)
