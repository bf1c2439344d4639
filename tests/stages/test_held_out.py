import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from data_contracts.records import HumanPicture, Split
from models.protocols import Match
from stages.held_out import HeldOut, held_out, judge
from stages.memory import MemoryInput
from tests.stages.rows import FakeFilter, human, number_of, picture


def pairs(*texts: tuple[int, list[str]]) -> HeldOut:
    rows = [human(number, *own, split=Split.TEST) for number, own in texts]
    return held_out(MemoryInput.of(*rows, empty=[HumanPicture]), Split.TEST)


def test_a_split_with_its_texts_as_the_models_read_them() -> None:
    found = held_out(
        MemoryInput.of(
            human(1, "A Dog!", split=Split.TEST),
            human(2, "not this", split=Split.CALIBRATE),
            human(3, "...", split=Split.TEST),
            human(4, "c", "***", "d", split=Split.TEST),
        ),
        Split.TEST,
    )
    assert found.texts == (("a dog",), ("c", "d"))
    assert found.image_ids == (picture(1).image_id, picture(4).image_id)
    assert [number_of(image) for image in found.pictures] == [1, 4]
    assert found.owner.tolist() == [0, 1, 1]
    assert found.flat == ["a dog", "c", "d"]


def test_an_image_counts_once_and_not_when_the_crawl_has_it_too() -> None:
    rows = [human(number, "t", split=Split.TEST) for number in (1, 2, 3)]
    twice = HumanPicture(**{**rows[2].model_dump(), "row_id": "d" * 32})
    found = held_out(MemoryInput.of(*rows, twice), Split.TEST, besides=frozenset([picture(2).image_id]))
    assert found.image_ids == (picture(1).image_id, picture(3).image_id)


def test_a_good_filter_tells_own_from_other() -> None:
    judged = judge(
        pairs(*((number, [f"{number} dog"]) for number in range(8))), FakeFilter(), FakeFilter(), 0
    )
    assert judged.own.tolist() == [0.9] * 8
    assert judged.shuffled.tolist() == judged.hard.tolist() == [0.1] * 8
    assert np.allclose(judged.own_itc, 1)
    assert (judged.shuffled_itc < 1).all()


def test_the_hard_one_is_the_likest_other_image() -> None:
    asked: dict[str, set[int]] = {}

    class Noting(FakeFilter):
        def match(self, images, texts):
            for image, own in zip(images, texts, strict=True):
                for text in own:
                    asked.setdefault(text, set()).add(number_of(image))
            return super().match(images, texts)

    judge(pairs((0, ["0 a"]), (1, ["1 b"]), (9, ["9 c"])), Noting(), FakeFilter(), 0)
    assert 1 in asked["0 a"]
    assert 0 in asked["1 b"]
    assert 1 in asked["9 c"]


def test_the_seed_draws_the_shuffled_ones() -> None:
    many = pairs(*((number, [f"{number} dog"]) for number in range(30)))
    itc = [judge(many, FakeFilter(), FakeFilter(), seed).shuffled_itc.tolist() for seed in (0, 0, 1)]
    assert itc[0] == itc[1] != itc[2]


class Strict(FakeFilter):
    """Says 1 for exactly the texts that the image has."""

    def __init__(self, of: HeldOut) -> None:
        self.texts = {number_of(image): own for image, own in zip(of.pictures, of.texts, strict=True)}

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
    judged = judge(given, Strict(given), FakeFilter(), 0)
    assert (judged.own == 1).all()
    assert (judged.shuffled == 0).all()
    assert (judged.hard == 0).all()
    elsewhere = [any(text not in own for own in texts) for text in given.flat]
    assert len(judged.shuffled) == len(judged.hard) == sum(elsewhere)
