import pytest
from hypothesis import given
from hypothesis import strategies as st

from capfilt.data_contracts.errors import RecipeError
from capfilt.data_contracts.rejects import Reason
from capfilt.stages.clean.caption_guard import CaptionGuard

OFF = CaptionGuard(min_words=0, repeats=0, prompt_echo=False)
PROMPT = "a picture of"


@pytest.mark.parametrize(
    "text",
    [
        "two dogs",
        "a man holds a sign that reads no no to cars",
        "a boy in a red shirt and a boy in a blue shirt and a girl in a red shirt",
        "bora bora and baden baden",
        "a banana, mississippi and the www 100000 200000",
        "three pictures of a dog, a picture of a cat",
        "two dogs sleep; ZZZ",
        "一只狗在沙滩上奔跑",
        "สุนัขวิ่งบนชายหาด",
        "собака бежит по пляжу",
    ],
)
def test_captions_stay(text: str) -> None:
    assert CaptionGuard().refuse(text, PROMPT) is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", Reason.EMPTY_CAPTION),
        (" \n\t", Reason.EMPTY_CAPTION),
        (".", Reason.NO_WORDS),
        ("[SEP] <pad> <|endoftext|> </s> [unused7] !", Reason.NO_WORDS),
        ("dog.", Reason.TOO_SHORT),
        ("[SEP] dog", Reason.TOO_SHORT),
        ("a picture of a dog", Reason.PROMPT_ECHO),
        ("A Picture of", Reason.PROMPT_ECHO),
        ("dai dai dai", Reason.LOOP),
        ("a dog, a dog, a dog", Reason.LOOP),
        ("the man with the hat and the dog with the hat and the dog with the", Reason.LOOP),
        ("a big daidaidai", Reason.LOOP),
        ("a doooooog runs", Reason.LOOP),
        ("狗狗狗狗狗", Reason.LOOP),
    ],
)
def test_what_is_no_caption_leaves_with_its_reason(text: str, reason: Reason) -> None:
    assert CaptionGuard().refuse(text, PROMPT) is reason


def test_every_rule_can_be_switched_off() -> None:
    for text in (".", "dog", "a picture of a dog", "dai dai dai", "a big daidaidai"):
        assert CaptionGuard().refuse(text, PROMPT)
        assert OFF.refuse(text, PROMPT) is None
    assert OFF.refuse(" ", PROMPT) is Reason.EMPTY_CAPTION


def test_thresholds_are_the_specs_own() -> None:
    assert CaptionGuard(min_words=4).refuse("a red dog", PROMPT) is Reason.TOO_SHORT
    assert CaptionGuard(repeats=4).refuse("dai dai dai", PROMPT) is None
    assert CaptionGuard(repeats=2).refuse("a dog a dog", PROMPT) is Reason.LOOP
    assert CaptionGuard().refuse("a picture of a dog", "") is None
    assert CaptionGuard().refuse("describe the dog", "describe") is Reason.PROMPT_ECHO


@given(
    st.lists(st.sampled_from(["a", "red", "dog", "runs"]), min_size=1, max_size=3),
    st.integers(2, 5),
    st.lists(st.just("tree"), max_size=1),
)
def test_a_phrase_so_often_in_a_row_is_a_loop_wherever_it_stands(
    phrase: list[str], repeats: int, around: list[str]
) -> None:
    guard = CaptionGuard(min_words=0, repeats=repeats)
    text = " ".join([*around, *phrase * repeats, *around])
    assert guard.refuse(text, PROMPT) is Reason.LOOP


@given(st.lists(st.integers(0, 999), unique=True))
def test_words_that_differ_are_no_loop(words: list[int]) -> None:
    assert CaptionGuard(min_words=0).refuse("x " + " ".join(map(str, words)), PROMPT) is None


@pytest.mark.parametrize(("key", "value"), [("min_words", -1), ("repeats", 1), ("repeats", -3)])
def test_values_that_make_no_sense(key: str, value: int) -> None:
    with pytest.raises(RecipeError, match=f"this {key}") as caught:
        CaptionGuard(**{key: value})
    assert str(value) in caught.value.evidence
