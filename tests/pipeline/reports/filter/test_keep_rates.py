from pathlib import Path

import pyarrow.parquet as pq
import pytest

from capfilt.data_contracts.contract import Contract
from capfilt.data_contracts.records import Decision, Record, Score, Source, WordCoverage
from capfilt.pipeline.reports.filter.keep_rates import FEW, LIKELY, alarm, rates
from capfilt.pipeline.reports.query import Files
from tests.stages.rows import score

EACH = 200  # texts on either side


def written(folder: Path, rows: list[Record], kind: type[Record]) -> Files:
    path = folder / f"{kind.__name__}.parquet"
    pq.write_table(Contract(kind).table(rows), path)
    return Files([str(path)])


def found(folder: Path, known: float, unknown: float, boilerplate: int = 0, web: int = 20) -> dict:
    """Rates of a run: of the likely texts about dogs a share is kept, of those about owls another."""
    words = [
        WordCoverage(word="dog", web_texts=web, human_texts=20, covered=True),
        WordCoverage(word="owl", web_texts=EACH, human_texts=0, covered=False),
        WordCoverage(word="free", web_texts=99, human_texts=0, covered=False),
    ]
    scores, kept = [], []
    for side, (name, share) in enumerate((("DOG!", known), ("an owl, a #owl", unknown))):
        for number in range(EACH):
            itc = 1 - number / EACH
            text = f"{name} number {number}".replace(",", " ,")
            row = score(1000 * side + number, text, 0.5).model_copy(update={"itc": itc})
            scores.append(row)
            if number < share * LIKELY * EACH:
                kept.append(row)
    scores += [
        score(5000 + number, f"free {number}", 0.1).model_copy(update={"itc": 0.05})
        for number in range(boilerplate)
    ]
    scores.append(score(9000, "an owl", 0.9, Source.SYNTHETIC))  # no web text: does not count
    decisions = [
        Decision(pair_id=row.pair_id, row_id=row.row_id, source=row.source, itm=row.itm, threshold=0.5)
        for row in kept
    ]
    return rates(
        written(folder, list(words), WordCoverage),
        written(folder, list(scores), Score),
        written(folder, list(decisions), Decision),
    )


def test_texts_are_counted_by_what_the_human_captions_know(tmp_path: Path) -> None:
    rows = found(tmp_path, 1.0, 0.25)
    likely = round(LIKELY * EACH)
    assert rows["covered_share"] == pytest.approx(20 / (20 + EACH + 99))
    for side, share in (("covered", 1.0), ("uncovered", 0.25)):
        own = rows[side]
        assert (own["judged"], own["likely"]) == (EACH, likely)
        assert own["likely_kept_share"] == pytest.approx(share)
        assert own["kept_share"] == pytest.approx(share * LIKELY)
    (word,) = rows["worst_words"]  # no likely text about a dog was dropped
    assert (word["word"], word["covered"], word["likely"], word["likely_kept"]) == (
        "owl",
        False,
        likely,
        likely / 4,
    )


def test_boilerplate_that_is_rightly_dropped_raises_no_alarm(tmp_path: Path) -> None:
    rows = found(tmp_path, 1.0, 1.0, boilerplate=40)
    assert rows["uncovered"]["kept_share"] < rows["covered"]["kept_share"]
    assert alarm(rows, "auto") == []


def test_the_alarm_says_what_to_do(tmp_path: Path) -> None:
    rows = found(tmp_path, 1.0, 0.25)
    (off,) = alarm(rows, "off")
    assert "kept 25% where a word is one that hardly any human caption has, and 100% of the others" in off
    assert "dropped texts with `owl`. Set models.rehearsal to auto or on" in off
    (on,) = alarm(rows, "auto")
    assert "Look at them with capfilt inspect RUN select --rejects" in on


def test_there_is_no_alarm_where_there_is_nothing_to_compare(tmp_path: Path) -> None:
    assert alarm({}, "off") == []
    assert alarm(found(tmp_path, 1.0, 0.9), "off") == []
    assert alarm(found(tmp_path, 1.0, 0.1, web=5000), "off") == []  # the human set is not narrow
    few = found(tmp_path, 1.0, 0.1)
    few["covered"]["likely"] = FEW - 1
    assert alarm(few, "off") == []
