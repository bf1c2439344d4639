"""A sample before a large list, and what happens when the web stops answering in the middle of it."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from capfilt.data_contracts.contract import Contract
from capfilt.data_contracts.errors import StageError
from capfilt.data_contracts.records import Metric, Occurrence
from capfilt.data_contracts.rejects import Reason
from capfilt.stages.in_memory import MemoryInput
from capfilt.stages.ingest.fetch.policy import FetchPolicy
from capfilt.stages.ingest.ingest import IngestImages
from capfilt.stages.ingest.preflight import Preflight, promise
from capfilt.stages.ingest.sources.source import SourceSpec
from tests.hostile import Hostile
from tests.stages.rows import collect, occurrence, site

POLICY = FetchPolicy(allow_private=("127.0.0.1/32",), timeout=3.0, retries=0, per_host=16)
WEB = (SourceSpec("web", "urls", "nowhere"),)


@pytest.fixture
def server() -> Iterator[Hostile]:
    with Hostile() as server:
        yield server


def listed(server: Hostile, rows: int, dead: int) -> MemoryInput:
    """So many urls, of which one in ``dead`` answers 404."""
    urls = [server.url(f"status/404/{n}" if n % dead == 0 else f"image/{n}") for n in range(rows)]
    return MemoryInput.of(*(occurrence(url) for url in urls))


def figures(folder: Path, inputs: MemoryInput, sample: int) -> pa.Table:
    (rows,) = Preflight(("web",), POLICY, sample).run(site(folder), inputs)
    return rows.kept


def test_a_sample_of_a_large_list(server: Hostile, tmp_path: Path) -> None:
    found = figures(tmp_path, listed(server, 400, dead=4), 40)
    shares = dict(zip(found["name"].to_pylist(), found["value"].to_pylist(), strict=True))
    assert shares == {"listed": 400, "fetched_whole": 0.75, "fetched_http_404": 0.25}
    assert promise(found) == 0.75
    assert len(server.log) == 40


def test_a_short_list_is_simply_fetched(server: Hostile, tmp_path: Path) -> None:
    found = figures(tmp_path, listed(server, 399, dead=4), 40)
    assert found["name"].to_pylist() == ["listed"]
    assert promise(found) == 0.0
    assert not server.log


def test_rows_of_other_sources_are_not_asked_for(server: Hostile, tmp_path: Path) -> None:
    (rows,) = Preflight(("elsewhere",), POLICY, 4).run(site(tmp_path), listed(server, 100, dead=2))
    assert rows.kept["value"].to_pylist() == [0]
    assert not server.log


def test_a_network_on_which_nothing_works_is_told(server: Hostile, tmp_path: Path) -> None:
    with pytest.raises(StageError, match="of a sample of 20 urls 0 could be fetched") as caught:
        figures(tmp_path, listed(server, 200, dead=1), 20)
    assert "20 http_404" in caught.value.evidence
    assert "Preflight.sample 0" in caught.value.remedy


def test_names_that_do_not_resolve_are_told(server: Hostile, tmp_path: Path) -> None:
    urls = [f"http://h{n}.invalid/x.png" if n % 3 else server.url(f"image/{n}") for n in range(60)]
    inputs = MemoryInput.of(*(occurrence(url) for url in urls))
    with pytest.raises(StageError, match="of a sample of 6 urls 2 could be fetched") as caught:
        figures(tmp_path, inputs, 6)
    assert "4 dns" in caught.value.evidence


def ingest(inputs: MemoryInput, promised: float, folder: Path) -> list[Reason]:
    metric = Metric(name="fetched_whole", value=promised, count=200)
    given = MemoryInput({**inputs.tables, Metric: [Contract(Metric).table([metric])]}, folder=folder)
    stage = IngestImages(WEB, policy=POLICY)
    kept, rejected = collect(stage.open(site(folder))(given))
    assert kept.num_rows + len(rejected) == len(inputs.table(Occurrence))
    return [reject.reason for reject in rejected]


def test_a_shard_far_under_the_sample_stops_the_run_and_is_forgotten(server: Hostile, tmp_path: Path) -> None:
    """All answer 404 where the sample promised 3 in 4; mended, the same folder is fetched anew."""
    few = listed(server, 1000, dead=1)
    with pytest.raises(StageError, match="the web has stopped answering: 0 of") as caught:
        ingest(few, 0.75, tmp_path)
    assert "http_404" in caught.value.evidence
    assert len(server.log) < 1000, "it went on to the end"
    server.on("status", lambda connection, rest: server._do_image(connection, rest.partition("/")[2]))
    assert ingest(few, 0.75, tmp_path) == []


def test_a_shard_somewhat_under_the_sample_goes_on(server: Hostile, tmp_path: Path) -> None:
    reasons = ingest(listed(server, 400, dead=2), 0.9, tmp_path)
    assert reasons == [Reason.HTTP_404] * 200


def test_without_a_sample_nothing_is_demanded(server: Hostile, tmp_path: Path) -> None:
    assert len(ingest(listed(server, 250, dead=1), 0.0, tmp_path)) == 250
