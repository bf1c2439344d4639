"""How often web texts were kept by what they say: the alarm for a filter that drops what people did not caption."""

from typing import Any

from rich.table import Table

from pipeline.inspection import files, query
from pipeline.ledger import Ledger
from stages.rehearsal import NARROW

FAR_LESS = 0.5  # the keep-rate of texts with a word that people did not use, against that of the others
FEW = 50  # texts on either side from which their rates are compared
SHOWN = 12

# The words of a text as `models.text.content_words` finds them; only those that `coverage` lists matter.
_TOLD = """, told AS (
    SELECT pair_id, unnest(list_distinct(list_slice(list_filter(string_split_regex(
        regexp_replace(lower(text), '[.!"()*#:;~]', ' ', 'g'), '\\s+'), word -> word <> ''), 1, 30))) AS word
    FROM files WHERE source = 'web'
), judged AS (
    SELECT told.pair_id, word, covered, kept.pair_id IS NOT NULL AS kept
    FROM told JOIN words USING (word) LEFT JOIN kept ON told.pair_id = kept.pair_id
)
"""


def keep_rates(ledger: Ledger) -> dict[str, Any]:
    """Web texts that were judged and kept: by whether they have a word that the human captions lack, and by word.

    Only the words that the stage `coverage` lists count. Empty where there is none, or nothing is selected yet.
    """
    words, kept = files(ledger, "coverage"), files(ledger, "select")
    if not words.paths or not kept.paths or not ledger.totals("coverage"):
        return {}
    tables = {"words": words, "kept": kept}
    scores = files(ledger, "score")
    groups = query(
        _TOLD + "SELECT covered, count(*) AS judged, count(*) FILTER (kept) AS kept FROM "
        "(SELECT pair_id, bool_and(covered) AS covered, bool_or(kept) AS kept FROM judged GROUP BY pair_id) "
        "GROUP BY covered",
        scores,
        **tables,
    )
    worst = query(
        _TOLD + "SELECT word, covered, count(*) AS judged, count(*) FILTER (kept) AS kept FROM judged "
        "GROUP BY word, covered ORDER BY kept / judged, judged DESC, word LIMIT ?",
        scores,
        SHOWN,
        **tables,
    )
    covered = query("SELECT sum(web_texts) FILTER (covered) / sum(web_texts) AS share FROM files", words)
    found: dict[str, Any] = {
        "covered_share": covered[0]["share"] or 0.0 if covered else 1.0,
        "worst_words": [{**row, "kept_share": row["kept"] / row["judged"]} for row in worst],
    }
    for name, known in (("covered", True), ("uncovered", False)):
        own = [row for row in groups if row["covered"] is known]
        judged, stayed = (sum(row[figure] for row in own) for figure in ("judged", "kept"))
        found[name] = {"judged": judged, "kept": stayed, "kept_share": stayed / judged if judged else None}
    return found


def alarm(found: dict[str, Any], rehearsal: str) -> list[str]:
    """What to tell a user whose human set is narrow, when texts of which it knows a word less stay far less often.

    ``rehearsal`` is the recipe's `models.rehearsal`.
    """
    if not found or found["covered_share"] >= NARROW:
        return []
    known, other = found["covered"], found["uncovered"]
    if min(known["judged"], other["judged"]) < FEW or other["kept_share"] >= FAR_LESS * known["kept_share"]:
        return []
    examples = ", ".join(f"`{row['word']}`" for row in found["worst_words"] if not row["covered"])
    remedy = (
        "Set models.rehearsal to auto or on (docs/rehearsal.md), or caption pictures of such things."
        if rehearsal == "off"
        else "Look at them with capfilt inspect RUN select --rejects; if they are true, caption pictures of such things."
    )
    return [
        f"The filter drops what people did not caption: of the web texts with a word that hardly any human caption "
        f"has, {other['kept_share']:.0%} were kept, of the others {known['kept_share']:.0%}. The human captions know "
        f"{found['covered_share']:.0%} of what the web says. Kept least: {examples}. {remedy}"
    ]


def table_of(found: dict[str, Any]) -> Table:
    """The words whose texts were kept least, for a terminal."""
    table = Table(
        "word", "human captions have it", "web texts", "kept", title="words kept least", title_justify="left"
    )
    for row in found["worst_words"]:
        known = "yes" if row["covered"] else "hardly"
        table.add_row(row["word"], known, f"{row['judged']:,}", f"{row['kept_share']:.0%}")
    return table
