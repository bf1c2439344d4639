"""The command line. Exit codes are those of `capfilt.data_contracts.errors`."""

import json
import os
import sys
from pathlib import Path

import typer
from rich.console import Console
from rich.markup import escape

from capfilt.data_contracts.errors import CapfiltError
from capfilt.pipeline.commands import (
    caption_and_score,
    demo,
    doctor,
    inspect,
    plan,
    report,
    run,
    search,
    submit,
)
from capfilt.pipeline.ledger import submission
from capfilt.pipeline.ledger.lease import SUBMISSION

STOPPED = 130  # by Ctrl-C
COMMANDS = (
    *(run.run, run.resume, run.retry_failed, plan.plan),
    *(inspect.status, inspect.inspect, inspect.explain, inspect.verify),
    *(report.report, report.report_card),
    *(caption_and_score.caption, caption_and_score.score),
    *(search.index, search.search, search.classify),
    *(submit.submit, submit.jobs, submit.logs, submit.stop, doctor.doctor),
    demo.demo,
)

app = typer.Typer(
    help="CapFilt: finetune a filter and a captioner on human pairs, caption the crawl, drop what does not match.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in COMMANDS:
    app.command()(command)


def main() -> None:
    """The entry point: every error that capfilt raises on purpose becomes a message and its exit code."""
    _use_token()
    try:
        app()
    except CapfiltError as error:
        submission.leave_error(error)
        _tell(error)
        raise SystemExit(error.exit_code) from None
    except SystemExit as ended:
        if ended.code == STOPPED:
            again = "submitting the recipe again" if SUBMISSION in os.environ else "`capfilt resume RUN`"
            Console(stderr=True).print(f"stopped; {again} carries on")
        raise


def _use_token() -> None:
    """Where Ray's token is in one of its places, it is used; Ray reads that once, when it is loaded."""
    path = os.environ.get("RAY_AUTH_TOKEN_PATH") or Path("~/.ray/auth_token").expanduser()
    if os.environ.get("RAY_AUTH_TOKEN") or Path(path).is_file():
        os.environ.setdefault("RAY_AUTH_MODE", "token")


def _tell(error: CapfiltError) -> None:
    from capfilt.pipeline.watching import log

    if log.on_stderr():
        line = {"level": "error", "message": error.what, "evidence": error.evidence, "remedy": error.remedy}
        print(json.dumps(line), file=sys.stderr)
    else:
        said = f"[red]error:[/red] {escape(str(error))}"
        Console(stderr=True).print(said, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
