import json
from pathlib import Path

import pytest

from capfilt.data_contracts.errors import SourceError
from capfilt.stages.ingest.sources import tables
from capfilt.stages.ingest.sources.entries import BATCH, Notes


def read(path: Path, data: bytes | str) -> tuple[dict[str, list[object]], tuple[str, ...]]:
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    columns: dict[str, list[object]] = {}
    notes = Notes()
    for block in tables.blocks(path, notes):
        for name, column in block.columns.items():
            assert len(column) == len(block.lines)
            columns.setdefault(name, []).extend(column)
    return columns, notes.lines()


def test_csv_as_its_rfc_has_it(tmp_path: Path) -> None:
    data = '\ufeffurl,text\r\nhttp://a,"one, ""two""\r\nthree"\r\n\r\nhttp://b,NULL\nhttp://c,'
    columns, notes = read(tmp_path / "a.csv", data)
    assert columns == {
        "url": ["http://a", "http://b", "http://c"],
        "text": ['one, "two"\r\nthree', "NULL", ""],
    }
    assert not notes


def test_a_quote_that_is_never_closed_costs_what_it_swallows_and_no_more(tmp_path: Path) -> None:
    rows = [f"http://a/{number},{'x' * 50}" for number in range(10_000)]
    rows[100] = 'http://a/100,"never closed'
    columns, notes = read(tmp_path / "a.csv", "url,text\n" + "\n".join(rows))
    assert len(columns["url"]) > 7_000  # csv's field limit is 128 KiB
    assert columns["url"][-1] == "http://a/9999"
    assert any("cannot be parsed" in note or "wrong number" in note for note in notes)


def test_letters_that_are_not_utf_8_nul_bytes_and_utf_16(tmp_path: Path) -> None:
    columns, notes = read(
        tmp_path / "a.csv", b"url,text\nhttp://a,caf\xe9 \x93x\x94\nhttp://b,na\xc3\xafve\x00\n"
    )
    assert columns["text"] == ["caf\u00e9 \u201cx\u201d", "na\u00efve\x00"]
    assert notes == ("1 lines that are not UTF-8 are read as Windows-1252; the first in a.csv line 2",)
    assert read(tmp_path / "a.csv", "url,text\nhttp://a,\u0436\n".encode("utf-16"))[0]["text"] == ["\u0436"]


def test_tabs_have_no_quotes_but_around_whole_cells(tmp_path: Path) -> None:
    data = 'url\ttext\nhttp://a\t"whole ""x"""\nhttp://b\t"open\nhttp://c\t5" screen "x"\nhttp://d\t"a" and "b"\n'
    assert read(tmp_path / "a.tsv", data)[0]["text"] == ['whole "x"', '"open', '5" screen "x"', '"a" and "b"']


def test_lines_that_cannot_be_parsed_are_counted_with_the_first(tmp_path: Path) -> None:
    lines = ['{"url": "http://a"}', "{", "", "[1]", "[" * 100_000, '{"url": "http://b", "text": ["x", null]}']
    columns, notes = read(tmp_path / "a.jsonl", "\n".join(lines))
    assert columns == {"url": ["http://a", "http://b"], "text": [None, ["x", None]]}
    assert notes == ("3 lines that cannot be parsed are left out; the first in a.jsonl line 2",)


def test_a_line_without_end_is_read_in_pieces(tmp_path: Path) -> None:
    columns, _ = read(tmp_path / "a.txt", "http://a\n" + "x" * (3 * tables.LONGEST) + "\nhttp://b\n")
    assert columns["url"][0] == "http://a\n"
    assert max(len(str(url)) for url in columns["url"]) == tables.LONGEST


@pytest.mark.parametrize("indent", [None, 2])
def test_a_json_list_larger_than_a_block_and_than_a_read(tmp_path: Path, indent: int | None) -> None:
    rows = [{"url": f"http://a/{number}", "text": "x" * 150, "n": [number]} for number in range(BATCH + 5)]
    columns, _ = read(tmp_path / "a.json", json.dumps(rows, indent=indent))
    assert columns["url"] == [row["url"] for row in rows]
    assert columns["n"][-1] == [BATCH + 4]


def test_a_json_file_may_have_an_object_a_line(tmp_path: Path) -> None:
    assert read(tmp_path / "a.json", '{"url": "http://a"}\n{"url": "http://b"}\n')[0]["url"] == [
        "http://a",
        "http://b",
    ]


@pytest.mark.parametrize(
    "data", ['[{"url": "a"}, {"url": "b" ]', '[{"url": "a"}', '[{"url": "a"} x]', "[", "[[1]]"]
)
def test_a_json_list_that_is_broken_is_not_half_read(tmp_path: Path, data: str) -> None:
    with pytest.raises(SourceError, match="cannot be read"):
        read(tmp_path / "a.json", data)


def test_a_broken_json_list_is_not_read_whole_to_find_that_out(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="cannot be read"):
        read(tmp_path / "a.json", '[{"url": ' + "x" * (40 * tables.LONGEST))
