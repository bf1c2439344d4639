"""The same job on many machines, which come and go: raylets, killed as a machine that loses its power."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from capfilt.pipeline.ledger.ledger import Ledger
from tests.scenarios.cluster import end, started_head
from tests.scenarios.command import (
    SLOW,
    STAGES,
    busy,
    capfilt,
    descendants,
    difference,
    here,
    snapshot,
    started,
    wait_until,
    write_recipe,
)


@pytest.mark.thorough
@pytest.mark.timeout(600)
@pytest.mark.ci
def test_a_machine_is_lost_and_another_one_comes(recipe: dict[str, Any], finished: Path, tmp_path: Path):
    path = write_recipe(tmp_path / "recipe.yaml", recipe, name="nodes", placement=SLOW)
    run = tmp_path / "runs" / "nodes"
    with ExitStack() as stack:
        head = stack.enter_context(started_head(cpus=0))
        nodes = [stack.enter_context(head.node()) for _ in range(3)]
        process = stack.enter_context(started("run", path, **head.env))

        def lost() -> int | None:
            """The node that has a captioning worker."""
            pids = busy(run, "caption")
            return next((n for n, node in enumerate(nodes) if pids & descendants(node.pid).keys()), None)

        number = wait_until(lambda: (at := lost()) is not None and (at + 1), "a node that captions", 200) - 1
        end(nodes[number])
        seen = snapshot(run)
        stack.enter_context(head.node())
        out, err = process.communicate(timeout=400)
        assert process.returncode == 0, out + err
    assert seen.items() <= snapshot(run).items()
    assert difference(run, finished, STAGES) == ""
    # The loss of a machine is nobody's fault: no shard lost an attempt, no row was blamed.
    attempts = [part.record.attempt for stage in STAGES for part in Ledger(run).index(stage).parts().values()]
    assert set(attempts) == {1}


@pytest.mark.thorough
@pytest.mark.timeout(600)
def test_the_head_is_lost_and_the_run_ends_on_another_cluster(
    recipe: dict[str, Any], finished: Path, tmp_path: Path
):
    path = write_recipe(tmp_path / "recipe.yaml", recipe, name="headless", placement=SLOW)
    run = tmp_path / "runs" / "headless"
    with started_head(cpus=2) as head, started("run", path, **head.env) as process:
        wait_until(lambda: list((run / "caption").glob("part-*")), "captions", 200)
        end(head.process)
        process.communicate(timeout=240)  # it ends by itself: it does not wait for a head that is gone
        assert process.returncode != 0
    seen = snapshot(run)
    assert seen
    with started_head(cpus=2) as other:
        capfilt("resume", run, **other.env)
    assert seen.items() <= snapshot(run).items()
    assert difference(run, finished, STAGES) == ""
    assert "are whole" in here("verify", run).said
