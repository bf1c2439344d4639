"""How planning, resuming and looking at a run grow with the number of its shards: ``python benchmarks/ledger.py``.

Makes runs of 1,000, 10,000 and 100,000 shards, 99% done, out of tiny parts with real footers, in a folder and in
an object store (moto's server on loopback), and measures each command in a process of its own: seconds by the
clock and of CPU, and by how much its memory grew over that of the imports alone.

    python benchmarks/ledger.py [--shards 1000 10000 100000] [--store folder s3] [--json]
"""

import argparse
import hashlib
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from capfilt.data_contracts.contract import Contract
from capfilt.data_contracts.ledger import InputPart, RunRecord, ShardRecord, StageTotals
from capfilt.data_contracts.records import Caption, Occurrence, Record
from capfilt.pipeline.execution.schedule import Schedule
from capfilt.pipeline.ledger.commit_index import Part, part_name, rows_of
from capfilt.pipeline.ledger.index_store import RECORD
from capfilt.pipeline.ledger.ledger import Ledger
from capfilt.pipeline.planning.graph import Graph
from capfilt.pipeline.planning.status import StageStatus, stage_statuses
from capfilt.pipeline.reports import stages, verify
from capfilt.pipeline.storage import Folder
from capfilt.stages.stage import GlobalStage, Rows, ShardStage, Site, StageInput, Transform

ENTRIES = 500  # parts of each stage that are committed and not yet in the compacted index
MEASURES = ("import", "plan", "resume", "status", "verify: listing", "schedule", "compact")
S3_ENV = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_REGION": "us-east-1"}


@dataclass(frozen=True)
class List(GlobalStage):
    produces: ClassVar[type[Record]] = Occurrence
    lists: ClassVar[bool] = True

    def run(self, site: Site, inputs: StageInput) -> Iterator[Rows]:
        raise NotImplementedError


@dataclass(frozen=True)
class Pass(ShardStage):
    consumes: ClassVar[tuple[type[Record], ...]] = (Occurrence,)
    produces: ClassVar[type[Record]] = Caption

    def open(self, site: Site) -> Transform:
        raise NotImplementedError


def plan() -> Graph:
    """As a run of given checkpoints has it: a listing, a chain of shard stages, a last one that reads three."""
    recipe: Any = SimpleNamespace(placement={})
    graph = Graph(recipe)
    graph.add("list", List())
    graph.add("caption", Pass(), "list")
    graph.add("score", Pass(), "list", "caption")
    graph.add("export", Pass(), "list", "caption", "score")
    return graph


# -- making a run -------------------------------------------------------------------------------------------


def records(graph: Graph, stage: str, count: int, digests: dict[str, list[str]]) -> Iterator[ShardRecord]:
    node = graph.nodes[stage]
    for number in range(count):
        shard = f"{number:07d}"
        yield ShardRecord(
            run="run",
            stage=stage,
            shard=shard,
            fingerprint=node.fingerprint,
            contract=Contract(node.stage.produces).identity,
            unit="image",
            units_in=100,
            kept=100,
            inputs=tuple(
                InputPart(stage=above, name=part_name(shard), sha256=digests[above][number])
                for above in sorted(node.upstream)
            ),
            models={"/models/captioner": "d" * 64},
            host="worker-17",
            worker="17-0a1b2c3d",
            seconds=12.345,
            finished="2026-01-01T00:00:00.000+00:00",
        )


def parts(
    graph: Graph, stage: str, count: int, digests: dict[str, list[str]]
) -> Iterator[tuple[Part, bytes]]:
    """Parts and their bytes: every file is the first one with another record, of the same length, in its footer."""
    template, marker = b"", b""
    for record in records(graph, stage, count, digests):
        text = record.model_dump_json().encode()
        if len(text) != len(marker):
            schema = Contract(graph.nodes[stage].stage.produces).schema
            sink = pa.BufferOutputStream()
            with pq.ParquetWriter(sink, schema) as writer:
                writer.add_key_value_metadata({RECORD.decode(): text.decode()})
            template, marker = sink.getvalue().to_pybytes(), text
        data = template.replace(marker, text)
        name = part_name(record.shard)
        yield Part(name=name, size=len(data), sha256=hashlib.sha256(data).hexdigest(), record=record), data


def make(ledger: Ledger, count: int, write: Any) -> None:
    """A run of ``count`` shards of which the last stage lacks one in a hundred."""
    graph = plan()
    identities = {node.name: dict(node.identity) for node in graph}
    fingerprints = {node.name: node.fingerprint for node in graph}
    record = RunRecord(
        name="run", recipe={}, stages=identities, fingerprints=fingerprints, versions={}, created=""
    )
    write("run.json", record.model_dump_json().encode())
    digests: dict[str, list[str]] = {}
    for stage in graph.nodes:
        own = digests[stage] = []
        made = parts(graph, stage, count, digests)
        done = count if stage != "export" else count - count // 100
        entries = min(ENTRIES, count // 10)
        tables = []
        while chunk := list(islice(made, 5000)):
            chunk = chunk[: max(0, done - len(own))]
            for part, data in chunk:
                write(f"{stage}/{part.name}", data)
                own.append(part.sha256)
                if len(own) > done - entries:
                    write(f"{stage}/_commits/{part.name}.json", part.model_dump_json().encode())
            tables.append(rows_of(part for part, _ in chunk))
        rows = pa.concat_tables(tables)
        sink = pa.BufferOutputStream()
        pq.write_table(rows.slice(0, done - entries), sink, compression="zstd")
        write(f"{stage}/_commits/index.parquet", sink.getvalue().to_pybytes())
        if stage != "export":
            shards = tuple(rows["shard"].to_pylist())
            totals = StageTotals(
                stage=stage,
                fingerprint=fingerprints[stage],
                shards=shards,
                units_in=100 * done,
                kept=100 * done,
            )
            write(f"{stage}/_stage.json", totals.model_dump_json().encode())


# -- measuring ----------------------------------------------------------------------------------------------


def flow_of(graph: Graph, url: str, statuses: dict[str, StageStatus]) -> Schedule:
    return Schedule(graph, list(graph), url, statuses, lambda *_: None, lambda _: None)


def measure(what: str, url: str, count: int) -> str:
    """Do it once; a word on what came out."""
    graph, ledger = plan(), Ledger(url)
    if what == "import":
        return ""
    if what == "plan":
        return stage_statuses(graph, ledger)["export"].why
    if what == "resume":
        schedule = flow_of(graph, url, stage_statuses(graph, ledger))
        task = next(schedule.ready(1))
        return f"first: {task.label}"
    if what == "status":
        return str([(view.name, len(view.totals.shards)) for view in stages.stages(ledger)])
    if what == "verify: listing":
        missing = 0
        for stage in graph.nodes:
            totals, index = ledger.look(stage)
            assert not index.damaged
            missing += len(list(verify.unaccounted(totals, index)))
        return f"{missing} unaccounted"
    if what == "compact":
        for stage in graph.nodes:
            ledger.compact(stage)
        return f"{min(ENTRIES, count // 10)} entries in each of {len(graph.nodes)} stages"
    assert what == "schedule"
    return no_ops(graph, url, count)


def no_ops(graph: Graph, url: str, count: int) -> str:
    """Every shard through every stage, with no work and no storage: what the driver itself costs."""
    index = Ledger(url).index("list")
    done = StageStatus("done", "complete", tuple(index.shards), index)  # type: ignore[arg-type]
    statuses = {"list": done}
    for stage in ("caption", "score", "export"):
        statuses[stage] = StageStatus("to run", "", done.shards, missing=done.shards or ())  # type: ignore[arg-type]
    schedule = flow_of(graph, url, statuses)
    tasks, began = 0, time.perf_counter()
    while not schedule.finished:
        task = next(schedule.ready(1))
        schedule.begin(task)
        record = SimpleNamespace(shard=task.shard)
        part: Any = SimpleNamespace(name=part_name(task.shard), sha256="f" * 64, record=record)
        schedule.end(task, [part])
        tasks += 1
    assert tasks == 3 * count
    return f"{tasks / (time.perf_counter() - began):,.0f} tasks/s"


def in_a_process(what: str, url: str, count: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--measure", what, url, str(count)]
    ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


def child(what: str, url: str, count: int) -> None:
    pa.array([""])  # Arrow imports pandas at its first conversion, where it is installed
    began, used = time.perf_counter(), time.process_time()
    said = measure(what, url, count)
    seconds, cpu = time.perf_counter() - began, time.process_time() - used
    print(
        json.dumps({"seconds": round(seconds, 2), "cpu": round(cpu, 2), "mb": round(_peak()), "said": said})
    )


def _peak() -> float:
    """The most memory that this process had, in MB. (``ru_maxrss`` starts with that of the process's parent.)"""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


@contextmanager
def folder(within: str | None) -> Iterator[tuple[str, Any]]:
    """A run's folder and a function that writes files there; without fsync, unlike the real ledger."""
    with tempfile.TemporaryDirectory(dir=within) as here:
        root = Path(here) / "run"
        made = set()

        def write(name: str, data: bytes) -> None:
            path = root / name
            if path.parent not in made:
                path.parent.mkdir(parents=True, exist_ok=True)
                made.add(path.parent)
            path.write_bytes(data)

        yield Folder(root).url, write


@contextmanager
def bucket(_: str | None) -> Iterator[tuple[str, Any]]:
    """A run's url in a server of this process, whose memory is filled directly."""
    from moto.moto_server.threaded_moto_server import ThreadedMotoServer
    from moto.s3.models import s3_backends

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    os.environ.update({**S3_ENV, "AWS_ENDPOINT_URL": f"http://{host}:{port}"})
    backend = s3_backends["123456789012"]["aws"]
    name = f"bench-{uuid.uuid4().hex}"
    backend.create_bucket(name, "us-east-1")
    try:
        yield f"s3://{name}/run", lambda key, data: backend.put_object(name, f"run/{key}", data)
    finally:
        server.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--shards", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--store", nargs="+", choices=["folder", "s3"], default=["folder", "s3"])
    parser.add_argument("--within", help="where to make the folders; the temporary folder by default")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.measure:
        child(asked.measure[0], asked.measure[1], int(asked.measure[2]))
        return
    found: list[dict[str, Any]] = []
    for store in asked.store:
        for count in asked.shards:
            found += run_one(store, count, asked.within)
    if asked.json:
        print(json.dumps(found, indent=2))
        return
    table = Table("store", "shards", "what", "seconds", "CPU seconds", "MB above import", "")
    for row in found:
        table.add_row(*(str(row[key]) for key in ("store", "shards", "what", "seconds", "cpu", "mb", "said")))
    Console(width=140).print(table)


def run_one(store: str, count: int, within: str | None) -> list[dict[str, Any]]:
    """All measures of one store and size."""
    rows = []
    with {"folder": folder, "s3": bucket}[store](within) as (url, write):
        began = time.perf_counter()
        make(Ledger(url), count, write)
        print(f"{store} {count:,}: made in {time.perf_counter() - began:.0f} s", file=sys.stderr)
        base = 0
        for what in MEASURES:
            result = in_a_process(what, url, count)
            base = base or result["mb"]
            rows.append({"store": store, "shards": count, "what": what, **result, "mb": result["mb"] - base})
            print(f"  {what}: {result}", file=sys.stderr)
    return rows[1:]


if __name__ == "__main__":
    main()
