"""`capfilt submit`, `jobs`, `logs` and `stop`: runs as jobs of a cluster."""

import json
from typing import Annotated

import typer

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
from capfilt.pipeline.ledger.ledger import Ledger
from capfilt.pipeline.planning.placement import PATIENCE
from capfilt.pipeline.reports.visible import visible

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
    from capfilt.pipeline.api import jobs
    from capfilt.pipeline.cluster.jobs import LIVE

    sent = jobs.submit(
        recipe,
        address,
        changes=changes or (),
        until=until,
        fork=fork,
        installed=installed,
        any_versions=any_versions,
        wait_nodes=wait_nodes,
        insecure=insecure,
    )
    say(f"submitted {sent.submission.job}")
    started, run = sent.await_start(wait), sent.run
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
        from capfilt.pipeline.api.jobs import job_of

        jobs, name = job_of(run, address, insecure=insecure)
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
    from capfilt.pipeline.api import jobs

    found = jobs.stop(run, address, insecure=insecure)
    if found.stopped:
        say(f"{found.job}: {found.status.lower()}; submitting the recipe again carries on")
        return
    say(f"{found.job} had ended, {found.status.lower()}")
    jobs.demand_idle(run, found.cluster)
