"""The recipe's `placement`: where and how a stage runs, which changes no result."""

from pydantic import BaseModel, ConfigDict, Field


class PlacementKeys(BaseModel):
    """One stage's. ``deadline`` is in seconds for one shard.

    ``actors`` of a training are the workers that share it: each takes ``cpus`` and ``gpus``, and they have the
    cluster to themselves. It checkpoints every ``checkpoint_steps`` or ``checkpoint_minutes``, whatever comes first.

    ``fuse``: right after the stage before it, on the same worker, which keeps a shard's decoded pictures for it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    actors: int | None = Field(default=None, ge=1)
    cpus: float = Field(default=1.0, gt=0)
    gpus: float = Field(default=0.0, ge=0)
    batch: int = Field(default=64, ge=1)
    threads: int | None = Field(default=None, ge=1)
    deadline: float | None = Field(default=None, gt=0)
    fuse: bool = False
    checkpoint_steps: int = Field(default=200, ge=1)
    checkpoint_minutes: float = Field(default=10.0, gt=0)
