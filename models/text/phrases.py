"""The grammar that caption editing needs: tokens, noun phrases, and what a caption claims of how things stand.

The rules are for English and need no model. A noun phrase is what stands between a determiner and the next
function word.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from capfilt.models.text.lexicon import (
    ADJECTIVES,
    BOUNDS,
    COLOURS,
    DETERMINERS,
    ING_NOUNS,
    PICTORIAL,
    RELATIONS,
)

_TOKEN = re.compile(r"\w+(?:['\u2019-]\w+)*|\s*[^\w\s]\s*")

LONGEST = 5  # words of a noun phrase after its determiner

COPULAS = {"is", "are", "that", "which", "who", "was", "were"}


def tokens(text: str) -> list[str]:
    """Words and punctuation; punctuation keeps the spaces around it, so that an edit does not give itself away."""
    return _TOKEN.findall(text)


class Phrase(NamedTuple):
    """Token numbers of a noun phrase: its determiner, its noun without leading adjectives, its end."""

    start: int
    noun: int
    end: int


class Claim(NamedTuple):
    """That one thing stands so to another, whichever way it was said."""

    one: frozenset[str]
    axis: str
    other: frozenset[str]


class RelatedPhrases(NamedTuple):
    """A directional relation between two noun phrases, at these token numbers."""

    first: Phrase
    start: int
    end: int
    second: Phrase


def find_phrases(words: Sequence[str], nouns: Mapping[str, int] | None = None) -> Iterator[Phrase]:
    """The noun phrases, left to right. A last word that looks like a verb is not taken in when the phrase without
    it is a commoner noun than the word is, by the counts ``nouns``: "a dog runs under the table".
    """
    nouns = nouns or {}
    at = 0
    while at < len(words):
        start = at
        at += 1
        if words[start] not in DETERMINERS or (at < len(words) and words[at] in DETERMINERS):
            continue
        while at < len(words) and at - start <= LONGEST and _continues(words, start, at):
            at += 1
        noun = start + 1
        while noun < at - 1 and (words[noun] in ADJECTIVES or words[noun] == "and"):
            noun += 1
        while at - noun > 1 and (words[at - 1].endswith(("s", "ed", "ing")) or looks_plural(words[at - 2])):
            if nouns.get(" ".join(words[noun : at - 1]), 0) <= nouns.get(words[at - 1], 0):
                break
            at -= 1
        if at > noun:
            yield Phrase(start, noun, at)


def _continues(words: Sequence[str], start: int, at: int) -> bool:
    word = words[at]
    if word == "and":  # a black and white dog
        return words[at - 1] in COLOURS and at + 1 < len(words) and words[at + 1] in COLOURS
    if word.endswith("ing") and word not in ING_NOUNS and at > start + 1:
        return False
    return word not in BOUNDS and is_word(word)


def find_related(words: Sequence[str], nouns: Mapping[str, int]) -> Iterator[RelatedPhrases]:
    phrases = [one for one in find_phrases(words, nouns) if words[one.end - 1] not in PICTORIAL]
    after = {one.start: one for one in phrases}
    for start, end in _find_relations(words):
        before = [one for one in phrases if one.end <= start and _joins(words[one.end : start])]
        if before and end in after:
            yield RelatedPhrases(before[-1], start, end, after[end])


def find_claims(words: Sequence[str], nouns: Mapping[str, int]) -> Iterator[Claim]:
    return (claim_of(words, said) for said in find_related(words, nouns))


def claim_of(words: Sequence[str], said: RelatedPhrases) -> Claim:
    relation = RELATIONS[tuple(words[said.start : said.end])]
    one = frozenset(words[said.first.start + 1 : said.first.end])
    other = frozenset(words[said.second.start + 1 : said.second.end])
    if relation.forward is False:
        one, other = other, one
    return Claim(one, relation.axis, other)


def _find_relations(words: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Token numbers of the directional relations, the longest wording at each place."""
    at = 0
    while at < len(words):
        ends = [end for end in range(at + 1, at + 6) if tuple(words[at:end]) in RELATIONS]
        if ends:
            yield at, max(ends)
        at = max(ends, default=at + 1)


def are_opposite(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    if one == other:
        return False
    first, second = RELATIONS[one], RELATIONS[other]
    if first.forward is None or second.forward is None:
        return {first.axis, second.axis} == {"inside", "outside"} and other != ("in",)
    return first.axis == second.axis and first.forward is not second.forward


def _joins(words: Sequence[str]) -> bool:
    """Whether what stands between a noun phrase and a relation only joins them: "a dog that is sitting on"."""
    return len(words) <= 3 and all(
        word in COPULAS or (word.endswith(("ing", "ed", "s")) and (word,) not in RELATIONS) for word in words
    )


def may_be_same(one: Claim, other: Claim) -> bool:
    """Whether both may be the same claim, made with more or with fewer adjectives."""

    def alike(first: frozenset[str], second: frozenset[str]) -> bool:
        return first <= second or second <= first

    return one.axis == other.axis and alike(one.one, other.one) and alike(one.other, other.other)


def find_colours(words: Sequence[str]) -> Iterator[int]:
    """Where a colour is said of something, before it or after it; "an orange" and "an ice cream" are things."""
    for at, word in enumerate(words):
        if word in COLOURS:
            after = words[at + 1 : at + 2]
            before = words[at - 1] if at else ""
            of_two = at > 1 and before == "and" and words[at - 2] in COLOURS
            if (
                before in COPULAS
                or of_two
                or (after and (after[0] == "and" or _continues(words, at, at + 1)))
            ):
                yield at


def looks_plural(name: str) -> bool:
    return name.endswith("s") and not name.endswith(("ss", "us", "is"))


def stem(word: str) -> str:
    return word[:-1] if len(word) > 3 and looks_plural(word) else word


def join_tokens(words: Sequence[str]) -> str:
    """The inverse of splitting into tokens: a space between two words, none beside punctuation."""
    joined = ""
    for before, word in pairwise(["", *words]):
        joined += f" {word}" if before and is_word(before) and is_word(word) else word
    return joined.strip()


def is_word(token: str) -> bool:
    return token[:1].isalnum() or token[:1] == "_"
