from rich.console import Console

from capfilt.pipeline.ledger.ledger import Ledger
from capfilt.pipeline.reports import report
from capfilt.pipeline.reports.filter import report_card
from capfilt.pipeline.reports.show import show_filter_report, show_report


def test_it_can_be_read_on_a_terminal(judged: Ledger) -> None:
    console = Console(record=True, width=120)
    show_filter_report(report_card.demand(judged), console)
    text = console.export_text()
    for words in (
        "relation",
        "pass the threshold",
        "calibration error",
        "expected noise",
        "warning:",
        "synthetic kept",
    ):
        assert words in text


def test_a_report_shows_stages_texts_and_the_words_that_were_dropped_most(finished: Ledger) -> None:
    owl = {"word": "owl", "covered": False, "likely": 60, "likely_kept": 15, "likely_kept_share": 0.25}
    console = Console(record=True, width=160)
    show_report({**report.build(finished), "words": {"worst_words": [owl]}}, console)
    text = console.export_text()
    for words in ("1 not_image", "web texts: 9 judged", "exported pairs:"):
        assert words in text
    assert text.split("owl", 1)[1].split()[:3] == ["│", "hardly", "│"]
    assert "25%" in text
