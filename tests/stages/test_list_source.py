from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_contracts.errors import SourceError
from data_contracts.identity import row_id
from data_contracts.rejects import Reason
from stages.list_source import ListSource
from stages.memory import MemoryInput
from stages.sources.source import Listed, SourceSpec
from stages.stage import Rows
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


def urls(made: list[Rows]) -> dict[str, list[str]]:
    return {str(rows.shard): rows.kept["url"].to_pylist() for rows in made}


def test_shards_are_cut_by_bytes(tmp_path: Path) -> None:
    spec = folder(tmp_path / "web", {"a": 60, "b": 40, "c": 1, "d": 500, "e": 99})
    assert urls(listed(tmp_path, spec)) == {
        "0000000": ["a", "b"],
        "0000001": ["c"],
        "0000002": ["d"],  # larger than a shard: alone
        "0000003": ["e"],
    }


def test_the_numbers_go_on_over_the_sources_and_the_human_set_has_its_prefix(tmp_path: Path) -> None:
    specs = [folder(tmp_path / name, {"a": 60, "b": 60}, name=name) for name in ("one", "two")]
    made = listed(tmp_path, *specs, prefix="h")
    assert list(urls(made)) == ["h0000000", "h0000001", "h0000002", "h0000003"]
    rows = {row["row_id"] for part in made for row in part.kept.to_pylist()}
    assert rows == {row_id(source, file) for source in ("one", "two") for file in "ab"}


def test_what_is_missing_is_rejected_and_counted(tmp_path: Path) -> None:
    (rows,) = listed(tmp_path, folder(tmp_path / "web", {"a": 1}, missing=("gone",)))
    assert (rows.units, rows.kept.num_rows) == (2, 1)
    (reject,) = rows.rejected
    assert (reject.id, reject.reason, reject.unit) == (row_id("web", "gone"), Reason.MISSING, "image")
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
    assert caught.value.evidence == "0 listed; the list is empty"


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
    assert urls(made) == {"0000000": ["a0", "a1", "a2"], "0000001": ["b0", "b1", "b2"]}


PLACES = st.lists(st.tuples(st.integers(0, 150), st.sampled_from("ab")), min_size=1, max_size=20)


@given(PLACES, st.integers(1, 200))
def test_every_place_is_in_one_shard_in_order_and_no_shard_is_too_large(
    given: list[tuple[int, str]], target: int
) -> None:
    places = [Listed(str(n), [], "", size, group=group) for n, (size, group) in enumerate(given)]
    cut = list(ListSource((), target)._cut(places))
    assert [place for run in cut for place in run] == places
    assert all(run and len({place.group for place in run}) == 1 for run in cut)
    assert all(len(run) == 1 or sum(place.size for place in run) <= target for run in cut)
