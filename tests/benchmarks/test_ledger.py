"""The benchmark's runs are real ones: the ledger finds in them what they were made with."""

from typing import Any

import pytest

from benchmarks import ledger as benchmark
from capfilt.pipeline.ledger.commit_index import Part
from capfilt.pipeline.ledger.ledger import Ledger
from capfilt.pipeline.reports.verify import verify

COUNT = 200


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with benchmark.folder(str(tmp_path_factory.mktemp("made"))) as (url, write):
        benchmark.make(Ledger(url), COUNT, write)
        yield url


def test_the_run_is_whole(made: str) -> None:
    found = list(verify(Ledger(made)))
    assert len(found) == 4 * COUNT - COUNT // 100
    assert not [problem for _, _, problem in found if problem]


def test_the_columns_hold_the_whole_record(made: str) -> None:
    graph = benchmark.plan()
    digests = {
        stage: [sha256 for _, sha256 in Ledger(made).index(stage).held().values()] for stage in graph.nodes
    }
    records = benchmark.records(graph, "export", COUNT - COUNT // 100, digests)
    index = Ledger(made).index("export")
    for record in records:
        found = index.part(record.shard)
        assert isinstance(found, Part)
        assert found.record == record


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("plan", "2 of 200 shards to do"),
        ("resume", "first: export-0000198"),
        ("status", "('export', 198)"),
        ("verify: listing", "0 unaccounted"),
        ("schedule", "tasks/s"),
        ("compact", "20 entries"),
    ],
)
def test_each_measure_does_what_it_says(made: str, what: str, said: str) -> None:
    assert said in benchmark.measure(what, made, COUNT)
