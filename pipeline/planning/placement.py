"""The recipe's `placement`: where and how a stage runs, which changes no result."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, NamedTuple

from pydantic import Field, model_validator

from capfilt.pipeline.planning.section import Bytes, Section

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
    def options(self) -> dict[str, object]:
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


class PlacementKeys(Section):
    """Where one stage's workers run; it changes no result (docs/cluster.md)."""

    actors: int | None = Field(
        default=None, ge=1, description="most workers; left out: as many as fit. Those of a training share it"
    )
    min_actors: int = Field(default=1, ge=1, description="a cluster without room for so many is refused")
    cpus: float = Field(default=1.0, gt=0, description="what each takes")
    gpus: float | None = Field(
        default=None,
        ge=0,
        description="0.5 shares one; left out: 1 for a stage with a model, where there are any",
    )
    memory: Bytes = Field(
        default=0, ge=0, description="bytes each is counted with, such as 8GB; 0: not counted"
    )
    resources: Mapping[str, Annotated[float, Field(gt=0)]] = Field(
        default={}, description="resources of your own that each takes, as in {fast_disk: 1}"
    )
    labels: Mapping[str, str] = Field(default={}, description="labels that its node must have")
    batch: int = Field(default=64, ge=1, description="images, texts or captions at once")
    threads: int | None = Field(
        default=None, ge=1, description="left out: its CPUs; of a stage that runs whole the node's"
    )
    deadline: float | None = Field(default=None, gt=0, description="seconds a shard may take; left out: 3600")
    fuse: bool = Field(
        default=False, description="right after the stage before it, on its worker, with its decoded images"
    )
    checkpoint_steps: int = Field(
        default=200, ge=1, description="a training checkpoints after so many steps ..."
    )
    checkpoint_minutes: float = Field(default=10.0, gt=0, description="... or minutes, whatever comes first")

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
