"""Count which of the web's words the human captions know: what they do not know, finetuning forgets."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from capfilt.data_contracts.contract import Contract
from capfilt.data_contracts.records import HumanImage, IngestedImage, Record, Split, WordCoverage
from capfilt.models.text.normalise import content_words
from capfilt.stages.out_of_core import out_of_core
from capfilt.stages.stage import GlobalStage, Rows, Site, StageInput
from capfilt.stages.training.rehearsal import NARROW, covered_share

# A word counts from so many web texts on, or such a share of them: names and numbers that occur once do not.
RARE, RARE_SHARE = 5, 0.0005
COMMON = 0.4  # a word in more of the web texts says nothing about its image
ENOUGH = 10  # human captions from which a word can be learnt


@dataclass(frozen=True)
class MeasureWordCoverage(GlobalStage):
    """One :class:`WordCoverage` for each that is frequent in the web texts; the human captions are those of the train
    split.

    The facts of the part have `covered_share`, that of the web's word occurrences whose word is covered. Words
    are summed up by DuckDB out of core, so memory does not grow with the crawl.
    """

    consumes: ClassVar[tuple[type[Record], ...]] = (HumanImage, IngestedImage)
    produces: ClassVar[type[Record]] = WordCoverage
    unit: ClassVar[str] = "word"
    may_find_nothing: ClassVar[bool] = True

    def run(self, site: Site, inputs: StageInput) -> Iterator[Rows]:
        with out_of_core(site) as database:
            database.execute("CREATE TABLE seen (word VARCHAR, web BIGINT, human BIGINT)")
            for part in inputs.parts(HumanImage, ["texts", "split"]):
                own = part.filter(pc.equal(part["split"], str(Split.TRAIN)))
                _add(database, own["texts"], "0, count")
            web = sum(
                _add(database, part["texts"], "count, 0") for part in inputs.parts(IngestedImage, ["texts"])
            )
            words = database.sql(
                "SELECT word, sum(web)::BIGINT AS web_texts, sum(human)::BIGINT AS human_texts, "
                "sum(human) >= ? AS covered FROM seen GROUP BY word HAVING sum(web) BETWEEN ? AND ? ORDER BY word",
                params=[ENOUGH, max(RARE, RARE_SHARE * web), COMMON * web],
            ).to_arrow_table()
        schema = Contract(WordCoverage).schema
        words = pa.table([words[name].cast(schema.field(name).type) for name in schema.names], schema=schema)
        share = covered_share(words)
        note = f"human captions know {share:.0%} of what {web:,} web texts say; narrow: under {NARROW:.0%}"
        facts = {"covered_share": share, "web_texts": web}
        yield Rows(words, units=len(words), notes=(note,), facts=facts)


def _add(database: duckdb.DuckDBPyConnection, texts: pa.ChunkedArray, counted_as: str) -> int:
    """Add the words of the texts of a part; how many texts those are."""
    counts: Counter[str] = Counter()
    number = 0
    for own in texts.to_pylist():
        for text in own:
            counts.update(content_words(text))
            number += 1
    part = pa.table({"word": list(counts), "count": pa.array(counts.values(), pa.int64())})
    database.register("part", part.cast(pa.schema([("word", pa.string()), ("count", pa.int64())])))
    database.execute(f"INSERT INTO seen SELECT word, {counted_as} FROM part")
    return number
