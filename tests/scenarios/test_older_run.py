"""A run that an older capfilt made is refused by every command that reads it, and left as it is."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.scenarios.command import here, write_recipe

OLD = {
    "name": "old",
    "recipe": {},
    "stages": {"check": {}, "holdout": {}},
    "fingerprints": {"check": "a", "holdout": "b", "score": "c"},
    "parent": None,
    "versions": {"capfilt": "0.1.0"},
    "created": "2026-11-29T10:00:00+00:00",
    "command": [],
}


@pytest.fixture
def old(tmp_path: Path) -> Path:
    run = tmp_path / "runs" / "old"
    run.mkdir(parents=True)
    (run / "run.json").write_text(json.dumps(OLD))
    return run


@pytest.mark.parametrize(
    "command",
    [
        *(("status",), ("inspect",), ("inspect", "score"), ("explain", "0"), ("verify",), ("report",)),
        *(("report-card",), ("resume",), ("retry-failed",)),
    ],
    ids=" ".join,
)
def test_a_command_that_reads_it_says_so(old: Path, command: tuple[str, ...]):
    name, *more = command
    ended = here(name, old, *more, expect=2)
    assert "was made by another version of capfilt" in ended.err
    assert [path.name for path in old.iterdir()] == ["run.json"]


def test_its_recipe_is_not_run_or_forked_over_it(old: Path, recipe: dict[str, Any], tmp_path: Path):
    path = write_recipe(tmp_path / "recipe.yaml", recipe, name="old")
    for command in (("run", path), ("plan", path), ("run", path, "--fork", "new")):
        assert "was made by another version of capfilt" in here(*command, expect=2).said
    assert [run.name for run in old.parent.iterdir()] == ["old"]
    assert [path.name for path in old.iterdir()] == ["run.json"]
