"""What a run would do and what it would cost, before it does: `capfilt plan`."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from capfilt.data_contracts.errors import UsageError
from capfilt.pipeline.api.runs import loaded
from capfilt.pipeline.estimate.cost_model import CRAWL, estimate
from capfilt.pipeline.estimate.terms import Estimate, Shape
from capfilt.pipeline.estimate.throughput import Records
from capfilt.pipeline.execution.create_run import demand_same
from capfilt.pipeline.ledger.ledger import Ledger
from capfilt.pipeline.planning.build import Plan
from capfilt.pipeline.planning.graph import Graph
from capfilt.pipeline.planning.schema import Recipe
from capfilt.pipeline.planning.status import StageStatus, stage_statuses


@dataclass(frozen=True)
class PlannedRun:
    """How each stage of a recipe's run stands, by name in the order of the plan; :func:`plan` makes it."""

    graph: Graph = field(repr=False)
    stages: Mapping[str, StageStatus]

    @property
    def url(self) -> str:
        """Where the run lies, or will."""
        return self.graph.recipe.run

    def estimate(
        self,
        *,
        measured: str | None = None,
        rows: int | None = None,
        nodes: int = 1,
        node_cpus: float | None = None,
        node_gpus: float | None = None,
    ) -> Estimate:
        """What the run would cost, by the records of run ``measured``: by default its own, as far as it got.

        Without ``rows`` as many as the own run has listed; nodes are this machine unless told otherwise.

        Raises:
            SourceError: there is no such run.
            UsageError: nothing says how many rows there are.
        """
        own = Ledger(self.url)
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
        cpus = float(node_cpus or os.cpu_count() or 1)
        return estimate(
            self.graph, records, rows, Shape(nodes, cpus, float(_gpus() if node_gpus is None else node_gpus))
        )


def plan(recipe: Recipe | str | Path, *, changes: Sequence[str] = ()) -> PlannedRun:
    """Which stages of a recipe are done, which are to run, and why. Runs nothing.

    ``recipe`` and ``changes`` are those of :func:`capfilt.run`.

    Raises:
        RunChangedError: the run that is there was made by another recipe.
        UsageError: the recipe, a source or a model cannot be used.
    """
    graph = Plan(loaded(recipe, changes))
    ledger = Ledger(graph.recipe.run)
    if ledger.exists:
        demand_same(graph, ledger)
    return PlannedRun(graph, stage_statuses(graph, ledger))


def _gpus() -> int:
    """NVIDIA GPUs of this machine."""
    found = Path("/proc/driver/nvidia/gpus")
    return len(list(found.iterdir())) if found.is_dir() else 0
