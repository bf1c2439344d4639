from pathlib import Path

import pytest

from capfilt.data_contracts.contract import Contract
from capfilt.data_contracts.errors import TrainingError
from capfilt.data_contracts.records import HumanImage, IngestedImage, Split
from capfilt.stages.in_memory import MemoryInput
from capfilt.stages.training.pairs import CommittedPairs, held_out_pairs, human_pairs
from tests.stages.rows import human, picture, site


def test_human_pairs_are_those_of_the_split_that_have_words(tmp_path: Path) -> None:
    inputs = MemoryInput.of(
        human(1, "one", "..."), human(2, "two", split=Split.TEST), human(3, "!"), human(4, "four", "vier")
    )
    pairs = human_pairs(inputs, 4, site(tmp_path))
    shard = pairs.shard(0)
    assert pairs.counts == [2]
    assert list(shard.image_ids) == [picture(1).image_id, picture(4).image_id]
    assert list(shard.texts) == list(pairs.texts()) == [["one"], ["four", "vier"]]
    assert [int(shard.pixels(row)[0, 0, 0]) for row in (0, 1)] == [1, 4]
    assert shard.pixels(0).shape == (4, 4, 3)


def test_web_pairs_are_those_with_a_text_that_is_trusted(tmp_path: Path) -> None:
    inputs = MemoryInput.of(picture(1), picture(2, "two", "too"), picture(3, "three"))
    assert list(CommittedPairs(inputs, IngestedImage, 4, site(tmp_path)).texts()) == [
        ["two", "too"],
        ["three"],
    ]
    trusted = CommittedPairs(
        inputs,
        IngestedImage,
        4,
        site(tmp_path),
        trusted=lambda image, texts: [text for text in texts if text == "too"],
    )
    assert list(trusted.texts()) == [["too"]]
    assert list(trusted.shard(0).image_ids) == [picture(2).image_id]


def test_parts_are_shards_and_empty_ones_are_left_out(tmp_path: Path) -> None:
    tables = [
        Contract(IngestedImage).table(rows)
        for rows in ([picture(1, "one")], [picture(2)], [picture(3, "three"), picture(4, "four")])
    ]
    pairs = CommittedPairs(MemoryInput({IngestedImage: tables}), IngestedImage, 4, site(tmp_path))
    assert pairs.counts == [1, 2]
    assert [int(pairs.shard(1).pixels(row)[0, 0, 0]) for row in (0, 1)] == [3, 4]


def test_a_image_is_decoded_once_while_there_is_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = CommittedPairs(MemoryInput.of(picture(7, "seven")), IngestedImage, 4, site(tmp_path))
    first = pairs.shard(0).pixels(0).copy()
    monkeypatch.setattr(CommittedPairs, "images", None)  # nobody opens the part again for its images
    assert (pairs.shard(0).pixels(0) == first).all()
    monkeypatch.undo()
    monkeypatch.setattr("capfilt.stages.training.pairs.KEPT", 10)
    roomless = CommittedPairs(MemoryInput.of(picture(7, "seven")), IngestedImage, 4, site(tmp_path))
    assert (roomless.shard(0).pixels(0) == first).all()
    assert roomless.pixels is None


def test_nothing_to_train_on(tmp_path: Path) -> None:
    inputs = MemoryInput.of(human(1, "a", split=Split.TEST))
    with pytest.raises(TrainingError, match="nothing to train on") as caught:
        human_pairs(inputs, 4, site(tmp_path))
    assert caught.value.evidence == "no HumanImage with a text in split train"
    assert held_out_pairs(inputs, 4, site(tmp_path)) is None


def test_the_held_out_pairs_are_those_of_the_calibrate_split(tmp_path: Path) -> None:
    inputs = MemoryInput.of(human(1, "a"), human(2, "b", split=Split.CALIBRATE), empty=[HumanImage])
    held_out = held_out_pairs(inputs, 4, site(tmp_path))
    assert held_out is not None
    assert list(held_out.texts()) == [["b"]]
