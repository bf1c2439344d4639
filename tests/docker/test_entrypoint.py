"""The image's entrypoint on this machine: the same script, with ports of its own."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.scenarios.cluster import end, free_ports
from tests.scenarios.command import descendants, wait_until

SCRIPT = Path(__file__).parents[2] / "docker/entrypoint.sh"
TOKEN = "a-token-of-the-tests"


def environment(**given: object) -> dict[str, str]:
    """Nothing of Ray's from outside, the commands of this environment on the path."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "CAPFILT_"))}
    path = f"{Path(sys.executable).parent}:{kept['PATH']}"
    return {**kept, "PATH": path, **{name: str(value) for name, value in given.items()}}


def call(*arguments: str, **given: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SCRIPT, *arguments], env=environment(**given), capture_output=True, text=True, timeout=100
    )


@dataclass(frozen=True)
class Node:
    process: subprocess.Popen[str]
    agent: int
    log: Path

    def healthy(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        return call("health", CAPFILT_AGENT_PORT=self.agent).returncode == 0


@contextmanager
def node(folder: Path, *arguments: str, **given: object) -> Iterator[Node]:
    """A head or a worker that is up; whatever is left of it afterwards is killed."""
    agent, metrics, runtime = free_ports(3)
    log = folder / f"{arguments[0]}.log"
    with log.open("w") as out:
        process = subprocess.Popen(
            [SCRIPT, *arguments, f"--runtime-env-agent-port={runtime}"],
            env=environment(
                CAPFILT_NODE_IP="127.0.0.1",
                CAPFILT_AGENT_PORT=agent,
                CAPFILT_METRICS_PORT=metrics,
                **given,
            ),
            stdout=out,
            stderr=out,
            text=True,
            start_new_session=True,
        )
    started = Node(process, agent, log)
    try:
        wait_until(started.healthy, arguments[0])
        yield started
    finally:
        end(process)


def status(url: str, token: str | None) -> int:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # it may end while it is read
        return False


@pytest.fixture
def folder() -> Iterator[Path]:
    """Short: Ray's sockets lie below it, and the path of a socket has at most 107 letters."""
    path = Path(tempfile.mkdtemp(prefix="capfilt-", dir="/tmp"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


def test_a_head_and_a_worker_with_a_token_that_stop_when_told(folder: Path) -> None:
    gcs, dashboard, client = free_ports(3)
    (folder / "token").write_text(TOKEN)
    secret = {"RAY_AUTH_TOKEN_PATH": folder / "token"}
    head = node(
        folder,
        "head",
        f"--ray-client-server-port={client}",
        CAPFILT_PORT=gcs,
        CAPFILT_DASHBOARD_PORT=dashboard,
        CAPFILT_CPUS=0,
        CAPFILT_TEMP_DIR=folder / "ray",
        **secret,
    )
    joining = {"CAPFILT_HEAD": f"127.0.0.1:{gcs}", "CAPFILT_CPUS": 1, "CAPFILT_RESOURCES": '{"shelf": 3}'}
    with head as first, node(folder, "worker", CAPFILT_LABELS="rack=a", **joining, **secret) as second:
        jobs = f"http://127.0.0.1:{dashboard}/api/jobs/"
        assert status(jobs, TOKEN) == 200
        assert status(jobs, "another") == 403
        assert status(jobs, None) == 401

        def said() -> str:
            found = call("ray", "status", f"--address=127.0.0.1:{gcs}", RAY_AUTH_MODE="token", **secret)
            return found.stdout if "shelf" in found.stdout else ""

        found = wait_until(said, "the worker")
        assert "0.0/1.0 CPU" in found
        assert "0.0/3.0 shelf" in found
        assert "256.00MiB object_store_memory" in found
        discovery = folder / "ray/prom_metrics_service_discovery.json"
        wait_until(discovery.is_file, "the list of nodes for Prometheus")
        assert discovery.stat().st_mode & 0o004, "Prometheus reads it as another user"
        for each in (second, first):
            below = descendants(each.process.pid)
            assert any("raylet" in command for command in below.values())
            each.process.send_signal(signal.SIGTERM)
            each.process.wait(60)
            assert "finished draining" in each.log.read_text()
            wait_until(lambda left=below: not [pid for pid in left if alive(pid)], "the node's processes", 30)


@pytest.mark.parametrize("role", ["head", "worker"])
def test_no_node_starts_without_a_token(role: str, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    for given in (
        {},
        {"RAY_AUTH_TOKEN_PATH": tmp_path / "empty"},
        {"RAY_AUTH_TOKEN_PATH": tmp_path / "none"},
    ):
        done = call(role, CAPFILT_DASHBOARD_HOST="0.0.0.0", **given)
        assert done.returncode == 2
        assert "CVE-2023-48022" in done.stderr
        assert "RAY_AUTH_TOKEN_PATH" in done.stderr


def test_a_worker_waits_for_its_head_no_longer_than_told() -> None:
    (port,) = free_ports(1)
    done = call("worker", RAY_AUTH_TOKEN=TOKEN, CAPFILT_HEAD=f"127.0.0.1:{port}", CAPFILT_WAIT=1)
    assert done.returncode == 1
    assert f"no head at 127.0.0.1:{port} after 1 s" in done.stderr
    given = environment(RAY_AUTH_TOKEN=TOKEN, CAPFILT_HEAD=f"127.0.0.1:{port}", CAPFILT_WAIT=60)
    with subprocess.Popen([SCRIPT, "worker"], env=given) as waiting:
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(2)
        waiting.terminate()
        assert waiting.wait(10) == 143


def test_without_authentication_only_when_asked_for_by_name(tmp_path: Path) -> None:
    """What Ray is started with, as a stand-in for it prints it."""
    ray = tmp_path / "ray"
    ray.write_text('#!/bin/sh\necho "$RAY_AUTH_MODE" "$@"\n')
    ray.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = call("head", "--labels=a=b", PATH=path, CAPFILT_INSECURE=1)
    assert done.stdout.startswith("disabled start --block")
    assert done.stdout.endswith("--labels=a=b\n")
    assert "CAPFILT_INSECURE" in done.stderr
    assert call("head", PATH=path, RAY_AUTH_TOKEN=TOKEN).stdout.startswith("token start --block")


def test_any_other_word_is_a_command() -> None:
    assert "Usage: capfilt" in call().stdout
    assert call("printf", "%s|", "a b", "c").stdout == "a b|c|"
    assert call("false").returncode == 1


def test_nobody_is_not_healthy() -> None:
    assert call("health", CAPFILT_AGENT_PORT=free_ports(1)[0]).returncode != 0
