import hashlib
from pathlib import Path

import pytest

from capfilt.data_contracts.errors import RecipeError, SourceError
from capfilt.stages.ingest.fetch.takedown import TakeDownFile, read

SHA = hashlib.sha256(b"picture").hexdigest()


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    path = tmp_path / "takedown.txt"
    path.write_text(f"# asked for\nhttps://A.com/x.png#frag\n\nexample.org  # all of it\n{SHA.upper()}\n")
    return path


def test_urls_domains_and_bytes(listed: Path) -> None:
    found = read(str(listed))
    assert found.refuses("http://a.com/x.png")
    assert not found.refuses("http://a.com/y.png")
    assert not found.refuses("http://b.a.com/x.png")
    assert found.refuses("https://example.org/1")
    assert found.refuses("http://img.EXAMPLE.org:8080/1")
    assert not found.refuses("http://badexample.org/")
    assert not found.refuses("nothing")
    assert found.refuses_bytes(b"picture")
    assert not found.refuses_bytes(b"another")


def test_the_digest_is_of_the_entries(listed: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.txt"
    other.write_text(f"{SHA}\nexample.org\nhttp://a.com/x.png\n")
    assert read(str(other)).digest == read(str(listed)).digest
    other.write_text(f"{SHA}\nexample.org\n")
    assert read(str(other)).digest != read(str(listed)).digest


def test_a_list_that_changed_after_planning_is_refused(listed: Path) -> None:
    planned = TakeDownFile.of(str(listed))
    assert planned.load().refuses("http://example.org/")
    listed.write_text("other.org\n")
    with pytest.raises(SourceError, match="has changed"):
        planned.load()


@pytest.mark.parametrize("line", ["ftp://a.com/x", "a b", "http://"])
def test_a_line_that_is_nothing_is_refused(tmp_path: Path, line: str) -> None:
    path = tmp_path / "list"
    path.write_text(f"a.com\n{line}\n")
    with pytest.raises(RecipeError, match="line 2"):
        read(str(path))


def test_a_missing_list_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="cannot be read"):
        TakeDownFile.of(str(tmp_path / "none"))
