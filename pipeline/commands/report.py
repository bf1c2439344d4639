"""`capfilt report` and `report-card`: a run's numbers, and what is known of its filter."""

import json
from pathlib import Path
from typing import Annotated

import typer

from capfilt.pipeline.api.run import Run
from capfilt.pipeline.commands.shared import Json, RunFolder, console
from capfilt.pipeline.ledger.ledger import Ledger
from capfilt.pipeline.reports.show import show_filter_report, show_report


def report(
    run: RunFolder,
    truth: Annotated[Path | None, typer.Option(help="CSV file,text,match: noise before and after.")] = None,
    as_json: Json = False,
) -> None:
    """Show the run's numbers; writes them to report.json and to the dataset card."""
    found = Run(Ledger(run)).report(truth, write=True)
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        show_report(found, console)


def report_card(run: RunFolder, as_json: Json = False) -> None:
    """Show what is known of the run's filter from human test pairs, and what that says of the texts it kept."""
    card = Run(Ledger(run)).report_card()
    if as_json:
        print(json.dumps(card, indent=2))
    else:
        show_filter_report(card, console)
