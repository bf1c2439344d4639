"""Compose and drive a run: its plan, its ledger, who listens, and the cluster it runs on."""

from capfilt.pipeline.execution.events import Listener
from capfilt.pipeline.execution.runner import Runner, Workers
from capfilt.pipeline.ledger.ledger import Ledger
from capfilt.pipeline.planning.graph import Graph
from capfilt.pipeline.planning.placement import PATIENCE
from capfilt.pipeline.watching import log
from capfilt.pipeline.watching.metrics import Metrics


def drive(
    plan: Graph,
    ledger: Ledger,
    console: Listener,
    address: str | None = None,
    *,
    until: str | None = None,
    join: bool = False,
    patience: float = PATIENCE,
) -> None:
    """Run what the plan is missing on a Ray cluster, to the end of it or of stage ``until``.

    ``console`` hears what happens; where the log is asked for on stderr, that takes its place. The cluster may be
    without nodes that are large enough for ``patience`` seconds. ``join``: beside another runner, if there is one.

    Raises:
        BusyError: another runner is at work in the run, or has taken it over.
        CapfiltError: the stage that failed says why; everything committed stays.
    """

    def connect() -> Workers:
        from capfilt.pipeline.cluster.connection import Cluster  # Ray is not loaded before a task needs it

        return Cluster(address, ledger.url, plan.recipe.poison_limit, patience)

    shown = () if log.on_stderr() else (console,)
    listeners = (log.RunLog(ledger), Metrics(ledger.storage.name), *shown)
    Runner(plan, ledger, listeners, connect, join=join).run(until)
