"""Runs as jobs of a Ray cluster, through its dashboard: send, list, read along, stop."""

import hashlib
import http.client
import ipaddress
import json
import logging
import os
import shlex
import socket
import sys
import tempfile
import time
import urllib.request
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from capfilt.data_contracts.errors import BusyError, CapfiltError, StageError, UsageError
from capfilt.pipeline.cluster.environment import ANY_VERSIONS
from capfilt.pipeline.cluster.packaging import pack
from capfilt.pipeline.ledger import lease, submission
from capfilt.pipeline.ledger.submission import Submission
from capfilt.pipeline.ledger.versions import versions
from capfilt.pipeline.planning.schema import Recipe
from capfilt.pipeline.storage import storage_at

if TYPE_CHECKING:
    from capfilt.pipeline.cluster.capacity import ClusterNode

ANSWER_SECONDS = 10.0
LIVE = ("PENDING", "RUNNING")


class Started(NamedTuple):
    """A job's status, and whether workers of it run."""

    status: str
    at_work: bool


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
        host = _host(self.address)
        mode = self._authentication()
        if mode != "token" and not insecure and not is_loopback(host):
            raise StageError(
                what=f"the cluster at {self.address} asks for no token: whoever reaches it can run code on it",
                evidence=f"{host} is not this machine, and its authentication is {mode!r} (CVE-2023-48022)",
                remedy="start it with RAY_AUTH_MODE=token; if only you can reach it, add --insecure",
            )
        from ray.job_submission import JobSubmissionClient

        for noisy in ("ray.dashboard.modules.dashboard_sdk", "ray._private.runtime_env.packaging"):
            logging.getLogger(noisy).setLevel(logging.WARNING)
        for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):
            os.environ.pop(name, None)  # Ray lets them win over the address that is asked for
        self._client: Any = self._ask(lambda: JobSubmissionClient(self.address))

    def submit(
        self,
        recipe: Recipe,
        run: str,
        arguments: list[str],
        *,
        installed: bool = False,
        any_versions: bool = False,
    ) -> Submission:
        """Send the recipe, and the code unless it is ``installed`` there, and start `capfilt run` with ``arguments``.

        ``run`` is where the run that it makes lies: the recipe's own, or a fork.

        The job's id is made of the run's name and place and of how often it was submitted: of two submissions at the
        same time one is refused. Paths in the recipe must mean the same on the cluster.

        Raises:
            BusyError: a job of the run is there and has not ended, or somebody is at work in the run.
            StorageError: the run's output cannot be written to.
        """
        storage = storage_at(run)
        earlier = [job for job in self.all() if job["run"] == run]
        if live := [job for job in earlier if job["status"] in LIVE]:
            raise _submitted(live[0]["job"], self.address, run)
        holder = lease.read(storage)
        if holder and lease.alive(storage, holder):
            raise BusyError(
                what=f"the run is being worked on: {holder.who}",
                evidence=f"its lease was renewed while this command looked on ({storage}/{lease.NAME})",
                remedy=f"follow it with `capfilt status --follow {run}`, or stop it where it runs",
            )
        digest = hashlib.sha256(run.encode()).hexdigest()[:8]
        sent = Submission(
            job=f"capfilt-{_name(run)}-{digest}-{len(earlier) + 1}",
            address=self.address,
            nonce=uuid.uuid4().hex,
            host=socket.gethostname(),
            submitted=datetime.now(UTC).isoformat(timespec="milliseconds"),
            versions=versions(),
        )
        submission.write(storage, sent)
        variables = {lease.SUBMISSION: sent.nonce, submission.RUN: run}
        variables |= {ANY_VERSIONS: "1"} if any_versions else {}
        try:
            with tempfile.TemporaryDirectory(prefix="capfilt-job-") as folder:
                pack(Path(folder), recipe, code=not installed)
                self._ask(lambda: self._send(run, sent, arguments, folder, variables))
        except BaseException:
            storage.remove(sent.name)
            raise
        return sent

    def _send(
        self, run: str, sent: Submission, arguments: list[str], folder: str, variables: dict[str, str]
    ) -> None:
        # The interpreter of this environment where the node has it at the same place, else the node's own.
        choice = f'PY={shlex.quote(sys.executable)}; [ -x "$PY" ] || PY=python; exec "$PY"'
        python = f"{choice} -m capfilt.pipeline.commands.cli"
        try:
            self._client.submit_job(
                submission_id=sent.job,
                entrypoint=f"{python} {shlex.join(['run', 'recipe.yaml', *arguments])}",
                runtime_env={"working_dir": folder, "env_vars": variables},
                metadata={
                    "capfilt.run": run,
                    "capfilt.name": _name(run),
                    "capfilt.submission": sent.nonce,
                },
            )
        except RuntimeError as error:
            if any(job["job"] == sent.job for job in self.all()):  # sent by somebody else at the same time
                raise _submitted(sent.job, self.address, run) from error
            raise

    def await_start(self, sent: Submission, run: str, limit: float) -> Started:
        """Wait until the job has workers that run, or has ended; how it stands then, or after ``limit`` seconds.

        Raises:
            CapfiltError: it failed; the error that it ended with.
        """
        end = time.monotonic() + limit
        while True:
            status = self.status(sent.job)
            if status == "FAILED":
                raise self._error(sent, run)
            holder = lease.read(storage_at(run)) if status == "RUNNING" else None
            at_work = holder is not None and holder.submission == sent.nonce and bool(holder.running)
            if status not in LIVE or at_work or time.monotonic() > end:
                return Started(status, at_work)
            time.sleep(0.3)

    def _error(self, sent: Submission, run: str) -> CapfiltError:
        """What a job ended with, as it left that in the run; else the end of what it printed."""
        where = f"{sent.job} said it: capfilt logs --job {run}"
        if (error := submission.error_of(storage_at(run), sent.nonce)) is not None:
            error.remedy = "; ".join(filter(None, (error.remedy, where)))
            return error
        printed = self.logs(sent.job).strip() or self.message(sent.job)
        return StageError(what=f"the job {sent.job} failed", evidence=printed[-2000:], remedy=where)

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
                "message": self._message(job),
            }
            for job in sorted(found, key=lambda job: job.start_time or 0)
        ]

    def _message(self, job: Any) -> str:
        """One line on how a job stands: the error that it left in its run, else what the cluster says."""
        nonce = job.metadata.get("capfilt.submission")
        if nonce and str(job.status.value) == "FAILED":
            with suppress(CapfiltError):  # the run's storage may not be seen from here
                if error := submission.error_of(storage_at(job.metadata["capfilt.run"]), nonce):
                    return error.what
        return str(job.message or "").partition("\n")[0].strip()

    def find(self, run: str) -> str:
        """The last job of a run: of its place, or its name when only one place has it.

        Raises:
            UsageError: there is none, or several runs have that name.
        """
        places = {run, storage_at(run).absolute}
        found = [job for job in self.all() if job["run"] in places or job["name"] == run]
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
            while (line := self._ask(lambda: runner.run(anext(said, None)))) is not None:
                yield line

    def nodes(self) -> "dict[str, ClusterNode]":
        """Every node that is alive, by its id."""
        from ray.util.state import list_nodes

        from capfilt.pipeline.cluster.capacity import ClusterNode

        limit = int(ANSWER_SECONDS)
        found = self._ask(lambda: list_nodes(self.address, timeout=limit, raise_on_missing_output=False))
        return {
            node.node_id: ClusterNode(node.resources_total, node.labels or {}, node.node_ip)
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
                return str(json.load(answer)["authentication_mode"])
        except (OSError, ValueError, LookupError, TypeError, http.client.HTTPException) as error:
            raise StageError(
                what=f"no Ray dashboard answers at {self.address}",
                evidence=str(error) or type(error).__name__,
                remedy="give the dashboard's address, such as http://head:8265; can it be reached from here?",
            ) from error

    def _ask(self, question: Callable[[], Any]) -> Any:
        from ray.exceptions import RayError

        try:
            return question()
        except CapfiltError:
            raise
        except (OSError, RuntimeError, ValueError, LookupError, TypeError, AttributeError, RayError) as error:
            lines = str(error).strip().splitlines()
            remedy = "see its dashboard, and `ray status` on the head"
            if lines and lines[0].startswith("Authentication"):  # as Ray words 401 and 403
                remedy = "give the cluster's own token, in RAY_AUTH_TOKEN, a file that RAY_AUTH_TOKEN_PATH names, or "
                remedy += "~/.ray/auth_token"
            raise StageError(
                what=f"the Ray cluster at {self.address} refused",
                evidence=lines[0] if lines else type(error).__name__,
                remedy=remedy,
            ) from error


def _host(address: str) -> str:
    """Of a dashboard's url; raises :class:`UsageError` when it is none."""
    why = "jobs go through the cluster's dashboard, by http, without a user's name"
    try:
        parts = urlsplit(address)
        if (
            parts.port != 0
            and parts.scheme in ("http", "https")
            and parts.hostname
            and parts.username is None
        ):
            return parts.hostname
    except ValueError as error:
        why = str(error)
    raise UsageError(
        what="--address is not the address of a dashboard",
        evidence=why,
        remedy="such as --address http://head:8265; `capfilt run --address head:6379` drives a run from here",
    )


def _name(run: str) -> str:
    return run.rpartition("/")[2]


def _submitted(job: str, address: str, run: str) -> BusyError:
    return BusyError(
        what=f"the run was submitted already: {job}",
        evidence=f"it has not ended on {address}",
        remedy=f"follow it with `capfilt status --follow {run}`, or `capfilt stop {run}` first",
    )


def is_loopback(host: str) -> bool:
    try:
        found = socket.getaddrinfo(host, None)
    except OSError:
        return False
    return all(ipaddress.ip_address(address[4][0]).is_loopback for address in found)


def _when(milliseconds: int | None) -> str:
    return (
        datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="seconds") if milliseconds else ""
    )
