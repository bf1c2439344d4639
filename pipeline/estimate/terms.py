"""What an estimate is made of: terms of stages, phases of terms, and the estimate that sums them up."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple


@dataclass(frozen=True)
class Shape:
    """Nodes of one kind, with what the scheduler may use of each."""

    nodes: int
    cpus: float
    gpus: float

    def workers(self, cpus: float, gpus: float) -> int:
        """How many workers of these needs there is room for."""
        each = [self.cpus / cpus, *([self.gpus / gpus] if gpus else [])]
        return self.nodes * math.floor(min(each) + 1e-9)


class Span(NamedTuple):
    """Something measured, with what the tenth and the ninetieth percentile over the shards would make of it."""

    low: float
    likely: float
    high: float

    def map(self, what: Any) -> "Span":
        return Span(*(what(value) for value in self))


@dataclass(frozen=True)
class Term:
    """One stage's share. ``work`` is in seconds that workers have shards in hand; each holds ``cpus`` and ``gpus``.

    ``opening`` seconds pass before a worker's first shard, ``between`` before each. ``formula`` says it in words.
    """

    stage: str
    phase: int
    work: Span
    tasks: int
    workers: int
    cpus: float
    gpus: float
    opening: float
    between: float
    bytes: int
    formula: str

    @property
    def held(self) -> Span:
        """Worker seconds with all that is around the work."""
        return self.work.map(
            lambda work: work + self.tasks * self.between + min(self.workers, self.tasks) * self.opening
        )

    @property
    def alone(self) -> Span:
        """Seconds that the stage takes if nothing else runs. A shard is never shared, so workers take rounds."""
        rounds = math.ceil(self.tasks / self.workers) / self.tasks
        return self.work.map(lambda work: self.opening + (work + self.tasks * self.between) * rounds)


@dataclass(frozen=True)
class Phase:
    """Stages that run side by side: how long, and what of it is scarce."""

    stages: tuple[str, ...]
    seconds: Span
    scarce: str
    bottleneck: str
    formula: str


@dataclass(frozen=True)
class Estimate:
    """``unknown`` are stages of which there is no record, with the reason: no figure has them in it."""

    rows: int
    shape: Shape
    measured: str
    start: float
    terms: tuple[Term, ...]
    phases: tuple[Phase, ...]
    models: int
    unknown: Mapping[str, str]
    warnings: tuple[str, ...]

    @property
    def seconds(self) -> Span:
        """By the clock, from the command to its end."""
        parts = zip(*(phase.seconds for phase in self.phases), strict=True)
        return Span(*(self.start + sum(part) for part in parts))

    @property
    def cpu_seconds(self) -> Span:
        return sum_over(self.terms, "cpus")

    @property
    def gpu_seconds(self) -> Span:
        return sum_over(self.terms, "gpus")

    @property
    def bytes(self) -> int:
        return sum(term.bytes for term in self.terms) + self.models

    @property
    def bottleneck(self) -> Phase:
        """The phase that takes longest."""
        return max(self.phases, key=lambda phase: phase.seconds.likely)

    def plain(self) -> dict[str, Any]:
        """As JSON types; spans are lists of low, likely, high."""
        phase = self.bottleneck
        return {
            "rows": self.rows,
            "shape": asdict(self.shape),
            "measured": self.measured,
            "seconds": list(self.seconds),
            "cpu_hours": [value / 3600 for value in self.cpu_seconds],
            "gpu_hours": [value / 3600 for value in self.gpu_seconds],
            "bytes": self.bytes,
            "bottleneck": {
                "stage": phase.bottleneck,
                "scarce": phase.scarce,
                "seconds": phase.seconds.likely,
            },
            "start": self.start,
            "stages": [
                {**asdict(term), "held": list(term.held), "alone": list(term.alone)} for term in self.terms
            ],
            "phases": [asdict(phase) for phase in self.phases],
            "models_bytes": self.models,
            "unknown": dict(self.unknown),
            "warnings": list(self.warnings),
        }


def sum_over(terms: Sequence[Term], what: str) -> Span:
    spans = [term.held.map(lambda held, term=term: held * getattr(term, what)) for term in terms]
    return Span(*map(sum, zip(*spans, strict=True)))
