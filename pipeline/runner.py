"""Drive a plan to its end: open or create the run, find what is missing, run it, close each stage."""

import importlib.metadata
import os
import platform
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TypeVar

from data_contracts.contract import Contract
from data_contracts.errors import DamageError, RunChangedError, StageError
from data_contracts.fingerprint import first_difference
from data_contracts.ledger import RunRecord, StageTotals
from pipeline.cluster import Cluster
from pipeline.ledger import Ledger
from pipeline.plan import Node, Plan
from pipeline.progress import Bar, Progress
from pipeline.recipe import PlacementKeys, plain
from pipeline.scheduler import Resources
from pipeline.survey import Standing, State, sharded, survey
from pipeline.task import Task, Upstream
from stages.stage import Checkpoint, GlobalStage, ModelRef

VERSIONS = ("capfilt", "numpy", "pillow", "pyarrow", "ray", "tokenizers", "torch", "transformers")
SHARD_DEADLINE, STAGE_DEADLINE = 3600.0, 7 * 24 * 3600.0
REPAIRS = 20
T = TypeVar("T")


def open_run(plan: Plan, ledger: Ledger, parent: Ledger | None = None) -> None:
    """Create the run, or see that the run on disk is this plan's.

    With ``parent`` (a fork) every complete stage of it whose fingerprint holds is referred to, not copied.

    Raises:
        RunChangedError: the run was made by another recipe; names the first field that differs.
    """
    record = RunRecord(
        name=plan.recipe.name,
        recipe=plain(plan.recipe),
        stages={node.name: dict(node.identity) for node in plan},
        fingerprints={node.name: node.fingerprint for node in plan},
        parent=os.path.relpath(parent.run, ledger.run) if parent else None,
        versions={name: importlib.metadata.version(name) for name in VERSIONS}
        | {"python": platform.python_version()},
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=tuple(sys.argv),
    )
    if ledger.create(record):
        if parent is not None:
            _refer(plan, ledger, parent)
        return
    demand_same(plan, ledger)


def demand_same(plan: Plan, ledger: Ledger) -> None:
    """Raise :class:`RunChangedError` unless the run on disk was made by this very plan."""
    found = ledger.record()
    changed = [name for name in plan.nodes if found.fingerprints.get(name) != plan.nodes[name].fingerprint]
    if changed or found.fingerprints.keys() - plan.nodes.keys():
        where, old, new = first_difference(
            found.stages, {node.name: dict(node.identity) for node in plan}
        ) or ("stages", "", "")
        raise RunChangedError(
            what=f"{ledger.run} was made by another recipe: {where} differs",
            evidence=f"the run has {old!r}, this recipe {new!r}",
            remedy=f"a run never changes: add --fork NEWNAME, which redoes {', '.join(changed) or 'nothing'}",
        )


def _refer(plan: Plan, ledger: Ledger, parent: Ledger) -> None:
    fingerprints = parent.record().fingerprints
    for node in plan:
        totals = parent.totals(node.name)
        if totals is not None and fingerprints.get(node.name) == node.fingerprint:
            place = os.path.relpath(parent.run, ledger.run)
            ledger.close(totals.model_copy(update={"refers_to": totals.refers_to or place}))


class Runner:
    """Runs what a plan is missing, stage by stage, on one cluster."""

    def __init__(self, plan: Plan, ledger: Ledger, progress: Progress, address: str | None) -> None:
        self.plan, self.ledger, self.progress = plan, ledger, progress
        self._address = address
        self._cluster: Cluster | None = None

    def run(self, until: str | None = None) -> None:
        """To the end of the plan, or of stage ``until``. Ray starts when the first stage needs it.

        A part that turns out to be damaged is set aside, and the plan gone through again from its start: its
        shard is redone, then whatever read it.

        Raises:
            CapfiltError: the stage that failed says why; everything committed stays.
        """
        try:
            self._repairing(lambda: self._pass(until))
            if all(self.ledger.totals(name) for name in self.plan.nodes):
                self.ledger.sweep()
        finally:
            if self._cluster is not None:
                self._cluster.close()

    def mend(self) -> dict[str, Standing]:
        """Set aside what can be seen to be damaged without reading it, and say how the stages then stand."""
        return self._repairing(lambda: survey(self.plan, self.ledger))

    def _repairing(self, work: Callable[[], T]) -> T:
        for _ in range(REPAIRS):
            try:
                return work()
            except DamageError as error:
                self._set_aside(error)
        raise StageError(
            what=f"parts were found damaged {REPAIRS} times",
            evidence=f"see {self.ledger.run / '_damaged'}",
            remedy="check the disk under the run, then resume",
        )

    def _pass(self, until: str | None) -> None:
        standings = survey(self.plan, self.ledger)
        for node in self.plan:
            standing = standings[node.name]
            if standing.state in (State.DONE, State.PARENT):
                self.progress.skip(node.name, standing.stale or standing.why)
                self._demand_rows(node)
            else:
                self._execute(node, standing)
                standings = survey(self.plan, self.ledger)
            if node.name == until:
                return

    def _set_aside(self, error: DamageError) -> None:
        if self.ledger.home(error.stage).run != self.ledger.run:
            raise error  # a parent's part: its own run has to mend it
        schema = Contract(self.plan.nodes[error.stage].stage.produces).schema
        self.ledger.bury(error.stage, error.part, schema)
        self.progress.say(f"  {error.what} ({error.evidence}): set aside, its shard is redone")

    # -- one stage ----------------------------------------------------------------------------------------

    def _execute(self, node: Node, standing: Standing) -> None:
        schema = Contract(node.stage.produces).schema
        for part in standing.superseded.values():
            self.ledger.bury(node.name, part.name, schema)
        placement = self.plan.recipe.placement.get(node.name, PlacementKeys())
        whole = isinstance(node.stage, GlobalStage)
        tasks = list(self._tasks(node, standing, placement))
        if tasks:
            cluster = self._connect()
            default = STAGE_DEADLINE if whole else SHARD_DEADLINE
            pool = cluster.pool(Resources(placement.actors or 0, placement.cpus, placement.gpus))
            with self._progress(node, standing) as bar:
                for _, committed in pool.run(tasks, placement.deadline or default, bar.watch):
                    for part, won in committed:
                        bar.commit(part)
                        if not won and not whole:
                            self.progress.say(f"{node.name}: {part.name} was committed by someone else")
        self._close(node)
        self._demand_rows(node)

    def _connect(self) -> Cluster:
        if self._cluster is None:
            self._cluster = Cluster(self._address)
        return self._cluster

    @contextmanager
    def _progress(self, node: Node, standing: Standing) -> Iterator[Bar]:
        rows = 0
        if not isinstance(node.stage, GlobalStage):
            for name in node.upstream[:1] if node.name != "export" else node.upstream[:2]:
                rows += sum(
                    part.record.kept
                    for shard, part in self.ledger.parts(name).items()
                    if part.record and shard in standing.missing
                )
        with self.progress.bar(node.name, self.ledger, rows, len(standing.missing)) as bar:
            yield bar

    def _tasks(self, node: Node, standing: Standing, placement: PlacementKeys) -> Iterator[Task]:
        parts = {name: self.ledger.parts(name) for name in node.upstream}
        models = {model: self._where(model) for model in node.stage.models}
        whole = isinstance(node.stage, GlobalStage)
        threads = placement.threads or (self._connect().cpus if whole else max(1, int(placement.cpus)))
        for shard in [""] if whole else standing.missing:
            upstream = tuple(
                Upstream(
                    name,
                    self.plan.nodes[name].stage.produces,
                    {own: part for own, part in parts[name].items() if own == shard}
                    if sharded(self.plan.nodes[name]) and not whole
                    else parts[name],
                )
                for name in node.upstream
            )
            yield Task(
                run=self.ledger.run,
                name=node.name,
                stage=node.stage,
                fingerprint=node.fingerprint,
                shard=shard,
                upstream=upstream,
                models=models,
                digests={
                    model.where if isinstance(model, Checkpoint) else model.stage: self._digest(model)
                    for model in models
                },
                device="cuda" if placement.gpus else "cpu",
                threads=threads,
                batch=placement.batch,
                generation=self.ledger.generation(node.name, shard) if shard else 0,
            )

    def _where(self, model: ModelRef) -> str:
        return model.where if isinstance(model, Checkpoint) else str(self.ledger.model(model.stage))

    def _digest(self, model: ModelRef) -> str:
        if isinstance(model, Checkpoint):
            return model.digest
        (part,) = self.ledger.parts(model.stage).values()
        return str(part.record.facts["model"]) if part.record else ""

    def _close(self, node: Node) -> None:
        parts = self.ledger.parts(node.name)
        records = {shard: part.record for shard, part in parts.items() if part.record is not None}
        self.ledger.close(StageTotals.of(node.name, node.fingerprint, records))

    def _demand_rows(self, node: Node) -> None:
        """Zero rows with success is how whole datasets get lost: it is a failure here."""
        totals = self.ledger.totals(node.name)
        if totals is None or totals.kept:
            return
        reasons = ", ".join(f"{count} {reason}" for reason, count in totals.rejected.items())
        raise StageError(
            what=f"{node.name} kept nothing",
            evidence=f"{totals.units_in} {node.stage.unit}s in; {reasons or 'none came in'}",
            remedy=f"capfilt inspect {self.ledger.run} {node.name} shows what left and why"
            + ("; lower the threshold with --fork" if node.name == "select" else ""),
        )
