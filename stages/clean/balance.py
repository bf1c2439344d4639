"""Balance concepts: cap how many pairs a word has, so that a few subjects do not drown the rest (MetaCLIP)."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import pyarrow.compute as pc

from capfilt.data_contracts.contract import Contract
from capfilt.data_contracts.errors import RecipeError
from capfilt.data_contracts.records import Decision, Record, Score, WordCount
from capfilt.stages.stage import GlobalStage, Rows, Site, StageInput

_WORD = re.compile(r"[^\W\d_]{2,}(?:['\u2019-][^\W\d_]+)*")
TOLD = 10  # words that the summary names


@dataclass(frozen=True)
class WordList:
    """A file of words, one a line. Its content is identity, where it lies is not."""

    path: str = field(metadata={"identity": False})
    digest: str = ""

    @classmethod
    def of(cls, path: str) -> "WordList":
        """Raises :class:`RecipeError` when there is none, or it is empty."""
        try:
            made = cls(path, hashlib.sha256(Path(path).read_bytes()).hexdigest())
            if made.words():
                return made
            evidence = "it has no word"
        except (OSError, UnicodeDecodeError) as error:
            evidence = str(error)
        raise RecipeError(
            what=f"{path} is not a list of words, as WordList.path has to be",
            evidence=evidence,
            remedy="one word a line, UTF-8; or leave it out: every word that says something counts",
        )

    def words(self) -> frozenset[str]:
        return frozenset(" ".join(Path(self.path).read_text("utf-8").lower().split("\n")).split())


@dataclass(frozen=True)
class Balance:
    """MetaCLIP's balancing (arXiv 2309.16671, algorithm 1) of selected pairs.

    A word that is in n > ``cap`` of the selected pairs takes each of them with probability cap / n, any other word
    takes all of its own; a pair stays when one of its words takes it. So a pair with a rare word always stays, and
    one that has none of the words, too. Draws come from (seed, pair, word). Without ``words`` those count that are no
    stop words.
    """

    cap: int
    seed: int
    words: WordList | None = None

    def load(self) -> "Balancer":
        """Ready to judge texts."""
        if self.words is None:
            return Balancer(self, None, _stop_words())
        return Balancer(self, self.words.words(), frozenset())


@dataclass(frozen=True)
class Balancer:
    """The words that count are those in ``known``, or where that is null all but the stop words."""

    balance: Balance
    known: frozenset[str] | None
    stop: frozenset[str]

    def concepts(self, text: str) -> list[str]:
        """The words of a text that count, each once, in their order."""
        words = dict.fromkeys(_WORD.findall(text.lower()))
        known, stop = self.known, self.stop
        return [word for word in words if (word in known if known is not None else word not in stop)]

    def stays(self, pair: str, words: Sequence[str], over: Mapping[str, int]) -> bool:
        """Whether a pair with these words stays; ``over`` has the words above the cap, and in how many pairs."""
        return not words or any(
            word not in over or self._draw(pair, word) < self.balance.cap / over[word] for word in words
        )

    def _draw(self, pair: str, word: str) -> float:
        """From 0 to 1, the same whenever it is asked."""
        found = hashlib.sha256(f"balance\x1f{self.balance.seed}\x1f{pair}\x1f{word}".encode()).digest()
        return int.from_bytes(found[:8], "big") / 2**64


@dataclass(frozen=True)
class CountWords(GlobalStage):
    """Selected pairs to the words that more than the cap of them have, and how many pairs of each will stay."""

    consumes: ClassVar[tuple[type[Record], ...]] = (Score, Decision)
    produces: ClassVar[type[Record]] = WordCount
    unit: ClassVar[str] = "figure"
    may_find_nothing: ClassVar[bool] = True

    balance: Balance

    def run(self, site: Site, inputs: StageInput) -> Iterator[Rows]:
        balancer, cap = self.balance.load(), self.balance.cap
        before: Counter[str] = Counter()
        after: Counter[str] = Counter()
        pairs = kept = 0
        for _, text in self._selected(inputs):
            pairs += 1
            before.update(balancer.concepts(text))
        over = {word: count for word, count in before.items() if count > cap}
        for pair, text in self._selected(inputs):
            words = balancer.concepts(text)
            if balancer.stays(pair, words, over):
                kept += 1
                after.update(words)
        found = [WordCount(word=word, pairs=count, kept=after[word]) for word, count in sorted(over.items())]
        most = sorted(found, key=lambda one: (-one.pairs, one.word))[:TOLD]
        said = ", ".join(f"{one.word} {one.pairs:,} to {one.kept:,}" for one in most)
        note = (
            f"{len(over):,} of {len(before):,} words are in more than {cap:,} of {pairs:,} pairs, "
            f"of which {kept:,} stay" + (f": {said}" if said else "")
        )
        facts = {"cap": cap, "words": len(before), "over_cap": len(over), "pairs": pairs, "kept": kept}
        table = Contract(WordCount).table(found)
        yield Rows(table, units=len(found), notes=(note,), facts=facts)

    def _selected(self, inputs: StageInput) -> Iterator[tuple[str, str]]:
        """The id and the text of every selected pair."""
        scores = inputs.parts(Score, ["pair_id", "text"])
        for decided, scored in zip(inputs.parts(Decision, ["pair_id"]), scores, strict=True):
            chosen = scored.filter(pc.is_in(scored["pair_id"], decided["pair_id"].combine_chunks()))
            yield from zip(chosen["pair_id"].to_pylist(), chosen["text"].to_pylist(), strict=True)


def _stop_words() -> frozenset[str]:
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    return frozenset(ENGLISH_STOP_WORDS)
