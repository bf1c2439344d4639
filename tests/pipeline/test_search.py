"""Index, search and labels by a model that knows what an image shows, and texts that would like to run."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from capfilt.data_contracts.errors import SourceError, UsageError
from capfilt.pipeline.ledger.ledger import Ledger
from capfilt.pipeline.reports import query
from capfilt.pipeline.search import build_index, gallery, index
from capfilt.pipeline.search.find import find
from tests.pipeline.conftest import World
from tests.pipeline.local import run
from tests.scenarios.command import here
from tests.stages.rows import FakeFilter, png


@pytest.fixture
def indexed(copied: Ledger) -> Ledger:
    """A finished run whose images 1 to 9 and texts are indexed."""
    here("index", copied.url, "--stage", "ingest")
    return copied


def searched(*arguments: object) -> list[dict[str, Any]]:
    found = json.loads(here("search", *arguments, "--stage", "ingest", "--json").out)
    assert isinstance(found, list)
    return found


def test_all_four_directions_find_what_is_nearest(indexed: Ledger, tmp_path: Path) -> None:
    (tmp_path / "four.png").write_bytes(png(4, 32))
    picture = ("--image", tmp_path / "four.png")
    assert searched(indexed.url, "--text", "4 things", "-k", "3")[0]["url"] == "4.png"
    assert searched(indexed.url, *picture, "--of", "images", "-k", "1")[0]["url"] == "4.png"
    assert searched(indexed.url, *picture, "-k", "1")[0]["text"] == "4 thing of web"
    by_text = searched(indexed.url, "--text", "4 of them", "--of", "texts", "-k", "1")
    assert by_text[0]["text"] == "4 thing of web"
    assert by_text[0]["similarity"] == pytest.approx(1, abs=1e-3)
    near = searched(indexed.url, "--text", "5 things", "-k", "3")
    assert {hit["url"] for hit in near} == {"4.png", "5.png", "6.png"}
    assert [hit["similarity"] for hit in near] == sorted((hit["similarity"] for hit in near), reverse=True)
    assert len(searched(indexed.url, "--text", "5", "-k", "500")) == 9


@pytest.mark.parametrize("stage", ["human", "caption", "score", "select", "export"])
def test_any_stage_with_images_can_be_searched(copied: Ledger, stage: str) -> None:
    facts = json.loads(here("index", copied.url, "--stage", stage, "--json").out)
    of = {"human": "human", "export": "export"}.get(stage, stage)
    rows = query.query("SELECT count(DISTINCT row_id) AS n FROM files", query.files(copied, of))
    assert facts["images"] == rows[0]["n"]
    assert facts["texts"] > 0
    assert facts["kinds"] == {"images": "SQfp16", "texts": "SQfp16"}
    hits = json.loads(here("search", copied.url, "--text", "2 dogs", "--stage", stage, "--json").out)
    assert hits


def test_what_the_run_embedded_is_not_embedded_again(world: World) -> None:
    ledger = run(world.plan(dedup={"similarity": 0.999999}), until="dedup")
    seen: list[int] = []

    class Counting(FakeFilter):
        def _directions(self, numbers: Any) -> Any:  # type: ignore[override]
            seen.append(len(numbers))
            return super()._directions(numbers)

    where = str(world.models["filter"])
    facts = build_index.build(ledger, "ingest", Counting(), where)
    assert (facts.images, facts.texts, sum(seen)) == (9, 9, 0)
    known = index.open_index(ledger, "ingest", "images").vectors()
    build_index.build(ledger, "ingest", Counting(), str(world.models["captioner"]))
    assert sum(seen) > 18
    again = index.open_index(ledger, "ingest", "images")
    assert np.allclose(np.sort(known, axis=0), np.sort(again.vectors(), axis=0))
    dropped = build_index.build(ledger, "dedup", FakeFilter(), where)
    assert dropped.images == 9


def test_an_index_of_many_has_lists_and_finds_the_same(
    indexed: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = searched(indexed.url, "--text", "5 things", "-k", "3")
    monkeypatch.setattr(build_index, "EXACT_UP_TO", 1)
    here("index", indexed.url, "--stage", "ingest")
    opened = index.open_index(indexed, "ingest", "images")
    assert opened.facts.kinds["images"].startswith("IVF")
    found = searched(indexed.url, "--text", "5 things", "-k", "3")
    assert [hit["url"] for hit in found] == [hit["url"] for hit in exact]


def test_what_cannot_be_searched_is_refused_with_a_remedy(
    copied: Ledger, tmp_path: Path, blip_filter: Path
) -> None:
    def says(*arguments: object, expect: int = 2) -> str:
        return here(*arguments, expect=expect).said

    assert "capfilt index" in says("search", copied.url, "--text", "a dog")
    assert "has no images to search" in says("index", copied.url, "--stage", "evaluate")
    assert "no stage 'slect'" in says("index", copied.url, "--stage", "slect")
    here("index", copied.url, "--stage", "ingest")
    on = ("--stage", "ingest")
    assert "one of --text and --image" in says("search", copied.url, *on)
    assert "nothing to search for" in says("search", copied.url, *on, "--text", "!!")
    (tmp_path / "no.png").write_bytes(b"no image")
    assert "cannot be searched for" in says("search", copied.url, *on, "--image", tmp_path / "no.png")
    other = shutil.copytree(blip_filter, tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "note": "another model"}))
    assert "made with another model" in says("search", copied.url, *on, "--text", "4", "--model", other)
    said = here("search", copied.url, *on, "--text", "4 " + "long " * 50)
    assert "its end was cut" in said.said


def test_an_index_that_is_damaged_or_of_an_older_state_says_so(indexed: Ledger) -> None:
    path = Path(indexed.url) / "_index" / "ingest"
    stale = json.loads((path / "index.json").read_text()) | {"state": "0" * 64}
    (path / "index.json").write_text(json.dumps(stale))
    assert (
        "has changed since it was indexed"
        in here("search", indexed.url, "--stage", "ingest", "--text", "4").said
    )
    opened = index.open_index(indexed, "ingest", "images")
    with pytest.raises(UsageError, match="of different models"):
        find(opened, np.ones((1, 3), np.float32), 1)
    (path / "index.json").write_text(json.dumps({**stale, "dim": 7}))
    with pytest.raises(UsageError, match="does not fit together"):
        index.open_index(indexed, "ingest", "images")
    (path / "images.faiss").write_bytes(b"nothing")
    with pytest.raises(UsageError, match="cannot be read"):
        index.open_index(indexed, "ingest", "images")


def test_a_stage_without_rows_yet_is_refused(world: World) -> None:
    ledger = run(world.plan(), until="ingest")
    with pytest.raises(SourceError, match="export has no rows yet"):
        build_index.build(ledger, "export", FakeFilter(), str(world.models["filter"]))


HOSTILE = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">\u202etxt.exe\x1b[31m"


def page(tmp_path: Path) -> Path:
    path = tmp_path / "page.html"
    hit = {"figure": "0.9", "text": HOSTILE, "url": "javascript:alert(1)", "row_id": "r"}
    gallery.write(path, HOSTILE, HOSTILE, [hit], {"r": gallery.thumbnail(png(5))}, gallery.thumbnail(png(6)))
    return path


def test_what_the_web_wrote_is_shown_and_never_run(tmp_path: Path) -> None:
    text = page(tmp_path).read_text("utf-8")
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert "\u202e" not in text
    assert "\x1b" not in text
    assert text.count("data:image/jpeg;base64,") == 2
    assert "default-src 'none'" in text


@pytest.mark.skipif(shutil.which("chromium") is None, reason="Chromium is not installed")
def test_a_browser_shows_it_and_runs_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            *("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"),
            *(f"--user-data-dir={tmp_path / 'profile'}", page(tmp_path).as_uri()),
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    title = done.stdout.partition("<title>")[2].partition("</title>")[0]
    assert "owned" in title  # the text itself
    assert title.startswith("&lt;script&gt;")
    assert "<script" not in done.stdout
    assert '<img src="x"' not in done.stdout


def test_search_writes_the_page_with_its_thumbnails(indexed: Ledger, tmp_path: Path) -> None:
    out = tmp_path / "found.html"
    here("search", indexed.url, "--stage", "ingest", "--text", "4 things", "-k", "2", "--html", out)
    assert out.read_text("utf-8").count("data:image/jpeg;base64,") == 2


def test_labels_of_a_run_and_of_files_and_how_right_they_are(
    indexed: Ledger, tmp_path: Path, blip_filter: Path
) -> None:
    table = tmp_path / "labels.csv"
    table.write_text("file,shows\n" + "".join(f"{n}.png,{'2' if n < 5 else '8'}\n" for n in range(1, 10)))
    labels = ("--labels", "2,8", "--template", "{} things", "--template", "{} of them")
    evaluated = ("--evaluate", "shows", "--table", table)
    found = json.loads(here("classify", indexed.url, "--stage", "ingest", *labels, *evaluated, "--json").out)
    said = {row["file"]: row["label"] for row in found["images"]}
    assert said["1.png"] == said["2.png"] == "2"
    assert said["9.png"] == said["8.png"] == "8"
    for row in found["images"]:
        assert sum(row["scores"].values()) == pytest.approx(1)
        assert row["probability"] == max(row["scores"].values())
    made = found["evaluation"]
    assert made["images"] == 9
    assert made["chance"] == 0.5
    assert made["majority"] == pytest.approx(5 / 9)
    assert made["accuracy"] == sum(made["confusion"][one][one] for one in "28") / 9 > 0.8
    shown = here("classify", indexed.url, "--stage", "ingest", *labels, *evaluated).said
    assert "chance 0.500" in shown
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/2.png").write_bytes(png(2))
    (tmp_path / "photos/no.png").write_bytes(b"no image")
    page = tmp_path / "labels.html"
    arguments = ("classify", tmp_path / "photos", *labels, "--model", blip_filter, *evaluated, "--html", page)
    by_hand = here(*arguments, "--json", expect=1)
    assert [row["label"] for row in json.loads(by_hand.out)["images"]] == ["2"]
    assert "no.png" in by_hand.err
    assert "data:image/jpeg" in page.read_text("utf-8")


def test_a_column_of_the_stage_can_be_the_truth(indexed: Ledger) -> None:
    arguments = ("classify", indexed.url, "--stage", "ingest", "--labels", "web,5")
    found = json.loads(here(*arguments, "--evaluate", "source_name", "--json").out)["evaluation"]
    assert (found["images"], found["majority"]) == (9, 1.0)
    assert "has no column 'nothing'" in here(*arguments, "--evaluate", "nothing", expect=2).said


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--labels", "dog"), "cannot be told apart"),
        (("--labels", "dog,dog"), "cannot be told apart"),
        (("--labels", "a,b", "--template", "an image"), "needs one place for the label"),
        (("--labels", "a,b", "--evaluate", "url"), "no image has a true label"),
    ],
)
def test_labels_that_mean_nothing_are_refused(indexed: Ledger, arguments: tuple[str, ...], says: str) -> None:
    assert says in here("classify", indexed.url, "--stage", "ingest", *arguments, expect=2).said


def test_files_need_a_model(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(1))
    assert "need a model" in here("classify", tmp_path / "a.png", "--labels", "a,b", expect=2).said
