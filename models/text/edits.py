"""Hard negatives by editing a caption: another object, another attribute, the relation turned round.

A filter that has only seen captions of other images learns to spot objects and stays blind to what joins
them. A caption with one thing made wrong is the cure, and the test: ARO (arXiv 2210.01936) and SugarCrepe
(arXiv 2306.14610) judge models so. This goes beyond BLIP, whose negatives are all captions of other images.

The rules are for English and need no model (:mod:`capfilt.models.text.phrases`). What may be put in the place of
a noun phrase is what the captions themselves name, as often as they name it, so that neither a rare nor an
unknown word gives an edit away. For the same reason a relation is only replaced by
its opposite as often as the captions say the opposite; otherwise its two noun phrases change places. What no
rule can see stays a risk: an edit may happen to be true of something in the image that no caption mentions.
"""

from bisect import bisect
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import accumulate, pairwise
from random import Random

from capfilt.models.text.lexicon import (
    ADJECTIVES,
    ARTICLES,
    COLOURS,
    GENERIC,
    NUMBERS,
    OPPOSITES,
    PEOPLE,
    PICTORIAL,
    RELATIONS,
)
from capfilt.models.text.phrases import (
    RelatedPhrases,
    are_opposite,
    claim_of,
    find_claims,
    find_colours,
    find_phrases,
    find_related,
    join_tokens,
    looks_plural,
    may_be_same,
    stem,
    tokens,
)

DRAWS = 20


class EditKind(StrEnum):
    """What is made wrong."""

    OBJECT = "object"
    ATTRIBUTE = "attribute"
    RELATION = "relation"


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
        self.taken = {stem(word) for text in true for word in tokens(text)} | set(map(stem, old))
        self.person = old[-1] in PEOPLE

    def __call__(self, name: str) -> bool:
        words = name.split(" ")
        if self.person and words[-1] in PEOPLE:
            return False
        return not any(stem(word) in self.taken for word in words)


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
        split = [tokens(text) for text in texts]
        raw = Counter(" ".join(words[one.noun : one.end]) for words in split for one in find_phrases(words))
        singular: Counter[str] = Counter()
        plural: Counter[str] = Counter()
        counts: Counter[str] = Counter()
        articles: Counter[str] = Counter()  # how much oftener `an` than `a` before a word
        for words in split:
            counts.update(word for word in words if word in OPPOSITES or word in NUMBERS)
            counts.update(" ".join(words[said.start : said.end]) for said in find_related(words, raw))
            for before, word in pairwise(words):
                if before in ARTICLES:
                    articles[word] += 1 if before == "an" else -1
            for phrase in find_phrases(words, raw):
                name = " ".join(words[phrase.noun : phrase.end])
                if words[phrase.end - 1] in PICTORIAL | GENERIC or COLOURS.keys() & set(name.split(" ")):
                    continue
                if words[phrase.start] in ARTICLES:
                    singular[name] += 1
                elif words[phrase.start] in NUMBERS or looks_plural(name):
                    plural[name] += 1
        colours = Counter(words[at] for words in split for at in find_colours(words))
        return cls(
            _Bag.of(singular), _Bag.of(plural), _Bag.of(colours), dict(raw), dict(counts), dict(articles)
        )

    def edit(self, text: str, kind: EditKind, rng: Random, true: Collection[str]) -> str | None:
        """``text`` with one thing made wrong, or ``None`` when the rule finds nothing to change.

        ``true`` are the image's own texts: none of them is returned, nor one that says the same, nor is
        anything put in that one of them names.
        """
        true = {text, *true}
        words = tokens(text)
        match kind:
            case EditKind.OBJECT:
                edited = self._object(words, rng, true)
            case EditKind.ATTRIBUTE:
                edited = self._attribute(words, rng, true)
            case EditKind.RELATION:
                edited = self._relation(words, rng, true)
        if edited is None:
            return None
        again = join_tokens(self._agree(edited))
        return None if again in true or again in {join_tokens(tokens(one)) for one in true} else again

    def unsaid(self, text: str, said: Collection[str]) -> list[str]:
        """What ``text`` says and none of ``said`` does: things, colours, numbers, how one thing stands to another.

        All are captions as :func:`capfilt.models.text.normalise.normalise_caption` gives them.
        """
        words, others = tokens(text), [tokens(one) for one in said]
        known = {stem(word) for other in others for word in other}
        families = {COLOURS[word] for other in others for word in other if word in COLOURS}
        claims = [claim for other in others for claim in find_claims(other, self.nouns)]
        things = [words[one.end - 1] for one in find_phrases(words, self.nouns)]
        people = {word for word in PEOPLE if stem(word) in known}
        found = [
            thing
            for thing in things
            if stem(thing) not in known
            and not (thing in PEOPLE and people)
            and thing not in PICTORIAL | GENERIC | ADJECTIVES
        ]
        found += [word for word in words if word in COLOURS and COLOURS[word] not in families]
        found += [word for word in words if word in NUMBERS and word not in known]
        found += [
            " ".join(words[one.first.start : one.second.end])
            for one in find_related(words, self.nouns)
            if not any(may_be_same(claim_of(words, one), claim) for claim in claims)
        ]
        return list(dict.fromkeys(found))

    def _object(self, words: list[str], rng: Random, true: Collection[str]) -> list[str] | None:
        phrases = [one for one in find_phrases(words, self.nouns) if words[one.end - 1] not in PICTORIAL]
        rng.shuffle(phrases)
        for phrase in phrases:
            old = words[phrase.noun : phrase.end]
            many = words[phrase.start] not in ARTICLES and (
                words[phrase.start] in NUMBERS or looks_plural(" ".join(old))
            )
            new = (self.plural if many else self.singular).draw(rng, Fits(old, true))
            if new is not None:
                return words[: phrase.noun] + new.split(" ") + words[phrase.end :]
        return None

    def _attribute(self, words: list[str], rng: Random, true: Collection[str]) -> list[str] | None:
        colours = set(find_colours(words))
        places = sorted(
            colours | {at for at, word in enumerate(words) if word in OPPOSITES or word in NUMBERS}
        )
        rng.shuffle(places)
        said = {word for text in true for word in tokens(text)}
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
        found = list(find_related(words, self.nouns))
        rng.shuffle(found)
        known = [claim for text in true for claim in find_claims(tokens(text), self.nouns)]
        mine = set(find_claims(words, self.nouns))
        for said in found:
            for edited in self._turned(words, said, rng):
                new = set(find_claims(edited, self.nouns)) - mine
                if new and not any(may_be_same(one, other) for one in new for other in known):
                    return edited
        return None

    def _turned(self, words: list[str], said: RelatedPhrases, rng: Random) -> Iterator[list[str]]:
        """The relation replaced by its opposite and the phrases swapped, in an order that is drawn."""
        here = words[said.start : said.end]
        counts = {
            other: self.counts.get(" ".join(other), 0)
            for other in RELATIONS
            if are_opposite(tuple(here), other)
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
