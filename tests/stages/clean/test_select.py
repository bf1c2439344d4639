from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capfilt.data_contracts.contract import Contract
from capfilt.data_contracts.records import Decision, Metric, Placeholder, Score, Source
from capfilt.data_contracts.rejects import Reason
from capfilt.stages.clean.select import FractionThreshold, SelectPairs, SelectRule
from capfilt.stages.in_memory import MemoryInput
from capfilt.stages.stage import Rejected
from tests.stages.rows import collect, run_global, score, site

# Few different probabilities, so that ties and values on the threshold are common.
ITM = st.sampled_from([0.0, 0.2, 0.5, 0.5000001, 0.8, 1.0])
TEXTS = st.lists(
    st.tuples(st.integers(0, 3), st.sampled_from([Source.WEB, Source.SYNTHETIC]), ITM), max_size=12
)
RULES = st.sampled_from(SelectRule)
Texts = list[tuple[int, Source, float]]


def scores(texts: Texts) -> list[Score]:
    return [score(row, f"text {number}", itm, source) for number, (row, source, itm) in enumerate(texts)]


def select(texts: Texts, rule: SelectRule, threshold: float) -> tuple[list[Score], dict[str, Reason]]:
    """The scores that stay, and the reason of each that leaves."""
    return select_of(scores(texts), SelectPairs(rule, threshold))


def select_of(given: list[Score], stage: SelectPairs) -> tuple[list[Score], dict[str, Reason]]:
    inputs = MemoryInput.of(*given, empty=[Score])
    kept, rejected = collect(stage.open(site(Path("unused")))(inputs))
    stays = set(Contract(Decision).check(kept)["pair_id"].to_pylist())
    (units,) = stage.units(inputs).values()
    assert sorted(units) == sorted([*stays, *(reject.id for reject in rejected)])  # each text once
    return [row for row in given if row.pair_id in stays], {reject.id: reject.reason for reject in rejected}


@given(TEXTS, RULES, ITM, ITM)
def test_a_higher_threshold_keeps_no_more_and_only_below_it_is_below_threshold(
    texts: Texts, rule: SelectRule, one: float, other: float
) -> None:
    low, high = sorted([one, other])
    more, reasons = select(texts, rule, low)
    fewer, _ = select(texts, rule, high)
    assert all(row.itm >= low for row in more)
    by_pair = {row.pair_id: row.itm for row in scores(texts)}
    assert all(
        (by_pair[pair] < low) == (reason is Reason.BELOW_THRESHOLD) for pair, reason in reasons.items()
    )
    assert {row.row_id for row in fewer} <= {row.row_id for row in more}
    if (
        rule is not SelectRule.RAW_ELSE_SYNTHETIC
    ):  # there a synthetic text comes in when its web text has left
        assert {row.pair_id for row in fewer} <= {row.pair_id for row in more}


@given(TEXTS, ITM)
def test_both_keeps_whatever_reaches_the_threshold(texts: Texts, threshold: float) -> None:
    kept, _ = select(texts, SelectRule.BOTH, threshold)
    assert kept == [row for row in scores(texts) if row.itm >= threshold]


def test_no_text_of_a_placeholder_stays_whatever_its_score() -> None:
    given = [
        score(1, "a dog", 0.9),
        score(1, "a bird", 0.9, Source.SYNTHETIC),
        score(1, "bad", 0.1),
        score(2, "a cat", 0.9),
        score(3, "bad", 0.1),
    ]
    image = Placeholder(
        image_id=given[0].image_id, rows=9, hosts=1, texts=9, likeness=0.0, example="https://a.example/1.png"
    )
    kept, rejected = collect(
        SelectPairs(SelectRule.BEST, 0.5).open(site(Path("unused")))(MemoryInput.of(*given, image))
    )
    assert kept["pair_id"].to_pylist() == [given[3].pair_id]
    assert {reject.id: reject.reason for reject in rejected} == {
        **{text.pair_id: Reason.PLACEHOLDER for text in given[:3]},
        given[4].pair_id: Reason.BELOW_THRESHOLD,
    }
    none, rejected = collect(
        SelectPairs(SelectRule.BOTH, 0.5).open(site(Path("unused")))(
            MemoryInput.of(*given, empty=[Placeholder])
        )
    )
    assert none.num_rows == 3
    assert Reason.PLACEHOLDER not in {reject.reason for reject in rejected}


@given(TEXTS, ITM)
def test_best_keeps_the_first_of_the_highest_of_each_image(texts: Texts, threshold: float) -> None:
    kept, reasons = select(texts, SelectRule.BEST, threshold)
    expected: dict[str, Score] = {}
    for row in scores(texts):
        if row.itm >= threshold and (row.row_id not in expected or row.itm > expected[row.row_id].itm):
            expected[row.row_id] = row
    assert {row.row_id: row for row in kept} == expected
    assert len(kept) == len(expected)
    assert set(reasons.values()) <= {Reason.BELOW_THRESHOLD, Reason.NOT_BEST}


@given(TEXTS, ITM)
def test_raw_else_synthetic(texts: Texts, threshold: float) -> None:
    kept, reasons = select(texts, SelectRule.RAW_ELSE_SYNTHETIC, threshold)
    passing = [row for row in scores(texts) if row.itm >= threshold]
    has_web = {row.row_id for row in passing if row.source is Source.WEB}
    assert kept == [row for row in passing if row.source is Source.WEB or row.row_id not in has_web]
    left = {row.pair_id for row in passing if row not in kept}
    assert {pair for pair, reason in reasons.items() if reason is Reason.WEB_TEXT_KEPT} == left


@given(TEXTS, RULES, ITM)
def test_of_several_captions_the_filter_chooses_one(texts: Texts, rule: SelectRule, threshold: float) -> None:
    """The same as if the captioner had written none but the best."""
    best: dict[str, Score] = {}
    for row in scores(texts):
        if row.source is Source.SYNTHETIC and (row.row_id not in best or row.itm > best[row.row_id].itm):
            best[row.row_id] = row
    rest = [row for row in scores(texts) if row.source is Source.WEB or row == best[row.row_id]]
    kept, reasons = select_of(scores(texts), SelectPairs(rule, threshold, best_synthetic=True))
    assert kept == select_of(rest, SelectPairs(rule, threshold))[0]
    beaten = {row.pair_id for row in scores(texts) if row not in rest and row.itm >= threshold}
    assert all(reasons[pair] is Reason.NOT_BEST for pair in beaten)


def metric(name: str, value: float) -> Metric:
    return Metric(name=name, value=value, count=1)


def test_the_threshold_of_the_stage_before_it() -> None:
    figures = [metric("auc", 0.99), metric("threshold", 0.4)]
    inputs = MemoryInput.of(score(1, "in", 0.4), score(2, "out", 0.39), *figures)
    kept, rejected = collect(SelectPairs(SelectRule.BOTH, None).open(site(Path("unused")))(inputs))
    assert kept["threshold"].to_pylist() == [0.4]
    assert [reject.detail for reject in rejected] == ["web: itm 0.3900, threshold 0.4000"]
    assert isinstance(rejected[0], Rejected)


@pytest.mark.parametrize(("fraction", "kept"), [(0.3, 3), (0.01, 1), (0.5, 5), (1.0, 10)])
def test_a_fraction_of_distinct_scores(tmp_path: Path, fraction: float, kept: int) -> None:
    inputs = MemoryInput.of(*(score(number, "t", number / 10) for number in range(10)))
    ((figure,), _) = run_global(FractionThreshold(fraction), site(tmp_path), inputs)
    assert (figure["name"], figure["count"]) == ("threshold", 10)
    assert sum(number / 10 >= figure["value"] for number in range(10)) == kept


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40), st.floats(0.01, 1))
def test_the_threshold_of_a_fraction_is_a_score_and_keeps_about_that_many(
    itm: list[float], fraction: float
) -> None:
    inputs = MemoryInput.of(*(score(number, "t", value) for number, value in enumerate(itm)))
    rows, _ = run_global(FractionThreshold(fraction), site(Path("unused")), inputs)
    figure: dict[str, Any] = rows[0]
    above = sum(value > figure["value"] for value in itm)
    assert figure["value"] in itm
    assert above <= fraction * len(itm) + 1e-9
    assert sum(value >= figure["value"] for value in itm) >= fraction * (len(itm) - 1) - 1e-9


def test_a_fraction_of_nothing(tmp_path: Path) -> None:
    ((figure,), _) = run_global(FractionThreshold(0.5), site(tmp_path), MemoryInput.of(empty=[Score]))
    assert (figure["value"], figure["count"]) == (1.0, 0)
