"""kill -9 in the middle of fetching: of the process that fetches, of its worker, of the driver; then resume."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from capfilt.pipeline.ledger.ledger import Ledger
from tests.hostile import Hostile, answer
from tests.pipeline.web import LOOPBACK, write_list
from tests.scenarios.command import (
    capfilt,
    descendants,
    difference,
    here,
    started,
    wait_until,
    write_recipe,
)
from tests.stages.rows import png

pytestmark = pytest.mark.thorough

PICTURES = 240
STAGES = ("list_web", "ingest")


@pytest.fixture
def server() -> Iterator[Hostile]:
    """Images that take their time: a shard of 120 by 4 threads is about 6 seconds of fetching."""
    with Hostile() as server:

        def slow(connection: Any, rest: str) -> None:
            server._wait(0.2)
            answer(connection, 200, png(int(rest)))

        server.on("slow", slow)
        yield server


def write(folder: Path, recipe: dict[str, Any], server: Hostile, name: str) -> Path:
    urls = {server.url(f"slow/{number}"): f"{number} things" for number in range(PICTURES)}
    urls |= {server.url(f"status/404/{number}"): "gone" for number in range(10)}
    web = {"format": "urls", "path": str(write_list(folder / "urls.csv", urls))}
    fetch = {"allow_private": LOOPBACK, "threads": 4, "per_host": 4, "retries": 0, "preflight": 0}
    return write_recipe(
        folder / f"{name}.yaml", recipe, name=name, web=web, fetch=fetch, shards={"rows": 125}
    )


def asked(server: Hostile) -> int:
    return sum(entry.path.startswith("/slow/") for entry in server.log)


@pytest.mark.ci
def test_what_was_fetched_before_a_kill_is_not_fetched_again(
    recipe: dict[str, Any], server: Hostile, tmp_path: Path
):
    capfilt("run", write(tmp_path, recipe, server, "clean"), "--until", "ingest")
    clean = tmp_path / "runs/clean"
    assert asked(server) == PICTURES
    server.log.clear()

    path = write(tmp_path, recipe, server, "killed")
    with started("run", path, "--until", "ingest") as process:
        for what, least in (("capfilt.stages.ingest.fetch.child", 20), ("ray::Worker", 60)):
            wait_until(lambda least=least: asked(server) >= least, f"{least} images")
            victims = [pid for pid, line in descendants(process.pid).items() if what in line]
            assert victims, what
            for pid in victims:
                os.kill(pid, signal.SIGKILL)
        wait_until(lambda: asked(server) >= 110, "110 images")
        assert process.poll() is None
        os.kill(process.pid, signal.SIGKILL)
    before = asked(server)
    assert before < PICTURES
    capfilt("resume", tmp_path / "runs/killed", "--until", "ingest")
    assert difference(tmp_path / "runs/killed", clean, STAGES) == ""
    # in hand at each of the three deaths: four of each of two workers
    assert PICTURES <= asked(server) <= PICTURES + 3 * 2 * 4
    assert "are whole" in here("verify", tmp_path / "runs/killed").said
    totals = Ledger(tmp_path / "runs/killed").totals("ingest")
    assert totals is not None
    assert (totals.kept, totals.rejected) == (PICTURES, {"http_404": 10})
