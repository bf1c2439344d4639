"""Find the images that sites show when they have none: the same bytes under many unrelated texts."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import ClassVar

from capfilt.data_contracts.contract import Contract
from capfilt.data_contracts.records import IngestedImage, Placeholder, Record
from capfilt.stages.out_of_core import out_of_core
from capfilt.stages.stage import GlobalStage, Rows, Site, StageInput

ALIKE = 0.1  # the line: of two texts, mean share of common trigrams up to which they count as unrelated
LOOKED_AT = 50  # texts that are compared with each other
HOST = r"^[a-z][a-z0-9+.-]*://(?:[^/?#@]*@)?([^/:?#]+)"
_FOUND = """
    WITH images AS (
        SELECT image_id, count(DISTINCT row_id) AS rows, count(DISTINCT host) AS hosts, min(url) AS example
        FROM seen GROUP BY image_id HAVING count(DISTINCT row_id) >= $rows
    ), texts AS (
        SELECT image_id, count(*) AS texts, min_by(text, md5(text), $looked_at) AS some
        FROM (SELECT DISTINCT image_id, text FROM seen SEMI JOIN images USING (image_id) WHERE text IS NOT NULL)
        GROUP BY image_id HAVING count(*) >= $rows
    )
    SELECT * FROM images JOIN texts USING (image_id) ORDER BY image_id
"""


@dataclass(frozen=True)
class FindPlaceholders(GlobalStage):
    """Images to placeholders: bytes that are in at least ``rows`` rows, with as many different texts, unrelated.

    How alike two texts are is the share of their trigrams of letters that both have (Jaccard), which asks for no
    spaces between words. Texts of one thing share its name: a shop's one image of a shirt under `Cotton shirt,
    blue, size S` and eleven like it (about 0.7), a painting under twelve descriptions that name it (0.2 and more), a
    logo under texts that name the firm. They are no placeholder. Names of things that have nothing to do with each
    other share endings and articles (below 0.05). The mean over all pairs of texts has to be at most ALIKE. So a
    placeholder passes that has its site's name in every text, rather than an image that deserves its texts is lost.

    It does not ask for several hosts: most placeholders are those of one shop. An image without texts is not judged.
    Counted by DuckDB out of core, so memory does not grow with the crawl.
    """

    consumes: ClassVar[tuple[type[Record], ...]] = (IngestedImage,)
    produces: ClassVar[type[Record]] = Placeholder
    unit: ClassVar[str] = "placeholder"
    may_find_nothing: ClassVar[bool] = True

    rows: int

    def run(self, site: Site, inputs: StageInput) -> Iterator[Rows]:
        found = []
        with out_of_core(site) as database:
            database.execute(
                "CREATE TABLE seen (image_id VARCHAR, row_id VARCHAR, host VARCHAR, url VARCHAR, text VARCHAR)"
            )
            for part in inputs.parts(IngestedImage, ["image_id", "row_id", "url", "texts"]):
                database.register("part", part)
                database.execute(
                    "INSERT INTO seen SELECT image_id, row_id, regexp_extract(lower(url), ?, 1), url, "
                    "unnest(CASE len(texts) WHEN 0 THEN [NULL] ELSE texts END) FROM part",
                    [HOST],
                )
            rows = database.execute(_FOUND, {"rows": self.rows, "looked_at": LOOKED_AT})
            names = [column[0] for column in rows.description or ()]
            while row := rows.fetchone():
                values = dict(zip(names, row, strict=True))
                like = likeness(values.pop("some"))
                if like <= ALIKE:
                    found.append(Placeholder(**values, likeness=like))
        yield Rows(Contract(Placeholder).table(found), units=len(found))


def likeness(texts: Sequence[str]) -> float:
    """Of two of the texts, the mean share of common trigrams, from 0 to 1."""
    trigrams = [_trigrams(text) for text in texts]
    shares = [len(one & other) / len(one | other) for one, other in combinations(trigrams, 2)]
    return sum(shares) / len(shares)


def _trigrams(text: str) -> frozenset[str]:
    padded = f" {text.casefold()} "
    return frozenset(padded[at : at + 3] for at in range(len(padded) - 2))
