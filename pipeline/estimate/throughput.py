"""What a run's records say of its cost: seconds and bytes a row, what starts take, what lies between shards.

A record has when a part was finished, by which worker, and for how many seconds that had it in hand, from the first
batch until its rows were written. What is not in those seconds - starting the worker, loading a model, handing the
shard out, publishing its part - is the time between a worker's shards.
"""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from capfilt.pipeline.ledger.ledger import Ledger

COLUMNS = pa.schema(
    [
        pa.field("shard", pa.string()),
        pa.field("name", pa.string()),
        pa.field("units_in", pa.int64()),
        pa.field("seconds", pa.float64()),
        pa.field("bytes", pa.int64()),
        pa.field("host", pa.string()),
        pa.field("worker", pa.string()),
        pa.field("finished", pa.string()),
        pa.field("inputs", pa.large_string()),
        pa.field("models", pa.string()),
        pa.field("facts", pa.large_string()),
    ]
)


@dataclass(frozen=True)
class Records:
    """The committed parts of a run, by stage: tables of :data:`COLUMNS`. ``bytes`` of a part are with its rejects.

    ``stages`` are the identities of the stages, ``models`` the bytes of each model that was trained.
    """

    url: str
    created: float
    recipe: Mapping[str, Any]
    stages: Mapping[str, Any]
    parts: Mapping[str, pa.Table]
    models: Mapping[str, int]

    @classmethod
    def of(cls, ledger: Ledger) -> Self:
        """Those of a run, from its storage alone. Raises what :meth:`Ledger.record` does."""
        run = ledger.record()
        parts, models = {}, {}
        for stage in run.fingerprints:
            home = ledger.home(stage)
            table = home.index(stage).table
            rejects = {f"_rejects/{name}": size for name, size in home.storage.entries(f"{stage}/_rejects")}
            left = pa.array([rejects.get(name, 0) for name in table["rejects"].to_pylist()], pa.int64())
            table = table.append_column("bytes", pc.add(table["size"], left))
            parts[stage] = table.select(COLUMNS.names).cast(COLUMNS)
            models[stage] = sum(size for _, size in home.storage.entries(f"models/{stage}"))
        created = datetime.fromisoformat(run.created).timestamp()
        return cls(ledger.url, created, run.recipe, run.stages, parts, models)

    def has(self, stage: str) -> bool:
        return stage in self.parts and self.parts[stage].num_rows > 0

    def rows(self, listing: str) -> dict[str, int]:
        """The rows of each shard of a listing, as its source has them."""
        if not self.has(listing):
            return {}
        columns = (self.parts[listing][name].to_pylist() for name in ("shard", "units_in"))
        return dict(zip(*columns, strict=True))


class Turn(NamedTuple):
    """A task of a worker: whether it is the worker's first of its stage, and how many seconds the worker had nothing
    in hand before it although what it reads was there."""

    first: bool
    gap: float


class _Worker(NamedTuple):
    """A worker: free since when, and the stages that it has had."""

    since: float
    had: frozenset[str]


class Rate(NamedTuple):
    """A stage's shards of one listing, a listed row: ``units`` that came in, ``seconds`` of work with the tenth and
    ninetieth percentile over the shards, ``bytes``."""

    units: float
    seconds: float
    low: float
    high: float
    bytes: float


class Cost(NamedTuple):
    """A stage: its rates by listing, the seconds that a worker takes before its first shard over those of a later
    one, and those between two shards. ``warm``: there are shards that were not their worker's first."""

    rates: Mapping[str, Rate]
    opening: float
    between: float
    warm: bool


def start(records: Records) -> float:
    """Seconds from the run's creation to its first task: Ray starts, a worker starts."""
    began = [
        one
        for parts in records.parts.values()
        for one in (_times(parts["finished"]) - parts["seconds"].to_numpy()).tolist()
        if one >= records.created
    ]
    return min(began) - records.created if began else 0.0


def turns(records: Records, whole: Sequence[str]) -> dict[str, list[Turn]]:
    """Every task's turn, by stage in the order of its parts; the stages ``whole`` are one task each."""
    ended: dict[str, float] = defaultdict(float)  # of each part by stage/name, of each stage by its name
    tasks = []
    for stage, parts in records.parts.items():
        finished = _times(parts["finished"])
        for name, at in zip(parts["name"].to_pylist(), finished.tolist(), strict=True):
            ended[f"{stage}/{name}"] = at
            ended[stage] = max(ended[stage], at)
        began = finished - parts["seconds"].to_numpy()
        columns = [parts[name].to_pylist() for name in ("host", "worker", "inputs", "models")]
        rows = list(zip(began.tolist(), finished.tolist(), *columns, range(len(began)), strict=True))
        if stage in whole and rows:
            rows = [(min(began), max(finished), *rows[0][2:])]
        tasks += [(*row, stage) for row in rows]
    found: dict[str, dict[int, Turn]] = defaultdict(dict)
    workers: dict[tuple[str, str], _Worker] = defaultdict(lambda: _Worker(0.0, frozenset()))
    for began, finished, host, own, inputs, models, row, stage in sorted(tasks, key=lambda task: task[0]):
        worker = workers[host, own]
        read = [one.rpartition("@")[0] for one in (inputs or "").split(";")[:-1]]
        made = json.loads(models or "{}")
        ready = max([worker.since, *(ended[one] for one in (*read, *made) if one in ended)])
        found[stage][row] = Turn(stage not in worker.had, max(0.0, began - ready) if ready else 0.0)
        workers[host, own] = _Worker(finished, worker.had | {stage})
    return {stage: [turn for _, turn in sorted(rows.items())] for stage, rows in found.items()}


def cost(records: Records, stage: str, turned: Sequence[Turn], listings: Sequence[str]) -> Cost:
    """What a shard stage costs a listed row, of each of the listings that its shards are of.

    A worker's first shard bears what is loaded on first use, so the rate is that of the others where there are any.
    """
    parts = records.parts[stage]
    first = np.array([turn.first for turn in turned])
    gaps = np.array([turn.gap for turn in turned])
    shards = parts["shard"].to_pylist()
    rates, beyond = {}, np.zeros(len(shards))
    for listing in listings:
        listed = records.rows(listing)
        rows = np.array([listed.get(shard, 0) for shard in shards], np.float64)
        own = rows > 0
        if not own.any():
            continue
        use = own & ~first if (own & ~first).any() else own
        seconds, size = parts["seconds"].to_numpy(), parts["bytes"].to_numpy()
        each = seconds[use] / rows[use]
        low, high = np.quantile(each, [0.1, 0.9])
        rate = seconds[use].sum() / rows[use].sum()
        units = parts["units_in"].to_numpy()[own].sum() / rows[own].sum()
        rates[listing] = Rate(
            float(units),
            float(rate),
            float(low),
            float(high),
            float(size[own].sum() / rows[own].sum()),
        )
        beyond[own] = np.maximum(0.0, seconds - rate * rows)[own]
    between = float(np.median(gaps[~first])) if (~first).any() else 0.0
    opening = float(np.median((gaps + beyond)[first])) - between if first.any() else 0.0
    return Cost(rates, max(0.0, opening), between, bool((~first).any()))


def _times(texts: pa.ChunkedArray) -> NDArray[np.float64]:
    """UTC in ISO 8601 as seconds since 1970."""
    return np.array([datetime.fromisoformat(text).timestamp() for text in texts.to_pylist()], np.float64)
