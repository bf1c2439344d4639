"""Runs as jobs of a cluster: `capfilt submit`, `stop` and `logs --job`."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from capfilt.data_contracts.errors import BusyError, UsageError
from capfilt.pipeline.ledger import lease, submission
from capfilt.pipeline.ledger.ledger import Ledger
from capfilt.pipeline.ledger.submission import Submission
from capfilt.pipeline.planning.placement import PATIENCE
from capfilt.pipeline.reports import stages

if TYPE_CHECKING:
    from capfilt.pipeline.cluster.jobs import Jobs, Started


@dataclass(frozen=True)
class Submitted:
    """A job that a cluster has taken, and the run that it is to work in."""

    jobs: "Jobs"
    submission: Submission
    run: str

    def await_start(self, seconds: float) -> "Started":
        """Whether it is at work, as soon as it is or has ended, at the latest after so many seconds."""
        return self.jobs.await_start(self.submission, self.run, seconds)


def submit(
    recipe: str | Path,
    address: str,
    *,
    changes: Sequence[str] = (),
    until: str | None = None,
    fork: str | None = None,
    installed: bool = False,
    any_versions: bool = False,
    wait_nodes: float = PATIENCE,
    insecure: bool = False,
) -> Submitted:
    """Send a recipe to the Ray cluster with this dashboard as a job; sent again, it carries on.

    Args:
        installed: use the capfilt that the cluster has, and send the recipe alone.
        any_versions: whatever versions of the libraries the cluster has.
        insecure: use a cluster that other machines reach without a token.

    Raises:
        UsageError: the recipe or the cluster cannot be used. That there is no stage ``until`` is found by the job:
            only there is it certain that the sources are seen.
        CapfiltError: the cluster does not answer, or refuses.
    """
    from capfilt.pipeline.api.runs import forked, load_recipe
    from capfilt.pipeline.cluster.jobs import ANSWER_SECONDS, Jobs
    from capfilt.pipeline.storage import patience

    loaded = load_recipe(recipe, changes)
    jobs = Jobs(address, insecure=insecure)
    arguments = ["--wait-nodes", f"{wait_nodes:g}", *(["--until", until] if until else [])]
    arguments += ["--fork", fork] if fork else []
    with patience.at_most(ANSWER_SECONDS):
        run = forked(loaded, fork)[0].run if fork else loaded.run
        sent = jobs.submit(loaded, run, arguments, installed=installed, any_versions=any_versions)
    return Submitted(jobs, sent, run)


class Stopped(NamedTuple):
    """A job of the cluster with this dashboard, its status, and whether it went on until it was stopped."""

    cluster: str
    job: str
    status: str
    stopped: bool


def stop(run: str, address: str | None = None, *, insecure: bool = False) -> Stopped:
    """Stop a run's job, if it goes on. What is committed stays. Errors are those of :func:`job_of`."""
    from capfilt.pipeline.cluster.jobs import LIVE

    jobs, job = job_of(run, address, insecure=insecure)
    status = jobs.status(job)
    if status in LIVE:
        return Stopped(jobs.address, job, jobs.stop(job), True)
    return Stopped(jobs.address, job, status, False)


def demand_idle(run: str, cluster: str) -> None:
    """Raise :class:`BusyError` when somebody is at work in a run whose job on this cluster has ended."""
    storage = Ledger(run).storage
    holder = lease.read(storage)
    if holder and lease.alive(storage, holder):
        raise BusyError(
            what=f"but the run is being worked on: {holder.who}",
            evidence=f"its lease is renewed, and {cluster} has no job of it that goes on",
            remedy="stop it where it runs; for a job on another cluster, give that one's --address",
        )


def job_of(run: str, address: str | None = None, *, insecure: bool = False) -> "tuple[Jobs, str]":
    """The last job of a run, and the cluster that has it.

    An address that the run names is believed only when it is this machine's own: whoever may write to a run would
    otherwise be sent the cluster's token.

    Raises:
        UsageError: the run is no job's, or nothing says on which cluster the job is.
    """
    from capfilt.pipeline.cluster.jobs import Jobs, is_loopback

    ledger = Ledger(run)
    sent = submission.read(ledger.storage)
    if sent is None and ledger.exists:
        holder = stages.running(ledger)
        raise UsageError(
            what=f"{ledger.url} is no job's: it was never submitted",
            evidence=f"at work: {holder.who}" if holder else "nobody is at work in it",
            remedy="stop it where it runs" if holder else "capfilt submit sends its recipe",
        )
    address = address or os.environ.get("RAY_API_SERVER_ADDRESS")
    if address is None and sent is not None and is_loopback(urlsplit(sent.address).hostname or ""):
        address = sent.address
    if address is None:
        said = f"it was submitted to {sent.address}, it says" if sent else f"there is no run {ledger.url}"
        remedy = "give that cluster's dashboard: --address http://head:8265"
        raise UsageError(
            what=f"on which cluster is the job of {run}?",
            evidence=said,
            remedy=remedy if sent else f"{remedy}, or a run's folder",
        )
    jobs = Jobs(address, insecure=insecure)
    return jobs, sent.job if sent and sent.address == jobs.address else jobs.find(run)
