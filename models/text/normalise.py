"""Caption text as BLIP reads it."""

import re

_PUNCTUATION = re.compile(r"[.!\"()*#:;~]")
_SPACES = re.compile(r"\s{2,}")


MAX_WORDS = 30


def normalise_caption(text: str, max_words: int = MAX_WORDS) -> str:
    """BLIP's ``pre_caption``: lower case, ``. ! " ( ) * # : ; ~`` to spaces, runs of space to one, stripped,
    cut at ``max_words`` words. The same text must go to training and to judging, so this is the one place.
    """
    text = _PUNCTUATION.sub(" ", text.lower())
    text = _SPACES.sub(" ", text).rstrip("\n").strip(" ")
    words = text.split(" ")
    return " ".join(words[:max_words]) if len(words) > max_words else text


def content_words(text: str) -> set[str]:
    """The words of a text as BLIP reads it that may name what is seen: letters only, three or more."""
    return {word for word in normalise_caption(text).split() if len(word) > 2 and word.isalpha()}


def is_cut(text: str) -> bool:
    """Whether :func:`normalise_caption` leaves words out."""
    return len(normalise_caption(text, len(text) + 1).split(" ")) > MAX_WORDS
