"""Looking into a run: its stages, one stage's rows, one row's whole story, and whether every part is whole.

Storage only: works with Ray stopped, on a copy of the run, on another machine.
"""

import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from data_contracts.errors import CapfiltError, DamageError, SourceError
from data_contracts.identity import row_id
from data_contracts.ledger import StageTotals
from pipeline.ledger import Ledger, Part, tree_digest
from pipeline.task import Crumb

FRESH = 60.0
IDS = ("row_id", "image_id", "pair_id", "url", "id")


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
    return [_view(ledger, name) for name in ledger.record().fingerprints]


def _view(ledger: Ledger, name: str) -> StageView:
    closed = ledger.totals(name)
    parts = ledger.parts(name)
    records = {shard: part.record for shard, part in parts.items() if part.record is not None}
    totals = StageTotals.of(name, ledger.record().fingerprints[name], records)
    notes = tuple(dict.fromkeys(note for record in records.values() for note in record.notes))
    return StageView(name, closed is not None, (closed and closed.refers_to) or "", totals, notes)


@dataclass(frozen=True)
class Running:
    """A task that said something in the last ``FRESH`` seconds: rows or steps done, of how many."""

    label: str
    done: int
    total: int
    text: str


def running(ledger: Ledger) -> list[Running]:
    """What a runner somewhere is doing right now, by the breadcrumbs in the run's storage."""
    found = []
    for path in sorted((ledger.run / "_tmp" / "crumbs").glob("*.json")):
        try:
            fresh = time.time() - path.stat().st_mtime < FRESH
        except FileNotFoundError:  # it ended just now
            continue
        _, done, total, text = Crumb(ledger.run, path.stem).read()
        if fresh and total:
            found.append(Running(path.stem, done, total, text))
    return found


def figures(ledger: Ledger, stage: str) -> dict[str, dict[str, Any]]:
    """The metrics that a stage wrote, by name; empty when it has not run or is not in the plan."""
    return {row["name"]: row for row in _rows(ledger, stage)}


def _rows(ledger: Ledger, stage: str) -> Iterator[dict[str, Any]]:
    for part in ledger.parts(stage).values():
        yield from pq.read_table(ledger.folder(stage) / part.name).to_pylist()


def files(ledger: Ledger, stage: str) -> list[str]:
    """The paths of a stage's committed parts."""
    return [str(ledger.folder(stage) / part.name) for part in ledger.parts(stage).values()]


def reject_files(ledger: Ledger, stage: str) -> list[str]:
    """The paths of the rejects that belong to committed parts; leftovers of dead attempts do not count."""
    return [
        str(ledger.folder(stage) / part.record.rejects)
        for part in ledger.parts(stage).values()
        if part.record and part.record.rejects
    ]


def query(sql: str, paths: list[str], *parameters: Any) -> list[dict[str, Any]]:
    """Rows of a DuckDB query in which ``{files}`` stands for these Parquet files; none without files."""
    if not paths:
        return []
    with duckdb.connect() as connection:
        connection.execute("SET threads TO 2")
        names = ", ".join("'" + path.replace("'", "''") + "'" for path in paths)
        statement = sql.replace("{files}", f"read_parquet([{names}], union_by_name = true)")
        found: pa.Table = connection.sql(statement, params=list(parameters)).to_arrow_table()
        rows: list[dict[str, Any]] = found.to_pylist()
        return rows


def sample(ledger: Ledger, stage: str, rows: int, *, rejects: bool = False) -> list[dict[str, Any]]:
    """The first rows of a stage, or of what left it; bytes as their length."""
    demand_stage(ledger, stage)
    paths = reject_files(ledger, stage) if rejects else files(ledger, stage)
    found = query(f"SELECT * FROM {{files}} LIMIT {int(rows)}", paths)
    return [{name: _short(value) for name, value in row.items()} for row in found]


def demand_stage(ledger: Ledger, stage: str) -> None:
    known = ledger.record().fingerprints
    if stage not in known:
        raise SourceError(
            what=f"the run has no stage {stage!r}",
            evidence=f"its stages: {', '.join(known)}",
            remedy="name one of them",
        )


def _short(value: Any) -> Any:
    return f"<{len(value):,} bytes>" if isinstance(value, bytes) else value


@dataclass(frozen=True)
class Story:
    """What happened to a row in one stage: the rows it has there, the rejects that name it, who made them."""

    stage: str
    rows: list[dict[str, Any]]
    rejects: list[dict[str, Any]]
    part: str
    models: dict[str, str]


def explain(ledger: Ledger, identifier: str) -> list[Story]:
    """Everything that the run knows of an id (row, image or pair) or a url, stage by stage.

    Raises:
        SourceError: nothing in the run has that id.
    """
    rows = list(_row_ids(ledger, identifier))
    stories = [story for stage in ledger.record().fingerprints for story in _stories(ledger, stage, rows)]
    if not stories:
        raise SourceError(
            what=f"nothing in the run is called {identifier}",
            evidence=f"looked for it as {', '.join(IDS)} in every stage",
            remedy="`capfilt inspect RUN STAGE` shows ids; give a whole one, or a url",
        )
    return stories


def _row_ids(ledger: Ledger, identifier: str) -> set[str]:
    """The row ids behind any kind of id: a pair's and an image's story is that of its rows.

    A url's row id follows from it, so a row that never got further than its listing is found as well.
    """
    recipe = ledger.record().recipe
    sources = [source["name"] for role in ("web", "human") for source in recipe.get(role, ())]
    found = {row_id(source, identifier) for source in sources}
    for stage in ledger.record().fingerprints:
        for paths in (files(ledger, stage), reject_files(ledger, stage)):
            columns = _columns(paths)
            if "row_id" in columns and (searched := [name for name in IDS if name in columns]):
                where = " OR ".join(f"{name} = ?" for name in searched)
                given = [identifier] * len(searched)
                rows = query(f"SELECT DISTINCT row_id FROM {{files}} WHERE {where}", paths, *given)
                found |= {row["row_id"] for row in rows}
    return found


def _columns(paths: list[str]) -> set[str]:
    """The columns of a stage's files, which all have the same."""
    return set(pq.read_schema(paths[0]).names) if paths else set()


def _stories(ledger: Ledger, stage: str, rows: list[str]) -> Iterator[Story]:
    """One story for each part of the stage that has one of the rows, or whose rejects name one."""
    kept = _by_file(files(ledger, stage), rows)
    left = _by_file(reject_files(ledger, stage), rows)
    for part in ledger.parts(stage).values():
        if part.record is None:
            continue
        own = kept.get(str(ledger.folder(stage) / part.name), [])
        rejects = left.get(str(ledger.folder(stage) / part.record.rejects), []) if part.record.rejects else []
        if own or rejects:
            yield Story(stage, own, rejects, part.name, part.record.models)


def _by_file(paths: list[str], rows: list[str]) -> dict[str, list[dict[str, Any]]]:
    """What the files have of these rows, by path; bytes as their length."""
    found: dict[str, list[dict[str, Any]]] = {}
    if "row_id" in _columns(paths):
        for row in query("SELECT *, filename FROM {files} WHERE list_contains(?, row_id)", paths, rows):
            path = row.pop("filename")
            found.setdefault(path, []).append({name: _short(value) for name, value in row.items()})
    return found


def verify(ledger: Ledger) -> Iterator[tuple[str, str, str]]:
    """Reread every committed part and model of the run: (stage, name, problem), problem empty when sound.

    What is damaged is noted in the run, so that a resume, which trusts names and sizes, mends it.
    """
    for stage in ledger.record().fingerprints:
        try:
            parts = ledger.parts(stage)
        except DamageError as error:
            yield stage, error.part, error.evidence
            continue
        for part in parts.values():
            problem = ""
            try:
                pq.ParquetFile(ledger.read(stage, part), page_checksum_verification=True).read()
                problem = _account(part)
            except CapfiltError as error:
                problem = error.evidence or error.what
            with suppress(OSError):  # a copy may be read-only
                ledger.suspect(stage, part.name, problem)
            yield stage, part.name, problem
            model = part.record.facts.get("model") if part.record else None
            if model:
                place = ledger.model(stage)
                found = tree_digest(place) if place.is_dir() else "missing"
                yield stage, f"models/{stage}", "" if found == model else f"digest {found[:12]}"
        yield from _unaccounted(ledger, stage)


def _account(part: Part) -> str:
    return "" if part.record is None or part.record.conserved else "its rows are not conserved"


def _unaccounted(ledger: Ledger, stage: str) -> Iterator[tuple[str, str, str]]:
    """Shards that the stage's totals name and that are not there."""
    totals = ledger.totals(stage)
    if totals is not None:
        for shard in sorted(set(totals.shards) - ledger.parts(stage).keys()):
            yield stage, f"shard {shard}", "its part is gone"
