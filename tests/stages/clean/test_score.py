from pathlib import Path

import pytest

from capfilt.data_contracts.identity import pair_id
from capfilt.data_contracts.records import Caption, IngestedImage, Record
from capfilt.data_contracts.rejects import Reason
from capfilt.stages.clean.score import ScorePairs
from capfilt.stages.in_memory import MemoryInput
from capfilt.stages.stage import Rejected, TrainedModel
from tests.stages.rows import FakeFilter, caption, picture, run_shard, site

STAGE = ScorePairs(TrainedModel("filter"))


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr("capfilt.models.open.open_filter", lambda *_: FakeFilter())
    transform = STAGE.open(site(tmp_path, STAGE.filter))

    def run(*rows: Record) -> tuple[list[dict], list[Rejected]]:
        made = run_shard(transform, *rows, empty=[IngestedImage, Caption])
        units = [
            unit
            for own in STAGE.units(MemoryInput.of(*rows, empty=[IngestedImage, Caption])).values()
            for unit in own
        ]
        assert sorted(units) == sorted(
            [row["pair_id"] for row in made[0]] + [reject.id for reject in made[1]]
        )
        return made

    return run


def test_every_text_of_every_image_is_judged_with_its_own_image(judge) -> None:
    texts = {1: ["1 dog", "2 cat"], 2: [], 3: ["3 tree"]}
    pictures = [picture(number, *own) for number, own in texts.items()]
    captions = [caption(2, "2 seen"), caption(3, "9 seen", 0), caption(3, "3 too", 1)]
    kept, rejected = judge(*pictures, *captions)
    assert not rejected
    assert [(row["text"], row["source"], row["caption_index"], row["itm"]) for row in kept] == [
        ("1 dog", "web", None, 0.9),
        ("2 cat", "web", None, 0.1),
        ("2 seen", "synthetic", 0, 0.9),
        ("3 tree", "web", None, 0.9),
        ("9 seen", "synthetic", 0, 0.1),
        ("3 too", "synthetic", 1, 0.9),
    ]
    assert {row["row_id"] for row in kept} == {one.row_id for one in pictures}


def test_the_text_is_kept_as_it_was_and_judged_as_blip_reads_it(judge) -> None:
    (row,), _ = judge(picture(1, '"1 DOG!"'))  # the filter is given `1 dog`
    assert (row["text"], row["itm"]) == ('"1 DOG!"', 0.9)


def test_a_text_without_words_is_rejected(judge) -> None:
    _, (reject,) = judge(picture(1, "*** !!!"))
    assert (reject.reason, reject.detail) == (Reason.EMPTY_TEXT, "web: *** !!!")


def test_the_same_text_of_the_same_bytes_counts_once(judge) -> None:
    again = picture(1, "1 dog", url="elsewhere.png")  # same bytes at another place
    kept, rejected = judge(picture(1, "1 dog"), picture(2, "1 dog"), again, caption(1, "1 dog"))
    assert [row["row_id"] for row in kept] == [picture(1).row_id, picture(2).row_id]
    assert {(reject.reason, reject.row_id) for reject in rejected} == {
        (Reason.DUPLICATE_PAIR, again.row_id),
        (Reason.DUPLICATE_PAIR, picture(1).row_id),
    }


def test_the_units_of_a_image_are_its_texts() -> None:
    inputs = MemoryInput.of(picture(1, "a", "b"), picture(2), caption(1, "c"))
    image = picture(1).image_id
    assert STAGE.units(inputs) == {
        picture(1).row_id: [pair_id(image, text) for text in "abc"],
        picture(2).row_id: [],
    }


def test_without_captions_only_web_texts_are_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("capfilt.models.open.open_filter", lambda *_: FakeFilter())
    kept, _ = run_shard(STAGE.open(site(tmp_path, STAGE.filter)), picture(1, "1 dog"))
    assert [row["source"] for row in kept] == ["web"]


def test_the_model_is_opened_where_the_site_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    monkeypatch.setattr("capfilt.models.open.open_filter", lambda *given: opened.append(given))
    STAGE.open(site(tmp_path, STAGE.filter, batch=7))
    assert opened == [(str(STAGE.filter), "cpu", 7, STAGE.inference)]
