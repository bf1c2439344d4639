"""Two runners of one run at once: refused, joined, and one that was frozen and wakes up."""

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from capfilt.pipeline.ledger import lease
from capfilt.pipeline.ledger.ledger import Ledger
from capfilt.pipeline.storage import Folder
from tests.scenarios.command import (
    SLOW,
    STAGES,
    capfilt,
    difference,
    here,
    snapshot,
    started,
    wait_until,
    write_recipe,
)

pytestmark = pytest.mark.thorough


def in_the_middle(process: subprocess.Popen[str], run: Path) -> None:
    """Wait until some captions are committed and others are not."""
    wait_until(lambda: list((run / "caption").glob("part-*")) or process.poll() is not None, "captions")
    assert process.poll() is None


@pytest.mark.ci
def test_a_second_runner_is_refused_and_a_third_may_join(
    recipe: dict[str, Any], finished: Path, tmp_path: Path
):
    path = write_recipe(tmp_path / "recipe.yaml", recipe, name="shared", placement=SLOW)
    run = tmp_path / "runs" / "shared"
    with started("run", path) as first:
        wait_until(lambda: lease.read(Folder(run)), "the first one's lease")
        refused = capfilt("run", path, expect=1)
        assert f"the run is being worked on: process {first.pid}" in refused.said
        assert "Traceback" not in refused.err
        in_the_middle(first, run)
        capfilt("run", path, "--join")
        out, err = first.communicate(timeout=240)
        assert first.returncode == 0, out + err
    assert difference(run, finished, STAGES) == ""
    assert "are whole" in here("verify", run).said
    for stage in STAGES:
        totals, other = Ledger(run).totals(stage), Ledger(finished).totals(stage)
        assert totals is not None
        assert other is not None
        assert (totals.shards, totals.kept, totals.rejected) == (other.shards, other.kept, other.rejected)
    assert lease.read(Folder(run)) is None


def test_a_frozen_runner_that_wakes_up_changes_nothing(
    recipe: dict[str, Any], finished: Path, tmp_path: Path
):
    path = write_recipe(tmp_path / "recipe.yaml", recipe, name="frozen", placement=SLOW)
    run = tmp_path / "runs" / "frozen"
    with started("run", path) as frozen:
        in_the_middle(frozen, run)
        os.kill(frozen.pid, signal.SIGSTOP)
        capfilt("resume", run)
        assert difference(run, finished, STAGES) == ""
        before = snapshot(run)
        os.kill(frozen.pid, signal.SIGCONT)
        out, err = frozen.communicate(timeout=120)
    assert frozen.returncode == 0, out + err  # the other has ended, and there was nothing left to do
    assert "committed by another attempt" in out
    assert snapshot(run) == before
    assert "are whole" in here("verify", run).said
