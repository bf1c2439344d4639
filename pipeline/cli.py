"""The command line: parses, calls, prints. Exit codes are those of `data_contracts.errors`."""

import json
import time
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from data_contracts.errors import CapfiltError, DamageError, RunChangedError, UsageError
from data_contracts.rejects import MEANING, Reason
from pipeline import funnel, inspection, report, report_card
from pipeline.ledger import Ledger
from pipeline.search import commands

if TYPE_CHECKING:
    from pipeline.by_hand import Found

app = typer.Typer(
    help="CapFilt: finetune a filter and a captioner on human pairs, caption the crawl, drop what does not match.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
console = Console()
STOPPED = 130  # by Ctrl-C
RecipeFile = Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe in YAML.")]
RunFolder = Annotated[
    str, typer.Argument(metavar="RUN", help="A run's folder or url: the recipe's output/name.")
]
Changes = Annotated[list[str] | None, typer.Option("--set", metavar="A.B=C", help="Change a recipe key.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]
Files = Annotated[list[str], typer.Argument(metavar="FILES...", help="Pictures, or folders of them.")]
Model = Annotated[
    str,
    typer.Option(metavar="MODEL", help="A model directory, a hub id, or a run: then the model that it uses."),
]
Device = Annotated[str, typer.Option(help="Where the model computes, such as cuda.")]
Batch = Annotated[int, typer.Option(min=1, help="How many go through the model together.")]
Until = Annotated[str | None, typer.Option(help="Stop after this stage.")]
Join = Annotated[bool, typer.Option("--join", help="Work beside another runner of the same run.")]
Address = Annotated[str | None, typer.Option(help="A Ray cluster; without it one is started here.")]


def main() -> None:
    """The entry point: every error that capfilt raises on purpose becomes a message and its exit code."""
    try:
        app()
    except CapfiltError as error:
        Console(stderr=True).print(f"[red]error:[/red] {_plain(error)}", highlight=False, soft_wrap=True)
        raise SystemExit(error.exit_code) from None
    except SystemExit as ended:
        if ended.code == STOPPED:
            Console(stderr=True).print("stopped; `capfilt resume RUN` carries on")
        raise


def _plain(error: CapfiltError) -> str:
    from rich.markup import escape

    return escape(str(error))


@app.command()
def run(
    recipe: RecipeFile,
    changes: Changes = None,
    until: Until = None,
    fork: Annotated[
        str | None, typer.Option(help="Make a new run of this name from the recipe's run.")
    ] = None,
    address: Address = None,
    join: Join = False,
) -> None:
    """Run a recipe, or carry on where it stopped."""
    from pipeline.recipe import load, parse

    loaded = load(recipe, changes or ())
    parent = None
    if fork:
        parent = Ledger(loaded.run)
        parent.record()
        loaded = parse({**loaded.plain(), "name": fork})
        if loaded.run == parent.url:
            raise UsageError(what="a fork needs a name of its own", evidence=f"{fork} is the run itself")
    _run(loaded, until, address, parent, join=join)


@app.command()
def resume(run: RunFolder, until: Until = None, address: Address = None, join: Join = False) -> None:
    """Carry on with a run from its own recipe; shows the plan first."""
    _run(_own_recipe(run), until, address, None, show_plan=True, join=join)


@app.command()
def retry_failed(
    run: RunFolder,
    reason: Annotated[
        list[Reason] | None, typer.Option(help="Only rows that left for this; may be given several times.")
    ] = None,
    address: Address = None,
) -> None:
    """Fetch rejected rows again, as new shards of the run: without --reason, what may have been passing trouble."""
    from pipeline import retry
    from pipeline.plan import Plan

    recipe = _own_recipe(run)
    found = retry.again(Plan(recipe), Ledger(run), reason or retry.PASSING)
    counts = ", ".join(f"{count:,} {why}" for why, count in found.most_common())
    console.print(f"to be fetched again: {counts or 'nothing'}", highlight=False, soft_wrap=True)
    _run(recipe, None, address, None)  # what waits from an earlier retry, too


def _own_recipe(run: str) -> Any:
    """That of a run, wherever it lies now, whatever its folder is called."""
    from pipeline.recipe import parse

    ledger = Ledger(run)
    recipe = parse(ledger.record().recipe)
    return recipe.model_copy(update={"output": ledger.storage.at("..").url, "name": ledger.storage.name})


def _run(
    recipe: Any,
    until: str | None,
    address: str | None,
    parent: Ledger | None,
    *,
    show_plan: bool = False,
    join: bool = False,
) -> None:
    from pipeline.plan import Plan
    from pipeline.progress import Progress
    from pipeline.runner import Runner, open_run
    from pipeline.survey import survey

    plan = Plan(recipe)
    if until and until not in plan.nodes:
        raise UsageError(
            what=f"--until {until}: the plan has no such stage",
            evidence=f"its stages: {', '.join(plan.nodes)}",
        )
    ledger = Ledger(recipe.run)
    open_run(plan, ledger, parent)
    console.print(f"run {ledger.url}", highlight=False, soft_wrap=True)
    runner = Runner(plan, ledger, Progress(console), address, join=join)
    if show_plan:
        _show_standings(survey(plan, ledger), False)
    runner.run(until)
    if until and until != "export":
        console.print(
            f"stopped after {until}; `capfilt resume {ledger.url}` carries on",
            highlight=False,
            soft_wrap=True,
        )
        return
    _closing(report.write(ledger), ledger)


def _closing(found: dict[str, Any], ledger: Ledger) -> None:
    pairs = ", ".join(f"{count:,} {source}" for source, count in found["exported"].items())
    console.print(f"cleaned pairs: {pairs}\n{ledger.url}/export", highlight=False, soft_wrap=True)
    for warning in found["warnings"]:
        console.print(f"[yellow]warning:[/yellow] {warning}", highlight=False, soft_wrap=True)


@app.command()
def plan(
    recipe: RecipeFile,
    changes: Changes = None,
    as_json: Json = False,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="What the run would cost, by measured rates: docs/estimate.md.")
    ] = False,
    rows: Annotated[int | None, typer.Option(min=1, help="Crawled rows; default: those listed.")] = None,
    nodes: Annotated[int, typer.Option(min=1, help="How many machines.")] = 1,
    node_cpus: Annotated[float | None, typer.Option(min=1, help="Of each; default: this machine's.")] = None,
    node_gpus: Annotated[float | None, typer.Option(min=0, help="Of each; default: this machine's.")] = None,
    measured: Annotated[
        str | None, typer.Option("--from", metavar="RUN", help="Whose rates; default: the recipe's own run.")
    ] = None,
) -> None:
    """Show which stages are done, which are to run, and why. Runs nothing."""
    from pipeline.plan import Plan
    from pipeline.recipe import load
    from pipeline.survey import survey

    loaded = load(recipe, changes or ())
    ledger = Ledger(loaded.run)
    planned = Plan(loaded)
    if ledger.exists:
        from pipeline.runner import demand_same

        try:
            demand_same(planned, ledger)
        except RunChangedError as error:
            console.print(
                f"[yellow]{error.what}[/yellow]\n{error.evidence}\n{error.remedy}",
                highlight=False,
                soft_wrap=True,
            )
            raise SystemExit(error.exit_code) from None
    if estimate:
        from pipeline import estimate as model

        found = model.of_run(planned, measured, rows, nodes, node_cpus, node_gpus)
        print(json.dumps(found.plain(), indent=2)) if as_json else model.show(found, console)
        return
    _show_standings(survey(planned, ledger), as_json)


def _show_standings(standings: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        rows = [
            {
                "stage": name,
                "state": standing.state,
                "why": standing.why,
                "shards": standing.expected,
                "missing": list(standing.missing),
                "damaged": dict(standing.damaged),
                "stale": standing.stale,
            }
            for name, standing in standings.items()
        ]
        print(json.dumps(rows, indent=2))
        return
    table = Table("stage", "state", "shards", "why")
    for name, standing in standings.items():
        shards = "?" if standing.expected is None else str(standing.expected)
        colour = {"to run": "yellow", "waiting": "dim"}.get(standing.state, "green")
        why = f"stale: {standing.stale}" if standing.stale else standing.why
        if standing.damaged:
            why += "; damaged: " + ", ".join(
                f"{part} ({how})" for part, how in [*standing.damaged.items()][:3]
            )
        table.add_row(name, f"[{colour}]{standing.state}[/]", shards, why)
    console.print(table)


@app.command()
def status(
    run: RunFolder,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Until the run is complete.")] = False,
    as_json: Json = False,
) -> None:
    """Show how far a run is, from its storage alone."""
    ledger = Ledger(run)
    while True:
        views = inspection.stages(ledger)
        if as_json:
            print(json.dumps([_status_row(view) for view in views], indent=2))
        else:
            table = Table("stage", "state", "shards", "kept", "left")
            for view in views:
                table.add_row(*(str(value) for value in _status_row(view).values()))
            console.print(table)
            if holder := inspection.running(ledger):
                console.print(
                    f"at work: {holder.who}, as it said at {holder.said}", highlight=False, soft_wrap=True
                )
                for task in holder.running:
                    console.print(
                        f"  {task.label}: {task.done:,} of {task.total:,} {task.text}", highlight=False
                    )
        if not follow or all(view.complete for view in views):
            return
        time.sleep(5)


def _status_row(view: inspection.StageView) -> dict[str, Any]:
    state = "parent's" if view.parent else "done" if view.complete else "begun" if view.totals.shards else "-"
    return {
        "stage": view.name,
        "state": state,
        "shards": len(view.totals.shards),
        "kept": view.totals.kept,
        "left": sum(view.totals.rejected.values()),
    }


@app.command()
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
    sample = inspection.sample(ledger, stage, rows, rejects=rejects)
    wide = funnel.build(ledger) if stage == "ingest" and not rejects else None
    if as_json:
        print(json.dumps(sample if wide is None else {**wide, "rows": sample}, indent=2, default=str))
        return None
    view = inspection.view(ledger, stage)
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
        funnel.show(wide, console)
    for note in view.notes:
        console.print(f"  note: {note}", highlight=False, markup=False)
    for row in sample:
        _print_row(row)
    return None


def _print_row(row: dict[str, Any], indent: str = "  ") -> None:
    console.print(
        indent + "  ".join(f"{name}={_visible(value)}" for name, value in row.items()),
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def _visible(value: Any) -> str:
    """Text from the web without control characters: they must not reach a terminal."""
    text = f"{value:.4f}" if isinstance(value, float) else str(value)
    return "".join(letter if letter.isprintable() else "?" for letter in text)


@app.command()
def explain(
    run: RunFolder,
    identifier: Annotated[str, typer.Argument(metavar="ID", help="A row, image or pair id, or a url.")],
    as_json: Json = False,
) -> None:
    """Tell the whole story of a row: where it came from, what each stage made of it, why it stayed or left."""
    stories = inspection.explain(Ledger(run), identifier)
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
                f"    left: {reject['reason']} ({meaning}): {_visible(reject['detail'])}  id={reject['id']}",
                highlight=False,
                markup=False,
                soft_wrap=True,
            )


@app.command()
def verify(run: RunFolder, as_json: Json = False) -> None:
    """Reread every committed part and model, and compare them with their records."""
    found = list(inspection.verify(Ledger(run)))
    bad = [entry for entry in found if entry[2]]
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
        console.print(
            f"{len(found)} files are whole, every row is accounted for", highlight=False, soft_wrap=True
        )


@app.command(name="report")
def report_command(
    run: RunFolder,
    truth: Annotated[Path | None, typer.Option(help="CSV file,text,match: noise before and after.")] = None,
    as_json: Json = False,
) -> None:
    """Show the run's numbers; writes them to report.json and to the dataset card."""
    ledger = Ledger(run)
    found = report.write(ledger)
    if truth is not None:
        from pipeline.truth import against, read_truth

        found["truth"] = against(ledger, read_truth(truth))
    if as_json:
        print(json.dumps(found, indent=2))
        return
    report.show(found, console)


@app.command(name="report-card")
def report_card_command(run: RunFolder, as_json: Json = False) -> None:
    """Show what is known of the run's filter from human test pairs, and what that says of the texts it kept."""
    card = report_card.demand(Ledger(run))
    if as_json:
        print(json.dumps(card, indent=2))
    else:
        report_card.show(card, console)


@app.command()
def caption(
    files: Files,
    model: Model,
    strategy: Annotated[Literal["nucleus", "greedy", "beam"] | None, typer.Option()] = None,
    top_p: Annotated[float | None, typer.Option(help="The nucleus to draw from.")] = None,
    per_image: Annotated[int | None, typer.Option(help="Captions a picture.")] = None,
    min_tokens: Annotated[int | None, typer.Option(help="Shortest caption.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Longest caption.")] = None,
    repetition_penalty: Annotated[float | None, typer.Option(help="Above 1 repeats less.")] = None,
    beams: Annotated[int | None, typer.Option(help="How many, with --strategy beam.")] = None,
    prompt: Annotated[
        str | None, typer.Option(help="What captions go on from, or a chat model is asked.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Draws other captions.")] = None,
    device: Device = "cpu",
    batch: Batch = 16,
    as_json: Json = False,
) -> None:
    """Caption pictures by hand. Options are the recipe's `caption` keys; a run's own are its defaults."""
    from models.open import open_captioner
    from pipeline import by_hand

    given = {
        "strategy": strategy,
        "top_p": top_p,
        "per_image": per_image,
        "min_tokens": min_tokens,
        "max_tokens": max_tokens,
        "repetition_penalty": repetition_penalty,
        "beams": beams,
        "prompt": prompt,
    }
    decoding = by_hand.decoding_for(model, given, seed)
    inference = by_hand.inference_for(model)
    captioner = open_captioner(by_hand.model_of(model, "captioner"), device, batch, inference)
    _print_found(by_hand.caption(files, captioner, decoding, batch), ("logprob",), as_json)


@app.command()
def score(
    files: Files,
    text: Annotated[list[str], typer.Option(help="A text to judge; give it several times for several.")],
    model: Model,
    device: Device = "cpu",
    batch: Batch = 16,
    as_json: Json = False,
) -> None:
    """Score texts against pictures by hand: itm is the probability of a match, itc the cosine."""
    from models.open import open_filter
    from pipeline import by_hand

    inference = by_hand.inference_for(model)
    matcher = open_filter(by_hand.model_of(model, "filter"), device, batch, inference)
    _print_found(by_hand.score(files, text, matcher, batch), ("itm", "itc"), as_json)


def _print_found(found: "Found", figures: tuple[str, ...], as_json: bool) -> None:
    """JSON lines as they come, or a table; what could not be read on stderr, and exit code 1 for it."""
    table, failed = Table("file", *figures, "text"), False
    for row in found:
        if not isinstance(row, dict):
            failed = True
            said = f"{_visible(row.file)}: {_visible(row.reason)}"
            Console(stderr=True).print(said, highlight=False, markup=False, soft_wrap=True)
        elif as_json:
            print(json.dumps(row), flush=True)
        else:
            cells = (row["file"], *(row[figure] for figure in figures), row["text"])
            table.add_row(*(Text(_visible(cell)) for cell in cells))
    if table.rows:
        console.print(table)
    if failed:
        raise SystemExit(1)


commands.add_to(app)


@app.command()
def submit(
    recipe: RecipeFile,
    address: Annotated[str, typer.Option(help="The cluster's dashboard, such as http://head:8265.")],
    changes: Changes = None,
    until: Until = None,
) -> None:
    """Send a recipe to a Ray cluster as a job; `capfilt status RUN` follows it."""
    from pipeline.recipe import load
    from pipeline.submit import submit as send

    loaded = load(recipe, changes or ())
    job = send(loaded, address, until)
    console.print(
        f"submitted {job}\nfollow it: capfilt status --follow {loaded.run}", highlight=False, soft_wrap=True
    )


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Where to put the demo.")] = Path("demo"),
    seed: Annotated[int, typer.Option(min=0, help="Draws the concepts, the crawl and the training.")] = 0,
    http: Annotated[
        bool, typer.Option("--http", help="Have the crawl fetched, from a server on loopback.")
    ] = False,
    human_concepts: Annotated[
        int | None, typer.Option(help="Let people caption so many of its 24 things; without it, all.")
    ] = None,
    duplicates: Annotated[
        bool, typer.Option("--duplicates", help="Plant copies and evaluation pictures, and have them found.")
    ] = False,
) -> None:
    """Make a small noisy crawl of real pictures and clean it, start to end."""
    from pipeline.demo.command import close, prepare
    from pipeline.demo.web import served
    from pipeline.recipe import load

    recipe = load(prepare(out, seed, http=http, human_concepts=human_concepts, duplicates=duplicates))
    with served(out) if http else nullcontext():
        _run(recipe, None, None, None)
    close(out, Ledger(recipe.run), console)


if __name__ == "__main__":
    main()
