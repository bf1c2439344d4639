"""Tables in text files, a block of rows at a time: csv, tsv, txt, json, jsonl, and these compressed.

Nothing is sniffed but the encoding: a byte order mark says UTF-16, all else is UTF-8. A line that is not UTF-8 is
read as Windows-1252, as browsers do. CSV is RFC 4180. In TSV a quote is a letter, as in Conceptual Captions: a
caption that begins with one must not swallow the rows that follow; a cell that is quoted as a whole is unwrapped.
"""

import csv
import io
import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, TextIO

import pyarrow as pa

from capfilt.data_contracts.errors import SourceError
from capfilt.stages.ingest.sources.entries import BATCH, Notes

LONGEST = 1 << 20  # characters of a line: what is longer is read as several, so that memory is bounded
MOST = 16 * LONGEST  # characters of an object in a JSON list
CODECS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}
LINK = re.compile(r"\s*https?://", re.IGNORECASE)
RAGGED = "rows with the wrong number of columns are left out"
BROKEN = "lines that cannot be parsed are left out"
FOREIGN = "lines that are not UTF-8 are read as Windows-1252"


class Block(NamedTuple):
    """Some rows of a table: the columns by name, and each row's line in its file (the last one of several)."""

    columns: dict[str, Sequence[Any]]
    lines: Sequence[int]


def ending(path: Path) -> str:
    """What kind of table it is, by its name without any compression: `.csv` of `urls.csv.gz`."""
    name = path.name.lower()
    codec = next((codec for codec in CODECS if name.endswith(codec)), "")
    return Path(name.removesuffix(codec)).suffix


def blocks(path: Path, notes: Notes) -> Iterator[Block]:
    """The rows of a table in order; what cannot be parsed is counted in ``notes``.

    Raises:
        SourceError: when the file is empty, damaged, or not what its name says.
    """
    try:
        yield from READERS[ending(path)](path, notes)
    except (OSError, UnicodeError, csv.Error, ValueError, RecursionError) as error:
        raise SourceError(
            what=f"the table {path} cannot be read",
            evidence=str(error).splitlines()[0],
            remedy="it must be UTF-8: CSV or TSV with a header, JSON lines, a JSON list of objects, or a url a line",
        ) from error


@contextmanager
def _opened(path: Path, newline: str | None = None) -> Iterator[TextIO]:
    codec = CODECS.get(path.suffix.lower())
    with pa.input_stream(str(path), compression=codec) as raw:
        utf16 = raw.read(2) in (b"\xff\xfe", b"\xfe\xff")
    encoding, errors = ("utf-16", "strict") if utf16 else ("utf-8-sig", "surrogateescape")
    raw = pa.input_stream(str(path), compression=codec, buffer_size=1 << 20)
    with io.TextIOWrapper(raw, encoding, errors, newline) as text:
        yield text


def _lines(stream: TextIO, path: Path, notes: Notes) -> Iterator[str]:
    for number, line in enumerate(iter(partial(stream.readline, LONGEST), ""), 1):
        if not line.isascii():
            try:
                line.encode()
            except UnicodeEncodeError:
                notes.add(FOREIGN, f"{path.name} line {number}")
                yield line.encode("utf-8", "surrogateescape").decode("cp1252", "replace")
                continue
        yield line


def _delimited(path: Path, notes: Notes, delimiter: str) -> Iterator[Block]:
    tabs = delimiter == "\t"
    quoting: Literal[0, 3] = csv.QUOTE_NONE if tabs else csv.QUOTE_MINIMAL
    with _opened(path, newline="") as stream:
        reader = csv.reader(_lines(stream, path, notes), delimiter=delimiter, quoting=quoting)
        first = next(reader, [])
        if not first:
            raise ValueError("it is empty, or its first line is")
        names, rows, lines = _names(first), list[list[str]](), list[int]()
        if any(LINK.match(cell) for cell in first):
            rows, lines = [first], [1]
        while True:
            try:
                for row in reader:
                    if len(row) == len(names):
                        rows.append(row)
                        lines.append(reader.line_num)
                        if len(rows) == BATCH:
                            yield _transposed(names, rows, lines, tabs)
                            rows, lines = [], []
                    elif row:
                        notes.add(RAGGED, f"{path.name} line {reader.line_num}")
                break
            except csv.Error:  # a quote that is never closed; the reader goes on with the next line
                notes.add(BROKEN, f"{path.name} line {reader.line_num}")
        yield _transposed(names, rows, lines, tabs)


def _names(first: list[str]) -> list[str]:
    """The header; where the first row has a url in it there is none, and the columns are named by what they hold."""
    links = [number for number, cell in enumerate(first) if LINK.match(cell)]
    if not links:
        return [_unquoted(cell.strip()) for cell in first]
    names = [f"column{number}" for number in range(1, len(first) + 1)]
    names[links[0]] = "url"
    if len(names) == 2:
        names[1 - links[0]] = "text"
    return names


def _transposed(names: list[str], rows: list[list[str]], lines: list[int], tabs: bool) -> Block:
    columns = [list(column) for column in zip(*rows, strict=True)] or [[] for _ in names]
    if tabs:
        columns = [[_unquoted(cell) if cell[:1] == '"' else cell for cell in column] for column in columns]
    return Block(dict(zip(names, columns, strict=True)), lines)


def _unquoted(cell: str) -> str:
    """A cell of TSV without the quotes around it, if they are around it."""
    if cell[:1] == '"' == cell[-1:] and len(cell) > 1 and '"' not in cell[1:-1].replace('""', ""):
        return cell[1:-1].replace('""', '"')
    return cell


def _plain(path: Path, notes: Notes) -> Iterator[Block]:
    """A url a line."""
    with _opened(path) as stream:
        urls, lines = list[str](), list[int]()
        for number, line in enumerate(_lines(stream, path, notes), 1):
            if line.strip():
                urls.append(line)
                lines.append(number)
            if len(urls) == BATCH:
                yield Block({"url": urls}, lines)
                urls, lines = [], []
        yield Block({"url": urls}, lines)


def _json_lines(path: Path, notes: Notes) -> Iterator[Block]:
    """An object a line. Not every one needs every key; a value may be a list."""
    with _opened(path) as stream:
        rows, lines, done = list[dict[str, Any]](), list[int](), 0
        for number, line in enumerate(_lines(stream, path, notes), 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            if not isinstance(row, dict):
                notes.add(BROKEN, f"{path.name} line {number}")
                continue
            rows.append(row)
            lines.append(number)
            if len(rows) == BATCH:
                yield _by_key(rows, lines)
                rows, lines, done = [], [], done + BATCH
        if not rows and not done:
            raise ValueError("no line of it is a JSON object")
        yield _by_key(rows, lines)


def _json(path: Path, notes: Notes) -> Iterator[Block]:
    """A list of objects, or after all an object a line."""
    with _opened(path) as stream:
        start = stream.read(LONGEST).lstrip()[:1]
    if start != "[":
        yield from _json_lines(path, notes)
        return
    rows = list[dict[str, Any]]()
    done = 0
    for row in _items(path):
        rows.append(row)
        if len(rows) == BATCH:
            yield _by_key(rows, range(done + 1, done + BATCH + 1))
            done, rows = done + BATCH, []
    yield _by_key(rows, range(done + 1, done + len(rows) + 1))


def _items(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSON list, one after the other: the list is never whole in memory."""
    decoder, between = json.JSONDecoder(), re.compile(r"[\s,]*")
    with _opened(path) as stream:
        held = stream.read(LONGEST).lstrip()[1:]
        at = 0
        while True:
            found = between.match(held, at)
            at = found.end() if found else at
            if held[at : at + 1] == "]":
                return
            try:
                item, at = decoder.raw_decode(held, at)
            except ValueError:
                more = stream.read(LONGEST)
                if not more or len(held) - at > MOST:
                    raise
                held, at = held[at:] + more, 0
                continue
            if not isinstance(item, dict):
                raise ValueError(f"an item is no object: {json.dumps(item)[:80]}")
            yield item


def _by_key(rows: list[dict[str, Any]], lines: Sequence[int]) -> Block:
    names = dict.fromkeys(name for row in rows for name in row)
    return Block({name: [row.get(name) for row in rows] for name in names}, lines)


READERS: dict[str, Callable[[Path, Notes], Iterator[Block]]] = {
    ".csv": partial(_delimited, delimiter=","),
    ".tsv": partial(_delimited, delimiter="\t"),
    ".txt": _plain,
    ".json": _json,
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
}
ENDINGS = tuple(kind + codec for kind in READERS for codec in ("", *CODECS))
