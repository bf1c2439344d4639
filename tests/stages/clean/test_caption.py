from pathlib import Path

import pytest

from capfilt.data_contracts.records import IngestedImage, Record
from capfilt.data_contracts.rejects import Reason
from capfilt.models.protocols import Decoding, Inference, Written
from capfilt.stages.clean.caption import WriteCaptions
from capfilt.stages.clean.caption_guard import CaptionGuard
from capfilt.stages.stage import Rejected, TrainedModel
from tests.stages.rows import FakeCaptioner, picture, run_shard, site


@pytest.fixture
def write(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr("capfilt.models.open.open_captioner", lambda *_: FakeCaptioner())

    def run(per_image: int, *rows: Record) -> tuple[list[dict], list[Rejected]]:
        stage = WriteCaptions(TrainedModel("captioner"), Decoding(per_image=per_image))
        assert stage.fan_out == per_image
        return run_shard(stage.open(site(tmp_path, stage.captioner)), *rows, empty=[IngestedImage])

    return run


def test_so_many_captions_a_image_each_with_its_index(write) -> None:
    kept, rejected = write(3, *(picture(number) for number in (1, 2, 3)))
    assert not rejected
    assert [(row["row_id"], row["caption_index"], row["text"]) for row in kept] == [
        (picture(number).row_id, index, f"{number} seen {index}")
        for number in (1, 2, 3)
        for index in range(3)
    ]
    assert {row["image_id"] for row in kept} == {picture(number).image_id for number in (1, 2, 3)}


def test_a_caption_of_spaces_is_rejected_and_every_unit_accounted_for(write) -> None:
    kept, rejected = write(2, picture(1), picture(7), picture(3))
    assert [row["text"] for row in kept] == ["1 seen 0", "1 seen 1", "3 seen 0", "3 seen 1"]
    assert [(reject.id, reject.reason, reject.detail) for reject in rejected] == [
        (picture(7).row_id, Reason.EMPTY_CAPTION, "caption 0: "),
        (picture(7).row_id, Reason.EMPTY_CAPTION, "caption 1: "),
    ]


def test_what_the_guard_refuses_leaves_with_its_text(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Stuck(FakeCaptioner):
        def caption(self, images, image_ids, decoding):
            assert decoding.per_image == 3
            return [[Written(text, -1.0) for text in ("dai dai dai", "a red dog", "see: a dog")]]

    monkeypatch.setattr("capfilt.models.open.open_captioner", lambda *given: Stuck())
    stage = WriteCaptions(
        TrainedModel("captioner"), Decoding(per_image=3, prompt="see"), CaptionGuard(min_words=3)
    )
    kept, rejected = run_shard(stage.open(site(tmp_path, stage.captioner)), picture(1))
    assert [(row["caption_index"], row["text"]) for row in kept] == [(1, "a red dog")]
    assert [(reject.reason, reject.detail) for reject in rejected] == [
        (Reason.LOOP, "caption 0: dai dai dai"),
        (Reason.PROMPT_ECHO, "caption 2: see: a dog"),
    ]


def test_the_captioner_and_its_decoding_are_the_stages_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = []

    class Noting(FakeCaptioner):
        def caption(self, images, image_ids, decoding):
            asked.append((list(image_ids), decoding))
            return super().caption(images, image_ids, decoding)

    monkeypatch.setattr("capfilt.models.open.open_captioner", lambda *given: asked.append(given) or Noting())
    decoding = Decoding(top_p=0.5, seed=3)
    stage = WriteCaptions(TrainedModel("captioner"), decoding, inference=Inference("bf16"))
    run_shard(stage.open(site(tmp_path, stage.captioner, batch=8)), picture(1), picture(2))
    ids = [picture(1).image_id, picture(2).image_id]
    assert asked == [(str(stage.captioner), "cpu", 8, stage.inference), (ids, decoding)]
