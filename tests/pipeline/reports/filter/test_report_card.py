import json

import pytest

from capfilt.data_contracts.errors import UsageError
from capfilt.pipeline.ledger.ledger import Ledger
from capfilt.pipeline.reports import report
from capfilt.pipeline.reports.filter import report_card
from tests.pipeline.conftest import World
from tests.pipeline.local import run
from tests.pipeline.reports.judged import HELD_OUT


def test_what_is_known_of_a_filter(judged: Ledger) -> None:
    card = report_card.build(judged)
    assert card is not None
    assert (card["test_images"], card["calibrate_images"]) == (HELD_OUT, HELD_OUT)  # five are in the crawl
    auc = card["auc"]
    assert auc.keys() == {"shuffled", "hard", "object", "attribute", "relation"}
    assert auc["shuffled"]["low"] <= auc["shuffled"]["value"] <= auc["shuffled"]["high"]
    assert auc["shuffled"]["value"] > 0.95
    assert card["blind"] == ["object", "attribute", "relation"]
    threshold = card["threshold"]
    assert threshold["low"] <= threshold["value"] <= threshold["high"]
    assert threshold["note"].startswith("ITM probability for recall 0.9")
    assert threshold["recall"]["value"] == pytest.approx(0.9, abs=0.1)
    assert threshold["passes"]["shuffled"]["value"] < 0.15
    assert threshold["passes"]["relation"]["value"] > 0.7
    assert threshold["precision"]["low"] <= threshold["precision"]["value"] <= threshold["precision"]["high"]
    assert card["calibration"]["ece_after"]["value"] < 0.1
    json.dumps(card)


def test_it_is_in_the_report_and_in_the_dataset_card(judged: Ledger) -> None:
    found = report.build(judged)
    assert found["filter"] == report_card.build(judged)
    text = report.card(found)
    assert "## How far the filter can be trusted" in text
    assert "| relation | 60 |" in text
    assert "Not counted, since the filter does not see them: object, attribute, relation." in text


def test_a_run_without_human_pairs_has_no_card(world: World) -> None:
    ledger = run(world.plan(human=[]))
    assert report.build(ledger)["filter"] is None
    with pytest.raises(UsageError, match="no test pairs") as caught:
        report_card.demand(ledger)
    assert "no `human` source" in caught.value.evidence


def test_a_run_that_has_not_come_so_far_has_no_card_yet(world: World) -> None:
    ledger = run(world.plan(), until="human")
    with pytest.raises(UsageError, match="no test pairs") as caught:
        report_card.demand(ledger)
    assert "nothing of them yet" in caught.value.evidence
