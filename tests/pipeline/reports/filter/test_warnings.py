from capfilt.pipeline.ledger.ledger import Ledger
from capfilt.pipeline.reports import report


def test_a_blind_filter_is_warned_of_with_the_remedy(judged: Ledger) -> None:
    warnings = report.build(judged)["warnings"]
    (said,) = [warning for warning in warnings if "blind to a wrong relation" in warning]
    assert "ROC AUC 0." in said
    assert "models.filter.edits" in said
