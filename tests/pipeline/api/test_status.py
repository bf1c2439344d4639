"""How a run stands, from its storage alone."""

import pytest

from capfilt.data_contracts.errors import SourceError, StageError
from capfilt.pipeline.api import status
from capfilt.pipeline.ledger.lease import Lease
from capfilt.pipeline.ledger.ledger import Ledger
from tests.pipeline.conftest import World
from tests.pipeline.local import run


def test_a_finished_run_is_followed_to_its_end_at_once(finished: Ledger) -> None:
    (now,) = status.follow(finished)
    assert now.complete
    assert now.holder is None
    assert now.submission is None
    assert now.ended
    assert now.ending.startswith("its last runner ended at ")
    assert now.ending.endswith("done")


def test_a_run_that_was_to_go_so_far_is_followed_no_further(world: World) -> None:
    ledger = run(world.plan(), until="ingest")
    (now,) = status.follow(ledger)
    assert not now.complete
    assert {view.name: view.complete for view in now.stages}["ingest"]


def test_who_is_at_work_is_told(world: World) -> None:
    ledger = run(world.plan(), until="list_web")
    with Lease(ledger.storage):
        now = status.status(ledger)
    assert now.holder
    assert now.last is None
    assert now.ending == ""


def test_following_ends_when_nobody_is_at_work_any_more(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status.lease, "STALE", 0.0)
    monkeypatch.setattr(status, "EVERY", 0.0)
    ledger = run(world.plan(), until="list_web")
    for name in sorted(path for path in (world.folder / "run" / "_log").iterdir()):
        lines = name.read_text().splitlines()
        name.write_text("\n".join(line for line in lines if '"run_ended"' not in line) + "\n")
    with pytest.raises(StageError, match="nobody is at work") as caught:
        list(status.follow(ledger, "the run"))
    assert "its last runner was killed" in caught.value.evidence
    assert "capfilt resume the run" in caught.value.remedy


def test_what_is_no_run_is_refused(world: World) -> None:
    with pytest.raises(SourceError, match="is not a run"):
        status.status(Ledger(world.folder / "nothing"))
