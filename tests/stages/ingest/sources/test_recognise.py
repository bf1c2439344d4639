from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from capfilt.data_contracts.errors import SourceError
from capfilt.stages.ingest.sources.recognise import format_of
from capfilt.stages.ingest.sources.source import SourceSpec


def found(path: Path, **more: Any) -> str:
    return format_of(SourceSpec("web", "urls", str(path), **more))


@pytest.mark.parametrize("name", ["a.csv", "a.TSV.gz", "a.txt", "a.json", "a.jsonl.zst", "a.ndjson"])
def test_lists(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    assert found(tmp_path / name) == "urls"
    assert found(tmp_path) == "urls"
    assert found(tmp_path / "a*") == "urls"


def test_parquet_with_images_and_without(tmp_path: Path) -> None:
    pq.write_table(pa.table({"URL": ["a"], "TEXT": ["b"]}), tmp_path / "list.parquet")
    assert found(tmp_path) == "urls"
    pq.write_table(pa.table({"url": ["a"], "Image": [b"b"]}), tmp_path / "list.parquet")
    assert found(tmp_path / "*.parquet") == "parquet"


def test_tars(tmp_path: Path) -> None:
    for name in ("0.tar", "1.tar"):
        (tmp_path / name).touch()
    assert found(tmp_path) == found(tmp_path / "*.tar") == "webdataset"


def test_captions_say_folder_or_coco(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    assert found(tmp_path, captions="x/captions.csv") == "folder"
    assert found(tmp_path, captions="x/captions.json") == "coco"
    (tmp_path / "captions.tsv").touch()
    assert found(tmp_path) == "folder"


def test_what_is_not_clear_is_refused_with_what_is_there(tmp_path: Path) -> None:
    for name in ("a.png", "b.jpg", "sub.csv", "x.tar", "README"):
        (tmp_path / name).touch()
    with pytest.raises(SourceError, match="not clear what") as caught:
        found(tmp_path)
    assert caught.value.evidence == "2 image, 1 .csv, 1 .tar"
    with pytest.raises(SourceError, match="not clear what") as caught:
        found(tmp_path / "README")
    assert caught.value.evidence == "1 without an ending"
    with pytest.raises(SourceError, match="no file to read"):
        found(tmp_path / "none")
    (tmp_path / "images").mkdir()
    (tmp_path / "images/a.png").touch()
    with pytest.raises(SourceError) as caught:
        found(tmp_path / "images")
    assert "caption table" in caught.value.remedy
