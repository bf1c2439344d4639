"""A run on a cluster as its operator sees it: the nodes' metrics endpoints, the dashboard over them, the log."""

import json
import re
import threading
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from ray.dashboard.modules.reporter.reporter_agent import METRICS_GAUGES

from capfilt.pipeline.ledger.ledger import Ledger
from capfilt.pipeline.watching import log
from tests.scenarios.cluster import Head, started_head
from tests.scenarios.command import capfilt, here, write_recipe

ROOT = Path(__file__).parent.parent.parent
DASHBOARD = json.loads((ROOT / "docker/grafana/capfilt.json").read_text())
STEPS = 30


@dataclass
class Scraped:
    """What Prometheus would have seen so far: every sample's last value, by its name and labels."""

    head: Head
    samples: dict[tuple[str, frozenset[tuple[str, str]]], float] = field(default_factory=dict)

    def once(self) -> None:
        """As ``docker/prometheus.yml`` says: all targets of the file in which Ray lists its nodes."""
        (config,) = yaml.safe_load((ROOT / "docker/prometheus.yml").read_text())["scrape_configs"]
        (path,) = config["file_sd_configs"][0]["files"]
        for group in json.loads((self.head.folder / Path(path).relative_to("/tmp/ray")).read_text()):
            for target in group["targets"]:
                # Ray lists its autoscaler and its dashboard too, on fixed ports, which another cluster here may have.
                with (
                    suppress(OSError),
                    urllib.request.urlopen(f"http://{target}/metrics", timeout=30) as answer,
                ):
                    families = text_string_to_metric_families(answer.read().decode())
                    for sample in (sample for family in families for sample in family.samples):
                        self.samples[sample.name, frozenset(sample.labels.items())] = sample.value

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Scrapes all the time, and once more at the end: a gauge is gone when its driver is."""
        ending = threading.Event()

        def scrape() -> None:
            while not ending.wait(2):
                self.once()

        thread = threading.Thread(target=scrape)
        thread.start()
        try:
            yield
        finally:
            ending.set()
            thread.join()
        self.once()

    def total(self, name: str, **labels: str) -> float:
        return sum(
            value for (own, has), value in self.samples.items() if own == name and labels.items() <= set(has)
        )


@dataclass(frozen=True)
class Watched:
    """A run that trained, lost workers to a row, was stopped after captions, lost a part and went on to its end."""

    run: Path
    poison: str
    stages: list[dict[str, Any]]
    counted: dict[str, dict[str, float]]
    said: list[dict[str, Any]]
    stored: list[dict[str, Any]]
    seen: Scraped


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("watched")


@pytest.fixture(scope="module")
def deadly(folder: Path) -> Iterator[Head]:
    """A cluster on which the row that the only worker of `caption` has in hand first kills it three times, alone."""
    kills = ",".join(f"batch.caption:1@{folder}/{number}" for number in (1, 2, 3))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CAPFILT_FAILPOINT", kills)
        with started_head() as head:
            yield head


@pytest.fixture(scope="module")
def watched(deadly: Head, recipe: dict[str, Any], folder: Path) -> Watched:
    models = recipe["models"]
    models = {**models, "captioner": {**models["captioner"], "steps": STEPS, "batch": 8}}
    placement = {"caption": {"batch": 1, "actors": 1}, "captioner": {"threads": 1, "checkpoint_steps": 10}}
    path = write_recipe(folder / "r.yaml", {**recipe, "models": models}, name="watched", placement=placement)
    run, seen = folder / "runs" / "watched", Scraped(deadly)
    with seen.watching():
        first = capfilt(*("run", path, "--until", "caption"), CAPFILT_LOG="json", **deadly.env)
    stored = list(log.read(Ledger(run)))
    stages = json.loads(here("inspect", run, "--json").out)
    counted = {
        name: {
            row["stage"]: seen.total(f"ray_capfilt_{name}_total", run="watched", stage=row["stage"])
            for row in stages
        }
        for name in ("rows_kept", "rows_rejected", "parts_committed")
    }
    (run / "caption" / "part-0000003.parquet").write_bytes(b"cut short")
    with seen.watching():
        capfilt("resume", run, **deadly.env)
    poison = next(line["row_id"] for line in stored if line["event"] == "row_quarantined")
    said = [json.loads(line) for line in first.err.splitlines()]
    return Watched(run, poison, stages, counted, said, stored, seen)


def queries() -> Iterator[str]:
    """The dashboard's expressions as Prometheus gets them, with Grafana's variables put in."""
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            yield target["expr"].replace("$__rate_interval", "1m").replace("$run", "watched")


def metrics() -> set[str]:
    """Every metric that the dashboard asks for."""
    found = set()

    def visit(expression: Any) -> bool:
        if isinstance(expression, promql_parser.VectorSelector):
            found.add(expression.name)
        return True

    for query in queries():
        promql_parser.walk(promql_parser.parse(query), visit)
    for variable in DASHBOARD["templating"]["list"]:
        found |= set(re.findall(r"label_values\((\w+),", str(variable["query"])))
    return found


def test_every_metric_of_the_dashboard_is_exported(watched: Watched) -> None:
    exported = {name for name, _ in watched.seen.samples}
    gpus = {f"ray_{name}" for name in METRICS_GAUGES if name.startswith(("node_gpus", "node_gram"))}
    assert len(metrics()) > 10
    assert metrics() - gpus - exported == set()


def test_every_metric_of_ours_is_in_the_docs(watched: Watched) -> None:
    told = set(re.findall(r"^\| `(capfilt_\w+)` \|", (ROOT / "docs/watching.md").read_text(), re.MULTILINE))
    ours = {name for name, labels in watched.seen.samples if name.startswith("ray_capfilt_")}
    assert {re.sub(r"^ray_|_(total|bucket|sum|count)$", "", name) for name in ours} == told


def test_counters_are_the_ledgers_totals(watched: Watched) -> None:
    ledger = {
        "rows_kept": {row["stage"]: row["kept"] for row in watched.stages},
        "rows_rejected": {row["stage"]: row["left"] for row in watched.stages},
        "parts_committed": {row["stage"]: row["shards"] for row in watched.stages},
    }
    texts = watched.seen.total("ray_capfilt_rows_rejected_total", run="watched", stage="ingest", unit="text")
    ledger["rows_rejected"]["ingest"] += texts  # of images that stay: `inspect` tells them apart
    assert texts == 2
    assert sum(ledger["rows_kept"].values()) > 200
    assert watched.counted == ledger


def test_deaths_poison_and_damage_are_counted(watched: Watched) -> None:
    total = watched.seen.total
    assert total("ray_capfilt_attempts_failed_total", run="watched", stage="caption", kind="died") == 3
    assert total("ray_capfilt_rows_poison_total", run="watched", stage="caption") == 1
    assert total("ray_capfilt_parts_quarantined_total", run="watched") == 1


def test_a_training_tells_its_step_and_its_loss(watched: Watched) -> None:
    by_figure = {
        dict(labels)["figure"]: value
        for (name, labels), value in watched.seen.samples.items()
        if name == "ray_capfilt_training" and ("run", "watched") in labels
    }
    assert by_figure["steps"] == STEPS
    assert 0 < by_figure["step"] <= STEPS
    assert by_figure["loss"] > 0


def test_no_tag_has_as_many_values_as_there_are_rows_or_shards(watched: Watched) -> None:
    values = defaultdict(set)
    for name, labels in watched.seen.samples:
        if name.startswith("ray_capfilt_") and ("run", "watched") in labels:
            for tag, value in labels:
                values[tag].add(value)
    # What Ray adds names processes and nodes.
    added = {"Component", "NodeAddress", "SessionName", "Version", "WorkerId", "otel_scope_name"}
    added |= {"otel_scope_version", "otel_scope_schema_url"}
    assert values.keys() - added == {"run", "stage", "unit", "reason", "kind", "figure", "le"}
    assert max(len(values[tag]) for tag in ("stage", "unit", "reason", "kind", "figure")) < 30


def test_stderr_and_the_runs_own_log_say_the_same(watched: Watched) -> None:
    assert sorted(watched.said, key=lambda line: line["time"]) == watched.stored
    assert all({"time", "level", "run", "host", "event", "message"} <= line.keys() for line in watched.stored)


def test_the_log_tells_every_commit_death_poison_row_and_damage(watched: Watched) -> None:
    lines = list(log.read(Ledger(watched.run)))
    events = [line["event"] for line in lines]
    assert (events[0], events[-1], events.count("run_ended")) == ("run_begun", "run_ended", 2)
    commits = {(line["stage"], line["part"]) for line in lines if line["event"] == "committed"}
    redone = ("caption", "part-0000003.g1.parquet")
    parts = {(path.parent.name, path.name) for path in watched.run.glob("*/part-*.parquet")}
    assert commits == parts
    assert redone in parts
    deaths = [line for line in lines if line["event"] == "attempt_failed"]
    assert [(line["attempt"], line["kind"], line["in_hand"]) for line in deaths] == [
        (1, "died", [watched.poison]),
        (2, "died", [watched.poison]),
        (3, "died", [watched.poison]),
    ]
    assert {line["level"] for line in deaths} == {"warning"}
    assert [line["part"] for line in lines if line["event"] == "part_quarantined"] == ["part-0000003.parquet"]
    opened = [
        line for line in lines if line["event"] == "worker_logged" and "opened caption" in line["message"]
    ]
    assert deaths[0]["shard"] in {line["shard"] for line in opened}


def test_the_log_disturbs_nothing(watched: Watched) -> None:
    assert "whole" in here("verify", watched.run).said
    assert {row["state"] for row in json.loads(here("status", watched.run, "--json").out)} == {"done"}
