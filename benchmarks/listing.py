"""How listing and planning grow with a list of urls: ``python -m benchmarks.listing``.

Writes lists of 100,000 to 10,000,000 urls with a text each, a tenth of them repeated, as Parquet and as CSV, and
measures in a process of its own each: the digest and the survey that every `plan` and `resume` begins with, before
anything is listed; the listing itself, with the parts that it commits; the same survey once it is listed. Seconds by
the clock and of CPU, and the most memory that the process had above that of its imports.

    python -m benchmarks.listing [--urls 100000 1000000 10000000] [--format parquet csv] [--within DIR] [--json]
"""

import argparse
import csv
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from capfilt.data_contracts.ledger import RunRecord
from capfilt.pipeline.execution.attempt import run_task
from capfilt.pipeline.execution.task import Task
from capfilt.pipeline.ledger.ledger import Ledger
from capfilt.pipeline.planning.graph import Graph
from capfilt.pipeline.planning.status import stage_statuses
from capfilt.stages.ingest.ingest import IngestImages
from capfilt.stages.ingest.list_source import KINDS, ListSource
from capfilt.stages.ingest.sources.source import SourceSpec

MEASURES = ("import", "plan", "list", "plan, listed")
BLOCK = 100_000
ROWS = 10_000  # urls a shard
SEED = 7919


def rows(start: int, stop: int) -> tuple[list[str], list[str], list[float]]:
    """Urls about as long as LAION's, texts about as long; every tenth url is one that was there before."""
    urls, texts, scores = [], [], []
    for number in range(start, stop):
        item = number * SEED % (number + 1) if number % 10 == 9 else number
        urls.append(
            f"https://cdn-{item % 977}.example.com/images/{item % 31}/{item * SEED:014x}-large.jpg?v={item}"
        )
        texts.append(
            f"Vintage {number % 811} print of the {number % 401}th, an image numbered {number}, framed"
        )
        scores.append(number % 1000 / 1000)
    return urls, texts, scores


def make(path: Path, count: int) -> None:
    if path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["URL", "TEXT", "similarity"])
            for start in range(0, count, BLOCK):
                writer.writerows(zip(*rows(start, min(start + BLOCK, count)), strict=True))
        return
    schema = pa.schema({"URL": pa.string(), "TEXT": pa.string(), "similarity": pa.float64()})
    with pq.ParquetWriter(path, schema, compression="zstd") as parquet:
        for start in range(0, count, BLOCK):
            parquet.write_table(pa.table(list(rows(start, min(start + BLOCK, count))), schema=schema))


def graph_of(path: Path) -> Graph:
    """As a recipe's plan begins: what is listed, and what reads it."""
    spec = SourceSpec("web", "urls", str(path))
    sources = (SourceSpec("web", "urls", str(path), digest=KINDS["urls"].digest(spec)),)
    recipe: Any = SimpleNamespace(placement={})
    graph = Graph(recipe)
    graph.add("list_web", ListSource(sources, 1, rows=ROWS))
    graph.add("ingest", IngestImages(sources, "pillow"), "list_web")
    return graph


def measure(what: str, path: Path, run: Path, threads: int) -> str:
    """Do it once; a word on what came out."""
    if what == "import":
        return ""
    graph, ledger = graph_of(path), Ledger(str(run))
    if not (run / "run.json").exists():
        fingerprints = {node.name: node.fingerprint for node in graph}
        made = RunRecord(name="run", recipe={}, stages={}, fingerprints=fingerprints, versions={}, created="")
        run.mkdir(exist_ok=True)
        (run / "run.json").write_text(made.model_dump_json())
    if what == "list":
        node = graph.nodes["list_web"]
        task = Task(str(run), "list_web", node.stage, node.fingerprint, "", (), {}, {}, threads=threads)
        committed = run_task(task, lambda task, site: None)  # type: ignore[arg-type,return-value]  # no shard stage
        records = [part.record for part, _ in committed if part.record]
        return f"{sum(record.kept for record in records):,} urls in {len(records):,} shards"
    return stage_statuses(graph, ledger)["ingest"].why


def in_a_process(what: str, path: Path, run: Path, threads: int) -> dict[str, Any]:
    asked = [what, str(path), str(run), str(threads)]
    command = [sys.executable, "-m", "benchmarks.listing", "--measure", *asked]
    ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


def child(what: str, path: Path, run: Path, threads: int) -> None:
    pa.array([""])  # Arrow imports pandas at its first conversion, where it is installed
    began, used = time.perf_counter(), time.process_time()
    said = measure(what, path, run, threads)
    seconds, cpu = time.perf_counter() - began, time.process_time() - used
    peak = int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) // 1024
    print(json.dumps({"seconds": round(seconds, 2), "cpu": round(cpu, 2), "mb": peak, "said": said}))


def run_one(kind: str, count: int, within: str | None, threads: int) -> list[dict[str, Any]]:
    """All measures of one list."""
    with tempfile.TemporaryDirectory(dir=within) as here:
        path, run = Path(here) / f"urls.{kind}", Path(here) / "run"
        make(path, count)
        size = path.stat().st_size / 1e6
        found, base = [], 0
        for what in MEASURES:
            result = in_a_process(what, path, run, threads)
            base = base or result["mb"]
            found.append({"list": f"{kind}, {size:,.0f} MB", "urls": count, "what": what, **result})
            found[-1]["mb"] -= base
            print(found[-1], file=sys.stderr)
        return found[1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--urls", type=int, nargs="+", default=[100_000, 1_000_000, 10_000_000])
    parser.add_argument("--format", nargs="+", choices=["parquet", "csv"], default=["parquet", "csv"])
    parser.add_argument("--threads", type=int, default=2, help="those of the listing")
    parser.add_argument("--within", help="where to make the lists; the temporary folder by default")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--measure", nargs=4, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.measure:
        what, path, run, threads = asked.measure
        child(what, Path(path), Path(run), int(threads))
        return
    found = [
        row
        for kind in asked.format
        for count in asked.urls
        for row in run_one(kind, count, asked.within, asked.threads)
    ]
    if asked.json:
        print(json.dumps(found, indent=2))
        return
    table = Table("list", "urls", "what", "seconds", "CPU seconds", "MB above import", "")
    for row in found:
        table.add_row(
            row["list"],
            f"{row['urls']:,}",
            *(str(row[key]) for key in ("what", "seconds", "cpu", "mb", "said")),
        )
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
