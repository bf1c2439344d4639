"""Hard negatives by editing a caption: another object, another attribute, the relation turned round.

A filter that has only seen captions of other images learns to spot objects and stays blind to what joins
them. A caption with one thing made wrong is the cure, and the test: ARO (arXiv 2210.01936) and SugarCrepe
(arXiv 2306.14610) judge models so. This goes beyond BLIP, whose negatives are all captions of other images.

The rules are for English and need no model. A noun phrase is what stands between a determiner and the next
function word; what may be put in its place is what the captions themselves name, as often as they name it, so
that neither a rare nor an unknown word gives an edit away. For the same reason a relation is only replaced by
its opposite as often as the captions say the opposite; otherwise its two noun phrases change places. What no
rule can see stays a risk: an edit may happen to be true of something in the image that no caption mentions.
"""

import re
from bisect import bisect
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import accumulate, pairwise
from random import Random
from typing import NamedTuple

from capfilt.models.text.lexicon import (
    ADJECTIVES,
    ARTICLES,
    BOUNDS,
    COLOURS,
    DETERMINERS,
    GENERIC,
    ING_NOUNS,
    NUMBERS,
    OPPOSITES,
    PEOPLE,
    PICTORIAL,
    RELATIONS,
)

# Punctuation keeps the spaces around it, so that an edit does not give itself away by them.
_TOKEN = re.compile(r"\w+(?:['\u2019-]\w+)*|\s*[^\w\s]\s*")
LONGEST = 5  # words of a noun phrase after its determiner
DRAWS = 20
_COPULAS = {"is", "are", "that", "which", "who", "was", "were"}


class EditKind(StrEnum):
    """What is made wrong."""

    OBJECT = "object"
    ATTRIBUTE = "attribute"
    RELATION = "relation"


class _Phrase(NamedTuple):
    """Token numbers of a noun phrase: its determiner, its noun without leading adjectives, its end."""

    start: int
    noun: int
    end: int


class _Claim(NamedTuple):
    """That one thing stands so to another, whichever way it was said."""

    one: frozenset[str]
    axis: str
    other: frozenset[str]


class _Said(NamedTuple):
    """A directional relation between two noun phrases, at these token numbers."""

    first: _Phrase
    start: int
    end: int
    second: _Phrase


@dataclass(frozen=True)
class _Bag:
    """Things to draw, as often as they were counted."""

    names: tuple[str, ...]
    sums: tuple[int, ...]

    @classmethod
    def of(cls, counts: Mapping[str, int]) -> "_Bag":
        names = sorted(counts)
        return cls(tuple(names), tuple(accumulate(counts[name] for name in names)))

    def draw(self, rng: Random, fits: "Fits") -> str | None:
        """One that fits, or ``None``; draws by count first, then takes what there is."""
        if not self.names:
            return None
        for _ in range(DRAWS):
            name = self.names[bisect(self.sums, rng.randrange(self.sums[-1]))]
            if fits(name):
                return name
        left = [name for name in self.names if fits(name)]
        return rng.choice(left) if left else None


class Fits:
    """Whether a phrase may stand in another's place: it shares no word with it or with what is true."""

    def __init__(self, old: Sequence[str], true: Collection[str]) -> None:
        self.taken = {_stem(word) for text in true for word in _TOKEN.findall(text)} | set(map(_stem, old))
        self.person = old[-1] in PEOPLE

    def __call__(self, name: str) -> bool:
        words = name.split(" ")
        if self.person and words[-1] in PEOPLE:
            return False
        return not any(_stem(word) in self.taken for word in words)


@dataclass(frozen=True)
class Edits:
    """The vocabulary of a set of captions, and the rules that edit a caption with it."""

    singular: _Bag
    plural: _Bag
    colours: _Bag
    nouns: Mapping[str, int]
    counts: Mapping[str, int]
    articles: Mapping[str, int]

    @classmethod
    def of(cls, texts: Iterable[str]) -> "Edits":
        """From captions as :func:`capfilt.models.text.normalise.normalise_caption` gives them; their order does not
        matter.
        """
        split = [_TOKEN.findall(text) for text in texts]
        raw = Counter(" ".join(words[one.noun : one.end]) for words in split for one in _phrases(words))
        singular: Counter[str] = Counter()
        plural: Counter[str] = Counter()
        counts: Counter[str] = Counter()
        articles: Counter[str] = Counter()  # how much oftener `an` than `a` before a word
        for words in split:
            counts.update(word for word in words if word in OPPOSITES or word in NUMBERS)
            counts.update(" ".join(words[said.start : said.end]) for said in _said(words, raw))
            for before, word in pairwise(words):
                if before in ARTICLES:
                    articles[word] += 1 if before == "an" else -1
            for phrase in _phrases(words, raw):
                name = " ".join(words[phrase.noun : phrase.end])
                if words[phrase.end - 1] in PICTORIAL | GENERIC or COLOURS.keys() & set(name.split(" ")):
                    continue
                if words[phrase.start] in ARTICLES:
                    singular[name] += 1
                elif words[phrase.start] in NUMBERS or _looks_plural(name):
                    plural[name] += 1
        colours = Counter(words[at] for words in split for at in _colours(words))
        return cls(
            _Bag.of(singular), _Bag.of(plural), _Bag.of(colours), dict(raw), dict(counts), dict(articles)
        )

    def edit(self, text: str, kind: EditKind, rng: Random, true: Collection[str]) -> str | None:
        """``text`` with one thing made wrong, or ``None`` when the rule finds nothing to change.

        ``true`` are the image's own texts: none of them is returned, nor one that says the same, nor is
        anything put in that one of them names.
        """
        true = {text, *true}
        words = _TOKEN.findall(text)
        match kind:
            case EditKind.OBJECT:
                edited = self._object(words, rng, true)
            case EditKind.ATTRIBUTE:
                edited = self._attribute(words, rng, true)
            case EditKind.RELATION:
                edited = self._relation(words, rng, true)
        if edited is None:
            return None
        again = _join(self._agree(edited))
        return None if again in true or again in {_join(_TOKEN.findall(one)) for one in true} else again

    def unsaid(self, text: str, said: Collection[str]) -> list[str]:
        """What ``text`` says and none of ``said`` does: things, colours, numbers, how one thing stands to another.

        All are captions as :func:`capfilt.models.text.normalise.normalise_caption` gives them.
        """
        words, others = _TOKEN.findall(text), [_TOKEN.findall(one) for one in said]
        known = {_stem(word) for other in others for word in other}
        families = {COLOURS[word] for other in others for word in other if word in COLOURS}
        claims = [claim for other in others for claim in _claims(other, self.nouns)]
        things = [words[one.end - 1] for one in _phrases(words, self.nouns)]
        people = {word for word in PEOPLE if _stem(word) in known}
        found = [
            thing
            for thing in things
            if _stem(thing) not in known
            and not (thing in PEOPLE and people)
            and thing not in PICTORIAL | GENERIC | ADJECTIVES
        ]
        found += [word for word in words if word in COLOURS and COLOURS[word] not in families]
        found += [word for word in words if word in NUMBERS and word not in known]
        found += [
            " ".join(words[one.first.start : one.second.end])
            for one in _said(words, self.nouns)
            if not any(_may_be(_claim(words, one), claim) for claim in claims)
        ]
        return list(dict.fromkeys(found))

    def _object(self, words: list[str], rng: Random, true: Collection[str]) -> list[str] | None:
        phrases = [one for one in _phrases(words, self.nouns) if words[one.end - 1] not in PICTORIAL]
        rng.shuffle(phrases)
        for phrase in phrases:
            old = words[phrase.noun : phrase.end]
            many = words[phrase.start] not in ARTICLES and (
                words[phrase.start] in NUMBERS or _looks_plural(" ".join(old))
            )
            new = (self.plural if many else self.singular).draw(rng, Fits(old, true))
            if new is not None:
                return words[: phrase.noun] + new.split(" ") + words[phrase.end :]
        return None

    def _attribute(self, words: list[str], rng: Random, true: Collection[str]) -> list[str] | None:
        colours = set(_colours(words))
        places = sorted(
            colours | {at for at, word in enumerate(words) if word in OPPOSITES or word in NUMBERS}
        )
        rng.shuffle(places)
        said = {word for text in true for word in _TOKEN.findall(text)}
        families = {COLOURS.get(word) for word in said} - {None}
        for at in places:
            word = words[at]
            if at in colours:
                new = self.colours.draw(rng, lambda name: COLOURS[name] not in families)  # type: ignore[arg-type]
            elif word in NUMBERS:
                seen = [number for number in NUMBERS if self.counts.get(number) and number not in said]
                new = rng.choice(seen) if seen else None
            else:
                others = [other for other in OPPOSITES[word] if self.counts.get(other) and other not in said]
                new = rng.choice(others) if others else None
            if new is not None:
                return [*words[:at], new, *words[at + 1 :]]
        return None

    def _relation(self, words: list[str], rng: Random, true: Collection[str]) -> list[str] | None:
        found = list(_said(words, self.nouns))
        rng.shuffle(found)
        known = [claim for text in true for claim in _claims(_TOKEN.findall(text), self.nouns)]
        mine = set(_claims(words, self.nouns))
        for said in found:
            for edited in self._turned(words, said, rng):
                new = set(_claims(edited, self.nouns)) - mine
                if new and not any(_may_be(one, other) for one in new for other in known):
                    return edited
        return None

    def _turned(self, words: list[str], said: _Said, rng: Random) -> Iterator[list[str]]:
        """The relation replaced by its opposite and the phrases swapped, in an order that is drawn."""
        here = words[said.start : said.end]
        counts = {
            other: self.counts.get(" ".join(other), 0) for other in RELATIONS if _opposite(tuple(here), other)
        }
        first, second = said.first, said.second
        swapped = [
            *words[: first.start],
            *words[second.start : second.end],
            *words[first.end : second.start],
            *words[first.start : first.end],
            *words[second.end :],
        ]
        total = sum(counts.values())
        drawn = rng.randrange(total + max(1, self.counts.get(" ".join(here), 0)))
        if drawn >= total:
            yield swapped
        if total:
            other = rng.choices(list(counts), list(counts.values()))[0]
            yield words[: said.start] + list(other) + words[said.end :]
        if drawn < total:
            yield swapped

    def _agree(self, words: list[str]) -> list[str]:
        """With `a` and `an` as the next word wants them: as the captions have it, else by its first letter."""
        return [
            self._article(after) if word in ARTICLES else word
            for word, after in zip(words, [*words[1:], ""], strict=True)
        ]

    def _article(self, word: str) -> str:
        if seen := self.articles.get(word, 0):
            return "an" if seen > 0 else "a"
        silent = word.startswith(("hour", "honest", "heir"))
        vowel = word[:1] in "aeiou" and not word.startswith(("uni", "use", "usu", "eu", "one", "ute"))
        return "an" if word and (silent or vowel) else "a"


def _phrases(words: Sequence[str], nouns: Mapping[str, int] | None = None) -> Iterator[_Phrase]:
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
        while at - noun > 1 and (words[at - 1].endswith(("s", "ed", "ing")) or _looks_plural(words[at - 2])):
            if nouns.get(" ".join(words[noun : at - 1]), 0) <= nouns.get(words[at - 1], 0):
                break
            at -= 1
        if at > noun:
            yield _Phrase(start, noun, at)


def _continues(words: Sequence[str], start: int, at: int) -> bool:
    word = words[at]
    if word == "and":  # a black and white dog
        return words[at - 1] in COLOURS and at + 1 < len(words) and words[at + 1] in COLOURS
    if word.endswith("ing") and word not in ING_NOUNS and at > start + 1:
        return False
    return word not in BOUNDS and _is_word(word)


def _said(words: Sequence[str], nouns: Mapping[str, int]) -> Iterator[_Said]:
    phrases = [one for one in _phrases(words, nouns) if words[one.end - 1] not in PICTORIAL]
    after = {one.start: one for one in phrases}
    for start, end in _relations(words):
        before = [one for one in phrases if one.end <= start and _joins(words[one.end : start])]
        if before and end in after:
            yield _Said(before[-1], start, end, after[end])


def _claims(words: Sequence[str], nouns: Mapping[str, int]) -> Iterator[_Claim]:
    return (_claim(words, said) for said in _said(words, nouns))


def _claim(words: Sequence[str], said: _Said) -> _Claim:
    relation = RELATIONS[tuple(words[said.start : said.end])]
    one = frozenset(words[said.first.start + 1 : said.first.end])
    other = frozenset(words[said.second.start + 1 : said.second.end])
    if relation.forward is False:
        one, other = other, one
    return _Claim(one, relation.axis, other)


def _relations(words: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Token numbers of the directional relations, the longest wording at each place."""
    at = 0
    while at < len(words):
        ends = [end for end in range(at + 1, at + 6) if tuple(words[at:end]) in RELATIONS]
        if ends:
            yield at, max(ends)
        at = max(ends, default=at + 1)


def _opposite(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    if one == other:
        return False
    first, second = RELATIONS[one], RELATIONS[other]
    if first.forward is None or second.forward is None:
        return {first.axis, second.axis} == {"inside", "outside"} and other != ("in",)
    return first.axis == second.axis and first.forward is not second.forward


def _joins(words: Sequence[str]) -> bool:
    """Whether what stands between a noun phrase and a relation only joins them: "a dog that is sitting on"."""
    return len(words) <= 3 and all(
        word in _COPULAS or (word.endswith(("ing", "ed", "s")) and (word,) not in RELATIONS) for word in words
    )


def _may_be(one: _Claim, other: _Claim) -> bool:
    """Whether both may be the same claim, made with more or with fewer adjectives."""

    def alike(first: frozenset[str], second: frozenset[str]) -> bool:
        return first <= second or second <= first

    return one.axis == other.axis and alike(one.one, other.one) and alike(one.other, other.other)


def _colours(words: Sequence[str]) -> Iterator[int]:
    """Where a colour is said of something, before it or after it; "an orange" and "an ice cream" are things."""
    for at, word in enumerate(words):
        if word in COLOURS:
            after = words[at + 1 : at + 2]
            before = words[at - 1] if at else ""
            of_two = at > 1 and before == "and" and words[at - 2] in COLOURS
            if (
                before in _COPULAS
                or of_two
                or (after and (after[0] == "and" or _continues(words, at, at + 1)))
            ):
                yield at


def _looks_plural(name: str) -> bool:
    return name.endswith("s") and not name.endswith(("ss", "us", "is"))


def _stem(word: str) -> str:
    return word[:-1] if len(word) > 3 and _looks_plural(word) else word


def _join(words: Sequence[str]) -> str:
    """The inverse of splitting into tokens: a space between two words, none beside punctuation."""
    joined = ""
    for before, word in pairwise(["", *words]):
        joined += f" {word}" if before and _is_word(before) and _is_word(word) else word
    return joined.strip()


def _is_word(token: str) -> bool:
    return token[:1].isalnum() or token[:1] == "_"
