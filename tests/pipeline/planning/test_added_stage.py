"""A stage that a user adds as the README says has a name that `placement` and `--until` accept."""

import re
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from capfilt.data_contracts.errors import RecipeError
from capfilt.pipeline.planning import build
from tests.pipeline.conftest import World
from tests.pipeline.local import run
from tests.pipeline.planning.recipes import ROOT

README = (ROOT / "README.md").read_text("utf-8").partition("## Adding a stage")[2]
IMPORTS = """
from collections.abc import Iterator
from dataclasses import dataclass
from capfilt.data_contracts.contract import Contract
from capfilt.data_contracts.records import IngestedImage, Record
from capfilt.stages.stage import Rows, ShardInput, ShardStage, Site, Transform

class TextLength(Record):
    row_id: str
    words: int
"""


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch) -> str:
    """The stage of the README, in the graph where it says; its name there."""
    code = re.search(r"```python\n(.*?)```", README, re.DOTALL)
    line = re.search(r'`(plan\.add\("(\w+)", .+?\))`', README)
    assert code
    assert line
    names: dict[str, Any] = {"__name__": "readme"}
    exec(IMPORTS + code[1], names)
    builds = build._Builder.build

    def with_it(self: Any) -> None:
        builds(self)
        exec(line[1], {**names, "plan": self.plan})

    monkeypatch.setattr(build._Builder, "build", with_it)
    return line[2]


def test_it_runs_where_it_is_placed_and_a_run_may_stop_after_it(world: World, added: str) -> None:
    plan = world.plan(placement={added: {"batch": 3}})
    ledger = run(plan, until=added)
    parts = [*Path(ledger.url, added).glob("part-*.parquet")]
    words = [row["words"] for part in parts for row in pq.read_table(part).to_pylist()]
    assert words
    assert set(words) == {4}  # such as "3 thing of web"


def test_a_name_that_is_not_in_the_plan(world: World, added: str) -> None:
    with pytest.raises(RecipeError, match=r"placement\.text_lenght") as caught:
        world.plan(placement={"text_lenght": {}})
    assert f"did you mean {added!r}?" in str(caught.value)
    with pytest.raises(RecipeError, match="--until capton: the plan has no such stage"):
        world.plan().demand("capton", "--until capton")
