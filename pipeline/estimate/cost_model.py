"""What a run would cost, by the records of another: the model behind ``capfilt plan --estimate``.

A shard stage's work grows with the rows of its listing and is shared by all workers; a global stage is one task,
which grows with the crawl if it goes through all of it; a training has its steps. Stages that no global stage
separates flow into one another and compete for the same machines, so they are a phase, which takes as long as the
scarcest of: all CPUs, all GPUs, its slowest stage alone. Phases follow one another.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from capfilt.data_contracts.errors import UsageError
from capfilt.data_contracts.fingerprint import first_difference
from capfilt.data_contracts.units import duration
from capfilt.pipeline.estimate.throughput import Cost, Records, cost, start, turns
from capfilt.pipeline.execution.schedule import default_gpus, ranks
from capfilt.pipeline.planning.graph import Graph, Node
from capfilt.pipeline.planning.placement import PlacementKeys
from capfilt.stages.dedup.find_duplicates import FindDuplicates
from capfilt.stages.evaluation.evaluate import Evaluate
from capfilt.stages.ingest.preflight import Preflight
from capfilt.stages.stage import CollectiveStage, GlobalStage

SAMPLED = (Evaluate, Preflight)  # they read the crawl, or its first rows, and work on a sample of fixed size
CRAWL = "list_web"
OTHER = ("cpus", "gpus", "threads", "batch", "fuse")  # of a placement, what a rate depends on

LARGER = 4.0  # times the rows that a measured shard has: then its fixed cost is told to weigh


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
        return _sum(self.terms, "cpus")

    @property
    def gpu_seconds(self) -> Span:
        return _sum(self.terms, "gpus")

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


def _sum(terms: Sequence[Term], what: str) -> Span:
    spans = [term.held.map(lambda held, term=term: held * getattr(term, what)) for term in terms]
    return Span(*map(sum, zip(*spans, strict=True)))


# -- the model ----------------------------------------------------------------------------------------------


def estimate(plan: Graph, records: Records, rows: int, shape: Shape) -> Estimate:
    """What ``plan`` costs for ``rows`` crawled rows, by ``records``. Human rows are taken to be as many as there.

    Raises:
        UsageError: no node of that shape can hold a worker of a stage; or no stage has a record.
    """
    whole = [node.name for node in plan if isinstance(node.stage, GlobalStage)]
    turned = turns(records, whole)
    phases = phases_of(plan)
    listings = [
        name for name, node in plan.nodes.items() if isinstance(node.stage, GlobalStage) and _lists(node)
    ]
    terms: list[Term] = []
    unknown: dict[str, str] = {}
    warnings: list[str] = []
    for node in plan:
        name = node.name
        if not records.has(name):
            unknown[name] = "no record"
            continue
        warnings += _other(plan, node, records)
        if isinstance(node.stage, GlobalStage):
            grown = _grown(node, plan, records, rows)
            if reason := _quadratic(node, records, grown):
                unknown[name] = reason
                continue
            terms.append(_whole(node, plan, records, shape, phases[name], grown, turned[name][0].gap))
        else:
            found = cost(records, name, turned[name], listings)
            if not found.rates:
                unknown[name] = "no record of a listed shard"
                continue
            terms.append(_sharded(node, plan, records, shape, phases[name], rows, found))
            if not found.warm:
                warnings.append(
                    f"{name}: only the first shard of each worker was measured, which bears what is loaded on first "
                    "use: the rate is too high"
                )
    if not terms:
        raise UsageError(
            what=f"{records.url} has no record of any stage",
            remedy="run a sample first (capfilt run SAMPLE.yaml --until select), and give its run with --from",
        )
    warnings += _small(plan, records)
    return Estimate(
        rows,
        shape,
        records.url,
        start(records),
        tuple(terms),
        tuple(_phase([term for term in terms if term.phase == number], shape) for number in _numbers(terms)),
        sum(records.models.get(term.stage, 0) for term in terms),
        unknown,
        tuple(warnings),
    )


def phases_of(plan: Graph) -> dict[str, int]:
    """Each stage's phase: one more than that of a global stage it waits for, and a global stage's than all before."""
    phases: dict[str, int] = {}
    for node in plan:
        own = isinstance(node.stage, GlobalStage)
        phases[node.name] = max(
            (phases[need] + (own or isinstance(plan.nodes[need].stage, GlobalStage)) for need in node.needs),
            default=0,
        )
    return phases


def _numbers(terms: Sequence[Term]) -> list[int]:
    return sorted({term.phase for term in terms})


def _lists(node: Node) -> bool:
    """Whether the shards of a run come from it: it reads nothing of the run."""
    return bool(getattr(node.stage, "lists", False)) and not node.upstream


def _reads_crawl(plan: Graph, name: str) -> bool:
    return name == CRAWL or any(_reads_crawl(plan, above) for above in plan.nodes[name].upstream)


def _grown(node: Node, plan: Graph, records: Records, rows: int) -> float:
    """How many times the work of a global stage there will be."""
    fixed = isinstance(node.stage, (CollectiveStage, *SAMPLED)) or not _reads_crawl(plan, node.name)
    listed = sum(records.rows(CRAWL).values())
    return 1.0 if fixed or not listed else rows / listed


def _quadratic(node: Node, records: Records, grown: float) -> str:
    if not isinstance(node.stage, FindDuplicates) or grown == 1.0:
        return ""
    facts = records.parts[node.name]["facts"].to_pylist()
    exact = any('"search": "exact"' in (one or "") for one in facts)
    return "the record is of the exact search, whose work grows with the square of the rows" if exact else ""


def _whole(
    node: Node, plan: Graph, records: Records, shape: Shape, phase: int, grown: float, opening: float
) -> Term:
    placement = plan.recipe.placement.get(node.name, PlacementKeys())
    shared = ranks(placement, node)
    threads = placement.threads or (int(shape.cpus) if shared == 1 else max(1, int(placement.cpus)))
    cpus = max(placement.cpus, min(float(threads), shape.cpus))
    gpus = placement.needs(default_gpus(node, shape.gpus)).gpus
    _demand(node, shape, cpus, gpus, shared)
    parts = records.parts[node.name]
    seconds = sum(parts["seconds"].to_pylist())
    likely = seconds * grown
    what = (
        f"{duration(seconds)} as measured"
        if grown == 1.0
        else f"{duration(seconds)} x {grown:,.4g} times the rows"
    )
    return Term(
        stage=node.name,
        phase=phase,
        # What of the one record is fixed cannot be told: the truth lies between none of it and all of it.
        work=Span(min(seconds, likely), likely, max(seconds, likely)),
        tasks=1,
        workers=1,
        cpus=cpus * shared,
        gpus=gpus * shared,
        opening=opening,
        between=0.0,
        bytes=round(sum(parts["bytes"].to_pylist()) * grown),
        formula=f"{what} + {duration(opening)} to open, one task"
        + (f" of {shared} workers" if shared > 1 else ""),
    )


def _sharded(
    node: Node, plan: Graph, records: Records, shape: Shape, phase: int, rows: int, found: Cost
) -> Term:
    placement = plan.recipe.placement.get(node.name, PlacementKeys())
    cpus = max(placement.cpus, min(float(placement.threads or 1), shape.cpus))
    gpus = placement.needs(default_gpus(node, shape.gpus)).gpus
    room = _demand(node, shape, cpus, gpus)
    work, tasks, size = Span(0.0, 0.0, 0.0), 0, 0.0
    said = []
    for listing, rate in found.rates.items():
        listed = rows if listing == CRAWL else sum(records.rows(listing).values())
        each = rows_a_shard(plan, records) if listing == CRAWL else max(records.rows(listing).values())
        work = Span(*(w + listed * r for w, r in zip(work, (rate.low, rate.seconds, rate.high), strict=True)))
        tasks += math.ceil(listed / each)
        size += listed * rate.bytes
        unit = rate.seconds / rate.units if rate.units else 0.0
        what = "rows" if listing == CRAWL else f"rows of {listing}"
        said.append(
            f"{listed:,} {what} x {rate.units:.3g} {node.stage.unit}s a row x {duration(unit)} a {node.stage.unit}"
        )
    workers = max(1, min(room, placement.actors or room, tasks))
    return Term(
        stage=node.name,
        phase=phase,
        work=work,
        tasks=tasks,
        workers=workers,
        cpus=cpus,
        gpus=gpus,
        opening=found.opening,
        between=found.between,
        bytes=round(size),
        formula=f"({' + '.join(said)} + {tasks:,} shards x {duration(found.between)}) / {workers:,} workers "
        f"+ {duration(found.opening)} to open",
    )


def rows_a_shard(plan: Graph, records: Records) -> float:
    """How many crawled rows a shard of the plan holds."""
    keys: Any = plan.recipe.shards
    listed = records.rows(CRAWL)
    if "preflight" in plan.nodes:
        return float(keys.rows)
    if len(listed) == 1 and records.has("ingest"):  # it says only that a shard holds no less
        return float(
            max(1.0, keys.target * sum(listed.values()) / sum(records.parts["ingest"]["bytes"].to_pylist()))
        )
    before = records.recipe.get("shards", {}).get("target", keys.target)
    return float(max(1.0, max(listed.values()) * keys.target / before))


def _demand(node: Node, shape: Shape, cpus: float, gpus: float, workers: int = 1) -> int:
    """How many workers of a stage there is room for; raises :class:`UsageError` where there is not enough."""
    room = shape.workers(cpus, gpus)
    if room < workers:
        raise UsageError(
            what=f"{shape.nodes} nodes of {shape.cpus:g} CPUs and {shape.gpus:g} GPUs cannot hold {workers} workers "
            f"of {node.name}",
            evidence=f"each needs {cpus:g} CPUs and {gpus:g} GPUs",
            remedy="ask for less in the recipe's `placement`, or give larger --node-cpus and --node-gpus",
        )
    return room


def _phase(terms: Sequence[Term], shape: Shape) -> Phase:
    cpu, gpu = _sum(terms, "cpus"), _sum(terms, "gpus")
    cpus, gpus = shape.nodes * shape.cpus, shape.nodes * shape.gpus
    slowest = max(terms, key=lambda term: term.alone.likely)
    limits = {"CPUs": cpu.map(lambda held: held / cpus), slowest.stage: slowest.alone}
    said = [
        f"{duration(cpu.likely)} of {cpus:g} CPUs",
        f"{slowest.stage} alone {duration(slowest.alone.likely)}",
    ]
    if gpus and gpu.likely:
        limits["GPUs"] = gpu.map(lambda held: held / gpus)
        said.insert(1, f"{duration(gpu.likely)} of {gpus:g} GPUs")
    scarce = max(limits, key=lambda name: limits[name].likely)
    most = {
        "CPUs": max(terms, key=lambda term: term.held.likely * term.cpus),
        "GPUs": max(terms, key=lambda term: term.held.likely * term.gpus),
    }.get(scarce, slowest)
    seconds = Span(*map(max, zip(*limits.values(), strict=True)))
    stages = tuple(term.stage for term in terms)
    return Phase(
        stages,
        seconds,
        scarce,
        most.stage,
        f"max({'; '.join(said)}) = {duration(seconds.likely)}, by {scarce}",
    )


# -- what the records were made with --------------------------------------------------------------------------


def _other(plan: Graph, node: Node, records: Records) -> list[str]:
    """What differs between the stage that was measured and the one that is planned."""
    said = []
    given = plan.recipe.placement.get(node.name, PlacementKeys())
    then = PlacementKeys.model_validate(records.recipe.get("placement", {}).get(node.name, {}))
    keys = (*OTHER, "actors") if isinstance(node.stage, CollectiveStage) else OTHER
    if other := [key for key in keys if getattr(given, key) != getattr(then, key)]:
        pairs = ", ".join(f"{key} {getattr(then, key)}, now {getattr(given, key)}" for key in other)
        said.append(f"{node.name} was measured with another placement, and its rate is that one's: {pairs}")
    old, new = (
        _settings(identity.get("stage")) for identity in (records.stages.get(node.name, {}), node.identity)
    )
    if difference := first_difference(old, new):
        where, before, now = difference
        said.append(f"{node.name} was measured with other settings: {where} was {before!r}, now {now!r}")
    return said


def _small(plan: Graph, records: Records) -> list[str]:
    """Whether the shards that were measured are much smaller than those that are planned."""
    listed = records.rows(CRAWL)
    if not listed or rows_a_shard(plan, records) < LARGER * max(listed.values()):
        return []
    return [
        f"measured on shards of {max(listed.values()):,} rows, where this recipe's hold "
        f"{rows_a_shard(plan, records):,.0f}: a shard's fixed cost is in the rates, which are too high"
    ]


def _settings(identity: Any) -> Any:
    """A stage's identity without what costs nothing: which source it reads, which seed it draws with."""
    if isinstance(identity, Mapping):
        return {key: _settings(value) for key, value in identity.items() if key != "seed"}
    if isinstance(identity, list):
        return [_settings(one) for one in identity if not _is_source(one)]
    return identity


def _is_source(identity: Any) -> bool:
    return isinstance(identity, Mapping) and identity.get("is") == "SourceSpec"
