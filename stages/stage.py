"""What a stage is: a frozen dataclass whose fields are its identity, and one function that does the work.

A *shard stage* turns the parts of one shard into new columns for it; it runs once a shard, on any worker. A
*global stage* sees all committed parts: listing, training, calibration, evaluation. Neither knows of Ray or
of files: a worker hands it :class:`ShardInput` or :class:`StageInput` and commits what it yields.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

import pyarrow as pa

from capfilt.data_contracts.records import Record
from capfilt.data_contracts.rejects import Reason

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class BroughtModel:
    """A model that the user brings: its content is identity, where it lies is not."""

    digest: str
    where: str = field(metadata={"identity": False})


@dataclass(frozen=True)
class TrainedModel:
    """The model that a stage of this run makes."""

    stage: str


ModelRef = BroughtModel | TrainedModel
MODEL_LIBRARIES = ("pillow", "tokenizers", "torch", "transformers")
ONLY_SHARD = "0000000"  # the name of the single shard of a stage that makes one


class Tell(Protocol):
    """Says how far a task is: rows or steps done, of how many (0: not known), a word on it, and figures by name."""

    def __call__(self, done: int, total: int, text: str, figures: Mapping[str, float] = {}) -> None: ...


@dataclass(frozen=True)
class Site:
    """Where a stage runs: placement, never identity. A shard stage that stays open sees that of its first shard.

    ``scratch`` is private to the attempt and vanishes with it; the folder that ``lasting`` gives belongs to the
    stage and survives a failed attempt, so that a training can go on from its last checkpoint there. ``keep``
    makes what is in it survive the machine as well. ``decode`` gives the image in an image's bytes, by its
    image_id: a worker that runs several stages on a shard may keep it. A training checkpoints after so many steps or
    minutes, whatever comes first.
    """

    device: str
    threads: int
    batch: int
    models: Mapping[ModelRef, str]
    scratch: Path
    lasting: Callable[[], Path]
    keep: Callable[[], None]
    progress: "Tell"
    decode: "Callable[[str, bytes], Image]"
    checkpoint_steps: int = 200
    checkpoint_minutes: float = 10.0


class Rejected(NamedTuple):
    """A unit that leaves: its id (``row_id`` of an image, ``pair_id`` of a text), its image occurrence, and why.

    ``unit`` is the stage's own, unless a text leaves an image that stays. ``duplicate_of`` names what a duplicate is
    like:
    the ``row_id`` that stays, or the held-out image.
    """

    id: str
    row_id: str
    reason: Reason
    detail: str
    unit: str | None = None
    duplicate_of: str | None = None


@dataclass(frozen=True)
class Rows:
    """Rows that are kept and units that leave. A global stage that makes several shards names each, and every global
    stage counts its units."""

    kept: pa.Table
    rejected: Sequence[Rejected] = ()
    shard: str = ONLY_SHARD
    units: int | None = None
    notes: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Model:
    """A model directory that a global stage has written under its scratch folder."""

    directory: Path


class ShardInput(Protocol):
    """The committed parts of one shard, by contract."""

    @property
    def shard(self) -> str: ...

    def has(self, record: type[Record]) -> bool:
        """Whether this shard has a part of that contract."""
        ...

    def stream(self, record: type[Record], rows: int) -> Iterator[pa.RecordBatch]:
        """Batches of at most ``rows`` rows. Call it once: it is what the poison guard watches."""
        ...

    def table(self, record: type[Record], columns: Sequence[str] | None = None) -> pa.Table:
        """All rows. For an upstream global stage: of all its parts."""
        ...

    def lasting(self) -> Path:
        """A local folder of the shard's own that outlives a failed attempt and goes with the commit."""
        ...

    def progress(self, done: int, total: int, text: str) -> None:
        """How far the shard is, while no rows are in hand."""
        ...


class StageInput(Protocol):
    """All committed parts of the upstream stages, by contract."""

    def has(self, record: type[Record]) -> bool:
        """Whether there is a part of that contract."""
        ...

    def names(self, record: type[Record]) -> Sequence[str]:
        """The shards that have a part, in their order."""
        ...

    def part(self, record: type[Record], shard: str, columns: Sequence[str] | None = None) -> pa.Table:
        """One part."""
        ...

    def parts(self, record: type[Record], columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """One table a part, in the order of the shards."""
        ...


Transform = Callable[[ShardInput], Iterator[Rows]]


@dataclass(frozen=True)
class Stage(ABC):
    """Common ground: contracts and the unit that is counted.

    ``libraries`` are distributions whose version can change what the stage makes: it is identity. A stage that keeps
    nothing has failed, unless it ``may_find_nothing``.
    """

    consumes: ClassVar[tuple[type[Record], ...]] = ()
    produces: ClassVar[type[Record]]
    unit: ClassVar[str] = "image"
    libraries: ClassVar[tuple[str, ...]] = ()
    may_find_nothing: ClassVar[bool] = False

    @property
    def fan_out(self) -> int:
        """How many rows one unit becomes when nothing is rejected."""
        return 1

    @property
    def models(self) -> tuple[ModelRef, ...]:
        """The models that it needs."""
        return tuple(value for value in vars(self).values() if isinstance(value, BroughtModel | TrainedModel))

    @property
    def trained(self) -> tuple[str, ...]:
        """The stages of the run that make them."""
        return tuple(model.stage for model in self.models if isinstance(model, TrainedModel))


@dataclass(frozen=True)
class ShardStage(Stage):
    """Works shard by shard."""

    @abstractmethod
    def open(self, site: Site) -> Transform:
        """Called once a worker: loads what is needed and returns the function that handles one shard."""

    def units(self, shard: ShardInput) -> Mapping[str, Sequence[str]]:
        """The ids of the units that come in, by the row_id of their image: what conservation is checked
        against, and what leaves when an image is quarantined."""
        primary = next(record for record in self.consumes if shard.has(record))
        return {row: (row,) for row in shard.table(primary, ["row_id"])["row_id"].to_pylist()}


@dataclass(frozen=True)
class GlobalStage(Stage):
    """Works on everything at once, on one worker. One that ``lists`` makes the shards that later stages have, or
    writes a part for each shard of the stage before it."""

    lists: ClassVar[bool] = False

    @abstractmethod
    def run(self, site: Site, inputs: StageInput) -> Iterator[Rows | Model]:
        """Yields the parts and at most one model, the model first."""


@dataclass(frozen=True)
class CollectiveStage(GlobalStage):
    """A global stage whose work several workers may share: a training.

    Every worker calls :meth:`work`, alone or in a process group of torch's; what it makes is left in
    ``site.lasting()``, where :meth:`run` finds it.
    """

    @abstractmethod
    def work(self, site: Site, inputs: StageInput) -> None:
        """One worker's part of it."""
