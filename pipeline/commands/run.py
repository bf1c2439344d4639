"""`capfilt run`, `resume`, `retry-failed`, `plan` and `demo`: parse, call, print."""

import json
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from capfilt.data_contracts.errors import RunChangedError, UsageError
from capfilt.data_contracts.rejects import Reason
from capfilt.pipeline.cluster import submission
from capfilt.pipeline.commands.shared import (
    Changes,
    Fork,
    Json,
    RecipeFile,
    RunFolder,
    Until,
    WaitNodes,
    console,
    forked,
    say,
)
from capfilt.pipeline.ledger.ledger import Ledger
from capfilt.pipeline.planning.placement import PATIENCE
from capfilt.pipeline.reports import report

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
    from capfilt.pipeline.planning.schema import load

    loaded, parent = load(recipe, changes or ()), None
    if fork:
        loaded, parent = forked(loaded, fork)
    _run(loaded, until, address, parent, join=join, patience=wait_nodes)


def resume(
    run: RunFolder,
    until: Until = None,
    address: Address = None,
    join: Join = False,
    wait_nodes: WaitNodes = PATIENCE,
) -> None:
    """Carry on with a run from its own recipe; shows the plan first."""
    recipe = _own_recipe(run)
    _run(recipe, until, address, None, show_plan=True, join=join, patience=wait_nodes)


def retry_failed(
    run: RunFolder,
    reason: Annotated[
        list[Reason] | None, typer.Option(help="Only rows that left for this; may be given several times.")
    ] = None,
    address: Address = None,
) -> None:
    """Fetch rejected rows again, as new shards of the run: without --reason, what may have been passing trouble."""
    from capfilt.pipeline.execution import retry
    from capfilt.pipeline.planning.build import Plan

    recipe = _own_recipe(run)
    found = retry.again(Plan(recipe), Ledger(run), reason or retry.PASSING)
    counts = ", ".join(f"{count:,} {why}" for why, count in found.most_common())
    say(f"to be fetched again: {counts or 'nothing'}")
    _run(recipe, None, address, None)  # what waits from an earlier retry, too


def _own_recipe(run: str) -> Any:
    """That of a run, wherever it lies now, whatever its folder is called."""
    from capfilt.pipeline.planning.schema import parse

    ledger = Ledger(run)
    recipe = parse(ledger.record().recipe)
    return recipe.model_copy(update={"output": ledger.storage.at("..").url, "name": ledger.storage.name})


def _run(
    recipe: Any,
    until: str | None,
    address: str | None,
    parent: Ledger | None,
    *,
    show_plan: bool = False,
    join: bool = False,
    patience: float = PATIENCE,
) -> None:
    from capfilt.pipeline.api.runs import drive
    from capfilt.pipeline.execution.runner import open_run
    from capfilt.pipeline.planning.build import Plan
    from capfilt.pipeline.planning.status import stage_statuses
    from capfilt.pipeline.watching.console import Progress

    submission.demand_seen(recipe.run)
    plan = Plan(recipe)
    if until and until not in plan.nodes:
        raise UsageError(
            what=f"--until {until}: the plan has no such stage",
            evidence=f"its stages: {', '.join(plan.nodes)}",
        )
    ledger = Ledger(recipe.run)
    open_run(plan, ledger, parent)
    say(f"run {ledger.url}")
    if show_plan:
        _show_standings(stage_statuses(plan, ledger), False)
    drive(plan, ledger, Progress(console), address, until=until, join=join, patience=patience)
    if until and until != "export":
        say(f"stopped after {until}; `capfilt resume {ledger.url}` carries on")
        return
    _closing(report.write(ledger), ledger)


def _closing(found: dict[str, Any], ledger: Ledger) -> None:
    pairs = ", ".join(f"{count:,} {source}" for source, count in found["exported"].items())
    say(f"cleaned pairs: {pairs}\n{ledger.url}/export")
    for warning in found["warnings"]:
        console.print(f"[yellow]warning:[/yellow] {warning}", highlight=False, soft_wrap=True)


def plan(
    recipe: RecipeFile,
    changes: Changes = None,
    as_json: Json = False,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="What the run would cost, by measured rates: docs/estimate.md.")
    ] = False,
    rows: Annotated[int | None, typer.Option(min=1, help="Crawled rows; default: those listed.")] = None,
    nodes: Annotated[int, typer.Option(min=1, help="How many machines.")] = 1,
    node_cpus: Annotated[float | None, typer.Option(min=1, help="Of each; default: this machine's.")] = None,
    node_gpus: Annotated[float | None, typer.Option(min=0, help="Of each; default: this machine's.")] = None,
    measured: Annotated[
        str | None, typer.Option("--from", metavar="RUN", help="Whose rates; default: the recipe's own run.")
    ] = None,
) -> None:
    """Show which stages are done, which are to run, and why. Runs nothing."""
    from capfilt.pipeline.planning.build import Plan
    from capfilt.pipeline.planning.schema import load
    from capfilt.pipeline.planning.status import stage_statuses

    loaded = load(recipe, changes or ())
    ledger = Ledger(loaded.run)
    planned = Plan(loaded)
    if ledger.exists:
        from capfilt.pipeline.execution.runner import demand_same

        try:
            demand_same(planned, ledger)
        except RunChangedError as error:
            console.print(
                f"[yellow]{error.what}[/yellow]\n{error.evidence}\n{error.remedy}",
                highlight=False,
                soft_wrap=True,
            )
            raise SystemExit(error.exit_code) from None
    if estimate:
        from capfilt.pipeline.commands import plan_estimate

        found = plan_estimate.of_run(planned, measured, rows, nodes, node_cpus, node_gpus)
        print(json.dumps(found.plain(), indent=2)) if as_json else plan_estimate.show(found)
        return
    _show_standings(stage_statuses(planned, ledger), as_json)


def _show_standings(statuses: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        rows = [
            {
                "stage": name,
                "state": status.state,
                "why": status.why,
                "shards": status.expected,
                "missing": list(status.missing),
                "damaged": dict(status.damaged),
                "stale": status.stale,
            }
            for name, status in statuses.items()
        ]
        print(json.dumps(rows, indent=2))
        return
    table = Table("stage", "state", "shards", "why")
    for name, status in statuses.items():
        shards = "?" if status.expected is None else str(status.expected)
        colour = {"to run": "yellow", "waiting": "dim"}.get(status.state, "green")
        why = f"stale: {status.stale}" if status.stale else status.why
        if status.damaged:
            why += "; damaged: " + ", ".join(f"{part} ({how})" for part, how in [*status.damaged.items()][:3])
        table.add_row(name, f"[{colour}]{status.state}[/]", shards, why)
    console.print(table)


def demo(
    out: Annotated[Path, typer.Option(help="Where to put the demo.")] = Path("demo"),
    seed: Annotated[int, typer.Option(min=0, help="Draws the concepts, the crawl and the training.")] = 0,
    http: Annotated[
        bool, typer.Option("--http", help="Have the crawl fetched, from a server on loopback.")
    ] = False,
    human_concepts: Annotated[
        int | None, typer.Option(help="Let people caption so many of its 24 things; without it, all.")
    ] = None,
    duplicates: Annotated[
        bool, typer.Option("--duplicates", help="Plant copies and evaluation images, and have them found.")
    ] = False,
) -> None:
    """Make a small noisy crawl of real images and clean it, start to end."""
    from capfilt.pipeline.demo.command import close, prepare
    from capfilt.pipeline.demo.web import served
    from capfilt.pipeline.planning.schema import load

    recipe = load(prepare(out, seed, http=http, human_concepts=human_concepts, duplicates=duplicates))
    with served(out) if http else nullcontext():
        _run(recipe, None, None, None)
    close(out, Ledger(recipe.run), console)
