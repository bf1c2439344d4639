from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from capfilt.data_contracts.errors import SourceError
from capfilt.data_contracts.identity import row_id
from capfilt.data_contracts.rejects import Reason
from capfilt.stages.in_memory import MemoryInput
from capfilt.stages.ingest.list_source import ListSource, cut
from capfilt.stages.ingest.sources.source import SourceSpec
from capfilt.stages.stage import Rows
from tests.stages.rows import site


def folder(
    directory: Path, sizes: dict[str, int], missing: tuple[str, ...] = (), name: str = "web"
) -> SourceSpec:
    directory.mkdir()
    for file, size in sizes.items():
        (directory / file).write_bytes(b"x" * size)
    table = "".join(f"{file},text of {file}\n" for file in (*sizes, *missing))
    (directory / "captions.csv").write_text(f"file,text\n{table}")
    return SourceSpec(name, "folder", str(directory))


def listed(tmp_path: Path, *sources: SourceSpec, target: int = 100, prefix: str = "") -> list[Rows]:
    made = list(ListSource(sources, target, prefix).run(site(tmp_path), MemoryInput({})))
    assert all(isinstance(rows, Rows) for rows in made)
    return made


def shards(made: list[Rows]) -> dict[str, list[str]]:
    return {str(rows.shard): rows.kept["url"].to_pylist() for rows in made}


def test_shards_are_cut_by_bytes(tmp_path: Path) -> None:
    spec = folder(tmp_path / "web", {"a": 60, "b": 40, "c": 1, "d": 500, "e": 99})
    assert shards(listed(tmp_path, spec)) == {
        "0000000": ["a", "b"],
        "0000001": ["c"],
        "0000002": ["d"],  # larger than a shard: alone
        "0000003": ["e"],
    }


def test_the_numbers_go_on_over_the_sources_and_the_human_set_has_its_prefix(tmp_path: Path) -> None:
    specs = [folder(tmp_path / name, {"a": 60, "b": 60}, name=name) for name in ("one", "two")]
    made = listed(tmp_path, *specs, prefix="h")
    assert list(shards(made)) == ["h0000000", "h0000001", "h0000002", "h0000003"]
    rows = {row["row_id"] for part in made for row in part.kept.to_pylist()}
    assert rows == {row_id(source, file) for source in ("one", "two") for file in "ab"}


def test_what_is_missing_is_rejected_and_counted(tmp_path: Path) -> None:
    (rows,) = listed(tmp_path, folder(tmp_path / "web", {"a": 1}, missing=("gone",)))
    assert (rows.units, rows.kept.num_rows) == (2, 1)
    (reject,) = rows.rejected
    assert (reject.id, reject.reason, reject.unit) == (row_id("web", "gone"), Reason.MISSING, None)
    assert reject.detail == "gone: the caption table names a file that is not there"


def test_a_source_without_a_usable_row_is_refused(tmp_path: Path) -> None:
    good = folder(tmp_path / "good", {"a": 1}, name="good")
    with pytest.raises(SourceError, match="source web has no usable row") as caught:
        listed(tmp_path, good, folder(tmp_path / "web", {}, missing=tuple("abcd")))
    assert caught.value.evidence.startswith(
        "4 listed; a: the caption table names a file that is not there; b:"
    )
    (tmp_path / "web/captions.csv").write_text("file,text\n")
    with pytest.raises(SourceError) as caught:
        listed(tmp_path, SourceSpec("web", "folder", str(tmp_path / "web")))
    assert caught.value.evidence.startswith("0 listed; ")


def test_notes_go_with_the_first_shard_of_their_source(tmp_path: Path) -> None:
    spec = folder(tmp_path / "web", {"a": 99, "b": 99})
    (tmp_path / "web/c.png").write_bytes(b"x")
    first, second = listed(tmp_path, spec)
    assert (len(first.notes), second.notes) == (1, ())


def test_parquet_files_keep_their_own_borders(tmp_path: Path) -> None:
    (tmp_path / "web").mkdir()
    for name in "ab":
        table = pa.table({"url": [f"{name}{n}" for n in range(3)], "text": ["t"] * 3, "image": [b"x"] * 3})
        pq.write_table(table, tmp_path / "web" / f"{name}.parquet")
    made = listed(tmp_path, SourceSpec("web", "parquet", str(tmp_path / "web")), target=10**6)
    assert shards(made) == {"0000000": ["a0", "a1", "a2"], "0000001": ["b0", "b1", "b2"]}


def urls(path: Path, *rows: str, **more: Any) -> SourceSpec:
    path.write_text("url,text\n" + "".join(f"{row}\n" for row in rows))
    return SourceSpec("web", "urls", str(path), **more)


def test_a_list_of_urls_is_cut_by_rows_in_the_order_of_the_ids(tmp_path: Path) -> None:
    names = [f"http://a/{number}" for number in range(25)]
    spec = urls(tmp_path / "a.csv", *(f"{name},t" for name in names))
    made = list(ListSource((spec,), 1, rows=10).run(site(tmp_path), MemoryInput({})))
    assert [rows.units for rows in made] == [10, 10, 5]
    rows = [row for part in made for row in part.kept.to_pylist()]
    assert [row["url"] for row in rows] == sorted(names, key=lambda name: row_id("web", name))
    assert all(row["row_id"] == row_id("web", row["url"]) and row["place"] == row["url"] for row in rows)
    assert {row["size"] for row in rows} == {0}


def test_every_shard_conserves_its_units_and_repetitions_are_noted_at_the_end(tmp_path: Path) -> None:
    rows = [f"http://a/{number % 20},text {number}" for number in range(40)] + [
        "nonsense,t",
        "ftp://b/c,t",
        ",t",
    ]
    made = list(
        ListSource((urls(tmp_path / "a.csv", *rows),), 1, rows=8).run(site(tmp_path), MemoryInput({}))
    )
    assert all(part.units == part.kept.num_rows + len(part.rejected) for part in made)
    rejects = [reject for part in made for reject in part.rejected]
    assert {(reject.row_id, reject.reason) for reject in rejects} == {
        (row_id("web", "nonsense"), Reason.BAD_URL),
        (row_id("web", "ftp://b/c"), Reason.SCHEME),
    }
    assert sum(part.units or 0 for part in made) == 22
    assert made[0].notes == ("1 rows without a url are left out; the first in a.csv line 44",)
    assert made[-1].notes == ("20 rows of source web repeat a url: their texts join the first",)
    assert all(not part.notes for part in made[1:-1])


def test_a_list_without_one_good_url_is_refused_with_what_was_found(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no usable row") as caught:
        listed(tmp_path, urls(tmp_path / "a.csv", "dog.jpg,a dog", "cat.jpg,a cat", ",none"))
    assert caught.value.evidence.startswith("2 listed; ")
    assert "dog.jpg: no host" in caught.value.evidence
    assert "without a url" in caught.value.evidence


def test_kept_columns_are_in_the_occurrence(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("url,text,score\nhttp://a,t,1\n")
    spec = SourceSpec("web", "urls", str(tmp_path / "a.csv"), keep_columns=("score",))
    (rows,) = listed(tmp_path, spec)
    assert rows.kept["extra"].to_pylist() == ['{"score": "1"}']


PLACES = st.lists(st.tuples(st.integers(0, 150), st.sampled_from("ab")), min_size=1, max_size=20)


@given(PLACES, st.integers(1, 200), st.lists(st.integers(0, 20), max_size=3), st.booleans())
def test_every_place_is_in_one_shard_in_order_and_no_shard_is_too_large(
    given: list[tuple[int, str]], target: int, borders: list[int], by_rows: bool
) -> None:
    sizes, groups = zip(*given, strict=True)
    table = pa.table({"url": list(map(str, range(len(given)))), "size": sizes, "group": groups})
    edges = sorted({0, len(given), *(border for border in borders if border < len(given))})
    pieces = [table.slice(start, end - start) for start, end in pairwise(edges)]
    shards = list(cut(pieces, target, by_rows=by_rows))
    assert pa.concat_tables(shards) == table
    assert all(len(shard) and len(set(shard["group"].to_pylist())) == 1 for shard in shards)
    weights = [len(shard) if by_rows else sum(shard["size"].to_pylist()) for shard in shards]
    assert all(weight <= target or len(shard) == 1 for weight, shard in zip(weights, shards, strict=True))
    for one, after in pairwise(shards):  # none is smaller than it has to be
        first = after.slice(0, 1)
        more = 1 if by_rows else first["size"][0].as_py()
        full = (len(one) if by_rows else sum(one["size"].to_pylist())) + more > target
        assert full or first["group"][0] != one["group"][0]
