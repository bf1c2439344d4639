"""Run a recipe, carry on with a run, fetch again what failed: what `capfilt run`, `resume` and `retry-failed` do."""

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from capfilt.data_contracts.errors import UsageError
from capfilt.data_contracts.rejects import Reason
from capfilt.pipeline.api.run import Run
from capfilt.pipeline.cluster import environment
from capfilt.pipeline.execution import retry
from capfilt.pipeline.execution.create_run import create_run
from capfilt.pipeline.execution.events import Event, Listener
from capfilt.pipeline.execution.runner import Runner, Workers
from capfilt.pipeline.ledger.ledger import Ledger
from capfilt.pipeline.planning.build import Plan
from capfilt.pipeline.planning.graph import Graph
from capfilt.pipeline.planning.load import load, parse
from capfilt.pipeline.planning.placement import PATIENCE
from capfilt.pipeline.planning.schema import Recipe
from capfilt.pipeline.reports import report
from capfilt.pipeline.watching import log
from capfilt.pipeline.watching.metrics import Metrics

LAST = "export"


def load_recipe(path: str | Path, changes: Sequence[str] = ()) -> Recipe:
    """The recipe in a YAML file, with changes such as ``select.threshold=0.7`` applied and its paths made absolute.

    Raises:
        RecipeError: the file, a key or a value cannot be used.
    """
    return load(Path(path), changes)


def run(
    recipe: Recipe | str | Path,
    *,
    changes: Sequence[str] = (),
    until: str | None = None,
    fork: str | None = None,
    address: str | None = None,
    join: bool = False,
    wait_nodes: float = PATIENCE,
    progress: Callable[[Event], None] | None = None,
) -> Run:
    """Run a recipe, or carry on where it stopped.

    Args:
        recipe: of :func:`load_recipe`, or the path of a YAML file.
        changes: such as ``select.threshold=0.7``, to a recipe that is read from a file.
        until: stop after this stage.
        fork: make a new run of this name from the recipe's run.
        address: a Ray cluster. Without it the one that this process is connected to, the one in RAY_ADDRESS, or one
            that is started here and ended afterwards.
        join: work beside another runner of the same run.
        wait_nodes: seconds that a cluster may take to grow as large as a stage needs.
        progress: called in this thread with every :class:`~capfilt.Event`. One that raises an exception is not called
            again, and does not stop the run; KeyboardInterrupt does.

    Raises:
        UsageError: what is asked for cannot be done so: a recipe, a source, a model, a run made by another recipe.
        BusyError: another runner is at work in the run.
        CapfiltError: the stage that failed says why. What is committed stays, and the next call carries on.
    """
    begun = begin(loaded(recipe, changes), until=until, fork=fork)
    drive(begun, _Callback(progress), address, join=join, wait_nodes=wait_nodes)
    return Run(begun.ledger)


def resume(
    run: Run | str | Path,
    *,
    until: str | None = None,
    address: str | None = None,
    join: bool = False,
    wait_nodes: float = PATIENCE,
    progress: Callable[[Event], None] | None = None,
) -> Run:
    """Carry on with a run, by its folder or url, from its own recipe.

    Arguments and errors are those of :func:`run`.
    """
    begun = begin(recipe_of(run), until=until)
    drive(begun, _Callback(progress), address, join=join, wait_nodes=wait_nodes)
    return Run(begun.ledger)


def retry_failed(run: Run | str | Path, reasons: Collection[Reason | str] = ()) -> Counter[Reason]:
    """List rejected rows of a run again, as new shards, which the next :func:`resume` fetches; how many by reason.

    Without ``reasons`` these are the rows that left for what may be otherwise another day.

    Raises:
        RunChangedError: the recipe's sources are others now.
        UsageError: the run is a fork that refers to its parent's listing, or there is no such reason.
        BusyError: another runner is at work in the run.
    """
    known = {str(reason) for reason in Reason}
    if unknown := [reason for reason in reasons if str(reason) not in known]:
        raise UsageError(
            what=f"no row leaves for {unknown[0]!r}",
            evidence=f"the reasons: {', '.join(sorted(known))}",
            remedy="docs/rejects.md says what each means",
        )
    wanted = frozenset(map(Reason, reasons)) or retry.PASSING
    return retry.again(Plan(recipe_of(run)), _ledger(run), wanted)


# -- the steps of a run, for whoever has something to say between them -------------------------------------------


@dataclass(frozen=True)
class Begun:
    """A run that is there, and the plan that it goes by, to its end or to stage ``until``."""

    plan: Graph
    ledger: Ledger
    until: str | None = None

    @property
    def whole(self) -> bool:
        """Whether it is to go to the end of the plan."""
        return self.until in (None, LAST)


def begin(recipe: Recipe, *, until: str | None = None, fork: str | None = None) -> Begun:
    """Create the run of a recipe, or see that the one that is there was made by it.

    Raises:
        RunChangedError: it was made by another recipe.
        SourceError: what is to be forked is no run.
        UsageError: the plan has no stage ``until``, or the fork has the name of its parent.
    """
    parent = None
    if fork:
        recipe, parent = forked(recipe, fork)
    environment.demand_submission(recipe.run)
    plan = Plan(recipe)
    if until:
        plan.demand(until, f"--until {until}")
    ledger = Ledger(recipe.run)
    create_run(plan, ledger, parent)
    return Begun(plan, ledger, until)


def drive(
    begun: Begun,
    listener: Listener,
    address: str | None = None,
    *,
    join: bool = False,
    wait_nodes: float = PATIENCE,
) -> dict[str, Any] | None:
    """Run what is missing on a Ray cluster; the run's numbers, which are written into it, when it was run to its end.

    Raises:
        BusyError: another runner is at work in the run, or has taken it over.
        CapfiltError: the stage that failed says why; everything committed stays.
    """
    plan, ledger = begun.plan, begun.ledger

    def connect() -> Workers:
        from capfilt.pipeline.cluster.connection import Cluster  # Ray is not loaded before a task needs it

        return Cluster(address, ledger.url, plan.recipe.poison_limit, wait_nodes)

    listeners = (log.RunLog(ledger), Metrics(ledger.storage.name), listener)
    Runner(plan, ledger, listeners, connect, join=join).run(begun.until)
    return report.write(ledger) if begun.whole else None


def forked(recipe: Recipe, name: str) -> tuple[Recipe, Ledger]:
    """The recipe of a fork of this name, and the run that it is forked from.

    Raises:
        SourceError: the recipe has no run yet.
        UsageError: the name is that of the run itself.
    """
    parent = Ledger(recipe.run)
    parent.record()
    fork = parse({**recipe.plain(), "name": name})
    if fork.run == parent.url:
        raise UsageError(what="a fork needs a name of its own", evidence=f"{name} is the run itself")
    return fork, parent


def recipe_of(run: Run | str | Path) -> Recipe:
    """The recipe of a run, wherever it lies now, whatever its folder is called."""
    ledger = _ledger(run)
    recipe = parse(ledger.record().recipe)
    return recipe.model_copy(update={"output": ledger.storage.at("..").url, "name": ledger.storage.name})


def _ledger(run: Run | str | Path) -> Ledger:
    return run.ledger if isinstance(run, Run) else Ledger(run)


def loaded(recipe: Recipe | str | Path, changes: Sequence[str]) -> Recipe:
    """A recipe, read from its file if it is not yet. Raises :class:`UsageError` for changes to one that is."""
    if not isinstance(recipe, Recipe):
        return load_recipe(recipe, changes)
    if changes:
        raise UsageError(
            what="a recipe that is loaded cannot be changed",
            evidence=f"changes: {', '.join(changes)}",
            remedy="give them to load_recipe, or give the path of the recipe",
        )
    return recipe


class _Callback(Listener):
    def __init__(self, progress: Callable[[Event], None] | None) -> None:
        self._progress = progress

    def hear(self, event: Event) -> None:
        if self._progress is not None:
            self._progress(event)
