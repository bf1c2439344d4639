import shutil
from pathlib import Path

import pytest

from capfilt.data_contracts.errors import SourceError, StorageError
from capfilt.data_contracts.identity import image_id, pair_id, row_id
from capfilt.pipeline.ledger.ledger import Ledger
from capfilt.pipeline.reports import query
from tests.pipeline.local import HUMAN, WEB
from tests.stages.rows import png


def test_every_stage_with_its_totals(finished: Ledger) -> None:
    views = {view.name: view for view in query.stages(finished)}
    assert list(views) == list(finished.record().fingerprints)
    assert all(view.complete and not view.parent for view in views.values())
    assert (views["list_web"].totals.kept, views["list_web"].totals.rejected) == (WEB + 1, {"missing": 1})
    assert (views["ingest"].totals.kept, views["ingest"].totals.rejected) == (WEB, {"not_image": 1})
    assert views["caption"].totals.rejected == {"empty_caption": 1}
    assert views["human"].totals.kept == HUMAN
    assert all(
        view.totals.units_in * view.totals.fan_out == view.totals.kept + sum(view.totals.rejected.values())
        for view in views.values()
    )


def test_a_sample_shows_bytes_as_their_length_and_rejects_with_reasons(finished: Ledger) -> None:
    rows = query.sample(finished, "ingest", 2)
    assert len(rows) == 2
    assert rows[0]["image"] == f"<{len(png(1))} bytes>"
    (reject,) = query.sample(finished, "ingest", 5, rejects=True)
    assert (reject["reason"], reject["id"]) == ("not_image", row_id("web", "broken.png"))
    assert query.sample(finished, "select", 0) == []
    with pytest.raises(SourceError, match="no stage 'slect'"):
        query.sample(finished, "slect", 1)


IMAGE = image_id(png(3))
IDENTIFIERS = [row_id("web", "3.png"), "3.png", IMAGE, pair_id(IMAGE, "999 thing of web")]


@pytest.mark.parametrize("identifier", IDENTIFIERS, ids=["row", "url", "image", "pair"])
def test_the_story_of_a_row_by_any_of_its_names(finished: Ledger, identifier: str) -> None:
    stories = {story.stage: story for story in query.explain(finished, identifier)}
    assert list(stories) == ["list_web", "ingest", "caption", "score", "select", "export"]
    assert stories["ingest"].rows[0]["url"] == "3.png"
    assert [row["text"] for row in stories["score"].rows] == ["999 thing of web", "3 seen 0"]
    (dropped,) = stories["select"].rejects
    assert (dropped["reason"], dropped["id"]) == ("below_threshold", IDENTIFIERS[3])
    assert [row["text"] for row in stories["export"].rows] == ["3 seen 0"]


def test_the_story_of_what_left_early(finished: Ledger) -> None:
    (listed,) = query.explain(finished, row_id("web", "gone.png"))
    assert (listed.stage, listed.rows, listed.rejects[0]["reason"]) == ("list_web", [], "missing")


def test_nobody_of_that_name(finished: Ledger) -> None:
    with pytest.raises(SourceError, match="nothing in the run is called"):
        query.explain(finished, "'; DROP")


def problems(ledger: Ledger) -> list[tuple[str, str]]:
    return [(stage, name) for stage, name, problem in query.verify(ledger) if problem]


def test_a_sound_run_verifies_wherever_it_lies(finished: Ledger, copied: Ledger) -> None:
    assert problems(finished) == problems(copied) == []
    assert len(list(query.verify(copied))) == sum(
        len(copied.index(stage).parts()) for stage in copied.record().stages
    )


@pytest.mark.parametrize("change", ["alter", "cut", "delete", "index"])
def test_verify_finds_damage(copied: Ledger, change: str) -> None:
    path = copied.storage.path / "score/part-0000001.parquet"
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    if change == "delete":
        path.unlink()
    else:
        path.write_bytes({"alter": data, "cut": data[:-4], "index": b""}[change])
    if change == "index":
        (copied.storage.path / "score/_commits/index.parquet").unlink()
    expected = "shard 0000001" if change == "delete" else path.name
    assert problems(copied) == [("score", expected)]


def test_damage_in_one_part_does_not_hide_another(copied: Ledger) -> None:
    names = [f"part-000000{number}.parquet" for number in (0, 2)]
    for name in names:
        with (copied.storage.path / "score" / name).open("r+b") as file:
            file.write(b"XXXX")
    assert problems(copied) == [("score", name) for name in names]


def test_a_query_without_files_has_no_rows_and_odd_names_do_no_harm(finished: Ledger, tmp_path: Path) -> None:
    assert query.query("SELECT * FROM files", query.Files([])) == []
    odd = Ledger(shutil.copytree(finished.storage.path, tmp_path / "it's [here] 100%"))
    (row,) = query.query("SELECT count(*) AS n FROM files WHERE itm > ?", query.files(odd, "select"), 0.5)
    assert row["n"] > 0


def test_a_damaged_file_is_said_plainly(copied: Ledger) -> None:
    (_, (name, _)), *_ = copied.index("score").held().items()
    part = Path(copied.url) / "score" / name
    part.write_bytes(part.read_bytes()[:-4] + b"XXXX")
    with pytest.raises(StorageError, match="cannot be read") as caught:
        query.sample(copied, "score", 5)
    assert "capfilt verify" in caught.value.remedy
