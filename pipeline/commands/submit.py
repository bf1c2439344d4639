"""`capfilt submit`, `jobs`, `logs` and `stop`: runs as jobs of a cluster."""

import json
import os
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer

from capfilt.data_contracts.errors import BusyError, UsageError
from capfilt.pipeline.commands.shared import (
    Changes,
    Fork,
    Json,
    RecipeFile,
    Until,
    WaitNodes,
    say,
    warn,
)
from capfilt.pipeline.ledger import lease, submission
from capfilt.pipeline.ledger.ledger import Ledger
from capfilt.pipeline.planning.placement import PATIENCE
from capfilt.pipeline.reports import stages
from capfilt.pipeline.reports.visible import visible

if TYPE_CHECKING:
    from capfilt.pipeline.cluster.jobs import Jobs

Dashboard = Annotated[
    str,
    typer.Option(envvar="RAY_API_SERVER_ADDRESS", help="The cluster's dashboard, such as http://head:8265."),
]
ItsDashboard = Annotated[
    str | None, typer.Option(help="The cluster's dashboard; not needed for one on this machine.")
]
Insecure = Annotated[
    bool, typer.Option("--insecure", help="Use a cluster that other machines reach without a token.")
]
Run = Annotated[str, typer.Argument(metavar="RUN", help="A run's folder, url or name.")]


def submit(
    recipe: RecipeFile,
    address: Dashboard,
    changes: Changes = None,
    until: Until = None,
    fork: Fork = None,
    installed: Annotated[
        bool, typer.Option("--installed", help="Use the capfilt that the cluster has; send the recipe alone.")
    ] = False,
    any_versions: Annotated[
        bool, typer.Option("--any-versions", help="Whatever versions of the libraries the cluster has.")
    ] = False,
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait until it is at work.")] = 60.0,
    wait_nodes: WaitNodes = PATIENCE,
    insecure: Insecure = False,
) -> None:
    """Send a recipe to a Ray cluster as a job, and see it begin; sent again, it carries on."""
    from capfilt.pipeline.api.runs import forked, load_recipe
    from capfilt.pipeline.cluster.jobs import ANSWER_SECONDS, LIVE, Jobs
    from capfilt.pipeline.planning.schema import STAGES
    from capfilt.pipeline.storage import patience

    loaded = load_recipe(recipe, changes or ())
    if until and until not in STAGES:
        raise UsageError(
            what=f"--until {until}: there is no such stage", evidence=f"stages: {', '.join(STAGES)}"
        )
    jobs = Jobs(address, insecure=insecure)
    arguments = ["--wait-nodes", f"{wait_nodes:g}", *(["--until", until] if until else [])]
    arguments += ["--fork", fork] if fork else []
    with patience.at_most(ANSWER_SECONDS):
        run = forked(loaded, fork)[0].run if fork else loaded.run
        sent = jobs.submit(loaded, run, arguments, installed=installed, any_versions=any_versions)
    say(f"submitted {sent.job}")
    started = jobs.await_start(sent, run, wait)
    if started.at_work:
        say(f"running; follow it: capfilt status --follow {run}")
    elif started.status in LIVE:
        say(f"{started.status.lower()}, but nothing runs after {wait:g} s; why: capfilt logs -f {run}")
    else:
        say(f"it has ended already, {started.status.lower()}: capfilt status {run}")


def jobs(address: Dashboard, insecure: Insecure = False, as_json: Json = False) -> None:
    """List the jobs that were sent to a cluster."""
    from capfilt.pipeline.cluster.jobs import Jobs

    found = Jobs(address, insecure=insecure).all()
    if as_json:
        print(json.dumps(found, indent=2))
        return
    for job in found:
        say(
            f"{job['run']}\n    {job['job']}: {job['status'].lower()}, {job['begun']} to {job['ended'] or 'now'}"
        )
        say(f"    {visible(job['message'])}")


def logs(
    run: Run,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Until nobody is at work in it.")] = False,
    job: Annotated[
        bool, typer.Option("--job", help="What its last job printed, as the cluster has it.")
    ] = False,
    address: ItsDashboard = None,
    insecure: Insecure = False,
    as_json: Json = False,
) -> None:
    """Print a run's log, from its storage alone; or what its job printed, which begins earlier."""
    from capfilt.pipeline.watching import log

    ledger = Ledger(run)
    if job or not ledger.exists:
        jobs, name = _job_of(run, address, insecure)
        for said in jobs.follow(name) if follow else [jobs.logs(name)]:
            print(said, end="", flush=True)
        return
    line = None
    for line in log.follow(ledger) if follow else log.read(ledger):
        text = json.dumps(line) if as_json else f"{line['time']} {line['level']:<7} {line['message']}"
        print(text if as_json else visible(text), flush=True)
    if follow and line is not None and line["event"] != "run_ended":
        warn(f"nobody is at work in {ledger.url} any more: its last runner was killed")


def stop(run: Run, address: ItsDashboard = None, insecure: Insecure = False) -> None:
    """Stop a run's job. What is committed stays: submit the recipe again, here or elsewhere, and it carries on."""
    from capfilt.pipeline.cluster.jobs import LIVE

    jobs, job = _job_of(run, address, insecure)
    if (status := jobs.status(job)) in LIVE:
        say(f"{job}: {jobs.stop(job).lower()}; submitting the recipe again carries on")
        return
    say(f"{job} had ended, {status.lower()}")
    storage = Ledger(run).storage
    holder = lease.read(storage)
    if holder and lease.alive(storage, holder):
        raise BusyError(
            what=f"but the run is being worked on: {holder.who}",
            evidence=f"its lease is renewed, and {jobs.address} has no job of it that goes on",
            remedy="stop it where it runs; for a job on another cluster, give that one's --address",
        )


def _job_of(run: str, address: str | None, insecure: bool) -> "tuple[Jobs, str]":
    """The last job of a run, and the cluster that has it.

    An address that the run names is believed only when it is this machine's own: whoever may write to a run would
    otherwise be sent the cluster's token.
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
