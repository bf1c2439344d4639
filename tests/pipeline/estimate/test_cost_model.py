"""The cost model on records that are made by hand: what it finds in them, and what it makes of them."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, ClassVar

import pyarrow as pa
import pytest

from capfilt.data_contracts.errors import UsageError
from capfilt.data_contracts.records import IngestedImage, Metric, Occurrence, Record, TrainingStep
from capfilt.pipeline.estimate.cost_model import estimate, phases_of
from capfilt.pipeline.estimate.terms import Shape, Span
from capfilt.pipeline.estimate.throughput import COLUMNS, Records, cost, start, turns
from capfilt.pipeline.planning.graph import Graph
from capfilt.pipeline.planning.placement import PlacementKeys
from capfilt.pipeline.planning.schema import ShardKeys
from capfilt.stages.stage import (
    CollectiveStage,
    GlobalStage,
    Rows,
    ShardStage,
    Site,
    StageInput,
    Transform,
)

ROWS, SHARDS, HUMAN = 1000, 10, 40  # of the crawl that was measured; human rows, in four shards
NODE = Shape(1, 2.0, 0.0)
WHOLE = ["list_web", "list_human", "pretrain", "threshold"]


@dataclass(frozen=True)
class List(GlobalStage):
    produces: ClassVar[type[Record]] = Occurrence
    lists: ClassVar[bool] = True

    def run(self, site: Site, inputs: StageInput) -> Iterator[Rows]:
        raise NotImplementedError


@dataclass(frozen=True)
class Work(ShardStage):
    """``depth`` is a setting that costs."""

    produces: ClassVar[type[Record]] = IngestedImage
    depth: int = 1
    seed: int = 0

    def open(self, site: Site) -> Transform:
        raise NotImplementedError


@dataclass(frozen=True)
class Count(GlobalStage):
    produces: ClassVar[type[Record]] = Metric

    def run(self, site: Site, inputs: StageInput) -> Iterator[Rows]:
        raise NotImplementedError


@dataclass(frozen=True)
class Train(CollectiveStage):
    produces: ClassVar[type[Record]] = TrainingStep

    def work(self, site: Site, inputs: StageInput) -> None:
        raise NotImplementedError

    def run(self, site: Site, inputs: StageInput) -> Iterator[Rows]:
        raise NotImplementedError


def plan(placement: Mapping[str, PlacementKeys] | None = None, **work: int) -> Graph:
    """As a recipe that trains: ingest, a training that waits for it, caption and score, a count, an export."""
    recipe: Any = SimpleNamespace(placement=placement or {}, shards=ShardKeys(), run="nowhere/run")
    graph = Graph(recipe)
    graph.add("list_web", List())
    graph.add("list_human", List())
    graph.add("human", Work(), "list_human")
    graph.add("ingest", Work(), "list_web")
    graph.add("pretrain", Train(), "human", "ingest")
    graph.add("caption", Work(**work), "ingest", "pretrain")
    graph.add("score", Work(), "ingest", "caption")
    graph.add("threshold", Count(), "score")
    graph.add("export", Work(), "ingest", "human", "score", "threshold")
    return graph


@dataclass
class Clock:
    """Makes the parts of a run on two workers, one stage after the other. Starts at 100 s, created at 90."""

    now: float = 100.0

    def __post_init__(self) -> None:
        self.parts: dict[str, pa.Table] = {}

    def stage(
        self,
        name: str,
        shards: Sequence[str],
        units: int,
        seconds: float,
        *,
        opening: float = 0.0,
        between: float = 0.0,
        first: float = 0.0,
        size: int = 1000,
        reads: Sequence[str] = (),
        after: str = "",
        model: str = "",
    ) -> None:
        """``first`` are the seconds by which a worker's first shard takes longer. It ``reads`` parts of its
        own shard, all of a global stage ``after`` which it comes, and that stage's ``model``."""
        lanes = [[self.now, opening, first], [self.now, opening, first]]
        rows = []
        for number, shard in enumerate(shards):
            lane = lanes[number % 2]
            lasts = seconds + lane[2]
            lane[0] += (lane[1] or between) + lasts
            lane[1:] = [0.0, 0.0]
            rows.append(
                {
                    "shard": shard,
                    "name": f"part-{shard}.parquet",
                    "units_in": units,
                    "seconds": lasts,
                    "bytes": size,
                    "host": "one",
                    "worker": f"{number % 2}",
                    "finished": datetime.fromtimestamp(lane[0], UTC).isoformat(),
                    "inputs": "".join(
                        f"{above}@{'0' * 64};"
                        for above in (
                            *(f"{above}/part-{shard}.parquet" for above in reads),
                            *([f"{after}/part-0000000.parquet"] if after else []),
                        )
                    ),
                    "models": json.dumps({model: "d" * 64} if model else {}),
                }
            )
        self.now = max(lane[0] for lane in lanes)
        self.parts[name] = pa.Table.from_pylist(rows, COLUMNS)


WEB = [f"{number:07d}" for number in range(SHARDS)]
PEOPLE = [f"h{number:07d}" for number in range(4)]
EACH = ROWS // SHARDS


def measured(**changes: Any) -> Records:
    """Of the hundred rows of a shard 80 are ingested; 3 texts a row are scored."""
    clock = Clock()
    clock.stage("list_web", WEB, EACH, 0.1)
    clock.stage("list_human", PEOPLE, HUMAN // 4, 0.1)
    clock.stage("human", PEOPLE, HUMAN // 4, 1.0, reads=["list_human"])
    clock.stage("ingest", WEB, EACH, 2.0, reads=["list_web"])
    clock.stage("pretrain", ["0000000"], 300, 500.0)
    loading = {"opening": 7.0, "between": 0.5, "first": 3.0}
    clock.stage("caption", WEB, 80, 8.0, **loading, size=400, reads=["ingest"], model="pretrain")
    clock.stage("score", WEB, 300, 3.0, between=0.25, reads=["caption"])
    clock.stage("threshold", ["0000000"], 1, 4.0)
    clock.stage("export", [*WEB, *PEOPLE], 100, 1.0, size=5000, reads=["score"], after="threshold")
    made = plan()
    records = Records(
        url="measured",
        created=90.0,
        recipe={"placement": {}, "shards": ShardKeys().model_dump()},
        stages={node.name: node.identity for node in made},
        parts=clock.parts,
        models={"pretrain": 7_000_000},
    )
    return replace(records, **changes)


def without(records: Records, *stages: str) -> Records:
    return replace(
        records, parts={name: parts for name, parts in records.parts.items() if name not in stages}
    )


def term(found: Any, stage: str) -> Any:
    return next(one for one in found.terms if one.stage == stage)


def phase(found: Any, stage: str) -> Any:
    return next(one for one in found.phases if stage in one.stages)


def test_the_rate_is_that_of_warm_workers_and_the_rest_is_their_opening():
    records = measured()
    turned = turns(records, WHOLE)
    found = cost(records, "caption", turned["caption"], ["list_web"])
    rate = found.rates["list_web"]
    assert rate.seconds == pytest.approx(8.0 / EACH)
    assert rate.units == pytest.approx(0.8)
    assert found.opening == pytest.approx(7.0 + 3.0 - 0.5)
    assert found.between == pytest.approx(0.5)
    assert [turn.first for turn in turned["caption"]] == [True, True, *[False] * 8]


def test_the_start_is_what_passes_before_the_first_task():
    assert start(measured()) == pytest.approx(10.0)


def test_waiting_for_what_is_not_there_is_no_gap():
    """The workers wait 500 s for the training; the first captions are ready with it."""
    records = measured()
    assert max(turn.gap for turn in turns(records, WHOLE)["caption"]) == pytest.approx(7.0)
    parts = records.parts["caption"]
    free = parts.set_column(parts.schema.get_field_index("models"), "models", pa.array(["{}"] * SHARDS))
    unaware = turns(replace(records, parts={**records.parts, "caption": free}), WHOLE)
    assert max(turn.gap for turn in unaware["caption"]) == pytest.approx(507.0)


def test_the_run_that_was_measured_is_given_back():
    found = estimate(plan(), measured(), ROWS, NODE)
    assert found.rows == ROWS
    assert found.bytes == 7_000_000 + sum(sum(p["bytes"].to_pylist()) for p in measured().parts.values())
    assert term(found, "score").work.likely == pytest.approx(30.0)
    assert term(found, "caption").tasks == SHARDS
    assert not found.unknown
    assert not found.warnings


def test_twice_the_rows_are_twice_the_work_of_shards_and_the_same_training():
    one, two = (estimate(plan(), measured(), rows, NODE) for rows in (ROWS, 2 * ROWS))
    for stage in ("ingest", "caption", "score"):
        for name in ("work", "tasks", "bytes"):
            once, twice = getattr(term(one, stage), name), getattr(term(two, stage), name)
            assert twice == pytest.approx(Span(*(2 * v for v in once)) if name == "work" else 2 * once)
    assert term(two, "pretrain").work == term(one, "pretrain").work
    assert term(two, "human") == term(one, "human")
    assert term(two, "threshold").work.likely == 2 * term(one, "threshold").work.likely
    export = [term(found, "export").work.likely for found in (one, two)]
    assert export[1] - export[0] == pytest.approx(10.0)  # of the crawl's shards; the human ones stay


def test_a_global_stage_that_grows_grows_by_no_less_than_nothing_and_no_more_than_the_rows():
    assert term(estimate(plan(), measured(), 5 * ROWS, NODE), "threshold").work == Span(4.0, 20.0, 20.0)
    assert term(estimate(plan(), measured(), ROWS // 2, NODE), "threshold").work == Span(2.0, 2.0, 4.0)


def test_two_nodes_halve_what_is_parallel_and_nothing_else():
    one, two = (estimate(plan(), measured(), 100 * ROWS, replace(NODE, nodes=nodes)) for nodes in (1, 2))
    opening = sum(term(one, stage).opening for stage in ("caption", "score"))
    caption, halved = (phase(found, "caption").seconds.likely for found in (one, two))
    assert halved - opening == pytest.approx((caption - opening) / 2)
    assert phase(two, "pretrain").seconds == phase(one, "pretrain").seconds
    every = sum(term(one, stage).opening for stage in ("human", "ingest", "caption", "score", "export"))
    assert two.cpu_seconds.likely == pytest.approx(
        one.cpu_seconds.likely + 2 * every
    )  # two more workers start


def test_stages_that_flow_into_one_another_share_the_machines():
    found = estimate(plan(), measured(), ROWS, NODE)
    both = phase(found, "caption")
    assert both.stages == ("caption", "score")
    held = sum(term(found, stage).held.likely for stage in both.stages)
    assert both.seconds.likely == pytest.approx(held / 2)
    assert both.scarce == "CPUs"
    assert both.bottleneck == "caption"


def test_actors_limit_a_stage_whatever_else_is_there():
    limited = {"score": PlacementKeys(actors=1)}
    found = estimate(plan(limited), measured(), ROWS, replace(NODE, nodes=50))
    assert phase(found, "score").scarce == "score"
    assert phase(found, "score").seconds.likely == pytest.approx(SHARDS * 3.25)


def test_gpus_limit_what_needs_them_and_a_rate_of_another_placement_is_called_so():
    found = estimate(plan({"caption": PlacementKeys(gpus=0.5)}), measured(), 10 * ROWS, Shape(2, 16.0, 1.0))
    caption = term(found, "caption")
    assert caption.workers == 4
    # The training takes one as well: the recipe does not say, and there are some.
    asked = caption.held.likely / 2 + term(found, "pretrain").held.likely
    assert found.gpu_seconds.likely == pytest.approx(asked)
    assert phase(found, "caption").scarce in ("GPUs", "caption")
    assert found.warnings == (
        "caption was measured with another placement, and its rate is that one's: gpus None, now 0.5",
    )


def test_a_node_that_cannot_hold_a_worker_is_refused():
    with pytest.raises(UsageError, match="cannot hold 1 workers of caption"):
        estimate(plan({"caption": PlacementKeys(gpus=1)}), measured(), ROWS, NODE)


def test_a_global_stage_holds_a_node_unless_it_is_given_threads():
    free = estimate(plan(), measured(), ROWS, Shape(1, 8.0, 0.0))
    given = estimate(plan({"pretrain": PlacementKeys(threads=2)}), measured(), ROWS, Shape(1, 8.0, 0.0))
    assert [term(found, "pretrain").cpus for found in (free, given)] == [8.0, 2.0]
    assert phase(given, "pretrain").seconds == phase(free, "pretrain").seconds
    with pytest.raises(UsageError, match="cannot hold 1 workers of threshold"):
        estimate(plan({"threshold": PlacementKeys(cpus=9)}), measured(), ROWS, Shape(1, 8.0, 0.0))


def test_a_stage_without_a_record_is_named_and_in_no_figure():
    found = estimate(plan(), without(measured(), "score", "export"), ROWS, NODE)
    assert dict(found.unknown) == {"score": "no record", "export": "no record"}
    assert {one.stage for one in found.terms}.isdisjoint(found.unknown)
    assert phase(found, "caption").stages == ("caption",)


def test_no_record_at_all_is_an_error():
    with pytest.raises(UsageError, match="no record of any stage"):
        estimate(plan(), replace(measured(), parts={}), ROWS, NODE)


def test_shards_that_are_not_committed_yet_change_no_rate():
    records = measured()
    some = {"caption": records.parts["caption"].slice(0, 6)}
    whole, part = (
        term(estimate(plan(), one, ROWS, NODE), "caption")
        for one in (records, replace(records, parts={**records.parts, **some}))
    )
    assert part.work.likely == pytest.approx(whole.work.likely)
    assert part.bytes == whole.bytes


def test_other_settings_are_named_another_seed_is_not():
    found = estimate(plan(depth=3, seed=5), measured(), ROWS, NODE)
    assert found.warnings == ("caption was measured with other settings: depth was 1, now 3",)


def test_the_spread_over_the_shards_is_in_the_span():
    clock, records = Clock(), measured()
    clock.stage("odd", WEB[::2], EACH, 1.0)
    clock.stage("even", WEB[1::2], EACH, 3.0)
    mixed = pa.concat_tables([clock.parts["odd"], clock.parts["even"]])
    found = estimate(plan(), replace(records, parts={**records.parts, "ingest": mixed}), ROWS, NODE)
    low, likely, high = term(found, "ingest").work
    assert (low, high) == pytest.approx((10.0, 30.0))
    assert low < likely < high
    assert found.seconds.low < found.seconds.likely < found.seconds.high


def test_phases_are_what_global_stages_separate():
    assert phases_of(plan()) == {
        "list_web": 0,
        "list_human": 0,
        "human": 1,
        "ingest": 1,
        "pretrain": 2,
        "caption": 3,
        "score": 3,
        "threshold": 4,
        "export": 5,
    }


def test_small_shards_are_said_to_be_dear():
    large = plan()
    large.recipe.shards = ShardKeys(target=10 * ShardKeys().target)
    found = estimate(large, measured(), 10 * ROWS, NODE)
    assert term(found, "caption").tasks == SHARDS
    (warning,) = found.warnings
    assert "shards of 100 rows, where this recipe's hold 1,000" in warning
