import io
import json
import os
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from capfilt.data_contracts.errors import SourceError
from capfilt.data_contracts.rejects import Reason
from capfilt.stages.ingest.list_source import KINDS
from capfilt.stages.ingest.sources import webdataset
from capfilt.stages.ingest.sources.source import SourceSpec
from tests.stages.ingest.sources.listed import listed, read_all, texts


def write(path: Path, *members: tuple[str, bytes | str], format: int = tarfile.GNU_FORMAT) -> SourceSpec:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=format) as tar:
        for name, content in members:
            data = content if isinstance(content, bytes) else content.encode()
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return SourceSpec("web", "webdataset", str(path))


def about(**values: Any) -> str:
    return json.dumps(values)


def test_a_sample_is_what_has_the_same_key(tmp_path: Path) -> None:
    spec = write(
        tmp_path / "0.tar",
        *(("a.jpg", b"A"), ("a.txt", "one")),
        *(
            ("sub/b.x.caption", "not this"),
            ("sub/b.PNG", b"BB"),
            ("sub/b.json", about(caption=["two", "three"], w=5)),
        ),
        *(("c.txt", "of nothing"), ("d.webp", b"D")),
    )
    assert texts(spec) == {"0.tar/a.jpg": ["one"], "0.tar/sub/b.png": ["two", "three"], "0.tar/d.webp": []}
    assert read_all(spec) == {"0.tar/a.jpg": b"A", "0.tar/sub/b.png": b"BB", "0.tar/d.webp": b"D"}
    assert listed(spec)[1] == ("1 samples without an image are left out; the first in 0.tar: c",)
    kept = listed(replace(spec, keep_columns=("w",)))[0]
    assert [row["extra"] for row in kept] == ['{"w": null}', '{"w": 5}', '{"w": null}']


def test_the_url_in_the_json_names_the_row_and_equal_ones_join(tmp_path: Path) -> None:
    write(tmp_path / "0.tar", ("0.jpg", b"A"), ("0.json", about(url="http://a", caption="one", alt="x")))
    write(tmp_path / "1.tar", ("0.jpg", b"A"), ("0.json", about(url="http://a", caption="two", alt="y")))
    spec = SourceSpec("web", "webdataset", str(tmp_path))
    assert texts(spec) == {"http://a": ["one", "two"]}
    assert texts(replace(spec, text_column="alt")) == {"http://a": ["x", "y"]}
    assert set(texts(replace(spec, url_column="caption"))) == {"one", "two"}


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_the_formats_of_tar_with_long_and_foreign_names(tmp_path: Path, format: int) -> None:
    names = ["k" * 90 + "/" + "l" * 90 + ".jpg", "\u0436.jpg"]
    spec = write(tmp_path / "0.tar", *((name, name) for name in names), format=format)
    assert read_all(spec) == {f"0.tar/{name}": name.encode() for name in names}


def test_a_members_name_can_do_no_harm(tmp_path: Path) -> None:
    names = ["../../up.jpg", "/etc/passwd.jpg", "a\n\x1b[31m.jpg", "\udcff.jpg", ".jpg", "x:1:2.jpg"]
    with tarfile.open(tmp_path / "0.tar", "w", errors="surrogateescape") as tar:
        for number, name in enumerate(names):
            info = tarfile.TarInfo(name)
            info.size = 1
            tar.addfile(info, io.BytesIO(b"%d" % number))
        link = tarfile.TarInfo("link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        device = tarfile.TarInfo("device.jpg")
        device.type = tarfile.CHRTYPE
        tar.addfile(device)
    spec = SourceSpec("web", "webdataset", str(tmp_path / "0.tar"))
    assert sorted(read_all(spec).values()) == [b"0", b"1", b"2", b"3", b"4", b"5"]
    assert any("links and other members" in note and note.startswith("2 ") for note in listed(spec)[1])
    assert list(tmp_path.iterdir()) == [tmp_path / "0.tar"]


def test_a_key_that_comes_again_is_left_out_with_its_text(tmp_path: Path) -> None:
    spec = write(
        tmp_path / "0.tar",
        *(("a.jpg", b"first"), ("a.txt", "one"), ("b.jpg", b"B"), ("a.jpg", b"second"), ("a.txt", "two")),
    )
    assert texts(spec)["0.tar/a.jpg"] == ["one"]
    assert read_all(spec)["0.tar/a.jpg"] == b"first"
    assert listed(spec)[1] == ("1 samples repeat a key of their tar and are left out; the first in 0.tar: a",)


def test_a_key_that_comes_again_at_once_is_another_sample(tmp_path: Path) -> None:
    twice = (("k.jpg", b"A"), ("k.txt", "of A"), ("k.jpg", b"B"), ("k.txt", "of B"))
    spec = write(tmp_path / "0.tar", *twice)
    assert texts(spec) == {"0.tar/k.jpg": ["of A"]}
    assert read_all(spec)["0.tar/k.jpg"] == b"A"
    assert listed(spec)[1] == ("1 samples repeat a key of their tar and are left out; the first in 0.tar: k",)


def cut_at(path: Path, size: int) -> SourceSpec:
    os.truncate(path, size)
    return SourceSpec("web", "webdataset", str(path))


def test_a_tar_that_is_cut_off_anywhere_gives_what_is_whole(tmp_path: Path) -> None:
    members = [(f"{number}.jpg", bytes([number]) * 700) for number in range(4)]
    whole = write(tmp_path / "0.tar", *members)
    data = Path(whole.path).read_bytes()
    for size in range(1, 4 * 1536, 97):
        Path(whole.path).write_bytes(data)
        spec = cut_at(tmp_path / "0.tar", size)
        if size < 512:
            with pytest.raises(SourceError, match="is no tar"):
                listed(spec)
            continue
        rows, notes = listed(spec)
        sound = [row["url"] for row in rows if row["problem"] is None]
        entire = sum(size >= 1536 * number + 512 + 700 for number in range(4))
        assert sound == [f"0.tar/{number}.jpg" for number in range(entire)]
        assert all(row["reason"] == Reason.UNREADABLE for row in rows[entire:])
        assert read_all(spec) == {f"0.tar/{name}": content for name, content in members[:entire]}
        if size % 1536 and size % 1536 < 512 + 700:
            assert any("cut off" in note for note in notes), size


def test_a_tar_that_is_damaged_in_the_middle(tmp_path: Path) -> None:
    spec = write(tmp_path / "0.tar", *((f"{number}.jpg", b"x" * 100) for number in range(4)))
    data = bytearray(Path(spec.path).read_bytes())
    data[2048:2560] = os.urandom(512)
    Path(spec.path).write_bytes(data)
    rows, notes = listed(spec)
    assert [row["url"] for row in rows] == ["0.tar/0.jpg", "0.tar/1.jpg"]
    assert any("damaged" in note for note in notes)


def test_a_file_that_is_no_tar_or_a_compressed_one(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"<html>" * 1000)
    with pytest.raises(SourceError, match="is no tar"):
        listed(SourceSpec("web", "webdataset", str(tmp_path)))
    (tmp_path / "a.tar.gz").write_bytes(b"x")
    with pytest.raises(SourceError, match="is no plain tar"):
        webdataset.digest(SourceSpec("web", "webdataset", str(tmp_path / "*.gz")))
    (tmp_path / "b.tar").write_bytes(b"")
    assert listed(SourceSpec("web", "webdataset", str(tmp_path / "b.tar"))) == (
        [],
        ("1 tars are cut off or damaged: what is whole is listed, the rest left out; the first in b.tar",),
    )


def test_texts_that_are_too_long_and_json_that_is_none(tmp_path: Path) -> None:
    spec = write(
        tmp_path / "0.tar",
        *(("a.jpg", b"A"), ("a.txt", "x" * (webdataset.LARGEST + 1)), ("a.json", "[1]")),
        *(("b.jpg", b"B"), ("b.txt", b"caf\xe9"), ("b.json", "{" * 100)),
    )
    assert texts(spec) == {"0.tar/a.jpg": [], "0.tar/b.jpg": ["caf\ufffd"]}
    assert listed(spec)[1] == (
        "1 texts of more than 1 MiB are left out; the first in 0.tar: a",
        "2 JSON members that are no object are left out; the first in 0.tar: a",
    )


def test_every_tar_keeps_its_borders_and_the_reader_goes_from_one_to_the_other(tmp_path: Path) -> None:
    for number in range(3):
        write(tmp_path / f"sub/{number}.tar", ("a.jpg", f"{number}"), ("b.jpg", f"{number}b"))
    spec = SourceSpec("web", "webdataset", str(tmp_path))
    rows, _ = listed(spec)
    assert [row["group"] for row in rows] == [f"sub/{number}.tar" for number in (0, 0, 1, 1, 2, 2)]
    reader = KINDS["webdataset"].reader
    assert reader is not None
    read = reader(spec)
    assert [read(rows[number]["place"]) for number in (5, 0, 3, 2)] == [b"2b", b"0", b"1b", b"1"]
    (tmp_path / "sub/1.tar").unlink()
    read(rows[0]["place"])
    with pytest.raises(OSError, match=r"1\.tar"):
        read(rows[2]["place"])


def test_the_digest_sees_another_tar_and_a_longer_one(tmp_path: Path) -> None:
    spec = write(tmp_path / "0.tar", ("a.jpg", b"A"))
    whole = SourceSpec("web", "webdataset", str(tmp_path))
    seen = {webdataset.digest(whole), webdataset.digest(spec)}
    write(tmp_path / "0.tar", ("a.jpg", b"B"))
    seen.add(webdataset.digest(whole))
    write(tmp_path / "1.tar", ("a.jpg", b"B"))
    seen.add(webdataset.digest(whole))
    assert len(seen) == 3
