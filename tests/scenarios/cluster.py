"""Clusters of the image's own entrypoint on this machine, with a token: a head, and nodes that come and go."""

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tests.scenarios.command import QUICK_RAY, descendants, kill, wait_until

ENTRYPOINT = ("bash", str(Path(__file__).parents[2] / "docker" / "entrypoint.sh"))


@dataclass(frozen=True)
class Head:
    """A cluster: what a client needs to know. ``node`` adds a raylet to it; ``folder`` is instead of /tmp/ray."""

    folder: Path
    dashboard: str
    address: str
    env: dict[str, str]
    process: subprocess.Popen[bytes]

    @contextmanager
    def node(
        self, cpus: int = 1, through: Sequence[str] = (), **env: str
    ) -> Iterator[subprocess.Popen[bytes]]:
        """One more raylet, as another machine would have it; its process. ``through`` is what starts it."""
        agent, runtime, metrics = free_ports(3)
        asked = _node(cpus, agent, metrics) | {"CAPFILT_HEAD": self.address, **env}
        with tempfile.TemporaryFile("w+") as log:
            process = subprocess.Popen(
                [*through, *ENTRYPOINT, "worker", f"--runtime-env-agent-port={runtime}"],
                env={**os.environ, **QUICK_RAY, **self.env, **asked},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            try:
                # Two that start at the same moment take each other's names on one machine.
                wait_until(lambda: "block forever" in _content(log) or process.poll() is not None, "the node")
                assert process.poll() is None, _content(log)
                yield process
            finally:
                end(process)


def _content(log: IO[str]) -> str:
    log.seek(0)
    return log.read()


def _node(cpus: int, agent: int, metrics: int) -> dict[str, str]:
    """What the entrypoint has to know of one node of several on this machine."""
    return {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "CAPFILT_NODE_IP": "127.0.0.1",
        "CAPFILT_CPUS": str(cpus),
        "CAPFILT_AGENT_PORT": str(agent),
        "CAPFILT_METRICS_PORT": str(metrics),
    }


def end(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL to a node's every process at once, as when a machine loses its power."""
    for pid in (*descendants(process.pid), process.pid):
        kill(pid)
    process.wait(30)


@contextmanager
def started_head(cpus: int = 2, through: Sequence[str] = (), **env: str) -> Iterator[Head]:
    """A head on ports and in a folder of its own, ended with nothing left of it."""
    gcs, dashboard, agent, metrics = free_ports(4)
    token = secrets.token_hex(32)
    secret = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
    # Ray's sockets lie below it, and the path of a socket has at most 107 letters.
    folder = tempfile.mkdtemp(prefix="capfilt-head-")
    asked = _node(cpus, agent, metrics) | {
        "CAPFILT_TEMP_DIR": folder,
        "CAPFILT_PORT": str(gcs),
        "CAPFILT_DASHBOARD_PORT": str(dashboard),
        **env,
    }
    log = Path(folder) / "start.log"
    with log.open("w") as out:
        process = subprocess.Popen(
            [*through, *ENTRYPOINT, "head"],
            env={**os.environ, **QUICK_RAY, **secret, **asked},
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    try:
        url = f"http://127.0.0.1:{dashboard}"
        wait_until(lambda: process.poll() is not None or _answers(f"{url}/api/version", token), "the cluster")
        assert process.poll() is None, log.read_text()
        address = f"127.0.0.1:{gcs}"
        yield Head(Path(folder), url, address, {**secret, "RAY_ADDRESS": address}, process)
    finally:
        end(process)
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
