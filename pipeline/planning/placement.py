"""The recipe's `placement`: where and how a stage runs, which changes no result."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from capfilt.data_contracts.units import bytes_of

PATIENCE = (
    10.0  # seconds for which a cluster may be without nodes that are large enough: they may be on their way
)


@dataclass(frozen=True)
class Resources:
    """What a worker takes of its node: CPUs, GPUs (a part of one shares it), bytes of memory, resources of the
    user's own; ``labels`` are those that its node must have."""

    cpus: float = 1.0
    gpus: float = 0.0
    memory: int = 0
    custom: tuple[tuple[str, float], ...] = ()
    labels: tuple[tuple[str, str], ...] = ()

    @property
    def asked(self) -> dict[str, float]:
        """By Ray's names; without what is not asked for."""
        every = {"CPU": self.cpus, "GPU": self.gpus, "memory": float(self.memory), **dict(self.custom)}
        return {name: amount for name, amount in every.items() if amount}

    @property
    def options(self) -> dict[str, Any]:
        """The same as the options of a Ray actor."""
        return {
            "num_cpus": self.cpus,
            "num_gpus": self.gpus,
            "memory": self.memory or None,
            "resources": dict(self.custom),
            "label_selector": dict(self.labels),
        }

    def __str__(self) -> str:
        said = [f"{self.cpus:g} CPUs", f"{self.gpus:g} GPUs"]
        said += [f"{self.memory / 1e9:g} GB of memory"] * bool(self.memory)
        said += [f"{amount:g} {name}" for name, amount in self.custom]
        said += [f"the label {name}={value}" for name, value in self.labels]
        return ", ".join(said[:-1]) + f" and {said[-1]}"


class Demand(NamedTuple):
    """What a stage cannot do with less: so many ``workers``, each of which takes ``needs``."""

    stage: str
    needs: Resources
    workers: int


class PlacementKeys(BaseModel):
    """One stage's. ``deadline`` is in seconds for one shard.

    Each of its workers, of which there are at most ``actors``, takes ``cpus``, ``gpus`` (0.5 shares one; without the
    key one for a stage with a model, where the cluster has any), ``memory`` in bytes and ``resources`` of the user's
    own, on a node with these ``labels``. A cluster without room for ``min_actors`` of them is refused at once.

    ``actors`` of a training are the workers that share it: they have the cluster to themselves. It checkpoints every
    ``checkpoint_steps`` or ``checkpoint_minutes``, whatever comes first.

    ``fuse``: right after the stage before it, on the same worker, which keeps a shard's decoded images for it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    actors: int | None = Field(default=None, ge=1)
    min_actors: int = Field(default=1, ge=1)
    cpus: float = Field(default=1.0, gt=0)
    gpus: float | None = Field(default=None, ge=0)
    memory: Annotated[int, Field(ge=0), BeforeValidator(bytes_of)] = 0
    resources: Mapping[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    labels: Mapping[str, str] = Field(default_factory=dict)
    batch: int = Field(default=64, ge=1)
    threads: int | None = Field(default=None, ge=1)
    deadline: float | None = Field(default=None, gt=0)
    fuse: bool = False
    checkpoint_steps: int = Field(default=200, ge=1)
    checkpoint_minutes: float = Field(default=10.0, gt=0)

    @model_validator(mode="after")
    def _range(self) -> "PlacementKeys":
        if self.actors is not None and self.min_actors > self.actors:
            raise ValueError(f"min_actors {self.min_actors} is more than actors {self.actors}")
        return self

    def needs(self, gpus: float) -> Resources:
        """What one worker takes; ``gpus`` where the recipe does not say how many."""
        return Resources(
            self.cpus,
            gpus if self.gpus is None else self.gpus,
            self.memory,
            tuple(sorted(self.resources.items())),
            tuple(sorted(self.labels.items())),
        )
