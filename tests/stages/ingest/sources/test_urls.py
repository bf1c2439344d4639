import gzip
import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from capfilt.data_contracts.errors import SourceError
from capfilt.data_contracts.identity import row_id
from capfilt.data_contracts.rejects import Reason
from capfilt.stages.ingest.list_source import KINDS
from capfilt.stages.ingest.sources import urls
from capfilt.stages.ingest.sources.entries import BATCH
from capfilt.stages.ingest.sources.source import SourceSpec
from tests.stages.ingest.sources.listed import listed, texts

ROWS = [("http://a/1", "a dog"), ("https://b/2?x=1,2", 'a "cat", sleeping'), ("http://a/1", "ein Hund\u00e9")]
WANTED = {"http://a/1": ["a dog", "ein Hund\u00e9"], "https://b/2?x=1,2": ['a "cat", sleeping']}


def spec_of(path: Path, **more: Any) -> SourceSpec:
    return SourceSpec("web", "urls", str(path), **more)


def zstd(path: Path, data: bytes) -> None:
    with pa.output_stream(str(path), compression="zstd") as file:
        file.write(data)


def write(path: Path, rows: list[tuple[str, str]] = ROWS) -> Path:
    """A list in the format that its name says."""
    names = path.name.split(".")
    quoted = [(url, '"' + text.replace('"', '""') + '"') for url, text in rows]
    lines = {
        "csv": ["URL,TEXT", *(f'"{url}",{text}' for url, text in quoted)],
        "tsv": ["url\tcaption", *(f"{url}\t{text}" for url, text in rows)],
        "txt": [url for url, _ in rows],
        "jsonl": [json.dumps({"url": url, "alt": text}) for url, text in rows],
        "json": ["[", ",\n".join(json.dumps({"alt": text, "url": url}) for url, text in rows), "]"],
    }
    if "parquet" in names:
        pq.write_table(pa.table({"Url": [u for u, _ in rows], "Caption": [t for _, t in rows]}), path)
        return path
    data = ("\n".join(lines[names[1]]) + "\n").encode()
    match names[-1]:
        case "gz":
            path.write_bytes(
                gzip.compress(data[:20]) + gzip.compress(data[20:])
            )  # two members, as pigz makes
        case "zst":
            zstd(path, data)
        case _:
            path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    "ending", ["csv", "tsv", "jsonl", "json", "parquet", "csv.gz", "tsv.zst", "jsonl.gz", "json.gz"]
)
def test_every_format_says_the_same(tmp_path: Path, ending: str) -> None:
    rows, notes = listed(spec_of(write(tmp_path / f"list.{ending}")))
    assert {row["url"]: row["texts"] for row in rows} == WANTED
    assert [row["row_id"] for row in rows] == sorted(row_id("web", url) for url in WANTED)
    assert not notes


@pytest.mark.parametrize("ending", ["txt", "txt.gz"])
def test_a_url_a_line(tmp_path: Path, ending: str) -> None:
    assert texts(spec_of(write(tmp_path / f"list.{ending}"))) == {url: [] for url in WANTED}


def test_a_folder_of_lists_of_all_kinds_and_a_glob(tmp_path: Path) -> None:
    for number, ending in enumerate(("csv", "tsv", "jsonl", "json", "parquet")):
        (tmp_path / "sub").mkdir(exist_ok=True)
        write(tmp_path / "sub" / f"list.{ending}", [(f"http://{ending}/{number}", "t")])
    (tmp_path / "sub/part-9.csv").write_bytes(b"")  # as Spark leaves them
    (tmp_path / "sub/_SUCCESS").write_bytes(b"")
    assert len(texts(spec_of(tmp_path))) == 5
    assert set(texts(spec_of(tmp_path / "*/*.js*"))) == {"http://json/3", "http://jsonl/2"}
    assert listed(spec_of(tmp_path))[1] == ("1 empty files are left out; the first in part-9.csv",)


def test_conceptual_captions_without_a_header(tmp_path: Path) -> None:
    (tmp_path / "cc3m.tsv").write_text(
        'a very typical bus\thttp://a/1\n"a quote that never ends\thttp://a/2\n'
    )
    (tmp_path / "cc12m.tsv").write_text("https://b/1\tone\nhttps://b/2\ttwo\n")
    assert texts(spec_of(tmp_path)) == {
        "http://a/1": ["a very typical bus"],
        "http://a/2": ['"a quote that never ends'],
        "https://b/1": ["one"],
        "https://b/2": ["two"],
    }


def test_columns_that_the_recipe_names(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("url,link2,text,alt_de\nhttp://no,http://yes,no,ja\n")
    assert texts(spec_of(tmp_path / "a.csv", url_column="link2", text_column="alt_de")) == {
        "http://yes": ["ja"]
    }
    with pytest.raises(SourceError, match="no column 'none'"):
        listed(spec_of(tmp_path / "a.csv", url_column="none"))
    (tmp_path / "b.csv").write_text("url,words\nhttp://a,b\n")
    with pytest.raises(SourceError, match="recognised as text"):
        listed(spec_of(tmp_path / "b.csv"))


def test_urls_that_are_none(tmp_path: Path) -> None:
    lines = [
        *("http://ok/ with space?q=\u00e4#f", "  HTTPS://OK  ", "http://127.0.0.1:8080/a"),
        *("ftp://x/y", "data:image/png;base64,AAAA", "file:///etc/passwd", "javascript:alert(1)"),
        *(
            "//x/y",
            "example.com/a.jpg",
            "http://",
            "https:///x",
            "http:x",
            "http://a\x00b/c",
            "http://a/b\x07",
        ),
        *("", "   ", "\x00"),
    ]
    (tmp_path / "a.jsonl").write_text(
        "".join(json.dumps({"url": line, "text": "t"}) + "\n" for line in lines)
    )
    rows, notes = listed(spec_of(tmp_path / "a.jsonl"))
    reasons = {row["url"]: row["reason"] for row in rows}
    assert {url for url, reason in reasons.items() if reason is None} == {line.strip() for line in lines[:3]}
    assert {url for url, reason in reasons.items() if reason == Reason.SCHEME} == set(lines[3:7])
    assert {url for url, reason in reasons.items() if reason == Reason.BAD_URL} == {*lines[7:14], "\x00"}
    assert notes == ("2 rows without a url are left out; the first in a.jsonl line 15",)


def test_kept_columns_of_equal_urls_are_the_first_in_sorted_order(tmp_path: Path) -> None:
    lines = ["url,text,score,tag", "http://a,one,0.9,x", "http://a,two,0.1,y", "http://b,three,,"]
    (tmp_path / "a.csv").write_text("\n".join(lines))
    (tmp_path / "b.csv").write_text("\n".join([lines[0], *reversed(lines[1:])]))
    for name in ("a.csv", "b.csv"):
        rows, _ = listed(spec_of(tmp_path / name, keep_columns=("score", "tag")))
        assert {row["url"]: json.loads(row["extra"]) for row in rows} == {
            "http://a": {"score": "0.1", "tag": "y"},
            "http://b": {"score": "", "tag": ""},
        }
    with pytest.raises(SourceError, match="no column 'gone'"):
        listed(spec_of(tmp_path / "a.csv", keep_columns=("gone",)))


def test_kept_columns_of_parquet_keep_their_types(tmp_path: Path) -> None:
    table = pa.table(
        {"url": ["http://a"], "text": [["x", " y "]], "n": [3], "f": [float("inf")], "l": [[1, 2]]}
    )
    pq.write_table(table, tmp_path / "a.parquet")
    ((row,), _) = listed(spec_of(tmp_path / "a.parquet", keep_columns=("n", "f", "l")))
    assert row["extra"] == '{"n": 3, "f": null, "l": [1, 2]}'
    assert row["texts"] == ["x", "y"]


def test_parquet_of_other_types_and_broken_letters(tmp_path: Path) -> None:
    names = pa.array([b"http://a/\xe9", b"http://b", None, b""], pa.binary())
    words = pa.array(["x", "y", "x", None]).dictionary_encode()
    pq.write_table(pa.table({"url": names, "text": words}), tmp_path / "a.parquet")
    rows, notes = listed(spec_of(tmp_path / "a.parquet"))
    assert {row["url"]: row["texts"] for row in rows} == {"http://a/\u00e9": ["x"], "http://b": ["y"]}
    assert notes == ("2 rows without a url are left out; the first in a.parquet line 3",)
    lies = pa.StringArray.from_buffers(2, *pa.array([b"ok", b"\xff\xfe"], pa.binary()).buffers()[1:])
    pq.write_table(pa.table({"url": ["http://a", "http://b"], "text": lies}), tmp_path / "a.parquet")
    assert texts(spec_of(tmp_path / "a.parquet")) == {"http://a": ["ok"], "http://b": ["\u00ff\u00fe"]}


def test_more_rows_than_a_batch_and_one_url_in_all_of_them(tmp_path: Path) -> None:
    count = 3 * BATCH + 7
    rows = [(f"http://a/{number % (BATCH + 1)}", "same") for number in range(count)]
    rows += [("http://popular", f"{number % 50}") for number in range(count)]
    found = texts(spec_of(write(tmp_path / "a.csv", rows)))
    assert len(found) == BATCH + 2
    assert found.pop("http://popular") == sorted(map(str, range(50)))
    assert all(own == ["same"] for own in found.values())


CELLS = st.text(st.characters(codec="utf-8"), max_size=12)
LISTS = st.lists(
    st.tuples(st.sampled_from(["http://a", " http://b/\u00e4 ", "c", "", "ftp://d"]), CELLS), max_size=30
)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(LISTS, st.integers(1, 4), st.randoms(use_true_random=False))
def test_the_order_of_a_list_and_its_files_do_not_matter(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]], parts: int, draw: random.Random
) -> None:
    def jsonl(folder: Path, rows: list[tuple[str, str]], parts: int) -> list[dict[str, Any]]:
        for number in range(parts):
            own = rows[number::parts]
            lines = [json.dumps({"url": url, "text": text, "k": len(text)}) for url, text in own]
            (folder / f"{number}.jsonl").write_text("\n".join([*lines, '{"url": "http://z", "text": "z"}']))
        found, _ = listed(spec_of(folder, keep_columns=("k",)))
        return [{name: value for name, value in row.items() if name != "rows"} for row in found]

    one, other = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("other")
    mixed = draw.sample(rows, len(rows))
    found = jsonl(one, rows, 1)
    assert found == jsonl(other, mixed, parts)
    wanted: dict[str, set[str]] = {"http://z": {"z"}}
    for url, text in rows:
        if url.strip():
            folded = " ".join(text.split())
            wanted.setdefault(url.strip(), set()).update([folded] if folded else [])
    assert {row["url"]: row["texts"] for row in found} == {url: sorted(own) for url, own in wanted.items()}
    assert [row["row_id"] for row in found] == sorted(row_id("web", url) for url in wanted)


def test_what_cannot_be_read_at_all(tmp_path: Path) -> None:
    cases: dict[str, bytes] = {
        "cut.csv.gz": gzip.compress(b"url,text\n" + b"http://a,b\n" * 1000)[:-20],
        "not.csv.gz": b"url,text\n",
        "not.parquet": b"PAR1 not really",
        "object.json": b'{"url": ["http://a"], "text": ["b"]',
        "items.json": b"[1, 2]",
        "open.json": b'[{"url": "http://a", "text": "b"}',
        "none.jsonl": b"<html>\n</html>\n",
        "empty.csv": b"",
    }
    for name, data in cases.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(SourceError, match=r"cannot be read|is not a"):
            listed(spec_of(tmp_path / name))


def test_what_is_not_there_and_what_is_of_no_known_kind(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="there is no file to read"):
        urls.digest(spec_of(tmp_path / "none.csv"))
    with pytest.raises(SourceError, match="there is no file to read"):
        urls.digest(spec_of(tmp_path))
    (tmp_path / "a.xlsx").write_bytes(b"PK")
    with pytest.raises(SourceError, match="no kind of list that is known"):
        urls.digest(spec_of(tmp_path / "a.xlsx"))
    with pytest.raises(SourceError, match="not from a store"):
        urls.digest(replace(spec_of(tmp_path), path="s3://bucket/list.parquet"))


def test_the_digest_follows_the_content_not_the_place(tmp_path: Path) -> None:
    for ending in ("csv", "parquet"):
        for folder in ("one", "two"):
            (tmp_path / folder).mkdir(exist_ok=True)
            write(tmp_path / folder / f"a.{ending}")
        one, two = (spec_of(tmp_path / folder / f"a.{ending}") for folder in ("one", "two"))
        assert urls.digest(one) == urls.digest(two)
        write(tmp_path / "two" / f"a.{ending}", [*ROWS, ("http://new", "x")])
        assert urls.digest(one) != urls.digest(two)


def test_a_list_holds_no_bytes() -> None:
    assert [name for name, kind in KINDS.items() if kind.fetched] == ["urls"]
