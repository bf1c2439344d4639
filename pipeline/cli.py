"""The command line. Exit codes are those of `data_contracts.errors`."""

import json
import sys

import typer
from rich.console import Console
from rich.markup import escape

from data_contracts.errors import CapfiltError
from pipeline.commands import by_hand, cluster, doctor, looking, running, search

STOPPED = 130  # by Ctrl-C
COMMANDS = (
    *(running.run, running.resume, running.retry_failed, running.plan),
    *(looking.status, looking.inspect, looking.explain, looking.verify, looking.report, looking.report_card),
    *(by_hand.caption, by_hand.score),
    *(search.index, search.search, search.classify),
    *(cluster.submit, cluster.jobs, cluster.logs, cluster.stop, doctor.doctor),
    running.demo,
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
    try:
        app()
    except CapfiltError as error:
        _tell(error)
        raise SystemExit(error.exit_code) from None
    except SystemExit as ended:
        if ended.code == STOPPED:
            Console(stderr=True).print("stopped; `capfilt resume RUN` carries on")
        raise


def _tell(error: CapfiltError) -> None:
    from pipeline import log

    if log.on_stderr():
        line = {"level": "error", "message": error.what, "evidence": error.evidence, "remedy": error.remedy}
        print(json.dumps(line), file=sys.stderr)
    else:
        said = f"[red]error:[/red] {escape(str(error))}"
        Console(stderr=True).print(said, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
