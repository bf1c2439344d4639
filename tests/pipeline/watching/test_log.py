import time
from pathlib import Path

import pytest

from capfilt.data_contracts.errors import StageError
from capfilt.pipeline.execution.events import Message
from capfilt.pipeline.ledger.ledger import Ledger
from capfilt.pipeline.watching import log
from tests.pipeline.conftest import World
from tests.pipeline.local import run
from tests.store import BUCKET, Store


def said(ledger: Ledger) -> list[str]:
    return [line["message"] for line in log.read(ledger)]


def test_a_run_that_fails_says_what_why_and_what_to_do(done: World) -> None:
    plan = done.plan(name="empty", select={"threshold": 1.0})
    with pytest.raises(StageError):
        run(plan, parent=done.ledger)
    last = list(log.read(Ledger(plan.recipe.run)))[-1]
    assert (last["level"], last["event"], last["error"]) == ("error", "run_ended", "StageError")
    assert last["message"] == "select kept nothing"
    assert "below_threshold" in last["evidence"]
    assert "lower the threshold" in last["remedy"]
    assert (last["run"], last["exit_code"]) == ("empty", 1)


@pytest.mark.parametrize("place", ["folder", "bucket"])
def test_lines_of_two_runners_come_in_the_order_of_their_times(
    place: str, tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "FULL", 1000)
    monkeypatch.setattr(log, "EVERY", 0.01)
    ledger = Ledger(tmp_path if place == "folder" else f"s3://{BUCKET}/logs")
    one, other = log.RunLog(ledger), log.RunLog(ledger)
    with one, other:
        for number in range(60):
            (one, other)[number % 2].hear(Message(str(number), time=1e9 + number))
            time.sleep(0.001)
    assert said(ledger) == [str(number) for number in range(60)]
    sizes = [size for _, size in ledger.storage.entries(log.FOLDER)]
    assert len(sizes) > 4
    assert max(sizes) < 1500


def test_a_storage_that_fails_for_a_while_costs_no_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "EVERY", 0.01)
    in_the_way = tmp_path / log.FOLDER
    in_the_way.write_text("a file where the folder has to be")
    runner = log.RunLog(Ledger(tmp_path))
    with runner:
        runner.hear(Message("one"))
        time.sleep(0.2)
        in_the_way.unlink()
        runner.hear(Message("two"))
    assert said(Ledger(tmp_path)) == ["one", "two"]
