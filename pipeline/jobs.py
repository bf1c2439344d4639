"""Runs as jobs of a Ray cluster, through its dashboard: send, list, read along, stop."""

import hashlib
import importlib.metadata
import ipaddress
import json
import os
import shlex
import shutil
import socket
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import yaml

import pipeline
from data_contracts.errors import BusyError, StageError, UsageError
from pipeline import lease, machine
from pipeline.recipe import Recipe
from pipeline.storage import storage_at
from pipeline.submission import ANY_VERSIONS, NAME, NONCE, Submission

if TYPE_CHECKING:
    from pipeline.room import Node

PACKAGES = ("data_contracts", "models", "stages", "pipeline")
ANSWER_SECONDS = 10.0
LIVE = ("PENDING", "RUNNING")


class Jobs:
    """The jobs of the cluster whose dashboard is at ``address``, such as ``http://head:8265``.

    A cluster with token authentication is asked with the token of Ray's usual places: ``RAY_AUTH_TOKEN``,
    ``RAY_AUTH_TOKEN_PATH``, ``~/.ray/auth_token``.

    Raises:
        StageError: the cluster does not answer, or refuses; or whoever reaches it may run code on it, and it can be
            reached from other machines, unless ``insecure``.
    """

    def __init__(self, address: str, *, insecure: bool = False) -> None:
        self.address = address.rstrip("/")
        parts = urlsplit(self.address)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(
                what=f"{address} is not the address of a dashboard",
                evidence="jobs go through the cluster's dashboard, by http",
                remedy="such as --address http://head:8265; `capfilt run --address head:6379` drives a run from here",
            )
        mode = self._authentication()
        if mode == "token":
            os.environ.setdefault("RAY_AUTH_MODE", "token")  # before Ray is loaded, which reads it once
        elif not insecure and not _is_loopback(parts.hostname):
            raise StageError(
                what=f"the cluster at {self.address} asks for no token: whoever reaches it can run code on it",
                evidence=f"{parts.hostname} is not this machine, and its authentication is {mode!r} (CVE-2023-48022)",
                remedy="start it with RAY_AUTH_MODE=token; if only you can reach it, add --insecure",
            )
        from ray.job_submission import JobSubmissionClient

        for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):
            os.environ.pop(name, None)  # Ray lets them win over the address that is asked for
        self._client: Any = self._ask(lambda: JobSubmissionClient(self.address))

    def submit(
        self, recipe: Recipe, arguments: list[str], *, installed: bool = False, any_versions: bool = False
    ) -> str:
        """Send the recipe, and the code unless it is ``installed`` there; start `capfilt run`; give the job's id.

        The id is made of the run's name and place and of how often it was submitted, so two submissions at the same
        time cannot both succeed. Paths in the recipe must mean the same on the cluster.

        Raises:
            BusyError: a job of the run is there and has not ended.
        """
        earlier = [job for job in self.all() if job["run"] == recipe.run]
        if live := [job for job in earlier if job["status"] in LIVE]:
            raise BusyError(
                what=f"the run was submitted already: {live[0]['job']}",
                evidence=f"it is {live[0]['status']} on {self.address}",
                remedy=f"follow it with `capfilt status --follow {recipe.run}`, or `capfilt stop {recipe.run}` first",
            )
        digest = hashlib.sha256(recipe.run.encode()).hexdigest()[:8]
        sent = Submission(
            job=f"capfilt-{recipe.name}-{digest}-{len(earlier) + 1}",
            address=self.address,
            nonce=uuid.uuid4().hex,
            host=socket.gethostname(),
            submitted=datetime.now(UTC).isoformat(timespec="seconds"),
            versions=machine.versions(),
        )
        variables = {NONCE: sent.nonce} | ({ANY_VERSIONS: "1"} if any_versions else {})
        with tempfile.TemporaryDirectory(prefix="capfilt-job-") as folder:
            _pack(Path(folder), recipe, code=not installed)
            # The interpreter of this environment where the node has it at the same place, else the node's own.
            python = (
                f'PY={shlex.quote(sys.executable)}; [ -x "$PY" ] || PY=python; exec "$PY" -m pipeline.cli'
            )
            storage_at(recipe.run).replace(NAME, sent.model_dump_json(indent=2).encode())
            self._ask(
                lambda: self._client.submit_job(
                    submission_id=sent.job,
                    entrypoint=f"{python} {shlex.join(['run', 'recipe.yaml', *arguments])}",
                    runtime_env={"working_dir": folder, "env_vars": variables},
                    metadata={"capfilt.run": recipe.run, "capfilt.name": recipe.name},
                )
            )
        return sent.job

    def await_start(self, job: str, run: str, limit: float) -> str:
        """Wait until the job has workers that run, or has ended; its status then, or after ``limit`` seconds.

        Raises:
            StageError: it failed; with what it said.
        """
        end = time.monotonic() + limit
        while True:
            status = self.status(job)
            if status == "FAILED":
                raise StageError(
                    what=f"the job {job} failed",
                    evidence=_last_words(self.logs(job)) or self.message(job),
                    remedy=f"mend what it says, then submit again; all it said: capfilt logs --job {run}",
                )
            holder = lease.read(storage_at(run)) if status == "RUNNING" else None
            if status not in LIVE or (holder and holder.running) or time.monotonic() > end:
                return status
            time.sleep(0.3)

    def all(self) -> list[dict[str, str]]:
        """capfilt's jobs, the oldest first: run, name, job, status, begun, ended (UTC), message."""
        found = [job for job in self._ask(self._client.list_jobs) if "capfilt.run" in (job.metadata or {})]
        return [
            {
                "run": job.metadata["capfilt.run"],
                "name": job.metadata.get("capfilt.name", ""),
                "job": job.submission_id,
                "status": str(job.status.value),
                "begun": _when(job.start_time),
                "ended": _when(job.end_time),
                "message": (job.message or "").strip().splitlines()[0] if job.message else "",
            }
            for job in sorted(found, key=lambda job: job.start_time or 0)
        ]

    def find(self, run: str) -> str:
        """The last job of a run: of its place, or its name when only one place has it.

        Raises:
            UsageError: there is none, or several runs have that name.
        """
        found = [job for job in self.all() if run in (job["run"], job["name"])]
        if len({job["run"] for job in found}) > 1:
            raise UsageError(
                what=f"several runs are called {run}",
                evidence=", ".join(sorted({job["run"] for job in found})),
                remedy="say which by its whole path or url",
            )
        if not found:
            raise UsageError(
                what=f"{self.address} has no job of {run}",
                remedy=f"capfilt jobs --address {self.address} lists them",
            )
        return found[-1]["job"]

    def status(self, job: str) -> str:
        return str(self._ask(lambda: self._client.get_job_status(job)).value)

    def message(self, job: str) -> str:
        return str(self._ask(lambda: self._client.get_job_info(job)).message or "")

    def logs(self, job: str) -> str:
        """All that the job has said so far."""
        return str(self._ask(lambda: self._client.get_job_logs(job)))

    def follow(self, job: str) -> Iterator[str]:
        """What the job says, as it says it, until it ends."""
        import asyncio

        said: AsyncIterator[str] = self._client.tail_job_logs(job)
        with asyncio.Runner() as runner:
            while True:
                try:
                    yield runner.run(said.__anext__())  # type: ignore[arg-type]  # an awaitable of it is a coroutine
                except StopAsyncIteration:
                    return

    def nodes(self) -> "dict[str, Node]":
        """Every node that is alive, by its id."""
        from ray.util.state import list_nodes

        from pipeline.room import Node

        limit = int(ANSWER_SECONDS)
        found = self._ask(lambda: list_nodes(self.address, timeout=limit, raise_on_missing_output=False))
        return {
            node.node_id: Node(node.resources_total, node.labels or {}, node.node_ip)
            for node in found
            if node.state == "ALIVE"
        }

    def ray_version(self) -> str:
        """The cluster's."""
        return str(self._ask(lambda: self._client._do_request("GET", "/api/version").json())["ray_version"])

    def stop(self, job: str, limit: float = 60.0) -> str:
        """Have the job end, and wait until it has; its status then.

        Raises:
            StageError: it has not ended within ``limit`` seconds.
        """
        self._ask(lambda: self._client.stop_job(job))
        end = time.monotonic() + limit
        while (status := self.status(job)) in LIVE:
            if time.monotonic() > end:
                raise StageError(
                    what=f"the job {job} has not ended {limit:.0f} s after it was told to",
                    evidence=f"it is {status}",
                    remedy="see the dashboard; stop it again",
                )
            time.sleep(0.2)
        return status

    def _authentication(self) -> str:
        """How the cluster asks who one is; it says so to everyone."""
        try:
            with urllib.request.urlopen(
                f"{self.address}/api/authentication_mode", timeout=ANSWER_SECONDS
            ) as answer:
                return str(json.load(answer).get("authentication_mode", "disabled"))
        except (OSError, ValueError) as error:
            if isinstance(error, urllib.error.HTTPError) and error.code == 404:
                return "disabled"  # Ray before 2.52
            raise StageError(
                what=f"no Ray cluster answers at {self.address}",
                evidence=str(error),
                remedy="give the dashboard's address, such as http://head:8265; can it be reached from here?",
            ) from error

    def _ask(self, question: Any) -> Any:
        from ray.exceptions import RayError

        try:
            return question()
        except (ConnectionError, RuntimeError, ValueError, OSError, RayError) as error:
            lines = str(error).strip().splitlines()
            token = any(word in str(error).lower() for word in ("token", "401", "403", "authentication"))
            raise StageError(
                what=f"the Ray cluster at {self.address} refused",
                evidence=lines[0] if lines else type(error).__name__,
                remedy="it asks for its token: put it in RAY_AUTH_TOKEN, a file named by RAY_AUTH_TOKEN_PATH, or "
                "~/.ray/auth_token"
                if token
                else "see its dashboard, and `ray status` on the head",
            ) from error


def _pack(folder: Path, recipe: Recipe, *, code: bool) -> None:
    """What the job gets as its working directory."""
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe.plain(), sort_keys=False))
    if not code:
        return
    root = Path(pipeline.__file__).parent.parent
    for package in PACKAGES:
        shutil.copytree(root / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    about = importlib.metadata.distribution("capfilt")
    home = folder / f"capfilt-{about.version}.dist-info"  # by it the code knows its version
    home.mkdir()
    (home / "METADATA").write_text(about.read_text("METADATA") or "")


def _is_loopback(host: str) -> bool:
    try:
        found = socket.getaddrinfo(host, None)
    except OSError:
        return False
    return all(ipaddress.ip_address(address[4][0]).is_loopback for address in found)


def _last_words(said: str) -> str:
    """From the last error on; without what Ray says around it."""
    at = said.rfind("error:")
    return (said[at:] if at >= 0 else said[-2000:]).removeprefix("error:").strip()


def _when(milliseconds: int | None) -> str:
    return (
        datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="seconds") if milliseconds else ""
    )
