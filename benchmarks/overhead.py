"""What orchestration costs beside the work: ``python -m benchmarks.overhead``.

Two measures. A stage of many shards that does nothing (or sleeps) goes through the real scheduler, the real ledger
and real Ray, with all workers started and warm: so its time is the driver's loop, the call and its answer, the
worker's reading of two small parts with their digests, an empty transform, and the commit: a Parquet file of one row
with its record, flushed to disk, linked into place, and its index entry. And for runs that are given, how much of
their workers' time was work: the seconds in their records over the time that the workers were there.

    python -m benchmarks.overhead [--shards 1000] [--sleep 0] [--run RUN ...] [--within DIR] [--json]

CPU seconds are those of the driver and of everything below it (Ray's own processes too): they say what a busy
machine's clock does not.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import SimpleNamespace
from typing import Any, ClassVar

import psutil

from capfilt.data_contracts.contract import Contract
from capfilt.data_contracts.identity import row_id
from capfilt.data_contracts.records import Occurrence, Record, UniqueImage
from capfilt.pipeline.api.runs import Begun, drive
from capfilt.pipeline.estimate.cost_model import CRAWL
from capfilt.pipeline.estimate.throughput import Records, turns
from capfilt.pipeline.execution.create_run import create_run
from capfilt.pipeline.execution.events import Event, Listener, StageBegun, StageEnded
from capfilt.pipeline.ledger.ledger import Ledger
from capfilt.pipeline.planning.graph import Graph
from capfilt.stages.stage import GlobalStage, Rows, ShardInput, ShardStage, Site, StageInput, Transform

MINUTE = 60.0
WARM = 10.0  # seconds of work that all workers start for
BY_SHARD = ("human", "ingest", "rank_web", "screen_web", "embed", "caption", "score", "select", "export")


@dataclass(frozen=True)
class List(GlobalStage):
    """``shards`` shards of one row."""

    produces: ClassVar[type[Record]] = Occurrence
    lists: ClassVar[bool] = True
    shards: int = 1

    def run(self, site: Site, inputs: StageInput) -> Iterator[Rows]:
        for number in range(self.shards):
            name = str(number)
            row = Occurrence(
                row_id=row_id("web", name), source_name="web", url=name, texts=[name], place=name, size=1
            )
            yield Rows(Contract(Occurrence).table([row]), shard=f"{number:07}", units=1)


@dataclass(frozen=True)
class Gate(GlobalStage):
    """Waits for all shards, so that what comes after it finds the workers there."""

    consumes: ClassVar[tuple[type[Record], ...]] = (Occurrence,)
    produces: ClassVar[type[Record]] = UniqueImage
    may_find_nothing: ClassVar[bool] = True

    def run(self, site: Site, inputs: StageInput) -> Iterator[Rows]:
        yield Rows(Contract(UniqueImage).table([]), shard="0000000", units=0)


@dataclass(frozen=True)
class Pass(ShardStage):
    """A shard's rows as they are, after ``sleep`` seconds."""

    consumes: ClassVar[tuple[type[Record], ...]] = (Occurrence,)
    produces: ClassVar[type[Record]] = Occurrence
    sleep: float = 0.0

    def open(self, site: Site) -> Transform:
        return self._transform

    def _transform(self, shard: ShardInput) -> Iterator[Rows]:
        for batch in shard.stream(Occurrence, 1024):
            time.sleep(self.sleep)
            yield Rows(Contract(Occurrence).table(map(Occurrence.model_validate, batch.to_pylist())))


def plan(folder: str, shards: int, sleep: float) -> Graph:
    """A listing, a stage that starts the workers, a gate, the stage that is measured."""
    recipe: Any = SimpleNamespace(
        name="run", run=f"{folder}/run", placement={}, poison_limit=0, plain=lambda: {"name": "run"}
    )
    graph = Graph(recipe)
    graph.add(CRAWL, List(shards))
    graph.add("warm", Pass(WARM / shards), CRAWL)
    graph.add("gate", Gate(), "warm")
    graph.add("measured", Pass(sleep), CRAWL, "gate")
    return graph


class Clock(Listener):
    """When stages begin and end: by the clock, and in CPU seconds of the driver and of all below it."""

    def __init__(self) -> None:
        self.began: dict[str, tuple[float, float, float]] = {}
        self.ended: dict[str, tuple[float, float, float]] = {}

    def hear(self, event: Event) -> None:
        match event:
            case StageBegun(stage=stage):
                self.began[stage] = self.now()
            case StageEnded(stage=stage):
                self.ended[stage] = self.now()

    def now(self) -> tuple[float, float, float]:
        below = [sum(one.cpu_times()[:2]) for one in psutil.Process().children(recursive=True)]
        return time.perf_counter(), time.process_time(), sum(below)


def no_ops(shards: int, sleep: float, within: str | None) -> dict[str, Any]:
    """Run it; figures of the measured stage."""
    with tempfile.TemporaryDirectory(dir=within) as folder:
        graph = plan(folder, shards, sleep)
        ledger = Ledger(graph.recipe.run)
        create_run(graph, ledger)
        clock = Clock()
        drive(Begun(graph, ledger, until="measured"), clock)
        records = Records.of(ledger)
        assert records.parts["measured"].num_rows == shards
        wall, driver, below = (
            end - start for start, end in zip(clock.began["measured"], clock.ended["measured"], strict=True)
        )
        worked = sum(records.parts["measured"]["seconds"].to_pylist())
        workers = os.cpu_count() or 1
        each = wall * workers / shards - sleep
        return {
            "shards": shards,
            "sleep": sleep,
            "workers": workers,
            "wall": wall,
            "driver_cpu": driver,
            "below_cpu": below,
            "load": os.getloadavg()[0],
            "share_of_work": shards * sleep / (wall * workers),
            "recorded": worked / shards,
            "worker_seconds_a_shard": each,
            "overhead_of_a_minute": each / (MINUTE + each),
        }


def of_run(url: str, workers: int) -> dict[str, Any]:
    """How much of a run's time was work, by its records: of all workers from beginning to end, and of a worker from
    one shard to the next while there was something to do."""
    records = Records.of(Ledger(url))
    stages = [stage for stage in records.parts if records.has(stage)]
    found = turns(records, [stage for stage in stages if stage not in BY_SHARD])
    later = [
        (seconds, turn.gap)
        for stage in BY_SHARD
        if stage in found
        for seconds, turn in zip(records.parts[stage]["seconds"].to_pylist(), found[stage], strict=True)
        if not turn.first
    ]
    work, gaps = (sum(column) / max(1, len(later)) for column in zip(*later, strict=True))
    return {
        "run": url,
        "seconds_of_work": sum(sum(records.parts[stage]["seconds"].to_pylist()) for stage in stages),
        "wall": _wall(records),
        "workers": workers,
        "shards": len(later),
        "seconds_a_shard": work,
        "gap_a_shard": gaps,
    }


def _wall(records: Records) -> float:
    """From the run's creation to its last commit."""
    last = max(max(parts["finished"].to_pylist()) for parts in records.parts.values() if parts.num_rows)
    return datetime.fromisoformat(last).timestamp() - records.created


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--shards", type=int, default=1000, help="0: only the runs")
    parser.add_argument("--sleep", type=float, nargs="+", default=[0.0], help="seconds of work a shard")
    parser.add_argument("--run", nargs="*", default=[], help="runs whose records are looked at")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="that those runs had")
    parser.add_argument("--within", help="where to make the folder; the temporary folder by default")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args(given)
    made = [no_ops(asked.shards, sleep, asked.within) for sleep in asked.sleep] if asked.shards else []
    runs = [of_run(url, asked.workers) for url in asked.run]
    if asked.json:
        print(json.dumps({"no_ops": made, "runs": runs}, indent=2))
        return
    for row in made:
        own = row["recorded"] - row["sleep"]
        print(
            f"{row['shards']:,} shards of {row['sleep']:g} s on {row['workers']} workers (load {row['load']:.1f}): "
            f"{row['wall']:.2f} s by the clock\n"
            f"  {1000 * row['worker_seconds_a_shard']:.1f} ms of a worker a shard beside its sleep, of which "
            f"{1000 * own:.1f} ms in its record; CPU {1000 * row['driver_cpu'] / row['shards']:.1f} ms in the driver "
            f"and {1000 * row['below_cpu'] / row['shards']:.1f} ms below it\n"
            f"  a shard of a minute would lose {row['overhead_of_a_minute']:.2%} to that (target: under 5%)"
        )
    for row in runs:
        busy = row["seconds_of_work"] / (row["wall"] * row["workers"])
        gap, each = row["gap_a_shard"], row["seconds_a_shard"]
        print(
            f"{row['run']}: {row['seconds_of_work']:.1f} s of work in {row['wall']:.1f} s by the clock x "
            f"{row['workers']} workers: {busy:.1%}\n"
            f"  between two shards of a worker {1000 * gap:.0f} ms, in a shard {each:.2f} s "
            f"({row['shards']} shards): {gap / (gap + each):.1%} lost; of a minute {gap / (gap + MINUTE):.2%}"
        )


if __name__ == "__main__":
    from benchmarks.overhead import main as imported  # the stages' module has to have a name on the workers

    imported()
