import gzip
import os
import shutil
from pathlib import Path

import pytest

from capfilt.data_contracts.errors import SourceError
from capfilt.stages.ingest.sources import folder
from capfilt.stages.ingest.sources.source import SourceSpec
from tests.stages.ingest.sources.listed import listed, read_all, texts


def write(
    directory: Path, table: str | bytes, name: str = "captions.csv", images: tuple[str, ...] = ()
) -> SourceSpec:
    directory.mkdir(exist_ok=True)
    (directory / name).write_bytes(table if isinstance(table, bytes) else table.encode())
    for image in images:
        (directory / image).parent.mkdir(parents=True, exist_ok=True)
        (directory / image).write_bytes(image.encode())
    return SourceSpec("web", "folder", str(directory))


def test_a_file_may_have_several_texts_and_the_order_is_the_tables(tmp_path: Path) -> None:
    spec = write(
        tmp_path,
        "file,text\nb.png,one\nsub/a.png,two\nb.png,three\nb.png,one\n",
        images=("b.png", "sub/a.png"),
    )
    rows, _ = listed(spec)
    assert [(row["url"], row["texts"], row["size"], row["problem"]) for row in rows] == [
        ("b.png", ["one", "three"], 5, None),
        ("sub/a.png", ["two"], 9, None),
    ]
    assert read_all(spec) == {"b.png": b"b.png", "sub/a.png": b"sub/a.png"}


def test_a_file_that_is_not_there_and_one_outside_the_folder(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(b"s")
    table = f"file,text\ngone.png,a\n../secret.png,b\n{tmp_path}/secret.png,c\nsub/../../secret.png,d\n"
    rows, _ = listed(write(tmp_path / "web", table))
    assert {row["url"]: row["problem"] for row in rows} == {
        "gone.png": "the caption table names a file that is not there",
        "../secret.png": "the caption table names a file outside the folder",
        f"{tmp_path}/secret.png": "the caption table names a file outside the folder",
        "sub/../../secret.png": "the caption table names a file outside the folder",
    }


def test_quotes_newlines_and_words_that_look_like_nothing_stay_text(tmp_path: Path) -> None:
    table = 'file,text\na,"one, ""two""\nthree"\nb,null\nc,NA\nd,12\ne,\n'
    assert texts(write(tmp_path, table)) == {
        "a": ['one, "two" three'],
        "b": ["null"],
        "c": ["NA"],
        "d": ["12"],
        "e": [],
    }


@pytest.mark.parametrize("header", ["\ufefffile,text", '"file","text"', "FILE,Caption", "image,alt"])
def test_headers_as_programs_write_them(tmp_path: Path, header: str) -> None:
    assert texts(write(tmp_path, f"{header}\r\n007,a dog\r\n")) == {"007": ["a dog"]}


def test_rows_with_the_wrong_number_of_columns_are_left_out_and_counted(tmp_path: Path) -> None:
    spec = write(tmp_path, "file,text\na,one\nb,two,three\nc\nd,four\n")
    assert texts(spec) == {"a": ["one"], "d": ["four"]}
    assert listed(spec)[1] == (
        "2 rows with the wrong number of columns are left out; the first in captions.csv line 3",
    )


def test_tabs(tmp_path: Path) -> None:
    assert texts(write(tmp_path, "file\ttext\na\tone, two\n", "captions.tsv")) == {"a": ["one, two"]}


def test_json_lines(tmp_path: Path) -> None:
    table = '{"file": "a", "text": "one\u2028line"}\n\n{"text": "two", "file": "b", "more": 1}\n'
    assert texts(write(tmp_path, table, "captions.jsonl")) == {"a": ["one line"], "b": ["two"]}


def test_json_lines_with_lists_numbers_and_absent_keys(tmp_path: Path) -> None:
    table = (
        '{"file": "a"}\n{"file": "b", "captions": ["one", "two", null]}\n{"file": "c", "captions": null}\n'
    )
    assert texts(write(tmp_path, table, "captions.jsonl")) == {"a": [], "b": ["one", "two"], "c": []}
    assert texts(write(tmp_path, '{"file": 7, "text": 8}\n', "captions.jsonl")) == {"7": ["8"]}


@pytest.mark.parametrize(
    ("name", "table"),
    [
        ("captions.csv", b""),
        ("captions.jsonl", b'{"file": "a", "te\n'),
        ("captions.jsonl", b"[1, 2]\n"),
        ("captions.jsonl", b'"text"\n'),
        ("captions.jsonl", b"\xff\n"),
        ("captions.jsonl", b""),
    ],
)
def test_a_table_that_cannot_be_read(tmp_path: Path, name: str, table: bytes) -> None:
    with pytest.raises(SourceError, match=f"the table .*{name} cannot be read"):
        listed(write(tmp_path, table, name))


def test_no_folder_and_no_table(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no such folder"):
        folder.digest(SourceSpec("web", "folder", str(tmp_path / "nowhere")))
    with pytest.raises(SourceError, match="needs a caption table") as caught:
        listed(SourceSpec("web", "folder", str(tmp_path)))
    assert all(name in caught.value.evidence for name in folder.TABLES)


def test_a_table_and_columns_that_the_recipe_names(tmp_path: Path) -> None:
    write(tmp_path, "file,text,title\na,one,two\n")
    write(tmp_path, "name,words\nb,three\n", "mine.csv")
    other = SourceSpec("web", "folder", str(tmp_path), str(tmp_path / "mine.csv"), "name", "words")
    assert texts(other) == {"b": ["three"]}
    assert texts(SourceSpec("web", "folder", str(tmp_path), text_column="title")) == {"a": ["two"]}


def test_images_that_the_table_does_not_name_are_counted(tmp_path: Path) -> None:
    spec = write(tmp_path, "file,text\na.png,one\n", images=("a.png", "b.JPG", "sub/c.webp", "readme.txt"))
    assert listed(spec)[1] == (f"2 images in {tmp_path} are not in captions.csv and are left out",)


def test_a_link_that_goes_round_in_circles(tmp_path: Path) -> None:
    spec = write(tmp_path, "file,text\na.png,one\n", images=("a.png",))
    os.symlink(tmp_path, tmp_path / "round")
    assert [row["problem"] for row in listed(spec)[0]] == [None]
    assert folder.digest(spec)


def test_a_copy_elsewhere_has_the_same_digest_and_a_changed_one_another(tmp_path: Path) -> None:
    spec = write(tmp_path / "here", "file,text\na.png,one\n", images=("a.png", "b.png"))
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    there = SourceSpec("web", "folder", str(tmp_path / "there"))
    assert folder.digest(spec) == folder.digest(there)
    seen = {folder.digest(spec)}
    (tmp_path / "there/a.png").write_bytes(b"longer than before")
    seen.add(folder.digest(there))
    (tmp_path / "there/captions.csv").write_text("file,text\na.png,two\n")
    seen.add(folder.digest(there))
    (tmp_path / "there/b.png").rename(tmp_path / "there/c.png")
    seen.add(folder.digest(there))
    assert len(seen) == 4


def test_other_columns_go_along(tmp_path: Path) -> None:
    write(tmp_path, "file,text,licence\na,one,CC0\na,two,BY\n")
    (row,), _ = listed(SourceSpec("web", "folder", str(tmp_path), keep_columns=("licence", "gone")))
    assert row["extra"] == '{"licence": "CC0", "gone": null}'


def test_a_compressed_table_elsewhere(tmp_path: Path) -> None:
    write(tmp_path / "web", "file,text\n", images=("a.png",))
    with gzip.open(tmp_path / "mine.tsv.gz", "wb") as file:
        file.write(b"image\tcaption\na.png\tone\n")
    spec = SourceSpec("web", "folder", str(tmp_path / "web"), str(tmp_path / "mine.tsv.gz"))
    assert texts(spec) == {"a.png": ["one"]}
