"""What the stages `score_held_out` and `audit_captions` found, as arrays: the evidence behind the filter report."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from capfilt.data_contracts.records import Author, PairKind, Split
from capfilt.models.statistics.bootstrap import Floats
from capfilt.models.statistics.metrics import prevalence
from capfilt.pipeline.ledger.ledger import Ledger
from capfilt.pipeline.reports.query import files, query

MATCH = str(PairKind.OWN)


@dataclass(frozen=True)
class HeldOutPairs:
    """Scored pairs; arrays with one entry a pair."""

    split: NDArray[np.str_]
    image: NDArray[np.str_]
    kind: NDArray[np.str_]
    itm: Floats

    def of(self, split: Split) -> "HeldOutPairs":
        return self.where(self.split == split)

    def where(self, mask: NDArray[np.bool_]) -> "HeldOutPairs":
        return HeldOutPairs(self.split[mask], self.image[mask], self.kind[mask], self.itm[mask])

    def against(self, *kinds: str) -> "HeldOutPairs":
        """Matches and mismatches of these kinds."""
        return self.where(np.isin(self.kind, [MATCH, *kinds]))

    @property
    def own(self) -> NDArray[np.bool_]:
        return np.asarray(self.kind == MATCH)

    @property
    def images(self) -> int:
        return len(np.unique(self.image))


def held_out_pairs(ledger: Ledger) -> HeldOutPairs:
    """All that were scored, without the test images that the crawl has too."""
    crawl = files(ledger, "ingest")
    others = {"crawl": crawl} if crawl.paths else {}
    leaked = "AND NOT (split = 'test' AND image_id IN (SELECT image_id FROM crawl))" if others else ""
    sql = f"SELECT split, image_id, kind, itm FROM files WHERE true {leaked} ORDER BY image_id, kind, text"
    rows = query(sql, files(ledger, "score_held_out"), **others)
    columns = [[row[name] for row in rows] for name in ("split", "image_id", "kind")]
    split, image, kind = (np.array(column, dtype=str) for column in columns)
    return HeldOutPairs(split, image, kind, np.array([row["itm"] for row in rows], dtype=np.float64))


@dataclass(frozen=True)
class AuditedCaptions:
    """Captions held against those that people wrote; arrays with one entry a caption."""

    image: NDArray[np.str_]
    author: NDArray[np.str_]
    itm: Floats
    unsaid: NDArray[np.bool_]

    def share(self, author: Author, weights: Floats, least: float = -1.0) -> float:
        """Of an author's captions with an ITM probability of ``least`` or more, how many say what people do not."""
        some = np.where((self.author == author) & (self.itm >= least), weights, 0.0)
        return float(some @ self.unsaid / some.sum()) if some.sum() else float("nan")

    def count(self, author: Author) -> int:
        return int((self.author == author).sum())

    def wrong(self, weights: Floats, least: float = -1.0) -> float:
        """The share of the captioner's captions that are wrong. Where no image has several captions, people are taken
        to say all."""
        found, faulted = self.share(Author.ANOTHER, weights), self.share(Author.PERSON, weights)
        said = self.share(Author.CAPTIONER, weights, least)
        return prevalence(said, found, 0.0 if np.isnan(faulted) else faulted)


def audited_captions(ledger: Ledger, best: bool) -> AuditedCaptions:
    """All that were audited; with ``best`` only the one of each image that the filter likes most."""
    first = (
        "QUALIFY row_number() OVER (PARTITION BY author, image_id ORDER BY itm DESC, text) = 1"
        if best
        else ""
    )
    sql = f"SELECT image_id, author, coalesce(itm, 0) AS itm, unsaid <> '' AS unsaid FROM files {first} ORDER BY ALL"
    audited = files(ledger, "audit_captions")
    rows = query(sql, audited) if audited.paths else []
    image, author = (np.array([row[name] for row in rows], dtype=str) for name in ("image_id", "author"))
    itm, unsaid = ([row[name] for row in rows] for name in ("itm", "unsaid"))
    return AuditedCaptions(image, author, np.array(itm, dtype=np.float64), np.array(unsaid, dtype=bool))
