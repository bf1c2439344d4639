import hashlib
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capfilt.data_contracts.errors import SourceError, StorageError
from capfilt.data_contracts.identity import row_id
from capfilt.stages.ingest.sources import join
from capfilt.stages.ingest.sources.entries import BATCH, ENTRY, Listed, batched
from capfilt.stages.ingest.sources.join import joined


def rows_of(listed: list[Listed], scratch: Path, *, by_id: bool) -> list[dict[str, Any]]:
    tables = joined("web", batched(listed), scratch, 2, by_id=by_id)
    return [row for table in tables for row in table.to_pylist()]


@given(
    name=st.text(st.characters(codec="utf-8"), max_size=8),
    url=st.text(st.characters(codec="utf-8"), min_size=1),
)
@settings(max_examples=50)
def test_duckdb_gives_the_row_id_that_identity_gives(
    tmp_path_factory: pytest.TempPathFactory, name: str, url: str
) -> None:
    entries = batched([Listed(url, [], "", 0)])
    (table,) = joined(name, entries, tmp_path_factory.getbasetemp(), 1, by_id=True)
    assert table["row_id"].to_pylist() == [row_id(name, url)]


ROWS = st.lists(
    st.tuples(
        st.sampled_from("abcd"), st.lists(st.sampled_from("tuvw"), max_size=3), st.sampled_from([None, "bad"])
    ),
    max_size=40,
)


@given(ROWS)
@settings(max_examples=50)
def test_by_place_the_first_row_that_can_be_used_wins_and_all_texts_join(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, list[str], str | None]]
) -> None:
    listed = [Listed(url, texts, str(n), n, problem=bad) for n, (url, texts, bad) in enumerate(rows)]
    found = rows_of(listed, tmp_path_factory.getbasetemp(), by_id=False)
    chosen = {
        url: min((row.problem is not None, row.size, row) for row in listed if row.url == url)[2]
        for url in {row.url for row in listed}
    }
    assert [(row["url"], row["place"], row["problem"]) for row in found] == [
        (row.url, row.place, row.problem) for row in sorted(chosen.values(), key=lambda row: row.size)
    ]
    for row in found:
        own = sorted(
            (one for one in listed if one.url == row["url"]),
            key=lambda one: (one.problem is not None, one.size),
        )
        assert row["texts"] == list(dict.fromkeys(text for one in own for text in one.texts))
        assert row["rows"] == len(own)


def test_what_a_source_raises_comes_out_as_it_is(tmp_path: Path) -> None:
    def entries():
        yield next(batched([Listed("a", [], "", 0)]))
        raise SourceError(what="no more", evidence="e", remedy="r")

    with pytest.raises(SourceError, match="no more"):
        list(joined("web", entries(), tmp_path, 1, by_id=True))


def test_nothing_listed_is_nothing(tmp_path: Path) -> None:
    assert rows_of([], tmp_path, by_id=True) == []
    assert rows_of([], tmp_path, by_id=False) == []


def test_what_does_not_fit_into_memory_is_sorted_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(join, "MEMORY", 1)
    draw = random.Random(0)

    def entries():
        for number in range(50):
            urls = [f"{number}-{row}-{draw.random()}" for row in range(BATCH)]
            columns = {name: pa.nulls(BATCH, ENTRY.field(name).type) for name in ENTRY.names}
            columns |= {"url": pa.array(urls), "texts": pa.array([["x" * 200]] * BATCH)}
            yield pa.record_batch([columns[name] for name in ENTRY.names], schema=ENTRY)

    seen, spilled = 0, 0
    last = ""
    for table in joined("web", entries(), tmp_path, 1, by_id=True):
        spilled = max(spilled, sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file()))
        ids = table["row_id"].to_pylist()
        assert [last, *ids] == sorted([last, *ids])
        last = ids[-1]
        seen += len(ids)
    assert seen == 50 * BATCH
    assert spilled > 10_000_000


def test_no_room_on_the_disk_is_told_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "sorting").write_text("a file where the folder for sorting would be")

    def entries():
        for number in range(60):
            urls = [hashlib.sha256(f"{number} {row}".encode()).hexdigest() * 4 for row in range(BATCH)]
            columns = {name: pa.nulls(BATCH, ENTRY.field(name).type) for name in ENTRY.names}
            columns |= {"url": pa.array(urls), "texts": pa.array([["x" * 200]] * BATCH)}
            yield pa.record_batch([columns[name] for name in ENTRY.names], schema=ENTRY)

    with pytest.raises(StorageError, match="source web cannot be sorted") as caught:
        list(joined("web", entries(), tmp_path, 1, by_id=True))
    assert str(tmp_path) in caught.value.remedy
