import pytest
from hypothesis import given
from hypothesis import strategies as st

from capfilt.models.text.normalise import normalise_caption
from capfilt.models.text.phrases import (
    find_claims,
    find_colours,
    find_phrases,
    join_tokens,
    may_be_same,
    tokens,
)


@given(st.text(alphabet="ab1 ,.'-_!?\u2019", max_size=40).map(normalise_caption))
def test_joining_undoes_splitting(text: str) -> None:
    assert tokens(join_tokens(tokens(text))) == tokens(text)


@pytest.mark.parametrize(
    ("text", "phrases"),
    [
        ("a brown dog left of an orange cat", ["dog", "cat"]),
        ("two big red apples on the table", ["apples", "table"]),
        ("a black and white dog", ["dog"]),
        ("free shipping", []),
    ],
)
def test_noun_phrases_without_their_leading_adjectives(text: str, phrases: list[str]) -> None:
    words = tokens(text)
    assert [" ".join(words[one.noun : one.end]) for one in find_phrases(words)] == phrases


def test_a_verb_is_left_out_where_the_captions_name_the_noun_without_it() -> None:
    words = tokens("a dog runs under a tree")
    ends = [one.end for one in find_phrases(words, {"dog": 2})]
    assert [words[end - 1] for end in ends] == ["dog", "tree"]


def claims(text: str) -> list:
    return list(find_claims(tokens(text), {}))


def test_a_claim_is_the_same_from_either_side_and_not_turned_round() -> None:
    (above,), (below,), (inverse,) = map(
        claims, ("a cup above a red box", "a box below a cup", "a box above a cup")
    )
    assert may_be_same(above, below)
    assert not may_be_same(above, inverse)


def test_a_colour_is_said_of_something_and_an_orange_is_a_thing() -> None:
    assert list(find_colours(tokens("a red dog that is black"))) == [1, 5]
    assert list(find_colours(tokens("an orange on a table"))) == []
