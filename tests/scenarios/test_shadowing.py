"""The command works from folders that hold packages of the same names as ours."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.scenarios.command import capfilt, table, write_recipe

TRAP = "raise ImportError('a folder of the user hides a package of capfilt')\n"


@pytest.mark.parametrize("packages", [True, False], ids=["packages", "plain folders"])
def test_the_command_works_beside_folders_of_the_same_names(
    recipe: dict[str, Any], tmp_path: Path, packages: bool
):
    for name in ("data_contracts", "models", "stages", "pipeline"):
        folder = tmp_path / name
        folder.mkdir()
        for module in (
            "open",
            "images",
            "cli",
            "worker",
            "stage",
            "records",
            *(("__init__",) if packages else ()),
        ):
            (folder / f"{module}.py").write_text(TRAP)
    write_recipe(tmp_path / "recipe.yaml", recipe, name="shadowed")
    capfilt("run", "recipe.yaml", "--until", "ingest", cwd=tmp_path)
    assert table(tmp_path / "runs" / "shadowed", "ingest").num_rows == 60
    rows = json.loads(capfilt("status", "runs/shadowed", "--json", cwd=tmp_path).out)
    assert next(row for row in rows if row["stage"] == "ingest")["state"] == "done"


def test_the_command_works_from_inside_a_run(head: Any, recipe: dict[str, Any], tmp_path: Path):
    """A run has a folder called models too."""
    path = write_recipe(tmp_path / "recipe.yaml", recipe, name="inside")
    run = tmp_path / "runs" / "inside"
    capfilt("run", path, "--until", "list_web", cwd=tmp_path, **head.env)
    (run / "models").mkdir(exist_ok=True)
    (run / "models" / "images.py").write_text(TRAP)
    capfilt("resume", ".", "--until", "ingest", cwd=run)
    assert table(run, "ingest").num_rows == 60
    assert "ingest" in capfilt("status", ".", cwd=run).out
