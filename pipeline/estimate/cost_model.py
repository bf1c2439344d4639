"""What a run would cost, by the records of another: the model behind ``capfilt plan --estimate``.

A shard stage's work grows with the rows of its listing and is shared by all workers; a global stage is one task,
which grows with the crawl if it goes through all of it; a training has its steps. Stages that no global stage
separates flow into one another and compete for the same machines, so they are a phase, which takes as long as the
scarcest of: all CPUs, all GPUs, its slowest stage alone. Phases follow one another.
"""

import json
import math
from collections.abc import Sequence
from typing import Any

from capfilt.data_contracts.errors import UsageError
from capfilt.data_contracts.units import duration
from capfilt.pipeline.estimate.compare import other_settings, small_shards
from capfilt.pipeline.estimate.terms import Estimate, Phase, Shape, Span, Term, sum_over
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
        warnings += other_settings(plan, node, records)
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
    warnings += small_shards(records.rows(CRAWL), rows_a_shard(plan, records))
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
    """Why the record of a stage says nothing of another number of rows; empty if it does."""
    if not isinstance(node.stage, FindDuplicates) or grown == 1.0:
        return ""
    facts = [json.loads(one) for one in records.parts[node.name]["facts"].to_pylist() if one]
    exact = any(one.get("search") == "exact" for one in facts)
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
    cpu, gpu = sum_over(terms, "cpus"), sum_over(terms, "gpus")
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
