import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_contracts.errors import SourceError
from stages.sources import parquet
from stages.sources.source import SourceSpec


def write(
    path: Path, rows: list[dict[str, Any]], group: int = 2, schema: pa.Schema | None = None
) -> SourceSpec:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema), path, row_group_size=group)
    return SourceSpec("web", "parquet", str(path))


def row(name: str, text: Any, **more: Any) -> dict[str, Any]:
    return {"url": name, "text": text, "image": name.encode() if name else b"", **more}


def read_all(spec: SourceSpec) -> dict[str, tuple[list[str], bytes]]:
    read = parquet.reader(spec)
    return {place.url: (place.texts, read(place.place)) for place in parquet.listing(spec).places}


def test_every_url_has_its_texts_and_its_own_bytes_over_row_groups(tmp_path: Path) -> None:
    spec = write(tmp_path / "a.parquet", [row(name, f"text {name}") for name in "abcde"])
    assert read_all(spec) == {name: ([f"text {name}"], name.encode()) for name in "abcde"}
    assert all(place.size > 0 for place in parquet.listing(spec).places)


def test_reading_in_any_order(tmp_path: Path) -> None:
    spec = write(tmp_path / "a.parquet", [row(name, "t") for name in "abcde"])
    read, places = parquet.reader(spec), parquet.listing(spec).places
    for number in (4, 0, 3, 3, 1):
        assert read(places[number].place) == places[number].url.encode()


def test_the_files_of_a_folder_keep_their_own_borders(tmp_path: Path) -> None:
    write(tmp_path / "sub/b.parquet", [row("b", "t")])
    write(tmp_path / "a.parquet", [row("a", "t")])
    spec = SourceSpec("web", "parquet", str(tmp_path))
    places = parquet.listing(spec).places
    assert [(place.url, place.group) for place in places] == [("a", "0"), ("b", "1")]
    assert read_all(spec)["b"] == (["t"], b"b")
    assert list(read_all(SourceSpec("web", "parquet", str(tmp_path / "*.parquet")))) == ["a"]


def test_a_folder_and_a_file_whose_names_look_like_a_glob(tmp_path: Path) -> None:
    spec = write(tmp_path / "crawl[1]/a[2].parquet", [row("a", "t")])
    assert list(read_all(spec)) == ["a"]
    assert list(read_all(SourceSpec("web", "parquet", str(tmp_path / "crawl[1]")))) == ["a"]


def test_the_struct_that_datasets_writes(tmp_path: Path) -> None:
    rows = [{"image": {"bytes": name.encode(), "path": f"{name}.png"}, "caption": name} for name in "ab"]
    assert read_all(write(tmp_path / "a.parquet", rows)) == {"a.png": (["a"], b"a"), "b.png": (["b"], b"b")}


def test_a_column_beside_the_struct_names_the_rows_when_it_is_recognised_or_named(tmp_path: Path) -> None:
    rows = [{"image": {"bytes": b"x", "path": "x.png"}, "caption": "c", "URL": "u", "number": 7}]
    spec = write(tmp_path / "a.parquet", rows)
    assert list(read_all(spec)) == ["u"]
    assert list(read_all(SourceSpec("web", "parquet", spec.path, url_column="number"))) == ["7"]


def test_lists_of_texts_and_repeated_urls_join(tmp_path: Path) -> None:
    rows = [row("a", ["one", " one", None]), row("b", []), row("a", ["two", "one"])]
    spec = write(tmp_path / "a.parquet", rows)
    listing = parquet.listing(spec)
    assert [(place.url, place.texts) for place in listing.places] == [("a", ["one", "two"]), ("b", [])]
    assert listing.notes == ("1 rows of source web repeat a url: their texts join the first",)


def test_rows_without_a_url_are_left_out_and_counted(tmp_path: Path) -> None:
    listing = parquet.listing(write(tmp_path / "a.parquet", [row("", "t"), row("a", "t")]))
    assert [place.url for place in listing.places] == ["a"]
    assert listing.notes == ("1 rows of source web have no url: left out",)


def test_an_image_that_is_null_reads_as_no_bytes(tmp_path: Path) -> None:
    rows = [{"url": "a", "text": "t", "image": None}, row("b", "t")]
    assert read_all(write(tmp_path / "a.parquet", rows)) == {"a": (["t"], b""), "b": (["t"], b"b")}


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
        parquet.listing(write(tmp_path / "a.parquet", rows))


def test_no_file_and_a_file_that_is_no_parquet(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no Parquet file"):
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
