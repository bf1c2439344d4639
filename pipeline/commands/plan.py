"""`capfilt plan`: what is done, what is to run and why; with ``--estimate``, what it would cost."""

import json
from typing import Annotated

import typer
from rich.table import Table

from capfilt.data_contracts.errors import RunChangedError
from capfilt.data_contracts.units import duration, size
from capfilt.pipeline.commands.shared import Changes, Json, RecipeFile, console, say, show_statuses
from capfilt.pipeline.estimate.terms import Estimate, Span


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
    from capfilt.pipeline.api import plans

    try:
        planned = plans.plan(recipe, changes=changes or ())
    except RunChangedError as error:
        said = f"[yellow]{error.what}[/yellow]\n{error.evidence}\n{error.remedy}"
        console.print(said, highlight=False, soft_wrap=True)
        raise SystemExit(error.exit_code) from None
    if not estimate:
        show_statuses(planned.stages, as_json)
        return
    found = planned.estimate(
        measured=measured, rows=rows, nodes=nodes, node_cpus=node_cpus, node_gpus=node_gpus
    )
    if as_json:
        print(json.dumps(found.plain(), indent=2))
    else:
        _show_estimate(found)


def _show_estimate(found: Estimate) -> None:
    """The table, the formula of each term and phase, the sums."""
    shape = found.shape
    table = Table("stage", "work", "alone", "CPU hours", "GPU hours", "storage")
    for term in found.terms:
        held = term.held.likely / 3600
        table.add_row(
            term.stage,
            _range(term.work),
            duration(term.alone.likely),
            f"{held * term.cpus:,.3g}",
            f"{held * term.gpus:,.3g}" if term.gpus else "",
            size(term.bytes),
        )
    for stage in found.unknown:
        table.add_row(f"[yellow]{stage}[/yellow]", "?", "?", "?", "?", "?")
    console.print(table)
    lines = [f"{term.stage}: {term.formula}" for term in found.terms]
    lines += ["", f"start {duration(found.start)}, then phase after phase:"]
    lines += [f"  {', '.join(phase.stages)}: {phase.formula}" for phase in found.phases]
    hours = found.cpu_seconds.map(lambda seconds: seconds / 3600)
    gpus = found.gpu_seconds.likely / 3600
    slowest = found.bottleneck
    lines += [
        "",
        f"{found.rows:,} rows on {shape.nodes} x ({shape.cpus:g} CPUs, {shape.gpus:g} GPUs), by {found.measured}:",
        f"  wall clock {_range(found.seconds)}",
        f"  {hours.likely:,.3g} CPU hours ({hours.low:,.3g} to {hours.high:,.3g}), {gpus:,.3g} GPU hours, "
        f"{size(found.bytes)} of storage ({size(found.models)} of it models)",
        f"  bottleneck: {slowest.bottleneck}, by {slowest.scarce}: {duration(slowest.seconds.likely)} of it",
    ]
    for line in lines:
        say(line)
    said = [f"{stage} is not in any figure: {why}" for stage, why in found.unknown.items()]
    for warning in (*said, *found.warnings):
        console.print("[yellow]warning:[/yellow]", end=" ")
        say(warning)


def _range(span: Span) -> str:
    low, likely, high = map(duration, span)
    return likely if low == high else f"{likely} ({low} to {high})"
