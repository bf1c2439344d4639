"""The records of provenance: what a run is, what a stage came to, what one shard read and wrote."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from capfilt.data_contracts.rejects import Reason

FORMAT = 1  # of a run: rises when stages, records or facts get other names or meanings


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class InputPart(_Frozen):
    """A committed part that was read."""

    stage: str
    name: str
    sha256: str


class ShardRecord(_Frozen):
    """Everything about one committed part. It lives in the footer of the part itself: one commit point."""

    run: str
    stage: str
    shard: str
    generation: int = 0
    fingerprint: str = Field(description="of the stage")
    contract: str
    unit: str
    units_in: int
    fan_out: int = 1
    kept: int
    rejected: dict[Reason, int] = Field(default_factory=dict)
    texts_rejected: dict[Reason, int] = Field(
        default_factory=dict, description="texts that left images which stay; not part of the stage's units"
    )
    rejects: str | None = Field(default=None, description="the rejects file, relative to the stage's folder")
    inputs: tuple[InputPart, ...] = ()
    models: dict[str, str] = Field(default_factory=dict, description="digests of the models used, by role")
    attempt: int = 1
    host: str
    worker: str = Field(description="the process on that host that made it, told apart from all others")
    seconds: float
    finished: str = Field(description="UTC, ISO 8601")
    notes: tuple[str, ...] = ()
    facts: dict[str, Any] = Field(default_factory=dict, description="small results of global stages")

    @property
    def left(self) -> int:
        """How many rejects its file of rejects has."""
        return sum(self.rejected.values()) + sum(self.texts_rejected.values())

    @property
    def conserved(self) -> bool:
        """Whether every unit that came in was kept or rejected."""
        return self.units_in * self.fan_out == self.kept + sum(self.rejected.values())


class StageTotals(_Frozen):
    """A stage whose every shard is committed; or, in a fork, the parent's stage that it refers to."""

    stage: str
    fingerprint: str
    shards: tuple[str, ...] = ()
    units_in: int = 0
    fan_out: int = 1
    kept: int = 0
    rejected: dict[Reason, int] = Field(default_factory=dict)
    texts_rejected: dict[Reason, int] = Field(default_factory=dict)
    seconds: float = 0.0
    refers_to: str | None = Field(default=None, description="the parent run's folder, relative to this run's")


class RunRecord(_Frozen):
    """What a run is. Written once, never changed. A run of another format is refused, never misread."""

    format: int = FORMAT
    name: str
    recipe: dict[str, Any]
    stages: dict[str, Any] = Field(description="the identity of every stage, by name")
    fingerprints: dict[str, str]
    parent: str | None = None
    versions: dict[str, str]
    created: str
    command: tuple[str, ...] = ()
