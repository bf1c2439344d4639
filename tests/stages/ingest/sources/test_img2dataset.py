"""On what img2dataset itself writes, of images that a server on loopback has and has not."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from capfilt.data_contracts.errors import SourceError
from capfilt.data_contracts.rejects import Reason
from capfilt.stages.ingest.sources import img2dataset
from capfilt.stages.ingest.sources.recognise import format_of
from capfilt.stages.ingest.sources.source import SourceSpec
from tests.stages.ingest.sources.listed import listed, read_all, texts
from tests.stages.rows import png

FETCH = """
import sys
from img2dataset import download, main


def here(processes_count, downloader, reader, *_):
    for shard in reader:
        downloader(shard)


class Mute:  # its logger is a process of its own; the statistics beside the shards come without
    def __init__(self, *_): ...
    def start(self): ...
    def join(self): ...


if __name__ == "__main__":
    main.LoggerProcess = Mute
    main.multiprocessing_distributor = here  # its pool would import everything once more for each format
    for output_format in sys.argv[3:]:
        download(
            url_list=sys.argv[1], output_folder=f"{sys.argv[2]}/{output_format}", output_format=output_format,
            input_format="parquet", url_col="url", caption_col="text", save_additional_columns=["score"],
            thread_count=2, number_sample_per_shard=3, disable_all_reencoding=True, encode_format="png",
            encode_quality=9, retries=0, timeout=5,
        )
"""
FORMATS = ("files", "webdataset", "parquet")


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("served")
    for number in range(3):
        (folder / f"{number}.png").write_bytes(png(number))
    (folder / "page.png").write_bytes(b"<html>")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()


@pytest.fixture(scope="module")
def output(server: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("img2dataset")
    names = ["0.png", "gone.png", "1.png", "page.png", "2.png"]
    rows = {
        "url": [f"{server}/{name}" for name in names],
        "text": [f" an image  of {name}" for name in names],
        "score": [number / 2 for number in range(5)],
    }
    pq.write_table(pa.table(rows), folder / "list.parquet")
    (folder / "fetch.py").write_text(FETCH)
    (folder / "out").mkdir()
    command = [sys.executable, "fetch.py", "list.parquet", str(folder / "out"), *FORMATS]
    silent = {
        **os.environ,
        "NO_ALBUMENTATIONS_UPDATE": "1",
    }  # it would look on the network for a newer version
    subprocess.run(command, cwd=folder, env=silent, check=True, capture_output=True, timeout=120)
    return folder / "out"


@pytest.fixture(params=FORMATS)
def written(request: pytest.FixtureRequest, output: Path) -> SourceSpec:
    return SourceSpec("web", "img2dataset", str(output / request.param), keep_columns=("score",))


def test_what_was_fetched_is_read_and_what_was_not_leaves_with_the_reason(
    written: SourceSpec, server: str
) -> None:
    rows, notes = listed(written)
    by_name = {row["url"].removeprefix(f"{server}/"): row for row in rows}
    assert {name: row["reason"] for name, row in by_name.items() if row["problem"]} == {
        "gone.png": Reason.HTTP_404,
    }
    assert "HTTP Error 404" in by_name["gone.png"]["problem"]
    there = {f"{number}.png": png(number) for number in range(3)} | {"page.png": b"<html>"}  # it did not look
    assert read_all(written) == {f"{server}/{name}": data for name, data in there.items()}
    assert texts(written)[f"{server}/1.png"] == ["an image of 1.png"]
    assert by_name["2.png"]["extra"] == '{"score": 2.0}'
    assert [row["group"] for row in rows] == ["00000"] * 3 + ["00001"] * 2
    assert not notes


def test_it_is_recognised(written: SourceSpec) -> None:
    assert format_of(written) == "img2dataset"


def test_a_image_that_has_gone_since(written: SourceSpec, server: str, tmp_path: Path) -> None:
    table = Path(written.path) / "00000.parquet"
    (tmp_path / "00000.parquet").write_bytes(table.read_bytes())
    rows, _ = listed(SourceSpec("web", "img2dataset", str(tmp_path)))
    sound = [row for row in rows if row["problem"] is None]
    if "png" in pq.read_schema(table).names:  # the images are in the table
        assert len(sound) == 2
    else:
        assert not sound
        assert {row["reason"] for row in rows} == {Reason.HTTP_404, Reason.MISSING}


def test_the_digest_sees_a_changed_table(written: SourceSpec, tmp_path: Path) -> None:
    table = pq.read_table(Path(written.path) / "00000.parquet")
    spec = SourceSpec("web", "img2dataset", str(tmp_path))
    pq.write_table(table, tmp_path / "00000.parquet")
    before = img2dataset.digest(spec)
    pq.write_table(table.slice(1), tmp_path / "00000.parquet")
    assert img2dataset.digest(spec) != before


def test_a_folder_that_it_did_not_write(tmp_path: Path) -> None:
    spec = SourceSpec("web", "img2dataset", str(tmp_path))
    with pytest.raises(SourceError, match="no output of img2dataset"):
        img2dataset.digest(spec)
    pq.write_table(pa.table({"url": ["a"]}), tmp_path / "00000.parquet")
    with pytest.raises(SourceError, match="is no table of img2dataset"):
        listed(spec)


@pytest.mark.parametrize(
    ("says", "reason"),
    [
        ("failed_to_download HTTP Error 404: Not Found", Reason.HTTP_404),
        ("failed_to_download HTTP Error 418: I'm a teapot", Reason.HTTP_OTHER),
        ("failed_to_download <urlopen error timed out>", Reason.TIMEOUT),
        ("failed_to_download <urlopen error [Errno -2] Name or service not known>", Reason.DNS),
        ("failed_to_download <urlopen error [Errno 111] Connection refused>", Reason.CONNECT),
        ("failed_to_resize image decoding error", Reason.UNREADABLE),
        ("failed_to_download something new", Reason.MISSING),
    ],
)
def test_what_its_messages_amount_to(says: str, reason: Reason) -> None:
    assert img2dataset._reason(says) is reason
