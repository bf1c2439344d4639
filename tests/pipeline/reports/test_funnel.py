import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from typer.testing import CliRunner

from capfilt.data_contracts.identity import pair_id
from capfilt.data_contracts.rejects import MEANING
from capfilt.pipeline.commands.cli import app
from capfilt.pipeline.ledger.ledger import Ledger
from capfilt.pipeline.reports import funnel, query, report, stages
from capfilt.pipeline.reports.explain import explain
from capfilt.pipeline.reports.show import show_funnel
from capfilt.pipeline.reports.verify import verify
from tests.pipeline.conftest import knowing_models
from tests.pipeline.local import plan_of, run, write_data
from tests.stages.rows import picture, png

THINGS = ["Acme toaster X200", "Red mountain bike", "Leather wallet", "Organic green tea", "Purple yoga mat"]
GOOD, SHOP = 12, 78


def crawl() -> list[dict[str, Any]]:
    """Urls of some hosts with what they gave: images, pages, halves, and one image for everything."""
    rows = [
        {"url": f"https://good.example/{n}.png", "image": png(n), "text": f"{n} a thing"} for n in range(GOOD)
    ]
    rows[1]["text"] = "IMG_1.jpg"
    rows[2]["text"] = "<br>"
    rows += [{"url": f"https://Bad.example/{n}", "image": b"<html>", "text": "a page"} for n in range(4)]
    rows += [
        {"url": f"https://bad.example:81/{n}", "image": png(n, 64)[:-40], "text": "cut"} for n in range(3)
    ]
    rows += [{"url": "https://bad.example/fine", "image": png(500), "text": "500 fine"}]
    rows += [{"url": f"http://u:p@so-so.example?{n}", "image": png(n, 2), "text": "dot"} for n in range(2)]
    shop = [f"{SHOP} {thing}" for thing in THINGS]  # the filter would keep them
    return rows + [
        {"url": f"https://shop.example/{n}", "image": png(SHOP), "text": text} for n, text in enumerate(shop)
    ]


@pytest.fixture(scope="module")
def crawled(tmp_path_factory: pytest.TempPathFactory, blip_filter: Path, blip_captioner: Path) -> Ledger:
    folder = tmp_path_factory.mktemp("crawled")
    write_data(folder)
    pq.write_table(pa.Table.from_pylist(crawl()), folder / "crawl.parquet", row_group_size=7)
    changes = {"web": {"format": "parquet", "path": str(folder / "crawl.parquet")}}
    models = {"filter": blip_filter, "captioner": blip_captioner}
    with knowing_models():
        return run(plan_of(folder, models, **changes, images={"placeholder": 5}))


def test_the_funnel_of_a_crawl(crawled: Ledger) -> None:
    found = funnel.build(crawled)
    assert json.loads(json.dumps(found)) == found
    assert (found["units_in"], found["kept"]) == (len(crawl()), GOOD + 1 + len(THINGS))
    assert found["rejected"] == [
        {"reason": reason, "count": count, "meaning": MEANING[reason]}
        for reason, count in (("not_image", 4), ("unreadable", 3), ("too_small", 2))
    ]
    assert found["hosts"] == [
        {"host": "bad.example", "left": 7, "mostly": "not_image", "kept": 1},
        {"host": "so-so.example", "left": 2, "mostly": "too_small", "kept": 0},
    ]
    assert [row["host"] for row in funnel.build(crawled, hosts=1)["hosts"]] == ["bad.example"]
    pictures = [
        row["image"] for row in crawl() if len(row["image"]) > 10 and png(0)[:24] == row["image"][:24]
    ]
    assert len(pictures) == found["kept"]
    sizes = found["sizes"]
    assert sizes["formats"] == {"PNG": found["kept"]}
    assert sizes["width"] == sizes["height"] == [8, 8, 8]
    assert sizes["bytes_in_all"] == sum(map(len, pictures))
    assert sizes["bytes"][1] in set(map(len, pictures))


def test_texts_that_left_are_counted_apart_and_their_images_stay(crawled: Ledger) -> None:
    texts = funnel.build(crawled)["texts"]
    assert (texts["kept"], texts["images_without"]) == (GOOD - 2 + 1 + len(THINGS), 2)
    assert {row["reason"]: row["count"] for row in texts["rejected"]} == {
        "text_file_name": 1,
        "empty_text": 1,
    }
    (ingest,) = (stage for stage in report.build(crawled)["stages"] if stage["stage"] == "ingest")
    assert ingest["texts_rejected"] == {"text_file_name": 1, "empty_text": 1}
    assert ingest["units_in"] == ingest["kept"] + sum(ingest["rejected"].values())
    assert not [problem for _, _, problem in verify(crawled) if problem]
    image = picture(1).image_id
    stories = {story.stage: story for story in explain(crawled, pair_id(image, "IMG_1.jpg"))}
    assert [reject["unit"] for reject in stories["ingest"].rejects] == ["text"]
    assert [row["text"] for row in stories["export"].rows] == ["1 seen 0"]


def test_verify_misses_a_text_that_left_without_a_trace(crawled: Ledger, tmp_path: Path) -> None:
    import shutil

    copy = Ledger(shutil.copytree(crawled.storage.path, tmp_path / "run"))
    part = next(
        part for part in copy.index("ingest").parts().values() if part.record and part.record.texts_rejected
    )
    assert part.record is not None
    path = copy.storage.path / "ingest" / str(part.record.rejects)
    rejects = pq.read_table(path)
    pq.write_table(rejects.slice(1), path)
    assert [name for stage, name, problem in verify(copy) if problem] == [part.name]


def test_placeholders_are_captioned_beside_and_dropped_in_selection(crawled: Ledger) -> None:
    (found,) = query.query("SELECT * FROM files", query.files(crawled, "placeholders"))
    assert (found["image_id"], found["rows"], found["hosts"]) == (picture(SHOP).image_id, 5, 1)
    totals = stages.view(crawled, "select").totals
    judged = query.query(
        "SELECT pair_id FROM files WHERE image_id = ?", query.files(crawled, "score"), found["image_id"]
    )
    assert totals.rejected["placeholder"] == len(judged) > 5
    exported = query.query("SELECT DISTINCT image_id FROM files", query.files(crawled, "export"))
    assert found["image_id"] not in {row["image_id"] for row in exported}


def test_local_files_count_for_their_source(finished: Ledger) -> None:
    assert funnel.build(finished)["hosts"] == [{"host": "web", "left": 1, "mostly": "not_image", "kept": 9}]


def test_a_stage_that_has_not_run_has_an_empty_funnel(world: Any) -> None:
    ledger = run(world.plan(), "list_web")
    found = funnel.build(ledger)
    assert (found["units_in"], found["rejected"], found["hosts"], found["sizes"]) == (0, [], [], {})
    show_funnel(found, Console(file=io.StringIO()))


def test_inspect_shows_the_funnel_and_leaves_other_stages_as_they_are(crawled: Ledger) -> None:
    def said(*words: str) -> str:
        result = CliRunner().invoke(app, ["inspect", str(crawled.storage.path), *words])
        assert result.exit_code == 0, result.output
        return result.output

    shown = said("ingest")
    for words in (
        "27 in, 18 kept",
        f"4 left as not_image: {MEANING['not_image']}",
        "1 texts left as text_file_name",
        "7 left of bad.example, 1 kept, mostly not_image",
        "texts: 16 kept, 2 images without one",
        "formats: 18 PNG",
    ):
        assert words in shown
    found = json.loads(said("ingest", "--json", "--rows", "2"))
    assert found["hosts"] == funnel.build(crawled)["hosts"]
    assert len(found["rows"]) == 2
    assert isinstance(json.loads(said("ingest", "--rejects", "--json")), list)
    assert isinstance(json.loads(said("score", "--json")), list)
    assert "bad.example" not in said("score")
