import numpy as np
import pytest

from capfilt.data_contracts.contract import Contract
from capfilt.data_contracts.identity import pair_id
from capfilt.data_contracts.records import Score, WebSimilarity
from capfilt.stages.in_memory import MemoryInput
from capfilt.stages.training.rehearsal import confident, screened
from tests.stages.rows import picture, score


def similarity(number: int, text: str, itc: float) -> WebSimilarity:
    made = picture(number)
    return WebSimilarity(pair_id=pair_id(made.image_id, text), row_id=made.row_id, itc=itc)


def parts(kind: type, *parts: list) -> MemoryInput:
    return MemoryInput({kind: [Contract(kind).table(rows) for rows in parts]})


def test_the_filter_trusts_the_share_that_is_most_alike_over_all_shards() -> None:
    cosines = np.random.default_rng(0).permutation(100) / 100
    rows = [similarity(number, f"{cosine} of it", cosine) for number, cosine in enumerate(cosines)]
    trusted = confident(parts(WebSimilarity, rows[:20], [], rows[20:]), 0.15)
    found = [
        cosine
        for number, cosine in enumerate(cosines)
        if trusted.of(picture(number).image_id, [f"{cosine} of it"])
    ]
    assert len(trusted) == len(found) == 15
    assert min(found) == 0.85


def test_only_an_images_own_trusted_texts_are_given() -> None:
    trusted = confident(
        parts(WebSimilarity, [similarity(1, "a", 0.9), similarity(1, "b", 0.1), similarity(2, "c", 0.8)]),
        0.67,
    )
    one, other = picture(1).image_id, picture(2).image_id
    assert trusted.of(one, ["b", "a", "c"]) == ["a"]
    assert trusted.of(other, ["a", "c"]) == ["c"]
    assert trusted.of(other, []) == []


def test_of_equals_at_the_cut_all_are_trusted() -> None:
    rows = [similarity(number, "same", 0.1) for number in range(10)]
    assert len(confident(parts(WebSimilarity, rows), 0.15)) == 10


def test_the_captioner_trusts_what_the_filter_gives_even_odds() -> None:
    inputs = parts(Score, [score(1, "a", 0.5)], [score(2, "b", 0.49), score(2, "c", 0.9)])
    trusted = screened(inputs)
    assert [len(trusted), trusted.of(picture(2).image_id, ["b", "c"])] == [2, ["c"]]
    assert len(screened(inputs, 0.8)) == 1


@pytest.mark.parametrize("empty", [[], [[]], [[], []]])
def test_where_there_was_no_need_nothing_is_trusted(empty: list) -> None:
    for trusted in (confident(parts(WebSimilarity, *empty)), screened(parts(Score, *empty))):
        assert len(trusted) == 0
        assert trusted.of(picture(1).image_id, ["a"]) == []


def test_an_id_that_ends_in_zeros_is_still_itself() -> None:
    image = picture(1).image_id
    text = next(f"{n}" for n in range(2000) if pair_id(image, f"{n}").endswith("00"))
    row = similarity(1, text, 0.5)
    trusted = confident(parts(WebSimilarity, [row, similarity(1, "other", 0.1)]), 0.5)
    assert trusted.of(image, [text, "other"]) == [text]
