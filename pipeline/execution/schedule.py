"""Which shard of which stage can run now: a shard is ready when its own upstream shard is committed.

Only global stages wait for everything. So scoring overlaps captioning, and a run is one stream of tasks. What is
nearest to the end goes first: a shard leaves the pipeline before the next one enters it.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import NamedTuple

from capfilt.pipeline.execution.task import Task, Upstream
from capfilt.pipeline.ledger.commit_index import CommitIndex, Part
from capfilt.pipeline.planning.graph import Graph, Node
from capfilt.pipeline.planning.placement import Demand, PlacementKeys, Resources
from capfilt.pipeline.planning.status import StageStatus, model_digest, sharded
from capfilt.stages.stage import BroughtModel, CollectiveStage, GlobalStage, ModelRef

FEW = 100
SHARD_DEADLINE, STAGE_DEADLINE = 3600.0, 7 * 24 * 3600.0


@dataclass
class _Held:
    """Name and sha256 of the parts that stand: those that the survey found, and those committed since."""

    index: CommitIndex
    new: dict[str, tuple[str, str]] = field(default_factory=dict)

    def one(self, shard: str) -> dict[str, tuple[str, str]]:
        """The shard's part; nothing if it has none."""
        place = self.new.get(shard) or self.index.place(shard)
        return {shard: place} if place else {}

    def __contains__(self, shard: str) -> bool:
        return shard in self.new or shard in self.index

    def shards(self) -> set[str]:
        return {*self.index.shards, *self.new}

    def all(self) -> dict[str, tuple[str, str]]:
        return {**self.index.held(), **self.new}


@dataclass
class _Stage:
    """One stage's state. ``queued`` are the shards that were ever in the queue."""

    node: Node
    whole: bool
    ended: bool
    shards: Set[str] | None
    held: _Held
    todo: set[str]
    queue: deque[str] = field(default_factory=deque)
    queued: set[str] = field(default_factory=set)
    again: deque[Task] = field(default_factory=deque)
    running: int = 0
    begun: bool = False


class Count(NamedTuple):
    """How a stage stands: shards (null before they are known, and for a global stage), those done, and tasks."""

    shards: int | None
    done: int
    queued: int
    running: int
    ended: bool


class Overtaken(Exception):  # noqa: N818 (not an error: the plan has to be looked at again)
    """Another runner has set aside what this one has just made."""


class Schedule:
    """The tasks of the wanted stages of a plan, one after the other as they become ready.

    ``begun`` is called with a stage's name and the number of its shards to do (null for a global stage) when its
    first task is handed out, ``close`` with a stage when its last part is committed.
    """

    def __init__(
        self,
        plan: Graph,
        wanted: Sequence[Node],
        run: str,
        statuses: Mapping[str, StageStatus],
        begun: Callable[[str, int | None], None],
        close: Callable[[Node], None],
    ) -> None:
        self._plan, self._run, self._begun, self._close = plan, run, begun, close
        self._stages: dict[str, _Stage] = {}
        self._digests: dict[str, str] = {}
        sets: dict[int, Set[str]] = {}  # the stages of a chain have the same tuple of shards: one set for all
        for node in wanted:
            status = statuses[node.name]
            self._stages[node.name] = _Stage(
                node,
                isinstance(node.stage, GlobalStage),
                status.ended,
                None
                if status.shards is None
                else sets.setdefault(id(status.shards), frozenset(status.shards)),
                _Held(status.index),
                set(status.missing),
            )
            if isinstance(node.stage, GlobalStage) and status.ended:
                self._digests[node.name] = model_digest(status.index)
        for stage in self._stages.values():
            self._refill(stage, stage.todo)
        self._settle()

    @property
    def finished(self) -> bool:
        return all(stage.ended for stage in self._stages.values())

    def counts(self) -> dict[str, Count]:
        """How every wanted stage stands."""
        return {
            name: Count(
                shards := None if stage.whole or stage.shards is None else len(stage.shards),
                0 if shards is None else shards - len(stage.todo),
                len(stage.queue) + len(stage.again) if self._open(stage) else 0,
                stage.running,
                stage.ended,
            )
            for name, stage in self._stages.items()
        }

    def demands(self, gpus: float) -> Iterator[Demand]:
        """What the stages that have not ended ask for; ``gpus`` are the most that one node has."""
        return demands(self._plan, [stage.node for stage in self._stages.values() if not stage.ended], gpus)

    def ready(self, cpus: int, gpus: float = 0.0) -> Iterator[Task]:
        """The next task of every stage that has one, the most urgent first: global stages, then the last ones.

        ``cpus`` and ``gpus`` are the most that one node has: the threads of a global stage, and whether a model gets
        a GPU where the recipe does not say.
        """
        stages = list(self._stages.values())
        wholes, others = [s for s in stages if s.whole], [s for s in reversed(stages) if not s.whole]
        for stage in (*wholes, *others):
            limit = self._placement(stage.node).actors
            if limit is not None and stage.running >= limit:
                continue
            if stage.again:
                yield stage.again[0]
            elif stage.whole:
                if not stage.ended and not stage.running and self._open(stage):
                    yield self._task(stage, "", cpus, gpus)
            elif stage.queue and self._open(stage):
                yield self._task(stage, stage.queue[0], cpus, gpus)

    def backlog(self, task: Task) -> int:
        """How many tasks of this one's stage could run now if there were workers for all."""
        stage = self._stages[task.name]
        limit = self._placement(stage.node).actors or float("inf")
        return int(min(limit - stage.running, max(1, len(stage.queue) + len(stage.again))))

    def begin(self, task: Task) -> None:
        """A task that :meth:`ready` gave has been handed to a worker."""
        stage = self._stages[task.name]
        if stage.again and stage.again[0] is task:
            stage.again.popleft()
        elif not stage.whole:
            stage.queue.popleft()
        stage.running += 1
        if not stage.begun:
            stage.begun = True
            self._begun(task.name, None if stage.whole else len(stage.todo))

    def again(self, task: Task) -> None:
        """A task has to be run once more."""
        stage = self._stages[task.name]
        stage.running -= 1
        stage.again.append(task)

    def end(self, task: Task, committed: Iterable[Part]) -> None:
        """A task's parts are committed: what waited for them may run."""
        stage = self._stages[task.name]
        stage.running -= 1
        for part in committed:
            if part.record is None:
                raise Overtaken(part.name)
            stage.held.new[part.record.shard] = (part.name, part.sha256)
            if stage.whole:
                self._digests[task.name] = str(part.record.facts.get("model", ""))
        stage.todo.discard(task.shard)
        if stage.whole:
            stage.shards = stage.held.shards()
            self._end(stage)
            for other in self._stages.values():
                if task.name in other.node.upstream and not other.whole:
                    self._relist(other)
        else:
            for other in self._stages.values():
                if task.name in other.node.upstream and not other.whole:
                    self._refill(other, {task.shard} & other.todo)
        self._settle()

    # -- readiness ----------------------------------------------------------------------------------------

    def _placement(self, node: Node) -> PlacementKeys:
        return self._plan.recipe.placement.get(node.name, PlacementKeys())

    def _above(self, stage: _Stage) -> list[_Stage]:
        """The stages whose shards this one's are."""
        return [self._stages[name] for name in stage.node.upstream if sharded(self._plan.nodes[name])]

    def _open(self, stage: _Stage) -> bool:
        """Whether all that a stage needs as a whole is there: models, figures; for a global stage everything."""
        return all(
            self._stages[name].ended
            for name in stage.node.needs
            if stage.whole or not sharded(self._plan.nodes[name])
        )

    def _relist(self, stage: _Stage) -> None:
        """A listing has ended: the shards of whatever follows from it are known now."""
        above = self._above(stage)
        if any(one.shards is None for one in above):
            return
        shards = {shard for one in above for shard in one.shards or ()}
        stage.todo |= shards - (stage.shards or set()) - stage.held.shards()
        stage.shards = shards
        self._refill(stage, stage.todo)
        for other in self._stages.values():
            if stage.node.name in other.node.upstream and not other.whole:
                self._relist(other)

    def _refill(self, stage: _Stage, shards: Set[str]) -> None:
        """Queue the shards whose own upstream parts stand."""
        if stage.whole:
            return
        above = [one for one in self._above(stage) if one.shards is not None]
        # For many shards a set of what stands is made; for the one that was just committed it is looked up.
        stands: list[set[str] | _Held] = [
            one.held.shards() if len(shards) > FEW else one.held for one in above
        ]
        for shard in sorted(shards):
            due = [held for one, held in zip(above, stands, strict=True) if shard in (one.shards or ())]
            if shard not in stage.queued and due and all(shard in held for held in due):
                stage.queued.add(shard)
                stage.queue.append(shard)

    def _settle(self) -> None:
        """Close the stages that have nothing more to do."""
        for stage in self._stages.values():
            if not stage.ended and not stage.whole and stage.shards is not None and not stage.todo:
                self._end(stage)

    def _end(self, stage: _Stage) -> None:
        stage.ended = True
        self._close(stage.node)

    # -- tasks --------------------------------------------------------------------------------------------

    def _task(self, stage: _Stage, shard: str, cpus: int, gpus: float) -> Task:
        node, placement = stage.node, self._placement(stage.node)
        upstream = []
        for name in node.upstream:
            held, own = self._stages[name].held, sharded(self._plan.nodes[name]) and not stage.whole
            parts = held.one(shard) if own else held.all()
            upstream.append(Upstream(name, self._plan.nodes[name].stage.produces, parts))
        deadline = STAGE_DEADLINE if stage.whole else SHARD_DEADLINE
        each, shared = placement.needs(default_gpus(node, gpus)), ranks(placement, node)
        return Task(
            run=self._run,
            name=node.name,
            stage=node.stage,
            fingerprint=node.fingerprint,
            shard=shard,
            upstream=tuple(upstream),
            models={model: model.where for model in node.stage.models if isinstance(model, BroughtModel)},
            digests={
                model.where if isinstance(model, BroughtModel) else model.stage: self._digest(model)
                for model in node.stage.models
            },
            needs=each if shared == 1 else Resources(0.0, 0.0),
            device="cuda" if each.gpus else "cpu",
            threads=placement.threads
            or (cpus if stage.whole and shared == 1 else max(1, int(placement.cpus))),
            batch=placement.batch,
            deadline=placement.deadline or deadline,
            ranks=shared,
            each=each,
            checkpoint_steps=placement.checkpoint_steps,
            checkpoint_minutes=placement.checkpoint_minutes,
            fuse=any(stage.fuse for stage in self._plan.recipe.placement.values()),
            generation=stage.held.index.generation(shard) if shard else 0,
        )

    def _digest(self, model: ModelRef) -> str:
        return model.digest if isinstance(model, BroughtModel) else self._digests[model.stage]


def ranks(placement: PlacementKeys, node: Node) -> int:
    """How many workers share a stage's one task."""
    return (placement.actors or 1) if isinstance(node.stage, CollectiveStage) else 1


def demands(plan: Graph, nodes: Iterable[Node], gpus: float) -> Iterator[Demand]:
    """What stages ask for at least, on a cluster whose nodes have at most so many ``gpus``."""
    for node in nodes:
        placement = plan.recipe.placement.get(node.name, PlacementKeys())
        workers = ranks(placement, node) if isinstance(node.stage, GlobalStage) else placement.min_actors
        yield Demand(node.name, placement.needs(default_gpus(node, gpus)), workers)


def default_gpus(node: Node, most: float) -> float:
    """One for a stage that computes with a model, on a cluster that has any."""
    return float(most >= 1 and (bool(node.stage.models) or isinstance(node.stage, CollectiveStage)))
