"""How often web texts were kept by what they say: the alarm for a filter that drops what people did not caption."""

from typing import Any

import pyarrow as pa

from capfilt.pipeline.ledger.ledger import Ledger
from capfilt.pipeline.reports.query import Files, files, query
from capfilt.stages.training.rehearsal import NARROW, covered_share

LIKELY = 0.3  # of the texts, those most like their image by ITC: most of the others are rightly dropped
FAR_LESS = (
    0.8  # the keep-rate of likely texts with a word that people did not use, against that of the others
)
FEW = 50  # likely texts on either side from which their rates are compared
SHOWN = 12  # words

_COVERED = pa.schema([pa.field("web_texts", pa.int64()), pa.field("covered", pa.bool_())])
# The words of a text as `capfilt.models.text.normalise.content_words` finds them; only those that `word_coverage`
# lists matter.
_TOLD = """, told AS (
    SELECT pair_id, itc, unnest(list_distinct(list_slice(
        regexp_extract_all(regexp_replace(lower(text), '[.!"()*#:;~]', ' ', 'g'), '\\S+'), 1, 30))) AS word
    FROM files WHERE source = 'web'
), known AS (
    SELECT told.*, covered, decisions.pair_id IS NOT NULL AS stays
    FROM told JOIN words USING (word) LEFT JOIN decisions ON told.pair_id = decisions.pair_id
), texts AS (
    SELECT pair_id, bool_and(covered) AS known, any_value(itc) AS itc, bool_or(stays) AS stays
    FROM known GROUP BY pair_id
), cuts AS (
    SELECT known, quantile_cont(itc, $1) AS cut FROM texts GROUP BY known
), judged AS (
    SELECT texts.*, itc >= cut AS top FROM texts JOIN cuts USING (known)
)
"""
_BY_GROUP = """
    SELECT known, count(*) AS judged, count(*) FILTER (stays) AS kept, count(*) FILTER (top) AS likely,
        count(*) FILTER (top AND stays) AS likely_kept
    FROM judged GROUP BY known
"""
_BY_WORD = """
    SELECT word, covered, count(*) AS likely, count(*) FILTER (judged.stays) AS likely_kept,
        likely_kept / likely AS likely_kept_share
    FROM known JOIN judged USING (pair_id) WHERE top
    GROUP BY word, covered HAVING likely_kept < likely
    ORDER BY covered, likely - likely_kept DESC, word LIMIT $2
"""


def keep_rates(ledger: Ledger) -> dict[str, Any]:
    """Web texts that were judged and kept: by whether they have a word that the human captions lack, and by word.

    `likely` are, on either side, the texts that ITC finds most like their images: boilerplate is dropped with good
    reason, and has words that nobody captions with. Only the words that the stage `word_coverage` lists count. Empty
    where there is none, or nothing is selected yet.
    """
    words, scores, decisions = (files(ledger, stage) for stage in ("word_coverage", "score", "select"))
    return rates(words, scores, decisions) if words.paths and decisions.paths else {}


def covered(words: Files) -> float:
    """The share of the web's word occurrences that the human captions know, by the files of `word_coverage`."""
    return covered_share(pa.Table.from_pylist(query("SELECT web_texts, covered FROM files", words), _COVERED))


def rates(words: Files, scores: Files, decisions: Files) -> dict[str, Any]:
    """The same of the files of the three stages."""
    tables = {"words": words, "decisions": decisions}
    found: dict[str, Any] = {
        "covered_share": covered(words),
        "worst_words": query(_TOLD + _BY_WORD, scores, 1 - LIKELY, SHOWN, **tables),
    }
    groups = {row.pop("known"): row for row in query(_TOLD + _BY_GROUP, scores, 1 - LIKELY, **tables)}
    for name, known in (("covered", True), ("uncovered", False)):
        row = groups.get(known, dict.fromkeys(("judged", "kept", "likely", "likely_kept"), 0))
        found[name] = row | {
            "kept_share": _share(row["kept"], row["judged"]),
            "likely_kept_share": _share(row["likely_kept"], row["likely"]),
        }
    return found


def _share(some: int, every: int) -> float | None:
    return some / every if every else None


def alarm(found: dict[str, Any], rehearsal: str) -> list[str]:
    """What to tell a user whose human set is narrow, when likely texts with a word that it lacks stay far less often.

    ``found`` is what :func:`keep_rates` gave, ``rehearsal`` the recipe's `models.rehearsal`.
    """
    if not found or found["covered_share"] >= NARROW:
        return []
    known, other = found["covered"], found["uncovered"]
    if min(known["likely"], other["likely"]) < FEW:
        return []
    if other["likely_kept_share"] >= FAR_LESS * known["likely_kept_share"]:
        return []
    examples = ", ".join(f"`{row['word']}`" for row in found["worst_words"] if not row["covered"])
    remedy = (
        "Set models.rehearsal to auto or on (docs/rehearsal.md), or caption images of such things."
        if rehearsal == "off"
        else "Look at them with capfilt inspect RUN select --rejects; if they are true, caption such images."
    )
    return [
        f"The filter drops what people did not caption: of the web texts most like their images it kept "
        f"{other['likely_kept_share']:.0%} where a word is one that hardly any human caption has, and "
        f"{known['likely_kept_share']:.0%} of the others. The human captions know {found['covered_share']:.0%} of "
        f"what the web says. It dropped texts with {examples}. {remedy}"
    ]
