"""docs/recipe.md and docs/recipe.schema.json say what the recipe's classes say."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from capfilt.data_contracts.errors import RecipeError
from capfilt.pipeline.planning import reference
from capfilt.pipeline.planning.load import parse
from capfilt.pipeline.planning.schema import Recipe
from tests.pipeline.planning.recipes import RECIPES, ROOT, minimal

LINE = "# yaml-language-server: $schema="


@pytest.fixture(scope="module")
def validator() -> Any:
    return jsonschema.Draft202012Validator(json.loads((ROOT / "docs/recipe.schema.json").read_text("utf-8")))


@pytest.mark.parametrize("name", ["recipe.md", "recipe.schema.json"])
def test_they_are_what_is_made_now(tmp_path: Path, name: str) -> None:
    reference.write(tmp_path)
    assert (tmp_path / name).read_text("utf-8") == (ROOT / "docs" / name).read_text("utf-8"), "make docs"


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_the_schema_accepts_every_shipped_recipe_also_as_a_run_has_it(path: Path, validator: Any) -> None:
    given = yaml.safe_load(path.read_text())
    assert [*validator.iter_errors(given)] == []
    assert [*validator.iter_errors(parse(given).plain())] == []


@pytest.mark.parametrize("path", RECIPES[:-1], ids=lambda path: path.name)
def test_every_example_names_it_in_its_first_line(path: Path) -> None:
    first = path.read_text().splitlines()[0]
    assert first.startswith(LINE)
    assert (path.parent / first.removeprefix(LINE)).resolve() == ROOT / "docs/recipe.schema.json"


@pytest.mark.parametrize(
    "change",
    [
        {"web": [{"path": "a"}, {"path": "b", "format": "urls"}]},
        {"decontaminate": "eval"},
        {"decontaminate": ["a", "b"]},
        {"shards": {"target": "256MB"}},
        {"shards": {"target": 1000}},
        {"select": {"threshold": {"keep_fraction": 0.3}, "rule": "best"}},
        {"select": {"threshold": 1}},
        {"images": {"placeholder": None}},
        {"placement": {"any name": {"gpus": 0.5, "resources": {"disk": 1}}}},
        {"models": {"rehearsal": True, "filter": {}, "captioner": {}}},
    ],
)
def test_the_schema_accepts_what_is_accepted(change: dict[str, Any], validator: Any) -> None:
    parse(minimal(**change))
    assert [*validator.iter_errors(minimal(**change))] == []


@pytest.mark.parametrize(
    "change",
    [
        {"modles": {}},
        {"seed": True},
        {"select": {"threshold": True}},
        {"select": {"rule": "all"}},
        {"caption": {"top_p": "0.9"}},
        {"models": {"warmup": {"words": True}, "filter": {}, "captioner": {}}},
        {"shards": {"rows": 0}},
        {"web": "crawl"},
    ],
)
def test_the_schema_refuses_what_is_refused(change: dict[str, Any], validator: Any) -> None:
    with pytest.raises(RecipeError):
        parse(minimal(**change))
    assert [*validator.iter_errors(minimal(**change))]


def test_every_key_is_described() -> None:
    """In the page, where a section without a description of its own has that of its class."""
    rows = [line.split(" | ") for line in reference.page().splitlines() if line.startswith("| `")]
    assert len(rows) > 100
    assert [row for row in rows if not row[-1].strip(" |")] == []
    assert {f"| `{key}`" for key in Recipe.model_fields} <= {row[0] for row in rows}


def test_links_lead_somewhere() -> None:
    page = reference.page()
    titles = {line.removeprefix("## ") for line in page.splitlines() if line.startswith("## ")}
    assert {"models.filter", "web, human", "placement.STAGE", "select.threshold"} <= titles
    anchors = {title.lower().replace(".", "").replace(",", "").replace(" ", "-") for title in titles}
    named = {link.partition(")")[0] for link in page.split("](#")[1:]}
    assert named <= anchors
