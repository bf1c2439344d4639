import pytest
from hypothesis import given
from hypothesis import strategies as st

from capfilt.models.text.normalise import normalise_caption


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("A Dog.", "a dog"),
        ('"Big" (red) *car*: #1; ~new!', "big red car 1 new"),
        ("it's a cat, isn't it?", "it's a cat, isn't it?"),  # commas, quotes and question marks stay
        ("  two   spaces \n", "two spaces"),
        ("one\tword", "one\tword"),  # a single white space of any kind stays, as in BLIP
        ("end\n", "end"),
        ("...", ""),
        ("", ""),
    ],
)
def test_examples(text: str, normal: str) -> None:
    assert normalise_caption(text) == normal


def test_at_most_thirty_words() -> None:
    assert normalise_caption("word " * 40) == " ".join(["word"] * 30)
    assert normalise_caption("word " * 40, max_words=2) == "word word"


@given(st.text(), st.integers(1, 40))
def test_what_holds_for_every_text(text: str, max_words: int) -> None:
    normal = normalise_caption(text, max_words)
    assert not set(normal) & set('.!"()*#:;~')
    assert "  " not in normal
    assert len(normal.split(" ")) <= max_words
    assert not normal.startswith(" ")
