"""A few of the failpoints with real workers on Ray: a shard stage, a global stage, a training."""

import re
import signal
from pathlib import Path
from typing import Any

import pytest

from capfilt.pipeline.ledger.ledger import Ledger
from tests.scenarios.command import STAGES, capfilt, difference, here, snapshot, write_recipe

pytestmark = pytest.mark.thorough


@pytest.fixture(scope="module")
def mended(
    recipe: dict[str, Any], finished: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any], str]:
    """A run that lost a worker as it closed a listing, its driver behind a listing, and in the resume a worker behind
    a commit; the parts that stood when the driver died, and what the resume said."""
    folder = tmp_path_factory.mktemp("mended")
    path = write_recipe(folder / "recipe.yaml", recipe, name="mended")
    run = folder / "runs" / "mended"
    at = f"totals.before:1@{folder}/1,ended.list_web@{folder}/2"
    capfilt("run", path, expect=-signal.SIGKILL, CAPFILT_FAILPOINT=at)
    before = snapshot(run)
    assert Ledger(run).totals("list_web") is not None, "its own worker has not closed the stage"
    said = capfilt("resume", run, CAPFILT_FAILPOINT=f"part.published:20@{folder}/3").out
    assert sorted(path.name for path in folder.iterdir() if path.name.isdigit()) == ["1", "2", "3"]
    return run, before, said


@pytest.mark.ci
def test_a_run_with_three_deaths_ends_as_one_without(mended: tuple[Path, Any, str], finished: Path) -> None:
    run, before, _ = mended
    assert difference(run, finished, STAGES) == ""
    assert before.items() <= snapshot(run).items()
    assert not [part for part in snapshot(run) if ".g1." in part]
    assert "are whole" in here("verify", run).said


@pytest.mark.ci
def test_the_listing_whose_worker_died_has_one_part_for_each_shard(
    mended: tuple[Path, Any, str], finished: Path
) -> None:
    run, _, _ = mended
    listings = [Ledger(where).index("list_web").parts() for where in (run, finished)]
    assert listings[0].keys() == listings[1].keys()
    assert {part.record.attempt for part in listings[0].values() if part.record} == {1}


@pytest.mark.ci
def test_a_global_stage_whose_driver_died_is_closed(mended: tuple[Path, Any, str]) -> None:
    _, before, said = mended
    assert [part for part in before if part.startswith("list_web/")]
    assert re.search(r"list_web +complete", said)


@pytest.mark.ci
def test_the_shard_whose_worker_died_behind_its_commit_did_not_run_again(
    mended: tuple[Path, Any, str],
) -> None:
    run, _, said = mended
    stages = re.findall(r"^ +(\w+) .*  1 committed by another attempt", said, re.MULTILINE)
    assert len(stages) == 1
    assert stages[0] in (*STAGES, "human")
    attempts = [part.record.attempt for part in Ledger(run).index(stages[0]).parts().values() if part.record]
    assert set(attempts) == {1}


def test_the_model_of_a_training_that_died_behind_its_publication_stands(
    recipe: dict[str, Any], blip_filter: Path, tmp_path: Path
) -> None:
    models = {
        "init": "tiny",
        "tokenizer": "wordpiece:300",
        "filter": {"checkpoint": str(blip_filter)},
        "captioner": {"steps": 5, "batch": 4},
    }
    path = write_recipe(tmp_path / "recipe.yaml", recipe, name="trained", models=models)
    run = tmp_path / "runs" / "trained"
    capfilt("run", path, "--until", "tokenizer")
    capfilt("resume", run, "--until", "captioner", CAPFILT_FAILPOINT=f"model.published:1@{tmp_path}/1")
    assert (tmp_path / "1").exists()
    record = Ledger(run).index("captioner").part("0000000").record
    assert record is not None
    assert record.attempt == 2
    assert record.facts["model"] == Ledger(run).model_digest("captioner")
    assert not list((run / "models" / "captioner").rglob("model/*")), (
        "the second model was put into the first"
    )
    assert "are whole" in here("verify", run).said
