"""A small recipe, with some of it changed."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from capfilt.data_contracts.errors import RecipeError
from capfilt.pipeline.planning.load import parse

ROOT = Path(__file__).parents[3]
RECIPES = [*sorted((ROOT / "examples").glob("*.yaml")), ROOT / "pipeline/demo/recipe.yaml"]


def minimal(**changes: Any) -> dict[str, Any]:
    values = {
        "name": "mine",
        "output": "runs",
        "web": {"format": "folder", "path": "crawl"},
        "models": {"filter": {"checkpoint": "org/filter"}, "captioner": {"checkpoint": "org/captioner"}},
    }
    return {**values, **changes}


def write(path: Path, values: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(values))
    return path


def refused(values: dict[str, Any]) -> str:
    with pytest.raises(RecipeError) as caught:
        parse(values)
    return str(caught.value)
