"""The whole history of one row: what each stage made of it, and why it left."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from capfilt.data_contracts.errors import SourceError
from capfilt.data_contracts.identity import row_id
from capfilt.pipeline.ledger.ledger import Ledger
from capfilt.pipeline.reports.query import Files, columns, files, query, shorten

IDS = ("row_id", "image_id", "pair_id", "url", "id")


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
            names = columns(own)
            if "row_id" in names:
                where = " OR ".join(f"{name} = $1" for name in IDS if name in names)
                rows = query(f"SELECT DISTINCT row_id FROM files WHERE {where}", own, identifier)
                found |= {row["row_id"] for row in rows}
    return found


def _stories(ledger: Ledger, stage: str, rows: Sequence[str]) -> Iterator[Story]:
    """One story for each part of the stage that has one of the rows, or whose rejects name one."""
    kept = _by_file(files(ledger, stage), rows)
    left = _by_file(files(ledger, stage, rejects=True), rows)
    index = ledger.index(stage)
    lists = (index.table[name].to_pylist() for name in ("shard", "name", "rejects"))
    for shard, name, rejects in zip(*lists, strict=True):
        own, gone = kept.get(name, []), left.get(str(rejects).rpartition("/")[2], []) if rejects else []
        if own or gone:
            record = index.part(shard).record
            yield Story(stage, own, gone, name, record.models if record else {})


def _by_file(files: Files, rows: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """What the files have of these rows, by the file's name; bytes as their length."""
    found: dict[str, list[dict[str, Any]]] = {}
    if "row_id" in columns(files):
        for row in query("SELECT * FROM files WHERE list_contains(?, row_id)", files, list(rows)):
            name = row.pop("filename").rpartition("/")[2]
            found.setdefault(name, []).append({name: shorten(value) for name, value in row.items()})
    return found
