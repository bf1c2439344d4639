"""One shard to do, or one global stage: everything that a worker needs to know."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from capfilt.data_contracts.records import Record
from capfilt.pipeline.planning.placement import Resources
from capfilt.stages.stage import ModelRef, Stage


@dataclass(frozen=True)
class Upstream:
    """The committed parts of one upstream stage that a task reads: name and sha256 by shard."""

    stage: str
    record: type[Record]
    parts: Mapping[str, tuple[str, str]]


@dataclass(frozen=True)
class Task:
    """``shard`` is empty for a global stage.

    ``run`` is where the run lies, a path or a url. ``models`` says where a model is that the user brings; ``digests``
    has one for each model. ``suspects`` are the ids that a dead attempt had in hand: they are handled one by one.
    ``doubted`` of them were alone when their process was killed without a word, once. ``poison`` maps ids that killed
    their process alone to how it died: they leave as rejects. With ``fuse`` the worker keeps the shard's decoded
    images for the next stage. ``ranks`` workers share the work of a :class:`~capfilt.stages.stage.CollectiveStage`,
    each of which takes ``each``; one does it in the task's own process.
    """

    run: str
    name: str
    stage: Stage
    fingerprint: str
    shard: str
    upstream: tuple[Upstream, ...]
    models: Mapping[ModelRef, str]
    digests: Mapping[str, str]
    needs: Resources = field(default_factory=Resources)
    device: str = "cpu"
    threads: int = 1
    batch: int = 64
    deadline: float = 3600.0
    fuse: bool = False
    ranks: int = 1
    each: Resources = field(default_factory=Resources)
    checkpoint_steps: int = 200
    checkpoint_minutes: float = 10.0
    attempt: int = 1
    generation: int = 0
    suspects: frozenset[str] = frozenset()
    doubted: frozenset[str] = frozenset()
    poison: Mapping[str, str] = field(default_factory=dict)

    @property
    def label(self) -> str:
        return f"{self.name}-{self.shard}" if self.shard else self.name
