from pathlib import Path

import pytest

from capfilt.data_contracts.records import Author, HumanImage, Split
from capfilt.models.protocols import Decoding, Written
from capfilt.stages.evaluation.audit_captions import AuditCaptions
from capfilt.stages.in_memory import MemoryInput
from capfilt.stages.stage import TrainedModel
from tests.stages.rows import FakeCaptioner, FakeFilter, human, picture, run_global, site

STAGE = AuditCaptions(TrainedModel("filter"), TrainedModel("captioner"), Decoding(per_image=2))


class Writer(FakeCaptioner):
    """Says twice the same of every image."""

    def caption(self, images, image_ids, decoding):
        return [[Written("A dog  above a red cup.", -1.0)] * decoding.per_image for _ in images]


def check(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *rows: HumanImage) -> list[dict]:
    monkeypatch.setattr("capfilt.models.open.open_filter", lambda *_: FakeFilter())
    monkeypatch.setattr("capfilt.models.open.open_captioner", lambda *_: Writer())
    return run_global(STAGE, site(tmp_path, STAGE.filter, STAGE.captioner), MemoryInput.of(*rows))[0]


def test_what_the_captioner_says_and_people_do_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rows = check(
        monkeypatch,
        tmp_path,
        human(1, "a dog above a red cup on a mat", split=Split.TEST),
        human(2, "a cup above a dog", split=Split.TEST),
        human(3, "a cat", split=Split.CALIBRATE),
        human(4, "a lamp", split=Split.TRAIN),
    )
    unsaid = {row["image_id"]: row["unsaid"] for row in rows if row["author"] == Author.CAPTIONER}
    assert unsaid == {
        picture(1).image_id: "",
        picture(2).image_id: "red, a dog above a red cup",
        picture(3).image_id: "dog, cup, red, a dog above a red cup",
    }
    (one,) = [row for row in rows if row["author"] == Author.CAPTIONER and row["split"] == Split.CALIBRATE]
    assert (one["text"], 0 <= one["itm"] <= 1) == ("a dog above a red cup", True)


def test_people_are_checked_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rows = check(
        monkeypatch,
        tmp_path,
        human(1, "a dog", "a brown dog on a mat", split=Split.TEST),
        human(2, "a cup", split=Split.TEST),
    )
    people = {(row["author"], row["text"]): row["unsaid"] for row in rows if row["itm"] is None}
    assert people == {
        ("person", "a dog"): "",
        ("person", "a brown dog on a mat"): "mat, brown, a brown dog on a mat",
        ("another", "a dog"): "dog",
        ("another", "a brown dog on a mat"): "dog, mat, brown, a brown dog on a mat",
        ("another", "a cup"): "cup",
    }
