"""Fixtures of the whole-run tests; what is made lives in `made`, so that the fault tests share it."""

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.runs import made
from tests.runs.command import descendants, kill, wait_until


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.getbasetemp()


@pytest.fixture(scope="session")
def crawl(base: Path) -> Path:
    return made.crawl(base)


@pytest.fixture(scope="session")
def recipe(base: Path, blip_filter: Path, blip_captioner: Path) -> dict[str, Any]:
    return made.checkpoints_recipe(base, blip_filter, blip_captioner)


@pytest.fixture(scope="session")
def finished(base: Path, blip_filter: Path, blip_captioner: Path) -> Path:
    return made.finished_run(base, blip_filter, blip_captioner)


@dataclass(frozen=True)
class Head:
    """A cluster of one node with token authentication: what a client needs to know."""

    dashboard: str
    env: dict[str, str]


@pytest.fixture(scope="session")
def head() -> Iterator[Head]:
    """Started by `ray start` on ports and in a folder of its own, and ended with nothing left of it."""
    gcs, dashboard, client, agent = free_ports(4)
    token = secrets.token_hex(32)
    secret = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token, "RAY_USAGE_STATS_ENABLED": "0"}
    # Ray's sockets lie below it, and the path of a socket has at most 107 letters.
    folder = tempfile.mkdtemp(prefix="capfilt-head-")
    command = [
        str(Path(sys.executable).with_name("ray")),
        *("start", "--head", "--block", "--num-cpus=2", f"--temp-dir={folder}", f"--port={gcs}"),
        *("--include-dashboard=true", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"),
        *(f"--ray-client-server-port={client}", f"--dashboard-agent-listen-port={agent}"),
        *("--node-ip-address=127.0.0.1", f"--object-store-memory={128 * 2**20}"),
    ]
    log = Path(folder) / "start.log"
    with log.open("w") as out:
        process = subprocess.Popen(
            command, env={**os.environ, **secret}, stdout=out, stderr=out, start_new_session=True
        )
    try:
        url = f"http://127.0.0.1:{dashboard}"
        wait_until(lambda: process.poll() is not None or _answers(f"{url}/api/version", token), "the cluster")
        assert process.poll() is None, log.read_text()
        yield Head(url, {**secret, "RAY_ADDRESS": f"127.0.0.1:{gcs}"})
    finally:
        for pid in (*descendants(process.pid), process.pid):
            kill(pid)
        process.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


def _answers(url: str, token: str) -> bool:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on at this moment."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
