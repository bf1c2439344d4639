"""Rows that could not be fetched get a second chance in shards of their own; nothing else runs again."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from capfilt.data_contracts.errors import BusyError, UsageError
from capfilt.data_contracts.identity import row_id
from capfilt.data_contracts.rejects import Reason
from capfilt.pipeline.execution import retry
from capfilt.pipeline.execution.create_run import create_run
from capfilt.pipeline.ledger.lease import Lease
from capfilt.pipeline.ledger.ledger import Ledger
from capfilt.pipeline.reports.query import files, query
from capfilt.pipeline.reports.verify import verify
from tests.hostile import Hostile, answer
from tests.pipeline.local import run
from tests.pipeline.web import serve, web_plan
from tests.stages.rows import png

World = tuple[Hostile, dict[str, Path], Path]


@pytest.fixture
def world(tmp_path: Path, blip_filter: Path, blip_captioner: Path, _knowing_models: None) -> Iterator[World]:
    with Hostile() as server:
        serve(server)
        yield server, {"filter": blip_filter, "captioner": blip_captioner}, tmp_path


def texts_of(server: Hostile) -> dict[str, str]:
    """Eight images, of which two are out for the moment, and one that is gone for good."""
    served = {server.url(f"show/{number}"): f"{number} things" for number in range(1, 7)}
    out = {server.url(f"weak/{number}"): f"{number} things" for number in (7, 8)}
    return {**served, **out, server.url("status/404"): "9 things"}


def parts(ledger: Ledger) -> dict[str, str]:
    return {
        f"{stage}/{name}": digest
        for stage in ledger.record().fingerprints
        for name, digest in ledger.index(stage).held().values()
    }


def left(ledger: Ledger) -> dict[str, int]:
    totals = ledger.totals("ingest")
    assert totals is not None
    return {str(reason): count for reason, count in totals.rejected.items()}


def test_what_was_passing_trouble_is_fetched_again_and_nothing_else_runs(world: World) -> None:
    server, known, folder = world
    server.on("weak", lambda connection, rest: answer(connection, 503, b""))
    plan = web_plan(folder, texts_of(server), known)
    ledger = run(plan)
    assert left(ledger) == {"http_404": 1, "http_503": 2}
    before, asked = parts(ledger), len(server.log)

    server.on("weak", lambda connection, rest: answer(connection, 200, png(int(rest))))
    assert retry.again(plan, ledger, retry.PASSING) == {Reason.HTTP_503: 2}
    run(plan)
    after = parts(ledger)
    assert before.items() <= after.items()
    assert {name.partition("/")[2] for name in after.keys() - before.keys()} == {"part-r0010000000.parquet"}
    assert sorted(entry.path for entry in server.log[asked:]) == ["/weak/7", "/weak/8"]
    kept = query("SELECT row_id, url FROM files ORDER BY url", files(ledger, "ingest"))
    assert len(kept) == len({row["row_id"] for row in kept}) == 8
    pairs = query("SELECT pair_id, url FROM files", files(ledger, "export"))
    assert len(pairs) == len({row["pair_id"] for row in pairs})
    assert {server.url("weak/7"), server.url("weak/8")} <= {row["url"] for row in pairs}
    assert not [found for found in verify(ledger) if found[2]]

    assert not retry.again(plan, ledger, retry.PASSING)
    assert parts(ledger) == after


def test_the_last_word_on_a_row_counts(world: World) -> None:
    """503 in its first shard, 404 in its second: asked for by 503 it is not tried a third time, by 404 it is."""
    server, known, folder = world
    server.on("weak", lambda connection, rest: answer(connection, 503, b""))
    plan = web_plan(folder, texts_of(server), known)
    ledger = run(plan)
    server.on("weak", lambda connection, rest: answer(connection, 404, b""))
    retry.again(plan, ledger, [Reason.HTTP_503])
    run(plan)
    assert not retry.again(plan, ledger, [Reason.HTTP_503])
    assert retry.again(plan, ledger, [Reason.HTTP_404]) == {Reason.HTTP_404: 3}
    assert ledger.index("list_web").shards[-1] == "r0020000000"


def test_rows_that_wait_for_their_second_chance_are_not_given_a_third(world: World) -> None:
    """A command that died between the listing and the fetch."""
    server, known, folder = world
    server.on("weak", lambda connection, rest: answer(connection, 503, b""))
    plan = web_plan(folder, texts_of(server), known, shards={"rows": 1})
    ledger = run(plan)
    assert retry.again(plan, ledger, retry.PASSING) == {Reason.HTTP_503: 2}
    assert not retry.again(plan, ledger, retry.PASSING)
    assert [shard for shard in ledger.index("list_web").shards if shard[0] == "r"] == [
        "r0010000000",
        "r0010000001",
    ]
    server.on("weak", lambda connection, rest: answer(connection, 200, png(int(rest))))
    run(plan)
    assert len(query("SELECT row_id FROM files", files(ledger, "ingest"))) == 8


def test_a_fork_has_what_its_parent_fetched_again(world: World) -> None:
    server, known, folder = world
    server.on("weak", lambda connection, rest: answer(connection, 503, b""))
    plan = web_plan(folder, texts_of(server), known)
    parent = run(plan)
    strict = web_plan(folder, texts_of(server), known, name="strict", select={"threshold": 0.7})
    fork = run(strict, parent=parent)
    with pytest.raises(UsageError, match="a fork does not fetch") as caught:
        retry.again(strict, fork, retry.PASSING)
    assert parent.url in caught.value.remedy
    server.on("weak", lambda connection, rest: answer(connection, 200, png(int(rest))))
    retry.again(plan, parent, retry.PASSING)
    run(plan)
    run(strict)
    urls = query("SELECT DISTINCT url FROM files", files(fork, "export"))
    assert server.url("weak/8") in {row["url"] for row in urls}


def test_not_beside_a_runner(world: World) -> None:
    server, known, folder = world
    plan = web_plan(folder, texts_of(server), known)
    ledger = Ledger(plan.recipe.run)
    create_run(plan, ledger, None)
    with Lease(ledger.storage, beat=0.05), pytest.raises(BusyError):
        retry.again(plan, ledger, retry.PASSING)


def test_a_row_knows_its_url(world: World) -> None:
    server, known, folder = world
    ledger = run(web_plan(folder, texts_of(server), known), until="ingest")
    rows = query("SELECT row_id, url, texts FROM files WHERE url LIKE '%show/3'", files(ledger, "ingest"))
    assert rows == [
        {"row_id": row_id("web", server.url("show/3")), "url": server.url("show/3"), "texts": ["3 things"]}
    ]
