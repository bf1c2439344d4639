"""`capfilt run`, `resume` and `retry-failed`: parse, call, print."""

import signal
import threading
from typing import Annotated, Any

import typer

from capfilt.data_contracts.rejects import Reason
from capfilt.pipeline.commands.shared import (
    Changes,
    Fork,
    RecipeFile,
    RunFolder,
    Until,
    WaitNodes,
    console,
    say,
    show_statuses,
)
from capfilt.pipeline.planning.placement import PATIENCE

Join = Annotated[bool, typer.Option("--join", help="Work beside another runner of the same run.")]
Address = Annotated[str | None, typer.Option(help="A Ray cluster; without it one is started here.")]


def run(
    recipe: RecipeFile,
    changes: Changes = None,
    until: Until = None,
    fork: Fork = None,
    address: Address = None,
    join: Join = False,
    wait_nodes: WaitNodes = PATIENCE,
) -> None:
    """Run a recipe, or carry on where it stopped."""
    from capfilt.pipeline.api import runs

    begun = runs.begin(runs.load_recipe(recipe, changes or ()), until=until, fork=fork)
    drive(begun, address, join=join, wait_nodes=wait_nodes)


def resume(
    run: RunFolder,
    until: Until = None,
    address: Address = None,
    join: Join = False,
    wait_nodes: WaitNodes = PATIENCE,
) -> None:
    """Carry on with a run from its own recipe; shows the plan first."""
    from capfilt.pipeline.api import runs

    begun = runs.begin(runs.recipe_of(run), until=until)
    drive(begun, address, show_plan=True, join=join, wait_nodes=wait_nodes)


def retry_failed(
    run: RunFolder,
    reason: Annotated[
        list[Reason] | None, typer.Option(help="Only rows that left for this; may be given several times.")
    ] = None,
    address: Address = None,
) -> None:
    """Fetch rejected rows again, as new shards of the run: without --reason, what may have been passing trouble."""
    from capfilt.pipeline.api import runs

    found = runs.retry_failed(run, reason or ())
    counts = ", ".join(f"{count:,} {why}" for why, count in found.most_common())
    say(f"to be fetched again: {counts or 'nothing'}")
    drive(runs.begin(runs.recipe_of(run)), address)  # what waits from an earlier retry, too


def drive(
    begun: Any,
    address: str | None = None,
    *,
    show_plan: bool = False,
    join: bool = False,
    wait_nodes: float = PATIENCE,
) -> None:
    """Run what is missing of a :class:`~capfilt.pipeline.api.runs.Begun`, and show it: bars, and what came out."""
    from capfilt.pipeline.api import runs
    from capfilt.pipeline.execution.events import Listener
    from capfilt.pipeline.planning.status import stage_statuses
    from capfilt.pipeline.watching import log
    from capfilt.pipeline.watching.console import Progress

    url = begun.ledger.url
    say(f"run {url}")
    if show_plan:
        show_statuses(stage_statuses(begun.plan, begun.ledger))
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _stop)  # it ends a job, and then ends the process like Ctrl-C
    shown = Listener() if log.on_stderr() else Progress(console)  # the log takes its place
    found = runs.drive(begun, shown, address, join=join, wait_nodes=wait_nodes)
    if found is None:
        say(f"stopped after {begun.until}; `capfilt resume {url}` carries on")
        return
    pairs = ", ".join(f"{count:,} {source}" for source, count in found["exported"].items())
    say(f"cleaned pairs: {pairs}\n{url}/export")
    for warning in found["warnings"]:
        console.print(f"[yellow]warning:[/yellow] {warning}", highlight=False, soft_wrap=True)


def _stop(number: int, frame: object) -> None:
    raise KeyboardInterrupt
