"""The stages of a run as its storage has them: their state, their totals, their first rows, their metrics."""

from dataclasses import dataclass
from typing import Any

import pyarrow.compute as pc

from capfilt.data_contracts.errors import SourceError
from capfilt.data_contracts.ledger import StageTotals
from capfilt.pipeline.ledger import lease
from capfilt.pipeline.ledger.ledger import Ledger
from capfilt.pipeline.reports.query import files, query, shorten


@dataclass(frozen=True)
class StageView:
    """A stage as it stands; ``totals`` are sums over what is committed so far."""

    name: str
    complete: bool
    parent: str
    totals: StageTotals
    notes: tuple[str, ...]


def stages(ledger: Ledger) -> list[StageView]:
    """Every stage of the run's plan, in its order."""
    return [_view(ledger, name, value) for name, value in ledger.record().fingerprints.items()]


def view(ledger: Ledger, name: str) -> StageView:
    """One stage."""
    return _view(ledger, name, ledger.record().fingerprints[name])


def _view(ledger: Ledger, name: str, fingerprint: str) -> StageView:
    closed, index = ledger.look(name)
    totals = index.totals(name, fingerprint)
    notes = pc.unique(pc.list_flatten(index.table["notes"])).to_pylist()
    return StageView(name, closed is not None, (closed and closed.refers_to) or "", totals, tuple(notes))


def running(ledger: Ledger) -> lease.Holder | None:
    """Who is at work in the run and with what, as its runner last said; ``None`` when nobody is."""
    holder = lease.read(ledger.storage)
    return None if holder is None or holder.gone else holder


def figures(ledger: Ledger, stage: str) -> dict[str, dict[str, Any]]:
    """The metrics that a stage wrote, by name; empty when it has not run or is not in the plan."""
    return {row["name"]: row for row in query("SELECT * FROM files", files(ledger, stage))}


def sample(ledger: Ledger, stage: str, rows: int, *, rejects: bool = False) -> list[dict[str, Any]]:
    """The first rows of a stage, or of what left it; bytes as their length."""
    demand_stage(ledger, stage)
    found = query(
        f"SELECT * EXCLUDE (filename) FROM files LIMIT {int(rows)}", files(ledger, stage, rejects=rejects)
    )
    return [{name: shorten(value) for name, value in row.items()} for row in found]


def demand_stage(ledger: Ledger, stage: str) -> None:
    known = ledger.record().fingerprints
    if stage not in known:
        raise SourceError(
            what=f"the run has no stage {stage!r}",
            evidence=f"its stages: {', '.join(known)}",
            remedy="name one of them",
        )
