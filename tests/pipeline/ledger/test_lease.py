"""Who is running: judged by a counter that moves, never by another machine's clock."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from capfilt.data_contracts.errors import BusyError
from capfilt.pipeline.ledger import lease
from capfilt.pipeline.ledger.lease import Doing, Holder, Lease
from capfilt.pipeline.storage import Folder

FAST = {"beat": 0.05, "stale": 0.6}


@pytest.fixture
def run(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def other(run: Folder, **changes: object) -> Holder:
    """The lease of somebody on another machine."""
    holder = Holder(
        id="other", host="elsewhere", machine="another", pid=1, command="capfilt run", since="then"
    )
    holder = holder.model_copy(update=changes)
    run.replace(lease.NAME, holder.model_dump_json().encode())
    return holder


def test_it_is_there_while_a_run_runs_and_says_what_runs(run: Folder) -> None:
    with Lease(run, **FAST) as held:
        held.tell(lambda: [Doing(label="caption-0000001", pid=7, done=2, total=9)])
        time.sleep(0.3)
        holder = lease.read(run)
        assert holder is not None
        assert (holder.pid, holder.beat > 1, holder.gone) == (os.getpid(), True, False)
        assert [task.label for task in holder.running] == ["caption-0000001"]
        held.check()
    assert lease.read(run) is None


def test_a_second_runner_is_refused_while_the_first_is_alive(run: Folder) -> None:
    with Lease(run, **FAST):
        with pytest.raises(BusyError, match=f"process {os.getpid()}") as caught, Lease(run, **FAST):
            pass
        assert "--join" in caught.value.remedy
        assert lease.read(run) is not None


def test_who_joins_leaves_the_lease_to_its_holder(run: Folder) -> None:
    with Lease(run, **FAST):
        before = lease.read(run)
        with Lease(run, join=True, **FAST) as joined:
            time.sleep(0.2)
            joined.check()
        after = lease.read(run)
    assert before is not None
    assert after is not None
    assert before.id == after.id


def test_a_lease_that_does_not_move_is_taken_over(run: Folder) -> None:
    other(run, beat=40)
    began = time.monotonic()
    with Lease(run, **FAST):
        assert time.monotonic() - began >= FAST["stale"]
        holder = lease.read(run)
        assert holder is not None
        assert holder.id != "other"


def test_a_clock_that_is_wrong_by_years_changes_nothing(run: Folder) -> None:
    other(run, since="1999-01-01T00:00:00+00:00", said="2099-01-01T00:00:00+00:00")
    with Lease(run, **FAST):
        pass
    assert lease.read(run) is None


def test_a_process_of_this_machine_that_has_ended_is_not_waited_for(run: Folder) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    other(run, machine=lease._machine(), pid=ended.pid)
    began = time.monotonic()
    with Lease(run, beat=0.05, stale=60.0):
        assert time.monotonic() - began < 5


def test_a_runner_that_was_taken_for_dead_is_told(run: Folder) -> None:
    with Lease(run, **FAST) as sleeper:
        other(run, beat=1)
        time.sleep(0.3)
        with pytest.raises(BusyError, match="taken this run over: process 1 on elsewhere"):
            sleeper.check()
    holder = lease.read(run)
    assert holder is not None
    assert holder.id == "other"  # it is not ours to remove


def test_a_lease_that_was_cut_short_is_nobodys(run: Folder) -> None:
    run.replace(lease.NAME, b'{"id": "ot')
    with Lease(run, **FAST):
        assert lease.read(run) is not None
