from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from capfilt.data_contracts.records import HeldOutScore, HumanImage, PairKind, Split
from capfilt.models.protocols import Match
from capfilt.models.text.edits import Edits
from capfilt.stages.evaluation.human_pairs import HeldOut, held_out
from capfilt.stages.evaluation.score_held_out import ScoreHeldOut, judge
from capfilt.stages.in_memory import MemoryInput
from capfilt.stages.stage import TrainedModel
from tests.stages.rows import FakeFilter, human, number_of, picture, run_global, site

NOTHING = Edits.of([])


def pairs(*texts: tuple[int, list[str]]) -> HeldOut:
    rows = [human(number, *own, split=Split.TEST) for number, own in texts]
    return held_out(MemoryInput.of(*rows, empty=[HumanImage]), Split.TEST)


def judged(given: HeldOut, model: FakeFilter, seed: int = 0, edits: Edits = NOTHING) -> list[HeldOutScore]:
    return judge(given, Split.TEST, model, edits, seed)


def of(rows: Iterable[HeldOutScore], kind: PairKind) -> list[HeldOutScore]:
    return [row for row in rows if row.kind == kind]


def test_a_good_filter_tells_own_from_other() -> None:
    rows = judged(pairs(*((number, [f"{number} dog"]) for number in range(8))), FakeFilter())
    assert Counter(row.kind for row in rows) == {"own": 8, "shuffled": 8, "hard": 8}
    assert {(row.kind == PairKind.OWN, row.itm, row.itc) for row in rows} == {
        (True, 0.9, 0.5),
        (False, 0.1, -0.5),
    }


def test_the_hard_one_is_the_likest_other_image() -> None:
    rows = of(judged(pairs((0, ["0 a"]), (1, ["1 b"]), (9, ["9 c"])), FakeFilter()), PairKind.HARD)
    images = {row.text: row.image_id for row in rows}
    assert images == {"0 a": picture(1).image_id, "1 b": picture(0).image_id, "9 c": picture(1).image_id}


def test_the_seed_draws_the_shuffled_ones() -> None:
    many = pairs(*((number, [f"{number} dog"]) for number in range(30)))
    drawn = [of(judged(many, FakeFilter(), seed), PairKind.SHUFFLED) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_edited_captions_are_judged_with_their_own_image() -> None:
    given = pairs(
        (1, ["a red cup above a jar", "a jar"]), (2, ["a blue box"]), (3, ["a jar above a red cup"])
    )
    rows = judged(given, FakeFilter(), edits=Edits.of(given.flat))
    own = {row.image_id: row.text for row in of(rows, PairKind.RELATION)}
    assert own == {
        picture(1).image_id: "a jar above a red cup",
        picture(3).image_id: "a red cup above a jar",
    }
    assert {row.text for row in of(rows, PairKind.ATTRIBUTE) if row.image_id == picture(1).image_id} == {
        "a blue cup above a jar"
    }
    assert len(of(rows, PairKind.OBJECT)) == 4


def test_an_image_of_which_people_say_the_same_in_other_words_is_no_mismatch() -> None:
    given = pairs((1, ["1 is a red cup"]), (2, ["a red cup is 2"]), (3, ["3 is a blue jar"]))
    rows = judged(given, FakeFilter(), edits=Edits.of(given.flat))
    mismatched = {(row.image_id, row.text) for row in rows if row.kind in (PairKind.SHUFFLED, PairKind.HARD)}
    assert {image for image, text in mismatched if "red" in text} == {picture(3).image_id}
    assert (picture(2).image_id, "1 is a red cup") not in mismatched


class Strict(FakeFilter):
    """Says 1 for exactly the texts that the image has."""

    def __init__(self, of: HeldOut) -> None:
        self.texts = {number_of(image): own for image, own in zip(of.images, of.texts, strict=True)}

    def match(self, images, texts):
        return [
            [Match(1.0 if text in self.texts[number_of(image)] else 0.0, 0.0) for text in own]
            for image, own in zip(images, texts, strict=True)
        ]


@given(
    st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=3, unique=True), min_size=1, max_size=6)
)
def test_an_image_that_has_the_same_text_is_no_mismatch(texts: list[list[str]]) -> None:
    given = pairs(*enumerate(texts))
    rows = judged(given, Strict(given))
    assert {(row.kind == PairKind.OWN, row.itm) for row in rows} <= {(True, 1.0), (False, 0.0)}
    assert len(of(rows, PairKind.OWN)) == sum(map(len, texts))
    elsewhere = {text for text in given.flat if any(text not in own for own in texts)}
    for kind in (PairKind.SHUFFLED, PairKind.HARD):
        assert {row.text for row in of(rows, kind)} == elsewhere


def test_many_texts_are_held_against_all_images(monkeypatch: pytest.MonkeyPatch) -> None:
    many = pairs(*((number, [f"{number} a", f"{number} b"]) for number in range(20)))
    whole = of(judged(many, FakeFilter()), PairKind.HARD)
    monkeypatch.setattr("capfilt.stages.evaluation.score_held_out.TEXTS", 7)
    assert of(judged(many, FakeFilter()), PairKind.HARD) == whole


def test_a_part_for_each_split(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("capfilt.models.open.open_filter", lambda *_: FakeFilter())
    stage = ScoreHeldOut(TrainedModel("filter"), seed=0, most=5)
    rows = [
        *(human(number, f"{number} dog", split=Split.CALIBRATE) for number in range(9)),
        *(human(number, f"{number} dog", split=Split.TEST) for number in range(10, 14)),
        *(human(number, f"{number} dog") for number in range(20, 30)),
    ]
    found, made = run_global(stage, site(tmp_path, stage.filter), MemoryInput.of(*rows))
    assert [part.shard for part in made] == ["0000000", "0000001"]
    assert Counter((row["split"], row["kind"]) for row in found if row["kind"] == "own") == {
        ("calibrate", "own"): 5,
        ("test", "own"): 4,
    }
    assert np.isfinite([row["itm"] for row in found]).all()


def test_no_image_is_held_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("capfilt.models.open.open_filter", lambda *_: FakeFilter())
    stage = ScoreHeldOut(TrainedModel("filter"), seed=0)
    found, made = run_global(stage, site(tmp_path, stage.filter), MemoryInput.of(human(1, "1 dog")))
    assert (found, len(made)) == ([], 2)
