"""Balance concepts: cap how many pairs a word has, so that a few subjects do not drown the rest (MetaCLIP)."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc

from data_contracts.contract import Contract
from data_contracts.errors import RecipeError
from data_contracts.records import Decision, Record, Score
from data_contracts.rejects import Reason, Reject
from stages.stage import GlobalStage, Rows, Site, StageInput

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
            what=f"select.balance.words: {path} is no list of words",
            evidence=evidence,
            remedy="one word a line, UTF-8; or leave it out: every word that says something counts",
        )

    def words(self) -> frozenset[str]:
        return frozenset(" ".join(Path(self.path).read_text("utf-8").lower().split("\n")).split())


@dataclass(frozen=True)
class BalanceWords(GlobalStage):
    """Selected pairs to those that stay: MetaCLIP's balancing (arXiv 2309.16671, algorithm 1), over all shards.

    A word that is in n > ``cap`` of the selected pairs takes each of them with probability cap / n, any other word takes
    all of its own; a pair stays when one of its words takes it. So a pair with a rare word always stays, and one that
    has none of the words, too. Draws come from (seed, pair, word). Without ``words`` those count that are no stop
    words. The human pairs are no part of this.
    """

    consumes: ClassVar[tuple[type[Record], ...]] = (Score, Decision)
    produces: ClassVar[type[Record]] = Decision
    unit: ClassVar[str] = "text"
    lists: ClassVar[bool] = True

    cap: int
    seed: int
    words: WordList | None = None

    def run(self, site: Site, inputs: StageInput) -> Iterator[Rows]:
        known = self.words.words() if self.words else None
        stop = frozenset[str]() if known else _stop_words()
        before: Counter[str] = Counter()
        total = 0
        for _, _, texts in self._pairs(inputs):
            total += len(texts)
            for text in texts.values():
                before.update(concepts(text, known, stop))
        after: Counter[str] = Counter()
        kept_in_all = 0
        for _, decisions, texts in self._pairs(inputs):
            for pair, text in texts.items():
                words = concepts(text, known, stop)
                if self._stays(pair, words, before):
                    after.update(words)
                    kept_in_all += 1
        over = {word: count for word, count in before.most_common() if count > self.cap}
        facts = {
            "pairs": total,
            "kept": kept_in_all,
            "words": len(before),
            "over_cap": len(over),
            "most": [[word, count, after[word]] for word, count in [*over.items()][:TOLD]],
        }
        note = f"{len(over):,} of {len(before):,} words are in more than {self.cap:,} pairs: " + ", ".join(
            f"{word} {was:,} -> {now:,}" for word, was, now in facts["most"]  # type: ignore[union-attr]
        )
        for shard, decisions, texts in self._pairs(inputs):
            stay = [
                self._stays(pair, concepts(texts[pair], known, stop), before)
                for pair in decisions["pair_id"].to_pylist()
            ]
            mask = pa.array(stay, pa.bool_())
            left = decisions.filter(pc.invert(mask)).to_pylist()
            yield Rows(
                decisions.filter(mask),
                [self._reject(row, texts[row["pair_id"]], before, known, stop) for row in left],
                shard=shard,
                units=len(decisions),
                notes=(note,),
                facts=facts,
            )

    def _pairs(self, inputs: StageInput) -> Iterator[tuple[str, pa.Table, dict[str, str]]]:
        """Each shard with its decisions and the text of each of them, by pair_id."""
        schema = Contract(Decision).schema
        texts = inputs.shards(Score, ["pair_id", "text"])
        for (shard, decisions), (_, scored) in zip(inputs.shards(Decision), texts, strict=True):
            chosen = scored.filter(pc.is_in(scored["pair_id"], decisions["pair_id"].combine_chunks()))
            pairs = zip(chosen["pair_id"].to_pylist(), chosen["text"].to_pylist(), strict=True)
            yield shard, decisions.cast(schema), dict(pairs)

    def _stays(self, pair: str, words: Iterable[str], counts: Mapping[str, int]) -> bool:
        none = True
        for word in words:
            none = False
            if counts[word] <= self.cap or self._draw(pair, word) < self.cap / counts[word]:
                return True
        return none

    def _draw(self, pair: str, word: str) -> float:
        """From 0 to 1, the same whenever it is asked."""
        found = hashlib.sha256(f"balance\x1f{self.seed}\x1f{pair}\x1f{word}".encode()).digest()
        return int.from_bytes(found[:8], "big") / 2**64

    def _reject(
        self,
        row: Mapping[str, Any],
        text: str,
        counts: Mapping[str, int],
        known: frozenset[str] | None,
        stop: frozenset[str],
    ) -> Reject:
        said = ", ".join(f"{word} in {counts[word]:,}" for word in concepts(text, known, stop))
        return Reject(
            id=row["pair_id"],
            row_id=row["row_id"],
            stage="balance",
            unit=self.unit,
            reason=Reason.OVER_CAP,
            detail=f"{said}: {text[:200]}",
        )


def concepts(text: str, known: frozenset[str] | None, stop: frozenset[str]) -> list[str]:
    """The words of a text that count, each once, in their order."""
    words = dict.fromkeys(_WORD.findall(text.lower()))
    return [word for word in words if (word in known if known is not None else word not in stop)]


def _stop_words() -> frozenset[str]:
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    return frozenset(ENGLISH_STOP_WORDS)
