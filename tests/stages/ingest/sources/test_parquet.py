import shutil
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from capfilt.data_contracts.errors import SourceError
from capfilt.stages.ingest.sources import parquet
from capfilt.stages.ingest.sources.entries import BATCH
from capfilt.stages.ingest.sources.source import SourceSpec
from tests.stages.ingest.sources.listed import listed, read_all, texts


def write(
    path: Path, rows: list[dict[str, Any]], group: int = 2, schema: pa.Schema | None = None
) -> SourceSpec:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema), path, row_group_size=group)
    return SourceSpec("web", "parquet", str(path))


def row(name: str, text: Any, **more: Any) -> dict[str, Any]:
    return {"url": name, "text": text, "image": name.encode() if name else b"", **more}


def test_every_url_has_its_texts_and_its_own_bytes_over_row_groups(tmp_path: Path) -> None:
    spec = write(tmp_path / "a.parquet", [row(name, f"text {name}") for name in "abcde"])
    assert texts(spec) == {name: [f"text {name}"] for name in "abcde"}
    assert read_all(spec) == {name: name.encode() for name in "abcde"}
    assert all(row["size"] > 0 for row in listed(spec)[0])


def test_reading_in_any_order(tmp_path: Path) -> None:
    spec = write(tmp_path / "a.parquet", [row(name, "t") for name in "abcde"])
    read, (rows, _) = parquet.reader(spec), listed(spec)
    for number in (4, 0, 3, 3, 1):
        assert read(rows[number]["place"]) == rows[number]["url"].encode()


def test_the_files_of_a_folder_keep_their_own_borders(tmp_path: Path) -> None:
    write(tmp_path / "sub/b.parquet", [row("b", "t")])
    write(tmp_path / "a.parquet", [row("a", "t")])
    spec = SourceSpec("web", "parquet", str(tmp_path))
    rows, _ = listed(spec)
    assert [(row["url"], row["group"]) for row in rows] == [("a", "a.parquet"), ("b", "sub/b.parquet")]
    assert read_all(spec)["b"] == b"b"
    assert list(read_all(SourceSpec("web", "parquet", str(tmp_path / "*.parquet")))) == ["a"]


def test_a_folder_and_a_file_whose_names_look_like_a_glob(tmp_path: Path) -> None:
    spec = write(tmp_path / "crawl[1]/a[2].parquet", [row("a", "t")])
    assert list(read_all(spec)) == ["a"]
    assert list(read_all(SourceSpec("web", "parquet", str(tmp_path / "crawl[1]")))) == ["a"]


def test_the_struct_that_datasets_writes(tmp_path: Path) -> None:
    rows = [{"image": {"bytes": name.encode(), "path": f"{name}.png"}, "caption": name} for name in "ab"]
    spec = write(tmp_path / "a.parquet", rows)
    assert texts(spec) == {"a.png": ["a"], "b.png": ["b"]}
    assert read_all(spec) == {"a.png": b"a", "b.png": b"b"}


def test_a_column_beside_the_struct_names_the_rows_when_it_is_recognised_or_named(tmp_path: Path) -> None:
    rows = [{"image": {"bytes": b"x", "path": "x.png"}, "caption": "c", "URL": "u", "number": 7}]
    spec = write(tmp_path / "a.parquet", rows)
    assert list(read_all(spec)) == ["u"]
    assert list(read_all(SourceSpec("web", "parquet", spec.path, url_column="number"))) == ["7"]


def test_lists_of_texts_and_repeated_urls_join(tmp_path: Path) -> None:
    rows = [row("a", ["one", " one", None]), row("b", []), row("a", ["two", "one"])]
    spec = write(tmp_path / "a.parquet", rows)
    assert texts(spec) == {"a": ["one", "two"], "b": []}
    assert [row["rows"] for row in listed(spec)[0]] == [2, 1]


def test_rows_without_a_url_are_left_out_and_counted(tmp_path: Path) -> None:
    rows, notes = listed(write(tmp_path / "a.parquet", [row("", "t"), row("a", "t")]))
    assert [row["url"] for row in rows] == ["a"]
    assert notes == ("1 rows have no url and are left out; the first in a.parquet",)


def test_an_image_that_is_null_reads_as_no_bytes(tmp_path: Path) -> None:
    rows = [{"url": "a", "text": "t", "image": None}, row("b", "t")]
    assert read_all(write(tmp_path / "a.parquet", rows)) == {"a": b"", "b": b"b"}


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([{"url": "a", "text": "t"}], "recognised as image"),
        ([{"url": "a", "image": b"x"}], "recognised as text"),
        ([{"text": "a", "image": b"x"}], "recognised as url"),
    ],
)
def test_columns_that_are_not_recognised(tmp_path: Path, rows: list[dict[str, Any]], says: str) -> None:
    with pytest.raises(SourceError, match=says):
        listed(write(tmp_path / "a.parquet", rows))


def test_no_file_and_a_file_that_is_no_parquet(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="there is no file to read"):
        parquet.digest(SourceSpec("web", "parquet", str(tmp_path)))
    (tmp_path / "a.parquet").write_text("no")
    with pytest.raises(SourceError, match="is not a Parquet file that can be read"):
        parquet.digest(SourceSpec("web", "parquet", str(tmp_path)))


def test_the_digest_follows_the_content_not_the_place(tmp_path: Path) -> None:
    spec = write(tmp_path / "here/a.parquet", [row("a", "one"), row("b", "two")])
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    there = SourceSpec("web", "parquet", str(tmp_path / "there"))
    assert parquet.digest(spec) == parquet.digest(there)
    size = Path(spec.path).stat().st_size
    write(tmp_path / "there/a.parquet", [row("a", "one"), row("b", "owt")])  # as long as before
    assert (tmp_path / "there/a.parquet").stat().st_size == size
    assert parquet.digest(spec) != parquet.digest(there)


def test_a_file_that_comes_while_the_run_goes_on_does_not_shift_the_places(tmp_path: Path) -> None:
    write(tmp_path / "b.parquet", [row("b", "t")])
    spec = SourceSpec("web", "parquet", str(tmp_path / "*.parquet"))
    (found,), _ = listed(spec)
    write(tmp_path / "a.parquet", [row("a", "t")])
    assert parquet.reader(spec)(found["place"]) == b"b"


def test_other_columns_go_along_and_must_be_there(tmp_path: Path) -> None:
    rows = [row("a", "t", score=0.5, when=date(2020, 1, 2), odd=float("nan"))]
    spec = replace(write(tmp_path / "a.parquet", rows), keep_columns=("score", "when", "odd"))
    assert listed(spec)[0][0]["extra"] == '{"score": 0.5, "when": "2020-01-02", "odd": null}'
    with pytest.raises(SourceError, match="no column 'gone'"):
        listed(replace(spec, keep_columns=("gone",)))


def test_many_rows_of_lists_in_one_row_group(tmp_path: Path) -> None:
    """More than a batch, so that Arrow gives slices of lists."""
    rows = [row(str(number), [f"{number}", "", None, f"{number}"]) for number in range(BATCH + 10)]
    spec = write(tmp_path / "a.parquet", rows, group=len(rows))
    assert texts(spec) == {str(number): [str(number)] for number in range(BATCH + 10)}
    read = parquet.reader(spec)
    assert read(listed(spec)[0][BATCH + 3]["place"]) == str(BATCH + 3).encode()
