from pathlib import Path

import pytest

from capfilt.data_contracts.records import AuditedCaption, HeldOutScore, IngestedImage, Split
from capfilt.models.protocols import Decoding, Written
from capfilt.models.text.edits import Edits
from capfilt.stages.evaluation.audit_captions import AuditCaptions
from capfilt.stages.evaluation.evaluate import Evaluate
from capfilt.stages.evaluation.human_pairs import held_out
from capfilt.stages.evaluation.score_held_out import judge
from capfilt.stages.in_memory import MemoryInput
from capfilt.stages.stage import TrainedModel
from tests.stages.rows import FakeCaptioner, FakeFilter, human, number_of, picture, run_global, site

STAGE = Evaluate(TrainedModel("filter"), seed=0)
CHECK = AuditCaptions(STAGE.filter, TrainedModel("captioner"), Decoding(per_image=3))
WORDS = ["dog", "cat", "tree", "boat", "house", "car", "lamp", "bird"]


class Parrot(FakeCaptioner):
    """Captions image n as its human caption does."""

    def caption(self, images, image_ids, decoding):
        first = [Written(text_of(number_of(image)), -1.0) for image in images]
        return [[one, Written("something else", -1.0)] for one in first]


def text_of(number: int) -> str:
    return f"{number} {WORDS[number % 8]} near a {WORDS[(number * 3 + 1) % 8]}"


def evaluate(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, inputs: MemoryInput) -> dict[str, dict]:
    monkeypatch.setattr("capfilt.models.open.open_filter", lambda *_: FakeFilter())
    monkeypatch.setattr("capfilt.models.open.open_captioner", lambda *_: Parrot())
    judged = judge(held_out(inputs, Split.TEST), Split.TEST, FakeFilter(), Edits.of([]), 0)
    checked, _ = run_global(CHECK, site(tmp_path, CHECK.filter, CHECK.captioner), inputs)
    made = [*judged, *(AuditedCaption(**row) for row in checked)]
    both = MemoryInput(
        {**inputs.tables, **MemoryInput.of(*made, empty=[HeldOutScore, AuditedCaption]).tables}
    )
    rows, _ = run_global(STAGE, site(tmp_path, STAGE.filter), both)
    return {row["name"]: row for row in rows}


def humans_of(count: int) -> list:
    return [human(number, text_of(number), split=Split.TEST) for number in range(count)]


def test_figures_of_models_that_are_right(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    other = [human(100 + number, "t", split=Split.TRAIN) for number in range(5)]
    figures = evaluate(monkeypatch, tmp_path, MemoryInput.of(*humans_of(10), *other, empty=[IngestedImage]))
    value = {name: row["value"] for name, row in figures.items()}
    assert value["test_images"] == 10
    assert value["filter_auc"] == value["filter_auc_hard"] == value["filter_auc_itc"] == 1
    assert value["tr@1"] == value["ir@1"] == 1
    assert value["caption_cider"] > 5 > value["chance_cider"]
    assert (figures["filter_auc"]["low"], figures["filter_auc"]["count"]) == (1, 20)
    assert figures["tr@1"]["low"] is None


def test_test_images_that_the_crawl_has_too_do_not_count(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    crawl = [picture(number, "spam") for number in range(6)]
    figures = evaluate(monkeypatch, tmp_path, MemoryInput.of(*humans_of(10), *crawl))
    assert figures.keys() == {"test_images"}  # four are left: too few to say anything
    assert figures["test_images"]["value"] == 4


def test_pairs_of_test_images_that_the_crawl_has_too_do_not_count(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    figures = evaluate(monkeypatch, tmp_path, MemoryInput.of(*humans_of(10), picture(0), picture(1)))
    whole = evaluate(monkeypatch, tmp_path, MemoryInput.of(*humans_of(10), empty=[IngestedImage]))
    assert whole["filter_auc_hard"]["count"] == 20
    assert figures["filter_auc_hard"]["count"] < 20
    assert figures["test_images"]["value"] == 8


def test_a_human_caption_without_a_word_is_no_reference(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    mute = human(50, "?", split=Split.TEST)
    figures = evaluate(monkeypatch, tmp_path, MemoryInput.of(*humans_of(9), mute, empty=[IngestedImage]))
    assert (figures["test_images"]["count"], figures["caption_cider"]["count"]) == (10, 9)
    assert figures["caption_bleu_1"]["value"] == pytest.approx(1)


def test_human_captions_that_all_say_the_same_leave_no_mismatch(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    same = [human(number, "a nice image", split=Split.TEST) for number in range(6)]
    figures = evaluate(monkeypatch, tmp_path, MemoryInput.of(*same, empty=[IngestedImage]))
    assert "filter_auc" not in figures
    assert figures["test_images"]["value"] == 6
