"""Looking into a run: its stages, one stage's rows, one row's whole story, and whether every part is whole.

Storage only: works with Ray stopped, on a copy of the run, on another machine.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from obstore.exceptions import BaseError

from capfilt.data_contracts.errors import CapfiltError, SourceError, StorageError
from capfilt.data_contracts.identity import row_id
from capfilt.data_contracts.ledger import StageTotals
from capfilt.pipeline.ledger import lease
from capfilt.pipeline.ledger.commit_index import CommitIndex, Part
from capfilt.pipeline.ledger.ledger import Ledger, reader_of

BATCH = 10_000
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


class Files(NamedTuple):
    """Parquet files of the same columns: paths or urls, and the fsspec file system that opens urls."""

    paths: list[str]
    filesystem: Any = None


def files(ledger: Ledger, stage: str, *, rejects: bool = False) -> Files:
    """A stage's committed parts, or the rejects that belong to them; leftovers of dead attempts do not count."""
    home = ledger.home(stage)
    names = home.index(stage).table["rejects" if rejects else "name"].to_pylist()
    return Files([f"{home.url}/{stage}/{name}" for name in names if name], home.storage.fsspec)


def query(sql: str, files: Files, *parameters: Any, **others: Files) -> list[dict[str, Any]]:
    """Rows of a DuckDB query over the table ``files``, which has the column ``filename`` too; none without files.

    ``others`` are more tables, by their name; each has to have files.

    Raises:
        StorageError: a file is damaged, or the disk or the store does not answer.
    """
    return [row for batch in batches(sql, files, *parameters, **others) for row in batch.to_pylist()]


def batches(sql: str, files: Files, *parameters: Any, **others: Files) -> Iterator[pa.RecordBatch]:
    """The same as a stream, for more rows than memory holds."""
    if not files.paths:
        return
    with duckdb.connect() as connection:
        connection.execute("SET threads TO 2")
        tables, registered = [], set()
        for name, (paths, filesystem) in {"files": files, **others}.items():
            if filesystem is not None and filesystem.protocol not in registered:
                connection.register_filesystem(filesystem)
                registered.add(filesystem.protocol)
            names = ", ".join("'" + path.replace("'", "''") + "'" for path in paths)
            tables.append(f"{name} AS (FROM read_parquet([{names}], union_by_name = true, filename = true))")
        statement = f"WITH {', '.join(tables)} {sql}"
        try:
            yield from connection.sql(statement, params=list(parameters)).to_arrow_reader(BATCH)
        except (duckdb.Error, BaseError, OSError) as error:
            raise StorageError(
                what="files of the run cannot be read",
                # DuckDB passes on the traceback of a file system in Python, and obstore pages of details
                evidence=str(error).partition("Debug source:")[0].strip().splitlines()[-1].strip(),
                remedy="see that the disk or the store answers; capfilt verify RUN tells which file is damaged",
            ) from error


def sample(ledger: Ledger, stage: str, rows: int, *, rejects: bool = False) -> list[dict[str, Any]]:
    """The first rows of a stage, or of what left it; bytes as their length."""
    demand_stage(ledger, stage)
    found = query(
        f"SELECT * EXCLUDE (filename) FROM files LIMIT {int(rows)}", files(ledger, stage, rejects=rejects)
    )
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
        for rejects in (False, True):
            own = files(ledger, stage, rejects=rejects)
            columns = _columns(own)
            if "row_id" in columns:
                where = " OR ".join(f"{name} = $1" for name in IDS if name in columns)
                rows = query(f"SELECT DISTINCT row_id FROM files WHERE {where}", own, identifier)
                found |= {row["row_id"] for row in rows}
    return found


def _columns(files: Files) -> set[str]:
    """The columns of a stage's files, which all have the same."""
    first = files._replace(paths=files.paths[:1])
    return {row["column_name"] for row in query("SELECT column_name FROM (DESCRIBE FROM files)", first)}


def _stories(ledger: Ledger, stage: str, rows: Sequence[str]) -> Iterator[Story]:
    """One story for each part of the stage that has one of the rows, or whose rejects name one."""
    kept = _by_file(files(ledger, stage), rows)
    left = _by_file(files(ledger, stage, rejects=True), rows)
    index = ledger.index(stage)
    columns = (index.table[name].to_pylist() for name in ("shard", "name", "rejects"))
    for shard, name, rejects in zip(*columns, strict=True):
        own, gone = kept.get(name, []), left.get(str(rejects).rpartition("/")[2], []) if rejects else []
        if own or gone:
            record = index.part(shard).record
            yield Story(stage, own, gone, name, record.models if record else {})


def _by_file(files: Files, rows: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """What the files have of these rows, by the file's name; bytes as their length."""
    found: dict[str, list[dict[str, Any]]] = {}
    if "row_id" in _columns(files):
        for row in query("SELECT * FROM files WHERE list_contains(?, row_id)", files, list(rows)):
            name = row.pop("filename").rpartition("/")[2]
            found.setdefault(name, []).append({name: _short(value) for name, value in row.items()})
    return found


def verify(ledger: Ledger) -> Iterator[tuple[str, str, str]]:
    """Reread every committed part and model of the run: (stage, name, problem), problem empty when sound.

    What is damaged is noted in the run, so that a resume, which trusts names and sizes, mends it.
    """
    for stage in ledger.record().fingerprints:
        totals, index = ledger.look(stage)
        for name, problem in index.damaged.items():
            yield stage, name, problem
        for shard, (name, sha256) in index.held().items():
            problem = ""
            try:
                pq.ParquetFile(ledger.read(stage, name, sha256), page_checksum_verification=True).read()
                part = index.part(shard)
                problem = _account(ledger, stage, part)
                if digest := part.record and part.record.facts.get("model"):
                    found = ledger.model_digest(stage)
                    if found != digest:
                        problem = f"models/{stage} has digest {found[:12]} instead of {digest[:12]}"
            except CapfiltError as error:
                problem = error.evidence or error.what
            if problem:
                with suppress(CapfiltError):  # a copy may be read-only
                    ledger.suspect(stage, name, problem)
            yield stage, name, problem
        for shard in _unaccounted(totals, index):
            yield stage, f"shard {shard}", "its part is gone"


def _account(ledger: Ledger, stage: str, part: Part) -> str:
    """What is wrong with the account of a part's rows: those that left are told of in a file of their own."""
    record = part.record
    if record is None:
        return ""
    if not record.conserved:
        return "its rows are not conserved"
    left = record.left
    if not record.rejects:
        return f"it has no file of the {left} rejects" if left else ""
    try:
        data = ledger.home(stage).storage.read(f"{stage}/{record.rejects}")
        rows = pq.ParquetFile(reader_of(data), page_checksum_verification=True).read().num_rows
    except FileNotFoundError:
        return f"{record.rejects} is gone"
    except (pa.ArrowException, OSError) as error:
        return f"{record.rejects} cannot be read: {str(error).splitlines()[0]}"
    return "" if rows == left else f"{record.rejects} has {rows} rejects instead of {left}"


def _unaccounted(totals: StageTotals | None, index: CommitIndex) -> Iterator[str]:
    """Shards that the stage's totals name and that are not there."""
    if totals is not None:
        bad = {name.removeprefix("part-").partition(".")[0] for name in index.damaged}
        yield from (shard for shard in index.missing(totals.shards) if shard not in bad)


def visible(text: object) -> str:
    """What the web wrote without control characters, which must not reach a terminal; a fraction with 4 digits."""
    said = f"{text:.4f}" if isinstance(text, float) else str(text)
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in said)
