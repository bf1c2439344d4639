"""Whole runs that deduplicate, in this process."""

import csv
import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rich.console import Console

from capfilt.data_contracts.contract import Contract
from capfilt.data_contracts.records import Occurrence
from capfilt.pipeline.execution import retry
from capfilt.pipeline.ledger.ledger import Ledger
from capfilt.pipeline.planning.status import stage_statuses
from capfilt.pipeline.reports import dedup_report, query, report, stages
from capfilt.pipeline.reports.explain import explain
from capfilt.pipeline.reports.show import show_report
from capfilt.pipeline.reports.verify import verify
from tests.pipeline.conftest import World
from tests.pipeline.local import run
from tests.stages.rows import occurrence, png


def bmp(number: int) -> bytes:
    """The picture of :func:`png` in other bytes."""
    data = io.BytesIO()
    Image.open(io.BytesIO(png(number))).save(data, "BMP")
    return data.getvalue()


@pytest.fixture
def crawl(world: World) -> World:
    """The world's web images 1 to 9, and some of them again: in the same bytes, in others, and larger."""
    more = {
        "again-2.png": (png(2), "2 again"),
        "other-4.bmp": (bmp(4), "4 other"),
        "large-6.png": (png(6, 16), "6 large"),
    }
    with (world.folder / "web/captions.csv").open("a", newline="") as table:
        for name, (data, text) in more.items():
            (world.folder / "web" / name).write_bytes(data)
            csv.writer(table).writerow([name, text])
    return world


# FakeFilter's vectors lie on a circle, where numbers far from each other may come close to each other.
SAME = {"similarity": 0.999999}


def urls(ledger: Ledger, stage: str, *, rejects: bool = False) -> dict[str, dict[str, Any]]:
    rows = query.query(
        "SELECT p.url, f.* FROM files f JOIN p USING (row_id)",
        query.files(ledger, stage, rejects=rejects),
        p=query.files(ledger, "ingest"),
    )
    return {row["url"]: row for row in rows}


def test_duplicates_leave_before_they_are_captioned_and_the_keeper_is_named(crawl: World) -> None:
    ledger = run(crawl.plan(dedup=SAME))
    left = urls(ledger, "dedup", rejects=True)
    again, other = sorted(["2.png", "again-2.png"]), sorted(["4.png", "other-4.bmp"])
    assert len(left) == 3
    assert "6.png" in left  # the larger one stays
    assert {row["reason"] for row in left.values()} == {"duplicate_of"}
    (repeated,) = (name for name in again if name in left)
    (kept,) = (name for name in again if name not in left)
    ids = {url: row["row_id"] for url, row in urls(ledger, "ingest").items()}
    assert (
        left[repeated]["detail"]
        == f"keeper {ids[kept]}, similarity 1.0000, 0 of 256 bits differ: the same bytes"
    )
    assert sum(name in left for name in other) == 1
    for stage in ("caption", "score", "export"):
        assert not urls(ledger, stage).keys() & left.keys()
    assert ledger.totals("caption").units_in == 12 - 3  # type: ignore[union-attr]
    assert all(stages.view(ledger, name).complete for name in ("embed", "dedup", "caption", "export"))
    assert [problem for *_, problem in verify(ledger) if problem] == []
    stories = {story.stage: story for story in explain(ledger, "6.png")}
    assert list(stories) == ["list_web", "ingest", "embed", "dedup"]
    assert stories["dedup"].rejects[0]["reason"] == "duplicate_of"


def test_any_number_of_shards_comes_to_the_same(crawl: World, tmp_path: Path) -> None:
    found = []
    for number, target in enumerate((1, 200, 10**6)):
        plan = crawl.plan(dedup={**SAME, "merge_texts": True}, shards={"target": target}, name=f"run{number}")
        ledger = run(plan, until="score")
        left = {
            url: (row["reason"], row["detail"]) for url, row in urls(ledger, "dedup", rejects=True).items()
        }
        kept = {url: (row["rows"], row["texts"]) for url, row in urls(ledger, "dedup").items()}
        found.append((left, kept))
        assert len(query.files(ledger, "dedup").paths) == len(query.files(ledger, "ingest").paths)
    assert found[0] == found[1] == found[2]
    assert any(texts for _, texts in found[0][1].values())


def test_gathered_texts_are_judged_with_their_keeper(crawl: World) -> None:
    ledger = run(crawl.plan(dedup={**SAME, "merge_texts": True}))
    rows = query.query("SELECT text, source FROM files", query.files(ledger, "export"))
    texts = {row["text"] for row in rows if row["source"] == "web"}
    assert {"6 large", "6 thing of web", "2 again", "2 thing of web", "4 other", "4 thing of web"} <= texts


def test_held_out_and_evaluation_images_leave_and_are_counted_apart(crawl: World, tmp_path: Path) -> None:
    evaluation = tmp_path / "evaluation" / "deep"
    evaluation.mkdir(parents=True)
    (evaluation / "eight.png").write_bytes(png(8, 32))
    (evaluation / "broken.png").write_bytes(b"no image")
    (held,) = query.query(
        "SELECT url FROM files WHERE split = 'test' ORDER BY url LIMIT 1",
        query.files(run(crawl.plan(name="first"), until="human"), "human"),
    )
    (crawl.folder / "web" / "leak.bmp").write_bytes(bmp(int(held["url"].partition(".")[0])))
    with (crawl.folder / "web/captions.csv").open("a") as table:
        table.write("leak.bmp,a leak\n")
    plan = crawl.plan(dedup=SAME, decontaminate=[str(tmp_path / "evaluation")])
    ledger = run(plan)
    left = urls(ledger, "dedup", rejects=True)
    out = {url for url, row in left.items() if row["reason"] == "held_out"}
    assert out == {"8.png", "leak.bmp"}
    assert str(evaluation / "eight.png") in left["8.png"]["detail"]
    assert f"human test {held['url']}" in left["leak.bmp"]["detail"]
    assert stages.view(ledger, "embed_held_out").notes[0].startswith("1 files are no image")
    found = report.build(ledger)["uniqueness"]
    assert (found["dedup"]["held_out"], found["dedup"]["same_bytes"], found["dedup"]["near"]) == (2, 1, 2)


def test_the_report_says_what_was_done_and_warns(crawl: World) -> None:
    ledger = run(crawl.plan(dedup=SAME, select={"threshold": 0.5, "balance": {"cap": 3}}))
    found = dedup_report.build(ledger)
    assert found["embed"] == {"dim": 2, "texts": 12, "texts_truncated": 0}
    assert found["dedup"]["late_shards"] == 0
    console = Console(record=True, width=200)
    show_report(report.build(ledger), console)
    said = console.export_text()
    assert "duplicates: 1 by bytes, 2 nearly, in 3 groups (largest 2)" in said
    assert "all pairs compared" in said
    assert "words above 3 pairs" in said
    assert dedup_report.warnings(found) == []
    assert report.write(ledger)["uniqueness"] == found
    dedup = {**found["dedup"], "late_shards": 2, "rows": 10_000, "largest_group": 2000, "recall": 0.5}
    warnings = dedup_report.warnings({"dedup": {**dedup, "recall_pairs": 9}})
    assert [warning.split()[0] for warning in warnings] == ["2", "2,000", "The"]


def test_a_fork_with_another_threshold_keeps_what_is_unique(crawl: World) -> None:
    parent = run(crawl.plan(dedup=SAME))
    fork = run(crawl.plan(dedup=SAME, name="fork", select={"threshold": 0.6}), parent=parent)
    views = {view.name: view for view in stages.stages(fork)}
    assert all(views[name].parent for name in ("embed", "dedup", "caption", "score"))
    assert not views["select"].parent


def test_a_damaged_part_of_embed_is_redone_and_deduplication_says_that_it_saw_another(crawl: World) -> None:
    plan = crawl.plan(dedup=SAME)
    ledger = run(plan)
    before = urls(ledger, "dedup")
    path = Path(ledger.url) / "embed" / ledger.index("embed").held()["0000000"][0]
    path.write_bytes(path.read_bytes()[:-100])
    run(plan)
    assert ledger.index("embed").held()["0000000"][0].endswith(".g1.parquet")
    assert stage_statuses(plan, ledger)["dedup"].stale == "embed has parts that it did not see"
    assert urls(ledger, "dedup") == before
    assert [problem for *_, problem in verify(ledger) if problem] == []


def test_what_is_fetched_later_goes_on_uncompared_and_the_report_warns(crawl: World) -> None:
    plan = crawl.plan(dedup=SAME)
    ledger = run(plan)
    (crawl.folder / "web" / "late.png").write_bytes(png(4))
    late = occurrence("late.png", "4 late")
    retry._commit(plan, ledger, "r0010000000", Contract(Occurrence).table([late]))
    node = plan.nodes["list_web"]
    ledger.close(ledger.index("list_web").totals("list_web", node.fingerprint))
    run(plan)
    assert stage_statuses(plan, ledger)["dedup"].stale == "embed has parts that it did not see"
    assert "late.png" in urls(ledger, "export")
    assert "late.png" not in urls(ledger, "dedup")
    found = report.build(ledger)
    assert found["uniqueness"]["dedup"]["late_shards"] == 1
    assert any(
        warning.startswith("1 shards were fetched after deduplication") for warning in found["warnings"]
    )
