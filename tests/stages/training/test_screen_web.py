"""The stages that prepare a rehearsal: what they judge, and that they cost nothing where there is no need."""

from pathlib import Path

import numpy as np
import pytest

from capfilt.data_contracts.identity import pair_id
from capfilt.data_contracts.records import IngestedImage, Score, WebSimilarity, WordCoverage
from capfilt.data_contracts.rejects import Reason
from capfilt.stages.in_memory import MemoryInput
from capfilt.stages.stage import TrainedModel
from capfilt.stages.training.rank_web import RankWeb
from capfilt.stages.training.screen_web import ScreenWeb
from tests.stages.rows import FakeFilter, picture, run_shard, site

KNOWN = WordCoverage(word="dog", web_texts=90, human_texts=50, covered=True)
UNKNOWN = WordCoverage(word="owl", web_texts=90, human_texts=0, covered=False)
PICTURES = [picture(1, "1 dog", "7 cat"), picture(2), picture(3, "3 tree", "*** !!!")]
MODEL = TrainedModel("model")


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The calls that opened a model."""
    calls: list[object] = []
    monkeypatch.setattr("capfilt.models.open.open_filter", lambda *given: calls.append(given) or FakeFilter())
    return calls


@pytest.mark.parametrize("kind", [ScreenWeb, RankWeb])
def test_no_model_is_opened_where_the_human_captions_know_the_webs_words(
    kind: type[ScreenWeb], opened: list[object], tmp_path: Path
) -> None:
    inputs = MemoryInput.of(*PICTURES, KNOWN)
    stage = kind(MODEL)
    assert list(stage.open(site(tmp_path, MODEL))(inputs)) == []
    assert stage.units(inputs) == {}
    assert not opened
    assert stage.may_find_nothing


@pytest.mark.parametrize("kind", [ScreenWeb, RankWeb])
@pytest.mark.parametrize(("words", "always"), [([KNOWN, UNKNOWN], False), ([KNOWN], True)])
def test_where_they_do_not_or_always_every_web_text_is_judged_once(
    kind: type[ScreenWeb], words: list[WordCoverage], always: bool, opened: list[object], tmp_path: Path
) -> None:
    stage = kind(MODEL, always=always)
    transform = stage.open(site(tmp_path, MODEL))
    assert not opened  # it waits for a shard that needs it
    kept, rejected = run_shard(transform, *PICTURES, *words)
    run_shard(transform, *PICTURES, *words)
    assert len(opened) == 1
    units = [unit for own in stage.units(MemoryInput.of(*PICTURES, *words)).values() for unit in own]
    assert sorted(units) == sorted([row["pair_id"] for row in kept] + [reject.id for reject in rejected])
    assert [reject.reason for reject in rejected] == [Reason.EMPTY_TEXT]
    assert kind.produces is (Score if kind is ScreenWeb else WebSimilarity)


def test_vetting_is_scoring(opened: list[object], tmp_path: Path) -> None:
    kept, _ = run_shard(ScreenWeb(MODEL).open(site(tmp_path, MODEL)), *PICTURES, UNKNOWN)
    assert [(row["text"], row["itm"], row["source"]) for row in kept] == [
        ("1 dog", 0.9, "web"),
        ("7 cat", 0.1, "web"),
        ("3 tree", 0.9, "web"),
    ]


def test_an_alignment_is_the_cosine_of_the_unimodal_embeddings(opened: list[object], tmp_path: Path) -> None:
    kept, _ = run_shard(RankWeb(MODEL).open(site(tmp_path, MODEL)), *PICTURES, UNKNOWN)
    image = picture(1).image_id
    cosines = {row["pair_id"]: row["itc"] for row in kept}
    assert cosines[pair_id(image, "1 dog")] == pytest.approx(1.0, abs=1e-6)
    assert cosines[pair_id(image, "7 cat")] == pytest.approx(np.cos(0.6), abs=1e-6)
    assert {row["row_id"] for row in kept} == {picture(1).row_id, picture(3).row_id}


def test_a_shard_without_a_text_has_no_rows(opened: list[object], tmp_path: Path) -> None:
    for kind in (ScreenWeb, RankWeb):
        kept, rejected = run_shard(
            kind(MODEL).open(site(tmp_path, MODEL)), picture(1), UNKNOWN, empty=[IngestedImage]
        )
        assert (kept, rejected) == ([], [])
