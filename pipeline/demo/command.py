"""`capfilt demo`: write the crawl and a recipe, and when the recipe has run, hold the result against the truth.

The run in between is that of any user: it knows nothing but the recipe's public keys. The truth is read here,
after it, and by nothing else.
"""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from capfilt.data_contracts.errors import UsageError
from capfilt.pipeline.demo.concepts import by_concepts, table_of
from capfilt.pipeline.demo.web import LIST, over_http, write_list
from capfilt.pipeline.ledger.ledger import Ledger
from capfilt.pipeline.reports.ground_truth import Truth, against
from capfilt.pipeline.reports.query import files, query

RECIPE = "recipe.yaml"


# What `--duplicates` plants: copies of crawled images, and an evaluation set with a copy of each image.
PLANTED = {"copies": 420, "evaluation": 140}
_DEDUP = """
dedup: {}                # images that are the same or nearly: one stays; seen by the pretrained model's vectors
decontaminate: evaluation  # nothing of the crawl may be like these, or like human images that are held out
"""


def prepare(
    out: Path,
    seed: int,
    *,
    http: bool = False,
    human_concepts: int | None = None,
    duplicates: bool = False,
    **sizes: int,
) -> Path:
    """Write the demo's data and its recipe, unless they are there; the recipe's path.

    With ``http`` the recipe has the crawl fetched, by a list of urls; with ``duplicates`` copies are planted in it,
    and the recipe has them found. ``human_concepts`` and ``sizes`` are those of
    :func:`capfilt.pipeline.demo.crawl.write_demo`.

    Raises:
        UsageError: the `demo` extra is not installed, or the folder holds something else.
    """
    try:
        from capfilt.pipeline.demo.crawl import write_demo
    except ImportError as error:
        raise UsageError(
            what="the demo draws its images with packages that are not installed",
            evidence=str(error),
            remedy="pip install 'capfilt[demo]'",
        ) from error
    planted = PLANTED if duplicates else {}
    write_demo(out, seed, human_concepts=human_concepts, **planted | sizes)
    recipe = out / RECIPE
    if recipe.exists() and http is not (out / LIST).exists():
        raise UsageError(
            what=f"the demo in {out} reads its crawl {'from files' if http else 'by http'}",
            evidence=str(recipe),
            remedy=f"call it {'without' if http else 'with'} --http, or give another --out",
        )
    if http:
        write_list(out)
    if not recipe.exists():
        text = Path(__file__).with_name("recipe.yaml").read_text("utf-8")
        text = text.replace("seed: 0", f"seed: {seed}") + (_DEDUP if duplicates else "")
        recipe.write_text(over_http(text) if http else text, "utf-8")
    return recipe


def close(out: Path, ledger: Ledger, console: Console) -> None:
    """What became of the crawl, by the known truth: a funnel, noise before and after, a few pairs, what next."""
    found = measure(out, ledger)
    _funnel(ledger, console)
    table = Table(
        "texts", "pairs", "noise", "kept", "noise kept", "true ones kept", title="by the known truth"
    )
    for source in ("web", "synthetic", "all"):
        row = found[source]
        table.add_row(
            source,
            f"{row['pairs']:,}",
            _percent(row["noise"]),
            f"{row['kept']:,}",
            _percent(row["kept_noise"]),
            _percent(row["true_kept"]),
        )
    console.print(table)
    if found["concepts"]:
        console.print(table_of(found["concepts"]))
    auc = found["web_auc_itm"]
    console.print(
        f"noise is a text that says something false, or nothing, about its image. The filter tells true from "
        f"noisy web texts with AUC {auc['value']:.3f} ({auc['low']:.3f} to {auc['high']:.3f}).",
        highlight=False,
    )
    for line in (*_duplicates(out, ledger), *_pairs(out, ledger)):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    console.print(
        f"""
the cleaned dataset   {ledger.url}/export/part-*.parquet and README.md, its card
every stage           {ledger.url}/STAGE/part-*.parquet; what left is in STAGE/_rejects
the recipe            {out}/{RECIPE}

next: capfilt report {ledger.url}
      capfilt inspect {ledger.url} select --rejects
      capfilt explain {ledger.url} {_first(ledger)}
      capfilt run {out}/{RECIPE} --fork strict --set select.threshold=0.7""",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def _first(ledger: Ledger) -> str:
    """A row to look at."""
    (row,) = query("SELECT min(url) AS url FROM files", files(ledger, "ingest"))
    return str(row["url"])


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def measure(out: Path, ledger: Ledger) -> dict[str, Any]:
    """Noise and counts by source, the filter's AUC on web texts, what people captioned, by the known truth."""
    from capfilt.pipeline.demo.crawl import read_truth
    from capfilt.pipeline.demo.grammar import Verdict, truth

    scenes = read_truth(out)
    known = {Verdict.MATCH: Truth.MATCH, Verdict.PARTIAL: Truth.PARTIAL}
    found = against(ledger, lambda file, text: known.get(truth(scenes[Path(file).name], text), Truth.NOISE))
    return found | {"concepts": by_concepts(ledger, scenes)}


def _funnel(ledger: Ledger, console: Console) -> None:
    table = Table("stage", "in", "kept", "left", title="the funnel")
    for stage in ("ingest", "dedup", "caption", "score", "select", "export"):
        totals = ledger.totals(stage)
        if totals is not None:
            left = ", ".join(f"{count:,} {reason}" for reason, count in totals.rejected.items())
            table.add_row(stage, f"{totals.units_in:,}", f"{totals.kept:,}", left)
    console.print(table)


def _duplicates(out: Path, ledger: Ledger) -> list[str]:
    """What was found of the planted copies, if there are any."""
    from capfilt.pipeline.demo.planted import TABLE
    from capfilt.pipeline.demo.planted_found import found_by_truth

    if not (out / TABLE).exists() or "dedup" not in ledger.record().fingerprints:
        return []
    found = found_by_truth(out, ledger)
    return [
        f"planted copies found: {found['found']} of {found['copies']} ({_percent(found['recall'])}): "
        + ", ".join(f"{edit} {share}" for edit, share in found["by_edit"].items()),
        f"of {found['left']} images that left as duplicates {_percent(found['precision'])} are planted ones; of "
        f"the others {found['same_scene']} are the very same scene, drawn again",
        f"planted evaluation images removed: {found['leaks_removed']} of {found['leaks']}",
    ]


def _pairs(out: Path, ledger: Ledger, count: int = 5) -> list[str]:
    """Images whose web text was dropped and whose synthetic text was kept: before and after."""
    kept = {row["pair_id"] for row in query("SELECT pair_id FROM files", files(ledger, "select"))}
    scores = query(
        "SELECT row_id, pair_id, source, text, itm FROM files ORDER BY row_id LIMIT 2000",
        files(ledger, "score"),
    )
    rows: dict[str, dict[str, Any]] = {}
    for score in scores:
        rows.setdefault(score["row_id"], {})[score["source"]] = score
    urls = {
        row["row_id"]: row["url"] for row in query("SELECT row_id, url FROM files", files(ledger, "ingest"))
    }
    lines = ["", "before and after:"]
    for row, texts in rows.items():
        web, synthetic = texts.get("web"), texts.get("synthetic")
        if web and synthetic and web["pair_id"] not in kept and synthetic["pair_id"] in kept:
            lines += [
                f"  {out}/crawl/{Path(urls[row]).name}",
                f"    dropped {web['itm']:.2f}  {web['text']}",
                f"    kept    {synthetic['itm']:.2f}  {synthetic['text']}",
            ]
        if len(lines) >= 2 + 3 * count:
            break
    return lines
