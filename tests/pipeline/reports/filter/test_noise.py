from itertools import pairwise

import pytest
from rich.console import Console

from capfilt.pipeline.ledger.ledger import Ledger
from capfilt.pipeline.reports.filter import report_card
from capfilt.pipeline.reports.show import show_filter_report
from tests.pipeline.reports.judged import HELD_OUT, WEB


def test_the_noise_among_kept_texts_is_foretold(judged: Ledger) -> None:
    card = report_card.build(judged)
    assert card is not None
    web, synthetic = card["crawl"]["web"], card["crawl"]["synthetic"]
    assert web["matches"]["value"] == pytest.approx(2 / 3, abs=0.08)
    assert web["matches"]["low"] < web["matches"]["high"]
    assert (web["texts"], synthetic["texts"]) == (WEB, synthetic["texts"])
    assert synthetic["matches"]["value"] == pytest.approx(0.8, abs=0.08)
    assert synthetic["kept_noise"]["low"] < 0.2 < synthetic["kept_noise"]["high"]
    assert (card["audit"]["captions"], card["audit"]["why_not"]) == (2 * HELD_OUT + 5, None)
    assert 0 <= web["kept_noise"]["value"] < 0.05
    assert card["crawl"]["all"]["kept"] == web["kept"] + synthetic["kept"]


def test_a_curve_from_strict_to_lenient(judged: Ledger) -> None:
    card = report_card.build(judged)
    assert card is not None
    rows = card["curve"]
    assert [row["threshold"] for row in rows] == sorted((row["threshold"] for row in rows), reverse=True)
    for one, other in pairwise(rows):
        assert one["recall"] <= other["recall"]
        assert one["kept"]["web"] <= other["kept"]["web"]
    assert rows[-1]["recall"] == 1.0
    used = next(row for row in rows if row["threshold"] == card["threshold"]["value"])
    assert used["kept"]["web"] == pytest.approx(card["crawl"]["web"]["kept"] / WEB)
    assert used["precision"] == pytest.approx(card["threshold"]["precision"]["value"], abs=0.02)


def test_with_few_test_images_nothing_is_said_of_the_crawl(finished: Ledger) -> None:
    card = report_card.demand(finished)
    assert (card["test_images"], card["crawl"], card["calibration"]) == (6, {}, None)
    assert card["auc"]["shuffled"]["value"] == 1
    assert card["threshold"]["value"] == 0.5
    assert card["threshold"]["precision"] is None
    show_filter_report(card, Console(quiet=True))
