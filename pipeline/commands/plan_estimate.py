"""`capfilt plan --estimate`: which records, how many rows, and how the estimate is shown."""

import os
from pathlib import Path

from rich.table import Table

from capfilt.data_contracts.errors import UsageError
from capfilt.data_contracts.units import duration, size
from capfilt.pipeline.commands.shared import console, say
from capfilt.pipeline.estimate.cost_model import CRAWL, Estimate, Shape, Span, estimate
from capfilt.pipeline.estimate.throughput import Records
from capfilt.pipeline.ledger.ledger import Ledger
from capfilt.pipeline.planning.graph import Graph


def of_run(
    plan: Graph, measured: str | None, rows: int | None, nodes: int, cpus: float | None, gpus: float | None
) -> Estimate:
    """The estimate for a plan by the records of run ``measured``, by default the plan's own, as far as it got.

    Without ``rows`` as many as the own run has listed; nodes are this machine unless told otherwise.

    Raises:
        SourceError: there is no such run.
        UsageError: nothing says how many rows there are.
    """
    own = Ledger(plan.recipe.run)
    records = Records.of(Ledger(measured) if measured else own)
    if rows is None:
        listed = own.totals(CRAWL) if own.exists else None
        if listed is None:
            raise UsageError(
                what="how many rows will there be?",
                evidence=f"{own.url} has not listed its sources yet",
                remedy="give --rows, or list them: capfilt run RECIPE --until list_web",
            )
        rows = listed.units_in
    shape = Shape(nodes, float(cpus or os.cpu_count() or 1), float(_gpus() if gpus is None else gpus))
    return estimate(plan, records, rows, shape)


def _gpus() -> int:
    """NVIDIA GPUs of this machine."""
    found = Path("/proc/driver/nvidia/gpus")
    return len(list(found.iterdir())) if found.is_dir() else 0


def show(found: Estimate) -> None:
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
