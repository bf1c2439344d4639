"""Lists of urls with their texts, in text files or Parquet. They hold no bytes: their rows are fetched."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from capfilt.data_contracts.errors import SourceError
from capfilt.data_contracts.rejects import Reason
from capfilt.stages.ingest.sources import parquet, tables
from capfilt.stages.ingest.sources.columns import extras, strings, texts
from capfilt.stages.ingest.sources.digest import digest_of_files
from capfilt.stages.ingest.sources.entries import BATCH, ENTRY, Notes
from capfilt.stages.ingest.sources.source import LINK_COLUMNS, TEXT_COLUMNS, SourceSpec, choose, files

ENDINGS = (*tables.ENDINGS, ".parquet")
GOOD = r"(?i)^https?://[^/?#\s\x00-\x1f\x7f][^\x00-\x1f\x7f]*$"
OTHER_SCHEME = r"(?i)^[a-z][a-z0-9+-]*:"
NAMELESS = "rows without a url are left out"


def lists(spec: SourceSpec) -> dict[str, Path]:
    """The list's files by name. Raises :class:`SourceError` for one of which the name does not say what it is."""
    found = files(spec, ENDINGS)
    for path in found.values():
        if tables.ending(path) not in (*tables.READERS, ".parquet"):
            raise SourceError(
                what=f"source {spec.name}: {path} is no kind of list that is known",
                evidence=f"known by their endings: {', '.join((*tables.READERS, '.parquet'))}, "
                f"the texts also with {', '.join(tables.CODECS)}",
                remedy="rename it, or leave it out of the glob",
            )
    return found


def digest(spec: SourceSpec) -> str:
    """That of :func:`digest_of_files`; of a Parquet file its footer stands for it."""
    found = lists(spec)
    if all(tables.ending(path) == ".parquet" for path in found.values()):
        return parquet.digest_of_footers(found)
    return digest_of_files(found)


def entries(spec: SourceSpec, notes: Notes) -> Iterator[pa.RecordBatch]:
    """Every row with a url, in the order of the files."""
    found = lists(spec)
    for path in found.values():
        if len(found) > 1 and not path.stat().st_size:  # Spark writes such parts
            notes.add("empty files are left out", path.name)
            continue
        read = _parquet if tables.ending(path) == ".parquet" else _text
        for block in read(spec, path, notes):
            yield from _entries(spec, path, block, notes)


class _Chosen:
    """The columns that a file of the list has for a url, its text and what is kept."""

    def __init__(self, spec: SourceSpec, path: Path, names: list[str], *, keys_vary: bool) -> None:
        self.url = choose(spec.url_column, LINK_COLUMNS, names, str(path), "url_column")
        others = [name for name in names if name != self.url]
        bare = not spec.text_column and not others  # a list of nothing but urls
        self.text = "" if bare else choose(spec.text_column, TEXT_COLUMNS, others, str(path), "text_column")
        if not keys_vary:
            for name in spec.keep_columns:
                choose(name, (), names, str(path), "keep_columns")


def _text(spec: SourceSpec, path: Path, notes: Notes) -> Iterator[tables.Block]:
    chosen: _Chosen | None = None
    for block in tables.blocks(path, notes):
        if chosen is None:
            keys_vary = tables.ending(path) in (".json", ".jsonl", ".ndjson")
            chosen = _Chosen(spec, path, list(block.columns), keys_vary=keys_vary)
        absent = [None] * len(block.lines)
        own = {"url": chosen.url, "text": chosen.text}
        columns = {role: block.columns.get(name, absent) for role, name in own.items()}
        kept = {f".{name}": block.columns.get(name, absent) for name in spec.keep_columns}
        yield tables.Block({**columns, **kept}, block.lines)


def _parquet(spec: SourceSpec, path: Path, notes: Notes) -> Iterator[tables.Block]:
    with parquet.opened(path) as file:
        chosen = _Chosen(spec, path, file.schema_arrow.names, keys_vary=False)
        wanted = [name for name in (chosen.url, chosen.text, *spec.keep_columns) if name]
        done = 0
        for batch in file.iter_batches(BATCH, columns=list(dict.fromkeys(wanted))):
            rows = batch.num_rows
            columns = {
                "url": batch[chosen.url],
                "text": batch[chosen.text] if chosen.text else pa.nulls(rows, pa.string()),
            }
            kept = {f".{name}": batch[name] for name in spec.keep_columns}
            yield tables.Block({**columns, **kept}, range(done + 1, done + rows + 1))
            done += rows


def _entries(spec: SourceSpec, path: Path, block: tables.Block, notes: Notes) -> Iterator[pa.RecordBatch]:
    rows = len(block.lines)
    urls = pc.utf8_trim_whitespace(strings(block.columns["url"]))
    kept = {name: block.columns[f".{name}"] for name in spec.keep_columns}
    batch = pa.record_batch(
        {"url": urls, "texts": texts(block.columns["text"]), "extra": extras(kept, spec.keep_columns, rows)}
    )
    named = pc.fill_null(pc.not_equal(urls, ""), False)
    if lost := rows - (pc.sum(named).as_py() or 0):
        where = block.lines[int(np.argmin(named.to_numpy(zero_copy_only=False)))]
        notes.add(NAMELESS, f"{path.name} line {where}", lost)
        batch = batch.filter(named)
    problem, reason = _judged(batch["url"])
    nothing = {
        "place": pa.nulls(batch.num_rows, pa.string()),
        "size": pa.array(np.zeros(batch.num_rows, np.int64)),
        "group": pa.nulls(batch.num_rows, pa.string()),
        "problem": problem,
        "reason": reason,
    }
    columns = {name: batch[name] for name in batch.schema.names} | nothing
    yield pa.record_batch([columns[name] for name in ENTRY.names], schema=ENTRY)


def _judged(urls: pa.Array) -> tuple[pa.Array, pa.Array]:
    """What is wrong with each url, and the reason; nulls for the good ones."""
    bad = pc.invert(pc.match_substring_regex(urls, GOOD))
    if not pc.any(bad).as_py():
        return pa.nulls(len(urls), pa.string()), pa.nulls(len(urls), pa.string())
    other = pc.match_substring_regex(urls, OTHER_SCHEME)
    web = pc.match_substring_regex(urls, r"(?i)^https?:")
    scheme = pc.and_(other, pc.invert(web))
    says = pc.if_else(scheme, "neither http nor https", "no host, or a control character in it")
    reason = pc.if_else(scheme, str(Reason.SCHEME), str(Reason.BAD_URL))
    none = pa.scalar(None, pa.string())
    return pc.if_else(bad, says, none), pc.if_else(bad, reason, none)
