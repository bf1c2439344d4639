"""`capfilt status`, `inspect`, `explain` and `verify`: what a run's storage says."""

import json
from typing import Annotated, Any

import typer
from rich.table import Table

from capfilt.data_contracts.errors import DamageError
from capfilt.data_contracts.rejects import MEANING
from capfilt.pipeline.api.run import Run
from capfilt.pipeline.api.status import RunStatus, demand_begun
from capfilt.pipeline.api.status import follow as followed
from capfilt.pipeline.api.status import status as status_of
from capfilt.pipeline.commands.shared import Json, RunFolder, console, say
from capfilt.pipeline.ledger.ledger import Ledger
from capfilt.pipeline.reports import funnel, stages
from capfilt.pipeline.reports.show import show_funnel
from capfilt.pipeline.reports.visible import visible


def status(
    run: RunFolder,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Until the run is complete, or nobody is at work.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show how far a run is, from its storage alone."""
    ledger = Ledger(run)
    demand_begun(ledger)
    for now in followed(ledger, run) if follow else [status_of(ledger)]:
        if as_json:
            print(json.dumps([_status_row(view) for view in now.stages], indent=2))
        else:
            _show_status(now)


def _show_status(now: RunStatus) -> None:
    table = Table("stage", "state", "shards", "kept", "left")
    for view in now.stages:
        table.add_row(*(str(value) for value in _status_row(view).values()))
    console.print(table)
    if now.submission:
        say(f"submitted at {now.submission.submitted} to {now.submission.address}, as {now.submission.job}")
    if holder := now.holder:
        say(f"at work: {holder.who}, as it said at {holder.said}")
        for task in holder.running:
            so_far = f"{task.done:,} of {task.total:,} " if task.total else ""
            say(f"  {task.label}: {so_far}{task.text}".rstrip())
        if not holder.running:
            say(f"  nothing runs at the moment: capfilt logs {now.url}")
    elif now.last and not now.coming:
        say(now.ending)


def _status_row(view: stages.StageView) -> dict[str, Any]:
    state = "parent's" if view.parent else "done" if view.complete else "begun" if view.totals.shards else "-"
    return {
        "stage": view.name,
        "state": state,
        "shards": len(view.totals.shards),
        "kept": view.totals.kept,
        "left": sum(view.totals.rejected.values()),
    }


def inspect(
    run: RunFolder,
    stage: Annotated[str | None, typer.Argument(help="A stage; without it, all in short.")] = None,
    rows: Annotated[int, typer.Option(min=1, help="How many rows to show.")] = 5,
    rejects: Annotated[bool, typer.Option(help="Show what left instead of what stayed.")] = False,
    as_json: Json = False,
) -> None:
    """Look into a stage: counts by reason, files, a few rows."""
    ledger = Ledger(run)
    if stage is None:
        return status(run, False, as_json)
    sample = stages.sample(ledger, stage, rows, rejects=rejects)
    wide = funnel.build(ledger) if stage == "ingest" and not rejects else None
    if as_json:
        print(json.dumps(sample if wide is None else {**wide, "rows": sample}, indent=2, default=str))
        return None
    view = stages.view(ledger, stage)
    console.print(
        f"{stage}: {view.totals.units_in:,} in, {view.totals.kept:,} kept, "
        f"{len(view.totals.shards)} parts in {ledger.home(stage).url}/{stage}",
        highlight=False,
    )
    for left, of in ((view.totals.rejected, ""), (view.totals.texts_rejected, "texts ")):
        for reason, count in sorted(left.items(), key=lambda item: -item[1]):
            console.print(
                f"  {count:>9,} {of}left as {reason}: {MEANING[reason]}", highlight=False, soft_wrap=True
            )
    if wide is not None:
        show_funnel(wide, console)
    for note in view.notes:
        console.print(f"  note: {note}", highlight=False, markup=False)
    for row in sample:
        _print_row(row)
    return None


def _print_row(row: dict[str, Any], indent: str = "  ") -> None:
    say(indent + "  ".join(f"{name}={visible(value)}" for name, value in row.items()))


def explain(
    run: RunFolder,
    identifier: Annotated[str, typer.Argument(metavar="ID", help="A row, image or pair id, or a url.")],
    as_json: Json = False,
) -> None:
    """Tell the whole story of a row: where it came from, what each stage made of it, why it stayed or left."""
    stories = Run(Ledger(run)).explain(identifier)
    if as_json:
        print(json.dumps([vars(story) for story in stories], indent=2, default=str))
        return
    for story in stories:
        console.print(f"[bold]{story.stage}[/bold]  [dim]{story.part}[/dim]", highlight=False, soft_wrap=True)
        for model, digest in story.models.items():
            console.print(f"    [dim]by {model}, {digest[:16]}[/dim]", highlight=False, soft_wrap=True)
        for row in story.rows:
            _print_row(row, "    ")
        for reject in story.rejects:
            meaning = MEANING.get(reject["reason"], "")
            console.print(
                f"    left: {reject['reason']} ({meaning}): {visible(reject['detail'])}  id={reject['id']}",
                highlight=False,
                markup=False,
                soft_wrap=True,
            )


def verify(run: RunFolder, as_json: Json = False) -> None:
    """Reread every committed part and model, and compare them with their records."""
    found = Run(Ledger(run)).verify()
    bad = [entry for entry in found if entry.problem]
    if as_json:
        print(json.dumps([{"stage": s, "name": n, "problem": p} for s, n, p in found], indent=2))
    for stage, name, problem in bad if not as_json else ():
        console.print(f"[red]damaged[/red] {stage}/{name}: {problem}", highlight=False, soft_wrap=True)
    if bad:
        raise DamageError(
            what=f"{len(bad)} of {len(found)} files are damaged",
            evidence=", ".join(f"{stage}/{name}" for stage, name, _ in bad[:3]),
            remedy=f"capfilt resume {run} sets damaged parts aside and redoes them",
        )
    if not as_json:
        say(f"{len(found)} files are whole, every row is accounted for")
