"""The code of docs/python.md, run from its first line to its last."""

import re
from pathlib import Path

import pytest
import yaml

import capfilt
from tests.pipeline.conftest import World
from tests.pipeline.local_pool import LocalCluster

PAGE = (Path(__file__).parents[3] / "docs" / "python.md").read_text()


def test_the_code_of_the_page_runs(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("capfilt.pipeline.cluster.connection.Cluster", lambda *_: LocalCluster())
    monkeypatch.chdir(world.folder)
    (world.folder / "recipe.yaml").write_text(yaml.safe_dump(world.plan().recipe.plain()))
    names: dict[str, object] = {"__name__": "page"}
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(compile(block, "docs/python.md", "exec"), names)
    said = capsys.readouterr().out
    assert "run_ended done" in said
    assert "--fork NEWNAME" in said
    assert names["damaged"] == []
    assert names["found"]


def test_the_page_names_what_there_is() -> None:
    named = set(re.findall(r"capfilt\.(\w+)", re.sub(r"\]\(.*?\)|import capfilt", "", PAGE)))
    assert named <= set(capfilt.__all__)
